"""Loaders of training data: datasets on disk, read chunk by chunk, and arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.progress import Progress
from boxnn_numba.training.data import Arrays, TrainingData
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.rows import Rows


def training_dataset(data: Name) -> Dataset:
    """Open a dataset to train on.

    Raises
    ------
    DataError
        It is damaged, has no training samples of two classes, or some without a label.
    """
    dataset = open_dataset(data)
    found = np.unique(dataset.read_labels("train"))
    if found.size and found[0] < 0:
        raise DataError(f"{data} has training samples without a label; ingest it again")
    if found.size < 2:
        raise DataError(f"{data} needs training samples of at least two classes; ingest it again")
    return dataset


def dataset_provenance(dataset: Dataset) -> dict[str, Any]:
    """Return what a model records of the dataset that it was trained on."""
    return {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        # So that rows to predict are read as the training data were.
        **({"table": dataset.table} if dataset.table else {}),
    }


class DatasetRows(Rows):
    """The training rows of a dataset, read chunk by chunk."""

    def __init__(self, dataset: Dataset, grid: Grid | None = None) -> None:
        self._dataset, self._grid = dataset, grid
        self._chunks = dataset.chunks("train")
        kind = np.dtype(np.uint8 if dataset.is_codes else np.float32)
        step = self._chunks[0].stop - self._chunks[0].start
        super().__init__(dataset.n_rows("train"), dataset.n_features, kind, step)

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows first, ..., last - 1, as codes if there is a grid."""
        out = None
        for index in range(first // self.step, -(-last // self.step)):
            x, _ = self._dataset.read_chunk("train", index)
            chunk = self._chunks[index]
            a, b = max(first, chunk.start), min(last, chunk.stop)
            x = x[a - chunk.start : b - chunk.start]
            x = x if self._grid is None else self._grid.encode(x)
            if b - a == last - first:
                return x
            out = np.empty((last - first, self.n_features), x.dtype) if out is None else out
            out[a - first : b - first] = x
        assert out is not None
        return out

    def encoded(self, grid: Grid | None, spools: ExitStack) -> Rows:
        """Return codes that are made when they are read."""
        return DatasetRows(self._dataset, grid)


def dataset_data(dataset: Dataset) -> TrainingData:
    """Return a dataset's training split as data to train on."""
    return TrainingData(
        DatasetRows(dataset), dataset.read_labels("train"), dataset.classes,
        dataset.feature_shape, dataset.columns, provenance=dataset_provenance(dataset),
        codes=dataset.is_codes,
    )  # fmt: skip


def training_source(
    data: Any, y: Any = None, sample_weight: ArrayLike | None = None
) -> tuple[Callable[[Progress], AbstractContextManager[TrainingData]], np.ndarray | None]:
    """Return what opens a dataset, or samples and labels, to train on, and the weights of rows.

    What is wrong is said now.

    Parameters
    ----------
    data, y
        Name of a dataset; or samples and labels, as for `Arrays`.
    sample_weight
        None, or weights of its training rows, or of the samples.

    Raises
    ------
    BoxNNError
        As for `training_dataset` and `Arrays`, there are no labels, or too many, or weights do not
        fit.
    """
    if is_name(data):
        if y is not None:
            raise OptionError(f"`y` was passed with dataset {data}, which has labels; leave it out")
        dataset = training_dataset(data)
        weights = _weights(sample_weight, dataset.n_rows("train"))
        return lambda progress: nullcontext(dataset_data(dataset)), weights
    if y is None:
        raise OptionError("`y` is missing; pass the labels of the samples")
    arrays = Arrays(data, y)
    return partial(_opened, arrays), _weights(sample_weight, len(arrays))


def _weights(given: ArrayLike | None, rows: int) -> np.ndarray | None:
    return None if given is None else validation.sample_weight(given, rows)


@contextmanager
def _opened(arrays: Arrays, progress: Progress) -> Iterator[TrainingData]:
    with arrays.opened(progress) as found:
        found.provenance = {"dataset": "arrays", "dataset_digest": found.digest()}
        yield found


def is_name(data: Any) -> bool:
    """Return whether something names a dataset; all else are arrays."""
    return isinstance(data, str | os.PathLike) or hasattr(data, "storage_options")


def dataset_feed(
    dataset: Dataset,
    options: TrainingOptions,
    window_bytes: int | None = None,
    threads: int = 1,
) -> tuple[Feed, Grid | None]:
    """Return the feed of a dataset's training split, and the grid of its real features.

    Parameters
    ----------
    dataset
        An open dataset with training rows.
    options
        Gives the validation fraction, the seed, the augmentation and the weights of the classes.
    window_bytes
        Most codes of a window; `boxnn_numba.training.loader.WINDOW_BYTES` by default.
    threads
        Threads that augment.

    Returns
    -------
    feed, grid
        The grid is learned on training rows only; None for codes.

    Raises
    ------
    DataError
        A chunk is damaged.
    OptionError
        Augmentation of samples that are no images, or weights of unknown classes.
    """
    return dataset_data(dataset).feed(options, threads=threads, window_bytes=window_bytes)
