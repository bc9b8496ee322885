"""What an attack may do next: the codes worth trying, and the group whose change gains most.

Why so few codes are tried: against a rival box B with interval [a, b] in a feature, a code
v < a is never better than a itself. Moving from v to a lowers the penalty of B by a - v (or from W
to 0) and that of any other box by at most as much. So only codes inside the interval matter,
and there the penalty of an own box, a valley, is largest at an end: a code between the ends can
only be better for several own boxes at once. Where an end itself may not be written, a code
beyond it could be better; the attack, which proves nothing, leaves it out.

Of an ensemble of E sets of boxes, the class distance is a sum, and so a rival is a box B_e of one
class in every set. It costs the sum of their penalties; the ends of all are tried.

Of factored boxes, A and B are combinations: in each part a row of their template. Changing a group
moves the rows of one part. In view are there the own rows that make the nearest combinations
with the best rows of their templates elsewhere; so of every part the view says how near any own
combination comes.

A group that is capped as a whole gains less than its features together: their codes are chosen as
if it were not, and then one after another again with the cap.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.attack_state import (
    FAR,
    copy,
    fill,
    nearest_of,
    nearest_row,
    refresh,
    rival_distance,
)
from boxnn_numba.kernels.compile import register_jitable
from boxnn_numba.kernels.formulas import graded

#: Most codes that are tried for one feature against one rival box (of each set).
VALUES = 4
_WORST = np.int64(-(2**62))


@register_jitable
def view_nearest(task, work, view, own):
    """Put the own rows of the nearest combinations into view, in every part."""
    refresh(task, work)
    for p in range(len(work.distance)):
        view_part(task, work, view, own, p)


@register_jitable
def view_part(task, work, view, own, p):
    """Put the own rows of each set into view that make the nearest combinations in a part."""
    view.stale[p] = True
    key = work.distance[0] if len(work.distance) == 1 else work.key
    for e in range(len(view.near)):
        first, last = task.classes[e, own], task.classes[e, own + 1]
        if len(work.distance) > 1:
            for t in range(first, last):
                rest = work.total[t] - work.least[p, t]
                for m in range(task.rows[t], task.rows[t + 1]):
                    key[m] = work.distance[p, m] + rest
        first, last = task.rows[first], task.rows[last]
        floor, after, near = -1, -1, view.near[e, p]
        for place in range(len(near)):
            found, least = -1, FAR
            for m in range(first, last):
                d = key[m]
                if d < least and (d > floor or (d == floor and m > after)):
                    found, least = m, d
            # Where the class has fewer rows, the nearest is in view more than once.
            near[place] = found if found >= 0 else near[0]
            floor, after = least, found


@register_jitable
def _holds(values, value):
    found = False
    for i in range(len(values)):
        found |= values[i] == value
    return found


@register_jitable
def look(task, work, view, own):
    """Set the aims, and view the parts in which the nearest own row is not in view."""
    rival = task.labels[work.rival[0, 0]]
    share = (task.offset[rival] - task.offset[own]) // len(view.near)
    for e in range(len(view.near)):
        t, least = nearest_of(work.total, task.classes[e, own], task.classes[e, own + 1])
        view.aim[e] = np.int32(
            (rival_distance(work.distance, work.rival, e) + least + share) // 2 + task.cap
        )
    for p in range(len(work.distance)):
        viewed = True
        for e in range(len(view.near)):
            t = nearest_of(work.total, task.classes[e, own], task.classes[e, own + 1])[0]
            row = nearest_row(work.distance[p], task.rows, t)
            viewed &= _holds(view.near[e, p], row)
        if not viewed:
            view_part(task, work, view, own, p)


@register_jitable
def _add_value(task, near, rival, listed, k, start, code):
    """Add a code of a feature to those to try, with its effect on all rows in view."""
    values, counts, costs, gains = listed
    place, width = counts[k], task.width
    for v in range(place):
        if values[k, v] == code:
            return
    values[k, place] = code
    counts[k] = place + 1
    total = 0
    for e in range(len(rival)):
        p = task.part[e, k]
        box = rival[e, p]
        a, b = np.int64(task.lower[box, k]), np.int64(task.upper[box, k])
        cost = graded(code, a, b, width) - graded(start, a, b, width)
        costs[k, place, e], total = cost, total + cost
        rows, gain = near[e, p], gains[k, place, e]
        for j in range(len(rows)):
            a, b = np.int64(task.lower[rows[j], k]), np.int64(task.upper[rows[j], k])
            gain[j] = graded(code, a, b, width) - graded(start, a, b, width)
    costs[k, place, len(rival)] = total


@register_jitable
def _ends_to_one(listed, k):
    """Of two codes keep the one that no row in view prefers the other to; False if there is none.

    There is one set of boxes, and both cost the rival nothing.
    """
    values, counts, costs, gains = listed
    first = second = True
    one, other = gains[k, 0, 0], gains[k, 1, 0]
    for j in range(len(one)):
        first &= one[j] >= other[j]
        second &= other[j] >= one[j]
    if second and not first:
        values[k, 0] = values[k, 1]
        copy(costs[k, 0], costs[k, 1])
        copy(one, other)
    if first or second:
        counts[k] = 1
    return first or second


@register_jitable
def _middle(task, near, k, low, high):
    """The code between two where penalties of the rows in view add up to most; -1 if none."""
    best, most = -1, -1
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
def prepare(task, work, view):
    """List the codes to try against the rival for the groups of stale parts that may change."""
    if not _holds(view.stale, True):
        return
    # Not all arrays at once: to pass them takes longer than to list a code.
    near, rival = view.near, work.rival
    listed = view.values, view.counts, view.costs, view.gains
    for group in range(len(work.changed)):
        first, last = task.starts[group], task.starts[group + 1]
        stale = False
        for e in range(len(rival)):
            stale |= view.stale[task.part[e, task.members[first]]] and not work.banned[group]
        for place in range(first, last if stale else first):
            k = task.members[place]
            view.counts[k] = 0
            if task.free[k]:
                for e in range(len(rival)):
                    box = rival[e, task.part[e, k]]
                    _add_ends(task, near, rival, listed, k, work.start[k], box)
            if (last - first) * task.width > task.cap:
                _note_penalties(task, near, rival, view.before, k, np.int64(work.start[k]))
    fill(view.stale, False)


@register_jitable
def _note_penalties(task, near, rival, before, k, start):
    """Note what a feature of the input adds to the rows in view, and last to the rival."""
    width = task.width
    for e in range(len(rival)):
        p = task.part[e, k]
        rows, box = near[e, p], rival[e, p]
        for j in range(len(rows)):
            a, b = np.int64(task.lower[rows[j], k]), np.int64(task.upper[rows[j], k])
            before[k, e, j] = graded(start, a, b, width)
        a, b = np.int64(task.lower[box, k]), np.int64(task.upper[box, k])
        before[k, e, len(rows)] = graded(start, a, b, width)


@register_jitable
def _add_ends(task, near, rival, listed, k, start, box):
    """List the codes to try for a feature against a rival box."""
    low, high = np.int64(task.lower[box, k]), np.int64(task.upper[box, k])
    first, last = np.int64(task.up[k, low]), np.int64(task.down[k, high])
    if 0 <= first <= high:
        _add_value(task, near, rival, listed, k, start, first)
        if last > first:
            _add_value(task, near, rival, listed, k, start, last)
            # Of several rival boxes a code that costs one nothing may cost the others.
            if len(rival) == 1 and not _ends_to_one(listed, k):
                middle = _middle(task, near[0, task.part[0, k]], k, first, last)
                if middle >= 0:
                    _add_value(task, near, rival, listed, k, start, middle)
        return
    # No code inside may be written: what is nearest on both sides, and both extremes.
    below, above = np.int64(task.down[k, low]), np.int64(task.up[k, high])
    if below >= 0:
        _add_value(task, near, rival, listed, k, start, below)
        _add_value(task, near, rival, listed, k, start, np.int64(task.up[k, 0]))
    if above >= 0:
        _add_value(task, near, rival, listed, k, start, above)
        _add_value(task, near, rival, listed, k, start, np.int64(task.down[k, 255]))


# --- which group, which codes -------------------------------------------------------------


@register_jitable
def _score_set(running, gains, aim):
    least, total = np.int32(FAR), np.int32(0)
    for j in range(len(running)):
        d = np.int32(running[j] + gains[j])
        least = min(least, d)
        total += min(d, aim)
    return np.int64(least), np.int64(total)


@register_jitable
def _score(running, aim, gains, cost):
    """How near a code brings the rival, then (in the lower 32 bits) how far it gets the others.

    running (E, L) are distances of the own combinations in view, gains (E, L) and the cost what
    the code adds to them and to the rival. The rival comes nearer by the least of their distances
    less its cost; others count as far as they are nearer than the aim.
    """
    nearest, total = _score_set(running[0], gains[0], aim[0])
    for e in range(1, len(running)):
        least, nearer = _score_set(running[e], gains[e], aim[e])
        nearest, total = nearest + least, total + nearer
    return ((nearest - np.int64(cost)) << np.int64(32)) + total


@register_jitable
def _best_code(running, aim, gains, costs, count, score):
    """The first of `count` codes whose score is the largest, -1 if it is not above `score`."""
    pick = -1
    for v in range(count):
        found = _score(running, aim, gains[v], costs[v, len(running)])
        if found > score:
            pick, score = v, found
    return pick, score


@register_jitable
def _try_group(members, trial, here, aim, listed, pick, code):
    """Pick codes for the members of a group, one after another, and return the score."""
    values, counts, costs, gains = listed
    for e in range(len(trial)):
        for j in range(trial.shape[1]):
            trial[e, j] = here[e, j]
    cost, score = np.int64(0), _WORST
    for k in members:
        least = score if score == _WORST else score + cost
        v, best = _best_code(trial, aim, gains[k], costs[k], counts[k], least)
        pick[k] = code[k]
        if v >= 0:  # of a group, some features may stay as they are
            score = best - cost
            pick[k] = values[k, v]
            cost += np.int64(costs[k, v, len(trial)]) << np.int64(32)
            for e in range(len(trial)):
                gain = gains[k, v, e]
                for j in range(len(gain)):
                    trial[e, j] += gain[j]
    return score


@register_jitable
def _place_of(listed, k, code):
    """The place of a code among those to try, -1 if it is not one."""
    values, counts, _, _ = listed
    for v in range(counts[k]):
        if values[k, v] == code:
            return v
    return -1


@register_jitable
def _shift(load, listed, k, v, sign):
    """Add to the penalties of a group what one of the codes to try adds, if there is one."""
    _, _, costs, gains = listed
    if v >= 0:
        for e in range(len(load)):
            gain = gains[k, v, e]
            for j in range(len(gain)):
                load[e, j] += sign * gain[j]
            load[e, len(gain)] += sign * costs[k, v, e]


@register_jitable
def _capped_score(trial, aim, load, cap):
    """As `_score`, of distances without a group and the penalties of that, which a cap limits."""
    nearest, total = np.int64(0), np.int64(0)
    for e in range(len(trial)):
        least = np.int32(FAR)
        for j in range(trial.shape[1]):
            d = np.int32(trial[e, j] + min(load[e, j], cap))
            least = min(least, d)
            total += min(d, aim[e])
        nearest += least - min(load[e, trial.shape[1]], cap)
    return (nearest << np.int64(32)) + total


@register_jitable
def _try_capped(members, trial, here, aim, listed, pick, start, before, load, cap):
    """Pick again what `_try_group` has picked, under the cap of the group; return the score."""
    own, rival = trial.shape[1], np.int64(0)
    for e in range(len(trial)):
        fill(load[e], 0)
        for k in members:
            for j in range(own + 1):
                load[e, j] += before[k, e, j]
        for j in range(own):
            trial[e, j] = here[e, j] - min(load[e, j], cap)
        rival += min(load[e, own], cap)
    for k in members:
        _shift(load, listed, k, _place_of(listed, k, pick[k]), 1)
    score = _capped_score(trial, aim, load, cap)
    for k in members:
        chosen = _place_of(listed, k, pick[k])
        _shift(load, listed, k, chosen, -1)
        for v in range(-1, listed[1][k]):
            _shift(load, listed, k, v, 1)
            found = _capped_score(trial, aim, load, cap)
            _shift(load, listed, k, v, -1)
            if found > score:
                chosen, score = v, found
        pick[k] = start[k] if chosen < 0 else listed[0][k, chosen]
        _shift(load, listed, k, chosen, 1)
    return score + (rival << np.int64(32))


@register_jitable
def best_group(task, work, view):
    """The group whose change to ``work.chosen`` brings the rival closest; -1 if none does."""
    for e in range(len(view.near)):
        for p in range(len(work.distance)):
            near, running, distance = view.near[e, p], view.running[e, p], work.distance[p]
            for j in range(len(near)):
                running[j] = distance[near[j]]
                if len(work.distance) > 1:
                    t = task.template[near[j]]
                    running[j] += work.total[t] - work.least[p, t]
    # Not as a whole: to pass so many arrays takes longer than to look at one feature.
    here, aim, gains, costs, counts = view.here, view.aim, view.gains, view.costs, view.counts
    listed = view.values, view.counts, view.costs, view.gains
    best, found, part, base = np.int64(0), -1, -1, np.int64(0)
    for group in range(len(work.changed)):
        if work.changed[group] or work.banned[group]:
            continue
        start, stop = task.starts[group], task.starts[group + 1]
        k = task.members[start]
        moved = task.part[0, k] != part or len(view.near) > 1
        if part < 0 or (moved and len(work.distance) > 1):
            part = task.part[0, k]
            base = _enter_part(view.here, view.running, aim, task.part, k)
        if stop == start + 1:
            pick, score = _best_code(here, aim, gains[k], costs[k], counts[k], _WORST)
            if pick >= 0:
                work.pick[k] = view.values[k, pick]
        else:
            members = task.members[start:stop]
            score = _try_group(members, view.trial, here, aim, listed, work.pick, work.code)
            if (stop - start) * task.width > task.cap:
                score = _try_capped(
                    members, view.trial, here, aim, listed, work.pick, work.start, view.before,
                    view.load, np.int32(task.cap),
                )  # fmt: skip
        if score - base > best:
            best, found = score - base, group
            for place in range(start, stop):
                work.chosen[task.members[place]] = work.pick[task.members[place]]
    return found


@register_jitable
def _enter_part(here, running, aim, part, k):
    """Bring the view of the part of a feature here; return the score of leaving it as it is."""
    least, total = np.int64(0), np.int64(0)
    for e in range(len(here)):
        first, p = np.int32(FAR), part[e, k]
        for j in range(here.shape[1]):
            here[e, j] = running[e, p, j]
            first = min(first, here[e, j])
            total += min(here[e, j], aim[e])
        least += first
    return (least << np.int64(32)) + total
