"""Loops over samples, boxes and features, writing into arrays they are given.

Distances exist in two forms that give the same integers: `vector_distances` on
vectors of bytes, and `lane_distances`, with boxes in the lanes, which the
compiler vectorises for any processor and any type of number. Neither needs
floating-point reassociation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.kernels import formulas, simd, simd_operations
from boxnn_numba.kernels.compile import kernel, register_jitable

#: Samples and boxes are processed in tiles of this size by the vector form.
TILE_SAMPLES, TILE_BOXES = 4, 2
#: Boxes whose codes stay in the cache while a block of samples passes.
BLOCK_BOXES = 32
LANES = simd_operations.LANES
#: Boxes whose sums the lane form keeps together (a compile-time length).
LANE_BOXES = 64

# --- distances on vectors of bytes --------------------------------------------------------
# One regime per width: how partial sums begin, grow by one vector, and end. Columns are those of a
# plane; where features are grouped, plane q holds the code number q of every group.


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


def _make_tile(add: Any) -> Any:
    @register_jitable(forceinline=True)
    def tile(x, i, lower, upper, j, columns, planes, cap, sums):
        """Add columns[0]..columns[1] of 4 samples against 2 boxes to the 8 sums."""
        s00, s10, s20, s30, s01, s11, s21, s31 = sums
        for k in range(columns[0], columns[1], LANES):
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

    return tile


@register_jitable
def _more(excess, x, lower, upper):
    return simd.add_saturated(excess, simd.excess(x, lower, upper))


@register_jitable(forceinline=True)
def _grouped_tile(x, i, lower, upper, j, columns, planes, cap, sums):
    """As a tile of single features: the excess of a group is added up, and capped as a whole."""
    s00, s10, s20, s30, s01, s11, s21, s31 = sums
    stride = x.shape[1] // planes
    for column in range(columns[0], columns[1], LANES):
        e00, e10, e20, e30 = simd.no_bytes(), simd.no_bytes(), simd.no_bytes(), simd.no_bytes()
        e01, e11, e21, e31 = e00, e10, e20, e30
        for plane in range(planes):
            k = column + plane * stride
            lower0, upper0 = simd.load(lower, j, k), simd.load(upper, j, k)
            lower1, upper1 = simd.load(lower, j + 1, k), simd.load(upper, j + 1, k)
            codes = simd.load(x, i, k)
            e00, e01 = _more(e00, codes, lower0, upper0), _more(e01, codes, lower1, upper1)
            codes = simd.load(x, i + 1, k)
            e10, e11 = _more(e10, codes, lower0, upper0), _more(e11, codes, lower1, upper1)
            codes = simd.load(x, i + 2, k)
            e20, e21 = _more(e20, codes, lower0, upper0), _more(e21, codes, lower1, upper1)
            codes = simd.load(x, i + 3, k)
            e30, e31 = _more(e30, codes, lower0, upper0), _more(e31, codes, lower1, upper1)
        s00 = simd.add_bytes(s00, simd.minimum(e00, cap))
        s10 = simd.add_bytes(s10, simd.minimum(e10, cap))
        s20 = simd.add_bytes(s20, simd.minimum(e20, cap))
        s30 = simd.add_bytes(s30, simd.minimum(e30, cap))
        s01 = simd.add_bytes(s01, simd.minimum(e01, cap))
        s11 = simd.add_bytes(s11, simd.minimum(e11, cap))
        s21 = simd.add_bytes(s21, simd.minimum(e21, cap))
        s31 = simd.add_bytes(s31, simd.minimum(e31, cap))
    return s00, s10, s20, s30, s01, s11, s21, s31


@register_jitable
def _no_sums():
    return simd.no_sums()


def _make_zeros(begin: Any) -> Any:
    @register_jitable
    def zeros():
        return begin(), begin(), begin(), begin(), begin(), begin(), begin(), begin()

    return zeros


def _make_ends(end: Any) -> Any:
    @register_jitable
    def ends(sums):
        s00, s10, s20, s30, s01, s11, s21, s31 = sums
        return end(s00, s10, s20, s30), end(s01, s11, s21, s31)

    return ends


def _make_row_kernels(name: str, tile: Any, begin: Any, end: Any) -> tuple[Any, Any]:
    """Kernels for which the nearest row alone decides."""
    zeros, ends = _make_zeros(begin), _make_ends(end)

    @kernel(name=f"{name}_distances")
    def distances(x, first, last, lower, upper, box_first, box_last, planes, width, out):
        """Write D of samples first..last to boxes box_first..box_last to the corner of `out`.

        x, lower and upper are uint8 with rows padded to the tile and columns to the vector;
        `out` is int32 and holds whole tiles.
        """
        cap = simd.splat(np.uint8(width))
        columns = (0, x.shape[1] // planes)
        for block in range(box_first, box_last, BLOCK_BOXES):
            for i in range(first, last, TILE_SAMPLES):
                for j in range(block, min(block + BLOCK_BOXES, box_last), TILE_BOXES):
                    left, right = ends(tile(x, i, lower, upper, j, columns, planes, cap, zeros()))
                    for lane in range(TILE_SAMPLES):
                        simd.store_total(out, i - first + lane, j - box_first, left, lane)
                        simd.store_total(out, i - first + lane, j - box_first + 1, right, lane)

    @kernel(name=f"{name}_nearest")
    def nearest(x, lower, upper, starts, probe, columns, planes, width, out):
        """Lower ``out[c, i]`` to the distance of sample i to the nearest box of class c.

        Boxes ``starts[c]:starts[c + 1]`` are those of class c, whole tiles. After `probe` columns a
        tile is left where no partial sum is below what its class has already: the
        minimum cannot change. Columns from `columns` on add nothing.
        """
        cap = simd.splat(np.uint8(width))
        before, after = (0, probe), (probe, columns)
        for c in range(len(starts) - 1):
            for block in range(starts[c], starts[c + 1], BLOCK_BOXES):
                for i in range(0, x.shape[0], TILE_SAMPLES):
                    best = simd.load_quad(out, c, i)
                    for j in range(block, min(block + BLOCK_BOXES, starts[c + 1]), TILE_BOXES):
                        sums = tile(x, i, lower, upper, j, before, planes, cap, zeros())
                        left, right = ends(sums)
                        if probe < columns:
                            if simd.none_below(simd.smaller(left, right), best):
                                continue
                            sums = tile(x, i, lower, upper, j, after, planes, cap, sums)
                            left, right = ends(sums)
                        best = simd.smaller(best, simd.smaller(left, right))
                    simd.store_totals(out, c, i, best)

    return distances, nearest


@register_jitable
def _outside_add(counts, x, lower, upper, cap):
    # The cap is 1. Bytes without masks: processors have fewer units for masks.
    outside = simd.minimum(simd.beyond(x, lower, simd.span(lower, upper)), cap)
    return simd.add_saturated(counts, outside)


@register_jitable
def _no_bytes():
    return simd.no_bytes()


@register_jitable
def _outside_totals(b0, b1, b2, b3):
    zero = simd.no_sums()
    s0, s1 = simd.add_bytes(zero, b0), simd.add_bytes(zero, b1)
    return simd.totals(s0, s1, simd.add_bytes(zero, b2), simd.add_bytes(zero, b3))


@register_jitable
def _outside_quarters(b0, b1, b2, b3):
    zero = simd.no_sums()
    s0, s1 = simd.add_bytes(zero, b0), simd.add_bytes(zero, b1)
    return simd.quarter_totals(s0, s1, simd.add_bytes(zero, b2), simd.add_bytes(zero, b3))


@register_jitable
def block_end(rows, t, last):
    """Return the first of the templates t..last whose rows are of another block.

    Rows ``rows[t]:rows[t + 1]`` are those of template t, which is in the block whatever its size.
    """
    stop = t + 1
    while stop < last and rows[stop + 1] - rows[t] <= BLOCK_BOXES:
        stop += 1
    return stop


def _make_parts(name: str, tile: Any, zeros: Any, ends: Any) -> Callable[..., Any]:
    @kernel(name=f"{name}_parts")
    def parts(x, lower, upper, segments, planes, width, out):
        """Write the distances of all samples to all boxes in each segment.

        x, lower and upper are as for distances; segments (S, >= 2) their first and last columns.
        `out` is int32: row ``tile * S + segment``, and for each box the totals of 4 samples.
        """
        cap = simd.splat(np.uint8(width))
        count = len(segments)
        totals = out.shape[1] // lower.shape[0]
        for block in range(0, lower.shape[0], BLOCK_BOXES):
            for i in range(0, x.shape[0], TILE_SAMPLES):
                for s in range(count):
                    columns, row = (segments[s, 0], segments[s, 1]), i // TILE_SAMPLES * count + s
                    for j in range(block, min(block + BLOCK_BOXES, lower.shape[0]), TILE_BOXES):
                        sums = tile(x, i, lower, upper, j, columns, planes, cap, zeros())
                        left, right = ends(sums)
                        simd.store_totals(out, row, j * totals, left)
                        simd.store_totals(out, row, (j + 1) * totals, right)

    return parts


def _make_template(tile: Any, zeros: Any, ends: Any, load: Any) -> Any:
    @register_jitable
    def least(x, i, lower, upper, rows, columns, planes, cap, room, more):
        """The smallest totals of some rows, added to those in `room` if `more`, and kept there."""
        found = simd.farthest(load(room, 0, 0))
        for j in range(rows[0], rows[1], TILE_BOXES):
            left, right = ends(tile(x, i, lower, upper, j, columns, planes, cap, zeros()))
            if more:
                left = simd.plus(left, load(room, j - rows[0], 0))
                right = simd.plus(right, load(room, j - rows[0] + 1, 0))
            else:
                simd.store_totals(room, j - rows[0], 0, left)
                simd.store_totals(room, j - rows[0] + 1, 0, right)
            found = simd.smaller(found, simd.smaller(left, right))
        return found

    @register_jitable
    def template(x, i, lower, upper, rows, steps, planes, cap, room, best):
        """The distance of 4 samples to a template; where not below `best`, any such."""
        before = total = simd.no_totals()
        for step in range(len(steps)):
            columns, more = (steps[step, 0], steps[step, 1]), steps[step, 2] > 0
            if not more:
                before = total
            # One place that calls this, so that the compiler puts it here.
            found = least(x, i, lower, upper, rows, columns, planes, cap, room, more)
            total = simd.plus(before, simd.whole(found))
            if simd.none_below(total, best):
                break
        return total

    return template


def _make_templates(name: str, template: Any) -> Callable[..., Any]:
    @kernel(name=f"{name}_templates")
    def templates(x, lower, upper, rows, starts, steps, planes, width, room, out):
        """Lower ``out[c, i]`` to the distance of sample i to the nearest template of class c.

        Templates ``starts[c]:starts[c + 1]`` are those of class c, and rows ``rows[t]:rows[t + 1]``
        those of template t, whole tiles. steps (R, 3) are first and last columns, and 1 where they
        go on with a segment; after each a template is left where it is too far. `room` holds the
        totals of the rows of one template.
        """
        cap = simd.splat(np.uint8(width))
        for c in range(len(starts) - 1):
            t = starts[c]
            while t < starts[c + 1]:
                stop = block_end(rows, t, starts[c + 1])
                for i in range(0, x.shape[0], TILE_SAMPLES):
                    best = simd.load_quad(out, c, i)
                    for u in range(t, stop):
                        span = (rows[u], rows[u + 1])
                        found = template(x, i, lower, upper, span, steps, planes, cap, room, best)
                        best = simd.smaller(best, found)
                    simd.store_totals(out, c, i, best)
                t = stop

    return templates


def _make_part_kernels(name: str, tile: Any, begin: Any, end: Any, load: Any) -> tuple[Any, Any]:
    """Kernels for templates, whose rows recombine part by part.

    A segment is a range of columns, all of one part, or with a part in each quarter of a vector:
    then four totals become sixteen, and all that is above happens to each quarter.
    """
    zeros, ends = _make_zeros(begin), _make_ends(end)
    template = _make_template(tile, zeros, ends, load)
    return _make_parts(name, tile, zeros, ends), _make_templates(name, template)


_TILES = {
    "counted": _make_tile(_count_add),
    "outside": _make_tile(_outside_add),
    "capped": _make_tile(_capped_add),
    "uncapped": _make_tile(_uncapped_add),
    "grouped": _grouped_tile,
}
#: Vectors whose features outside can be counted in bytes.
_MOST_VECTORS = 255


@functools.cache
def vector_kernels(width: int, planes: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the vector kernels at a width, for all distances and for those to classes."""
    regime = "grouped" if planes > 1 else {1: "counted", 255: "uncapped"}.get(width, "capped")
    if regime == "counted":
        return _make_row_kernels(regime, _TILES[regime], _count_begin, simd.counts)
    return _make_row_kernels(regime, _TILES[regime], _no_sums, simd.totals)


def part_kernels(
    width: int, planes: int, quarters: bool, columns: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the vector kernels at a width for part distances, and for those to classes.

    With `quarters` each quarter of a vector is of its own part. No step has more than `columns`.
    """
    regime = "grouped" if planes > 1 else {1: "outside", 255: "uncapped"}.get(width, "capped")
    if regime == "outside" and columns > _MOST_VECTORS * LANES:
        regime = "capped"
    return _part_kernels(regime, quarters)


@functools.cache
def _part_kernels(regime: str, quarters: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    tile, outside = _TILES[regime], regime == "outside"
    begin = _no_bytes if outside else _no_sums
    if quarters:
        end = _outside_quarters if outside else simd.quarter_totals
        return _make_part_kernels(f"{regime}_quarters", tile, begin, end, simd.load_quarters)
    end = _outside_totals if outside else simd.totals
    return _make_part_kernels(f"{regime}_whole", tile, begin, end, simd.load_quad)


@kernel
def used_columns(x, floor, ceiling, planes, first, last):
    """Return the end, in whole vectors, of those of columns first..last that add to a distance.

    floor (1, n) is the largest lower bound of all boxes, ceiling the smallest upper bound.
    """
    stride = x.shape[1] // planes
    for start in range(last - LANES, first - 1, -LANES):
        for k in range(start, x.shape[1], stride):
            low, high = simd.load(floor, 0, k), simd.load(ceiling, 0, k)
            for i in range(x.shape[0]):
                if simd.some(simd.excess(simd.load(x, i, k), low, high)):
                    return start + LANES
    return first


@kernel
def spread_columns(x, columns, out):
    """Copy the rows of x to those of `out`, column k to ``columns[k]``."""
    for i in range(len(x)):
        row, target = x[i], out[i]
        for k in range(len(columns)):
            target[columns[k]] = row[k]


# --- distances with boxes in the lanes -----------------------------------------------------


@kernel(allocates=True)
def grouped_distances(x, lower, upper, width, out):
    """As the others below, of codes in planes: x (N, planes, n), boxes (blocks, planes, n, 64)."""
    excess = np.empty(LANE_BOXES, out.dtype)
    for block in range(lower.shape[0]):
        for i in range(x.shape[0]):
            sums = out[i, block * LANE_BOXES : (block + 1) * LANE_BOXES]
            sums[:] = 0
            for k in range(x.shape[2]):
                excess[:] = 0
                for plane in range(x.shape[1]):
                    low, high = lower[block, plane, k], upper[block, plane, k]
                    code = x[i, plane, k]
                    for j in range(LANE_BOXES):
                        excess[j] += formulas.excess(code, low[j], high[j])
                for j in range(LANE_BOXES):
                    sums[j] += min(excess[j], width)


@kernel(allocates=True)
def graded_distances(x, lower, upper, width, out):
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
                    sum0[j] += formulas.graded(x0, low[j], high[j], width)
                    sum1[j] += formulas.graded(x1, low[j], high[j], width)
                    sum2[j] += formulas.graded(x2, low[j], high[j], width)
                    sum3[j] += formulas.graded(x3, low[j], high[j], width)
            column = block * LANE_BOXES
            out[i : i + TILE_SAMPLES, column : column + LANE_BOXES] = sums


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


@kernel
def mark_missing(x, first, last, missing, out):
    """Write the code of a missing value wherever a feature is NaN."""
    for i in range(first, last):
        for k in range(x.shape[1]):
            if np.isnan(x[i, k]):
                out[i, k] = missing[k]
