"""`boxnn tune`: search training options."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options
from boxnn_numba.cli.train import training_options
from boxnn_numba.training.options import PRESETS


@options.command("Search training options on held-out data.", "tuning")
@click.argument("data", type=options.StorePath(exists=True))
@options.out("JSON file of the study.", click.Path(dir_okay=False))
@click.option("--trials", default=20, help="Number of trials in all.")
@options.choice(
    "--preset",
    tuple(name for name in PRESETS if name != "auto"),
    help="Values of the options that you do not give; target needs --radius.",
)
@click.option(
    "--search",
    help="Options to search, with commas; by default width,alpha,beta,tau,lr and, for images, "
    "augment.",
)
@training_options
@options.run
def tune(
    data: str, out: str, preset: str, trials: int, search: str | None, run: Any, **given: Any
) -> options.Output:
    """Search training options for dataset DATA with Optuna (pip install 'boxnn-numba[tune]').

    Maximises, on the held-out part of the training split, the certified accuracy at --radius, or
    without --radius the area under the certified curve. Other options below are the same in all
    trials.
    A study that was stopped continues with --resume.

    Example: boxnn tune mnist.zarr --out study.json --trials 30 --boxes 1000 --epochs 4
    """
    names = None if search is None else [word.strip() for word in search.split(",")]
    from boxnn_numba.pipelines.model_selection.tune import command_line
    from boxnn_numba.pipelines.model_selection.tune import tune as search_options

    found = search_options(data, out, given, preset=preset, trials=trials, search=names, run=run)
    ended = ", ".join(f"{count} {state}" for state, count in found.trials.items())
    text = f"{out}: {ended} in {found.seconds:.0f} s"
    if found.best is not None:
        text += f"\nbest {found.objective}: {found.best['value']:.4f}\n"
        text += command_line(found, data)
    return found, text
