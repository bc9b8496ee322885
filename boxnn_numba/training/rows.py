"""Rows: samples of raw values or codes, read span by span wherever they are.

What is computed or unpacked when it is read, as Dask's and Zarr's arrays are, is kept as codes in a
temporary file (`Spool`), a byte a value: every epoch reads all rows. Measured on 1,000,000 rows of
50 columns of `da.random`: an epoch reads them in 0.14 s from there and in 0.1 to 0.3 s from a data
set in Zarr, and computes them anew in 11 s, on a busy machine.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import IO, Any

import numpy as np

from boxnn_numba import lazy
from boxnn_numba.errors import OutputError, first_line
from boxnn_numba.grid import Grid

#: Codes that are read at a time: 4096 MNIST images.
STEP_BYTES = 4096 * 784


def step_rows(n_features: int) -> int:
    """Return how many rows of codes are read at a time."""
    return max(1, STEP_BYTES // n_features)


class Rows(ABC):
    """N rows of n features, of which any span can be read.

    Attributes
    ----------
    n_rows, n_features
        How many there are.
    dtype
        Type of raw values or codes.
    step
        How many rows are best read at a time, from a multiple of it on.
    """

    def __init__(
        self, n_rows: int, n_features: int, dtype: np.dtype, step: int | None = None
    ) -> None:
        self.n_rows, self.n_features, self.dtype = n_rows, n_features, np.dtype(dtype)
        self.step = step or step_rows(n_features)

    def __len__(self) -> int:
        return self.n_rows

    @abstractmethod
    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows first, ..., last - 1 as a C-contiguous matrix."""

    @abstractmethod
    def encoded(self, grid: Grid | None, spools: ExitStack) -> Rows:
        """Return the codes of these rows, which every epoch reads; without a grid these are codes.

        A temporary file that is made for them is closed by `spools`.
        """

    def spans(self, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the ends of spans that are best read one by one."""
        last = self.n_rows if last is None else last
        while first < last:
            end = min(last, first - first % self.step + self.step)
            yield first, end
            first = end


class MemoryRows(Rows):
    """A matrix in memory."""

    def __init__(self, x: np.ndarray) -> None:
        super().__init__(len(x), x.shape[1], x.dtype)
        self._x = x

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows first, ..., last - 1; not a copy where they are in order."""
        return np.ascontiguousarray(self._x[first:last])

    def encoded(self, grid: Grid | None, spools: ExitStack) -> Rows:
        """Return codes in memory."""
        return MemoryRows(np.ascontiguousarray(self._x) if grid is None else grid.encode(self._x))


class StoredRows(Rows):
    """An array (N, ...) in a file, read where it is sliced: a memory map or a Zarr array."""

    def __init__(self, x: Any) -> None:
        super().__init__(x.shape[0], int(np.prod(x.shape[1:])), x.dtype)
        self.step = lazy.chunk_rows(x) * max(1, self.step // lazy.chunk_rows(x))
        self._is_packed = not isinstance(x, np.memmap)
        self._x = x

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows first, ..., last - 1."""
        return np.ascontiguousarray(self._x[first:last]).reshape(last - first, self.n_features)

    def encoded(self, grid: Grid | None, spools: ExitStack) -> Rows:
        """Return codes in a temporary file; a memory map of codes stays what it is."""
        if grid is None and not self._is_packed:
            return self
        return _spooled(self, grid, spools)


class Spool(Rows):
    """Rows in a temporary file, which the system removes whatever becomes of this process."""

    def __init__(self, n_features: int, dtype: np.dtype, spools: ExitStack) -> None:
        super().__init__(0, n_features, dtype)
        file = tempfile.TemporaryFile(prefix="boxnn-")  # noqa: SIM115
        self._file: IO[bytes] = spools.enter_context(file)
        self._lock = threading.Lock()  # the next window is read by a thread

    def write(self, blocks: Iterable[np.ndarray], n_rows: int | None = None) -> Spool:
        """Add rows, of which there are `n_rows` if that is known; return the spool.

        Raises
        ------
        OutputError
            There is no space for them.
        """
        folder, row = tempfile.gettempdir(), self.n_features * self.dtype.itemsize
        free, size = shutil.disk_usage(folder).free, (n_rows or 0) * row
        if size > free:
            raise OutputError(
                f"x needs {size / 1e9:.1f} GB of temporary files and {folder} has "
                f"{free / 1e9:.1f} GB free; set TMPDIR to a folder with more"
            )
        for block in blocks:
            try:
                self._file.write(np.ascontiguousarray(block, self.dtype).data)
                self._file.flush()
            except OSError as error:
                raise OutputError(
                    f"cannot write x to a temporary file in {folder}, after {self.n_rows} rows: "
                    f"{first_line(error)}; set TMPDIR to a folder with more space"
                ) from error
            self.n_rows += len(block)
        return self

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows first, ..., last - 1."""
        out = np.empty((last - first, self.n_features), self.dtype)
        with self._lock:
            self._file.seek(first * self.n_features * self.dtype.itemsize)
            self._file.readinto(out.data)  # type: ignore[attr-defined]
        return out

    def encoded(self, grid: Grid | None, spools: ExitStack) -> Rows:
        """Return codes in a temporary file, in place of that of raw values."""
        if grid is None:
            return self
        codes = _spooled(self, grid, spools)
        self._file.close()
        return codes


def _spooled(rows: Rows, grid: Grid | None, spools: ExitStack) -> Spool:
    """Return rows as codes in a temporary file."""
    raw = (rows.read(*span) for span in rows.spans())
    codes = raw if grid is None else map(grid.encode, raw)
    return Spool(rows.n_features, np.dtype(np.uint8), spools).write(codes, rows.n_rows)
