"""Claims: one process compiles a kernel, and others that need it wait instead of doing the same.

A claim is a lock on a file, which ends with the process that holds it. Where there are no such
locks (on Windows, on some network drives) every process compiles for itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from boxnn_numba import progress

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: No kernel takes so long to compile: who holds a claim longer has been stopped.
PATIENCE_SECONDS = 60.0
#: How often to look whether a claim has ended.
_LOOK_SECONDS = 0.01
#: The descriptors of this process's claims, by the path of the file.
_held: dict[Path, int] = {}


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.paths: list[Path] = []


#: The claims of this thread. Numba compiles in one thread at a time, and lets others wait.
_mine = _OfThread()


def _forget() -> None:
    """Leave the claims to the process that this one was forked from."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()
    _mine.paths.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)


def claim(path: Path, is_there: Callable[[], bool]) -> None:
    """Claim what a file stands for; where another process has, wait until it is there.

    Nothing is claimed after a wait: what is not there then, was given up, or could not be kept.
    Nor where the file cannot be made or locked.
    """
    if path in _held or _took(path) is not False:
        return
    began = time.monotonic()
    with progress.compiling():
        while not is_there() and time.monotonic() - began < PATIENCE_SECONDS:
            time.sleep(_LOOK_SECONDS)
            if _took(path) is not False:
                give_up(path)
                return


def _took(path: Path) -> bool | None:
    """Return whether the claim is this thread's now, or None where there are no claims."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # a full disk
        return None
    kept: bool | None = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it may have given it up meanwhile, and the file is gone.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            _held[path], kept = descriptor, True
            _mine.paths.append(path)
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # no locks there
        kept = None
        with contextlib.suppress(OSError):
            path.unlink()
    finally:
        if path not in _held:
            os.close(descriptor)
    return kept


def give_up(path: Path) -> None:
    """End a claim, if it is this thread's: what it stands for is there, or will not be soon."""
    if path not in _mine.paths or fcntl is None:
        return
    _mine.paths.remove(path)
    descriptor = _held.pop(path)
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(descriptor)


@contextlib.contextmanager
def given_up() -> Iterator[None]:
    """End the claims that the body makes, however it ends."""
    before = len(_mine.paths)
    try:
        yield
    finally:
        for path in _mine.paths[before:]:
            give_up(path)
