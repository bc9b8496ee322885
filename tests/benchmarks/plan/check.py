"""Compare what `boxnn plan` predicts for local workers with training there.

    python tests/benchmarks/plan/check.py mnist.zarr

What else runs on the machine
makes steps longer, so next to the median there is what a quarter of the steps stayed below.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import method as bench_method

from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.plan.inputs import (
    DEFAULT_CONSTANTS,
    Constants,
    Hardware,
    Job,
    load_constants,
)
from boxnn_numba.pipelines.plan.step import step_bytes, step_phases
from boxnn_numba.pipelines.training.cluster_trainer import ClusterTrainer, training_on
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import resolve
from boxnn_numba.training.run import Training

EPOCHS, BATCH = 2, 2000


def real_steps(
    samples: bench_method.Samples, boxes: int, workers: int, shards: int
) -> tuple[np.ndarray, float]:
    """Return the seconds of the steps of a run, and the bytes that leave the client in a step."""
    x, y = samples.train
    feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
    options = resolve("graded", {"boxes": boxes, "batch": BATCH, "epochs": EPOCHS})
    cluster = ClusterOptions(workers=workers, threads_per_worker=1, box_shards=shards)
    with connect(cluster) as executor:
        backend, make = training_on(executor, "cpu", os.cpu_count())
        run = Training(options, feed, samples.n_classes, backend, make_trainer=make)
        assert isinstance(run.trainer, ClusterTrainer)
        statistics = run.trainer.statistics
        moments, sent = [time.perf_counter()], []

        def after_step() -> None:
            moments.append(time.perf_counter())
            sent.append(statistics.bytes_sent)

        for _ in range(EPOCHS):
            run.run_epoch(after_step=after_step)
    # The first step sends all boxes; the last of an epoch is smaller.
    kept = np.arange(1, len(sent)) % (len(sent) // EPOCHS) < len(sent) // EPOCHS - 1
    return np.diff(moments)[1:][kept], float(np.diff(sent)[kept].mean())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a dataset, e.g. of boxnn data ingest mnist")
    parser.add_argument("--constants", default=DEFAULT_CONSTANTS)
    parser.add_argument("--boxes", type=int, nargs="+", default=[2500, 25_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shards", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    samples = bench_method.load_samples(given.data)
    known: Constants = load_constants(given.constants)
    click.echo(
        "boxes   workers  shards  predicted  median (error)  quarter (error)  MB sent (predicted)"
    )
    for boxes, workers, shards in itertools.product(given.boxes, given.workers, given.shards):
        rows, features = samples.train[0].shape
        job = Job(rows, features, boxes, samples.n_classes, BATCH, validation=0)
        hardware = Hardware(
            workers, client_threads=os.cpu_count() or 1, bandwidth=1e15, latency=0,
            box_shards=shards,
        )  # fmt: skip
        expected = sum(step_phases(job, hardware, known).values())
        seconds, sent = real_steps(samples, boxes, workers, shards)
        found = [float(np.quantile(seconds, part)) for part in (0.5, 0.25)]
        columns = "  ".join(f"{s:.3f} s ({100 * (expected / s - 1):+3.0f}%)" for s in found)
        bytes_sent = step_bytes(job, hardware, known)[0]
        click.echo(
            f"{boxes:>6,}  {workers:>7}  {shards:>6}  {expected:.3f} s    {columns}  "
            f"{sent / 1e6:.2f} ({bytes_sent / 1e6:.2f})"
        )


if __name__ == "__main__":
    main()
