"""`boxnn ensemble`: several models as one."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options


@options.command("Make one model of several.", "joining")
@click.argument("models", nargs=-1, required=True, type=options.StorePath(exists=True))
@options.out("Where the model goes.")
@options.overwrite()
def ensemble(models: tuple[str, ...], out: str, run: Any) -> options.Output:
    """Make one model of MODELS that were trained on the same data with different seeds.

    Its class distances are the sums of theirs, certified in exact integers. The ensemble is used
    like any other model by certify, evaluate, attack and report.

    Example: boxnn ensemble a.zarr b.zarr c.zarr --out all.zarr
    """
    from boxnn_numba.pipelines.ensemble import ensemble as join

    made = join(models, out, run=run)
    return made, f"{out}: {made.members} members, {made.boxes} boxes"
