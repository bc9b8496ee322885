"""`boxnn report`: figures, tables and a page about certificates."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli.common import (
    Command,
    StorePath,
    common_options,
    convention_option,
    emit,
    out_option,
    overwrite_option,
    running,
)


@click.command(
    cls=Command,
)
@click.argument("certificates", nargs=-1, required=True, type=StorePath(), metavar="CERT")
@out_option("Folder to make (must be new).")
@click.option("--data", type=StorePath(), help="The data set, if it was moved (for images).")
@click.option(
    "--model",
    "models",
    multiple=True,
    type=StorePath(),
    help="The model, if it was moved (for images); once per certificate.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    type=StorePath(exists=True),
    help="Attack file of a model, to draw beside its certificate; once per certificate.",
)
@convention_option
@overwrite_option("Replace an earlier report.")
@common_options
def report(certificates: tuple[str, ...], out: str, as_json: bool, **options: Any) -> None:
    """Compare certificates with each other and the paper: PNG, CSV and one HTML page.

    CERT are files made by `boxnn certify`, all of one data set and split.
    """
    from boxnn_numba.pipelines.report.report import report as make_report

    with running("Report", options) as run:
        result = make_report(certificates, out, run=run, **options).as_dict()
    emit(result, as_json, _text(result))


def _text(result: dict[str, Any]) -> str:
    lines = [
        f"{run['name']}: accuracy {run['accuracy']:.2f}%, median certified radius "
        f"{run['median_certified_radius']} ({result['convention']}, {run['n']} samples)"
        for run in result["runs"]
    ]
    return "\n".join([*lines, *result["notes"], f"Report: {result['page']}"])
