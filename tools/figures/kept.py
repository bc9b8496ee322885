"""Kept results as curves: what tests/benchmarks/results and the published tables say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from boxnn_numba.pipelines.figures.published import (
    PublishedRow,
    published_medians,
    published_rows,
)
from boxnn_numba.pipelines.figures.published import best_published as best_row

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
#: Data set -> the file with our reproduction of its published rows.
TABLES = {"mnist": "reproduce-table2", "fashion": "reproduce-table3"}
#: The file with our reproduction of Table 4 and Figures 4 to 9.
ABLATION = "reproduce-ablation"
#: What the package calls them.
NAMES = {"mnist": "mnist", "fashion": "fashion-mnist"}
TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST", "cifar": "CIFAR-10"}
#: Features of an image of the paper's data sets.
_PIXELS = 784
#: Tables of `tests/benchmarks/tables.py`, in the order of the page.
COLUMN_TABLES = (
    "spambase",
    "magic",
    "fars",
    "nursery",
    "crx",
    "kddcup",
    "breast cancer",
    "wine",
    "digits",
)
TABLE_METHODS = ("boosting", "stumps", "FPA^A", "FPA^B", "box", "box-radii")


@dataclass(frozen=True)
class Curve:
    """Certified accuracy of one method.

    Attributes
    ----------
    method
        As the paper writes it, such as ``"RA_40^B"``, or the name of a case of presets.json.
    percents
        Radius -> per cent right and certified.
    median
        Median certified radius, -1 below 50% accuracy; None where it is not known.
    images
        Test images; None of published rows.
    cost
        Multiply-adds, or comparisons of a feature, that certify one image; None where unknown.
    about
        Of a reproduction, its run: ``options`` and so on.
    """

    method: str
    percents: dict[int, float]
    median: int | None = None
    images: int | None = None
    cost: float | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def at(self, radius: int) -> float:
        """Return the certified accuracy at a radius; 0 beyond the last."""
        return self.percents.get(radius, 0.0)


@dataclass(frozen=True)
class Kept:
    """The kept results.

    Attributes
    ----------
    folder
        Where the JSON files are.
    """

    folder: Path = RESULTS

    @cached_property
    def _read(self) -> dict[str, Any]:
        return {}

    def result(self, name: str) -> Any:
        """Return what NAME.json holds."""
        if name not in self._read:
            self._read[name] = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        return self._read[name]

    def preset(self, name: str) -> dict[str, Any]:
        """Return what presets.json keeps of a case."""
        cases: dict[str, Any] = self.result("presets")["cases"]
        if name not in cases:
            raise SystemExit(
                f"presets.json lacks {name}: "
                f"python tests/benchmarks/presets.py --work DIR --only {name}"
            )
        return dict(cases[name])

    def curve(self, name: str) -> Curve:
        """Return the curve of a case of presets.json."""
        kept = self.preset(name)
        percents = {r: 100 * n / kept["images"] for r, n in enumerate(kept["certified"])}
        return Curve(name, percents, kept["median"], kept["images"], kept["comparisons"])

    def curves(self, names: Iterable[str]) -> dict[str, Curve]:
        """Return case -> its curve, of those that were measured."""
        return {name: self.curve(name) for name in names if name in self.result("presets")["cases"]}

    def rerun(self, dataset: str) -> list[Curve]:
        """Return our rows of the published defences, in the order of the reproduction."""
        return [curve for curve in self._reproduced(dataset) if "_" in curve.method]

    def rerun_row(self, dataset: str, method: str, epochs: int | None = None) -> Curve:
        """Return one of `rerun`; the first where no number of epochs is named."""
        rows = [row for row in self.rerun(dataset) if row.method == method]
        wanted = [row for row in rows if row.about["options"].get("epochs") == epochs]
        return (wanted or rows)[0]

    def paper(self, dataset: str, convention: str = "sound") -> Curve:
        """Return our row of the paper's recipe, counted soundly or as the paper counts."""
        name = {"sound": "Box-NN sound", "paper": "Box-NN"}[convention]
        return next(curve for curve in self._reproduced(dataset) if curve.method == name)

    def _reproduced(self, dataset: str) -> list[Curve]:
        """Return our rows of a reproduction, and those that `ra_rows.py` has measured since."""
        names = [TABLES[dataset], *self.apart]
        rows = [row for name in names for row in self.result(name)["rows"]]
        return [
            Curve(
                row["method"],
                dict(zip(row["radii"], row["percents"], strict=True)),
                row["median"],
                row["images"],
                _cost(row["run"]),
                row["run"],
            )
            for row in rows
            if row["source"] == "ours" and row["dataset"] == NAMES[dataset]
        ]

    @property
    def apart(self) -> list[str]:
        """Names of the files that `ra_rows.py` has written."""
        return [path.stem for path in sorted(self.folder.glob("ra-*.json"))]

    @cached_property
    def costs(self) -> dict[str, float]:
        """Method without its variant, such as ``"RA_45"`` -> multiply-adds of an image."""
        rows = self.result("reproduce-cost")["rows"]
        return {row["method"]: row["multiply_adds_per_image"] for row in rows}

    def bench(self, file: str, case: str, name: str) -> float:
        """Return the median that a file of `bench.py` keeps."""
        found = [
            record["median"]
            for record in self.result(file)["records"]
            if (record["case"], record["name"]) == (case, name)
        ]
        if len(found) != 1:
            raise SystemExit(f"{file}.json has {len(found)} records of {name} in {case}")
        return float(found[0])

    def planned(self, job: str, boxes: int, workers: int, threads: int) -> dict[str, Any]:
        """Return a prediction of `boxnn plan`; {} if it was not asked for."""
        asked = {"job": job, "boxes": boxes, "workers": workers, "client_threads": threads}
        found = self.result("plan")["predictions"]
        return next((each for each in found if asked.items() <= each.items()), {})

    @cached_property
    def tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Table -> method -> its curve over the folds that all methods have.

        ``curve``: balanced certified accuracy in per cent at r = 0, 1, ...; ``median``: of all
        rows alike; ``folds``; ``seconds``: to certify a row.
        """
        found: dict[str, dict[str, dict[str, Any]]] = {}
        measured = self.result("tables")["tables"]
        for name, methods in ((name, measured[name]) for name in COLUMN_TABLES if name in measured):
            common = set.intersection(*map(set, methods.values()))
            found[name] = {
                method: _summary([methods[method][fold] for fold in sorted(common)])
                for method in TABLE_METHODS
                if method in methods
            }
        return found


def _cost(run: dict[str, Any]) -> float | None:
    """Return the multiply-adds of an image, or of boxes the comparisons of a feature."""
    if "boxes" in run["options"]:
        return float(run["options"]["boxes"] * _PIXELS)
    return run.get("multiply_adds_per_image")


def _summary(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what some folds say: counts of each class are rows, and certified rows by radius."""
    classes = [
        [sum(column) for column in zip(*rows, strict=True)]
        for rows in zip(*(fold["counts"] for fold in folds), strict=True)
    ]
    rows = sum(count[0] for count in classes)
    radii = range(len(classes[0]) - 1)
    curve = [100 * sum(count[1 + r] / count[0] for count in classes) / len(classes) for r in radii]
    right = [sum(count[1 + r] for count in classes) for r in radii]
    return {
        "curve": curve,
        "median": sum(2 * count >= rows for count in right) - 1,
        "folds": len(folds),
        "seconds": sum(fold["certify"] for fold in folds) / rows,
    }


# --- published ------------------------------------------------------------------------------


def published(dataset: str) -> list[Curve]:
    """Return the published rows of ``"mnist"`` or ``"fashion"``."""
    return [_curve(row) for row in published_rows(NAMES[dataset])]


def published_row(dataset: str, method: str) -> Curve:
    """Return one of `published`."""
    return next(curve for curve in published(dataset) if curve.method == method)


def best_published(dataset: str) -> Curve:
    """Return the best published value at each radius, and the best published median."""
    row, _ = best_row(published_rows(NAMES[dataset]))
    return _curve(row, max(medians(dataset).values()))


def medians(dataset: str) -> dict[str, int]:
    """Return family -> the published median certified radius."""
    return published_medians(NAMES[dataset])


def _curve(row: PublishedRow, median: int | None = None) -> Curve:
    return Curve(row.method, dict(zip(row.radii, row.percents, strict=True)), median)
