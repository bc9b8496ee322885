"""Localization of data: Sections 2 and 3 of Pal, Vidal and Sulam, as functions of numbers.

Volumes are shares of the domain (Lebesgue measure of ``[0, 1]^n``, or the share of all code
vectors: see `boxnn_numba.theory.volumes`) and are given as natural logarithms: for n in the
hundreds they are far below the smallest float. An adversary rewrites up to ``eps`` of n features;
where it rewrites groups of features, n is the number of groups. The theorems hold for any product
of uniform distributions, so for codes and grids as well. What follows from Eq. (7) is in
`boxnn_numba.theory.impossibility`. Parameters out of range raise `OptionError`.

Where the paper must be read with care:

- The domain is written ``{|x|_inf <= 1}``, which is ``[-1, 1]^n`` with volume 2^n; the proofs
  need volume 1, so it is ``[0, 1]^n`` here.
- Theorem 2.2 asks for a classifier that is "non-trivial", not constant. Its constant
  ``C = 1 / (1 - Vol(A))`` is finite only if the region A of the class has volume below 1.
- Definition 3.1 expands the other classes' sets by eps; the proof of Theorem 3.2 uses 2 eps,
  and with eps the theorem is false (see `strong_localization`). The index under its union
  should be k', and ``q_k(S_k) <= 1 - delta`` in the proof should read ``>=``.
- The example of Section 4.1 has distance 1 where it needs 2, for the same reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation

_LOG_HALF = -math.log(2.0)


@dataclass(frozen=True)
class Localization:
    """The statement that a distribution is (C, exponent, delta)-localized (Definition 2.1).

    There is a set S of probability at least ``1 - delta`` and of volume at most
    ``C exp(-exponent)``.

    Attributes
    ----------
    log_constant
        log C.
    exponent
        The epsilon of the definition (not that of an adversary).
    delta
        Probability outside of S.
    """

    log_constant: float
    exponent: float
    delta: float

    @property
    def log_volume(self) -> float:
        """Logarithm of the largest volume that S may have."""
        return self.log_constant - self.exponent

    @property
    def trivial(self) -> bool:
        """Whether the statement holds for every distribution with a density.

        The part of the domain of volume v where a density is largest holds at least v of the
        probability, and of the uniform density no set holds more. So the statement says
        something if and only if ``C exp(-exponent) < 1 - delta``.
        """
        return self.delta >= 1 or self.log_volume >= math.log1p(-self.delta)

    def witnessed_by(self, log_volume: float, probability: float) -> bool:
        """Return whether a set of this volume and probability proves the statement."""
        return probability >= 1 - self.delta and log_volume <= self.log_volume


def cube_localization(side: float, n_features: int, delta: float) -> Localization:
    """Return the strongest localization of ``Unif([0, a]^n)`` with C = 1 (Section 2).

    Parameters
    ----------
    side
        Side a of the cube, 0 < a <= 1.
    n_features
        Dimension n.
    delta
        Probability outside of S, 0 <= delta < 1.

    Returns
    -------
    Localization
        ``(1, log(1 / (1 - delta)) + n log(1 / a), delta)``. S is any part of the cube with a share
        ``1 - delta`` of its volume; the paper's derivation shows that no larger exponent holds.
    """
    side = validation.real("side", side, 0, 1, open_low=True)
    n = validation.positive("n_features", n_features)
    delta = validation.real("delta", delta, 0, math.nextafter(1, 0))
    return Localization(0.0, -math.log1p(-delta) - n * math.log(side), delta)


def log_far_volume(distance: float, n_features: int, log_volume: float) -> float:
    """Return Talagrand's bound on the volume that is far from a set (Lemma 2.3), as a logarithm.

    Parameters
    ----------
    distance
        l0 distance t >= 0.
    n_features
        Dimension n.
    log_volume
        log Vol(B) of the set, <= 0.

    Returns
    -------
    float
        ``min(0, -t^2 / n - log Vol(B))``, the logarithm of an upper bound on the volume of
        ``{x: dist(x, B) >= t}``; 0 for a set without volume.
    """
    t = validation.real("distance", distance, 0)
    n = validation.positive("n_features", n_features)
    return min(0.0, -t * t / n - validation.log_share("log_volume", log_volume))


def log_concentration(distance: float, n_features: int) -> float:
    """Return the bound of Eq. (2) on the concentration function, as a logarithm.

    Parameters
    ----------
    distance, n_features
        As for `log_far_volume`.

    Returns
    -------
    float
        ``min(0, log 2 - t^2 / n)``. Whatever set has probability at least 1/2 under a product
        measure (the paper's ``Unif([0, a]^n)`` for any a), no more than this is further than t
        from it.

    Notes
    -----
    Lemma 2.3 bounds the distances of at least t, Eq. (1) asks for those above t: for whole t,
    ``t + 1`` may be put here. The paper's weaker form is kept.
    """
    return log_far_volume(distance, n_features, _LOG_HALF)


def robust_localization(
    radius: int,
    risk: float,
    n_features: int,
    log_volume_elsewhere: float = 0.0,
    n_classes: int = 1,
) -> Localization:
    """Return the localization that a robust classifier implies (Theorem 2.2).

    Parameters
    ----------
    radius
        Number eps of features that the adversary rewrites, 0..n.
    risk
        Robust risk at that radius: of one class (then the statement is about this class), or
        over all classes (then it is about at least one of them).
    n_features
        Dimension n.
    log_volume_elsewhere
        ``log(1 - Vol(A))`` of the region A where the classifier predicts the class, or a lower
        bound: C is ``1 / (1 - Vol(A))``. -inf, for a classifier that predicts nothing else, gives
        an infinite C.
    n_classes
        K, with a risk over all of K balanced classes, for the statement about every class: its
        delta is K times the risk. `log_volume_elsewhere` is then that of the largest region.

    Returns
    -------
    Localization
        ``(C, eps^2 / n, delta)``, by Lemma 2.3 with B the points that are not predicted as the
        class. S is the set of points whose whole eps-ball is predicted as the class.

    Notes
    -----
    As a point of S is *more than* eps away from B, the proof gives ``(eps + 1)^2 / n`` for
    whole eps; the paper states ``eps^2 / n``, and so does this.

    Examples
    --------
    >>> claim = robust_localization(18, 0.3, 784)
    >>> round(claim.exponent, 3), claim.delta, claim.trivial
    (0.413, 0.3, False)
    """
    n = validation.positive("n_features", n_features)
    eps = validation.integer("radius", radius, 0, n)
    risk = validation.real("risk", risk, 0, 1)
    classes = validation.positive("n_classes", n_classes)
    elsewhere = validation.log_share("log_volume_elsewhere", log_volume_elsewhere)
    return Localization(-elsewhere, eps * eps / n, min(1.0, classes * risk))


# --- Section 3 ---------------------------------------------------------------------------


def separated_prediction(inside: ArrayLike) -> np.ndarray:
    """Return the predictions of the classifier that the proof of Theorem 3.2 constructs.

    Parameters
    ----------
    inside
        (N, K) booleans, whether point i is in ``S_k^{+eps}``.

    Returns
    -------
    (N,) int32
        k where a point is in the expansion of class k alone, otherwise the first class.
    """
    member = validation.matrix("inside", inside).astype(bool)
    alone = member.sum(axis=1) == 1
    return np.where(alone, member.argmax(axis=1), 0).astype(np.int32)


@dataclass(frozen=True)
class StrongLocalization:
    """That classes are (eps, delta, gamma)-strongly localized (Definition 3.1, corrected).

    Attributes
    ----------
    radius
        Number eps of features that the adversary rewrites.
    delta
        Probability that a point is outside of its own class's set ``S_k``.
    gamma
        Probability that a point is within *2 eps* of the set of another class.
    growth
        How far the boxes were grown to make the sets, in features.
    """

    radius: int
    delta: float
    gamma: float
    growth: float = 0.0

    @property
    def risk(self) -> float:
        """Robust risk at `radius` that some classifier attains: delta + gamma (Theorem 3.2)."""
        return min(1.0, self.delta + self.gamma)


def strong_localization(
    class_distance: ArrayLike, label: ArrayLike, radius: int, width: int = 1, group_size: int = 1
) -> StrongLocalization:
    """Return the best strong localization of samples on grown boxes (Definition 3.1).

    The set of class k is ``S_k = {x: D_k(x) <= t}``, one t for all classes. Rewriting a feature
    changes a distance by at most W units, so the 2 eps-expansion of ``S_k`` lies in
    ``{D_k <= t + 2 eps W}``, and delta and gamma can be read off the class distances. t is
    chosen to minimise their sum.

    Parameters
    ----------
    class_distance
        (N, K) integers, units of 1 / `width` feature, as in a certificate.
    label
        (N,) true classes, 0..K-1.
    radius
        Number eps of features (or groups) that the adversary rewrites.
    width, group_size
        As for `certified_radius`.

    Returns
    -------
    StrongLocalization
        delta and gamma as averages over the samples, which is what Theorem 3.2 adds up; the
        paper's are bounds on the averages within each class.

    Raises
    ------
    InputError
        The distances are not integers, or labels do not fit.
    OptionError
        `radius`, `width` or `group_size` is out of range.

    Notes
    -----
    Definition 3.1 has eps in place of 2 eps, for which Theorem 3.2 is false: let class 1 be
    always ``(0, 0)`` and class 2 always ``(1, 1)``, and eps = 1. Neither point is within 1 of
    the other, so delta = gamma = 0; but ``(0, 1)`` is within 1 of both, and whatever is
    predicted there is wrong for one of them. The last step of the proof has 2 eps.

    The Box-NN of these boxes is certified at least this well: it chooses t for each sample.
    """
    distance = validation.class_distances(class_distance).astype(np.int64)
    truth = validation.class_indices("label", label, *distance.shape)
    eps = validation.integer("radius", radius, 0)
    width = validation.width(width)
    reach = 2 * eps * width * validation.positive("group_size", group_size)
    rows = np.arange(len(distance))
    own = distance[rows, truth]
    distance[rows, truth] = np.iinfo(np.int64).max
    other = np.sort(distance.min(axis=1))
    grown = np.unique(own)
    delta = 1 - np.searchsorted(np.sort(own), grown, side="right") / len(own)
    gamma = np.searchsorted(other, grown + reach, side="right") / len(own)
    best = int((delta + gamma).argmin())
    return StrongLocalization(
        eps, float(delta[best]), float(gamma[best]), float(grown[best] / width)
    )
