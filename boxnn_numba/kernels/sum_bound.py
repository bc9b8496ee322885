"""Pairwise bounds of an ensemble, whose class distances are sums over its sets of boxes.

In each set a rival class takes some row of one of its templates in each part. Against the nearest
own rows, feature i gains at most ``g_i`` for that row, as in `pairwise_bound`, and the row is some
``e`` farther than the nearest one. If k groups change, what all rows of a set gain together is

    at most  sum over the changed groups of  G_i = max over rows of (g_i - e / k)

for a part has at most k of them: ``e`` is paid in full. The sums of ``G_i`` over the sets, the k
largest together, say whether k changes can close the gap to the class. All is multiplied by k, so
that it stays whole. For k beyond `COUNTS` there is one ``G_i = max g_i`` for all, which also says
what must be paid.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.budget import cheapest, count_of_lower
from boxnn_numba.kernels.compile import fill, kernel, register_jitable
from boxnn_numba.kernels.pairwise_bound import fewest_gains, nearest_rows, write_gains

#: Numbers of changes that have gains of their own.
COUNTS = 8


@kernel
def add_totals(distance, rows, labels, total, out):
    """Write the distances (N, T) to templates, and add those to the nearest of each class.

    distance (N, P, M) is to the rows in each part, out (N, K) int64.
    """
    for i in range(len(distance)):
        for t in range(total.shape[1]):
            whole = np.int64(0)
            for p in range(distance.shape[1]):
                least = distance[i, p, rows[t]]
                for m in range(rows[t] + 1, rows[t + 1]):
                    least = min(least, distance[i, p, m])
                whole += least
            total[i, t] = whole
        first = 0
        while first < total.shape[1]:
            last, least = first, total[i, first]
            while last < total.shape[1] and labels[last] == labels[first]:
                least = min(least, total[i, last])
                last += 1
            out[i, labels[first]] += least
            first = last


@register_jitable
def _add_class(x, distance, table, total, first, last, work, most, out, place):
    """Add what groups gain for templates first..last-1 of a class to `out` (COUNTS + 1, G)."""
    fill(most, 0)
    least = total[first]
    for t in range(first + 1, last):
        least = min(least, total[t])
    for t in range(first, last):
        nearest_rows(distance, table, t, work.rival)
        for p in range(len(distance)):
            start, stop = table.parts[p], table.parts[p + 1]
            for m in range(table.rows[t], table.rows[t + 1]):
                farther = total[t] - least + distance[p, m] - distance[p, work.rival[p]]
                write_gains(x, table, work.own[p], m, start, stop, work.gains)
                gains, whole = work.gains[start:stop], most[COUNTS, start:stop]
                for g in range(len(gains)):
                    whole[g] = max(whole[g], gains[g])
                # Fewer changes than this gain nothing by a row so far off.
                for j in range(min(COUNTS, farther // table.unit), COUNTS):
                    of_count = most[j, start:stop]
                    for g in range(len(gains)):
                        gain = np.int32((j + 1) * gains[g] - farther)
                        of_count[g] = max(of_count[g], gain)
    for j in range(COUNTS + 1):
        for g in range(len(place)):
            out[j, place[g]] += most[j, g]


@kernel
def add_gains(x, distance, table, total, own, place, work, most, out):
    """Add what groups gain in one set for each class to `out` (N, K, COUNTS + 1, G) int32.

    x (N, n) in the order of the table, distance (N, P, M), total (N, T) to templates, own (N,) the
    predicted classes, place (G,) the number of each group of the table; most (COUNTS + 1, G) int32.
    """
    labels = table.labels
    for i in range(len(x)):
        nearest = -1
        for t in range(len(labels)):
            if labels[t] == own[i] and (nearest < 0 or total[i, t] < total[i, nearest]):
                nearest = t
        nearest_rows(distance[i], table, nearest, work.own)
        first = 0
        while first < len(labels):
            last = first
            while last < len(labels) and labels[last] == labels[first]:
                last += 1
            c = labels[first]
            if c != own[i]:
                _add_class(
                    x[i], distance[i], table, total[i], first, last, work, most, out[i, c], place
                )  # fmt: skip
            first = last


@register_jitable
def _largest(gains, k, largest):
    """The sum of the k largest gains."""
    fill(largest[:k], 0)
    for gain in gains:
        if gain > largest[k - 1]:
            place = k - 1
            while place > 0 and largest[place - 1] < gain:
                largest[place] = largest[place - 1]
                place -= 1
            largest[place] = gain
    whole = 0
    for place in range(k):
        whole += largest[place]
    return whole


@register_jitable
def _fewest(gains, gap, unit, most, largest, counts):
    """The fewest groups that close a gap, `most` if as many or more."""
    k = min(most, max(1, -(-gap // unit)))
    while k < most and k <= COUNTS:
        if _largest(gains[k - 1], k, largest) >= k * gap:
            return k
        k += 1
    return max(k, fewest_gains(gains[COUNTS], gap, most, counts)) if k < most else most


@kernel
def sum_bounds(gains, classes, known, own, cost, price, priced, unit, scratch, bound):
    """Write what must be paid at least before any class overtakes the predicted one.

    gains are those of `add_gains`, classes (N, K) int64 the distances, known the classes with
    boxes, cost (G,) and price as of a `Table`, unit the most that a group gains in all sets;
    scratch are arrays (COUNTS,) int64, (unit + 1,) int32 and (G,) int64.
    """
    largest, counts, order = scratch
    for i in range(len(gains)):
        best = price[-1]
        for c in known:
            if c == own[i]:
                continue
            gap = classes[i, c] - classes[i, own[i]] + (c > own[i])
            most = count_of_lower(price, best)
            paid = price[_fewest(gains[i, c], gap, unit, most, largest, counts)]
            if priced and paid < best:
                paid = max(paid, cheapest(gains[i, c, COUNTS], cost, gap, order, best))
            best = min(best, paid)
        bound[i] = best
