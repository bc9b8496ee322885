"""Tuple bound: the least cost before combinations of rows in several sets overtake.

As `pairwise_bound`, but a group gains what its codes gain in all sets together.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.budget import cheapest
from boxnn_numba.kernels.compile import kernel, register_jitable
from boxnn_numba.kernels.formulas import excess, graded
from boxnn_numba.kernels.pairwise_bound import count_below, fewest_gains, least_price


@register_jitable
def _lead(code, own_low, own_high, low, high, k, width):
    """Penalties of feature k to the own rows of all sets less those to the rival rows."""
    lead = np.int64(0)
    for e in range(len(low)):
        lead += graded(code, np.int64(own_low[e, k]), np.int64(own_high[e, k]), width)
        lead -= graded(code, np.int64(low[e, k]), np.int64(high[e, k]), width)
    return lead


@register_jitable
def _feature_gain(x, own_low, own_high, low, high, k, width):
    """The most that one feature gains in all sets together, by one code.

    The lead is linear between whole codes where it bends, so the best code is 0, 255, or one where
    it bends downwards: an end of a rival interval, or where an own penalty reaches its cap.
    """
    best = max(
        _lead(np.int64(0), own_low, own_high, low, high, k, width),
        _lead(np.int64(255), own_low, own_high, low, high, k, width),
    )
    for e in range(len(low)):
        for bend in (
            np.int64(low[e, k]), np.int64(high[e, k]),
            max(np.int64(own_low[e, k]) - width, 0), min(np.int64(own_high[e, k]) + width, 255),
        ):  # fmt: skip
            best = max(best, _lead(bend, own_low, own_high, low, high, k, width))
    return best - _lead(np.int64(x[k]), own_low, own_high, low, high, k, width)


@register_jitable
def _shared_gain(x, own_low, own_high, low, high, first, last, width):
    """At least what features first..last-1, capped as a whole, gain in all sets together."""
    if last == first + 1:
        return _feature_gain(x, own_low, own_high, low, high, first, width)
    gain = np.int64(0)
    for e in range(len(low)):
        reached, held, paid = np.int64(0), np.int64(0), np.int64(0)
        for k in range(first, last):
            code, a, b = np.int64(x[k]), np.int64(own_low[e, k]), np.int64(own_high[e, k])
            start, stop = np.int64(low[e, k]), np.int64(high[e, k])
            reached += max(excess(start, a, b), excess(stop, a, b))
            held += excess(code, a, b)
            paid += excess(code, start, stop)
        gain += min(reached, width) - min(held, width) + min(paid, width)
    return gain


@kernel
def tuple_bounds(x, owns, rivals, margins, behind, table, most, work, out):
    """Write for each combination of rival rows in all sets what must be paid at least.

    x (n,) in the order of the table, owns and rivals are lower and upper bounds (J, E, n) and
    (R, E, n), rivals in order of margin; margins (R,) int64 are their gaps to the first own rows,
    behind (J,) how much farther each own is than the first. The unit of the table is that of all
    sets. `out` (R,) is as of `rival_bounds` if `running`.
    """
    best, caps, groups = most, table.caps, table.groups
    gains = work.gains[: len(groups) - 1]
    for place in range(len(margins)):
        bound = least_price(table, margins[place])
        if bound >= best:
            out[place:] = min(bound, most)
            return
        found = bound
        low, high = rivals[0][place], rivals[1][place]
        for j in range(len(behind)):
            gap = margins[place] - behind[j]
            if gap <= 0 or found >= best:
                continue
            own_low, own_high = owns[0][j], owns[1][j]
            for g in range(len(groups) - 1):
                gain = np.int64(0)
                for i in range(groups[g], groups[g + 1]):
                    gain += _shared_gain(
                        x, own_low, own_high, low, high, caps[i], caps[i + 1], table.width
                    )  # fmt: skip
                gains[g] = gain * table.free[g]
            count = fewest_gains(gains, gap, count_below(table, best) + 1, work.counts)
            found = max(found, min(best, table.price[count]))
            if table.priced and found < best:
                found = max(found, cheapest(gains, table.cost, gap, work.edges.order, best))
        out[place] = found
        best = min(best, found)
