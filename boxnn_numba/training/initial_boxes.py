"""Initial boxes: how many a class gets, and where they are.

`initial_boxes` draws the centres of a run from its samples. `grown` adds boxes to present ones
where these are wrong, for data that are few, uneven or crowded, or come in parts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from boxnn_numba.distances import box_distance
from boxnn_numba.errors import OptionError
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.options import TrainingOptions

#: Samples that the side of new boxes is chosen on.
_PROBES = 128
#: Share of them that may lie in a new box of another class.
_INSIDE = 0.05
#: Bounds of rivals that are looked at together.
_CELLS = 2**18
#: Most rounds of the clusters that become templates.
_ROUNDS = 20
#: Templates of a class if options leave it open, and boxes that each has where they are many.
_TEMPLATES, _TEMPLATE_BOXES = 20, 6


class Seeds(NamedTuple):
    """Boxes in training: what `boxnn_numba.training.run.Training` starts from.

    Attributes
    ----------
    bounds
        (lower, upper), (M, n) float32 in codes.
    labels
        (M,) int32 class indices, ascending.
    """

    bounds: Pair
    labels: np.ndarray

    @classmethod
    def none(cls, n_features: int) -> Seeds:
        """Return no boxes."""
        empty = np.empty((0, n_features), np.float32)
        return cls((empty, empty), np.empty(0, np.int32))

    def counts(self, n_classes: int) -> np.ndarray:
        """Return the number of boxes of each class."""
        return np.bincount(self.labels, minlength=n_classes)

    def joined(self, centres: np.ndarray, labels: np.ndarray, half: float) -> Seeds:
        """Return these boxes and new ones with sides of 2 `half` around codes (S, n)."""
        new = centres.astype(np.float32)
        every = np.concatenate((self.labels, labels.astype(np.int32)))
        order = np.argsort(every, kind="stable")
        lower, upper = (
            np.concatenate((side, new + np.float32(sign * half)))[order]
            for side, sign in zip(self.bounds, (-1, 1), strict=True)
        )
        return Seeds((lower, upper), every[order])


def counting(weights: np.ndarray) -> np.ndarray:
    """Return (K,) weights of the classes in sharing out boxes, from `weights` (K,) of their rows.

    That is 1, or less if the rows of a class weigh less than 0.1 on average.
    """
    return np.minimum(1.0, 10 * weights)


def even_shares(n_boxes: int, n_classes: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the (K,) numbers of boxes of the classes, as even as can be and at least 1.

    A class whose rows have little weight, by `weights` (K,), gets fewer: its boxes would claim
    nearby samples although training hardly counts its rows.
    """
    if n_boxes < n_classes:
        raise OptionError(
            f"`boxes` is {n_boxes}, fewer than the {n_classes} classes; pass at least {n_classes}"
        )
    share = np.full(n_classes, n_boxes // n_classes)
    share[: n_boxes % n_classes] += 1
    if weights is None:
        return share
    return np.maximum(1, np.floor(share * counting(weights)).astype(np.int64))


def initial_boxes(feed: Feed, n_classes: int, options: TrainingOptions) -> Seeds:
    """Return the boxes that a run starts from, their bounds still unclipped.

    Options give boxes, alpha, initialisation and seed (Section 4.2, "Improving Initialization"). A
    class with fewer samples than boxes gets one for each.
    """
    if options.relaxation == "additive":  # boxes follow from what columns add
        labels = np.repeat(np.arange(n_classes), even_shares(options.boxes, n_classes).min())
        return Seeds.none(feed.n_features).joined(
            np.zeros((len(labels), feed.n_features)), labels, 0.0
        )
    share = even_shares(options.boxes, n_classes, feed.class_weights(n_classes))
    rng = np.random.default_rng([options.seed, 2])
    half = 255 * options.alpha
    if options.initialisation == "random":
        centres = rng.uniform(0, 255, (int(share.sum()), feed.n_features))
    else:
        y = feed.labels
        share = np.minimum(share, np.bincount(y, minlength=n_classes))
        rows = [
            rng.choice(np.flatnonzero(y == c), share[c], replace=False) for c in range(n_classes)
        ]
        centres = feed.take(np.concatenate(rows))
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), share)
    seeds = Seeds.none(feed.n_features)
    if options.initialisation == "room":
        some = np.sort(rng.permutation(len(feed))[:_PROBES])
        points = seeds.joined(centres, labels, 0.0)
        half = half_side(points, feed.take(some), feed.labels[some], half, options.seed)
    return seeds.joined(centres, labels, half)


def templates_of(seeds: Seeds, n_templates: int, seed: int) -> np.ndarray:
    """Return (M,) int32, the template of each box: boxes of one class that are near each other.

    Each class has at most so many templates, numbered over all classes; 0 for a number that grows
    with its boxes. They are clusters of the boxes' centres, by Lloyd's method with the distance l1
    and means rounded to codes: integers, so that they are the same on every machine.
    """
    lower, upper = seeds.bounds
    centres = np.clip((lower + upper) / 2 + np.float32(0.5), 0, 255).astype(np.uint8)
    out, count = np.empty(len(centres), np.int32), 0
    for label in np.unique(seeds.labels):
        rows = np.flatnonzero(seeds.labels == label)
        if n_templates == 1:
            out[rows], count = count, count + 1
            continue
        points = centres[rows]
        rng = np.random.default_rng([seed, 7, int(label)])
        most = n_templates or max(_TEMPLATES, len(rows) // _TEMPLATE_BOXES)
        middles = points[rng.permutation(len(rows))[:most]]
        owner = np.full(len(rows), -1)
        for _ in range(_ROUNDS):
            nearest = box_distance(points, middles, middles, width=255).argmin(axis=1)
            if (nearest == owner).all():
                break
            owner = nearest
            for t in np.unique(owner):
                inside = points[owner == t].astype(np.int64)
                middles[t] = (2 * inside.sum(axis=0) + len(inside)) // (2 * len(inside))
        used, number = np.unique(owner, return_inverse=True)
        out[rows] = count + number
        count += len(used)
    return out


def grown(
    present: Seeds,
    feed: Feed,
    wrong: np.ndarray,
    shares: np.ndarray,
    half: float,
    fits: bool,
    seed: int,
) -> Seeds:
    """Return the present boxes and new ones around samples that these get wrong.

    A sample that the boxes classify as it should be needs none of its own, as in the condensed
    nearest neighbour rule (Hart 1968); without boxes, every sample is wrong.

    The samples are those of a feed; those that are `wrong` (N,) may become the centre of a box.
    shares (K,) are the most boxes of each class; half is half the side of new boxes, in codes, or
    if `fits` at most what the data have room for, see `half_side`.
    """
    rng = np.random.default_rng([seed, 2])
    chosen = []
    for label, room in enumerate(shares - present.counts(len(shares))):
        rows = np.flatnonzero((feed.labels == label) & wrong)
        chosen.append(rng.choice(rows, min(len(rows), max(room, 0)), replace=False))
    rows = np.concatenate(chosen)
    centres, labels = feed.take(rows), feed.labels[rows]
    if fits:
        points = present.joined(centres, labels, 0.0)
        rng = np.random.default_rng([seed, 6])
        some = rng.choice(len(feed), min(_PROBES, len(feed)), replace=False)
        half = half_side(points, feed.take(some), feed.labels[some], half, seed)
    return present.joined(centres, labels, half)


def half_side(
    boxes: Seeds, codes: np.ndarray, index: np.ndarray, largest: float, seed: int
) -> float:
    """Return half the side that new boxes may have: few samples then lie in one of another class.

    With many classes in few dimensions, boxes of the usual side would cover all there is: every
    sample is at distance 0 of several classes, and training hardly finds out of that.

    boxes are the present ones, and points where new ones will be. Of the samples (N, n), of class
    indices (N,), some are looked at. The result, in codes, is `largest` where they have room for
    it, and where there are boxes of one class only.
    """
    rng = np.random.default_rng([seed, 6])
    probes = rng.choice(len(codes), min(_PROBES, len(codes)), replace=False)
    room = [np.array([largest])]
    for label in np.unique(index[probes]):
        rivals = boxes.labels != label
        lower, upper = (side[rivals] for side in boxes.bounds)
        x = codes[probes[index[probes] == label], None].astype(np.float32)
        step = max(1, _CELLS // max(1, lower.size))
        for some in np.split(x, range(step, len(x), step)) if len(lower) else ():
            outside = np.maximum(lower - some, some - upper).max(axis=2).min(axis=1)
            # A box covers whole codes, so one that ends half way to the next one stays outside.
            room.append(np.maximum(0.0, outside.astype(np.float64) - 0.5))
    return min(largest, float(np.quantile(np.concatenate(room), _INSIDE)))
