"""A script that starts workers without a main guard: one line, before any is started."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import dask
import pytest

from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.cluster.main_guard import need_main_guard

START = "from boxnn_numba.pipelines.cluster.main_guard import need_main_guard as start\n"
#: Scripts that start workers where each of them does it, too: and the line.
WRONG = {
    "start()": 2,
    "def work():\n    start()\nwork()": 4,
    "for _ in range(2):\n    start()": 3,
    "if start:\n    start()": 3,
    "start()\nif __name__ == '__main__':\n    pass": 2,
}
RIGHT = [
    "if __name__ == '__main__':\n    start()",
    "def work():\n    start()\nif '__main__' == __name__:\n    work()",
    "import sys\nif __name__ != '__main__':\n    sys.exit()\nstart()",
    "import threading\nt = threading.Thread(target=start)\nt.start()\nt.join()",
]


def run_as_main(
    script: str, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str | None = None
) -> Path:
    """Run a script in this process as Python runs its main script."""
    path = folder / "script.py"
    path.write_text(START + script)
    main = ModuleType("__main__")
    main.__file__ = str(path)
    main.__spec__ = None if name is None else SimpleNamespace(name=name)  # type: ignore[assignment]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", main)
        exec(compile(START + script, path, "exec"), vars(main))
    return path


@pytest.mark.parametrize("script", WRONG)
def test_a_line_that_every_worker_runs(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError) as error:
        run_as_main(script, tmp_path, monkeypatch)
    assert str(error.value) == (
        f"{tmp_path / 'script.py'} starts `workers` in line {WRONG[script]}, and each of them runs "
        'that line again; put it under `if __name__ == "__main__":`'
    )
    with pytest.raises(OptionError, match="starts `workers` in line"):
        run_as_main(script, tmp_path, monkeypatch, name="tools.script")
    # Neither of these is imported by workers.
    run_as_main(script, tmp_path, monkeypatch, name="tools.__main__")
    with dask.config.set({"distributed.worker.multiprocessing-method": "fork"}):
        run_as_main(script, tmp_path, monkeypatch)


@pytest.mark.parametrize("script", RIGHT)
def test_a_line_that_workers_do_not_run(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_as_main(script, tmp_path, monkeypatch)


def test_a_script_without_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_as_main("import os\nos.remove(__file__)\nstart()", tmp_path, monkeypatch)


def test_a_worker_that_came_so_far_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SimpleNamespace(_inheriting=True)
    monkeypatch.setattr(multiprocessing, "current_process", lambda: process)
    with pytest.raises(SystemExit, match="1"):
        need_main_guard()


def test_a_script_as_users_write_it(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "from boxnn_numba.pipelines import ClusterOptions, RunOptions, certify\n"
        "print('began', flush=True)\n"
        "certify('model', 'data', 'out', run=RunOptions(cluster=ClusterOptions(workers=2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "job.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1 and done.stdout == "began\n"
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1].endswith(
        "job.py starts `workers` in line 3, and each of them runs that line again; "
        'put it under `if __name__ == "__main__":`'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]
