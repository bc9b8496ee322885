"""Gallery: the samples of a run that a report shows, with their figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from boxnn_numba.pipelines.figures.runs import Run

#: Groups in which samples are shown, and what is in them.
GROUPS = {
    "worst": "right, smallest radius",
    "median": "right, middle radius",
    "best": "right, largest radius",
    "wrong": "misclassified, largest radius",
    "attacked": "right until an attack, from few changes to many",
}


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack did to a sample: how many features or groups it changed, -1 for no success.

    The changed image and the marks where it differs, (h, w) bool, are None where nothing was found
    or features are no image.
    """

    changed: int
    predicted_name: str
    image: np.ndarray | None = None
    marks: np.ndarray | None = None


class FeatureRow(NamedTuple):
    """A feature of a sample, as text: its values, those that boxes admit, and how far outside."""

    feature: str
    value: str
    attacked: str
    own: str
    own_outside: str
    rival: str
    rival_outside: str


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample of a run chosen for the report, and where it can be shown, what is shown of it.

    Parameters
    ----------
    index, group
        Row in the split of the data set, and key of `GROUPS`.
    overall
        Chosen among all samples; otherwise only among those of its class.
    label, prediction, rival
        Indices of the true class (-1 unknown), the predicted one and the rival that limits
        the radius.
    own_distance, rival_distance
        Distance to the nearest box of the predicted and of the rival class, in the run's
        `distance_unit`, with the constants of the classes.
    images
        Itself, own box lower and upper, rival box lower and upper; none where it is no image.
    rows, n_features
        Of a sample that is no image, the features that tell its nearest boxes apart most, and of
        how many.
    parts
        From how many parts the boxes shown are put together.
    """

    index: int
    group: str
    overall: bool
    label: int
    prediction: int
    rival: int
    label_name: str
    predicted_name: str
    rival_name: str
    radius: int
    own_distance: float
    rival_distance: float
    images: tuple[np.ndarray, ...] = ()
    rows: tuple[FeatureRow, ...] = ()
    n_features: int = 0
    attack: Attack | None = None
    parts: int = 1


def select_samples(run: Run, overall: int = 6, per_class: int = 2) -> list[Sample]:
    """Choose samples of each group: some `overall`, and some `per_class`.

    Those over all classes come first, then one round of the classes after another, so that any
    first part of the list is a sensible choice. Of equal radii those that were attacked go
    first, then by row.
    """
    everywhere = np.flatnonzero(run.label >= 0)
    changed = _changed(run)
    chosen: dict[tuple[str, int], bool] = {}
    for group, rows in _ranked(run, changed, everywhere, overall).items():
        chosen.update({(group, int(row)): True for row in rows})
    of_class = [np.flatnonzero(run.label == index) for index in range(len(run.classes))]
    ranked = [_ranked(run, changed, rows, per_class) for rows in of_class]
    for turn in range(per_class):
        for group in GROUPS:
            for groups in ranked:
                for row in groups[group][turn : turn + 1]:
                    chosen.setdefault((group, int(row)), False)
    return _described(run, chosen)


def attack_places(run: Run) -> np.ndarray:
    """Return where in the attack file each sample of a run is, (N,), -1 where it is not."""
    places = np.full(len(run.label), -1)
    if run.attack is not None:
        _, here, there = np.intersect1d(run.numbers, run.attack.row, return_indices=True)
        places[here] = there
    return places


def _changed(run: Run) -> np.ndarray:
    """Return how many changes fooled each sample, (N,), -1 where none did, -2 where none tried."""
    places = attack_places(run)
    if run.attack is None:
        return places - 1
    return np.where(places >= 0, run.attack.changed[places], -2)


def _ranked(run: Run, changed: np.ndarray, rows: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return up to `count` of the rows for each group, the most telling first."""
    correct = run.prediction[rows] == run.label[rows]
    right, wrong = rows[correct], rows[~correct]
    radius = run.radius.astype(np.int64)
    right = right[np.lexsort((right, changed[right] == -2, radius[right]))]
    wrong = wrong[np.argsort(-radius[wrong], kind="stable")]
    middle, last = max(0, (len(right) - count) // 2), max(0, len(right) - count)
    fooled = right[changed[right] > 0]
    fooled = fooled[np.argsort(changed[fooled], kind="stable")]
    spread = np.linspace(0, len(fooled) - 1, min(count, len(fooled))).round().astype(int)
    return {
        "worst": right[:count],
        "median": _part(right, radius[right], middle, count),
        "best": _part(right, radius[right], last, count)[::-1],
        "wrong": wrong[:count],
        "attacked": fooled[spread],
    }


def _part(rows: np.ndarray, radius: np.ndarray, start: int, count: int) -> np.ndarray:
    """Return rows that have the radii at start, start + 1, ..., the first of those with each."""
    places = np.arange(start, min(start + count, len(rows)))
    first = np.searchsorted(radius, radius[places])
    return rows[np.where(first < start, places - start + first, places)]


def _described(run: Run, chosen: dict[tuple[str, int], bool]) -> list[Sample]:
    if run.class_distance is None or not chosen:
        return []
    rows = np.array([row for _, row in chosen])
    distance = np.asarray(run.class_distance[rows], dtype=np.int64)
    prediction = run.prediction[rows]
    # The rival that limits the radius: ties count for a rival of smaller index.
    slack = distance - (np.arange(distance.shape[1]) < prediction[:, None])
    slack[np.arange(len(rows)), prediction] = np.iinfo(np.int64).max
    rival = slack.argmin(axis=1)
    samples = []
    for position, ((group, row), overall) in enumerate(chosen.items()):
        classes = int(run.label[row]), int(prediction[position]), int(rival[position])
        names = [str(run.classes[index]) if index >= 0 else "unknown" for index in classes]
        own, other = (float(distance[position, index]) / run.units for index in classes[1:])
        place = int(run.numbers[row]), group, overall, *classes
        samples.append(
            Sample(*place, names[0], names[1], names[2], int(run.radius[row]), own, other)
        )
    return samples
