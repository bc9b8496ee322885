"""`boxnn data`: fetch, ingest, look at and verify datasets."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from boxnn_numba.cli import console, options
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.text import printable

PATH = click.Path(path_type=Path)


@click.group(cls=options.Group)
def data() -> None:
    """Fetch, ingest, look at and verify datasets."""


@data.command("list")
def list_(quiet: bool) -> options.Output:
    """List the named data sets and whether they are on this machine."""
    from boxnn_numba.data.sources.catalogue import NAMED, available

    sources = [
        {"name": name, "description": text, "available": available(name)}
        for name, text in NAMED.items()
    ]
    lines = []
    for item in sources:
        place = item["available"] or f"not here; run `boxnn data fetch {item['name']}`"
        lines += [f"{item['name']:14} {item['description']}", f"{'':14} {place}"]
    own = (
        "Your own: tables (.csv, .tsv, .parquet), images (a folder or .zip), Zarr, .nc, .npz, "
        ".npy, IDX files (boxnn data ingest)."
    )
    return {"sources": sources}, "\n".join([*lines, own])


@data.command(short_help="Download a data set from its official mirror.", doing="Fetching {name}")
@click.argument("name")
def fetch(name: str, run: Any) -> options.Output:
    """Download data set NAME (mnist, fashion-mnist or cifar-10) from its official mirror."""
    from boxnn_numba.data.sources.catalogue import fetch as fetch_files

    folder = fetch_files(name, run.progress)
    return {"name": name, "path": str(folder)}, f"{name} is in {folder}"


def _table_options(command: Any) -> Any:
    """Add what says how a table is read."""
    table = functools.partial(options.option, section="Tables")
    return options.all_of(
        table("--label", metavar="COLUMN", help="Label column; without it rows have no labels."),
        table("--test", type=PATH, help="A second table, the test split."),
        table("--split", "split_column", metavar="COLUMN", help="Column that says train or test."),
        table("--id", "id_column", metavar="COLUMN", help="Column that names rows; kept aside."),
        table("--drop", metavar="COLUMNS", help="Columns to leave out, with commas."),
        table("--categorical", metavar="COLUMNS", help="Columns to treat as categories."),
        table("--numeric", metavar="COLUMNS", help="Columns that must be numbers."),
        options.missing,
        options.separator,
        table("--like", type=options.StorePath(exists=True), metavar="MODEL",
              help="Make all rows test rows for this model and its columns; --label is optional."),
    )(command)  # fmt: skip


@data.command(doing="Ingesting {source}")
@click.argument("source")
@options.out("Dataset to make, e.g. mnist.zarr.")
@click.option("--from", "directory", type=PATH, help="Folder of the files of a named data set.")
@click.option(
    "--labels", type=options.StorePath(), help="Labels of an .npy or IDX file or of a Zarr array."
)
@click.option("--x", metavar="NAME", help="Array of samples in a Zarr group, .nc or .npz file.")
@click.option("--y", metavar="NAME", help="Array of labels in the same file or group.")
@click.option("--codes", is_flag=True, help="Features are whole numbers 0..255; keep them so.")
@click.option("--shape", metavar="H,W[,C]", help="Shape of one sample, e.g. 28,28.")
@click.option("--name", help="Name of the dataset; that of the source by default.")
@click.option(
    "--test-fraction", default=0.2, help="Share of the rows for testing, if there is no test split."
)
@click.option("--seed", default=0, help="Seed of the test split.")
@_table_options
@options.overwrite()
def ingest(source: str, out: str, shape: str | None, **given: Any) -> options.Output:
    """Write SOURCE as a dataset.

    SOURCE is mnist, fashion-mnist, cifar-10, digits, mnist-sample, a table (.csv, .tsv or .parquet,
    also with .gz or .zst), a folder or zip of images (CLASS/NAME.png, or train/CLASS/NAME.png and
    test/CLASS/NAME.png), an .npz (arrays x, y and optionally x_test, y_test; or x_train, ...) or
    .npy file, a Zarr array or a Zarr group with arrays x, y (or x_train, ..., or train/x, ...) or
    its URL, a file of netCDF, or a folder of IDX files.

    The kind of each column of a table (numbers, categories, booleans or ISO dates) is found from
    all rows. Cells may be empty.

    Example: boxnn data ingest table.csv --label kind --out table.zarr
    """
    sizes = _sizes(shape)
    from boxnn_numba.data.sources.tables import TableOptions
    from boxnn_numba.pipelines.ingest import ingest as write_source

    table = TableOptions(**options.table_values(given))
    made = write_source(source, out, shape=sizes, table=table, **given)
    return made, "\n".join(_ingested(out, made))


def _ingested(out: str, made: Any) -> Iterator[str]:
    """Say what was written."""
    yield (
        f"{out}: {made.rows['train']} training and {made.rows['test']} test rows, "
        f"{made.features} features, {len(made.classes)} classes in {made.seconds:.1f} s"
    )
    if made.unlabelled:
        count = "1 row has" if made.unlabelled == 1 else f"{made.unlabelled} rows have"
        yield f"{count} no label"
    if set(made.columns or ()) - {"number"}:
        plurals = {"number": "numbers", "category": "categories", "boolean": "booleans",
                   "date": "dates"}  # fmt: skip
        kinds = (
            f"{count} {kind if count == 1 else plurals[kind]}"
            for kind, count in made.columns.items()
        )
        yield f"columns: {', '.join(kinds)}"
    for note in made.notes:
        yield f"note: {console.as_flags(note)}"


@data.command()
@click.argument("path", type=options.StorePath())
def info(path: str, quiet: bool) -> options.Output:
    """Show what is in the dataset at PATH."""
    import numpy as np

    from boxnn_numba.data.dataset import open_dataset
    from boxnn_numba.pipelines.ingest import column_facts

    dataset = open_dataset(path)
    splits = {}
    for split in dataset.splits:
        y = dataset.read_labels(split)
        counts = np.bincount(y[y >= 0], minlength=len(dataset.classes))
        splits[split] = {"rows": dataset.n_rows(split), "rows_per_class": counts.tolist()}
        if (y < 0).any():
            splits[split]["unlabelled"] = int((y < 0).sum())
    result = {
        "name": dataset.name,
        "path": str(path),
        "source": dataset.source,
        "features": dataset.n_features,
        "feature_shape": list(dataset.feature_shape),
        "codes": dataset.is_codes,
        "classes": dataset.classes,
        "splits": splits,
        "digest": dataset.digest,
    }
    facts = column_facts(dataset)
    if facts is not None:
        result["columns"] = facts
    if dataset.id_name is not None:
        result["id"] = dataset.id_name
    return result, "\n".join([*_info_lines(result), *_column_lines(facts or [])])


def _info_lines(result: dict[str, Any]) -> Iterator[str]:
    """Show what is in a dataset, and how many rows each class has."""
    kind = "uint8 codes" if result["codes"] else "float32 values"
    shape, classes = " x ".join(map(str, result["feature_shape"])), result["classes"]
    named = f"; rows are named by {result['id']!r}" if "id" in result else ""
    yield f"{result['name']}, from {result['source']}{named}"
    yield f"{shape} features, {kind}; {len(classes)} classes; digest {result['digest'][:12]}"
    yield f"{'class':>16} {'train':>9} {'test':>9}"
    train, test = result["splits"].values()
    counts = zip(classes, train["rows_per_class"], test["rows_per_class"], strict=True)
    for name, *numbers in counts:
        yield f"{name!s:>16} {numbers[0]:9} {numbers[1]:9}"
    bare = [split.get("unlabelled", 0) for split in (train, test)]
    if any(bare):
        yield f"{'(no label)':>16} {bare[0]:9} {bare[1]:9}"
    yield f"{'all':>16} {train['rows']:9} {test['rows']:9}"


def _column_lines(facts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Show the columns of a dataset as a table."""
    if not facts:
        return
    width = min(32, max(6, *(len(fact["name"]) for fact in facts)))
    yield ""
    yield f"{'column':<{width}}  {'kind':<8} {'missing':>8} {'distinct':>9}  values"
    for fact in facts:
        distinct = f"{fact['distinct']}{'+' if fact['more'] else ''}"
        # Widths are those of what is shown.
        name, values = printable(fact["name"])[:width], printable(fact["values"])
        yield f"{name:<{width}}  {fact['kind']:<8} {fact['missing']:>8} {distinct:>9}  {values}"


@data.command(short_help="Compare a dataset with its checksums.")
@click.argument("path", type=options.StorePath())
def verify(path: str, quiet: bool) -> None:
    """Read every byte of the dataset at PATH and compare it with its checksums."""
    from boxnn_numba.data.dataset import verify_dataset

    problems = verify_dataset(path)
    text = "\n".join(problems) or f"{path} is sound"
    console.emit({"path": str(path), "sound": not problems, "problems": problems}, text)
    if problems:
        number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{path} has {number}; ingest it again")


def _sizes(shape: str | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    try:
        return tuple(int(size) for size in shape.replace("x", ",").split(","))
    except ValueError:
        raise OptionError(f"shape is {shape!r}; write it as 28,28 or 32,32,3") from None
