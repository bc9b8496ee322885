"""Claims: one process compiles a kernel, and others that need it wait instead of doing the same.

A claim is a lock on a file, which ends with the process that holds it. Where there are no such
locks (on Windows, on some network drives) every process compiles for itself.
"""

from __future__ import annotations

import contextlib
import os
import time
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
#: Of this process, by the path of the file.
_held: dict[Path, int] = {}


def claim(path: Path) -> None:
    """Claim what a file stands for; where another process has, wait until it gives that up.

    Afterwards it may be there. Nothing is claimed where the file cannot be made or locked, and
    where the wait takes too long.
    """
    if path in _held or _took(path) is not False:
        return
    began = time.monotonic()
    with progress.compiling():
        while time.monotonic() - began < PATIENCE_SECONDS:
            time.sleep(_LOOK_SECONDS)
            if _took(path) is not False:
                return


def _took(path: Path) -> bool | None:
    """Return whether the claim is this process's now, or None where there are no claims."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # a full disk
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it may have given it up meanwhile, and the file is gone.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            _held[path] = descriptor
            return True
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # no locks there
        os.close(descriptor)
        return None
    os.close(descriptor)
    return False


def give_up(path: Path) -> None:
    """End a claim, if it is this process's: what it stands for is there, or never will be."""
    descriptor = _held.pop(path, None)
    if descriptor is None or fcntl is None:
        return
    with contextlib.suppress(OSError):
        path.unlink()
    # Not only closed: a process that was forked meanwhile has it, too.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def give_up_all() -> None:
    """End all claims of this process: compiling has failed, or was interrupted."""
    for path in [*_held]:
        give_up(path)
