"""Compilation policy for every kernel: nogil, no fastmath, a cache on disk, machine code once.

Numba optimises every function and makes machine code of it before another may call it, and does
both again in each caller. Helpers of kernels are never called on their own. So here they stay as
they were lowered until a kernel has all of its helpers; then it is optimised as a whole. That
halves the time.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba.core.bytecode import FunctionIdentity
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import overload
from numba.extending import register_jitable as register_compiled

from boxnn_numba import progress
from boxnn_numba.kernels import claims
from boxnn_numba.kernels.cache import KernelCache


# Helpers that a factory makes have one name, and in symbols only a number tells them apart, which
# every process counts from 1. Kernels that two processes compiled and kept could then have symbols
# in common for different code, and a third process that loads both would run the first for both.
# Processes that were forked would all go on counting from where their parent was.
def _count_from_anywhere() -> None:
    FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6), "big"))


_count_from_anywhere()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_count_from_anywhere)


class _HelperCode(JITCodeLibrary):
    """The code of a helper: it is linked into kernels, and has no address of its own."""

    def finalize(self) -> None:
        """Do nothing yet: the kernel takes over what this is linked with."""
        self._raise_if_finalized()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0, as for a function that does not exist."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        return _NoEnvironment


class _NoEnvironment:
    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        """Do nothing: code without an address has no environment in memory yet."""


class _KernelCode(JITCodeLibrary):
    """The code of a kernel, with all helpers that it or they call."""

    def add_linking_library(self, library: Any) -> None:
        """Link a library, and those that it would have been linked with itself."""
        if library not in self._linking_libraries:
            super().add_linking_library(library)
            if isinstance(library, _HelperCode):
                for further in library._linking_libraries:
                    self.add_linking_library(further)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Switch off the garbage collector: it finds little, and looks at all that Numba has made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _HelperCompiler(Compiler):
    _code: type[JITCodeLibrary] = _HelperCode

    def compile_extra(self, func: Callable[..., Any]) -> Any:
        state = self.state
        state.flags.no_cfunc_wrapper = True
        state.library = self._code(state.targetctx.codegen(), func.__qualname__)
        state.library.enable_object_caching()
        return super().compile_extra(func)


class _KernelCompiler(_HelperCompiler):
    _code = _KernelCode

    def compile_extra(self, func: Callable[..., Any]) -> Any:
        with progress.compiling(), _uncollected():
            result = super().compile_extra(func)
        # Code of a helper that raises or prints finds its constants here; now this has an address.
        for environment in result._find_referenced_environments():
            result.codegen.set_env(environment.env_name, environment)
        return result


def register_jitable(
    function: Callable[..., Any] | None = None, *, allocates: bool = True, **options: Any
) -> Any:
    """Make a function one that kernels may call, as Numba's decorator of this name does.

    A function that makes no arrays counts no references. Counting costs as much as some tens of
    additions for each view of a row, and keeps a loop from being vectorised.
    """
    if not allocates:
        options["_nrt"] = False
    register = register_compiled(pipeline_class=_HelperCompiler, **options)
    return register if function is None else register(function)


def unless(field: str, instead: Callable[..., Any]) -> Any:
    """Make a function one that kernels may call, where a field of its first argument is not None.

    If it is None, `instead` is called. The type decides, so a kernel is compiled with one of the
    two. The argument is a named tuple that is held.
    """

    options: Any = {"pipeline_class": _HelperCompiler}

    def register(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def either(first: Any, *further: Any) -> Any:
            return (instead if getattr(first, field) is None else function)(first, *further)

        @overload(either, jit_options=options, strict=False)
        def chosen(first: Any, *_: Any) -> Callable[..., Any]:
            return instead if first.has_none(field) else function

        return either

    return register


@register_jitable
def nothing(*_):
    """Do nothing, in place of a function that is not needed."""


@register_jitable
def fill(into, value):
    """Set a row of numbers to one; an assignment to a slice would take far longer to compile."""
    for i in range(len(into)):
        into[i] = value


class _Cache(KernelCache):
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a compiled kernel that was kept, or None."""
        _load_numba()
        return super().load_overload(sig, target_context)


@functools.cache
@global_compiler_lock
def _load_numba() -> None:
    """Load what Numba loads before its first kernel, but for ``scipy.linalg``.

    Numba looks there for a BLAS, which takes as long as all else. No kernel needs one, and code
    that does looks for it itself.
    """
    from numba.np import linalg

    with contextlib.suppress(AttributeError):  # a version of Numba that has no such function
        found = linalg.ensure_blas
        linalg.ensure_blas = lambda: None
        try:
            import numba.np.arraymath  # noqa: F401
        finally:
            linalg.ensure_blas = found


#: How kernels are compiled; nothing calls them from C.
_POLICY: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
    "pipeline_class": _KernelCompiler,
}


def kernel(
    function: Callable[..., Any] | None = None, *, name: str | None = None, allocates: bool = False
) -> Any:
    """Compile a function for CPU threads: no GIL, IEEE arithmetic, cached.

    A kernel from a factory is given a name that is unique in its module. Only a kernel that makes
    arrays itself `allocates`: it counts references to all of them, see `register_jitable`.
    """
    if function is None:
        return functools.partial(kernel, name=name, allocates=allocates)
    if name is not None:
        function.__name__ = function.__qualname__ = name
    policy: dict[str, Any] = {**_POLICY, "_nrt": allocates}
    compiled = numba.njit(**policy)(function)
    if hasattr(compiled, "py_func"):  # not so with NUMBA_DISABLE_JIT=1
        compiled._cache = _Cache(function)
        # A kernel is claimed when it is looked for. Claims end here, whatever Numba does in
        # between.
        compiled.compile = claims.given_up()(compiled.compile)
    return compiled
