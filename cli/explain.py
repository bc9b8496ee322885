"""`boxnn explain`: nearest boxes of rows and the smallest changes of their predictions."""

from __future__ import annotations

from typing import Any

import click

from boxnn_numba.cli import options


@options.command("Explain the predictions of some rows.", "explaining")
@click.argument("model", type=options.StorePath(exists=True))
@click.argument("file", type=click.Path(exists=True))
@click.option("--rows", help="Numbers of rows, from 0, with commas.  [default: 0]")
@click.option(
    "--ids",
    metavar="NAMES",
    help="Values of the --id column, with commas: the rows to explain, in place of --rows.",
)
@click.option(
    "--time-limit",
    default=5.0,
    help="Seconds for each row to prove that no change is smaller; 0 skips the proof.",
)
@options.attackable
@options.costs("look for the cheapest change, not the smallest.")
@options.rows_of_a_table
def explain(
    model: str,
    file: str,
    rows: str | None,
    ids: str | None,
    attackable: str | None,
    costs: str | None,
    **given: Any,
) -> options.Output:
    """Explain why rows of FILE have their predictions, and what would change them.

    Prints, for each row, the nearest box of the predicted class and of its rival in the table's own
    values, what each column adds to the distances, and the smallest change of columns found that
    gives another prediction. FILE is as for `boxnn predict`.

    Example: boxnn explain model.zarr rows.csv --rows 0,7
    """
    from boxnn_numba.data.sources.tables import TableOptions
    from boxnn_numba.pipelines.predict import explain as work

    chosen = None if rows is None else options.whole_numbers("--rows", rows, "0,7")
    named = None if ids is None else options.names_of(ids)
    table = TableOptions(**options.table_values(given))
    given["attackable"] = options.column_names(attackable)
    given["costs"] = options.column_costs(costs)
    result = work(model, file, chosen, ids=named, table=table, **given)
    return result, str(result)
