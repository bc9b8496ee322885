"""Certify a split of a dataset by randomized ablation or feature partition."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.baselines import ablation, partition
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.data.certificate_store import (
    CertificateFile,
    open_certificate,
    write_chunk,
)
from boxnn_numba.data.store import Dataset, open_dataset
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.locations import Name, absolute, location
from boxnn_numba.model_file import load_baseline, model_digest
from boxnn_numba.pipelines.certify import evaluate
from boxnn_numba.pipelines.chunked import HowToRun, certify_chunks, check_match, class_positions
from boxnn_numba.pipelines.cluster import IN_PROCESS, ClusterOptions
from boxnn_numba.pipelines.cluster_connection import check_options
from boxnn_numba.staging import partial_path, write_failure

#: Certificates of each method.
CERTIFICATES = {"ra": {"a": "RA", "b": "RA^B"}, "fpa": {"a": "FPA^A", "b": "FPA^B"}}
#: Evaluations of a base classifier that a chunk makes at least, and the most rows that it has.
_CHUNK_EVALUATIONS, _CHUNK_ROWS = 32_000, 256


@dataclass(frozen=True)
class Sampling:
    """What the votes of a certificate file rest on; the last three are for RA.

    Attributes
    ----------
    limit
        Number of rows, spread evenly over the split; None for all.
    samples, guess_samples
        Samples that bound the share of a class, and that guess which class.
    seed
        Of the samples.
    """

    limit: int | None = None
    samples: int = 10_000
    guess_samples: int = 1_000
    seed: int = 0


def certify_baseline(
    model: Name,
    data: Name,
    out: Name,
    *,
    certificate: str,
    method: str | None = None,
    split: str = "test",
    limit: int | None = None,
    samples: int = 10_000,
    guess_samples: int = 1_000,
    alpha: float = 0.05,
    seed: int = 0,
    votes_from: Name | None = None,
    device: str = "cpu",
    threads: int | None = None,
    cluster: ClusterOptions = IN_PROCESS,
    overwrite: bool = False,
    resume: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Certify samples of a split by the defence of `model` and write a certificate file.

    Parameters
    ----------
    model, data
        Base classifiers made by `boxnn_numba.pipelines.baseline.train_baseline`, and a dataset
        with the same features.
    out
        Where the certificate file goes.
    certificate
        ``"a"`` or ``"b"``: RA or RA^B, FPA^A or FPA^B.
    method
        ``"ra"`` or ``"fpa"`` to refuse a model of the other; None takes any.
    split
        ``"test"`` or ``"train"``.
    limit
        Certify only this many rows, ``(arange(limit) * total) // limit``.
    samples, guess_samples, alpha, seed
        For RA, as for `boxnn_numba.baselines.ablation`. The result does not depend on where
        chunks run.
    votes_from
        For RA, a certificate file of the same model and split whose votes are used again, e.g. for
        the other certificate or another alpha. Its `limit`, samples and seed hold.
    device, threads
        ``"cpu"``, ``"cuda"`` or ``"auto"``; threads of torch on a CPU.
    cluster
        Where chunks are certified; in this process by default. Every worker must see the paths.
    overwrite, resume
        Replace what is at `out`; continue a run that was stopped.
    progress
        Optional object with ``start(total, unit)``, ``advance(n)`` and ``note(text)``.

    Returns
    -------
    dict
        Method, number of samples, accuracy and abstentions in percent, median certified radius,
        ``seconds``, and ``seconds_per_sample`` and ``multiply_adds`` of certifying one sample.
        ``note`` says why where every sample abstains.

    Raises
    ------
    BoxNNError
        Bad model, data or options, no torch, or an output that cannot be written.
    """
    began = time.perf_counter()
    check_options(cluster)
    stored, dataset = load_baseline(model), open_dataset(data)
    if method not in (None, stored.method):
        raise OptionError(f"{model} was trained for {stored.method}; certify it with that method")
    validation.choice("split", split, dataset.splits)
    validation.choice("certificate", certificate, CERTIFICATES[stored.method])
    validation.fraction("alpha", alpha)
    check_match(model, stored.n_features, stored.grid is None, dataset, data)
    votes = None
    sampling = Sampling(limit, samples, guess_samples, seed)
    if votes_from is not None:
        votes = _open_votes(votes_from, stored, model, dataset, split)
        names = [item.name for item in fields(Sampling)]
        sampling = Sampling(**{name: votes.attributes[name] for name in names})
    n = _row_count(dataset, data, split, sampling)
    job = BaselineJob(
        model=absolute(model),
        model_digest=model_digest(stored),
        data=absolute(data),
        data_digest=dataset.digest,
        split=split,
        out=absolute(partial_path(location(out))),
        chunk_rows=_chunk_rows(stored, sampling),
        n_rows=n,
        certificate=certificate,
        alpha=alpha,
        sampling=sampling,
        device=torch_device(device),
        votes=votes and (absolute(votes.path), votes.attributes["digest"]),
    )
    classifier = base_classifier(stored, job.device)
    attributes = _attributes(stored, classifier, model, dataset, data, job)
    certify_chunks(
        certify_baseline_chunk,
        job,
        out,
        attributes,
        (n, len(stored.classes)),
        HowToRun(overwrite, resume, threads, cluster, progress),
        inputs=[model, data] if votes_from is None else [model, data, votes_from],
        guesses=stored.method == "ra",
        seconds_per_sample=votes and votes.attributes["seconds_per_sample"],
    )
    return _summary(out, stored, job, time.perf_counter() - began)


def torch_device(device: str) -> str:
    """Return the device for torch: ``"auto"`` is ``"cuda"`` where there is one."""
    from boxnn_numba.baselines.torch_networks import DEVICES, load_torch, usable_device

    validation.choice("device", device, (*DEVICES, "auto"))
    if device == "auto":
        return "cuda" if load_torch().cuda.is_available() else "cpu"
    return usable_device(device)


def base_classifier(stored: BaselineModel, device: str) -> Any:
    """Return the networks of a model, on as many threads as a task may use."""
    from boxnn_numba.baselines import base_classifiers

    ra = stored.method == "ra"
    kind = base_classifiers.MaskedNetwork if ra else base_classifiers.SubmodelNetworks
    return kind.from_arrays(stored.weights, stored.settings["base"], device)


# --- chunks ----------------------------------------------------------------------------


@dataclass(frozen=True)
class BaselineJob:
    """What a task needs to certify a chunk: paths, the digests they must have, and options."""

    model: str
    model_digest: str
    data: str
    data_digest: str
    split: str
    out: str
    chunk_rows: int
    n_rows: int
    certificate: str
    alpha: float
    sampling: Sampling
    device: str
    votes: tuple[str, str] | None


@functools.lru_cache(maxsize=2)
def _open_inputs(
    model: str, model_digest_: str, data: str, data_digest: str, device: str
) -> tuple[BaselineModel, Any, Dataset]:
    stored, dataset = load_baseline(model), open_dataset(data)
    if model_digest(stored) != model_digest_ or dataset.digest != data_digest:
        raise DataError(f"{model} or {data} changed while it was certified; start again")
    return stored, base_classifier(stored, device), dataset


@functools.lru_cache(maxsize=1)
def _stored_votes(path: str, digest: str) -> CertificateFile:
    file = open_certificate(path)
    if file.attributes["digest"] != digest:
        raise DataError(f"{path} changed while its votes were read; start again")
    return file


def certify_baseline_chunk(index: int, job: BaselineJob) -> float:
    """Certify one chunk, write it whole to the result, and return the seconds it took.

    Runs on whatever the executor uses. Running it twice writes the same bytes.

    Raises
    ------
    BoxNNError
        Names the chunk: its data are damaged, or its result cannot be written.
    """
    began = time.perf_counter()
    stored, classifier, dataset = _open_inputs(
        job.model, job.model_digest, job.data, job.data_digest, job.device
    )
    places = np.arange(index * job.chunk_rows, min((index + 1) * job.chunk_rows, job.n_rows))
    rows = places * dataset.n_rows(job.split) // job.n_rows
    x, y = dataset.read_rows(job.split, rows)
    guess = None
    if stored.method == "ra":
        guess, counts = _ra_votes(stored, classifier, x, rows, places, job)
        radii = _ra_radii(stored, counts, guess, job)
    else:
        scores = classifier.scores(stored.encode(x))
        counts = partition.votes_of(scores)
        run_off = job.certificate == "b"
        radii = (
            partition.runoff_radius(counts, scores)
            if run_off
            else partition.plurality_radius(counts)
        )
    missing = counts[0].sum() - counts
    label = class_positions(stored.classes, dataset)[y]
    try:
        write_chunk(job.out, index, job.chunk_rows, *radii, label, missing, guess)
    except OSError as error:
        raise write_failure(error, f"chunk {index} of {job.out}") from error
    return time.perf_counter() - began


def _ra_votes(
    stored: BaselineModel,
    classifier: Any,
    x: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
    job: BaselineJob,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the guessed classes and the votes of a chunk: sampled, or those of another file."""
    sampling = job.sampling
    if job.votes is not None:
        file = _stored_votes(*job.votes)
        return file.guess[places], sampling.samples - file.class_distance[places]
    guesses, counts = ablation.sample_counts(
        classifier,
        stored.encode(x),
        rows,
        stored.settings["retained"],
        sampling.samples,
        sampling.guess_samples,
        sampling.seed,
    )
    return ablation.guess_class(guesses), counts


def _ra_radii(
    stored: BaselineModel, counts: np.ndarray, guess: np.ndarray, job: BaselineJob
) -> tuple[np.ndarray, np.ndarray]:
    n, k = stored.n_features, stored.settings["retained"]
    if job.certificate == "a":
        return ablation.ra_radius(counts, guess, n, k, job.alpha)
    return ablation.rab_radius(counts, n, k, job.alpha, guess)


# --- before and after ------------------------------------------------------------------


def _row_count(dataset: Dataset, data: Name, split: str, sampling: Sampling) -> int:
    """Return how many rows are certified, after checking what is asked for."""
    total = dataset.n_rows(split)
    if total == 0:
        raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
    validation.positive("--samples", sampling.samples)
    validation.positive("--guess-samples", sampling.guess_samples)
    validation.integer("--seed", sampling.seed, low=0)
    if sampling.limit is None:
        return total
    return validation.integer("--limit", sampling.limit, low=1, high=total)


def _chunk_rows(stored: BaselineModel, sampling: Sampling) -> int:
    """Return the rows of a chunk: few where each is thousands of evaluations."""
    if stored.method == "fpa":
        return _CHUNK_ROWS
    each = sampling.samples + sampling.guess_samples
    return max(1, min(_CHUNK_ROWS, _CHUNK_EVALUATIONS // each))


def _open_votes(
    votes_from: Name, stored: BaselineModel, model: Name, dataset: Dataset, split: str
) -> CertificateFile:
    file = open_certificate(votes_from)
    if file.method not in CERTIFICATES["ra"].values():
        raise OptionError(
            f"{votes_from} is of {file.method}, which keeps no sampled votes; "
            "pass one made by boxnn baseline ra certify"
        )
    wanted = (model_digest(stored), dataset.digest, split)
    names = ("model_digest", "dataset_digest", "split")
    if tuple(file.attributes[name] for name in names) != wanted:
        raise OptionError(
            f"{votes_from} holds the votes of another model, data set or split than {model} on "
            f"{split}; sample again without --votes-from"
        )
    return file


def _attributes(
    stored: BaselineModel,
    classifier: Any,
    model: Name,
    dataset: Dataset,
    data: Name,
    job: BaselineJob,
) -> dict[str, Any]:
    sampling, evaluations = job.sampling, 1
    own: dict[str, Any] = {"limit": sampling.limit}
    if stored.method == "ra":
        evaluations = sampling.samples + sampling.guess_samples
        own |= {"alpha": job.alpha, "samples": sampling.samples}
        own |= {"guess_samples": sampling.guess_samples, "seed": sampling.seed}
    return {
        "method": CERTIFICATES[stored.method][job.certificate],
        "model": str(model),
        "model_digest": job.model_digest,
        "dataset": str(data),
        "dataset_name": dataset.name,
        "dataset_digest": dataset.digest,
        "split": job.split,
        # Votes missing to unanimity change by at most one where one submodel does.
        "width": 1,
        "group_size": 1,
        "classes": list(stored.classes),
        "feature_shape": list(stored.feature_shape),
        "certificate": job.certificate,
        "chunk_rows": job.chunk_rows,
        **own,
        **stored.settings,
        "multiply_adds": evaluations * classifier.multiply_adds(),
        "training": stored.training,
    }


def _summary(out: Name, stored: BaselineModel, job: BaselineJob, seconds: float) -> dict[str, Any]:
    file, result = open_certificate(out), evaluate(out, [0])
    note = None
    if (file.prediction < 0).all():
        share = job.alpha if job.certificate == "a" else job.alpha / len(stored.classes)
        counts = job.sampling.samples - file.class_distance
        n, k = stored.n_features, stored.settings["retained"]
        note = ablation.abstention_message(counts, file.guess, n, k, share)
    return {
        "certificate": str(out),
        "method": file.method,
        "split": job.split,
        "n": job.n_rows,
        "accuracy": result["accuracy"],
        "abstained": result["abstained"],
        "median_certified_radius": result["median_certified_radius"],
        "seconds": seconds,
        "seconds_per_sample": file.attributes["seconds_per_sample"],
        "multiply_adds": file.attributes["multiply_adds"],
        "note": note,
    }
