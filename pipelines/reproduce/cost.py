"""What certifying one image costs with each method of a run, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.pipelines.reproduce.runs import RunStore


def costs(store: RunStore) -> list[dict[str, Any]]:
    """Return what certifying an MNIST image took with every method, as its run measured it.

    Parameters
    ----------
    store
        Has the runs, or makes them.

    Returns
    -------
    list of dict
        ``method``, ``seconds_per_image`` with reading and writing, ``multiply_adds_per_image``,
        ``images`` that it is a mean over, and ``note``.
    """
    file = store.boxnn("mnist", "graded").certificate()
    boxes = file.attributes["training"]["options"]["boxes"]
    n_features = store.opened["mnist"].n_features
    note = "M x n penalties, each a few operations on bytes, counted as one multiply-add"
    rows = [_row("Box-NN", file, boxes * n_features, note)]
    if not store.baselines:
        return rows
    sampling = store.sampling()
    passes = sampling["samples"] + sampling["guess_samples"]
    for method, settings, note in (
        ("ra", store.scale.ra, f"{passes:,} passes through a network; RA^B has the same votes"),
        ("fpa", store.scale.fpa, "a pass through each network; FPA^B has the same scores"),
    ):
        for setting in settings.get("mnist", ()):
            file = store.baseline("mnist", method, setting).certificate("a")
            work = file.attributes["multiply_adds"]
            rows.append(_row(f"{method.upper()}_{setting}", file, work, note))
    return rows


def cost_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the costs as a table."""
    lines = ["cost to certify one image (seconds with reading and writing; multiply-adds):"]
    lines += [
        f"  {item['method']:<8} {_seconds(item['seconds_per_image']):>12} s "
        f"{item['multiply_adds_per_image']:12.3g}   ({item['images']} images; {item['note']})"
        for item in rows
    ]
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _row(method: str, file: CertificateFile, work: int, note: str) -> dict[str, Any]:
    # Not known of a run that was killed after its last chunk, before that was recorded.
    seconds = file.attributes["seconds_per_sample"]
    return {
        "method": method,
        "seconds_per_image": None if seconds is None else float(f"{seconds:.4g}"),
        "multiply_adds_per_image": work,
        "images": len(file),
        "note": note,
    }
