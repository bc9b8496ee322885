"""`boxnn frontier`: trained once, chosen on held-out rows, the test split read last."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli_runs import Run, failed, here

from boxnn_numba import load_model
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.errors import DivergenceError
from boxnn_numba.pipelines.model_selection import frontier as pipeline
from boxnn_numba.pipelines.model_selection.frontier import choose
from boxnn_numba.pipelines.run_folder import open_run_folder
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.training.selection import validation_split

SETTINGS = ("--boxes", 6, "--epochs", 2, "--lr", 0.2, "--validation", 0.3)
FRONTIER = ("frontier", "tiny.zarr", "--out", "f", "--targets", "1,2,5", *SETTINGS)


def share(
    model: Any, x: np.ndarray, y: np.ndarray, radius: int, certificate: str = "margin"
) -> float:
    """Percent of samples that are right and certified at a radius."""
    prediction, certified = model.certify(x, certificate=certificate)
    right = [
        p == label and r >= radius for p, r, label in zip(prediction, certified, y, strict=True)
    ]
    return 100 * sum(right) / len(right)


def test_a_frontier(boxnn: Run) -> None:
    code, out, err = boxnn(*FRONTIER, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    dataset = open_dataset("tiny.zarr")
    classes = np.array(dataset.classes)
    (x, y), (x_test, y_test) = dataset.read("train"), dataset.read("test")
    _, held = validation_split(y, 0.3, 0)
    models = {
        member["name"]: load_model(Path("f") / member["folder"] / "model.zarr")
        for member in result["members"]
    }
    assert list(models) == ["accurate", "graded", "target 1", "target 2", "target 5"]
    assert models["target 2"].training["options"]["radius"] == 2
    assert [row["radius"] for row in result["rows"]] == [0, 1, 2, 5]
    for row in result["rows"]:
        radius = row["radius"]
        on_held = {
            name: share(model, x[held], classes[y[held]], radius) for name, model in models.items()
        }
        best = max(on_held.values())
        assert row["held_out"] == pytest.approx(best, abs=1e-3)
        if row["model"] is not None:
            assert on_held[row["model"]] == pytest.approx(best, abs=1e-3)
            on_test = share(models[row["model"]], x_test, classes[y_test], radius, "auto")
            assert row["test"] == pytest.approx(on_test, abs=1e-3)
        assert row["published"] is None
    chosen = {row["model"] for row in result["rows"]}
    for member in result["members"]:
        if member["name"] in chosen:
            assert member["test"] is not None
        # Nothing else has read the test split.
        tested = (Path("f") / member["folder"] / "cert.zarr").exists()
        assert tested == (member["test"] is not None)
    with Path("f/frontier.csv").open(newline="") as lines:
        table = list(csv.DictReader(lines))
    assert [float(line["test"]) for line in table] == [row["test"] for row in result["rows"]]
    stored = json.loads(Path("f/frontier.json").read_text())
    assert stored["rows"] == result["rows"]
    assert Path("f/frontier.png").stat().st_size > 10_000


def test_finished_runs_are_found_again(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = pipeline.train, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(options["preset"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "train", stopping)
    assert boxnn(*FRONTIER)[0] == 130
    failed(boxnn(*FRONTIER), 2, "f already exists", "--resume")
    code, _, err = boxnn(*FRONTIER, "--resume")
    assert (code, err) == (0, "")
    assert calls == ["accurate", "graded", "target", "target", "target", "target"]
    first = json.loads(Path("f/frontier.json").read_text())["rows"]
    calls.clear()
    assert boxnn(*FRONTIER, "--resume")[0] == 0 and not calls
    shutil.move("f", "resumed")
    monkeypatch.setattr(pipeline, "train", real)
    assert boxnn(*FRONTIER)[0] == 0
    assert json.loads(Path("f/frontier.json").read_text())["rows"] == first
    assert boxnn(*FRONTIER, "--overwrite")[0] == 0


def test_a_second_run_in_the_folder_is_refused(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert boxnn(*FRONTIER)[0] == 0
    real, second = pipeline.train, []

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        if not second:
            second.append(None)  # of the second run nothing comes here
            before = sorted(Path("f").rglob("*"))
            for option in ("--overwrite", "--resume"):
                second.append(boxnn(*FRONTIER, option))
            assert sorted(Path("f").rglob("*")) == before
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "train", meanwhile)
    assert boxnn(*FRONTIER, "--overwrite")[0] == 0
    for refused in second[1:]:
        failed(refused, 1, "another process is writing f; wait for it or choose another --out")
    assert here() == {"tiny.zarr", "f"}


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_a_run_that_was_killed_while_it_marked_its_folder(option: str, tmp_path: Path) -> None:
    begun = tmp_path / "f" / f".m.json.boxnn-new-{'0' * 32}"
    begun.parent.mkdir()
    begun.write_text("{")
    run = RunOptions(**{option: True})
    with open_run_folder(tmp_path / "f", "frontier", "m.json", {"a": 1}, {}, run) as folder:
        assert [path.name for path in folder.iterdir()] == ["m.json"]


def test_overwrite_deletes_nothing_of_the_users(boxnn: Run) -> None:
    assert boxnn(*FRONTIER)[0] == 0
    run, words = next(Path("f/runs").iterdir()), "not something that boxnn wrote, or not all of it"
    for folder in (Path("f"), Path("f/runs"), run, run / "model.zarr"):
        mine = folder / "thesis.txt"
        mine.write_text("years of work")
        failed(boxnn(*FRONTIER, "--overwrite"), 2, words)
        assert mine.read_text() == "years of work" and Path("f/frontier.csv").exists()
        assert boxnn(*FRONTIER, "--resume")[0] == 0 and mine.exists()
        mine.unlink()


def test_plain_values_are_written_whatever_was_passed(boxnn: Run) -> None:
    options = {"boxes": np.int64(6), "epochs": 4, "warmup": 0.5, "lr": np.float32(0.5), "tau": None}
    result = pipeline.frontier("tiny.zarr", "f", options, targets=np.array([1, 2]))
    stored = json.loads(Path("f/frontier.json").read_text())
    assert stored["options"] == {"boxes": 6, "epochs": 4, "warmup": 0.5, "lr": 0.5}
    assert [row["radius"] for row in stored["rows"]] == [0, 1, 2]
    # A warm-up is for the targets; the others have none.
    for member in result.members:
        model = load_model(Path("f") / member["folder"] / "model.zarr")
        assert model.training["options"]["warmup"] == (0.5 if "target" in member["name"] else 0)


def test_a_run_that_diverges_is_named(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.train

    def diverging(data: Any, out: Any, options: Any, **how: Any) -> Any:
        if options.objective == "target" and options.radius == 2 and options.lr == 0.2:
            raise DivergenceError("training diverged in epoch 2; lower --lr, --overwrite")
        return real(data, out, options, **how)

    monkeypatch.setattr(pipeline, "train", diverging)
    message = "target 2: training diverged in epoch 2; lower --lr (now 0.2) and pass --resume"
    failed(boxnn(*FRONTIER), 1, message)
    assert boxnn(*FRONTIER, "--resume", "--lr", 0.1)[0] == 0


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_highest_curve_is_chosen_at_each_radius(curves: list[list[int]]) -> None:
    chosen = choose([np.array(values, float) for values in curves])
    assert len(chosen) == max(map(len, curves))
    for radius, place in enumerate(chosen):
        heights = [values[radius] if radius < len(values) else 0 for values in curves]
        assert place == heights.index(max(heights))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--targets", "4,x"), "whole numbers with commas"),
        (("--targets", "0"), "target is 0"),
        (("--radius", 4), "pass --targets, not --radius"),
        (("--validation", 0), "--validation above 0"),
        (("--validation", 0.001), "--validation above 0.001"),
        (("--validation-rows", 1), "--validation-rows above 1"),
        (("--epochs", 0), "epochs is 0"),
        (("--out", "tiny.zarr", "--resume"), "not made by boxnn frontier"),
        (("--out", "tiny.zarr", "--overwrite"), "tiny.zarr"),
        (("--out", "no/f"), "no"),
    ],
)
def test_wrong_options(boxnn: Run, words: tuple[object, ...], message: str) -> None:
    before = here()
    failed(boxnn(*FRONTIER, *words), 2, message)
    assert here() == before
