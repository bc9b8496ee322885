"""A run that trains objective clip first and aims at its target afterwards."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.cli_runs import TRAIN, Run

from boxnn_numba import fit
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.errors import DivergenceError, OptionError
from boxnn_numba.kernels import formulas
from boxnn_numba.training import search
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.problem import FIXED_POINT
from boxnn_numba.training.result import trained_model
from boxnn_numba.training.run import Training
from boxnn_numba.training.search import training_warnings
from boxnn_numba.training.selection import given_up

CHOICE: dict[str, Any] = {"boxes": 12, "batch": 50, "beta": 6.0, "lr": 0.3}
TARGET: dict[str, Any] = {"objective": "target", "radius": 3, "warmup": 0.4, "epochs": 5}


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Return codes in three overlapping clusters, 240 samples of 20 features."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    centres = rng.integers(50, 206, (3, 20))
    return np.clip(centres[y] + rng.integers(-70, 71, (240, 20)), 0, 255).astype(np.uint8), y


def run_of(**options: Any) -> Training:
    x, y = samples()
    feed = Feed.from_arrays(x[24:], y[24:], (x[:24], y[:24]), 0)
    return Training(TrainingOptions(**{**CHOICE, **options}), feed, 3, get_backend("cpu", 1))


def test_the_warmup_is_a_run_of_clip() -> None:
    run, clip = run_of(**TARGET), run_of(objective="clip", epochs=2)
    for _ in range(2):
        run.run_epoch()
        clip.run_epoch()
        np.testing.assert_array_equal(run.codes(), clip.codes())
    assert run.problem.objective.kind == formulas.CLIP
    run.run_epoch()
    assert run.problem.objective == (formulas.TARGET, 6.0, 12.0, 0.0)


def test_the_rest_is_a_run_of_target_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(**TARGET)
    run.run_epoch()
    run.run_epoch()
    other = run_of(objective="target", radius=3, epochs=3)
    other.trainer.restore(run.trainer.state())
    batches = list(run.trainer.batches(run._feed, 2, 50))
    monkeypatch.setattr(other.trainer, "batches", lambda feed, epoch, size: iter(batches))
    other.run_epoch()
    run.run_epoch()
    np.testing.assert_array_equal(run.codes(), other.codes())


@pytest.mark.parametrize("stop", [(1, 3), (2, 0), (3, 1)])
def test_a_run_resumes_in_either_part(
    stop: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, steps = stop
    whole, run = run_of(**TARGET), run_of(**TARGET)
    while whole.epoch < 5:
        whole.run_epoch()

    def after_step() -> None:
        if run.epoch == epochs and run.step == steps:
            raise InterruptedError

    with monkeypatch.context() as patch:  # a step at a time, and the rest is in the middle
        patch.setattr("boxnn_numba.training.cpu_trainer._MOST_STEPS", 1)
        while run.epoch < epochs:
            run.run_epoch()
        if steps:
            with pytest.raises(InterruptedError):
                run.run_epoch(after_step=after_step)
    assert run.step == steps
    arrays, values = run.state()
    again = run_of(**TARGET)
    again.restore(arrays, values)
    while again.epoch < 5:
        again.run_epoch()
    np.testing.assert_array_equal(again.best, whole.best)
    assert [record.score for record in again.history] == [record.score for record in whole.history]


def test_the_clip_is_found_from_the_data() -> None:
    x, y = samples()
    choice = {**CHOICE, "beta": 0.0}
    found = fit(x, y, preset="target", radius=2, warmup=0.5, epochs=2, **choice).training["options"]
    assert (
        found["beta"]
        == fit(x, y, preset="graded", epochs=1, **choice).training["options"]["beta"]
        > 0
    )
    assert (found["objective"], found["warmup"]) == ("target", 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "clip", "warmup": 0.2}, "the objective is clip; pass `warmup` 0"),
        ({**TARGET, "warmup": -1}, "warmup"),
    ],
)
def test_warmups_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingOptions(**options)


def test_a_class_that_is_given_up_is_named() -> None:
    x, y = samples()
    held = x[:66].copy()
    held[y[:66] == 2] = held[y[:66] == 0]  # as if all of them looked like another class
    feed = Feed.from_arrays(x[66:], y[66:], (held, y[:66]), 0)
    run = Training(TrainingOptions(**{**CHOICE, "epochs": 1}), feed, 3, get_backend("cpu", 1))
    run.run_epoch()
    model = trained_model([run], ["a", "b", "c"], None, (20,), {})
    right = (model.predict(held) == np.array(["a", "b", "c"])[y[:66]])[y[:66] == 2].mean()
    (sentence,) = training_warnings(run.outcome, ["a", "b", "c"], None)
    assert sentence.startswith(
        f"class c was given up: {100 * right:.0f}% of its validation samples are predicted right"
    )
    assert given_up(run.outcome.recall) == {2: right}


def unequal(recall: float) -> Training:
    """A run whose target gives up the third class, which is near the first one."""
    rng = np.random.default_rng(3)
    y = np.arange(600) % 3
    centres = np.array([60, 190, 95])[y][:, None]
    x = np.clip(centres + rng.integers(-60, 61, (600, 20)), 0, 255).astype(np.uint8)
    feed = Feed.from_arrays(x[300:], y[300:], (x[:300], y[:300]), 0)
    aim = {"objective": "target", "radius": 3, "sharpness": 3.0, "epochs": 12, "recall": recall}
    options = TrainingOptions(**{**CHOICE, **aim, "lr": 0.1, "width": 32})
    return Training(options, feed, 3, get_backend("cpu", 1))


def test_a_class_is_kept_by_its_weight() -> None:
    runs = unequal(0.0), unequal(0.8)
    for run in runs:
        while run.epoch < 12:
            run.run_epoch()
    without, kept = ([*map(float, run._recall)] for run in runs)
    assert without[2] < 0.1 < 0.4 < kept[2] and min(kept[:2]) > 0.9
    weights = [run.state()[1]["class_weights"] for run in runs]
    assert weights == [[1, 1, 1], [1, 1, 2]]


def test_weights_of_classes_are_resumed() -> None:
    whole, run = unequal(0.8), unequal(0.8)
    while whole.epoch < 8:
        whole.run_epoch()
    while run.epoch < 5:
        run.run_epoch()
    arrays, values = run.state()
    assert max(values["class_weights"]) > 1
    again = unequal(0.8)
    again.restore(arrays, json.loads(json.dumps(values)))
    while again.epoch < 8:
        again.run_epoch()
    np.testing.assert_array_equal(again.codes(), whole.codes())


def test_the_command_says_so_in_one_line(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "given_up", lambda recall: {1: 0.1})
    code, out, err = boxnn(*TRAIN)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("warning: class 5 was given up: 10% of its validation")


def test_steps_of_crowded_boxes_are_scaled_down() -> None:
    x, y = samples()
    moved, masses = [], np.zeros(12)
    for crowd in (0.0, 1e6, 40.0):
        run = run_of(lr=0.5, crowd=crowd, objective="clip")
        before = np.stack(run.trainer.state()["master_lower"])
        entries, _, _ = run.trainer.entries(x, y)
        masses = np.bincount(entries.boxes, np.abs(entries.coefficients), 12) / FIXED_POINT
        run.trainer.step(x, y.astype(np.int32), 0.01)
        moved.append(run.trainer.state()["master_lower"] - before)
    assert masses.min() < 40 < masses.max()
    np.testing.assert_array_equal(moved[0], moved[1])
    wanted = moved[0] * np.minimum(1, 40 / masses)[:, None]
    np.testing.assert_allclose(moved[2], wanted, rtol=0, atol=1e-4)
    assert np.abs(moved[0]).max() > 0.1


@pytest.mark.parametrize("lr", [30.0, 100.0])
def test_a_run_that_would_diverge_does_not_with_a_limit(lr: float) -> None:
    steep = {"preset": "graded", "boxes": 12, "batch": 240, "epochs": 8, "lr": lr}
    with pytest.raises(DivergenceError):
        fit(*samples(), **steep)
    scores = [record["score"] for record in fit(*samples(), crowd=4, **steep).training["history"]]
    assert scores[-1] > 1.4 and min(scores) > 1


def test_aims_that_cannot_be() -> None:
    with pytest.raises(OptionError, match="`recall` is of held-out samples; pass `validation`"):
        TrainingOptions(recall=0.2, validation=0.0)
    with pytest.raises(OptionError, match="`radius` is 21, more than the 20 features"):
        run_of(**{**TARGET, "radius": 21})
