"""Mixed tables from file to certificates: columns go with the data and are matched by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.cli_runs import Run, failed
from support.mixed_tables import HEADER, as_csv, mixed_rows

from boxnn_numba import load_model
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset

TRAINING, NEW = mixed_rows(300, 0), mixed_rows(40, 1)


@pytest.fixture
def fraud(run_boxnn: Run) -> Run:
    """Commands in a directory with `t.zarr`, of `t.csv`, and `m.zarr`, trained on it."""
    Path("t.csv").write_text(as_csv(TRAINING))
    words = ("data", "ingest", "t.csv", "--label", "label", "--id", "who", "--out", "t.zarr")
    code, out, err = run_boxnn(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "columns: 1 number, 1 category, 1 boolean, 1 date"
    words = ("train", "t.zarr", "--out", "m.zarr", "--boxes", 12, "--epochs", 2)
    assert run_boxnn(*words)[0] == 0
    return run_boxnn


def certified(run: Run, data: str) -> tuple[np.ndarray, np.ndarray]:
    """Radii and labels of a split, in the order of its rows."""
    assert run("certify", "m.zarr", data, "--out", f"c-{data}")[0] == 0
    file = open_certificate(f"c-{data}")
    return file.radius, file.label


def test_the_model_knows_the_columns(fraud: Run) -> None:
    model, dataset = load_model("m.zarr"), open_dataset("t.zarr")
    assert model.columns == dataset.columns
    assert model.training["table"] == {"label": "label", "id_column": "who"}
    x, _ = dataset.read("test")
    radius, _ = certified(fraud, "t.zarr")
    np.testing.assert_array_equal(model.certify(x).radius, radius)
    code, out, _ = fraud("data", "info", "t.zarr")
    assert code == 0
    lines = [line.split() for line in out.splitlines()[-4:]]
    assert [line[:2] for line in lines] == [
        ["amount", "number"], ["city", "category"], ["paid", "boolean"], ["day", "date"],
    ]  # fmt: skip
    assert lines[1][3:] == ["3", "Bonn,", "Kiel,", "Ulm"]
    assert lines[3][4:] == ["2024-01-01", "..", "2024-04-09"]


def test_other_data_are_matched_by_name_and_by_the_text_of_categories(fraud: Run) -> None:
    Path("n.csv").write_text(as_csv(NEW))
    words = ("data", "ingest", "n.csv", "--out", "n.zarr", "--like", "m.zarr")
    assert fraud(*words)[0] == 0
    dataset = open_dataset("n.zarr")
    assert dataset.columns == load_model("m.zarr").columns and dataset.n_rows("train") == 0
    assert dataset.classes == ["fine", "fraud"] and dataset.id_name == "who"
    radius, label = certified(fraud, "n.zarr")
    # Columns reversed, categories in another order, and one that the model does not know.
    first = dict.fromkeys(HEADER, "") | {"who": "x", "city": "Aachen", "amount": "1"}
    turned = [first | {"paid": "True", "day": "2024-02-02", "label": "fine"}, *NEW]
    Path("r.csv").write_text(as_csv(turned, HEADER[::-1]))
    words = ("data", "ingest", "r.csv", "--out", "r.zarr", "--label", "label", "--drop", "who")
    assert fraud(*words, "--test-fraction", "0.5")[0] == 0
    assert open_dataset("r.zarr").columns != load_model("m.zarr").columns
    found = []
    for split in ("train", "test"):
        words = ("certify", "m.zarr", "r.zarr", "--out", f"c-{split}", "--split", split)
        assert fraud(*words)[0] == 0
        file = open_certificate(f"c-{split}")
        found += list(zip(file.radius.tolist(), file.label.tolist(), strict=True))
    model = load_model("m.zarr")
    extra = model.certify({name: [turned[0][name]] for name in HEADER[1:5]}).radius[0]
    expected = [*zip(radius.tolist(), label.tolist(), strict=True), (int(extra), 0)]
    assert sorted(found) == sorted(expected)


def test_data_with_other_columns_are_refused(fraud: Run) -> None:
    for header, words in (
        (("amount", "city", "paid", "label"), "has no column 'day' of m.zarr"),
        ((*HEADER[:5], "more", "label"), "has a column 'more', which m.zarr does not know"),
    ):
        rows = [row | {"more": "1"} for row in NEW]
        Path("o.csv").write_text(as_csv(rows, header))
        ingest = ("data", "ingest", "o.csv", "--label", "label", "--out", "o.zarr", "--overwrite")
        more = ("--drop", "who") if "who" in header else ()
        assert fraud(*ingest, *more)[0] == 0
        failed(fraud("certify", "m.zarr", "o.zarr", "--out", "c"), 1, words)
    Path("o.csv").write_text(as_csv([row | {"amount": "much"} for row in NEW]))
    assert fraud("data", "ingest", "o.csv", "--drop", "who", *ingest[3:])[0] == 0
    words = "column 'amount' is a category in "
    failed(fraud("certify", "m.zarr", "o.zarr", "--out", "c"), 1, words, "--like MODEL")
    failed(
        fraud("data", "ingest", "o.csv", "--like", "m.zarr", "--out", "l.zarr"), 1,
        "o.csv: column 'amount' holds 'much' at line 2, which is no number",
    )  # fmt: skip


def test_rows_without_labels_are_certified_and_not_evaluated(fraud: Run) -> None:
    Path("n.csv").write_text(as_csv(NEW, HEADER[:5]))
    code, out, _ = fraud("data", "ingest", "n.csv", "--like", "m.zarr", "--out", "n.zarr")
    assert code == 0 and "40 rows have no label" in out
    code, out, _ = fraud("certify", "m.zarr", "n.zarr", "--out", "c.zarr")
    assert code == 0 and ", no labels, median certified radius " in out
    assert set(open_certificate("c.zarr").label.tolist()) == {-1}
    failed(fraud("evaluate", "c.zarr"), 1, "nothing is right or wrong")
    assert "(no label)" in fraud("data", "info", "n.zarr")[1]
    failed(fraud("train", "n.zarr", "--out", "x"), 1, "training samples of at least two classes")


def test_labels_that_the_model_does_not_know(fraud: Run) -> None:
    rows = [row | {"label": "other" if k < 3 else row["label"]} for k, row in enumerate(NEW)]
    Path("n.csv").write_text(as_csv(rows))
    assert fraud("data", "ingest", "n.csv", "--like", "m.zarr", "--out", "n.zarr")[0] == 0
    assert open_dataset("n.zarr").classes == ["fine", "fraud", "other"]
    assert certified(fraud, "n.zarr")[1].tolist()[:3] == [-1] * 3
