"""Training on a GPU: the CPU's boxes, bit for bit (which are compared with loops elsewhere)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gpu_arrays import SIMULATED, why_not

from boxnn_numba import fit, load_model
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.errors import BackendError, ClusterError, OptionError
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training import softmin_stages
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.loader import Feed, batch_ends
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.problem import Problem
from boxnn_numba.training.run import Training

_REASON = why_not()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_REASON is not None, reason=str(_REASON)),
]

N, FEATURES, CLASSES = (7, 6, 3) if SIMULATED else (400, 50, 3)
COMMON: dict[str, Any] = {"boxes": 5 if SIMULATED else 60, "epochs": 1, "batch": N - 2, "lr": 0.5}


def data(features: int = FEATURES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(N) % CLASSES
    centres = rng.integers(60, 200, (CLASSES, features))
    x = np.clip(centres[y] + rng.integers(-60, 61, (N, features)), 0, 255).astype(np.uint8)
    return x, y


def run_on(device: str, options: dict[str, Any], held_out: int = 0) -> Training:
    x, y = data()
    settings = TrainingOptions(**{**COMMON, "validation": 0.0, **options})
    feed = Feed.from_arrays(x, y, (x[:held_out], y[:held_out]), settings.seed)
    return Training(settings, feed, CLASSES, get_backend(device, 1))


def same(a: Training, b: Training) -> None:
    for left, right in zip(a.codes(), b.codes(), strict=True):
        np.testing.assert_array_equal(left, right)
    left_state, right_state = a.trainer.state(), b.trainer.state()
    assert set(left_state) == set(right_state)
    for name, value in left_state.items():
        assert value.tobytes() == right_state[name].tobytes(), name
    for left_record, right_record in zip(a.history, b.history, strict=True):
        left_dict, right_dict = left_record.as_dict(), right_record.as_dict()
        left_dict.pop("seconds"), right_dict.pop("seconds")
        assert left_dict == right_dict


#: Every objective, soft-min, relaxation and optimiser; on a GPU in all combinations.
CHOICES = (
    ("clip", "paper", "target"),
    ("boltzmann", "logsumexp", "hard", "mean"),
    ("graded", "l1", "l2"),
    ("sgd", "momentum", "adam"),
)
COMBINATIONS = (
    [
        ("clip", "boltzmann", "graded", "sgd"),
        ("paper", "logsumexp", "graded", "momentum"),
        ("target", "boltzmann", "graded", "adam"),
        ("target", "logsumexp", "l1", "sgd"),
        ("clip", "hard", "l2", "momentum"),
        ("paper", "mean", "l1", "adam"),
    ]
    if SIMULATED
    else list(itertools.product(*CHOICES))
)


@pytest.mark.parametrize("choice", COMBINATIONS, ids="-".join)
def test_same_bits_as_the_cpu(choice: tuple[str, str, str, str]) -> None:
    objective, softmin, relaxation, optimizer = choice
    options = {
        "objective": objective, "softmin": softmin, "relaxation": relaxation, "radius": 1,
        "optimizer": "adam" if optimizer == "adam" else "sgd", "leak": 0.3, "width": 40,
        "momentum": 0.8 if optimizer == "momentum" else 0.0, "sharpness": 3.0, "keep": 0.3,
        "crowd": 1.5,
        "weight_decay": 0.01 if optimizer == "momentum" else 0.0, "tau": 0.7,
        "lr": 0.01 if optimizer == "adam" else 0.05,
    }  # fmt: skip
    runs = [run_on(device, options) for device in ("cpu", "cuda")]
    start = runs[0].codes()
    for run in runs:
        run.run_epoch()
    same(*runs)
    assert not np.array_equal(runs[1].codes()[0], start[0])


#: Parts, templates of a class and codes of a group, and what else is chosen.
FACTORED = [
    ({"parts": "2", "templates": 1}, ("clip", "boltzmann", "sgd")),
    ({"parts": "columns", "templates": 2}, ("paper", "logsumexp", "momentum")),
    ({"parts": "3", "templates": 1, "group_size": 2}, ("target", "boltzmann", "adam")),
    ({"parts": "1", "group_size": FEATURES // 2}, ("clip", "hard", "momentum")),
]
if not SIMULATED:
    every = list(itertools.product(CHOICES[0], CHOICES[1], CHOICES[3]))
    FACTORED = [(structure, choice) for structure, _ in FACTORED for choice in every]


@pytest.mark.parametrize(("structure", "choice"), FACTORED, ids=str)
def test_factored_boxes_have_the_same_bits(
    structure: dict[str, Any], choice: tuple[str, str, str]
) -> None:
    objective, softmin, optimizer = choice
    options = {
        "objective": objective, "softmin": softmin, "radius": 1, "sharpness": 3.0, "keep": 0.3,
        "optimizer": "adam" if optimizer == "adam" else "sgd", "leak": 0.3, "width": 40,
        "momentum": 0.8 if optimizer == "momentum" else 0.0, "crowd": 1.5, "tau": 0.7,
        "boxes": 6 if SIMULATED else 120, "lr": 0.05, **structure,
    }  # fmt: skip
    runs = [run_on(device, options) for device in ("cpu", "cuda")]
    start = runs[0].codes()
    for run in runs:
        run.run_epoch()
    same(*runs)
    assert not np.array_equal(runs[1].codes()[0], start[0])


def test_groups_of_any_size() -> None:
    """Groups of several words, beyond the words that a block of threads takes at a time."""
    from boxnn_numba.training.cuda_trainer import CudaTrainer

    rng, m = np.random.default_rng(3), 6 if SIMULATED else 60
    group = rng.permutation(np.repeat(np.arange(5), [1, 7, 1, 9 if SIMULATED else 1100, 1]))
    labels, template = np.arange(m) // (m // 3), np.arange(m) // (m // 6)
    structure = Structure.of(labels, template, group > 2, group, 3)
    problem = Problem.of(TrainingOptions(boxes=m, leak=0.5, width=100), structure)
    x = rng.integers(0, 256, (N, len(group)), dtype=np.uint8)
    start = np.sort(rng.integers(0, 256, (2, m, len(group))), axis=0).astype(np.float32)
    feed = Feed.from_arrays(x, np.arange(N) % 3, (x[:0], np.zeros(0, np.int64)), 0)
    states = []
    for name, make in (("cpu", CpuTrainer), ("cuda", CudaTrainer)):
        trainer = make(get_backend(name, 1), (start[0].copy(), start[1].copy()), problem)
        for some, y in trainer.batches(feed, 1, N - 2):
            ends = batch_ends(len(y), N - 2)
            trainer.steps(some, y, ends, [0.05] * len(ends))
        states.append(trainer.state() | dict(zip(("low", "high"), trainer.bounds(), strict=True)))
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], name)
    assert (states[0]["master_lower"] != start[0]).any()


@pytest.mark.parametrize("width", [1, 255])
def test_any_width(width: int) -> None:
    runs = [run_on(device, {"width": width, "lr": 0.05}, held_out=2) for device in ("cpu", "cuda")]
    for run in runs:
        run.run_epoch()
    same(*runs)


def test_a_run_continues_on_the_other_device() -> None:
    options = {"optimizer": "adam", "epochs": 2, "lr": 0.02}
    whole, first = run_on("cpu", options), run_on("cuda", options)
    for _ in range(2):
        whole.run_epoch()
    first.run_epoch()
    second = run_on("cpu", options)
    second.restore(*first.state())
    third = run_on("cuda", options)
    third.restore(*second.state())
    third.run_epoch()
    same(whole, third)


def test_windows_and_the_rest_of_an_epoch() -> None:
    """Samples left over from a window join the next, on the GPU as on the CPU."""
    x, y = data()
    half = N // 2
    feeds = Feed(
        y.astype(np.int32), (half, N - half), FEATURES,
        lambda window: x[:half] if window == 0 else x[half:], lambda: iter(()), 0,
    )  # fmt: skip
    settings = TrainingOptions(**{**COMMON, "validation": 0.0, "batch": 2})
    runs = [Training(settings, feeds, CLASSES, get_backend(name, 1)) for name in ("cpu", "cuda")]
    for run in runs:
        run.run_epoch()
    same(*runs)


def test_entries_are_those_of_the_cpu() -> None:
    from boxnn_numba.training import cuda_trainer

    x, y = data()
    runs = [run_on(device, {}) for device in ("cpu", "cuda")]
    table = runs[0].trainer.table
    there, problem = runs[1].backend, runs[0].problem
    found = [
        softmin_stages.forward(runs[0].backend, table, x, y.astype(np.int32), problem),
        cuda_trainer.forward(there, table, x, y.astype(np.int32), problem),
    ]
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_array_equal(a, b)
    triples = [sorted(zip(*(a.tolist() for a in part[0].arrays()), strict=True)) for part in found]
    assert triples[0] == triples[1] and len(triples[0]) > N
    again = cuda_trainer.forward(there, table, x[:3], y[:3].astype(np.int32), problem)
    np.testing.assert_array_equal(again[2], found[0][2][:3])


def test_fit_gives_the_same_model() -> None:
    x, y = data()
    options = {**COMMON, "validation": 0.2, "boxes": 3, "lr": 0.05}
    models = [fit(x, y, preset="graded", device=device, **options) for device in ("cpu", "cuda")]
    np.testing.assert_array_equal(models[0].boxes.lower, models[1].boxes.lower)
    np.testing.assert_array_equal(models[0].boxes.upper, models[1].boxes.upper)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_on("cuda", {})
    run.trainer._parts = None
    boxes = COMMON["boxes"]
    monkeypatch.setattr("boxnn_numba.backends.cuda_runtime.free_memory", lambda: 12.0 * boxes * 2)
    with pytest.raises(BackendError, match=r"pass `batch` 2 or less$"):
        run.run_epoch()


def test_on_workers_with_a_gpu_each(tmp_path: Path, tiny_dataset: Path) -> None:
    data = shortened(tiny_dataset, tmp_path) if SIMULATED else tiny_dataset
    options = TrainingOptions(boxes=6, epochs=1, batch=8, parts="2", templates=1)
    one = ClusterOptions(workers=1, threads_per_worker=1)
    train(data, tmp_path / "m-one", options, run=RunOptions(device="cpu", threads=1))
    train(
        data, tmp_path / "m-worker", options, run=RunOptions(device="cuda", threads=1, cluster=one)
    )
    models = [load_model(tmp_path / name) for name in ("m-one", "m-worker")]
    assert not models[0].boxes.structure.is_plain
    np.testing.assert_array_equal(models[0].boxes.lower, models[1].boxes.lower)
    np.testing.assert_array_equal(models[0].boxes.upper, models[1].boxes.upper)
    certify(tmp_path / "m-one", data, tmp_path / "c-one", run=RunOptions(device="cpu", threads=1))
    with connect(replace(one, workers=2)) as executor:
        alone = RunOptions(device="cuda", client=executor.client)
        both = replace(alone, cluster=ClusterOptions(share_gpus=True))
        certify(tmp_path / "m-one", data, tmp_path / "c-both", run=both)
        files = [open_certificate(tmp_path / name) for name in ("c-one", "c-both")]
        np.testing.assert_array_equal(files[0].radius, files[1].radius)
        if SIMULATED:  # of which there is one
            with pytest.raises(ClusterError, match="has more workers than GPUs"):
                train(data, tmp_path / "m", options, run=alone)
    with pytest.raises(OptionError, match="`box_shards` are computed on CPUs"):
        train(
            data,
            tmp_path / "m",
            options,
            run=RunOptions(device="cuda", cluster=replace(one, box_shards=2)),
        )


def shortened(path: Path, folder: Path) -> Path:
    """Return a copy of a dataset with few samples."""
    dataset = open_dataset(path)
    train, test = dataset.read("train"), dataset.read("test")
    parts = {"train": (train[0][:12], train[1][:12]), "test": (test[0][:5], test[1][:5])}
    write_dataset(folder / "short.zarr", name="short", classes=[3, 5, 8], **parts)
    return folder / "short.zarr"


def test_commands(tmp_path: Path, tiny_dataset: Path, run_boxnn: Any) -> None:
    """Model files and certificate files hold the same arrays, whatever the device."""
    if SIMULATED:
        tiny_dataset = shortened(tiny_dataset, tmp_path)
    for device in ("cpu", "cuda"):
        at = ("--device", device, "--out")
        words = (
            "train",
            tiny_dataset,
            "--preset",
            "graded",
            *at,
            f"m-{device}",
            "--boxes",
            4,
            "--epochs",
            1,
        )
        assert run_boxnn(*words, "--batch", 8, "--threads", 1)[0] == 0
        words = ("certify", f"m-{device}", tiny_dataset, *at, f"c-{device}", "--chunk", 3)
        assert run_boxnn(*words)[0] == 0
    models = [load_model(tmp_path / f"m-{device}") for device in ("cpu", "cuda")]
    np.testing.assert_array_equal(models[0].boxes.lower, models[1].boxes.lower)
    np.testing.assert_array_equal(models[0].boxes.upper, models[1].boxes.upper)
    files = [open_certificate(tmp_path / f"c-{device}") for device in ("cpu", "cuda")]
    np.testing.assert_array_equal(files[0].prediction, files[1].prediction)
    np.testing.assert_array_equal(files[0].radius, files[1].radius)
    np.save(tmp_path / "x.npy", np.zeros((3, 12), np.uint8))
    for device in ("cpu", "cuda"):
        words = ("predict", "m-cpu", "x.npy", "--out", f"p-{device}", "--device", device)
        assert run_boxnn(*words)[0] == 0
    assert (tmp_path / "p-cpu").read_text() == (tmp_path / "p-cuda").read_text()
