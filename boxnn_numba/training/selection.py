"""Selection of the best epoch: held-out rows, their figures, and classes given up."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from boxnn_numba.backends.protocol import Backend
from boxnn_numba.certificates import margin
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.problem import Problem

#: A class is given up when less than this part of its validation samples, of which there must be
#: so many, is predicted right.
GIVEN_UP, ENOUGH_SAMPLES = 0.2, 20


def validation_split(y: np.ndarray, fraction: float, seed: int) -> Pair:
    """Split row numbers into training and validation rows, ascending, stratified by class.

    The fraction is that of every class (N,) that goes to validation; each class keeps at least one
    training row.
    """
    rng = np.random.default_rng([seed, 1])
    held = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        held[rows[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def option_split(y: np.ndarray, options: TrainingOptions) -> Pair:
    """Return training and validation rows of classes (N,), ascending, as options ask for them."""
    return validation_split(y, options.held_out(len(y)), options.seed)


class Validation(NamedTuple):
    """Figures of boxes on held-out samples, at the deployed width and with sound radii.

    Attributes
    ----------
    accuracy, median_certified_radius, mean_certified_radius
        Figures of all samples; not a number, and a median of -1, where nothing is held out.
    score
        What epochs are compared by: certified accuracy at the radius of objective ``target``, else
        the mean certified radius.
    recall
        (K,) part of each class that is predicted right, not a number where samples are few.
    """

    accuracy: float
    median_certified_radius: float
    mean_certified_radius: float
    score: float
    recall: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of all samples as plain values, None for what was not measured."""
        figures = self._asdict()
        figures.pop("recall")
        if math.isnan(self.accuracy):
            return dict.fromkeys(figures)
        return figures


def sets_of(bounds: Pair, options: TrainingOptions) -> list[Pair]:
    """Return the sets of boxes, (M, n) bounds each, that the bounds of a run hold in their rows."""
    lower, upper = (side.reshape(options.levels, -1, side.shape[1]) for side in bounds)
    return list(zip(lower, upper, strict=True))


class Measure:
    """Class distances to the boxes of a run; sums over its sets.

    Parameters
    ----------
    bounds
        As of a `boxnn_numba.training.trainer.Trainer`.
    problem, backend
        Structure and width of the boxes, and where it is done.
    """

    def __init__(self, bounds: Pair, problem: Problem, backend: Backend) -> None:
        self._width, self._backend = problem.options.width, backend
        self._n_classes = problem.n_classes
        self._layouts = [
            backend.layout(*pair, problem.structure, self._width)
            for pair in sets_of(bounds, problem.options)
        ]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return (N, K) int32 distances of codes (N, n)."""
        found = np.empty((len(self._layouts), len(x), self._n_classes), np.int32)
        for layout, out in zip(self._layouts, found, strict=True):
            self._backend.class_distance(x, layout, self._width, out)
        return found.sum(axis=0, dtype=np.int32)


def held_out_distances(bounds: Pair, feed: Feed, problem: Problem, backend: Backend) -> Pair:
    """Return class distances (N, K) of the held-out samples to boxes, as of a run, and labels."""
    n_classes, measure = problem.n_classes, None
    blocks = [(np.empty((0, n_classes), np.int32), np.empty(0, np.int32))]
    for x, y in feed.held_out():
        measure = measure or Measure(bounds, problem, backend)
        blocks.append((measure(x), y))
    distances, labels = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return distances, labels


def validate(
    bounds: Pair, feed: Feed, problem: Problem, backend: Backend, offset: np.ndarray
) -> Validation:
    """Return the figures of boxes (M, n) uint8 with class offsets on a feed's held-out samples."""
    distance, y = held_out_distances(bounds, feed, problem, backend)
    return achieved(distance + offset, y, problem.options, feed)


def achieved(
    distance: np.ndarray, y: np.ndarray, options: TrainingOptions, feed: Feed, runs: int = 1
) -> Validation:
    """Return what class distances (N, K), sums over some runs, say of samples of classes y (N,).

    Where the training rows of a feed have weights, samples count in the score as those of their
    class do.
    """
    n_classes = distance.shape[1]
    if len(y) == 0:
        return Validation(np.nan, -1, np.nan, np.nan, np.full(n_classes, np.nan))
    outcome = (*margin.certified_radius(distance, options.width, members=runs * options.levels), y)
    prediction, radius, _ = outcome
    right = prediction == y
    credit = np.where(right, radius, 0).astype(np.float64)
    if options.objective == "target":
        credit = (right & (radius >= options.radius)).astype(np.float64)
    weights = feed.class_weights(n_classes)[y]
    return Validation(
        float(right.mean()),
        margin.median_certified_radius(*outcome),
        margin.mean_certified_radius(*outcome),
        float(np.average(credit, weights=weights if weights.any() else None)),
        recalls(prediction, y, n_classes),
    )


def recalls(prediction: np.ndarray, y: np.ndarray, n_classes: int, repeats: int = 1) -> np.ndarray:
    """Return (K,) part of each class that is predicted right, not a number where samples are few.

    prediction and y are class indices (N,), in which a sample may come up to `repeats` times.
    """
    counts = np.bincount(y, minlength=n_classes)
    right = np.bincount(y[prediction == y], minlength=n_classes)
    few = counts < repeats * ENOUGH_SAMPLES
    return np.where(few, np.nan, right / np.maximum(counts, 1))


def given_up(recall: np.ndarray) -> dict[int, float]:
    """Return the class indices that boxes hardly predict, and how often they do."""
    return {c: float(r) for c, r in enumerate(recall) if r < GIVEN_UP}
