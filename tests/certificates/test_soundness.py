"""No certified radius is too large: all perturbations on tiny grids, attacks on larger ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference

from boxnn_numba import Boxes, BoxNN, Grid, fit
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import pairwise_radius
from boxnn_numba.data.sources.catalogue import BUNDLED_SAMPLE
from boxnn_numba.training.options import PRESETS as EVERY

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)


def decisive_codes(boxes: Boxes, feature: int) -> list[int]:
    """The codes of a feature around which the slope of some penalty changes, and both ends."""
    found = {0, 255}
    for bound in (*boxes.lower[:, feature].tolist(), *boxes.upper[:, feature].tolist()):
        for offset in (0, boxes.width):
            for near in (-1, 0, 1):
                found |= {bound - offset + near, bound + offset + near}
    return sorted(code for code in found if 0 <= code <= 255)


def all_predictions(model: BoxNN, x: list[int], radius: int, group_size: int) -> set[int]:
    """Every class that rewriting `radius` groups of features can lead to."""
    n = len(x)
    groups = [range(start, start + group_size) for start in range(0, n, group_size)]
    # Up to two features really all codes, more at the codes that can matter.
    values = [range(256) if n < 3 else decisive_codes(model.boxes, k) for k in range(n)]
    changed = np.array(list(reference.perturbations(x, radius, values, groups)), np.uint8)
    return set(model.predict(changed).tolist())


def tiny_model(seed: int, width: int, n_features: int, group_size: int) -> BoxNN:
    """Boxes of two classes at opposite ends, on a coarse grid of codes so that distances tie."""
    rng = np.random.default_rng([seed, n_features])
    labels = np.array([0, 1, 0, 1])
    chance = 0.2 if seed else 0.0
    moved = np.where(rng.random((4, n_features)) < chance, 255 - width, 0)
    sides = np.where(labels[:, None] == 0, moved, 255 - moved)
    thick = rng.choice([0, 0, 1, 10], sides.shape) if seed else 0
    lower, upper = np.clip(sides - thick, 0, 255), np.clip(sides + thick, 0, 255)
    return BoxNN(Boxes(lower, upper, labels, width), [0, 1], group_size=group_size)


def tiny_samples(seed: int, n_features: int) -> np.ndarray:
    """Samples on both sides, some of their features on the other."""
    rng = np.random.default_rng([seed, n_features, 1])
    side = rng.choice([0, 255], (14, 1))
    flipped = np.where(rng.random((14, n_features)) < 0.15, 255 - side, side)
    return np.concatenate([flipped, rng.integers(0, 256, (2, n_features))])


@pytest.mark.parametrize(
    ("n_features", "group_size", "largest"),
    [(1, 1, 0), (2, 1, 1), (3, 1, 1), (4, 1, 2), (4, 2, 1), (5, 1, 2)],
)
@pytest.mark.parametrize("width", [1, 100, 255])
def test_no_perturbation_within_the_radius_changes_the_prediction(
    width: int, n_features: int, group_size: int, largest: int
) -> None:
    reached = set()
    for seed in range(5):
        model = tiny_model(seed, width, n_features, group_size)
        samples = tiny_samples(seed, n_features)
        distance = model.class_distance(samples).tolist()
        for x, row, label, radius in zip(
            samples.tolist(), distance, *model.certify(samples), strict=True
        ):
            assert (label, radius) == reference.certificate(row, width, group_size)
            assert all_predictions(model, x, int(radius), group_size) == {int(label)}
            reached.add((int(label), int(radius)))
    # Not vacuous: each class was certified as far as so few features allow (ties go to class 0).
    best = [max(radius for label, radius in reached if label == c) for c in (0, 1)]
    tied = 2 * largest * group_size == n_features
    assert best == [largest, largest - tied]


def test_brute_force_finds_flips_just_beyond_the_radius() -> None:
    """The oracle above would notice radii that are too large: often one more feature flips."""
    flips = total = 0
    for seed, width in itertools.product(range(6), (1, 100, 255)):
        model = tiny_model(seed, width, 3, 1)
        samples = tiny_samples(seed, 3)
        for x, label, r in zip(samples.tolist(), *model.certify(samples), strict=True):
            if r < 3:
                total += 1
                flips += all_predictions(model, x, int(r) + 1, 1) != {int(label)}
    assert total > 100 and flips > 0.5 * total


def test_radius_is_met_exactly_where_boxes_are_far_apart() -> None:
    model = BoxNN(Boxes([[0] * 5, [200] * 5], [[50] * 5, [255] * 5], [0, 1], 100), ["a", "b"])
    label, radius = model.certify([[25] * 5])
    assert (label.tolist(), radius.tolist()) == (["a"], [2])
    codes = [[255] * k + [25] * (5 - k) for k in range(6)]
    assert model.predict(codes).tolist() == ["a", "a", "a", "b", "b", "b"]
    other = model.certify([[230] * 5])
    assert (other.prediction.tolist(), other.radius.tolist()) == (["b"], [2])


@pytest.mark.parametrize("convention", ["sound", "paper"])
def test_an_even_margin_of_a_later_class_is_where_the_paper_is_not_sound(convention: str) -> None:
    """Two features tie two boxes; the tie goes to class 0, so class 1 is certified at 1 only."""
    model = BoxNN(Boxes([[0] * 4, [9] * 4], [[0] * 4, [9] * 4], [0, 1], 1), [0, 1])
    sample = [[9, 9, 9, 9]]
    radius = int(model.certify(sample, convention).radius[0])
    flipped = model.predict([[0, 0, 9, 9]]).tolist() != [1]
    assert flipped and radius == (1 if convention == "sound" else 2)


# --- larger models ------------------------------------------------------------------------


@st.composite
def models(draw: st.DrawFn) -> tuple[BoxNN, np.ndarray, np.random.Generator]:
    """Random boxes in clusters, with samples near them that have room for an attack."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n_features = draw(st.sampled_from([24, 30, 36]))
    group_size = draw(st.sampled_from([1, 1, 2, 3]))
    width = draw(st.sampled_from([1, 2, 40, 100, 128, 254, 255]))
    n_classes = draw(st.integers(2, 4))
    labels = np.arange(3 * n_classes) % n_classes
    centres = rng.integers(0, 256, (n_classes, n_features))
    half = draw(st.sampled_from([0, 10, 40]))
    middle = centres[labels] + rng.integers(-60, 61, (len(labels), n_features))
    lower, upper = np.clip(middle - half, 0, 255), np.clip(middle + half, 0, 255)
    model = BoxNN(
        Boxes(lower, upper, labels, width, n_classes), range(n_classes), group_size=group_size
    )
    y = np.arange(6) % n_classes
    x = np.clip(centres[y] + rng.integers(-50, 51, (6, n_features)), 0, 255).astype(np.uint8)
    return model, x, rng


def attacks(
    model: BoxNN, x: np.ndarray, label: int, radius: int, rng: np.random.Generator
) -> np.ndarray:
    """Rewrite `radius` groups at random, and greedily towards each rival box."""
    groups = np.arange(len(x)).reshape(-1, model.group_size)
    budget = min(radius, len(groups))
    found = [x]
    for _ in range(20):
        changed = x.copy()
        features = groups[rng.permutation(len(groups))[:budget]].ravel()
        changed[features] = rng.choice([0, 255, *rng.integers(0, 256, 4)], len(features))
        found.append(changed)
    own = np.flatnonzero(model.boxes.labels == label)
    for m in np.flatnonzero(model.boxes.labels != label):
        nearest = min(own, key=lambda j: reference.distances([x], *_bounds(model, j), 255)[0][0])
        found.append(_greedy(model, x, groups, budget, int(nearest), int(m)))
    return np.array(found)


def _bounds(model: BoxNN, m: int) -> tuple[np.ndarray, np.ndarray]:
    return model.boxes.lower[m : m + 1], model.boxes.upper[m : m + 1]


def _greedy(
    model: BoxNN, x: np.ndarray, groups: np.ndarray, budget: int, own: int, rival: int
) -> np.ndarray:
    """Give the features that gain most the code that is best for `rival` against `own`."""
    boxes = model.boxes
    best = x.copy()
    gains = np.zeros(len(x))
    for k in range(len(x)):

        def lead(code: int, k: int = k) -> float:
            sides = ((boxes.lower[m, k], boxes.upper[m, k]) for m in (own, rival))
            of_own, of_rival = (
                reference.penalty(code, int(a), int(b), boxes.width) for a, b in sides
            )
            return of_own - of_rival

        code = max(decisive_codes(boxes, k), key=lead)
        best[k], gains[k] = code, lead(code) - lead(int(x[k]))
    order = np.argsort(-gains[groups].sum(axis=1), kind="stable")[:budget]
    changed = x.copy()
    changed[groups[order].ravel()] = best[groups[order].ravel()]
    return changed


@SETTINGS
@given(models())
def test_attacks_within_the_radius_fail(
    case: tuple[BoxNN, np.ndarray, np.random.Generator],
) -> None:
    model, samples, rng = case
    for x, label, radius in zip(samples, *model.certify(samples), strict=True):
        attacked = attacks(model, x, int(label), int(radius), rng)
        assert (attacked != x).reshape(len(attacked), -1, model.group_size).any(axis=2).sum(
            axis=1
        ).max() <= radius
        assert set(model.predict(attacked).tolist()) == {int(label)}


def test_greedy_attack_succeeds_beyond_the_radius() -> None:
    """The attack is strong enough to mean something: a few more features flip most samples."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 256, (2, 30))
    model = BoxNN(Boxes(centres, centres, [0, 1], 128), [0, 1])
    x = np.clip(centres[[0] * 20] + rng.integers(-50, 51, (20, 30)), 0, 255).astype(np.uint8)
    beaten = 0
    for row, label, radius in zip(x, *model.certify(x), strict=True):
        beaten += set(model.predict(attacks(model, row, 0, int(radius) + 3, rng))) != {int(label)}
    assert beaten >= 15


def test_certificate_holds_for_raw_features() -> None:
    """Any value of a real feature, also outside the training range, is some code."""
    rng = np.random.default_rng(4)
    centres = rng.normal(0, 3, (2, 12))
    y = np.arange(80) % 2
    x = centres[y] + rng.normal(0, 1, (80, 12))
    grid = Grid.fit(x)
    codes = grid.encode(centres).astype(int)
    boxes = Boxes(np.clip(codes - 20, 0, 255), np.clip(codes + 20, 0, 255), [0, 1], 120)
    model = BoxNN(boxes, ["no", "yes"], grid)
    prediction, radius = model.certify(x)
    assert radius.max() >= 2
    for row, label, r in zip(x, prediction, radius, strict=True):
        attacked = np.repeat(row[None], 40, axis=0)
        for changed in attacked:
            features = rng.choice(12, min(int(r), 12), replace=False)
            changed[features] = _extreme_values(rng, len(features))
        assert set(model.predict(attacked)) == {label}


def _extreme_values(rng: np.random.Generator, n: int) -> Sequence[float]:
    values = [-1e300, 1e300, 0.0, -5e-324, *rng.normal(0, 10, 4)]
    return [float(value) for value in rng.choice(values, n)]


# --- trained models, real images ------------------------------------------------------------

#: Those that train one set of boxes, as it is checked here.
PRESETS = [preset for preset in EVERY if preset != "auto"]
WIDTHS = (1, 16, 64, 128, 255)
#: Images that are attacked with each model.
IMAGES = 670


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    """The bundled sample of MNIST, images as rows."""
    with np.load(BUNDLED_SAMPLE) as file:
        return {name: file[name].reshape(len(file[name]), -1) for name in file.files}


def nearest_class(boxes: Boxes, x: np.ndarray) -> int:
    """The prediction by its definition, in NumPy."""
    outside = np.maximum(boxes.lower.astype(int) - x, x - boxes.upper.astype(int))
    return int(boxes.labels[outside.clip(0, boxes.width).sum(axis=1).argmin()])


@pytest.mark.filterwarnings("ignore:class . was given up")  # after two epochs
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("preset", PRESETS)
def test_no_attack_on_real_images_beats_a_certificate(
    preset: str, width: int, sample: dict[str, np.ndarray]
) -> None:
    assert len(PRESETS) * len(WIDTHS) * IMAGES >= 10_000
    radius = {"radius": 4} if preset == "target" else {}
    model = fit(
        sample["x"][:4000], sample["y"][:4000, 0], preset=preset, width=width, boxes=60,
        epochs=2, lr=0.5, device="cpu", **radius,
    )  # fmt: skip
    first = IMAGES * (WIDTHS.index(width) + len(WIDTHS) * list(PRESETS).index(preset))
    rows = (first + np.arange(IMAGES)) % len(sample["x_test"])
    x, y = sample["x_test"][rows], sample["y_test"][rows, 0]
    before, margin = model.certify(x)
    pairwise = pairwise_radius(model, x)
    found = greedy_attack(model, x, tries=4)

    flipped = found.changed >= 0
    changed = (found.x_adv != x).sum(axis=1)
    np.testing.assert_array_equal(changed[flipped], found.changed[flipped])
    np.testing.assert_array_equal(model.predict(found.x_adv) != before, flipped)
    for row, label in zip(found.x_adv[:20], found.prediction[:20], strict=True):
        assert model.classes[nearest_class(model.boxes, row)] == label
    np.testing.assert_array_equal(pairwise.prediction, before)
    assert not (flipped & (changed <= margin)).any()
    assert not (flipped & (changed <= pairwise.radius)).any()
    # Not vacuous: models that are right and certify, and attacks that need one change more.
    assert (before == y).mean() > 0.5 and margin.mean() > 3
    assert (flipped & (changed == pairwise.radius + 1)).mean() > 0.9
    assert (flipped & (changed == margin + 1)).mean() > 0.05
