"""Ingestion: from a source to a dataset on disk, block by block."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.dataset import DatasetWriter
from boxnn_numba.data.paths import Name
from boxnn_numba.data.sources.blocks import stored_features
from boxnn_numba.data.sources.catalogue import Source, open_source
from boxnn_numba.data.sources.splits import LabelIndex, StratifiedSplit, count_labels
from boxnn_numba.errors import DataError
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions


@dataclass(frozen=True)
class Ingested(Result):
    """A dataset that was written: `rows` of each split, the number of `features`, the labels."""

    name: str
    feature_shape: tuple[int, ...]
    codes: bool
    path: str
    rows: dict[str, int]
    features: int
    classes: list[Any]
    digest: str
    seconds: float


def ingest(
    source: str | os.PathLike[str],
    out: Name,
    *,
    directory: str | os.PathLike[str] | None = None,
    label: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    codes: bool = False,
    shape: Sequence[int] | None = None,
    name: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    run: RunOptions = DEFAULT_RUN,
) -> Ingested:
    """Write a source as a dataset.

    The source is read twice, block by block: once for its labels, once for everything.
    Memory does not grow with the number of rows.

    Parameters
    ----------
    source
        ``"mnist"``, ``"fashion-mnist"``, ``"digits"``, ``"mnist-sample"``, or a path: a folder of
        IDX files, or an ``.npz``, ``.npy``, ``.csv``, ``.tsv`` or ``.parquet`` file.
    out
        Folder to make, or its URL.
    directory
        Folder of the IDX files of ``mnist`` and ``fashion-mnist``.
    label
        Label column of a table.
    labels
        File of the labels of an ``.npy`` or IDX file.
    codes
        Store features as uint8 codes; they must be whole numbers 0..255. uint8 arrays
        always stay codes, everything else becomes float32.
    shape
        Shape of one sample, where the source does not say.
    name
        Name of the dataset; that of the source by default.
    test_fraction, seed
        Stratified test split of a source that has none.
    run
        Whether to replace what is at `out`, and what is told of the rows written.

    Returns
    -------
    Ingested

    Raises
    ------
    OptionError
        An option is out of range, or `out` exists.
    DataError
        The source is missing, damaged, or does not fit.
    OutputError
        `out` cannot be written.
    """
    started = time.perf_counter()
    validation.fraction("test_fraction", test_fraction)
    validation.integer("seed", seed, low=0)
    opened = open_source(
        os.fspath(source),
        directory=None if directory is None else Path(directory),
        label=label,
        labels=None if labels is None else Path(labels),
    )
    header: dict[str, Any] = {
        "name": name or opened.name,
        "feature_shape": _feature_shape(opened, shape),
        "codes": codes or opened.train.is_uint8,
    }
    sources = [name for name in (source, labels, directory) if name is not None]
    local = [name for name in sources if Path(name).exists()]
    with staged_output(out, overwrite=run.overwrite, inputs=local) as folder:
        index, n_rows, split = _plan(opened, test_fraction, seed)
        about = {"source": opened.description, "classes": index.classes, **header}
        writer = DatasetWriter(folder, n_rows=n_rows, **about)
        run.progress.start(sum(n_rows.values()), "rows")
        for part, x, y in _rows(opened, index, split, header["codes"]):
            writer.append(part, x, y)
            run.progress.advance(len(y))
        digest = writer.finish()
    return Ingested(
        **header,
        path=str(out),
        rows=n_rows,
        features=opened.train.n_features,
        classes=index.classes,
        digest=digest,
        seconds=round(time.perf_counter() - started, 3),
    )


def _feature_shape(source: Source, shape: Sequence[int] | None) -> tuple[int, ...]:
    found = source.train.feature_shape
    if source.test is not None and source.test.feature_shape != found:
        raise DataError(
            f"training samples have shape {found} and test samples {source.test.feature_shape}; "
            "they must agree"
        )
    if shape is None:
        return found
    return validation.sample_shape(shape, source.train.n_features)


def _plan(
    source: Source, test_fraction: float, seed: int
) -> tuple[LabelIndex, dict[str, int], StratifiedSplit | None]:
    """Return the classes, the rows of each split, and how a source without splits is split."""
    train = source.train
    found = count_labels(train.labels())
    if not found:
        raise DataError(f"{train.place} has no rows; pass at least one sample of two classes")
    index = LabelIndex(found)
    if len(index.classes) < 2:
        raise DataError(
            f"{train.place} has one class only ({index.classes[0]!r}); a classifier needs two"
        )
    counts = index.counts(found, train.place)
    total = int(counts.sum())
    if source.test is None:
        split = StratifiedSplit(counts, test_fraction, seed)
        n_test = int(split.test_counts.sum())
        if n_test == 0:
            raise DataError(
                f"no class of {train.place} has enough rows for a test split of "
                f"{test_fraction:g}; raise `test_fraction`"
            )
        return index, {"train": total - n_test, "test": n_test}, split
    place = f"the test split of {source.test.place}"
    n_test = int(index.counts(count_labels(source.test.labels()), place).sum())
    return index, {"train": total, "test": n_test}, None


def _rows(
    source: Source, index: LabelIndex, split: StratifiedSplit | None, codes: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for name, table in (("train", source.train), ("test", source.test)):
        if table is None:
            continue
        for block in table.blocks():
            x = stored_features(block, table, codes)
            y = index.encode(block.labels, table.place)
            if split is None:
                yield name, x, y
                continue
            is_test = split.is_test(y)
            yield "train", x[~is_test], y[~is_test]
            yield "test", x[is_test], y[is_test]
