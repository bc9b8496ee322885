"""The tables that come with scikit-learn: beside 1-nearest-neighbour, and the committed figures."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from boxnn_numba import BoxNNClassifier, median_certified_radius

FOLDER = Path(__file__).resolve().parent / "benchmarks"
BENCHMARK: dict[str, Any] = runpy.run_path(str(FOLDER / "tabular.py"))
COMMITTED = json.loads((FOLDER / "results" / "tabular.json").read_text())["tables"]


@pytest.mark.parametrize(
    ("name", "radius", "folds"), [("breast cancer", 4, 5), ("wine", 1, 5), ("digits", 3, 1)]
)
def test_within_three_points_of_the_nearest_neighbour(name: str, radius: int, folds: int) -> None:
    x, y = BENCHMARK["TABLES"][name][0](return_X_y=True)
    # A split of wine has 36 samples, 2.8 points each: all five together decide.
    splits = list(StratifiedKFold(5, shuffle=True, random_state=1).split(x, y))[:folds]
    nearest = KNeighborsClassifier(1), make_pipeline(StandardScaler(), KNeighborsClassifier(1))
    right = np.zeros(3)
    outcomes = []
    for train, test in splits:
        classifier = BoxNNClassifier().fit(x[train], y[train])
        outcomes.append((classifier.predict(x[test]), classifier.certify(x[test]), y[test]))
        for k, other in enumerate((classifier, *nearest)):
            fitted = other if k == 0 else other.fit(x[train], y[train])
            right[k] += (fitted.predict(x[test]) == y[test]).sum()
    prediction, radii, truth = map(np.concatenate, zip(*outcomes, strict=True))
    assert right[0] >= right[1:].max() - 0.03 * len(truth)
    assert median_certified_radius(prediction, radii, truth) >= radius


def test_committed_figures_hold_what_is_claimed() -> None:
    assert set(COMMITTED) == set(BENCHMARK["TABLES"])
    for name, result in COMMITTED.items():
        rows = result["classifiers"]
        nearest = max(row["accuracy"] for title, row in rows.items() if "1-NN" in title)
        ours = {title: row for title, row in rows.items() if "Box-NN" in title}
        assert len(ours) == 2
        for row in ours.values():
            assert row["accuracy"] >= nearest - 3, name
            curve = list(row["certified_accuracy"].values())
            assert curve[0] == row["accuracy"] and curve == sorted(curve, reverse=True)
            assert curve[row["median_certified_radius"]] >= 50


@pytest.mark.parametrize("name", ["breast cancer", "wine"])
def test_committed_figures_are_what_is_measured_now(name: str) -> None:
    x, y = BENCHMARK["TABLES"][name][0](return_X_y=True)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    now = BENCHMARK["measure"](BoxNNClassifier(), x, y, folds)
    then = COMMITTED[name]["classifiers"]["Box-NN"]
    for key in ("accuracy", "median_certified_radius"):
        assert now[key] == pytest.approx(then[key], abs=1e-9)
    assert now["certified_accuracy"] == pytest.approx(then["certified_accuracy"], abs=1e-9)


def test_the_table_shows_every_classifier() -> None:
    lines = BENCHMARK["table"](COMMITTED).splitlines()
    assert len(lines) == 2 + 3 * (1 + 4) and len({line.count("|") for line in lines}) == 1
    best = COMMITTED["wine"]["classifiers"]["Box-NN"]["certified_accuracy"]
    assert any(f"| {best['0']:.1f} | {best['1']:.1f} |" in line for line in lines)
    assert np.isclose(best["0"], COMMITTED["wine"]["classifiers"]["Box-NN"]["accuracy"])
