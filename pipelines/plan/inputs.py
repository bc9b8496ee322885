"""Inputs of a plan: the job, the cluster, and constants measured on a machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.errors import DataError, OptionError

#: The constants that come with the package, and how they were measured.
DEFAULT_CONSTANTS = Path(__file__).with_name("constants.json")
_FORMAT, _VERSION = "boxnn-plan-constants", 3

#: Batch at which changes of boxes were measured.
CHANGE_BATCH = 2000

#: Entries grow with this power of the parts (measured on MNIST, 2 to 28 parts).
_PART_GROWTH = 1.4

#: What was measured at several sizes.
Table = Mapping[int, float]


def interpolate(table: Table, size: float) -> float:
    """Return a value between those measured, on a logarithmic scale of sizes.

    Below the smallest and above the largest size it stays as there.
    """
    known = sorted(table)
    return float(np.interp(math.log(size), np.log(known), [table[n] for n in known]))


def regime(width: int) -> str:
    """Return which kernel a width has: 1 counts, 255 never caps."""
    return {1: "counted", 255: "uncapped"}.get(width, "capped")


@dataclass(frozen=True)
class Constants:
    """What one core, one process and Dask need; all seconds and bytes.

    Attributes
    ----------
    distances
        Sample-box-feature triples a core sees in a second: regime -> features -> rate.
    entry, update
        Seconds per entry and feature of the gradient, and per touched box and feature of the
        update, on one core; by features.
    pair_seconds
        Soft-min, per sample and box.
    sort_seconds
        Sorting the entries by box, per entry.
    entries
        Non-zero coefficients a sample gives, by boxes of a class (a property of the data and tau,
        not of the machine).
    changed
        Part of the codes that a step of `CHANGE_BATCH` samples changes, by boxes (data too).
    certify_gain
        How much faster class distances are than all distances, as boxes are left early (data).
    copy_rate, read_rate
        Bytes a second of laying out codes, and of reading chunks from a local store.
    compare_seconds, apply_seconds
        Finding the changes of boxes that were moved, per code, and making them, per changed code.
    call_seconds, message_seconds
        A call of a worker and its answer, and the client's processor for each of many.
    call_rate, send_rate
        Bytes a second of a call on the loopback, and through the client's processor alone.
    answer_rate
        Bytes a second of answers through the client's processor.
    round_trip, task_seconds
        What a round of tasks takes besides work and transfers, and every further task.
    worker_factor
        How much longer a task takes on a worker than in a process that has the machine to itself.
    worker_bytes
        Resident memory of a worker that has done some small steps.
    source
        How they were measured, and on what machine.
    """

    distances: Mapping[str, Table]
    entry: Table
    update: Table
    pair_seconds: float
    sort_seconds: float
    entries: Table
    changed: Table
    certify_gain: float
    copy_rate: float
    read_rate: float
    compare_seconds: float
    apply_seconds: float
    call_seconds: float
    message_seconds: float
    call_rate: float
    send_rate: float
    answer_rate: float
    round_trip: float
    task_seconds: float
    worker_factor: float
    worker_bytes: float
    source: Mapping[str, Any] = field(default_factory=dict)

    def distance_rate(self, width: int, features: int) -> float:
        """Return the triples a core sees in a second."""
        return interpolate(self.distances[regime(width)], features)

    def entries_per_sample(self, job: Job) -> float:
        """Return the entries that a sample gives; samples of many classes have fewer neighbours.

        With parts each has entries of its own, and more of them, as a soft-min over rows comes
        below that over templates.
        """
        return interpolate(self.entries, job.boxes / job.classes) * job.parts**_PART_GROWTH

    def changed_part(self, boxes: int, batch: int) -> float:
        """Return the part of the codes that a step changes.

        Of a box they are as many as the square root of the samples that move it, as in a
        random walk.
        """
        return min(1.0, interpolate(self.changed, boxes) * math.sqrt(batch / CHANGE_BATCH))

    def as_dict(self) -> dict[str, Any]:
        """Return what `load_constants` reads."""
        values = asdict(self)
        source = values.pop("source")
        return {"format": _FORMAT, "version": _VERSION, **source, "constants": values}


#: Constants that are tables, besides the distances.
_TABLES = ("entry", "update", "entries", "changed")


def load_constants(path: str | Path = DEFAULT_CONSTANTS) -> Constants:
    """Read constants from a file that ``tests/benchmarks/plan/calibrate.py`` wrote.

    Raises
    ------
    DataError
        The file cannot be read, is of another format, or a value is missing or not positive.
    """
    advice = "make one with tests/benchmarks/plan/calibrate.py --out FILE"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable JSON file; {advice}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{path} holds no constants of a machine; {advice}")
    if content.get("version") != _VERSION:
        raise DataError(f"{path} has version {content.get('version')!r}, not {_VERSION}; {advice}")
    values = content.get("constants")
    known = [item.name for item in fields(Constants) if item.name != "source"]
    if not isinstance(values, dict) or sorted(values) != sorted(known):
        raise DataError(f"{path} must set {', '.join(known)}; {advice}")
    try:
        given: dict[str, Any] = {name: _measured(name, value) for name, value in values.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} has a value that is no positive number ({error})") from error
    source = {key: content[key] for key in ("command", "machine", "notes") if key in content}
    return Constants(**given, source=source)


def _measured(name: str, value: Any) -> Any:
    """Return a constant after checking it: a positive number, or tables of them."""
    if name == "distances":
        return {kind: _measured("entry", value[kind]) for kind in map(regime, (1, 112, 255))}
    if name not in _TABLES:
        return validation.real(name, value, low=0, open_low=True)
    if not value:
        raise ValueError("an empty table")
    return {
        validation.positive("size", int(n)): validation.real("value", item, 0, open_low=True)
        for n, item in value.items()
    }


@dataclass(frozen=True)
class Job:
    """The job to train and certify.

    Attributes
    ----------
    samples, features, boxes, classes
        N, n, M and K.
    batch
        Samples in a step.
    width
        Cap of a feature's penalty, 1..255 codes.
    validation
        Fraction of the samples that the client judges the boxes on after every epoch.
    parts
        Parts of the features, in each of which the boxes of a template recombine; 1 for plain
        boxes.
    """

    samples: int = 60_000
    features: int = 784
    boxes: int = 2500
    classes: int = 10
    batch: int = 2000
    width: int = 112
    validation: float = 0.1
    parts: int = 1

    def __post_init__(self) -> None:
        for name in ("samples", "features", "boxes", "batch"):
            validation.positive(name, getattr(self, name))
        validation.integer("classes", self.classes, low=2)
        validation.integer("width", self.width, low=1, high=validation.MAX_CODE)
        validation.real("validation", self.validation, low=0, high=0.9)
        validation.integer("parts", self.parts, low=1, high=self.features)
        if self.boxes < self.classes:
            raise OptionError(
                f"boxes is {self.boxes}, fewer than the {self.classes} classes; "
                f"pass at least {self.classes}"
            )

    @property
    def code_bytes(self) -> int:
        """Bytes of the deployed bounds."""
        return 2 * self.boxes * self.features

    @property
    def training_rows(self) -> int:
        """Samples that steps see in an epoch."""
        return max(1, self.samples - round(self.validation * self.samples))

    @property
    def rows(self) -> int:
        """Samples of a whole step."""
        return min(self.batch, self.training_rows)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.training_rows // self.batch)


@dataclass(frozen=True)
class Hardware:
    """The cluster.

    Attributes
    ----------
    workers, threads
        Workers, and threads of each.
    client_threads
        Threads of the client; those of a worker if 0.
    bandwidth
        Bytes per second of each host's link, each way.
    store_bandwidth
        Bytes per second of the store that all share; that of a link if 0.
    latency
        Seconds of a message, one way.
    box_shards
        Parts that the boxes are split in, 0 for none.
    """

    workers: int = 1
    threads: int = 1
    client_threads: int = 0
    bandwidth: float = 1.25e9
    store_bandwidth: float = 0.0
    latency: float = 5e-5
    box_shards: int = 0

    def __post_init__(self) -> None:
        validation.positive("workers", self.workers)
        validation.positive("threads_per_worker", self.threads)
        for name in ("client_threads", "box_shards"):
            validation.integer(name, getattr(self, name), low=0)
        validation.real("bandwidth", self.bandwidth, low=0, open_low=True)
        for name in ("store_bandwidth", "latency"):
            validation.real(name, getattr(self, name), low=0)

    @property
    def slots(self) -> int:
        """Tasks that run at a time."""
        return self.workers * self.threads

    @property
    def client(self) -> int:
        """Threads of the client."""
        return self.client_threads or self.threads
