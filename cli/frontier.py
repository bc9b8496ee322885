"""`boxnn frontier`: a family of models, and the best of them at every radius."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli.common import (
    Command,
    StorePath,
    chosen_cluster,
    cluster_options,
    common_options,
    emit,
    out_option,
    progress,
    run_options,
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
def frontier(
    data: str,
    out: str,
    targets: str,
    overwrite: bool,
    resume: bool,
    device: str,
    threads: int | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train preset graded, and preset target at each of --targets, on dataset DATA.

    At every radius the model with the best certified accuracy on held-out training data is
    chosen; then the test split is read once. Writes a table (CSV, JSON) and a picture with the
    published methods. A run that was stopped continues with --resume.

    Example: boxnn frontier mnist.zarr --out frontier --boxes 2500
    """
    aims = whole_numbers("--targets", targets, "4,8,12")
    cluster = chosen_cluster(options)
    from boxnn_numba.pipelines.model_selection.frontier import HowToTrain
    from boxnn_numba.pipelines.model_selection.frontier import frontier as run
    from boxnn_numba.pipelines.model_selection.frontier_files import frontier_text

    with progress(quiet, "training") as bar:
        how = HowToTrain(device, threads, cluster, bar)
        result = run(data, out, options, targets=aims, overwrite=overwrite, resume=resume, how=how)
    emit(result, as_json, f"{frontier_text(result)}\n{result['seconds']:.0f} s; {out}")
