"""Grid: real features <-> codes 0..255, learned on training data and kept in the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.errors import InputError
from boxnn_numba.kernels import distances

MAX_LEVELS = 256


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

    Raises
    ------
    InputError
        Shapes do not fit, or edges do not ascend.

    Notes
    -----
    The levels of a feature are spread evenly over the codes 0..255, so that a
    width means the same for a feature of few levels as for one of many.

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

    @classmethod
    def fit(cls, x: ArrayLike, levels: int = MAX_LEVELS) -> Grid:
        """Learn the edges from training data.

        Parameters
        ----------
        x
            (N, n) finite real features.
        levels
            Most levels a feature may have, 2..256. A feature with no more distinct values
            gets one level each, edges half way between them; others get quantiles.

        Raises
        ------
        InputError
            `x` is empty or not finite.
        OptionError
            `levels` is out of range.
        """
        features = validation.features("x", x)
        levels = validation.integer("levels", levels, 2, MAX_LEVELS)
        found = [_feature_edges(column, levels) for column in features.T]
        counts = np.array([len(edges) for edges in found], np.int32)
        edges = np.full((len(found), max(1, int(counts.max()))), np.inf)
        for row, values in zip(edges, found, strict=True):
            row[: len(values)] = values
        return cls(edges, counts)

    @property
    def n_features(self) -> int:
        """Number n of features."""
        return len(self.edges)

    @property
    def codes(self) -> np.ndarray:
        """(n, L + 1) uint8, the code of each level."""
        levels = np.arange(self.edges.shape[1] + 1)
        spread = np.rint(255.0 * levels / np.maximum(self.counts, 1)[:, None])
        return np.minimum(spread, 255).astype(np.uint8)

    def encode(self, x: ArrayLike) -> np.ndarray:
        """Return the codes of real features.

        Parameters
        ----------
        x
            (N, n) finite real features.

        Returns
        -------
        (N, n) uint8

        Raises
        ------
        InputError
            `x` is not finite or has another number of features.
        """
        features = validation.features("x", x)
        validation.same_features("x", features, self.n_features, "the grid")
        out = np.empty(features.shape, np.uint8)
        codes = self.codes

        def work(first: int, last: int) -> None:
            distances.bin_features(features, first, last, self.edges, self.counts, codes, out)

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
            A raw value v has a code in [lower, upper] if and only if low <= v < high; -inf and
            inf where a side is open. Empty boxes (between two codes) have low == high.
        """
        low = validation.codes("lower", lower)
        high = validation.codes("upper", upper)
        first = np.empty(low.shape)
        last = np.empty(high.shape)
        for feature, (codes, count) in enumerate(zip(self.codes, self.counts, strict=True)):
            bounds = np.concatenate(([-np.inf], self.edges[feature, :count], [np.inf]))
            used = codes[: count + 1]
            first[:, feature] = bounds[np.searchsorted(used, low[:, feature], side="left")]
            last[:, feature] = bounds[np.searchsorted(used, high[:, feature], side="right")]
        return first, last


def _feature_edges(column: np.ndarray, levels: int) -> np.ndarray:
    distinct = np.unique(column).astype(np.float64)
    if len(distinct) > levels:
        steps = np.linspace(0, 1, levels + 1)[1:-1]
        distinct = np.unique(np.quantile(column.astype(np.float64), steps))
        # A value on an edge counts as above it, so the smallest value may not be an edge.
        return distinct[distinct > column.min()]
    middle = distinct[:-1] / 2 + distinct[1:] / 2
    # Neighbouring floats have no middle: the upper one separates them.
    return np.where(middle > distinct[:-1], middle, distinct[1:])
