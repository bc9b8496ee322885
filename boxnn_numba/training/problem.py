"""Problem: options, soft-min and objective of a run, in the integer form that kernels take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from boxnn_numba.errors import OptionError
from boxnn_numba.training.options import TrainingOptions

#: Coefficients d objective / d distance are rounded to multiples of 1 / FIXED_POINT.
FIXED_POINT = float(2**20)
#: Weights of the soft-min are rounded to multiples of 2 ** -WEIGHT_BITS of the largest.
WEIGHT_BITS = 30

_KINDS = {"paper": 0, "clip": 1, "target": 2}


class SoftMin(NamedTuple):
    """A soft-min of integer distances.

    Attributes
    ----------
    table
        int64, the weight of a distance k units above the minimum.
    cutoff
        Largest k of non-zero weight.
    tau_per_unit
        tau times the distance of one unit, 0 where the coefficients are the weights.
    unit
        Distance of one unit.
    one
        Weight at k = 0.
    log_scale
        1 / tau for log-sum-exp, else 0.
    """

    table: np.ndarray
    cutoff: int
    tau_per_unit: float
    unit: float
    one: float
    log_scale: float


class Objective(NamedTuple):
    """Kind (0 paper, 1 clip, 2 target), clip or target margin, sharpness, and share of clip."""

    kind: int
    bound: float
    sharpness: float
    keep: float


def softmin(options: TrainingOptions, max_distance: int) -> SoftMin:
    """Tabulate the weights exp(-tau k unit) of a soft-min (Eq. 12) as integers.

    The weight depends on the integer k alone, so one table replaces every
    exponential of the run, exact to half a unit in the last place of the table;
    sums of integers make the result independent of their order. No distance is above
    `max_distance`, in units.
    """
    unit, tau = options.unit, options.tau
    if options.softmin == "hard":
        return SoftMin(np.ones(1, np.int64), 0, 0.0, unit, 1.0, 0.0)
    if options.softmin == "mean":
        return SoftMin(np.ones(1, np.int64), max_distance, 0.0, unit, 1.0, 0.0)
    length = int((WEIGHT_BITS + 1) * np.log(2.0) / (tau * unit)) + 2
    k = np.arange(min(length, max_distance + 1), dtype=np.float64)
    # The sum of k * weight over all boxes must stay below 2 ** 63.
    largest = float(np.max(k * np.exp(-tau * unit * k), initial=1.0)) * options.boxes
    bits = min(WEIGHT_BITS, int(62 - np.ceil(np.log2(largest))))
    table = np.rint(np.exp(-tau * unit * k) * 2.0**bits).astype(np.int64)
    cutoff = int(np.flatnonzero(table)[-1])
    lse = options.softmin == "logsumexp"
    return SoftMin(
        table[: cutoff + 1], cutoff, 0.0 if lse else tau * unit, unit, 2.0**bits, lse / tau
    )


def objective(options: TrainingOptions) -> Objective:
    """Return the objective of a run in the form that the kernels take."""
    bound = 2.0 * options.radius if options.objective == "target" else options.beta
    return Objective(_KINDS[options.objective], bound, options.sharpness, options.keep)


@dataclass(frozen=True)
class Problem:
    """What a step needs besides boxes and a batch; the tables of a run.

    Attributes
    ----------
    options
        All settings.
    offsets
        (K + 1,) boxes ``offsets[c]:offsets[c + 1]`` are of class c.
    softmin, objective
        What a sample asks for.
    """

    options: TrainingOptions
    offsets: np.ndarray
    softmin: SoftMin
    objective: Objective

    @classmethod
    def of(
        cls, options: TrainingOptions, labels: np.ndarray, n_classes: int, n_features: int
    ) -> Problem:
        """Return the problem of boxes with these ascending labels (M,).

        Raises
        ------
        OptionError
            Distances of so many features do not fit an integer.
        """
        largest = {"graded": options.forward_width, "l1": 510, "l2": 2 * 255**2}
        reach = largest[options.relaxation] * n_features
        if reach >= 2**31:
            raise OptionError(
                f"relaxation {options.relaxation} overflows with {n_features} features; use graded"
            )
        offsets = np.searchsorted(labels, np.arange(n_classes + 1))
        return cls(options, offsets, softmin(options, reach), objective(options))

    def aimed(self, options: TrainingOptions, aim: TrainingOptions) -> Problem:
        """Return this problem with other options, and with the objective of `aim`."""
        return replace(self, options=options, objective=objective(aim))
