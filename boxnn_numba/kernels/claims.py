"""Claims: one process compiles a kernel, and other processes that need it wait for the result.

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

#: No kernel takes so long to compile: a process that holds a claim longer has been stopped.
PATIENCE_SECONDS = 60.0
#: How often to look whether a claim has ended.
_LOOK_SECONDS = 0.01
#: This process's claims, by the path of the file: its descriptor, and the thread that compiles.
_held: dict[Path, tuple[int, int]] = {}


def _own() -> set[Path]:
    """Return the claims of this thread."""
    return {path for path, (_, owner) in list(_held.items()) if owner == threading.get_ident()}


def _forget() -> None:
    """Leave the claims to the process that this one was forked from."""
    for descriptor, _ in _held.values():
        os.close(descriptor)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)


def claim(path: Path, is_there: Callable[[], bool]) -> None:
    """Claim the kernel of a file; if another process has, wait until the kernel is there.

    After a wait nothing is claimed: a kernel that is not there then was given up, or could not be
    kept. Nothing is claimed either if the file cannot be made or locked.
    """
    if path in _held or not _is_elsewhere(path):
        return
    began = time.monotonic()
    with progress.compiling():
        while not is_there() and time.monotonic() - began < PATIENCE_SECONDS:
            time.sleep(_LOOK_SECONDS)
            if not _is_elsewhere(path):
                give_up(path)
                return


def _is_elsewhere(path: Path) -> bool:
    """Return whether another process has the claim; if not, this thread takes it if it can.

    A claim that was given up just now, with its file, counts as elsewhere: look again.
    """
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # a full disk
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            _held[path] = descriptor, threading.get_ident()
        return path not in _held
    except (BlockingIOError, FileNotFoundError):
        return True
    except OSError:  # no locks there
        with contextlib.suppress(OSError):
            path.unlink()
        return False
    finally:
        if path not in _held:
            os.close(descriptor)


def give_up(path: Path) -> None:
    """End a claim, if it is this thread's: the kernel is there, or will not be soon."""
    if path not in _own():
        return
    descriptor, _ = _held.pop(path)
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(descriptor)


@contextlib.contextmanager
def given_up() -> Iterator[None]:
    """End the claims that the body makes, however it ends."""
    before = _own()
    try:
        yield
    finally:
        for path in _own() - before:
            give_up(path)
