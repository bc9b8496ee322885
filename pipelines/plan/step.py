"""The step of training on a cluster: what it takes, in closed forms.

They follow what the cluster trainers do, message by message. A step is synchronous, so its time
is a sum:

- the client finds the codes that the step before changed;
- it calls every slot with them and with some samples. Calls leave side by side, and whatever of
  the client is busiest (its processor, or its link one way or the other) serves one after another;
- distances and soft-min on the workers' threads, in up to four calls one after the other;
- entries back to the client, and there the gradient and the update of the touched boxes.

With box shards every worker gets its part of the boxes and the whole batch, and two more rounds
of small tasks combine what the shards found. No hosts share a link here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from boxnn_numba.pipelines.cluster.dask_executor import LARGE_ARGUMENT
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job, interpolate
from boxnn_numba.pipelines.training.box_copies import LARGEST_GAP
from boxnn_numba.pipelines.training.cluster_trainer import MOST_PIECES, TASK_SECONDS

#: What messages need of the network's latency, one way (measured with messages held back): a call
#: and its answer, a round of tasks, a value put with a worker, the same spread to all workers
#: besides that, and each round of spreading.
CALL_HOPS, TASK_HOPS, PLACE_HOPS, SPREAD_HOPS, REPLICATE_HOPS = 2, 10, 6, 2, 5
#: Rounds of tasks of a step with box shards.
ROUNDS = 3
#: Bytes of an entry, of a sample's objective and margin, of a sample's soft-min sums, and of what
#: else a judged sample carries (label, side, sign, nearest, masses, value, margin, slope).
ENTRY_BYTES, SAMPLE_BYTES, MASS_BYTES, JUDGED_BYTES = 16, 16, 32, 84
#: Bytes of a message besides its arrays and the soft-min's table, and of a change (gap and code).
MESSAGE_BYTES, CHANGE_BYTES = 2000, 2
#: Bytes that a message takes at most.
LARGEST_MESSAGE = 2**32
#: How often a run sends all boxes.
STARTS = 2


def step_phases(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    """Return the seconds of each phase of a training step on a cluster.

    It is a step in the middle of a run; in the beginning all boxes go out (`start`).
    """
    kind = _sharded_phases if hardware.box_shards else _called_phases
    return {
        "rows gathered": 2 * job.rows * job.features / constants.copy_rate,
        **kind(job, hardware, constants),
        "gradient": gradient_seconds(job, constants, hardware.client),
    }


# --- every worker has all boxes -----------------------------------------------------------


def changed_codes(job: Job, constants: Constants) -> float:
    """Return how many codes of the boxes a step is told of, those without need among them."""
    changed = constants.changed_part(job.boxes, job.rows)
    return job.code_bytes * (changed + (1 - changed) / LARGEST_GAP)


def calls(job: Job, hardware: Hardware, constants: Constants) -> tuple[int, int]:
    """Return how many calls start at once in a step, and how many there are."""
    seats = min(hardware.slots, job.rows)
    share = constants.worker_factor * forward_seconds(job, constants, job.rows, job.boxes) / seats
    pieces = min(max(1, int(share / TASK_SECONDS)), MOST_PIECES)
    return seats, min(seats * pieces, job.rows)


def call_bytes(job: Job, hardware: Hardware, constants: Constants) -> tuple[float, float, float]:
    """Return the bytes of changed codes, of what else a call sends, and of its answer.

    The codes are in the first call of each slot only.
    """
    _, count = calls(job, hardware, constants)
    rows = job.rows / count
    answer = rows * (ENTRY_BYTES * constants.entries_per_sample(job) + SAMPLE_BYTES)
    update = CHANGE_BYTES * changed_codes(job, constants)
    return update, rows * (job.features + 4) + MESSAGE_BYTES, answer


def _called_phases(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    seats, count = calls(job, hardware, constants)
    waves = -(-count // seats)
    update, samples, answer = call_bytes(job, hardware, constants)
    # A message is packed, then sent, then unpacked.
    out = 1 / constants.call_rate + 1 / hardware.bandwidth
    back = 1 / min(hardware.bandwidth, constants.serialise_rate)
    phases = {
        "boxes compared": job.code_bytes * constants.compare_seconds / min(2, hardware.client),
        "sent out": (update + waves * samples) * out,
        "boxes laid out": changed_codes(job, constants) * constants.apply_seconds
        + waves * job.rows / count * job.features / constants.copy_rate,
        "distances": constants.worker_factor
        * forward_seconds(job, constants, waves * -(-job.rows // count), job.boxes),
        "results back": waves * answer * back,
        "latency": CALL_HOPS * waves * hardware.latency,
        "Dask": waves * constants.call_seconds,
    }
    # What a call waits for behind another, by the phase it belongs to.
    sent = update + samples
    packing = sent / constants.pack_rate + answer / constants.serialise_rate
    busy = {
        "Dask": constants.message_seconds + packing,
        "sent out": sent / hardware.bandwidth,
        "results back": answer / hardware.bandwidth,
    }
    slowest = max(busy, key=busy.__getitem__)
    phases[slowest] += (seats - 1) * busy[slowest]
    return phases


def start(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    """Return the ``seconds`` and ``bytes`` of sending all boxes to every slot, and if they ``fit``.

    That is so in the beginning of a run: with the samples that the objective's clip is chosen by,
    and in the first step.
    """
    if hardware.box_shards:
        return {"seconds": 0.0, "bytes": 0.0, "fit": True}
    seats, codes = min(hardware.slots, job.rows), job.code_bytes
    link = 1 / hardware.bandwidth
    queue = (seats - 1) * max(link, 1 / constants.pack_rate)
    seconds = codes * (1 / constants.call_rate + link + queue)
    return {
        "seconds": STARTS * seconds,
        "bytes": float(STARTS * seats * codes),
        "fit": codes < LARGEST_MESSAGE,
    }


# --- boxes in shards ----------------------------------------------------------------------


def _sharded_phases(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    link = min(hardware.bandwidth, constants.serialise_rate)
    shards = min(hardware.box_shards, job.boxes)
    waves = -(-shards // hardware.slots)
    boxes = -(-job.boxes // shards)
    arguments, (batch, parts) = task_arguments(job, hardware), placed_bytes(job, hardware)
    # The scheduler forwards arguments while it works on other tasks.
    scheduling = constants.task_seconds * (shards - 1)
    sends = [size / hardware.bandwidth for size in arguments]
    out = sum(seconds + max(0.0, seconds - scheduling) for seconds in sends)
    out += sum(arguments) / constants.argument_rate
    place_seconds, hops = placing(job, hardware, constants)
    loads = list(replication_loads(hardware.workers)) if batch else []
    return {
        "boxes compared": 0.0,
        "sent out": out + ((1 + sum(loads)) * batch + parts) / link,
        "boxes laid out": waves * (2 * boxes + job.rows) * job.features / constants.copy_rate,
        "distances": waves
        * constants.worker_factor
        * forward_seconds(job, constants, job.rows, boxes),
        "results back": shard_results(job, hardware, constants) / link,
        "latency": (ROUNDS * TASK_HOPS + hops) * hardware.latency,
        # The first round has two tasks for a shard.
        "Dask": place_seconds
        + ROUNDS * constants.round_trip
        + constants.task_seconds * ((ROUNDS + 1) * shards - ROUNDS),
    }


def placing(job: Job, hardware: Hardware, constants: Constants) -> tuple[float, int]:
    """Return the seconds besides transfers, and the hops, of putting large arguments somewhere."""
    batch, parts = placed_bytes(job, hardware)
    placed = int(batch > 0) + (min(hardware.box_shards, job.boxes) if parts else 0)
    seconds, hops = placed * constants.place_seconds, placed * PLACE_HOPS
    if batch:
        seconds += constants.task_seconds * (hardware.workers - 1)
        hops += SPREAD_HOPS + REPLICATE_HOPS * len(list(replication_loads(hardware.workers)))
    return seconds, hops


def task_arguments(job: Job, hardware: Hardware) -> list[float]:
    """Return the bytes that leave the client, and then the scheduler, in each round of tasks."""
    shards = min(hardware.box_shards, job.boxes)
    batch, parts = placed_bytes(job, hardware)
    small = MESSAGE_BYTES + job.table_bytes
    judged = job.rows * (4 * job.classes + JUDGED_BYTES) + small
    first = shards * (judged + small)
    if not batch:
        first += shards * job.rows * job.features
    if not parts:
        first += job.code_bytes
    return [float(first), float(shards * judged), float(shards * judged)]


def shard_results(job: Job, hardware: Hardware, constants: Constants) -> float:
    """Return the bytes that come back to the client in a step."""
    entries = ENTRY_BYTES * constants.entries_per_sample(job) * job.rows
    shards = min(hardware.box_shards, job.boxes)
    return entries + shards * job.rows * (4.0 * job.classes + MASS_BYTES)


def placed_bytes(job: Job, hardware: Hardware) -> tuple[float, float]:
    """Return the bytes of the batch, and of all shards of boxes, if they go to workers directly."""
    shards = min(hardware.box_shards, job.boxes)
    batch, boxes = float(job.rows * job.features), float(job.code_bytes)
    return batch * (batch >= LARGE_ARGUMENT), boxes * (boxes / shards >= LARGE_ARGUMENT)


def replication_loads(workers: int) -> Iterator[float]:
    """Yield, for each round of replication, how often the busiest holder sends a value.

    Dask lets the number of holders grow threefold a round, and every receiver picks its holder
    at random, so a round takes as long as the most popular holder.
    """
    holders = 1
    while holders < workers:
        receivers = min(2 * holders, workers - holders)
        yield busiest(receivers, holders)
        holders += receivers


def busiest(draws: int, hosts: int) -> float:
    """Return the mean largest count when `draws` choose among `hosts` at random.

    Counts are taken as independent Poisson variables.
    """
    from scipy.special import pdtr

    mean = draws / hosts
    none_above = pdtr(np.arange(draws), mean) ** hosts
    return max(float((1 - none_above).sum()), mean)


# --- both ---------------------------------------------------------------------------------


def step_bytes(job: Job, hardware: Hardware, constants: Constants) -> tuple[float, float]:
    """Return the bytes that leave the client in a step, and those that all hosts send."""
    if not hardware.box_shards:
        seats, count = calls(job, hardware, constants)
        update, samples, answer = call_bytes(job, hardware, constants)
        sent = seats * update + count * samples
        return sent, sent + count * answer
    arguments = sum(task_arguments(job, hardware))
    batch, parts = placed_bytes(job, hardware)
    moved = 2 * arguments + hardware.workers * batch + parts
    return arguments + batch + parts, moved + shard_results(job, hardware, constants)


# --- what threads do ----------------------------------------------------------------------


def forward_seconds(job: Job, constants: Constants, rows: int, boxes: int) -> float:
    """Return the seconds that one thread needs to see some rows against some boxes."""
    pairs = rows * boxes
    distances = pairs * job.features / constants.distance_rate(job.width, job.features)
    return distances + job.parts * pairs * constants.pair_seconds


def gradient_seconds(job: Job, constants: Constants, threads: int) -> float:
    """Return the seconds of a step's gradient and update on some threads."""
    entries, cells = constants.entries_per_sample(job) * job.rows, job.boxes * job.parts
    touched, n = cells * -math.expm1(-entries / cells), job.features
    work = entries * interpolate(constants.entry, n) + touched * interpolate(constants.update, n)
    # An entry, and a cell of a box, is of the features of one part.
    return n / job.parts * work / threads + entries * constants.sort_seconds


def local_step_seconds(job: Job, constants: Constants, threads: int) -> float:
    """Return the seconds of a step in one process on some threads, without a cluster."""
    gathered = 2 * job.rows * job.features / constants.copy_rate
    forward = forward_seconds(job, constants, job.rows, job.boxes) / threads
    return gathered + forward + gradient_seconds(job, constants, threads)
