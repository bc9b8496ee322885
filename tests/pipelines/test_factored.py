"""Commands on a factored model with grouped pixels and class offsets, against plain loops."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli_runs import Run, failed
from support.factored_models import (
    SHAPE,
    WIDTH,
    certified,
    class_distances,
    factored_model,
    samples,
    write_samples,
)
from support.reference import part_distances

from boxnn_numba import Boxes, BoxNN, BoxNNClassifier, Grid, load_model, rivals, save_model
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.pipelines.figures.runs import load_runs
from boxnn_numba.pipelines.report import gallery, gallery_views


@pytest.fixture
def model() -> BoxNN:
    return factored_model()


@pytest.fixture
def made(run_boxnn: Run, model: BoxNN) -> Run:
    """Commands in a directory with `m.zarr`, `d.zarr` and `c.zarr`."""
    save_model(model, "m.zarr")
    write_samples(Path("d.zarr"), model)
    assert run_boxnn("certify", "m.zarr", "d.zarr", "--out", "c.zarr")[0] == 0
    return run_boxnn


def test_certify_evaluate_and_predict(made: Run, model: BoxNN) -> None:
    x, y = samples(model, 40, 1)
    distance = class_distances(model, x)
    prediction, radius = certified(model, distance)
    assert len(set(radius)) > 3 and max(radius) <= SHAPE[0] * SHAPE[1]
    file = open_certificate("c.zarr")
    np.testing.assert_array_equal(file.class_distance, distance)
    np.testing.assert_array_equal(file.prediction, prediction)
    np.testing.assert_array_equal(file.radius, radius)
    told = {name: file.attributes[name] for name in ("groups", "offset", "divisor", "width")}
    assert told == {"groups": 16, "offset": [0, 60, 20], "divisor": 2 * WIDTH, "width": WIDTH}
    assert (file.unit, file.groups) == ("pixels", 16)
    code, out, _ = made("evaluate", "c.zarr", "--radii", "0,2", "--json")
    found = json.loads(out)
    right = np.array(prediction) == y
    assert code == 0 and found["unit"] == "pixels"
    wanted = 100 * float((right & (np.array(radius) >= 2)).mean())
    assert found["certified_accuracy"]["2"] == pytest.approx(wanted)
    assert "radii in pixels" in made("evaluate", "c.zarr")[1]
    assert made("evaluate", "c.zarr", "--convention", "paper")[0] == 0
    np.save("x.npy", x.reshape(-1, *SHAPE))
    assert made("predict", "m.zarr", "x.npy", "--out", "p.csv")[0] == 0
    lines = Path("p.csv").read_text().split()[1:]
    assert lines == [f"{'abc'[p]},{r}" for p, r in zip(prediction, radius, strict=True)]


def test_ensembles_add_offsets_and_may_differ_in_parts(made: Run, model: BoxNN) -> None:
    other = factored_model(5, members=2, offset=(9, 0, 100))
    save_model(other, "o.zarr")
    assert made("ensemble", "m.zarr", "o.zarr", "--out", "e.zarr")[0] == 0
    joined, (x, _) = load_model("e.zarr"), samples(model, 30, 2)
    distance = class_distances(model, x) + class_distances(other, x)
    smallest = (distance - joined.class_distance(x)).ravel()
    assert smallest.min() == smallest.max() == 9  # offsets are kept with 0 as the smallest
    _, radius = certified(joined, distance)
    np.testing.assert_array_equal(joined.certify(x).radius, radius)
    assert len({boxes.structure.n_parts for boxes in joined.box_sets}) == 2
    save_model(BoxNN(plain(model), ["a", "b", "c"], feature_shape=SHAPE), "p.zarr")
    failed(made("ensemble", "m.zarr", "p.zarr", "--out", "f.zarr"), 2, "same groups of features")
    failed(made("ensemble", "m.zarr", "m.zarr", "--out", "f.zarr"), 2, "once")


def plain(model: BoxNN) -> Boxes:
    boxes = model.boxes
    return Boxes(boxes.lower, boxes.upper, boxes.labels, boxes.width, 3)


@pytest.mark.parametrize("members", [1, 2])
def test_export_of_rows_and_of_all_boxes(members: int, run_boxnn: Run) -> None:
    grid = Grid.fit(np.random.default_rng(0).normal(size=(500, 48)))
    model = factored_model(3, members=members, grid=grid)
    save_model(model, "m.zarr")
    assert run_boxnn("export", "boxes", "m.zarr", "--out", "rows.npz")[0] == 0
    rows = np.load("rows.npz")
    np.testing.assert_array_equal(rows["offset"], model.offset)
    np.testing.assert_array_equal(rows["part"], [boxes.part for boxes in model.box_sets])
    np.testing.assert_array_equal(rows["group"], model.groups)
    assert rows["template"].max() == 6 * members - 1
    for boxes, at in zip(model.box_sets, np.split(np.arange(15 * members), members), strict=True):
        for name, stored in (("lower", "lower"), ("upper", "upper"), ("labels", "label")):
            np.testing.assert_array_equal(rows[stored][at], getattr(boxes, name))
        np.testing.assert_array_equal(
            rows["template"][at] - rows["template"][at[0]], boxes.template
        )
    code, out, _ = run_boxnn("export", "boxes", "m.zarr", "--out", "all.npz", "--expand", "--json")
    count = [3 * (3**parts + 2**parts) for parts in (4, 2)[:members]]
    assert code == 0 and json.loads(out)["boxes"] == sum(count)
    # The nearest of all boxes, each group capped as a whole, is what the model says.
    every, codes = np.load("all.npz"), np.random.default_rng(1).integers(0, 256, (20, 48))
    total = np.zeros((20, 3), int) + model.offset
    for low, high, label in (
        [every[name][start : start + n] for name in ("lower", "upper", "label")]
        for start, n in zip((0, count[0]), count, strict=False)
    ):
        excess = np.maximum(np.maximum(low.astype(int) - codes[:, None], codes[:, None] - high), 0)
        units = np.minimum(excess.reshape(20, -1, 16, 3).sum(axis=3), WIDTH).sum(axis=2)
        total += np.stack([units[:, label == c].min(axis=1) for c in range(3)], axis=1)
    np.testing.assert_array_equal(total, class_distances(model, codes))
    low, high = grid.interval(every["lower"], every["upper"])
    np.testing.assert_array_equal(every["low"], low)
    np.testing.assert_array_equal(every["high"], high)


def test_too_many_boxes_are_counted_not_written(run_boxnn: Run) -> None:
    rng = np.random.default_rng(0)
    bounds = np.sort(rng.integers(0, 256, (2, 30, 48)), axis=0)
    count = f"{2 * (10**6 + 5**6):,}"
    for parts, words in ((6, f"stand for {count} boxes"), (48, "stand for about 10^48 boxes")):
        boxes = Boxes(
            *bounds, np.arange(30) // 15, 9,
            template=np.array([0] * 10 + [1] * 5 + [2] * 5 + [3] * 10), part=np.arange(48) % parts,
        )  # fmt: skip
        save_model(BoxNN(boxes, [0, 1]), f"{parts}.zarr")
        made = run_boxnn("export", "boxes", f"{parts}.zarr", "--out", "b.npz", "--expand")
        failed(made, 2, words, "leave out --expand")
        assert run_boxnn("export", "boxes", f"{parts}.zarr", "--out", f"{parts}.npz")[0] == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("parts", "templates of several rows"),
        ("groups", "groups of features"),
        ("offsets", "offsets"),
    ],
)
def test_localize_is_of_plain_boxes(kind: str, words: str, made: Run, model: BoxNN) -> None:
    if kind != "parts":
        group = model.groups if kind == "groups" else None
        boxes, bounds = model.boxes, (model.boxes.lower, model.boxes.upper)
        other = BoxNN(
            Boxes(*bounds, boxes.labels, WIDTH, 3, group=group, part=boxes.part),
            model.classes, feature_shape=SHAPE, offset=[0, 0, int(kind == "offsets")],
        )  # fmt: skip
        save_model(other, "m.zarr", overwrite=True)
        assert made("certify", "m.zarr", "d.zarr", "--out", "c.zarr", "--overwrite")[0] == 0
    failed(made("localize", "c.zarr", "m.zarr"), 2, "m.zarr has " + words, "are of plain boxes")


def test_the_estimator_reads_any_model(model: BoxNN) -> None:
    x, y = samples(model, 60, 3)
    labels = np.array(["a", "b", "c"])[y]
    classifier = BoxNNClassifier()
    classifier.model_, classifier.classes_ = model, np.array(model.classes)
    classifier.n_features_in_ = x.shape[1]
    distance = class_distances(model, x)
    prediction, radius = certified(model, distance)
    names = np.array(["a", "b", "c"])[prediction]
    np.testing.assert_array_equal(classifier.predict(x), names)
    np.testing.assert_array_equal(classifier.certify(x, "margin"), radius)
    np.testing.assert_allclose(classifier.decision_function(x), -distance / WIDTH)
    score = ((names == labels) & (np.array(radius) >= 2)).mean()
    assert classifier.certified_score(x, labels, 2, "margin") == pytest.approx(score)


def assembled(model: BoxNN, codes: np.ndarray, index: int) -> np.ndarray:
    """Bounds (2, n) of the nearest box of a class, each part from the row that is nearest there."""
    boxes = model.boxes
    part, group = boxes.part.tolist(), boxes.group.tolist()
    (units,) = part_distances(codes[None], boxes.lower, boxes.upper, WIDTH, part, group)
    best: tuple[int, list[int]] | None = None
    for t in sorted(set(boxes.template[boxes.labels == index].tolist())):
        rows = np.flatnonzero(boxes.template == t).tolist()
        chosen = [min(rows, key=lambda m, p=p: of_part[m]) for p, of_part in enumerate(units)]  # type: ignore[misc]
        total = sum(of_part[m] for of_part, m in zip(units, chosen, strict=True))
        if best is None or total < best[0]:
            best = total, chosen
    assert best is not None
    rows = [best[1][p] for p in part]
    return np.stack([side[rows, np.arange(len(rows))] for side in (boxes.lower, boxes.upper)])


@pytest.mark.parametrize("most", [1 << 24, 1])
def test_reports_show_assembled_boxes_in_colour(
    most: int, made: Run, model: BoxNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "_MOST_DISTANCES", most)
    x, _ = samples(model, 40, 1)
    (run,) = load_runs(["c.zarr"])
    chosen = gallery.select_samples(run)
    distance = class_distances(model, x)
    for shown in gallery_views.show_samples(run, chosen, x[[s.index for s in chosen]], model):
        images = [image.reshape(-1) for image in shown.images]
        assert shown.images[0].shape == SHAPE and shown.parts == 4
        np.testing.assert_array_equal(images[0], x[shown.index])
        for index, bounds in ((shown.prediction, images[1:3]), (shown.rival, images[3:5])):
            np.testing.assert_array_equal(bounds, assembled(model, x[shown.index], index))
        near = distance[shown.index, [shown.prediction, shown.rival]] / WIDTH
        assert (shown.own_distance, shown.rival_distance) == pytest.approx(tuple(near))


def test_a_report_counts_pixels(made: Run, model: BoxNN) -> None:
    words = ("m.zarr", "d.zarr", "--out", "a.zarr", "--limit", 10)
    assert made("attack", *words)[0] == 0
    attack, file, (x, _) = open_attack("a.zarr"), open_certificate("c.zarr"), samples(model, 40, 1)
    changed = (attack.x != x[attack.row]).reshape(-1, 16, 3).any(axis=2).sum(axis=1)
    found = attack.changed >= 0
    assert (found.any(), attack.unit) == (True, "pixels")
    np.testing.assert_array_equal(attack.changed[found], changed[found])
    assert (changed[found] > file.radius[attack.row][found]).all()
    other = class_distances(model, attack.x).argmin(axis=1) != file.prediction[attack.row]
    np.testing.assert_array_equal(other, found)
    assert made("evaluate", "c.zarr", "--attack", "a.zarr")[0] == 0
    assert made("report", "c.zarr", "--attack", "a.zarr", "--out", "r")[0] == 0
    page = Path("r/report.html").read_text()
    for words in (
        "certified radius (pixels)", "up to that many pixels", "Distances are in pixels outside",
        "with the constant of the class added", "A template stands for all boxes",
    ):  # fmt: skip
        assert words in page, words
    assert "features" not in page[: page.index('id="settings-heading"')]
    first = re.findall(r'src="data:image/png;base64,([^"]*)"', page)[0]
    image = Image.open(io.BytesIO(base64.b64decode(first)))
    assert (image.mode, image.size) == ("RGB", SHAPE[:2])
