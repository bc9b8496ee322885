"""Additive training: gradients, bins and level sets against loops, and what it finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from boxnn_numba import BoxNNClassifier, certified_accuracy, fit
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates.pairwise import pairwise_radius
from boxnn_numba.errors import OptionError
from boxnn_numba.kernels import additive
from boxnn_numba.kernels.additive import ONE
from boxnn_numba.training.additive_trainer import Contributions
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import ADDITIVE, TrainingOptions
from boxnn_numba.training.result import trained_model
from boxnn_numba.training.run import EpochRecord, Training
from boxnn_numba.training.search import search

BINS, CLASSES = 8, 3


def feed(seed: int = 0, rows: int = 200) -> Feed:
    """Five columns that each say a little of three classes; the last one has three codes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, rows)
    x = np.clip(rng.normal(60 + 60 * y[:, None], 50, (rows, 5)), 0, 255).astype(np.uint8)
    x[:, 4] = rng.choice([0, 9, 200], rows)
    return Feed.from_arrays(x, y, (x[:40], y[:40].astype(np.int32)), 0)


def options(**more: Any) -> TrainingOptions:
    given = {"boxes": CLASSES * BINS // 2, "beta": 3.0, "optimizer": "adam", "lr": 0.1, "batch": 50}
    return TrainingOptions(**{**ADDITIVE, **given, "epochs": 4, "members": 4, **more})


def test_bins_have_about_as_many_rows_each() -> None:
    data = feed()
    found = Contributions(data, CLASSES, BINS)
    x = data.load(0)
    for k, bins in enumerate(found.bins):
        assert (np.diff(bins.astype(int)) >= 0).all()
        counts = np.bincount(bins[x[:, k]], minlength=BINS)
        if k < 4:
            assert counts.min() > 5 and counts.max() < 60
        else:  # fewer codes than bins: each its own, and what lies between goes to the nearest
            assert bins[[0, 4, 9, 104, 105, 255]].tolist() == [0, 0, 1, 1, 2, 2]
    assert found.table.min() >= 0 and found.table.max() <= ONE


def test_training_starts_alike_for_all_classes_but_those_that_hardly_count() -> None:
    """Not from the constant that weights of about 1 would make of the largest class."""
    x, y = feed().load(0), feed().labels
    for light, alike in ((1.001, True), (0.3, True), (1e-9, False)):
        weights = np.where(y == 1, light, 1.0)
        weighted = Feed.from_arrays(x, y, (x[:0], y[:0]), 0, weights=weights / weights.mean())
        table = Contributions(weighted, CLASSES, BINS).table
        assert np.array_equal(table, Contributions(feed(), CLASSES, BINS).table) == alike
        assert (table[1].min() > 0.999 * ONE) == (not alike)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("low", [-(2**40), 0])
def test_gradient_is_that_of_loops(low: int, compiled: bool) -> None:
    data = feed(rows=30)
    start = Contributions(data, CLASSES, BINS)
    x, y, bound = data.load(0), data.labels, ONE
    kernel = additive.measure_contributions
    gradient, margins = np.zeros_like(start.table), np.empty(30, np.int64)
    (kernel if compiled else kernel.py_func)(
        x, start.bins, start.table, y, low, bound, gradient, margins
    )
    expected = np.zeros_like(gradient)
    for i, row in enumerate(x):
        places = [int(start.bins[k, v]) for k, v in enumerate(row)]
        paid = [sum(int(of[k, b]) for k, b in enumerate(places)) for of in start.table]
        rival = min((c for c in range(CLASSES) if c != y[i]), key=lambda c: (paid[c], c))
        assert margins[i] == paid[rival] - paid[y[i]]
        if low < margins[i] < bound:
            for k, b in enumerate(places):
                expected[y[i], k, b] -= 1
                expected[rival, k, b] += 1
    np.testing.assert_array_equal(gradient, expected)
    assert 0 < ((margins > low) & (margins < bound)).sum() < 30


@pytest.mark.parametrize("compiled", [True, False])
def test_steps_are_those_of_adam_on_sums_over_whole_batches(compiled: bool) -> None:
    """A last batch of few samples counts as that few: the moments hardly change by it."""
    data = feed(rows=43)
    start = Contributions(data, CLASSES, BINS)
    x, y, bins = data.load(0), data.labels, start.bins
    ends, table, moments = [20, 40, 43], start.table.copy(), np.zeros((2, start.table.size))
    sizes = np.array([(0.1 / s, 1 / (1 - 0.9**s), 1 / (1 - 0.999**s)) for s in (1, 2, 3)])
    kernel = additive.train_contributions if compiled else additive.train_contributions.py_func
    kernel(
        x, bins, table, y, -(2**40), ONE, np.empty(43, np.int64), np.array(ends), moments, sizes,
        1 / 20,
    )  # fmt: skip
    expected, first, second = start.table / ONE, 0.0, 0.0
    for begin, end, step in zip([0, 20, 40], ends, (1, 2, 3), strict=True):
        gradient, margins = np.zeros_like(table), np.empty(end - begin, np.int64)
        now = np.rint(expected * ONE).astype(np.int32)
        additive.measure_contributions(
            x[begin:end], bins, now, y[begin:end], -(2**40), ONE, gradient, margins
        )
        first = 0.9 * first + 0.1 * gradient / 20
        second = 0.999 * second + 0.001 * (gradient / 20) ** 2
        moved = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        expected = np.clip(expected + 0.1 / step * moved, 0, 1)
    np.testing.assert_allclose(table / ONE, expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_level_sets_are_what_pays_at_most_the_cut_beyond_the_least(compiled: bool) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, ONE + 1, (2, 3, BINS)).astype(np.int32)
    bins = np.sort(rng.integers(0, BINS, (3, 256)), axis=1).astype(np.uint8)
    lower, upper = np.empty((2, 3, 2 * BINS // 2, 3), np.uint8)
    kernel = additive.level_sets
    cuts, constant = np.array([ONE // 3, ONE // 20, ONE]), np.full(2, 7)
    (kernel if compiled else kernel.py_func)(table, bins, cuts, lower, upper, constant)
    for c in range(2):
        assert constant[c] == sum(table[c, k, bins[k]].min() for k in range(3))
    for s, c, k in np.ndindex(3, 2, 3):
        rows = slice(c * BINS // 2, (c + 1) * BINS // 2)
        codes = np.arange(256)[:, None]
        inside = ((codes >= lower[s, rows, k]) & (codes <= upper[s, rows, k])).any(axis=1)
        entries = table[c, k, bins[k]]
        np.testing.assert_array_equal(inside, entries <= cuts[s] + entries.min())


def test_sets_of_boxes_add_up_to_the_contributions() -> None:
    data = feed()
    run = Training(options(), data, CLASSES, get_backend("cpu", 1))
    run.run_epoch()
    table, bins = run.trainer.state()["contributions"], Contributions(data, CLASSES, BINS).bins
    x = data.load(0)[:40]
    distance, _ = run.held_out_distances()
    paid, constant = np.zeros((40, CLASSES), int), np.zeros(CLASSES, int)
    for c in range(CLASSES):
        for k in range(5):
            entries = table[c, k, bins[k]]
            constant[c] += entries.min()
            for cut in (1, 3, 5, 7):
                paid[:, c] += entries[x[:, k]] - entries.min() > cut * ONE // 8
    offset = (8 * constant + ONE) // (2 * ONE)
    offset -= offset.min()
    assert offset.any()
    np.testing.assert_array_equal(distance, paid + offset)
    # That is what training added up, but for rounding: to a quarter in each column, and the rest.
    exact = np.stack([sum(table[c, k, bins[k, x[:, k]]] for k in range(5)) for c in range(CLASSES)])
    far = (distance / 4)[:, 1:] - distance[:, :1] / 4 - (exact[1:] - exact[0]).T / ONE
    assert np.abs(far).max() <= 2 * 5 / 8 + 1 / 4
    model = trained_model([run], [*range(CLASSES)], None, x.shape[1:], {})
    np.testing.assert_array_equal(model.offset, offset)
    np.testing.assert_array_equal(model.class_distance(x), distance)


def test_it_resumes_to_the_same_bits() -> None:
    whole = Training(options(), feed(), CLASSES, get_backend("cpu", 1))
    part = Training(options(), feed(), CLASSES, get_backend("cpu", 1))
    while whole.epoch < 4:
        whole.run_epoch()
    part.run_epoch()
    again = Training(options(), feed(), CLASSES, get_backend("cpu", 2))
    again.restore(*part.state())
    while again.epoch < 4:
        again.run_epoch()
    for one, other in zip(whole.best, again.best, strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_in_one_call_are_those_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for steps in (1, 3, 64):
        monkeypatch.setattr("boxnn_numba.training.additive_trainer._STEPS", steps)
        run = Training(options(batch=70), feed(), CLASSES, get_backend("cpu", 1))
        while run.epoch < run.options.epochs:
            run.run_epoch()
        told = [replace(record, seconds=0.0) for record in run.history]
        runs.append((run.trainer.state(), told))
    for state, told in runs[1:]:
        assert told == runs[0][1]
        for name, array in state.items():
            np.testing.assert_array_equal(array, runs[0][0][name])


@pytest.mark.parametrize("more", [{}, {"objective": "target", "radius": 1, "warmup": 0.4}])
def test_epochs_in_one_call_are_those_one_by_one(more: dict[str, Any]) -> None:
    x, y = feed().load(0), feed().labels
    weights = np.random.default_rng(0).uniform(0.2, 1.8, len(y))
    data = Feed.from_arrays(x, y, (x[:0], y[:0]), 0, weights=weights)
    given = options(batch=70, epochs=50, validation=0.0, **more)
    one, several = (Training(given, data, CLASSES, get_backend("cpu", 1)) for _ in range(2))
    for _ in range(50):
        one.run_epoch()
    counts = []
    while several.epoch < 50:
        counts.append(len(several.run_next()))
    assert counts == [21, 21, 8] if not more else [20, 21, 9]
    told = [[replace(record, seconds=0.0) for record in run.history] for run in (one, several)]
    assert str(told[0]) == str(told[1])  # with figures that are not numbers
    assert one.best_epoch == several.best_epoch == 50
    for run in (one, several):
        np.testing.assert_array_equal(run.best, run.codes())
    for name, array in one.trainer.state().items():
        np.testing.assert_array_equal(array, several.trainer.state()[name])
    # What is watched is run epoch by epoch.
    assert len(Training(options(), feed(), CLASSES, get_backend("cpu", 1)).run_next()) == 1


def test_training_raises_margins_and_the_model_keeps_them() -> None:
    data = feed(rows=600)
    x, y = data.load(0).astype(float), data.labels
    records: list[EpochRecord] = []
    model = fit(
        x, y, preset="graded", relaxation="additive", boxes=12, members=4, beta=3.0, epochs=20,
        on_epoch=records.append,
    )  # fmt: skip
    assert records[-1].objective > records[0].objective > 0
    assert len(model.box_sets) == 4 and model.boxes.width == 1
    prediction, radius = model.certify(x, certificate="pairwise")
    assert np.where(prediction == y, radius, 0).mean() > 0.5


def test_a_target_gives_up_rows_that_are_wrong_after_the_warm_up() -> None:
    """On flipped labels: the clip loses radii to rows that are certainly wrong, the target not."""
    data = feed(rows=600)
    x, y = data.load(0), data.labels.copy()
    y[::4] = (y[::4] + 1) % CLASSES
    noisy = replace(data, labels=y)
    certified = {}
    for name, more in {"clip": {}, "target": {"radius": 2, "warmup": 0.5}}.items():
        given = options(objective=name, beta=4.0, epochs=30, validation=0.0, **more)
        run = Training(given, noisy, CLASSES, get_backend("cpu", 1))
        while run.epoch < 30:
            record = run.run_epoch()
        assert 0 < record.objective < 4
        model = trained_model([run], [*range(CLASSES)], None, x.shape[1:], {})
        certified[name] = np.mean(certified_accuracy(*pairwise_radius(model, x), y, [1, 2]))
    assert certified["target"] > certified["clip"] + 0.01


@pytest.mark.parametrize("name", ["width", "templates", "parts", "train_width", "objective"])
def test_what_does_not_go_with_it_is_refused(name: str) -> None:
    other = {"width": 2, "templates": 2, "parts": "1", "train_width": 9, "objective": "paper"}
    with pytest.raises(OptionError, match=f"needs `{name}`"):
        options(**{name: other[name]})


def test_columns_that_count_as_one_are_refused() -> None:
    with pytest.raises(OptionError, match="single columns"):
        x = np.tile(feed().load(0), (1, 2))
        fit(x, feed().labels, preset="graded", group_size=2, boxes=12, relaxation="additive")


@pytest.mark.parametrize(
    ("given", "kinds"),
    [({}, {"additive", "graded"}), ({"width": 3}, {"graded"}), ({"group_size": 5}, {"graded"}),
     ({"relaxation": "additive"}, {"additive"}), ({"objective": "clip"}, {"additive", "graded"}),
     ({"objective": "target", "radius": 2}, {"additive", "graded"})],
)  # fmt: skip
def test_the_search_tries_it_unless_options_rule_it_out(given: Any, kinds: set[str]) -> None:
    found: list[str] = []
    search(
        feed(), CLASSES, given, effort=0.05,
        on_trial=lambda trial: found.append(trial.options.relaxation),
    )  # fmt: skip
    assert {*found} == kinds


def test_a_classifier_of_them_explains_and_refuses_more_calls() -> None:
    data = feed()
    x, y = data.load(0).astype(float), data.labels
    classifier = BoxNNClassifier(options={"relaxation": "additive"}).fit(x, y)
    assert classifier.model_.training["options"]["relaxation"] == "additive"
    assert classifier.certify(x[:5]).dtype == np.int32
    assert len(classifier.explain(x[:1])) == 1
    with pytest.raises(OptionError, match="parts"):
        classifier.partial_fit(x, y)
