"""Attack files: the adversarial inputs found, in the order of the rows that were attacked.

A Zarr v3 group with arrays ``x`` (N, n), ``changed`` (features or groups, -1 where no attack was
found), ``prediction`` (of ``x``, index into ``classes``), ``label`` (true index, -1 if unknown) and
``row`` (number in the split), written chunk by chunk like a certificate file.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import zarr

from boxnn_numba.data import zarr_format
from boxnn_numba.data.paths import Location, Name
from boxnn_numba.data.row_files import RowFile, check_same_run, open_rows, unfinished_chunks
from boxnn_numba.errors import AttackFileError

FORMAT, VERSION = "boxnn-attack", 1
_VECTORS = ("changed", "prediction", "label", "row")
_ARRAYS = ("x", *_VECTORS)
#: Attributes that are known when the file is sealed.
_MEASURED = ("seconds",)


class AttackWriter:
    """Writes an attack file chunk by chunk.

    Parameters
    ----------
    path
        Directory to write in, possibly with chunks of an earlier, interrupted run.
    attributes
        What was attacked, and how; an earlier run with other attributes is refused.
    shape, dtype
        (N, n) and type of the adversarial inputs.
    chunk_rows
        Samples in a chunk.

    Raises
    ------
    AttackFileError
        The earlier run was of something else, or is damaged.
    """

    def __init__(
        self,
        path: Location,
        attributes: dict[str, Any],
        shape: tuple[int, int],
        dtype: np.dtype,
        chunk_rows: int,
    ) -> None:
        unmeasured = dict.fromkeys(_MEASURED)
        self._attributes = {"format": FORMAT, "version": VERSION, **attributes, **unmeasured}
        self._chunk_rows = chunk_rows
        self._group = zarr.open_group(zarr_format.tree_store(path), mode="a", zarr_format=3)
        before = self._group.attrs.asdict()
        check_same_run(path, before, self._attributes, _MEASURED, AttackFileError)
        # The attributes are written last, so a group without them was killed while it was made.
        if not before:
            self._group = zarr.create_group(zarr_format.tree_store(path), overwrite=True)
            chunks = chunk_rows, shape[1]
            zarr_format.create_array(self._group, "x", shape, dtype, chunks)
            for name in _VECTORS:
                zarr_format.create_array(self._group, name, shape[:1], np.int32, (chunk_rows,), -1)
            n_chunks = -(-shape[0] // chunk_rows)
            zarr_format.create_array(self._group, "finished", (n_chunks,), np.uint8, (1,))
            zarr_format.write_attributes(self._group, self._attributes)

    def unfinished(self) -> list[int]:
        """Return the numbers of the chunks that still have to be written."""
        return unfinished_chunks(self._group, AttackFileError)

    def write(self, chunk: int, *values: np.ndarray) -> None:
        """Write one whole chunk (x, changed, prediction, label, row); then it is finished."""
        start = chunk * self._chunk_rows
        for name, value in zip(_ARRAYS, values, strict=True):
            self._group[name][start : start + len(value)] = value  # type: ignore[index]
        self._group["finished"][chunk] = 1  # type: ignore[index]

    def finish(self, seconds: float) -> None:
        """Seal the file: digests of all arrays, and the seconds that the attack took."""
        digests = {name: zarr_format.stored_digest(self._group[name]) for name in _ARRAYS}  # type: ignore[arg-type]
        zarr_format.write_attributes(
            self._group, {**self._attributes, "seconds": seconds, "digests": digests}
        )


class AttackFile(RowFile):
    """A finished attack file, read and checked; attributes as in `RowFile`."""

    error = AttackFileError

    @functools.cached_property
    def x(self) -> np.ndarray:
        """(N, n) adversarial inputs, the inputs themselves where no attack was found."""
        return self._read("x")

    @functools.cached_property
    def changed(self) -> np.ndarray:
        """(N,) int32, features (or groups) changed, -1 where no attack was found."""
        return self._read("changed")

    @functools.cached_property
    def prediction(self) -> np.ndarray:
        """(N,) int32, index of the class predicted for `x`."""
        return self._read("prediction")

    @functools.cached_property
    def label(self) -> np.ndarray:
        """(N,) int32, index of the true class, -1 if unknown."""
        return self._read("label")

    @functools.cached_property
    def row(self) -> np.ndarray:
        """(N,) int32, number of the sample in its split."""
        return self._read("row")


def open_attack(path: Name) -> AttackFile:
    """Read an attack file and check all of it.

    Raises
    ------
    AttackFileError
        It is missing, damaged, unfinished, not an attack file, or of a newer version.
    """
    kind = FORMAT, VERSION
    return AttackFile(*open_rows(path, kind, _ARRAYS, (), AttackFileError, "boxnn attack"))
