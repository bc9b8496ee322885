"""`boxnn export`: boxes and certificates for other programs."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options

_overwrite = options.overwrite("Replace what is at --out.")


@click.group(cls=options.Group, short_help="Write boxes or certificates for other programs.")
def export() -> None:
    """Write boxes to a NumPy file, or certificates to a CSV or Parquet table."""


@export.command(short_help="Write the boxes of a model as .npz.", doing="exporting")
@click.argument("model", type=options.StorePath(exists=True))
@options.out("The .npz file.")
@click.option("--expand", is_flag=True, help="Write all boxes that the templates stand for.")
@_overwrite
def boxes(model: str, out: str, expand: bool, run: Any) -> options.Output:
    """Write the boxes of MODEL to an .npz file, which numpy.load opens without pickle.

    Of templates that is their rows, which recombine part by part; with --expand every box that they
    stand for, up to 100,000.

    Example: boxnn export boxes model.zarr --out boxes.npz
    """
    from boxnn_numba.pipelines.export import export_boxes

    made = export_boxes(model, out, expand=expand, run=run)
    return made, f"{out}: {made.boxes} boxes of {made.features} features"


@export.command(short_help="Write a certificate file as .csv or .parquet.", doing="exporting")
@click.argument("certificate", type=options.StorePath(exists=True))
@options.out("The .csv or .parquet file.")
@_overwrite
def certificates(certificate: str, out: str, run: Any) -> options.Output:
    """Write CERTIFICATE as a table: row, label, prediction, radius and class distances.

    Example: boxnn export certificates cert.zarr --out cert.parquet
    """
    from boxnn_numba.pipelines.export import export_certificates

    made = export_certificates(certificate, out, run=run)
    return made, f"{out}: {made.rows} rows, {made.columns} columns"
