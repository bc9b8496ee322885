"""`boxnn report`: figures, tables and a page about certificates."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options


@options.command("Draw and compare certificates on one page.", "Report")
@click.argument(
    "certificates", nargs=-1, required=True, type=options.StorePath(), metavar="CERT..."
)
@options.out("Folder to make.")
@click.option(
    "--data", type=options.StorePath(), help="The data set, if it was moved (for images)."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=options.StorePath(),
    help="The model, if it was moved (for images); once per certificate.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    type=options.StorePath(exists=True),
    help="Attack file of a model, to draw beside its certificate; once per certificate.",
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=options.StorePath(exists=True, dir_okay=False),
    help="Log of a training run, to draw its learning curves; may be repeated.",
)
@options.convention
@options.choice(
    "--published",
    ("best", "all"),
    help="Published methods in the figures: the best at each radius, or all. The page has both.",
)
@options.overwrite("Replace an earlier report.")
def report(certificates: tuple[str, ...], out: str, **given: Any) -> options.Output:
    """Compare certificates with each other and the paper: PNG, CSV and one HTML page.

    CERT are files made by `boxnn certify`, all for the same data set and split. A .csv file has
    radii of another method: the header prediction,radius and a line for each row of the split.

    Example: boxnn report cert.zarr other-method.csv --out report
    """
    from boxnn_numba.pipelines.report.report import report as make_report

    result = make_report(certificates, out, **given).as_dict()
    return result, _text(result)


def _text(result: dict[str, Any]) -> str:
    lines = [
        f"{run['name']}: accuracy {run['accuracy']:.2f}%, balanced "
        f"{run['balanced_accuracy']:.2f}%, median certified radius "
        f"{run['median_certified_radius']} ({result['convention']}, {run['n']} samples"
        + (f", radii in {run['unit']})" if run["unit"].startswith("cost") else ")")
        for run in result["runs"]
    ]
    constant = result["constant"]
    lines.append(
        f"always {constant['name']}: {constant['accuracy']:.2f}%, balanced "
        f"{constant['balanced_accuracy']:.2f}%, at every radius"
    )
    return "\n".join([result["headline"], *lines, *result["notes"], f"Report: {result['page']}"])
