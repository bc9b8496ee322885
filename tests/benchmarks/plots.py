"""Figures of `bench.py --plot`: growth of time and memory, comparison with peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boxnn_numba.data.paths import Location
from boxnn_numba.pipelines.figures.curves import new_figure, save

if TYPE_CHECKING:
    from benchmarks.method import Record
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _PEER, _GUIDE = "#0b5fd0", "#8a8f98", "#c9ccd1"
_AXES = {"N": "samples N", "n": "features n", "M": "boxes M"}
_COLOURS = {"certify": "#0b5fd0", "training step": "#d97000", "training": "#d97000"}


def draw(result: dict[str, Any], folder: Location) -> None:
    """Write a PNG file for every suite that has something to draw.

    Parameters
    ----------
    result
        What `suites.bench` returned.
    folder
        Existing folder for ``growth.png``, ``peers.png``, ``training.png`` and ``kernel.png``.
    """
    by_suite: dict[str, list[Record]] = {}
    for item in result["records"]:
        by_suite.setdefault(item["suite"], []).append(item)
    machine = f"{result['machine']['cpu']}, {result['machine']['threads']} threads"
    if "growth" in by_suite:
        save(growth(by_suite["growth"], machine), folder / "growth.png")
    for suite, unit, title in (
        ("peers", "Mpairs/s", "Hard distances: million pairs a second"),
        ("training", "ms", "One training step: milliseconds"),
        ("kernel", "of limit", "Class distances: fraction of the machine's byte arithmetic"),
    ):
        if suite in by_suite:
            figure = bars(by_suite[suite], unit, f"{title}\n{machine}", log=suite != "kernel")
            save(figure, folder / f"{suite}.png")


def growth(records: Sequence[Record], machine: str) -> Figure:
    """Draw time (log-log, with its exponent) and peak memory over N, n and M."""
    figure = new_figure(10.5, 6.4)
    grid = figure.subplots(2, 3)
    figure.suptitle(f"Growth of time (one core) and of peak memory\n{machine}", fontsize=11)
    for column, axis in enumerate(_AXES):
        for row, unit in enumerate(("ms", "MiB")):
            axes = grid[row][column]
            axes.set_xscale("log", base=2)
            if row == 0:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("")
            for job in dict.fromkeys(item["job"] for item in records):
                points = [
                    item
                    for item in records
                    if (item["job"], item["axis"], item["unit"]) == (job, axis, unit)
                ]
                if points:
                    _draw_growth(axes, points, _growth_label(records, points[0]), _COLOURS[job])
            axes.set_xlabel(_AXES[axis])
            # Room for the legend above the lines.
            low, high = axes.get_ylim()
            axes.set_ylim((low, 3 * high) if row == 0 else (0, 1.35 * high))
            axes.grid(True, color=_GUIDE, linewidth=0.5)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7.5, frameon=False, loc="upper left")
            else:
                axes.set_visible(False)
    grid[0][0].set_ylabel("time (ms)")
    grid[1][0].set_ylabel("peak memory (MiB)")
    return figure


def _growth_label(records: Sequence[Record], point: Record) -> str:
    last = [item for item in records if item["case"] == point["case"]][-1]
    if point["unit"] == "ms":
        return f"{point['job']}: exponent {last['median']:.2f}"
    return f"{point['job']}: {max(last['median'], 0):,.0f} {last['unit']}"


def _draw_growth(axes: Axes, points: Sequence[Record], label: str, colour: str) -> None:
    from matplotlib.ticker import NullLocator

    sizes = [item["size"] for item in points]
    values = [item["median"] for item in points]
    errors = [
        [item["median"] - item["q1"] for item in points],
        [item["q3"] - item["median"] for item in points],
    ]
    axes.errorbar(
        sizes, values, yerr=errors, color=colour, marker="o", markersize=4, linewidth=1.4,
        capsize=2, label=label,
    )  # fmt: skip
    ticks = sorted({*axes.get_xticks(), *sizes} if len(axes.lines) > 3 else sizes)
    axes.set_xticks(ticks, [f"{size:,.0f}" for size in ticks], fontsize=6.5, rotation=45)
    axes.xaxis.set_minor_locator(NullLocator())


def bars(records: Sequence[Record], unit: str, title: str, *, log: bool) -> Figure:
    """Draw horizontal bars of the median, with quartiles, grouped by case."""
    rows = [item for item in records if item["unit"] == unit and "pairs" not in item["name"]]
    figure = new_figure(9.0, 1.4 + 0.21 * (len(rows) + len({item["case"] for item in rows})))
    axes = figure.subplots()
    position, ticks, names = 0.0, [], []
    for case in dict.fromkeys(item["case"] for item in rows):
        axes.annotate(
            case, (0, position), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8, fontweight="bold",
        )  # fmt: skip
        position += 1
        for item in (item for item in rows if item["case"] == case):
            _draw_bar(axes, item, position)
            ticks.append(position)
            names.append(f"boxnn, {item['name']}" if _is_ours(item) else item["name"])
            position += 1
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_ylim(position - 0.4, -0.8)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(left=min((item["q1"] for item in rows), default=1.0) / 4)
    largest = max((item["q3"] for item in rows), default=1.0)
    axes.set_xlim(right=largest * (3.0 if log else 1.12))
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=10)
    axes.grid(True, axis="x", color=_GUIDE, linewidth=0.5)
    axes.set_axisbelow(True)
    return figure


def _is_ours(item: Record) -> bool:
    return bool(item["name"].partition(" core")[0].isdigit())


def _draw_bar(axes: Axes, item: Record, position: float) -> None:
    errors = [[item["median"] - item["q1"]], [item["q3"] - item["median"]]]
    axes.barh(
        position, item["median"], height=0.75, color=_OURS if _is_ours(item) else _PEER,
        xerr=errors, error_kw={"linewidth": 0.8, "capsize": 2},
    )  # fmt: skip
    axes.annotate(
        f"{item['median']:,.3g}" if item["median"] < 1000 else f"{item['median']:,.0f}",
        (item["q3"], position), xytext=(5, 0), textcoords="offset points", va="center",
        fontsize=7.5,
    )  # fmt: skip
