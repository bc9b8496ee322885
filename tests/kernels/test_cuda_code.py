"""What can be known of the CUDA kernels without a GPU: the simulator, their code, the errors."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.errors import BackendError, ClusterError, OptionError
from boxnn_numba.pipelines.cluster.gpus import assign, gpu_report
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions

TESTS = Path(__file__).parents[1]
needs_numba_cuda = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in another process, seeing no GPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(
        [sys.executable, *map(str, words)], env=environment, text=True, capture_output=True,
        check=False, cwd=TESTS.parent,
    )  # fmt: skip


# --- kernels in the simulator ----------------------------------------------------------------


@needs_numba_cuda
def test_in_the_simulator() -> None:
    """All tests that need a GPU, with small arrays."""
    files = TESTS / "backends/test_cuda.py", TESTS / "training/test_cuda_training.py"
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout


@needs_numba_cuda
def test_plain_sums_in_the_simulator() -> None:
    code = (
        "import numpy as np\n"
        "from boxnn_numba.kernels.cuda_device import FORM, sad\n"
        "a, b = np.random.default_rng(0).integers(0, 256, (2, 50, 4), dtype=np.uint8)\n"
        "words = zip(a.view(np.uint32).ravel(), b.view(np.uint32).ravel())\n"
        "found = [int(sad(p, q, np.int32(7))) for p, q in words]\n"
        "assert found == (7 + abs(a.astype(int) - b).sum(axis=1)).tolist()\n"
        "print(FORM, sad.__name__)"
    )
    for form, name in (("plain", "_plain_sad"), ("packed", "_simulated_sad")):
        done = run("-c", code, NUMBA_ENABLE_CUDASIM="1", BOXNN_CUDA_SUMS=form)
        assert done.stdout == f"{form} {name}\n", done.stderr
    done = run("-c", code, NUMBA_ENABLE_CUDASIM="1", BOXNN_CUDA_SUMS="fast")
    assert "BOXNN_CUDA_SUMS is 'fast'; it must be one of packed, plain" in done.stderr


# --- the code of the kernels -------------------------------------------------------------------


@needs_numba_cuda
@pytest.mark.parametrize(
    ("form", "names", "count"), [("packed", "", 29), ("plain", "pairwise capped", 2)]
)
def test_code_of_every_kernel(form: str, names: str, count: int, record_property: Any) -> None:
    """Hot kernels use no doubles and no local memory; nothing is rounded otherwise than here."""
    capabilities = ["7.5", "8.0", "9.0"]
    done = run(TESTS / "support" / "cuda_ptx.py", names, *capabilities, BOXNN_CUDA_SUMS=form)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    assert list(reports) == capabilities
    for capability, kernels in reports.items():
        assert len(kernels) == count
        for name, found in kernels.items():
            where = f"{name} for {capability}"
            record_property(where, found["ptxas"])
            assert found["local"] == 0, where
            assert found["risks"] == [], where
            if found["hot"]:
                assert found["double"] == 0, where
            if name.startswith(("pairwise capped", "pairwise grouped", "nearest capped")):
                assert (found["packed"] >= 128) == (form == "packed"), where


# --- the benchmark -----------------------------------------------------------------------------


@needs_numba_cuda
def test_benchmark_runs_in_the_simulator(tmp_path: Path) -> None:
    script, file = TESTS / "benchmarks" / "gpu_bench.py", tmp_path / "found.json"
    done = run(script, "--simulate", "--json", file)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["checks"] > 50 and len(found["kernels"]) == len(found["plain"]) == 6
    assert {row["form"] for row in found["plain"]} == {"plain"}
    assert set(found["targets"]) == {
        "share of the plain floor", "epoch", "million rows", "times torch",
        "factored, of plain",
    }  # fmt: skip
    assert "times torch: not measured" in done.stdout


# --- errors ------------------------------------------------------------------------------------


def test_imports_no_gpu_code() -> None:
    code = (
        "import sys, boxnn_numba\n"
        "from boxnn_numba import class_distance, certified_radius, fit, load_model\n"
        "import boxnn_numba.cli.main, boxnn_numba.pipelines.training.train\n"
        "import boxnn_numba.pipelines.certification.certify\n"
        "from boxnn_numba.backends.devices import get_backend\n"
        "get_backend('auto')\n"
        "print([name for name in ('cupy', 'numba.cuda', 'numba_cuda') if name in sys.modules])"
    )
    done = run("-c", code)
    assert done.stdout == "[]\n", done.stderr


def test_no_gpu_is_one_line_that_says_what_to_do(run_boxnn: Any, tiny_dataset: Path) -> None:
    from support.gpu_arrays import why_not

    if why_not() is None:
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match=r"device cuda .*`device` cpu$") as caught:
        get_backend("cuda")
    assert "\n" not in str(caught.value)
    words = "train", tiny_dataset, "--preset", "graded", "--out", "m", "--device", "cuda"
    code, _, complaint = run_boxnn(*words)
    done = run(TESTS / "benchmarks" / "gpu_bench.py")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("gpu_bench: device cuda") and done.stderr.count("\n") == 1
    assert code == 1 and complaint.count("\n") == 1 and "--device cpu" in complaint
    with pytest.raises(OptionError, match="chunk is 0"):
        get_backend("cpu", 1, 0)


@needs_numba_cuda
def test_what_is_missing_is_named() -> None:
    cases = (
        ("cuda.get_current_device = fail(cuda_errors.CudaSupportError('line:\\nno driver'))",
         "found no usable NVIDIA driver (no driver); install one or use `device` cpu"),
        ("cuda.get_current_device = fail(_NO_COMPILER[0]('no nvvm'))",
         "no nvvm"),
        ("cuda.get_current_device = fail(_library_errors()[-1]('too old'))",
         "does not work here (too old); update the NVIDIA driver or use `device` cpu"),
        ("cuda.get_current_device, OLDEST = Old, (99, 0)", "compute capability"),
    )  # fmt: skip
    settings = [setting for setting, _ in cases]
    code = (
        "import boxnn_numba.backends.cuda_runtime as runtime\n"
        "from boxnn_numba.errors import BackendError\n"
        "def fail(error):\n"
        "    def function():\n"
        "        raise error\n"
        "    return function\n"
        "class Old:\n"
        "    compute_capability, name = (7, 0), b'Old GPU'\n"
        "runtime.SIMULATED = False\n"
        f"for setting in {settings!r}:\n"
        "    exec(setting, {**vars(runtime), 'fail': fail, 'Old': Old}, vars(runtime))\n"
        "    try:\n"
        "        runtime.check_device()\n"
        "    except BackendError as error:\n"
        "        print(error)"
    )
    done = run("-c", code, NUMBA_ENABLE_CUDASIM="1")
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases), done.stderr
    for line, (_, message) in zip(lines, cases, strict=True):
        assert message in line


@needs_numba_cuda
def test_auto_does_without_a_gpu_that_fails() -> None:
    code = (
        "import boxnn_numba.backends.cuda_runtime as runtime\n"
        "from boxnn_numba.backends import devices as backend\n"
        "from boxnn_numba.errors import BackendError\n"
        "def check():\n"
        "    raise BackendError('it is too old')\n"
        "runtime.check_device, backend._gpu_present = check, lambda: True\n"
        "print(backend.get_backend('auto').name, backend.get_backend('auto').name)"
    )
    done = run("-c", code)
    assert done.stdout == "cpu cpu\n"
    assert done.stderr.count("it is too old; device auto uses the CPU") == 1


# --- clusters ----------------------------------------------------------------------------------


def test_every_worker_gets_a_gpu_of_its_own() -> None:
    assert assign({}, False) == {}
    two = ("left", ["0", "1"])
    reports = {"a": two, "b": ("right", ["0"]), "c": two}
    assert assign(reports, False) == {"a": "0", "b": "0", "c": "1"}
    own = {"a": ("left", ["GPU-7"]), "b": ("left", ["GPU-3"])}
    assert assign(own, False) == {"a": "GPU-7", "b": "GPU-3"}
    with pytest.raises(ClusterError, match=r"left has more workers than GPUs \(2 for worker d\)"):
        assign({**reports, "d": two}, False)
    shared = assign({**reports, "d": two, "e": two}, True)
    assert shared == {"a": "0", "b": "0", "c": "1", "d": "0", "e": "1"}
    with pytest.raises(ClusterError, match="worker b has no NVIDIA GPU"):
        assign({"a": two, "b": ("right", [])}, True)


def test_gpus_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    for visible, found in (("1,GPU-7", ["1", "GPU-7"]), ("", []), ("-1", []), ("2, -1, 3", ["2"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_report()[1] == found


def test_sharing_needs_a_cluster() -> None:
    with pytest.raises(OptionError, match="`share_gpus` needs a cluster"):
        RunOptions(cluster=ClusterOptions(share_gpus=True)).using()
