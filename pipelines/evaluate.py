"""Evaluation of a certificate file: certified accuracy, medians, classes, accuracy under attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba import text, validation
from boxnn_numba.certificates import margin
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import CertificateFileError
from boxnn_numba.pipelines.attack.comparison import UnderAttack, hold_against
from boxnn_numba.pipelines.figures.runs import certified_curve, cost_step, in_steps
from boxnn_numba.pipelines.figures.scales import default_radii, last_visible
from boxnn_numba.pipelines.running import Result

_OF_IMAGES = range(0, 41, 4)


@dataclass(frozen=True)
class Evaluation(Result):
    """Summary of a certificate file.

    Attributes
    ----------
    method, certificate, convention
        Kind of the certificates, and the convention of their radii.
    median_certified_radius, mean_certified_radius
        In the `unit`.
    unit
        Unit of radii: ``"pixels"`` for images, ``"columns"`` for tables, ``"features"`` for other
        data, or ``"cost"``.
    attackable
        How many of these may be rewritten; None for all.
    certified_accuracy
        Radius as string -> percent.
    accuracy
        In percent.
    balanced_certified_accuracy, balanced_accuracy
        The same, balanced: all classes that occur count alike.
    majority
        The majority-class baseline, whose accuracy is certified at every radius: ``class``,
        ``accuracy`` and ``balanced_accuracy`` in percent.
    n
        Number of samples.
    per_class
        A row for each class, with its ``recall``.
    abstained
        Percent of samples on which a published defence abstained; they count as wrong.
    under_attack
        Accuracy under an attack, if one was given.
    exact
        For exact certificates: ``settled``, percent of radii that were found before the time was
        up; ``time_limit``, seconds for each; ``upper``, radius as string -> percent of samples that
        are right and whose upper bound is at least that radius.
    patches
        Of patch certificates: percent right and certified by size, as ``"3x7"``. Their radii are
        the margin's.
    unlabelled
        Rows that have no label of the model's classes, if there are any. They count as wrong but in
        what is balanced, as a row of another class is.
    """

    method: str
    median_certified_radius: float
    certified_accuracy: dict[str, float]
    accuracy: float
    balanced_certified_accuracy: dict[str, float]
    balanced_accuracy: float
    majority: dict[str, Any]
    mean_certified_radius: float
    certificate: str
    n: int
    convention: str
    unit: str
    per_class: list[dict[str, Any]]
    abstained: float | None = None
    under_attack: UnderAttack | None = None
    exact: dict[str, Any] | None = None
    patches: dict[str, float] | None = None
    attackable: int | None = None
    unlabelled: int | None = None


def evaluate(
    certificate: Name,
    radii: Sequence[float] | None = None,
    convention: str = "sound",
    attack: Name | None = None,
) -> Evaluation:
    """Summarise a certificate file.

    Parameters
    ----------
    certificate
        Path of a certificate file.
    radii
        Radii of the curve, each >= 0. By default 0, 4, ..., 40 of images, else about a dozen to
        where the curve ends.
    convention
        ``"sound"``, or ``"paper"`` to compare with the paper's tables.
    attack
        Path of an attack file to hold against the certificates.

    Returns
    -------
    Evaluation

    Raises
    ------
    CertificateFileError, AttackFileError
        A file is missing, damaged or unfinished.
    OptionError
        A radius is negative, the convention unknown, or the attack of something else.
    UnsoundError
        An attack succeeded within a certified radius; it is kept beside the attack file.
    """
    if radii is not None:
        validation.radii(radii, budgets=True)
    file = open_certificate(certificate)
    if radii is not None:
        radii = _countable(file, radii)
    outcome = prediction, _, label = file.outcome(convention)
    if (label < 0).all():
        raise CertificateFileError(
            f"{certificate} has no row with a label that the model knows, so nothing is right or "
            "wrong; `boxnn export certificates` writes its predictions and radii"
        )
    radii = _radii(file, radii, outcome)

    def curve(radius: np.ndarray) -> dict[str, float]:
        return _percents(radii, margin.certified_accuracy(prediction, radius, label, radii))

    exact, free = None, file.attributes.get("attackable")
    upper = file.upper if file.budget_upper is None else file.budget_upper
    if upper is not None:
        settled = 100.0 * float((outcome[1] == upper).mean())
        limit = file.attributes["time_limit"]
        exact = {"settled": settled, "time_limit": limit, "upper": curve(upper)}
    abstained = round(100.0 * float((file.prediction < 0).mean()), 4)
    table = margin.per_class_table(*outcome, len(file.classes))
    known = prediction[label >= 0], outcome[1][label >= 0], label[label >= 0]
    balanced = margin.balanced_certified_accuracy(*known, [0, *radii])
    constant = margin.majority(known[2])
    return Evaluation(
        method=file.method,
        median_certified_radius=margin.median_certified_radius(*outcome),
        certified_accuracy=curve(outcome[1]),
        accuracy=round(100.0 * float((prediction == label).mean()), 4),
        balanced_certified_accuracy=_percents(radii, balanced[1:]),
        balanced_accuracy=round(100.0 * float(balanced[0]), 4),
        majority={
            "class": file.classes[int(constant.label)],
            # Of all rows: those of an unknown class are wrong, as above.
            "accuracy": round(100.0 * constant.accuracy * len(known[0]) / len(file), 4),
            "balanced_accuracy": round(100.0 * constant.balanced, 4),
        },
        mean_certified_radius=margin.mean_certified_radius(*outcome),
        certificate=file.certificate,
        n=len(file),
        convention=convention,
        unit=file.unit,
        per_class=[{**row, "class": file.classes[int(row["class"])]} for row in table],
        abstained=None if file.method == margin.BOX_NN else abstained,
        under_attack=None if attack is None else hold_against(file, attack, radii, convention),
        exact=exact,
        patches=file.patches,
        attackable=None if free is None else len(free),
        unlabelled=file.unlabelled,
    )


def _countable(file: CertificateFile, radii: Sequence[float]) -> Sequence[float]:
    """Return given radii, as whole numbers unless a file has budgets; raise where they are not."""
    whole = "costs" not in file.attributes
    checked = validation.radii(radii, budgets=not whole)
    return checked.tolist() if whole else radii


def _radii(
    file: CertificateFile,
    radii: Sequence[float] | None,
    outcome: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Sequence[float]:
    """Return the radii to count at: those given or, for None, what suits the file."""
    if radii is not None:
        return radii
    step = cost_step(file.attributes)
    prediction, radius, label = outcome
    last = last_visible(certified_curve((prediction, in_steps(radius, file.attributes), label)))
    radii = default_radii(file.unit, int(file.most // step), last, _OF_IMAGES)
    return radii if step == 1 else [step * radius for radius in radii]


def _percents(radii: Sequence[float], shares: np.ndarray) -> dict[str, float]:
    # Sums of decimal numbers, 0.1 + 0.2 say, are a little off, and no two radii are as near.
    words = [text.exact(float(f"{r:.12g}")) if isinstance(r, float) else str(r) for r in radii]
    return {word: round(100.0 * float(s), 4) for word, s in zip(words, shares, strict=True)}
