"""Ways to stop a run, and what the tests of that share."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import BoxNN
from boxnn_numba.training.options import TrainingOptions

BOXNN = [sys.executable, "-P", "-c", "from boxnn_numba.cli.main import main; main()"]
#: The same, so slow at its epochs and chunks that there is time to kill it.
SLOW_BOXNN = [
    *BOXNN[:-1],
    """
import time
from boxnn_numba.cli.main import main
from boxnn_numba.pipelines import chunks
from boxnn_numba.training.run import Training

def slowed(function, seconds):
    def run(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)
    return run

Training.run_epoch = slowed(Training.run_epoch, 0.04)
chunks.write_chunk = slowed(chunks.write_chunk, 0.01)
main()
""",
]
OPTIONS = TrainingOptions(boxes=6, epochs=5, batch=20, lr=0.1)


class Stopper:
    """A progress object that stops a run, as Ctrl-C does, once so much is done."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.before = -1

    def start(self, total: int, unit: str) -> None:
        assert total > 0 and unit == "samples"

    def advance(self, n: int) -> None:
        if self.before < 0:  # what an earlier run has done is reported at once
            self.before = n
            return
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        assert "\n" not in text


def assert_same_model(one: BoxNN, two: BoxNN) -> None:
    np.testing.assert_array_equal(one.boxes.lower, two.boxes.lower)
    np.testing.assert_array_equal(one.boxes.upper, two.boxes.upper)
    trainings = [dict(model.training) for model in (one, two)]
    for training in trainings:
        training["history"] = [{**row, "seconds": 0} for row in training["history"]]
    assert trainings[0] == trainings[1]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def full_disk(*arguments: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


def stop_now(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    raise AssertionError("the run did not get going")


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL
