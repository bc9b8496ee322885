"""Certificate files: per sample, in the data set's own order, what a classifier guarantees.

A Zarr v3 group with arrays ``prediction`` (index into ``classes``), ``radius``,
``class_distance`` (N, K) in units and ``label`` (true index, -1 if unknown),
written chunk by chunk. A chunk counts as finished once its entry in
``finished`` is written, which happens after its data.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import zarr

from boxnn_numba.certificates import certified_radius
from boxnn_numba.data import zarr_format
from boxnn_numba.errors import CertificateFileError
from boxnn_numba.locations import Location, Name, location, reachable, read_problem

FORMAT, VERSION = "boxnn-certificate", 1
_REMEDY = "run `boxnn certify` again"
_ARRAYS = ("prediction", "radius", "label", "class_distance")


class CertificateWriter:
    """Writes a certificate file chunk by chunk; a chunk may be written again.

    Parameters
    ----------
    path
        Directory to write in, possibly with chunks of an earlier, interrupted run.
    attributes
        What the certificate is of; an earlier run with other attributes is refused.
    n_rows, n_classes, chunk_rows
        Number N of samples, K of classes, and samples in a chunk.

    Raises
    ------
    CertificateFileError
        The earlier run was of another model, data set or split.
    """

    def __init__(
        self,
        path: Location,
        attributes: dict[str, Any],
        n_rows: int,
        n_classes: int,
        chunk_rows: int,
    ) -> None:
        full = {"format": FORMAT, "version": VERSION, **attributes}
        self._group = zarr.open_group(zarr_format.tree_store(path), mode="a", zarr_format=3)
        before = self._group.attrs.asdict()
        expected = zarr_format.with_digest({**full, "seconds": None})
        kept = {key: item for key, item in before.items() if key not in ("digest", "digests")}
        kept = {**kept, "seconds": None}
        if before and kept != {key: item for key, item in expected.items() if key != "digest"}:
            raise CertificateFileError(
                f"{path} holds an unfinished run of another model, data set or version; "
                "pass --overwrite to start again"
            )
        self._attributes = full
        n_chunks = -(-n_rows // chunk_rows)
        # The attributes are written last, so a group without them was killed while it was made.
        if not before:
            self._group = zarr.create_group(zarr_format.tree_store(path), overwrite=True)
            for name in _ARRAYS:
                tail = (n_classes,) if name == "class_distance" else ()
                zarr_format.create_array(
                    self._group, name, (n_rows, *tail), np.int32, (chunk_rows, *tail), -1
                )
            zarr_format.create_array(self._group, "finished", (n_chunks,), np.uint8, (1,))
            zarr_format.write_attributes(self._group, {**full, "seconds": None})
        self._path, self._chunk_rows = path, chunk_rows

    def unfinished(self) -> list[int]:
        """Return the numbers of the chunks that still have to be written."""
        try:
            return np.flatnonzero(self._group["finished"][:] == 0).tolist()  # type: ignore[index]
        except zarr_format.READ_FAILURES as error:
            raise CertificateFileError(
                "the unfinished run is damaged; pass --overwrite to start again"
            ) from error

    def write(
        self,
        chunk: int,
        prediction: np.ndarray,
        radius: np.ndarray,
        label: np.ndarray,
        class_distance: np.ndarray,
    ) -> None:
        """Write one whole chunk, then record it as finished."""
        values = (prediction, radius, label, class_distance)
        write_chunk(self._path, chunk, self._chunk_rows, *values)

    def finish(self, seconds: float) -> None:
        """Seal the file: digests of all arrays and the seconds it took."""
        digests = {name: zarr_format.stored_digest(self._group[name]) for name in _ARRAYS}  # type: ignore[arg-type]
        zarr_format.write_attributes(
            self._group, {**self._attributes, "seconds": seconds, "digests": digests}
        )


def write_chunk(
    path: Name,
    chunk: int,
    chunk_rows: int,
    prediction: np.ndarray,
    radius: np.ndarray,
    label: np.ndarray,
    class_distance: np.ndarray,
) -> None:
    """Write one whole chunk of a file that a `CertificateWriter` made, then record it as finished.

    Chunks are files of their own, so any number of processes may write different ones, and one
    that is written twice by the same computation stays the same.
    """
    group = zarr.open_group(zarr_format.tree_store(location(path)), mode="r+", zarr_format=3)
    rows = slice(chunk * chunk_rows, chunk * chunk_rows + len(prediction))
    values = (prediction, radius, label, class_distance)
    for name, value in zip(_ARRAYS, values, strict=True):
        group[name][rows] = value  # type: ignore[index]
    group["finished"][chunk] = 1  # type: ignore[index]


class CertificateFile:
    """A finished certificate file, read and checked.

    Attributes
    ----------
    path, attributes
        Where it is and what it is of.
    """

    def __init__(self, path: Location, attributes: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.path = path
        self.attributes = attributes
        self._arrays: dict[str, zarr.Array] = arrays

    def __len__(self) -> int:
        return int(self._arrays["prediction"].shape[0])

    @functools.cached_property
    def prediction(self) -> np.ndarray:
        """(N,) int32, index of the predicted class."""
        return self._read("prediction")

    @functools.cached_property
    def radius(self) -> np.ndarray:
        """(N,) int32, certified radius under the sound convention."""
        return self._read("radius")

    @functools.cached_property
    def label(self) -> np.ndarray:
        """(N,) int32, index of the true class, -1 if unknown."""
        return self._read("label")

    @functools.cached_property
    def class_distance(self) -> np.ndarray:
        """(N, K) int32 units; read only when it is asked for."""
        return self._read("class_distance")

    def _read(self, name: str) -> np.ndarray:
        with reachable(self.path, CertificateFileError):
            return np.asarray(self._arrays[name][...])

    @property
    def classes(self) -> list[Any]:
        """The K class labels."""
        return list(self.attributes["classes"])

    @property
    def width(self) -> int:
        """Cap W of the boxes: units per feature."""
        return int(self.attributes["width"])

    @property
    def group_size(self) -> int:
        """Codes that an adversary rewrites together."""
        return int(self.attributes["group_size"])

    def outcome(self, convention: str = "sound") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prediction, radius under a convention, and true label.

        Raises
        ------
        OptionError
            Unknown convention.
        """
        if convention == "sound":
            return self.prediction, self.radius, self.label
        _, radius = certified_radius(self.class_distance, self.width, self.group_size, convention)
        return self.prediction, radius, self.label


def open_certificate(path: Name) -> CertificateFile:
    """Read a certificate file and check all of it.

    Raises
    ------
    CertificateFileError
        It is missing, damaged, unfinished, not a certificate, or of a newer version.
    """
    group = zarr_format.open_group(path, FORMAT, VERSION, CertificateFileError, _REMEDY)
    attributes: dict[str, Any] = dict(group.attrs.asdict())
    if "digests" not in attributes:
        raise CertificateFileError(f"{path} is unfinished; resume it with `boxnn certify --resume`")
    arrays = {}
    for name in _ARRAYS:
        try:
            arrays[name] = group[name]
            digest = zarr_format.stored_digest(arrays[name])  # type: ignore[arg-type]
        except zarr_format.READ_FAILURES as error:
            damaged = f"{path} is damaged: {name} cannot be read; {_REMEDY}"
            problem = read_problem(path, f"{name} of {path}", error, damaged)
            raise CertificateFileError(problem) from error
        if digest != attributes["digests"].get(name):
            raise CertificateFileError(
                f"{path} is damaged: {name} does not match its digest; {_REMEDY}"
            )
    return CertificateFile(location(path), attributes, arrays)
