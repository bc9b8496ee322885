"""Any scikit-learn classifier as a base classifier of the published defences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone

from boxnn_numba import validation
from boxnn_numba.baselines.ablation import draws
from boxnn_numba.baselines.encodings import (
    PartColumns,
    masked_input,
    masked_pairs,
    submodel_input,
    training_data,
)
from boxnn_numba.errors import InputError, OptionError

#: Stream of `draws` for training masks (certificates use 0 and 1).
_TRAINING_STREAM = 2


class ScikitMasked:
    """A scikit-learn classifier for randomized ablation, fitted on masked copies of the data.

    Parameters
    ----------
    estimator
        Unfitted classifier with ``predict_proba``; a clone of it is fitted on the (x, 1 - x) of
        the retained features, (0, 0) elsewhere, 2 n columns in 0..1.
    n_classes
        Number of classes K.
    retained
        Number k of features, or groups of them, that remain of each sample, at least 1.
    copies
        Masked copies of each training sample.
    group_size
        Features that follow each other and remain together, such as a pixel's channels.
    seed
        Of the masks; set the estimator's own ``random_state`` as well.

    Raises
    ------
    OptionError
        The estimator has no ``predict_proba``, or an option is out of range.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        n_classes: int,
        retained: int,
        copies: int = 4,
        group_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.estimator = _probabilistic(estimator)
        self.n_classes = validation.integer("n_classes", n_classes, low=2)
        self.retained = validation.positive("retained", retained)
        self.copies = validation.positive("copies", copies)
        self.group_size = validation.positive("group_size", group_size)
        self.seed = validation.integer("seed", seed, low=0)
        self.n_features = 0

    def fit(self, x: ArrayLike, y: ArrayLike) -> Self:
        """Fit on codes (N, n) and class indices (N,), in which each class must occur."""
        codes, classes = training_data(x, y, self.n_classes)
        self.n_features = codes.shape[1]
        groups = validation.group_count(self.group_size, self.n_features)
        validation.integer("retained", self.retained, low=1, high=groups)
        rows = np.arange(len(codes)).repeat(self.copies)
        drawn = draws(groups, self.retained, len(rows), self.seed, 0, _TRAINING_STREAM)
        kept = np.concatenate(list(drawn)).repeat(self.group_size, axis=1)
        pairs = masked_pairs(codes[rows], kept)
        self._fitted = _fit(self.estimator, pairs, classes[rows])
        return self

    def scores(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return probabilities (B, K) float32 of codes (B, n) under bool masks (B, n)."""
        _check_fitted(self.n_features)
        return _probabilities(self._fitted, masked_input(x, kept, self.n_features), self.n_classes)


class ScikitSubmodels:
    """Clones of a scikit-learn classifier for feature partition, each fitted on its own features.

    Parameters
    ----------
    estimator
        Unfitted classifier with ``predict_proba``; clone t is fitted on the (x, 1 - x) of the
        features of part t, as columns in 0..1.
    part
        (n,) integers, the part 0..T-1 of each feature.
    n_classes
        Number of classes K.

    Raises
    ------
    InputError
        `part` is no partition.
    OptionError
        The estimator has no ``predict_proba``, or `n_classes` is out of range.
    """

    def __init__(self, estimator: Any, part: ArrayLike, *, n_classes: int) -> None:
        self.estimator = _probabilistic(estimator)
        self.n_classes = validation.integer("n_classes", n_classes, low=2)
        self.n_features = validation.rectangular("part", part).size
        self.part = validation.partition("part", part, self.n_features)
        self._members: Sequence[np.ndarray] = PartColumns(self.part).members
        self.n_models = len(self._members)
        self._fitted: list[Any] = []

    def fit(self, x: ArrayLike, y: ArrayLike) -> Self:
        """Fit on codes (N, n) and class indices (N,), in which each class must occur."""
        codes, classes = training_data(x, y, self.n_classes)
        validation.same_features("x", codes, self.n_features, "part")
        self._fitted = [
            _fit(self.estimator, _own_pairs(codes, members), classes) for members in self._members
        ]
        return self

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return probabilities (B, T, K) float32 of codes (B, n)."""
        _check_fitted(len(self._fitted))
        codes = submodel_input(x, self.n_features)
        found = [
            _probabilities(fitted, _own_pairs(codes, members), self.n_classes)
            for fitted, members in zip(self._fitted, self._members, strict=True)
        ]
        return np.stack(found, axis=1)


def _own_pairs(codes: np.ndarray, members: np.ndarray) -> np.ndarray:
    own = codes[:, members]
    return masked_pairs(own, np.ones(own.shape, bool))


def _probabilistic(estimator: Any) -> Any:
    if isinstance(estimator, type):
        raise OptionError(f"estimator is the class {estimator.__name__}; pass one of its objects")
    if not hasattr(estimator, "predict_proba"):
        raise OptionError(
            f"{type(estimator).__name__} has no predict_proba; wrap it in CalibratedClassifierCV "
            "or choose another classifier"
        )
    return estimator


def _fit(estimator: Any, pairs: np.ndarray, classes: np.ndarray) -> Any:
    return clone(estimator).fit(_scaled(pairs), classes)


def _check_fitted(fitted: int) -> None:
    if not fitted:
        raise InputError("the base classifier is not fitted; call fit first")


def _probabilities(fitted: Any, pairs: np.ndarray, n_classes: int) -> np.ndarray:
    name = f"probabilities of {type(fitted).__name__}"
    given = fitted.predict_proba(_scaled(pairs))
    try:
        found = np.asarray(given)
    except ValueError as error:  # lists of several outputs, of different lengths
        raise InputError(f"{name} are not one matrix; use a classifier with one output") from error
    return validation.scores(name, found, (len(pairs), n_classes)).astype(np.float32)


def _scaled(pairs: np.ndarray) -> np.ndarray:
    return pairs / np.float32(255)
