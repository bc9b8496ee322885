"""Locks on outputs: one writer at a time.

A local output is locked by the operating system, which releases the lock even after ``kill -9``.

An object store has no locks. There a *lease*, an object beside the output, names its owner, who
renews it while it lives. It is written only where there is none: by the store itself where it can
(``If-None-Match``, exclusive creation), else by writing, waiting, and reading back. The age
of a lease is measured by the clock of the store: a fresh object is written and its time is compared
with that of the lease, so that the clocks of machines do not matter. A lease that was not renewed
for `LEASE_SECONDS` belongs to a run that was killed, and is taken over. A run that finds its lease
gone publishes nothing and removes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxnn_numba.data.paths import Location, exists, put, storage_errors
from boxnn_numba.errors import BoxNNError, OptionError, OutputError, first_line

if TYPE_CHECKING:
    from upath import UPath

try:
    import fcntl
except ImportError:  # not POSIX: no lock, the rename still keeps outputs whole
    fcntl = None  # type: ignore[assignment]

#: A lease that was not renewed for so long has expired; it is renewed far more often.
LEASE_SECONDS = 120.0
RENEWAL_SECONDS = 20.0
#: How long a lease must stand before it is believed, where the store could not say that it is new.
SETTLE_SECONDS = 2.0

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Held:
    """An output that this process may write; one without a lock always may be written."""

    def holds(self) -> bool:
        """Whether nobody else has taken it."""
        return True

    def check(self) -> None:
        """Raise if somebody else has taken it."""
        if not self.holds():
            raise OutputError(
                "the output is no longer this run's: it was cut off for too long, and another run "
                "took it over; run again"
            )


def in_the_way(path: Location) -> OptionError:
    """Return the error for a path that is taken by something that boxnn did not make."""
    return OptionError(
        f"{path} is in the way, and boxnn did not make it; move it, or choose another `out`"
    )


@contextlib.contextmanager
def held(final: Location, no_lock: bool = False, option: str = "out") -> Iterator[Held]:
    """Refuse a second writer of an output while the body runs, unless told not to.

    The output is named by the `option`. What the library behind a URL raises in the body arrives
    as an OSError.

    Raises
    ------
    OutputError
        Another run writes it.
    """
    if isinstance(final, Path):
        with contextlib.nullcontext() if no_lock else _file_lock(final, option):
            yield Held()
        return
    with storage_errors():
        if no_lock:
            yield Held()
            return
        with _Lease(final, option) as lease:
            yield lease


@contextlib.contextmanager
def held_as(
    final: Location,
    no_lock: bool,
    failure: Callable[[OSError], OutputError],
    option: str = "out",
) -> Iterator[None]:
    """As `held`, but an OSError while locking is raised as `failure(error)`.

    Errors of the body pass unchanged.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(final, no_lock, option))
        except OSError as error:
            if isinstance(error, BoxNNError):
                raise
            raise failure(error) from error
        yield


@contextlib.contextmanager
def _file_lock(final: Path, option: str) -> Iterator[None]:
    lock = final.with_name(f".{final.name}.lock")
    # A link at this name is not ours: nothing is made where it points to.
    if lock.is_symlink():
        raise in_the_way(lock)
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(lock, flags, 0o644)
    try:
        if os.fstat(descriptor).st_size:  # ours are empty
            raise in_the_way(lock)
        if fcntl is not None:
            _flock(descriptor, final, option)
        # Where the file was removed by the writer before, its lock protects nothing.
        if not lock.exists() or os.fstat(descriptor).st_ino != lock.stat().st_ino:
            raise OutputError(f"another process has just written {final}; run again")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, final: Path, option: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"another process is writing {final}; wait for it or choose another `{option}`"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OutputError(
            f"no lock for {final} ({first_line(error)}); pass `no_lock` if no other run writes it"
        ) from error


class _Lease(Held):
    """A lease on an output at a URL, held while the body of a ``with`` runs."""

    def __init__(self, final: UPath, option: str) -> None:
        self._final, self._option = final, option
        self._object = final.with_name(f".{final.name}.lock")
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        about = {"host": socket.gethostname(), "process": os.getpid(), "since": now}
        self._content = json.dumps({"format": "boxnn-lease", "owner": uuid.uuid4().hex, **about})
        self._stop = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="boxnn-lease", daemon=True)

    def __enter__(self) -> _Lease:
        if not self._create():
            taken, age = self._taken(), self._age()
            if age is not None and age < LEASE_SECONDS:
                raise taken
            if age is not None:  # another may do the same now: the last to write has it
                self._object.unlink(missing_ok=True)
            if not self._create(settle=True):
                raise self._taken()
        self._renewal.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._renewal.join()
        with contextlib.suppress(OSError), storage_errors():  # one that is left expires
            if self.holds():
                self._object.unlink(missing_ok=True)

    def holds(self) -> bool:
        """Whether the lease is still this one."""
        return self._read() == self._content

    def _read(self) -> str | None:
        try:
            content: bytes = self._object.fs.cat_file(self._object.path)
        except FileNotFoundError:
            return None
        return content.decode("utf-8", "replace")

    def _create(self, settle: bool = False) -> bool:
        """Write the lease if there is none; return whether it is ours."""
        if exists(self._object):
            return False
        if not self._is_exclusive():
            put(self._object, self._content.encode())
            settle = True
        if settle:
            time.sleep(SETTLE_SECONDS)
        return self.holds()

    def _is_exclusive(self) -> bool:
        """Let the store write the lease if there is none; return whether it keeps to that."""
        try:
            for _ in range(2):  # the second time there is one
                self._object.fs.pipe_file(self._object.path, self._content.encode(), mode="create")
        except FileExistsError:
            return True
        except (OSError, NotImplementedError, TypeError, ValueError):
            pass  # it cannot; what else is wrong, writing will tell
        return False

    def _age(self) -> float | None:
        """Return the seconds since the lease that is there was renewed; None if it has gone."""
        probe = self._object.with_name(f"{self._object.name}-{uuid.uuid4().hex}")
        put(probe, b"")
        try:
            now, then = (self._object.fs.modified(at.path) for at in (probe, self._object))
        except FileNotFoundError:
            return None
        except NotImplementedError:
            return 0.0  # nobody can tell
        finally:
            probe.unlink(missing_ok=True)
        return float((now - then).total_seconds())

    def _renew(self) -> None:
        while not self._stop.wait(RENEWAL_SECONDS):
            # Without a connection the lease may expire: `holds` will tell.
            with contextlib.suppress(OSError), storage_errors():
                if not self.holds():
                    return
                put(self._object, self._content.encode())

    def _taken(self) -> OutputError:
        """Say who has it; an object there that is no lease is an error by itself."""
        text = self._read()
        try:
            about: dict[str, Any] = {} if text is None else dict(json.loads(text))
        except (ValueError, TypeError):
            about = {}
        if text is not None and about.get("format") != "boxnn-lease":
            raise in_the_way(self._object)
        known = (f"{key} {about[key]}" for key in ("host", "process", "since") if key in about)
        return OutputError(
            f"another run is writing {self._final} ({', '.join(known)}); wait for it, choose "
            f"another `{self._option}`, or pass `no_lock` if it runs no more: one that was killed "
            f"gives way {LEASE_SECONDS:.0f} s later"
        )
