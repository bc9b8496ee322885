"""Statistics: bounds of a probability (Clopper-Pearson), and classes by a softmax of scores."""

from __future__ import annotations

import numpy as np
from scipy import special
from scipy.optimize import minimize_scalar

#: Given to the adversary in every bound. It exceeds the error of SciPy's inverse incomplete beta
#: function (about 1e-14) plus the bias of the draws (below n^2 / 2^65, 6e-10 for n = 150,528).
_SLACK = 1e-9
#: How sharp a softmax may be.
_LEAST, _MOST = 1e-2, 1e2


def lower_bound(won: np.ndarray, samples: int, alpha: float) -> np.ndarray:
    """Return one-sided Clopper-Pearson lower bounds, each wrong with probability <= `alpha`.

    `won` are (N,) successes, each out of `samples`.
    """
    found = np.zeros(len(won))
    some = won > 0
    found[some] = special.betaincinv(won[some], samples - won[some] + 1, alpha)
    return np.maximum(found - _SLACK, 0)


def upper_bound(won: np.ndarray, samples: int, alpha: float) -> np.ndarray:
    """Return one-sided Clopper-Pearson upper bounds; parameters as for `lower_bound`."""
    return 1 - lower_bound(samples - won, samples, alpha)


def probabilities(scores: np.ndarray, sharpness: float) -> np.ndarray:
    """Return the (N, K) softmax of scores (N, K) times a number; -inf is a class without boxes."""
    away = sharpness * (scores - scores.max(axis=1, keepdims=True))
    parts = np.exp(away)
    return np.asarray(parts / parts.sum(axis=1, keepdims=True))


def sharpness(scores: np.ndarray, index: np.ndarray) -> float:
    """Return the factor of scores (N, K) by which their softmax fits class indices (N,) best.

    By likelihood, each label being one in N + 2 wrong (as Platt has it), so that a few rows that
    are all right do not make it infinitely sure.
    """
    rows, count = np.arange(len(index)), scores.shape[1]
    wrong = 1 / (len(index) + 2)
    aimed = np.full(scores.shape, wrong / (count - 1))
    aimed[rows, index] = 1 - wrong
    away = np.maximum(scores - scores.max(axis=1, keepdims=True), -1e3)

    def loss(logarithm: float) -> float:
        scaled = np.exp(logarithm) * away
        total = np.log(np.exp(scaled).sum(axis=1))
        return float(total.mean() - (aimed * scaled).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=np.log((_LEAST, _MOST)), method="bounded")
    return float(np.exp(found.x))
