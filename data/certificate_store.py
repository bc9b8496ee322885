"""Certificate files: per sample, in the data set's own order, what a classifier guarantees.

A Zarr v3 group that is written chunk by chunk (`row_files`).

Files of the published defences have votes missing to unanimity for class
distances, a prediction of -1 where they abstain, and, where the class is
guessed from votes of its own, ``guess`` with it. Box-NN's have the attribute ``certificate``
(`KINDS`; the margin where it is missing), and exact ones ``upper``: where the time
did not suffice, the true radius is somewhere in radius..upper. Those of patches have the radii of
the margin, and whether predictions withstand blocks of pixels besides. Attributes ``attackable``,
numbers of groups, and ``costs``, by group, say what the adversary may rewrite, if that is not all;
with costs ``radius`` counts groups as without (of exact ones by the pairwise certificate), and
``budget`` is what may be spent.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.certificates import KINDS
from boxnn_numba.certificates.margin import (
    BOX_NN,
    CONVENTIONS,
    certified_radius,
    median_certified_radius,
)
from boxnn_numba.data.paths import Name
from boxnn_numba.data.row_files import Column, OptionalColumn, RowFile, spread_rows
from boxnn_numba.errors import CertificateFileError, OptionError

#: Label of an unknown class in an `outcome`; no prediction, not even "abstains", equals it.
_UNKNOWN = -2


class CertificateFile(RowFile):
    """A finished certificate file, read and checked; attributes as in `RowFile`.

    Its arrays ``prediction``, ``radius``, ``label``, ``class_distance``, ``guess``, ``upper``,
    ``budget``, ``budget_upper`` and ``withstands`` are described with the file format; a file
    without one of the last five has None.
    """

    format = "boxnn-certificate"
    measured = ("seconds", "seconds_per_sample")
    command = "boxnn certify"
    error = CertificateFileError

    prediction = Column("index into `classes`; -1 where the method abstains")
    radius = Column("of the prediction, >= 0, under the sound convention")
    label = Column("true class, -1 where the model does not know it")
    class_distance = Column("units of 1 / width; of an ensemble, sums over its members", second="K")
    guess = OptionalColumn("RA and RA^B only: the class that was guessed from votes of its own")
    upper = OptionalColumn("exact certificates only: the true radius is in `radius`..`upper`")
    budget = OptionalColumn(
        "with `costs` only: what may be spent without an effect, of the certificate's kind",
        ("float64",),
    )  # fmt: skip
    budget_upper = OptionalColumn(
        "exact certificates with `costs` only: the true budget is in `budget`..`budget_upper`",
        ("float64",),
    )  # fmt: skip
    withstands = OptionalColumn(
        "patch certificates only: whether no block of a size in `patch` changes the prediction",
        ("bool",), "S", 0,
    )  # fmt: skip

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

    @property
    def patches(self) -> dict[str, float] | None:
        """Percent right and certified by size of patch, as ``"3x7"``; None of other kinds."""
        if self.withstands is None:
            return None
        shares = 100 * (self.withstands & (self.prediction == self.label)[:, None]).mean(axis=0)
        sizes = ["x".join(map(str, size)) for size in self.attributes["patch"]]
        return {size: round(float(share), 4) for size, share in zip(sizes, shares, strict=True)}

    def _limited(self, radius: np.ndarray) -> np.ndarray:
        return np.minimum(radius, np.asarray(self.most, dtype=radius.dtype))

    def standing(self) -> tuple[float | None, int]:
        """Return accuracy in percent and the median certified radius.

        Of rows without any label that are None and the median of the radii.
        """
        prediction, radius, label = self.outcome()
        if (label < 0).all():
            return None, median_certified_radius(prediction, radius, prediction)
        accuracy = round(100.0 * float((prediction == label).mean()), 4)
        return accuracy, median_certified_radius(prediction, radius, label)

    def outcome(self, convention: str = "sound") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prediction, radius (with costs the budget) under a convention, and true label.

        A radius is at most what there is to rewrite, or what all of that costs.

        Where the prediction is -1 the classifier abstains, and an unknown label is -2, so that the
        two are never taken for a right answer. The published defences have one convention.

        Raises
        ------
        OptionError
            Unknown convention, or another than the sound one of certificates but the margin.
        """
        label = np.where(self.label < 0, _UNKNOWN, self.label)
        validation.choice("convention", convention, CONVENTIONS)
        if convention == "sound" or self.method != BOX_NN:
            radius = self.radius if self.budget is None else self.budget
            return self.prediction, self._limited(radius), label
        if self.certificate != KINDS[0] or self.budget is not None:
            raise OptionError(
                f"{self.path} holds {self.certificate} certificates, which have no convention but "
                "the sound one; leave out `convention` or certify by margin"
            )
        kind = self.width, self.group_size, convention, self.members
        _, radius = certified_radius(self.class_distance, *kind)
        return self.prediction, self._limited(radius), label


def open_certificate(path: Name) -> CertificateFile:
    """Read a certificate file and check all of it.

    Raises
    ------
    CertificateFileError
        It is missing, damaged, unfinished, not a certificate, or of a newer version.
    """
    return CertificateFile.open(path)
