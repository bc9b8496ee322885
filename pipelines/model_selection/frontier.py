"""Frontier: models for many radii, and at each the one that does best on held-out data."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.data.dataset import Dataset, open_dataset
from boxnn_numba.data.model_store import load_model
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import DataError, DivergenceError, OptionError
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.figures.curves import draw_constant, finish_curves, new_figure
from boxnn_numba.pipelines.figures.palette import run_colour
from boxnn_numba.pipelines.figures.published import published_rows
from boxnn_numba.pipelines.figures.runs import Run, certified_curve, constant_of
from boxnn_numba.pipelines.model_selection.held_out import held_out_outcome, held_out_rows
from boxnn_numba.pipelines.run_folder import (
    KeptRun,
    kept_run,
    open_run_folder,
    write_csv,
    write_figure,
    write_json,
)
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions, resolve

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

TARGETS = tuple(range(4, 41, 4))
_MARKER = {"format": "boxnn-frontier", "version": 1}
_CONTENT = dict.fromkeys(f"frontier.{ending}" for ending in ("csv", "json", "png"))


@dataclass(frozen=True)
class Frontier(Result):
    """A family of models, and the best of them at each radius.

    Attributes
    ----------
    out
        Where it is.
    dataset, dataset_digest, training_rows, test_rows
        What it is of.
    rows
        One for each radius: ``radius``, ``model``, ``held_out`` and ``test`` certified accuracy in
        percent, ``published`` best and its ``method``.
    members
        The models: ``name``, ``folder``, ``held_out`` and ``test`` certified accuracy at radii 0,
        1, ... (None where a model is chosen nowhere), and the ``seconds`` of its training.
    options
        Those given for all runs.
    seconds
        That it took.
    """

    out: str
    dataset: str
    dataset_digest: str
    training_rows: int
    test_rows: int
    rows: list[dict[str, Any]]
    members: list[dict[str, Any]]
    options: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class _Member:
    """One model of the family, with certified accuracies as in `Frontier.members`."""

    name: str
    kept: KeptRun
    held_out: np.ndarray
    seconds: float
    test: np.ndarray | None = None

    def as_dict(self, folder: Path) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": str(self.kept.folder.relative_to(folder)),
            "held_out": self.held_out.round(4).tolist(),
            "test": None if self.test is None else self.test.round(4).tolist(),
            "seconds": self.seconds,
        }


def frontier(
    data: Name,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    targets: Sequence[int] = TARGETS,
    run: RunOptions = DEFAULT_RUN,
    client: Client | None = None,
) -> Frontier:
    """Train a family of models and choose among them at every radius by held-out data.

    The family is presets ``"accurate"`` and ``"graded"``, and preset ``"target"`` at each target.
    The test split is read once, when all is trained and chosen, and by the chosen models only.

    Parameters
    ----------
    data
        Path of a dataset.
    out
        Folder to make: ``runs/`` with the models, ``frontier.csv``, ``frontier.json`` and
        ``frontier.png``.
    options
        Values of `TrainingOptions` for all runs, e.g. ``boxes``; radius and preset apart.
    targets
        Radii to aim at, each at least 1.
    run
        How to run. To resume is to add to what an earlier call made at `out`, with its runs.
    client
        A `distributed.Client` whose workers do the work, in place of one in `run`.

    Returns
    -------
    Frontier

    Raises
    ------
    OptionError
        A target or an option is out of range, nothing is held out, or `out` exists.
    BoxNNError
        Bad data, a run that diverged, or an output that cannot be written.
    """
    began, run = time.perf_counter(), run.using(client)
    get_backend(run.device if run.local else "cpu", run.threads)
    dataset = open_dataset(data)
    targets = [validation.integer("target", target, 1) for target in targets]
    given = {name: value for name, value in (options or {}).items() if value is not None}
    settings = _family(given, targets, dataset.kind)
    for split in ("train", "test"):
        if dataset.n_rows(split) == 0:
            raise DataError(f"the {split} split of {data} is empty; ingest one with samples")
    shared = list(settings.values())[-1]
    held_out_rows(dataset, shared)
    with open_run_folder(out, "frontier", "frontier.marker.json", _MARKER, _CONTENT, run) as folder:
        run = replace(run, overwrite=False, resume=True, log=None)
        result = _in_folder(folder, data, dataset, settings, targets, run)
        options = {name: value for name, value in shared.as_dict().items() if name in given}
        result |= {"options": options}
        write_json(folder / "frontier.json", result)
    return Frontier(str(folder), **result, seconds=time.perf_counter() - began)


def _in_folder(
    folder: Path,
    data: Name,
    dataset: Dataset,
    settings: Mapping[str, TrainingOptions],
    targets: Sequence[int],
    run: RunOptions,
) -> dict[str, Any]:
    """Train, choose and test; write table and picture, and return the rest of the result."""
    members = [_train(name, each, data, dataset, folder, run) for name, each in settings.items()]
    chosen = choose([member.held_out for member in members])
    radii = sorted({0, *targets})
    for place in sorted({int(place) for place in chosen[: radii[-1] + 1]}):
        members[place] = _test(members[place], data, run)
    result: dict[str, Any] = {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "training_rows": dataset.n_rows("train"),
        "test_rows": dataset.n_rows("test"),
        "rows": _rows(members, chosen, radii, dataset.name),
        "members": [member.as_dict(folder) for member in members],
    }
    write_csv(folder / "frontier.csv", result["rows"])
    title = f"{dataset.name}: test split, {dataset.n_rows('test'):,} samples"
    write_figure(folder / "frontier.png", _draw(members, chosen, radii[-1], dataset.name, title))
    return result


def choose(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Return which curve is highest at each radius, the first of equals; one that ends is at 0."""
    length = max(map(len, curves))
    return np.array([np.pad(curve, (0, length - len(curve))) for curve in curves]).argmax(axis=0)


def _family(
    given: Mapping[str, Any], targets: Sequence[int], kind: str
) -> dict[str, TrainingOptions]:
    """Return the options of each model by its name, which begins with the preset."""
    if not targets:
        raise OptionError("there are no targets; pass radii to aim at in `targets`")
    if "radius" in given:
        raise OptionError("the radii of a frontier are its targets; pass `targets`, not `radius`")
    # A warm-up comes before objective target only.
    clipped = {name: value for name, value in given.items() if name != "warmup"}
    return {
        **{preset: resolve(preset, clipped, kind) for preset in ("accurate", "graded")},
        **{f"target {r}": resolve("target", {**given, "radius": r}, kind) for r in targets},
    }


def _train(
    name: str,
    options: TrainingOptions,
    data: Name,
    dataset: Dataset,
    folder: Path,
    run: RunOptions,
) -> _Member:
    preset = name.split()[0]

    def work(kept: KeptRun) -> None:
        if kept.model.exists():
            return
        try:
            train(data, kept.model, options, preset=preset, run=run)
        except DivergenceError as error:
            what = str(error).split(";")[0]
            raise DivergenceError(
                f"{name}: {what}; lower `lr` (now {options.lr:g}) and pass `resume`"
            ) from error

    key = {"preset": preset, **options.as_dict(), "dataset_digest": dataset.digest}
    kept = kept_run(folder / "runs", name.replace(" ", "-"), key, work, run.progress)
    model = load_model(kept.model)
    seconds = sum(record["seconds"] for record in model.training["history"])
    return _Member(name, kept, certified_curve(held_out_outcome(model, dataset)), seconds)


def _test(member: _Member, data: Name, run: RunOptions) -> _Member:
    path = member.kept.certificate_path()
    if not path.exists():
        certify(member.kept.model, data, path, run=run)
    return replace(member, test=certified_curve(member.kept.certificate().outcome()))


def _rows(
    members: Sequence[_Member], chosen: np.ndarray, radii: Sequence[int], dataset_name: str
) -> list[dict[str, Any]]:
    published = published_rows(dataset_name)
    rows = []
    for radius in radii:
        best = max(
            ((row.percents[row.radii.index(radius)], row.method) for row in published
             if radius in row.radii), default=(None, None),
        )  # fmt: skip
        member = members[int(chosen[radius])] if radius < len(chosen) else None
        rows.append(
            {
                "radius": radius,
                "model": None if member is None else member.name,
                "held_out": 0.0 if member is None else round(_at(member.held_out, radius), 4),
                "test": 0.0 if member is None else round(_at(member.test, radius), 4),
                "published": best[0],
                "method": best[1],
            }
        )
    return rows


def _at(values: np.ndarray | None, radius: int) -> float:
    """Return a curve's value at a radius, 0 where it has ended or there is none."""
    return float(values[radius]) if values is not None and radius < len(values) else 0.0


def _draw(
    members: Sequence[_Member], chosen: np.ndarray, last: int, dataset_name: str, title: str
) -> Figure:
    """Draw the envelope, its models (thin), the baseline, and every published row (dotted)."""
    figure = new_figure(8.6, 4.8)
    axes = figure.subplots()
    look: dict[str, Any] = {"color": run_colour(0).light, "drawstyle": "steps-post"}
    for member in members:
        if member.test is not None:
            axes.plot(member.test[: last + 1], linewidth=0.7, alpha=0.5, zorder=3, **look)
    envelope = [_at(members[int(m)].test, r) for r, m in enumerate(chosen[: last + 1])]
    label = "chosen at each radius on held-out data"
    handles = list(axes.plot(envelope, linewidth=2.6, zorder=5, label=label, **look))
    file = next(m for m in members if m.test is not None).kept.certificate()
    run = Run("", *file.outcome(), file.classes)
    handles.append(draw_constant(axes, constant_of([run]), last))
    finish_curves(figure, handles, published_rows(dataset_name), last, title, file.unit)
    return figure


def frontier_text(found: Frontier) -> str:
    """Return the table for a terminal."""
    lines = ["radius   model        held out    test   published"]
    for row in found.rows:
        best = "" if row["published"] is None else f"{row['published']:>8.1f}  {row['method']}"
        lines.append(
            f"{row['radius']:>6}   {row['model'] or '-':<12}{row['held_out']:>9.1f}"
            f"{row['test']:>8.1f}{best:>4}"
        )
    return "\n".join(lines)
