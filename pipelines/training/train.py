"""Train a model on a dataset: split, bin, run the epochs, checkpoint, save the best boxes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.protocol import Backend
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.checkpoint import Checkpoint
from boxnn_numba.data.dataset import Dataset
from boxnn_numba.data.model_store import FORMAT as MODEL_FORMAT
from boxnn_numba.data.model_store import write_model
from boxnn_numba.data.paths import Location, Name
from boxnn_numba.data.run_log import RunLog
from boxnn_numba.grid import Grid
from boxnn_numba.pipelines.cluster.executor import connect, keep_on_interrupt
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.pipelines.training.cluster_trainer import (
    StepStatistics,
    training_on,
)
from boxnn_numba.pipelines.training.dataset_loader import (
    dataset_feed,
    dataset_provenance,
    training_dataset,
)
from boxnn_numba.progress import Progress
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions, resolve
from boxnn_numba.training.result import (
    members_of,
    outcome_of,
    trained_model,
    training_warnings,
)
from boxnn_numba.training.run import EpochRecord, Training
from boxnn_numba.training.search import Chosen, Trial, search
from boxnn_numba.training.trainer import MakeTrainer

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class TrainedModel(Result):
    """What was trained.

    Attributes
    ----------
    model, preset
        Where it is, and the preset that its options came from.
    boxes, epochs, seed
        Of its options.
    best_epoch
        The epoch whose boxes were kept; 0 is before the first.
    validation
        Its figures on the validation split, with class offsets, None for what was not measured.
    seconds_per_epoch, seconds
        The median over the epochs, and the time of this call.
    warnings
        Sentences on classes that are hardly predicted.
    cluster
        Where the time went on a cluster; None for a run in this process.
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
    cluster: StepStatistics | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values; ``cluster`` only where there was one."""
        cluster = {} if self.cluster is None else {"cluster": asdict(self.cluster)}
        return {**super().as_dict(), **cluster}


def train(
    data: Name,
    out: Name,
    options: TrainingOptions,
    *,
    preset: str = "graded",
    checkpoint_seconds: float = 60.0,
    run: RunOptions = DEFAULT_RUN,
    client: Client | None = None,
) -> TrainedModel:
    """Train on the training split of a dataset and write the model.

    Parameters
    ----------
    data
        A dataset made by ``boxnn data ingest``, or its URL. Its test split is not read.
    out
        Where the model goes: a directory, or one file if it ends in ``.zip``; or its
        URL.
    options, preset
        Settings of the run, and the preset they came from (recorded only).
    checkpoint_seconds
        Save the state of the run when it is this old, and after every epoch.
    run
        Where and how to run. A run that was stopped is resumed, and samples are looked at on a
        cluster, to the same model, bit for bit.
    client
        A `distributed.Client` whose workers look at samples, in place of one in `run`.

    Returns
    -------
    TrainedModel

    Raises
    ------
    BoxNNError
        Bad data or options, a diverged run, or an output that cannot be written.
    """
    began = time.perf_counter()
    run = run.using(client)
    # Settled before the cluster starts, which limits the threads of its workers' environment.
    threads = get_backend(run.device if run.local else "cpu", run.threads).threads
    dataset = training_dataset(data)
    name = "model.zip" if str(out).endswith(".zip") else "model"
    with staged_output(
        out, overwrite=run.overwrite, resume=run.resume, resumable=True, result=name, inputs=[data]
    ) as partial:
        feed, grid = dataset_feed(dataset, options, threads=threads)
        with connect(run.cluster, threads, device=run.device, client=run.client) as executor:
            if executor.dashboard:
                run.progress.note(f"dashboard: {executor.dashboard}")
            machine = training_on(executor, run.device, threads)
            runs, log = [], _log(out, options, preset, dataset, len(feed), run)
            for number, member in enumerate(members_of(options)):
                about = {**member.as_dict(), "dataset digest": dataset.digest}
                checkpoint = Checkpoint(partial, about, checkpoint_seconds, number)
                runs.append(_begun(member, replace(feed, seed=member.seed), dataset, grid, machine))
                _run_epochs(runs[-1], partial, checkpoint, run.progress, log, number)
        model = trained_model(
            runs, dataset.classes, grid, dataset.feature_shape,
            {"preset": preset, **dataset_provenance(dataset)}, dataset.columns,
        )  # fmt: skip
        write_model(model, partial / name, single=name == "model.zip")
    best = outcome_of(runs)
    return TrainedModel(
        str(out),
        preset,
        options.boxes,
        options.epochs,
        options.seed,
        runs[0].best_epoch,
        {
            key: None if value != value else value
            for key, value in best._asdict().items()
            if key != "recall"
        },
        float(np.median([record.seconds for each in runs for record in each.history])),
        time.perf_counter() - began,
        training_warnings(best, dataset.classes),
        StepStatistics.of([each.trainer for each in runs]),
    )


def choose(
    data: Name,
    given: Mapping[str, Any],
    *,
    effort: float = 1.0,
    run: RunOptions = DEFAULT_RUN,
) -> Chosen:
    """Choose the options of preset ``"auto"`` for a table, see `boxnn_numba.training.search`.

    Parameters
    ----------
    data
        A dataset made by ``boxnn data ingest``, or its URL. Its test split is not read.
    given
        Options that are settled, by name; None for one that is not.
    effort
        Factor of what the search costs.
    run
        Threads, and what is told of every trial; the search runs in this process.

    Raises
    ------
    BoxNNError
        Bad data or options.
    """
    dataset = training_dataset(data)
    settled = {name: value for name, value in given.items() if value is not None}
    settings = resolve("auto", settled, dataset.kind)
    threads = get_backend("cpu", run.threads).threads
    feed, _ = dataset_feed(dataset, settings, threads=threads)

    def tell(trial: Trial) -> None:
        run.progress.note(f"tried {trial}")

    return search(
        feed, len(dataset.classes), settled, effort=effort, threads=threads, on_trial=tell
    )


def _begun(
    options: TrainingOptions,
    feed: Feed,
    dataset: Dataset,
    grid: Grid | None,
    machine: tuple[Backend, MakeTrainer],
) -> Training:
    backend, make = machine
    return Training(
        options, feed, len(dataset.classes), backend, make_trainer=make,
        feature_shape=dataset.feature_shape, codes=grid is None,
    )  # fmt: skip


def _log(
    out: Name, options: TrainingOptions, preset: str, dataset: Dataset, rows: int, run: RunOptions
) -> RunLog:
    about = {
        "result": MODEL_FORMAT,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "rows": rows,
        "preset": preset,
        "seed": options.seed,
        "options": options.as_dict(),
    }
    return RunLog(run.log, about, overwrite=run.overwrite, resume=run.resume, apart_from=out)


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
