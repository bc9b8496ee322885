"""Choices of an integer program: codes that are worth writing, and their gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

#: Most joint codes of a slot that are compared.
_MOST = 2048

Bounds = tuple[np.ndarray, np.ndarray]
#: Features (f,), and codes (C, f) to write into them.
Entry = tuple[np.ndarray, np.ndarray]


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


def worth_writing(codes: np.ndarray, slot: Slot, width: int, allowed: np.ndarray) -> list[Entry]:
    """List what is worth writing into a slot: of each entry, one row of codes may be written.

    There is one entry of joint codes or, where they are too many, one for each feature. Codes are
    left out where others, or leaving the slot as it is, add as much or more to every own distance
    and as little or less to every rival's, of one rival row to every difference.

    codes (n,) are those of the input, allowed (n, 256) those that may be written; a feature of
    several may stay as it is.
    """
    features = slot.features
    own, rival = (
        [np.concatenate(side) for side in zip(*rows, strict=True)]
        for rows in (slot.own, slot.rival)
    )
    if len(features) == 1:
        tried = [np.flatnonzero(allowed[features[0]] & _useful(slot, 0, allowed))]
    else:
        tried = [
            _of_several(codes, slot, k, own, rival, width, allowed) for k in range(len(features))
        ]
    found = np.empty((1, 0), np.int64)
    held, paid = np.zeros((len(own[0]), 1), np.int64), np.zeros((len(rival[0]), 1), np.int64)
    for k, of_feature in enumerate(tried):
        if len(found) * len(of_feature) > _MOST:
            return [
                (features[i, None], of_one[of_one != codes[features[i]], None])
                for i, of_one in enumerate(tried)
            ]
        found = np.column_stack(
            [np.repeat(found, len(of_feature), axis=0), np.tile(of_feature, len(found))]
        )
        held, paid = (
            np.minimum(before[:, :, None] + _excess(of_feature, side, k)[:, None], width).reshape(
                len(before), -1
            )
            for before, side in ((held, own), (paid, rival))
        )
        if len(features) > 1:
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
    return [(features, found[useful[_undominated(lead[:, useful])]])]


def _of_several(
    codes: np.ndarray, slot: Slot, k: int, own: Any, rival: Any, width: int, allowed: np.ndarray
) -> np.ndarray:
    """Return codes of feature k that are worth writing beside others, its own one among them."""
    feature = slot.features[k]
    tried = np.flatnonzero(allowed[feature] & _useful(slot, k, allowed))
    tried = np.union1d(tried, codes[feature])
    held, paid = (np.minimum(_excess(tried, side, k), width) for side in (own, rival))
    return np.asarray(tried[_undominated(np.concatenate([held, -paid]))])


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
