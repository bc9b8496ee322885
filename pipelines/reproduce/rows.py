"""Rows of a reproduced table or figure: published and ours, with intervals and differences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from boxnn_numba.baselines.ablation import radius_of_bound
from boxnn_numba.certificates import margin
from boxnn_numba.data.certificate_store import CertificateFile
from boxnn_numba.pipelines.figures.published import PublishedRow, family, method
from boxnn_numba.statistics import lower_bound, upper_bound

#: Differences up to this many points (or pixels of a median radius) are not named.
TOLERANCE = 2.0
#: Two-sided confidence of the intervals.
CONFIDENCE = 0.95
#: Our curves go at least this far, as the paper's do.
_LAST_RADIUS = 40
#: What an entry of Table 1 says of the best row -> attribute of it.
_MEDIAN_OF = {
    "ours": "median", "interval": "median_interval", "setting": "method",
    "convention": "convention", "images": "images", "samples": "samples",
}  # fmt: skip
#: What is said of a difference that nothing measured explains.
_UNEXPLAINED = "unexplained"
#: Pixels of an image of the paper's data sets.
_PAPER_FEATURES = 784


@dataclass(frozen=True)
class Row:
    """One method with one setting on one data set: certified accuracy in percent.

    Attributes
    ----------
    method
        As the paper writes it, such as ``"RA_40^B"``; what the paper does not have has other names.
    dataset, source
        ``"mnist"`` or ``"fashion-mnist"``; ``"ours"`` or ``"published"``.
    convention
        How radii are counted, ``"sound"`` or ``"paper"``.
    radii, percents
        Certified accuracy at each radius.
    low, high
        Two-sided 95% Clopper-Pearson interval at each radius; empty where published.
    median
        Median certified radius, -1 below 50% accuracy; None where it was not published.
    median_interval
        Radii that the intervals leave possible as the median; None where published.
    images, samples
        Test images certified; random ablations of each (None where nothing is random).
    group
        The part of a figure that the row belongs to, such as ``"figure5"``.
    run
        What was run: its folder, options and seconds.
    """

    method: str
    dataset: str
    source: str
    convention: str
    radii: list[int]
    percents: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    median: int | None = None
    median_interval: list[int] | None = None
    images: int | None = None
    samples: int | None = None
    group: str = ""
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it was measured here."""
        return self.source == "ours"

    @property
    def family(self) -> str:
        """The family of methods: ``"RA_40^B"`` -> ``"RA^B"``; all our boxes are one."""
        return "Box-NN" if self.method.startswith("Box-NN") else family(self.method)

    @property
    def setting(self) -> int | None:
        """Retained features or number of submodels."""
        return method(self.method).setting

    def at(self, radius: int) -> float:
        """Return the certified accuracy at a radius; 0 beyond those that the row has."""
        return self.percents[self.radii.index(radius)] if radius in self.radii else 0.0


def published_row(row: PublishedRow, dataset: str) -> Row:
    """Return a row of the paper's tables."""
    return Row(row.method, dataset, "published", "paper", list(row.radii), list(row.percents))


def our_row(
    file: CertificateFile, method: str, dataset: str, *, convention: str = "sound", **about: Any
) -> Row:
    """Return what a certificate file says of a method; the rest is as in `Row`.

    An image counts where its prediction is right and certified at the radius; abstentions do not.
    """
    outcome = file.outcome(convention)
    radii = np.arange(max(int(outcome[1].max()), _LAST_RADIUS) + 1)
    share = margin.certified_accuracy(*outcome, radii)
    won = np.rint(share * len(file)).astype(np.int64)
    tail = (1 - CONFIDENCE) / 2
    low, high = lower_bound(won, len(file), tail), upper_bound(won, len(file), tail)
    possible = [int((bound >= 0.5).sum()) - 1 for bound in (low, high)]
    percents, lows, highs = (np.round(100 * values, 2).tolist() for values in (share, low, high))
    return Row(
        method, dataset, "ours", convention, radii.tolist(), percents, lows, highs,
        median=int(margin.median_certified_radius(*outcome)),
        median_interval=possible,
        images=len(file),
        **about,
    )  # fmt: skip


def differences(rows: Sequence[Row]) -> list[str]:
    """Name every place where one of our rows is more than 2 points from the published one.

    Rows are compared under the convention of the paper where they have it. Each is explained by
    something measured, or called unexplained.
    """
    published = {(row.dataset, row.method): row for row in rows if not row.ours}
    found = []
    for row in rows:
        other = published.get((row.dataset, row.method))
        if not row.ours or other is None:
            continue
        name = f"{row.dataset} {row.group + ' ' if row.group else ''}{row.method}"
        swapped = _called_otherwise(row, other, published.values())
        for radius in other.radii:
            ours, theirs = row.at(radius), other.at(radius)
            if abs(ours - theirs) > TOLERANCE:
                place = row.radii.index(radius)
                low, high = row.low[place], row.high[place]
                why = (
                    _if_inside(low, theirs, high)
                    or swapped
                    or _by_guesses(row, radius, theirs)
                    or _UNEXPLAINED
                )
                found.append(
                    f"{name}, r={radius}: ours {ours:.1f} [{low:.1f}, {high:.1f}], published "
                    f"{theirs:.1f}, {ours - theirs:+.1f} points; {why}"
                )
    return found


def _if_inside(low: float, value: float, high: float) -> str:
    return "explained: inside our interval" if low <= value <= high else ""


def _called_otherwise(row: Row, namesake: Row, published: Iterable[Row]) -> str:
    """Say which other published row of RA^B or RA ours agrees with, if twice as well at least.

    Only where the published row called as ours cannot be what its name says: unanimous votes do
    not certify so much, or RA, which certifies less by the same votes, is published with more.
    """
    peers = [other for other in published if other.dataset == row.dataset]
    if not row.family.startswith("RA") or not (
        beyond_reach([namesake]) or _below_ra(namesake, peers)
    ):
        return ""
    off = {
        other.method: float(np.mean([abs(row.at(r) - other.at(r)) for r in namesake.radii]))
        for other in peers
        if other.family == row.family
    }
    nearest = min(off, key=lambda method: off[method])
    if 2 * off[nearest] > off[row.method]:
        return ""
    return (
        f"explained: the published {row.method} contradicts other published rows, and ours is "
        f"{off[nearest]:.1f} points from their {nearest} on average, {off[row.method]:.1f} from it"
    )


def _below_ra(row: Row, published: Iterable[Row]) -> bool:
    """Whether a published RA^B row certifies less than RA's, at radii where RA counts no guess."""
    weaker = [other for other in published if other.method + "^B" == row.method]
    return any(
        row.at(radius) < other.at(radius) - TOLERANCE
        for other in weaker
        for radius in other.radii
        if radius > 0
    )


def _by_guesses(row: Row, radius: int, theirs: float) -> str:
    """Say what the published count of right guesses explains of RA at radius 0."""
    guessed = row.run.get("guessed_right")
    if row.family != "RA" or radius > 0 or guessed is None:
        return ""
    words = f"{guessed:.1f}% are guessed right, which the published RA counts at r=0"
    rest = guessed - theirs
    if abs(rest) <= TOLERANCE:
        return f"explained: {words}"
    if abs(rest) < abs(row.at(0) - theirs):
        return f"{words}; the other {rest:+.1f} points are unexplained"
    return ""


def without_counterpart(rows: Sequence[Row]) -> list[str]:
    """Say of each of our settings that the paper lacks which of its rows is the nearest."""
    found = []
    for row in rows:
        wanted = row.setting
        if not row.ours or wanted is None:
            continue
        peers = [
            other
            for other in rows
            if not other.ours and (other.family, other.dataset) == (row.family, row.dataset)
        ]
        if peers and all(other.method != row.method for other in peers):
            nearest = min(peers, key=lambda other: abs((other.setting or 0) - wanted))
            values = ", ".join(
                f"r={radius} {row.at(radius):.1f} and {nearest.at(radius):.1f}"
                for radius in (0, 4, 8, 12)
            )
            found.append(
                f"{row.dataset} {row.method} is not in the paper; ours beside its "
                f"{nearest.method}: {values}"
            )
    return found


def guesses(rows: Sequence[Row]) -> list[str]:
    """Say how often RA's guess was right, certified or not.

    The code that Levine and Feizi published gives a right guess that it cannot certify the
    radius 0, so the published rows of RA count it at r = 0; ours are abstentions there.
    """
    return [
        f"{row.dataset} {row.method}: {row.run['guessed_right']:.1f}% guessed right, "
        f"{row.at(0):.1f}% certified"
        for row in rows
        if row.family == "RA" and "guessed_right" in row.run
    ]


def never_improved(rows: Sequence[Row]) -> list[str]:
    """Name the runs of which no epoch was better, on validation data, than the initial boxes."""
    return [
        f"{row.dataset} {row.method}: no epoch was better than the initial boxes, which are shown"
        for row in rows
        if row.run.get("best_epoch") == 0
    ]


def beyond_reach(rows: Sequence[Row]) -> list[str]:
    """Name published RA rows that certify more than k = their setting can, whatever the votes.

    Where every draw votes for the class, RA and RA^B certify the radii r with
    ``2 C(n - r, k) > C(n, k)`` and no more.
    """
    found = []
    for row in rows:
        if row.ours or row.setting is None or not row.family.startswith("RA"):
            continue
        most = radius_of_bound(1, _PAPER_FEATURES, row.setting)
        beyond = [radius for radius in row.radii if radius > most and row.at(radius) > 0]
        if beyond:
            found.append(
                f"{row.dataset} {row.method} certifies {row.at(beyond[0]):.1f}% at r={beyond[0]}, "
                f"but unanimous votes with k = {row.setting} certify r={most} at most: this row "
                "has another setting, so that ours cannot agree with it"
            )
    return found


def median_differences(medians: Sequence[dict[str, Any]]) -> list[str]:
    """Name the best median radii of Table 1 that are more than 2 pixels from the published."""
    found = []
    for item in medians:
        ours, theirs = item["ours"], item["published"]
        if ours is not None and theirs is not None and abs(ours - theirs) > TOLERANCE:
            low, high = item["interval"]
            found.append(
                f"{item['dataset']} {item['method']}, median certified radius: ours {ours} "
                f"[{low}, {high}] by {item['setting']}, published {theirs}; "
                f"{_if_inside(low, theirs, high) or _UNEXPLAINED}"
            )
    return found


def best_medians(rows: Sequence[Row], published: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Return Table 1: each family's largest median radius over its settings.

    `published` is data set -> family -> the paper's value. ``ours`` is None where nothing was
    rerun. Box-NN has one entry for each of our ways to train and to count it.
    """
    entries: list[dict[str, Any]] = []
    for dataset, values in published.items():
        for name, value in values.items():
            own = [
                row for row in rows if row.ours and row.dataset == dataset and row.family == name
            ]
            # Settings of a published defence compete; ours are told apart.
            groups = [[row] for row in own] if name == "Box-NN" else [own]
            for group in groups or [[]]:
                best = max(group, key=lambda row: row.median or 0, default=None)
                label = name if best is None or name != "Box-NN" else best.method
                known = value if label == name else None
                entries.append({"dataset": dataset, "method": label, "published": known})
                for key, attribute in _MEDIAN_OF.items():
                    entries[-1][key] = None if best is None else getattr(best, attribute)
    return entries


#: What is said of rows, by its name in a result: words above it, and what finds it.
REMARKS = {
    "nearest": ("settings that the paper does not have:", without_counterpart),
    "beyond_reach": ("published rows that cannot be what they are called:", beyond_reach),
    "guesses": (
        "guesses, which the published RA counts at r = 0 although uncertified:",
        guesses,
    ),
}
