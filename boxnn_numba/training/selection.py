"""Selection of the best epoch: what is held out, what boxes score on it, classes given up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from boxnn_numba.backends.protocol import Backend
from boxnn_numba.certificates import margin
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.problem import Problem

#: A class is given up when less than this part of its validation samples, of which there must be
#: so many, is predicted right.
GIVEN_UP, _ENOUGH_SAMPLES = 0.2, 20


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


class Validation(NamedTuple):
    """What boxes achieve on held-out samples, at the deployed width and with sound radii.

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
    median_certified_radius: int
    mean_certified_radius: float
    score: float
    recall: np.ndarray


def validate(bounds: Pair, feed: Feed, problem: Problem, backend: Backend) -> Validation:
    """Return what boxes (M, n) uint8 achieve on the held-out samples of a feed."""
    options, n_classes = problem.options, len(problem.offsets) - 1
    layout = backend.layout(*bounds, problem.structure, options.width)
    blocks = []
    for x, y in feed.held_out():
        distance = np.empty((len(y), n_classes), np.int32)
        backend.class_distance(x, layout, options.width, distance)
        certified = margin.certified_radius(distance, options.width)
        blocks.append((*certified, y))
    if not blocks:
        return Validation(np.nan, -1, np.nan, np.nan, np.full(n_classes, np.nan))
    prediction, radius, y = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    outcome = prediction, radius, y
    counts = np.bincount(y, minlength=n_classes)
    right = np.bincount(y[prediction == y], minlength=n_classes)
    mean = margin.mean_certified_radius(*outcome)
    score = mean
    if options.objective == "target":
        score = float(margin.certified_accuracy(*outcome, [options.radius])[0])
    return Validation(
        float((prediction == y).mean()),
        margin.median_certified_radius(*outcome),
        mean,
        score,
        np.where(counts < _ENOUGH_SAMPLES, np.nan, right / np.maximum(counts, 1)),
    )


def given_up(recall: np.ndarray) -> dict[int, float]:
    """Return the class indices that boxes hardly predict, and how often they do."""
    return {c: float(r) for c, r in enumerate(recall) if r < GIVEN_UP}
