"""Base classifiers of the published defences: torch networks and any scikit-learn classifier.

`boxnn_numba.baselines.ablation.MaskedClassifier` is the protocol for randomized ablation, and
`boxnn_numba.baselines.partition.Submodels` that for feature partition. The networks need torch
(extra `baselines`). Each submodel of a partition is a separate network with inputs for its own
features only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation as check
from boxnn_numba.baselines.ablation import draws
from boxnn_numba.baselines.base_networks import MaskedNetwork, SubmodelNetworks, as_input
from boxnn_numba.baselines.encodings import PartColumns, masked_pairs, training_data
from boxnn_numba.baselines.scikit_classifiers import ScikitMasked, ScikitSubmodels
from boxnn_numba.baselines.torch_networks import (
    NETWORKS,
    PRECISIONS,
    Layer,
    cnn_layers,
    mlp_layers,
    submodel_layers,
    torch_threads,
    usable_device,
)
from boxnn_numba.baselines.torch_training import (
    Checkpoint,
    Moment,
    Recipe,
    TrainingNetwork,
    fit_network,
)
from boxnn_numba.errors import OptionError
from boxnn_numba.progress import SILENT, Progress

__all__ = [
    "BASES",
    "MaskedNetwork",
    "ScikitMasked",
    "ScikitSubmodels",
    "SubmodelNetworks",
    "train_masked",
    "train_submodels",
]

BASES = ("cnn", "mlp")

#: Passes over the data: those of the large network take six times as long.
_EPOCHS_PUBLISHED, _EPOCHS = 30, 60
#: Training retains more features at first, 4 k, falling to k after this part of it: shapes are
#: learnt sooner from more pixels (measured with k = 20 on MNIST, 16 epochs: 53.4% of single
#: validation samples right, 52.2% without).
_EASE, _EASY_PART = 4, 0.6


def train_masked(
    x: ArrayLike,
    y: ArrayLike,
    *,
    n_classes: int,
    retained: int,
    feature_shape: Sequence[int] | None = None,
    group_size: int = 1,
    base: str = "cnn",
    network: str | None = None,
    precision: str = "float32",
    epochs: int | None = None,
    batch: int = 256,
    lr: float = 8e-3,
    validation: float = 0.1,
    patience: int = 10,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress = SILENT,
    checkpoint: Checkpoint | None = None,
) -> MaskedNetwork:
    """Train a network on samples that keep only `retained` random features, drawn anew each time.

    In the first 60% of training more features are kept, see `eased`.

    Parameters
    ----------
    x
        (N, n) codes.
    y
        (N,) class indices 0..K-1; each class must occur.
    n_classes
        Number of classes K.
    retained
        Number k of features, or groups of them, that remain of each sample, at least 1.
    feature_shape
        (height, width) or (height, width, channels), for ``"cnn"``.
    group_size
        Number of consecutive features that are retained together, such as the channels of a pixel.
    base
        ``"cnn"``, or ``"mlp"`` for samples that are not images.
    network
        Network of a cnn: ``"published"`` (the default), that of Levine and Feizi, or ``"small"``,
        with a sixth of its multiply-adds for MNIST.
    precision
        ``"float32"``, or ``"bfloat16"``, which processors with such instructions compute two to
        four times as fast. Training and certification use the same precision.
    epochs, batch, lr
        Most passes over the training rows (by default 30 with the published network and 60 with
        others), samples of a step, largest step size.
    validation
        Fraction of held-out rows. The epoch with the highest accuracy on these rows, each with a
        fixed mask of k features, is kept; with 0 the last epoch.
    patience
        Number of epochs without improvement after which training stops.
    seed
        Seed of the split, the first weights, the order of samples and the masks. The same seed,
        device and number of threads give the same weights.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    threads
        Threads for torch on a CPU; all that this process may use by default.
    progress
        Told how far training is.
    checkpoint
        Where the state is saved after each epoch, so that interrupted training continues with the
        same bits.

    Returns
    -------
    MaskedNetwork

    Raises
    ------
    InputError
        `x` or `y` cannot be used, or a class has no sample.
    OptionError
        An option is out of range, or `feature_shape` is no image.
    BackendError
        torch or the device is missing.
    DivergenceError
        The loss is not finite.

    Notes
    -----
    Levine and Feizi (2020), Section 4.
    """
    codes, classes = training_data(x, y, n_classes)
    n_features = codes.shape[1]
    groups = check.group_count(group_size, n_features)
    retained = check.integer("retained", retained, low=1, high=groups)
    shape = _shape(feature_shape, n_features)
    if check.choice("base", base, BASES) == "cnn":
        network = check.choice("network", network or NETWORKS[0], NETWORKS)
        height, width, channels = image_shape(shape)
        layers = cnn_layers(network, height, width, 2 * channels, n_classes)
    elif network is not None:
        raise OptionError("`network` is of the base cnn; leave it out for mlp")
    else:
        layers = mlp_layers(2 * n_features, n_classes)
    default = _EPOCHS_PUBLISHED if network == NETWORKS[0] else _EPOCHS
    recipe = Recipe(default if epochs is None else epochs, batch, lr, validation, patience, seed)
    settings = {
        **_settings(MaskedNetwork.kind, base, shape, n_classes, layers),
        "group_size": group_size,
        "precision": check.choice("precision", precision, PRECISIONS),
        **({} if network is None else {"network": network}),
        "retained": retained,
    }

    def pairs(batch: np.ndarray, moment: Moment) -> np.ndarray:
        k = eased(retained, groups, moment.done)
        kept = draws(groups, k, len(batch), recipe.seed, moment.number, moment.stream)
        return masked_pairs(batch, np.concatenate(list(kept)).repeat(group_size, axis=1))

    arrays, outcome = _train(
        settings, layers, (codes, classes), pairs, recipe, device, threads, progress, checkpoint
    )
    return MaskedNetwork(arrays, settings | outcome, device, threads)


def eased(retained: int, n_features: int, done: float) -> int:
    """Return how many features training retains when a part `done` of it is over.

    Examples
    --------
    >>> [eased(20, 784, done) for done in (0, 0.3, 0.6, 1)]
    [80, 50, 20, 20]
    """
    extra = (_EASE - 1) * max(0.0, 1 - done / _EASY_PART)
    return min(n_features, round(retained * (1 + extra)))


def train_submodels(
    x: ArrayLike,
    y: ArrayLike,
    part: ArrayLike,
    *,
    n_classes: int,
    feature_shape: Sequence[int] | None = None,
    group_size: int = 1,
    epochs: int = 16,
    batch: int = 256,
    lr: float = 4e-3,
    validation: float = 0.1,
    patience: int = 10,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress = SILENT,
    checkpoint: Checkpoint | None = None,
) -> SubmodelNetworks:
    """Train one network for each part of the features, all at once.

    Parameters
    ----------
    x, y, n_classes
        As for `train_masked`.
    part
        (n,) integers, the part 0..T-1 of each feature (`partition.make_partition`).
    feature_shape
        Shape of a sample, kept with the networks.
    group_size
        Features that follow each other and are in one part, such as a pixel's channels.
    epochs, batch, lr, validation, patience, seed, device, threads, progress, checkpoint
        As for `train_masked`; the epoch kept is the one with the highest mean accuracy of the
        submodels.

    Returns
    -------
    SubmodelNetworks

    Raises
    ------
    InputError, OptionError, BackendError, DivergenceError
        As for `train_masked`, or `part` is no partition.

    Notes
    -----
    Hammoudeh and Lowd (2023), Section 4. Their code gives every part of MNIST a convolutional
    network of about 170 million multiply-adds on the whole masked image; these are perceptrons on
    the part's own features.
    """
    codes, classes = training_data(x, y, n_classes)
    n_features = codes.shape[1]
    parts = check.partition("part", part, n_features, group_size)
    recipe = Recipe(epochs, batch, lr, validation, patience, seed)
    columns = PartColumns(parts)
    models, longest = columns.index.shape
    layers = submodel_layers(models, 2 * longest, n_classes)
    shape = _shape(feature_shape, n_features)
    settings = {
        **_settings(SubmodelNetworks.kind, "mlp", shape, n_classes, layers),
        "group_size": group_size,
    }

    def pairs(batch: np.ndarray, moment: Moment) -> np.ndarray:
        return columns.pairs(batch)

    arrays, outcome = _train(
        settings, layers, (codes, classes), pairs, recipe, device, threads, progress, checkpoint
    )
    return SubmodelNetworks(arrays | {"part": parts}, settings | outcome, device, threads)


def _train(
    settings: Mapping[str, Any],
    layers: Sequence[Layer],
    data: tuple[np.ndarray, np.ndarray],
    pairs: Callable[[np.ndarray, Moment], np.ndarray],
    recipe: Recipe,
    device: str,
    threads: int | None,
    progress: Progress,
    checkpoint: Checkpoint | None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return weights and how it went; `pairs` turns codes into what the network sees of them."""
    device = usable_device(device)

    def inputs(codes: np.ndarray, moment: Moment) -> Any:
        return as_input(pairs(codes, moment), layers, settings, device)

    with torch_threads(threads):
        precision = settings.get("precision", PRECISIONS[0])
        network = TrainingNetwork(layers, device, recipe.seed, precision)
        return fit_network(network, *data, inputs, recipe, progress, checkpoint)


def _settings(
    kind: str, base: str, shape: tuple[int, ...], n_classes: int, layers: Sequence[Layer]
) -> dict[str, Any]:
    return {
        "kind": kind,
        "base": base,
        "n_features": math.prod(shape),
        "n_classes": n_classes,
        "feature_shape": list(shape),
        "layers": [asdict(layer) for layer in layers],
    }


def _shape(feature_shape: Sequence[int] | None, n_features: int) -> tuple[int, ...]:
    return check.sample_shape((n_features,) if feature_shape is None else feature_shape, n_features)


def is_image(shape: Sequence[int]) -> bool:
    """Return whether samples of a shape are images large enough for a cnn."""
    return len(shape) in (2, 3) and min(shape[:2]) >= 4


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return height, width and channels of images.

    Raises
    ------
    OptionError
        They are none, or too small for a cnn.
    """
    if not is_image(shape):
        raise OptionError(
            f"a cnn takes images of at least 4 x 4, not samples of shape {tuple(shape)}; pass the "
            "`feature_shape` of images, or mlp as `base`"
        )
    return shape[0], shape[1], (*shape, 1)[2]
