"""Scales of charts: where axes end, their ticks and bins, the same in PNG files and on the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from boxnn_numba.pipelines.figures.published import PublishedRow
from boxnn_numba.pipelines.figures.runs import Run


def last_radius(runs: Sequence[Run], published: Sequence[PublishedRow]) -> int:
    """Return the radius at which the axis ends: from it on no run certifies 0.5% of samples.

    It is no more than a run has features to rewrite.
    """
    ends = [row.radii[-1] for row in published]
    for run in runs:
        curves = run.curve(), run.balanced_curve()
        ends.append(int(min(1 + max(map(last_visible, curves)), run.most)))
    return max([*ends, 1])


def last_visible(curve: np.ndarray) -> int:
    """Return the last radius at which a curve in percent is at least 0.5, or 0."""
    visible = np.flatnonzero(curve >= 0.5)
    return int(visible[-1]) if len(visible) else 0


def tick_step(last: int) -> int:
    """Return the step between ticks of a radius axis from 0 to `last`, at most 12 of them."""
    scale = 1
    while True:
        for base in (1, 2, 4, 5):
            if last <= 12 * base * scale:
                return base * scale
        scale *= 10


def value_ticks(values: Sequence[float]) -> list[float]:
    """Return about five round numbers, evenly spaced, that reach from below all values to above."""
    low, high = min(values), max(values)
    rough = (high - low) / 5 or abs(high) / 5 or 1.0
    scale = 10.0 ** np.floor(np.log10(rough))
    step = next(float(base * scale) for base in (1, 2, 5, 10) if base * scale >= 0.999 * rough)
    first, last = int(np.floor(low / step)), int(np.ceil(high / step))
    ticks = [float(f"{number * step:.9g}") for number in range(first, max(last, first + 1) + 1)]
    return [int(tick) if step >= 1 else tick for tick in ticks]


def default_radii(unit: str, most: int, last: int, of_images: Sequence[int]) -> Sequence[int]:
    """Return radii for a table in text: `of_images` of pixels, else about a dozen up to `last`.

    None is above `most`, the number of features that there are to rewrite. Of pixels there are
    about a dozen, too, where that shows each.
    """
    if unit == "pixels" and tick_step(last) > 1:
        return [radius for radius in of_images if radius <= most]
    last = max(0, min(last, most))
    return range(0, last + 1, tick_step(last))


def table_radii(runs: Sequence[Run], published: Sequence[PublishedRow]) -> list[int]:
    """Return the published radii, continued to where the runs end, or about a dozen."""
    last = last_radius(runs, published)
    radii = list(published[0].radii) if published else []
    end = radii[-1] if radii else -1
    return radii + [radius for radius in range(0, last + 1, tick_step(last)) if radius > end]


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
