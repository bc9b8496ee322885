"""Certify a split of a dataset, evaluate a certificate file, predict on arrays."""

from __future__ import annotations

import csv
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba import certificates, validation
from boxnn_numba.backend import get_backend
from boxnn_numba.data.certificate_store import CertificateWriter, open_certificate, write_chunk
from boxnn_numba.data.store import Dataset, open_dataset
from boxnn_numba.errors import DataError, InputError
from boxnn_numba.locations import Location, Name, absolute, location
from boxnn_numba.model import BoxNN
from boxnn_numba.model_file import load_model, model_digest
from boxnn_numba.pipelines.cluster import (
    IN_PROCESS,
    ClusterOptions,
    Executor,
    connect,
    keep_on_interrupt,
)
from boxnn_numba.pipelines.cluster_connection import check_options
from boxnn_numba.staging import partial_path, staged_output, write_failure

#: Rows of a user's array that are predicted at a time.
_PREDICT_ROWS = 4096


def certify(
    model: Name,
    data: Name,
    out: Name,
    *,
    split: str = "test",
    overwrite: bool = False,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    cluster: ClusterOptions = IN_PROCESS,
    progress: Any = None,
) -> dict[str, Any]:
    """Certify every sample of a split and write a certificate file.

    Parameters
    ----------
    model, data
        Paths of a model and of a dataset with the same features.
    out
        Where the certificate file goes.
    split
        ``"test"`` or ``"train"``.
    overwrite, resume
        Replace what is at `out`; continue a run that was stopped.
    device, threads
        As for `get_backend`.
    cluster
        Where chunks are certified; in this process by default. Every worker must see the three
        paths.
    progress
        Optional object with ``start(total, unit)``, ``advance(n)`` and ``note(text)``.

    Returns
    -------
    dict
        Number of samples, median certified radius, accuracy in percent and seconds.

    Raises
    ------
    BoxNNError
        Bad model or data, or an output that cannot be written.
    """
    began = time.perf_counter()
    check_options(cluster)
    get_backend(device, threads)
    classifier, dataset = load_model(model), open_dataset(data)
    validation.choice("split", split, dataset.splits)
    _check_match(classifier, model, dataset, data)
    n = dataset.n_rows(split)
    if n == 0:
        raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
    chunks = dataset.chunks(split)
    job = CertifyJob(
        model=absolute(model),
        model_digest=model_digest(classifier),
        data=absolute(data),
        data_digest=dataset.digest,
        split=split,
        out=absolute(partial_path(location(out))),
        chunk_rows=chunks[0].stop - chunks[0].start,
    )
    staged = staged_output(
        out, overwrite=overwrite, resume=resume, resumable=True, inputs=[model, data]
    )
    with staged as partial:
        attributes = _attributes(classifier, model, dataset, data, split)
        # Connected first: where that fails, nothing is left behind.
        with connect(cluster, threads, check=(job.model, job.data)) as executor:
            shape = n, len(classifier.classes), job.chunk_rows
            writer = CertificateWriter(partial, attributes, *shape)
            executor.check((job.out,))
            _run_chunks(executor, job, writer, chunks, partial, progress)
        writer.finish(time.perf_counter() - began)
    result = evaluate(out, [0])
    return {
        "certificate": str(out),
        "split": split,
        "n": n,
        "accuracy": result["accuracy"],
        "median_certified_radius": result["median_certified_radius"],
        "seconds": time.perf_counter() - began,
    }


def _run_chunks(
    executor: Executor,
    job: CertifyJob,
    writer: CertificateWriter,
    chunks: list[slice],
    folder: Location,
    progress: Any,
) -> None:
    """Certify the chunks that an earlier run has not finished."""
    rows = [chunk.stop - chunk.start for chunk in chunks]
    todo = writer.unfinished()
    if progress is not None:
        progress.start(sum(rows), "samples")
        progress.advance(sum(rows) - sum(rows[index] for index in todo))
        if executor.dashboard:
            progress.note(f"dashboard: {executor.dashboard}")
    with keep_on_interrupt(
        lambda: len(chunks) - len(writer.unfinished()), f"{len(chunks)} chunks", folder
    ):
        for index, _ in executor.map(certify_chunk, todo, job):
            if progress is not None:
                progress.advance(rows[index])


@dataclass(frozen=True)
class CertifyJob:
    """What a task needs to certify a chunk: paths and the digests they must have."""

    model: str
    model_digest: str
    data: str
    data_digest: str
    split: str
    out: str
    chunk_rows: int


# A worker reads the model and the attributes of the data once, not with every task; the digests
# in the key make sure that it is still what the client saw.
@functools.lru_cache(maxsize=2)
def _open_inputs(
    model: str, model_digest_: str, data: str, data_digest: str
) -> tuple[BoxNN, Dataset]:
    classifier, dataset = load_model(model), open_dataset(data)
    if model_digest(classifier) != model_digest_ or dataset.digest != data_digest:
        raise DataError(f"{model} or {data} changed while it was certified; start again")
    return classifier, dataset


def certify_chunk(index: int, job: CertifyJob) -> int:
    """Certify one chunk, write it whole to the result, and return its number of rows.

    Runs on whatever the executor uses. Running it twice writes the same bytes.

    Raises
    ------
    BoxNNError
        Names the chunk: its data are damaged, or its result cannot be written.
    """
    classifier, dataset = _open_inputs(job.model, job.model_digest, job.data, job.data_digest)
    x, y = dataset.read_chunk(job.split, index)
    distance = classifier.class_distance(x)
    prediction, radius = certificates.certified_radius(
        distance, classifier.boxes.width, classifier.group_size
    )
    position = _class_positions(classifier, dataset)
    try:
        write_chunk(job.out, index, job.chunk_rows, prediction, radius, position[y], distance)
    except OSError as error:
        raise write_failure(error, f"chunk {index} of {job.out}") from error
    return len(y)


def _check_match(classifier: BoxNN, model: Name, dataset: Dataset, data: Name) -> None:
    n = classifier.boxes.n_features
    if dataset.n_features != n:
        raise DataError(
            f"{data} has {dataset.n_features} features and {model} was trained on {n}; "
            "certify the data set that the model was trained for"
        )
    if dataset.is_codes != (classifier.grid is None):
        kinds = ("codes", "real features") if dataset.is_codes else ("real features", "codes")
        raise DataError(
            f"{data} holds {kinds[0]} and {model} was trained on {kinds[1]}; "
            "ingest the data in the same way as the training data"
        )


def _class_positions(classifier: BoxNN, dataset: Dataset) -> np.ndarray:
    """Map a data set's class indices to the model's; -1 for a class that it never saw."""
    known = {label: index for index, label in enumerate(classifier.classes)}
    return np.array([known.get(label, -1) for label in dataset.classes], np.int32)


def _attributes(
    classifier: BoxNN, model: Name, dataset: Dataset, data: Name, split: str
) -> dict[str, Any]:
    return {
        "method": "Box-NN",
        "model": str(model),
        "model_digest": model_digest(classifier),
        "dataset": str(data),
        "dataset_name": dataset.name,
        "dataset_digest": dataset.digest,
        "split": split,
        "width": classifier.boxes.width,
        "group_size": classifier.group_size,
        "classes": list(classifier.classes),
        "feature_shape": list(classifier.feature_shape or ()),
        "training": classifier.training,
    }


def evaluate(certificate: Name, radii: Sequence[int], convention: str = "sound") -> dict[str, Any]:
    """Summarise a certificate file.

    Parameters
    ----------
    certificate
        Path of a certificate file.
    radii
        Radii of the curve, each >= 0.
    convention
        ``"sound"``, or ``"paper"`` to compare with the paper's tables.

    Returns
    -------
    dict
        ``median_certified_radius``, ``certified_accuracy`` (radius as string -> percent),
        ``accuracy`` (percent), ``mean_certified_radius``, ``n``, ``convention`` and ``per_class``.

    Raises
    ------
    CertificateFileError
        The file is missing, damaged or unfinished.
    OptionError
        A radius is negative or the convention unknown.
    """
    validation.radii(radii)
    file = open_certificate(certificate)
    outcome = file.outcome(convention)
    curve = 100.0 * certificates.certified_accuracy(*outcome, radii)
    per_class = certificates.per_class_table(*outcome, len(file.classes))
    return {
        "median_certified_radius": certificates.median_certified_radius(*outcome),
        "certified_accuracy": {
            str(radius): round(float(value), 4) for radius, value in zip(radii, curve, strict=True)
        },
        "accuracy": round(100.0 * float((outcome[0] == outcome[2]).mean()), 4),
        "mean_certified_radius": certificates.mean_certified_radius(*outcome),
        "n": len(file),
        "convention": convention,
        "per_class": [{**row, "class": file.classes[int(row["class"])]} for row in per_class],
    }


def predict(
    model: Name,
    samples: str | os.PathLike[str],
    out: Name,
    *,
    overwrite: bool = False,
    device: str = "auto",
    progress: Any = None,
) -> dict[str, Any]:
    """Predict and certify the rows of a ``.npy`` file; write ``label,radius`` per row as CSV.

    Parameters
    ----------
    model
        Path of a model.
    samples
        A ``.npy`` file (N, n) or (N, *feature_shape), read piece by piece.
    out
        The CSV file to write.
    overwrite
        Replace what is at `out`.
    device
        As for `get_backend`.
    progress
        Optional object with ``start(total, unit)`` and ``advance(n)``.

    Returns
    -------
    dict
        Number of rows and where they went.

    Raises
    ------
    BoxNNError
        Bad model or array, or an output that cannot be written.
    """
    get_backend(device)
    classifier = load_model(model)
    try:
        array = np.load(samples, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{samples} is not a readable .npy file of numbers; save it with np.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim < 2 or len(array) == 0:
        raise InputError(f"{samples} must hold samples as rows, (N, features) with N >= 1")
    if progress is not None:
        progress.start(len(array), "samples")
    with (
        staged_output(
            out, overwrite=overwrite, directory=False, inputs=[model, samples]
        ) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(["label", "radius"])
        for start in range(0, len(array), _PREDICT_ROWS):
            labels, radii = classifier.certify(array[start : start + _PREDICT_ROWS])
            table.writerows(zip(labels.tolist(), radii.tolist(), strict=True))
            if progress is not None:
                progress.advance(len(labels))
    return {"predictions": str(out), "n": len(array)}
