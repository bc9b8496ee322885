"""Manual gradients against finite differences, and optimiser steps against NumPy."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from support import reference
from support.reference import Setting

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.training import softmin_stages
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.optimizer import REFERENCE_BATCH
from boxnn_numba.training.options import OBJECTIVES, RELAXATIONS, SOFTMINS, TrainingOptions
from boxnn_numba.training.problem import FIXED_POINT, Problem
from boxnn_numba.training.softmin_stages import Pulls

#: Additive boxes have a trainer of their own.
PENALTIES = [name for name in RELAXATIONS if name != "additive"]
COMBINATIONS = list(itertools.product(OBJECTIVES, SOFTMINS, PENALTIES))
LABELS = np.array([0, 0, 1, 1, 1, 2], np.int32)
OFFSETS = np.array([0, 2, 5, 6])
Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def problem(seed: int = 3, n_samples: int = 5, n_features: int = 4) -> Case:
    """Return codes, labels and whole-number bounds of six boxes of three classes.

    With the default seed no distances tie and no margin lies on the clip: all is differentiable.
    """
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n_samples, n_features)).astype(np.uint8)
    y = (np.arange(n_samples) % 3).astype(np.int32)
    ends = np.sort(rng.integers(0, 256, (2, len(LABELS), n_features)), axis=0)
    # Let samples lie on bounds, where a graded penalty has its kink.
    ends[0, 0, 0], ends[1, 2, 1] = min(x[0, 0], ends[1, 0, 0]), max(x[1, 1], ends[0, 2, 1])
    return x, y, *ends.astype(np.float32)


def options_of(setting: Setting, **more: Any) -> TrainingOptions:
    names = (
        "softmin",
        "tau",
        "objective",
        "beta",
        "radius",
        "sharpness",
        "keep",
        "relaxation",
        "leak",
    )
    same = {name: getattr(setting, name) for name in names}
    return TrainingOptions(boxes=len(LABELS), width=setting.width, **same, **more)


def trainer_of(
    options: TrainingOptions, lower: np.ndarray, upper: np.ndarray, threads: int = 1
) -> CpuTrainer:
    problem = Problem.of(options, Structure.plain(OFFSETS, lower.shape[1]))
    return CpuTrainer(get_backend("cpu", threads), (lower.copy(), upper.copy()), problem)


def integer_gradient(
    trainer: CpuTrainer, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the integer gradients of all boxes."""
    pulls, _, _ = trainer.pulls(x, trainer.backend.samples(x, trainer._frame), y)
    # As the entries of a cluster come: one by one.
    entries = pulls.entries()
    other = Pulls.of(entries, pulls.starts.shape[1] - 1)
    np.testing.assert_array_equal(
        np.diff(other.starts[0]), np.bincount(entries.boxes, minlength=other.starts.shape[1] - 1)
    )
    found, again = trainer.gradient(x, pulls), trainer.gradient(x, other)
    np.testing.assert_array_equal(found, again)
    return found


def masters_of(trainer: CpuTrainer) -> tuple[np.ndarray, np.ndarray]:
    state = trainer.state()
    return state["master_lower"], state["master_upper"]


def setting_of(objective_: str, softmin_: str, relaxation: str, **more: Any) -> Setting:
    """Return a setting under which some samples are clipped and some are not."""
    values = {
        "beta": 0.3,
        "tau": 2.0,
        "radius": 0,
        "sharpness": 0.7,
        "keep": 0.4,
        "width": 180,
        **more,
    }
    return Setting(objective=objective_, softmin=softmin_, relaxation=relaxation, **values)


@pytest.mark.parametrize(("objective_", "softmin_", "relaxation"), COMBINATIONS)
def test_gradient_is_that_of_finite_differences(
    objective_: str, softmin_: str, relaxation: str
) -> None:
    setting = setting_of(objective_, softmin_, relaxation)
    x, y, lower, upper = problem()
    numerical = reference.numerical_gradient(
        lambda a, b: reference.batch_objective(x, y, a, b, LABELS.tolist(), setting),
        lower,
        upper,
        step=1e-4,
        growing=relaxation == "graded",
    )
    by_hand = reference.batch_gradient(x, y, lower, upper, LABELS.tolist(), setting)
    found = integer_gradient(trainer_of(options_of(setting), lower, upper), x, y)
    for side in range(2):
        np.testing.assert_allclose(by_hand[side], numerical[side], rtol=0, atol=1e-6)
        scaled = found[side] * (setting.unit / FIXED_POINT)
        np.testing.assert_allclose(scaled, by_hand[side], rtol=0, atol=3e-6)
        np.testing.assert_allclose(scaled, numerical[side], rtol=0, atol=4e-6)
    assert max(np.abs(side).max() for side in by_hand) > 1e-3


@pytest.mark.parametrize(("objective_", "softmin_", "relaxation"), COMBINATIONS)
@pytest.mark.parametrize("width", [1, 40, 255])
def test_coefficients_objective_and_margin(
    objective_: str, softmin_: str, relaxation: str, width: int
) -> None:
    setting = setting_of(objective_, softmin_, relaxation, width=width, tau=0.7, beta=0.4)
    x, y, lower, upper = problem(3, n_samples=70, n_features=7)
    trainer = trainer_of(options_of(setting), lower, upper)
    entries, values, margins = trainer.entries(x, y)
    coefficients = np.zeros((len(x), len(LABELS)))
    assert len({*zip(entries.samples.tolist(), entries.boxes.tolist(), strict=True)}) == len(
        entries.boxes
    )
    assert (entries.coefficients != 0).all()
    coefficients[entries.samples, entries.boxes] = entries.coefficients / FIXED_POINT
    rows = reference.scaled_distances(x, lower, upper, setting)
    labels = LABELS.tolist()
    for i, d in enumerate(rows):
        value, margin = reference.sample_objective(d, labels, int(y[i]), setting)
        np.testing.assert_allclose([values[i], margins[i]], [value, margin], atol=1e-7)
        if abs(margin - setting.beta) > 1e-6 or objective_ == "target":
            expected = reference.sample_coefficients(d, labels, int(y[i]), setting)
            np.testing.assert_allclose(coefficients[i], expected, rtol=0, atol=0.51 / FIXED_POINT)


def test_both_sides_of_the_clip_and_both_signs_occur() -> None:
    x, y, lower, upper = problem(3, n_samples=70, n_features=7)
    setting = setting_of("paper", "boltzmann", "graded", width=40, beta=0.4)
    rows = reference.scaled_distances(x, lower, upper, setting)
    pairs = [
        reference.sample_objective(d, LABELS.tolist(), int(c), setting)
        for d, c in zip(rows, y, strict=True)
    ]
    assert {bool(margin < 0.4) for _, margin in pairs} == {True, False}
    assert {bool(value < 0) for value, _ in pairs} == {True, False}


def test_paper_objective_pushes_a_wrong_prediction_away() -> None:
    # One sample of class 1 that lies nearer to the box of class 0.
    lower = np.array([[100], [20], [20], [20], [20], [250]], np.float32)
    x, y = np.array([[110]], np.uint8), np.array([1], np.int32)
    setting = Setting(objective="paper", softmin="hard", width=255, beta=50)
    trainer = trainer_of(options_of(setting), lower, lower)
    _, values, margins = trainer.entries(x, y)
    assert margins[0] == pytest.approx((90 - 10) / 255)
    assert values[0] == -margins[0]
    low, high = integer_gradient(trainer, x, y)
    assert high[0, 0] < 0, "the upper bound of the winning box must go down, away from the sample"
    assert (high[2:5, 0] > 0).all(), "the boxes of the nearest rival class must come nearer"
    assert (low == 0).all()
    right = integer_gradient(trainer, x, np.array([0], np.int32))
    np.testing.assert_array_equal(right[1], -high)


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("width", [1, 30, 254])
def test_leak(leak: float, width: int) -> None:
    setting = setting_of("clip", "boltzmann", "graded", width=width, leak=leak, tau=0.5, beta=9.0)
    x, y, lower, upper = problem(1)
    x[0, 0] = lower[1, 0] - min(width, lower[1, 0])  # exactly the width away
    expected = reference.batch_gradient(x, y, lower, upper, LABELS.tolist(), setting)
    found = integer_gradient(trainer_of(options_of(setting), lower, upper), x, y)
    for side in range(2):
        scaled = found[side] * (setting.unit / FIXED_POINT)
        np.testing.assert_allclose(scaled, expected[side], rtol=0, atol=6e-6)


def test_slopes_at_the_kinks() -> None:
    """On a bound nothing pulls; up to the width fully; beyond it by the leak."""
    lower = np.tile(np.float32([[50], [200], [200], [200], [200], [200]]), 6)
    setting = Setting(softmin="hard", width=10, leak=0.25, beta=1e6)
    x = np.array([[50, 49, 41, 40, 39, 0]], np.uint8)
    trainer = trainer_of(options_of(setting), lower, lower)
    low, high = integer_gradient(trainer, x, np.array([0], np.int32))
    np.testing.assert_array_equal(low[0] / -FIXED_POINT, [0, 1, 1, 1, 0.25, 0.25])
    np.testing.assert_array_equal(high[0], 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_gradient_is_the_sum_over_samples(threads: int) -> None:
    """Exactly: however a batch is split and ordered, the integers are the same."""
    setting = setting_of("clip", "boltzmann", "graded", leak=0.4, beta=2.0)
    x, y, lower, upper = problem(2, n_samples=200, n_features=3)
    trainer = trainer_of(options_of(setting), lower, upper, threads)
    whole = integer_gradient(trainer, x, y)
    order = np.random.default_rng(0).permutation(200)
    parts = [integer_gradient(trainer, x[rows], y[rows]) for rows in np.split(order, [3, 77, 130])]
    for side in range(2):
        np.testing.assert_array_equal(whole[side], sum(part[side] for part in parts))


def test_more_entries_than_room() -> None:
    setting = setting_of("clip", "mean", "graded", beta=9.0)
    x, y, lower, upper = problem(4, n_samples=130)
    trainer = trainer_of(options_of(setting, batch=1), lower, upper, threads=2)
    entries, _, _ = trainer.entries(x, y)
    assert len(entries.boxes) == 130 * len(LABELS) > 64


def test_room_is_found_once_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*choice: Any) -> Any:
        kernel = forward_kernel(*choice)

        def call(*arguments: Any) -> Any:
            calls.append(choice)
            return kernel(*arguments)

        return call

    forward_kernel = softmin_stages.softmin.forward
    monkeypatch.setattr(softmin_stages.softmin, "forward", counted)
    monkeypatch.setattr(softmin_stages, "_ROOM", 1)
    monkeypatch.setattr(softmin_stages, "_of_thread", threading.local())
    x, y, lower, upper = problem(n_samples=80)
    trainer = trainer_of(options_of(setting_of("clip", "mean", "graded", beta=9.0)), lower, upper)
    found = [
        softmin_stages.forward(trainer.backend, trainer.table, x, y, trainer.problem)
        for _ in range(2)
    ]
    assert len(calls) == 3
    known = Pulls.room(np.arange(3), 5).grown(10**6)
    assert Pulls.room(np.arange(9), 5, known).samples.shape[1] > 10**6
    assert Pulls.room(np.arange(9), 6, known).samples.shape[1] == 1
    for one, other in zip(found[0][0].arrays(), found[1][0].arrays(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("tau", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("kind", SOFTMINS)
def test_softmin_of_any_temperature(kind: str, tau: float) -> None:
    setting = setting_of("clip", kind, "graded", tau=tau, beta=1e6, width=200)
    x, y, lower, upper = problem(6)
    trainer = trainer_of(options_of(setting), lower, upper)
    _, values, _ = trainer.entries(x, y)
    rows = reference.scaled_distances(x, lower, upper, setting)
    pairs = zip(rows, y, strict=True)
    expected = [
        reference.sample_objective(d, LABELS.tolist(), int(c), setting)[0] for d, c in pairs
    ]
    np.testing.assert_allclose(values, expected, rtol=0, atol=2e-7)


# --- optimisers ----------------------------------------------------------------------------


class Oracle:
    """Float32 parameters and moments in NumPy, in codes, moved along gradients per [0, 1]."""

    def __init__(self, options: TrainingOptions, bounds: list[np.ndarray]) -> None:
        self.options = options
        self.bounds = list(reference.settled(*bounds))
        self.first = [np.zeros_like(bound) for bound in bounds]
        self.second = [np.zeros_like(bound) for bound in bounds]
        self.steps = 0

    def step(self, gradient: tuple[np.ndarray, np.ndarray], batch: int, rate: float) -> None:
        """Take one step; `gradient` is the sum over the batch, per unit of [0, 1]."""
        options = self.options
        self.steps += 1
        for side, bound in enumerate(self.bounds):
            value = bound.astype(np.float64) / 255
            first, second = (m[side].astype(np.float64) for m in (self.first, self.second))
            if options.optimizer == "adam":
                g = gradient[side] / options.batch - options.weight_decay * value
                first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
                m = first / (1 - 0.9**self.steps)
                value = value + rate * m / (np.sqrt(second / (1 - 0.999**self.steps)) + 1e-8)
            else:
                crowd = max(1.0, batch / len(value))
                g = gradient[side] / (REFERENCE_BATCH * crowd) - options.weight_decay * value
                first = options.momentum * first + g
                value = value + rate * first
            self.first[side], self.second[side] = first.astype("f4"), second.astype("f4")
            self.bounds[side] = (255 * value).astype(np.float32)
        self.bounds = list(reference.settled(*self.bounds))


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.2},
        {"momentum": 0.6, "weight_decay": 0.05},
        {"optimizer": "adam"},
        {"optimizer": "adam", "weight_decay": 0.05},
        {"relaxation": "l1"},
        {"relaxation": "l2", "optimizer": "adam"},
        {"train_width": 255},
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", [1, 2])
def test_steps_equal_those_of_numpy(choice: dict[str, Any], threads: int) -> None:
    setting = Setting(width=90, leak=1.0, beta=1.5, relaxation=choice.get("relaxation", "graded"))
    options = options_of(setting, **{k: v for k, v in choice.items() if k != "relaxation"})
    x, y, lower, upper = problem(5, n_samples=40)
    trainer = trainer_of(options, lower, upper, threads)
    oracle = Oracle(options, [lower, upper])
    rate = 0.01 if options.optimizer == "adam" else 0.3
    for step in range(12):
        rows = np.arange(40)[step % 3 :: 3]
        batch = x[rows], y[rows]
        gradient = integer_gradient(trainer, *batch)
        scale = 255 * options.unit / FIXED_POINT
        oracle.step((gradient[0] * scale, gradient[1] * scale), len(rows), rate)
        trainer.step(batch[0], batch[1], rate)
        for side in range(2):
            master = masters_of(trainer)[side]
            assert master.dtype == np.float32
            np.testing.assert_allclose(master, oracle.bounds[side], rtol=0, atol=2e-4)
            codes = trainer.table.bounds()[side]
            np.testing.assert_array_equal(codes, reference.rounded(master))
        oracle.bounds = [bound.copy() for bound in masters_of(trainer)]
    assert not np.array_equal(trainer.table.bounds()[0], lower)


def test_crossed_boxes_meet_and_bounds_stay_codes() -> None:
    lower = np.array([[10.25, -40.0, 300.0, 7.5, 99.75]] * 6, np.float32)
    upper = np.array([[20.5, 270.0, 290.0, 2.0, 100.0]] * 6, np.float32)
    trainer = trainer_of(options_of(Setting()), lower, upper)
    assert masters_of(trainer)[0][0].tolist() == [10.25, 0.0, 255.0, 4.75, 99.75]
    assert masters_of(trainer)[1][0].tolist() == [20.5, 255.0, 255.0, 4.75, 100.0]
    assert trainer.table.bounds()[0][0].tolist() == [10, 0, 255, 5, 100]
    assert trainer.table.bounds()[1][0].tolist() == [21, 255, 255, 5, 100]


def test_codes_follow_from_the_stored_masters() -> None:
    """A midpoint that float32 cannot hold must not give other codes after a checkpoint."""
    ulp = np.float32(2.0**-17)
    lower = np.full((6, 1), np.float32(102.5), np.float32)
    upper = np.full((6, 1), np.float32(100.5) - ulp, np.float32)
    trainer = trainer_of(options_of(Setting()), lower, upper)
    before = [codes.copy() for codes in trainer.table.bounds()]
    np.testing.assert_array_equal(before[0], reference.rounded(masters_of(trainer)[0]))
    trainer.restore(trainer.state())
    for codes, restored in zip(before, trainer.table.bounds(), strict=True):
        np.testing.assert_array_equal(codes, restored)


def test_only_touched_boxes_move() -> None:
    setting = Setting(softmin="hard", width=255, beta=1e6)
    x, y, lower, upper = problem(7)
    x, y = x[:1], y[:1]
    trainer = trainer_of(options_of(setting), lower, upper)
    before = masters_of(trainer)
    entries, _, _ = trainer.entries(x, y)
    trainer.step(x, y, 1.0)
    moved = [(a != b).any(axis=1) for a, b in zip(before, masters_of(trainer), strict=True)]
    assert set(np.flatnonzero(moved[0] | moved[1])) <= set(entries.boxes.tolist())
    assert 0 < (moved[0] | moved[1]).sum() < len(LABELS)
