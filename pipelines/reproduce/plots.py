"""Pictures of reproduced tables and figures: published values dotted or pale, ours solid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boxnn_numba.pipelines.figures.curves import (
    FAMILY_COLOURS,
    frame_curves,
    method_label,
    new_figure,
    tidy,
)
from boxnn_numba.pipelines.figures.published import FAMILIES
from boxnn_numba.pipelines.reproduce.rows import Row
from boxnn_numba.pipelines.reproduce.targets import PANELS, TABLE_RADII, ablation_titles

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

#: A part of a figure: its title and (label, row) of each curve.
Panel = tuple[str, Sequence[tuple[str, Row]]]


def picture(
    target: str, rows: Sequence[Row], medians: Sequence[Mapping[str, Any]], title: str
) -> Figure:
    """Draw a target: Table 1, another table, panels that compare methods, or the ablation."""
    if medians:
        return median_bars(medians, f"{title}: median certified radius")
    if target.startswith("table"):
        name = _DATASET_TITLES[rows[0].dataset]
        return table_picture(rows, f"{title}: certified accuracy (%) on {name}; ours in bold")
    if target not in PANELS:
        heading = f"{title}: Box-NN on MNIST, published dotted, ours solid (the paper's count)"
        return curve_panels(ablation_titles(target, rows), heading, columns=3)
    panels = []
    for dataset, families in PANELS[target]:
        others = ", ".join(method_label(name) for name in families if name != FAMILIES[0])
        shown = [row for row in rows if row.dataset == dataset and row.family in families]
        head = f"{_DATASET_TITLES[dataset]}: Box-NN and {others}"
        panels.append((head, [(row_label(row), row) for row in shown]))
    return curve_panels(panels, f"{title}: published dotted, ours solid")


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


def curve_panels(panels: Sequence[Panel], title: str, columns: int = 2) -> Figure:
    """Draw certified accuracy against radius, one pair of axes a panel.

    Box-NN has colours of its own in each, the other methods one for each setting. Legends are
    below the axes of large panels, inside those of small ones.
    """
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    most = max(len(curves) for _, curves in panels)
    below = most > 6
    legend = 0.22 * -(-most // 2) if below else 0.0
    width = {1: 7.6, 2: 6.2}.get(columns, 4.6)
    figure = new_figure(width * columns, (3.9 + legend) * lines)
    look: dict[str, Any] = {"loc": "upper right"}
    if below:
        look = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.15), "ncols": 2}
    for place, (head, curves) in enumerate(panels, 1):
        axes = figure.add_subplot(lines, columns, place)
        _draw_panel(axes, curves)
        axes.set_title(head, loc="left", fontsize=10)
        axes.legend(fontsize=8.5, frameon=False, handlelength=3, **look)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw_panel(axes: Axes, curves: Sequence[tuple[str, Row]]) -> None:
    last, drawn = 1, 0
    colours: dict[int | str, str] = {}
    for label, row in curves:
        colour, dashes = _BOXNN_STYLES.get(row.method, ("", "-"))
        if not colour:
            next_one = SETTING_COLOURS[len(colours) % len(SETTING_COLOURS)]
            colour = colours.setdefault(row.setting or row.method, next_one)
        radii, percents = _visible(row)
        last = max(last, radii[-1] if not row.ours else sum(value >= 0.5 for value in percents))
        look: dict[str, Any] = {"color": colour, "label": label}
        if not row.ours:
            axes.plot(
                radii, percents, ":", linewidth=1.6, marker="o", markersize=3.2, zorder=3, **look
            )
            continue
        # Curves that coincide show as stripes: each is thinner than the one below.
        width = max(3.2 - 0.5 * drawn, 1.4)
        drawn += 1
        axes.plot(radii, percents, dashes, linewidth=width, zorder=4, **look)
        if row.images is not None and row.images < _BAND_IMAGES:
            band = radii[:-1], row.low[: len(radii) - 1], row.high[: len(radii) - 1]
            axes.fill_between(*band, color=colour, alpha=0.15, linewidth=0, zorder=2)
    frame_curves(axes, last, "pixels")


def _visible(row: Row) -> tuple[list[int], list[float]]:
    """Return a curve up to its first zero, which belongs to it."""
    zeros = [index for index, value in enumerate(row.percents) if value == 0]
    end = zeros[0] + 1 if zeros else len(row.percents)
    if row.ours and not zeros:
        return [*row.radii, row.radii[-1] + 1], [*row.percents, 0.0]
    return row.radii[:end], row.percents[:end]


def table_picture(rows: Sequence[Row], title: str) -> Figure:
    """Draw a table of certified accuracies, darker where more is certified, ours in bold."""
    figure = new_figure(10.8, 0.25 * (len(rows) + 1) + 0.75)
    axes = figure.subplots()
    values = [[row.at(radius) for radius in TABLE_RADII] for row in rows]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=100 / 0.75, aspect="auto")
    names = [f"r = {radius}" if radius == 0 else str(radius) for radius in TABLE_RADII]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_yticks(range(len(rows)), [row_label(row) for row in rows], fontsize=9)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    for index, (row, label) in enumerate(zip(rows, axes.get_yticklabels(), strict=True)):
        weight = "bold" if row.ours else "normal"
        label.set_fontweight(weight)
        for column, value in enumerate(values[index]):
            axes.text(
                column, index, f"{value:.1f}" if value else "0",
                fontsize=9, ha="center", va="center", weight=weight,
                color="white" if value > 80 else "#1f2430",
            )  # fmt: skip
        if index == 0 or rows[index - 1].family != row.family:
            axes.axhline(index - 0.5, color="#8a909b", linewidth=0.8)
    return figure


def median_bars(medians: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw Table 1: the median certified radius of each method, published beside ours."""
    from matplotlib.patches import Patch

    datasets = list(dict.fromkeys(item["dataset"] for item in medians))
    counts = [sum(item["dataset"] == name for item in medians) for name in datasets]
    figure = new_figure(8.4, 1.3 + 0.5 * sum(counts))
    grid = figure.subplots(
        len(datasets), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": counts}
    )
    for axes, dataset in zip(grid[:, 0], datasets, strict=True):
        own = [item for item in medians if item["dataset"] == dataset]
        for place, item in enumerate(own):
            _draw_median(axes, place, item)
        axes.set_yticks(range(len(own)), [_median_label(item) for item in own], fontsize=9)
        axes.set_ylim(len(own) - 0.4, -0.6)
        axes.set_title(_DATASET_TITLES[dataset], loc="left", fontsize=10)
        tidy(axes, "x")
    grey = "#6b6b6b"
    keys = [
        Patch(facecolor="white", edgecolor=grey, hatch="////", label="published"),
        Patch(facecolor=grey, label="ours, with interval"),
    ]
    grid[0, 0].legend(handles=keys, loc="lower right", fontsize=9, frameon=False)
    grid[-1, 0].set_xlim(left=0)
    grid[-1, 0].set_xlabel("median certified radius (pixels)")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw_median(axes: Axes, place: int, item: Mapping[str, Any]) -> None:
    colour = FAMILY_COLOURS.get(item["method"], "#1f2430")
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


def _median_label(item: Mapping[str, Any]) -> str:
    name = method_label(item["method"])
    if item["ours"] is None:
        return f"{name} (published only)"
    if item["method"].startswith("Box-NN"):
        return "Box-NN, paper's count" if name == "Box-NN" else name.replace(" ", ", ", 1)
    return f"{name} (ours: {method_label(item['setting'])})"
