"""IDX files, the format of MNIST: big-endian arrays behind a small header, gzip or not."""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path
from typing import IO

import numpy as np

from boxnn_numba.data.sources.blocks import ArrayTable, FileRows, reading
from boxnn_numba.errors import DataError

#: Third byte of the header -> type of the values.
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_IMAGES = re.compile(r"images?[-.]idx\d-ubyte(\.gz)?$")


def idx_tables(directory: Path) -> tuple[ArrayTable, ArrayTable | None]:
    """Return the training and, if there is one, the test split in a folder.

    Files are found by their usual names, e.g. ``train-images-idx3-ubyte.gz`` and
    ``train-labels-idx1-ubyte.gz``; ``t10k`` or ``test`` in the name marks the test split.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder; pass the folder that has the IDX files")
    found: dict[str, list[Path]] = {"train": [], "test": []}
    with reading(str(directory)):
        paths_here = sorted(directory.iterdir())
    for path in paths_here:
        if _IMAGES.search(path.name):
            is_test = "t10k" in path.name or ("test" in path.name and "train" not in path.name)
            found["test" if is_test else "train"].append(path)
    for split, paths in found.items():
        # An unpacked copy beside its archive is one and the same file.
        if len({path.name.removesuffix(".gz") for path in paths}) > 1:
            names = ", ".join(path.name for path in paths)
            raise DataError(
                f"{directory} has several {split} files ({names}); keep one data set in a folder"
            )
    if not found["train"]:
        raise DataError(
            f"{directory} has no *train-images-idx3-ubyte(.gz); pass the folder that has the "
            "IDX files"
        )
    train, *_ = found["train"]
    test = found["test"][0] if found["test"] else None
    return _pair(train), None if test is None else _pair(test)


def is_idx(path: Path) -> bool:
    """Say whether a file's name is that of an IDX file."""
    return re.search(r"[-.]idx\d(-ubyte)?(\.gz)?$", path.name) is not None


def idx_table(images: Path, labels: Path) -> ArrayTable:
    """Return the split that lies in two IDX files."""
    return ArrayTable(_rows(images), _rows(labels))


def _pair(images: Path) -> ArrayTable:
    head, _, _ = images.name.rpartition("image")
    pattern = re.compile(re.escape(head) + r"labels?[-.]idx\d-ubyte(\.gz)?$")
    matches = [path for path in sorted(images.parent.iterdir()) if pattern.match(path.name)]
    if not matches:
        raise DataError(f"{images} has no labels beside it; add {head}labels-idx1-ubyte(.gz)")
    return idx_table(images, matches[0])


def _rows(path: Path) -> FileRows:
    rows = FileRows(str(path), lambda: _open(path), lambda stream: _header(stream, path))
    size = path.stat().st_size
    header = 4 + 4 * len(rows.shape)
    expected = header + math.prod(rows.shape) * rows.dtype.itemsize
    if not _is_gzip(path) and size != expected:
        raise DataError(
            f"{path} has {size} bytes and its header promises {expected}; it is truncated or "
            "damaged: copy it again"
        )
    return rows


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _open(path: Path) -> IO[bytes]:
    with reading(str(path)):
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; copy or download it again")
        if _is_gzip(path):
            return gzip.open(path)  # type: ignore[return-value]
        return path.open("rb")


def _header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        raise DataError(
            f"{path} is not an IDX file (it begins with {magic.hex() or 'nothing'}); pass the "
            "official files, gzip or not"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} is truncated in its header; copy it again")
    return struct.unpack(f">{magic[3]}I", sizes), np.dtype(TYPES[magic[2]])
