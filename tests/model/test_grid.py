"""Grid: real features to codes and back."""

from __future__ import annotations

import bisect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from boxnn_numba import Grid
from boxnn_numba.columns import Column
from boxnn_numba.errors import InputError, OptionError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=120)
BIGGEST = float(np.finfo(np.float64).max)
reals = st.one_of(
    st.floats(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-3, 3).map(float),
)
columns = st.lists(reals, min_size=1, max_size=12)


def column(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


@SETTINGS
@given(columns, columns)
def test_encoding_is_monotone_and_separates_training_values(
    training: list[float], other: list[float]
) -> None:
    grid = Grid.fit(column(training))
    values = sorted([*training, *other])
    codes = grid.encode(column(values))[:, 0].astype(int)
    assert (np.diff(codes) >= 0).all()
    distinct = sorted(set(training))
    assert len(set(grid.encode(column(distinct))[:, 0].tolist())) == len(distinct)
    if len(distinct) > 1:
        assert grid.encode(column([distinct[0], distinct[-1]]))[:, 0].tolist() == [0, 255]


@SETTINGS
@given(columns, columns)
def test_codes_are_those_of_bisection(training: list[float], other: list[float]) -> None:
    grid = Grid.fit(column(training))
    edges = grid.edges[0, : grid.counts[0]].tolist()
    assert edges == sorted(set(edges)) and np.isfinite(edges).all()
    for value in (*training, *other, *edges):
        level = bisect.bisect_right(edges, value)
        expected = round(255 * level / len(edges)) if edges else 0
        assert grid.encode([[value]])[0, 0] == expected


@SETTINGS
@given(columns, columns, st.data())
def test_interval_holds_exactly_the_values_whose_code_is_inside(
    training: list[float], other: list[float], data: st.DataObject
) -> None:
    grid = Grid.fit(column(training))
    lower = data.draw(st.integers(0, 255))
    upper = data.draw(st.integers(lower, 255))
    low, high = (side[0, 0] for side in grid.interval([[lower]], [[upper]]))
    assert low <= high
    edges = grid.edges[0, : grid.counts[0]].tolist()
    near = [np.nextafter(edge, way) for edge in edges for way in (-np.inf, np.inf)]
    values = [v for v in (*training, *other, *edges, *near) if np.isfinite(v)]
    for value, code in zip(values, grid.encode(column(values))[:, 0], strict=True):
        assert (low <= value < high) == (lower <= code <= upper)


@SETTINGS
@given(hnp.arrays(np.float32, (9, 3), elements=st.floats(-100, 100, width=32)))
def test_float32_and_float64_of_the_same_numbers(x: np.ndarray) -> None:
    grid, wide = Grid.fit(x), Grid.fit(x.astype(np.float64))
    np.testing.assert_array_equal(grid.edges, wide.edges)
    np.testing.assert_array_equal(grid.counts, wide.counts)
    for features in (x, x + np.float32(1e-3)):
        np.testing.assert_array_equal(grid.encode(features), grid.encode(features.astype(float)))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e300, 5e-324])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbouring_floats_get_different_codes(value: float, dtype: type) -> None:
    if dtype == np.float32 and not 1e-30 < abs(value) < 1e30:
        return
    one = dtype(value)
    x = np.array([[one], [np.nextafter(one, dtype(np.inf))]])
    assert x[0] < x[1]
    assert Grid.fit(x).encode(x)[:, 0].tolist() == [0, 255]


@pytest.mark.parametrize("n_values", [2, 300])
def test_largest_floats(n_values: int) -> None:
    x = np.array([[-BIGGEST], *([[0.0], [1.0], [2.0]] * (n_values > 2)), [BIGGEST]])
    if n_values > 2:
        x = np.concatenate([x, BIGGEST * np.linspace(-1, 1, n_values)[:, None]])
    grid = Grid.fit(x)
    assert np.isfinite(grid.edges[0, : grid.counts[0]]).all()
    assert grid.encode([[-BIGGEST], [BIGGEST]])[:, 0].tolist() == [0, 255]


def test_constant_feature_beside_others() -> None:
    x = np.array([[7.0, 1.0], [7.0, 2.0], [7.0, 4.0]])
    grid = Grid.fit(x)
    assert grid.counts.tolist() == [0, 2]
    assert grid.encode([[7.0, 0.0], [-1e9, 1.6], [1e9, 9.0]]).tolist() == [
        [0, 0],
        [0, 128],
        [0, 255],
    ]
    low, high = grid.interval([[0, 0], [1, 1]], [[255, 127], [255, 127]])
    assert (low[0].tolist(), high[0].tolist()) == ([-np.inf, -np.inf], [np.inf, 1.5])
    assert low[1, 0] == high[1, 0] and low[1, 1] == high[1, 1]


@pytest.mark.parametrize("n_values", [256, 257, 1000])
def test_many_distinct_values_fill_all_levels_evenly(n_values: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.permutation(np.sort(rng.normal(size=n_values)))[:, None]
    grid = Grid.fit(x)
    counts = np.bincount(grid.encode(x)[:, 0], minlength=256)
    assert grid.counts[0] == 255
    assert counts.min() >= n_values // 256 - 1 and counts.max() <= n_values // 256 + 2


def test_many_values_of_which_most_are_the_same() -> None:
    x = np.concatenate([np.zeros(5000), np.linspace(0, 1, 400)])[:, None]
    grid = Grid.fit(x)
    codes = grid.encode([[-1.0], [0.0], [1.0], [2.0]])[:, 0].tolist()
    assert codes[0] == codes[1] == 0 and codes[2] == codes[3] == 255


def test_fewer_levels() -> None:
    x = np.arange(100.0)[:, None]
    for levels in (2, 3, 16):
        codes = Grid.fit(x, levels).encode(x)[:, 0]
        assert len(set(codes.tolist())) == levels
        assert np.bincount(codes)[np.unique(codes)].min() >= 100 // levels - 1
    for levels in (0, 1, 257, 2.5):
        with pytest.raises(OptionError, match="levels is"):
            Grid.fit(x, levels)


def test_many_rows_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).normal(size=(3000, 3))
    grid = Grid.fit(x)
    monkeypatch.setenv("BOXNN_NUM_THREADS", "1")
    alone = grid.encode(x)
    monkeypatch.setenv("BOXNN_NUM_THREADS", "2")
    np.testing.assert_array_equal(grid.encode(x), alone)
    np.testing.assert_array_equal(
        alone[:, 1],
        grid.codes[1][np.searchsorted(grid.edges[1, : grid.counts[1]], x[:, 1], "right")],
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    grid = Grid.fit([[0.0, 1.0], [1.0, 3.0]])
    for call in [grid.encode] if np.isnan(bad) else [Grid.fit, grid.encode]:
        with pytest.raises(InputError, match="at row 1, feature 0; drop or fill") as caught:
            call([[0.0, 1.0], [bad, 1.0]])
        assert "\n" not in str(caught.value)


def test_other_bad_input() -> None:
    grid = Grid.fit([[0.0, 1.0], [1.0, 3.0]])
    with pytest.raises(InputError, match="3 features"):
        grid.encode([[1.0, 2.0, 3.0]])
    with pytest.raises(InputError, match="empty"):
        Grid.fit(np.empty((0, 3)))
    with pytest.raises(InputError, match="must be numbers"):
        Grid.fit([["a", "b"]])
    for edges, counts in (
        ([[1.0, 1.0]], [2]),
        ([[2.0, 1.0]], [2]),
        ([[np.nan, 1.0]], [2]),
        ([[np.nan]], [1]),
        ([[1.0, 2.0]], [3]),
        ([[1.0, 2.0]], [-1]),
        ([[1.0, 2.0]], [1, 1]),
        ([np.arange(256.0)], [256]),
    ):
        with pytest.raises(InputError, match="Grid"):
            Grid(np.array(edges), np.array(counts))


def test_ends_of_near_numbers_are_told_apart() -> None:
    near = 1_700_000_000 + np.arange(200.0)[:, None]
    grid = Grid.fit(near)
    code = int(grid.encode(near)[90, 0])
    low, high = grid.interval([[code]], [[code]])
    text = grid.admitted(0, code, code)
    assert [float(end) for end in text.split(" to ")] == [low[0, 0], high[0, 0]]
    assert Grid.fit(near / 1.7e9 * 3).admitted(0, 0, 100).startswith("below 3")


# --- categories and missing values ---------------------------------------------------------


def test_categories_are_ordered_by_the_share_of_the_second_class() -> None:
    """Three categories, of which 1 goes with class 0 most, then 2, then 0; unseen ones between."""
    raw = np.repeat([0.0, 1.0, 2.0], 100)[:, None]
    y = np.concatenate([np.arange(100) < share for share in (90, 10, 30)]).astype(int)
    column = Column("city", "category", ("a", "b", "c"))
    grid = Grid.fit(raw, columns=[column], y=y)
    codes = grid.encode([[0.0], [1.0], [2.0], [3.0], [99.0], [np.nan]])[:, 0].tolist()
    assert codes == [255, 0, 85, 170, 170, 170]  # the mean share of class 1 is 43%
    assert grid.admitted(0, 0, 85, column) == "b, c"
    assert grid.admitted(0, 100, 255, column) == "a, other"
    assert grid.admitted(0, 1, 84, column) == "nothing"
    assert grid.admitted(0, 0, 255, column) == "anything"
    assert grid.admitted(0, 1, 255, column) == "anything but b"
    low, high = grid.interval([[0]], [[85]])
    assert np.isnan([low[0, 0], high[0, 0]]).all()
    ordered = Grid.fit(raw, columns=[column]).encode([[0.0], [1.0], [2.0], [3.0]])[:, 0]
    assert ordered.tolist() == [0, 85, 170, 255]


@SETTINGS
@given(st.integers(1, 254), st.integers(2, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_every_category_has_a_code_of_its_own(
    count: int, classes: int, gaps: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, count + 1, (300, 1)).astype(float)
    raw[rng.random((300, 1)) < 0.1 * gaps] = np.nan
    y = np.append(rng.integers(0, classes, 300 - classes), np.arange(classes))
    names = tuple(map(str, range(count)))
    grid = Grid.fit(raw, columns=[Column("c", "category", names, gaps)], y=y)
    codes = grid.encode(np.append(np.arange(count + 1.0), np.nan)[:, None])[:, 0]
    assert len(set(codes.tolist())) == count + 1 + gaps
    assert (codes.min(), codes.max()) == (0, 255) and gaps == (codes[-1] != codes[-2])


def test_categories_of_many_classes_lie_beside_those_like_them() -> None:
    """Six categories that go with three classes, two with each: pairs are neighbours."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 3000)
    raw = (2 * y + rng.integers(0, 2, 3000)) % 6
    raw = np.where(rng.random(3000) < 0.1, rng.integers(0, 6, 3000), raw)
    column = Column("c", "category", tuple("abcdef"))
    for sign in (1, -1):  # classes in another order: still pairs
        grid = Grid.fit(raw[:, None], columns=[column], y=sign * y)
        place = np.argsort(np.argsort(grid.codes[0, :6]))
        assert all(abs(place[2 * k] - place[2 * k + 1]) == 1 for k in range(3))


@pytest.mark.parametrize("low", [True, False])
def test_a_missing_number_is_far_from_the_numbers_on_the_side_of_its_classes(low: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2))
    y = (x[:, 0] > 0) ^ low
    x[:100, 0], y[:100] = np.nan, True
    grid = Grid.fit(x, y=y)
    numbers = grid.encode(x[100:])[:, 0]
    missing = grid.encode([[np.nan, 0.0]])[0, 0]
    assert missing == (0 if low else 255) and np.abs(numbers.astype(int) - missing).min() == 24
    assert np.isin([0, 255], [*numbers, missing]).all()
    assert grid.encode([[0.0, np.nan]])[0, 1] == grid.encode([[0.0, np.median(x[:, 1])]])[0, 1]
    column = Column("a", missing=True)
    first, last = sorted([int(missing), int(numbers.max() if low else numbers.min())])
    assert grid.admitted(0, first, last, column) == "anything"
    assert grid.admitted(0, missing, missing, column) == "missing"
    assert not grid.is_plain and grid.missing is not None


@SETTINGS
@given(columns, columns, st.data())
def test_interval_and_words_of_a_number_with_missing_values(
    training: list[float], other: list[float], data: st.DataObject
) -> None:
    grid = Grid.fit(column([*training, np.nan]))
    lower = data.draw(st.integers(0, 255))
    upper = data.draw(st.integers(lower, 255))
    low, high = (side[0, 0] for side in grid.interval([[lower]], [[upper]]))
    values = [*training, *other]
    for value, code in zip(values, grid.encode(column(values))[:, 0], strict=True):
        assert (low <= value < high) == (lower <= code <= upper)
    words = grid.admitted(0, lower, upper, Column("a", missing=True))
    assert (words == "anything" or "missing" in words) == (lower <= grid.missing[0] <= upper)


def test_a_column_without_any_value_in_these_rows() -> None:
    grid = Grid.fit(np.array([[np.nan, 1.0], [np.nan, 2.0]]))
    assert grid.encode([[np.nan, 1.0], [7.0, 2.0]]).tolist() == [[255, 0], [0, 255]]


def test_missing_values_that_do_not_fit() -> None:
    x = [[0.0, np.nan], [1.0, 2.0]]
    with pytest.raises(OptionError, match="x has missing values"):
        Grid.fit(x, missing=False)
    with pytest.raises(InputError, match="x has 2 features and `columns` are 1"):
        Grid.fit(x, columns=[Column("a")])
    with pytest.raises(InputError, match="2 rows"):
        Grid.fit(x, y=[1])
    grid = Grid.fit([[0.0, 1.0], [1.0, 2.0]], missing=True)
    assert grid.encode([[np.nan, 1.0]]).tolist() == [[255, 0]]
    for codes, missing in ((np.zeros((2, 3), np.uint8), None), (None, np.zeros(2, int))):
        with pytest.raises(InputError, match="of a Grid do not fit its edges"):
            Grid(grid.edges, grid.counts, codes, missing)


def test_numbers_of_a_table_have_one_code_in_32_and_in_64_bits() -> None:
    x = np.round(np.random.default_rng(0).gamma(2, 30, (5000, 1)), 2)
    known = [Column("amount")]
    for training in (x, x.astype(np.float32)):
        grid, on_values = Grid.fit(training, columns=known), Grid.fit(training)
        np.testing.assert_array_equal(grid.encode(x), grid.encode(x.astype(np.float32)))
        np.testing.assert_array_equal(grid.encode(training), on_values.encode(training))
    assert (on_values.encode(x) != on_values.encode(x.astype(np.float32))).any()
