"""`boxnn plan`."""

from __future__ import annotations

import re
from typing import Any

import click

from boxnn_numba.cli.common import Command, StorePath, common_options, emit, progress
from boxnn_numba.errors import OptionError

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2.0**10, "mi": 2.0**20,
             "gi": 2.0**30}  # fmt: skip
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_RATE = re.compile(r"([0-9.]+(?:e[+-]?\d+)?)\s*([kmgt]i?)?(bit|bits|b)?(?:/s|ps)?", re.IGNORECASE)
_TIME = re.compile(r"([0-9.]+(?:e[+-]?\d+)?)\s*([a-zµ]*)", re.IGNORECASE)


def bandwidth(text: str) -> float:
    """Return the bytes per second of e.g. ``10Gbit/s``, ``1.25GB/s`` or ``1.25e9``."""
    match = _RATE.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError(text)
        rate = float(match[1]) * _PREFIXES[(match[2] or "").lower()]
    except (KeyError, ValueError):
        raise OptionError(
            f"bandwidth {text!r} is no rate; write bytes per second, 1.25GB/s or 10Gbit/s"
        ) from None
    unit = match[3] or ""
    # A lone b is a bit, as in Gb/s and Gbps; B is a byte.
    return rate / 8 if unit == "b" or unit.lower().startswith("bit") else rate


def latency(text: str) -> float:
    """Return the seconds of e.g. ``50us``, ``0.2ms`` or ``5e-5``."""
    match = _TIME.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError(text)
        return float(match[1]) * _SECONDS[match[2].lower()]
    except (KeyError, ValueError):
        raise OptionError(f"latency {text!r} is no time; write seconds, 0.2ms or 50us") from None


@click.command(cls=Command, short_help="Predict time and memory on a cluster.")
@click.option("--samples", type=int, default=60_000, show_default=True, help="Samples N.")
@click.option("--features", type=int, default=784, show_default=True, help="Features n.")
@click.option("--boxes", type=int, default=2500, show_default=True, help="Boxes M.")
@click.option("--classes", type=int, default=10, show_default=True, help="Classes K.")
@click.option("--batch", type=int, default=2000, show_default=True, help="Samples in a step.")
@click.option("--width", type=int, default=112, show_default=True, help="Width of the boxes.")
@click.option("--validation", type=float, default=0.1, show_default=True,
              help="Fraction kept apart, which the client judges.")  # fmt: skip
@click.option("--workers", type=int, default=2, show_default=True, help="Workers.")
@click.option("--threads-per-worker", type=int, default=1, show_default=True,
              help="Threads of each worker.")  # fmt: skip
@click.option("--client-threads", type=int, default=0, help="Those of the client, if others.")
@click.option("--box-shards", type=int, default=0, help="Split the boxes too, in this many parts.")
@click.option("--bandwidth", "bandwidths", multiple=True, default=("10Gbit/s",),
              show_default=True, help="Of a host's link; more for more curves.")  # fmt: skip
@click.option("--store-bandwidth", help="Of the store that all share; that of a link by default.")
@click.option("--latency", "delay", default="50us", show_default=True, help="Of a message.")
@click.option("--constants", type=click.Path(), help="Measured constants, a JSON file.")
@click.option("--calibrate", is_flag=True, help="Measure this machine first.")
@click.option("--calibrate-cluster", is_flag=True, help="Dask too, on two local workers.")
@click.option("--calibrate-data", "data", type=StorePath(exists=True), metavar="DATASET",
              help="What depends on the data too, by training on this dataset.")  # fmt: skip
@click.option("--save", type=click.Path(), help="JSON file for what was measured.")
@click.option("--plot", type=click.Path(), help="PNG file for the curve to 1,000 workers.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --save and --plot.")
@common_options
def plan(
    bandwidths: tuple[str, ...],
    store_bandwidth: str | None,
    delay: str,
    threads_per_worker: int,
    constants: str | None,
    calibrate: bool,
    calibrate_cluster: bool,
    data: str | None,
    save: str | None,
    plot: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Predict training and certification on a cluster that is not there.

    Step and epoch time, bytes, memory, what limits them, and how it goes on to
    1,000 workers, from constants measured on one machine. Each worker is taken
    to have a link of its own.

    Example: boxnn plan --boxes 25000 --workers 16 --bandwidth 10Gbit/s --plot plan.png
    """
    measure = calibrate or calibrate_cluster or data is not None
    if measure and constants is not None:
        raise OptionError("pass --constants or --calibrate, not both")
    if save is not None and not measure:
        raise OptionError("--save needs --calibrate: there is nothing new to save")
    links = [bandwidth(text) for text in bandwidths]
    store = bandwidth(store_bandwidth) if store_bandwidth else 0.0
    from benchmarks.plan_calibrate import calibrate as run_calibration

    from boxnn_numba.pipelines.plan import predict as model
    from boxnn_numba.pipelines.plan.inputs import (
        DEFAULT_CONSTANTS,
        Hardware,
        Job,
        load_constants,
        save_constants,
    )  # fmt: skip
    from boxnn_numba.pipelines.plan.report import draw_plan, plan_text

    job_names = ("samples", "features", "boxes", "classes", "batch", "width", "validation")
    job = Job(**{name: sizes.pop(name) for name in job_names})
    clusters = [
        Hardware(**sizes, threads=threads_per_worker, bandwidth=link, store_bandwidth=store,
                 latency=latency(delay))
        for link in links
    ]  # fmt: skip
    if measure:
        with progress(quiet, "measuring") as bar:
            known = run_calibration(calibrate_cluster, data, bar)
    else:
        known = load_constants(DEFAULT_CONSTANTS if constants is None else constants)
    if save is not None:
        save_constants(known, save, overwrite=overwrite)
    result = model.predict(job, clusters[0], known)
    result["curve"] = model.curve(job, clusters[0], known)
    result["takeover"] = model.takeover(result["curve"])
    result["constants"] = known.as_dict()
    if plot is not None:
        draw_plan([(f"{job.boxes:,} boxes", job, clusters)], known, plot, overwrite=overwrite)
    emit(result, as_json, plan_text(result))
