"""Suite `growth`: how time and memory grow with samples, features and boxes."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.kernels import class_distance_call
from benchmarks.method import (
    Record,
    Samples,
    Settings,
    alternate,
    random_boxes,
    random_codes,
    record,
)
from benchmarks.processes import python
from benchmarks.training import make_trainer, step_problem

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.boxes import Boxes
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.model_store import save_model
from boxnn_numba.errors import InputError
from boxnn_numba.model import BoxNN
from boxnn_numba.training.options import TrainingOptions

#: Where the doublings start; whole vectors, tiles and blocks, so that padding grows with them.
CERTIFY_SIZE = {"N": 1024, "n": 256, "M": 1280}
STEP_SIZE = {"N": 512, "n": 832, "M": 1280}
_CLASSES = 10
#: Sizes for memory; samples so many that a data set is larger than one chunk.
_MEMORY_ROWS, _MEMORY_BOXES, _MEMORY_FEATURES = 16_384, 640, 512


def growth_suite(settings: Settings) -> list[Record]:
    """Double N, n and M in turn, on one core; fit exponents in log-log.

    Returns
    -------
    list of dict
        Milliseconds and MiB at every size, exponents of time, bytes per unit of peak memory.
    """
    found: list[Record] = []
    for job, start, make in (
        ("certify", CERTIFY_SIZE, certify_call),
        ("training step", STEP_SIZE, functools.partial(step_call, samples=settings.samples)),
    ):
        for axis in ("N", "n", "M"):
            found += _time_growth(settings, job, axis, start, make)
            settings.advance(f"growth of time: {job}, {axis}")
    for job in ("certify", "training"):
        for axis in ("N",) if settings.quick else ("N", "n", "M"):
            found += _memory_growth(settings, job, axis)
            settings.advance(f"growth of memory: {job}, {axis}")
    return found


def exponent(sizes: np.ndarray, values: np.ndarray) -> float:
    """Return the least-squares slope of log(values) over log(sizes)."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


# --- time ---------------------------------------------------------------------------------


def certify_call(size: dict[str, int]) -> Callable[[], Any]:
    """Return a certification (class distances) on one core of random codes of a size."""
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(size["M"]) % _CLASSES)
    lower, upper = random_boxes(rng, size["M"], size["n"])
    boxes = Boxes(lower, upper, labels, 128)
    x = random_codes(rng, size["N"], size["n"])
    return class_distance_call(get_backend("cpu", 1), x, boxes)


def step_call(size: dict[str, int], samples: Samples) -> Callable[[], Any]:
    """Return a training step on one core on real samples; N is the batch.

    Features are repeated up to n. Random codes would not do: how many boxes share the soft-min
    of a sample depends on how distances are spread.
    """
    columns = np.arange(size["n"]) % samples.train[0].shape[1]
    train = np.ascontiguousarray(samples.train[0][:, columns]), samples.train[1]
    wide = replace(samples, train=train)
    x, y, boxes = step_problem(wide, size["M"], size["N"])
    backend = get_backend("cpu", 1)
    # Distances grow with n: a soft-min as wide as they are keeps as many boxes at every n.
    spread = size["n"] / STEP_SIZE["n"]
    trainer = make_trainer(backend, boxes, samples.n_classes, 128, size["N"], spread)
    return functools.partial(trainer.step, x, y, 1e-9)


def _time_growth(
    settings: Settings,
    job: str,
    axis: str,
    start: dict[str, int],
    make: Callable[[dict[str, int]], Callable[[], Any]],
) -> list[Record]:
    doublings = 3 if settings.quick else 4
    sizes = [start[axis] * 2**k for k in range(doublings)]
    work = {str(size): make({**start, axis: size}) for size in sizes}
    times = alternate(work, settings.rounds)
    fixed = " ".join(f"{name}={value}" for name, value in start.items() if name != axis)
    case = f"{job}: time over {axis} ({fixed})"
    found = [
        record(case, f"{axis}={size}", "ms", 1e3 * times[str(size)], axis=axis, job=job, size=size)
        for size in sizes
    ]
    rounds = np.array([times[str(size)] for size in sizes]).T
    exponents = [exponent(np.array(sizes), values) for values in rounds]
    return [*found, record(case, "exponent", "", exponents, axis=axis, job=job)]


# --- memory -------------------------------------------------------------------------------


def _memory_growth(settings: Settings, job: str, axis: str) -> list[Record]:
    base = {"N": _MEMORY_ROWS, "n": _MEMORY_FEATURES, "M": _MEMORY_BOXES}
    if settings.quick:
        base["N"] //= 2
    doublings = 2 if settings.quick else 4
    sizes = [base[axis] * 2**k for k in range(doublings)]
    case = f"{job}: memory over {axis} " + " ".join(
        f"{name}={value}" for name, value in base.items() if name != axis
    )
    peaks = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="boxnn-bench-") as folder:
            written = _write_problem(Path(folder), job, {**base, axis: size})
            peaks.append(peak_memory("growth", job, written))
    found = [
        record(case, f"{axis}={size}", "MiB", peak / 2**20, axis=axis, job=job, size=size)
        for size, peak in zip(sizes, peaks, strict=True)
    ]
    slope = float(np.polyfit(sizes, peaks, 1)[0])
    unit = {"N": "bytes per sample", "n": "bytes per feature", "M": "bytes per box"}[axis]
    return [*found, record(case, "growth", unit, slope, axis=axis, job=job)]


def _write_problem(folder: Path, job: str, size: dict[str, int]) -> dict[str, Any]:
    """Write the dataset and the model that a job reads; return what `run_job` takes."""
    rng = np.random.default_rng(0)
    rows, few = size["N"], 2 * size["M"]
    x = random_codes(rng, rows, size["n"])
    y = np.arange(rows, dtype=np.int32) % _CLASSES
    other = x[:few], y[:few]
    train, test = (other, (x, y)) if job == "certify" else ((x, y), other)
    data, model = folder / "data.zarr", folder / "model.zarr"
    write_dataset(data, name="random", classes=list(range(_CLASSES)), train=train, test=test)
    if job == "certify":
        labels = np.sort(np.arange(size["M"]) % _CLASSES)
        lower, upper = random_boxes(rng, size["M"], size["n"])
        boxes = Boxes(lower, upper, labels, 128)
        save_model(BoxNN(boxes, list(range(_CLASSES))), model)
    return {"folder": str(folder), "boxes": size["M"]}


def peak_memory(module: str, job: str, arguments: dict[str, Any]) -> int:
    """Run ``module.run_job(job, arguments)`` in a fresh process; return its peak in bytes."""
    code = (
        "import json, sys\n"
        f"from benchmarks.{module} import resident_peak, run_job\n"
        "run_job(sys.argv[1], json.loads(sys.argv[2]))\n"
        "print(resident_peak())"
    )
    return int(python("-c", code, job, json.dumps(arguments)).split()[-1])


def run_job(job: str, arguments: dict[str, Any]) -> None:
    """Certify, or train for one epoch, what `_write_problem` wrote."""
    from boxnn_numba.pipelines.certification.certify import certify
    from boxnn_numba.pipelines.training.train import train

    folder = Path(arguments["folder"])
    if job == "certify":
        certify(folder / "model.zarr", folder / "data.zarr", folder / "certificate.zarr")
    elif job == "training":
        options = TrainingOptions(
            boxes=arguments["boxes"], epochs=1, batch=1000, validation=0.0, lr=1e-3
        )
        train(folder / "data.zarr", folder / "trained.zarr", options)
    else:
        raise InputError(f"job is {job!r}; it must be certify or training")


def resident_peak() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage counts the parent's memory at the fork too; this does not.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
