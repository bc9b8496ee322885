"""The kernels of attacks and of finer certificates run as plain Python, and say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from support.attack_models import clusters, levelled

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import pairwise_radius, patch_certified


def results() -> list[list[int]]:
    """Attack and certify a few inputs of two small models."""
    found = []
    for model, x in (levelled(1, 5, 60, 2, 3)[:2], clusters(3, 6, 40, 1, half=30)):
        attack = greedy_attack(model, x[:4], tries=2, threads=1)
        found += [attack.changed.tolist(), pairwise_radius(model, x[:4]).radius.tolist()]
    rng = np.random.default_rng(0)
    ends = np.sort(rng.integers(0, 30, (2, 12, 24)), axis=0)
    groups = np.arange(24) // 2
    boxes = Boxes(
        *ends, np.arange(12) // 4, 20, template=np.arange(12) // 2, part=groups % 2, group=groups
    )  # fmt: skip
    image = BoxNN(boxes, range(3), None, (3, 4, 2))
    return [*found, *patch_certified(image, boxes.lower[::5], [1, (1, 2)])[1].tolist()]


def test_without_the_compiler() -> None:
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__], cwd=tests, capture_output=True, text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": tests}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == results()


if __name__ == "__main__":
    json.dump(results(), sys.stdout)
