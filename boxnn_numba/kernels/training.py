"""Loops of one training step: soft-min, coefficients, sparse gradient, update.

All sums are of integers (weights from a table, coefficients rounded to fixed
point), so a gradient is the same to the last bit however samples and boxes are
split among threads, workers or vector lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.kernels import formulas
from boxnn_numba.kernels.compile import kernel, register_jitable

# --- soft-min of a block of samples, in stages -------------------------------------------
# What each takes and gives is in `boxnn_numba.training.softmin_stages`.


@kernel
def nearest(distance, rows, offsets, minima):
    """Lower ``minima[i, c]`` to the smallest distance of sample i to a box of class c."""
    for i in range(rows):
        row = distance[i]
        for c in range(len(offsets) - 1):
            best = minima[i, c]
            for m in range(offsets[c], offsets[c + 1]):
                best = min(best, row[m])
            minima[i, c] = best


@kernel
def choose_sides(minima, labels, kind, own, sign, least):
    """Write which class is on a sample's own side, and the distance to it and to the rest.

    least is (rows, 2): own and rival. Kind 0 is the paper's objective: the own side is the
    predicted class, and the sign says whether it is right.
    """
    for i in range(len(labels)):
        row = minima[i]
        side = labels[i]
        if kind == 0:
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
def _weigh_boxes(row, first, last, least, table, cutoff):
    mass, moment = 0, 0
    for m in range(first, last):
        k = row[m] - least
        if k <= cutoff:
            w = formulas.weight(k, table, cutoff)
            mass += w
            moment += w * k
    return mass, moment


@kernel
def weigh(distance, own, offsets, least, table, cutoff, masses):
    """Add to masses (rows, 4) int64: mass and moment of the own side, then of the rivals."""
    for i in range(len(own)):
        row = distance[i]
        a, b = offsets[own[i]], offsets[own[i] + 1]
        mass, moment = _weigh_boxes(row, a, b, least[i, 0], table, cutoff)
        masses[i, 0] += mass
        masses[i, 1] += moment
        for first, last in ((0, a), (b, offsets[-1])):
            mass, moment = _weigh_boxes(row, first, last, least[i, 1], table, cutoff)
            masses[i, 2] += mass
            masses[i, 3] += moment


@kernel
def judge(sign, least, masses, softmin, objective, value, margin, slope):
    """Write each sample's objective, soft margin, and d objective / d margin."""
    _, _, _, unit, one, log_scale = softmin
    kind, bound, sharpness, keep = objective
    value_of = formulas.softmin_value
    for i in range(len(sign)):
        own = value_of(least[i, 0], masses[i, 0], masses[i, 1], unit, one, log_scale)
        rival = value_of(least[i, 1], masses[i, 2], masses[i, 3], unit, one, log_scale)
        if kind == 2:
            worth, rise = formulas.target_objective(rival - own, bound, sharpness, keep)
        else:
            worth, rise = formulas.clip_objective(rival - own, bound, sharpness)
        value[i], margin[i], slope[i] = sign[i] * worth, rival - own, sign[i] * rise


@register_jitable
def _emit_boxes(row, first, last, least, mass, moment, softmin, factor, sample, out, count):
    samples, boxes, coefficients = out
    table, cutoff, tau_per_unit, _, _, _ = softmin
    mean = moment / mass
    for m in range(first, last):
        k = row[m] - least
        if k <= cutoff:
            w = formulas.weight(k, table, cutoff)
            c = formulas.softmin_coefficient(k, w, mass, mean, tau_per_unit)
            q = round(factor * c)
            if q != 0:
                if count < len(boxes):
                    samples[count], boxes[count], coefficients[count] = sample, m, q
                count += 1
    return count


@kernel
def emit(distance, first, own, offsets, least, masses, slope, softmin, fixed_point, out, count):
    """Append the entries (sample, box, coefficient) of d objective / d distance; return the count.

    The samples are numbered from `first`; `out` is the triple of entry arrays (int32, int32,
    int64), filled from `count` on. Entries that do not fit are counted but not written.
    """
    for i in range(len(own)):
        if slope[i] == 0.0:
            continue
        row, factor = distance[i], slope[i] * fixed_point
        a, b = offsets[own[i]], offsets[own[i] + 1]
        mass, moment = masses[i, 0], masses[i, 1]
        count = _emit_boxes(
            row, a, b, least[i, 0], mass, moment, softmin, -factor, first + i, out, count
        )
        mass, moment = masses[i, 2], masses[i, 3]
        for c, d in ((0, a), (b, offsets[-1])):
            count = _emit_boxes(
                row, c, d, least[i, 1], mass, moment, softmin, factor, first + i, out, count
            )
    return count


# --- templates: soft-min over rows, part by part, and its gradient ------------------------


@register_jitable
def _row_masses(apart, at, rows, soft):
    """Nearest of some rows in one part, and the sums of their weights and moments."""
    segment, lane = at
    table, cutoff, _, _, _, _ = soft
    least = apart[segment, rows[0], lane]
    for j in range(rows[0] + 1, rows[1]):
        least = min(least, apart[segment, j, lane])
    mass, moment = 0, 0
    for j in range(rows[0], rows[1]):
        k = apart[segment, j, lane] - least
        if k <= cutoff:
            w = formulas.weight(k, table, cutoff)
            mass += w
            moment += w * k
    return least, mass, moment


@register_jitable
def _template_distance(apart, place, sample, rows, soft, shift):
    """Sum over the parts of the soft-min over rows, in units of 2 ** -shift."""
    segments, quarters, width = place
    _, _, _, unit, one, log_scale = soft
    scale = 1 << shift
    total = 0
    for p in range(len(segments)):
        at = segments[p], sample * width + quarters[p]
        least, mass, moment = _row_masses(apart, at, rows, soft)
        value = formulas.softmin_value(0, mass, moment, unit, one, log_scale)
        total += scale * least + round(value / unit * scale)
    return total


def _make_assemble(lanes: int) -> Callable[..., Any]:
    @kernel(name=f"assemble_{lanes}")
    def assemble(
        totals, samples, place, starts, templates, labels, by_class, soft, shift, slack, out
    ):
        """Write the distances of samples to templates, in units of 2 ** -shift.

        totals (tiles, S, M, lanes) int32, place as `_template_distance` takes it; starts (T + 1,)
        rows of the templates, templates (K + 1,) those of the classes; `out` (samples, T) int32. A
        template that is more than `slack` units farther, by its nearest rows, than another one of
        its side has no weight whatever its soft-min is: it gets the distance by its nearest rows.
        Sides are a sample's class and the rest, or if `by_class` each class.
        """
        count, segments, width = len(starts) - 1, totals.shape[1], lanes // 4
        hard = np.empty((count, 4), np.int32)
        low = np.empty((segments, lanes), np.int32)
        nearest = np.empty(len(templates) - 1, np.int32)
        for tile in range(totals.shape[0]):
            for t in range(count):
                for s in range(segments):
                    target = low[s]
                    target[:] = totals[tile, s, starts[t]]
                    for j in range(starts[t] + 1, starts[t + 1]):
                        row = totals[tile, s, j]
                        for lane in range(lanes):
                            target[lane] = min(target[lane], row[lane])
                for i in range(4):
                    hard[t, i] = low[:, i * width : (i + 1) * width].sum()
            for i in range(min(4, samples - 4 * tile)):
                n = 4 * tile + i
                rival = _nearest_classes(hard[:, i], templates, labels[n], nearest)
                for c in range(len(templates) - 1):
                    side = nearest[c] if by_class or c == labels[n] else rival
                    for t in range(templates[c], templates[c + 1]):
                        if hard[t, i] - side > slack:
                            out[n, t] = hard[t, i] << shift
                            continue
                        rows = (starts[t], starts[t + 1])
                        out[n, t] = _template_distance(
                            totals[tile], (place[0], place[1], width), i, rows, soft, shift
                        )

    return assemble


@register_jitable
def _nearest_classes(hard, templates, label, nearest):
    """Write the distance to the nearest template of each class; return that of all but one's."""
    rival = np.int32(2**30)
    for c in range(len(nearest)):
        best = np.int32(2**30)
        for t in range(templates[c], templates[c + 1]):
            best = min(best, hard[t])
        nearest[c] = best
        if c != label:
            rival = min(rival, best)
    return rival


@functools.cache
def assemble(lanes: int) -> Callable[..., Any]:
    """Return the kernel for totals with so many numbers to a tile and box, 4 or 16."""
    return _make_assemble(lanes)


@kernel
def spread(totals, first, place, starts, soft, entries, count, least, out, filled):
    """Append entries (sample, cell, coefficient) of templates' entries; return how many there are.

    The coefficients of the first `count` entries, whose samples are numbered from `first`, go to
    the rows of the template, part by part: to cell ``row * P + part``. What is below `least` is
    left out, and what does not fit is counted but not written.
    """
    samples, templates, coefficients = entries
    to_samples, cells, to_coefficients = out
    segments, quarters, width = place
    table, cutoff, tau_per_unit, _, _, _ = soft
    parts = len(segments)
    for e in range(count):
        i, t = samples[e] - first, templates[e]
        apart, rows = totals[i // 4], (starts[t], starts[t + 1])
        for p in range(parts):
            at = segments[p], i % 4 * width + quarters[p]
            nearest, mass, moment = _row_masses(apart, at, rows, soft)
            mean = moment / mass
            for j in range(rows[0], rows[1]):
                k = apart[at[0], j, at[1]] - nearest
                if k <= cutoff:
                    w = formulas.weight(k, table, cutoff)
                    share = formulas.softmin_coefficient(k, w, mass, mean, tau_per_unit)
                    q = round(coefficients[e] * share)
                    if abs(q) >= least:
                        if filled < len(cells):
                            to_samples[filled], cells[filled] = samples[e], j * parts + p
                            to_coefficients[filled] = q
                        filled += 1
    return filled


# --- gradient and step -------------------------------------------------------------------
# A cell is a box in one part, number ``box * P + part``. Its columns are first..last of `spans`
# (P, 2), and with these in every plane: (planes, columns) of a plane are a shape.


@kernel
def sort_by_box(boxes, count, starts, order):
    """Counting sort: entries of box, or cell, m are ``order[starts[m]:starts[m + 1]]``."""
    starts[:] = 0
    for e in range(count):
        starts[boxes[e] + 1] += 1
    for m in range(1, len(starts)):
        starts[m] += starts[m - 1]
    for e in range(count):
        m = boxes[e]
        order[starts[m]] = e
        starts[m] += 1
    for m in range(len(starts) - 1, 0, -1):
        starts[m] = starts[m - 1]
    starts[0] = 0


@kernel
def box_masses(starts, order, coefficients, masses):
    """Write the sum of the absolute coefficients of each box, or cell, to masses, int64."""
    for m in range(len(masses)):
        masses[m] = 0
        for e in range(starts[m], starts[m + 1]):
            masses[m] += abs(coefficients[order[e]])


def _make_gradient(name: str, slope: Any) -> Callable[..., Any]:
    @kernel(name=name)
    def gradient(
        x, lower, upper, spans, shape, touched, starts, order, samples, coefficients, width, leak,
        grad_lower, grad_upper,
    ):  # fmt: skip
        """Write the integer gradient of the touched cells to rows 0.. of the outputs.

        x (batch, columns), lower and upper (M, columns) uint8; grad_lower and grad_upper
        (cells, planes * most columns of a span) int64, or int32 where no sum can overflow it.
        """
        integer = grad_lower.dtype.type
        for t in range(len(touched)):
            m, p = touched[t] // len(spans), touched[t] % len(spans)
            first, last = spans[p, 0], spans[p, 1]
            a, b = lower[m, first:last], upper[m, first:last]
            low, high = grad_lower[t, : last - first], grad_upper[t, : last - first]
            low[:] = 0
            high[:] = 0
            for e in range(starts[touched[t]], starts[touched[t] + 1]):
                entry = order[e]
                code = x[samples[entry], first:last]
                q = integer(coefficients[entry])
                q_leak = integer(round(coefficients[entry] * leak))
                for k in range(len(code)):
                    below = np.int32(a[k]) - np.int32(code[k])
                    above = np.int32(code[k]) - np.int32(b[k])
                    low[k] += slope(below, width, q, q_leak)
                    high[k] -= slope(above, width, q, q_leak)

    return gradient


graded_gradient = _make_gradient("graded_gradient", formulas.graded_slope)
l1_gradient = _make_gradient("l1_gradient", formulas.l1_slope)
l2_gradient = _make_gradient("l2_gradient", formulas.l2_slope)


@kernel
def grouped_gradient(
    x, lower, upper, spans, shape, touched, starts, order, samples, coefficients, width, leak,
    grad_lower, grad_upper,
):  # fmt: skip
    """As that of single features: what counts is the excess of a group as a whole."""
    integer, (planes, columns) = grad_lower.dtype.type, shape
    total = np.empty(grad_lower.shape[1], np.int32)
    for t in range(len(touched)):
        m, p = touched[t] // len(spans), touched[t] % len(spans)
        first, last = spans[p, 0], spans[p, 1]
        size = last - first
        grad_lower[t] = 0
        grad_upper[t] = 0
        for e in range(starts[touched[t]], starts[touched[t] + 1]):
            entry = order[e]
            q = integer(coefficients[entry])
            q_leak = integer(round(coefficients[entry] * leak))
            total[:size] = 0
            for plane in range(planes):
                at = plane * columns + first
                code, a, b = x[samples[entry], at:], lower[m, at:], upper[m, at:]
                for k in range(size):
                    total[k] += formulas.excess(np.int32(code[k]), np.int32(a[k]), np.int32(b[k]))
            for plane in range(planes):
                at = plane * columns + first
                code, a, b = x[samples[entry], at:], lower[m, at:], upper[m, at:]
                low, high = grad_lower[t, plane * size :], grad_upper[t, plane * size :]
                for k in range(size):
                    below = np.int32(a[k]) - np.int32(code[k])
                    above = np.int32(code[k]) - np.int32(b[k])
                    low[k] += formulas.grouped_slope(below, total[k], width, q, q_leak)
                    high[k] -= formulas.grouped_slope(above, total[k], width, q, q_leak)


@register_jitable
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


@kernel
def sgd_step(
    cells, spans, shape, gradients, scale, masters, velocity, codes, options, masses, limit
):  # fmt: skip
    """Step some cells; rows 0.. of the gradients are theirs.

    masters and codes are (lower, upper) pairs, (M, columns) float32 and uint8; velocity is such a
    pair too, unused without momentum. Integer gradients times `scale` are per unit of [0, 1];
    options are (rate, momentum, decay) as `formulas.sgd_update` takes them. Steps of cells whose
    mass, (cells,) int64, is above the limit, a float, are scaled down.
    """
    (rate, momentum, decay), (planes, columns) = options, shape
    for t in range(len(cells)):
        m, p = cells[t] // len(spans), cells[t] % len(spans)
        share = formulas.product(scale, formulas.crowd_share(masses[cells[t]], limit))
        size = spans[p, 1] - spans[p, 0]
        for plane in range(planes):
            first = plane * columns + spans[p, 0]
            last = first + size
            for side in range(2):
                master = masters[side][m, first:last]
                gradient = gradients[side][t, plane * size : (plane + 1) * size]
                if momentum > 0.0:
                    speed = velocity[side][m, first:last]
                    for k in range(len(master)):
                        master[k], speed[k] = formulas.sgd_update(
                            master[k], share * gradient[k], speed[k], rate, momentum, decay
                        )
                else:
                    for k in range(len(master)):
                        master[k], _ = formulas.sgd_update(
                            master[k], share * gradient[k], 0.0, rate, 0.0, decay
                        )
            _settle(masters, codes, m, first, last)


@kernel
def adam_step(
    cells, spans, shape, gradients, scale, masters, moments1, moments2, codes, options
):  # fmt: skip
    """Step some cells by Adam; arguments as for `sgd_step`, with both moments."""
    (rate, decay, correct1, correct2), (planes, columns) = options, shape
    for t in range(len(cells)):
        m, p = cells[t] // len(spans), cells[t] % len(spans)
        size = spans[p, 1] - spans[p, 0]
        for plane in range(planes):
            first = plane * columns + spans[p, 0]
            last = first + size
            for side in range(2):
                master = masters[side][m, first:last]
                gradient = gradients[side][t, plane * size : (plane + 1) * size]
                mean, square = moments1[side][m, first:last], moments2[side][m, first:last]
                for k in range(len(master)):
                    master[k], mean[k], square[k] = formulas.adam_update(
                        master[k], scale * gradient[k], mean[k], square[k], rate, decay,
                        correct1, correct2,
                    )  # fmt: skip
            _settle(masters, codes, m, first, last)


@kernel
def settle(masters, codes):
    """Settle all boxes, after initialisation."""
    for m in range(masters[0].shape[0]):
        _settle(masters, codes, m, 0, masters[0].shape[1])


@kernel
def copy_cells(cells, spans, shape, codes, columns, lower, upper):
    """Copy the codes of some cells to a table, column k to ``columns[k]``, or nowhere if < 0."""
    for t in range(len(cells)):
        m, p = cells[t] // len(spans), cells[t] % len(spans)
        for plane in range(shape[0]):
            for k in range(plane * shape[1] + spans[p, 0], plane * shape[1] + spans[p, 1]):
                if columns[k] >= 0:
                    lower[m, columns[k]] = codes[0][m, k]
                    upper[m, columns[k]] = codes[1][m, k]


# --- copies of the boxes elsewhere, which follow step by step ------------------------------


@kernel
def find_changes(cells, spans, shape, codes, known, counts, gaps, changed):
    """Bring known codes up to date with those of some cells; write what was new, return how many.

    codes and known are (lower, upper) pairs, (M, columns) uint8; counts (cells, 2) int32 gets the
    changes of each side. A change is the code and its gap, a uint8, to the one before, where a
    cell's columns are counted through plane by plane. Codes that did not change fill longer gaps.
    """
    count, (planes, columns) = 0, shape
    places = np.empty(columns, np.int64)
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
                        for k in range(8):  # without a branch: what changes is not to be foreseen
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


@kernel
def make_changes(cells, spans, shape, counts, gaps, changed, columns, lower, upper):
    """Do what `find_changes` found to bounds in which column k is ``columns[k]``."""
    count = 0
    for t in range(len(cells)):
        m, p = cells[t] // len(spans), cells[t] % len(spans)
        size = spans[p, 1] - spans[p, 0]
        for side in range(2):
            row = upper[m] if side else lower[m]
            here = 0
            for _ in range(counts[t, side]):
                here += gaps[count]
                row[columns[here // size * shape[1] + spans[p, 0] + here % size]] = changed[count]
                count += 1


# --- a whole step of few plain boxes: the kernels above one after the other, in two calls ----


@kernel
def stages(distance, labels, offsets, soft, worth, fixed_point, value, margin, out):
    """Judge samples by their distances (>= rows, M) and write their entries; return the count.

    As `nearest` to `emit` do it; entries that do not fit `out` are counted but not written.
    """
    rows = len(labels)
    minima = np.full((rows, len(offsets) - 1), np.int32(2**31 - 1), np.int32)
    own, sign, least = np.empty(rows, np.int32), np.empty(rows), np.empty((rows, 2), np.int32)
    masses, slope = np.zeros((rows, 4), np.int64), np.empty(rows)
    nearest(distance, rows, offsets, minima)
    choose_sides(minima, labels, worth[0], own, sign, least)
    weigh(distance, own, offsets, least, soft[0], soft[1], masses)
    judge(sign, least, masses, soft, worth, value, margin, slope)
    return emit(distance, 0, own, offsets, least, masses, slope, soft, fixed_point, out, 0)


@kernel
def move(
    x, count, entries, spans, shape, width, leak, scale, by_adam, adam, sgd, limit, masters,
    moments1, moments2, codes, masses, dense,
):  # fmt: skip
    """Move boxes along the first `count` entries, as `sort_by_box` to `adam_step` do it."""
    samples, boxes, coefficients = entries
    starts, order = np.empty(len(masses) + 1, np.int64), np.empty(count, np.int64)
    sort_by_box(boxes, count, starts, order)
    box_masses(starts, order, coefficients, masses)
    touched = np.empty(len(masses), np.int64)
    found = 0
    for m in range(len(masses)):
        if dense or starts[m + 1] > starts[m]:
            touched[found] = m
            found += 1
    cells = touched[:found]
    low = np.empty((found, shape[1]), np.int64)
    high = np.empty((found, shape[1]), np.int64)
    graded_gradient(
        x, codes[0], codes[1], spans, shape, cells, starts, order, samples, coefficients, width,
        leak, low, high,
    )  # fmt: skip
    if by_adam:
        adam_step(cells, spans, shape, (low, high), scale, masters, moments1, moments2, codes, adam)
    else:
        sgd_step(
            cells, spans, shape, (low, high), scale, masters, moments1, codes, sgd, masses, limit
        )
