"""Quick attack: a small adversarial change of each input, without a kernel of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.adversary import groups_changed
from boxnn_numba.attacks.domain import Domain, Limit, writable_of
from boxnn_numba.attacks.result import AttackResult
from boxnn_numba.classifier import Classifier, group_count, need_one_set, need_two_classes
from boxnn_numba.distances import class_distance
from boxnn_numba.rivals import assembled, nearest_rows

#: Inputs that are attacked at a time.
_BLOCK_ROWS = 128
#: Margin of the own class, and gain of what cannot be written: beyond all others.
_NEVER = 1 << 40


def quick_attack(
    model: Classifier,
    x: ArrayLike,
    *,
    max_features: int | None = None,
    domain: tuple[Limit, Limit] | None = None,
    features: ArrayLike | None = None,
    attackable: Any = None,
) -> AttackResult:
    """Rewrite the features that bring the nearest rival box closest (white box).

    Each feature (or group) has a code that gains most for the nearest rival box against the nearest
    own box. The attack writes the features with the largest gains, as many at once as the
    certificate says are needed. Then boxes and gains are computed anew, until the prediction
    changes. It compares with one own box at a time and undoes nothing: `greedy_attack` needs fewer
    changes, but compiles for seconds on first use.

    Parameters
    ----------
    model
        The classifier, of one set of boxes.
    x
        Samples, as for `BoxNN.encode`.
    max_features, domain, features, attackable
        As for `boxnn_numba.attacks.greedy_attack`.

    Returns
    -------
    AttackResult
        As for `greedy_attack`.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, or the model is an ensemble or has boxes of one class only.
    OptionError
        An option is out of range.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.attacks import quick_attack
    >>> model = BoxNN(Boxes([[0] * 5, [200] * 5], [[50] * 5, [255] * 5], [0, 1], 100), ["a", "b"])
    >>> quick_attack(model, [[25] * 5]).changed
    array([3], dtype=int32)
    """
    need_one_set(model, "the quick attack is")
    limit = group_count(model)
    if max_features is not None:
        limit = min(limit, validation.integer("max_features", max_features, 0))
    raw = model.rows(x)
    codes = model.encode(raw)
    need_two_classes(model)
    writable = writable_of(model, domain, features, attackable, raw.dtype)
    moves = _Moves(model, writable)
    parts = [
        _attack(moves, codes[start : start + _BLOCK_ROWS], limit)
        for start in range(0, len(codes), _BLOCK_ROWS)
    ]
    found = np.concatenate(parts) if parts else codes
    x_adv = writable.decode(raw, codes, found)
    changed = groups_changed(codes, found, model.groups).astype(np.int32)
    return AttackResult(x_adv, np.where(changed == 0, np.int32(-1), changed), model.predict(x_adv))


class _Moves:
    """Gains of rewriting each group of features for a rival box, and the codes to write."""

    def __init__(self, model: Classifier, writable: Domain) -> None:
        self.model, self.free, self.nearest = model, writable.free, writable.nearest()
        self.order = np.argsort(model.groups, kind="stable")
        self.starts = np.searchsorted(model.groups[self.order], np.arange(group_count(model)))

    def penalty(self, codes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Return what groups add to the distances of codes (N, n) to boxes (N, 2, n): (N, G)."""
        excess = np.maximum(bounds[:, 0] - codes, codes - bounds[:, 1])
        excess = np.clip(excess, 0, self.model.boxes.width)
        if len(self.starts) == len(self.order):
            return excess
        return np.minimum(
            np.add.reduceat(excess[:, self.order], self.starts, axis=1), self.model.reach
        )

    def best(
        self, codes: np.ndarray, own: np.ndarray, rival: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest gain of each group (N, G), and codes (N, n) that all have it.

        own and rival are (N,) classes, of which the nearest boxes are looked at.
        """
        boxes, every = self.model.boxes, np.arange(codes.shape[1])
        rows, _ = nearest_rows(codes, boxes, np.stack((own, rival), axis=1))
        here = codes.astype(np.int16)
        mine, other = (assembled(boxes, rows[:, k]).astype(np.int16) for k in (0, 1))
        before = self.penalty(here, mine) - self.penalty(here, other)
        gain, best = np.zeros_like(before), codes.copy()
        # The gain is piecewise linear in the code: it is largest at an end or a bend.
        bends = mine[:, 0] - boxes.width, mine[:, 1] + boxes.width, other[:, 0], other[:, 1]
        for aim in (*bends, np.zeros_like(here), np.full_like(here, 255)):
            codes_there = self.nearest[every, np.clip(aim, 0, 255)]
            trial = np.where(self.free, codes_there, here)
            value = self.penalty(trial, mine) - self.penalty(trial, other) - before
            better = value > gain
            gain = np.where(better, value, gain)
            best = np.where(better[:, self.model.groups], trial, best)
        return gain, best.astype(np.uint8)


def _attack(moves: _Moves, codes: np.ndarray, limit: int) -> np.ndarray:
    """Return codes (N, n) with at most `limit` groups rewritten; as they are where none suffice."""
    model, groups = moves.model, moves.model.groups
    now = codes.copy()
    own, rival, needed = _standing(model, codes)
    written = np.zeros((len(codes), len(moves.starts)), bool)
    alive, flipped = np.arange(len(codes)), np.zeros(len(codes), bool)
    while len(alive):
        gain, best = moves.best(now[alive], own[alive], rival[alive])
        gain[written[alive]] = 0
        take = np.minimum(needed[alive], limit - written[alive].sum(axis=1))
        picked = np.zeros(gain.shape, bool)
        order = np.argsort(-gain, axis=1, kind="stable")
        np.put_along_axis(picked, order, np.arange(gain.shape[1]) < take[:, None], axis=1)
        picked &= gain > 0
        written[alive] |= picked
        now[alive] = np.where(picked[:, groups], best, now[alive])
        predicted, rival[alive], needed[alive] = _standing(model, now[alive], own[alive])
        flipped[alive] = predicted != own[alive]
        alive = alive[(predicted == own[alive]) & picked.any(axis=1)]
    return np.where(flipped[:, None], now, codes)


def _standing(
    model: Classifier, codes: np.ndarray, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices of predictions and of nearest rivals, and how many groups to write.

    The number is how many groups Theorem 4.2 says cannot suffice to leave the class `own` (by
    default the predicted one), and at least 1. Further groups are chosen once these are written.
    """
    distance = class_distance(codes, model.boxes).astype(np.int64) + model.offset
    predicted, every = distance.argmin(axis=1), np.arange(len(codes))
    own = predicted if own is None else own
    margin = (
        distance - distance[every, own][:, None] - (np.arange(distance.shape[1]) < own[:, None])
    )
    margin[every, own] = _NEVER
    return predicted, margin.argmin(axis=1), np.maximum(1, margin.min(axis=1) // (2 * model.reach))
