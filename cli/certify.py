"""`boxnn certify`, `boxnn predict` and `boxnn evaluate`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from boxnn_numba.cli import console, options
from boxnn_numba.errors import OptionError
from boxnn_numba.text import exact as exact_text


@options.command("Certify every sample of a split.", "certifying")
@click.argument("model", type=options.StorePath(exists=True))
@click.argument("data", type=options.StorePath(exists=True))
@options.out("Where the certificates go.")
@options.split
@options.choice(
    "--certificate",
    ("margin", "pairwise", "exact", "patch"),
    default=None,
    help="margin (the default of images, and with --device cuda), pairwise (at least as large; the "
    "default of tables), exact (the true radius), or patch: blocks of pixels.",
)
@options.attackable
@options.costs("radii are budgets, too.")
@click.option(
    "--patch",
    metavar="SIZES",
    help="Blocks of --certificate patch: sides or rows x columns, e.g. 2,5,3x7.",
)
@click.option("--limit", type=int, help="Certify only this many rows, spread evenly.")
@click.option("--exact", type=int, help="The same as --certificate exact --limit N.", metavar="N")
@click.option(
    "--time-limit",
    default=60.0,
    help="Seconds for each exact radius; then only bounds.",
)
@options.chunk
@options.cluster
@options.log
@options.run
def certify(
    out: str,
    certificate: str | None,
    limit: int | None,
    exact: int | None,
    attackable: str | None,
    costs: str | None,
    **given: Any,
) -> options.Output:
    """Certify every sample of a split of dataset DATA with MODEL.

    Writes, for each sample, the prediction and the certified radius: how many
    features may be rewritten arbitrarily without changing the prediction.

    Example: boxnn certify model.zarr mnist.zarr --out cert.zarr
    """
    if exact is not None:
        if certificate not in (None, "exact") or limit is not None:
            raise OptionError("--exact N says --certificate exact --limit N; leave those two out")
        certificate, limit = "exact", exact
    from boxnn_numba.pipelines.certification.certify import certify as work

    result = work(
        out=out,
        certificate=certificate or "auto",
        limit=limit,
        attackable=options.column_names(attackable),
        costs=options.column_costs(costs),
        **given,
    ).as_dict()
    return result, (
        f"{out}: {result['n']} samples in {result['seconds']:.2f} s, "
        + ("no labels" if result["accuracy"] is None else f"accuracy {result['accuracy']:.2f}%")
        + f", median certified radius {exact_text(result['median_certified_radius'])}"
        + (f", {result['settled']:.2f}% settled" if "settled" in result else "")
        + "".join(f"\n{line}" for line in _unlabelled_lines(result))
        + "".join(
            f"\nright and certified against {size} patches {share:.2f}%"
            for size, share in result.get("patches", {}).items()
        )
        + cluster_text(result.get("cluster"))
    )


def _unlabelled_lines(result: dict[str, Any]) -> list[str]:
    if "unlabelled" not in result:
        return []
    what = "rows that have no label of the model's classes count as wrong"
    return [f"{what}: {result['unlabelled']:,}"]


def cluster_text(spent: dict[str, Any] | None) -> str:
    """Return a line on where the time of a cluster went, if there was one."""
    if spent is None:
        return ""
    return (
        f"\ncluster: {spent['tasks']} tasks, {spent['kernels']:.1f} s of kernels, "
        f"{spent['transfer']:.1f} s reading and writing {spent['nbytes'] / 1e6:.0f} MB, "
        f"{spent['overhead']:.1f} s overhead"
    )


@options.command("Predict and certify rows of a table or an array, or images.", "predicting")
@click.argument("model", type=options.StorePath(exists=True))
@click.argument("file", type=click.Path(exists=True))
@options.table_out
@options.choice(
    "--certificate",
    ("margin", "pairwise", "exact"),
    default=None,
    help="Certificate of the radii, each at least as large as the one before, and slower. "
    "[default: margin for images, pairwise for tables]",
)
@click.option("--distances", is_flag=True, help="Add the distance to every class, in units.")
@click.option(
    "--changes",
    is_flag=True,
    help="Add the smallest change found, and its label.",
)
@options.rows_of_a_table
@options.overwrite("Replace what is at --out.")
@options.device
@options.chunk
def predict(model: str, file: str, out: str, **given: Any) -> options.Output | None:
    """Write the label and certified radius of every row of FILE.

    FILE is a table (.csv, .tsv or .parquet, also with .gz or .zst), whose columns are matched by
    name, an .npy or .npz array, or an image, or a folder or .zip of images, which are named by
    their files. It may lack the label column of the training data.

    Example: boxnn predict model.zarr rows.csv --out predictions.csv
    """
    from boxnn_numba.data.sources.tables import TableOptions
    from boxnn_numba.data.table_files import STDOUT
    from boxnn_numba.pipelines.predict import predict as work

    table = TableOptions(**options.table_values(given))
    result = work(model, file, out, table=table, as_json=console.wants_json(), **given)
    warnings = [f"warning: {sentence}" for sentence in result.warnings or ()]
    if out == STDOUT:
        for line in warnings:
            click.echo(line, err=True)
        return None
    return result, "\n".join([f"{out}: {result.n} rows", *warnings])


def curve_table(result: dict[str, Any]) -> str:
    """Return the summary of a certificate file as text."""
    curve = result["certified_accuracy"]
    width = max(7, *(len(radius) + 1 for radius in curve))
    always = f"always {result['majority']['class']}"[:18].ljust(19)
    lines = [
        f"n {result['n']}   accuracy {result['accuracy']:.2f}%   median certified radius "
        f"{exact_text(result['median_certified_radius'])}   ({_kind(result)})",
        *_unlabelled_lines(result),
        *([f"abstains on {result['abstained']:.2f}%"] if "abstained" in result else []),
        "radius             " + "".join(radius.rjust(width) for radius in curve),
        "certified accuracy " + _values(curve.values(), width),
        always + _values([result["majority"]["accuracy"]] * len(curve), width),
        "balanced           " + _values(result["balanced_certified_accuracy"].values(), width),
        always + _values([result["majority"]["balanced_accuracy"]] * len(curve), width),
        *_patch_lines(result.get("patches")),
        *_exact_lines(result.get("exact"), width),
        *_attack_lines(result.get("under_attack")),
        "",
        "class              n     recall   median   mean radius",
    ]
    lines += [
        f"{row['class']!s:<14}{row['n']:>6}{100 * row['recall']:>10.1f}%"
        f" {exact_text(row['median_certified_radius']):>8}{row['mean_certified_radius']:>14.2f}"
        for row in result["per_class"]
    ]
    return "\n".join(lines)


def _values(values: Iterable[float], width: int = 7) -> str:
    return "".join(f"{value:>{width}.1f}" for value in values)


def _kind(result: dict[str, Any]) -> str:
    words = f"{result['convention']} convention"
    if result["certificate"] in ("pairwise", "exact"):
        words = f"{result['certificate']} certificate"
    words = f"{words}, radii in {result['unit']}"
    free = result.get("attackable")
    return words if free is None else f"{words}, {free} of them attackable"


def _patch_lines(patches: dict[str, float] | None) -> list[str]:
    if patches is None:
        return []
    return [
        "patch of pixels    " + "".join(f"{size:>7}" for size in patches),
        "certified accuracy " + _values(patches.values()),
    ]


def _exact_lines(exact: dict[str, Any] | None, width: int) -> list[str]:
    if exact is None or exact["settled"] == 100:
        return []
    return [
        "true value at most " + _values(exact["upper"].values(), width),
        f"the true radius of {100 - exact['settled']:.2f}% is known by bounds only; certify with "
        f"a --time-limit above {exact['time_limit']:g} s to settle more",
    ]


def _attack_lines(attacked: dict[str, Any] | None) -> list[str]:
    if attacked is None:
        return []
    if attacked["patches"]:  # its changes are not the fewest, and say nothing of radii
        return [
            f"by one block of {size}: {row['robust_accuracy']:.1f}% right under attack"
            + (f", {row['certified_accuracy']:.1f}% certified" if row["gap"] is not None else "")
            for size, row in attacked["patches"].items()
        ]
    names = {"robust_accuracy": "under attack", "gap": "gap"}
    some = attacked["n"] < attacked["of"]
    if some:
        names = {"certified_accuracy": "certified, these", **names}
    most = attacked["max_features"]
    return [
        *([f"the {attacked['n']} attacked rows of {attacked['of']}:"] if some else []),
        *(
            f"{title:<19}" + _values(row[name] for row in attacked["radii"].values())
            for name, title in names.items()
        ),
        f"attack: {attacked['method']}, found on {attacked['found']:.2f}%"
        + ("" if most is None else f" with at most {most} changes")
        + ("" if attacked["features"] is None else f" of features in {attacked['features']}")
        + f"; {attacked['meets']:.2f}% need exactly one change more than is certified, none fewer",
    ]


@options.command("Summarise a certificate file.")
@click.argument("certificate", type=options.StorePath(exists=True))
@click.option(
    "--radii",
    help="Radii to evaluate, with commas; by default 0,4,...,40 for images, else up to the end of "
    "the curve.",
)
@options.convention
@click.option(
    "--attack",
    type=options.StorePath(exists=True),
    help="Attack file of the same model, data and split, to compare with the certificates.",
)
def evaluate(
    certificate: str, radii: str | None, convention: str, attack: str | None, quiet: bool
) -> options.Output:
    """Print the certified accuracy at each radius, the median radius and a table per class.

    "Balanced" counts all classes alike. The line "always" is the majority-class baseline: it always
    predicts the most frequent class, so it is certified at every radius. A model below this line
    certifies less than that.

    With --attack also the accuracy that is left under attack, and the gap. An attack within a
    certified radius is an error.

    Example: boxnn evaluate cert.zarr --radii 0,4,8
    """
    chosen = None if radii is None else options.numbers("--radii", radii, "0,4,8")
    from boxnn_numba.pipelines.evaluate import evaluate as work

    result = work(certificate, chosen, convention, attack).as_dict()
    return result, curve_table(result)
