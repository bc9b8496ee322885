"""Loops of one training step: soft-min, coefficients, sparse gradient, update.

All sums are of integers (weights from a table, coefficients rounded to fixed
point), so a gradient is the same to the last bit however samples and boxes are
split among threads, workers or vector lanes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from boxnn_numba.kernels import elementwise
from boxnn_numba.kernels.compile import kernel


@register_jitable
def _nearest(row, first, last, best):  # type: ignore[no-untyped-def]
    for m in range(first, last):
        best = min(best, row[m])
    return best


@register_jitable
def _add_weights(row, first, last, nearest, table, cutoff, mass, moment):  # type: ignore[no-untyped-def]
    for m in range(first, last):
        k = row[m] - nearest
        if k <= cutoff:
            w = elementwise.weight(k, table, cutoff)
            mass += w
            moment += w * k
    return mass, moment


@register_jitable
def _emit(  # type: ignore[no-untyped-def]
    row, first, last, nearest, table, cutoff, mass, mean, tau_per_unit, factor, sample, out, count
):
    samples, boxes, coefficients = out
    for m in range(first, last):
        k = row[m] - nearest
        if k <= cutoff:
            w = elementwise.weight(k, table, cutoff)
            c = elementwise.softmin_coefficient(k, w, mass, mean, tau_per_unit)
            q = round(factor * c)
            if q != 0:
                if count < len(boxes):
                    samples[count], boxes[count], coefficients[count] = sample, m, q
                count += 1
    return count


@register_jitable
def _softmin(nearest, mass, mean, unit, one, log_scale):  # type: ignore[no-untyped-def]
    if log_scale > 0.0:
        return unit * nearest - log_scale * math.log(mass / one)
    return unit * (nearest + mean)


@kernel
def softmin_entries(  # type: ignore[no-untyped-def]
    distance,
    first,
    rows,
    labels,
    offsets,
    softmin,
    objective,
    fixed_point,
    out,
    count,
    value,
    margin,
):
    """Append the entries (sample, box, coefficient) of d objective / d distance; return the count.

    distance (rows, >= M) int32 belongs to samples first.. of the batch; `out` is the triple of
    entry arrays (int32, int32, int64), filled from `count` on. Entries that do not fit
    are counted but not written. value and margin (batch,) float64 get each sample's objective and
    soft margin.
    """
    table, cutoff, tau_per_unit, unit, one, log_scale = softmin
    kind, bound, sharpness = objective
    total = offsets[-1]
    for i in range(rows):
        sample = first + i
        row = distance[i]
        own = labels[sample]
        sign = 1.0
        if kind == 0:  # the paper's: margin of the predicted class, signed by being right
            winner = 0
            for m in range(1, total):
                if row[m] < row[winner]:
                    winner = m
            predicted = 0
            while offsets[predicted + 1] <= winner:
                predicted += 1
            if predicted != own:
                own, sign = predicted, -1.0
        a, b = offsets[own], offsets[own + 1]
        near_own = _nearest(row, a, b, row[a])
        other = 0 if a > 0 else b
        near_rival = _nearest(row, b, total, _nearest(row, 0, a, row[other]))
        mass_own, moment_own = _add_weights(row, a, b, near_own, table, cutoff, 0, 0)
        mass_rival, moment_rival = _add_weights(row, 0, a, near_rival, table, cutoff, 0, 0)
        mass_rival, moment_rival = _add_weights(
            row, b, total, near_rival, table, cutoff, mass_rival, moment_rival
        )
        mean_own, mean_rival = moment_own / mass_own, moment_rival / mass_rival
        soft_margin = _softmin(near_rival, mass_rival, mean_rival, unit, one, log_scale) - _softmin(
            near_own, mass_own, mean_own, unit, one, log_scale
        )
        if kind == 2:
            worth, slope = elementwise.target_objective(soft_margin, bound, sharpness)
        else:
            worth, slope = elementwise.clip_objective(soft_margin, bound, sharpness)
        value[sample] = sign * worth
        margin[sample] = soft_margin
        factor = sign * slope * fixed_point
        if factor != 0.0:
            count = _emit(
                row, a, b, near_own, table, cutoff, mass_own, mean_own, tau_per_unit, -factor,
                sample, out, count,
            )  # fmt: skip
            for c, d in ((0, a), (b, total)):
                count = _emit(
                    row, c, d, near_rival, table, cutoff, mass_rival, mean_rival, tau_per_unit,
                    factor, sample, out, count,
                )  # fmt: skip
    return count


@kernel
def sort_by_box(boxes, count, starts, order):  # type: ignore[no-untyped-def]
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


def _make_gradient(name: str, slope: Any) -> Callable[..., Any]:
    @kernel(name=name)
    def gradient(  # type: ignore[no-untyped-def]
        x, n, lower, upper, touched, first, last, starts, order, samples, coefficients, width, leak,
        grad_lower, grad_upper,
    ):  # fmt: skip
        """Write the integer gradient of boxes touched[first:last] to rows 0.. of the outputs.

        x (batch, >= n), lower and upper (M, >= n) uint8; grad_lower and grad_upper int64.
        """
        for t in range(first, last):
            m = touched[t]
            low, high = grad_lower[t - first], grad_upper[t - first]
            low[:n] = 0
            high[:n] = 0
            for e in range(starts[m], starts[m + 1]):
                entry = order[e]
                code = x[samples[entry]]
                q = coefficients[entry]
                q_leak = round(q * leak)
                for k in range(n):
                    below = np.int32(lower[m, k]) - np.int32(code[k])
                    above = np.int32(code[k]) - np.int32(upper[m, k])
                    low[k] += slope(below, width, q, q_leak)
                    high[k] -= slope(above, width, q, q_leak)

    return gradient


graded_gradient = _make_gradient("graded_gradient", elementwise.graded_slope)
l1_gradient = _make_gradient("l1_gradient", elementwise.l1_slope)
l2_gradient = _make_gradient("l2_gradient", elementwise.l2_slope)


@register_jitable
def _settle(master_lower, master_upper, lower, upper, m, n):  # type: ignore[no-untyped-def]
    """Keep masters inside the codes, uncross them, and round them to the deployed box."""
    for k in range(n):
        low = min(max(master_lower[m, k], 0.0), 255.0)
        high = min(max(master_upper[m, k], 0.0), 255.0)
        if low > high:
            low = high = 0.5 * (low + high)
        # Codes follow from the float32 that is stored, so that a resumed run finds the same.
        master_lower[m, k], master_upper[m, k] = low, high
        lower[m, k] = int(master_lower[m, k] + 0.5)
        upper[m, k] = int(master_upper[m, k] + 0.5)


@kernel
def sgd_step(  # type: ignore[no-untyped-def]
    boxes, first, last, grad_lower, grad_upper, scale, masters, velocity, codes, options
):
    """Step boxes[first:last]; rows 0.. of the gradients are theirs.

    masters and codes are (lower, upper) pairs, (M, n) float32 and (M, >= n) uint8; velocity is
    such a pair too, unused without momentum. Integer gradients times `scale` are per
    unit of [0, 1]; options are (rate, momentum, decay) as `elementwise.sgd_update` takes them.
    """
    rate, momentum, decay = options
    gradients = (grad_lower, grad_upper)
    for t in range(first, last):
        m = boxes[t]
        for side in range(2):
            master = masters[side][m]
            gradient = gradients[side][t - first]
            if momentum > 0.0:
                speed = velocity[side][m]
                for k in range(len(master)):
                    master[k], speed[k] = elementwise.sgd_update(
                        master[k], scale * gradient[k], speed[k], rate, momentum, decay
                    )
            else:
                for k in range(len(master)):
                    master[k], _ = elementwise.sgd_update(
                        master[k], scale * gradient[k], 0.0, rate, 0.0, decay
                    )
        _settle(masters[0], masters[1], codes[0], codes[1], m, masters[0].shape[1])


@kernel
def adam_step(  # type: ignore[no-untyped-def]
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
                master[k], mean[k], square[k] = elementwise.adam_update(
                    master[k], scale * gradient[k], mean[k], square[k], rate, decay,
                    correct1, correct2,
                )  # fmt: skip
        _settle(masters[0], masters[1], codes[0], codes[1], m, masters[0].shape[1])


@kernel
def settle(masters, codes):  # type: ignore[no-untyped-def]
    """Settle all boxes, after initialisation."""
    for m in range(masters[0].shape[0]):
        _settle(masters[0], masters[1], codes[0], codes[1], m, masters[0].shape[1])
