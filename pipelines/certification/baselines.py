"""Certify a split of a dataset by randomized ablation or feature partition."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from boxnn_numba import validation
from boxnn_numba.baselines import ablation
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.data.atomic import partial_path
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_baseline, model_digest
from boxnn_numba.data.paths import Name, absolute, location
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines.certification.baseline_chunks import (
    BaselineJob,
    Sampling,
    base_classifier,
    certify_baseline_chunk,
)
from boxnn_numba.pipelines.certification.certify import evaluate
from boxnn_numba.pipelines.certification.chunked import (
    HowToRun,
    certify_chunks,
    check_match,
    count_rows,
    origin,
)
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions, check_options

#: Certificates of each method.
CERTIFICATES = {"ra": {"a": "RA", "b": "RA^B"}, "fpa": {"a": "FPA^A", "b": "FPA^B"}}
#: Evaluations of a base classifier that a chunk makes at least, and the most rows that it has.
_CHUNK_EVALUATIONS, _CHUNK_ROWS = 32_000, 256
#: Votes that a certificate file can count.
_MOST_SAMPLES = 2**31 - 1


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
        Base classifiers made by `train_baseline`, and a dataset with the same features.
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
        the other certificate or another alpha. Its `limit`, samples and seed hold; others that
        are asked for, but for the defaults, are refused.
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
    _check(stored, model, method, certificate, dataset, data, split)
    validation.fraction("alpha", alpha)
    votes, sampling = None, Sampling(limit, samples, guess_samples, seed)
    if votes_from is not None:
        votes, sampling = _open_votes(votes_from, stored, model, dataset, split, sampling)
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
        votes=None if votes is None else (absolute(votes.path), votes.attributes["digest"]),
    )
    classifier = base_classifier(stored, job.device)
    attributes = _attributes(stored, classifier, model, dataset, data, job)
    how = HowToRun(overwrite, resume, threads, cluster, progress)
    shape = n, len(stored.classes)
    certify_chunks(
        certify_baseline_chunk, job, out, attributes, shape, how,
        inputs=[model, data] if votes_from is None else [model, data, votes_from],
        extra=("guess",) if stored.method == "ra" else (),
        seconds_per_sample=None if votes is None else votes.attributes["seconds_per_sample"],
    )  # fmt: skip
    return _summary(out, stored, job, time.perf_counter() - began)


def torch_device(device: str) -> str:
    """Return the device for torch: ``"auto"`` is ``"cuda"`` where there is one."""
    from boxnn_numba.baselines.torch_networks import DEVICES, load_torch, usable_device

    validation.choice("device", device, (*DEVICES, "auto"))
    if device == "auto":
        return "cuda" if load_torch().cuda.is_available() else "cpu"
    return usable_device(device)


def _check(
    stored: BaselineModel,
    model: Name,
    method: str | None,
    certificate: str,
    dataset: Dataset,
    data: Name,
    split: str,
) -> None:
    if method not in (None, stored.method):
        raise OptionError(f"{model} was trained for {stored.method}; certify it with that method")
    validation.choice("split", split, dataset.splits)
    validation.choice("certificate", certificate, CERTIFICATES[stored.method])
    check_match(model, stored.n_features, stored.grid is None, dataset, data)
    if not set(stored.classes) & set(dataset.classes):
        raise DataError(
            f"{data} has classes {_some(dataset.classes)} and {model} knows "
            f"{_some(stored.classes)}; certify the data set that the model was trained for"
        )


def _some(classes: Sequence[Any]) -> str:
    """Return the first classes in one line."""
    more = ", ..." if len(classes) > 3 else ""
    return ", ".join(map(repr, classes[:3])) + more


def _row_count(dataset: Dataset, data: Name, split: str, sampling: Sampling) -> int:
    """Return how many rows are certified, after checking what is asked for."""
    n = count_rows(dataset, data, split, sampling.limit)
    validation.integer("--samples", sampling.samples, low=1, high=_MOST_SAMPLES)
    validation.integer("--guess-samples", sampling.guess_samples, low=1, high=_MOST_SAMPLES)
    validation.integer("--seed", sampling.seed, low=0)
    return n


def _chunk_rows(stored: BaselineModel, sampling: Sampling) -> int:
    """Return the rows of a chunk: few where each is thousands of evaluations."""
    if stored.method == "fpa":
        return _CHUNK_ROWS
    each = sampling.samples + sampling.guess_samples
    return max(1, min(_CHUNK_ROWS, _CHUNK_EVALUATIONS // each))


def _open_votes(
    votes_from: Name,
    stored: BaselineModel,
    model: Name,
    dataset: Dataset,
    split: str,
    asked: Sampling,
) -> tuple[CertificateFile, Sampling]:
    """Return a certificate file whose votes are used again, and what they rest on."""
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
    for item in fields(Sampling):
        wanted, found = getattr(asked, item.name), file.attributes[item.name]
        if wanted not in (item.default, found):
            raise OptionError(
                f"--{item.name.replace('_', '-')} is {wanted} and the votes in {votes_from} have "
                f"{'none' if found is None else found}; leave it out, or sample again without "
                "--votes-from"
            )
    return file, Sampling(**{item.name: file.attributes[item.name] for item in fields(Sampling)})


def _attributes(
    stored: BaselineModel,
    classifier: Any,
    model: Name,
    dataset: Dataset,
    data: Name,
    job: BaselineJob,
) -> dict[str, Any]:
    sampling, evaluations = job.sampling, 1
    own: dict[str, Any] = {}
    if stored.method == "ra":
        evaluations = sampling.samples + sampling.guess_samples
        own |= {"alpha": job.alpha, "samples": sampling.samples}
        own |= {"guess_samples": sampling.guess_samples, "seed": sampling.seed}
    return {
        "method": CERTIFICATES[stored.method][job.certificate],
        "limit": None,
        **origin(model, job.model_digest, dataset, data, job.split, job.n_rows),
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
