"""Train the base classifiers of a published defence, or stumps, on a dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba._version import versions
from boxnn_numba.baselines.model import METHODS, BaselineModel
from boxnn_numba.baselines.partition import make_partition
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.checkpoint import Checkpoint
from boxnn_numba.data.dataset import Dataset
from boxnn_numba.data.model_store import write_model
from boxnn_numba.data.paths import Name
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.pipelines.cluster.executor import keep_on_interrupt
from boxnn_numba.pipelines.running import DEFAULT_RUN, Result, RunOptions
from boxnn_numba.pipelines.training.dataset_loader import (
    dataset_feed,
    dataset_provenance,
    training_dataset,
)
from boxnn_numba.progress import Progress
from boxnn_numba.training.options import TrainingOptions
from boxnn_numba.training.parts import groups_of

#: Bases of FPA; trees that each part has unless it is said; what trees and stumps may choose.
FPA_BASES = ("mlp", "trees")
TREES = 50
#: Network of RA unless it is said.
NETWORK = "published"
STUMPS = ("rounds", "clip", "sampled")
CHOSEN = ("parts", *STUMPS)
#: Trains on codes (N, n) and class indices (N,), with `progress` and `checkpoint`; returns a
#: network.
Fit = Callable[..., Any]


@dataclass(frozen=True)
class TrainedBaseline(Result):
    """A trained baseline.

    Attributes
    ----------
    model, method
        Where it is, and ``"ra"``, ``"fpa"`` or ``"stumps"``.
    settings
        ``retained``, or ``parts`` and ``partition``, or ``rounds``, ``clip`` and
        ``sampled``.
    seed
        Of the training.
    validation_accuracy
        Of single evaluations on the validation split, in percent; None without one.
    multiply_adds
        Of one evaluation.
    seconds
        That the training took, over all runs.
    """

    model: str
    method: str
    settings: dict[str, Any]
    seed: int
    validation_accuracy: float | None
    multiply_adds: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, the settings beside the rest."""
        values = super().as_dict()
        settings = values.pop("settings")
        return {"model": values.pop("model"), "method": values.pop("method"), **settings, **values}


def train_baseline(
    data: Name,
    out: Name,
    *,
    method: str,
    retained: int | None = None,
    parts: int | None = None,
    partition: str = "strided",
    base: str | None = None,
    network: str | None = None,
    precision: str | None = None,
    group_size: int | None = None,
    trees: int | None = None,
    rounds: int | None = None,
    clip: float | None = None,
    sampled: float | None = None,
    epochs: int | None = None,
    seed: int = 0,
    run: RunOptions = DEFAULT_RUN,
) -> TrainedBaseline:
    """Train the base classifiers of RA or FPA, or stumps, on the training split of a dataset.

    Parameters
    ----------
    data
        A dataset made by ``boxnn data ingest``, or its URL. Its test split is not read.
    out
        Where they go: a directory, or one file if it ends in ``.zip``; or its URL.
    method
        ``"ra"``, ``"fpa"`` or ``"stumps"``.
    retained
        For RA, how many features k, or groups of them, a sample keeps.
    parts, partition
        For FPA, the number of submodels T and how the features are divided among them, as
        for `boxnn_numba.baselines.partition.make_partition`. With trees, `parts` is chosen on
        held-out rows if None.
    base
        For RA, ``"cnn"`` (the default for images) or ``"mlp"``; FPA has ``"mlp"`` and ``"trees"``.
    network
        For RA with a cnn, ``"published"`` or ``"small"``, as for
        `boxnn_numba.baselines.base_classifiers.train_masked`.
    precision
        For RA, ``"float32"`` (the default) or ``"bfloat16"``, as there.
    group_size
        For RA and FPA, features that follow each other and count as one; 0, as None, for the
        channels of a pixel in images, else 1.
    trees
        For FPA with trees, how many each part has; 50 if None.
    rounds, clip, sampled
        For stumps, as for `boxnn_numba.baselines.stumps.train_stumps`.
    epochs
        Most passes of networks over the training data; their own default if None.
    seed
        Of the weights, the order of samples, what is retained and a random partition.
    run
        How to run; threads are torch's on a CPU, or scikit-learn's. A run of networks that was
        stopped is resumed from the last epoch that it finished, to the same bits.

    Returns
    -------
    TrainedBaseline

    Raises
    ------
    BoxNNError
        Bad data or options, no torch, a diverged run, or an output that cannot be written.
    """
    validation.choice("method", method, METHODS)
    sizes = {
        "retained": retained, "parts": parts, "base": base, "network": network,
        "precision": precision, "group_size": group_size, "trees": trees, "rounds": rounds,
        "clip": clip, "sampled": sampled, "epochs": epochs,
    }  # fmt: skip
    given = {name: value for name, value in sizes.items() if value is not None}
    _check_given(method, given)
    in_arrays = method == "stumps" or base == "trees"
    device = "cpu" if in_arrays else _torch_device(run.device)
    dataset = training_dataset(data)
    _check_labels(dataset, data)
    common: dict[str, Any] = {"seed": validation.integer("seed", seed, low=0), "device": device}
    if run.threads is not None:
        common["threads"] = validation.positive("threads", run.threads)
    fit_kind = _table_fit if in_arrays else _network_fit
    settings, fit = fit_kind(dataset, method, given, partition, common)
    name = "model.zip" if str(out).endswith(".zip") else "model"
    with staged_output(out, **run.writing, resumable=True, result=name, inputs=[data]) as partial:
        about = {"method": method, **settings, "device": device, "dataset digest": dataset.digest}
        checkpoint = Checkpoint(partial, about)
        x, y, grid = _codes(dataset, seed)
        with keep_on_interrupt(lambda: checkpoint.state.get("ran", 0), "the epochs", partial):
            trained = fit(x, y, progress=run.progress, checkpoint=checkpoint)
        seconds = checkpoint.seconds
        settings |= {key: trained.settings[key] for key in CHOSEN if key in trained.settings}
        provenance = {"seed": seed, "device": device, "seconds": seconds}
        model = _trained(method, settings, trained, dataset, grid, provenance)
        write_model(model, partial / name, single=name == "model.zip")
    accuracy = trained.settings.get("validation_accuracy")
    return TrainedBaseline(
        str(out),
        method,
        settings,
        seed,
        None if accuracy is None else round(100 * accuracy, 4),
        trained.multiply_adds(),
        seconds,
    )


def _check_given(method: str, given: Mapping[str, Any]) -> None:
    """Raise for an option of another method, or without the one that a method needs."""
    trees = given.get("base") == "trees"
    takes = {
        "ra": {"retained", "base", "network", "precision", "group_size", "epochs"},
        "fpa": {"parts", "base", "group_size", "trees" if trees else "epochs"},
        "stumps": {"rounds", "clip", "sampled"},
    }[method]
    for name in given.keys() - takes:
        raise OptionError(
            f"`{name}` is for another defence or base; leave it out, {METHODS[method]} here takes "
            f"{', '.join(f'`{item}`' for item in sorted(takes))}"
        )
    size = {"ra": "retained", "fpa": "parts"}.get(method)
    if size is not None and size not in given and not trees:
        raise OptionError(f"`{size}` is missing; pass how many features or parts there are")


def _torch_device(device: str) -> str:
    from boxnn_numba.baselines.torch_networks import load_torch, usable_device

    load_torch()
    return usable_device(device)


def _trained(
    method: str,
    settings: dict[str, Any],
    network: Any,
    dataset: Dataset,
    grid: Grid | None,
    provenance: dict[str, Any],
) -> BaselineModel:
    """Return a network as what is stored of it."""
    return BaselineModel(
        method,
        {**settings, "base": network.settings},
        list(dataset.classes),
        dataset.feature_shape,
        network.arrays(),
        grid,
        {
            **dataset_provenance(dataset),
            **({} if dataset.columns is None else {"columns": dataset.columns.as_list()}),
            **provenance,
            "versions": versions("numpy", "numba"),
        },
    )


def _network_fit(
    dataset: Dataset,
    method: str,
    given: Mapping[str, Any],
    partition: str,
    common: Mapping[str, Any],
) -> tuple[dict[str, Any], Fit]:
    """Return the settings of a defence and what fits its networks, after checking both."""
    from boxnn_numba.baselines import base_classifiers

    size = "retained" if method == "ra" else "parts"
    shape, base, group_size = dataset.feature_shape, given.get("base"), _group_size(dataset, given)
    count = validation.integer(size, given[size], low=1, high=dataset.n_features // group_size)
    options = {"n_classes": len(dataset.classes), "feature_shape": shape, **common}
    options["group_size"] = group_size
    if "epochs" in given:
        options["epochs"] = validation.positive("epochs", given["epochs"])
    if method == "fpa":
        part = make_partition(
            partition, dataset.n_features, count, common["seed"], shape, group_size
        )
        validation.choice("base", base or "mlp", FPA_BASES)
        fit: Fit = functools.partial(base_classifiers.train_submodels, part=part, **options)
        return {size: count, "partition": partition}, fit
    base = base or ("cnn" if base_classifiers.is_image(shape) else "mlp")
    settings: dict[str, Any] = {size: count}
    if "precision" in given:
        settings["precision"] = validation.choice(
            "precision", given["precision"], base_classifiers.PRECISIONS
        )
    if validation.choice("base", base, base_classifiers.BASES) == "cnn":
        base_classifiers.image_shape(shape)
        settings["network"] = validation.choice(
            "network", given.get("network", NETWORK), base_classifiers.NETWORKS
        )
    elif "network" in given:
        raise OptionError("`network` is of the base cnn, for images; leave it out for mlp")
    fit = functools.partial(base_classifiers.train_masked, base=base, **settings, **options)
    return settings, fit


def _table_fit(
    dataset: Dataset,
    method: str,
    given: Mapping[str, Any],
    partition: str,
    common: Mapping[str, Any],
) -> tuple[dict[str, Any], Fit]:
    """Return the settings of stumps, or of a partition with trees, and what fits them."""
    n, shape = dataset.n_features, dataset.feature_shape
    group_size = 1 if method == "stumps" else _group_size(dataset, given)
    options = {"n_classes": len(dataset.classes), "seed": common["seed"]}
    if method == "fpa":
        if "parts" in given:
            make_partition(partition, n, given["parts"], common["seed"], shape, group_size)
        options |= {"feature_shape": shape, "trees": given.get("trees", TREES)}
        options["group_size"] = group_size
        options |= {"parts": given.get("parts"), "partition": partition}
    else:
        options |= {name: given[name] for name in STUMPS if name in given}

    def fit(x: np.ndarray, y: np.ndarray, progress: Progress, checkpoint: Checkpoint) -> Any:
        from threadpoolctl import threadpool_limits

        from boxnn_numba.baselines import stumps, trees

        train = trees.train_partition if method == "fpa" else stumps.train_stumps
        with threadpool_limits(common.get("threads")):
            return train(x, y, progress=progress, **options)

    return ({"partition": partition} if method == "fpa" else {}), fit


def _group_size(dataset: Dataset, given: Mapping[str, Any]) -> int:
    """Return how many features count as one, as for the training of boxes."""
    options = TrainingOptions(group_size=given.get("group_size", 0))
    group = groups_of(options, dataset.feature_shape, dataset.is_codes)
    return dataset.n_features // (int(group.max()) + 1)


def _check_labels(dataset: Dataset, data: Name) -> None:
    counts = np.bincount(dataset.read_labels("train"), minlength=len(dataset.classes))
    if not counts.all():
        raise DataError(
            f"{data} has no training sample of class {dataset.classes[int(counts.argmin())]}; "
            "ingest it again with one, or without the class"
        )


def _codes(dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray, Grid | None]:
    """Return all training samples as codes (N, n), their class indices, and the grid if any."""
    feed, grid = dataset_feed(dataset, TrainingOptions(validation=0.0, seed=seed))
    return feed.take(np.arange(len(feed))), feed.labels, grid
