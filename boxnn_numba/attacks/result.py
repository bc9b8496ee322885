"""AttackResult: adversarial inputs, numbers of changes, and predictions.

The number of changes is an upper bound on the fewest that suffice. The certified radius is a lower
bound: no attack succeeds with at most that many changes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class AttackResult(NamedTuple):
    """The result of an attack on several inputs.

    Attributes
    ----------
    x_adv
        (N, n) adversarial inputs, of the kind that was passed in; the input itself where none was
        found.
    changed
        (N,) int32, number of features (or feature groups) changed, -1 where none was found.
    prediction
        (N,) predictions of `x_adv`.
    """

    x_adv: np.ndarray
    changed: np.ndarray
    prediction: np.ndarray
