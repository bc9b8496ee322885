"""The scikit-learn face of Box-NN."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from boxnn_numba.certificates import certified_accuracy
from boxnn_numba.errors import InputError
from boxnn_numba.model import BoxNN, fit
from boxnn_numba.training import validation_split

_MOST_BOXES = 2500


class BoxNNClassifier(ClassifierMixin, BaseEstimator):
    """Box-NN as a scikit-learn classifier.

    Parameters
    ----------
    preset
        ``"graded"``, ``"target"`` (needs `radius`) or ``"paper"``.
    boxes
        Number of boxes; by default as many as the smallest class allows, at most 2,500.
    epochs
        Passes over the training data.
    radius
        Radius that preset ``"target"`` aims at.
    options
        Other fields of `boxnn_numba.options.TrainingOptions`, as a dict.
    validation
        Fraction of the training data kept apart to select the best epoch.
    random_state
        Seed, a RandomState, or None for a random seed.
    device
        As for `get_backend`: ``"cpu"``, ``"cuda"`` or ``"auto"``. Where it is fitted.

    Attributes
    ----------
    classes_ : (K,) ndarray
        Class labels.
    model_ : BoxNN
        The trained model.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from boxnn_numba import BoxNNClassifier
    >>> x, y = load_iris(return_X_y=True)
    >>> classifier = BoxNNClassifier(epochs=4).fit(x, y)
    >>> bool(classifier.score(x, y) > 0.9)
    True
    """

    def __init__(
        self,
        preset: str = "graded",
        boxes: int | None = None,
        epochs: int = 8,
        radius: int | None = None,
        options: dict[str, Any] | None = None,
        validation: float = 0.1,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.preset = preset
        self.boxes = boxes
        self.epochs = epochs
        self.radius = radius
        self.options = options
        self.validation = validation
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> BoxNNClassifier:
        """Train on (n_samples, n_features) numbers and (n_samples,) labels.

        Raises
        ------
        ValueError
            The data are not finite, do not fit, or hold one class only.
        """
        X, y = validate_data(self, X, y, dtype=[np.uint8, np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("y holds one class; a classifier needs at least two")
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = int(check_random_state(seed).randint(2**31))
        boxes = self.boxes
        if boxes is None:
            rows, _ = validation_split(index, self.validation, seed)
            smallest = int(np.bincount(index[rows]).min())
            boxes = min(_MOST_BOXES, smallest * len(self.classes_))
        self.model_: BoxNN = fit(
            X,
            index,
            preset=self.preset,
            device=self.device,
            boxes=boxes,
            epochs=self.epochs,
            radius=self.radius,
            validation=self.validation,
            seed=int(seed),
            **(self.options or {}),
        )
        return self

    def _samples(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        kinds = [np.uint8] if self.model_.grid is None else [np.float64, np.float32]
        checked: np.ndarray = validate_data(self, X, reset=False, dtype=kinds)
        return checked

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the (n_samples,) predicted labels."""
        samples = self._samples(X)
        return np.asarray(self.classes_[self.model_.predict(samples)])

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return minus the class distances, in features.

        Returns
        -------
        ndarray
            (n_samples, n_classes); for two classes (n_samples,), the distance to the first class
            minus that to the second.
        """
        samples = self._samples(X)
        scores = -self.model_.class_distance(samples) / self.model_.boxes.width
        if scores.shape[1] == 2:
            return np.asarray(scores[:, 1] - scores[:, 0])
        return np.asarray(scores)

    def certify(self, X: ArrayLike) -> np.ndarray:
        """Return the (n_samples,) certified radii: features that may change arbitrarily."""
        samples = self._samples(X)
        return self.model_.certify(samples).radius

    def certified_score(self, X: ArrayLike, y: ArrayLike, radius: int) -> float:
        """Return the fraction of samples that are right and certified at `radius`.

        Raises
        ------
        OptionError
            `radius` is negative.
        """
        samples = self._samples(X)
        prediction, radii = self.model_.certify(samples)
        outcome = self.classes_[prediction], radii, np.asarray(y)
        return float(certified_accuracy(*outcome, [radius])[0])
