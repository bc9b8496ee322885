"""Fit: a model from arrays in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.columns import Columns, is_table
from boxnn_numba.errors import InputError
from boxnn_numba.grid import Grid, are_codes
from boxnn_numba.model import BoxNN
from boxnn_numba.training.augmentation import augmentation
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import data_kind, default_preset, resolve
from boxnn_numba.training.result import (
    members_of,
    outcome_of,
    trained_model,
    training_warnings,
)
from boxnn_numba.training.run import EpochRecord, Training
from boxnn_numba.training.search import search
from boxnn_numba.training.selection import validation_split
from boxnn_numba.training.weights import class_weight_text, row_weights


def fit(
    x: ArrayLike,
    y: ArrayLike,
    *,
    preset: str | None = None,
    device: str = "auto",
    sample_weight: ArrayLike | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    **options: Any,
) -> BoxNN:
    """Train a Box-NN on arrays in memory.

    Parameters
    ----------
    x
        (N, ...) samples. Images of uint8, and uint8 rows that span at least half of 0..255, are
        taken as codes; other numbers are binned by a `Grid`. Or a table, as a pandas or polars
        frame or a mapping of names to columns, with texts, dates and missing values.
    y
        (N,) labels, integers or strings.
    preset
        ``"auto"`` (options of a table by a search, see `boxnn_numba.training.search`; the default
        for tables), ``"graded"`` (good everywhere; the default for images), ``"accurate"`` (at
        small radii), ``"target"`` (best certified accuracy at ``radius``) or ``"paper"``.
    device
        As for `get_backend`: ``"cpu"``, ``"cuda"`` or ``"auto"``. The model is the same.
    sample_weight
        (N,) numbers >= 0: how much each sample counts.
    on_epoch
        Called with the figures of every epoch.
    **options
        Fields of `boxnn_numba.training.options.TrainingOptions`: ``boxes``, ``epochs``, ``width``,
        ``radius``, ``seed``, ... ``class_weight`` may be a dict of weights by label.

    Returns
    -------
    BoxNN
        With the boxes of the epoch that did best on the held-out part of the data.

    Raises
    ------
    InputError
        Shapes do not agree, features are infinite, or there is one class only.
    OptionError
        An option is unknown or out of range.
    DivergenceError
        Training diverged.

    Warns
    -----
    UserWarning
        The boxes hardly predict a class, which is named.

    Examples
    --------
    >>> import numpy as np
    >>> from boxnn_numba import fit
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["a", "b"], 200)
    >>> x = rng.normal(0, 1, (400, 30)) + 3 * (y == "b")[:, None]
    >>> model = fit(x, y, boxes=8, epochs=2)
    >>> prediction, radius = model.certify(x)
    >>> bool((prediction == y).mean() > 0.99), bool(np.median(radius) >= 5)
    (True, True)
    """
    columns = Columns.of(x) if is_table(x) else None
    x = np.asarray(x) if columns is None else columns.values(x)
    flat, shape, codes_given = validation.flat_rows("x", x), x.shape[1:], are_codes(x)
    if "class_weight" in options:
        options["class_weight"] = class_weight_text(options["class_weight"])
    kind = data_kind(shape, codes_given)
    preset = preset or default_preset(kind)
    settings = resolve(preset, options, kind)
    classes, index = np.unique(validation.labels("y", y, len(flat)), return_inverse=True)
    if len(classes) < 2:
        raise InputError("y holds one class; a classifier needs at least two")
    names = classes.tolist()
    weights = row_weights(index, names, settings.class_weight, sample_weight)
    rows, held_out = validation_split(index, settings.validation, settings.seed)
    grid = None
    if not codes_given:
        gaps = columns is not None or (flat.dtype.kind == "f" and bool(np.isnan(flat).any()))
        grid = Grid.fit(flat[rows], columns=columns, y=index[rows], missing=gaps)
    codes = validation.codes("x", flat) if grid is None else grid.encode(flat)
    backend = get_backend(device)
    feed = Feed.from_arrays(
        codes[rows],
        index[rows],
        (codes[held_out], index[held_out]),
        settings.seed,
        augmentation(shape, grid, settings, backend.threads),
        None if weights is None else weights[rows],
    )
    if preset == "auto":
        given = {name: value for name, value in options.items() if value is not None}
        settings, _ = search(feed, len(classes), given, threads=backend.threads)
    runs = []
    for member in members_of(settings):
        of_member = replace(feed, seed=member.seed)
        runs.append(
            Training(
                member, of_member, len(classes), backend, feature_shape=shape, codes=grid is None
            )
        )
        while runs[-1].epoch < member.epochs:
            record = runs[-1].run_epoch()
            if on_epoch is not None:
                on_epoch(record)
    for text in training_warnings(outcome_of(runs), names):
        warnings.warn(text, stacklevel=2)
    return trained_model(runs, names, grid, shape, {"preset": preset}, columns)
