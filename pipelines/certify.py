"""Certify a split of a dataset, evaluate a certificate file, predict on arrays."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import certificates, validation
from boxnn_numba.backend import get_backend, limit_threads
from boxnn_numba.data.certificate_store import CertificateWriter, open_certificate
from boxnn_numba.data.store import Dataset, open_dataset
from boxnn_numba.errors import DataError, InputError, InterruptedRunError
from boxnn_numba.model import BoxNN
from boxnn_numba.model_file import load_model, model_digest
from boxnn_numba.staging import staged_output

#: Rows of a user's array that are predicted at a time.
_PREDICT_ROWS = 4096


def certify(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    overwrite: bool = False,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
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
    progress
        Optional object with ``start(total, unit)`` and ``advance(n)``.

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
    backend = get_backend(device, threads)
    classifier, dataset = load_model(model), open_dataset(data)
    validation.choice("split", split, dataset.splits)
    _check_match(classifier, model, dataset, data)
    n = dataset.n_rows(split)
    if n == 0:
        raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
    chunks = dataset.chunks(split)
    position = _class_positions(classifier, dataset)
    with staged_output(out, overwrite=overwrite, resume=resume, resumable=True) as partial:
        attributes = _attributes(classifier, model, dataset, data, split)
        chunk_rows = chunks[0].stop - chunks[0].start
        writer = CertificateWriter(partial, attributes, n, len(classifier.classes), chunk_rows)
        todo = writer.unfinished()
        if progress is not None:
            progress.start(n, "samples")
            progress.advance(n - sum(chunks[i].stop - chunks[i].start for i in todo))
        try:
            for index in todo:
                x, y = dataset.read_chunk(split, index)
                with limit_threads(backend.threads):
                    distance = classifier.class_distance(x)
                prediction, radius = certificates.certified_radius(
                    distance, classifier.boxes.width, classifier.group_size
                )
                writer.write(index, prediction, radius, position[y], distance)
                if progress is not None:
                    progress.advance(len(y))
        except KeyboardInterrupt:
            left = len(writer.unfinished())
            raise InterruptedRunError(
                f"interrupted; {len(chunks) - left} of {len(chunks)} chunks are kept in {partial}, "
                "continue with --resume"
            ) from None
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


def _check_match(classifier: BoxNN, model: str | Path, dataset: Dataset, data: str | Path) -> None:
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
    classifier: BoxNN, model: str | Path, dataset: Dataset, data: str | Path, split: str
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


def evaluate(
    certificate: str | Path, radii: Sequence[int], convention: str = "sound"
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
    model: str | Path,
    samples: str | Path,
    out: str | Path,
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
        staged_output(out, overwrite=overwrite, directory=False) as partial,
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
