"""Text and CSV of a reproduced table or figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from boxnn_numba.pipelines.reproduce.rows import REMARKS, Row
from boxnn_numba.pipelines.reproduce.targets import TABLE_RADII


def report_text(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the rows as a table, and what is to be said of them."""
    lines = [f"{result['title']}: {result['command']}"]
    lines += [f"note: {note}" for note in result["notes"]]
    name_width = max(len(row.method) for row in rows)
    lines.append("certified accuracy (%) at r = " + ", ".join(map(str, TABLE_RADII)))
    for row in rows:
        counted = f"{row.images} images" if row.ours else "published"
        counted += f", {row.samples} samples" if row.samples else ""
        values = " ".join(f"{row.at(radius):5.1f}" for radius in TABLE_RADII)
        median = "" if row.median is None else f" median {row.median}"
        lines.append(
            f"  {row.dataset:<13} {row.method:<{name_width}} {values} {median:<10} ({counted})"
        )
    unit = "2 pixels" if result["medians"] else "2 points"
    named = result["differences"] or ["none"]
    lines += ["", f"differences larger than {unit}, with 95% intervals:"]
    lines += [f"  {line}" for line in named]
    for name, (words, _) in REMARKS.items():
        if result[name]:
            lines += [words, *(f"  {line}" for line in result[name])]
    return "\n".join(lines)


def table(
    target: str, rows: Sequence[Row], medians: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the lines of the CSV: Table 1, a table of the paper's radii, or curves."""
    if medians:
        return [
            {**item, "interval": "-".join(map(str, item["interval"] or []))} for item in medians
        ]
    about = ("dataset", "method", "source", "convention", "images", "samples")
    lines: list[dict[str, Any]] = []
    for row in rows:
        fixed = {name: getattr(row, name) for name in about}
        if target.startswith("table"):
            lines.append({**fixed, **{f"r{radius}": row.at(radius) for radius in TABLE_RADII}})
            continue
        for place, (radius, percent) in enumerate(zip(row.radii, row.percents, strict=True)):
            low, high = (row.low[place], row.high[place]) if row.low else (None, None)
            point = {"radius": radius, "certified_accuracy": percent, "low": low, "high": high}
            lines.append({"group": row.group, **fixed, **point})
    return lines


def cost_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the costs as a table."""
    lines = ["cost to certify one image (seconds with reading and writing; multiply-adds):"]
    for item in rows:
        seconds = item["seconds_per_image"]
        words = "unknown" if seconds is None else f"{seconds:.3g}"
        lines.append(
            f"  {item['method']:<8} {words:>12} s {item['multiply_adds_per_image']:12.3g}   "
            f"({item['images']} images; {item['note']})"
        )
    return "\n".join(lines)
