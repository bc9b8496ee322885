"""How many groups of features must change before a rival box can overtake, at the least.

Against an own box A and a rival box B with interval [a, b] in a feature, no code v makes
``penalty_A(v) - penalty_B(v)`` larger than an end of the interval does (see `attack_choice`), so
``max(penalty_A(a), penalty_A(b)) - penalty_A(x) + penalty_B(x)`` is the most that the feature can
gain. The fewest groups, largest gains first, whose gains close the gap are a lower bound.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from boxnn_numba.kernels.compile import kernel
from boxnn_numba.kernels.formulas import graded


@register_jitable
def _fewest(x, own_low, own_high, low, high, width, group, gap, most, counts):
    """The fewest groups that close a gap between two boxes, `most` if it takes that many or more.

    counts has a place for each gain, 0 to 2 * width * group.
    """
    counts[:] = 0
    for first in range(0, len(x), group):
        gain = 0
        for k in range(first, min(first + group, len(x))):
            code, a, b = np.int64(x[k]), np.int64(own_low[k]), np.int64(own_high[k])
            start, stop = np.int64(low[k]), np.int64(high[k])
            reached = max(graded(start, a, b, width), graded(stop, a, b, width))
            gain += reached - graded(code, a, b, width) + graded(code, start, stop, width)
        counts[gain] += 1
    taken = 0
    for gain in range(len(counts) - 1, 0, -1):
        enough = -(-gap // gain)
        if enough <= counts[gain]:
            return min(most, taken + enough)
        taken += counts[gain]
        gap -= gain * counts[gain]
        if taken >= most:
            break
    return most


@kernel
def rival_bounds(x, distance, own, rivals, boxes, scales, most, running, counts, out):
    """Write for each rival box how many groups must change at least before it overtakes.

    x (n,) uint8, distance (M,) int32 to all boxes, own (L,) the nearest boxes of the predicted
    class, rivals (R,) boxes of others in order of margin, boxes (lower, upper, labels), scales
    (width, features in a group). `out` (R,) int64 is at most `most`, for which no bound is
    proved beyond it. If `running`, only the least of `out` is of interest, and the others may be
    smaller than they could be, but not than the least.
    """
    lower, upper, labels = boxes
    width, group = scales
    unit = 2 * width * group
    best = most
    for place in range(len(rivals)):
        box = rivals[place]
        ahead = 1 if labels[box] > labels[own[0]] else 0
        gap = distance[box] - distance[own[0]] + ahead
        bound = max(1, -(-gap // unit))
        # In order of margin: no later box has a smaller bound than this.
        if bound >= best:
            out[place:] = min(bound, most)
            return
        found = bound
        for j in range(len(own)):
            gap = distance[box] - distance[own[j]] + ahead
            if gap <= 0 or found >= best:
                continue
            m = own[j]
            needed = _fewest(
                x, lower[m], upper[m], lower[box], upper[box], width, group, gap, best, counts
            )  # fmt: skip
            found = max(found, needed)
        out[place] = found
        if running:
            best = min(best, found)
