"""Manifest: the files of a dataset and their SHA-256, and a check of them for `verify`.

There are two levels. The dataset's own attributes have a digest of every chunk's *values*: they
identify the data, whatever compressed them, and guard every read. The attributes of each split's
group have a digest of every *file*: they find even a flipped bit that changes no value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba.data.paths import Location
from boxnn_numba.data.schema import DIGEST, MOST_CHUNK, listed, mapped, maybe, problem, record
from boxnn_numba.data.zarr_format import attributes_digest

SPLITS = ("train", "test")
#: Arrays of each split; `ID` only where rows have names.
PARTS, ID = ("x", "y"), "id"
#: What the group of a split says of its files.
_FILES = {
    "files": mapped(record({"metadata": maybe(DIGEST), "chunks": listed(maybe(DIGEST))})),
}
REMEDY = "run `boxnn data verify` and ingest again"


def values_digest(values: np.ndarray) -> str:
    """Return the SHA-256 of a C-contiguous array's bytes."""
    return hashlib.sha256(values.data.cast("B")).hexdigest()


def file_digest(path: Location) -> str | None:
    """Return the SHA-256 of a file; None if there is none that can be read."""
    content = _content(path)
    return None if content is None else hashlib.sha256(content).hexdigest()


def chunk_path(folder: Location, key: str, index: int) -> Location:
    """Return where a chunk of the array `key`, e.g. ``train/x``, lies."""
    position = folder / key / "c" / str(index)
    return position if key.endswith("y") else position / "0"


def chunk_problem(folder: Location, key: str, index: int) -> str:
    """Say in one line that a chunk is not what was written."""
    return f"{key} chunk {index} of {folder} is damaged or missing; {REMEDY}"


def metadata_problem(folder: Location, key: str) -> str:
    """Say in one line that the metadata of a group or array is not what was written."""
    return f"{folder / key / 'zarr.json'} is damaged or missing; {REMEDY}"


def file_problems(folder: Location) -> Iterator[str]:
    """Compare every file with the digest that was taken when it was written."""
    if _attributes(folder) is None:
        yield metadata_problem(folder, "")
    for split in SPLITS:
        attributes = _attributes(folder / split)
        if attributes is None:
            yield metadata_problem(folder, split)
            continue
        if problem(_FILES, attributes) or not attributes["files"].keys() <= {*PARTS, ID}:
            yield metadata_problem(folder, split)
            continue
        for part, files in attributes["files"].items():
            key = f"{split}/{part}"
            if file_digest(folder / key / "zarr.json") != files["metadata"]:
                yield metadata_problem(folder, key)
            for index, digest in enumerate(files["chunks"]):
                if file_digest(chunk_path(folder, key, index)) != digest:
                    yield chunk_problem(folder, key, index)


def _content(path: Location) -> bytes | None:
    try:
        # None of ours is larger: a chunk, and what a frame adds to it.
        return path.read_bytes() if path.stat().st_size <= 2 * MOST_CHUNK else None
    except FileNotFoundError:
        return None
    except OSError:
        if isinstance(path, Path):
            return None
        raise  # a lost connection is no damage


def _attributes(folder: Location) -> dict[str, Any] | None:
    """Return a group's attributes; None where anything in its metadata is wrong."""
    try:
        metadata = json.loads(_content(folder / "zarr.json") or b"")
        attributes = metadata.pop("attributes")
        sound = attributes["digest"] == attributes_digest(attributes)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    rest_is_sound = metadata == {"zarr_format": 3, "node_type": "group"}
    return attributes if sound and rest_is_sound else None
