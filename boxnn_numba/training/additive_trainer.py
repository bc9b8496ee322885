"""Additive trainer: boxes as level sets of the contributions of columns to class distances.

With one template for each class and a part for each column, the distance to a class is a sum over
the columns of what their codes pay. Where that may be any number in 0..1, the mean clipped margin
is a concave function of it but for the choice of the rival, so its maximum is soon found. Objective
target clips margins at 0, too: samples that are wrong after the warm-up are given up for others.

Boxes of width 1 pay 0 or 1: where the codes in them are those that pay no more than a level beyond
the least of their column, sets of boxes of evenly spaced levels add up to what was found, rounded.
What all codes of a column pay is an offset of the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from boxnn_numba.errors import OptionError
from boxnn_numba.kernels import formulas
from boxnn_numba.kernels.additive import (
    ONE,
    level_sets,
    measure_contributions,
    train_contributions,
)
from boxnn_numba.training.initial_boxes import counting
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.optimizer import adam_corrections
from boxnn_numba.training.problem import Problem

#: Rows of each class that the bins are made of, and that training starts from.
_ROWS = 2000
#: Steps that are taken in one call.
_STEPS = 64
#: Below all margins.
_LOWEST = np.iinfo(np.int64).min


class Contributions:
    """What each column adds to the distance of each class, by bins of its codes.

    Attributes
    ----------
    bins
        (n, 256) uint8, the bin of each code, ascending.
    table
        (K, n, B) int32 in units of 1 / `ONE`.
    """

    def __init__(self, feed: Feed, n_classes: int, count: int) -> None:
        found = [np.flatnonzero(feed.labels == c) for c in range(n_classes)]
        taken = [rows[_spread(len(rows), _ROWS)] for rows in found if len(rows)]
        rows = np.sort(np.concatenate(taken))
        codes, labels = feed.take(rows), feed.labels[rows]
        self.bins = np.stack([_bins(column, count) for column in codes.T])
        mass = counting(feed.class_weights(n_classes))
        self.table = np.stack([
            _rivals_share(of_column[column], labels, mass, count)
            for of_column, column in zip(self.bins, codes.T, strict=True)
        ], axis=1)  # fmt: skip


def _spread(total: int, count: int) -> np.ndarray:
    """Return at most so many of some places, spread over all."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def _bins(column: np.ndarray, count: int) -> np.ndarray:
    """Return (256,) the bin of each code: of about as many rows each, or one for each code."""
    rows_of = np.bincount(column, minlength=256)
    used = np.flatnonzero(rows_of)
    number, rows = np.arange(len(used)), rows_of[used]
    if len(used) > count:
        middles = 2 * np.cumsum(rows) - rows  # twice the rows before, ties sharing theirs
        number = np.append(0, np.cumsum(np.diff(middles * count // (2 * len(column))) > 0))
    between = (used[1:] + used[:-1] + 1) // 2  # other codes are as the nearest
    places = np.searchsorted(between, np.arange(256), side="right")
    return number[places].astype(np.uint8)


def _rivals_share(
    of_row: np.ndarray, labels: np.ndarray, mass: np.ndarray, count: int
) -> np.ndarray:
    """Return (K, B) int32 contributions to start from: how much of a bin is of other classes.

    Classes count as `mass` (K,) says.
    """
    n_classes = len(mass)
    rows = np.bincount(labels * count + of_row, minlength=n_classes * count)
    rows = rows.reshape(n_classes, count)
    # The half row is for bins and classes without any.
    share = (rows + 0.5 / count) / (rows.sum(axis=1, keepdims=True) + 0.5) * mass[:, None]
    mean = share[0]
    for c in range(1, n_classes):
        mean = mean + share[c]
    mean = mean / n_classes
    return np.rint(mean / (mean + share) * ONE).astype(np.int32)


class AdditiveTrainer:
    """The contributions in training; a `boxnn_numba.training.trainer.Trainer`, on one thread.

    Parameters
    ----------
    start
        Contributions to start from.
    masters
        Boxes of the run, of which only the shape counts.
    problem
        The tables of the run.
    """

    def __init__(self, start: Contributions, masters: Pair, problem: Problem) -> None:
        if problem.structure.is_grouped:
            raise OptionError(
                "relaxation additive is of single columns; pass `group_size` 1, or another "
                "`relaxation`"
            )
        self.problem, self._bins, self._table = problem, start.bins, start.table.copy()
        rows, n = masters[0].shape
        self._bounds = np.zeros((2, problem.options.levels * rows, n), np.uint8)
        self._moments = np.zeros((2, self._table.size))
        self._constant = np.zeros(len(self._table), np.int64)
        self._steps, self._bounds_after = 0, -1  # so many steps

    def bounds(self) -> Pair:
        """Return the deployed bounds of all sets, uint8; they may change with the next step."""
        if self._bounds_after != self._steps:
            levels = self.problem.options.levels
            cuts = (2 * np.arange(levels) + 1) * ONE // (2 * levels)
            sets = self._bounds.reshape(2, levels, -1, self._bounds.shape[2])
            level_sets(self._table, self._bins, cuts, *sets, self._constant)
            self._bounds_after = self._steps
        return self._bounds[0], self._bounds[1]

    def offset(self) -> np.ndarray:
        """Return (K,) int64 what every sample pays for a class beside the bounds, in levels."""
        self.bounds()
        levels = (2 * self.problem.options.levels * self._constant + ONE) // (2 * ONE)
        return np.asarray(levels - levels.min())

    def batches(self, feed: Feed, epoch: int, size: int) -> Iterator[Pair]:
        """Return the samples and labels of an epoch as `steps` takes them."""
        return feed.batches(epoch, size, self.steps_at_once(size))

    @staticmethod
    def steps_at_once(size: int) -> int:
        """Return how many steps are taken in one call, whatever their size."""
        return _STEPS

    def steps(
        self, x: np.ndarray, labels: np.ndarray, ends: np.ndarray, rates: Sequence[float]
    ) -> Pair:
        """Improve the contributions on one batch after another, at a rate each.

        Returns objective and margin of every sample from before.
        """
        (low, high), margins = self._limits, np.empty(len(labels), np.int64)
        sizes = np.array([
            (rate, *adam_corrections(step)) for step, rate in enumerate(rates, self._steps + 1)
        ])  # fmt: skip
        train_contributions(
            x, self._bins, self._table, labels, low, high, margins, ends, self._moments, sizes,
            1 / self.problem.options.batch,
        )  # fmt: skip
        self._steps += len(rates)
        return np.clip(margins, low, high) / ONE, margins / ONE

    @property
    def _limits(self) -> tuple[int, int]:
        """Margins between these are improved."""
        objective = self.problem.objective
        return 0 if objective.kind == formulas.TARGET else _LOWEST, int(objective.bound * ONE)

    def margins(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the margins of samples (N, n) uint8, (N,) float64."""
        gradient, margins = np.zeros_like(self._table), np.empty(len(labels), np.int64)
        measure_contributions(x, self._bins, self._table, labels, *self._limits, gradient, margins)
        found: np.ndarray = margins / ONE
        return found

    @staticmethod
    def fetch(figures: list[Pair]) -> list[Pair]:
        """Return what steps returned."""
        return figures

    def state(self) -> dict[str, np.ndarray]:
        """Return contributions, moments and the number of steps."""
        return {
            "contributions": self._table.copy(),
            "moments": self._moments.copy(),
            "steps": np.array(self._steps),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        self._table, self._moments = arrays["contributions"].copy(), arrays["moments"].copy()
        self._steps, self._bounds_after = int(arrays["steps"]), -1
