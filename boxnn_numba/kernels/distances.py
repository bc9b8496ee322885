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

from boxnn_numba.kernels import formulas, simd
from boxnn_numba.kernels.compile import kernel

#: Samples and boxes are processed in tiles of this size by the vector form.
TILE_SAMPLES, TILE_BOXES = 4, 2
#: Boxes whose codes stay in the cache while a block of samples passes.
BLOCK_BOXES = 32
LANES = simd.LANES
#: Boxes whose sums the lane form keeps together (a compile-time length).
LANE_BOXES = 64

# --- distances on vectors of bytes --------------------------------------------------------
# One regime per width: how partial sums begin, grow by one vector, and end.


@register_jitable
def _count_begin():
    return 0


@register_jitable
def _count_add(sums, x, lower, upper, cap):
    return sums + simd.count_outside(x, lower, simd.span(lower, upper))


@register_jitable
def _capped_add(sums, x, lower, upper, cap):
    return simd.add_bytes(sums, simd.minimum(simd.excess(x, lower, upper), cap))


@register_jitable
def _uncapped_add(sums, x, lower, upper, cap):
    return simd.add_bytes(sums, simd.excess(x, lower, upper))


def _make_vector_kernels(name: str, begin: Any, add: Any, end: Any) -> tuple[Any, Any]:
    @register_jitable
    def tile(x, i, lower, upper, j, first, last, cap, sums):
        """Add columns first..last of 4 samples against 2 boxes to the 8 sums."""
        s00, s10, s20, s30, s01, s11, s21, s31 = sums
        for k in range(first, last, LANES):
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
        return s00, s10, s20, s30, s01, s11, s21, s31

    @register_jitable
    def zeros():
        return begin(), begin(), begin(), begin(), begin(), begin(), begin(), begin()

    @register_jitable
    def ends(sums):
        s00, s10, s20, s30, s01, s11, s21, s31 = sums
        return end(s00, s10, s20, s30), end(s01, s11, s21, s31)

    @kernel(name=f"{name}_distances")
    def distances(x, first, last, lower, upper, box_first, box_last, width, out):
        """Write D of samples first..last to boxes box_first..box_last to the corner of `out`.

        x, lower and upper are uint8 with rows padded to the tile and columns to the vector;
        `out` is int32 and holds whole tiles.
        """
        cap = simd.splat(np.uint8(width))
        for block in range(box_first, box_last, BLOCK_BOXES):
            for i in range(first, last, TILE_SAMPLES):
                for j in range(block, min(block + BLOCK_BOXES, box_last), TILE_BOXES):
                    sums = tile(x, i, lower, upper, j, 0, x.shape[1], cap, zeros())
                    left, right = ends(sums)
                    simd.store_column(out, i - first, j - box_first, left)
                    simd.store_column(out, i - first, j - box_first + 1, right)

    @kernel(name=f"{name}_nearest")
    def nearest(x, lower, upper, starts, probe, columns, width, out):
        """Lower ``out[c, i]`` to the distance of sample i to the nearest box of class c.

        Boxes ``starts[c]:starts[c + 1]`` are those of class c, whole tiles. After `probe` columns a
        tile is left where no partial sum is below what its class has already: the
        minimum cannot change. Columns from `columns` on add nothing.
        """
        cap = simd.splat(np.uint8(width))
        for c in range(len(starts) - 1):
            for block in range(starts[c], starts[c + 1], BLOCK_BOXES):
                for i in range(0, x.shape[0], TILE_SAMPLES):
                    best = simd.load_quad(out, c, i)
                    for j in range(block, min(block + BLOCK_BOXES, starts[c + 1]), TILE_BOXES):
                        sums = tile(x, i, lower, upper, j, 0, probe, cap, zeros())
                        left, right = ends(sums)
                        if probe < columns:
                            if simd.none_below(simd.smaller_quad(left, right), best):
                                continue
                            sums = tile(x, i, lower, upper, j, probe, columns, cap, sums)
                            left, right = ends(sums)
                        best = simd.smaller_quad(best, simd.smaller_quad(left, right))
                    simd.store_quad(out, c, i, best)

    return distances, nearest


_KERNELS = {
    1: _make_vector_kernels("counted", _count_begin, _count_add, simd.counts),
    255: _make_vector_kernels("uncapped", simd.no_sums, _uncapped_add, simd.totals),
}
_CAPPED_KERNELS = _make_vector_kernels("capped", simd.no_sums, _capped_add, simd.totals)


def vector_kernels(width: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the vector kernels at a width, for all distances and for those to classes."""
    return _KERNELS.get(width, _CAPPED_KERNELS)


@kernel
def used_columns(x, floor, ceiling):
    """Return how many leading columns can add to a distance, in whole vectors.

    floor (1, n) is the largest lower bound of all boxes, ceiling the smallest upper bound.
    """
    for start in range(x.shape[1] - LANES, -1, -LANES):
        low, high = simd.load(floor, 0, start), simd.load(ceiling, 0, start)
        for i in range(x.shape[0]):
            codes = simd.load(x, i, start)
            if simd.some(simd.excess(codes, low, high)):
                return start + LANES
    return 0


@kernel
def gather_columns(x, first, last, columns, out):
    """Copy rows first..last with columns in a new order to the corner of `out`."""
    for i in range(first, last):
        row, target = x[i], out[i - first]
        for k in range(len(columns)):
            target[k] = row[columns[k]]


# --- distances with boxes in the lanes -----------------------------------------------------


def _make_lane_distances(name: str, penalty: Any) -> Callable[..., Any]:
    @kernel(name=name)
    def distances(x, lower, upper, width, out):
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


graded_distances = _make_lane_distances("graded_distances", formulas.graded)
l1_distances = _make_lane_distances("l1_distances", formulas.l1)
l2_distances = _make_lane_distances("l2_distances", formulas.l2)


@kernel
def nearest_per_class(distance, rows, labels, out, out_first):
    """Lower ``out[out_first + i, labels[j]]`` to ``distance[i, j]`` where that is smaller."""
    for i in range(rows):
        row, nearest = distance[i], out[out_first + i]
        for j in range(len(labels)):
            c = labels[j]
            nearest[c] = min(nearest[c], row[j])


@kernel
def bin_features(x, first, last, edges, counts, codes, out):
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
