"""Weights of classes and samples: how often an epoch visits each training row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.errors import InputError, OptionError

#: What option `class_weight` may be besides weights by label.
EQUAL, BALANCED = "none", "balanced"
#: What is added to the weight of a class that is given up, from one epoch to the next, and the most
#: it becomes: more takes too much from the others.
_RAISE, _MOST_WEIGHT = 0.125, 2.0


def class_weight_text(value: Any) -> str:
    """Return `class_weight` as scikit-learn has it as the option of that name.

    Parameters
    ----------
    value
        None, ``"balanced"``, a dict of weights by label, or the option itself.

    Raises
    ------
    OptionError
        It is something else.
    """
    if value is None:
        return EQUAL
    if isinstance(value, Mapping):
        for label in value:
            if not str(label) or set(",=") & set(str(label)):
                raise OptionError(
                    f"`class_weight` has label {label!r}, and commas and = stand between weights; "
                    "pass `sample_weight` instead"
                )
        return ",".join(f"{label}={weight}" for label, weight in value.items()) or EQUAL
    if isinstance(value, str):
        return value
    raise OptionError(
        f"`class_weight` is {value!r}; pass None, 'balanced' or a dict of weights by label"
    )


def class_weights(text: str, classes: Sequence[Any], counts: np.ndarray) -> np.ndarray:
    """Return the (K,) weights of the classes; those that are not named weigh 1.

    Parameters
    ----------
    text
        Option `class_weight`: ``"none"``, ``"balanced"`` (``N / (K counts)``), or
        ``"LABEL=WEIGHT,..."``.
    classes
        The K labels.
    counts
        (K,) training rows of each class.

    Raises
    ------
    OptionError
        A label is not among the classes, or a weight is no number >= 0.
    """
    if text == EQUAL:
        return np.ones(len(classes))
    if text == BALANCED:
        present = np.maximum(counts, 1)
        return np.where(counts > 0, counts.sum() / (np.count_nonzero(counts) * present), 0.0)
    place = {str(label): index for index, label in enumerate(classes)}
    out = np.ones(len(classes))
    for item in text.split(","):
        label, _, number = item.rpartition("=")
        if label not in place:
            known = ", ".join([*place][:8])
            raise OptionError(f"`class_weight` names class {label!r}; the classes are {known}")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise OptionError(f"class_weight of {label} is {number}; weights are numbers >= 0")
        out[place[label]] = weight
    return out


def row_weights(
    labels: np.ndarray,
    classes: Sequence[Any],
    class_weight: str = EQUAL,
    sample_weight: ArrayLike | None = None,
) -> np.ndarray | None:
    """Return the (N,) weights of training rows, with a mean of 1; None where all are equal.

    Parameters
    ----------
    labels
        (N,) class indices.
    classes, class_weight
        As for `class_weights`.
    sample_weight
        (N,) numbers >= 0, by which those of the classes are multiplied.

    Raises
    ------
    OptionError, InputError
        A weight is negative, not a number, or all weights are zero.
    """
    counts = np.bincount(labels, minlength=len(classes))
    weights = class_weights(class_weight, classes, counts)[labels]
    if sample_weight is not None:
        weights = weights * validation.sample_weight(sample_weight, len(labels))
    total = float(weights.sum())
    if total <= 0:
        raise InputError("all rows have a weight of zero; give some rows weight")
    if (weights == weights[0]).all():
        return None
    if not math.isfinite(len(labels) / total):  # weights that hardly are any
        weights = weights / weights.max()
        total = float(weights.sum())
    return np.asarray(weights * (len(labels) / total))


def recall_weights(weights: np.ndarray, recall: np.ndarray, least: float) -> np.ndarray:
    """Return the (K,) weights of the classes in the next epoch, so that none is given up.

    The weight of a class with recall below `least` on held-out samples rises, up to a limit; the
    weight of any other class falls back towards 1.

    Parameters
    ----------
    weights
        (K,) weights in the last epoch, 1 to 2.
    recall
        (K,) recall of each class; NaN where it is unknown.
    least
        The recall that is wanted.
    """
    return np.clip(weights + np.where(recall < least, _RAISE, -_RAISE), 1.0, _MOST_WEIGHT)
