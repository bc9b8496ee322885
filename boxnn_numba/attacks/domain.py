"""Domain: the features, codes and raw values that an adversary may write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.adversary import Adversary
from boxnn_numba.columns import Column, Columns
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.grid import Grid

if TYPE_CHECKING:
    from boxnn_numba.classifier import Classifier

_CODES = np.arange(256)

#: Codes, or raw values by column.
Limit = ArrayLike | Mapping[Any, Any]


@dataclass(frozen=True, eq=False)
class Domain:
    """The codes that an adversary may write into each feature of a model.

    Attributes
    ----------
    allowed
        (n, 256) bool, codes that may be written.
    values
        (n, 256) raw values with these codes, NaN for a missing value or if there is none; None if
        the data are codes.
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

    def nearest(self) -> np.ndarray:
        """(n, 256) int16, the allowed code that is nearest to each, -1 if none."""
        up, down = self.up(), self.down()
        above = np.where(up < 0, 512, up - _CODES)
        below = np.where(down < 0, 512, _CODES - down)
        return np.where(above <= below, up, down)

    def decode(self, x: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return samples `x` (N, n), raw values or codes, with changed features replaced.

        `before` and `after` (N, n) uint8 are the codes of `x` and of the result.
        """
        if self.values is None:
            return after
        rows, columns = np.nonzero(before != after)
        out = x.copy()
        out[rows, columns] = self.values[columns, after[rows, columns]]
        return out


def domain_of(
    model: Classifier,
    domain: tuple[Limit, Limit] | None = None,
    features: ArrayLike | None = None,
    dtype: np.dtype | type = np.float64,
) -> Domain:
    """Return the codes and raw values that may be written into the inputs of a model.

    Parameters
    ----------
    model
        The model. With a grid, only codes that the grid gives to some raw value of `dtype` are
        allowed.
    domain
        (low, high) codes, numbers or (n,) arrays; each may also be a mapping from names (or
        numbers) of columns to raw values. By default all values. A column with a raw limit may not
        be emptied.
    features
        (n,) bool, features that may change; all by default.
    dtype
        Type of the raw features.

    Raises
    ------
    OptionError
        A bound is not a code, they are crossed, or shapes do not fit; or a column is unknown or of
        categories.
    """
    n = model.boxes.n_features
    named: list[dict[int, float]] = [{}, {}]
    if isinstance(domain, tuple | list) and len(domain) == 2:
        named = [_named(model, side) if isinstance(side, Mapping) else {} for side in domain]
        domain = tuple(
            ends if isinstance(side, Mapping) else side
            for side, ends in zip(domain, (0, validation.MAX_CODE), strict=True)
        )  # type: ignore[assignment]
    if model.grid is None:
        # Raw values are codes.
        domain = _placed(domain, named, n)
    low, high = validation.limits(domain, n, np.dtype(np.uint8))  # type: ignore[arg-type]
    allowed = (low[:, None] <= _CODES) & (high[:, None] >= _CODES)
    if features is not None:
        allowed &= validation.mask("features", features, n)[:, None]
    if model.grid is None:
        return Domain(allowed)
    values = raw_values(model.grid, np.dtype(dtype))
    known = ~np.isnan(values)
    if model.grid.missing is not None:
        known[np.arange(n), model.grid.missing] = True
    allowed &= known
    for k in sorted(named[0].keys() | named[1].keys()):
        ends = named[0].get(k, -np.inf), named[1].get(k, np.inf)
        _restrict(model.grid, k, ends, allowed[k], values[k])
    return Domain(allowed, values)


def writable_of(
    model: Classifier,
    domain: tuple[Limit, Limit] | None,
    features: ArrayLike | None,
    attackable: Any,
    dtype: np.dtype,
) -> Domain:
    """Return `domain_of` a model, with codes of the `attackable` columns (or groups) only."""
    writable = domain_of(model, domain, features, dtype)
    if attackable is None:
        return writable
    free = Adversary.of(model, attackable).features(model.groups)
    return replace(writable, allowed=writable.allowed & free[:, None])


def _named(model: Classifier, given: Mapping[Any, Any]) -> dict[int, float]:
    """Return limits by feature, as raw values."""
    found = {}
    for name, value in given.items():
        text = str(name)
        if model.columns is not None and (text in model.columns.names or not text.isdecimal()):
            k = model.columns.position(text)  # which names the nearest
        elif text.isdecimal() and int(text) < model.boxes.n_features:
            k = int(text)
        else:
            raise OptionError(
                f"`domain` has a limit of {name!r}; pass numbers of features 0.."
                f"{model.boxes.n_features - 1}: the model knows no names of columns"
            )
        column = Column(text) if model.columns is None else model.columns[k]
        if column.is_listed:
            raise OptionError(
                f"`domain` has a limit of column {column.name!r}, whose categories have no order; "
                "leave it out"
            )
        try:
            found[k] = float(Columns([column]).values({column.name: [value]})[0, 0])
        except InputError:
            found[k] = np.nan
        if not np.isfinite(found[k]):
            kind = "date" if column.kind == "date" else "number"
            raise OptionError(
                f"`domain` has the limit {value!r} of column {column.name!r}; pass a {kind}"
            )
    return found


def _placed(domain: Any, named: list[dict[int, float]], n: int) -> Any:
    """Return a domain of codes in which limits by feature have their places."""
    if not any(named):
        return domain
    sides = [np.broadcast_to(np.asarray(side), n).astype(float) for side in domain]
    for side, limits in zip(sides, named, strict=True):
        side[list(limits)] = list(limits.values())
    return tuple(sides)


def _restrict(
    grid: Grid, k: int, ends: tuple[float, float], allowed: np.ndarray, values: np.ndarray
) -> None:
    """Leave the codes of one feature that raw values between two have, with such values."""
    if ends[0] > ends[1]:
        raise OptionError(
            f"`domain` has low {ends[0]:g} > high {ends[1]:g} at feature {k}; swap them"
        )
    edges = grid.edges[k, : int(grid.counts[k])]
    levels = np.arange(len(edges) + 1)
    first, last = np.searchsorted(edges, ends, side="right")
    inside = np.isin(_CODES, grid.codes[k, levels[first : last + 1]])
    if grid.missing is not None:
        inside[grid.missing[k]] = False
    allowed &= inside
    for level in {int(first), int(last)}:
        code = grid.codes[k, level]
        value = np.clip(np.float64(values[code]), *ends).astype(values.dtype)
        # Rounded to its type it may be outside.
        for other in (value, *(np.nextafter(value, values.dtype.type(end)) for end in ends)):
            inside_ends = ends[0] <= np.float64(other) <= ends[1]
            if inside_ends and np.searchsorted(edges, np.float64(other), side="right") == level:
                values[code] = other
                break
        else:
            allowed[code] = False


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
