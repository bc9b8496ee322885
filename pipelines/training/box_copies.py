"""Copies of the boxes on workers, which follow the client's step by step.

A step changes few codes, so the client sends what changed since the last step. A worker that
does not have the boxes of that step (it is new, or had no call then) says so, and
gets all of them. Every update is numbered; a copy moves only from the number it has to the next.
Where the boxes are split, each shard of them is a copy of its own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np

from boxnn_numba.backends.box_layout import BoxTable, box_table, packed_frame
from boxnn_numba.backends.structure import Structure
from boxnn_numba.kernels.training import find_changes, make_changes

if TYPE_CHECKING:
    from boxnn_numba.training.loader import Pair
    from boxnn_numba.training.problem import Problem


class Changes(NamedTuple):
    """What to change in the codes of boxes to get those after a step, as `find_changes` writes it.

    Attributes
    ----------
    cells
        (C,) int32, ascending: boxes in one part, ``box * P + part``.
    counts
        (C, 2) int32 changes of lower and upper.
    gaps, codes
        uint8, the changes one after the other. Columns are counted as features stand part by part
        without gaps, the same on every processor.
    """

    cells: np.ndarray
    counts: np.ndarray
    gaps: np.ndarray
    codes: np.ndarray

    @classmethod
    def join(cls, blocks: list[Changes]) -> Changes:
        """Return those of all blocks of cells, which come in any order."""
        if not blocks:
            none = np.empty(0, np.uint8)
            return cls(np.empty(0, np.int32), np.empty((0, 2), np.int32), none, none)
        blocks = sorted(blocks, key=lambda block: int(block.cells[0]))
        return cls(*(np.concatenate(side) for side in zip(*blocks, strict=True)))

    def cut(self, first: int, last: int) -> Changes:
        """Return those of cells first..last, numbered from 0."""
        a, b = np.searchsorted(self.cells, (first, last))
        begins = np.concatenate(([0], np.cumsum(self.counts.sum(axis=1))))
        inside = slice(begins[a], begins[b])
        return Changes(
            self.cells[a:b] - np.int32(first), self.counts[a:b], self.gaps[inside],
            self.codes[inside],
        )  # fmt: skip


@dataclass(frozen=True)
class BoxUpdate:
    """The boxes of a step, or a shard of them, in the form that a worker receives.

    Beside it come arrays of codes: all lower and upper bounds (M, n) in the order of the features,
    or the `Changes` since the update before, or nothing for a worker that has had the update.
    `number` counts the updates of a run. Its tables, the problem, come where they are new.
    `templates` are first and last of the shard.
    """

    run: str
    number: int
    templates: tuple[int, int]
    problem: Problem | None = None


#: An update and its arrays.
Message = tuple[Any, ...]


class BoxSender:
    """The client's end: knows what the workers were sent last."""

    def __init__(self) -> None:
        self._run, self._number = uuid4().hex, 0
        self._known: Pair | None = None
        self._blocks: list[Changes] = []
        self._changes: Changes | None = None
        self._problem: Problem | None = None
        self._new_problem: Problem | None = None

    def collect(self, cells: np.ndarray, spans: np.ndarray, shape: Any, codes: Pair) -> None:
        """Find what changed in some cells, which threads do side by side."""
        if self._known is None or not len(cells):
            return
        room = 2 * len(cells) * shape[0] * int((spans[:, 1] - spans[:, 0]).max())
        counts = np.empty((len(cells), 2), np.int32)
        gaps, changed = np.empty(room, np.uint8), np.empty(room, np.uint8)
        count = find_changes(cells, spans, shape, codes, self._known, counts, gaps, changed)
        self._blocks.append(
            Changes(cells.astype(np.int32), counts, gaps[:count].copy(), changed[:count].copy())
        )

    def advance(self, codes: Pair, problem: Problem) -> None:
        """Begin the next update, which takes the workers to these codes."""
        self._number += 1
        self._changes = None if self._known is None else Changes.join(self._blocks)
        self._blocks = []
        if self._known is None:
            self._known = codes[0].copy(), codes[1].copy()
        self._new_problem = problem if problem is not self._problem else None
        self._problem = problem

    def changes(self, templates: tuple[int, int]) -> Message | None:
        """Return the update of some templates for who has the one before; None for the first."""
        assert self._problem is not None
        if self._changes is None:
            return None
        structure = self._problem.structure
        first, last = structure.n_parts * structure.rows[list(templates)]
        return (self._update(templates, self._new_problem), *self._changes.cut(first, last))

    def whole(self, templates: tuple[int, int], table: BoxTable) -> Message:
        """Return the update of some templates for a worker that knows nothing."""
        assert self._problem is not None
        first, last = self._problem.structure.rows[list(templates)]
        codes = (np.ascontiguousarray(side[first:last]) for side in table.bounds())
        return (self._update(templates, self._problem), *codes)

    def reminder(self, templates: tuple[int, int]) -> Message:
        """Return the update of some templates for a worker that has had it."""
        return (self._update(templates, None),)

    def _update(self, templates: tuple[int, int], problem: Problem | None) -> BoxUpdate:
        return BoxUpdate(self._run, self._number, templates, problem)

    def start_again(self) -> None:
        """Make the next update whole, whatever is known of the last."""
        self._known, self._blocks = None, []


@dataclass(frozen=True, eq=False)
class BoxCopy:
    """A worker's boxes, after which update, and what a step keeps beside them.

    Changes count the columns of `spans`, (P, 2) within a plane.
    """

    number: int
    table: BoxTable
    structure: Structure
    problem: Problem
    spans: np.ndarray
    kept: list[Any]

    @classmethod
    def of(cls, update: BoxUpdate, lower: np.ndarray, upper: np.ndarray) -> BoxCopy:
        """Lay out all boxes of an update."""
        problem = update.problem
        assert problem is not None
        structure = problem.structure.cut(*update.templates)
        frame, spans = packed_frame(structure)
        table = box_table(lower, upper, frame)
        return cls(update.number, table, structure, problem, spans, [])

    def moved(self, update: BoxUpdate, changes: Changes) -> BoxCopy:
        """Make changes, in place."""
        frame = self.table.frame
        make_changes(
            changes.cells, self.spans, (frame.planes, frame.columns), changes.counts,
            changes.gaps, changes.codes, self.table.lower, self.table.upper,
        )  # fmt: skip
        problem = update.problem or self.problem
        return replace(self, number=update.number, problem=problem, kept=[])


#: Runs whose boxes a worker keeps: two clients may share it.
_RUNS = 2
_lock = threading.Lock()
_copies: dict[tuple[str, tuple[int, int]], BoxCopy] = {}


def current_boxes(update: BoxUpdate, *arrays: np.ndarray) -> BoxCopy | None:
    """Return the boxes of an update (runs on a worker); None if it builds on others than are here.

    The calls of a step share one copy. It is changed in place: a step begins when the results
    of the one before are in, so what still reads it then is a call whose result nobody wants.
    """
    key = update.run, update.templates
    with _lock:
        known = _copies.get(key)
        if known is not None and known.number == update.number:
            return known
        if len(arrays) == 2:
            moved = BoxCopy.of(update, *arrays)
        elif arrays and known is not None and known.number == update.number - 1:
            del _copies[key]  # not to be found half changed, should this fail
            moved = known.moved(update, Changes(*arrays))
        else:
            return None
        _copies.pop(key, None)
        _copies[key] = moved
        runs = list(dict.fromkeys(run for run, _ in reversed(_copies)))
        for old in [key for key in _copies if key[0] in runs[_RUNS:]]:
            del _copies[old]
        return moved
