"""Outputs that appear whole or not at all.

A folder ``NAME`` is built in ``NAME.partial`` beside it, a file under a name that nothing else
has, and renamed when it is complete, so nothing unfinished ever carries the final name. A lock
(see `locks`) refuses a second writer.

Nothing is removed that this package has not made. What it replaces was checked before, and is moved
to a name of its own on the way. A ``NAME.partial`` is recognised by its content: the marker that
every folder begins with, or one of our Zarr groups. Any other is in the way, and an error says so.

An object store, named by a URL, has no rename. There what was built is copied, the
``zarr.json`` at the root last (a group without it does not open, so nothing unfinished
looks finished), and then deleted. With ``overwrite`` the old output goes just before the
copy begins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from boxnn_numba.data.locks import held, held_as, in_the_way
from boxnn_numba.data.paths import (
    URL_REMEDY,
    Location,
    Name,
    exists,
    is_url,
    location,
)
from boxnn_numba.errors import BoxNNError, OptionError, OutputError, first_line

_PARTIAL = ".partial"
#: Names that Zarr gives a value while it is written.
_HALF = re.compile(r".+\.[0-9a-f]{32}\.partial")
#: In every unfinished folder from its first moment on, and in no finished one.
_MARKER = ".boxnn-unfinished"
#: Last in it where what is at the output may be replaced, so that a run which continues may, too.
_REPLACES = b"It replaces what is there.\n"
_HEX = re.compile("[0-9a-f]{32}")
#: Without it a Zarr group does not open.
_ROOT = "zarr.json"


def partial_path(path: Location) -> Location:
    """Return where the unfinished form of a folder is kept."""
    return path.with_name(path.name + _PARTIAL)


def _own_name(name: str, what: str) -> str:
    """Return a hidden name, to stand beside a name, that nothing else has, nor will have."""
    return f".{name}.boxnn-{what}-{uuid.uuid4().hex}"


def is_untouched(partial: Location) -> bool:
    """Whether nothing has been written to an unfinished folder yet."""
    return not any(item.name != _MARKER for item in partial.iterdir())


def clear(partial: Location) -> None:
    """Remove what is in an unfinished folder, but not the marker that it is one of ours."""
    for item in partial.iterdir():
        if item.name != _MARKER:
            remove(item)


def remove(path: Location) -> None:
    """Delete a file or a directory tree; nothing there is fine."""
    if not isinstance(path, Path):
        for part in (path / _ROOT, path):  # what is half deleted must not open
            if exists(part):
                part.fs.rm(part.path, recursive=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing a file or a directory already there.

    A directory cannot be replaced in one step: the old one is moved aside
    first, so that at every moment one whole version exists under one of the
    two names.
    """
    if not target.is_dir():
        source.replace(target)
        return
    aside = target.with_name(_own_name(target.name, "old"))
    target.rename(aside)
    try:
        source.rename(target)
    except OSError:
        aside.rename(target)
        raise
    remove(aside)


def publish(source: Location, target: Location) -> None:
    """Make `source` the output at `target`, in place of what is there.

    In an object store a file or a tree is copied, the root of a Zarr group last.
    """
    if isinstance(target, Path):
        assert isinstance(source, Path)
        replace(source, target)
        return
    assert not isinstance(source, Path)
    remove(target)
    start = len(source.path)
    files = source.fs.find(source.path)
    root = [file for file in files if file[start:] == f"/{_ROOT}"]
    for group in ([file for file in files if file not in root], root):
        if group:
            source.fs.copy(group, [target.path + file[start:] for file in group])


def write_failure(error: OSError, path: Name) -> OutputError:
    """Describe a failed write in one line that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(
            f"no space left while writing {path}; free some space or choose another `out`"
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return OutputError(f"cannot write {path}: permission denied; choose another `out`")
    remedy = f"; {URL_REMEDY}" if is_url(path) else ""
    return OutputError(f"cannot write {path}: {first_line(error)}{remedy}")


def holds_boxnn_group(folder: Location) -> bool:
    """Whether a folder is one of our groups, without a file that nobody of us wrote, or empty."""
    try:
        items: list[Any] = list(folder.iterdir())
        known = all(x.is_dir() or x.name in (_ROOT, _MARKER, ".DS_Store") for x in items)
        return not items or (known and '"boxnn-' in (folder / _ROOT).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False


def _decorated(name: str) -> str:
    """Return the name of the output that a file is, or that it is a part or the lock of."""
    if name.startswith("."):
        name = name[1:].removesuffix(".lock").partition(".boxnn-")[0]
    return name.removesuffix(_PARTIAL)


#: What may be in a folder: by name (``"*"`` any) what may be in a folder there, or None for one of
#: our groups or a file.
Content = Mapping[str, "Content | None"]


def holds_only(folder: Location, content: Content) -> bool:
    """Whether there is nothing in a folder but what its command puts there."""
    for item in folder.iterdir():
        name = _decorated(item.name)
        if item.name == ".DS_Store":
            continue
        if (name not in content and "*" not in content) or _is_link(item):
            return False
        below = content.get(name, content.get("*"))
        if below is not None:
            if not (item.is_dir() and holds_only(item, below)):
                return False
        elif ".boxnn-old-" in item.name and _HEX.fullmatch(item.name[-32:]):
            continue  # half deleted, maybe
        elif item.is_dir() and not (exists(item / _MARKER) or holds_boxnn_group(item)):
            return False
    return True


def _is_link(path: Location) -> bool:
    return isinstance(path, Path) and path.is_symlink()


def output_location(path: Name, option: str = "out") -> Location:
    """Return the location of an output that has a name, in a folder that exists.

    Raises `OptionError` where it has none, in which `path` is called `option`.
    """
    final = location(path)
    if isinstance(final, Path) and not (parent := final.absolute().parent).is_dir():
        raise OptionError(
            f"the folder {parent} does not exist; create it or choose another `{option}`"
        )
    if not str(path):
        raise OptionError(f"`{option}` is empty and names no new file or folder; pass a path")
    if final.name in ("", ".."):
        raise OptionError(f"`{option}` {path!s} names no new file or folder; add a name to it")
    return final


@contextlib.contextmanager
def locked(path: Name, *, no_lock: bool = False) -> Iterator[None]:
    """Hold the lock of an output that is written more than once while the body runs.

    Raises
    ------
    OptionError
        It has no name, or its folder does not exist.
    OutputError
        The folder is not writable, or another process writes the same output.
    """
    final = output_location(path)
    with held_as(final, no_lock, lambda error: write_failure(error, final)):
        yield


@contextlib.contextmanager
def output_folder(
    path: Name,
    *,
    overwrite: bool = False,
    resume: bool = False,
    owned: Callable[[Location], bool] = holds_boxnn_group,
    no_lock: bool = False,
) -> Iterator[Location]:
    """Give a folder to hold several outputs, each of which is staged on its own.

    It is locked while the body runs. With `overwrite`, a folder that is `owned` is emptied, with
    `resume` one that there is stays; otherwise one that exists is an error.
    """
    folder = location(path)
    if resume and isinstance(folder, Path) and folder.name in ("", ".."):  # it may be there
        folder = folder.resolve()
    with locked(folder, no_lock=no_lock):
        there = exists(folder)
        if there and not (overwrite or resume):
            raise OptionError(f"{folder} already exists; pass `overwrite` to replace it")
        if there and not resume:
            _refuse_to_replace(folder, False, (), owned)
        try:
            if not (there and resume):
                remove(folder)
                if isinstance(folder, Path):  # an object store has no folders
                    folder.mkdir()
        except OSError as error:
            raise write_failure(error, folder) from error
        yield folder


@contextlib.contextmanager
def staged_output(
    path: Name,
    *,
    overwrite: bool = False,
    resume: bool = False,
    resumable: bool = False,
    directory: bool = True,
    result: str | None = None,
    inputs: Sequence[Name] = (),
    owned: Callable[[Location], bool] = holds_boxnn_group,
    no_lock: bool = False,
) -> Iterator[Location]:
    """Build an output under a temporary name, which is yielded, and publish it on success.

    The temporary name of a `directory` is ``path.partial``, that of a file is one of its own. When
    the body fails, a directory is kept if it is `resumable`; with `resume` it is continued, and
    with `overwrite` it is discarded. What is at `path` is replaced only with `overwrite`, of this
    run or of the one that it continues, once the new output is complete, and only if it is a file
    or an `owned` folder and none of the `inputs`.
    The output is all of the directory, or what is named `result` in it. With `no_lock` no second
    writer is refused.

    Raises
    ------
    OptionError
        `path` exists and neither `overwrite` nor `resume` was given, or is not something that
        may be replaced, an unfinished run is in the way, or the folder does not exist.
    OutputError
        The folder is not writable, has no space, or another process writes the same output.
    """
    if overwrite and resume:
        raise OptionError("`overwrite` starts again and `resume` continues; pass one of them")
    final = output_location(path)
    partial = partial_path(final) if directory else final.with_name(_own_name(final.name, "new"))
    # Commands that go on with each other's runs, or find out themselves, have the same.
    text = f"An unfinished output of boxnn: {result or 'whole'}, {resumable=}.\n".encode()
    try:
        with held(final, no_lock) as lock:
            # Without `overwrite` and `resume`, what such a run has left is in the way all the same.
            replaces = overwrite or (resumable and _was_to_replace(partial))
            if _is_taken(final, partial, resume or overwrite):
                if not replaces:
                    raise OptionError(f"{final} already exists; pass `overwrite` to replace it")
                a_file = not directory or (result or "").endswith(".zip")
                _refuse_to_replace(final, a_file, inputs, owned)
            if directory:
                _make_room(partial, overwrite, resume, resumable, text)
            _remove_killed(final, "new")
            try:
                if directory:
                    if isinstance(partial, Path):
                        partial.mkdir(exist_ok=True)
                    (partial / _MARKER).write_bytes(text + _REPLACES * replaces)
                yield partial
                lock.check()
                if directory and result is None:
                    partial = _without_mark(partial, final)
                publish(partial if result is None else partial / result, final)
            except BaseException:
                with contextlib.suppress(OSError):  # of a store that was lost, too
                    kept = resumable and not is_untouched(partial)
                    if not kept and lock.holds():
                        remove(partial)
                raise
            remove(partial)
            _remove_killed(final, "old")
    except OSError as error:
        if isinstance(error, BoxNNError) or (isinstance(final, Path) and error.errno is None):
            raise
        failure = write_failure(error, final)
        if resumable and isinstance(partial, Path) and partial.exists():
            failure = OutputError(f"{failure}; what is done is kept in {partial}, see `resume`")
        raise failure from error


def _without_mark(partial: Location, final: Location) -> Location:
    """Take the mark off a folder that is complete, and return where it is.

    That is a name of its own where, without the mark, nothing tells whose it is.
    """
    if isinstance(partial, Path) and isinstance(final, Path) and not holds_boxnn_group(partial):
        partial = partial.rename(final.with_name(_own_name(final.name, "new")))
    (partial / _MARKER).unlink(missing_ok=True)
    return partial


def _is_taken(final: Location, partial: Location, again: bool) -> bool:
    """Whether `final` exists, except as the half-moved output of a run that is done `again`."""
    if isinstance(final, Path):
        return os.path.lexists(final)
    # A run that was killed while it published leaves a tree without its root.
    begun = final.is_dir() and not exists(final / _ROOT) and exists(partial)
    return exists(final) and not (again and begun)


def _was_to_replace(partial: Location) -> bool:
    """Whether the run that left an unfinished folder was to replace what is at its output."""
    marker = partial / _MARKER
    return exists(marker) and marker.read_bytes().endswith(_REPLACES)


def _is_ours(partial: Location) -> bool:
    """Whether an unfinished folder was made here: marked, empty, or one of our groups."""
    if not partial.is_dir() or (isinstance(partial, Path) and partial.is_symlink()):
        return False
    return exists(partial / _MARKER) or holds_boxnn_group(partial)


def _refuse_to_replace(
    final: Location, a_file: bool, inputs: Sequence[Name], owned: Callable[[Location], bool]
) -> None:
    """Raise unless --overwrite may delete what is at `final`."""
    place = final.resolve()
    for name in inputs:
        source = location(name).resolve()
        if type(source) is type(place) and place in (source, *source.parents):
            raise OptionError(
                f"`out` {final} would delete the input {source}; choose another `out`"
            )
    if a_file and not final.is_file():
        raise OptionError(f"{final} is not a file; `overwrite` replaces only files here")
    if not a_file and not (final.is_dir() and owned(final)):
        raise OptionError(
            f"{final} is not something that boxnn wrote, or not all of it; `overwrite` replaces "
            "only its own outputs, choose another `out`"
        )


def _make_room(
    partial: Location, overwrite: bool, resume: bool, resumable: bool, text: bytes
) -> None:
    """Remove what an earlier run left, unless it is to be continued or might be wanted."""
    if not (exists(partial) or (isinstance(partial, Path) and partial.is_symlink())):
        return
    if not _is_ours(partial):
        raise in_the_way(partial)
    marker = partial / _MARKER
    known = b"", text, text + _REPLACES
    if not overwrite and exists(marker) and marker.read_bytes() not in known:
        raise OptionError(
            f"an unfinished run of another command is in {partial}; finish that one, or pass "
            "`overwrite` to remove it"
        )
    if resume:
        _remove_halves(partial)
        return
    if resumable and not overwrite:
        raise OptionError(
            f"an unfinished run is in {partial}; pass `resume` to continue it "
            "or `overwrite` to start again"
        )
    remove(partial)


def _remove_halves(partial: Location) -> None:
    """Remove what Zarr was writing when a run was killed: a value that has not got its name."""
    if isinstance(partial, Path):
        for path in partial.rglob("*.partial"):
            if _HALF.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _remove_killed(final: Location, what: str) -> None:
    """Remove what runs that were killed have left of a name; none runs now, as we hold the lock."""
    if not isinstance(final, Path):
        return
    begin = f".{final.name}.boxnn-{what}-"
    for path in final.absolute().parent.iterdir():
        if path.name.startswith(begin) and _HEX.fullmatch(path.name[len(begin) :]):
            remove(path)
