"""Binomial bounds: what a count of successes says of their probability (Clopper-Pearson)."""

from __future__ import annotations

import numpy as np
from scipy import special

#: Given to the adversary in every bound. It exceeds the error of SciPy's inverse incomplete beta
#: function (about 1e-14) plus the bias of the draws (below n^2 / 2^65, 6e-10 for n = 150,528).
_SLACK = 1e-9


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
