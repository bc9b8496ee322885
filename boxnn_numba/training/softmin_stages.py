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

The distances are of blocks of samples, a sample to a lane, and the entries come block by block
and in each box by box (`Pulls`), as the boxes are moved: nothing is sorted.

Each stage takes what all boxes say, and where boxes come in shards (of a cluster), what the shards
say combines exactly, so the bits do not depend on the split:

    nearest   the distance to the nearest box of each class, (rows, K)       shards: the minimum
    sides     which class is the own side; the nearest own and rival box
    weigh     sums of the soft-min's weights on both sides, integers         shards: the sum
    judge     objective, soft margin, and d objective / d margin
    emit      the entries, in fixed point                                    shards: one by one
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.backends.box_layout import UNREACHABLE, BoxTable, packed_frame, round_up
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.kernels import formulas, softmin, training
from boxnn_numba.kernels.block_distances import BLOCK
from boxnn_numba.training.problem import FIXED_POINT, Problem

#: Smallest coefficient of a row of a template that moves it. Of the pull of MNIST's samples, 0.5%
#: is below; it is three quarters of the entries, and half of the cells that would be moved.
LEAST = FIXED_POINT / 256
# Entries of a block that there is room for at first.
_ROOM = 64 * BLOCK
#: Samples that a thread gets are a multiple of this.
_GRAIN = BLOCK // 4


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

    def first(self, count: int) -> Entries:
        """Return copies of the first `count` entries."""
        return Entries(*(array[:count].copy() for array in self.arrays()))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the three arrays as the kernels take them."""
        return self.samples, self.boxes, self.coefficients


@dataclass
class Pulls:
    """Entries of a batch, by block of samples and in each by box, or cell: what moves the boxes.

    Attributes
    ----------
    bounds
        (B + 1,) int64: block b has samples ``bounds[b]:bounds[b + 1]``, or any.
    starts
        (B, C + 1) int32: entries ``starts[b, m]:starts[b, m + 1]`` of block b are of box or cell m.
    samples, coefficients
        (B, room) int32, as those of `Entries`.
    """

    bounds: np.ndarray
    starts: np.ndarray
    samples: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def room(cls, bounds: np.ndarray, cells: int, known: Pulls | None = None) -> Pulls:
        """Return room for blocks: that of `known` if it has as many, or as much a block of it."""
        blocks = len(bounds) - 1
        if known is not None and known.starts.shape == (blocks, cells + 1):
            return cls(bounds, known.starts, known.samples, known.coefficients)
        starts = np.zeros((blocks, cells + 1), np.int32)
        alike = known is not None and known.starts.shape[1] == cells + 1
        size = known.samples.shape[1] if known is not None and alike else _ROOM
        return cls(bounds, starts, *np.empty((2, blocks, size), np.int32))

    def grown(self, size: int) -> Pulls:
        """Return room for `size` entries of a block and more."""
        shape = (2, len(self.starts), size + size // 4)
        return Pulls(self.bounds, self.starts, *np.empty(shape, np.int32))

    def filled(self, write: Callable[..., int]) -> Pulls:
        """Let `write` write entries to starts, samples and coefficients; return them.

        It returns the most entries of a block. If they do not fit, it is called with more room.
        """
        pulls = self
        while True:
            most = write(pulls.starts, pulls.samples, pulls.coefficients)
            if most <= pulls.samples.shape[1]:
                return pulls
            pulls = pulls.grown(most)

    @classmethod
    def of(cls, entries: Entries, cells: int) -> Pulls:
        """Return entries in any order as one block."""
        pulls = cls(np.zeros(2, np.int64), np.zeros((1, cells + 1), np.int32),
                    *np.empty((2, 1, len(entries.boxes)), np.int32))  # fmt: skip
        training.sort_by_box(
            *entries.arrays(), pulls.starts[0], pulls.samples[0], pulls.coefficients[0]
        )
        return pulls

    def entries(self) -> Entries:
        """Return them one by one: a block after the other, and in each by box."""
        parts = []
        for starts, samples, coefficients in zip(
            self.starts, self.samples, self.coefficients, strict=True
        ):
            boxes = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
            count = int(starts[-1])
            parts.append(Entries(samples[:count], boxes, coefficients[:count].astype(np.int64)))
        return Entries.join(parts)

    def most_cost(self) -> int:
        """Return about how much work it is to move all cells, at most, which is soon known."""
        return int(self.starts[:, -1].sum()) + (_CELL_COST + 1) * (self.starts.shape[1] - 1)

    def costs(self) -> np.ndarray:
        """Return (C + 1,) int64 about how much work it is to move all cells before each."""
        before = self.starts.sum(axis=0, dtype=np.int64)
        touched = np.diff(before) > 0
        before[1:] += _CELL_COST * np.cumsum(touched)
        return before


#: Work of moving a cell, in entries.
_CELL_COST = 4


@functools.cache
def block_bounds(rows: int, threads: int = 1) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Split samples among threads, and those into blocks.

    Returns the bounds of the blocks, (B + 1,) int64, and first and last block of each thread.
    """
    size = round_up(-(-rows // threads), _GRAIN)
    bounds, pieces = [0], []
    for first in range(0, rows, size):
        last, begin = min(rows, first + size), len(bounds) - 1
        bounds += [*range(first + BLOCK, last, BLOCK), last]
        pieces.append((begin, len(bounds) - 1))
    return np.array(bounds), pieces


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
        self.bounds, _ = block_bounds(rows)

    def nearest(self, distance: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Take in the distances to some boxes, where classes begin at `offsets`; return minima."""
        softmin.nearest(distance, self.bounds, offsets, self.minima)
        return self.minima

    def sides(self) -> None:
        """Decide on the own side and the rivals, once all minima are in."""
        kind = self.problem.objective.kind
        softmin.choose_sides(self.minima, self.labels, kind, self.own, self.sign, self.least)

    def weigh(self, distance: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Take in the soft-min weights of some boxes; return masses."""
        table, cutoff = self.problem.softmin.table, self.problem.softmin.cutoff
        softmin.weigh(
            distance, self.bounds, offsets, self.own, self.least, table, cutoff, self.masses
        )
        return self.masses

    def judge(self) -> None:
        """Evaluate the objective, once all masses are in."""
        softmin.judge(
            self.sign, self.least, self.masses, tuple(self.problem.softmin),
            tuple(self.problem.objective), self.value, self.margin, self.slope,
        )  # fmt: skip

    def emit(self, distance: np.ndarray, offsets: np.ndarray) -> Pulls:
        """Return the entries of some boxes."""
        return Pulls.room(self.bounds, int(offsets[-1])).filled(functools.partial(
            softmin.emit, distance, self.bounds, offsets, self.own, self.least, self.masses,
            self.slope, tuple(self.problem.softmin), FIXED_POINT,
        ))  # fmt: skip


class Distances:
    """Distances of some samples to boxes in training, or to the templates that these make up.

    Parameters
    ----------
    samples
        Codes (rows, n).
    table
        Boxes of a structure, in a packed frame.
    labels, problem
        As for `SoftMinStages`.

    Attributes
    ----------
    values
        (B, boxes or templates, BLOCK) int32.
    """

    def __init__(
        self,
        backend: CpuBackend,
        samples: np.ndarray,
        table: BoxTable,
        structure: Structure,
        labels: np.ndarray,
        problem: Problem,
    ) -> None:
        self._structure, self._problem = structure, problem
        self._bounds, _ = block_bounds(len(labels))
        _, spans = packed_frame(structure)
        blocks, options = len(self._bounds) - 1, problem.options
        self._apart = np.zeros((blocks, len(spans) * len(table.lower), BLOCK), np.int32)
        softmin.measure(options.relaxation)(
            backend.samples(samples, table.frame), self._bounds, table.lower, table.upper, spans,
            table.frame.planes, options.forward_width, self._apart,
        )  # fmt: skip
        self.values, rows = self._apart, problem.rows
        if rows is not None:
            self.values = np.empty((blocks, len(structure.rows) - 1, BLOCK), np.int32)
            by_class = problem.objective.kind == formulas.PAPER
            softmin.assemble(
                self._apart, self._bounds, len(spans), structure.rows, structure.templates, labels,
                by_class, tuple(rows.softmin), rows.shift, rows.slack, self.values,
            )  # fmt: skip

    def emit(self, stages: SoftMinStages, offsets: np.ndarray) -> Entries:
        """Return the entries of cells, as `SoftMinStages.emit` does those of boxes or templates."""
        found, rows = stages.emit(self.values, offsets), self._problem.rows
        if rows is None:
            return found.entries()
        structure = self._structure
        pulls = Pulls.room(self._bounds, int(structure.rows[-1]) * structure.n_parts, found)
        return pulls.filled(functools.partial(
            softmin.spread, self._apart, self._bounds, structure.n_parts, structure.rows,
            tuple(rows.softmin), (found.starts, found.samples, found.coefficients), LEAST,
        )).entries()  # fmt: skip


#: Work, in codes to be compared, that is worth a second thread.
_WORTH_THREADS = 2**22
#: What a soft-min costs for each box and sample, in codes.
_SOFTMIN_CODES = 64


def step_work(rows: int, boxes: int, features: int) -> int:
    """Return the work of looking at the samples of a step, in codes to be compared."""
    return rows * boxes * (features + _SOFTMIN_CODES)


def is_short(work: int) -> bool:
    """Return whether a step of so much work is over before a second thread would help."""
    return work <= _WORTH_THREADS


def asked(problem: Problem) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """Return structure, soft-mins and settings as `softmin.forward` takes them."""
    structure, rows, soft = problem.structure, problem.rows, tuple(problem.softmin)
    softs = soft, soft if rows is None else tuple(rows.softmin)
    shift, slack = (0, 0) if rows is None else (rows.shift, rows.slack)
    settings = tuple(problem.objective), FIXED_POINT, shift, slack, LEAST
    return (structure.rows, structure.templates), softs, settings


def pulls_of(
    backend: CpuBackend,
    table: BoxTable,
    x: np.ndarray,
    labels: np.ndarray,
    problem: Problem,
    spans: np.ndarray,
    room: Pulls | None,
) -> tuple[Pulls, np.ndarray, np.ndarray]:
    """Return what a batch says of the boxes; changes nothing.

    x are codes (batch, columns) as the table's frame has them, which is packed with these spans;
    `room` is that of a step before. Also returns objective and margin of every sample.
    """
    options = problem.options
    values, margins = np.empty(len(labels)), np.empty(len(labels))
    cells = table.n_boxes * len(spans)
    work = step_work(len(labels), table.n_boxes, table.n_features)
    bounds, pieces = block_bounds(len(labels), 1 if is_short(work) else backend.threads)
    kernel = softmin.forward(options.relaxation, problem.rows is not None)
    structure, softs, settings = asked(problem)

    def write(*entries: np.ndarray) -> int:
        def work_on(first: int, last: int) -> int:
            return int(kernel(
                x, bounds, first, last, labels, table.lower, table.upper, spans,
                table.frame.planes, options.forward_width, structure, softs, settings, *entries,
                values, margins,
            ))  # fmt: skip

        return max(backend.each(pieces, work_on), default=0)

    return Pulls.room(bounds, cells, room).filled(write), values, margins


#: The room of a thread's last call: one that is too small costs all the work once more.
_of_thread = threading.local()


def forward(
    backend: CpuBackend, table: BoxTable, x: np.ndarray, labels: np.ndarray, problem: Problem
) -> tuple[Entries, np.ndarray, np.ndarray]:
    """Return what a batch says of the boxes; changes nothing.

    x are codes (batch, n) and labels (batch,) int32 class indices; the table is packed. Returns the
    entries, and objective and margin of every sample, (batch,) float64.
    """
    samples, (_, spans) = backend.samples(x, table.frame), packed_frame(problem.structure)
    room = getattr(_of_thread, "room", None)
    pulls, values, margins = pulls_of(backend, table, samples, labels, problem, spans, room)
    _of_thread.room = pulls
    return pulls.entries(), values, margins
