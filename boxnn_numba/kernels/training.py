"""Loops of one training step: soft-min, coefficients, sparse gradient, update.

All sums are of integers (weights from a table, coefficients rounded to fixed
point), so a gradient is the same to the last bit however samples and boxes are
split among threads, workers or vector lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from boxnn_numba.kernels import formulas
from boxnn_numba.kernels.compile import kernel

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


@kernel
def sort_by_box(boxes, count, starts, order):
    """Counting sort: entries of box m are ``order[starts[m]:starts[m + 1]]``."""
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
    """Write the sum of the absolute coefficients of each box to masses (M,) int64."""
    for m in range(len(masses)):
        masses[m] = 0
        for e in range(starts[m], starts[m + 1]):
            masses[m] += abs(coefficients[order[e]])


def _make_gradient(name: str, slope: Any) -> Callable[..., Any]:
    @kernel(name=name)
    def gradient(
        x, n, lower, upper, touched, first, last, starts, order, samples, coefficients, width, leak,
        grad_lower, grad_upper,
    ):  # fmt: skip
        """Write the integer gradient of boxes touched[first:last] to rows 0.. of the outputs.

        x (batch, >= n), lower and upper (M, >= n) uint8; grad_lower and grad_upper int64, or int32
        where no sum can overflow it.
        """
        integer = grad_lower.dtype.type
        for t in range(first, last):
            m = touched[t]
            low, high = grad_lower[t - first], grad_upper[t - first]
            low[:n] = 0
            high[:n] = 0
            for e in range(starts[m], starts[m + 1]):
                entry = order[e]
                code = x[samples[entry]]
                q = integer(coefficients[entry])
                q_leak = integer(round(coefficients[entry] * leak))
                for k in range(n):
                    below = np.int32(lower[m, k]) - np.int32(code[k])
                    above = np.int32(code[k]) - np.int32(upper[m, k])
                    low[k] += slope(below, width, q, q_leak)
                    high[k] -= slope(above, width, q, q_leak)

    return gradient


graded_gradient = _make_gradient("graded_gradient", formulas.graded_slope)
l1_gradient = _make_gradient("l1_gradient", formulas.l1_slope)
l2_gradient = _make_gradient("l2_gradient", formulas.l2_slope)


@register_jitable
def _settle(master_lower, master_upper, lower, upper, m, n):
    """Keep masters inside the codes, uncross them, and round them to the deployed box."""
    lows, highs, low_codes, high_codes = master_lower[m], master_upper[m], lower[m], upper[m]
    for k in range(n):
        low, high = formulas.settled(lows[k], highs[k])
        # Codes follow from the float32 that is stored, so that a resumed run finds the same.
        lows[k], highs[k] = low, high
        low_codes[k] = formulas.rounded(low)
        high_codes[k] = formulas.rounded(high)


@kernel
def sgd_step(
    boxes, first, last, grad_lower, grad_upper, scale, masters, velocity, codes, options, masses,
    limit,
):  # fmt: skip
    """Step boxes[first:last]; rows 0.. of the gradients are theirs.

    masters and codes are (lower, upper) pairs, (M, n) float32 and (M, >= n) uint8; velocity is
    such a pair too, unused without momentum. Integer gradients times `scale` are per
    unit of [0, 1]; options are (rate, momentum, decay) as `formulas.sgd_update` takes them.
    Steps of boxes whose mass, (M,) int64, is above the limit, a float, are scaled down.
    """
    rate, momentum, decay = options
    gradients = (grad_lower, grad_upper)
    for t in range(first, last):
        m = boxes[t]
        share = formulas.product(scale, formulas.crowd_share(masses[m], limit))
        for side in range(2):
            master = masters[side][m]
            gradient = gradients[side][t - first]
            if momentum > 0.0:
                speed = velocity[side][m]
                for k in range(len(master)):
                    master[k], speed[k] = formulas.sgd_update(
                        master[k], share * gradient[k], speed[k], rate, momentum, decay
                    )
            else:
                for k in range(len(master)):
                    master[k], _ = formulas.sgd_update(
                        master[k], share * gradient[k], 0.0, rate, 0.0, decay
                    )
        _settle(masters[0], masters[1], codes[0], codes[1], m, masters[0].shape[1])


@kernel
def adam_step(
    boxes, first, last, grad_lower, grad_upper, scale, masters, moments1, moments2, codes, options
):
    """Step boxes[first:last] by Adam; arguments as for `sgd_step`, with both moments."""
    rate, decay, correct1, correct2 = options
    gradients = (grad_lower, grad_upper)
    for t in range(first, last):
        m = boxes[t]
        for side in range(2):
            master = masters[side][m]
            gradient = gradients[side][t - first]
            mean, square = moments1[side][m], moments2[side][m]
            for k in range(len(master)):
                master[k], mean[k], square[k] = formulas.adam_update(
                    master[k], scale * gradient[k], mean[k], square[k], rate, decay,
                    correct1, correct2,
                )  # fmt: skip
        _settle(masters[0], masters[1], codes[0], codes[1], m, masters[0].shape[1])


@kernel
def settle(masters, codes):
    """Settle all boxes, after initialisation."""
    for m in range(masters[0].shape[0]):
        _settle(masters[0], masters[1], codes[0], codes[1], m, masters[0].shape[1])
