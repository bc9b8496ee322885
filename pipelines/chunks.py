"""Chunks of rows: certification and attacks on a split, here or on a Dask cluster.

A `ChunkJob` says of which model and which rows, and has a `Worker` that computes arrays from a
chunk. `run_chunks` gives every chunk that is still to be done to an executor, which calls
`run_chunk` for it: read rows, compute, write whole. In this process a chunk is computed while the
next one is read and the one before is written. So a run can be stopped at any time and
resumed, and writes the same bits wherever it runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from boxnn_numba import validation
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.classifier import group_count
from boxnn_numba.data.atomic import (
    clear,
    output_location,
    partial_path,
    staged_output,
    write_failure,
)
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import model_digest, trained_columns
from boxnn_numba.data.paths import Location, Name, absolute
from boxnn_numba.data.row_files import RowFile, RowWriter, spread_rows, write_chunk
from boxnn_numba.data.run_log import RunLog, open_log
from boxnn_numba.errors import DataError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.cluster.executor import (
    Executor,
    LocalExecutor,
    connect,
    keep_on_interrupt,
)
from boxnn_numba.pipelines.running import Result, RunOptions
from boxnn_numba.progress import Progress
from boxnn_numba.text import without_secrets


class Worker(Protocol):
    """Work on a chunk: a frozen dataclass of plain values, which every task receives."""

    def __hash__(self) -> int: ...

    def compute(self, model: Any, x: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of a file, all but the labels, for samples with numbers ``rows``."""


@dataclass(frozen=True)
class ChunkJob:
    """A computation on rows of a split, as plain values: what every task is sent.

    `load` opens the model. Paths are absolute, as every process sees them; that of the result is
    `out`, unfinished, and `run` is that of its writer. It is of rows
    ``(arange(n_rows) * total) // n_rows``.
    """

    worker: Worker
    load: Callable[[Name], Any]
    model: str
    model_digest: str
    data: str
    data_digest: str
    split: str
    n_rows: int
    chunk_rows: int
    out: str
    run: str = ""

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.n_rows // self.chunk_rows)

    def rows_of(self, index: int) -> int:
        """Return how many rows a chunk has; the last may have fewer than the others."""
        return min(self.chunk_rows, self.n_rows - index * self.chunk_rows)


@dataclass(frozen=True)
class Spent(Result):
    """Time that tasks took.

    Attributes
    ----------
    tasks
        How many.
    kernels, transfer
        Seconds of computing, and of reading and writing chunks.
    nbytes
        Read and written.
    overhead
        Seconds in which a slot of a worker did nothing of that.
    """

    tasks: int = 0
    kernels: float = 0.0
    transfer: float = 0.0
    nbytes: int = 0
    overhead: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """Return the sum."""
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def run_chunks(
    subject: Subject,
    worker: Worker,
    kind: type[RowFile],
    out: Name,
    attributes: Mapping[str, Any],
    chunk_rows: int,
    run: RunOptions,
    *,
    optional: Sequence[str] = (),
    files: Sequence[Name] = (),
    seconds_per_sample: float | None = None,
) -> Spent | None:
    """Write a file with a row for each sample, each chunk by a task.

    `attributes` and `optional` are as for `RowWriter`, `files` are what workers read besides model
    and data. `seconds_per_sample` is recorded in place of what the tasks took. Returns what the
    tasks of a cluster took.
    """
    began, dataset = time.perf_counter(), subject.dataset
    job = ChunkJob(
        worker, subject.load, absolute(subject.model), subject.model_digest, absolute(subject.data),
        dataset.digest, subject.split, subject.n_rows, chunk_rows,
        absolute(partial_path(output_location(out))),
    )  # fmt: skip
    sources = (job.model, job.data, *map(absolute, files))
    staged = staged_output(out, **run.writing, resumable=True, inputs=sources)
    with staged as partial:
        # Connected first, and the log opened: where that fails, nothing is left behind.
        where = connect(run.cluster, run.threads, sources, run.device, run.client)
        with where as executor, _log(job, kind, out, attributes, run) as log:
            executor.check((job.out,))
            writer = RowWriter(
                partial, kind, attributes, job.n_rows, chunk_rows, optional=optional,
                n=dataset.n_features, dtype="uint8" if dataset.is_codes else "float32",
            )  # fmt: skip
            started = time.perf_counter()
            positions = label_positions(subject.stored, dataset)
            inputs = Inputs(subject.stored, dataset, positions)
            try:
                spent, rows = _run(executor, job, inputs, writer, partial, run.progress, log)
            except DataError:
                if len(writer.unfinished()) == job.chunks:  # nothing to go on with
                    clear(partial)
                raise
            seconds = executor.slots * (time.perf_counter() - started)
        busy = spent.kernels + spent.transfer
        measured = seconds_per_sample or (busy / rows if rows else None)
        writer.finish(seconds=time.perf_counter() - began, seconds_per_sample=measured)
    return None if run.local else replace(spent, overhead=max(0.0, seconds - busy))


def _log(
    job: ChunkJob, kind: type[RowFile], out: Name, attributes: Mapping[str, Any], run: RunOptions
) -> AbstractContextManager[RunLog]:
    same = ("method", "certificate", "model_digest", "dataset_digest", "options")
    about = {
        "result": kind.schema.format,
        "dataset": attributes["dataset_name"],
        **{name: attributes[name] for name in same if name in attributes},
        "split": job.split,
        "rows": job.n_rows,
        "chunk_rows": job.chunk_rows,
    }
    return open_log(run.log, about, apart_from=out, **run.writing)


def _run(
    executor: Executor,
    job: ChunkJob,
    inputs: Inputs,
    writer: RowWriter,
    folder: Location,
    progress: Progress,
    log: RunLog,
) -> tuple[Spent, int]:
    """Do the chunks that an earlier run has not finished; return what they took, and their rows."""
    total, todo = job.chunks, writer.unfinished()
    progress.start(job.n_rows, "samples")
    progress.advance(job.n_rows - sum(map(job.rows_of, todo)))
    if executor.dashboard:
        progress.note(f"dashboard: {executor.dashboard}")
    log.replace([line for line in log.lines if line["chunk"] not in todo])
    spent, rows, began = Spent(), 0, time.perf_counter()
    job = replace(job, run=writer.run)
    with keep_on_interrupt(lambda: total - len(writer.unfinished()), f"{total} chunks", folder):
        for index, taken in _done(executor, todo, job, inputs):
            spent, rows = spent.plus(taken), rows + job.rows_of(index)
            progress.advance(job.rows_of(index))
            log.add(_line(index, job.rows_of(index), taken, rows / (time.perf_counter() - began)))
    return spent, rows


def _line(index: int, rows: int, taken: Spent, speed: float) -> dict[str, Any]:
    """Return the line of a chunk: its seconds where it was computed, and the speed of all."""
    seconds = {"kernels": taken.kernels, "transfer": taken.transfer}
    return {"chunk": index, "rows": rows, **seconds, "samples_per_second": speed}


# --- a chunk ---------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """What chunks are computed from; positions are the `label_positions`."""

    model: Any
    dataset: Dataset
    positions: np.ndarray


# A process reads the model and the attributes of the data once, not with every task; the digests
# in the key make sure that it is still what the client saw.
@functools.lru_cache(maxsize=2)
def _open_inputs(job: ChunkJob) -> Inputs:
    model = job.load(job.model)
    dataset = open_dataset(job.data).matched(trained_columns(model), job.model)
    if model_digest(model) != job.model_digest or dataset.digest != job.data_digest:
        raise DataError(f"{job.model} or {job.data} changed while it was used; start again")
    return Inputs(model, dataset, label_positions(model, dataset))


def label_positions(model: Any, dataset: Dataset) -> np.ndarray:
    """Return the index in a model's classes of each class of a dataset.

    -1 for one that it never saw, and, last, for a row without a label, whose index is -1.
    """
    known = {label: index for index, label in enumerate(model.classes)}
    return np.array([*(known.get(label, -1) for label in dataset.classes), -1], np.int32)


class _Chunk:
    """A chunk of a job on its way: read, computed, written. `spent` is what that took so far."""

    def __init__(self, index: int, job: ChunkJob, inputs: Inputs) -> None:
        self.index, self.job, self.inputs, self.spent = index, job, inputs, Spent(1)

    def _add(self, began: float, *arrays: np.ndarray, kernels: bool = False) -> None:
        seconds = time.perf_counter() - began
        nbytes = sum(array.nbytes for array in arrays)
        more = Spent(kernels=seconds) if kernels else Spent(transfer=seconds, nbytes=nbytes)
        self.spent = self.spent.plus(more)

    def read(self) -> _Chunk:
        """Read the rows."""
        began, job, dataset = time.perf_counter(), self.job, self.inputs.dataset
        places = self.index * job.chunk_rows + np.arange(job.rows_of(self.index))
        self.rows = spread_rows(places, job.n_rows, dataset.n_rows(job.split))
        self.x, self.y = dataset.read_rows(job.split, self.rows)
        self._add(began, self.x, self.y)
        return self

    def compute(self) -> _Chunk:
        """Compute the columns."""
        began, found = time.perf_counter(), self.inputs
        self.columns = self.job.worker.compute(found.model, self.x, self.rows)
        self.columns["label"] = found.positions[self.y]
        self._add(began, kernels=True)
        return self

    def write(self) -> Spent:
        """Write the columns whole to the result; return what all took."""
        began, job = time.perf_counter(), self.job
        try:
            write_chunk(job.out, self.index, job.chunk_rows, self.columns, job.run)
        except OSError as error:
            raise write_failure(error, f"chunk {self.index} of {job.out}") from error
        self._add(began, *self.columns.values())
        return self.spent


def run_chunk(index: int, job: ChunkJob) -> Spent:
    """Compute one chunk, write it whole to the result, and return what that took: a task.

    Runs on whatever the executor uses. Running it twice writes the same bytes, but for exact radii
    that the time limit cuts short.
    """
    return _Chunk(index, job, _open_inputs(job)).read().compute().write()


def _done(
    executor: Executor, todo: Sequence[int], job: ChunkJob, inputs: Inputs
) -> Iterator[tuple[int, Spent]]:
    """Yield chunks that are done, and what each took."""
    if not isinstance(executor, LocalExecutor):
        yield from executor.map(run_chunk, todo, job)
        return
    yield from executor.map_stages(
        todo,
        lambda index: _Chunk(index, job, inputs).read(),
        _Chunk.compute,
        _Chunk.write,
    )


# --- what a job is of ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and rows of a split, opened and found to fit each other: what a job is of.

    `stored` and `dataset` are what is at the paths `model` and `data`; the rest is as for
    `ChunkJob`.
    """

    load: Callable[[Name], Any]
    model: Name
    stored: Any
    data: Name
    dataset: Dataset
    split: str
    n_rows: int

    @classmethod
    def open(
        cls, load: Callable[[Name], Any], model: Name, data: Name, split: str, limit: int | None
    ) -> Subject:
        """Open a model by `load`, and a dataset, of which all rows are taken without a limit."""
        stored = load(model)
        dataset = open_dataset(data).matched(trained_columns(stored), model)
        validation.choice("split", split, dataset.splits)
        if dataset.n_rows(split) == 0:
            raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
        subject = cls(load, model, stored, data, dataset, split, dataset.n_rows(split)).limited(
            limit
        )
        n_features = stored.boxes.n_features if isinstance(stored, BoxNN) else stored.n_features
        if dataset.n_features != n_features:
            raise DataError(
                f"{data} has {dataset.n_features} features and {model} was trained on "
                f"{n_features}; certify the data set that the model was trained for"
            )
        wanted = stored.feature_shape or (n_features,)
        validation.same_axes(str(data), dataset.feature_shape, wanted, str(model))
        if dataset.is_codes != (stored.grid is None):
            kinds = ("real features", "codes")
            raise DataError(
                f"{data} holds {kinds[dataset.is_codes]} and {model} was trained on "
                f"{kinds[not dataset.is_codes]}; "
                "ingest the data in the same way as the training data"
            )
        return subject

    def limited(self, limit: int | None) -> Subject:
        """Return this, of as many rows, spread evenly."""
        total = self.dataset.n_rows(self.split)
        n_rows = total if limit is None else validation.integer("limit", limit, 1, total)
        return replace(self, n_rows=n_rows)

    @functools.cached_property
    def model_digest(self) -> str:
        """SHA-256 of the model."""
        return model_digest(self.stored)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of a file that say which rows it is of, and by which model."""
        dataset, total = self.dataset, self.dataset.n_rows(self.split)
        some = self.n_rows != total
        return {
            "model": without_secrets(str(self.model)),
            "model_digest": self.model_digest,
            "dataset": without_secrets(str(self.data)),
            "dataset_name": dataset.name,
            "dataset_digest": dataset.digest,
            "split": self.split,
            **({"limit": self.n_rows, "split_rows": total} if some else {}),
            **({} if dataset.id_name is None else {"id": dataset.id_name}),
            **({} if dataset.columns is None else {"columns": dataset.columns.as_list()}),
            **_shape_of(self.stored),
        }


def _shape_of(model: BoxNN | BaselineModel) -> dict[str, Any]:
    """Return the attributes of a file that say what a model is like."""
    # Votes missing to unanimity change by at most one where one submodel does.
    units: dict[str, Any] = {"width": 1, "group_size": 1}
    more: dict[str, Any] = {}
    if isinstance(model, BaselineModel):
        more = {"groups": model.n_groups} if model.group_size > 1 else {}
    else:
        units = {"width": model.boxes.width, "group_size": model.group_size}
        # Only where they say something, so that files of plain models are as they were.
        known: tuple[tuple[str, bool, Any], ...] = (
            ("members", bool(model.others), len(model.box_sets)),
            ("groups", model.boxes.structure.is_grouped, group_count(model)),
            ("offset", bool(model.offset.any()), model.offset.tolist()),
        )
        more = {name: value for name, said, value in known if said}
    classes, shape = list(model.classes), list(model.feature_shape or ())
    return {**units, **more, "classes": classes, "feature_shape": shape}
