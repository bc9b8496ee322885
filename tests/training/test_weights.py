"""Weights of classes and rows: what an epoch visits, what they may be, and what they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxnn_numba import fit
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.selection import validation_split
from boxnn_numba.training.weights import (
    class_weight_text,
    class_weights,
    recall_weights,
    row_weights,
)


def feed_of(weights: np.ndarray, sizes: tuple[int, ...], seed: int) -> Feed:
    """Rows that are numbered by their one code, in windows."""
    starts = np.concatenate(([0], np.cumsum(sizes)))
    codes = np.arange(sum(sizes), dtype=np.uint8)[:, None]

    def load(window: int) -> np.ndarray:
        return codes[starts[window] : starts[window + 1]]

    labels = np.zeros(len(codes), np.int32)
    return Feed(labels, sizes, 1, load, lambda: iter(()), seed, weights=weights)


def visits(feed: Feed, epoch: int, batch: int) -> np.ndarray:
    count = np.zeros(len(feed), int)
    for x, _ in feed.batches(epoch, batch):
        np.add.at(count, x[:, 0], 1)
    return count


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1))
def test_an_epoch_has_as_many_rows_as_there_are(seed: int, batch: int, sizes: list[int]) -> None:
    sizes = sizes[:5]
    weights = np.random.default_rng(seed).exponential(size=sum(sizes)) + 1e-3
    feed = feed_of(weights * len(weights) / weights.sum(), tuple(sizes), seed)
    assert feed.weights is not None
    for epoch in range(3):
        count = visits(feed, epoch, batch)
        assert count.sum() == len(feed)
        # Systematic sampling: no more than one visit from the share that is due.
        assert (np.abs(count - feed.weights) < 1 + 1e-9).all()


def test_rows_are_visited_as_often_as_they_weigh() -> None:
    weights = np.array([0.0, 0.5, 1.0, 2.5])
    feed = feed_of(weights, (3, 1), 0)
    mean = np.mean([visits(feed, epoch, 2) for epoch in range(600)], axis=0)
    np.testing.assert_allclose(mean, weights, atol=0.06)


def test_equal_weights_change_nothing() -> None:
    plain = feed_of(np.ones(9), (4, 5), 3)
    for (x, _), (other, _) in zip(
        plain.batches(1, 4), feed_of(np.ones(9), (4, 5), 3).batches(1, 4), strict=True
    ):
        np.testing.assert_array_equal(x, other)
    assert row_weights(np.array([0, 0, 1, 1]), ["a", "b"], "balanced") is None


def test_weights_by_their_definition() -> None:
    labels = np.array([0, 0, 0, 1])
    counts = np.bincount(labels)
    np.testing.assert_allclose(class_weights("balanced", "ab", counts), [4 / 6, 4 / 2])
    np.testing.assert_allclose(class_weights("b=3", "ab", counts), [1, 3])
    rows = row_weights(labels, ["a", "b"], "b=3", [1, 1, 2, 1])
    assert rows is not None
    np.testing.assert_allclose(rows, np.array([1, 1, 2, 3]) * 4 / 7)
    assert class_weight_text({"a": 2, "b": 0.5}) == "a=2,b=0.5"
    assert class_weight_text(None) == "none"


@pytest.mark.parametrize(
    ("class_weight", "sample_weight", "words"),
    [
        ("c=2", None, "`class_weight` names class 'c'; the classes are a, b"),
        ("a=-1", None, "class_weight of a is -1"),
        ("a=0,b=0", None, "all rows have a weight of zero"),
        ("none", [1, 1, -2, 1], "`sample_weight` of row 2 is -2"),
        ("none", [1, np.nan, 1, 1], "`sample_weight` of row 1 is nan"),
        ("none", [0, 0, 0, 0], "all rows have a weight of zero"),
        ("none", [1, 1], r"shape \(2,\) and there are 4 rows"),
    ],
)
def test_wrong_weights(class_weight: str, sample_weight: Any, words: str) -> None:
    with pytest.raises((InputError, OptionError), match=words):
        row_weights(np.array([0, 0, 0, 1]), ["a", "b"], class_weight, sample_weight)
    with pytest.raises(OptionError, match="`class_weight` is 3; pass None"):
        class_weight_text(3)
    with pytest.raises(OptionError, match="label 'a,b', and commas"):
        class_weight_text({"a,b": 2})


def test_a_rare_class_is_found_when_it_weighs_as_much() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(3000) < 0.02).astype(int)
    x = rng.normal(0, 1, (3000, 6)) + 0.7 * y[:, None]
    fresh = (rng.random(3000) < 0.5).astype(int)
    test = rng.normal(0, 1, (3000, 6)) + 0.7 * fresh[:, None]
    options: dict[str, Any] = {"preset": "graded", "boxes": 40, "epochs": 4, "lr": 0.2}
    options |= {"width": 48, "beta": 2.0, "validation": 0.0}
    recall = [
        float((fit(x, y, class_weight=weight, **options).predict(test)[fresh == 1] == 1).mean())
        for weight in ("none", "balanced", {1: 49.0})
    ]
    assert recall[0] + 0.2 < min(recall[1:]) and abs(recall[1] - recall[2]) < 0.1


def test_weights_that_hardly_are_any_count_as_others() -> None:
    labels, weights = np.array([0, 1, 0]), np.array([1.0, 2.0, 0.0])
    tiny = row_weights(labels, "ab", sample_weight=weights * 2.0**-1074)
    np.testing.assert_array_equal(tiny, row_weights(labels, "ab", sample_weight=weights))


def test_rows_with_weight_that_are_all_held_out_are_told() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 5), np.uint8), np.arange(40) % 2
    held = validation_split(y, 0.2, 0)[1]
    with pytest.raises(InputError, match="all rows with weight are held out; give more rows"):
        fit(x, y, preset="graded", boxes=4, seed=0, validation=0.2,
            sample_weight=np.isin(np.arange(40), held))  # fmt: skip


def test_classes_that_are_given_up_weigh_more_and_more() -> None:
    weights = np.ones(4)
    low, high = np.array([0.1, 0.3, np.nan, 0.2]), np.array([0.3, 0.1, np.nan, 0.2])
    for _ in range(3):
        weights = recall_weights(weights, low, 0.2)
    np.testing.assert_array_equal(weights, [1.375, 1, 1, 1])
    for _ in range(2):
        weights = recall_weights(weights, high, 0.2)
    np.testing.assert_array_equal(weights, [1.125, 1.25, 1, 1])
    for _ in range(99):
        weights = recall_weights(weights, high, 0.2)
    np.testing.assert_array_equal(weights, [1, 2, 1, 1])


def test_weights_of_classes_multiply_those_of_rows() -> None:
    weights = np.random.default_rng(4).random(9) + 0.1
    for base in (None, weights * 9 / weights.sum()):
        feed = feed_of(np.ones(9) if base is None else base, (4, 5), 3)
        feed = replace(feed, labels=np.arange(9, dtype=np.int32) % 2, weights=base)
        assert feed.weighted(np.full(2, 1.0)) is feed
        found = feed.weighted(np.array([1.0, 3.0])).weights
        each = np.where(np.arange(9) % 2 == 1, 3.0, 1.0) * (1 if base is None else base)
        np.testing.assert_allclose(found, each * 9 / each.sum())
