"""Figures drawn with matplotlib (Agg, no global state): curves and histograms.

matplotlib is imported when a figure is made, not when this module is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from boxnn_numba.data.paths import Location
from boxnn_numba.pipelines.figures.palette import CONSTANT, run_colour, run_mark
from boxnn_numba.pipelines.figures.palette import FAMILIES as FAMILY_SHADES
from boxnn_numba.pipelines.figures.published import BEST, FAMILIES, PublishedRow, family, method
from boxnn_numba.pipelines.figures.runs import Constant, Run, constant_of
from boxnn_numba.pipelines.figures.scales import (
    histogram_counts,
    histogram_edges,
    last_radius,
    tick_step,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

#: Runs in the figure of histograms; the page has one of every run.
MOST_PANELS = 12
#: Pixels per inch of the PNG files.
DPI = 150
_LONGEST_NAME = 48
FAMILY_COLOURS = {name: shades.light for name, shades in FAMILY_SHADES.items()}
FAMILY_COLOURS[BEST] = FAMILY_COLOURS["Box-NN"]


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure in inches, on the Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def drawn(figure: Figure) -> Image:
    """Return the pixels of a figure."""
    from PIL import Image

    # Drawn once: matplotlib's own way draws twice where it lays out the parts.
    with warnings.catch_warnings():
        # A sign of a name that the font lacks is drawn as a frame.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba()))  # type: ignore[attr-defined]


def save(figure: Figure, path: Location) -> None:
    """Write a figure as `write_png` does."""
    write_png(drawn(figure), path)


def write_png(pixels: Image, path: Location) -> None:
    """Write pixels as PNG, without a date, so that the same figure gives the same file."""
    with path.open("wb") as file:
        pixels.save(file, "png", dpi=(DPI, DPI), compress_level=3)


def method_label(name: str) -> str:
    """Return a published method as matplotlib text: ``RA_45^B`` with its marks raised."""
    base, size, variant = method(name)
    marks = f"_{{{size}}}" if size is not None else ""
    marks += f"^{{{variant}}}" if variant else ""
    return f"{literal(base)}${marks}$" if marks else literal(base)


def literal(text: str) -> str:
    """Return a text that matplotlib draws as it is: what is between two $ would be a formula."""
    return text.replace("$", r"\$")


def tidy(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Draw a pale grid below what is drawn, and no frame above and to the right."""
    axes.grid(axis=grid, color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def certified_curves(runs: Sequence[Run], published: Sequence[PublishedRow], title: str) -> Figure:
    """Draw certified accuracy against certified radius, with a legend beside it.

    Runs are solid steps, named with their median certified radius; dashed steps are what an attack
    leaves of them; dash-dotted is the majority-class baseline. Rows of the paper are dotted: its
    Box-NN or the best of all in red, the others thin, one colour a family.
    """
    # Room for the legend: 30 letters and 18 lines fit without more.
    longest = max(len(shortened(run.name, _LONGEST_NAME)) for run in runs)
    lines = 1 + len(runs) + sum(run.robust is not None for run in runs) + len(FAMILIES)
    figure = new_figure(8.6 + 0.09 * max(0, longest - 18), max(4.8, 0.23 * lines + 0.5))
    axes = figure.subplots()
    handles = []
    last = last_radius(runs, published)
    for index, run in enumerate(runs):
        handles.append(_draw_run(axes, run, index, tick_step(last)))
        if run.robust is not None:
            handles.append(_draw_attack(axes, run, index))
    handles.append(draw_constant(axes, constant_of(runs), last))
    finish_curves(figure, handles, published, last, title, runs[0].unit)
    return figure


def finish_curves(
    figure: Figure,
    handles: list[Any],
    published: Sequence[PublishedRow],
    last: int,
    title: str,
    unit: str,
) -> None:
    """Add the published rows (dotted), the frame, a title and the legend beside it to curves."""
    (axes,) = figure.axes
    for name in (*FAMILIES, BEST):
        rows = [row for row in published if family(row.method) == name]
        if rows:
            handles.append(_draw_family(axes, name, rows))
    frame_curves(axes, last, unit)
    axes.set_title(literal(title), loc="left", fontsize=11)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)


def frame_curves(axes: Axes, last: int, unit: str) -> None:
    """Set limits, ticks and labels of axes with certified accuracy over radii 0 to `last`.

    `unit` is what radii count, e.g. ``"pixels"``.
    """
    axes.set_xlim(0, last)
    axes.set_ylim(0, 100)
    axes.set_xticks(range(0, last + 1, tick_step(last)))
    axes.set_yticks(range(0, 101, 20))
    tidy(axes)
    axes.set_xlabel(f"certified radius ({unit})")
    axes.set_ylabel("certified accuracy (%)")


def _draw_run(axes: Axes, run: Run, index: int, every: int) -> Any:
    name = literal(shortened(run.name, _LONGEST_NAME))
    if run.words.setting is not None:
        name = method_label(run.name)
    (line,) = axes.plot(
        # The step down to zero after the largest radius belongs to the curve.
        np.append(run.curve(), 0.0),
        drawstyle="steps-post",
        color=run_colour(index).light,
        linewidth=2.4,
        marker=run_mark(index),
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        markevery=every,
        zorder=4,
        label=f"{name} (median {run.summary().median_certified_radius})",
    )
    return line


def _draw_attack(axes: Axes, run: Run, index: int) -> Any:
    """Draw what an attack leaves, dashed; a casing shows it where it lies on the certified line.

    Where all samples were attacked, the truth lies in the band between both.
    """
    from matplotlib.patheffects import withStroke

    assert run.robust is not None
    if run.attacked == len(run.label):
        certified = np.zeros(len(run.robust))
        curve = run.curve()[: len(certified)]
        certified[: len(curve)] = curve
        radii = np.arange(len(certified))
        colour = run_colour(index).light
        axes.fill_between(radii, certified, run.robust, step="post", color=colour, alpha=0.16, lw=0)
    (line,) = axes.plot(
        run.robust,
        drawstyle="steps-post",
        color=run_colour(index).light,
        linestyle=(0, (4, 3)),
        linewidth=1.4,
        zorder=5,
        path_effects=[withStroke(linewidth=3.4, foreground="white")],
        label=f"{literal(shortened(run.name, _LONGEST_NAME))} under attack"
        + (f" ({run.attacked:,} samples)" if run.attacked < len(run.label) else ""),
    )
    return line


def draw_constant(axes: Axes, constant: Constant, last: int) -> Any:
    """Draw the majority-class baseline, dash-dotted; return its entry of the legend."""
    return axes.hlines(
        constant.accuracy,
        0,
        last,
        color=CONSTANT.light,
        linewidth=1.3,
        linestyle=(0, (6, 2.5, 1, 2.5)),
        zorder=3,
        label=f"always {literal(shortened(constant.name))}, at every radius",
    )


def _draw_family(axes: Axes, name: str, rows: Sequence[PublishedRow]) -> Any:
    """Draw the rows of a family of published methods dotted; return the entry of the legend."""
    own = name in ("Box-NN", BEST)
    colour, width, order = FAMILY_COLOURS[name], 2.2 if own else 1.2, 3 if own else 2
    for row in rows:
        (line,) = axes.plot(
            row.radii, row.percents, color=colour, linewidth=width, linestyle=":", zorder=order
        )
    settings = ", ".join(str(method(row.method).setting) for row in rows)
    source = "paper" if name == "Box-NN" else f"paper; {settings}"
    line.set_label(BEST if name == BEST else f"{method_label(name)} ({source})")
    return line


def radius_histogram(runs: Sequence[Run], title: str) -> Figure:
    """Draw how many samples have each radius, right and wrong ones stacked, one panel a run.

    The first `MOST_PANELS` runs are drawn, on axes that all share.
    """
    if len(runs) > MOST_PANELS:
        title += f"; the first {MOST_PANELS} of {len(runs)} runs"
    runs = runs[:MOST_PANELS]
    each, above, below = (1.9 if len(runs) <= 6 else 1.1), 0.75, 0.55
    height = above + each * len(runs) + below
    # Placed by hand: matplotlib's own layout takes seconds for dozens of panels.
    figure = new_figure(8.6, height, layout=None)
    figure.subplots_adjust(0.09, below / height, 0.99, 1 - above / height, hspace=0.35)
    panels = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    edges = histogram_edges(runs)
    for index, (axes, run) in enumerate(zip(panels, runs, strict=True)):
        good, bad = histogram_counts(run, edges)
        colour = run_colour(index).light
        axes.stairs(good, edges - 0.5, fill=True, color=colour, label="right")
        axes.stairs(
            good + bad, edges - 0.5, baseline=good, fill=True, color="#9aa1ac", label="wrong"
        )
        axes.set_title(literal(run.name), fontsize=10, loc="left")
        axes.set_ylabel("samples")
        tidy(axes, "y")
        axes.legend(loc="upper right", frameon=False, fontsize=9)
    panels[-1].set_xlim(-0.5, edges[-1] - 0.5)
    panels[-1].set_xlabel(f"certified radius of the prediction ({runs[0].unit})")
    figure.text(0.01, 1 - 0.12 / height, literal(title), fontsize=11, ha="left", va="top")
    return figure


def shortened(name: str, longest: int = 14) -> str:
    """Return a name, or its beginning and an ellipsis."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
