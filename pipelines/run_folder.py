"""Folders of results and runs: each run is done once and found again, also after a kill.

A run is one trained model with its certificates, in a folder of its own below ``runs/`` that is
named by a digest of everything that determines it.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxnn_numba import __version__
from boxnn_numba.data.atomic import (
    Content,
    holds_only,
    output_folder,
    output_location,
    staged_output,
)
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.paths import Location, is_url
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines.figures.curves import save
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.progress import Progress
from boxnn_numba.text import cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RECORD = "run.json"
#: What is in the folder of a run.
_CONTENT = dict.fromkeys((_RECORD, "model.zarr", "cert.zarr", "cert-a.zarr", "cert-b.zarr"))


@contextlib.contextmanager
def open_run_folder(
    out: str | Path,
    name: str,
    marker: str,
    about: Mapping[str, Any],
    content: Content,
    run: RunOptions,
) -> Iterator[Path]:
    """Give the folder of a command, made or, where the run is resumed, found; locked meanwhile.

    A file `marker` with what it is `about` says that it is of this command, which puts `content`
    besides into it and runs below ``runs/``. Raises `OptionError` where it is a URL, exists and is
    neither to be replaced nor resumed (or both), is not of this command, or is to be replaced and
    holds anything else.
    """
    whole: Content = {**content, marker: None, "runs": {"*": _CONTENT}}

    def owned(folder: Location) -> bool:
        # A run may have been killed before or while it wrote the marker.
        begun = holds_only(folder, {marker: None})
        return begun or ((folder / marker).is_file() and (run.resume or holds_only(folder, whole)))

    if is_url(out):
        raise OptionError(f"{out} is a URL; {name} writes to a local folder, choose one")
    folder = Path(out)
    if run.overwrite and run.resume:
        raise OptionError("`overwrite` starts again and `resume` continues; pass one of them")
    if not run.resume:
        output_location(out)
    if folder.exists():
        if not run.overwrite and not run.resume:
            raise OptionError(
                f"{folder} already exists; pass `resume` to add to it with the runs that it "
                "has, or `overwrite` to start again"
            )
        if run.resume and not (folder.is_dir() and owned(folder)):
            raise OptionError(f"{folder} was not made by boxnn {name}; choose another `out`")
    with output_folder(folder, **run.writing, owned=owned):
        write_text(folder / marker, json.dumps(about))
        yield folder


@dataclass(frozen=True)
class KeptRun:
    """A run that is done: its folder, and everything that determines it."""

    folder: Path
    key: dict[str, Any]

    @property
    def model(self) -> Path:
        """Where the model is."""
        return self.folder / "model.zarr"

    def certificate_path(self, variant: str = "") -> Path:
        """Return where a certificate is; of a baseline the variant ``"a"`` or ``"b"``."""
        return self.folder / f"cert{variant and '-' + variant}.zarr"

    def certificate(self, variant: str = "") -> CertificateFile:
        """Return a certificate."""
        return open_certificate(self.certificate_path(variant))


def kept_run(
    folder: Path,
    name: str,
    key: dict[str, Any],
    work: Callable[[KeptRun], None],
    progress: Progress,
) -> KeptRun:
    """Do a run in a folder of its own below `folder`, or find it there.

    The folder's name is `name` and a digest of `key`, which has plain values. `work` makes the
    files of the run, and continues one that was killed.
    """
    key = {**key, "version": __version__}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    run = KeptRun(folder / f"{name}-{digest}", key)
    record = run.folder / _RECORD
    if record.exists():
        try:
            return KeptRun(run.folder, dict(json.loads(record.read_text(encoding="utf-8"))))
        except (OSError, TypeError, ValueError) as error:
            remedy = f"delete the folder {run.folder} and run again"
            raise DataError(f"{record} cannot be read; {remedy}") from error
    progress.note(f"run {run.folder.name}")
    run.folder.mkdir(parents=True, exist_ok=True)
    work(run)
    write_text(record, json.dumps(key, indent=1))
    return run


# --- files of results ---------------------------------------------------------------------


# Whoever writes these holds a lock, on their folder or on the file, for the whole run.
_staged = functools.partial(staged_output, overwrite=True, directory=False, no_lock=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file with a line end at its end, whole or not at all."""
    with _staged(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write JSON with each of its ``rows`` on one line: a small file, readable differences."""
    rows = ",\n".join("  " + json.dumps(row) for row in result["rows"])
    rest = json.dumps({**result, "rows": []}, indent=1)
    write_text(path, rest.replace('"rows": []', f'"rows": [\n{rows}\n ]'))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with a line for each of `rows`, which have the same keys."""
    with (
        _staged(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as lines,
    ):
        table = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({key: cell(value) for key, value in row.items()} for row in rows)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a picture as PNG."""
    with _staged(path) as partial:
        save(figure, partial)
