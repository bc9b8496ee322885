"""Exact radius: the true radius by mixed-integer programming, or bounds on it.

``margin <= pairwise <= exact``, and no attack needs fewer than exact + 1 changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.adversary import Adversary
from boxnn_numba.attacks.domain import Domain, domain_of
from boxnn_numba.attacks.greedy import greedy_attack
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.certificates.duel import duel
from boxnn_numba.certificates.integer_program import solve
from boxnn_numba.certificates.pairwise import OWN, BoxSets, pairwise_bounds
from boxnn_numba.classifier import Classifier, need_two_classes
from boxnn_numba.columns import is_table
from boxnn_numba.errors import InputError
from boxnn_numba.kernels.pairwise_bound import Table

#: Violated own combinations that are added to an integer program at a time.
_ADDED = 16


class ExactRadius(NamedTuple):
    """Bounds on the true radius of one input; equal where the radius is settled.

    Attributes
    ----------
    prediction
        Label of the input.
    lower, upper
        The true radius, the largest number of features (or groups) whose rewriting never changes
        the prediction, is in lower..upper; they differ if the time was up. With costs, the largest
        such budget.
    adversarial
        (n,) input with another prediction and ``upper + 1`` changes (with costs, for one unit more
        than ``upper``); None if none was found. ``upper`` is then the number, or cost, of all
        features (or groups) that may be rewritten.
    """

    prediction: Any
    lower: float
    upper: float
    adversarial: np.ndarray | None


def exact_radius(
    model: Classifier,
    x: ArrayLike,
    time_limit: float = 60.0,
    seed: int = 0,
    *,
    attackable: Any = None,
    costs: Any = None,
) -> ExactRadius:
    """Return the true radius of one input, or bounds on it, by mixed-integer programming.

    A rival is a template of another class, or for an ensemble another class. For each rival that
    the pairwise bound does not exclude, a program finds the fewest features, each with a code,
    after which the rival is nearer than every own box. It picks the rows of the rival part by part.
    Own boxes that a solution violates are added, and the program is solved again. `greedy_attack`
    gives the first upper bound.

    The codes of a group whose penalty is capped as a whole are chosen together. If there are too
    many combinations of codes, they are chosen one by one, with variables for the capped sums.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        One sample (n,) or of the model's feature shape. Where the model has columns, also a frame
        of one row, or cells by name: a mapping, or a row of a pandas frame.
    time_limit
        Seconds for this input, above 0.
    seed
        Seed of the attack.
    attackable, costs
        Which groups may be rewritten, and their costs, as for `Adversary.of`.

    Returns
    -------
    ExactRadius
        Unpacks as ``prediction, lower, upper, adversarial``.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, `x` is not one sample, or boxes are of one class only.
    OptionError
        `time_limit` is not above 0.

    Notes
    -----
    The result is sound although the solver uses floating point. All data are integers, and every
    inequality is relaxed by one half, which excludes no integer solution and is far above the
    solver's tolerances. A tolerance is subtracted from its bound before that is rounded up. Its
    solutions are checked by integer distances.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.certificates import exact_radius
    >>> model = BoxNN(Boxes([[0] * 5, [200] * 5], [[50] * 5, [255] * 5], [0, 1], 100), ["a", "b"])
    >>> prediction, lower, upper, adversarial = exact_radius(model, [25] * 5)
    >>> str(prediction), lower, upper, adversarial
    ('a', 2, 2, array([200, 200, 200,  25,  25], dtype=uint8))
    """
    _check(model, time_limit)
    row = _row(model, x)
    adversary = Adversary.of(model, attackable, costs)
    return _each(model, row, adversary, time_limit, threads=1, seed=seed)[0]


def exact_radii(
    model: Classifier,
    x: ArrayLike,
    time_limit: float = 60.0,
    threads: int | None = None,
    *,
    attackable: Any = None,
    costs: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds on the true radii of several inputs, see `exact_radius`.

    An exception in the calling thread, such as that of Ctrl-C, ends the search in all threads.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        Samples, as for `BoxNN.encode`.
    time_limit
        Seconds for each input, above 0.
    threads
        Number of inputs that are searched at a time, one in each thread; all cores by default.
    attackable, costs
        Which groups may be rewritten, and their costs, as for `Adversary.of`.

    Returns
    -------
    lower, upper : (N,) int32, with costs float64
        As in `ExactRadius`; they differ for inputs whose time was up.

    Raises
    ------
    InputError, OptionError
        As for `exact_radius`, or `threads` is below 1.
    """
    _check(model, time_limit)
    return exact_radii_of(model, x, Adversary.of(model, attackable, costs), time_limit, threads)


def exact_radii_of(
    model: Classifier,
    x: ArrayLike,
    adversary: Adversary,
    time_limit: float,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of the true radii of some inputs, as `exact_radii`, against an adversary."""
    found = _each(model, x, adversary, time_limit, threads)
    dtype = np.int32 if adversary.unit is None else np.float64
    lower, upper = np.array([(one.lower, one.upper) for one in found], dtype).reshape(-1, 2).T
    return lower, upper


def _check(model: Classifier, time_limit: float) -> None:
    validation.real("time_limit", time_limit, 0, open_low=True)
    need_two_classes(model)


def _row(model: Classifier, x: Any) -> np.ndarray:
    """Return one sample as a matrix of one row, matched by name where it has names."""
    names = () if model.columns is None else model.columns.names
    if isinstance(x, Mapping):
        if not names:
            raise InputError(
                "x has names and the model knows none of its columns; pass the values in order"
            )
        x = {name: [cell] if np.ndim(cell) == 0 else cell for name, cell in x.items()}
    elif names and validation.has_names(x, names):
        x = x.to_frame().T
    if names and is_table(x):
        rows = model.rows(x)
        if len(rows) != 1:
            raise InputError(f"x has {len(rows)} rows; pass one sample, or use exact_radii")
        return rows
    raw = np.asarray(x).reshape(1, -1)
    if raw.size != model.boxes.n_features:
        raise InputError(
            f"x has {raw.size} values and the model {model.boxes.n_features} features; pass one "
            "sample"
        )
    return raw


def precise_rows(model: Classifier, x: ArrayLike) -> np.ndarray:
    """Return samples as rows of raw values into which every code of a grid can be written."""
    rows = model.rows(x)
    return rows if model.grid is None else rows.astype(np.float64)  # float32 reaches not all


def _each(
    model: Classifier,
    x: ArrayLike,
    adversary: Adversary,
    time_limit: float,
    threads: int | None,
    seed: int = 0,
) -> list[ExactRadius]:
    """Settle the rows of x, each in a thread of a pool; what stops this thread stops them."""
    raw = precise_rows(model, x)
    codes, sets, stop = model.encode(raw), BoxSets(model, adversary), threading.Event()
    # Of several sets the kernels of all inputs know more than what each rival is asked for.
    known = pairwise_bounds(model, codes, adversary, threads)[1].tolist()
    limits = time_limit, seed, stop
    with ThreadPoolExecutor(get_backend("cpu", threads).threads) as pool:
        try:
            found = [
                pool.submit(_settled, sets, raw[i, None], codes[i, None], known[i], *limits)
                for i in range(len(codes))
            ]
            for one in wait(found, return_when=FIRST_EXCEPTION).done:
                one.result()
            return [one.result() for one in found]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _settled(
    sets: BoxSets,
    raw: np.ndarray,
    codes: np.ndarray,
    known: int,
    time_limit: float,
    seed: int,
    stop: threading.Event,
) -> ExactRadius:
    deadline, model, adversary = time.monotonic() + time_limit, sets.model, sets.adversary
    free = adversary.features(model.groups)
    attack = greedy_attack(model, raw, features=free, seed=seed, threads=1)
    with limit_threads(1):
        search = _Search(sets, codes[0], known, deadline, stop)
        label = np.asarray(model.classes)[search.own_class]
        flipped = attack.changed[0] >= 0 and attack.prediction[0] != label
        if flipped:
            after = model.encode(attack.x_adv)
            search.best = int(adversary.paid(codes, after, model.groups)[0])
        bounds = np.array([search.run(), search.best])
    if search.found is not None:
        domain = domain_of(model) if model.grid is not None else Domain(search.allowed)
        adversarial = domain.decode(raw, codes, search.found[None])[0]
    else:
        adversarial = attack.x_adv[0] if flipped else None
    lower, upper = adversary.radius(np.minimum(bounds, search.best)).tolist()
    return ExactRadius(label, lower, upper, adversarial)


class _Search:
    """The search for the cheapest attack on one input; `best` is the cost of the cheapest so far.

    No attack costs less than `known`.
    """

    def __init__(
        self,
        sets: BoxSets,
        codes: np.ndarray,
        known: int,
        deadline: float,
        stop: threading.Event,
    ) -> None:
        self.sets, self.model, self.codes, self.known = sets, sets.model, codes, known
        self.threat = sets.threats(codes[None])[0]
        self.own_class = self.threat.own_class
        free = sets.adversary.features(sets.model.groups)
        self.allowed = domain_of(sets.model, features=free).allowed
        self.best = int(sets.adversary.price[-1])
        self.found: np.ndarray | None = None
        self.deadline, self.stop = deadline, stop

    def run(self) -> int:
        """Settle one rival after another; return a lower bound on the cost of an attack."""
        rivals = self.threat.rivals(self.best)
        bounds = np.maximum(self.threat.bounds(rivals, self.best), self.known)
        least = self.best
        for place in np.argsort(bounds, kind="stable"):
            if bounds[place] >= self.best:
                break
            least = min(least, self._settle(int(rivals[place]), int(bounds[place])))
        return min(least, self.best)

    def _settle(self, rival: int, bound: int) -> int:
        """Return a lower bound on the cost for a rival to win; keep cheaper attacks found."""
        own = [_Rows(table) for table in self.sets.tables]
        for e, rows in enumerate(own):
            for t in self.threat.templates(e, self.own_class)[:OWN]:
                rows.add(int(t), self.threat.distances[e])
        while bound < self.best:
            seconds = self.deadline - time.monotonic()
            if seconds <= 0 or self.stop.is_set():
                return bound
            # One more change at a time: the fewer, the fewer rows of the rival come into question.
            # Costs may come in small steps, so there it is all that is open.
            limit = bound if self.sets.adversary.unit is None else self.best - 1
            program, written = duel(
                self.threat, rival, limit + 1, [rows.used for rows in own], self.allowed
            )
            proved, taken = solve(program, limit, seconds, self.stop, least=bound)
            if taken is None:
                if proved <= bound:
                    return bound
                bound = proved
                continue
            bound = max(bound, min(proved, limit))
            changed = written.apply(self.codes, taken)
            distances = self.sets.part_distances(changed[None])
            totals = self.sets.totals(distances)
            size = self._size_if_flipped(changed, totals)
            if size is not None and size < self.best:
                self.best, self.found = size, changed
                bound = min(bound, size)
                continue
            if size is not None or not self._add_nearest(own, rival, distances, totals):
                return bound
        return bound

    def _size_if_flipped(self, changed: np.ndarray, totals: list[np.ndarray]) -> int | None:
        if self.sets.class_totals(totals)[0].argmin() == self.own_class:
            return None
        paid = self.sets.adversary.paid(self.codes[None], changed[None], self.model.groups)
        return int(paid[0])

    def _add_nearest(
        self,
        own: list[_Rows],
        rival: int,
        distances: list[np.ndarray],
        totals: list[np.ndarray],
    ) -> bool:
        """Add own combinations that are nearer than the rival; say whether any is new.

        In an ensemble, the nearest of each set.
        """
        added = False
        for e, (rows, table) in enumerate(zip(own, self.sets.tables, strict=True)):
            first, last = np.searchsorted(table.labels, [self.own_class, self.own_class + 1])
            lead = totals[e][0, first:last]
            nearest = first + np.argsort(lead, kind="stable")[:_ADDED]
            if len(own) == 1:
                behind = totals[0][0, rival] + self.threat.ahead[table.labels[rival]]
                nearest = nearest[totals[0][0, nearest] < behind]
            for t in nearest:
                added |= rows.add(int(t), distances[e][0])
        return added


class _Rows:
    """The rows of own templates that a program knows, for each part; `used` by template."""

    def __init__(self, table: Table) -> None:
        self._rows = table.rows
        self._alone = np.diff(table.caps[table.groups[table.parts]]) == 1
        self.used: dict[int, list[list[int]]] = {}

    def add(self, t: int, distance: np.ndarray) -> bool:
        """Add the nearest rows of a template by distances (P, M); say whether any is new.

        In a part of one feature, where the least of all rows is as easy as one, all of them.
        """
        first, last = self._rows[t], self._rows[t + 1]
        nearest = (first + distance[:, first:last].argmin(axis=1)).tolist()
        if t not in self.used:
            every = list(range(first, last))
            self.used[t] = [every.copy() if alone else [] for alone in self._alone]
        known = self.used[t]
        fresh = [(rows, row) for rows, row in zip(known, nearest, strict=True) if row not in rows]
        for rows, row in fresh:
            rows.append(row)
        return bool(fresh)
