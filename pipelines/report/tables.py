"""Numbers in the tables of the page, None where there is none; templates lay them out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from boxnn_numba.certificates.margin import certified_accuracy
from boxnn_numba.distances import UNREACHABLE
from boxnn_numba.pipelines.figures.published import (
    Method,
    PublishedPatch,
    PublishedRow,
    best_published,
    method,
)
from boxnn_numba.pipelines.figures.runs import Run, constant_of
from boxnn_numba.pipelines.report.gallery import Sample, attack_places
from boxnn_numba.pipelines.report.series import Series, of_constant, of_method, of_runs

#: With more classes only the distances to the predicted class and to its rival are shown.
_MOST_DISTANCES = 12


class Row(NamedTuple):
    """A row of percents: its series, what is said after its name, and one value a radius.

    `methods` are those that the values are of, where they are not of one.
    """

    series: Series
    note: str
    values: Sequence[float | None]
    methods: Sequence[Method | None] = ()


def accuracy_rows(
    runs: Sequence[Run], published: Sequence[PublishedRow], radii: Sequence[int]
) -> list[Row]:
    """Return certified accuracy at radii, a row for each run, the best published and each method.

    The last row is the majority-class baseline.
    """
    rows = [
        Row(series, "", [*100 * certified_accuracy(*run.outcome, list(radii))])
        for series, run in zip(of_runs(runs), runs, strict=True)
    ]
    if published:
        best, names = best_published(published)
        whose = dict(zip(best.radii, map(method, names), strict=True))
        values = _at(best, radii)
        rows.append(Row(of_method(best.method), "", values, [whose.get(r) for r in radii]))
    for row in published:
        note = " (paper)" if row.method == "Box-NN" else ""
        rows.append(Row(of_method(row.method), note, _at(row, radii)))
    constant = constant_of(runs)
    return [*rows, Row(of_constant(constant), "", [constant.accuracy] * len(radii))]


def _at(row: PublishedRow, radii: Sequence[int]) -> list[float | None]:
    known = dict(zip(row.radii, row.percents, strict=True))
    return [known.get(radius) for radius in radii]


def balanced_rows(runs: Sequence[Run], radii: Sequence[int]) -> list[Row]:
    """Return certified accuracy at radii with all classes counted alike, a row for each run."""
    rows: list[Row] = []
    for series, run in zip(of_runs(runs), runs, strict=True):
        curve = run.balanced_curve()
        rows.append(Row(series, "", [curve[r] if r < len(curve) else 0.0 for r in radii]))
    constant = constant_of(runs)
    return [*rows, Row(of_constant(constant), "", [constant.balanced_accuracy] * len(radii))]


def attack_rows(runs: Sequence[Run], radii: Sequence[int]) -> list[Row]:
    """Return what is certified, what attacks have left and the gap, of the rows attacked."""
    rows: list[Row] = []
    for series, run in zip(of_runs(runs), runs, strict=True):
        if run.robust is None:
            continue
        here = attack_places(run) >= 0
        prediction, radius, label = (part[here] for part in run.outcome)
        certified = 100 * certified_accuracy(prediction, radius, label, list(radii))
        left = [float(run.robust[r]) if r < len(run.robust) else None for r in radii]
        gap = [None if b is None else b - a for a, b in zip(certified, left, strict=True)]
        rows += [
            Row(series, ", certified", [*certified]),
            Row(series, ", left by the attack", left),
            Row(series, ", gap", gap),
        ]
    return rows


def patch_rows(
    runs: Sequence[Run], published: Sequence[PublishedPatch]
) -> tuple[list[str], list[tuple[str, Sequence[float | None]]]]:
    """Return sizes of patches, and what runs and published methods certify against them.

    There are none where no run has looked at patches. What an attack leaves right has its own rows.
    """
    rows = {run.name: run.patches for run in runs if run.patches}
    rows |= {f"{run.name}, under attack": run.robust_patches for run in runs if run.robust_patches}
    found = {size for shares in rows.values() for size in shares}
    sizes = sorted(found, key=lambda size: (_pixels(size), size))
    others: dict[str, dict[str, float]] = {}
    for row in published:
        if row.patch in found:
            others.setdefault(row.method, {})[row.patch] = row.certified_accuracy
    every = [*rows.items(), *others.items()]
    return sizes, [(name, [shares.get(size) for size in sizes]) for name, shares in every]


def _pixels(size: str) -> int:
    return math.prod(map(int, size.split("x")))


def distances(
    run: Run, samples: Sequence[Sample]
) -> tuple[list[str], list[tuple[Sample, Sequence[float | None]]]]:
    """Return the names of classes, and samples with their distances to the nearest box of each.

    The names are only "predicted" and "rival" where there are too many classes.
    """
    units = run.class_distance
    if units is None or len(run.classes) > _MOST_DISTANCES:
        pairs = [(sample, (sample.own_distance, sample.rival_distance)) for sample in samples]
        return ["predicted", "rival"], [*pairs]
    return [str(name) for name in run.classes], [
        (sample, [u / run.units if u < UNREACHABLE else None for u in units[at]])
        for sample in samples
        for at in [run.place(sample.index)]
    ]
