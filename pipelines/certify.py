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
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.store import Dataset, open_dataset
from boxnn_numba.errors import DataError, InputError
from boxnn_numba.locations import Name, absolute, location
from boxnn_numba.model import BoxNN
from boxnn_numba.model_file import load_model, model_digest
from boxnn_numba.pipelines.chunked import (
    HowToRun,
    Spent,
    certify_chunks,
    check_match,
    class_positions,
    write_certificates,
)
from boxnn_numba.pipelines.cluster import IN_PROCESS, ClusterOptions
from boxnn_numba.pipelines.cluster_connection import check_options
from boxnn_numba.staging import partial_path, staged_output

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
    chunk: int | None = None,
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
    device, threads, chunk
        As for `get_backend`.
    cluster
        Where chunks are certified; in this process by default. Every worker must see the three
        paths, and with device ``"cuda"`` have a GPU of its own.
    progress
        Optional object with ``start(total, unit)``, ``advance(n)`` and ``note(text)``.

    Returns
    -------
    dict
        Number of samples, median certified radius, accuracy in percent and seconds; of a cluster
        also where its time went.

    Raises
    ------
    BoxNNError
        Bad model or data, or an output that cannot be written.
    """
    began = time.perf_counter()
    check_options(cluster)
    # Of a cluster, the GPUs are the workers'.
    get_backend(device if cluster.local else "cpu", threads, chunk)
    classifier, dataset = load_model(model), open_dataset(data)
    validation.choice("split", split, dataset.splits)
    codes = classifier.grid is None
    check_match(model, classifier.boxes.n_features, codes, dataset, data)
    n = dataset.n_rows(split)
    if n == 0:
        raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
    first = dataset.chunks(split)[0]
    job = CertifyJob(
        model=absolute(model),
        model_digest=model_digest(classifier),
        data=absolute(data),
        data_digest=dataset.digest,
        split=split,
        out=absolute(partial_path(location(out))),
        chunk_rows=first.stop - first.start,
        # "auto" would give all workers of a machine the same GPU.
        device=device if cluster.local or device == "cuda" else "cpu",
        chunk=chunk,
    )
    attributes = _attributes(classifier, model, dataset, data, split)
    how = HowToRun(overwrite, resume, threads, cluster, progress, device)
    shape = n, len(classifier.classes)
    spent = certify_chunks(certify_chunk, job, out, attributes, shape, how, inputs=[model, data])
    result = evaluate(out, [0])
    return {
        **({} if spent is None else {"cluster": spent}),
        "certificate": str(out),
        "split": split,
        "n": n,
        "accuracy": result["accuracy"],
        "median_certified_radius": result["median_certified_radius"],
        "seconds": time.perf_counter() - began,
    }


@dataclass(frozen=True)
class CertifyJob:
    """What a task needs to certify a chunk: paths, the digests they must have, and where to run."""

    model: str
    model_digest: str
    data: str
    data_digest: str
    split: str
    out: str
    chunk_rows: int
    device: str
    chunk: int | None


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


def certify_chunk(index: int, job: CertifyJob) -> Spent:
    """Certify one chunk, write it whole to the result, and return what that took.

    Runs on whatever the executor uses. Running it twice writes the same bytes.

    Raises
    ------
    BoxNNError
        Names the chunk: its data are damaged, or its result cannot be written.
    """
    began = time.perf_counter()
    classifier, dataset = _open_inputs(job.model, job.model_digest, job.data, job.data_digest)
    x, y = dataset.read_chunk(job.split, index)
    read = time.perf_counter()
    distance = classifier.class_distance(x, job.device, job.chunk)
    prediction, radius = certificates.certified_radius(
        distance, classifier.boxes.width, classifier.group_size
    )
    position = class_positions(classifier.classes, dataset)
    nbytes = x.nbytes + y.nbytes
    return write_certificates(
        job, index, began, read, nbytes, prediction, radius, position[y], distance
    )


def _attributes(
    classifier: BoxNN, model: Name, dataset: Dataset, data: Name, split: str
) -> dict[str, Any]:
    return {
        "method": certificates.BOX_NN,
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


def evaluate(
    certificate: Name,
    radii: Sequence[int],
    convention: str = "sound",
    attack: Name | None = None,
) -> dict[str, Any]:
    """Summarise a certificate file.

    Parameters
    ----------
    certificate
        Path of a certificate file.
    radii
        Radii of the curve, each >= 0.
    convention
        ``"sound"``, or ``"paper"`` to compare with the paper's tables.
    attack
        Path of an attack file to hold against the certificates.

    Returns
    -------
    dict
        ``median_certified_radius``, ``certified_accuracy`` (radius as string -> percent),
        ``accuracy`` (percent), ``mean_certified_radius``, ``n``, ``convention``, ``method``,
        ``per_class`` and, of a published defence, ``abstained`` (percent; wrong at every radius);
        with an attack ``under_attack``, as `hold_against` returns it.

    Raises
    ------
    CertificateFileError, AttackFileError
        A file is missing, damaged or unfinished.
    OptionError
        A radius is negative, the convention unknown, or the attack of something else.
    UnsoundError
        An attack succeeded within a certified radius; it is kept beside the attack file.
    """
    validation.radii(radii)
    file = open_certificate(certificate)
    outcome = file.outcome(convention)
    attacked = {}
    if attack is not None:
        from boxnn_numba.pipelines.attack_evaluate import hold_against

        attacked = {"under_attack": hold_against(file, attack, radii, convention)}
    curve = 100.0 * certificates.certified_accuracy(*outcome, radii)
    per_class = certificates.per_class_table(*outcome, len(file.classes))
    abstained = 100.0 * float((file.prediction < 0).mean())
    return {
        "method": file.method,
        "median_certified_radius": certificates.median_certified_radius(*outcome),
        "certified_accuracy": {
            str(radius): round(float(value), 4) for radius, value in zip(radii, curve, strict=True)
        },
        "accuracy": round(100.0 * float((outcome[0] == outcome[2]).mean()), 4),
        "mean_certified_radius": certificates.mean_certified_radius(*outcome),
        **({} if file.method == certificates.BOX_NN else {"abstained": round(abstained, 4)}),
        "n": len(file),
        "convention": convention,
        **attacked,
        "per_class": [{**row, "class": file.classes[int(row["class"])]} for row in per_class],
    }


def predict(
    model: Name,
    samples: str | os.PathLike[str],
    out: Name,
    *,
    overwrite: bool = False,
    device: str = "auto",
    chunk: int | None = None,
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
    device, chunk
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
    get_backend(device, chunk=chunk)
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
            part = array[start : start + _PREDICT_ROWS]
            labels, radii = classifier.certify(part, device=device, chunk=chunk)
            table.writerows(zip(labels.tolist(), radii.tolist(), strict=True))
            if progress is not None:
                progress.advance(len(labels))
    return {"predictions": str(out), "n": len(array)}
