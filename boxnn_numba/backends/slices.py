"""Slices of boxes and samples, for class distances of width 1: laid out, and computed.

Slices are of ranks: the place of each code among the codes that occur. So black and white images
need one bit a feature. Boxes are sliced for each set of codes when the first rows with it come.
"""

from __future__ import annotations

import itertools
import threading
from typing import NamedTuple

import numpy as np

from boxnn_numba.backends.box_layout import UNREACHABLE, ClassLayout, aligned, round_up
from boxnn_numba.kernels import distances, sample_lanes, simd_words, slices

#: Costs of a row in picoseconds, measured with AVX-512 and 2,500 boxes. Where bits are sliced, of a
#: feature of the row and of a slice of a box; where samples are in the lanes, of a feature of a
#: box.
_PER_FEATURE, _PER_SLICE, _PER_CODE = 800, 47, 9.7
#: Codes that a set may have; where more occur, all of them may.
_MOST_CODES = 128
#: Sets for which a layout is sliced, each with the codes of those before; the last has all codes.
_MOST_SETS = 3
#: Rows that show whether many codes occur.
_FIRST_ROWS = 16


class PartWords(NamedTuple):
    """Words of features, the heaviest of a part first; parts share words for what is left.

    Attributes
    ----------
    place
        (n,) int64, the column of each feature.
    parts
        (P, 3) int64: first and last of the words that a part has for itself, and the shared word
        that it has bits of, -1 if none. Shared words come last.
    masks
        (P, 1) uint64, those bits.
    shared
        Number of shared words.
    """

    place: np.ndarray
    parts: np.ndarray
    masks: np.ndarray
    shared: int

    @property
    def columns(self) -> int:
        """Number of columns."""
        return (int(self.parts[-1, 1]) + self.shared) * slices.WORD


class SlicedBoxes(NamedTuple):
    """Boxes sliced for a set of codes.

    Attributes
    ----------
    codes
        (256,) bool, the codes that may occur.
    ranks
        (256,) uint8, their ranks.
    bits
        Bits of the largest rank.
    floor, ceiling
        (1, columns) uint8, the largest lower and the smallest upper rank of each column.
    starts
        (K + 1,) int64, boxes of each class: whole tiles, the last is repeated.
    boxes
        (M', words * bits * 2) uint64.
    words
        Where the features of each part are.
    rows, blocks
        (T, 2) int64, the boxes of each template; and (B, 3) int64, class, first and last template
        of those whose boxes stay in the cache while samples pass.
    """

    codes: np.ndarray
    ranks: np.ndarray
    bits: int
    floor: np.ndarray
    ceiling: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    words: PartWords
    rows: np.ndarray
    blocks: np.ndarray


def _bits(codes: np.ndarray) -> int:
    return max(1, (int(codes.sum()) - 1).bit_length())


def _worth_it(layout: ClassLayout, bits: int) -> bool:
    """Whether slices of so many bits are faster than samples in the lanes."""
    n, rows = len(layout.weight), int(layout.structure.offsets[-1])
    sizes = np.bincount(layout.structure.part)
    # Besides its bits a word costs as much as two bits, and so does a part if there are several.
    steps = -(-n // slices.WORD) * (bits + 2) + (2 * len(sizes) if len(sizes) > 1 else 0)
    cost = _PER_FEATURE * n + _PER_SLICE * rows * steps
    in_lanes = _PER_CODE * rows * round_up(sizes, sample_lanes.GROUP).sum()
    fits = len(sizes) == 1 or sizes.max() < simd_words.TOO_MANY
    return bool(fits and bits <= simd_words.MOST_BITS and cost < in_lanes)


def _part_words(part: np.ndarray, weight: np.ndarray) -> PartWords:
    """Give the features of parts, (n,) both, places in words."""
    size, counts = slices.WORD, np.bincount(part)
    whole, left = np.divmod(counts, size)
    word, bit = _shared_words(left)
    alone = (word >= 0) & (np.bincount(word + 1)[word + 1] == 1)
    whole[alone] += 1
    word[alone] = -1
    shared = np.unique(word[word >= 0])
    word[word >= 0] = np.searchsorted(shared, word[word >= 0])
    ends = np.cumsum(whole)
    order = np.lexsort((-weight, part))
    owner = part[order]
    rank = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts)
    behind = size * (ends[-1] + word - whole) + bit
    own = size * (ends - whole)
    place = np.empty(len(part), np.int64)
    place[order] = rank + np.where(rank < size * whole[owner], own[owner], behind[owner])
    masks = [((1 << count) - 1) << first for count, first in np.stack((left, bit), axis=1).tolist()]
    parts = np.stack((ends - whole, ends, word), axis=1)
    return PartWords(place, parts, np.array(masks, np.uint64)[:, None], len(shared))


def _shared_words(left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shared word and first bit for the rest of each part, (P,); -1 without a rest."""
    word, bit = np.full(len(left), -1), np.zeros_like(left)
    last = filled = 0
    for p in np.argsort(-left, kind="stable")[: np.count_nonzero(left)]:
        if filled + left[p] > slices.WORD:
            last, filled = last + 1, 0
        word[p], bit[p] = last, filled
        filled += left[p]
    return word, bit


def _sliced_boxes(layout: ClassLayout, codes: np.ndarray) -> SlicedBoxes:
    structure = layout.structure
    words, offsets = _part_words(structure.part, layout.weight), structure.offsets
    lower, upper = (aligned((len(layout.lower), words.columns), value) for value in (0, 255))
    lower[:, words.place], upper[:, words.place] = layout.lower, layout.upper
    below = np.concatenate(([0], np.cumsum(codes)))
    bits = _bits(codes)
    counts = np.diff(offsets)
    padded = round_up(counts, slices.TILE_BOXES)
    starts = np.concatenate(([0], np.cumsum(padded)))
    owner = np.repeat(np.arange(len(counts)), padded)
    rows = offsets[owner] + np.minimum(np.arange(len(owner)) - starts[owner], counts[owner] - 1)
    floor, ceiling = (aligned((1, lower.shape[1]), value) for value in (0, 255))
    boxes = np.empty((len(rows), lower.shape[1] // slices.WORD * bits * 2), np.uint64)
    slices.slice_boxes(lower, upper, below, bits, rows, floor, ceiling, boxes)
    ranks = below[:256].astype(np.uint8)
    templates = structure.templates
    shift = np.repeat(starts[:-1] - offsets[:-1], np.diff(templates))
    pairs = np.stack((structure.rows[:-1], structure.rows[1:]), axis=1) + shift[:, None]
    blocks = _blocks(pairs, templates)
    return SlicedBoxes(
        codes, ranks, bits, floor, ceiling, starts, boxes, words, pairs, blocks
    )  # fmt: skip


def _blocks(rows: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """Return blocks of templates of a class; if possible they are of whole tiles."""
    size, blocks = slices.BLOCK_BOXES, []
    for c, (t, end) in enumerate(itertools.pairwise(templates.tolist())):
        while t < end:
            begin = rows[t, 0] // slices.TILE_BOXES * slices.TILE_BOXES
            fit = np.arange(t, end)[rows[t:end, 1] - begin <= size]
            whole = fit[rows[fit, 1] % slices.TILE_BOXES == 0]
            stop = int((whole if len(whole) else fit).max(initial=t)) + 1
            blocks.append((c, t, stop))
            t = stop
    return np.array(blocks).reshape(-1, 3)


class Slices:
    """The boxes of a layout, sliced for the sets of codes that came so far."""

    def __init__(self) -> None:
        self._known: list[SlicedBoxes] = []
        self._lock = threading.Lock()

    def of(self, x: np.ndarray, layout: ClassLayout) -> SlicedBoxes | None:
        """Return boxes sliced for the codes of x (N, n), and maybe for more.

        None if slices of so many bits are slower than other kernels.
        """
        if not _worth_it(layout, 1):
            return None
        codes = np.zeros(256, np.bool_)
        codes[0] = True  # padding
        slices.find_codes(x[:_FIRST_ROWS], codes)
        if codes.sum() <= _MOST_CODES:
            slices.find_codes(x[_FIRST_ROWS:], codes)
        with self._lock:  # threads that begin together wait for one of them
            for known in self._known:
                if known.codes[codes].all():
                    return known
                codes |= known.codes
            if len(self._known) + 1 == _MOST_SETS or codes.sum() > _MOST_CODES:
                codes[:] = True
            if not _worth_it(layout, _bits(codes)):
                return None
            self._known.append(_sliced_boxes(layout, codes))
            return self._known[-1]


def sliced_rows(x: np.ndarray, layout: ClassLayout, boxes: SlicedBoxes, out: np.ndarray) -> None:
    """Write the distances of codes (N, n) to classes, at width 1, to `out` (N, K) int32."""
    columns, tile, bits = boxes.floor.shape[1], slices.TILE_SAMPLES, boxes.bits
    ranks = aligned((len(x), columns), 0)
    slices.spread_ranks(x, boxes.words.place, boxes.ranks, ranks)
    tiles = -(-len(x) // tile)
    nearest = np.full((out.shape[1], tiles * tile), UNREACHABLE, np.int64)
    nearest[:, len(x) :] = 0  # rows of padding must not keep a tile
    parts = boxes.words.parts.copy()
    for part in parts:
        first, last = (part[:2] * slices.WORD).tolist()
        used = distances.used_columns(ranks, boxes.floor, boxes.ceiling, 1, first, last)
        part[1] = -(-used // slices.WORD)
    words = int(parts[0, 1]) if len(parts) == 1 else columns // slices.WORD
    samples = np.zeros((tiles, words * bits * tile), np.uint64)
    slices.slice_samples(ranks, bits, words, samples)
    if len(parts) == 1:
        probe = min(words, -(-int(layout.probes[0]) // slices.WORD))
        slices.nearest(samples, boxes.boxes, boxes.starts, bits, probe, words, nearest)
    else:
        most = round_up(int(np.diff(boxes.rows).max()), slices.TILE_BOXES) + slices.BLOCK_BOXES
        kept = np.empty((slices.TILE_BOXES * boxes.words.shared, tile), np.uint64)
        counts = np.empty((most * -(-len(parts) // simd_words.FIELDS), tile), np.uint64)
        slices.nearest_templates(
            samples, boxes.boxes, boxes.rows, boxes.blocks, bits, parts, boxes.words.masks, kept,
            counts, nearest,
        )  # fmt: skip
    out[:] = nearest[:, : len(x)].T
