"""Hold an attack file against the certificates of the same model and data."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from boxnn_numba.data.attack_store import AttackFile, open_attack
from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.errors import BoxNNError, OptionError, UnsoundError
from boxnn_numba.locations import Name
from boxnn_numba.pipelines.attack import (
    beaten_text,
    keep_counterexample,
    no_attack_text,
    standing,
)
from boxnn_numba.pipelines.origins import Origins
from boxnn_numba.pipelines.runs import Run


def hold_against(
    certificate: CertificateFile, attack: Name, radii: Sequence[int], convention: str = "sound"
) -> dict[str, Any]:
    """Compare what an attack achieved with what is certified, on the rows that were attacked.

    Parameters
    ----------
    certificate
        Certificates of all rows of a split.
    attack
        Path of an attack file of the same model, data set and split.
    radii
        Radii of the curves.
    convention
        ``"sound"``; nothing else is certified.

    Returns
    -------
    dict
        ``attack``, ``method``, ``max_features`` (None for any number), ``n`` rows ``of`` all, and
        what `standing` returns of these rows.

    Raises
    ------
    AttackFileError
        The file is missing, damaged or unfinished.
    OptionError
        It is of another model, data set or split, or the convention is not the sound one.
    UnsoundError
        An attack succeeded within a certified radius, or is none; it is kept beside `attack`.
    """
    if convention != "sound":
        raise OptionError(
            f"attacks are held against sound radii; leave out --attack or --convention {convention}"
        )
    file = open_attack(attack)
    check_same(certificate, file)
    _check_sound(certificate, file)
    options = file.attributes["options"]
    prediction, radius, label = (values[file.row] for values in certificate.outcome())
    return {
        "attack": str(attack),
        "method": options["method"],
        "max_features": options["max_features"],
        "n": len(file),
        "of": len(certificate),
        **standing(prediction, radius, label, file.changed, radii),
    }


def check_same(certificate: CertificateFile, attack: AttackFile) -> None:
    """Raise `OptionError` unless an attack is of the model, data and split of certificates."""
    for key, noun in (
        ("model_digest", "model"),
        ("dataset_digest", "data set"),
        ("split", "split"),
    ):
        mine, yours = (str(file.attributes.get(key)) for file in (certificate, attack))
        if mine != yours:
            short = slice(8 if key.endswith("digest") else None)
            what = noun if key == "split" else f"{noun}, by digest"
            raise OptionError(
                f"{certificate.path} and {attack.path} are not of the same {what} "
                f"({mine[short]} and {yours[short]}); run boxnn attack on what was certified"
            )


def _check_sound(certificate: CertificateFile, attack: AttackFile) -> None:
    """Raise unless every attack is one, and none is within the certified radius."""
    rows, changed = attack.row, attack.changed
    prediction, radius = certificate.prediction[rows], certificate.radius[rows]
    none = (changed >= 0) & (attack.prediction == prediction)
    beaten = (changed >= 0) & (changed <= radius)
    if not (none | beaten).any():
        return
    at = int((none | beaten).argmax())
    row = int(rows[at])
    path = attack.path
    with contextlib.suppress(OSError):  # The attack file has it too, where no more can be written.
        path = keep_counterexample(path, _input(certificate, row), attack.x[at], row)
    if none[at]:
        raise UnsoundError(no_attack_text(row, path))
    raise UnsoundError(beaten_text(row, int(changed[at]), int(radius[at]), path))


def _input(certificate: CertificateFile, row: int) -> np.ndarray | None:
    """Return a row of the data set, or None if that is not to be had any more."""
    attributes = certificate.attributes
    run = Run(
        certificate.path.stem, *certificate.outcome(), certificate.classes, attributes,
        path=certificate.path,
    )  # fmt: skip
    try:
        dataset = Origins([run]).dataset(run)
        if dataset is None:
            return None
        return np.asarray(dataset.read_rows(str(attributes["split"]), np.array([row]))[0][0])
    except BoxNNError:  # What is wrong with the data must not hide the violation.
        return None
