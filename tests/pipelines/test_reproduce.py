"""`boxnn reproduce` at a tiny scale, with baselines that do not learn."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from support.cli_runs import failed
from support.report_files import make_data

from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.row_files import RowWriter, write_chunk
from boxnn_numba.errors import DataError, DivergenceError, OptionError
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.reproduce import runs as reproduce_runs
from boxnn_numba.pipelines.reproduce import targets as reproduce_targets
from boxnn_numba.pipelines.reproduce.reproduce import TARGETS, reproduce
from boxnn_numba.pipelines.reproduce.rows import (
    Row,
    best_medians,
    beyond_reach,
    differences,
    guesses,
    median_differences,
    our_row,
    without_counterpart,
)
from boxnn_numba.pipelines.reproduce.runs import SCALES
from boxnn_numba.pipelines.running import RunOptions

TINY = replace(
    SCALES["quick"],
    name="tiny",
    boxes=6,
    preset_boxes=6,
    epochs=1,
    ablation_epochs=1,
    ablation_boxes=(3, 9),
    images=20,
    samples=50,
    guess_samples=10,
)
ONE = RunOptions(threads=1)
AGAIN = replace(ONE, resume=True)
KEYS = {
    "format", "version", "target", "title", "command", "scale", "seed", "machine", "datasets",
    "intervals", "notes", "seconds", "medians", "differences", "nearest", "beyond_reach",
    "guesses", "rows",
}  # fmt: skip


class FakeBaselines:
    """Stands for training and certification of baselines: certificates are drawn at random."""

    def __init__(self):
        self.trained, self.certified = [], []

    def train_baseline(self, data, out, *, method, retained=None, parts=None, seed, **options):
        assert (retained is None) == (method == "fpa") and (parts is None) == (method == "ra")
        self.trained.append((method, retained or parts))
        Path(out).mkdir()

    def certify_baseline(
        self, model, data, out, *, certificate, limit=None, votes_from=None, seed, **options
    ):
        assert Path(model).is_dir() and certificate in ("a", "b")
        assert votes_from is None or (certificate == "b" and Path(votes_from).is_dir())
        self.certified.append((Path(model).parent.name, certificate, limit, options))
        dataset = open_dataset(data)
        y = dataset.read_labels("test")
        y = y[(np.arange(limit or len(y)) * len(y)) // (limit or len(y))]
        rng = np.random.default_rng(len(y))
        prediction = np.where(rng.random(len(y)) < 0.8, y, -1).astype(np.int32)
        radius = np.where(prediction < 0, 0, rng.integers(0, 12, len(y))).astype(np.int32)
        attributes = {"classes": dataset.classes, "width": 1, "group_size": 1, "method": "RA"}
        attributes |= {"feature_shape": list(dataset.feature_shape)}
        attributes |= {"multiply_adds": 1000, "training": {"seconds": 2.0}}
        attributes |= {"model_digest": "", "dataset_digest": dataset.digest, "split": "test"}
        said = {"alpha": 0.05, "guess_samples": 10, "retained": 20}
        said["samples"] = options.get("samples", 100)
        attributes |= {**said, "seed": seed, "certificate": certificate}
        n_classes = len(dataset.classes)
        writer = RowWriter(
            Path(out), CertificateFile, attributes, len(y), len(y), optional=("guess",),
        )  # fmt: skip
        distance = np.zeros((len(y), n_classes), np.int32)
        columns = {"prediction": prediction, "radius": radius, "label": y, "guess": y}
        write_chunk(out, 0, len(y), {**columns, "class_distance": distance})
        # Unknown where a run was killed after its last chunk.
        measured = None if "fpa-60" in Path(model).parent.name else 0.5
        writer.finish(seconds=1.0, seconds_per_sample=measured)


@pytest.fixture
def fake(monkeypatch):
    baselines = FakeBaselines()
    for name in ("train_baseline", "certify_baseline"):
        monkeypatch.setattr(reproduce_runs, name, getattr(baselines, name))
    monkeypatch.setattr(reproduce_runs, "torch_installed", lambda: True)
    return baselines


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("mnist", "fashion-mnist"):
        make_data(folder / f"{name}.zarr", name, shape=(8, 8), n=120)
    return {"data": folder / "mnist.zarr", "fashion": folder / "fashion-mnist.zarr"}


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(plots, "DPI", 25)


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def row(method="RA_20", source="ours", values=(90.0, 50.0), images=500, **more):
    bounds = {"low": [v - 3 for v in values], "high": [v + 3 for v in values]}
    bounds = bounds if source == "ours" else {}
    more = {"images": images, **bounds, **more}
    return Row(method, "mnist", source, "sound", [0, 4], list(values), **more)


# --- every target ---------------------------------------------------------------------------


def test_everything(tmp_path, data, fake):
    out = tmp_path / "out"
    result = reproduce("all", out, **data, scale=TINY, run=ONE)
    assert list(result.targets) == [*reproduce_targets.PANELS, "ablation"]
    for name, done in result.targets.items():
        content = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        assert set(content) == KEYS and content["target"] == name
        assert str(tmp_path) not in (out / f"{name}.json").read_text(encoding="utf-8")
        assert content["command"].startswith(f"boxnn reproduce {name} ")
        assert content["machine"]["versions"]["numpy"] == np.__version__
        assert content["differences"] == done["differences"]
        assert {file for file in done["files"] if not file.startswith("cost")} == {
            f"{name}.{ending}" for ending in ("csv", "json", "png", "txt")
        }
        assert all((out / file).stat().st_size > 50 for file in done["files"])
        assert done["text"] in (out / f"{name}.txt").read_text(encoding="utf-8")
        for item in content["rows"]:
            assert {"published": 0, "ours": len(item["radii"])}[item["source"]] == len(item["low"])
    # Each model is trained once, whatever number of targets shows it.
    assert sorted(fake.trained) == sorted(
        [("ra", 20), ("ra", 45), ("ra", 60), ("ra", 40), ("fpa", 25), ("fpa", 60)]
    )


def test_table2_in_the_form_of_the_paper(tmp_path, data, fake):
    reproduce("table2", tmp_path / "out", **data, scale=TINY, run=ONE)
    rows = read_csv(tmp_path / "out" / "table2.csv")
    methods = [item["method"] for item in rows if item["source"] == "ours"]
    assert methods == [
        "Box-NN", "Box-NN sound", "Box-NN graded", "Box-NN target", "RA_20", "RA_45", "RA_60",
        "RA_20^B", "RA_45^B", "RA_60^B", "FPA_25^A", "FPA_60^A", "FPA_25^B", "FPA_60^B",
    ]  # fmt: skip
    published = [item for item in rows if item["source"] == "published"]
    assert len(published) == 19 and published[0]["r4"] == "80.68"
    by_method = {item["method"]: item for item in rows if item["source"] == "ours"}
    assert by_method["RA_45"]["images"] == "20" and by_method["RA_45"]["samples"] == "50"
    assert by_method["FPA_25^A"]["images"] == "120" and by_method["FPA_25^A"]["samples"] == ""
    assert by_method["Box-NN"]["convention"] == "paper"
    assert by_method["Box-NN sound"]["convention"] == "sound"
    # The published setting stands right before ours.
    order = [(item["method"], item["source"]) for item in rows]
    assert order.index(("RA_20", "ours")) == order.index(("RA_20", "published")) + 1
    costs = read_csv(tmp_path / "out" / "cost.csv")
    assert [item["method"] for item in costs] == [
        "Box-NN", "RA_20", "RA_45", "RA_60", "FPA_25", "FPA_60",
    ]  # fmt: skip
    assert costs[0]["multiply_adds_per_image"] == str(6 * 64)
    assert [item["seconds_per_image"] for item in costs[1:]] == [*["0.5"] * 4, ""]
    assert costs[1]["multiply_adds_per_image"] == "1000"
    text = (tmp_path / "out" / "table2.txt").read_text(encoding="utf-8")
    assert "differences larger than 2 points" in text and "cost to certify one image" in text
    # The certificates b of RA rest on the votes of a.
    assert fake.certified[0][3]["samples"] == 50


def test_without_torch_published_rows_stand_alone(tmp_path, data, monkeypatch):
    monkeypatch.setattr(reproduce_runs, "torch_installed", lambda: False)
    result = reproduce("figure3", tmp_path / "out", **data, scale=TINY, run=ONE)
    assert any("torch is not installed" in note for note in result.notes)
    content = json.loads((tmp_path / "out" / "figure3.json").read_text(encoding="utf-8"))
    ours = {item["method"] for item in content["rows"] if item["source"] == "ours"}
    assert ours == {"Box-NN", "Box-NN sound", "Box-NN graded", "Box-NN target"}
    assert sum(item["source"] == "published" for item in content["rows"]) == 1 + 4 + 5


def test_ablation_is_one_run_a_curve(tmp_path, data):
    reproduce("figure6", tmp_path / "out", data=data["data"], scale=TINY, run=ONE)
    rows = read_csv(tmp_path / "out" / "figure6.csv")
    ours = {(item["group"], item["method"]) for item in rows if item["source"] == "ours"}
    assert ours == {
        ("", "Box-NN"),
        ("figure6", "Box-NN, M = 3"),
        ("figure6", "Box-NN, M = 9"),
    }
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 3


def test_a_curve_that_diverges_is_said_to(tmp_path, data, monkeypatch):
    real = reproduce_runs.train

    def train(path, out, options, **more):
        if options.relaxation == "l2":
            raise DivergenceError("training diverged; lower --lr")
        return real(path, out, options, **more)

    monkeypatch.setattr(reproduce_runs, "train", train)
    reproduce("figure4", tmp_path / "out", data=data["data"], scale=TINY, run=ONE)
    content = json.loads((tmp_path / "out" / "figure4.json").read_text(encoding="utf-8"))
    assert [item["method"] for item in content["rows"]][-1] == "Box-NN, l2 (diverged)"


def test_resuming_trains_nothing_again(tmp_path, data, monkeypatch):
    out = tmp_path / "out"
    first = reproduce("figure6", out, data=data["data"], scale=TINY, run=ONE)
    before = (out / "figure6.csv").read_bytes()
    real, calls = reproduce_runs.train, []
    monkeypatch.setattr(reproduce_runs, "train", lambda *a, **k: calls.append(a) or real(*a, **k))
    reproduce("figure6", out, data=data["data"], scale=TINY, run=AGAIN)
    assert calls == [] and (out / "figure6.csv").read_bytes() == before
    # A run that was killed between training and certification has no record yet.
    folder = next(path for path in (out / "runs").iterdir() if "boxes-9" in path.name)
    (folder / "run.json").unlink()
    reproduce("figure6", out, data=data["data"], scale=TINY, run=AGAIN)
    assert calls == [] and (folder / "run.json").is_file()
    # Another seed is another run.
    reproduce("figure6", out, data=data["data"], scale=TINY, seed=1, run=AGAIN)
    assert len(calls) == 3
    again = reproduce(
        "figure6", out, data=data["data"], scale=TINY, run=replace(ONE, overwrite=True)
    )
    assert len(calls) == 6 and again.targets.keys() == first.targets.keys()


# --- figures and words ------------------------------------------------------------------------


def test_intervals_are_clopper_pearson(tmp_path, data, fake):
    fake.certify_baseline(
        tmp_path, data["data"], tmp_path / "c.zarr", certificate="a", limit=50, seed=0
    )
    file = open_certificate(tmp_path / "c.zarr")
    found = our_row(file, "RA_20", "mnist", samples=10)
    right = file.prediction == file.label
    for radius in (0, 4, 11, 30):
        won = int((right & (file.radius >= radius)).sum())
        expected = binomtest(won, 50).proportion_ci(0.95)
        assert found.at(radius) == pytest.approx(100 * won / 50)
        assert found.low[radius] == pytest.approx(100 * expected.low, abs=0.01)
        assert found.high[radius] == pytest.approx(100 * expected.high, abs=0.01)
    low, high = found.median_interval
    assert low <= found.median <= high


def test_differences_name_what_is_more_than_two_points_apart():
    published = row(source="published", values=(91.9, 55.0))
    (line,) = differences([published, row()])
    assert line == (
        "mnist RA_20, r=4: ours 50.0 [47.0, 53.0], published 55.0, -5.0 points; unexplained"
    )
    (line,) = differences([row(source="published", values=(90.0, 52.5)), row()])
    assert line.endswith("-2.5 points; explained: inside our interval")
    # Neither another method nor another data set is compared.
    assert differences([row("RA_20^B", "published", (1.0, 1.0)), row()]) == []


def test_right_guesses_explain_radius_zero():
    """Our 90% certified and 95% guessed right, against published rows that count the latter."""
    for published, words in (
        (95.5, "explained: 95.0% are guessed right, which the published RA counts at r=0"),
        (98.0, "counts at r=0; the other -3.0 points are unexplained"),
    ):
        theirs = row(source="published", values=(published, 50.0))
        (line,) = differences([theirs, row(run={"guessed_right": 95.0})])
        assert line.endswith(words)


def test_published_rows_that_are_called_otherwise_are_found():
    """RA^B is published with less than RA by the same votes; ours agrees with another of its rows.

    By less than twice as much, or where the published rows are sound, nothing is said.
    """
    ours = row("RA_20^B", values=(70.0, 60.0))
    namesake = row("RA_20^B", "published", (88.0, 30.0))
    other = row("RA_40^B", "published", (71.0, 58.0))
    weaker = row("RA_20", "published", (50.0, 40.0))
    lines = differences([ours, namesake, other, weaker])
    assert len(lines) == 2 and all(
        "explained: the published RA_20^B contradicts other published rows, and ours is 1.5 "
        "points from their RA_40^B on average, 24.0 from it" in line
        for line in lines
    )
    for rows in (
        [ours, namesake, other],
        [ours, namesake, weaker, row("RA_40^B", "published", (90.0, 50.0))],
    ):
        assert all(line.endswith("unexplained") for line in differences(rows))


def test_settings_that_the_paper_lacks_stand_beside_the_nearest():
    rows = [row("RA_40", "published"), row("RA_60", "published"), row("RA_45"), row("RA_60")]
    (line,) = without_counterpart(rows)
    assert "RA_45 is not in the paper; ours beside its RA_40: r=0 90.0 and 90.0" in line


def test_published_rows_that_no_votes_can_certify_are_named():
    rows = [
        row("RA_60^B", "published", (90.0, 76.0)),
        replace(row("RA_60^B", "published", (90.0, 39.0)), radii=[0, 12]),
        replace(row("FPA_60^A", "published", (90.0, 39.0)), radii=[0, 12]),
    ]
    (line,) = beyond_reach(rows)
    assert "39.0% at r=12" in line and "k = 60 certify r=8 at most" in line
    assert 2 * comb(784 - 8, 60) > comb(784, 60) >= 2 * comb(784 - 9, 60)


def test_right_guesses_without_a_certificate_are_told():
    rows = [row("RA_20", run={"guessed_right": 94.6}), row("RA_20^B", run={"guessed_right": 94.6})]
    assert guesses(rows) == ["mnist RA_20: 94.6% guessed right, 90.0% certified"]


def test_best_medians_take_each_family_at_its_best():
    rows = [
        row("RA_20", median=5, median_interval=[4, 6]),
        row("RA_45", median=7, median_interval=[6, 9]),
        row("Box-NN", median=13, median_interval=[13, 13]),
        row("Box-NN graded", median=19, median_interval=[19, 19]),
    ]
    table = best_medians(rows, {"mnist": {"Box-NN": 13, "RA": 10, "FPA^A": 9}})
    assert [(i["method"], i["published"], i["ours"], i["setting"]) for i in table] == [
        ("Box-NN", 13, 13, "Box-NN"),
        ("Box-NN graded", None, 19, "Box-NN graded"),
        ("RA", 10, 7, "RA_45"),
        ("FPA^A", 9, None, None),
    ]
    (line,) = median_differences(table)
    assert line == (
        "mnist RA, median certified radius: ours 7 [6, 9] by RA_45, published 10; unexplained"
    )


# --- bad input --------------------------------------------------------------------------------


def test_what_is_refused(tmp_path, data):
    with pytest.raises(OptionError, match="target"):
        reproduce("figure11", tmp_path / "out", **data)
    with pytest.raises(OptionError, match="scale"):
        reproduce("table1", tmp_path / "out", **data, scale="huge")
    with pytest.raises(OptionError, match="URL"):
        reproduce("table1", "memory://out", **data, scale=TINY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for option in ("resume", "overwrite"):
        with pytest.raises(OptionError, match="choose another `out`"):
            run = RunOptions(**{option: True})
            reproduce("table1", tmp_path / "mine", **data, scale=TINY, run=run)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    (tmp_path / "mine" / "reproduce.json").write_text("{}")
    with pytest.raises(OptionError, match="not all of it"):
        how = RunOptions(overwrite=True)
        reproduce("table1", tmp_path / "mine", **data, scale=TINY, run=how)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_is_one_line(tmp_path, data):
    out = tmp_path / "out"
    reproduce("figure6", out, data=data["data"], scale=TINY, run=ONE)
    record = next((out / "runs").iterdir()) / "run.json"
    record.write_text("{")
    with pytest.raises(DataError, match="delete the folder"):
        reproduce("figure6", out, data=data["data"], scale=TINY, run=AGAIN)


def test_command(run_boxnn, no_data_around, data, fake, monkeypatch):
    monkeypatch.setitem(SCALES, "quick", TINY)
    words = ["--data", data["data"], "--fashion", data["fashion"], "--threads", 1]
    code, printed, _ = run_boxnn("reproduce", "table3", "--out", "out", *words)
    assert code == 0 and "differences larger than 2 points" in printed
    failed(run_boxnn("reproduce", "table3", "--out", "out", *words), 2, "--resume", "--overwrite")
    code, printed, _ = run_boxnn(
        "reproduce", "table1", "--out", "out", "--resume", "--json", *words
    )
    assert code == 0 and json.loads(printed)["targets"]["table1"]["files"]
    failed(run_boxnn("reproduce", "table9", "--out", "new", *words), 2, *TARGETS[:3])
    failed(run_boxnn("reproduce", "table2", "--out", "new"), 1, "mnist", "pass --data")
    monkeypatch.setitem(SCALES, "quick", replace(TINY, images=121))
    failed(run_boxnn("reproduce", "table3", "--out", "new", *words), 1, "120 test samples", "121")
    monkeypatch.setitem(SCALES, "quick", replace(TINY, fpa={"mnist": (65,)}))
    failed(run_boxnn("reproduce", "table2", "--out", "new", *words), 1, "64 features", "need 65")
    assert not Path("new").exists()


# --- the table of the documentation -----------------------------------------------------------


def test_the_table_for_the_page(tmp_path, data, fake, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools" / "figures")
    from blocks import comparison
    from kept import Kept

    for table in ("table2", "table3"):
        reproduce(table, tmp_path / "out", **data, scale=TINY, run=AGAIN)
    for name in ("table2", "table3", "cost"):
        (tmp_path / "out" / f"{name}.json").rename(tmp_path / f"reproduce-{name}.json")
    (tmp_path / "presets.json").write_text('{"cases": {}}')
    table = comparison(Kept(tmp_path))
    assert "| **Box-NN `paper`** (paper's count) | 120 |" in table
    assert "| **RA, k = 45 (published network)** | 20 |" in table
    assert "| RA, k = 40, published |" in table
    assert "RA<sup>B</sup>, k = 10, published" not in table
    assert "| FPA, T = 25 | 1 thousand |" in table
