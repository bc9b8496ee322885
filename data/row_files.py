"""Files of arrays with a row for each sample, written chunk by chunk: what all of them share.

A chunk counts as finished once its entry in the array ``finished`` is written, which happens
after its data. A file is finished once its attributes have ``digests``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import zarr

from boxnn_numba.data import zarr_format
from boxnn_numba.data.paths import Location, Name, location, reachable, read_problem
from boxnn_numba.errors import BoxNNError


def spread_rows(places: np.ndarray, count: int, total: int) -> np.ndarray:
    """Return the numbers in a split of `total` rows of some of `count` that are spread over it."""
    return places * total // count


def check_same_run(
    path: Name,
    before: Mapping[str, Any],
    attributes: Mapping[str, Any],
    measured: Iterable[str],
    error: type[BoxNNError],
) -> None:
    """Raise if an earlier, interrupted run was of something else.

    Parameters
    ----------
    path
        Of the unfinished file.
    before
        Attributes that the earlier run has written; empty without one.
    attributes
        Of this run.
    measured
        Names of attributes that are known when the file is sealed.
    error
        Type of error to raise; it names the attributes that differ.
    """
    wanted = zarr_format.with_digest(attributes)
    del wanted["digest"]
    kept = {key: item for key, item in before.items() if key not in ("digest", "digests")}
    kept |= dict.fromkeys(measured)
    if before and kept != wanted:
        either = sorted(kept.keys() | wanted.keys())
        other = ", ".join(key for key in either if kept.get(key) != wanted.get(key))
        raise error(
            f"{path} holds an unfinished run with another {other}; resume it with its own "
            "options or pass --overwrite to start again"
        )


def unfinished_chunks(group: zarr.Group, error: type[BoxNNError]) -> list[int]:
    """Return the numbers of the chunks that still have to be written."""
    try:
        return np.flatnonzero(group["finished"][:] == 0).tolist()  # type: ignore[index]
    except zarr_format.READ_FAILURES as cause:
        raise error("the unfinished run is damaged; pass --overwrite to start again") from cause


class RowFile:
    """A finished file, read and checked.

    Attributes
    ----------
    path, attributes
        Where it is and what it is of.
    """

    error: ClassVar[type[BoxNNError]]

    def __init__(self, path: Location, attributes: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.path = path
        self.attributes = attributes
        self._arrays: dict[str, zarr.Array] = arrays

    def __len__(self) -> int:
        return int(self._arrays["prediction"].shape[0])

    def _read(self, name: str) -> np.ndarray:
        with reachable(self.path, self.error):
            return np.asarray(self._arrays[name][...])


def open_rows(
    path: Name,
    kind: tuple[str, int],
    names: Iterable[str],
    optional: Iterable[str],
    error: type[BoxNNError],
    command: str,
) -> tuple[Location, dict[str, Any], dict[str, Any]]:
    """Open a file and check all of it; return what a `RowFile` is made of.

    Parameters
    ----------
    path
        Of the file.
    kind
        Its format, and the newest version that this package reads.
    names, optional
        Arrays that it must have, and that it may have.
    error
        Type of error to raise if it is missing, damaged, unfinished or something else.
    command
        What makes such files.
    """
    remedy = f"run `{command}` again"
    group = zarr_format.open_group(path, *kind, error, remedy)
    attributes: dict[str, Any] = dict(group.attrs.asdict())
    if "digests" not in attributes:
        raise error(f"{path} is unfinished; resume it with `{command} --resume`")
    arrays: dict[str, Any] = {}
    for name in (*names, *(name for name in optional if name in attributes["digests"])):
        try:
            arrays[name] = group[name]
            digest = zarr_format.stored_digest(arrays[name])
        except zarr_format.READ_FAILURES as cause:
            damaged = f"{path} is damaged: {name} cannot be read; {remedy}"
            raise error(read_problem(path, f"{name} of {path}", cause, damaged)) from cause
        if digest != attributes["digests"].get(name):
            raise error(f"{path} is damaged: {name} does not match its digest; {remedy}")
    return location(path), attributes, arrays
