"""Words of 64 bits for Numba kernels: one bit of 64 codes each, some words to a vector.

Functions of bits of x, lower and upper act on each bit of the words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types

from boxnn_numba.kernels.simd_operations import (
    LANES,
    TARGET,
    Vector,
    at_address,
    call,
    constant,
    everywhere,
    lanewise,
    loader,
    operation,
    read,
    shuffle,
    storer,
    zeros,
)

#: Words in a vector of them: of two registers, so that a word that is the same in all lanes serves
#: both.
WORDS = LANES // 4
words_type = Vector("words", 64, WORDS)
_WORDS = words_type.llvm_type
_CODES = ir.VectorType(ir.IntType(8), 64)

#: Bits of codes up to which words are faster than bytes: by operations on three words at once, and
#: on those that count bits.
MOST_BITS = 1
if LANES == 64 and TARGET != "plain":
    MOST_BITS = 8 if llvm.get_host_cpu_features().get("avx512vpopcntdq") else 4

#: Words of zero.
no_words = zeros(words_type)
#: Load WORDS words of a matrix, from ``array[row, column]`` on.
load_words = loader(words_type)
#: Store words to ``array[row, column:]``.
store_words = storer(words_type)


@at_address(types.uint64, types.uint8)
def bit_word(builder: ir.IRBuilder, address: ir.Value, bit: ir.Value) -> ir.Value:
    """Return bit number `bit` of each of 64 bytes from ``array[row, column]`` on, as a uint64."""
    wanted = builder.shl(ir.Constant(ir.IntType(8), 1), bit)
    chosen = builder.and_(read(builder, address, _CODES), everywhere(builder, wanted, _CODES))
    return builder.bitcast(builder.icmp_unsigned("!=", chosen, _CODES(None)), ir.IntType(64))


@at_address(words_type)
def same_word(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Load the word ``array[row, column]`` into every lane."""
    return everywhere(builder, read(builder, address, _WORDS.element, align=8), _WORDS)


def _of_three(
    builder: ir.IRBuilder,
    table: int,
    words: Sequence[ir.Value],
    logic: Callable[[], ir.Value],
) -> ir.Value:
    """Combine three words: by one instruction, or by `logic` where there is none.

    Bit ``4 a + 2 b + c`` of `table` is the result for bits a, b, c.
    """
    if LANES < 64:
        return logic()
    number, half = ir.Constant(ir.IntType(32), table), WORDS // 2
    parts = []
    for first in (0, half):
        lanes = range(first, first + half)
        halves = [shuffle(builder, word, word, lanes) for word in words]
        name = "llvm.x86.avx512.pternlog.q.512"
        parts.append(call(builder, name, halves[0].type, *halves, number))
    return shuffle(builder, parts[0], parts[1], range(WORDS))


@operation(words_type, words_type, words_type, words_type)
def below_bit(builder: ir.IRBuilder, below: ir.Value, x: ir.Value, lower: ir.Value) -> ir.Value:
    """Return whether x is below the bound, where lower bits say `below`."""

    def logic() -> ir.Value:
        differ = builder.xor(x, lower)
        return builder.xor(below, builder.and_(differ, builder.xor(below, lower)))

    return _of_three(builder, 0xB2, (below, x, lower), logic)


@operation(words_type, words_type, words_type, words_type)
def above_bit(builder: ir.IRBuilder, above: ir.Value, x: ir.Value, upper: ir.Value) -> ir.Value:
    """Return whether x is above the bound, where lower bits say `above`."""

    def logic() -> ir.Value:
        differ = builder.xor(x, upper)
        return builder.xor(above, builder.and_(differ, builder.xor(above, x)))

    return _of_three(builder, 0xD4, (above, x, upper), logic)


@operation(words_type, words_type, words_type, words_type)
def outside_bit(builder: ir.IRBuilder, x: ir.Value, lower: ir.Value, upper: ir.Value) -> ir.Value:
    """Return whether x, of one bit, is outside the bounds."""

    def logic() -> ir.Value:
        above = builder.and_(x, builder.not_(upper))
        return builder.or_(above, builder.and_(lower, builder.not_(x)))

    return _of_three(builder, 0x5C, (x, lower, upper), logic)


@operation(words_type, words_type, words_type)
def both(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the bits that are set in both of two words."""
    return builder.and_(left, right)


@operation(words_type, words_type, words_type)
def either(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the bits that are set in one of two words, or in both."""
    return builder.or_(left, right)


@operation(words_type, words_type, words_type)
def count_bits(builder: ir.IRBuilder, counts: ir.Value, words: ir.Value) -> ir.Value:
    """Add to each count how many bits of its word are set."""
    return builder.add(counts, lanewise(builder, "ctpop", words))


# --- four counts to a word -------------------------------------------------------------------

#: Counts that a word holds, and the least number that is too large for one of them.
FIELDS, TOO_MANY = 4, 2**16
_FIELDS = ir.VectorType(ir.IntType(16), FIELDS * WORDS)


@operation(words_type, words_type)
def next_field(builder: ir.IRBuilder, fields: ir.Value) -> ir.Value:
    """Return words whose counts are one field higher, and the lowest is zero."""
    return builder.shl(fields, constant(16, _WORDS))


@operation(words_type, words_type, words_type)
def smaller_fields(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the smaller count of each field."""
    found = lanewise(builder, "umin", *(builder.bitcast(v, _FIELDS) for v in (left, right)))
    return builder.bitcast(found, _WORDS)


@operation(words_type, words_type)
def sum_of_fields(builder: ir.IRBuilder, fields: ir.Value) -> ir.Value:
    """Return the sum of the counts of each word."""
    lowest, total = constant(TOO_MANY - 1, _WORDS), None
    for field in range(FIELDS):
        count = builder.and_(builder.lshr(fields, constant(16 * field, _WORDS)), lowest)
        total = count if total is None else builder.add(total, count)
    return total
