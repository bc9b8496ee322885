"""Vectors of bytes for Numba kernels, and the sums that they are added up to.

    bytes     [ b0 b1 b2 b3 | b4 ...                  | ... ]   LANES of them, unsigned
    sums      [ b0+b1+b2+b3 | ...                     | ... ]   32 bits for 4 bytes, or 64 for 8
    quad      [ total | total | total | total ]                 int32, of four vectors of sums
    quarters  [ of quarter 0: 4 totals | ... | of quarter 3 ]   int32, of four vectors of sums

Bits in words are in `simd_words`, samples side by side in `simd_lanes`. How operations become
intrinsics, and for which processor, is in `simd_operations`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from boxnn_numba.kernels.simd_operations import (
    ANY,
    LANES,
    USE_VNNI,
    Vector,
    at_address,
    call,
    constant,
    everywhere,
    lanewise,
    loader,
    none_set,
    operation,
    read,
    shuffle,
    write,
    zeros,
)

#: Bytes that one partial sum adds up: vpdpbusd does so for groups of four bytes, psadbw of eight.
GROUP = 4 if USE_VNNI else 8

bytes_type = Vector("bytes", 8, LANES)
sums_type = Vector("sums", 8 * GROUP, LANES // GROUP)
quad_type = Vector("quad", 32, 4)
quarters_type = Vector("quarters", 32, 16)
_BYTES, _SUMS, _QUAD = bytes_type.llvm_type, sums_type.llvm_type, quad_type.llvm_type
#: Sums in memory are int32.
_NARROW = ir.VectorType(ir.IntType(32), _SUMS.count)
_GROUP = ir.IntType(8 * GROUP)
_group_type = types.uint32 if USE_VNNI else types.uint64

# --- bytes -----------------------------------------------------------------------------------

#: Load LANES bytes of a uint8 matrix, from ``array[row, column]`` on.
load = loader(bytes_type)
#: Zero in every lane.
no_bytes = zeros(bytes_type)


@at_address(_group_type)
def load_group(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Load GROUP bytes of a uint8 matrix, from ``array[row, column]`` on, as one number."""
    return read(builder, address, _GROUP, align=1)


@at_address(types.void, _group_type)
def store_group(builder: ir.IRBuilder, address: ir.Value, group: ir.Value) -> None:
    """Store GROUP bytes to ``array[row, column:]`` of a uint8 matrix."""
    write(builder, address, group, align=1)


@at_address(bytes_type)
def repeat_group(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Load GROUP bytes of a uint8 matrix, and repeat them over a vector."""
    group = read(builder, address, _GROUP, align=1)
    return builder.bitcast(everywhere(builder, group, _SUMS), _BYTES)


@operation(bytes_type, types.uint8)
def splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Return a vector that holds a uint8 in every lane."""
    return everywhere(builder, value, _BYTES)


@operation(bytes_type, bytes_type, bytes_type, bytes_type)
def excess(builder: ir.IRBuilder, x: ir.Value, lower: ir.Value, upper: ir.Value) -> ir.Value:
    """Return how far each byte of x lies outside [lower, upper]: `formulas.excess`."""
    return outside(builder, x, lower, upper)


def outside(builder: ir.IRBuilder, x: ir.Value, lower: ir.Value, upper: ir.Value) -> ir.Value:
    """Return how far each byte lies outside its bounds; x itself, or the bound, on either side."""
    # Processors have twice as many units for these as for saturating subtractions.
    high, low = lanewise(builder, "umax", x, lower), lanewise(builder, "umin", x, upper)
    return builder.sub(high, low)


@operation(bytes_type, bytes_type, bytes_type)
def minimum(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the smaller byte in every lane."""
    return lanewise(builder, "umin", left, right)


@operation(bytes_type, bytes_type, bytes_type)
def maximum(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the larger byte in every lane."""
    return lanewise(builder, "umax", left, right)


@operation(bytes_type, bytes_type, bytes_type)
def add_saturated(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the sum of two bytes, at most 255, in every lane."""
    return lanewise(builder, "uadd.sat", left, right)


@operation(bytes_type, bytes_type, bytes_type)
def span(builder: ir.IRBuilder, lower: ir.Value, upper: ir.Value) -> ir.Value:
    """Return ``upper - lower`` (wrapping) in every lane."""
    return builder.sub(upper, lower)


@operation(types.int64, bytes_type, bytes_type, bytes_type)
def count_outside(builder: ir.IRBuilder, x: ir.Value, lower: ir.Value, span: ir.Value) -> ir.Value:
    """Return in how many lanes x lies outside [lower, lower + span], as int64."""
    mask = ir.IntType(LANES)
    beyond = builder.icmp_unsigned(">", builder.sub(x, lower), span)
    count = call(builder, f"llvm.ctpop.i{LANES}", mask, builder.bitcast(beyond, mask))
    return count if LANES == 64 else builder.zext(count, ir.IntType(64))


@operation(bytes_type, bytes_type, bytes_type, bytes_type)
def beyond(builder: ir.IRBuilder, x: ir.Value, lower: ir.Value, span: ir.Value) -> ir.Value:
    """Return 0 in every lane where x is in [lower, lower + span], and not 0 elsewhere."""
    return lanewise(builder, "usub.sat", builder.sub(x, lower), span)


@operation(bytes_type, bytes_type, bytes_type, bytes_type)
def count_beyond(builder: ir.IRBuilder, counts: ir.Value, values: ir.Value, most: Any) -> ir.Value:
    """Return counts, one more (wrapping) in every lane whose value is larger than `most`."""
    one = constant(1, _BYTES)
    if LANES == 64:  # masks
        more = builder.icmp_unsigned(">", values, most)
        return builder.select(more, builder.add(counts, one), counts)
    larger = lanewise(builder, "usub.sat", values, most)
    return builder.add(counts, lanewise(builder, "umin", larger, one))


@operation(types.boolean, bytes_type)
def some(builder: ir.IRBuilder, values: ir.Value) -> ir.Value:
    """Return whether any byte is not zero."""
    mask = ir.IntType(LANES)
    lanes = builder.bitcast(builder.icmp_unsigned("!=", values, constant(0, _BYTES)), mask)
    return builder.icmp_unsigned("!=", lanes, ir.Constant(mask, 0))


# --- partial sums ------------------------------------------------------------------------------

#: Partial sums of zero.
no_sums = zeros(sums_type)


@operation(sums_type, types.int32)
def all_sums(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Return partial sums that are all an int32."""
    return everywhere(builder, builder.sext(value, _SUMS.element), _SUMS)


@at_address(sums_type)
def load_sums(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Load the int32 ``array[row, column:]`` as partial sums."""
    return builder.sext(read(builder, address, _NARROW), _SUMS)


@at_address(types.void, sums_type)
def store_sums(builder: ir.IRBuilder, address: ir.Value, sums: ir.Value) -> None:
    """Store partial sums as int32 to ``array[row, column:]``."""
    write(builder, address, sums if USE_VNNI else builder.trunc(sums, _NARROW))


@operation(sums_type, sums_type, bytes_type)
def add_bytes(builder: ir.IRBuilder, sums: ir.Value, values: ir.Value) -> ir.Value:
    """Add the bytes of `values` to the partial sums."""
    if USE_VNNI:
        ones = builder.bitcast(constant(1, _BYTES), _SUMS)
        name = "llvm.x86.avx512.vpdpbusd.512"
        return call(builder, name, _SUMS, sums, builder.bitcast(values, _SUMS), ones)
    name = "llvm.x86.avx512.psad.bw.512" if LANES == 64 else "llvm.x86.avx2.psad.bw"
    return builder.add(sums, call(builder, name, _SUMS, values, constant(0, _BYTES)))


# --- four totals at a time ---------------------------------------------------------------------

#: Load ``array[row, column:column + 16]`` of an int32 matrix.
load_quarters = loader(quarters_type)
#: Load ``array[row, column:column + 4]`` of an int32 matrix.
load_quad = loader(quad_type)
#: Four totals of zero.
no_totals = zeros(quad_type)


def _fold(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, group: int) -> ir.Value:
    """Add the two halves of every group of lanes; those of left come first in the result."""
    lanes = range(2 * left.type.count)
    front = [lane for lane in lanes if lane % group < group // 2]
    back = [lane for lane in lanes if lane % group >= group // 2]
    return builder.add(shuffle(builder, left, right, front), shuffle(builder, left, right, back))


def _zip_add(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, run: int) -> ir.Value:
    """Add the halves of every 16 bytes; in the result runs of left and right alternate."""
    half = 64 // left.type.element.width
    front = [
        side + first + lane
        for first in range(0, left.type.count, run)
        if first % (2 * half) < half
        for side in (0, left.type.count)
        for lane in range(run)
    ]
    back = [lane + half for lane in front]
    return builder.add(shuffle(builder, left, right, front), shuffle(builder, left, right, back))


@operation(quad_type, sums_type, sums_type, sums_type, sums_type)
def totals(
    builder: ir.IRBuilder, s0: ir.Value, s1: ir.Value, s2: ir.Value, s3: ir.Value
) -> ir.Value:
    """Return the totals of four partial sums as a vector of four int32."""
    # Within 16 bytes first: shuffles across them take longer.
    parts, run = [s0, s1, s2, s3], 1
    while len(parts) > 1 and run * _SUMS.element.width <= 64:
        parts = [
            _zip_add(builder, left, right, run)
            for left, right in zip(parts[::2], parts[1::2], strict=True)
        ]
        run *= 2
    while parts[0].type.count * _SUMS.element.width > 128:
        half = parts[0].type.count // 2
        parts = [
            builder.add(
                shuffle(builder, part, part, range(half)),
                shuffle(builder, part, part, range(half, 2 * half)),
            )
            for part in parts
        ]
    if len(parts) == 1:
        return parts[0]
    return builder.trunc(shuffle(builder, parts[0], parts[1], range(4)), _QUAD)


@operation(quad_type, types.int64, types.int64, types.int64, types.int64)
def counts(
    builder: ir.IRBuilder, c0: ir.Value, c1: ir.Value, c2: ir.Value, c3: ir.Value
) -> ir.Value:
    """Return four int64 counts as a vector of four int32."""
    result = ir.Constant(_QUAD, ir.Undefined)
    for lane, count in enumerate((c0, c1, c2, c3)):
        value = builder.trunc(count, ir.IntType(32))
        result = builder.insert_element(result, value, ir.Constant(ir.IntType(32), lane))
    return result


@operation(quarters_type, sums_type, sums_type, sums_type, sums_type)
def quarter_totals(
    builder: ir.IRBuilder, s0: ir.Value, s1: ir.Value, s2: ir.Value, s3: ir.Value
) -> ir.Value:
    """Return the totals of the quarters of four partial sums: int32, those of s0 first."""
    parts, group = [s0, s1, s2, s3], _SUMS.count // 4
    while group > 1 and len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_fold(builder, left, right, group) for left, right in pairs]
        group //= 2
    if not USE_VNNI:
        parts = [builder.trunc(part, _NARROW) for part in parts]
    while len(parts) > 1:
        lanes = range(2 * parts[0].type.count)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [shuffle(builder, left, right, lanes) for left, right in pairs]
    return parts[0]


@operation(quad_type, ANY)
def whole(builder: ir.IRBuilder, totals: ir.Value) -> ir.Value:
    """Return four totals: the sums over the quarters, or totals without quarters as they are."""
    if totals.type.count == 4:
        return totals
    quarters = [shuffle(builder, totals, totals, range(q, 16, 4)) for q in range(4)]
    left, right = builder.add(*quarters[:2]), builder.add(*quarters[2:])
    return builder.add(left, right)


@operation(ANY, ANY)
def farthest(builder: ir.IRBuilder, totals: ir.Value) -> ir.Value:
    """Return a vector like `totals` of a number that no total exceeds; four can be added."""
    return constant(2**29 - 1, totals.type)


@at_address(types.void, ANY)
def store_totals(builder: ir.IRBuilder, address: ir.Value, totals: ir.Value) -> None:
    """Store 4 or 16 int32 to ``array[row, column:]``."""
    write(builder, address, totals)


@at_address(types.void, quad_type, types.int32)
def store_total(builder: ir.IRBuilder, address: ir.Value, quad: ir.Value, lane: Any) -> None:
    """Store the total in a lane to ``array[row, column]``, int32."""
    write(builder, address, builder.extract_element(quad, lane), align=4)


# --- sums, totals and words: any vector of signed integers --------------------------------------


@operation(ANY, ANY, ANY)
def plus(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the sum in each lane."""
    return builder.add(left, right)


@operation(ANY, ANY, ANY)
def minus(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the difference in each lane."""
    return builder.sub(left, right)


@operation(ANY, ANY, ANY)
def smaller(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return the smaller integer of each lane."""
    return lanewise(builder, "smin", left, right)


@operation(types.boolean, ANY, ANY)
def none_below(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Return whether no lane of left is below that of right."""
    return none_set(builder, builder.icmp_signed("<", left, right))
