"""The kernels of attacks and pairwise radii run as plain Python, and say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.attack_models import clusters, levelled

from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import pairwise_radius


def results() -> list[list[int]]:
    """Attack and certify a few inputs of two small models."""
    found = []
    for model, x in (levelled(1, 5, 60, 2, 3)[:2], clusters(3, 6, 40, 1, half=30)):
        attack = greedy_attack(model, x[:4], tries=2, threads=1)
        found += [attack.changed.tolist(), pairwise_radius(model, x[:4]).radius.tolist()]
    return found


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
