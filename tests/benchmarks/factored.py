"""Suite `factored`: templates of parts beside plain boxes, in one run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from benchmarks.kernels import WIDTHS, class_distance_call
from benchmarks.method import (
    Record,
    Settings,
    alternate,
    random_boxes,
    random_codes,
    record,
    repeat_rows,
    sample_boxes,
)

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.boxes import Boxes
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.run import Training

_FEATURES, _BOXES, _ROWS, _CLASSES = 784, 3000, 10, 10
_SIDE = 28
_EPOCH_ROWS = 20_000


def factored_suite(settings: Settings) -> list[Record]:
    """Compare class distances and epochs of 2x2 parts with those of plain boxes.

    Returns
    -------
    list of dict
        Rows x features a second of 10 rows a template, as a share of the plain kernels', and the
        time of a training epoch over the plain one's.
    """
    rng = np.random.default_rng(0)
    x = random_codes(rng, 256 if settings.quick else 1024, _FEATURES)
    sets = {"random codes": (x, random_boxes(rng, _BOXES, _FEATURES))}
    if settings.samples.train[0].shape[1] == _FEATURES:
        lower, upper, _ = sample_boxes(settings.samples, _BOXES)
        sets[settings.samples.name] = settings.samples.test[0][: len(x)], (lower, upper)
    found = []
    for name, (codes, bounds) in sets.items():
        for width in WIDTHS:
            found += _kernel_case(settings, f"W={width} {name}", codes, bounds, width)
            settings.advance(f"factored W={width} {name}")
    if settings.samples.train[0].shape[1] == _FEATURES:
        found += _epoch_case(settings)
    return found


def _part() -> np.ndarray:
    row, column = np.indices((_SIDE, _SIDE)).reshape(2, -1)
    return 2 * (2 * row // _SIDE) + 2 * column // _SIDE


def _kernel_case(
    settings: Settings, case: str, x: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], width: int
) -> list[Record]:
    labels = np.sort(np.arange(_BOXES) % _CLASSES)
    plain = Boxes(*bounds, labels, width)
    factored = Boxes(*bounds, labels, width, template=np.arange(_BOXES) // _ROWS, part=_part())
    backend = get_backend("cpu", 1)
    work = {
        name: class_distance_call(backend, x, boxes)
        for name, boxes in (("plain", plain), ("2x2 parts", factored))
    }
    times = alternate(work, settings.rounds)
    found = [
        record(case, name, "Gfeatures/s", len(x) * _BOXES * _FEATURES / t / 1e9)
        for name, t in times.items()
    ]
    share = times["plain"] / times["2x2 parts"]
    return [*found, record(case, "2x2 parts / plain", "of plain", share)]


def _epoch_case(settings: Settings) -> list[Record]:
    x, y = repeat_rows(*settings.samples.train, _EPOCH_ROWS // (4 if settings.quick else 1))
    options = TrainingOptions(
        boxes=_BOXES, width=77, tau=2.0, batch=200, beta=64.0, leak=0.2, validation=0.0, epochs=9
    )
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    backend = get_backend("cpu", settings.threads)
    runs = {
        name: Training(
            replace(options, parts=parts), feed, _CLASSES, backend,
            feature_shape=(_SIDE, _SIDE), codes=True,
        )
        for name, parts in (("plain", "1"), ("2x2 parts", "2x2"))
    }  # fmt: skip
    times = alternate({name: run.run_epoch for name, run in runs.items()}, 3)
    ratio = times["2x2 parts"] / times["plain"]
    case = f"epoch of {len(x)} samples, {settings.threads} cores"
    found = [record(case, name, "s", t) for name, t in times.items()]
    return [*found, record(case, "2x2 parts / plain", "times", ratio)]
