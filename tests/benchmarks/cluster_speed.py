"""Speed and memory of local worker processes against this process alone, in turns.

    python tests/benchmarks/cluster_speed.py mnist.zarr --steps 100 --out result.json

Trains with batch 2,000 (2,500 and 25,000 boxes) and certifies noisy copies of the test images, in
this process with as many threads as there are workers, and on workers of one thread each.
The machine's speed changes over minutes, so the two take turns: every few steps in training, where
the first of them count for none since caches hold what the other has used, and a ratio is of what a
quarter of the steps stayed below; and run by run in certification, where it is the median of the
pairs'. With the ratios it prints where a step's time and bytes go, and the largest memory of a
worker.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import platform
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from boxnn_numba import __version__
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.cluster_trainer import (
    ClusterTrainer,
    StepStatistics,
    training_on,
)
from boxnn_numba.pipelines.training.dataset_loader import dataset_feed, training_dataset
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import resolve
from boxnn_numba.training.run import Training
from boxnn_numba.training.trainer import trainer_on

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from make_rows import make_rows
from support.cluster_tools import worker_processes

_SAMPLING_SECONDS = 0.05
#: Samples of a step, and steps of a turn, of which the first are not measured.
BATCH, WARM = 2000, 2
TURN = {2500: 10, 25_000: 4}


@contextmanager
def largest_memory() -> Iterator[list[float]]:
    """Give a list with the largest resident MB of any worker process of this one, in the end."""
    found = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLING_SECONDS):
            for process in worker_processes():
                try:
                    found[0] = max(found[0], process.memory_info().rss / 1e6)
                except psutil.NoSuchProcess:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def training(data: str, boxes: int, steps: int, workers: int) -> dict[str, Any]:
    """Compare steps of training, batch 2,000, whose results are the same bits."""
    options = resolve("graded", {"boxes": boxes, "epochs": 1, "batch": BATCH, "seed": 0})
    dataset = training_dataset(data)
    feed, _ = dataset_feed(dataset, options, threads=workers)
    local, spent = get_backend("cpu", workers), ([], [])
    cluster = ClusterOptions(workers=workers, threads_per_worker=1)
    with connect(cluster, workers) as executor:
        kinds = (local, trainer_on(local)), training_on(executor, "cpu", workers)
        here, there = (
            Training(options, feed, len(dataset.classes), backend, make_trainer=make).trainer
            for backend, make in kinds
        )
        assert isinstance(there, ClusterTrainer)
        turn = TURN.get(boxes, 4)
        batches = [*whole_batches(feed, max(2, steps // (turn - WARM)) * turn)]
        there.statistics = StepStatistics()
        for first in range(0, len(batches), turn):
            for trainer, seconds in zip((here, there), spent, strict=True):
                for number, (x, y) in enumerate(batches[first : first + turn]):
                    began = time.perf_counter()
                    trainer.step(x, y, options.lr)
                    if number >= WARM:
                        seconds.append(time.perf_counter() - began)
        for one, other in zip(here.bounds(), there.bounds(), strict=True):
            np.testing.assert_array_equal(one, other)
        # Asked for once: to look at processes now and then takes a tenth of a core.
        usage = executor.client.run(resource.getrusage, resource.RUSAGE_SELF)
        memory = max(one.ru_maxrss for one in usage.values()) / 1024
    found = there.statistics
    quarters, least, medians = (
        [float(take(seconds)) for seconds in spent]
        for take in (functools.partial(np.quantile, q=0.25), np.min, np.median)
    )
    return {
        "boxes": boxes,
        "seconds_of_a_step": {"quarter": quarters, "least": least, "median": medians},
        "ratio": quarters[0] / quarters[1],
        "ratio_of_least": least[0] / least[1],
        "ratio_of_medians": medians[0] / medians[1],
        "bytes_of_a_step": [n // found.steps for n in (found.bytes_sent, found.bytes_received)],
        "cluster": dataclasses.asdict(found),
        "worker_mb": memory,
    }


def whole_batches(feed: Feed, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield so many batches of full size, of as many epochs as it takes."""
    batches = (
        pair
        for epoch in itertools.count()
        for pair in feed.batches(epoch, BATCH)
        if len(pair[1]) == BATCH
    )
    return itertools.islice(batches, count)


def certification(data: str, rows: list[int], repeats: int, workers: int) -> list[dict[str, Any]]:
    """Compare certification of more and more rows."""
    cluster = ClusterOptions(workers=workers, threads_per_worker=1)
    options = resolve("graded", {"boxes": 2500, "epochs": 1, "batch": 2000, "seed": 0})
    results = []
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder, "model"), Path(folder, "out")
        train(data, model, options, run=RunOptions(threads=workers))
        for count in rows:
            noisy = Path(folder, f"noisy-{count}")
            make_rows(data, str(noisy), count, 0)
            pairs = []
            with largest_memory() as memory:
                for _ in range(repeats):
                    run = RunOptions(threads=workers, overwrite=True)
                    here = certify(model, noisy, out, run=run)
                    there = certify(
                        model, noisy, out, run=dataclasses.replace(run, cluster=cluster)
                    )
                    pairs.append((here.seconds, there.seconds))
            ratio = float(np.median([here / there for here, there in pairs]))
            results.append({"rows": count, "seconds": pairs, "ratio": ratio, "mb": memory[0]})
            sys.stdout.write(f"certify {count} rows: {results[-1]}\n")
            sys.stdout.flush()
    return results


def main() -> None:
    """Run all comparisons, print them, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=100, help="of 2,500 boxes; others have fewer")
    parser.add_argument("--repeats", type=int, default=3, help="of certification")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="*", default=[250_000, 1_000_000])
    parser.add_argument("--boxes", type=int, nargs="*", default=[2500, 25_000])
    parser.add_argument("--out")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": "python tests/benchmarks/cluster_speed.py "
        f"{Path(options.data).name} --steps {options.steps} --repeats {options.repeats} "
        f"--workers {options.workers}",
        "version": __version__,
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "training": [],
    }
    for boxes in options.boxes:
        steps = max(10, options.steps * 2500 // max(2500, boxes))
        found = training(options.data, boxes, steps, options.workers)
        result["training"].append(found)
        sys.stdout.write(f"train {boxes} boxes: {found}\n")
        sys.stdout.flush()
    result["certification"] = certification(
        options.data, options.rows, options.repeats, options.workers
    )
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
