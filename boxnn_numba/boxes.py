"""Boxes: labelled axis-aligned boxes of codes, the whole of a trained classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.errors import InputError


@dataclass(frozen=True, eq=False)
class Boxes:
    """Axis-aligned boxes ``lower <= x <= upper`` with labels, kept sorted by label.

    Parameters
    ----------
    lower, upper
        (M, n) whole numbers 0..255, inclusive bounds, lower <= upper.
    labels
        (M,) class index of each box, 0..K-1.
    width
        Cap W of the penalty of one feature, 1..255: 1 is the l0 distance of Lemma 4.1,
        255 the conical relaxation of Eq. (14).
    n_classes
        Number K of classes; the largest label plus one by default. A class without a box
        is never predicted.

    Raises
    ------
    InputError
        Bounds are crossed, out of range or of different shapes, or labels do not fit.
    OptionError
        `width` is not in 1..255.

    Notes
    -----
    Boxes that are given in another order are sorted by label, keeping the order
    within a class.

    Examples
    --------
    >>> from boxnn_numba import Boxes, class_distance
    >>> boxes = Boxes(lower=[[0, 0], [200, 200]], upper=[[50, 50], [255, 255]], labels=[0, 1])
    >>> class_distance([[10, 20], [60, 220]], boxes)
    array([[0, 2],
           [2, 1]], dtype=int32)
    """

    lower: np.ndarray
    upper: np.ndarray
    labels: np.ndarray
    width: int = 1
    n_classes: int = field(default=0)

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        labels: ArrayLike,
        width: int = 1,
        n_classes: int | None = None,
    ) -> None:
        low, high = validation.box_bounds(
            validation.codes("lower", lower), validation.codes("upper", upper)
        )
        label = validation.labels("labels", labels, len(low))
        if label.dtype.kind not in "iu" or label.min() < 0:
            raise InputError("labels of boxes must be class indices 0..K-1")
        known = int(label.max()) + 1
        count = known if n_classes is None else validation.positive("n_classes", n_classes)
        if known > count:
            raise InputError(f"a box has label {known - 1}, but there are {count} classes")
        order = np.argsort(label, kind="stable")
        for name, value in (
            ("lower", low[order]),
            ("upper", high[order]),
            ("labels", label[order].astype(np.int32)),
        ):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "width", validation.width(width))
        object.__setattr__(self, "n_classes", count)

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def n_features(self) -> int:
        """Number n of features."""
        return self.lower.shape[1]

    @cached_property
    def offsets(self) -> np.ndarray:
        """(K + 1,) int64: boxes ``offsets[c]:offsets[c + 1]`` have label c."""
        return np.searchsorted(self.labels, np.arange(self.n_classes + 1))
