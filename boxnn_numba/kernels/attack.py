"""Greedy attack: the kernel, for one input after another."""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.attack_moves import best_group, look, prepare, view_nearest
from boxnn_numba.kernels.attack_state import (
    aim_at,
    aim_at_nearest,
    begin,
    copy,
    flipped,
    reassemble,
    refresh,
    restore,
    restore_all,
    rival_gap,
)
from boxnn_numba.kernels.compile import fill, kernel, register_jitable
from boxnn_numba.kernels.held import hold


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
def _advance(task, work, view, own, size, best):
    """Change groups towards the rival until the prediction flips.

    Returns how many groups are changed then, or -1 where that cannot be less than `best`.
    """
    unit = 2 * task.cap * len(work.rival)
    view_nearest(task, work, view, own)
    prepare(task, work, view)
    while not flipped(task, work, own):
        reassemble(task, work, view.stale)
        gap = rival_gap(task, work, own)
        if size + max(1, -(-gap // unit)) >= best:
            return -1
        look(task, work, view, own)
        prepare(task, work, view)
        group = best_group(task, work, view)
        if group < 0:
            return -1
        restore(task, work, group, work.chosen)
        work.changed[group] = True
        size += 1
    return size


@register_jitable
def prune(task, work, own):
    """Take back every change that the flip does not need; return how many remain."""
    size = 0
    copy(work.pick, work.code)
    for group in range(len(work.changed)):
        if not work.changed[group]:
            continue
        restore(task, work, group, work.start)
        if not flipped(task, work, own) and restore(task, work, group, work.pick):
            size += 1
    return size


@register_jitable
def _improve(task, work, view, own, best, floor):
    """Take a few changes back at random and put fewer in their place; return the new size."""
    for _ in range(task.tries):
        if best <= floor:
            break
        restore_all(task, work, work.best)
        size = best
        fill(work.banned, False)
        for _ in range(1 + _draw(work, min(4, best))):
            skip = _draw(work, size)
            for group in range(len(work.changed)):
                if work.changed[group]:
                    if skip == 0:
                        work.banned[group] = _draw(work, 2) == 0
                        restore(task, work, group, work.start)
                        size -= 1
                        break
                    skip -= 1
        aim_at_nearest(task, work, own)
        # An attack of the same size is taken too, so that the next round starts elsewhere.
        if _advance(task, work, view, own, size, best + 1) >= 0:
            best = prune(task, work, own)
            copy(work.best, work.code)
    return best


@register_jitable
def _attack(task, work, view, distance, own, rivals):
    """Attack the input at ``work.start``; return how many groups the best attack changes, or -1.

    distance (P, M) are the input's, rivals (R, E, P) rows of other classes in order of margin. The
    attack is left in ``work.best``.
    """
    unit = 2 * task.cap * rivals.shape[1]
    best, floor = task.limit + 1, 1
    for place in range(len(rivals)):
        begin(task, work, distance)
        refresh(task, work)
        aim_at(work.rival, rivals[place])
        bound = max(1, -(-rival_gap(task, work, own) // unit))
        floor = bound if place == 0 else floor
        if bound >= best:
            break
        if _advance(task, work, view, own, 0, best) >= 0:
            best = prune(task, work, own)
            copy(work.best, work.code)
    if best > task.limit:
        return -1
    return _improve(task, work, view, own, best, floor)


@kernel
def greedy_attacks(task, work, view, x, distance, own, rivals, seeds, out, changed):
    """Write the best attack on each row of x to `out`, and how many groups it changes, or -1.

    x and out are (N, n) uint8, distance (N, P, M) int32 to the rows of all sets in each part, own
    (N,) class indices, rivals (N, R, E, P) rows, seeds (N,) uint64, changed (N,) int32.
    """
    task, work, view = hold(task), hold(work), hold(view)
    for i in range(len(x)):
        work.random[0] = seeds[i]
        copy(work.start, x[i])
        copy(work.best, x[i])
        changed[i] = _attack(task, work, view, distance[i], own[i], rivals[i])
        for k in range(x.shape[1]):
            out[i, k] = work.best[k] if changed[i] >= 0 else x[i, k]
