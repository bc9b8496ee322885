"""How vector operations become Numba intrinsics, and the instruction set that they are for.

`TARGET` names the instruction set that all vectors are compiled for; it is ``"plain"`` where the
processor has none of the supported ones, and then loops that use no vectors serve instead. The
environment variable ``BOXNN_SIMD`` (one of `TARGETS`) overrides the choice.

An operation is a function of an LLVM builder and values that returns a value; `operation` and
`at_address` make an intrinsic of it, whose arguments are cast to the operands named there.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
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
    # Without the compiler there are no intrinsics; Numba sets this attribute at import.
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
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
#: Bytes of a vector.
LANES = TARGETS[TARGET]
#: Whether one instruction adds up groups of four bytes.
USE_VNNI = TARGET == "avx512vnni"


class Vector(types.Type):
    """The Numba type of a vector of `count` integers of `bits` bits."""

    def __init__(self, name: str, bits: int, count: int) -> None:
        super().__init__(name=f"{name}{count}<{TARGET}>")
        self.llvm_type = ir.VectorType(ir.IntType(bits), count)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm_type)


#: An operand that is taken as it comes.
ANY = None
_Operand = types.Type | None
_Intrinsic = Callable[..., Any]


def operation(
    result: types.Type | None, *operands: _Operand
) -> Callable[[Callable[..., ir.Value]], _Intrinsic]:
    """Make an intrinsic of ``build(builder, *values)``.

    Parameters
    ----------
    result
        Its type; `ANY` for the type of the first operand.
    *operands
        Types of the values; those that are `ANY` but for the first have the type of the first.
    """

    def wrap(build: Callable[..., ir.Value]) -> _Intrinsic:
        def typing(context: Any, *given: types.Type) -> Any:
            taken = [given[0] if operand is ANY else operand for operand in operands]
            return (result or taken[0])(*taken), generate

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return build(builder, *arguments)

        return _intrinsic(typing, build)

    return wrap


def at_address(
    result: types.Type, *operands: _Operand
) -> Callable[[Callable[..., ir.Value | None]], _Intrinsic]:
    """Make an intrinsic of (array, row, column, \\*values) of ``build(builder, address, *values)``.

    The address is that of ``array[row, column]``, in bytes, of a C-contiguous array; a vector
    with one dimension is a column. Operands as for `operation`, but `ANY` stays as it comes.
    """

    def wrap(build: Callable[..., ir.Value | None]) -> _Intrinsic:
        def typing(context: Any, array: Any, row: Any, column: Any, *given: types.Type) -> Any:
            taken = [
                known if operand is ANY else operand
                for known, operand in zip(given, operands, strict=True)
            ]
            return result(array, types.intp, types.intp, *taken), generate

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = _address(context, builder, signature.args[0], arguments[:3])
            value = build(builder, address, *arguments[3:])
            return context.get_dummy_value() if value is None else value

        return _intrinsic(typing, build, "array", "row", "column")

    return wrap


def _intrinsic(typing: Callable[..., Any], build: Callable[..., Any], *first: str) -> _Intrinsic:
    """Return the intrinsic that `typing` declares, with the name and the arguments of `build`."""
    # Numba reads from the signature how many arguments there are.
    values = list(inspect.signature(build).parameters)[2 if first else 1 :]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typing", *first, *values]
    typing.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    typing.__name__, typing.__doc__ = build.__name__, build.__doc__
    made: _Intrinsic = intrinsic(typing)
    return made


def _address(context: Any, builder: ir.IRBuilder, array: Any, place: Sequence[ir.Value]) -> Any:
    """Return the address of ``array[row, column]``, as one of bytes."""
    if array.layout != "C":
        raise TypeError(f"{array} is not C-contiguous")
    view = context.make_array(array)(context, builder, place[0])
    item = ir.Constant(place[1].type, array.dtype.bitwidth // 8)
    across = builder.mul(place[1], builder.extract_value(view.strides, 0))
    offset = builder.add(across, builder.mul(place[2], item))
    base = builder.bitcast(view.data, ir.IntType(8).as_pointer())
    return builder.gep(base, [offset], source_etype=ir.IntType(8))


def read(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int = 0) -> ir.Value:
    """Return what is at an address, aligned as the integers of a vector are."""
    align = align or kind.element.width // 8
    return builder.load(builder.bitcast(address, kind.as_pointer()), align=align, typ=kind)


def write(builder: ir.IRBuilder, address: ir.Value, value: ir.Value, align: int = 0) -> None:
    """Store a value at an address, aligned as the numbers of a vector are."""
    align = align or value.type.element.width // 8
    builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=align)


def loader(vector: Vector) -> _Intrinsic:
    """Return the intrinsic that loads a vector of integers from ``array[row, column]`` on."""

    @at_address(vector)
    def load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
        return read(builder, address, vector.llvm_type)

    return load


def storer(vector: Vector) -> _Intrinsic:
    """Return the intrinsic that stores a vector of integers to ``array[row, column:]``."""

    @at_address(types.void, vector)
    def store(builder: ir.IRBuilder, address: ir.Value, values: ir.Value) -> None:
        write(builder, address, values)

    return store


def zeros(vector: Vector) -> _Intrinsic:
    """Return the intrinsic that gives zero in every lane."""

    @operation(vector)
    def no_values(builder: ir.IRBuilder) -> ir.Value:
        return constant(0, vector.llvm_type)

    return no_values


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call an intrinsic of LLVM."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, arguments)


def lanewise(builder: ir.IRBuilder, name: str, *arguments: ir.Value) -> ir.Value:
    """Call an intrinsic of LLVM that takes and returns vectors of one type, like ``"umin"``."""
    vector = arguments[0].type
    full = f"llvm.{name}.v{vector.count}i{vector.element.width}"
    return call(builder, full, vector, *arguments)


def constant(value: int, vector: ir.VectorType) -> ir.Constant:
    """Return a vector that holds a number in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def everywhere(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Return a vector that holds a value in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return shuffle(builder, single, undefined, [0] * vector.count)


def shuffle(
    builder: ir.IRBuilder, left: ir.Value, right: ir.Value, lanes: Sequence[int]
) -> ir.Value:
    """Return the lanes with these numbers; those of right come after those of left."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(left, right, mask)


def none_set(builder: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    """Return whether no lane of a vector of single bits is set."""
    mask = ir.IntType(lanes.type.count)
    return builder.icmp_unsigned("==", builder.bitcast(lanes, mask), ir.Constant(mask, 0))
