"""Measure what Dask costs a plan: calls and tasks, on two local workers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from benchmarks import method as bench_method
from benchmarks.plan.calibrate import WIDTH, sample_step, seconds

from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines.cluster.dask_executor import DaskExecutor
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job
from boxnn_numba.pipelines.plan.step import step_phases
from boxnn_numba.pipelines.training.box_copies import BoxSender
from boxnn_numba.pipelines.training.cluster_trainer import forward_task, training_on
from boxnn_numba.training.cpu_trainer import CpuTrainer

# A call about as large as those of MNIST, and how many further calls or tasks there are.
_CALL_BYTES, _MANY = 2**21, 100
# Steps, of which the first load kernels and open connections.
_BOXES, _STEPS, _WARM = 2560, 20, 3


def _resident() -> int:
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
    """Measure calls and tasks of two local workers.

    What a real step takes beyond the sum of its parts (arrays that are in no cache, waiting for
    the slower worker) counts as time of its calls.

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
        executor = local
        if not executor.direct:
            raise ClusterError("the local workers cannot be reached; run the calibration again")
        found: dict[str, Any] = {**_calls(executor), **_tasks(executor)}
        found["worker_factor"], beyond = _called_steps(executor, replace(known, **found))
        found["call_seconds"] += beyond
        workers = executor.client.run(_resident)
        return {**found, "worker_bytes": float(max(workers.values()))}


def _calls(executor: DaskExecutor) -> dict[str, float]:
    """Measure calls of one worker."""

    codes, worker = np.ones(_CALL_BYTES, np.uint8), executor.seats[0]

    def call(size: int, count: int = 1) -> None:
        # One by one: calls of the same worker would be one message.
        work = [(worker, [(codes[:size],)])]
        executor._together([executor._call(_nothing, (), work) for _ in range(count)])

    def answer(size: int) -> None:
        executor.call_each(np.ones, [(worker, (size, np.uint8))])

    empty, large = seconds(lambda: call(1), 50), seconds(lambda: call(_CALL_BYTES), 20)
    # Client and scheduler are in this process: their time grows with the calls or tasks, whatever
    # the workers do.
    few, many, sent, back = (
        _process_seconds(functools.partial(*case), 20)
        for case in ((call, 1), (call, 1, 1 + _MANY), (call, _CALL_BYTES), (answer, _CALL_BYTES))
    )
    return {
        "call_seconds": empty,
        "message_seconds": max(1e-6, (many - few) / _MANY),
        "call_rate": _CALL_BYTES / max(1e-6, large - empty),
        "send_rate": _CALL_BYTES / max(1e-6, sent - few),
        "answer_rate": _CALL_BYTES / max(1e-6, back - few),
    }


def _tasks(executor: DaskExecutor) -> dict[str, float]:
    """Measure rounds of tasks."""

    def run(count: int) -> None:
        executor.client.gather([executor.submit(_nothing, i) for i in range(count)])

    few, many = (_process_seconds(functools.partial(run, count)) for count in (1, 1 + _MANY))
    return {
        "round_trip": seconds(functools.partial(run, 1), 20),
        # On hosts of their own client and scheduler would overlap: an upper bound.
        "task_seconds": max(1e-6, (many - few) / _MANY),
    }


def _called_steps(executor: DaskExecutor, known: Constants) -> tuple[float, float]:
    """Return `worker_factor`, and the seconds of a step beyond those of its parts."""
    _, make = training_on(executor, "cpu", 1)
    trainer, x, y = sample_step(bench_method.load_samples(None), _BOXES, make)
    half, statistics = len(y) // 2, trainer.statistics
    every, sender = (0, trainer.table.n_boxes), BoxSender()
    sender.advance((trainer.table.lower, trainer.table.upper), trainer.problem)
    everything = sender.whole(every, trainer.table)
    here = seconds(lambda: forward_task(x[:half], y[:half], *everything))
    tasks, outside = [], []
    for _ in range(_STEPS):
        computed, began = statistics.computing, time.perf_counter()
        trainer.entries(x, y)
        spent = time.perf_counter() - began
        tasks.append((statistics.computing - computed) / 2)
        outside.append(spent - tasks[-1])
    phases = _phases(trainer, len(y), known)
    parts = sum(phases.values()) - phases["distances"]
    beyond = float(np.median(outside[_WARM:])) - parts
    return max(1.0, float(np.median(tasks[_WARM:])) / here), max(0.0, beyond)


def _phases(trainer: CpuTrainer, rows: int, known: Constants) -> dict[str, float]:
    """Return the predicted phases of looking at a batch on two workers; no box changes."""
    table, classes = trainer.table, len(trainer.problem.offsets) - 1
    job = Job(rows, table.n_features, table.n_boxes, classes, rows, WIDTH, validation=0)
    # On the loopback: its rate and latency are in the constants.
    hardware = Hardware(2, bandwidth=1e15, latency=0)
    still = replace(known, changed={table.n_boxes: 1e-9})
    phases = step_phases(job, hardware, still)
    elsewhere = "rows gathered", "boxes compared", "gradient"
    return {name: phases[name] for name in phases if name not in elsewhere}
