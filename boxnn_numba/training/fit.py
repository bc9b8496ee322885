"""Fit: train a model on arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike

from boxnn_numba.backends.devices import get_backend
from boxnn_numba.columns import category_places
from boxnn_numba.errors import DivergenceError
from boxnn_numba.model import BoxNN
from boxnn_numba.training.data import Arrays
from boxnn_numba.training.options import default_preset, resolve
from boxnn_numba.training.result import members_of, outcome_of, trained_model
from boxnn_numba.training.run import EpochRecord, Training, run_epochs
from boxnn_numba.training.search import check_radii, search, training_warnings
from boxnn_numba.training.weights import class_weight_text


def fit(
    x: ArrayLike,
    y: ArrayLike,
    *,
    preset: str | None = None,
    effort: float = 1.0,
    radii: Sequence[int] | None = None,
    device: str = "auto",
    sample_weight: ArrayLike | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    **options: Any,
) -> BoxNN:
    """Train a Box-NN on arrays.

    Parameters
    ----------
    x
        (N, ...) samples. Images of uint8, and uint8 rows that span at least half of 0..255, are
        taken as codes; other numbers are binned by a `Grid`. A table may be a pandas or polars
        frame or a mapping of names to columns, with texts, dates and missing values. Data that are
        not in memory (an array or frame of Dask, a memory map, a Zarr array, or an xarray array
        over one of these) are read block by block into a temporary file of codes; the model is the
        same.
    y
        (N,) labels, integers or strings.
    preset
        ``"auto"`` (options of a table by a search, see `boxnn_numba.training.search`; the default
        for tables), ``"graded"`` (good everywhere; the default for images), ``"accurate"`` (at
        small radii), ``"target"`` (best certified accuracy at ``radius``) or ``"paper"``.
    effort
        Factor of the training steps of the search, and so of its time; for preset ``"auto"``.
    radii
        Radii that matter to you, such as ``(1, 2, 4)``; for preset ``"auto"``, which then chooses
        by the mean certified accuracy at these radii, whatever the accuracy at radius 0.
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
        An option is unknown or out of range, or `radii` are given with another preset than
        ``"auto"``.
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
    if "class_weight" in options:
        options["class_weight"] = class_weight_text(options["class_weight"])
    resolve(preset or "graded", options)  # errors of options come before those of data
    check_radii(preset or "auto", radii)
    backend = get_backend(device)
    with Arrays(x, y).opened() as data:
        preset = preset or default_preset(data.kind)
        check_radii(preset, radii, data.rows.n_features)
        settings = resolve(preset, options, data.kind)
        feed, grid = data.feed(settings, threads=backend.threads, sample_weight=sample_weight)
        trial = None
        if preset == "auto":
            given = {name: value for name, value in options.items() if value is not None}
            settings, trial = search(
                feed, len(data.classes), given, effort=effort, radii=radii,
                categories=category_places(data.columns), threads=backend.threads,
            )  # fmt: skip
        runs = [
            Training(
                member, replace(feed, seed=member.seed), len(data.classes), backend,
                feature_shape=data.feature_shape, codes=grid is None,
            )
            for member in members_of(settings)
        ]  # fmt: skip
        for _, record in run_epochs(runs, backend.threads):
            if isinstance(record, DivergenceError):
                raise record
            if on_epoch is not None:
                on_epoch(record)
        model = trained_model(
            runs, data.classes, grid, data.feature_shape, {"preset": preset}, data.columns
        )
        for text in training_warnings(outcome_of(runs, model), data.classes, trial):
            warnings.warn(text, stacklevel=2)
        return model
