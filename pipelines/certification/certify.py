"""Certification of a split of a dataset by Box-NN: radii of three kinds, and patches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.adversary import Adversary
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates import AUTO, KINDS, default_kind, margin
from boxnn_numba.certificates.exact import exact_radii, exact_radii_of
from boxnn_numba.certificates.pairwise import pairwise_bounds, pairwise_radius
from boxnn_numba.certificates.patch import patch_certified
from boxnn_numba.classifier import need_two_classes, patch_image
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.model_store import load_model
from boxnn_numba.data.paths import Name
from boxnn_numba.data.row_files import rows_within
from boxnn_numba.errors import OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.chunks import Spent, Subject, run_chunks
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

if TYPE_CHECKING:
    from distributed import Client

#: Most samples in a chunk of each certificate. A run that is stopped loses a few seconds, of exact
#: certificates those chunks whose samples take the whole time limit.
_CHUNK_ROWS = {"margin": 2**31, "pairwise": 512, "exact": 16, "patch": 1024}


@dataclass(frozen=True)
class Certified(Result):
    """A certified split.

    Attributes
    ----------
    certificate, kind
        The file, and the kind of its certificates.
    split, n
        Which samples, and how many.
    accuracy, median_certified_radius
        In percent, and in features. If no row has a label, None and the median of all radii.
    seconds
        Time of the job.
    patches
        Percent right and certified by size of patch, such as ``"3x7"``; None for other kinds.
    settled
        Percent of exact radii that were found before the time was up; None for other kinds.
    cluster
        How the time of a cluster was spent; None without a cluster.
    unlabelled
        As for `Evaluation`.
    """

    certificate: str
    kind: str
    split: str
    n: int
    accuracy: float | None
    median_certified_radius: float
    seconds: float
    patches: dict[str, float] | None = None
    settled: float | None = None
    cluster: Spent | None = None
    unlabelled: int | None = None


@dataclass(frozen=True)
class BoxWorker:
    """Certifies a chunk by boxes; as for `certify`."""

    certificate: str
    time_limit: float
    device: str
    chunk: int | None
    patch: tuple[tuple[int, int], ...] = ()
    attackable: tuple[int, ...] | None = None
    costs: tuple[float | None, ...] | None = None

    def compute(self, model: BoxNN, x: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of a certificate file but for the labels."""
        distance = model.class_distance(x, self.device, self.chunk)
        who = Adversary.of_file(model, {"attackable": self.attackable})
        prediction, radius = model.radii(distance, adversary=who)
        more = {}
        if self.certificate == "pairwise" or (self.certificate == "exact" and self.costs):
            radius = pairwise_radius(model, x, attackable=self.attackable).radius
        elif self.certificate == "exact":
            radius, more["upper"] = exact_radii(
                model, x, self.time_limit, attackable=self.attackable
            )
        elif self.certificate == "patch":
            more["withstands"] = patch_certified(model, x, list(self.patch))[1]
        if self.costs:
            more |= self._budgets(model, x, distance)
        return {"prediction": prediction, "radius": radius, "class_distance": distance, **more}

    def _budgets(self, model: BoxNN, x: np.ndarray, distance: np.ndarray) -> dict[str, np.ndarray]:
        """Return the certified budgets of the rows of a chunk."""
        payer = Adversary.of_file(model, {"attackable": self.attackable, "costs": self.costs})
        if self.certificate == "margin":
            return {"budget": model.radii(distance, adversary=payer).radius}
        if self.certificate == "pairwise":
            _, bound = pairwise_bounds(model, model.encode(x), payer)
            return {"budget": payer.radius(bound)}
        lower, upper = exact_radii_of(model, x, payer, self.time_limit)
        return {"budget": lower, "budget_upper": upper}


def certify(
    model: Name,
    data: Name,
    out: Name,
    *,
    split: str = "test",
    certificate: str = AUTO,
    limit: int | None = None,
    time_limit: float = 60.0,
    patch: Any = None,
    attackable: Any = None,
    costs: Any = None,
    run: RunOptions = DEFAULT_RUN,
    client: Client | None = None,
) -> Certified:
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
        (`exact_radius`); each is at least as large as the one before, and slower. ``"patch"``
        (`patch_certified`) has the margin's radii, and whether blocks of pixels are withstood.
        ``"auto"``, the default, is what `default_kind` says; with device ``"cuda"`` the margin, so
        the radii of tables are smaller there.
    limit
        Certify only this many rows, ``(arange(limit) * total) // limit``.
    time_limit
        Seconds for each sample of the exact certificate; when the time is up, the file has bounds
        on the radius.
    patch
        Sizes of the blocks, as for `patch_certified`; for that certificate only.
    attackable, costs
        Which columns may be rewritten, and their costs, as for `BoxNN.certify`.
    run
        How to run. All certificates but the margin are computed on the CPU. Workers of a cluster
        must see the three paths, and with device ``"cuda"`` have a GPU of their own.
    client
        A `distributed.Client` whose workers do the work, in place of one in `run`.

    Returns
    -------
    Certified

    Raises
    ------
    BoxNNError
        Bad model or data, or an output that cannot be written.
    """
    began, run = time.perf_counter(), run.using(client)
    validation.choice("certificate", certificate, (*KINDS, AUTO))
    validation.real("time_limit", time_limit, 0, open_low=True)
    sizes = validation.patches_for(certificate, patch)
    if certificate == AUTO and run.device == "cuda":
        certificate = "margin"
    if certificate not in ("margin", AUTO) and run.device == "cuda":
        raise OptionError(f"{certificate} certificates are computed on the CPU; leave out `device`")
    # Of a cluster, the GPUs are the workers'.
    here = run.local
    get_backend(run.device if here else "cpu", run.threads, run.chunk)
    subject = Subject.open(load_model, model, data, split, limit)
    classifier: BoxNN = subject.stored
    certificate = default_kind(classifier) if certificate == AUTO else certificate
    if certificate == "patch":
        patch_image(classifier, sizes)
    elif certificate != "margin":
        need_two_classes(classifier)
    adversary = Adversary.of(classifier, attackable, costs)
    said = adversary.attributes()
    if said and certificate == "patch":
        raise OptionError("`attackable` and `costs` are not for patches; leave them out")
    # "auto" would give all workers of a machine the same GPU.
    device = run.device if here or run.device == "cuda" else "cpu"
    worker = BoxWorker(
        certificate, float(time_limit), device, run.chunk, sizes,
        *(tuple(said[name]) if name in said else None for name in ("attackable", "costs")),
    )  # fmt: skip
    first = subject.dataset.chunks(split)[0]
    bounds = {"exact": ("upper",), "patch": ("withstands",)}
    optional: tuple[str, ...] = bounds.get(certificate, ())
    if "costs" in said:
        optional = ("budget", "budget_upper") if certificate == "exact" else ("budget",)
    rows = min(first.stop - first.start, _CHUNK_ROWS[certificate])
    spent = run_chunks(
        subject, worker, CertificateFile, out, _attributes(subject, worker),
        rows_within(rows, 4 * len(classifier.classes)), run,
        optional=optional,
    )  # fmt: skip
    return _certified(open_certificate(out), str(out), time.perf_counter() - began, spent)


def _certified(file: CertificateFile, out: str, seconds: float, spent: Spent | None) -> Certified:
    accuracy, median = file.standing()
    priced = file.budget is not None
    low, high = (file.budget, file.budget_upper) if priced else (file.radius, file.upper)
    return Certified(
        out, file.certificate, str(file.attributes["split"]), len(file), accuracy,
        median,
        patches=file.patches,
        settled=None if high is None else 100.0 * float(np.mean(low == high)),
        seconds=seconds,
        cluster=spent,
        unlabelled=None if accuracy is None else file.unlabelled,
    )  # fmt: skip


def _attributes(subject: Subject, worker: BoxWorker) -> dict[str, Any]:
    model: BoxNN = subject.stored
    return {
        "method": margin.BOX_NN,
        "certificate": worker.certificate,
        **subject.attributes(),
        "divisor": 2 * model.reach,
        "training": model.training,
        **({"time_limit": worker.time_limit} if worker.certificate == "exact" else {}),
        **({"patch": list(map(list, worker.patch))} if worker.patch else {}),
        **({"attackable": list(worker.attackable)} if worker.attackable else {}),
        **({"costs": list(worker.costs)} if worker.costs else {}),
    }
