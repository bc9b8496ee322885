"""Log-volumes of boxes grown by a distance, relative to the domain of all code vectors.

The volume of a set of codes is the share of all code vectors that it holds: the probability of
the set under the uniform distribution. For codes 0..255 that is the Lebesgue measure of the cells
``[c / 256, (c + 1) / 256)`` in ``[0, 1]^n``, the volume of Definition 2.1. Where real features were
binned, each feature is uniform over the levels of its grid.

A box is *grown by u units* to all code vectors whose distance D to it is at most u. For width
W = 1 and u = r this is the r-neighbourhood in l0, and its volume the probability that at most r
features fall outside their intervals (a Poisson-binomial tail). For W > 1 it is the ball of the
graded distance, u = W r for r features. This reading is sound: the ball contains every
point that is reached from the box by rewriting r features; rewriting s more features stays within
the ball of W (r + s) units; and certificates measure this distance, so the share of the data in
the ball is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.boxes import Boxes
from boxnn_numba.errors import InputError
from boxnn_numba.grid import Grid
from boxnn_numba.kernels import volumes

#: Boxes this many nats (e-folds) below the largest are bounded, not computed: all of them
#: together add less than the rounding error.
_NEGLIGIBLE = 50.0


def codes_before(n_features: int, grid: Grid | None = None) -> np.ndarray:
    """Return how many codes below c each feature may take, for c = 0..256.

    Parameters
    ----------
    n_features
        Number n of features.
    grid
        The grid that made the codes, or None where a feature takes all codes 0..255.

    Returns
    -------
    (n, 257) uint16
    """
    if grid is None:
        return np.tile(np.arange(257, dtype=np.uint16), (n_features, 1))
    taken = np.zeros((n_features, 257), np.uint16)
    used = np.arange(grid.edges.shape[1] + 1) <= grid.counts[:, None]
    row, level = np.nonzero(used)
    taken[row, grid.codes[row, level].astype(np.intp) + 1] = 1
    if grid.missing is not None:
        taken[np.arange(n_features), grid.missing.astype(np.intp) + 1] = 1
    return np.cumsum(taken, axis=1, dtype=np.uint16)


def uniform_codes(rng: np.random.Generator, before: np.ndarray, n_rows: int) -> np.ndarray:
    """Draw code vectors uniformly from the domain.

    Parameters
    ----------
    rng
        Source of randomness.
    before
        (n, 257) from `codes_before`.
    n_rows
        Number of vectors.

    Returns
    -------
    (n_rows, n) uint8
    """
    total = before[:, -1].astype(np.int64)
    code = np.nonzero(np.diff(before, axis=1))[1]
    first = np.cumsum(total) - total
    rank = rng.integers(0, total, (n_rows, len(before)))
    return code.astype(np.uint8)[first + rank]


def grown_log_volumes(boxes: Boxes, units: int, grid: Grid | None = None) -> np.ndarray:
    """Return the exact log-volume of every box, grown by a distance.

    Parameters
    ----------
    boxes
        M boxes of width W, without parts and groups.
    units
        Distance to grow by, a whole number of units of 1 / W feature; ``W * r`` for r features.
    grid
        The grid of a model of real features.

    Returns
    -------
    (M,) float64
        Natural logarithms, at most 0; -inf for a box that no code vector is near to. Exact up
        to rounding: the relative error of a volume is below ``n * units**2 * 1e-15``, and
        some 1e-13 in practice.

    Raises
    ------
    InputError
        The boxes recombine part by part, or features are grouped.

    Notes
    -----
    Dynamic programming over the features, O(M n units) multiply-adds.

    Examples
    --------
    A box that is half of the domain in each of 3 features, grown by one feature: 4 of 8 octants.

    >>> from boxnn_numba import Boxes
    >>> boxes = Boxes([[0, 0, 0]], [[127, 127, 127]], [0])
    >>> np.exp(grown_log_volumes(boxes, 1)).round(12)
    array([0.5])
    """
    units = validation.integer("units", units, 0)
    _need_plain(boxes)
    before = codes_before(boxes.n_features, grid)
    everything = np.arange(len(boxes))
    tilt, _ = _tilts(boxes, everything, units, before)
    return _exact(boxes, everything, units, before, tilt)


def union_log_volume(
    boxes: Boxes, label: int, units: int, before: np.ndarray
) -> tuple[float, float]:
    """Return bounds on the log-volume of the union of one class's boxes, each grown.

    The lower bound is the largest grown box, the upper bound the sum of all (the union bound),
    so they differ by at most the logarithm of the number of boxes. Boxes that cannot matter
    enter the sum by Chernoff's bound.

    Parameters
    ----------
    boxes
        Boxes of width W, without parts and groups.
    label
        Index of the class.
    units
        As for `grown_log_volumes`.
    before
        (n, 257) from `codes_before`.

    Returns
    -------
    lower, upper : float
        Natural logarithms, at most 0; both -inf for a class without boxes.

    Raises
    ------
    InputError
        The boxes recombine part by part, or features are grouped.
    """
    units = validation.integer("units", units, 0)
    _need_plain(boxes)
    mine = np.arange(boxes.offsets[label], boxes.offsets[label + 1])
    if len(mine) == 0:
        return -np.inf, -np.inf
    tilt, volume = _tilts(boxes, mine, units, before)
    matter = volume >= volume.max() - _NEGLIGIBLE
    exact = _exact(boxes, mine[matter], units, before, tilt[matter])
    volume[matter] = exact
    return float(exact.max()), min(0.0, float(logsumexp(volume)))


def _need_plain(boxes: Boxes) -> None:
    """Raise unless each row is a box of its own and each feature has a penalty of its own."""
    if not boxes.structure.is_plain or boxes.structure.is_grouped:
        raise InputError(
            "volumes are of plain boxes; pass `boxes` without `template`, `part` and `group`"
        )


def _tilts(
    boxes: Boxes, rows: np.ndarray, units: int, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return for some boxes a tilt, and Chernoff's bound of the log-volume."""
    tilt, bound = np.zeros(len(rows)), np.zeros(len(rows))
    _for_each(volumes.tilts, boxes, rows, units, before, tilt, bound)
    return tilt, bound


def _exact(
    boxes: Boxes, rows: np.ndarray, units: int, before: np.ndarray, tilt: np.ndarray
) -> np.ndarray:
    out = np.zeros(len(rows))
    if units < boxes.n_features * boxes.width:  # else the whole domain
        _for_each(volumes.log_tails, boxes, rows, units, before, tilt, out)
    return out


def _for_each(
    kernel: Any, boxes: Boxes, rows: np.ndarray, units: int, before: np.ndarray, *arrays: np.ndarray
) -> None:
    """Run a kernel for some boxes; the arrays have a place for each of them."""
    lower, upper = boxes.lower[rows], boxes.upper[rows]

    def work(first: int, last: int) -> None:
        part = slice(first, last)
        places = (array[part] for array in arrays)
        kernel(lower[part], upper[part], before, boxes.width, units, *places)

    get_backend("cpu").parallel(len(rows), 1, work)
