"""What a reproduction writes: text, CSV, JSON and a picture of each table and figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from boxnn_numba.data.atomic import staged_output
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures.published import FAMILIES
from boxnn_numba.pipelines.reproduce import plots as reproduce_plots
from boxnn_numba.pipelines.reproduce.rows import Row
from boxnn_numba.pipelines.reproduce.targets import PANELS, TABLE_RADII, ablation_titles

#: Columns of a CSV before its numbers.
_ABOUT = ("group", "dataset", "method", "source", "convention", "images", "samples")


def report_text(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
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
    for key, words in (
        ("nearest", "settings that the paper does not have:"),
        ("beyond_reach", "published rows that cannot be what they are called:"),
        ("guesses", "guesses, which the published RA counts at r = 0 although uncertified:"),
    ):
        if result[key]:
            lines += [words, *(f"  {line}" for line in result[key])]
    return "\n".join(lines)


def write_table(
    path: Path, target: str, rows: Sequence[Row], medians: Sequence[Mapping[str, Any]]
) -> None:
    """Write the CSV: Table 1, a table of the paper's radii, or the curves of a figure."""
    if medians:
        table = [
            {**item, "interval": "-".join(map(str, item["interval"] or []))} for item in medians
        ]
        write_csv(path, list(table[0]), (item.values() for item in table))
        return
    if target.startswith("table"):
        columns = [*_ABOUT[1:], *(f"r{radius}" for radius in TABLE_RADII)]
        write_csv(path, columns, ([*_about(row)[1:], *map(row.at, TABLE_RADII)] for row in rows))
        return
    lines: list[list[Any]] = []
    for row in rows:
        fixed = _about(row)
        for place, (radius, percent) in enumerate(zip(row.radii, row.percents, strict=True)):
            bounds = [row.low[place], row.high[place]] if row.low else [None, None]
            lines.append([*fixed, radius, percent, *bounds])
    write_csv(path, [*_ABOUT, "radius", "certified_accuracy", "low", "high"], lines)


def _about(row: Row) -> list[Any]:
    return [getattr(row, name) for name in _ABOUT]


def draw(
    path: Path,
    target: str,
    rows: Sequence[Row],
    medians: Sequence[Mapping[str, Any]],
    title: str,
) -> None:
    if medians:
        figure = reproduce_plots.median_bars(medians, f"{title}: median certified radius")
    elif target.startswith("table"):
        name = reproduce_plots.dataset_title(rows[0].dataset)
        heading = f"{title}: certified accuracy (%) on {name}; ours in bold"
        figure = reproduce_plots.table_picture(rows, TABLE_RADII, heading)
    elif target in PANELS:
        panels = [
            reproduce_plots.comparison_panel(
                f"{reproduce_plots.dataset_title(dataset)}: {words}",
                [row for row in rows if row.dataset == dataset and row.family in families],
            )
            for (dataset, families), words in _panel_words(target)
        ]
        figure = reproduce_plots.curve_panels(panels, f"{title}: published dotted, ours solid")
    else:
        panels = [
            reproduce_plots.ablation_panel(words, labelled)
            for words, labelled in ablation_titles(target, rows)
        ]
        heading = f"{title}: Box-NN on MNIST, published dotted, ours solid (the paper's count)"
        figure = reproduce_plots.curve_panels(panels, heading, columns=3)
    with staged_output(path, overwrite=True, directory=False) as partial:
        plots.save(figure, partial)


def _panel_words(target: str) -> Iterable[tuple[tuple[str, tuple[str, ...]], str]]:
    for panel in PANELS[target]:
        others = [plots.method_label(name) for name in panel[1] if name != FAMILIES[0]]
        yield panel, f"Box-NN and {', '.join(others)}"


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write JSON with one row a line, so that the files stay small and differences readable."""
    rows = ",\n".join("  " + json.dumps(row) for row in result["rows"])
    rest = json.dumps({**result, "rows": []}, indent=1)
    write_text(path, rest.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with (
        staged_output(path, overwrite=True, directory=False) as partial,
        partial.open("w", encoding="utf-8", newline="") as lines,
    ):
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def write_text(path: Path, text: str) -> None:
    with staged_output(path, overwrite=True, directory=False) as partial:
        partial.write_text(text, encoding="utf-8")
