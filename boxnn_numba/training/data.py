"""Training data: samples and labels of any kind, from which feeds are made.

One rule for all of them, so that the same rows give the same model, bit for bit, from NumPy, Dask,
Zarr and data sets: which rows are held out depends on the labels, which rows the grid is learned on
on their number, and what a window is on the number of features. Data sets on disk hold float32;
arrays keep their type, so a data set is the same as the array rounded to float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import lazy, validation
from boxnn_numba.columns import Columns, Survey, is_table
from boxnn_numba.errors import InputError
from boxnn_numba.grid import CODES_SPAN, Grid
from boxnn_numba.progress import SILENT, Progress
from boxnn_numba.training.augmentation import augmentation
from boxnn_numba.training.loader import WINDOW_BYTES, Feed
from boxnn_numba.training.options import TrainingOptions, data_kind
from boxnn_numba.training.rows import MemoryRows, Rows, Spool, StoredRows
from boxnn_numba.training.selection import option_split
from boxnn_numba.training.weights import row_weights

#: Most rows that the grid of real features is learned on: every k-th of the training rows.
GRID_ROWS = 200_000


@dataclass
class TrainingData:
    """Training data: rows, labels and columns.

    Attributes
    ----------
    rows
        The N samples.
    labels
        (N,) class indices.
    classes
        The K labels by class index.
    feature_shape
        Shape of a sample.
    columns
        Of a table.
    spools
        Closes temporary files.
    provenance
        What a model records of them.
    name
        What to call the samples in a message.
    codes
        Whether samples are codes, and not numbers that need a grid; None to find out.
    """

    rows: Rows
    labels: np.ndarray
    classes: list[Any]
    feature_shape: tuple[int, ...]
    columns: Columns | None = None
    spools: ExitStack = field(default_factory=ExitStack)
    provenance: dict[str, Any] = field(default_factory=dict)
    name: str = "x"
    codes: bool | None = None

    @cached_property
    def kind(self) -> str:
        """Kind of the samples, which decides the values of presets."""
        return data_kind(self.feature_shape, self._all_are_codes)

    def feed(
        self,
        options: TrainingOptions,
        *,
        threads: int = 1,
        sample_weight: ArrayLike | None = None,
        window_bytes: int | None = None,
        strict: bool = False,
    ) -> tuple[Feed, Grid | None]:
        """Return the feed of the samples, and the grid of real features; once.

        Parameters
        ----------
        options
            Gives the fraction held out, the seed, the augmentation and the weights of the classes.
        threads
            Threads that augment.
        sample_weight
            (N,) numbers >= 0: how much each sample counts.
        window_bytes
            Most codes of a window; `WINDOW_BYTES` by default.
        strict
            As scikit-learn wants it: rows of weight 0 are as if they were not there, and the grid
            takes missing values even if there are none.

        Raises
        ------
        OptionError
            Augmentation of samples that are no images, or weights of unknown classes.
        InputError
            A value is infinite, or all weights are zero.
        """
        weights = row_weights(self.labels, self.classes, options.class_weight, sample_weight)
        training, held = option_split(self.labels, options)
        if strict and weights is not None:
            training = training[weights[training] > 0]
        weights = None if weights is None else weights[training]
        if weights is not None and not weights.any():
            raise InputError(
                "all rows with weight are held out; give more rows weight, or set `validation` to 0"
            )
        codes = self._are_codes(training) if strict else self._all_are_codes
        grid = None if codes else self._grid(training, strict)
        augment = augmentation(self.feature_shape, grid, options, threads)
        feed = Feed.of_rows(
            self.rows.encoded(grid, self.spools), self.labels, (training, held),
            window_bytes or WINDOW_BYTES, options.seed, augment, weights,
        )  # fmt: skip
        return feed, grid

    def digest(self) -> str:
        """Return a SHA-256 of all rows and labels, before they are fed."""
        facts: list[Any] = [self.rows.dtype.str, self.feature_shape, self.classes]
        facts += [] if self.columns is None else self.columns.as_list()
        found = hashlib.sha256(json.dumps(facts).encode())
        found.update(np.ascontiguousarray(self.labels, np.dtype("<i8")).data)
        for span in self.rows.spans():
            found.update(self.rows.read(*span).data)
        return found.hexdigest()

    @cached_property
    def _all_are_codes(self) -> bool:
        return self._are_codes(np.arange(len(self.rows)))

    def _are_codes(self, chosen: np.ndarray) -> bool:
        """Return whether samples are codes, by the chosen rows, as `grid.are_codes` does."""
        if self.codes is not None:
            return self.codes
        if self.rows.dtype != np.uint8 or len(self.feature_shape) > 1:
            return self.rows.dtype == np.uint8
        low, high = 255, 0
        for first, last in self.rows.spans():
            inside = chosen[slice(*np.searchsorted(chosen, [first, last]))]
            if len(inside):
                x = self.rows.read(first, last)[inside - first]
                low, high = min(low, int(x.min())), max(high, int(x.max()))
            if high - low >= CODES_SPAN:
                return True
        return False

    def _grid(self, training: np.ndarray, strict: bool) -> Grid:
        """Return the grid that is learned on some of the training rows; look at all rows."""
        chosen = training[:: -(-len(training) // GRID_ROWS)]
        kind = np.float32 if self.rows.dtype == np.float32 else np.float64
        sample = np.empty((len(chosen), self.rows.n_features), kind)
        gaps = strict or self.columns is not None
        for first, last in self.rows.spans():
            x = validation.features(self.name, self.rows.read(first, last), True, first=first)
            gaps = gaps or bool(np.isnan(x).any())
            inside = slice(*np.searchsorted(chosen, [first, last]))
            sample[inside] = x[chosen[inside] - first]
        return Grid.fit(sample, columns=self.columns, y=self.labels[chosen], missing=gaps)


# --- from arrays -----------------------------------------------------------------------------


class Arrays:
    """Samples and labels, checked as far as that is quickly done.

    Parameters
    ----------
    x
        (N, ...) numbers or a table: of NumPy, or what `np.asarray` or `Columns.of` takes; of
        Dask, whose blocks are computed once, some at a time; or a memory map, a Zarr array, or
        xarray's array over any of these.
    y
        (N,) integers or strings, of the same kinds; they are read at once.

    Raises
    ------
    InputError
        Shapes do not agree, there are no rows, or there is one class only.
    """

    def __init__(self, x: Any, y: Any) -> None:
        x = x.data if lazy.is_labelled(x) else x
        self._columns = None
        if is_table(x) and not lazy.is_frame(x):
            self._columns = Columns.of(x)
            x = self._columns.values(x)
        self._x = x if lazy.is_deferred(x) else np.asanyarray(x)  # masks are refused
        unknown = lazy.is_frame(x)
        if not unknown:
            check_shape("x", self._x)
            unknown = self._x.shape[0] != self._x.shape[0]
        y = np.asanyarray(y)
        labels = validation.labels("y", y, len(y) if unknown and y.ndim else self._x.shape[0])
        classes, self._index = np.unique(labels, return_inverse=True)
        if len(classes) == 0:
            raise InputError("x and y have no rows; pass at least one of two classes each")
        if len(classes) == 1:
            raise InputError("y holds one class; a classifier needs at least two")
        self._classes = classes.tolist()

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self._index)

    @contextmanager
    def opened(self, progress: Progress = SILENT) -> Iterator[TrainingData]:
        """Give them as data to train on; temporary files go when they were used.

        Raises
        ------
        InputError
            There are not as many rows as labels, or a value is infinite.
        OutputError
            There is no space for temporary files.
        """
        x, columns, count = self._x, self._columns, len(self._index)
        with ExitStack() as spools:
            if lazy.is_frame(x):
                rows, columns = frame_rows(x, spools)
            else:
                rows = rows_of("x", x, spools, progress)
            if len(rows) != count:  # of blocks whose lengths were unknown
                raise InputError(f"y has {count} labels for {len(rows)} rows; they must agree")
            shape = (rows.n_features,) if columns is not None else tuple(x.shape[1:])
            yield TrainingData(rows, self._index, self._classes, shape, columns, spools)


def check_shape(name: str, x: Any) -> None:
    """Raise unless x (N, ...) has rows of at least one number; how many need not be known."""
    if not lazy.is_deferred(x):
        validation.flat_rows(name, x)
        return
    if len(x.shape) < 2:
        raise InputError(f"{name} has shape {x.shape}; pass (rows, features)")
    if 0 in x.shape:
        raise InputError(f"{name} is empty, shape {x.shape}; pass at least one row and column")
    if any(size != size for size in x.shape[1:]):
        raise InputError(
            f"{name} has shape {x.shape}; the number of columns must be known, call "
            "`compute_chunk_sizes`"
        )
    if x.dtype.kind not in "iufb":
        raise InputError(f"{name} has dtype {x.dtype}; features must be numbers")


def rows_of(name: str, x: Any, spools: ExitStack, progress: Progress = SILENT) -> Rows:
    """Return an array (N, ...) as rows; one of Dask is computed and kept in a temporary file."""
    if not lazy.is_deferred(x):
        return MemoryRows(validation.flat_rows(name, x))
    if not lazy.is_lazy(x):
        return StoredRows(x)
    n_rows = None if x.shape[0] != x.shape[0] else int(x.shape[0])
    if n_rows is None:
        progress = SILENT
    else:
        progress.start(n_rows, "rows")
    spool = Spool(int(np.prod(x.shape[1:])), x.dtype, spools)
    blocks = spools.enter_context(closing(lazy.computed_blocks(x)))
    return spool.write(_checked(name, blocks, x, progress), n_rows)


def _checked(
    name: str, blocks: Iterable[np.ndarray], x: Any, progress: Progress
) -> Iterator[np.ndarray]:
    """Yield blocks of an array as matrices; what is wrong in one is said at once."""
    first = 0
    for block in blocks:
        if block.dtype != x.dtype or block.shape[1:] != x.shape[1:]:
            raise InputError(
                f"{name} has {block.dtype} rows of shape {block.shape[1:]} from row {first} on, "
                f"and says that they are {x.dtype} of shape {x.shape[1:]}; mend its `meta`"
            )
        block = validation.flat_rows(name, block, empty=True)
        if len(block):
            if block.dtype != np.uint8:
                validation.features(name, block, True, first=first)
            yield block
        first += len(block)
        progress.advance(len(block))


def frame_rows(frame: Any, spools: ExitStack) -> tuple[Rows, Columns]:
    """Return the raw values of a frame of Dask, and its columns; it is computed twice."""
    first, again = (spools.enter_context(closing(lazy.computed_blocks(frame))) for _ in range(2))
    survey = Survey()
    for part in first:
        survey.add(part)
    columns = survey.columns()
    spool = Spool(len(columns), np.dtype(np.float64), spools)
    return spool.write(map(columns.values, again)), columns
