"""`boxnn verify`: check digests and contents of a file, and recompute certificates."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import console, options
from boxnn_numba.errors import DataError


@options.command("Check a file; recompute a certificate.", "Verifying {path}")
@click.argument("path", type=options.StorePath(exists=True), metavar="FILE")
@click.option(
    "--model", type=options.StorePath(exists=True), help="Model of a certificate or an attack."
)
@click.option(
    "--data", type=options.StorePath(exists=True), help="Dataset of a certificate or an attack."
)
@click.option(
    "--sample", type=int, help="Recompute only so many rows, chosen at random; all by default."
)
def verify(path: str, **given: Any) -> None:
    """Check FILE, a dataset, a model, a certificate or an attack.

    Reads the whole file, compares it with its digests, and checks that its values are possible. For
    a certificate or an attack, --model and --data recompute its rows.

    Example: boxnn verify cert.zarr --model model.zarr --data test.zarr --sample 100
    """
    from boxnn_numba.pipelines.verify import verify as work

    found = work(path, **given)
    console.emit(found.as_dict(), "\n".join([*found.problems, _text(found)]))
    if not found.sound:
        raise DataError(f"{path} is not what it says: {found.problems[0]}; do not rely on it")


def _text(found: Any) -> str:
    name = f"{found.kind} {found.path}, digest {found.digest}"
    if not found.recomputed:
        more = "; pass --model and --data to recompute its rows" if found.rows else ""
        return f"{name}: {'sound' if found.sound else 'damaged'}{more}"
    redone = f"{found.recomputed} of {found.rows} rows recomputed"
    return f"{name}: {redone}, {'as it says' if found.sound else 'not as it says'}"
