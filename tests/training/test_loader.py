"""Feeds of several windows: every row once an epoch, in an order that depends on the seed only."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxnn_numba.data import dataset as store
from boxnn_numba.grid import Grid
from boxnn_numba.pipelines.training.dataset_loader import dataset_feed
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.selection import validation_split


def windowed(sizes: tuple[int, ...], seed: int = 0, delay: float = 0.0) -> Feed:
    """Return a feed whose rows hold their own number in two features, labelled number mod 7."""
    starts = np.concatenate(([0], np.cumsum(sizes)))

    def load(window: int) -> np.ndarray:
        time.sleep(delay * (window % 3))
        numbers = np.arange(starts[window], starts[window + 1])
        return np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8)

    labels = (np.arange(sum(sizes)) % 7).astype(np.int32)
    return Feed(labels, sizes, 2, load, lambda: iter([]), seed)


def numbers(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x[:, 0].astype(int) * 256 + x[:, 1]
    return found


def same(one: list[Pair], two: list[Pair]) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(a, c) and np.array_equal(b, d)
        for (a, b), (c, d) in zip(one, two, strict=True)
    )


SIZES = [(10,), (10, 10), (7, 7, 3), (1, 1, 1, 1, 1), (5, 0, 9, 0), (0, 4), (64, 64, 64, 9)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("size", [1, 3, 7, 10, 64, 1000])
def test_an_epoch_visits_every_row_once(sizes: tuple[int, ...], size: int) -> None:
    feed = windowed(sizes)
    for epoch in range(3):
        batches = list(feed.batches(epoch, size))
        total = sum(sizes)
        assert [len(y) for _, y in batches] == [size] * (total // size) + [total % size] * (
            total % size > 0
        )
        rows = np.concatenate([numbers(x) for x, _ in batches])
        np.testing.assert_array_equal(np.sort(rows), np.arange(total))
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), rows % 7)


def test_batches_do_not_depend_on_timing() -> None:
    sizes = (30, 30, 30, 11)
    expected = list(windowed(sizes).batches(4, 8))
    for delay in (0.004, 0.0):
        found = []
        for index, batch in enumerate(windowed(sizes, delay=delay).batches(4, 8)):
            time.sleep(0.003 * (index % 4) * (delay == 0))
            found.append(batch)
        assert same(found, expected)


def test_order_depends_on_seed_and_epoch() -> None:
    sizes = (30, 30, 11)
    first = list(windowed(sizes).batches(0, 8))
    assert same(first, list(windowed(sizes).batches(0, 8)))
    assert not same(first, list(windowed(sizes).batches(1, 8)))
    assert not same(first, list(windowed(sizes, seed=1).batches(0, 8)))


def test_one_window_is_a_full_permutation() -> None:
    feed = windowed((50,), seed=3)
    order = np.random.default_rng([3, 3, 2]).permutation(50)
    for index, (x, _) in enumerate(feed.batches(2, 8)):
        np.testing.assert_array_equal(numbers(x), np.sort(order[8 * index : 8 * index + 8]))


@pytest.mark.parametrize("weighted", [False, True])
def test_orders_that_are_kept_are_those_that_are_found(weighted: bool) -> None:
    shared: dict[Any, Any] = {}
    feed = windowed((50,))
    if weighted:
        feed = replace(feed, weights=np.random.default_rng(0).uniform(0, 2, 50))
    keeping = replace(feed, shared=shared)
    for seed, epoch, size in [(0, 0, 8), (0, 1, 8), (0, 0, 9), (1, 0, 8)]:
        expected = list(replace(feed, seed=seed).batches(epoch, size))
        for _ in range(2):
            assert same(list(replace(keeping, seed=seed).batches(epoch, size)), expected)
    assert len(shared) == 4
    several: dict[Any, Any] = {}
    list(replace(windowed((30, 20)), shared=several).batches(0, 8))
    assert not several  # of one window only


def test_rows_of_a_window_stay_near_it() -> None:
    """A batch mixes at most a window and what was left over from the one before."""
    for x, _ in windowed((40,) * 6).batches(0, 16):
        assert len(np.unique(numbers(x) // 40)) <= 2


def test_take_gives_rows_in_the_order_asked_for() -> None:
    feed = windowed((7, 0, 5, 30))
    rows = np.random.default_rng(0).permutation(np.r_[np.arange(42), [3, 3, 41]])
    np.testing.assert_array_equal(numbers(feed.take(rows)), rows)
    assert feed.take(np.empty(0, int)).shape == (0, 2)


def test_what_cannot_be_loaded_is_raised_and_ends_the_epoch() -> None:
    def load(window: int) -> np.ndarray:
        if window == 1:
            raise OSError("damaged")
        return np.zeros((4, 2), np.uint8)

    feed = Feed(np.zeros(12, np.int32), (4, 4, 4), 2, load, lambda: iter([]), 0)
    with pytest.raises(OSError, match="damaged"):
        list(feed.batches(0, 4))


# --- from a dataset on disk ----------------------------------------------------------------


def make_dataset(path: Path, real: bool, patch: pytest.MonkeyPatch) -> store.Dataset:
    rng = np.random.default_rng(0)
    kind = np.float32 if real else np.uint8
    x = np.asarray(rng.uniform(0, 256, (103, 5)), kind)
    y = (np.arange(103) % 3).astype(np.int32)
    patch.setattr(store, "CHUNK_BYTES", 8 * 5 * x.dtype.itemsize)
    store.write_dataset(path, name="d", classes=[0, 1, 2], train=(x, y), test=(x[:9], y[:9]))
    return store.open_dataset(path)


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 24, 50, 10_000])
def test_windows_of_a_dataset(
    real: bool, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "d.zarr", real, monkeypatch)
    options = TrainingOptions(validation=0.2, seed=4)
    feed, grid = dataset_feed(dataset, options, window_bytes=rows * 5)
    x, y = dataset.read("train")
    training, held = validation_split(y, 0.2, 4)
    if real:
        assert grid is not None
        codes = Grid.fit(x[training]).encode(x)
        np.testing.assert_array_equal(grid.encode(x), codes)
    else:
        assert grid is None
        codes = x
    assert len(feed.sizes) == -(-103 // rows) and sum(feed.sizes) == len(training)
    np.testing.assert_array_equal(feed.labels, y[training])
    np.testing.assert_array_equal(feed.take(np.arange(len(training))), codes[training])
    blocks = list(feed.held_out())
    np.testing.assert_array_equal(np.concatenate([a for a, _ in blocks]), codes[held])
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks]), y[held])
    batches = list(feed.batches(1, 7))
    found = np.concatenate([np.c_[a.astype(int), b] for a, b in batches])
    expected = np.c_[codes[training].astype(int), y[training]]
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_nothing_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(tmp_path / "d.zarr", False, monkeypatch)
    feed, _ = dataset_feed(dataset, TrainingOptions(validation=0.0), window_bytes=40)
    assert list(feed.held_out()) == [] and len(feed) == 103


def test_a_grid_of_some_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(tmp_path / "d.zarr", True, monkeypatch)
    monkeypatch.setattr("boxnn_numba.training.data.GRID_ROWS", 20)
    options = TrainingOptions(validation=0.0)
    grids = [dataset_feed(dataset, options, window_bytes=size)[1] for size in (40, 10_000)]
    x, _ = dataset.read("train")
    assert None not in grids
    expected = Grid.fit(x[::6])
    for grid in grids:
        np.testing.assert_array_equal(grid.encode(x), expected.encode(x))


def test_rows_held_out_are_read_once_if_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "d.zarr", False, monkeypatch)
    reads: list[int] = []
    before = store.Dataset.read_chunk

    def counted(self: store.Dataset, split: str, index: int) -> Pair:
        reads.append(index)
        return before(self, split, index)

    monkeypatch.setattr(store.Dataset, "read_chunk", counted)
    for size, again in ((105, False), (100, True)):  # 21 rows of 5 codes
        feed, _ = dataset_feed(dataset, TrainingOptions(validation=0.2), window_bytes=size)
        first = list(feed.held_out())
        assert sum(len(y) for _, y in first) == 21
        reads.clear()
        found = list(feed.held_out())
        assert bool(reads) == again
        assert same(found, first)
