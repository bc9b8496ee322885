"""The choices of an integer program: codes that are worth writing, and what they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Most joint codes of a group that are told apart.
_MOST = 2048

Bounds = tuple[np.ndarray, np.ndarray]


class Slot(NamedTuple):
    """Features that are capped as a whole, and the rows that see them.

    Attributes
    ----------
    features
        (f,) places of the features.
    own, rival
        For each set of boxes the bounds (L, f) of own and of rival rows.
    """

    features: np.ndarray
    own: Sequence[Bounds]
    rival: Sequence[Bounds]


def worth_writing(
    codes: np.ndarray, slot: Slot, width: int, allowed: np.ndarray
) -> np.ndarray | None:
    """List joint codes (C, f) worth writing into the features of a slot; None if too many.

    codes (n,) are those of the input, allowed (n, 256) those that may be written; a feature of
    several may stay as it is. Codes are left out where others, or leaving the slot as it is, add as
    much or more to every own distance and as little or less to every rival's, of one rival row to
    every difference.
    """
    features, count = slot.features, len(slot.features)
    own, rival = (
        [np.concatenate(side) for side in zip(*rows, strict=True)]
        for rows in (slot.own, slot.rival)
    )
    found = np.empty((1, 0), np.int64)
    held, paid = np.zeros((len(own[0]), 1), np.int64), np.zeros((len(rival[0]), 1), np.int64)
    for k, feature in enumerate(features):
        tried = np.flatnonzero(allowed[feature] & _useful(slot, k, allowed))
        if count > 1:
            tried = np.union1d(tried, codes[feature])
            alone = [np.minimum(_excess(tried, side, k), width) for side in (own, rival)]
            tried = tried[_undominated(np.concatenate([alone[0], -alone[1]]))]
        found = np.column_stack([np.repeat(found, len(tried), axis=0), np.tile(tried, len(found))])
        held, paid = (
            np.minimum(before[:, :, None] + _excess(tried, side, k)[:, None], width).reshape(
                len(before), -1
            )
            for before, side in ((held, own), (paid, rival))
        )
        if count > 1:
            if len(found) > _MOST:
                return None
            kept = _undominated(np.concatenate([held, -paid]))
            found, held, paid = found[kept], held[:, kept], paid[:, kept]
    now = codes[features]
    leads, first = [], [0, 0]
    for (low, _), (rival_low, _) in zip(slot.own, slot.rival, strict=True):
        last = [first[0] + len(low), first[1] + len(rival_low)]
        more = held[first[0] : last[0]] - _penalty(now, own, width)[first[0] : last[0], None]
        less = paid[first[1] : last[1]] - _penalty(now, rival, width)[first[1] : last[1], None]
        leads.append(more - less if len(less) == 1 else np.concatenate([more, -less]))
        first = last
    lead = np.concatenate(leads)
    useful = np.flatnonzero((lead > 0).any(axis=0))
    return np.asarray(found[useful[_undominated(lead[:, useful])]])


def _useful(slot: Slot, k: int, allowed: np.ndarray) -> np.ndarray:
    """Return (256,) codes of feature k that could be the best against some rival row.

    Of one set of boxes only codes inside the row's interval are (see `pairwise_bound`), if both its
    ends may be written into every feature of the slot; of one feature, those that no end beats.
    """
    if len(slot.rival) > 1:
        return np.ones(256, np.bool_)
    code, useful = np.arange(256), np.zeros(256, np.bool_)
    for low, high in zip(*slot.rival[0], strict=True):
        ends = allowed[slot.features, low], allowed[slot.features, high]
        if len(low) == 1:
            useful |= ~((code < low) & ends[0] | (code > high) & ends[1])
        elif np.all(ends):
            useful |= (code >= low[k]) & (code <= high[k])
        else:
            return np.ones(256, np.bool_)
    return useful


def _excess(codes: np.ndarray, bounds: Sequence[np.ndarray], k: int) -> np.ndarray:
    """(L, C) how far codes of feature k lie outside the intervals of some rows."""
    low, high = (side[:, k, None].astype(np.int64) for side in bounds)
    return np.maximum(np.maximum(low - codes, codes - high), 0)


def _penalty(codes: np.ndarray, bounds: Sequence[np.ndarray], width: int) -> np.ndarray:
    """(L,) penalties of codes (f,) that are capped as a whole, to some rows."""
    low, high = (side.astype(np.int64) for side in bounds)
    return np.minimum(np.maximum(np.maximum(low - codes, codes - high), 0).sum(axis=1), width)


def _undominated(columns: np.ndarray) -> np.ndarray:
    """Return columns that are not equalled by another one in every row, the first of equals."""
    if columns.shape[1] == 0:
        return np.empty(0, np.int64)
    complete = (columns == columns.max(axis=1, keepdims=True)).all(axis=0)
    if complete.any():
        return np.array([int(complete.argmax())])
    unique, first = np.unique(columns, axis=1, return_index=True)
    covers = np.ones((unique.shape[1],) * 2, np.bool_)
    for row in unique:
        covers &= row[:, None] >= row
    np.fill_diagonal(covers, False)
    return np.asarray(np.sort(first[~covers.any(axis=0)]))
