"""Tuning: training options searched by Optuna, on the held-out part of the training data."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.certificates import margin
from boxnn_numba.data.atomic import locked
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.paths import Name, is_url
from boxnn_numba.errors import DataError, DivergenceError, OptionError
from boxnn_numba.pipelines.model_selection.held_out import held_out_outcome, held_out_rows
from boxnn_numba.pipelines.run_folder import write_text
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.pipelines.training.dataset_loader import dataset_feed
from boxnn_numba.training.options import TrainingOptions, resolve
from boxnn_numba.training.result import trained_model
from boxnn_numba.training.run import Training

if TYPE_CHECKING:
    import optuna

FORMAT = "boxnn-study"
#: Options that are searched unless others are named; augmentation for images only.
SEARCHED = ("width", "alpha", "beta", "tau", "lr", "augment")
_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL"}


@dataclass(frozen=True)
class Study(Result):
    """The result of a study.

    Attributes
    ----------
    study
        Where its trials are.
    objective, preset, fixed
        What is maximised, and what holds for all trials.
    best
        ``options`` and ``value``; None where no trial was completed.
    trials
        How many ended in which way.
    seconds
        That it took.
    """

    study: str
    objective: str
    preset: str
    fixed: dict[str, Any]
    best: dict[str, Any] | None
    trials: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Span:
    """Where an option is searched: from low to high, evenly in its logarithm if `log`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return it as Optuna has it."""
        spread = _optuna().distributions
        if self.whole:
            return spread.IntDistribution(int(self.low), int(self.high), log=self.log)
        return spread.FloatDistribution(self.low, self.high, log=self.log)


def search_space(dataset: Dataset, names: Sequence[str] | None = None) -> dict[str, Span]:
    """Return where each option is searched for a data set: those of `SEARCHED` by default."""
    n, rows = dataset.n_features, dataset.n_rows("train")
    if dataset.are_images:  # what counts is pixels
        n = math.prod(dataset.feature_shape[:2])
    spans = {
        "width": Span(8, 255, log=True, whole=True),
        "alpha": Span(0.02, 0.4, log=True),
        "beta": Span(max(1.0, 0.01 * n), max(2.0, 0.25 * n), log=True),
        "tau": Span(0.2, 5.0, log=True),
        "lr": Span(0.1, 10.0, log=True),
        "augment": Span(0.0, 2.0),
        "leak": Span(0.0, 1.0),
        "batch": Span(20, max(21, min(2000, rows // 4)), log=True, whole=True),
        "sharpness": Span(2.0, 40.0, log=True),
        "templates": Span(1, 100, log=True, whole=True),
    }
    if names is None:
        names = [name for name in SEARCHED if name != "augment" or dataset.are_images]
    for name in names:
        validation.choice("search", name, list(spans))
    return {name: spans[name] for name in dict.fromkeys(names)}


def tune(
    data: Name,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    preset: str = "graded",
    trials: int = 20,
    search: Sequence[str] | None = None,
    run: RunOptions = DEFAULT_RUN,
) -> Study:
    """Search training options for the best certified accuracy on held-out data.

    Parameters
    ----------
    data
        Path of a dataset.
    out
        JSON file of the study, written after every trial.
    options
        Values of `TrainingOptions` that hold for all trials. With ``radius`` the certified accuracy
        there is maximised, else the area under the curve of all radii (the mean radius of what is
        right).
    preset
        As for `fit`.
    trials
        How many there are to be, with those that a study to resume has.
    search
        Names of the options to search, as for `search_space`.
    run
        How to run, in this process. To resume is to add trials to the study at `out`.

    Returns
    -------
    Study

    Raises
    ------
    OptionError
        Optuna is not installed, an option is unknown, out of range or both fixed and searched, or
        `out` exists.
    DataError
        The data, or the study to resume, are of something else or damaged.
    """
    began = time.perf_counter()
    _optuna()
    validation.positive("trials", trials)
    backend = get_backend(run.device, run.threads)
    dataset = open_dataset(data)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    space = search_space(dataset, search)
    for name in space:
        if name in given:
            raise OptionError(f"{name} is fixed and searched; leave it out of one of the two")
    settings = resolve(preset, given, dataset.kind)
    given = {name: settings.as_dict()[name] for name in given}  # plain values, for JSON
    if dataset.n_rows("train") == 0 or len(dataset.classes) < 2:
        raise DataError(f"{data} needs training samples of at least two classes; ingest it again")
    held_out_rows(dataset, settings)
    record = {
        "format": FORMAT,
        "version": 1,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "preset": preset,
        "fixed": given,
        "radius": given.get("radius"),
        "options": settings.as_dict(),
        "search": {name: list(astuple(span)) for name, span in space.items()},
    }
    if is_url(out):
        raise OptionError(f"{out} is a URL; tune writes a local file, choose one")
    path = Path(out)
    spread = {name: span.distribution() for name, span in space.items()}
    trial = _Trial(dataset, backend, settings, given.get("radius"), spread)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise OptionError(f"`out` is {path}; it must be a file in a folder that exists")
    with locked(path, no_lock=run.no_lock):
        done = _earlier(path, record, run)
        run.progress.start(trials, "trials")
        run.progress.advance(min(trials, len(done)))
        study = _study(trial, done, path)
        while len(done) < trials:
            done.append(trial.run(study, len(done)))
            written = {**record, **_summary(done, record), "done": done}
            write_text(path, json.dumps(written, indent=1))
            run.progress.advance(1)
    return Study(str(out), **_summary(done, record), seconds=time.perf_counter() - began)


@dataclass(frozen=True, eq=False)
class _Trial:
    """What every trial trains and measures."""

    dataset: Dataset
    backend: Any
    settings: TrainingOptions
    radius: int | None
    spread: dict[str, optuna.distributions.BaseDistribution]

    def run(self, study: optuna.Study, number: int) -> dict[str, Any]:
        """Do one; return its options, how it ended and what the held-out data say of it."""
        began = time.perf_counter()
        # A seed for each, so that a study that was stopped goes on as it would have gone.
        study.sampler = _optuna().samplers.TPESampler(seed=self.settings.seed + number)
        current = study.ask(self.spread)
        state, value = self.measure(current)
        study.tell(current, value, state=_state(state))
        return {
            "options": dict(current.params),
            "state": state,
            "value": value,
            "epochs": list(study.trials[-1].intermediate_values.values()),
            "seconds": round(time.perf_counter() - began, 3),
        }

    def measure(self, trial: optuna.Trial) -> tuple[str, float | None]:
        """Train with the options of a trial; return how it ended and its value."""
        options = TrainingOptions(**{**self.settings.as_dict(), **trial.params})
        feed, grid = dataset_feed(self.dataset, options)
        shape = self.dataset.feature_shape
        run = Training(
            options, feed, len(self.dataset.classes), self.backend, feature_shape=shape,
            codes=grid is None,
        )  # fmt: skip
        try:
            while run.epoch < options.epochs:
                record = run.run_epoch()
                if self.radius is None:
                    trial.report(record.mean_certified_radius, run.epoch)
                    if trial.should_prune():
                        return "pruned", None
        except DivergenceError:
            return "diverged", None
        model = trained_model([run], self.dataset.classes, grid, shape, {}, self.dataset.columns)
        outcome = held_out_outcome(model, self.dataset)
        if self.radius is None:
            return "complete", margin.mean_certified_radius(*outcome)
        return "complete", float(margin.certified_accuracy(*outcome, [self.radius])[0])


def _study(trial: _Trial, done: Sequence[Mapping[str, Any]], path: Path) -> optuna.Study:
    """Return Optuna's view of the trials that are done."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    try:
        for item in done:
            study.add_trial(
                optuna.trial.create_trial(
                    state=_state(item["state"]),
                    params=item["options"],
                    distributions=trial.spread,
                    value=item["value"],
                    intermediate_values=dict(enumerate(item["epochs"], 1)),
                )
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged, a trial in it cannot be read; choose another `out`"
        ) from error
    return study


def _state(name: str) -> optuna.trial.TrialState:
    return _optuna().trial.TrialState[_STATES[name]]


def _summary(done: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, Any]:
    complete = [item for item in done if item["state"] == "complete"]
    best = max(complete, key=lambda item: item["value"], default=None)
    radius = record["radius"]
    objective = "mean certified radius" if radius is None else f"certified accuracy at {radius}"
    return {
        "objective": objective,
        "preset": record["preset"],
        "fixed": record["fixed"],
        "best": None if best is None else {"options": best["options"], "value": best["value"]},
        "trials": {state: sum(item["state"] == state for item in done) for state in _STATES},
    }


def _earlier(path: Path, record: Mapping[str, Any], run: RunOptions) -> list[dict[str, Any]]:
    """Return the trials of the study to resume, after checking that it is the same."""
    if run.overwrite and run.resume:
        raise OptionError("`overwrite` starts again and `resume` continues; pass one of them")
    if not path.exists():
        return []
    if not (run.overwrite or run.resume):
        raise OptionError(f"{path} already exists; pass `resume` to add trials, or `overwrite`")
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(study, dict) and study.get("format") == FORMAT
        found = [dict(item) for item in study["done"]] if known else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a study that can be read; choose another `out`") from error
    if not known:
        raise DataError(f"{path} is not a study of boxnn tune; choose another `out`")
    if run.overwrite:
        return []
    other = [name for name, value in record.items() if study.get(name) != value]
    if other:
        raise OptionError(
            f"{path} is a study with another {', '.join(other)}; resume it with its own options "
            "and data, or choose another `out`"
        )
    return found


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise OptionError("boxnn tune needs Optuna; run pip install 'boxnn-numba[tune]'") from error
    return optuna


def command_line(found: Study, data: Name) -> str:
    """Return the command that trains with the best options of a study."""
    best = {} if found.best is None else found.best["options"]
    words = ["boxnn train", str(data), "--out model.zarr --preset", found.preset]
    for name, value in {**found.fixed, **best}.items():
        text = f"{value:.6g}" if isinstance(value, float) else value
        words.append(f"--{name.replace('_', '-')} {text}")
    return " ".join(words)
