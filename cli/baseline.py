"""`boxnn baseline`: the published defences RA, RA^B, FPA^A and FPA^B, and boosted stumps."""

from __future__ import annotations

import copy
from typing import Any

import click

from boxnn_numba.cli import options
from boxnn_numba.cli.certify import evaluate


@click.group(cls=options.Group, short_help="Train and certify the published defences.")
def baseline() -> None:
    """Train, certify and evaluate the published defences that Box-NN is compared with.

    Networks need torch: pip install 'boxnn-numba[baselines]'.
    """


@baseline.group(short_help="Randomized ablation, RA and RA^B.")
def ra() -> None:
    """Randomized ablation: one network sees a few random features, thousands of times."""


@baseline.group(short_help="Feature partition, FPA^A and FPA^B.")
def fpa() -> None:
    """Feature partition aggregation: many submodels, each of which sees its own features."""


@baseline.group(short_help="Boosted stumps, for tables.")
def stumps() -> None:
    """Boosted stumps: scores that are sums over columns, each clipped, certified exactly."""


for _group in (ra, fpa, stumps):
    _evaluate = copy.copy(evaluate)
    _file = "stumps-cert" if _group is stumps else f"{_group.name}-a"
    _own = f"boxnn baseline {_group.name} evaluate {_file}.zarr"
    _evaluate.help = (evaluate.help or "").replace("boxnn evaluate cert.zarr", _own)
    _group.add_command(_evaluate)


# --- train -----------------------------------------------------------------------------


_train_options = options.all_of(
    click.argument("data", type=options.StorePath(exists=True)),
    options.out("Where it goes (or .zip)."),
    click.option("--seed", default=0, help="Seed of the training."),
    options.run,
)


_group_size = click.option(
    "--group-size",
    type=int,
    help="Consecutive features that count as one. [default: a pixel's channels, else 1]",
)
_epochs = click.option("--epochs", type=int, help="Most passes of networks over the data.")


def _train(method: str, data: str, out: str, **given: Any) -> options.Output:
    from boxnn_numba.pipelines.training.baselines import train_baseline

    result = train_baseline(data, out, method=method, **given).as_dict()
    accuracy = result["validation_accuracy"]
    words = "" if accuracy is None else f", {accuracy:.1f}% of single validation samples right"
    chosen = [f"{result[name]:g} {name}" for name in ("rounds", "parts") if name in result]
    chosen += [f"clip {result['clip']:g}"] if "clip" in result else []
    return result, (
        f"{out}: {', '.join([*chosen, ''])}{result['multiply_adds']:,} multiply-adds an "
        f"evaluation, {result['seconds']:.1f} s{words}"
    )


@ra.command("train", short_help="Train a network on ablated samples.", doing="training")
@click.option(
    "--retained",
    type=int,
    required=True,
    help="Features k, or pixels, that each sample keeps.",
)
@click.option("--base", type=click.Choice(["cnn", "mlp"]), help="[default: cnn for images]")
@click.option(
    "--network", type=click.Choice(["published", "small"]), help="[default: published for a cnn]"
)
@options.precision
@_group_size
@_epochs
@_train_options
def train_ra(**given: Any) -> options.Output:
    """Train a network on the training split of DATA, keeping random features of each sample.

    Example: boxnn baseline ra train mnist.zarr --out ra.zarr --retained 45
    """
    return _train("ra", **given)


@fpa.command("train", short_help="Train the submodels of a partition.", doing="training")
@click.option("--parts", type=int, help="Submodels T. [default: with trees, the best]")
@options.choice(
    "--partition",
    ("strided", "strided-columns", "random", "patch"),
    help="Which features a submodel sees.",
)
@click.option("--base", type=click.Choice(["mlp", "trees"]), help="[default: mlp]")
@click.option("--trees", type=int, help="Trees of a submodel. [default: 50]")
@_group_size
@_epochs
@_train_options
def train_fpa(**given: Any) -> options.Output:
    """Train a network, or trees, for each part of the features on the training split of DATA.

    Trees suit tables and need no torch; without --parts the number of
    parts is chosen on held-out rows.

    Example: boxnn baseline fpa train table.zarr --out fpa.zarr --base trees
    """
    return _train("fpa", **given)


@stumps.command("train", short_help="Boost stumps and clip each column.", doing="training")
@click.option("--rounds", type=int, help="Rounds of boosting. [default: the best on held-out rows]")
@click.option("--clip", type=float, help="Most that a column adds, as a share. [default: the best]")
@click.option("--sampled", type=float, help="Share of columns a stump sees. [default: the best]")
@_train_options
def train_stumps(**given: Any) -> options.Output:
    """Boost stumps on the training split of DATA, and clip what each column contributes.

    With a small clip and few sampled columns, no column decides alone, so
    radii are larger. Needs no torch.

    Example: boxnn baseline stumps train table.zarr --out stumps.zarr
    """
    return _train("stumps", **given)


# --- certify ---------------------------------------------------------------------------


def _certify_options(letters: str = "") -> options.Decorator:
    letter = [options.choice("--certificate", ("a", "b"), help=letters)] if letters else []
    return options.all_of(
        click.argument("model", type=options.StorePath(exists=True)),
        click.argument("data", type=options.StorePath(exists=True)),
        options.out("The certificate file."),
        *letter,
        options.split,
        click.option("--limit", type=int, help="Certify only so many samples, evenly spread."),
        options.cluster,
        options.run,
    )


def _certify(method: str, out: str, **given: Any) -> options.Output:
    from boxnn_numba.pipelines.certification.baselines import certify_baseline

    result = certify_baseline(out=out, method=method, **given).as_dict()
    text = (
        f"{out}: {result['method']}, {result['n']} samples in {result['seconds']:.2f} s, "
        + ("no labels" if result["accuracy"] is None else f"accuracy {result['accuracy']:.2f}%")
        + f", abstains on {result['abstained']:.2f}%, median certified "
        f"radius {result['median_certified_radius']}, {result['multiply_adds']:,} multiply-adds a "
        "sample"
    )
    return result, "\n".join([text, *([result["note"]] if result["note"] else [])])


@ra.command(
    "certify", short_help="Certify samples of a split by randomized ablation.", doing="certifying"
)
@_certify_options("a for RA, b for RA^B.")
@click.option("--samples", default=10_000, help="Votes that bound a class.")
@click.option("--guess-samples", default=1_000, help="Votes that guess the class.")
@click.option("--alpha", default=0.05, help="Error probability of each certificate.")
@click.option("--seed", default=0, help="Seed of the retained features.")
@click.option("--votes-from", type=options.StorePath(exists=True), help="Reuse this file's votes.")
def certify_ra(**given: Any) -> options.Output:
    """Certify samples of dataset DATA with MODEL, made by boxnn baseline ra train.

    Both certificates use the same votes: with --votes-from the second one
    takes seconds.

    Example: boxnn baseline ra certify ra.zarr mnist.zarr --out ra-a.zarr --limit 500
    """
    return _certify("ra", **given)


@fpa.command(
    "certify", short_help="Certify samples of a split by feature partition.", doing="certifying"
)
@_certify_options("a for plurality (FPA^A), b for run-off (FPA^B).")
def certify_fpa(**given: Any) -> options.Output:
    """Certify samples of dataset DATA with MODEL, made by boxnn baseline fpa train.

    Example: boxnn baseline fpa certify fpa.zarr mnist.zarr --out fpa-b.zarr --certificate b
    """
    return _certify("fpa", **given)


@stumps.command("certify", short_help="Certify samples of a split exactly.", doing="certifying")
@_certify_options()
def certify_stumps(**given: Any) -> options.Output:
    """Certify samples of dataset DATA with MODEL, made by boxnn baseline stumps train.

    Radii are exact: columns contribute independently, so the largest gains decide.

    Example: boxnn baseline stumps certify stumps.zarr table.zarr --out stumps-cert.zarr
    """
    return _certify("stumps", certificate="exact", **given)
