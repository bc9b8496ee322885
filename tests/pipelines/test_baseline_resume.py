"""Training of base classifiers that was stopped goes on to the same bits."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import Run
from support.interruptions import BOXNN, Stopper, kill, names, wait_for

from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.model_store import load_baseline
from boxnn_numba.errors import InterruptedRunError, ModelFileError, OptionError
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.baselines import train_baseline

pytestmark = pytest.mark.torch

FPA: dict[str, Any] = {"method": "fpa", "parts": 3, "epochs": 5}
#: The same run, as a command, so slow at its epochs that there is time to kill it.
COMMAND = ["baseline", "fpa", "train", "--parts", "3", "--epochs", "5", "--threads", "1"]
SLOW = [
    *BOXNN[:-1],
    """
import time
from boxnn_numba.cli.main import main
from boxnn_numba.data.checkpoint import Checkpoint

save = Checkpoint.save

def slow(*arguments):
    save(*arguments)
    time.sleep(0.5)

Checkpoint.save = slow
main()
""",
]


@pytest.fixture(autouse=True)
def torch() -> None:
    pytest.importorskip("torch")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """400 training rows of 4 x 4 pixels, in two classes that are hard to tell apart."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = np.clip(rng.integers(0, 200, (400, 4, 4)) + 20 * y[:, None, None], 0, 255).astype(np.uint8)
    write_dataset(tmp_path / "images", name="i", classes=[0, 1], train=(x, y), test=(x[:4], y[:4]))
    return tmp_path / "images"


def same(one: Path, two: Path) -> None:
    """Compare all but the seconds that training took."""
    models = [load_baseline(path) for path in (one, two)]

    def plain(model: BaselineModel) -> tuple[Any, ...]:
        weights = {key: array.tobytes() for key, array in model.weights.items()}
        return model.method, model.settings, weights, {**model.training, "seconds": 0}

    assert plain(models[0]) == plain(models[1])


@pytest.mark.parametrize(
    "options",
    [
        {"method": "ra", "retained": 5, "epochs": 6, "base": "cnn"},
        {"method": "ra", "retained": 5, "epochs": 4, "base": "mlp"},
        {**FPA, "partition": "random", "seed": 3},
    ],
)
def test_stopped_twice(options: dict[str, Any], images: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    train_baseline(images, tmp_path / "whole", run=RunOptions(threads=1), **options)
    for after in (1200, 60):  # 360 samples an epoch: in the fourth, and again before it ends
        with pytest.raises(InterruptedRunError, match=r"interrupted; 3 of the epochs are kept in"):
            train_baseline(
                images,
                out,
                run=RunOptions(threads=1, resume=True, progress=Stopper(after)),
                **options,
            )
    assert names(tmp_path / "m.partial") == {".boxnn-unfinished", "checkpoint.npz"}
    with pytest.raises(OptionError, match="pass `resume` to continue it"):
        train_baseline(images, out, run=RunOptions(threads=1), **options)
    train_baseline(images, out, run=RunOptions(threads=1, resume=True), **options)
    same(out, tmp_path / "whole")
    assert names(tmp_path) == {"images", "whole", "m"}


def test_stopped_before_the_first_epoch_ends(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match="nothing is kept, start again"):
        train_baseline(
            images, tmp_path / "m", run=RunOptions(threads=1, progress=Stopper(-1)), **FPA
        )
    assert names(tmp_path) == {"images"}


def test_other_options_are_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    with pytest.raises(InterruptedRunError):
        train_baseline(images, out, run=RunOptions(threads=1, progress=Stopper(400)), **FPA)
    for changed, words in (
        ({"parts": 4}, "has parts 3, not 4; resume it with its own options or pass `overwrite`"),
        ({"epochs": 6}, "has epochs 5, not 6"),
        ({"seed": 1}, "has seed 0, not 1"),
        ({"method": "ra", "parts": None, "retained": 2}, "has method fpa, not ra"),
    ):
        with pytest.raises(OptionError, match=words):
            train_baseline(
                images, out, run=RunOptions(threads=1, resume=True), **{**FPA, **changed}
            )
    checkpoint = tmp_path / "m.partial" / "checkpoint.npz"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-9])
    with pytest.raises(ModelFileError, match="is damaged; pass `overwrite` to start again"):
        train_baseline(images, out, run=RunOptions(threads=1, resume=True), **FPA)
    checkpoint.write_bytes(whole)
    train_baseline(images, out, run=RunOptions(threads=1, overwrite=True), **FPA)
    assert names(tmp_path) == {"images", "m"}


def test_kill_9(images: Path, tmp_path: Path, run_boxnn: Run) -> None:
    train_baseline(images, tmp_path / "whole", run=RunOptions(threads=1), **FPA)
    words = [*COMMAND, "--device", "cpu", str(images), "--out", str(tmp_path / "m")]
    process = subprocess.Popen([*SLOW, *words])
    wait_for((tmp_path / "m.partial" / "checkpoint.npz").exists, process)
    kill(process)
    assert not (tmp_path / "m").exists()
    code, _, errors = run_boxnn(*words, "--resume")
    assert code == 0, errors
    same(tmp_path / "m", tmp_path / "whole")
