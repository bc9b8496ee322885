"""The boxes that could overtake an input's prediction, in the order in which they threaten it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from boxnn_numba.errors import InputError

if TYPE_CHECKING:
    from boxnn_numba.boxes import Boxes
    from boxnn_numba.classifier import Classifier


def group_count(model: Classifier) -> int:
    """Return the number of features, or feature groups, that an adversary counts."""
    return int(model.groups.max()) + 1


def unit_name(feature_shape: Sequence[int], groups: int) -> str:
    """Return what the radii of so many groups count: ``"pixels"`` of an image or ``"features"``."""
    shape = tuple(feature_shape)
    pixels = len(shape) in (2, 3) and shape[0] * shape[1] == groups
    return "pixels" if pixels else "features"


def groups_changed(x: np.ndarray, other: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return how many groups of features differ between samples (N, n), row by row.

    groups are (n,) numbers 0..G-1.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    differs = np.logical_or.reduceat((x != other)[:, order], starts, axis=1)
    return np.asarray(differs.sum(axis=1))


def need_two_classes(model: Classifier) -> None:
    """Raise unless boxes of at least two classes exist."""
    if len(np.unique(model.boxes.labels)) < 2:
        raise InputError("the model has boxes of one class only; no other can be predicted")


def need_one_set(model: Classifier, what: str) -> None:
    """Raise if a model is an ensemble; `what` is for single sets of boxes only."""
    if len(model.box_sets) > 1:
        raise InputError(
            f"the model is an ensemble of {len(model.box_sets)} sets of boxes, and {what} of one "
            "set only; pass one of its members"
        )


def rivals_in_order(
    distance: np.ndarray, boxes: Boxes, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is predicted (N,), and boxes of other classes in order of margin (N, R).

    distance is (N, M) to all boxes, of two classes at least. The prediction is the class index of
    the nearest box, ties to the smaller one. Boxes with the smallest
    ``D_B + [class of B > predicted]`` are first, `count` of them; where there are fewer, the last
    is repeated.
    """
    predicted = boxes.labels[distance.argmin(axis=1)].astype(np.int64)
    margin = distance.astype(np.int64) + (boxes.labels > predicted[:, None])
    margin[boxes.labels == predicted[:, None]] = np.iinfo(np.int64).max
    order = np.argsort(margin, axis=1, kind="stable")[:, :count]
    others = len(boxes) - np.diff(boxes.offsets)[predicted]
    places = np.minimum(np.arange(order.shape[1]), others[:, None] - 1)
    return predicted, np.take_along_axis(order, places, axis=1)


def rival_tuples(
    distances: Sequence[np.ndarray], sets: Sequence[Boxes], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what an ensemble predicts, and boxes of one other class in every set, by margin.

    As `rivals_in_order`, with the distances (N, M_e) of each of E sets. The prediction has the
    smallest sum of distances. The boxes (N, R, E), R at most `count`, are places among those of all
    sets: with one set those of `rivals_in_order`; else the nearest of each class, and those with
    the second nearest in one set.
    """
    if len(sets) == 1:
        predicted, order = rivals_in_order(distances[0], sets[0], count)
        return predicted, order[..., None]
    known = np.flatnonzero(np.all([np.diff(boxes.offsets) > 0 for boxes in sets], axis=0))
    nearest, second, more = (
        np.stack(part, axis=1) for part in zip(*map(_two_nearest, distances, sets), strict=True)
    )  # (N, E, K) boxes, boxes, and how much farther the second is
    starts = np.cumsum([0, *map(len, sets[:-1])])[:, None]
    rows = np.arange(len(nearest))
    total = np.stack(
        [np.take_along_axis(d, nearest[:, e], axis=1) for e, d in enumerate(distances)], axis=1
    ).sum(axis=1, dtype=np.int64)[:, known]
    place = total.argmin(axis=1)
    margin = total + (known > known[place][:, None])
    margin[rows, place] = np.iinfo(np.int64).max // 2
    boxes = (nearest + starts)[:, :, known].swapaxes(1, 2)
    tuples, margins = [boxes], [margin]
    for e in range(len(sets)):
        other = boxes.copy()
        other[:, :, e] = second[:, e, known] + starts[e]
        tuples.append(other)
        margins.append(margin + more[:, e, known])
    every, key = np.concatenate(tuples, axis=1), np.concatenate(margins, axis=1)
    order = np.argsort(key, axis=1, kind="stable")[:, : min(count, every.shape[1])]
    usable = (len(known) - 1) * (1 + len(sets))
    order = order[:, np.minimum(np.arange(order.shape[1]), usable - 1)]
    return known[place], every[rows[:, None], order]


def _two_nearest(distance: np.ndarray, boxes: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (N, K) the nearest box of each class, the second, and how much farther that is."""
    shape = len(distance), boxes.n_classes
    first, second = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    more = np.zeros(shape, np.int64)
    for c, (start, stop) in enumerate(zip(boxes.offsets[:-1], boxes.offsets[1:], strict=True)):
        if stop == start:
            continue
        part = distance[:, start:stop]
        order = np.argsort(part, axis=1, kind="stable")[:, :2]
        first[:, c], second[:, c] = start + order[:, 0], start + order[:, -1]
        ends = np.take_along_axis(part, order, axis=1).astype(np.int64)
        more[:, c] = ends[:, -1] - ends[:, 0]
    return first, second, more
