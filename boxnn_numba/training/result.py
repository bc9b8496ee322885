"""Result of runs: the model of their best boxes, and what it achieves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from boxnn_numba._version import versions
from boxnn_numba.backends.box_layout import UNREACHABLE
from boxnn_numba.boxes import Boxes
from boxnn_numba.columns import Columns
from boxnn_numba.distances import laid_out
from boxnn_numba.grid import Grid
from boxnn_numba.model import BoxNN
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.run import Training
from boxnn_numba.training.selection import Validation, even_offsets, margin_offsets, sets_of

#: Between the seeds of members, so that models of seeds that follow each other share none.
_SEEDS_APART = 1_000_003
#: Training rows that even offsets and those for the mean margin are fitted to, the latter with at
#: most so many class distances, and how many codes of them are read at a time.
_EVEN_ROWS, _MARGIN_ROWS, _DISTANCES, _CODES = 4000, 16_000, 800_000, 2**24
#: Up to which part of the objective's bound margins count: those of other rows are smaller.
_OF_BOUND = 0.9


def members_of(options: TrainingOptions) -> list[TrainingOptions]:
    """Return the options of the runs whose boxes are added up: each has a seed of its own."""
    return [
        replace(options, seed=options.seed + number * _SEEDS_APART, members=options.levels)
        for number in range(options.members // options.levels)
    ]


def outcome_of(runs: Sequence[Training], model: BoxNN) -> Validation:
    """Return the figures of the model of finished runs on held-out samples.

    Classes without weight, which are not meant to be predicted, have no recall.
    """
    found = _held_out(runs, model)
    return found._replace(recall=np.where(runs[0].weighty, found.recall, np.nan))


def _held_out(runs: Sequence[Training], model: BoxNN) -> Validation:
    if len(runs) == 1 and runs[0].options.offsets == "none":
        return runs[0].outcome
    found = [run.held_out_distances() for run in runs]
    total = np.sum([distance for distance, _ in found], axis=0)
    total += model.offset - np.sum([run.offset for run in runs], axis=0)
    # Of classes without boxes they are no int32 any more.
    return runs[0].achieved(np.minimum(total, UNREACHABLE - 1), found[0][1], len(runs))


def trained_model(
    runs: Sequence[Training],
    classes: list[Any],
    grid: Grid | None,
    feature_shape: tuple[int, ...],
    provenance: dict[str, Any],
    columns: Columns | None = None,
    offsets: str | None = None,
) -> BoxNN:
    """Return the model of finished runs, of their best boxes: an ensemble where there are several.

    Classes, grid, feature_shape and columns are as for `BoxNN`; `provenance` is what else to record
    under ``training``. `offsets` are in place of those of the runs' options.
    """
    first = runs[0]
    sets = [
        Boxes(
            *bounds, run.labels, run.options.width, run.n_classes,
            template=run.template, part=run.part, group=run.group,
        )
        for run in runs
        for bounds in sets_of(run.best, run.options)
    ]  # fmt: skip
    settings = replace(first.options, members=len(sets), offsets=offsets or first.options.offsets)
    training = {
        **provenance,
        "options": settings.as_dict(),
        "seed": settings.seed,
        "best_epoch": first.best_epoch,
        "history": [record.as_dict() for record in first.history],
        "versions": versions("numpy", "numba"),
    }
    offset = np.sum([run.offset for run in runs], axis=0)
    if settings.offsets != "none":
        offset = offset + _fitted_offsets(first, sets, offset, settings.offsets)
    return BoxNN(
        sets[0], classes, grid, feature_shape, training=training, others=tuple(sets[1:]),
        offset=offset, columns=columns,
    )  # fmt: skip


def _fitted_offsets(
    run: Training, sets: Sequence[Boxes], offset: np.ndarray, how: str
) -> np.ndarray:
    """Return (K,) offsets that are fitted to training rows of a run, on top of `offset` (K,)."""
    most = _EVEN_ROWS if how == "fitted" else min(_MARGIN_ROWS, _DISTANCES // run.n_classes)
    rows = np.unique(np.linspace(0, run.n_rows - 1, most).astype(np.int64))
    total = np.empty((len(rows), run.n_classes), np.int64)
    labels, weights = np.empty(len(rows), np.int64), np.empty(len(rows))
    step = max(1, _CODES // sets[0].n_features)
    for at in range(0, len(rows), step):
        some = slice(at, at + step)
        codes, labels[some], weights[some] = run.training_rows(rows[some])
        found = np.empty((len(sets), len(codes), run.n_classes), np.int32)
        for boxes, distance in zip(sets, found, strict=True):
            # The layouts stay with the boxes, for what is asked of the model next.
            layout = laid_out(boxes, run.backend, "layout")
            run.backend.class_distance(codes, layout, boxes.width, distance)
        total[some] = found.sum(axis=0, dtype=np.int64) + offset
    width = run.options.width * len(sets)
    if how == "fitted":
        return even_offsets(total, labels, weights, width)
    bound = min(run.problem.objective.bound, sets[0].n_features)
    return margin_offsets(total, labels, weights, width, int(_OF_BOUND * bound * width))
