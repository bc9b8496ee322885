"""Budgets: the least cost of closing a gap, by a fractional knapsack in whole numbers.

Each group has a gain and a cost. Groups with the most gain for their cost come first, and the last
one is taken in part. The sum of costs is rounded up, for all costs are whole. No set of groups that
closes the gap costs less. Rates are compared by products, so nothing is rounded before.

If a part may be any of some rows, its gap after a payment is at least the lower convex hull of the
gaps of these rows. The edges of the hull are gains and costs like those of groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from boxnn_numba.kernels.compile import register_jitable


class Edges(NamedTuple):
    """Scratch arrays: edges of hulls, points of one hull, and an order of either, int64."""

    gain: np.ndarray
    cost: np.ndarray
    left: np.ndarray
    paid: np.ndarray
    order: np.ndarray


@register_jitable
def _before(one, other, key, unit, by_rate):
    """Whether a place comes before another: more gain for its cost, or paid less and less left."""
    if by_rate:
        return np.int64(key[one]) * unit[other] > np.int64(key[other]) * unit[one]
    return unit[one] < unit[other] or (unit[one] == unit[other] and key[one] < key[other])


@register_jitable
def sort_places(order, key, unit, by_rate):
    """Sort places by rate, or by what is paid and then what is left.

    Shell's sort: as good as any for the few places there are, and exact.
    """
    step = 1
    while step < len(order) // 3:
        step = 3 * step + 1
    while step >= 1:
        for i in range(step, len(order)):
            item, place = order[i], i
            while place >= step and _before(item, order[place - step], key, unit, by_rate):
                order[place] = order[place - step]
                place -= step
            order[place] = item
        step //= 3


@register_jitable
def count_of_lower(ascending, value):
    """Return how many of some ascending numbers are below a value."""
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@register_jitable
def _by_rate(gains, costs, order):
    """Put the places with gains in order of gain for cost; return how many there are."""
    count = 0
    for i in range(len(gains)):
        if gains[i] > 0:
            order[count] = i
            count += 1
    sort_places(order[:count], gains, costs, True)
    return count


@register_jitable
def cheapest(gains, costs, gap, order, never):
    """The least cost of gains that close a gap above 0, `never` if they do not or cost as much."""
    paid = np.int64(0)
    for i in order[: _by_rate(gains, costs, order)]:
        if gains[i] >= gap:
            return min(never, paid + -(-costs[i] * gap // gains[i]))
        paid += costs[i]
        gap -= gains[i]
        if paid >= never:
            break
    return never


@register_jitable
def add_points(gains, costs, gap, count, edges):
    """Add what a row leaves of its gap after each payment to the points; return their number."""
    edges.left[count], edges.paid[count] = gap, 0
    order, paid = edges.order, np.int64(0)
    for i in order[: _by_rate(gains, costs, order)]:
        count += 1
        gap -= gains[i]
        paid += costs[i]
        edges.left[count], edges.paid[count] = gap, paid
    return count + 1


@register_jitable
def add_hull(points, count, edges):
    """Add the edges of the lower convex hull of some points; return how many there are then."""
    order, left, paid = edges.order, edges.left, edges.paid
    for i in range(points):
        order[i] = i
    sort_places(order[:points], left, paid, False)
    kept = 0  # of the hull, at the front of the order
    for i in order[:points]:
        if kept > 0 and left[i] >= left[order[kept - 1]]:
            continue
        while kept > 1:
            first, last = order[kept - 2], order[kept - 1]
            ahead = (left[first] - left[last]) * (paid[i] - paid[first])
            if ahead > (left[first] - left[i]) * (paid[last] - paid[first]):
                break
            kept -= 1
        order[kept] = i
        kept += 1
    for j in range(1, kept):
        edges.gain[count] = left[order[j - 1]] - left[order[j]]
        edges.cost[count] = paid[order[j]] - paid[order[j - 1]]
        count += 1
    return count
