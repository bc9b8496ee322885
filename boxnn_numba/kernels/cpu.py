"""Loops over samples, boxes and features, writing into arrays they are given.

Distances exist in two forms that give the same integers: `vector_distances` on
vectors of bytes, and `lane_distances`, with boxes in the lanes, which the
compiler vectorises for any processor and any type of number. Neither needs
floating-point reassociation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from boxnn_numba.kernels import elementwise, simd
from boxnn_numba.kernels.compile import kernel

#: Samples and boxes are processed in tiles of this size by the vector form.
TILE_SAMPLES, TILE_BOXES = 4, 2
#: Boxes whose codes stay in the first-level cache while a block of samples passes.
BLOCK_BOXES = 32
LANES = simd.LANES
#: Boxes whose sums the lane form keeps together (a compile-time length).
LANE_BOXES = 64

# --- distances on vectors of bytes --------------------------------------------------------
# One regime per width: how partial sums begin, grow by one vector, and end.


@register_jitable
def _count_begin():  # type: ignore[no-untyped-def]
    return 0


@register_jitable
def _count_add(sums, x, lower, upper, cap):  # type: ignore[no-untyped-def]
    return sums + simd.count_outside(x, lower, simd.span(lower, upper))


@register_jitable
def _count_end(sums):  # type: ignore[no-untyped-def]
    return sums


@register_jitable
def _sum_begin():  # type: ignore[no-untyped-def]
    return simd.no_sums()


@register_jitable
def _capped_add(sums, x, lower, upper, cap):  # type: ignore[no-untyped-def]
    return simd.add_bytes(sums, simd.minimum(simd.excess(x, lower, upper), cap))


@register_jitable
def _uncapped_add(sums, x, lower, upper, cap):  # type: ignore[no-untyped-def]
    return simd.add_bytes(sums, simd.excess(x, lower, upper))


@register_jitable
def _sum_end(sums):  # type: ignore[no-untyped-def]
    return simd.total(sums)


def _make_vector_distances(name: str, begin: Any, add: Any, end: Any) -> Callable[..., Any]:
    @kernel(name=name)
    def distances(x, first, last, lower, upper, box_first, box_last, width, out):  # type: ignore[no-untyped-def]
        """Write D of samples first..last to boxes box_first..box_last to the corner of `out`.

        x, lower and upper are uint8 with rows padded to the tile and columns to the vector;
        `out` is int32 and holds whole tiles.
        """
        cap = simd.splat(np.uint8(width))
        for block in range(box_first, box_last, BLOCK_BOXES):
            for i in range(first, last, TILE_SAMPLES):
                row = i - first
                for j in range(block, min(block + BLOCK_BOXES, box_last), TILE_BOXES):
                    column = j - box_first
                    s00, s01, s10, s11 = begin(), begin(), begin(), begin()
                    s20, s21, s30, s31 = begin(), begin(), begin(), begin()
                    for k in range(0, x.shape[1], LANES):
                        lower0, upper0 = simd.load(lower, j, k), simd.load(upper, j, k)
                        lower1, upper1 = simd.load(lower, j + 1, k), simd.load(upper, j + 1, k)
                        codes = simd.load(x, i, k)
                        s00 = add(s00, codes, lower0, upper0, cap)
                        s01 = add(s01, codes, lower1, upper1, cap)
                        codes = simd.load(x, i + 1, k)
                        s10 = add(s10, codes, lower0, upper0, cap)
                        s11 = add(s11, codes, lower1, upper1, cap)
                        codes = simd.load(x, i + 2, k)
                        s20 = add(s20, codes, lower0, upper0, cap)
                        s21 = add(s21, codes, lower1, upper1, cap)
                        codes = simd.load(x, i + 3, k)
                        s30 = add(s30, codes, lower0, upper0, cap)
                        s31 = add(s31, codes, lower1, upper1, cap)
                    out[row, column], out[row, column + 1] = end(s00), end(s01)
                    out[row + 1, column], out[row + 1, column + 1] = end(s10), end(s11)
                    out[row + 2, column], out[row + 2, column + 1] = end(s20), end(s21)
                    out[row + 3, column], out[row + 3, column + 1] = end(s30), end(s31)

    return distances


_counted = _make_vector_distances("counted_distances", _count_begin, _count_add, _count_end)
_capped = _make_vector_distances("capped_distances", _sum_begin, _capped_add, _sum_end)
_uncapped = _make_vector_distances("uncapped_distances", _sum_begin, _uncapped_add, _sum_end)


def vector_distances(width: int) -> Callable[..., Any]:
    """Return the vector kernel for a width: 1 counts, 255 never caps."""
    return _counted if width == 1 else (_uncapped if width == 255 else _capped)


# --- distances with boxes in the lanes -----------------------------------------------------


def _make_lane_distances(name: str, penalty: Any) -> Callable[..., Any]:
    @kernel(name=name)
    def distances(x, lower, upper, width, out):  # type: ignore[no-untyped-def]
        """Write the distances of padded samples to blocks of boxes.

        x is (N, n), N a multiple of TILE_SAMPLES; lower and upper are (blocks, n, LANE_BOXES)
        and `out` is (N, blocks * LANE_BOXES), all of one type.
        """
        sums = np.empty((TILE_SAMPLES, LANE_BOXES), out.dtype)
        sum0, sum1, sum2, sum3 = sums[0], sums[1], sums[2], sums[3]
        for block in range(lower.shape[0]):
            for i in range(0, x.shape[0], TILE_SAMPLES):
                sums[:] = 0
                for k in range(x.shape[1]):
                    low, high = lower[block, k], upper[block, k]
                    x0, x1, x2, x3 = x[i, k], x[i + 1, k], x[i + 2, k], x[i + 3, k]
                    for j in range(LANE_BOXES):
                        sum0[j] += penalty(x0, low[j], high[j], width)
                        sum1[j] += penalty(x1, low[j], high[j], width)
                        sum2[j] += penalty(x2, low[j], high[j], width)
                        sum3[j] += penalty(x3, low[j], high[j], width)
                column = block * LANE_BOXES
                out[i : i + TILE_SAMPLES, column : column + LANE_BOXES] = sums

    return distances


graded_distances = _make_lane_distances("graded_distances", elementwise.graded)
l1_distances = _make_lane_distances("l1_distances", elementwise.l1)
l2_distances = _make_lane_distances("l2_distances", elementwise.l2)


@kernel
def nearest_per_class(distance, rows, labels, first, last, out, out_first):  # type: ignore[no-untyped-def]
    """Lower ``out[out_first + i, labels[j]]`` to ``distance[i, j - first]`` where smaller."""
    for i in range(rows):
        row, nearest = distance[i], out[out_first + i]
        for j in range(first, last):
            c = labels[j]
            nearest[c] = min(nearest[c], row[j - first])


@kernel
def bin_features(x, first, last, edges, counts, codes, out):  # type: ignore[no-untyped-def]
    """Write the code of each feature: that of the number of edges at or below it."""
    for i in range(first, last):
        for k in range(x.shape[1]):
            low, high = 0, counts[k]
            while low < high:
                middle = (low + high) // 2
                if edges[k, middle] <= x[i, k]:
                    low = middle + 1
                else:
                    high = middle
            out[i, k] = codes[k, low]
