"""Headline of a report: its result in one sentence, in the units of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from boxnn_numba.data.row_files import most_of
from boxnn_numba.pipelines.figures.runs import Run, constant_of
from boxnn_numba.training.weights import EQUAL


def headline(runs: Sequence[Run], convention: str = "sound") -> str:
    """Return the result in one sentence: percent right, and what half of all rows withstand.

    Of several runs it is of the one that withstands most, and names the one that is right most
    often; where their adversaries differ, of those whose adversary can reach most. Where classes
    are weighted, or one outweighs the others, all classes count alike.
    """
    balanced = any(map(_weighted, runs)) or constant_of(runs).lopsided
    free = _reach(max(runs, key=lambda run: math.inf if _reach(run) is None else len(_reach(run))))
    found = [_Result(run, balanced, convention == "sound") for run in runs if _reach(run) == free]
    best = max(found, key=lambda one: (one.median, one.share(1)))
    if len(runs) == 1:
        return best.sentence() + _beaten(best, runs) + "."
    most = max(found, key=lambda one: one.share(0))
    count = f"{len(runs)} runs"
    if len(found) < len(runs):
        count = f"{len(found)} of {count}, whose adversary can rewrite most,"
    if len(found) == 1:
        words = f"Of {len(runs)} runs, “{best.run.name}” is against who can rewrite most: "
    elif most.run is best.run:
        words = f"Best of {count} is “{best.run.name}”: "
    else:
        words = (
            f"Of {count} “{most.run.name}” is right most often, "
            f"{_percent(most.share(0))}, and “{best.run.name}” withstands most: "
        )
    return words + best.sentence() + _beaten(best, runs) + "."


def _reach(run: Run) -> Any:
    """Return which columns, or groups, an adversary can rewrite; None for all."""
    return run.attributes.get("attackable")


class _Result:
    """What a run reaches: `median` is the largest radius of half of all rows, -1 for none."""

    def __init__(self, run: Run, balanced: bool, sound: bool) -> None:
        self.run, self.balanced = run, balanced
        # Radii in the paper's convention, and those that a table claims, are not ours to prove.
        proved = sound and run.attributes.get("certificate") != "as given"
        self.withstand = "provably withstand" if proved else "withstand"
        # What random samples show of an image is wrong with a probability of alpha.
        if (alpha := run.attributes.get("alpha")) is not None:
            self.withstand = f"withstand, each with {100 * (1 - alpha):.12g}% confidence,"
        self.curve = run.balanced_curve() if balanced else run.curve()
        self.median: float
        if balanced:
            reached = np.flatnonzero(self.curve >= 50)
            self.median = int(reached[-1]) if len(reached) else -1
        else:
            self.median = run.summary().median_certified_radius

    def share(self, radius: int) -> float:
        """Return percent certified at a radius."""
        return float(self.curve[radius]) if radius < len(self.curve) else 0.0

    def sentence(self) -> str:
        """Return percent right and what is withstood, without a full stop."""
        right = f"{_percent(self.share(0))} right"
        if self.balanced:
            right += ", every class counted alike"
        radius = max(self.median, 1)
        who = "half" if self.median >= 1 else _percent(self.share(1)) if self.share(1) else "none"
        alike = ", counted so," if self.balanced and who != "none" else ""
        rows = self._rows()
        if who == "none":
            rows = rows.replace("all ", "the ", 1)
        words = f"{who} of {rows}{alike} {self.withstand} {self._changes(radius)}"
        if self.run.patches:
            share, block = _largest_block(self.run.patches)
            # Shares of blocks are not known by class.
            alike = ", images counted alike," if self.balanced else ""
            if self.median < 1 and share > self.share(1):  # a block has pixels: that says it all
                words = f"{_percent(share)} of {self._rows()}{alike} {self.withstand} {block}"
            else:
                words += f", and {_percent(share)}{alike} {block}"
        return f"{right}; {words}"

    def _rows(self) -> str:
        """Return what samples are: ``"all test images"``, ``"the 300 training rows certified"``."""
        run = self.run
        split = {"train": "training"}.get(str(run.attributes.get("split")), "test")
        noun = f"{split} {'images' if run.unit == 'pixels' else 'rows'}"
        whole = run.attributes.get("split_rows", len(run.label)) == len(run.label)
        return f"all {noun}" if whole else f"the {len(run.label):,} {noun} certified"

    def _changes(self, radius: float) -> str:
        """Return what an adversary does at a radius."""
        run, free = self.run, self.run.attributes.get("attackable")
        if run.unit.startswith("cost"):
            # Steps are rounded down: the last may leave a part of all costs to pay.
            if radius * run.step >= most_of(run.attributes) * (1 - 1e-12):
                return "whatever an adversary pays"
            return f"any rewriting that costs up to {radius * run.step:.12g}"
        one = run.unit.removesuffix("s") if radius == 1 else run.unit
        if radius >= run.most:
            count = f"all {radius:,} {one}" if radius > 1 else f"the one {one}"
            return f"any rewriting of {count}{'' if free is None else ' in reach'}"
        if free is not None:
            return f"any rewriting of {radius:,} of the {len(free):,} {run.unit} in reach"
        return f"any {radius:,} rewritten {one}"


def _largest_block(patches: Mapping[str, float]) -> tuple[float, str]:
    """Return the share that withstands the largest block that was looked at, and which."""
    size = max(patches, key=lambda size: math.prod(map(int, size.split("x"))))
    return patches[size], f"any rewritten block of {size.replace('x', ' x ')} pixels"


def _beaten(best: _Result, runs: Sequence[Run]) -> str:
    """Return the part of the sentence on the majority-class baseline, if it is no worse."""
    constant = constant_of(runs)
    share = constant.balanced_accuracy if best.balanced else constant.accuracy
    if best.share(0) > share:
        return ""
    return f", and always saying {constant.name} is right on {_percent(share)}"


def _weighted(run: Run) -> bool:
    training = run.attributes.get("training") or {}
    options = training.get("options") or {}
    return options.get("class_weight", EQUAL) != EQUAL


def _percent(value: float) -> str:
    """Return a share as text, which says all or none only where it is."""
    if 1e-9 < value < 0.05:
        return "under 0.1%"
    return "over 99.9%" if 99.95 <= value < 100 - 1e-9 else f"{value:.1f}%"
