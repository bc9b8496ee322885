"""Calibration of `boxnn plan`: measure its constants on this machine, in a few seconds.

    python tests/benchmarks/plan/calibrate.py --out constants.json --cluster --data mnist.zarr

`boxnn plan --constants constants.json` reads the file. With `--cluster` Dask is measured too, on
two local workers, and with `--data` what depends on the data, by training on a dataset.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import method as bench_method
from benchmarks.plan.calibrate_data import BOXES, data_constants

from boxnn_numba.backends.box_layout import class_layout, frame_of, packed_frame
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import BoxNNError
from boxnn_numba.kernels import softmin
from boxnn_numba.kernels.block_distances import BLOCK
from boxnn_numba.pipelines.machine import describe_machine
from boxnn_numba.pipelines.plan.inputs import Constants, load_constants, regime
from boxnn_numba.pipelines.training.box_copies import BoxCopy, BoxSender, BoxUpdate, Changes
from boxnn_numba.progress import SILENT, Progress
from boxnn_numba.training.cpu_trainer import CpuTrainer
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.problem import Problem
from boxnn_numba.training.softmin_stages import Entries, Pulls, block_bounds, forward
from boxnn_numba.training.trainer import MakeTrainer

#: Features at which rates are measured: small tables, MNIST, CIFAR-10 and ImageNet.
FEATURES = (64, 784, 3072, 150_528)
#: The width that stands for all that cap.
WIDTH = 112
# Sizes of the problems. The boxes are too many for the caches, as they are in earnest.
_BOX_CODES, _BOXES, _SAMPLES = 2**24, 10_240, 1024
_ENTRIES_PER_BOX = 20
# Part of the codes that change, when finding and making changes is measured.
_CHANGED = 0.03


def seconds(call: Callable[[], Any], rounds: int = 5) -> float:
    """Return the least seconds of a call: what others on the machine slowed down says nothing."""
    call()
    least = np.inf
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - began)
    return float(least)


def calibrate(
    cluster: bool = False, data: Name | None = None, progress: Progress = SILENT
) -> Constants:
    """Measure this machine.

    Parameters
    ----------
    cluster
        Start two local workers and measure Dask too; else its constants are those that come with
        the package.
    data
        A dataset to train on, for what depends on the data: how many boxes a sample moves, and
        how many codes change. They come with the package otherwise.
    progress
        Is told how far it is.

    Returns
    -------
    Constants

    Raises
    ------
    ClusterError
        The local cluster does not start.
    DataError
        The dataset cannot be read or does not hold codes.
    """
    samples = None if data is None else bench_method.load_samples(data)
    found: dict[str, Any] = {"distances": {}, "entry": {}, "update": {}}
    known = load_constants()
    machine = describe_machine(1)
    total = len(FEATURES) + 2 + cluster + len(BOXES) * (samples is not None)
    progress.start(total, "measurements")
    for n in FEATURES:
        rates, entry, update = _kernels(n)
        for kind, rate in rates.items():
            found["distances"].setdefault(kind, {})[n] = rate
        found["entry"][n], found["update"][n] = entry, update
        progress.advance(1)
    found |= _softmin(found["distances"][regime(WIDTH)][784])
    progress.advance(1)
    found |= {**_store(), **_changes()}
    progress.advance(1)
    if cluster:
        from benchmarks.plan.calibrate_cluster import dask_constants

        found |= dask_constants(replace(known, **found))
        progress.advance(1)
    notes = known.source.get("notes", "")
    if samples is not None:
        found |= data_constants(samples, functools.partial(progress.advance, 1))
        notes = f"entries and changed: means over 2 epochs of {samples.name}, preset graded, tau 1"
    source = {
        "command": "python tests/benchmarks/plan/calibrate.py --out FILE"
        + " --cluster" * cluster
        + " --data DATASET" * (samples is not None),
        "machine": machine,
        "notes": notes,
    }
    return replace(known, **found, source=source)


def _kernels(n: int) -> tuple[dict[str, float], float, float]:
    """Return triples a second by regime, seconds per entry and feature, and per box and feature."""
    rng = np.random.default_rng(0)
    boxes = min(_BOXES, max(32, _BOX_CODES // n // 32 * 32))
    rows = _SAMPLES if n < 10_000 else 64
    backend = get_backend("cpu", 1)
    bounds = bench_method.random_boxes(rng, boxes, n)
    trainer = _trainer(bounds, np.sort(np.arange(boxes, dtype=np.int32) % 2), 2)
    table, spans = trainer.table, trainer._spans
    blocks, _ = block_bounds(min(rows, 256))
    out = np.zeros((len(blocks) - 1, len(table.lower), BLOCK), np.int32)
    x = backend.samples(bench_method.random_codes(rng, rows, n), table.frame)
    rates = {}
    for width in (1, WIDTH, 255):

        def see(width: int = width) -> None:
            softmin.measure("graded")(
                x, blocks, table.lower, table.upper, spans, table.frame.planes, width, out
            )

        rates[regime(width)] = min(rows, 256) * boxes * n / seconds(see)
    count = boxes * _ENTRIES_PER_BOX
    entries = Entries(
        np.sort(rng.integers(0, rows, count, dtype=np.int32)),
        rng.integers(0, boxes, count, dtype=np.int32),
        rng.integers(-(2**15), 2**15, count),
    )
    pulls = Pulls.of(entries, boxes)
    none = Pulls.of(Entries.empty(0), boxes)
    moving = seconds(lambda: trainer.move(x, pulls, rows, 1e-9), 3)
    trainer._dense = True  # boxes move whatever pulls at them
    updating = seconds(lambda: trainer.move(x, none, rows, 1e-9), 3)
    return rates, max(0.0, moving - updating) / (count * n), updating / (boxes * n)


def _trainer(
    bounds: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    k: int,
    make: MakeTrainer | None = None,
) -> Any:
    options = TrainingOptions(boxes=len(labels), width=WIDTH, beta=50.0, leak=0.2)
    masters = bounds[0].astype(np.float32), bounds[1].astype(np.float32)
    offsets = np.searchsorted(labels, np.arange(k + 1))
    problem = Problem.of(options, Structure.plain(offsets, bounds[0].shape[1]))
    return (make or functools.partial(CpuTrainer, get_backend("cpu", 1)))(masters, problem)


def sample_step(
    samples: bench_method.Samples, boxes: int, make: MakeTrainer | None = None
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return a trainer with boxes around the bundled samples of MNIST, and a batch."""
    lower, upper, labels = bench_method.sample_boxes(samples, boxes)
    x, y = bench_method.repeat_rows(*samples.train, 2 * _SAMPLES)
    return _trainer((lower, upper), labels, samples.n_classes, make), x, y


def _softmin(rate: float) -> dict[str, float]:
    """Measure what a step needs besides distances, on the bundled sample of MNIST."""
    samples = bench_method.load_samples(None)
    trainer, x, y = sample_step(samples, _BOXES)
    backend, boxes = trainer.backend, trainer.table.n_boxes
    problem, table = trainer.problem, trainer.table
    found, _, _ = forward(backend, table, x, y, problem)
    sort = functools.partial(Pulls.of, found, boxes)
    # Whatever a step takes beyond bare distances: soft-min, and blocks that come from memory.
    spent = seconds(lambda: forward(backend, table, x, y, problem)) / (len(y) * boxes)
    layout = class_layout(*table.bounds(), problem.structure)
    test = samples.test[0]
    out = np.empty((len(test), samples.n_classes), np.int32)
    classes = seconds(lambda: backend.class_distance(test, layout, WIDTH, out))
    triples = len(test) * boxes * x.shape[1]
    return {
        "pair_seconds": max(1e-11, spent - x.shape[1] / rate),
        "sort_seconds": seconds(sort) / len(found.boxes),
        "certify_gain": triples / classes / rate,
    }


def _store() -> dict[str, float]:
    """Measure laying out codes, and reading a chunk with its digest."""
    backend = get_backend("cpu", 1)
    rng = np.random.default_rng(0)
    wide = bench_method.random_codes(rng, 2048, 12_288)
    frame = frame_of(np.zeros(wide.shape[1], np.int64), np.arange(wide.shape[1]))
    copied = seconds(lambda: backend.samples(wide, frame), 3)
    rows = np.resize(bench_method.load_samples(None).train[0], (4096, 784))
    labels = np.arange(4096, dtype=np.int32) % 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.zarr"
        split = rows, labels
        write_dataset(path, name="rows", classes=[0, 1], train=split, test=split)
        dataset = open_dataset(path)
        read = seconds(lambda: dataset.read_chunk("train", 0), 3)
    return {"copy_rate": wide.nbytes / copied, "read_rate": rows.nbytes / read}


def _changes() -> dict[str, float]:
    """Measure finding what a step changed in the boxes, and doing the same on a worker."""
    rng = np.random.default_rng(0)
    codes = bench_method.random_codes(rng, 8192, 1024).reshape(2, 4096, 1024)
    problem: Any = SimpleNamespace(structure=Structure.plain(np.array([0, 4096]), 1024))
    (frame, spans), sender, cells = packed_frame(problem.structure), BoxSender(), np.arange(4096)
    sender.advance((codes[0], codes[1]), problem)
    copy = BoxCopy.of(BoxUpdate("", 0, (0, 4096), problem), *codes)
    spent = np.inf
    for _ in range(5):
        codes += (rng.random(codes.shape) < _CHANGED).astype(np.uint8)
        began = time.perf_counter()
        for first in range(0, 4096, 32):
            block, shape = cells[first : first + 32], (1, frame.columns)
            sender.collect(block, spans, shape, (codes[0], codes[1]))
        spent = min(spent, time.perf_counter() - began)
        sender.advance((codes[0], codes[1]), problem)
    about, *arrays = sender.changes((0, 4096)) or ()
    made = seconds(lambda: copy.moved(about, Changes(*arrays)))
    return {"compare_seconds": spent / codes.size, "apply_seconds": made / len(arrays[3])}


def save_constants(constants: Constants, path: Name, *, overwrite: bool = False) -> None:
    """Write constants to a JSON file.

    Raises
    ------
    OptionError, OutputError
        It exists already or cannot be written.
    """
    with staged_output(path, overwrite=overwrite, directory=False) as partial:
        partial.write_text(json.dumps(constants.as_dict(), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--cluster", action="store_true", help="Dask too, on two local workers")
    parser.add_argument("--data", help="a dataset of codes to train on")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")
    given = parser.parse_args()
    try:
        found = calibrate(given.cluster, given.data)
        save_constants(found, given.out, overwrite=given.overwrite)
    except BoxNNError as error:
        sys.exit(f"calibrate: {error}")


if __name__ == "__main__":
    main()
