"""Prediction: labels and certified radii of tables, arrays and images, written as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.certificates import AUTO, default_kind
from boxnn_numba.certificates.explanation import Explanation, pixel_names, smallest_changes
from boxnn_numba.certificates.explanation import explain as explain_rows
from boxnn_numba.columns import Column, Columns
from boxnn_numba.data.model_store import load_model
from boxnn_numba.data.paths import Name
from boxnn_numba.data.sources.arrays import array_rows
from boxnn_numba.data.sources.blocks import Like, stored_features
from boxnn_numba.data.sources.cells import is_table, open_table
from boxnn_numba.data.sources.images import holds_images, image_tables
from boxnn_numba.data.sources.tables import DEFAULT_TABLE, FrameTable, TableOptions
from boxnn_numba.data.table_files import table_output
from boxnn_numba.errors import DataError, InputError, OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

#: Rows of a user's array that are predicted at a time.
_ROWS = 4096

#: Certificates of single rows that `predict` writes.
CERTIFICATES = ("margin", "pairwise", "exact")


@dataclass(frozen=True)
class Predicted(Result):
    """The file of predictions, and its number of rows.

    There are `warnings` for columns whose cells are mostly categories that training did not see.
    """

    predictions: str
    n: int
    warnings: list[str] | None = None


def predict(
    model: Name,
    samples: str | os.PathLike[str],
    out: Name,
    *,
    certificate: str | None = None,
    distances: bool = False,
    changes: bool = False,
    table: TableOptions = DEFAULT_TABLE,
    as_json: bool = False,
    run: RunOptions = DEFAULT_RUN,
) -> Predicted:
    """Predict and certify rows of a table or an array, or images; write them as a table.

    Parameters
    ----------
    model
        Path of a model.
    samples
        A table, ``.csv``, ``.tsv`` or ``.parquet``, whose columns are matched by name; or a
        ``.npy`` or ``.npz`` file (N, n) or (N, *feature_shape), its ``x``, where no column of the
        model is a category; or an image, or a folder or zip of images, which are named by their
        files. Read piece by piece.
    out
        The ``.csv``, ``.tsv``, ``.json`` or ``.parquet`` file to write, or ``"-"`` for the standard
        output; CSV for other endings. Columns: the id of the row, if there is one, ``label`` and
        ``radius``.
    certificate
        One of `CERTIFICATES`. None or ``"auto"``: the result of `default_kind`.
    distances
        Add ``distance_CLASS`` of every class, in units.
    changes
        Add ``changes``, the columns that the smallest change found rewrites, from what to what, and
        ``becomes``, the label after it.
    table
        How to read a table. By default as that of the training data was: the same columns name
        rows, are dropped or mean the label, which is not needed.
    as_json
        Write JSON to the standard output.
    run
        How to run, in this process.

    Returns
    -------
    Predicted

    Raises
    ------
    BoxNNError
        Bad model or samples, or an output that cannot be written.
    """
    get_backend(run.device, run.threads, run.chunk)
    classifier = load_model(model)
    kind = validation.choice("certificate", certificate or AUTO, (*CERTIFICATES, AUTO))
    kind = default_kind(classifier) if kind == AUTO else kind
    name, pieces = _opened(classifier, Path(samples), table)
    count, inputs, unseen = 0, [model, samples], _Unseen(classifier)
    with (
        limit_threads(run.threads),
        table_output(
            out, overwrite=run.overwrite, no_lock=run.no_lock, inputs=inputs, as_json=as_json
        ) as write,
    ):
        for x, ids in pieces:
            rows = {} if ids is None or name is None else {name: ids}
            try:
                rows |= _certified(classifier, x, kind, distances, run)
            except InputError as error:
                raise InputError(f"of the rows from {count} on: {error}") from error
            write(rows | (_changes(classifier, x) if changes else {}))
            count += len(x)
            unseen.add(x)
            run.progress.start(count, "samples")  # nobody knows how many there will be
            run.progress.advance(count)
        if not count:
            raise DataError(f"{samples} has no rows; pass at least one")
    return Predicted(str(out), count, unseen.sentences(count) or None)


class _Unseen:
    """Counts the cells of columns that are of no category that training saw."""

    def __init__(self, model: BoxNN) -> None:
        columns = enumerate(model.columns or ())
        self._columns = {k: column for k, column in columns if column.is_listed}
        self._cells = dict.fromkeys(self._columns, 0)

    def add(self, x: np.ndarray) -> None:
        """Count those of some rows of raw values."""
        for k, column in self._columns.items():
            self._cells[k] += int((x[:, k] == len(column.categories)).sum())

    def sentences(self, rows: int) -> list[str]:
        """Return a sentence for each column with more of them than others."""
        return [
            f"column {self._columns[k].name!r}: {cells:,} of {rows:,} cells are of no category "
            "that training saw; check how they are written"
            for k, cells in self._cells.items()
            if 2 * cells > rows
        ]


@dataclass(frozen=True)
class Explained(Result):
    """Explanations of rows, by their numbers or by what names them."""

    rows: dict[str, Explanation]

    def as_dict(self) -> dict[str, Any]:
        """Return them as plain values, without the columns that cost nothing at either box."""
        found = {}
        for row, one in self.rows.items():
            found[row] = asdict(one)
            found[row]["columns"] = [
                column for column in found[row]["columns"]
                if column["own_cost"] or column["rival_cost"]
            ]  # fmt: skip
        return found

    def __str__(self) -> str:
        many = len(self.rows) > 1
        texts = (f"row {row}\n{one}" if many else str(one) for row, one in self.rows.items())
        return "\n\n".join(texts)


def explain(
    model: Name,
    samples: str | os.PathLike[str],
    rows: Sequence[int] | None = None,
    *,
    ids: Sequence[Any] | None = None,
    time_limit: float = 5.0,
    attackable: Any = None,
    costs: Any = None,
    table: TableOptions = DEFAULT_TABLE,
    run: RunOptions = DEFAULT_RUN,
) -> Explained:
    """Explain the predictions of some rows of a table or an array.

    Parameters
    ----------
    model, samples, table
        As for `predict`.
    rows
        Numbers of rows, from 0; the first row by default.
    ids
        In place of `rows`: all rows that the column with ids names so, compared as text.
    time_limit
        Seconds for each row to prove that no change is smaller than the one found.
    attackable, costs
        The only columns that may change, and what that costs, as for `BoxNN.certify`.
    run
        How to run; on the CPU, in this process.

    Returns
    -------
    Explained

    Raises
    ------
    BoxNNError
        Bad model or samples, or a row that is not there.
    """
    run.need_cpu("explanations")
    if rows is not None and ids is not None:
        raise OptionError("`rows` and `ids` both say which rows to explain; pass one")
    numbers = [0] if rows is None else sorted({validation.integer("rows", r, 0) for r in rows})
    wanted = None if ids is None else [*map(str, ids)]
    if not (numbers if wanted is None else wanted):
        raise OptionError(f"`{'rows' if ids is None else 'ids'}` are none; pass at least one")
    classifier = load_model(model)
    name, pieces = _opened(classifier, Path(samples), table)
    if wanted is None:
        found = _numbered(str(samples), name, pieces, numbers)
    elif name is None:
        raise OptionError(
            f"no column of {samples} names its rows; pass `id_column`, or `rows` in place of `ids`"
        )
    else:
        found = _named(str(samples), name, pieces, wanted)
    x = np.stack([*found.values()])
    who = {"attackable": attackable, "costs": costs}
    with limit_threads(run.threads):
        told = explain_rows(classifier, x, time_limit=time_limit, **who)
    return Explained(dict(zip(found, told, strict=True)))


def _numbered(place: str, name: str | None, pieces: Pieces, rows: list[int]) -> dict[str, Any]:
    """Return the features of rows with some numbers, ascending, by what they are called."""
    found: dict[str, Any] = {}
    first = 0
    for x, ids in pieces:
        here = [row - first for row in rows if first <= row < first + len(x)]
        found |= {_called(first + at, name, ids, at): x[at] for at in here}
        first += len(x)
        if first > rows[-1]:
            return found
    there = f"{first} rows, 0..{first - 1}" if first else "no rows"
    raise DataError(f"{place} has {there}; there is no row {rows[-1]}")


def _named(place: str, name: str, pieces: Pieces, wanted: list[str]) -> dict[str, Any]:
    """Return the features of all rows with some ids, by what they are called."""
    found: dict[str, Any] = {}
    seen: set[str] = set()
    first = 0
    for x, ids in pieces:
        texts = np.asarray(ids).astype(str)
        here = np.flatnonzero(np.isin(texts, wanted)).tolist()
        seen.update(texts[here].tolist())
        found |= {_called(first + at, name, ids, at): x[at] for at in here}
        first += len(x)
    for one in wanted:
        if one not in seen:
            raise DataError(f"{place} has no row whose {name} is {one!r}; pass ids that are there")
    return found


def _called(row: int, name: str | None, ids: np.ndarray | None, at: int) -> str:
    return f"{row}" if ids is None or name is None else f"{row} ({name} {ids[at]})"


def _certified(
    model: BoxNN, x: np.ndarray, certificate: str, distances: bool, run: RunOptions
) -> dict[str, Any]:
    """Return columns of a piece: label, radius, and the distances if they are wanted."""
    margins = certificate == "margin"
    where = {"device": run.device, "chunk": run.chunk} if margins else {}
    label, radius = model.certify(x, certificate=certificate, **where)  # type: ignore[arg-type]
    rows: dict[str, Any] = {"label": label, "radius": radius}
    if distances:
        found = model.class_distance(x, run.device, run.chunk)
        names = map(str, model.classes)
        rows |= {f"distance_{name}": found[:, k] for k, name in enumerate(names)}
    return rows


def _changes(model: BoxNN, x: np.ndarray) -> dict[str, Any]:
    """Return the smallest change found for each row, as text."""
    found = smallest_changes(model, x, time_limit=0)
    names = pixel_names(model) or map(str, range(found.touched.shape[1]))
    columns = model.columns or [Column(name) for name in names]
    rows = x.reshape(len(x), -1)
    words = [
        "; ".join(
            f"{columns[k].name}: {columns[k].text(rows[i, k])} -> "
            f"{columns[k].text(found.x_adv[i, k])}"
            for k in np.flatnonzero(touched)
        )
        for i, touched in enumerate(found.touched)
    ]
    after = [
        label if count > 0 else None
        for label, count in zip(found.prediction.tolist(), found.changed.tolist(), strict=True)
    ]
    return {"changes": words, "becomes": after}


# --- what is read ------------------------------------------------------------------------------

Pieces = Iterator[tuple[np.ndarray, np.ndarray | None]]


def _opened(model: BoxNN, path: Path, table: TableOptions) -> tuple[str | None, Pieces]:
    """Return the name of the ids of a file, and its features with the ids."""
    if holds_images(path):
        return _image_rows(model, path, table)
    if path.is_dir():
        raise DataError(
            f"{path} is a folder; pass a table (.csv, .tsv or .parquet), an array (.npy or .npz), "
            "or images"
        )
    if is_table(path) or table.sep is not None:
        return _table_rows(model, path, table)
    for column in model.columns or ():
        if column.kind == "category":
            raise InputError(
                f"{path} holds numbers, and column {column.name!r} of the model is a category; "
                "pass a table (.csv, .tsv or .parquet)"
            )
    return None, _array_pieces(path)


def _table_rows(model: BoxNN, path: Path, options: TableOptions) -> tuple[str | None, Pieces]:
    """Return the name of the id column of a table, and its features with the ids."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the path")
    reader = open_table(path, options.sep)
    options = options.or_else(model.table, reader.names)
    columns, features = model.columns, None
    if columns is None:
        # Of a model of arrays columns are features by position, and numbers.
        apart = {options.label, options.id_column, options.split_column, *options.drop}
        features = [name for name in reader.names if name not in apart]
        columns = Columns([Column(name) for name in features])
        if len(columns) != model.boxes.n_features:
            raise InputError(
                f"{path} has {len(columns)} features and the model {model.boxes.n_features}; they "
                "must agree"
            )
    frame = FrameTable(reader, options, columns, need_labels=False)
    name = options.id_column
    taken = {"label", "radius", "changes", "becomes"}

    def pieces() -> Pieces:
        for block in frame.blocks():
            yield stored_features(block, frame, model.grid is None), block.ids

    return ("id" if name in taken else name), pieces()


def _image_rows(model: BoxNN, path: Path, options: TableOptions) -> tuple[str | None, Pieces]:
    """Return what the names of image files are called, and images with these names."""
    for name in options.given():
        raise OptionError(f"`{name}` is for tables, and {path} holds images; leave it out")
    n, shape = model.boxes.n_features, tuple(model.feature_shape or ())
    like = Like(model.columns, n, shape, list(model.classes), model.grid is None, {})
    images, _ = image_tables(path, like)
    if images.n_features != n:
        found, wanted = (" x ".join(map(str, sizes)) for sizes in (images.feature_shape, shape))
        raise InputError(
            f"images of {path} are {found} and the model takes {wanted or n}; resize them, or save "
            "them with or without colours as it takes them"
        )
    validation.same_axes(str(path), images.feature_shape, shape, "the model")

    def pieces() -> Pieces:
        for block in images.blocks():
            yield stored_features(block, images, codes=True), block.ids

    return images.id_name, pieces()


def _array_pieces(path: Path) -> Pieces:
    """Return the rows of an array; nothing names them."""
    if path.suffix == ".npz":
        rows = array_rows(path)
        if len(rows.shape) < 2 or 0 in rows.shape:
            raise InputError(f"{path} must hold samples as rows, (N, features) with N >= 1")
        for part in rows.blocks(_ROWS):
            yield part, None
        return
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} is not a readable .npy file of numbers; save it with np.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim < 2 or len(array) == 0:
        raise InputError(f"{path} must hold samples as rows, (N, features) with N >= 1")
    for start in range(0, len(array), _ROWS):
        yield np.asarray(array[start : start + _ROWS]), None
