"""What runs on a worker around every piece of work: arguments found, kernels kept to one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from boxnn_numba.backends.threads import limit_threads


@dataclass(frozen=True)
class ArrayFile:
    """An array argument in a file that processes of this machine and user read."""

    path: Path

    @classmethod
    def write(cls, folder: Path, array: np.ndarray) -> ArrayFile:
        """Write an array to a new file in a folder."""
        file = cls(folder / f"{uuid4().hex}.npy")
        np.save(file.path, array)
        return file

    def read(self) -> np.ndarray:
        """Return the array."""
        return np.asarray(np.load(self.path))


async def in_worker(function: Callable[..., Any], *arguments: Any, dask_worker: Any) -> Any:
    """Do what a task does, in a thread of the worker that was called."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(dask_worker.executor, in_one_thread, function, *arguments)


def in_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with kernels limited to this thread: what every Dask task is."""
    values = [item.read() if isinstance(item, ArrayFile) else item for item in arguments]
    with limit_threads(1):
        return function(*values)
