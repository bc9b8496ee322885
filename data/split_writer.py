"""One split of a dataset while it is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr

from boxnn_numba.data.manifest import PARTS, chunk_path, file_digest, values_digest
from boxnn_numba.data.paths import Location
from boxnn_numba.errors import InputError


class SplitWriter:
    """Collects rows into whole chunks and writes them; holds at most one chunk.

    Parameters
    ----------
    folder
        Folder of the dataset.
    split
        Name of the split.
    x, y
        Its empty arrays, with chunks of the same number of rows.
    """

    def __init__(self, folder: Location, split: str, x: zarr.Array, y: zarr.Array) -> None:
        self._folder = folder
        self._split = split
        self._arrays = {"x": x, "y": y}
        rows = x.chunks[0]
        self._buffers = {
            "x": np.empty((rows, x.shape[1]), x.dtype),
            "y": np.empty(rows, y.dtype),
        }
        self._filled = 0
        self._written = 0
        self._digests: dict[str, list[str]] = {part: [] for part in PARTS}
        self._file_digests: dict[str, list[str | None]] = {part: [] for part in PARTS}

    def append(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows (rows, n_features) of the stored dtype and their class indices (rows,)."""
        array = self._arrays["x"]
        if x.dtype != array.dtype or x.shape != (len(y), array.shape[1]):
            raise InputError(
                f"{self._split} got {x.dtype} features of shape {x.shape} for {len(y)} labels; "
                f"they must be {array.dtype}, ({len(y)}, {array.shape[1]})"
            )
        taken = 0
        capacity = len(self._buffers["y"])
        while taken < len(x):
            count = min(capacity - self._filled, len(x) - taken)
            target = slice(self._filled, self._filled + count)
            self._buffers["x"][target] = x[taken : taken + count]
            self._buffers["y"][target] = y[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == capacity:
                self._flush()

    def finish(self) -> None:
        """Write what is left and check that every row was given."""
        self._flush()
        expected = self._arrays["y"].shape[0]
        if self._written != expected:
            raise InputError(
                f"{self._split} got {self._written} rows and was declared with {expected}; "
                "write as many rows as n_rows says"
            )

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the data: layout and digests of the values."""
        return {
            f"{self._split}/{part}": {
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "chunks": list(array.chunks),
                "chunk_digests": self._digests[part],
            }
            for part, array in self._arrays.items()
        }

    def files(self) -> dict[str, Any]:
        """Return the digests of the files."""
        return {
            part: {
                "metadata": file_digest(self._folder / self._split / part / "zarr.json"),
                "chunks": digests,
            }
            for part, digests in self._file_digests.items()
        }

    def _flush(self) -> None:
        if self._filled == 0:
            return
        rows = slice(self._written, self._written + self._filled)
        for part, array in self._arrays.items():
            values = self._buffers[part][: self._filled]
            array[rows] = values
            file = chunk_path(self._folder, f"{self._split}/{part}", len(self._digests[part]))
            self._digests[part].append(values_digest(values))
            self._file_digests[part].append(file_digest(file))
        self._written += self._filled
        self._filled = 0
