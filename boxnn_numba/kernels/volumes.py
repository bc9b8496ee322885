"""Volumes of grown boxes: the probability that a uniform code vector is near a box.

The distance of a uniform vector to a box is a sum of independent penalties, so its distribution
is the product of n small generating functions. All of it is kept tilted by ``exp(-tilt * units)``
(a diagonal scaling), so that probabilities down to 256^-n neither underflow nor lose digits.

A feature's penalties 0..W have probabilities ``w_p``, here as the steps ``w_p - w_(p-1)`` that are
not zero: a handful where all codes count, so that a feature costs a few multiply-adds a state.
"""

from __future__ import annotations

import math

import numpy as np

from boxnn_numba.kernels.compile import kernel, register_jitable

_HALVINGS = 16
_SMALLEST_TILT, _LARGEST_TILT = 1e-6, 64.0
#: Where the largest tilted probability falls below this, all are scaled up.
_RESCALE = 1e-60


@register_jitable
def _steps(lower, upper, before, width, starts, positions, values):
    """Write the steps of every feature's penalties; return the least possible distance.

    ``before[j, c]`` is how many codes below c feature j may take. Features that are always
    inside have no steps.
    """
    end, least = 0, 0
    for j in range(len(lower)):
        starts[j] = end
        low, high = int(lower[j]), int(upper[j])
        total = int(before[j, 256])
        inside = int(before[j, high + 1]) - int(before[j, low])
        if inside == total:
            continue
        previous, smallest = 0, -1
        for p in range(width + 2):
            count = 0
            if p == 0:
                count = inside
            elif p < width:
                if low >= p:
                    count += int(before[j, low - p + 1]) - int(before[j, low - p])
                if high + p < 256:
                    count += int(before[j, high + p + 1]) - int(before[j, high + p])
            elif p == width:
                count = total
                if high + p <= 256:
                    count -= int(before[j, high + p])
                else:
                    count -= total
                if low - p + 1 > 0:
                    count += int(before[j, low - p + 1])
            if count > 0 and smallest < 0:
                smallest = p
            if count != previous:
                positions[end] = p
                values[end] = (count - previous) / total
                end += 1
                previous = count
        least += smallest
    starts[len(lower)] = end
    return least


@register_jitable
def _moments(tilt, width, starts, positions, values, sums, moments):
    """Return the tilted mean distance and the logarithm of its generating function."""
    sums[width + 1] = moments[width + 1] = 0.0
    for p in range(width, -1, -1):
        weight = math.exp(-tilt * p)
        sums[p] = sums[p + 1] + weight
        moments[p] = moments[p + 1] + p * weight
    mean, log_mass = 0.0, 0.0
    for j in range(len(starts) - 1):
        if starts[j] == starts[j + 1]:
            continue
        mass, moment = 0.0, 0.0
        for k in range(starts[j], starts[j + 1]):
            mass += values[k] * sums[positions[k]]
            moment += values[k] * moments[positions[k]]
        mean += moment / mass
        log_mass += math.log(mass)
    return mean, log_mass


@kernel(allocates=True)
def tilts(lower, upper, before, width, units, tilt, bound):
    """Write for each box the tilt under which a distance of `units` is typical.

    Also ``bound``, the logarithm of Chernoff's upper bound of the probability of a distance
    of at most `units`; -inf where that is impossible.
    """
    n = lower.shape[1]
    starts = np.empty(n + 1, np.int64)
    positions = np.empty(n * (width + 2), np.int32)
    values = np.empty(n * (width + 2), np.float64)
    sums, moments = np.empty(width + 2), np.empty(width + 2)
    for m in range(len(lower)):
        least = _steps(lower[m], upper[m], before, width, starts, positions, values)
        tilt[m] = bound[m] = 0.0
        if least > units:
            bound[m] = -np.inf
            continue
        mean, log_mass = _moments(0.0, width, starts, positions, values, sums, moments)
        if mean <= units:
            continue
        small, large = _SMALLEST_TILT, _LARGEST_TILT
        for _ in range(_HALVINGS):
            middle = math.sqrt(small * large)
            mean, log_mass = _moments(middle, width, starts, positions, values, sums, moments)
            if mean > units:
                small = middle
            else:
                large = middle
        mean, log_mass = _moments(small, width, starts, positions, values, sums, moments)
        tilt[m], bound[m] = small, min(0.0, log_mass + small * units)


@kernel(allocates=True)
def log_tails(lower, upper, before, width, units, tilt, out):
    """Write for each box the logarithm of the probability of a distance of at most `units`."""
    n = lower.shape[1]
    starts = np.empty(n + 1, np.int64)
    positions = np.empty(n * (width + 2), np.int32)
    values = np.empty(n * (width + 2), np.float64)
    old, new = np.empty(units + 1), np.empty(units + 1)
    for m in range(len(lower)):
        if _steps(lower[m], upper[m], before, width, starts, positions, values) > units:
            out[m] = -np.inf
            continue
        old[0], top, log_scale, decay = 1.0, 0, 0.0, math.exp(-tilt[m])
        for j in range(n):
            if starts[j] == starts[j + 1]:
                continue
            reach = min(units, top + width)
            new[: reach + 1] = 0.0
            for k in range(starts[j], starts[j + 1]):
                p = positions[k]
                count = min(top, reach - p) + 1
                if count <= 0:
                    continue
                factor = values[k] * math.exp(-tilt[m] * p)
                source, target = old[:count], new[p : p + count]
                for i in range(count):
                    target[i] += factor * source[i]
            # Steps become probabilities by adding them up, each tilted by one unit more.
            carried, peak = 0.0, 0.0
            for s in range(reach + 1):
                carried = carried * decay + new[s]
                new[s] = carried
                peak = max(peak, carried)
            if peak < _RESCALE:
                new[: reach + 1] /= peak
                log_scale += math.log(peak)
            old, new, top = new, old, reach
        total = 0.0
        for s in range(top + 1):
            total += old[s] * math.exp(tilt[m] * (s - units))
        out[m] = min(0.0, math.log(total) + tilt[m] * units + log_scale)
