"""`boxnn plan`: predict times and memory of jobs on a cluster."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from boxnn_numba.cli import options
from boxnn_numba.cli.console import as_flags
from boxnn_numba.errors import OptionError


def bytes_per_second(text: str) -> float:
    """Return the bytes per second of e.g. ``10Gbit/s``, ``1.25GB/s`` or ``1.25e9``."""
    from dask.utils import parse_bytes

    size = re.sub(r"(/s|ps)$", "", text.strip(), flags=re.IGNORECASE)
    # A lone b is a bit, as in Gb/s and Gbps; B is a byte.
    bits = re.fullmatch(r"(.*[^Bb])(b|[Bb][Ii][Tt][Ss]?)", size)
    advice = "is no rate; write bytes per second, 1.25GB/s or 10Gbit/s"
    rate = _parsed(parse_bytes, f"{bits[1]}B" if bits else size, f"bandwidth {text!r} {advice}")
    return rate / 8 if bits else rate


def seconds(text: str) -> float:
    """Return the seconds of e.g. ``50us``, ``0.2ms`` or ``5e-5``."""
    from dask.utils import parse_timedelta

    advice = f"latency {text!r} is no time; write seconds, 0.2ms or 50us"
    return _parsed(parse_timedelta, text.strip().replace("µ", "u"), advice)


def _parsed(parse: Callable[[str], float], text: str, advice: str) -> float:
    try:
        if not text[:1].isdigit() and text[:1] != ".":  # Dask takes a unit alone as one of it
            raise ValueError(text)
        return float(parse(text))
    except (KeyError, ValueError, OverflowError):
        raise OptionError(advice) from None


@options.command("Predict time and memory on a cluster.")
@click.option("--samples", default=60_000, help="Samples N.")
@click.option("--features", default=784, help="Features n.")
@click.option("--boxes", default=2500, help="Boxes M.")
@click.option("--parts", default=1, help="Parts in which templates recombine.")
@click.option("--classes", default=10, help="Classes K.")
@click.option("--batch", default=2000, help="Samples in a step.")
@click.option("--width", default=112, help="Width of the boxes.")
@click.option("--validation", default=0.1,
              help="Fraction of held-out rows, which the client evaluates.")  # fmt: skip
@click.option("--workers", default=2, help="Workers.")
@click.option("--threads-per-worker", default=1,
              help="Threads of each worker.")  # fmt: skip
@click.option(
    "--client-threads", default=0, help="Threads of the client; 0 for as many as a worker."
)
@click.option("--box-shards", default=0, help="Split the boxes too, in this many parts.")
@click.option("--bandwidth", multiple=True, default=("10Gbit/s",),
              help="Bandwidth of a host's link; several draw several curves.")  # fmt: skip
@click.option("--store-bandwidth",
              help="Bandwidth of the shared store; by default that of a link.")  # fmt: skip
@click.option("--latency", default="50us", help="Latency of a message.")
@click.option("--constants", type=click.Path(), help="Measured constants, a JSON file.")
@click.option("--plot", type=click.Path(), help="PNG file for the curve to 1,000 workers.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --plot.")
def plan(
    bandwidth: tuple[str, ...],
    store_bandwidth: str | None,
    latency: str,
    threads_per_worker: int,
    constants: str | None,
    plot: str | None,
    overwrite: bool,
    quiet: bool,
    **sizes: Any,
) -> options.Output:
    """Predict the speed of training and certification on a cluster.

    Prints times of a step and an epoch, bytes, memory, the bottleneck, and the
    speed-up for up to 1,000 workers, from constants measured on one machine.
    Each worker is assumed to have a link of its own.

    Example: boxnn plan --boxes 25000 --workers 16 --bandwidth 10Gbit/s --plot plan.png
    """
    links = [bytes_per_second(text) for text in bandwidth]
    store = bytes_per_second(store_bandwidth) if store_bandwidth else 0.0
    from boxnn_numba.pipelines.plan.inputs import DEFAULT_CONSTANTS, Hardware, Job, load_constants
    from boxnn_numba.pipelines.plan.predict import predict
    from boxnn_numba.pipelines.plan.report import draw_plan, plan_text

    job_names = ("samples", "features", "boxes", "classes", "batch", "width", "validation", "parts")
    job = Job(**{name: sizes.pop(name) for name in job_names})
    clusters = [
        Hardware(**sizes, threads=threads_per_worker, bandwidth=link, store_bandwidth=store,
                 latency=seconds(latency))
        for link in links
    ]  # fmt: skip
    known = load_constants(constants or DEFAULT_CONSTANTS)
    result = predict(job, clusters[0], known)
    if plot is not None:
        draw_plan([(f"{job.boxes:,} boxes", job, clusters)], known, plot, overwrite=overwrite)
    return result, as_flags(plan_text(result))
