"""`boxnn export`: boxes and certificates for other programs."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import console, options

_overwrite = options.overwrite("Replace what is at --out.")
_data = click.option(
    "--data", type=options.StorePath(exists=True), help="The data set, if it was moved."
)


@click.group(cls=options.Group, short_help="Write boxes or results for other programs.")
def export() -> None:
    """Write boxes to a NumPy file, or certificates or attacks to a table."""


def _shown(made: Any) -> options.Output | None:
    from boxnn_numba.data.table_files import STDOUT

    text = f"{made.out}: {made.rows} rows, {made.columns} columns"
    return None if made.out == STDOUT else (made, text)


@export.command(short_help="Write the boxes of a model as .npz.", doing="exporting")
@click.argument("model", type=options.StorePath(exists=True))
@options.out("The .npz file.")
@click.option("--expand", is_flag=True, help="Write all boxes that the templates stand for.")
@_overwrite
def boxes(model: str, out: str, expand: bool, run: Any) -> options.Output:
    """Write the boxes of MODEL to an .npz file, which numpy.load opens without pickle.

    Templates are written as their rows, which recombine part by part; with --expand as all boxes
    that they stand for, up to 100,000.

    Example: boxnn export boxes model.zarr --out boxes.npz
    """
    from boxnn_numba.pipelines.export import export_boxes

    made = export_boxes(model, out, expand=expand, run=run)
    return made, f"{out}: {made.boxes} boxes of {made.features} features"


@export.command(short_help="Write a certificate file as a table.", doing="exporting")
@click.argument("certificate", type=options.StorePath(exists=True))
@options.table_out
@_data
@_overwrite
def certificates(certificate: str, out: str, **given: Any) -> options.Output | None:
    """Write CERTIFICATE as a table: row, label, prediction, radius and class distances.

    If rows have ids in the data set, the table has them too.

    Example: boxnn export certificates cert.zarr --out cert.parquet
    """
    from boxnn_numba.pipelines.export import export_certificates

    return _shown(export_certificates(certificate, out, as_json=console.wants_json(), **given))


@export.command(short_help="Write what attacks change as a table.", doing="exporting")
@click.argument("attack", type=options.StorePath(exists=True))
@options.table_out
@_data
@_overwrite
def attacks(attack: str, out: str, **given: Any) -> options.Output | None:
    """Write the changes of ATTACK as a table: row, column, and the value before and after.

    Example: boxnn export attacks attack.zarr --out changes.csv
    """
    from boxnn_numba.pipelines.export import export_attacks

    return _shown(export_attacks(attack, out, as_json=console.wants_json(), **given))
