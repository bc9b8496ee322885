"""Cost of certifying one image with each method of a run, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.pipelines.reproduce.runs import RunStore


def costs(store: RunStore) -> list[dict[str, Any]]:
    """Return what certifying an MNIST image took with every method, as its run measured it."""
    file = store.boxnn("mnist", "graded").certificate()
    work = file.attributes["training"]["options"]["boxes"] * store.opened["mnist"].n_features
    note = "M x n penalties, each a few operations on bytes, counted as one multiply-add"
    rows = [_cost("Box-NN", file, work, note)]
    passes = store.scale.samples + store.scale.guess_samples
    for method, note in (
        ("ra", f"{passes:,} passes through a network; RA^B has the same votes"),
        ("fpa", "a pass through each network; FPA^B has the same scores"),
    ):
        for setting in store.settings("mnist", method):
            file = store.baseline("mnist", method, setting).certificate("a")
            name = f"{method.upper()}_{setting}"
            rows.append(_cost(name, file, file.attributes["multiply_adds"], note))
    return rows


def _cost(method: str, file: CertificateFile, work: int, note: str) -> dict[str, Any]:
    # Not known of a run that was killed after its last chunk, before that was recorded.
    seconds = file.attributes["seconds_per_sample"]
    return {
        "method": method,
        "seconds_per_image": None if seconds is None else float(f"{seconds:.4g}"),
        "multiply_adds_per_image": work,
        "images": len(file),
        "note": note,
    }


def cost_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the costs as a table."""
    lines = ["cost to certify one image (seconds with reading and writing; multiply-adds):"]
    for item in rows:
        seconds = item["seconds_per_image"]
        words = "unknown" if seconds is None else f"{seconds:.3g}"
        lines.append(
            f"  {item['method']:<8} {words:>12} s {item['multiply_adds_per_image']:12.3g}   "
            f"({item['images']} images; {item['note']})"
        )
    return "\n".join(lines)
