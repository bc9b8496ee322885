"""Draw docs/images/methods.png: our presets and what was rerun beside the published rows of MNIST.

The curves are those of tests/benchmarks/results/presets.json and reproduce-table2.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

from boxnn_numba.pipelines.figures.curves import (
    FAMILY_COLOURS,
    finish_curves,
    method_label,
    new_figure,
    save,
)
from boxnn_numba.pipelines.figures.palette import run_colour
from boxnn_numba.pipelines.figures.published import family, published_rows

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "figures"))

from kept import Kept  # noqa: E402
from leaderboard import presets  # noqa: E402

IMAGE = ROOT / "docs" / "images" / "methods.png"
LAST = 45
#: Of each family the row that is drawn.
RERUN = ("RA_45", "RA_45^B", "FPA_25^A", "FPA_25^B")


def main() -> None:
    """Write the picture."""
    kept = Kept()
    figure = new_figure(9.6, 4.8)
    axes, handles = figure.subplots(), []
    drawn = [
        (name.replace("`", ""), curve, run_colour(index).light, "-")
        for index, (name, curve) in enumerate(presets(kept, "mnist"))
    ]
    drawn += [
        (method_label(name), kept.rerun_row("mnist", name), FAMILY_COLOURS[family(name)], "--")
        for name in RERUN
    ]
    for name, curve, colour, line in drawn:
        radii = range(LAST + 1)
        values = [curve.at(radius) for radius in radii]
        label = f"{name} (median {curve.median})"
        handles += axes.plot(radii, values, color=colour, linestyle=line, linewidth=2, label=label)
    title = "MNIST, test split, sound radii"
    finish_curves(figure, handles, published_rows("mnist"), LAST, title, "pixels")
    save(figure, IMAGE)


if __name__ == "__main__":
    main()
