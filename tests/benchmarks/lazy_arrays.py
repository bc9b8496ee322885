"""Speed and memory of a lazy array that is certified, against `boxnn certify` on rows of it.

    python tests/benchmarks/lazy_arrays.py --rows 10000000 --out result.json

Uniform codes, made by `dask.array.random` with a seed where a block is needed, are certified
through Dask's threads by a model of 2,500 boxes. Before and after that their first 100,000 rows are
certified from a dataset, by what `boxnn certify` runs. Printed and written as JSON: rows a second
of both and the ratio, how long the codes alone take, and the largest resident memory of this
process until the lazy array was done. Then every block is certified again as a NumPy array: the
radii must be the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.method import random_boxes

from boxnn_numba import Boxes, BoxNN, __version__
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.model_store import save_model
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.running import RunOptions

FEATURES, CLASSES, WIDTH = 784, 10, 128


def lazy_codes(rows: int, chunk: int, seed: int, features: int = FEATURES) -> da.Array:
    """Return uniform codes that are made block by block."""
    generator = da.random.default_rng(seed)
    return generator.integers(0, 256, (rows, features), dtype=np.uint8, chunks=(chunk, features))


def model_of(boxes: int, features: int = FEATURES) -> BoxNN:
    """Return a model of random boxes."""
    lower, upper = random_boxes(np.random.default_rng(1), boxes, features)
    return BoxNN(Boxes(lower, upper, np.arange(boxes) % CLASSES, WIDTH), range(CLASSES))


def peak_mb() -> float:
    """Return the largest resident MB of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def from_files(model: BoxNN, codes: da.Array, folder: Path) -> Any:
    """Return what certifies codes from a dataset, in seconds."""
    x = codes.compute()
    y = np.arange(len(x)) % CLASSES
    save_model(model, folder / "model")
    write_dataset(
        folder / "data", name="uniform", source="lazy_arrays.py", feature_shape=x.shape[1:],
        classes=list(range(CLASSES)), train=(x[:1000], y[:1000]), test=(x, y),
    )  # fmt: skip
    run = RunOptions(overwrite=True)

    def seconds() -> float:
        found = certify(
            folder / "model", folder / "data", folder / "out", certificate="margin", run=run
        )
        return found.seconds

    return seconds


def differing_blocks(model: BoxNN, codes: da.Array, found: tuple[np.ndarray, np.ndarray]) -> int:
    """Return in how many blocks NumPy's answers are others."""
    differing, first = 0, 0
    for size, block in zip(codes.chunks[0], codes.blocks, strict=True):
        rows = slice(first, first + size)
        answers = model.certify(block.compute(scheduler="synchronous"))
        differing += any(
            not np.array_equal(ours[rows], theirs)
            for ours, theirs in zip(found, answers, strict=True)
        )
        first += size
    return differing


def measure(rows: int, chunk: int, boxes: int, of_files: int, repeats: int) -> dict[str, Any]:
    """Return all figures."""
    codes, model = lazy_codes(rows, chunk, seed=0), model_of(boxes)
    threads = len(psutil.Process().cpu_affinity())
    with tempfile.TemporaryDirectory() as folder:
        again = from_files(model, codes[:of_files], Path(folder))
        again()  # compiles
        files, lazily, making = [], [], []
        for _ in range(repeats):
            before = again()
            began = time.perf_counter()
            found = dask.compute(*model.certify(codes), scheduler="threads", num_workers=threads)
            lazily.append(time.perf_counter() - began)
            peak = peak_mb()
            files.append((before + again()) / 2)
            began = time.perf_counter()
            some = codes[: min(rows, 20 * chunk)]
            some.max().compute(scheduler="threads", num_workers=threads)
            making.append((time.perf_counter() - began) / len(some))
    speeds = [(rows / a, of_files / b) for a, b in zip(lazily, files, strict=True)]
    return {
        "rows": rows, "chunk": chunk, "boxes": boxes, "rows_of_files": of_files,
        "rows_per_second": speeds,
        "ratio": float(np.median([ours / theirs for ours, theirs in speeds])),
        "share_of_making_codes": float(np.median(making)) * rows / float(np.median(lazily)),
        "peak_mb": peak,
        "differing_blocks": differing_blocks(model, codes, found),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--chunk", type=int, default=16_384)
    parser.add_argument("--boxes", type=int, default=2500)
    parser.add_argument("--rows-of-files", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out")
    options = parser.parse_args(arguments)
    found = measure(
        options.rows, options.chunk, options.boxes, min(options.rows, options.rows_of_files),
        options.repeats,
    )  # fmt: skip
    result = {
        "command": f"python tests/benchmarks/lazy_arrays.py --rows {options.rows}",
        "version": __version__,
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        **found,
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
