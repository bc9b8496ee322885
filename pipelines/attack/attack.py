"""Attack the samples of a split, and hold what is found against the certificate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.attacks import AttackResult, greedy_attack, random_search
from boxnn_numba.attacks.domain import Domain, domain_of
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.attack_store import AttackWriter, open_attack
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_model, model_digest
from boxnn_numba.data.paths import Location, Name, location
from boxnn_numba.data.row_files import spread_rows
from boxnn_numba.data.zarr_format import array_digest
from boxnn_numba.errors import OptionError
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.attack.sandwich import check_sound, keep_counterexample, standing
from boxnn_numba.pipelines.certification.chunked import (
    check_match,
    class_positions,
    count_rows,
    origin,
    shape_of,
)
from boxnn_numba.pipelines.cluster.executor import keep_on_interrupt
from boxnn_numba.rivals import group_count, groups_changed, need_two_classes

METHODS = ("greedy", "random")
#: Samples that are attacked and written at a time.
CHUNK_ROWS = 128
#: Share of the groups that a random search may change by default.
_RANDOM_SHARE = 10


@dataclass(frozen=True)
class AttackOptions:
    """How samples are attacked.

    Attributes
    ----------
    method
        ``"greedy"`` (white box) or ``"random"`` (black box).
    max_features
        Most features (or groups) to change; any number for the greedy attack, a tenth of all
        for the random one by default.
    low, high
        Least and largest code that is written.
    features
        Path of a ``.npy`` file of (n,) bool, features that may change; None for all.
    rivals, tries
        Of `greedy_attack`.
    queries
        Of `random_search`.
    seed
        Of both.
    """

    method: str = "greedy"
    max_features: int | None = None
    low: int = 0
    high: int = 255
    features: str | None = None
    rivals: int = 16
    tries: int = 32
    queries: int = 1000
    seed: int = 0


def attack(
    model: Name,
    data: Name,
    out: Name,
    options: AttackOptions | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    radii: Sequence[int] = (0, 4, 8, 12, 16, 20, 24, 28),
    threads: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
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
        How; the greedy attack by default.
    split
        ``"test"`` or ``"train"``.
    limit
        Attack only this many rows, ``(arange(limit) * total) // limit``.
    radii
        Of the summary.
    threads
        Threads to use; all cores by default.
    overwrite, resume
        Replace what is at `out`; continue a run that was stopped.
    progress
        Optional object with ``start(total, unit)`` and ``advance(n)``.

    Returns
    -------
    dict
        ``n``, ``found`` (percent), ``meets`` (percent of samples for which the smallest attack is
        the certified radius plus one), ``mean_changed``, ``accuracy``, and under
        ``radii``, radius as string, ``robust_accuracy`` under attack, ``certified_accuracy``
        and their ``gap`` (percent); ``seconds``.

    Raises
    ------
    UnsoundError
        An attack succeeded within a certified radius; the input is kept beside `out`.
    BoxNNError
        Bad model, data or option, or an output that cannot be written.
    """
    began = time.perf_counter()
    chosen = options or AttackOptions()
    get_backend("cpu", threads)
    validation.choice("method", chosen.method, METHODS)
    validation.radii(radii)
    classifier, dataset = load_model(model), open_dataset(data)
    count = count_rows(dataset, data, split, limit)
    check_match(model, classifier.boxes.n_features, classifier.grid is None, dataset, data)
    need_two_classes(classifier)
    rows = spread_rows(np.arange(count), count, dataset.n_rows(split))
    job = _Job(
        classifier, dataset, split, rows, chosen, _mask(chosen.features), location(out)
    )  # fmt: skip
    job.attack(rows[:0])  # options are checked before anything is written
    attributes = _attributes(job, model, data)
    staged = staged_output(
        out, overwrite=overwrite, resume=resume, resumable=True, inputs=[model, data]
    )
    with staged as partial, limit_threads(threads):
        dtype = np.dtype(np.uint8 if dataset.is_codes else np.float32)
        writer = AttackWriter(
            partial, attributes, (count, classifier.boxes.n_features), dtype, CHUNK_ROWS
        )
        _run(job, writer, partial, progress)
        writer.finish(time.perf_counter() - began)
    return {
        "attack": str(out),
        "method": chosen.method,
        "split": split,
        "n": count,
        **_summary(out, job, radii),
        "seconds": time.perf_counter() - began,
    }


def _run(job: _Job, writer: AttackWriter, folder: Location, progress: Any) -> None:
    starts = range(0, len(job.rows), CHUNK_ROWS)
    todo = writer.unfinished()
    sizes = [min(CHUNK_ROWS, len(job.rows) - start) for start in starts]
    if progress is not None:
        progress.start(len(job.rows), "samples")
        progress.advance(len(job.rows) - sum(sizes[index] for index in todo))
    with keep_on_interrupt(
        lambda: len(starts) - len(writer.unfinished()), f"{len(starts)} chunks", folder
    ):
        for index in todo:
            rows = job.rows[starts[index] : starts[index] + CHUNK_ROWS]
            writer.write(index, *job.attack(rows))
            if progress is not None:
                progress.advance(sizes[index])


@dataclass(frozen=True, eq=False)
class _Job:
    model: BoxNN
    dataset: Dataset
    split: str
    rows: np.ndarray
    options: AttackOptions
    features: np.ndarray | None
    out: Location

    def attack(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Attack some rows; return what an attack file holds of them."""
        model = self.model
        if len(rows) == 0:
            x = np.zeros((1, model.boxes.n_features), np.float32 if model.grid else np.uint8)
            self._found(x, np.zeros(1, np.int64))
            return ()
        x, y = self.dataset.read_rows(self.split, rows)
        found = self._found(x, rows)
        before, radius = model.radii(model.class_distance(x))
        index = model.class_distance(found.x_adv).argmin(axis=1)
        check_sound(
            rows, found.changed, index == before, radius,
            lambda at: keep_counterexample(self.out, x[at], found.x_adv[at], int(rows[at])),
        )  # fmt: skip
        label = class_positions(model.classes, self.dataset)[y]
        return found.x_adv, found.changed, index, label, rows

    def _found(self, x: np.ndarray, rows: np.ndarray) -> AttackResult:
        options, model = self.options, self.model
        if options.method == "greedy":
            return greedy_attack(
                model, x, max_features=options.max_features, domain=(options.low, options.high),
                features=self.features, rivals=options.rivals, tries=options.tries,
                seed=options.seed,
            )  # fmt: skip
        return _random(model, x, options, self.features, int(rows[0]))


def _mask(path: str | None) -> np.ndarray | None:
    if path is None:
        return None
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(
            f"--features {path} is not a readable .npy file; save (n,) booleans with np.save"
        ) from error


def random_budget(groups: int) -> int:
    """Return how many groups a random search may change where nothing else is asked for."""
    return max(1, groups // _RANDOM_SHARE)


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
    domain = domain_of(model, (options.low, options.high), dtype=x.dtype)
    low, high = domain.up()[:, options.low], domain.down()[:, options.high]
    reached = domain.free
    if features is not None:
        may = validation.mask("features", features, len(reached))
        reached = reached | ~may
        starts = np.arange(0, len(may), model.group_size)
        budget = min(budget, int(np.logical_or.reduceat(may, starts).sum()))
    if not reached.all():
        raise OptionError(
            f"no code in {options.low}..{options.high} can be written into feature "
            f"{reached.argmin()}; widen the domain"
        )
    codes = model.encode(x)
    nearest = _nearest(domain_of(model, dtype=x.dtype))
    columns = np.arange(codes.shape[1])
    of_codes = replace(model, grid=None)
    found = random_search(
        lambda batch: -of_codes.class_distance(nearest[columns, batch]),
        codes, budget, options.queries, int(seed.generate_state(1)[0]), (low, high),
        model.group_size, features,
    )  # fmt: skip
    written = nearest[columns, found.x_adv]
    changed = groups_changed(codes, written, model.group_size)
    x_adv = domain.decode(x, codes, written)
    changed = np.where(found.changed >= 0, changed, -1).astype(np.int32)
    return AttackResult(x_adv, changed, model.predict(x_adv))


def _nearest(domain: Domain) -> np.ndarray:
    """(n, 256) uint8, the code that can be written that is nearest to each."""
    up, down = domain.up().astype(np.int32), domain.down().astype(np.int32)
    codes = np.arange(256)
    above = np.where(up < 0, 512, up - codes)
    below = np.where(down < 0, 512, codes - down)
    return np.where(above <= below, up, down).astype(np.uint8)


def _attributes(job: _Job, model: Name, data: Name) -> dict[str, Any]:
    classifier, dataset = job.model, job.dataset
    return {
        "limit": None,
        **origin(model, model_digest(classifier), dataset, data, job.split, len(job.rows)),
        **shape_of(classifier),
        "options": asdict(job.options),
        **({} if job.features is None else {"features_digest": array_digest(job.features)}),
    }


def _summary(out: Name, job: _Job, radii: Sequence[int]) -> dict[str, Any]:
    """Return how accuracy stands under attack, beside what is certified of the same samples."""
    file = open_attack(out)
    outcomes = []
    for start in range(0, len(job.rows), CHUNK_ROWS):
        x, _ = job.dataset.read_rows(job.split, job.rows[start : start + CHUNK_ROWS])
        distance = job.model.class_distance(x)
        outcomes.append(job.model.radii(distance))
    prediction, radius = (np.concatenate(part) for part in zip(*outcomes, strict=True))
    return standing(prediction, radius, file.label, file.changed, radii)
