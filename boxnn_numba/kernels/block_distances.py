"""Distances of a block of samples to boxes, with the samples in the lanes of vectors.

    codes of a block, four columns to a row          distances of the block
    columns 0..3   s0 s0 s0 s0 s1 s1 ... s31         (part, box)   s0  s1  s2 ... s31
    columns 4..7   s0 s0 s0 s0 s1 s1 ... s31         (part, box)   s0  s1  s2 ... s31

Four codes of a box meet those of every sample, and their penalties add up within a lane, so no sum
runs across lanes, no row is padded to whole vectors, and what follows, sample by sample, fits
vectors too. The plain form, for any processor and penalty, has one column to a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.kernels import formulas, simd_lanes, simd_operations
from boxnn_numba.kernels.compile import register_jitable

#: Samples of a block.
BLOCK = simd_lanes.BLOCK
_QUARTER = BLOCK // 4
#: Boxes that are read in one part after the other: an even number, whose rows stay in the cache.
_FEW_BOXES = 64

# --- on vectors of bytes ------------------------------------------------------------------


@register_jitable
def _vector_room(columns):
    """Return room for the codes of a block."""
    return np.zeros((columns // 4, 4 * BLOCK), np.uint8)


@register_jitable
def _vector_fill(x, first, last, codes):
    """Write the codes of samples first..last, (batch, columns) uint8, to a block."""
    for i in range(first, last):
        for k in range(x.shape[1] // 4):
            simd_lanes.store_four(codes, k, 4 * (i - first), simd_lanes.load_four(x, i, 4 * k))


def _make_vector_boxes(vector: Any) -> Any:
    load, splat, cap_of = vector.load_codes, vector.splat_four, vector.splat_code
    no_codes, grown = vector.no_codes, vector.grown
    no_lanes, add, store = vector.no_lanes, vector.add_capped, vector.store_lanes

    @register_jitable(allocates=False)
    def boxes(codes, lane, lower, upper, some, columns, planes, width, out, row):
        """Write the distances of the samples from `lane` on to some boxes, in some columns."""
        cap, stride = cap_of(np.uint8(width)), lower.shape[1] // planes
        zero = no_codes()
        for j in range(some[0], some[1], 2):
            left, right = no_lanes(), no_lanes()
            for k in range(columns[0], columns[1], 4):
                x = load(codes, k // 4, 4 * lane)
                one = grown(zero, x, splat(lower, j, k), splat(upper, j, k))
                two = grown(zero, x, splat(lower, j + 1, k), splat(upper, j + 1, k))
                for plane in range(1, planes):
                    at = k + plane * stride
                    x = load(codes, at // 4, 4 * lane)
                    one = grown(one, x, splat(lower, j, at), splat(upper, j, at))
                    two = grown(two, x, splat(lower, j + 1, at), splat(upper, j + 1, at))
                left = add(left, one, cap)
                right = add(right, two, cap)
            store(out, row + j, lane, left)
            store(out, row + j + 1, lane, right)

    return boxes


_block_boxes = _make_vector_boxes(simd_lanes.block_lanes)
_quarter_boxes = _make_vector_boxes(simd_lanes.quarter_lanes)


@register_jitable(allocates=False)
def _vector_distances(codes, rows, lower, upper, spans, planes, width, out):
    """Write the distances of a block of `rows` samples to all boxes, part by part.

    lower and upper (M', columns) are uint8, an even number of rows; spans (P, 2) first and last
    columns of each part, and padding to whole fours adds nothing. `out` is (P * M', BLOCK) int32.
    """
    for first in range(0, len(lower), _FEW_BOXES):
        some = first, min(first + _FEW_BOXES, len(lower))
        for p in range(len(spans)):
            columns, row = (spans[p, 0], spans[p, 1]), p * len(lower)
            if rows > BLOCK - _QUARTER:
                _block_boxes(codes, 0, lower, upper, some, columns, planes, width, out, row)
            else:
                for lane in range(0, rows, _QUARTER):
                    _quarter_boxes(
                        codes, lane, lower, upper, some, columns, planes, width, out, row
                    )


# --- plain loops --------------------------------------------------------------------------


@register_jitable
def _plain_room(columns):
    return np.zeros((columns, BLOCK), np.int32)


@register_jitable
def _plain_fill(x, first, last, codes):
    for i in range(first, last):
        for k in range(x.shape[1]):
            codes[k, i - first] = x[i, k]


def _make_plain_distances(penalty: Any) -> Any:
    @register_jitable
    def distances(codes, rows, lower, upper, spans, planes, width, out):
        """As on vectors."""
        stride, cap = lower.shape[1] // planes, np.int32(width)
        excess = np.zeros(BLOCK, np.int32)
        for p in range(len(spans)):
            for j in range(len(lower)):
                sums = out[p * len(lower) + j]
                sums[:] = 0
                for k in range(spans[p, 0], spans[p, 1]):
                    if planes == 1:
                        row, low, high = codes[k], np.int32(lower[j, k]), np.int32(upper[j, k])
                        for i in range(BLOCK):
                            sums[i] += penalty(row[i], low, high, cap)
                        continue
                    excess[:] = 0
                    for at in range(k, lower.shape[1], stride):
                        row, low, high = codes[at], np.int32(lower[j, at]), np.int32(upper[j, at])
                        for i in range(BLOCK):
                            excess[i] += formulas.excess(row[i], low, high)
                    for i in range(BLOCK):
                        sums[i] += min(excess[i], cap)

    return distances


#: The functions that make distances: room for codes, filling it, and the loops.
Loops = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
_VECTOR: Loops = _vector_room, _vector_fill, _vector_distances
_PLAIN: dict[str, Loops] = {
    name: (_plain_room, _plain_fill, _make_plain_distances(penalty))
    for name, penalty in (("graded", formulas.graded), ("l1", formulas.l1), ("l2", formulas.l2))
}


def loops(penalty: str) -> tuple[str, Loops]:
    """Return a name and the loops for a penalty on this processor."""
    if simd_operations.TARGET == "plain" or penalty != "graded":
        return f"plain_{penalty}", _PLAIN[penalty]
    return "vector", _VECTOR
