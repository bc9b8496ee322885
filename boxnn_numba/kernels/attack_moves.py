"""Moves of an attack: the codes worth trying, and the group whose change gains most.

Why so few codes are tried: against a rival box B with interval [a, b] in a feature, a code
v < a is never better than a itself. Moving from v to a lowers the penalty of B by a - v (or from W
to 0) and that of any other box by at most as much. So only codes inside the interval matter,
and there the penalty of an own box, a valley, is largest at an end: a code between the ends can
only be better for several own boxes at once. Where an end itself may not be written, a code
beyond it could be better; the attack, which proves nothing, leaves it out.

Of an ensemble of E sets of boxes, the class distance is a sum, and so a rival is a box B_e of one
class in every set. It costs the sum of their penalties; the ends of all are tried.

Of factored boxes, A and B are combinations: in each part a row of their template. Changing a group
moves the rows of one part. The view of a part holds the own rows that make the nearest combinations
with the best rows of their templates in the other parts. So in every part the view says how near
any own combination comes.

A group that is capped as a whole gains less than its features together: their codes are first
chosen as if there were no cap, and then again one after another with it.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.attack_state import (
    FAR,
    copy,
    group_range,
    nearest_of,
    nearest_row,
    refresh,
    rival_distance,
)
from boxnn_numba.kernels.compile import fill, nothing, register_jitable, unless
from boxnn_numba.kernels.formulas import graded

#: Most codes that are tried for one feature against one rival box (of each set).
VALUES = 4
#: Rows in view come in blocks of so many; rows that fill up a block are far away.
LANES = 16
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
    for e in range(len(view.near)):
        first, last = task.classes[e, own], task.classes[e, own + 1]
        _note_whole(task, work, p, first, last)
        _nearest_rows(work.key, task.rows[first], task.rows[last], view.near[e, p])


@unless("template", nothing)
def _note_whole(task, work, p, first, last):
    """Note how far the nearest combination with each row of some templates in a part is."""
    for t in range(first, last):
        rest = work.total[t] - work.least[p, t]
        for m in range(task.rows[t], task.rows[t + 1]):
            work.key[m] = work.distance[p, m] + rest


@register_jitable
def _nearest_rows(key, first, last, near):
    """Find the nearest of some rows, the first of equals first."""
    count = 0
    for m in range(first, last):
        if count == len(near) and key[m] >= key[near[count - 1]]:
            continue
        place = min(count, len(near) - 1)
        count = place + 1
        while place > 0 and key[near[place - 1]] > key[m]:
            near[place] = near[place - 1]
            place -= 1
        near[place] = m
    # Where there are fewer, the nearest is in view more than once.
    for place in range(count, len(near)):
        near[place] = near[0]


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
def prepare(task, work, view):
    """List the codes to try against the rival for the groups of stale parts that may change."""
    if not _holds(view.stale, True):
        return
    count = 0
    for group in range(len(work.changed)):
        first, last = group_range(task, group)
        stale = False
        for e in range(len(work.rival)):
            stale |= view.stale[task.part[e, task.members[first]]] and not work.banned[group]
        if stale:
            for place in range(first, last):
                view.listed[count] = task.members[place]
                count += 1
            _note_penalties(task, work, view, group)
    # One call for all features, and without the task: passing so many arrays takes longer than
    # listing the codes of a feature.
    _list_ends(
        view.listed[:count], (task.lower, task.upper), task.part, task.free, task.up, task.down,
        np.int32(task.width), work.rival, work.start, view.values, view.counts, view.costs,
        view.known, (view.ends, view.prices, view.most),
    )  # fmt: skip
    fill(view.stale, False)
    _measure_groups(task, work, view, count)


@register_jitable
def measure(task, work, view, count):
    """Note what codes add to all rows in view, of the first `count` features that are listed."""
    features, width = view.listed[:count], np.int32(task.width)
    bounds, near, start = (task.lower, task.upper), view.near, work.start
    sight = view.low, view.high, view.held
    values, counts, gains = view.values, view.counts, view.gains
    _measure(features, 0, bounds, task.part, width, near, start, sight, values, counts, gains)
    for k in features:
        view.known[k] = True
    if len(near) == 1:  # of several sets, a code that costs one nothing may cost others
        more = _list_middles(
            features, bounds, task.part, width, near[0], work.rival[0], task.up, task.down, sight,
            values, counts, view.costs, gains,
        )  # fmt: skip
        features = features[:more]
        _measure(features, 2, bounds, task.part, width, near, start, sight, values, counts, gains)


#: For single features, what a code adds to the rows in view is measured when it is needed.
_measure_groups = unless("starts", nothing)(measure)


@register_jitable
def measure_all(task, work, view):
    """Measure the features that are not known yet."""
    count = 0
    for k in range(len(view.known)):
        if not view.known[k]:
            view.listed[count] = k
            count += 1
    measure(task, work, view, count)


@register_jitable
def _list_ends(
    features, bounds, part, free, up, down, width, rival, start, values, counts, costs, known, ends
):
    """List the ends of the rival boxes as codes to try, or what can be written nearest to them.

    List what they add to the penalties of these boxes, too.
    """
    lower, upper = bounds
    codes, prices, most = ends
    for k in features:
        counts[k], known[k] = 0, False
        for e in range(len(rival) if free[k] else 0):
            box = rival[e, part[e, k]]
            low, high = np.int64(lower[box, k]), np.int64(upper[box, k])
            first, last = np.int64(up[k, low]), np.int64(down[k, high])
            below = above = np.int64(-1)
            if not 0 <= first <= high:
                # No code inside may be written: take the nearest on both sides, and both extremes.
                below, above = np.int64(down[k, low]), np.int64(up[k, high])
                first = np.int64(up[k, 0]) if below >= 0 else below
                last = np.int64(down[k, 255]) if above >= 0 else above
            for side in range(4):
                # In this order, as the first of equals is taken.
                code = below
                if side == 1:
                    code = first
                elif side == 2:
                    code = above
                elif side == 3:
                    code = last
                for v in range(counts[k]):
                    if values[k, v] == code:
                        code = np.int64(-1)
                if code >= 0:
                    values[k, counts[k]] = code
                    costs[k, counts[k], len(rival)] = 0
                    counts[k] += 1
        for e in range(len(rival) if counts[k] > 0 else 0):
            box = rival[e, part[e, k]]
            a, b = np.int32(lower[box, k]), np.int32(upper[box, k])
            held = graded(np.int32(start[k]), a, b, width)
            for v in range(counts[k]):
                cost = graded(np.int32(values[k, v]), a, b, width) - held
                costs[k, v, e] = cost
                costs[k, v, len(rival)] += cost
        most[0] = max(most[0], counts[k])
        for v in range(most[0]):  # no feature has had codes beyond
            there = v < counts[k]
            codes[v, k] = values[k, v] if there else start[k]
            prices[v, k] = costs[k, v, len(rival)] if there else FAR


@register_jitable
def _measure(features, since, bounds, part, width, near, start, sight, values, counts, gains):
    """Note what codes, but for the first ones, add to the penalties of all rows in view.

    Loops over rows in view are of a constant number at a time: only that makes vectors.
    """
    lower, upper = bounds
    low, high, held = sight
    for k in features:
        was = np.int32(start[k])
        for e in range(len(near) if counts[k] > since else 0):
            _see(lower, upper, near[e, part[e, k]], k, low, high)
            for i in range(len(low)):
                for j in range(LANES):
                    held[i, j] = graded(was, low[i, j], high[i, j], width)
            for v in range(since, counts[k]):
                code = np.int32(values[k, v])
                for i in range(len(low)):
                    for j in range(LANES):
                        paid = np.int32(graded(code, low[i, j], high[i, j], width))
                        gains[k, v, e, i, j] = np.int16(paid - held[i, j])


@register_jitable
def _see(lower, upper, rows, k, low, high):
    """Gather the bounds of the rows in view in a feature."""
    for j in range(len(rows)):
        i, lane = j // LANES, j % LANES
        low[i, lane], high[i, lane] = lower[rows[j], k], upper[rows[j], k]


@register_jitable
def _list_middles(
    features, bounds, part, width, near, rival, up, down, sight, values, counts, costs, gains
):
    """List codes between two ends, where only the rows in view can be for one.

    Returns how many features have such a code; these come first in `features` then.
    """
    lower, upper = bounds
    low, high, _ = sight
    count = 0
    for k in features:
        box = rival[part[0, k]]
        first, last = values[k, 0], values[k, 1]
        both = counts[k] == 2 and lower[box, k] <= first and last <= upper[box, k]
        if both and not _ends_to_one(values, counts, costs, gains, k):
            _see(lower, upper, near[part[0, k]], k, low, high)
            middle = _middle(up[k], down[k], near.shape[1], width, first, last, low, high)
            if middle >= 0:
                values[k, 2], counts[k] = middle, 3
                copy(costs[k, 2], costs[k, 0])
                features[count] = k
                count += 1
    return count


@register_jitable
def _ends_to_one(values, counts, costs, gains, k):
    """Keep the code that is at least as good as the other for every row in view; False if none is.

    There is one set of boxes, and both cost the rival nothing.
    """
    first = second = True
    for i in range(gains.shape[3]):
        for j in range(LANES):
            first &= gains[k, 0, 0, i, j] >= gains[k, 1, 0, i, j]
            second &= gains[k, 1, 0, i, j] >= gains[k, 0, 0, i, j]
    if second and not first:
        values[k, 0] = values[k, 1]
        copy(costs[k, 0], costs[k, 1])
        for i in range(gains.shape[3]):
            copy(gains[k, 0, 0, i], gains[k, 1, 0, i])
    if first or second:
        counts[k] = 1
    return first or second


@register_jitable
def _middle(up, down, rows, width, first, last, low, high):
    """The code between two where penalties of the rows in view add up to most; -1 if none."""
    best, most = np.int32(-1), np.int32(-1)
    for j in range(rows):
        for side in range(2):
            if side == 0:
                code = np.int32(down[max(low[j // LANES, j % LANES] - width, 0)])
            else:
                code = np.int32(up[min(high[j // LANES, j % LANES] + width, 255)])
            if first < code < last:
                total = np.int32(0)
                for i in range(len(low)):
                    for lane in range(LANES):
                        total += np.int32(graded(code, low[i, lane], high[i, lane], width))
                if total > most:
                    best, most = code, total
    return best


@unless("starts", nothing)
def _note_penalties(task, work, view, group):
    """Note what the features of a capped group add to the rows in view, and last to the rival."""
    near, rival, before, width = view.near, work.rival, view.before, task.width
    members = task.members[task.starts[group] : task.starts[group + 1]]
    if len(members) * width <= task.cap:
        return
    for k in members:
        code = np.int64(work.start[k])
        for e in range(len(rival)):
            p = task.part[e, k]
            rows, box = near[e, p], rival[e, p]
            for j in range(len(rows)):
                a, b = np.int64(task.lower[rows[j], k]), np.int64(task.upper[rows[j], k])
                before[k, e, j] = graded(code, a, b, width)
            a, b = np.int64(task.lower[box, k]), np.int64(task.upper[box, k])
            before[k, e, before.shape[2] - 1] = graded(code, a, b, width)


# --- which group, which codes -------------------------------------------------------------


@register_jitable
def _score(running, aim, gains, costs, k, v):
    """How near a code brings the rival, then (in the lower 32 bits) how far it gets the others.

    running (E, L) are distances of the own combinations in view, gains and costs what code v of
    feature k adds to them and to the rival. The rival comes nearer by the least of their distances
    less its cost; others count as far as they are nearer than the aim.
    """
    nearest, total = -np.int64(costs[k, v, len(running)]), np.int64(0)
    for e in range(len(running)):
        least, nearer, far = np.int32(FAR), np.int32(0), aim[e]
        for i in range(running.shape[1]):
            for j in range(LANES):
                d = np.int32(running[e, i, j] + np.int32(gains[k, v, e, i, j]))
                least = min(least, d)
                nearer += min(d, far)
        nearest, total = nearest + least, total + nearer
    return (nearest << np.int64(32)) + total


@register_jitable
def _best_code(running, aim, gains, costs, counts, k, score):
    """The first code of a feature whose score is the largest, -1 if it is not above `score`."""
    pick = -1
    for v in range(counts[k]):
        found = _score(running, aim, gains, costs, k, v)
        if found > score:
            pick, score = v, found
    return pick, score


@register_jitable
def _try_group(members, trial, here, aim, listed, pick, code):
    """Pick codes for the members of a group, one after another, and return the score."""
    values, counts, costs, gains = listed
    for e in range(len(trial)):
        for i in range(trial.shape[1]):
            copy(trial[e, i], here[e, i])
    cost, score = np.int64(0), _WORST
    for k in members:
        least = score if score == _WORST else score + cost
        v, best = _best_code(trial, aim, gains, costs, counts, k, least)
        pick[k] = code[k]
        if v >= 0:  # of a group, some features may stay as they are
            score = best - cost
            pick[k] = values[k, v]
            cost += np.int64(costs[k, v, len(trial)]) << np.int64(32)
            for e in range(len(trial)):
                for i in range(trial.shape[1]):
                    for j in range(LANES):
                        trial[e, i, j] += gains[k, v, e, i, j]
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
            own = load.shape[1] - 1
            for j in range(own):
                load[e, j] += sign * gains[k, v, e, j // LANES, j % LANES]
            load[e, own] += sign * costs[k, v, e]


@register_jitable
def _capped_score(trial, aim, load, cap):
    """As `_score`, from distances without a group and its penalties, which a cap limits."""
    nearest, total = np.int64(0), np.int64(0)
    for e in range(len(trial)):
        least = np.int32(FAR)
        for j in range(load.shape[1] - 1):
            d = np.int32(trial[e, j // LANES, j % LANES] + min(load[e, j], cap))
            least = min(least, d)
            total += min(d, aim[e])
        nearest += least - min(load[e, load.shape[1] - 1], cap)
        total += (trial[e].size - (load.shape[1] - 1)) * np.int64(aim[e])  # rows far away
    return (nearest << np.int64(32)) + total


@register_jitable
def _try_capped(members, trial, here, aim, listed, pick, start, before, load, cap):
    """Pick again what `_try_group` has picked, under the cap of the group; return the score."""
    own, rival = load.shape[1] - 1, np.int64(0)
    for e in range(len(trial)):
        fill(load[e], 0)
        for k in members:
            for j in range(own + 1):
                load[e, j] += before[k, e, j]
        for j in range(own):
            i, lane = j // LANES, j % LANES
            trial[e, i, lane] = here[e, i, lane] - min(load[e, j], cap)
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
def _no_rest(task, work, p, m):
    return np.int32(0)


@unless("template", _no_rest)
def _rest(task, work, p, m):
    """How far the template of a row is in the other parts."""
    t = task.template[m]
    return np.int32(work.total[t] - work.least[p, t])


@register_jitable
def _note_running(task, work, view):
    """Note how far the own combinations in view are in every part, and which is the nearest."""
    for e in range(len(view.near)):
        for p in range(len(work.distance)):
            near, running, distance = view.near[e, p], view.running[e, p], work.distance[p]
            first, least, total = 0, np.int32(FAR), np.int64(0)
            for j in range(len(near)):
                d = distance[near[j]] + _rest(task, work, p, near[j])
                running[j // LANES, j % LANES] = d
                if d < least:
                    first, least = j, d
                total += min(d, view.aim[e])
            view.first[e, p] = first
            total += (running.size - len(near)) * np.int64(view.aim[e])
            view.base[e, p] = (np.int64(least) << np.int64(32)) + total


@register_jitable
def _enter_part(here, running, base, part, k):
    """Bring the view of the part of a feature here; return the score of leaving it as it is."""
    score = np.int64(0)
    for e in range(len(here)):
        p = part[e, k]
        for i in range(here.shape[1]):
            for j in range(LANES):
                here[e, i, j] = running[e, p, i, j]
        score += base[e, p]
    return score


@register_jitable
def _find_reach(members, bounds, part, width, near, nearest, start, changed, banned, ends, out):
    """Write (n,) the most that each feature brings the rival nearer; -1 where it may not change."""
    codes, prices, rises, low, high = ends
    lower, upper = bounds
    for v in range(len(codes)):
        for k in range(len(out)):
            rises[v, k] = -prices[v, k]
    for e in range(len(near)):
        for k in range(len(out)):
            p = part[e, k]
            row = near[e, p, nearest[e, p]]
            low[k], high[k] = lower[row, k], upper[row, k]
        for v in range(len(codes)):
            for k in range(len(out)):
                rises[v, k] += np.int32(
                    graded(codes[v, k], low[k], high[k], width)
                    - graded(start[k], low[k], high[k], width)
                )
    for k in range(len(out)):
        out[k] = -1
    for v in range(len(codes)):
        for k in range(len(out)):
            out[k] = max(out[k], rises[v, k])
    for group in range(len(members)):
        if changed[group] or banned[group]:
            out[members[group]] = -1


@register_jitable
def _best_of(
    first, last, best, members, running, base, here, aim, part, reach, counts, costs, gains
):
    """The first of some groups and its code whose score rises most, -1 if by no more than `best`.

    Returns that rise, too.
    """
    found = pick = -1
    for group in range(first, last):
        k = members[group]
        if reach[k] < best >> np.int64(32):
            continue
        start = _enter_part(here, running, base, part, k)
        for v in range(counts[k]):
            score = _score(here, aim, gains, costs, k, v) - start
            if score > best:
                found, pick, best = group, v, score
    return found, pick, best


@register_jitable
def _best_single(task, work, view):
    """As `best_group`, of groups of one feature.

    A code brings the rival nearer by no more than it moves away the own combination that is the
    nearest now. So most features need not be looked at.
    """
    _note_running(task, work, view)
    most = view.most[0]
    ends = view.ends[:most], view.prices[:most], view.rises[:most], view.own_low, view.own_high
    _find_reach(
        task.members, (task.lower, task.upper), task.part, np.int32(task.width), view.near,
        view.first, work.start, work.changed, work.banned, ends, view.reach,
    )  # fmt: skip
    top = 0
    for group in range(len(task.members)):
        if view.reach[task.members[group]] > view.reach[task.members[top]]:
            top = group
    if view.reach[task.members[top]] < 0:
        return -1
    view.listed[0] = task.members[top]
    if not view.known[task.members[top]]:
        measure(task, work, view, 1)
    best = _best_of(
        top, top + 1, np.int64(0), task.members, view.running, view.base, view.here, view.aim,
        task.part, view.reach, view.counts, view.costs, view.gains,
    )[2]  # fmt: skip
    best = max(np.int64(0), best - 1)
    count = 0
    for group in range(len(view.reach)):
        k = task.members[group]
        if view.reach[k] >= best >> np.int64(32) and not view.known[k]:
            view.listed[count] = k
            count += 1
    measure(task, work, view, count)
    found, pick, _ = _best_of(
        0, len(view.reach), best, task.members, view.running, view.base, view.here, view.aim,
        task.part, view.reach, view.counts, view.costs, view.gains,
    )  # fmt: skip
    if found >= 0:
        work.chosen[task.members[found]] = view.values[task.members[found], pick]
    return found


@unless("starts", _best_single)
def best_group(task, work, view):
    """The group whose change to ``work.chosen`` brings the rival closest; -1 if none does."""
    _note_running(task, work, view)
    # Without task and view: passing so many arrays takes longer than looking at one feature.
    here, aim, listed = view.here, view.aim, (view.values, view.counts, view.costs, view.gains)
    best, found = np.int64(0), -1
    for group in range(len(work.changed)):
        if work.changed[group] or work.banned[group]:
            continue
        members = task.members[task.starts[group] : task.starts[group + 1]]
        base = _enter_part(here, view.running, view.base, task.part, members[0])
        score = _try_group(members, view.trial, here, aim, listed, work.pick, work.code)
        if len(members) * task.width > task.cap:
            score = _try_capped(
                members, view.trial, here, aim, listed, work.pick, work.start, view.before,
                view.load, np.int32(task.cap),
            )  # fmt: skip
        if score - base > best:
            best, found = score - base, group
            for k in members:
                work.chosen[k] = work.pick[k]
    return found
