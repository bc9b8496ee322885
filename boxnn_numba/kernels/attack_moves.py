"""What an attack may do next: the codes worth trying, and the group whose change gains most.

Why so few codes are tried: against a rival box B with interval [a, b] in a feature, a code
v < a is never better than a itself. Moving from v to a lowers the penalty of B by a - v (or from W
to 0) and that of any other box by at most as much. So only codes inside the interval matter,
and there the penalty of an own box, a valley, is largest at an end: a code between the ends can
only be better for several own boxes at once. Where an end itself may not be written, a code
beyond it could be better; the attack, which proves nothing, leaves it out.

Of an ensemble of E sets of boxes, the class distance is a sum, and so a rival is a box B_e of one
class in every set. It costs the sum of their penalties; the ends of all are tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from boxnn_numba.kernels.formulas import graded

#: Most codes that are tried for one feature against one rival box (of each set).
VALUES = 4
_FAR = 2**30
_WORST = np.int64(-(2**62))


class Task(NamedTuple):
    """What is the same for all inputs.

    Attributes
    ----------
    lower, upper, lower_t, upper_t
        (M, n) and (n, M) uint8 bounds of boxes sorted by set, then by label.
    labels, offsets
        (M,) int32, and (E, K + 1) int64: boxes ``offsets[e, c]:offsets[e, c + 1]`` have label c.
    up, down
        (n, 256) int16, the nearest code at or above (below) each code that the attack may write
        into a feature; -1 where there is none.
    free
        (n,) bool, features that may change.
    width, group, tries, limit
        Width W, features in a group, rounds of local search, most groups that may change.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_t: np.ndarray
    upper_t: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    up: np.ndarray
    down: np.ndarray
    free: np.ndarray
    width: int
    group: int
    tries: int
    limit: int


class Work(NamedTuple):
    """What is kept about one input; the arrays are used again for the next.

    Attributes
    ----------
    start, code, best, pick
        (n,) int32 codes: of the input, now, of the best attack, and of a group that is tried.
    distance
        (M,) int32 distances of `code` to all boxes.
    changed, banned
        (G,) bool, groups that differ from the input, and that must not be changed now.
    rival, aim
        (E,) boxes of the class that is to win, and how far own boxes of each set must get.
    near, running, trial
        (E, L) own boxes in view, and their distances while a group is tried.
    values, counts, costs, gains
        Codes to try (n, V), how many, and what they add to the penalty of the rival (n, V) and of
        the own boxes (n, V, E, L); V is VALUES times E.
    random
        (1,) uint64 state of the random numbers.
    """

    start: np.ndarray
    code: np.ndarray
    best: np.ndarray
    pick: np.ndarray
    distance: np.ndarray
    changed: np.ndarray
    banned: np.ndarray
    rival: np.ndarray
    aim: np.ndarray
    near: np.ndarray
    running: np.ndarray
    trial: np.ndarray
    values: np.ndarray
    counts: np.ndarray
    costs: np.ndarray
    gains: np.ndarray
    random: np.ndarray


@register_jitable
def nearest_of(distance, first, last):
    """Index and distance of the nearest of some boxes, the first of equals."""
    found, least = -1, _FAR
    for m in range(first, last):
        if distance[m] < least:
            found, least = m, distance[m]
    return found, least


@register_jitable
def view_nearest(task, work, own):
    """Put the nearest own boxes of each set into view."""
    for e in range(len(work.near)):
        first, last = task.offsets[e, own], task.offsets[e, own + 1]
        floor, after = -1, -1
        for place in range(work.near.shape[1]):
            found, least = -1, _FAR
            for m in range(first, last):
                d = work.distance[m]
                if d < least and (d > floor or (d == floor and m > after)):
                    found, least = m, d
            # Where the class has fewer boxes, the nearest is in view more than once.
            work.near[e, place] = found if found >= 0 else work.near[e, 0]
            floor, after = least, found


@register_jitable
def _add_value(task, work, k, code):
    """Add a code of a feature to those to try, with its effect on all boxes in view."""
    place, width, start = work.counts[k], task.width, work.start[k]
    for v in range(place):
        if work.values[k, v] == code:
            return
    work.values[k, place] = code
    work.counts[k] = place + 1
    cost = 0
    for e in range(len(work.rival)):
        box = work.rival[e]
        a, b = np.int64(task.lower[box, k]), np.int64(task.upper[box, k])
        cost += graded(code, a, b, width) - graded(start, a, b, width)
        near, gains = work.near[e], work.gains[k, place, e]
        for j in range(len(near)):
            a, b = np.int64(task.lower[near[j], k]), np.int64(task.upper[near[j], k])
            gains[j] = graded(code, a, b, width) - graded(start, a, b, width)
    work.costs[k, place] = cost


@register_jitable
def _ends_to_one(work, k):
    """Of two codes keep the one that no box in view prefers the other to; False if there is none.

    There is one set of boxes, and both cost the rival nothing.
    """
    first = second = True
    one, other = work.gains[k, 0, 0], work.gains[k, 1, 0]
    for j in range(len(one)):
        first &= one[j] >= other[j]
        second &= other[j] >= one[j]
    if second and not first:
        work.values[k, 0], work.costs[k, 0] = work.values[k, 1], work.costs[k, 1]
        one[:] = other
    if first or second:
        work.counts[k] = 1
    return first or second


@register_jitable
def _middle(task, work, k, low, high):
    """The code between two where penalties of the boxes in view add up to most; -1 if none."""
    best, most, near = -1, -1, work.near[0]
    for j in range(len(near)):
        m = near[j]
        for side in range(2):
            if side == 0:
                code = task.down[k, max(np.int64(task.lower[m, k]) - task.width, 0)]
            else:
                code = task.up[k, min(np.int64(task.upper[m, k]) + task.width, 255)]
            if low < code < high:
                total = 0
                for i in range(len(near)):
                    a, b = np.int64(task.lower[near[i], k]), np.int64(task.upper[near[i], k])
                    total += graded(np.int64(code), a, b, task.width)
                if total > most:
                    best, most = np.int64(code), total
    return best


@register_jitable
def prepare(task, work):
    """List the codes to try for every feature against the rival."""
    for k in range(len(work.code)):
        work.counts[k] = 0
        if task.free[k]:
            for e in range(len(work.rival)):
                _add_ends(task, work, k, work.rival[e])


@register_jitable
def _add_ends(task, work, k, box):
    """List the codes to try for a feature against a rival box."""
    low, high = np.int64(task.lower[box, k]), np.int64(task.upper[box, k])
    first, last = np.int64(task.up[k, low]), np.int64(task.down[k, high])
    if 0 <= first <= high:
        _add_value(task, work, k, first)
        if last > first:
            _add_value(task, work, k, last)
            # Of several rival boxes a code that costs one nothing may cost the others.
            if len(work.rival) == 1 and not _ends_to_one(work, k):
                middle = _middle(task, work, k, first, last)
                if middle >= 0:
                    _add_value(task, work, k, middle)
        return
    # No code inside may be written: what is nearest on both sides, and both extremes.
    below, above = np.int64(task.down[k, low]), np.int64(task.up[k, high])
    if below >= 0:
        _add_value(task, work, k, below)
        _add_value(task, work, k, np.int64(task.up[k, 0]))
    if above >= 0:
        _add_value(task, work, k, above)
        _add_value(task, work, k, np.int64(task.down[k, 255]))


@register_jitable
def _score_set(running, gains, aim):
    least, total = np.int32(_FAR), np.int32(0)
    for j in range(len(running)):
        d = np.int32(running[j] + gains[j])
        least = min(least, d)
        total += min(d, aim)
    return np.int64(least), np.int64(total)


@register_jitable
def _score(work, running, k, v):
    """The least distances of the own boxes in view, and all that are nearer than the aim, summed.

    They are `running` (E, L) and what a code adds to them.
    """
    nearest, total = _score_set(running[0], work.gains[k, v, 0], work.aim[0])
    for e in range(1, len(running)):
        least, nearer = _score_set(running[e], work.gains[k, v, e], work.aim[e])
        nearest, total = nearest + least, total + nearer
    return nearest, total


@register_jitable
def _try_group(task, work, group):
    """Pick codes for the features of a group, one after another, and return the score.

    The score is how near the rival comes, then (in the lower 32 bits) how far the others in view
    are on their way to the aim.
    """
    for e in range(len(work.trial)):
        trial, running = work.trial[e], work.running[e]
        for j in range(len(trial)):
            trial[j] = running[j]
    cost, score = 0, _WORST
    first = group * task.group
    for k in range(first, min(first + task.group, len(work.code))):
        pick, best = -1, score  # of a group, some features may stay as they are
        for v in range(work.counts[k]):
            least, total = _score(work, work.trial, k, v)
            found = ((least - cost - work.costs[k, v]) << np.int64(32)) + total
            if found > best:
                pick, best = v, found
        work.pick[k] = work.code[k]
        if pick >= 0:
            work.pick[k] = work.values[k, pick]
            cost += work.costs[k, pick]
            for e in range(len(work.trial)):
                trial, gains = work.trial[e], work.gains[k, pick, e]
                for j in range(len(trial)):
                    trial[j] += gains[j]
            score = best
    return score


@register_jitable
def best_group(task, work):
    """The group whose change brings the rival closest; -1 if none brings it closer."""
    least, total = np.int64(0), np.int64(0)
    for e in range(len(work.near)):
        near, running, aim = work.near[e], work.running[e], work.aim[e]
        first = np.int32(_FAR)
        for j in range(len(near)):
            running[j] = work.distance[near[j]]
            first = min(first, running[j])
            total += min(running[j], aim)
        least += first
    best, found = (least << np.int64(32)) + total, -1
    for group in range(len(work.changed)):
        if not (work.changed[group] or work.banned[group]):
            score = _try_group(task, work, group)
            if score > best:
                best, found = score, group
    if found >= 0:
        _try_group(task, work, found)
    return found
