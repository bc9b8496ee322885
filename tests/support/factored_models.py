"""Factored models with grouped features and class offsets, and their distances by plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.reference import factored_distances, part_distances

from boxnn_numba import Boxes, BoxNN, Grid
from boxnn_numba.data.dataset import write_dataset

SHAPE = (4, 4, 3)
#: Rows of each template, two templates a class.
ROWS = (3, 2)
WIDTH = 40


def quadrants(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Number of the quarter of an image (h, w, c) that each feature lies in."""
    y, x, _ = np.indices(shape)
    return (2 * (y >= shape[0] // 2) + (x >= shape[1] // 2)).ravel()


def halves(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Number of the half of an image (h, w, c), left or right, that each feature lies in."""
    return (np.indices(shape)[1] >= shape[1] // 2).ravel().astype(int)


def pixels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Number of the pixel that each feature of an image (h, w, c) belongs to."""
    return np.arange(int(np.prod(shape))) // shape[2]


def factored_model(
    seed: int = 0,
    shape: tuple[int, ...] = SHAPE,
    members: int = 1,
    offset: tuple[int, ...] = (0, 60, 20),
    grid: Grid | None = None,
) -> BoxNN:
    """Three classes of two templates, in quarters (the second member: halves), pixels as groups."""
    rng = np.random.default_rng(seed)
    labels, template = np.repeat([0, 0, 1, 1, 2, 2], ROWS * 3), np.repeat(range(6), ROWS * 3)
    sets = []
    for member in range(members):
        bounds = np.sort(rng.integers(0, 256, (2, len(labels), int(np.prod(shape)))), axis=0)
        part = halves(shape) if member % 2 else quadrants(shape)
        sets.append(
            Boxes(*bounds, labels, WIDTH, 3, template=template, part=part, group=pixels(shape))
        )
    return BoxNN(
        sets[0], ["a", "b", "c"], grid, shape, others=tuple(sets[1:]), offset=np.array(offset)
    )


def class_distances(model: BoxNN, codes: np.ndarray) -> np.ndarray:
    """(N, K) class distances with offsets, by the loops of `support.reference`."""
    total = np.zeros((len(codes), len(model.classes)), int) + model.offset
    for boxes in model.box_sets:
        part, group = boxes.part.tolist(), boxes.group.tolist()
        parts = part_distances(codes, boxes.lower, boxes.upper, boxes.width, part, group)
        total += factored_distances(
            parts, boxes.labels.tolist(), boxes.template.tolist(), len(model.classes)
        )
    return total


def certified(model: BoxNN, distance: np.ndarray) -> tuple[list[int], list[int]]:
    """Class indices and margin radii of class distances (N, K), by the definition."""
    found, radii = [], []
    divisor = 2 * model.boxes.width * len(model.box_sets)
    for row in distance.tolist():
        own = row.index(min(row))
        leads = [(d - row[own] - (c < own)) // divisor for c, d in enumerate(row) if c != own]
        found.append(own)
        radii.append(min(leads))
    return found, radii


def samples(model: BoxNN, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, features) near combinations of rows of the first set of boxes, and their class."""
    rng = np.random.default_rng(seed)
    boxes = model.boxes
    y = np.arange(n) % len(model.classes)
    x = np.empty((n, boxes.n_features), int)
    for line, label in zip(x, y, strict=True):
        mine = np.unique(boxes.template[boxes.labels == label])
        rows = np.flatnonzero(boxes.template == rng.choice(mine))
        row = rng.choice(rows, int(boxes.part.max()) + 1)[boxes.part]
        at = np.arange(boxes.n_features)
        line[:] = rng.integers(boxes.lower[row, at], boxes.upper[row, at].astype(int) + 1)
    noise = rng.integers(-25, 26, x.shape)
    return np.clip(x + noise, 0, 255).astype(np.uint8), y.astype(np.int32)


def write_samples(path: Path, model: BoxNN, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Write a data set of `samples` with the shape of a model's; return those of the test split."""
    splits = []
    for seed in (0, 1):
        x, y = samples(model, n, seed)
        splits.append((x.reshape(-1, *(model.feature_shape or ())), y))
    write_dataset(
        path, name="factored", classes=list(model.classes), train=splits[0], test=splits[1]
    )
    return splits[1][0].reshape(n, -1), splits[1][1]
