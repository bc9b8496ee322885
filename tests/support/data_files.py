"""Data for tests: rows in clusters, files written byte by byte, and what ingesting them gives."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxnn_numba.data.dataset import open_dataset, verify_dataset
from boxnn_numba.errors import BoxNNError, DataError
from boxnn_numba.pipelines.ingest import ingest
from boxnn_numba.pipelines.running import RunOptions

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = np.arange(60) % 3
CODES = RNG.integers(0, 256, (60, 4))


def three_clusters(noise: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Return what draws splits: rows (n, 12) of codes and their class indices 0..2, in turn.

    Codes are up to `noise` from the centre of the class. Each call draws further rows.
    """
    rng = np.random.default_rng(0)
    centres = rng.integers(30, 226, (3, 12))

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % 3
        x = centres[y] + rng.integers(-noise, noise + 1, (n, 12))
        return np.clip(x, 0, 255).astype(np.uint8), y.astype(np.int32)

    return split


def idx_bytes(array: np.ndarray) -> bytes:
    """Return a uint8 array as an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, 4, 3) images and labels 0..2."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 4, 3), dtype=np.uint8), (np.arange(n) % 3).astype(np.uint8)


def write_idx_folder(folder: Path, compress: bool = True) -> dict[str, np.ndarray]:
    """Write 30 training and 12 test images with the official names; return the arrays."""
    folder.mkdir(parents=True)
    arrays = {}
    for split, prefix, n in (("train", "train", 30), ("test", "t10k", 12)):
        x, y = images(n, seed=n)
        arrays[f"{split}/x"], arrays[f"{split}/y"] = x, y
        for array, name in ((x, "images-idx3-ubyte"), (y, "labels-idx1-ubyte")):
            data = idx_bytes(array)
            suffix = ".gz" if compress else ""
            (folder / f"{prefix}-{name}{suffix}").write_bytes(
                gzip.compress(data) if compress else data
            )
    return arrays


def run(source: Any, **options: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ingest, verify, and return the rows of each split with their labels (not indices)."""
    summary = ingest(source, "out.zarr", run=RunOptions(overwrite=True), **options)
    assert verify_dataset("out.zarr") == []
    dataset = open_dataset("out.zarr")
    assert summary.digest == dataset.digest
    found = {}
    for split in dataset.splits:
        x, y = dataset.read(split)
        assert summary.rows[split] == len(x)
        found[split] = (x, np.array(dataset.classes)[y])
    return found


def refused(match: str, source: Any, error: type[BoxNNError] = DataError, **options: Any) -> None:
    """Check that ingesting fails in one line and leaves nothing."""
    before = sorted(Path().iterdir())
    with pytest.raises(error, match=match) as caught:
        ingest(source, "refused.zarr", **options)
    assert "\n" not in str(caught.value)
    assert sorted(Path().iterdir()) == before


def together(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return all rows of both splits with their labels as text, sorted."""
    rows = [
        [*map(str, row.tolist()), str(label)]
        for x, y in found.values()
        for row, label in zip(x, y, strict=True)
    ]
    return np.array(sorted(rows))


def expected_rows(x: np.ndarray, y: Sequence[Any] | np.ndarray) -> np.ndarray:
    return together({"all": (x, np.asarray(y))})
