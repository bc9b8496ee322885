"""Localization of the classes of a data set, by a certified Box-NN (Sections 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.boxes import Boxes
from boxnn_numba.certificates import margin
from boxnn_numba.classifier import group_count, need_one_set
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.model_store import load_model, model_digest
from boxnn_numba.data.paths import Name
from boxnn_numba.distances import class_distance
from boxnn_numba.errors import CertificateFileError, OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.progress import Progress
from boxnn_numba.statistics import lower_bound
from boxnn_numba.theory import impossibility, localization, volumes

#: What is said of the distribution behind the samples is wrong with at most this probability.
ALPHA = 0.05
#: What is said of a union of grown boxes, and the density that it shows.
_Union = tuple[dict[str, Any], float]
#: Uniform code vectors are classified in pieces of this size.
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class Localization(Result):
    """How localized the certified data are.

    Attributes
    ----------
    certificate, model, dataset, split, n, features, boxes, width, group_size
        What was read; features are groups of codes where the model has some.
    share, samples, seed
        As passed to `localize`.
    radii
        For each radius ``exponent`` (eps^2 / n), ``strong``
        (delta and gamma of Definition 3.1, Theorem 3.2's ``risk``), ``certified_risk`` of the model
        and ``classes``. A class has ``n``; ``delta``, the share not certified at the radius, and
        ``delta_upper`` for the distribution; ``constant``, ``volume`` and ``trivial`` (Theorem
        2.2); ``grown`` and ``holding``: the union of its boxes grown by eps, and grown until it
        holds `share` of the class, with ``log10_volume`` [lower, upper] (None for no volume) and
        what they hold, and ``log10_volume_l0`` for boxes grown by eps in l0, a part of the former
        where the width is above 1; ``impossibility``: whether Eq. (7) is shown to be
        ``vacuous`` at eps, and ``up_to`` which radius.
    """

    certificate: str
    model: str
    dataset: str | None
    split: str | None
    n: int
    features: int
    boxes: int
    width: int
    group_size: int
    share: float
    samples: int
    seed: int
    radii: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class _Case:
    """What all rows of a report are computed from."""

    file: CertificateFile
    model: BoxNN
    before: np.ndarray
    #: Groups of features, what an adversary counts.
    coordinates: int
    #: (K,) upper bounds on the volume of the region that is predicted as each class.
    regions: np.ndarray
    #: The boxes with the distance of the paper, l0.
    l0: Boxes

    def units(self, features: int) -> int:
        return features * self.model.boxes.width * self.model.group_size


def localize(
    certificate: Name,
    model: Name,
    radii: Sequence[int] = (),
    *,
    share: float = 0.9,
    samples: int = 10_000,
    seed: int = 0,
    run: RunOptions = DEFAULT_RUN,
) -> Localization:
    """Report per class what a model and its certificates say about the localization of the data.

    Parameters
    ----------
    certificate, model
        Paths of a certificate file and of the model that it is of.
    radii
        Radii eps of the adversary, each 0..n (in feature groups where the model has some); the
        median certified radius by default (0 where less than half is right).
    share
        Part of each class that the boxes are grown to hold, between 0 and 1.
    samples
        Uniform code vectors by which the volumes of the decision regions are bounded.
    seed
        Of those vectors.
    run
        How to run; on the CPU, in this process.

    Returns
    -------
    Localization

    Raises
    ------
    CertificateFileError
        The certificate is damaged, not of a Box-NN, or without true labels.
    ModelFileError
        The model cannot be read.
    OptionError
        The certificate is not of this model, or an option is out of range.
    """
    run.need_cpu("volumes")
    share = validation.fraction("share", share)
    samples = validation.positive("samples", samples)
    seed = validation.integer("seed", seed, 0)
    file, classifier = _open(certificate, model)
    with limit_threads(run.threads):
        coordinates = group_count(classifier)
        chosen = [validation.integer("radius", radius, 0, coordinates) for radius in radii]
        known = file.label >= 0
        outcome = file.prediction[known], file.radius[known], file.label[known]
        if not chosen:
            chosen = [max(0, int(margin.median_certified_radius(*outcome)))]
        present = np.unique(outcome[2])
        run.progress.start((1 + len(chosen)) * len(present), "class volumes")
        before = volumes.codes_before(classifier.boxes.n_features, classifier.grid)
        regions = _region_volumes(classifier, before, samples, seed)
        boxes = classifier.boxes
        l0 = Boxes(boxes.lower, boxes.upper, boxes.labels, 1, boxes.n_classes)
        case = _Case(file, classifier, before, coordinates, regions, l0)
        holding = {}
        for label in present.tolist():
            own = np.sort(file.class_distance[file.label == label, label])
            holding[label] = _union(case, label, int(own[math.ceil(share * len(own)) - 1]))
            run.progress.advance(1)
        return Localization(
            certificate=str(certificate),
            model=str(model),
            dataset=file.attributes.get("dataset_name"),
            split=file.attributes.get("split"),
            n=len(outcome[2]),
            features=coordinates,
            boxes=len(classifier.boxes),
            width=classifier.boxes.width,
            group_size=classifier.group_size,
            share=share,
            samples=samples,
            seed=seed,
            radii=[_at_radius(case, eps, holding, run.progress) for eps in chosen],
        )


def _open(certificate: Name, model: Name) -> tuple[CertificateFile, BoxNN]:
    file = open_certificate(certificate)
    method = file.attributes.get("method")
    if method != "Box-NN":
        raise CertificateFileError(
            f"{certificate} is of {method}, which has no boxes; pass one made by boxnn certify"
        )
    classifier = load_model(model)
    if model_digest(classifier) != file.attributes.get("model_digest"):
        raise OptionError(
            f"{certificate} is not of {model} but of {file.attributes.get('model')}; pass that "
            "model or certify again"
        )
    need_one_set(classifier, "volumes are")
    _need_plain(classifier, model)
    if not (file.label >= 0).any():
        raise CertificateFileError(
            f"{certificate} has no sample whose true class is known; certify a data set with labels"
        )
    return file, classifier


def _need_plain(model: BoxNN, path: Name) -> None:
    """Raise unless classes are unions of grown boxes, each feature with a penalty of its own."""
    structure = model.boxes.structure
    for found, what, option in (
        (not structure.is_plain, "templates of several rows", "`parts` 1"),
        (structure.is_grouped, "groups of features", "`group_size` 1"),
        (bool(model.offset.any()), "offsets of classes", "no offsets"),
    ):
        if found:
            raise OptionError(
                f"{path} has {what}, and volumes of unions are of plain boxes; pass a model that "
                f"is trained with {option}"
            )


def _region_volumes(model: BoxNN, before: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Return upper bounds on Vol(A_k), each with confidence 1 - ALPHA, by uniform samples."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(len(model.classes), np.int64)
    piece = max(1, _PIECE_BYTES // model.boxes.n_features)
    for start in range(0, samples, piece):
        codes = volumes.uniform_codes(rng, before, min(piece, samples - start))
        nearest = class_distance(codes, model.boxes).argmin(axis=1)
        counts += np.bincount(nearest, minlength=len(counts))
    return 1 - lower_bound(samples - counts, samples, ALPHA)


def _deviation(n: int) -> float:
    """Return by how much n samples may misjudge a share of nested sets, with confidence 1 - ALPHA.

    The one-sided inequality of Dvoretzky, Kiefer and Wolfowitz. It holds for all radii and all
    growths at once, so also for those that were chosen by looking at the samples.
    """
    return math.sqrt(math.log(1 / ALPHA) / (2 * n))


def _union(case: _Case, label: int, units: int) -> _Union:
    """Return the volume of a class's boxes grown by some units, what it holds, its density."""
    own = case.file.class_distance[case.file.label == label, label]
    # Beyond the farthest code vector only a class without boxes is left, and holds nothing.
    units = min(units, case.units(case.coordinates))
    bounds = volumes.union_log_volume(case.model.boxes, label, units, case.before)
    held = float((own <= units).mean())
    least = max(0.0, held - _deviation(len(own)))
    union = {
        "growth": units / case.units(1),
        "log10_volume": _log10(bounds),
        "holds": held,
        "holds_at_least": least,
    }
    return union, impossibility.log_density_floor(bounds[1], least)


def _at_radius(
    case: _Case, eps: int, holding: dict[int, _Union], progress: Progress
) -> dict[str, Any]:
    file, known = case.file, case.file.label >= 0
    strong = localization.strong_localization(
        file.class_distance[known], file.label[known], eps, file.width, file.group_size
    )
    right = file.prediction == file.label
    rows = []
    for label, held in holding.items():
        rows.append(_class_row(case, label, eps, held))
        progress.advance(1)
    return {
        "radius": eps,
        "exponent": eps * eps / case.coordinates,
        "certified_risk": 1 - float((right & (file.radius >= eps))[known].mean()),
        "strong": {
            "growth": strong.growth / file.group_size,
            "delta": strong.delta,
            "gamma": strong.gamma,
            "risk": strong.risk,
        },
        "classes": rows,
    }


def _class_row(case: _Case, label: int, eps: int, held: _Union) -> dict[str, Any]:
    file = case.file
    mine = file.label == label
    n = int(mine.sum())
    delta = 1 - float(((file.prediction == label) & (file.radius >= eps))[mine].mean())
    elsewhere = 1 - float(case.regions[label])
    log_elsewhere = math.log(elsewhere) if elsewhere > 0 else -math.inf
    claim = localization.robust_localization(eps, delta, case.coordinates, log_elsewhere)
    (grown, density), (holding, holding_density) = _union(case, label, case.units(eps)), held
    eps_l0 = eps * case.model.group_size
    l0 = volumes.union_log_volume(case.l0, label, eps_l0, case.before)
    density = max(density, holding_density)
    vacuous = impossibility.vacuous_radius(case.coordinates, density)
    return {
        "class": file.classes[label],
        "n": n,
        "delta": delta,
        "delta_upper": min(1.0, delta + _deviation(n)),
        "constant": _finite(math.exp(claim.log_constant)) if elsewhere > 0 else None,
        "volume": math.exp(min(0.0, claim.log_volume)),
        "trivial": claim.trivial,
        "boxes": int((case.l0.labels == label).sum()),
        "grown": {**grown, "log10_volume_l0": _log10(l0)},
        "holding": holding,
        "impossibility": {
            "log10_density": density / math.log(10),
            "vacuous": eps <= vacuous,
            "up_to": vacuous,
        },
    }


def _log10(bounds: tuple[float, float]) -> list[float | None]:
    return [_finite(bound / math.log(10)) for bound in bounds]


def _finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if math.isfinite(value) else None
