"""Patch attack: the block of pixels that helps a rival most, and the codes to write there.

How much a group gains for a rival against the nearest own combination is added up over every block;
the blocks with the largest sums are filled step by step, as in the greedy attack.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels.attack import prune
from boxnn_numba.kernels.attack_moves import best_group, look, measure_all, prepare, view_nearest
from boxnn_numba.kernels.attack_state import (
    aim_at,
    begin,
    capped,
    copy,
    flipped,
    reassemble,
    refresh,
    restore,
    rival_gap,
)
from boxnn_numba.kernels.compile import fill, kernel, register_jitable
from boxnn_numba.kernels.held import hold


@register_jitable
def _gain(task, work, view, group):
    """The most that a group may gain for the rival against the nearest own combination, about."""
    total, cap, whole = np.int64(0), np.int64(task.cap), capped(task, group)
    for e in range(len(view.here)):
        own, rival, more, less = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        for place in range(task.starts[group], task.starts[group + 1]):
            k = task.members[place]
            best, pick = np.int64(0), -1
            for v in range(view.counts[k]):
                found = np.int64(view.gains[k, v, e, 0, 0]) - view.costs[k, v, e]
                if found > best:
                    best, pick = found, v
            if pick >= 0:
                more += view.gains[k, pick, e, 0, 0]
                less += view.costs[k, pick, e]
            if whole:
                own += view.before[k, e, 0]
                rival += view.before[k, e, view.before.shape[2] - 1]
        total += min(own + more, cap) - min(own, cap) + min(rival, cap) - min(rival + less, cap)
    return total


@register_jitable
def _sums(task, work, view, pixel, area, shape, sums):
    """Write for each block, by its first pixel, what its groups may gain together."""
    rows, columns = shape
    for y in range(len(area)):
        fill(area[y], 0)
    for group in range(len(pixel)):
        area[pixel[group, 0] + 1, pixel[group, 1] + 1] += _gain(task, work, view, group)
    for y in range(1, area.shape[0]):
        for x in range(1, area.shape[1]):
            area[y, x] += area[y - 1, x] + area[y, x - 1] - area[y - 1, x - 1]
    for y in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            last = area[y + rows, x + columns] - area[y, x + columns]
            sums[y, x] = last - area[y + rows, x] + area[y, x]


@register_jitable
def _fill(task, work, view, own):
    """Change groups that are not banned towards the rival; say whether the prediction flips."""
    view_nearest(task, work, view, own)
    prepare(task, work, view)
    while not flipped(task, work, own):
        reassemble(task, work, view.stale)
        look(task, work, view, own)
        prepare(task, work, view)
        group = best_group(task, work, view)
        if group < 0:
            return False
        restore(task, work, group, work.chosen)
        work.changed[group] = True
    return True


@register_jitable
def _attack(task, work, view, distance, own, rivals, pixel, area, shape, sums):
    """Attack the input at ``work.start``; return how many groups the attack changes, or -1."""
    rows, columns = shape
    for place in range(len(rivals)):
        begin(task, work, distance)
        refresh(task, work)
        aim_at(work.rival, rivals[place])
        gap = rival_gap(task, work, own)
        view_nearest(task, work, view, own)
        prepare(task, work, view)
        measure_all(task, work, view)
        _sums(task, work, view, pixel, area, shape, sums)
        for _ in range(task.tries):
            y, x = divmod(sums.argmax(), sums.shape[1])
            if sums[y, x] < gap:
                break
            sums[y, x] = -1
            begin(task, work, distance)
            aim_at(work.rival, rivals[place])
            for group in range(len(pixel)):
                down, right = pixel[group, 0] - y, pixel[group, 1] - x
                work.banned[group] = not (0 <= down < rows and 0 <= right < columns)
            if _fill(task, work, view, own):
                return prune(task, work, own)
    return -1


@kernel(allocates=True)
def patch_attacks(task, work, view, x, distance, own, rivals, pixel, shape, out, changed):
    """Write an attack by one block on each row of x to `out`, and whether there is one.

    As `greedy_attacks`; pixel (G, 2) int64 is the row and column of each group, shape has the rows
    and columns of the block and of the image. changed (N,) int32 is how many groups the attack
    changes, -1 where none was found.
    """
    task, work, view = hold(task), hold(work), hold(view)
    rows, columns, height, width = shape
    area = np.zeros((height + 1, width + 1), np.int64)
    sums = np.zeros((height - rows + 1, width - columns + 1), np.int64)
    for i in range(len(x)):
        copy(work.start, x[i])
        changed[i] = _attack(
            task, work, view, distance[i], own[i], rivals[i], pixel, area, (rows, columns), sums
        )  # fmt: skip
        for k in range(x.shape[1]):
            out[i, k] = work.code[k] if changed[i] >= 0 else x[i, k]
