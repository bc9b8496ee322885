"""Random search: a black-box attack that uses only the predictions of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.adversary import groups_changed
from boxnn_numba.attacks.result import AttackResult
from boxnn_numba.errors import InputError, OptionError

#: Share of the changed groups that a step of the random search replaces, first and last.
_SHARES = 0.5, 0.05


def random_search(
    predict: Callable[[np.ndarray], Any],
    x: ArrayLike,
    budget: int,
    queries: int = 1000,
    seed: int = 0,
    domain: tuple[ArrayLike, ArrayLike] | None = None,
    group_size: int | ArrayLike = 1,
    features: ArrayLike | None = None,
) -> AttackResult:
    """Look for a change of at most `budget` features by random search (black box).

    Each step replaces part of a set of rewritten features, a smaller part as the search goes on. A
    step is kept if the margin of the original prediction does not rise. Once the prediction has
    changed, changes that are not needed are undone while queries are left.

    Parameters
    ----------
    predict
        Returns scores (N, K), larger for likelier classes, or labels (N,), of samples (N, n).
    x
        (N, n) samples.
    budget
        Most features (or groups) to change.
    queries
        Most samples passed to `predict` for each input.
    seed
        Seed of the search.
    domain
        (low, high) values that may be written, numbers or (n,) arrays; 0..255 by default for uint8,
        required for other types.
    group_size
        Number of consecutive features that are rewritten together, or (n,) the number 0..G-1 of the
        group of each feature, as `BoxNN.groups`.
    features
        (n,) bool, features that may change; all by default.

    Returns
    -------
    AttackResult
        Predictions are labels, or the column of the largest score (the first of equal ones).

    Raises
    ------
    InputError
        `x` is not numbers, or `predict` returns something else.
    OptionError
        An option is out of range.

    Notes
    -----
    In the manner of Sparse-RS (Croce et al., AAAI 2022).

    Examples
    --------
    >>> import numpy as np
    >>> from boxnn_numba.attacks import random_search
    >>> bright = lambda x: (x.sum(axis=1) > 500).astype(int)
    >>> result = random_search(bright, np.zeros((1, 6), np.uint8), budget=4)
    >>> result.changed, result.prediction
    (array([2], dtype=int32), array([1]))
    """
    matrix = validation.matrix("x", x)
    search = _Search(predict, matrix, budget, queries, seed, domain, group_size, features)
    while search.step():
        pass
    search.prune()
    return search.result()


class _Search:
    """The state of a search: inputs `current` (N, n), groups `chosen` (N, budget) changed."""

    def __init__(
        self,
        predict: Callable[[np.ndarray], Any],
        x: np.ndarray,
        budget: int,
        queries: int,
        seed: int,
        domain: tuple[ArrayLike, ArrayLike] | None,
        group_size: int | ArrayLike,
        features: ArrayLike | None,
    ) -> None:
        if x.dtype.kind not in "iuf":
            raise InputError(f"x has dtype {x.dtype}; it must hold numbers")
        n = x.shape[1]
        self.predict, self.x = predict, x
        self.groups = _groups(group_size, n)
        # (G, size) the features of each group; -1 fills those that are smaller.
        order = np.argsort(self.groups, kind="stable")
        sizes = np.bincount(self.groups)
        self.members = np.full((len(sizes), sizes.max()), -1)
        self.members[np.arange(sizes.max()) < sizes[:, None]] = order
        self.free = np.ones(n, bool)
        if features is not None:
            self.free = validation.mask("features", features, n)
        usable = np.bincount(self.groups, self.free) > 0
        if not usable.any():
            raise OptionError("features is False everywhere; let at least one feature change")
        self.low, self.high = validation.limits(domain, n, x.dtype)
        self.budget = validation.integer("budget", budget, 1, int(usable.sum()))
        self.queries = validation.positive("queries", queries)
        self.first = _answers(predict, x)
        # Beyond the random keys 0..1, and beyond those of groups that are changed already.
        self.offset = np.where(usable, 0.0, 3.0)
        self.rng = np.random.default_rng(validation.integer("seed", seed, 0))
        self._start()

    def _start(self) -> None:
        """Change as many groups of every input as the budget allows."""
        rows = len(self.x)
        self.used = np.ones(rows, np.int64)
        self.current = self.x.copy()
        self.flipped = np.zeros(rows, bool)
        self.loss = np.full(rows, np.inf)
        keys = self.rng.random((rows, len(self.offset))) + self.offset
        self.chosen = np.argsort(keys, axis=1)[:, : self.budget]
        everyone = np.flatnonzero(self.used < self.queries)
        self._accept(everyone, self._written(self.x[everyone], self.chosen[everyone]))

    def step(self) -> bool:
        """Replace a few changed groups of every input that has not flipped; False at the end."""
        active = np.flatnonzero(~self.flipped & (self.used < self.queries))
        if len(active) == 0:
            return False
        done = self.used[active[0]] / self.queries
        share = _SHARES[0] * (_SHARES[1] / _SHARES[0]) ** done
        moved = max(1, round(share * self.budget))
        chosen = self.rng.permuted(self.chosen[active], axis=1)
        keys = self.rng.random((len(active), len(self.offset))) + self.offset
        np.put_along_axis(keys, chosen[:, moved:], 2.0, axis=1)
        # In order, as processors differ in what order they leave them.
        fresh = np.sort(np.argpartition(keys, moved - 1, axis=1)[:, :moved], axis=1)
        trial = self._restored(self.current[active], active, chosen[:, :moved])
        trial = self._written(trial, fresh)
        better = self._accept(active, trial)
        chosen[:, :moved] = fresh
        self.chosen[active[better]] = chosen[better]
        return True

    def prune(self) -> None:
        """Take back one group after another where the prediction stays changed."""
        for place in range(self.budget):
            rows = np.flatnonzero(self.flipped & (self.used < self.queries))
            if len(rows) == 0:
                return
            groups = self.chosen[rows, place : place + 1]
            self._accept(rows, self._restored(self.current[rows], rows, groups), pruning=True)

    def result(self) -> AttackResult:
        """Return adversarial inputs, groups changed (-1 if not found) and predictions."""
        x_adv = np.where(self.flipped[:, None], self.current, self.x)
        changed = groups_changed(self.x, x_adv, self.groups)
        answers = _answers(self.predict, x_adv)
        prediction = answers.argmax(axis=1) if answers.ndim == 2 else answers
        changed = np.where(self.flipped, changed, -1).astype(np.int32)
        return AttackResult(x_adv, changed, prediction)

    def _columns(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and features, of those that may change, of groups (rows, q)."""
        columns = self.members[groups]
        rows = np.broadcast_to(np.arange(len(groups))[:, None, None], columns.shape)
        rows, columns = (part[columns >= 0] for part in (rows, columns))
        return rows[self.free[columns]], columns[self.free[columns]]

    def _restored(self, trial: np.ndarray, of: np.ndarray, groups: np.ndarray) -> np.ndarray:
        rows, columns = self._columns(groups)
        trial[rows, columns] = self.x[of[rows], columns]
        return trial

    def _written(self, trial: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Write random values into groups: one of the two limits, or anything between them."""
        rows, columns = self._columns(groups)
        low, high = self.low[columns], self.high[columns]
        if self.x.dtype.kind == "f":
            inside = low + (high - low) * self.rng.random(len(columns))
        else:
            inside = self.rng.integers(low, high, endpoint=True)
        kind = self.rng.integers(0, 3, len(columns))
        trial[rows, columns] = np.choose(kind, (low, high, inside))
        return trial

    def _accept(self, rows: np.ndarray, trial: np.ndarray, pruning: bool = False) -> np.ndarray:
        """Ask about new inputs for some rows and keep those that are no worse; say which."""
        if len(rows) == 0:
            return np.zeros(0, bool)
        self.used[rows] += 1
        loss, flipped = _margins(_answers(self.predict, trial), self.first[rows])
        better = flipped if pruning else flipped | (loss <= self.loss[rows])
        kept = rows[better]
        self.current[kept], self.loss[kept] = trial[better], loss[better]
        self.flipped[kept] = flipped[better]
        return better


def _groups(group_size: int | ArrayLike, n: int) -> np.ndarray:
    """Return the number of the group of each of n features."""
    if np.ndim(group_size) == 0:
        return np.arange(n) // validation.positive("group_size", cast(int, group_size))
    groups = np.asarray(group_size)
    if groups.shape != (n,) or groups.dtype.kind not in "iu" or groups.min() < 0:
        raise OptionError(
            f"`group_size` has shape {groups.shape} and dtype {groups.dtype}; pass a number, or "
            f"the groups of {n} features"
        )
    if len(np.unique(groups)) <= groups.max():
        raise OptionError(f"`group_size` leaves out numbers of 0..{groups.max()}; use each of them")
    return groups


def _answers(predict: Callable[[np.ndarray], Any], x: np.ndarray) -> np.ndarray:
    """Return scores (N, K) or labels (N,), checked."""
    answers = np.asarray(predict(x))
    fits = answers.ndim in (1, 2) and len(answers) == len(x)
    if not fits or (answers.ndim == 2 and answers.shape[1] < 2):
        raise InputError(
            f"predict returned shape {answers.shape} for {len(x)} samples; it must return scores "
            "(N, K) of at least two classes, or labels (N,)"
        )
    if answers.dtype.kind == "f" and np.isnan(answers).any():
        raise InputError("predict returned NaN; it must return numbers")
    return answers


def _margins(answers: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the first prediction is ahead, and whether another one is made now."""
    if answers.ndim == 1:
        flipped = answers != first
        return np.where(flipped, 0.0, 1.0), flipped
    predicted, rows = first.argmax(axis=1), np.arange(len(first))
    rest = answers.astype(np.float64)
    ahead = rest[rows, predicted].copy()
    rest[rows, predicted] = -np.inf
    return ahead - rest.max(axis=1), answers.argmax(axis=1) != predicted
