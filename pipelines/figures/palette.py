"""Colours and marks of runs and published methods, the same in PNG files and on the page.

They differ under normal sight and under protan, deutan and tritan colour blindness (by 16 or more
in CIELAB, simulated after Machado et al. 2009), and runs differ by their marks too, since colours
are used again after six runs.
"""

from __future__ import annotations

from typing import NamedTuple


class Shades(NamedTuple):
    """A colour on a light and on a dark ground."""

    light: str
    dark: str


#: Of runs; red is kept for the paper's Box-NN.
RUNS = (
    Shades("#0b5fd0", "#62a8ff"),
    Shades("#d97000", "#ffa53d"),
    Shades("#1f2430", "#f1f3f6"),
    Shades("#a87097", "#8f8a9c"),
    Shades("#2a9d5c", "#99f0aa"),
    Shades("#550077", "#c040ff"),
)
#: Of the families of methods in the paper's tables.
FAMILIES = {
    "Box-NN": Shades("#d62728", "#ff5a52"),
    "RA": Shades("#ad8650", "#e0bd45"),
    "RA^B": Shades("#2f8fa5", "#7fd0e0"),
    "FPA^A": Shades("#9a2fd5", "#b055ff"),
    "FPA^B": Shades("#9d80ee", "#7787c8"),
}
#: The majority-class baseline.
CONSTANT = Shades("#6b7280", "#a3abb8")
#: Of features that an attack has changed, on grey images.
CHANGED = "#ff9500"
#: Marks on the lines of runs, by their names in matplotlib.
MARKS = ("o", "s", "^", "D", "v")


def run_colour(index: int) -> Shades:
    """Return the colour of a run by its position."""
    return RUNS[index % len(RUNS)]


def run_mark(index: int) -> str:
    """Return the mark of a run; of 30 runs no two have the same colour and the same mark."""
    return MARKS[(index + index // len(RUNS)) % len(MARKS)]
