"""The main kernels under pytest-benchmark: ``pytest tests/benchmarks --benchmark-enable``.

Without the option each runs once, as a plain test. `bench.py` measures more, and peers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from benchmarks.method import Samples, random_boxes, random_codes
from benchmarks.training import make_trainer, step_problem
from scipy.ndimage import affine_transform

from boxnn_numba import Boxes, box_distance, class_distance, pairwise_distance
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.kernels.augmentation import POSITION_BITS
from boxnn_numba.training.augmentation import Augmentation
from boxnn_numba.training.options import TrainingOptions

ROWS, FEATURES, BOXES, CLASSES = 256, 784, 1000, 10


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """Samples of uniform codes."""
    return random_codes(np.random.default_rng(0), ROWS, FEATURES)


def boxes_of(width: int) -> Boxes:
    """Boxes around uniform centres."""
    lower, upper = random_boxes(np.random.default_rng(1), BOXES, FEATURES)
    return Boxes(lower, upper, np.arange(BOXES) % CLASSES, width)


@pytest.mark.parametrize("width", [1, 128, 255])
def test_class_distance(benchmark: Any, codes: np.ndarray, width: int) -> None:
    boxes = boxes_of(width)
    found = benchmark(class_distance, codes, boxes)
    nearest = pairwise_distance(codes[:4], boxes)
    expected = [nearest[:, boxes.labels == c].min(axis=1) for c in range(CLASSES)]
    assert found[:4].tolist() == np.transpose(expected).tolist()


@pytest.mark.parametrize("width", [1, 128, 255])
def test_pairwise_distance(benchmark: Any, codes: np.ndarray, width: int) -> None:
    boxes = boxes_of(width)
    found = benchmark(pairwise_distance, codes, boxes)
    x, lower, upper = (side.astype(int) for side in (codes[0], boxes.lower[0], boxes.upper[0]))
    excess = np.maximum(np.maximum(lower - x, x - upper), 0)
    assert found[0, 0] == np.minimum(excess, width).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_distance_of_floats(benchmark: Any, codes: np.ndarray, dtype: Any) -> None:
    boxes = boxes_of(128)
    bounds = boxes.lower[:100].astype(dtype), boxes.upper[:100].astype(dtype)
    found = benchmark(box_distance, codes.astype(dtype), *bounds, 128)
    assert np.array_equal(found, pairwise_distance(codes, boxes)[:, :100])


@pytest.mark.parametrize("batch", [100, 256])
def test_training_step(benchmark: Any, codes: np.ndarray, batch: int) -> None:
    y = (np.arange(ROWS) % CLASSES).astype(np.int32)
    samples = Samples("random", (codes, y), (codes, y), CLASSES)
    x, labels, boxes = step_problem(samples, 200, batch)
    backend = get_backend("cpu")
    trainer = make_trainer(backend, boxes, CLASSES, 128, batch)
    values, _ = benchmark(trainer.step, x, labels, 1e-9)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("peer", ["ours", "scipy"])
def test_augmentation(benchmark: Any, codes: np.ndarray, peer: str) -> None:
    """Distorted images: ours beside SciPy's linear interpolation at the same positions."""
    distort = Augmentation((28, 28), TrainingOptions(augment=1.0, displacement=0.0), threads=1)
    affine, _ = distort.maps(np.arange(ROWS), 0)

    def by_scipy() -> np.ndarray:
        maps, images = affine / 2**POSITION_BITS, codes.reshape(-1, 28, 28).astype(np.float32)
        kind = {"order": 1, "mode": "nearest"}
        found = [
            affine_transform(image, a[:, :2], a[:, 2], **kind)
            for image, a in zip(images, maps, strict=True)
        ]
        return np.rint(found).astype(np.uint8).reshape(ROWS, -1)

    found = benchmark(by_scipy if peer == "scipy" else lambda: distort(codes, 0, 0))
    assert np.abs(found.astype(int) - by_scipy()).max() <= 2
