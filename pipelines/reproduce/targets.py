"""Targets of `boxnn reproduce`: each table and figure of the paper, and the runs it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.errors import DivergenceError
from boxnn_numba.pipelines.figures.published import FAMILIES, family, published_rows
from boxnn_numba.pipelines.reproduce.rows import Row, our_row, published_row
from boxnn_numba.pipelines.reproduce.runs import RunStore
from boxnn_numba.pipelines.run_folder import KeptRun

DATASETS = ("mnist", "fashion-mnist")
#: Radii of the paper's tables.
TABLE_RADII = tuple(range(0, 41, 4))

#: Target -> panels, each a data set and the families of methods that are compared on it.
PANELS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "table1": (("mnist", FAMILIES), ("fashion-mnist", ("Box-NN", "RA"))),
    "table2": (("mnist", FAMILIES),),
    "table3": (("fashion-mnist", ("Box-NN", "RA")),),
    "figure2": (("mnist", ("Box-NN", "RA")), ("fashion-mnist", ("Box-NN", "RA"))),
    "figure3": (("mnist", ("Box-NN", "RA^B")), ("mnist", ("Box-NN", "FPA^A"))),
    "figure10": (("mnist", ("Box-NN", "FPA^B")),),
}

#: Radius that the target preset is trained for: chosen on validation data (docs/training.md).
_TARGET_RADII = {"mnist": 27, "fashion-mnist": 41}

#: Figure -> title, label of the default (Table 4), and (label, options) of the other curves.
#: The text of the paper names all values of Figs. 4, 8 and 9, and some of Fig. 7's; those of
#: Figs. 5 and 6 are ours. Its text has 0.02 for SGD in Fig. 8 and 0.2 in Table 4: both are run.
ABLATIONS: dict[str, tuple[str, str, tuple[tuple[str, Mapping[str, Any]], ...]]] = {
    "figure4": (
        "Fig. 4: relaxation of the indicator",
        "conical (default)",
        (("l1", {"relaxation": "l1"}), ("l2", {"relaxation": "l2"})),
    ),
    "figure5": (
        "Fig. 5: size of the initial boxes",
        "α = 0.1 (default)",
        tuple((f"α = {alpha}", {"alpha": alpha}) for alpha in (0.05, 0.2, 0.3)),
    ),
    "figure6": ("Fig. 6: number of boxes", "M = {boxes} (default)", ()),
    "figure7": (
        "Fig. 7: clipping of the certificate",
        "β = 50 (default)",
        tuple((f"β = {beta}", {"beta": float(beta)}) for beta in (10, 25, 100)),
    ),
    "figure8": (
        "Fig. 8: optimizer",
        "SGD, 0.2 (default)",
        (
            ("SGD, 0.02", {"lr": 0.02}),
            (
                "SGD, 0.02, momentum 0.9, decay 0.0005",
                {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.0005},
            ),
            ("Adam, 0.001", {"optimizer": "adam", "lr": 0.001}),
        ),
    ),
    "figure9": (
        "Fig. 9: approximation of the minimum",
        "τ = 1 (default)",
        (
            ("τ = 0, mean", {"softmin": "mean"}),
            ("τ = 0.5", {"tau": 0.5}),
            ("τ = ∞, min", {"softmin": "hard"}),
            ("logsumexp", {"softmin": "logsumexp"}),
        ),
    ),
}


# --- comparisons ----------------------------------------------------------------------------


def comparison_rows(target: str, store: RunStore) -> list[Row]:
    """Return the published and our rows of a key of `PANELS`, in its order."""
    wanted = dict.fromkeys((dataset, name) for dataset, names in PANELS[target] for name in names)
    rows = []
    for dataset, name in wanted:
        theirs = [
            published_row(row, dataset)
            for row in published_rows(dataset)
            if family(row.method) == name
        ]
        ours = (_boxnn_rows if name == "Box-NN" else _baseline_rows)(dataset, name, store)
        # Stable: a published setting comes before ours.
        rows += sorted([*theirs, *ours], key=lambda row: row.setting or 0)
    return rows


def _baseline_rows(dataset: str, name: str, store: RunStore) -> Iterator[Row]:
    base, mark, variant = name.partition("^")
    for setting in store.settings(dataset, base.lower()):
        run = store.baseline(dataset, base.lower(), setting)
        # RA is its certificate a and RA^B its b, as FPA^A and FPA^B are of FPA.
        file = run.certificate(variant.lower() or "a")
        method = f"{base}_{setting}{mark}{variant}"
        yield defence_row(file, method, dataset, _about(run, file))


def defence_row(file: CertificateFile, method: str, dataset: str, run: dict[str, Any]) -> Row:
    """Return the row of a published defence, with the right guesses of RA in its `run`."""
    if not method.startswith("RA"):
        return our_row(file, method, dataset, run=run)
    guessed = round(100 * float(np.mean(file.guess == file.label)), 2)
    samples = file.attributes["samples"]
    return our_row(file, method, dataset, samples=samples, run={**run, "guessed_right": guessed})


def _boxnn_rows(dataset: str, name: str, store: RunStore) -> Iterator[Row]:
    for preset, options in (
        ("paper", {}),
        ("graded", {}),
        ("target", {"radius": _TARGET_RADII[dataset]}),
    ):
        run = store.boxnn(dataset, preset, **options)
        file = run.certificate()
        about = _about(run, file)
        if preset == "paper":
            yield our_row(file, name, dataset, convention="paper", run=about)
            preset = "sound"
        yield our_row(file, f"{name} {preset}", dataset, run=about)


def _about(run: KeptRun, file: CertificateFile) -> dict[str, Any]:
    """Return what a JSON row keeps of a run."""
    training = file.attributes.get("training", {})
    seconds = training.get("seconds", sum(each["seconds"] for each in training.get("history", [])))
    recipe = file.attributes.get("base", {}).get("recipe", {})  # of the networks of RA and FPA
    about = {
        "folder": run.folder.name,
        "options": run.key | ({"epochs": recipe["epochs"]} if "epochs" in recipe else {}),
        "training_seconds": round(seconds, 2),
    }
    if "best_epoch" in training:
        about["best_epoch"] = training["best_epoch"]
    if "multiply_adds" in file.attributes:
        about["multiply_adds_per_image"] = file.attributes["multiply_adds"]
    return {**about, "seconds_per_image": file.attributes.get("seconds_per_sample")}


# --- ablation -------------------------------------------------------------------------------


def ablation_rows(target: str, store: RunStore) -> list[Row]:
    """Return the published default, ours, and the other curves of one figure or all.

    Each curve is one training run, counted as the paper counts. A run that diverges is a
    curve at zero.
    """
    published = [row for row in published_rows("mnist") if row.method == "Box-NN"]
    rows = [published_row(row, "mnist") for row in published]
    rows.append(_ablation_row(store, "Box-NN", "", {}))
    for figure in _figures(target):
        curves = ABLATIONS[figure][2]
        if figure == "figure6":
            curves = tuple((f"M = {m:,}", {"boxes": m}) for m in store.scale.ablation_boxes)
        for label, options in curves:
            method = f"Box-NN, {label}"
            try:
                rows.append(_ablation_row(store, method, figure, options))
            except DivergenceError as error:
                radii, zeros = list(TABLE_RADII), [0.0] * len(TABLE_RADII)
                rows.append(
                    Row(
                        f"{method} (diverged)", "mnist", "ours", "paper", radii, zeros, zeros,
                        zeros, group=figure, run={"diverged": str(error)},
                    )
                )  # fmt: skip
    return rows


def _ablation_row(store: RunStore, method: str, figure: str, options: Mapping[str, Any]) -> Row:
    run = store.boxnn("mnist", "paper", **{"epochs": store.scale.ablation_epochs, **options})
    file = run.certificate()
    about = {"group": figure, "run": _about(run, file)}
    return our_row(file, method, "mnist", convention="paper", **about)


def ablation_titles(target: str, rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, Row]]]]:
    """Return the panels of a picture: title, and the curves with their labels."""
    published, default = rows[0], rows[1]
    boxes = f"{default.run['options']['boxes']:,}"
    panels = []
    for figure in _figures(target):
        title, name, _ = ABLATIONS[figure]
        labelled = [("Box-NN published", published), (name.format(boxes=boxes), default)]
        labelled += [
            (row.method.removeprefix("Box-NN, "), row) for row in rows if row.group == figure
        ]
        panels.append((title, labelled))
    return panels


def _figures(target: str) -> tuple[str, ...]:
    return tuple(ABLATIONS) if target == "ablation" else (target,)


# --- cost --------------------------------------------------------------------------------------


def costs(store: RunStore) -> list[dict[str, Any]]:
    """Return what certifying an MNIST image took with every method, as its run measured it."""
    file = store.boxnn("mnist", "graded").certificate()
    work = file.attributes["training"]["options"]["boxes"] * store.opened["mnist"].n_features
    note = "M x n penalties, each a few operations on bytes, counted as one multiply-add"
    rows = [_cost("Box-NN", file, work, note)]
    passes = store.scale.samples + store.scale.guess_samples
    for method, note in (
        ("ra", f"{passes:,} passes through a network; RA^B has the same votes"),
        ("fpa", "a pass through each network; FPA^B has the same scores"),
    ):
        for setting in store.settings("mnist", method):
            file = store.baseline("mnist", method, setting).certificate("a")
            name = f"{method.upper()}_{setting}"
            rows.append(_cost(name, file, file.attributes["multiply_adds"], note))
    return rows


def _cost(method: str, file: CertificateFile, work: int, note: str) -> dict[str, Any]:
    # Not known of a run that was killed after its last chunk, before that was recorded.
    seconds = file.attributes["seconds_per_sample"]
    return {
        "method": method,
        "seconds_per_image": None if seconds is None else float(f"{seconds:.4g}"),
        "multiply_adds_per_image": work,
        "images": len(file),
        "note": note,
    }
