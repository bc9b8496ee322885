"""`boxnn reproduce`: rerun the paper's tables and figures."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options

_TARGETS = (
    *("table1", "table2", "table3"),
    *(f"figure{number}" for number in range(2, 11)),
    *("ablation", "all"),
)


@options.command("Rerun a table or figure of the paper and compare.", "reproducing {target}")
@click.argument("target", type=click.Choice(_TARGETS), metavar="TARGET")
@options.out("Folder for results and their runs.")
@click.option("--data", type=options.StorePath(exists=True), help="Dataset of MNIST.")
@click.option("--fashion", type=options.StorePath(exists=True), help="Dataset of Fashion-MNIST.")
@options.choice(
    "--scale",
    ("quick", "full"),
    help="quick takes some hours on 2 cores, full all settings and all test images.",
)
@click.option("--seed", default=0, help="Seed of all runs.")
@options.precision
@options.threads
@options.overwrite("Delete an earlier reproduction at --out.")
@options.option("--resume", section=options.OUTPUT, is_flag=True, help="Add to what is at --out.")
def reproduce(target: str, out: str, **given: Any) -> options.Output:
    """Rerun TARGET of the paper; write CSV, JSON, a picture and a text beside its values.

    TARGET is table1, table2, table3, figure2 ... figure10, ablation (Table 4 and
    Figures 4 to 9) or all. Data sets that are not given are ingested from where
    `boxnn data fetch` puts them. RA and FPA are rerun if torch is installed;
    other methods are drawn from the published numbers.

    Example: boxnn reproduce table2 --out results --data mnist.zarr
    """
    from boxnn_numba.pipelines.reproduce.reproduce import reproduce as reproduce_target

    chosen = {name: value for name, value in given.items() if value is not None}
    result = reproduce_target(target, out, **chosen)
    texts = [item["text"] for item in result.targets.values()]
    summary = f"{result.seconds:.0f} s; results: {result.out}"
    return result, "\n\n".join([*texts, summary])
