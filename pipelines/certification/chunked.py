"""How every method certifies: chunk by chunk on an executor, into a file that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from boxnn_numba import validation
from boxnn_numba.data.atomic import staged_output, write_failure
from boxnn_numba.data.certificate_store import CertificateWriter, write_chunk
from boxnn_numba.data.dataset import Dataset
from boxnn_numba.data.paths import Location, Name
from boxnn_numba.errors import DataError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.cluster.executor import Executor, connect, keep_on_interrupt
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions


class Job(Protocol):
    """What a task needs to certify a chunk, as plain values: also paths that every worker sees."""

    @property
    def model(self) -> str:
        """Absolute path of the model."""

    @property
    def data(self) -> str:
        """Absolute path of the dataset."""

    @property
    def out(self) -> str:
        """Absolute path of the unfinished certificate file."""

    @property
    def chunk_rows(self) -> int:
        """Samples in a chunk; the last may have fewer."""


@dataclass(frozen=True)
class HowToRun:
    """Options of a run that do not change its result; as for `certify`."""

    overwrite: bool = False
    resume: bool = False
    threads: int | None = None
    cluster: ClusterOptions = IN_PROCESS
    progress: Any = None
    device: str = "cpu"


class Spent(NamedTuple):
    """What one or more tasks took.

    Attributes
    ----------
    kernels, transfer
        Seconds of computing, and of reading and writing chunks.
    nbytes
        Read and written.
    """

    kernels: float = 0.0
    transfer: float = 0.0
    nbytes: int = 0

    def plus(self, other: Spent) -> Spent:
        """Return the sum."""
        return Spent(
            self.kernels + other.kernels, self.transfer + other.transfer, self.nbytes + other.nbytes
        )


def certify_chunks(
    task: Callable[[int, Any], Spent],
    job: Job,
    out: Name,
    attributes: dict[str, Any],
    shape: tuple[int, int],
    how: HowToRun,
    *,
    inputs: Sequence[Name],
    extra: Sequence[str] = (),
    seconds_per_sample: float | None = None,
) -> dict[str, Any] | None:
    """Write a certificate file, each chunk by a task on the executor that the options ask for.

    Parameters
    ----------
    task
        ``task(index, job)`` certifies a chunk, writes it whole and returns what it took. Running
        it twice writes the same bytes.
    job
        Sent to every task.
    out
        Where the certificate file goes.
    attributes
        Of the certificate file.
    shape
        Numbers of samples and of classes.
    how
        Where to run.
    inputs
        What the certificates are made from, which must not be replaced.
    extra
        As for `CertificateWriter`.
    seconds_per_sample
        To record in place of what the tasks took.

    Returns
    -------
    dict or None
        On a cluster: how many ``tasks``, what they `Spent`, and the seconds of ``overhead`` in
        which a slot of a worker did nothing of that.

    Raises
    ------
    BoxNNError
        A task fails, or the output cannot be written.
    """
    began = time.perf_counter()
    staged = staged_output(
        out, overwrite=how.overwrite, resume=how.resume, resumable=True, inputs=inputs
    )
    with staged as partial:
        # Connected first: where that fails, nothing is left behind.
        check = job.model, job.data
        with connect(how.cluster, how.threads, check=check, device=how.device) as executor:
            writer = CertificateWriter(partial, attributes, *shape, job.chunk_rows, extra)
            executor.check((job.out,))
            todo, started = writer.unfinished(), time.perf_counter()
            spent, rows = _run(executor, task, job, writer, shape[0], partial, how.progress)
            seconds = executor.slots * (time.perf_counter() - started)
        busy = spent.kernels + spent.transfer
        measured = seconds_per_sample or (busy / rows if rows else None)
        writer.finish(time.perf_counter() - began, measured)
    if how.cluster.local:
        return None
    return {"tasks": len(todo), **spent._asdict(), "overhead": max(0.0, seconds - busy)}


def _run(
    executor: Executor,
    task: Callable[[int, Any], Spent],
    job: Job,
    writer: CertificateWriter,
    n_rows: int,
    folder: Location,
    progress: Any,
) -> tuple[Spent, int]:
    """Certify the chunks that an earlier run has not finished; return what it took, and rows."""
    starts = range(0, n_rows, job.chunk_rows)
    rows = [min(job.chunk_rows, n_rows - start) for start in starts]
    todo = writer.unfinished()
    if progress is not None:
        progress.start(n_rows, "samples")
        progress.advance(n_rows - sum(rows[index] for index in todo))
        if executor.dashboard:
            progress.note(f"dashboard: {executor.dashboard}")
    spent, done = Spent(), 0
    with keep_on_interrupt(
        lambda: len(rows) - len(writer.unfinished()), f"{len(rows)} chunks", folder
    ):
        for index, taken in executor.map(task, todo, job):
            spent, done = spent.plus(taken), done + rows[index]
            if progress is not None:
                progress.advance(rows[index])
    return spent, done


def write_certificates(
    job: Job,
    index: int,
    began: float,
    read: float,
    nbytes: int,
    *values: np.ndarray,
    **extra: np.ndarray | None,
) -> Spent:
    """Write a chunk whole, and return what its task took (runs on a worker).

    Parameters
    ----------
    job, index
        Which chunk.
    began, read
        When the task began, and when it had read `nbytes`.
    values, extra
        As for `write_chunk`.

    Raises
    ------
    OutputError
        Names the chunk.
    """
    computed = time.perf_counter()
    try:
        write_chunk(job.out, index, job.chunk_rows, *values, **extra)  # type: ignore[arg-type]
    except OSError as error:
        raise write_failure(error, f"chunk {index} of {job.out}") from error
    nbytes += sum(value.nbytes for value in (*values, *extra.values()) if value is not None)
    return Spent(computed - read, (read - began) + (time.perf_counter() - computed), nbytes)


def origin(
    model: Name, digest: str, dataset: Dataset, data: Name, split: str, n_rows: int
) -> dict[str, Any]:
    """Return the attributes that say which rows of which data a file is of, and by which model."""
    total = dataset.n_rows(split)
    return {
        "model": str(model),
        "model_digest": digest,
        "dataset": str(data),
        "dataset_name": dataset.name,
        "dataset_digest": dataset.digest,
        "split": split,
        **({} if n_rows == total else {"limit": n_rows, "split_rows": total}),
    }


def shape_of(model: BoxNN) -> dict[str, Any]:
    """Return the attributes of a file that say what a model is like."""
    return {
        "width": model.boxes.width,
        "group_size": model.group_size,
        **({"members": len(model.box_sets)} if model.others else {}),
        "classes": list(model.classes),
        "feature_shape": list(model.feature_shape or ()),
    }


def count_rows(dataset: Dataset, data: Name, split: str, limit: int | None) -> int:
    """Return how many rows of a split a run with ``--limit`` takes.

    Raises
    ------
    DataError
        The split is empty.
    OptionError
        There is no such split, or `limit` is not from 1 to its number of rows.
    """
    validation.choice("split", split, dataset.splits)
    total = dataset.n_rows(split)
    if total == 0:
        raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
    return total if limit is None else validation.integer("--limit", limit, 1, total)


def class_positions(classes: Sequence[Any], dataset: Dataset) -> np.ndarray:
    """Map a data set's class indices to a model's; -1 for a class that it never saw."""
    known = {label: index for index, label in enumerate(classes)}
    return np.array([known.get(label, -1) for label in dataset.classes], np.int32)


def check_match(model: Name, n_features: int, codes: bool, dataset: Dataset, data: Name) -> None:
    """Raise unless a model of `n_features` codes or real features fits a dataset.

    Raises
    ------
    DataError
        It does not.
    """
    if dataset.n_features != n_features:
        raise DataError(
            f"{data} has {dataset.n_features} features and {model} was trained on {n_features}; "
            "certify the data set that the model was trained for"
        )
    if dataset.is_codes != codes:
        kinds = ("codes", "real features") if dataset.is_codes else ("real features", "codes")
        raise DataError(
            f"{data} holds {kinds[0]} and {model} was trained on {kinds[1]}; "
            "ingest the data in the same way as the training data"
        )
