"""The tables of the page: captions, scopes, and exact values for whoever copies them as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np

from boxnn_numba.certificates.margin import certified_accuracy
from boxnn_numba.pipelines.figures.palette import run_mark
from boxnn_numba.pipelines.figures.published import PublishedRow, family, setting
from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report.gallery import attack_places

DASH = "–"
_FIGURE_HEAD = ("Median radius", "Accuracy, %", "Mean radius", "Samples")


class Cell(NamedTuple):
    """A cell of a table: what is shown, as HTML, and what is copied."""

    shown: str
    copied: str
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: its head and cells (HTML where not a `Cell`), and its attributes."""

    head: Cell | str
    cells: Sequence[Cell | str]
    attributes: str = ""


def number(value: float, digits: int, best: bool = False) -> Cell:
    """Return a number as a cell, copied with four digits as in the CSV files."""
    return Cell(f"{value:.{digits}f}", str(round(float(value), 4)), "best" if best else "")


def table(ident: str, caption: str, head: Sequence[str], rows: Sequence[Row], kind: str) -> str:
    """Return a table with scopes, in a region that scrolls sideways, and its copy button.

    Parameters
    ----------
    ident
        Its id.
    caption
        Plain text.
    head
        Heads of the columns, as HTML.
    rows, kind
        What it holds, and its class: ``"numbers"`` or ``"words"``.
    """
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f"<tr{row.attributes}>{_cell(row.head, 'th')}"
        + "".join(_cell(cell, "td") for cell in row.cells)
        + "</tr>"
        for row in rows
    )
    label = escape(caption)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
        f'<table id="{ident}" class="{kind}"><caption><span>{label}</span></caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="copy js-only"><button type="button" data-copy="{ident}" '
        f'aria-label="Copy as CSV: {label}">Copy as CSV</button><span role="status"></span></p>'
    )


def _cell(cell: Cell | str, tag: str) -> str:
    scope = ' scope="row"' if tag == "th" else ""
    if isinstance(cell, str):
        return f"<{tag}{scope}>{cell}</{tag}>"
    kind = f' class="{cell.kind}"' if cell.kind else ""
    copied = f' data-csv="{escape(cell.copied)}"' if cell.copied != cell.shown else ""
    return f"<{tag}{scope}{kind}{copied}>{cell.shown}</{tag}>"


# --- names -----------------------------------------------------------------------------


def series_key(name: str) -> str:
    """Return the class of a family of methods: ``"RA^B"`` -> ``"family-ra-b"``."""
    return "family-" + name.lower().replace("^", "-")


def method_words(name: str) -> str:
    """Return a published method as HTML: ``RA_20^B`` with a subscript and a superscript."""
    base, _, variant = family(name).partition("^")
    size = setting(name)
    return (
        escape(base)
        + (f"<sub>{size}</sub>" if size is not None else "")
        + (f"<sup>{escape(variant)}</sup>" if variant else "")
    )


def run_words(run: Run) -> str:
    """Return the name of a run as HTML."""
    return method_words(run.name) if run.named_by_method else escape(run.name)


def swatch(kind: str, mark: str = "") -> str:
    """Return a sample of a line, for legends and heads of rows."""
    shape = f'<path class="mark" d="{mark_path(mark, 15, 5)}"/>' if mark else ""
    return (
        f'<svg class="swatch {kind}" viewBox="0 0 30 10" aria-hidden="true">'
        f'<path class="line" d="M1 5H29"/>{shape}</svg>'
    )


def mark_path(mark: str, x: float, y: float, size: float = 4.2) -> str:
    """Return the path of a mark (named as in matplotlib) around a point."""
    corners = {
        "o": [(np.cos(a), np.sin(a)) for a in np.arange(12) * np.pi / 6],
        "s": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "^": [(0, -1.15), (1.1, 0.8), (-1.1, 0.8)],
        "v": [(0, 1.15), (1.1, -0.8), (-1.1, -0.8)],
        "D": [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
    }
    points = (f"{x + size * a:.1f} {y + size * b:.1f}" for a, b in corners[mark])
    return f"M{'L'.join(points)}Z"


def _head(run: Run, index: int, words: str = "") -> Cell:
    kind = f"run-{index} solid" if not words else f"run-{index}"
    mark = run_mark(index)
    return Cell(swatch(kind, mark) + run_words(run) + words, run.name + words)


# --- tables ----------------------------------------------------------------------------


def summary_table(
    runs: Sequence[Run], published: Sequence[PublishedRow], medians: dict[str, int]
) -> str:
    """Return one row a run and a family of published methods: medians, accuracies, means."""
    rows = [
        Row(_head(run, index), _figures(run.summary()), f' class="ours" data-series="run-{index}"')
        for index, run in enumerate(runs)
    ]
    accuracy = {row.method: row.percents[0] for row in published}
    for name, median in medians.items():
        right = number(accuracy[name], 2) if name in accuracy else Cell(DASH, "")
        cells: list[Cell | str] = [str(median), right, Cell(DASH, ""), Cell(DASH, "")]
        key = series_key(name)
        head = Cell(swatch(key) + method_words(name) + " (paper)", f"{name} (paper)")
        rows.append(Row(head, cells, f' data-series="{key}"'))
    caption = "Certified radius and accuracy; a median of -1 means an accuracy below one half."
    if medians:
        caption += " Of the paper’s methods, the best published median."
    return table("summary", caption, ["Run", *_FIGURE_HEAD], rows, "numbers")


def _figures(figures: dict[str, Any]) -> list[Cell | str]:
    return [
        str(figures["median_certified_radius"]),
        number(figures["accuracy"], 2),
        number(figures["mean_certified_radius"], 2),
        Cell(f"{figures['n']:,}", str(figures["n"])),
    ]


def accuracy_table(
    runs: Sequence[Run], published: Sequence[PublishedRow], radii: Sequence[int]
) -> str:
    """Return certified accuracy at radii, a row for each run and each published method."""
    lines: list[tuple[Cell, str, list[float | None]]] = []
    for index, run in enumerate(runs):
        curve = run.curve()
        values = [float(curve[r]) if r < len(curve) else 0.0 for r in radii]
        lines.append((_head(run, index), f' class="ours" data-series="run-{index}"', [*values]))
    for row in published:
        known = dict(zip(row.radii, row.percents, strict=True))
        key = series_key(family(row.method))
        words = " (paper)" if row.method == "Box-NN" else ""
        head = Cell(swatch(key) + method_words(row.method) + words, row.method + words)
        lines.append((head, f' data-series="{key}"', [known.get(radius) for radius in radii]))
    columns = zip(*(values for _, _, values in lines), strict=True)
    best = [max(value or 0.0 for value in column) for column in columns]
    rows = []
    for head, attributes, numbers in lines:
        cells = [
            Cell(DASH, "") if value is None else number(value, 1, best=value == top > 0)
            for value, top in zip(numbers, best, strict=True)
        ]
        rows.append(Row(head, cells, attributes))
    caption = "Certified accuracy in percent at each certified radius; the highest is bold."
    return table("accuracy", caption, ["Radius", *map(str, radii)], rows, "numbers")


def attack_table(runs: Sequence[Run], radii: Sequence[int]) -> str:
    """Return what is certified, what attacks have left and the gap, of the rows attacked."""
    rows = []
    for index, run in enumerate(runs):
        if run.robust is None:
            continue
        here = attack_places(run) >= 0
        prediction, radius, label = (values[here] for values in run.outcome)
        certified = 100 * certified_accuracy(prediction, radius, label, list(radii))
        left = [float(run.robust[r]) if r < len(run.robust) else None for r in radii]
        gap = [None if b is None else b - a for a, b in zip(certified, left, strict=True)]
        for words, values in (
            (", certified", list(certified)),
            (", left by the attack", left),
            (", gap", gap),
        ):
            cells = [Cell(DASH, "") if value is None else number(value, 1) for value in values]
            key = f' data-series="run-{index}"'
            rows.append(Row(Cell(run_words(run) + words, run.name + words), cells, key))
    if not rows:
        return ""
    caption = (
        "Of the samples that were attacked: percent certified, percent right under attack with as "
        "many changes, and between the two what neither proves."
    )
    return table("attack", caption, ["Radius", *map(str, radii)], rows, "numbers")


def class_table(run: Run, index: int) -> str:
    """Return radius and accuracy of a run by true class."""
    rows = [Row(escape(row["class"]), _figures(row)) for row in run.per_class()]
    caption = f"{run.name}: certified radius and accuracy by true class."
    return table(f"class-{index}", caption, ["Class", *_FIGURE_HEAD], rows, "numbers")


def settings_tables(
    runs: Sequence[Run], settings: Sequence[dict[str, str]], versions: dict[str, str]
) -> str:
    """Return the settings of each run, a column each, and versions of software.

    Options with a prefix, such as those of training, wait behind a heading.
    """
    names = list(dict.fromkeys(name for run in settings for name in run))
    head = ["Setting", *map(run_words, runs)]

    def part(ident: str, caption: str, chosen: Sequence[str]) -> str:
        cells = ([escape(run.get(name, DASH)) for run in settings] for name in chosen)
        rows = [Row(escape(name), row) for name, row in zip(chosen, cells, strict=True)]
        return table(ident, caption, head, rows, "words of-runs")

    main = [name for name in names if ": " not in name]
    rest = [name for name in names if ": " in name]
    tables = part("settings", "Settings of each run.", main)
    if rest:
        options = part("options", "How each run was trained and attacked.", rest)
        tables += f"<details><summary>All options of each run</summary>{options}</details>"
    rows = [Row(escape(name), [escape(text)]) for name, text in versions.items()]
    caption = "Software that made this report."
    return tables + table("versions", caption, ["Software", "Version"], rows, "words")
