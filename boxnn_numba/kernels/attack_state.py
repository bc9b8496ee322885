"""State of an attack: the input with its changes so far, and its distances to all boxes.

The distance to a template is the sum over the parts of the least to a row in each, so an attack
keeps the distances of all rows in each part, the least of each template in a part, and their sum:

              row 0  row 1  row 2 | row 3  row 4 | ...             template 0  template 1
    part 0   [  9     12      7   |   3      8   |          least [     7           3      ...
    part 1   [ 20     15     31   |   4      4   |                     15           4      ...
                                                              total    22           7

Rewriting a group changes one part, whose row of the tables is brought up to date when the least is
asked for. A plain set has one part and one row in every template, and there all three are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from boxnn_numba.kernels.compile import fill, nothing, register_jitable, unless
from boxnn_numba.kernels.formulas import graded

FAR = 2**30


class Task(NamedTuple):
    """What is the same for all inputs, of E sets of boxes with M rows and T templates together.

    Attributes
    ----------
    lower, upper, lower_t, upper_t
        (M, n) and (n, M) uint8 bounds of rows sorted by set, label and template.
    labels, template
        (M,) int32, of each row. `template` is None where there is one part, and so every row is a
        template: code for several parts is not compiled then.
    sets, rows, classes
        (E + 1,), (T + 1,) and (E, K + 1) int64: rows ``sets[e]:sets[e + 1]`` are of set e, rows
        ``rows[t]:rows[t + 1]`` of template t, templates ``classes[e, c]:classes[e, c + 1]`` of
        class c in set e.
    part
        (E, n) int32, the part of each feature in each set, below P.
    members, starts
        (n,) int64 features by group, and (G + 1,): ``members[starts[g]:starts[g + 1]]`` are those
        of group g. `starts` is None where every group is one feature: code for others is not
        compiled then.
    offset
        (K,) int64, added to the class distances.
    up, down
        (n, 256) int16, the nearest code at or above (below) each code that the attack may write
        into a feature; -1 where there is none.
    free
        (n,) bool, features that may change.
    width, cap, tries, limit
        Width W, most units that a group adds to a distance, rounds of local search, most groups
        that may change.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_t: np.ndarray
    upper_t: np.ndarray
    labels: np.ndarray
    template: np.ndarray | None
    sets: np.ndarray
    rows: np.ndarray
    classes: np.ndarray
    part: np.ndarray
    members: np.ndarray
    starts: np.ndarray | None
    offset: np.ndarray
    up: np.ndarray
    down: np.ndarray
    free: np.ndarray
    width: int
    cap: int
    tries: int
    limit: int


class Work(NamedTuple):
    """What is kept about one input; the arrays are used again for the next.

    Attributes
    ----------
    start, code, best, pick, chosen
        (n,) int32 codes: of the input, now, of the best attack, of a group that is tried, and of
        the best that was.
    distance, least, total
        (P, M), (P, T) and (T,) int32 distances of `code`: to the rows in each part, the least of a
        template's rows, and their sum over the parts. Where `template` is None they and `key`
        share their memory.
    dirty
        (P,) bool, parts whose `least` is out of date.
    changed, banned
        (G,) bool, groups that differ from the input, and that must not be changed now.
    rival
        (E, P) rows of the template that is to win, one for each part.
    key, sums
        How far the nearest combination with each row of a part is (M,), and scratch (2, M).
    random
        (1,) uint64 state of the random numbers.
    """

    start: np.ndarray
    code: np.ndarray
    best: np.ndarray
    pick: np.ndarray
    chosen: np.ndarray
    distance: np.ndarray
    least: np.ndarray
    total: np.ndarray
    dirty: np.ndarray
    changed: np.ndarray
    banned: np.ndarray
    rival: np.ndarray
    key: np.ndarray
    sums: np.ndarray
    random: np.ndarray


class View(NamedTuple):
    """What is in view of an attack: the own rows that matter, and the codes worth trying.

    Attributes
    ----------
    near, running
        (E, P, L) own rows in view, and the least distance of a combination with that row,
        (E, P, L'), where L' is L in blocks of lanes: (B, 16); what is beyond L there is far away,
        whatever is done.
    first, base
        (E, P) which of them is the nearest, and the score of leaving all as it is.
    aim
        (E,) how far own templates of each set must get.
    stale
        (P,) bool, parts in which the rows in view or the rival have changed.
    low, high, held
        (L') bounds of the rows in view in a feature, and what the input's code adds to them.
    here, trial, load
        Scratch: `running` of the part that is looked at (E, L'), (E, L'), (E, L + 1).
    listed, reach
        Scratch: (n,) features, and the most that each brings the rival nearer.
    ends, prices, most
        `values` and the rival's `costs` by place (V, n), as they were listed, far where there is
        none; and (1,) below which place all are.
    rises, own_low, own_high
        Scratch: (V, n), (n,), (n,).
    known
        (n,) bool, whether `gains` of a feature are up to date.
    values, counts, costs, gains, before
        Codes to try (n, V), how many, and what they add to the penalty of the rival (n, V, E + 1),
        in all sets last, and of the own rows (n, V, E, L'). For groups that are capped as a whole,
        what the input's code adds to these (n, E, L + 1), to the rival last. V is VALUES times E.
    """

    near: np.ndarray
    running: np.ndarray
    first: np.ndarray
    base: np.ndarray
    aim: np.ndarray
    stale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    held: np.ndarray
    here: np.ndarray
    trial: np.ndarray
    load: np.ndarray
    listed: np.ndarray
    reach: np.ndarray
    ends: np.ndarray
    prices: np.ndarray
    rises: np.ndarray
    most: np.ndarray
    own_low: np.ndarray
    own_high: np.ndarray
    known: np.ndarray
    values: np.ndarray
    counts: np.ndarray
    costs: np.ndarray
    gains: np.ndarray
    before: np.ndarray


@register_jitable
def copy(into, values):
    """Copy a row of numbers; an assignment to a slice would take far longer to compile."""
    for i in range(len(into)):
        into[i] = values[i]


@register_jitable
def nearest_of(distance, first, last):
    """Index and distance of the nearest of some boxes, the first of equals."""
    found, least = -1, FAR
    for m in range(first, last):
        if distance[m] < least:
            found, least = m, distance[m]
    return found, least


@register_jitable
def _single_range(task, group):
    return group, group + 1


@unless("starts", _single_range)
def group_range(task, group):
    """Where the features of a group begin and end in ``task.members``."""
    return task.starts[group], task.starts[group + 1]


@register_jitable
def _single_uncapped(task, group):
    return False


@unless("starts", _single_uncapped)
def capped(task, group):
    """Whether the penalties of a group may add up to more than they count."""
    size = task.starts[group + 1] - task.starts[group]
    return size > 1 and size * task.width > task.cap


@register_jitable
def least_of(distance, first, last):
    """Distance of the nearest of some boxes."""
    least = np.int32(FAR)
    for d in distance[first:last]:  # without the place, in vectors
        least = min(least, d)
    return np.int64(least)


# --- distances ----------------------------------------------------------------------------


@register_jitable
def begin(task, work, distance):
    """Return to the input, whose distances (P, M) are given."""
    for p in range(len(distance)):
        copy(work.distance[p], distance[p])
    copy(work.code, work.start)
    fill(work.changed, False)
    fill(work.banned, False)
    _begin_parts(task, work)


@unless("template", nothing)
def _begin_parts(task, work):
    for p in range(len(work.distance)):
        fill(work.least[p], 0)
    fill(work.total, 0)
    fill(work.dirty, True)


@unless("template", nothing)
def refresh(task, work):
    """Bring the least distances of templates up to date."""
    _refresh_parts(work.distance, work.least, work.total, work.dirty, task.rows)


@register_jitable
def _refresh_parts(distance, least, total, dirty, rows):
    for p in range(len(dirty)):
        if dirty[p]:
            dirty[p] = False
            for t in range(len(total)):
                found = distance[p, rows[t]]
                for m in range(rows[t] + 1, rows[t + 1]):
                    found = min(found, distance[p, m])
                total[t] += found - least[p, t]
                least[p, t] = found


@register_jitable
def _rewrite(bounds, place, width, distance, dirty, k, before, after):
    """Bring distances up to date for a new code of a feature whose group adds up its features.

    bounds are those of all boxes by feature, place is where sets begin and the parts of features.
    """
    lower_t, upper_t = bounds
    sets, part = place
    for e in range(len(part)):
        # Slices with a loop over all of them: only that becomes vector instructions.
        first, last, p = sets[e], sets[e + 1], part[e, k]
        low, high = lower_t[k, first:last], upper_t[k, first:last]
        row = distance[p, first:last]
        dirty[p] = True
        for m in range(len(row)):
            a, b = np.int32(low[m]), np.int32(high[m])
            row[m] += np.int32(graded(after, a, b, width) - graded(before, a, b, width))


@register_jitable
def _write(task, work, k, code):
    """Write a code into a feature whose group adds up its features."""
    before = work.code[k]
    if before != code:
        _rewrite(
            (task.lower_t, task.upper_t), (task.sets, task.part), np.int32(task.width),
            work.distance, work.dirty, k, before, code,
        )  # fmt: skip
        work.code[k] = code


@register_jitable
def _rewrite_capped(task, work, group, codes):
    """Write codes into a group that is capped as a whole."""
    members = task.members[task.starts[group] : task.starts[group + 1]]
    width, cap = np.int32(task.width), np.int32(task.cap)
    before, after = work.sums
    fill(before, 0)
    fill(after, 0)
    for k in members:
        low, high = task.lower_t[k], task.upper_t[k]
        was, code = work.code[k], np.int32(codes[k])
        for m in range(len(before)):
            a, b = np.int32(low[m]), np.int32(high[m])
            before[m] += np.int32(graded(was, a, b, width))
            after[m] += np.int32(graded(code, a, b, width))
        work.code[k] = code
    for e in range(len(task.part)):
        first, last, p = task.sets[e], task.sets[e + 1], task.part[e, members[0]]
        distance, old, new = work.distance[p, first:last], before[first:last], after[first:last]
        work.dirty[p] = True
        for m in range(len(distance)):
            distance[m] += min(new[m], cap) - min(old[m], cap)


@register_jitable
def _restore_single(task, work, group, codes):
    k = task.members[group]
    _write(task, work, k, codes[k])
    work.changed[group] = codes[k] != work.start[k]
    return work.changed[group]


@unless("starts", _restore_single)
def restore(task, work, group, codes):
    """Write codes (n,) into a group; return whether that differs from the input."""
    differs = moves = False
    for place in range(task.starts[group], task.starts[group + 1]):
        k = task.members[place]
        differs |= codes[k] != work.start[k]
        moves |= codes[k] != work.code[k]
    if moves and capped(task, group):
        _rewrite_capped(task, work, group, codes)
    elif moves:
        for place in range(task.starts[group], task.starts[group + 1]):
            k = task.members[place]
            _write(task, work, k, codes[k])
    work.changed[group] = differs
    return differs


@register_jitable
def restore_all(task, work, codes):
    """Write codes (n,) into all groups."""
    for group in range(len(work.changed)):
        restore(task, work, group, codes)


# --- classes ------------------------------------------------------------------------------


@register_jitable
def class_distance(total, classes, offset, c):
    """Sum over the sets of the distance to the nearest template of a class, with its offset."""
    found = offset[c]
    for e in range(len(classes)):
        found += least_of(total, classes[e, c], classes[e, c + 1])
    return found


@register_jitable
def best_rival(total, classes, offset, own):
    """The nearest class but `own`, ties to the smaller, and its distance."""
    found, least = -1, np.int64(0)
    for c in range(classes.shape[1] - 1):
        d = class_distance(total, classes, offset, c)
        if c != own and (found < 0 or d < least):
            found, least = c, d
    return found, least


@register_jitable
def flipped(task, work, own):
    """Whether another class than `own` is predicted, ties to the smaller class."""
    refresh(task, work)
    total, classes, offset = work.total, task.classes, task.offset
    rival, least = best_rival(total, classes, offset, own)
    return least < class_distance(total, classes, offset, own) + (rival < own)


# --- the rival ----------------------------------------------------------------------------


@register_jitable
def rival_gap(task, work, own):
    """By how much the rival must come nearer, against the nearest own templates."""
    label = task.labels[work.rival[0, 0]]
    gap = task.offset[label] + (1 if label > own else 0)
    for e in range(len(work.rival)):
        gap += rival_distance(work.distance, work.rival, e)
    return gap - class_distance(work.total, task.classes, task.offset, own)


@register_jitable
def rival_distance(distance, rival, e):
    """The distance to the rival in a set."""
    found = np.int64(0)
    for p in range(len(distance)):
        found += distance[p, rival[e, p]]
    return found


@register_jitable
def nearest_row(distance, rows, t):
    """The row of a template that is nearest in a part, the first of equals."""
    return nearest_of(distance, rows[t], rows[t + 1])[0]


@register_jitable
def aim_at(rival, rows):
    """Make rows (E, P) the rival."""
    for e in range(len(rival)):
        copy(rival[e], rows[e])


@register_jitable
def aim_at_nearest(task, work, own):
    """Make the nearest templates of the nearest other class the rival."""
    refresh(task, work)
    c = best_rival(work.total, task.classes, task.offset, own)[0]
    for e in range(len(work.rival)):
        t = nearest_of(work.total, task.classes[e, c], task.classes[e, c + 1])[0]
        for p in range(len(work.distance)):
            work.rival[e, p] = nearest_row(work.distance[p], task.rows, t)


@unless("template", nothing)
def reassemble(task, work, stale):
    """Where another row of the rival's template has become the nearest in a part, take that."""
    for e in range(len(work.rival)):
        t = task.template[work.rival[e, 0]]
        for p in range(len(work.distance)):
            row = nearest_row(work.distance[p], task.rows, t)
            if work.distance[p, row] < work.distance[p, work.rival[e, p]]:
                work.rival[e, p] = row
                stale[p] = True
