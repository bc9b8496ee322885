"""Training on arrays of any kind: the same rows give the same model, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from boxnn_numba import BoxNN, BoxNNClassifier, fit
from boxnn_numba.errors import InputError, OutputError
from boxnn_numba.training import rows as rows_module
from boxnn_numba.training.data import Arrays
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.selection import validation_split

OPTIONS: dict[str, Any] = {"preset": "graded", "boxes": 12, "epochs": 2, "seed": 3}
N = 600


def samples(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three classes, in no order."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(N) % 3)
    noise = rng.integers(0, 120, (N, 6, 5))
    codes = np.clip(60 * y[:, None, None] + noise, 0, 255).astype(np.uint8)
    reals = rng.normal(0, 1, (N, 11)) + 2 * y[:, None]
    gaps = np.where(rng.random(reals.shape) < 0.05, np.nan, reals)
    x = {
        "images": codes,
        "codes": codes.reshape(N, -1),
        "flags": (rng.random((N, 9)) < 0.2 + 0.3 * y[:, None]).astype(np.uint8),
        "float64": reals,
        "float32": reals.astype(np.float32),
        "integers": rng.integers(0, 500, (N, 7)) + 300 * y[:, None],
        "gaps": gaps,
    }[kind]
    return x, y


KINDS = ("images", "codes", "flags", "float64", "float32", "integers", "gaps")


def dask(x: np.ndarray) -> da.Array:
    """In uneven blocks of rows, and of columns."""
    return da.from_array(x, chunks=((50, 300, 250), *(4 for _ in x.shape[1:])))


def unknown(x: np.ndarray) -> da.Array:
    """In blocks whose lengths Dask does not know; some are empty."""
    double = da.from_array(np.concatenate((x, x)), chunks=(100, *x.shape[1:]))
    return double[da.from_array(np.arange(2 * len(x)) < len(x), chunks=100)]


def stored(x: np.ndarray) -> Any:
    return zarr.array(x, chunks=(70, *x.shape[1:]))


def sharded(x: np.ndarray) -> Any:
    return zarr.create_array({}, data=x, chunks=(10, *x.shape[1:]), shards=(100, *x.shape[1:]))


def labelled(x: np.ndarray) -> Any:
    xarray = pytest.importorskip("xarray")
    return xarray.DataArray(dask(x), dims=("row", *"abc"[: x.ndim - 1]))


@pytest.fixture
def mapped(tmp_path: Path) -> Callable[[np.ndarray], np.ndarray]:
    def make(x: np.ndarray) -> np.ndarray:
        np.save(tmp_path / "x.npy", x)
        return np.load(tmp_path / "x.npy", mmap_mode="r")

    return make


def same(one: BoxNN, other: BoxNN) -> None:
    for a, b in zip(one.box_sets, other.box_sets, strict=True):
        for name in ("lower", "upper", "labels"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (one.grid is None) == (other.grid is None)
    if one.grid is not None and other.grid is not None:
        np.testing.assert_array_equal(one.grid.edges, other.grid.edges)
        np.testing.assert_array_equal(one.grid.codes, other.grid.codes)
    assert one.classes == other.classes and one.feature_shape == other.feature_shape


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_of_the_same_rows(
    kind: str, mapped: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several windows, and with a grid of a part of the rows."""
    monkeypatch.setattr("boxnn_numba.training.data.WINDOW_BYTES", 1000)
    monkeypatch.setattr("boxnn_numba.training.data.GRID_ROWS", 200)
    monkeypatch.setattr("boxnn_numba.training.rows.STEP_BYTES", 700)
    x, y = samples(kind)
    first = fit(x, y, **OPTIONS)
    for other in (dask, unknown, stored, sharded, labelled, mapped):
        same(fit(other(x), y, **OPTIONS), first)
    same(fit(dask(x), da.from_array(y, chunks=77), **OPTIONS), first)
    same(fit(x, zarr.array(y), **OPTIONS), first)
    monkeypatch.undo()
    whole = fit(x, y, **OPTIONS)
    same(fit(dask(x), y, **OPTIONS), whole)
    assert kind == "flags" or not np.array_equal(whole.boxes.lower, first.boxes.lower)


@pytest.mark.parametrize("kind", ["codes", "float64", "flags"])
@pytest.mark.parametrize("preset", ["auto", "graded"])
@pytest.mark.usefixtures("short_search")
def test_classifiers_of_lazy_rows(
    kind: str, preset: str, mapped: Callable[[np.ndarray], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("boxnn_numba.training.data.WINDOW_BYTES", 1000)
    x, y = samples(kind)
    weights = np.arange(N) % 4
    held = 0.2 if preset == "graded" else 0.0
    others = (dask, stored, mapped) if preset == "graded" else (dask,)

    def fitted(x: Any) -> BoxNNClassifier:
        classifier = BoxNNClassifier(preset, epochs=2, effort=0.05, validation=held)
        return classifier.fit(x, y, sample_weight=weights)

    first = fitted(x)
    for other in others:
        found = fitted(other(x))
        same(found.model_, first.model_)
        assert found.n_features_in_ == x.shape[1] and not hasattr(found, "feature_names_in_")
        np.testing.assert_array_equal(found.predict_proba(x), first.predict_proba(x))
        np.testing.assert_array_equal(found.column_importances_, first.column_importances_)


def test_frames_of_dask_have_names_and_categories() -> None:
    frames = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    x, y = samples("gaps")
    table = pandas.DataFrame(x[:, :3], columns=["a", "b", "c"])
    table["city"] = np.array(["Bonn", "Kiel", "Ulm"])[(y + (np.arange(N) % 7 == 0)) % 3]
    frame, labels = frames.from_pandas(table, npartitions=4), pandas.Series(y)
    first = fit(table, y, **OPTIONS)
    found = fit(frame, frames.from_pandas(labels, npartitions=3), **OPTIONS)
    same(found, first)
    assert found.columns == first.columns and found.columns.names == ["a", "b", "c", "city"]
    one, other = (BoxNNClassifier("graded", epochs=1).fit(each, y) for each in (table, frame))
    same(other.model_, one.model_)
    assert other.feature_names_in_.tolist() == one.feature_names_in_.tolist()
    np.testing.assert_array_equal(other.predict(table), one.predict(table))


# --- blocks are computed once --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["codes", "float64"])
def test_every_block_is_computed_once(kind: str) -> None:
    x, y = samples(kind)
    seen: list[int] = []

    def block(number: np.ndarray) -> np.ndarray:
        seen.append(int(number[0, 0]))
        return x[100 * number[0, 0] : 100 * number[0, 0] + 100]

    numbers = da.arange(6, chunks=1)[:, None]
    lazy = numbers.map_blocks(block, chunks=((100,) * 6, (x.shape[1],)), dtype=x.dtype, meta=x[:0])
    same(fit(lazy, y, **OPTIONS), fit(x, y, **OPTIONS))
    assert sorted(seen) == [*range(6)]


MEMORY = """
import sys
import dask.array as da
import numpy as np
from boxnn_numba import fit
from boxnn_numba.training import data

data.WINDOW_BYTES, data.GRID_ROWS = 4 * 2**20, 4000
rows, columns, kind = 200_000, {columns}, np.{kind}

def block(numbers):
    found = np.random.default_rng(int(numbers[0, 0])).integers(0, 256, (4000, columns), np.uint8)
    found[:, 0] = np.arange(4000) % 2 * 255
    return found.astype(kind)

def figures(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

def trained(count):
    x = da.arange(count // 4000, chunks=1)[:, None].map_blocks(
        block, chunks=((4000,) * (count // 4000), (columns,)), dtype=kind,
        meta=np.empty((0, 0), kind),
    )
    return fit(x, np.arange(count) % 2, preset="graded", boxes=4, epochs=1, batch=10_000)

trained(8000)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = figures("VmRSS")
trained(rows)
print(figures("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(("kind", "columns"), [("uint8", 1000), ("float32", 250)])
def test_memory_does_not_grow_with_the_rows(kind: str, columns: int) -> None:
    """Of 200 MB of codes, and as much of reals, only some blocks and windows are in memory."""
    code = MEMORY.format(kind=kind, columns=columns)
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 120, f"{done.stdout} MB"


# --- what is wrong -------------------------------------------------------------------------


class ComputedError(Exception):
    """A block was computed."""


def costly(x: np.ndarray) -> da.Array:
    """An array that must not be computed."""

    def fail(block: np.ndarray) -> np.ndarray:
        raise ComputedError

    return da.from_array(x, chunks=(100, -1)).map_blocks(fail, meta=x[:0], dtype=x.dtype)


@pytest.mark.parametrize("face", [fit, BoxNNClassifier().fit])
def test_what_is_wrong_is_said_before_anything_is_computed(face: Callable[..., Any]) -> None:
    x, y = samples("float64")
    with pytest.raises(ComputedError):
        face(costly(x), y)
    with pytest.raises(ValueError, match="one class"):
        face(costly(x), np.zeros(N, int))
    if face is fit:
        with pytest.raises(InputError, match="y has 599 labels for 600 rows; they must agree"):
            face(costly(x), y[1:])
        with pytest.raises(ValueError, match="boxes"):
            face(costly(x), y, boxes=0)
    else:
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            face(costly(x), y[1:])
    with pytest.raises(InputError, match=r"is empty, shape \(0, 11\)"):
        face(da.from_array(x)[:0], y[:0])
    some = da.from_array(np.ones(x.shape[1], bool))
    with pytest.raises(InputError, match="number of columns must be known, call `compute_chunk"):
        face(costly(x)[:, some], y)
    with pytest.raises(InputError, match="dtype object; features must be numbers"):
        face(da.from_array(x.astype(object), chunks=100), y)
    with pytest.raises(InputError, match=r"shape \(600,\); pass"):
        face(costly(x)[:, 0], y)


def test_what_is_wrong_in_blocks_is_named() -> None:
    x, y = samples("float64")
    with pytest.raises(InputError, match="y has 599 labels for 600 rows; they must agree"):
        fit(unknown(x), y[1:], **OPTIONS)
    x[431, 7] = np.inf
    for make in (lambda x: x, dask, unknown, stored):
        with pytest.raises(InputError, match="x holds inf at row 431, feature 7"):
            fit(make(x), y, **OPTIONS)
    lies = da.from_array(x, chunks=(100, -1)).map_blocks(np.float32, meta=x[:0], dtype=x.dtype)
    with pytest.raises(InputError, match=r"float32 rows .* and says that they are float64"):
        fit(lies, y, **OPTIONS)


def test_nothing_reads_on_where_a_block_is_wrong() -> None:
    """As garbage the blocks would be waited for, maybe where Dask holds a lock that they need."""
    x, y = samples("float64")
    model = fit(x, y, **OPTIONS)
    x[3, 7] = np.inf
    for call in (lambda: fit(dask(x), y, **OPTIONS), lambda: BoxNNClassifier().fit(dask(x), y),
                 lambda: model.predict(stored(x))):  # fmt: skip
        with pytest.raises(InputError, match="inf at row 3, feature 7") as caught:
            call()
        assert not [thread for thread in threading.enumerate() if "boxnn-" in thread.name]
        del caught


def test_no_space_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x, y = samples("float64")
    usage = rows_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(rows_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"^x needs 0\.0 GB .*; set TMPDIR to a"):
        fit(costly(x), y, **OPTIONS)
    monkeypatch.undo()

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None: ...

        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows_module.tempfile, "TemporaryFile", lambda prefix: Full())
    with pytest.raises(OutputError, match=r"after 0 rows: No space left on device; set TMPDIR"):
        fit(dask(x), y, **OPTIONS)


def test_temporary_files_are_closed_whatever_happens() -> None:
    x, y = samples("float64")
    with pytest.raises(KeyboardInterrupt), Arrays(dask(x), y).opened() as data:
        feed, grid = data.feed(TrainingOptions(boxes=6), window_bytes=1000)
        assert grid is not None
        expected = grid.encode(x)[validation_split(y, 0.1, 0)[0][:5]]
        np.testing.assert_array_equal(feed.take(np.arange(5)), expected)
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="closed file"):
        feed.take(np.arange(5))
