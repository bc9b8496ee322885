"""Boxes: labelled rows of bounds, plain or factored into parts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import lazy, validation
from boxnn_numba.backends.structure import Structure
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
    template
        (M,) integers, the template of each box; by default each box is a template of its own. The
        boxes of a template, its variants, have the same label and recombine part by part.
    part
        (n,) integers 0..P-1, the part of each feature; by default there is one part.
    group
        (n,) integers >= 0: features with the same number are rewritten together, their penalty is
        capped as a whole, and they lie in one part. By default each feature is a group of its own.

    Raises
    ------
    InputError
        Bounds are crossed, out of range or of different shapes, or labels, templates, parts or
        groups do not fit.
    OptionError
        `width` is not in 1..255.

    Notes
    -----
    Boxes are sorted by label and template; the order within a template is kept. Templates are
    numbered in that order, and groups by their first features.

    A template with L variants stands for the L ** P boxes that choose a variant for each part, so
    its distance is the sum over the parts of the smallest distance to a variant there, and Theorem
    4.2 holds for it. With one part, or one variant for each template, these are the plain boxes of
    the paper.

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
    template: np.ndarray = field(default=None)  # type: ignore[arg-type]
    part: np.ndarray = field(default=None)  # type: ignore[arg-type]
    group: np.ndarray = field(default=None)  # type: ignore[arg-type]

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        labels: ArrayLike,
        width: int = 1,
        n_classes: int | None = None,
        *,
        template: ArrayLike | None = None,
        part: ArrayLike | None = None,
        group: ArrayLike | None = None,
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
        rows, n = low.shape
        chosen = np.arange(rows) if template is None else _numbers("template", template, rows)
        order = np.lexsort((chosen, label))
        starts = np.append(True, np.diff(chosen[order]) != 0)
        starts[1:] |= np.diff(label[order]) != 0
        if np.unique(chosen).size != np.count_nonzero(starts):
            raise InputError("a `template` has boxes of two labels; give it boxes of one")
        parts = np.zeros(n, np.int64) if part is None else _numbers("part", part, n)
        if np.unique(parts).size != parts.max() + 1:
            raise InputError(f"`part` leaves out numbers of 0..{parts.max()}; use each of them")
        groups, first = np.arange(n), np.arange(n)
        if group is not None:
            groups, first = _renumbered(_numbers("group", group, n))
        if (parts != parts[first[groups]]).any():
            raise InputError("a group has features in two parts; it must lie within one")
        for name, value in (
            ("lower", low[order]),
            ("upper", high[order]),
            ("labels", label[order].astype(np.int32)),
            ("template", (np.cumsum(starts) - 1).astype(np.int32)),
            ("part", parts.astype(np.int32)),
            ("group", groups.astype(np.int32)),
        ):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "width", validation.width(width))
        object.__setattr__(self, "n_classes", count)

    def __len__(self) -> int:
        return len(self.lower)

    def __dask_tokenize__(self) -> Any:
        return self._content

    @cached_property
    def _content(self) -> Any:
        return lazy.content("Boxes", *(getattr(self, one.name) for one in fields(self)))

    @property
    def n_features(self) -> int:
        """Number n of features."""
        return self.lower.shape[1]

    @cached_property
    def offsets(self) -> np.ndarray:
        """(K + 1,) int64: boxes ``offsets[c]:offsets[c + 1]`` have label c."""
        return np.searchsorted(self.labels, np.arange(self.n_classes + 1))

    @cached_property
    def structure(self) -> Structure:
        """What rows and columns belong to, as the backends take it."""
        return Structure.of(self.labels, self.template, self.part, self.group, self.n_classes)


def _numbers(name: str, value: ArrayLike, length: int) -> np.ndarray:
    array = np.asarray(value)
    if array.shape != (length,) or array.dtype.kind not in "iu" or (array < 0).any():
        raise InputError(
            f"`{name}` has shape {array.shape} and dtype {array.dtype}; pass {length} whole "
            "numbers >= 0"
        )
    return array.astype(np.int64)


def _renumbered(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number groups 0..G-1 by their first features, which are returned, too."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[inverse], first[order]
