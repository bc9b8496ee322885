"""The table and the picture of a frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba.data.atomic import staged_output
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures.palette import run_colour
from boxnn_numba.pipelines.figures.published import FAMILIES, family, published_rows
from boxnn_numba.pipelines.reproduce.files import write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from boxnn_numba.pipelines.model_selection.frontier import Member

COLUMNS = ("radius", "model", "held_out", "test", "published", "method")


def write_frontier(
    folder: Path, result: Mapping[str, Any], members: Sequence[Member], chosen: np.ndarray
) -> None:
    """Write ``frontier.csv``, ``frontier.json`` and ``frontier.png``."""
    write_csv(
        folder / "frontier.csv", COLUMNS, ([row[n] for n in COLUMNS] for row in result["rows"])
    )
    write_json(folder / "frontier.json", result)
    figure = draw_frontier(result, members, chosen)
    with staged_output(folder / "frontier.png", overwrite=True, directory=False) as partial:
        plots.save(figure, partial)


def draw_frontier(
    result: Mapping[str, Any], members: Sequence[Member], chosen: np.ndarray
) -> Figure:
    """Draw the envelope, the models it is made of (thin), and every published row (dotted)."""
    figure = plots.new_figure(8.6, 4.8)
    axes = figure.subplots()
    last = result["rows"][-1]["radius"]
    handles = []
    radii = np.arange(min(last + 1, len(chosen)))
    envelope = [at(members[int(chosen[radius])].test, int(radius)) for radius in radii]
    for member in members:
        if member.test is not None:
            axes.plot(
                member.test[: last + 1],
                color=run_colour(0).light,
                linewidth=0.7,
                alpha=0.5,
                zorder=3,
            )
    (line,) = axes.plot(
        radii, envelope, color=run_colour(0).light, linewidth=2.6, zorder=5,
        label="chosen at each radius on held-out data",
    )  # fmt: skip
    handles.append(line)
    published = published_rows(result["dataset"])
    for name in FAMILIES:
        rows = [row for row in published if family(row.method) == name]
        if rows:
            handles.append(plots.draw_family(axes, name, rows))
    plots.frame_curves(axes, last)
    axes.set_title(
        f"{result['dataset']}: test split, {result['test_rows']:,} samples", loc="left", fontsize=11
    )
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def frontier_text(result: Mapping[str, Any]) -> str:
    """Return the table for a terminal."""
    lines = ["radius   model        held out    test   published"]
    for row in result["rows"]:
        best = "" if row["published"] is None else f"{row['published']:>8.1f}  {row['method']}"
        lines.append(
            f"{row['radius']:>6}   {row['model'] or '-':<12}{row['held_out']:>9.1f}"
            f"{row['test']:>8.1f}{best:>4}"
        )
    return "\n".join(lines)


def at(values: np.ndarray | None, radius: int) -> float:
    """Return a curve's value at a radius, 0 where it has ended or there is none."""
    return float(values[radius]) if values is not None and radius < len(values) else 0.0
