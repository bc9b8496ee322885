"""Blocks on tables of columns: balanced certified accuracy by method."""

from __future__ import annotations

from collections.abc import Sequence

from kept import TABLE_METHODS, Kept
from layout import column_method, table

#: Radii that are shown.
SHOWN_COLUMNS = (0, 1, 2, 4)


def tables(kept: Kept) -> str:
    """Return balanced certified accuracy of tables as people have them, and the means."""
    head = ["table", "method", *(f"r = {r}" for r in SHOWN_COLUMNS)]
    found, rows = kept.tables, []
    for name, methods in found.items():
        for key, entry in methods.items():
            rows.append(
                [_folds(name, entry["folds"]), column_method(key), *_columns(key, entry["curve"])]
            )
    for key in TABLE_METHODS:
        have = [methods[key]["curve"] for methods in found.values() if key in methods]
        mean = [sum(values) / len(have) for values in zip(*have, strict=True)]
        rows.append([f"**mean of {len(have)}**", column_method(key), *_columns(key, mean)])
    return table(head, rows)


def leaders(kept: Kept) -> str:
    """Return which method certifies most of each table."""
    rows = []
    for name, methods in kept.tables.items():
        certified = {key: entry["curve"] for key, entry in methods.items() if key != "boosting"}
        best = [max(certified, key=lambda key: certified[key][r]) for r in SHOWN_COLUMNS[1:]]
        none = [certified[key][r] < 0.05 for key, r in zip(best, SHOWN_COLUMNS[1:], strict=True)]
        words = [
            "" if nobody else column_method(key) for key, nobody in zip(best, none, strict=True)
        ]
        rows.append([name, *words])
    return table(["certifies most", *(f"r = {r}" for r in SHOWN_COLUMNS[1:])], rows)


def _folds(name: str, folds: int) -> str:
    return name if folds == 5 else f"{name} ({folds} of 5 folds)"


def _columns(key: str, curve: Sequence[float]) -> list[str]:
    values = [f"{curve[radius]:.1f}" for radius in SHOWN_COLUMNS]
    return [values[0], *([""] * 3 if key == "boosting" else values[1:])]


def tabular(kept: Kept) -> str:
    """Return the three tables of scikit-learn: the tutorial on tables."""
    shown = range(11)
    lines = []
    for name, result in kept.result("tabular")["tables"].items():
        size = f"{result['samples']} x {result['columns']}, {result['classes']} classes"
        lines.append([f"**{name}** ({size})", *[""] * (1 + len(shown))])
        for title, row in result["classifiers"].items():
            curve = row.get("certified_accuracy", {"0": row["accuracy"]})
            values = [f"{curve[str(r)]:.1f}" if str(r) in curve else "" for r in shown]
            lines.append([title, str(row.get("median_certified_radius", "")), *values])
    return table(["per cent certified at r columns, r =", "median", *map(str, shown)], lines)
