"""Margin certificate: predictions and certified radii from class distances, and summaries.

Everything here is integer arithmetic; in a tie the adversary wins. Arrays on a GPU are used there
without a copy, as in `boxnn_numba.distances`. Lazy arrays give lazy radii and lazy summaries, which
are computed from counts of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import lazy, validation
from boxnn_numba.backends.devices import get_backend, on_gpu

CONVENTIONS = ("sound", "paper")
#: Method of a certificate that is not of a published defence.
BOX_NN = "Box-NN"

_MOST = np.iinfo(np.int32).max

#: For each true class the distinct radii, -1 for wrong predictions, and their counts.
Tally = dict[Any, tuple[np.ndarray, np.ndarray]]


def certified_radius(
    class_distance: ArrayLike,
    width: int,
    group_size: int = 1,
    convention: str = "sound",
    members: int = 1,
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class and the certified radius of each sample.

    Rewriting one feature changes a class distance by at most `width`. So the prediction
    ``p = argmin_c D_c`` (ties to the smaller index) stays the same as long as, for every rival
    ``c``, at most ``(D_c - D_p - [c < p]) // (2 W g)`` groups of ``g`` features are rewritten.

    Parameters
    ----------
    class_distance
        (N, K) integers, the distance of each sample to the nearest box of each class, in units of
        1 / `width`; K >= 2. Lazy distances give lazy results.
    width
        Width W of the boxes, 1..255.
    group_size
        Number g of codes that the adversary rewrites together, if each has a cap of its own (3 for
        an RGB pixel); 1 if groups are capped as a whole, as in `Boxes`.
    convention
        ``"sound"``, or ``"paper"`` to compare with the paper's tables: Eq. (10) counts
        ``margin / 2 >= r`` and ignores ties, which can overstate the radius by one.
    members
        Number E of sets of boxes, if `class_distance` is a sum over an ensemble; the divisor is
        2 W g E.
    most
        Number of groups, the largest radius that is returned; by default there is no such limit.

    Returns
    -------
    prediction : (N,) int32
        Index of the predicted class.
    radius : (N,) int32
        Certified radius of the prediction, in groups of features, >= 0, whether or not the
        prediction is right.

    Raises
    ------
    InputError
        `class_distance` is not an integer matrix with at least two columns.
    OptionError
        `width`, `group_size`, `convention`, `members` or `most` is out of range.

    Notes
    -----
    Theorem 4.2 of Pal, Vidal and Sulam, extended to graded boxes and made tie-aware.

    Examples
    --------
    >>> from boxnn_numba import certified_radius
    >>> certified_radius([[0, 9, 12]], width=1)
    (array([0], dtype=int32), array([4], dtype=int32))
    """
    width = validation.width(width)
    group_size = validation.positive("group_size", group_size)
    validation.choice("convention", convention, CONVENTIONS)
    units = 2 * width * group_size * validation.positive("members", members)
    top = _MOST if most is None else validation.integer("most", most, 1, _MOST)
    return lazy.map_rows(_radius, units, class_distance, sound=convention == "sound", most=top)


def _radius(
    units: int, class_distance: ArrayLike, sound: bool, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and radii; rewriting one group closes at most `units` of a margin."""
    if on_gpu(class_distance):
        return get_backend("cuda").certified_radius(class_distance, units, sound, most)
    distance = validation.class_distances(class_distance)
    rows = np.arange(len(distance))
    prediction = distance.argmin(axis=1)
    margin = distance.astype(np.int64) - distance[rows, prediction, None].astype(np.int64)
    if sound:
        margin -= np.arange(distance.shape[1]) < prediction[:, None]
    margin[rows, prediction] = np.iinfo(np.int64).max
    radius = np.minimum(margin.min(axis=1) // units, most)
    return prediction.astype(np.int32), radius.astype(np.int32)


def certified_accuracy(
    prediction: ArrayLike, radius: ArrayLike, y: ArrayLike, radii: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return the fraction of samples that are right and certified at each radius.

    Parameters
    ----------
    prediction, radius, y
        (N,) predicted classes, certified radii and true classes, N >= 1. A radius of -1 is that of
        a row of which nothing is certified.
    radii
        Radii at which to evaluate, each >= 0; whole numbers, unless `radius` holds budgets
        (floats).

    Returns
    -------
    (len(radii),) float64
        Certified accuracy, 0..1 (Eq. 10); lazy where an argument is.

    Raises
    ------
    InputError
        The arrays differ in length, are empty or masked, or `radius` holds what is no radius.
    OptionError
        There are no `radii`, or one is negative or not such a number.

    Examples
    --------
    >>> certified_accuracy([0, 1, 1], [3, 5, 0], [0, 1, 0], [0, 4])
    array([0.66666667, 0.33333333])
    """
    radii = validation.radii(radii, _are_budgets(radius))
    if on_gpu(radius):
        counts = get_backend("cuda").radius_counts(prediction, radius, y, int(radii.max()))
        return counts[::-1].cumsum()[::-1][radii] / len(radius)  # type: ignore[arg-type]
    if _any_lazy(prediction, radius, y):
        return _summary(partial(_accuracy, radii=radii), radii / 1.0, prediction, radius, y)
    prediction, radius, y = validation.outcomes(prediction, radius, y)
    certified = np.sort(np.where(prediction == y, radius, -1))
    return (len(certified) - np.searchsorted(certified, radii)) / len(certified)


def _are_budgets(radius: ArrayLike) -> bool:
    """Return whether radii are budgets (floats) rather than numbers of features."""
    if lazy.is_lazy(radius):
        return bool(radius.dtype.kind == "f")  # type: ignore[union-attr]
    return not on_gpu(radius) and np.asarray(radius).dtype.kind == "f"


def balanced_certified_accuracy(
    prediction: ArrayLike, radius: ArrayLike, y: ArrayLike, radii: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return certified accuracy at each radius with all classes counted alike.

    It is the mean of the certified accuracies of the classes that occur in `y`, each among its own
    samples. Parameters, result and errors are those of `certified_accuracy`.

    Examples
    --------
    >>> from boxnn_numba.certificates.margin import balanced_certified_accuracy
    >>> balanced_certified_accuracy([0, 0, 0, 0], [9, 9, 9, 9], [0, 0, 0, 1], [0, 4])
    array([0.5, 0.5])
    """
    radii = validation.radii(radii, _are_budgets(radius))
    if _any_lazy(prediction, radius, y):
        return _summary(partial(_balanced, radii=radii), radii / 1.0, prediction, radius, y)
    prediction, radius, y = validation.outcomes(prediction, radius, y)
    of_class = [y == label for label in np.unique(y)]
    curves = [certified_accuracy(prediction[at], radius[at], y[at], radii) for at in of_class]
    return np.asarray(np.mean(curves, axis=0))


class Majority(NamedTuple):
    """The majority-class baseline: it always predicts one class, certified at every radius.

    Attributes
    ----------
    label
        The most frequent class; of equally frequent ones the first.
    accuracy
        Its share of the samples, which is the certified accuracy at every radius.
    balanced
        1 / K for K classes, which is the balanced certified accuracy at every radius.
    """

    label: Any
    accuracy: float
    balanced: float


def majority(y: ArrayLike) -> Majority:
    """Return the majority-class baseline, which a certified accuracy should exceed.

    Parameters
    ----------
    y
        (N,) true classes, N >= 1.

    Raises
    ------
    InputError
        `y` is empty or no vector.

    Examples
    --------
    >>> from boxnn_numba.certificates.margin import majority
    >>> label, accuracy, balanced = majority(["no", "no", "no", "yes"])
    >>> str(label), accuracy, balanced
    ('no', 0.75, 0.5)
    """
    y = validation.all_labels("y", y)
    labels, counts = np.unique(y, return_counts=True)
    first = int(counts.argmax())
    return Majority(labels[first], float(counts[first] / len(y)), 1 / len(labels))


def median_certified_radius(prediction: ArrayLike, radius: ArrayLike, y: ArrayLike) -> float:
    """Return the largest radius at which certified accuracy is at least one half.

    Parameters and errors are those of `certified_accuracy`. The result is an int, or a float where
    `radius` holds budgets; -1 if the accuracy is below one half.

    Examples
    --------
    >>> median_certified_radius([0, 1, 1], [3, 5, 0], [0, 1, 0])
    3
    """
    if _any_lazy(prediction, radius, y):
        kind = np.empty((), np.float64 if _are_budgets(radius) else np.int64)
        return _summary(_median, kind, prediction, radius, y)
    prediction, radius, y = validation.outcomes(prediction, radius, y)
    certified = np.sort(np.where(prediction == y, radius, -1))
    return certified[len(certified) // 2].item()


def mean_certified_radius(prediction: ArrayLike, radius: ArrayLike, y: ArrayLike) -> float:
    """Return the area under the certified curve: sum over r >= 1 of the certified accuracy at r.

    It is the mean over samples of the radius where right, and of 0 where wrong (Eq. 11). Parameters
    and errors are those of `certified_accuracy`.
    """
    if _any_lazy(prediction, radius, y):
        return _summary(_mean, np.empty(()), prediction, radius, y)
    prediction, radius, y = validation.outcomes(prediction, radius, y)
    return float(np.where(prediction == y, np.maximum(radius, 0), 0).mean())


def per_class_table(
    prediction: ArrayLike, radius: ArrayLike, y: ArrayLike, n_classes: int
) -> list[dict[str, float | int]]:
    """Summarise the samples of each true class.

    Parameters
    ----------
    prediction, radius, y
        As for `certified_accuracy`, with the same errors.
    n_classes
        Number K of classes of the model.

    Returns
    -------
    list of dict
        For each class 0..K-1 that occurs in `y`: ``class``, ``n``, ``recall`` (the fraction of the
        class that is predicted right; also as ``accuracy``), ``median_certified_radius`` and
        ``mean_certified_radius``.
    """
    prediction, radius, y = validation.outcomes(prediction, radius, y)
    table: list[dict[str, float | int]] = []
    for index in range(n_classes):
        of_class = y == index
        if not of_class.any():
            continue
        outcome = prediction[of_class], radius[of_class], y[of_class]
        recall = float((outcome[0] == index).mean())
        table.append(
            {
                "class": index,
                "n": int(of_class.sum()),
                "accuracy": recall,
                "recall": recall,
                "median_certified_radius": median_certified_radius(*outcome),
                "mean_certified_radius": mean_certified_radius(*outcome),
            }
        )
    return table


# --- summaries of lazy arrays ------------------------------------------------------------------


def _any_lazy(*arrays: Any) -> bool:
    return any(lazy.is_lazy(array) or lazy.is_series(array) for array in arrays)


def _summary(
    finish: Callable[[Tally], Any], like: np.ndarray, prediction: Any, radius: Any, y: Any
) -> Any:
    """Return a lazy summary, an array like `like`, computed from a tally of all rows."""
    outcome = {"prediction": prediction, "radius": radius, "y": y}
    return lazy.reduce_rows(_tally, _merged, finish, outcome, like)


def _tally(prediction: np.ndarray, radius: np.ndarray, y: np.ndarray) -> Tally:
    if len(y) == 0:
        return {}
    prediction, radius, y = validation.outcomes(prediction, radius, y)
    certified = np.where(prediction == y, radius, -1)
    return {
        label: np.unique(certified[y == label], return_counts=True)
        for label in np.unique(y).tolist()
    }


def _merged(tallies: list[Tally]) -> Tally:
    labels = sorted({label for tally in tallies for label in tally})
    return {label: _sum([tally[label] for tally in tallies if label in tally]) for label in labels}


def _sum(counted: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values and their counts, added up over several counts."""
    values, place = np.unique(np.concatenate([one[0] for one in counted]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, np.concatenate([one[1] for one in counted]))
    return values, counts


def _all(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    validation.need_samples(len(tally))
    return _sum(list(tally.values()))


def _accuracy(tally: Tally, radii: np.ndarray) -> np.ndarray:
    values, counts = _all(tally)
    above = np.append(np.cumsum(counts[::-1])[::-1], 0)
    return above[np.searchsorted(values, radii)] / counts.sum()


def _balanced(tally: Tally, radii: np.ndarray) -> np.ndarray:
    validation.need_samples(len(tally))
    curves = [_accuracy({label: counted}, radii) for label, counted in tally.items()]
    return np.asarray(np.mean(curves, axis=0))


def _median(tally: Tally) -> np.ndarray:
    values, counts = _all(tally)
    kind = np.float64 if values.dtype.kind == "f" else np.int64
    middle = np.searchsorted(np.cumsum(counts), counts.sum() // 2, side="right")
    return values[middle].astype(kind)


def _mean(tally: Tally) -> np.ndarray:
    values, counts = _all(tally)
    return np.maximum(values, 0) @ counts / counts.sum()
