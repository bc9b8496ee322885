"""Pictures of reproduced tables and figures: published values dotted or pale, ours solid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boxnn_numba.pipelines.figures.curves import FAMILY_COLOURS, method_label, new_figure
from boxnn_numba.pipelines.figures.scales import tick_step
from boxnn_numba.pipelines.reproduce.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that stay apart for the colour-blind (Okabe and Ito); one for each setting.
SETTING_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#7a4a1e", "#6b6b6b")
_BOXNN = FAMILY_COLOURS["Box-NN"]
#: Our ways to train and count boxes -> colour and dashes.
_BOXNN_STYLES = {
    "Box-NN": (_BOXNN, "-"),
    "Box-NN sound": (_BOXNN, "-."),
    "Box-NN graded": ("#1f2430", "-"),
    "Box-NN target": ("#1f2430", "--"),
}
_DATASET_TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
#: Rows with fewer images have their interval drawn.
_BAND_IMAGES = 2000

#: A part of a figure: its title and (label, colour, dashes, row) of each curve.
Panel = tuple[str, Sequence[tuple[str, str, str, Row]]]


def dataset_title(dataset: str) -> str:
    """Return the name of a data set as the paper writes it."""
    return _DATASET_TITLES.get(dataset, dataset)


def row_label(row: Row) -> str:
    """Return a row's name for a legend, with what it rests on."""
    name = row.method if row.setting is None else method_label(row.method)
    if not row.ours:
        return f"{name} published"
    base, blank, way = name.partition(" ")
    if row.method == "Box-NN":
        blank, way = " ", "paper's count"
    name = f"{base} ours, {way}" if blank else f"{base} ours"
    return name if row.images is None else f"{name} ({row.images:,} images)"


def comparison_panel(title: str, rows: Sequence[Row]) -> Panel:
    """Return a panel of Box-NN and published defences; a setting has one colour."""
    settings = sorted({row.setting for row in rows if row.setting is not None})
    colours = {
        number: SETTING_COLOURS[index % len(SETTING_COLOURS)]
        for index, number in enumerate(settings)
    }
    curves = []
    for row in rows:
        if row.setting is None:
            colour, dashes = _BOXNN_STYLES.get(row.method, (_BOXNN, "-"))
        else:
            colour, dashes = colours[row.setting], "-"
        curves.append((row_label(row), colour, dashes if row.ours else ":", row))
    return title, curves


def ablation_panel(title: str, labelled: Sequence[tuple[str, Row]]) -> Panel:
    """Return a panel of the ablation; the row named ``"Box-NN"`` is the default, in red."""
    colours = iter(SETTING_COLOURS)
    curves = []
    for label, row in labelled:
        default = row.method == "Box-NN"
        colour = _BOXNN if default else next(colours)
        curves.append((label, colour, "-" if row.ours else ":", row))
    return title, curves


def curve_panels(panels: Sequence[Panel], title: str, columns: int = 2) -> Figure:
    """Draw certified accuracy against radius, one pair of axes a panel.

    Parameters
    ----------
    panels
        Made by `comparison_panel` or `ablation_panel`.
    title
        Above all.
    columns
        Panels in a row.

    Returns
    -------
    matplotlib.figure.Figure
        Legends are below the axes of large panels, inside those of small ones.
    """
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    below = max(len(curves) for _, curves in panels) > 6
    legend = 0.22 * -(-max(len(curves) for _, curves in panels) // 2) if below else 0.0
    width = {1: 7.6, 2: 6.2}.get(columns, 4.6)
    figure = new_figure(width * columns, (3.9 + legend) * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (head, curves) in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, head, curves, below)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw_panel(
    axes: Axes, title: str, curves: Sequence[tuple[str, str, str, Row]], below: bool
) -> None:
    last, drawn = 1, 0
    for label, colour, dashes, row in curves:
        radii, percents = _visible(row)
        last = max(last, radii[-1] if not row.ours else sum(value >= 0.5 for value in percents))
        if not row.ours:
            axes.plot(
                radii, percents, color=colour, linestyle=dashes, linewidth=1.6, marker="o",
                markersize=3.2, label=label, zorder=3,
            )  # fmt: skip
            continue
        # Curves that coincide show as stripes: each is thinner than the one below.
        width = max(3.2 - 0.5 * drawn, 1.4)
        drawn += 1
        axes.plot(
            radii, percents, color=colour, linestyle=dashes, linewidth=width, label=label, zorder=4
        )
        if row.images is not None and row.images < _BAND_IMAGES:
            end = len(radii) - 1
            axes.fill_between(
                radii[:end], row.low[:end], row.high[:end],
                color=colour, alpha=0.15, linewidth=0, zorder=2,
            )  # fmt: skip
    axes.set_xlim(0, last)
    axes.set_ylim(0, 100)
    axes.set_xticks(range(0, last + 1, tick_step(last)))
    axes.set_yticks(range(0, 101, 20))
    axes.grid(color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("certified radius (pixels)")
    axes.set_ylabel("certified accuracy (%)")
    axes.set_title(title, loc="left", fontsize=10)
    look: dict[str, Any] = {"fontsize": 8.5, "frameon": False, "handlelength": 3}
    if below:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.15), ncols=2, **look)
    else:
        axes.legend(loc="upper right", **look)


def _visible(row: Row) -> tuple[list[int], list[float]]:
    """Return a curve up to its first zero, which belongs to it."""
    zeros = [index for index, value in enumerate(row.percents) if value == 0]
    end = zeros[0] + 1 if zeros else len(row.percents)
    if row.ours and not zeros:
        return [*row.radii, row.radii[-1] + 1], [*row.percents, 0.0]
    return row.radii[:end], row.percents[:end]


def table_picture(rows: Sequence[Row], radii: Sequence[int], title: str) -> Figure:
    """Draw a table of certified accuracies, darker where more is certified, ours in bold.

    Parameters
    ----------
    rows
        One line each, in order.
    radii
        One column each.
    title
        Above the table.
    """
    from matplotlib import colormaps

    shades = colormaps["Blues"]
    left, cell, line = 3.7, 0.62, 0.25
    width, height = left + cell * len(radii) + 0.2, line * (len(rows) + 1) + 0.75
    figure = new_figure(width, height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.text(0.12, 0.22, title, fontsize=11, va="center")
    top = 0.5
    axes.text(0.12, top + line / 2, "method", fontsize=9, va="center", color="#555b66")
    for column, radius in enumerate(radii):
        centre = left + cell * (column + 0.5)
        text = f"r = {radius}" if column == 0 else str(radius)
        axes.text(centre, top + line / 2, text, fontsize=9, ha="center", va="center")
    for index, row in enumerate(rows):
        down = top + line * (index + 1)
        weight = "bold" if row.ours else "normal"
        axes.text(0.12, down + line / 2, row_label(row), fontsize=9, va="center", weight=weight)
        for column, radius in enumerate(radii):
            value = row.at(radius)
            start = left + cell * column
            colour = shades(0.75 * value / 100)
            axes.fill_between([start, start + cell], down, down + line, color=colour, linewidth=0)
            axes.text(
                start + cell / 2, down + line / 2, f"{value:.1f}" if value else "0",
                fontsize=9, ha="center", va="center", weight=weight,
                color="white" if value > 80 else "#1f2430",
            )  # fmt: skip
        if index == 0 or rows[index - 1].family != row.family:
            axes.plot([0.1, width - 0.1], [down, down], color="#8a909b", linewidth=0.8)
    return figure


def median_bars(medians: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw Table 1: the median certified radius of each method, published beside ours."""
    datasets = list(dict.fromkeys(item["dataset"] for item in medians))
    counts = [sum(item["dataset"] == name for item in medians) for name in datasets]
    figure = new_figure(8.4, 1.3 + 0.5 * sum(counts))
    grid = figure.subplots(
        len(datasets), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": counts}
    )
    for axes, dataset in zip(grid[:, 0], datasets, strict=True):
        own = [item for item in medians if item["dataset"] == dataset]
        for place, item in enumerate(own):
            _draw_median(axes, place, item, FAMILY_COLOURS)
        axes.set_yticks(range(len(own)), [_median_label(item) for item in own], fontsize=9)
        axes.set_ylim(len(own) - 0.4, -0.6)
        axes.set_title(dataset_title(dataset), loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e3e5e8", linewidth=0.8)
        axes.set_axisbelow(True)
    _key_of_medians(grid[0, 0])
    grid[-1, 0].set_xlim(left=0)
    grid[-1, 0].set_xlabel("median certified radius (pixels)")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw_median(
    axes: Axes, place: int, item: Mapping[str, Any], colours: Mapping[str, str]
) -> None:
    colour = colours.get(item["method"], "#1f2430")
    if item["published"] is not None:
        axes.barh(
            place - 0.2, item["published"], 0.36,
            color="white", edgecolor=colour, hatch="////", linewidth=1,
        )  # fmt: skip
        axes.text(item["published"] + 0.3, place - 0.2, item["published"], va="center", fontsize=8)
    if item["ours"] is not None:
        axes.barh(place + 0.2, max(item["ours"], 0), 0.36, color=colour)
        low, high = item["interval"]
        axes.plot([max(low, 0), max(high, 0)], [place + 0.2] * 2, color="#1f2430", linewidth=1.4)
        shown = item["ours"] if item["ours"] >= 0 else "below 50%"
        axes.text(max(high, 0) + 0.3, place + 0.2, shown, va="center", fontsize=8, weight="bold")


def _key_of_medians(axes: Axes) -> None:
    from matplotlib.patches import Patch

    grey = "#6b6b6b"
    keys = [
        Patch(facecolor="white", edgecolor=grey, hatch="////", label="published"),
        Patch(facecolor=grey, label="ours, with interval"),
    ]
    axes.legend(handles=keys, loc="lower right", fontsize=9, frameon=False)


def _median_label(item: Mapping[str, Any]) -> str:
    name = method_label(item["method"])
    if item["ours"] is None:
        return f"{name} (published only)"
    if item["method"].startswith("Box-NN"):
        return "Box-NN, paper's count" if name == "Box-NN" else name.replace(" ", ", ", 1)
    return f"{name} (ours: {method_label(item['setting'])})"
