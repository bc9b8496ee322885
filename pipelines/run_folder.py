"""Folders that keep runs: each is done once and found again, also after it was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxnn_numba import __version__
from boxnn_numba.data.atomic import new_folder, staged_output
from boxnn_numba.data.paths import is_url
from boxnn_numba.errors import DataError, OptionError

_RECORD = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """What a command writes to a folder of its own.

    Attributes
    ----------
    command
        Its name, for messages.
    marker, content
        File that says so, and what it holds.
    """

    command: str
    marker: str
    content: dict[str, Any]

    def open(self, out: str | Path, overwrite: bool, resume: bool) -> Path:
        """Make the folder, or find the one to add to.

        Raises
        ------
        OptionError
            It is a URL, exists and neither `overwrite` nor `resume` was given (or both were), or
            is not of this command.
        """
        name = self.command.split()[-1]
        if is_url(out):
            raise OptionError(f"{out} is a URL; {name} writes to a local folder, choose one")
        folder = Path(out)
        if overwrite and resume:
            raise OptionError("--overwrite starts again and --resume continues; pass one of them")
        if folder.exists() and not overwrite:
            if not resume:
                raise OptionError(
                    f"{folder} already exists; pass --resume to add to it with the runs that it "
                    "has, or --overwrite to start again"
                )
            if not self.owns(folder):
                raise OptionError(f"{folder} was not made by {self.command}; choose another --out")
        else:
            new_folder(folder, overwrite=overwrite, owned=self.owns)
        with staged_output(folder / self.marker, overwrite=True, directory=False) as partial:
            partial.write_text(json.dumps(self.content) + "\n", encoding="utf-8")
        return folder

    def owns(self, folder: Path) -> bool:
        """Return whether the command made a folder, or nothing is in it."""
        return folder.is_dir() and (not any(folder.iterdir()) or (folder / self.marker).is_file())


def kept_run(
    folder: Path, name: str, key: dict[str, Any], work: Callable[[Path], None], progress: Any
) -> tuple[Path, dict[str, Any]]:
    """Do a run in a folder of its own below `folder`, or find it there.

    Parameters
    ----------
    folder
        Of all runs.
    name
        How the folder's name begins; a digest of `key` follows.
    key
        Everything that determines the run, as plain values.
    work
        Does the run in the folder that it is passed, and continues one that was killed.
    progress
        Object with ``note(text)``, or None.

    Returns
    -------
    folder, key
        Of the finished run.

    Raises
    ------
    DataError
        The record of a finished run is damaged.
    """
    key = {**key, "version": __version__}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    own = folder / f"{name}-{digest}"
    record = own / _RECORD
    if record.exists():
        return own, _read(record)
    if progress is not None:
        progress.note(f"run {own.name}")
    own.mkdir(parents=True, exist_ok=True)
    work(own)
    with staged_output(record, directory=False) as partial:
        partial.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    return own, key


def _read(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{record} cannot be read; delete the folder {record.parent} and run again"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{record} is damaged; delete the folder {record.parent} and run again")
    return found
