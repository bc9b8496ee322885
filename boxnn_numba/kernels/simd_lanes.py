"""Samples side by side in vectors, for training: 4 codes of each, and a sum for each.

    codes   [ sample 0: k k+1 k+2 k+3 | sample 1: ... | ... ]   uint8, of 32 samples or of 8
    sums    [ sample 0                | sample 1      | ... ]   int32: distances to one box

And columns side by side: the slopes of 32 columns of a box, int32.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from boxnn_numba.kernels.simd import outside
from boxnn_numba.kernels.simd_operations import (
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
    storer,
    write,
    zeros,
)

#: Samples of a block, and columns of a tile of slopes.
BLOCK = 32


def _quarter_sums(builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value) -> ir.Value:
    """Add groups of four bytes to 32-bit sums, in vectors of the processor's length or half."""
    count = codes.type.count
    if count > LANES:
        half = count // 2
        parts = [
            _quarter_sums(
                builder,
                shuffle(builder, sums, sums, range(k // 4, (k + half) // 4)),
                shuffle(builder, codes, codes, range(k, k + half)),
            )
            for k in (0, half)
        ]
        return shuffle(builder, parts[0], parts[1], range(count // 4))
    bits, width = 8 * count, sums.type
    if USE_VNNI:
        ones, values = (builder.bitcast(v, width) for v in (constant(1, codes.type), codes))
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", width, sums, values, ones)
    pairs = ir.VectorType(ir.IntType(16), count // 2)
    names = {
        256: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
        512: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
    }[bits]
    twos = call(builder, names[0], pairs, codes, constant(1, codes.type))
    return builder.add(sums, call(builder, names[1], width, twos, constant(1, pairs)))


@at_address(types.uint32)
def load_four(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Return ``array[row, column:column + 4]``, uint8, as one number."""
    return read(builder, address, ir.IntType(32), align=1)


@at_address(types.void, types.uint32)
def store_four(builder: ir.IRBuilder, address: ir.Value, four: ir.Value) -> None:
    """Store four bytes to ``array[row, column:]``, uint8."""
    write(builder, address, four, align=1)


class SampleLanes:
    """Operations on 4 codes each of `count` samples."""

    def __init__(self, count: int) -> None:
        codes_type, sums_type = Vector("codes", 8, 4 * count), Vector("lane_sums", 32, count)
        codes, sums = codes_type.llvm_type, sums_type.llvm_type

        @at_address(codes_type)
        def splat_four(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
            """Return ``array[row, column:column + 4]``, uint8, for every sample."""
            four = read(builder, address, ir.IntType(32), align=1)
            return builder.bitcast(everywhere(builder, four, sums), codes)

        @operation(codes_type, types.uint8)
        def splat_code(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
            """Return a vector that holds a uint8 everywhere."""
            return everywhere(builder, value, codes)

        @operation(codes_type, codes_type, codes_type, codes_type, codes_type)
        def grown(
            builder: ir.IRBuilder, excess: ir.Value, x: ir.Value, lower: ir.Value, upper: ir.Value
        ) -> ir.Value:
            """Add to a saturating excess how far each code lies outside [lower, upper]."""
            return lanewise(builder, "uadd.sat", excess, outside(builder, x, lower, upper))

        @operation(sums_type, sums_type, codes_type, codes_type)
        def add_capped(
            builder: ir.IRBuilder, sums: ir.Value, excess: ir.Value, cap: ir.Value
        ) -> ir.Value:
            """Add the excess of each sample's four codes, capped."""
            return _quarter_sums(builder, sums, lanewise(builder, "umin", excess, cap))

        #: Load the codes of the samples from ``array[row, column]`` on, and store their sums.
        self.load_codes, self.store_lanes = loader(codes_type), storer(sums_type)
        self.no_codes, self.no_lanes = zeros(codes_type), zeros(sums_type)
        self.splat_four, self.splat_code = splat_four, splat_code
        self.grown, self.add_capped = grown, add_capped


#: Of a whole block of samples, and of a quarter of it.
block_lanes, quarter_lanes = SampleLanes(BLOCK), SampleLanes(BLOCK // 4)

_distances_type = Vector("lane_sums", 32, BLOCK)
#: Load the int32 ``array[row, column:]`` of a block of samples.
load_distances = loader(_distances_type)
#: Store distances of a block of samples to int32 ``array[row, column:]``.
store_distances = storer(_distances_type)


@operation(types.uint32, _distances_type, _distances_type)
def at_most(builder: ir.IRBuilder, distances: ir.Value, limits: ir.Value) -> ir.Value:
    """Return in which lanes a distance is at most its limit, as bits."""
    return builder.bitcast(builder.icmp_signed("<=", distances, limits), ir.IntType(32))


@operation(types.int64, types.uint32)
def first_lane(builder: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    """Return the number of the lowest bit of a uint32 that is not 0."""
    return builder.zext(builder.cttz(lanes, ir.IntType(1)(1)), ir.IntType(64))


# --- columns in the lanes ----------------------------------------------------------------------

_tile_type, _slopes_type = Vector("codes", 8, BLOCK), _distances_type
_TILE, _SLOPES = _tile_type.llvm_type, _slopes_type.llvm_type
#: Load 32 codes from ``array[row, column]`` on.
load_tile = loader(_tile_type)
#: 32 slopes of zero.
no_slopes = zeros(_slopes_type)


@operation(_slopes_type, _slopes_type, _tile_type, _tile_type, types.int32)
def add_where(
    builder: ir.IRBuilder, slopes: ir.Value, left: ir.Value, right: ir.Value, q: ir.Value
) -> ir.Value:
    """Add the int32 q where left is above right."""
    above = builder.icmp_unsigned(">", left, right)
    added = builder.select(above, everywhere(builder, q, _SLOPES), constant(0, _SLOPES))
    return builder.add(slopes, added)


@operation(
    _slopes_type, _slopes_type, _tile_type, _tile_type, _tile_type,
    types.uint8, types.int32, types.int32,
)  # fmt: skip
def add_within(
    builder: ir.IRBuilder,
    slopes: ir.Value,
    left: ir.Value,
    right: ir.Value,
    excess: ir.Value,
    width: ir.Value,
    q: ir.Value,
    q_leak: ir.Value,
) -> ir.Value:
    """Add, where left is above right, the int32 q, or q_leak where the excess is above `width`."""
    beyond = builder.icmp_unsigned(">", excess, everywhere(builder, width, _TILE))
    lanes = (everywhere(builder, value, _SLOPES) for value in (q_leak, q))
    inside = builder.select(beyond, *lanes)
    above = builder.icmp_unsigned(">", left, right)
    return builder.add(slopes, builder.select(above, inside, constant(0, _SLOPES)))


@at_address(types.boolean, _slopes_type)
def store_slopes(builder: ir.IRBuilder, address: ir.Value, slopes: ir.Value) -> ir.Value:
    """Store 32 slopes to ``array[row, column:]``, float64; return whether any is not 0."""
    wide = builder.sitofp(slopes, ir.VectorType(ir.DoubleType(), BLOCK))
    write(builder, address, wide, align=8)
    return builder.not_(none_set(builder, builder.icmp_signed("!=", slopes, constant(0, _SLOPES))))
