"""Measure what Dask costs a plan: calls, tasks, arguments, on two local workers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from boxnn_numba.errors import ClusterError
from boxnn_numba.pipelines import bench_method
from boxnn_numba.pipelines.box_copies import BoxSender
from boxnn_numba.pipelines.cluster import ClusterOptions, connect
from boxnn_numba.pipelines.cluster_training import ClusterBackend, forward_task
from boxnn_numba.pipelines.dask_executor import DaskExecutor
from boxnn_numba.pipelines.plan_calibrate import sample_step, seconds

# A call about as large as those of MNIST, arguments that are put with a worker, and further ones.
_CALL_BYTES, _PLACED_BYTES, _MANY, _STEPS = 2**21, 2**25, 100, 12


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


def dask_constants() -> dict[str, float]:
    """Measure calls, tasks and transfers of two local workers.

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
        steps = _real_steps(executor)
        resident = max(executor.gather([executor.submit(_resident, i) for i in range(4)]))
        return {
            **_calls(executor),
            **_tasks(executor),
            "worker_factor": max(1.0, steps["task"] / steps["here"]),
            "worker_bytes": float(resident),
        }


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

    def run(count: int) -> None:
        executor.gather([executor.submit(_nothing, number) for number in range(count)])

    codes = np.ones(_PLACED_BYTES, np.uint8)

    def put(size: int) -> None:
        executor.client.scatter(codes[:size], hash=False, direct=True)

    few, many = (_process_seconds(functools.partial(run, count)) for count in (1, 1 + _MANY))
    small, large = (seconds(functools.partial(put, size), 10) for size in (1, _PLACED_BYTES))
    return {
        "round_trip": seconds(lambda: run(1), 20),
        # On hosts of their own client and scheduler would overlap: an upper bound.
        "task_seconds": max(1e-6, (many - few) / _MANY),
        "place_seconds": small,
        "serialise_rate": _PLACED_BYTES / max(1e-6, large - small),
    }


def _real_steps(executor: DaskExecutor) -> dict[str, float]:
    """Return the seconds of a training step's call on a worker, and of the same in this process."""
    backend = ClusterBackend(1, executor)
    stepper, x, y = sample_step(backend, bench_method.load_samples(None))
    padded, half = backend.samples(x), len(y) // 2
    everything = BoxSender(backend).update(stepper.table, stepper.inputs)
    here = seconds(lambda: forward_task(x[:half], y[:half], *everything))
    tasks = []
    for _ in range(_STEPS):
        computed = backend.statistics.computing
        stepper.entries(padded, y)
        tasks.append((backend.statistics.computing - computed) / 2)
    return {"task": min(tasks), "here": here}
