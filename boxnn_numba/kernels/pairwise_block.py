"""Pairwise bounds of a block of inputs against one set of boxes: the least over all rivals.

Rivals are taken in order of margin until no later one could have a smaller bound. The bound of the
first rules out most of the others.

Where each feature is a part (an additive model), rewriting feature p leaves it with penalty 0 for a
rival row B, and ``reached = max(penalty_A(a_B), penalty_A(b_B))`` for the own row A, whatever the
input. So ``f_p`` has two values, at 0 changes and at one, and what a part gains is its difference:
no rows to sort and no knapsack. Rows are compared feature by feature, in vectors.

With other parts, most rivals are ruled out by a coarser bound: the most that any of a rival's rows
gains in each feature, as if all rows were as near as the nearest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from boxnn_numba.kernels.budget import cheapest, sort_places
from boxnn_numba.kernels.compile import fill, kernel, register_jitable
from boxnn_numba.kernels.formulas import graded
from boxnn_numba.kernels.pairwise_bound import (
    count_below,
    fewest_gains,
    least_price,
    nearest_rows,
    needed,
)


class Block(NamedTuple):
    """Scratch arrays of one thread: of templates (T,), of the J nearest own ones.

    Attributes
    ----------
    total, behind
        (T,) int64, distances to templates, and by how much rivals are behind.
    owns
        (J,) int64, own templates, the nearest first.
    ready, rows
        (J,) bool, whether the nearest rows of an own template are known, and (J, P) int64, these
        rows.
    low, high
        (J, n) int32, the bounds of these rows; without rows where some features are groups.
    near
        (T, n) int32, the least penalty of each feature; without rows but of an additive model.
    rivals
        (T,) int64, room for their order.
    """

    total: np.ndarray
    behind: np.ndarray
    owns: np.ndarray
    ready: np.ndarray
    rows: np.ndarray
    low: np.ndarray
    high: np.ndarray
    near: np.ndarray
    rivals: np.ndarray


@register_jitable
def _measure_parts(distance, table, total):
    """Write the distances (T,) to templates, from those (P, M) to rows in each part."""
    if len(distance) == 1 and len(total) == distance.shape[1]:
        for t in range(len(total)):
            total[t] = distance[0, t]
        return
    fill(total, 0)
    for p in range(len(distance)):
        of_part = distance[p]
        for t in range(len(total)):
            least = of_part[table.rows[t]]
            for m in range(table.rows[t] + 1, table.rows[t + 1]):
                least = min(least, of_part[m])
            total[t] += least


@register_jitable
def _measure_features(x, table, near, total):
    """Write the least penalty of each feature, and the distances to templates."""
    width = np.int32(table.width)
    for t in range(len(total)):
        least = near[t]
        fill(least, width)
        for m in range(table.rows[t], table.rows[t + 1]):
            low, high = table.lower[m], table.upper[m]
            for k in range(len(x)):
                paid = graded(np.int32(x[k]), np.int32(low[k]), np.int32(high[k]), width)
                least[k] = min(least[k], paid)
        whole = np.int64(0)
        for k in range(len(x)):
            whole += least[k]
        total[t] = whole


@register_jitable
def _find_owns(table, offset, block):
    """Find the predicted class and its nearest templates; return both counts of them."""
    total, owns = block.total, block.owns
    best, own = total[0] + offset[table.labels[0]], table.labels[0]
    for t in range(1, len(total)):
        if total[t] + offset[table.labels[t]] < best:
            best, own = total[t] + offset[table.labels[t]], table.labels[t]
    count = 0
    for t in range(len(total)):
        if table.labels[t] != own or (count == len(owns) and total[t] >= total[owns[count - 1]]):
            continue
        place = min(count, len(owns) - 1)
        count = place + 1
        while place > 0 and total[owns[place - 1]] > total[t]:
            owns[place] = owns[place - 1]
            place -= 1
        owns[place] = t
    fill(block.ready, False)
    return own, count


@register_jitable
def _feature_bounds(x, table, near, own, low, high):
    """Write the bounds of the rows of an own template that are nearest in each feature."""
    width = np.int32(table.width)
    for k in range(len(x)):
        for m in range(table.rows[own], table.rows[own + 1]):
            a, b = np.int32(table.lower[m, k]), np.int32(table.upper[m, k])
            if graded(np.int32(x[k]), a, b, width) == near[own, k]:
                low[k], high[k] = a, b
                break


@register_jitable
def _feature_gains(x, table, t, near, slack, own, own_low, own_high, gains):
    """Write what each feature gains for a rival template against an own one.

    It gains by the first of its nearest rows or, with a slack >= 0, by the best of the rows within
    it.
    """
    width, count, slack = np.int32(table.width), len(x), np.int32(slack)
    fill(gains[:count], 0)
    for m in range(table.rows[t + 1] - 1, table.rows[t] - 1, -1):
        low, high = table.lower[m], table.upper[m]
        for k in range(count):
            a, b = own_low[k], own_high[k]
            start, stop = np.int32(low[k]), np.int32(high[k])
            farther = graded(np.int32(x[k]), start, stop, width) - near[t, k]
            reached = max(graded(start, a, b, width), graded(stop, a, b, width))
            if slack < 0:
                gains[k] = reached if farther == 0 else gains[k]
            else:
                gains[k] = max(gains[k], reached - (0 if farther <= slack else 256))
    for k in range(count):
        gains[k] = (gains[k] + near[t, k] - near[own, k]) * table.free[k]


@register_jitable
def _needed_of_features(x, table, t, j, gap, margin, found, best, work, block):
    """As `needed`, of an additive model: what template t must be paid against the j-th own one."""
    own, near = block.owns[j], block.near
    low, high, gains = block.low[j], block.high[j], work.gains[: len(x)]
    if not block.ready[j]:
        _feature_bounds(x, table, near, own, low, high)
        block.ready[j] = True
    _feature_gains(x, table, t, near, -1, own, low, high, gains)
    count = fewest_gains(gains, gap, count_below(table, best) + 1, work.counts)
    slack = table.unit * (count - 1) - margin
    if slack >= 0 and table.price[count] > found:
        _feature_gains(x, table, t, near, min(slack, table.width), own, low, high, gains)
        count = fewest_gains(gains, gap, count, work.counts)
    paid = min(best, table.price[count])
    if table.priced and paid < best:
        _feature_gains(x, table, t, near, table.width, own, low, high, gains)
        paid = max(paid, cheapest(gains, table.cost, gap, work.edges.order, best))
    return paid


@register_jitable
def _find_rows(distance, table, j, block):
    """Find the nearest rows of the j-th own template, and their bounds."""
    rows = block.rows[j]
    nearest_rows(distance, table, block.owns[j], rows)
    block.ready[j] = True
    if len(block.low) > 0:
        for p in range(len(distance)):
            for k in range(table.parts[p], table.parts[p + 1]):
                block.low[j, k], block.high[j, k] = table.lower[rows[p], k], table.upper[rows[p], k]


@register_jitable
def _at_least(x, table, t, j, gap, most, work, block):
    """A lower bound of the fewest features after which template t overtakes the j-th own one."""
    width, count = np.int32(table.width), len(x)
    own_low, own_high, gains = block.low[j], block.high[j], work.gains[:count]
    fill(gains, 0)
    for m in range(table.rows[t], table.rows[t + 1]):
        low, high = table.lower[m], table.upper[m]
        for k in range(count):
            a, b = own_low[k], own_high[k]
            start, stop = np.int32(low[k]), np.int32(high[k])
            reached = max(graded(start, a, b, width), graded(stop, a, b, width))
            gains[k] = max(gains[k], reached + graded(np.int32(x[k]), start, stop, width))
    for k in range(count):
        held = graded(np.int32(x[k]), own_low[k], own_high[k], width)
        gains[k] = (gains[k] - held) * table.free[k]
    return fewest_gains(gains, gap, most, work.counts)


@register_jitable
def _has_others(distance, table, t, slack, rival):
    """Whether a template has rows within a slack besides the nearest ones."""
    for p in range(len(distance)):
        near = distance[p, rival[p]] + slack
        for m in range(table.rows[t], table.rows[t + 1]):
            if distance[p, m] <= near and m != rival[p]:
                return True
    return False


@register_jitable
def _bound(x, distance, table, t, extra, owns, best, work, block):
    """What must be paid at least before template t overtakes all of the nearest own ones."""
    total, additive = block.total, len(block.near) > 0
    margin = total[t] - total[block.owns[0]] + extra
    found, most = least_price(table, margin), count_below(table, best) + 1
    if not additive:
        nearest_rows(distance, table, t, work.rival)
    for j in range(owns):
        gap = total[t] - total[block.owns[j]] + extra
        if gap <= 0 or found >= best:
            continue
        if additive:
            paid = _needed_of_features(x, table, t, j, gap, margin, found, best, work, block)
            found = max(found, paid)
            continue
        if not block.ready[j]:
            _find_rows(distance, table, j, block)
        # For the first rival `best` is still "never", which rules out nothing.
        if best < table.price[-1] and len(distance) > 1 and len(block.low) > 0:
            slack = table.unit * (most - 1) - margin
            others = _has_others(distance, table, t, slack, work.rival)
            if others and _at_least(x, table, t, j, gap, most, work, block) >= most:
                return best
        for p in range(len(distance)):
            work.own[p] = block.rows[j, p]
        found = max(found, needed(x, distance, table, t, gap, margin, extra, found, best, work))
    return found


@register_jitable
def _in_order(labels, own, nearest, behind, slack, rivals):
    """Write the rivals within a slack, without the nearest, in order of margin.

    Returns how many there are.
    """
    count = 0
    for t in range(len(labels) - 1, -1, -1):
        if labels[t] != own and behind[t] <= slack and t != nearest:
            rivals[count] = t
            count += 1
    sort_places(rivals[:count], behind, behind, False)
    return count


@register_jitable
def _least(x, distance, table, offset, work, block):
    """The predicted class, and what must be paid at least before any rival overtakes it."""
    total, behind, labels = block.total, block.behind, table.labels
    own, owns = _find_owns(table, offset, block)
    ahead, best = total[block.owns[0]] + offset[own], table.price[-1]
    nearest = -1
    for t in range(len(total)):
        behind[t] = total[t] + offset[labels[t]] + (labels[t] > own) - ahead
        if labels[t] != own and (nearest < 0 or behind[t] < behind[nearest]):
            nearest = t
    rivals, count, place, t = block.rivals, 0, -1, nearest
    while t >= 0:
        extra = offset[labels[t]] + (labels[t] > own) - offset[own]
        best = min(best, _bound(x, distance, table, t, extra, owns, best, work, block))
        if place < 0:  # the first bound says which others could have a smaller one
            slack = table.unit * count_below(table, best)
            count = _in_order(labels, own, nearest, behind, slack, rivals)
        place, t = place + 1, -1
        if place < count and least_price(table, behind[rivals[place]]) < best:
            t = rivals[place]
    return own, best


@kernel
def least_bounds(x, distance, table, offset, work, block, own, bound):
    """Write the predicted class of each input and what must be paid before another is predicted.

    x (N, n) uint8 in the order of the table; distance (N, P, M) int32 to all rows in each part, of
    which one of an additive model will do, whose features are measured here; offset (K,) int64; own
    (N,) and bound (N,) int64, which is at most ``table.price[-1]``: never.
    """
    for i in range(len(x)):
        at = 0
        if len(block.near) > 0:
            _measure_features(x[i], table, block.near, block.total)
        else:
            at = i
            _measure_parts(distance[i], table, block.total)
        own[i], bound[i] = _least(x[i], distance[at], table, offset, work, block)
