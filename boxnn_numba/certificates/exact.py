"""Exact radius: the true minimum by mixed-integer programming, or bounds of it.

``margin <= pairwise <= exact``, and no attack needs fewer than exact + 1 changes.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.attacks.domain import Domain, domain_of
from boxnn_numba.attacks.greedy import greedy_attack
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.certificates.integer_program import Program, choices, solve
from boxnn_numba.certificates.pairwise import nearest_own, overtaking_bounds
from boxnn_numba.classifier import Classifier
from boxnn_numba.distances import class_distance, pairwise_distance
from boxnn_numba.errors import InputError
from boxnn_numba.rivals import (
    group_count,
    groups_changed,
    need_one_set,
    need_two_classes,
    rivals_in_order,
)

#: Violated own boxes that are added to an integer program at a time.
_ADDED = 16


class ExactRadius(NamedTuple):
    """What is known of the true radius of one input.

    Attributes
    ----------
    prediction
        Label of the input.
    lower, upper
        The largest number of features (or groups) whose rewriting never changes the prediction
        is in lower..upper; they differ where the time was up.
    adversarial
        (n,) input with another prediction and ``upper + 1`` changes; None where none was found.
        ``upper`` is then the number of all features (or groups).
    """

    prediction: Any
    lower: int
    upper: int
    adversarial: np.ndarray | None


def exact_radius(
    model: Classifier, x: ArrayLike, time_limit: float = 60.0, seed: int = 0
) -> ExactRadius:
    """Return the true radius of one input, or bounds of it, by mixed-integer programming.

    For each rival box that the pairwise bound does not exclude: the fewest features, each with a
    code, after which it is nearer than every own box. Own boxes that a solution violates are added,
    and it is solved again. `greedy_attack` gives the upper bound to begin with.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        One sample (n,) or of the model's feature shape.
    time_limit
        Seconds for this input, above 0.
    seed
        Of the attack.

    Returns
    -------
    ExactRadius
        Unpacks as ``prediction, lower, upper, adversarial``.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, `x` is more than one sample, boxes are of one class only, or the
        model is an ensemble.
    OptionError
        `time_limit` is not above 0.

    Notes
    -----
    Sound in spite of the solver's floating point: all data are integers and every inequality is
    relaxed by one half, which excludes no integer solution and is far above the solver's
    tolerances; its bound is rounded up after a margin is taken off; its solutions are checked by
    the integer distances.

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
    raw = np.asarray(x).reshape(1, -1)
    if raw.size != model.boxes.n_features:
        raise InputError(
            f"x has {raw.size} values and the model {model.boxes.n_features} features; pass one "
            "sample"
        )
    return _each(model, raw, time_limit, threads=1, seed=seed)[0]


def exact_radii(
    model: Classifier, x: ArrayLike, time_limit: float = 60.0, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of the true radii of some inputs, by `exact_radius`.

    An exception in the thread that waits, as of Ctrl-C, ends the search in all others at once.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        Samples, as for `BoxNN.encode`.
    time_limit
        Seconds for each input, above 0.
    threads
        Inputs that are searched at a time, one to a thread; all cores by default.

    Returns
    -------
    lower, upper : (N,) int32
        As in `ExactRadius`; they differ where the time was up.

    Raises
    ------
    InputError, OptionError
        As for `exact_radius`, or `threads` is below 1.
    """
    _check(model, time_limit)
    found = _each(model, validation.flat_rows("x", x), time_limit, threads)
    lower, upper = np.array([[one.lower, one.upper] for one in found], np.int32).T
    return lower, upper


def _check(model: Classifier, time_limit: float) -> None:
    validation.real("time_limit", time_limit, 0, open_low=True)
    need_two_classes(model)
    need_one_set(model, "exact radii are")


def _each(
    model: Classifier, x: np.ndarray, time_limit: float, threads: int | None, seed: int = 0
) -> list[ExactRadius]:
    """Settle the rows of x, each in a thread of a pool; what stops this thread stops them."""
    # Of the raw values only float64 reaches every code of a grid.
    raw = x if model.grid is None else validation.features("x", x).astype(np.float64)
    codes, stop = model.encode(raw), threading.Event()
    with ThreadPoolExecutor(get_backend("cpu", threads).threads) as pool:
        try:
            found = [
                pool.submit(_settled, model, raw[i, None], codes[i, None], time_limit, seed, stop)
                for i in range(len(codes))
            ]
            for one in wait(found, return_when=FIRST_EXCEPTION).done:
                one.result()
            return [one.result() for one in found]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _settled(
    model: Classifier,
    raw: np.ndarray,
    codes: np.ndarray,
    time_limit: float,
    seed: int,
    stop: threading.Event,
) -> ExactRadius:
    deadline = time.monotonic() + time_limit
    attack = greedy_attack(model, raw, seed=seed, threads=1)
    with limit_threads(1):
        hunt = _Hunt(model, codes, int(attack.changed[0]), deadline, stop)
        lower = hunt.run() - 1
    if hunt.found is not None:
        domain = domain_of(model) if model.grid is not None else Domain(hunt.allowed)
        adversarial = domain.decode(raw, codes, hunt.found[None])[0]
    else:
        adversarial = attack.x_adv[0] if attack.changed[0] >= 0 else None
    label = np.asarray(model.classes)[hunt.own_class]
    return ExactRadius(label, lower, hunt.best - 1, adversarial)


class _Hunt:
    """The search for the smallest attack on one input: `best` groups so far."""

    def __init__(
        self,
        model: Classifier,
        codes: np.ndarray,
        changed: int,
        deadline: float,
        stop: threading.Event,
    ) -> None:
        distance = pairwise_distance(codes, model.boxes)
        predicted, order = rivals_in_order(distance, model.boxes, len(model.boxes))
        self.model, self.codes, self.distance = model, codes[0], distance[0]
        self.own_class = int(predicted[0])
        self.rivals = order[0][: int((model.boxes.labels != self.own_class).sum())]
        self.allowed = domain_of(model).allowed
        self.best = changed if changed >= 0 else group_count(model) + 1
        self.found: np.ndarray | None = None
        self.deadline, self.stop = deadline, stop

    def run(self) -> int:
        """Settle one rival box after another; return how many groups must change at least."""
        bounds = overtaking_bounds(
            self.model, self.codes, self.distance, self.own_class, self.rivals, self.best, False
        )
        least = self.best
        for place in np.argsort(bounds, kind="stable"):
            if bounds[place] >= self.best:
                break
            least = min(least, self._settle(int(self.rivals[place]), int(bounds[place])))
        return min(least, self.best)

    def _settle(self, box: int, bound: int) -> int:
        """Return how many groups must change before a rival box wins; smaller attacks are kept."""
        boxes = self.model.boxes
        ahead = int(boxes.labels[box] > self.own_class)
        own = nearest_own(boxes, self.distance, self.own_class)
        while bound < self.best:
            seconds = self.deadline - time.monotonic()
            if seconds <= 0 or self.stop.is_set():
                return bound
            program = self._program(box, own, ahead)
            proved, taken = solve(program, self.best - 1, seconds, self.stop)
            bound = max(bound, min(self.best, proved))
            if taken is None:
                return bound
            changed = self.codes.copy()
            changed[program.features[taken]] = program.values[taken]
            size = self._size_if_flipped(changed)
            if size is not None and size < self.best:
                self.best, self.found = size, changed
                bound = min(bound, size)
                continue
            fresh = self._violated(changed, box, ahead, own)
            if size is not None or len(fresh) == 0:
                return bound
            own = np.concatenate([own, fresh])
        return bound

    def _program(self, box: int, own: np.ndarray, ahead: int) -> Program:
        boxes = self.model.boxes
        features, values, gains = choices(
            self.codes, (boxes.lower[own], boxes.upper[own]),
            (boxes.lower[box], boxes.upper[box]), boxes.width, self.allowed,
        )  # fmt: skip
        gaps = self.distance[box].astype(np.int64) - self.distance[own] + ahead
        return Program(features, values, gains, gaps, self.model.group_size)

    def _size_if_flipped(self, changed: np.ndarray) -> int | None:
        if class_distance(changed[None], self.model.boxes)[0].argmin() == self.own_class:
            return None
        return int(groups_changed(self.codes[None], changed[None], self.model.groups)[0])

    def _violated(self, changed: np.ndarray, box: int, ahead: int, own: np.ndarray) -> np.ndarray:
        """Return own boxes that are still nearer than the rival box and not in the program."""
        boxes = self.model.boxes
        first, last = boxes.offsets[self.own_class], boxes.offsets[self.own_class + 1]
        distance = pairwise_distance(changed[None], boxes)[0].astype(np.int64)
        lead = distance[first:last] - distance[box] - ahead
        lead[own - first] = 0
        worst = np.argsort(lead, kind="stable")[:_ADDED]
        return first + worst[lead[worst] < 0]
