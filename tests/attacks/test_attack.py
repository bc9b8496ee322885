"""Attacks change predictions with what they may change, never within the certified radius."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attack_models import clusters, fewest_changes, groups_changed, levelled
from support.certificate_models import factored
from support.certificate_models import fewest_changes as factored_truth

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.attacks import AttackResult, greedy, greedy_attack, quick_attack, random_search
from boxnn_numba.certificates import patch_certified
from boxnn_numba.data.sources.catalogue import BUNDLED_SAMPLE
from boxnn_numba.errors import InputError, OptionError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)


def check(model: BoxNN, x: np.ndarray, found: AttackResult) -> np.ndarray:
    """Everything that is promised of a result; returns where an attack was found."""
    before, radius = model.certify(x)
    success = found.changed >= 0
    assert found.changed.dtype == np.int32 and found.x_adv.dtype == x.dtype
    np.testing.assert_array_equal(found.prediction, model.predict(found.x_adv))
    np.testing.assert_array_equal(found.prediction != before, success)
    counted = groups_changed(x, found.x_adv, model.groups)
    np.testing.assert_array_equal(counted, np.where(success, found.changed, 0))
    assert (found.changed[success] > radius[success]).all()
    return success


@SETTINGS
@given(
    st.integers(0, 10**6),
    st.sampled_from([24, 30, 37]),
    st.sampled_from([1, 2, 40, 128, 255]),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([0, 10, 90]),
)
def test_greedy_attack_flips_and_respects_the_certificate(
    seed: int, n: int, width: int, group_size: int, half: int
) -> None:
    model, x = clusters(seed, n, width, group_size, half=half)
    assert check(model, x, greedy_attack(model, x, tries=4)).all()


@SETTINGS
@given(
    st.integers(0, 10**6), st.sampled_from([1, 40, 255]), st.sampled_from([1, 2, 3]),
    st.sampled_from([0, 90]), st.integers(1, 4),
)  # fmt: skip
def test_quick_attack_respects_the_certificate_and_what_it_may_change(
    seed: int, width: int, group_size: int, half: int, most: int
) -> None:
    model, x = clusters(seed, 30, width, group_size, half=half)
    found = quick_attack(model, x)
    assert check(model, x, found).mean() > 0.9
    few = quick_attack(model, x, max_features=most, domain=(3, 200), attackable=["0", "2", "3"])
    check(model, x, few)
    assert few.changed.max() <= min(most, 3)
    rewritten = few.x_adv != x
    assert set(model.groups[rewritten.any(axis=0)]) <= {0, 2, 3}
    assert set(few.x_adv[rewritten]) <= set(range(3, 201))


def test_quick_attack_takes_all_kinds_of_models_but_ensembles() -> None:
    model, x, _ = levelled(3, 5, 60, 1, 3)
    assert check(model, x, quick_attack(model, x)).any()
    model, x = factored_mnist()
    assert check(model, x, quick_attack(model, x)).mean() > 0.9
    many = BoxNN(model.boxes, model.classes, others=(model.boxes,))
    with pytest.raises(InputError, match="ensemble of 2"):
        quick_attack(many, x)


def test_greedy_attack_is_nearly_always_the_smallest_on_tiny_grids() -> None:
    smallest = []
    for seed, (n, levels) in enumerate([(3, 6), (4, 4), (5, 3), (6, 2)] * 3):
        for width, group_size in itertools.product((1, 60, 255), (1, 2)):
            model, x, every = levelled(seed, n, width, group_size, levels)
            found = greedy_attack(model, x)
            success = check(model, x, found)
            fewest = np.array(fewest_changes(model, x, every))
            assert (found.changed[success] >= fewest[success]).all()
            assert (fewest[success] > 0).all()
            smallest.extend(found.changed == fewest)
    assert np.mean(smallest) > 0.97


@pytest.mark.parametrize("sets", [1, 2])
def test_greedy_attack_on_factored_boxes_is_nearly_always_the_smallest(sets: int) -> None:
    """Parts, templates, groups of unequal sizes, offsets and ensembles, by brute force."""
    smallest = []
    for seed, (n, levels) in enumerate([(5, 3), (6, 2), (4, 4)] * 4):
        for width, grouped in ((1, False), (60, True), (255, True)):
            model, x, every = factored(seed, n, levels, width, sets, grouped=grouped, shift=15)
            found = greedy_attack(model, x)
            success = check(model, x, found)
            fewest = np.array(factored_truth(model, x, every))
            assert (found.changed[success] >= fewest[success]).all()
            assert (fewest[success] > 0).all()
            smallest.extend(found.changed == fewest)
    assert np.mean(smallest) > 0.95


def mnist_model() -> tuple[BoxNN, np.ndarray]:
    """Boxes around 25 bundled digits of each class, and other digits."""
    with np.load(BUNDLED_SAMPLE) as file:
        x, y = file["x"].reshape(-1, 784), file["y"]
        rest = file["x_test"].reshape(-1, 784)[:40]
    rows = np.concatenate([np.flatnonzero(y == c)[:25] for c in range(10)])
    centres = x[rows].astype(int)
    sides = np.clip(centres - 25, 0, 255), np.clip(centres + 25, 0, 255)
    return BoxNN(Boxes(*sides, y[rows], 112), list(range(10))), rest


def test_greedy_attack_meets_the_certificate_on_digits() -> None:
    model, x = mnist_model()
    found = greedy_attack(model, x)
    assert check(model, x, found).all()
    assert (found.changed == model.certify(x).radius + 1).mean() >= 0.9


def factored_mnist() -> tuple[BoxNN, np.ndarray]:
    """The same rows as templates of five, which recombine by quarters of the image."""
    model, x = mnist_model()
    boxes, places = model.boxes, np.arange(784).reshape(28, 28)
    part = 2 * (places // 28 >= 14) + (places % 28 >= 14)
    parted = Boxes(
        boxes.lower, boxes.upper, boxes.labels, 112, template=np.arange(250) // 5,
        part=part.ravel(),
    )  # fmt: skip
    return BoxNN(parted, list(range(10)), feature_shape=(28, 28)), x


def test_greedy_attack_meets_the_certificate_of_factored_boxes() -> None:
    model, x = factored_mnist()
    found = greedy_attack(model, x)
    assert check(model, x, found).all()
    assert (found.changed == model.certify(x).radius + 1).mean() >= 0.9


@pytest.mark.parametrize("make", [mnist_model, lambda: factored_mnist()])
def test_the_same_for_any_threads_and_batch(make: Callable[[], Any]) -> None:
    model, x = make()
    whole = greedy_attack(model, x, threads=1)
    threaded = greedy_attack(model, x, threads=3)
    alone = [greedy_attack(model, x[i : i + 1], threads=1) for i in (0, 17, 39)]
    for one, other in zip(whole, threaded, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.x_adv[[0, 17, 39]], np.concatenate([a[0] for a in alone]))


def test_only_what_may_be_written_is_written() -> None:
    model, x = clusters(3, 30, 100)
    low, high = np.full(30, 40), np.arange(30) * 3 + 100
    free = np.arange(30) % 4 != 0
    found = greedy_attack(model, x, domain=(low, high), features=free)
    assert check(model, x, found).any()
    changed = found.x_adv != x
    assert not changed[:, ~free].any()
    assert ((found.x_adv >= low) & (found.x_adv <= high))[changed].all()


@pytest.mark.parametrize("group_size", [1, 2])
def test_a_domain_outside_the_rival_boxes(group_size: int) -> None:
    """No code inside the box may be written, but the one nearest to it will do."""
    boxes = Boxes([[0] * 4, [200] * 4], [[20] * 4, [210] * 4], [0, 1], 255)
    model = BoxNN(boxes, [0, 1], group_size=group_size)
    found = greedy_attack(model, [[0] * 4], domain=(0, 150))
    assert found.changed.tolist() == [3 if group_size == 1 else 2]
    assert set(found.x_adv[0].tolist()) <= {0, 150}
    none = greedy_attack(model, [[0] * 4], domain=(0, 100))
    assert none.changed.tolist() == [-1] and none.prediction.tolist() == [0]
    np.testing.assert_array_equal(none.x_adv, [[0] * 4])


def test_at_most_the_features_asked_for() -> None:
    model, x = mnist_model()
    full = greedy_attack(model, x)
    limit = int(np.median(full.changed))
    some = greedy_attack(model, x, max_features=limit)
    success = check(model, x, some)
    np.testing.assert_array_equal(success, full.changed <= limit)
    assert (some.changed[success] <= limit).all() and 0 < success.mean() < 1
    assert (greedy_attack(model, x[:2], max_features=0).changed == -1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_raw_features_are_decoded_to_values_with_the_new_codes(dtype: type) -> None:
    from boxnn_numba import fit

    rng = np.random.default_rng(1)
    y = np.arange(200) % 2
    x = (rng.normal(0, 1, (200, 20)) + 2 * y[:, None]).astype(dtype)
    x[:, 0] = np.round(x[:, 0])
    x[:, 1] = 5
    model = fit(x, y, boxes=8, epochs=1)
    found = greedy_attack(model, x[:40])
    assert check(model, x[:40], found).all()
    assert (found.x_adv[:, 1] == 5).all() and np.isfinite(found.x_adv).all()


def test_a_colour_that_is_saturated_alone_still_takes_all_of_its_group() -> None:
    """Only the change of all three codes brings a group that is capped as a whole anything."""
    boxes = Boxes([[0] * 6, [200] * 6], [[0] * 6, [200] * 6], [0, 1], 100, group=[0, 1, 0, 1, 0, 1])
    found = greedy_attack(BoxNN(boxes, [0, 1], group_size=1), [[0] * 6])
    assert found.changed.tolist() == [2]
    np.testing.assert_array_equal(found.x_adv, [[200] * 6])


def single_feature_models(seed: int, sets: int) -> Iterator[tuple[BoxNN, np.ndarray]]:
    """Models, of several sets of boxes, in one part and in several, and inputs."""
    for width, half in ((40, 10), (255, 90), (1, 0)):
        model, x = clusters(seed, 30, width, half=half)
        others = [clusters(seed + 20 + e, 30, width, half=half)[0].boxes for e in range(1, sets)]
        yield BoxNN(model.boxes, model.classes, others=tuple(others)), x
        yield factored(seed, 5, 3, width, sets, grouped=False, shift=15)[:2]
    yield levelled(seed, 5, 60, 1, 3)[:2]


@pytest.mark.parametrize("sets", [1, 2, 3])
def test_the_kernel_without_groups_and_parts_attacks_as_the_general_one_does(
    sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = []
    for seed in range(6):
        for model, x in single_feature_models(seed, sets):
            options = {"tries": 8, "own": 16 - seed, "seed": seed, "domain": (0, 255 - 20 * seed)}
            found = greedy_attack(model, x, **options)
            with monkeypatch.context() as patch:
                patch.setattr(greedy, "_simplest", lambda task: task)
                general = greedy_attack(model, x, **options)
            for one, other in zip(found, general, strict=True):
                np.testing.assert_array_equal(one, other)
            smaller.extend(found.changed)
    assert np.mean(np.array(smaller) > 1) > 0.3


# --- patches --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (3, 1)])
def test_patches_by_brute_force(size: tuple[int, int]) -> None:
    """An attack rewrites one block, and is found nearly wherever there is one of a few codes."""
    outcomes = []
    for seed, parts in enumerate([1, 2, 3] * 5):
        rng = np.random.default_rng([seed, *size])
        shape, n = ((3, 3), 9) if seed % 2 else ((3, 3, 2), 18)
        group = np.arange(n) // (n // 9)
        part = (rng.permutation(9) % parts)[group]
        sides = np.sort(rng.choice([0, 40, 200], (2, 12, n), p=[0.3, 0.1, 0.6]), axis=0)
        sides[:, 6:] = np.where(rng.random((6, n)) < 0.7, 0, sides[:, 6:])
        boxes = Boxes(
            *sides, np.arange(12) // 6, 60, template=np.arange(12) // 3, part=part, group=group
        )
        model = BoxNN(boxes, [0, 1], feature_shape=shape, offset=rng.integers(-60, 60, 2))
        x = rng.choice(np.array([0, 40, 200], np.uint8), (6, n))
        found = greedy_attack(model, x, patch=size)
        success, before = found.changed >= 0, model.predict(x)
        np.testing.assert_array_equal(found.prediction != before, success)
        pixels = (found.x_adv != x).reshape(6, 3, 3, -1).any(axis=3)
        for one in pixels[success]:
            assert (np.ptp(np.argwhere(one), axis=0) < size).all()
        np.testing.assert_array_equal(pixels.sum(axis=(1, 2))[success], found.changed[success])
        assert not patch_certified(model, x, size)[1][success].any()
        outcomes += list(zip(success, block_flips(model, x, size), strict=True))
    flips = [hit for hit, possible in outcomes if possible]
    assert 10 < len(flips) < len(outcomes) and np.mean(flips) > 0.9


def block_flips(model: BoxNN, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether some block of pixels of one of the levels each, or of all colours alike, flips."""
    before, flips = model.predict(x), np.zeros(len(x), bool)
    places = np.arange(x.shape[1]).reshape(3, 3, -1)
    for y, left in np.ndindex(4 - size[0], 4 - size[1]):
        block = places[y : y + size[0], left : left + size[1]]
        levels = itertools.product([0, 40, 200], repeat=block[..., 0].size)
        written = np.repeat(np.array(list(levels), np.uint8), block.shape[2], axis=1)
        for i, row in enumerate(x):
            tries = np.repeat(row[None], len(written), axis=0)
            tries[:, block.ravel()] = written
            flips[i] |= (model.predict(tries) != before[i]).any()
    return flips


def test_patches_of_a_model_whose_groups_are_of_the_first_version() -> None:
    model, x = mnist_model()
    old = BoxNN(model.boxes, model.classes, feature_shape=(28, 28), group_size=2)
    found = greedy_attack(old, x[:10], patch="9x9")
    assert (found.changed >= 0).any()
    counted = groups_changed(x[:10], found.x_adv, old.groups)
    np.testing.assert_array_equal(np.where(counted == 0, -1, counted), found.changed)
    few = greedy_attack(old, x[:10], patch="9x9", max_features=int(found.changed.max()) - 1)
    assert (few.changed < found.changed.max()).all()


# --- random search --------------------------------------------------------------------------


def scores_of(model: BoxNN) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: -model.class_distance(x)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("group_size", [1, 3])
def test_random_search_finds_some_and_never_within_the_radius(
    labels: bool, group_size: int
) -> None:
    model, x = clusters(5, 31, 60, group_size, half=40)
    budget = 25 if group_size == 1 else 9
    predict = model.predict if labels else scores_of(model)
    asked = []

    def counted(batch: np.ndarray) -> Any:
        asked.append(len(batch))
        return predict(batch)

    found = random_search(counted, x, budget, queries=300, domain=(0, 250), group_size=group_size)
    assert check(model, x, found).any()
    assert found.changed.max() <= budget and sum(asked) <= 301 * len(x)
    changed = found.x_adv != x
    assert found.x_adv[changed].max() <= 250
    again = random_search(predict, x, budget, queries=300, domain=(0, 250), group_size=group_size)
    np.testing.assert_array_equal(again.x_adv, found.x_adv)
    least = int(model.certify(x).radius.min())
    if least > 0:
        assert (random_search(predict, x, least, 50, group_size=group_size).changed == -1).all()


@pytest.mark.parametrize("group_size", [1, 3])
def test_random_search_changes_only_what_it_may(group_size: int) -> None:
    model, x = clusters(5, 31, 60, group_size, half=40)
    mask = np.random.default_rng(1).random(31) < 0.6
    groups = len(set((np.flatnonzero(mask) // group_size).tolist()))
    found = random_search(
        scores_of(model), x, groups, 300, domain=(0, 255), group_size=group_size, features=mask
    )
    assert check(model, x, found).any()
    assert (found.x_adv == x)[:, ~mask].all()
    with pytest.raises(OptionError, match=f"budget is {groups + 1}"):
        random_search(scores_of(model), x, groups + 1, group_size=group_size, features=mask)


def test_random_search_takes_groups_of_any_sizes() -> None:
    model, x = clusters(5, 31, 60, 3, half=40)
    with_number = random_search(scores_of(model), x, 9, 200, group_size=3)
    with_groups = random_search(scores_of(model), x, 9, 200, group_size=model.groups)
    np.testing.assert_array_equal(with_number.x_adv, with_groups.x_adv)
    groups = np.random.default_rng(2).permutation(np.arange(31) * np.arange(31) // 70)
    found = random_search(scores_of(model), x, groups.max() + 1, 200, group_size=groups)
    success = found.changed >= 0
    counted = groups_changed(x, found.x_adv, groups)
    assert success.any() and (counted[success] == found.changed[success]).all()


def test_random_search_beats_the_greedy_attack_on_nothing_small() -> None:
    model, x = clusters(6, 24, 100)
    fewest = greedy_attack(model, x).changed
    found = random_search(scores_of(model), x, 20, queries=400, seed=1)
    success = found.changed >= 0
    assert success.any() and (found.changed[success] >= fewest[success]).all()


def test_random_search_on_floats_and_a_single_query() -> None:
    x = np.zeros((3, 5))
    found = random_search(lambda x: (x.sum(axis=1) > 0.5).astype(int), x, 2, domain=(-1.0, 1.0))
    assert (found.changed >= 1).all() and (np.abs(found.x_adv) <= 1).all()
    one = random_search(lambda x: (x.sum(axis=1) > 0.5).astype(int), x, 2, 1, domain=(-1.0, 1.0))
    assert (one.changed == -1).all()


# --- bad input ----------------------------------------------------------------------------

MODEL = BoxNN(Boxes([[0] * 3, [99] * 3], [[9] * 3, [99] * 3], [0, 1], 5), [0, 1])
IMAGE = BoxNN(MODEL.boxes, [0, 1], feature_shape=(1, 3))
ONE_CLASS = BoxNN(Boxes([[0] * 3], [[9] * 3], [0], 5, n_classes=2), [0, 1])
X = [[1, 2, 3]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: greedy_attack(MODEL, X, max_features=-1), OptionError, "max_features is -1"),
        (lambda: greedy_attack(MODEL, X, rivals=0), OptionError, "rivals is 0"),
        (lambda: greedy_attack(MODEL, X, own=33), OptionError, "own is 33"),
        (lambda: greedy_attack(MODEL, X, tries=-1), OptionError, "tries is -1"),
        (lambda: greedy_attack(MODEL, X, threads=0), OptionError, "threads is 0"),
        (lambda: greedy_attack(MODEL, X, domain=3), OptionError, "pass (low, high)"),
        (lambda: greedy_attack(MODEL, X, domain=(0, 256)), OptionError, "high 256"),
        (lambda: greedy_attack(MODEL, X, domain=(0.5, 9)), OptionError, "low 0.5"),
        (lambda: greedy_attack(MODEL, X, domain=(9, 3)), OptionError, "low 9 > high 3"),
        (lambda: greedy_attack(MODEL, X, domain=([0, 0], 3)), OptionError, "shape (2,)"),
        (lambda: greedy_attack(MODEL, X, features=[1, 0, 1]), OptionError, "3 booleans"),
        (lambda: greedy_attack(MODEL, X, patch=2), InputError, "patches are of images"),
        (lambda: greedy_attack(MODEL, X, patch="2,3"), OptionError, "one size of blocks"),
        (lambda: greedy_attack(IMAGE, X, patch=2), OptionError, "does not fit"),
        (lambda: greedy_attack(MODEL, [[1, 2]]), InputError, "2 features"),
        (lambda: greedy_attack(MODEL, [[1, 2, 300]]), InputError, "300"),
        (lambda: greedy_attack(ONE_CLASS, X), InputError, "one class only"),
        (lambda: random_search(MODEL.predict, X, 1), OptionError, "pass domain"),
        (lambda: random_search(MODEL.predict, np.uint8(X), 0), OptionError, "budget is 0"),
        (lambda: random_search(MODEL.predict, np.uint8(X), 4), OptionError, "budget is 4"),
        (lambda: random_search(MODEL.predict, np.uint8(X), 1, 0), OptionError, "queries is 0"),
        (lambda: random_search(lambda x: 1, np.uint8(X), 1), InputError, "shape ()"),
        (lambda: random_search(lambda x: x[:, :1], np.uint8(X), 1), InputError, "two classes"),
        (lambda: random_search(lambda x: x * np.nan, np.uint8(X), 1), InputError, "NaN"),
        (lambda: random_search(any, np.uint8(X), 1, group_size=[0, 1]), OptionError, "3 features"),
        (lambda: random_search(any, np.uint8(X), 1, group_size=[0, 2, 2]), OptionError, "0..2"),
        (lambda: random_search(MODEL.predict, [["a"]], 1), InputError, "numbers"),
    ],
)
def test_bad_input_says_what_to_do(
    call: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)
