"""Rivals: the boxes that could overtake an input's prediction, nearest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from boxnn_numba.distances import UNREACHABLE, part_distance

if TYPE_CHECKING:
    from boxnn_numba.boxes import Boxes
    from boxnn_numba.classifier import Classifier

#: Distances of samples to rows of boxes, part by part, that are in memory at a time.
_MOST_DISTANCES = 1 << 24
#: Margin of what does not count.
_NONE = np.iinfo(np.int64).max // 4


def nearest_rows(
    codes: np.ndarray, boxes: Boxes, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, one a part, of the nearest box of given classes, and its distance in units.

    Rows are (N, C, P) and distances (N, C) int64 for C classes (N, C).
    """
    kind, starts = boxes.structure, boxes.structure.rows
    label, step = boxes.labels[starts[:-1]], max(1, _MOST_DISTANCES // kind.n_parts // len(boxes))
    rows = np.empty((*classes.shape, kind.n_parts), np.int64)
    distance = np.empty(classes.shape, np.int64)
    for first in range(0, len(codes), step):
        block = slice(first, first + step)
        units = np.asarray(part_distance(codes[block], boxes))
        total = np.minimum.reduceat(units, starts[:-1], axis=2).sum(axis=1, dtype=np.int64)
        for i, of_part in enumerate(units, start=first):
            for k, index in enumerate(classes[i]):
                own = np.where(label == index, total[i - first], UNREACHABLE)
                t = int(own.argmin())
                rows[i, k] = starts[t] + of_part[:, starts[t] : starts[t + 1]].argmin(axis=1)
                distance[i, k] = own[t]
    return rows, distance


def assembled(boxes: Boxes, rows: np.ndarray) -> np.ndarray:
    """Return the bounds (C, 2, n), lower and upper, of boxes from rows (C, P) one a part."""
    of_feature, every = rows[:, boxes.part], np.arange(boxes.n_features)
    return np.stack([side[of_feature, every] for side in (boxes.lower, boxes.upper)], axis=1)


def rival_tuples(
    distances: Sequence[np.ndarray], model: Classifier, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model predicts, and combinations of one other class in every set, by margin.

    distances are (N, P_e, M_e) to the rows of each of E sets, as its simplest structure has them.
    The prediction has the smallest sum of class distances. A combination is a row in each part of a
    template: the nearest, or the nearest with some other row in one part. Of one set, those with
    the smallest margin are returned; of several the nearest of each class, and those with the
    second nearest in one set. Rows (N, R, E, P), R at most `count`, are places among those of all
    sets, where a part that a set does not have names some row of the template.
    """
    sets, offset = model.box_sets, model.offset
    known = np.flatnonzero(np.all([np.diff(boxes.offsets) > 0 for boxes in sets], axis=0))
    combined = [_Combinations(*pair) for pair in zip(distances, sets, strict=True)]
    total = sum(one.class_distance(known) for one in combined) + offset[known]
    predicted = known[total.argmin(axis=1)]
    if len(sets) == 1:
        key, label = combined[0].key, combined[0].label
        margin = np.where(key == _NONE, _NONE, key + offset[label] + (label > predicted[:, None]))
        margin[label == predicted[:, None]] = _NONE
        usable = (margin < _NONE).sum(axis=1)
        order = _smallest(margin, count)
        places = np.minimum(np.arange(order.shape[1]), usable[:, None] - 1)
        chosen = np.take_along_axis(order, places, axis=1)
        return predicted, combined[0].rows(chosen)[:, :, None]
    nearest, second, more = (
        np.stack(part, axis=1)
        for part in zip(*(c.two_nearest(known) for c in combined), strict=True)
    )  # (N, E, K) combinations, combinations, and how much farther the second is
    margin = total + (known > predicted[:, None])
    margin[known == predicted[:, None]] = _NONE
    tuples, margins = [nearest], [margin]
    for e in range(len(sets)):
        other = nearest.copy()
        other[:, e] = second[:, e]
        tuples.append(other)
        margins.append(margin + more[:, e])
    every, key = np.concatenate(tuples, axis=2), np.concatenate(margins, axis=1)
    order = np.argsort(key, axis=1, kind="stable")[:, : min(count, every.shape[2])]
    usable = (len(known) - 1) * (1 + len(sets))
    order = order[:, np.minimum(np.arange(order.shape[1]), usable - 1)]
    parts = max(distance.shape[1] for distance in distances)
    starts, rows = np.cumsum([0, *map(len, sets[:-1])]), []
    for e, one in enumerate(combined):
        of_set = one.rows(np.take_along_axis(every[:, e], order, axis=1))
        of_set = of_set[:, :, np.minimum(np.arange(parts), of_set.shape[2] - 1)]
        rows.append(starts[e] + of_set)
    return predicted, np.stack(rows, axis=2)


class _Combinations:
    """The combinations of a set: for each row and part the nearest with that row in that part.

    Attributes
    ----------
    key
        (N, M * P) int64 distances, of part p of row m in column ``m * P + p``; `_NONE` where the
        nearest combination of a template has that row there, but for its first part.
    label
        (M * P,) their classes.
    """

    def __init__(self, distance: np.ndarray, boxes: Boxes) -> None:
        self.structure = structure = boxes.structure.simplest
        self.template = np.repeat(np.arange(len(structure.rows) - 1), np.diff(structure.rows))
        n, self.parts, m = distance.shape
        # The least distance of a template's rows and the first of the rows that have it, at once.
        coded = distance.astype(np.int64) * m + np.arange(m)
        best = np.minimum.reduceat(coded, structure.rows[:-1], axis=2)
        least, self.best = best // m, best % m  # (N, P, T)
        rest = least.sum(axis=1, keepdims=True) - least
        key = distance + rest[:, :, self.template]
        known = self.best[:, 1:, self.template] == np.arange(m)
        key[:, 1:][known] = _NONE
        self.key = key.swapaxes(1, 2).reshape(n, -1)
        self.label = np.repeat(boxes.labels, self.parts)
        self.starts = boxes.offsets * self.parts

    def class_distance(self, classes: np.ndarray) -> np.ndarray:
        """Return (N, C) distances to classes with boxes, in ascending order."""
        return np.minimum.reduceat(self.key, self.starts[classes], axis=1)

    def two_nearest(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (N, C) the nearest of each class, the second, and how much farther that is."""
        found = []
        for c in classes:
            start = self.starts[c]
            part = self.key[:, start : self.starts[c + 1]]
            order = np.argsort(part, axis=1, kind="stable")[:, :2]
            ends = np.take_along_axis(part, order, axis=1)
            found.append((start + order[:, 0], start + order[:, -1], ends[:, -1] - ends[:, 0]))
        first, second, more = (np.stack(part, axis=1) for part in zip(*found, strict=True))
        return first, second, more

    def rows(self, columns: np.ndarray) -> np.ndarray:
        """Return the rows (N, R, P) of combinations that are columns (N, R) of `key`."""
        row, part = columns // self.parts, columns % self.parts
        sample = np.arange(len(columns))[:, None]
        found = self.best[sample, :, self.template[row]]
        np.put_along_axis(found, part[..., None], row[..., None], axis=2)
        return found


def _smallest(key: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the smallest of each row in order, the first of equals first."""
    columns = key.shape[1]
    unique = np.minimum(key, _NONE // columns - 1) * columns + np.arange(columns)
    if count < columns:
        unique = np.partition(unique, count - 1, axis=1)[:, :count]
    return np.asarray(np.sort(unique, axis=1) % columns)
