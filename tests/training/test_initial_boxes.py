"""Boxes to start from: how many, where, and how large."""

from __future__ import annotations

import numpy as np
import pytest

from boxnn_numba.training.initial_boxes import Seeds, grown, half_side, templates_of
from boxnn_numba.training.loader import Feed


def boxes_around(codes: np.ndarray, labels: list[int], half: float) -> Seeds:
    return Seeds.none(codes.shape[1]).joined(codes, np.array(labels), half)


def test_joined_boxes_are_sorted_and_keep_their_order() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (6, 3), dtype=np.uint8)
    seeds = boxes_around(codes[:4], [2, 0, 2, 0], 10.0).joined(codes[4:], np.array([1, 0]), 0.0)
    assert seeds.labels.tolist() == [0, 0, 0, 1, 2, 2]
    order, halves = [1, 3, 5, 4, 0, 2], np.array([10, 10, 0, 0, 10, 10])[:, None]
    np.testing.assert_array_equal(seeds.bounds[0], codes[order] - halves.astype(float))
    np.testing.assert_array_equal(seeds.bounds[1], codes[order] + halves.astype(float))
    assert seeds.bounds[0].dtype == np.float32 and seeds.labels.dtype == np.int32
    assert seeds.counts(5).tolist() == [3, 1, 2, 0, 0]


def test_new_boxes_are_around_wrong_samples_and_within_the_shares() -> None:
    codes = np.arange(80, dtype=np.uint8).reshape(20, 4)
    index = np.arange(20) % 2
    present = boxes_around(codes[:3] + np.uint8(100), [0, 0, 1], 1.0)
    wrong = np.arange(20) >= 10
    feed = Feed.from_arrays(codes, index, (codes[:0], index[:0]), 0)
    seeds = grown(present, feed, wrong, np.array([4, 100]), 0.0, False, seed=1)
    assert seeds.counts(2).tolist() == [4, 1 + 5]
    for label in (0, 1):
        new = [row for row in seeds.bounds[0][seeds.labels == label].tolist() if max(row) < 99]
        assert all(row in codes[wrong & (index == label)].tolist() for row in new)
        assert len({tuple(row) for row in new}) == len(new)
    full = grown(present, feed, wrong, np.array([1, 1]), 0.0, False, seed=1)
    np.testing.assert_array_equal(full.bounds[0], present.bounds[0])


@pytest.mark.parametrize("n", [1, 2, 6])
def test_few_samples_lie_in_a_new_box_of_another_class(n: int) -> None:
    index, rng = np.repeat(np.arange(8), 25), np.random.default_rng(0)
    codes = (30 * index[:, None] + rng.integers(0, 40, (200, n))).astype(np.uint8)
    half = half_side(boxes_around(codes, index.tolist(), 0.0), codes, index, 25.5, seed=0)
    inside = 0
    for x, label in zip(codes.astype(int), index, strict=True):
        rivals = codes[index != label].astype(int)
        inside += any(all(abs(x[k] - c[k]) <= half for k in range(n)) for c in rivals)
    assert inside <= 0.05 * 200 + 1 or half == 0
    assert 0 <= half <= 25.5 and (n < 6 or half > 5)


@pytest.mark.parametrize(
    ("asked", "counts"),
    [(0, [8, 20, 20, 50]), (1, [1, 1, 1, 1]), (3, [3, 3, 3, 3]), (60, [8, 60, 60, 60])],
)
def test_templates_follow_the_boxes_of_their_class(asked: int, counts: list[int]) -> None:
    labels = np.repeat(np.arange(4), [8, 100, 120, 300])
    codes = np.random.default_rng(0).permutation(len(labels) * 100)[: len(labels)]
    seeds = boxes_around(np.stack([codes // 256, codes % 256], axis=1), labels.tolist(), 0.0)
    template = templates_of(seeds, asked, seed=0)
    for label, count in enumerate(counts):
        mine = np.unique(template[labels == label])
        np.testing.assert_array_equal(mine, mine[0] + np.arange(len(mine)))
        assert 0.8 * count <= len(mine) <= count  # A cluster may end up empty.
    assert len(np.unique(template)) == template.max() + 1


def test_sides_where_there_is_room() -> None:
    codes = np.array([[0, 0], [200, 200]], np.uint8)
    points = boxes_around(codes, [0, 1], 0.0)
    assert half_side(points, codes, np.array([0, 1]), 25.5, seed=0) == 25.5
    one = boxes_around(codes, [0, 0], 0.0)
    assert half_side(one, codes, np.array([0, 0]), 25.5, seed=0) == 25.5
    assert half_side(points, codes[:1], np.array([1]), 25.5, seed=0) < 3  # in the other's box
