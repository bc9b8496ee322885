"""Problem: options, soft-min and objective of a run, in the integer form that kernels take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import OptionError
from boxnn_numba.kernels import formulas
from boxnn_numba.training.options import TrainingOptions

#: Coefficients d objective / d distance are rounded to multiples of 1 / FIXED_POINT.
FIXED_POINT = float(2**20)
#: Weights of the soft-min are rounded to multiples of 2 ** -WEIGHT_BITS of the largest; where rows
#: recombine there are two soft-mins, and few enough are within the reach of so many bits.
WEIGHT_BITS, PART_BITS = 30, 22
#: Distances to templates are rounded to at least so many to a feature.
_RESOLUTION = 1024

_KINDS = {"paper": formulas.PAPER, "clip": formulas.CLIP, "target": formulas.TARGET}


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
    """Kind (as of `formulas`), clip or target margin, sharpness, and share of clip."""

    kind: int
    bound: float
    sharpness: float
    keep: float


def softmin(
    options: TrainingOptions, max_distance: int, shift: int = 0, most_bits: int = WEIGHT_BITS
) -> SoftMin:
    """Tabulate the weights exp(-tau k unit) of a soft-min (Eq. 12) as integers.

    The weight depends on the integer k alone, so one table replaces every
    exponential of the run, exact to half a unit in the last place of the table;
    sums of integers make the result independent of their order. No distance is above
    `max_distance`, in units of 2 ** -shift.
    """
    unit, tau = options.unit / 2**shift, options.tau
    if options.softmin == "hard":
        return SoftMin(np.ones(1, np.int64), 0, 0.0, unit, 1.0, 0.0)
    if options.softmin == "mean":
        return SoftMin(np.ones(1, np.int64), max_distance, 0.0, unit, 1.0, 0.0)
    length = int((most_bits + 1) * np.log(2.0) / (tau * unit)) + 2
    k = np.arange(min(length, max_distance + 1), dtype=np.float64)
    # The sum of k * weight over all boxes must stay below 2 ** 63.
    largest = float(np.max(k * np.exp(-tau * unit * k), initial=1.0)) * options.boxes
    bits = min(most_bits, int(62 - np.ceil(np.log2(largest))))
    table = np.rint(np.exp(-tau * unit * k) * 2.0**bits).astype(np.int64)
    cutoff = int(np.flatnonzero(table)[-1])
    lse = options.softmin == "logsumexp"
    return SoftMin(
        table[: cutoff + 1], cutoff, 0.0 if lse else tau * unit, unit, 2.0**bits, lse / tau
    )


def largest_excess(soft: SoftMin, count: int) -> int:
    """Return how far the soft-min of `count` integer distances can be above their minimum.

    That is the largest v with ``one * v <= (count - 1) * max_k w_k (k - v)``: all others are best
    at one and the same k.
    """
    if soft.log_scale > 0.0:
        return 0
    k = np.arange(len(soft.table), dtype=np.float64)
    low, high = 0, soft.cutoff
    if len(soft.table) == 1:
        return high  # hard, or all weigh the same
    while low < high:
        v = (low + high + 1) // 2
        reached = (count - 1) * float((soft.table * (k - v)).max()) >= soft.one * v
        low, high = (v, high) if reached else (low, v - 1)
    return low + 1


def objective(options: TrainingOptions, warm: bool = False) -> Objective:
    """Return the objective of a run, or of its warm-up, in the form that the kernels take."""
    kind = formulas.CLIP if warm else _KINDS[options.objective]
    bound = 2.0 * options.radius if kind == formulas.TARGET else options.beta
    return Objective(kind, bound, options.sharpness, options.keep)


class Recombination(NamedTuple):
    """Soft-min over the rows of a template in each part.

    Attributes
    ----------
    softmin
        Over the rows, of distances in units.
    shift
        Distances to templates are in units of 2 ** -shift.
    slack
        Units beyond which a template that is farther than another one of its side, each by its
        nearest rows, has no weight.
    """

    softmin: SoftMin
    shift: int
    slack: int


@dataclass(frozen=True)
class Problem:
    """The tables of a run: all that a step needs besides boxes and a batch.

    Attributes
    ----------
    options
        All settings.
    structure
        Of the boxes: of one part, where the nearest row alone decides.
    softmin, objective
        What a sample asks for; the soft-min is over templates.
    rows
        Over the rows of a template; None where each row is one.
    """

    options: TrainingOptions
    structure: Structure
    softmin: SoftMin
    objective: Objective
    rows: Recombination | None = None

    @classmethod
    def of(cls, options: TrainingOptions, structure: Structure) -> Problem:
        """Return the problem of boxes of a structure.

        Raises
        ------
        OptionError
            Distances of so many features do not fit an integer, or a relaxation is for plain boxes.
        """
        n_features = len(structure.part)
        largest = {"l1": 510, "l2": 2 * 255**2}
        reach = largest.get(options.relaxation, options.forward_width) * n_features
        if reach >= 2**31:
            raise OptionError(
                f"relaxation {options.relaxation} overflows with {n_features} features; use graded"
            )
        structure = structure.simplest
        if options.relaxation in largest and not (structure.is_plain and not structure.is_grouped):
            raise OptionError(
                f"relaxation {options.relaxation} is for boxes without parts and groups; pass "
                "`parts` 1 and `group_size` 1, or use graded"
            )
        if structure.is_plain:
            return cls(options, structure, softmin(options, reach), objective(options))
        shift = 0
        while options.forward_width << shift < _RESOLUTION and reach << shift + 2 < 2**30:
            shift += 1
        rows = softmin(options, reach, 0, PART_BITS)
        above = softmin(options, reach << shift, shift, PART_BITS)
        most = int(np.diff(structure.rows).max())
        excess = largest_excess(rows, most)
        fall = int(np.ceil(np.log(most) * rows.log_scale / options.unit)) if rows.log_scale else 0
        slack = structure.n_parts * (excess + fall + 1) + (above.cutoff >> shift) + 1
        folded = Recombination(rows, shift, min(slack, 2**30))
        return cls(options, structure, above, objective(options), folded)

    @property
    def offsets(self) -> np.ndarray:
        """(K + 1,) int64: templates ``offsets[c]:offsets[c + 1]`` are of class c."""
        return self.structure.templates

    @property
    def n_classes(self) -> int:
        """Number K of classes."""
        return len(self.offsets) - 1

    def aimed(self, options: TrainingOptions, warm: bool) -> Problem:
        """Return this problem with other options, and with their objective or its warm-up."""
        return replace(self, options=options, objective=objective(options, warm))
