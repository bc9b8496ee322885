"""Classes from labels, and the stratified test split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_files import X, Y, run

from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources.splits import LabelIndex, StratifiedSplit, count_labels
from boxnn_numba.errors import DataError


@pytest.mark.usefixtures("no_data_around")
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, -1], [-1, 9, 10]),
        (["10", "9", "-1"], [-1, 9, 10]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["1.0", "2.0", "1.0"], ["1.0", "2.0"]),
        (["007", "7", "+7", "8"], [7, 8]),
        ([True, False, True], [0, 1]),
        ([2.0, 1.0, 1.0], [1, 2]),
        (["b ", "b", "a"], ["a", "b"]),
        (np.array([2**63, 1], np.uint64), [1, 2**63]),
    ],
)
def test_classes(labels: Any, classes: list[Any]) -> None:
    y = np.repeat(np.asarray(labels), 5)
    np.savez("a.npz", x=np.arange(2.0 * len(y)).reshape(-1, 2), y=y)
    run("a.npz")
    dataset = open_dataset("out.zarr")
    assert dataset.classes == classes
    assert [type(item) for item in dataset.classes] == [type(item) for item in classes]
    assert set(dataset.read_labels("train").tolist()) == set(range(len(classes)))


@pytest.mark.usefixtures("no_data_around")
def test_labels_as_text_and_as_numbers_agree() -> None:
    np.savez("a.npz", x=X, y=Y, x_test=X, y_test=Y.astype(str))
    found = run("a.npz")
    np.testing.assert_array_equal(found["test"][1], Y)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    percent=st.integers(1, 99),
    seed=st.integers(0, 5),
    pieces=st.integers(1, 20),
    order=st.randoms(use_true_random=False),
)
def test_split_properties(
    counts: list[int], percent: int, seed: int, pieces: int, order: Any
) -> None:
    rows = [index for index, count in enumerate(counts) for _ in range(count)]
    order.shuffle(rows)
    y = np.array(rows)
    whole = StratifiedSplit(counts, percent / 100, seed)
    chosen = whole.is_test(y)
    expected = np.array(counts) * percent // 100  # exact: no fraction of a class is lost
    np.testing.assert_array_equal(whole.test_counts, expected)
    np.testing.assert_array_equal(np.bincount(y[chosen], minlength=len(counts)), expected)
    assert np.all(np.bincount(y[~chosen], minlength=len(counts)) >= 1)
    cut = StratifiedSplit(counts, percent / 100, seed)
    parts = [cut.is_test(y[start : start + pieces]) for start in range(0, len(y), pieces)]
    np.testing.assert_array_equal(np.concatenate(parts), chosen)


def test_split_is_spread_and_depends_on_the_seed() -> None:
    y = np.zeros(5000, int)
    picks = [np.flatnonzero(StratifiedSplit([5000], 0.2, seed).is_test(y)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(picks[0], picks[1])
    assert not np.array_equal(picks[0], picks[2])
    np.testing.assert_array_equal(picks[0] // 5, np.arange(1000))  # one in every run of five
    assert np.all(np.bincount(picks[0] % 5) > 150)  # at any place in it


def test_label_index_by_hand() -> None:
    counts = count_labels([np.array(["b", "a"]), np.array(["b"])])
    index = LabelIndex(counts)
    assert counts == {"b": 2, "a": 1} and index.counts(counts, "t").tolist() == [1, 2]
    assert index.encode(np.array(["b", "b", "a"]), "t").tolist() == [1, 1, 0]
    with pytest.raises(DataError, match="label 'c' of t never occurs"):
        index.encode(np.array(["c"]), "t")
