"""The same bits whatever instructions NumPy may use; kernels have tests of their own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy._core import _multiarray_umath as umath

from boxnn_numba import BoxNN, fit
from boxnn_numba.attacks import greedy_attack, random_search


def table() -> tuple[np.ndarray, np.ndarray]:
    """Two classes, one rare, that twelve columns tell apart."""
    rng = np.random.default_rng(7)
    y = (rng.random(500) < 0.2).astype(np.int64)
    return rng.normal(0, 1, (500, 12)) + y[:, None], y


def results() -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield names and arrays of what must not depend on the processor."""
    x, y = table()
    model = fit(x, y, preset="auto", class_weight="balanced", seed=1)
    yield "auto", arrays(model)
    yield "graded", arrays(fit(x, y, preset="graded", boxes=20, epochs=2, lr=0.02))
    rows = x[:40]
    codes = np.random.default_rng(2).integers(0, 256, (20, 600), np.uint8)
    weights = np.random.default_rng(3).integers(-9, 10, (600, 3))
    found = random_search(lambda codes: codes @ weights, codes, budget=90, queries=60, seed=3)
    yield "random search", [found.x_adv, found.changed]
    yield "greedy attack", [greedy_attack(model, rows).x_adv]
    yield "radii", [*model.certify(rows)]


def arrays(model: BoxNN) -> list[np.ndarray]:
    """Return all that a model consists of."""
    boxes = [side for one in model.box_sets for side in (one.lower, one.upper, one.labels)]
    assert model.grid is not None
    return [*boxes, model.offset, model.grid.edges, model.grid.codes]


def digests() -> list[str]:
    """Return a line for each result."""
    lines = []
    for name, found in results():
        digest = hashlib.sha256()
        for array in found:
            digest.update(np.ascontiguousarray(array).tobytes())
        lines.append(f"{name} {digest.hexdigest()}")
    return lines


def test_without_the_instructions_that_numpy_chooses_by_processor() -> None:
    active = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
    if not active:
        pytest.skip("NumPy knows this processor by no instructions of its own")
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": ",".join(active)}
    words = [sys.executable, "-W", "error", __file__]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == digests()


if __name__ == "__main__":
    sys.stdout.write("\n".join(digests()) + "\n")
