"""`boxnn tune`: the best is so on held-out data, studies resume, trials may diverge."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import Run, failed, here

from boxnn_numba import load_model
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.errors import DivergenceError
from boxnn_numba.pipelines.model_selection import tune as pipeline
from boxnn_numba.pipelines.model_selection.tune import search_space
from boxnn_numba.training.selection import validation_split

TUNE = ("tune", "tiny.zarr", "--out", "s.json", "--boxes", 6, "--epochs", 2, "--validation", 0.3)


@pytest.fixture(autouse=True)
def optuna_where_it_is_needed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("tune") is not None:
        pytest.importorskip("optuna")


def study(boxnn: Run, *words: object) -> dict[str, Any]:
    code, out, err = boxnn(*TUNE, *words, "--json")
    assert (code, err) == (0, ""), err
    result = json.loads(out)
    stored = json.loads(Path("s.json").read_text())
    assert stored["best"] == result["best"]
    return dict(stored)


@pytest.mark.tune
@pytest.mark.parametrize(("radius", "parts"), [(None, ()), (2, ()), (None, ("--parts", 3))])
def test_the_best_options_are_so_on_held_out_data(
    boxnn: Run, radius: int | None, parts: tuple[object, ...]
) -> None:
    words = parts if radius is None else ("--radius", radius)
    names = "templates,lr" if parts else "width,lr"
    found = study(boxnn, "--trials", 5, "--search", names, *words)
    assert [set(item["options"]) for item in found["done"]] == [set(names.split(","))] * 5
    complete = [item for item in found["done"] if item["state"] == "complete"]
    best = max(complete, key=lambda item: item["value"])
    assert found["best"] == {"options": best["options"], "value": best["value"]}
    # The same by the commands that a user types.
    options = [word for name, value in best["options"].items() for word in (f"--{name}", value)]
    words = (
        "train",
        "tiny.zarr",
        "--preset",
        "graded",
        "--out",
        "m.zarr",
        *TUNE[4:],
        *parts,
        *options,
    )
    assert boxnn(*words)[0] == 0
    x, y = open_dataset("tiny.zarr").read("train")
    _, held = validation_split(y, 0.3, 0)
    prediction, certified = load_model("m.zarr").certify(x[held])
    right = prediction == np.array([3, 5, 8])[y[held]]
    value = np.where(right, certified, 0).mean()
    if radius is not None:
        value = (right & (certified >= radius)).mean()
    assert best["value"] == pytest.approx(value)


@pytest.mark.tune
def test_a_stopped_study_goes_on(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = pipeline.Training, 0

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "Training", stopping)
    assert boxnn(*TUNE, "--trials", 4)[0] == 130
    first = json.loads(Path("s.json").read_text())["done"]
    assert len(first) == 2
    failed(boxnn(*TUNE, "--trials", 4), 2, "s.json already exists", "--resume")
    failed(boxnn(*TUNE, "--trials", 4, "--resume", "--leak", 1), 2, "another", "fixed")
    found = study(boxnn, "--trials", 4, "--resume")
    assert found["done"][:2] == first and len(found["done"]) == 4
    assert study(boxnn, "--trials", 4, "--resume")["done"] == found["done"]
    # The same trials as in one go.
    whole = study(boxnn, "--trials", 4, "--overwrite")["done"]
    assert [{**one, "seconds": 0} for one in whole] == [
        {**one, "seconds": 0} for one in found["done"]
    ]


@pytest.mark.tune
def test_a_second_study_in_the_file_is_refused(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, second = pipeline.Training, []

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        if not second:
            second.append(None)
            second.append(boxnn(*TUNE, "--trials", 1, "--overwrite"))
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "Training", meanwhile)
    assert boxnn(*TUNE, "--trials", 1)[0] == 0
    failed(second[1], 1, "another process is writing s.json")


@pytest.mark.tune
@pytest.mark.parametrize(
    "damage",
    [
        {"state": "done"},
        {"value": None},
        {"value": "x"},
        {"options": None},
        {"options": {"width": 999}},
        {"options": {"width": "wide"}},
        {"epochs": 3},
    ],
)
def test_a_damaged_trial_is_told(boxnn: Run, damage: dict[str, Any]) -> None:
    found = study(boxnn, "--trials", 1, "--search", "width")
    found["done"][0].update(damage)
    Path("s.json").write_text(json.dumps(found))
    failed(boxnn(*TUNE, "--trials", 2, "--search", "width", "--resume"), 1, "s.json is damaged")
    assert json.loads(Path("s.json").read_text()) == found


@pytest.mark.tune
def test_plain_values_are_written_whatever_was_passed(boxnn: Run) -> None:
    options = {"boxes": np.int64(6), "epochs": 1, "radius": np.int32(2)}
    pipeline.tune("tiny.zarr", "s.json", options, trials=1, search=["width"])
    fixed = json.loads(Path("s.json").read_text())["fixed"]
    assert fixed == {"boxes": 6, "epochs": 1, "radius": 2}


@pytest.mark.tune
def test_trials_that_diverge_end_and_are_told(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(self: Any) -> None:
        raise DivergenceError("gone")

    monkeypatch.setattr(pipeline.Training, "run_epoch", diverging)
    code, out, err = boxnn(*TUNE, "--trials", 2)
    assert (code, err) == (0, "")
    assert out.startswith("s.json: 0 complete, 0 pruned, 2 diverged in ")
    assert json.loads(Path("s.json").read_text())["best"] is None


@pytest.mark.tune
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--trials", 0), 2, "trials is 0"),
        (("--search", "width,colour"), 2, "colour"),
        (("--search", "width", "--width", 9), 2, "width is fixed and searched"),
        (("--validation", 0), 2, "--validation above 0"),
        (("--validation", 0.001), 2, "--validation above 0.001"),
        (("--preset", "target"), 2, "--radius"),
        (("--out", "memory://s.json"), 2, "is a URL"),
        (("--out", "no/s.json"), 2, "a file in a folder that exists"),
        (("--out", "mine.json", "--resume"), 1, "not a study"),
        (("--out", "mine.json", "--overwrite"), 1, "not a study"),
    ],
)
def test_wrong_options(boxnn: Run, words: tuple[object, ...], code: int, message: str) -> None:
    Path("mine.json").write_text("[1, 2]")
    before = here()
    failed(boxnn(*TUNE, *words), code, message)
    assert here() == before and Path("mine.json").read_text() == "[1, 2]"


def test_without_optuna(boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    failed(boxnn(*TUNE), 2, "pip install 'boxnn-numba[tune]'")


def test_what_is_searched_fits_the_data(tiny_dataset: Path) -> None:
    space = search_space(open_dataset(tiny_dataset))
    assert list(space) == ["width", "alpha", "beta", "tau", "lr"]
    assert space["beta"].low == 1 and space["beta"].high == 3
    assert all(span.low < span.high for span in space.values())
