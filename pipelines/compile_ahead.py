"""Kernels that a first run needs later, compiled by a second process while it compiles others.

A process compiles one kernel at a time, and the first that training needs takes longest. So where
nothing was compiled yet, another process does on a few rows what comes after it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from boxnn_numba.backends.threads import default_threads

#: How often to look whether the process that asked for help was killed.
_LOOK_SECONDS = 0.2


@contextlib.contextmanager
def compiled_ahead() -> Iterator[None]:
    """Let another process compile while the body runs, if there is a core for it and no cache."""
    process = _started()
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def _started() -> subprocess.Popen[bytes] | None:
    """Return a process that compiles, or None: it is help, and nothing fails without it."""
    from numba import config

    from boxnn_numba.kernels import cache

    compiles = not config.DISABLE_JIT  # type: ignore[attr-defined]
    if default_threads() == 1 or not compiles or not sys.executable:
        return None
    # It imports what this process does, and nothing that lies in the current folder.
    alone = "-I" if sys.flags.isolated else "-P"
    words = [sys.executable, alone, "-m", __name__, str(os.getpid())]
    nowhere = subprocess.DEVNULL
    with contextlib.suppress(OSError):
        if cache.is_new():
            return subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    return None


def compile_kernels(rows: int = 64, features: int = 784) -> None:
    """Do, in the order of need, what `boxnn demo` does, but for the first half of a step."""
    from boxnn_numba.backends.cpu import CpuBackend
    from boxnn_numba.backends.structure import Structure
    from boxnn_numba.boxes import Boxes
    from boxnn_numba.distances import class_distance, pairwise_distance
    from boxnn_numba.training.cpu_trainer import CpuTrainer
    from boxnn_numba.training.options import resolve
    from boxnn_numba.training.problem import Problem
    from boxnn_numba.training.softmin_stages import Pulls, block_bounds

    labels, one_each = np.arange(2), np.arange(features)
    # Of which some columns tell more than others: these come first, and are spread by a kernel.
    lower = np.arange(2 * features).reshape(2, features) % 100
    upper = lower + 50
    options = resolve("graded", {})
    boxes = Boxes(lower, upper, labels, options.forward_width)
    x = np.zeros((rows, features), np.uint8)
    class_distance(x, boxes)
    # A trainer settles its boxes; by now the first process has compiled that.
    structure = Structure.of(labels, labels, np.zeros(features, int), one_each, 2)
    masters = lower.astype(np.float32), upper.astype(np.float32)
    trainer = CpuTrainer(CpuBackend(1), masters, Problem.of(options, structure))
    trainer.move(x, Pulls.room(block_bounds(rows)[0], len(boxes)), rows, 0.0)
    class_distance(x[:1], boxes)
    pairwise_distance(x, boxes)


def leave_with(parent: int) -> None:
    """Wait until the process that started this one is gone, and end this one."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=leave_with, args=(int(sys.argv[1]),), daemon=True).start()
    compile_kernels()
