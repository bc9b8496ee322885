"""Comparison of attacks with certificates: both accuracies, and a check that certificates hold."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.certificates import margin
from boxnn_numba.columns import Columns
from boxnn_numba.data.attack_store import AttackFile, open_attack
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.paths import Location, Name
from boxnn_numba.data.row_files import group_count_of
from boxnn_numba.errors import BoxNNError, OptionError, UnsoundError
from boxnn_numba.pipelines.figures.origins import Origins
from boxnn_numba.pipelines.figures.runs import MOST_DRAWN, Run
from boxnn_numba.pipelines.running import Result

#: Share of the groups that a random search may change by default.
_RANDOM_SHARE = 10


@dataclass(frozen=True)
class Standing(Result):
    """How accuracy stands under attack, beside what is certified of the same samples; in percent.

    Attributes
    ----------
    found, meets
        Samples for which there is an attack, and for which the smallest one is the certified
        radius plus one.
    mean_changed
        Features that attacks change, on average; None without one.
    accuracy
        Without an attack.
    attack, method, n
        The file, how samples were attacked, and how many.
    radii
        Radius as string -> ``certified_accuracy``, ``robust_accuracy`` under attack, and the
        ``gap``, robust less certified accuracy.
    patches
        Of an attack by blocks of pixels, their size as ``"3x7"`` -> the same, where the certified
        accuracy and the gap are None if that size was not certified. Empty for other attacks.
    """

    attack: str
    method: str
    n: int
    found: float
    meets: float
    mean_changed: float | None
    accuracy: float | None
    radii: dict[str, dict[str, float]]
    patches: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Blocks:
    """The blocks of pixels that an attack rewrote.

    Attributes
    ----------
    size
        Rows and columns.
    withstands
        (N,) bool, samples that are certified against them; None where that is not known.
    """

    size: tuple[int, int]
    withstands: np.ndarray | None

    @property
    def name(self) -> str:
        """Their size, as ``"3x7"``."""
        return "x".join(map(str, self.size))

    def accuracy(self, right: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
        """Return what of the right predictions is certified, left by attacks, and the gap."""
        robust = 100.0 * float((right & ~found).mean())
        known = self.withstands
        certified = None if known is None else 100.0 * float((right & known).mean())
        return {
            "certified_accuracy": certified,
            "robust_accuracy": robust,
            "gap": None if certified is None else robust - certified,
        }


def joined(blocks: Sequence[Blocks | None]) -> Blocks | None:
    """Return those of some chunks of samples as one."""
    known = [one for one in blocks if one is not None]
    if not known:
        return None
    withstands = [one.withstands for one in known if one.withstands is not None]
    return Blocks(known[0].size, np.concatenate(withstands) if withstands else None)


def standing(
    prediction: np.ndarray,
    radius: np.ndarray,
    label: np.ndarray,
    changed: np.ndarray,
    radii: Sequence[float],
    blocks: Blocks | None = None,
) -> dict[str, Any]:
    """Return a `Standing` but for its file; `changed` is what attacks need, -1 for none found.

    Of rows without any label every prediction stands for the truth, and there is no accuracy.
    """
    found, known = changed >= 0, bool((label >= 0).any())
    label = label if known else prediction
    resisted = np.where(found, changed - 1, np.iinfo(np.int32).max)
    robust = 100.0 * margin.certified_accuracy(prediction, resisted, label, radii)
    certified = 100.0 * margin.certified_accuracy(prediction, radius, label, radii)
    curves = {
        str(r): {"certified_accuracy": float(c), "robust_accuracy": float(a), "gap": float(a - c)}
        for r, c, a in zip(radii, certified, robust, strict=True)
    }
    return {
        "n": len(changed),
        "found": 100.0 * float(found.mean()),
        "meets": 100.0 * float((changed == radius + 1).mean()),
        "mean_changed": float(changed[found].mean()) if found.any() else None,
        "accuracy": 100.0 * float((prediction == label).mean()) if known else None,
        "radii": curves,
        "patches": {}
        if blocks is None
        else {blocks.name: blocks.accuracy(prediction == label, found)},
    }


def check_sound(
    rows: np.ndarray,
    changed: np.ndarray,
    same: np.ndarray,
    radius: np.ndarray,
    keep: Callable[[int], Location],
    blocks: Blocks | None = None,
) -> None:
    """Raise `UnsoundError` unless every attack is one, and none is within the certified radius.

    The error names the first such row, and the file to which `keep` writes what is at its index.
    `changed` is -1 where there is no attack, `same` whether the prediction stays the same; `blocks`
    are those that were rewritten.
    """
    none, beaten = (changed >= 0) & same, (changed >= 0) & (changed <= radius)
    if blocks is not None and blocks.withstands is not None:
        beaten |= (changed >= 0) & blocks.withstands
    if not (none | beaten).any():
        return
    at = int((none | beaten).argmax())
    row, path = int(rows[at]), keep(at)
    if none[at]:
        raise UnsoundError(
            f"the attack on row {row} does not change the prediction; this is a defect, "
            f"please report it with {path}"
        )
    if blocks is not None and changed[at] > radius[at]:
        what = f"by one block of {blocks.name}, against which it is certified"
    else:
        what = f"with {changed[at]} features, within its certified radius {radius[at]}"
    raise UnsoundError(
        f"an attack changes the prediction of row {row} {what}; the certificate is wrong, please "
        f"report it with {path}"
    )


def keep_counterexample(
    beside: Location, x: np.ndarray | None, x_adv: np.ndarray, row: int
) -> Location:
    """Write an input, where it is known, and an attack on it to an ``.npz`` file beside another."""
    path = beside.with_name(f"{beside.name}.counterexample-{row}.npz")
    arrays = {"x_adv": x_adv, "row": np.int64(row), **({} if x is None else {"x": x})}
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


@dataclass(frozen=True)
class UnderAttack(Standing):
    """Accuracy under attack beside certified accuracy, on the rows that both files have.

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
    certificate: CertificateFile, attack: Name, radii: Sequence[float], convention: str = "sound"
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
    rows, changed = file.row[attacked], file.changed[attacked]
    prediction, radius, label = (values[certified] for values in certificate.outcome())

    def keep(at: int) -> Location:
        # The attack file has it too, where no more can be written.
        with contextlib.suppress(OSError):
            x, row = file.x[attacked[at]], int(rows[at])
            return keep_counterexample(file.path, _input(certificate, row), x, row)
        return file.path

    options = file.attributes["options"]
    blocks = _blocks(certificate, options.get("patch"), certified)
    check_sound(rows, changed, file.prediction[attacked] == prediction, radius, keep, blocks)
    return UnderAttack(
        **standing(prediction, radius, label, changed, radii, blocks),
        attack=str(attack), method=options["method"], max_features=_most_changes(file),
        features=options.get("features"), of=len(certificate),
    )  # fmt: skip


def _blocks(certificate: CertificateFile, patch: Any, rows: np.ndarray) -> Blocks | None:
    """Return the blocks of an attack with what is certified of some rows; None of other attacks."""
    if patch is None:
        return None
    size = validation.one_patch("patch", patch)
    sizes = np.array(certificate.attributes.get("patch") or np.zeros((0, 2)))
    # A block that is withstood covers those within it.
    covers = (sizes >= size).all(axis=1)
    if certificate.withstands is None or not covers.any():
        return Blocks(size, None)
    return Blocks(size, certificate.withstands[rows][:, covers].any(axis=1))


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
        if run.attack is not None:
            raise OptionError(f"{attack} is a second attack on {run.name}; pass one for each run")
        assert run.path is not None
        last = min(MOST_DRAWN, max(int(run.radius.max()), int(file.changed.max())))
        most = _most_changes(file)
        last = last if most is None else min(last, most)
        result = hold_against(open_certificate(run.path), attack, range(last + 1), convention)
        if result.patches:
            left = {size: row["robust_accuracy"] or 0.0 for size, row in result.patches.items()}
            found[at] = replace(run, robust_patches=left, attacked=result.n, attack=file)
            continue
        robust = np.array([row["robust_accuracy"] for row in result.radii.values()])
        found[at] = replace(run, robust=robust, attacked=result.n, attack=file)
    return found


def random_budget(groups: int) -> int:
    """Return how many groups a random search may change where nothing else is asked for."""
    return max(1, groups // _RANDOM_SHARE)


def _most_changes(file: AttackFile) -> int | None:
    """Return how many changes an attack could make at most; None for any number."""
    options = file.attributes["options"]
    if options["method"] == "random" and options["max_features"] is None:
        return random_budget(group_count_of(file.attributes))
    most: int | None = options["max_features"]
    return most


def _check_same(certificate: CertificateFile, attack: AttackFile) -> None:
    """Raise `OptionError` unless an attack is of the model, data and split of certificates."""
    for key, what in (
        ("model_digest", "model, by digest"),
        ("dataset_digest", "data set, by digest"),
        ("split", "split"),
    ):
        mine, yours = (str(file.attributes.get(key)) for file in (certificate, attack))
        if mine != yours:
            raise OptionError(
                f"{certificate.path} and {attack.path} are not of the same {what} "
                f"({mine[:8]} and {yours[:8]}); run boxnn attack on what was certified"
            )
    if certificate.budget is not None:
        raise OptionError(
            f"{certificate.path} has budgets and attacks count columns; certify without `costs`"
        )
    if certificate.attributes.get("attackable") != attack.attributes.get("attackable"):
        raise OptionError(
            f"{certificate.path} and {attack.path} are of adversaries who reach other columns; run "
            "boxnn attack with the same `attackable`"
        )


def _input(certificate: CertificateFile, row: int) -> np.ndarray | None:
    """Return a row of the data set, or None if that is not to be had any more."""
    # What is wrong with the data must not hide the violation.
    with contextlib.suppress(BoxNNError):
        dataset = Origins([certificate]).dataset(certificate)
        if dataset is not None:
            split, listed = (
                str(certificate.attributes["split"]),
                certificate.attributes.get("columns"),
            )
            columns = None if listed is None else Columns.from_list(listed)
            dataset = dataset.matched(columns, certificate.path)
            return np.asarray(dataset.read_rows(split, np.array([row]))[0][0])
    return None
