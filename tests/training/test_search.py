"""Search of options: what it finds, that it is the same everywhere, and what is settled."""

from __future__ import annotations

import re
import time
import warnings
from argparse import Namespace
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest

from boxnn_numba import BoxNNClassifier, fit, load_model
from boxnn_numba.certificates.pairwise import pairwise_radius
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.errors import InterruptedRunError, OptionError
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.run import EpochRecord, Training
from boxnn_numba.training.search import (
    CANDIDATES,
    RADII,
    Chosen,
    Round,
    Trial,
    _Attempt,
    _Data,
    _kept,
    _make,
    _split,
    search,
)
from boxnn_numba.training.selection import validation_split
from boxnn_numba.training.weights import row_weights

SMALL: dict[str, Any] = {"effort": 0.2}


def table(rows: int = 400, rare: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Ten columns, each of which says a little of two classes."""
    rng = np.random.default_rng(1)
    y = (rng.random(rows) < rare).astype(np.int32)
    x = np.clip(rng.normal(100, 30, (rows, 10)) + 45 * y[:, None], 0, 255).astype(np.uint8)
    return x, y


def found(threads: int = 1, rare: float = 0.5, **given: Any) -> tuple[Chosen, list[Trial]]:
    x, y = table(rare=rare)
    weights = row_weights(y, [0, 1], "balanced")
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0, weights=weights)
    trials: list[Trial] = []
    chosen = search(feed, 2, given, threads=threads, on_trial=trials.append, **SMALL)
    return chosen, trials


def test_a_batch_of_more_than_the_rows_asks_for_no_more_epochs() -> None:
    whole, larger = (found(batch=batch)[0].options.epochs for batch in (400, 10**9))
    assert whole == larger


def test_the_same_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxnn_numba.training.search._WORTH_THREADS", 0)
    (one, trials), (two, others) = found(), found(threads=2)
    assert one.options == two.options
    assert [str(trial) for trial in trials] == [str(trial) for trial in others]


def test_a_class_that_is_given_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxnn_numba.training.search.CANDIDATES", CANDIDATES[:2])
    x, y = table(rows=600)
    y[::4] = 2  # rows like all others
    with pytest.warns(UserWarning, match=r"class 2 was given up: \d+% of its validation samples"):
        fit(x, y, preset="auto")
    made = train(x, tmp_path / "m.zarr", y=y, preset="auto")
    assert made.warnings[0].startswith("class 2 was given up") and len(made.warnings) == 1
    assert "class_weight" in made.warnings[0]
    assert set(made.validation.values()) == {None}
    # What was held out of the run itself says more.
    made = train(x, tmp_path / "n.zarr", y=y, preset="auto", validation=0.25)
    assert all("raise `keep`" in sentence for sentence in made.warnings)
    # A class without weight is not meant to be predicted.
    again = {"preset": "auto", "class_weight": {0: 1, 1: 1, 2: 0}}
    assert train(x, tmp_path / "o.zarr", y=y, **again).warnings == []


@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_the_classifier_tells_of_a_class_that_is_given_up_if_asked_to(
    validation: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def given_up(x: np.ndarray, y: np.ndarray, **more: Any) -> tuple[BoxNNClassifier, list[str]]:
        fitted = BoxNNClassifier(validation=validation, verbose=1, **SMALL, **more).fit(x, y)
        lines = capsys.readouterr().out.splitlines()
        return fitted, [line for line in lines if "was given up" in line]

    monkeypatch.setattr("boxnn_numba.training.search.CANDIDATES", CANDIDATES[:2])
    x, y = table(rows=1200)
    y[::10] = 2  # rows like all others
    again, (line,) = given_up(x, y)
    assert line.startswith("class 2 was given up: 0% of its")
    if validation:
        held = validation_split(y, validation, 0)[1]
        assert (again.predict(x[held[y[held] == 2]]) != 2).all()
    # Without weight it is not meant to be predicted.
    assert given_up(x, y, class_weight={0: 1, 1: 1, 2: 0})[1] == []
    # Nobody knows what of few held-out rows.
    few = np.r_[np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:30]]
    assert given_up(x[few], y[few])[1] == []


@pytest.mark.parametrize("members", [1, 2])
def test_validation_counts_fitted_offsets(members: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    y = (rng.random(600) < 0.4).astype(np.int32)
    x = np.clip(rng.normal(100, 30, (600, 10)) + 15 * y[:, None], 0, 255).astype(np.uint8)
    given = {"offsets": "fitted", "validation": 0.4, "boxes": 6, "epochs": 1}
    made = train(x, tmp_path / "m", y=y, preset="graded", members=members, **given)
    model, held = load_model(tmp_path / "m"), validation_split(y, 0.4, 0)[1]
    right = model.predict(x[held]) == y[held]
    assert made.validation["accuracy"] == right.mean()
    without = replace(model, offset=None)
    assert (without.predict(x[held]) == y[held]).mean() != right.mean()


def test_rounds_halve_and_the_best_is_taken() -> None:
    chosen, trials = found()
    first, second = ([t for t in trials if t.round == r] for r in (0, 1))
    assert len(first) > len(second) > 1
    assert all(len(trial.accuracy) == len(RADII) for trial in trials)
    assert all(sorted(t.accuracy, reverse=True) == [*t.accuracy] for t in trials)
    assert chosen.trial in second and chosen.trial is not None
    for name in ("width", "beta", "tau", "boxes", "parts", "lr"):
        assert getattr(chosen.options, name) == getattr(chosen.trial.options, name)
    assert chosen.trial.scores.shape == (len(chosen.trial.labels), 2)


def test_accurate_trials_go_on_beside_the_best() -> None:
    one = found()[1][0]
    figures = [(0.9, 0.1), (0.8, 0.7), (0.7, 0.7), (0.95, 0.0), (0.85, 0.3)]
    trials = [replace(one, accuracy=(*pair, 0.0, 0.0)) for pair in figures]
    trials.sort(key=lambda trial: -trial.score)
    went_on = [trial.accuracy[:2] for trial in _kept(trials, 4, None)]
    assert went_on == [(0.8, 0.7), (0.7, 0.7), (0.85, 0.3), (0.95, 0.0)]
    assert _kept(trials, 4, (1, 2)) == trials[:4]
    assert _kept(trials, 1, None) == trials[:1]


def test_the_last_round_compares_offsets_of_the_same_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[TrainingOptions] = []

    class Counted(Training):
        def __init__(self, options: TrainingOptions, *more: Any) -> None:
            trained.append(options)
            super().__init__(options, *more)

    monkeypatch.setattr("boxnn_numba.training.search.Training", Counted)
    chosen, trials = found(rare=0.05)
    last = [trial for trial in trials if trial.round == 1]
    assert {options.offsets for options in trained} == {"fitted"}  # no training of its own
    assert [trial.options.offsets for trial in last] == ["fitted", "none"] * (len(last) // 2)
    assert all(trial.options.offsets == "fitted" for trial in trials if trial.round == 0)
    assert chosen.options.offsets == max(last, key=lambda trial: trial.score).options.offsets
    for settled in ("fitted", "none"):
        chosen, trials = found(offsets=settled)
        assert {trial.options.offsets for trial in trials} == {chosen.options.offsets} == {settled}


def test_one_candidate_is_tried_for_its_offsets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxnn_numba.training.search.CANDIDATES", CANDIDATES[:1])
    chosen, trials = found()
    assert [(trial.round, trial.options.offsets) for trial in trials] == [
        (1, "fitted"),
        (1, "none"),
    ]
    assert chosen.trial in trials
    assert found(offsets="none") == (Chosen(found(offsets="none")[0].options, None), [])


def test_clips_above_the_columns_are_tried_once() -> None:
    x, y = table()
    x, trials = np.ascontiguousarray(x[:, :6]), []
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    search(feed, 2, {}, on_trial=trials.append, **SMALL)
    clips = [trial.options.beta for trial in trials if trial.round == 0]
    assert max(clips) == 6 and len(clips) < len(CANDIDATES)


def test_wanted_radii_are_what_counts() -> None:
    x, y = table(1000)
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    near, far = (search(feed, 2, {}, radii=radii, **SMALL).trial for radii in ((0,), (3, 4)))
    assert near is not None and far is not None and (near.radii, far.radii) == ((0,), (3, 4))
    assert near.score == near.accuracy[0] == pytest.approx(near.recall, abs=0.02)
    assert far.score == np.mean(far.accuracy) and far.recall <= near.recall
    # More than is certified by boxes that are chosen for accuracy.
    prediction, radius = pairwise_radius(BoxNNClassifier(radii=(0,), **SMALL).fit(x, y).model_, x)
    assert far.accuracy[0] > np.mean((prediction == y) & (radius >= 3))


@pytest.mark.parametrize("radii", [(), (-1,), (11,), (0.5,), "1", [1, [2, 3]], np.arange(60)])
def test_radii_that_cannot_be_wanted(radii: Any) -> None:
    x, y = table(100)
    with pytest.raises(OptionError, match=r"^radii are") as caught:
        BoxNNClassifier(radii=radii).fit(x, y)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 120


def test_radii_above_the_columns_are_refused_before_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = table(100)
    write_dataset(tmp_path / "d", name="d", classes=[0, 1], train=(x, y), test=(x, y))

    def read(*_: Any) -> Any:
        raise AssertionError("rows were read")

    monkeypatch.setattr("boxnn_numba.data.dataset.Dataset.read_chunk", read)
    message = r"^radii are \[1, 11\]; none can be above the 10 columns$"
    with pytest.raises(OptionError, match=message):
        train(tmp_path / "d", tmp_path / "m", radii=[1, 11])
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    with pytest.raises(AssertionError, match="rows were read"):
        train(tmp_path / "d", tmp_path / "m", radii=[1, 10])
    dask = pytest.importorskip("dask.array")
    lazy = dask.from_array(x, chunks=(10, 10)).map_blocks(read, dtype=x.dtype, meta=x[:0])
    with pytest.raises(OptionError, match=message):
        BoxNNClassifier(radii=[1, 11]).fit(lazy, y)


def test_radii_are_for_the_search(tmp_path: Any) -> None:
    x, y = table(100)
    with pytest.raises(OptionError, match="the preset is graded; leave them out"):
        BoxNNClassifier("graded", radii=(1,)).fit(x, y)
    with pytest.raises(OptionError, match="the preset is graded; leave them out"):
        train(x, tmp_path / "m", y=y, preset="graded", radii=(1,))
    with pytest.raises(OptionError, match="`radii` is passed beside `options`"):
        train(x, tmp_path / "m", TrainingOptions(), y=y, radii=(1,))
    assert not [*tmp_path.iterdir()]


def test_a_run_is_resumed_with_its_own_radii(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_search: None
) -> None:
    x, y = table(100)
    run_epoch = Training.run_epoch

    def stopped(run: Training, *progress: Any) -> EpochRecord:
        if progress and run.epoch:  # of the last training: the search shows none
            raise KeyboardInterrupt
        return run_epoch(run, *progress)

    how: dict[str, Any] = {"y": y, "effort": 0.2, "epochs": 2, "checkpoint_seconds": 0.0}
    monkeypatch.setattr(Training, "run_epoch", stopped)
    with pytest.raises(InterruptedRunError):
        train(x, tmp_path / "m", radii=(1, 2), **how)
    monkeypatch.setattr(Training, "run_epoch", run_epoch)
    with pytest.raises(OptionError, match=r"has radii \[1, 2\], not \[0, 1, 2, 4\]"):
        train(x, tmp_path / "m", run=RunOptions(resume=True), **how)
    assert train(x, tmp_path / "m", radii=(1, 2), run=RunOptions(resume=True), **how).search


@pytest.mark.parametrize("signal", [0, 45])
def test_a_model_that_is_nearly_a_constant_is_told(signal: int) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = np.clip(rng.normal(100, 30, (400, 10)) + signal * y[:, None], 0, 255)
    told = "predict little better than one class for all.*and 50% by chance; pass smaller `radii`"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(x, y, preset="auto", effort=0.2, radii=(1, 2))
    found = [re.search(told, str(item.message)) is not None for item in caught]
    assert any(found) == (signal == 0)


def test_what_is_settled_stays() -> None:
    given = {"width": 33, "boxes": 14, "epochs": 3, "members": 2, "seed": 5, "parts": "2"}
    chosen, trials = found(**given)
    for options in (chosen.options, *(trial.options for trial in trials)):
        assert (options.width, options.boxes, options.seed, options.parts) == (33, 14, 5, "2")
    assert (chosen.options.epochs, chosen.options.members) == (3, 2)


def test_no_constant_is_chosen_without_weights() -> None:
    x, y = table(1500, 0.06)
    model = fit(x.astype(float), y, seed=1)
    prediction = model.predict(x.astype(float))
    assert (prediction[y == 1] == 1).mean() > 0.5 and (prediction == y).mean() > 0.93


def test_no_constant_is_chosen_for_a_rare_class() -> None:
    chosen, _ = found(rare=0.05)
    assert chosen.trial is not None and chosen.trial.accuracy[0] > 0.7


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_a_trial_stand_for_all_of_their_class(weighted: bool) -> None:
    """Rare classes keep more of their rows, which then have to count less."""
    y = np.repeat([0, 1, 2], [5000, 300, 60]).astype(np.int32)
    x = np.random.default_rng(0).integers(0, 256, (len(y), 3), dtype=np.uint8)
    weights = row_weights(y, [0, 1, 2], "balanced") if weighted else None
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0, weights=weights)
    rows, held = _split(feed, 3, Round(1000, 80, 1, 200), [0])
    assert np.bincount(y[rows])[2] > 3 * 60 * len(rows) / len(y)
    data = _Data(feed, 3, RADII, rows, held)
    shares = np.full(3, 1 / 3) if weighted else np.bincount(y) / len(y)
    for labels, of_row in ((y[rows], data._feed.weights), (data.labels, data._count)):
        count = np.bincount(labels, of_row)
        np.testing.assert_allclose(count / count.sum(), shares, rtol=1e-6)


def test_rows_of_even_classes_weigh_nothing_of_their_own() -> None:
    x, y = table(400)
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    data = _Data(feed, 2, RADII, *_split(feed, 2, Round(1000, 80, 1, 200), [0]))
    assert data._feed.weights is None


def test_held_out_rows_do_not_know_the_order_of_categories() -> None:
    """Categories with a row or two are ordered by the very classes that are to be predicted."""
    rng = np.random.default_rng(0)
    columns = {f"c{k}": pd.Categorical(rng.integers(0, 240, 1000).astype(str)) for k in range(6)}
    y, chosen = rng.integers(0, 2, 1000), []
    model = BoxNNClassifier(effort=0.3, options={"relaxation": "graded"}, verbose=1)
    model._tell = chosen.append  # type: ignore[method-assign]
    model.fit(pd.DataFrame(columns), y)
    assert len(chosen) > 5
    assert all(trial.accuracy[0] < 0.62 for trial in chosen)  # 0.8 and more if they did


@pytest.mark.parametrize("rows", [2, 3, 5, 20])
def test_few_rows(rows: int) -> None:
    x, y = table(rows)
    y[:2] = 0, 1
    model = BoxNNClassifier(effort=0.1).fit(x.astype(float), y)
    assert (model.predict(x.astype(float)) == y).mean() >= 0.5


@pytest.mark.usefixtures("short_search")
def test_command_and_fit_find_the_same(tmp_path: Any) -> None:
    x, y = table(120)
    split = x.astype(np.float32), y
    write_dataset(tmp_path / "d", name="d", classes=[0, 1], train=split, test=split)
    given = {"seed": 3, "boxes": 8}
    found = train(tmp_path / "d", tmp_path / "m", **given)
    stored, fitted = load_model(tmp_path / "m"), fit(split[0], y, **given)
    assert found.search is not None and found.search["radii"] == list(RADII)
    assert len(stored.box_sets) == found.members > 1
    for one, other in zip(stored.box_sets, fitted.box_sets, strict=True):
        np.testing.assert_array_equal(one.lower, other.lower)
        np.testing.assert_array_equal(one.upper, other.upper)
    assert stored.training["options"] == fitted.training["options"]


def test_fit_takes_effort_and_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = table(120)
    seen: dict[str, Any] = {}

    def spy(*arguments: Any, **how: Any) -> Any:
        seen.update(how)
        return search(*arguments, **how)

    monkeypatch.setattr("boxnn_numba.training.fit.search", spy)
    fit(x.astype(np.float32), y, preset="auto", effort=0.5, radii=(1, 2), seed=3, boxes=8)
    assert (seen["effort"], seen["radii"]) == (0.5, (1, 2))
    with pytest.raises(OptionError, match="the preset is graded; leave them out"):
        fit(x, y, preset="graded", radii=(1,))
    with pytest.raises(OptionError, match="the preset is graded; leave them out"):
        fit(np.zeros((4, 3, 3), np.uint8), [0, 1, 0, 1], radii=(1,))  # the default for images
    with pytest.raises(OptionError, match="none can be above the 10 columns"):
        fit(x, y, preset="auto", radii=(1, 11))


def test_images_have_presets_of_their_own() -> None:
    with pytest.raises(OptionError, match="preset auto is for tables, and these are images"):
        fit(np.zeros((9, 4, 4), np.uint8), np.arange(9) % 2, preset="auto")


def test_other_relaxations_have_plain_boxes() -> None:
    _, trials = found(relaxation="l1", lr=0.002)
    assert trials and all(trial.options.parts == "1" for trial in trials)


def test_what_runs_when_interrupted_ends_before_its_next_epoch() -> None:
    x, y = table(60)
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    data = _Data(feed, 2, RADII, np.arange(40), np.arange(40, 60))
    data.stop.set()
    attempt = _Attempt([TrainingOptions(boxes=4)], data, Round(40, 10**9, 1, 20), 1.0)
    run = data.train(attempt.members[0])
    assert run is not None and run.epoch == 0  # and not after years
    attempt.train(0)
    assert not attempt.outcomes


def test_what_waits_when_one_fails_is_not_begun() -> None:
    begun: list[int] = []

    class Failing:
        """Stands for an attempt."""

        variants, members, data = [None], range(50), Namespace(stop=Event())

        def train(self, number: int) -> None:
            begun.append(number)
            time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _make([Failing()], 2, defaultdict(float))  # type: ignore[list-item]
    assert Failing.data.stop.is_set() and len(begun) < 10


def test_trained_boxes_are_not_kept() -> None:
    x, y = table(60)
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    data = _Data(feed, 2, RADII, np.arange(40), np.arange(40, 60))
    attempt = _Attempt([TrainingOptions(boxes=4)], data, Round(40, 2, 2, 20), 1.0)
    for number in (1, 0):
        attempt.train(number)
    ((accuracy, _),) = attempt.outcomes
    assert len(accuracy) == len(RADII) and not attempt._runs
