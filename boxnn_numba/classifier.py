"""Classifier: the protocol that certificates and attacks need of a model, and checks of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.boxes import Boxes
from boxnn_numba.columns import Columns
from boxnn_numba.errors import InputError
from boxnn_numba.grid import Grid


class Certificate(NamedTuple):
    """Predictions and how many features may be rewritten without changing them.

    Attributes
    ----------
    prediction
        (N,) class labels, as in `BoxNN.classes`.
    radius
        (N,) int32, certified radius in features (or feature groups), >= 0.
    """

    prediction: np.ndarray
    radius: np.ndarray


class Classifier(Protocol):
    """A nearest-box classifier such as `BoxNN`, whose documentation describes each member."""

    @property
    def boxes(self) -> Boxes: ...

    @property
    def box_sets(self) -> tuple[Boxes, ...]: ...

    @property
    def classes(self) -> Sequence[int] | Sequence[str]: ...

    @property
    def grid(self) -> Grid | None: ...

    @property
    def columns(self) -> Columns | None: ...

    @property
    def feature_shape(self) -> tuple[int, ...] | None: ...

    @property
    def group_size(self) -> int: ...

    @property
    def groups(self) -> np.ndarray: ...

    @property
    def reach(self) -> int: ...

    @property
    def offset(self) -> np.ndarray: ...

    def rows(self, x: ArrayLike) -> np.ndarray: ...

    def encode(self, x: ArrayLike) -> np.ndarray: ...

    def predict(self, x: ArrayLike) -> np.ndarray: ...

    def radii(self, distance: np.ndarray) -> Certificate: ...


def group_count(model: Classifier) -> int:
    """Return the number of features, or feature groups, that an adversary counts."""
    return int(model.groups.max()) + 1


def need_two_classes(model: Classifier) -> None:
    """Raise unless boxes of at least two classes exist."""
    if len(np.unique(model.boxes.labels)) < 2:
        raise InputError("the model has boxes of one class only; no other can be predicted")


def patch_image(model: Classifier, sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Return height, width and channels of a model's images, for patches of some sizes.

    sizes are those of `boxnn_numba.validation.patches`. Raises unless there are boxes of two
    classes and the model is of images that hold the patches.
    """
    need_two_classes(model)
    shape = validation.image_shape(model.feature_shape or (), sizes)
    pixel = np.arange(model.boxes.n_features) // shape[2]
    pairs = np.stack((model.boxes.group, pixel))
    if len(np.unique(pairs, axis=1).T) != model.boxes.structure.n_groups:
        raise InputError(
            "the model has groups of features in several pixels; patches need each group within one"
        )
    return shape


def need_one_set(model: Classifier, what: str) -> None:
    """Raise if a model is an ensemble; `what` is for single sets of boxes only."""
    if len(model.box_sets) > 1:
        raise InputError(
            f"the model is an ensemble of {len(model.box_sets)} sets of boxes, and {what} of one "
            "set only; train with members 1, or pass one of the models that it was made of"
        )
