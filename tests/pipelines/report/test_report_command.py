"""`boxnn report` on real files: what it writes, and what it refuses in one line."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.report_files import certify, make_data, make_model

from boxnn_numba.certificates.margin import certified_accuracy, certified_radius
from boxnn_numba.cli.report import report as command
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.model_store import load_model
from boxnn_numba.errors import (
    BoxNNError,
    CertificateFileError,
    DataError,
    ModelFileError,
    OptionError,
)
from boxnn_numba.pipelines.ensemble import ensemble
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures import runs
from boxnn_numba.pipelines.figures.runs import Run, load_runs
from boxnn_numba.pipelines.report.report import report
from boxnn_numba.pipelines.running import RunOptions

FIXED = {
    "report.html",
    "certified_curves.png",
    "radius_histogram.png",
    "certified_curves.csv",
    "summary.csv",
    "per_class.csv",
    "published.csv",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set named as MNIST's sample, two models and their certificates."""
    folder = tmp_path_factory.mktemp("made")
    data = make_data(folder / "data.zarr", name="mnist-sample")
    for name, seed in (("one", 0), ("two", 1)):
        model = make_model(folder / f"{name}-model.zarr", data, seed=seed)
        certify(folder / f"{name}.zarr", model, data)
    return folder


@pytest.fixture
def work(made, tmp_path, monkeypatch):
    """A copy to change, as the working directory."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    # Small figures are drawn faster.
    monkeypatch.setattr(plots, "DPI", 30)
    return tmp_path / "work"


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def nothing_new(folder, before):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")} == before


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_names_that_are_no_text(work):
    (work / "one.zarr").rename(work / "o\udcff.zarr")
    report(["o\udcff.zarr"], "r")
    assert "o\\udcff" in (work / "r/report.html").read_text(encoding="utf-8")
    assert {row["run"] for row in read_csv(work / "r/summary.csv")} == {"o\\udcff"}


def test_report_of_two_runs(work):
    result = report(["one.zarr", "two.zarr"], "out")
    folder = work / "out"
    written = {path.name for path in folder.iterdir()}
    assert written == FIXED | {"gallery_one.png", "gallery_two.png"} == set(result.files)
    assert [run["name"] for run in result.runs] == ["one", "two"]
    assert result.notes == []
    certificate = open_certificate("one.zarr")
    outcome = certificate.prediction, certificate.radius, certificate.label
    rows = [row for row in read_csv(folder / "certified_curves.csv") if row["run"] == "one"]
    values = [float(row["certified_accuracy"]) for row in rows]
    radii = [int(row["radius"]) for row in rows]
    np.testing.assert_allclose(values, 100 * certified_accuracy(*outcome, radii), atol=1e-4)
    assert radii == list(range(int(outcome[1].max()) + 1))
    assert len(read_csv(folder / "published.csv")) == 19 * 11
    assert {row["class"] for row in read_csv(folder / "per_class.csv")} == {"0", "1", "2"}
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "sample of MNIST" in text
    assert text.count('class="card"') > 20


def test_report_is_deterministic(work):
    for name in ("a", "b"):
        report(["one.zarr"], name)
    for path in (work / "a").iterdir():
        assert path.read_bytes() == (work / "b" / path.name).read_bytes()


def test_command_prints_json_or_text(work):
    done = CliRunner().invoke(command, ["one.zarr", "--out", "out", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert result["convention"] == "sound"
    assert result["runs"][0]["n"] == len(open_certificate("one.zarr").label)
    done = CliRunner().invoke(command, ["one.zarr", "two.zarr", "--out", "out", "--overwrite"])
    assert done.exit_code == 0, done.output
    assert "two: accuracy" in done.output
    assert done.output.rstrip().endswith("report.html")


def test_paper_convention_recomputes_radii(work):
    sound = report(["one.zarr"], "sound")
    paper = report(["one.zarr"], "paper", convention="paper")
    certificate = open_certificate("one.zarr")
    prediction, radius = certified_radius(
        certificate.class_distance, certificate.width, certificate.group_size, "paper"
    )
    rows = read_csv(work / "paper" / "certified_curves.csv")
    values = [float(row["certified_accuracy"]) for row in rows]
    expected = 100 * certified_accuracy(prediction, radius, certificate.label, range(len(values)))
    np.testing.assert_allclose(values, expected, atol=1e-4)
    mean = "mean_certified_radius"
    assert paper.runs[0][mean] >= sound.runs[0][mean]
    assert "convention" in (work / "paper" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("moved", "option"),
    [("one-model.zarr", "--model MODEL"), ("data.zarr", "--data DATASET")],
)
def test_moved_files_leave_a_sentence_and_can_be_named(work, moved, option):
    (work / moved).rename(work / "elsewhere.zarr")
    result = report(["one.zarr"], "out")
    assert len(result.notes) == 1
    assert option in result.notes[0]
    assert result.notes[0] in (work / "out" / "report.html").read_text(encoding="utf-8")
    assert "gallery_one.png" not in result.files
    words = [option.split()[0], "elsewhere.zarr", "--out", "out", "--overwrite", "--json"]
    done = CliRunner().invoke(command, ["one.zarr", *words])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["notes"] == []
    assert "gallery_one.png" in json.loads(done.output)["files"]


def test_files_beside_a_certificate_are_found_from_anywhere(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report(["work/one.zarr"], "out").notes == []


def test_tabular_data_gets_a_table(work):
    data = make_data(work / "wine.zarr", name="wine", shape=(30,), real=True)
    model = make_model(work / "wine-model.zarr", data, seed=0)
    certify(work / "wine-cert.zarr", model, data)
    result = report(["wine-cert.zarr"], "out")
    assert set(result.files) == FIXED - {"published.csv"}
    assert "Distance to" in (work / "out" / "report.html").read_text(encoding="utf-8")


def test_rgb_images_are_drawn(work):
    data = make_data(work / "rgb.zarr", name="rgb", shape=(5, 4, 3))
    model = make_model(work / "rgb-model.zarr", data, seed=0, group_size=3)
    certify(work / "rgb-cert.zarr", model, data)
    assert "gallery_rgb-cert.png" in report(["rgb-cert.zarr"], "out").files


def test_radii_of_another_method_are_a_curve_of_their_own(work):
    file = open_certificate("one.zarr")
    lines = [
        f"{k},{'' if k == 3 else float(p)},{2 * r}"
        for k, (p, r) in enumerate(zip(file.prediction, file.radius, strict=True))
    ]
    (work / "other.csv").write_text("\n".join(["id,prediction,radius", *lines, ""]))
    result = report(["other.csv", "one.zarr"], "out")
    assert [run["name"] for run in result.runs] == ["other", "one"]
    right = file.prediction == file.label
    right[3] = False
    radius = np.minimum(2 * file.radius, file.groups)
    rows = [row for row in read_csv(work / "out" / "certified_curves.csv") if row["run"] == "other"]
    assert [float(row["certified_accuracy"]) for row in rows] == pytest.approx(
        [100 * (right & (radius >= r)).mean() for r in range(len(rows))], abs=1e-4
    )
    assert "gallery_other.png" not in result.files
    # Of a part of the rows, the same part is taken.
    run = load_runs(["other.csv", "one.zarr"])[0]
    attributes = {**file.attributes, "split_rows": len(file), "feature_shape": [6, 5]}
    some = Run("some", run.prediction[::3], radius[::3], file.label[::3], run.classes, attributes)
    part = runs._of_table("other.csv", "other", replace(some, row=np.arange(0, len(file), 3)))
    np.testing.assert_array_equal(part.prediction, run.prediction[::3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prediction,radius\n0,1\n", "has 1 rows and the split 300"),
        ("label,radius\n0,1\n", "no column prediction"),
        ("prediction,radius\n", "no column prediction"),
        ("prediction,radius\n" + "0,1\n" * 299 + "7,1\n", "predicts '7' in row 299"),
        ("prediction,radius\n" + "0,-1\n" * 300, "radius '-1' in row 0"),
        ("prediction,radius\n" + "0\n" * 300, "radius None in row 0"),
        ('prediction,radius\n"0', "not a CSV table"),
        ("prediction,radius,prediction\n" + "0,1,1\n" * 300, "has 2 columns named prediction"),
        ("prediction,radius\n" + "0,1\n" * 299 + "0,1,5\n", "more cells in row 299 than in"),
    ],
)
def test_bad_radii_of_another_method_are_refused(work, text, words):
    (work / "other.csv").write_text(text)
    with pytest.raises(CertificateFileError, match=words) as error:
        report(["one.zarr", "other.csv"], "out")
    assert "\n" not in str(error.value)


def test_names_of_runs_differ(work):
    (work / "sub").mkdir()
    shutil.copytree(work / "one.zarr", work / "sub" / "one.zarr")
    result = report(["one.zarr", "sub/one.zarr"], "out")
    assert [run["name"] for run in result.runs] == ["work/one", "sub/one"]
    assert len([name for name in result.files if name.startswith("gallery")]) == 2


class Bad:
    """Changes to the files that a report must refuse."""

    @staticmethod
    def other_data(work):
        data = make_data(work / "other.zarr", name="other", seed=9)
        certify(work / "other-cert.zarr", make_model(work / "m.zarr", data, seed=0), data)
        return ["one.zarr", "other-cert.zarr"], {}

    @staticmethod
    def other_split(work):
        model = (work / "one-model.zarr", load_model(work / "one-model.zarr"))
        certify(work / "train-cert.zarr", model, open_dataset(work / "data.zarr"), split="train")
        return ["one.zarr", "train-cert.zarr"], {}

    @staticmethod
    def other_units(work):
        data = open_dataset(work / "data.zarr")
        certify(work / "two-each.zarr", make_model(work / "m.zarr", data, 0, group_size=2), data)
        return ["one.zarr", "two-each.zarr"], {}

    @staticmethod
    def radii_without_a_certificate(work):
        (work / "other.csv").write_text("prediction,radius\n0,1\n")
        return ["other.csv"], {}

    @staticmethod
    def changed_model(work):
        shutil.rmtree(work / "one-model.zarr")
        shutil.copytree(work / "two-model.zarr", work / "one-model.zarr")
        return ["one.zarr"], {}

    @staticmethod
    def given_model_of_another_run(work):
        return ["one.zarr"], {"models": ["two-model.zarr"]}

    @staticmethod
    def given_data_of_another_run(work):
        make_data(work / "other.zarr", name="other", seed=9)
        return ["one.zarr"], {"data": "other.zarr"}

    @staticmethod
    def the_same_twice(work):
        return ["one.zarr", "../work/one.zarr"], {}

    @staticmethod
    def no_certificate(work):
        return [], {}

    @staticmethod
    def existing_output(work):
        (work / "out").mkdir()
        return ["one.zarr"], {}

    @staticmethod
    def output_that_is_not_a_report(work):
        (work / "out").mkdir()
        (work / "out" / "thesis.tex").write_text("years of work")
        return ["one.zarr"], {"run": RunOptions(overwrite=True)}

    @staticmethod
    def output_that_is_a_file(work):
        (work / "out").write_text("")
        return ["one.zarr"], {"run": RunOptions(overwrite=True)}

    @staticmethod
    def unknown_convention(work):
        return ["one.zarr"], {"convention": "hopeful"}


@pytest.mark.parametrize("case", [name for name in vars(Bad) if not name.startswith("_")])
def test_bad_input_is_one_line_and_leaves_nothing(work, case):
    paths, options = getattr(Bad, case)(work)
    before = {path.name for path in work.iterdir()}
    with pytest.raises(OptionError) as error:
        report(paths, "out", **options)
    assert "\n" not in str(error.value)
    assert nothing_new(work, before)
    if case == "output_that_is_not_a_report":
        assert (work / "out" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"models": ["nowhere.zarr"]}, ModelFileError),
        ({"data": "nowhere.zarr"}, DataError),
    ],
)
def test_named_files_must_exist(work, options, kind):
    before = {path.name for path in work.iterdir()}
    with pytest.raises(kind, match="does not exist"):
        report(["one.zarr"], "out", **options)
    assert nothing_new(work, before)


def test_missing_certificate(work):
    with pytest.raises(BoxNNError, match="does not exist"):
        report(["nowhere.zarr"], "out")
    assert not (work / "out").exists()


@pytest.mark.parametrize("name", ["certificates", "models", "attacks", "logs"])
def test_one_path_is_no_list_of_paths(work, name):
    given = {"certificates": ["one.zarr"], name: Path("one.zarr")}
    with pytest.raises(OptionError, match=rf"^`{name}` is one path; pass a list of paths$"):
        report(out="out", **given)
    with pytest.raises(OptionError, match=r"`models` is one path"):
        ensemble("one.zarr", "all.zarr")


def test_unlabelled_certificate_is_refused(work):
    data = open_dataset(work / "data.zarr")
    model = (work / "one-model.zarr", load_model(work / "one-model.zarr"))
    certify(work / "blank.zarr", model, data, labelled=False)
    with pytest.raises(BoxNNError, match="true class"):
        report(["blank.zarr"], "out")


def test_ten_thousand_images_make_a_page_that_loads(work):
    data = make_data(work / "big.zarr", name="mnist", shape=(28, 28), n=10_000)
    certify(work / "big-cert.zarr", make_model(work / "m.zarr", data, seed=0), data)
    report(["big-cert.zarr"], "out")
    assert (work / "out" / "report.html").stat().st_size < 5_000_000
