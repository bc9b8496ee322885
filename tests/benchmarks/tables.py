"""Tables as people have them: balanced accuracy and balanced certified accuracy by method.

    BOXNN_DATA=... python tests/benchmarks/tables.py --out tables.json

Five stratified folds, the same for all methods; raw pandas frames; classes of fewer than 10 rows
left out. "Balanced" is the mean over classes; radii count raw columns and are sound. Methods:

- ``boosting``: scikit-learn's HistGradientBoosting with balanced classes; it has no certificate.
- ``stumps``: boosted stumps with clipped contributions and their exact certificate.
- ``FPA^A``, ``FPA^B``: feature partition (Hammoudeh and Lowd, 2023), extremely randomised trees.
- ``box``: `BoxNNClassifier(class_weight="balanced")` as it comes.
- ``box-radii``: the same with ``radii=(1, 2, 4)``, which is what peers are tuned for.

What peers are tuned in (rounds and clip; T) is chosen on a held-out quarter of the training fold,
for the mean balanced certified accuracy at r = 1, 2 and 4; the time of choosing is part of the fit.
Their categories are numbered by the shares of the classes in the training fold, so that a column
stays a column. Results are kept in ``--out``, and what is there is not measured again but for
``--again``: ``--methods box --again`` measures one method alone and shows all.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, train_test_split

from boxnn_numba import BoxNNClassifier, Grid, __version__
from boxnn_numba.baselines.partition import (
    make_partition,
    plurality_radius,
    runoff_radius,
    votes_of,
)
from boxnn_numba.baselines.scikit_classifiers import ScikitSubmodels
from boxnn_numba.baselines.stumps import train_stumps

FOLDS = 5
FEWEST_ROWS = 10
TIMES = ("fit", "certify")
#: Radii that are kept, and those that are compared.
RADII = range(17)
SHOWN = (0, 1, 2, 4)
#: Files of tables: the label's column, and how many rows are sampled.
FILES = {
    "spambase": ("class", None),
    "magic": ("class", None),
    "fars": ("INJURY_SEVERITY", 20_000),
    "nursery": ("Class", None),
    "crx": ("Class", None),
    "kddcup": ("Class", None),
}
LOADERS = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
TABLES = (*FILES, *LOADERS)
#: Numbers of parts that feature partition chooses from, with one column a part besides.
PARTS = (3, 5, 7, 11, 15, 21, 30)
TREES = 50
#: Those that `box` is compared with.
CERTIFIED_PEERS = ("stumps", "FPA^A", "FPA^B")


@dataclass(frozen=True)
class Case:
    """A fold of a table.

    Attributes
    ----------
    name, fold
        Which.
    x, y, x_test, y_test
        Frames of raw columns, and class indices by the order of the labels.
    """

    name: str
    fold: int
    x: pd.DataFrame
    y: np.ndarray
    x_test: pd.DataFrame
    y_test: np.ndarray

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1


@dataclass(frozen=True)
class Outcome:
    """What a method says of the test rows, and how long it took."""

    prediction: np.ndarray
    radius: np.ndarray
    fit: float
    certify: float
    chosen: dict[str, Any] | None = None


# --- tables -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def load(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the raw columns of a table and its labels, of classes that are not too rare."""
    if name in LOADERS:
        x, y = LOADERS[name](return_X_y=True, as_frame=True)
        return x, y.to_numpy()
    label, rows = FILES[name]
    file = Path(os.environ.get("BOXNN_DATA", "data")) / "tables" / f"{name}.csv.gz"
    frame = pd.read_csv(file)
    if rows is not None:
        frame = frame.sample(rows, random_state=0)
    frame = frame[frame.groupby(label)[label].transform("size") >= FEWEST_ROWS]
    x = frame.drop(columns=label).reset_index(drop=True)
    for column in x:
        if not pd.api.types.is_numeric_dtype(x[column]):
            x[column] = x[column].astype("category")
    return x, frame[label].to_numpy()


def cases(name: str, folds: list[int] | None = None) -> Iterator[Case]:
    """Yield the folds of a table."""
    x, labels = load(name)
    y = np.unique(labels, return_inverse=True)[1]
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for fold, (train, test) in enumerate(splitter.split(x, y)):
        if folds is None or fold in folds:
            yield Case(name, fold, x.iloc[train], y[train], x.iloc[test], y[test])


class Encoder:
    """Codes of raw columns for peers: one for each category, in the order of the classes' shares.

    The shares are those of the training rows; of more than two classes they are projected on their
    first principal axis. A category that is not known gets the mean share.
    """

    def __init__(self, x: pd.DataFrame, y: np.ndarray) -> None:
        self.order = {
            name: _shares(x[name], y)
            for name in x
            if isinstance(x[name].dtype, pd.CategoricalDtype)
        }
        self.grid = Grid.fit(self._numbers(x))

    def _numbers(self, x: pd.DataFrame) -> np.ndarray:
        columns = [
            x[name].astype(object).map(self.order[name]).fillna(0.0)
            if name in self.order
            else x[name]
            for name in x
        ]
        return np.column_stack([np.asarray(column, np.float64) for column in columns])

    def __call__(self, x: pd.DataFrame) -> np.ndarray:
        """Return codes."""
        return self.grid.encode(self._numbers(x))


def _shares(column: pd.Series, y: np.ndarray) -> dict[str, float]:
    counts = pd.crosstab(column.astype(object), y)
    prior = np.bincount(y) / len(y)
    shares = (counts.to_numpy() + prior) / (counts.to_numpy().sum(axis=1, keepdims=True) + 1)
    # Each class weighs the same, as it does in what is measured.
    lift = (shares - prior) / np.sqrt(prior)
    axis = np.linalg.svd(lift * np.sqrt(counts.to_numpy().sum(axis=1, keepdims=True)))[2][0]
    return dict(zip(counts.index, lift @ axis, strict=True))


# --- methods ------------------------------------------------------------------------------


def boosting(case: Case) -> Outcome:
    """Fit histogram gradient boosting, which certifies nothing."""
    began = time.perf_counter()
    model = HistGradientBoostingClassifier(
        class_weight="balanced", categorical_features="from_dtype", random_state=0
    ).fit(case.x, case.y)
    fitted = time.perf_counter()
    prediction = model.predict(case.x_test)
    return Outcome(
        prediction, np.zeros(len(prediction), int), fitted - began, time.perf_counter() - fitted
    )


def stumps(case: Case) -> Outcome:
    """Fit boosted stumps; rounds and clip are chosen within."""
    began = time.perf_counter()
    encode = Encoder(case.x, case.y)
    model = train_stumps(encode(case.x), case.y, n_classes=case.n_classes)
    fitted = time.perf_counter()
    prediction, radius = model.certify(encode(case.x_test))
    certify = time.perf_counter() - fitted
    return Outcome(prediction, radius, fitted - began, certify, model.settings)


def partition(case: Case, runoff: bool) -> Outcome:
    """Fit feature partition with trees, the number of parts chosen on held-out rows."""
    rows, held = train_test_split(
        np.arange(len(case.y)), test_size=0.25, stratify=case.y, random_state=0
    )
    columns, fit, choice = case.x.shape[1], 0.0, {}
    for parts in sorted({*(count for count in PARTS if count <= columns), columns}):
        voted = _submodels(case.name, case.fold, parts, rows.tobytes(), held.tobytes())
        counts = count_certified(*voted.radius(runoff), case.y[held])
        choice[parts] = float(np.mean(balanced(counts)[list(SHOWN[1:])]))
        fit += voted.fit + voted.score
    best = max(choice, key=lambda parts: choice[parts])
    voted = _submodels(case.name, case.fold, best, np.arange(len(case.y)).tobytes(), b"")
    began = time.perf_counter()
    outcome = voted.radius(runoff)
    certify = voted.score + time.perf_counter() - began
    return Outcome(*outcome, fit + voted.fit, certify, {"parts": best, "held_out": choice})


@dataclass(frozen=True)
class Voted:
    """Scores of submodels, and the seconds that fitting and scoring took."""

    scores: np.ndarray
    fit: float
    score: float

    def radius(self, runoff: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and radii by the run-off or by plurality."""
        votes = votes_of(self.scores)
        return runoff_radius(votes, self.scores) if runoff else plurality_radius(votes)


@functools.lru_cache(maxsize=32)
def _submodels(name: str, fold: int, parts: int, rows: bytes, held: bytes) -> Voted:
    """Score held-out rows, or the test rows where none are given; once for both rules."""
    (case,) = cases(name, [fold])
    train, tested = np.frombuffer(rows, np.int64), np.frombuffer(held, np.int64)
    x, y = case.x.iloc[train], case.y[train]
    began = time.perf_counter()
    encode = Encoder(x, y)
    part = make_partition("strided", x.shape[1], parts)
    trees = ExtraTreesClassifier(TREES, min_samples_leaf=2, class_weight="balanced", random_state=0)
    submodels = ScikitSubmodels(trees, part, n_classes=case.n_classes).fit(encode(x), y)
    fitted = time.perf_counter()
    scores = submodels.scores(encode(case.x.iloc[tested] if len(tested) else case.x_test))
    return Voted(scores, fitted - began, time.perf_counter() - fitted)


def box(case: Case, radii: tuple[int, ...] | None = None) -> Outcome:
    """Fit a Box-NN as it comes, or for some radii."""
    began = time.perf_counter()
    model = BoxNNClassifier(class_weight="balanced", radii=radii).fit(case.x, case.y)
    fitted = time.perf_counter()
    radius = np.asarray(model.certify(case.x_test))
    certified = time.perf_counter()
    options = model.model_.training["options"]
    names = ("relaxation", "objective", "beta", "boxes", "width", "members")
    chosen = {name: options[name] for name in names}
    return Outcome(model.predict(case.x_test), radius, fitted - began, certified - fitted, chosen)


METHODS: dict[str, Callable[[Case], Outcome]] = {
    "boosting": boosting,
    "stumps": stumps,
    "FPA^A": functools.partial(partition, runoff=False),
    "FPA^B": functools.partial(partition, runoff=True),
    "box": box,
    "box-radii": functools.partial(box, radii=SHOWN[1:]),
}


# --- measures -----------------------------------------------------------------------------


def count_certified(prediction: np.ndarray, radius: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (K, 1 + len(RADII)): rows of each class, and those certified at each of `RADII`."""
    certified = np.where(prediction == y, radius, -1)
    found = [
        [np.sum(y == c), *(np.sum(certified[y == c] >= r) for r in RADII)]
        for c in range(int(y.max()) + 1)
    ]
    return np.array(found)


def balanced(counts: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the certified accuracy at each of `RADII`, in per cent."""
    return np.asarray(100 * (counts[:, 1:] / counts[:, :1]).mean(axis=0))


def measure(case: Case, method: str) -> dict[str, Any]:
    """Return what is kept of a method on a fold."""
    outcome = METHODS[method](case)
    counts = count_certified(outcome.prediction, outcome.radius, case.y_test)
    return {
        "counts": counts.tolist(),
        "fit": round(outcome.fit, 4),
        "certify": round(outcome.certify, 4),
        **({"chosen": outcome.chosen} if outcome.chosen else {}),
    }


def summary(folds: dict[str, Any]) -> dict[str, Any]:
    """Return the curve of a method over the test rows of all its folds, and its median times."""
    records = list(folds.values())
    counts = np.sum([np.array(record["counts"]) for record in records], axis=0)
    times = {key: float(np.median([record[key] for record in records])) for key in TIMES}
    return {"curve": balanced(counts).tolist(), "folds": len(records), **times}


def report(results: dict[str, Any]) -> str:
    """Return all figures as one Markdown table, and what the averages say."""
    lines = [
        f"| table | method | {' | '.join(f'r = {r}' for r in SHOWN)} | fit, s | certify, s |",
        "|" + "---|" * (4 + len(SHOWN)),
    ]
    found: dict[str, dict[str, Any]] = {}
    for name in TABLES:
        methods = {m: folds for m in METHODS if (folds := results.get(name, {}).get(m))}
        # Only folds that all methods have are compared.
        common = set.intersection(*map(set, methods.values())) if methods else set()
        found[name] = {
            m: summary({fold: folds[fold] for fold in common or folds})
            for m, folds in methods.items()
        }
        lines += [_line(name, method, entry) for method, entry in found[name].items()]
    for method in METHODS:
        have = [entry[method] for entry in found.values() if method in entry]
        if have:
            mean = {"curve": np.mean([entry["curve"] for entry in have], axis=0)}
            mean |= {key: float(np.mean([entry[key] for entry in have])) for key in TIMES}
            lines.append(_line(f"**mean of {len(have)}**", method, mean))
    return "\n".join(lines + _verdict(found))


def _line(name: str, method: str, entry: dict[str, Any]) -> str:
    curve = [f"{entry['curve'][r]:.1f}" for r in SHOWN]
    if method == "boosting":
        curve[1:] = [""] * (len(SHOWN) - 1)
    folds = entry.get("folds", FOLDS)
    name += "" if folds == FOLDS else f" ({folds} of {FOLDS} folds)"
    cells = [name, method, *curve, *(f"{entry[key]:.2f}" for key in TIMES)]
    return f"| {' | '.join(cells)} |"


def _verdict(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return what the issue asks of our methods beside their peers, on tables that all have."""
    complete = {name: entry for name, entry in found.items() if set(METHODS) <= set(entry)}
    if not complete:
        return ["", "No table has all methods yet, so nothing is compared."]
    lines = ["", f"{len(complete)} tables."]
    for method in ("box", "box-radii"):
        lines += _beside(complete, method)
    fits = {m: np.mean([e[m]["fit"] for e in complete.values()]) for m in ("box", "boosting")}
    return [
        *lines,
        f"Fit: {fits['box']:.2f} s and {fits['boosting']:.2f} s of boosting, on average.",
    ]


def _beside(complete: dict[str, dict[str, Any]], method: str) -> list[str]:
    """Return how a method of ours is beside boosting, and beside peers with a certificate."""
    ahead, strictly, behind = [], [], []
    for name, entry in complete.items():
        curves = {
            m: np.array(entry[m]["curve"])[list(SHOWN[1:])] for m in (method, *CERTIFIED_PEERS)
        }
        own, peers = curves[method], [curves[peer] for peer in CERTIFIED_PEERS]
        gap = own - max(peers, key=np.mean)
        ahead.append(gap)
        strictly.append(own - np.max(peers, axis=0))
        if gap.mean() < -2:
            behind.append(f"{name} ({gap.mean():.1f})")
    accuracy = [e[method]["curve"][0] - e["boosting"]["curve"][0] for e in complete.values()]
    margins, strict = (
        f"{np.mean(gaps):+.1f} ("
        + ", ".join(
            f"{gap:+.1f} at r = {r}"
            for r, gap in zip(SHOWN[1:], np.mean(gaps, axis=0), strict=True)
        )
        + ")"
        for gaps in (ahead, strictly)
    )
    return [
        f"{method} less boosting at r = 0: {np.mean(accuracy):+.1f}.",
        f"{method} less the best certified peer of each table: {margins}; "
        f"by more than 2 behind on {len(behind)}: {', '.join(behind) or 'none'}.",
        f"{method} less whichever peer is best at each radius: {strict}.",
    ]


# --- command line -------------------------------------------------------------------------


def run(
    results: dict[str, Any],
    names: list[str],
    methods: list[str],
    folds: list[int] | None,
    again: bool,
    keep: Callable[[], None],
) -> list[str]:
    """Measure what is asked for and missing, keep it after each fold; return what failed."""
    failed: list[str] = []
    for name in names:
        for case in cases(name, folds):
            for method in methods:
                of_method = results.setdefault(name, {}).setdefault(method, {})
                if str(case.fold) in of_method and not again:
                    continue
                try:
                    record = measure(case, method)
                except Exception as error:  # one failure must not cost the others' hours
                    failed.append(f"{method} on {name}, fold {case.fold}: {error!r}")
                    sys.stderr.write(f"FAILED {failed[-1]}\n")
                    continue
                of_method[str(case.fold)] = record
                curve = balanced(np.array(record["counts"]))
                shown = " ".join(f"{curve[r]:.1f}" for r in SHOWN)
                sys.stderr.write(f"{name}, fold {case.fold}, {method}: {shown}\n")
                keep()
    return failed


def _listed(known: Any) -> Callable[[str], list[Any]]:
    def split(text: str) -> list[Any]:
        names = [name.strip() for name in text.split(",")]
        by_text = {str(item): item for item in known}
        if unknown := [name for name in names if name not in by_text]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(by_text)}")
        return [by_text[name] for name in names]

    return split


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON of results: read, added to, written")
    parser.add_argument("--methods", type=_listed(METHODS), default=list(METHODS))
    parser.add_argument("--tables", type=_listed(TABLES), default=list(TABLES))
    parser.add_argument("--folds", type=_listed(range(FOLDS)), help="e.g. 0,1; all by default")
    parser.add_argument("--again", action="store_true", help="measure what is there as well")
    parser.add_argument("--show", action="store_true", help="show --out; measure nothing")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    if given.out and given.out.exists():
        results = json.loads(given.out.read_text())["tables"]

    def keep() -> None:
        if given.out:
            versions = {
                "boxnn-numba": __version__,
                "numpy": np.__version__,
                "pandas": pd.__version__,
                "scikit-learn": sklearn.__version__,
                "python": platform.python_version(),
            }
            partial = given.out.with_suffix(".partial")
            partial.write_text(json.dumps({"versions": versions, "tables": results}) + "\n")
            partial.replace(given.out)

    failed: list[str] = []
    if not given.show:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            failed = run(results, given.tables, given.methods, given.folds, given.again, keep)
    sys.stdout.write(report(results) + "\n")
    if failed:
        sys.exit(f"{len(failed)} failed, the first: {failed[0]}")


if __name__ == "__main__":
    main()
