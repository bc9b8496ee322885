"""What an adversary may write: features, codes, and the raw values that stand for codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.grid import Grid

if TYPE_CHECKING:
    from boxnn_numba.classifier import Classifier

_CODES = np.arange(256)


@dataclass(frozen=True, eq=False)
class Domain:
    """The codes that an adversary may write into each feature of a model.

    Attributes
    ----------
    allowed
        (n, 256) bool, codes that may be written.
    values
        (n, 256) raw features that have these codes, NaN where there is none or it is a missing
        value; None where the data are codes.
    """

    allowed: np.ndarray
    values: np.ndarray | None = None

    @property
    def free(self) -> np.ndarray:
        """(n,) bool, features that may change at all."""
        return np.asarray(self.allowed.any(axis=1))

    def up(self) -> np.ndarray:
        """(n, 256) int16, the smallest allowed code at or above each code, -1 if none."""
        codes = np.where(self.allowed, _CODES, 256)
        least = np.minimum.accumulate(codes[:, ::-1], axis=1)[:, ::-1]
        return np.where(least == 256, -1, least).astype(np.int16)

    def down(self) -> np.ndarray:
        """(n, 256) int16, the largest allowed code at or below each code, -1 if none."""
        codes = np.where(self.allowed, _CODES, -1)
        return np.maximum.accumulate(codes, axis=1).astype(np.int16)

    def decode(self, x: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return samples x (N, n), raw features or codes, with those replaced that change.

        before and after are (N, n) uint8, the codes of x and those that the result shall have.
        """
        if self.values is None:
            return after
        rows, columns = np.nonzero(before != after)
        out = x.copy()
        out[rows, columns] = self.values[columns, after[rows, columns]]
        return out


def domain_of(
    model: Classifier,
    domain: tuple[ArrayLike, ArrayLike] | None = None,
    features: ArrayLike | None = None,
    dtype: np.dtype | type = np.float64,
) -> Domain:
    """Return what may be written into the inputs of a model.

    Parameters
    ----------
    model
        With a grid only codes that the grid can produce are allowed, and of those only the ones
        that some raw value of `dtype` has.
    domain
        (low, high) codes, numbers or (n,) arrays; everything by default.
    features
        (n,) bool, features that may change; all by default.
    dtype
        Type of the raw features.

    Raises
    ------
    OptionError
        A bound is not a code, they are crossed, or shapes do not fit.
    """
    n = model.boxes.n_features
    low, high = validation.limits(domain, n, np.dtype(np.uint8))
    allowed = (low[:, None] <= _CODES) & (high[:, None] >= _CODES)
    if features is not None:
        allowed &= validation.mask("features", features, n)[:, None]
    if model.grid is None:
        return Domain(allowed)
    values = raw_values(model.grid, np.dtype(dtype))
    known = ~np.isnan(values)
    if model.grid.missing is not None:
        known[np.arange(n), model.grid.missing] = True
    return Domain(allowed & known, values)


def raw_values(grid: Grid, dtype: np.dtype) -> np.ndarray:
    """Return an (n, 256) table of raw features of a type that have each code; NaN if none has.

    The value is in the middle of its bin; outside the outer edges it is as far from them as
    the next edge, or 1. Between the edges 0.5, 1.5, ... these are whole numbers, as categories are.
    """
    values = np.full((grid.n_features, 256), np.nan, dtype)
    for k, (edges, codes) in enumerate(zip(grid.edges, grid.codes, strict=True)):
        count = int(grid.counts[k])
        inner = edges[:count]
        if count == 0:
            values[k, codes[0]] = 0
            continue
        step = inner[-1] - inner[0] if count > 1 else 1.0
        step = step if np.isfinite(step) else 1.0
        if (inner == np.arange(count) + 0.5).all():
            step = 0.5
        middle = inner[:-1] / 2 + inner[1:] / 2
        with np.errstate(over="ignore"):
            tries = np.concatenate(([inner[0] - step], middle, [inner[-1] + step])).astype(dtype)
            below = np.concatenate(([inner[0] - 2 * step], inner)).astype(dtype)
        largest = np.finfo(dtype).max
        for level in range(count + 1):
            first = below[level]
            for value in (tries[level], first, np.nextafter(first, largest), -largest, largest):
                bin_ = int(np.searchsorted(inner, np.float64(value), side="right"))
                if np.isfinite(value) and bin_ == level:
                    values[k, codes[level]] = value
                    break
    return values
