"""Vectors of bytes for Numba kernels: the only file that knows the processor.

The operations below are Numba intrinsics on a vector of `LANES` unsigned bytes
and on vectors of 32-bit (or 64-bit) partial sums, of four totals, and of four totals for each
quarter of a vector of bytes. `TARGET` names the
instruction set they are compiled for; it is ``"plain"`` where the processor has
none of the supported ones, and then the loops of `boxnn_numba.kernels.distances` that
use no vectors serve instead. The environment variable ``BOXNN_SIMD`` (one of
`TARGETS`) overrides the choice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from boxnn_numba.errors import OptionError

#: Instruction sets in order of preference, with the length of a vector in bytes.
TARGETS = {"avx512vnni": 64, "avx512bw": 64, "avx2": 32, "plain": 64}
_NEEDS = {
    "avx512vnni": ("avx512bw", "avx512vl", "avx512vnni"),
    "avx512bw": ("avx512bw", "avx512vl"),
    "avx2": ("avx2",),
    "plain": (),
}


def _choose_target() -> str:
    forced = os.environ.get("BOXNN_SIMD", "auto")
    if forced != "auto" and forced not in TARGETS:
        raise OptionError(
            f"BOXNN_SIMD is {forced!r}; it must be auto or one of {', '.join(TARGETS)}"
        )
    # Without the compiler there are no intrinsics; Numba sets these attributes at import.
    if config.DISABLE_JIT or config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
        return "plain"
    host = llvm.get_host_cpu_features()
    usable = [name for name, needs in _NEEDS.items() if all(host.get(flag) for flag in needs)]
    if forced == "auto":
        return usable[0]
    if forced not in usable:
        raise OptionError(
            f"BOXNN_SIMD is {forced!r}, which this processor lacks; it has {', '.join(usable)}"
        )
    return forced


TARGET = _choose_target()
LANES = TARGETS[TARGET]

_BYTES = ir.VectorType(ir.IntType(8), LANES)
_MASK = ir.IntType(LANES)
_QUAD = ir.VectorType(ir.IntType(32), 4)
_QUARTERS = ir.VectorType(ir.IntType(32), 16)
#: Words of 64 bits in a vector of them: of two registers, so that a word that is the same in all
#: lanes serves both.
WORDS = LANES // 4
_WORDS = ir.VectorType(ir.IntType(64), WORDS)
# vpdpbusd adds groups of four bytes into 32-bit sums, psadbw groups of eight into 64-bit ones.
_USE_VNNI = TARGET == "avx512vnni"
#: Bytes that one partial sum adds up.
GROUP = 4 if _USE_VNNI else 8
_SUMS = ir.VectorType(ir.IntType(8 * GROUP), LANES // GROUP)


class _Vector(types.Type):
    def __init__(self, name: str, llvm_type: ir.Type) -> None:
        super().__init__(name=f"{name}<{TARGET}>")
        self.llvm_type = llvm_type


class _BytesType(_Vector):
    pass


class _SumsType(_Vector):
    pass


class _QuadType(_Vector):
    pass


class _QuartersType(_Vector):
    pass


class _WordsType(_Vector):
    pass


bytes_type = _BytesType("bytes", _BYTES)
sums_type = _SumsType("sums", _SUMS)
quad_type = _QuadType("quad", _QUAD)
quarters_type = _QuartersType("quarters", _QUARTERS)
words_type = _WordsType("words", _WORDS)


@register_model(_BytesType)
@register_model(_SumsType)
@register_model(_QuadType)
@register_model(_QuartersType)
@register_model(_WordsType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: _Vector) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm_type)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, arguments)


def _saturating_subtract(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    return _call(builder, f"llvm.usub.sat.v{LANES}i8", _BYTES, [left, right])


def _constant(value: int, vector: ir.VectorType = _BYTES) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _address(
    context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any
) -> tuple[ir.Value, ir.Value]:
    """Return the address of ``array[row, column]`` as bytes, and the length of a row."""
    if signature.args[0].layout != "C":
        raise TypeError(f"{signature.args[0]} is not C-contiguous")
    view = context.make_array(signature.args[0])(context, builder, arguments[0])
    row = context.cast(builder, arguments[1], signature.args[1], types.intp)
    column = context.cast(builder, arguments[2], signature.args[2], types.intp)
    row_bytes = builder.extract_value(view.strides, 0)
    item = ir.Constant(row_bytes.type, signature.args[0].dtype.bitwidth // 8)
    offset = builder.add(builder.mul(row, row_bytes), builder.mul(column, item))
    base = builder.bitcast(view.data, ir.IntType(8).as_pointer())
    return builder.gep(base, [offset], source_etype=ir.IntType(8)), row_bytes


def _loader(vector: ir.VectorType) -> Callable[..., Any]:
    """Return what loads a vector of integers from ``array[row, column]`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        pointer = builder.bitcast(address, vector.as_pointer())
        return builder.load(pointer, align=vector.element.width // 8, typ=vector)

    return generate


@intrinsic
def load(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load LANES bytes of a C-contiguous uint8 matrix, from ``array[row, column]`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        pointer = builder.bitcast(address, _BYTES.as_pointer())
        return builder.load(pointer, align=1, typ=_BYTES)

    return bytes_type(array, row, column), generate


def _everywhere(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, single, undefined, [0] * vector.count)


@intrinsic
def load_group(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load GROUP bytes of a C-contiguous uint8 matrix, from ``array[row, column]`` on, repeated."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        number = ir.IntType(8 * GROUP)
        value = builder.load(builder.bitcast(address, number.as_pointer()), align=1, typ=number)
        many = _everywhere(builder, value, ir.VectorType(number, LANES // GROUP))
        return builder.bitcast(many, _BYTES)

    return bytes_type(array, row, column), generate


@intrinsic
def copy_group(
    typing: Any, source: Any, row: Any, column: Any, target: Any, to_row: Any, to_column: Any
) -> tuple[Any, Callable[..., Any]]:
    """Copy GROUP bytes from one C-contiguous uint8 matrix to another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(8 * GROUP)
        places = []
        for first in (0, 3):
            part = signature.return_type(*signature.args[first : first + 3])
            address, _ = _address(context, builder, part, arguments[first : first + 3])
            places.append(builder.bitcast(address, number.as_pointer()))
        value = builder.load(places[0], align=1, typ=number)
        builder.store(value, places[1], align=1)
        return context.get_dummy_value()

    return types.void(source, row, column, target, to_row, to_column), generate


@intrinsic
def splat(typing: Any, value: Any) -> tuple[Any, Callable[..., Any]]:
    """Return a vector that holds the uint8 `value` in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = context.cast(builder, arguments[0], signature.args[0], types.uint8)
        return _everywhere(builder, byte, _BYTES)

    return bytes_type(value), generate


@intrinsic
def excess(typing: Any, x: Any, lower: Any, upper: Any) -> tuple[Any, Callable[..., Any]]:
    """Return how far each byte of x lies outside [lower, upper]: `formulas.excess`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, lower, upper = arguments
        # Processors have twice as many units for these as for saturating subtractions.
        above = _call(builder, f"llvm.umax.v{LANES}i8", _BYTES, [x, lower])
        below = _call(builder, f"llvm.umin.v{LANES}i8", _BYTES, [x, upper])
        return builder.sub(above, below)

    return bytes_type(bytes_type, bytes_type, bytes_type), generate


@intrinsic
def minimum(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the smaller byte in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, f"llvm.umin.v{LANES}i8", _BYTES, list(arguments))

    return bytes_type(bytes_type, bytes_type), generate


@intrinsic
def maximum(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the larger byte in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, f"llvm.umax.v{LANES}i8", _BYTES, list(arguments))

    return bytes_type(bytes_type, bytes_type), generate


@intrinsic
def no_bytes(typing: Any) -> tuple[Any, Callable[..., Any]]:
    """Return zero in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _constant(0)

    return bytes_type(), generate


@intrinsic
def add_saturated(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the sum of two bytes, at most 255, in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _call(builder, f"llvm.uadd.sat.v{LANES}i8", _BYTES, list(arguments))

    return bytes_type(bytes_type, bytes_type), generate


@intrinsic
def span(typing: Any, lower: Any, upper: Any) -> tuple[Any, Callable[..., Any]]:
    """Return ``upper - lower`` (wrapping) in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sub(arguments[1], arguments[0])

    return bytes_type(bytes_type, bytes_type), generate


@intrinsic
def count_outside(typing: Any, x: Any, lower: Any, span: Any) -> tuple[Any, Callable[..., Any]]:
    """Return in how many lanes x lies outside [lower, lower + span], as int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, lower, span = arguments
        outside = builder.icmp_unsigned(">", builder.sub(x, lower), span)
        mask = builder.bitcast(outside, _MASK)
        count = _call(builder, f"llvm.ctpop.i{LANES}", _MASK, [mask])
        return count if LANES == 64 else builder.zext(count, ir.IntType(64))

    return types.int64(bytes_type, bytes_type, bytes_type), generate


@intrinsic
def beyond(typing: Any, x: Any, lower: Any, span: Any) -> tuple[Any, Callable[..., Any]]:
    """Return what is 0 in every lane where x is in [lower, lower + span], and not elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, lower, span = arguments
        return _saturating_subtract(builder, builder.sub(x, lower), span)

    return bytes_type(bytes_type, bytes_type, bytes_type), generate


@intrinsic
def count_beyond(
    typing: Any, counts: Any, values: Any, most: Any
) -> tuple[Any, Callable[..., Any]]:
    """Return counts, one more (wrapping) in every lane whose value is larger than `most`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        counts, values, most = arguments
        if LANES == 64:  # masks
            more = builder.icmp_unsigned(">", values, most)
            return builder.select(more, builder.add(counts, _constant(1)), counts)
        beyond = _saturating_subtract(builder, values, most)
        name = f"llvm.umin.v{LANES}i8"
        return builder.add(counts, _call(builder, name, _BYTES, [beyond, _constant(1)]))

    return bytes_type(bytes_type, bytes_type, bytes_type), generate


@intrinsic
def all_sums(typing: Any, value: Any) -> tuple[Any, Callable[..., Any]]:
    """Return partial sums that are all an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = context.cast(builder, arguments[0], signature.args[0], types.int32)
        return _everywhere(builder, builder.sext(number, _SUMS.element), _SUMS)

    return sums_type(value), generate


@intrinsic
def load_sums(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load the int32 ``array[row, column:]`` as partial sums."""
    narrow = _loader(ir.VectorType(ir.IntType(32), _SUMS.count))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.sext(narrow(context, builder, signature, arguments), _SUMS)

    return sums_type(array, row, column), generate


@intrinsic
def plus_sums(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the sums of partial sums."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.add(*arguments)

    return sums_type(sums_type, sums_type), generate


@intrinsic
def no_sum_below(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return whether no partial sum of left is below that of right."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask = ir.IntType(_SUMS.count)
        below = builder.bitcast(builder.icmp_signed("<", *arguments), mask)
        return builder.icmp_unsigned("==", below, ir.Constant(mask, 0))

    return types.boolean(sums_type, sums_type), generate


@intrinsic
def store_sums(
    typing: Any, array: Any, row: Any, column: Any, sums: Any
) -> tuple[Any, Callable[..., Any]]:
    """Store partial sums as int32 to ``array[row, column:]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        sums, narrow = arguments[3], ir.VectorType(ir.IntType(32), _SUMS.count)
        if not _USE_VNNI:
            sums = builder.trunc(sums, narrow)
        builder.store(sums, builder.bitcast(address, narrow.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, row, column, sums_type), generate


@intrinsic
def no_sums(typing: Any) -> tuple[Any, Callable[..., Any]]:
    """Return partial sums of zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_SUMS, None)

    return sums_type(), generate


@intrinsic
def add_bytes(typing: Any, sums: Any, values: Any) -> tuple[Any, Callable[..., Any]]:
    """Add the bytes of `values` to the partial sums."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, values = arguments
        if _USE_VNNI:
            ones = builder.bitcast(_constant(1), _SUMS)
            name = "llvm.x86.avx512.vpdpbusd.512"
            return _call(builder, name, _SUMS, [sums, builder.bitcast(values, _SUMS), ones])
        name = "llvm.x86.avx512.psad.bw.512" if LANES == 64 else "llvm.x86.avx2.psad.bw"
        return builder.add(sums, _call(builder, name, _SUMS, [values, _constant(0)]))

    return sums_type(sums_type, bytes_type), generate


@intrinsic
def some(typing: Any, values: Any) -> tuple[Any, Callable[..., Any]]:
    """Return whether any byte is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask = builder.bitcast(builder.icmp_unsigned("!=", arguments[0], _constant(0)), _MASK)
        return builder.icmp_unsigned("!=", mask, ir.Constant(_MASK, 0))

    return types.boolean(bytes_type), generate


# --- four totals at a time ---------------------------------------------------------------


def _shuffle(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, lanes: list[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(left, right, mask)


def _fold(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, group: int) -> ir.Value:
    """Add the two halves of every group of lanes; those of left come first in the result."""
    lanes = range(2 * left.type.count)
    front = [lane for lane in lanes if lane % group < group // 2]
    back = [lane for lane in lanes if lane % group >= group // 2]
    return builder.add(_shuffle(builder, left, right, front), _shuffle(builder, left, right, back))


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
    return builder.add(_shuffle(builder, left, right, front), _shuffle(builder, left, right, back))


@intrinsic
def totals(typing: Any, s0: Any, s1: Any, s2: Any, s3: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the totals of four partial sums as a vector of four int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Within 16 bytes first: shuffles across them take longer.
        parts, run = list(arguments), 1
        while len(parts) > 1 and run * _SUMS.element.width <= 64:
            parts = [
                _zip_add(builder, left, right, run)
                for left, right in zip(parts[::2], parts[1::2], strict=True)
            ]
            run *= 2
        while parts[0].type.count * _SUMS.element.width > 128:
            half = parts[0].type.count // 2
            front, back = list(range(half)), list(range(half, 2 * half))
            parts = [
                builder.add(
                    _shuffle(builder, part, part, front), _shuffle(builder, part, part, back)
                )
                for part in parts
            ]
        if len(parts) == 1:
            return parts[0]
        return builder.trunc(_shuffle(builder, parts[0], parts[1], list(range(4))), _QUAD)

    return quad_type(sums_type, sums_type, sums_type, sums_type), generate


@intrinsic
def counts(typing: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> tuple[Any, Callable[..., Any]]:
    """Return four int64 counts as a vector of four int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = ir.Constant(_QUAD, ir.Undefined)
        for lane, count in enumerate(arguments):
            value = builder.trunc(count, ir.IntType(32))
            result = builder.insert_element(result, value, ir.Constant(ir.IntType(32), lane))
        return result

    return quad_type(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def quarter_totals(
    typing: Any, s0: Any, s1: Any, s2: Any, s3: Any
) -> tuple[Any, Callable[..., Any]]:
    """Return the totals of the quarters of four partial sums: int32, those of s0 first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts, group = list(arguments), _SUMS.count // 4
        while group > 1 and len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [_fold(builder, left, right, group) for left, right in pairs]
            group //= 2
        if _SUMS.element.width == 64:
            narrow = ir.VectorType(ir.IntType(32), _SUMS.count)
            parts = [builder.trunc(part, narrow) for part in parts]
        while len(parts) > 1:
            lanes = list(range(2 * parts[0].type.count))
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [_shuffle(builder, left, right, lanes) for left, right in pairs]
        return parts[0]

    return quarters_type(sums_type, sums_type, sums_type, sums_type), generate


@intrinsic
def whole(typing: Any, totals: Any) -> tuple[Any, Callable[..., Any]]:
    """Return four totals: the sums over the quarters, or what has none as it is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[0]
        if value.type.count == 4:
            return value
        quarters = [
            _shuffle(builder, value, value, [4 * s + q for s in range(4)]) for q in range(4)
        ]
        left, right = builder.add(*quarters[:2]), builder.add(*quarters[2:])
        return builder.add(left, right)

    return quad_type(totals), generate


@intrinsic
def farthest(typing: Any, totals: Any) -> tuple[Any, Callable[..., Any]]:
    """Return a vector like `totals` of what no total exceeds; four of it can be added."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _constant(2**29 - 1, arguments[0].type)

    return totals(totals), generate


@intrinsic
def plus(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the sum of totals in each lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.add(*arguments)

    return left(left, right), generate


@intrinsic
def no_totals(typing: Any) -> tuple[Any, Callable[..., Any]]:
    """Return four totals of zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _constant(0, _QUAD)

    return quad_type(), generate


@intrinsic
def load_quarters(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load ``array[row, column:column + 16]`` of a C-contiguous int32 matrix."""
    return quarters_type(array, row, column), _loader(_QUARTERS)


@intrinsic
def load_quad(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load ``array[row, column:column + 4]`` of a C-contiguous int32 matrix."""
    return quad_type(array, row, column), _loader(_QUAD)


@intrinsic
def store_totals(
    typing: Any, array: Any, row: Any, column: Any, totals: Any
) -> tuple[Any, Callable[..., Any]]:
    """Store 4 or 16 int32 to ``array[row, column:]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        pointer = builder.bitcast(address, arguments[3].type.as_pointer())
        builder.store(arguments[3], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, row, column, totals), generate


@intrinsic
def store_column(
    typing: Any, array: Any, row: Any, column: Any, quad: Any
) -> tuple[Any, Callable[..., Any]]:
    """Store four int32 to ``array[row:row + 4, column]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, row_bytes = _address(context, builder, signature, arguments)
        integer = ir.IntType(32)
        for lane in range(4):
            value = builder.extract_element(arguments[3], ir.Constant(integer, lane))
            builder.store(value, builder.bitcast(address, integer.as_pointer()), align=4)
            address = builder.gep(address, [row_bytes], source_etype=ir.IntType(8))
        return context.get_dummy_value()

    return types.void(array, row, column, quad_type), generate


@intrinsic
def smaller(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the smaller integer of each lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = arguments[0].type
        return _call(
            builder, f"llvm.smin.v{vector.count}i{vector.element.width}", vector, list(arguments)
        )

    return left(left, right), generate


@intrinsic
def none_below(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return whether no lane of left is below that of right."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        below = builder.icmp_signed("<", *arguments)
        lanes = ir.IntType(below.type.count)
        return builder.icmp_unsigned("==", builder.bitcast(below, lanes), ir.Constant(lanes, 0))

    return types.boolean(left, left), generate


# --- words of 64 bits ----------------------------------------------------------------------
#: Bits of codes up to which words are faster than bytes: by operations on three words at once, and
#: on those that count bits.
MOST_BITS = 1
if LANES == 64 and TARGET != "plain":
    MOST_BITS = 8 if llvm.get_host_cpu_features().get("avx512vpopcntdq") else 4
# What is said of bits of x, lower and upper happens to each bit of the words.


@intrinsic
def bit_word(
    typing: Any, array: Any, row: Any, column: Any, bit: Any
) -> tuple[Any, Callable[..., Any]]:
    """Return bit number `bit` of each of 64 bytes from ``array[row, column]`` on, as a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        many = ir.VectorType(ir.IntType(8), 64)
        codes = builder.load(builder.bitcast(address, many.as_pointer()), align=1, typ=many)
        shift = context.cast(builder, arguments[3], signature.args[3], types.uint8)
        wanted = builder.shl(ir.Constant(ir.IntType(8), 1), shift)
        chosen = builder.and_(codes, _everywhere(builder, wanted, many))
        return builder.bitcast(builder.icmp_unsigned("!=", chosen, many(None)), ir.IntType(64))

    return types.uint64(array, row, column, bit), generate


@intrinsic
def no_words(typing: Any) -> tuple[Any, Callable[..., Any]]:
    """Return words of zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_WORDS, None)

    return words_type(), generate


@intrinsic
def load_words(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load WORDS words of a C-contiguous matrix, from ``array[row, column]`` on."""
    return words_type(array, row, column), _loader(_WORDS)


@intrinsic
def same_word(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load the word ``array[row, column]`` into every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        pointer = builder.bitcast(address, _WORDS.element.as_pointer())
        return _everywhere(builder, builder.load(pointer, align=8, typ=_WORDS.element), _WORDS)

    return words_type(array, row, column), generate


@intrinsic
def store_words(
    typing: Any, array: Any, row: Any, column: Any, words: Any
) -> tuple[Any, Callable[..., Any]]:
    """Store words to ``array[row, column:]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        builder.store(arguments[3], builder.bitcast(address, _WORDS.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, row, column, words_type), generate


def _of_three(table: int, logic: Callable[..., Any]) -> Callable[..., Any]:
    """Return what combines three words: by one instruction, or by `logic` where there is none.

    Bit ``4 a + 2 b + c`` of `table` is the result for bits a, b, c.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if LANES < 64:
            return logic(builder, *arguments)
        half = WORDS // 2
        parts = []
        for first in (0, half):
            lanes = list(range(first, first + half))
            words = [_shuffle(builder, word, word, lanes) for word in arguments]
            number = ir.Constant(ir.IntType(32), table)
            name = "llvm.x86.avx512.pternlog.q.512"
            parts.append(_call(builder, name, words[0].type, [*words, number]))
        return _shuffle(builder, parts[0], parts[1], list(range(WORDS)))

    return generate


@intrinsic
def below_bit(typing: Any, below: Any, x: Any, lower: Any) -> tuple[Any, Callable[..., Any]]:
    """Return whether x is below the bound, where lower bits say `below`."""

    def logic(builder: Any, below: Any, x: Any, lower: Any) -> Any:
        differ = builder.xor(x, lower)
        return builder.xor(below, builder.and_(differ, builder.xor(below, lower)))

    return words_type(words_type, words_type, words_type), _of_three(0xB2, logic)


@intrinsic
def above_bit(typing: Any, above: Any, x: Any, upper: Any) -> tuple[Any, Callable[..., Any]]:
    """Return whether x is above the bound, where lower bits say `above`."""

    def logic(builder: Any, above: Any, x: Any, upper: Any) -> Any:
        differ = builder.xor(x, upper)
        return builder.xor(above, builder.and_(differ, builder.xor(above, x)))

    return words_type(words_type, words_type, words_type), _of_three(0xD4, logic)


@intrinsic
def outside_bit(typing: Any, x: Any, lower: Any, upper: Any) -> tuple[Any, Callable[..., Any]]:
    """Return whether x, of one bit, is outside the bounds."""

    def logic(builder: Any, x: Any, lower: Any, upper: Any) -> Any:
        above = builder.and_(x, builder.not_(upper))
        return builder.or_(above, builder.and_(lower, builder.not_(x)))

    return words_type(words_type, words_type, words_type), _of_three(0x5C, logic)


@intrinsic
def either(typing: Any, left: Any, right: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the bits that are set in one of two words, or in both."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.or_(*arguments)

    return words_type(words_type, words_type), generate


@intrinsic
def count_bits(typing: Any, counts: Any, words: Any) -> tuple[Any, Callable[..., Any]]:
    """Add to each count how many bits of its word are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        counts, words = arguments
        return builder.add(counts, _call(builder, f"llvm.ctpop.v{WORDS}i64", _WORDS, [words]))

    return words_type(words_type, words_type), generate


# --- samples in the lanes: 4 codes of each of 32 or 8 samples, and a sum for each -------------
# What training reads and writes: distances of a block of samples to a box, (box, sample), and
# the slopes of 32 columns of a box.


class _LanesType(_Vector):
    pass


def _lanes_type(name: str, element: int, count: int) -> _LanesType:
    return _LanesType(f"{name}{count}", ir.VectorType(ir.IntType(element), count))


#: Samples of a block, and columns of a tile of slopes.
BLOCK = 32
_CODES = {count: _lanes_type("codes", 8, count) for count in (32, 128)}
_LANE_SUMS = {count: _lanes_type("lane_sums", 32, count) for count in (8, 32)}
register_model(_LanesType)(_VectorModel)


def _quarter_sums(builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value) -> ir.Value:
    """Add groups of four bytes to 32-bit sums, in vectors of the processor's length or half."""
    count = codes.type.count
    if count > LANES:
        half = count // 2
        parts = [
            _quarter_sums(
                builder,
                _shuffle(builder, sums, sums, list(range(k // 4, (k + half) // 4))),
                _shuffle(builder, codes, codes, list(range(k, k + half))),
            )
            for k in (0, half)
        ]
        return _shuffle(builder, parts[0], parts[1], list(range(count // 4)))
    bits, width = 8 * count, sums.type
    if _USE_VNNI:
        ones, values = builder.bitcast(_constant(1, codes.type), width), codes
        arguments = [sums, builder.bitcast(values, width), ones]
        return _call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", width, arguments)
    pairs = ir.VectorType(ir.IntType(16), count // 2)
    names = {
        256: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
        512: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
    }[bits]
    twos = _call(builder, names[0], pairs, [codes, _constant(1, codes.type)])
    return builder.add(sums, _call(builder, names[1], width, [twos, _constant(1, pairs)]))


class SampleLanes:
    """Intrinsics on 4 codes each of `count` samples; see the functions above."""

    def __init__(self, count: int) -> None:
        codes_type, lanes_type = _CODES[4 * count], _LANE_SUMS[count]
        codes, lanes = codes_type.llvm_type, lanes_type.llvm_type

        @intrinsic
        def load_codes(typing: Any, array: Any, row: Any, column: Any) -> Any:
            """Load the codes of the samples from ``array[row, column]`` on."""

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                address, _ = _address(context, builder, signature, arguments)
                return builder.load(
                    builder.bitcast(address, codes.as_pointer()), align=1, typ=codes
                )

            return codes_type(array, row, column), generate

        @intrinsic
        def splat_four(typing: Any, array: Any, row: Any, column: Any) -> Any:
            """Return ``array[row, column:column + 4]``, uint8, for every sample."""

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                address, _ = _address(context, builder, signature, arguments)
                word = ir.IntType(32)
                four = builder.load(builder.bitcast(address, word.as_pointer()), align=1, typ=word)
                return builder.bitcast(_everywhere(builder, four, lanes), codes)

            return codes_type(array, row, column), generate

        @intrinsic
        def splat_code(typing: Any, value: Any) -> Any:
            """Return a vector that holds the uint8 `value` everywhere."""

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return _everywhere(builder, arguments[0], codes)

            return codes_type(types.uint8), generate

        @intrinsic
        def no_codes(typing: Any) -> Any:
            """Return zero everywhere."""
            return codes_type(), lambda *arguments: _constant(0, codes)

        @intrinsic
        def grown(typing: Any, excess: Any, x: Any, lower: Any, upper: Any) -> Any:
            """Add to a saturating excess how far each code lies outside [lower, upper]."""

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                before, x, lower, upper = arguments
                name = f"v{codes.count}i8"
                high = _call(builder, f"llvm.umax.{name}", codes, [x, lower])
                low = _call(builder, f"llvm.umin.{name}", codes, [x, upper])
                more = builder.sub(high, low)  # x itself, or the bound, on either side
                return _call(builder, f"llvm.uadd.sat.{name}", codes, [before, more])

            return codes_type(codes_type, codes_type, codes_type, codes_type), generate

        @intrinsic
        def no_lanes(typing: Any) -> Any:
            """Return sums of zero."""
            return lanes_type(), lambda *arguments: _constant(0, lanes)

        @intrinsic
        def add_capped(typing: Any, sums: Any, excess: Any, cap: Any) -> Any:
            """Add the excess of each sample's four codes, capped."""

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                sums, excess, cap = arguments
                capped = _call(builder, f"llvm.umin.v{codes.count}i8", codes, [excess, cap])
                return _quarter_sums(builder, sums, capped)

            return lanes_type(lanes_type, codes_type, codes_type), generate

        @intrinsic
        def store_lanes(typing: Any, array: Any, row: Any, column: Any, sums: Any) -> Any:
            """Store the sums to ``array[row, column:]``, int32."""

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                address, _ = _address(context, builder, signature, arguments)
                builder.store(arguments[3], builder.bitcast(address, lanes.as_pointer()), align=4)
                return context.get_dummy_value()

            return types.void(array, row, column, lanes_type), generate

        self.load_codes, self.splat_four, self.splat_code = load_codes, splat_four, splat_code
        self.no_codes, self.grown, self.no_lanes = no_codes, grown, no_lanes
        self.add_capped, self.store_lanes = add_capped, store_lanes


#: Of a whole block of samples, and of a quarter of it.
block_lanes, quarter_lanes = SampleLanes(32), SampleLanes(8)


@intrinsic
def lanes_within(
    typing: Any, distance: Any, row: Any, limit: Any
) -> tuple[Any, Callable[..., Any]]:
    """Return in which of 32 lanes ``distance[row]`` is at most ``limit[0]``, as bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, index = _LANE_SUMS[BLOCK].llvm_type, types.intp
        zero = context.get_constant(index, 0)
        at = context.cast(builder, arguments[1], signature.args[1], index)
        sides = []
        for number, first in ((0, at), (2, zero)):
            where = types.none(signature.args[number], index, index)
            address, _ = _address(context, builder, where, (arguments[number], first, zero))
            pointer = builder.bitcast(address, lanes.as_pointer())
            sides.append(builder.load(pointer, align=4, typ=lanes))
        return builder.bitcast(builder.icmp_signed("<=", *sides), ir.IntType(32))

    return types.uint32(distance, row, limit), generate


@intrinsic
def first_lane(typing: Any, lanes: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the number of the lowest bit of a uint32 that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.cttz(arguments[0], ir.IntType(1)(1)), ir.IntType(64))

    return types.int64(types.uint32), generate


# --- columns in the lanes: the slopes of 32 columns of a box ----------------------------------

_TILE_CODES, _SLOPES = _CODES[BLOCK], _LANE_SUMS[BLOCK]


@intrinsic
def load_tile(typing: Any, array: Any, row: Any, column: Any) -> tuple[Any, Callable[..., Any]]:
    """Load 32 codes from ``array[row, column]`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        kind = _TILE_CODES.llvm_type
        return builder.load(builder.bitcast(address, kind.as_pointer()), align=1, typ=kind)

    return _TILE_CODES(array, row, column), generate


@intrinsic
def no_slopes(typing: Any) -> tuple[Any, Callable[..., Any]]:
    """Return 32 slopes of zero."""
    return _SLOPES(), lambda *arguments: _constant(0, _SLOPES.llvm_type)


@intrinsic
def add_where(
    typing: Any, slopes: Any, left: Any, right: Any, q: Any
) -> tuple[Any, Callable[..., Any]]:
    """Add the int32 q where left is above right."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        slopes, left, right, q = arguments
        above = builder.icmp_unsigned(">", left, right)
        added = _everywhere(builder, q, _SLOPES.llvm_type)
        return builder.add(slopes, builder.select(above, added, _constant(0, added.type)))

    return _SLOPES(_SLOPES, _TILE_CODES, _TILE_CODES, types.int32), generate


@intrinsic
def add_within(
    typing: Any, slopes: Any, left: Any, right: Any, excess: Any, width: Any, q: Any, q_leak: Any
) -> tuple[Any, Callable[..., Any]]:
    """Add, where left is above right, the int32 q, or q_leak where the excess is above `width`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        slopes, left, right, excess, width, q, q_leak = arguments
        beyond = builder.icmp_unsigned(
            ">", excess, _everywhere(builder, width, _TILE_CODES.llvm_type)
        )
        lanes = (_everywhere(builder, value, _SLOPES.llvm_type) for value in (q_leak, q))
        inside = builder.select(beyond, *lanes)
        above = builder.icmp_unsigned(">", left, right)
        return builder.add(slopes, builder.select(above, inside, _constant(0, inside.type)))

    integers = types.uint8, types.int32, types.int32
    return _SLOPES(_SLOPES, _TILE_CODES, _TILE_CODES, _TILE_CODES, *integers), generate


@intrinsic
def store_slopes(
    typing: Any, array: Any, row: Any, column: Any, slopes: Any
) -> tuple[Any, Callable[..., Any]]:
    """Store 32 slopes to ``array[row, column:]``, float64; return whether any is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, _ = _address(context, builder, signature, arguments)
        wide = ir.VectorType(ir.DoubleType(), BLOCK)
        values = builder.sitofp(arguments[3], wide)
        builder.store(values, builder.bitcast(address, wide.as_pointer()), align=8)
        some = builder.icmp_signed("!=", arguments[3], _constant(0, _SLOPES.llvm_type))
        return builder.icmp_unsigned("!=", builder.bitcast(some, ir.IntType(32)), ir.IntType(32)(0))

    return types.boolean(array, row, column, _SLOPES), generate
