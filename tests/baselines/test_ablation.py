"""Randomized ablation against exhaustive adversaries, exact tails and loops."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import baseline_reference as reference

from boxnn_numba.baselines import ablation
from boxnn_numba.baselines.ablation import (
    abstention_message,
    guess_class,
    ra_radius,
    rab_radius,
    radius_of_bound,
    radius_of_bounds,
    sample_counts,
    samples_needed,
)
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.statistics import lower_bound, upper_bound

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)
SIZES = [(n, k) for n in range(1, 9) for k in range(1, n + 1)]


class Table:
    """A base classifier by look-up: class 0 unless what it sees has a drawn exception."""

    n_classes = 3

    def __init__(self, seed: int, exceptions: float) -> None:
        self.seed, self.exceptions = seed, exceptions

    def classify(self, kept: tuple[int, ...], values: tuple[int, ...]) -> int:
        rng = np.random.default_rng([self.seed, len(kept), *kept, *values])
        return int(rng.integers(1, 3)) if rng.random() < self.exceptions else 0

    def scores(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        assert not x[~kept].any()
        result = np.zeros((len(x), self.n_classes), np.float32)
        for row in range(len(x)):
            features = tuple(np.flatnonzero(kept[row]).tolist())
            result[row, self.classify(features, tuple(x[row, kept[row]].tolist()))] = 1
        return result


# --- combinatorics ---------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_overlap_by_listing_all_ablations(n: int, k: int) -> None:
    for r in range(n + 1):
        assert reference.untouched_share(n, k, r) == reference.binomial_share(n, k, r)
    total = math.comb(n, k)
    shares = {Fraction(i, 2 * total) for i in range(2 * total + 1)}
    for p in shares:
        # The strict inequality decides shares on the threshold and the doubles beside it.
        for share in (p, Fraction(float(p)), Fraction(float(np.nextafter(float(p), 0)))):
            assert radius_of_bound(share, n, k) == reference.ra_radius(share, n, k)
            assert radius_of_bound(float(share), n, k) == reference.ra_radius(
                Fraction(float(share)), n, k
            )


@SETTINGS
@given(st.sampled_from(SIZES), st.floats(0, 1), st.floats(0, 1))
def test_rab_rounds_shares_to_what_ablations_can_have(
    size: tuple[int, int], p: float, q: float
) -> None:
    expected = reference.rab_radius(Fraction(p), Fraction(q), *size)
    assert radius_of_bounds(p, q, *size) == expected
    assert radius_of_bounds(p, q, *size) >= radius_of_bound(p, *size)


@pytest.mark.parametrize("k", [1, 45, 2000, 75_264, 150_527, 150_528])
def test_large_images_do_not_overflow(k: int) -> None:
    n = 150_528
    for p, q in [(0.999, 1e-3), (0.5, 0.375)]:
        assert reference.is_largest(radius_of_bounds(p, q, n, k), Fraction(p), Fraction(q), n, k)
    # At a share that an ablation can have, rounding changes nothing and RA is RA^B with q = 1 - p.
    share = Fraction(math.ceil(Fraction(0.9) * math.comb(n, k)), math.comb(n, k))
    assert radius_of_bound(share, n, k) == radius_of_bounds(share, 1 - share, n, k)


def test_caps_of_unanimous_votes() -> None:
    found = ra_radius([[9, 0]], [0], np.array(784), np.array(45))  # as NumPy gives numbers
    assert [int(part[0]) for part in found] == [
        int(part[0]) for part in ra_radius([[9, 0]], [0], 784, 45)
    ]
    caps = [int(ra_radius([[10_000, 0]], [0], 784, k)[1][0]) for k in (10, 20, 40, 45, 60)]
    assert caps == [52, 26, 13, 11, 8]


# --- soundness against adversaries -----------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(n, k) for n, k in SIZES if math.comb(n, k) <= 28])
def test_certificates_are_exact_for_the_worst_base_classifier(n: int, k: int) -> None:
    total = math.comb(n, k)
    for own in range(total + 1):
        for rival in range(total - own + 1):
            safe = [
                reference.survives_any_base_classifier(
                    own, rival, total, total - math.comb(n - r, k)
                )
                for r in range(n + 1)
            ]
            exact = (safe.index(False) if False in safe else n + 1) - 1
            p, q = Fraction(own, total), Fraction(rival, total)
            assert radius_of_bounds(p, q, n, k) == exact
            assert radius_of_bound(p, n, k) <= exact
            if own + rival == total:
                assert radius_of_bound(p, n, k) == exact


@pytest.mark.parametrize(("n", "k"), [(8, 1), (8, 2), (7, 3), (6, 2), (5, 4), (4, 1)])
def test_no_adversary_changes_a_certified_smoothed_prediction(n: int, k: int) -> None:
    largest = -1
    for seed, exceptions in itertools.product(range(4), (0.02, 0.1, 0.25)):
        table = Table(seed, exceptions)
        x = np.random.default_rng(seed).integers(0, 2, n).tolist()
        counts = reference.smoothed_counts(table.classify, x, k, 3)
        total = sum(counts)
        p, q = Fraction(counts[0], total), Fraction(max(counts[1:]), total)
        ra, rab = radius_of_bound(p, n, k), radius_of_bounds(p, q, n, k)
        assert rab >= ra
        largest = max(largest, rab)
        for other in reference.changed(x, rab, (0, 1)):
            votes = reference.smoothed_counts(table.classify, other, k, 3)
            assert votes[0] > max(votes[1:])
    assert largest >= (1 if k < n - 2 else 0)


# --- Clopper-Pearson -------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 20])
def test_bounds_hold_by_exact_tails_and_are_tight(alpha: float) -> None:
    for samples, won in [
        (1, 1), (7, 3), (200, 199), (1000, 1), (10_000, 10_000), (10_000, 9_500), (10_000, 5_100),
    ]:  # fmt: skip
        low = float(lower_bound(np.array([won]), samples, alpha)[0])
        assert reference.tail(won, samples, low) <= alpha < reference.tail(won, samples, low + 2e-9)
        high = float(upper_bound(np.array([samples - won]), samples, alpha)[0])
        assert high == 1 - low
    assert lower_bound(np.array([0, 5]), 5, alpha)[0] == 0
    assert upper_bound(np.array([0, 5]), 5, alpha)[1] == 1


def test_coverage_by_simulation() -> None:
    rng, trials, alpha = np.random.default_rng(0), 40_000, 0.05
    allowed = alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)
    for p, samples in [(0.5, 30), (0.9, 100), (0.97, 1000), (0.6, 10_000)]:
        won = rng.binomial(samples, p, trials)
        assert (lower_bound(won, samples, alpha) > p).mean() <= allowed
        assert (upper_bound(won, samples, alpha) < p).mean() <= allowed


@pytest.mark.parametrize("guess", [0, None])
@pytest.mark.parametrize("shares", [(0.25,) * 4, (0.5, 0.5, 0, 0), (0.4, 0.4, 0.1, 0.1)])
def test_rab_claims_about_tied_classes_are_rarer_than_alpha(
    guess: int | None, shares: tuple[float, ...]
) -> None:
    trials, alpha = 20_000, 0.05
    counts = np.random.default_rng(1).multinomial(200, shares, trials)
    guesses = None if guess is None else np.zeros(trials, int)
    prediction, radius = rab_radius(counts, 784, 45, alpha, guesses)
    assert (radius[prediction < 0] == 0).all()
    assert (prediction >= 0).mean() <= alpha


def test_sampled_certificates_exceed_the_exact_ones_rarer_than_alpha() -> None:
    n, k, images, alpha = 6, 2, 300, 0.05
    table, x = Table(3, 0.15), np.array([1, 0, 1, 1, 0, 0], np.uint8)
    exact = reference.smoothed_counts(table.classify, x.tolist(), k, 3)
    p, q = Fraction(exact[0], sum(exact)), Fraction(max(exact[1:]), sum(exact))
    guesses, counts = sample_counts(
        table, np.tile(x, (images, 1)), np.arange(images), k, 60, 9, seed=5
    )
    allowed = alpha + 3 * math.sqrt(alpha * (1 - alpha) / images)
    guess = guess_class(guesses)
    for outcome, limit in [
        (ra_radius(counts, guess, n, k, alpha), radius_of_bound(p, n, k)),
        (rab_radius(counts, n, k, alpha, guess), radius_of_bounds(p, q, n, k)),
        (rab_radius(counts, n, k, alpha), radius_of_bounds(p, q, n, k)),
    ]:
        wrong = (outcome[0] > 0) | ((outcome[0] == 0) & (outcome[1] > limit))
        assert wrong.mean() <= allowed


# --- outcomes --------------------------------------------------------------------------


@SETTINGS
@given(
    st.lists(st.lists(st.integers(0, 60), min_size=2, max_size=2), min_size=1, max_size=6),
    st.integers(1, 20),
    st.sampled_from([0.05, 0.001]),
    st.data(),
)
def test_radii_of_counts_are_those_of_loops(
    rows: list[list[int]], k: int, alpha: float, data: st.DataObject
) -> None:
    counts = np.array([[a, b, 120 - a - b] for a, b in rows])
    guess = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))))
    ra = ra_radius(counts, guess, 20, k, alpha)
    rab = rab_radius(counts, 20, k, alpha, guess)
    own = rab_radius(counts, 20, k, alpha)
    for i, row in enumerate(counts):
        for found, c, share in [(rab, guess[i], alpha / 3), (own, row.argmax(), alpha / 6)]:
            p = float(lower_bound(row[c : c + 1], 120, share)[0])
            q = float(upper_bound(np.delete(row, c), 120, share).max())
            r = reference.rab_radius(Fraction(p), Fraction(q), 20, k)
            assert (found[0][i], found[1][i]) == ((c, r) if r >= 0 else (-1, 0))
        p = float(lower_bound(row[guess[i] : guess[i] + 1], 120, alpha)[0])
        r = reference.ra_radius(Fraction(p), 20, k)
        assert (ra[0][i], ra[1][i]) == ((guess[i], r) if r >= 0 else (-1, 0))


def test_abstaining_differs_from_radius_zero() -> None:
    counts = [[20, 0, 0], [15, 5, 0], [10, 10, 0]]
    prediction, radius = ra_radius(counts, [0, 0, 0], 10, 8)
    assert prediction.tolist() == [0, 0, -1] and radius.tolist() == [0, 0, 0]
    assert prediction.dtype == radius.dtype == np.int32
    # A wrong guess is never replaced by the votes' own winner.
    assert ra_radius(counts, [1, 1, 2], 10, 8)[0].tolist() == [-1, -1, -1]


def test_bounding_rivals_certifies_what_ra_cannot() -> None:
    scattered = [[4900, *[567] * 9]]
    assert ra_radius(scattered, [0], 784, 45)[0].tolist() == [-1]
    prediction, radius = rab_radius(scattered, 784, 45, guess=[0])
    assert prediction.tolist() == [0] and radius[0] > 0
    # Without a guess the bounds are wider, never narrower.
    assert rab_radius(scattered, 784, 45)[1][0] <= radius[0]


@pytest.mark.parametrize(("k", "alpha", "radius"), [(45, 0.05, 0), (45, 0.001, 8), (10, 0.05, 52)])
def test_samples_needed_is_the_smallest(k: int, alpha: float, radius: int) -> None:
    needed = samples_needed(784, k, alpha, radius)
    for samples, enough in [(needed, True), (needed - 1, False)]:
        prediction, found = ra_radius([[samples, 0]], [0], 784, k, alpha)
        assert (prediction[0] == 0 and found[0] >= radius) == enough


def test_message_when_every_image_abstains() -> None:
    few = abstention_message([[4, 0]], [0], 784, 45)
    assert "4 samples certifies nothing" in few and "at least 5 samples" in few
    scattered = abstention_message([[40, 60], [51, 49]], [0, 0], 784, 45)
    assert "59 of 100 votes certify and the best guess has 51" in scattered
    assert "more samples" in scattered
    assert "more samples" not in abstention_message([[40, 60]], [0], 784, 45)
    assert "\n" not in few + scattered
    assert ra_radius([[59, 41], [58, 42]], [0, 0], 784, 45)[0].tolist() == [0, -1]


# --- sampling --------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(6, 2), (6, 4), (5, 1), (4, 4), (2, 1), (300, 150)])
def test_draws_are_floyds(n: int, k: int) -> None:
    masks = np.concatenate(list(ablation.draws(n, k, 50, 7, 3, 1)))
    assert masks.shape == (50, n) and masks.dtype == bool and (masks.sum(axis=1) == k).all()
    bits = np.random.PCG64(np.random.SeedSequence(7, spawn_key=(3, 1)))
    words = bits.random_raw((50, min(k, n - k)))
    assert masks.tolist() == [reference.floyd_mask(row, n, k) for row in words]


@pytest.mark.parametrize("k", [2, 4])
def test_draws_are_uniform(k: int) -> None:
    masks = np.concatenate(list(ablation.draws(6, k, 30_000, 0, 0, 0)))
    counts = np.bincount(masks @ (1 << np.arange(6)), minlength=64)
    seen = counts[counts > 0]
    assert len(seen) == 15
    assert ((seen - 2000) ** 2 / 2000).sum() < 42  # chi-square, 14 degrees: 1 in 10,000


def test_an_image_can_be_recomputed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 9), np.uint8)
    table, rows = Table(0, 0.4), np.array([5, 0, 17, 2])
    guesses, counts = sample_counts(table, x, rows, 4, 70, 30, seed=1)
    assert (guesses.sum(axis=1) == 30).all() and (counts.sum(axis=1) == 70).all()
    assert guesses.dtype == counts.dtype == np.int64
    monkeypatch.setattr(ablation, "_BATCH_SAMPLES", 7)
    for order in ([2], [3, 1, 0]):
        again = sample_counts(table, x[order], rows[order], 4, 70, 30, seed=1)
        np.testing.assert_array_equal(again[0], guesses[order])
        np.testing.assert_array_equal(again[1], counts[order])
    masks = {
        key: np.concatenate(list(ablation.draws(9, 4, 30, *key))).tobytes()
        for key in [(1, 5, 0), (1, 5, 1), (1, 0, 0), (2, 5, 0), (5, 1, 0)]
    }
    assert len(set(masks.values())) == len(masks)


class Constant:
    """A base classifier with the same scores for everything."""

    def __init__(self, scores: object, n_classes: int = 3) -> None:
        self.n_classes, self.row = n_classes, np.asarray(scores)

    def scores(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return np.repeat(self.row[None], len(x), axis=0)


def test_ties_go_to_the_smaller_class_and_progress_advances() -> None:
    class Progress:
        done = 0

        def advance(self, n: int) -> None:
            self.done += n

    progress, x = Progress(), np.zeros((2, 4), np.uint8)
    tied = Constant([0.0, 2.0, 2.0])
    guesses, counts = sample_counts(tied, x, [0, 1], 2, 8, 3, 0, progress)
    assert guesses.tolist() == [[0, 3, 0]] * 2 and counts.tolist() == [[0, 8, 0]] * 2
    assert progress.done == 2
    assert guess_class([[1, 4, 4], [3, 3, 3]]).tolist() == [1, 0]


def test_groups_are_retained_whole() -> None:
    """Two groups of three features: one is seen whole, and no draw cuts one."""
    seen: list[np.ndarray] = []

    class Watcher(Constant):
        def scores(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
            assert (x[~kept] == 0).all()
            seen.extend(kept)
            return super().scores(x, kept)

    x = np.full((1, 6), 9, np.uint8)
    sample_counts(Watcher([0.0, 1.0], 2), x, [0], 1, 200, 1, 0, group_size=3)
    found = np.unique(np.stack(seen), axis=0, return_counts=True)
    assert found[0].tolist() == [[False] * 3 + [True] * 3, [True] * 3 + [False] * 3]
    assert found[1].min() > 60


X = np.zeros((1, 4), np.uint8)
GOOD = Constant([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ra_radius([[3, 1]], [0], 4, 0), OptionError, "retained is 0"),
        (lambda: ra_radius([[3, 1]], [0], 4, 5), OptionError, "retained is 5"),
        (lambda: ra_radius([[3, 1]], [0], 0, 1), OptionError, "n_features is 0"),
        (lambda: ra_radius([[3, 1]], [0], 4, 1, 0), OptionError, "alpha is 0"),
        (lambda: rab_radius([[3, 1]], 4, 1, 1.0), OptionError, "alpha is 1.0"),
        (lambda: ra_radius([[3, 1], [2, 1]], [0, 0], 4, 1), InputError, "do not add up"),
        (lambda: ra_radius([[0, 0]], [0], 4, 1), InputError, "counts have 0 in each row"),
        (lambda: ra_radius([[1, 2], [3]], [0, 0], 4, 1), InputError, "counts is ragged"),
        (lambda: ra_radius([[3, 1]], [0], 4, [1]), OptionError, r"retained is \[1\]"),
        (lambda: ra_radius([[3, 1]], [0], [4], 1), OptionError, r"n_features is \[4\]"),
        (
            lambda: rab_radius([[3, 1]], 4, np.arange(99)),
            OptionError,
            r"retained is array.* \.\.\.;",
        ),
        (lambda: rab_radius([[3, 1]], 4, True), OptionError, "retained is True"),
        (lambda: radius_of_bound(float("nan"), 4, 1), OptionError, "p is nan"),
        (lambda: sample_counts(GOOD, X, [0], 2, 1, 1, 0, group_size=3), OptionError, "not divide"),
        (lambda: sample_counts(GOOD, X, [0], 3, 1, 1, 0, group_size=2), OptionError, "from 1 to 2"),
        (lambda: rab_radius([[3, -1]], 4, 1), InputError, "outside 0"),
        (lambda: rab_radius([[3.0, 1.0]], 4, 1), InputError, "whole numbers"),
        (lambda: rab_radius([[3]], 4, 1), InputError, "one class"),
        (lambda: ra_radius([[3, 1]], [2], 4, 1), InputError, "guess is 2 at row 0"),
        (lambda: ra_radius([[3, 1]], [-1], 4, 1), InputError, "guess is -1"),
        (lambda: rab_radius([[3, 1]], 4, 1, guess=[0, 0]), InputError, "one for each row"),
        (lambda: ra_radius([[3, 1]], [0.5], 4, 1), InputError, "one for each row"),
        (lambda: samples_needed(784, 45, radius=12), OptionError, "beyond any number"),
        (lambda: sample_counts(GOOD, X, [0], 5, 1, 1, 0), OptionError, "retained is 5"),
        (lambda: sample_counts(GOOD, X, [0], 2, 0, 1, 0), OptionError, "samples is 0"),
        (lambda: sample_counts(GOOD, X, [0], 2, 1, 0, 0), OptionError, "guess_samples is 0"),
        (lambda: sample_counts(GOOD, X, [0], 2, 1, 1, -1), OptionError, "seed is -1"),
        (lambda: sample_counts(GOOD, X, [0, 1], 2, 1, 1, 0), InputError, "row numbers"),
        (lambda: sample_counts(GOOD, X, [-1], 2, 1, 1, 0), InputError, "row numbers"),
        (lambda: sample_counts(GOOD, X + 0.5, [0], 2, 1, 1, 0), InputError, "codes must be"),
        (
            lambda: sample_counts(Constant([0.0, np.nan, 1]), X, [0], 2, 1, 1, 0),
            InputError,
            "hold NaN in row 0",
        ),
        (
            lambda: sample_counts(Constant([0.0, 1]), X, [0], 2, 1, 1, 0),
            InputError,
            r"shape \(1, 2\); they must have shape \(1, 3\)",
        ),
        (
            lambda: sample_counts(Constant([0, 1, 2]), X, [0], 2, 1, 1, 0),
            InputError,
            "floating-point",
        ),
        (
            lambda: sample_counts(Constant([0.0], 1), X, [0], 2, 1, 1, 0),
            OptionError,
            "n_classes is 1",
        ),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
