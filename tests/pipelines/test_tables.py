"""Mixed tables from file to certificates: columns go with the data and are matched by name."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import Run, failed
from support.mixed_tables import HEADER, as_csv, mixed_rows

from boxnn_numba import load_model, pipelines, save_model
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.pipelines.figures import curves

#: A plain run, without a search.
GRADED = ("--preset", "graded")
TRAINING, NEW = mixed_rows(300, 0), mixed_rows(40, 1)


@pytest.fixture
def fraud(run_boxnn: Run) -> Run:
    """Commands in a directory with `t.zarr`, of `t.csv`, and `m.zarr`, trained on it."""
    Path("t.csv").write_text(as_csv(TRAINING))
    words = ("data", "ingest", "t.csv", "--label", "label", "--id", "who", "--out", "t.zarr")
    code, out, err = run_boxnn(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "columns: 1 number, 1 category, 1 boolean, 1 date"
    words = (
        "train",
        "t.zarr",
        "--preset",
        "graded",
        "--out",
        "m.zarr",
        "--boxes",
        12,
        "--epochs",
        2,
    )
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
    np.testing.assert_array_equal(model.certify(x, certificate="pairwise").radius, radius)
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
    cells = {name: [turned[0][name]] for name in HEADER[1:5]}
    extra = model.certify(cells, certificate="pairwise").radius[0]
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
    words = "column 'amount' is a category in o.zarr and a number in m.zarr; ingest it anew with"
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
    code, out, _ = fraud("attack", "m.zarr", "n.zarr", "--out", "a.zarr")
    assert code == 0 and ", no labels; attacks found on " in out
    assert "(no label)" in fraud("data", "info", "n.zarr")[1]
    failed(
        fraud("train", "n.zarr", "--preset", "graded", "--out", "x"),
        1,
        "training samples of at least two classes",
    )


def test_a_column_that_named_the_split_is_left_out_of_new_data(run_boxnn: Run) -> None:
    splits = [{"part": "test" if k % 4 == 0 else "train"} for k in range(len(TRAINING))]
    rows = [row | more for row, more in zip(TRAINING, splits, strict=True)]
    Path("t.csv").write_text(as_csv(rows, (*HEADER[1:], "part")))
    words = ("data", "ingest", "t.csv", "--label", "label", "--out", "t.zarr")
    code, out, _ = run_boxnn(*words, "--split", "part")
    assert code == 0 and "225 training and 75 test rows, 4 features" in out
    words = ("train", "t.zarr", "--out", "m.zarr", "--boxes", 6, "--epochs", 1, *GRADED)
    assert run_boxnn(*words)[0] == 0
    Path("n.csv").write_text(as_csv([row | {"part": "dev"} for row in NEW], (*HEADER[1:5], "part")))
    like = ("data", "ingest", "n.csv", "--like", "m.zarr", "--out", "n.zarr")
    assert run_boxnn(*like)[0] == 0
    assert run_boxnn("predict", "m.zarr", "n.csv", "--out", "p.csv")[0] == 0
    failed(run_boxnn(*like[:-1], "x", "--split", "part"), 2, "--split and --like both say which")


def test_labels_that_the_model_does_not_know(fraud: Run) -> None:
    rows = [row | {"label": "other" if k < 3 else row["label"]} for k, row in enumerate(NEW)]
    Path("n.csv").write_text(as_csv(rows))
    assert fraud("data", "ingest", "n.csv", "--like", "m.zarr", "--out", "n.zarr")[0] == 0
    assert open_dataset("n.zarr").classes == ["fine", "fraud", "other"]
    assert certified(fraud, "n.zarr")[1].tolist()[:3] == [-1] * 3


def test_tables_for_a_published_defence(fraud: Run) -> None:
    few = ("--rounds", 5, "--clip", 0.1, "--sampled", 1)
    assert fraud("baseline", "stumps", "train", "t.zarr", "--out", "s.zarr", *few)[0] == 0
    Path("n.csv").write_text(as_csv(NEW, HEADER[4::-1]))
    like = ("data", "ingest", "n.csv", "--out", "n.zarr", "--like")
    assert fraud(*like, "s.zarr")[0] == 0
    assert open_dataset("n.zarr").columns == open_dataset("t.zarr").columns
    words = ("baseline", "stumps", "certify", "s.zarr", "n.zarr", "--out", "c.zarr")
    code, out, _ = fraud(*words)
    assert code == 0 and ", no labels, " in out
    failed(fraud(*like[:-1], "--overwrite", "--like", "t.zarr"), 1, "t.zarr")


def test_budgets_and_columns_are_not_drawn_together(
    fraud: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "DPI", 20)
    costs = "amount = 0.5\ncity = 1.25\npaid = 2\nday = 4\n"
    Path("costs.toml").write_text(costs, encoding="utf-8-sig")  # as editors of Windows write it
    words = ("certify", "m.zarr", "t.zarr", "--certificate", "pairwise", "--out")
    assert fraud(*words, "b.zarr", "--costs", "costs.toml")[0] == 0
    assert fraud(*words, "a.zarr", "--attackable", "amount,city")[0] == 0
    file = open_certificate("b.zarr")
    right, budget = file.prediction == file.label, file.budget
    assert budget is not None
    code, out, _ = fraud("evaluate", "b.zarr", "--radii", "0,0.5,1.75", "--json")
    found = json.loads(out)
    assert (code, found["unit"], list(found["certified_accuracy"])) == (
        0,
        "cost",
        ["0", "0.5", "1.75"],
    )
    for cost, share in found["certified_accuracy"].items():
        assert share == pytest.approx(100 * (right & (budget >= float(cost))).mean(), abs=1e-4)
    some = json.loads(fraud("evaluate", "a.zarr", "--json")[1])
    assert some["attackable"] == 2 and max(map(int, some["certified_accuracy"])) <= 2
    failed(fraud("evaluate", "a.zarr", "--radii", "0.5"), 2, "whole numbers")
    failed(fraud("report", "a.zarr", "b.zarr", "--out", "r"), 2, "count columns", "cost")
    (run,) = json.loads(fraud("report", "b.zarr", "--out", "r", "--json")[1])["runs"]
    step = float(run["unit"].removeprefix("cost in steps of "))
    assert (run["median_certified_radius"] + 1) * step > np.median(np.where(right, budget, -1))
    assert step <= 7.75 / 20
    for name in ("summary", "certified_curves", "per_class"):
        assert {row["unit"] for row in predicted(f"r/{name}.csv")} == {run["unit"]}
    assert fraud("export", "certificates", "b.zarr", "--out", "b.csv")[0] == 0
    written = [float(row["budget"]) for row in predicted("b.csv")]
    assert written == budget.tolist()
    Path("o.csv").write_text("prediction,radius\n" + "fine,1\n" * len(budget))
    failed(fraud("report", "b.zarr", "o.csv", "--out", "q"), 2, "o.csv are whole numbers", "cost")


# --- predictions ---------------------------------------------------------------------------------


def predicted(name: str) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with Path(name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_explanations_of_a_table(fraud: Run) -> None:
    model = load_model("m.zarr")
    Path("n.csv").write_text(as_csv(NEW, HEADER[::-1]))
    code, out, err = fraud("explain", "m.zarr", "n.csv", "--rows", "7,2")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("row ")] == [
        "row 2 (who r2)", "row 7 (who r7)",
    ]  # fmt: skip
    found = json.loads(fraud("explain", "m.zarr", "n.csv", "--json")[1])["0 (who r0)"]
    cells = {name: [NEW[0][name]] for name in HEADER[1:5]}
    assert found["prediction"] == model.predict(cells)[0]
    values = {column["name"]: column["value"] for column in found["columns"]}
    assert values.keys() <= set(HEADER[1:5])
    text = fraud("explain", "m.zarr", "n.csv")[1]
    assert all(f"-> {change['admitted']}" in text for change in found["changes"])
    changed = cells | {change["name"]: [change["after"]] for change in found["changes"]}
    changed = {name: ["" if cell == ["missing"] else cell[0]] for name, cell in changed.items()}
    assert model.predict(changed)[0] == found["becomes"] != found["prediction"]
    if found["proven"]:
        assert len(found["changes"]) == found["radius"] + 1
    who = ("--attackable", "amount,city")
    some = json.loads(fraud("explain", "m.zarr", "n.csv", *who, "--json")[1])["0 (who r0)"]
    assert {change["name"] for change in some["changes"]} <= {"amount", "city"}
    assert some["limited"] and not found["limited"] and some["radius"] >= found["radius"]
    code, out, _ = fraud("explain", "m.zarr", "n.csv", *who)
    assert code == 0 and "attackable column" in out
    failed(
        fraud("explain", "m.zarr", "n.csv", "--attackable", "amout"), 2, "--attackable", "amount"
    )
    Path("c.toml").write_text("amount = 1\ncity = 2.5\n")
    priced = json.loads(fraud("explain", "m.zarr", "n.csv", *who, "--costs", "c.toml", "--json")[1])
    cheap, price = priced["0 (who r0)"], {"amount": 1, "city": 2.5}
    if cheap["changes"]:
        assert cheap["spent"] == sum(price[change["name"]] for change in cheap["changes"])
    assert some["spent"] is None and (cheap["spent"] is None) == (some["becomes"] is None)
    failed(
        fraud("explain", "m.zarr", "n.csv", "--costs", "c.toml"), 2, "--costs has none for column"
    )
    failed(fraud("explain", "m.zarr", "m.zarr"), 1, "m.zarr is a folder; pass a table")
    failed(fraud("explain", "m.zarr", "n.csv", "--rows", "3,40"), 1, "40 rows", "no row 40")
    failed(fraud("explain", "m.zarr", "n.csv", "--rows", "x"), 2, "--rows is 'x'")
    failed(fraud("explain", "m.zarr", "n.csv", "--rows", "-1"), 2, "rows")
    Path("less.csv").write_text(as_csv(NEW, HEADER[:3]))
    failed(fraud("explain", "m.zarr", "less.csv"), 1, "less.csv has no column 'paid'")
    words = fraud("explain", "m.zarr", "n.csv", "--time-limit", -1)
    failed(words, 2, "--time-limit")


def test_rows_to_explain_are_named_by_their_ids(fraud: Run) -> None:
    rows = [row | {"who": {3: "10", 5: "a, b", 9: "10"}.get(k, row["who"])}
            for k, row in enumerate(NEW)]  # fmt: skip
    Path("n.csv").write_text(as_csv(rows))

    def found(*words: Any) -> dict[str, Any]:
        code, out, err = fraud("explain", "m.zarr", "n.csv", "--json", *words)
        assert (code, err) == (0, "")
        return json.loads(out)

    # An id that looks like a number is no number of a row, and an id may name several rows.
    by_id = found("--ids", "r7,10")
    assert list(by_id) == ["3 (who 10)", "7 (who r7)", "9 (who 10)"]
    assert by_id == found("--rows", "3,7,9")
    assert list(found("--ids", '"a, b"')) == ["5 (who a, b)"]
    assert list(found("--rows", "10")) == ["10 (who r10)"]
    other = pipelines.explain("m.zarr", "n.csv", ids=[10]).rows
    assert list(other) == ["3 (who 10)", "9 (who 10)"]
    words = ("explain", "m.zarr", "n.csv", "--ids")
    failed(fraud(*words, "r7,r99"), 1, "n.csv has no row whose who is 'r99'")
    failed(fraud(*words, "r7", "--rows", 7), 2, "--rows and --ids both say which rows")
    failed(fraud(*words, ""), 2, "--ids are none")
    Path("n.csv").write_text(as_csv(NEW, HEADER[1:]))
    failed(fraud(*words, "r7"), 2, "no column of n.csv names its rows; pass --id, or --rows")
    assert fraud(*words[:3])[1] == fraud(*words[:3], "--rows", 0)[1]


def test_predictions_of_a_table(fraud: Run) -> None:
    model = load_model("m.zarr")
    cells = {name: [row[name] for row in NEW] for name in HEADER[1:5]}
    # As data sets store them, in 32 bits.
    x = model.rows(cells).astype(np.float32)
    label, radius = model.certify(x, certificate="pairwise")
    expected = [
        {"who": row["who"], "label": str(a), "radius": str(b)}
        for row, a, b in zip(NEW, label, radius, strict=True)
    ]
    # With and without the label, in any order, and as the training data were read: ids are found.
    for header in (HEADER, HEADER[:5], HEADER[::-1]):
        Path("n.csv").write_text(as_csv(NEW, header))
        code, out, err = fraud("predict", "m.zarr", "n.csv", "--out", "p.csv", "--overwrite")
        assert (code, out, err) == (0, "p.csv: 40 rows\n", "")
        assert predicted("p.csv") == expected
    pipelines.predict("m.zarr", "n.csv", "a.csv", certificate="auto")
    assert predicted("a.csv") == expected
    Path("n.tsv").write_text(as_csv(NEW).replace(",", ";"))
    assert fraud("predict", "m.zarr", "n.tsv", "--sep", ";", "--out", "q.csv")[0] == 0
    assert predicted("q.csv") == expected
    code, out, err = fraud("predict", "m.zarr", "n.csv", "--out", "-")
    assert (code, err) == (0, "") and out == Path("p.csv").read_text()
    words = ("predict", "m.zarr", "n.csv", "--out")
    as_json = json.loads(fraud(*words, "-", "--json")[1])
    assert [{k: str(v) for k, v in row.items()} for row in as_json] == expected
    assert fraud(*words, "p.json")[0] == 0 and json.loads(Path("p.json").read_text()) == as_json
    pq = pytest.importorskip("pyarrow.parquet")
    assert fraud(*words, "p.parquet")[0] == 0
    assert pq.read_table("p.parquet").to_pylist() == as_json


def test_cells_of_no_category_that_training_saw_are_told(fraud: Run) -> None:
    rows = [row | {"city": row["city"].upper()} for row in NEW]
    cities = {row["city"] for row in NEW if row["city"]}
    assert cities == {"Bonn", "Kiel", "Ulm"}
    Path("n.csv").write_text(as_csv(rows))
    words = ("predict", "m.zarr", "n.csv", "--out")
    filled = sum(bool(row["city"]) for row in NEW)
    told = (
        f"warning: column 'city': {filled} of 40 cells are of no category that training saw; "
        "check how they are written\n"
    )
    assert fraud(*words, "p.csv") == (0, f"p.csv: 40 rows\n{told}", "")
    assert fraud(*words, "-") == (0, Path("p.csv").read_text(), told)


def with_texts_for_gaps(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows in which "n.v." and "-" stand for no value in every fifth and seventh row."""
    return [
        row
        | ({"amount": "n.v.", "city": "n.v."} if k % 5 == 0 else {"day": "-"} if k % 7 == 0 else {})
        for k, row in enumerate(rows)
    ]


@pytest.fixture
def gaps(run_boxnn: Run) -> Run:
    """Commands in a directory with `g.zarr`, of a table with `with_texts_for_gaps`."""
    Path("g.csv").write_text(as_csv(with_texts_for_gaps(TRAINING)))
    words = ("data", "ingest", "g.csv", "--label", "label", "--id", "who", "--out", "g.zarr")
    assert run_boxnn(*words, "--missing", "n.v.", "--missing", "-")[0] == 0
    return run_boxnn


def test_texts_of_no_value_are_the_same_for_python_and_the_commands(gaps: Run) -> None:
    words = ("train", "g.zarr", *GRADED, "--out", "m.zarr", "--boxes", 12, "--epochs", 2)
    assert gaps(*words)[0] == 0
    rows = with_texts_for_gaps(NEW)
    Path("n.csv").write_text(as_csv(rows))
    assert gaps("predict", "m.zarr", "n.csv", "--out", "p.csv")[0] == 0
    model = load_model("m.zarr")
    cells = {name: [row[name] for row in rows] for name in HEADER[1:5]}
    assert np.isnan(model.rows(cells)[:, :2]).any(axis=0).all()
    label, radius = model.certify(cells, certificate="pairwise")
    found = [(row["label"], int(row["radius"])) for row in predicted("p.csv")]
    assert [*zip(label.tolist(), radius.tolist(), strict=True)] == found
    pandas, frames = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = frames.from_pandas(pandas.DataFrame(cells), npartitions=3)
    assert model.predict(frame).compute().tolist() == label.tolist()
    # What answers else is not taken for the same by Dask.
    plain = replace(model, training={})
    assert plain.__dask_tokenize__() != model.__dask_tokenize__()


def test_an_ensemble_reads_tables_as_its_members_do(gaps: Run) -> None:
    words = ("train", "g.zarr", *GRADED, "--boxes", 12, "--epochs", 2, "--validation", 0)
    for seed in (1, 2):
        assert gaps(*words, "--seed", seed, "--out", f"{seed}.zarr")[0] == 0
    assert gaps("ensemble", "1.zarr", "2.zarr", "--out", "m.zarr")[0] == 0
    model = load_model("m.zarr")
    assert model.table == load_model("1.zarr").table and model.table["missing"] == ["n.v.", "-"]
    assert gaps("predict", "m.zarr", "g.csv", "--out", "p.csv")[0] == 0
    assert [row["who"] for row in predicted("p.csv")] == [row["who"] for row in TRAINING]
    assert gaps("data", "ingest", "g.csv", "--like", "m.zarr", "--out", "l.zarr")[0] == 0
    radius, _ = certified(gaps, "l.zarr")
    assert len(radius) == len(TRAINING)
    assert radius.tolist() == [int(row["radius"]) for row in predicted("p.csv")]
    # What members have read in other ways is not said of all of them.
    other = load_model("2.zarr")
    other.training["table"] = {"label": "fraud", "missing": ["-", "n.v."]}
    save_model(other, "3.zarr")
    pipelines.ensemble(["1.zarr", "3.zarr"], "a.zarr")
    assert load_model("a.zarr").table == {"missing": ["n.v.", "-"]}
    other.training["table"] = {"missing": ["-"]}
    save_model(other, "4.zarr")
    with pytest.raises(OptionError, match=r"another set of texts of missing cells \(\['-', 'n.v."):
        pipelines.ensemble(["1.zarr", "4.zarr"], "b.zarr")


def test_predictions_with_distances_and_changes(fraud: Run) -> None:
    Path("n.csv").write_text(as_csv(NEW))
    words = ("predict", "m.zarr", "n.csv", "--out", "p.csv", "--certificate", "exact")
    assert fraud(*words, "--distances", "--changes")[0] == 0
    rows = predicted("p.csv")
    assert list(rows[0]) == [
        "who", "label", "radius", "distance_fine", "distance_fraud", "changes", "becomes",
    ]  # fmt: skip
    model = load_model("m.zarr")
    for row, given in zip(rows, NEW, strict=True):
        distances = [int(row["distance_fine"]), int(row["distance_fraud"])]
        assert row["label"] == model.classes[int(np.argmin(distances))]
        changes = dict(change.split(": ", 1) for change in row["changes"].split("; "))
        assert len(changes) > int(row["radius"])
        changed = {name: given[name] for name in HEADER[1:5]}
        for name, words_ in changes.items():
            before, _, after = words_.partition(" -> ")
            if name == "amount" and before != "missing":
                assert float(before) == float(given[name])
            changed[name] = after if after not in ("missing", "other") else ""
        if "other" not in row["changes"]:
            found = model.predict({name: [text] for name, text in changed.items()})
            assert found.tolist() == [row["becomes"]] != [row["label"]]


def test_tables_that_do_not_fit_a_model(fraud: Run) -> None:
    rows = as_csv(NEW)
    for text, words in (
        (rows.replace("amount", "sum", 1), "n.csv has no column 'amount'"),
        (as_csv([row | {"x": "1"} for row in NEW], (*HEADER, "x")), "'x' of n.csv is unknown"),
        (rows.replace(NEW[3]["day"], "soon"), "column 'day' holds 'soon' at line "),
        (rows.splitlines()[0], "n.csv has no rows"),
        ("", "n.csv is empty"),
    ):
        Path("n.csv").write_text(text)
        failed(fraud("predict", "m.zarr", "n.csv", "--out", "p.csv"), 1, words)
        assert not Path("p.csv").exists()
    Path("n.csv").write_text(as_csv([row | {"x": "1"} for row in NEW], (*HEADER, "x")))
    assert fraud("predict", "m.zarr", "n.csv", "--out", "p.csv", "--drop", "x")[0] == 0
    words = ("--out", "p.csv", "--id", "nobody")
    failed(fraud("predict", "m.zarr", "n.csv", *words), 1, "has no column 'nobody'")


def test_arrays_of_numbers_are_no_table_with_categories(fraud: Run) -> None:
    np.save("n.npy", np.zeros((3, 4)))
    np.savez("n.npz", x=np.zeros((3, 4)))
    for name in ("n.npy", "n.npz"):
        words = f"{name} holds numbers, and column 'city' of the model is a category; pass a table"
        failed(fraud("predict", "m.zarr", name, "--out", "p.csv"), 1, words)
        failed(fraud("explain", "m.zarr", name), 1, words)
        assert not Path("p.csv").exists()
    model = load_model("m.zarr")
    raw = model.rows({name: [row[name] for row in NEW] for name in HEADER[1:5]})
    city = raw[:, 1]
    assert {0, 1, 2} < {*city.tolist()} and np.isnan(city).any()
    raw[0, 1] = 3  # what training did not see
    assert model.rows(raw)[0, 1] == 3
    for value, shown in ((4, "4"), (-1, "-1"), (0.5, "0.5"), (99, "99")):
        raw[7, 1] = value
        with pytest.raises(InputError, match=rf"^x holds {shown} at row 7 in column 'city'"):
            model.predict(raw)
    raw[7, 1], raw[9, 2] = 0, 7
    with pytest.raises(InputError, match=r"row 9 in column 'paid', .* places 0\.\.2 among"):
        model.certify(raw.astype(np.float32))


def test_tables_for_a_model_of_arrays(trained: Run) -> None:
    x, _ = open_dataset("tiny.zarr").read("test")
    label, radius = load_model("model.zarr").certify(x, certificate="pairwise")
    lines = [",".join(f"f{k}" for k in range(12)), *(",".join(map(str, row)) for row in x)]
    Path("x.csv").write_text("\n".join(lines))
    np.savez("x.npz", x=x, other=np.zeros(3))
    for name in ("x.csv", "x.npz"):
        assert trained("predict", "model.zarr", name, "--out", "p.csv", "--overwrite")[0] == 0
        assert [int(row["radius"]) for row in predicted("p.csv")] == radius.tolist()
        assert [int(row["label"]) for row in predicted("p.csv")] == label.tolist()
    np.savez("x.npz", a=x, b=x)
    failed(trained("predict", "model.zarr", "x.npz", "--out", "q.csv"), 1, "name the samples x")
    Path("x.csv").write_text("a,b\n1,2\n")
    failed(trained("predict", "model.zarr", "x.csv", "--out", "q.csv"), 1, "has 2 features and the")


def test_what_is_wrong_further_on_is_said_whatever_is_written(trained: Run) -> None:
    pytest.importorskip("pyarrow.parquet")
    rows = np.zeros((5000, 12))
    rows[4500, 3] = 300  # in the second piece that is read
    np.save("x.npy", rows)
    for out in ("p.parquet", "p.csv", "p.json"):
        found = trained("predict", "model.zarr", "x.npy", "--certificate", "margin", "--out", out)
        failed(found, 1, "of the rows from 4096 on: x holds 300.0")
        assert not Path(out).exists()


# --- exports -------------------------------------------------------------------------------------


def test_exports_name_rows_and_columns(fraud: Run) -> None:
    assert fraud("certify", "m.zarr", "t.zarr", "--out", "c.zarr", "--limit", 20)[0] == 0
    assert fraud("attack", "m.zarr", "t.zarr", "--out", "a.zarr", "--limit", 20)[0] == 0
    dataset = open_dataset("t.zarr")
    ids = dataset.read_ids("test")
    assert ids is not None and fraud("export", "certificates", "c.zarr", "--out", "c.csv")[0] == 0
    rows = predicted("c.csv")
    assert [row["who"] for row in rows] == [ids[int(row["row"])] for row in rows]
    original = {row["who"]: row for row in TRAINING}
    assert all(original[row["who"]]["label"] == row["label"] for row in rows)
    assert fraud("export", "attacks", "a.zarr", "--out", "a.csv")[0] == 0
    file = open_attack("a.zarr")
    changes: dict[str, dict[str, str]] = {}
    for row in predicted("a.csv"):
        assert ids[int(row["row"])] == row["who"]
        before = original[row["who"]][row["column"]]
        assert row["from"] == (before or "missing") or float(row["from"]) == float(before)
        changes.setdefault(row["row"], {})[row["column"]] = row["to"]
    found = file.changed > 0
    assert {int(row): len(of) for row, of in changes.items()} == dict(
        zip(file.row[found].tolist(), file.changed[found].tolist(), strict=True)
    )
    Path("t.zarr").rename("moved.zarr")
    words = ("export", "attacks", "a.zarr", "--out", "b.csv")
    failed(fraud(*words), 1, "t.zarr of a.zarr is not there; pass it as --data")
    Path("n.csv").write_text(as_csv(NEW))
    assert fraud("data", "ingest", "n.csv", "--like", "m.zarr", "--out", "n.zarr")[0] == 0
    failed(fraud(*words, "--data", "n.zarr"), 2, "n.zarr is not the data set that a.zarr is of")
    assert fraud(*words, "--data", "moved.zarr")[0] == 0
    assert Path("b.csv").read_text() == Path("a.csv").read_text()


def test_attacks_on_images_are_exported_by_feature(trained: Run) -> None:
    assert trained("attack", "model.zarr", "tiny.zarr", "--out", "a.zarr")[0] == 0
    assert trained("export", "attacks", "a.zarr", "--out", "a.csv")[0] == 0
    x, _ = open_dataset("tiny.zarr").read("test")
    file = open_attack("a.zarr")
    for row in predicted("a.csv"):
        at = int(row["row"]), int(row["column"])
        assert int(row["from"]) == x[at] != file.x[at] == int(row["to"])
    assert len(predicted("a.csv")) == (x != file.x).sum()
