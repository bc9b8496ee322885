"""Train a model on a dataset or arrays: split, bin, run epochs, checkpoint, save the best."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.protocol import Backend
from boxnn_numba.columns import category_places
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.checkpoint import Checkpoint
from boxnn_numba.data.model_store import FORMAT as MODEL_FORMAT
from boxnn_numba.data.model_store import write_model
from boxnn_numba.data.paths import Location, Name
from boxnn_numba.data.run_log import RunLog, open_log
from boxnn_numba.errors import OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.cluster.executor import connect, keep_on_interrupt
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.pipelines.training.cluster_trainer import (
    StepStatistics,
    training_on,
)
from boxnn_numba.pipelines.training.dataset_loader import (
    is_name,
    training_source,
)
from boxnn_numba.progress import Progress
from boxnn_numba.training.data import TrainingData
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions, default_preset, resolve
from boxnn_numba.training.result import members_of, outcome_of, trained_model
from boxnn_numba.training.run import EpochRecord, Training
from boxnn_numba.training.search import Chosen, Trial, check_radii, search, training_warnings
from boxnn_numba.training.trainer import MakeTrainer
from boxnn_numba.training.weights import class_weight_text

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class TrainedModel(Result):
    """A trained model: its file, options and figures.

    Attributes
    ----------
    model, preset
        Path of the model, and the preset of its options.
    boxes, epochs, seed
        Values of these options.
    best_epoch
        The epoch whose boxes were kept; 0 is before the first.
    validation
        Figures on the validation split, with class offsets; None for figures not measured.
    seconds_per_epoch, seconds
        The median over the epochs, and the time of this call.
    warnings
        Sentences on classes that are hardly predicted.
    members
        Sets of boxes.
    cluster
        How the time of a cluster was spent; None for a run in this process.
    search
        For preset ``"auto"``: the chosen options, their certified accuracy in per cent at some
        radii on held-out rows, and whether weights count in it. None for other presets.
    """

    model: str
    preset: str
    boxes: int
    epochs: int
    seed: int
    best_epoch: int
    validation: dict[str, Any]
    seconds_per_epoch: float
    seconds: float
    warnings: list[str]
    members: int = 1
    cluster: StepStatistics | None = None
    search: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        out: Name,
        preset: str,
        options: TrainingOptions,
        runs: Sequence[Training],
        model: BoxNN,
        began: float,
        trial: Trial | None,
    ) -> TrainedModel:
        """Return what runs have made of a model since `began`, of the performance counter."""
        best = outcome_of(runs, model)
        return cls(
            str(out),
            preset,
            options.boxes,
            options.epochs,
            options.seed,
            runs[0].best_epoch,
            best.as_dict(),
            float(np.median([record.seconds for each in runs for record in each.history])),
            time.perf_counter() - began,
            training_warnings(best, model.classes, trial),
            options.members,
            StepStatistics.of([each.trainer for each in runs]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values; ``cluster`` only where there was one."""
        cluster = {} if self.cluster is None else {"cluster": asdict(self.cluster)}
        return {**super().as_dict(), **cluster}


def train(
    data: Any,
    out: Name,
    options: TrainingOptions | None = None,
    *,
    y: Any = None,
    sample_weight: ArrayLike | None = None,
    preset: str | None = None,
    effort: float = 1.0,
    radii: Sequence[int] | None = None,
    checkpoint_seconds: float = 60.0,
    run: RunOptions = DEFAULT_RUN,
    client: Client | None = None,
    **given: Any,
) -> TrainedModel:
    """Train on a dataset, or on arrays of any size, and write the model.

    Parameters
    ----------
    data
        A dataset made by ``boxnn data ingest``, or its URL; only the training split is read. Or
        (N, ...) samples: a NumPy array, a table, a memory map, a Zarr array, a Dask array or frame,
        or an xarray array over one of these, see `boxnn_numba.training.data.Arrays`. The
        same rows give the same model.
    out
        Where the model goes: a directory, or one file if it ends in ``.zip``; or its
        URL.
    options
        All settings of the run; or leave them to `preset` and `given`.
    y
        (N,) labels of samples, integers or strings, in an array of any of these kinds.
    sample_weight
        (N,) numbers >= 0, how much each sample counts, or each training row of a dataset.
    preset
        As for `boxnn_numba.fit`: ``"auto"``, the default for tables, ``"graded"``, the default for
        images, ``"accurate"``, ``"target"`` or ``"paper"``. With `options` it is only recorded.
    effort
        Factor of the training steps of the search of preset ``"auto"``, and so of its time.
    radii
        Radii that the search compares, as for `boxnn_numba.training.search.search`.
    checkpoint_seconds
        Save the state of the run after so many seconds, and after every epoch.
    run
        Where and how to run. A resumed run, on the same data, and a run on a cluster give the same
        model, bit for bit.
    client
        A `distributed.Client` whose workers process samples, in place of one in `run`. The search
        of preset ``"auto"``, and additive boxes if it chooses them, are computed in this process.
    **given
        Fields of `boxnn_numba.training.options.TrainingOptions` that differ from those of the
        preset: ``boxes``, ``epochs``, ``radius``, ``seed``, ...

    Returns
    -------
    TrainedModel

    Raises
    ------
    BoxNNError
        Bad data or options, a diverged run, or an output that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from boxnn_numba.pipelines import train
    >>> y = np.arange(200) % 2
    >>> x = np.random.default_rng(0).normal(0, 1, (200, 30)) + 3 * y[:, None]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = train(x, f"{folder}/model", y=y, preset="graded", boxes=8, epochs=2)
    >>> found.validation["accuracy"] > 0.9
    True
    """
    began = time.perf_counter()
    run = run.using(client)
    _check_options(options, preset, given, radii)
    # Settled before the cluster starts, which limits the threads of its workers' environment.
    threads = get_backend(run.device if run.local else "cpu", run.threads).threads
    source, weights = training_source(data, y, sample_weight)
    name = "model.zip" if str(out).endswith(".zip") else "model"
    paths = [data] if is_name(data) else []
    with (
        staged_output(out, **run.writing, resumable=True, result=name, inputs=paths) as partial,
        nullcontext() if run.client is None else run.client.as_current(),
        source(run.progress) as found,
    ):  # fmt: skip
        searched = options is None
        if options is None:
            preset = preset or default_preset(found.kind)
            check_radii(preset, radii, found.rows.n_features)
            options = resolve(preset, given, found.kind)
        preset = preset or "graded"
        feed, grid = found.feed(options, threads=threads, sample_weight=weights)
        trial, known = None, _known(found, weights)
        if searched and preset == "auto":
            how = {"effort": effort, "radii": radii, "threads": threads}
            options, trial = _searched(feed, found, given, run, how)
        with (
            connect(run.cluster, threads, device=run.device, client=run.client) as executor,
            _log(out, options, preset, found, len(feed), run) as log,
        ):
            if executor.dashboard:
                run.progress.note(f"dashboard: {executor.dashboard}")
            machine = training_on(executor, run.device, threads)
            runs = []
            for number, member in enumerate(members_of(options)):
                about = {**_about(member, trial), **known}
                checkpoint = Checkpoint(partial, about, checkpoint_seconds, number)
                runs.append(_begun(member, replace(feed, seed=member.seed), found, grid, machine))
                _run_epochs(runs[-1], partial, checkpoint, run.progress, log, number)
        model = trained_model(
            runs, found.classes, grid, found.feature_shape,
            {"preset": preset, **found.provenance}, found.columns,
        )  # fmt: skip
        write_model(model, partial / name, single=name == "model.zip")
        made = TrainedModel.of(out, preset, options, runs, model, began, trial)
        return made if trial is None else replace(made, search=_told(trial, feed))


def _about(options: TrainingOptions, trial: Trial | None) -> dict[str, Any]:
    """Return the values that identify an unfinished run; radii first, which decide options."""
    radii = None if trial is None else [*trial.radii]
    return {"radii": radii, **options.as_dict()}


def _known(found: TrainingData, weights: np.ndarray | None) -> dict[str, str | None]:
    """Return the values that identify rows and weights, the same for all members."""
    of_weights = None
    if weights is not None:
        of_weights = hashlib.sha256(weights.astype("<f8").tobytes()).hexdigest()
    digest = found.provenance["dataset_digest"]
    return {"dataset digest": digest, "digest of sample_weight": of_weights}


def _check_options(
    options: TrainingOptions | None,
    preset: str | None,
    given: dict[str, Any],
    radii: Sequence[int] | None,
) -> None:
    """Raise where options are given twice, or are wrong for any data; weights become a text."""
    if options is not None and given:
        raise OptionError(
            f"`{next(iter(given))}` is passed beside `options`; put it into them, or leave "
            "`options` out"
        )
    if options is not None and radii is not None:
        raise OptionError(
            "`radii` is passed beside `options`, which are not searched; leave one of them out"
        )
    if "class_weight" in given:
        given["class_weight"] = class_weight_text(given["class_weight"])
    check_radii(preset or "auto", radii)
    if options is None:
        resolve(preset or "graded", given)


def _searched(
    feed: Feed,
    found: TrainingData,
    given: Mapping[str, Any],
    run: RunOptions,
    how: Mapping[str, Any],
) -> Chosen:
    def tell(trial: Trial) -> None:
        run.progress.note(f"tried {trial}")

    if not run.local:
        run.progress.note("options are searched in this process")
    settled = {name: value for name, value in given.items() if value is not None}
    categories = category_places(found.columns)
    chosen = search(feed, len(found.classes), settled, categories=categories, on_trial=tell, **how)
    if not run.local and chosen.options.relaxation == "additive":
        run.progress.note("additive boxes were chosen, which are trained in this process")
    return chosen


def _told(trial: Trial, feed: Feed) -> dict[str, Any]:
    return {
        "chosen": str(trial),
        "radii": list(trial.radii),
        "certified_accuracy": [100 * share for share in trial.accuracy],
        "weighted": feed.weights is not None,
    }


def _begun(
    options: TrainingOptions,
    feed: Feed,
    found: TrainingData,
    grid: Grid | None,
    machine: tuple[Backend, MakeTrainer],
) -> Training:
    backend, make = machine
    return Training(
        options, feed, len(found.classes), backend, make_trainer=make,
        feature_shape=found.feature_shape, codes=grid is None,
    )  # fmt: skip


def _log(
    out: Name,
    options: TrainingOptions,
    preset: str,
    found: TrainingData,
    rows: int,
    run: RunOptions,
) -> AbstractContextManager[RunLog]:
    about = {
        "result": MODEL_FORMAT,
        "dataset": found.provenance["dataset"],
        "dataset_digest": found.provenance["dataset_digest"],
        "rows": rows,
        "preset": preset,
        "seed": options.seed,
        "options": options.as_dict(),
    }
    return open_log(run.log, about, apart_from=out, **run.writing)


def _line(number: int, record: EpochRecord, rows: int) -> dict[str, Any]:
    """Return the line of an epoch; what it says is in the checkpoint, too."""
    speed = rows / record.seconds if record.seconds else None
    return {"member": number, **record.as_dict(), "samples_per_second": speed}


def _run_epochs(
    training: Training,
    folder: Location,
    checkpoint: Checkpoint,
    progress: Progress,
    log: RunLog,
    number: int,
) -> None:
    def save_if_old() -> None:
        if checkpoint.is_old:
            checkpoint.save(*training.state())

    found = checkpoint.restore()
    if found is not None:
        training.restore(*found)
    log.replace(
        [line for line in log.lines if line["member"] < number]
        + [_line(number, record, training.n_rows) for record in training.history]
        + [line for line in log.lines if line["member"] > number]
    )
    epochs = training.options.epochs
    progress.start(epochs * training.n_rows, "samples")
    progress.advance(training.samples_done)
    with keep_on_interrupt(lambda: training.epoch, f"{epochs} epochs", folder):
        while training.epoch < epochs:
            record = training.run_epoch(progress, save_if_old)
            checkpoint.save(*training.state())
            log.add(_line(number, record, training.n_rows))
            progress.note(
                f"epoch {record.epoch}/{epochs}  accuracy {100 * record.accuracy:.1f}%  "
                f"median radius {record.median_certified_radius}  "
                f"mean radius {record.mean_certified_radius:.2f}  (validation)"
            )
