"""Users' arrays: `.npz` archives and pairs of `.npy` files, read as streams and never unpickled."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from boxnn_numba.data.sources.blocks import ArrayTable, FileRows, MemoryRows, Rows, reading
from boxnn_numba.errors import DataError

#: Names of training features and labels: ours, those of Keras's archives, and of our datasets.
_TRAIN = (("x", "y"), ("x_train", "y_train"), ("train/x", "train/y"))
_TEST = (("x_test", "y_test"), ("test/x", "test/y"))


class Names(NamedTuple):
    """Names of the arrays of features and labels, where a user gives them."""

    x: str | None = None
    y: str | None = None


NO_NAMES = Names()


def named_pairs(
    place: str, names: Collection[str], given: Names, need_labels: bool, remedy: str
) -> list[tuple[str, str | None]]:
    """Return the names of features and labels for training, and of those for testing, if any.

    They are those that are `given`, with ``y`` beside another ``x``; or ``x`` and ``y``,
    ``x_train`` and ``y_train``, or ``train/x`` and ``train/y``, and optionally the same for
    testing. Without `need_labels` those of labels may be missing; what is missing otherwise has a
    `remedy`.
    """
    if any(given):
        pairs = [(given.x or "x", given.y or "y")]
    else:
        pairs = [pair for pair in _TRAIN if {*names} & {*pair}] or [_TRAIN[0]]
        if len(pairs) > 1:
            both = ", ".join(x for x, _ in pairs)
            raise DataError(f"{place} has arrays {', '.join(sorted(names))}; leave one of {both}")
        pairs += [pair for pair in _TEST if {*names} & {*pair}][:1]
    must = need_labels or given.y is not None
    wanted = [name for x, y in pairs for name in ((x, y) if must else (x,))]
    missing = [name for name in wanted if name not in names]
    if missing:
        found = ", ".join(sorted(map(str, names))) or "nothing"
        raise DataError(f"{place} has no array {missing[0]!r} (found {found}); {remedy}")
    return [(x, y if y in names else None) for x, y in pairs]


def npz_tables(
    path: Path, need_labels: bool = True, given: Names = NO_NAMES
) -> tuple[ArrayTable, ArrayTable | None]:
    """Return the training split of an archive and the test split, if it has one.

    The arrays are those of `named_pairs`. Without `need_labels` those of the labels may be missing.
    """
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    remedy = "save it with np.savez(FILE, x=..., y=...) and optionally x_test, y_test"
    train, *test = (
        ArrayTable(_member_rows(path, x), None if y is None else _member_rows(path, y))
        for x, y in named_pairs(str(path), names, given, need_labels, remedy)
    )
    return train, test[0] if test else None


def npy_rows(path: Path) -> Rows:
    """Return the array of an ``.npy`` file."""
    return _npy_rows(str(path), lambda: path.open("rb"))


def array_rows(path: Path) -> Rows:
    """Return the features of an ``.npy`` file, or of an ``.npz`` archive: its ``x``, or all."""
    if path.suffix != ".npz":
        return npy_rows(path)
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    chosen = names if len(names) == 1 else [name for name in names if name == "x"]
    if not chosen:
        raise DataError(f"{path} has arrays {', '.join(sorted(names))}; name the samples x")
    return _member_rows(path, chosen[0])


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
