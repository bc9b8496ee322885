"""Pairwise bound: the least number of groups that must change before a rival can overtake.

Gain of a group, for a rival row B with intervals [a_i, b_i] against an own row A: the most that
rewriting it adds to ``penalty_A - penalty_B``. It is exact, though both penalties are capped as a
whole: moving all codes of the group into B's intervals lowers the sum of B's excess by some s, and
so its penalty by min(s, W), and it lowers the sum of A's excess by at most s, and so A's penalty by
at most min(s, W). So codes inside are the best, there B's penalty is 0, and each feature's excess
over A, a valley, is largest at an end:

    gain = min(sum_i max(excess_A(a_i), excess_A(b_i)), W) - penalty_A(x) + penalty_B(x)

What is rewritten together but capped group by group gains the sum.

Gap after k changes, of a rival template against an own combination (a row A_p in each part p), is
at least ``sum_p f_p(k_p)`` with ``sum_p k_p = k``, where ``f_p(k) = min over rows B of the template
of d_B - d_A less the k largest gains in p``: a group lies in one part, so the changes split among
the parts. The least sum is found one part after another (a knapsack).

An adversary may reach some groups only: the others gain nothing. Where groups have costs, bounds
are costs: what the fewest groups cost at the least, or what `budget` says if that is more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from boxnn_numba.kernels.budget import Edges, add_hull, add_points, cheapest, count_of_lower
from boxnn_numba.kernels.compile import fill, kernel, register_jitable
from boxnn_numba.kernels.formulas import excess, graded

#: Gains of a part with more groups than this are sorted by counting.
_FEW = 24
_FAR = np.int64(2**62)


class Table(NamedTuple):
    """A set of boxes, its columns in an order in which parts and groups are adjacent.

    Attributes
    ----------
    lower, upper
        (M, n) uint8.
    rows, labels
        (T + 1,) int64, rows ``rows[t]:rows[t + 1]`` are of template t; (T,) int32, its class.
    caps, groups, parts
        int64 starts and an end: features ``caps[i]:caps[i + 1]`` are capped as a whole, of these
        ``groups[g]:groups[g + 1]`` are rewritten together, and of these ``parts[p]:parts[p + 1]``
        are a part.
    width, unit
        Width W, and the most that a group gains.
    free, cost
        (G,) int32 0 or 1, whether a group may be rewritten; (G,) int64 what that costs, at least 1.
    price
        (A + 2,) int64, what k of the A groups that may be rewritten cost at the least; the last,
        one more than all of them cost, stands for never.
    priced
        Whether costs differ from 1; else ``price[k]`` is k.
    """

    lower: np.ndarray
    upper: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    caps: np.ndarray
    groups: np.ndarray
    parts: np.ndarray
    width: int
    unit: int
    free: np.ndarray
    cost: np.ndarray
    price: np.ndarray
    priced: bool


class Work(NamedTuple):
    """Scratch arrays of one thread: of groups (G + 2,), of gains (unit + 1,), of parts (P,)."""

    gains: np.ndarray
    most: np.ndarray
    curve: np.ndarray
    total: np.ndarray
    worst: np.ndarray
    counts: np.ndarray
    rival: np.ndarray
    own: np.ndarray
    edges: Edges


@register_jitable
def least_price(table, behind):
    """The least cost after which a rival that is behind can overtake: all groups gain a unit."""
    count = max(1, -(-behind // table.unit))
    return table.price[min(count, len(table.price) - 1)]


@register_jitable
def count_below(table, most):
    """The largest number of groups that may cost less than `most`, above 0."""
    if table.priced:
        return count_of_lower(table.price, most) - 1
    return most - 1


@register_jitable
def write_gains(x, table, own, rival, first, last, gains):
    """Write what groups first..last-1 gain for a rival row against an own row."""
    own_low, own_high, low, high = (
        table.lower[own], table.upper[own], table.lower[rival], table.upper[rival],
    )  # fmt: skip
    width, caps = np.int32(table.width), table.caps
    if len(table.groups) - 1 == len(x):  # in this form the compiler uses vectors
        for k in range(first, last):
            code, a, b = np.int32(x[k]), np.int32(own_low[k]), np.int32(own_high[k])
            start, stop = np.int32(low[k]), np.int32(high[k])
            reached = max(graded(start, a, b, width), graded(stop, a, b, width))
            gain = reached - graded(code, a, b, width) + graded(code, start, stop, width)
            gains[k] = gain * table.free[k]
        return
    for g in range(first, last):
        gain = np.int32(0)
        for i in range(table.groups[g], table.groups[g + 1]):
            reached, held, paid = np.int32(0), np.int32(0), np.int32(0)
            for k in range(caps[i], caps[i + 1]):
                code, a, b = np.int32(x[k]), np.int32(own_low[k]), np.int32(own_high[k])
                start, stop = np.int32(low[k]), np.int32(high[k])
                reached += max(excess(start, a, b), excess(stop, a, b))
                held += excess(code, a, b)
                paid += excess(code, start, stop)
            gain += min(reached, width) - min(held, width) + min(paid, width)
        gains[g] = gain * table.free[g]


@register_jitable
def fewest_gains(gains, gap, most, counts):
    """The fewest gains that close a gap, `most` if it takes that many or more."""
    largest = np.int32(0)
    for gain in gains:
        largest = max(largest, gain)
    if gap > np.int64(largest) * (most - 1):  # often: then nothing needs to be counted
        return most
    fill(counts[: largest + 1], 0)
    for gain in gains:
        counts[gain] += 1
    taken = 0
    for gain in range(largest, 0, -1):
        enough = -(-gap // gain)
        if enough <= counts[gain]:
            return min(most, taken + enough)
        taken += counts[gain]
        gap -= gain * counts[gain]
        if taken >= most:
            break
    return most


@register_jitable
def _sort_largest(gains, count, counts):
    """Put the `count` largest gains first, in falling order."""
    if len(gains) <= _FEW:
        for i in range(1, len(gains)):
            gain, place = gains[i], i
            while place > 0 and gains[place - 1] < gain:
                gains[place] = gains[place - 1]
                place -= 1
            gains[place] = gain
        return
    fill(counts, 0)
    for gain in gains:
        counts[gain] += 1
    place, gain = 0, len(counts) - 1
    while place < count:
        for _ in range(min(counts[gain], count - place)):
            gains[place] = gain
            place += 1
        gain -= 1


@register_jitable
def nearest_rows(distance, table, t, out):
    """Write the nearest row of a template in each part, the first of equals."""
    for p in range(len(distance)):
        best = table.rows[t]
        for m in range(best + 1, table.rows[t + 1]):
            if distance[p, m] < distance[p, best]:
                best = m
        out[p] = best


@register_jitable
def _write_gaps(x, distance, table, t, slack, count, work):
    """Write to `total[k]` the least gap of template t to the own rows after k < count changes.

    Rows of t that are more than `slack` farther than its nearest (`rival`) are left out.
    """
    total, curve = work.total, work.curve
    fill(total[:count], 0)
    for p in range(len(distance)):
        first, last = table.parts[p], table.parts[p + 1]
        own, length = work.own[p], min(last - first, count - 1)
        fill(curve[: length + 1], _FAR)
        for m in range(table.rows[t], table.rows[t + 1]):
            if distance[p, m] - distance[p, work.rival[p]] > slack:
                continue
            write_gains(x, table, own, m, first, last, work.gains)
            gap = np.int64(distance[p, m]) - distance[p, own]
            gains = work.gains[first:last]
            _sort_largest(gains, length, work.counts)
            curve[0] = min(curve[0], gap)
            for k in range(length):
                gap -= gains[k]
                curve[k + 1] = min(curve[k + 1], gap)
        for k in range(count - 1, -1, -1):
            least = total[k] + curve[0]
            for taken in range(1, min(length, k) + 1):
                least = min(least, total[k - taken] + curve[taken])
            total[k] = least


@register_jitable
def _fewest_of_rows(x, distance, table, t, gap, margin, ahead, found, most, work):
    """The fewest groups after which template t overtakes the own rows, at most `most`.

    gap is that of its nearest rows, margin the one to the nearest own rows, `ahead` is added to
    gaps. If the result is at most `found`, it may be anything up to that.
    """
    parts, groups = table.parts, table.parts[-1]
    for p in range(len(distance)):
        write_gains(x, table, work.own[p], work.rival[p], parts[p], parts[p + 1], work.gains)
    fewest = fewest_gains(work.gains[:groups], gap, most, work.counts)
    if fewest <= found:
        return fewest
    slack = table.unit * (fewest - 1) - margin
    others = False
    for p in range(len(distance)):
        first, last, near = parts[p], parts[p + 1], distance[p, work.rival[p]]
        for g in range(first, last):
            work.most[g] = work.gains[g]
        for m in range(table.rows[t], table.rows[t + 1]):
            if m == work.rival[p] or distance[p, m] - near > slack:
                continue
            others = True
            write_gains(x, table, work.own[p], m, first, last, work.gains)
            for g in range(first, last):
                work.most[g] = max(work.most[g], work.gains[g])
    if not others:
        return fewest
    # With the most that any row gains, as if it were as near as the nearest, often as many are
    # needed.
    least = fewest_gains(work.most[:groups], gap, fewest, work.counts)
    if least >= fewest:
        return fewest
    _write_gaps(x, distance, table, t, slack, fewest, work)
    for k in range(max(1, least), fewest):
        if work.total[k] + ahead <= 0:
            return k
    return fewest


@register_jitable
def _least_cost(x, distance, table, t, ahead, never, work):
    """What it costs at the least until template t overtakes the own rows; `never` caps."""
    gap, count, edges = np.int64(ahead), 0, work.edges
    for p in range(len(distance)):
        first, last, points = table.parts[p], table.parts[p + 1], 0
        for m in range(table.rows[t], table.rows[t + 1]):
            write_gains(x, table, work.own[p], m, first, last, work.gains)
            left = np.int64(distance[p, m]) - distance[p, work.own[p]]
            points = add_points(work.gains[first:last], table.cost[first:last], left, points, edges)
        count = add_hull(points, count, edges)
        gap += edges.left[edges.order[0]]
    return cheapest(edges.gain[:count], edges.cost[:count], gap, edges.order, never)


@register_jitable
def needed(x, distance, table, t, gap, margin, ahead, found, best, work):
    """The least cost after which template t overtakes the own rows, `best` if that or more.

    Arguments are those of `_fewest_of_rows`. If the result is at most `found`, it may be anything
    up to that.
    """
    most = count_below(table, best) + 1
    enough = 0 if table.priced else found
    count = _fewest_of_rows(x, distance, table, t, gap, margin, ahead, enough, most, work)
    if not table.priced:
        return count
    if table.price[count] >= best:
        return best
    return max(table.price[count], _least_cost(x, distance, table, t, ahead, best, work))


@kernel
def rival_bounds(x, distance, total, own, rivals, ahead, table, most, running, work, out):
    """Write for each rival template what must be paid at least before it overtakes.

    x (n,) uint8 in the order of the table, distance (P, M) int32 to all rows in each part, total
    (T,) int64 to all templates, own (L,) the nearest templates of the predicted class, rivals (R,)
    templates of others in order of margin, ahead (K,) int64, what a class is to be nearer than the
    predicted one. `out` (R,) int64 is at most `most`, for which no bound is proved beyond it. If
    `running`, only the least of `out` counts: others may be smaller than their bounds, but not
    smaller than the least.
    """
    best = most
    for place in range(len(rivals)):
        t = rivals[place]
        extra = ahead[table.labels[t]]
        margin = total[t] - total[own[0]] + extra
        bound = least_price(table, margin)
        # In order of margin: no later template has a smaller bound than this.
        if bound >= best:
            fill(out[place:], min(bound, most))
            return
        found = bound
        nearest_rows(distance, table, t, work.rival)
        for j in range(len(own)):
            gap = total[t] - total[own[j]] + extra
            if gap <= 0 or found >= best:
                continue
            nearest_rows(distance, table, own[j], work.own)
            least = needed(x, distance, table, t, gap, margin, extra, found, best, work)
            found = max(found, least)
        out[place] = found
        if running:
            best = min(best, found)


@kernel(allocates=True)
def least_gaps(x, distance, total, own, rivals, slack, table, work, out):
    """Add to `out[k]` the least gap of any of the rival templates after k changes, k < len(out).

    Arguments are those of `rival_bounds`; templates, and rows of them, that are more than `slack`
    farther than the first rival, the nearest, are left out.
    """
    count = len(out)
    least = np.full(count, _FAR)
    for t in rivals:
        left = slack - (total[t] - total[rivals[0]])
        if left < 0:
            continue
        nearest_rows(distance, table, t, work.rival)
        fill(work.worst[:count], -_FAR)
        for j in range(len(own)):
            nearest_rows(distance, table, own[j], work.own)
            _write_gaps(x, distance, table, t, left, count, work)
            for k in range(count):
                work.worst[k] = max(work.worst[k], work.total[k])
        for k in range(count):
            least[k] = min(least[k], work.worst[k])
    for k in range(count):
        out[k] += least[k]
