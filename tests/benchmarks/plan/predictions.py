"""What `boxnn plan` says of the clusters that the docs speak of.

    python tests/benchmarks/plan/predictions.py

Predictions depend on the constants of the package alone, so they are kept whole: a change of the
formulas or the constants shows in the docs.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from boxnn_numba.pipelines.plan.inputs import Hardware, Job, load_constants
from boxnn_numba.pipelines.plan.predict import predict

RESULTS = Path(__file__).resolve().parents[1] / "results" / "plan.json"
#: Of ImageNet's size, with split boxes on links of 100 Gbit/s.
IMAGENET = Job(samples=1_280_000, features=150_528, boxes=100_000, classes=1000, batch=4096)


def predictions() -> list[dict[str, Any]]:
    """Return speed-up and bytes for MNIST and for ImageNet's size, by workers and client."""
    constants = load_constants()
    found = []
    for boxes, threads, workers in itertools.product((2500, 25_000), (0, 16), (10, 32, 100)):
        hardware = Hardware(workers=workers, client_threads=threads)
        found.append(_kept("mnist", Job(boxes=boxes), hardware, constants))
    for workers in (32, 100):
        hardware = Hardware(workers=workers, box_shards=workers, bandwidth=1.25e10)
        found.append(_kept("imagenet", IMAGENET, hardware, constants))
    return found


def _kept(name: str, job: Job, hardware: Hardware, constants: Any) -> dict[str, Any]:
    plan = predict(job, hardware, constants)
    return {
        "job": name,
        "boxes": job.boxes,
        "workers": hardware.workers,
        "client_threads": hardware.client_threads,
        "speedup": round(plan.speedup, 3),
        "client_sends": round(plan.step["client_sends"]),
    }


def main() -> None:
    """Write the file."""
    RESULTS.write_text(json.dumps({"predictions": predictions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
