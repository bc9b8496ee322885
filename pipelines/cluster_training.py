"""Synchronous data-parallel training: workers look at samples, the client moves the boxes.

A step sends the deployed codes of the boxes (uint8) to every worker and a piece of the batch
to every slot. A task returns its entries (sample, box, coefficient): the sparse partial gradient
in factored form, some ten kilobytes where its rows would be megabytes. The client
expands and adds them, which are sums of integers and so the same bits for any split,
and steps. Masters never leave the client.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.backend import CpuBackend, get_backend
from boxnn_numba.errors import ClusterError
from boxnn_numba.feed import Pair
from boxnn_numba.pipelines.cluster import DaskExecutor, in_one_thread
from boxnn_numba.stepper import CpuStepper, Entries, forward
from boxnn_numba.training import StepInputs

#: A step whose boxes were lost with a worker is sent again this often.
_ATTEMPTS = 8

Forward = tuple[Entries, np.ndarray, np.ndarray]


@dataclass
class StepStatistics:
    """Where the time of a distributed run went.

    Attributes
    ----------
    steps, tasks
        How many of each.
    waiting, computing
        Seconds that the client waited for workers, and that tasks computed.
    bytes_sent
        Codes of boxes and samples sent to workers.
    repeats
        Steps sent again because a worker was lost.
    """

    steps: int = 0
    tasks: int = 0
    waiting: float = 0.0
    computing: float = 0.0
    bytes_sent: int = 0
    repeats: int = 0


def forward_task(
    codes: Pair, x: np.ndarray, labels: np.ndarray, inputs: StepInputs
) -> tuple[Forward, float]:
    """Return what some samples say of the boxes, and the seconds it took (runs on a worker)."""
    began = time.perf_counter()
    backend = get_backend("cpu", 1)
    result = forward(backend, backend.boxes(*codes), backend.samples(x), labels, inputs)
    return result, time.perf_counter() - began


class ClusterStepper(CpuStepper):
    """A stepper whose forward pass runs on a cluster."""

    def __init__(self, backend: ClusterBackend, masters: Pair, inputs: StepInputs) -> None:
        super().__init__(backend, masters, inputs)
        self._executor = backend.executor
        self.statistics = backend.statistics

    def entries(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        """Return the entries of a batch, and each sample's objective and soft margin."""
        from distributed import CancelledError
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError

        began = time.perf_counter()
        pieces = np.array_split(np.arange(len(labels)), min(self._executor.slots, len(labels)))
        for _ in range(_ATTEMPTS):
            try:
                results = self._round(x, labels, pieces)
                break
            except (CancelledError, FutureCancelledError, CommClosedError):
                # The scattered codes went with a worker: nothing was added, so ask again.
                self._executor.wait_for_workers()
                self.statistics.repeats += 1
        else:
            raise ClusterError(
                f"workers were lost {_ATTEMPTS} times in one step; the last checkpoint is kept, "
                "continue with --resume on a steadier cluster"
            )
        self.statistics.steps += 1
        self.statistics.tasks += len(pieces)
        self.statistics.computing += sum(seconds for _, seconds in results)
        self.statistics.waiting += time.perf_counter() - began
        parts = [result for result, _ in results]
        offsets = [int(piece[0]) for piece in pieces]
        entries = Entries.join([part[0] for part in parts], offsets)
        values, margins = (np.concatenate([part[side] for part in parts]) for side in (1, 2))
        return entries, values, margins

    def _round(
        self, x: np.ndarray, labels: np.ndarray, pieces: list[np.ndarray]
    ) -> list[tuple[Forward, float]]:
        client = self._executor.client
        codes = tuple(np.ascontiguousarray(side) for side in self.table.bounds())
        n = self.table.n_features
        boxes = client.scatter(codes, broadcast=True, hash=False, direct=self._executor.direct)
        futures = [
            client.submit(
                in_one_thread,
                forward_task,
                boxes,
                np.ascontiguousarray(x[piece, :n]),
                labels[piece],
                self.inputs,
                pure=False,
            )
            for piece in pieces
        ]
        workers = len(client.nthreads())
        self.statistics.bytes_sent += workers * sum(side.nbytes for side in codes) + n * len(labels)
        results: list[tuple[Forward, float]] = client.gather(futures, direct=self._executor.direct)
        return results


class ClusterBackend(CpuBackend):
    """The CPU backend of the client, with forward passes of training on a cluster.

    Parameters
    ----------
    threads
        Threads of the client, for gradients, updates and validation.
    executor
        The cluster.
    """

    def __init__(self, threads: int, executor: DaskExecutor) -> None:
        super().__init__(threads)
        self.executor = executor
        self.statistics = StepStatistics()

    def stepper(self, masters: Pair, inputs: StepInputs) -> ClusterStepper:
        """Return the training state of boxes with these master bounds."""
        return ClusterStepper(self, masters, inputs)


def training_backend(executor: Any, device: str, threads: int | None) -> CpuBackend:
    """Return the backend for training on an executor."""
    backend = get_backend(device, threads)
    if isinstance(executor, DaskExecutor):
        return ClusterBackend(backend.threads, executor)
    return backend
