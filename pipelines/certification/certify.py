"""Certify a split of a dataset, evaluate a certificate file, predict on arrays."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates import margin as certificates
from boxnn_numba.data.atomic import partial_path, staged_output
from boxnn_numba.data.certificate_store import KINDS, CertificateFile, open_certificate
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_model, model_digest
from boxnn_numba.data.paths import Name, absolute, location
from boxnn_numba.errors import DataError, InputError, OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.certification.box_chunks import CertifyJob, certify_chunk
from boxnn_numba.pipelines.certification.chunked import (
    HowToRun,
    certify_chunks,
    check_match,
    count_rows,
    origin,
    shape_of,
)
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions, check_options
from boxnn_numba.rivals import need_one_set, need_two_classes

#: Rows of a user's array that are predicted at a time.
_PREDICT_ROWS = 4096
#: Most samples in a chunk of each certificate. A run that is stopped loses a few seconds, of exact
#: certificates those chunks whose samples take the whole time limit.
_CHUNK_ROWS = {"margin": 2**31, "pairwise": 512, "exact": 16}


def certify(
    model: Name,
    data: Name,
    out: Name,
    *,
    split: str = "test",
    certificate: str = "margin",
    limit: int | None = None,
    time_limit: float = 60.0,
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
    certificate
        ``"margin"`` (Theorem 4.2, at once), ``"pairwise"`` (`pairwise_radius`) or ``"exact"``
        (`exact_radius`); each is at least as large as the one before, and slower.
    limit
        Certify only this many rows, ``(arange(limit) * total) // limit``.
    time_limit
        Seconds for each sample of the exact certificate; where they do not suffice, the file
        has bounds of the radius.
    overwrite, resume
        Replace what is at `out`; continue a run that was stopped.
    device, threads, chunk
        As for `get_backend`; pairwise and exact certificates are computed on the CPU.
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
    _check_kind(certificate, time_limit, device)
    # Of a cluster, the GPUs are the workers'.
    get_backend(device if cluster.local else "cpu", threads, chunk)
    classifier, dataset = load_model(model), open_dataset(data)
    n = count_rows(dataset, data, split, limit)
    check_match(model, classifier.boxes.n_features, classifier.grid is None, dataset, data)
    if certificate != "margin":
        need_two_classes(classifier)
        need_one_set(classifier, f"{certificate} certificates are")
    first = dataset.chunks(split)[0]
    job = CertifyJob(
        model=absolute(model),
        model_digest=model_digest(classifier),
        data=absolute(data),
        data_digest=dataset.digest,
        split=split,
        out=absolute(partial_path(location(out))),
        chunk_rows=min(first.stop - first.start, _CHUNK_ROWS[certificate]),
        n_rows=n,
        certificate=certificate,
        time_limit=float(time_limit),
        # "auto" would give all workers of a machine the same GPU.
        device=device if cluster.local or device == "cuda" else "cpu",
        chunk=chunk,
    )
    attributes = _attributes(classifier, dataset, model, data, job)
    how = HowToRun(overwrite, resume, threads, cluster, progress, device)
    shape, extra = (n, len(classifier.classes)), ("upper",) if certificate == "exact" else ()
    spent = certify_chunks(
        certify_chunk, job, out, attributes, shape, how, inputs=[model, data], extra=extra
    )
    return {
        **({} if spent is None else {"cluster": spent}),
        "certificate": str(out),
        "kind": certificate,
        "split": split,
        "n": n,
        **_figures(out),
        "seconds": time.perf_counter() - began,
    }


def _figures(out: Name) -> dict[str, Any]:
    result = evaluate(out, [0])
    settled = {"settled": result["exact"]["settled"]} if "exact" in result else {}
    return {**{name: result[name] for name in ("accuracy", "median_certified_radius")}, **settled}


def _check_kind(certificate: str, time_limit: float, device: str) -> None:
    validation.choice("certificate", certificate, KINDS)
    validation.real("time_limit", time_limit, 0, open_low=True)
    if certificate != "margin" and device == "cuda":
        raise OptionError(f"{certificate} certificates are computed on the CPU; leave out --device")


def _attributes(
    classifier: BoxNN, dataset: Dataset, model: Name, data: Name, job: CertifyJob
) -> dict[str, Any]:
    return {
        "method": certificates.BOX_NN,
        "certificate": job.certificate,
        **origin(model, job.model_digest, dataset, data, job.split, job.n_rows),
        **shape_of(classifier),
        "divisor": 2 * classifier.boxes.width * classifier.group_size * len(classifier.box_sets),
        "training": classifier.training,
        **({"time_limit": job.time_limit} if job.certificate == "exact" else {}),
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
        with an attack ``under_attack``, as `hold_against` returns it; of exact certificates
        ``exact``: percent ``settled`` before the time was up, and ``upper``, radius as string ->
        percent of samples that are right and whose true radius may be so large.

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
        from boxnn_numba.pipelines.attack.evaluate import hold_against

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
        "certificate": file.certificate,
        "n": len(file),
        "convention": convention,
        **attacked,
        **({} if file.upper is None else {"exact": _exact(file, file.upper, radii)}),
        "per_class": [{**row, "class": file.classes[int(row["class"])]} for row in per_class],
    }


def _exact(file: CertificateFile, upper: np.ndarray, radii: Sequence[int]) -> dict[str, Any]:
    prediction, radius, label = file.outcome()
    at_most = 100.0 * certificates.certified_accuracy(prediction, upper, label, radii)
    return {
        "settled": 100.0 * float((radius == upper).mean()),
        "time_limit": file.attributes["time_limit"],
        "upper": {str(r): round(float(value), 4) for r, value in zip(radii, at_most, strict=True)},
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
