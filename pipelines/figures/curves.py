"""Figures drawn with matplotlib (Agg, no global state): curves, histograms, gallery.

matplotlib is imported when a figure is made, not when this module is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from boxnn_numba.data.paths import Location
from boxnn_numba.pipelines.figures.palette import CHANGED, run_colour, run_mark
from boxnn_numba.pipelines.figures.palette import FAMILIES as FAMILY_SHADES
from boxnn_numba.pipelines.figures.published import FAMILIES, PublishedRow, family, setting
from boxnn_numba.pipelines.figures.runs import Run

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from boxnn_numba.pipelines.report.gallery_views import Picture

#: Runs in the figure of histograms; the page has one of every run.
MOST_PANELS = 12
#: Pixels per inch of the PNG files.
DPI = 150
_LONGEST_NAME = 48
FAMILY_COLOURS = {name: shades.light for name, shades in FAMILY_SHADES.items()}


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
        Drawn solid, named with their median certified radius; dashed what an attack leaves.
    published
        Rows of the paper, dotted: its Box-NN in red, the others thin, one colour a family.
    title
        Above the axes.

    Returns
    -------
    matplotlib.figure.Figure
        One pair of axes with a legend beside it.
    """
    # Room for the legend: 30 letters and 18 lines fit without more.
    longest = max(len(_short(run.name, _LONGEST_NAME)) for run in runs)
    lines = len(runs) + sum(run.robust is not None for run in runs) + len(FAMILIES)
    figure = new_figure(8.6 + 0.09 * max(0, longest - 18), max(4.8, 0.23 * lines + 0.5))
    axes = figure.subplots()
    handles = []
    last = last_radius(runs, published)
    for index, run in enumerate(runs):
        handles.append(_draw_run(axes, run, index, tick_step(last)))
        if run.robust is not None:
            handles.append(_draw_attack(axes, run, index))
    for name in FAMILIES:
        rows = [row for row in published if family(row.method) == name]
        if rows:
            handles.append(draw_family(axes, name, rows))
    frame_curves(axes, last)
    axes.set_title(title, loc="left", fontsize=11)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def frame_curves(axes: Axes, last: int) -> None:
    """Set limits, ticks and labels of axes with certified accuracy over radii 0 to `last`."""
    axes.set_xlim(0, last)
    axes.set_ylim(0, 100)
    axes.set_xticks(range(0, last + 1, tick_step(last)))
    axes.set_yticks(range(0, 101, 20))
    axes.grid(color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("certified radius (features/pixels)")
    axes.set_ylabel("certified accuracy (%)")


def _draw_run(axes: Axes, run: Run, index: int, every: int) -> Any:
    curve = run.curve()
    name = method_label(run.name) if run.named_by_method else _short(run.name, _LONGEST_NAME)
    # The step down to zero after the largest radius belongs to the curve.
    values = np.append(curve, 0.0)
    (line,) = axes.plot(
        np.arange(len(values)),
        values,
        color=run_colour(index).light,
        linewidth=2.4,
        marker=run_mark(index),
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        markevery=every,
        zorder=4,
        label=f"{name} (median {run.summary()['median_certified_radius']})",
    )
    return line


def _draw_attack(axes: Axes, run: Run, index: int) -> Any:
    """Draw what an attack leaves, dashed; a casing shows it where it lies on the certified line."""
    from matplotlib.patheffects import withStroke

    assert run.robust is not None
    (line,) = axes.plot(
        run.robust,
        color=run_colour(index).light,
        linestyle=(0, (4, 3)),
        linewidth=1.4,
        zorder=5,
        path_effects=[withStroke(linewidth=3.4, foreground="white")],
        label=f"{_short(run.name, _LONGEST_NAME)} under attack"
        + (f" ({run.attacked:,} samples)" if run.attacked < len(run.label) else ""),
    )
    return line


def draw_family(axes: Axes, name: str, rows: Sequence[PublishedRow]) -> Any:
    """Draw the rows of a family of published methods dotted; return the entry of the legend."""
    colour = FAMILY_COLOURS[name]
    if name == "Box-NN":
        (line,) = axes.plot(
            rows[0].radii,
            rows[0].percents,
            color=colour,
            linewidth=2.2,
            linestyle=":",
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
        At least one; the first `MOST_PANELS` are drawn.
    title
        Above the panels.

    Returns
    -------
    matplotlib.figure.Figure
        The panels share both axes.
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
        axes.set_title(run.name, fontsize=10, loc="left")
        axes.set_ylabel("samples")
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="#e3e5e8", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper right", frameon=False, fontsize=9)
    panels[-1].set_xlim(-0.5, edges[-1] - 0.5)
    panels[-1].set_xlabel("certified radius of the prediction (features/pixels)")
    figure.text(0.01, 1 - 0.12 / height, title, fontsize=11, ha="left", va="top")
    return figure


def histogram_edges(runs: Sequence[Run]) -> np.ndarray:
    """Return integer bin edges 0, s, 2 s, ... that cover all radii in at most 60 bins."""
    largest = max(int(run.radius.max()) for run in runs)
    step = -(-(largest + 1) // 60)
    return np.arange(0, largest + step + 1, step)


def histogram_counts(run: Run, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples have a radius in each bin, those that are right and the others."""
    right = run.prediction == run.label
    counts = [np.histogram(run.radius[rows], bins=edges)[0] for rows in (right, ~right)]
    return counts[0], counts[1]


def gallery(pictures: Sequence[Picture], title: str) -> Figure:
    """Draw test images beside their nearest own and rival boxes.

    Parameters
    ----------
    pictures
        One row of images each.
    title
        Above the rows.

    Returns
    -------
    matplotlib.figure.Figure
        Columns: the image, what an attack makes of it where there is one, own box lower and upper,
        rival box lower and upper.
    """
    heads = ["sample", "own box, lower", "own box, upper", "rival box, lower", "rival box, upper"]
    attacked = any(picture.attack is not None for picture in pictures)
    if attacked:
        heads.insert(1, "under attack")
    canvas, size = _contact_sheet(pictures, attacked)
    # Enlarged here to whole pixels of the figure: matplotlib would take longer, and blur.
    scale = max(1, round(1.1 * DPI / size))
    canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    left, head, margin = round(1.75 * DPI), round(0.75 * DPI), round(0.1 * DPI)
    height, width = canvas.shape[:2]
    across, down = left + width + margin, head + height + margin
    figure = new_figure(across / DPI, down / DPI, layout=None)
    figure.add_artist(_pixels(canvas, left, margin))
    for column, words in enumerate(heads):
        x = left + width * (column + 0.5) / len(heads)
        y = margin + height + 0.06 * DPI
        figure.text(x / across, y / down, words, ha="center", va="bottom", fontsize=9)
    for row, picture in enumerate(pictures):
        names = (_short(name) for name in picture.names)
        kinds = zip(("true", "predicted", "rival"), names, strict=True)
        lines = [f"{picture.group}, #{picture.index}", f"radius {picture.radius}"]
        lines += [f"{kind} {name}" for kind, name in kinds]
        if picture.attack is not None and picture.attack.changed > 0:
            lines[1] += f", attack {picture.attack.changed}"
        y = margin + height * (1 - (row + 0.5) / len(pictures))
        x = left - 0.1 * DPI
        figure.text(x / across, y / down, "\n".join(lines), ha="right", va="center", fontsize=8.5)
    x, y = 0.1 * DPI / across, 1 - 0.12 * DPI / down
    figure.text(x, y, title, ha="left", va="top", fontsize=11)
    return figure


def _pixels(image: np.ndarray, left: int, bottom: int) -> Artist:
    """Return an artist that copies an (h, w, 3) image to pixels of the figure as it is."""
    from matplotlib.artist import Artist

    opaque = np.full(image.shape[:2], 255, np.uint8)
    flipped = np.ascontiguousarray(np.dstack([image, opaque])[::-1])

    class Pixels(Artist):
        def draw(self, renderer: Any) -> None:
            renderer.draw_image(renderer.new_gc(), left, bottom, flipped)

    return Pixels()


def _short(name: str, longest: int = 14) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _contact_sheet(pictures: Sequence[Picture], attacked: bool) -> tuple[np.ndarray, int]:
    """Return all images in one, a row for each picture, and the longest side of an image."""
    first = pictures[0].images[0]
    gap = max(2, max(first.shape[:2]) // 12)
    margins = [(0, gap), (0, gap), (0, 0)]
    rows = []
    for picture in pictures:
        images = [_rgb(image) for image in picture.images]
        if attacked:
            images.insert(1, _attacked(picture))
        padded = [np.pad(image, margins, constant_values=255) for image in images]
        rows.append(np.concatenate(padded, axis=1))
    return np.concatenate(rows), max(first.shape[:2]) + gap


def _rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def _attacked(picture: Picture) -> np.ndarray:
    """Return what an attack makes of an image, changed pixels tinted; white where there is none."""
    attack = picture.attack
    if attack is None or attack.image is None:
        return np.full_like(_rgb(picture.images[0]), 255)
    image = _rgb(attack.image).copy()
    tint = np.array([int(CHANGED[at : at + 2], 16) for at in (1, 3, 5)])
    image[attack.marks] = (0.4 * image[attack.marks] + 0.6 * tint).astype(np.uint8)
    return image
