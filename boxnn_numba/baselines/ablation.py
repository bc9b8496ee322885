"""Randomized ablation: RA (Levine and Feizi, 2020) and RA^B (Jia et al., 2022, top 1).

The smoothed classifier predicts the class that a base classifier predicts most often when it sees
`retained` of the `n_features` features, drawn uniformly at random. A change of `r` features
affects only draws that retain at least one of them, a share
``1 - C(n - r, k) / C(n, k)`` of all draws. Certificates hold for each image with probability
``1 - alpha`` over the draws. All comparisons use integers: with ``B_r = C(n - r, k)``, every
condition below reads ``2 B_r > need`` with an integer `need`.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.errors import InputError, OptionError
from boxnn_numba.progress import SILENT, Progress
from boxnn_numba.statistics import lower_bound, upper_bound

#: Prediction where nothing is certified, not even radius 0.
ABSTAIN = -1

#: Samples asked of the base classifier at a time, and a limit on their codes.
_BATCH_SAMPLES, _BATCH_CODES = 1024, 2**23

#: Votes beyond which `samples_needed` gives up.
_MOST_SAMPLES = 2**40


class MaskedClassifier(Protocol):
    """A base classifier that sees only some features of each sample."""

    n_classes: int

    def scores(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return (B, K) float scores of uint8 codes (B, n); only features in `kept` may be used."""


# --- certificates ----------------------------------------------------------------------


def ra_radius(
    counts: ArrayLike, guess: ArrayLike, n_features: int, retained: int, alpha: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Certify the guessed class of each image by RA.

    Parameters
    ----------
    counts
        (N, K) integers, votes that bound the class; all rows have the same total.
    guess
        (N,) class guessed from votes other than those in `counts`.
    n_features, retained
        Features n of an image, or groups of them such as pixels, and the number k of these that
        each ablated sample retains.
    alpha
        Error probability of the certificate of an image.

    Returns
    -------
    prediction : (N,) int32
        The guess, or -1 (abstain) where not even radius 0 is certified.
    radius : (N,) int32
        Largest r with ``p > 1.5 - C(n - r, k) / C(n, k)``, p the Clopper-Pearson lower bound on
        the share of votes of the guess; 0 where the prediction is -1.

    Raises
    ------
    InputError
        `counts` are not votes, rows differ in their total, or a guess is no class.
    OptionError
        `n_features`, `retained` or `alpha` is out of range.

    Notes
    -----
    Levine and Feizi (2020), Theorem 1; Eq. (29) of Pal, Vidal and Sulam.

    Examples
    --------
    >>> ra_radius([[10_000, 0], [9_000, 1_000], [5_000, 5_000]], [0, 0, 0], 784, 45)
    (array([ 0,  0, -1], dtype=int32), array([11,  8,  0], dtype=int32))
    """
    votes = validation.votes("counts", counts)
    classes = validation.class_indices("guess", guess, *votes.shape)
    alpha = validation.fraction("alpha", alpha)
    won, where = np.unique(votes[np.arange(len(votes)), classes], return_inverse=True)
    low = lower_bound(won, int(votes[0].sum()), alpha)
    radius = np.array([radius_of_bound(float(p), n_features, retained) for p in low])[where]
    return _outcome(classes, radius)


def rab_radius(
    counts: ArrayLike,
    n_features: int,
    retained: int,
    alpha: float = 0.05,
    guess: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Certify the class of each image by RA^B, which also bounds the votes of rivals.

    Parameters
    ----------
    counts, n_features, retained, alpha
        As for `ra_radius`.
    guess
        (N,) class guessed from other samples. Without it the class is the most voted one of
        `counts` (ties to the smaller), at the price of more bounds.

    Returns
    -------
    prediction : (N,) int32
        The certified class, or -1 where not even radius 0 is certified.
    radius : (N,) int32
        Largest r with ``p - q > 2 (1 - C(n - r, k) / C(n, k))``, p a lower bound for the class
        rounded up and q an upper bound for every rival rounded down to multiples of
        ``1 / C(n, k)``; 0 where the prediction is -1.

    Raises
    ------
    InputError, OptionError
        As for `ra_radius`.

    Notes
    -----
    Jia et al. (2022), Theorem 1 and SimuEM, top 1. Which rival is the runner-up is random, so
    that all are bounded: with a guess K bounds (one lower, K - 1 upper), each at ``alpha / K``.
    Without one the class depends on the same votes, and 2 K bounds, both sides of every class,
    hold at once, each at ``alpha / (2 K)``. The most voted rival has the largest upper bound;
    also q <= 1 - p.
    """
    votes = validation.votes("counts", counts)
    n_classes = votes.shape[1]
    share = validation.fraction("alpha", alpha) / n_classes
    if guess is None:
        classes, share = votes.argmax(axis=1), share / 2
    else:
        classes = validation.class_indices("guess", guess, *votes.shape)
    rows, samples = np.arange(len(votes)), int(votes[0].sum())
    rivals = votes.copy()
    rivals[rows, classes] = -1
    pairs = np.stack([votes[rows, classes], rivals.max(axis=1)], axis=1)
    distinct, where = np.unique(pairs, axis=0, return_inverse=True)
    low = lower_bound(distinct[:, 0], samples, share)
    high = upper_bound(distinct[:, 1], samples, share)
    radius = [
        radius_of_bounds(float(p), float(q), n_features, retained)
        for p, q in zip(low, high, strict=True)
    ]
    return _outcome(classes, np.array(radius)[where.reshape(-1)])


def radius_of_bound(p: float | Fraction, n_features: int, retained: int) -> int:
    """Return RA's radius where the class has a share of at least `p`, -1 for none.

    `p`, 0..1, is taken as exactly the number that it is.
    """
    kept = _untouched(n_features, retained)
    numerator, denominator = _ratio("p", p)
    # p > 1.5 - B_r / B_0  <=>  2 B_r > (3 - 2 p) B_0, whose left side is an integer.
    return _largest(kept, (3 * denominator - 2 * numerator) * kept[0] // denominator)


def radius_of_bounds(
    p: float | Fraction, q: float | Fraction, n_features: int, retained: int
) -> int:
    """Return RA^B's radius where the class has a share >= `p` and rivals <= `q`, -1 for none.

    Shares are multiples of ``1 / C(n, k)``, so `p` is rounded up and `q` down, both exactly.
    """
    kept = _untouched(n_features, retained)
    (a, b), (c, d) = _ratio("p", p), _ratio("q", q)
    own = -(-a * kept[0] // b)
    rival = min(c * kept[0] // d, kept[0] - own)
    return _largest(kept, 2 * kept[0] - own + rival)


def _ratio(name: str, share: float | Fraction) -> tuple[int, int]:
    """Return a share as the quotient of integers that it is."""
    validation.real(name, share, low=0, high=1)
    if not hasattr(share, "as_integer_ratio"):
        raise OptionError(f"{name} is {share!r}; it must be a number")
    return share.as_integer_ratio()


def _outcome(classes: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction = np.where(radius < 0, ABSTAIN, classes)
    return prediction.astype(np.int32), np.maximum(radius, 0).astype(np.int32)


def _untouched(n_features: int, retained: int) -> tuple[int, ...]:
    """Return B_r = C(n - r, k) for r = 0, 1, ... while 2 B_r > B_0; no share certifies beyond."""
    n = validation.positive("n_features", n_features)
    return _overlaps(n, validation.integer("retained", retained, low=1, high=n))


@functools.lru_cache(maxsize=32)
def _overlaps(n: int, k: int) -> tuple[int, ...]:
    kept = [math.comb(n, k)]
    while True:
        r = len(kept) - 1
        following = kept[r] * (n - r - k) // (n - r)
        if 2 * following <= kept[0]:
            return tuple(kept)
        kept.append(following)


def _largest(kept: tuple[int, ...], need: int) -> int:
    """Return the largest r with 2 B_r > `need`, -1 for none."""
    return bisect.bisect_left(kept, -need, key=lambda untouched: -2 * untouched) - 1


# --- how many samples ------------------------------------------------------------------


def samples_needed(n_features: int, retained: int, alpha: float = 0.05, radius: int = 0) -> int:
    """Return the fewest bound samples with which RA certifies a unanimous vote at `radius`.

    Parameters
    ----------
    n_features, retained, alpha
        As for `ra_radius`; for RA^B pass ``alpha / K``.
    radius
        Radius to reach.

    Raises
    ------
    OptionError
        An argument is out of range, or no number of samples certifies `radius`.

    Examples
    --------
    >>> samples_needed(784, 45), samples_needed(784, 45, radius=11)
    (5, 151)
    """
    alpha = validation.fraction("alpha", alpha)
    radius = validation.integer("radius", radius, low=0)

    def certifies(samples: int) -> bool:
        p = lower_bound(np.array([samples]), samples, alpha)[0]
        return radius_of_bound(float(p), n_features, retained) >= radius

    if not certifies(_MOST_SAMPLES):
        raise OptionError(
            f"radius {radius} is beyond any number of samples with {retained} of {n_features} "
            "features retained; retain fewer or ask for less"
        )
    return bisect.bisect_left(range(1, _MOST_SAMPLES), True, key=certifies) + 1


def abstention_message(
    counts: ArrayLike, guess: ArrayLike, n_features: int, retained: int, alpha: float = 0.05
) -> str:
    """Return one line that says why every sample abstained and what to change.

    Parameters and errors are those of `ra_radius`; for RA^B pass ``alpha / K``.
    """
    votes = validation.votes("counts", counts)
    classes = validation.class_indices("guess", guess, *votes.shape)
    samples = int(votes[0].sum())
    setting = f"every sample abstains at k = {retained} and alpha = {alpha:g}"
    needed = samples_needed(n_features, retained, alpha)
    if samples < needed:
        return (
            f"{setting}: even a unanimous vote of {samples} samples certifies nothing; "
            f"take at least {needed} samples"
        )
    low = lower_bound(np.arange(samples + 1), samples, alpha)
    enough = int((low > 0.5).argmax())
    best = int(votes[np.arange(len(votes)), classes].max())
    more = "take more samples, " if 2 * best > samples else ""
    return (
        f"{setting}: {enough} of {samples} votes certify and the best guess has {best}; "
        f"{more}train longer or retain more features"
    )


# --- sampling --------------------------------------------------------------------------


def guess_class(guess_counts: ArrayLike) -> np.ndarray:
    """Return the most voted class (N,) int32 of votes (N, K), ties to the smaller."""
    return validation.votes("guess_counts", guess_counts).argmax(axis=1).astype(np.int32)


def sample_counts(
    classifier: MaskedClassifier,
    x: ArrayLike,
    rows: ArrayLike,
    retained: int,
    samples: int,
    guess_samples: int,
    seed: int,
    progress: Progress = SILENT,
    group_size: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Count the base classifier's votes on random ablations of each image.

    Parameters
    ----------
    classifier
        It is handed zeros where a feature is not retained, so that the certificate does not
        rest on its looking away.
    x, rows
        (N, n) codes and (N,) row numbers of the images in their data set. The draws for an image
        depend on `seed` and its row number alone, not on the order or the other images.
    retained
        Number k of features, or groups of them, that each sample retains, at least 1.
    samples, guess_samples
        Samples for the bound and, drawn separately, for the guess of the class.
    seed
        At least 0.
    progress
        Told after each image.
    group_size
        Features that follow each other and are retained together, such as a pixel's channels.

    Returns
    -------
    guess_counts, counts : (N, K) int64
        Votes of the guess samples and of the bound samples; ties of scores go to the smaller class.

    Raises
    ------
    InputError
        `x` are not codes, `rows` do not fit, or the scores have NaN or the wrong shape.
    OptionError
        An option is out of range.
    """
    codes = validation.codes("x", x)
    groups = validation.group_count(group_size, codes.shape[1])
    retained = validation.integer("retained", retained, low=1, high=groups)
    options = {"guess_samples": guess_samples, "samples": samples}
    wanted = [validation.positive(name, value) for name, value in options.items()]
    seed = validation.integer("seed", seed, low=0)
    numbers = validation.rectangular("rows", rows)
    if numbers.shape != (len(codes),) or numbers.dtype.kind not in "iu" or numbers.min() < 0:
        raise InputError(f"rows are not {len(codes)} row numbers of at least 0, one for each image")
    n_classes = validation.integer("n_classes", getattr(classifier, "n_classes", None), low=2)
    counts = np.zeros((2, len(codes), n_classes), np.int64)
    for index, row in enumerate(numbers.tolist()):
        for stream, total in enumerate(wanted):
            for drawn in draws(groups, retained, total, seed, row, stream):
                kept = drawn.repeat(group_size, axis=1)
                counts[stream, index] += _votes(classifier, codes[index] * kept, kept)
        progress.advance(1)
    return counts[0], counts[1]


def _votes(classifier: MaskedClassifier, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    shape = (len(x), classifier.n_classes)
    scores = validation.scores("scores of the base classifier", classifier.scores(x, kept), shape)
    return np.bincount(scores.argmax(axis=1), minlength=classifier.n_classes)


def draws(
    n_features: int, retained: int, samples: int, seed: int, row: int, stream: int
) -> Iterator[np.ndarray]:
    """Yield the random masks with which the votes of one row are sampled.

    Parameters
    ----------
    n_features, retained
        Features n, or groups of them, and how many of these each mask retains.
    samples
        Number of masks in all.
    seed, row
        Seed of the run and number of the row; they fix the masks.
    stream
        0 for the samples that guess the class, 1 for those that bound it.

    Yields
    ------
    (B, n) ndarray of bool
        True for retained features.
    """
    words = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(row, stream)))
    batch = max(1, min(_BATCH_SAMPLES, _BATCH_CODES // n_features))
    for start in range(0, samples, batch):
        yield _draw(words, n_features, retained, min(batch, samples - start))


def _draw(words: np.random.PCG64, n: int, retained: int, samples: int) -> np.ndarray:
    """Draw masks by Floyd's algorithm, one step for all samples at a time.

    Step i picks a feature below ``b = n - m + i + 1`` by the upper half of ``word * b``, whose
    distribution is within ``b / 2^65`` of uniform; raw words are the same in every NumPy.
    """
    chosen_each = min(retained, n - retained)
    word = np.ascontiguousarray(words.random_raw((samples, chosen_each)).T)
    bound = np.arange(n - chosen_each + 1, n + 1, dtype=np.uint64)[:, None]
    half = np.uint64(32)
    low = ((word & np.uint64(2**32 - 1)) * bound) >> half
    pick = (((word >> half) * bound + low) >> half).astype(np.int64)
    chosen = np.zeros((samples, n), bool)
    flat, first = chosen.reshape(-1), np.arange(samples) * n
    for step, below in enumerate(pick):
        at = first + below
        flat[np.where(flat[at], first + (n - chosen_each + step), at)] = True
    return chosen if chosen_each == retained else ~chosen
