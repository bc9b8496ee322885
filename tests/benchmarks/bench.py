"""The benchmark of this machine: kernels, training, certification, growth, start-up, and peers.

    python tests/benchmarks/bench.py --out bench.json --plot bench-plots

Medians of runs that alternate with those of SciPy, scikit-learn, torch and JAX where these are
installed. Close other programs first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.suites import SUITES, report_text
from benchmarks.suites import bench as run

from boxnn_numba.errors import BoxNNError
from boxnn_numba.progress import SILENT


class Notes:
    """Progress as lines on standard error."""

    def start(self, total: int, unit: str) -> None:
        """Say nothing."""

    def advance(self, n: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)


@click.command(help=__doc__)
@click.option(
    "--suite", default=",".join(SUITES), show_default=True, help="What to measure, with commas."
)
@click.option("--quick", is_flag=True, help="Fewer sizes and rounds; less than a minute.")
@click.option("--plot", type=click.Path(), help="Folder to make for PNG files.")
@click.option("--out", type=click.Path(), help="JSON file to write.")
@click.option("--threads", type=int, help="Threads to use; all cores by default.")
@click.option("--data", type=click.Path(), help="Dataset of codes; bundled by default.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --out and --plot.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def bench(
    suite: str,
    quick: bool,
    plot: str | None,
    out: str | None,
    threads: int | None,
    data: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the suites and print what they found."""
    suites = [word.strip() for word in suite.split(",") if word.strip()]
    result = run(
        suites, quick=quick, threads=threads, data=data, out=out, plot=plot, overwrite=overwrite,
        progress=SILENT if quiet else Notes(),
    )  # fmt: skip
    click.echo(json.dumps(result) if as_json else report_text(result))


if __name__ == "__main__":
    try:
        bench()
    except BoxNNError as error:
        sys.exit(f"bench: {error}")
