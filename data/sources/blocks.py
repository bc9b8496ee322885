"""Blocks: the interface of every source for `ingest`, a table read block by block.

Nothing here holds more than one block, so memory does not grow with the number of rows.
"""

from __future__ import annotations

import contextlib
import math
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np

from boxnn_numba import validation
from boxnn_numba.columns import Columns
from boxnn_numba.errors import BoxNNError, DataError, InputError, first_line

#: Size of a block of features, in bytes of the source's own type.
BLOCK_BYTES = 4 << 20

#: Distances of more features would not fit in int32 units.
MAX_FEATURES = (2**31 - 1) // validation.MAX_CODE

#: What the standard library raises for damaged or truncated files.
READ_FAILURES = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)

#: Stands for a label where a row has none.
UNLABELLED = ""


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn a failure to read `place` into one line that says what to do."""
    try:
        yield
    except BoxNNError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {place}: {first_line(error)}; save it as UTF-8") from error
    except READ_FAILURES as error:
        raise DataError(
            f"cannot read {place}: {first_line(error)}; check the file or copy it again"
        ) from error


@dataclass(frozen=True)
class Block:
    """Some consecutive rows.

    Attributes
    ----------
    x : ndarray (rows, n_features)
        Features as found; without features, (rows, 0), where they are not asked for.
    labels : ndarray (rows,)
        Integers or strings as found; `UNLABELLED` where a row has none.
    start : int
        Number of the first row in its split, from 0.
    lines : sequence of int or None
        Line of each row, where the source is a text file.
    ids : ndarray (rows,) or None
        Integers or strings that name the rows, where the source has them.
    is_test : ndarray (rows,) or None
        Whether each row is for testing, where the source says so.
    """

    x: np.ndarray
    labels: np.ndarray
    start: int
    lines: Sequence[int] | None = None
    ids: np.ndarray | None = None
    is_test: np.ndarray | None = None


class Table(ABC):
    """One split of a source.

    Attributes
    ----------
    place : str
        What to call it in a message.
    feature_shape : tuple of int
        Shape of one sample.
    is_uint8 : bool
        Whether the features are stored as unsigned bytes.
    columns : Columns or None
        Of a table, known when all of `scan` was read; None of other sources.
    """

    place: str
    feature_shape: tuple[int, ...]
    is_uint8: bool
    columns: Columns | None = None

    @property
    def n_features(self) -> int:
        """Number of features of one sample."""
        return math.prod(self.feature_shape)

    @abstractmethod
    def scan(self) -> Iterator[Block]:
        """Read what has to be known of all rows before any is stored: everything but features."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Read all rows in order."""


@dataclass(frozen=True)
class Like:
    """What data must be like: those of a model.

    Attributes
    ----------
    columns : Columns or None
        Its columns, if it has any.
    n_features, feature_shape
        How many features it takes, and the shape of a sample.
    classes
        Its labels.
    codes : bool
        Whether it takes codes.
    table : dict
        How the table that it was trained on was read, as in `Dataset.table`.
    """

    columns: Columns | None
    n_features: int
    feature_shape: tuple[int, ...]
    classes: list[Any]
    codes: bool
    table: dict[str, Any]


class Rows(Protocol):
    """An array that is read in blocks of rows."""

    place: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield arrays of up to `rows` rows, in order."""


class MemoryRows:
    """An array in memory, or mapped to it."""

    def __init__(self, place: str, array: np.ndarray) -> None:
        self.place = place
        self.shape = array.shape
        self.dtype = array.dtype
        self._array = array

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield arrays of up to `rows` rows, in order."""
        for start in range(0, len(self._array), rows):
            yield np.ascontiguousarray(self._array[start : start + rows])


class FileRows:
    """An array that lies row after row behind a header, in a file or in a compressed stream.

    Parameters
    ----------
    place
        What to call it in a message.
    opener
        Opens the stream at its beginning.
    read_header
        Reads the header and returns shape and dtype.
    """

    def __init__(
        self,
        place: str,
        opener: Callable[[], IO[bytes]],
        read_header: Callable[[IO[bytes]], tuple[tuple[int, ...], np.dtype]],
    ) -> None:
        self.place = place
        self._opener = opener
        self._read_header = read_header
        with reading(place), opener() as stream:
            self.shape, self.dtype = read_header(stream)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield arrays of up to `rows` rows, in order."""
        total, row_shape = self.shape[0], self.shape[1:]
        row_bytes = math.prod(row_shape) * self.dtype.itemsize
        with reading(self.place), self._opener() as stream:
            self._read_header(stream)
            for start in range(0, total, rows):
                count = min(rows, total - start)
                data = stream.read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise DataError(
                        f"{self.place} is truncated: its header promises {total} rows and it ends "
                        f"in row {start + len(data) // max(1, row_bytes)}; copy it again"
                    )
                yield np.frombuffer(data, self.dtype).reshape(count, *row_shape)
            if stream.read(1):
                raise DataError(
                    f"{self.place} goes on after the {total} rows that its header promises; "
                    "copy it again"
                )


class ArrayTable(Table):
    """Features and labels that lie in two arrays.

    Parameters
    ----------
    x
        Features, (N, ...) numbers.
    y
        Labels, (N,) or (N, 1) integers or strings; None where there are none.
    """

    def __init__(self, x: Rows, y: Rows | None) -> None:
        if len(x.shape) < 2:
            raise DataError(
                f"{x.place} has shape {x.shape}; features must be (rows, features) or images"
            )
        if y is not None and (not y.shape or math.prod(y.shape) != y.shape[0]):
            raise DataError(f"{y.place} has shape {y.shape}; labels must be one-dimensional")
        if y is not None and x.shape[0] != y.shape[0]:
            raise DataError(
                f"{x.place} has {x.shape[0]} rows and {y.place} has {y.shape[0]} labels; "
                "they must belong together"
            )
        if x.dtype.kind not in "iufb":
            raise DataError(f"{x.place} has dtype {x.dtype}; features must be numbers")
        if 0 in x.shape:
            raise DataError(f"{x.place} is empty, shape {x.shape}; pass at least one sample")
        if math.prod(x.shape[1:]) > MAX_FEATURES:
            raise DataError(
                f"{x.place} has shape {x.shape}; at most {MAX_FEATURES} features are supported"
            )
        self.place = x.place
        self.feature_shape = x.shape[1:]
        self.is_uint8 = x.dtype == np.uint8
        self._x = x
        self._y = y
        self._n_rows = x.shape[0]
        self._step = max(1, BLOCK_BYTES // (self.n_features * x.dtype.itemsize))

    def blocks(self) -> Iterator[Block]:
        """Read all rows in order."""
        start = 0
        parts = zip(self._x.blocks(self._step), self._labels(self._step), strict=True)
        for x, labels in parts:
            yield Block(x.reshape(len(x), -1), labels, start)
            start += len(x)

    def scan(self) -> Iterator[Block]:
        """Read all labels in order."""
        start = 0
        for labels in self._labels(BLOCK_BYTES // 64):
            yield Block(np.empty((len(labels), 0)), labels, start)
            start += len(labels)

    def _labels(self, step: int) -> Iterator[np.ndarray]:
        if self._y is not None:
            for y in self._y.blocks(step):
                yield clean_labels(y.reshape(-1), self._y.place)
            return
        for start in range(0, self._n_rows, step):
            yield np.full(min(step, self._n_rows - start), UNLABELLED)


def clean_labels(values: np.ndarray, place: str) -> np.ndarray:
    """Return labels as integers or strings without spaces around them."""
    try:
        labels = validation.labels(place, values, len(values))
    except InputError as error:
        raise DataError(str(error)) from error
    if labels.dtype.kind == "U":
        return np.char.strip(labels)
    return labels.astype(np.int64) if labels.dtype.kind == "b" else labels


def stored_features(block: Block, table: Table, codes: bool) -> np.ndarray:
    """Return a block's features as they are stored.

    Parameters
    ----------
    block
        Rows of `table`.
    table
        Names the place in messages.
    codes
        Store uint8 codes, which must be whole numbers 0..255; otherwise float32, which must be
        finite but for missing values of a table.

    Raises
    ------
    DataError
        Naming the row, the column and the value that does not fit.
    """
    x, columns = block.x, table.columns
    if codes:
        if x.dtype == np.uint8:
            return x
        wrong = ~((x >= 0) & (x <= validation.MAX_CODE) & (x == np.floor(x)))
        _refuse(wrong, block, table, "codes must be whole numbers 0..255 (leave `codes` away)")
        return x.astype(np.uint8)
    finite = np.isfinite(x) if columns is None else ~np.isinf(x)
    remedy = "drop or fill NaN and infinite values first"
    if columns is not None:
        remedy = "mend the cell, name its text in `missing`, or drop the column"
    _refuse(~finite, block, table, remedy)
    with np.errstate(over="ignore"):
        stored = x.astype(np.float32)
    _refuse(np.isinf(stored), block, table, "features must fit in float32; scale them")
    return stored


def where(block: Block, row: int) -> str:
    """Say where a row of a block is."""
    return f"line {block.lines[row]}" if block.lines is not None else f"row {block.start + row}"


def _refuse(wrong: np.ndarray, block: Block, table: Table, remedy: str) -> None:
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        names = None if table.columns is None else table.columns.names
        name = f"feature {column}" if names is None else f"column {names[column]!r}"
        value = block.x[row, column]
        raise DataError(f"{value} at {where(block, row)}, {name} of {table.place}; {remedy}")
