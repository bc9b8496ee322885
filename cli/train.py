"""`boxnn train`: train a model on a dataset."""

from __future__ import annotations

import re
from typing import Any

import click

from boxnn_numba.cli import options
from boxnn_numba.cli.console import as_flags
from boxnn_numba.training.options import (
    GROUPS,
    KINDS,
    OPTIONS,
    PRESETS,
    preset_value,
)

_PRESETS = tuple(PRESETS)
preset_option = options.option(
    "--preset",
    type=click.Choice(_PRESETS),
    help="Values of the options that you do not give. auto, the default for tables, chooses them "
    "by held-out certified accuracy; graded is the default for images; target needs --radius.",
)


def default_text(name: str) -> str:
    """Return the default of an option as text: by preset, for images and other data."""
    texts = {}
    for preset in _PRESETS:
        table, image, colour = (preset_value(name, preset, kind) for kind in KINDS)
        texts[preset] = table if table == image else f"{table}, images {image}"
        texts[preset] += "" if image == colour else f", in colour {colour}"
    first = texts.pop(_PRESETS[0])
    return "; ".join([first, *(f"{key}: {text}" for key, text in texts.items() if text != first)])


def _training_option(name: str) -> options.Decorator:
    declared = OPTIONS[name]
    text = re.sub("`([a-z_]+)`", lambda match: _flag(match[1]), declared.text)
    return options.option(
        _flag(name),
        type=click.Choice(declared.choices) if declared.choices else type(declared.default),
        metavar=declared.limits if declared.bounded else None,
        section=declared.group,
        help=f"{text}  [default: {default_text(name)}]",
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


#: An option for every field of `TrainingOptions`; those that are not given come as None.
training_options = options.all_of(
    *map(_training_option, sorted(OPTIONS, key=lambda name: GROUPS.index(OPTIONS[name].group)))
)


@options.command("Train a model on a dataset.", "training")
@click.argument("data", type=options.StorePath(exists=True))
@options.out("Where the model goes (or .zip).")
@preset_option
@options.option(
    "--checkpoint-seconds",
    default=60.0,
    section=options.OUTPUT,
    help="Save the state of the run after so many seconds, and after every epoch.",
)
@options.option(
    "--effort",
    default=1.0,
    metavar="FACTOR",
    help="Factor of the training steps of the search of preset auto.",
)
@options.option(
    "--radii",
    metavar="R,...",
    help="Radii at which preset auto maximises certified accuracy, whatever the accuracy at 0, "
    "e.g. 1,2,4. [default: 0,1,2,4, giving up at most 3 points of accuracy]",
)
@training_options
@options.cluster
@options.log
@options.run
def train(
    data: str,
    out: str,
    preset: str | None,
    checkpoint_seconds: float,
    effort: float,
    radii: str | None,
    run: Any,
    **given: Any,
) -> options.Output:
    """Train a model on the training split of dataset DATA.

    A part of the training split (--validation) selects the best epoch; the test
    split is not read. A run that was stopped continues with --resume to the same
    model, bit for bit.

    Example: boxnn train mnist.zarr --out model.zarr --preset target --radius 18
    """
    if radii is not None:
        given["radii"] = options.whole_numbers("--radii", radii, "1,2,4")
    from boxnn_numba.pipelines.training.train import train as train_model

    result = train_model(
        data, out, preset=preset, effort=effort, checkpoint_seconds=checkpoint_seconds, run=run,
        **given,
    ).as_dict()  # fmt: skip
    result["warnings"] = [*map(as_flags, result["warnings"])]
    lines = [
        f"{out}: {result['boxes']} boxes{_sets(result['members'])}, best epoch "
        f"{result['best_epoch']} of {result['epochs']}, {result['seconds']:.1f} s"
    ]
    if "search" in result:
        weighted = ", weighted as in training" if result["search"]["weighted"] else ""
        chosen = result["search"]["chosen"]
        lines.append(f"chosen by rows held out in the search{weighted}: {chosen}")
    if "search" not in result or result["validation"]["accuracy"] is not None:
        lines.append(_validation_text(result["validation"]))
    lines += [f"warning: {sentence}" for sentence in result["warnings"]]
    if "cluster" in result:
        lines.append(_cluster_text(result["cluster"]))
    return result, "\n".join(lines)


def _sets(members: int) -> str:
    return f" in each of {members} sets" if members > 1 else ""


def _validation_text(figures: dict[str, Any]) -> str:
    if figures["accuracy"] is None:
        return "validation: nothing was held out (--validation 0)"
    return (
        f"validation: accuracy {100 * figures['accuracy']:.1f}%, median certified radius "
        f"{figures['median_certified_radius']}, mean {figures['mean_certified_radius']:.2f}"
    )


def _cluster_text(figures: dict[str, Any]) -> str:
    overhead = figures["waiting"] - figures["kernels"]
    return (
        f"cluster: {figures['steps']} steps, {figures['tasks']} calls, "
        f"{figures['computing']:.1f} s of kernels on workers; waited {figures['waiting']:.1f} s: "
        f"{figures['kernels']:.1f} s kernels, {overhead:.1f} s overhead; "
        f"{figures['bytes_sent'] / 1e6:.0f} MB sent, {figures['bytes_received'] / 1e6:.0f} MB "
        f"received, {figures['repeats']} steps repeated"
    )
