"""Parts and groups of features, from options, the shape of a sample, and the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from boxnn_numba import validation
from boxnn_numba.errors import OptionError
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions, are_images

#: Training rows that columns are compared on.
_ROWS = 2000


def groups_of(options: TrainingOptions, feature_shape: Sequence[int], codes: bool) -> np.ndarray:
    """Return the group of each feature (n,): the channels of a pixel, or as `group_size` says.

    Raises
    ------
    OptionError
        `group_size` does not fit the shape.
    """
    n, size = int(np.prod(feature_shape)), options.group_size
    if size == 0:
        pixels = len(feature_shape) == 3 and are_images(feature_shape, codes)
        size = int(feature_shape[2]) if pixels else 1
    validation.groups(size, tuple(feature_shape))
    return np.arange(n) // size


def parts_of(
    options: TrainingOptions, feature_shape: Sequence[int], group: np.ndarray, feed: Feed
) -> np.ndarray:
    """Return the part of each feature (n,), as option `parts` says.

    A grid is laid over images. Columns of other data go into parts of nearly the same size, so that
    those whose ranks correlate are together: the part begins with the column that correlates most
    with all that are left, and takes those that correlate most with it. Sums of integers, so that
    the parts are the same on every machine.

    Raises
    ------
    OptionError
        There are fewer groups of features than parts, or the samples are no images.
    """
    groups = int(group.max()) + 1
    if options.parts == "columns":
        return group
    if "x" in options.parts:
        return _grid(options.parts, feature_shape)
    count = int(options.parts)
    if count > groups:
        raise OptionError(
            f"`parts` is {count}, more than the {groups} columns or groups of columns there are; "
            f"pass at most {groups}"
        )
    if count == 1:
        return np.zeros(len(group), np.int64)
    likeness = _likeness(feed, group)
    part = np.full(groups, -1)
    for p in range(count):
        free = np.flatnonzero(part < 0)
        size = -(-len(free) // (count - p))
        near = likeness[np.ix_(free, free)]
        first = int(near.sum(axis=1).argmax())
        order = np.argsort(-near[first], kind="stable")
        chosen = np.append(first, order[order != first])[:size]
        part[free[chosen]] = p
    # Numbered by their first columns.
    _, firsts, number = np.unique(part, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(firsts))[number][group])


def _grid(parts: str, feature_shape: Sequence[int]) -> np.ndarray:
    rows, columns = map(int, parts.split("x"))
    if not are_images(feature_shape, True):
        raise OptionError(
            f"`parts` {parts} is for images and samples have shape {tuple(feature_shape)}; pass a "
            "number of parts, or columns"
        )
    height, width = feature_shape[:2]
    if rows > height or columns > width:
        raise OptionError(f"`parts` {parts} do not fit images of {height} x {width} pixels")
    row, column = np.indices((height, width))
    part = row * rows // height * columns + column * columns // width
    return np.repeat(part.reshape(-1), int(np.prod(feature_shape[2:])))


def _likeness(feed: Feed, group: np.ndarray) -> np.ndarray:
    """Return (G, G) squared rank correlations, of the first feature of each group."""
    every = np.unique(group, return_index=True)[1]
    count = min(len(feed), max(200, min(_ROWS, 2**27 // len(every) ** 2)))
    rows = np.linspace(0, len(feed) - 1, count).astype(np.int64)
    ranks = np.empty((len(every), len(rows)), np.int64)
    for k, column in enumerate(feed.take(rows)[:, every].T):
        ordered = np.sort(column)
        low, high = (np.searchsorted(ordered, column, side) for side in ("left", "right"))
        ranks[k] = low + high - len(rows)  # twice the rank, ties sharing it, less its mean
    ranks -= ranks.sum(axis=1, keepdims=True) // len(rows)
    products = ranks @ ranks.T  # of integers, so no BLAS
    spread = np.maximum(np.diagonal(products), 1).astype(np.float64)
    return np.asarray(products.astype(np.float64) ** 2 / np.outer(spread, spread))
