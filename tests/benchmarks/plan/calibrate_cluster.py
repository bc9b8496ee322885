"""Measure what Dask costs a plan: calls, tasks, arguments, on two local workers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks import method as bench_method
from benchmarks.plan.calibrate import WIDTH, sample_step, seconds

from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines.cluster.dask_executor import DaskExecutor
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job
from boxnn_numba.pipelines.plan.step import ROUNDS, step_phases
from boxnn_numba.pipelines.training.box_copies import BoxSender
from boxnn_numba.pipelines.training.cluster_trainer import forward_task, training_on
from boxnn_numba.training.cpu_trainer import CpuTrainer

if TYPE_CHECKING:
    from distributed import Client

# A call about as large as those of MNIST; arguments of tasks, and those that are put with a
# worker; and how many further calls or tasks there are.
_CALL_BYTES, _ARGUMENT_BYTES, _PLACED_BYTES, _MANY = 2**21, 2**23, 2**25, 100
# Steps, of which the first load kernels and open connections.
_BOXES, _STEPS, _WARM = 2560, 20, 3


def _resident(number: int) -> int:
    """Return the worker's resident bytes (runs on a worker, after some steps)."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _nothing(*arguments: Any) -> int:
    """Return next to nothing (runs on a worker)."""
    return len(arguments)


def _process_seconds(call: Callable[[], Any], rounds: int = 5) -> float:
    """Return the mean processor seconds that this process spends on a call."""
    call()
    began = time.process_time()
    for _ in range(rounds):
        call()
    return (time.process_time() - began) / rounds


def dask_constants(known: Constants) -> dict[str, float]:
    """Measure calls, tasks and transfers of two local workers.

    What a real step takes beyond the sum of its parts (arrays that are in no cache, waiting for
    the slower worker) counts as time of its calls or rounds of tasks.

    Parameters
    ----------
    known
        What was measured of this process.

    Raises
    ------
    ClusterError
        The local cluster does not start.
    """
    options = ClusterOptions(workers=2, threads_per_worker=1)
    with connect(options, 1) as local:
        if not isinstance(local, DaskExecutor):
            raise ClusterError("no local cluster was started; run the calibration again")
        # One that does not know that its workers are on this machine, and so uses no files.
        executor = DaskExecutor(local.client)
        if not executor.direct:
            raise ClusterError("the local workers cannot be reached; run the calibration again")
        found: dict[str, Any] = {**_calls(executor), **_tasks(executor)}
        found["worker_factor"], beyond = _called_steps(executor, replace(known, **found))
        found["call_seconds"] += beyond
        found["round_trip"] += _sharded_steps(executor.client, replace(known, **found))
        resident = max(executor.gather([executor.submit(_resident, i) for i in range(4)]))
        return {**found, "worker_bytes": float(resident)}


def _calls(executor: DaskExecutor) -> dict[str, float]:
    """Measure calls of one worker."""

    codes = np.ones(_CALL_BYTES, np.uint8)

    def call(size: int, count: int = 1) -> None:
        executor.ask(_nothing, [(number,) for number in range(count)], (codes[:size],), (0,))

    empty, large = seconds(lambda: call(1), 50), seconds(lambda: call(_CALL_BYTES), 20)
    # Client and scheduler are in this process: their time grows with the calls or tasks, whatever
    # the workers do.
    few, many, packed = (
        _process_seconds(functools.partial(call, *case), 10)
        for case in ((1, 1), (1, 1 + _MANY), (_CALL_BYTES, 1))
    )
    return {
        "call_seconds": empty,
        "message_seconds": max(1e-6, (many - few) / _MANY),
        "call_rate": _CALL_BYTES / max(1e-6, large - empty),
        "pack_rate": _CALL_BYTES / max(1e-6, packed - few),
    }


def _tasks(executor: DaskExecutor) -> dict[str, float]:
    """Measure rounds of tasks, and arguments that are put with a worker."""

    codes = np.ones(_PLACED_BYTES, np.uint8)

    def run(count: int, size: int = 1) -> None:
        executor.gather([executor.submit(_nothing, codes[:size], i) for i in range(count)])

    def put(size: int) -> None:
        executor.client.scatter(codes[:size], hash=False, direct=True)

    few, many = (_process_seconds(functools.partial(run, count)) for count in (1, 1 + _MANY))
    empty, loaded = (seconds(functools.partial(run, 1, size), 20) for size in (1, _ARGUMENT_BYTES))
    small, large = (seconds(functools.partial(put, size), 10) for size in (1, _PLACED_BYTES))
    return {
        "round_trip": empty,
        "argument_rate": _ARGUMENT_BYTES / max(1e-6, loaded - empty),
        # On hosts of their own client and scheduler would overlap: an upper bound.
        "task_seconds": max(1e-6, (many - few) / _MANY),
        "place_seconds": small,
        "serialise_rate": _PLACED_BYTES / max(1e-6, large - small),
    }


def _called_steps(executor: DaskExecutor, known: Constants) -> tuple[float, float]:
    """Return `worker_factor`, and the seconds of a step beyond those of its parts."""
    backend, make = training_on(executor, "cpu", 1)
    trainer, x, y = sample_step(bench_method.load_samples(None), _BOXES, make)
    half, statistics = len(y) // 2, trainer.statistics
    everything = BoxSender(backend).update(trainer.table, trainer.problem)
    here = seconds(lambda: forward_task(x[:half], y[:half], *everything))
    tasks, outside = [], []
    for _ in range(_STEPS):
        computed, began = statistics.computing, time.perf_counter()
        trainer.entries(x, y)
        spent = time.perf_counter() - began
        tasks.append((statistics.computing - computed) / 2)
        outside.append(spent - tasks[-1])
    phases = _phases(trainer, len(y), 0, known)
    parts = sum(phases.values()) - phases["distances"]
    beyond = float(np.median(outside[_WARM:])) - parts
    return max(1.0, float(np.median(tasks[_WARM:])) / here), max(0.0, beyond)


def _sharded_steps(client: Client, known: Constants) -> float:
    """Return the seconds of a round of tasks in a sharded step beyond those of its parts."""
    _, make = training_on(DaskExecutor(client, box_shards=2), "cpu", 1)
    trainer, x, y = sample_step(bench_method.load_samples(None), _BOXES, make)
    spent = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        trainer.entries(x, y)
        spent.append(time.perf_counter() - began)
    parts = sum(_phases(trainer, len(y), 2, known).values())
    return max(0.0, float(np.median(spent[_WARM:])) - parts) / ROUNDS


def _phases(trainer: CpuTrainer, rows: int, shards: int, known: Constants) -> dict[str, float]:
    """Return the predicted phases of looking at a batch on two workers; no box changes."""
    table, classes = trainer.table, len(trainer.problem.offsets) - 1
    job = Job(rows, table.n_features, table.n_boxes, classes, rows, WIDTH, validation=0)
    # On the loopback: its rate and latency are in the constants.
    hardware = Hardware(2, bandwidth=1e15, latency=0, box_shards=shards)
    still = replace(known, changed={table.n_boxes: 1e-9})
    phases = step_phases(job, hardware, still)
    return {name: phases[name] for name in phases if name not in ("rows gathered", "gradient")}
