"""Ingestion: from a source to a dataset on disk, block by block."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.columns import Column, Columns
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.dataset import Dataset, DatasetWriter, IdFormat
from boxnn_numba.data.model_store import load_baseline, load_model, trained_columns
from boxnn_numba.data.paths import Location, Name
from boxnn_numba.data.sources.arrays import Names
from boxnn_numba.data.sources.blocks import UNLABELLED, Block, Like, Table, stored_features
from boxnn_numba.data.sources.catalogue import Source, open_source
from boxnn_numba.data.sources.splits import LabelIndex, StratifiedSplit, count_labels
from boxnn_numba.data.sources.tables import DEFAULT_TABLE, FrameTable, TableOptions
from boxnn_numba.errors import DataError, ModelFileError, OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.progress import Progress
from boxnn_numba.training.options import channels_come_first


@dataclass(frozen=True)
class Ingested(Result):
    """A dataset that was written: `rows` of each split, number of `features`, labels.

    Attributes
    ----------
    unlabelled
        Rows without a label.
    columns
        Number of columns of each kind, for a table; None for other sources.
    notes
        Sentences on columns whose kind may be unexpected.
    """

    name: str
    feature_shape: tuple[int, ...]
    codes: bool
    path: str
    rows: dict[str, int]
    features: int
    classes: list[Any]
    digest: str
    seconds: float
    unlabelled: int = 0
    columns: dict[str, int] | None = None
    notes: list[str] = field(default_factory=list)


def ingest(
    source: Any,
    out: Name,
    *,
    directory: str | os.PathLike[str] | None = None,
    label: str | None = None,
    labels: Any = None,
    x: str | None = None,
    y: str | None = None,
    table: TableOptions = DEFAULT_TABLE,
    test: str | os.PathLike[str] | None = None,
    like: Name | None = None,
    codes: bool = False,
    shape: Sequence[int] | None = None,
    name: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    run: RunOptions = DEFAULT_RUN,
) -> Ingested:
    """Write a source as a dataset.

    The source is read twice, block by block: once for its labels and the kinds of its columns, once
    for everything. Memory does not grow with the number of rows.

    Parameters
    ----------
    source
        ``"mnist"``, ``"fashion-mnist"``, ``"cifar-10"``, ``"digits"``, ``"mnist-sample"``, or a
        path: a folder of IDX files, a folder or zip of images (``CLASS/NAME.png``, or
        ``train/CLASS/...`` and ``test/CLASS/...``), an ``.npz`` or ``.npy`` file, a Zarr array or
        group (or its URL) or a file of netCDF, or a table, ``.csv``, ``.tsv`` or ``.parquet``,
        optionally with ``.gz`` or ``.zst``. Or an array of samples, of NumPy, Dask, Zarr or xarray,
        or several by name: a Zarr group, an ``xarray.Dataset`` or a dict. Samples are along the
        first dimension.
    out
        Folder to make, or its URL.
    directory
        Folder of the files of ``mnist``, ``fashion-mnist`` and ``cifar-10``.
    label
        Label column of a table. Without it all rows are for testing and have no label.
    labels
        Labels of one array: the path of an ``.npy`` or IDX file or of a Zarr array, or an array.
    x, y
        Names of the arrays of samples and labels where there are several. By default ``x`` and
        ``y``, ``x_train`` and ``y_train``, or ``train/x`` and ``train/y``, and with ``test`` those
        of the test split.
    table
        How else to read a table.
    test
        A second table, the test split. Its categories are those of the first one.
    like
        A model: all rows are for testing it, with its columns and classes. A label, if there is
        one, is read by default from where that of its training data was; what is not among the
        model's classes comes after them.
    codes
        Store features as uint8 codes; they must be whole numbers 0..255. uint8 arrays
        always stay codes, everything else becomes float32.
    shape
        Shape of one sample, where the source does not say.
    name
        Name of the dataset; that of the source by default.
    test_fraction, seed
        Stratified test split of a source that has none.
    run
        Whether to replace an existing dataset at `out`, and where progress is shown.

    Returns
    -------
    Ingested

    Raises
    ------
    OptionError
        An option is out of range, or `out` exists.
    DataError
        The source is missing, damaged, or does not fit.
    OutputError
        `out` cannot be written.
    """
    started = time.perf_counter()
    validation.fraction("test_fraction", test_fraction)
    validation.integer("seed", seed, low=0)
    wanted = None if like is None else _like(like)
    opened = open_source(
        os.fspath(source) if isinstance(source, (str, os.PathLike)) else source,
        directory=None if directory is None else Path(directory),
        labels=labels,
        names=Names(x, y),
        table=table if label is None else replace(table, label=label),
        test=None if test is None else Path(test),
        like=wanted,
    )
    header: dict[str, Any] = {
        "name": name or opened.name,
        "feature_shape": _feature_shape(opened, shape, wanted),
        "codes": _are_codes(opened, codes, wanted),
    }
    named = (source, labels, directory, test, like)
    local = [
        name for name in named if isinstance(name, (str, os.PathLike)) and Path(str(name)).exists()
    ]
    with staged_output(out, overwrite=run.overwrite, no_lock=run.no_lock, inputs=local) as folder:
        plan = _plan(opened, test_fraction, seed, wanted)
        digest, facts = _write(folder, opened, plan, header, run.progress)
    return Ingested(
        **header,
        path=str(out),
        rows=plan.rows,
        features=opened.train.n_features,
        classes=plan.index.classes,
        digest=digest,
        seconds=round(time.perf_counter() - started, 3),
        **facts,
    )


def _write(
    folder: Location, source: Source, plan: _Plan, header: dict[str, Any], progress: Progress
) -> tuple[str, dict[str, Any]]:
    """Write all rows; return the digest, and what `Ingested` tells of columns and labels."""
    columns = None if header["codes"] else source.train.columns
    writer = DatasetWriter(
        folder, n_rows=plan.rows, source=source.description, classes=plan.index.classes,
        columns=columns, ids=plan.ids, **header,
        table=source.train.roles if isinstance(source.train, FrameTable) else None,
    )  # fmt: skip
    notes = _Notes(columns)
    progress.start(sum(plan.rows.values()), "rows")
    for part, x, y, ids in _rows(source, plan, header["codes"]):
        writer.append(part, x, y, ids)
        notes.add(x, y)
        progress.advance(len(y))
    return writer.finish(), {
        "unlabelled": notes.unlabelled,
        "columns": None if columns is None else dict(Counter(column.kind for column in columns)),
        "notes": [
            *_channels_first(header["feature_shape"]),
            *_many_numbers(plan.index.classes, sum(plan.rows.values())),
            *notes.sentences(),
        ],
    }


def _many_numbers(classes: Sequence[Any], rows: int) -> list[str]:
    """Return a sentence on classes that look like the values of a number."""
    if len(classes) < _MANY or rows > _FEW_EACH * len(classes):
        return []
    try:
        for label in classes:
            float(label)
    except ValueError:
        return []
    return [
        f"the labels are {len(classes):,} different numbers, each a class of its own: write a few "
        "ranges in their place if they are measured"
    ]


def _channels_first(shape: tuple[int, ...]) -> list[str]:
    """Return a sentence on samples that look like images whose channels come first."""
    if not channels_come_first(shape):
        return []
    return [
        f"samples of shape {shape} look like images with the {shape[0]} channels first, and are "
        "taken as rows of features, each on its own; put the channels last (numpy.moveaxis(x, 1, "
        "-1)), so that a pixel with its colours counts as one"
    ]


def _like(path: Name) -> Like:
    """Return what data must be like for a model, or for the base classifiers of a defence."""
    model: BoxNN | BaselineModel
    try:
        model = load_model(path)
    except ModelFileError as error:
        try:
            model = load_baseline(path)
        except ModelFileError:
            raise error from None
    return Like(
        trained_columns(model),
        model.boxes.n_features if isinstance(model, BoxNN) else model.n_features,
        tuple(model.feature_shape or ()),
        list(model.classes),
        model.grid is None,
        model.training.get("table") or {},
    )


def _are_codes(source: Source, codes: bool, like: Like | None) -> bool:
    """Return whether features are stored as codes."""
    if like is None:
        return codes or source.train.is_uint8
    if codes and not like.codes:
        raise OptionError("`codes` does not go with `like`, a model of real numbers; leave it away")
    return like.codes


def _feature_shape(
    source: Source, shape: Sequence[int] | None, like: Like | None
) -> tuple[int, ...]:
    found = source.train.feature_shape
    if source.test is not None and source.test.feature_shape != found:
        raise DataError(
            f"training samples have shape {found} and test samples {source.test.feature_shape}; "
            "they must agree"
        )
    if like is not None:
        if source.train.n_features != like.n_features:
            raise DataError(
                f"{source.train.place} has {source.train.n_features} features and the model "
                f"{like.n_features}; they must agree"
            )
        validation.same_axes(source.train.place, found, like.feature_shape, "the model")
    if shape is None:
        return found if like is None else like.feature_shape or found
    return validation.sample_shape(shape, source.train.n_features)


@dataclass(frozen=True)
class _Plan:
    """What is known of all rows before any is written.

    Attributes
    ----------
    index
        The classes.
    rows
        How many there are of each split.
    ids
        How rows are named, if they are.
    is_test
        Says of the rows of a block of the first table, and their class indices, which are for
        testing.
    """

    index: LabelIndex
    rows: dict[str, int]
    ids: IdFormat | None
    is_test: Callable[[Block, np.ndarray], np.ndarray]


def _plan(source: Source, test_fraction: float, seed: int, like: Like | None) -> _Plan:
    train, names = source.train, _Names()
    found = _counted(train, names)
    if not sum(map(Counter.total, found)):
        raise DataError(f"{train.place} has no rows; pass at least one sample of two classes")
    tested = Counter[Any]()
    if source.test is not None:
        # What its cells mean was decided on the training rows.
        source.test.columns = train.columns
        tested = sum(_counted(source.test, names), tested)
    ids = names.format(getattr(train, "id_name", None))
    everything = sum(found, Counter[Any]())
    if like is not None or (set(everything) == {UNLABELLED} and source.test is None
                             and not found[1]):  # fmt: skip
        index = LabelIndex(everything, () if like is None else like.classes)
        index.counts(everything, train.place)
        return _Plan(
            index, {"train": 0, "test": everything.total()}, ids, lambda _, y: np.ones(len(y), bool)
        )
    learned = found[0]
    if not learned:
        raise DataError(f"{train.place} has no rows for training; write train in some of them")
    index = LabelIndex(learned)
    _check_classes(index, train)
    counts = index.counts(learned, train.place)
    place = f"the test split of {(source.test or train).place}"
    if source.test is not None or found[1]:
        tested += found[1]
        index.counts(tested, place)
        rows = {"train": learned.total(), "test": tested.total()}
        return _Plan(index, rows, ids, _by_split)
    split = StratifiedSplit(counts, test_fraction, seed)
    n_test = int(split.test_counts.sum())
    if n_test == 0:
        raise DataError(
            f"no class of {train.place} has enough rows for a test split of "
            f"{test_fraction:g}; raise `test_fraction`"
        )
    rows = {"train": learned.total() - n_test, "test": n_test}
    return _Plan(index, rows, ids, lambda _, y: split.is_test(y))


def _check_classes(index: LabelIndex, train: Table) -> None:
    """Raise if the training rows are of fewer than two classes."""
    if len(index.classes) < 2:
        one = f"one class only ({index.classes[0]!r})" if index.classes else "no labels"
        raise DataError(f"{train.place} has {one}; a classifier needs two classes")


def _by_split(block: Block, y: np.ndarray) -> np.ndarray:
    return np.zeros(len(y), bool) if block.is_test is None else block.is_test


def _counted(table: Table, names: _Names) -> tuple[Counter[Any], Counter[Any]]:
    """Return how often each label occurs in the rows for training, and in those for testing."""
    found = Counter[Any](), Counter[Any]()
    for block in table.scan():
        if block.ids is not None:
            names.add(block.ids)
        is_test = _by_split(block, block.labels)
        for counts, rows in zip(found, (~is_test, is_test), strict=True):
            if rows.any():
                counts.update(count_labels([block.labels[rows]]))
    return found


class _Names:
    """What names of rows need on disk."""

    def __init__(self) -> None:
        self._whole, self._longest = True, 1

    def add(self, ids: np.ndarray) -> None:
        texts = ids.astype(str)
        if self._whole:
            self._whole = ids.dtype.kind == "i" or all(map(_is_whole, texts.tolist()))
        self._longest = max(self._longest, max(len(text.encode()) for text in texts.tolist()))

    def format(self, name: str | None) -> IdFormat | None:
        if name is None:
            return None
        return IdFormat(name, 0 if self._whole else self._longest)


def _is_whole(text: str) -> bool:
    """Return whether a text is how Python writes an integer of 64 bits."""
    return text.removeprefix("-").isdecimal() and len(text) < 19 and str(int(text)) == text


#: So many different numbers as labels, with so few rows each, are rather measured than classes.
_MANY, _FEW_EACH = 100, 10
#: Texts of a table that are numbers to a reader.
_DATE = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b")
_MONEY = re.compile(r"[-+(]?\s*[$\u20ac\xa3\xa5]\s*\d[\d,. ]*\)?\s*$")
#: Rows below which whole numbers may be all different by chance.
_FEW = 50
#: From here on a float32, as which raw values are stored, does not tell all whole numbers apart.
_EXACT = 2**24


class _Notes:
    """Gathers what may be odd about the columns of a table."""

    def __init__(self, columns: Columns | None) -> None:
        self.unlabelled = 0
        self._columns = columns
        n = 0 if columns is None else len(columns)
        self._low, self._high = np.full(n, np.inf), np.full(n, -np.inf)
        self._missing, self._rows = np.zeros(n, np.int64), 0
        self._total, self._whole = np.zeros(n), np.ones(n, bool)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take note of some rows."""
        self.unlabelled += int((y < 0).sum())
        if self._columns is not None and len(x):
            self._low = np.fmin(self._low, np.fmin.reduce(x, axis=0))
            self._high = np.fmax(self._high, np.fmax.reduce(x, axis=0))
            self._missing += np.isnan(x).sum(axis=0)
            self._rows += len(x)
            self._total += x.sum(axis=0, dtype=np.float64)
            self._whole &= ((x == np.rint(x)) | np.isnan(x)).all(axis=0)

    def sentences(self) -> list[str]:
        """Return a sentence for each kind of oddity."""
        if self._columns is None:
            return []
        columns = self._columns
        numbers, categories, dates = (
            np.array([column.kind == kind for column in columns])
            for kind in ("number", "category", "date")
        )
        far = np.maximum(self._high, -self._low)
        # As many whole numbers as rows, with the sum of all in their range: each is there once.
        each = (self._high - self._low + 1 == self._rows) & self._whole & (self._rows >= _FEW)
        each &= self._total == (self._low + self._high) / 2 * self._rows
        found = (
            ((self._low == self._high) & (self._missing == 0),
             "with one value only, which tells nothing"),
            (numbers & each, "that may number the rows: name it in `id_column` or in `drop`"),
            (categories & (self._high >= [len(column.categories) for column in columns]),
             "with more categories than are told apart, or some that training did not see: these "
             "are taken for one"),
            (numbers & self._whole & (far >= _EXACT),
             "of whole numbers above 16,777,216, of which 7 digits are kept: subtract what all "
             "have in common, or name it in `categorical`"),
            (dates & ~self._whole,
             "of dates with a time, which is kept to about 3 minutes: write hours or seconds in a "
             "column of their own where they matter"),
            ([_mostly_numbers(column.categories) for column in columns],
             "of numbers but for some texts, so taken for categories: name it in `numeric`, and "
             "the texts in `missing`"),
            ([_look_like(_DATE, column.categories) for column in columns],
             "of dates in another order, so taken for categories: write them as 2026-12-31"),
            ([_look_like(_MONEY, column.categories) for column in columns],
             "of amounts of money, so taken for categories: write them as 1234.50"),
            ([_have_commas(column.categories) for column in columns],
             "of numbers with commas, so taken for categories: write points"),
        )  # fmt: skip
        return [
            f"{_named([c.name for c, yes in zip(columns, marks, strict=True) if yes])} {text}"
            for marks, text in found
            if any(marks)
        ]


def _is_number(text: str, point: str = ".") -> bool:
    """Return whether a text is a decimal number, with a sign or without."""
    return text.replace(point, "", 1).strip("+-").isdecimal()


def _are_most(matching: int, categories: Sequence[str]) -> bool:
    """Return whether so many texts are most of a column's, and not few."""
    return matching >= 10 and matching >= 0.8 * len(categories)


def _mostly_numbers(categories: Sequence[str]) -> bool:
    """Return whether texts look like a column of numbers in which a few cells went wrong."""
    numbers = sum(map(_is_number, categories))
    return numbers < len(categories) and _are_most(numbers, categories)


def _look_like(pattern: re.Pattern[str], categories: Sequence[str]) -> bool:
    """Return whether most texts of a column match a pattern."""
    return _are_most(sum(pattern.match(text) is not None for text in categories), categories)


def _have_commas(categories: Sequence[str]) -> bool:
    """Return whether texts are numbers as some countries write them."""
    commas = sum("," in text for text in categories)
    return commas > 0 and all(_is_number(text, ",") for text in categories)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    return f"{'column' if len(names) == 1 else f'{len(names)} columns'} {shown}"


def _rows(
    source: Source, plan: _Plan, codes: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    for name, table in (("train", source.train), ("test", source.test)):
        if table is None:
            continue
        for block in table.blocks():
            x = stored_features(block, table, codes)
            y = plan.index.encode(block.labels, table.place)
            is_test = plan.is_test(block, y) if name == "train" else np.ones(len(y), bool)
            for split, rows in (("train", ~is_test), ("test", is_test)):
                if rows.any():
                    yield split, x[rows], y[rows], None if block.ids is None else block.ids[rows]


# --- what is in the columns ------------------------------------------------------------------

#: Different values of a column that are counted.
MOST_COUNTED = 10_000


def column_facts(dataset: Dataset) -> list[dict[str, Any]] | None:
    """Return what is in each column of a dataset, of all its rows; None where it has no columns.

    For each ``name``, ``kind``, ``categories``, how many cells are ``missing``, how many values are
    ``distinct`` (and whether there are ``more`` than are counted), and ``values``, the categories
    or the range in words.
    """
    if dataset.columns is None:
        return None
    n = len(dataset.columns)
    missing, found = np.zeros(n, np.int64), [np.empty(0, np.float32)] * n
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    for split in dataset.splits:
        for index in range(len(dataset.chunks(split))):
            x, _ = dataset.read_chunk(split, index)
            missing += np.isnan(x).sum(axis=0)
            low, high = np.fmin(low, np.fmin.reduce(x)), np.fmax(high, np.fmax.reduce(x))
            for place, values in enumerate(x.T):
                if len(found[place]) <= MOST_COUNTED:
                    known = values[~np.isnan(values)]
                    found[place] = np.union1d(found[place], known)[: MOST_COUNTED + 1]
    return [
        {
            "name": column.name, "kind": column.kind, "categories": list(column.categories),
            "missing": int(missing[place]), "distinct": min(len(found[place]), MOST_COUNTED),
            "more": len(found[place]) > MOST_COUNTED,
            "values": _range(column, found[place], low[place], high[place]),
        }
        for place, column in enumerate(dataset.columns)
    ]  # fmt: skip


def _range(column: Column, found: np.ndarray, low: float, high: float) -> str:
    """Return the categories of a column, or its range, in words."""
    if not len(found):
        return "none"
    if not column.is_listed:
        return f"{column.text(low)} .. {column.text(high)}"
    shown = ", ".join(column.text(value) for value in found[:20])
    return shown if len(shown) <= 60 and len(found) <= 20 else f"{shown[:57]}..."
