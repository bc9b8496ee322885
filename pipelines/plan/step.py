"""The step of training on a cluster: times, bytes and memory in closed forms.

They follow what the cluster trainers do, message by message. A step is synchronous, so its time
is a sum:

- the client gathers the rows, and finds the codes that it changed in the step before;
- it calls every slot with them and with some samples, by way of other workers where there are
  many. Calls leave a host side by side, and whatever of it is busiest (its processor, or its
  link one way or the other) serves one after another;
- distances and soft-min on the workers' threads, in up to four calls one after the other;
- entries back to the client, and there the gradient and the update of the touched boxes.

With box shards a call is of a shard: every worker gets the whole batch, and two more rounds of
calls combine what the shards found. No hosts share a link here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from boxnn_numba.pipelines.cluster.tasks import FAN
from boxnn_numba.pipelines.plan.inputs import Constants, Hardware, Job, interpolate
from boxnn_numba.pipelines.training.cluster_trainer import MOST_PIECES, TASK_SECONDS

#: Messages of a call, which take the network's latency one way each.
CALL_HOPS = 2
#: Rounds of calls of a step with box shards.
ROUNDS = 3
#: Bytes of a coefficient of an entry, of a sample's objective and margin, of a sample's label, and
#: of its soft-min sums.
COEFFICIENT_BYTES, SAMPLE_BYTES, LABEL_BYTES, MASS_BYTES = 4, 16, 4, 32
#: Bytes of a message besides its arrays, of a change (gap and code), and of each cell with some.
MESSAGE_BYTES, CHANGE_BYTES, CELL_BYTES = 2000, 2, 12
#: Codes between two changes at most; there are some without need where gaps are larger.
LARGEST_GAP = 255


def step_phases(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    """Return the seconds of each phase of a training step on a cluster.

    It is a step in the middle of a run; in the beginning all boxes go out (`start`).
    """
    moved = touched_cells(job, constants) * job.code_bytes / (job.boxes * job.parts)
    laid_out, distances = work(job, hardware, constants)
    return {
        "rows gathered": 2 * job.rows * job.features / constants.copy_rate,
        "boxes compared": moved * constants.compare_seconds / hardware.client,
        "boxes laid out": laid_out,
        "distances": distances,
        **communication(job, hardware, constants),
        "gradient": gradient_seconds(job, constants, hardware.client),
    }


# --- rounds of calls ----------------------------------------------------------------------


def touched_cells(job: Job, constants: Constants) -> float:
    """Return how many cells, boxes in one part, a step moves."""
    cells = job.boxes * job.parts
    return cells * -math.expm1(-constants.entries_per_sample(job) * job.rows / cells)


def changed_codes(job: Job, constants: Constants) -> float:
    """Return how many codes of the boxes a step sends.

    That includes unchanged codes, which are sent to bridge large gaps.
    """
    changed = job.code_bytes * constants.changed_part(job.boxes, job.rows)
    codes = touched_cells(job, constants) * job.code_bytes / (job.boxes * job.parts)
    far = (1 - min(1.0, changed / codes)) ** LARGEST_GAP
    return changed + min(changed * far / max(1e-9, 1 - far), codes / LARGEST_GAP)


def update_bytes(job: Job, constants: Constants) -> float:
    """Return the bytes of what a step changed in all boxes."""
    changes = CHANGE_BYTES * changed_codes(job, constants)
    return changes + CELL_BYTES * touched_cells(job, constants)


def entry_bytes(job: Job, rows: int) -> int:
    """Return the bytes of an entry of a call with some rows, in numbers as small as they fit."""
    ends = rows - 1, job.boxes * job.parts - 1
    return COEFFICIENT_BYTES + sum(np.min_scalar_type(end).itemsize for end in ends)


def answer_bytes(job: Job, rows: float, constants: Constants) -> float:
    """Return the bytes of what some rows say of all boxes."""
    entries = constants.entries_per_sample(job) * entry_bytes(job, math.ceil(rows))
    return rows * (entries + SAMPLE_BYTES)


def calls(job: Job, hardware: Hardware, constants: Constants) -> tuple[int, int]:
    """Return how many calls start at once in a step, and how many there are."""
    if hardware.box_shards:
        shards = min(hardware.box_shards, job.boxes)
        return shards, shards
    seats = min(hardware.slots, job.rows)
    share = constants.worker_factor * forward_seconds(job, constants, job.rows, job.boxes) / seats
    pieces = min(max(1, int(share / TASK_SECONDS)), MOST_PIECES)
    return seats, min(seats * pieces, job.rows)


def call_bytes(
    job: Job, hardware: Hardware, constants: Constants
) -> list[tuple[float, float, float]]:
    """Return the bytes of the calls of a step, round by round.

    They are what all workers are told, what is sent for a call alone, and its answer.
    """
    _, count = calls(job, hardware, constants)
    update, sample = update_bytes(job, constants), job.features + LABEL_BYTES
    if not hardware.box_shards:
        rows = job.rows / count
        answer = answer_bytes(job, rows, constants)
        return [(update, rows * sample + MESSAGE_BYTES, answer)]
    minima, masses = 4.0 * job.classes * job.rows, float(MASS_BYTES * job.rows)
    each = constants.entries_per_sample(job) * entry_bytes(job, job.rows) * job.rows / count
    return [
        (float(job.rows * sample), update / count + MESSAGE_BYTES, minima),
        (minima, MESSAGE_BYTES, masses),
        (masses, MESSAGE_BYTES, each),
    ]


def branches(hosts: int) -> Iterator[tuple[int, int]]:
    """Yield, from the client on, how many messages leave a host, and for how many hosts one is."""
    while hosts:
        messages = min(FAN, hosts)
        each = -(-hosts // messages)
        yield messages, each
        hosts = each - 1


def told(job: Job, hardware: Hardware, constants: Constants) -> int:
    """Return how many receivers get the common message: workers, or slots where steps are cut."""
    seats, count = calls(job, hardware, constants)
    return seats if count > seats else min(seats, hardware.workers)


def round_phases(
    size: tuple[float, float, float], job: Job, hardware: Hardware, constants: Constants
) -> dict[str, float]:
    """Return the seconds of the messages of a round of calls of some size."""
    seats, count = calls(job, hardware, constants)
    waves, hosts = -(-count // seats), told(job, hardware, constants)
    common, own, answer = size
    own, answer = own * seats / hosts, answer * seats / hosts  # of all calls of a host
    tree = [(hosts, 1)] if waves > 1 else list(branches(hosts))
    # A message goes through the processors of both ends, and over the link.
    out = 1 / constants.call_rate + 1 / hardware.bandwidth
    back = 1 / min(hardware.bandwidth, constants.answer_rate)
    steps = len(tree) + waves - 1
    phases = {
        "sent out": (waves - 1) * own * out,
        "results back": (waves - 1) * answer * back,
        "latency": CALL_HOPS * steps * hardware.latency,
        "Dask": steps * constants.call_seconds,
    }
    for messages, each in tree:
        sent, returned = common + each * own, each * answer
        phases["sent out"] += sent * out
        phases["results back"] += returned * back
        # What a call waits for behind another, by the phase it belongs to.
        processor = sent / constants.send_rate + returned / constants.answer_rate
        busy = {
            "Dask": constants.message_seconds + processor,
            "sent out": sent / hardware.bandwidth,
            "results back": returned / hardware.bandwidth,
        }
        slowest = max(busy, key=busy.__getitem__)
        phases[slowest] += (messages - 1) * busy[slowest]
    return phases


def communication(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    """Return the seconds of each phase of a step that is not computing."""
    rounds = [
        round_phases(size, job, hardware, constants)
        for size in call_bytes(job, hardware, constants)
    ]
    return {name: sum(phases[name] for phases in rounds) for name in rounds[0]}


def work(job: Job, hardware: Hardware, constants: Constants) -> tuple[float, float]:
    """Return the seconds of a worker's thread in a step: boxes and rows laid out, and distances."""
    seats, count = calls(job, hardware, constants)
    changed = changed_codes(job, constants)
    if hardware.box_shards:
        waves = -(-count // hardware.slots)
        rows, boxes, changed = waves * job.rows, -(-job.boxes // count), waves * changed / count
    else:
        waves = -(-count // seats)
        rows, boxes = waves * -(-job.rows // count), job.boxes
    laid_out = changed * constants.apply_seconds + rows * job.features / constants.copy_rate
    return laid_out, constants.worker_factor * forward_seconds(job, constants, rows, boxes)


def start(job: Job, hardware: Hardware, constants: Constants) -> dict[str, float]:
    """Return the ``seconds`` and ``bytes`` of telling all workers, or shards, of all boxes.

    That is so in the beginning of a run, with the samples that the objective's clip is chosen by.
    """
    hosts = told(job, hardware, constants)
    common, own = (0.0, job.code_bytes / hosts) if hardware.box_shards else (job.code_bytes, 0.0)
    phases = round_phases((common, own, 0.0), job, hardware, constants)
    return {"seconds": phases["sent out"] + phases["Dask"], "bytes": hosts * (common + own)}


def step_bytes(job: Job, hardware: Hardware, constants: Constants) -> tuple[float, float]:
    """Return the bytes that leave the client in a step, and those that all hosts send."""
    _, count = calls(job, hardware, constants)
    hosts, sizes = told(job, hardware, constants), call_bytes(job, hardware, constants)
    first = min(FAN, hosts) if count <= hardware.slots else hosts
    sent = sum(first * common + count * own for common, own, _ in sizes)
    moved = sum(hosts * common + count * (own + answer) for common, own, answer in sizes)
    return sent, moved


# --- what threads do ----------------------------------------------------------------------


def forward_seconds(job: Job, constants: Constants, rows: int, boxes: int) -> float:
    """Return the seconds that one thread needs to see some rows against some boxes."""
    pairs = rows * boxes
    distances = pairs * job.features / constants.distance_rate(job.width, job.features)
    return distances + job.parts * pairs * constants.pair_seconds


def gradient_seconds(job: Job, constants: Constants, threads: int) -> float:
    """Return the seconds of a step's gradient and update on some threads."""
    entries, n = constants.entries_per_sample(job) * job.rows, job.features
    touched = touched_cells(job, constants)
    work = entries * interpolate(constants.entry, n) + touched * interpolate(constants.update, n)
    # An entry, and a cell of a box, is of the features of one part.
    return n / job.parts * work / threads + entries * constants.sort_seconds


def local_step_seconds(job: Job, constants: Constants, threads: int) -> float:
    """Return the seconds of a step in one process on some threads, without a cluster."""
    gathered = 2 * job.rows * job.features / constants.copy_rate
    forward = forward_seconds(job, constants, job.rows, job.boxes) / threads
    return gathered + forward + gradient_seconds(job, constants, threads)
