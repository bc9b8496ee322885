"""What tests of the GPU share: whether there is one, and arrays on it."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import numpy as np

#: Kernels run as Python in Numba's simulator, one thread for each of the GPU's.
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
if SIMULATED:
    # The simulator polls its threads; they get their turns only if it is interrupted often.
    sys.setswitchinterval(1e-4)


def _shared_array(self: Any, shape: Any, dtype: Any) -> np.ndarray:
    """Return the array of a block of threads that a line of a kernel asks for.

    The simulator's own function looks for it and then makes it: now and then two threads both do.
    """
    frame = sys._getframe(1)
    place = frame.f_code.co_filename, frame.f_lineno
    return np.asarray(self._allocations.setdefault(place, np.empty(shape, dtype)))


if SIMULATED and importlib.util.find_spec("numba_cuda") is not None:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    FakeCUDAShared.array = _shared_array


def why_not() -> str | None:
    """Return why nothing can run on a GPU here, or None."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    if SIMULATED:
        return None
    from boxnn_numba.backends.devices import _gpu_present

    return None if _gpu_present() else "no NVIDIA GPU here"


def to_gpu(array: np.ndarray) -> Any:
    """Return a copy on the GPU: CuPy's, or Numba's where CuPy is not installed (the simulator)."""
    if not SIMULATED and importlib.util.find_spec("cupy") is not None:
        import cupy

        return cupy.asarray(array)
    from numba import cuda

    return cuda.to_device(np.ascontiguousarray(array))


def to_host(array: Any) -> np.ndarray:
    """Return an array of the GPU as NumPy's."""
    return np.asarray(array.get() if hasattr(array, "get") else array.copy_to_host())
