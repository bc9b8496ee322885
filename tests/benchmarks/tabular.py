"""Accuracy and certified radii on the tables that come with scikit-learn.

    python tests/benchmarks/tabular.py --json tabular.json --plot tabular.png

Five-fold stratified cross-validation, the same folds for all; per cent of the samples of all folds.
Radii count columns and are sound. Rows:

- 1-nearest-neighbour on the features as they are and standardised: accuracy alone.
- 1-NN as a Box-NN whose boxes are the training points, on the same grid of codes: with width 255
  its distance is l1 on codes, with width 1 it is Hamming's. "pairwise" is `pairwise_radius`, which
  is never below the margin's.
- Feature partition (Hammoudeh and Lowd, 2023): T ensembles of extremely randomised trees, strided
  parts; FPA^A is plurality, FPA^B the run-off.
- Box-NN with the estimator's defaults.
- "chosen at r": by `GridSearchCV` for certified accuracy at r, within the training folds.
- The largest class, whatever the sample: certified at every radius.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from boxnn_numba import (
    Boxes,
    BoxNN,
    BoxNNClassifier,
    Grid,
    __version__,
    certified_accuracy,
    median_certified_radius,
)
from boxnn_numba.baselines.partition import (
    make_partition,
    plurality_radius,
    runoff_radius,
    votes_of,
)
from boxnn_numba.baselines.scikit_classifiers import ScikitSubmodels
from boxnn_numba.certificates import pairwise_radius
from boxnn_numba.estimator import certified_accuracy_scorer

#: Radii that are measured and drawn, and those of the printed table.
RADII = range(16)
SHOWN = range(11)
#: Each table with a small and a large radius that searches aim at, and the T they choose from.
TABLES = {
    "breast cancer": (load_breast_cancer, (4, 6), (5, 9, 15, 30)),
    "wine": (load_wine, (1, 3), (5, 7, 9, 13)),
    "digits": (load_digits, (3, 6), (7, 11, 15, 31)),
}
WIDTHS = (24, 48, 112)
BOXES = (20, 60, 300)
#: Epochs of preset target in a search; preset graded has the default.
TARGET_EPOCHS = 16
CONSTANT = "largest class, always"


class Certified(ClassifierMixin, BaseEstimator):
    """A rival with a certificate; `TABLES` have labels 0..K-1, of which none is rare."""

    def certificate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and radii."""
        raise NotImplementedError

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions."""
        return self.certificate(x)[0]

    def certify(self, x: np.ndarray) -> np.ndarray:
        """Return radii in columns."""
        return self.certificate(x)[1]

    def certified_score(self, x: np.ndarray, y: np.ndarray, radius: int) -> float:
        """Return the share that is right and certified at a radius."""
        return float(certified_accuracy(*self.certificate(x), y, [radius])[0])


class NearestNeighbour(Certified):
    """1-NN on codes: a Box-NN whose boxes are the training points."""

    def __init__(self, width: int = 255, pairwise: bool = False) -> None:
        self.width = width
        self.pairwise = pairwise

    def fit(self, x: np.ndarray, y: np.ndarray) -> NearestNeighbour:
        """Keep the training points."""
        grid = Grid.fit(x)
        points = grid.encode(x)
        self.classes_ = np.unique(y)
        boxes = Boxes(points, points, y, self.width)
        self.model_ = BoxNN(boxes, self.classes_.tolist(), grid)
        return self

    def certificate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and radii, by the margin or pair by pair."""
        return pairwise_radius(self.model_, x) if self.pairwise else self.model_.certify(x)


class FeaturePartition(Certified):
    """FPA with an ensemble of trees for each part, on the same codes."""

    def __init__(self, parts: int = 5, runoff: bool = True, trees: int = 50) -> None:
        self.parts = parts
        self.runoff = runoff
        self.trees = trees

    #: Scores by what they depend on: the searches for other radii and rules fit the same trees.
    known: ClassVar[dict[str, np.ndarray]] = {}

    def fit(self, x: np.ndarray, y: np.ndarray) -> FeaturePartition:
        """Keep the data: trees are fitted when scores are asked for."""
        self.data_ = x, y
        self.classes_ = np.unique(y)
        return self

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return what the ensemble of each part says, (N, T, K)."""
        key = joblib.hash((self.data_, x, self.parts, self.trees))
        if key not in self.known:
            train, y = self.data_
            grid = Grid.fit(train)
            trees = ExtraTreesClassifier(self.trees, min_samples_leaf=2, random_state=0)
            part = make_partition("strided", x.shape[1], self.parts)
            submodels = ScikitSubmodels(trees, part, n_classes=len(self.classes_))
            self.known[key] = submodels.fit(grid.encode(train), y).scores(grid.encode(x))
        return self.known[key]

    def certificate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and radii, by the run-off or by plurality."""
        scores = self.scores(x)
        votes = votes_of(scores)
        return runoff_radius(votes, scores) if self.runoff else plurality_radius(votes)


class Constant(Certified):
    """The largest class, which no change of columns alters."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Constant:
        """Count the classes."""
        self.classes_ = np.unique(y)
        self.dummy_ = DummyClassifier().fit(x, y)
        return self

    def certificate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest class, certified whatever changes."""
        return self.dummy_.predict(x), np.full(len(x), x.shape[1])


def chosen_at(radius: int, classifier: BaseEstimator, grid: Any) -> GridSearchCV:
    """Return a search for certified accuracy at a radius."""
    return GridSearchCV(classifier, grid, scoring=certified_accuracy_scorer(radius), cv=3)


def contenders(name: str) -> dict[str, BaseEstimator]:
    """Return the classifiers to compare on a table, by name."""
    load, (small, large), parts = TABLES[name]
    columns = load(return_X_y=True)[0].shape[1]
    widths = [{"width": width} for width in WIDTHS]
    found: dict[str, BaseEstimator] = {
        CONSTANT: Constant(),
        "1-NN": KNeighborsClassifier(1),
        "1-NN, standardised": make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
        "1-NN, W = 1": NearestNeighbour(1),
        "1-NN, W = 255": NearestNeighbour(255),
        "1-NN, W = 255, pairwise": NearestNeighbour(255, pairwise=True),
        f"1-NN, W chosen at r = {small}, pairwise": chosen_at(
            small, NearestNeighbour(pairwise=True), {"width": [1, *WIDTHS, 255]}
        ),
        f"FPA^A, T chosen at r = {small}": chosen_at(
            small, FeaturePartition(runoff=False), {"parts": parts}
        ),
    }
    for radius in (small, large):
        found[f"FPA^B, T chosen at r = {radius}"] = chosen_at(
            radius, FeaturePartition(), {"parts": parts}
        )
    found[f"FPA^B, T = {columns}"] = FeaturePartition(columns)
    found["Box-NN"] = BoxNNClassifier()
    for radius in (small, large):
        graded = {"boxes": BOXES, "options": widths}
        target = {"preset": ["target"], "radius": [radius], "epochs": [TARGET_EPOCHS]}
        found[f"Box-NN, chosen at r = {radius}"] = chosen_at(
            radius, BoxNNClassifier("graded"), [graded, graded | target]
        )
    return found


def measure(classifier: BaseEstimator, x: np.ndarray, y: np.ndarray, folds: Any) -> dict[str, Any]:
    """Cross-validate: accuracy of all, certificates of those that have one."""
    prediction, radius = np.empty_like(y), np.zeros(len(y), int)
    chosen, certifies = [], False
    for train, test in folds.split(x, y):
        fitted = clone(classifier).fit(x[train], y[train])
        prediction[test] = fitted.predict(x[test])
        if isinstance(fitted, GridSearchCV):
            chosen.append(fitted.best_params_)
            fitted = fitted.best_estimator_
        certifies = hasattr(fitted, "certify")
        if certifies:
            radius[test] = fitted.certify(x[test])
    result: dict[str, Any] = {"accuracy": 100 * float((prediction == y).mean())}
    if certifies:
        curve = 100 * certified_accuracy(prediction, radius, y, list(RADII))
        result["median_certified_radius"] = median_certified_radius(prediction, radius, y)
        result["certified_accuracy"] = dict(zip(map(str, RADII), curve.tolist(), strict=True))
    if chosen:
        result["chosen"] = chosen
    return result


def tabular(names: list[str], seed: int) -> dict[str, Any]:
    """Measure every contender on some tables."""
    results: dict[str, Any] = {}
    for name in names:
        began = time.process_time()
        x, y = TABLES[name][0](return_X_y=True)
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        results[name] = {
            "samples": len(y),
            "columns": x.shape[1],
            "classes": len(np.unique(y)),
            "classifiers": {
                title: measure(classifier, x, y, folds)
                for title, classifier in contenders(name).items()
            },
            "cpu_seconds": round(time.process_time() - began, 1),
        }
    return results


def text(results: dict[str, Any]) -> str:
    """Return a line for each row; `tools/figures` writes the table of the docs."""
    return "\n".join(
        f"{name}, {title}: "
        + " ".join(
            f"{row.get('certified_accuracy', {'0': row['accuracy']}).get(str(r), 0):.1f}"
            for r in SHOWN
        )
        for name, result in results.items()
        for title, row in result["classifiers"].items()
    )


def look(title: str) -> dict[str, Any] | None:
    """Return colour, dashes and mark of a row's curve; None for a row that is not drawn."""
    from boxnn_numba.pipelines.figures.palette import FAMILIES, run_colour

    if title == CONSTANT:
        return {"color": "0.5", "linestyle": ":", "zorder": 1}
    method = title.split(",")[0]
    # FPA^A is not drawn: where it differs from FPA^B, it is below it.
    colours = {"1-NN": run_colour(1), "FPA^B": FAMILIES["FPA^A"], "Box-NN": run_colour(0)}
    marks = {"1-NN": "o", "FPA^B": "^", "Box-NN": "D"}
    drawn = title == "Box-NN" or "T = " in title or "pairwise" in title or "chosen" in title
    if not drawn or method not in colours:
        return None
    line = "-" if "chosen" in title else "-." if title.startswith(("Box-NN", "1-NN")) else ":"
    return {
        "color": colours[method].light,
        "linestyle": line,
        "marker": marks[method],
        "markersize": 3,
    }


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw certified accuracy over the radius, a panel for each table."""
    from PIL import Image

    from boxnn_numba.pipelines.figures.curves import new_figure, save

    figure = new_figure(4 * len(results), 5.2)
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        end, before = 1, ""
        for title, row in result["classifiers"].items():
            style = look(title)
            if style is None or "certified_accuracy" not in row:
                continue
            if "chosen" in title and title.split(" at ")[0] == before.split(" at ")[0]:
                style["linestyle"] = "--"  # the larger radius of two
            before = title
            curve = list(row["certified_accuracy"].values())
            if title != CONSTANT:
                end = max(end, sum(value >= 0.5 for value in curve))
            axes.plot(RADII, curve, label=title, linewidth=1.4, **style)
        axes.set(title=name, xlabel="columns that an adversary rewrites", xlim=(0, end))
        axes.set(ylim=(0, 100))
        axes.grid(color="0.9")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize=8, frameon=False)
    panels[0].set_ylabel("certified accuracy, per cent")
    save(figure, path)
    # A palette makes the file a third as large.
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(64)
    small.save(path, optimize=True)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write everything to a file")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--table", choices=TABLES, action="append", help="only this table")
    parser.add_argument("--plot", type=Path, help="also draw the curves, as PNG")
    parser.add_argument("--read", type=Path, help="show what --json wrote; measure nothing")
    arguments = parser.parse_args()
    if arguments.read:
        results = json.loads(arguments.read.read_text())["tables"]
    else:
        results = tabular(arguments.table or list(TABLES), arguments.seed)
    sys.stdout.write(text(results) + "\n")
    if arguments.plot:
        plot(results, arguments.plot)
    if arguments.json and not arguments.read:
        about = {
            "command": "python tests/benchmarks/tabular.py --json tabular.json --plot tabular.png",
            "seed": arguments.seed,
            "versions": {
                "boxnn-numba": __version__,
                "numpy": np.__version__,
                "scikit-learn": sklearn.__version__,
                "python": platform.python_version(),
            },
        }
        arguments.json.write_text(json.dumps({**about, "tables": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
