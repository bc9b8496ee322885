"""What a first run needs later is compiled by another process, and by no second one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from boxnn_numba.kernels.cache import cache_directory
from boxnn_numba.pipelines.compile_ahead import compiled_ahead

# Which kernels training, certificates and attacks still ask for afterwards.
_ASKED = """
import json
import numpy as np
from boxnn_numba import BoxNNClassifier
from boxnn_numba.attacks import quick_attack
from boxnn_numba.kernels import compile
from boxnn_numba.pipelines.compile_ahead import compile_kernels

compile_kernels()
asked, load = [], compile._Cache.load_overload
compile._Cache.load_overload = lambda cache, *key: (
    asked.append(cache._py_func.__name__) or load(cache, *key)
)
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (400, 784)).astype(np.uint8), np.arange(400) % 10
# Of so many boxes that steps are not taken many in one call, which has a kernel of its own.
model = BoxNNClassifier("graded", boxes=80, epochs=1, validation=0.25).fit(x, y).model_
model.certify(x)
quick_attack(model, x[:70])
print(json.dumps(asked))
"""


def test_only_the_first_half_of_a_step_is_left_to_compile() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ASKED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout)
    assert asked and all(name.startswith("forward_") for name in asked)


def test_only_a_first_run_has_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Any] = []

    class Process:
        def __init__(self, command: list[str], **_: Any) -> None:
            self.command, self.running = command, True
            started.append(self)

        def kill(self) -> None:
            self.running = False

        def wait(self) -> None:
            assert not self.running

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setenv("BOXNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("BOXNN_NUM_THREADS", "1")
    with compiled_ahead():
        assert not started
    monkeypatch.setenv("BOXNN_NUM_THREADS", "2")
    with pytest.raises(KeyError), compiled_ahead():
        assert started[0].running and compiled_ahead.__module__ in started[0].command
        raise KeyError
    assert not started[0].running
    (cache_directory() / "kernel.nbc").touch()
    with compiled_ahead():
        assert len(started) == 1


# What a process of its own runs: it says which it is, and waits.
_HELP = """
import os, sys, threading
from boxnn_numba.pipelines.compile_ahead import leave_with
threading.Thread(target=leave_with, args=(os.getppid(),)).start()
sys.stdout.write(f"{os.getpid()}\\n")
sys.stdout.flush()
threading.Event().wait()
"""
_ASKS = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no parents there")
def test_help_leaves_with_who_was_killed() -> None:
    words = [sys.executable, "-c", _ASKS, _HELP]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(timeout=60)


def test_nothing_fails_without_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BOXNN_NUM_THREADS", "2")
    monkeypatch.setenv("BOXNN_CACHE_DIR", str(tmp_path / "new"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with compiled_ahead():
        pass
    for nowhere in (tmp_path / ("long" * 100), tmp_path / "new" / "file" / "below"):
        (tmp_path / "new" / "file").touch()
        monkeypatch.setenv("BOXNN_CACHE_DIR", str(nowhere))
        with compiled_ahead():
            assert not nowhere.parent.is_dir() or nowhere.parent == tmp_path
