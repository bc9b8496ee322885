"""Inline SVG for the page: how the radii of a run are spread, over all samples and by class."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.figures.scales import histogram_counts, histogram_edges, tick_step
from boxnn_numba.pipelines.report.page_svg import radius_ticks, svg_text

#: Both charts of a run share the left and right end of the radius axis.
_LEFT, _WIDTH, _VIEW = 120, 580, 720
_TOP, _LINE = 40, 26
#: Bounds of the height of a histogram, otherwise as high as the chart of classes beside it.
_LOWEST, _HIGHEST = 130, 260
_LONGEST_NAME = 9


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
    right, wrong = histogram_counts(runs[index], edges)
    tallest = max(int(np.add(*histogram_counts(run, edges)).max()) for run in runs)
    label = f"Histogram of certified radii of {runs[index].name}"
    full = min(_HIGHEST, max(_LOWEST, _LINE * len(runs[index].classes)))
    base = _TOP + full
    parts = [_open(label, base + 62)]
    for tick, count in enumerate(range(0, tallest + 1, 2 * tick_step(tallest))):
        y = base - full * count / tallest
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{_WIDTH}"/>')
        kind = "tick minor" if tick % 2 else "tick"
        parts.append(svg_text(_LEFT - 8, y + 5, f"{count:,}", "end", kind))
    step, bar = int(edges[1] - edges[0]), _WIDTH / (len(edges) - 1)
    for position, (good, bad) in enumerate(zip(right, wrong, strict=True)):
        if not good and not bad:
            continue
        first = int(edges[position])
        radii = str(first) if step == 1 else f"{first}–{first + step - 1}"
        tip = f"<title>radius {radii}: {good} right, {bad} wrong</title>"
        x, (tall_good, tall_bad) = _LEFT + bar * position, full * np.array([good, bad]) / tallest
        box = f'x="{x + 0.5:.1f}" width="{max(bar - 1, 0.5):.1f}"'
        fills = (
            (f"bar run-{index}", base - tall_good, tall_good),
            ("bar wrong", base - tall_good - tall_bad, tall_bad),
        )
        rects = [
            f'<rect class="{kind}" {box} y="{upper:.1f}" height="{tall:.1f}"/>'
            for kind, upper, tall in fills
            if tall > 0
        ]
        parts.append(f"<g>{tip}{''.join(rects)}</g>")
    parts += [_axis(edges, base, 0), svg_text(2, 18, "samples", "start", "axis")]
    parts.append(_axis_name(base, "certified radius of the prediction"))
    return "".join([*parts, "</svg>"])


def classes_svg(runs: Sequence[Run], index: int) -> str:
    """Draw the certified radii of each true class of one run: quartiles, ends and mean.

    Parameters
    ----------
    runs, index
        As for `histogram_svg`, on the same axis.

    Returns
    -------
    str
        An ``<svg>`` element; wrong predictions count as below 0. The middle half of a class is a
        box, its median a line, the middle nine tenths a thin line, its mean a dot.
    """
    run, edges = runs[index], histogram_edges(runs)
    table = run.per_class()
    base = _TOP + _LINE * len(table)
    unit = _WIDTH / (len(edges) - 1) / int(edges[1] - edges[0])
    label = f"Certified radius by true class of {run.name}; the table below has the values"
    parts = [_open(label, base + 62), _axis(edges, base, base - _TOP)]
    present = [at for at in range(len(run.classes)) if (run.label == at).any()]
    for line, (at, row) in enumerate(zip(present, table, strict=True)):
        here = run.label == at
        certified = np.sort(np.where(run.prediction == run.label, run.radius, -1)[here])
        places = (np.array([0.05, 0.25, 0.5, 0.75, 0.95]) * len(certified)).astype(int)
        cuts = certified[places]
        low, first, middle, third, high = _LEFT + unit * (np.maximum(cuts, 0) + 0.5)
        y = _TOP + _LINE * (line + 0.5)
        name = row["class"]
        # Long names often differ at their ends only.
        short = (
            name if len(name) <= _LONGEST_NAME else f"{name[:3]}…{name[3 - _LONGEST_NAME + 1 :]}"
        )
        tip = (
            f"class {name}: median {cuts[2]}, half within {cuts[1]} to {cuts[3]}, "
            f"nine tenths within {cuts[0]} to {cuts[4]}, mean {row['mean_certified_radius']:.1f}"
        )
        mean = _LEFT + unit * (row["mean_certified_radius"] + 0.5)
        parts.append(
            f"<g><title>{escape(tip)}</title>"
            + svg_text(_LEFT - 10, y + 6, escape(short), "end", "class")
            + f'<rect class="hit" x="0" y="{y - _LINE / 2:.1f}" width="{_VIEW}" height="{_LINE}"/>'
            f'<path class="whisker run-{index}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>'
            f'<rect class="bar half run-{index}" x="{first:.1f}" y="{y - 7:.1f}" '
            f'width="{max(third - first, 1):.1f}" height="14"/>'
            f'<path class="median run-{index}" d="M{middle:.1f} {y - 10:.1f}v20"/>'
            f'<circle class="mean run-{index}" cx="{mean:.1f}" cy="{y:.1f}" r="4"/></g>'
        )
    parts.append(svg_text(2, 18, "true class", "start", "axis"))
    parts.append(_axis_name(base, "certified radius, where right"))
    return "".join([*parts, "</svg>"])


def _open(label: str, height: float) -> str:
    view = f'viewBox="0 0 {_VIEW} {height:.0f}"'
    return f'<svg class="chart" {view} role="img" aria-label="{escape(label)}">'


def _axis(edges: np.ndarray, base: float, height: float) -> str:
    """Return the radius axis of bins: a radius is in the middle of its unit."""
    last = int(edges[-1]) - 1
    unit = _WIDTH / (last + 1)
    grid = radius_ticks(max(last, 1), _LEFT + unit / 2, base - height, unit * max(last, 1), height)
    return grid if last else svg_text(_LEFT + unit / 2, base + 24, "0", "middle")


def _axis_name(base: float, words: str) -> str:
    return svg_text(_LEFT + _WIDTH, base + 54, words, "end", "axis")
