"""Learning curves: figures of training by epoch, from logs or from models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from boxnn_numba.data.model_store import FORMAT
from boxnn_numba.data.paths import Name, location
from boxnn_numba.data.run_log import LogFile, read_log
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.figures.curves import literal, new_figure, shortened, tidy
from boxnn_numba.pipelines.figures.palette import run_colour, run_mark
from boxnn_numba.pipelines.figures.runs import Run, distinct_names
from boxnn_numba.pipelines.figures.scales import tick_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Figures of an epoch as `boxnn_numba.training.run.EpochRecord` names them, and what one reads.
FIGURES = {
    "objective": "objective",
    "accuracy": "held-out accuracy (%)",
    "median_certified_radius": "held-out median radius",
    "mean_certified_radius": "held-out mean radius",
}
#: What is known of an epoch, of which there is a line of a table.
OF_EPOCH = ("epoch", *FIGURES, "score", "seconds")
Epochs = Sequence[Mapping[str, Any]]
_LONGEST_NAME = 48


class Trained(NamedTuple):
    """A set of boxes in one line: figures of its best epoch on held-out rows, accuracy in percent.

    `note` says which set; seconds are those of an epoch.
    """

    note: str
    epochs: int
    best: int
    objective: float
    accuracy: float | None
    median_certified_radius: float | None
    mean_certified_radius: float | None
    seconds: float


class Learning(NamedTuple):
    """How the sets of boxes of a model were trained.

    Attributes
    ----------
    name
        Of the run, or of the log.
    place
        Position by which colour and mark are chosen; of a run its own.
    run
        Whether a run was certified that this belongs to.
    members
        The epochs of each set of boxes.
    """

    name: str
    place: int
    run: bool
    members: Sequence[Epochs]

    def points(self, figure: str) -> list[list[tuple[int, float]]]:
        """Return (epoch, value) of each set of boxes where the value was measured."""
        scale = 100.0 if figure == "accuracy" else 1.0
        return [
            [(row["epoch"], scale * row[figure]) for row in epochs if row[figure] is not None]
            for epochs in self.members
        ]

    def rows(self) -> list[Trained]:
        """Return a line for each set of boxes, with the figures of its best epoch."""
        rows = []
        for number, epochs in enumerate(self.members, 1):
            best = max(epochs, key=lambda row: -1 if row["score"] is None else row["score"])
            best = epochs[-1] if best["score"] is None else best
            figures = {name: best[name] for name in FIGURES}
            if figures["accuracy"] is not None:
                figures["accuracy"] *= 100
            seconds = sum(row["seconds"] for row in epochs) / len(epochs)
            note = f", set {number}" if len(self.members) > 1 else ""
            rows.append(Trained(note, len(epochs), best["epoch"], **figures, seconds=seconds))
        return rows


def learning_of(runs: Sequence[Run], logs: Sequence[Name] = ()) -> list[Learning]:
    """Return how runs were trained, as far as that is known, and then what other logs say.

    The log of a model knows all of its sets of boxes, the model of its first.

    Raises
    ------
    DataError, OptionError
        A log cannot be read, or is not of training.
    """
    read = {path: _training_log(path) for path in dict.fromkeys(map(str, logs))}
    found, used = [], set()
    for index, run in enumerate(runs):
        members: list[Epochs] = []
        for history in _histories(run.attributes.get("training")):
            known = [path for path, log in read.items() if _begins(log, history)]
            used |= set(known)
            members += _members(read[known[0]]) if known else [history]
        if members:
            found.append(Learning(run.name, index, True, members))
    left = [path for path in read if path not in used]
    names = distinct_names([*map(location, left)]) if left else []
    return found + [
        Learning(name, len(runs) + place, False, _members(read[path]))
        for place, (name, path) in enumerate(zip(names, left, strict=True))
    ]


def _training_log(path: str) -> LogFile:
    log = read_log(path)
    if log.about.get("result") != FORMAT:
        raise OptionError(f"{path} is not the log of a training; pass those of boxnn train")
    if not log.lines:
        raise OptionError(f"{path} has no epoch yet; wait for the first one")
    for number, line in enumerate(log.lines, 2):
        if not {"member", *OF_EPOCH} <= line.keys():
            raise OptionError(f"line {number} of {path} is not of an epoch; remove that line")
    return log


def _members(log: LogFile) -> list[Epochs]:
    numbers = sorted({line["member"] for line in log.lines})
    return [[line for line in log.lines if line["member"] == number] for number in numbers]


def _histories(training: Any) -> list[Epochs]:
    """Return the epochs that a model records, of one that was joined those of each part."""
    if not isinstance(training, Mapping):
        return []
    parts = training.get("members")
    if isinstance(parts, list):
        return [history for part in parts for history in _histories(part)]
    history = training.get("history") or []
    known = [row for row in history if {*OF_EPOCH} <= row.keys()]
    return [known] if known else []


def _begins(log: LogFile, history: Epochs) -> bool:
    """Whether a log is of the training that a model records: no two take the same seconds."""
    first = _members(log)[:1]
    return (
        bool(first)
        and len(first[0]) == len(history)
        and all(row.items() <= line.items() for row, line in zip(history, first[0], strict=True))
    )


def learning_curves(learning: Sequence[Learning], title: str) -> Figure:
    """Draw `FIGURES` by epoch, a line for each set of boxes; those that were measured."""
    drawn = [name for name in FIGURES if any(any(one.points(name)) for one in learning)]
    across = min(2, len(drawn))
    figure = new_figure(8.6, 0.6 + 2.8 * -(-len(drawn) // across))
    figure.suptitle(literal(title), x=0.01, ha="left", fontsize=11)
    handles = []
    last = last_epoch(learning)
    panels = figure.subplots(-(-len(drawn) // across), across, squeeze=False).flat
    for axes in panels[len(drawn) :]:
        axes.remove()
    for axes, name in zip(panels, drawn, strict=False):
        for one in learning:
            for points in filter(None, one.points(name)):
                (line,) = axes.plot(
                    *zip(*points, strict=True),
                    color=run_colour(one.place).light,
                    marker=run_mark(one.place),
                    markersize=4.5,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                    markevery=tick_step(last),
                    linewidth=1.8,
                    clip_on=False,
                )
            if name == "objective":
                sets = f" ({len(one.members)} sets)" if len(one.members) > 1 else ""
                line.set_label(literal(shortened(one.name, _LONGEST_NAME)) + sets)
                handles.append(line)
        axes.set_title(FIGURES[name], loc="left", fontsize=10)
        axes.set_xlim(0, last)
        axes.set_xticks(range(0, last + 1, tick_step(last)))
        tidy(axes)
    for axes in figure.axes[-across:]:
        axes.set_xlabel("epoch")
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def last_epoch(learning: Sequence[Learning]) -> int:
    """Return the number of the last epoch of all."""
    return max(row["epoch"] for one in learning for epochs in one.members for row in epochs)
