"""Patch bound: whether rewriting one block of pixels lets a rival template overtake, by position.

A block is a rectangle of pixels, a placement the pixel of its top left corner. In a group of
features that are capped together a row B gains on a row A, over all codes,

    min(sum of max over v in B of excess_A(v), W) - penalty_A(x) + penalty_B(x)

since leaving B never helps: it raises B's penalty by as much as A's, or B's is at W, where A's can
only be as large. A template has one row for each part, chosen anew for every placement, so

    V(q) = sum over parts of  min over its rows B of (d_B - d_A - gains of B in the block at q)

is a lower bound of its distance less that of the own template, after any rewriting of block q.

The columns of a table hold what a part reads, part by part, and in a part plane by plane:

    region of a part   the pixels of all blocks that touch it, row by row: `size` columns a plane
    planes             the first features of the pixels' first groups, the second ones, ..., then
                       those of their second groups; where a pixel has none, bounds 0..255

A field of `size` numbers has a place for each pixel. Placements are the places that leave room for
a block. The others are computed too, which keeps loops plain, and are never read.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.compile import kernel, register_jitable

#: Columns of the geometry of a part: its first column, its groups in a pixel and their planes, the
#: top left pixel of its region, and the region's height and width.
COLUMN, GROUPS, PLANES, TOP, LEFT, HEIGHT, WIDTH = range(7)


@register_jitable
def _outside(code, low, high):
    """How far a code lies outside [low, high], in bytes."""
    return max(np.uint8(max(low, code) - code), np.uint8(max(code, high) - high))


@register_jitable
def _add_excess(x, low, high, width, first, out):
    """Write (`first`) or add the penalties of codes to those of their groups so far."""
    for i in range(len(out)):
        more = np.int32(_outside(x[i], low[i], high[i]))
        out[i] = min(more if first else np.int32(out[i] + more), width)


@register_jitable
def _add_reach(own_low, own_high, low, high, width, first, out):
    """Write (`first`) or add the largest penalties that codes in [low, high] reach."""
    for i in range(len(out)):
        below = np.uint8(max(own_low[i], low[i]) - low[i])
        above = np.uint8(max(own_high[i], high[i]) - own_high[i])
        more = np.int32(max(below, above))
        out[i] = min(more if first else np.int32(out[i] + more), width)


@register_jitable
def _add(source, out, first):
    """Write (`first`) or add numbers."""
    for i in range(len(out)):
        out[i] = source[i] if first else out[i] + source[i]


@register_jitable
def _least(values):
    least = values[0]
    for i in range(len(values)):
        least = min(least, values[i])
    return least


@register_jitable
def penalties(x, low, high, part, width, group, out):
    """Write the penalties of a part's pixels: x, low, high are codes of all columns."""
    size = part[HEIGHT] * part[WIDTH]
    at = part[COLUMN]
    for g in range(part[GROUPS]):
        for plane in range(part[PLANES]):
            s = slice(at, at + size)
            _add_excess(x[s], low[s], high[s], width, plane == 0, group[:size])
            at += size
        _add(group[:size], out[:size], g == 0)


@register_jitable
def _gains(x, own_low, own_high, low, high, own, part, width, group, out):
    """Write what a row gains on the own row in a part's pixels, of which `own` has penalties."""
    size = part[HEIGHT] * part[WIDTH]
    at = part[COLUMN]
    for i in range(size):
        out[i] = -own[i]
    for _ in range(part[GROUPS]):
        start = at
        for plane in range(part[PLANES]):
            s = slice(at, at + size)
            _add_excess(x[s], low[s], high[s], width, plane == 0, group[:size])
            at += size
        _add(group[:size], out[:size], False)
        at = start
        for plane in range(part[PLANES]):
            s = slice(at, at + size)
            _add_reach(own_low[s], own_high[s], low[s], high[s], width, plane == 0, group[:size])
            at += size
        _add(group[:size], out[:size], False)


@register_jitable
def _window_sums(gains, part, patch, columns, out):
    """Write the sums of gains over the block at each place."""
    height, width = part[HEIGHT], part[WIDTH]
    size = (height - patch[0] + 1) * width
    for down in range(patch[0]):
        _add(gains[down * width : down * width + size], columns[:size], down == 0)
    last = size - patch[1] + 1
    for right in range(patch[1]):
        _add(columns[right : right + last], out[:last], right == 0)
    return last


@register_jitable
def _part_field(x, table, part, room, patch, width, own, rows, distance, most, scratch, field):
    """Write the least of distance less gains over a template's rows at each place of a part.

    own is (row, penalties, distance) of the own row, rows (first, last) of the template's. Returns
    the least distance less the own one, and the least value of a placement, if that is smaller.
    """
    lower, upper = table
    group, gains, columns, sums = scratch
    row, penalty, nearest = own
    base = distance[rows[0]]
    for m in range(rows[0] + 1, rows[1]):
        base = min(base, distance[m])
    first = True
    last = 0
    for m in range(rows[0], rows[1]):
        # A block gains `most` at the most: farther rows are never the nearest.
        if distance[m] - most >= base and distance[m] > base:
            continue
        _gains(x, lower[row], upper[row], lower[m], upper[m], penalty, part, width, group, gains)
        last = _window_sums(gains, part, patch, columns, sums)
        gap = np.int32(distance[m] - nearest)
        if first:
            for i in range(last):
                field[i] = gap - sums[i]
        else:
            for i in range(last):
                field[i] = min(field[i], np.int32(gap - sums[i]))
        first = False
    base -= nearest
    least = np.int32(base)
    for i in range(last):
        least = min(least, np.int32(field[i] + room[i]))
    return base, least


@register_jitable
def _spread(field, base, part, patch, places, out):
    """Add to (h, w) placements what a part's field is less than its base; `places` is w."""
    height, width = part[HEIGHT] - patch[0] + 1, part[WIDTH] - patch[1] + 1
    for y in range(height):
        at = (part[TOP] + y) * places + part[LEFT]
        row = out[at : at + width]
        values = field[y * part[WIDTH] : y * part[WIDTH] + width]
        for i in range(width):
            row[i] += values[i] - base


@register_jitable
def _template_field(x, table, parts, rooms, shape, width, own, rows, distance, cap, scratch, out):
    """Write V(q) of a template against an own one where it matters: where some is below `cap`.

    own is (rows, penalties) of the own template by part, rows (first, last) of the other. Returns
    a lower bound of V, its least value where that is below `cap`.
    """
    own_rows, penalty = own
    buffers, fields, bases = scratch
    patch = shape[0], shape[1]
    gap = 0
    drop = 0
    for p in range(len(parts)):
        nearest = distance[p, own_rows[p]]
        base, least = _part_field(
            x, table, parts[p], rooms[p], patch, width, (own_rows[p], penalty[p], nearest), rows,
            distance[p], shape[4][p], buffers, fields[p],
        )  # fmt: skip
        bases[p] = base
        gap += base
        drop += base - least
    if gap - drop >= cap:
        return gap - drop
    for i in range(len(out)):
        out[i] = gap
    for p in range(len(parts)):
        _spread(fields[p], np.int32(bases[p]), parts[p], patch, shape[2], out)
    return _least(out)


@register_jitable
def _weigh(x, table, rows, geometry, width, own, distance, t, cap, scratch):
    """Write V(q) of a template against own ones, until none is below `cap`; return the least.

    The first of the scratch is (how many own templates are ready, their rows by part, their
    penalties), which is made when it is asked for.
    """
    parts, rooms, shape = geometry
    (ready, own_rows, penalty), inner, other, out = scratch
    span = rows[t], rows[t + 1]
    least = np.int64(cap)
    for a in range(len(own)):
        if a == ready[0]:
            for p in range(len(parts)):
                best = rows[own[a]]
                for m in range(best + 1, rows[own[a] + 1]):
                    if distance[p, m] < distance[p, best]:
                        best = m
                own_rows[a, p] = best
                penalties(
                    x, table[0][best], table[1][best], parts[p], width, inner[0][0], penalty[a, p]
                )
            ready[0] += 1
        least = _template_field(
            x, table, parts, rooms, shape, width, (own_rows[a], penalty[a]), span, distance, cap,
            inner, other if a else out,
        )  # fmt: skip
        if least < cap and a:
            for i in range(len(out)):
                out[i] = max(out[i], other[i])
            least = np.int64(_least(out))
        if least >= cap:
            break
    return least


@kernel
def patch_gaps(
    x, table, structure, geometry, width, own, distance, gaps, nearest, caps, single, scratch, least
):
    """Lower the least V(q) of the templates of each class where it is below the cap of the class.

    x (C,) and table (lower, upper) (M, C) are codes by column of the table; structure is (rows
    (T + 1,), templates (K + 1,)) as in `Structure`. Geometry is (parts (P, 7) int64, rooms (P, S)
    int32, shape (rows and columns of a block, columns of placements, most gain of a block, the same
    in each part)), rooms 0 at placements and large elsewhere.

    own (A,) are templates of the predicted class, the nearest first, distance (P, M) int32
    distances to all rows, gaps (T,) int64 distances of templates less the nearest own one's,
    nearest (K,) the nearest template of each class, caps (K,) int64: a V at or above it is
    harmless, and least (K, Q) int32, Q placements, is not lowered to it. Templates whose gap is the
    cap and the most gain, or larger, are harmless, so a cap low enough leaves a class out. If
    `single`, any V below its cap ends it. Returns whether there was none.
    """
    rows, templates = structure
    scratch[0][0][0] = 0
    value = scratch[3]
    safe = True
    for turn in range(2):
        for c in range(len(caps)):
            for t in range(templates[c], templates[c + 1]):
                # The nearest of each class first: where a block succeeds, it is seen soon.
                if (t == nearest[c]) != (turn == 0) or gaps[t] - geometry[2][3] >= caps[c]:
                    continue
                lowest = _weigh(x, table, rows, geometry, width, own, distance, t, caps[c], scratch)
                if lowest >= caps[c]:
                    continue
                if single:
                    return False
                safe = False
                for i in range(len(value)):
                    least[c, i] = min(least[c, i], value[i])
    return safe
