"""Search: options of a table by held-out certified accuracy, in rounds of fewer candidates.

Preset ``auto`` is this. A round trains every candidate for a while on some of the rows, certifies
others pairwise, and keeps the best; the next one has more steps and other held-out rows.
What it costs is counted in rows and steps, not in seconds, so the outcome depends on the data and
the seed only.
"""

from __future__ import annotations

import itertools
import math
import reprlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates.pairwise import pairwise_radius
from boxnn_numba.errors import DivergenceError, OptionError
from boxnn_numba.grid import ordered_anew
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import ADDITIVE, PRESETS, TrainingOptions
from boxnn_numba.training.result import members_of, trained_model
from boxnn_numba.training.run import Training
from boxnn_numba.training.selection import Validation, given_up, recalls
from boxnn_numba.training.softmin_stages import step_work

#: Radii whose certified accuracies count, all alike, where they are less than half the columns and
#: no others are wanted.
RADII = (0, 1, 2, 4)
#: A candidate whose accuracy, or mean recall of the classes, is so much below that of the best is
#: out, whatever its radii: a constant prediction is certified at every radius.
_ACCURACY_LOST, _RECALL_LOST = 0.03, 0.1
#: Where certain radii are wanted, accuracy is given up for them: a candidate is out only if its
#: recall is not this part of the way from that of a constant prediction to the best.
_FROM_CONSTANT = 1 / 4
#: A mean recall that is above chance by less than this part of what is left is told.
_HARDLY_BETTER = 0.1
#: What additive candidates have in common.
_ADDITIVE: dict[str, Any] = {**ADDITIVE, "boxes": 6, "lr": 0.1, "members": 4}
#: What is tried; boxes are those of a class. Chosen for being different: from accurate to
#: far-sighted, from few boxes to many.
CANDIDATES: tuple[dict[str, Any], ...] = (
    {},
    {"beta": 16.0},
    {"beta": 16.0, "width": 32, "boxes": 8, "tau": 0.25, "alpha": 0.3},
    {"beta": 4.0, "width": 64, "boxes": 40},
    {"beta": 2.0, "width": 64},
    {"beta": 2.0, "width": 64, "parts": "2", "templates": 4, "boxes": 24},
    {"beta": 1.0, "width": 64, "parts": "2", "templates": 4, "boxes": 24},
    {"beta": 0.5, "width": 128, "lr": 0.02},
    # Where classes lie in many small regions.
    {
        "beta": 8.0,
        "width": 64,
        "boxes": 200,
        "optimizer": "sgd",
        "lr": 2.0,
        "tau": 1.0,
        "initialisation": "data",
    },
    # Small clips need finer levels: what a column adds is no more than they are.
    *({**_ADDITIVE, "beta": beta, "members": 8} for beta in (2.0, 4.0)),
    *({**_ADDITIVE, "beta": beta} for beta in (8.0, 16.0)),
    *(
        {**_ADDITIVE, "beta": 2.0 * radius, "objective": "target", "radius": radius, "warmup": 0.5}
        for radius in (2, 4, 8)
    ),
)
#: Boxes of a class where a candidate does not say, and most of all classes together.
_BOXES, _MOST_BOXES = 20, 400
#: Weights that differ by no more than this factor are alike.
_ALIKE = 1.1
#: Most rows of a step, but of additive boxes.
_MOST_BATCH = 100
#: Work of a step from which on candidates are tried side by side. Of shorter ones most is Python,
#: which threads have to take in turns: two took a little longer than one.
_WORTH_THREADS = 90_000


@dataclass(frozen=True)
class Round:
    """A round: training rows, steps, sets of boxes and held-out rows for each candidate.

    `kept` is the number of candidates left after the round. Boxes are compared with `other_offsets`
    besides, unless offsets are settled: they change no step, so one training serves for all.
    """

    rows: int
    steps: int
    members: int
    held_out: int
    kept: int = 1
    other_offsets: tuple[str, ...] = ()


_ROUNDS = (Round(1000, 80, 1, 200, kept=4), Round(3000, 160, 2, 1000, other_offsets=("none",)))
#: Rows with which all steps are made, and the least part of them.
_MANY_ROWS, _LEAST_EFFORT = 1000, 0.25
#: Below so many rows, several splits are tried.
_FEW_ROWS = 1000
#: Sets of boxes, and steps besides one pass over the rows, of what is trained in the end.
_MEMBERS, _STEPS = 3, 400


@dataclass(frozen=True)
class Trial:
    """A candidate in one round.

    Attributes
    ----------
    round, options
        Number of the round, and the options of the candidate.
    radii, accuracy
        Certified accuracy at these radii on held-out rows; 0 if training diverged.
    recall
        Mean recall of the classes.
    scores, labels
        (N, K) minus the class distances of these rows, in features, and their class indices.
    counted
        How many of `radii` count.
    recalls
        (K,) recall of each class; NaN if it has few held-out rows, or rows without weight.
    """

    round: int
    options: TrainingOptions
    radii: tuple[int, ...]
    accuracy: tuple[float, ...]
    recall: float
    scores: np.ndarray
    labels: np.ndarray
    counted: int
    recalls: np.ndarray

    @property
    def score(self) -> float:
        """Mean certified accuracy at the radii that count, by which trials are compared."""
        return float(np.mean(self.accuracy[: self.counted]))

    def __str__(self) -> str:
        names = ("boxes", "width", "beta", "tau", "parts", "templates", "offsets")
        told = " ".join(f"{name} {getattr(self.options, name)}" for name in names)
        held = " ".join(f"{100 * share:.1f}" for share in self.accuracy)
        return f"{told}: certified {held}% at {', '.join(map(str, self.radii))}"


#: Accuracies and scores, as of a `Trial`.
Outcome = tuple[tuple[float, ...], np.ndarray]


class Chosen(NamedTuple):
    """The result of a search: options, and the trial of the last round that they come from."""

    options: TrainingOptions
    trial: Trial | None


def search(
    feed: Feed,
    n_classes: int,
    given: Mapping[str, Any],
    *,
    effort: float = 1.0,
    radii: Sequence[int] | None = None,
    categories: Sequence[int] = (),
    threads: int = 1,
    on_trial: Callable[[Trial], None] | None = None,
) -> Chosen:
    """Search the training options with the best certified accuracy on held-out rows.

    Parameters
    ----------
    feed
        The training rows; with weights, a held-out row weighs as much as the rows of its class.
    n_classes
        Number K of classes.
    given
        Options that are not searched, by name; also the seed.
    effort
        Factor of the steps of every round.
    radii
        Radii whose mean certified accuracy is compared, whatever the accuracy at radius 0. By
        default 0, 1, 2 and 4, and at most three points of accuracy are given up.
    categories
        Features whose codes are categories in the order of the classes' shares. Those of a trial
        are ordered anew, without its held-out rows.
    threads
        Number of candidates that are tried at a time, if their steps are long enough.
    on_trial
        Called with every `Trial`, in an order that does not depend on `threads`.

    Raises
    ------
    OptionError
        A given option, `effort` or `radii` is out of range, or does not fit the data.
    """
    seed = int(given.get("seed", 0))
    effort = validation.real("effort", effort, 0, 100, True)
    # Few rows are soon learned, and say little about which candidate is better.
    effort *= min(1.0, max(_LEAST_EFFORT, math.sqrt(len(feed) / _MANY_ROWS)))
    wanted, counted = _wanted(radii, feed.n_features)
    if radii is not None:  # offsets are fitted to margins as they are, for accuracy
        given = {**given, "offsets": given.get("offsets") or "none"}
    candidates = _candidates(feed, n_classes, given)
    settled, workers, best = given.get("offsets"), _workers(feed, n_classes, threads), None
    spent: defaultdict[TrainingOptions, float] = defaultdict(float)
    for number, item in enumerate(_ROUNDS):
        others = () if settled else item.other_offsets
        if len(candidates) == 1 and not others:
            continue
        splits = [
            _split(feed, n_classes, item, [seed, 9, number, *([again] if again else [])])
            for again in range(_splits(len(feed)))
        ]
        if any(len(held) == 0 for _, held in splits):
            break
        data = [_Data(feed, n_classes, wanted, *split, categories) for split in splits]
        attempts = [
            _Attempt(
                [options, *(replace(options, offsets=how) for how in others)], one, item, effort
            )
            for options, one in itertools.product(candidates, data)
        ]
        _make(attempts, workers, spent)
        found: defaultdict[TrainingOptions, list[Outcome]] = defaultdict(list)
        for attempt in attempts:
            for options, outcome in zip(attempt.variants, attempt.outcomes, strict=True):
                found[options].append(outcome)
        trials = [
            _trial(number, options, counted, data, outcomes) for options, outcomes in found.items()
        ]
        for trial in trials:
            if on_trial is not None:
                on_trial(trial)
        fair = _no_less_accurate(trials, 1 + len(others))
        fit = _accurate(fair) if radii is None else _no_constants(fair, n_classes)
        fit.sort(key=lambda trial: -trial.score)
        candidates, best = [trial.options for trial in _kept(fit, item.kept, radii)], fit[0]
    return Chosen(_final(candidates[0], len(feed), given, effort), best)


def training_warnings(
    outcome: Validation, classes: Sequence[Any], trial: Trial | None
) -> list[str]:
    """Return a sentence for each class that a model hardly predicts, and for all of them together.

    Parameters
    ----------
    outcome
        What it achieves on samples held out of its training.
    classes
        Labels.
    trial
        What its options were chosen by, None without a search. Its held-out rows count where none
        were held out of the training.
    """
    recall, advice = outcome.recall, "raise `keep` or `boxes`, or lower `radius`"
    if trial is not None and np.isnan(outcome.accuracy):
        recall, advice = trial.recalls, "give it more weight by `class_weight`, or more rows"
    found = [
        f"class {classes[index]} was given up: {100 * share:.0f}% of its validation samples are "
        f"predicted right; {advice}"
        for index, share in given_up(recall).items()
    ]
    chance = 1 / len(classes)
    if (
        trial is not None
        and trial.radii != RADII
        and trial.recall < chance + _HARDLY_BETTER * (1 - chance)
    ):
        found.append(
            f"the options that certify most at radii {', '.join(map(str, trial.radii))} predict "
            f"little better than one class for all: the mean recall of held-out rows is "
            f"{100 * trial.recall:.0f}%, and {100 * chance:.0f}% by chance; pass smaller `radii`"
        )
    return found


def check_radii(
    preset: str, radii: Sequence[int] | None, n_features: int | None = None
) -> list[int] | None:
    """Return the radii for the search as ints, after checking them.

    It is an error if the preset makes no search, or if a radius is invalid or above the number of
    columns (if that is known).
    """
    if radii is None:
        return None
    found = validation.radii(radii)
    if preset != "auto":
        raise OptionError(
            f"`radii` are what preset auto compares, and the preset is {preset}; leave them out"
        )
    if n_features is not None and found.max() > n_features:
        raise OptionError(
            f"radii are {reprlib.repr(radii)}; none can be above the {n_features} columns"
        )
    return [*map(int, found)]


def _wanted(radii: Sequence[int] | None, n_features: int) -> tuple[tuple[int, ...], int]:
    """Return the radii that are told, after checking them, and how many of them count."""
    found = check_radii("auto", radii, n_features)
    if found is None:
        return RADII, sum(2 * radius < n_features for radius in RADII)
    return tuple(found), len(found)


def _splits(rows: int) -> int:
    """Return how often few rows are split: what is held out once says little."""
    return 3 if rows < _FEW_ROWS else 1


def _trial(
    number: int,
    options: TrainingOptions,
    counted: int,
    data: Sequence[_Data],
    found: Sequence[Outcome],
) -> Trial:
    """Return the mean of what was found in some splits of the rows."""
    accuracy = np.mean([of_radii for of_radii, _ in found], axis=0)
    recall = np.mean([one.recall(scores) for one, (_, scores) in zip(data, found, strict=True)])
    scores = np.concatenate([scores for _, scores in found])
    labels = np.concatenate([one.labels for one in data])
    # A row may be held out of several splits, and counts once.
    of_class = recalls(scores.argmax(axis=1), labels, scores.shape[1], len(data))
    return Trial(
        number, options, data[0].radii, tuple(accuracy.tolist()), float(recall), scores, labels,
        counted, np.where(data[0].weighty, of_class, np.nan),
    )  # fmt: skip


def _no_less_accurate(trials: list[Trial], each: int) -> list[Trial]:
    """Return the trials that are as accurate as the first one of the same boxes, of `each`.

    Its offsets were fitted with a bound on the accuracy that they cost. Others may certify more on
    some held-out rows by chance, and have no such bound.
    """
    return [
        trial for place, trial in enumerate(trials)
        if trial.accuracy[0] >= trials[place - place % each].accuracy[0]
    ]  # fmt: skip


def _accurate(trials: list[Trial]) -> list[Trial]:
    """Return the trials about as good as the best in accuracy and in mean recall."""
    least = max(trial.recall for trial in trials) - _RECALL_LOST
    fair = [trial for trial in trials if trial.recall >= least]
    least = max(trial.accuracy[0] for trial in fair) - _ACCURACY_LOST
    return [trial for trial in fair if trial.accuracy[0] >= least]


def _kept(ranked: list[Trial], count: int, radii: Sequence[int] | None) -> list[Trial]:
    """Return the trials that go on: most of them the best, a quarter the most accurate others.

    Small clips certify little, so they are behind until more steps show that they are right more
    often. Where radii are wanted, the best go on.
    """
    best = count if radii is not None else count - count // 4
    others = sorted(ranked[best:], key=lambda trial: -trial.accuracy[0])
    return ranked[:best] + others[: count - best]


def _no_constants(trials: list[Trial], n_classes: int) -> list[Trial]:
    """Return the trials whose mean recall is clearly above that of a constant prediction."""
    constant = 1 / n_classes
    best = max(trial.recall for trial in trials)
    least = min(best, constant + _FROM_CONSTANT * (best - constant))
    return [trial for trial in trials if trial.recall >= least]


def _final(
    options: TrainingOptions, rows: int, given: Mapping[str, Any], effort: float
) -> TrainingOptions:
    """Return options with the steps of the last run, of all rows, and its sets of boxes."""
    batch = int(given.get("batch") or _batch(rows, options))
    epochs = given.get("epochs") or math.ceil(effort * (_STEPS * min(batch, rows) / rows + 1))
    additive = options.relaxation == "additive"
    members = given.get("members") or (options.members if additive else _MEMBERS)
    return replace(options, batch=batch, epochs=epochs, members=members)


def _candidates(feed: Feed, n_classes: int, given: Mapping[str, Any]) -> list[TrainingOptions]:
    """Return the options of the candidates, each once."""
    found: dict[TrainingOptions, None] = {}
    for candidate in CANDIDATES:
        values = {**PRESETS["auto"], "boxes": _BOXES, **candidate}
        values["boxes"] = max(n_classes, min(_MOST_BOXES, values["boxes"] * n_classes))
        # No margin is above it, and larger clips are the same.
        values["beta"] = min(values["beta"], float(feed.n_features))
        values |= {name: value for name, value in given.items() if value is not None}
        if not _fits(candidate, feed, given):
            continue
        if "relaxation" in candidate:
            values["boxes"] = max(n_classes, min(values["boxes"], candidate["boxes"] * n_classes))
        found[TrainingOptions(**values)] = None
    return [*found]


def _fits(candidate: Mapping[str, Any], feed: Feed, given: Mapping[str, Any]) -> bool:
    """Return whether a candidate is one at all, with options that are settled."""
    if "relaxation" in candidate:
        single = given.get("group_size", 0) < 2 and candidate.get("radius", 0) <= feed.n_features
        named = [name for name in (*ADDITIVE, "objective") if name in candidate]
        return single and all(given.get(name, candidate[name]) == candidate[name] for name in named)
    if given.get("relaxation", "graded") != "graded":
        return "parts" not in candidate and given["relaxation"] != "additive"
    # Parts have two columns, or groups of them, at least.
    groups = feed.n_features // max(1, given.get("group_size", 0))
    return "parts" in given or groups >= 2 * int(candidate.get("parts", 0))


def _workers(feed: Feed, n_classes: int, threads: int) -> int:
    """Return how many candidates to try at a time: threads take turns with Python."""
    batch, boxes = _rows_of_step(len(feed)), min(_MOST_BOXES, _BOXES * n_classes)
    return threads if step_work(batch, boxes, feed.n_features) > _WORTH_THREADS else 1


def _batch(rows: int, options: TrainingOptions) -> int:
    if options.relaxation == "additive":  # a step costs hardly more than its call
        return int(np.clip(rows // 4, 50, 1000))
    return _rows_of_step(rows)


def _rows_of_step(rows: int) -> int:
    """Return the batch for so many rows, of boxes that are not additive."""
    return int(np.clip(rows // 16, 16, _MOST_BATCH))


def _split(
    feed: Feed, n_classes: int, item: Round, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return training and held-out rows, ascending: of each class a quarter is held out at most.

    Rare classes keep more of their rows than others where not all are taken.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(feed.labels, minlength=n_classes)
    wanted = item.rows + item.held_out
    # The largest cap on a class with which no more rows than wanted are taken.
    fair = wanted / max(1, int(np.count_nonzero(counts)))
    cap = np.maximum(counts * min(1.0, wanted / counts.sum()), np.minimum(counts, fair / 2))
    training, held = [], []
    for label in np.flatnonzero(counts):
        rows = rng.permutation(np.flatnonzero(feed.labels == label))[: math.ceil(cap[label])]
        share = item.held_out / wanted if counts.sum() > 2 * wanted else 0.25
        out = min(max(1, round(share * len(rows))), len(rows) - 1)
        held.append(rows[:out])
        training.append(rows[out:])
    return np.sort(np.concatenate(training)), np.sort(np.concatenate(held))


def _standing_for(mass: np.ndarray, own: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return weights (N,) with which some rows stand for all rows of their class.

    The classes weigh `mass` (K,), and these rows their `own` (N,).
    """
    found = np.bincount(labels, own, minlength=len(mass))
    weights: np.ndarray = own * (mass / np.where(found > 0, found, 1))[labels]
    return weights


class _Data:
    """The rows of a round: what candidates are trained on, and what they are certified on."""

    def __init__(
        self,
        feed: Feed,
        n_classes: int,
        radii: tuple[int, ...],
        rows: np.ndarray,
        held: np.ndarray,
        categories: Sequence[int] = (),
    ) -> None:
        self.n_classes, self.radii, self.stop = n_classes, radii, Event()
        self.labels = feed.labels[held]
        x, self._held = ordered_anew(
            feed.take(rows), feed.labels[rows], feed.take(held), categories
        )
        every = np.ones(len(feed)) if feed.weights is None else feed.weights
        mass = np.bincount(feed.labels, every, minlength=n_classes)
        none = self._held[:0], self.labels[:0]
        weights = _standing_for(mass, every[rows], feed.labels[rows])
        alike = weights.max() <= _ALIKE * weights.min()
        weights *= len(weights) / (weights.sum() or 1.0)
        alone = Feed.from_arrays(x, feed.labels[rows], none, 0, weights=None if alike else weights)
        self._feed = replace(alone, shared={})
        self._count = _standing_for(mass, np.ones(len(held)), self.labels)
        self.weighty = mass > 0
        if not self._count.any():
            self._count = np.ones(len(held))

    def recall(self, scores: np.ndarray) -> float:
        """Return the mean recall of the classes of held-out rows, by their scores."""
        right = scores.argmax(axis=1) == self.labels
        return float(np.mean([right[self.labels == c].mean() for c in np.unique(self.labels)]))

    def members(
        self, options: TrainingOptions, item: Round, effort: float
    ) -> list[TrainingOptions]:
        """Return the options of the sets of boxes that are trained on these rows."""
        rows = len(self._feed)
        batch, steps, members = _batch(rows, options), item.steps, item.members
        if options.relaxation == "additive":
            steps, members = 3 * item.steps, options.members
        else:
            batch = min(options.batch, batch)
        epochs = max(1, round(effort * steps * batch / rows))
        return members_of(
            replace(options, batch=batch, epochs=epochs, members=members, validation=0.0)
        )

    def train(self, member: TrainingOptions) -> Training | None:
        """Return boxes that are trained with options; None if they diverge."""
        feed = replace(self._feed, seed=member.seed)
        run = Training(member, feed, self.n_classes, get_backend("cpu", 1))
        try:
            while run.epoch < member.epochs and not self.stop.is_set():
                run.run_next()
        except DivergenceError:
            return None
        return run

    def outcome(self, runs: Sequence[Training | None], offsets: str) -> Outcome:
        """Return the outcome of several sets of boxes together, or that of divergence."""
        trained = [run for run in runs if run is not None]
        if len(trained) < len(runs):
            return (0.0,) * len(self.radii), np.zeros((len(self.labels), self.n_classes))
        shape = (self._feed.n_features,)
        model = trained_model(trained, [*range(self.n_classes)], None, shape, {}, offsets=offsets)
        prediction, radius = pairwise_radius(model, self._held, threads=1)
        right = prediction == self.labels
        accuracy = [np.average(right & (radius >= r), weights=self._count) for r in self.radii]
        scores = -model.class_distance(self._held) / model.reach
        return tuple(map(float, accuracy)), scores


class _Attempt:
    """A candidate on the rows of a round, whose sets of boxes may be trained side by side.

    `variants` are its options, which differ in `offsets` only.
    """

    def __init__(
        self, variants: Sequence[TrainingOptions], data: _Data, item: Round, effort: float
    ) -> None:
        self.variants, self.data = variants, data
        self.members = data.members(variants[0], item, effort)
        self._runs: list[Training | None] = [None] * len(self.members)
        self._left, self._lock = len(self.members), Lock()
        self.seconds = 0.0
        self.outcomes: list[Outcome] = []

    def train(self, number: int) -> None:
        """Train a set of boxes; after the last of them, find what all reach.

        Or do nothing more, where the search was stopped.
        """
        if self.data.stop.is_set():
            return
        began = time.perf_counter()
        self._runs[number] = self.data.train(self.members[number])
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and not self.data.stop.is_set():
            self.outcomes = [
                self.data.outcome(self._runs, options.offsets) for options in self.variants
            ]
            self._runs.clear()  # all attempts of a round are kept
        with self._lock:
            self.seconds += time.perf_counter() - began


def _make(
    attempts: Sequence[_Attempt], workers: int, spent: defaultdict[TrainingOptions, float]
) -> None:
    """Make attempts, by some threads.

    What took longest in the rounds before, by the seconds `spent` on candidates, is begun first, so
    that no thread is left with it alone in the end.
    """
    tasks = [(one, number) for one in attempts for number in range(len(one.members))]
    tasks.sort(key=lambda task: -spent[task[0].variants[0]])
    with ThreadPoolExecutor(workers, "boxnn-search") as pool:
        try:
            for done in [pool.submit(one.train, number) for one, number in tasks]:
                done.result()
        finally:  # those that still run or wait after Ctrl-C
            for one in attempts:
                one.data.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    for one in attempts:
        spent[one.variants[0]] += one.seconds
