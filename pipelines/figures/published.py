"""The tables of the paper as data, and how their rows are named and grouped.

The rows are copied from Tables 1 to 3 of Pal, Vidal and Sulam. They count a
margin of exactly twice the radius as certified (``convention="paper"``).
Certified accuracies against patches are those that the authors of other defences have published.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

#: Families of methods in the order of the paper's figures; the first is the paper's own.
FAMILIES = ("Box-NN", "RA", "RA^B", "FPA^A", "FPA^B")

#: Name of the envelope of all published rows, which are not one method's.
BEST = "best published"

_TABLES = {"mnist": "table2_mnist.csv", "fashion-mnist": "table3_fashion_mnist.csv"}
_SAMPLES = {"mnist-sample": "mnist"}
_LOWERED, _RAISED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"), str.maketrans("AB", "ᴬᴮ")
_METHOD = re.compile(r"(?P<base>[A-Z]+)(_(?P<setting>\d+))?(?P<variant>\^[AB])?")


class PublishedRow(NamedTuple):
    """One row of Table 2 or 3: certified accuracy in percent at each radius."""

    method: str
    radii: list[int]
    percents: list[float]


def is_sample(dataset_name: str) -> bool:
    """Return whether a data set is only a sample of the one the paper measured."""
    return dataset_name in _SAMPLES


def published_rows(dataset_name: str) -> list[PublishedRow]:
    """Return the rows of the paper's table for a data set, none where it has no table.

    A sample of MNIST is compared with the rows of the whole of MNIST.

    Examples
    --------
    >>> from boxnn_numba.pipelines.figures.published import published_rows
    >>> published_rows("mnist")[0].percents[:2]
    [89.74, 80.68]
    """
    table = _TABLES.get(_SAMPLES.get(dataset_name, dataset_name))
    if table is None:
        return []
    rows = []
    for record in _read(table):
        method = record.pop("method")
        radii = [int(name.removeprefix("r")) for name in record]
        rows.append(PublishedRow(method, radii, [float(value) for value in record.values()]))
    return rows


def best_published(rows: Sequence[PublishedRow]) -> tuple[PublishedRow, list[str]]:
    """Return the highest of published values at each radius as a row, and whose each is.

    Examples
    --------
    >>> best, methods = best_published(published_rows("mnist"))
    >>> list(zip(best.radii, best.percents, methods))[:2]
    [(0, 99.0, 'FPA_10^B'), (4, 88.45, 'RA_20^B')]
    """
    values: dict[int, tuple[float, str]] = {}
    for row in rows:
        for radius, percent in zip(row.radii, row.percents, strict=True):
            if radius not in values or percent > values[radius][0]:
                values[radius] = percent, row.method
    radii = sorted(values)
    best = PublishedRow(BEST, radii, [values[radius][0] for radius in radii])
    return best, [values[radius][1] for radius in radii]


def published_medians(dataset_name: str) -> dict[str, int]:
    """Return the paper's median certified radius of the best setting of each family (Table 1)."""
    name = _SAMPLES.get(dataset_name, dataset_name)
    return {
        record["method"]: int(record["median_certified_radius"])
        for record in _read("table1_median_radius.csv")
        if record["dataset"] == name
    }


class PublishedPatch(NamedTuple):
    """What a defence certifies against a patch of one size, in percent, and its own accuracy."""

    method: str
    patch: str
    certified_accuracy: float
    accuracy: float
    source: str


def published_patches(dataset_name: str) -> list[PublishedPatch]:
    """Return what other defences certify against patches, each trained for that size.

    Examples
    --------
    >>> [(row.patch, row.certified_accuracy) for row in published_patches("mnist")]
    [('2x2', 91.51), ('5x5', 61.85)]
    """
    return [
        PublishedPatch(
            record["method"], record["patch"], float(record["certified_accuracy"]),
            float(record["accuracy"]), record["source"],
        )
        for record in _read("patches.csv")
        if record["dataset"] == _SAMPLES.get(dataset_name, dataset_name)
    ]  # fmt: skip


class Method(NamedTuple):
    """The name of a method, taken apart: ``RA_20^B`` is RA with setting 20, variant B.

    The setting is the ablation size or the number of partitions.
    """

    base: str
    setting: int | None = None
    variant: str = ""

    def __str__(self) -> str:
        """Return it as plain text with raised and lowered signs: ``FPA₁₀ᴮ``."""
        setting = "" if self.setting is None else str(self.setting).translate(_LOWERED)
        return self.base + setting + self.variant.translate(_RAISED)


def method(name: str) -> Method:
    """Return the name of a published method taken apart, any other name as it is."""
    match = _METHOD.fullmatch(name)
    if match is None:
        return Method(name)
    size, variant = match["setting"], match["variant"] or ""
    return Method(match["base"], None if size is None else int(size), variant.lstrip("^"))


def family(name: str) -> str:
    """Return the family of a row: ``"RA_20^B"`` -> ``"RA^B"``."""
    base, _, variant = method(name)
    return f"{base}^{variant}" if variant else base


def _read(table: str) -> Iterator[dict[str, str]]:
    source = resources.files("boxnn_numba.pipelines.figures").joinpath("published", table)
    yield from csv.DictReader(source.read_text(encoding="utf-8").splitlines())
