"""Trainer: holds the boxes in training and moves them step by step, on one kind of machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.protocol import Backend
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.problem import Problem


class Trainer(Protocol):
    """Protocol of trainers: boxes in training on a kind of machine, with the same bits on each.

    `CpuTrainer`, `boxnn_numba.training.cuda_trainer.CudaTrainer` and
    `boxnn_numba.pipelines.training.cluster_trainer.ClusterTrainer` are trainers.

    Attributes
    ----------
    problem
        The tables of the run; steps follow when it is replaced.
    """

    problem: Problem

    def bounds(self) -> Pair:
        """Return the deployed bounds, (M, n) uint8; they may change with the next step."""

    def offset(self) -> np.ndarray:
        """Return the class offsets (K,) int64 that belong to the bounds, in units."""

    def batches(self, feed: Feed, epoch: int, size: int) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield samples and labels of an epoch, of one batch or several of `size` at a time."""

    def steps_at_once(self, size: int) -> int:
        """Return how many batches of `size` come at a time: 1, or more of one thread's work."""

    def steps(self, x: Any, labels: np.ndarray, ends: np.ndarray, rates: Sequence[float]) -> Any:
        """Improve the boxes on what `batches` yields, or on its last batches, at a rate each.

        A batch ends at each of `ends`.

        Returns the figures of its samples, for `fetch`.
        """

    def margins(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the soft margins of samples (N, n) uint8 of the host."""

    def fetch(self, figures: list[Any]) -> list[Pair]:
        """Return what steps returned as (objective, margin) of every sample, on the host."""

    def state(self) -> dict[str, np.ndarray]:
        """Return masters, moments and the number of steps: the same names on every machine."""

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""


#: Makes a trainer of master bounds, two (M, n) float32, and a problem.
MakeTrainer = Callable[[Pair, Problem], Trainer]


def trainer_on(backend: Backend) -> MakeTrainer:
    """Return what makes a trainer on the device of a backend."""
    if isinstance(backend, CpuBackend):
        return functools.partial(CpuTrainer, backend)
    from boxnn_numba.backends.cuda import CudaBackend
    from boxnn_numba.training.cuda_trainer import CudaTrainer

    assert isinstance(backend, CudaBackend)
    return functools.partial(CudaTrainer, backend)
