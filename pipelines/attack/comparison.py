"""Comparison of an attack file with the certificates of the same model and data."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from boxnn_numba.data.attack_store import AttackFile, open_attack
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.paths import Location, Name
from boxnn_numba.errors import BoxNNError, OptionError
from boxnn_numba.pipelines.attack.attack import random_budget
from boxnn_numba.pipelines.attack.sandwich import (
    Standing,
    check_sound,
    keep_counterexample,
    standing,
)
from boxnn_numba.pipelines.figures.origins import Origins
from boxnn_numba.pipelines.figures.runs import Run


@dataclass(frozen=True)
class UnderAttack(Standing):
    """What an attack has left of what is certified, on the rows that both files have.

    Attributes
    ----------
    max_features
        That the attack could change; None for any number.
    features
        File that says which it could change; None for all.
    of
        Rows that are certified; `n` are in both files.
    """

    max_features: int | None
    features: str | None
    of: int


def hold_against(
    certificate: CertificateFile, attack: Name, radii: Sequence[int], convention: str = "sound"
) -> UnderAttack:
    """Compare what an attack achieved with what is certified, on the rows that were attacked.

    Raises
    ------
    AttackFileError, OptionError
        The file is damaged; of another model, data set or split; the convention is not sound.
    UnsoundError
        An attack succeeded within a certified radius, or is none; it is kept beside `attack`.
    """
    if convention != "sound":
        raise OptionError(
            f"attacks are held against sound radii; leave out `attack` or `convention` {convention}"
        )
    file = open_attack(attack)
    _check_same(certificate, file)
    _, certified, attacked = np.intersect1d(certificate.row, file.row, True, return_indices=True)
    _check_sound(certificate, file, certified, attacked)
    prediction, radius, label = (values[certified] for values in certificate.outcome())
    options = file.attributes["options"]
    return UnderAttack(
        **standing(prediction, radius, label, file.changed[attacked], radii),
        attack=str(attack), method=options["method"], max_features=_most_changes(file),
        features=options.get("features"), of=len(certificate),
    )  # fmt: skip


def with_attacks(runs: Sequence[Run], attacks: Sequence[Name], convention: str) -> list[Run]:
    """Add `Run.robust` to runs that were attacked, as far as the attack has looked.

    Raises as `hold_against`; or an attack is on none of the models, or is a second one on a run.
    """
    found = list(runs)
    for attack in attacks:
        file = open_attack(attack)
        digest = file.attributes.get("model_digest")
        same = [run.attributes.get("model_digest") == digest for run in runs]
        at = same.index(True) if any(same) else 0  # of another model: `hold_against` says so
        run = found[at]
        if run.robust is not None:
            raise OptionError(f"{attack} is a second attack on {run.name}; pass one for each run")
        assert run.path is not None
        last = max(int(run.radius.max()), int(file.changed.max()))
        most = _most_changes(file)
        last = last if most is None else min(last, most)
        result = hold_against(open_certificate(run.path), attack, range(last + 1), convention)
        robust = np.array([row["robust_accuracy"] for row in result.radii.values()])
        found[at] = replace(run, robust=robust, attacked=result.n, attack=file)
    return found


def _most_changes(file: AttackFile) -> int | None:
    """Return how many changes an attack could make at most; None for any number."""
    options = file.attributes["options"]
    if options["method"] == "random" and options["max_features"] is None:
        return random_budget(-(-file.x.shape[1] // int(file.attributes["group_size"])))
    most: int | None = options["max_features"]
    return most


def _check_same(certificate: CertificateFile, attack: AttackFile) -> None:
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


def _check_sound(
    certificate: CertificateFile, attack: AttackFile, certified: np.ndarray, attacked: np.ndarray
) -> None:
    """Raise unless every attack is one, and none is within the certified radius."""
    rows, changed, x = attack.row[attacked], attack.changed[attacked], attack.x
    prediction, radius = certificate.prediction[certified], certificate.radius[certified]

    def keep(at: int) -> Location:
        # The attack file has it too, where no more can be written.
        with contextlib.suppress(OSError):
            row = int(rows[at])
            return keep_counterexample(attack.path, _input(certificate, row), x[attacked[at]], row)
        return attack.path

    check_sound(rows, changed, attack.prediction[attacked] == prediction, radius, keep)


def _input(certificate: CertificateFile, row: int) -> np.ndarray | None:
    """Return a row of the data set, or None if that is not to be had any more."""
    # What is wrong with the data must not hide the violation.
    with contextlib.suppress(BoxNNError):
        dataset = Origins([certificate]).dataset(certificate)
        if dataset is not None:
            split = str(certificate.attributes["split"])
            return np.asarray(dataset.read_rows(split, np.array([row]))[0][0])
    return None
