"""Slices: one bit of 64 codes a word, for class distances of width 1.

At width 1 a feature counts or it does not, so 64 of them fit a word. Words of several samples lie
side by side in a vector; those of a box are the same in all lanes:

      bit 1 of columns 0..63 of     sample 0   sample 1         sample 15
      samples                     [  word     |  word    | ... |  word    ]   slices[tile, s * 16:]
      lower bounds of a box       [  word     |  word    | ... |  word    ]   one word, repeated
      counts                      [  D        |  D       | ... |  D       ]

The highest bit in which x and a bound differ decides whether ``x < lower``. It is found bit by bit
from the lowest: one operation on a carry, a bit of x and a bit of the bound. That takes as many
operations as there are bits, so codes are replaced by their ranks among those that occur. If only
two occur there is one bit, and one operation does for both sides.
"""

from __future__ import annotations

import numpy as np

from boxnn_numba.kernels import simd
from boxnn_numba.kernels.compile import kernel, register_jitable
from boxnn_numba.kernels.simd_words import (
    FIELDS,
    WORDS,
    above_bit,
    below_bit,
    bit_word,
    both,
    count_bits,
    either,
    load_words,
    next_field,
    no_words,
    outside_bit,
    same_word,
    smaller_fields,
    store_words,
    sum_of_fields,
)

#: Codes of a word.
WORD = 64
#: Samples and boxes of a tile: a vector of words (two, or four, of the processor's), and 4 boxes.
TILE_SAMPLES, TILE_BOXES = WORDS, 4
#: Boxes whose slices stay in the cache while a block of samples passes.
BLOCK_BOXES = 32


@kernel
def find_codes(x, codes):
    """Mark in `codes` (256,) those that occur in x."""
    for i in range(len(x)):
        row = x[i]
        for k in range(len(row)):
            codes[row[k]] = True


@kernel(allocates=True)
def slice_boxes(lower, upper, below, bits, rows, floor, ceiling, out):
    """Write the slices of boxes ``rows[j]``, lower and upper, to `out` (M', words * bits * 2).

    ``below[v]`` is how many of the codes that occur are below v, 0..256: the rank of v if it is one
    of them. `floor` (1, columns) is raised to the largest lower rank, and `ceiling` lowered to the
    smallest upper one.
    """
    sides = np.empty((2, lower.shape[1]), np.uint8)
    for j in range(len(rows)):
        low, high = lower[rows[j]], upper[rows[j]]
        for k in range(len(low)):
            begin, end = below[low[k]], below[np.int64(high[k]) + 1]
            inside = begin < end  # else bounds 1 and 0, between which no rank is
            sides[0, k] = begin if inside else 1
            sides[1, k] = end - 1 if inside else 0
        for k in range(len(low)):
            floor[0, k] = max(floor[0, k], sides[0, k])
            ceiling[0, k] = min(ceiling[0, k], sides[1, k])
        for k in range(0, len(low), WORD):
            for bit in range(bits):
                s = k // WORD * bits + bit
                out[j, 2 * s] = bit_word(sides, 0, k, bit)
                out[j, 2 * s + 1] = bit_word(sides, 1, k, bit)


@kernel
def spread_ranks(x, place, ranks, out):
    """Copy the ranks of the codes of x to `out`, those of column k to column ``place[k]``."""
    for i in range(len(x)):
        row, target = x[i], out[i]
        for k in range(len(place)):
            target[place[k]] = ranks[row[k]]


@kernel
def slice_samples(ranks, bits, words, out):
    """Write the slices of ranks (N, >= 64 words) to `out` (tiles, words * bits * TILE_SAMPLES)."""
    for i in range(len(ranks)):
        tile, lane = i // TILE_SAMPLES, i % TILE_SAMPLES
        for w in range(words):
            for bit in range(bits):
                s = w * bits + bit
                out[tile, s * TILE_SAMPLES + lane] = bit_word(ranks, i, w * WORD, bit)


@register_jitable(forceinline=True)
def _outside(samples, t, boxes, j, w, bits):
    """Return which codes of word w of a tile of samples are outside 4 boxes."""
    low0 = low1 = low2 = low3 = high0 = high1 = high2 = high3 = no_words()
    if bits == 1:
        x, k = load_words(samples, t, w * TILE_SAMPLES), 2 * w
        low0 = outside_bit(x, same_word(boxes, j, k), same_word(boxes, j, k + 1))
        low1 = outside_bit(x, same_word(boxes, j + 1, k), same_word(boxes, j + 1, k + 1))
        low2 = outside_bit(x, same_word(boxes, j + 2, k), same_word(boxes, j + 2, k + 1))
        low3 = outside_bit(x, same_word(boxes, j + 3, k), same_word(boxes, j + 3, k + 1))
        return low0, low1, low2, low3
    for s in range(w * bits, (w + 1) * bits):
        x, k = load_words(samples, t, s * TILE_SAMPLES), 2 * s
        low0 = below_bit(low0, x, same_word(boxes, j, k))
        high0 = above_bit(high0, x, same_word(boxes, j, k + 1))
        low1 = below_bit(low1, x, same_word(boxes, j + 1, k))
        high1 = above_bit(high1, x, same_word(boxes, j + 1, k + 1))
        low2 = below_bit(low2, x, same_word(boxes, j + 2, k))
        high2 = above_bit(high2, x, same_word(boxes, j + 2, k + 1))
        low3 = below_bit(low3, x, same_word(boxes, j + 3, k))
        high3 = above_bit(high3, x, same_word(boxes, j + 3, k + 1))
    return either(low0, high0), either(low1, high1), either(low2, high2), either(low3, high3)


@register_jitable(forceinline=True)
def _tile(samples, t, boxes, j, bits, words, counts):
    """Add words[0]..words[1] of a tile of samples against 4 boxes to the counts."""
    c0, c1, c2, c3 = counts
    for w in range(words[0], words[1]):
        out0, out1, out2, out3 = _outside(samples, t, boxes, j, w, bits)
        c0, c1 = count_bits(c0, out0), count_bits(c1, out1)
        c2, c3 = count_bits(c2, out2), count_bits(c3, out3)
    return c0, c1, c2, c3


@register_jitable
def _least(counts):
    c0, c1, c2, c3 = counts
    return simd.smaller(simd.smaller(c0, c1), simd.smaller(c2, c3))


@kernel
def nearest(samples, boxes, starts, bits, probe, words, out):
    """Lower ``out[c, i]`` to the distance of sample i to the nearest box of class c.

    samples and boxes are slices, so many bits of each word. Boxes ``starts[c]:starts[c + 1]`` are
    those of class c, whole tiles; `out` (K, tiles * TILE_SAMPLES) is int64. After `probe` words a
    tile is left where no count is below what its class has already. Words from `words` on add
    nothing.
    """
    nothing = no_words()
    zeros = nothing, nothing, nothing, nothing
    for c in range(len(starts) - 1):
        for block in range(starts[c], starts[c + 1], BLOCK_BOXES):
            for t in range(len(samples)):
                best = load_words(out, c, t * TILE_SAMPLES)
                for j in range(block, min(block + BLOCK_BOXES, starts[c + 1]), TILE_BOXES):
                    counts = _tile(samples, t, boxes, j, bits, (0, probe), zeros)
                    if probe < words:
                        if simd.none_below(_least(counts), best):
                            continue
                        counts = _tile(samples, t, boxes, j, bits, (probe, words), counts)
                    best = simd.smaller(best, _least(counts))
                store_words(out, c, t * TILE_SAMPLES, best)


@register_jitable
def _count_parts(samples, t, boxes, span, bits, parts, masks, kept, counts):
    """Write the counts of a tile of samples and boxes span[0]..span[1], part by part.

    Of a box they are in the fields of some words, one row of `counts` each. Results of shared words
    are kept, as several parts of a tile may have bits there.
    """
    zero, n_parts, shared = no_words(), len(parts), len(kept) // TILE_BOXES
    first, packs = samples.shape[1] // (TILE_SAMPLES * bits) - shared, -(-n_parts // FIELDS)
    for j in range(span[0], span[1], TILE_BOXES):
        for w in range(shared):
            out0, out1, out2, out3 = _outside(samples, t, boxes, j, first + w, bits)
            store_words(kept, TILE_BOXES * w, 0, out0)
            store_words(kept, TILE_BOXES * w + 1, 0, out1)
            store_words(kept, TILE_BOXES * w + 2, 0, out2)
            store_words(kept, TILE_BOXES * w + 3, 0, out3)
        for pack in range(packs):
            c0 = c1 = c2 = c3 = zero
            for p in range(pack * FIELDS, min((pack + 1) * FIELDS, n_parts)):
                c0, c1, c2, c3 = _tile(
                    samples, t, boxes, j, bits, (parts[p, 0], parts[p, 1]),
                    (next_field(c0), next_field(c1), next_field(c2), next_field(c3)),
                )  # fmt: skip
                if parts[p, 2] >= 0:
                    at, mine = TILE_BOXES * parts[p, 2], same_word(masks, p, 0)
                    c0 = count_bits(c0, both(load_words(kept, at, 0), mine))
                    c1 = count_bits(c1, both(load_words(kept, at + 1, 0), mine))
                    c2 = count_bits(c2, both(load_words(kept, at + 2, 0), mine))
                    c3 = count_bits(c3, both(load_words(kept, at + 3, 0), mine))
            row = (j - span[0]) * packs + pack
            store_words(counts, row, 0, c0)
            store_words(counts, row + packs, 0, c1)
            store_words(counts, row + 2 * packs, 0, c2)
            store_words(counts, row + 3 * packs, 0, c3)


@register_jitable
def _assembled(counts, first, last, packs):
    """Return the sum over the parts of the smallest counts of rows first..last."""
    total = no_words()
    for pack in range(packs):
        least = load_words(counts, first * packs + pack, 0)
        for j in range(first + 1, last):
            least = smaller_fields(least, load_words(counts, j * packs + pack, 0))
        total = simd.plus(total, sum_of_fields(least))
    return total


@kernel
def nearest_templates(samples, boxes, rows, blocks, bits, parts, masks, kept, counts, out):
    """Lower ``out[c, i]`` to the distance of sample i to the nearest template of class c.

    As `nearest`, of templates whose boxes are ``rows[t, 0]:rows[t, 1]``, tile by tile in blocks (B,
    3): a class, its first template and its last. parts (P, 3) are the first and last word of a
    part's own, and the shared word that has its bits, those of masks (P, 1), or -1. Shared words
    come last. `kept` and `counts` are room, uint64 of TILE_SAMPLES a row: 4 for each shared word,
    and as many for a box as it takes for four parts a word.
    """
    packs = -(-len(parts) // FIELDS)
    for block in range(len(blocks)):
        c, first, last = blocks[block, 0], blocks[block, 1], blocks[block, 2]
        begin = rows[first, 0] // TILE_BOXES * TILE_BOXES
        for i in range(len(samples)):
            span = begin, rows[last - 1, 1]
            _count_parts(samples, i, boxes, span, bits, parts, masks, kept, counts)
            best = load_words(out, c, i * TILE_SAMPLES)
            for t in range(first, last):
                found = _assembled(counts, rows[t, 0] - begin, rows[t, 1] - begin, packs)
                best = simd.smaller(best, found)
            store_words(out, c, i * TILE_SAMPLES, best)
