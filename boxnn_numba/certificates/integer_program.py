"""The integer program of exact radii: which codes to write into which features."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from highspy import Highs, HighsLp

#: Taken off the solver's lower bound before it is rounded up.
_MARGIN = 0.05
#: How far every inequality between integers is relaxed.
_SLACK = 0.5


@dataclass(frozen=True, eq=False)
class Program:
    """Choose codes so that the gains against every own box close its gap.

    Attributes
    ----------
    features, values
        (Z,) feature and code of each choice; at most one choice of a feature may be taken.
    gains
        (L, Z) int64, what a choice adds to the distance of an own box less that of the rival.
    gaps
        (L,) int64 to be closed.
    group_size
        Features that count as one change together.
    """

    features: np.ndarray
    values: np.ndarray
    gains: np.ndarray
    gaps: np.ndarray
    group_size: int


def choices(
    codes: np.ndarray,
    own: tuple[np.ndarray, np.ndarray],
    rival: tuple[np.ndarray, np.ndarray],
    width: int,
    allowed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the codes worth writing into each feature: features, values and gains of a `Program`.

    own are lower and upper bounds (L, n) of own boxes, rival those (n,) of a rival box; allowed
    (n, 256) are the codes that may be written. A code is left out where another one gains as much
    or more against every own box, or leaving the feature as it is does. Codes beyond an end of the
    rival's interval are looked at only if that end may not be written; else it gains as much or
    more (see `boxnn_numba.kernels.attack_moves`).
    """
    found: list[tuple[np.ndarray, ...]] = []
    for k in range(len(codes)):
        tried = np.flatnonzero(allowed[k])
        low, high = rival[0][k], rival[1][k]
        beaten = ((tried < low) & allowed[k, low]) | ((tried > high) & allowed[k, high])
        tried = tried[~beaten]
        gains = _gains(int(codes[k]), tried, own, rival, k, width)
        kept = _undominated(gains)
        found.append((np.full(len(kept), k), tried[kept], gains[:, kept]))
    features, values, columns = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(values), np.concatenate(columns, axis=1)


def _gains(
    code: int,
    tried: np.ndarray,
    own: tuple[np.ndarray, np.ndarray],
    rival: tuple[np.ndarray, np.ndarray],
    k: int,
    width: int,
) -> np.ndarray:
    """(L, C) gains of the codes tried for a feature."""
    both = np.concatenate([[code], tried])
    low, high = own[0][:, k, None].astype(np.int64), own[1][:, k, None].astype(np.int64)
    of_own = np.minimum(np.maximum(np.maximum(low - both, both - high), 0), width)
    a, b = int(rival[0][k]), int(rival[1][k])
    of_rival = np.minimum(np.maximum(np.maximum(a - both, both - b), 0), width)
    lead = of_own - of_rival
    return np.asarray(lead[:, 1:] - lead[:, :1])


def _undominated(gains: np.ndarray) -> np.ndarray:
    """Return columns that are not equalled by another one, or by zero, in every row."""
    useful = np.flatnonzero((gains > 0).any(axis=0))
    if len(useful) == 0:
        return useful
    columns = gains[:, useful]
    complete = (columns == columns.max(axis=1, keepdims=True)).all(axis=0)
    if complete.any():
        return useful[[int(complete.argmax())]]
    unique, first = np.unique(columns, axis=1, return_index=True)
    covers = np.asarray((unique[:, :, None] >= unique[:, None, :]).all(axis=0))
    np.fill_diagonal(covers, False)
    return useful[np.sort(first[~covers.any(axis=0)])]


def solve(
    program: Program, limit: int, seconds: float, stop: threading.Event | None = None
) -> tuple[int, np.ndarray | None]:
    """Find a solution with the fewest changed groups, at most `limit`.

    Returns a bound: no solution with at most `limit` changes has fewer than this many. It is
    ``limit + 1`` where there is none, and 0 where nothing is known. And the indices of the choices
    of the best solution found, or None; it holds up to the slack only, and must be checked. Once
    `stop` is set, by another thread, the solver gives up as where the time is up.
    """
    from highspy import HighsModelStatus, SolutionStatus

    total = len(program.features)
    if total == 0 or limit <= 0:
        return limit + 1, None
    solver = _solver(seconds, stop or threading.Event())
    solver.passModel(_linear_program(program, limit))
    solver.run()
    if solver.getModelStatus() == HighsModelStatus.kInfeasible:
        return limit + 1, None
    info, taken = solver.getInfo(), None
    known = abs(info.mip_dual_bound) < solver.inf
    bound = max(0, math.ceil(info.mip_dual_bound - _MARGIN)) if known else 0
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


def _linear_program(program: Program, limit: int) -> HighsLp:
    """Return costs and constraints: a variable for each choice, and one for each group."""
    from highspy import HighsLp, HighsVarType, MatrixFormat
    from scipy.sparse import block_array, coo_array

    total = len(program.features)
    groups, group_of = np.unique(program.features // program.group_size, return_inverse=True)
    features, feature_of = np.unique(program.features, return_inverse=True)
    picks = coo_array((np.ones(total), (feature_of, np.arange(total))))
    # A feature may only be rewritten, once, where its group counts as changed.
    group_row = np.empty(len(features), np.int64)
    group_row[feature_of] = group_of
    pays = coo_array((-np.ones(len(features)), (np.arange(len(features)), group_row)))
    every = np.ones((1, len(groups)))
    rows = block_array(
        [[picks, pays], [coo_array(program.gains.astype(float)), None], [None, coo_array(every)]],
        format="csr",
    )
    gaps, open_ = program.gaps - _SLACK, np.full(len(features), -np.inf)
    lp = HighsLp()
    lp.num_row_, lp.num_col_ = rows.shape
    lp.col_cost_ = np.repeat([0.0, 1.0], [total, len(groups)])
    lp.col_lower_, lp.col_upper_ = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    lp.integrality_ = [HighsVarType.kInteger] * rows.shape[1]
    lp.row_lower_ = np.concatenate([open_, gaps, [-np.inf]])
    lp.row_upper_ = np.concatenate([0 * features, np.full(len(gaps), np.inf), [limit + _SLACK]])
    lp.a_matrix_.format_ = MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = rows.indptr, rows.indices
    lp.a_matrix_.value_ = rows.data
    return lp
