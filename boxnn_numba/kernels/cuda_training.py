"""A training step on a GPU: soft-min and coefficients of samples, gradient and update of boxes.

The integers of `boxnn_numba.kernels.training`: weights from a table and coefficients
in fixed point. Their sums do not depend on the order in which threads add them, and
floating point is that of the shared formulas, so boxes come out the same to the last bit.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda

from boxnn_numba.kernels.cuda_device import FORMULAS, byte_of, device, kernel, product, sad
from boxnn_numba.kernels.cuda_distances import FARTHEST, GROUP, LINE, SINGLES
from boxnn_numba.kernels.formulas import PAPER, TARGET

_weight, _softmin_value = FORMULAS["weight"], FORMULAS["softmin_value"]
_softmin_coefficient = FORMULAS["softmin_coefficient"]
_clip_objective, _target_objective = FORMULAS["clip_objective"], FORMULAS["target_objective"]
_settled, _rounded = FORMULAS["settled"], FORMULAS["rounded"]
_sgd_update, _adam_update = FORMULAS["sgd_update"], FORMULAS["adam_update"]
_crowd_share = FORMULAS["crowd_share"]

_LAST_KEY = np.int64(2**63 - 1)

#: Places of the real parameters of `judge` in their array; those of rows are the first four.
TAU_PER_UNIT, UNIT, ONE, LOG_SCALE, BOUND, SHARPNESS, KEEP, FIXED_POINT = range(8)


@device
def _choose_side(kind, label, key, offsets, side):
    """Write the boxes side[0]:side[1] of a sample's own side, and whether it is its label's."""
    own = label
    if kind == PAPER:  # the predicted class: of the first box among the nearest
        box = key & 0x7FFFFFFF
        own = np.int32(0)
        while offsets[own + 1] <= box:
            own += np.int32(1)
    side[0], side[1] = offsets[own], offsets[own + 1]
    side[2] = 1 if own == label else -1


@device
def _sum_sides(row, side, near, table, cutoff, sums):
    """Add to sums (4): mass and moment of the own side, then of the rivals."""
    mass0, moment0, mass1, moment1 = 0, 0, 0, 0
    for m in range(cuda.threadIdx.x, row.shape[0], LINE):
        if side[0] <= m < side[1]:
            k = row[m] - near[0]
            w = _weight(k, table, cutoff)
            mass0 += w
            moment0 += w * k
        else:
            k = row[m] - near[1]
            w = _weight(k, table, cutoff)
            mass1 += w
            moment1 += w * k
    cuda.atomic.add(sums, 0, mass0)
    cuda.atomic.add(sums, 1, moment0)
    cuda.atomic.add(sums, 2, mass1)
    cuda.atomic.add(sums, 3, moment1)


@device
def _find_nearest(row, side, near):
    """Lower near (2) to the distances to the nearest box of the own side and of the rivals."""
    own, rival = FARTHEST, FARTHEST
    for m in range(cuda.threadIdx.x, row.shape[0], LINE):
        if side[0] <= m < side[1]:
            own = min(own, row[m])
        else:
            rival = min(rival, row[m])
    cuda.atomic.min(near, 0, own)
    cuda.atomic.min(near, 1, rival)


@device
def _worth(kind, near, sums, real, sign, judged):
    """Write objective, soft margin and d objective / d margin of a sample to judged (3)."""
    unit, one, log_scale = real[UNIT], real[ONE], real[LOG_SCALE]
    own = _softmin_value(near[0], sums[0], sums[1], unit, one, log_scale)
    rival = _softmin_value(near[1], sums[2], sums[3], unit, one, log_scale)
    if kind == TARGET:
        worth, rise = _target_objective(rival - own, real[BOUND], real[SHARPNESS], real[KEEP])
    else:
        worth, rise = _clip_objective(rival - own, real[BOUND], real[SHARPNESS])
    judged[0], judged[1], judged[2] = sign * worth, rival - own, sign * rise


@kernel(LINE)
def judge(
    distance, rows, first, labels, offsets, table, cutoff, real, kind, values, margins, place,
    counts, entry_rows, coefficients,
):  # fmt: skip
    """Judge a sample, one block each, and append its entries to those of the boxes.

    distance is (batch, M) int32. Sample i is row ``rows[first + i]`` of the window, of class
    ``labels[row]``. offsets, table, cutoff, real and kind are the classes of the boxes, the
    soft-min's weights, the parameters, and the kind of objective. values and margins, float64, are
    written from `place` on. counts (M,) int32 are the entries of each box so far; entry_rows and
    coefficients (M, room) int32 are samples of the batch and d objective / d distance in fixed
    point, with room for no sample (0) if only values and margins are asked for. For boxes read
    templates where these are assembled.
    """
    i, t = cuda.blockIdx.x, cuda.threadIdx.x
    line = distance[i]
    key = cuda.shared.array(1, np.int64)
    side = cuda.shared.array(3, np.int64)
    near = cuda.shared.array(2, np.int32)
    sums = cuda.shared.array(4, np.int64)
    judged = cuda.shared.array(3, np.float64)
    if t == 0:
        key[0] = _LAST_KEY
        near[0], near[1] = FARTHEST, FARTHEST
        sums[0], sums[1], sums[2], sums[3] = 0, 0, 0, 0
    cuda.syncthreads()
    if kind == PAPER:
        least = _LAST_KEY
        for m in range(t, line.shape[0], LINE):
            least = min(least, (np.int64(line[m]) << 31) | np.int64(m))
        cuda.atomic.min(key, 0, least)
        cuda.syncthreads()
    if t == 0:
        _choose_side(kind, labels[rows[first + i]], key[0], offsets, side)
    cuda.syncthreads()
    _find_nearest(line, side, near)
    cuda.syncthreads()
    _sum_sides(line, side, near, table, cutoff, sums)
    cuda.syncthreads()
    if t == 0:
        _worth(kind, near, sums, real, np.float64(side[2]), judged)
        values[place + i], margins[place + i] = judged[0], judged[1]
    cuda.syncthreads()
    if judged[2] == 0.0 or entry_rows.shape[1] == 0:
        return
    factor = judged[2] * real[FIXED_POINT]
    for m in range(t, line.shape[0], LINE):
        own = side[0] <= m < side[1]
        k = line[m] - (near[0] if own else near[1])
        if k <= cutoff:
            mass, moment = (sums[0], sums[1]) if own else (sums[2], sums[3])
            w = _weight(k, table, cutoff)
            c = _softmin_coefficient(k, w, mass, moment / mass, real[TAU_PER_UNIT])
            q = round((-factor if own else factor) * c)
            if q != 0:
                e = cuda.atomic.add(counts, m, 1)
                entry_rows[m, e], coefficients[m, e] = i, q


# --- templates ------------------------------------------------------------------------------


@device
def _row_masses(line, first, last, table, cutoff):
    """Return the nearest of rows first..last in one part, and their sums of weight and moment."""
    least = line[first]
    for m in range(first + 1, last):
        least = min(least, line[m])
    mass, moment = 0, 0
    for m in range(first, last):
        k = line[m] - least
        if k <= cutoff:
            w = _weight(k, table, cutoff)
            mass += w
            moment += w * k
    return least, mass, moment


@kernel(LINE)
def assemble(parts, starts, table, cutoff, real, shift, out):
    """Write the distances to templates, in units of 2 ** -shift, to `out` (batch, T) int32.

    That is the sum over the parts of the soft-min over the template's rows,
    ``starts[t]:starts[t + 1]``; parts is (batch, P, M) int32. One thread for each sample and
    template.
    """
    i, t = cuda.grid(1) // out.shape[1], cuda.grid(1) % out.shape[1]
    if i < out.shape[0]:
        unit, scale, total = real[UNIT], np.int64(1) << np.int64(shift), np.int64(0)
        for p in range(parts.shape[1]):
            least, mass, moment = _row_masses(
                parts[i, p], starts[t], starts[t + 1], table, cutoff
            )  # fmt: skip
            value = _softmin_value(0, mass, moment, unit, real[ONE], real[LOG_SCALE])
            total += scale * least + round(value / unit * scale)
        out[i, t] = total


@kernel(LINE)
def spread(
    parts, starts, table, cutoff, real, least, found, found_rows, found_coefficients, counts,
    entry_rows, coefficients,
):  # fmt: skip
    """Append the entries of templates to those of their rows, part by part.

    found (T,), found_rows and found_coefficients (T, room) are what `judge` has left of templates;
    counts (M * P,), entry_rows and coefficients are those of cells, ``row * P + part``. What is
    below `least` is left out. One thread for each template, part, and entry that there may be: the
    grid is (T * P, lines of the batch).
    """
    t, p = cuda.blockIdx.x // parts.shape[1], cuda.blockIdx.x % parts.shape[1]
    e = cuda.blockIdx.y * LINE + cuda.threadIdx.x
    if e < found[t]:
        i, coefficient, line = (
            found_rows[t, e],
            found_coefficients[t, e],
            parts[found_rows[t, e], p],
        )
        first, last = starts[t], starts[t + 1]
        nearest, mass, moment = _row_masses(line, first, last, table, cutoff)
        mean = moment / mass
        for m in range(first, last):
            k = line[m] - nearest
            if k <= cutoff:
                w = _weight(k, table, cutoff)
                share = _softmin_coefficient(k, w, mass, mean, real[TAU_PER_UNIT])
                q = round(coefficient * share)
                if abs(q) >= least:
                    cell = m * parts.shape[1] + p
                    place = cuda.atomic.add(counts, cell, 1)
                    entry_rows[cell, place], coefficients[cell, place] = i, q


# --- boxes ----------------------------------------------------------------------------------


@device
def _settle_word(masters, m, word, columns, width, planes):
    """Keep four masters of each side inside the codes, uncross them, and write their codes."""
    low_codes, high_codes = np.uint32(0), np.uint32(0)
    low_outer, high_outer = np.uint32(0), np.uint32(0)
    for j in range(4):
        k = columns[4 * word + j]
        if k >= 0:
            low, high = _settled(masters[0, m, k], masters[1, m, k])
            masters[0, m, k], masters[1, m, k] = low, high
            a, b, shift = np.int32(_rounded(low)), np.int32(_rounded(high)), np.uint32(8 * j)
            low_codes |= np.uint32(a) << shift
            high_codes |= np.uint32(b) << shift
            low_outer |= np.uint32(max(a - width, 0)) << shift
            high_outer |= np.uint32(min(b + width, 255)) << shift
    planes[0, m, word], planes[1, m, word] = low_codes, high_codes
    if planes.shape[0] == 4:
        planes[2, m, word], planes[3, m, word] = low_outer, high_outer


@kernel(LINE)
def settle(masters, columns, width, planes):
    """Settle all boxes, one block each: masters (2, M, n) float32 to planes (2 or 4, M, words).

    columns (4 words,) int32 are the features of the words, -1 for none.
    """
    for word in range(cuda.threadIdx.x, planes.shape[2], LINE):
        _settle_word(masters, cuda.blockIdx.x, word, columns, width, planes)


def _make_update(optimizer: str) -> Any:
    @device
    def sgd(masters, first, second, side, m, k, gradient, settings):
        value, _ = _sgd_update(masters[side, m, k], gradient, 0.0, settings[0], 0.0, settings[2])
        masters[side, m, k] = value

    @device
    def momentum(masters, first, second, side, m, k, gradient, settings):
        value, speed = _sgd_update(
            masters[side, m, k], gradient, first[side, m, k], settings[0], settings[1], settings[2]
        )
        masters[side, m, k], first[side, m, k] = value, speed

    @device
    def adam(masters, first, second, side, m, k, gradient, settings):
        value, mean, square = _adam_update(
            masters[side, m, k], gradient, first[side, m, k], second[side, m, k],
            settings[0], settings[1], settings[2], settings[3],
        )  # fmt: skip
        masters[side, m, k], first[side, m, k], second[side, m, k] = value, mean, square

    return {"sgd": sgd, "momentum": momentum, "adam": adam}[optimizer]


@device
def _group_excess(x, row, planes, m, word, kinds):
    """Return the excess of the whole group that a word is of."""
    first = word
    while first > 0 and kinds[first - 1] == GROUP:
        first -= 1
    twice, w, kind = np.int32(0), first, GROUP
    while kind == GROUP:
        code, low, high = x[row, w], planes[0, m, w], planes[1, m, w]
        twice = sad(code, low, sad(code, high, twice)) - sad(low, high, np.int32(0))
        kind = kinds[w]
        w += 1
    return twice >> 1


def _make_single_pull(relaxation: str) -> Any:
    slope = FORMULAS["graded_slope" if relaxation == "grouped" else f"{relaxation}_slope"]

    @device
    def pull_single(code, low, high, width, q, q_leak, sums):
        """Add a sample's pull at four features of a box to sums (8): lower sides, then upper."""
        for j in range(4):
            c = byte_of(code, j)
            sums[j] += slope(byte_of(low, j) - c, width, q, q_leak)
            sums[4 + j] -= slope(c - byte_of(high, j), width, q, q_leak)

    return pull_single


def _make_group_pull() -> Any:
    slope = FORMULAS["grouped_slope"]

    @device
    def pull_group(code, low, high, total, width, q, q_leak, sums):
        """Add a sample's pull at four features of a group, whose excess is `total`."""
        for j in range(4):
            c = byte_of(code, j)
            sums[j] += slope(byte_of(low, j) - c, total, width, q, q_leak)
            sums[4 + j] -= slope(c - byte_of(high, j), total, width, q, q_leak)

    return pull_group


def _make_pull(relaxation: str) -> Any:
    """Return a device function that adds up the pulls of some samples at a word of a box."""
    grouped = relaxation == "grouped"
    pull_single, pull_group = _make_single_pull(relaxation), _make_group_pull()

    @device
    def pull(x, planes, m, word, kinds, width, rows, pulls, size, sums):
        """Add the pulls of `size` samples to sums (8); pulls are their q and q_leak."""
        low, high = planes[0, m, word], planes[1, m, word]
        in_group = grouped and kinds[word] != SINGLES
        for e in range(size):
            code, q, q_leak = x[rows[e], word], pulls[0, e], pulls[1, e]
            if in_group:
                total = _group_excess(x, rows[e], planes, m, word, kinds)
                pull_group(code, low, high, total, width, q, q_leak, sums)
            else:
                pull_single(code, low, high, width, q, q_leak, sums)

    return pull


@functools.cache
def step(relaxation: str, optimizer: str) -> Any:
    """Return the kernel that moves boxes along their gradients.

    The relaxation is ``"graded"``, ``"grouped"`` (where features are capped together), ``"l1"`` or
    ``"l2"``, the optimizer ``"sgd"``, ``"momentum"`` or ``"adam"``.
    """
    grouped, limited = relaxation == "grouped", optimizer != "adam"
    pull, update = _make_pull(relaxation), _make_update(optimizer)

    @kernel(LINE, 3)
    def step_cells(
        x, rows, first_row, columns, starts, kinds, counts, entry_rows, coefficients, width, leak,
        scale, settings, dense, masters, first, second, planes, limit,
    ):  # fmt: skip
        """Move a cell, a box in one part, one block each; its entries are used up.

        x (window, words) uint32 are the samples, of which those of the batch are the rows
        ``rows[first_row:]``; columns, starts and kinds are those of a `WordOrder`. counts,
        entry_rows and coefficients are as `judge` or `spread` left them, and counts are zero
        afterwards. scale and settings (in four places) are as
        `boxnn_numba.training.optimizer.step_sizes` returns them. If `dense`, cells without entries
        move too. masters, first and second, moments where the optimiser has them, are (2, M, n)
        float32, planes (2 or 4, M, words) uint32 the deployed boxes. These are rounded to codes
        here unless features are grouped: a word's gradient depends on other words, so `settle` must
        follow. If the mass of a cell's entries (the sum of their absolute coefficients) is above
        `limit`, its step is scaled down; a limit of 0 is none. Adam has no limit.
        """
        held_rows = cuda.shared.array(LINE, np.int32)
        held = cuda.shared.array((2, LINE), np.int64)
        sums = cuda.local.array(8, np.int64)
        cell, t, parts = cuda.blockIdx.x, cuda.threadIdx.x, starts.shape[0] - 1
        m, first_word, last_word = cell // parts, starts[cell % parts], starts[cell % parts + 1]
        count = counts[cell]
        if count == 0 and not dense:
            return
        if limited and limit > 0.0:
            mass = np.int64(0)
            for e in range(count):
                mass += abs(np.int64(coefficients[cell, e]))
            scale = product(scale, _crowd_share(mass, limit))
        for start_word in range(first_word, last_word, LINE):
            word = start_word + t
            inside = word < last_word
            for j in range(8):
                sums[j] = 0
            for start in range(0, count, LINE):
                cuda.syncthreads()
                if start + t < count:
                    q = coefficients[cell, start + t]
                    held_rows[t] = rows[first_row + entry_rows[cell, start + t]]
                    held[0, t], held[1, t] = q, round(product(np.float64(q), leak))
                cuda.syncthreads()
                if inside:
                    size = min(LINE, count - start)
                    pull(x, planes, m, word, kinds, width, held_rows, held, size, sums)
            if inside:
                for side in range(2):
                    for j in range(4):
                        k = columns[4 * word + j]
                        if k >= 0:
                            gradient = product(scale, np.float64(sums[4 * side + j]))
                            update(masters, first, second, side, m, k, gradient, settings)
                if not grouped:
                    _settle_word(masters, m, word, columns, width, planes)
        # All threads have read the count: each waited for the entries of this cell, if any.
        if t == 0 and count > 0:
            counts[cell] = 0

    return step_cells
