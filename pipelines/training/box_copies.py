"""Copies of the boxes on workers, which follow the client's step by step.

A step changes few codes, so the client sends what changed since the last step. A worker that
does not have the boxes of that step (it is new, or had no task then) says so, and
gets all of them. Every update is numbered; a copy moves only from the number it has to the next.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from boxnn_numba.backends.box_layout import BoxTable, box_table, frame_of
from boxnn_numba.backends.cpu import CpuBackend

if TYPE_CHECKING:
    from boxnn_numba.training.loader import Pair
    from boxnn_numba.training.problem import Problem

LARGEST_GAP = 255


def changes(before: np.ndarray, after: np.ndarray) -> Pair:
    """Return what to change in a table of codes (uint8, contiguous) to get another, and change it.

    Gaps are steps from one new code to the next in the flattened table. Among the codes are some
    that did not change, so that no gap is larger than a byte.
    """
    old, new = before.reshape(-1), after.reshape(-1)
    changed = old != new
    changed[::LARGEST_GAP] = True
    places = np.flatnonzero(changed)
    codes = new[places]
    old[places] = codes
    return np.diff(places, prepend=0).astype(np.uint8), codes


def apply_changes(
    table: np.ndarray, gaps: np.ndarray, codes: np.ndarray, place: np.ndarray
) -> None:
    """Do what `changes` found in codes (M, n), in a table with feature k in column ``place[k]``."""
    rows, features = np.divmod(np.cumsum(gaps, dtype=np.int64), len(place))
    table[rows, place[features]] = codes


@dataclass(frozen=True)
class BoxUpdate:
    """The boxes of a step, as a worker is told of them.

    Beside it come arrays of codes: all lower and upper bounds, or gaps and codes of the
    `changes` of lower and of upper since the update before, or nothing for a worker that has had
    the update. `number` counts the updates of a run, whose tables (`problem`) come only beside
    all codes. Codes are in the order of the features: processors lay them out differently.
    """

    run: str
    number: int
    problem: Problem | None = None


#: An update and its arrays.
Message = tuple[Any, ...]


class BoxSender:
    """The client's end: knows what the workers were sent last. `backend` gives threads."""

    def __init__(self, backend: CpuBackend) -> None:
        self._backend = backend
        self._run = uuid4().hex
        self._number = 0
        self._sent: tuple[Pair, Problem] | None = None

    def update(self, table: BoxTable, problem: Problem) -> Message:
        """Return the next update, and its arrays: what takes the workers to these boxes."""
        self._number += 1
        lower, upper = (np.ascontiguousarray(side) for side in table.bounds())
        after = lower, upper
        if self._sent is None or problem is not self._sent[1]:
            self._sent = (lower.copy(), upper.copy()), problem
            return self.whole()
        before = self._sent[0]

        def work(first: int, last: int) -> list[Pair]:
            return [changes(before[side], after[side]) for side in range(first, last)]

        gaps = itertools.chain(*self._backend.parallel(2, 1, work))
        return (BoxUpdate(self._run, self._number), *itertools.chain(*gaps))

    def whole(self) -> Message:
        """Return the last update for a worker that knows nothing."""
        assert self._sent is not None
        codes, problem = self._sent
        return (BoxUpdate(self._run, self._number, problem), *codes)

    def reminder(self) -> Message:
        """Return the last update for a worker that has had it."""
        return (BoxUpdate(self._run, self._number),)

    def start_again(self) -> None:
        """Make the next update whole, since some worker lags behind."""
        self._sent = None


@dataclass(frozen=True)
class BoxCopy:
    """A worker's boxes, and after which update."""

    number: int
    table: BoxTable
    problem: Problem


#: Runs whose boxes a worker keeps: two clients may share it.
_RUNS = 2
_lock = threading.Lock()
_copies: dict[str, BoxCopy] = {}


def current_boxes(update: BoxUpdate, *arrays: np.ndarray) -> BoxCopy | None:
    """Return the boxes of an update (runs on a worker); None if it builds on others than are here.

    The tasks of a step share one copy. It is changed in place: a step begins when the results
    of the one before are in, so what still reads it then is a task whose result nobody wants.
    """
    with _lock:
        known = _copies.get(update.run)
        if known is not None and known.number == update.number:
            return known
        if update.problem is not None:
            structure = update.problem.structure
            lower, upper = arrays
            table = box_table(lower, upper, frame_of(structure.part, structure.group))
            moved = BoxCopy(update.number, table, update.problem)
        elif arrays and known is not None and known.number == update.number - 1:
            del _copies[update.run]  # not to be found half changed, should this fail
            lower_gaps, lower_codes, upper_gaps, upper_codes = arrays
            place = known.table.frame.place
            apply_changes(known.table.lower, lower_gaps, lower_codes, place)
            apply_changes(known.table.upper, upper_gaps, upper_codes, place)
            moved = replace(known, number=update.number)
        else:
            return None
        _copies.pop(update.run, None)
        _copies[update.run] = moved
        if len(_copies) > _RUNS:
            del _copies[next(iter(_copies))]
        return moved
