"""Certificate files: predictions and certified radii of samples, in the order of the data set.

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
from collections.abc import Mapping
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
from boxnn_numba.data.row_files import (
    SHARED,
    Column,
    OptionalColumn,
    RowFile,
    fits,
    reach_of,
    spread_rows,
)
from boxnn_numba.data.schema import (
    MOST_ROWS,
    OBJECT,
    TEXT,
    Schema,
    listed,
    maybe,
    number,
    one_of,
    whole,
)
from boxnn_numba.errors import CertificateFileError, OptionError

#: Label of an unknown class in an `outcome`; no prediction, not even "abstains", equals it.
_UNKNOWN = -2


#: Methods, and certificates of those that are not of boxes.
_METHODS, _PUBLISHED = (BOX_NN, "RA", "RA^B", "FPA^A", "FPA^B", "stumps"), ("a", "b", "exact")
#: Attributes without which a method, or exact certificates, cannot be judged.
_NEEDED = dict.fromkeys(("RA", "RA^B"), ("alpha", "samples", "guess_samples", "seed", "retained"))
_OF_EXACT = ("time_limit",)
_POSITIVE = whole(1, MOST_ROWS)


def _fits(said: Mapping[str, Any]) -> str | None:
    """Return how the attributes of a certificate do not fit each other, or None."""
    units = 2 * said["width"] * said["group_size"] * said.get("members", 1)
    if said.get("divisor", units) != units:
        return f"divisor is {said['divisor']}, not 2 * width * group_size * members = {units}"
    if not 0 < said.get("alpha", 0.5) < 1:
        return f"alpha is {said['alpha']}; it must be between 0 and 1"
    if len(said["classes"]) < 2:
        return "there is one class"
    of_boxes = said["method"] == BOX_NN
    needed = _OF_EXACT if of_boxes and said.get("certificate") == "exact" else ()
    if absent := [name for name in _NEEDED.get(said["method"], needed) if name not in said]:
        return f"{absent[0]} is missing"
    return fits(said)


SCHEMA = Schema(
    "boxnn-certificate",
    1,
    CertificateFileError,
    "run `boxnn certify` again",
    {
        **SHARED,
        "method": one_of(_METHODS),
        "certificate?": one_of((*KINDS, *_PUBLISHED)),
        "divisor?": whole(1, 2**63),
        "patch?": listed(listed(_POSITIVE, 2, 2), 1, 1024),
        "time_limit?": number(0),
        "seconds_per_sample?": maybe(number(0)),
        "partition?": TEXT,
        "base?": OBJECT,
        "alpha?": number(0),
        **dict.fromkeys(
            ("retained?", "parts?", "rounds?", "samples?", "guess_samples?"), _POSITIVE
        ),
        **dict.fromkeys(("seed?", "multiply_adds?"), whole(0, 2**63)),
    },
    _fits,
    sparse=True,
)


class CertificateFile(RowFile):
    """A finished certificate file, read and checked; attributes as in `RowFile`.

    Its arrays ``prediction``, ``radius``, ``label``, ``class_distance``, ``guess``, ``upper``,
    ``budget``, ``budget_upper`` and ``withstands`` are described with the file format; a file
    without one of the last five has None.
    """

    schema = SCHEMA
    measured = ("seconds", "seconds_per_sample")
    command = "boxnn certify"

    prediction = Column(
        "index into `classes`; -1 where the method abstains", low=-1, high="class"
    )  # fmt: skip
    radius = Column(
        "of the prediction, >= 0, under the sound convention", low=0, high="never"
    )  # fmt: skip
    label = Column(
        "true class, -1 where a row has none that the model knows: it counts as wrong",
        low=-1, high="class",
    )  # fmt: skip
    guess = OptionalColumn(
        "RA and RA^B only: the class that was guessed from votes of its own", low=0, high="class"
    )  # fmt: skip
    upper = OptionalColumn(
        "exact certificates only: the true radius is in `radius`..`upper`", low=0, high="never"
    )  # fmt: skip
    budget = OptionalColumn(
        "with `costs` only: what may be spent without an effect, of the certificate's kind",
        ("float64",), low=0, high="cost",
    )  # fmt: skip
    budget_upper = OptionalColumn(
        "exact certificates with `costs` only: the true budget is in `budget`..`budget_upper`",
        ("float64",), low=0, high="cost",
    )  # fmt: skip
    class_distance = Column(
        "units of 1 / width; of an ensemble, sums over its members", second="K", low=0
    )  # fmt: skip
    withstands = OptionalColumn(
        "patch certificates only: whether no block of a size in `patch` changes the prediction",
        ("bool",), "S", 0,
    )  # fmt: skip

    def impossible(self, name: str, block: np.ndarray, first: int) -> str | None:
        """Return a contradiction to earlier columns or to the class distances; or None."""
        if name == "upper" or name == "budget_upper":
            below = self.radius if name == "upper" else self.budget
            at = slice(first, first + len(block))
            return _first(block < below[at], first, "is below what is certified")  # type: ignore[index]
        if name != "class_distance" or self.method not in (BOX_NN, "FPA^A"):
            return None
        at = slice(first, first + len(block))
        prediction, radius = self._margins(block, CONVENTIONS[0])
        if said := _first(
            prediction != self.prediction[at], first, "is not nearest to the prediction"
        ):
            return said
        if self.certificate in ("pairwise", "exact"):
            return None
        wrong = self.radius[at] > radius
        return _first(wrong, first, f"does not allow the {self.certificate} radius")

    def unfit(self) -> str | None:
        """Return how the arrays do not fit the attributes, or None."""
        found, box = self.attributes["digests"], self.method == BOX_NN
        exact, priced = box and self.certificate == "exact", "costs" in self.attributes
        wanted = {"guess": self.method in ("RA", "RA^B"), "upper": exact and not priced,
                  "budget": priced, "budget_upper": exact and priced,
                  "withstands": self.certificate == "patch"}  # fmt: skip
        for name, needed in wanted.items():
            if (name in found) != needed:
                return f"{self.method} {self.certificate} has {'no' if needed else 'a'} {name}"
        if not box and self.certificate not in _PUBLISHED:
            return f"{self.method} has no {self.certificate} certificates"
        return super().unfit()

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

    def _margins(self, distance: np.ndarray, convention: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the predictions and radii that follow from class distances."""
        kind = self.width, self.group_size, convention, self.members, reach_of(self.attributes)
        return certified_radius(distance, *kind)

    @property
    def unlabelled(self) -> int | None:
        """Number of rows that have no label of the model's classes; None if all have one."""
        return int((self.label < 0).sum()) or None

    def standing(self) -> tuple[float | None, float]:
        """Return accuracy in percent and the median certified radius.

        If no row has a label, return None and the median of the radii.
        """
        prediction, radius, label = self.outcome()
        if (label < 0).all():
            return None, median_certified_radius(prediction, radius, prediction)
        accuracy = round(100.0 * float((prediction == label).mean()), 4)
        return accuracy, median_certified_radius(prediction, radius, label)

    def outcome(self, convention: str = "sound") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return prediction, radius (with costs the budget) under a convention, and true label.

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
            # The sum of all costs is rounded, and so may be a budget that is all of it.
            radius = self.radius if self.budget is None else np.minimum(self.budget, self.most)
            return self.prediction, radius, label
        if self.certificate != KINDS[0] or self.budget is not None:
            raise OptionError(
                f"{self.path} holds {self.certificate} certificates, which have no convention but "
                "the sound one; leave out `convention` or certify by margin"
            )
        return self.prediction, self._margins(self.class_distance, convention)[1], label


def _first(wrong: np.ndarray, first: int, words: str) -> str | None:
    """Return the first row that is wrong, in words; None where none is."""
    return f"of row {first + int(wrong.argmax())} {words}" if wrong.any() else None


def open_certificate(path: Name) -> CertificateFile:
    """Read a certificate file and check all of it.

    Parameters
    ----------
    path
        Folder written by `boxnn certify`, or its URL.

    Returns
    -------
    CertificateFile

    Raises
    ------
    CertificateFileError
        It is missing, damaged, unfinished, not a certificate, or of a newer version.
    """
    return CertificateFile.open(path)
