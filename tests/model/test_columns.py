"""Columns of tables: kinds found on all rows, cells as raw values, by name."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxnn_numba.columns import MOST_CATEGORIES, Column, Columns, Survey
from boxnn_numba.errors import InputError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)
NAN = float("nan")
MIXED = {
    "amount": ["1", "2.5", "?"],
    "city": ["Bonn", " Kiel", "Bonn"],
    "member": ["True", "false", ""],
    "since": ["2024-01-01", "2024-01-02 12:00", None],
    "rate": [1, None, 3.5],
    "open": [True, None, False],
}
RAW = [
    [1, 0, 1, 19723, 1, 1],
    [2.5, 1, 0, 19724.5, NAN, NAN],
    [NAN, 0, NAN, NAN, 3.5, 0],
]


def test_kinds_and_raw_values_of_a_mixed_table() -> None:
    columns = Columns.of(MIXED)
    kinds = ["number", "category", "boolean", "date", "number", "boolean"]
    assert [column.kind for column in columns] == kinds
    assert [column.missing for column in columns] == [True, False, True, True, True, True]
    np.testing.assert_array_equal(columns.values(MIXED), RAW)
    shown = [columns.text(k, value) for k, value in enumerate(RAW[1])]
    assert shown == ["2.5", "Kiel", "False", "2024-01-02 12:00", "missing", "missing"]
    assert columns.text(1, 2) == "other" and columns.text(3, 19723) == "2024-01-01"
    assert Columns.from_list(columns.as_list()) == columns
    backwards = dict(reversed(MIXED.items()))
    np.testing.assert_array_equal(columns.values(backwards), RAW)
    array = np.array([*MIXED.values()], object).T
    np.testing.assert_array_equal(columns.values(array), RAW)
    np.testing.assert_array_equal(columns.values(np.array(RAW)), RAW)


def test_frames_are_read_alike() -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    days = [datetime(2024, 1, 1), datetime(2024, 5, 1, 12), None]
    polars = pl.DataFrame(
        {
            "n": pl.Series([1, None, 3]),
            "s": ["b", None, "a"],
            "c": pl.Series(["u", "v", None], dtype=pl.Categorical),
            "e": pl.Series(["u", "v", None], dtype=pl.Enum(["u", "v"])),
            "t": days,
            "d": [date(2024, 1, 1), date(2024, 5, 1), None],
            "b": [True, None, False],
        }
    )
    pandas = pd.DataFrame(
        {
            "n": pd.array([1, None, 3], "Int64"),
            "s": ["b", None, "a"],
            "c": pd.Categorical(["u", "v", None]),
            "e": pd.Categorical(["u", "v", None]),
            "t": pd.to_datetime(days).tz_localize("UTC"),
            "d": [date(2024, 1, 1), date(2024, 5, 1), None],
            "b": pd.array([True, None, False], "boolean"),
        }
    )
    expected = [
        [1, 1, 0, 0, 19723, 19723, 1],
        [NAN, NAN, 1, 1, 19844.5, 19844, NAN],
        [3, 0, NAN, NAN, NAN, NAN, 0],
    ]
    frames: list[Any] = [polars, pandas, polars.to_arrow(), pa.Table.from_pandas(pandas)]
    for frame in frames:
        columns = Columns.of(frame)
        assert columns == Columns.of(polars)
        np.testing.assert_array_equal(columns.values(frame), expected)
        np.testing.assert_array_equal(columns.values(frame.select(columns.names[::-1])
                                      if hasattr(frame, "select")
                                      else frame[columns.names[::-1]]), expected)  # fmt: skip


def test_numbers_of_a_category_type_are_categories() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"code": pd.Categorical([10.0, 2.0, None, 10.0])})
    columns = Columns.of(frame)
    assert columns[0] == Column("code", "category", ("2", "10"), missing=True)
    np.testing.assert_array_equal(columns.values(frame)[:, 0], [1, 0, NAN, 1])
    np.testing.assert_array_equal(columns.values({"code": [2, 10, 3]})[:, 0], [0, 1, 2])
    assert Columns.of(frame, numeric=["code"])[0].kind == "number"


def test_a_kind_is_decided_on_all_rows() -> None:
    survey = Survey()
    for cells in (["1", "2"], ["3", "?"], ["x", "1"]):
        survey.add({"a": cells, "b": ["2020-02-29", "true"]})
    columns = survey.columns()
    assert columns[0] == Column("a", "category", ("1", "2", "3", "x"), missing=True)
    assert columns[1].kind == "category"
    with pytest.raises(InputError, match="column 'c' is in some blocks only"):
        survey.add({"a": ["1"], "b": ["1"], "c": ["1"]})


def test_the_most_frequent_categories_are_kept_and_others_are_other() -> None:
    cells = [f"c{i:04}" for i in range(10_000)] + [f"c{i:04}" for i in range(9_000, 9_100)] * 2
    (column,) = columns = Columns.of({"a": cells})
    assert len(column.categories) == MOST_CATEGORIES
    assert {f"c{i:04}" for i in range(9_000, 9_100)} <= set(column.categories)
    values = columns.values({"a": ["c9000", "c9999", "new", None]})[:, 0]
    assert values[0] < 254 and values[1] == values[2] == 254 and np.isnan(values[3])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02 03:04", "2024-01-02 03:04"),
        ("2024-01-02 03:04:05", "2024-01-02 03:04:05"),
        ("1422-06-03 00:01", "1422-06-03 00:01"),
        ("9999-12-30 23:59", "9999-12-30 23:59"),
    ],
)
def test_dates_are_shown_to_the_second(text: str, shown: str) -> None:
    columns = Columns.of({"since": [text, "2000-01-01"]})
    assert columns.text(0, columns.values({"since": [text]})[0, 0]) == shown


def test_categories_of_numbers_and_missing_texts() -> None:
    columns = Columns.of({"zip": ["10", "9", "NA"], "a": [3, 1, 3]}, ["zip", "a"], missing=())
    assert columns[0].categories == ("10", "9", "NA") and columns[1].categories == ("1", "3")
    np.testing.assert_array_equal(
        columns.values({"zip": ["NA", "null", "9"], "a": ["3", 1.0, 7]}),
        [[2, 1], [NAN, 0], [1, 2]],
    )


@pytest.mark.parametrize(
    ("learned", "cells", "places"),
    [
        # What a frame makes of the texts of a file, and a file of the cells of a frame.
        (["1.0", "2.0", ""], [2, 1, None], [1, 0, NAN]),
        ([1, 2, 3], ["3.0", "2e0", "4", "", "1_0"], [2, 1, 3, NAN, 3]),
        (["1.50", "0.25"], [0.25, 1.5], [0, 1]),
        (["true", "false", "maybe"], [True, False], [2, 0]),
        (["4000123412341234", "7"], [4000123412341234, 7], [1, 0]),
        (["4000123412341234", "7"], [4000123412341234.0, NAN], [1, NAN]),
        ([2**60, 2**60 + 1, 2**60 + 2], [2**60 + 2, str(2**60), 2**60 + 5, None], [2, 0, 3, NAN]),
        # 1.10 may be a version: what is a category itself is that one, and of two none is guessed.
        (["1.1", "1.10", "2"], ["1.1", "1.10", 1.1, "1.100", "2.0"], [0, 1, 0, 3, 2]),
        (["007", "8"], ["7", 8, "inf", "nan"], [0, 1, 2, NAN]),
    ],
)
def test_one_value_is_one_category_however_it_is_written(
    learned: list[Any], cells: list[Any], places: list[float]
) -> None:
    columns = Columns.of({"a": learned}, categorical=["a"])
    np.testing.assert_array_equal(columns.values({"a": cells})[:, 0], places)


def test_whole_numbers_that_no_float_tells_apart_are_texts() -> None:
    pd = pytest.importorskip("pandas")
    large = [2**60 + k for k in (0, 1, 2)]
    frames: list[Any] = [
        {"a": np.array(large)}, {"a": np.array(large, np.uint64)}, {"a": [*large, None]},
        pd.DataFrame({"a": pd.Categorical(large)}), pd.DataFrame({"a": pd.array(large, "Int64")}),
    ]  # fmt: skip
    for frame in frames:
        columns = Columns.of(frame, categorical=["a"])
        assert columns[0].categories == tuple(map(str, large))
        np.testing.assert_array_equal(columns.values(frame)[:3, 0], [0, 1, 2])
    numbers = Columns.of({"a": np.array(large)})
    assert numbers[0].kind == "number"
    np.testing.assert_array_equal(numbers.values({"a": large})[:, 0], np.array(large, float))
    with pytest.raises(InputError, match="column 'since' holds '-9223372036854775808' at row 0"):
        since = np.array(["2020-01-01"], "M8[D]")
        Columns.of({"since": since}).values({"since": np.array([-(2**63)])})


def test_booleans_of_numbers_in_texts() -> None:
    columns = Columns.of({"a": [True, False]})
    np.testing.assert_array_equal(
        columns.values({"a": ["1.0", "0.0", "1", "TRUE", "2", "nan"]})[:, 0], [1, 0, 1, 1, 2, NAN]
    )


def test_bytes_are_texts_beside_missing_cells() -> None:
    columns = Columns.of({"a": [b"AA", None, b"BB", "CC"]})
    assert columns[0] == Column("a", "category", ("AA", "BB", "CC"), missing=True)
    np.testing.assert_array_equal(columns.values({"a": [b"BB", b"AA"]})[:, 0], [1, 0])


def test_dates_at_the_ends_of_the_calendar() -> None:
    cells = ["9999-12-31 23:59:59-05:00", "0001-01-01T00:00:00+01:00", "2020-01-01 01:00+01:00"]
    columns = Columns.of({"a": cells})
    assert columns[0].kind == "date"
    days = [2_932_897 - 1 / 86400 + 5 / 24, -719_162 - 1 / 24, 18_262]
    np.testing.assert_allclose(columns.values({"a": cells})[:, 0], days, rtol=0, atol=1e-9)


KINDS_OF_CELLS = (
    st.floats(-1e9, 1e9),
    st.integers(-(10**9), 10**9),
    st.text("abcx01 ", max_size=3),
    st.booleans(),
    st.dates(date(1900, 1, 1)),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
)


@SETTINGS
@given(st.one_of(*(st.lists(st.none() | kind, min_size=1) for kind in KINDS_OF_CELLS)))
def test_cells_have_the_category_that_their_text_has(cells: list[Any]) -> None:
    words = ["" if cell is None else str(cell) for cell in cells]
    if not any(map(str.strip, words)):
        return
    for learned, others in ((cells, words), (words, cells)):
        columns = Columns.of({"a": learned}, categorical=["a"])
        assert columns[0].kind == "category"
        expected = columns.values({"a": learned})
        np.testing.assert_array_equal(columns.values({"a": others}), expected)


@SETTINGS
@given(st.one_of(*(st.lists(st.none() | kind, min_size=1) for kind in KINDS_OF_CELLS)))
def test_cells_have_the_raw_value_that_their_text_has(cells: list[Any]) -> None:
    """A table and the CSV that is written of it are one to a model."""
    words = ["" if cell is None else str(cell) for cell in cells]
    try:
        columns = Columns.of({"a": cells})
    except InputError as error:
        assert "no value in any row" in str(error) and not any(map(str.strip, words))
        return
    np.testing.assert_array_equal(columns.values({"a": cells}), columns.values({"a": words}))
    shown = [columns.text(0, value) for value in columns.values({"a": cells})[:, 0]]
    again = columns.values({"a": [None if text == "missing" else text for text in shown]})
    close = timedelta(seconds=1) / timedelta(days=1) if columns[0].kind == "date" else 0
    np.testing.assert_allclose(again, columns.values({"a": cells}), rtol=0, atol=close)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"amount": [1]}, "column 'city' is missing; there are: amount"),
        ({"amount": [1], "citi": ["a"]}, "column 'city' is missing; did you mean 'citi'"),
        ({"amount": [1], "city": ["a"], "x": [1]}, "column 'x' is unknown; drop it"),
        ({"amount": [1, 2], "city": ["a"]}, "'amount' has 2 rows and 'city' 1"),
        ({"amount": ["1", "soon"], "city": ["a", "b"]}, "column 'amount' holds 'soon' at row 1"),
        (
            {"amount": np.array(["2020-01-01"], "M8[D]"), "city": ["a"]},
            "holds a date at row 0, which is no number",
        ),
        ({"amount": [1j], "city": ["a"]}, "column 'amount' holds '1j' at row 0"),
        ({"amount": np.array([1j]), "city": ["a"]}, "column 'amount' has dtype complex128"),
        ({"amount": np.ones((1, 2)), "city": ["a"]}, "column 'amount' has cells of shape"),
        (np.ones((2, 3)), "x has shape .*; the columns are 2"),
        ({}, "the table has no columns"),
        ({"amount": 1.5, "city": "Bonn"}, "column 'amount' is 1.5; pass a list of cells"),
        ({"amount": [1], "city": "Bonn"}, "column 'city' is 'Bonn'; pass a list of cells"),
    ],
)
def test_tables_that_do_not_fit(table: Any, message: str) -> None:
    columns = Columns.of({"amount": [1, 2], "city": ["Bonn", "Kiel"]})
    with pytest.raises(InputError, match=message):
        columns.values(table)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Columns.of({"a": [None, "?"]}), "column 'a' has no value in any row"),
        (lambda: Columns.of({"a": [], "b": []}), "the table has no rows; pass at least one"),
        (lambda: Columns.of({"a": ["1", "x"]}, numeric=["a"]), "in `numeric` and holds 'x'"),
        (lambda: Columns.of({"a": [1]}, categorical=["b"]), "there is no column 'b'"),
        (lambda: Columns.of({"a": [1]}, ["a"], ["a"]), "'a' is in `categorical` and in `numeric`"),
        (lambda: Columns([]), "there are no columns"),
        (lambda: Columns([Column("a"), Column("a")]), "two columns are named 'a'"),
        (lambda: Column("a", "text"), "column 'a' has the kind 'text'"),
        (lambda: Column("a", "category"), "has 0 categories"),
        (lambda: Column("a", "number", ("x",)), "has 1 categories"),
        (lambda: Column("a", "category", ("x", "x")), "has 2 categories"),
        (lambda: Columns.from_list([{"nam": "a"}]), "not what as_list returns"),
        (lambda: Columns.of({"a": [1]}).position("b"), "there is no column 'b'"),
    ],
)
def test_columns_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_lazy_frame_of_polars_is_to_be_collected() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1.0, 2.0]}).lazy()
    with pytest.raises(InputError, match=r"a LazyFrame of polars; pass its \.collect\(\)"):
        Columns.of(frame)


def test_whole_numbers_beyond_a_float() -> None:
    with pytest.raises(InputError, match="column 'a' holds a whole number of more than 308 digits"):
        Columns.of({"a": [10**400, 1]})


def test_two_columns_of_a_frame_with_one_name() -> None:
    pd = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="two columns are named 'a'"):
        Columns.of(pd.DataFrame([[1, 2]], columns=["a", "a"]))
