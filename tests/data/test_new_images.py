"""New images for a model: predicted, explained and ingested as they come, without labels."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxnn_numba import BoxNN, BoxNNClassifier, fit, load_model, save_model
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources.tables import TableOptions
from boxnn_numba.errors import DataError, InputError, OptionError
from boxnn_numba.pipelines.ingest import ingest
from boxnn_numba.pipelines.predict import explain, predict
from boxnn_numba.pipelines.training.train import train

RNG = np.random.default_rng(5)
COLOURS = RNG.integers(0, 256, (30, 4, 3, 3), dtype=np.uint8)


def save(folder: str, images: np.ndarray, names: list[str]) -> None:
    for name, image in zip(names, images, strict=True):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def trained(images: np.ndarray) -> BoxNN:
    """Train on images of two classes, written as files, and return the model, also at m.zarr."""
    save("old", images, [f"{'ab'[k % 2]}/{k}.png" for k in range(len(images))])
    ingest("old", "old.zarr")
    train("old.zarr", "m.zarr", boxes=4, epochs=1)
    return load_model("m.zarr")


def predicted(samples: str, **more: Any) -> list[dict[str, str]]:
    predict("m.zarr", samples, "out.csv", **more)
    with Path("out.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    Path("out.csv").unlink()
    return rows


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_new_images_are_predicted_and_named_by_their_files() -> None:
    model = trained(COLOURS)
    new = RNG.integers(0, 256, (3, 4, 3, 3), dtype=np.uint8)
    new[2] = new[2, ..., :1]  # a grey one, for a model with colours
    save("new", new[:2], ["one.png", "some/two.png"])
    save("new", new[2:, ..., 0], ["three.png"])
    order = [0, 1, 2]  # of the names: one, some/two, three
    shutil.make_archive("new", "zip", ".", "new")
    label, radius = model.certify(new[order])
    for samples, start in (("new", ""), ("new.zip", "new/")):
        rows = predicted(samples)
        assert [row["image"] for row in rows] == [
            f"{start}{name}" for name in ("one.png", "some/two.png", "three.png")
        ]
        assert [row["label"] for row in rows] == label.tolist()
        assert [int(row["radius"]) for row in rows] == radius.tolist()
    (row,) = predicted("new/one.png", changes=True)
    assert (row["image"], row["label"]) == ("one.png", label[0])
    assert re.match(r"row \d, column \d, channel \d: \d+ -> \d+(; |$)", row["changes"])
    told = explain("m.zarr", "new", ids=["three.png"])
    assert [*told.rows] == ["2 (image three.png)"]


def test_new_images_are_ingested_without_labels() -> None:
    model = trained(COLOURS[..., 0])
    new = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    save("new", new, ["1.png", "2.png", "b/3.png"])
    made = ingest("new", "new.zarr", like="m.zarr")
    dataset = open_dataset("new.zarr")
    x, y = dataset.read("test")
    np.testing.assert_array_equal(x, new.reshape(3, -1))
    assert (made.unlabelled, y.tolist()) == (2, [-1, -1, 1])
    assert dataset.read_ids("test").tolist() == ["1.png", "2.png", "b/3.png"]
    assert dataset.classes == list(model.classes) == ["a", "b"]
    ingest("new/2.png", "one.zarr", like="m.zarr")
    np.testing.assert_array_equal(open_dataset("one.zarr").read("test")[0], new[1:2].reshape(1, -1))


def test_folders_that_are_no_classes_say_nothing_of_labels() -> None:
    """A model of numbers as labels, and a zip with a folder around everything."""
    y = np.arange(60) % 2
    x = (RNG.integers(0, 100, (60, 4, 3)) + 120 * y[:, None, None]).astype(np.uint8)
    save_model(fit(x, y, boxes=4, epochs=1), "m.zarr")
    save("around/new", x[:3], ["0/1.png", "2.png", "deep/3.png"])
    shutil.make_archive("around", "zip", ".", "around")
    Path("around.zip").rename("AROUND.ZIP")
    for source in ("around", "AROUND.ZIP"):
        made = ingest(source, f"{source}.zarr", like="m.zarr")
        dataset = open_dataset(f"{source}.zarr")
        assert dataset.classes == [0, 1] and made.unlabelled == 2
        assert sorted(dataset.read_labels("test").tolist()) == [-1, -1, 0]
        assert len(predicted(source)) == 3


def test_names_of_files_that_are_no_text() -> None:
    trained(COLOURS)
    try:
        save("new", COLOURS[:1], [os.fsdecode(b"\xff.png")])
    except OSError:
        pytest.skip("the file system takes names of Unicode only")
    (row,) = predicted("new")
    assert row["image"] == "?.png"
    ingest("new", "new.zarr", like="m.zarr")
    assert open_dataset("new.zarr").read_ids("test").tolist() == ["?.png"]


@pytest.mark.parametrize("table", [False, True])
def test_models_that_take_no_images(table: bool) -> None:
    x = RNG.normal(size=(40, 12))
    y = (x[:, 0] > 0).astype(int)
    more = {"preset": "graded", "boxes": 4, "epochs": 1}
    if table:
        frame = {f"c{k}": x[:, k] for k in range(12)}
        save_model(BoxNNClassifier(**more).fit(frame, y).model_, "m.zarr")
    else:
        save_model(fit(x.reshape(-1, 4, 3), y, **more), "m.zarr")
    save("new", COLOURS[:1, ..., 0], ["1.png"])
    words = f"new holds images, and the model is of {'a table' if table else 'real numbers'}"
    with pytest.raises(DataError, match=words):
        predicted("new")
    with pytest.raises(DataError, match=words):
        ingest("new", "x.zarr", like="m.zarr")


def test_images_that_do_not_fit() -> None:
    trained(COLOURS[..., 0])
    save("new", COLOURS[:1], ["1.png"])
    with pytest.raises(InputError, match="images of new are 4 x 3 x 3 and the model takes 4 x 3;"):
        predicted("new")
    save("wide", COLOURS[:1, :, :2, 0], ["1.png"])
    with pytest.raises(InputError, match="images of wide are 4 x 2 and the model takes 4 x 3"):
        predicted("wide")
    with pytest.raises(OptionError, match="`id_column` is for tables, and new holds images"):
        predicted("new", table=TableOptions(id_column="image"))
    Path("empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty is a folder; pass a table .*, an array .* or images"
    ):
        predicted("empty")
    with pytest.raises(DataError, match=r"1\.png is of no known kind"):
        ingest("new/1.png", "x.zarr")  # one image is no data set to train on
    with pytest.raises(DataError, match=r"new has 1\.png; lay images out as CLASS/NAME.png"):
        ingest("new", "x.zarr")
