"""`boxnn export`: what other programs read is what the files hold."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import Run, failed, here

from boxnn_numba import Boxes, BoxNN, Grid, class_distance, load_model, save_model
from boxnn_numba.columns import Columns
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.pipelines.export import export_boxes


def test_boxes_predict_the_same_from_the_numpy_file(trained: Run) -> None:
    code, out, err = trained("export", "boxes", "model.zarr", "--out", "boxes.npz")
    assert (code, out, err) == (0, "boxes.npz: 6 boxes of 12 features\n", "")
    file = np.load("boxes.npz", allow_pickle=False)
    boxes = Boxes(file["lower"], file["upper"], file["label"], int(file["width"]))
    model, (x, _) = load_model("model.zarr"), open_dataset("tiny.zarr").read("test")
    np.testing.assert_array_equal(class_distance(x, boxes), model.class_distance(x))
    assert file["classes"].tolist() == [3, 5, 8]
    assert (int(file["group_size"]), file["feature_shape"].tolist()) == (1, [12])
    assert "low" not in file


def test_boxes_of_raw_features(run_boxnn: Run) -> None:
    rng = np.random.default_rng(2)
    y = (np.arange(120) % 2).astype(np.int32)
    x = (rng.normal(0, 1, (120, 4)) + 2 * y[:, None]).astype(np.float32)
    split = (x[:80], y[:80]), (x[80:], y[80:])
    write_dataset("real.zarr", name="r", classes=["n", "y"], train=split[0], test=split[1])
    words = (
        "train",
        "real.zarr",
        "--preset",
        "graded",
        "--out",
        "model.zarr",
        "--boxes",
        4,
        "--epochs",
        1,
    )
    assert run_boxnn(*words)[0] == 0
    assert run_boxnn("export", "boxes", "model.zarr", "--out", "b.npz")[0] == 0
    file, model = np.load("b.npz", allow_pickle=False), load_model("model.zarr")
    assert file["classes"].tolist() == ["n", "y"]
    codes = model.encode(x)
    for m in range(4):
        inside = (file["low"][m] <= x) & (x < file["high"][m])
        np.testing.assert_array_equal(
            inside, (file["lower"][m] <= codes) & (codes <= file["upper"][m])
        )


def test_boxes_of_a_table_say_what_they_admit(tmp_path: Path) -> None:
    table = {"city": ["a", "b", "c", None], "amount": [1.0, 2.0, 3.0, None]}
    columns = Columns.of(table)
    grid = Grid.fit(columns.values(table), columns=columns, y=[0, 0, 1, 1])
    codes = grid.encode(columns.values(table))
    boxes = Boxes(codes[[0, 2]], codes[[0, 2]], [0, 1], 10)
    save_model(BoxNN(boxes, [0, 1], grid, columns=columns), tmp_path / "m.zarr")
    export_boxes(tmp_path / "m.zarr", tmp_path / "b.npz")
    file = np.load(tmp_path / "b.npz", allow_pickle=False)
    assert file["column"].tolist() == ["city", "amount"]
    assert file["admitted"].tolist() == [["a", "below 1.5"], ["c", "from 2.5 on"]]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("words", [(), ("--exact", 5)])
def test_a_certificate_table(trained: Run, ending: str, words: tuple[object, ...]) -> None:
    assert trained("certify", "model.zarr", "tiny.zarr", "--out", "c.zarr", *words)[0] == 0
    name = f"c.{ending}"
    code, out, err = trained("export", "certificates", "c.zarr", "--out", name)
    rows, columns = (5, 8) if words else (40, 7)
    assert (code, out, err) == (0, f"{name}: {rows} rows, {columns} columns\n", "")
    if ending == "csv":
        with Path(name).open(newline="") as lines:
            table = [{k: int(v) for k, v in row.items()} for row in csv.DictReader(lines)]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(name).to_pylist()
    file = open_certificate("c.zarr")
    assert [row["row"] for row in table] == file.row.tolist()
    assert [row["radius"] for row in table] == file.radius.tolist()
    assert [row["prediction"] for row in table] == [(3, 5, 8)[i] for i in file.prediction]
    assert [row["label"] for row in table] == [(3, 5, 8)[i] for i in file.label]
    distances = [[row[f"distance_{name}"] for name in (3, 5, 8)] for row in table]
    np.testing.assert_array_equal(distances, file.class_distance)
    assert ("upper" in table[0]) == bool(words)


@pytest.mark.parametrize(("kind", "file"), [("certificates", "c.zarr"), ("attacks", "a.zarr")])
def test_json_to_the_standard_output(trained: Run, kind: str, file: str) -> None:
    for name, short in (("certify", "c"), ("attack", "a")):
        assert trained(name, "model.zarr", "tiny.zarr", "--out", f"{short}.zarr")[0] == 0
    assert trained("export", kind, file, "--out", "t.json")[0] == 0
    printed = trained("export", kind, file, "--out", "-", "--json")
    assert printed == (0, Path("t.json").read_text(), "")
    assert len(json.loads(printed[1])) > 0


def test_unknown_labels_are_empty(trained: Run) -> None:
    x, y = open_dataset("tiny.zarr").read("test")
    write_dataset("new.zarr", name="n", classes=[3, 5, 8, 9], train=(x, y), test=(x, y * 0 + 3))
    assert trained("certify", "model.zarr", "new.zarr", "--out", "c.zarr")[0] == 0
    assert trained("export", "certificates", "c.zarr", "--out", "c.csv")[0] == 0
    with Path("c.csv").open(newline="") as lines:
        assert {row["label"] for row in csv.DictReader(lines)} == {""}


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([True, False], ["True", "False"]),
        ([1, "1"], ["1", "'1'"]),
        ([2**70, 3], [str(2**70), "3"]),
        ([2**63, -1], [str(2**63), "-1"]),
        (['a,b"', "=1\n+1"], ['a,b"', "=1\n+1"]),
    ],
)
def test_any_labels(trained: Run, classes: list[Any], names: list[str]) -> None:
    boxes = Boxes([[0, 0], [9, 9]], [[1, 1], [12, 12]], [0, 1], 5)
    save_model(BoxNN(boxes, classes), "odd.zarr")
    assert trained("export", "boxes", "odd.zarr", "--out", "odd.npz")[0] == 0
    found = np.load("odd.npz", allow_pickle=False)["classes"].tolist()
    assert list(map(str, found)) == names
    x, y = np.array([[0, 0], [12, 12], [2, 2]], np.uint8), np.array([0, 1, 1], np.int32)
    write_dataset("odd-data.zarr", name="o", classes=classes, train=(x, y), test=(x, y))
    assert trained("certify", "odd.zarr", "odd-data.zarr", "--out", "c.zarr")[0] == 0
    for name in ("c.csv", "c.parquet"):
        assert trained("export", "certificates", "c.zarr", "--out", name)[0] == 0
    with Path("c.csv").open(newline="") as lines:
        table = list(csv.DictReader(lines))
    # A spreadsheet would run a text that begins with "=".
    cells = [name.replace("=", "'=") for name in names]
    assert [row["label"] for row in table] == [cells[k] for k in y]
    assert [row["prediction"] for row in table] == [cells[k] for k in (0, 1, 0)]
    distances = [[int(row[f"distance_{name}"]) for name in names] for row in table]
    assert distances == [[0, 10], [10, 0], [2, 10]]
    columns = pytest.importorskip("pyarrow.parquet").read_table("c.parquet").to_pydict()
    assert list(map(str, columns["label"])) == [names[k] for k in y]


def test_bad_arguments(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained("certify", "model.zarr", "tiny.zarr", "--out", "c.zarr")[0] == 0
    Path("there.csv").write_text("mine")
    before = here()
    tables, boxes = ("export", "certificates"), ("export", "boxes")
    failed(
        trained(*tables, "c.zarr", "--out", "c.xlsx"), 2, "must end in .csv, .tsv, .json, .parquet"
    )
    failed(trained(*boxes, "model.zarr", "--out", "b.npy"), 2, "must end in .npz")
    failed(trained(*tables, "model.zarr", "--out", "c.csv"), 1, "model.zarr is not a certificate")
    failed(trained(*boxes, "c.zarr", "--out", "b.npz"), 1, "c.zarr")
    failed(trained(*tables, "c.zarr", "--out", "there.csv"), 2, "there.csv", "--overwrite")
    failed(trained(*tables, "c.zarr", "--out", "no/c.csv"), 2, "no", "does not exist")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    failed(trained(*tables, "c.zarr", "--out", "c.parquet"), 2, "pip install", "pyarrow")
    assert here() == before
    assert Path("there.csv").read_text() == "mine"
    assert trained(*tables, "c.zarr", "--out", "there.csv", "--overwrite")[0] == 0
