"""One call that checks and measures the CUDA backend on the GPU that is there.

    python tests/benchmarks/gpu_bench.py --json gpu.json

Needs the repository, NumPy, numba and numba-cuda; CuPy and PyTorch are used where installed.
Correctness comes first, against the CPU. Then class distances beside their floors, epochs of the
size of MNIST, the certification of a million rows, and a training step beside PyTorch's, in less
than eight minutes. ``--simulate`` does it with tiny arrays in the simulator, to test the script.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Instructions of the plain penalty for an element: two subtractions, two extremes, one addition.
PLAIN_INSTRUCTIONS = 5
#: Lanes of a multiprocessor, and those of its pipe for byte sums.
LANES, SUM_LANES = 128, 64
TARGETS = {
    "share of the plain floor": 0.4, "epoch": 0.3, "times torch": 20.0, "million rows": 2.0,
    "factored, of plain": 0.85,
}  # fmt: skip
#: Rows of a template and parts of factored boxes.
ROWS, PARTS = 10, 4


@dataclass
class Sizes:
    """How large the measurements are."""

    elements: float
    shapes: list[tuple[int, int]]
    widths: tuple[int, ...]
    train_rows: int
    boxes: int
    features: int
    batch: int
    certify_rows: int
    repeats: int
    checks: list[tuple[int, int, int]]


REAL = Sizes(
    2e11, [(784, 2500), (784, 25_000), (3072, 2500), (3072, 25_000)], (1, 128, 255), 60_000, 2500,
    784, 1000, 1_000_000, 3, [(1, 1, 1), (130, 70, 65), (1000, 2500, 784), (257, 999, 3072)],
)  # fmt: skip
TINY = Sizes(150, [(6, 4)], (1, 128, 255), 6, 4, 6, 4, 5, 1, [(1, 1, 1), (3, 5, 6)])
CLASSES = 3


def main() -> None:
    """Check, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="where the figures go")
    parser.add_argument("--simulate", action="store_true", help="tiny arrays, no GPU")
    parser.add_argument("--only-kernels", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.simulate:
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        importlib.import_module("support.gpu_arrays")  # mends a race of the simulator
    sys.path.insert(0, str(ROOT))
    from boxnn_numba.backends.devices import get_backend
    from boxnn_numba.errors import BackendError

    try:
        get_backend("cuda", 1)
    except BackendError as error:
        sys.exit(f"gpu_bench: {error}")
    sizes = TINY if simulated() else REAL
    if options.only_kernels:
        sys.stdout.write(json.dumps(kernels(sizes, sizes.shapes[:1])) + "\n")
        return
    began = time.perf_counter()
    found: dict[str, Any] = {"environment": environment()}
    found["checks"] = check(sizes)
    say(f"{found['checks']} checks: the GPU gives the CPU's bits")
    found["kernels"] = kernels(sizes, sizes.shapes)
    found["plain"] = plain_kernels()
    found["training"] = training(sizes)
    found["certification"] = certification(sizes)
    found["torch"] = None if simulated() else torch_steps(sizes)
    found["targets"] = targets(found)
    found["seconds"] = time.perf_counter() - began
    sys.stdout.write(table(found) + "\n")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


def say(text: str) -> None:
    """Report progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def environment() -> dict[str, Any]:
    """Return what computes, and how fast it could."""
    import numba
    import numpy as np
    from numba import cuda

    cupy = importlib.util.find_spec("cupy") is not None
    found: dict[str, Any] = {"numba": numba.__version__, "numpy": np.__version__, "cupy": cupy}
    if simulated():
        return {**found, "gpu": "simulator", "processors": 1, "clock": 1e9, "bandwidth": 1e9}
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    bytes_a_second = 2 * 1e3 * device.MEMORY_CLOCK_RATE * device.GLOBAL_MEMORY_BUS_WIDTH / 8
    return {
        **found, "gpu": name, "processors": device.MULTIPROCESSOR_COUNT,
        "clock": 1e3 * device.CLOCK_RATE, "bandwidth": bytes_a_second,
    }  # fmt: skip


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Return the least time of some runs, after one that compiles; the GPU is waited for."""
    from numba import cuda

    times = []
    for _ in range(repeats + 1):
        cuda.synchronize()
        began = time.perf_counter()
        work()
        cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def random_boxes(
    n_boxes: int, features: int, width: int, seed: int, parts: int = 1, group: int = 1
) -> Any:
    """Return boxes around random centres, of several parts rows of templates."""
    import numpy as np

    from boxnn_numba import Boxes

    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (n_boxes, features), dtype=np.int16)
    sides = np.clip(centres - 25, 0, 255), np.clip(centres + 25, 0, 255)
    labels, groups = np.arange(n_boxes) % CLASSES, np.arange(features) // group
    template = None if parts == 1 else labels * n_boxes + np.arange(n_boxes) // (ROWS * CLASSES)
    return Boxes(
        *(side.astype(np.uint8) for side in sides), labels, width, CLASSES, template=template,
        part=groups * min(parts, int(groups[-1]) + 1) // (int(groups[-1]) + 1), group=groups,
    )  # fmt: skip


def random_codes(rows: int, features: int, seed: int) -> Any:
    """Return random samples."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (rows, features), dtype=np.uint8)


def check(sizes: Sizes) -> int:
    """Compare the GPU with the CPU on new random data; return how often, or leave."""
    import numpy as np

    from boxnn_numba import certified_radius, class_distance, pairwise_distance

    seed = time.time_ns() % 2**32
    cases: list[tuple[str, Any, Any]] = []
    for rows, n_boxes, features in sizes.checks:
        plain = ((width, 1, 1) for width in sizes.widths)
        for width, parts, group in (*plain, (128, PARTS, 1), (255, 2, 3)):
            x = random_codes(rows, features, seed)
            boxes = random_boxes(n_boxes, features, width, seed, parts, group)
            for function in (pairwise_distance, class_distance):
                size = rows, n_boxes, features, width, parts, group
                where = f"{function.__name__} {size} seed {seed}"
                cases.append((where, function(x, boxes), function(x, boxes, device="cuda")))
                there = on_gpu(x)
                cases.append(
                    (where + " on the GPU", function(x, boxes), host(function(there, boxes)))
                )
    distance = class_distance(x, boxes)
    here, there = certified_radius(distance, 3), certified_radius(on_gpu(distance), 3)
    cases += [("certified_radius", a, host(b)) for a, b in zip(here, there, strict=True)]
    for objective, optimizer, structure in (
        ("clip", "sgd", {}),
        ("target", "adam", {"parts": "2", "templates": 1}),
        ("paper", "sgd", {"group_size": 2}),
    ):
        runs = [
            run_of(sizes, device, objective, optimizer, check=True, **structure)
            for device in ("cpu", "cuda")
        ]
        for run in runs:
            run.run_epoch()
        for name, value in runs[0].trainer.state().items():
            cases.append((f"{objective} {optimizer} {name}", value, runs[1].trainer.state()[name]))
    for where, expected, found in cases:
        if not np.array_equal(expected, found):
            sys.exit(f"gpu_bench: {where}: the GPU and the CPU differ; nothing was measured")
    return len(cases)


def simulated() -> bool:
    """Whether there is no GPU, only the simulator."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


def on_gpu(array: Any) -> Any:
    """Return a copy on the GPU, CuPy's where it is installed."""
    from numba import cuda

    if not simulated() and importlib.util.find_spec("cupy"):
        import cupy

        return cupy.asarray(array)
    return cuda.to_device(array)


def host(array: Any) -> Any:
    """Return an array of the GPU as NumPy's."""
    return array.get() if hasattr(array, "get") else array.copy_to_host()


def kernels(sizes: Sizes, shapes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Measure class distances of samples that are on the GPU, and compute their floors."""
    from boxnn_numba.backends.cuda_layout import UNCAPPED
    from boxnn_numba.backends.devices import get_backend
    from boxnn_numba.distances import laid_out
    from boxnn_numba.kernels.cuda_device import FORM

    machine = environment()
    backend, found = get_backend("cuda", 1), []
    for features, n_boxes in shapes:
        rows = max(1, int(sizes.elements / (features * n_boxes)))
        x = on_gpu(random_codes(rows, features, 1))
        for width, parts in itertools.product(sizes.widths, (1, PARTS)):
            boxes = random_boxes(n_boxes, features, width, 2, parts)
            layout = laid_out(boxes, backend, "layout")
            out = backend.output(None, x, (rows, CLASSES))
            took = seconds(lambda: backend.class_distance(x, layout, width, out), sizes.repeats)  # noqa: B023
            elements = float(rows) * n_boxes * features
            rate = machine["processors"] * machine["clock"]
            sums = elements / 4 * (2 if width >= UNCAPPED else 4)
            moved = rows * features + layout.planes.nbytes + 4 * rows * CLASSES
            found.append(
                {
                    "form": FORM, "features": features, "boxes": n_boxes, "width": width,
                    "parts": parts, "rows": rows, "seconds": took, "pairs": rows * n_boxes / took,
                    "plain floor": elements * PLAIN_INSTRUCTIONS / (rate * LANES),
                    "sum floor": sums / (rate * SUM_LANES),
                    "byte floor": moved / machine["bandwidth"],
                }
            )  # fmt: skip
            size = f"n {features} M {n_boxes} W {width} P {parts}"
            say(f"{FORM} {size}: {took:.4f} s for {rows} rows")
    return found


def plain_kernels() -> list[dict[str, Any]]:
    """Measure the form without packed instructions, which is chosen once per process."""
    words = [sys.executable, __file__, "--only-kernels", *(["--simulate"] if simulated() else [])]
    environment = {**os.environ, "BOXNN_CUDA_SUMS": "plain"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"gpu_bench: the plain form failed: {done.stderr.strip().splitlines()[-1]}")
    return list(json.loads(done.stdout.splitlines()[-1]))


def run_of(
    sizes: Sizes, device: str, objective: str, optimizer: str, check: bool = False, batch: int = 0,
    **structure: Any,
) -> Any:  # fmt: skip
    """Return a training run on random data in clusters."""
    import numpy as np

    from boxnn_numba.backends.devices import get_backend
    from boxnn_numba.training.loader import Feed
    from boxnn_numba.training.options import TrainingOptions
    from boxnn_numba.training.run import Training

    rows = min(sizes.train_rows, 3000) if check else sizes.train_rows
    rng = np.random.default_rng(3)
    y = np.arange(rows) % CLASSES
    noise = rng.integers(-60, 61, (rows, sizes.features), dtype=np.int16)
    centres = rng.integers(60, 200, (CLASSES, sizes.features), dtype=np.int16)
    x = (centres[y] + noise).astype(np.uint8)
    options = TrainingOptions(
        boxes=min(sizes.boxes, 300) if check else sizes.boxes, epochs=3, validation=0.0,
        batch=batch or sizes.batch, objective=objective, optimizer=optimizer, width=112, radius=5,
        lr=0.01, **structure,
    )  # fmt: skip
    return Training(
        options, Feed.from_arrays(x, y, (x[:0], y[:0]), 0), CLASSES, get_backend(device)
    )


def training(sizes: Sizes) -> list[dict[str, Any]]:
    """Measure whole epochs: the second, when everything is compiled and on the GPU."""
    found = []
    for batch in sorted({sizes.batch, max(2, sizes.batch // 10)}, reverse=True):
        run = run_of(sizes, "cuda", "clip", "sgd", batch=batch)
        records = [run.run_epoch() for _ in range(2)]
        found.append(
            {
                "batch": batch, "rows": sizes.train_rows, "boxes": sizes.boxes,
                "first epoch": records[0].seconds, "epoch": records[1].seconds,
                "step": records[1].seconds * batch / sizes.train_rows,
            }
        )  # fmt: skip
        say(f"epoch of {sizes.train_rows} samples, batch {batch}: {records[1].seconds:.3f} s")
    return found


def certification(sizes: Sizes) -> dict[str, Any]:
    """Measure predictions and radii of rows that are in the host's memory."""
    from boxnn_numba import certified_radius, class_distance

    x = random_codes(sizes.certify_rows, sizes.features, 4)
    boxes = random_boxes(sizes.boxes, sizes.features, 112, 5)

    took = seconds(lambda: certified_radius(class_distance(x, boxes, device="cuda"), 112), 1)
    return {"rows": sizes.certify_rows, "seconds": took}


def torch_steps(sizes: Sizes) -> dict[str, float] | None:
    """Return seconds of a training step in PyTorch on this GPU, by two formulations."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None

    def step(batch: int, distance: Callable[[Any, Any, Any], Any]) -> Callable[[], None]:
        x = torch.rand(batch, sizes.features, device="cuda")
        label = torch.randint(CLASSES, (batch,), device="cuda")
        lower = torch.rand(sizes.boxes, sizes.features, device="cuda", requires_grad=True)
        upper = (lower.detach() + 0.2).requires_grad_()
        own = (torch.arange(sizes.boxes, device="cuda") % CLASSES)[None] == label[:, None]

        def run() -> None:
            d = distance(x, lower, upper)
            soft = [
                (torch.softmax(-d.masked_fill(~mask, torch.inf), 1) * d).sum(1)
                for mask in (own, ~own)
            ]
            (soft[1] - soft[0]).clamp(max=50).sum().backward()
            with torch.no_grad():
                for side in (lower, upper):
                    side += 0.01 * side.grad
                    side.grad = None

        return run

    def twice(x: Any, lower: Any, upper: Any) -> Any:
        inside = (upper - lower).sum(1)
        return 0.5 * (torch.cdist(x, lower, p=1) + torch.cdist(x, upper, p=1) - inside)

    def broadcast(x: Any, lower: Any, upper: Any) -> Any:
        x = x[:, None]
        return torch.relu(torch.maximum(lower - x, x - upper)).clamp(max=0.44).sum(-1)

    found = {"cdist": seconds(step(sizes.batch, twice), 3)}
    part = max(1, sizes.batch // 20)  # all at once does not fit
    found["broadcast"] = seconds(step(part, broadcast), 3) * sizes.batch / part
    say(f"torch: {found}")
    return found


def targets(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was to be reached beside what was."""
    at, factored = (row for row in found["kernels"][:6] if row["width"] == 128)
    reached: dict[str, float | None] = {
        "share of the plain floor": at["plain floor"] / at["seconds"],
        "epoch": found["training"][0]["epoch"],
        "million rows": found["certification"]["seconds"],
        "times torch": None,
        "factored, of plain": factored["pairs"] / at["pairs"],
    }
    if found["torch"] is not None:
        reached["times torch"] = min(found["torch"].values()) / found["training"][0]["step"]
    return {name: {"wanted": TARGETS[name], "reached": value} for name, value in reached.items()}


def table(found: dict[str, Any]) -> str:
    """Return the figures as a short text."""
    machine = found["environment"]
    lines = [f"{machine['gpu']}, {found['checks']} checks passed, {found['seconds']:.0f} s", ""]
    lines.append(
        "   n     M    W  P   form    Gpairs/s  of plain floor  of sum floor  of byte floor"
    )
    for row in [*found["kernels"], *found["plain"]]:
        took = row["seconds"]
        shares = [row[name] / took for name in ("plain floor", "sum floor", "byte floor")]
        lines.append(
            f"{row['features']:4d} {row['boxes']:5d} {row['width']:4d} {row['parts']:2d}   "
            f"{row['form']:6s} {row['pairs'] / 1e9:9.3f}  {shares[0]:13.0%}  {shares[1]:12.0%}"
            f"  {shares[2]:13.1%}"
        )
    lines.append("")
    for row in found["training"]:
        lines.append(
            f"epoch, batch {row['batch']}: {row['epoch']:.3f} s, a step {row['step']:.5f} s"
        )
    million = found["certification"]
    lines.append(f"certification of {million['rows']} rows: {million['seconds']:.3f} s")
    for name, took in (found["torch"] or {}).items():
        lines.append(f"torch {name}: a step {took:.5f} s")
    lines.append("")
    for name, figure in found["targets"].items():
        reached = "not measured" if figure["reached"] is None else f"{figure['reached']:.3g}"
        lines.append(f"{name}: {reached} (wanted {figure['wanted']:g})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
