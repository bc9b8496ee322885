"""The tables that come with scikit-learn: beside other methods, and the committed figures."""

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

from boxnn_numba import BoxNNClassifier, Grid, median_certified_radius

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
BENCHMARK: dict[str, Any] = runpy.run_path(str(FOLDER / "tabular.py"))
COMMITTED = json.loads((FOLDER / "results" / "tabular.json").read_text())["tables"]


@pytest.mark.parametrize(
    ("name", "radius", "folds"),
    [
        ("breast cancer", 4, 1),
        ("digits", 3, 1),
        # By default, the committed figures of wine are compared with what is measured now.
        pytest.param("breast cancer", 4, 5, marks=pytest.mark.slow),
        pytest.param("wine", 1, 5, marks=pytest.mark.slow),
    ],
)
def test_within_four_points_of_the_nearest_neighbour(name: str, radius: int, folds: int) -> None:
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
    assert right[0] >= right[1:].max() - 0.04 * len(truth)
    assert median_certified_radius(prediction, radii, truth) >= radius


def test_committed_figures_hold_what_is_claimed() -> None:
    assert set(COMMITTED) == set(BENCHMARK["TABLES"])
    for name, result in COMMITTED.items():
        rows = result["classifiers"]
        assert list(rows) == list(BENCHMARK["contenders"](name))
        nearest = max(row["accuracy"] for title, row in rows.items() if "1-NN" in title)
        assert rows["Box-NN"]["accuracy"] >= nearest - 5, name
        for row in rows.values():
            if "certified_accuracy" not in row:
                continue
            curve = list(row["certified_accuracy"].values())
            assert curve[0] == row["accuracy"] and curve == sorted(curve, reverse=True)
            median = min(row["median_certified_radius"], len(curve) - 1)
            assert median == -1 or curve[median] >= 50


def test_box_nn_leads_where_the_tutorial_says() -> None:
    leads = {"breast cancer": range(1, 14), "wine": (1, 2), "digits": range(1, 8)}
    for name, radii in leads.items():
        best: dict[str, dict[str, float]] = {}
        for title, row in COMMITTED[name]["classifiers"].items():
            best_of = best.setdefault(title.split(",")[0], {})
            for radius, value in row.get("certified_accuracy", {}).items():
                best_of[radius] = max(value, best_of.get(radius, 0.0))
        ours = best.pop("Box-NN")
        del best["largest class"]
        for radius in map(str, radii):
            assert ours[radius] >= max(curve[radius] for curve in best.values()), (name, radius)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        pytest.param("breast cancer", "Box-NN", marks=pytest.mark.slow),
        ("wine", "Box-NN"),
        ("wine", "1-NN, W = 1"),
        ("wine", "1-NN, W = 255, pairwise"),
        ("wine", "largest class, always"),
    ],
)
def test_committed_figures_are_what_is_measured_now(name: str, title: str) -> None:
    x, y = BENCHMARK["TABLES"][name][0](return_X_y=True)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    now = BENCHMARK["measure"](BENCHMARK["contenders"](name)[title], x, y, folds)
    then = COMMITTED[name]["classifiers"][title]
    for key in ("accuracy", "median_certified_radius"):
        assert now[key] == pytest.approx(then[key], abs=1e-9)
    assert now["certified_accuracy"] == pytest.approx(then["certified_accuracy"], abs=1e-9)


@pytest.mark.parametrize("width", [1, 255])
def test_radii_of_the_nearest_neighbour_by_loops(width: int) -> None:
    x, y = BENCHMARK["TABLES"]["wine"][0](return_X_y=True)
    x, y, rows = x[::3], y[::3], x[1::9]
    nearest = BENCHMARK["NearestNeighbour"](width).fit(x, y)
    grid = Grid.fit(x)
    points, codes = grid.encode(x).astype(int), grid.encode(rows).astype(int)
    prediction, radius = nearest.certificate(rows)
    for code, label, found in zip(codes, prediction, radius, strict=True):
        away = [sum(min(width, abs(a - b)) for a, b in zip(p, code, strict=True)) for p in points]
        by_class = [min(d for d, k in zip(away, y, strict=True) if k == c) for c in range(3)]
        assert label == min(range(3), key=lambda c: (by_class[c], c))
        gaps = [by_class[c] - by_class[label] - (c < label) for c in range(3) if c != label]
        # The largest r for which r columns, worth 2 W each, cannot make up for the gap.
        assert found == max(r for r in range(14) if 2 * width * r <= min(gaps))
    tighter = BENCHMARK["NearestNeighbour"](width, pairwise=True).fit(x, y).certificate(rows)
    assert (tighter[0] == prediction).all() and (tighter[1] >= radius).all()


def test_rewriting_certified_columns_never_sways_a_partition() -> None:
    x, y = BENCHMARK["TABLES"]["wine"][0](return_X_y=True)
    rng = np.random.default_rng(0)
    for runoff in (False, True):
        rival = BENCHMARK["FeaturePartition"](5, runoff, trees=5).fit(x[::2], y[::2])
        prediction, radius = rival.certificate(x[1::2])
        assert radius.max() == 2
        for _ in range(10):
            forged = x[1::2].copy()
            for row, r in zip(forged, radius, strict=True):
                columns = rng.permutation(13)[:r]
                row[columns] = x[rng.integers(len(x), size=r), columns]
            assert (rival.predict(forged) == prediction).all()
