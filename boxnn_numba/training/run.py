"""Training run: initial boxes, epochs, validation, and its state. Knows no Dask and no Zarr."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import numpy as np

from boxnn_numba.backends.protocol import Backend
from boxnn_numba.backends.structure import Structure
from boxnn_numba.errors import DivergenceError, InputError, OptionError
from boxnn_numba.progress import SILENT, Progress
from boxnn_numba.training.additive_trainer import AdditiveTrainer, Contributions
from boxnn_numba.training.initial_boxes import Seeds, initial_boxes, templates_of
from boxnn_numba.training.loader import Feed, Pair, batch_ends
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.parts import groups_of, parts_of
from boxnn_numba.training.problem import Problem, objective
from boxnn_numba.training.selection import (
    Validation,
    achieved,
    class_offsets,
    held_out_distances,
    validate,
)
from boxnn_numba.training.trainer import MakeTrainer, Trainer, trainer_on
from boxnn_numba.training.weights import recall_weights

#: A run has diverged when its validation score falls below this part of its best.
COLLAPSE = 0.25
# The automatic clip: chosen on validation data of MNIST and Fashion-MNIST.
_BETA_SAMPLES, _BETA_QUANTILE, _BETA_FACTOR = 20_000, 0.9, 1.1
#: Steps in one call beside which Python's work is little.
_MANY_STEPS = 16
#: Codes of the epochs that are run in one call, all put together.
_MOST_CODES = 2**22
#: Samples that the margin before training is of, where no clip is chosen by it.
_MARGIN_SAMPLES = 1_000


@dataclass(frozen=True)
class EpochRecord:
    """Figures of one epoch; validation figures use the deployed width and sound radii."""

    epoch: int
    seconds: float
    objective: float
    margin: float
    accuracy: float
    median_certified_radius: float
    mean_certified_radius: float
    score: float

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures as plain values, None for what was not measured."""
        unmeasured = ("median_certified_radius",) if self.accuracy != self.accuracy else ()
        return {
            key: None if value != value or key in unmeasured else value
            for key, value in self.__dict__.items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpochRecord:
        """Return the record that `as_dict` was called on."""
        known: dict[str, Any] = {k: np.nan if v is None else v for k, v in values.items()}
        return cls(**known)


def _batch_sums(values: np.ndarray, size: int) -> list[float]:
    """Return the sums of batches: the same bits, whether figures come for one or for several."""
    whole = len(values) // size * size
    sums: list[float] = values[:whole].reshape(-1, size).sum(axis=1).tolist()
    return sums if whole == len(values) else [*sums, float(values[whole:].sum())]


class Training:
    """One run: its boxes, its optimiser, and where it is.

    Parameters
    ----------
    options
        All settings.
    feed
        What to train on, and what is held out to select on.
    n_classes
        Number K of classes, at least 2.
    backend
        Where boxes are validated.
    make_trainer
        Makes what moves the boxes; by default it is on the device of the backend.
    start
        Boxes to start from; by default those of `initial_boxes`.
    feature_shape, codes
        Shape of a sample, (n,) by default, and whether samples came as codes: with both, images get
        a grid of parts and pixels as groups.

    Raises
    ------
    InputError
        There is one class only.
    OptionError
        The boxes do not fit the classes.
    """

    def __init__(
        self,
        options: TrainingOptions,
        feed: Feed,
        n_classes: int,
        backend: Backend,
        *,
        make_trainer: MakeTrainer | None = None,
        start: Seeds | None = None,
        feature_shape: Sequence[int] | None = None,
        codes: bool = False,
    ) -> None:
        if n_classes < 2:
            raise InputError("the data has one class; a classifier needs at least two")
        self.options, self.backend, self.n_classes = options, backend, n_classes
        self._feed = feed
        # Classes that are given up come more often from epoch to epoch.
        self._class_weights = np.ones(n_classes)
        seeds = start or initial_boxes(feed, n_classes, options)
        self.n_rows, self.n_features = len(feed), feed.n_features
        shape = (feed.n_features,) if feature_shape is None else feature_shape
        self.group = groups_of(options, shape, codes)
        self._check_radius()
        self.part = parts_of(options, shape, self.group, feed)
        self.template = np.arange(len(seeds.labels), dtype=np.int32)
        if self.part.any():
            self.template = templates_of(seeds, options.templates, options.seed)
        order = np.argsort(self.template, kind="stable")
        self.template, self.labels = self.template[order], seeds.labels[order]
        masters = seeds.bounds[0][order], seeds.bounds[1][order]
        self.structure = Structure.of(self.labels, self.template, self.part, self.group, n_classes)
        self.problem = Problem.of(options, self.structure)
        make = make_trainer or trainer_on(backend)
        if options.relaxation == "additive":
            count = min(256, 2 * (len(self.labels) // n_classes))
            find = functools.partial(Contributions, feed, n_classes, count)
            make = functools.partial(AdditiveTrainer, feed.once(("contributions", count), find))
        self.trainer: Trainer = make(masters, self.problem)
        margins = self._initial_margins()
        self._start_margin = float(margins.mean())
        if options.beta == 0 and (options.warmup_epochs or options.objective != "target"):
            self._choose_beta(margins)
        self.epoch = self.step = 0  # whole epochs done, and steps of the one begun
        self._sums, self._spent = (0.0, 0.0), 0.0  # and seconds, of earlier runs
        self._figures: list[Pair] = []  # of steps that are not in the sums yet
        self.history: list[EpochRecord] = []
        self.best_epoch = 0
        self.best: Pair = self.codes()
        self._best_offset = self.trainer.offset()
        self.start = EpochRecord(0, 0.0, np.nan, self._start_margin, *self._validate()[:4])
        self._best_score, self._best_recall = self.start.score, self._recall

    def _check_radius(self) -> None:
        groups = int(self.group.max()) + 1
        if self.options.objective == "target" and self.options.radius > groups:
            raise OptionError(
                f"`radius` is {self.options.radius}, more than the {groups} features or groups of "
                f"features there are; pass at most {groups}"
            )

    def codes(self) -> Pair:
        """Return copies of the deployed bounds, uint8, as of the trainer."""
        lower, upper = self.trainer.bounds()
        return lower.copy(), upper.copy()

    def _initial_margins(self) -> np.ndarray:
        """Return the soft margins of some training samples before the first step."""
        rng = np.random.default_rng([self.options.seed, 4])
        most = _BETA_SAMPLES if self.options.beta == 0 else _MARGIN_SAMPLES
        count = min(most, self.n_rows)
        rows = np.sort(rng.choice(self.n_rows, count, replace=False))
        return self.trainer.margins(self._feed.take(rows), self._feed.labels[rows])

    def _choose_beta(self, margins: np.ndarray) -> None:
        """Clip where few of the initial boxes' margins are: what the data can reach."""
        beta = max(1.0, _BETA_FACTOR * float(np.quantile(margins, _BETA_QUANTILE)))
        self.options = replace(self.options, beta=beta)
        self._aim()

    def _aim(self, warm: bool = False) -> None:
        """Take the objective of the options, or that of the warm-up, from here on."""
        self.trainer.problem = self.problem = self.problem.aimed(self.options, warm)

    @property
    def _phase(self) -> tuple[int, int]:
        """Where the phase of the epoch about to run begins and ends, in epochs."""
        warmup = self.options.warmup_epochs
        return (0, warmup) if self.epoch < warmup else (warmup, self.options.epochs)

    def _enter_phase(self) -> tuple[int, int]:
        """Aim at what the epoch about to run is for; return the epochs of its phase."""
        warm = self.epoch < self.options.warmup_epochs
        if objective(self.options, warm) != self.problem.objective:
            self._aim(warm)
        return self._phase

    def run_epoch(
        self, progress: Progress = SILENT, after_step: Callable[[], None] | None = None
    ) -> EpochRecord:
        """Pass over the rest of the epoch, validate, and keep the boxes if they are the best.

        `after_step` is called when a step is complete, a moment at which `state` can be taken. If
        the margin is not finite or the validation score collapsed, `DivergenceError` is raised, and
        `best` is untouched.
        """
        return self._run(1, progress, after_step)[0]

    def run_next(self, **watch: Any) -> list[EpochRecord]:
        """Run the next epoch as `run_epoch`, or as many as are one call of the trainer.

        Several are where they are short, nothing is held out, and the run cannot diverge. Who
        watches, `progress` and `after_step`, is as for `run_epoch`, but there is no `state` to take
        in the middle of several.
        """
        batch, (_, last) = self.options.batch, self._phase
        count = min(
            self.trainer.steps_at_once(batch) // -(-self.n_rows // batch),
            _MOST_CODES // (self.n_rows * self.n_features),
        )
        watched = not np.isnan(self.start.accuracy) or self._can_diverge
        if count < 2 or watched or self.step or len(self._feed.sizes) > 1:
            return [self.run_epoch(**watch)]
        return self._run(max(1, min(count, last - self.epoch)), **watch)

    def _run(
        self,
        count: int,
        progress: Progress = SILENT,
        after_step: Callable[[], None] | None = None,
    ) -> list[EpochRecord]:
        """Run an epoch, or so many in one call; all of them validate as the last one does."""
        self._began = time.perf_counter() - self._spent
        batch, total = self.options.batch, self.n_rows
        steps = -(-total // batch)
        first, last = self._enter_phase()
        at = 0
        for x, y, ends in self._batches(count):
            begin, at = at, at + len(ends)
            if at <= self.step:  # done before the run was stopped
                continue
            if begin < self.step:
                samples = ends[self.step - begin - 1]
                x, y, ends = x[samples:], y[samples:], ends[self.step - begin :] - samples
            rates = [
                self.rate(((self.epoch - first) * steps + step) / ((last - first) * steps))
                for step in range(self.step, at)
            ]
            self._figures.append(self.trainer.steps(x, y, ends, rates))
            self.step = at
            progress.advance(len(y))
            if after_step is not None:
                after_step()
        sums = self._sums_of(count)
        seconds = (time.perf_counter() - self._began) / count
        found = self._validate()[:4]
        records = [
            EpochRecord(self.epoch + number, seconds, worth / total, margin / total, *found)
            for number, (worth, margin) in enumerate(sums, 1)
        ]
        self.epoch, self.step, self._sums, self._spent = self.epoch + count, 0, (0.0, 0.0), 0.0
        self.history += records
        self._judge(records[-1])
        self._class_weights = recall_weights(self._class_weights, self._recall, self.options.recall)
        return records

    def _batches(self, count: int) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """Yield samples, labels and ends of batches: some of an epoch, or all of several."""
        batch = self.options.batch
        epochs = range(self.epoch, self.epoch + count)
        feed = self._feed.weighted(self._class_weights)
        found = (pair for one in epochs for pair in self.trainer.batches(feed, one, batch))
        if count == 1:
            for x, y in found:
                yield x, y, batch_ends(len(y), batch)
            return
        samples, labels = zip(*found, strict=True)
        ends = np.arange(count)[:, None] * self.n_rows + batch_ends(self.n_rows, batch)
        yield np.concatenate(samples), np.concatenate(labels), ends.ravel()

    @property
    def leaves_cores(self) -> bool:
        """Whether an epoch is the work of one thread, on data in memory, with little of Python."""
        batch = self.options.batch
        steps = min(self.trainer.steps_at_once(batch), self.n_rows // batch)
        return steps >= _MANY_STEPS and len(self._feed.sizes) == 1

    def _add_figures(self) -> None:
        """Add what steps found to the sums; only this waits for a GPU."""
        self._sums = self._added(self._sums, self.trainer.fetch(self._figures))
        self._figures = []

    def _added(self, sums: tuple[float, float], found: Sequence[Pair]) -> tuple[float, float]:
        """Add objectives and margins of some samples to sums of them, batch by batch."""
        for figures in found:
            of_batches = (_batch_sums(side, self.options.batch) for side in figures)
            for worth, width in zip(*of_batches, strict=True):
                sums = sums[0] + worth, sums[1] + width
        return sums

    def _sums_of(self, count: int) -> list[tuple[float, float]]:
        """Return the sums of each of the epochs just run."""
        if count == 1:
            self._add_figures()
            return [self._sums]
        ((worth, width),), self._figures = self.trainer.fetch(self._figures), []
        each = zip(np.split(worth, count), np.split(width, count), strict=True)
        return [self._added((0.0, 0.0), [pair]) for pair in each]

    @property
    def samples_done(self) -> int:
        """Training samples seen so far, over all epochs."""
        return self.epoch * self.n_rows + min(self.n_rows, self.step * self.options.batch)

    def rate(self, done: float) -> float:
        """Return the learning rate after a fraction `done` of the run, or of a phase of it."""
        factor = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + np.cos(np.pi * done)),
        }
        return float(self.options.lr * factor[self.options.schedule])

    def _validate(self) -> Validation:
        bounds, offset = self.trainer.bounds(), self.trainer.offset()
        found = validate(bounds, self._feed, self.problem, self.backend, offset)
        self._recall = found.recall
        return found

    @property
    def _can_diverge(self) -> bool:
        return self.options.relaxation != "additive"  # what columns add is within bounds

    def _divergence(self, record: EpochRecord) -> str:
        """Return a description of the divergence of the run; empty if it has not diverged."""
        if not self._can_diverge:
            return ""
        if not np.isfinite(record.margin):
            return "the margin is not finite"
        if record.score < COLLAPSE * self._best_score:
            return f"the validation score fell from {self._best_score:.3g} to {record.score:.3g}"
        # Where a class that is given up comes more often, its margins do, too.
        alike = (self._class_weights == 1).all()
        worth = min(self._start_margin, self.problem.objective.bound)
        if alike and self._start_margin > 0 and record.margin < COLLAPSE * worth:
            return f"the margin fell from {self._start_margin:.3g} to {record.margin:.3g}"
        return ""

    def _judge(self, record: EpochRecord) -> None:
        problem = self._divergence(record)
        if problem:
            kept = f"epoch {record.epoch - 1} is kept" if record.epoch > 1 else "nothing is kept"
            raise DivergenceError(
                f"training diverged in epoch {record.epoch}: {problem}; {kept}; lower `lr` "
                f"(now {self.options.lr:g}) and start again with `overwrite`"
            )
        if not record.score <= self._best_score:  # also where nothing is held out
            self.best, self.best_epoch = self.codes(), record.epoch
            self._best_offset = self.trainer.offset()
            self._best_score, self._best_recall = record.score, self._recall

    @property
    def weighty(self) -> np.ndarray:
        """(K,) whether a class has training rows with weight."""
        feed = self._feed
        return np.asarray(np.bincount(feed.labels, feed.weights, self.n_classes) > 0)

    @functools.cached_property
    def offset(self) -> np.ndarray:
        """(K,) int64 offsets of the classes for the best boxes; ask when the run is over."""
        if not self._gives_up:
            return self._best_offset
        distance, y = held_out_distances(self.best, self._feed, self.problem, self.backend)
        moved = class_offsets(distance + self._best_offset, y, self.options.recall)
        return self._best_offset + moved

    @property
    def _gives_up(self) -> bool:
        """Whether the best epoch has a class with less recall than `recall` asks for."""
        return self.options.recall > 0 and bool((self._best_recall < self.options.recall).any())

    @functools.cached_property
    def outcome(self) -> Validation:
        """Held-out figures of the best boxes with their offsets; read it when the run is over."""
        if not self._gives_up:  # found when they were made
            best = next(r for r in (self.start, *self.history) if r.epoch == self.best_epoch)
            return Validation(
                best.accuracy, best.median_certified_radius, best.mean_certified_radius, best.score,
                self._best_recall,
            )  # fmt: skip
        return validate(self.best, self._feed, self.problem, self.backend, self.offset)

    def held_out_distances(self) -> Pair:
        """Return class distances (N, K) of held-out samples to the best boxes, and labels (N,)."""
        distance, y = held_out_distances(self.best, self._feed, self.problem, self.backend)
        return distance + self.offset, y

    def training_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return codes (R, n), labels and weights of some training rows."""
        feed = self._feed
        weights = np.ones(len(rows)) if feed.weights is None else feed.weights[rows]
        return feed.take(rows), feed.labels[rows], weights

    def achieved(self, distance: np.ndarray, y: np.ndarray, runs: int) -> Validation:
        """Return the held-out figures of sums of such distances over several runs."""
        return achieved(distance, y, self.options, self._feed, runs)

    # --- state, for checkpoints ---------------------------------------------------------

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return everything that the next step depends on: arrays and plain values."""
        self._add_figures()
        arrays = {f"stepper_{key}": value for key, value in self.trainer.state().items()}
        arrays["best_lower"], arrays["best_upper"] = self.best
        arrays["best_offset"] = self._best_offset
        values = {
            "epoch": self.epoch,
            "step": self.step,
            "sums": list(self._sums),
            "seconds": time.perf_counter() - self._began if self.step else 0.0,
            "best_epoch": self.best_epoch,
            "best_score": None if np.isnan(self._best_score) else self._best_score,
            "class_weights": self._class_weights.tolist(),
            "best_recall": [None if np.isnan(r) else float(r) for r in self._best_recall],
            "history": [record.as_dict() for record in self.history],
        }
        return arrays, values

    def restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        prefix = "stepper_"
        self.trainer.restore(
            {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
        )
        self.best = arrays["best_lower"], arrays["best_upper"]
        # No checkpoint of earlier versions has it.
        self._best_offset = arrays.get("best_offset", np.zeros(self.n_classes, np.int64))
        self.epoch, self.step, self._figures = values["epoch"], values["step"], []
        self._sums = values["sums"][0], values["sums"][1]
        self._spent = values.get("seconds", 0.0)  # no checkpoint of earlier versions has it
        self.best_epoch = values["best_epoch"]
        score = values["best_score"]
        self._best_score = np.nan if score is None else score
        # No checkpoint of earlier versions has them.
        self._class_weights = np.array(values.get("class_weights", np.ones(self.n_classes)))
        self._best_recall = np.array([np.nan if r is None else r for r in values["best_recall"]])
        self.history = [EpochRecord.from_dict(record) for record in values["history"]]


def run_epochs(
    runs: Sequence[Training], threads: int
) -> Iterator[tuple[Training, EpochRecord | DivergenceError]]:
    """Train runs to their ends, side by side where they leave cores.

    Yields each run with what its epochs did, one run after the other whatever the threads. A run
    that diverges yields that, and ends.
    """
    side_by_side, stop = threads > 1 and all(run.leaves_cores for run in runs), Event()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError

    def epochs(run: Training) -> Iterator[EpochRecord | DivergenceError]:
        try:
            while run.epoch < run.options.epochs:
                yield from run.run_next(after_step=check)
        except DivergenceError as error:
            yield error

    if not side_by_side or len(runs) == 1:
        for run in runs:
            for found in epochs(run):
                yield run, found
        return
    with ThreadPoolExecutor(threads, "boxnn-runs") as pool:
        try:
            done = [pool.submit(lambda run: list(epochs(run)), run) for run in runs]
            for run, future in zip(runs, done, strict=True):
                for found in future.result():
                    yield run, found
        finally:  # those that still run after Ctrl-C
            stop.set()
