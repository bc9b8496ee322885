"""The integer program of exact radii: which codes to write into which features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: Taken off the solver's lower bound before it is rounded up.
_MARGIN = 0.05
#: How far every inequality between integers is relaxed.
_SLACK = 0.5
_OPTIMAL, _INFEASIBLE = 0, 2


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


class Answer(NamedTuple):
    """What the solver says.

    Attributes
    ----------
    bound
        No solution with at most the limit of changes has fewer than this many.
    taken
        Indices of the choices of the best solution found, None if there is none.
    """

    bound: int
    taken: np.ndarray | None


def choices(
    codes: np.ndarray,
    own: tuple[np.ndarray, np.ndarray],
    rival: tuple[np.ndarray, np.ndarray],
    width: int,
    allowed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the codes worth writing into each feature, against some own boxes.

    Parameters
    ----------
    codes
        (n,) uint8 input.
    own, rival
        Lower and upper bounds (L, n) of own boxes, and (n,) of a rival box.
    width
        Width W.
    allowed
        (n, 256) bool, codes that may be written.

    Returns
    -------
    features, values, gains
        As for `Program`. A code is left out where another one gains as much or more against every
        own box, or leaving the feature as it is does. Codes beyond an end of the rival's interval
        are looked at only if that end may not be written; else it gains as much or more (see
        `boxnn_numba.kernels.attack_moves`).
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


def solve(program: Program, limit: int, seconds: float) -> Answer:
    """Find a solution with the fewest changed groups, at most `limit`.

    Parameters
    ----------
    program
        What to solve.
    limit
        Solutions with more changes are of no interest.
    seconds
        Time limit.

    Returns
    -------
    Answer
        Its bound is ``limit + 1`` where there is no such solution, 0 where nothing is known. The
        solution holds up to the slack only, and must be checked.
    """
    from scipy.optimize import Bounds, milp

    total = len(program.features)
    if total == 0 or limit <= 0:
        return Answer(limit + 1, None)
    cost, constraints = _model(program, limit)
    result = milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if result.status == _INFEASIBLE:
        return Answer(limit + 1, None)
    dual = result.mip_dual_bound
    known = dual is not None and math.isfinite(dual)
    bound = max(0, math.ceil(dual - _MARGIN)) if known else 0
    taken = None if result.x is None else np.flatnonzero(result.x[:total] > 0.5)
    return Answer(min(bound, limit + 1), taken)


def _model(program: Program, limit: int) -> tuple[np.ndarray, list[object]]:
    """Return the costs and constraints: a variable for each choice, and one for each group."""
    from scipy.optimize import LinearConstraint
    from scipy.sparse import coo_array, csr_array, hstack

    total = len(program.features)
    groups, group_of = np.unique(program.features // program.group_size, return_inverse=True)
    features, feature_of = np.unique(program.features, return_inverse=True)
    one = np.ones(total)
    picks = coo_array((one, (feature_of, np.arange(total))), shape=(len(features), total))
    gains = csr_array(program.gains.astype(np.float64))
    cost = np.concatenate([np.zeros(total), np.ones(len(groups))])
    # A feature may only be rewritten, once, where its group counts as changed.
    group_row = np.empty(len(features), np.int64)
    group_row[feature_of] = group_of
    pays = coo_array(
        (-np.ones(len(features)), (np.arange(len(features)), group_row)),
        shape=(len(features), len(groups)),
    )
    none = csr_array((len(program.gaps), len(groups)))
    return cost, [
        LinearConstraint(hstack([picks, pays]).tocsr(), -np.inf, 0),
        LinearConstraint(hstack([gains, none]).tocsr(), program.gaps - _SLACK, np.inf),
        LinearConstraint(csr_array(cost[None]), -np.inf, limit + _SLACK),
    ]
