"""Suite `tables`: rows of few columns, fitted and certified, beside scikit-learn's classifiers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from benchmarks.method import Record, Settings, alternate, record
from sklearn.base import ClassifierMixin
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier

from boxnn_numba import BoxNNClassifier
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.run import Training

COLUMNS = (10, 30, 100)
_FIT_ROWS, _ROWS, _EPOCH_ROWS = 60_000, 10_000, 100_000
_BOXES, _BATCH = 2500, 100
Table = tuple[np.ndarray, np.ndarray]


def tables_suite(settings: Settings) -> list[Record]:
    """Measure fit and certification of tables, and an epoch of 100,000 rows.

    Returns
    -------
    list of dict
        Seconds of ours and of scikit-learn's classifiers as they come, and ratios to these.
    """
    found = []
    for columns in COLUMNS:
        train, test = make_table(columns, *_sizes(settings))
        found += _compare(settings, f"{len(train[0])} x {columns}", train, test)
        settings.advance(f"tables n={columns}")
    found += _epochs(settings)
    settings.advance("tables epoch")
    return found


def _sizes(settings: Settings) -> tuple[int, int]:
    return (_FIT_ROWS // 20, _ROWS // 20) if settings.quick else (_FIT_ROWS, _ROWS)


def make_table(columns: int, fit: int, rows: int) -> tuple[Table, Table]:
    """Return a table of real numbers in two classes, as rows to fit and rows to certify."""
    x, y = make_classification(
        fit + rows, columns, n_informative=columns // 2, n_redundant=columns // 5, random_state=0
    )
    x = x.astype(np.float32)
    return (x[:fit], y[:fit]), (x[fit:], y[fit:])


def _compare(settings: Settings, case: str, train: Table, test: Table) -> list[Record]:
    models: dict[str, ClassifierMixin] = {
        "BoxNNClassifier": BoxNNClassifier(),
        "HistGradientBoosting": HistGradientBoostingClassifier(),
        "k-nearest neighbours": KNeighborsClassifier(n_jobs=settings.threads),
    }
    turns = 1 if settings.quick else 3
    fits = alternate(
        {name: functools.partial(model.fit, *train) for name, model in models.items()}, turns, 0.0
    )
    answers: dict[str, Callable[[], Any]] = {
        name: functools.partial(model.predict, test[0]) for name, model in models.items()
    }
    # Ours answers with the radius, the others with a label that promises nothing.
    answers["BoxNNClassifier"] = functools.partial(models["BoxNNClassifier"].certify, test[0])
    asked = alternate(answers, settings.rounds)
    right = {
        name: float(np.mean(model.predict(test[0]) == test[1])) for name, model in models.items()
    }
    found = []
    for job, times in (("fit", fits), (f"certify or predict {len(test[0])} rows", asked)):
        for name, seconds in times.items():
            note = f"{right[name]:.1%} right"
            found.append(record(f"{job}, {case}", name, "s", seconds, note))
        for name in list(models)[1:]:
            ratio = times["BoxNNClassifier"] / times[name]
            found.append(record(f"{job}, {case}", f"ours / {name}", "times", ratio))
    return found


def _epochs(settings: Settings) -> list[Record]:
    rng = np.random.default_rng(0)
    rows = _EPOCH_ROWS // (20 if settings.quick else 1)
    x = rng.integers(0, 256, (rows, 30), np.uint8)
    y = (x[:, :5].sum(axis=1) > 640).astype(np.int64)
    options = TrainingOptions(
        boxes=_BOXES, width=128, batch=_BATCH, validation=0.0, epochs=settings.rounds + 1
    )
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), options.seed)
    threads = {"1 core": 1, f"{settings.threads} cores": settings.threads}
    runs = {name: Training(options, feed, 2, get_backend("cpu", t)) for name, t in threads.items()}
    times = alternate({name: run.run_epoch for name, run in runs.items()}, settings.rounds, 0.0)
    case = f"W=128 M={_BOXES} epoch of {rows} x 30, batch {_BATCH}"
    return [record(case, name, "s", seconds) for name, seconds in times.items()]
