"""Rows of three classes in clusters, for data sets that take no time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def three_clusters(noise: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Return what draws splits: rows (n, 12) of codes and their class indices 0..2, in turn.

    Codes are up to `noise` from the centre of the class. Each call draws further rows.
    """
    rng = np.random.default_rng(0)
    centres = rng.integers(30, 226, (3, 12))

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % 3
        x = centres[y] + rng.integers(-noise, noise + 1, (n, 12))
        return np.clip(x, 0, 255).astype(np.uint8), y.astype(np.int32)

    return split
