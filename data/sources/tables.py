"""Users' tables with a label column: CSV and Parquet, read block by block."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from boxnn_numba.data.sources.blocks import BLOCK_BYTES, Block, Table, cell, clean_labels, reading
from boxnn_numba.errors import DataError

#: Cells of text in a block; as Python strings they take some sixty bytes each.
BLOCK_CELLS = 200_000


class CsvTable(Table):
    """A text table with a header line; every column but the label's is a feature.

    Parameters
    ----------
    path
        ``.csv`` (commas) or ``.tsv`` (tabs), optionally with ``.gz``.
    label
        Header of the label column.
    """

    is_uint8 = False

    def __init__(self, path: Path, label: str) -> None:
        self.place = str(path)
        self._path = path
        with reading(self.place), self._open() as file:
            header = next(self._reader(file), None)
        if not header:
            raise DataError(f"{path} is empty; pass a table with a header line")
        self._header = [name.strip() for name in header]
        self._label = _label_position(self._header, label, self.place)
        self.columns = _without(self._header, self._label)
        self.feature_shape = (len(self.columns),)

    def labels(self) -> Iterator[np.ndarray]:
        """Read all labels in order; also checks the number of cells in every line."""
        for rows, lines in self._rows():
            yield self._labels(rows, lines)

    def blocks(self) -> Iterator[Block]:
        """Read all rows in order."""
        start = 0
        for rows, lines in self._rows():
            labels = self._labels(rows, lines)
            text = [_without(row, self._label) for row in rows]
            try:
                x = np.array(text, dtype=np.float64)
            except ValueError:
                raise self._not_a_number(text, lines) from None
            yield Block(x, labels, start, lines)
            start += len(rows)

    def _open(self) -> IO[str]:
        if self._path.suffix == ".gz":
            return gzip.open(self._path, "rt", encoding="utf-8-sig", newline="")
        return self._path.open(encoding="utf-8-sig", newline="")

    def _reader(self, file: IO[str]) -> Any:
        tabs = self._path.name.removesuffix(".gz").endswith(".tsv")
        return csv.reader(file, delimiter="\t" if tabs else ",", strict=True)

    def _rows(self) -> Iterator[tuple[list[list[str]], list[int]]]:
        step = max(1, BLOCK_CELLS // len(self._header))
        with reading(self.place), self._open() as file:
            try:
                yield from self._read(self._reader(file), step)
            except csv.Error as error:
                raise DataError(f"{self.place} is not a CSV table: {error}; repair it") from error

    def _read(self, reader: Any, step: int) -> Iterator[tuple[list[list[str]], list[int]]]:
        next(reader)
        rows: list[list[str]] = []
        lines: list[int] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(self._header):
                raise DataError(
                    f"line {reader.line_num} of {self.place} has {len(row)} cells and the header "
                    f"{len(self._header)}; repair the line"
                )
            rows.append(row)
            lines.append(reader.line_num)
            if len(rows) == step:
                yield rows, lines
                rows, lines = [], []
        if rows:
            yield rows, lines

    def _labels(self, rows: list[list[str]], lines: list[int]) -> np.ndarray:
        labels = np.array([row[self._label].strip() for row in rows])
        empty = np.flatnonzero(labels == "")
        if len(empty):
            raise DataError(
                f"line {lines[empty[0]]} of {self.place} has no label; fill it or drop the line"
            )
        return labels

    def _not_a_number(self, text: list[list[str]], lines: list[int]) -> DataError:
        row, column = next(
            (row, column)
            for row, cells in enumerate(text)
            for column, value in enumerate(cells)
            if not _is_number(value)
        )
        value = text[row][column]
        problem = f"{value!r} is not a number" if value.strip() else "empty cell"
        block = Block(np.empty((0, 0)), np.empty(0), 0, lines)
        return DataError(f"{problem} at {cell(block, self, row, column)}; features must be numbers")


class ParquetTable(Table):
    """A Parquet file; every column but the label's is a numeric feature.

    Parameters
    ----------
    path
        The file.
    label
        Name of the label column.
    """

    def __init__(self, path: Path, label: str) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise DataError(
                "reading Parquet needs pyarrow; run pip install 'boxnn-numba[parquet]'"
            ) from None
        self.place = str(path)
        self._path = path
        with reading(self.place):
            schema = pq.read_schema(path)
        self._label_name = label
        position = _label_position(schema.names, label, self.place)
        self.columns = _without(schema.names, position)
        types = [schema.field(name).type for name in self.columns]
        for name, kind in zip(self.columns, types, strict=True):
            numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
            if not (numeric or pa.types.is_boolean(kind)):
                raise DataError(
                    f"column {name!r} of {path} has type {kind}; features must be numbers"
                )
        self.feature_shape = (len(self.columns),)
        self.is_uint8 = all(pa.types.is_uint8(kind) for kind in types)

    def labels(self) -> Iterator[np.ndarray]:
        """Read all labels in order, without the features."""
        start = 0
        for batch in self._batches([self._label_name]):
            yield self._labels(batch.column(0), start)
            start += batch.num_rows

    def blocks(self) -> Iterator[Block]:
        """Read all rows in order."""
        assert self.columns is not None
        start = 0
        for batch in self._batches([*self.columns, self._label_name]):
            names = batch.schema.names
            columns = [
                self._numbers(batch.column(names.index(name)), name, start) for name in self.columns
            ]
            labels = self._labels(batch.column(names.index(self._label_name)), start)
            yield Block(np.stack(columns, axis=1), labels, start)
            start += batch.num_rows

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        import pyarrow.parquet as pq

        step = max(1, BLOCK_BYTES // (8 * (self.n_features + 1)))
        with reading(self.place), pq.ParquetFile(self._path) as file:
            yield from file.iter_batches(batch_size=step, columns=columns)

    def _numbers(self, column: Any, name: str, start: int) -> np.ndarray:
        if column.null_count:
            raise DataError(
                f"missing value at row {start + _first_null(column)}, column {name!r} of "
                f"{self.place}; drop or fill missing values first"
            )
        values: np.ndarray = column.to_numpy(zero_copy_only=False)
        return values if values.dtype == np.uint8 else values.astype(np.float64)

    def _labels(self, column: Any, start: int) -> np.ndarray:
        if column.null_count:
            row = start + _first_null(column)
            raise DataError(f"row {row} of {self.place} has no label; fill it or drop the row")
        values = column.to_numpy(zero_copy_only=False)
        return clean_labels(values, f"column {self._label_name!r} of {self.place}")


def _first_null(column: Any) -> int:
    return int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))


def _label_position(names: Sequence[str], label: str, place: str) -> int:
    count = list(names).count(label)
    if count != 1:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        problem = "has no column" if count == 0 else f"has {count} columns named"
        raise DataError(f"{place} {problem} {label!r} (columns: {shown}); choose another `label`")
    if len(names) < 2:
        raise DataError(f"{place} has no column but {label!r}; it needs at least one feature")
    return list(names).index(label)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _without(items: Sequence[str], position: int) -> list[str]:
    return [*items[:position], *items[position + 1 :]]
