"""Certificate files: per sample, in the data set's own order, what a classifier guarantees.

A Zarr v3 group with arrays ``prediction`` (index into ``classes``), ``radius``,
``class_distance`` (N, K) in units and ``label`` (true index, -1 if unknown),
written chunk by chunk. A chunk counts as finished once its entry in
``finished`` is written, which happens after its data.

Files of the published defences have votes missing to unanimity for class
distances, a prediction of -1 where they abstain, and, where the class is
guessed from votes of its own, ``guess`` with it. Box-NN's have the attribute ``certificate``
(`KINDS`; the margin where it is missing), and exact ones ``upper``: where the time
did not suffice, the true radius is somewhere in radius..upper.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from boxnn_numba import validation
from boxnn_numba.certificates import KINDS
from boxnn_numba.certificates.margin import BOX_NN, CONVENTIONS, certified_radius
from boxnn_numba.data import zarr_format
from boxnn_numba.data.paths import Location, Name, location
from boxnn_numba.data.row_files import (
    RowFile,
    check_same_run,
    open_rows,
    spread_rows,
    unfinished_chunks,
)
from boxnn_numba.errors import CertificateFileError, OptionError

FORMAT, VERSION = "boxnn-certificate", 1
_ARRAYS = ("prediction", "radius", "label", "class_distance")
#: Arrays (N,) that some methods have too.
_EXTRA = ("guess", "upper")
#: Attributes that are known when the file is sealed.
_MEASURED = ("seconds", "seconds_per_sample")
#: Label of an unknown class in an `outcome`; no prediction, not even "abstains", equals it.
_UNKNOWN = -2


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
    extra
        Which of ``"guess"`` and ``"upper"`` chunks come with.

    Raises
    ------
    CertificateFileError
        The earlier run was of another model, data set or split, or had other options.
    """

    def __init__(
        self,
        path: Location,
        attributes: dict[str, Any],
        n_rows: int,
        n_classes: int,
        chunk_rows: int,
        extra: Sequence[str] = (),
    ) -> None:
        unmeasured = dict.fromkeys(_MEASURED)
        full = {"format": FORMAT, "version": VERSION, **attributes, **unmeasured}
        self._group = zarr.open_group(zarr_format.tree_store(path), mode="a", zarr_format=3)
        before = self._group.attrs.asdict()
        check_same_run(path, before, full, _MEASURED, CertificateFileError)
        self._attributes = full
        self._per_sample = before.get("seconds_per_sample")
        self._names = (*_ARRAYS, *extra)
        n_chunks = -(-n_rows // chunk_rows)
        # The attributes are written last, so a group without them was killed while it was made.
        if not before:
            self._group = zarr.create_group(zarr_format.tree_store(path), overwrite=True)
            for name in self._names:
                tail = (n_classes,) if name == "class_distance" else ()
                zarr_format.create_array(
                    self._group, name, (n_rows, *tail), np.int32, (chunk_rows, *tail), -1
                )
            zarr_format.create_array(self._group, "finished", (n_chunks,), np.uint8, (1,))
            zarr_format.write_attributes(self._group, full)
        self._path, self._chunk_rows = path, chunk_rows

    def unfinished(self) -> list[int]:
        """Return the numbers of the chunks that still have to be written."""
        return unfinished_chunks(self._group, CertificateFileError)

    def write(
        self,
        chunk: int,
        prediction: np.ndarray,
        radius: np.ndarray,
        label: np.ndarray,
        class_distance: np.ndarray,
        **extra: np.ndarray | None,
    ) -> None:
        """Write one whole chunk, then record it as finished."""
        write_chunk(
            self._path, chunk, self._chunk_rows, prediction, radius, label, class_distance, **extra
        )

    def finish(self, seconds: float, seconds_per_sample: float | None = None) -> None:
        """Seal the file: digests of all arrays and the seconds it took, of a sample where known."""
        digests = {name: zarr_format.stored_digest(self._group[name]) for name in self._names}  # type: ignore[arg-type]
        measured = (seconds, seconds_per_sample or self._per_sample)
        zarr_format.write_attributes(
            self._group,
            {
                **self._attributes,
                **dict(zip(_MEASURED, measured, strict=True)),
                "digests": digests,
            },
        )


def write_chunk(
    path: Name,
    chunk: int,
    chunk_rows: int,
    prediction: np.ndarray,
    radius: np.ndarray,
    label: np.ndarray,
    class_distance: np.ndarray,
    **extra: np.ndarray | None,
) -> None:
    """Write one whole chunk of a file that a `CertificateWriter` made, then record it as finished.

    Chunks are files of their own, so any number of processes may write different ones, and one
    that is written twice by the same computation stays the same.
    """
    group = zarr.open_group(zarr_format.tree_store(location(path)), mode="r+", zarr_format=3)
    rows = slice(chunk * chunk_rows, chunk * chunk_rows + len(prediction))
    values = dict(zip(_ARRAYS, (prediction, radius, label, class_distance), strict=True))
    values |= {name: value for name, value in extra.items() if value is not None}
    for name, value in values.items():
        group[name][rows] = value  # type: ignore[index]
    group["finished"][chunk] = 1  # type: ignore[index]


class CertificateFile(RowFile):
    """A finished certificate file, read and checked; attributes as in `RowFile`."""

    error = CertificateFileError

    @functools.cached_property
    def prediction(self) -> np.ndarray:
        """(N,) int32, index of the predicted class, -1 where the classifier abstains."""
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

    @functools.cached_property
    def guess(self) -> np.ndarray:
        """(N,) int32, index of the class that a method which guesses one has tried to certify."""
        return self._read("guess")

    @functools.cached_property
    def upper(self) -> np.ndarray | None:
        """(N,) int32, no true radius is larger; of exact certificates, None of others."""
        return self._read("upper") if "upper" in self._arrays else None

    @functools.cached_property
    def row(self) -> np.ndarray:
        """(N,) int64, number of each sample in its split."""
        total = self.attributes.get("split_rows") or len(self)
        return spread_rows(np.arange(len(self)), len(self), int(total))

    @property
    def method(self) -> str:
        """``"Box-NN"``, ``"RA"``, ``"RA^B"``, ``"FPA^A"`` or ``"FPA^B"``."""
        return str(self.attributes["method"])

    @property
    def certificate(self) -> str:
        """One of `KINDS`; of the published defences ``"a"`` or ``"b"``."""
        return str(self.attributes.get("certificate", KINDS[0]))

    @property
    def classes(self) -> list[Any]:
        """The K class labels."""
        return list(self.attributes["classes"])

    @property
    def width(self) -> int:
        """Cap W of the boxes: units per feature."""
        return int(self.attributes["width"])

    @property
    def members(self) -> int:
        """Sets of boxes that ``class_distance`` is the sum of."""
        return int(self.attributes.get("members", 1))

    @property
    def group_size(self) -> int:
        """Codes that an adversary rewrites together."""
        return int(self.attributes["group_size"])

    def outcome(self, convention: str = "sound") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prediction, radius under a convention, and true label.

        Where the prediction is -1 the classifier abstains, and an unknown label is -2, so that the
        two are never taken for a right answer. The published defences have one convention.

        Raises
        ------
        OptionError
            Unknown convention, or another than the sound one of pairwise or exact certificates.
        """
        label = np.where(self.label < 0, _UNKNOWN, self.label)
        validation.choice("convention", convention, CONVENTIONS)
        if convention == "sound" or self.method != BOX_NN:
            return self.prediction, self.radius, label
        if self.certificate != KINDS[0]:
            raise OptionError(
                f"{self.path} holds {self.certificate} certificates, which have no convention but "
                "the sound one; leave out --convention or certify with --certificate margin"
            )
        kind = self.width, self.group_size, convention, self.members
        _, radius = certified_radius(self.class_distance, *kind)
        return self.prediction, radius, label


def open_certificate(path: Name) -> CertificateFile:
    """Read a certificate file and check all of it.

    Raises
    ------
    CertificateFileError
        It is missing, damaged, unfinished, not a certificate, or of a newer version.
    """
    kind = FORMAT, VERSION
    error = CertificateFileError
    return CertificateFile(*open_rows(path, kind, _ARRAYS, _EXTRA, error, "boxnn certify"))
