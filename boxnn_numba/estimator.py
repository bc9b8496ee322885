"""The scikit-learn face of Box-NN."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import (
    check_is_fitted,
    check_random_state,
    column_or_1d,
    validate_data,
)

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates.margin import certified_accuracy
from boxnn_numba.distances import class_distance
from boxnn_numba.errors import DivergenceError, InputError, OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.model import BoxNN
from boxnn_numba.rivals import group_count
from boxnn_numba.training.augmentation import augmentation
from boxnn_numba.training.fit import trained_model
from boxnn_numba.training.initial_boxes import Seeds, even_shares, grown
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions, resolve
from boxnn_numba.training.run import Training
from boxnn_numba.training.selection import validation_split

_MOST_BOXES = 2500
# uint8 data that span less of 0..255 are numbers like any other, and not brightness.
_CODES_SPAN = 128


class BoxNNClassifier(ClassifierMixin, BaseEstimator):
    """Box-NN as a scikit-learn classifier: predictions with a certified radius in columns.

    Parameters
    ----------
    preset
        ``"graded"``, ``"target"`` (needs `radius`) or ``"paper"``.
    boxes
        Most boxes, split evenly over the classes; 2,500 by default. A class with fewer samples
        gets a box for each.
    epochs
        Passes of `fit` over the training data.
    radius
        Radius that preset ``"target"`` aims at.
    options
        Other fields of `boxnn_numba.training.options.TrainingOptions`, as a dict. Without
        ``alpha`` the initial boxes are as large as the room between the classes allows, at most
        0.1.
    validation
        Fraction of the training data kept apart to select the best epoch; by default none, and
        the last epoch counts.
    random_state
        Seed, a RandomState, or None for a random seed.
    device
        As for `get_backend`: ``"cpu"``, ``"cuda"`` or ``"auto"``. Where it is fitted.

    Attributes
    ----------
    classes_ : (K,) ndarray
        Class labels.
    model_ : BoxNN
        The trained model, which `boxnn_numba.save_model` takes.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : (n,) ndarray of str
        Names of the features, where `fit` saw a data frame.

    Notes
    -----
    Features are numbers of any type; each is binned by quantiles of the training data (`Grid`), so
    nothing needs to be scaled. One exception: an uint8 array that spans at least half of 0..255 is
    taken as codes, as images are. A classifier fitted on codes predicts any type of
    whole numbers 0..255, and raises for others; one fitted on other numbers takes any.

    The certified radius counts columns that the classifier sees. In a Pipeline it counts raw
    columns if the steps before map each column on its own (scaling, imputing), and not if they mix
    them (PCA).

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import train_test_split
    >>> from boxnn_numba import BoxNNClassifier
    >>> x, y = load_breast_cancer(return_X_y=True)
    >>> x, x_test, y, y_test = train_test_split(x, y, stratify=y, random_state=0)
    >>> classifier = BoxNNClassifier().fit(x, y)
    >>> classifier.score(x_test, y_test) > 0.9, int(np.median(classifier.certify(x_test))) >= 4
    (True, True)
    """

    def __init__(
        self,
        preset: str = "graded",
        boxes: int | None = None,
        epochs: int = 8,
        radius: int | None = None,
        options: dict[str, Any] | None = None,
        validation: float = 0.0,
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

    # --- training -----------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: ArrayLike) -> BoxNNClassifier:
        """Train on (n_samples, n_features) numbers and (n_samples,) labels.

        Parameters
        ----------
        X
            Finite numbers, an array or a pandas or polars frame.
        y
            Integers, strings or booleans.

        Raises
        ------
        ValueError
            The data are not finite, do not fit, or hold one class only; an option is out of range.

        Warns
        -----
        ConvergenceWarning
            Training diverged; the boxes of the last good epoch are kept.
        """
        samples, labels = self._checked(X, y, reset=True)
        classes, index = np.unique(labels, return_inverse=True)
        self._begin(classes, samples.shape[1])
        rows, held_out = validation_split(index, self._settings.validation, self._settings.seed)
        grid = _grid_for(samples[rows])
        codes = _codes(samples, grid)
        held = codes[held_out], index[held_out]
        self._train(codes[rows], index[rows], held, grid)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> BoxNNClassifier:
        """Go on from the present boxes: one pass over new data.

        Samples that the present boxes get wrong become the centres of new ones, up to `boxes`. The
        first call fixes classes, features, and how these are binned, so its data should be
        representative; after `fit`, all that is known already. The same calls in the same order
        give the same classifier. An optimiser's moments are not carried over.

        Parameters
        ----------
        X, y
            As for `fit`; a batch may hold any of the classes.
        classes
            All labels that will occur; needed in the first call unless `fit` came before.

        Raises
        ------
        ValueError
            As for `fit`, `classes` is missing or changes, or a label is not among them.

        Warns
        -----
        ConvergenceWarning
            Training diverged; the boxes of before are kept, and new ones where they were put.
        """
        first = not hasattr(self, "model_")
        samples, labels = self._checked(X, y, reset=first)
        if first:
            self.__dict__.pop("classes_", None)  # of a call that failed
        if _check_partial_fit_first_call(self, classes):
            self._begin(self.classes_, samples.shape[1])
        if self._settings.parts != "1":
            raise OptionError("boxes with `parts` are trained at once; use fit, or `parts` 1")
        grid = _grid_for(samples) if first else self.model_.grid
        codes, index = _codes(samples, grid), self._class_index(labels)
        self._train(codes, index, (codes[:0], index[:0]), grid, self._calls + 1)
        return self

    def _checked(self, X: ArrayLike, y: ArrayLike, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        samples, labels = validate_data(self, X, y, dtype="numeric", reset=reset)
        if labels.dtype == object and len({isinstance(item, str) for item in labels}) > 1:
            raise InputError("y mixes strings and other labels; convert them to one type")
        check_classification_targets(labels)
        return samples, labels

    def _class_index(self, y: np.ndarray) -> np.ndarray:
        """Return the class indices of labels."""
        known = {label: index for index, label in enumerate(self.classes_.tolist())}
        found, inverse = np.unique(y, return_inverse=True)
        for label in found.tolist():
            if label not in known:
                raise InputError(f"y holds {label!r}; pass all classes in the first call")
        return np.array([known[label] for label in found.tolist()])[inverse]

    def _begin(self, classes: np.ndarray, n_features: int) -> None:
        """Fix the classes and options of a new classifier that has no boxes yet."""
        self.__dict__.pop("model_", None)
        if len(classes) < 2:
            raise InputError(
                f"y holds one class, {classes.tolist()}; a classifier needs two or more"
            )
        names = validation.labels("y", classes, len(classes)).tolist()
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        own = {
            "boxes": max(_MOST_BOXES, len(classes)) if self.boxes is None else self.boxes,
            "epochs": self.epochs,
            "radius": self.radius,
            "validation": self.validation,
            "seed": seed,
        }
        given = {} if self.options is None else self.options
        if not isinstance(given, Mapping) or not own.keys().isdisjoint(given):
            raise OptionError(
                f"options are {given!r}; pass a dict without {', '.join(own)}, which are "
                "parameters of their own (seed is random_state)"
            )
        self._settings: TrainingOptions = resolve(self.preset, {**given, **own})
        validation.groups(max(1, self._settings.group_size), (n_features,))
        augmentation((n_features,), None, self._settings, 1)  # refused: columns are no images
        self._shares = even_shares(self._settings.boxes, len(classes))
        self._seeds = Seeds.none(n_features)
        self._calls = 0
        self.classes_, self._names = classes, names

    def _train(
        self,
        codes: np.ndarray,
        index: np.ndarray,
        held_out: tuple[np.ndarray, np.ndarray],
        grid: Grid | None,
        call: int = 0,
    ) -> None:
        """Add boxes to the present ones, train all, and keep them; call 0 is that of `fit`."""
        seeds: Seeds | None = self._grown(codes, index, call)
        if self._settings.initialisation == "random" and not len(self._seeds.labels):
            seeds = None
        settings = replace(
            self._settings,
            boxes=len(seeds.labels) if seeds else self._settings.boxes,
            epochs=1 if call else self._settings.epochs,
            seed=self._settings.seed + call,
        )
        feed = Feed.from_arrays(codes, index, held_out, settings.seed)
        backend = get_backend(self.device)
        run = Training(settings, feed, len(self.classes_), backend, start=seeds)
        if len(np.unique(run.labels)) > 1:  # without a rival there is nothing to learn yet
            _run_epochs(run)
            # Later calls go on with the clip that was chosen for the first boxes.
            self._settings = replace(self._settings, beta=run.options.beta)
        history = {"preset": self.preset, "partial_fit_calls": call}
        self.model_: BoxNN = trained_model(run, self._names, grid, codes.shape[1:], history)
        # The exact bounds, where they are those of the best epoch: small steps add up over calls.
        state = run.trainer.state()
        exact = run.best_epoch == run.epoch
        lower, upper = (state["master_lower"], state["master_upper"]) if exact else run.best
        self._seeds = Seeds((lower.astype(np.float32), upper.astype(np.float32)), run.labels)
        self._calls = call

    def _grown(self, codes: np.ndarray, index: np.ndarray, call: int) -> Seeds:
        """Return the present boxes and those that samples of these codes call for."""
        wrong = np.ones(len(index), bool)
        if len(self._seeds.labels):
            distance = class_distance(codes, self.model_.boxes) + self.model_.offset
            wrong = distance.argmin(axis=1) != index
        half, seed = 255 * self._settings.alpha, self._settings.seed + call
        fits = (self.options or {}).get("alpha") is None
        return grown(self._seeds, codes, index, wrong, self._shares, half, fits, seed)

    # --- what it says -------------------------------------------------------------------

    def _distance(self, X: ArrayLike) -> np.ndarray:
        """Return the (N, K) int32 class distances of samples, in units."""
        check_is_fitted(self, "model_")
        samples = validate_data(self, X, reset=False, dtype="numeric")
        return self.model_.class_distance(samples)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the (n_samples,) predicted labels."""
        index = self._distance(X).argmin(axis=1)
        return np.asarray(self.classes_[index])

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return minus the class distances, in features.

        Returns
        -------
        ndarray
            (n_samples, n_classes); for two classes (n_samples,), the distance to the first class
            minus that to the second, which is positive where the second is predicted.
        """
        scores = -self._distance(X) / self.model_.boxes.width
        return np.asarray(scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores)

    def certify(self, X: ArrayLike) -> np.ndarray:
        """Return the (n_samples,) certified radii: columns that may change arbitrarily."""
        return self._certificate(X)[1]

    def _certificate(self, X: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return class indices and radii."""
        distance = self._distance(X)
        index, radius = self.model_.radii(distance)
        # Where no rival has a box yet, all features may change.
        return index, np.minimum(radius, np.int32(group_count(self.model_)))

    def certified_score(self, X: ArrayLike, y: ArrayLike, radius: int) -> float:
        """Return the certified accuracy: the fraction of samples right and certified at `radius`.

        Raises
        ------
        OptionError
            `radius` is not a whole number of at least 0.
        """
        radius = validation.integer("radius", radius, 0)
        index, radii = self._certificate(X)
        outcome = self.classes_[index], radii, column_or_1d(y)
        return float(certified_accuracy(*outcome, [radius])[0])


def certified_accuracy_scorer(radius: int) -> Callable[..., float]:
    """Return a scorer of certified accuracy at a radius, for GridSearchCV and the like.

    Parameters
    ----------
    radius
        Number of columns that may change.

    Returns
    -------
    callable
        Takes a `BoxNNClassifier`, or a Pipeline that ends in one, samples and labels.

    Raises
    ------
    OptionError
        `radius` is not a whole number of at least 0.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> from boxnn_numba import BoxNNClassifier
    >>> from boxnn_numba.estimator import certified_accuracy_scorer
    >>> x, y = load_wine(return_X_y=True)
    >>> scores = cross_val_score(BoxNNClassifier(), x, y, scoring=certified_accuracy_scorer(1))
    >>> bool(scores.mean() > 0.6)
    True
    """
    return partial(_certified_score, radius=validation.integer("radius", radius, 0))


def _certified_score(estimator: Any, X: ArrayLike, y: ArrayLike, radius: int) -> float:
    if isinstance(estimator, Pipeline):
        *steps, (_, last) = estimator.steps
        return _certified_score(last, estimator[:-1].transform(X) if steps else X, y, radius)
    if not hasattr(estimator, "certified_score"):
        raise InputError(
            f"{type(estimator).__name__} has no certified_score; score a BoxNNClassifier"
        )
    return float(estimator.certified_score(X, y, radius))


def _grid_for(X: np.ndarray) -> Grid | None:
    """Return the grid of training data; None where they are codes."""
    codes = X.dtype == np.uint8 and int(X.max()) - int(X.min()) >= _CODES_SPAN
    return None if codes else Grid.fit(X)


def _codes(X: np.ndarray, grid: Grid | None) -> np.ndarray:
    return validation.codes("X", X) if grid is None else grid.encode(X)


def _run_epochs(run: Training) -> None:
    """Train to the end, or until it diverges."""
    try:
        while run.epoch < run.options.epochs:
            run.run_epoch()
    except DivergenceError as error:
        what = str(error).split(";")[0]
        warnings.warn(
            f"{what}; the boxes of epoch {run.best_epoch} are used; lower the learning rate with "
            f"options={{'lr': {run.options.lr / 4:g}}}",
            ConvergenceWarning,
            stacklevel=5,
        )
