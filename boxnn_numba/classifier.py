"""Classifier: the protocol that certificates and attacks need of a model, and its Certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba.boxes import Boxes
from boxnn_numba.columns import Columns
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
