"""`bench.py`: what is timed is right, and figures are computed and shown as they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import growth as bench_growth
from benchmarks import kernels as bench_kernels
from benchmarks import method as bench_method
from benchmarks import peers as bench_peers
from benchmarks import plots as bench_plots
from benchmarks import processes as bench_process
from benchmarks import suites as bench
from benchmarks import training as bench_training
from benchmarks.bench import bench as command
from click.testing import CliRunner

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.errors import BackendError, DataError, OptionError
from boxnn_numba.kernels import simd_operations
from boxnn_numba.pipelines.machine import describe_machine


@pytest.fixture
def samples() -> bench_method.Samples:
    """Three classes of 24 features in clusters."""
    rng = np.random.default_rng(0)
    centres = rng.integers(40, 216, (3, 24))

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = (np.arange(n) % 3).astype(np.int32)
        return (centres[y] + rng.integers(-40, 40, (n, 24))).astype(np.uint8), y

    return bench_method.Samples("clusters", split(150), split(30), 3)


@pytest.fixture
def settings(samples: bench_method.Samples) -> bench_method.Settings:
    """A quick run on two threads."""
    return bench_method.Settings(2, True, samples)


# --- method -------------------------------------------------------------------------------


def test_candidates_alternate_and_order_turns_around() -> None:
    order: list[str] = []
    work = {name: (lambda name=name: order.append(name)) for name in ("a", "b", "c")}
    times = bench_method.alternate(work, rounds=2, at_least=0.0)
    # Each once to warm up, then forwards, then backwards.
    assert order == [*"abc", *"abc", *"cba"]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_record_has_median_and_quartiles() -> None:
    item = bench_method.record("case", "name", "s", [4.0, 1.0, 3.0, 2.0, 5.0], job="x")
    assert (item["q1"], item["median"], item["q3"]) == (2.0, 3.0, 4.0)
    assert (item["runs"], item["job"]) == (5, "x")


def test_the_machine_is_described() -> None:
    machine = describe_machine(2)
    assert machine["simd_target"] == simd_operations.TARGET
    assert machine["cpu"]
    assert {"python", "numpy", "numba"} <= set(machine["versions"])
    json.dumps(machine)


def test_random_boxes_are_not_crossed() -> None:
    lower, upper = bench_method.random_boxes(np.random.default_rng(0), 50, 70)
    assert (lower <= upper).all()
    assert (upper.astype(int) - lower).max() == 2 * bench_method.HALF_SIDE


def test_rows_repeat() -> None:
    x, y = bench_method.repeat_rows(np.arange(6).reshape(3, 2), np.arange(3), 5)
    assert y.tolist() == [0, 1, 2, 0, 1]
    assert x[3].tolist() == [0, 1]


def test_default_samples_are_the_bundled_ones() -> None:
    found = bench_method.load_samples(None)
    assert found.train[0].shape == (10_000, 784)
    assert found.n_classes == 10


def test_a_dataset_can_be_measured_on(tiny_dataset: Path) -> None:
    found = bench_method.load_samples(tiny_dataset)
    assert (found.name, found.n_classes, found.test[0].shape) == ("tiny", 3, (40, 12))


# --- what is timed is right ---------------------------------------------------------------


@pytest.mark.parametrize("width", bench_kernels.WIDTHS)
def test_the_limit_loop_does_all_its_work(width: int) -> None:
    call, features = bench_kernels.limit_call(width, 1)
    if simd_operations.TARGET == "plain":
        assert call is None
        return
    rng = np.random.default_rng(1)
    x = bench_method.random_codes(rng, 4, 16 * simd_operations.LANES)
    lower, upper = bench_method.random_boxes(rng, 2, simd_operations.LANES)
    bound = upper - lower if width == 1 else upper
    out = np.empty((2, 4), np.int32)
    bench_kernels.limit_kernel(width)(x, lower, bound, width, 3, out)
    low, high = (np.tile(side, 16)[:, None].astype(int) for side in (lower, upper))
    codes = x[None].astype(int)
    excess = np.maximum(np.maximum(low - codes, codes - high), 0)
    assert out.tolist() == (3 * np.minimum(excess, width).sum(axis=2)).tolist()
    assert features >= 3 * 8 * x.shape[1]


@pytest.mark.parametrize(("width", "points"), [(255, False), (128, False), (1, False), (1, True)])
def test_peers_give_our_distances(
    settings: bench_method.Settings, monkeypatch: pytest.MonkeyPatch, width: int, points: bool
) -> None:
    monkeypatch.setattr(bench_peers, "find_spec", lambda name: name not in ("torch", "jax") or None)
    rng = np.random.default_rng(0)
    x = bench_method.random_codes(rng, 64, 20)
    lower, upper = bench_method.random_boxes(rng, 10, 20)
    if points:
        lower = upper = x[:10]
    problem = bench_peers.Problem(x, lower, upper, width, 2)
    monkeypatch.setattr(bench_method, "_PAUSE", 0.0)
    found = bench_peers._compare(settings, "case", problem)
    assert not [item for item in found if "other distances" in item["note"]]
    measured = {item["name"] for item in found if item["median"] is not None}
    if points:
        assert {"SciPy cdist hamming", "scikit-learn DistanceMetric hamming"} <= measured
    else:
        assert "NumPy broadcast" in measured
    if width == 255:
        assert "ours on 2 cores / SciPy cdist cityblock x2" in measured
    missing = {item["name"]: item["note"] for item in found if item["median"] is None}
    assert missing["JAX jit float32"] == "jax is not installed"


def test_a_peer_with_other_distances_is_not_compared(
    settings: bench_method.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(problem: bench_peers.Problem) -> Any:
        return lambda: np.zeros((len(problem.x), len(problem.lower)))

    peer = bench_peers.Peer("wrong", "numpy", ("any",), 16, wrong)
    monkeypatch.setattr(bench_peers, "PEERS", (peer,))
    rng = np.random.default_rng(0)
    boxes = bench_method.random_boxes(rng, 10, 20)
    problem = bench_peers.Problem(bench_method.random_codes(rng, 64, 20), *boxes, 7, 1)
    found = bench_peers._compare(settings, "case", problem)
    assert [item["note"] for item in found if item["name"] == "wrong"] == [
        "gives other distances; not compared"
    ]


@pytest.mark.parametrize("width", [128, 255])
def test_our_gradient_is_that_of_the_loss(samples: bench_method.Samples, width: int) -> None:
    x, y, boxes = bench_training.step_problem(samples, 12, 6)
    backend = get_backend("cpu", 1)
    trainer = bench_training.make_trainer(backend, boxes, 3, width, 6)
    lower, upper = bench_training.our_gradient(trainer, x, y)
    for side, gradient in ((0, lower), (1, upper)):
        m, k = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        step = 0.5
        values = []
        for sign in (1, -1):
            moved = [bound.astype(float) for bound in boxes[:2]]
            moved[side][m, k] += sign * step
            values.append(_loss(x, y, moved, boxes[2], width))
        assert gradient[m, k] == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-3)


def _loss(
    x: np.ndarray, y: np.ndarray, bounds: list[np.ndarray], labels: np.ndarray, width: int
) -> float:
    codes = x[:, None].astype(float)
    excess = np.maximum(np.maximum(bounds[0] - codes, codes - bounds[1]), 0)
    distance = np.minimum(excess, width).sum(axis=2) / width
    total = 0.0
    for row, label in zip(distance, y, strict=True):
        mins = []
        for part in (row[labels == label], row[labels != label]):
            weight = np.exp(part.min() - part)
            mins.append((weight * part).sum() / weight.sum())
        total += min(mins[1] - mins[0], bench_training._BETA)
    return total


@pytest.mark.parametrize(("variant", "width"), [("broadcast", 128), ("cdist", 255)])
def test_torch_has_the_same_gradient(
    settings: bench_method.Settings, variant: str, width: int
) -> None:
    pytest.importorskip("torch")
    x, y, boxes = bench_training.step_problem(settings.samples, 12, 6)
    call, why = bench_training._torch_step(settings, boxes, (x, y), width, variant)
    assert why == ""
    assert call is not None


def test_exponents_are_fitted() -> None:
    sizes = np.array([1, 2, 4, 8])
    assert bench_growth.exponent(sizes, 3.0 * sizes**1.5) == pytest.approx(1.5)


def test_growth_calls_work(samples: bench_method.Samples) -> None:
    bench_growth.certify_call({"N": 64, "n": 64, "M": 20})()
    values, _ = bench_growth.step_call({"N": 8, "n": 64, "M": 6}, samples)()
    assert len(values) == 8


def test_peak_memory_is_that_of_a_process_of_its_own() -> None:
    code = "from benchmarks.growth import resident_peak as peak\n"
    code += "before = peak(); block = bytearray(100 * 2**20); print(peak() - before)"
    assert 95 * 2**20 < int(bench_process.python("-c", code)) < 110 * 2**20


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(BackendError, match="failed while measured: ValueError: no"):
        bench_process.python("-c", "raise ValueError('no')")
    assert "Usage: boxnn" in bench_process.boxnn("--help")


def test_a_model_is_trained_for_whole_processes(settings: bench_method.Settings) -> None:
    with bench_process.model_and_data(settings, 50, boxes=9) as (model, data):
        assert model.is_dir()
        assert data.is_dir()
    assert not model.parent.exists()


# --- result -------------------------------------------------------------------------------


def _records() -> list[dict[str, Any]]:
    make = bench_method.record
    growth = [
        {"suite": "growth", **make(f"certify: {kind}", f"N={n}", unit, n, axis="N", job="certify",
                                   size=n)}
        for kind, unit in (("time", "ms"), ("memory", "MiB"))
        for n in (1, 2, 4)
    ]  # fmt: skip
    last = make("certify: time", "exponent", "", [1.0, 1.01], axis="N", job="certify")
    slope = make("certify: memory", "growth", "bytes per sample", 3.0, axis="N", job="certify")
    startup = make("start-up", "boxnn --help", "s", [0.7, 0.8])
    peers = make("W=255 boxes", "2 cores", "Mpairs/s", [99.0, 101.0])
    gone = bench_method.absent("W=255 boxes", "torch broadcast", "torch is not installed")
    training = make("step W=128", "1 core", "ms", [50.0, 60.0])
    kernel = make("W=1 n=784", "1 core of limit", "of limit", [0.7, 0.8])
    return [
        *growth[:3], {"suite": "growth", **last}, *growth[3:], {"suite": "growth", **slope},
        {"suite": "startup", **startup}, {"suite": "peers", **peers}, {"suite": "peers", **gone},
        {"suite": "training", **training}, {"suite": "kernel", **kernel},
    ]  # fmt: skip


def _result() -> dict[str, Any]:
    records = _records()
    return {
        "machine": describe_machine(2) | {"load_average": [9.0, 1.0, 1.0]},
        "data": "clusters",
        "method": "medians",
        "records": records,
        "targets": bench.targets(records, 2),
        "seconds": 1.0,
    }


def test_targets_are_judged() -> None:
    judged = {item["what"]: item["met"] for item in bench.targets(_records(), 2)}
    assert judged["boxnn --help, s"] is False
    assert judged["certify: largest exponent of time"] is True


def test_the_text_names_absent_peers_and_a_busy_machine() -> None:
    text = bench.report_text(_result())
    assert "torch is not installed" in text
    assert "Other processes were running" in text
    assert "NOT MET" in text
    assert "100 Mpairs/s  [99.5, 100]" in text


def test_figures_are_drawn(tmp_path: Path) -> None:
    bench_plots.draw(_result(), tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {"growth.png", "peers.png", "training.png", "kernel.png"}


def test_bench_writes_json_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.SUITES, "startup", ("bench_fake", "suite"))
    fake = type("Fake", (), {"suite": staticmethod(lambda settings: [_startup(settings)])})
    monkeypatch.setattr(bench, "import_module", lambda name: fake)
    out, plot = tmp_path / "bench.json", tmp_path / "plots"
    words = ["--suite", "startup", "--quick", "--out", str(out), "--plot", str(plot)]
    shown = CliRunner().invoke(command, [*words, "--threads", "1", "--json"])
    assert shown.exit_code == 0, shown.output
    result = json.loads(out.read_text())
    assert json.loads(shown.stdout) == result
    assert (result["format"], result["machine"]["threads"]) == ("boxnn-bench", 1)
    assert plot.is_dir()
    again = CliRunner().invoke(command, words)
    assert isinstance(again.exception, OptionError)
    assert "--overwrite" in str(again.exception)


def _startup(settings: bench_method.Settings) -> dict[str, Any]:
    settings.advance("start-up")
    return bench_method.record("start-up", "boxnn --help", "s", [0.1])


def test_an_unknown_suite_is_refused() -> None:
    failed = CliRunner().invoke(command, ["--suite", "kernels"])
    assert isinstance(failed.exception, OptionError)


def test_data_without_codes_is_refused(tmp_path: Path) -> None:
    from boxnn_numba.data.dataset import write_dataset

    rows = np.ones((4, 3), np.float32), np.zeros(4, np.int32)
    write_dataset(tmp_path / "real.zarr", name="real", classes=[0], train=rows, test=rows)
    with pytest.raises(DataError, match="must hold codes"):
        bench_method.load_samples(tmp_path / "real.zarr")
