"""Predict training and certification on clusters that are not there.

Closed forms over measured constants (`boxnn_numba.pipelines.plan_inputs`), following what the
cluster steppers do, message by message. A step is synchronous, so its time is a sum:

- boxes out: the client sends the codes once, then holders pass them on. Dask's replication lets
  the number of holders grow threefold a round, and every receiver picks its holder at random, so
  a round takes as long as the most popular holder.
- samples out: task arguments go to the scheduler and from there to the workers, one after the
  other.
- distances and soft-min on the workers' threads, entries back to the client, and there the
  gradient and the update of the touched boxes.

With box shards every worker gets its part of the boxes and the whole batch, and two more rounds
of small tasks combine what the shards found. No hosts share a link here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from boxnn_numba.data.store import CHUNK_BYTES
from boxnn_numba.pipelines.plan_inputs import Constants, Hardware, Job

#: What messages need of the network's latency, one way: what a step says whatever its size, a
#: round of replication, and each further round of tasks.
STEP_HOPS, REPLICATE_HOPS, ROUND_HOPS = 16, 4, 8
#: Bytes of an entry, of a sample's objective and margin, of a sample's soft-min sums, and of what
#: else a judged sample carries (label, side, sign, nearest, masses, value, margin, slope).
ENTRY_BYTES, SAMPLE_BYTES, MASS_BYTES, JUDGED_BYTES = 16, 16, 32, 84
#: Bytes of a task message besides its arrays and the soft-min's table.
TASK_BYTES = 2000
#: Bytes of a window of training rows; two are in memory.
WINDOW_BYTES = 128 * 2**20
#: Phases of a step that are the network's, and that no thread of a worker speeds up.
COMMUNICATION = ("boxes out", "samples out", "results back", "latency")
#: What a worker does with its threads.
WORK = ("distances", "boxes laid out")
#: Numbers of workers of a curve.
CURVE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)


def replication_loads(workers: int) -> Iterator[float]:
    """Yield, for each round of replication, how often the busiest holder sends one side's boxes.

    Both sides spread by themselves, so each round has two sets of holders, which overlap.
    """
    holders = 1
    while holders < workers:
        receivers = min(2 * holders, workers - holders)
        hosts = round(2 * holders - holders**2 / workers)
        # In the first round there is nothing to choose.
        yield busiest(2 * receivers, hosts) if holders > 1 else float(receivers)
        holders += receivers


def busiest(draws: int, hosts: int) -> float:
    """Return the mean largest count when `draws` choose among `hosts` at random.

    Counts are taken as independent Poisson variables.
    """
    if hosts == 1:
        return float(draws)
    mean = draws / hosts
    term = below = math.exp(-mean)
    expected, k = 0.0, 0
    while below**hosts < 1 - 1e-6 and k < draws:
        expected += 1 - below**hosts
        k += 1
        term *= mean / k
        below = min(1.0, below + term)
    return max(expected, mean)


def step_phases(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    """Return the seconds of each phase of a training step on a cluster.

    Parameters
    ----------
    job, hardware, constants
        What is trained, where, and what was measured.

    Returns
    -------
    dict
        Seconds by name of the phase; their sum is the time of the step.
    """
    link = min(hardware.bandwidth, constants.serialise_rate)
    rows, shards = job.rows, min(hardware.box_shards, job.boxes)
    tasks = shards or min(hardware.slots, rows)
    arguments = task_arguments(job, hardware)
    phases = {"rows gathered": 2 * rows * job.features / constants.copy_rate}
    waves, hops = 1, STEP_HOPS + ROUND_HOPS * (len(arguments) - 1)
    if shards:
        waves = -(-shards // hardware.slots)
        work = waves * rows, -(-job.boxes // shards)
        sends = 2.0
    else:
        loads = list(replication_loads(hardware.workers))
        hops += REPLICATE_HOPS * len(loads)
        work = -(-rows // tasks), job.boxes
        sends = 1 + sum(loads) / 2
    phases["boxes out"] = sends * job.code_bytes / link
    # The scheduler forwards arguments while it works on other tasks.
    scheduling = constants.task_seconds * (tasks - 1)
    phases["samples out"] = sum(
        size / link + max(0.0, size / link - scheduling) for size in arguments
    )
    phases["boxes laid out"] = waves * 2 * work[1] * job.features / constants.copy_rate
    phases["distances"] = constants.worker_factor * forward_seconds(job, constants, *work)
    phases["results back"] = results_bytes(job, hardware, constants) / link
    phases["latency"] = hops * hardware.latency
    phases["Dask"] = len(arguments) * (constants.round_trip + scheduling)
    phases["gradient"] = gradient_seconds(job, constants, hardware.client)
    return phases


def task_arguments(job: Job, hardware: Hardware) -> list[float]:
    """Return the bytes of task arguments in each round of a step, boxes of shards not counted.

    They leave the client, and then the scheduler.
    """
    rows, shards = job.rows, min(hardware.box_shards, job.boxes)
    small = TASK_BYTES + job.table_bytes
    if not shards:
        return [float(rows * (job.features + 4) + min(hardware.slots, rows) * small)]
    judged = rows * (4 * job.classes + JUDGED_BYTES)
    first = rows * job.features + judged + 2 * small
    return [float(shards * size) for size in (first, judged + small, judged + small)]


def results_bytes(job: Job, hardware: Hardware, constants: Constants) -> float:
    """Return the bytes that come back to the client in a step."""
    entries = ENTRY_BYTES * constants.entries_per_sample * job.rows
    shards = min(hardware.box_shards, job.boxes)
    if shards:
        return entries + shards * job.rows * (4.0 * job.classes + MASS_BYTES)
    return entries + SAMPLE_BYTES * job.rows


def forward_seconds(job: Job, constants: Constants, rows: int, boxes: int) -> float:
    """Return the seconds that one thread needs to see some rows against some boxes."""
    pairs = rows * boxes
    distances = pairs * job.features / constants.distance_rate(job.width, job.features)
    return distances + pairs * constants.pair_seconds


def gradient_seconds(job: Job, constants: Constants, threads: int) -> float:
    """Return the seconds of a step's gradient and update on some threads."""
    entries = constants.entries_per_sample * job.rows
    touched = job.boxes * -math.expm1(-entries / job.boxes)
    n = job.features
    work = entries * n * constants.entry_seconds(n) + touched * n * constants.update_seconds(n)
    return work / threads + entries * constants.sort_seconds


def local_step_seconds(job: Job, constants: Constants, threads: int) -> float:
    """Return the seconds of a step in one process on some threads, without a cluster."""
    gathered = 2 * job.rows * job.features / constants.copy_rate
    forward = forward_seconds(job, constants, job.rows, job.boxes) / threads
    return gathered + forward + gradient_seconds(job, constants, threads)


def class_seconds(job: Job, constants: Constants, rows: int) -> float:
    """Return the seconds that one thread needs to certify some rows."""
    rate = constants.distance_rate(job.width, job.features) * constants.certify_gain
    return rows * job.boxes * job.features / rate


def certification(job: Job, hardware: Hardware, constants: Constants) -> dict[str, Any]:
    """Predict the certification of all samples.

    Chunks are independent. Tasks, the store and the scheduler work side by side, so the slowest
    of the three decides; before that every worker reads and lays out the model.

    Returns
    -------
    dict
        ``seconds``, ``bytes`` of the store, ``chunks``, ``parts`` (seconds of each) and the
        ``bottleneck`` among them.
    """
    n = job.features
    rows = max(1, CHUNK_BYTES // n)
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

    A training task lays out boxes and samples anew, so every thread has a copy. The client has
    float32 masters, codes, what it sends, the best boxes, and two windows of rows.
    """
    n, codes, base = job.features, job.code_bytes, constants.worker_bytes
    shards = min(hardware.box_shards, job.boxes)
    if shards:
        boxes = -(-job.boxes // shards)
        # A worker may be given more than one shard.
        kept = -(-shards // hardware.workers)
        busy = min(kept, hardware.threads)
        per_task = 2 * boxes * n + job.rows * n
        worker = base + kept * (per_task + 4.0 * job.rows * boxes) + busy * per_task
    else:
        rows = -(-job.rows // min(hardware.slots, job.rows))
        per_task = codes + 2 * rows * n + 64 * 4 * job.boxes
        worker = base + codes + hardware.threads * per_task
    chunk = max(CHUNK_BYTES, n)
    window = 2 * min(max(WINDOW_BYTES, n), job.training_rows * n)
    return {
        "worker": worker,
        "certification worker": base + 3.0 * codes + hardware.threads * 3 * chunk,
        "client": base + 4.0 * codes + 4 * codes + window + 2.0 * job.rows * n,
    }


def bottleneck(phases: dict[str, float]) -> str:
    """Return what takes the largest part of a step: workers, network, Dask or the client."""
    parts = shares(phases)
    return max(parts, key=lambda name: parts[name])


def shares(phases: dict[str, float]) -> dict[str, float]:
    """Return the fractions of a step that are the workers', network's, Dask's and client's."""
    total = sum(phases.values())
    groups = {
        "workers": sum(phases[name] for name in WORK),
        "network": sum(phases[name] for name in COMMUNICATION),
        "Dask": phases["Dask"],
        "client": phases["rows gathered"] + phases["gradient"],
    }
    return {name: seconds / total for name, seconds in groups.items()}


def predict(job: Job, hardware: Hardware, constants: Constants) -> dict[str, Any]:
    """Predict one epoch of training and a certification.

    Returns
    -------
    dict
        Plain values: ``step``, ``epoch``, ``certification``, ``memory``, and ``speedup`` and
        ``efficiency`` of a step over one process with a worker's threads.
    """
    phases = step_phases(job, hardware, constants)
    arguments, codes = sum(task_arguments(job, hardware)), job.code_bytes
    step = sum(phases.values())
    held_out = job.samples - job.training_rows
    validation_seconds = class_seconds(job, constants, held_out) / hardware.client
    local = local_step_seconds(job, constants, hardware.threads)
    copies = 2 if hardware.box_shards else hardware.workers
    moved = copies * codes + 2 * arguments + results_bytes(job, hardware, constants)
    # The last batch is smaller, but counts whole.
    training = job.steps * step
    return {
        "job": asdict(job),
        "cluster": asdict(hardware),
        "step": {
            "seconds": step,
            "phases": phases,
            "shares": shares(phases),
            "bottleneck": bottleneck(phases),
            "bytes": moved,
            "client_sends": codes + arguments,
            "local_seconds": local,
        },
        "epoch": {
            "seconds": training + validation_seconds,
            "steps": job.steps,
            "validation_seconds": validation_seconds,
            "bytes": job.steps * moved,
        },
        "certification": certification(job, hardware, constants),
        "memory": memory(job, hardware, constants),
        "speedup": local / step,
        "efficiency": local / step / hardware.workers,
    }


def curve(job: Job, hardware: Hardware, constants: Constants) -> list[dict[str, Any]]:
    """Predict a step for numbers of workers from 1 to 1,000 and the one asked for.

    Where the boxes are split, there is a shard for every thread of the workers.

    Returns
    -------
    list of dict
        ``workers``, ``seconds``, ``speedup``, ``efficiency``, ``bottleneck``,
        ``communication`` (the fraction of a step that network and Dask take) and the seconds of
        each of the ``phases``.
    """
    local = local_step_seconds(job, constants, hardware.threads)
    points = []
    for workers in sorted({*CURVE, hardware.workers}):
        shards = workers * hardware.threads if hardware.box_shards else 0
        phases = step_phases(job, replace(hardware, workers=workers, box_shards=shards), constants)
        seconds, parts = sum(phases.values()), shares(phases)
        points.append(
            {
                "workers": workers,
                "seconds": seconds,
                "speedup": local / seconds,
                "efficiency": local / seconds / workers,
                "bottleneck": bottleneck(phases),
                "communication": parts["network"] + parts["Dask"],
                "phases": phases,
            }
        )
    return points


def takeover(points: list[dict[str, Any]]) -> int | None:
    """Return the first number of workers of a curve from which communication takes over.

    That is where the network and Dask take longer than the workers and the client compute; None
    where they never do.
    """
    return next((p["workers"] for p in points if p["communication"] > 0.5), None)
