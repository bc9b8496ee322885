"""Runs that are stopped, killed or fail: what is kept, and that resuming gives the same bits."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import Run
from support.interruptions import (
    OPTIONS,
    SLOW_BOXNN,
    Stopper,
    assert_same_model,
    full_disk,
    kill,
    names,
    stop_now,
    wait_for,
)

from boxnn_numba import load_model
from boxnn_numba.data import dataset as store
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.checkpoint import load_checkpoint
from boxnn_numba.errors import (
    DivergenceError,
    InterruptedRunError,
    ModelFileError,
    OptionError,
    OutputError,
)
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions

# --- training ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"optimizer": "adam", "lr": 0.01},
        {"momentum": 0.8, "weight_decay": 0.01, "schedule": "cosine"},
        {"objective": "target", "radius": 1, "beta": 0.0, "width": 60},
        {"validation": 0.0, "relaxation": "l2"},
    ],
    ids=str,
)
def test_resumed_training_is_the_same_bit_for_bit(
    choice: dict[str, Any], tiny_dataset: Path, tmp_path: Path
) -> None:
    options = TrainingOptions(**{**OPTIONS.as_dict(), **choice})
    train(tiny_dataset, tmp_path / "whole", options, run=RunOptions(threads=1))
    rows = 120 if options.validation == 0 else 108
    # Before the first epoch is over, in the third epoch, and (resumed) in the fourth.
    for after in (0, 2 * rows + 30, rows + 30):
        with pytest.raises(
            InterruptedRunError, match=r"interrupted.* of 5 epochs (are kept in|was done)"
        ):
            train(
                tiny_dataset,
                tmp_path / "m",
                options,
                run=RunOptions(resume=True, threads=2, progress=Stopper(after)),
            )
        assert names(tmp_path) - {"m.partial"} == {"tiny.zarr", "whole"}
        assert after == 0 or (tmp_path / "m.partial" / "checkpoint.npz").is_file()
    train(tiny_dataset, tmp_path / "m", options, run=RunOptions(resume=True, threads=2))
    assert_same_model(load_model(tmp_path / "m"), load_model(tmp_path / "whole"))
    assert names(tmp_path) == {"tiny.zarr", "whole", "m"}


def test_resuming_counts_what_was_done(tiny_dataset: Path, tmp_path: Path) -> None:
    for kept, before in ((2, 0), (4, 2 * 108)):
        stopper = Stopper(2 * 108)
        with pytest.raises(InterruptedRunError, match=f"{kept} of 5 epochs are kept"):
            train(
                tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True, progress=stopper)
            )
        assert stopper.before == before


def test_nothing_to_resume_is_a_new_run(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))
    assert names(tmp_path) == {"tiny.zarr", "m"}
    with pytest.raises(OptionError, match="m already exists; pass `overwrite`"):
        train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))


def stopped(dataset: Path, out: Path, epochs: int = 2) -> None:
    with pytest.raises(InterruptedRunError):
        train(dataset, out, OPTIONS, run=RunOptions(progress=Stopper(epochs * 108)))


def test_resumed_training_replaces_what_it_was_to(tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path / "whole", OPTIONS)
    train(tiny_dataset, tmp_path / "m", replace(OPTIONS, seed=3))
    run = RunOptions(overwrite=True, progress=Stopper(2 * 108))
    with pytest.raises(InterruptedRunError, match="of 5 epochs are kept"):
        train(tiny_dataset, tmp_path / "m", OPTIONS, run=run)
    assert load_model(tmp_path / "m").training["seed"] == 3
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))
    assert_same_model(load_model(tmp_path / "m"), load_model(tmp_path / "whole"))
    assert names(tmp_path) == {"tiny.zarr", "m", "whole"}


def test_an_unfinished_run_is_not_lost_by_accident(tiny_dataset: Path, tmp_path: Path) -> None:
    stopped(tiny_dataset, tmp_path / "m")
    with pytest.raises(OptionError, match="pass `resume` to continue it or `overwrite`"):
        train(tiny_dataset, tmp_path / "m", OPTIONS)
    assert (tmp_path / "m.partial" / "checkpoint.npz").is_file()
    with pytest.raises(ModelFileError, match=r"m does not exist"):
        load_model(tmp_path / "m")
    with pytest.raises(ModelFileError, match=r"is not a readable model"):
        load_model(tmp_path / "m.partial")
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(overwrite=True))
    train(tiny_dataset, tmp_path / "whole", OPTIONS)
    assert_same_model(load_model(tmp_path / "m"), load_model(tmp_path / "whole"))
    assert names(tmp_path) == {"tiny.zarr", "m", "whole"}


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 6), ("lr", 0.2), ("boxes", 9), ("seed", 1), ("leak", 0.5)]
)
def test_other_options_cannot_resume(
    name: str, value: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    stopped(tiny_dataset, tmp_path / "m")
    other = TrainingOptions(**{**OPTIONS.as_dict(), name: value})
    before = (tmp_path / "m.partial" / "checkpoint.npz").read_bytes()
    with pytest.raises(OptionError, match=f"has {name} .*, not {value}; resume it with its own"):
        train(tiny_dataset, tmp_path / "m", other, run=RunOptions(resume=True))
    assert (tmp_path / "m.partial" / "checkpoint.npz").read_bytes() == before
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))


def test_other_data_cannot_resume(tiny_dataset: Path, tmp_path: Path) -> None:
    stopped(tiny_dataset, tmp_path / "m")
    x, y = store.open_dataset(tiny_dataset).read("train")
    store.write_dataset(
        tiny_dataset, name="tiny", classes=[3, 5, 8], train=(x[::-1], y[::-1]), test=(x, y),
        overwrite=True,
    )  # fmt: skip
    with pytest.raises(OptionError, match="has dataset digest"):
        train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))


def test_a_damaged_checkpoint_is_said_to_be(tiny_dataset: Path, tmp_path: Path) -> None:
    stopped(tiny_dataset, tmp_path / "m")
    checkpoint = tmp_path / "m.partial" / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    with pytest.raises(ModelFileError, match="is damaged; pass `overwrite` to start again"):
        train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))


@pytest.mark.parametrize("where", ["os.fsync", "boxnn_numba.pipelines.training.train.write_model"])
def test_a_full_disk_keeps_the_checkpoint_before(
    where: str, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, tmp_path / "whole", OPTIONS)
    stopped(tiny_dataset, tmp_path / "m")
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(
            OutputError, match=r"no space left while writing .*m; free some"
        ) as error:
            train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))
    assert "\n" not in str(error.value) and not (tmp_path / "m").exists()
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))
    assert_same_model(load_model(tmp_path / "m"), load_model(tmp_path / "whole"))
    assert names(tmp_path) == {"tiny.zarr", "m", "whole"}


def test_stopped_just_before_the_model_gets_its_name(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, tmp_path / "whole", OPTIONS)
    for out in ("m", "m.zip"):
        with monkeypatch.context() as patch:
            patch.setattr("boxnn_numba.data.atomic.replace", stop_now)
            with pytest.raises(KeyboardInterrupt):
                train(tiny_dataset, tmp_path / out, OPTIONS)
        assert not (tmp_path / out).exists()
        train(tiny_dataset, tmp_path / out, OPTIONS, run=RunOptions(resume=True))
        assert_same_model(load_model(tmp_path / out), load_model(tmp_path / "whole"))
    assert names(tmp_path) == {"tiny.zarr", "m", "m.zip", "whole"}


def test_a_run_that_cannot_begin_leaves_nothing(tiny_dataset: Path, tmp_path: Path) -> None:
    for wrong in ({"boxes": 2}, {"parts": "99"}, {"group_size": 7}):
        with pytest.raises(OptionError):
            train(tiny_dataset, tmp_path / "m", TrainingOptions(**wrong))
        assert names(tmp_path) == {"tiny.zarr"}, wrong


def test_a_diverged_run_keeps_its_last_good_checkpoint(tiny_dataset: Path, tmp_path: Path) -> None:
    options = TrainingOptions(boxes=6, lr=1e4, width=1, epochs=9, validation=0.4)
    with pytest.raises(DivergenceError, match="lower `lr`"):
        train(tiny_dataset, tmp_path / "m", options)
    assert not (tmp_path / "m").exists()


def test_two_runs_cannot_write_one_output(tiny_dataset: Path, tmp_path: Path) -> None:
    with (
        staged_output(tmp_path / "m", resumable=True) as partial,
        pytest.raises(OutputError, match=r"another process is writing .*m; wait for it"),
    ):
        train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))
    assert partial.parent == tmp_path
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(overwrite=True))
    assert names(tmp_path) == {"tiny.zarr", "m"}


def test_kill_9_while_training(tiny_dataset: Path, tmp_path: Path, run_boxnn: Run) -> None:
    words = [
        "train", tiny_dataset, "--preset", "graded", "--out", tmp_path / "m", "--boxes", "6",
        "--epochs", "60", "--lr", "0.02", "--batch", "20", "--seed", "3", "--threads", "1",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    checkpoint = tmp_path / "m.partial" / "checkpoint.npz"
    for resume in ([], ["--resume"]):
        size = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([*SLOW_BOXNN, *map(str, words), *resume])
        wait_for(lambda s=size: checkpoint.exists() and checkpoint.stat().st_mtime_ns > s, process)  # type: ignore[misc]
        time.sleep(float(rng.uniform(0, 0.2)))
        kill(process)
        assert not (tmp_path / "m").exists()
    assert run_boxnn(*words, "--resume")[::2] == (0, "")
    words[words.index("--out") + 1] = tmp_path / "whole"
    assert run_boxnn(*words)[0] == 0
    assert_same_model(load_model(tmp_path / "m"), load_model(tmp_path / "whole"))
    left = names(tmp_path)
    assert left - {".m.lock"} == {"tiny.zarr", "m", "whole"}


def test_a_run_resumes_in_the_middle_of_an_epoch(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_dataset, tmp_path / "whole", OPTIONS)
    monkeypatch.setattr("boxnn_numba.training.cpu_trainer._MOST_STEPS", 1)
    with pytest.raises(InterruptedRunError):
        # 108 training rows in batches of 20: the second epoch is stopped after three steps.
        stopper = Stopper(108 + 50)
        train(
            tiny_dataset,
            tmp_path / "m",
            OPTIONS,
            checkpoint_seconds=0,
            run=RunOptions(progress=stopper),
        )
    _, values = load_checkpoint(tmp_path / "m.partial" / "checkpoint.npz")
    assert values["state"]["epoch"] == 1
    assert values["state"]["step"] > 0
    monkeypatch.undo()  # the rest of the epoch is taken in one call
    train(tiny_dataset, tmp_path / "m", OPTIONS, run=RunOptions(resume=True))
    assert_same_model(load_model(tmp_path / "m"), load_model(tmp_path / "whole"))
