"""Feed: training data in windows, shuffled the same way wherever it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from boxnn_numba.training.rows import Rows, step_rows

#: Codes of a window; two are in memory while the next one is loaded.
WINDOW_BYTES = 128 * 2**20
#: Rows of all epochs whose orders are kept for other runs.
_KEPT_ROWS = 2**20

Pair = tuple[np.ndarray, np.ndarray]
Augment = Callable[[np.ndarray, int, int], np.ndarray]


@dataclass(frozen=True)
class Feed:
    """Training samples as codes, window by window.

    A window is what is in memory at a time: a few chunks of a data set, or all
    of an array. An epoch visits the windows in a random order and the rows of a
    window in a random order; both depend on the seed and the epoch only.

    Attributes
    ----------
    labels
        (N,) int32, class index of every training row, in the order of the windows.
    sizes
        Rows of each window.
    n_features
        Number n of features.
    load
        Returns the (rows, n) uint8 codes of a window.
    held_out
        Returns an iterator over (codes, labels) of the validation rows.
    seed
        Seed of the order.
    augment
        None, or a function of (codes, number of their first row, epoch) that returns the codes
        to train on; it does not touch `take` and `held_out`.
    weights
        None, or (N,) float64 >= 0, mean 1: how often an epoch visits each row, on average.
    shared
        None, or where several runs on the same rows keep what they find alike, see `once`.
    """

    labels: np.ndarray
    sizes: tuple[int, ...]
    n_features: int
    load: Callable[[int], np.ndarray]
    held_out: Callable[[], Iterator[Pair]]
    seed: int
    augment: Augment | None = None
    weights: np.ndarray | None = None
    shared: dict[Any, Any] | None = None

    @classmethod
    def of_rows(
        cls,
        rows: Rows,
        labels: np.ndarray,
        split: Pair,
        window_bytes: int,
        seed: int,
        augment: Augment | None,
        weights: np.ndarray | None,
    ) -> Feed:
        """Return a feed of codes.

        Parameters
        ----------
        rows, labels
            N rows of codes and their class indices (N,).
        split
            Numbers of the training rows and of those held out, ascending.
        window_bytes
            Most codes of a window.
        seed, augment, weights
            As of `Feed`.
        """
        windows = _Windows(rows, labels, split, window_bytes)
        return cls(
            windows.labels, windows.sizes, rows.n_features, windows.load, windows.held_out, seed,
            augment, weights,
        )  # fmt: skip

    @classmethod
    def from_arrays(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        held_out: Pair,
        seed: int,
        weights: np.ndarray | None = None,
    ) -> Feed:
        """Return a feed of one window: codes (N, n) and class indices (N,) in memory."""
        blocks = [held_out] if len(held_out[1]) else []
        labels, load = y.astype(np.int32), lambda window: x
        return cls(labels, (len(x),), x.shape[1], load, lambda: iter(blocks), seed, weights=weights)

    def __len__(self) -> int:
        return len(self.labels)

    def weighted(self, class_weights: np.ndarray) -> Feed:
        """Return this feed with its weights times those of the classes (K,)."""
        if (class_weights == class_weights[0]).all():
            return self
        weights = class_weights[self.labels]
        weights = weights if self.weights is None else self.weights * weights
        # The order of rows is no longer that of other runs.
        return replace(self, weights=weights * (len(self) / weights.sum()), shared=None)

    def class_weights(self, n_classes: int) -> np.ndarray:
        """Return (K,) the mean weight of the rows of each class; 1 for a class without rows."""
        if self.weights is None:
            return np.ones(n_classes)
        counts = np.bincount(self.labels, minlength=n_classes)
        sums = np.bincount(self.labels, self.weights, minlength=n_classes)
        return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)

    def once(self, key: Any, find: Callable[[], Any]) -> Any:
        """Return ``find()``; runs that share rows call it once for each `key`."""
        if self.shared is None:
            return find()
        if key not in self.shared:
            self.shared[key] = find()
        return self.shared[key]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes of some training rows (numbers 0..N-1), in the order given."""
        out = np.empty((len(rows), self.n_features), np.uint8)
        first = 0
        for window, size in enumerate(self.sizes):
            inside = np.flatnonzero((rows >= first) & (rows < first + size))
            if len(inside):
                out[inside] = self.load(window)[rows[inside] - first]
            first += size
        return out

    def batches(self, epoch: int, size: int, steps: int = 1) -> Iterator[Pair]:
        """Yield the codes and labels of an epoch, of at most so many batches of `size` at a time.

        The last batch may be smaller.
        """
        for x, y, rows in self.windows(epoch, size):
            for first in range(0, len(rows), steps * size):
                some = rows[first : first + steps * size]
                yield x[some], y[some]

    def windows(self, epoch: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield codes and labels of an epoch with the rows in them of all batches of `size`.

        The next window is loaded, and augmented, while this one is worked on. An epoch has N rows,
        whatever their weights: a row of weight 2 comes twice, one of weight 0.5 in every other.
        """
        key = "order", self.seed, epoch, size
        if self.shared is not None and key in self.shared:
            yield self._window(0, 0, epoch), self.labels, self.shared[key]
            return
        windows = np.zeros(1, np.int64)
        if len(self.sizes) > 1:
            windows = np.random.default_rng([self.seed, 5, epoch]).permutation(len(self.sizes))
        rng = np.random.default_rng([self.seed, 3, epoch])
        starts = np.concatenate(([0], np.cumsum(self.sizes)))
        visits = self._visits(epoch)
        x = np.empty((0, self.n_features), np.uint8)
        y = np.empty(0, np.int32)
        times = np.empty(0, np.int64)  # what each row comes; unless all have one weight

        def load(window: int) -> np.ndarray:
            return self._window(window, int(starts[window]), epoch)

        for position, (window, codes) in enumerate(_ahead(load, windows)):
            inside = slice(starts[window], starts[window + 1])
            # Rows left over from the window before join this one.
            x = np.concatenate((x, codes)) if len(x) else codes
            y = np.concatenate((y, self.labels[inside])) if len(y) else self.labels[inside]
            if visits is None:
                order = rng.permutation(len(x))
            else:
                times = np.concatenate((times, visits[inside]))
                order = rng.permutation(np.repeat(np.arange(len(x)), times))
            last = position + 1 == len(windows)
            whole = len(order) if last else len(order) // size * size
            # The order inside a batch does not matter (sums are exact); ascending rows read fast.
            order[: whole // size * size].reshape(-1, size).sort(axis=1)
            order[whole // size * size : whole].sort()
            if self.shared is not None and len(windows) == 1 and epoch * len(order) < _KEPT_ROWS:
                self.shared[key] = order
            yield x, y, order[:whole]
            if not last:
                rest, times = np.unique(order[whole:], return_counts=True)
                x, y = x[rest], y[rest]

    def _window(self, window: int, first: int, epoch: int) -> np.ndarray:
        """Return the codes of a window, whose rows begin at `first`, as an epoch trains on them."""
        codes = self.load(window)
        return codes if self.augment is None else self.augment(codes, first, epoch)

    def _visits(self, epoch: int) -> np.ndarray | None:
        """Return (N,) how often an epoch visits each row: N in all, by systematic sampling.

        None where it visits each once.
        """
        if self.weights is None:
            return None
        first = np.random.default_rng([self.seed, 8, epoch]).random()
        total = np.cumsum(self.weights)
        ends = np.floor(total * (len(self) / total[-1]) + first).astype(np.int64)
        ends[-1] = len(self)  # whatever the rounding of the sum
        return np.diff(ends, prepend=0)


class _Windows:
    """Training rows and held-out rows among rows of codes, a window of all of them at a time."""

    def __init__(self, rows: Rows, labels: np.ndarray, split: Pair, window_bytes: int) -> None:
        self._rows, self._labels = rows, labels.astype(np.int32)
        training, held = (np.zeros(len(rows), bool) for _ in range(2))
        training[split[0]], held[split[1]] = True, True
        self._training, self._held = training, held
        size = window_rows(rows.n_features, window_bytes)
        self._spans = [(a, min(a + size, len(rows))) for a in range(0, len(rows), size)]
        self.labels = self._labels[training]
        self.sizes = tuple(int(training[a:b].sum()) for a, b in self._spans)
        # The only window stays in memory, and so do rows held out that are no more than a window.
        self._kept: np.ndarray | None = None
        self._keeps_out = int(held.sum()) * rows.n_features <= window_bytes
        self._kept_out: list[Pair] | None = None

    def load(self, window: int) -> np.ndarray:
        """Return the codes of a window's training rows."""
        if self._kept is not None:
            return self._kept
        codes = self._chosen(self._training, *self._spans[window])
        if len(self._spans) == 1:
            self._kept = codes
        return codes

    def _chosen(self, mask: np.ndarray, first: int, last: int) -> np.ndarray:
        """Return the codes of some rows of a span."""
        if mask[first:last].all():
            return self._rows.read(first, last)
        out = np.empty((int(mask[first:last].sum()), self._rows.n_features), np.uint8)
        filled = 0
        for a, b in self._rows.spans(first, last):
            if mask[a:b].any():
                codes = self._rows.read(a, b)[mask[a:b]]
                out[filled : filled + len(codes)] = codes
                filled += len(codes)
        return out

    def held_out(self) -> Iterator[Pair]:
        """Yield the codes and class indices of the rows held out, of some rows at a time."""
        if not self._held.any():
            return
        if self._keeps_out:
            if self._kept_out is None:
                codes = self._chosen(self._held, 0, len(self._rows))
                self._kept_out = [(codes, self._labels[self._held])]
            yield from self._kept_out
            return
        for a, b in self._rows.spans():
            if self._held[a:b].any():
                yield self._chosen(self._held, a, b), self._labels[a:b][self._held[a:b]]


def window_rows(n_features: int, window_bytes: int) -> int:
    """Return how many rows a window has: of any data the same, whole steps if it has some."""
    rows, step = max(1, window_bytes // n_features), step_rows(n_features)
    return rows - rows % step if rows > step else rows


def batch_ends(rows: int, size: int) -> np.ndarray:
    """Return (S,) where batches of `size` end, of which the last may be smaller."""
    return np.minimum(np.arange(size, rows + size, size), rows)


def _ahead(
    load: Callable[[int], np.ndarray], windows: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield windows and their codes; the next one is loaded while a caller works on this one."""
    if len(windows) == 1:
        yield windows[0], load(windows[0])
        return
    with ThreadPoolExecutor(1, "boxnn-feed") as pool:
        coming: Future[np.ndarray] = pool.submit(load, windows[0])
        for window, following in itertools.pairwise(windows):
            codes = coming.result()
            coming = pool.submit(load, following)
            yield window, codes
        yield windows[-1], coming.result()
