"""Pairwise certificate: radii that look at each rival box on its own, never below the margin's."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.boxes import Boxes
from boxnn_numba.classifier import Certificate, Classifier
from boxnn_numba.distances import pairwise_distance
from boxnn_numba.kernels.pairwise_bound import rival_bounds
from boxnn_numba.rivals import group_count, need_one_set, need_two_classes, rivals_in_order

#: Inputs that a thread takes at a time.
_BLOCK_ROWS = 64
#: Own boxes that each bound is taken against, and that an integer program begins with.
_OWN = 8


def pairwise_radius(model: Classifier, x: ArrayLike, threads: int | None = None) -> Certificate:
    """Return predictions and radii that look at each rival box on its own.

    For the margin every feature may gain 2 W. Here feature i gains, for a rival box B against a
    box A of the predicted class, at most ``max_v (p_A(v) - p_B(v)) - (p_A(x_i) - p_B(x_i))``; the
    fewest features, largest gains first, that close ``D_B - D_A`` must change before B overtakes A.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        Samples, as for `BoxNN.encode`.
    threads
        Threads to use; all cores by default.

    Returns
    -------
    Certificate
        Unpacks as ``prediction, radius``; never below `BoxNN.certify`, exact integers.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, there are boxes of one class only, or the model is an ensemble.
    OptionError
        `threads` is below 1.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.certificates import pairwise_radius
    >>> model = BoxNN(Boxes([[0] * 5, [60] * 5], [[50] * 5, [255] * 5], [0, 1], 100), [0, 1])
    >>> model.certify([[25] * 5]).radius, pairwise_radius(model, [[25] * 5]).radius
    (array([0], dtype=int32), array([1], dtype=int32))
    """
    need_two_classes(model)
    need_one_set(model, "pairwise radii are")
    codes = model.encode(x)
    boxes, most = model.boxes, group_count(model) + 1
    index = np.empty(len(codes), np.int64)
    radius = np.empty(len(codes), np.int32)

    def work(first: int, last: int) -> None:
        for start in range(first, last, _BLOCK_ROWS):
            rows = slice(start, min(last, start + _BLOCK_ROWS))
            with limit_threads(1):
                distance = pairwise_distance(codes[rows], boxes)
            index[rows], order = rivals_in_order(distance, boxes, len(boxes))
            for i, (row, rivals) in enumerate(zip(distance, order, strict=True), start):
                bounds = overtaking_bounds(
                    model, codes[i], row, int(index[i]), rivals, most, running=True
                )
                radius[i] = bounds.min() - 1

    get_backend("cpu", threads).parallel(len(codes), _BLOCK_ROWS, work)
    return Certificate(np.asarray(model.classes)[index], radius)


def overtaking_bounds(
    model: Classifier,
    codes: np.ndarray,
    distance: np.ndarray,
    own_class: int,
    rivals: np.ndarray,
    most: int,
    running: bool,
) -> np.ndarray:
    """Return (R,) int64, groups that must change before each rival box overtakes; `most` caps."""
    boxes, width, group = model.boxes, model.boxes.width, model.group_size
    out = np.empty(len(rivals), np.int64)
    counts = np.empty(2 * width * group + 1, np.int64)
    rival_bounds(
        codes, distance, nearest_own(boxes, distance, own_class), rivals,
        (boxes.lower, boxes.upper, boxes.labels), (width, group), most, running, counts, out,
    )  # fmt: skip
    return out


def nearest_own(boxes: Boxes, distance: np.ndarray, own_class: int) -> np.ndarray:
    """Return the boxes of a class that are nearest, each of which gives a bound."""
    first, last = boxes.offsets[own_class], boxes.offsets[own_class + 1]
    return first + np.argsort(distance[first:last], kind="stable")[:_OWN]
