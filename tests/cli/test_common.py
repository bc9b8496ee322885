"""What commands share: sections, defaults, choices, errors, and how they run."""

from __future__ import annotations

import importlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from support.cli_runs import Run, failed

from boxnn_numba.backends import devices
from boxnn_numba.baselines import partition
from boxnn_numba.baselines.base_classifiers import BASES, PRECISIONS
from boxnn_numba.certificates.margin import CONVENTIONS
from boxnn_numba.cli import options
from boxnn_numba.cli.console import running
from boxnn_numba.cli.main import cli
from boxnn_numba.cli.train import default_text
from boxnn_numba.data.certificate_store import KINDS
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.manifest import SPLITS
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.attack.attack import METHODS
from boxnn_numba.pipelines.certification.baselines import CERTIFICATES
from boxnn_numba.pipelines.reproduce.reproduce import SCALES, TARGETS
from boxnn_numba.pipelines.training import train as train_pipeline
from boxnn_numba.training.options import GROUPS, OPTIONS, PRESETS, SEARCHED, resolve
from boxnn_numba.training.options import KINDS as DATA_KINDS


def test_running_takes_what_says_how_and_leaves_the_rest() -> None:
    options = {"quiet": True, "overwrite": True, "threads": 2, "workers": 3, "limit": 5}
    with running("testing", options) as run:
        assert (run.overwrite, run.threads, run.cluster.workers, run.device) == (True, 2, 3, "auto")
        run.progress.start(1, "rows")
    assert options == {"limit": 5}


def test_errors_name_the_options_of_the_command(run_boxnn: Run) -> None:
    words = ("train", "x", "--out", "y", "--preset", "target")
    Path("x").mkdir()
    failed(run_boxnn(*words), 2, "preset target needs a radius; pass --radius")


def test_names_of_the_user_are_printed_as_they_are(run_boxnn: Run, tmp_path: Path) -> None:
    x, y = np.arange(48, dtype=np.uint8).reshape(12, 4), np.arange(12, dtype=np.int32) % 2
    classes = ["`radii`", "`out`"]
    write_dataset(tmp_path / "d.zarr", name="d", classes=classes, train=(x, y), test=(x, y))
    train = "train d.zarr --preset graded --out m --boxes 2 --epochs 1"
    for words in (train, "certify m d.zarr --out c"):
        assert run_boxnn(*words.split())[0] == 0
    table = json.loads(run_boxnn("evaluate", "c", "--json")[1])["per_class"]
    assert [row["class"] for row in table] == classes
    assert all(name in run_boxnn("evaluate", "c")[1] for name in classes)


def test_advice_in_results_names_options(
    run_boxnn: Run, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_pipeline, "training_warnings", lambda *rest: ["raise `boxes`"])
    words = [
        "train",
        "tiny.zarr",
        "--preset",
        "graded",
        "--out",
        "m",
        "--boxes",
        "6",
        "--epochs",
        "1",
        "--overwrite",
    ]
    assert run_boxnn(*words)[1].endswith("warning: raise --boxes\n")
    assert json.loads(run_boxnn(*words, "--json")[1])["warnings"] == ["raise --boxes"]


def test_help_is_in_sections_and_tells_the_defaults_of_the_presets(run_boxnn: Run) -> None:
    text = run_boxnn("train", "--help")[1]
    titles = re.findall(r"^(\S.*):$", text, re.M)
    assert titles == ["Options", *GROUPS, "Where it runs", "Output"]
    text = " ".join(text.split())
    assert "[default: 2500, images 5000, in colour 3000; accurate: 2500, images 3000;" in text
    assert "[default: 8, images 45, in colour 8; accurate: 8, images 24, in colour 8;" in text
    for preset, kind in itertools.product(PRESETS, DATA_KINDS):
        if preset == "auto" and kind != "tables":
            continue
        options = resolve(preset, {"radius": 3} if preset == "target" else {}, kind).as_dict()
        for name in set(options) - {"radius"}:
            parts = dict(part.split(": ") for part in f"graded: {default_text(name)}".split("; "))
            rest, _, colour = parts.get(preset, parts["graded"]).partition(", in colour ")
            tables, _, image = rest.partition(", images ")
            shown = (tables, image or tables, colour or image or tables)[DATA_KINDS.index(kind)]
            if preset == "auto" and name in SEARCHED:
                assert shown == "searched"
                continue
            assert type(options[name])(shown) == options[name], (name, preset, kind)


@pytest.mark.parametrize("command", ["train", "tune", "frontier"])
def test_every_command_that_trains_takes_every_option(command: str, run_boxnn: Run) -> None:
    text = run_boxnn(command, "--help")[1]
    for name in OPTIONS:
        assert f"--{name.replace('_', '-')} " in text


@pytest.mark.parametrize("words", [(), ("--precision", "bfloat16")])
def test_reproduce_has_the_default_precision_of_its_function(
    words: tuple[str, ...], run_boxnn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def recorded(target: str, out: str, **given: Any) -> Any:
        seen.append(given)
        raise OptionError("stop")

    module = importlib.import_module("boxnn_numba.pipelines.reproduce.reproduce")
    monkeypatch.setattr(module, "reproduce", recorded)
    failed(run_boxnn("reproduce", "figure2", "--out", "r", *words), 2, "stop")
    (given,) = seen
    assert "precision" not in given if not words else given["precision"] == "bfloat16"


def test_choices_are_those_of_the_library() -> None:
    known = {
        ("train", "device"): devices.DEVICES,
        ("train", "preset"): PRESETS,
        ("certify", "split"): SPLITS,
        ("certify", "certificate"): KINDS,
        ("evaluate", "convention"): CONVENTIONS,
        ("attack", "method"): METHODS,
        ("reproduce", "scale"): SCALES,
        ("reproduce", "target"): TARGETS,
        ("reproduce", "precision"): PRECISIONS,
        ("baseline ra train", "precision"): PRECISIONS,
        ("baseline ra train", "base"): BASES,
        ("baseline fpa train", "partition"): partition.KINDS,
        ("baseline ra certify", "certificate"): CERTIFICATES["ra"],
        ("baseline fpa certify", "certificate"): CERTIFICATES["fpa"],
    }
    for (words, name), names in known.items():
        command: Any = cli
        for word in words.split():
            command = command.get_command(click.Context(command), word)
        (item,) = (item for item in command.params if item.name == name)
        assert set(item.type.choices) == set(names), (words, name)


@pytest.mark.parametrize("words", [(), ("data",), ("baseline",), ("baseline", "ra"), ("export",)])
def test_a_missing_command_shows_the_help(words: tuple[str, ...], run_boxnn: Run) -> None:
    code, out, err = run_boxnn(*words)
    assert (code, out) == (2, "")
    assert err == run_boxnn(*words, "--help")[1]


def test_errors_are_json_where_json_is_asked_for(run_boxnn: Run) -> None:
    Path("run.toml").write_text("json = true\nboxes = 0\n")
    Path("x").mkdir()
    for words, text in [
        (("train", "--json"), "Missing argument 'DATA'."),
        (("train", "x", "--out", "y", "--json", "--device", "z"), "'z' is not one of"),
        (("train", "x", "--out", "y", "--config", "run.toml"), "boxes is 0"),
        (("train", "x", "--out", "y", "--json", "--lr", "0"), "lr is 0.0"),
    ]:
        code, out, err = run_boxnn(*words)
        assert (code, out) == (2, "")
        error = json.loads(err)
        assert text in error["error"] and error["exit_code"] == 2


def test_shells_complete_choices(run_boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_BOXNN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "boxnn train --preset t")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert run_boxnn("ignored")[1].split() == ["plain,target"]


def test_numbers_of_an_option() -> None:
    assert options.numbers("--radii", "0,1.5,1e0,2", "0,4") == [0, 1.5, 1.0, 2]
    assert options.whole_numbers("--rows", "0, 7", "0,7") == [0, 7]
    for words in ("", "a", "1,,2", "inf", "nan"):
        with pytest.raises(OptionError, match="must be numbers with commas"):
            options.numbers("--radii", words, "0,4")
    for words in ("1.5", "1e0"):
        with pytest.raises(OptionError, match="must be whole numbers with commas"):
            options.whole_numbers("--rows", words, "0,7")
