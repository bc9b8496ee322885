"""The boxes that could overtake an input's prediction, in the order in which they threaten it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from boxnn_numba.errors import InputError

if TYPE_CHECKING:
    from boxnn_numba.boxes import Boxes
    from boxnn_numba.model import BoxNN


def group_count(model: BoxNN) -> int:
    """Return the number of features, or feature groups, that an adversary counts."""
    return -(-model.boxes.n_features // model.group_size)


def groups_changed(x: np.ndarray, other: np.ndarray, group_size: int) -> np.ndarray:
    """Return how many groups of features differ between samples (N, n), row by row."""
    differs = np.pad(x != other, ((0, 0), (0, -x.shape[1] % group_size)))
    return np.asarray(differs.reshape(*x.shape[:1], -1, group_size).any(axis=2).sum(axis=1))


def need_two_classes(model: BoxNN) -> None:
    """Raise unless boxes of at least two classes exist."""
    if len(np.unique(model.boxes.labels)) < 2:
        raise InputError("the model has boxes of one class only; no other can be predicted")


def rivals_in_order(
    distance: np.ndarray, boxes: Boxes, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is predicted, and boxes of other classes in order of margin.

    Parameters
    ----------
    distance
        (N, M) int32 distances to all boxes.
    boxes
        Boxes of at least two classes.
    count
        How many rivals to return; where there are fewer, the last is repeated.

    Returns
    -------
    predicted : (N,) int64
        Class index of the nearest box, ties to the smaller one.
    order : (N, R) int64
        Boxes with the smallest ``D_B + [class of B > predicted]`` first.
    """
    predicted = boxes.labels[distance.argmin(axis=1)].astype(np.int64)
    margin = distance.astype(np.int64) + (boxes.labels > predicted[:, None])
    margin[boxes.labels == predicted[:, None]] = np.iinfo(np.int64).max
    order = np.argsort(margin, axis=1, kind="stable")[:, :count]
    others = len(boxes) - np.diff(boxes.offsets)[predicted]
    places = np.minimum(np.arange(order.shape[1]), others[:, None] - 1)
    return predicted, np.take_along_axis(order, places, axis=1)
