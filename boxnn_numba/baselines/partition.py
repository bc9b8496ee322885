"""Feature partition aggregation, FPA^A and FPA^B (Hammoudeh and Lowd, 2023).

T submodels see disjoint sets of features, so a change of r features changes the votes of at most r
submodels, in any way. Certificates depend only on the votes (and scores). They are exact integers,
and in a tie the class with the smaller index wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.certificates.margin import certified_radius
from boxnn_numba.errors import InputError, OptionError

KINDS = ("strided", "strided-columns", "random", "patch")

#: Scores compared at a time in `runoff_radius`.
_CHUNK_SCORES = 2**22


class Submodels(Protocol):
    """T base classifiers, the t-th of which sees only the features of part t."""

    n_classes: int
    n_models: int

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return (B, T, K) float scores of uint8 codes (B, n)."""


def make_partition(
    kind: str,
    n_features: int,
    parts: int,
    seed: int = 0,
    feature_shape: Sequence[int] | None = None,
    group_size: int = 1,
) -> np.ndarray:
    """Divide the features among submodels.

    Parameters
    ----------
    kind
        ``"strided"`` (feature j to j mod T, the best of the paper), ``"strided-columns"`` (the same
        with the pixels of an image counted down its columns), ``"random"`` (the same sizes,
        shuffled) or ``"patch"`` (a grid of rectangles as square as possible, with all
        channels of a pixel together).
    n_features
        Features n of an image.
    parts
        Number of submodels T, at least 1 and at most the groups of features.
    seed
        For ``"random"``.
    feature_shape
        For ``"patch"`` and ``"strided-columns"``: (n,), (height, width) or
        (height, width, channels).
    group_size
        Number of consecutive features that go to one submodel, such as the channels of a pixel.

    Returns
    -------
    (n,) int32
        The submodel 0..T-1 of each feature; every submodel has at least one.

    Raises
    ------
    OptionError
        An option is out of range, or no grid of T rectangles fits the shape.

    Notes
    -----
    Hammoudeh and Lowd (2023), Section 4; Eq. (16) of Pal, Vidal and Sulam. The code that Hammoudeh
    and Lowd published transposes MNIST images for T = 25 and 45, so their rows at those T belong
    to ``"strided-columns"``. It matters: with 28 columns and T = 25, neighbours in a part lie 3
    columns and a row apart by rows, but 3 rows and a column apart by columns, which suits upright
    digits (certified accuracy of FPA^A at r = 8: 55.6% and 62.9%).

    Examples
    --------
    >>> make_partition("strided", 7, 3)
    array([0, 1, 2, 0, 1, 2, 0], dtype=int32)
    >>> make_partition("patch", 8, 2, feature_shape=(2, 4)).reshape(2, 4)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1]], dtype=int32)
    >>> make_partition("strided-columns", 8, 3, feature_shape=(2, 4)).reshape(2, 4)
    array([[0, 2, 1, 0],
           [1, 0, 2, 1]], dtype=int32)
    >>> make_partition("strided", 9, 2, group_size=3)
    array([0, 0, 0, 1, 1, 1, 0, 0, 0], dtype=int32)
    """
    validation.choice("partition", kind, KINDS)
    n_features = validation.positive("n_features", n_features)
    groups = validation.group_count(group_size, n_features)
    parts = validation.integer("parts", parts, low=1, high=groups)
    part = np.arange(groups, dtype=np.int32) % parts
    if kind in ("patch", "strided-columns"):
        if feature_shape is None or np.size(feature_shape) not in (1, 2, 3):
            raise OptionError(
                f"feature_shape is {feature_shape}; a {kind} partition needs (height, width)"
            )
        shape = _shape_of_groups(validation.sample_shape(feature_shape, n_features), group_size)
        part = _patches(shape, parts) if kind == "patch" else _down_columns(part, shape)
    elif kind == "random":
        np.random.default_rng(validation.integer("seed", seed, low=0)).shuffle(part)
    return part.repeat(group_size)


def _shape_of_groups(shape: tuple[int, ...], group_size: int) -> tuple[int, ...]:
    """Return the shape of samples of which each group is one feature."""
    validation.groups(group_size, shape)
    for axis in range(len(shape)):
        if math.prod(shape[axis:]) == group_size:
            return shape[:axis] or (1,)
    return shape if group_size == 1 else (shape[0] // group_size,)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (height, width, channels)."""
    return {1: (1, *shape, 1), 2: (*shape, 1)}.get(len(shape), shape)


def _down_columns(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Deal the parts out down the columns of an image in place of along its rows."""
    height, width, channels = _image_shape(shape)
    by_column = part.reshape(width, height, channels)
    return np.ascontiguousarray(by_column.transpose(1, 0, 2)).reshape(-1)


def _patches(shape: tuple[int, ...], parts: int) -> np.ndarray:
    height, width, channels = _image_shape(shape)
    grids = [
        (down, parts // down)
        for down in range(1, parts + 1)
        if parts % down == 0 and down <= height and parts // down <= width
    ]
    if not grids:
        raise OptionError(
            f"{parts} patches do not divide {height} x {width} pixels into a grid; "
            "choose a number of parts with factors that fit"
        )

    def elongation(grid: tuple[int, int]) -> float:
        return abs(math.log((height / grid[0]) / (width / grid[1])))

    down, across = min(grids, key=elongation)
    row = np.arange(height) * down // height
    column = np.arange(width) * across // width
    pixel = row[:, None] * across + column
    return np.repeat(pixel.reshape(-1), channels).astype(np.int32)


def votes_of(scores: ArrayLike) -> np.ndarray:
    """Count the votes of submodels.

    Parameters
    ----------
    scores
        (N, T, K) scores of T submodels; each votes for its largest score, ties to the smaller
        class index.

    Returns
    -------
    (N, K) ndarray of int64
        Number of votes for each class.

    Raises
    ------
    InputError
        `scores` have the wrong shape or type, or hold NaN.
    """
    array = validation.scores("scores", scores, (None, None, None))
    choice = array.argmax(axis=2)
    n_rows, n_classes = len(array), array.shape[2]
    flat = choice + np.arange(n_rows)[:, None] * n_classes
    return np.bincount(flat.reshape(-1), minlength=n_rows * n_classes).reshape(n_rows, n_classes)


def plurality_radius(votes: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Certify the most voted class (FPA^A).

    Parameters
    ----------
    votes
        (N, K) integers, all rows with the same total.

    Returns
    -------
    prediction : (N,) int32
        The class with the most votes, ties to the smaller index.
    radius : (N,) int32
        How many features may change. It is exact for votes: some change of one more submodel
        changes the prediction.

    Raises
    ------
    InputError
        `votes` are not votes or do not add up.

    Notes
    -----
    Hammoudeh and Lowd (2023), Theorem 3.1. Votes missing to unanimity act as class distances:
    one submodel changes each of them by at most 1, as one feature does an l0 distance.

    Examples
    --------
    >>> plurality_radius([[14, 5, 6], [5, 14, 6]])
    (array([0, 1], dtype=int32), array([4, 4], dtype=int32))
    """
    counts = validation.votes("votes", votes)
    return certified_radius(counts[0].sum() - counts, width=1)


def topk_plurality_radius(votes: ArrayLike, label: ArrayLike, k: int) -> np.ndarray:
    """Return how many features may change with `label` provably among the k most voted classes.

    Parameters
    ----------
    votes
        (N, K) integers, all rows with the same total T.
    label
        (N,) class of each row.
    k
        1..K-1; k = 1 asks for the plurality winner.

    Returns
    -------
    (N,) int32
        Exact radius, -1 where `label` is not among the k now, and T where no change of all
        submodels drops it.

    Raises
    ------
    InputError
        `votes` do not add up or `label` is out of range.
    OptionError
        `k` is out of range.

    Notes
    -----
    Class c needs ``g_c = max(0, n_label - n_c + [c > label])`` votes to overtake. An adversary of
    b submodels does best to take votes from `label`, ``x = min(b, n_label)``, and give them to the
    k rivals with the smallest g: it wins if and only if ``sum(max(0, g_c - x)) <= b``, and, once
    `label` has no vote left to take, if there are votes enough for each chosen rival that loses
    ties to have one.
    """
    counts = validation.votes("votes", votes)
    n_rows, n_classes = counts.shape
    target = validation.class_indices("label", label, n_rows, n_classes)[:, None]
    k = validation.integer("k", k, low=1, high=n_classes - 1)
    total = int(counts[0].sum())
    index = np.arange(n_classes)
    own = np.take_along_axis(counts, target, axis=1)
    gap = np.maximum(0, own - counts + (index > target))
    np.put_along_axis(gap, target, np.iinfo(np.int64).max, axis=1)
    order = gap.argsort(axis=1, kind="stable")[:, :k]
    gap = np.take_along_axis(gap, order, axis=1)
    need_votes = (order > target).sum(axis=1)
    lowest, highest = np.zeros(n_rows, np.int64), np.full(n_rows, total + 1)
    while (lowest < highest).any():
        budget = (lowest + highest) // 2
        short = np.maximum(0, gap - np.minimum(budget[:, None], own)).sum(axis=1)
        wins = (short <= budget) & ((budget <= own[:, 0]) | (need_votes <= total))
        highest = np.where(wins, budget, highest)
        lowest = np.where(wins, lowest, np.minimum(budget + 1, highest))
    return (lowest - 1).astype(np.int32)


def runoff_radius(votes: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Certify the winner of a run-off between the two most voted classes (FPA^B).

    In round 2 every submodel votes for the one of the two that it scores higher; equal scores
    cast no vote. Ties go to the smaller class in both rounds.

    Parameters
    ----------
    votes
        (N, K) integers, the votes of `scores` (`votes_of`).
    scores
        (N, T, K) floats.

    Returns
    -------
    prediction : (N,) int32
        Winner of round 2.
    radius : (N,) int32
        How many features may change; sound, and below the exact value where no single change of
        a submodel serves the adversary in both rounds.

    Raises
    ------
    InputError
        `scores` have the wrong shape or NaN, or `votes` are not theirs.

    Notes
    -----
    Hammoudeh and Lowd (2023), the run-off of Rezaei et al. (2023). Either two rivals overtake the
    prediction in round 1, or a rival overtakes the other finalist in round 1 and the prediction
    in round 2. One submodel lowers the gaps to two rivals by 3 together and by 2 each at most,
    so gaps i and j need ``max(ceil(max(i, j) / 2), ceil((i + j) / 3))`` of them, which is the
    papers' recursion in closed form; it grows with i and j, so the two smallest gaps decide.

    Examples
    --------
    >>> scores = [[[3, 2, 1]] * 4 + [[2, 3, 1]] * 3 + [[2, 1, 3]] * 2]
    >>> runoff_radius([[4, 3, 2]], np.float32(scores))
    (array([0], dtype=int32), array([1], dtype=int32))
    """
    counts = validation.votes("votes", votes)
    n_rows, n_classes = counts.shape
    array = validation.scores("scores", scores, (n_rows, None, n_classes))
    if not np.array_equal(votes_of(array), counts):
        raise InputError("votes are not those of the scores; pass votes_of(scores)")
    chunk = max(1, _CHUNK_SCORES // (array.shape[1] * n_classes))
    outcomes = [
        _runoff(counts[start : start + chunk], array[start : start + chunk])
        for start in range(0, n_rows, chunk)
    ]
    prediction, radius = (np.concatenate(column) for column in zip(*outcomes, strict=True))
    return prediction.astype(np.int32), radius.astype(np.int32)


def _runoff(counts: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, index = np.arange(len(counts)), np.arange(counts.shape[1])
    finalists = (-counts).argsort(axis=1, kind="stable")[:, :2]
    lead = _lead(scores, finalists[:, 0])[rows, finalists[:, 1]]
    first_wins = (lead > 0) | ((lead == 0) & (finalists[:, 0] < finalists[:, 1]))
    winner = np.where(first_wins, finalists[:, 0], finalists[:, 1])
    second = np.where(first_wins, finalists[:, 1], finalists[:, 0])

    def gaps(of: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        return np.maximum(0, ahead + (index > of[:, None]))

    to_winner = gaps(winner, counts[rows, winner, None] - counts)
    to_second = gaps(second, counts[rows, second, None] - counts)
    in_round_2 = gaps(winner, _lead(scores, winner))
    overtaken = np.maximum(-(-to_second // 2), -(-in_round_2 // 2))
    overtaken[rows, winner] = np.iinfo(np.int64).max
    needed = overtaken.min(axis=1)
    if counts.shape[1] > 2:
        to_winner[rows, winner] = np.iinfo(np.int64).max
        i, j = np.partition(to_winner, 1, axis=1)[:, :2].T
        needed = np.minimum(needed, np.maximum(-(-j // 2), -(-(i + j) // 3)))
    return winner, needed - 1


def _lead(scores: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return (N, K), how many more submodels prefer class `of` to each class than the reverse."""
    own = np.take_along_axis(scores, of[:, None, None], axis=2)
    return (own > scores).sum(axis=1) - (own < scores).sum(axis=1)
