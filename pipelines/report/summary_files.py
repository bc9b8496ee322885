"""Tables of a report as CSV files, settings of runs, and versions of software."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from boxnn_numba._version import versions
from boxnn_numba.data.paths import Location
from boxnn_numba.pipelines.figures.learning import OF_EPOCH, Learning
from boxnn_numba.pipelines.figures.published import PublishedRow
from boxnn_numba.pipelines.figures.runs import ClassSummary, Run, Summary
from boxnn_numba.text import cell, without_secrets

_SETTINGS = (
    "model",
    "model_digest",
    "dataset",
    "dataset_digest",
    "split",
    "width",
    "group_size",
    "groups",
    "attackable",
    "costs",
    "offset",
    "feature_shape",
    "seconds",
    "seconds_per_sample",
    "retained",
    "parts",
    "partition",
    "alpha",
    "guess_samples",
    "seed",
    "limit",
    "patch",
    "multiply_adds",
)


def write_tables(
    folder: Location,
    runs: Sequence[Run],
    published: Sequence[PublishedRow],
    learning: Sequence[Learning] = (),
) -> None:
    """Write the CSV files of a report: curves, summary, classes, attacks, training, the paper."""
    # Radii are whole numbers, and of costs it takes the unit to know of what.
    unit = ("unit",) if any("costs" in run.attributes for run in runs) else ()
    _write_csv(
        folder / "certified_curves.csv",
        ("run", "radius", "certified_accuracy", "balanced_certified_accuracy", *unit),
        (
            (run.name, radius, *(f"{value:.4f}" for value in values), *_told(run, unit))
            for run in runs
            for radius, values in enumerate(zip(run.curve(), run.balanced_curve(), strict=True))
        ),
    )
    head = "run", *Summary._fields[1:], *unit
    _write_csv(folder / "summary.csv", head, ((*run.summary(), *_told(run, unit)) for run in runs))
    _write_csv(
        folder / "per_class.csv",
        ("run", "class", *ClassSummary._fields[1:], *unit),
        ((run.name, *row, *_told(run, unit)) for run in runs for row in run.per_class()),
    )
    attacked = [run for run in runs if run.robust is not None]
    if attacked:
        _write_csv(
            folder / "attack_curves.csv",
            ("run", "samples", "changes", "robust_accuracy"),
            (
                (run.name, run.attacked, changes, f"{value:.4f}")
                for run in attacked
                for changes, value in enumerate(run.robust)  # type: ignore[arg-type]
            ),
        )
    patched = [run for run in runs if run.patches or run.robust_patches]
    if patched:
        _write_csv(
            folder / "patches.csv",
            ("run", "patch", "certified_accuracy", "robust_accuracy"),
            (
                (run.name, size, *(f"{of[size]:.4f}" if size in of else "" for of in both))
                for run in patched
                for both in [(run.patches or {}, run.robust_patches or {})]
                for size in both[0] | both[1]
            ),
        )
    if learning:
        _write_csv(folder / "learning_curves.csv", ("run", "set", *OF_EPOCH), _epochs(learning))
    if published:
        _write_csv(
            folder / "published.csv",
            ("method", "radius", "certified_accuracy"),
            (
                (row.method, radius, percent)
                for row in published
                for radius, percent in zip(row.radii, row.percents, strict=True)
            ),
        )


def _told(run: Run, names: Sequence[str]) -> list[Any]:
    """Return attributes of a run by name."""
    return [getattr(run, name) for name in names]


def _epochs(learning: Sequence[Learning]) -> Iterable[Iterable[Any]]:
    for one in learning:
        for number, epochs in enumerate(one.members, 1):
            for row in epochs:
                figures = ("" if row[name] is None else row[name] for name in OF_EPOCH)
                yield (one.name, number, *figures)


def _write_csv(path: Location, head: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    # Names of files may hold bytes that are no text.
    with path.open("w", encoding="utf-8", newline="", errors="backslashreplace") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(map(cell, row) for row in rows)


def run_settings(run: Run) -> dict[str, str]:
    """Return what a certificate file says of how it was made, as text."""
    settings: dict[str, Any] = {"file": str(run.path), "method": run.attributes.get("method")}
    settings["certificate"] = run.attributes.get("certificate", "margin")
    settings.update({name: run.attributes[name] for name in _SETTINGS if name in run.attributes})
    for name in ("model_digest", "dataset_digest"):
        settings[name] = str(settings.get(name, "none"))[:16]
    settings["samples"] = str(len(run.label))
    if "samples" in run.attributes:
        settings["votes of a sample"] = run.attributes["samples"]
    settings.update(_flat("base", run.attributes.get("base") or {}))
    if run.attack is not None:
        settings["attack"] = str(run.attack.path)
        settings.update(_flat("attack", run.attack.attributes["options"]))
    settings.update(_flat("training", run.attributes.get("training") or {}))
    # Files of earlier versions name URLs as they were given.
    return {name: without_secrets(_words(value)) for name, value in settings.items()}


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}: {name}"
        flat.update(_flat(key, value) if isinstance(value, Mapping) else {key: value})
    return flat


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        if len(value) > 20 or any(isinstance(item, Mapping) for item in value):
            return f"{len(value)} entries"
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def software_versions() -> dict[str, str]:
    """Return the versions of what made the report."""
    found = versions("numpy", "numba", "zarr", "matplotlib")
    system = f"{platform.system()} {platform.machine()}"
    return {"Python": found.pop("python"), **found, "platform": system}
