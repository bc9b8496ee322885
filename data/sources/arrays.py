"""Users' arrays: `.npz` archives and pairs of `.npy` files, read as streams and never unpickled."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from boxnn_numba.data.sources.blocks import ArrayTable, FileRows, MemoryRows, Rows, reading
from boxnn_numba.errors import DataError

#: Names of training features and labels: ours, and those of Keras's archives.
_TRAIN = (("x", "y"), ("x_train", "y_train"))
_TEST = ("x_test", "y_test")


def npz_tables(path: Path, need_labels: bool = True) -> tuple[ArrayTable, ArrayTable | None]:
    """Return the training split of an archive and the test split, if it has one.

    The arrays are ``x`` and ``y``, or ``x_train`` and ``y_train``, and optionally ``x_test`` and
    ``y_test``. Without `need_labels` those of the labels may be missing.
    """
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    found = [pair for pair in _TRAIN if names & {*pair}] or [_TRAIN[0]]
    if len(found) > 1:
        raise DataError(f"{path} has arrays {', '.join(sorted(names))}; leave one of x, x_train")
    pairs = [*found, *([_TEST] if names & {*_TEST} else [])]
    missing = [
        name for x, y in pairs for name in ((x, y) if need_labels else (x,)) if name not in names
    ]
    if missing:
        raise DataError(
            f"{path} has no array {missing[0]!r} (found {', '.join(sorted(names)) or 'nothing'}); "
            "save it with np.savez(FILE, x=..., y=...) and optionally x_test, y_test"
        )
    train, *test = (
        ArrayTable(_member_rows(path, x), _member_rows(path, y) if y in names else None)
        for x, y in pairs
    )
    return train, test[0] if test else None


def npy_table(x_path: Path, y_path: Path | None) -> ArrayTable:
    """Return features and labels that lie in two `.npy` files, or features only."""
    return ArrayTable(_file_rows(x_path), None if y_path is None else _file_rows(y_path))


def array_rows(path: Path) -> Rows:
    """Return the features of an ``.npy`` file, or of an ``.npz`` archive: its ``x``, or all."""
    if path.suffix != ".npz":
        return _file_rows(path)
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    chosen = names if len(names) == 1 else [name for name in names if name == "x"]
    if not chosen:
        raise DataError(f"{path} has arrays {', '.join(sorted(names))}; name the samples x")
    return _member_rows(path, chosen[0])


def _file_rows(path: Path) -> Rows:
    return _npy_rows(str(path), lambda: path.open("rb"))


def _member_rows(path: Path, name: str) -> Rows:
    def opener() -> IO[bytes]:
        with zipfile.ZipFile(path) as archive:
            return archive.open(f"{name}.npy")

    return _npy_rows(f"array {name!r} of {path}", opener)


def _npy_rows(place: str, opener: Callable[[], IO[bytes]]) -> Rows:
    with reading(place), opener() as stream:
        shape, fortran, dtype = _npy_header(stream, place)
        if fortran and len(shape) > 1:
            # Its rows are scattered over the whole file: map an unpacked copy on disk instead.
            return MemoryRows(place, _mapped(stream, shape, dtype, place))

    def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        shape, _, dtype = _npy_header(stream, place)
        return shape, dtype

    return FileRows(place, opener, read_header)


def _npy_header(stream: IO[bytes], place: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    if not stream.peek(1):  # type: ignore[attr-defined]
        raise DataError(f"{place} is empty; write it again")
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise DataError(f"{place} has .npy version {version}; save a plain array with np.save")
    if dtype.hasobject:
        raise DataError(
            f"{place} holds Python objects, which are never unpickled; save numbers or strings "
            "(e.g. astype(str))"
        )
    return shape, fortran, dtype


def _mapped(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, place: str) -> np.ndarray:
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(stream, spool)
        expected = math.prod(shape) * dtype.itemsize
        if spool.tell() != expected:
            raise DataError(
                f"{place} is truncated: it has {spool.tell()} bytes of data instead of {expected}; "
                "copy it again"
            )
        return np.memmap(spool, dtype, "r", 0, shape, "F")
