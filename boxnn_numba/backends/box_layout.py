"""Box table and lanes: boxes laid out for the kernels of the CPU, padded, ordered and aligned.

    BoxTable, for vectors of codes                    LaneTable, for the lanes of plain loops

      lower, upper (M', n') uint8                       lower, upper (blocks, n, 64) of any type

              n features          n'                    block 0             block 1
            +------------------+-----+                  boxes 0 .. 63       boxes 64 .. 127
      box 0 |  12   0  255 ... |  0  |                feature 0 [ 12 30 .. ]  [  7 .. 0 0 ]
          1 |  30   5  250 ... |  0  |                        1 [  0  5 .. ]  [  1 .. 0 0 ]
        ... |                  |  0  |                        2 [255 250 . ]  [ 80 .. 0 0 ]
        M-1 |                  |  0  |                      ...
            +------------------+     |                      n-1
         M' |   0   0   0        0   |                boxes that fill up a block are computed and
            +------------------+-----+                ignored

The table's columns are padded to whole vectors and its rows to whole tiles; what pads has lower 0
and upper 255, so it adds nothing to a distance. A `ClassLayout` is a table whose rows are sorted by
class and whose columns stand in the order in which they tell boxes apart:

      rows      class 0: 4 0 2 2 | class 1: 1 3 | ...   whole tiles; the last box is repeated
      columns   what matters most | probe | the rest    a tile is left at the probe if it is too far
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.kernels import distances, simd

_CACHE_LINE = 64
#: Part of the penalties between boxes that the columns before the probe make up.
_PROBE_SHARE = 0.94
#: Distance to a class that has no box.
UNREACHABLE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class BoxTable:
    """Boxes laid out for the kernels.

    Attributes
    ----------
    lower, upper
        uint8 (M', n'), padded to whole tiles and vectors; padding never adds to a distance.
    n_boxes, n_features
        M and n without the padding.
    """

    lower: np.ndarray
    upper: np.ndarray
    n_boxes: int
    n_features: int

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (M, n) parts of lower and upper, as views."""
        m, n = self.n_boxes, self.n_features
        return self.lower[:m, :n], self.upper[:m, :n]


def aligned(shape: tuple[int, ...], value: int) -> np.ndarray:
    """Return a uint8 array of one value that begins on a cache line, as vectors like it."""
    size = int(np.prod(shape))
    raw = np.full(size + _CACHE_LINE, value, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size].reshape(shape)


def box_table(lower: np.ndarray, upper: np.ndarray) -> BoxTable:
    """Return uint8 bounds (M, n) padded to whole tiles and vectors."""
    m, n = lower.shape
    shape = (round_up(m, distances.TILE_BOXES), round_up(n, simd.LANES))
    table = BoxTable(aligned(shape, 0), aligned(shape, 255), m, n)
    table.lower[:m, :n] = lower
    table.upper[:m, :n] = upper
    return table


@dataclass(frozen=True)
class ClassLayout:
    """Boxes laid out for class distances, made once per model.

    The columns are in a new order, those that tell boxes apart first, so that most boxes can be
    left after `probe` columns and the columns that never matter come last.

    Attributes
    ----------
    table
        The boxes, whole tiles per class (the last box of a class is repeated).
    labels, starts
        Class of each row of the table; rows ``starts[c]:starts[c + 1]`` are of class c.
    columns
        (n,) original index of each column.
    floor, ceiling
        (1, n') uint8, the largest lower and the smallest upper bound of each column.
    probe
        Columns after which to look whether a tile can be left, whole vectors.
    """

    table: BoxTable
    labels: np.ndarray
    starts: np.ndarray
    columns: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    probe: int

    @functools.cached_property
    def lanes(self) -> LaneTable:
        """The table for the lane kernels."""
        return lane_table(*self.table.bounds(), np.int32)


def class_layout(lower: np.ndarray, upper: np.ndarray, offsets: np.ndarray) -> ClassLayout:
    """Lay out uint8 bounds (M, n) for `CpuBackend.class_distance`.

    Boxes ``offsets[c]:offsets[c + 1]`` are of class c.
    """
    counts = np.diff(offsets)
    padded = round_up(counts, distances.TILE_BOXES)
    starts = np.concatenate(([0], np.cumsum(padded)))
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), padded)
    within = np.arange(len(labels)) - starts[labels]
    rows = offsets[labels] + np.minimum(within, counts[labels] - 1)
    # How much a column adds between boxes: the penalties of some boxes' centres to some others.
    low, high = (side[:: max(1, len(side) // 256)].astype(np.int32) for side in (lower, upper))
    weight = np.zeros(lower.shape[1])
    for centre in ((low + high) // 2)[::4]:
        weight += np.abs(centre - np.clip(centre, low, high)).sum(axis=0)
    columns = np.argsort(-weight, kind="stable")
    share = np.cumsum(weight[columns]) / max(1.0, weight.sum())
    probe = round_up(int(np.searchsorted(share, _PROBE_SHARE)) + 1, simd.LANES)
    table = box_table(lower[rows][:, columns], upper[rows][:, columns])
    floor = table.lower[: len(rows)].max(axis=0, keepdims=True)
    ceiling = table.upper[: len(rows)].min(axis=0, keepdims=True)
    return ClassLayout(table, labels, starts, columns, floor, ceiling, probe)


@dataclass(frozen=True)
class LaneTable:
    """Boxes for the lane kernels: lower and upper (blocks, n, LANE_BOXES) of any number type."""

    lower: np.ndarray
    upper: np.ndarray


def lane_table(lower: np.ndarray, upper: np.ndarray, dtype: Any) -> LaneTable:
    """Return bounds (M, n) for the lane kernels, as numbers of a type."""
    blocks = -(-len(lower) // distances.LANE_BOXES)
    sides = []
    for side in (lower, upper):
        padded = np.zeros((blocks * distances.LANE_BOXES, side.shape[1]), dtype)
        padded[: len(side)] = side
        shaped = padded.reshape(blocks, distances.LANE_BOXES, -1).transpose(0, 2, 1)
        sides.append(np.ascontiguousarray(shaped))
    return LaneTable(*sides)


def round_up(value: Any, multiple: int) -> Any:
    """Return the smallest multiple that is not below the value."""
    return -(-value // multiple) * multiple
