"""`boxnn ensemble`: several models as one."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli.common import (
    Command,
    StorePath,
    common_options,
    emit,
    out_option,
    overwrite_option,
    running,
)


@click.command(cls=Command, short_help="Make one model of several.")
@click.argument("models", nargs=-1, required=True, type=StorePath(exists=True))
@out_option("Where the model goes.")
@overwrite_option()
@common_options
def ensemble(models: tuple[str, ...], out: str, as_json: bool, **options: Any) -> None:
    """Make one model of MODELS that were trained on the same data with other seeds.

    Its class distances are their sums, which are certified as exactly as those of one model;
    certify, evaluate, attack and report take it like any other.

    Example: boxnn ensemble a.zarr b.zarr c.zarr --out all.zarr
    """
    from boxnn_numba.pipelines.ensemble import ensemble as join

    with running("joining", options) as run:
        made = join(models, out, run=run)
    emit(made.as_dict(), as_json, f"{out}: {made.members} members, {made.boxes} boxes")
