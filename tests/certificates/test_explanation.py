"""Explanations: their boxes and costs by plain loops, their changes against all that there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.certificate_models import factored, fewest_changes

from boxnn_numba import Boxes, BoxNN, Grid
from boxnn_numba.certificates import column_importances, explain, smallest_changes
from boxnn_numba.columns import Columns
from boxnn_numba.errors import InputError, OptionError


@pytest.mark.parametrize(("seed", "sets", "grouped"), [(0, 1, False), (1, 1, True), (2, 2, True)])
def test_smallest_changes_are_those_of_brute_force(seed: int, sets: int, grouped: bool) -> None:
    model, x, every = factored(seed, 5, 3, 40, sets, grouped=grouped)
    found = smallest_changes(model, x, time_limit=60)
    truth = fewest_changes(model, x, every)
    assert found.proven.all() and found.changed.tolist() == truth
    flipped = found.changed >= 0
    np.testing.assert_array_equal(model.predict(found.x_adv), found.prediction)
    assert ((found.prediction != model.predict(x)) == flipped).all()
    np.testing.assert_array_equal(found.touched, model.encode(x) != model.encode(found.x_adv))
    groups = [len(np.unique(model.groups[row])) for row in found.touched]
    assert groups == [max(0, count) for count in truth]
    quick = smallest_changes(model, x, time_limit=0)
    assert (quick.changed[quick.proven] == found.changed[quick.proven]).all()


@pytest.mark.parametrize(("seed", "sets", "grouped"), [(0, 1, False), (1, 1, True), (2, 2, True)])
def test_changes_of_attackable_columns_only(seed: int, sets: int, grouped: bool) -> None:
    model, x, every = factored(seed, 5, 3, 40, sets, grouped=grouped)
    free = np.arange(0, model.groups.max() + 1, 2).tolist()
    fixed = ~np.isin(model.groups, free)
    found = smallest_changes(model, x, time_limit=60, attackable=free)
    assert found.proven.all() and not found.touched[:, fixed].any()
    for row, count, radius in zip(x, found.changed, found.radius, strict=True):
        reached = every[(every[:, fixed] == row[fixed]).all(axis=1)]
        (fewest,) = fewest_changes(model, row[None], reached)
        assert count == fewest and radius == (len(free) if fewest < 0 else fewest - 1)
    told = explain(model, x[:3], time_limit=60, attackable=free)
    assert [one.count for one in told] == found.changed[:3].tolist()
    assert all("attackable feature" in str(one) for one in told if one.radius or one.count > 0)


@pytest.mark.parametrize(("seed", "sets", "grouped"), [(0, 1, False), (1, 1, True), (2, 2, True)])
@pytest.mark.parametrize("limited", [False, True])
def test_the_cheapest_change_is_that_of_brute_force(
    seed: int, sets: int, grouped: bool, limited: bool
) -> None:
    model, x, every = factored(seed, 5, 3, 40, sets, grouped=grouped)
    groups = int(model.groups.max()) + 1
    costs = np.array([2.5, 0.5, 1.0, 4.0, 0.5])[:groups]
    free = np.arange(0, groups, 2) if limited else np.arange(groups)
    who = {"costs": costs.tolist(), "attackable": free.tolist() if limited else None}
    found = smallest_changes(model, x, time_limit=60, **who)
    labels, fixed = model.predict(every), ~np.isin(model.groups, free)
    flipped = found.changed >= 0
    unit = np.gcd.reduce((2 * costs[free]).astype(int)) / 2
    for i, (row, label) in enumerate(zip(x, model.predict(x), strict=True)):
        differ = np.stack([(every != row)[:, model.groups == g].any(axis=1) for g in range(groups)])
        useful = (labels != label) & (every[:, fixed] == row[fixed]).all(axis=1)
        least = min((costs @ differ)[useful], default=costs[free].sum() + unit)
        assert found.spent[i] == least == found.radius[i] + unit
        assert flipped[i] == useful.any()
    assert found.proven.all() and not found.touched[:, fixed].any()
    quick = smallest_changes(model, x, time_limit=0, **who)
    assert (quick.spent >= found.spent).all() and (quick.radius <= found.radius).all()
    told = explain(model, x[:4], time_limit=60, **who)
    for one, spent, some in zip(told, found.spent, flipped, strict=False):
        assert one.spent == (spent if some else None)
        assert (f" for {spent:g}, to {one.becomes}:" in str(one)) == some


def test_a_certified_budget_is_not_rounded_up() -> None:
    model = BoxNN(Boxes([[0] * 5, [200] * 5], [[50] * 5, [255] * 5], [0, 1], 100), ["a", "b"])
    costs = [617283, 617284, 900000, 900000, 900000]
    [one] = explain(model, [[25, 25, 25, 25, 255]], costs=costs)
    assert (one.radius, one.spent) == (1234566, 1234567)
    assert "costs up to 1234566.0 changes" in str(one) and "for 1234567.0, to b:" in str(one)


def test_a_change_that_is_not_proven_to_be_the_cheapest_is_not_called_so() -> None:
    model = BoxNN(Boxes([[0] * 3, [200] * 3], [[50] * 3, [255] * 3], [0, 1], 100), ["a", "b"])
    # One change of the feature in the middle has an effect, and two of the others for less.
    rows, costs = [[120, 25, 120]], [1, 10, 1]
    [quick] = explain(model, rows, time_limit=0, costs=costs)
    assert (quick.count, quick.spent, quick.proven) == (1, 10, False)
    assert "\na change, of 1 feature for 10, to b:\n" in str(quick)
    [one] = explain(model, rows, time_limit=60, costs=costs)
    assert (one.count, one.spent, one.proven) == (2, 2, True)
    assert "\ncheapest change, of 2 features for 2, to b:\n" in str(one)


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("grouped", [False, True])
def test_costs_add_up_to_the_distances(sets: int, grouped: bool) -> None:
    model, x, _ = factored(3, 6, 3, 40, sets, grouped=grouped)
    distance, names = model.class_distance(x), list(model.classes)
    for one, row, label in zip(explain(model, x), distance, model.predict(x), strict=True):
        own, rival = names.index(one.prediction), names.index(one.rival)
        assert one.prediction == label and one.unit == 40 * sets
        assert (one.own_distance, one.rival_distance) == (row[own], row[rival])
        limits = [row[c] - row[own] - (c < own) for c in range(3) if c != own]
        assert row[rival] - row[own] - (rival < own) == min(limits)
        assert sum(c.own_cost for c in one.columns) == row[own] - model.offset[own]
        assert sum(c.rival_cost for c in one.columns) == row[rival] - model.offset[rival]


def test_costs_of_a_pixel_add_up() -> None:
    boxes = Boxes(
        [[0] * 6, [200] * 6], [[90] * 6, [255] * 6], [0, 1], 100, group=[0, 1, 0, 1, 2, 2]
    )
    [one] = explain(BoxNN(boxes, ["a", "b"]), [[180, 100, 150, 180, 170, 255]])
    assert one.prediction == "b" and one.own_distance == 70 + 100 + 30
    assert [c.own_cost for c in one.columns] == [20, 100, 50, 0, 30, 0]
    assert [c.rival_cost for c in one.columns] == [90, 10, 10, 90, 80, 20]


def mixed() -> tuple[BoxNN, dict[str, list[object]]]:
    """A table of 30 rows where the amount decides, and the city where that is missing."""
    table: dict[str, list[object]] = {
        "amount": [*range(10), *range(90, 100), *[None] * 10],
        "city": ["Bonn", "Kiel"] * 15,
        "day": ["2024-01-31"] * 30,
    }
    columns, y = Columns.of(table), np.array([0] * 10 + [1] * 10 + [0, 1] * 5)
    raw = columns.values(table)
    grid = Grid.fit(raw, columns=columns, y=y)
    codes = grid.encode(raw)
    low, high = (
        np.stack([side(codes[rows], axis=0) for rows in (y == 0, y == 1)]).astype(np.uint8)
        for side in (np.min, np.max)
    )
    # Of the first ten and the second ten rows only; the city as it is there.
    low[:, 0], high[:, 0] = [codes[0, 0], codes[10, 0]], [codes[9, 0], codes[19, 0]]
    low[:, 1] = high[:, 1] = codes[[20, 21], 1]
    return BoxNN(Boxes(low, high, [0, 1], 100), ["no", "yes"], grid, columns=columns), table


def test_a_table_is_told_in_its_own_words() -> None:
    model, table = mixed()
    one, other = explain(model, {name: [cells[0], cells[21]] for name, cells in table.items()})
    amount, city, day = one.columns
    assert [c.name for c in one.columns] == ["amount", "city", "day"]
    assert (amount.value, amount.own_cost, amount.rival_cost) == ("0", 0, 100)
    assert (city.value, city.own, city.rival) == ("Bonn", "Bonn", "Kiel")
    assert day.value == "2024-01-31"
    assert one.noun == "columns" and one.prediction == "no" and one.becomes == "yes"
    assert one.proven and len(one.changes) == one.radius + 1
    changed = {name: [cells[0]] for name, cells in table.items()}
    changed |= {change.name: [change.after] for change in one.changes}
    assert model.predict(changed).tolist() == ["yes"]
    text = str(one)
    assert text.startswith(f"no: no rewriting of {one.radius} column")
    assert "smallest change, of" in text and "amount: 0 -> " in text
    assert len({line.index("box of no") for line in text.splitlines()[2:3]}) == 1
    assert other.columns[0].value == "missing" and other.prediction == "yes"


def test_of_all_columns_those_that_decide_are_important() -> None:
    model, table = mixed()
    share = column_importances(model, table)
    touched = smallest_changes(model, table).touched
    np.testing.assert_allclose(share, touched[touched.any(axis=1)].mean(axis=0))
    assert share[:2].min() > 0 and share[2] == 0
    np.testing.assert_array_equal(share, model.column_importances(table))


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((2, 3), "row 1, column 2"),
        ((2, 3, 1), "row 1, column 2"),
        ((2, 1, 3), "row 1, column 0, channel 2"),
    ],
)
def test_features_of_images_are_named_by_their_pixel(shape: tuple[int, ...], last: str) -> None:
    lower = np.array([[0] * 6, [200] * 6], np.uint8)
    group = np.arange(6) // math.prod(shape[2:])
    model = BoxNN(Boxes(lower, lower + 50, [0, 1], 9, group=group), ["a", "b"], None, shape)
    (one,) = model.explain(np.full((1, *shape), 20, np.uint8))
    names = [c.name for c in one.columns]
    assert len({*names}) == 6 and names[-1] == last and names[0].startswith("row 0, column 0")
    assert {c.name for c in one.changes} <= {*names} and one.noun == "pixels"


def test_names_of_columns_and_unprintable_ones() -> None:
    model = BoxNN(Boxes([[0, 0], [200, 200]], [[50, 50], [255, 255]], [0, 1], 9), ["a\x1b", "b"])
    (one,) = model.explain([[20, 30]])
    assert [c.name for c in one.columns] == ["feature 0", "feature 1"]
    assert "\x1b" not in str(one)
    (named,) = explain(model, [[20, 30]], names=["left", "right"])
    assert [c.name for c in named.changes] == ["left", "right"]
    assert str(named).splitlines()[-2:] == ["  left: 20 -> 200", "  right: 30 -> 200"]


def test_no_change_at_all() -> None:
    # Of two boxes that admit the same the first class is nearer by its constant.
    boxes = Boxes([[0], [0]], [[255], [255]], [0, 1], 9)
    (one,) = explain(BoxNN(boxes, ["a", "b"], offset=np.array([0, 20])), [[7]])
    assert (one.becomes, one.changes, one.proven, one.radius) == (None, (), True, 1)
    assert str(one).endswith("no change has another label")


def test_refused_in_one_line() -> None:
    model, table = mixed()
    with pytest.raises(InputError, match="`names` are 1"):
        explain(BoxNN(model.boxes, ["no", "yes"]), [[1, 2, 3]], names=["a"])
    with pytest.raises(OptionError, match="time_limit"):
        explain(model, table, time_limit=-1)
    with pytest.raises(InputError, match="'city' is missing"):
        explain(model, {"amount": [1], "day": [""]})
    with pytest.raises(InputError, match="one class only"):
        explain(BoxNN(Boxes([[0]], [[9]], [0], 9, 2), ["a", "b"]), [[7]])
