"""Radii and their summaries against naive loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference

from boxnn_numba import certified_accuracy, certified_radius, median_certified_radius
from boxnn_numba.certificates.margin import (
    balanced_certified_accuracy,
    majority,
    mean_certified_radius,
    per_class_table,
)
from boxnn_numba.errors import InputError, OptionError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=150)


@st.composite
def class_distances(draw: st.DrawFn) -> tuple[list[list[int]], int, int]:
    """Rows of class distances with many ties, a width and a group size."""
    width, group = draw(st.sampled_from([1, 2, 7, 100, 255])), draw(st.sampled_from([1, 2, 3]))
    unit = draw(st.sampled_from([1, width, 2 * width * group]))
    n_classes = draw(st.integers(2, 5))
    near = st.integers(0, 5).map(lambda k: k * unit)
    value = st.builds(lambda a, b: max(0, a + b), near, st.integers(-1, 1))
    rows = st.lists(st.lists(value, min_size=n_classes, max_size=n_classes), min_size=1, max_size=9)
    return draw(rows), width, group


@SETTINGS
@given(class_distances())
def test_radius_is_the_largest_that_no_rival_overtakes(
    case: tuple[list[list[int]], int, int],
) -> None:
    rows, width, group = case
    for convention in ("sound", "paper"):
        expected = [reference.certificate(row, width, group, convention) for row in rows]
        prediction, radius = certified_radius(rows, width, group, convention)
        assert list(zip(prediction.tolist(), radius.tolist(), strict=True)) == expected
        assert prediction.dtype == radius.dtype == np.int32


@SETTINGS
@given(class_distances())
def test_paper_convention_overstates_by_at_most_one(
    case: tuple[list[list[int]], int, int],
) -> None:
    rows, width, group = case
    sound = certified_radius(rows, width, group)[1]
    paper = certified_radius(rows, width, group, "paper")[1]
    assert ((paper - sound >= 0) & (paper - sound <= 1)).all()
    first_wins = np.asarray(rows).argmin(axis=1) == 0
    np.testing.assert_array_equal(paper[first_wins], sound[first_wins])


def test_ties_go_to_the_smaller_class() -> None:
    rows = [[4, 4], [4, 5], [5, 4], [4, 6], [6, 4], [7, 4]]
    prediction, radius = certified_radius(rows, width=1)
    assert prediction.tolist() == [0, 0, 1, 0, 1, 1]
    assert radius.tolist() == [0, 0, 0, 1, 0, 1]
    assert certified_radius(rows, 1, convention="paper")[1].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_binding_rival_need_not_be_the_runner_up() -> None:
    # Class 2 is as far as class 0, but loses ties against the prediction, class 1.
    assert certified_radius([[6, 2, 6]], 1)[1].tolist() == [1]
    assert certified_radius([[7, 2, 6]], 1)[1].tolist() == [2]


def test_unreachable_classes_and_unsigned_input() -> None:
    far = 2**31 - 1
    assert certified_radius([[0, 10, far]], 1)[1].tolist() == [5]
    rows = np.array([[10, 3, 4]], np.uint8)
    assert certified_radius(rows, 1)[0].tolist() == [1]
    assert certified_radius(rows.astype(np.uint64), 1)[1].tolist() == [0]
    lone = certified_radius([[far, 7]], 1)
    assert lone[0].tolist() == [1] and lone[1][0] > 10**8


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: certified_radius([[1.0, 2.0]], 1), InputError, "integer units"),
        (lambda: certified_radius([[1], [2]], 1), InputError, "at least two"),
        (lambda: certified_radius([1, 2], 1), InputError, "two-dimensional"),
        (lambda: certified_radius(np.empty((2, 0), int), 1), InputError, "empty"),
        (lambda: certified_radius([[1, 2]], 0), OptionError, "width is 0"),
        (lambda: certified_radius([[1, 2]], 256), OptionError, "width is 256"),
        (lambda: certified_radius([[1, 2]], 1.5), OptionError, "width is 1.5"),
        (lambda: certified_radius([[1, 2]], True), OptionError, "width is True"),
        (lambda: certified_radius([[1, 2]], 1, 0), OptionError, "group_size is 0"),
        (lambda: certified_radius([[1, 2]], 1, 1, "loose"), OptionError, "unknown convention"),
        (lambda: certified_accuracy([0], [0], [0], [-1]), OptionError, "radii are"),
        (lambda: certified_accuracy([0], [0], [0], []), OptionError, "radii are"),
        (lambda: certified_accuracy([0], [0], [0], [0.5]), OptionError, "radii are"),
        (lambda: certified_accuracy([0, 1], [0], [0], [0]), InputError, "one length"),
        (lambda: median_certified_radius([], [], []), InputError, "no samples"),
        (lambda: certified_accuracy(["0"], [3], [0], [0]), InputError, "of prediction are texts"),
        (
            lambda: certified_accuracy([0], [3], np.array(["0"], object), [0]),
            InputError,
            "^labels of y are texts and those of prediction are not; pass labels of one type",
        ),
        (lambda: mean_certified_radius([[0]], [[0]], [[0]]), InputError, "one length"),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


outcome = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(-1, 3))


@SETTINGS
@given(st.lists(outcome, min_size=1, max_size=12))
def test_summaries_are_those_of_loops(outcomes: list[tuple[int, int, int]]) -> None:
    prediction, radius, y = (list(column) for column in zip(*outcomes, strict=True))
    radii = list(range(12))
    expected = [reference.accuracy_at(prediction, radius, y, at) for at in radii]
    found = certified_accuracy(prediction, radius, y, radii)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
    assert (np.diff(found) <= 0).all()
    assert median_certified_radius(prediction, radius, y) == reference.median_radius(
        prediction, radius, y
    )
    area = sum(reference.accuracy_at(prediction, radius, y, at) for at in range(1, 12))
    assert mean_certified_radius(prediction, radius, y) == pytest.approx(area)
    for row in per_class_table(prediction, radius, y, 5):
        of_class = [item for item in outcomes if item[2] == row["class"]]
        columns = [list(column) for column in zip(*of_class, strict=True)]
        assert row["n"] == len(of_class) > 0
        assert row["recall"] == row["accuracy"] == pytest.approx(reference.accuracy_at(*columns, 0))
        assert row["median_certified_radius"] == reference.median_radius(*columns)
    known = {item[2] for item in outcomes if item[2] >= 0}
    assert {row["class"] for row in per_class_table(prediction, radius, y, 5)} == known


@SETTINGS
@given(st.lists(outcome, min_size=1, max_size=12))
def test_balanced_accuracy_and_the_constant_are_those_of_loops(
    outcomes: list[tuple[int, int, int]],
) -> None:
    prediction, radius, y = (list(column) for column in zip(*outcomes, strict=True))
    of_class = {label: [item for item in outcomes if item[2] == label] for label in set(y)}
    found = balanced_certified_accuracy(prediction, radius, y, range(12))
    for at, value in enumerate(found):
        columns = [list(zip(*rows, strict=True)) for rows in of_class.values()]
        each = [reference.accuracy_at(*rows, at) for rows in columns]
        assert value == pytest.approx(sum(each) / len(each))
    label, accuracy, balanced = majority(y)
    assert y.count(label) == max(map(y.count, y))
    constant = [label] * len(y), [99] * len(y), y
    assert accuracy == pytest.approx(certified_accuracy(*constant, [50])[0])
    assert balanced == pytest.approx(balanced_certified_accuracy(*constant, [50])[0])


def test_radii_may_be_budgets() -> None:
    prediction, radius, y = [0, 1, 1, 0], np.array([0.5, 2.0, 1.5, 9.0]), [0, 1, 1, 1]
    found = certified_accuracy(prediction, radius, y, [0, 0.5, 0.6, 2.0, 2.1])
    np.testing.assert_allclose(found, [0.75, 0.75, 0.5, 0.25, 0])
    balanced = balanced_certified_accuracy(prediction, radius, y, [0.5, 1.6])
    np.testing.assert_allclose(balanced, [(1 + 2 / 3) / 2, 1 / 6])
    assert median_certified_radius(prediction, radius, y) == 1.5


@pytest.mark.parametrize(
    ("radius", "words"),
    [
        ([np.nan, 1.5], "radius is nan at row 0"),
        ([1, -5], "radius is -5 at row 1"),
        ([1.0, -0.5], "radius is -0.5 at row 1"),
        (np.array([1, None]), "radius has dtype object"),
        (["3", "4"], "radius has dtype <U1"),
        (np.ma.masked_array([9, 9], [True, False]), "radius has masked values"),
    ],
)
def test_what_is_no_radius_certifies_nothing(radius: Any, words: str) -> None:
    outcome = [0, 1], radius, [0, 1]
    for call in (
        lambda: certified_accuracy(*outcome, [100]),
        lambda: balanced_certified_accuracy(*outcome, [100]),
        lambda: median_certified_radius(*outcome),
        lambda: mean_certified_radius(*outcome),
        lambda: per_class_table(*outcome, 2),
    ):
        with pytest.raises(InputError, match=f"^{words}") as caught:
            call()  # type: ignore[no-untyped-call]
        assert "\n" not in str(caught.value)


def test_rows_of_which_nothing_is_certified() -> None:
    outcome = [0, 1, 1], [-1, 5, 2], [0, 1, 1]
    np.testing.assert_allclose(certified_accuracy(*outcome, [0, 3]), [2 / 3, 1 / 3])
    assert mean_certified_radius(*outcome) == pytest.approx(7 / 3)
    assert median_certified_radius(*outcome) == 2


def test_median_is_minus_one_below_half() -> None:
    assert median_certified_radius([0, 0, 0], [9, 9, 9], [0, 1, 1]) == -1
    assert median_certified_radius([0, 0], [9, 9], [0, 1]) == 9
