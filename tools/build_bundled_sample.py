"""Build data/bundled/mnist-sample.npz from the official IDX files of MNIST.

    python tools/build_bundled_sample.py DIR [--out FILE]

The same input gives the same bytes with the same zlib: entries have a fixed date and order.
"""

from __future__ import annotations

import argparse
import io
import itertools
import zipfile
from pathlib import Path

import numpy as np

from boxnn_numba.data.sources.blocks import Table
from boxnn_numba.data.sources.idx import idx_tables

OUT = Path(__file__).parent.parent / "data" / "bundled" / "mnist-sample.npz"
ROWS = {"": 10_000, "_test": 2_000}


def first_rows(table: Table, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `count` images (count, 28, 28) and labels, both uint8."""
    blocks = list(itertools.islice(table.blocks(), count))
    x = np.concatenate([block.x for block in blocks])[:count]
    y = np.concatenate([block.labels for block in blocks])[:count]
    return x.reshape(count, *table.feature_shape), y.astype(np.uint8)


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz archive that depends on nothing but the arrays."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same on every system
            entry.external_attr = 0o644 << 16
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def main() -> None:
    """Read the command line and build the sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="folder with the four IDX files")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    arrays = {}
    for suffix, table in zip(ROWS, idx_tables(options.directory), strict=True):
        if table is None:
            parser.error(f"{options.directory} has no test split")
        arrays[f"x{suffix}"], arrays[f"y{suffix}"] = first_rows(table, ROWS[suffix])
    write(options.out, arrays)


if __name__ == "__main__":
    main()
