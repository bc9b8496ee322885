"""CIFAR-10 in its binary version, which needs no pickle: from its archive or its unpacked files."""

from __future__ import annotations

import contextlib
import functools
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import numpy as np

from boxnn_numba.data.sources.blocks import BLOCK_BYTES, Block, Table, reading
from boxnn_numba.errors import DataError

ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
CLASSES = np.array(
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
)
FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
#: A label, then the red, the green and the blue values of 32 x 32 pixels.
_RECORD = 1 + 3 * 32 * 32

Opener = Callable[[], AbstractContextManager[IO[bytes]]]


class CifarTable(Table):
    """One split: the records of some files.

    Parameters
    ----------
    files
        What to call each file in a message, and what opens it.
    """

    is_uint8 = True
    feature_shape = (32, 32, 3)

    def __init__(self, files: Sequence[tuple[str, Opener]]) -> None:
        self.place = files[0][0]
        self._files = files

    def scan(self) -> Iterator[Block]:
        """Read all labels in order."""
        for block in self._records():
            yield Block(np.empty((len(block), 0)), CLASSES[block[:, 0]], 0)

    def blocks(self) -> Iterator[Block]:
        """Read all images in order."""
        start = 0
        for block in self._records():
            planes = block[:, 1:].reshape(-1, 3, 32, 32)
            x = planes.transpose(0, 2, 3, 1).reshape(len(block), -1)
            yield Block(x, CLASSES[block[:, 0]], start)
            start += len(block)

    def _records(self) -> Iterator[np.ndarray]:
        for place, opener in self._files:
            with reading(place), opener() as stream:
                while data := stream.read(BLOCK_BYTES // _RECORD * _RECORD):
                    if len(data) % _RECORD:
                        raise DataError(f"{place} ends within an image; copy or download it again")
                    block = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
                    if block[:, 0].max() >= len(CLASSES):
                        raise DataError(
                            f"{place} has a label above 9; it is no file of CIFAR-10's binary "
                            "version"
                        )
                    yield block


def cifar_tables(folder: Path) -> tuple[CifarTable, CifarTable]:
    """Return training and test split from the archive, or from a folder with it or its files."""
    files = _unpacked(folder)
    archive = folder if folder.is_file() else folder / ARCHIVE
    if files is None and not archive.is_file():
        what = "has no" if folder.is_dir() else "is not a folder with"
        raise DataError(
            f"{folder} {what} {ARCHIVE} (the python version is not read, it is a pickle); download "
            "the binary version, e.g. with `boxnn data fetch cifar-10`"
        )
    if files is None and not tarfile.is_tarfile(archive):
        raise DataError(
            f"{archive} is not the archive {ARCHIVE}; where it holds images, ingest it by its path "
            "in place of cifar-10, else copy it again"
        )

    def table(split: str) -> CifarTable:
        found: list[tuple[str, Opener]] = []
        for name in FILES[split]:
            if files is not None:
                found.append((str(files / name), functools.partial(_file, files / name)))
            else:
                member = functools.partial(_member, archive, f"{FOLDER}/{name}")
                found.append((f"{name} of {archive}", member))
        return CifarTable(found)

    return table("train"), table("test")


def is_cifar(folder: Path) -> bool:
    """Say whether a folder has the archive or all its files."""
    return (folder / ARCHIVE).is_file() or _unpacked(folder) is not None


def _unpacked(folder: Path) -> Path | None:
    names = [name for split in FILES.values() for name in split]
    for place in (folder, folder / FOLDER):
        if all((place / name).is_file() for name in names):
            return place
    return None


def _file(path: Path) -> IO[bytes]:
    return path.open("rb")


@contextlib.contextmanager
def _member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    with tarfile.open(archive) as opened:
        try:
            file = opened.extractfile(name)
        except KeyError:
            file = None
        if file is None:
            raise DataError(f"{archive} has no {name}; download the binary version of CIFAR-10")
        yield file
