"""Train a model on a dataset: split, bin, run the epochs, checkpoint, save the best boxes."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_checkpoint, save_checkpoint, write_model
from boxnn_numba.data.paths import Location, Name, exists
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.model import trained_model, training_warnings
from boxnn_numba.pipelines.cluster.connection import check_options
from boxnn_numba.pipelines.cluster.executor import connect, keep_on_interrupt
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions
from boxnn_numba.pipelines.training.cluster_trainer import ClusterBackend, training_backend
from boxnn_numba.pipelines.training.dataset_loader import dataset_feed
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.run import Training

_CHECKPOINT = "checkpoint.npz"


def train(
    data: Name,
    out: Name,
    options: TrainingOptions,
    *,
    preset: str = "graded",
    overwrite: bool = False,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    cluster: ClusterOptions = IN_PROCESS,
    checkpoint_seconds: float = 60.0,
    progress: Any = None,
) -> dict[str, Any]:
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
    overwrite, resume
        Replace what is at `out`; continue a run that was stopped, to the same bits.
    device, threads
        As for `get_backend`. On a cluster, ``"cuda"`` is for the workers, which need a GPU each.
    cluster
        Where samples are looked at; in this process by default. The model is the same, bit for
        bit.
    checkpoint_seconds
        Save the state of the run when it is this old, and after every epoch.
    progress
        Optional object with ``start(total, unit)``, ``advance(n)`` and ``note(text)``.

    Returns
    -------
    dict
        What was trained, the figures on the validation split, ``warnings`` (sentences on classes
        that are hardly predicted) and the seconds it took.

    Raises
    ------
    BoxNNError
        Bad data or options, a diverged run, or an output that cannot be written.
    """
    began = time.perf_counter()
    check_options(cluster)
    # Settled before the cluster starts, which limits the threads of its workers' environment.
    threads = get_backend(device if cluster.local else "cpu", threads).threads
    dataset = open_dataset(data)
    if dataset.n_rows("train") == 0 or len(dataset.classes) < 2:
        raise DataError(f"{data} needs training samples of at least two classes; ingest it again")
    validation.groups(options.group_size, dataset.feature_shape)
    name = "model.zip" if str(out).endswith(".zip") else "model"
    with staged_output(
        out, overwrite=overwrite, resume=resume, resumable=True, result=name, inputs=[data]
    ) as partial:
        feed, grid = dataset_feed(dataset, options, threads=threads)
        with connect(cluster, threads, device=device) as executor:
            if progress is not None and executor.dashboard:
                progress.note(f"dashboard: {executor.dashboard}")
            backend = training_backend(executor, device, threads)
            run = Training(options, feed, len(dataset.classes), backend)
            fingerprint = _fingerprint(dataset, options)
            checkpoint = _Checkpoint(run, partial, fingerprint, checkpoint_seconds)
            _run_epochs(run, partial, checkpoint, progress)
        provenance = {
            "preset": preset,
            "dataset": dataset.name,
            "dataset_digest": dataset.digest,
        }
        model = trained_model(run, dataset.classes, grid, dataset.feature_shape, provenance)
        write_model(model, partial / name, single=name == "model.zip")
    summary = _summary(run, str(out), preset, time.perf_counter() - began)
    summary["warnings"] = training_warnings(run, dataset.classes)
    if isinstance(backend, ClusterBackend):
        summary["cluster"] = asdict(backend.statistics)
    return summary


def _fingerprint(dataset: Dataset, options: TrainingOptions) -> dict[str, Any]:
    return {**options.as_dict(), "dataset digest": dataset.digest}


class _Checkpoint:
    """The saved state of a run: written after every epoch, and in between when it gets old."""

    def __init__(self, run: Training, folder: Location, fingerprint: dict[str, Any], age: float):
        self._run, self._fingerprint, self._age = run, fingerprint, age
        self._folder, self._path = folder, folder / _CHECKPOINT
        self._saved = time.monotonic()

    def restore(self) -> None:
        """Continue from what an earlier run saved, if it had the same options and data."""
        if not exists(self._path):
            return
        arrays, values = load_checkpoint(self._path)
        before = values["fingerprint"]
        for name, value in self._fingerprint.items():
            if before.get(name) != value:
                raise OptionError(
                    f"the unfinished run in {self._folder} has {name} {before.get(name)}, not "
                    f"{value}; resume it with its own options or pass --overwrite to start again"
                )
        self._run.restore(arrays, values["run"])

    def save(self) -> None:
        """Replace what was saved before."""
        arrays, state = self._run.state()
        save_checkpoint(self._path, arrays, {"fingerprint": self._fingerprint, "run": state})
        self._saved = time.monotonic()

    def save_if_old(self) -> None:
        """Save between epochs once the last save is too long ago."""
        if time.monotonic() - self._saved >= self._age:
            self.save()


def _run_epochs(run: Training, folder: Location, checkpoint: _Checkpoint, progress: Any) -> None:
    checkpoint.restore()
    epochs = run.options.epochs
    if progress is not None:
        progress.start(epochs * run.n_rows, "samples")
        progress.advance(run.samples_done)
    with keep_on_interrupt(lambda: run.epoch, f"{epochs} epochs", folder):
        while run.epoch < epochs:
            record = run.run_epoch(progress, checkpoint.save_if_old)
            checkpoint.save()
            if progress is not None:
                progress.note(
                    f"epoch {record.epoch}/{epochs}  accuracy {100 * record.accuracy:.1f}%  "
                    f"median radius {record.median_certified_radius}  "
                    f"mean radius {record.mean_certified_radius:.2f}  (validation)"
                )


def _summary(run: Training, out: str, preset: str, seconds: float) -> dict[str, Any]:
    best = next(item for item in [run.start, *run.history] if item.epoch == run.best_epoch)
    return {
        "model": out,
        "preset": preset,
        "boxes": run.options.boxes,
        "epochs": run.options.epochs,
        "seed": run.options.seed,
        "best_epoch": run.best_epoch,
        "validation": {
            key: value
            for key, value in best.as_dict().items()
            if key not in ("epoch", "seconds", "objective", "margin")
        },
        "seconds_per_epoch": float(np.median([record.seconds for record in run.history])),
        "seconds": seconds,
    }
