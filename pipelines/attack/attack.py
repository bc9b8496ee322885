"""Attacks on the samples of a split, each compared with the certificate of its sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.adversary import Adversary, groups_changed
from boxnn_numba.attacks import AttackResult, greedy_attack, quick_attack, random_search
from boxnn_numba.attacks.domain import Limit, domain_of
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.certificates import AUTO, default_kind, pairwise_radius, patch_certified
from boxnn_numba.classifier import group_count, need_two_classes
from boxnn_numba.data.attack_store import AttackFile, open_attack
from boxnn_numba.data.model_store import load_model
from boxnn_numba.data.paths import Name, absolute, location
from boxnn_numba.data.row_files import rows_within
from boxnn_numba.data.schema import MOST_FEATURES
from boxnn_numba.data.zarr_format import array_digest
from boxnn_numba.errors import OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.attack.comparison import (
    Blocks,
    Standing,
    check_sound,
    joined,
    keep_counterexample,
    random_budget,
    standing,
)
from boxnn_numba.pipelines.chunks import Spent, Subject, run_chunks
from boxnn_numba.pipelines.figures.scales import default_radii
from boxnn_numba.pipelines.running import DEFAULT_RUN, RunOptions

if TYPE_CHECKING:
    from distributed import Client

METHODS = ("greedy", "quick", "random")
#: Options that mean nothing to a method. `queries` passes with the greedy attack, and `seed` with
#: every method: scripts that compare methods give all of them the same words.
_REFUSED = {
    "quick": ("rivals", "tries", "queries", "patch"),
    "random": ("rivals", "tries", "patch"),
}
#: Samples that are attacked and written at a time.
CHUNK_ROWS = 128


@dataclass(frozen=True)
class AttackOptions:
    """How samples are attacked.

    Attributes
    ----------
    method
        ``"greedy"`` or, with less effort, ``"quick"`` (white box), or ``"random"`` (black box).
    max_features
        Most features (or groups) to change; by default a tenth of all for the random attack, any
        number for the others.
    low, high
        Smallest and largest code that may be written; or pairs of the name (or number) of a column
        and a raw value.
    attackable
        Names or numbers of the columns (or groups) that may change; None for all.
    features
        Path of a ``.npy`` file of (n,) bool, features that may change; None for all.
    rivals, tries
        As for `greedy_attack`.
    queries
        As for `random_search`.
    seed
        Seed of the greedy and the random attack; the quick attack draws nothing.
    patch
        Size of the block of pixels that the greedy attack may change, such as ``"5"`` or ``"3x7"``;
        None for any features.
    """

    method: str = "greedy"
    max_features: int | None = None
    low: int | tuple[tuple[str, Any], ...] = 0
    high: int | tuple[tuple[str, Any], ...] = 255
    attackable: tuple[str | int, ...] | None = None
    features: str | None = None
    rivals: int = 16
    tries: int = 32
    queries: int = 1000
    seed: int = 0
    patch: str | None = None

    @property
    def domain(self) -> tuple[Limit, Limit]:
        """The values that may be written, as for `domain_of`."""
        low, high = (dict(e) if isinstance(e, tuple) else e for e in (self.low, self.high))
        return low, high

    def blocks(self, model: BoxNN, x: np.ndarray) -> Blocks | None:
        """Return the blocks that may be changed, and which samples are certified against them."""
        if self.patch is None:
            return None
        size = validation.one_patch("patch", self.patch)
        return Blocks(size, patch_certified(model, x, size)[1][:, 0])

    def certified(
        self, model: BoxNN, x: np.ndarray, certificate: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return predicted indices and certified radii, with which attacks are compared."""
        who = Adversary.of(model, self.attackable)
        prediction, radius = model.radii(model.class_distance(x), adversary=who)
        if certificate == "pairwise":
            radius = pairwise_radius(model, x, attackable=self.attackable).radius
        return prediction, radius


@dataclass(frozen=True)
class AttackSummary(Standing):
    """The result of an attack, and accuracy under attack beside certified accuracy.

    Attributes
    ----------
    split
        Split of the samples.
    certificate
        Certificate that attacks are compared with, ``"margin"`` or ``"pairwise"``.
    seconds
        Time of the job.
    cluster
        How the time of a cluster was spent; None without a cluster.
    """

    split: str
    certificate: str
    seconds: float
    cluster: Spent | None = None


@dataclass(frozen=True)
class AttackWorker:
    """Attacks a chunk.

    Attributes
    ----------
    mask
        The features that may change, as bytes of booleans; None for all.
    beside
        Absolute path of the file beside which a counterexample is kept.
    certificate
        Certificate that attacks are compared with.
    """

    options: AttackOptions
    mask: bytes | None
    beside: str
    certificate: str

    def compute(self, model: BoxNN, x: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of an attack file but for the labels; raise if an attack is unsound."""
        found = self.find(model, x, int(rows[0]))
        before, radius = self.options.certified(model, x, self.certificate)
        index = model.class_distance(found.x_adv).argmin(axis=1)
        beside = location(self.beside)
        check_sound(
            rows, found.changed, index == before, radius,
            lambda at: keep_counterexample(beside, x[at], found.x_adv[at], int(rows[at])),
            self.options.blocks(model, x),
        )  # fmt: skip
        return {"x": found.x_adv, "changed": found.changed, "prediction": index, "row": rows}

    def find(self, model: BoxNN, x: np.ndarray, first: int) -> AttackResult:
        """Attack samples, of which the first has this number."""
        options = self.options
        features = None if self.mask is None else np.frombuffer(self.mask, bool)
        if options.method == "random":
            return _random(model, x, options, features, first)
        most, domain = options.max_features, options.domain
        if most is not None:  # what an attack file may say
            validation.integer("max_features", most, 1, MOST_FEATURES)
        if options.method == "quick":
            return quick_attack(model, x, max_features=most, domain=domain, features=features)
        return greedy_attack(
            model, x, max_features=most, domain=domain, features=features, rivals=options.rivals,
            tries=options.tries, seed=options.seed, patch=options.patch,
        )  # fmt: skip


def attack(
    model: Name,
    data: Name,
    out: Name,
    options: AttackOptions | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    radii: Sequence[int] | None = None,
    certificate: str = AUTO,
    run: RunOptions = DEFAULT_RUN,
    client: Client | None = None,
) -> AttackSummary:
    """Attack samples of a split and write an attack file.

    Every adversarial input is predicted again before it is written, and compared with the
    certified radius of its sample.

    Parameters
    ----------
    model, data
        Paths of a model and of a dataset with the same features.
    out
        Where the attack file goes.
    options
        Method and limits of the attack; the greedy attack by default.
    split
        ``"test"`` or ``"train"``.
    limit
        Attack only this many rows, ``(arange(limit) * total) // limit``.
    radii
        Radii in the summary; by default 0, 4, ..., 28 for images, else about a dozen, up to where
        attacks were found on all samples.
    certificate
        Certificate that attacks are compared with, ``"margin"`` or ``"pairwise"``; ``"auto"``, the
        default, is the result of `default_kind`. With a patch it is the patch certificate.
    run
        How to run; on the CPU only. Workers of a cluster must see all paths.
    client
        A `distributed.Client` whose workers do the work, in place of one in `run`.

    Returns
    -------
    AttackSummary

    Raises
    ------
    UnsoundError
        An attack succeeded within a certified radius; the input is kept beside `out`.
    BoxNNError
        Bad model, data or option, or an output that cannot be written.
    """
    began, options, run = time.perf_counter(), options or AttackOptions(), run.using(client)
    run.need_cpu("attacks")
    if run.cluster is not None:
        run.cluster.refuse_for("attacks", "box_shards", "share_gpus")
    validation.choice("method", options.method, METHODS)
    _check_given(options)
    validation.choice("certificate", certificate, ("margin", "pairwise", AUTO))
    if radii is not None:
        radii = validation.radii(radii).tolist()
    subject = Subject.open(load_model, model, data, split, limit)
    classifier: BoxNN = subject.stored
    need_two_classes(classifier)
    who = Adversary.of(classifier, options.attackable)
    mask, of_mask = _free_features(options, classifier, who)
    if options.patch is not None:
        certificate = "margin"  # blocks have a certificate of their own
    elif certificate == AUTO:
        certificate = default_kind(classifier)
    worker = AttackWorker(options, mask, absolute(out), certificate)
    x = np.zeros((1, classifier.boxes.n_features), np.float32 if classifier.grid else np.uint8)
    with limit_threads(run.threads):
        worker.find(classifier, x, 0)  # options are checked before anything is written
    attributes = {
        "limit": None,
        **subject.attributes(),
        "options": asdict(options),
        **of_mask,
        **who.attributes(),
    }
    files = () if options.features is None else (options.features,)
    rows = rows_within(CHUNK_ROWS, x.nbytes)
    spent = run_chunks(subject, worker, AttackFile, out, attributes, rows, run, files=files)
    file, outcomes, blocks = open_attack(out), [], []
    with limit_threads(run.threads):
        for start in range(0, len(file), CHUNK_ROWS):
            x, _ = subject.dataset.read_rows(split, file.row[start : start + CHUNK_ROWS])
            outcomes.append(options.certified(classifier, x, certificate))
            blocks.append(options.blocks(classifier, x))
    prediction, radius = (np.concatenate(part) for part in zip(*outcomes, strict=True))
    if radii is None:
        radii = default_radii(file.unit, file.groups, int(file.changed.max()), range(0, 29, 4))
    return AttackSummary(
        **standing(prediction, radius, file.label, file.changed, radii, joined(blocks)),
        attack=str(out), method=options.method, split=split, certificate=certificate,
        seconds=time.perf_counter() - began, cluster=spent,
    )  # fmt: skip


def _check_given(options: AttackOptions) -> None:
    """Raise for an option of another method; one with its default value was not given."""
    for name in _REFUSED.get(options.method, ()):
        if getattr(options, name) != getattr(AttackOptions, name):
            other = "random" if name == "queries" else "greedy"
            raise OptionError(
                f"`{name}` is for the {other} attack, and the method is {options.method}; leave "
                "it out"
            )


def _free_features(
    options: AttackOptions, model: BoxNN, who: Adversary
) -> tuple[bytes | None, dict[str, str]]:
    """Return the features that may change, None for all, and what a file says of them."""
    if options.attackable is not None:
        if options.features is not None or options.patch is not None:
            raise OptionError("`attackable` goes without `features` and `patch`; leave one out")
        return who.features(model.groups).tobytes(), {}
    if options.features is None:
        return None, {}
    may = validation.mask("features", _mask(options.features), model.boxes.n_features)
    return may.tobytes(), {"features_digest": array_digest(may)}


def _mask(path: str) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(
            f"`features` {path} is not a readable .npy file; save (n,) booleans with np.save"
        ) from error


def _random(
    model: BoxNN, x: np.ndarray, options: AttackOptions, features: np.ndarray | None, first: int
) -> AttackResult:
    """Search at random among the codes that can be written."""
    groups = group_count(model)
    if options.max_features is None:
        budget = random_budget(groups)
    else:
        budget = validation.integer("max_features", options.max_features, 1, groups)
    seed = np.random.SeedSequence([validation.integer("seed", options.seed, 0), first])
    domain = domain_of(model, options.domain, dtype=x.dtype)
    low, high = domain.allowed.argmax(axis=1), 255 - domain.allowed[:, ::-1].argmax(axis=1)
    reached = domain.free
    if features is not None:
        reached = reached | ~features
        budget = min(budget, len(np.unique(model.groups[features])))
    if not reached.all():
        raise OptionError(
            f"no code between `low` and `high` can be written into feature {reached.argmin()}; "
            "widen the domain"
        )
    codes = model.encode(x)
    nearest = domain_of(model, dtype=x.dtype).nearest().astype(np.uint8)
    columns = np.arange(codes.shape[1])
    of_codes = replace(model, grid=None, columns=None)
    found = random_search(
        lambda batch: -of_codes.class_distance(nearest[columns, batch]),
        codes, budget, options.queries, int(seed.generate_state(1)[0]), (low, high),
        model.groups, features,
    )  # fmt: skip
    written = nearest[columns, found.x_adv]
    changed = groups_changed(codes, written, model.groups)
    x_adv = domain.decode(x, codes, written)
    changed = np.where(found.changed >= 0, changed, -1).astype(np.int32)
    return AttackResult(x_adv, changed, model.predict(x_adv))
