"""Slices of boxes and samples, for class distances of width 1: laid out, and computed.

What is sliced are the ranks of codes among those that occur: of black and white images one bit a
feature tells all there is to tell. So boxes are sliced for a set of codes, when rows with it come.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np

from boxnn_numba.backends.box_layout import UNREACHABLE, ClassLayout, aligned, round_up
from boxnn_numba.kernels import distances, simd_words, slices

#: What a row costs in picoseconds: a feature of it and a slice of a box, where bits are sliced; and
#: a feature of a box, where samples are in the lanes. As measured (AVX-512, 2,500 boxes).
_PER_FEATURE, _PER_SLICE, _PER_CODE = 800, 47, 9.7
#: Codes that a set may have; where more occur, all of them may.
_MOST_CODES = 128
#: Sets for which a layout is sliced, each with the codes of those before; the last has all codes.
_MOST_SETS = 3
#: Rows that show whether many codes occur.
_FIRST_ROWS = 16


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
    """

    codes: np.ndarray
    ranks: np.ndarray
    bits: int
    floor: np.ndarray
    ceiling: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray


def _bits(codes: np.ndarray) -> int:
    return max(1, (int(codes.sum()) - 1).bit_length())


def _worth_it(layout: ClassLayout, bits: int) -> bool:
    """Whether slices of so many bits are faster than samples in the lanes."""
    n, rows = len(layout.weight), int(layout.structure.offsets[-1])
    # A word takes about as long as two bits besides.
    cost = _PER_FEATURE * n + _PER_SLICE * rows * -(-n // slices.WORD) * (bits + 2)
    return bits <= simd_words.MOST_BITS and cost < _PER_CODE * n * rows


def _sliced_boxes(layout: ClassLayout, codes: np.ndarray) -> SlicedBoxes:
    table, offsets = layout.table, layout.structure.offsets
    outside = ((0, 0), (0, -table.frame.columns % slices.WORD))
    lower = np.pad(table.lower, outside)
    upper = np.pad(table.upper, outside, constant_values=255)
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
    return SlicedBoxes(codes, below[:256].astype(np.uint8), bits, floor, ceiling, starts, boxes)


class Slices:
    """The boxes of a layout, sliced for the sets of codes that came so far."""

    def __init__(self) -> None:
        self._known: list[SlicedBoxes] = []
        self._lock = threading.Lock()

    def of(self, x: np.ndarray, layout: ClassLayout) -> SlicedBoxes | None:
        """Return boxes sliced for the codes of x (N, n), and maybe for more.

        None where so many bits are not worth it.
        """
        if not _worth_it(layout, 1):
            return None
        codes = np.zeros(256, np.bool_)
        codes[0] = True  # what pads
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
    columns, tile = boxes.floor.shape[1], slices.TILE_SAMPLES
    ranks = aligned((len(x), columns), 0)
    slices.spread_ranks(x, layout.frame.place, boxes.ranks, ranks)
    stop = distances.used_columns(ranks, boxes.floor, boxes.ceiling, 1, 0, columns)
    words, tiles = -(-stop // slices.WORD), -(-len(x) // tile)
    probe = min(words, -(-int(layout.probes[0]) // slices.WORD))
    samples = np.zeros((tiles, words * boxes.bits * tile), np.uint64)
    slices.slice_samples(ranks, boxes.bits, words, samples)
    nearest = np.full((out.shape[1], tiles * tile), UNREACHABLE, np.int64)
    nearest[:, len(x) :] = 0  # rows that only pad do not keep a tile
    slices.nearest(samples, boxes.boxes, boxes.starts, boxes.bits, probe, words, nearest)
    out[:] = nearest[:, : len(x)].T
