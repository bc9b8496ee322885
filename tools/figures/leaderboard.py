"""The leaderboard: the certified curve of every method, with its median and its cost."""

from __future__ import annotations

import functools
from collections.abc import Callable

from kept import COLUMN_TABLES, TITLES, Curve, Kept, medians, published
from layout import cells, column_method, count, method, rerun_name, table

_RADII = range(0, 41, 4)
_COLUMNS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
#: Cases of presets.json that are compared.
CASES = {
    "mnist-graded-0": "Box-NN `graded`",
    "mnist-ensemble": "Box-NN `graded`, ensemble of 3",
    "mnist-accurate": "Box-NN `accurate`",
    "mnist-target": "Box-NN `target 27`",
    "fashion-graded": "Box-NN `graded`",
    "fashion-target": "Box-NN `target 43`",
}


def presets(kept: Kept, dataset: str) -> list[tuple[str, Curve]]:
    """Return name and curve of those of our presets that were measured."""
    names = [name for name in CASES if name.startswith(dataset)]
    return [(CASES[name], curve) for name, curve in kept.curves(names).items()]


def images(kept: Kept, dataset: str) -> str:
    """Return the table of one set of images."""
    rows = [_row(name, "here", curve) for name, curve in presets(kept, dataset)]
    rows.append(_row("Box-NN `paper`", "here", kept.paper(dataset)))
    rows += [_row(rerun_name(row), "here", row) for row in kept.rerun(dataset)]
    for row in published(dataset):
        name = "Box-NN `paper`" if row.method == "Box-NN" else method(row.method)
        rows.append(_row(name, "published", row))
    head = ["method", "measured", "images", "operations", "median", *(f"r = {r}" for r in _RADII)]
    best = "; ".join(f"{method(name)} {value}" for name, value in medians(dataset).items())
    note = (
        f"(Published median radii of {TITLES[dataset]}, the best setting of each family: {best}.)"
    )
    return f"{_sortable(table(head, rows))}\n\n{note}"


def _row(name: str, where: str, curve: Curve) -> list[str]:
    images = "" if curve.images is None else f"{curve.images:,}"
    return [name, where, images, count(curve.cost), *cells(curve, _RADII)]


def of_table(kept: Kept, name: str) -> str:
    """Return the table of one table of columns."""
    methods = kept.tables[name]
    most = max(len(entry["curve"]) for entry in methods.values())
    radii = [
        r for r in _COLUMNS if r < most and any(e["curve"][r] >= 0.05 for e in methods.values())
    ]
    rows = []
    for key, entry in methods.items():
        certified = key != "boosting"
        values = [f"{entry['curve'][r]:.1f}" if certified or r == 0 else "" for r in radii]
        median = str(entry["median"]) if certified else ""
        rows.append([column_method(key), f"{1e6 * entry['seconds']:,.0f}", median, *values])
    folds = next(iter(methods.values()))["folds"]
    head = ["method", "µs a row", "median", *(f"r = {r}" for r in radii)]
    note = "" if folds == 5 else f"\n\n({folds} of 5 folds: those that all methods have.)"
    return _sortable(table(head, rows)) + note


def _sortable(text: str) -> str:
    """Return a table that the site's script lets readers sort; elsewhere it is a plain one."""
    return f'<div class="sortable" markdown>\n\n{text}\n\n</div>'


def _block(name: str) -> str:
    return name.replace(" ", "-")


BLOCKS: dict[str, Callable[[Kept], str]] = {
    **{name: functools.partial(images, dataset=name) for name in ("mnist", "fashion")},
    **{_block(name): functools.partial(of_table, name=name) for name in COLUMN_TABLES},
}
