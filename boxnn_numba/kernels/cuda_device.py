"""CUDA device functions: compilation, the formulas, and sums of bytes.

Imported only where a GPU is asked for. With ``NUMBA_ENABLE_CUDASIM=1`` everything runs as
Python in Numba's simulator, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cuda

from boxnn_numba.errors import OptionError
from boxnn_numba.kernels import formulas

#: Whether kernels run in the simulator; it starts a Python thread for each of a block's threads.
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)

#: ``BOXNN_CUDA_SUMS``: "packed" sums byte differences by one instruction of four, "plain" by any.
FORMS = ("packed", "plain")
FORM = os.environ.get("BOXNN_CUDA_SUMS", "packed")
if FORM not in FORMS:
    raise OptionError(f"BOXNN_CUDA_SUMS is {FORM!r}; it must be one of {', '.join(FORMS)}")

_BYTE = np.uint32(0xFF)

# Small arrays need few threads; that is not worth a warning at every launch.
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


def kernel(threads: int, blocks: int = 1) -> Callable[..., Any]:
    """Compile a kernel for blocks of `threads` threads, `blocks` of them together on a processor.

    No fastmath: results must not depend on the device.
    """
    if SIMULATED:
        return cuda.jit
    return cuda.jit(launch_bounds=(threads, blocks))


def device(function: Any) -> Any:
    """Compile a function that kernels call, in whose module `cuda` is that of the kernel."""
    return function if SIMULATED else cuda.jit(device=True)(function)


# --- formulas -----------------------------------------------------------------------------

if SIMULATED:

    def product(a: Any, b: Any) -> Any:
        """Return a * b in double precision, as compiled; NumPy would stay with float32."""
        return np.float64(a) * np.float64(b)

else:
    from numba.cuda import libdevice

    @device
    def product(a, b):
        """Return a * b by an instruction of its own: it is not fused with an addition."""
        return libdevice.dmul_rn(a, b)


def _formulas() -> dict[str, Any]:
    """Return device functions of `formulas`, with the product that is never fused."""
    names: dict[str, Any] = {**vars(formulas), "product": product}
    made = {}
    for name, function in vars(formulas).items():
        ours = getattr(function, "__module__", "") == formulas.__name__
        if ours and isinstance(function, FunctionType) and name != "product":
            # The same code, but the functions it calls are looked up among the device functions.
            names[name] = made[name] = device(FunctionType(function.__code__, names, name))
    return made


FORMULAS = _formulas()


# --- sums over the four bytes of a word ---------------------------------------------------


@device
def byte_of(word, index):
    """Return byte 0..3 of a word as int32."""
    return np.int32((word >> np.uint32(8 * index)) & _BYTE)


@device
def _plain_sad(a, b, total):
    for j in range(4):
        total += abs(byte_of(a, j) - byte_of(b, j))
    return np.int32(total)


@device
def squares(a, b, total):
    """Return `total` plus the squared differences of the bytes of two words."""
    for j in range(4):
        difference = byte_of(a, j) - byte_of(b, j)
        total += difference * difference
    return np.int32(total)


def _simulated_sad(a: Any, b: Any, total: Any) -> Any:
    left, right = int(a).to_bytes(4, "little"), int(b).to_bytes(4, "little")
    return np.int32(total + sum(abs(p - q) for p, q in zip(left, right, strict=True)))


def _packed_sad() -> Any:
    from numba.cuda.extending import intrinsic
    from numba.cuda.types import int32, uint32

    @intrinsic
    def packed_sad(context, a, b, total):
        def generate(context, builder, signature, arguments):
            word = ir.IntType(32)
            instruction = ir.InlineAsm(
                ir.FunctionType(word, [word] * 3),
                "vabsdiff4.u32.u32.u32.add $0, $1, $2, $3;",
                "=r,r,r,r",
            )
            return builder.call(instruction, arguments)

        return int32(uint32, uint32, int32), generate

    return packed_sad


#: ``sad(a, b, total)``: `total` plus the absolute differences of the bytes of two words.
sad = _plain_sad if FORM == "plain" else _simulated_sad if SIMULATED else _packed_sad()
