"""Random models and inputs for the tests of attacks and of exact radii."""

from __future__ import annotations

import itertools

import numpy as np

from boxnn_numba import Boxes, BoxNN, Grid


def clusters(
    seed: int, n_features: int, width: int, group_size: int = 1, n_classes: int = 3, half: int = 10
) -> tuple[BoxNN, np.ndarray]:
    """A model of boxes around a centre for each class, and inputs near them."""
    rng = np.random.default_rng([seed, n_features, width])
    labels = np.arange(4 * n_classes) % n_classes
    centres = rng.integers(0, 256, (n_classes, n_features))
    middle = centres[labels] + rng.integers(-60, 61, (len(labels), n_features))
    lower, upper = np.clip(middle - half, 0, 255), np.clip(middle + half, 0, 255)
    boxes = Boxes(lower, upper, labels, width, n_classes)
    y = np.arange(8) % n_classes
    x = np.clip(centres[y] + rng.integers(-50, 51, (8, n_features)), 0, 255).astype(np.uint8)
    return BoxNN(boxes, list(range(n_classes)), group_size=group_size), x


def levelled(
    seed: int, n_features: int, width: int, group_size: int, levels: int, shift: int = 0
) -> tuple[BoxNN, np.ndarray, np.ndarray]:
    """A model on a grid of few levels, raw inputs, and every input that there is.

    Boxes lie around codes of the grid, or up to `shift` codes off.
    """
    rng = np.random.default_rng([seed, n_features, width, levels])
    grid = Grid.fit(np.repeat(np.arange(float(levels))[:, None], n_features, axis=1))
    every = np.array(list(itertools.product(np.arange(float(levels)), repeat=n_features)))
    codes = grid.codes.astype(int)
    labels = np.array([0, 1, 2, 0, 1, 2, 1])
    # Classes 0 and 1 at opposite corners, with some features elsewhere.
    corner = rng.choice([0, levels - 1], n_features)
    level = np.where(labels[:, None] == 1, levels - 1 - corner, corner)
    elsewhere = rng.random(level.shape) < np.where(labels == 2, 0.6, 0.25)[:, None]
    level = np.where(elsewhere, rng.integers(0, levels, level.shape), level)
    middle = codes[0][level] + rng.integers(-shift, shift + 1, level.shape)
    half = rng.choice([0, 20, 60], middle.shape)
    lower, upper = np.clip(middle - half, 0, 255), np.clip(middle + half, 0, 255)
    boxes = Boxes(lower, upper, labels, width, 3)
    model = BoxNN(boxes, ["a", "b", "c"], grid, group_size=group_size)
    x = np.concatenate(
        [level[rng.permutation(len(level))[:3]], every[rng.integers(0, len(every), 3)]]
    )
    return model, x.astype(float), every


def groups_changed(x: np.ndarray, other: np.ndarray, groups: np.ndarray | int) -> np.ndarray:
    """How many groups of features differ, row by row; of a size, or numbered."""
    differs = x != other
    if isinstance(groups, int):
        groups = np.arange(x.shape[1]) // groups
    return np.array([len({int(groups[k]) for k in np.flatnonzero(row)}) for row in differs])


def fewest_changes(model: BoxNN, x: np.ndarray, every: np.ndarray) -> list[int]:
    """By brute force: the fewest groups whose change flips each prediction; -1 if none does."""
    reached = model.predict(every)
    fewest = []
    for row, label in zip(x, model.predict(x), strict=True):
        flips = every[reached != label]
        needed = groups_changed(np.broadcast_to(row, flips.shape), flips, model.groups)
        fewest.append(int(needed.min()) if len(needed) else -1)
    return fewest
