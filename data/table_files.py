"""Tables for other programs: CSV, JSON or Parquet, by file name, written piece by piece."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.paths import Location, Name, location
from boxnn_numba.errors import OptionError
from boxnn_numba.text import cell, printable

#: Stands for the standard output.
STDOUT = "-"
ENDINGS = (".csv", ".tsv", ".json", ".parquet")
#: What other programs would not open if it held CSV.
_NOT_TEXT = (".gz", ".zst", ".zip", ".zarr", ".xls", ".xlsx", ".ods", ".npy", ".npz", ".feather")

#: Columns by name, each with a value a row; None where there is none.
Rows = Mapping[str, Sequence[Any] | np.ndarray]
Write = Callable[[Rows], None]


@contextlib.contextmanager
def table_output(
    out: Name,
    *,
    overwrite: bool,
    inputs: Sequence[Name],
    as_json: bool = False,
    no_lock: bool = False,
) -> Iterator[Write]:
    """Yield what writes rows of a table, always the same columns; it appears once it is whole.

    Parameters
    ----------
    out
        A file, whose ending says what is written, CSV where it says nothing; or `STDOUT`.
    overwrite, inputs, no_lock
        As for `staged_output`.
    as_json
        Write JSON to the standard output.

    Raises
    ------
    OptionError
        `out` exists or has another ending, or Parquet is wanted and pyarrow is not installed.
    OutputError
        `out` cannot be written.
    """
    if str(out) == STDOUT:
        with (_json if as_json else _csv)(sys.stdout, ",") as write:
            yield write
        sys.stdout.flush()
        return
    ending = location(out).suffix
    if ending in _NOT_TEXT:
        raise OptionError(f"`out` is {out}; its name must end in {', '.join(ENDINGS)}")
    if ending == ".parquet":
        _need_pyarrow()
    staged = staged_output(
        out, overwrite=overwrite, directory=False, inputs=inputs, no_lock=no_lock
    )
    with staged as partial:
        if ending == ".parquet":
            with _parquet(partial) as write:
                yield write
            return
        with partial.open("w", encoding="utf-8", newline="") as file:
            if ending == ".json":
                with _json(file, "") as write:
                    yield write
            else:
                with _csv(file, "\t" if ending == ".tsv" else ",") as write:
                    yield write


def _lists(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """Yield the rows, as values of Python's types."""
    return zip(*(np.asarray(column, object).tolist() for column in rows.values()), strict=True)


@contextlib.contextmanager
def _csv(file: TextIO, separator: str) -> Iterator[Write]:
    # Other programs at the end of a pipe want plain lines.
    end = "\n" if file is sys.stdout else "\r\n"
    table, begun = csv.writer(file, delimiter=separator, lineterminator=end), False
    on_screen = file is sys.stdout and file.isatty()

    def safe(value: Any) -> Any:
        text = cell(value)
        return printable(text) if on_screen and isinstance(text, str) else text

    def write(rows: Rows) -> None:
        nonlocal begun
        if not begun:
            table.writerow(map(safe, rows))
            begun = True
        table.writerows(map(safe, values) for values in _lists(rows))

    yield write


@contextlib.contextmanager
def _json(file: TextIO, _: str) -> Iterator[Write]:
    before = "["

    def write(rows: Rows) -> None:
        nonlocal before
        for values in _lists(rows):
            file.write(f"{before}\n{json.dumps(dict(zip(rows, values, strict=True)))}")
            before = ","

    yield write
    file.write(f"{'[' if before == '[' else ''}\n]\n")


def _need_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "writing Parquet needs pyarrow; run pip install 'boxnn-numba[parquet]' or choose .csv"
        ) from error


@contextlib.contextmanager
def _parquet(path: Location) -> Iterator[Write]:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    # The writer ends before the file that it writes its last part to.
    with path.open("wb") as file, contextlib.ExitStack() as stack:
        made: Any = None

        def write(rows: Rows) -> None:
            nonlocal made
            if made is None:
                table = pyarrow.table(dict(rows))
                made = stack.enter_context(ParquetWriter(file, table.schema))
            made.write_table(pyarrow.table(dict(rows), schema=made.schema))

        yield write
