"""Stages of a step: from the distances of some samples to the few boxes that they move.

    distances (rows, M), boxes sorted by class          entries, the non-zero coefficients
                                                        d objective / d distance
    class       0  0  0 | 1  1  1  1 | 2  2
    sample 0    5  9  7 | 2  3  8  8 | 6  9   y = 1     sample   box   coefficient
    sample 1    ...                                        0      3      -733,213   own side:
                                                           0      4      -271,022   come nearer
        own side: class 1, nearest 2                       0      0       912,007   rivals:
        rivals: the others, nearest 5                      0      7        71,450   go away
                                                           1     ...

Where boxes are rows of templates, they are assembled first: the distance to a template is the sum
over its parts of the soft-min over its rows, in fixed point. All that follows is of templates, and
in the end their entries are spread over the rows of each part, over *cells* ``row * P + part``.

Each stage takes what all boxes say, and where boxes come in shards (of a cluster), what the shards
say combines exactly, so the bits do not depend on the split:

    nearest   the distance to the nearest box of each class, (rows, K)       shards: the minimum
    sides     which class is the own side; the nearest own and rival box
    weigh     sums of the soft-min's weights on both sides, integers         shards: the sum
    judge     objective, soft margin, and d objective / d margin
    emit      the entries, in fixed point                                    shards: one by one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.backends.box_layout import UNREACHABLE, BoxTable
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.kernels import training
from boxnn_numba.training.problem import FIXED_POINT, Problem

#: Samples whose distances to all boxes a thread keeps at a time.
BLOCK_SAMPLES = 64
#: Smallest coefficient of a row of a template that moves it. Of the pull of MNIST's samples, 0.5%
#: is below; it is three quarters of the entries, and half of the cells that would be moved.
LEAST = FIXED_POINT / 256
# Entries per sample that there is room for at first.
_ROOM = 64


@dataclass
class Entries:
    """The non-zero coefficients d objective / d distance of a batch, in fixed point.

    Attributes
    ----------
    samples, boxes
        int32, which distance: to a box, or in one part to it, numbered ``box * P + part``.
    coefficients
        int64, times FIXED_POINT.
    """

    samples: np.ndarray
    boxes: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def empty(cls, capacity: int) -> Entries:
        """Return room for `capacity` entries."""
        return cls(
            np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.int64)
        )

    @classmethod
    def join(cls, parts: Sequence[Entries]) -> Entries:
        """Return all entries in order."""
        sides = zip(*(part.arrays() for part in parts), strict=True)
        return cls(*(np.concatenate(side) for side in sides))

    def shifted(self, samples: int = 0, boxes: int = 0) -> Entries:
        """Return these entries with larger numbers of samples and boxes."""
        return Entries(
            self.samples + np.int32(samples), self.boxes + np.int32(boxes), self.coefficients
        )

    def first(self, count: int) -> Entries:
        """Return copies of the first `count` entries."""
        return Entries(*(array[:count].copy() for array in self.arrays()))

    def grown(self, count: int, capacity: int) -> Entries:
        """Return room for `capacity` entries that begins with the first `count` of these."""
        room = Entries.empty(capacity)
        for target, source in zip(room.arrays(), self.arrays(), strict=True):
            target[:count] = source[:count]
        return room

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the three arrays as the kernels take them."""
        return self.samples, self.boxes, self.coefficients


class SoftMinStages:
    """What some samples are known to say, stage by stage; see the module.

    Parameters
    ----------
    labels
        (rows,) int32 class indices.
    problem
        The tables of the run.

    Attributes
    ----------
    minima
        (rows, K) int32, what `nearest` has found.
    own, sign, least
        (rows,) int32 own class, (rows,) its sign, and (rows, 2) int32 distances to the nearest own
        box and the nearest rival, of `sides`.
    masses
        (rows, 4) int64 sums of `weigh`: weights, and weights times distances, own and rivals.
    value, margin, slope
        (rows,) float64 of `judge`.
    """

    def __init__(self, labels: np.ndarray, problem: Problem) -> None:
        rows = len(labels)
        self.labels, self.problem = labels, problem
        self.minima = np.full((rows, len(problem.offsets) - 1), UNREACHABLE, np.int32)
        self.own, self.sign = np.empty(rows, np.int32), np.empty(rows)
        self.least = np.empty((rows, 2), np.int32)
        self.masses = np.zeros((rows, 4), np.int64)
        self.value, self.margin, self.slope = np.empty(rows), np.empty(rows), np.empty(rows)

    def nearest(self, distance: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Take in the distances to some boxes, where classes begin at `offsets`; return minima."""
        training.nearest(distance, len(self.labels), offsets, self.minima)
        return self.minima

    def sides(self) -> None:
        """Decide on the own side and the rivals, once all minima are in."""
        kind = self.problem.objective.kind
        training.choose_sides(self.minima, self.labels, kind, self.own, self.sign, self.least)

    def weigh(self, distance: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Take in the soft-min weights of some boxes; return masses."""
        table, cutoff = self.problem.softmin.table, self.problem.softmin.cutoff
        training.weigh(distance, self.own, offsets, self.least, table, cutoff, self.masses)
        return self.masses

    def judge(self) -> None:
        """Evaluate the objective, once all masses are in."""
        training.judge(
            self.sign, self.least, self.masses, tuple(self.problem.softmin),
            tuple(self.problem.objective), self.value, self.margin, self.slope,
        )  # fmt: skip

    def emit(
        self,
        distance: np.ndarray,
        offsets: np.ndarray,
        first: int = 0,
        room: Entries | None = None,
        count: int = 0,
    ) -> tuple[Entries, int]:
        """Append the entries of some boxes to the first `count` in `room`.

        The samples are numbered from `first`. Returns the room, a larger one where it was needed,
        and how many entries are in it.
        """
        room = Entries.empty(_ROOM * len(self.labels)) if room is None else room
        while True:
            after = training.emit(
                distance, first, self.own, offsets, self.least, self.masses, self.slope,
                tuple(self.problem.softmin), FIXED_POINT, room.arrays(), count,
            )  # fmt: skip
            if after <= len(room.boxes):
                return room, int(after)
            room = room.grown(count, 2 * after)


class Distances:
    """Distances of some samples to boxes in training, or to the templates that these make up.

    Parameters
    ----------
    samples
        Codes, laid out by the backend.
    boxes
        Operands of the backend, of `count` boxes of a structure.
    labels, problem
        As for `SoftMinStages`.

    Attributes
    ----------
    values
        (>= rows, boxes or templates) int32.
    """

    def __init__(
        self,
        backend: CpuBackend,
        samples: np.ndarray,
        boxes: Any,
        structure: Structure,
        labels: np.ndarray,
        problem: Problem,
    ) -> None:
        options, count = problem.options, int(structure.rows[-1])
        self._structure, self._problem = structure, problem
        width, relaxation = options.forward_width, options.relaxation
        if problem.rows is None:
            self.values = backend.distances(samples, boxes, (0, count), width, relaxation)
            return
        self._sums = backend.part_sums(samples, boxes, width)
        lanes = self._sums.totals.shape[3]
        self._place = self._sums.segment, self._sums.quarter, lanes // 4
        self.values = np.empty((len(labels), len(structure.rows) - 1), np.int32)
        rows = problem.rows
        training.assemble(lanes)(
            self._sums.totals, len(labels), self._place, structure.rows, structure.templates,
            labels, problem.objective.kind == 0, tuple(rows.softmin), rows.shift, rows.slack,
            self.values,
        )  # fmt: skip

    def emit(
        self,
        stages: SoftMinStages,
        offsets: np.ndarray,
        first: int = 0,
        room: Entries | None = None,
        filled: int = 0,
    ) -> tuple[Entries, int]:
        """Append the entries of cells, as `SoftMinStages.emit` does those of boxes or templates."""
        rows = self._problem.rows
        if rows is None:
            return stages.emit(self.values, offsets, first, room, filled)
        found, count = stages.emit(self.values, offsets, first)
        room = Entries.empty(2 * count) if room is None else room
        while True:
            after = training.spread(
                self._sums.totals, first, self._place, self._structure.rows, tuple(rows.softmin),
                found.arrays(), count, LEAST, room.arrays(), filled,
            )  # fmt: skip
            if after <= len(room.boxes):
                return room, int(after)
            room = room.grown(filled, 2 * after)


def forward(
    backend: CpuBackend, table: BoxTable, x: np.ndarray, labels: np.ndarray, problem: Problem
) -> tuple[Entries, np.ndarray, np.ndarray]:
    """Return what a batch says of the boxes; changes nothing.

    x are codes (batch, n), which are laid out block by block, and labels (batch,) int32 class
    indices. Returns the entries in the order of the samples, and objective and margin of every
    sample, (batch,) float64.
    """
    structure, offsets = problem.structure, problem.offsets
    values, margins = np.empty(len(labels)), np.empty(len(labels))
    boxes = backend.operands(table, structure, problem.options.relaxation)

    def work(first: int, last: int) -> Entries:
        room, count = Entries.empty(_ROOM * (last - first)), 0
        for block in range(first, last, BLOCK_SAMPLES):
            stop = min(last, block + BLOCK_SAMPLES)
            samples, some = backend.samples(x[block:stop], table.frame), labels[block:stop]
            distances = Distances(backend, samples, boxes, structure, some, problem)
            stages = SoftMinStages(some, problem)
            stages.nearest(distances.values, offsets)
            stages.sides()
            stages.weigh(distances.values, offsets)
            stages.judge()
            room, count = distances.emit(stages, offsets, block, room, count)
            values[block:stop], margins[block:stop] = stages.value, stages.margin
        return room.first(count)

    parts = backend.parallel(len(labels), BLOCK_SAMPLES, work)
    return Entries.join(parts), values, margins
