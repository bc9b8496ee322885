"""Suite `pairwise`: the pairwise certificate beside the distances that it starts from."""

from __future__ import annotations

import functools

import numpy as np
from benchmarks.kernels import class_distance_call
from benchmarks.method import (
    Record,
    Settings,
    alternate,
    random_boxes,
    random_codes,
    record,
    sample_boxes,
)

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.adversary import Adversary
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates.pairwise import pairwise_bounds

_WIDTH, _BOXES, _ROWS, _COLUMNS = 128, 1000, 200, 30


def pairwise_suite(settings: Settings) -> list[Record]:
    """Measure certificates of plain boxes, 2x2 parts and two members: images and short rows.

    Returns
    -------
    list of dict
        Rows a second on one core and on all, and the class distances' share of the time on one.
    """
    rng = np.random.default_rng(0)
    rows = _ROWS if settings.quick else 5 * _ROWS
    lower, upper, labels = sample_boxes(settings.samples, _BOXES)
    images = settings.samples.test[0][:rows]
    short = random_codes(rng, 5 * rows, _COLUMNS)
    bounds = random_boxes(rng, _BOXES, _COLUMNS)
    cases = {
        settings.samples.name: (images, (lower, upper), labels),
        f"{_COLUMNS} random codes": (short, bounds, np.sort(np.arange(_BOXES) % 2)),
    }
    found = []
    for name, (x, sides, classes) in cases.items():
        for kind, model in _models(sides, classes).items():
            found += _certificates(settings, f"{kind}, {name}", x, model)
            settings.advance(f"pairwise {kind} {name}")
    return found


def _models(bounds: tuple[np.ndarray, np.ndarray], labels: np.ndarray) -> dict[str, BoxNN]:
    names = list(range(int(labels.max()) + 1))
    plain = Boxes(*bounds, labels, _WIDTH)
    half = Boxes(*(side[::2] for side in bounds), labels[::2], _WIDTH)
    other = Boxes(*(side[1::2] for side in bounds), labels[1::2], _WIDTH)
    part = np.arange(bounds[0].shape[1]) % 4
    factored = Boxes(*bounds, labels, _WIDTH, template=np.arange(len(labels)) // 10, part=part)
    return {
        "plain boxes": BoxNN(plain, names),
        "4 parts": BoxNN(factored, names),
        "2 members": BoxNN(half, names, others=(other,)),
    }


def _certificates(settings: Settings, case: str, x: np.ndarray, model: BoxNN) -> list[Record]:
    everyone = Adversary.of(model)
    work = {
        name: functools.partial(pairwise_bounds, model, x, everyone, threads)
        for name, threads in (("1 core", 1), (f"{settings.threads} cores", settings.threads))
    }
    one = get_backend("cpu", 1)
    calls = [class_distance_call(one, x, boxes) for boxes in model.box_sets]
    times = alternate({**work, "distances": lambda: [call() for call in calls]}, settings.rounds)
    found = [record(case, name, "rows/s", len(x) / times[name]) for name in work]
    scaling = times["1 core"] / times[f"{settings.threads} cores"] / settings.threads
    share = times["distances"] / times["1 core"]
    return [
        *found,
        record(case, "scaling", "of linear", scaling),
        record(case, "class distances, 1 core", "of the time", share),
    ]
