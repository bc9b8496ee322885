"""Training: options, determinism, validation, divergence, presets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxnn_numba import Boxes, BoxNN, certified_accuracy, fit, median_certified_radius
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.data.dataset import Dataset, open_dataset, write_dataset
from boxnn_numba.data.model_store import load_model
from boxnn_numba.errors import DataError, DivergenceError, InputError, OptionError
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.data import Arrays
from boxnn_numba.training.initial_boxes import initial_boxes
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import (
    INITIALISATIONS,
    OBJECTIVES,
    OPTIMIZERS,
    PRESETS,
    RELAXATIONS,
    SCHEDULES,
    SOFTMINS,
    TrainingOptions,
    resolve,
)
from boxnn_numba.training.run import EpochRecord, Training
from boxnn_numba.training.selection import validation_split

Split = tuple[np.ndarray, np.ndarray]


def clusters(n: int = 240, n_features: int = 20, n_classes: int = 3, seed: int = 0) -> Split:
    """Return codes in overlapping clusters and class indices."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    centres = rng.integers(50, 206, (n_classes, n_features))
    x = centres[y] + rng.integers(-70, 71, (n, n_features))
    return np.clip(x, 0, 255).astype(np.uint8), y


def run_of(options: dict[str, Any], threads: int = 1, data: Split | None = None) -> Training:
    settings = TrainingOptions(**{"boxes": 12, "epochs": 3, "batch": 50, "beta": 6.0, **options})
    x, y = clusters() if data is None else data
    rows, held = validation_split(y, settings.validation, settings.seed)
    feed = Feed.from_arrays(x[rows], y[rows], (x[held], y[held]), settings.seed)
    return Training(settings, feed, 3, get_backend("cpu", threads))


def in_memory(x: np.ndarray, y: np.ndarray) -> Feed:
    return Feed.from_arrays(x, y, (x[:0], y[:0]), 0)


def finished(run: Training) -> Training:
    while run.epoch < run.options.epochs:
        run.run_epoch()
    return run


def assert_same_state(one: Training, two: Training) -> None:
    arrays, values = one.state()
    others, plain = two.state()
    assert set(arrays) == set(others)
    for name, array in arrays.items():
        assert array.tobytes() == others[name].tobytes(), name
    for state in (values, plain):
        for record in state["history"]:
            record.pop("seconds")
    assert values == plain
    for mine, yours in zip(one.codes(), two.codes(), strict=True):
        np.testing.assert_array_equal(mine, yours)


RUNS: list[dict[str, Any]] = [
    {"lr": 0.2},
    {"lr": 0.2, "objective": "target", "radius": 2, "sharpness": 2.0, "softmin": "logsumexp"},
    {"lr": 0.01, "optimizer": "adam", "schedule": "cosine", "weight_decay": 0.01},
    {"lr": 0.1, "momentum": 0.5, "objective": "paper", "width": 1, "train_width": 255},
    {"lr": 0.05, "relaxation": "l2", "softmin": "mean", "validation": 0.0},
    {"lr": 0.05, "relaxation": "l1", "softmin": "hard", "initialisation": "random"},
    {"lr": 0.2, "parts": "4", "templates": 2, "group_size": 2},
]


@pytest.mark.parametrize("options", RUNS, ids=str)
def test_neither_threads_nor_steps_in_one_call_change_a_bit(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {**options, "batch": 70}
    with monkeypatch.context() as patch:
        patch.setattr("boxnn_numba.training.cpu_trainer._MOST_STEPS", 1)
        expected = finished(run_of(batch, 1))
    # Little room for entries at first; the last batch is smaller.
    monkeypatch.setattr("boxnn_numba.training.softmin_stages._ROOM", 1)
    for steps in (3, 64):
        monkeypatch.setattr("boxnn_numba.training.cpu_trainer._MOST_STEPS", steps)
        assert_same_state(finished(run_of(batch, 1)), expected)
    # Whatever the work is worth.
    monkeypatch.setattr("boxnn_numba.training.cpu_trainer._WORTH_THREADS", 0)
    monkeypatch.setattr("boxnn_numba.training.softmin_stages._WORTH_THREADS", 0)
    monkeypatch.setattr("boxnn_numba.training.cpu_trainer._MARGIN_ROWS", 77)
    for threads in (2, 3):
        assert_same_state(finished(run_of(batch, threads)), expected)


def test_same_seed_same_boxes_other_seed_others() -> None:
    bounds = [np.stack(finished(run_of({"lr": 0.2, "seed": seed})).best) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(bounds[0], bounds[1])
    assert (bounds[0] != bounds[2]).mean() > 0.5


@pytest.mark.parametrize("options", RUNS, ids=str)
def test_training_improves_on_the_initial_boxes(options: dict[str, Any]) -> None:
    run = finished(run_of({**options, "epochs": 6}))
    first, last = run.history[0], run.history[-1]
    assert last.objective > first.objective
    if options.get("validation") == 0.0:
        assert run.best_epoch == 6 and np.isnan(last.accuracy)
        assert last.median_certified_radius == -1
        assert last.as_dict()["median_certified_radius"] is None
    elif options.get("relaxation") is None:
        assert run.best_epoch > 0
        assert max(record.score for record in run.history) > 0
    assert (run.best[0] <= run.best[1]).all()


def test_the_best_epoch_is_kept() -> None:
    run = run_of({"lr": 0.2, "epochs": 8, "schedule": "constant"})
    scores, boxes = [], []
    start = run._validate().score
    while run.epoch < 8:
        scores.append(run.run_epoch().score)
        boxes.append(run.codes())
    best = int(np.argmax(scores))
    assert scores[best] > start
    assert run.best_epoch == best + 1
    for kept, expected in zip(run.best, boxes[best], strict=True):
        np.testing.assert_array_equal(kept, expected)


def test_validation_figures_are_those_of_the_model() -> None:
    run = finished(run_of({"lr": 0.2, "objective": "target", "radius": 2, "width": 90}))
    x, y = clusters()
    _, held = validation_split(y, 0.1, 0)
    lower, upper = run.codes()
    model = BoxNN(Boxes(lower, upper, run.labels, 90), [0, 1, 2])
    outcome = (*model.certify(x[held]), y[held])
    record = run.history[-1]
    assert record.accuracy == (outcome[0] == y[held]).mean()
    assert record.median_certified_radius == median_certified_radius(*outcome)
    assert record.score == certified_accuracy(*outcome, [2])[0]
    assert record.mean_certified_radius == np.where(outcome[0] == y[held], outcome[1], 0).mean()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate_over_time(schedule: str) -> None:
    run = run_of({"lr": 0.8, "schedule": schedule})
    expected = {
        "constant": [0.8, 0.8, 0.8],
        "linear": [0.8, 0.4, 0.0],
        "cosine": [0.8, 0.4, 0.0],
    }[schedule]
    assert [run.rate(done) for done in (0.0, 0.5, 1.0)] == pytest.approx(expected)


def test_sgd_moves_by_the_sum_over_the_batch() -> None:
    """Thrice the batch, the same rate: about the same boxes (design: the step scales with it).

    That holds up to a batch of as many samples as there are boxes.
    """
    small, large = (
        finished(run_of({"lr": 0.1, "batch": batch, "boxes": 60, "softmin": "mean"})).codes()
        for batch in (20, 60)
    )
    start = run_of({"boxes": 60}).codes()
    moved = np.abs(small[0].astype(int) - start[0]).mean()
    apart = np.abs(small[0].astype(int) - large[0]).mean()
    assert moved > 0.5 and apart < 0.2 * moved


# --- splits and initial boxes ---------------------------------------------------------------


def test_validation_split_is_stratified_disjoint_and_seeded() -> None:
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5], [100, 40, 9, 1]))
    rows, held = validation_split(y, 0.2, 7)
    assert sorted([*rows, *held]) == list(range(150))
    assert (np.diff(rows) > 0).all() and (np.diff(held) > 0).all()
    assert np.bincount(y[held], minlength=6).tolist() == [20, 8, 2, 0, 0, 0]
    again = validation_split(y, 0.2, 7)
    np.testing.assert_array_equal(held, again[1])
    assert not np.array_equal(held, validation_split(y, 0.2, 8)[1])
    assert len(validation_split(y, 0.0, 7)[1]) == 0
    assert set(y[validation_split(y, 0.9, 1)[0]]) == {0, 1, 2, 5}


def test_large_sets_of_images_hold_out_no_more_than_the_preset_says() -> None:
    options = resolve("graded", {}, "images")
    assert options.validation == 0.1 and options.validation_rows == 1800
    assert options.held_out(18_000) == options.held_out(10) == 0.1
    assert options.held_out(60_000) == 0.03
    asked = resolve("graded", {"validation": 0.2}, "images")
    assert asked.validation_rows == 0 and asked.held_out(60_000) == 0.2
    both = resolve("graded", {"validation": 0.2, "validation_rows": 30}, "images")
    assert both.held_out(60_000) == 30 / 60_000


def test_rows_that_are_held_out_are_at_most_so_many() -> None:
    x, y = np.zeros((300, 4), np.uint8), np.repeat([0, 1, 2], 100)
    with Arrays(x, y).opened() as data:
        feed, _ = data.feed(TrainingOptions(validation=0.5, validation_rows=30))
        assert sum(len(labels) for _, labels in feed.held_out()) == 30


def test_initial_boxes_are_centred_on_different_samples_of_their_class() -> None:
    x, y = clusters(90)
    options = TrainingOptions(boxes=14, alpha=0.1, seed=5)
    (lower, upper), labels = initial_boxes(in_memory(x, y), 3, options)
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 4 and labels.dtype == np.int32
    np.testing.assert_allclose(upper - lower, 51.0, atol=1e-4)
    centres = (lower + upper) / 2
    chosen = []
    for centre, label in zip(centres, labels, strict=True):
        matches = np.flatnonzero((np.abs(x - centre) < 1e-3).all(axis=1))
        assert len(matches) == 1 and y[matches[0]] == label
        chosen.append(matches[0])
    assert len(set(chosen)) == 14


def test_random_initial_boxes() -> None:
    x, y = clusters(90)
    options = TrainingOptions(boxes=14, alpha=0.2, initialisation="random")
    (lower, upper), labels = initial_boxes(in_memory(x[:3], y[:3]), 3, options)
    np.testing.assert_allclose(upper - lower, 102.0, atol=1e-4)
    centres = (lower + upper) / 2
    assert centres.min() >= 0 and centres.max() <= 255 and centres.std() > 60
    assert np.bincount(labels).tolist() == [5, 5, 4]


def test_more_boxes_than_samples_or_fewer_than_classes() -> None:
    x, y = clusters(30)
    seeds = initial_boxes(in_memory(x, y), 3, TrainingOptions(boxes=33))
    np.testing.assert_array_equal(seeds.counts(3), np.minimum(11, np.bincount(y)))
    with pytest.raises(OptionError, match="fewer than the 3 classes; pass at least 3"):
        initial_boxes(in_memory(x, y), 3, TrainingOptions(boxes=2))


# --- divergence ----------------------------------------------------------------------------


def test_divergence_is_noticed_and_the_best_boxes_kept(tmp_path: Path, tiny_dataset: Path) -> None:
    run = run_of({"lr": 0.05, "epochs": 50, "schedule": "constant", "width": 20})
    run.run_epoch()
    best = [side.copy() for side in run.best]
    object.__setattr__(run.options, "lr", 1e4)
    with pytest.raises(DivergenceError, match=r"diverged in epoch .* lower `lr`") as caught:
        finished(run)
    assert "\n" not in str(caught.value)
    for kept, before in zip(run.best, best, strict=True):
        np.testing.assert_array_equal(kept, before)
    with pytest.raises(DivergenceError, match="training diverged in epoch"):
        train(tiny_dataset, tmp_path / "m", TrainingOptions(boxes=6, lr=1e4, width=1, epochs=30))
    assert not (tmp_path / "m").exists()


# --- presets and choices -------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["codes", "real"])
def test_every_preset_runs(preset: str, kind: str) -> None:
    x, y = clusters(150, n_features=40)
    radius = {"radius": 2} if preset == "target" else {}
    if kind == "real":
        x = x.astype(np.float32) / 7
    model = fit(x, np.array(["a", "b", "c"])[y], preset=preset, boxes=9, epochs=2, **radius)
    assert (model.grid is None) == (kind == "codes")
    assert (model.predict(x) == np.array(["a", "b", "c"])[y]).mean() > 0.6
    assert model.training["preset"] == preset and len(model.training["history"]) == 2


def test_every_choice_runs() -> None:
    x, y = clusters(30, n_features=4)
    penalties = [name for name in RELAXATIONS if name != "additive"]  # those are on their own
    choices = itertools.product(OBJECTIVES, SOFTMINS, penalties, OPTIMIZERS, INITIALISATIONS)
    for objective, softmin, relaxation, optimizer, initialisation in choices:
        run = run_of(
            {
                "boxes": 4, "epochs": 1, "lr": 1e-3, "objective": objective, "softmin": softmin,
                "relaxation": relaxation, "optimizer": optimizer, "radius": 1,
                "initialisation": initialisation, "batch": 64, "validation": 0.0,
            },
            data=(x, y),
        )  # fmt: skip
        assert np.isfinite(run.run_epoch().objective)


def test_a_batch_larger_than_the_data() -> None:
    x, y = clusters(30, n_features=4)
    for batch in (30, 31, 10**9):
        model = fit(x, y, preset="graded", boxes=3, epochs=1, batch=batch, lr=0.1)
        assert len(model.boxes) == 3


def test_bad_data() -> None:
    x, y = clusters(30)
    with pytest.raises(InputError, match="y holds one class"):
        fit(x, np.zeros(30, int), boxes=2)
    with pytest.raises(InputError, match="29 labels for 30 rows"):
        fit(x, y[:29], boxes=3)
    with pytest.raises(InputError, match="is empty"):
        fit(x[:0], y[:0], boxes=3)
    wrong = x.astype(float)
    wrong[4, 2] = np.inf
    with pytest.raises(InputError, match="drop or fill infinite values first"):
        fit(wrong, y, boxes=3)
    with pytest.raises(OptionError, match="unknown device 'tpu'"):
        fit(x, y, boxes=3, device="tpu")
    with pytest.raises(OptionError, match="threads is 0"):
        get_backend("cpu", 0)


def test_settings_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXNN_NUM_THREADS", "3")
    assert get_backend("auto").threads == 3
    for wrong in ("0", "-2", "two", ""):
        monkeypatch.setenv("BOXNN_NUM_THREADS", wrong)
        with pytest.raises(OptionError, match="BOXNN_NUM_THREADS is") as caught:
            get_backend("auto")
        assert "\n" not in str(caught.value)
    monkeypatch.delenv("BOXNN_NUM_THREADS")
    assert get_backend("auto").threads >= 1


# --- the pipeline --------------------------------------------------------------------------


def test_pipeline_equals_fit(tiny_dataset: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"boxes": 6, "epochs": 2, "seed": 3, "lr": 0.3}
    settings = resolve("graded", options)
    train(tiny_dataset, tmp_path / "m.zip", settings)
    stored = load_model(tmp_path / "m.zip")
    dataset = open_dataset(tiny_dataset)
    x, y = dataset.read("train")
    model = fit(x, np.array(dataset.classes)[y], preset="graded", **options)
    np.testing.assert_array_equal(stored.boxes.lower, model.boxes.lower)
    np.testing.assert_array_equal(stored.boxes.upper, model.boxes.upper)
    assert stored.classes == model.classes == [3, 5, 8]
    assert stored.training["dataset_digest"] == dataset.digest
    assert stored.training["options"] == model.training["options"]


def test_test_split_is_not_read(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Dataset._read_part

    def only_train(self: Dataset, split: str, part: str, index: int) -> np.ndarray:
        assert split == "train"
        return read(self, split, part, index)

    monkeypatch.setattr(Dataset, "_read_part", only_train)
    train(tiny_dataset, tmp_path / "m", TrainingOptions(boxes=6, epochs=1))


def test_summary_is_of_the_epoch_that_was_kept(tiny_dataset: Path, tmp_path: Path) -> None:
    result = train(tiny_dataset, tmp_path / "m", TrainingOptions(boxes=6, epochs=4, lr=0.4))
    history = load_model(tmp_path / "m").training["history"]
    kept = [record for record in history if record["epoch"] == result.best_epoch]
    assert len(kept) == 1 and result.best_epoch >= 1
    for name, value in result.validation.items():
        assert value == kept[0][name]


def test_group_size_must_divide_the_features(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="`group_size` 5 does not divide the 12 features"):
        train(tiny_dataset, tmp_path / "m", TrainingOptions(boxes=6, group_size=5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.zarr"]


def test_datasets_that_cannot_be_trained_on(tmp_path: Path) -> None:
    x, y = clusters(20, n_features=4)
    some = x, np.minimum(y, 1).astype(np.int32)
    empty = some[0][:0], some[1][:0]
    write_dataset(tmp_path / "no_rows", name="a", classes=[0, 1], train=empty, test=some)
    zeros = x, np.zeros(20, np.int32)
    write_dataset(tmp_path / "one_class", name="a", classes=[0], train=zeros, test=zeros)
    for name in ("no_rows", "one_class"):
        with pytest.raises(DataError, match="needs training samples of at least two classes"):
            train(tmp_path / name, tmp_path / "m", TrainingOptions(boxes=2))
    assert not list(tmp_path.glob("m*"))


def test_members_are_told_one_after_the_other_whatever_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = clusters(1200)
    told: list[list[tuple[int, float]]] = []
    models = []
    for threads in (1, 2):
        monkeypatch.setenv("BOXNN_NUM_THREADS", str(threads))
        records: list[EpochRecord] = []
        given = {"boxes": 12, "epochs": 2, "batch": 50, "members": 3, "lr": 0.2}
        models.append(fit(x, y, preset="graded", device="cpu", on_epoch=records.append, **given))
        told.append([(record.epoch, record.margin) for record in records])
    assert [epoch for epoch, _ in told[0]] == [1, 2] * 3
    assert told[0] == told[1]
    for one, two in zip(models[0].box_sets, models[1].box_sets, strict=True):
        np.testing.assert_array_equal(one.lower, two.lower)


def test_offsets_of_classes_without_weight_follow_their_recall() -> None:
    rng, y = np.random.default_rng(0), np.arange(1200) % 3
    # Far enough from each other that half of every class can be told.
    x = rng.normal(0, 1, (1200, 12)) + 0.8 * np.eye(3)[y].repeat(4, 1)
    given = {"boxes": 6, "epochs": 2, "recall": 0.5, "validation": 0.3, "class_weight": "2=0"}
    model = fit(x, y, preset="graded", device="cpu", **given)
    assert model.offset[0] > 0 and model.offset[1] > 0 == model.offset[2]
    assert (model.predict(x)[y == 2] == 2).mean() > 0.45
