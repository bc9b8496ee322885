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

ARRAYS = ("x", "y", "x_test", "y_test")


def npz_tables(path: Path) -> tuple[ArrayTable, ArrayTable | None]:
    """Return the training split of an archive and the test split, if it has one.

    The arrays are ``x`` and ``y``, and optionally ``x_test`` and ``y_test``.
    """
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    needed = ("x", "y") if not names & {"x_test", "y_test"} else ARRAYS
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{path} has no array {missing[0]!r} (found {', '.join(sorted(names)) or 'nothing'}); "
            "save it with np.savez(FILE, x=..., y=...) and optionally x_test, y_test"
        )
    rows = {name: _member_rows(path, name) for name in needed}
    train = ArrayTable(rows["x"], rows["y"])
    return train, ArrayTable(rows["x_test"], rows["y_test"]) if len(needed) > 2 else None


def npy_table(x_path: Path, y_path: Path) -> ArrayTable:
    """Return features and labels that lie in two `.npy` files."""
    return ArrayTable(_file_rows(x_path), _file_rows(y_path))


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
