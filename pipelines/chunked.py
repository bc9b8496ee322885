"""How every method certifies: chunk by chunk on an executor, into a file that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from boxnn_numba.data.certificate_store import CertificateWriter
from boxnn_numba.data.store import Dataset
from boxnn_numba.errors import DataError
from boxnn_numba.locations import Location, Name
from boxnn_numba.pipelines.cluster import (
    IN_PROCESS,
    ClusterOptions,
    Executor,
    connect,
    keep_on_interrupt,
)
from boxnn_numba.staging import staged_output


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
    """Options of a run that do not change its result; as for `boxnn_numba.pipelines.certify`."""

    overwrite: bool = False
    resume: bool = False
    threads: int | None = None
    cluster: ClusterOptions = IN_PROCESS
    progress: Any = None


def certify_chunks(
    task: Callable[[int, Any], float],
    job: Job,
    out: Name,
    attributes: dict[str, Any],
    shape: tuple[int, int],
    how: HowToRun,
    *,
    inputs: Sequence[Name],
    guesses: bool = False,
    seconds_per_sample: float | None = None,
) -> None:
    """Write a certificate file, each chunk by a task on the executor that the options ask for.

    Parameters
    ----------
    task
        ``task(index, job)`` certifies a chunk, writes it whole and returns the seconds it took.
        Running it twice writes the same bytes.
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
    guesses
        Whether tasks write guesses too.
    seconds_per_sample
        To record in place of what the tasks took.

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
        with connect(how.cluster, how.threads, check=(job.model, job.data)) as executor:
            writer = CertificateWriter(partial, attributes, *shape, job.chunk_rows, guesses)
            executor.check((job.out,))
            measured = _run(executor, task, job, writer, shape[0], partial, how.progress)
        writer.finish(time.perf_counter() - began, seconds_per_sample or measured)


def _run(
    executor: Executor,
    task: Callable[[int, Any], float],
    job: Job,
    writer: CertificateWriter,
    n_rows: int,
    folder: Location,
    progress: Any,
) -> float | None:
    """Certify the chunks that an earlier run has not finished; return seconds a sample."""
    starts = range(0, n_rows, job.chunk_rows)
    rows = [min(job.chunk_rows, n_rows - start) for start in starts]
    todo = writer.unfinished()
    if progress is not None:
        progress.start(n_rows, "samples")
        progress.advance(n_rows - sum(rows[index] for index in todo))
        if executor.dashboard:
            progress.note(f"dashboard: {executor.dashboard}")
    seconds, done = 0.0, 0
    with keep_on_interrupt(
        lambda: len(rows) - len(writer.unfinished()), f"{len(rows)} chunks", folder
    ):
        for index, taken in executor.map(task, todo, job):
            seconds, done = seconds + taken, done + rows[index]
            if progress is not None:
                progress.advance(rows[index])
    return seconds / done if done else None


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
