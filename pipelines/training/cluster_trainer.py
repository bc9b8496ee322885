"""Cluster trainer: workers process samples, the client moves the boxes, step by step.

A step tells every worker which codes of the boxes (uint8) changed, and gives a piece of the
batch to every slot. A call returns its entries (sample, box, coefficient): the sparse partial
gradient in factored form, some hundred kilobytes where its rows would be megabytes. The client
adds them, which are sums of integers and so the same bits for any split,
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

from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.protocol import Backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import ClusterError, OptionError, first_line
from boxnn_numba.pipelines.cluster.dask_executor import DaskExecutor
from boxnn_numba.pipelines.cluster.executor import Executor
from boxnn_numba.pipelines.training.box_copies import BoxSender, BoxUpdate, Message, current_boxes
from boxnn_numba.training import softmin_stages
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.loader import Pair
from boxnn_numba.training.problem import Problem
from boxnn_numba.training.softmin_stages import Distances, Entries, Pulls, SoftMinStages
from boxnn_numba.training.trainer import MakeTrainer, trainer_on

#: A step whose boxes were lost with a worker is sent again this often.
_ATTEMPTS = 8
#: How long a call should take at least, and how many a slot gets in a step at most.
TASK_SECONDS, MOST_PIECES = 0.1, 2

Forward = tuple[Entries, np.ndarray, np.ndarray]


@dataclass
class StepStatistics:
    """How the time of a distributed run was spent.

    Attributes
    ----------
    steps, tasks
        How many steps, and calls of workers.
    computing
        Seconds that calls computed, all added.
    waiting
        Seconds that the client waited for workers: `kernels` while all of them computed, and
        the rest is messages and waiting for the slowest.
    bytes_sent, bytes_received
        Arrays sent to workers (codes of boxes, samples), and their answers.
    repeats
        Steps sent again because a worker was lost.
    """

    steps: int = 0
    tasks: int = 0
    computing: float = 0.0
    waiting: float = 0.0
    kernels: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    repeats: int = 0

    @classmethod
    def of(cls, trainers: Sequence[Any]) -> StepStatistics | None:
        """Return the sums over trainers, if they are on a cluster."""
        found = [one.statistics for one in trainers if isinstance(one, ClusterTrainer)]
        if not found:
            return None
        names = [item.name for item in fields(cls)]
        return cls(**{name: sum(getattr(one, name) for one in found) for name in names})


def size_of(*values: Any) -> int:
    """Return the bytes of the arrays among some values, and in tuples of them."""
    return sum(
        value.nbytes if isinstance(value, np.ndarray) else size_of(*value)
        for value in values
        if isinstance(value, np.ndarray | tuple)
    )


def narrowed(values: np.ndarray) -> np.ndarray:
    """Return integers in the smallest type that holds them."""
    low, high = values.min(initial=0), values.max(initial=0)
    for kind in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values


def packed(entries: Entries) -> tuple[np.ndarray, ...]:
    """Return entries as they travel: three arrays, as narrow as they can be."""
    return tuple(map(narrowed, entries.arrays()))


def joined(parts: Sequence[tuple[np.ndarray, ...]], samples: Any, boxes: Any) -> Entries:
    """Return all packed entries in order, the numbers of samples and boxes of each raised."""
    ends = np.cumsum([0, *(len(part[0]) for part in parts)])
    entries = Entries.empty(int(ends[-1]))
    for part, first, last, sample, box in zip(
        parts, ends[:-1], ends[1:], samples, boxes, strict=True
    ):
        for target, source, base in zip(entries.arrays(), part, (sample, box, 0), strict=True):
            np.add(source, base, out=target[first:last], dtype=target.dtype)
    return entries


#: Packed entries, objective and margin of every sample, and seconds.
Answer = tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray, float]


def forward_task(
    x: np.ndarray, labels: np.ndarray, update: BoxUpdate, *arrays: np.ndarray, device: str = "cpu"
) -> Answer | None:
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
    entries, values, margins = forward(backend, boxes.table, x, labels, boxes.problem)
    return packed(entries), values, margins, time.perf_counter() - began


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

    _sender: BoxSender | None = None  # before there are workers to tell

    def __init__(
        self,
        backend: CpuBackend,
        executor: DaskExecutor,
        device: str,
        masters: Pair,
        problem: Problem,
    ) -> None:
        super().__init__(backend, masters, problem)
        self._executor = executor
        self._task = functools.partial(forward_task, device=device)
        self.statistics = StepStatistics()
        self._sender = BoxSender()
        self._pieces = 1  # of a step, for each slot

    def steps_at_once(self, size: int) -> int:
        """Return 1: workers see the boxes of every step."""
        return 1

    def _settle(self) -> None:
        if self._sender is not None:
            self._sender.start_again()
        super()._settle()

    def _move_cells(self, first: int, last: int, *step: Any) -> None:
        super()._move_cells(first, last, *step)
        if self._sender is not None:
            starts = step[1].starts
            touched = (np.diff(starts[:, first : last + 1]) > 0).any(axis=0) | self._dense
            cells = first + np.flatnonzero(touched)
            self._sender.collect(cells, self._spans, self._shape, self._codes)

    def pulls(
        self, x: np.ndarray, samples: np.ndarray, labels: np.ndarray
    ) -> tuple[Pulls, np.ndarray, np.ndarray]:
        """Return what a batch says of the boxes, and each sample's objective and soft margin."""
        entries, values, margins = self.entries(x, labels)
        return Pulls.of(entries, self.table.n_boxes * len(self._spans)), values, margins

    def entries(self, x: np.ndarray, labels: np.ndarray) -> Forward:
        """Return the entries of a batch one by one, objective and margin."""
        from distributed import CancelledError

        began = time.perf_counter()
        assert self._sender is not None
        self._sender.advance(self._codes, self.problem)
        for _ in range(_ATTEMPTS):
            try:
                with self._executor.failures(lost_workers=False):
                    self._executor.count_workers()
                    if not self._executor.workers:
                        self._executor.wait_for_workers()
                    result = self._round(self._sender, x, labels)
                break
            except (CancelledError, OSError) as error:
                # What was on a worker went with it, or it could not be reached (calls touch no
                # files, so an OSError is the network's). Nothing was added yet: ask again.
                lost = first_line(error)
                self._executor.wait_for_workers()
                self.statistics.repeats += 1
        else:
            raise ClusterError(
                f"workers were lost {_ATTEMPTS} times in one step ({lost}); the last checkpoint is "
                "kept, continue with `resume` on a steadier cluster"
            )
        self.statistics.steps += 1
        self.statistics.waiting += time.perf_counter() - began
        return result

    def _round(self, sender: BoxSender, x: np.ndarray, labels: np.ndarray) -> Forward:
        executor, every = self._executor, (0, len(self.problem.structure.rows) - 1)
        count = min(executor.slots * self._pieces, len(labels))
        bounds = np.linspace(0, len(labels), count + 1).astype(int).tolist()
        pieces = [(x[a:b], labels[a:b]) for a, b in itertools.pairwise(bounds)]

        def everything() -> Message:
            message = sender.whole(every, self.table)
            self.statistics.bytes_sent += size_of(*message)
            return message

        update = sender.changes(every) or sender.whole(every, self.table)
        answers: list[Answer] = executor.ask(
            self._task, pieces, update, sender.reminder(every), everything
        )
        parts, values, margins, spent = zip(*answers, strict=True)
        entries = joined(parts, bounds[:-1], itertools.repeat(0, count))
        # What is cut is told to every slot, and else to every worker.
        told = executor.slots if self._pieces > 1 else min(count, len(executor.workers))
        self._count(told * size_of(*update) + x.nbytes + labels.nbytes, answers)
        self.statistics.computing += sum(spent)
        self.statistics.kernels += sum(spent) / executor.slots
        # Long calls are cut, so that nobody waits long for the slowest worker.
        seconds = self._pieces * float(np.median(spent))
        self._pieces = int(np.clip(seconds / TASK_SECONDS, 1, MOST_PIECES))
        return entries, np.concatenate(values), np.concatenate(margins)

    def _count(self, sent: int, answers: Sequence[Any]) -> None:
        self.statistics.tasks += len(answers)
        self.statistics.bytes_sent += sent
        self.statistics.bytes_received += size_of(*answers)


def _shard_of(update: BoxUpdate) -> tuple[Distances, SoftMinStages, Structure] | None:
    """Return what a step has kept of a shard on this worker, if it has."""
    boxes = current_boxes(update)
    return boxes.kept[0] if boxes is not None and boxes.kept else None


def shard_nearest(message: Message, x: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """Return the distances to the nearest boxes of a shard, by class (runs on a worker).

    The distances to all of its boxes are kept here. None where the worker lacks the boxes.
    """
    boxes = current_boxes(*message)
    if boxes is None:
        return None
    problem, structure, table = boxes.problem, boxes.structure, boxes.table
    backend = get_backend("cpu", 1)
    distances = Distances(backend, x, table, structure, labels, problem)
    stages = SoftMinStages(labels, problem)
    boxes.kept[:] = [(distances, stages, structure)]
    return stages.nearest(distances.values, structure.templates)


def shard_masses(update: BoxUpdate, minima: np.ndarray) -> np.ndarray | None:
    """Return the sums of weights of a shard, by the minima of all (runs on a worker)."""
    found = _shard_of(update)
    if found is None:
        return None
    distances, stages, structure = found
    stages.minima = minima
    stages.sides()
    stages.masses[:] = 0  # the call may be a second one
    return stages.weigh(distances.values, structure.templates)


def shard_entries(update: BoxUpdate, masses: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Return the packed entries of a shard, by the masses of all (runs on a worker)."""
    found = _shard_of(update)
    if found is None:
        return None
    distances, stages, structure = found
    stages.masses = masses
    stages.judge()
    return packed(distances.emit(stages, structure.templates))


def shard_spans(structure: Structure, count: int) -> list[tuple[int, int]]:
    """Return first and last templates of at most so many shards of about as many boxes each."""
    rows, last = structure.rows, len(structure.rows) - 1
    wanted = np.linspace(0, rows[-1], min(count, last) + 1)
    bounds = np.unique(np.searchsorted(rows, wanted))
    return list(itertools.pairwise(bounds.tolist()))


class ShardedTrainer(ClusterTrainer):
    """A trainer whose boxes are split too: no worker holds all of them.

    Three rounds per step: minima per class, sums of soft-min weights, entries. Each combines
    exactly (minima, and sums of integers), so the bits are those of one process. A worker keeps
    its shards, and what the rounds found, until the next step.
    """

    def _round(self, sender: BoxSender, x: np.ndarray, labels: np.ndarray) -> Forward:
        executor, structure = self._executor, self.problem.structure
        spans = shard_spans(structure, executor.box_shards)
        owners = list(itertools.islice(itertools.cycle(executor.seats), len(spans)))
        batch = SoftMinStages(labels, self.problem)

        def see(shards: Sequence[int], messages: Sequence[Message]) -> list[Any]:
            calls = [
                (owners[shard], (message,)) for shard, message in zip(shards, messages, strict=True)
            ]
            answers = executor.call_each(shard_nearest, calls, (x, labels))
            workers = len({worker for worker, _ in calls})
            self._count(size_of(*messages) + workers * size_of(x, labels), answers)
            return answers

        def ask(function: Any, known: np.ndarray) -> list[Any]:
            calls = [
                (owner, sender.reminder(span)) for owner, span in zip(owners, spans, strict=True)
            ]
            answers = executor.call_each(function, calls, (known,))
            if any(answer is None for answer in answers):
                raise OSError("a worker was started again in the middle of a step")
            self._count(known.nbytes * len(set(owners)), answers)
            return answers

        every = range(len(spans))
        minima = see(every, [
            sender.changes(span) or sender.whole(span, self.table) for span in spans
        ])  # fmt: skip
        lacking = [shard for shard in every if minima[shard] is None]
        again = see(lacking, [sender.whole(spans[shard], self.table) for shard in lacking])
        for shard, answer in zip(lacking, again, strict=True):
            minima[shard] = answer
        batch.minima = np.minimum.reduce(minima)
        batch.sides()
        batch.masses = np.add.reduce(ask(shard_masses, batch.minima))
        batch.judge()
        parts = ask(shard_entries, batch.masses)
        cells = [structure.n_parts * int(structure.rows[first]) for first, _ in spans]
        return joined(parts, itertools.repeat(0, len(spans)), cells), batch.value, batch.margin


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
