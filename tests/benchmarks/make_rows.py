"""Make a dataset of any number of rows: a dataset's test images, repeated, with seeded noise.

    python tests/benchmarks/make_rows.py mnist.zarr million.zarr --rows 1000000 --seed 0

One chunk is in memory at a time. The noise rewrites 2% of the codes of every
copy, so no two rows are the same.
"""

from __future__ import annotations

import argparse

import numpy as np

from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.dataset import DatasetWriter, open_dataset

_BLOCK = 4096
_CHANGED = 0.02


def make_rows(source: str, out: str, rows: int, seed: int) -> None:
    """Write `rows` noisy copies of the test split of `source` as the test split of `out`."""
    dataset = open_dataset(source)
    x, y = dataset.read("test")
    with staged_output(out) as folder:
        writer = DatasetWriter(
            folder,
            name=f"{dataset.name}-noisy",
            source=f"{rows} noisy copies of {dataset.name}, seed {seed}",
            feature_shape=dataset.feature_shape,
            classes=dataset.classes,
            codes=True,
            n_rows={"train": len(x), "test": rows},
        )
        writer.append("train", x, y)
        for block, first in enumerate(range(0, rows, _BLOCK)):
            chosen = np.arange(first, min(first + _BLOCK, rows)) % len(x)
            noisy = x[chosen]
            rng = np.random.default_rng([seed, block])
            changed = rng.random(noisy.shape, dtype=np.float32) < _CHANGED
            noisy[changed] = rng.integers(0, 256, int(changed.sum()), dtype=np.uint8)
            writer.append("test", noisy, y[chosen])
        writer.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_rows(arguments.source, arguments.out, arguments.rows, arguments.seed)
