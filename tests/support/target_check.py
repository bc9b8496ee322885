"""Everything the kernels compute on fixed inputs, for one instruction set.

The instruction set is chosen when the package is imported, so `test_kernels` runs this file in a
process of its own for each: ``python target_check.py OUT.npz full|distances|tiny``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np

from boxnn_numba import Boxes, box_distance, class_distance, fit, pairwise_distance
from boxnn_numba.backends import slices
from boxnn_numba.kernels import simd_words
from boxnn_numba.training.augmentation import Augmentation
from boxnn_numba.training.options import TrainingOptions

#: (samples, boxes, features, classes): single ones, odd ones, around a vector, across blocks.
SHAPES = {
    "tiny": [(1, 1, 1, 1), (3, 5, 7, 4), (5, 3, 65, 3)],
    "full": [
        (1, 1, 1, 1),
        (2, 1, 63, 1),
        (3, 2, 64, 2),
        (5, 7, 65, 3),
        (6, 9, 31, 9),
        (2, 3, 784, 2),
        (4, 33, 33, 50),
        (67, 1030, 2, 5),
        (41, 37, 70, 20),
    ],
}
WIDTHS = (1, 2, 89, 128, 254, 255)

#: Options of short training runs that between them use every kernel of a step.
RUNS = {
    "clip": {"objective": "clip", "beta": 5.0, "width": 90, "lr": 0.05},
    "count": {"objective": "paper", "beta": 5.0, "width": 1, "train_width": 255, "lr": 0.05},
    "adam": {"objective": "target", "radius": 2, "optimizer": "adam", "lr": 0.002},
    "momentum": {"softmin": "logsumexp", "momentum": 0.5, "weight_decay": 0.01, "lr": 0.02},
    "l1": {"relaxation": "l1", "softmin": "mean", "beta": 3.0, "lr": 0.01},
    "l2": {"relaxation": "l2", "softmin": "hard", "beta": 3.0, "lr": 0.01},
    "additive": {"relaxation": "additive"},
    "parts": {"parts": "2", "templates": 1, "beta": 5.0, "width": 90, "lr": 0.05},
}


def case(shape: tuple[int, int, int, int]) -> tuple[np.ndarray, Boxes]:
    """Return random codes and boxes with many codes on bounds and at both ends."""
    n_samples, n_boxes, n_features, n_classes = shape
    rng = np.random.default_rng(shape)
    ends = rng.integers(0, 256, (2, n_boxes, n_features))
    ends[:, :, rng.random(n_features) < 0.1] = [[[0]], [[255]]]
    ends[1, rng.random((n_boxes, n_features)) < 0.1] = 0
    lower, upper = np.sort(ends, axis=0)
    x = rng.integers(0, 256, (n_samples, n_features))
    picks = rng.integers(0, n_boxes, n_samples)
    for bound, chance in ((lower, 0.15), (upper, 0.15), (np.clip(upper + 1, 0, 255), 0.1)):
        where = rng.random(x.shape) < chance
        x[where] = bound[picks][where]
    x[rng.random(x.shape) < 0.05] = 0
    x[rng.random(x.shape) < 0.05] = 255
    labels = rng.integers(0, n_classes, n_boxes)
    return x.astype(np.uint8), Boxes(lower, upper, labels, n_classes=n_classes)


def extreme() -> tuple[np.ndarray, Boxes]:
    """Return the largest distances that occur."""
    x = np.array([[0] * 784, [255] * 784], np.uint8)
    bounds = np.array([[255] * 784, [0] * 784, [128] * 784], np.uint8)
    return x, Boxes(bounds, bounds, [0, 1, 2])


def clustered() -> tuple[np.ndarray, Boxes]:
    """Return samples near boxes of their class, where most boxes can be left early.

    Most of what tells boxes apart is in some columns; others matter rarely, others never.
    """
    rng = np.random.default_rng(12)
    n_boxes, n_samples, n_features = 333, 301, 290
    labels = rng.integers(0, 7, n_boxes)
    centres = rng.integers(0, 256, (n_boxes, n_features))
    half = np.where(np.arange(n_features) % 2 == 0, rng.integers(0, 40, n_features), 120)
    lower, upper = np.clip(centres - half, 0, 255), np.clip(centres + half, 0, 255)
    lower[:, 5::4], upper[:, 5::4] = 0, 255
    x = centres[rng.integers(0, n_boxes, n_samples)] + rng.integers(
        -60, 61, (n_samples, n_features)
    )
    return np.clip(x, 0, 255).astype(np.uint8), Boxes(lower, upper, labels, n_classes=8)


def few_codes() -> dict[str, np.ndarray]:
    """Return distances of width 1 of rows that take few codes, in turn more and other ones."""
    rng = np.random.default_rng(14)
    found = {}
    everywhere = (
        mock.patch.multiple(slices, _PER_CODE=1e9),
        mock.patch.object(simd_words, "MOST_BITS", 8),
    )
    with everywhere[0], everywhere[1]:  # also where bytes are faster
        for n_features in (1, 64, 150):
            centres, half = rng.integers(0, 256, (2, 41, n_features))
            bounds = np.clip([centres - half // 4, centres + half // 4], 0, 255)
            boxes = Boxes(*bounds, rng.integers(0, 4, 41), n_classes=5)
            for count in (1, 2, 2, 3, 7, 16, 60, 200):
                codes = rng.choice(256, count, replace=False).astype(np.uint8)
                x = rng.choice(codes, (int(rng.integers(16, 70)), n_features))
                x[0] = np.resize(codes, n_features)
                name = f"{n_features} features, {len(found)}"
                found |= {f"{name} pairs": pairwise_distance(x, boxes)}
                found |= {f"{name} classes": class_distance(x, boxes)}
                found |= {f"{name} labels": boxes.labels}
    return found


def in_parts(size: str) -> dict[str, np.ndarray]:
    """Return class distances of rows that recombine in unequal parts: of few rows, and of many."""
    rng = np.random.default_rng(16)
    found = {}
    for sizes in ((3, 1), (70, 64, 65, 1, 30)) if size == "full" else ((2, 1),):
        part = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        template = np.repeat(np.arange(6), (1, 2, 5, 3, 1, 4))
        bounds = np.sort(rng.integers(0, 256, (2, len(template), len(part))), axis=0)
        x = rng.integers(0, 256, (70, len(part)))
        for width in WIDTHS if size == "full" else WIDTHS[::2]:
            boxes = Boxes(*bounds, template // 2, width, template=template, part=part)
            for rows in (5, 70):
                found[f"parts {sizes} {width} {rows}"] = class_distance(x[:rows], boxes)
    return found


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Return codes of three classes in clusters, 90 samples of 9 features."""
    rng = np.random.default_rng(5)
    y = np.arange(90) % 3
    centres = rng.integers(40, 216, (3, 9))
    return np.clip(centres[y] + rng.integers(-40, 41, (90, 9)), 0, 255).astype(np.uint8), y


def distances(size: str) -> dict[str, np.ndarray]:
    """Return the distances of all cases at all widths."""
    found = {}
    cases = {str(shape): case(shape) for shape in SHAPES[size]}
    if size == "full":
        cases["extreme"] = extreme()
        cases["clustered"] = clustered()
    for name, (x, boxes) in cases.items():
        for width in WIDTHS if size == "full" else WIDTHS[::2]:
            graded = Boxes(boxes.lower, boxes.upper, boxes.labels, width, boxes.n_classes)
            found[f"{name} pairs {width}"] = pairwise_distance(x, graded)
            found[f"{name} classes {width}"] = class_distance(x, graded)
    found |= in_parts(size)
    return found if size == "tiny" else {**found, **few_codes()}


def floats(size: str) -> dict[str, np.ndarray]:
    """Return the distances of floats that are no codes, in both precisions."""
    rng = np.random.default_rng(8)
    n_samples, n_boxes, n_features, _ = SHAPES[size][-1]
    x = rng.normal(0, 2, (n_samples, n_features))
    lower = rng.normal(-1, 1, (n_boxes, n_features))
    upper = lower + rng.random((n_boxes, n_features))
    return {
        str(dtype): box_distance(x.astype(dtype), lower.astype(dtype), upper.astype(dtype), 0.7)
        for dtype in (np.float32, np.float64)
    }


def trained(size: str) -> dict[str, np.ndarray]:
    """Return the bounds of boxes after short training runs."""
    x, y = samples()
    if size == "tiny":
        x, y = x[:12, :4], y[:12]
    found = {}
    few = {"preset": "graded", "boxes": 7 if size == "full" else 3, "epochs": 2, "batch": 25}
    for name, options in RUNS.items():
        # Boxes and steps of additive ones follow from the data.
        boxes = fit(x, y, **({"preset": "graded"} if name == "additive" else few), **options).boxes
        found[f"trained {name}"] = np.stack([boxes.lower, boxes.upper])
    return found


def augmented(size: str) -> dict[str, np.ndarray]:
    """Return distorted images, with and without channels."""
    found = {}
    for shape in ((9, 6), (3, 10, 3)):
        count = 7 if size == "full" else 2
        x = np.random.default_rng(6).integers(0, 256, (count, int(np.prod(shape))), np.uint8)
        found[f"augmented {shape}"] = Augmentation(shape, TrainingOptions(augment=2.0))(x, 5, 1)
    return found


def results(what: str) -> dict[str, np.ndarray]:
    """Return all that is asked for: "full", only its "distances", or "tiny"."""
    size = "tiny" if what == "tiny" else "full"
    found = distances(size)
    return (
        found
        if what == "distances"
        else {**found, **floats(size), **trained(size), **augmented(size)}
    )


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]), **results(sys.argv[2]))
