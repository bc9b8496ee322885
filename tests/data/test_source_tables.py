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

from boxnn_numba.data.dataset import open_dataset, verify_dataset
from boxnn_numba.data.sources import cells as tables
from boxnn_numba.data.sources.tables import TableOptions
from boxnn_numba.errors import BoxNNError, OptionError
from boxnn_numba.pipelines.ingest import ingest

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
        (["a,b", "1,2"], r"has no column 'y' \(there are: a, b\); choose another `label`"),
        (["a,y,y", "1,2,3"], "has 2 columns named 'y'"),
        (["y", "1"], "has no column but 'y'"),
        (["a,y", "1,0", "2"], "line 3 of t.csv has 1 cells and the header 2"),
        (["a,y", "1,0", "2,"], "line 3 of t.csv has no label"),
        (["a,y", *["1,0", "2,1"] * 5, "-inf,1"], "inf at line 12, column 'a' of t.csv; mend"),
        (["a,y", *[",0", "?,1"] * 5], "t.csv: column 'a' has no value in any row; drop it"),
        (["a,a,y", "1,2,0"], "has 2 columns named 'a'; rename one"),
        (["a;y", "1;0"], "has no ',' between its columns; pass `sep` ';'"),
        (['"a";"y"', "1;0"], "has no ',' between its columns; pass `sep` ';'"),
        (["a,y", *["1,0", "2,1"] * 5, "1e40,1"], "line 12, column 'a' .* must fit in float32"),
        (["a,y", "1,0", "2,0"], "has one class only"),
        (["a,y", "1,0", "2,1"], "enough rows for a test split of 0.2; raise `test_fraction`"),
        (["a,y", '1,"0', "2,1"], "is not a CSV table"),
        (["a,y", "1,\udcff"], "can't decode .*; save it as UTF-8"),
    ],
)
def test_unusable_csv(lines: list[str], match: str) -> None:
    Path("t.csv").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    refused(match, "t.csv", label="y")


def test_a_table_of_which_nothing_is_left_says_what_was_dropped() -> None:
    Path("t.csv").write_text("a,b,y,id\n1,2,0,x\n")
    some = TableOptions(label="y", id_column="id", drop=("a", "b"))
    every = TableOptions(drop=("a", "b", "y", "id"))
    for table, but in ((some, " but 'y' and 'id'"), (every, "")):
        refused(f"`drop` names all columns of t.csv{but}; leave", "t.csv", table=table)


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


def test_parquet_of_bytes_are_numbers_unless_they_are_said_to_be_codes() -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    codes = CODES.astype(np.uint8)
    pq.write_table(pa.table({**{f"p{i}": codes[:, i] for i in range(4)}, "y": Y}), "t.parquet")
    for options, dtype in (({}, np.float32), ({"codes": True}, np.uint8)):
        found = run("t.parquet", label="y", **options)
        assert found["train"][0].dtype == dtype
        assert (open_dataset("out.zarr").columns is None) == bool(options)
        np.testing.assert_array_equal(together(found), expected_rows(codes.astype(dtype), Y))


def test_unusable_parquet() -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(**columns: Any) -> None:
        pq.write_table(pa.table(columns), "t.parquet")

    write(a=[1.0, 2.0], y=[0, 1])
    refused("has no column 'z'", "t.parquet", label="z")
    write(a=[[1.0], [2.0]] * 5, y=[0, 1] * 5)
    refused("column 'a' of t.parquet has cells of type list<", "t.parquet", label="y")
    write(a=[1.0, 2.0], y=["u", None])
    refused("row 1 of t.parquet has no label", "t.parquet", label="y")
    write(a=[None, None], y=[0, 1])
    refused("column 'a' has no value in any row", "t.parquet", label="y")
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


# --- columns of every kind ---------------------------------------------------------------------

MIXED = (
    "amount,city,paid,day,kind,row\n"
    "1.5,Bonn,True,2024-01-01,b,a1\n"
    ",Kiel,false,2024-01-02,a,a2\n"
    "3,Bonn,TRUE,,a,a3\n"
    "4,?,False,2024-03-01,b,a4\n"
)
#: Raw values of the table above, in its order.
RAW = np.array(
    [
        [1.5, 0, 1, 19723],
        [np.nan, 1, 0, 19724],
        [3, 0, 1, np.nan],
        [4, np.nan, 0, 19783],
    ],
    np.float32,
)
ROLES = TableOptions(id_column="row")


def both(name: str = "out.zarr") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and ids of both splits."""
    dataset = open_dataset(name)
    pieces = [(*dataset.read(split), dataset.read_ids(split)) for split in dataset.splits]
    x, y, ids = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return x, y, ids


def mixed(ending: str) -> Path:
    """Write the table above."""
    path = Path(f"t{ending}")
    data = MIXED.replace(",", "\t" if ".tsv" in ending else ",").encode()
    if "parquet" in ending:
        pytest.importorskip("pyarrow")
        import pyarrow.csv
        import pyarrow.parquet as pq

        Path("plain.csv").write_bytes(data.replace(b"?", b""))
        table = pyarrow.csv.read_csv("plain.csv", convert_options=pyarrow.csv.ConvertOptions(
            strings_can_be_null=True))  # fmt: skip
        pq.write_table(table, "plain.parquet")
        data = Path("plain.parquet").read_bytes()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pytest.importorskip("pyarrow").Codec("zstd").compress(data, asbytes=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "ending", [".csv", ".tsv", ".csv.gz", ".csv.zst", ".parquet", ".parquet.gz", ".parquet.zst"]
)
def test_a_mixed_table(ending: str) -> None:
    summary = ingest(mixed(ending), "out.zarr", label="kind", table=ROLES, test_fraction=0.5)
    assert verify_dataset("out.zarr") == []
    dataset = open_dataset("out.zarr")
    assert dataset.columns is not None and dataset.id_name == "row"
    kinds = [(column.name, column.kind, column.missing) for column in dataset.columns]
    assert kinds == [
        ("amount", "number", True), ("city", "category", True), ("paid", "boolean", False),
        ("day", "date", True),
    ]  # fmt: skip
    assert dataset.columns[1].categories == ("Bonn", "Kiel")
    x, y, ids = both()
    order = np.argsort(ids)
    assert ids[order].tolist() == ["a1", "a2", "a3", "a4"]
    np.testing.assert_array_equal(x[order], RAW)
    assert y[order].tolist() == [1, 0, 0, 1]
    assert summary.columns == {"number": 1, "category": 1, "boolean": 1, "date": 1}
    assert dataset.table == {"label": "kind", "id_column": "row"}


def test_other_ways_to_read_a_table() -> None:
    Path("t.txt").write_text("a;b;c;kind\n1;x;-;0\n2;none;5;1\n1;;6;0\n2;x;7;1\n")
    options = TableOptions(sep=";", missing=("none", "-"), categorical=("a",), drop=("c",))
    ingest("t.txt", "out.zarr", label="kind", table=options, test_fraction=0.5)
    columns = open_dataset("out.zarr").columns
    assert columns is not None and columns.names == ["a", "b"]
    assert [column.kind for column in columns] == ["category", "category"]
    assert columns[1].categories == ("x",) and columns[1].missing
    words = TableOptions(sep=";", numeric=("b",))
    refused(
        "t.txt: column 'b' holds 'x' at line 2, which is no number",
        "t.txt",
        label="kind",
        table=words,
    )
    for bad, match in (
        (TableOptions(sep=";", drop=("z",)), r"has no column 'z' .*; choose another `drop`"),
        (TableOptions(sep=";", categorical=("z",)), "choose another `categorical`"),
        (TableOptions(sep=";", drop=("kind",)), "'kind' is named by `label` and by `drop`"),
        (TableOptions(sep=";;"), "`sep` is ';;'; pass one sign"),
    ):
        refused(match, "t.txt", label="kind", table=bad, error=BoxNNError)


def test_kinds_are_decided_on_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK_CELLS", 20)
    rows = [*(f"{i},{i % 2}" for i in range(50)), "x,1", *(f"{i},{i % 2}" for i in range(50))]
    Path("t.csv").write_text("a,y\n" + "\n".join(rows) + "\n")
    summary = ingest("t.csv", "out.zarr", label="y")
    columns = open_dataset("out.zarr").columns
    assert columns is not None and columns[0].kind == "category"
    assert summary.notes == [
        "column 'a' of numbers but for some texts, so taken for categories: name it in `numeric`, "
        "and the texts in `missing`"
    ]
    ingest("t.csv", "b.zarr", label="y", table=TableOptions(missing=("x",)))
    columns = open_dataset("b.zarr").columns
    assert columns is not None and columns[0].kind == "number" and columns[0].missing


def test_many_categories_and_single_values_are_told() -> None:
    rows = [f"c{i % 300},5,{i % 2}" for i in range(600)]
    Path("t.csv").write_text("a,b,y\n" + "\n".join(rows) + "\n")
    summary = ingest("t.csv", "out.zarr", label="y")
    assert [note.split(" with ")[0] for note in summary.notes] == ["column 'b'", "column 'a'"]
    dataset = open_dataset("out.zarr")
    assert dataset.columns is not None and len(dataset.columns[0].categories) == 254
    x = np.concatenate([dataset.read(split)[0] for split in dataset.splits])
    assert (x[:, 0] == 254).sum() == 46 * 2


def test_numbers_that_are_written_as_texts_and_measured_labels_are_told() -> None:
    rows = [
        f'{k % 12 + 1}/{k % 28 + 1}/2024 9:30,"${k}1,234.50",Elm St {k},{k / 7}' for k in range(300)
    ]
    Path("t.csv").write_text("day,price,street,y\n" + "\n".join(rows * 8) + "\n")
    summary = ingest("t.csv", "out.zarr", label="y")
    assert [note for note in summary.notes if "more categories" not in note] == [
        "the labels are 300 different numbers, each a class of its own: write a few ranges in "
        "their place if they are measured",
        "column 'day' of dates in another order, so taken for categories: write them as 2026-12-31",
        "column 'price' of amounts of money, so taken for categories: write them as 1234.50",
    ]


def test_columns_that_number_the_rows_or_have_commas_are_told() -> None:
    rows = [f'{k + 7};{k};"1,{k}";{k % 2}' for k in np.random.default_rng(0).permutation(60)]
    rows[0] = rows[0].replace(";", ";5", 1)
    Path("t.csv").write_text(";a;b;y\n" + "\n".join(rows) + "\n")
    summary = ingest("t.csv", "out.zarr", label="y", table=TableOptions(sep=";"))
    assert summary.notes == [
        "column 'Unnamed: 0' that may number the rows: name it in `id_column` or in `drop`",
        "column 'b' of numbers with commas, so taken for categories: write points",
    ]


def test_values_that_are_stored_coarsely_are_told() -> None:
    rows = [f"{1700000000 + 3 * k},2024-01-{k + 1:02} 12:0{k % 7},{16777215 - k},2024-01-01,{k % 2}"
            for k in range(20)]  # fmt: skip
    rows[3] = ",,,," + rows[3][-1]
    Path("t.csv").write_text("stamp,at,small,day,y\n" + "\n".join(rows) + "\n")
    summary = ingest("t.csv", "out.zarr", label="y")
    x = np.concatenate([open_dataset("out.zarr").read(split)[0] for split in ("train", "test")])
    assert [len(np.unique(column[~np.isnan(column)])) for column in x.T[[0, 2]]] == [1, 19]
    assert [note.split(", ")[0] for note in summary.notes] == [
        "column 'stamp' of whole numbers above 16,777,216",
        "column 'at' of dates with a time",
    ]


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [(["7", "-8", "9", "10"], "i"), (["007", "8", "9", "10"], "U"), (["ä", "", "b", "cc"], "U")],
)
def test_names_of_rows(ids: list[str], dtype: str) -> None:
    rows = [f"{name},{k},{k % 2}" for k, name in enumerate(ids)]
    Path("t.csv").write_text("who,a,y\n" + "\n".join(rows) + "\n", encoding="utf-8")
    ingest("t.csv", "o.zarr", label="y", table=TableOptions(id_column="who"), test_fraction=0.5)
    x, _, found = both("o.zarr")
    assert found.dtype.kind == dtype
    assert [str(name) for name in found[np.argsort(x[:, 0])]] == ids
    damaged = Path("o.zarr/test/id/c/0/0")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert verify_dataset("o.zarr") == [
        "test/id chunk 0 of o.zarr is damaged or missing; run `boxnn data verify` and ingest again"
    ]


# --- where the test rows come from ---------------------------------------------------------------


def test_a_second_table_is_the_test_split() -> None:
    Path("a.csv").write_text("n,c,y\n1,u,k\n2,v,l\n")
    Path("b.csv").write_text("c,n,y\nv,3,l\nw,4,k\n")
    found = run("a.csv", label="y", test="b.csv")
    assert found["train"][0].tolist() == [[1, 0], [2, 1]]
    assert found["test"][0].tolist() == [[3, 1], [4, 2]]  # w is another category than these two
    assert found["test"][1].tolist() == ["l", "k"]
    Path("b.csv").write_text("c,n\nv,3\n")
    assert ingest("a.csv", "c.zarr", label="y", test="b.csv").unlabelled == 1
    assert open_dataset("c.zarr").read_labels("test").tolist() == [-1]
    Path("b.csv").write_text("c,m,y\nv,3,l\n")
    refused(r"b.csv has no column 'n' .*; add it", "a.csv", label="y", test="b.csv")
    Path("b.csv").write_text("c,n,m,y\nv,3,4,l\n")
    refused(r"column 'm' of b.csv is unknown", "a.csv", label="y", test="b.csv")
    Path("b.csv").write_text("c,n,y\nv,1,l\nv,x,l\n")
    refused("b.csv: column 'n' holds 'x' at line 3", "a.csv", label="y", test="b.csv")
    refused("nothing.csv does not exist", "a.csv", label="y", test="nothing.csv")
    table = TableOptions(id_column="n")
    Path("b.csv").write_text("c,y\nv,l\n")
    refused("b.csv has no column 'n'", "a.csv", label="y", test="b.csv", table=table)


def test_a_column_names_the_split() -> None:
    Path("a.csv").write_text("n,s,y\n1,train,k\n2,TEST,l\n3,Train,l\n4,test,\n")
    table = TableOptions(split_column="s")
    found = run("a.csv", label="y", table=table)
    assert found["train"][0].tolist() == [[1], [3]] and found["test"][0].tolist() == [[2], [4]]
    assert open_dataset("out.zarr").read_labels("test").tolist() == [1, -1]
    Path("a.csv").write_text("n,s,y\n1,train,k\n2,dev,l\n")
    refused("'dev' at line 3, column 's' of a.csv is no split", "a.csv", label="y", table=table)
    refused("both say which rows", "a.csv", OptionError, label="y", table=table, test="a.csv")
    Path("a.csv").write_text("n,s,y\n1,test,k\n2,test,l\n")
    refused("a.csv has no rows for training", "a.csv", label="y", table=table)


def test_rows_without_labels() -> None:
    Path("a.csv").write_text("n,c\n1,u\n2,v\n")
    summary = ingest("a.csv", "out.zarr")
    assert summary.rows == {"train": 0, "test": 2} and summary.unlabelled == 2
    dataset = open_dataset("out.zarr")
    assert dataset.classes == [] and dataset.read_labels("test").tolist() == [-1, -1]
