"""`boxnn train`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from boxnn_numba.cli.common import (
    StorePath,
    chosen_cluster,
    cluster_options,
    common_options,
    emit,
    progress,
    run_options,
)
from boxnn_numba.training.options import PRESETS, TrainingOptions, resolve

_HELP = {
    "boxes": "Number of boxes, split evenly over the classes.",
    "width": "Cap of one feature's penalty, 1..255 codes.",
    "train_width": "Cap while training, if it differs from --width.",
    "alpha": "Half the side of the initial boxes, as a fraction of the range.",
    "initialisation": "data or random: where the initial boxes are centred.",
    "epochs": "Passes over the training data.",
    "batch": "Samples in a step (alone it does not change the learning curve of sgd).",
    "optimizer": "sgd or adam.",
    "momentum": "Momentum of sgd.",
    "weight_decay": "Weight decay.",
    "lr": "Learning rate; for sgd per 100 samples.",
    "crowd": "Samples that may pull at a box in a step with full weight (sgd), 0 for no limit.",
    "schedule": "Learning rate over time: linear, cosine or constant.",
    "softmin": "Smooth minimum: boltzmann, logsumexp, hard or mean.",
    "tau": "Inverse temperature of the smooth minimum.",
    "objective": "paper, clip or target.",
    "beta": "Where the margin is clipped, in features.",
    "radius": "Radius that preset or objective target aims at.",
    "sharpness": "Scale of the logistic of objective target, in features.",
    "keep": "Share of the clipped margin in objective target, 0..1; keeps small radii.",
    "warmup": "Share of the epochs with objective clip before objective target.",
    "relaxation": "graded, or l1 and l2 for the paper's ablation.",
    "leak": "Factor of the gradient beyond the width, 0..1.",
    "augment": "Strength of distortions of training images, 1 for those below, 0 for none.",
    "rotation": "Largest rotation by --augment 1, in degrees.",
    "scaling": "Largest change of height and width, as a fraction.",
    "shear": "Largest slant, in rows or columns per column or row.",
    "shift": "Largest shift, in pixels.",
    "displacement": "Largest shift of every eighth pixel, linear in between, in pixels.",
    "validation": "Fraction of the training data kept apart to select and report.",
    "group_size": "Features that an adversary rewrites together (3 for RGB).",
    "seed": "Seed of the split, the initial boxes and the order of samples.",
}


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every field of `TrainingOptions`; unset ones come as None."""
    for item in reversed(fields(TrainingOptions)):
        flag = "--" + item.name.replace("_", "-")
        kind = {"int": int, "float": float, "str": str}[str(item.type)]
        text = f"{_HELP[item.name]}  [default: {item.default}]"
        command = click.option(flag, item.name, type=kind, help=text)(command)
    return command


@click.command(short_help="Train a model on a dataset.")
@click.argument("data", type=StorePath(exists=True))
@click.option("--out", required=True, type=StorePath(), help="Where the model goes (or .zip).")
@click.option(
    "--preset",
    default="graded",
    show_default=True,
    help=f"One of {', '.join(PRESETS)}; target needs --radius. Options below go before it.",
)
@click.option(
    "--checkpoint-seconds",
    default=60.0,
    show_default=True,
    help="Save the state of the run when it is this old, and after every epoch.",
)
@training_options
@cluster_options
@run_options
@common_options
def train(
    data: str,
    out: str,
    preset: str,
    checkpoint_seconds: float,
    overwrite: bool,
    resume: bool,
    device: str,
    threads: int | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a model on the training split of dataset DATA.

    A part of the training split (--validation) selects the best epoch; the test
    split is not read. A run that was stopped continues with --resume to the same
    model, bit for bit.

    Example: boxnn train mnist.zarr --out model.zarr --preset target --radius 18
    """
    cluster = chosen_cluster(options)
    from boxnn_numba.data.dataset import open_dataset
    from boxnn_numba.pipelines.training.train import train as run

    resolve(preset, options)  # what is wrong with options comes before what is with data
    settings = resolve(preset, options, open_dataset(data).are_images)

    with progress(quiet, "training") as bar:
        result = functools.partial(run, data, out, settings, preset=preset, progress=bar)(
            overwrite=overwrite,
            resume=resume,
            device=device,
            threads=threads,
            cluster=cluster,
            checkpoint_seconds=checkpoint_seconds,
        )
    text = (
        f"{out}: {result['boxes']} boxes, best epoch {result['best_epoch']} of {result['epochs']}, "
        f"{result['seconds']:.1f} s\n{_validation_text(result['validation'])}"
    )
    text += "".join(f"\nwarning: {sentence}" for sentence in result["warnings"])
    if "cluster" in result:
        text += "\n" + _cluster_text(result["cluster"])
    emit(result, as_json, text)


def _validation_text(figures: dict[str, Any]) -> str:
    if figures["accuracy"] is None:
        return "validation: nothing was held out (--validation 0)"
    return (
        f"validation: accuracy {100 * figures['accuracy']:.1f}%, median certified radius "
        f"{figures['median_certified_radius']}, mean {figures['mean_certified_radius']:.2f}"
    )


def _cluster_text(figures: dict[str, Any]) -> str:
    overhead = figures["waiting"] - figures["kernels"] - figures["transfer"]
    return (
        f"cluster: {figures['steps']} steps, {figures['tasks']} tasks, "
        f"{figures['computing']:.1f} s of kernels on workers; waited {figures['waiting']:.1f} s: "
        f"{figures['kernels']:.1f} s kernels, {figures['transfer']:.1f} s transfer, "
        f"{overhead:.1f} s overhead; "
        f"{figures['bytes_sent'] / 1e6:.0f} MB sent, {figures['repeats']} steps repeated"
    )
