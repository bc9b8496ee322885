"""Compilation policy for every kernel: nogil, no fastmath, and a cache that cannot go stale.

Numba's own cache notices only a change of the file that holds the kernel, not
of the formulas it calls in other files. Here the folder of the cache is named
by a digest of all kernel sources, the version of Numba and the instruction set.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

from boxnn_numba.kernels import simd


def cache_directory() -> Path:
    """Return where compiled kernels are kept; ``BOXNN_CACHE_DIR`` overrides the user's cache."""
    override = os.environ.get("BOXNN_CACHE_DIR")
    if override:
        return Path(override) / _source_digest()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "boxnn-numba" / "kernels" / _source_digest()


@functools.cache
def _source_digest() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {simd.TARGET} {sys.version}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class _Locator(caching._CacheLocator):
    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return _source_digest()

    def get_disambiguator(self) -> None:
        return None

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls()


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes: Any = (_Locator,)


class _KernelCache(caching.Cache):
    _impl_class = _Implementation  # type: ignore[assignment]

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        # The folder already identifies the sources, and kernels have distinct names.
        return sig, codegen.magic_tuple()

    # A cache that cannot be read or written (full disk, read-only home, damaged file) only
    # costs time: the kernel is compiled again.
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with contextlib.suppress(OSError, EOFError, ValueError, pickle.UnpicklingError):
            return super().load_overload(sig, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


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
        compiled._cache = _KernelCache(function)  # type: ignore[attr-defined]
    return compiled
