"""Volumes of grown boxes against whole numbers, enumeration and Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln, logsumexp
from support import reference

from boxnn_numba import Boxes, Grid, box_distance, class_distance
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.theory.volumes import (
    codes_before,
    grown_log_volumes,
    uniform_codes,
    union_log_volume,
)

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
SLACK = 1e-12


def exact_log_volume(lower, upper, width, units, codes):
    """Count code vectors within `units` of a box by whole numbers, feature by feature."""
    ways, everything = {0: 1}, 1
    for low, high, taken in zip(lower, upper, codes, strict=True):
        grown: dict[int, int] = {}
        for code in taken:
            cost = int(reference.penalty(code, int(low), int(high), width))
            for distance, count in ways.items():
                grown[distance + cost] = grown.get(distance + cost, 0) + count
        ways = {distance: count for distance, count in grown.items() if distance <= units}
        everything *= len(taken)
    near = sum(ways.values())
    return math.log(near) - math.log(everything) if near else -math.inf


def random_boxes(rng, m, n, width, n_classes=1):
    bounds = np.sort(rng.integers(0, 256, (2, m, n)), axis=0)
    return Boxes(bounds[0], bounds[1], np.arange(m) % n_classes, width, n_classes)


@SETTINGS
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([1, 2, 30, 112, 255]))
def test_volumes_agree_with_counting(seed: int, n: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 3, n, width)
    units = int(rng.integers(0, n * width + 2))
    expected = [
        exact_log_volume(low, high, width, units, [range(256)] * n)
        for low, high in zip(boxes.lower, boxes.upper, strict=True)
    ]
    np.testing.assert_allclose(grown_log_volumes(boxes, units), expected, atol=1e-10)


@SETTINGS
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 3, 100, 255]))
def test_volumes_of_real_features_count_the_levels_of_the_grid(
    seed: int, n: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid.fit(rng.integers(0, rng.integers(1, 8), (40, n)).astype(float))
    boxes = random_boxes(rng, 3, n, width)
    units = int(rng.integers(0, n * width + 2))
    codes = [
        sorted(set(row[: count + 1])) for row, count in zip(grid.codes, grid.counts, strict=True)
    ]
    volume = grown_log_volumes(boxes, units, grid)
    space = np.array(list(itertools.product(*codes)), np.uint8)
    near = (box_distance(space, boxes.lower, boxes.upper, width) <= units).mean(axis=0)
    np.testing.assert_allclose(np.exp(volume), near, atol=1e-12)
    for low, high, value in zip(boxes.lower, boxes.upper, volume, strict=True):
        exact = exact_log_volume(low, high, width, units, codes)
        np.testing.assert_allclose(value, exact, atol=1e-12)


@pytest.mark.parametrize("n", [784, 150_528])
@pytest.mark.parametrize("radius", [0, 1, 20, 60])
def test_l0_growth_of_equal_features_is_a_binomial_tail(n: int, radius: int) -> None:
    inside = np.array([1, 100, 255])
    lower = np.full((3, n), 256 - inside[:, None])
    boxes = Boxes(lower, np.full((3, n), 255), [0, 0, 0])
    k = np.arange(radius + 1)
    choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    p = inside[:, None] / 256
    expected = logsumexp(choose + (n - k) * np.log(p) + k * np.log1p(-p), axis=1)
    np.testing.assert_allclose(grown_log_volumes(boxes, radius), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("radius", [2, 15])
def test_graded_growth_far_below_the_smallest_float(radius: int) -> None:
    n, width, low, high = 784, 112, 90, 99
    units = radius * width
    w = [0] * (width + 1)
    for code in range(256):
        w[int(reference.penalty(code, low, high, width))] += 1
    # Powers of a polynomial, in whole numbers: k w_0 f_k = sum_i (n i - k + i) w_i f_(k-i).
    f = [w[0] ** n]
    for k in range(1, units + 1):
        terms = ((n * i - k + i) * w[i] * f[k - i] for i in range(1, min(k, width) + 1))
        f.append(sum(terms) // (k * w[0]))
    expected = math.log(sum(f)) - n * math.log(256)
    boxes = Boxes(np.full((1, n), low), np.full((1, n), high), [0], width)
    assert expected < -1500
    np.testing.assert_allclose(grown_log_volumes(boxes, units), [expected], rtol=1e-11)


def test_volumes_grow_to_the_whole_domain() -> None:
    boxes = random_boxes(np.random.default_rng(3), 4, 6, 20)
    volumes = [grown_log_volumes(boxes, units) for units in range(0, 121, 10)]
    assert (np.diff(volumes, axis=0) >= 0).all()
    assert (volumes[-1] == 0).all()
    inside = np.log((boxes.upper.astype(int) - boxes.lower + 1) / 256).sum(axis=1)
    np.testing.assert_allclose(volumes[0], inside)
    l0 = Boxes(boxes.lower, boxes.upper, boxes.labels)
    assert (grown_log_volumes(l0, 2) <= grown_log_volumes(boxes, 2 * 20) + SLACK).all()


@SETTINGS
@given(st.integers(0, 10**6), st.sampled_from([1, 90]))
def test_union_lies_between_its_bounds(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid.fit(rng.integers(0, 6, (60, 4)).astype(float))
    boxes = random_boxes(rng, 8, 4, width, n_classes=2)
    units = int(rng.integers(0, 3 * width))
    before = codes_before(4, grid)
    levels = [np.unique(row[: c + 1]) for row, c in zip(grid.codes, grid.counts, strict=True)]
    space = np.array(list(itertools.product(*levels)), np.uint8)
    near = (class_distance(space, boxes) <= units).mean(axis=0)
    for label in range(2):
        lower, upper = union_log_volume(boxes, label, units, before)
        assert math.exp(lower) <= near[label] + SLACK
        assert math.exp(upper) >= near[label] - SLACK
        assert upper - lower <= math.log(4) + SLACK or lower == -math.inf


def test_union_by_monte_carlo() -> None:
    rng = np.random.default_rng(5)
    boxes = random_boxes(rng, 6, 8, 100, n_classes=3)
    before = codes_before(8)
    x = uniform_codes(rng, before, 40_000)
    distance, single = class_distance(x, boxes), box_distance(x, boxes.lower, boxes.upper, 100)
    for units in (100, 250):
        share = (single <= units).mean(axis=0)
        exact = np.exp(grown_log_volumes(boxes, units))
        assert (np.abs(share - exact) <= 5 * np.sqrt(exact / len(x)) + 1e-9).all()
        for label in range(3):
            share = (distance[:, label] <= units).mean()
            error = 5 * math.sqrt(max(share, 1e-4) / len(x))
            lower, upper = union_log_volume(boxes, label, units, before)
            assert math.exp(lower) - error <= share <= math.exp(upper) + error


def test_boxes_that_cannot_matter_are_bounded() -> None:
    lower = np.full((3, 60), 100)
    upper = np.stack([np.full(60, 200), np.full(60, 199), np.full(60, 100)])
    boxes = Boxes(lower, upper, [0, 0, 0], 50)
    volume = grown_log_volumes(boxes, 100)
    assert volume[2] < volume[0] - 100
    low, high = union_log_volume(boxes, 0, 100, codes_before(60))
    np.testing.assert_allclose([low, high], [volume[0], logsumexp(volume)], rtol=1e-12)


def test_class_without_boxes_has_no_volume() -> None:
    boxes = Boxes([[0]], [[9]], [0], 1, 2)
    assert union_log_volume(boxes, 1, 1, codes_before(1)) == (-math.inf, -math.inf)


def test_a_box_between_the_levels_is_reached_by_growing() -> None:
    grid = Grid.fit([[0.0, 0.0], [1.0, 1.0]])  # codes 0 and 255
    boxes = Boxes([[100, 0]], [[150, 0]], [0], 200)
    volume = [grown_log_volumes(boxes, units, grid)[0] for units in (99, 100, 105, 300, 305)]
    np.testing.assert_allclose(np.exp(volume), [0, 0.25, 0.5, 0.75, 1])


def test_uniform_codes_take_every_level_equally_often() -> None:
    grid = Grid.fit(np.repeat([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]], 3, axis=0))
    x = uniform_codes(np.random.default_rng(0), codes_before(2, grid), 9000)
    assert x.dtype == np.uint8 and np.unique(x[:, 1]).tolist() == [0]
    values, counts = np.unique(x[:, 0], return_counts=True)
    assert values.tolist() == [0, 128, 255]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_negative_distance_is_refused() -> None:
    with pytest.raises(OptionError, match="units is -1"):
        grown_log_volumes(Boxes([[0]], [[1]], [0]), -1)


def test_volumes_are_of_plain_boxes() -> None:
    bounds = np.zeros((2, 2), np.uint8), np.full((2, 2), 9, np.uint8)
    grouped = Boxes(*bounds, [0, 1], group=[4, 4])
    factored = Boxes(*bounds, [0, 0], template=[1, 1], part=[0, 1])
    for boxes in (grouped, factored):
        with pytest.raises(InputError, match="volumes are of plain boxes"):
            grown_log_volumes(boxes, 1)
        with pytest.raises(InputError, match="volumes are of plain boxes"):
            union_log_volume(boxes, 0, 1, codes_before(2))
    # One row a template, or one part, is a set of plain boxes.
    same = Boxes(*bounds, [0, 0], template=[1, 1]), Boxes(*bounds, [0, 0], part=[0, 1])
    found = [grown_log_volumes(boxes, 1) for boxes in (Boxes(*bounds, [0, 0]), *same)]
    assert np.ptp(found, axis=0).max() == 0
