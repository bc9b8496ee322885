"""Columns of data brought into those of a model, and tables read in pieces: against all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxnn_numba.columns import Columns
from boxnn_numba.data.column_match import column_match
from boxnn_numba.data.sources import cells
from boxnn_numba.data.sources.tables import FrameTable, TableOptions
from boxnn_numba.errors import DataError

CELLS = {
    "n": st.sampled_from(["1", "2.5", "-3e2", "", "007"]),
    "c": st.sampled_from(["red", "green", "blue", "other", "?"]),
    "b": st.sampled_from(["True", "false", ""]),
    "d": st.sampled_from(["2024-02-29", "1969-12-31", "NA"]),
}
#: So that each column has its kind.
FIRST = {"n": "1", "c": "red", "b": "True", "d": "2024-01-01"}
ROWS = st.lists(st.fixed_dictionaries(CELLS), max_size=12)


def table(rows: list[dict[str, str]], names: Any = tuple(CELLS)) -> dict[str, list[str]]:
    return {name: [row[name] for row in (FIRST, *rows)] for name in names}


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS, st.permutations(list(CELLS)))
def test_matched_values_are_those_that_the_model_reads_itself(
    data: list[dict[str, str]], training: list[dict[str, str]], order: list[str]
) -> None:
    have, want = Columns.of(table(data, order)), Columns.of(table(training))
    found = column_match(have, want, "d", "m")(have.values(table(data, order)))
    np.testing.assert_array_equal(found, want.values(table(data)))


def test_other_stays_other() -> None:
    have = Columns.of({"c": ["a", "other", "b"]})
    want = Columns.of({"c": ["b", "z", "other"]})
    x = np.array([[0.0], [1], [2], [3], [np.nan]], np.float32)  # a, b, other, what is not known
    found = column_match(have, want, "d", "m")(x)[:, 0]
    np.testing.assert_array_equal(found, [3, 0, 1, 3, np.nan])


def test_categories_are_matched_however_they_are_written() -> None:
    have = Columns.of({"c": ["1", "2", "3", "True"]}, ["c"])
    want = Columns.of({"c": ["true", "3.0", "1.0"]}, ["c"])
    assert have[0].categories == ("1", "2", "3", "True")
    assert want[0].categories == ("1.0", "3.0", "true")
    found = column_match(have, want, "d", "m")(np.arange(5.0)[:, None])[:, 0]
    np.testing.assert_array_equal(found, [0, 3, 1, 2, 3])


def test_another_kind_is_refused() -> None:
    have, want = Columns.of({"zip": ["01", "02"]}), Columns.of({"zip": ["01", "x"]})
    with pytest.raises(DataError, match="'zip' is a number in d and a category in m"):
        column_match(have, want, "d", "m")


@settings(max_examples=30, deadline=None)
@given(ROWS, st.integers(1, 30))
def test_pieces_of_a_file_are_read_as_all_of_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], block: int
) -> None:
    path: Path = tmp_path_factory.mktemp("pieces") / "t.csv"
    whole = table(rows)
    lines = [",".join(whole), *(",".join(row) for row in zip(*whole.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "BLOCK_CELLS", block)
        frame = FrameTable(cells.open_table(path), TableOptions())
        assert sum(len(piece.labels) for piece in frame.scan()) == len(rows) + 1
        x = np.concatenate([piece.x for piece in frame.blocks()])
    assert frame.columns == Columns.of(whole)
    np.testing.assert_array_equal(x, Columns.of(whole).values(whole))
