"""The integer program of exact radii: which codes to write into which features.

    minimise    changed groups, or what they cost
    such that   own distance of the solution - rival distance >= ahead

Choices of codes are binary variables, so the distance to any row is linear in them. The rival's
distance is the least of some (rows of a part, templates of a set): a variable that is at least the
one that is picked, by a binary variable for each. The own distance is the least of some as well: a
variable that is at most each of them.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from highspy import Highs, HighsLp

#: Taken off the solver's lower bound before it is rounded up.
_MARGIN = 0.05
#: Above the solver's integrality tolerance, for each unit of cost.
_TOLERANCE = 2e-6
#: How far the inequalities between own and rival distances, integers, are relaxed.
_SLACK = 0.5


class Variables(NamedTuple):
    """Further variables of a program: (V,) bounds, and which are whole; their coefficients."""

    low: np.ndarray
    high: np.ndarray
    whole: np.ndarray
    coefficients: np.ndarray


@dataclass(frozen=True, eq=False)
class Program:
    """Take choices, as few groups as can be, so that their gains close all gaps.

    Attributes
    ----------
    slots, groups
        (Z,) of each choice: at most one choice of a slot may be taken, and its group is changed.
    gains
        (L, Z) int64, what a choice adds to the left side of each inequality.
    gaps
        (L,) int64, what the left sides must reach.
    more
        Variables besides, whose coefficients are (L, V).
    slack
        How far each inequality is relaxed.
    cost
        (G,) what changing a group costs, whole numbers; 1 each without it.
    """

    slots: np.ndarray
    groups: np.ndarray
    gains: np.ndarray
    gaps: np.ndarray
    more: Variables | None = None
    slack: float | np.ndarray = _SLACK
    cost: np.ndarray | None = None


class Distance(NamedTuple):
    """A distance as the program knows it: ``constant + gains @ choices + more @ variables``."""

    constant: int
    gains: np.ndarray
    more: dict[int, int]

    def plus(self, other: Distance, sign: int = 1) -> Distance:
        """Return the sum, or the difference, of two distances that share no variables."""
        more = self.more | {v: sign * c for v, c in other.more.items()}
        return Distance(
            self.constant + sign * other.constant, self.gains + sign * other.gains, more
        )


@dataclass(eq=False)
class Builder:
    """Puts a program together from choices and distances.

    Attributes
    ----------
    slots, groups
        Of the choices, as in `Program`; slots in rising order.
    low, high, whole
        Of the variables so far.
    rows
        Inequalities so far: ``distance >= 0`` each.
    """

    slots: np.ndarray
    groups: np.ndarray
    low: list[int] = field(default_factory=list)
    high: list[int] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[Distance] = field(default_factory=list)

    def zero(self, constant: int = 0, more: dict[int, int] | None = None) -> Distance:
        """Return a distance that does not depend on choices."""
        return Distance(constant, np.zeros(len(self.slots), np.int64), more or {})

    def least_rival(self, found: list[Distance]) -> Distance:
        """Return a distance that is at least one of those given, whichever is picked."""
        if len(found) == 1:
            return found[0]
        low, high = zip(*map(self.limits, found), strict=True)
        least = self._variable(min(low), max(high), False)
        picks = self.zero(-1)  # at least one
        for one, most in zip(found, high, strict=True):
            pick, far = self._variable(0, 1, True), most - min(low)
            # least >= one - far * (1 - pick)
            self.rows.append(self.zero(far, {least: 1, pick: -far}).plus(one, -1))
            picks.more[pick] = 1
        self.rows.append(picks)
        return self.zero(0, {least: 1})

    def least_own(self, found: list[Distance]) -> Distance:
        """Return a distance that is at most each of those given."""
        if len(found) == 1:
            return found[0]
        low, high = zip(*map(self.limits, found), strict=True)
        least = self._variable(min(low), min(high), False)
        for one in found:
            self.rows.append(one.plus(self.zero(0, {least: 1}), -1))
        return self.zero(0, {least: 1})

    def program(self, owns: list[Distance], rival: Distance, ahead: int) -> Program:
        """Return the program in which the rival is nearer than all of some own distances."""
        behind = rival.plus(self.zero(ahead))
        rows = [own.plus(behind, -1) for own in owns] + self.rows
        gaps = -np.array([row.constant for row in rows])
        coefficients = np.zeros((len(rows), len(self.low)))
        for i, row in enumerate(rows):
            coefficients[i, list(row.more)] = list(row.more.values())
        low, high = np.array([self.low, self.high], np.float64)
        more = Variables(low, high, np.array(self.whole, np.bool_), coefficients)
        gains = np.stack([row.gains for row in rows])
        # What defines a variable leaves it free by as much as the distances are relaxed.
        slack = np.where(np.arange(len(rows)) < len(owns), _SLACK, 0.0)
        return Program(self.slots, self.groups, gains, gaps, more, slack)

    def _variable(self, low: int, high: int, whole: bool) -> int:
        self.low.append(low)
        self.high.append(high)
        self.whole.append(whole)
        return len(self.low) - 1

    def limits(self, one: Distance) -> tuple[int, int]:
        """Return bounds on a distance."""
        starts = np.flatnonzero(np.diff(self.slots, prepend=-1))
        low = high = one.constant
        if len(starts):
            low += int(np.minimum.reduceat(one.gains, starts).clip(max=0).sum())
            high += int(np.maximum.reduceat(one.gains, starts).clip(min=0).sum())
        for v, c in one.more.items():
            ends = c * self.low[v], c * self.high[v]
            low, high = low + min(ends), high + max(ends)
        return low, high


def solve(
    program: Program,
    limit: int,
    seconds: float,
    stop: threading.Event | None = None,
    least: int = 0,
) -> tuple[int, np.ndarray | None]:
    """Find a solution with the fewest changed groups, or the least cost, at most `limit`.

    Returns a bound: no solution with at most `limit` changes has fewer than this many. It is
    ``limit + 1`` where there is none, and `least`, which is known before, where nothing else is.
    And the indices of the choices of the best solution found, or None; it holds up to the slack
    only, and must be checked. Once `stop` is set, by another thread, the solver gives up as where
    the time is up.
    """
    from highspy import HighsModelStatus, SolutionStatus

    total = len(program.slots)
    if total == 0 or limit <= 0:
        return limit + 1, None
    solver = _solver(seconds, stop or threading.Event())
    solver.passModel(_linear_program(program, least, limit))
    solver.run()
    if solver.getModelStatus() == HighsModelStatus.kInfeasible:
        return limit + 1, None
    info, taken = solver.getInfo(), None
    known = abs(info.mip_dual_bound) < solver.inf
    # Of costs, a binary variable that is off by the tolerance is off by as much of its cost.
    off = _MARGIN + (0 if program.cost is None else _TOLERANCE * int(program.cost.sum()))
    bound = max(least, math.ceil(info.mip_dual_bound - off)) if known else least
    if info.primal_solution_status == SolutionStatus.kSolutionStatusFeasible:
        taken = np.flatnonzero(np.array(solver.getSolution().col_value)[:total] > 0.5)
    return min(bound, limit + 1), taken


def _solver(seconds: float, stop: threading.Event) -> Highs:
    """Return a solver that uses this thread only, says nothing, and can be stopped."""
    import highspy

    class Quiet(highspy.Highs):
        def enableCallbacks(self) -> None:  # noqa: N802
            # The first thing that would say something.
            self.silent()
            super().enableCallbacks()

    def look(event: Any) -> None:
        event.data_in.user_interrupt = stop.is_set()

    solver = Quiet()
    for name, value in {"time_limit": float(seconds), "mip_rel_gap": 0.0, "threads": 1}.items():
        solver.setOptionValue(name, value)
    for asked in (solver.cbMipInterrupt, solver.cbSimplexInterrupt, solver.cbIpmInterrupt):
        asked.subscribe(look)
    return solver


def _linear_program(program: Program, least: int, limit: int) -> HighsLp:
    """Return costs and constraints: variables for choices, for groups, and those besides."""
    from highspy import HighsLp, HighsVarType, MatrixFormat
    from scipy.sparse import block_array, coo_array

    total = len(program.slots)
    none = np.empty(0)
    more = program.more or Variables(none, none, none, np.empty((len(program.gaps), 0)))
    groups, group_of = np.unique(program.groups, return_inverse=True)
    slots, slot_of = np.unique(program.slots, return_inverse=True)
    picks = coo_array((np.ones(total), (slot_of, np.arange(total))))
    # A slot may only be rewritten, once, where its group counts as changed.
    group_row = np.empty(len(slots), np.int64)
    group_row[slot_of] = group_of
    pays = coo_array((-np.ones(len(slots)), (np.arange(len(slots)), group_row)))
    cost = np.ones(len(groups)) if program.cost is None else program.cost[groups].astype(float)
    every, besides = cost[None], len(more.low)
    blocks = [[picks, pays], [coo_array(program.gains.astype(float)), None], [None, every]]
    if besides:
        empty = coo_array((len(slots), besides))
        blocks = [[*row, add] for row, add in zip(
            blocks, (empty, coo_array(more.coefficients), None), strict=True)]  # fmt: skip
    rows = block_array(blocks, format="csr")
    open_ = np.full(len(slots), -np.inf)
    lp, whole = HighsLp(), np.concatenate([np.ones(total + len(groups)), more.whole])
    lp.num_row_, lp.num_col_ = rows.shape
    wanted = cost * float(least < limit)
    lp.col_cost_ = np.concatenate([np.zeros(total), wanted, np.zeros(besides)])
    lp.col_lower_ = np.concatenate([np.zeros(total + len(groups)), more.low])
    lp.col_upper_ = np.concatenate([np.ones(total + len(groups)), more.high])
    lp.integrality_ = [HighsVarType.kInteger if one else HighsVarType.kContinuous for one in whole]
    lp.row_lower_ = np.concatenate([open_, program.gaps - program.slack, [least - _SLACK]])
    lp.row_upper_ = np.concatenate(
        [np.zeros(len(slots)), np.full(len(program.gaps), np.inf), [limit + _SLACK]]
    )
    lp.a_matrix_.format_ = MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = rows.indptr, rows.indices
    lp.a_matrix_.value_ = rows.data
    return lp
