"""`boxnn bench`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from boxnn_numba.cli.common import StorePath, common_options, emit, progress

_SUITES = "kernel,peers,training,certification,growth,startup"


@click.command(short_help="Measure this machine, and peers on it.")
@click.option("--suite", default=_SUITES, show_default=True, help="What to measure, with commas.")
@click.option("--quick", is_flag=True, help="Fewer sizes and rounds; less than a minute.")
@click.option("--plot", type=StorePath(), help="Folder to make for PNG files.")
@click.option("--out", type=StorePath(), help="JSON file to write.")
@click.option("--threads", type=int, help="Threads to use; all cores by default.")
@click.option("--data", type=StorePath(exists=True), help="Dataset of codes; bundled by default.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --out and --plot.")
@common_options
def bench(
    suite: str,
    quick: bool,
    plot: str | None,
    out: str | None,
    threads: int | None,
    data: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure kernels, training, certification, growth and start-up on this machine.

    Medians of runs that alternate with those of SciPy, scikit-learn, torch and
    JAX where these are installed. Close other programs first.

    Example: boxnn bench --out bench.json --plot bench-plots
    """
    suites = [word.strip() for word in suite.split(",") if word.strip()]
    from benchmarks.suites import bench as run
    from benchmarks.suites import report_text

    with progress(quiet, "measuring") as bar:
        result = run(
            suites, quick=quick, threads=threads, data=data, out=out, plot=plot,
            overwrite=overwrite, progress=bar,
        )  # fmt: skip
    emit(result, as_json, report_text(result))


if __name__ == "__main__":
    bench()
