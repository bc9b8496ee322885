"""Files with a row for each sample: declared once, and told so in the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from boxnn_numba.data import zarr_format
from boxnn_numba.data.attack_store import AttackFile
from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.data.row_files import AnyColumn, RowFile, RowWriter, write_chunk
from boxnn_numba.errors import AttackFileError

ATTRIBUTES = {
    **dict.fromkeys(("model_digest", "dataset_digest", "split"), "x"),
    "classes": list(range(15)), "feature_shape": [3], "width": 1, "group_size": 1,
    "options": {"method": "greedy", "max_features": None},
}  # fmt: skip
FORMATS = Path(__file__).parents[2] / "docs" / "formats.md"


def write(path: Path, dtype: str = "uint8") -> dict[str, np.ndarray]:
    """Write an attack file of 5 samples in chunks of 2; return its arrays."""
    writer = RowWriter(path, AttackFile, ATTRIBUTES, 5, 2, n=3, dtype=dtype)
    assert writer.unfinished() == [0, 1, 2]
    columns = {
        column.name: np.arange(5 if column.second is None else 15, dtype=np.int32) % 4
        for column in AttackFile.columns()
    }
    columns["row"] = np.arange(5, dtype=np.int32)
    columns["x"] = columns["x"].reshape(5, 3).astype(dtype)
    for chunk in (2, 0, 1):
        write_chunk(
            path, chunk, 2, {name: a[2 * chunk : 2 * chunk + 2] for name, a in columns.items()}
        )
    writer.finish(seconds=1.0)
    return columns


def declared(kind: type[RowFile]) -> list[str]:
    """Return the rows of a table in the docs, for a kind of file."""

    def row(column: AnyColumn[Any]) -> str:
        types = " or ".join(column.dtypes)
        return f"| `{column.name}` | {column.shape} {types}: {column.meaning} |"

    names = [name for name, value in vars(kind).items() if isinstance(value, AnyColumn)]
    rows = [row(column) for column in kind.columns(names)]
    return [*rows, "| `finished` | one entry for each chunk |"]


@pytest.mark.parametrize("kind", [CertificateFile, AttackFile])
def test_the_docs_say_what_is_declared(kind: type[RowFile]) -> None:
    text = FORMATS.read_text(encoding="utf-8")
    section = text.split(f"`format` is `{kind.schema.format}`")[1].split("\n## ")[0]
    table = section.split("| array | |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.strip().splitlines() == declared(kind)
    for name in ("digests", *kind.measured):
        assert re.search(rf"^\| .*`{name}`", section, re.MULTILINE)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_is_written_is_read(tmp_path: Path, dtype: str) -> None:
    columns = write(tmp_path / "a", dtype)
    file = AttackFile.open(tmp_path / "a")
    assert len(file) == 5 and file.x.dtype == dtype and file.x is file.x
    for name, values in columns.items():
        np.testing.assert_array_equal(getattr(file, name), values)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("row", np.zeros(4, np.int32), r"row has shape \(4,\), not \(N,\)"),
        ("x", np.zeros(5, np.uint8), r"x has shape \(5,\), not \(N, n\)"),
        ("label", np.zeros(5, np.int64), "label has type int64, not int32"),
    ],
)
def test_arrays_that_are_not_as_declared(
    tmp_path: Path, name: str, array: np.ndarray, words: str
) -> None:
    write(tmp_path / "a")
    group: Any = zarr.open_group(tmp_path / "a", mode="r+")
    group.create_array(name, data=array, overwrite=True)
    attributes = dict(group.attrs.asdict())
    del attributes["digest"]
    attributes["digests"][name] = zarr_format.stored_digest(group[name])
    zarr_format.write_attributes(group, attributes)
    with pytest.raises(AttackFileError, match=f"a is damaged: {words}.*; run `boxnn attack` again"):
        AttackFile.open(tmp_path / "a")
