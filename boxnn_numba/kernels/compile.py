"""Compilation policy for every kernel: nogil, no fastmath, and a cache on disk."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import numba
from numba.core.bytecode import FunctionIdentity

from boxnn_numba.kernels.cache import KernelCache

# Helpers that a factory makes have one name, and in symbols only a number tells them apart, which
# every process counts from 1. Kernels that two processes compiled and kept could then have symbols
# in common for different code, and a third process that loads both would run the first for both.
FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "big"))


def kernel(function: Callable[..., Any] | None = None, *, name: str | None = None) -> Any:
    """Compile a function for CPU threads: no GIL, IEEE arithmetic, cached.

    Where it is made by a factory, it is given a name that is unique in its module.
    """
    if function is None:
        return functools.partial(kernel, name=name)
    if name is not None:
        function.__name__ = function.__qualname__ = name
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    if hasattr(compiled, "py_func"):  # not so with NUMBA_DISABLE_JIT=1
        compiled._cache = KernelCache(function)  # type: ignore[attr-defined]
    return compiled
