"""`boxnn frontier`: a family of models, and the best of them at every radius."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli.common import (
    Command,
    StorePath,
    cluster_options,
    common_options,
    emit,
    out_option,
    run_options,
    running,
    whole_numbers,
)
from boxnn_numba.cli.train import training_options


@click.command(cls=Command, short_help="Train models for many radii; choose the best at each.")
@click.argument("data", type=StorePath(exists=True))
@out_option("Folder for the results and runs.")
@click.option(
    "--targets",
    default="4,8,12,16,20,24,28,32,36,40",
    show_default=True,
    help="Radii to aim at, with commas.",
)
@training_options
@cluster_options
@run_options
@common_options
def frontier(data: str, out: str, targets: str, as_json: bool, **options: Any) -> None:
    """Train preset graded, and preset target at each of --targets, on dataset DATA.

    At every radius the model with the best certified accuracy on held-out training data is
    chosen; then the test split is read once. Writes a table (CSV, JSON) and a picture with the
    published methods. A run that was stopped continues with --resume.

    Example: boxnn frontier mnist.zarr --out frontier --boxes 2500
    """
    aims = whole_numbers("--targets", targets, "4,8,12")
    from boxnn_numba.pipelines.model_selection.frontier import frontier as find
    from boxnn_numba.pipelines.model_selection.frontier import frontier_text

    with running("training", options) as run:
        found = find(data, out, options, targets=aims, run=run)
    emit(found.as_dict(), as_json, f"{frontier_text(found)}\n{found.seconds:.0f} s; {out}")
