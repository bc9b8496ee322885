"""margin <= pairwise <= exact == brute force < attack."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from benchmarks.soundness_cases import limited
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attack_models import clusters, fewest_changes, groups_changed, levelled

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import exact, exact_radii, exact_radius, pairwise_radius
from boxnn_numba.certificates.integer_program import Program, solve
from boxnn_numba.errors import InputError, OptionError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25)


def check(model: BoxNN, x: np.ndarray, every: np.ndarray) -> list[tuple[int, int, int]]:
    """Compare all radii of some inputs with brute force; returns (margin, pairwise, exact)."""
    label, margin = model.certify(x)
    same, pairwise = pairwise_radius(model, x)
    np.testing.assert_array_equal(same, label)
    assert pairwise.dtype == np.int32
    attacked = greedy_attack(model, x).changed
    groups = -(-x.shape[1] // model.group_size)
    found = []
    for i, fewest in enumerate(fewest_changes(model, x, every)):
        prediction, lower, upper, adversarial = exact_radius(model, x[i])
        exact = fewest - 1 if fewest >= 0 else groups
        assert (prediction, lower, upper) == (label[i], exact, exact)
        assert margin[i] <= pairwise[i] <= exact
        if fewest < 0:
            assert adversarial is None and attacked[i] == -1
        else:
            assert adversarial is not None and model.predict(adversarial[None])[0] != label[i]
            assert groups_changed(x[i : i + 1], adversarial[None], model.group_size)[0] == fewest
            assert attacked[i] == -1 or attacked[i] >= fewest
        found.append((int(margin[i]), int(pairwise[i]), exact))
    return found


def test_all_radii_against_brute_force_on_grids_of_few_levels() -> None:
    found = []
    for seed, (n, levels) in enumerate([(3, 6), (4, 4), (5, 3), (6, 2)] * 2):
        for width, group_size in itertools.product((1, 60, 255), (1, 2)):
            found += check(*levelled(seed, n, width, group_size, levels))
    margin, pairwise, exact = np.array(found).T
    # Not vacuous: each step is a real one for some, and radii above 0 occur.
    assert (margin < pairwise).any() and (pairwise < exact).any() and (margin > 0).sum() > 5


def test_ends_of_boxes_that_no_input_can_reach() -> None:
    """Where an end of a rival's interval is no code of the grid, one beyond it can be the best."""
    for seed, (n, levels) in enumerate([(3, 6), (4, 4), (5, 3), (4, 5)] * 3):
        check(*levelled(seed, n, 60, 1, levels, shift=60))


@SETTINGS
@given(
    st.integers(0, 10**6),
    st.sampled_from([(3, 6), (4, 4), (5, 3), (6, 2)]),
    st.sampled_from([1, 60, 130, 255]),
    st.sampled_from([1, 2, 3]),
)
def test_all_radii_against_brute_force_on_random_models(
    seed: int, size: tuple[int, int], width: int, group_size: int
) -> None:
    model, x, every = levelled(seed, size[0], width, group_size, size[1])
    check(model, x[:2], every)


@pytest.mark.parametrize("width", [1, 50, 255])
@pytest.mark.parametrize("group_size", [1, 2])
def test_all_radii_against_all_codes_of_two_features(width: int, group_size: int) -> None:
    every = np.array(list(itertools.product(range(256), repeat=2)), np.uint8)
    for seed in range(4):
        model, x = clusters(seed, 2, width, group_size, n_classes=2)
        check(model, x[:3], every)


def test_ties_go_to_the_smaller_class() -> None:
    """Two features tie the boxes: enough for class 0 to win, one too few for class 1."""
    model = BoxNN(Boxes([[0] * 4, [9] * 4], [[0] * 4, [9] * 4], [0, 1], 1), [0, 1])
    zeros, nines = np.zeros((1, 4), np.uint8), np.full((1, 4), 9, np.uint8)
    assert pairwise_radius(model, np.concatenate([zeros, nines])).radius.tolist() == [2, 1]
    assert exact_radius(model, zeros)[1:3] == (2, 2) and exact_radius(model, nines)[1:3] == (1, 1)


def test_where_boxes_share_intervals_the_pairwise_radius_is_larger() -> None:
    """Half of the features are the same in both boxes and gain at most W."""
    lower = np.array([[0] * 8, [0] * 4 + [200] * 4])
    model = BoxNN(Boxes(lower, lower + 10, [0, 1], 100), [0, 1])
    x = np.array([[5] * 4 + [0] * 4], np.uint8)
    label, lower_bound, upper, adversarial = exact_radius(model, x)
    assert model.certify(x).radius.tolist() == [2]
    assert pairwise_radius(model, x).radius.tolist() == [2]
    assert (label, lower_bound, upper) == (0, 2, 2) and adversarial is not None
    far = np.array([[60] * 4 + [0] * 4], np.uint8)  # distances 200 and 600 - but from 5 features
    assert model.certify(far).radius[0] <= pairwise_radius(model, far).radius[0]


@SETTINGS
@given(
    st.integers(0, 10**6),
    st.sampled_from([20, 33]),
    st.sampled_from([1, 40, 128, 255]),
    st.sampled_from([1, 3]),
    st.sampled_from([0, 30, 90]),
)
def test_pairwise_lies_between_margin_and_attack_on_larger_models(
    seed: int, n: int, width: int, group_size: int, half: int
) -> None:
    model, x = clusters(seed, n, width, group_size, half=half)
    margin, pairwise = model.certify(x).radius, pairwise_radius(model, x, threads=1).radius
    attacked = greedy_attack(model, x, tries=4).changed
    assert (margin <= pairwise).all() and (pairwise < attacked).all()
    prediction, lower, upper, adversarial = exact_radius(model, x[0], time_limit=20)
    assert pairwise[0] <= lower <= upper < attacked[0]
    assert adversarial is not None and model.predict(adversarial[None])[0] != prediction


def test_when_time_is_up_bounds_are_left() -> None:
    """With no time at all: the pairwise bound below, the attack above, or both the same."""
    open_bounds = 0
    for seed, (n, levels) in enumerate([(3, 6), (4, 4), (5, 3), (6, 2)] * 2):
        model, x, _ = levelled(seed, n, 60, 1, levels)
        pairwise, attacked = pairwise_radius(model, x).radius, greedy_attack(model, x).changed
        for i, row in enumerate(x):
            _, lower, upper, adversarial = exact_radius(model, row, time_limit=1e-9)
            assert pairwise[i] <= lower <= upper
            if attacked[i] >= 0:
                assert upper == attacked[i] - 1 and adversarial is not None
            open_bounds += lower < upper
    assert open_bounds > 0


def test_raw_features_need_not_be_float64() -> None:
    model, x, _ = levelled(0, 5, 60, 1, 3)
    exact = exact_radius(model, x[0].astype(np.float32))
    assert exact[1:3] == exact_radius(model, x[0])[1:3]
    if exact.adversarial is not None:
        assert model.predict(exact.adversarial[None])[0] != exact.prediction


# --- the integer program itself -----------------------------------------------------------


def test_programs_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        group_size = int(rng.integers(1, 3))
        features = np.repeat(np.arange(5), 2)
        gains = rng.integers(-3, 6, (2, 10))
        groups = features // group_size
        program = Program(features, groups, gains, rng.integers(3, 12, 2))
        sizes = []
        for taken in itertools.product((None, 0, 1), repeat=5):
            picks = [2 * k + choice for k, choice in enumerate(taken) if choice is not None]
            if (gains[:, picks].sum(axis=1) >= program.gaps).all():
                sizes.append(len(set(features[picks] // group_size)))
        least = min(sizes, default=6)
        bound, taken = solve(program, 5, 10)
        assert bound == least and (taken is None) == (least == 6)
        if taken is not None:
            assert (gains[:, taken].sum(axis=1) >= program.gaps).all()
            assert solve(program, least - 1, 10) == (least, None)


def test_a_solve_can_be_stopped_from_another_thread() -> None:
    gains = np.random.default_rng(0).integers(0, 100, (60, 120))
    program = Program(np.arange(120), np.arange(120), gains, gains.sum(axis=1) // 2)
    stop = threading.Event()
    timer = threading.Timer(1, stop.set)
    timer.start()
    began = time.monotonic()
    bound, _ = solve(program, 120, 600, stop)
    timer.join()
    assert stop.is_set() and time.monotonic() - began < 60
    assert bound < 120


def test_what_stops_one_input_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first, stopped = threading.Lock(), []

    def settled(*arguments: object) -> None:
        stop = arguments[-1]
        assert isinstance(stop, threading.Event)
        if not first.acquire(blocking=False):
            raise KeyboardInterrupt
        stopped.append(stop.wait(60))

    monkeypatch.setattr(exact, "_settled", settled)
    model, x, _ = levelled(1, 4, 60, 1, 3)
    with pytest.raises(KeyboardInterrupt):
        exact_radii(model, x, 600, threads=2)
    assert stopped == [True]


MODEL = BoxNN(Boxes([[0] * 3, [99] * 3], [[9] * 3, [99] * 3], [0, 1], 5), [0, 1])
ONE_CLASS = BoxNN(Boxes([[0] * 3], [[9] * 3], [0], 5, n_classes=2), [0, 1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: exact_radius(MODEL, [1, 2, 3], time_limit=0), OptionError, "time_limit is 0"),
        (lambda: exact_radius(MODEL, [1, 2]), InputError, "pass one sample"),
        (lambda: exact_radius(MODEL, [[1, 2, 3]] * 2), InputError, "pass one sample"),
        (lambda: exact_radius(MODEL, [1, 2, 300]), InputError, "300"),
        (lambda: exact_radius(ONE_CLASS, [1, 2, 3]), InputError, "one class only"),
        (lambda: pairwise_radius(ONE_CLASS, [[1, 2, 3]]), InputError, "one class only"),
        (lambda: pairwise_radius(MODEL, [[1, 2]]), InputError, "2 features"),
        (lambda: pairwise_radius(MODEL, [[1, 2, 3]], threads=0), OptionError, "threads is 0"),
    ],
)
def test_bad_input_says_what_to_do(
    call: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_exact_radius_is_never_below_the_pairwise_one() -> None:
    """Also where the time is up at once, and of many combinations of several sets of boxes."""
    case = limited(np.random.default_rng([0, 27]), 8)
    assert len(case.model.box_sets) == 3 and "costs" in case.who
    pairwise = pairwise_radius(case.model, case.x, **case.who).radius
    lower, upper = exact_radii(case.model, case.x, time_limit=1e-6, **case.who)
    assert (pairwise <= lower).all() and (lower <= upper).all() and (lower < upper).any()
