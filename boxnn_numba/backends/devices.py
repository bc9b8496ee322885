"""Devices by name: the backend of each, made once; GPU libraries are imported on first use."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal, overload

from boxnn_numba import validation
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.threads import default_threads
from boxnn_numba.errors import BackendError

if TYPE_CHECKING:
    from boxnn_numba.backends.cuda import CudaBackend

DEVICES = ("cpu", "cuda", "auto")


@overload
def get_backend(device: Literal["cpu"], threads: int | None = None) -> CpuBackend: ...
@overload
def get_backend(
    device: Literal["cuda"], threads: int | None = None, chunk: int | None = None
) -> CudaBackend: ...
@overload
def get_backend(
    device: str = "auto", threads: int | None = None, chunk: int | None = None
) -> CpuBackend | CudaBackend: ...
def get_backend(
    device: str = "auto", threads: int | None = None, chunk: int | None = None
) -> CpuBackend | CudaBackend:
    """Return the backend for a device.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"`` (an NVIDIA GPU), or ``"auto"``: the GPU where there is one and the
        extra ``cuda`` is installed. A GPU that does not work is not used, and a warning says so.
    threads
        Threads to use; all cores that this process may use by default (or ``BOXNN_NUM_THREADS``).
    chunk
        Rows of an array in the host's memory that are on the GPU at a time; by default what fits
        easily.

    Raises
    ------
    OptionError
        Unknown device, or a thread count or chunk below 1.
    BackendError
        The device is known but not usable here.
    """
    validation.choice("device", device, DEVICES)
    if chunk is not None:
        validation.positive("chunk", chunk)
    cpu = _cpu_backend(default_threads() if threads is None else threads)
    if device == "cpu" or (device == "auto" and not _gpu_usable()):
        return cpu
    return _cuda_backend(cpu.threads, chunk)


@functools.cache
def _cpu_backend(threads: int) -> CpuBackend:
    return CpuBackend(threads)


if sys.platform != "win32":
    # A forked process has none of its parent's threads, and would wait for them forever.
    os.register_at_fork(after_in_child=_cpu_backend.cache_clear)


@functools.cache
def _cuda_backend(threads: int, chunk: int | None) -> CudaBackend:
    # The error for a Numba that only has its own, deprecated CUDA target comes from here too.
    if importlib.util.find_spec("numba_cuda") is None:
        raise BackendError(
            "device cuda needs numba-cuda; `pip install 'boxnn-numba[cuda]'` or use `device` cpu"
        )
    from boxnn_numba.backends.cuda import CudaBackend

    return CudaBackend(_cpu_backend(threads), chunk)


@functools.cache
def _gpu_usable() -> bool:
    """Whether device auto is the GPU."""
    if not _gpu_present():
        return False
    from boxnn_numba.backends.cuda_runtime import check_device

    try:
        check_device()
    except BackendError as error:
        warnings.warn(f"{error}; device auto uses the CPU", stacklevel=3)
        return False
    return True


@functools.cache
def _gpu_present() -> bool:
    """Whether there is a GPU with a driver, and numba-cuda; asked without importing it."""
    if importlib.util.find_spec("numba_cuda") is None:
        return False
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return found and count.value > 0


def on_gpu(array: Any) -> bool:
    """Whether an array (CuPy, PyTorch, Numba) is in the memory of a GPU."""
    return hasattr(array, "__cuda_array_interface__") or hasattr(array, "__cuda_ndarray__")
