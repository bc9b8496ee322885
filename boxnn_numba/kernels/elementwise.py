"""The formulas, once: what happens to one feature, one box, one sample.

Plain functions that Numba compiles into the loops of `boxnn_numba.kernels.cpu`
and that Python runs as they are. Codes come in as signed integers or floats, so
that differences cannot wrap around.
"""

from __future__ import annotations

import math

from numba.extending import register_jitable

# --- penalties of one feature: x against [lower, upper] ---------------------------------


@register_jitable
def excess(x, lower, upper):  # type: ignore[no-untyped-def]
    """How far x lies outside [lower, upper]: max(lower - x, x - upper, 0)."""
    # In this form no literal widens the type: a 0 would turn float32 into float64.
    return abs(x - min(max(x, lower), upper))


@register_jitable
def graded(x, lower, upper, width):  # type: ignore[no-untyped-def]
    """Excess capped at the width: the l0 indicator at 1, the cone of Eq. (14) at 255."""
    return min(excess(x, lower, upper), width)


@register_jitable
def l1(x, lower, upper, width):  # type: ignore[no-untyped-def]
    """Eq. (26); for the ablation study only, it has no certificate."""
    return abs(x - lower) + abs(x - upper)


@register_jitable
def l2(x, lower, upper, width):  # type: ignore[no-untyped-def]
    """Eq. (27); for the ablation study only, it has no certificate."""
    return (x - lower) * (x - lower) + (x - upper) * (x - upper)


# --- slopes: all three penalties are f(lower - x) + f(x - upper) for one f ---------------
# Each returns q times the derivative of f at t, so d/d lower = slope(lower - x) and
# d/d upper = -slope(x - upper).


@register_jitable
def graded_slope(t, width, q, q_leak):  # type: ignore[no-untyped-def]
    """Inside the width q, beyond it q_leak (which keeps the gradient alive), else 0."""
    return (q if t <= width else q_leak) if t > 0 else 0


@register_jitable
def l1_slope(t, width, q, q_leak):  # type: ignore[no-untyped-def]
    """Slope of |t|."""
    return q if t > 0 else (-q if t < 0 else 0)


@register_jitable
def l2_slope(t, width, q, q_leak):  # type: ignore[no-untyped-def]
    """Slope of t squared."""
    return 2 * t * q


# --- soft-min of distances that are integers k above their minimum -----------------------
# A table holds the weight of every k as an integer, so sums are exact in any order.


@register_jitable
def weight(k, table, cutoff):  # type: ignore[no-untyped-def]
    """Integer weight of a distance k units above the minimum; 0 past the cutoff."""
    return table[min(k, len(table) - 1)] if k <= cutoff else 0


@register_jitable
def softmin_coefficient(k, w, mass, mean, tau_per_unit):  # type: ignore[no-untyped-def]
    """d softmin / d d_m = w_m (1 - tau (d_m - s)) for Eq. (12); tau 0 gives w_m (log-sum-exp)."""
    return w / mass * (1.0 - tau_per_unit * (k - mean))


# --- objectives of the margin, to be maximised --------------------------------------------


@register_jitable
def clip_objective(margin, beta, sharpness):  # type: ignore[no-untyped-def]
    """Value and slope of min(margin, beta), Eq. (13)."""
    return (margin, 1.0) if margin < beta else (beta, 0.0)


@register_jitable
def target_objective(margin, target, sharpness):  # type: ignore[no-untyped-def]
    """Value and slope of 4 s logistic((margin - target) / s), of slope 1 where it is steepest.

    Divided by 4 s it is a smooth certified accuracy at radius target / 2.
    """
    z = (margin - target) / sharpness
    p = 1.0 / (1.0 + math.exp(-z)) if z > -30.0 else math.exp(max(z, -700.0))
    return 4.0 * sharpness * p, 4.0 * p * (1.0 - p)


# --- optimisers: one parameter, in codes; gradient of the objective per unit of [0, 1] ---
# rate is in codes, decay per code, so no update divides by 255.


@register_jitable
def sgd_update(value, gradient, velocity, rate, momentum, decay):  # type: ignore[no-untyped-def]
    """Ascend with momentum and weight decay; return the new value and velocity."""
    velocity = momentum * velocity + (gradient - decay * value)
    return value + rate * velocity, velocity


@register_jitable
def adam_update(value, gradient, first, second, rate, decay, correct1, correct2):  # type: ignore[no-untyped-def]
    """Ascend by Adam (beta 0.9 and 0.999); return the new value and both moments."""
    gradient = gradient - decay * value
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient * gradient
    step = (first * correct1) / (math.sqrt(second * correct2) + 1e-8)
    return value + rate * step, first, second
