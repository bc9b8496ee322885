"""Certification of a split of a dataset by randomized ablation, feature partition or stumps."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.baselines import ablation, partition
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.model_store import load_baseline
from boxnn_numba.data.paths import Name, absolute
from boxnn_numba.errors import BoxNNError, DataError, InputError, OptionError, first_line
from boxnn_numba.pipelines.chunks import Subject, run_chunks
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

if TYPE_CHECKING:
    from distributed import Client

#: Certificates of each method.
CERTIFICATES = {
    "ra": {"a": "RA", "b": "RA^B"},
    "fpa": {"a": "FPA^A", "b": "FPA^B"},
    "stumps": {"exact": "stumps"},
}
#: Evaluations of a base classifier that a chunk makes at least, and the most rows that it has.
_CHUNK_EVALUATIONS, _CHUNK_ROWS = 32_000, 256
#: Rows of a chunk of stumps, of which each is certified in no time.
_CHUNK_STUMPS = 4096
#: Votes that a certificate file can count.
_MOST_SAMPLES = 2**31 - 1


@dataclass(frozen=True)
class Sampling:
    """What the votes of a certificate file rest on, as for `certify_baseline`."""

    limit: int | None = None
    samples: int = 10_000
    guess_samples: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "guess_samples"):
            validation.integer(name, getattr(self, name), low=1, high=_MOST_SAMPLES)
        validation.integer("seed", self.seed, low=0)


@dataclass(frozen=True)
class CertifiedBaseline(Result):
    """A split certified by a published defence.

    Attributes
    ----------
    certificate, method
        The file, and ``"RA"``, ``"RA^B"``, ``"FPA^A"``, ``"FPA^B"`` or ``"stumps"``.
    split, n, accuracy, median_certified_radius, seconds
        As for `Certified`.
    abstained
        In percent.
    seconds_per_sample, multiply_adds
        Of certifying one sample.
    note
        Says why where every sample abstains; None elsewhere.
    """

    certificate: str
    method: str
    split: str
    n: int
    accuracy: float | None
    abstained: float
    median_certified_radius: float
    seconds: float
    seconds_per_sample: float | None
    multiply_adds: int
    note: str | None


@dataclass(frozen=True)
class BaselineWorker:
    """Certifies a chunk by the votes of base classifiers, as for `certify_baseline`.

    `votes` are the path of a file whose votes are used again, and the digest that it must have.
    """

    certificate: str
    alpha: float
    sampling: Sampling
    device: str
    votes: tuple[str, str] | None

    def compute(
        self, model: BaselineModel, x: np.ndarray, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the arrays of a certificate file but for the labels."""
        if model.method == "ra":
            return self._ablation(model, x, rows)
        if model.method == "stumps":
            return _stumps(_networks(model, self.device), model.encode(x))
        scores = _networks(model, self.device).scores(model.encode(x))
        counts = partition.votes_of(scores)
        if self.certificate == "a":
            return _columns(counts, *partition.plurality_radius(counts))
        return _columns(counts, *partition.runoff_radius(counts, scores))

    def _ablation(
        self, stored: BaselineModel, x: np.ndarray, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        sampling = self.sampling
        n, k = stored.n_groups, stored.settings["retained"]
        if self.votes is None:
            guesses, counts = ablation.sample_counts(
                _networks(stored, self.device), stored.encode(x), rows, k, sampling.samples,
                sampling.guess_samples, sampling.seed, group_size=stored.group_size,
            )  # fmt: skip
            guess = ablation.guess_class(guesses)
        else:
            file = _stored_votes(*self.votes)
            places = np.searchsorted(file.row, rows)
            guess = file.read("guess")[places]
            counts = sampling.samples - file.class_distance[places]
        if self.certificate == "a":
            found = ablation.ra_radius(counts, guess, n, k, self.alpha)
        else:
            found = ablation.rab_radius(counts, n, k, self.alpha, guess)
        return {**_columns(counts, *found), "guess": guess}


def _columns(
    counts: np.ndarray, prediction: np.ndarray, radius: np.ndarray
) -> dict[str, np.ndarray]:
    missing = counts[0].sum() - counts
    return {"prediction": prediction, "radius": radius, "class_distance": missing}


def _stumps(model: Any, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of stumps; their class distance is what a class's score lacks."""
    (prediction, radius), scores = model.certify(codes), model.scores(codes)
    lacking = np.minimum(scores.max(axis=1, keepdims=True) - scores, np.iinfo(np.int32).max)
    return {"prediction": prediction, "radius": radius, "class_distance": lacking}


@functools.lru_cache(maxsize=1)
def _networks(stored: BaselineModel, device: str) -> Any:
    """Return the networks, trees or stumps of a model, on as many threads as a task may use."""
    wanted = stored.n_features, len(stored.classes)
    try:
        found = _rebuilt(stored, device)
        if (found.n_features, found.n_classes) != wanted:
            raise ValueError(f"features and classes are not {wanted}")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, BoxNNError):
            raise
        raise InputError(
            f"the base classifiers are not what their file says ({first_line(error)}); train them "
            "again"
        ) from error
    return found


def _rebuilt(stored: BaselineModel, device: str) -> Any:
    settings = stored.settings["base"]
    if stored.method == "stumps":
        from boxnn_numba.baselines.stumps import AdditiveModel

        return AdditiveModel.from_arrays(stored.weights, settings)
    if _uses_trees(stored):
        from boxnn_numba.baselines.trees import TreeSubmodels

        return TreeSubmodels.from_arrays(stored.weights, settings)
    from boxnn_numba.baselines import base_classifiers

    ra = stored.method == "ra"
    kind = base_classifiers.MaskedNetwork if ra else base_classifiers.SubmodelNetworks
    return kind.from_arrays(stored.weights, settings, device)


def _uses_trees(stored: BaselineModel) -> bool:
    """Return whether the submodels of a partition are trees."""
    return bool(stored.settings["base"].get("base") == "trees")


@functools.lru_cache(maxsize=1)
def _stored_votes(path: str, digest: str) -> CertificateFile:
    file = open_certificate(path)
    if file.attributes["digest"] != digest:
        raise DataError(f"{path} changed while its votes were read; start again")
    return file


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
    run: RunOptions = DEFAULT_RUN,
    client: Client | None = None,
) -> CertifiedBaseline:
    """Certify samples of a split by the defence of `model` and write a certificate file.

    Parameters
    ----------
    model, data
        Base classifiers made by `train_baseline`, and a dataset with the same features.
    out, split, limit
        As for `boxnn_numba.pipelines.certification.certify.certify`.
    certificate
        ``"a"`` or ``"b"``: RA or RA^B, FPA^A or FPA^B; ``"exact"`` of stumps.
    method
        ``"ra"``, ``"fpa"`` or ``"stumps"`` to refuse a model of another; None takes any.
    samples, guess_samples, alpha, seed
        For RA, as for `boxnn_numba.baselines.ablation`. The result does not depend on where
        chunks run.
    votes_from
        For RA, a certificate file of the same model and split whose votes are used again, e.g. for
        the other certificate or another alpha. Its `limit`, samples and seed hold; others that
        are asked for, but for the defaults, are refused.
    run
        How to run; the device is torch's, and so are the threads on a CPU. Workers of a cluster
        must see the paths.
    client
        A `distributed.Client` whose workers do the work, in place of one in `run`.

    Returns
    -------
    CertifiedBaseline

    Raises
    ------
    BoxNNError
        Bad model, data or options, no torch, or an output that cannot be written.
    """
    began, run = time.perf_counter(), run.using(client)
    subject = Subject.open(load_baseline, model, data, split, limit)
    _check(subject, method, certificate)
    validation.fraction("alpha", alpha)
    votes, sampling = None, Sampling(limit, samples, guess_samples, seed)
    if votes_from is not None:
        votes, sampling = _open_votes(votes_from, subject, sampling)
        subject = subject.limited(sampling.limit)
    worker = BaselineWorker(
        certificate, alpha, sampling, _device(subject.stored, run.device),
        None if votes is None else (absolute(votes.path), votes.attributes["digest"]),
    )  # fmt: skip
    stored: BaselineModel = subject.stored
    chunk_rows = _chunk_rows(stored, sampling)
    evaluation = _networks(stored, worker.device).multiply_adds()
    run_chunks(
        # Of a cluster, workers take the GPUs that torch gives them.
        subject, worker, CertificateFile, out, _attributes(subject, worker, chunk_rows, evaluation),
        chunk_rows, replace(run, device="cpu"),
        optional=("guess",) if stored.method == "ra" else (),
        files=() if votes_from is None else (votes_from,),
        seconds_per_sample=None if votes is None else votes.attributes.get("seconds_per_sample"),
    )  # fmt: skip
    file = open_certificate(out)
    accuracy, median = file.standing()
    return CertifiedBaseline(
        str(out), file.method, split, len(file), accuracy,
        abstained=round(100.0 * float((file.prediction < 0).mean()), 4),
        median_certified_radius=median,
        seconds=time.perf_counter() - began,
        seconds_per_sample=file.attributes["seconds_per_sample"],
        multiply_adds=file.attributes["multiply_adds"],
        note=_note(file, stored, worker),
    )  # fmt: skip


def _device(stored: BaselineModel, device: str) -> str:
    """Return the device of networks; trees and stumps need no torch and have the CPU."""
    if stored.method == "stumps" or _uses_trees(stored):
        return "cpu"
    from boxnn_numba.baselines.torch_networks import usable_device

    return usable_device(device)


def _check(subject: Subject, method: str | None, certificate: str) -> None:
    stored, dataset, model = subject.stored, subject.dataset, subject.model
    if method not in (None, stored.method):
        raise OptionError(f"{model} was trained for {stored.method}; certify it with that method")
    validation.choice("certificate", certificate, CERTIFICATES[stored.method])
    if not set(stored.classes) & set(dataset.classes):
        raise DataError(
            f"{subject.data} has classes {_some(dataset.classes)} and {model} knows "
            f"{_some(stored.classes)}; certify the data set that the model was trained for"
        )


def _some(classes: Sequence[Any]) -> str:
    """Return the first classes in one line."""
    more = ", ..." if len(classes) > 3 else ""
    return ", ".join(map(repr, classes[:3])) + more


def _chunk_rows(stored: BaselineModel, sampling: Sampling) -> int:
    """Return the rows of a chunk: few where each is thousands of evaluations."""
    if stored.method == "stumps":
        return _CHUNK_STUMPS
    if stored.method == "fpa":
        return _CHUNK_ROWS
    each = sampling.samples + sampling.guess_samples
    return max(1, min(_CHUNK_ROWS, _CHUNK_EVALUATIONS // each))


def _open_votes(
    votes_from: Name, subject: Subject, asked: Sampling
) -> tuple[CertificateFile, Sampling]:
    """Return a certificate file whose votes are used again, and what they rest on."""
    file = open_certificate(votes_from)
    if file.method not in CERTIFICATES["ra"].values():
        raise OptionError(
            f"{votes_from} is of {file.method}, which keeps no sampled votes; "
            "pass one made by boxnn baseline ra certify"
        )
    wanted = (subject.model_digest, subject.dataset.digest, subject.split)
    names = ("model_digest", "dataset_digest", "split")
    if tuple(file.attributes[name] for name in names) != wanted:
        raise OptionError(
            f"{votes_from} holds the votes of another model, data set or split than "
            f"{subject.model} on {subject.split}; sample again without `votes_from`"
        )
    for item in fields(Sampling):
        wanted, found = getattr(asked, item.name), file.attributes[item.name]
        if wanted not in (item.default, found):
            raise OptionError(
                f"{item.name} is {wanted} and the votes in {votes_from} have "
                f"{'none' if found is None else found}; leave it out, or sample again without "
                "`votes_from`"
            )
    return file, Sampling(**{item.name: file.attributes[item.name] for item in fields(Sampling)})


def _attributes(
    subject: Subject, worker: BaselineWorker, chunk_rows: int, multiply_adds: int
) -> dict[str, Any]:
    stored, sampling, evaluations = subject.stored, worker.sampling, 1
    own: dict[str, Any] = {}
    if stored.method == "ra":
        evaluations = sampling.samples + sampling.guess_samples
        own = {"alpha": worker.alpha, **asdict(sampling)}
        del own["limit"]
    return {
        "method": CERTIFICATES[stored.method][worker.certificate],
        "limit": None,
        **subject.attributes(),
        "certificate": worker.certificate,
        "chunk_rows": chunk_rows,
        **own,
        **stored.settings,
        "multiply_adds": evaluations * multiply_adds,
        "training": stored.training,
    }


def _note(file: CertificateFile, stored: BaselineModel, worker: BaselineWorker) -> str | None:
    """Return why all abstain, if they do."""
    if not (file.prediction < 0).all():
        return None
    share = worker.alpha if worker.certificate == "a" else worker.alpha / len(stored.classes)
    counts = worker.sampling.samples - file.class_distance
    n, k = stored.n_groups, stored.settings["retained"]
    return ablation.abstention_message(counts, file.read("guess"), n, k, share)
