"""Feed a training run from a dataset on disk, a window of chunks at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import DataError
from boxnn_numba.grid import Grid
from boxnn_numba.training.augmentation import augmentation
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.selection import validation_split
from boxnn_numba.training.weights import row_weights

#: Codes of a window; two are in memory while the next one is loaded.
WINDOW_BYTES = 128 * 2**20
#: Rows that the grid of real features is learned on, spread over the data.
GRID_ROWS = 200_000


def training_dataset(data: Name) -> Dataset:
    """Open a dataset to train on.

    Raises
    ------
    DataError
        It is damaged, or has no training samples of two classes.
    """
    dataset = open_dataset(data)
    if dataset.n_rows("train") == 0 or len(dataset.classes) < 2:
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


class _Windows:
    """Reads the training and validation rows of a dataset as codes."""

    def __init__(self, dataset: Dataset, options: TrainingOptions, window_bytes: int) -> None:
        self._dataset = dataset
        self._labels = dataset.read_labels("train")
        self._training = np.zeros(len(self._labels), bool)
        rows, _ = validation_split(self._labels, options.validation, options.seed)
        self._training[rows] = True
        chunks = dataset.chunks("train")
        window_rows = max(1, window_bytes // dataset.n_features)
        per_window = max(1, window_rows // (chunks[0].stop - chunks[0].start))
        self._chunks = chunks
        self.windows = [
            range(start, min(start + per_window, len(chunks)))
            for start in range(0, len(chunks), per_window)
        ]
        self.labels = self._labels[self._training]
        self.sizes = tuple(
            sum(int(self._training[chunks[i]].sum()) for i in window) for window in self.windows
        )
        self._kept: np.ndarray | None = None
        self.grid = None if dataset.is_codes else self._fit_grid()

    def _fit_grid(self) -> Grid:
        step = -(-len(self.labels) // GRID_ROWS)
        kept = [self._training[chunk] for chunk in self._chunks]
        rows = [
            self._dataset.read_chunk("train", index)[0][mask][::step]
            for index, mask in enumerate(kept)
        ]
        labels = [
            self._labels[chunk][mask][::step]
            for chunk, mask in zip(self._chunks, kept, strict=True)
        ]
        return Grid.fit(
            np.concatenate(rows), columns=self._dataset.columns, y=np.concatenate(labels)
        )

    def _codes(self, index: int, rows: np.ndarray) -> np.ndarray:
        x, _ = self._dataset.read_chunk("train", index)
        if self.grid is None:
            return validation.codes("x", x)[rows]
        return self.grid.encode(x[rows]) if rows.any() else np.empty((0, x.shape[1]), np.uint8)

    def load(self, window: int) -> np.ndarray:
        """Return the codes of a window's training rows; the only window is kept in memory."""
        if self._kept is not None:
            return self._kept
        out = np.empty((self.sizes[window], self._dataset.n_features), np.uint8)
        first = 0
        for index in self.windows[window]:
            codes = self._codes(index, self._training[self._chunks[index]])
            out[first : first + len(codes)] = codes
            first += len(codes)
        if len(self.windows) == 1:
            self._kept = out
        return out

    def held_out(self) -> Iterator[Pair]:
        """Yield the validation rows chunk by chunk."""
        for index, chunk in enumerate(self._chunks):
            rows = ~self._training[chunk]
            if rows.any():
                yield self._codes(index, rows), self._labels[chunk][rows]


def dataset_feed(
    dataset: Dataset,
    options: TrainingOptions,
    window_bytes: int = WINDOW_BYTES,
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
        Codes in a window.
    threads
        Threads that augment.

    Returns
    -------
    feed, grid
        The grid is learned on training rows only (at most `GRID_ROWS`); None for codes.

    Raises
    ------
    DataError
        A chunk is damaged.
    OptionError
        Augmentation of samples that are no images, or weights of unknown classes.
    """
    windows = _Windows(dataset, options, window_bytes)
    feed = Feed(
        windows.labels,
        windows.sizes,
        dataset.n_features,
        windows.load,
        windows.held_out,
        options.seed,
        augmentation(dataset.feature_shape, windows.grid, options, threads),
        row_weights(windows.labels, dataset.classes, options.class_weight),
    )
    return feed, windows.grid
