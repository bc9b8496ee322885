"""What certifying one image costs with each method, measured one after another in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from boxnn_numba.model_file import load_model
from boxnn_numba.pipelines.certify import certify
from boxnn_numba.pipelines.reproduce_runs import RunStore

#: Images that are timed; an image takes RA about a second.
_RA_IMAGES, _FPA_IMAGES = 4, 1000
_BOXNN_NOTE = "M x n; a box and a feature are a few operations on bytes, counted as one"


def measure_costs(store: RunStore) -> list[dict[str, Any]]:
    """Time the certification of MNIST images with every method that was run.

    Parameters
    ----------
    store
        Has the runs, or makes them.

    Returns
    -------
    list of dict
        ``method``, ``seconds_per_image``, ``multiply_adds_per_image``, ``images`` that were
        timed, and ``note``. Seconds are of a whole certification, with reading and writing.
    """
    rows = [_boxnn_cost(store)]
    if store.baselines:
        rows += [_baseline_cost(store, "ra", k) for k in store.scale.ra.get("mnist", ())]
        rows += [_baseline_cost(store, "fpa", t) for t in store.scale.fpa.get("mnist", ())]
    return rows


def cost_text(costs: Sequence[Mapping[str, Any]]) -> str:
    """Return the costs as a table."""
    lines = ["cost to certify one image (seconds with reading and writing; multiply-adds):"]
    lines += [
        f"  {item['method']:<8} {item['seconds_per_image']:12.3g} s "
        f"{item['multiply_adds_per_image']:12.3g}   ({item['images']} images; {item['note']})"
        for item in costs
    ]
    return "\n".join(lines)


def _boxnn_cost(store: RunStore) -> dict[str, Any]:
    model = store.boxnn("mnist", "graded").model
    boxes = load_model(model).boxes
    with TemporaryDirectory(prefix="boxnn-") as scratch:
        # The first call loads compiled kernels, which is not the cost of an image.
        for name in ("warm.zarr", "cert.zarr"):
            result = certify(
                model, store.datasets["mnist"], Path(scratch) / name, threads=store.threads
            )
    work = len(boxes) * boxes.n_features
    return _row("Box-NN", result, result["n"], work, _BOXNN_NOTE)


def _baseline_cost(store: RunStore, method: str, setting: int) -> dict[str, Any]:
    pipeline = import_module("boxnn_numba.pipelines.baseline")
    run, sampling = store.baseline("mnist", method, setting), store.sampling()
    images = store.opened["mnist"].n_rows("test")
    if method == "ra":
        options = {**sampling, "limit": min(_RA_IMAGES, sampling["limit"] or images)}
        passes = sampling["samples"] + sampling["guess_samples"]
        note = f"{passes:,} passes through the network; RA^B from the same votes"
    else:
        options = {"limit": min(_FPA_IMAGES, images)}
        passes, note = 1, f"one pass through each of {setting} networks; FPA^B from the same scores"
    with TemporaryDirectory(prefix="boxnn-") as scratch:
        result = pipeline.certify_baseline(
            run.model, store.datasets["mnist"], Path(scratch) / "cert.zarr", certificate="a",
            seed=store.seed, threads=store.threads, **options,
        )  # fmt: skip
    work = passes * result["multiply_adds"]
    return _row(f"{method.upper()}_{setting}", result, options["limit"], work, note)


def _row(
    method: str, result: Mapping[str, Any], images: int, work: int, note: str
) -> dict[str, Any]:
    return {
        "method": method,
        "seconds_per_image": float(f"{result['seconds'] / images:.4g}"),
        "multiply_adds_per_image": work,
        "images": images,
        "note": note,
    }
