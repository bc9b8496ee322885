"""`boxnn data`: fetch, ingest, look at and verify datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from boxnn_numba.cli import console, options
from boxnn_numba.errors import DataError, OptionError

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
    own = "Your own: a folder of IDX files, .npz, .npy, .csv, .tsv, .parquet (boxnn data ingest)."
    return {"sources": sources}, "\n".join([*lines, own])


@data.command(short_help="Download a data set from its official mirror.", doing="Fetching {name}")
@click.argument("name")
def fetch(name: str, run: Any) -> options.Output:
    """Download data set NAME (mnist or fashion-mnist) from its official mirror."""
    from boxnn_numba.data.sources.catalogue import fetch as fetch_files

    folder = fetch_files(name, run.progress)
    return {"name": name, "path": str(folder)}, f"{name} is in {folder}"


@data.command(doing="Ingesting {source}")
@click.argument("source")
@options.out("Dataset to make, e.g. mnist.zarr.")
@click.option("--from", "directory", type=PATH, help="Folder with the four IDX files.")
@click.option("--label", metavar="COLUMN", help="Label column of a CSV or Parquet table.")
@click.option("--labels", type=PATH, help="File with the labels of an .npy or IDX file.")
@click.option("--codes", is_flag=True, help="Features are whole numbers 0..255; keep them so.")
@click.option("--shape", metavar="H,W[,C]", help="Shape of one sample, e.g. 28,28.")
@click.option("--name", help="Name of the dataset; that of the source by default.")
@click.option("--test-fraction", default=0.2, help="If there is no test split.")
@click.option("--seed", default=0, help="Seed of the test split.")
@options.overwrite()
def ingest(source: str, out: str, shape: str | None, **given: Any) -> options.Output:
    """Write SOURCE as a dataset.

    SOURCE is mnist, fashion-mnist, digits, mnist-sample, a folder of IDX files, or an .npz
    (arrays x, y and optionally x_test, y_test), .npy, .csv, .tsv or .parquet file.
    """
    sizes = _sizes(shape)
    from boxnn_numba.pipelines.ingest import ingest as write_source

    made = write_source(source, out, shape=sizes, **given)
    return made, (
        f"{out}: {made.rows['train']} training and {made.rows['test']} test rows, "
        f"{made.features} features, {len(made.classes)} classes in {made.seconds:.1f} s"
    )


@data.command()
@click.argument("path", type=options.StorePath())
def info(path: str, quiet: bool) -> options.Output:
    """Show what is in the dataset at PATH."""
    import numpy as np

    from boxnn_numba.data.dataset import open_dataset

    dataset = open_dataset(path)
    splits = {}
    for split in dataset.splits:
        counts = np.bincount(dataset.read_labels(split), minlength=len(dataset.classes))
        splits[split] = {"rows": dataset.n_rows(split), "rows_per_class": counts.tolist()}
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
    kind = "uint8 codes" if dataset.is_codes else "float32 values"
    shape = " x ".join(map(str, dataset.feature_shape))
    text = [
        f"{dataset.name}, from {dataset.source}",
        f"{shape} features, {kind}; {len(dataset.classes)} classes; digest {dataset.digest[:12]}",
        f"{'class':>16} {'train':>9} {'test':>9}",
    ]
    for index, name in enumerate(dataset.classes):
        numbers = [splits[split]["rows_per_class"][index] for split in dataset.splits]
        text.append(f"{name!s:>16} {numbers[0]:9} {numbers[1]:9}")
    text.append(f"{'all':>16} {dataset.n_rows('train'):9} {dataset.n_rows('test'):9}")
    return result, "\n".join(text)


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
