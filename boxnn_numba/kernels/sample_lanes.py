"""Class distances with samples in the lanes of vectors, of boxes and of templates.

Vectors of whole rows waste their padding, and time for adding up their lanes. Here a vector holds a
group of features of some samples, and a box is the same in all of it:

      features 0..3 of    sample 0       sample 1             sample 15
      codes             [ 7 0 9 250  |  3 1 9 200  | ... |  8 0 0 17  ]     room[0, 0:64]
      lower             [ 5 0 0 100  |  5 0 0 100  | ... |  5 0 0 100 ]     broadcast
      partial sums      [     D      |      D      | ... |      D     ]     one a sample

so sums are the distances, and the minimum over the rows of a template is one of vectors, part by
part. A group is what a partial sum adds up: 4 features, or 8 (`simd.GROUP`).

The distance of a class so far bounds that of its next template. Each part begins with the rest of
this bound, which its rows can only lower. If nothing is left, the template cannot be nearer.

For lower <= upper the excess is ``max(x, upper) - min(x, lower) - (upper - lower)``, in which
nothing wraps around. Processors have more units for this than for saturated differences. The last
term is the same for all samples, so a box subtracts it once, where its sums begin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.kernels import simd, simd_operations
from boxnn_numba.kernels.compile import kernel, register_jitable
from boxnn_numba.kernels.distances import block_end

GROUP, LANES = simd.GROUP, simd_operations.LANES
#: Samples of a vector, and of a tile: two vectors against two boxes.
VECTOR_SAMPLES = LANES // GROUP
TILE_SAMPLES, TILE_BOXES = 2 * VECTOR_SAMPLES, 2
#: Groups after each of which sums may end.
MARK = 64 // GROUP
#: Groups whose features outside can be counted in bytes.
MOST_COUNTED = 255

# A regime is how partial sums begin, grow by a group, and end. `high` is the upper bound, or its
# distance from the lower one; `top` is that distance and the largest excess added up.


@register_jitable
def _count_begin(shift):
    return simd.no_bytes()


@register_jitable
def _count_add(counts, x, low, high, top):
    return simd.count_beyond(counts, simd.span(low, x), high)


@register_jitable
def _count_end(counts):
    return simd.add_bytes(simd.no_sums(), counts)


@register_jitable
def _sum_begin(shift):
    return simd.all_sums(shift)


@register_jitable
def _apart(x, low, high):
    return simd.span(simd.minimum(x, low), simd.maximum(x, high))


@register_jitable
def _capped_add(sums, x, low, high, top):
    return simd.add_bytes(sums, simd.minimum(_apart(x, low, high), top))


@register_jitable
def _uncapped_add(sums, x, low, high, top):
    return simd.add_bytes(sums, _apart(x, low, high))


@register_jitable
def _sum_end(sums):
    return sums


@register_jitable
def _count_more(counts, shift):
    return counts


@register_jitable
def _sum_more(sums, shift):
    return simd.plus(sums, simd.all_sums(shift))


@register_jitable
def _gather(x, first, tiles, rank, room):
    """Copy samples of x from the first on to `tiles` tiles, group g to row ``rank[g]`` of a tile.

    Lanes behind the last sample keep what they have, and so do those that pad the last group.
    """
    groups, whole = len(rank), x.shape[1] // GROUP
    for lane in range(min(tiles * TILE_SAMPLES, len(x) - first)):
        row, column, i = lane // TILE_SAMPLES * groups, lane % TILE_SAMPLES * GROUP, first + lane
        for g in range(whole):
            simd.store_group(room, row + rank[g], column, simd.load_group(x, i, g * GROUP))
        for k in range(whole * GROUP, x.shape[1]):
            room[row + rank[whole], column + k - whole * GROUP] = x[i, k]


@register_jitable
def _adds(room, tiles, groups, floor, ceiling, g):
    """Whether some code of a group of some tiles is outside [floor, ceiling]."""
    low, high = simd.repeat_group(floor, 0, g * GROUP), simd.repeat_group(ceiling, 0, g * GROUP)
    for row in range(g, tiles * groups, groups):
        for column in range(0, room.shape[1], LANES):
            if simd.some(simd.excess(simd.load(room, row, column), low, high)):
                return True
    return False


@register_jitable
def _used(room, tiles, floor, ceiling, edges, first, last):
    """Return the last of the marks first..last before which a group adds to a distance."""
    groups = floor.shape[1] // GROUP
    for mark in range(last, first, -1):
        for g in range(edges[mark - 1], edges[mark]):
            if _adds(room, tiles, groups, floor, ceiling, g):
                return mark
    return first


@register_jitable
def _mark(room, tiles, outer, edges, parts, marks):
    """Note where to begin, look and end in each part of some tiles: marks, and their groups."""
    for p in range(len(parts)):
        used = _used(room, tiles, outer[0], outer[1], edges, parts[p, 0], parts[p, 2])
        marks[p, 0], marks[p, 1], marks[p, 2] = parts[p, 0], min(parts[p, 1], used), used
        for mark in range(3):
            marks[p, 3 + mark] = edges[marks[p, mark]]


def _make_tile(add: Any) -> Any:
    @register_jitable(forceinline=True)
    def tile(room, row, groups, boxes, j, sums):
        """Add groups[0]..groups[1] of a tile of samples, which begins at `row`, to the 4 sums."""
        (s00, s10, s01, s11), (lower, upper, top) = sums, boxes
        for g in range(groups[0], groups[1]):
            x0, x1, k = simd.load(room, row + g, 0), simd.load(room, row + g, LANES), g * GROUP
            low, high = simd.repeat_group(lower, j, k), simd.repeat_group(upper, j, k)
            most = simd.repeat_group(top, j, k)
            s00, s10 = add(s00, x0, low, high, most), add(s10, x1, low, high, most)
            low, high = simd.repeat_group(lower, j + 1, k), simd.repeat_group(upper, j + 1, k)
            most = simd.repeat_group(top, j + 1, k)
            s01, s11 = add(s01, x0, low, high, most), add(s11, x1, low, high, most)
        return s00, s10, s01, s11

    return tile


def _make_closest(tile: Any, begin: Any, end: Any, more: Any) -> Any:
    @register_jitable(forceinline=True)
    def ends(sums):
        s00, s10, s01, s11 = sums
        return simd.smaller(end(s00), end(s01)), simd.smaller(end(s10), end(s11))

    @register_jitable(forceinline=True)
    def closest(room, row, boxes, shift, span, marks, groups, best0, best1):
        """Lower the smallest sums of two vectors of samples by those to rows span[0]..span[1]."""
        first, probe, used = marks
        before, after = (groups[0], groups[1]), (groups[1], groups[2])
        for j in range(span[0], span[1], TILE_BOXES):
            left = begin(shift[j, probe] - shift[j, first])
            right = begin(shift[j + 1, probe] - shift[j + 1, first])
            sums = tile(room, row, before, boxes, j, (left, left, right, right))
            if probe < used:
                sum0, sum1 = ends(sums)
                if simd.none_below(sum0, best0) and simd.none_below(sum1, best1):
                    continue
                left = shift[j, used] - shift[j, probe]
                right = shift[j + 1, used] - shift[j + 1, probe]
                s00, s10, s01, s11 = sums
                sums = more(s00, left), more(s10, left), more(s01, right), more(s11, right)
                sums = tile(room, row, after, boxes, j, sums)
            sum0, sum1 = ends(sums)
            best0, best1 = simd.smaller(best0, sum0), simd.smaller(best1, sum1)
        return best0, best1

    return closest


def _make_template(closest: Any) -> Any:
    @register_jitable(forceinline=True)
    def template(room, row, boxes, shift, span, marks, best0, best1):
        """Lower the smallest distances of two vectors of samples by those to a template."""
        rest0, rest1, none = best0, best1, simd.all_sums(np.int32(0))
        for p in range(len(marks)):
            # Nothing is left where the template is as far as another one.
            if p > 0 and simd.none_below(none, rest0) and simd.none_below(none, rest1):
                break
            groups = marks[p, 3], marks[p, 4], marks[p, 5]
            found0, found1 = closest(
                room, row, boxes, shift, span, (marks[p, 0], marks[p, 1], marks[p, 2]), groups,
                rest0, rest1,
            )  # fmt: skip
            rest0, rest1 = simd.minus(rest0, found0), simd.minus(rest1, found1)
        return simd.minus(best0, rest0), simd.minus(best1, rest1)

    return template


def _make_nearest(name: str, begin: Any, add: Any, end: Any, more: Any) -> Callable[..., Any]:
    template = _make_template(_make_closest(_make_tile(add), begin, end, more))

    @kernel(name=f"{name}_nearest_lanes")
    def nearest(x, rank, boxes, shift, rows, starts, edges, parts, outer, marks, room, least, out):
        """Write to ``out[i, c]`` the distance of sample i to the nearest template of class c.

        Parameters
        ----------
        x, rank
            Codes (N, n), and for each of their groups its row in a tile.
        boxes
            Tables (M', whole groups) uint8 of the regime.
        shift
            (M', marks) int32, initial values of sums that go from the first mark to another.
        rows, starts
            Templates ``starts[c]:starts[c + 1]`` are those of class c, and rows
            ``rows[t]:rows[t + 1]`` those of template t, whole tiles.
        edges, parts
            (marks,) int64 the group of each mark; and (P, 3) int64 the mark where a part begins,
            after which to look whether a tile can be left, and where it ends.
        outer
            (1, whole groups) uint8, the largest lower and the smallest upper bound.
        marks
            Room (P, 6) int64: marks of parts whose last groups add nothing, and their groups.
        room, least
            Room for some tiles: uint8 (tiles * groups, TILE_SAMPLES * GROUP), zeros, and int32
            (K, tiles * TILE_SAMPLES).
        """
        groups, far = len(rank), simd.all_sums(np.int32(2**31 - 1))
        most = len(room) // groups
        for first in range(0, len(x), most * TILE_SAMPLES):
            count = min(most * TILE_SAMPLES, len(x) - first)
            tiles = -(-count // TILE_SAMPLES)
            _gather(x, first, tiles, rank, room)
            _mark(room, tiles, outer, edges, parts, marks)
            for c in range(len(starts) - 1):
                for i in range(tiles):
                    simd.store_sums(least, c, i * TILE_SAMPLES, far)
                    simd.store_sums(least, c, i * TILE_SAMPLES + VECTOR_SAMPLES, far)
                t = starts[c]
                while t < starts[c + 1]:
                    stop = block_end(rows, t, starts[c + 1])
                    for i in range(tiles):
                        column = i * TILE_SAMPLES
                        best0 = simd.load_sums(least, c, column)
                        best1 = simd.load_sums(least, c, column + VECTOR_SAMPLES)
                        for u in range(t, stop):
                            span = rows[u], rows[u + 1]
                            best0, best1 = template(
                                room, i * groups, boxes, shift, span, marks, best0, best1
                            )
                        simd.store_sums(least, c, column, best0)
                        simd.store_sums(least, c, column + VECTOR_SAMPLES, best1)
                    t = stop
            for i in range(count):
                for c in range(out.shape[1]):
                    out[first + i, c] = least[c, i]

    return nearest


_REGIMES = {
    "counted": (_count_begin, _count_add, _count_end, _count_more),
    "capped": (_sum_begin, _capped_add, _sum_end, _sum_more),
    "uncapped": (_sum_begin, _uncapped_add, _sum_end, _sum_more),
}


def regime(width: int, groups: int) -> str:
    """Return how penalties of a width are added up over so many groups of features."""
    if width == 1 and groups <= MOST_COUNTED:
        return "counted"
    return "uncapped" if width == 255 else "capped"


@functools.cache
def nearest_kernel(name: str) -> Callable[..., Any]:
    """Return the kernel of a regime for class distances."""
    return _make_nearest(name, *_REGIMES[name])
