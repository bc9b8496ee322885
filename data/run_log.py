"""Log of a run: JSON lines, one about the run and then one for each epoch or chunk.

Whoever reads a log while it grows, or after its run was killed, may find a last line that ends
early: it is no line yet, and is left out. A run that is resumed goes on with the log of the run
before, in which it leaves what it does not do again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from boxnn_numba._version import __version__
from boxnn_numba.data.atomic import output_location, partial_path
from boxnn_numba.data.locks import held_as
from boxnn_numba.data.paths import Location, Name, exists, location, put, reachable, storage_errors
from boxnn_numba.errors import DataError, OptionError, OutputError, first_line

FORMAT, VERSION = "boxnn-log", 1
#: What a first line has besides what the run says of itself.
_HEAD = ("format", "version", "package")


class LogFile(NamedTuple):
    """A log: the line about its run, and the lines of finished steps, in order."""

    about: dict[str, Any]
    lines: list[dict[str, Any]]


def read_log(path: Name) -> LogFile:
    """Read the log of a run that has ended or is still running.

    Parameters
    ----------
    path
        File that a run wrote (option `log`), or its URL.

    Returns
    -------
    LogFile
        The lines that are complete so far.

    Raises
    ------
    DataError
        The file is missing, is not a log, is of a newer version, or is damaged.
    """
    with reachable(path, DataError):
        try:
            text = location(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = ""
    whole = text.split("\n")[:-1]  # what follows the last end of a line is no line yet
    about = _parsed(whole[0]) if whole else None
    if about is None or about.get("format") != FORMAT:
        raise DataError(f"{path} is not a log of boxnn; pass what `log` of a run has named")
    if not isinstance(about.get("version"), int) or about["version"] > VERSION:
        raise DataError(f"{path} is a log of version {about.get('version')}; update boxnn-numba")
    lines = []
    for number, line in enumerate(whole[1:], 2):
        found = _parsed(line)
        if found is None:
            raise DataError(f"line {number} of {path} is damaged; remove that line")
        lines.append(found)
    return LogFile(about, lines)


@contextlib.contextmanager
def open_log(
    path: Name | None,
    about: Mapping[str, Any],
    *,
    apart_from: Name,
    no_lock: bool = False,
    **how: bool,
) -> Iterator[RunLog]:
    """Give the log of a run, which no other run writes meanwhile, unless it has `no_lock`.

    `apart_from` is the output of the run, in which the log must not be; the rest is as for
    `RunLog`.
    """
    if path is None:
        yield RunLog(None, about)
        return
    place = output_location(path, "log")
    _check_place(place, location(apart_from))
    with held_as(place, no_lock, lambda error: _failure(place, error), "log"):
        yield RunLog(path, about, **how)


class RunLog:
    """The log that a run writes; without a `path` it does nothing.

    Parameters
    ----------
    path
        The file, or its URL. Only `overwrite` replaces one with lines, and only a log; `resume`
        goes on with one, of the same run.
    about
        JSON values by which the run is recognised.

    Attributes
    ----------
    lines
        What the file says, besides what it is about.

    Raises
    ------
    OptionError
        Something else is at `path`, or it has no folder.
    OutputError
        It cannot be written, now or later.
    """

    def __init__(
        self,
        path: Name | None,
        about: Mapping[str, Any],
        *,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.lines: list[dict[str, Any]] = []
        self._place = None if path is None else location(path)
        head = {"format": FORMAT, "version": VERSION, "package": __version__}
        self._about = {**head, **json.loads(json.dumps(dict(about)))}
        if self._place is None:
            return
        with reachable(self._place, OptionError):
            there = exists(self._place)
            is_file = there and self._place.is_file()
        if there and not is_file:  # a pipe would be waited for
            raise OptionError(f"{self._place} is no file; name another `log`")
        if there:
            self.lines = self._earlier(self._place, overwrite, resume)
        self._write_whole()

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line, in one write, so that others see it at once."""
        if self._place is None:
            return
        self.lines.append(_plain(line))
        if not isinstance(self._place, Path):  # nothing can be appended to an object
            self._write_whole()
            return
        try:
            content = _encoded(self.lines[-1])
            with self._place.open("ab", buffering=0) as file:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _failure(self._place, error) from error

    def replace(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Let the log have these lines instead of those that it has, in one step."""
        wanted = [_plain(line) for line in lines]
        if self._place is not None and wanted != self.lines:
            self.lines = wanted
            self._write_whole()

    def _earlier(self, place: Location, overwrite: bool, resume: bool) -> list[dict[str, Any]]:
        """Return the lines that are kept of what is there; raise where it is not to be touched."""
        try:
            about, lines = read_log(place)
        except DataError as error:
            raise OptionError(
                f"{place} is in the way, and is not a log of boxnn; move it, or name another `log`"
            ) from error
        if overwrite:
            return []
        if not resume:
            if lines:
                raise OptionError(
                    f"{place} is the log of a run already; pass `overwrite` to replace it, "
                    "`resume` to go on with that run, or name another `log`"
                )
            return []  # of a run that ended before it had done anything
        for name, value in self._about.items():
            if name not in _HEAD and about.get(name) != value:
                raise OptionError(
                    f"{place} is the log of another run: its {name} is {about.get(name)}, not "
                    f"{value}; name another `log`"
                )
        return lines

    def _write_whole(self) -> None:
        """Write all lines: where there are files, under another name that is then changed."""
        assert self._place is not None
        content = b"".join(map(_encoded, (self._about, *self.lines)))
        try:
            if not isinstance(self._place, Path):
                with storage_errors():
                    put(self._place, content)
                return
            fresh = self._place.with_name(f".{self._place.name}.boxnn-new-{uuid.uuid4().hex}")
            try:
                fresh.write_bytes(content)
                fresh.replace(self._place)
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as error:
            raise _failure(self._place, error) from error


def _check_place(place: Location, out: Location) -> None:
    mine, *others = (
        str(path.resolve() if isinstance(path, Path) else path).rstrip("/")
        for path in (place, out, partial_path(out))
    )
    if any(mine == other or mine.startswith(f"{other}/") for other in others):
        raise OptionError(f"`log` {place} is in the output {out}; name a file beside it")


def _failure(place: Location, error: OSError) -> OutputError:
    return OutputError(f"cannot write `log` {place}: {first_line(error)}; name another file")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values: null for a number that JSON has not."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }


def _encoded(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, allow_nan=False) + "\n").encode()
