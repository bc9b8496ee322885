"""CUDA runtime of the backend: the device, streams, arrays of callers, errors."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.cudadrv import error as cuda_errors
from numba.cuda.cudadrv.driver import CudaAPIError

from boxnn_numba.errors import BackendError, InputError
from boxnn_numba.kernels import cuda_distances
from boxnn_numba.kernels.cuda_device import SIMULATED

#: Oldest compute capability that the CUDA 13 compiler knows.
OLDEST = (7, 5)
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_MIB = 2**20
# The simulator has no compiler that could be missing.
_NO_COMPILER = (getattr(cuda_errors, "NvvmSupportError", cuda_errors.CudaSupportError),)


def check_device() -> None:
    """Raise unless there is a GPU here that can run the kernels.

    Raises
    ------
    BackendError
        No driver, no GPU, one that is too old, or no compiler for it.
    """
    try:
        if SIMULATED:
            return
        device = cuda.get_current_device()
        found = device.compute_capability
        if found < OLDEST:
            name = device.name.decode() if isinstance(device.name, bytes) else device.name
            raise BackendError(
                f"{name} has compute capability {found[0]}.{found[1]}; device cuda needs "
                f"{OLDEST[0]}.{OLDEST[1]} or newer, use `device` cpu"
            )
        # The smallest kernel shows whether kernels can be compiled for it.
        launch(cuda_distances.fill, 1, cuda.device_array(1, np.int32), np.int32(0))
    except cuda_errors.CudaSupportError as error:
        raise BackendError(
            f"device cuda found no usable NVIDIA driver ({_reason(error)}); install one or use "
            "`device` cpu"
        ) from error
    except _NO_COMPILER as error:
        raise BackendError(
            f"device cuda has no compiler ({_reason(error)}); `pip install 'boxnn-numba[cuda]'`"
        ) from error
    except _library_errors() as error:
        raise BackendError(
            f"device cuda does not work here ({_reason(error)}); update the NVIDIA driver or use "
            "`device` cpu"
        ) from error


def _library_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the libraries below numba-cuda, which it passes on unchanged.

    A driver older than the compiler fails where code is linked or loaded.
    """
    found: list[type[Exception]] = [CudaAPIError]
    for module, name in (
        ("numba.cuda.cudadrv.driver", "LinkerError"),
        ("cuda.core._utils.cuda_utils", "CUDAError"),
        ("cuda.bindings.nvvm", "nvvmError"),
        ("cuda.bindings.nvjitlink", "nvJitLinkError"),
        ("cuda.pathfinder", "DynamicLibNotFoundError"),
    ):
        with contextlib.suppress(ImportError, AttributeError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if not line.endswith(":")]
    return (useful or lines or [type(error).__name__])[0].rstrip(".")


def free_memory() -> float:
    """Return how many bytes the GPU has left; infinite in the simulator."""
    context = cuda.current_context()
    if not SIMULATED:
        # Numba keeps unused memory for a while, and the driver counts it as taken.
        context.memory_manager.deallocations.clear()
    return float(context.get_memory_info().free)


@contextlib.contextmanager
def enough_memory(needed: float, advice: str) -> Iterator[None]:
    """Turn running out of the GPU's memory into one line that says what is needed.

    It raises `BackendError` if there are less than `needed` bytes, before or while the body runs.
    """
    free = free_memory()
    try:
        if needed <= free:
            yield
            return
    except CudaAPIError as error:
        if error.code != _OUT_OF_MEMORY:
            raise
    raise BackendError(
        f"the GPU has {free / _MIB:.0f} MiB of memory free and this needs {needed / _MIB:.0f} MiB; "
        f"{advice}"
    )


def current_stream() -> Any:
    """Return the stream that work of this thread goes to: CuPy's current one, if CuPy is in use."""
    cupy = sys.modules.get("cupy")
    if cupy is None or SIMULATED:
        return cuda.default_stream()
    return cuda.external_stream(cupy.cuda.get_current_stream().ptr)


def send(array: np.ndarray) -> Any:
    """Return a copy on the GPU that work on any stream may read.

    The driver may return before unpinned memory has arrived. It arrives on the default stream, and
    streams of callers need not wait for that one.
    """
    sent = cuda.to_device(array)
    cuda.default_stream().synchronize()
    return sent


def launch(kernel: Any, count: int, *arguments: Any, stream: Any = 0) -> None:
    """Run a kernel that has one thread for each of `count` things, in lines of threads."""
    blocks = -(-count // cuda_distances.LINE)
    if blocks:
        kernel[blocks, cuda_distances.LINE, stream](*arguments)


def wrap(array: Any) -> Any:
    """Return an array of a caller, in the GPU's memory, as kernels take it; nothing is copied."""
    if hasattr(array, "__cuda_ndarray__"):
        return array
    # Work goes to the caller's own stream, so there is nothing to wait for.
    return cuda.as_cuda_array(array, sync=False)


def new_like(array: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a new array on the GPU, of the caller's kind: CuPy's for CuPy's, else Numba's."""
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy.empty(shape, dtype)
    return cuda.device_array(shape, dtype)


def checked(
    name: str, array: Any, dtype: Any, shape: tuple[int | None, ...], empty: bool = False
) -> Any:
    """Return an array of a caller as kernels take it, if its type, shape and layout are right.

    Else `InputError` is raised: nothing on a GPU is converted or copied. With `empty` there may be
    no rows.
    """
    found = wrap(array)
    fits = len(found.shape) == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype != dtype or not found.is_c_contiguous() or 0 in found.shape[empty:]:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(
            f"{name} is {found.dtype} of shape {tuple(found.shape)} on the GPU; it must be "
            f"C-contiguous {np.dtype(dtype)} of shape ({wanted})"
        )
    return found
