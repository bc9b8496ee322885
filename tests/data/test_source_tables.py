"""Users' tables: what is stored, and what is refused with which words."""

from __future__ import annotations

import builtins
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data_files import CODES, X, Y, expected_rows, refused, run, together

from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources import tables

pytestmark = pytest.mark.usefixtures("no_data_around")


def write_csv(name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    lines = [",".join(map(str, row)) for row in (header, *rows)]
    data = ("\n".join(lines) + "\n").encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("cells", [tables.BLOCK_CELLS, 11])
def test_csv(name: str, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK_CELLS", cells)
    kinds = np.array(["cat", "dog", "eel"])[Y]
    rows = [[a, b, kind, c, d] for (a, b, c, d), kind in zip(X, kinds, strict=True)]
    write_csv(name, ["a", "b", "kind", "c", "d"], rows)
    found = run(name, label="kind")
    dataset = open_dataset("out.zarr")
    assert (dataset.name, dataset.classes, dataset.n_features) == ("t", ["cat", "dog", "eel"], 4)
    np.testing.assert_array_equal(together(found), expected_rows(X.astype(np.float32), kinds))


def test_csv_dialect() -> None:
    Path("t.csv").write_bytes(
        b'\xef\xbb\xbf"a", b ,y\r\n1,2,"x, 1"\r\n\r\n3,-4e-1, z \r\n5,6,"x, 1"\r\n7,8,z\r\n'
    )
    found = run("t.csv", label="y", test_fraction=0.5)
    assert together(found).tolist() == [
        ["1.0", "2.0", "x, 1"],
        ["3.0", "-0.4000000059604645", "z"],
        ["5.0", "6.0", "x, 1"],
        ["7.0", "8.0", "z"],
    ]
    Path("t.tsv").write_text("a\ty\n1\t0\n2\t1\n3\t0\n4\t1\n")
    assert len(together(run("t.tsv", label="y", test_fraction=0.5))) == 4


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([], "t.csv is empty; pass a table with a header line"),
        (["a,y"], "t.csv has no rows"),
        (["a,b", "1,2"], r"has no column 'y' \(columns: a, b\); choose another `label`"),
        (["a,y,y", "1,2,3"], "has 2 columns named 'y'"),
        (["y", "1"], "has no column but 'y'"),
        (["a,y", "1,0", "2"], "line 3 of t.csv has 1 cells and the header 2"),
        (["a,y", "1,0", "2,"], "line 3 of t.csv has no label"),
        (["a,y", *["1,0", "2,1"] * 5, "x,1"], "'x' is not a number at line 12, column 'a' of t.c"),
        (["a,y", *["1,0", "2,1"] * 5, ",1"], "empty cell at line 12, column 'a' of t.csv"),
        (["a,y", *["1,0", "2,1"] * 5, "nan,1"], "nan at line 12, column 'a' of t.csv; drop"),
        (["a,y", *["1,0", "2,1"] * 5, "-inf,1"], "inf at line 12, column 'a'"),
        (["a,y", *["1,0", "2,1"] * 5, "1e40,1"], "line 12, column 'a' .* must fit in float32"),
        (["a,y", "1,0", "2,0"], "has one class only"),
        (["a,y", "1,0", "2,1"], "enough rows for a test split of 0.2; raise `test_fraction`"),
        (["a,y", '1,"0', "2,1"], "is not a CSV table"),
        (["a,y", "1,\udcff"], "can't decode"),
    ],
)
def test_unusable_csv(lines: list[str], match: str) -> None:
    Path("t.csv").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    refused(match, "t.csv", label="y")


def test_damaged_compressed_csv() -> None:
    write_csv("t.csv.gz", ["a", "y"], [[1, 0], [2, 1]] * 40)
    good = Path("t.csv.gz").read_bytes()
    for content in (good[:-9], b"plain text"):
        Path("t.csv.gz").write_bytes(content)
        refused("cannot read", "t.csv.gz", label="y")


def test_parquet() -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    kinds = np.array(["cat", "dog", "eel"])[Y]
    columns = {
        "a": X[:, 0],
        "kind": pa.array(kinds).dictionary_encode(),
        "b": CODES[:, 0].astype(np.int16),
        "c": Y == 1,
    }
    pq.write_table(pa.table(columns), "t.parquet", row_group_size=17)
    found = run("t.parquet", label="kind")
    x = np.stack([X[:, 0], CODES[:, 0], Y == 1], axis=1).astype(np.float32)
    np.testing.assert_array_equal(together(found), expected_rows(x, kinds))
    del columns["kind"]
    pq.write_table(pa.table(columns), "t.parquet")
    run("t.parquet", label="c")
    assert open_dataset("out.zarr").classes == [0, 1]


def test_parquet_of_bytes_are_codes() -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    codes = CODES.astype(np.uint8)
    pq.write_table(pa.table({**{f"p{i}": codes[:, i] for i in range(4)}, "y": Y}), "t.parquet")
    found = run("t.parquet", label="y")
    assert found["train"][0].dtype == np.uint8
    np.testing.assert_array_equal(together(found), expected_rows(codes, Y))


def test_unusable_parquet() -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(**columns: Any) -> None:
        pq.write_table(pa.table(columns), "t.parquet")

    write(a=["x", "y"], y=[0, 1])
    refused("column 'a' of t.parquet has type string; features must be num", "t.parquet", label="y")
    refused("has no column 'z'", "t.parquet", label="z")
    write(a=[1.0, 2.0, None, 4.0] * 5, y=[0, 1] * 10)
    refused("missing value at row 2, column 'a' of t.parquet", "t.parquet", label="y")
    write(a=[1.0, 2.0, np.nan, 4.0] * 5, y=[0, 1] * 10)
    refused("nan at row 2, column 'a' of t.parquet", "t.parquet", label="y")
    write(a=[1.0, 2.0], y=["u", None])
    refused("row 1 of t.parquet has no label", "t.parquet", label="y")
    write(a=list(range(4000)), y=[0, 1] * 2000)
    good = Path("t.parquet").read_bytes()
    for content in (b"", b"PAR1nonsense", good[:-5], good[: len(good) // 2]):
        Path("t.parquet").write_bytes(content)
        refused("cannot read t.parquet", "t.parquet", label="y")
    Path("t.parquet").write_bytes(good[:100] + bytes(len(good) // 2) + good[100 + len(good) // 2 :])
    refused("cannot read t.parquet", "t.parquet", label="y")


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_pyarrow(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **options)

    Path("t.parquet").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", no_pyarrow)
    refused(r"run pip install 'boxnn-numba\[parquet\]'", "t.parquet", label="y")
