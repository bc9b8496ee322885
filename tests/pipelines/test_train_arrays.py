"""`train` on arrays: the model of a dataset of the same rows; stopped, killed, on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from support.interruptions import Stopper, kill, names, wait_for

from boxnn_numba import fit, load_model
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.errors import DataError, InputError, InterruptedRunError, OptionError
from boxnn_numba.pipelines import RunOptions, train
from boxnn_numba.training.options import TrainingOptions

OPTIONS: dict[str, Any] = {"preset": "graded", "boxes": 9, "epochs": 3, "batch": 20, "seed": 2}
CLASSES = np.array(["b", "c", "a"])
N = 300


def samples(real: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    index = rng.permutation(np.arange(N) % 3)
    codes = np.clip(70 * index[:, None] + rng.integers(0, 110, (N, 8)), 0, 255)
    x = (codes + rng.random((N, 8))).astype(np.float32) if real else codes.astype(np.uint8)
    return x, CLASSES[index]


def lazy(x: np.ndarray) -> da.Array:
    return da.from_array(x, chunks=(64, *x.shape[1:]))


def same(path: Path, other: Path) -> None:
    one, two = load_model(path), load_model(other)
    for name in ("lower", "upper", "labels"):
        np.testing.assert_array_equal(getattr(one.boxes, name), getattr(two.boxes, name))
    assert one.classes == two.classes
    assert (one.grid is None) == (two.grid is None)
    if one.grid is not None and two.grid is not None:
        np.testing.assert_array_equal(one.grid.edges, two.grid.edges)


@pytest.mark.parametrize("real", [False, True])
def test_arrays_and_a_dataset_of_the_same_rows(
    real: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several windows, with a grid of some of the rows."""
    monkeypatch.setattr("boxnn_numba.training.data.WINDOW_BYTES", 500)
    monkeypatch.setattr("boxnn_numba.training.data.GRID_ROWS", 100)
    x, y = samples(real)
    classes, index = np.unique(y, return_inverse=True)
    rows = x, index.astype(np.int32)
    write_dataset(tmp_path / "d", name="d", classes=classes.tolist(), train=rows, test=rows)
    train(tmp_path / "d", tmp_path / "first", **OPTIONS)
    digests = set()
    for number, (a, b) in enumerate([(x, y), (lazy(x), y), (lazy(x), lazy(y)), (zarr.array(x), y)]):
        out = tmp_path / f"m{number}"
        found = train(a, out, y=b, **OPTIONS)
        same(out, tmp_path / "first")
        training = load_model(out).training
        assert training["dataset"] == "arrays" and training["preset"] == found.preset == "graded"
        digests.add(training["dataset_digest"])
    assert len(digests) == 1
    np.testing.assert_array_equal(
        fit(lazy(x), y, **OPTIONS).boxes.lower, load_model(tmp_path / "first").boxes.lower
    )


@pytest.mark.usefixtures("short_search")
def test_settings_as_for_fit(tmp_path: Path) -> None:
    x, y = samples(True)
    few = {"boxes": 6, "epochs": 1, "members": 1}
    train(lazy(x), tmp_path / "auto", y=y, **few)
    expected = fit(x, y, **few)
    np.testing.assert_array_equal(load_model(tmp_path / "auto").boxes.lower, expected.boxes.lower)
    assert load_model(tmp_path / "auto").training["preset"] == "auto"
    weights = {"a": 2.0, "b": 1.0}
    found = train(x, tmp_path / "m", y=y, preset="target", radius=1, class_weight=weights, **few)
    assert found.preset == "target"
    settings = TrainingOptions(boxes=6, epochs=1)
    assert train(x, tmp_path / "s", settings, y=y).preset == "graded"
    with pytest.raises(OptionError, match="`boxes` is passed beside `options`"):
        train(x, tmp_path / "t", settings, y=y, boxes=4)


def test_a_stopped_run_goes_on_with_the_same_data_only(tmp_path: Path) -> None:
    x, y = samples(True)
    train(x, tmp_path / "whole", y=y, **OPTIONS)
    stopped = RunOptions(resume=True, progress=Stopper(400))
    with pytest.raises(InterruptedRunError, match="of 3 epochs are kept"):
        train(x, tmp_path / "m", y=y, run=stopped, **OPTIONS)
    again = RunOptions(resume=True)
    other = x.copy()
    other[7, 3] += 1
    for changed, labels in ((other, y), (x, np.roll(y, 1))):
        with pytest.raises(OptionError, match=r"has dataset digest .*; resume it with its own"):
            train(lazy(changed), tmp_path / "m", y=labels, run=again, **OPTIONS)
    train(lazy(x), tmp_path / "m", y=lazy(y), run=again, **OPTIONS)
    same(tmp_path / "m", tmp_path / "whole")
    assert names(tmp_path) == {"m", "whole"}


def test_weights_of_rows_are_those_of_fit(tmp_path: Path) -> None:
    """From arrays and from a dataset; an unfinished run goes on with the same weights only."""
    x, y = samples()
    weights = np.random.default_rng(1).integers(0, 3, N)
    classes, index = np.unique(y, return_inverse=True)
    rows = x, index.astype(np.int32)
    write_dataset(tmp_path / "d", name="d", classes=classes.tolist(), train=rows, test=rows)
    expected = fit(x, y, sample_weight=weights, **OPTIONS)
    stopped = RunOptions(resume=True, progress=Stopper(400))
    how: dict[str, Any] = {"y": y, "sample_weight": weights, **OPTIONS}
    with pytest.raises(InterruptedRunError):
        train(x, tmp_path / "m", run=stopped, **how)
    for other in (None, weights + 1):
        with pytest.raises(OptionError, match=r"has digest of sample_weight .*; resume it with"):
            train(x, tmp_path / "m", run=RunOptions(resume=True), **{**how, "sample_weight": other})
    train(x, tmp_path / "m", run=RunOptions(resume=True), **how)
    train(tmp_path / "d", tmp_path / "n", sample_weight=lazy(weights), **OPTIONS)
    named = lazy(y)
    train(x, tmp_path / "p", y=named[named != "d"], **OPTIONS)  # of a length that is not known
    train(x, tmp_path / "o", y=y, **OPTIONS)
    found = load_model(tmp_path / "m").boxes.lower
    np.testing.assert_array_equal(found, expected.boxes.lower)
    same(tmp_path / "m", tmp_path / "n")
    same(tmp_path / "o", tmp_path / "p")
    assert not np.array_equal(found, load_model(tmp_path / "o").boxes.lower)


KILLED = """
import time
import sys
sys.path.insert(0, {folder!r})
from boxnn_numba.training.run import Training
from boxnn_numba.pipelines import train
from test_train_arrays import OPTIONS, lazy, samples

before = Training.run_epoch
def slowly(self, *arguments):
    time.sleep(0.5)
    return before(self, *arguments)
Training.run_epoch = slowly
x, y = samples(True)
train(lazy(x), {out!r}, y=lazy(y), **OPTIONS)
"""


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """No temporary file is left either."""
    out, spool = tmp_path / "m", tmp_path / "spool"
    spool.mkdir()
    folder = Path(__file__).parent
    code = KILLED.format(folder=str(folder), out=str(out))
    paths = {"TMPDIR": str(spool), "PYTHONPATH": str(folder.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **paths})
    wait_for(lambda: (tmp_path / "m.partial" / "checkpoint.npz").exists(), process)
    kill(process)
    assert not [*spool.glob("boxnn-*")]
    x, y = samples(True)
    train(lazy(x), out, y=y, run=RunOptions(resume=True), **OPTIONS)
    train(x, tmp_path / "whole", y=y, **OPTIONS)
    same(out, tmp_path / "whole")


def test_what_is_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    x, y = samples()
    out = tmp_path / "m"
    with pytest.raises(OptionError, match="`y` is missing; pass the labels"):
        train(x, out)
    with pytest.raises(DataError, match="does not exist"):
        train(tmp_path / "no", out)
    with pytest.raises(OptionError, match="`y` was passed with dataset"):
        train(tmp_path / "no", out, y=y)
    with pytest.raises(InputError, match="y has 299 labels for 300 rows; they must agree"):
        train(lazy(x), out, y=y[1:])
    with pytest.raises(InputError, match=r"`sample_weight` has shape \(299,\) and there are 300"):
        train(lazy(x), out, y=y, sample_weight=np.ones(N - 1))
    with pytest.raises(InputError, match="`sample_weight` of row 4 is -1"):
        train(lazy(x), out, y=y, sample_weight=np.where(np.arange(N) == 4, -1, 1))
    for odd in ("balanced", [[1, 2], 3], {"a": 1}, np.full(N, 1j)):
        with pytest.raises(InputError, match="`sample_weight` holds something that is no number"):
            train(lazy(x), out, y=y, sample_weight=odd)
    with pytest.raises(InputError, match="y holds one class"):
        train(lazy(x), out, y=np.zeros(N, int))
    with pytest.raises(OptionError, match="colour"):
        train(lazy(x), out, y=y, colour=1)
    real = samples(True)[0]
    real[99, 2] = -np.inf
    with pytest.raises(InputError, match="x holds -inf at row 99, feature 2"):
        train(lazy(real), out, y=y, **OPTIONS)
    assert names(tmp_path) == set()
    train(x, out, y=y, **OPTIONS)
    with pytest.raises(OptionError, match="m already exists"):
        train(lazy(x).map_blocks(lambda block: 1 / 0, meta=x[:0]), out, y=y, **OPTIONS)


def test_on_a_cluster(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    x, y = samples(True)
    train(x, tmp_path / "here", y=y, **OPTIONS)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, protocol="inproc://",
            dashboard_address="127.0.0.1:0", silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        found = train(lazy(x), tmp_path / "there", y=lazy(y), client=client, **OPTIONS)
    assert found.cluster is not None and found.cluster.tasks > 0
    same(tmp_path / "there", tmp_path / "here")
