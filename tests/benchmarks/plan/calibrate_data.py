"""Measure what a plan needs to know of the data: how many boxes a sample moves, and how far."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from benchmarks.method import Samples

from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.pipelines.plan.inputs import CHANGE_BATCH
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.options import resolve
from boxnn_numba.training.problem import Problem
from boxnn_numba.training.run import Training
from boxnn_numba.training.softmin_stages import Pulls

#: Boxes that are trained, as far as there are samples to begin with, and for how many epochs.
BOXES, EPOCHS = (500, 2500, 10_000, 25_000), 2


class _WatchedTrainer(CpuTrainer):
    """A trainer that notes the entries of a sample and the part of the codes that changes."""

    at_once = False

    def __init__(self, backend: CpuBackend, masters: Pair, problem: Problem) -> None:
        super().__init__(backend, masters, problem)
        self.entries_per_sample: list[float] = []
        self.changed: list[float] = []

    def steps_at_once(self, size: int) -> int:
        return 1

    def step(self, x: np.ndarray, labels: np.ndarray, rate: float) -> Pair:
        before = [side.copy() for side in self.table.bounds()]
        result = super().step(x, labels, rate)
        pairs = zip(before, self.table.bounds(), strict=True)
        self.changed.append(float(np.mean([(old != new).mean() for old, new in pairs])))
        return result

    def pulls(
        self, x: np.ndarray, samples: np.ndarray, labels: np.ndarray
    ) -> tuple[Pulls, np.ndarray, np.ndarray]:
        found = super().pulls(x, samples, labels)
        self.entries_per_sample.append(len(found[0].entries().boxes) / len(labels))
        return found


def data_constants(
    samples: Samples, advance: Callable[[], None] = lambda: None
) -> dict[str, dict[int, float]]:
    """Train on a data set and return the means of ``entries`` and ``changed``.

    Parameters
    ----------
    samples
        Codes and classes; the test set is not looked at.
    advance
        Called after each number of boxes.
    """
    x, y = samples.train
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    fits = int(np.bincount(y, minlength=samples.n_classes).min()) * samples.n_classes
    found: dict[str, dict[int, float]] = {"entries": {}, "changed": {}}
    for boxes in (count for count in BOXES if count <= fits):
        options = resolve("graded", {"boxes": boxes, "batch": CHANGE_BATCH, "epochs": EPOCHS})
        backend = get_backend("cpu")
        watched = functools.partial(_WatchedTrainer, backend)
        run = Training(options, feed, samples.n_classes, backend, make_trainer=watched)
        for _ in range(EPOCHS):
            run.run_epoch()
        trainer = run.trainer
        assert isinstance(trainer, _WatchedTrainer)
        # The first entries are those that the clip is chosen by.
        found["entries"][boxes // samples.n_classes] = float(
            np.mean(trainer.entries_per_sample[1:])
        )
        found["changed"][boxes] = float(np.mean(trainer.changed))
        advance()
    return found
