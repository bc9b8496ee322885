"""Cluster trainer: workers look at samples, the client moves the boxes, step by step.

A step tells every worker which codes of the boxes (uint8) changed, and gives a piece of the
batch to every slot. A task returns its entries (sample, box, coefficient): the sparse partial
gradient in factored form, some ten kilobytes where its rows would be megabytes. The client
expands and adds them, which are sums of integers and so the same bits for any split,
and steps. Masters never leave the client.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from boxnn_numba.backends.box_layout import box_table, frame_of
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.protocol import Backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import ClusterError, OptionError
from boxnn_numba.pipelines.cluster.dask_executor import DaskExecutor
from boxnn_numba.pipelines.cluster.executor import Executor
from boxnn_numba.pipelines.training.box_copies import BoxSender, BoxUpdate, Message, current_boxes
from boxnn_numba.training import softmin_stages
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.loader import Pair
from boxnn_numba.training.problem import Problem
from boxnn_numba.training.softmin_stages import Distances, Entries, SoftMinStages
from boxnn_numba.training.trainer import MakeTrainer, trainer_on

#: A step whose boxes were lost with a worker is sent again this often.
_ATTEMPTS = 8
#: How long a task should take at least, and how many a slot gets in a step at most.
TASK_SECONDS, MOST_PIECES = 0.1, 4

Forward = tuple[Entries, np.ndarray, np.ndarray]


@dataclass
class StepStatistics:
    """Where the time of a distributed run went.

    Attributes
    ----------
    steps, tasks
        How many of each.
    computing
        Seconds that tasks computed, all added.
    waiting
        Seconds that the client waited for workers: `kernels` while all of them computed,
        `transfer` of large arguments, and the rest is messages and waiting for the slowest.
    bytes_sent
        Codes of boxes and samples sent to workers.
    repeats
        Steps sent again because a worker was lost.
    """

    steps: int = 0
    tasks: int = 0
    computing: float = 0.0
    waiting: float = 0.0
    kernels: float = 0.0
    transfer: float = 0.0
    bytes_sent: int = 0
    repeats: int = 0

    def add(self, tasks: int, bytes_sent: int, computing: float, kernels: float) -> None:
        """Count the tasks of a step."""
        self.tasks += tasks
        self.bytes_sent += bytes_sent
        self.computing += computing
        self.kernels += kernels

    @classmethod
    def of(cls, trainers: Sequence[Any]) -> StepStatistics | None:
        """Return the sums over trainers, if they are on a cluster."""
        found = [one.statistics for one in trainers if isinstance(one, ClusterTrainer)]
        if not found:
            return None
        names = [item.name for item in fields(cls)]
        return cls(**{name: sum(getattr(one, name) for one in found) for name in names})


def forward_task(
    x: np.ndarray, labels: np.ndarray, update: BoxUpdate, *arrays: np.ndarray, device: str = "cpu"
) -> tuple[Forward, float] | None:
    """Return what some samples say of the boxes, and the seconds it took (runs on a worker).

    None where the update builds on boxes that the worker does not have.
    """
    boxes = current_boxes(update, *arrays)
    if boxes is None:
        return None
    began = time.perf_counter()
    backend: Any = get_backend(device, 1)
    forward: Any = softmin_stages.forward
    if backend.name == "cuda":
        from boxnn_numba.training import cuda_trainer

        forward = cuda_trainer.forward
    result = forward(backend, boxes.table, x, labels, boxes.problem)
    return result, time.perf_counter() - began


class ClusterTrainer(CpuTrainer):
    """A trainer whose forward pass runs on a cluster; every worker gets all boxes.

    Parameters
    ----------
    backend
        The client's, for gradients and updates.
    executor
        The cluster.
    device
        Where workers compute, ``"cpu"`` or ``"cuda"``.
    masters, problem
        As for `CpuTrainer`.
    """

    at_once = False  # workers compute, whatever there is

    def __init__(
        self,
        backend: CpuBackend,
        executor: DaskExecutor,
        device: str,
        masters: Pair,
        problem: Problem,
    ) -> None:
        super().__init__(backend, masters, problem)
        self._executor, self._device = executor, device
        self.statistics = StepStatistics()
        self._sender = BoxSender(backend)
        self._update: Message | None = None
        self._pieces = 1  # of a step, for each slot

    def entries(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        """Return the entries of a batch, and each sample's objective and soft margin."""
        from distributed import CancelledError

        began = time.perf_counter()
        self._update = None
        self._executor.forget_placed()
        for _ in range(_ATTEMPTS):
            try:
                with self._executor.failures(lost_workers=False):
                    result = self._round(x, labels)
                break
            except (CancelledError, OSError):
                # What was on a worker went with it, or it could not be reached (tasks touch no
                # files, so an OSError is the network's). Nothing was added yet: ask again.
                self._executor.wait_for_workers()
                self.statistics.repeats += 1
        else:
            raise ClusterError(
                f"workers were lost {_ATTEMPTS} times in one step; the last checkpoint is kept, "
                "continue with `resume` on a steadier cluster"
            )
        self.statistics.steps += 1
        self.statistics.waiting += time.perf_counter() - began
        self.statistics.transfer = self._executor.moving
        return result

    def _round(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        executor = self._executor
        executor.count_workers()
        if self._update is None:  # a step that is asked for again says the same
            self._update = self._sender.update(self.table, self.problem)
        count = min(executor.slots * self._pieces, len(labels))
        bounds = np.linspace(0, len(labels), count + 1).astype(int).tolist()
        pieces = [(x[a:b], labels[a:b]) for a, b in itertools.pairwise(bounds)]
        results = self._ask(self._update, pieces)
        lacking = [index for index, result in enumerate(results) if result is None]
        if lacking:  # new workers, or ones without a task in the step before
            answers = self._ask(self._sender.whole(), [pieces[index] for index in lacking])
            for index, answer in zip(lacking, answers, strict=True):
                results[index] = answer
            self._sender.start_again()
        parts = [result for result, _ in results]
        entries = Entries.join(
            [part[0].shifted(samples=a) for part, a in zip(parts, bounds, strict=False)]
        )
        values, margins = (np.concatenate([part[side] for part in parts]) for side in (1, 2))
        # Long tasks are cut, so that nobody waits long for the slowest worker.
        seconds = self._pieces * float(np.median([seconds for _, seconds in results]))
        self._pieces = int(np.clip(seconds / TASK_SECONDS, 1, MOST_PIECES))
        return entries, values, margins

    def _ask(self, update: Message, pieces: Sequence[Pair]) -> list[Any]:
        """Return what workers answer to (samples, labels), None where one lacks boxes."""
        executor = self._executor
        task = functools.partial(forward_task, device=self._device)
        answers = executor.ask(task, pieces, update, self._sender.reminder())
        seconds = [answer[1] for answer in answers if answer is not None]
        sent = len(executor.workers) * sum(array.nbytes for array in update[1:])
        sent += sum(x.nbytes for x, _ in pieces)
        self.statistics.add(len(pieces), sent, sum(seconds), sum(seconds) / executor.slots)
        return answers


@dataclass
class Shard:
    """Distances of a batch to some templates, kept on the worker that computed them."""

    distances: Distances
    offsets: np.ndarray


def shard_distances(
    codes: np.ndarray, x: np.ndarray, labels: np.ndarray, structure: Structure, problem: Problem
) -> Shard:
    """Return the distances of a batch to the boxes (2, m, n) of a shard (runs on a worker)."""
    backend = get_backend("cpu", 1)
    lower, upper = codes
    table = box_table(lower, upper, frame_of(structure.part, structure.group))
    boxes = backend.operands(table, structure, problem.options.relaxation)
    samples = backend.samples(x, table.frame)
    found = Distances(backend, samples, boxes, structure, labels, problem)
    return Shard(found, structure.templates)


def shard_stage(shard: Shard, stages: SoftMinStages, name: str) -> Any:
    """Return what a shard says in a stage: minima, masses, or entries (runs on a worker)."""
    values = shard.distances.values
    if name == "emit":
        room, count = shard.distances.emit(stages, shard.offsets)
        return room.first(count)
    return getattr(stages, name)(values, shard.offsets)


def shard_spans(structure: Structure, count: int) -> list[tuple[int, int]]:
    """Return first and last templates of at most so many shards of about as many boxes each."""
    rows, last = structure.rows, len(structure.rows) - 1
    wanted = np.linspace(0, rows[-1], min(count, last) + 1)
    bounds = np.unique(np.searchsorted(rows, wanted))
    return list(itertools.pairwise(bounds.tolist()))


class ShardedTrainer(ClusterTrainer):
    """A trainer whose boxes are split too: no worker holds all of them.

    Three rounds per step: minima per class, sums of soft-min weights, entries. Each combines
    exactly (minima, and sums of integers), so the bits are those of one process.
    """

    def _round(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        executor, problem = self._executor, self.problem
        lower, upper = self.table.bounds()
        structure, spans = problem.structure, shard_spans(problem.structure, executor.box_shards)
        rows = [tuple(structure.rows[[a, b]].tolist()) for a, b in spans]
        samples = executor.place(x, everywhere=True)
        shards = [
            executor.submit(
                shard_distances,
                executor.place(np.stack((lower[first:last], upper[first:last]))),
                samples,
                labels,
                structure.cut(a, b),
                problem,
            )
            for (a, b), (first, last) in zip(spans, rows, strict=True)
        ]
        batch = SoftMinStages(labels, problem)
        for minima in self._stage("nearest", shards, batch):
            np.minimum(batch.minima, minima, out=batch.minima)
        batch.sides()
        for masses in self._stage("weigh", shards, batch):
            batch.masses += masses
        batch.judge()
        parts = self._stage("emit", shards, batch)
        cells = structure.n_parts
        entries = [
            part.shifted(boxes=cells * first) for part, (first, _) in zip(parts, rows, strict=True)
        ]
        self.statistics.add(4 * len(shards), 2 * lower.nbytes + len(shards) * x.nbytes, 0.0, 0.0)
        return Entries.join(entries), batch.value, batch.margin

    def _stage(self, name: str, shards: list[Any], batch: SoftMinStages) -> list[Any]:
        executor = self._executor
        return executor.gather(
            [executor.submit(shard_stage, shard, batch, name) for shard in shards]
        )


def training_on(
    executor: Executor, device: str, threads: int | None
) -> tuple[Backend, MakeTrainer]:
    """Return the backend of this process, and what makes the trainer, of a run on an executor."""
    if not isinstance(executor, DaskExecutor):
        here = get_backend(device, threads)
        return here, trainer_on(here)
    if executor.box_shards and device == "cuda":
        raise OptionError("`box_shards` are computed on CPUs; leave it out or use `device` cpu")
    # Workers that are not told to use a GPU share none by accident.
    where, backend = "cuda" if device == "cuda" else "cpu", get_backend("cpu", threads)
    kind = ShardedTrainer if executor.box_shards else ClusterTrainer
    return backend, functools.partial(kind, backend, executor, where)
