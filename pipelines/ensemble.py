"""Ensembles: one model whose class distances are the sums of those of several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.columns import MISSING
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.model_store import load_model, model_digest, write_model
from boxnn_numba.data.paths import Name
from boxnn_numba.data.zarr_format import array_digest
from boxnn_numba.errors import BoxNNError, OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.model import BoxNN
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions

#: Arrays that tell sets of boxes apart.
_CONTENT = ("lower", "upper", "labels", "template", "part")


@dataclass(frozen=True)
class Ensemble(Result):
    """The file of an ensemble, and its numbers of members and boxes."""

    model: str
    members: int
    boxes: int


def ensemble(models: Sequence[Name], out: Name, *, run: RunOptions = DEFAULT_RUN) -> Ensemble:
    """Write an ensemble of models.

    Parameters
    ----------
    models
        Paths of two or more models with the same classes, features, groups and width; templates and
        parts may differ. The sets of boxes of an ensemble become members of the new one. Settings
        for reading tables are kept if all members agree.
    out
        Where the model goes.
    run
        Whether to replace what is at `out`.

    Returns
    -------
    Ensemble

    Raises
    ------
    OptionError
        There are fewer than two models, one occurs twice, or they do not fit each other.
    ModelFileError
        A model is missing or damaged.
    OutputError
        `out` cannot be written.
    """
    models = validation.several("models", models)
    if len(models) < 2:
        raise OptionError("an ensemble needs two models or more; pass their paths")
    parts = [load_model(path) for path in models]
    seen: list[set[tuple[str, ...]]] = []
    for path, part in zip(models, parts, strict=True):
        _check_fit(models[0], parts[0], path, part)
        # Level sets of additive boxes may be alike within a model.
        own = {
            tuple(array_digest(getattr(boxes, name)) for name in _CONTENT)
            for boxes in part.box_sets
        }
        if any(own <= other or other <= own for other in seen):
            raise OptionError(f"{path} has the boxes of a model before it; pass each once")
        seen.append(own)
    sets = [boxes for part in parts for boxes in part.box_sets]
    members = [{"digest": model_digest(part), **part.training} for part in parts]
    first, others = parts[0], tuple(sets[1:])
    offset = np.sum([part.offset for part in parts], axis=0)
    table = _table(parts)
    training = {"members": members, **({"table": table} if table else {})}
    model = replace(first, training=training, others=others, offset=offset)
    single = str(out).endswith(".zip")
    with staged_output(
        out, overwrite=run.overwrite, no_lock=run.no_lock, directory=not single, inputs=list(models)
    ) as partial:
        write_model(model, partial, single)
    return Ensemble(str(out), len(sets), sum(map(len, sets)))


def _check_fit(first_path: Name, first: BoxNN, path: Name, other: BoxNN) -> None:
    for noun, mine, yours in (
        ("classes", first.classes, other.classes),
        ("shape of samples", first.feature_shape, other.feature_shape),
        ("width", first.boxes.width, other.boxes.width),
        ("group size", first.group_size, other.group_size),
        ("set of columns", first.columns, other.columns),
        ("set of texts of missing cells", _own_missing(first), _own_missing(other)),
    ):
        if mine != yours:
            raise OptionError(
                f"{first_path} and {path} have another {noun} ({mine} and {yours}); train them "
                "with the same options and data"
            )
    if not _same_grid(first.grid, other.grid):
        raise OptionError(
            f"{first_path} and {path} bin features differently; train them on the same data with "
            "`validation` 0 (rows that are held out depend on the seed), or ingest codes"
        )
    try:
        BoxNN(first.boxes, first.classes, others=other.box_sets)
    except BoxNNError as error:
        raise OptionError(f"{first_path} and {path}: {error}") from error


def _own_missing(model: BoxNN) -> list[str]:
    return sorted(model.missing_texts.difference(MISSING))


def _table(members: Sequence[BoxNN]) -> dict[str, Any]:
    """Return how tables are read for an ensemble: as for all its members, where these agree.

    Texts of missing cells have been compared.
    """
    first = members[0].table
    return {
        role: value
        for role, value in first.items()
        if role == "missing" or all(value == member.table.get(role) for member in members)
    }


def _same_grid(first: Grid | None, other: Grid | None) -> bool:
    if first is None or other is None:
        return first is other
    return all(
        np.array_equal(getattr(first, name), getattr(other, name))
        for name in ("counts", "edges", "codes", "missing")
    )
