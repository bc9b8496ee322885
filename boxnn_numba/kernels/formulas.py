"""Formulas, each written once: for one feature, one box, one sample.

Plain functions that Numba compiles into the loops of `boxnn_numba.kernels.distances`
and, as device functions, into those for GPUs, and that Python runs as they are. Codes
come in as signed integers or floats, so that differences cannot wrap around.

Floating point gives the same bits everywhere: only operations that IEEE 754 rounds
correctly, and every product that something is added to goes through `product`.
"""

from __future__ import annotations

import math

import numpy as np

from boxnn_numba.kernels.compile import register_jitable

# --- arithmetic that is the same on every processor ---------------------------------------

#: ln 2 in two parts; whole multiples of the first below 2 ** 20 are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG2_E, _SQRT_HALF = 1.4426950408889634, 0.7071067811865476


@register_jitable
def product(a, b):
    """a * b, rounded before anything is added to it: GPUs would fuse the two."""
    return a * b


@register_jitable
def exponential(z):
    """e ** z, to about a unit in the last place; z is clipped to -700..700."""
    z = min(max(z, -700.0), 700.0)
    k = round(z * _LOG2_E)
    r = (z - product(k, _LN2_HIGH)) - product(k, _LN2_LOW)
    p = 1.0
    for i in range(14, 0, -1):
        p = 1.0 + product(r, p) / i
    return math.ldexp(p, k)


@register_jitable
def logarithm(x):
    """ln x of a positive x, to three units in the last place."""
    m, e = math.frexp(x)
    if m < _SQRT_HALF:
        m, e = 2.0 * m, e - 1
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    p = 0.0
    for i in range(23, 0, -2):
        p = 1.0 / i + product(square, p)
    return product(e, _LN2_HIGH) + (product(2.0 * s, p) + product(e, _LN2_LOW))


# --- penalties of one feature: x against [lower, upper] ---------------------------------


@register_jitable
def excess(x, lower, upper):
    """How far x lies outside [lower, upper]: max(lower - x, x - upper, 0)."""
    # In this form no literal widens the type: a 0 would turn float32 into float64.
    return abs(x - min(max(x, lower), upper))


@register_jitable
def graded(x, lower, upper, width):
    """Excess capped at the width: the l0 indicator at 1, the cone of Eq. (14) at 255."""
    return min(excess(x, lower, upper), width)


@register_jitable
def l1(x, lower, upper, width):
    """Eq. (26); for the ablation study only, it has no certificate."""
    return abs(x - lower) + abs(x - upper)


@register_jitable
def l2(x, lower, upper, width):
    """Eq. (27); for the ablation study only, it has no certificate."""
    return (x - lower) * (x - lower) + (x - upper) * (x - upper)


# --- slopes: all three penalties are f(lower - x) + f(x - upper) for one f ---------------
# Each returns q times the derivative of f at t, so d/d lower = slope(lower - x) and
# d/d upper = -slope(x - upper).


@register_jitable
def graded_slope(t, width, q, q_leak):
    """Inside the width q, beyond it q_leak (which keeps the gradient alive), else 0."""
    return (q if t <= width else q_leak) if t > 0 else 0


@register_jitable
def grouped_slope(t, total, width, q, q_leak):
    """As `graded_slope`, in a group whose excess is `total`: it is inside the width as a whole."""
    return (q if total <= width else q_leak) if t > 0 else 0


@register_jitable
def l1_slope(t, width, q, q_leak):
    """Slope of |t|."""
    return q if t > 0 else (-q if t < 0 else 0)


@register_jitable
def l2_slope(t, width, q, q_leak):
    """Slope of t squared."""
    return 2 * t * q


# --- soft-min of distances that are integers k above their minimum -----------------------
# A table holds the weight of every k as an integer, so sums are exact in any order.


@register_jitable
def weight(k, table, cutoff):
    """Integer weight of a distance k units above the minimum; 0 past the cutoff."""
    # Without a branch, and unsigned: Numba would look whether the index is negative.
    return table[np.uint64(min(k, len(table) - 1))] * np.int64(k <= cutoff)


@register_jitable
def softmin_coefficient(k, w, mass, mean, tau_per_unit):
    """d softmin / d d_m = w_m (1 - tau (d_m - s)) for Eq. (12); tau 0 gives w_m (log-sum-exp)."""
    return w / mass * (1.0 - product(tau_per_unit, k - mean))


@register_jitable
def softmin_value(nearest, mass, moment, unit, one, log_scale):
    """Soft-min from the sums of weights and of k times weight (log-sum-exp if log_scale > 0)."""
    if log_scale > 0.0:
        return product(unit, nearest) - product(log_scale, logarithm(mass / one))
    return product(unit, nearest + moment / mass)


# --- objectives of the margin, to be maximised --------------------------------------------

#: Kinds of objectives: the first is of the predicted class's margin, the others of the true one's.
PAPER, CLIP, TARGET = range(3)


@register_jitable
def clip_objective(margin, beta, sharpness):
    """Value and slope of min(margin, beta), Eq. (13)."""
    return (margin, 1.0) if margin < beta else (beta, 0.0)


@register_jitable
def target_objective(margin, target, sharpness, keep):
    """Value and slope of 4 s logistic((margin - target) / s), of slope 1 where it is steepest.

    Divided by 4 s it is a smooth certified accuracy at radius target / 2. To this `keep` times
    the margin clipped at the target is added, which pulls at samples that are far below.
    """
    z = (margin - target) / sharpness
    p = 1.0 / (1.0 + exponential(-z)) if z > -30.0 else exponential(z)
    extra, pull = clip_objective(margin, target, sharpness)
    worth, rise = product(4.0 * sharpness, p), product(4.0 * p, 1.0 - p)
    return worth + product(keep, extra), rise + product(keep, pull)


# --- optimisers: one parameter, in codes; gradient of the objective per unit of [0, 1] ---
# rate is in codes, decay per code, so no update divides by 255.


@register_jitable
def sgd_update(value, gradient, velocity, rate, momentum, decay):
    """Ascend with momentum and weight decay; return the new value and velocity."""
    velocity = product(momentum, velocity) + (gradient - product(decay, value))
    return value + product(rate, velocity), velocity


@register_jitable
def crowd_share(mass, limit):
    """Factor of a step that samples of this mass together pull for; limit 0 is none."""
    return limit / mass if 0.0 < limit < mass else 1.0


@register_jitable
def adam_update(value, gradient, first, second, rate, decay, correct1, correct2):
    """Ascend by Adam (beta 0.9 and 0.999); return the new value and both moments."""
    gradient = gradient - product(decay, value)
    first = product(0.9, first) + product(0.1, gradient)
    second = product(0.999, second) + product(0.001 * gradient, gradient)
    step = product(first, correct1) / (math.sqrt(product(second, correct2)) + 1e-8)
    return value + product(rate, step), first, second


@register_jitable
def settled(low, high):
    """float32 masters kept inside the codes; crossed ones meet half way."""
    low = min(max(low, np.float32(0.0)), np.float32(255.0))
    high = min(max(high, np.float32(0.0)), np.float32(255.0))
    middle = np.float32(0.5) * (low + high)
    crossed = low > high
    return (middle if crossed else low), (middle if crossed else high)


@register_jitable
def rounded(master):
    """The code of a settled float32 master: the nearest, halves up."""
    return np.uint8(master + np.float32(0.5))
