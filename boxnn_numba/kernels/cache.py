"""Cache of compiled kernels on disk: never stale, and checked for damage before use.

The folder is named by a digest of all kernel sources, the version of Numba and the instruction set:
Numba's own cache notices only a change of the file that holds a kernel, not of the formulas that it
calls in other files. A file holds one compiled kernel behind the SHA-256 of its name and content.
It appears whole or not at all. A kernel whose file does not match its digest is compiled again and
replaced. If another process is compiling a kernel, this one waits for the result.

The files are code that runs, and a digest does not say who wrote it. So a folder that another user
may write to is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import caching
from platformdirs import user_cache_path

from boxnn_numba.kernels import claims, simd_operations

_DIGEST_BYTES = hashlib.sha256().digest_size
_SUFFIX = ".nbc"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_directory() -> Path:
    """Return where compiled kernels are kept; ``BOXNN_CACHE_DIR`` overrides the user's cache."""
    override = os.environ.get("BOXNN_CACHE_DIR")
    base = Path(override) if override else user_cache_path("boxnn-numba") / "kernels"
    return base / _source_digest()


@functools.cache
def _source_digest() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {simd_operations.TARGET} {sys.version}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _usable(folder: Path) -> bool:
    """Make the folder if it is not there; return whether nobody else can put code into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # a full disk, a read-only home
        return False
    if sys.platform == "win32":  # the user's own folders are private there
        return True
    owner, mode = folder.stat().st_uid, folder.stat().st_mode
    if owner in (os.geteuid(), 0) and not mode & _OTHERS_WRITE:
        return True
    warnings.warn(
        f"compiled kernels are not kept: other users may write to {folder}, and what is in it runs "
        "as code; make it your own (chmod 700) or set BOXNN_CACHE_DIR to a folder of yours",
        stacklevel=2,
    )
    return False


def is_new() -> bool:
    """Return whether compiled kernels are kept, and none is there yet."""
    folder = cache_directory()
    return _usable(folder) and not any(folder.glob(f"*{_SUFFIX}"))


class _KernelFiles:
    """The files of one kernel, one for each signature; in place of Numba's index and data files."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name

    def _path(self, key: Any) -> Path:
        digest = hashlib.sha256(repr(key).encode()).hexdigest()
        return self._folder / f"{self._name}-{digest}{_SUFFIX}"

    def _claim(self, key: Any) -> Path:
        return self._path(key).with_suffix(".claim")

    def _digest(self, key: Any, payload: bytes) -> bytes:
        # The name counts: a file that was given another's name is whole, and the wrong code.
        return hashlib.sha256(self._path(key).name.encode() + payload).digest()

    def load(self, key: Any) -> Any:
        """Return the saved kernel, or None if this process is to compile and save it."""
        if not _usable(self._folder):
            return None
        found = self._read(key)
        if found is None:
            claims.claim(self._claim(key), self._path(key).exists)
            found = self._read(key)  # from the process that had the claim
            if found is not None:
                claims.give_up(self._claim(key))
        return found

    def _read(self, key: Any) -> Any:
        """Return the saved kernel, or None if there is no whole file."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if self._digest(key, payload) != digest:
            return None
        # Numba makes and reads this itself; it was written by a process of this user.
        return pickle.loads(payload)

    def save(self, key: Any, data: Any) -> None:
        """Write a compiled kernel in one step; if that fails, it is compiled again next time."""
        if not _usable(self._folder):
            return
        try:
            with contextlib.suppress(OSError):
                self._write(key, caching.dumps(data))
        finally:
            claims.give_up(self._claim(key))

    def _write(self, key: Any, payload: bytes) -> None:
        handle, fresh = tempfile.mkstemp(prefix=f"{self._name}-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._digest(key, payload) + payload)
            Path(fresh).replace(self._path(key))
        except OSError:
            Path(fresh).unlink(missing_ok=True)
            raise

    def flush(self) -> None:
        """Do nothing: a damaged file is replaced when it is next needed."""


class _Locator(caching._CacheLocator):
    def get_cache_path(self) -> str:
        return str(cache_directory())

    def ensure_cache_path(self) -> None:
        """Do nothing: `_usable` makes the folder, private."""

    def get_source_stamp(self) -> str:
        return _source_digest()

    def get_disambiguator(self) -> None:
        return None

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls()


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes: Any = (_Locator,)


class KernelCache(caching.Cache):
    """The cache that Numba asks for a kernel before it compiles one."""

    _impl_class = _Implementation  # type: ignore[assignment]

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        self._cache_file: Any = _KernelFiles(cache_directory(), self._impl.filename_base)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        # The folder already identifies the sources, and kernels have distinct names.
        return sig, codegen.magic_tuple()
