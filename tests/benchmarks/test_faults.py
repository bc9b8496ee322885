"""The scripts of attacked rows and of faults in a short form: that they find what they look for."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks import soundness
from benchmarks.soundness_cases import KINDS

from boxnn_numba import BoxNN
from boxnn_numba.classifier import Certificate

FAULTS = Path(__file__).parent / "faults"


def test_no_row_falls_inside_its_radius() -> None:
    *_, found = soundness.counts(len(KINDS) * 12, seed=0, size=12)
    assert {one.kind for one in found} == set(KINDS)
    assert {one.certificate for one in found} == {"margin", "pairwise", "exact", "patch"}
    assert sum(one.inside for one in found) == 0
    assert sum(one.certified for one in found) > 40 and sum(one.met for one in found) > 100


def test_a_radius_that_is_too_large_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Certificate] = BoxNN.certify

    def larger(self: BoxNN, *arguments: object, **options: object) -> Certificate:
        label, radius = real(self, *arguments, **options)
        return Certificate(label, radius + 1)

    monkeypatch.setattr(BoxNN, "certify", larger)
    monkeypatch.setattr(soundness, "_EXACT", 0)
    with pytest.raises(soundness.UnsoundError, match=r"model 0 \(plain\), margin: row \d+ of"):
        list(soundness.counts(30, seed=0, size=30))


def test_rewritings_spend_no_more_than_they_may() -> None:
    rng = np.random.default_rng(0)
    case = KINDS["limited, costs"](rng, 50)
    budget = np.full(50, 4.0)
    for towards in (None, rng.integers(0, 50, 50)):
        changed = soundness.differing(case, case.x, soundness.rewritten(case, budget, towards, rng))
        assert (changed @ case.cost <= 4).all() and not changed[:, ~case.free].any()
        assert changed.any()
    grouped = dataclasses.replace(case, cost=np.full(len(case.free), 9.0))
    same = soundness.rewritten(grouped, budget, None, rng)
    assert not soundness.differing(case, case.x, same).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["kills.py --kills 8", "full_disks.py --disks 4", "pairs.py --pairs 8"]
)
def test_faults(words: str) -> None:
    """They fork, so each is a process of its own, of one thread."""
    script, *options = words.split()
    done = subprocess.run(
        [sys.executable, FAULTS / script, *options, "--seed", "1"],
        capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
