"""Suites `certification` and `startup`: whole processes, as a user starts them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.kernels import class_distance_call
from benchmarks.method import (
    Record,
    Settings,
    absent,
    alternate,
    record,
    repeat_rows,
)

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates import patch_certified
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.model_store import load_model
from boxnn_numba.errors import BackendError
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions

#: Images that are certified, and RA's forward passes per image (design of Levine & Feizi).
IMAGES, RA_PASSES, RA_KEEP = 10_000, 10_000, 45
#: Side of the patches that images are certified against.
PATCH = 5
_CLI = "from boxnn_numba.cli.main import main; main()"


def boxnn(*words: object, **environment: str) -> str:
    """Run `boxnn WORDS...` as a process of its own and return its standard output.

    Raises
    ------
    BackendError
        It failed; the message has the last line of its standard error.
    """
    return python("-c", _CLI, *words, **environment)


def python(*words: object, **environment: str) -> str:
    """Run this interpreter with some words, where it finds these modules too; else as `boxnn`."""
    command = [sys.executable, *map(str, words)]
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"`{' '.join(command[2:])[:60]}` failed while measured: {last}")
    return done.stdout


@contextlib.contextmanager
def model_and_data(settings: Settings, rows: int, boxes: int = 2500) -> Iterator[tuple[Path, Path]]:
    """Train one epoch and write a dataset with `rows` test samples, in a temporary folder.

    Yields
    ------
    model, data : Path
    """
    samples = settings.samples
    fewest = int(np.bincount(samples.train[1], minlength=samples.n_classes).min())
    options = TrainingOptions(
        boxes=min(boxes, fewest * samples.n_classes), epochs=1, batch=1000, validation=0.0
    )
    with tempfile.TemporaryDirectory(prefix="boxnn-bench-") as folder:
        data, model = Path(folder) / "data.zarr", Path(folder) / "model.zarr"
        # Codes of one split are enough to train on; the other is what is certified.
        train_rows = repeat_rows(*samples.train, min(len(samples.train[0]), 10_000))
        test_rows = repeat_rows(*samples.test, rows)
        write_dataset(
            data, name=samples.name, classes=list(range(samples.n_classes)), train=train_rows,
            test=test_rows,
        )  # fmt: skip
        train(data, model, options, run=RunOptions(threads=settings.threads))
        yield model, data


# --- certification ------------------------------------------------------------------------


def certification_suite(settings: Settings) -> list[Record]:
    """Measure the certification of 10,000 images: kernel, Python call, process, patches; RA's.

    Returns
    -------
    list of dict
        Seconds, and how many times RA's forward passes take that long.
    """
    rows = 2000 if settings.quick else IMAGES
    case = f"certify {rows} images"
    with model_and_data(settings, rows) as (path, data):
        model = load_model(path)
        x, _ = repeat_rows(*settings.samples.test, rows)
        backend = get_backend("cpu", settings.threads)
        threads = {"BOXNN_NUM_THREADS": str(settings.threads)}
        out = path.with_name("certificate.zarr")
        work: dict[str, Callable[[], Any]] = {
            "kernel": class_distance_call(backend, x, model.boxes),
            "kernel, 1 core": class_distance_call(get_backend("cpu", 1), x, model.boxes),
            "Python call": functools.partial(model.certify, x),
            "whole process": functools.partial(
                boxnn, "certify", path, data, "--out", out, "--overwrite", "-q", **threads
            ),
        }
        side = math.isqrt(x.shape[1])
        if side >= PATCH and side**2 == x.shape[1]:
            image = dataclasses.replace(model, feature_shape=(side, side))
            work["patches"] = functools.partial(patch_certified, image, x, PATCH, settings.threads)
        times = alternate(work, settings.rounds)
        boxes = len(model.boxes)
    note = f"{boxes} boxes, W={model.boxes.width}, {settings.samples.name}"
    found = [record(case, name, "s", seconds, note) for name, seconds in times.items()]
    if "patches" in times:
        ratio = times["patches"] / times["Python call"]
        found.append(record(case, "patches / Python call", "times", ratio, f"{PATCH} x {PATCH}"))
    settings.advance("certification ours")
    found += _randomized_ablation(settings, case, rows, times)
    settings.advance("certification RA")
    return found


def _randomized_ablation(
    settings: Settings, case: str, rows: int, ours: dict[str, np.ndarray]
) -> list[Record]:
    name = f"RA forward passes ({RA_PASSES} an image)"
    if find_spec("torch") is None:
        return [absent(case, name, "torch is not installed")]
    import torch
    from benchmarks import torch_steps as bench_torch

    torch.set_num_threads(settings.threads)
    call = bench_torch.masked_forward(settings.samples.test[0], RA_KEEP)
    batch = alternate({"batch": call}, settings.rounds)["batch"]
    seconds = batch * (RA_PASSES / bench_torch.RA_BATCH) * rows
    note = f"extrapolated from {bench_torch.RA_BATCH} passes of a small network"
    found = [record(case, name, "s", seconds, note)]
    for part in ("kernel", "whole process"):
        ratio = np.median(seconds) / ours[part]
        found.append(record(case, f"{part}: ours / RA", "times", ratio, note))
    return found


# --- start-up -----------------------------------------------------------------------------


def startup_suite(settings: Settings) -> list[Record]:
    """Measure how long the first answer takes: help, import, certify with and without cache.

    Returns
    -------
    list of dict
        Seconds of whole processes.
    """
    with model_and_data(settings, 200, boxes=200) as (model, data):
        folder = model.parent
        warm, cold = folder / "warm", folder / "cold"
        words = ("certify", model, data, "--out", folder / "certificate.zarr", "--overwrite", "-q")

        def with_cold_cache() -> None:
            shutil.rmtree(cold, ignore_errors=True)
            boxnn(*words, BOXNN_CACHE_DIR=str(cold))

        work: dict[str, Callable[[], Any]] = {
            "python": functools.partial(python, "-c", "pass"),
            "boxnn --help": functools.partial(boxnn, "--help"),
            "import boxnn_numba": functools.partial(python, "-c", "import boxnn_numba"),
            "import BoxNN": functools.partial(python, "-c", "from boxnn_numba import BoxNN"),
            "boxnn certify, compiled before": functools.partial(
                boxnn, *words, BOXNN_CACHE_DIR=str(warm)
            ),
        }
        times = alternate(work, settings.rounds, at_least=0.0)
        # Compiling takes long and varies little.
        turns = 1 if settings.quick else 3
        times |= alternate({"boxnn certify, cold cache": with_cold_cache}, turns, at_least=0.0)
    settings.advance("startup")
    case = "start-up, 200 images" if settings.quick else "start-up"
    return [record(case, name, "s", seconds) for name, seconds in times.items()]
