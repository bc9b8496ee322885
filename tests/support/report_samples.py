"""Synthetic models and runs for the tests of the report, and distances by plain loops."""

from __future__ import annotations

import numpy as np

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.certificates.margin import certified_radius
from boxnn_numba.pipelines.figures.runs import Run

SHAPE = (6, 5)
WIDTH = 10


def make_model(shape=SHAPE, n_boxes=12, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    bounds = np.sort(rng.integers(0, 256, (2, n_boxes, int(np.prod(shape)))), axis=0)
    labels = np.sort(np.arange(n_boxes) % n_classes)
    boxes = Boxes(bounds[0], bounds[1], labels, WIDTH, n_classes)
    return BoxNN(boxes, list(range(n_classes)), feature_shape=shape)


def pairwise_loops(codes, boxes):
    out = np.zeros((len(codes), len(boxes.labels)), np.int32)
    for i, x in enumerate(codes.astype(int)):
        for m in range(len(boxes.labels)):
            below, above = boxes.lower[m].astype(int) - x, x - boxes.upper[m].astype(int)
            out[i, m] = np.clip(np.maximum(below, above), 0, boxes.width).sum()
    return out


def part_loops(codes, boxes):
    return pairwise_loops(codes, boxes)[:, None]


def make_run(name="run", n=120, model=None, seed=1, **attributes):
    model = model or make_model()
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, int(np.prod(model.feature_shape)))).astype(np.uint8)
    units = pairwise_loops(x, model.boxes)
    labels = np.unique(model.boxes.labels)
    distance = np.stack([units[:, model.boxes.labels == c].min(axis=1) for c in labels], axis=1)
    prediction, radius = certified_radius(distance, WIDTH)
    label = np.where(rng.random(n) < 0.7, prediction, rng.integers(0, len(labels), n))
    known = {"width": WIDTH, "group_size": 1, "feature_shape": list(model.feature_shape)}
    known |= {"split": "test", "dataset_name": "mnist"}
    run = Run(name, prediction, radius, label, list(labels), {**known, **attributes}, distance)
    return run, x, model
