"""Outputs that appear whole or not at all.

An output ``NAME`` is built in ``NAME.partial`` beside it and renamed when it is
complete, so nothing unfinished ever carries the final name. A lock held by the
operating system (released even by ``kill -9``) refuses a second writer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from boxnn_numba.errors import OptionError, OutputError

try:
    import fcntl
except ImportError:  # not POSIX: no lock, the rename still keeps outputs whole
    fcntl = None  # type: ignore[assignment]


def partial_path(path: Path) -> Path:
    """Return where the unfinished form of `path` is kept."""
    return path.with_name(path.name + ".partial")


def remove(path: Path) -> None:
    """Delete a file or a directory tree; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing a file or a directory already there.

    A directory cannot be replaced in one step: the old one is moved aside
    first, so that at every moment one whole version exists under one of the
    two names.
    """
    if not target.exists():
        source.rename(target)
        return
    aside = target.with_name(target.name + ".old")
    remove(aside)
    target.rename(aside)
    source.rename(target)
    remove(aside)


def write_failure(error: OSError, path: Path) -> OutputError:
    """Describe a failed write in one line that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"no space left while writing {path}; free some space or choose another --out"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"cannot write {path}: permission denied; choose another --out")
    return OutputError(f"cannot write {path}: {error.strerror or error}")


def new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Make an empty folder to hold several outputs, each of which is staged on its own.

    Raises
    ------
    OptionError
        It exists and `overwrite` was not given.
    OutputError
        It cannot be made.
    """
    folder = Path(path)
    if folder.exists() and not overwrite:
        raise OptionError(f"{folder} already exists; pass --overwrite to replace it")
    try:
        remove(folder)
        folder.mkdir()
    except FileNotFoundError:
        raise OptionError(
            f"the folder {folder.absolute().parent} does not exist; create it or choose another "
            "--out"
        ) from None
    except OSError as error:
        raise write_failure(error, folder) from error
    return folder


@contextlib.contextmanager
def staged_output(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    resumable: bool = False,
    directory: bool = True,
    result: str | None = None,
) -> Iterator[Path]:
    """Build an output under a temporary name and publish it on success.

    Parameters
    ----------
    path
        Final name of the file or directory.
    overwrite
        Replace what is at `path` (only once the new output is complete), and
        discard an unfinished run.
    resume
        Continue in ``path.partial`` if it exists.
    resumable
        Keep ``path.partial`` when the body fails, so that a later run can
        resume; otherwise it is removed.
    directory
        Create ``path.partial`` as a directory; with false the body writes it
        as a file.
    result
        Name inside the directory of what becomes the output; the rest is discarded. By
        default all of the directory becomes the output.

    Yields
    ------
    pathlib.Path
        Where to write. It is renamed to `path` when the body ends normally.

    Raises
    ------
    OptionError
        `path` exists and neither `overwrite` nor `resume` was given, an unfinished run is in
        the way, or the folder does not exist.
    OutputError
        The folder is not writable, has no space, or another process writes the same output.
    """
    final = Path(path)
    parent = final.absolute().parent
    if not parent.is_dir():
        raise OptionError(f"the folder {parent} does not exist; create it or choose another --out")
    if final.exists() and not overwrite:
        raise OptionError(f"{final} already exists; pass --overwrite to replace it")
    partial = partial_path(final)
    try:
        with _exclusive(final):
            if partial.exists() and not resume:
                if resumable and not overwrite:
                    raise OptionError(
                        f"an unfinished run is in {partial}; pass --resume to continue it "
                        "or --overwrite to start again"
                    )
                remove(partial)
            if directory:
                partial.mkdir(exist_ok=True)
            try:
                yield partial
            except BaseException:
                nothing = partial.is_dir() and not any(partial.iterdir())
                if nothing or not resumable:
                    remove(partial)
                raise
            replace(partial if result is None else partial / result, final)
            remove(partial)
    except OSError as error:
        if isinstance(error, OutputError) or error.errno is None:
            raise
        raise write_failure(error, final) from error


@contextlib.contextmanager
def _exclusive(final: Path) -> Iterator[None]:
    lock = final.with_name(f".{final.name}.lock")
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another process is writing {final}; wait for it or choose another --out"
                ) from None
        # Where the file was removed by the writer before, its lock protects nothing.
        if not lock.exists() or os.fstat(descriptor).st_ino != lock.stat().st_ino:
            raise OutputError(f"another process has just written {final}; run again")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
