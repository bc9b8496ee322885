"""Tasks on a worker: every piece of work runs its kernels in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.pipelines.cluster.shared_arrays import unpacked

#: Workers that are called at a time; they pass calls on to further ones.
FAN = 10


async def in_worker(function: Callable[..., Any], *arguments: Any, dask_worker: Any) -> Any:
    """Do what a task does, in a thread of the worker that was called."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(dask_worker.executor, in_one_thread, function, *arguments)


def in_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with kernels limited to this thread; every Dask task is such a call."""
    with limit_threads(1):
        return function(*unpacked(arguments))
