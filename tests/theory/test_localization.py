"""Sections 2 and 3 of the paper: its theorems on distributions small enough to enumerate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from boxnn_numba import Boxes, certified_radius, class_distance
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.theory.impossibility import (
    impossibility_bound,
    log_density_floor,
    two_cubes,
    vacuous_radius,
)
from boxnn_numba.theory.localization import (
    Localization,
    cube_localization,
    log_concentration,
    log_far_volume,
    robust_localization,
    separated_prediction,
    strong_localization,
)

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
SLACK = 1e-12

# --- finite domains: {0..L-1}^n with explicit distributions ----------------------------------


class Domain:
    """All points of {0..levels-1}^n, and their l0 distances."""

    def __init__(self, levels: int, n: int) -> None:
        self.n = n
        self.points = np.array(list(itertools.product(range(levels), repeat=n)))
        self.distance = (self.points[:, None] != self.points[None]).sum(axis=2)

    def expand(self, members: np.ndarray, eps: int) -> np.ndarray:
        """Return which points are within eps of a set (Lemma A.1)."""
        return (self.distance[:, members] <= eps).any(axis=1)

    def unsafe(self, prediction: np.ndarray, label: int, eps: int) -> np.ndarray:
        """Return which points have a wrong prediction within eps: U_k of Theorem 2.2."""
        return self.expand(prediction != label, eps)


DOMAINS = [Domain(2, 6), Domain(3, 4), Domain(5, 3)]
CASES = st.tuples(st.integers(0, 10**6), st.sampled_from(range(3)), st.integers(0, 4))


def random_distributions(rng, domain, n_classes, concentration=0.05):
    return rng.dirichlet(np.full(len(domain.points), concentration), n_classes)


def nearest_prototype(rng, domain, n_classes):
    """Return a classifier with robust regions: the nearest of some points, one each."""
    prototypes = rng.choice(len(domain.points), n_classes, replace=False)
    return domain.distance[:, prototypes].argmin(axis=1)


@SETTINGS
@given(CASES, st.floats(0.02, 0.98))
def test_lemma_2_3_bounds_what_is_far_from_a_set(case: tuple[int, int, int], size: float) -> None:
    seed, which, t = case
    domain, rng = DOMAINS[which], np.random.default_rng(seed)
    members = rng.random(len(domain.points)) < size
    if not members.any():
        return
    far = (domain.distance[:, members].min(axis=1) >= t).mean()
    assert far <= math.exp(log_far_volume(t, domain.n, math.log(members.mean()))) + SLACK


def test_concentration_of_cubes_of_any_size() -> None:
    # The half of the cube with at least n / 2 coordinates in their lower halves, any side a.
    rng = np.random.default_rng(0)
    for n, side in ((20, 1.0), (101, 0.01)):
        x = rng.random((20_000, n)) * side
        needed = np.maximum(0, math.ceil(n / 2) - (x < side / 2).sum(axis=1))
        assert (needed == 0).mean() >= 0.5 - 0.02
        for t in range(n + 1):
            assert (needed > t).mean() <= math.exp(log_concentration(t, n)) + 0.01
            # The same without sampling, as the distance is a binomial.
            tail = stats.binom.cdf(math.ceil(n / 2) - t - 1, n, 0.5)
            assert tail <= math.exp(log_concentration(t, n))


def test_definition_2_1_and_its_cubes() -> None:
    claim = cube_localization(0.5, 10, 0.25)
    assert claim.witnessed_by(10 * math.log(0.5) + math.log(0.75), 0.75)
    assert not claim.witnessed_by(10 * math.log(0.5) + math.log(0.75), 0.74)
    assert not claim.witnessed_by(10 * math.log(0.5), 1.0)
    assert not claim.trivial and cube_localization(1, 10, 0.25).trivial
    # More localized in more dimensions and for smaller cubes, as Section 2 says.
    assert cube_localization(0.5, 11, 0.25).exponent > claim.exponent
    assert cube_localization(0.4, 10, 0.25).exponent > claim.exponent
    assert cube_localization(0.1, 150_528, 0).log_volume == pytest.approx(-150_528 * math.log(10))


@SETTINGS
@given(st.integers(0, 10**6), st.floats(0.01, 0.99))
def test_trivial_statements_hold_for_every_density(seed: int, delta: float) -> None:
    cells = np.random.default_rng(seed).dirichlet(np.full(400, 0.1))
    size = math.ceil(400 * (1 - delta))  # the cells of largest density
    assert np.sort(cells)[::-1][:size].sum() >= 1 - delta
    assert Localization(1e-12, -math.log(size / 400), delta).trivial
    # And of the uniform density no smaller set holds as much.
    assert not Localization(0.0, -math.log(1 - delta) + 1e-9, delta).trivial


@SETTINGS
@given(CASES, st.integers(2, 4))
def test_theorem_2_2(case: tuple[int, int, int], n_classes: int) -> None:
    seed, which, eps = case
    domain, rng = DOMAINS[which], np.random.default_rng(seed)
    eps = min(eps, domain.n)
    q = random_distributions(rng, domain, n_classes)
    prediction = nearest_prototype(rng, domain, n_classes)
    regions = np.array([(prediction == k).mean() for k in range(n_classes)])
    unsafe = [domain.unsafe(prediction, k, eps) for k in range(n_classes)]
    risks = np.array([q[k][unsafe[k]].sum() for k in range(n_classes)])
    priors = rng.dirichlet(np.ones(n_classes))
    found = []
    for k in range(n_classes):
        volume, mass = (~unsafe[k]).mean(), q[k][~unsafe[k]].sum() + SLACK
        log_volume = math.log(volume) if volume else -math.inf
        elsewhere = math.log1p(-regions[k])
        # The class by itself, then Theorem 2.2 for all balanced classes at once.
        risk = min(1.0, risks[k])
        assert robust_localization(eps, risk, domain.n, elsewhere).witnessed_by(log_volume, mass)
        balanced = robust_localization(
            eps, min(1.0, risks.mean()), domain.n, math.log1p(-regions.max()), n_classes
        )
        assert balanced.witnessed_by(log_volume, mass)
        claim = robust_localization(eps, min(1.0, priors @ risks), domain.n, elsewhere)
        found.append(claim.witnessed_by(log_volume, mass))
        # The sharper exponent that the proof gives.
        assert log_volume <= -elsewhere - (eps + 1) ** 2 / domain.n + SLACK or eps == domain.n
    assert any(found)


def test_theorem_2_2_needs_a_region_of_volume_below_one() -> None:
    claim = robust_localization(3, 0.1, 10, -math.inf)
    assert claim.log_constant == math.inf and claim.trivial
    assert robust_localization(3, 0.4, 10, 0.0, n_classes=5).delta == 1.0


@SETTINGS
@given(CASES, st.integers(2, 3))
def test_theorem_3_2_with_twice_the_radius(case: tuple[int, int, int], n_classes: int) -> None:
    seed, which, eps = case
    domain, rng = DOMAINS[which], np.random.default_rng(seed)
    q = random_distributions(rng, domain, n_classes)
    # Sets that hold most of each class, less a few points.
    sets = (q > np.quantile(q, 0.8, axis=1)[:, None]) & (rng.random(q.shape) < 0.8)
    grown = np.stack([domain.expand(s, eps) if s.any() else s for s in sets], axis=1)
    twice = np.stack([domain.expand(s, 2 * eps) if s.any() else s for s in sets], axis=1)
    prediction = separated_prediction(grown)
    assert prediction.dtype == np.int32
    for k in range(n_classes):
        delta = q[k][~sets[k]].sum()
        gamma = q[k][np.delete(twice, k, axis=1).any(axis=1)].sum()
        assert q[k][domain.unsafe(prediction, k, eps)].sum() <= delta + gamma + SLACK


def test_theorem_3_2_is_false_as_it_is_printed() -> None:
    # Class 0 is (0, 0), class 1 is (1, 1), eps = 1: each set is outside of the other's
    # eps-expansion, so delta = gamma = 0, and yet no classifier is right and robust.
    domain = Domain(2, 2)
    sets = [(domain.points == k).all(axis=1) for k in range(2)]
    assert not (domain.expand(sets[0], 1) & sets[1]).any()
    for prediction in itertools.product(range(2), repeat=4):
        wrong = [domain.unsafe(np.array(prediction), k, 1)[sets[k]].any() for k in range(2)]
        assert any(wrong)
    distance = class_distance([[0, 0], [1, 1]], Boxes([[0, 0], [1, 1]], [[0, 0], [1, 1]], [0, 1]))
    assert strong_localization(distance, [0, 1], 1).risk == 1.0
    assert strong_localization(distance, [0, 1], 0).risk == 0.0


@SETTINGS
@given(st.integers(0, 10**6), st.sampled_from([1, 10, 100]), st.sampled_from([1, 3]))
def test_strong_localization_of_samples(seed: int, width: int, group: int) -> None:
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 5))
    label = rng.integers(0, n_classes, 30)
    distance = rng.integers(0, 12 * width, (30, n_classes))
    distance[np.arange(30), label] //= 4
    eps = int(rng.integers(0, 3))
    best = 2.0
    for t in range(distance.max() + 1):
        delta = sum(row[k] > t for row, k in zip(distance, label, strict=True)) / 30
        reach = t + 2 * eps * width * group
        near = [
            any(value <= reach for c, value in enumerate(row) if c != k)
            for row, k in zip(distance, label, strict=True)
        ]
        best = min(best, delta + sum(near) / 30)
    found = strong_localization(distance, label, eps, width, group)
    assert found.delta + found.gamma == pytest.approx(best)
    prediction, radius = certified_radius(distance, width, group)
    assert 1 - ((prediction == label) & (radius >= eps)).mean() <= found.risk + SLACK


# --- impossibility ---------------------------------------------------------------------------


@SETTINGS
@given(CASES, st.integers(2, 4))
def test_impossibility_bound(case: tuple[int, int, int], n_classes: int) -> None:
    seed, which, eps = case
    domain, rng = DOMAINS[which], np.random.default_rng(seed)
    eps = min(eps, domain.n)
    q = random_distributions(rng, domain, n_classes, concentration=20.0)
    prediction = nearest_prototype(rng, domain, n_classes)
    for k in range(n_classes):
        attacked = q[k][domain.unsafe(prediction, k, eps)].sum()
        log_sup = math.log(q[k].max() * len(domain.points))
        region = (prediction == k).mean()
        general = impossibility_bound(eps, domain.n, log_sup, math.log1p(-region))
        assert attacked >= general - SLACK
        if region <= 0.5:
            assert attacked >= impossibility_bound(eps, domain.n, log_sup) - SLACK


def test_impossibility_is_about_the_region_and_not_the_prior() -> None:
    # Uniform classes, and a classifier that always says 0: whatever the prior of class 0 is,
    # it is never wrong there, although the bound as printed would have it attacked.
    domain = Domain(2, 6)
    always = np.zeros(len(domain.points), int)
    assert not (always != 0).any()
    assert impossibility_bound(6, 6, 0.0) > 0.99
    assert impossibility_bound(6, 6, 0.0, -math.inf) == 0.0


@SETTINGS
@given(st.integers(1, 2000), st.floats(0, 3000))
def test_vacuous_radius_is_the_largest(n: int, log_sup: float) -> None:
    radius = vacuous_radius(n, log_sup)
    assert 0 <= radius <= n
    assert impossibility_bound(radius, n, log_sup) <= SLACK
    if radius < n:
        assert impossibility_bound(radius + 1, n, log_sup) > 0


def test_density_of_a_localized_distribution() -> None:
    assert log_density_floor(-1000.0, 0.5) == pytest.approx(1000 + math.log(0.5))
    assert log_density_floor(-0.1, 0.5) == 0.0
    assert log_density_floor(-5.0, 0.0) == 0.0
    assert vacuous_radius(784, log_density_floor(-1000.0, 0.5)) == 784


def test_example_3_1() -> None:
    for n, side in ((9, 0.3), (10, 0.1)):
        cubes = two_cubes(side, n)
        assert cubes.vacuous_radius == n
        assert impossibility_bound(n, n, cubes.log_sup_density) == 0.0
        # The majority vote is the Box-NN of the two cubes.
        high = int(256 * side) - 1
        boxes = Boxes([[0] * n, [255 - high] * n], [[high] * n, [255] * n], [0, 1])
        rng = np.random.default_rng(n)
        x = rng.integers(0, high + 1, (50, n))
        x[25:] += 255 - high
        prediction, radius = certified_radius(class_distance(x, boxes), 1)
        assert (prediction == np.arange(50) // 25).all()
        assert radius.min() == cubes.robust_radius
        # One more, and a point is within reach of both cubes.
        half = np.where(np.arange(n) < n // 2, x[0], x[-1])
        reach = max((half != x[0]).sum(), (half != x[-1]).sum())
        assert reach <= cubes.robust_radius + 1
    assert two_cubes(0.49, 2).robust_radius == 0
    assert two_cubes(1 / math.e, 784).log_sup_density == pytest.approx(784)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cube_localization(0, 3, 0.1), "side"),
        (lambda: cube_localization(0.5, 3, 1), "delta"),
        (lambda: log_far_volume(-1, 3, -0.5), "distance"),
        (lambda: log_far_volume(1, 3, 0.5), "logarithm of a share"),
        (lambda: log_concentration(1, 0), "n_features"),
        (lambda: robust_localization(4, 0.1, 3), "from 0 to 3"),
        (lambda: robust_localization(1, 1.1, 3), "risk"),
        (lambda: robust_localization(1, 0.1, 3, math.nan), "log_volume_elsewhere"),
        (lambda: impossibility_bound(1, 3, -0.5), "sup density"),
        (lambda: vacuous_radius(0, 1.0), "n_features"),
        (lambda: log_density_floor(-1.0, 2.0), "probability"),
        (lambda: two_cubes(0.5, 3), "side"),
        (lambda: strong_localization([[1, 2]], [0], -1), "radius"),
        (lambda: strong_localization([[1, 2]], [2], 1), "classes are 0..1"),
    ],
)
def test_bad_arguments_are_named(call, words) -> None:
    with pytest.raises((OptionError, InputError), match=words):
        call()
