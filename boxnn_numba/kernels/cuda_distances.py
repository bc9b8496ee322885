"""Distances on a GPU: uint8 codes, four to a word, in tiles of samples and boxes.

All penalties are sums of absolute (or squared) differences of bytes, which a GPU adds
four at a time. With ``s(x, a) = |x - a|`` and bounds a <= b, the distance of x to [a, b] is

    excess(x; a, b) = (s(x, a) + s(x, b) - (b - a)) / 2,

and capping it is subtracting the distance to a wider interval:

    min(excess(x; a, b), W) = excess(x; a, b) - excess(x; max(a - W, 0), min(b + W, 255)).

So a graded box is four planes of codes: lower, upper, and both moved outwards by W; two
are enough for W = 255, where the wider interval holds every code. A group of features that is
capped as a whole has words of its own: the excess of all of its codes comes from the two planes
of its bounds, and a minimum caps the sum.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda

from boxnn_numba.kernels.cuda_device import FORM, FORMULAS, SIMULATED, device, kernel, sad, squares

# A block of COLUMNS x ROWS threads; each has SAMPLES x BOXES pairs, in registers (fewer where
# their sums take many instructions, which would not be unrolled).
COLUMNS, ROWS = (2, 2) if SIMULATED else (16, 16)
SAMPLES, BOXES = (2, 2) if SIMULATED else (4, 2) if FORM == "plain" else (8, 4)
#: Words of a row that are in shared memory at a time.
WORDS = 2 if SIMULATED else 16
THREADS = COLUMNS * ROWS
TILE_SAMPLES, TILE_BOXES = ROWS * SAMPLES, COLUMNS * BOXES
#: Threads of kernels that need no tile.
LINE = 4 if SIMULATED else 256
#: What a word holds: features that are capped one by one, or a group, capped after its last word.
SINGLES, GROUP, LAST_OF_GROUP = 0, 1, 2
#: Larger than any distance; that to a class without a box.
FARTHEST = np.int32(2**31 - 1)
# Lengths of arrays must be constants; a row more than the tile keeps threads off each other's bank.
_PAIRS = SAMPLES * BOXES
_TALL, _WIDE = TILE_SAMPLES + 4, TILE_BOXES + 4

_graded = FORMULAS["graded"]


@device
def _given_row(rows, i):
    return i


@device
def _listed_row(rows, i):
    return rows[i]


@device
def _add_singles(xs, k, near, sums):
    """Add twice the capped excess of four features, sides of the box not yet taken off."""
    for s in range(SAMPLES):
        code = xs[k, s * ROWS + cuda.threadIdx.y]
        for b in range(BOXES):
            outer = sad(
                code, near[2 * BOXES + b], sad(code, near[3 * BOXES + b], np.int32(0))
            )  # fmt: skip
            a = s * BOXES + b
            sums[a] = sad(code, near[b], sad(code, near[BOXES + b], sums[a])) - outer


@device
def _add_group(xs, k, near, last, cap, sums, group):
    """Add twice the excess of a word to `group`, and after the last word the capped group to sums.

    The third plane is the word's side.
    """
    for s in range(SAMPLES):
        code = xs[k, s * ROWS + cuda.threadIdx.y]
        for b in range(BOXES):
            a = s * BOXES + b
            total = group[a] - np.int32(near[2 * BOXES + b])
            group[a] = sad(code, near[b], sad(code, near[BOXES + b], total))
            if last:
                sums[a] += min(group[a], cap)
                group[a] = 0


@device
def _halve(sums, outer, sides):
    """Take what is outside the width and the boxes' sides off twice the distances, and halve."""
    for b in range(BOXES):
        side = sides[b * COLUMNS + cuda.threadIdx.x]
        for s in range(SAMPLES):
            a = s * BOXES + b
            sums[a] = (sums[a] - outer[a] - side) >> 1


def _make_sample_loader(row: Any) -> Any:
    @device
    def load_samples(x, rows, first_row, last_row, start, last_word, xs):
        """Read words start.. of the tile's samples."""
        thread = cuda.threadIdx.y * COLUMNS + cuda.threadIdx.x
        for j in range(thread, TILE_SAMPLES * WORDS, THREADS):
            i, k = j // WORDS, j % WORDS
            value = np.uint32(0)
            if first_row + i < last_row and start + k < last_word:
                value = x[row(rows, first_row + i), start + k]
            xs[k, i] = value

    return load_samples


def _make_box_loader(grouped: bool, plain: bool, planes: int) -> Any:
    capped = planes == 4

    @device
    def load_boxes(boxes, first_box, start, last_word, kinds, bounds, sides):
        """Read words start.. of the tile's boxes to `bounds`, and add up their sides."""
        for j in range(cuda.threadIdx.y * COLUMNS + cuda.threadIdx.x, TILE_BOXES * WORDS, THREADS):
            m, k = j // WORDS, j % WORDS
            for p in range(planes):
                value = np.uint32(0)
                if first_box + m < boxes.shape[1] and start + k < last_word:
                    value = boxes[p, first_box + m, start + k]
                bounds[p, k, m] = value
            if not plain:
                side = sad(bounds[0, k, m], bounds[1, k, m], np.int32(0))
                if grouped and start + k < last_word and kinds[start + k] != SINGLES:
                    bounds[2, k, m] = np.uint32(side)
                    side = np.int32(0)
                elif capped:
                    side -= sad(bounds[2, k, m], bounds[3, k, m], np.int32(0))
                cuda.atomic.add(sides, m, side)

    return load_boxes


def _make_tile(penalty: str, row: Any) -> Any:
    """Return a device function that fills a thread's sums of a tile."""
    grouped, plain = penalty == "grouped", penalty in ("l1", "l2")
    capped = grouped or penalty == "capped"
    planes = 4 if capped else 2
    add = squares if penalty == "l2" else sad
    held = planes * BOXES
    load_samples, load_boxes = _make_sample_loader(row), _make_box_loader(grouped, plain, planes)

    @device
    def tile(
        x, rows, first_row, last_row, boxes, first_box, first_word, last_word, kinds, cap, sums
    ):  # fmt: skip
        """Write the distances of this thread's samples and boxes to `sums`, of a range of words.

        Samples first_row + s * ROWS + y and boxes first_box + b * COLUMNS + x of thread (x, y).
        kinds and cap, of every word and twice the width, are for groups.
        """
        xs = cuda.shared.array((WORDS, _TALL), np.uint32)
        bounds = cuda.shared.array((planes, WORDS, _WIDE), np.uint32)
        sides = cuda.shared.array(TILE_BOXES, np.int32)
        near = cuda.local.array(held, np.uint32)
        outer = cuda.local.array(_PAIRS, np.int32)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        for a in range(_PAIRS):
            sums[a] = 0
            outer[a] = 0
        for j in range(ty * COLUMNS + tx, TILE_BOXES, THREADS):
            sides[j] = 0
        for start in range(first_word, last_word, WORDS):
            load_samples(x, rows, first_row, last_row, start, last_word, xs)
            cuda.syncthreads()
            load_boxes(boxes, first_box, start, last_word, kinds, bounds, sides)
            cuda.syncthreads()
            for k in range(min(WORDS, last_word - start)):
                for p in range(planes):
                    for b in range(BOXES):
                        near[p * BOXES + b] = bounds[p, k, b * COLUMNS + tx]
                if grouped:
                    kind = kinds[start + k]
                    if kind == SINGLES:
                        _add_singles(xs, k, near, sums)
                    else:
                        _add_group(xs, k, near, kind == LAST_OF_GROUP, cap, sums, outer)
                    continue
                for s in range(SAMPLES):
                    code = xs[k, s * ROWS + ty]
                    for b in range(BOXES):
                        a = s * BOXES + b
                        sums[a] = add(code, near[b], add(code, near[BOXES + b], sums[a]))
                        if capped:
                            outer[a] = sad(
                                code, near[2 * BOXES + b],
                                sad(code, near[3 * BOXES + b], outer[a]),
                            )  # fmt: skip
            cuda.syncthreads()
        if not plain:
            _halve(sums, outer, sides)

    return tile


@functools.cache
def pairwise(penalty: str, listed: bool = False) -> Any:
    """Return the kernel for the distances of samples to all boxes, part by part.

    The penalty is ``"capped"`` or ``"uncapped"`` (graded boxes), ``"grouped"`` (where some of the
    features are capped together), ``"l1"`` or ``"l2"``. If `listed`, samples are the rows of x in a
    list, else consecutive rows.
    """
    tile = _make_tile(penalty, _listed_row if listed else _given_row)

    @kernel(THREADS, 2)
    def distances(x, rows, first, last, boxes, starts, kinds, cap, out):
        """Write D of samples ``first..last`` to all boxes to `out` (last - first, P, M) int32.

        x is (N, words) uint32, boxes (2 or 4, M, words) uint32; words ``starts[p]:starts[p + 1]``
        are of part p. One block per tile and part, those of a tile of samples together.
        """
        sums = cuda.local.array(_PAIRS, np.int32)
        across = (boxes.shape[1] + TILE_BOXES - 1) // TILE_BOXES
        column = cuda.blockIdx.x % (across * out.shape[1])
        first_row = first + cuda.blockIdx.x // (across * out.shape[1]) * TILE_SAMPLES
        first_box, p = column % across * TILE_BOXES, column // across
        tile(
            x, rows, first_row, last, boxes, first_box, starts[p], starts[p + 1], kinds, cap, sums
        )  # fmt: skip
        for s in range(SAMPLES):
            i = first_row + s * ROWS + cuda.threadIdx.y
            for b in range(BOXES):
                m = first_box + b * COLUMNS + cuda.threadIdx.x
                if i < last and m < out.shape[2]:
                    out[i - first, p, m] = sums[s * BOXES + b]

    return distances


@functools.cache
def nearest(penalty: str) -> Any:
    """Return the kernel for class distances of plain boxes; `penalty` as for `pairwise`."""
    tile = _make_tile(penalty, _given_row)

    @kernel(THREADS, 2)
    def class_distances(x, boxes, labels, kinds, cap, out):
        """Lower ``out[i, c]`` to the distance of sample i to the nearest box of class c.

        Each thread's boxes of a tile are of one class, ``labels[tile * COLUMNS + threadIdx.x]``,
        or -1 for none.
        """
        sums = cuda.local.array(_PAIRS, np.int32)
        across = boxes.shape[1] // TILE_BOXES
        first_row = cuda.blockIdx.x // across * TILE_SAMPLES
        column = cuda.blockIdx.x % across
        tile(
            x, labels, first_row, out.shape[0], boxes, column * TILE_BOXES, 0, boxes.shape[2],
            kinds, cap, sums,
        )  # fmt: skip
        label = labels[column * COLUMNS + cuda.threadIdx.x]
        if label < 0:
            return
        for s in range(SAMPLES):
            i = first_row + s * ROWS + cuda.threadIdx.y
            best = sums[s * BOXES]
            for b in range(1, BOXES):
                best = min(best, sums[s * BOXES + b])
            # Most tiles are not the nearest: a look is cheaper than an atomic minimum.
            if i < out.shape[0] and best < out[i, label]:
                cuda.atomic.min(out, (i, label), best)

    return class_distances


@device
def template_distance(parts, first, last):
    """Return D of a template: rows ``first..last`` of part distances (P, M), the least of each."""
    total = np.int32(0)
    for p in range(parts.shape[0]):
        least = parts[p, first]
        for m in range(first + 1, last):
            least = min(least, parts[p, m])
        total += least
    return total


@kernel(LINE)
def combine(parts, rows, owner, out):
    """Lower ``out[i, c]`` to the distance of sample i to the nearest template of class c.

    parts is (N, P, M) int32; template t has rows ``rows[t]:rows[t + 1]`` and is of class
    ``owner[t]``. One thread for each sample and template.
    """
    i, t = cuda.grid(1) // owner.shape[0], cuda.grid(1) % owner.shape[0]
    if i < parts.shape[0]:
        distance = template_distance(parts[i], rows[t], rows[t + 1])
        if distance < out[i, owner[t]]:
            cuda.atomic.min(out, (i, owner[t]), distance)


@kernel(LINE)
def arrange(x, columns, out):
    """Write rows of codes x (N, n) uint8 to words `out` (N, words), as ``columns`` (4 words,) say.

    A byte of no feature, column -1, is 0.
    """
    i, word = cuda.grid(1) // out.shape[1], cuda.grid(1) % out.shape[1]
    if i < out.shape[0]:
        total = np.uint32(0)
        for j in range(4):
            k = columns[4 * word + j]
            if k >= 0:
                total |= np.uint32(x[i, k]) << np.uint32(8 * j)
        out[i, word] = total


@kernel(LINE)
def fill(out, value):
    """Set a flat array to a value."""
    i = cuda.grid(1)
    if i < out.shape[0]:
        out[i] = value


@kernel(LINE)
def add_up(total, more):
    """Add to class distances (N, K) others, (N, K) or (1, K), all int32; far away stays so."""
    i, c = cuda.grid(1) // total.shape[1], cuda.grid(1) % total.shape[1]
    if i < total.shape[0]:
        both = np.int64(total[i, c]) + more[i % more.shape[0], c]
        total[i, c] = np.int32(min(both, np.int64(FARTHEST)))


@kernel(LINE)
def box_distances(x, lower, upper, width, out):
    """Write the graded distances of samples (N, n) to boxes (M, n) to `out` (N, M).

    Of any type of number, one pair a thread. The width has the type of `out`, in which bytes
    (whose differences would wrap around) are added too.
    """
    i, m = cuda.blockIdx.x, cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if m < out.shape[1]:
        zero = width - width
        total = zero
        for k in range(x.shape[1]):
            total += _graded(x[i, k] + zero, lower[m, k] + zero, upper[m, k] + zero, width)
        out[i, m] = total


# --- certificates -------------------------------------------------------------------------


@kernel(LINE)
def certify(distance, units, ties, most, prediction, radius):
    """Write the nearest class and the certified radius of each sample.

    distance is (N, K) int32 and K >= 2; units are 2 W g; ties is 1 if they go to the adversary
    (sound), 0 if they are ignored; no radius is above `most`.
    """
    i = cuda.grid(1)
    if i < distance.shape[0]:
        p = np.int32(0)
        for c in range(1, distance.shape[1]):
            if distance[i, c] < distance[i, p]:
                p = np.int32(c)
        least = FARTHEST
        for c in range(distance.shape[1]):
            if c != p:
                ahead = ties if c < p else np.int32(0)
                least = min(least, (distance[i, c] - distance[i, p] - ahead) // units)
        prediction[i] = p
        radius[i] = min(least, most)


@kernel(LINE)
def count_radii(prediction, radius, y, counts):
    """Count the samples that are right by their radius; the last place takes all larger ones."""
    i = cuda.grid(1)
    if i < radius.shape[0] and prediction[i] == y[i]:
        cuda.atomic.add(counts, min(radius[i], counts.shape[0] - 1), 1)
