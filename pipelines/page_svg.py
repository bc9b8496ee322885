"""Inline SVG for the page: the certified curves and the histograms of radii.

Colours and line styles are classes of the page's style sheet, so that they
follow light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from boxnn_numba.pipelines.plots import histogram_edges, last_radius, tick_step
from boxnn_numba.pipelines.published import FAMILIES, PublishedRow, family, setting
from boxnn_numba.pipelines.runs import Run

#: The plotting area of the curves within their view box, in its units.
VIEW = (720, 450)
AREA = {"left": 52, "top": 36, "width": 652, "height": 350}
_HISTOGRAM_VIEW = (720, 230)
_HISTOGRAM_AREA = {"left": 64, "top": 36, "width": 640, "height": 130}


def series_key(name: str) -> str:
    """Return the class of a family of methods: ``"RA^B"`` -> ``"family-ra-b"``."""
    return "family-" + name.lower().replace("^", "-")


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
                "values": [round(float(value), 3) for value in run.curve()],
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


def curves_svg(runs: Sequence[Run], published: Sequence[PublishedRow], description: str) -> str:
    """Draw certified accuracy against radius.

    Parameters
    ----------
    runs
        Thick lines, one per run; dashed what an attack leaves.
    published
        Rows of the paper.
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
    for index, run in enumerate(runs):
        values = np.append(run.curve(), 0.0)[: last + 1]
        path = _path(range(len(values)), values, last)
        parts.append(
            f'<path class="line run run-{index % 6} dash-{index // 6 % 4}" '
            f'data-series="run-{index}" d="{path}"/>'
        )
        if run.robust is not None:
            values = run.robust[: last + 1]
            path = _path(range(len(values)), values, last)
            parts += [
                f'<path class="line run {kind}" data-series="run-{index}" d="{path}"/>'
                for kind in ("casing", f"run-{index % 6} attack")
            ]
    parts.append('<g id="cursor" class="cursor" aria-hidden="true"></g></svg>')
    return "".join(parts)


def _path(radii: Sequence[int] | range, values: Any, last: int) -> str:
    points = []
    for radius, value in zip(radii, values, strict=True):
        x = AREA["left"] + AREA["width"] * radius / last
        y = AREA["top"] + AREA["height"] * (1 - value / 100)
        points.append(f"{x:.1f} {y:.1f}")
    return "M" + "L".join(points)


def _curve_axes(last: int) -> str:
    left, top, width, height = (AREA[key] for key in ("left", "top", "width", "height"))
    parts = ['<g aria-hidden="true">']
    for percent in range(0, 101, 20):
        y = top + height * (1 - percent / 100)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        parts.append(_text(left - 8, y + 5, str(percent), "end"))
    parts.append(_radius_ticks(last, left, top, width, height))
    parts.append(_text(2, 18, "certified accuracy (%)", "start", "axis"))
    end = left + width
    parts.append(_text(end, VIEW[1] - 8, "certified radius (features/pixels)", "end", "axis"))
    return "".join([*parts, "</g>"])


def _radius_ticks(last: int, left: float, top: float, width: float, height: float) -> str:
    parts = []
    for count, radius in enumerate(range(0, last + 1, tick_step(last))):
        x = left + width * radius / last
        minor = " minor" if count % 2 else ""
        parts.append(f'<path class="grid" d="M{x:.1f} {top}v{height}"/>')
        parts.append(_text(x, top + height + 24, str(radius), "middle", f"tick{minor}"))
    return "".join(parts)


def _text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def histogram_svg(runs: Sequence[Run], index: int) -> str:
    """Draw how many samples of one run have each radius, right and wrong ones stacked.

    Parameters
    ----------
    runs
        All runs: they share the axes.
    index
        Which of them to draw.

    Returns
    -------
    str
        An ``<svg>`` element; each bar has its numbers as a tooltip.
    """
    edges = histogram_edges(runs)
    right, wrong = _counts(runs[index], edges)
    tallest = max(int(np.add(*_counts(run, edges)).max()) for run in runs)
    left, top, width, height = (_HISTOGRAM_AREA[key] for key in ("left", "top", "width", "height"))
    name = escape(f"Histogram of certified radii of {runs[index].name}")
    view = f"0 0 {_HISTOGRAM_VIEW[0]} {_HISTOGRAM_VIEW[1]}"
    parts = [f'<svg class="chart" viewBox="{view}" role="img" aria-label="{name}">']
    step, span = int(edges[1] - edges[0]), int(edges[-1] - edges[0])
    for tick, count in enumerate(range(0, tallest + 1, 2 * tick_step(tallest))):
        y = top + height * (1 - count / tallest)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{width}"/>')
        kind = "tick minor" if tick % 2 else "tick"
        parts.append(_text(left - 8, y + 5, f"{count:,}", "end", kind))
    bar = width / len(right)
    for position, (good, bad) in enumerate(zip(right, wrong, strict=True)):
        first = int(edges[position])
        radii = str(first) if step == 1 else f"{first}–{first + step - 1}"
        tip = f"<title>radius {radii}: {good} right, {bad} wrong</title>"
        x, tall_good, tall_bad = left + bar * position, *(height * n / tallest for n in (good, bad))
        y = top + height - tall_good
        box = f'x="{x + 0.5:.1f}" width="{max(bar - 1, 0.5):.1f}"'
        fills = (f"bar run-{index % 6}", y, tall_good), ("bar wrong", y - tall_bad, tall_bad)
        rects = [
            f'<rect class="{kind}" {box} y="{upper:.1f}" height="{tall:.1f}"/>'
            for kind, upper, tall in fills
            if tall > 0
        ]
        parts.append(f"<g>{tip}{''.join(rects)}</g>")
    last = int(edges[-1]) - 1
    parts.append(_histogram_ticks(last, bar / step, left, top + height, span))
    parts.append(_text(2, 18, "samples", "start", "axis"))
    words = "certified radius of the prediction"
    parts.append(_text(left + width, _HISTOGRAM_VIEW[1] - 8, words, "end", "axis"))
    return "".join([*parts, "</svg>"])


def _histogram_ticks(last: int, unit: float, left: float, base: float, span: int) -> str:
    parts = []
    for count, radius in enumerate(range(0, min(last, span) + 1, tick_step(max(last, 1)))):
        minor = " minor" if count % 2 else ""
        x = left + unit * (radius + 0.5)
        parts.append(_text(x, base + 24, str(radius), "middle", f"tick{minor}"))
    return "".join(parts)


def _counts(run: Run, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    right = run.prediction == run.label
    counts = [np.histogram(run.radius[rows], bins=edges)[0] for rows in (right, ~right)]
    return counts[0], counts[1]
