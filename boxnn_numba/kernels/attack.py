"""The greedy attack of one input after another."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from boxnn_numba.kernels.attack_moves import best_group, nearest_of, prepare, view_nearest
from boxnn_numba.kernels.compile import kernel
from boxnn_numba.kernels.formulas import graded


@register_jitable
def _draw(work, n):
    """A random number 0..n-1 (xorshift)."""
    state = work.random[0]
    state ^= state << np.uint64(13)
    state ^= state >> np.uint64(7)
    state ^= state << np.uint64(17)
    work.random[0] = state
    return int(state >> np.uint64(11)) % n


@register_jitable
def _rewrite(task, work, k, code):
    """Write a code into a feature and bring all distances up to date."""
    before, after, width = work.code[k], np.int32(code), np.int32(task.width)
    if before == after:
        return
    low, high, distance = task.lower_t[k], task.upper_t[k], work.distance
    for m in range(len(distance)):
        a, b = np.int32(low[m]), np.int32(high[m])
        distance[m] += np.int32(graded(after, a, b, width) - graded(before, a, b, width))
    work.code[k] = after


@register_jitable
def _class_distance(task, distance, c):
    """Sum over the sets of the distance to the nearest box of a class."""
    total = 0
    for e in range(len(task.offsets)):
        total += nearest_of(distance, task.offsets[e, c], task.offsets[e, c + 1])[1]
    return total


@register_jitable
def _best_rival(task, distance, own):
    """The nearest class but `own`, ties to the smaller, and its distance."""
    found, least = -1, 0
    for c in range(task.offsets.shape[1] - 1):
        d = _class_distance(task, distance, c)
        if c != own and (found < 0 or d < least):
            found, least = c, d
    return found, least


@register_jitable
def _flipped(task, work, own):
    """Whether another class than `own` is predicted, ties to the smaller class."""
    rival, least = _best_rival(task, work.distance, own)
    return least < _class_distance(task, work.distance, own) + (rival < own)


@register_jitable
def _gap(task, work, distance, own):
    """By how much the boxes of the rival must come nearer, against the nearest own ones."""
    gap = 1 if task.labels[work.rival[0]] > own else 0
    for box in work.rival:
        gap += distance[box]
    return gap - _class_distance(task, distance, own)


@register_jitable
def _in_view(task, work, own):
    """Set the aims; say whether the nearest own box of every set is in view."""
    viewed = True
    for e in range(len(work.near)):
        nearest, least = nearest_of(work.distance, task.offsets[e, own], task.offsets[e, own + 1])
        viewed &= (work.near[e] == nearest).any()
        aim = (work.distance[work.rival[e]] + least) // 2 + task.width * task.group
        work.aim[e] = np.int32(aim)
    return viewed


@register_jitable
def _advance(task, work, own, size, best):
    """Change groups towards the rival until the prediction flips.

    Returns how many groups are changed then, or -1 where that cannot be less than `best`.
    """
    unit = 2 * task.width * task.group * len(work.rival)
    view_nearest(task, work, own)
    prepare(task, work)
    while not _flipped(task, work, own):
        gap = _gap(task, work, work.distance, own)
        if size + max(1, -(-gap // unit)) >= best:
            return -1
        if not _in_view(task, work, own):
            view_nearest(task, work, own)
            prepare(task, work)
        group = best_group(task, work)
        if group < 0:
            return -1
        first = group * task.group
        for k in range(first, min(first + task.group, len(work.code))):
            _rewrite(task, work, k, work.pick[k])
        work.changed[group] = True
        size += 1
    return size


@register_jitable
def _restore(task, work, group, codes):
    """Write the codes of a group back; return whether that differs from the input."""
    first, differs = group * task.group, False
    for k in range(first, min(first + task.group, len(work.code))):
        _rewrite(task, work, k, codes[k])
        differs |= codes[k] != work.start[k]
    work.changed[group] = differs
    return differs


@register_jitable
def _prune(task, work, own):
    """Take back every change that the flip does not need; return how many remain."""
    size = 0
    for group in range(len(work.changed)):
        if not work.changed[group]:
            continue
        first = group * task.group
        for k in range(first, min(first + task.group, len(work.code))):
            work.pick[k] = work.code[k]
        _restore(task, work, group, work.start)
        if not _flipped(task, work, own) and _restore(task, work, group, work.pick):
            size += 1
    return size


@register_jitable
def _aim_at_nearest(task, work, own):
    """Make the nearest boxes of the nearest other class the rival."""
    c = _best_rival(task, work.distance, own)[0]
    for e in range(len(work.rival)):
        first, last = task.offsets[e, c], task.offsets[e, c + 1]
        work.rival[e] = nearest_of(work.distance, first, last)[0]


@register_jitable
def _improve(task, work, own, best, floor):
    """Take a few changes back at random and put fewer in their place; return the new size."""
    for _ in range(task.tries):
        if best <= floor:
            break
        for group in range(len(work.changed)):
            _restore(task, work, group, work.best)
        size = best
        work.banned[:] = False
        for _ in range(1 + _draw(work, min(4, best))):
            skip = _draw(work, size)
            for group in range(len(work.changed)):
                if work.changed[group]:
                    if skip == 0:
                        work.banned[group] = _draw(work, 2) == 0
                        _restore(task, work, group, work.start)
                        size -= 1
                        break
                    skip -= 1
        _aim_at_nearest(task, work, own)
        # As many as before will do too: from there the next round starts elsewhere.
        if _advance(task, work, own, size, best + 1) >= 0:
            best = _prune(task, work, own)
            work.best[:] = work.code
    return best


@register_jitable
def _attack(task, work, distance, own, rivals):
    """Attack the input at ``work.start``; return how many groups the best attack changes, or -1.

    distance (M,) are the input's, `rivals` (R, E) boxes of other classes in order of margin. The
    attack is left in ``work.best``.
    """
    unit = 2 * task.width * task.group * rivals.shape[1]
    best, floor = task.limit + 1, 1
    for place in range(len(rivals)):
        work.rival[:] = rivals[place]
        bound = max(1, -(-_gap(task, work, distance, own) // unit))
        floor = bound if place == 0 else floor
        if bound >= best:
            break
        work.distance[:] = distance
        work.code[:] = work.start
        work.changed[:] = False
        work.banned[:] = False
        if _advance(task, work, own, 0, best) >= 0:
            best = _prune(task, work, own)
            work.best[:] = work.code
    if best > task.limit:
        return -1
    return _improve(task, work, own, best, floor)


@kernel
def greedy_attacks(task, work, x, distance, own, rivals, seeds, out, changed):
    """Write the best attack on each row of x to `out`, and how many groups it changes, or -1.

    x and out are (N, n) uint8, distance (N, M) int32, own (N,) class indices, rivals (N, R, E)
    boxes, seeds (N,) uint64, changed (N,) int32.
    """
    for i in range(len(x)):
        work.random[0] = seeds[i]
        work.start[:] = x[i]
        work.best[:] = x[i]
        changed[i] = _attack(task, work, distance[i], own[i], rivals[i])
        for k in range(x.shape[1]):
            out[i, k] = work.best[k] if changed[i] >= 0 else x[i, k]
