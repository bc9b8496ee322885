"""Classes from labels, and a stratified test split of a stream."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from boxnn_numba.data.sources.blocks import UNLABELLED
from boxnn_numba.errors import DataError

_INTEGER = re.compile(r"[+-]?[0-9]+")

Label = int | str


def count_labels(blocks: Iterable[np.ndarray]) -> Counter[Label]:
    """Return how often each label occurs in a stream of label arrays."""
    counts: Counter[Label] = Counter()
    for labels in blocks:
        values, numbers = np.unique(labels, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts


class LabelIndex:
    """Classes, and the class index of every label.

    Parameters
    ----------
    labels
        Labels of the training split. If all are whole numbers, also as text, the classes are
        integers in numeric order; otherwise strings in order. `UNLABELLED` is none of them.
    classes
        Classes that come first, in this order: those of a model, whose type they all have.

    Attributes
    ----------
    classes : list of int or list of str
        Sorted unique labels.
    """

    def __init__(self, labels: Iterable[Label], classes: Sequence[Any] = ()) -> None:
        found = [label for label in labels if label != UNLABELLED]
        self._integers = all(_as_integer(label) is not None for label in classes or found)
        # All of one type, which the type checker cannot know.
        unique: set[Any] = {self._class(label) for label in found}
        kind = int if self._integers else str
        new = sorted(label for label in unique.difference(classes) if isinstance(label, kind))
        self.classes: list[int] | list[str] = [*classes, *new]
        self._index = {label: index for index, label in enumerate(self.classes)}

    def counts(self, found: Counter[Label], place: str) -> np.ndarray:
        """Return (K,) int64 counts per class from counts per label."""
        totals = np.zeros(len(self.classes), np.int64)
        for label, number in found.items():
            if label != UNLABELLED:
                totals[self._lookup(label, place)] += number
        return totals

    def encode(self, labels: np.ndarray, place: str) -> np.ndarray:
        """Return int32 class indices, -1 for `UNLABELLED`.

        Raises
        ------
        DataError
            A label is not among the classes.
        """
        values, inverse = np.unique(labels, return_inverse=True)
        indices = [self._lookup(label, place) for label in values.tolist()]
        return np.array(indices, np.int32)[inverse.reshape(-1)]

    def _lookup(self, label: Label, place: str) -> int:
        if label == UNLABELLED:
            return -1
        index = self._index.get(self._class(label))
        if index is None:
            raise DataError(
                f"label {label!r} of {place} never occurs in the training split; remove its rows "
                "or add some to the training data"
            )
        return index

    def _class(self, label: Label) -> Label:
        if not self._integers:
            return str(label)
        number = _as_integer(label)
        return label if number is None else number


class StratifiedSplit:
    """Decides row by row of a stream which rows are for testing.

    The rows of a class, in order, are cut into consecutive runs of 1 / fraction rows (rounded
    so that no fraction is lost), and every whole run gives one row, picked by the seed. So
    floor(fraction * rows) of a class are for testing, at least one is left for training,
    and the answer does not depend on how the stream is cut into blocks.

    Parameters
    ----------
    counts
        Number of rows of each class.
    fraction
        Share of the rows for testing, between 0 and 1.
    seed
        Seed of the picks.
    """

    def __init__(self, counts: Sequence[int] | np.ndarray, fraction: float, seed: int) -> None:
        self._share = Fraction(str(fraction)).limit_denominator(1_000_000)
        self.test_counts = np.array([int(count * self._share) for count in map(int, counts)])
        self._seen = np.zeros(len(self.test_counts), np.int64)
        self._generators = [
            np.random.default_rng([seed, index]) for index in range(len(self.test_counts))
        ]
        # The draw of the newest run of each class: a run can reach into the next block of rows.
        self._newest = np.full(len(self.test_counts), -1, np.int64)
        self._draw = np.zeros(len(self.test_counts))

    def is_test(self, y: np.ndarray) -> np.ndarray:
        """Return (rows,) bool for the next rows, given their class indices."""
        chosen = np.zeros(len(y), bool)
        for index in np.unique(y).tolist():
            rows = np.flatnonzero(y == index)
            chosen[rows] = self._pick(index, len(rows))
        return chosen

    def _pick(self, index: int, n_rows: int) -> np.ndarray:
        p, q = self._share.numerator, self._share.denominator
        row = self._seen[index] + np.arange(n_rows)
        self._seen[index] += n_rows
        run = row * p // q
        first = -(-run * q // p)
        size = -(-(run + 1) * q // p) - first
        newest = self._newest[index]
        fresh = self._generators[index].random(max(0, int(run[-1] - newest)))
        draws = np.concatenate([self._draw[index : index + 1], fresh])[run - newest]
        self._newest[index], self._draw[index] = run[-1], draws[-1]
        picked = first + (draws * size).astype(np.int64)
        return (row == picked) & (run < self.test_counts[index])


def _as_integer(label: Label) -> int | None:
    if isinstance(label, int):
        return label
    return int(label) if _INTEGER.fullmatch(label) else None
