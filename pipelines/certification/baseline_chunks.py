"""The chunks of a certification by a published defence, as tasks for any executor."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.baselines import ablation, partition
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_baseline, model_digest
from boxnn_numba.data.row_files import spread_rows
from boxnn_numba.errors import DataError
from boxnn_numba.pipelines.certification.chunked import Spent, class_positions, write_certificates


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


def base_classifier(stored: BaselineModel, device: str) -> Any:
    """Return the networks of a model, on as many threads as a task may use."""
    from boxnn_numba.baselines import base_classifiers

    ra = stored.method == "ra"
    kind = base_classifiers.MaskedNetwork if ra else base_classifiers.SubmodelNetworks
    return kind.from_arrays(stored.weights, stored.settings["base"], device)


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


def certify_baseline_chunk(index: int, job: BaselineJob) -> Spent:
    """Certify one chunk, write it whole to the result, and return what that took.

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
    rows = spread_rows(places, job.n_rows, dataset.n_rows(job.split))
    x, y = dataset.read_rows(job.split, rows)
    read = time.perf_counter()
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
    nbytes = x.nbytes + y.nbytes
    return write_certificates(job, index, began, read, nbytes, *radii, label, missing, guess=guess)


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
