"""Soft-min over boxes, block by block of samples: from distances to the entries of a gradient.

All sums are of integers (weights from a table, coefficients rounded to fixed point), so results are
the same to the last bit however samples and boxes are split among threads, workers or vector lanes.
What each stage takes and gives is in `boxnn_numba.training.softmin_stages`.

Distances of a block are (boxes, BLOCK) int32, a sample to a lane. Its entries come box by box, so
that nothing has to be sorted:

    starts        0   2   2   5 ...       entries of box m are starts[m]:starts[m + 1]
    samples       3   7 | 0   3   9 ...   of the batch
    coefficients  q   q | q   q   q ...   in fixed point
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.kernels import formulas, simd, simd_lanes, simd_operations
from boxnn_numba.kernels.block_distances import BLOCK, loops
from boxnn_numba.kernels.compile import fill, kernel, register_jitable

_NEVER, _ALWAYS = -(2**31), 2**31 - 1
#: Above all distances, and still an int32 if it is shifted or added to.
_FAR = 2**30

# --- room: of few types, as Numba takes long to compile what makes an array of another -------


@register_jitable
def _int32_room(rows, columns):
    return np.empty((rows, columns), np.int32)


@register_jitable
def _int64_room(rows, columns):
    return np.empty((rows, columns), np.int64)


@register_jitable
def _float64_room(rows, columns):
    return np.empty((rows, columns), np.float64)


@register_jitable
def _lane_room():
    """Return room for results of the lanes of a block, for one class after another."""
    base, limit = _int32_room(1, BLOCK), _int32_room(1, BLOCK)
    return base, limit, _int64_room(2, BLOCK), _float64_room(3, BLOCK)


@register_jitable
def _template_room(classes, rows_of, parts):
    """Return room for results of templates in each part, of templates, and of classes.

    The last array is for the pulls of the block's samples at the rows of a template, part by part.
    """
    templates, most = len(rows_of) - 1, 0
    for t in range(templates):
        most = max(most, rows_of[t + 1] - rows_of[t])
    least, hard = _int32_room(templates * parts, BLOCK), _int32_room(templates, BLOCK)
    return least, hard, _int32_room(classes, BLOCK), _int32_room(BLOCK * parts, most)


# --- the nearest of each lane, and lanes whose distance is within a limit ---------------------
# `some = first_of(lanes)`, then `lanes = rest_of(lanes)` until none is left.


@register_jitable
def _plain_lanes_within(distance, row, limit):
    lanes = 0
    for i in range(BLOCK):
        lanes |= int(distance[row, i] <= limit[0, i]) << i
    return np.uint32(lanes)


@register_jitable
def _plain_first_of(lanes):
    i = 0
    while not lanes >> i & 1:
        i += 1
    return i


@register_jitable
def _rest_of(lanes):
    return np.uint32(lanes & (lanes - 1))


@register_jitable
def _vector_lanes_within(distance, row, limit):
    distances = simd_lanes.load_distances(distance, row, 0)
    return simd_lanes.at_most(distances, simd_lanes.load_distances(limit, 0, 0))


@register_jitable(allocates=False)
def _plain_lower(distance, first, last, out, to):
    """Lower row `to` of `out` to the smallest of distances first..last of each lane."""
    low = out[to]
    for m in range(first, last):
        row = distance[m]
        for i in range(BLOCK):
            low[i] = min(low[i], row[i])


@register_jitable(allocates=False)
def _vector_lower(distance, first, last, out, to):
    low = simd_lanes.load_distances(out, to, 0)
    for m in range(first, last):
        low = simd.smaller(low, simd_lanes.load_distances(distance, m, 0))
    simd_lanes.store_distances(out, to, 0, low)


_PLAIN = simd_operations.TARGET == "plain"
_lanes_within: Any = _plain_lanes_within if _PLAIN else _vector_lanes_within
_first_of: Any = _plain_first_of if _PLAIN else simd_lanes.first_lane
_lower: Any = _plain_lower if _PLAIN else _vector_lower


# --- stages of a block -----------------------------------------------------------------------


@register_jitable(allocates=False)
def _nearest(distance, offsets, rows, first, minima, lanes_room):
    """Lower ``minima[first + i, c]`` to the smallest distance of sample i to a box of class c."""
    best = lanes_room[0][0]
    for c in range(len(offsets) - 1):
        fill(best, _ALWAYS)
        _lower(distance, offsets[c], offsets[c + 1], lanes_room[0], 0)
        for i in range(rows):
            minima[first + i, c] = min(minima[first + i, c], best[i])


@register_jitable(allocates=False)
def _choose_sides(minima, labels, kind, own, sign, least):
    """Write which class is on a sample's own side, and the distance to it and to the rest.

    least is (rows, 2): own and rival. Of kind `formulas.PAPER` the own side is the predicted
    class, and the sign says whether it is right.
    """
    for i in range(len(labels)):
        row = minima[i]
        side = labels[i]
        if kind == formulas.PAPER:
            for c in range(len(row)):
                # Ties go to the smaller class, as in a prediction.
                if row[c] < row[side] or (row[c] == row[side] and c < side):
                    side = c
        own[i], sign[i] = side, 1.0 if side == labels[i] else -1.0
        rival = row[0 if side > 0 else 1]
        for c in range(len(row)):
            if c != side:
                rival = min(rival, row[c])
        least[i, 0], least[i, 1] = row[side], rival


@register_jitable(allocates=False)
def _limits(c, own, least, first, rows, cutoff, slope, base, limit):
    """Write the least distance on the side of class c for each lane, and how far weights reach."""
    for i in range(rows):
        base[i] = least[first + i, 0 if own[first + i] == c else 1]
        reach = min(np.int64(base[i]) + cutoff, _ALWAYS)
        limit[0, i] = reach if slope[first + i] != 0.0 else _NEVER


@register_jitable(allocates=False)
def _weigh(distance, offsets, own, least, table, cutoff, rows, first, active, masses, lanes_room):
    """Add to masses (batch, 4) int64: mass and moment of the own side, then of the rivals."""
    ints, limit, sums, _ = lanes_room
    base, mass, moment = ints[0], sums[0], sums[1]
    fill(base, 0)
    fill(limit[0], _NEVER)
    for c in range(len(offsets) - 1):
        _limits(c, own, least, first, rows, cutoff, active, base, limit)
        fill(mass, 0)
        fill(moment, 0)
        for m in range(offsets[c], offsets[c + 1]):
            lanes = _lanes_within(distance, m, limit)
            while lanes:
                i = _first_of(lanes)
                lanes = _rest_of(lanes)
                k = np.int64(distance[m, i]) - base[i]
                w = formulas.weight(k, table, cutoff)
                mass[i] += w
                moment[i] += w * k
        for i in range(rows):
            side = 0 if own[first + i] == c else 2
            masses[first + i, side] += mass[i]
            masses[first + i, side + 1] += moment[i]


@register_jitable(allocates=False)
def _judge(sign, least, masses, softmin, objective, value, margin, slope):
    """Write each sample's objective, soft margin, and d objective / d margin."""
    _, _, _, unit, one, log_scale = softmin
    kind, bound, sharpness, keep = objective
    for i in range(len(sign)):
        own = formulas.softmin_value(least[i, 0], masses[i, 0], masses[i, 1], unit, one, log_scale)
        rival = formulas.softmin_value(
            least[i, 1], masses[i, 2], masses[i, 3], unit, one, log_scale
        )
        if kind == formulas.TARGET:
            worth, rise = formulas.target_objective(rival - own, bound, sharpness, keep)
        else:
            worth, rise = formulas.clip_objective(rival - own, bound, sharpness)
        value[i], margin[i], slope[i] = sign[i] * worth, rival - own, sign[i] * rise


@register_jitable(allocates=False)
def _emit(
    distance, offsets, own, least, masses, slope, softmin, fixed_point, rows, first, number, starts,
    samples, coefficients, lanes_room,
):  # fmt: skip
    """Write the entries of a block and where those of each box start; return their count.

    Arrays of its samples begin at `first`, and samples are numbered from `number`. Entries that do
    not fit are counted but not written.
    """
    table, cutoff, tau_per_unit, _, _, _ = softmin
    ints, limit, _, figures = lanes_room
    base, factor, mass, mean = ints[0], figures[0], figures[1], figures[2]
    fill(base, 0)
    fill(limit[0], _NEVER)
    count, room = 0, len(samples)
    for c in range(len(offsets) - 1):
        _limits(c, own, least, first, rows, cutoff, slope, base, limit)
        for i in range(rows):
            mine = own[first + i] == c
            side = 0 if mine else 2
            factor[i] = slope[first + i] * fixed_point
            if mine:
                factor[i] = -factor[i]
            mass[i] = masses[first + i, side]
            mean[i] = masses[first + i, side + 1] / masses[first + i, side]
        for m in range(offsets[c], offsets[c + 1]):
            starts[m] = count
            lanes = _lanes_within(distance, m, limit)
            while lanes:
                i = _first_of(lanes)
                lanes = _rest_of(lanes)
                k = np.int64(distance[m, i]) - base[i]
                w = formulas.weight(k, table, cutoff)
                share = formulas.softmin_coefficient(k, w, mass[i], mean[i], tau_per_unit)
                q = round(factor[i] * share)
                if q != 0:
                    if count < room:
                        samples[count], coefficients[count] = number + i, q
                    count += 1
    starts[offsets[-1]] = count
    return count


# --- templates: soft-min over rows, part by part, and its gradient ------------------------


@register_jitable(allocates=False)
def _least_rows(apart, parts, t, rows, least, hard):
    """Write the smallest distances to rows of template t in each part, and their sum."""
    boxes, total = len(apart) // parts, hard[t]
    fill(total, 0)
    for p in range(parts):
        low = least[t * parts + p]
        fill(low, _ALWAYS)
        _lower(apart, p * boxes + rows[0], p * boxes + rows[1], least, t * parts + p)
        for i in range(BLOCK):
            total[i] += low[i]


@register_jitable(allocates=False)
def _row_sums(apart, first, last, lane, least, soft):
    """Return mass and moment of some rows for one sample, whose nearest is at `least`."""
    table, cutoff, _, _, _, _ = soft
    mass, moment = 0, 0
    for j in range(first, last):
        k = np.int64(apart[j, lane]) - least
        w = formulas.weight(k, table, cutoff)
        mass += w
        moment += w * k
    return mass, moment


@register_jitable(allocates=False)
def _pull_rows(apart, first, last, lane, least, soft, coefficient, pulls):
    """Split the pull of one sample at a template among some rows."""
    table, cutoff, tau_per_unit, _, _, _ = soft
    mass, moment = _row_sums(apart, first, last, lane, least, soft)
    mean = moment / mass
    for j in range(first, last):
        k = np.int64(apart[j, lane]) - least
        w = formulas.weight(k, table, cutoff)
        share = formulas.softmin_coefficient(k, w, mass, mean, tau_per_unit)
        pulls[j - first] = round(coefficient * share)


@register_jitable(allocates=False)
def _template_distance(apart, parts, t, rows, least, lane, soft, shift):
    """Sum over the parts of the soft-min over rows, in units of 2 ** -shift."""
    _, _, _, unit, one, log_scale = soft
    boxes, scale, total = len(apart) // parts, 1 << shift, 0
    for p in range(parts):
        nearest = least[t * parts + p, lane]
        first, last = p * boxes + rows[0], p * boxes + rows[1]
        mass, moment = _row_sums(apart, first, last, lane, nearest, soft)
        value = formulas.softmin_value(0, mass, moment, unit, one, log_scale)
        total += scale * nearest + round(value / unit * scale)
    return total


@register_jitable(allocates=False)
def _assemble(
    apart, parts, starts, templates, labels, rows, by_class, soft, shift, slack, room, out,
    lanes_room,
):  # fmt: skip
    """Write the distances of a block to templates, (T, BLOCK), in units of 2 ** -shift.

    apart (P * M', BLOCK) int32; starts (T + 1,) rows of the templates, templates (K + 1,) those of
    the classes. A template that is more than `slack` units farther, by its nearest rows, than
    another one of its side has no weight whatever its soft-min is: it gets the distance by its
    nearest rows. Sides are a sample's class and the rest, or if `by_class` each class.
    """
    (least, hard, nearest, _), (ints, limit, _, _) = room, lanes_room
    rival = ints[0]
    fill(rival, _FAR)
    for c in range(len(templates) - 1):
        for t in range(templates[c], templates[c + 1]):
            _least_rows(apart, parts, t, (starts[t], starts[t + 1]), least, hard)
        fill(nearest[c], _FAR)
        _lower(hard, templates[c], templates[c + 1], nearest, c)
        for i in range(rows):
            if c != labels[i]:
                rival[i] = min(rival[i], nearest[c, i])
    fill(limit[0], _NEVER)
    for c in range(len(templates) - 1):
        for i in range(rows):
            side = nearest[c, i] if by_class or c == labels[i] else rival[i]
            limit[0, i] = min(np.int64(side) + slack, _ALWAYS)
        for t in range(templates[c], templates[c + 1]):
            total, target = hard[t], out[t]
            for i in range(BLOCK):
                target[i] = total[i] << shift
            lanes, own = _lanes_within(hard, t, limit), (starts[t], starts[t + 1])
            while lanes:
                i = _first_of(lanes)
                lanes = _rest_of(lanes)
                target[i] = _template_distance(apart, parts, t, own, least, i, soft, shift)


@register_jitable(allocates=False)
def _spread(
    apart, parts, rows_of, soft, first, entries, smallest, starts, samples, coefficients, room
):  # fmt: skip
    """Write the entries of cells that those of templates make; return their count.

    entries are starts (T + 1,), samples and coefficients as `_emit` writes them, of samples
    numbered from `first`. The coefficients go to the rows of the template, part by part: to cell
    ``row * P + part``. What is below `smallest` is left out; room is as `_assemble` leaves it.
    """
    begins, from_samples, from_coefficients = entries
    boxes, count, most = len(apart) // parts, 0, len(samples)
    least, _, _, pulls = room
    for t in range(len(rows_of) - 1):
        (a, b), (top, end) = (begins[t], begins[t + 1]), (rows_of[t], rows_of[t + 1])
        if a == b:
            fill(starts[top * parts : end * parts], count)
            continue
        for e in range(a, b):
            i = from_samples[e] - first
            for p in range(parts):
                _pull_rows(
                    apart, p * boxes + top, p * boxes + end, i, least[t * parts + p, i], soft,
                    from_coefficients[e], pulls[(e - a) * parts + p],
                )  # fmt: skip
        for j in range(end - top):
            for p in range(parts):
                starts[(top + j) * parts + p] = count
                for e in range(b - a):
                    q = pulls[e * parts + p, j]
                    if abs(q) >= smallest:
                        if count < most:
                            samples[count], coefficients[count] = from_samples[a + e], q
                        count += 1
    starts[rows_of[-1] * parts] = count
    return count


# --- stage by stage, of blocks (B, ...) whose samples are bounds[b]:bounds[b + 1] -------------
# If boxes come in shards, each stage waits for the results of all of them.


@kernel(allocates=True)
def nearest(distance, bounds, offsets, minima):
    """Lower minima (batch, K) to the distances of the blocks, (B, M, BLOCK)."""
    room = _lane_room()
    for b in range(len(distance)):
        rows = bounds[b + 1] - bounds[b]
        _nearest(distance[b], offsets, rows, bounds[b], minima, room)


@kernel
def choose_sides(minima, labels, kind, own, sign, least):
    """Write own side, sign, and the distances to the nearest own box and rival."""
    _choose_sides(minima, labels, kind, own, sign, least)


@kernel(allocates=True)
def weigh(distance, bounds, offsets, own, least, table, cutoff, masses):
    """Add the weights and moments of the blocks to masses (batch, 4) int64."""
    active, room = np.ones(len(own)), _lane_room()
    for b in range(len(distance)):
        rows = bounds[b + 1] - bounds[b]
        _weigh(
            distance[b], offsets, own, least, table, cutoff, rows, bounds[b], active, masses, room
        )  # fmt: skip


@kernel
def judge(sign, least, masses, softmin, objective, value, margin, slope):
    """Write objective, soft margin and slope of all samples."""
    _judge(sign, least, masses, softmin, objective, value, margin, slope)


@kernel(allocates=True)
def emit(
    distance, bounds, offsets, own, least, masses, slope, softmin, fixed_point, starts, samples,
    coefficients,
):  # fmt: skip
    """Write the entries of the blocks, a row of the outputs for each; return the largest count."""
    most, room = 0, _lane_room()
    for b in range(len(distance)):
        count = _emit(
            distance[b], offsets, own, least, masses, slope, softmin, fixed_point,
            bounds[b + 1] - bounds[b], bounds[b], bounds[b], starts[b], samples[b],
            coefficients[b], room,
        )  # fmt: skip
        most = max(most, count)
    return most


@kernel(allocates=True)
def spread(apart, bounds, parts, rows_of, soft, entries, least, starts, samples, coefficients):
    """Write the entries of cells of the blocks, as `emit`."""
    most, room = 0, _template_room(0, rows_of, parts)
    for b in range(len(apart)):
        for t in range(len(rows_of) - 1):
            _least_rows(apart[b], parts, t, (rows_of[t], rows_of[t + 1]), room[0], room[1])
        found = entries[0][b], entries[1][b], entries[2][b]
        count = _spread(
            apart[b], parts, rows_of, soft, bounds[b], found, least, starts[b], samples[b],
            coefficients[b], room,
        )  # fmt: skip
        most = max(most, count)
    return most


def _make_measure(penalty: str) -> Callable[..., Any]:
    name, (room, take, distances) = loops(penalty)

    @kernel(name=f"measure_{name}", allocates=True)
    def measure(x, bounds, lower, upper, spans, planes, width, out):
        """Write the distances of the blocks, (B, P * M', BLOCK) int32; see `block_distances`."""
        codes = room(x.shape[1])
        for b in range(len(out)):
            take(x, bounds[b], bounds[b + 1], codes)
            rows = bounds[b + 1] - bounds[b]
            distances(codes, rows, lower, upper, spans, planes, width, out[b])

    return measure


@functools.cache
def measure(penalty: str) -> Callable[..., Any]:
    """Return the kernel that measures distances with a penalty."""
    return _make_measure(penalty)


@kernel(allocates=True)
def assemble(
    apart, bounds, parts, starts, templates, labels, by_class, soft, shift, slack, out
):  # fmt: skip
    """Write the distances to templates, (B, T, BLOCK) int32, of those to rows, part by part."""
    room = _template_room(len(templates) - 1, starts, parts)
    lanes_room = _lane_room()
    for b in range(len(apart)):
        first, last = bounds[b], bounds[b + 1]
        _assemble(
            apart[b], parts, starts, templates, labels[first:last], last - first, by_class, soft,
            shift, slack, room, out[b], lanes_room,
        )  # fmt: skip


# --- all stages, of blocks first..last ----------------------------------------------------------


@register_jitable(allocates=False)
def _stages(distance, offsets, labels, soft, objective, room, lanes_room, value, margin):
    """Judge a block by its distances; own sides, least distances, masses and slopes go to room."""
    own, least, masses, slope, minima, sign, active = room
    rows = len(labels)
    for i in range(rows):
        fill(minima[i], _ALWAYS)
        fill(masses[i], 0)
    _nearest(distance, offsets, rows, 0, minima, lanes_room)
    _choose_sides(minima, labels, objective[0], own, sign, least)
    _weigh(distance, offsets, own, least, soft[0], soft[1], rows, 0, active, masses, lanes_room)
    _judge(sign[:rows], least, masses, soft, objective, value, margin, slope)


@register_jitable
def _stage_room(classes):
    own, least, minima = (
        _int32_room(1, BLOCK)[0],
        _int32_room(BLOCK, 2),
        _int32_room(BLOCK, classes),
    )
    masses, figures = _int64_room(BLOCK, 4), _float64_room(3, BLOCK)
    slope, sign, active = figures[0], figures[1], figures[2]
    fill(active, 1.0)
    return own, least, masses, slope, minima, sign, active


@register_jitable(allocates=False)
def _box_entries(apart, parts, labels, structure, softs, settings, room, judged, first, out):
    """Write the entries of a block of plain boxes; return their count."""
    soft, offsets = softs[0], structure[1]
    objective, fixed_point = settings[0], settings[1]
    lanes_room = room[1]
    _stages(apart, offsets, labels, soft, objective, room[0], lanes_room, judged[0], judged[1])
    own, least, masses, slope = room[0][:4]
    return _emit(
        apart, offsets, own, least, masses, slope, soft, fixed_point, len(labels), 0, first, out[0],
        out[1], out[2], lanes_room,
    )  # fmt: skip


@register_jitable(allocates=False)
def _cell_entries(apart, parts, labels, structure, softs, settings, room, judged, first, out):
    """Write the entries of a block of cells of templates; return their count."""
    (rows_of, offsets), (soft, row_soft) = structure, softs
    objective, fixed_point, shift, slack, smallest = settings
    _, lanes_room, template_room, whole, found = room
    rows, by_class = len(labels), objective[0] == formulas.PAPER
    _assemble(
        apart, parts, rows_of, offsets, labels, rows, by_class, row_soft, shift, slack,
        template_room, whole, lanes_room,
    )  # fmt: skip
    _stages(whole, offsets, labels, soft, objective, room[0], lanes_room, judged[0], judged[1])
    own, least, masses, slope = room[0][:4]
    _emit(
        whole, offsets, own, least, masses, slope, soft, fixed_point, rows, 0, first, found[0],
        found[1], found[2], lanes_room,
    )  # fmt: skip
    return _spread(
        apart, parts, rows_of, row_soft, first, found, smallest, out[0], out[1], out[2],
        template_room,
    )  # fmt: skip


@functools.cache
def looks(penalty: str, factored: bool) -> Callable[..., Any]:
    """Return the work of `forward` as a function that kernels call."""
    _, (make_room, take, distances) = loops(penalty)
    write = _cell_entries if factored else _box_entries

    @register_jitable
    def look(
        x, bounds, first_block, last_block, labels, lower, upper, spans, planes, width, structure,
        softs, settings, starts, samples, coefficients, value, margin,
    ):  # fmt: skip
        """Write the entries of some blocks, and objective and margin of their samples.

        x (batch, columns) uint8; structure is rows (T + 1,) and templates (K + 1,); softs the
        soft-min over templates and that over rows; settings are the objective, the fixed point,
        shift and slack of templates, and the smallest coefficient of a row. Returns the largest
        count of entries: if it is above the room there is, entries are missing.
        """
        count, most, parts = len(structure[0]) - 1, 0, len(spans)
        codes = make_room(x.shape[1])
        # Lanes without a sample are read too: zeros or old distances there are within no limit.
        apart = _int32_room(parts * len(lower), BLOCK)
        for row in range(len(apart)):
            fill(apart[row], 0)
        places = count if factored else 0
        whole = _int32_room(places, BLOCK)
        entries = _int32_room(2, places * BLOCK)
        found = _int32_room(1, places + 1)[0], entries[0], entries[1]
        classes = len(structure[1]) - 1
        templates = _template_room(classes, structure[0][: places + 1], parts)
        room = _stage_room(classes), _lane_room(), templates, whole, found
        for b in range(first_block, last_block):
            first, last = bounds[b], bounds[b + 1]
            take(x, first, last, codes)
            distances(codes, last - first, lower, upper, spans, planes, width, apart)
            judged = value[first:last], margin[first:last]
            out = starts[b], samples[b], coefficients[b]
            filled = write(
                apart, parts, labels[first:last], structure, softs, settings, room, judged, first,
                out,
            )  # fmt: skip
            most = max(most, filled)
        return most

    return look


@functools.cache
def forward(penalty: str, factored: bool) -> Callable[..., Any]:
    """Return the kernel of all stages with a penalty, for boxes or for templates."""
    name = f"forward_{loops(penalty)[0]}_{'templates' if factored else 'boxes'}"
    return kernel(looks(penalty, factored), name=name, allocates=True)
