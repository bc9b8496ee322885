"""Second half of a training step: sparse gradient, update, and copies of the boxes.

All sums are of integers (coefficients in fixed point), so a gradient is the same to the last bit
however samples and boxes are split among threads, workers or vector lanes. The first half, from
distances to entries, is in `boxnn_numba.kernels.softmin`.

A cell is a box in one part, number ``box * P + part``. Its columns are first..last of `spans`
(P, 2), and with these in every plane: (planes, columns) of a plane are a shape. A cell is moved
while it is in the cache: the slopes of all its entries are added up, times their coefficients, tile
by tile of its columns, and then its masters move and are rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.kernels import formulas
from boxnn_numba.kernels.compile import fill, kernel, register_jitable
from boxnn_numba.kernels.simd_lanes import (
    BLOCK,
    add_where,
    add_within,
    load_tile,
    no_slopes,
    quarter_lanes,
    store_slopes,
)
from boxnn_numba.kernels.simd_operations import TARGET

#: Columns of a tile.
_TILE = BLOCK
#: Sums of coefficients that are no larger fit 32 bits.
_NARROW = 2**31 - 1


@kernel
def sort_by_box(samples, boxes, coefficients, starts, sorted_samples, sorted_coefficients):
    """Counting sort: write entries by box, or cell; those of m are from ``starts[m]`` on."""
    fill(starts, 0)
    for e in range(len(boxes)):
        starts[boxes[e] + 1] += 1
    for m in range(1, len(starts)):
        starts[m] += starts[m - 1]
    for e in range(len(boxes)):
        m = boxes[e]
        sorted_samples[starts[m]] = samples[e]
        sorted_coefficients[starts[m]] = coefficients[e]
        starts[m] += 1
    for m in range(len(starts) - 1, 0, -1):
        starts[m] = starts[m - 1]
    starts[0] = 0


# --- slopes of a tile: columns at..at + size of box m, of every plane ------------------------
# In the room, `picked` are the samples of a cell's entries, `pulls` (2, ...) their coefficients q
# and round(q * leak). Sums (2 * planes, ...) float64 get whole numbers from column `to` on: lower
# and upper of each plane. Each returns whether any is not 0.


@register_jitable
def _slope_room(x, spans, planes, coefficients):
    """Return room for the entries of a cell, for its sums, and for what makes these up."""
    most = _TILE
    for p in range(len(spans)):
        most = max(most, spans[p, 1] - spans[p, 0] + _TILE)
    picked, pulls = np.empty(len(x), np.int32), np.empty((2, len(x)), coefficients.dtype)
    sums, whole = np.zeros((2 * planes, most)), np.empty((2, most), np.int64)
    return picked, pulls, sums, whole, np.empty(most, np.int32)


def _make_plain_slopes(slope: Any) -> Any:
    @register_jitable(allocates=False)
    def plain_slopes(x, codes, m, at, size, shape, room, count, width, to):
        some, (picked, pulls, sums, whole, _) = False, room
        low, high = whole[0, :size], whole[1, :size]
        fill(low, 0)
        fill(high, 0)
        a, b = codes[0][m, at : at + size], codes[1][m, at : at + size]
        for e in range(count):
            code = x[picked[e], at : at + size]
            q, q_leak = np.int64(pulls[0, e]), np.int64(pulls[1, e])
            for k in range(size):
                below = np.int32(a[k]) - np.int32(code[k])
                above = np.int32(code[k]) - np.int32(b[k])
                low[k] += slope(below, width, q, q_leak)
                high[k] -= slope(above, width, q, q_leak)
        for k in range(size):
            sums[0, to + k], sums[1, to + k] = low[k], high[k]
            some = some or low[k] != 0 or high[k] != 0
        return some

    return plain_slopes


@register_jitable(allocates=False)
def _grouped_slopes(x, codes, m, at, size, shape, room, count, width, to):
    """As of single features: what counts is the excess of a group as a whole."""
    some, (planes, columns) = False, shape
    picked, pulls, sums, _, totals = room
    total = totals[:size]
    for side in range(2 * planes):
        fill(sums[side, to : to + size], 0.0)
    for e in range(count):
        q, q_leak = np.int64(pulls[0, e]), np.int64(pulls[1, e])
        fill(total, 0)
        for plane in range(planes):
            first = plane * columns + at
            code, a, b = x[picked[e], first:], codes[0][m, first:], codes[1][m, first:]
            for k in range(size):
                total[k] += formulas.excess(np.int32(code[k]), np.int32(a[k]), np.int32(b[k]))
        for plane in range(planes):
            first = plane * columns + at
            code, a, b = x[picked[e], first:], codes[0][m, first:], codes[1][m, first:]
            low, high = sums[2 * plane, to:], sums[2 * plane + 1, to:]
            for k in range(size):
                below = np.int32(a[k]) - np.int32(code[k])
                above = np.int32(code[k]) - np.int32(b[k])
                low[k] += formulas.grouped_slope(below, total[k], width, q, q_leak)
                high[k] -= formulas.grouped_slope(above, total[k], width, q, q_leak)
    for row in range(2 * planes):
        for k in range(to, to + size):
            some = some or sums[row, k] != 0.0
    return some


if TARGET == "plain":
    _vector_slopes = _wide_slopes = None
else:
    _grown, _no_codes = quarter_lanes.grown, quarter_lanes.no_codes

    @register_jitable(allocates=False)
    def _vector_slopes(x, codes, m, at, shape, room, count, width, to):
        """Of single features and without a leak; sums fit 32 bits."""
        picked, pulls, sums, _, _ = room
        a, b = load_tile(codes[0], m, at), load_tile(codes[1], m, at)
        low, high = no_slopes(), no_slopes()
        for e in range(count):
            code, q = load_tile(x, picked[e], at), np.int32(pulls[0, e])
            low = add_where(low, a, code, q)
            high = add_where(high, code, b, np.int32(-q))
        below = store_slopes(sums, 0, to, low)
        above = store_slopes(sums, 1, to, high)
        return below or above

    @register_jitable(allocates=False)
    def _wide_slopes(x, codes, m, at, shape, room, count, width, to):
        """Of groups, or with a leak; the width is below 255 where there are groups."""
        picked, pulls, sums, _, _ = room
        some, (planes, columns), cap = False, shape, np.uint8(width)
        for plane in range(planes):
            here = plane * columns + at
            a, b = load_tile(codes[0], m, here), load_tile(codes[1], m, here)
            low, high = no_slopes(), no_slopes()
            for e in range(count):
                q, q_leak = np.int32(pulls[0, e]), np.int32(pulls[1, e])
                code = load_tile(x, picked[e], here)
                excess = _grown(_no_codes(), code, a, b)
                for other in range(planes):
                    if other != plane:
                        k = other * columns + at
                        excess = _grown(
                            excess, load_tile(x, picked[e], k),
                            load_tile(codes[0], m, k), load_tile(codes[1], m, k),
                        )  # fmt: skip
                low = add_within(low, a, code, excess, cap, q, q_leak)
                high = add_within(high, code, b, excess, cap, np.int32(-q), np.int32(-q_leak))
            below = store_slopes(sums, 2 * plane, to, low)
            above = store_slopes(sums, 2 * plane + 1, to, high)
            some = some or below or above
        return some


def _make_slopes(penalty: str, grouped: bool) -> Any:
    plain = {
        "graded": _grouped_slopes if grouped else _make_plain_slopes(formulas.graded_slope),
        "l1": _make_plain_slopes(formulas.l1_slope),
        "l2": _make_plain_slopes(formulas.l2_slope),
    }[penalty]

    @register_jitable(allocates=False)
    def plain_slopes(x, codes, m, span, shape, room, found, width, leak):
        """Write the slopes of all columns of a cell; return first and last that may not be 0."""
        size = span[1] - span[0]
        some = plain(x, codes, m, span[0], size, shape, room, found[0], width, 0)
        return 0, size if some else 0

    if TARGET == "plain" or penalty != "graded":
        return plain_slopes

    @register_jitable(allocates=False)
    def vector_slopes(x, codes, m, span, shape, room, found, width, leak):
        count, mass = found
        # Vectors know no excess above 255.
        if mass > _NARROW or (shape[0] > 1 and width > 254):
            return plain_slopes(x, codes, m, span, shape, room, found, width, leak)
        wide, size = (leak != 1.0 and width < 255) or shape[0] > 1, span[1] - span[0]
        first, last = size, 0
        for to in range(0, size, _TILE):
            at = span[0] + to
            if wide:
                some = _wide_slopes(x, codes, m, at, shape, room, count, width, to)
            else:
                some = _vector_slopes(x, codes, m, at, shape, room, count, width, to)
            if some:
                first, last = min(first, to), min(to + _TILE, size)
        return first, last

    return vector_slopes


@register_jitable(allocates=False)
def _pick(cell, starts, samples, coefficients, leak, room):
    """Gather the entries of a cell from all blocks; return how many, and their mass."""
    count, mass, (picked, pulls, _, _, _) = 0, 0, room
    for block in range(len(starts)):
        for e in range(starts[block, cell], starts[block, cell + 1]):
            q = np.int64(coefficients[block, e])
            picked[count], pulls[0, count] = samples[block, e], q
            pulls[1, count] = round(q * leak)
            mass += abs(q)
            count += 1
    return count, mass


# --- step --------------------------------------------------------------------------------------


@register_jitable(allocates=False)
def _settle(masters, codes, m, first, last):
    """Keep masters inside the codes, uncross them, and round them to the deployed box."""
    lows, highs = masters[0][m, first:last], masters[1][m, first:last]
    low_codes, high_codes = codes[0][m, first:last], codes[1][m, first:last]
    for k in range(len(lows)):
        low, high = formulas.settled(lows[k], highs[k])
        # Codes follow from the float32 that is stored, so that a resumed run finds the same.
        lows[k], highs[k] = low, high
        low_codes[k] = formulas.rounded(low)
        high_codes[k] = formulas.rounded(high)


@register_jitable(allocates=False)
def _sgd(master, gradient, share, first_moment, second_moment, settings):
    rate, momentum, decay = settings
    if momentum > 0.0:
        for k in range(len(master)):
            master[k], first_moment[k] = formulas.sgd_update(
                master[k], share * gradient[k], first_moment[k], rate, momentum, decay
            )
    else:
        for k in range(len(master)):
            master[k], _ = formulas.sgd_update(
                master[k], share * gradient[k], 0.0, rate, 0.0, decay
            )


@register_jitable(allocates=False)
def _adam(master, gradient, share, first_moment, second_moment, settings):
    rate, decay, correct1, correct2 = settings
    for k in range(len(master)):
        master[k], first_moment[k], second_moment[k] = formulas.adam_update(
            master[k], share * gradient[k], first_moment[k], second_moment[k], rate, decay,
            correct1, correct2,
        )  # fmt: skip


@functools.cache
def moves(penalty: str, grouped: bool, optimizer: str) -> Callable[..., Any]:
    """Return the work of `move` as a function that kernels call."""
    slopes = _make_slopes(penalty, grouped)
    update, by_adam = {"sgd": (_sgd, False), "adam": (_adam, True)}[optimizer]

    @register_jitable(allocates=False)
    def move_cell(x, m, span, shape, room, found, width, leak, boxes, scale, step, dense):
        """Step a cell of `found` entries, which are in the room, and round it."""
        (masters, moments1, moments2, codes), (settings, limit), share = boxes, step, scale
        if not by_adam:
            share = formulas.product(scale, formulas.crowd_share(found[1], limit))
        a, b = slopes(x, codes, m, span, shape, room, found, width, leak)
        if dense:
            a, b = 0, span[1] - span[0]
        for plane in range(shape[0] if a < b else 0):
            at = plane * shape[1] + span[0]
            for side in range(2):
                update(
                    masters[side][m, at + a : at + b], room[2][2 * plane + side, a:b], share,
                    moments1[side][m, at + a : at + b], moments2[side][m, at + a : at + b],
                    settings,
                )  # fmt: skip
            _settle(masters, codes, m, at + a, at + b)

    @register_jitable(allocates=False)
    def move_cells(
        x, first_cell, last_cell, spans, shape, starts, samples, coefficients, width, leak, boxes,
        scale, step, dense, room,
    ):  # fmt: skip
        """Step cells first..last."""
        for cell in range(first_cell, last_cell):
            found = _pick(cell, starts, samples, coefficients, leak, room)
            if found[0] == 0 and not dense:
                continue
            m, p = cell // len(spans), cell % len(spans)
            move_cell(
                x, m, (spans[p, 0], spans[p, 1]), shape, room, found, width, leak, boxes, scale,
                step, dense,
            )  # fmt: skip

    @register_jitable
    def move(
        x, first_cell, last_cell, spans, shape, starts, samples, coefficients, width, leak, masters,
        moments1, moments2, codes, scale, settings, limit, dense,
    ):  # fmt: skip
        """Step cells first..last along the entries of all blocks, and round them.

        x (batch, columns) uint8; starts (B, cells + 1), samples and coefficients (B, ...) int32 as
        the kernels of `softmin` write them, or int64 coefficients. masters and codes are (lower,
        upper) pairs, (M, columns) float32 and uint8; so are the moments, unused where the optimiser
        keeps none. Integer gradients times `scale` are per unit of [0, 1]; settings are those of
        `formulas.sgd_update` or `adam_update`. Steps of cells whose mass is above the limit, a
        float, are scaled down (sgd). Cells without entries move only if `dense`.
        """
        move_cells(
            x, first_cell, last_cell, spans, shape, starts, samples, coefficients, width, leak,
            (masters, moments1, moments2, codes), scale, (settings, limit), dense,
            _slope_room(x, spans, shape[0], coefficients),
        )  # fmt: skip

    return move


@functools.cache
def move(penalty: str, grouped: bool, optimizer: str) -> Callable[..., Any]:
    """Return the kernel that steps boxes with a penalty, of single or grouped features."""
    name = f"move_{'grouped' if grouped else penalty}_{optimizer}"
    return kernel(moves(penalty, grouped, optimizer), name=name, allocates=True)


@functools.cache
def gradient(penalty: str, grouped: bool) -> Callable[..., Any]:
    """Return the kernel that writes what `move` adds up."""
    slopes = _make_slopes(penalty, grouped)

    @kernel(name=f"{'grouped' if grouped else penalty}_gradient", allocates=True)
    def gradient(x, spans, shape, starts, samples, coefficients, width, leak, codes, lower, upper):
        """Write the gradient to lower and upper (M, columns) float64: whole numbers."""
        planes, columns = shape
        room = _slope_room(x, spans, planes, coefficients)
        for cell in range(starts.shape[1] - 1):
            m, p = cell // len(spans), cell % len(spans)
            found = _pick(cell, starts, samples, coefficients, leak, room)
            span = spans[p, 0], spans[p, 1]
            size = span[1] - span[0]
            slopes(x, codes, m, span, shape, room, found, width, leak)
            for plane in range(planes):
                at = plane * columns + span[0]
                lower[m, at : at + size] = room[2][2 * plane, :size]
                upper[m, at : at + size] = room[2][2 * plane + 1, :size]

    return gradient


@kernel
def settle(masters, codes):
    """Settle all boxes, after initialisation."""
    for m in range(masters[0].shape[0]):
        _settle(masters, codes, m, 0, masters[0].shape[1])


# --- copies of the boxes elsewhere, which follow step by step ------------------------------


@register_jitable(allocates=False)
def _find_changes(cells, spans, shape, codes, known, counts, gaps, changed, places):
    count, (planes, columns) = 0, shape
    for t in range(len(cells)):
        m, p = cells[t] // len(spans), cells[t] % len(spans)
        size = spans[p, 1] - spans[p, 0]
        for side in range(2):
            began, last = count, 0
            for plane in range(planes):
                first = plane * columns + spans[p, 0]
                new, old = (
                    codes[side][m, first : first + size],
                    known[side][m, first : first + size],
                )
                words = size // 8
                word, before = new[: 8 * words].view(np.uint64), old[: 8 * words].view(np.uint64)
                found = 0
                for w in range(words):
                    if word[w] != before[w]:
                        for k in range(8):  # without a branch: changes cannot be predicted
                            places[found] = 8 * w + k
                            found += new[8 * w + k] != old[8 * w + k]
                for k in range(8 * words, size):
                    places[found] = k
                    found += new[k] != old[k]
                for i in range(found):
                    here = plane * size + places[i]
                    while here - last > 255:
                        last += 255
                        at = last // size * columns + spans[p, 0] + last % size
                        gaps[count], changed[count] = 255, codes[side][m, at]
                        count += 1
                    gaps[count], changed[count] = here - last, new[places[i]]
                    old[places[i]] = new[places[i]]
                    count += 1
                    last = here
            counts[t, side] = count - began
    return count


@kernel(allocates=True)
def find_changes(cells, spans, shape, codes, known, counts, gaps, changed):
    """Bring known codes up to date with those of some cells; write what was new, return how many.

    codes and known are (lower, upper) pairs, (M, columns) uint8; counts (cells, 2) int32 gets the
    changes of each side. A change is the code and its gap, a uint8, to the one before, where a
    cell's columns are counted through plane by plane. Codes that did not change fill longer gaps.
    """
    places = np.empty(shape[1], np.int64)
    return _find_changes(cells, spans, shape, codes, known, counts, gaps, changed, places)


@kernel
def make_changes(cells, spans, shape, counts, gaps, changed, lower, upper):
    """Apply the changes of `find_changes` to bounds (M, columns) uint8 that are laid out alike."""
    count = 0
    for t in range(len(cells)):
        m, p = cells[t] // len(spans), cells[t] % len(spans)
        size = spans[p, 1] - spans[p, 0]
        for side in range(2):
            row = upper[m] if side else lower[m]
            here = 0
            for _ in range(counts[t, side]):
                here += gaps[count]
                row[here // size * shape[1] + spans[p, 0] + here % size] = changed[count]
                count += 1
