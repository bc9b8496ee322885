"""Impossibility of robust classifiers, Eq. (7), evaluated for localized data.

Volumes and densities are relative to a domain of volume 1, as in `boxnn_numba.theory.localization`,
and given as natural logarithms. Parameters out of range raise `OptionError`.

Where the paper must be read with care:

- Eq. (7) is stated for classes with ``P(Y = k) <= 1/2``. What its proof needs is that the
  *classifier* predicts k on at most half of the domain's volume: a classifier that always says k
  errs nowhere in class k, however rare k is.
- The text after it means that beta may grow faster than ``exp(+eps^2 / n)``.
- Example 3.1 uses eps for the size of the cubes and for the adversary, centres them at -1 and
  1 (outside of the domain), and has ``beta = exp(n)`` but computes with ``2 exp(n)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from boxnn_numba import validation

_LOG_HALF = -math.log(2.0)


def log_density_floor(log_volume: float, probability: float) -> float:
    """Return a lower bound on log sup q from a set that shows q to be localized.

    A set of probability p and volume v has a point of density at least p / v.

    Parameters
    ----------
    log_volume
        Logarithm of the set's volume, or an upper bound, <= 0.
    probability
        Its probability under q, or a lower bound, 0..1.

    Returns
    -------
    float
        ``max(0, log p - log v)``: a density on a domain of volume 1 is somewhere at least 1.
    """
    volume = validation.log_share("log_volume", log_volume)
    p = validation.real("probability", probability, 0, 1)
    return max(0.0, math.log(p) - volume) if p > 0 else 0.0


def impossibility_bound(
    radius: int, n_features: int, log_sup_density: float, log_volume_elsewhere: float = _LOG_HALF
) -> float:
    """Return the least probability of an error or adversarial example in a class (Eq. 7).

    Parameters
    ----------
    radius
        Number eps of features that the adversary rewrites, 0..n.
    n_features
        Dimension n.
    log_sup_density
        Logarithm of the largest density of the class, >= 0.
    log_volume_elsewhere
        ``log(1 - Vol(A))``, A the region predicted as the class, or a lower bound. The default,
        1/2, gives the paper's ``beta = 2 sup q``, right for every class with ``Vol(A) <= 1/2``.

    Returns
    -------
    float
        ``max(0, 1 - beta exp(-eps^2 / n))`` with ``beta = sup q / (1 - Vol(A))``, from Lemma 2.3; 0
        where the bound is vacuous.
    """
    n = validation.positive("n_features", n_features)
    eps = validation.integer("radius", radius, 0, n)
    log_beta = _log_beta(log_sup_density, log_volume_elsewhere)
    return -math.expm1(min(0.0, log_beta - eps * eps / n))


def vacuous_radius(
    n_features: int, log_sup_density: float, log_volume_elsewhere: float = _LOG_HALF
) -> int:
    """Return the largest radius, at most n, at which Eq. (7) is vacuous.

    Parameters
    ----------
    n_features, log_sup_density, log_volume_elsewhere
        As for `impossibility_bound`. A lower bound on the density gives one on the radius.

    Returns
    -------
    int
        Largest eps with ``eps^2 / n <= log beta``.
    """
    n = validation.positive("n_features", n_features)
    return math.isqrt(int(n * min(float(n), _log_beta(log_sup_density, log_volume_elsewhere))))


def _log_beta(log_sup_density: float, log_volume_elsewhere: float) -> float:
    # A density is somewhere at least 1, so 1 over it is a share.
    return -validation.log_share("log(1 / sup density)", -log_sup_density) - validation.log_share(
        "log_volume_elsewhere", log_volume_elsewhere
    )


@dataclass(frozen=True)
class TwoCubes:
    """Example 3.1: two classes, each uniform on a small cube at opposite corners.

    Attributes
    ----------
    log_sup_density
        ``-n log a``, of either class.
    vacuous_radius
        Largest eps at which the impossibility bound says nothing.
    robust_radius
        Largest eps at which a classifier without any error exists: ``(n - 1) // 2``.
    """

    log_sup_density: float
    vacuous_radius: int
    robust_radius: int


def two_cubes(side: float, n_features: int) -> TwoCubes:
    """Return what Example 3.1 shows, for ``Unif([0, a]^n)`` against ``Unif([1 - a, 1]^n)``.

    Parameters
    ----------
    side
        Side a of the cubes, 0 < a < 1/2.
    n_features
        Dimension n.

    Notes
    -----
    The paper's ``beta = exp(n)`` is, but for the factor 2, that of cubes of side ``1 / e``. It
    calls the bound vacuous for ``eps <= sqrt(n)``, but ``n - eps^2 / n >= 0`` holds for
    ``eps <= n``, at every radius there is. A majority vote of the features is right and robust up
    to ``(n - 1) // 2``, and beyond no classifier is: a point half way is in reach of both cubes.

    Examples
    --------
    >>> cubes = two_cubes(0.25, 784)
    >>> cubes.vacuous_radius, cubes.robust_radius
    (784, 391)
    """
    a = validation.real("side", side, 0, math.nextafter(0.5, 0), open_low=True)
    n = validation.positive("n_features", n_features)
    log_sup_density = -n * math.log(a)
    return TwoCubes(log_sup_density, vacuous_radius(n, log_sup_density), (n - 1) // 2)
