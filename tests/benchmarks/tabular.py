"""Accuracy and certified radii on the tables that come with scikit-learn.

    python tests/benchmarks/tabular.py --json tabular.json

Five-fold stratified cross-validation, the same folds for all; per cent of the samples of all folds.
1-nearest-neighbour is shown on the features as they are and standardised (both fitted on the
training folds), Box-NN with the estimator's defaults and as `GridSearchCV` chooses it by certified
accuracy within the training folds. Radii count columns.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from boxnn_numba import (
    BoxNNClassifier,
    __version__,
    certified_accuracy,
    median_certified_radius,
)
from boxnn_numba.estimator import certified_accuracy_scorer

RADII = range(8)
#: Each table with the radius that a search aims at.
TABLES = {
    "breast cancer": (load_breast_cancer, 4),
    "wine": (load_wine, 1),
    "digits": (load_digits, 3),
}
GRID = {"boxes": [60, 300, None], "options": [{"width": 48}, {"width": 112}]}


def contenders(radius: int) -> dict[str, BaseEstimator]:
    """Return the classifiers to compare, by name."""
    scorer = certified_accuracy_scorer(radius)
    return {
        "1-NN": KNeighborsClassifier(1),
        "1-NN, standardised": make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
        "Box-NN": BoxNNClassifier(),
        f"Box-NN, searched at r = {radius}": GridSearchCV(
            BoxNNClassifier(), GRID, scoring=scorer, cv=3
        ),
    }


def measure(classifier: BaseEstimator, x: np.ndarray, y: np.ndarray, folds: Any) -> dict[str, Any]:
    """Cross-validate: accuracy of all, certificates of those that have one."""
    prediction, radius = np.empty_like(y), np.zeros(len(y), int)
    seconds, chosen, certifies = 0.0, [], False
    for train, test in folds.split(x, y):
        began = time.perf_counter()
        fitted = clone(classifier).fit(x[train], y[train])
        seconds += time.perf_counter() - began
        prediction[test] = fitted.predict(x[test])
        if isinstance(fitted, GridSearchCV):
            chosen.append(fitted.best_params_)
            fitted = fitted.best_estimator_
        certifies = isinstance(fitted, BoxNNClassifier)
        if isinstance(fitted, BoxNNClassifier):
            radius[test] = fitted.certify(x[test])
    result: dict[str, Any] = {
        "accuracy": 100 * float((prediction == y).mean()),
        "seconds_to_fit": round(seconds / folds.get_n_splits(), 3),
    }
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
        load, radius = TABLES[name]
        x, y = load(return_X_y=True)
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        results[name] = {
            "samples": len(y),
            "columns": x.shape[1],
            "classes": len(np.unique(y)),
            "classifiers": {
                title: measure(classifier, x, y, folds)
                for title, classifier in contenders(radius).items()
            },
        }
    return results


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    radii = " | ".join(map(str, RADII))
    lines = [
        f"| per cent certified at r columns, r = | median | {radii} |",
        "|" + "---|" * (2 + len(RADII)),
    ]
    for name, result in results.items():
        size = f"{result['samples']} x {result['columns']}, {result['classes']} classes"
        lines.append(f"| **{name}** ({size}) |" + " |" * (1 + len(RADII)))
        for title, row in result["classifiers"].items():
            curve = row.get("certified_accuracy", {"0": row["accuracy"]})
            cells = [f"{curve[str(r)]:.1f}" if str(r) in curve else "" for r in RADII]
            median = row.get("median_certified_radius", "")
            lines.append(f"| {title} | {median} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write everything to a file")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--table", choices=TABLES, action="append", help="only this table")
    arguments = parser.parse_args()
    results = tabular(arguments.table or list(TABLES), arguments.seed)
    sys.stdout.write(table(results) + "\n")
    if arguments.json:
        about = {
            "command": "python tests/benchmarks/tabular.py --json FILE",
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
