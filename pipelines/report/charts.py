"""Charts of the page: where curves, bars and boxes lie in their SVG, in units of its view box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from boxnn_numba.pipelines.figures.learning import FIGURES, Learning, last_epoch
from boxnn_numba.pipelines.figures.palette import run_mark
from boxnn_numba.pipelines.figures.published import (
    BEST,
    FAMILIES,
    PublishedRow,
    best_published,
    family,
    method,
)
from boxnn_numba.pipelines.figures.runs import Run, constant_of
from boxnn_numba.pipelines.figures.scales import (
    histogram_counts,
    histogram_edges,
    last_radius,
    tick_step,
    value_ticks,
)
from boxnn_numba.pipelines.report.series import Series, of_constant, of_method

#: Width and height of the view box of the curves; the other charts have the same width.
VIEW = (720, 450)
#: Both charts of a run share the left and right end of the radius axis, and the height of a class.
_LEFT, _WIDTH, _TOP, _LINE = 120, 580, 40, 26
#: Bounds of the height of a histogram, otherwise as high as the chart of classes beside it.
_LOWEST, _HIGHEST = 130, 260
_LONGEST_NAME = 9


@dataclass(frozen=True)
class Area:
    """The plotting area of a chart: where it lies, and what is at its ends."""

    left: float
    top: float
    width: float
    height: float
    first: float
    last: float
    highest: float = 100.0
    lowest: float = 0.0

    def x(self, radius: float) -> float:
        """Return where a radius lies."""
        share = (radius - self.first) / (self.last - self.first)
        return round(self.left + self.width * float(share), 1)

    def y(self, value: float) -> float:
        """Return where a value lies."""
        share = (float(value) - self.lowest) / (self.highest - self.lowest)
        return round(self.top + self.height * (1 - share), 1)

    def path(self, radii: Iterable[int], values: Iterable[float]) -> str:
        """Return a line through values, as far as the axis goes."""
        points = zip(radii, values, strict=True)
        return "M" + "L".join(f"{self.x(r)} {self.y(v)}" for r, v in points if r <= self.last)

    def steps(self, values: Sequence[float] | np.ndarray) -> str:
        """Return a line through the values at radii 0, 1, ...: each holds until the next radius.

        What ends before the axis does falls to nothing there.
        """
        last = int(self.last)
        moves = [f"H{self.x(r)}V{self.y(v)}" for r, v in enumerate(values[: last + 1]) if r > 0]
        return f"M{self.x(0)} {self.y(values[0])}{''.join(moves)}"

    def back(self, values: Sequence[float] | np.ndarray) -> str:
        """Return the line of `steps` from its end back to its beginning, to close an area."""
        end = min(int(self.last), len(values))
        moves = [f"V{self.y(values[r])}H{self.x(r)}" for r in reversed(range(end))]
        return f"H{self.x(end)}{''.join(moves)}Z"

    @property
    def radii(self) -> range:
        """Radii at ticks."""
        return range(0, int(self.last) + 1, tick_step(int(self.last)))

    @property
    def values(self) -> range:
        """Values at ticks."""
        return range(0, int(self.highest) + 1, 2 * tick_step(int(self.highest)))


class Line(NamedTuple):
    """A curve: its series, its path, and of a run its marks and what an attack leaves.

    `band` is the area between both, where the attack was on all samples.
    """

    key: str
    path: str
    mark: str = ""
    marks: Sequence[tuple[float, float]] = ()
    attack: str = ""
    band: str = ""


def curves(
    runs: Sequence[Run], published: Sequence[PublishedRow], balanced: bool = False
) -> tuple[Area, list[Line]]:
    """Return the certified curves: published ones and the best of them, then those of runs on top.

    With `balanced` all classes count alike; then there are no published curves and no attacks.
    """
    last = last_radius(runs, published)
    area = Area(52, 36, 652, 350, 0, last)
    lines = []
    best = [best_published(published)[0]] if published else []
    for name in (*reversed(FAMILIES), BEST):
        for row in (*published, *best):
            if family(row.method) == name:
                lines.append(Line(of_method(name).key, area.path(row.radii, row.percents)))
    constant = constant_of(runs)
    share = constant.balanced_accuracy if balanced else constant.accuracy
    lines.append(Line("constant", area.path((0, last), (share, share))))
    for index, run in enumerate(runs):
        # The step down to zero after the largest radius belongs to the curve.
        values = np.append(run.balanced_curve() if balanced else run.curve(), 0.0)
        path = area.steps(values)
        marks = [(area.x(r), area.y(values[r])) for r in area.radii if r < len(values)]
        robust = None if balanced else run.robust
        attack = band = ""
        if robust is not None:
            attack = area.steps(robust)
            if run.attacked == len(run.label):
                band = area.steps(values[: len(robust)]) + area.back(robust)
        lines.append(Line(f"run-{index}", path, run_mark(index), marks, attack, band))
    return area, lines


def histogram(runs: Sequence[Run], index: int) -> tuple[Area, float, list[dict[str, Any]]]:
    """Return how many samples of a run have each radius, on axes that all runs share.

    That is the area, the width of a bar, and the bars that are not empty: in words, and (class,
    top, height) of the right and wrong samples.
    """
    edges = histogram_edges(runs)
    tallest = max(int(np.add(*histogram_counts(run, edges)).max()) for run in runs)
    height = min(_HIGHEST, max(_LOWEST, _LINE * len(runs[index].classes)))
    area = Area(_LEFT, _TOP, _WIDTH, height, -0.5, edges[-1] - 0.5, tallest)
    step, bars = int(edges[1] - edges[0]), []
    for first, good, bad in zip(edges, *histogram_counts(runs[index], edges), strict=False):
        radii = str(first) if step == 1 else f"{first}–{first + step - 1}"
        parts = [
            (kind, area.y(top), round(height * int(count) / tallest, 1))
            for kind, top, count in ((f"run-{index}", good, good), ("wrong", good + bad, bad))
            if count
        ]
        if parts:
            words = f"radius {radii}: {good} right, {bad} wrong"
            left = round(area.x(first - 0.5) + 0.5, 1)
            bars.append({"words": words, "left": left, "parts": parts})
    return area, round(max(_WIDTH / (len(edges) - 1) - 1, 0.5), 1), bars


def classes(runs: Sequence[Run], index: int) -> tuple[Area, list[dict[str, Any]]]:
    """Return how the certified radii of each true class of a run are spread, on the same axis.

    Of each class that is the middle nine tenths and half, median and mean; wrong predictions count
    as below 0.
    """
    run, end = runs[index], histogram_edges(runs)[-1]
    present = [at for at in range(len(run.classes)) if (run.label == at).any()]
    area = Area(_LEFT, _TOP, _WIDTH, _LINE * len(present), -0.5, end - 0.5, len(present))
    certified = np.where(run.prediction == run.label, run.radius, -1)
    spreads = []
    for line, (at, row) in enumerate(zip(present, run.per_class(), strict=True)):
        name, mean = row.name, row.mean_certified_radius
        # Long names often differ at their ends only.
        long = len(name) > _LONGEST_NAME
        short = f"{name[:3]}…{name[4 - _LONGEST_NAME :]}" if long else name
        radii = np.sort(certified[run.label == at])
        cuts = radii[(np.array([0.05, 0.25, 0.5, 0.75, 0.95]) * len(radii)).astype(int)]
        words = (
            f"class {name}: median {cuts[2]}, half within {cuts[1]} to {cuts[3]}, "
            f"nine tenths within {cuts[0]} to {cuts[4]}, mean {mean:.1f}"
        )
        spread = {"name": short, "words": words, "y": area.y(len(present) - line - 0.5)}
        ends = zip(("low", "first", "middle", "third", "high"), cuts, strict=True)
        spread |= {end: area.x(max(cut, 0)) for end, cut in ends}
        spreads.append({**spread, "mean": area.x(mean)})
    return area, spreads


def learning(found: Sequence[Learning], series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return a chart of each figure of training by epoch, a line for each set of boxes.

    `series` are of the same order.
    """
    drawn, end = [], last_epoch(found)
    for name, words in FIGURES.items():
        points = [one.points(name) for one in found]
        values = [value for sets in points for line in sets for _, value in line]
        if not values:
            continue
        ticks = value_ticks(values)
        area = Area(70, 36, 640, 260, 0, end, ticks[-1], ticks[0])
        lines = []
        for sets, own in zip(points, series, strict=True):
            for number, line in enumerate(sets):
                which = f"{own.name}, set {number + 1}" if len(sets) > 1 else own.name
                spoken = f"{which}: {line[-1][1]:.4g} after epoch {line[-1][0]}" if line else which
                at = [(area.x(epoch), area.y(value)) for epoch, value in line]
                marks = [place for place, (e, _) in zip(at, line, strict=True) if e in area.radii]
                path = "M" + "L".join(f"{x} {y}" for x, y in at) if line else ""
                lines.append((own, spoken, path, marks or at[-1:]))
        drawn.append({"words": words, "area": area, "ticks": ticks, "lines": lines})
    return drawn


def curve_data(
    runs: Sequence[Run], published: Sequence[PublishedRow], area: Area
) -> dict[str, Any]:
    """Return what the page's script needs to show values: the area, runs and published rows.

    The constant is the last of the runs.
    """
    constant = constant_of(runs)
    always = {
        "key": "constant",
        "name": of_constant(constant).name,
        "values": [constant.accuracy] * (int(area.last) + 1),
        "attack": None,
    }
    return {
        "area": {key: getattr(area, key) for key in ("left", "top", "width", "height")},
        "view": VIEW,
        "last": area.last,
        "runs": [
            {
                "key": f"run-{index}",
                "name": run.name,
                "values": run.curve().round(4).tolist(),
                "attack": None if run.robust is None else run.robust.round(4).tolist(),
            }
            for index, run in enumerate(runs)
        ]
        + [always],
        "published": _published_data(published),
    }


def _published_data(published: Sequence[PublishedRow]) -> list[dict[str, Any]]:
    """Return published rows for the script, the best of them first; notes are said of values."""
    if not published:
        return []
    best, methods = best_published(published)
    of_values = [f" ({method(name)})" for name in methods]
    rows = [(best, of_values)]
    for row in published:
        setting = of_method(row.method).words.setting
        rows.append((row, [f" (ρ = {setting})" if setting else ""] * len(row.radii)))
    return [
        {
            "key": of_method(row.method).key,
            "name": row.method,
            "notes": notes,
            "radii": row.radii,
            "values": row.percents,
        }
        for row, notes in rows
    ]
