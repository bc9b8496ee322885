"""Inline SVG for the page: the certified curves.

Colours and line styles are classes of the page's style sheet, so that they
follow light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from boxnn_numba.pipelines.figures.palette import run_mark
from boxnn_numba.pipelines.figures.published import FAMILIES, PublishedRow, family, setting
from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.figures.scales import last_radius, tick_step
from boxnn_numba.pipelines.report.page_tables import mark_path, series_key

#: The plotting area of the curves within their view box, in its units.
VIEW = (720, 450)
AREA = {"left": 52, "top": 36, "width": 652, "height": 350}


def curve_data(runs: Sequence[Run], published: Sequence[PublishedRow]) -> dict[str, Any]:
    """Return what the page's script needs to show values: areas, runs and published rows."""
    return {
        "area": AREA,
        "view": VIEW,
        "last": last_radius(runs, published),
        "runs": [
            {
                "key": f"run-{index}",
                "name": run.name,
                "values": _rounded(run.curve()),
                "attack": None if run.robust is None else _rounded(run.robust),
            }
            for index, run in enumerate(runs)
        ],
        "published": [
            {
                "key": series_key(family(row.method)),
                "name": row.method,
                "setting": setting(row.method),
                "radii": row.radii,
                "values": row.percents,
            }
            for row in published
        ],
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


def curves_svg(runs: Sequence[Run], published: Sequence[PublishedRow], description: str) -> str:
    """Draw certified accuracy against radius.

    Parameters
    ----------
    runs
        Solid lines with marks, one per run; dashed what an attack leaves.
    published
        Rows of the paper, dotted.
    description
        What the picture shows, in words, for those who cannot see it.

    Returns
    -------
    str
        An ``<svg>`` element; each line carries ``data-series``.
    """
    last = last_radius(runs, published)
    parts = [
        f'<svg id="curves" class="chart" viewBox="0 0 {VIEW[0]} {VIEW[1]}" role="img" '
        'aria-labelledby="curves-description">',
        f'<title id="curves-description">{escape(description)}</title>',
        _curve_axes(last),
    ]
    for name in reversed(FAMILIES):
        key = series_key(name)
        for row in (row for row in published if family(row.method) == name):
            keep = [position for position, radius in enumerate(row.radii) if radius <= last]
            path = _path([row.radii[i] for i in keep], [row.percents[i] for i in keep], last)
            parts.append(f'<path class="line {key}" data-series="{key}" d="{path}"/>')
    parts += [_run_lines(run, index, last) for index, run in enumerate(runs)]
    parts.append('<g id="cursor" class="cursor" aria-hidden="true"></g></svg>')
    return "".join(parts)


def _run_lines(run: Run, index: int, last: int) -> str:
    values = np.append(run.curve(), 0.0)[: last + 1]
    ticks = range(0, len(values), tick_step(last))
    marks = "".join(mark_path(run_mark(index), *_point(r, values[r], last)) for r in ticks)
    lines = [
        f'<path class="line run run-{index}" d="{_path(range(len(values)), values, last)}"/>',
        f'<path class="mark run-{index}" d="{marks}"/>',
    ]
    if run.robust is not None:
        values = run.robust[: last + 1]
        path = _path(range(len(values)), values, last)
        kinds = ("casing", f"run-{index} attack")
        lines += [f'<path class="line run {kind}" d="{path}"/>' for kind in kinds]
    return f'<g data-series="run-{index}">{"".join(lines)}</g>'


def _point(radius: int, value: float, last: int) -> tuple[float, float]:
    x = AREA["left"] + AREA["width"] * radius / last
    return x, AREA["top"] + AREA["height"] * (1 - value / 100)


def _path(radii: Sequence[int] | range, values: Any, last: int) -> str:
    places = (_point(r, value, last) for r, value in zip(radii, values, strict=True))
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _curve_axes(last: int) -> str:
    left, top, width, height = (AREA[key] for key in ("left", "top", "width", "height"))
    parts = ['<g aria-hidden="true">']
    for percent in range(0, 101, 20):
        y = top + height * (1 - percent / 100)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(svg_text(left - 8, y + 5, str(percent), "end"))
    parts.append(radius_ticks(last, left, top, width, height))
    parts.append(svg_text(2, 18, "certified accuracy (%)", "start", "axis"))
    end = left + width
    parts.append(svg_text(end, VIEW[1] - 8, "certified radius (features/pixels)", "end", "axis"))
    return "".join([*parts, "</g>"])


def radius_ticks(last: int, left: float, top: float, width: float, height: float) -> str:
    """Return the ticks and grid lines of an axis from radius 0 to `last`."""
    parts = []
    for count, radius in enumerate(range(0, last + 1, tick_step(last))):
        x = left + width * radius / last
        minor = " minor" if count % 2 else ""
        parts.append(f'<path class="grid" d="M{x:.1f} {top}v{height}"/>')
        parts.append(svg_text(x, top + height + 24, str(radius), "middle", f"tick{minor}"))
    return "".join(parts)


def svg_text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    """Return a text element; `words` are SVG."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
