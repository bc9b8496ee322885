"""Combinations of rows: the nearest ones of a class, in one set of boxes and in all sets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from boxnn_numba.kernels.pairwise_bound import Table

#: Most combinations of a set, and of all sets, that are looked at one by one.
_NEAR, _TUPLES = 16, 64


class Combinations(NamedTuple):
    """Combinations, the nearest first.

    Attributes
    ----------
    extra
        (C,) int64, how much farther they are than the nearest.
    rows
        For each set (C, P), the row that is taken in each part.
    beyond
        All others are at least this much farther.
    """

    extra: np.ndarray
    rows: list[np.ndarray]
    beyond: int


def of_set(
    table: Table, distance: np.ndarray, total: np.ndarray, templates: np.ndarray, slack: int
) -> Combinations:
    """Return combinations of some templates, the nearest first, of at most `slack` more.

    distance (P, M) is to the rows in each part, total (T,) to the templates.
    """
    beyond, extras, rows = slack + 1, [], []
    for t in templates:
        first, last = table.rows[t], table.rows[t + 1]
        start = int(total[t] - total[templates[0]])
        if start > slack:
            break
        part = distance[:, first:last]
        farther = part - part.min(axis=1, keepdims=True)
        extra, chosen = np.array([start], np.int64), first + part.argmin(axis=1)[None]
        for p in np.flatnonzero(np.count_nonzero(farther <= slack - start, axis=1) > 1):
            sums = extra[:, None] + farther[p]
            kept, more = _least(sums.ravel(), slack, _NEAR)
            beyond = min(beyond, more)
            of, place = np.divmod(kept, last - first)
            extra, chosen = sums.ravel()[kept], chosen[of]
            chosen[:, p] = first + place
        extras.append(extra)
        rows.append(chosen)
    extra, chosen = np.concatenate(extras), np.concatenate(rows)
    kept, more = _least(extra, slack, _NEAR)
    return Combinations(extra[kept], [chosen[kept]], min(beyond, more))


def of_all(found: list[Combinations], slack: int) -> Combinations:
    """Return combinations of one of each set, the nearest first, of at most `slack` more."""
    total = np.zeros(1, np.int64)
    rows: list[np.ndarray] = []
    beyond = min(one.beyond for one in found)
    for one in found:
        sums = (total[:, None] + one.extra).ravel()
        kept, more = _least(sums, slack, _TUPLES)
        beyond = min(beyond, more)
        of, place = np.divmod(kept, len(one.extra))
        total, rows = sums[kept], [*(side[of] for side in rows), one.rows[0][place]]
    return Combinations(total, rows, beyond)


def _least(values: np.ndarray, most: int, count: int) -> tuple[np.ndarray, int]:
    """Return places of the least values, in order, and what all others are at least."""
    order = np.argsort(values, kind="stable")
    inside = int(np.searchsorted(values[order], most, side="right"))
    if inside <= count:
        return order[:inside], most + 1
    return order[:count], int(values[order[count]])
