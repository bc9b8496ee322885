"""Write rows of RA and FPA from certificate files, in the form of `boxnn reproduce`: kept JSON.

    boxnn baseline ra train mnist.zarr --out ra.zarr --retained 60 --epochs 60 --precision bfloat16
    boxnn baseline ra certify ra.zarr mnist.zarr --out a.zarr --limit 1000
    boxnn baseline ra certify ra.zarr mnist.zarr --out b.zarr --votes-from a.zarr --certificate b
    python tests/benchmarks/ra_rows.py mnist a.zarr b.zarr --out results/ra-published.json

Where a whole reproduction would take hours, these are the runs of one method. Published rows of
the same family stand beside ours, and what explains each difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boxnn_numba.backends.threads import default_threads
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.pipelines.figures.published import family, published_rows
from boxnn_numba.pipelines.machine import describe_machine
from boxnn_numba.pipelines.reproduce.rows import REMARKS, Row, differences, published_row
from boxnn_numba.pipelines.reproduce.targets import defence_row
from boxnn_numba.pipelines.run_folder import write_json

_OPTIONS = ("network", "precision", "retained", "guess_samples", "parts", "partition", "groups")


def ra_rows(dataset: str, files: Sequence[CertificateFile]) -> dict[str, Any]:
    """Return a result with a row for each file, and the published rows of the families.

    Parameters
    ----------
    dataset
        ``"mnist"``, ``"fashion-mnist"``, or ``"cifar-10"``, of which the paper has none.
    files
        Certificates of RA, RA^B, FPA^A or FPA^B.
    """
    ours = [_row(file, dataset) for file in files]
    families = {row.family for row in ours}
    published = () if dataset == "cifar-10" else published_rows(dataset)
    theirs = [row for row in published if family(row.method) in families]
    rows = [*(published_row(row, dataset) for row in theirs), *ours]
    return {
        "format": "boxnn-reproduction",
        "version": 1,
        "target": "ra",
        "title": "Published defences as they were run here",
        "command": "python tests/benchmarks/ra_rows.py",
        "machine": describe_machine(default_threads()),
        "intervals": "Clopper-Pearson, two-sided, 95% at each radius",
        "differences": differences(rows),
        **{name: find(rows) for name, (_, find) in REMARKS.items()},
        "rows": [asdict(row) for row in rows],
    }


def _row(file: CertificateFile, dataset: str) -> Row:
    said = file.attributes
    base, mark, variant = file.method.partition("^")
    options = {name: said[name] for name in _OPTIONS if name in said}
    options |= {name: said["base"]["recipe"][name] for name in ("epochs", "seed")}
    run = {
        "options": options,
        "validation_accuracy": said["base"]["validation_accuracy"],
        "training_seconds": round(said["training"]["seconds"], 1),
        "seconds_per_image": said["seconds_per_sample"],
        "multiply_adds_per_image": said["multiply_adds"],
    }
    setting = said["retained" if base == "RA" else "parts"]
    return defence_row(file, f"{base}_{setting}{mark}{variant}", dataset, run)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=("mnist", "fashion-mnist", "cifar-10"))
    parser.add_argument("certificates", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    write_json(given.out, ra_rows(given.dataset, [open_certificate(p) for p in given.certificates]))


if __name__ == "__main__":
    main()
