"""Offsets of classes that are fitted to training rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxnn_numba import fit
from boxnn_numba.training.selection import class_offsets, even_offsets, margin_offsets


def shares(
    distance: np.ndarray, offset: np.ndarray, y: np.ndarray, weights: np.ndarray, width: int
) -> list[float]:
    """Weights of samples by the size of their margin, one by one."""
    out = []
    for size in (0, 1, 2, 4):
        total = 0.0
        for row, label, weight in zip(distance + offset, y, weights, strict=True):
            total += weight * (min(np.delete(row, label)) - row[label] > size * width)
        out.append(total)
    return out


def samples(seed: int, n_classes: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, rows)
    distance = rng.integers(0, 90, (rows, n_classes)) + rng.integers(0, 60, n_classes)
    distance[np.arange(rows), y] //= 2
    return distance, y, rng.random(rows) + 0.1


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_margins_grow_and_accuracy_stays(seed: int, n_classes: int) -> None:
    distance, y, weights = samples(seed, n_classes)
    offset = even_offsets(distance, y, weights, 10)
    before = shares(distance, np.zeros(n_classes, int), y, weights, 10)
    after = shares(distance, offset, y, weights, 10)
    assert sum(after) >= sum(before) - 1e-9 and offset.min() == 0
    assert after[0] >= before[0] - 0.01 * weights.sum() - 1e-9


def one_by_one(distance: np.ndarray, y: np.ndarray, weights: np.ndarray, width: int) -> np.ndarray:
    """What `even_offsets` returns, every offset of every class tried on its own."""
    n_classes = distance.shape[1]
    offset = np.zeros(n_classes, int)
    alike = 1 / np.bincount(y)[y]

    def accuracies(offset: np.ndarray) -> list[float]:
        return [shares(distance, offset, y, mass, width)[0] for mass in (weights, alike)]

    least = [
        found - 0.01 * mass.sum()
        for found, mass in zip(accuracies(offset), (weights, alike), strict=True)
    ]
    best = -1.0
    for c in [*range(n_classes)] * 2:
        ties = []
        for row, label in zip(distance, y, strict=True):
            moved = row + offset
            if label == c:
                ties.append(min(np.delete(moved, c)) - row[c])
            else:
                ties.append(moved[label] - row[c])
        places = np.linspace(0.02, 0.98, 49)
        for value in [offset[c], *np.unique(np.quantile(ties, places).astype(int))]:
            tried = offset.copy()
            tried[c] = value
            total = sum(shares(distance, tried, y, weights, width))
            fair = zip(accuracies(tried), least, strict=True)
            if total > best and all(found >= bound for found, bound in fair):
                best, offset = total, tried
    return offset - offset.min()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_as_all_offsets_one_by_one(n_classes: int) -> None:
    for seed in range(3):
        distance, y, weights = samples(seed, n_classes, rows=40)
        expected = one_by_one(distance, y, weights, 10)
        np.testing.assert_array_equal(even_offsets(distance, y, weights, 10), expected)


def test_nearly_the_best_of_all_for_two_classes() -> None:
    for seed in range(5):
        distance, y, weights = samples(seed, 2)
        found = shares(distance, even_offsets(distance, y, weights, 10), y, weights, 10)
        least = found[0] - 1e-9
        every = [
            sum(one)
            for step in range(-120, 121)
            if (one := shares(distance, np.array([step, 0]), y, weights, 10))[0] >= least
        ]
        assert sum(found) >= 0.97 * max(every)


def test_a_class_that_is_always_near_is_moved_away() -> None:
    distance, y, weights = samples(1, 3)
    far = distance + np.array([0, 0, 200])
    offset = even_offsets(far, y, weights, 10)
    assert offset[2] < offset[:2].min()


def mean_margin(
    distance: np.ndarray, offset: np.ndarray, y: np.ndarray, weights: np.ndarray, most: int
) -> float:
    """Mean over classes of their weighted mean margins, one by one.

    They are between `most` and where the mean is 0 if all are predicted as one class, and those
    below 0 count a quarter more.
    """
    classes = np.unique(y)
    found = dict.fromkeys(classes.tolist(), 0.0)
    for row, label, weight in zip(distance + offset, y, weights, strict=True):
        margin = min(np.delete(row, label)) - row[label]
        margin = min(max(margin, -(most // (len(classes) - 1))), most)
        margin *= 1 if margin > 0 else 1.25
        found[int(label)] += weight * margin / sum(weights[y == label])
    return sum(found.values()) / len(classes)


def recalls(
    distance: np.ndarray, offset: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Share of each class, by weight, with a margin above 0, and the mean of the shares."""
    moved, found = distance + offset, []
    for c in np.unique(y):
        rivals = np.delete(moved[y == c], c, axis=1).min(axis=1)
        found.append(np.average(rivals > moved[y == c, c], weights=weights[y == c]))
    return np.array([*found, np.mean(found)])


def one_shift_at_a_time(
    distance: np.ndarray, y: np.ndarray, weights: np.ndarray, width: int, most: int
) -> np.ndarray:
    """What `margin_offsets` returns, every shift of every class tried on its own."""
    sizes = [width / 4, width / 2, *(width * 2**power for power in range(6))]
    offset, moved = np.zeros(distance.shape[1], int), True
    lost = np.array([*[0.05] * len(offset), 0.01]) + 1e-6
    least = recalls(distance, offset, y, weights) - lost
    while moved:
        moved = False
        for c in range(len(offset)):
            best, shift = mean_margin(distance, offset, y, weights, most), 0
            for tried in (sign * round(size) for size in sizes for sign in (-1, 1)):
                there = offset.copy()
                there[c] += tried
                found = mean_margin(distance, there, y, weights, most)
                fair = (recalls(distance, there, y, weights) >= least).all()
                if fair and found > best + 1e-5:
                    best, shift = found, tried
            offset[c] += shift
            moved |= shift != 0
    return offset - offset.min()


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_margin_offsets_as_all_shifts_one_by_one(n_classes: int, weighted: bool) -> None:
    for seed in range(3):
        distance, y, weights = samples(seed, n_classes, rows=40)
        weights = weights if weighted else np.ones(40)
        expected = one_shift_at_a_time(distance, y, weights, 12, 30)
        np.testing.assert_array_equal(margin_offsets(distance, y, weights, 12, 30), expected)


def test_margin_offsets_are_nearly_the_best_that_cost_no_recall() -> None:
    for seed in range(5):
        distance, y, weights = samples(seed, 2)
        offset = margin_offsets(distance, y, weights, 12, 30)
        least = recalls(distance, 0 * offset, y, weights) - [0.051, 0.051, 0.011]
        assert (recalls(distance, offset, y, weights) >= least).all()
        every = [
            mean_margin(distance, moved, y, weights, 30)
            for moved in (np.array([step, 0]) for step in range(-120, 121))
            if (recalls(distance, moved, y, weights) >= least).all()
        ]
        assert mean_margin(distance, offset, y, weights, 30) >= max(every) - 0.5


def test_no_class_between_others_is_given_up_for_their_margins() -> None:
    """Boxes that learn three classes in an order: the middle one is in the way of the others."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 400)
    x = np.clip(rng.normal(90, 30, (1200, 12)) + 50 * y[:, None], 0, 255).astype(np.uint8)
    more = {"preset": "graded", "boxes": 8, "epochs": 3, "lr": 0.03, "beta": 6.0}
    for offsets in ("none", "margin"):
        predicted = fit(x, y, offsets=offsets, **more).predict(x)
        assert min((predicted == y)[y == c].mean() for c in range(3)) > 0.8


def test_of_a_class_without_weight_nothing_is_known() -> None:
    distance, y, weights = samples(0, 3)
    weights[y == 2] = 0
    assert not margin_offsets(distance, y, weights, 12, 30).any()
    some = y != 2
    assert not margin_offsets(distance[some], y[some], weights[some], 12, 30).any()
    assert not margin_offsets(distance[:, :1], 0 * y, weights, 12, 30).any()


@pytest.mark.parametrize("rare", [1, 0.1])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_margin_offsets_make_no_constant_of_what_cannot_be_learned(
    n_classes: int, rare: float
) -> None:
    """A constant prediction has large margins wherever it is right."""
    rng = np.random.default_rng(n_classes)
    share = np.array([rare, *[1.0] * (n_classes - 1)])
    y = rng.choice(n_classes, 3000, p=share / share.sum())
    distance = rng.integers(0, 60, (3000, n_classes))
    offset = margin_offsets(distance, y, np.ones(3000), 10, 600)
    predicted = np.bincount((distance + offset).argmin(axis=1), minlength=n_classes)
    assert np.ptp(offset) < 60 and predicted.max() < 2500


def test_option_offsets_margin() -> None:
    """Few rows are all looked at, so no mean of training rows without offsets is larger."""
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1, 2], 100)
    x = rng.normal(110, 20, (300, 8)) + np.array([0, 35, 50])[y, None]
    x = np.clip(x, 0, 255).astype(np.uint8)
    more = {"preset": "graded", "boxes": 6, "epochs": 2, "lr": 0.05, "beta": 6.0, "validation": 0.0}
    gains: list[float] = []
    for members in (1, 2):
        plain, fitted = (fit(x, y, offsets=o, members=members, **more) for o in ("none", "margin"))
        np.testing.assert_array_equal(plain.boxes.lower, fitted.boxes.lower)
        assert fitted.offset.dtype == np.int64
        distance = plain.class_distance(x)
        np.testing.assert_array_equal(fitted.class_distance(x), distance + fitted.offset)
        most = int(0.9 * 6 * members * plain.boxes.width)
        before, after = (
            mean_margin(distance, offset, y, np.ones(300), most)
            for offset in (np.zeros(3, int), fitted.offset)
        )
        gains.append(after - before)
    assert min(gains) >= 0 and max(gains) > 0


def test_many_features_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 256, (90, 6), dtype=np.uint8), np.arange(90) % 3
    more = {"preset": "graded", "boxes": 6, "epochs": 1, "beta": 4.0, "offsets": "margin"}
    whole = fit(x, y, **more)
    monkeypatch.setattr("boxnn_numba.training.result._CODES", 6 * 7)
    np.testing.assert_array_equal(fit(x, y, **more).offset, whole.offset)


def test_option_offsets() -> None:
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1], 150)
    x = np.clip(rng.normal(110, 40, (300, 8)) + 35 * y[:, None], 0, 255).astype(np.uint8)
    given_options = {"preset": "graded", "boxes": 4, "epochs": 2, "lr": 0.05, "beta": 8.0}
    plain, fitted = (fit(x, y, offsets=which, **given_options) for which in ("none", "fitted"))
    np.testing.assert_array_equal(plain.boxes.lower, fitted.boxes.lower)
    assert not plain.offset.any()
    rows, labels = x[np.argsort(y)], y
    margins = [
        sum(shares(model.class_distance(rows), np.zeros(2, int), labels, np.ones(300), 112))
        for model in (plain, fitted)
    ]
    assert margins[1] >= margins[0] - 15  # some rows are held out, and not fitted to


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([0.2, 0.5, 0.9]))
def test_a_floor_that_cannot_be_reached_costs_no_class(
    seed: int, n_classes: int, least: float
) -> None:
    distance, y, _ = samples(seed, n_classes, rows=300)

    def worst(offset: np.ndarray) -> float:
        right = (distance + offset).argmin(axis=1) == y
        return min(float(right[y == c].mean()) for c in range(n_classes))

    offset, before = class_offsets(distance, y, least), worst(np.zeros(n_classes, int))
    assert offset.min() == 0 and worst(offset) >= before
    if before >= least:
        assert not offset.any()
