"""Speed and memory of local worker processes against this process alone, in turns.

    python tests/benchmarks/cluster_speed.py mnist.zarr --repeats 3 --out result.json

Trains with batch 2,000 (2,500 and 25,000 boxes) and certifies noisy copies of the test images, in
this process with as many threads as there are workers, then on workers of one thread each.
The machine's speed changes over minutes, so the two take turns and a ratio is the median of
the pairs'. With the ratios it prints what a step spends besides kernels, and the largest memory of
a worker.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from boxnn_numba import __version__
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import resolve

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from make_rows import make_rows
from support.cluster_tools import worker_processes

_SAMPLING_SECONDS = 0.05


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


def training(data: str, boxes: int, epochs: int, repeats: int, workers: int) -> dict[str, Any]:
    """Compare epochs of training, batch 2,000."""
    options = resolve("graded", {"boxes": boxes, "epochs": epochs, "batch": 2000, "seed": 0})
    cluster = ClusterOptions(workers=workers, threads_per_worker=1)
    pairs, steps = [], {}
    with tempfile.TemporaryDirectory() as folder, largest_memory() as memory:
        for _ in range(repeats):
            out = Path(folder, "model")
            here = train(data, out, options, run=RunOptions(threads=workers, overwrite=True))
            there = train(
                data, out, options, run=RunOptions(threads=workers, cluster=cluster, overwrite=True)
            )
            assert here.validation == there.validation
            pairs.append((here.seconds_per_epoch, there.seconds_per_epoch))
            steps = there.as_dict()["cluster"]
    overhead = (steps["waiting"] - steps["kernels"]) / steps["steps"]
    return {
        "boxes": boxes,
        "seconds_per_epoch": pairs,
        "ratio": float(np.median([here / there for here, there in pairs])),
        "overhead_ms_per_step": 1e3 * overhead,
        "cluster": steps,
        "worker_mb": memory[0],
    }


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
                    there = certify(model, noisy, out, run=replace(run, cluster=cluster))
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
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="*", default=[250_000, 1_000_000])
    parser.add_argument("--boxes", type=int, nargs="*", default=[2500, 25_000])
    parser.add_argument("--out")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "command": "python tests/benchmarks/cluster_speed.py "
        f"{Path(options.data).name} --repeats {options.repeats} --workers {options.workers}",
        "version": __version__,
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "training": [],
    }
    for boxes in options.boxes:
        epochs = max(1, 10_000 // boxes)
        found = training(options.data, boxes, epochs, options.repeats, options.workers)
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
