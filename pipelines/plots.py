"""Figures drawn with matplotlib (Agg, no global state): curves, histograms, gallery.

matplotlib is imported when a figure is made, not when this module is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from boxnn_numba.locations import Location
from boxnn_numba.pipelines.published import FAMILIES, PublishedRow, family, setting
from boxnn_numba.pipelines.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from boxnn_numba.pipelines.gallery import Picture

#: Pixels per inch of the PNG files.
DPI = 150
#: Colours of our runs, then dashes once they are used up; red is kept for the paper's Box-NN.
RUN_COLOURS = ("#0b5fd0", "#d97000", "#1f2430", "#b0178a", "#0a7f42", "#7a4a1e")
RUN_DASHES = ("-", "--", "-.", ":")
FAMILY_COLOURS = {
    "Box-NN": "#d62728",
    "RA": "#a8853a",
    "RA^B": "#5d9a58",
    "FPA^A": "#9a72b5",
    "FPA^B": "#3f9aae",
}


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure in inches, on the Agg canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Location) -> None:
    """Write a figure as PNG, without a date, so that the same figure gives the same file."""
    with path.open("wb") as file:
        figure.savefig(file, format="png", metadata={"Software": None})


def last_radius(runs: Sequence[Run], published: Sequence[PublishedRow]) -> int:
    """Return the radius at which the axis ends: beyond it no run certifies 0.5% of samples."""
    ends = [row.radii[-1] for row in published]
    for run in runs:
        visible = np.flatnonzero(run.curve() >= 0.5)
        ends.append(int(visible[-1]) if len(visible) else 0)
    return max([*ends, 1])


def tick_step(last: int) -> int:
    """Return the step between ticks of a radius axis from 0 to `last`, at most 12 of them."""
    scale = 1
    while True:
        for base in (1, 2, 4, 5):
            if last <= 12 * base * scale:
                return base * scale
        scale *= 10


def method_label(name: str) -> str:
    """Return a published method as matplotlib text: ``RA_45^B`` with its marks raised."""
    base, _, variant = family(name).partition("^")
    size = setting(name)
    marks = f"_{{{size}}}" if size is not None else ""
    marks += f"^{{{variant}}}" if variant else ""
    return f"{base}${marks}$" if marks else base


def certified_curves(runs: Sequence[Run], published: Sequence[PublishedRow], title: str) -> Figure:
    """Draw certified accuracy against certified radius.

    Parameters
    ----------
    runs
        Drawn thick, named with their median certified radius; dashed what an attack leaves.
    published
        Rows of the paper: its Box-NN in red, the others thin and dotted, one colour a family.
    title
        Above the axes.

    Returns
    -------
    matplotlib.figure.Figure
        One pair of axes with a legend beside it.
    """
    figure = new_figure(8.6, 4.8)
    axes = figure.subplots()
    handles = []
    for index, run in enumerate(runs):
        handles.append(_draw_run(axes, run, index))
        if run.robust is not None:
            handles.append(_draw_attack(axes, run, index))
    for name in FAMILIES:
        rows = [row for row in published if family(row.method) == name]
        if rows:
            handles.append(_draw_family(axes, name, rows))
    last = last_radius(runs, published)
    axes.set_xlim(0, last)
    axes.set_ylim(0, 100)
    axes.set_xticks(range(0, last + 1, tick_step(last)))
    axes.set_yticks(range(0, 101, 20))
    axes.grid(color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("certified radius (features/pixels)")
    axes.set_ylabel("certified accuracy (%)")
    axes.set_title(title, loc="left", fontsize=11)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _draw_run(axes: Axes, run: Run, index: int) -> Any:
    curve = run.curve()
    # The step down to zero after the largest radius belongs to the curve.
    values = np.append(curve, 0.0)
    (line,) = axes.plot(
        np.arange(len(values)),
        values,
        color=RUN_COLOURS[index % len(RUN_COLOURS)],
        linestyle=RUN_DASHES[index // len(RUN_COLOURS) % len(RUN_DASHES)],
        linewidth=2.6,
        zorder=4,
        label=f"{method_label(run.name) if run.named_by_method else run.name} "
        f"(median {run.summary()['median_certified_radius']})",
    )
    return line


def _draw_attack(axes: Axes, run: Run, index: int) -> Any:
    """Draw what an attack leaves, dashed; a casing shows it where it lies on the certified line."""
    from matplotlib.patheffects import withStroke

    assert run.robust is not None
    (line,) = axes.plot(
        run.robust,
        color=RUN_COLOURS[index % len(RUN_COLOURS)],
        linestyle=(0, (4, 3)),
        linewidth=1.4,
        zorder=5,
        path_effects=[withStroke(linewidth=3.4, foreground="white")],
        label=f"{run.name} under attack"
        + (f" ({run.attacked:,} samples)" if run.attacked < len(run.label) else ""),
    )
    return line


def _draw_family(axes: Axes, name: str, rows: Sequence[PublishedRow]) -> Any:
    colour = FAMILY_COLOURS[name]
    if name == "Box-NN":
        (line,) = axes.plot(
            rows[0].radii,
            rows[0].percents,
            color=colour,
            linewidth=1.8,
            marker="o",
            markersize=3.5,
            zorder=3,
            label="Box-NN (paper)",
        )
        return line
    for row in rows:
        (line,) = axes.plot(
            row.radii, row.percents, color=colour, linewidth=1.2, linestyle=":", zorder=2
        )
    settings = ", ".join(str(setting(row.method)) for row in rows)
    line.set_label(f"{method_label(name)} (paper; {settings})")
    return line


def radius_histogram(runs: Sequence[Run], title: str) -> Figure:
    """Draw how many samples have each radius, right and wrong ones stacked, one panel a run.

    Parameters
    ----------
    runs
        At least one.
    title
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        The panels share both axes.
    """
    figure = new_figure(8.6, 1.0 + 2.2 * len(runs))
    panels = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    edges = histogram_edges(runs)
    for index, (axes, run) in enumerate(zip(panels, runs, strict=True)):
        right = run.prediction == run.label
        axes.hist(
            [run.radius[right], run.radius[~right]],
            bins=edges - 0.5,
            stacked=True,
            color=[RUN_COLOURS[index % len(RUN_COLOURS)], "#9aa1ac"],
            label=["right", "wrong"],
            edgecolor="white",
            linewidth=0.4,
        )
        axes.set_title(run.name, fontsize=10, loc="left")
        axes.set_ylabel("samples")
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    panels[-1].set_xlim(-0.5, edges[-1] - 0.5)
    panels[-1].set_xlabel("certified radius of the prediction (features/pixels)")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def histogram_edges(runs: Sequence[Run]) -> np.ndarray:
    """Return integer bin edges 0, s, 2 s, ... that cover all radii in at most 60 bins."""
    largest = max(int(run.radius.max()) for run in runs)
    step = -(-(largest + 1) // 60)
    return np.arange(0, largest + step + 1, step)


def gallery(pictures: Sequence[Picture], title: str) -> Figure:
    """Draw test images beside their nearest own and rival boxes.

    Parameters
    ----------
    pictures
        One row of five images each.
    title
        Above the rows.

    Returns
    -------
    matplotlib.figure.Figure
        Columns: the image, own box lower and upper, rival box lower and upper.
    """
    canvas, size = _contact_sheet(pictures)
    left, head, bottom = 1.75, 0.75, 0.1
    height, width = (1.1 * side / size for side in canvas.shape[:2])
    whole = (left + width + bottom, head + height + bottom)
    figure = new_figure(*whole, layout=None)
    place = (left / whole[0], bottom / whole[1], width / whole[0], height / whole[1])
    axes = figure.add_axes(place)
    axes.imshow(canvas, vmin=0, vmax=255, cmap="gray", interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    heads = ("sample", "own box, lower", "own box, upper", "rival box, lower", "rival box, upper")
    for column, words in enumerate(heads):
        across = canvas.shape[1] * (column + 0.5) / len(heads)
        axes.text(across, -0.06 * size, words, ha="center", va="bottom", fontsize=9)
    for row, picture in enumerate(pictures):
        names = (_short(name) for name in picture.names)
        kinds = zip(("true", "predicted", "rival"), names, strict=True)
        lines = [f"{picture.group}, #{picture.index}", f"radius {picture.radius}"]
        lines += [f"{kind} {name}" for kind, name in kinds]
        down = canvas.shape[0] * (row + 0.5) / len(pictures)
        axes.text(-0.08 * size, down, "\n".join(lines), ha="right", va="center", fontsize=8.5)
    figure.text(0.1 / whole[0], 1 - 0.12 / whole[1], title, ha="left", va="top", fontsize=11)
    return figure


def _short(name: str, longest: int = 14) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _contact_sheet(pictures: Sequence[Picture]) -> tuple[np.ndarray, int]:
    """Return all images in one, a row for each picture, and the longest side of an image."""
    first = pictures[0].images[0]
    gap = max(2, max(first.shape[:2]) // 12)
    margins = [(0, gap), (0, gap), (0, 0)][: first.ndim]
    rows = [
        np.concatenate(
            [np.pad(image, margins, constant_values=255) for image in picture.images], axis=1
        )
        for picture in pictures
    ]
    return np.concatenate(rows), max(first.shape[:2]) + gap
