"""Offsets of classes: constants that are added to class distances once boxes are trained.

`class_offsets` lifts the recall of classes that are given up. `even_offsets` and `margin_offsets`
fit offsets to margins of training rows, for tables and for images. All of it is done in integers,
so that offsets are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from boxnn_numba.backends.box_layout import UNREACHABLE
from boxnn_numba.training.selection import ENOUGH_SAMPLES

#: Most times that `class_offsets` moves a class.
_MOVES = 50
#: Radii, in features, at which margins are counted by `even_offsets`; shares of the steps tried.
_MARGINS, _SHARES = (0, 1, 2, 4), np.linspace(0.02, 0.98, 49)
#: Accuracy that offsets may cost, and how often each class is looked at.
_LOSS, _SWEEPS = 0.01, 2
#: What the heaviest sample of `even_offsets` weighs as an integer.
_EVEN_MASS = 2**30
#: Shifts of a class that `margin_offsets` compares, in features. No shift comes first, as the first
#: of equals is taken.
_SHIFTS = np.array([0.0, *(sign * 2.0**power for power in range(-2, 6) for sign in (-1, 1))])
#: Most rounds of all classes, and what the heaviest of its samples weighs as an integer.
_ROUNDS, _MARGIN_MASS = 40, 2**16
#: What margins below 0 count, and others 4.
_STEEPER = 5


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
        recall = np.where(counts < ENOUGH_SAMPLES, 1.0, right / np.maximum(counts, 1))
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
    masses = [
        _mass(of_rows, _EVEN_MASS)
        for of_rows in (weights, 1.0 / np.bincount(y, minlength=n_classes)[y])
    ]
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

    All classes count alike, so that no rare one is given up. Margins below 0 count a quarter more,
    down to where a constant prediction loses.

    distance (N, K) are class distances in units, y (N,) class indices, weights (N,) what samples
    count in their class, width what rewriting one feature moves a class distance by, and `most` is
    in units.
    """
    rows, n_classes = np.arange(len(y)), distance.shape[1]
    shifts = np.rint(_SHIFTS * width).astype(np.int64)
    of_class = np.bincount(y, weights, minlength=n_classes)
    mass = _mass(weights / np.where(of_class > 0, of_class, 1.0)[y], _MARGIN_MASS)
    least = -(most // max(1, int((of_class > 0).sum()) - 1))  # before it is made `_STEEPER`
    offset = np.zeros(n_classes, np.int64)
    for _ in range(_ROUNDS):
        before = offset.copy()
        for c in range(n_classes):
            moved = distance + offset
            own, here, mine = moved[rows, y], moved[:, c].copy(), y == c
            moved[rows, y] = moved[:, c] = UNREACHABLE
            rest = moved.min(axis=1)  # the nearest rival but for class c
            won = []
            for shift in shifts:
                rival = np.where(mine, rest - shift, np.minimum(rest, here + shift))
                margin = np.clip(rival - own, least, most)
                won.append(int(mass @ np.where(margin < 0, _STEEPER * margin, 4 * margin)))
            offset[c] += shifts[int(np.argmax(won))]
        if (offset == before).all():
            break
    return offset - offset.min()


def _between(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where, in so many sorted values, those are that have `_SHARES` below them."""
    at = _SHARES * (count - 1)
    return at.astype(np.int64), at % 1


def _spaced(ascending: np.ndarray, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return what `np.quantile` does, which would sort once more: most of the time this takes."""
    below, part = places
    low, high = ascending[below], ascending[np.minimum(below + 1, len(ascending) - 1)]
    return np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))


def _mass(weights: np.ndarray, most: int) -> np.ndarray:
    """Return weights (N,) as integers up to `most`, whose sums are exact in any order."""
    return np.rint(weights * (most / (weights.max() or 1.0))).astype(np.int64)


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
