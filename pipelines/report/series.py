"""Series of the page, shown and hidden together: a run or a family of published methods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from boxnn_numba.pipelines.figures import palette
from boxnn_numba.pipelines.figures.learning import Learning
from boxnn_numba.pipelines.figures.published import BEST, Method, family, method
from boxnn_numba.pipelines.figures.runs import Constant, Run


class Series(NamedTuple):
    """A line of the page: its name as plain text and taken apart, and the mark of a run.

    `key` is its class in the page, and what its parts have as ``data-series``.
    """

    key: str
    name: str
    words: Method
    mark: str = ""


def of_runs(runs: Sequence[Run]) -> list[Series]:
    """Return the series of runs."""
    return [
        Series(f"run-{index}", run.name, run.words, palette.run_mark(index))
        for index, run in enumerate(runs)
    ]


def of_learning(learning: Sequence[Learning]) -> list[Series]:
    """Return the series of what was trained: those of runs, and others for what no run is of."""
    return [
        Series(
            f"{'run' if one.run else 'log'}-{one.place}",
            one.name,
            Method(one.name),
            palette.run_mark(one.place),
        )
        for one in learning
    ]


def of_method(name: str) -> Series:
    """Return a published method, or a family of them, as one of its family's series."""
    key = "-".join(re.split(r"[ ^]", family(name).lower()))
    return Series(f"family-{key}", name, method(name))


def of_constant(constant: Constant) -> Series:
    """Return the series of the majority-class baseline."""
    name = f"always {constant.name}"
    return Series("constant", name, Method(name))


def shades() -> dict[str, palette.Shades]:
    """Return the colours of all series by key; those of runs are used again."""
    colours = {f"run-{index}": shades for index, shades in enumerate(palette.RUNS)}
    colours["constant"] = palette.CONSTANT
    families = {**palette.FAMILIES, BEST: palette.FAMILIES["Box-NN"]}
    return colours | {of_method(name).key: pair for name, pair in families.items()}
