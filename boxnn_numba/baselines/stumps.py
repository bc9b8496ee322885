"""Boosted stumps with contributions that are clipped, and their exact l0 certificate.

The score of a class is a sum of one table entry for each column, so the best attack on r columns
rewrites the r columns from which a rival gains most (Wang, Zhang, Chen, Boning and Hsieh, ICML
2020, for stumps and any lp norm). Tables hold integers: what is certified is what is deployed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from boxnn_numba import validation as check
from boxnn_numba.baselines.encodings import submodel_input, training_data
from boxnn_numba.certificates.margin import balanced_certified_accuracy
from boxnn_numba.errors import InputError
from boxnn_numba.progress import SILENT, Progress
from boxnn_numba.training.selection import validation_split

LEVELS = 256
#: Units of a score of 1, i.e. of a factor e in the odds.
UNITS = 2**16
#: What is chosen from on held-out data: the share of the columns that a stump chooses among (with
#: few of them many columns decide, and none alone), rounds of boosting, and clips as shares of the
#: largest contribution.
SAMPLED = (1.0, 0.1)
ROUNDS = (30, 100, 300)
CLIPS = tuple(0.5**k for k in range(10))
_RATE = 0.1
#: Fewer codes than these are boosted in one thread.
_FEW_CODES = 2**19
#: Contributions stay below this, so that sums of millions of columns fit 64 bits.
_LARGEST = 2**30
#: Most units of an offset: sums of it and contributions stay far from the end of int64.
_FARTHEST = 2**60
#: Gains sorted at a time in `AdditiveModel.certify`, and probes of a column evaluated at a time.
_CHUNK_GAINS, _CHUNK_PROBES = 2**21, 2**22


@dataclass(frozen=True, eq=False)
class AdditiveModel:
    """An additive model: scores that are sums over columns, such as boosted stumps.

    Parameters
    ----------
    table
        (n, 256, K) integers, the amount that each code of a column adds to each class, in units.
    offset
        (K,) integers, constant part of the score of each class.
    settings
        Record of the training, as JSON values.

    Raises
    ------
    InputError
        Shapes do not fit, or the arrays are not of integers.

    Examples
    --------
    >>> import numpy as np
    >>> from boxnn_numba.baselines.stumps import AdditiveModel
    >>> table = np.zeros((3, 256, 2), int)
    >>> table[:, 100:, 1] = 2
    >>> model = AdditiveModel(table, [3, 0])
    >>> model.certify(np.uint8([[0, 0, 0], [200, 200, 200]]))
    (array([0, 1], dtype=int32), array([1, 1], dtype=int32))
    """

    table: np.ndarray
    offset: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table, offset = np.asarray(self.table), np.asarray(self.offset)
        if table.ndim != 3 or table.shape[1] != LEVELS or offset.shape != table.shape[2:]:
            raise InputError("table and offset of stumps do not fit each other; train them again")
        if not all(np.issubdtype(array.dtype, np.integer) for array in (table, offset)):
            raise InputError("table and offset of stumps must be integers; train them again")
        # Both ends: the absolute value of the smallest integer is that integer.
        if table.max(initial=0) > _LARGEST or table.min(initial=0) < -_LARGEST:
            raise InputError("table of stumps holds more than 2^30 units; train them again")
        if offset.max(initial=0) > _FARTHEST or offset.min(initial=0) < -_FARTHEST:
            raise InputError("offset of stumps holds more than 2^60 units; train them again")
        object.__setattr__(self, "table", np.ascontiguousarray(table, np.int64))
        object.__setattr__(self, "offset", offset.astype(np.int64))

    @property
    def n_features(self) -> int:
        """Number n of columns."""
        return len(self.table)

    @property
    def n_classes(self) -> int:
        """Number K of classes."""
        return len(self.offset)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], device: str = "cpu"
    ) -> Self:
        """Return the model from what `arrays` and `settings` gave; any device means the CPU."""
        if missing := {"table", "offset"} - arrays.keys():
            raise InputError(f"array {min(missing)} of stumps is missing; train them again")
        return cls(arrays["table"], arrays["offset"], dict(settings))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name; contributions fit int32."""
        return {"table": self.table.astype(np.int32), "offset": self.offset}

    def multiply_adds(self) -> int:
        """Return the additions of one evaluation of one sample."""
        return self.n_features * self.n_classes

    def scores(self, x: ArrayLike) -> np.ndarray:
        """Return the scores of all classes.

        Parameters
        ----------
        x
            (N, n) codes.

        Returns
        -------
        (N, K) ndarray of int64
            In units of 2^-16.
        """
        codes = submodel_input(x, self.n_features)
        found = np.tile(self.offset, (len(codes), 1))
        for column, values in zip(codes.T, self.table, strict=True):
            found += values[column]
        return found

    def certify(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and exact certified radii.

        Parameters
        ----------
        x
            (N, n) codes.

        Returns
        -------
        prediction : (N,) int32
            The class with the largest score, ties to the smaller index.
        radius : (N,) int32
            How many columns may change, at most n. It is exact: below n, some change of one column
            more changes the prediction.

        Notes
        -----
        Against each rival the k columns with the largest gains do most, and columns do not depend
        on each other, so the sums of sorted gains decide: exact for any number of classes.
        """
        codes = submodel_input(x, self.n_features)
        scores = self.scores(codes)
        prediction = scores.argmax(axis=1)
        radius = np.full(len(codes), self.n_features, np.int32)
        for own in np.unique(prediction):
            rows = np.flatnonzero(prediction == own)
            for rival in set(range(self.n_classes)) - {int(own)}:
                lead = self.table[:, :, own] - self.table[:, :, rival]
                needed = scores[rows, own] - scores[rows, rival] + int(rival > own)
                found = _changes_below(lead, codes[rows], needed)
                radius[rows] = np.minimum(radius[rows], found)
        return prediction.astype(np.int32), radius


def _changes_below(lead: np.ndarray, codes: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Return how many columns may change before a lead (n, 256) by code can fall by `needed`."""
    columns = np.arange(codes.shape[1])
    losses = lead - lead.min(axis=1, keepdims=True)
    found = np.empty(len(codes), np.int32)
    step = max(1, _CHUNK_GAINS // max(1, len(columns)))
    for start in range(0, len(codes), step):
        part = slice(start, start + step)
        largest = np.sort(losses[columns, codes[part]], axis=1)[:, ::-1]
        found[part] = (largest.cumsum(axis=1) < needed[part, None]).sum(axis=1)
    return found


# --- training -----------------------------------------------------------------------------


def train_stumps(
    x: ArrayLike,
    y: ArrayLike,
    *,
    n_classes: int,
    rounds: int | None = None,
    clip: float | None = None,
    sampled: float | None = None,
    radii: Sequence[int] = (1, 2, 4),
    validation: float = 0.25,
    class_weight: Any = "balanced",
    seed: int = 0,
    progress: Progress = SILENT,
) -> AdditiveModel:
    """Train boosted stumps and clip what each column contributes.

    Parameters
    ----------
    x
        (N, n) codes.
    y
        (N,) class indices 0..K-1; each class must occur.
    n_classes
        Number of classes K.
    rounds
        Rounds of boosting; by default the best of `ROUNDS`.
    clip
        Most that a column adds to or takes from the score of a class, as a share of the largest
        contribution, above 0 and at most 1; by default the best of `CLIPS`.
    sampled
        Share of the columns, drawn anew each time, that a stump chooses among, above 0 and at most
        1; by default the best of `SAMPLED`.
    radii
        The best have the highest mean balanced certified accuracy at these radii on held-out rows.
    validation
        Fraction of the rows held out to choose; the model is trained on all of them then.
    class_weight
        As for `sklearn.ensemble.HistGradientBoostingClassifier`.
    seed
        Of the split and the training.
    progress
        Told how far training is.

    Returns
    -------
    AdditiveModel
        Its `settings` are ``rounds``, ``clip`` and ``sampled`` as they were chosen, and
        ``validation_score``, the mean of the certified accuracies (None where there was nothing to
        choose).

    Raises
    ------
    InputError
        `x` or `y` cannot be used, or a class has no sample.
    OptionError
        An option is out of range.
    """
    codes, classes = training_data(x, y, n_classes)
    seed = check.integer("seed", seed, low=0)
    stages = ROUNDS if rounds is None else (check.positive("rounds", rounds),)
    clips = CLIPS if clip is None else (check.real("clip", clip, 0, 1, open_low=True),)
    shares = SAMPLED if sampled is None else (check.real("sampled", sampled, 0, 1, open_low=True),)
    options = {"n_classes": n_classes, "class_weight": class_weight, "seed": seed}
    progress.start(2, "fits")
    # Threads wait for each other longer than small sums and few rows take.
    limits = {"blas": 1} | ({"openmp": 1} if codes.size < _FEW_CODES else {})
    with threadpool_limits(limits):
        choices = shares, stages, clips
        best = _best(codes, classes, choices, check.radii(radii), validation, options)
        progress.advance(1)
        stage, share = best["rounds"], best["sampled"]
        raw = _boosted(codes, classes, [stage], share, **options)[stage]
        model = _clipped(raw, best["clip"], codes, classes)
    progress.advance(1)
    return replace(model, settings=best)


def _best(
    codes: np.ndarray,
    classes: np.ndarray,
    choices: tuple[Sequence[float], Sequence[int], Sequence[float]],
    radii: np.ndarray,
    fraction: float,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return the settings with the best held-out score; no score where there is no choice."""
    shares, stages, clips = choices
    best: dict[str, Any] = {"rounds": stages[0], "clip": clips[0], "sampled": shares[0]}
    best["validation_score"] = None
    if len(shares) * len(stages) * len(clips) == 1:
        return best
    rows, held = validation_split(classes, check.fraction("validation", fraction), options["seed"])
    held = held if len(held) else rows
    for share in shares:
        found = _boosted(codes[rows], classes[rows], stages, share, **options)
        for stage, clip in itertools.product(stages, clips):
            outcome = _clipped(found[stage], clip, codes[rows], classes[rows]).certify(codes[held])
            score = float(balanced_certified_accuracy(*outcome, classes[held], radii).mean())
            if best["validation_score"] is None or score > best["validation_score"]:
                best = {"rounds": stage, "clip": clip, "sampled": share, "validation_score": score}
    return best


def _boosted(
    codes: np.ndarray,
    classes: np.ndarray,
    stages: Sequence[int],
    sampled: float,
    n_classes: int,
    class_weight: Any,
    seed: int,
) -> dict[int, np.ndarray]:
    """Boost stumps; return what columns contribute after numbers of rounds, (n, 256, K) each."""
    booster = HistGradientBoostingClassifier(
        max_iter=max(stages), max_leaf_nodes=2, learning_rate=_RATE, early_stopping=False,
        min_samples_leaf=int(np.clip(len(codes) // 50, 1, 20)), max_bins=255, max_features=sampled,
        categorical_features=None, class_weight=class_weight, random_state=seed,
    ).fit(codes, classes)  # fmt: skip
    n = codes.shape[1]
    tables = {stage: np.zeros((n, LEVELS, n_classes)) for stage in stages}
    step = max(1, _CHUNK_PROBES // (LEVELS * n))
    for start in range(0, n, step):
        columns = np.arange(start, min(n, start + step))
        # All codes of one column, the others 0: a sum over columns changes by this one's part.
        probes = np.zeros((len(columns), LEVELS, n), np.uint8)
        probes[np.arange(len(columns)), :, columns] = np.arange(LEVELS)
        found = booster.staged_decision_function(probes.reshape(-1, n))
        for stage, scores in enumerate(found, start=1):
            if stage in tables:
                part = scores.reshape(len(columns), LEVELS, -1)
                # Of two classes there is one score, the second's.
                tables[stage][columns, :, -part.shape[2] :] = part - part[:, :1]
    return tables


def _clipped(
    raw: np.ndarray, share: float, codes: np.ndarray, classes: np.ndarray
) -> AdditiveModel:
    """Clip contributions around their means, and fit offsets to what is left, in integers."""
    n_classes = raw.shape[2]
    counts = np.bincount(classes, minlength=n_classes)
    weight = 1 / (n_classes * counts[classes])
    centred = raw - raw.mean(axis=2, keepdims=True)
    means = np.stack(
        [weight @ values[column] for column, values in zip(codes.T, centred, strict=True)]
    )
    centred -= means[:, None]
    most = share * np.abs(centred).max()
    table = np.clip(centred, -most, most)
    scores = sum(values[column] for column, values in zip(codes.T, table, strict=True))
    offset = _offsets(scores, classes, weight)
    return AdditiveModel(
        np.rint(UNITS * table).astype(np.int64), np.rint(UNITS * offset).astype(np.int64)
    )


def _offsets(scores: np.ndarray, classes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return offsets of classes that, with some scale, make scores the best log odds."""
    rows, n_classes = np.arange(len(classes)), scores.shape[1]
    target = np.eye(n_classes)[classes]

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        scale, offset = np.exp(free[0]), free[1:]
        log_odds = log_softmax(scale * scores + offset, axis=1)
        slope = (np.exp(log_odds) - target) * weight[:, None]
        of_scale = scale * float((slope * scores).sum())
        return -float(weight @ log_odds[rows, classes]), np.append(of_scale, slope.sum(axis=0))

    found = minimize(loss, np.zeros(1 + n_classes), jac=True, method="L-BFGS-B",
                     bounds=[(-10, 10)] + [(-50, 50)] * n_classes).x  # fmt: skip
    return np.asarray(found[1:] / np.exp(found[0]))
