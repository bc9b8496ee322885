"""Grid: raw values <-> codes 0..255, learned on training data and kept in the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import lazy, validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.columns import Column
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.kernels import distances

MAX_LEVELS = 256
#: Codes between a missing number and the numbers: a usual width of boxes. Measured on three
#: tables: next to the numbers, 64 apart, and the median all certify less.
_APART = 24
#: uint8 rows that span less of 0..255 are numbers like any other, and not brightness.
CODES_SPAN = 128
#: Categories that are listed in words.
_MOST_LISTED = 12
#: Rows of all classes together that a category counts besides its own.
_SMOOTH = 10


@dataclass(frozen=True, eq=False)
class Grid:
    """Per-feature bins of real features, as histogram gradient boosting uses them.

    An l0 adversary replaces a feature by any value, hence a code by any code:
    a certificate on codes is a certificate on the raw features.

    Parameters
    ----------
    edges
        (n, L) float64, the ascending bin edges of each feature, padded with infinity.
    counts
        (n,) int32, how many edges each feature has, at most 255; feature i has
        ``counts[i] + 1`` levels.
    codes
        (n, L + 1) uint8, the code of each level; spread evenly over 0..255 by default.
    missing
        (n,) uint8, the code of a missing value, NaN; by default there are none.

    Raises
    ------
    InputError
        Shapes do not fit, or edges do not ascend.

    Notes
    -----
    The levels of a feature are spread evenly over the codes 0..255, so that a
    width means the same for a feature of few levels as for one of many.

    Categories are levels too: their raw values are 0, 1, ..., and the edges lie half way between.
    Their codes are not in that order but in that of the classes' shares in the training data, as
    gradient boosting orders them, so that an interval of codes holds categories that are alike. The
    last level is of all categories that are not told apart, those that training did not see among
    them. A missing category has a code of its own by the same order. A missing number has one far
    from those of the numbers, on the side of the numbers whose classes are more like its own.
    Where training saw nothing missing, it has the code of the median, or of unseen categories.

    Examples
    --------
    >>> from boxnn_numba import Grid
    >>> grid = Grid.fit([[0.0], [1.0], [4.0]])
    >>> grid.encode([[-3.0], [0.4], [1.1], [9.0]])
    array([[  0],
           [  0],
           [128],
           [255]], dtype=uint8)
    """

    edges: np.ndarray
    counts: np.ndarray
    codes: np.ndarray = field(default=None)  # type: ignore[arg-type]
    missing: np.ndarray | None = None

    def __post_init__(self) -> None:
        edges = np.ascontiguousarray(validation.matrix("edges", self.edges), dtype=np.float64)
        counts = np.asarray(self.counts, dtype=np.int32)
        if counts.shape != (len(edges),) or counts.min() < 0 or counts.max() > edges.shape[1]:
            raise InputError("counts of a Grid do not fit its edges; fit the Grid again")
        used = np.arange(edges.shape[1]) < counts[:, None]
        rising = edges[:, 1:] > edges[:, :-1]
        if not np.isfinite(edges[used]).all():
            raise InputError("edges of a Grid must be finite; fit it again")
        if counts.max() >= MAX_LEVELS or not rising[used[:, 1:]].all():
            raise InputError("edges of a Grid must ascend, at most 255 a feature; fit it again")
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "counts", counts)
        for name, shape in (
            ("codes", (len(edges), edges.shape[1] + 1)),
            ("missing", (len(edges),)),
        ):
            value = getattr(self, name)
            if value is not None:
                value = np.ascontiguousarray(value)
                if value.shape != shape or value.dtype != np.uint8:
                    raise InputError(f"{name} of a Grid do not fit its edges; fit the Grid again")
                object.__setattr__(self, name, value)
        if self.codes is None:
            object.__setattr__(self, "codes", self._even_codes())

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        levels: int = MAX_LEVELS,
        columns: Sequence[Column] | None = None,
        y: ArrayLike | None = None,
        missing: bool | None = None,
    ) -> Grid:
        """Learn the edges from training data.

        Parameters
        ----------
        x
            (N, n) finite real features, or raw values of `columns`; NaN for a missing value.
        levels
            Most levels a feature may have, 2..256. A feature with at most so many distinct values
            gets a level for each, with edges half way between them; for others the edges are
            quantiles. A column of categories has a level for each category.
        columns
            The columns of a table, if `x` comes from one; n columns of numbers by default.
        y
            (N,) labels, by which categories are ordered; without labels they keep their own order.
        missing
            Whether missing values can be encoded; by default where there are some in x, or x is of
            a table.

        Raises
        ------
        InputError
            `x` is empty or holds what is infinite; or `columns` or `y` do not fit it.
        OptionError
            `levels` is out of range, or `missing` is false and x has missing values.
        """
        features = validation.features("x", x, missing=True)
        levels = validation.integer("levels", levels, 2, MAX_LEVELS)
        shape = features.shape
        given = [None] * shape[1] if columns is None else columns
        if len(given) != shape[1]:
            raise InputError(f"x has {shape[1]} features and `columns` are {len(given)}")
        tally = None if y is None else _Tally.of(validation.labels("y", y, shape[0]))

        def learned(first: int, last: int) -> list[_Levels]:
            return [_learned(features[:, k], given[k], levels, tally) for k in range(first, last)]

        pieces = get_backend("cpu").parallel(shape[1], 1, learned)
        found = [one for piece in pieces for one in piece]
        counts = np.array([len(one.edges) for one in found], np.int32)
        edges = np.full((len(found), max(1, int(counts.max()))), np.inf)
        codes = np.full((len(found), edges.shape[1] + 1), 255, np.uint8)
        for k, one in enumerate(found):
            edges[k, : len(one.edges)], codes[k, : len(one.codes)] = one.edges, one.codes
        absent = bool(np.isnan(features).any())
        if missing is False and absent:
            raise OptionError("x has missing values and `missing` is false; leave it out")
        wanted = absent or columns is not None if missing is None else missing
        return cls(
            edges,
            counts,
            codes,
            np.array([one.missing for one in found], np.uint8) if wanted else None,
        )

    def __dask_tokenize__(self) -> Any:
        return lazy.content("Grid", *(getattr(self, one.name) for one in fields(self)))

    @property
    def n_features(self) -> int:
        """Number n of features."""
        return len(self.edges)

    @property
    def is_plain(self) -> bool:
        """Whether all levels are in order and evenly spread, and nothing may be missing."""
        return self.missing is None and bool((self.codes == self._even_codes()).all())

    def _even_codes(self) -> np.ndarray:
        levels = np.arange(self.edges.shape[1] + 1)
        spread = np.rint(255.0 * levels / np.maximum(self.counts, 1)[:, None])
        return np.minimum(spread, 255).astype(np.uint8)

    def encode(self, x: ArrayLike) -> np.ndarray:
        """Return the codes of raw values.

        Parameters
        ----------
        x
            (N, n) finite numbers, or NaN if the grid has codes for missing values. Lazy arrays give
            lazy results.

        Returns
        -------
        (N, n) uint8

        Raises
        ------
        InputError
            `x` is not finite or has another number of features.
        """
        if lazy.is_deferred(x):
            return lazy.map_rows(Grid.encode, self, x, lazy.FEATURES)
        features = validation.features("x", x, missing=self.missing is not None, empty=True)
        validation.same_features("x", features, self.n_features, "the grid")
        out = np.empty(features.shape, np.uint8)

        def work(first: int, last: int) -> None:
            distances.bin_features(features, first, last, self.edges, self.counts, self.codes, out)
            if self.missing is not None:
                distances.mark_missing(features, first, last, self.missing, out)

        get_backend("cpu").parallel(len(features), 1024, work)
        return out

    def interval(self, lower: ArrayLike, upper: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the raw values that a box of codes admits.

        Parameters
        ----------
        lower, upper
            (M, n) codes with lower <= upper.

        Returns
        -------
        low, high : (M, n) float64
            A number v has a code in [lower, upper] if and only if low <= v < high; -inf and
            inf where a side is open. Empty boxes (between two codes) have low == high. NaN for
            categories, see `admitted`.
        """
        low = validation.codes("lower", lower)
        high = validation.codes("upper", upper)
        first, last = np.empty(low.shape), np.empty(high.shape)
        for k in range(self.n_features):
            first[:, k], last[:, k] = self._range(k, low[:, k], high[:, k])
        return first, last

    def _range(self, feature: int, lower: ArrayLike, upper: ArrayLike) -> tuple[ArrayLike, ...]:
        """Return the ends of the numbers of a feature that have codes in [lower, upper]."""
        used = self.codes[feature, : self.counts[feature] + 1]
        if (used[1:] < used[:-1]).any():
            return np.full(np.shape(lower), np.nan), np.full(np.shape(lower), np.nan)
        bounds = np.concatenate(([-np.inf], self.edges[feature, : len(used) - 1], [np.inf]))
        return (
            bounds[np.searchsorted(used, lower, side="left")],
            bounds[np.searchsorted(used, upper, side="right")],
        )

    def admitted(self, feature: int, lower: int, upper: int, column: Column | None = None) -> str:
        """Return in words which raw values of a feature have codes in [lower, upper].

        Numbers are ``12 to 30`` (up to, but without, 30), ``below 12``, ``from 12 on``; categories
        are listed. `column` is that of the feature in a table.
        """
        used = self.codes[feature, : self.counts[feature] + 1]
        if column is None:
            own = self.missing is not None and self.missing[feature] not in used
            column = Column("", missing=bool(own))
        inside = (lower <= used) & (used <= upper)
        gap = self.missing is not None and bool(lower <= self.missing[feature] <= upper)
        gap &= column.missing  # else its code is another's
        if inside.all() and gap == column.missing:
            return "anything"
        if column.is_listed:
            texts = [column.text(level) for level in range(len(used))]
            return _listed_text(
                [*texts, *["missing"] * column.missing], [*inside.tolist(), *[gap] * column.missing]
            )
        low, high = map(float, self._range(feature, lower, upper))  # type: ignore[arg-type]
        found = [_range_text(column, low, high)] if low < high else []
        return ", ".join([*found, *["missing"] * gap]) or "nothing"


def are_codes(x: np.ndarray) -> bool:
    """Return whether training samples (N, ...) are codes, and not numbers that need a grid.

    Codes are uint8, and either images or of at least half the range 0..255: flags and small counts
    are numbers whatever their type.
    """
    if x.dtype != np.uint8:
        return False
    return x.ndim > 2 or int(x.max()) - int(x.min()) >= CODES_SPAN


# --- learning ------------------------------------------------------------------------------


class _Levels(NamedTuple):
    """The levels of a feature: its edges, their codes, and that of a missing value."""

    edges: np.ndarray
    codes: np.ndarray
    missing: int


class _Tally(NamedTuple):
    """The classes of training rows: the (N,) class of each, and the (K,) shares."""

    of_row: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> _Tally:
        _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return cls(index, counts / len(labels))

    def scores(self, items: np.ndarray, count: int) -> np.ndarray:
        """Return one number for each of `count` items, near for items of like classes.

        items is the item of each row. Of two classes it grows with the smoothed share of the rarer;
        of more it is the place on the first principal axis of the smoothed shares.
        """
        kinds = len(self.shares)
        cells = np.bincount(items * kinds + self.of_row, minlength=count * kinds)
        rows = cells.reshape(count, kinds).astype(np.float64)
        total = rows.sum(axis=1, keepdims=True)
        # A rare class counts as much as a frequent one.
        profile = (rows + _SMOOTH * self.shares) / (total + _SMOOTH) / np.sqrt(self.shares)
        away = profile - np.sqrt(self.shares)
        axis = np.linalg.eigh((away * total).T @ away)[1][:, -1]
        axis = axis * np.sign(axis[np.abs(axis).argmax()])
        # Rounded, so that another processor's last bits change no order.
        return np.round(away @ axis, 9)


def _spread(count: int, low: int = 0, high: int = 255) -> np.ndarray:
    """Return `count` codes evenly between two."""
    return np.rint(low + (high - low) * np.arange(count) / max(1, count - 1)).astype(np.uint8)


def _learned(
    values: np.ndarray, column: Column | None, levels: int, tally: _Tally | None
) -> _Levels:
    """Return the levels of a feature, of a column if it is one of a table."""
    if column is not None and column.is_listed:
        return _listed(values, column, tally)
    between, known = column is not None, column is not None and column.missing
    empty = np.isnan(values)
    some = bool(empty.any())
    present = values[~empty] if some else values
    if not (some or known):
        edges = _feature_edges(present, levels, between)
        codes = _spread(len(edges) + 1)
        middle = np.searchsorted(edges, 2 * np.median(present / 2), side="right")
        return _Levels(edges, codes, int(codes[middle]))
    if not len(present):
        return _Levels(np.empty(0), _spread(1), 255)
    edges = _feature_edges(present, min(levels, MAX_LEVELS - _APART), between)
    if _is_low(present, np.flatnonzero(empty), np.flatnonzero(~empty), tally):
        return _Levels(edges, _spread(len(edges) + 1, _APART), 0)
    return _Levels(edges, _spread(len(edges) + 1, 0, 255 - _APART), 255)


def _is_low(
    present: np.ndarray, absent_rows: np.ndarray, rows: np.ndarray, tally: _Tally | None
) -> bool:
    """Return whether rows without a value have classes more like those of low numbers."""
    if tally is None or not len(absent_rows):
        return False
    items = np.full(len(tally.of_row), 2)
    items[rows] = present > 2 * np.median(present / 2)
    low, high, absent = tally.scores(items, 3)
    return bool(abs(low - absent) < abs(high - absent))


def _listed(values: np.ndarray, column: Column, tally: _Tally | None) -> _Levels:
    """Return the levels of categories; the last but one item is `OTHER`, the last is missing."""
    others = len(column.categories)
    empty = np.isnan(values)
    items = np.where(empty, others + 1, np.clip(np.nan_to_num(values), 0, others)).astype(np.intp)
    some = column.missing or bool(empty.any())
    scores = np.arange(others + 2.0) if tally is None else tally.scores(items, others + 2)
    order = np.argsort(scores[: others + 1 + some], kind="stable")
    codes = np.empty(len(order), np.uint8)
    codes[order] = _spread(len(order))
    missing = int(codes[others + 1 if some else others])
    return _Levels(np.arange(others) + 0.5, codes[: others + 1], missing)


def ordered_anew(
    x: np.ndarray, labels: np.ndarray, held_out: np.ndarray, categories: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out codes, with categories in the order of the training rows alone.

    The order that a grid gave them knows the classes of all its rows. Where most categories have a
    row or two, it tells the class of each held-out row. Both arrays are changed in place.

    Parameters
    ----------
    x
        (N, n) uint8 codes of training rows.
    labels
        (N,) their class indices.
    held_out
        (H, n) uint8 codes of other rows. Categories that only these have are in the middle, in a
        random order.
    categories
        Features whose codes are categories.
    """
    tally = _Tally.of(labels)
    for k in categories:
        codes, items = np.unique(np.append(x[:, k], held_out[:, k]), return_inverse=True)
        mixed = np.random.default_rng(k).permutation(len(codes))
        scores = tally.scores(items[: len(x)], len(codes))
        placed = np.empty_like(codes)
        placed[mixed[np.argsort(scores[mixed], kind="stable")]] = codes
        x[:, k], held_out[:, k] = placed[items[: len(x)]], placed[items[len(x) :]]
    return x, held_out


def _feature_edges(column: np.ndarray, levels: int, between: bool = False) -> np.ndarray:
    """Return the edges of numbers; with `between` all of them half way between two values.

    Data sets round numbers to 32 bits, so that an edge on a value would tell 0.1 from itself.
    """
    ordered = np.sort(column).astype(np.float64)
    distinct = ordered[np.append(True, ordered[1:] > ordered[:-1])]
    middle = distinct[:-1] / 2 + distinct[1:] / 2
    # Neighbouring floats have no middle: the upper one separates them.
    middle = np.where(middle > distinct[:-1], middle, distinct[1:])
    if len(distinct) <= levels:
        return middle
    steps = np.linspace(0, 1, levels + 1)[1:-1]
    quantiles = np.unique(np.quantile(ordered, steps))
    # A value on an edge counts as above it, so the smallest value may not be an edge.
    quantiles = quantiles[quantiles > distinct[0]]
    if not between:
        return quantiles
    return np.asarray(middle[np.unique(np.searchsorted(distinct, quantiles)) - 1])


def _range_text(column: Column, low: float, high: float) -> str:
    ends = low, high
    if column.kind == "number" and f"{low:.6g}" != f"{high:.6g}":
        ends = float(f"{low:.6g}"), float(f"{high:.6g}")
    first, last = map(column.text, ends)
    if np.isinf(low):
        return "any value" if np.isinf(high) else f"below {last}"
    return f"from {first} on" if np.isinf(high) else f"{first} to {last}"


def _listed_text(texts: list[str], inside: list[bool]) -> str:
    """Return which texts are inside, or which are not, whichever is shorter."""
    found = [text for text, within in zip(texts, inside, strict=True) if within]
    rest = [text for text, within in zip(texts, inside, strict=True) if not within]
    if len(rest) < min(len(found), _MOST_LISTED):
        return f"anything but {', '.join(rest)}"
    more = f", ... ({len(found)})" if len(found) > _MOST_LISTED else ""
    return ", ".join(found[:_MOST_LISTED]) + more or "nothing"
