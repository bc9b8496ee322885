"""Cells of users' tables, CSV and Parquet, unconverted, by column and block by block."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from boxnn_numba.data.sources.blocks import BLOCK_BYTES, reading
from boxnn_numba.errors import DataError, OptionError

#: Cells of text in a block; as Python strings they take some sixty bytes each.
BLOCK_CELLS = 200_000

#: Endings of text tables with what stands between the cells, and of Parquet files.
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq")
COMPRESSED = (".gz", ".zst")
#: Words for what is hard to type.
_SEPARATOR_WORDS = {"tab": "\t", "\\t": "\t", "space": " "}


@dataclass(frozen=True)
class Cells:
    """Some rows of a table.

    Attributes
    ----------
    columns : dict
        Cells of each column that was asked for: texts of a CSV table, or a column of pyarrow.
    n_rows, start : int
        How many rows, and the number of the first.
    lines : sequence of int or None
        Line of each row, where the source is a text file.
    """

    columns: dict[str, Any]
    n_rows: int
    start: int
    lines: Sequence[int] | None = None


class Reader(Protocol):
    """A table of cells: what to call it in a message, and the names of its columns."""

    place: str
    names: list[str]

    def blocks(self, names: Sequence[str]) -> Iterator[Cells]:
        """Read some columns, all rows in order."""


def is_table(path: Path) -> bool:
    """Say whether a file's name is that of a table."""
    return _kind(path) in (*SEPARATORS, *PARQUET)


def is_text(path: Path) -> bool:
    """Say whether a table is read as text."""
    return _kind(path) not in PARQUET


def open_table(path: Path, separator: str | None = None) -> Reader:
    """Open a table by the ending of its name, which may be followed by .gz or .zst.

    `separator` stands between the cells of a text table, whatever its ending; one sign, or
    ``"tab"``.
    """
    if separator is not None:
        separator = _SEPARATOR_WORDS.get(separator, separator)
        if len(separator) != 1 or separator in '"\r\n':
            raise OptionError(f"`sep` is {separator!r}; pass one sign, or tab")
    if _kind(path) in PARQUET:
        if separator is not None:
            raise OptionError(f"`sep` does not go with {path}; leave it away")
        return ParquetReader(path)
    return CsvReader(path, separator or SEPARATORS.get(_kind(path), ","))


def _kind(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix in COMPRESSED else path
    return plain.suffix.lower()


class CsvReader:
    """A text table with a header line.

    Parameters
    ----------
    path
        The file, optionally with ``.gz`` or ``.zst``.
    separator
        What stands between cells.
    """

    def __init__(self, path: Path, separator: str) -> None:
        self.place = str(path)
        self._path, self._separator = path, separator
        with reading(self.place), self._open() as file:
            # Not strictly: with another separator a header in quotes is no CSV.
            header = next(self._reader(file, strict=False), None)
        if not header:
            raise DataError(f"{path} is empty; pass a table with a header line")
        # As pandas calls the column of its row names.
        self.names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
        if len(self.names) == 1:
            found = next((sign for sign in ";\t|" if sign in header[0]), None)
            if found is not None:
                raise DataError(
                    f"{path} has no {self._separator!r} between its columns; pass `sep` "
                    f"{'tab' if found == chr(9) else repr(found)}"
                )

    def blocks(self, names: Sequence[str]) -> Iterator[Cells]:
        """Read some columns, all rows in order, and check the number of cells in every line."""
        places = [self.names.index(name) for name in names]
        step = max(1, BLOCK_CELLS // len(self.names))
        start = 0
        with reading(self.place), self._open() as file:
            try:
                for rows, lines in self._read(self._reader(file), step):
                    columns = list(zip(*rows, strict=True))
                    found = {
                        name: columns[place] for name, place in zip(names, places, strict=True)
                    }
                    yield Cells(found, len(rows), start, lines)
                    start += len(rows)
            except csv.Error as error:
                raise DataError(f"{self.place} is not a CSV table: {error}; repair it") from error

    def _open(self) -> IO[str]:
        return io.TextIOWrapper(_binary(self._path), encoding="utf-8-sig", newline="")

    def _reader(self, file: IO[str], strict: bool = True) -> Any:
        return csv.reader(file, delimiter=self._separator, strict=strict)

    def _read(self, reader: Any, step: int) -> Iterator[tuple[list[list[str]], list[int]]]:
        next(reader)
        rows: list[list[str]] = []
        lines: list[int] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(self.names):
                raise DataError(
                    f"line {reader.line_num} of {self.place} has {len(row)} cells and the header "
                    f"{len(self.names)}; repair the line"
                )
            rows.append(row)
            lines.append(reader.line_num)
            if len(rows) == step:
                yield rows, lines
                rows, lines = [], []
        if rows:
            yield rows, lines


class ParquetReader:
    """A Parquet file, optionally with ``.gz`` or ``.zst``."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise DataError(
                "reading Parquet needs pyarrow; run pip install 'boxnn-numba[parquet]'"
            ) from None
        self.place = str(path)
        self._path = path
        with reading(self.place), self._file() as file:
            self._schema = pq.read_schema(file)
        self.names: list[str] = self._schema.names

    def blocks(self, names: Sequence[str]) -> Iterator[Cells]:
        """Read some columns, all rows in order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name in names:
            kind = self._schema.field(name).type
            if pa.types.is_nested(kind):
                raise DataError(
                    f"column {name!r} of {self.place} has cells of type {kind}; drop it, or make a "
                    "column of each part"
                )
        step = max(1, BLOCK_BYTES // (8 * (len(names) + 1)))
        start = 0
        with reading(self.place), self._file() as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=step, columns=list(names)):
                table = pa.Table.from_batches([batch])
                found = {name: table.column(name) for name in names}
                yield Cells(found, batch.num_rows, start)
                start += batch.num_rows

    @contextlib.contextmanager
    def _file(self) -> Iterator[Any]:
        if self._path.suffix not in COMPRESSED:
            yield self._path
            return
        # Its end is read first, so it has to lie unpacked.
        with tempfile.TemporaryFile() as spool, _binary(self._path) as file:
            shutil.copyfileobj(file, spool)
            spool.seek(0)
            yield spool


def _binary(path: Path) -> Any:
    """Open a file, unpacking it where its ending says so."""
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix != ".zst":
        return path.open("rb")
    try:
        from compression import zstd  # of Python 3.14

        return zstd.open(path)
    except ImportError:
        pass
    try:
        import pyarrow as pa
    except ImportError:
        raise DataError(
            f"reading {path} needs pyarrow; run pip install 'boxnn-numba[parquet]' or unpack it"
        ) from None
    return pa.input_stream(str(path), compression="zstd")
