"""Selection of the best epoch and of class offsets: held-out rows, figures, classes given up.

Offsets are constants that are added to class distances once boxes are trained. `class_offsets`
lifts the recall of classes that are given up; `even_offsets`, for tables, and `margin_offsets`, for
images, fit the margins of training rows. They are found in integers, the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from boxnn_numba.backends.box_layout import UNREACHABLE
from boxnn_numba.backends.protocol import Backend
from boxnn_numba.certificates import margin
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.problem import Problem

#: A class is given up when less than this part of its validation samples, of which there must be
#: so many, is predicted right.
GIVEN_UP, _ENOUGH_SAMPLES = 0.2, 20
#: Most times that `class_offsets` moves a class.
_MOVES = 50
#: Radii, in features, at which margins are counted by `even_offsets`; shares of the steps tried.
_MARGINS, _SHARES = (0, 1, 2, 4), np.linspace(0.02, 0.98, 49)
#: Accuracy that offsets may cost, recall that a class may lose by `margin_offsets`, and how often
#: `even_offsets` looks at each class.
_LOSS, _RECALL_LOST, _SWEEPS = 0.01, 0.05, 2
#: What the heaviest sample of `even_offsets` weighs as an integer.
_MOST_MASS = 2**30
#: Shifts of a class that `margin_offsets` compares, in features. No shift comes first, as the first
#: of equals is taken.
_SHIFTS = np.array([0.0, *(sign * 2.0**power for power in range(-2, 6) for sign in (-1, 1))])
#: Most rounds of all classes.
_ROUNDS = 20


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
    few = counts < repeats * _ENOUGH_SAMPLES
    return np.where(few, np.nan, right / np.maximum(counts, 1))


def given_up(recall: np.ndarray) -> dict[int, float]:
    """Return the class indices that boxes hardly predict, and how often they do."""
    return {c: float(r) for c, r in enumerate(recall) if r < GIVEN_UP}


def class_offsets(distance: np.ndarray, y: np.ndarray, least: float) -> np.ndarray:
    """Return (K,) int64 offsets that lift the recall of every class on held-out samples.

    A class with recall below `least` gets the smallest offset that lifts it to `least`. This can
    lower the recall of another class, so it is done in rounds, for the worst class in each. If not
    all classes reach `least` together, the round with the best worst recall counts. Classes with
    few samples are left as they are.

    distance (N, K) are class distances in units, y (N,) class indices.
    """
    n_classes = distance.shape[1]
    counts = np.bincount(y, minlength=n_classes)
    offset = np.zeros(n_classes, np.int64)
    best, found = -1.0, offset
    for _ in range(_MOVES):
        moved = distance + offset
        right = np.bincount(y[moved.argmin(axis=1) == y], minlength=n_classes)
        recall = np.where(counts < _ENOUGH_SAMPLES, 1.0, right / np.maximum(counts, 1))
        c = int(recall.argmin())
        if recall[c] > best:
            best, found = recall[c], offset.copy()
        if best >= least:
            break
        of_class = moved[y == c]
        lead = of_class[:, c] - np.delete(of_class, c, axis=1).min(axis=1)
        offset[c] -= np.sort(lead)[int(np.ceil(least * counts[c])) - 1] + 1
    return found - found.min()


def even_offsets(
    distance: np.ndarray, y: np.ndarray, weights: np.ndarray, width: int
) -> np.ndarray:
    """Return (K,) int64 offsets with which most samples have a margin, of several sizes.

    Class by class, the offset is taken that gives the largest weighted sum of samples with margins
    above 0, 1, 2 and 4 features. Accuracy may fall by one per cent of the weight at most, and so
    may the mean recall of the classes: a rare one is not given up for margins of the others.

    distance (N, K) are class distances in units, y (N,) class indices, weights (N,) what samples
    count, and width what rewriting one feature moves a class distance by.
    """
    rows, n_classes = np.arange(len(y)), distance.shape[1]
    steps = [size * width for size in _MARGINS]
    offset = np.zeros(n_classes, np.int64)
    others = distance.astype(np.int64)
    others[rows, y] = UNREACHABLE
    right = others.min(axis=1) > distance[rows, y]
    masses = _mass(weights), _mass(1.0 / np.bincount(y, minlength=n_classes)[y])
    least = [mass[right].sum() - int(_LOSS * mass.sum()) for mass in masses]
    places = _between(len(y))
    best = -1
    for c in [*range(n_classes)] * _SWEEPS:
        moved = distance + offset
        own = moved[rows, y]
        moved[rows, y] = UNREACHABLE
        mine = y == c
        here = np.where(mine, distance[:, c], moved[:, c] - offset[c])
        moved[:, c] = UNREACHABLE
        rest = moved.min(axis=1)  # the nearest rival but for class c
        # Where a sample changes sides; those of the class move away from its rivals.
        ties = np.where(mine, rest - here, own - here)
        order = np.argsort(ties)
        sample = mine[order], ties[order], (rest - own)[order]
        tried = np.unique(_spaced(sample[1], places).astype(np.int64))
        values = np.append(offset[c], tried)
        won = _mass_won(masses[0][order], *sample, steps, values)
        (alike,) = _mass_won(masses[1][order], *sample, [0], values)
        sums = np.where((won[0] >= least[0]) & (alike >= least[1]), np.sum(won, axis=0), -1)
        pick = int(sums.argmax())
        if sums[pick] > best:
            best, offset[c] = sums[pick], values[pick]
    return offset - offset.min()


def margin_offsets(
    distance: np.ndarray, y: np.ndarray, weights: np.ndarray, width: int, most: int
) -> np.ndarray:
    """Return (K,) int64 offsets with which the mean margin of samples, up to `most`, is large.

    Objective clip trains boxes to the same end. But shifting a class by a feature hardly changes
    the mean: what it wins, its neighbours lose. So where training ends depends on the order of its
    batches, and certified accuracies at single radii do, too. These offsets are found from many
    samples at once. Class by class, the best of some shifts is made until none helps.

    All classes count alike, and margins below 0 a quarter more, down to where a constant prediction
    loses. The mean recall of the classes falls by one per cent at most, and that of each class by
    five: no class is given up for margins of the others. Where a class has no sample with weight,
    nothing is known of it, and all offsets are 0.

    distance (N, K) are class distances in units, y (N,) class indices, weights (N,) what samples
    count in their class, width what rewriting one feature moves a class distance by, and `most` is
    in units.
    """
    rows, n_classes = np.arange(len(y)), distance.shape[1]
    offset = np.zeros(n_classes, np.int64)
    of_class = np.bincount(y, weights, minlength=n_classes)
    if n_classes < 2 or not of_class.all():
        return offset
    # All masses of a class add up to nearly `whole`, and no sum leaves int64.
    whole = min(2**24, 2**59 // (n_classes * max(most, 1)))
    mass = np.rint(weights / of_class[y] * whole).astype(np.int64)
    shifts = np.rint(_SHIFTS * width).astype(np.int64)
    rivals = np.ascontiguousarray(distance.T, np.int64)
    own = rivals[y, rows].copy()
    rivals[y, rows] = UNREACHABLE
    recall = np.bincount(y, mass * (rivals.min(axis=0) > own), n_classes)
    least = np.append(recall - _RECALL_LOST * whole, recall.sum() - _LOSS * n_classes * whole)
    for _ in range(_ROUNDS):
        before = offset.copy()
        for c in range(n_classes):
            here, mine = rivals[c].copy(), y == c
            rivals[c] = UNREACHABLE
            rest = rivals.min(axis=0)  # the nearest rival but for class c
            won = []
            for shift in shifts:
                margin = np.where(mine, rest - shift, np.minimum(rest, here + shift)) - own
                recall = np.bincount(y, mass * (margin > 0), n_classes)
                fair = shift == 0 or (np.append(recall, recall.sum()) >= least).all()
                won.append(_clipped_sum(margin, mass, most, n_classes) if fair else -(2**63))
            shift = shifts[int(np.argmax(won))]
            offset[c] += shift
            rivals[c] = np.where(mine, here, here + shift)
            own += shift * mine
        if (offset == before).all():
            break
    return offset - offset.min()


def _clipped_sum(margin: np.ndarray, mass: np.ndarray, most: int, n_classes: int) -> int:
    """Return the sum of clipped margins, times 4, for `margin_offsets`."""
    clipped = np.clip(margin, -(most // (n_classes - 1)), most)
    return int(mass @ np.where(clipped < 0, 5 * clipped, 4 * clipped))


def _between(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where, in so many sorted values, those are that have `_SHARES` below them."""
    at = _SHARES * (count - 1)
    return at.astype(np.int64), at % 1


def _spaced(ascending: np.ndarray, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return what `np.quantile` does, which would sort once more: most of the time this takes."""
    below, part = places
    low, high = ascending[below], ascending[np.minimum(below + 1, len(ascending) - 1)]
    return np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))


def _mass(weights: np.ndarray) -> np.ndarray:
    """Return weights (N,) as integers, whose sums are exact in any order."""
    return np.rint(weights * (_MOST_MASS / (weights.max() or 1.0))).astype(np.int64)


def _mass_won(
    mass: np.ndarray,
    mine: np.ndarray,
    ties: np.ndarray,
    rest: np.ndarray,
    steps: Sequence[int],
    values: np.ndarray,
) -> list[np.ndarray]:
    """Return (V,) the mass of samples with a margin above each step, by the offset of a class.

    A sample of the class, `mine`, has the margin ``ties - value``, and another one the smaller of
    ``value - ties`` and what the nearest of the other rivals leaves, `rest`. Ties ascend.
    """
    of_class, of_others = np.zeros((2, len(mass) + 1), np.int64)
    np.cumsum(mass * mine, out=of_class[1:])
    others, found = mass * ~mine, []
    for step in steps:
        np.cumsum(others * (rest > step), out=of_others[1:])
        lost = of_class[np.searchsorted(ties, values + step, side="right")]
        gained = of_others[np.searchsorted(ties, values - step)]
        found.append(of_class[-1] - lost + gained)
    return found
