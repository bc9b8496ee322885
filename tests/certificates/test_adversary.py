"""Attackable columns and costs: margin <= pairwise <= exact == brute force; who is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificate_models import factored

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.adversary import Adversary
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.attacks.domain import domain_of
from boxnn_numba.certificates import default_kind, exact_radius, pairwise_radius
from boxnn_numba.columns import Column, Columns
from boxnn_numba.errors import BoxNNError

SIZES = [(3, 6), (4, 4), (5, 3), (6, 2)]
SETTINGS = settings(derandomize=True, deadline=None, max_examples=12)


def truth(
    model: BoxNN, x: np.ndarray, every: np.ndarray, free: np.ndarray, cost: np.ndarray
) -> np.ndarray:
    """By brute force: the most that may be spent, in tenths, or what all of `free` costs."""
    member, found = np.eye(len(free), dtype=int)[model.groups], []
    reached, step = model.predict(every), np.gcd.reduce(cost[free])
    for row, label in zip(x, model.predict(x), strict=True):
        changed = ((every[reached != label] != row).astype(int) @ member) > 0
        paid = changed[~changed[:, ~free].any(axis=1)] @ cost
        found.append(paid.min() - step if len(paid) else cost[free].sum())
    return np.array(found)


@SETTINGS
@given(
    st.integers(0, 10**6),
    st.sampled_from(SIZES),
    st.sampled_from([1, 60, 130, 255]),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from([None, "whole", "tenths"]),
)
def test_radii_and_budgets_against_brute_force(
    seed: int, size: tuple[int, int], width: int, sets: int, grouped: bool, kind: str | None
) -> None:
    model, x, every = factored(seed, *size, width, sets, grouped=grouped)
    rng, groups = np.random.default_rng(seed), int(model.groups.max()) + 1
    free = rng.random(groups) < 0.7
    free[rng.integers(groups)] = True
    tenths = np.full(groups, 10)
    if kind is not None:
        tenths = rng.choice([10, 20, 40] if kind == "whole" else [1, 10, 25, 100], groups)
    who: dict[str, Any] = {"attackable": np.flatnonzero(free).tolist()}
    if kind is not None:
        who["costs"] = tenths / 10
    most = truth(model, x[:3], every, free, tenths) / 10
    label, margin = model.certify(x[:3], **who)
    same, pairwise = pairwise_radius(model, x[:3], threads=1, **who)
    np.testing.assert_array_equal(same, label)
    assert (margin <= pairwise).all() and (pairwise <= most).all()
    assert margin.dtype == pairwise.dtype == (np.int32 if kind is None else np.float64)
    for i in range(2):
        _, lower, upper, adversarial = exact_radius(model, x[i], **who)
        assert (lower, upper) == (most[i], most[i])
        if adversarial is not None:
            assert model.predict(adversarial[None])[0] != label[i]
            assert free[model.groups[x[i] != adversarial]].all()
    attack = greedy_attack(model, x[:3], attackable=who["attackable"])
    assert free[model.groups[(x[:3] != attack.x_adv).any(axis=0)]].all()
    if kind is None:
        assert ((attack.changed < 0) | (attack.changed > pairwise)).all()


def test_a_gap_beyond_all_that_sets_can_gain_is_never_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What lies in memory behind the prices is not read, whatever it is."""
    price = Adversary.price.func  # type: ignore[attr-defined]

    def followed(who: Adversary) -> np.ndarray:
        found = price(who)
        return np.concatenate([found, np.full(200, -7)])[: len(found)]

    monkeypatch.setattr(Adversary, "price", property(followed))
    never = 0
    for seed, far in itertools.product(range(4), (0, 300, 2000, 9000)):
        model, x, every = factored(seed, 4, 4, 60, 2, grouped=False)
        model = replace(model, offset=np.array([far] + [0] * (len(model.classes) - 1)))
        for free in ([0], [1, 3]):
            among = np.isin(np.arange(4), free)
            most = truth(model, x[:6], every, among, np.full(4, 10)) / 10
            radius = pairwise_radius(model, x[:6], threads=1, attackable=free).radius
            assert (radius >= 0).all() and (radius <= most).all()
            never += (radius == len(free)).sum()
    assert never > 20


def named() -> BoxNN:
    """A model of columns: a number, a category, a date, and a number more."""
    model = factored(3, 4, 4, 60, grouped=False)[0]
    columns = [Column("amount"), Column("city", "category", ("a", "b", "c")),
               Column("day", "date"), Column("age")]  # fmt: skip
    return replace(model, columns=Columns(columns))


def test_costs_are_the_decimal_numbers_that_they_are_written_as() -> None:
    who = Adversary.of(named(), ["amount", "age"], {"amount": 0.1, "age": "0.25"})
    assert who.unit == Fraction(1, 20) and who.cost.tolist() == [2, 0, 0, 5]
    assert who.radius(np.array([1, 7, 8])).tolist() == [0, 0.3, 0.35]
    again = Adversary.of_file(named(), who.attributes())
    assert (again.unit, again.cost.tolist()) == (who.unit, who.cost.tolist())
    assert Adversary.of(named()).attributes() == {}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_costs_of_any_type_are_what_they_are_written_as(dtype: type) -> None:
    who = Adversary.of(named(), costs=np.array([0.1, 0.2, 0.3, 2.5], dtype))
    assert who.unit == Fraction(1, 10) and who.cost.tolist() == [1, 2, 3, 25]
    with pytest.raises(BoxNNError, match=r"`costs` of column 'day' is .*-1.*; it must be a number"):
        Adversary.of(named(), costs=np.array([1, 1, -1, 1], dtype))


def test_a_series_with_names_is_matched_by_them() -> None:
    """One that is numbered 0, 1, ... is an array, unless columns are named so."""
    model, costs = named(), {"age": 4, "day": 3, "city": 2, "amount": 1}
    turned = pd.Series([4, 3, 2, 1], index=[3, 2, 1, 0])
    for told in (costs, pd.Series(costs), turned, pd.Series([1, 2, 3, 4]), [1, 2, 3, 4]):
        assert Adversary.of(model, None, told).cost.tolist() == [1, 2, 3, 4]
    assert model.columns is not None
    numbers = replace(model, columns=Columns([
        replace(column, name=str(3 - k)) for k, column in enumerate(model.columns)
    ]))  # fmt: skip
    assert Adversary.of(numbers, None, pd.Series([1, 2, 3, 4])).cost.tolist() == [4, 3, 2, 1]
    with pytest.raises(BoxNNError, match="`costs` has 'amont', which is no column; did you mean"):
        Adversary.of(model, None, pd.Series(costs).rename({"amount": "amont"}))
    mask = pd.Series({"age": True, "day": False, "city": False, "amount": False})
    assert Adversary.of(model, mask).free.tolist() == [False, False, False, True]


def test_a_mask_of_pixels() -> None:
    grey, colour = (
        BoxNN(Boxes(*np.zeros((2, 2, n), np.uint8), [0, 1], 4, group=np.arange(n) // (n // 6)),
              ["a", "b"], None, shape)
        for n, shape in ((6, (2, 3)), (18, (2, 3, 3)))
    )  # fmt: skip
    mask = np.array([[True, False, False], [False, True, True]])
    for model in (grey, colour):
        assert Adversary.of(model, mask).free.tolist() == mask.ravel().tolist()
        assert Adversary.of(model, mask.ravel()).free.tolist() == mask.ravel().tolist()
        for wrong in (mask.T, mask[:1], np.stack([mask] * 3, axis=2)):
            with pytest.raises(
                BoxNNError, match=r"mask of shape \(.*; pass one of \(6,\) or \(2, 3"
            ):
                Adversary.of(model, wrong)


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ({"attackable": []}, "`attackable` is empty"),
        (
            {"attackable": ["amout"]},
            "`attackable` has 'amout', which is no column; did you mean 'amount'",
        ),
        ({"attackable": [4]}, "numbers 0..3"),
        ({"attackable": ["9" * 5000]}, "numbers 0..3"),
        ({"attackable": ["--3"]}, "`attackable` has '--3', which is no column"),
        ({"attackable": "amount"}, "pass a list"),
        ({"costs": {"amount": 1}}, "has none for column 'city'"),
        ({"costs": {"amount": 0}}, "amount is 0; it must be a number above 0"),
        ({"costs": [1, 2, 3, -1]}, "'age' is -1"),
        ({"costs": [1, 2, 3, float("nan")]}, "above 0"),
        ({"costs": [1, 2, 3]}, "pass 4 numbers"),
        ({"costs": {"amont": 1}}, "did you mean 'amount'"),
        ({"costs": [1, 1, 1, 1 / 3]}, "round them"),
        ({"costs": [1, 1, 1, 1e-12]}, "add up to 3e.12 .* round them"),
        ({"costs": [1, 1, 1, 1e300]}, "'age' is 1e.300; it must be within"),
        ({"costs": ["3e-324"] * 4}, "it must be within"),
        ({"costs": ["1e99999999"] * 4}, "'amount' is '1e99999999'; it must be within"),
        ({"costs": ["1E-9_999_999"] * 4}, "it must be within"),
        ({"costs": ["two"] * 4}, "'two'; it must be a number above 0"),
    ],
)
def test_who_cannot_be(who: dict[str, Any], message: str) -> None:
    with pytest.raises(BoxNNError, match=message):
        Adversary.of(named(), **who)


def test_large_costs_have_budgets() -> None:
    who = Adversary.of(named(), None, [1e99, 2e99, 1e99, 3e99])
    assert who.radius(np.array([1, 3])).tolist() == [0, 2e99]


def test_limits_by_name_are_raw_values() -> None:
    model = named()
    domain = domain_of(model, ({"amount": 0.8}, {"amount": 2.0, "day": "1970-01-03"}))
    assert domain.values is not None
    amounts = domain.values[0][domain.allowed[0]]
    assert (amounts >= 0.8).all() and (amounts <= 2.0).all() and len(amounts) == 2
    assert domain.values[2][domain.allowed[2]].max() <= 2
    for low, message in (
        ({"city": 0}, "no order"),
        ({"amount": 9}, "swap"),
        ({"x": 1}, "'x'"),
        ({"amount": "a"}, "`domain` has the limit 'a' of .* pass a number"),
    ):
        with pytest.raises(BoxNNError, match=message):
            domain_of(model, (low, {"amount": 3}))


def test_the_default_is_pairwise_of_tables() -> None:
    model = factored(0, 4, 4, 60)[0]
    assert default_kind(model) == "pairwise"
    assert default_kind(replace(model, feature_shape=(2, 2))) == "margin"
    x = np.zeros((3, 4))
    np.testing.assert_array_equal(
        model.certify(x, certificate="auto").radius, pairwise_radius(model, x).radius
    )
