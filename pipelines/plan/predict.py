"""Prediction of training and certification on clusters.

What a step of training takes is in `boxnn_numba.pipelines.plan.step`; here is what follows for
epochs, certification and memory, and for more workers. No hosts share a link.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from boxnn_numba.data.dataset import CHUNK_BYTES, chunk_rows
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job
from boxnn_numba.pipelines.plan.step import (
    calls,
    local_step_seconds,
    start,
    step_bytes,
    step_phases,
)
from boxnn_numba.training.loader import WINDOW_BYTES

#: Phases of a step by who is busy; no thread of a worker speeds up what is the network's.
GROUPS = {
    "workers": ("boxes laid out", "distances"),
    "network": ("sent out", "results back", "latency"),
    "Dask": ("Dask",),
    "client": ("rows gathered", "boxes compared", "gradient"),
}
#: Numbers of workers of a curve.
CURVE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)


@dataclass(frozen=True)
class Plan:
    """Prediction of a job on a cluster.

    Attributes
    ----------
    job, cluster, constants
        What was asked, and what was measured.
    step, start, epoch, certification, memory
        Plain values: of a training step (`step`), of sending all boxes in the beginning, of an
        epoch, of certifying all samples (`certification`), and bytes (`memory`).
    speedup, efficiency
        Of a step, over one process with a worker's threads.
    curve, takeover
        Steps on 1 to 1,000 workers, and the first number of workers from which network and Dask
        take longer than the workers and the client compute; None where they never do.
    """

    job: Job
    cluster: Hardware
    step: dict[str, Any]
    start: dict[str, float]
    epoch: dict[str, float]
    certification: dict[str, Any]
    memory: dict[str, float]
    speedup: float
    efficiency: float
    curve: list[dict[str, Any]]
    takeover: int | None
    constants: Constants

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "constants": self.constants.as_dict()}


def class_seconds(job: Job, constants: Constants, rows: int) -> float:
    """Return the seconds that one thread needs to certify some rows."""
    rate = constants.distance_rate(job.width, job.features) * constants.certify_gain
    return rows * job.boxes * job.features / rate


def certification(job: Job, hardware: Hardware, constants: Constants) -> dict[str, Any]:
    """Predict the certification of all samples.

    Chunks are independent. Tasks, the store and the scheduler work side by side, so the slowest
    of the three decides; before that every worker reads and lays out the model. ``parts`` has the
    seconds of each, ``bytes`` those of the store.
    """
    n = job.features
    rows = chunk_rows(n, np.dtype(np.uint8))
    chunks = -(-job.samples // rows)
    store = hardware.store_bandwidth or hardware.bandwidth
    row_bytes = n + 4 * (job.classes + 3)
    read = hardware.workers * job.code_bytes
    work = constants.worker_factor * class_seconds(job, constants, rows)
    chunk_seconds = work + rows * row_bytes / constants.read_rate
    model = read / store + job.code_bytes * (1 / constants.read_rate + 2 / constants.copy_rate)
    parts = {
        "model": model,
        "distances": -(-chunks // hardware.slots) * chunk_seconds,
        "store": job.samples * row_bytes / store,
        "Dask": chunks * constants.task_seconds,
    }
    slowest = max(("distances", "store", "Dask"), key=lambda name: parts[name])
    return {
        "seconds": model + parts[slowest] + constants.round_trip,
        "chunks": chunks,
        "bytes": read + job.samples * row_bytes,
        "bottleneck": max((slowest, "model"), key=lambda name: parts[name]),
        "parts": parts,
    }


def memory(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    """Return the peak bytes of a worker in training and certification, and of the client.

    A worker has one copy of the boxes, or of its shards, and while they are new the message with
    them for every thread. The client has float32 masters, codes, those it sent last, the best ones,
    the message, two windows of rows, and the rows held out if they fill no more than one.
    """
    n, codes, base = job.features, job.code_bytes, constants.worker_bytes
    seats, count = calls(job, hardware, constants)
    if hardware.box_shards:
        boxes = -(-job.boxes // count)
        # A worker may be given more than one shard.
        kept, busy = -(-count // hardware.workers), hardware.threads
        each = 2 * boxes * n + 2 * job.rows * n + 4.0 * job.rows * boxes * job.parts
        worker = base + kept * each + min(kept, busy) * 2 * boxes * n
    else:
        per_thread = 2 * job.rows / count * n + 64 * 4 * job.boxes * job.parts
        worker = base + codes + hardware.threads * per_thread
        worker += codes * min(seats, hardware.threads)
    chunk = max(CHUNK_BYTES, n)
    window = 2 * min(max(WINDOW_BYTES, n), job.training_rows * n)
    held = (job.samples - job.training_rows) * n
    window += held if held <= WINDOW_BYTES else 0
    return {
        "worker": worker,
        "certification worker": base + 3.0 * codes + hardware.threads * 3 * chunk,
        "client": base + 9.0 * codes + window + 2.0 * job.rows * n,
    }


def step(job: Job, hardware: Hardware, constants: Constants) -> dict[str, Any]:
    """Predict a step, and hold it against one process with a worker's threads (``local_seconds``).

    ``shares`` are the fractions that workers, network, Dask and client take.
    """
    phases = step_phases(job, hardware, constants)
    seconds = sum(phases.values())
    shares = {name: sum(phases[x] for x in group) / seconds for name, group in GROUPS.items()}
    local = local_step_seconds(job, constants, hardware.threads)
    return {
        "seconds": seconds,
        "phases": phases,
        "shares": shares,
        "bottleneck": max(shares, key=shares.__getitem__),
        "local_seconds": local,
        "speedup": local / seconds,
        "efficiency": local / seconds / hardware.workers,
    }


def predict(job: Job, hardware: Hardware, constants: Constants) -> Plan:
    """Predict one epoch of training and a certification, and how it goes on with more workers."""
    found = step(job, hardware, constants)
    gains = {name: found.pop(name) for name in ("speedup", "efficiency")}
    sent, moved = step_bytes(job, hardware, constants)
    held_out = job.samples - job.training_rows
    validation_seconds = class_seconds(job, constants, held_out) / hardware.client
    points = curve(job, hardware, constants)
    return Plan(
        job=job,
        cluster=hardware,
        step={**found, "bytes": moved, "client_sends": sent},
        start=start(job, hardware, constants),
        epoch={
            # The last batch is smaller, but counts whole.
            "seconds": job.steps * found["seconds"] + validation_seconds,
            "steps": job.steps,
            "validation_seconds": validation_seconds,
            "bytes": job.steps * moved,
        },
        certification=certification(job, hardware, constants),
        memory=memory(job, hardware, constants),
        curve=points,
        takeover=takeover(points),
        constants=constants,
        **gains,
    )


def curve(job: Job, hardware: Hardware, constants: Constants) -> list[dict[str, Any]]:
    """Predict a step for numbers of workers from 1 to 1,000 and the one asked for.

    Where the boxes are split, there is a shard for every thread of the workers. ``communication``
    is the fraction of a step that network and Dask take.
    """
    points = []
    for workers in sorted({*CURVE, hardware.workers}):
        shards = workers * hardware.threads if hardware.box_shards else 0
        there = replace(hardware, workers=workers, box_shards=shards)
        point = {"workers": workers, **step(job, there, constants)}
        shares = point.pop("shares")
        del point["local_seconds"]
        points.append({**point, "communication": shares["network"] + shares["Dask"]})
    return points


def takeover(points: list[dict[str, Any]]) -> int | None:
    """Return the first number of workers of a curve from which communication takes over."""
    return next((p["workers"] for p in points if p["communication"] > 0.5), None)
