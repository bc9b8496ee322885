"""Synchronous data-parallel training: workers look at samples, the client moves the boxes.

A step sends the deployed codes of the boxes (uint8) to every worker and a piece of the batch
to every slot. A task returns its entries (sample, box, coefficient): the sparse partial gradient
in factored form, some ten kilobytes where its rows would be megabytes. The client
expands and adds them, which are sums of integers and so the same bits for any split,
and steps. Masters never leave the client.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.backend import CpuBackend, get_backend
from boxnn_numba.errors import ClusterError
from boxnn_numba.feed import Pair
from boxnn_numba.pipelines.cluster import DaskExecutor, Executor
from boxnn_numba.stepper import CpuStepper, Entries, Judgement, forward
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

    def add(self, tasks: int, bytes_sent: int, computing: float) -> None:
        """Count the tasks of a step."""
        self.tasks += tasks
        self.bytes_sent += bytes_sent
        self.computing += computing


def forward_task(
    codes: Pair, x: np.ndarray, labels: np.ndarray, inputs: StepInputs
) -> tuple[Forward, float]:
    """Return what some samples say of the boxes, and the seconds it took (runs on a worker)."""
    began = time.perf_counter()
    backend = get_backend("cpu", 1)
    result = forward(backend, backend.boxes(*codes), backend.samples(x), labels, inputs)
    return result, time.perf_counter() - began


class ClusterStepper(CpuStepper):
    """A stepper whose forward pass runs on a cluster; every worker gets all boxes."""

    def __init__(self, backend: ClusterBackend, masters: Pair, inputs: StepInputs) -> None:
        super().__init__(backend, masters, inputs)
        self._executor = backend.executor
        self.statistics = backend.statistics

    def entries(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        """Return the entries of a batch, and each sample's objective and soft margin."""
        from distributed import CancelledError

        began = time.perf_counter()
        codes = np.ascontiguousarray(x[: len(labels), : self.table.n_features])
        for _ in range(_ATTEMPTS):
            try:
                with self._executor.failures(lost_workers=False):
                    result = self._round(codes, labels)
                break
            except (CancelledError, OSError):
                # What was on a worker went with it, or it could not be reached (tasks touch no
                # files, so an OSError is the network's). Nothing was added yet: ask again.
                self._executor.wait_for_workers()
                self.statistics.repeats += 1
        else:
            raise ClusterError(
                f"workers were lost {_ATTEMPTS} times in one step; the last checkpoint is kept, "
                "continue with --resume on a steadier cluster"
            )
        self.statistics.steps += 1
        self.statistics.waiting += time.perf_counter() - began
        return result

    def _round(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        executor = self._executor
        pieces = np.array_split(np.arange(len(labels)), min(executor.slots, len(labels)))
        codes = tuple(np.ascontiguousarray(side) for side in self.table.bounds())
        boxes = executor.client.scatter(codes, broadcast=True, hash=False, direct=executor.direct)
        futures = [
            executor.submit(forward_task, boxes, x[piece], labels[piece], self.inputs)
            for piece in pieces
        ]
        results = executor.gather(futures)
        sent = sum(side.nbytes for side in codes) * len(executor.client.nthreads()) + x.nbytes
        self.statistics.add(len(pieces), sent, sum(seconds for _, seconds in results))
        parts = [result for result, _ in results]
        entries = Entries.join([part[0] for part in parts], [int(piece[0]) for piece in pieces])
        values, margins = (np.concatenate([part[side] for part in parts]) for side in (1, 2))
        return entries, values, margins


@dataclass
class Shard:
    """Distances of a batch to some boxes, kept on the worker that computed them."""

    distance: np.ndarray
    offsets: np.ndarray


def shard_distances(codes: Pair, x: np.ndarray, offsets: np.ndarray, inputs: StepInputs) -> Shard:
    """Return the distances of a batch to the boxes of a shard (runs on a worker)."""
    backend, options = get_backend("cpu", 1), inputs.options
    table = backend.boxes(*codes)
    boxes = backend.operands(table, options.relaxation)
    distance = backend.distances(
        backend.samples(x), 0, len(x), boxes, (0, table.n_boxes), options.forward_width,
        options.relaxation,
    )  # fmt: skip
    return Shard(distance, offsets)


def shard_minima(shard: Shard, blank: Judgement) -> np.ndarray:
    """Return the (batch, K) distances to the nearest box of each class in a shard."""
    blank.see_minima(shard.distance, shard.offsets)
    return blank.minima


def shard_masses(shard: Shard, sided: Judgement) -> np.ndarray:
    """Return a shard's part of the soft-min sums, integers (batch, 4)."""
    sided.see_masses(shard.distance, shard.offsets)
    return sided.masses


def shard_entries(shard: Shard, judged: Judgement) -> Entries:
    """Return the entries of a shard, boxes counted within it."""
    room = Entries.empty(64 * len(judged.labels))
    count = judged.emit(shard.distance, shard.offsets, 0, room, 0)
    if count > len(room.boxes):
        room = Entries.empty(count)
        judged.emit(shard.distance, shard.offsets, 0, room, 0)
    return room.first(count)


class ShardedStepper(ClusterStepper):
    """A stepper whose boxes are split too: no worker holds all of them.

    Three rounds per step: minima per class, sums of soft-min weights, entries. Each combines
    exactly (minima, and sums of integers), so the bits are those of one process.
    """

    def _round(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        executor, inputs = self._executor, self.inputs
        lower, upper = self.table.bounds()
        bounds = np.linspace(0, len(lower), min(executor.box_shards, len(lower)) + 1).astype(int)
        spans = list(itertools.pairwise(bounds.tolist()))
        shards = [
            executor.submit(
                shard_distances,
                (np.ascontiguousarray(lower[a:b]), np.ascontiguousarray(upper[a:b])),
                x,
                np.clip(inputs.offsets - a, 0, b - a),
                inputs,
            )
            for a, b in spans
        ]
        batch = Judgement(labels, inputs)
        for minima in self._stage(shard_minima, shards, batch):
            np.minimum(batch.minima, minima, out=batch.minima)
        batch.choose_sides()
        for masses in self._stage(shard_masses, shards, batch):
            batch.masses += masses
        batch.judge()
        parts = self._stage(shard_entries, shards, batch)
        for part, (first, _) in zip(parts, spans, strict=True):
            part.boxes += np.int32(first)
        self.statistics.add(4 * len(shards), 2 * lower.nbytes + len(shards) * x.nbytes, 0.0)
        return Entries.join(parts, [0] * len(parts)), batch.value, batch.margin

    def _stage(self, function: Any, shards: list[Any], batch: Judgement) -> list[Any]:
        executor = self._executor
        return executor.gather([executor.submit(function, shard, batch) for shard in shards])


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
        kind = ShardedStepper if self.executor.box_shards else ClusterStepper
        return kind(self, masters, inputs)


def training_backend(executor: Executor, device: str, threads: int | None) -> CpuBackend:
    """Return the backend for training on an executor."""
    backend = get_backend(device, threads)
    if isinstance(executor, DaskExecutor):
        return ClusterBackend(backend.threads, executor)
    return backend
