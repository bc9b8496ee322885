"""Certified accuracy, accuracy under attack, and that the one is never above the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.certificates import margin
from boxnn_numba.data.paths import Location
from boxnn_numba.errors import UnsoundError
from boxnn_numba.pipelines.running import Result


def check_sound(
    rows: np.ndarray,
    changed: np.ndarray,
    same: np.ndarray,
    radius: np.ndarray,
    keep: Callable[[int], Location],
) -> None:
    """Raise `UnsoundError` unless every attack is one, and none is within the certified radius.

    The error names the first such row, and the file to which `keep` writes what is at its index.
    `changed` is -1 where there is no attack, `same` whether the prediction stays the same.
    """
    none, beaten = (changed >= 0) & same, (changed >= 0) & (changed <= radius)
    if not (none | beaten).any():
        return
    at = int((none | beaten).argmax())
    row, path = int(rows[at]), keep(at)
    if none[at]:
        raise UnsoundError(
            f"the attack on row {row} does not change the prediction; this is a defect, "
            f"please report it with {path}"
        )
    raise UnsoundError(
        f"an attack changes the prediction of row {row} with {changed[at]} features, within its "
        f"certified radius {radius[at]}; the certificate is wrong, please report it with {path}"
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
    """

    attack: str
    method: str
    n: int
    found: float
    meets: float
    mean_changed: float | None
    accuracy: float
    radii: dict[str, dict[str, float]]


def standing(
    prediction: np.ndarray,
    radius: np.ndarray,
    label: np.ndarray,
    changed: np.ndarray,
    radii: Sequence[int],
) -> dict[str, Any]:
    """Return a `Standing` but for its file; `changed` is what attacks need, -1 for none found."""
    found = changed >= 0
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
        "accuracy": 100.0 * float((prediction == label).mean()),
        "radii": curves,
    }
