"""`boxnn frontier`: a family of models, and the best of them at every radius."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options
from boxnn_numba.cli.train import training_options


@options.command("Train models for many radii; choose the best at each.", "training")
@click.argument("data", type=options.StorePath(exists=True))
@options.out("Folder for the results and runs.")
@click.option(
    "--targets", default="4,8,12,16,20,24,28,32,36,40", help="Radii to aim at, with commas."
)
@training_options
@options.cluster
@options.run
def frontier(data: str, out: str, targets: str, run: Any, **given: Any) -> options.Output:
    """Train presets accurate and graded, and target at each of --targets, on dataset DATA.

    At every radius the model with the best certified accuracy on held-out training data is
    chosen; then the test split is read once. Writes a table (CSV, JSON) and a picture with the
    published methods. A run that was stopped continues with --resume.

    Example: boxnn frontier mnist.zarr --out frontier --boxes 2500
    """
    aims = options.whole_numbers("--targets", targets, "4,8,12")
    from boxnn_numba.pipelines.model_selection.frontier import frontier as find
    from boxnn_numba.pipelines.model_selection.frontier import frontier_text

    found = find(data, out, given, targets=aims, run=run)
    return found, f"{frontier_text(found)}\n{found.seconds:.0f} s; {out}"
