"""Gradients of factored and grouped boxes against loops, and these against finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import reference
from support.reference import Factors, Setting
from training.test_gradients import integer_gradient

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.options import SOFTMINS, TrainingOptions
from boxnn_numba.training.problem import FIXED_POINT, Problem, SoftMin, largest_excess

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2], np.int32)
TEMPLATE = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4], np.int32)
#: Parts of unequal sizes, and groups of one to three features.
PART = np.array([0, 1, 0, 2, 1, 1, 0, 2], np.int32)
GROUP = np.array([0, 1, 0, 2, 1, 3, 0, 4], np.int32)


def structure_of(grouped: bool, template: np.ndarray = TEMPLATE) -> Structure:
    group = GROUP if grouped else np.arange(len(PART))
    return Structure.of(LABELS, template, PART, group, 3)


def trainer_of(setting: Setting, structure: Structure, bounds: Any, threads: int = 1) -> CpuTrainer:
    names = ("softmin", "tau", "objective", "beta", "radius", "sharpness", "keep", "leak", "width")
    options = TrainingOptions(boxes=9, **{name: getattr(setting, name) for name in names})
    return CpuTrainer(get_backend("cpu", threads), bounds, Problem.of(options, structure))


def case(samples: int = 6) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(8)
    x = rng.integers(0, 256, (samples, len(PART))).astype(np.uint8)
    ends = np.sort(rng.integers(0, 256, (2, len(LABELS), len(PART))), axis=0)
    return x, (np.arange(samples) % 3).astype(np.int32), (*ends.astype(np.float32),)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("softmin", SOFTMINS)
@pytest.mark.parametrize("objective", ["clip", "target", "paper"])
def test_gradient_is_that_of_loops(
    objective: str, softmin: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boxnn_numba.training.softmin_stages.LEAST", 1.0)
    setting = Setting(
        softmin, 2.0, objective, beta=1.1, radius=0, sharpness=0.7, keep=0.4, width=150, leak=0.3
    )
    structure = structure_of(grouped)
    factors = Factors(TEMPLATE.tolist(), PART.tolist(), structure.group.tolist())
    x, y, bounds = case()
    trainer = trainer_of(setting, structure, bounds)
    entries, values, margins = trainer.entries(x, y)
    expected = reference.factored_gradient(x, y, *bounds, LABELS.tolist(), factors, setting)
    found = integer_gradient(trainer, x, y)
    for side in range(2):
        by_hand = expected[side] / setting.unit * FIXED_POINT
        np.testing.assert_allclose(found[side], by_hand, rtol=0, atol=5e-3 * FIXED_POINT)
    rows = [
        reference.factored_objective(row, c, *bounds, LABELS.tolist(), factors, setting)
        for row, c in zip(x.tolist(), y.tolist(), strict=True)
    ]
    np.testing.assert_allclose(np.stack((values, margins), 1), rows, rtol=0, atol=2e-3)
    assert len(entries.boxes) > 10


def test_loops_are_right_by_finite_differences() -> None:
    setting = Setting("boltzmann", 2.0, "clip", beta=9.0, width=255, leak=0.0)
    factors = Factors(TEMPLATE.tolist(), PART.tolist(), list(range(len(PART))))
    x, y, whole = case()
    bounds = whole[0] - 0.25, whole[1] + 0.25  # no code lies on a bound, where a penalty has a kink

    def total(lower: np.ndarray, upper: np.ndarray) -> float:
        rows = zip(x.tolist(), y.tolist(), strict=True)
        return sum(
            reference.factored_objective(row, c, lower, upper, LABELS.tolist(), factors, setting)[0]
            for row, c in rows
        )

    numerical = reference.numerical_gradient(total, *bounds)
    by_hand = reference.factored_gradient(x, y, *bounds, LABELS.tolist(), factors, setting)
    np.testing.assert_allclose(by_hand[0], numerical[0], atol=1e-6)
    np.testing.assert_allclose(by_hand[1], numerical[1], atol=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_one_row_a_template_is_the_plain_model(grouped: bool) -> None:
    setting = Setting("boltzmann", 2.0, "clip", beta=9.0, width=150, leak=0.3)
    x, y, bounds = case()
    alone = structure_of(grouped, np.arange(9))
    plain = Structure.plain(alone.offsets, len(PART))._replace(group=alone.group)
    states = []
    for structure in (alone, plain):
        trainer = trainer_of(setting, structure, (bounds[0].copy(), bounds[1].copy()))
        trainer.step(x, y, 3.0)
        states.append(trainer.state())
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name])


def test_templates_that_are_left_out_have_no_weight() -> None:
    """The same entries without the shortcut for templates that are too far."""
    rng = np.random.default_rng(2)
    structure = structure_of(False)
    setting = Setting("boltzmann", 1.0, "clip", beta=90.0, width=7, leak=0.3)
    x, y, bounds = case(60)
    near = rng.random(x.shape) < 0.7
    x[near] = bounds[0].astype(np.uint8)[rng.integers(0, 9, 60)][near]
    trainer = trainer_of(setting, structure, bounds)
    found = trainer.entries(x, y)
    rows = trainer.problem.rows
    assert rows is not None
    trainer.problem = replace(trainer.problem, rows=rows._replace(slack=2**30))
    for one, other in zip(found[0].arrays(), trainer.entries(x, y)[0].arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found[1], trainer.entries(x, y)[1])


def test_the_bound_of_a_soft_min() -> None:
    rng = np.random.default_rng(0)
    k = np.arange(120)
    table = np.rint(np.exp(-0.05 * k) * 2**22).astype(np.int64)
    soft = SoftMin(table, 119, 0.05, 1.0, 2.0**22, 0.0)
    for count in (1, 2, 5, 40):
        bound, reached = largest_excess(soft, count), 0.0
        for others in [[j] * (count - 1) for j in k] + [
            rng.choice(120, count - 1).tolist() for _ in range(50)
        ]:
            weights = table[[0, *others]]
            reached = max(reached, float((weights * [0, *others]).sum() / weights.sum()))
        assert reached <= bound <= reached + 2


def test_threads_give_the_same_bits() -> None:
    setting = Setting("boltzmann", 2.0, "clip", beta=9.0, width=150, leak=0.3)
    x, y, bounds = case(200)
    states = []
    for threads in (1, 3):
        copies = bounds[0].copy(), bounds[1].copy()
        trainer = trainer_of(setting, structure_of(True), copies, threads)
        for _ in range(3):
            trainer.step(x, y, 3.0)
        states.append(trainer.state()["master_lower"])
    np.testing.assert_array_equal(*states)
