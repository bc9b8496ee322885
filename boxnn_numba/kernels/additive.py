"""Contributions of columns to class distances: training, level sets, certificate.

An additive model has one template for each class and a part for each column. What a column adds to
the distance of a class depends on its code alone, so it is a table of 256 entries.

In training, codes share entries by bins, and an entry is any number in 0..1. The boxes are a level
set of it: a code pays 1 where its entry is above the smallest by more than a cut, and 0 elsewhere.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.budget import cheapest, count_of_lower
from boxnn_numba.kernels.compile import fill, kernel, register_jitable
from boxnn_numba.kernels.formulas import adam_update, graded
from boxnn_numba.kernels.pairwise_bound import fewest_gains

#: Contributions are whole multiples of 1 / ONE, so that their sums are exact.
ONE = 2**20


@register_jitable
def _nearest_rival(distance, label):
    """The nearest class but that of the label."""
    rival = -1
    for c in range(len(distance)):
        if c != label and (rival < 0 or distance[c] < distance[rival]):
            rival = c
    return rival


@register_jitable
def _measure_contributions(x, bins, table, labels, low, high, gradient, margins):
    """Write the margins (N,) of samples, and add to the gradient of those between two bounds.

    x (N, n) uint8 codes, bins (n, 256) uint8, table (K, n, B) int32 in units of 1 / ONE, gradient
    (K, n, B) int32 of the sum of margins, each clipped at both bounds.
    """
    n_classes, n = table.shape[:2]
    distance = np.empty(n_classes, np.int64)
    place = np.empty(n, np.int64)
    for i in range(len(x)):
        for k in range(n):
            place[k] = bins[k, x[i, k]]
        for c in range(n_classes):
            total = np.int64(0)
            for k in range(n):
                total += table[c, k, place[k]]
            distance[c] = total
        own = labels[i]
        rival = _nearest_rival(distance, own)
        margins[i] = distance[rival] - distance[own]
        if low < margins[i] < high:
            for k in range(n):
                gradient[own, k, place[k]] -= 1
                gradient[rival, k, place[k]] += 1


#: The kernel that measures samples and moves nothing.
measure_contributions = kernel(_measure_contributions, name="measure_contributions", allocates=True)


@register_jitable
def _step_contributions(table, gradient, first, second, scale, rate, correct1, correct2):
    """Move contributions (E,) along their gradient by Adam, and keep them in 0..1."""
    for e in range(len(table)):
        value, first[e], second[e] = adam_update(
            table[e] / ONE, scale * gradient[e], first[e], second[e], rate, 0.0, correct1, correct2
        )
        table[e] = np.int32(np.rint(min(max(value, 0.0), 1.0) * ONE))


@kernel(allocates=True)
def train_contributions(x, bins, table, labels, low, high, margins, ends, moments, sizes, scale):
    """Step on one batch after another, which end at the samples `ends` (S,).

    moments (2, E) float64; sizes (S, 3) the rate of each step and the corrections of its moments;
    scale is the weight of a sample in a step. The rest is as for `_measure_contributions`.
    """
    gradient = np.empty(table.shape, np.int32)
    flat, slopes = table.reshape(-1), gradient.reshape(-1)
    for step in range(len(sizes)):
        a, b = ends[step - 1] if step > 0 else 0, ends[step]
        fill(slopes, 0)
        _measure_contributions(x[a:b], bins, table, labels[a:b], low, high, gradient, margins[a:b])
        _step_contributions(
            flat, slopes, moments[0], moments[1], scale, sizes[step, 0], sizes[step, 1],
            sizes[step, 2],
        )  # fmt: skip


@kernel(allocates=True)
def level_sets(table, bins, cuts, lower, upper, constant):
    """Write boxes (S, K R, n) whose rows are the runs of codes that pay at most a cut.

    A code pays its contribution less the smallest of the column, which is the same for all codes:
    `constant` (K,) int64 gets the sums of these. A set of boxes is written for each of the cuts
    (S,). R rows of each class are enough for 2 R bins.
    """
    n_classes, n = table.shape[:2]
    rows = lower.shape[1] // n_classes
    firsts = np.empty(257, np.int64)
    fill(constant, 0)
    for k in range(n):
        used = 0
        for v in range(256):
            if v == 0 or bins[k, v] != bins[k, v - 1]:
                firsts[used] = v
                used += 1
        firsts[used] = 256
        for c in range(n_classes):
            entries, least = table[c, k], table[c, k, bins[k, 0]]
            for b in range(used):
                least = min(least, entries[bins[k, firsts[b]]])
            constant[c] += least
            for s in range(len(cuts)):
                low, high = lower[s, c * rows : (c + 1) * rows], upper[s, c * rows : (c + 1) * rows]
                highest, found, inside = least + cuts[s], 0, False
                for b in range(used):
                    paid = entries[bins[k, firsts[b]]] > highest
                    if not paid:
                        if not inside:
                            low[found, k] = firsts[b]
                            found += 1
                        high[found - 1, k] = firsts[b + 1] - 1
                    inside = not paid
                for r in range(found, rows):
                    low[r, k], high[r, k] = low[found - 1, k], high[found - 1, k]


@kernel
def add_penalties(lower, upper, rows, labels, width, penalty):
    """Add what each code of each column pays to the nearest row of the template of each class.

    lower and upper (M, n) uint8, rows (T + 1,) and labels (T,) as of a `Table`, width int32,
    penalty (K, n, 256) int32.
    """
    for t in range(len(labels)):
        for k in range(lower.shape[1]):
            for v in range(256):
                least = width
                for m in range(rows[t], rows[t + 1]):
                    low, high = np.int32(lower[m, k]), np.int32(upper[m, k])
                    least = min(least, graded(np.int32(v), low, high, width))
                penalty[labels[t], k, v] += least


@kernel
def most_gained(penalty, most):
    """Write the most that rewriting a column gains for a rival, beyond what is paid before.

    penalty (K, n, 256) int32, most (K, K, n) int32 of own class, rival and column.
    """
    for own in range(len(penalty)):
        for rival in range(len(penalty)):
            for k in range(penalty.shape[1]):
                best = penalty[own, k, 0] - penalty[rival, k, 0]
                for v in range(256):
                    best = max(best, penalty[own, k, v] - penalty[rival, k, v])
                most[own, rival, k] = best


@kernel
def additive_bounds(x, penalty, most, known, who, scratch, index, bound):
    """Write predicted classes and the exact least that is paid before another one is predicted.

    The adversary chooses columns one by one, so the largest gains are best for a rival.

    x (N, n) uint8, penalty (K, n, 256) and most (K, K, n) as of `most_gained`; known are classes
    with boxes; who are offset (K,) int64, group (n,) of each column, free and cost (n,) of groups,
    price and priced, as of a `Table`; scratch are distances (K,), gains (n,) int32, counts, and an
    order (n,).
    """
    offset, group, free, cost, price, priced = who
    distance, gains, counts, order = scratch
    for i in range(len(x)):
        own = known[0]
        for c in known:
            total = offset[c]
            for k in range(x.shape[1]):
                total += penalty[c, k, x[i, k]]
            distance[c] = total
            if total < distance[own]:
                own = c
        best = price[-1]
        for c in known:
            if c == own:
                continue
            gap = distance[c] - distance[own] + (c > own)
            for k in range(x.shape[1]):
                lead = penalty[own, k, x[i, k]] - penalty[c, k, x[i, k]]
                gains[group[k]] = (most[own, c, k] - lead) * free[group[k]]
            paid = price[fewest_gains(gains, gap, count_of_lower(price, best), counts)]
            if priced and paid < best:
                paid = max(paid, cheapest(gains, cost, gap, order, best))
            best = min(best, paid)
        index[i], bound[i] = own, best
