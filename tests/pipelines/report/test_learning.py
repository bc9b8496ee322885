"""Learning curves of a report: whose they are, where their points lie, what is refused."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.report_page import Checker, make_page
from support.report_samples import make_run

from boxnn_numba.cli.report import report as command
from boxnn_numba.data.run_log import RunLog, read_log
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.ensemble import ensemble
from boxnn_numba.pipelines.figures.learning import learning_curves, learning_of
from boxnn_numba.pipelines.figures.runs import load_runs
from boxnn_numba.pipelines.figures.scales import value_ticks
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions

OPTIONS = TrainingOptions(boxes=6, epochs=3, batch=20, lr=0.1)
FIGURES = ("objective", "accuracy", "median_certified_radius", "mean_certified_radius")


def epochs(objectives, member=0, seconds=1.0, **figures):
    found = dict.fromkeys(("accuracy", "median_certified_radius", "mean_certified_radius", "score"))
    return [
        {"member": member, "epoch": epoch, "seconds": seconds, "objective": value, "margin": 1.0,
         **found, **figures, "samples_per_second": 1.0}
        for epoch, value in enumerate(objectives, 1)
    ]  # fmt: skip


def rows_of(folder):
    text = (Path(folder) / "learning_curves.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def history(lines):
    return [
        {k: v for k, v in x.items() if k not in ("member", "samples_per_second")} for x in lines
    ]


def written(path, lines, result="boxnn-model"):
    log = RunLog(path, {"result": result})
    for line in lines:
        log.add(line)
    return path


def trained_run(name, *histories):
    training = {"history": histories[0]}
    if len(histories) > 1:
        training = {"members": [{"history": one} for one in histories]}
    return make_run(name, training=training)[0]


def test_a_log_belongs_to_the_run_whose_model_records_the_same(tmp_path):
    first, second = epochs([1.0, 2.0], seconds=0.5), epochs([3.0, 4.0], seconds=0.6)
    other = epochs([5.0], seconds=0.7)
    log = written(tmp_path / "both.jsonl", first + epochs([1.5, 2.5], member=1))
    alone = written(tmp_path / "alone.jsonl", other)
    runs = [trained_run("a", history(second)), make_run("b")[0], trained_run("c", history(first))]
    found = learning_of(runs, [alone, log, log])
    names = [(one.name, one.place, one.run, len(one.members)) for one in found]
    assert names == [("a", 0, True, 1), ("c", 2, True, 2), ("alone", 3, False, 1)]
    assert found[1].points("objective") == [[(1, 1.0), (2, 2.0)], [(1, 1.5), (2, 2.5)]]
    assert found[1].points("accuracy") == [[], []]
    joined = learning_of([trained_run("j", history(second), history(first))], [log])
    assert [len(one.members) for one in joined] == [3]
    assert learning_of(runs[1:2]) == []


def test_logs_of_the_same_name_are_told_apart(tmp_path):
    paths = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        paths.append(written(tmp_path / folder / "log.jsonl", epochs([1.0])))
    assert [one.name for one in learning_of([], paths)] == ["x/log", "y/log"]


def test_the_table_has_the_best_epoch_of_each_set():
    lines = epochs([1.0, 2.0, 3.0], accuracy=0.5)
    for line, score in zip(lines, (2.0, 4.0, 3.0), strict=True):
        line["score"] = line["mean_certified_radius"] = score
    (one,) = learning_of([trained_run("a", history(lines))])
    (row,) = one.rows()
    assert row == ("", 3, 2, 2.0, 50.0, None, 4.0, 1.0)
    (one,) = learning_of([trained_run("a", history(epochs([1.0, 2.0])))])
    assert one.rows()[0][2] == 2  # nothing was held out: the last epoch is kept


@pytest.mark.parametrize("seed", range(3))
def test_ticks_are_round_and_reach_around_all_values(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        values = rng.normal(rng.normal() * 10, 10.0 ** rng.integers(-3, 4), rng.integers(1, 6))
        ticks = value_ticks(values.tolist())
        assert ticks[0] <= values.min() and values.max() <= ticks[-1]
        assert 2 <= len(ticks) <= 8
        steps = np.diff(ticks)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        assert len(f"{steps[0]:.3g}".strip("0.").replace("e+0", "").replace("e-0", "")) <= 2
    assert value_ticks([7])[0] <= 7 < value_ticks([7])[-1]
    assert value_ticks([0.0, 0.0])[0] <= 0 < value_ticks([0.0, 0.0])[-1]


def test_the_page_draws_every_set_where_its_values_are():
    lines = epochs([10.0, 20.0, 15.0], accuracy=0.25, mean_certified_radius=2.0)
    runs = [trained_run("a", history(lines)), make_run("b", seed=2)[0]]
    learning = learning_of(runs)
    text = make_page(runs, learning=learning)
    checker = Checker(text)
    section = text[text.index('id="learning-heading"') : text.index('id="gallery-heading"')]
    titles = re.findall(
        r"<title>([^<]*)</title><path class=\"line run run-0\" d=\"M([^\"]*)\"", section
    )
    assert [words for words, _ in titles] == [
        "a: 15 after epoch 3", "a: 25 after epoch 3", "a: 2 after epoch 3",
    ]  # fmt: skip
    points = np.array([point.split() for point in titles[0][1].split("L")], float)
    np.testing.assert_allclose(np.diff(points[:, 0]), points[1, 0] - points[0, 0], atol=0.2)
    # Twice as far up for the first step as down for the second.
    up, down = np.diff(points[:, 1])
    assert up < 0 < down and up == pytest.approx(-2 * down, abs=0.2)
    assert 'href="#learning-heading"' in text and 'id="learning"' in section
    assert {"run-0", "run-1"} <= {
        e["data-series"] for _, e in checker.elements if "data-series" in e
    }
    assert all(a.get("role") == "img" or a.get("aria-hidden") for a in checker.all("svg"))
    ids = [attributes["id"] for _, attributes in checker.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert "learning-heading" not in make_page(runs)


@pytest.mark.parametrize("figures", [{}, dict.fromkeys(FIGURES[1:], 1)])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_figure_has_what_was_measured(figures, count):
    runs = [trained_run("a", history(epochs([3.0] * count, **figures)))]
    figure = learning_curves(learning_of(runs), "title")
    figure.set_dpi(20)
    figure.canvas.draw()  # warnings are errors
    assert len(figure.axes) == (4 if figures else 1)
    values = [axes.lines[0].get_ydata().tolist() for axes in figure.axes]
    assert values == [
        [3.0] * count,
        *([[value] * count for value in (100.0, 1.0, 1.0)] * bool(figures)),
    ]


def test_a_run_of_which_nothing_was_held_out_beside_one_that_was_measured():
    """A line without points, which is not clipped, has no place: the panels had none either."""
    measured = epochs([2.0, 4.0], **dict.fromkeys(FIGURES[1:], 1))
    runs = [trained_run("a", history(epochs([3.0, 5.0]))), trained_run("b", history(measured))]
    figure = learning_curves(learning_of(runs), "title")
    figure.set_dpi(20)
    figure.canvas.draw()  # warnings are errors
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 1, 1]
    assert all(axes.get_position().width > 0.3 for axes in figure.axes)


def test_names_of_logs_are_escaped(tmp_path):
    written(tmp_path / "<b>&.jsonl", epochs([1.0]))
    run = make_run("a")[0]
    text = make_page([run], learning=learning_of([run], [tmp_path / "<b>&.jsonl"]))
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text
    assert "log-1" in text


def test_a_report_of_real_runs_and_their_logs(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, members in (("one", 1), ("two", 2)):
        options = TrainingOptions(**{**OPTIONS.as_dict(), "members": members, "seed": members})
        train(tiny_dataset, name, options, run=RunOptions(log=f"{name}.jsonl"))
        certify(name, tiny_dataset, f"{name}-cert", certificate="margin")
    without = learning_of(load_runs(["one-cert", "two-cert"], "sound"))
    assert [(one.name, len(one.members)) for one in without] == [("one-cert", 1), ("two-cert", 1)]
    words = ["--log", "two.jsonl", "--log", "one.jsonl", "--out", "r", "--json", "--quiet"]
    done = CliRunner().invoke(command, ["two-cert", *words])
    files = json.loads(done.output)["files"]
    assert {"learning_curves.png", "learning_curves.csv"} <= set(files)
    rows = rows_of("r")
    lines = read_log("two.jsonl").lines + read_log("one.jsonl").lines
    assert [row["run"] for row in rows] == ["two-cert"] * 6 + ["one"] * 3
    for row, line in zip(rows, lines, strict=True):
        assert int(row["set"]) == line["member"] + 1
        assert all(float(row[name]) == line[name] for name in ("epoch", "seconds", *FIGURES))
    ensemble(["one", "two"], "joined")
    certify("joined", tiny_dataset, "joined-cert")
    (joined,) = learning_of(load_runs(["joined-cert"], "sound"), ["two.jsonl"])
    assert len(joined.members) == 3


def test_other_logs_are_refused(tmp_path):
    empty = written(tmp_path / "empty", [])
    chunks = written(tmp_path / "chunks", [{"chunk": 0}], result="boxnn-certificate")
    odd = written(tmp_path / "odd", [*epochs([1.0]), {"epoch": 2}])
    (whole,) = epochs([1.0])
    part = written(tmp_path / "part", [{k: v for k, v in whole.items() if k != "score"}])
    (tmp_path / "text").write_text("text\n")
    for path, kind, words in (
        (empty, OptionError, "empty has no epoch yet"),
        (chunks, OptionError, "chunks is not the log of a training"),
        (odd, OptionError, "line 3 of .*odd is not of an epoch"),
        (part, OptionError, "line 2 of .*part is not of an epoch"),
        (tmp_path / "text", DataError, "is not a log of boxnn"),
        (tmp_path / "nothing", DataError, "cannot read"),
    ):
        with pytest.raises(kind, match=words):
            learning_of([], [path])
