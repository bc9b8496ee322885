"""Random models with templates, parts, groups, offsets and several sets, and all their inputs."""

from __future__ import annotations

import itertools

import numpy as np

from boxnn_numba import Boxes, BoxNN, Grid


def factored(
    seed: int,
    n_features: int,
    levels: int,
    width: int,
    sets: int = 1,
    *,
    grouped: bool = True,
    shift: int = 0,
) -> tuple[BoxNN, np.ndarray, np.ndarray]:
    """A model on a grid of few levels, raw inputs, and every input that there is.

    Groups have unequal sizes and need not be adjacent, nor need parts; each set has its own parts.
    """
    rng = np.random.default_rng([seed, n_features, levels, width, sets])
    grid = Grid.fit(np.repeat(np.arange(float(levels))[:, None], n_features, axis=1))
    every = np.array(list(itertools.product(np.arange(float(levels)), repeat=n_features)))
    group = rng.integers(0, n_features - 1, n_features) if grouped else np.arange(n_features)
    _, group = np.unique(group, return_inverse=True)
    corner = rng.choice([0, levels - 1], n_features)
    found, level = [], corner[None]
    for _ in range(sets):
        template = np.sort(np.concatenate([np.arange(6), rng.integers(0, 6, 6)]))
        label = np.concatenate([np.arange(3), rng.integers(0, 3, 3)])[template]
        level = np.where(label[:, None] == 1, levels - 1 - corner, corner)
        elsewhere = rng.random(level.shape) < np.where(label == 2, 0.6, 0.25)[:, None]
        level = np.where(elsewhere, rng.integers(0, levels, level.shape), level)
        middle = grid.codes.astype(int)[0][level] + rng.integers(-shift, shift + 1, level.shape)
        half = rng.choice([0, 20, 60], middle.shape)
        part_of_group = rng.integers(0, 3, group.max() + 1)
        _, part = np.unique(part_of_group[group], return_inverse=True)
        low, high = np.clip(middle - half, 0, 255), np.clip(middle + half, 0, 255)
        found.append(
            Boxes(low, high, label, width, 3, template=template, part=part, group=group)
        )  # fmt: skip
    offset = rng.integers(-width, width + 1, 3)
    model = BoxNN(found[0], ["a", "b", "c"], grid, others=tuple(found[1:]), offset=offset)
    x = np.concatenate(
        [level[rng.permutation(len(level))[:3]], every[rng.integers(0, len(every), 2)]]
    )
    return model, x.astype(float), every


def fewest_changes(model: BoxNN, x: np.ndarray, every: np.ndarray) -> list[int]:
    """By brute force: the fewest groups whose change flips each prediction; -1 if none does."""
    reached, member = model.predict(every), np.eye(model.groups.max() + 1)[model.groups]
    fewest = []
    for row, label in zip(x, model.predict(x), strict=True):
        flips = every[reached != label]
        changed = ((flips != row).astype(float) @ member > 0).sum(axis=1)
        fewest.append(int(changed.min()) if len(changed) else -1)
    return fewest
