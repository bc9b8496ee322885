"""Draw docs/images/plan.png: what `boxnn plan` predicts for MNIST and for ImageNet's size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from boxnn_numba.pipelines.plan.inputs import Hardware, Job, load_constants
from boxnn_numba.pipelines.plan.report import draw_plan

IMAGE = Path(__file__).resolve().parent.parent / "docs" / "images" / "plan.png"
MNIST = Job()
IMAGENET = Job(samples=1_281_167, features=150_528, boxes=100_000, classes=1000, batch=4096)


def main() -> None:
    """Write the picture."""
    links = [Hardware(bandwidth=1.25e9), Hardware(bandwidth=1.25e10)]
    split = [replace(link, box_shards=1) for link in links]
    draw_plan(
        [
            ("MNIST: 60,000 × 784, 2,500 boxes, batch 2,000", MNIST, links),
            ("1.28 M × 150,528 features, 100,000 boxes, batch 4,096", IMAGENET, split),
        ],
        load_constants(),
        IMAGE,
        overwrite=True,
    )


if __name__ == "__main__":
    main()
