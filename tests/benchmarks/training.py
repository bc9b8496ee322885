"""Suite `training`: one step and one epoch, against the same loss in torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from benchmarks.method import (
    Record,
    Samples,
    Settings,
    absent,
    alternate,
    record,
    repeat_rows,
    sample_boxes,
)

from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import BackendError
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.problem import FIXED_POINT, Problem
from boxnn_numba.training.run import Training

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]

EPOCH_ROWS = 60_000
_BETA = 50.0
#: Samples of a batch that torch is given in a run; the rest is extrapolated (cost is linear in
#: them, as the loss is a sum over samples).
_TORCH_ROWS = {"broadcast": 4, "cdist": 100, "compile": 20}
_VARIANTS = {
    "broadcast": "torch broadcast",
    "cdist": "torch cdist(p=1) x2",
    "compile": "torch.compile broadcast",
}
#: Largest difference of gradients, relative to the largest gradient.
_GRADIENT_TOLERANCE = 1e-4


def training_suite(settings: Settings, boxes: int = 2500) -> list[Record]:
    """Measure training steps and epochs, ours and torch's.

    Returns
    -------
    list of dict
        Seconds of a step and of an epoch, and ratios to torch's variants.
    """
    found: list[Record] = []
    batches = (1000,) if settings.quick else (100, 1000)
    for width in (128, 255):
        for batch in batches:
            found += _steps(settings, boxes, width, batch)
            settings.advance(f"training W={width} batch={batch}")
    for batch in batches:
        found += _epochs(settings, boxes, batch)
        settings.advance(f"training epoch batch={batch}")
    best = _best_torch_step(found, 128)
    if best is not None:
        ours = next(r for r in found if r["case"].endswith("epoch batch=1000"))
        steps = EPOCH_ROWS / 1000
        note = f"{best['name']}, extrapolated from its step"
        found.append(record(ours["case"], "torch, best", "s", best["median"] * steps / 1e3, note))
        ratio = best["median"] * steps / 1e3 / ours["median"]
        found.append(record(ours["case"], "ours / torch, best", "times", ratio, note))
    return found


def _best_torch_step(found: list[Record], width: int) -> Record | None:
    case = f"step W={width} batch=1000"
    steps = [
        item
        for item in found
        if item["case"] == case and item["name"] in _VARIANTS.values() and item["median"]
    ]
    return min(steps, key=lambda item: item["median"], default=None)


# --- one step -----------------------------------------------------------------------------


def step_problem(samples: Samples, boxes: int, batch: int) -> tuple[np.ndarray, np.ndarray, Boxes]:
    """Return a batch (codes, class indices) and boxes (float32 bounds) between which no code ties.

    Codes are odd and bounds even: where a code equals a bound, autograd of ``cdist`` picks
    another subgradient, and there would be nothing to compare.
    """
    x, y = samples.train
    low, high, labels = sample_boxes(samples, boxes)
    lower, upper = (side & np.uint8(254) for side in (low, high))
    rows = np.random.default_rng(5).choice(len(x), batch, replace=batch > len(x))
    bounds = lower.astype(np.float32), upper.astype(np.float32)
    return x[rows] | np.uint8(1), y[rows].astype(np.int32), (*bounds, labels)


def make_trainer(
    backend: CpuBackend,
    boxes: Boxes,
    n_classes: int,
    width: int,
    batch: int,
    spread: float = 1.0,
) -> CpuTrainer:
    """Return a trainer with the loss that torch gets: clip, Boltzmann soft-min, no leak.

    tau is 1 / spread, and margins are clipped at `spread` times the usual.
    """
    lower, upper, labels = boxes
    options = TrainingOptions(
        boxes=len(lower), width=width, batch=batch, beta=_BETA * spread, leak=0.0,
        softmin="boltzmann", tau=1.0 / spread, objective="clip",
    )  # fmt: skip
    offsets = np.searchsorted(labels, np.arange(n_classes + 1))
    problem = Problem.of(options, Structure.plain(offsets, lower.shape[1]))
    return CpuTrainer(backend, (lower.copy(), upper.copy()), problem)


def our_gradient(
    trainer: CpuTrainer, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return d objective / d lower and d upper (M, n) float64, per code, summed over the batch."""
    samples = trainer.backend.samples(x, trainer.table.frame)
    lower, upper = trainer.gradient(x, trainer.pulls(x, samples, y)[0])
    scale = trainer.problem.options.unit / FIXED_POINT
    return lower * scale, upper * scale


def _steps(settings: Settings, boxes: int, width: int, batch: int) -> list[Record]:
    case = f"step W={width} batch={batch}"
    x, y, problem = step_problem(settings.samples, boxes, batch)
    work: dict[str, Callable[[], Any]] = {}
    scale, notes = {}, {}
    ours = {"1 core": 1, f"{settings.threads} cores": settings.threads}
    for name, threads in ours.items():
        backend = get_backend("cpu", threads)
        trainer = make_trainer(backend, problem, settings.samples.n_classes, width, batch)
        # The rate is too small to change a code: every round works on the same boxes.
        work[name] = functools.partial(trainer.step, x, y, 1e-9)
        scale[name], notes[name] = 1.0, ""
    missing = []
    for variant, name in _VARIANTS.items():
        if variant == "cdist" and width != 255:
            continue
        rows = min(batch, _TORCH_ROWS[variant])
        call, why = _torch_step(settings, problem, (x[:rows], y[:rows]), width, variant)
        if call is None:
            missing.append(absent(case, name, why))
            continue
        work[name], scale[name] = call, batch / rows
        notes[name] = f"gradient only; extrapolated from {rows} samples" if rows < batch else ""
    times = alternate(work, settings.rounds)
    step = {name: seconds * scale[name] for name, seconds in times.items()}
    found = [record(case, name, "ms", 1e3 * t, notes[name]) for name, t in step.items()]
    for name in ours:
        rate = batch * len(problem[0]) / step[name] / 1e6
        found.append(record(case, f"{name}, pairs", "Mpairs/s", rate))
    everyone = f"{settings.threads} cores"
    for name in step:
        if name not in ours:
            ratio = step[name] / step[everyone]
            found.append(record(case, f"ours / {name}", "times", ratio, notes[name]))
    return found + missing


def _torch_step(
    settings: Settings,
    boxes: Boxes,
    batch: tuple[np.ndarray, np.ndarray],
    width: int,
    variant: str,
) -> tuple[Callable[[], Any] | None, str]:
    """Return a torch step whose gradient was checked against ours, or why there is none."""
    if find_spec("torch") is None:
        return None, "torch is not installed"
    if settings.quick and variant == "compile":
        return None, "left out by --quick"
    import torch
    from benchmarks import torch_steps as bench_torch

    torch.set_num_threads(settings.threads)
    loss = bench_torch.Loss.of(*batch, boxes, width=float(width), tau=1.0, beta=_BETA)
    try:
        call = bench_torch.step(loss, variant)
    except BackendError as error:
        return None, str(error)
    backend = get_backend("cpu", 1)
    trainer = make_trainer(backend, boxes, settings.samples.n_classes, width, len(batch[0]))
    expected = our_gradient(trainer, *batch)
    for mine, theirs in zip(expected, call(), strict=True):
        difference = np.abs(mine - theirs.numpy()).max() / np.abs(mine).max()
        if not difference <= _GRADIENT_TOLERANCE:
            return None, f"its gradient differs by {difference:.2g} of the largest; not compared"
    return call, ""


# --- one epoch ----------------------------------------------------------------------------


def _epochs(settings: Settings, boxes: int, batch: int) -> list[Record]:
    rows = EPOCH_ROWS
    x, y = repeat_rows(*settings.samples.train, rows)
    epochs = 1 if settings.quick else 3
    options = TrainingOptions(
        boxes=boxes, width=128, batch=batch, beta=_BETA, epochs=epochs, validation=0.0
    )
    backend = get_backend("cpu", settings.threads)
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), options.seed)
    run = Training(options, feed, settings.samples.n_classes, backend)
    seconds = [run.run_epoch().seconds for _ in range(epochs)]
    note = f"{rows} samples of {settings.samples.name}"
    if len(settings.samples.train[0]) < rows:
        note += ", repeated"
    case = f"W=128 M={boxes} epoch batch={batch}"
    return [
        record(case, f"{settings.threads} cores", "s", seconds, note),
        record(case, "pairs", "Mpairs/s", rows * boxes / np.array(seconds) / 1e6),
    ]
