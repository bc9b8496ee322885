"""Verification of files: digests, ranges, and recomputed claims of certificates and attacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.adversary import Adversary, differing_groups
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.certificates.margin import BOX_NN
from boxnn_numba.data import dataset, model_store
from boxnn_numba.data.attack_store import AttackFile
from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.data.paths import Name
from boxnn_numba.data.row_files import RowFile
from boxnn_numba.data.zarr_format import format_of
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines.certification.baselines import BaselineWorker, Sampling
from boxnn_numba.pipelines.certification.certify import BoxWorker
from boxnn_numba.pipelines.chunks import Subject, label_positions
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

#: Rows that are computed at a time; exact certificates may take long for each.
_ROWS = 256
#: Least seconds for an exact radius that was not proven in the time that the file says.
_PATIENCE = 60.0
#: Columns of a certificate that bound a true value from below, and from above.
_BOUNDS = (("radius", "upper"), ("budget", "budget_upper"))


@dataclass(frozen=True)
class Verified(Result):
    """The result of checking a file.

    Attributes
    ----------
    path, kind
        The file, and what it is: ``"dataset"``, ``"model"``, ``"baseline"``, ``"certificate"`` or
        ``"attack"``.
    digest
        Digest of its content; None for a damaged dataset.
    sound
        Whether no problem was found.
    problems
        The problems, a line for each.
    rows, recomputed
        For certificates and attacks, the number of rows, and of rows whose claims were recomputed.
    """

    path: str
    kind: str
    digest: str | None
    sound: bool
    problems: list[str]
    rows: int | None = None
    recomputed: int | None = None


def verify(
    path: Name,
    model: Name | None = None,
    data: Name | None = None,
    *,
    sample: int | None = None,
    run: RunOptions = DEFAULT_RUN,
) -> Verified:
    """Check a dataset, a model, a certificate or an attack; the file says which of them it is.

    All of it is compared with its digests and with the rules of its format. For a certificate or an
    attack, rows are recomputed if the model and the data are given.

    Parameters
    ----------
    path
        The file.
    model, data
        The model and the dataset that a certificate or an attack is of; both or none.
    sample
        How many rows are computed anew, chosen at random; all by default.
    run
        How to run; on the CPU, in this process.

    Returns
    -------
    Verified
        What does not hold is in it.

    Raises
    ------
    BoxNNError
        A file cannot be read at all, is damaged, or claims what is impossible.
    OptionError
        `model` or `data` are of something else, or are not for such a file.
    """
    run.need_cpu("checks")
    kind = format_of(path)
    row_files: dict[str, type[RowFile]] = {
        one.schema.format: one for one in (CertificateFile, AttackFile)
    }
    if (model is None) != (data is None) or (sample is not None and model is None):
        raise OptionError("`model`, `data` and `sample` go together: pass the first two")
    if kind in row_files:
        file = row_files[kind].open(path)
        with limit_threads(run.threads):
            return _of_rows(file, path, model, data, sample, run)
    if model is not None:
        raise OptionError(f"{path} is no certificate nor attack; leave out `model` and `data`")
    noun = kind.removeprefix("boxnn-")
    if kind == dataset.FORMAT:
        problems = dataset.verify_dataset(path)
        digest = None if problems else dataset.open_dataset(path).digest
        return Verified(str(path), noun, digest, not problems, problems)
    loads: dict[str, Any] = {
        model_store.FORMAT: model_store.load_model,
        model_store.BASELINE_FORMAT: model_store.load_baseline,
    }
    if kind not in loads:
        raise DataError(
            f"{path} is {kind}; pass a dataset, a model, a certificate or an attack made by boxnn"
        )
    return Verified(str(path), noun, model_store.model_digest(loads[kind](path)), True, [])


def _of_rows(
    file: RowFile,
    path: Name,
    model: Name | None,
    data: Name | None,
    sample: int | None,
    run: RunOptions,
) -> Verified:
    """Verify a certificate or an attack, which was read."""
    noun, total = file.schema.noun, len(file)
    digest = str(file.attributes["digest"])
    if model is None or data is None:
        return Verified(str(path), noun, digest, True, [], total, 0)
    count = total if sample is None else validation.integer("sample", sample, 1, total)
    # Nobody who makes a file foresees which.
    places = np.sort(np.random.default_rng().choice(total, count, replace=False))
    subject = _subject(file, model, data)
    check = _attack_problems if isinstance(file, AttackFile) else _certificate_problems
    problems: list[str] = []
    run.progress.start(count, "samples")
    for start in range(0, count, _ROWS):
        some = places[start : start + _ROWS]
        problems += check(file, subject, some)
        run.progress.advance(len(some))
    return Verified(str(path), noun, digest, not problems, problems, total, count)


def _subject(file: RowFile, model: Name, data: Name) -> Subject:
    """Return the model and the rows that a file is of; raise if they are others."""
    said = file.attributes
    boxes = said.get("method", BOX_NN) == BOX_NN
    load = model_store.load_model if boxes else model_store.load_baseline
    subject = Subject.open(load, model, data, said["split"], said.get("limit"))
    # Where they are, and what they are called, may have changed.
    names = {"model", "dataset", "dataset_name", "limit", "id", "columns"}
    for name, value in subject.attributes().items():
        if name not in names and said.get(name) != value:
            raise OptionError(
                f"{file.path} is of another {name} than {model} and {data} have; pass the model "
                "and the dataset that it was made of"
            )
    if subject.n_rows != len(file):
        raise OptionError(f"{file.path} has {len(file)} rows and {data} {subject.n_rows}")
    return subject


def _worker(file: CertificateFile) -> BoxWorker | BaselineWorker:
    """Return the worker that computes a certificate again."""
    said = file.attributes
    if file.method == BOX_NN:
        patch = tuple((rows, columns) for rows, columns in said.get("patch", ()))
        free, costs = (
            tuple(said[name]) if name in said else None for name in ("attackable", "costs")
        )
        limit = float(said.get("time_limit", 60.0))
        return BoxWorker(file.certificate, limit, "cpu", None, patch, free, costs)
    known = {item.name: said[item.name] for item in fields(Sampling) if said.get(item.name)}
    return BaselineWorker(file.certificate, said.get("alpha", 0.05), Sampling(**known), "cpu", None)


def _certificate_problems(file: Any, subject: Subject, places: np.ndarray) -> Iterator[str]:
    """Report rows of a certificate that differ from those of the model and the data."""
    rows = file.row[places]
    x, y = subject.dataset.read_rows(subject.split, rows)
    worker = _worker(file)
    found = worker.compute(subject.stored, x, rows)
    if isinstance(worker, BoxWorker) and (again := _unproven(file, found, places)).any():
        # A forger chooses the file's limit, and one that is too short settles nothing.
        worker = replace(worker, time_limit=max(_PATIENCE, worker.time_limit))
        for name, values in worker.compute(subject.stored, x[again], rows[again]).items():
            found[name][again] = values
    found["label"] = label_positions(subject.stored, subject.dataset)[y]
    stored = {name: np.asarray(getattr(file, name))[places] for name in found}
    bounded = {low: high for low, high in _BOUNDS if high in found}
    for low, high in bounded.items():
        # Bounds that the time cut short differ; what they enclose is one value.
        wrong = (stored[low] > found[high]) | (found[low] > stored[high])
        yield from _differ(f"{low}..{high}", rows, wrong)
        if not wrong.any() and (more := stored[low] > found[low]).any():
            first = rows[more.argmax()]
            yield f"{low} could not be proven again in {more.sum()} rows, row {first} first"
    for name in found.keys() - bounded.keys() - set(bounded.values()):
        wrong = stored[name] != found[name]
        yield from _differ(name, rows, wrong if wrong.ndim == 1 else wrong.any(axis=1))


def _unproven(file: Any, found: dict[str, np.ndarray], places: np.ndarray) -> np.ndarray:
    """Return where a file claims more than its time sufficed to prove again."""
    more = np.zeros(len(places), bool)
    for low, high in _BOUNDS:
        if high in found:
            more |= np.asarray(getattr(file, low))[places] > found[low]
    return more


def _attack_problems(file: Any, subject: Subject, places: np.ndarray) -> Iterator[str]:
    """Report rows of an attack whose claims do not hold."""
    model, rows = subject.stored, file.row[places]
    x, y = subject.dataset.read_rows(subject.split, rows)
    made, changed = file.x[places], file.changed[places]
    codes, after = model.encode(x), model.encode(made)
    differ = differing_groups(codes, after, model.groups)
    index = model.class_distance(made).argmin(axis=1)
    before = model.class_distance(x).argmin(axis=1)
    free = Adversary.of_file(model, file.attributes).free
    missed = changed < 0
    yield from _differ(
        "label", rows, file.label[places] != label_positions(model, subject.dataset)[y]
    )
    yield from _differ("prediction", rows, file.prediction[places] != index)
    yield from _differ("changed", rows, np.where(missed, 0, changed) != differ.sum(axis=1))
    yield from _differ("prediction, which did not change,", rows, ~missed & (index == before))
    yield from _differ("x, where nothing may be rewritten,", rows, (differ & ~free).any(axis=1))


def _differ(name: str, rows: np.ndarray, wrong: np.ndarray) -> Iterator[str]:
    """Report the number of rows in which an array differs from the computed one, and the first."""
    if wrong.any():
        first = rows[wrong.argmax()]
        yield f"{name} is not what is computed in {wrong.sum()} rows, row {first} first"
