"""Suite `factored`: templates of parts and grouped features beside plain boxes, in one run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from benchmarks.kernels import WIDTHS, class_distance_call, limit_call
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
_GROUP = 3
_SIDE = 28
_EPOCH_ROWS = 20_000


def factored_suite(settings: Settings) -> list[Record]:
    """Compare class distances and epochs of 2x2 parts and of groups with those of plain boxes.

    Returns
    -------
    list of dict
        Rows x features a second of 10 rows a template and of groups of 3 features, as a share of
        the plain kernels' and of the machine's limit, and the time of a training epoch over the
        plain one's.
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
    template = np.arange(_BOXES) // _ROWS
    kinds = {
        "plain": Boxes(*bounds, labels, width),
        "2x2 parts": Boxes(*bounds, labels, width, template=template, part=_part()),
        f"groups of {_GROUP}": Boxes(*bounds, labels, width, group=np.arange(_FEATURES) // _GROUP),
    }
    backend, (limit, features) = get_backend("cpu", 1), limit_call(width, 1)
    work = {name: class_distance_call(backend, x, boxes) for name, boxes in kinds.items()}
    times = alternate({**work, **({"limit": limit} if limit else {})}, settings.rounds)
    done, found = len(x) * _BOXES * _FEATURES, []
    for name in kinds:
        found.append(record(case, name, "Gfeatures/s", done / times[name] / 1e9))
        if limit:
            share = done / times[name] * times["limit"] / features
            found.append(record(case, f"{name} of limit", "of limit", share))
        if name != "plain":
            share = times["plain"] / times[name]
            found.append(record(case, f"{name} / plain", "of plain", share))
    return found


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
