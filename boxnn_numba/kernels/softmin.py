"""Soft-min over boxes, block by block of samples: from distances to the entries of a gradient.

All sums are of integers (weights from a table, coefficients rounded to fixed point), so what comes
out is the same to the last bit however samples and boxes are split among threads, workers or vector
lanes. What each stage takes and gives is in `boxnn_numba.training.softmin_stages`.

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

from boxnn_numba.kernels import formulas, simd_lanes, simd_operations
from boxnn_numba.kernels.block_distances import BLOCK, loops
from boxnn_numba.kernels.compile import fill, kernel, register_jitable

_NEVER, _ALWAYS = -(2**31), 2**31 - 1
#: Above all distances, and an int32 if it is shifted or added to.
_FAR = 2**30
#: From more lanes on it takes longer to measure one after the other than all side by side.
_FEW_LANES = 3

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


# --- lanes whose distance is within a limit -------------------------------------------------
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


_PLAIN = simd_operations.TARGET == "plain"
_lanes_within: Any = _plain_lanes_within if _PLAIN else _vector_lanes_within
_first_of: Any = _plain_first_of if _PLAIN else simd_lanes.first_lane


# --- stages of a block -----------------------------------------------------------------------


@register_jitable
def _nearest(distance, offsets, rows, first, minima):
    """Lower ``minima[first + i, c]`` to the smallest distance of sample i to a box of class c."""
    best = _int32_room(1, BLOCK)[0]
    for c in range(len(offsets) - 1):
        fill(best, _ALWAYS)
        for m in range(offsets[c], offsets[c + 1]):
            row = distance[m]
            for i in range(BLOCK):
                best[i] = min(best[i], row[i])
        for i in range(rows):
            minima[first + i, c] = min(minima[first + i, c], best[i])


@register_jitable
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


@register_jitable
def _limits(c, own, least, first, rows, cutoff, slope, base, limit):
    """Write least distance of each lane's side that class c is on, and how far weights reach."""
    for i in range(rows):
        base[i] = least[first + i, 0 if own[first + i] == c else 1]
        reach = min(np.int64(base[i]) + cutoff, _ALWAYS)
        limit[0, i] = reach if slope[first + i] != 0.0 else _NEVER


@register_jitable
def _weigh(distance, offsets, own, least, table, cutoff, rows, first, active, masses):
    """Add to masses (batch, 4) int64: mass and moment of the own side, then of the rivals."""
    base, limit = _int32_room(1, BLOCK)[0], _int32_room(1, BLOCK)
    sums = _int64_room(2, BLOCK)
    mass, moment = sums[0], sums[1]
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


@register_jitable
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


@register_jitable
def _emit(
    distance, offsets, own, least, masses, slope, softmin, fixed_point, rows, first, number, starts,
    samples, coefficients,
):  # fmt: skip
    """Write the entries of a block and where those of each box start; return their count.

    What is known of its samples begins at `first`, and they are numbered from `number`. Entries
    that do not fit are counted but not written.
    """
    table, cutoff, tau_per_unit, _, _, _ = softmin
    base, limit = _int32_room(1, BLOCK)[0], _int32_room(1, BLOCK)
    sums = _float64_room(3, BLOCK)
    factor, mass, mean = sums[0], sums[1], sums[2]
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


@register_jitable
def _part_room(parts):
    """Nearest of the rows of a template, and the sums of their weights and moments: (P, BLOCK)."""
    return _int32_room(parts, BLOCK), _int64_room(parts, BLOCK), _int64_room(parts, BLOCK)


@register_jitable
def _measure_lane(apart, rows, lane, soft, found):
    """Write nearest, mass and moment of some rows for one sample, part by part."""
    table, cutoff, _, _, _, _ = soft
    nearest, masses, moments = found
    boxes = len(apart) // len(nearest)
    for p in range(len(nearest)):
        first, last = p * boxes + rows[0], p * boxes + rows[1]
        least = apart[first, lane]
        for j in range(first + 1, last):
            least = min(least, apart[j, lane])
        mass, moment = 0, 0
        for j in range(first, last):
            k = np.int64(apart[j, lane]) - least
            w = formulas.weight(k, table, cutoff)
            mass += w
            moment += w * k
        nearest[p, lane], masses[p, lane], moments[p, lane] = least, mass, moment


@register_jitable
def _measure_lanes(apart, rows, soft, found):
    """Do what `_measure_lane` does for all samples of a block, row by row."""
    table, cutoff, _, _, _, _ = soft
    nearest, masses, moments = found
    boxes, last = len(apart) // len(nearest), len(table) - 1
    for p in range(len(nearest)):
        least, mass, moment = nearest[p], masses[p], moments[p]
        fill(least, _ALWAYS)
        fill(mass, 0)
        fill(moment, 0)
        for j in range(p * boxes + rows[0], p * boxes + rows[1]):
            row = apart[j]
            for i in range(BLOCK):
                least[i] = min(least[i], row[i])
        for j in range(p * boxes + rows[0], p * boxes + rows[1]):
            row = apart[j]
            for i in range(BLOCK):
                k = np.int64(row[i]) - least[i]
                # Without a branch, and unsigned: Numba would look whether the index is negative.
                w = table[np.uint64(min(k, last))] * np.int64(k <= cutoff)
                mass[i] += w
                moment[i] += w * k


@register_jitable
def _are_many(lanes):
    """Whether more than `_FEW_LANES` are set."""
    for _ in range(_FEW_LANES):
        lanes = _rest_of(lanes)
    return lanes != 0


@register_jitable
def _template_distance(found, lane, soft, shift):
    """Sum over the parts of the soft-min over rows, in units of 2 ** -shift."""
    _, _, _, unit, one, log_scale = soft
    nearest, masses, moments = found
    scale, total = 1 << shift, 0
    for p in range(len(nearest)):
        mass, moment = masses[p, lane], moments[p, lane]
        value = formulas.softmin_value(0, mass, moment, unit, one, log_scale)
        total += scale * nearest[p, lane] + round(value / unit * scale)
    return total


@register_jitable
def _assemble(
    apart, parts, starts, templates, labels, rows, by_class, soft, shift, slack, hard, out
):  # fmt: skip
    """Write the distances of a block to templates, (T, BLOCK), in units of 2 ** -shift.

    apart (P * M', BLOCK) int32; starts (T + 1,) rows of the templates, templates (K + 1,) those of
    the classes. A template that is more than `slack` units farther, by its nearest rows, than
    another one of its side has no weight whatever its soft-min is: it gets the distance by its
    nearest rows. Sides are a sample's class and the rest, or if `by_class` each class.
    """
    boxes, classes = len(apart) // parts, len(templates) - 1
    low = _int32_room(1, BLOCK)[0]
    nearest, rival = _int32_room(classes, BLOCK), _int32_room(1, BLOCK)[0]
    fill(rival, _FAR)
    for c in range(classes):
        best = nearest[c]
        fill(best, _FAR)
        for t in range(templates[c], templates[c + 1]):
            total = hard[t]
            fill(total, 0)
            for p in range(parts):
                fill(low, _ALWAYS)
                for j in range(starts[t], starts[t + 1]):
                    row = apart[p * boxes + j]
                    for i in range(BLOCK):
                        low[i] = min(low[i], row[i])
                for i in range(BLOCK):
                    total[i] += low[i]
            for i in range(BLOCK):
                best[i] = min(best[i], total[i])
        for i in range(rows):
            if c != labels[i]:
                rival[i] = min(rival[i], best[i])
    limit, found = _int32_room(1, BLOCK), _part_room(parts)
    fill(limit[0], _NEVER)
    for c in range(classes):
        for i in range(rows):
            side = nearest[c, i] if by_class or c == labels[i] else rival[i]
            limit[0, i] = min(np.int64(side) + slack, _ALWAYS)
        for t in range(templates[c], templates[c + 1]):
            total, target = hard[t], out[t]
            for i in range(BLOCK):
                target[i] = total[i] << shift
            lanes = _lanes_within(hard, t, limit)
            own, many = (starts[t], starts[t + 1]), _are_many(lanes)
            if many:
                _measure_lanes(apart, own, soft, found)
            while lanes:
                i = _first_of(lanes)
                lanes = _rest_of(lanes)
                if not many:
                    _measure_lane(apart, own, i, soft, found)
                target[i] = _template_distance(found, i, soft, shift)


@register_jitable
def _spread(
    apart, parts, rows_of, soft, first, entries, least, starts, samples, coefficients
):  # fmt: skip
    """Write the entries of cells that those of templates make; return their count.

    entries are starts (T + 1,), samples and coefficients as `_emit` writes them, of samples
    numbered from `first`. The coefficients go to the rows of the template, part by part: to cell
    ``row * P + part``. What is below `least` is left out.
    """
    begins, from_samples, from_coefficients = entries
    table, cutoff, tau_per_unit, _, _, _ = soft
    boxes, count, room = len(apart) // parts, 0, len(samples)
    found = _part_room(parts)
    nearest, mass, moment = found
    mean = _float64_room(parts, BLOCK)
    for t in range(len(rows_of) - 1):
        a, b = begins[t], begins[t + 1]
        rows, many = (rows_of[t], rows_of[t + 1]), b - a > _FEW_LANES
        if many:
            _measure_lanes(apart, rows, soft, found)
        for e in range(a, b):
            i = from_samples[e] - first
            if not many:
                _measure_lane(apart, rows, i, soft, found)
            for p in range(parts):
                mean[p, i] = moment[p, i] / mass[p, i]
        for j in range(rows[0], rows[1]):
            for p in range(parts):
                starts[j * parts + p] = count
                row = apart[p * boxes + j]
                for e in range(a, b):
                    i = from_samples[e] - first
                    k = row[i] - nearest[p, i]
                    if k <= cutoff:
                        w = formulas.weight(k, table, cutoff)
                        share = formulas.softmin_coefficient(
                            k, w, mass[p, i], mean[p, i], tau_per_unit
                        )
                        q = round(from_coefficients[e] * share)
                        if abs(q) >= least:
                            if count < room:
                                samples[count], coefficients[count] = from_samples[e], q
                            count += 1
    starts[rows_of[-1] * parts] = count
    return count


# --- stage by stage, of blocks (B, ...) whose samples are bounds[b]:bounds[b + 1] -------------
# Where boxes come in shards, each stage waits for what all of them say.


@kernel
def nearest(distance, bounds, offsets, minima):
    """Lower minima (batch, K) to the distances of the blocks, (B, M, BLOCK)."""
    for b in range(len(distance)):
        rows = bounds[b + 1] - bounds[b]
        _nearest(distance[b], offsets, rows, bounds[b], minima)


@kernel
def choose_sides(minima, labels, kind, own, sign, least):
    """Write own side, sign, and the distances to the nearest own box and rival."""
    _choose_sides(minima, labels, kind, own, sign, least)


@kernel
def weigh(distance, bounds, offsets, own, least, table, cutoff, masses):
    """Add the weights and moments of the blocks to masses (batch, 4) int64."""
    active = np.ones(len(own))
    for b in range(len(distance)):
        rows = bounds[b + 1] - bounds[b]
        _weigh(
            distance[b], offsets, own, least, table, cutoff, rows, bounds[b], active, masses
        )  # fmt: skip


@kernel
def judge(sign, least, masses, softmin, objective, value, margin, slope):
    """Write objective, soft margin and slope of all samples."""
    _judge(sign, least, masses, softmin, objective, value, margin, slope)


@kernel
def emit(
    distance, bounds, offsets, own, least, masses, slope, softmin, fixed_point, starts, samples,
    coefficients,
):  # fmt: skip
    """Write the entries of the blocks, a row of the outputs for each; return the largest count."""
    most = 0
    for b in range(len(distance)):
        count = _emit(
            distance[b], offsets, own, least, masses, slope, softmin, fixed_point,
            bounds[b + 1] - bounds[b], bounds[b], bounds[b], starts[b], samples[b],
            coefficients[b],
        )  # fmt: skip
        most = max(most, count)
    return most


@kernel
def spread(apart, bounds, parts, rows_of, soft, entries, least, starts, samples, coefficients):
    """Write the entries of cells of the blocks, as `emit`."""
    most = 0
    for b in range(len(apart)):
        found = entries[0][b], entries[1][b], entries[2][b]
        count = _spread(
            apart[b], parts, rows_of, soft, bounds[b], found, least, starts[b], samples[b],
            coefficients[b],
        )  # fmt: skip
        most = max(most, count)
    return most


def _make_measure(penalty: str) -> Callable[..., Any]:
    name, (room, take, distances) = loops(penalty)

    @kernel(name=f"measure_{name}")
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


@kernel
def assemble(
    apart, bounds, parts, starts, templates, labels, by_class, soft, shift, slack, out
):  # fmt: skip
    """Write the distances to templates, (B, T, BLOCK) int32, of those to rows, part by part."""
    hard = np.empty((len(starts) - 1, BLOCK), np.int32)
    for b in range(len(apart)):
        first, last = bounds[b], bounds[b + 1]
        _assemble(
            apart[b], parts, starts, templates, labels[first:last], last - first, by_class, soft,
            shift, slack, hard, out[b],
        )  # fmt: skip


# --- all stages, of blocks first..last ----------------------------------------------------------


@register_jitable
def _stages(distance, offsets, labels, soft, objective, room, value, margin):
    """Judge a block by its distances; own sides, least distances, masses and slopes go to room."""
    own, least, masses, slope, minima, sign, active = room
    rows = len(labels)
    for i in range(rows):
        fill(minima[i], _ALWAYS)
        fill(masses[i], 0)
    _nearest(distance, offsets, rows, 0, minima)
    _choose_sides(minima, labels, objective[0], own, sign, least)
    _weigh(distance, offsets, own, least, soft[0], soft[1], rows, 0, active, masses)
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


@register_jitable
def _box_entries(apart, parts, labels, structure, softs, settings, room, judged, first, out):
    """Write the entries of a block of plain boxes; return their count."""
    soft, offsets = softs[0], structure[1]
    objective, fixed_point = settings[0], settings[1]
    _stages(apart, offsets, labels, soft, objective, room[0], judged[0], judged[1])
    own, least, masses, slope = room[0][:4]
    return _emit(
        apart, offsets, own, least, masses, slope, soft, fixed_point, len(labels), 0, first, out[0],
        out[1], out[2],
    )  # fmt: skip


@register_jitable
def _cell_entries(apart, parts, labels, structure, softs, settings, room, judged, first, out):
    """Write the entries of a block of cells of templates; return their count."""
    (rows_of, offsets), (soft, row_soft) = structure, softs
    objective, fixed_point, shift, slack, smallest = settings
    _, hard, whole, found = room
    rows, by_class = len(labels), objective[0] == formulas.PAPER
    _assemble(
        apart, parts, rows_of, offsets, labels, rows, by_class, row_soft, shift, slack, hard, whole
    )
    _stages(whole, offsets, labels, soft, objective, room[0], judged[0], judged[1])
    own, least, masses, slope = room[0][:4]
    _emit(
        whole, offsets, own, least, masses, slope, soft, fixed_point, rows, 0, first, found[0],
        found[1], found[2],
    )  # fmt: skip
    return _spread(apart, parts, rows_of, row_soft, first, found, smallest, out[0], out[1], out[2])


@functools.cache
def looks(penalty: str, factored: bool) -> Callable[..., Any]:
    """Return what `forward` does, for kernels to call."""
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
        # Lanes without a sample are read: zero, or what was there before, is in reach of no limit.
        apart = _int32_room(parts * len(lower), BLOCK)
        for row in range(len(apart)):
            fill(apart[row], 0)
        places = count if factored else 0
        hard, whole = _int32_room(places, BLOCK), _int32_room(places, BLOCK)
        entries = _int32_room(2, places * BLOCK)
        found = _int32_room(1, places + 1)[0], entries[0], entries[1]
        room = _stage_room(len(structure[1]) - 1), hard, whole, found
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
    return kernel(looks(penalty, factored), name=name)
