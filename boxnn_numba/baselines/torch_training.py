"""The loop that trains base classifiers in torch.

A network trains with batch normalisation, which is folded into its weights at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from boxnn_numba import validation
from boxnn_numba.baselines.torch_networks import PRECISIONS, Layer, apply_layers, load_torch
from boxnn_numba.errors import DivergenceError
from boxnn_numba.progress import Progress
from boxnn_numba.training.selection import validation_split

#: Streams of `ablation.draws` (certificates use 0 and 1).
_TRAINING_STREAM, _VALIDATION_STREAM = 2, 3
#: Variance below which batch normalisation does not magnify, and its memory of earlier batches.
_EPSILON, _MOMENTUM = 1e-5, 0.1
_WEIGHT_DECAY = 0.01
#: Part of the steps in which the learning rate rises.
_WARM_UP = 0.05
#: Validation samples at a time.
_BATCH = 1024
#: What AdamW remembers of each weight.
_MOMENTS = ("exp_avg", "exp_avg_sq")
#: Beginning of the names of the best epoch's weights in a checkpoint.
_BEST = "best/"


@dataclass(frozen=True)
class Recipe:
    """How a network trains; checked when it is made.

    Raises
    ------
    OptionError
        A value is outside its range.
    """

    epochs: int
    batch: int
    lr: float
    validation: float
    patience: int
    seed: int

    def __post_init__(self) -> None:
        validation.positive("epochs", self.epochs)
        validation.integer("batch", self.batch, low=2)
        validation.real("lr", self.lr, low=0, high=1e4, open_low=True)
        validation.real("validation", self.validation, low=0, high=0.9)
        validation.positive("patience", self.patience)
        validation.integer("seed", self.seed, low=0)


@dataclass(frozen=True)
class Moment:
    """What inputs are drawn for.

    Attributes
    ----------
    stream, number
        Stream of random numbers, and the batch's number in it.
    done
        Part of the training that is over, 0..1; 1 for validation.
    """

    stream: int
    number: int
    done: float


class Checkpoint(Protocol):
    """Keeps the state of a training run from one epoch to the next, and from one run to another."""

    def restore(self, about: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], Any] | None:
        """Return what an earlier run saved, if one did; raise unless it was `about` the same."""

    def save(self, arrays: Mapping[str, np.ndarray], state: dict[str, Any]) -> None:
        """Replace what was saved before by arrays and JSON values."""


class TrainingNetwork:
    """Layers with weights that train, and batch normalisation behind every layer but the last."""

    def __init__(
        self, layers: Sequence[Layer], device: str, seed: int, precision: str = "float32"
    ) -> None:
        torch = load_torch()
        rng = np.random.default_rng([seed, 2])
        self.layers = tuple(layers)
        self.device, self.precision = device, precision
        self.training = True
        self.weights: dict[str, Any] = {}
        self.statistics: dict[str, Any] = {}
        for index, layer in enumerate(self.layers):
            inputs = math.prod(layer.shape) // (layer.outputs * layer.models)
            spread = math.sqrt(2 / inputs)
            weight = torch.from_numpy(rng.normal(0, spread, layer.shape).astype(np.float32))
            if layer.kind == "conv":
                weight = weight.contiguous(memory_format=torch.channels_last)
            self.weights[f"{index}.weight"] = weight
            if index + 1 == len(self.layers):
                self.weights[f"{index}.bias"] = torch.zeros(layer.bias_shape)
                continue
            neurons = layer.outputs * layer.models
            self.weights[f"{index}.scale"] = torch.ones(neurons)
            self.weights[f"{index}.shift"] = torch.zeros(neurons)
            self.statistics[f"{index}.mean"] = torch.zeros(neurons, device=device)
            self.statistics[f"{index}.variance"] = torch.ones(neurons, device=device)
        for key, value in self.weights.items():
            self.weights[key] = value.to(device).requires_grad_()

    def __call__(self, x: Any) -> Any:
        """Return the scores of a batch, float32."""
        torch = load_torch()
        dtype = getattr(torch, self.precision)
        mixed = dtype is not torch.float32
        with torch.autocast(self.device, dtype if mixed else None, enabled=mixed):
            return apply_layers(self.layers, self.weights, x, self._normalise).float()

    def _normalise(self, index: int, x: Any) -> Any:
        mean, variance = (self.statistics[f"{index}.{name}"] for name in ("mean", "variance"))
        scale, shift = (self.weights[f"{index}.{name}"] for name in ("scale", "shift"))
        flat = x.transpose(0, 1).flatten(1) if self.layers[index].kind == "batched" else x
        flat = load_torch().nn.functional.batch_norm(
            flat, mean, variance, scale, shift, self.training, _MOMENTUM, _EPSILON
        )
        if self.layers[index].kind == "batched":
            return flat.view(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)
        return flat

    def folded(self) -> dict[str, np.ndarray]:
        """Return weights and biases with the normalisation folded in (a copy)."""
        raw = {
            key: value.detach().cpu().numpy().astype(np.float64)
            for key, value in (self.weights | self.statistics).items()
        }
        arrays = {}
        for index, layer in enumerate(self.layers):
            weight = raw[f"{index}.weight"]
            if index + 1 == len(self.layers):
                bias = raw[f"{index}.bias"]
            else:
                gain = raw[f"{index}.scale"] / np.sqrt(raw[f"{index}.variance"] + _EPSILON)
                weight = weight * layer.along_outputs(gain)
                bias = raw[f"{index}.shift"] - raw[f"{index}.mean"] * gain
            arrays[f"{index}.weight"] = np.ascontiguousarray(weight, np.float32)
            arrays[f"{index}.bias"] = bias.astype(np.float32).reshape(layer.bias_shape)
        return arrays


def fit_network(
    network: TrainingNetwork,
    codes: np.ndarray,
    classes: np.ndarray,
    inputs: Callable[[np.ndarray, Moment], Any],
    recipe: Recipe,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train a network in place by AdamW with one cosine of the learning rate; keep the best epoch.

    The codes (N, n) and class indices (N,) are those of training and validation;
    ``inputs(codes, moment)`` is the tensor that the network takes for some codes. The state is kept
    in the checkpoint after each epoch, and found again: the outcome has the same bits as without
    the stop.

    Returns the folded weights of the best epoch, and the outcome: ``validation_accuracy`` of single
    samples (None without validation rows), ``best_epoch`` (from 1), the epochs that ``ran``, and
    the ``recipe``. `DivergenceError` is raised where the loss is not finite.
    """
    rows, held = validation_split(classes, recipe.validation, recipe.seed)
    steps = _Steps(network, recipe, len(rows))
    rng = np.random.default_rng([recipe.seed, 3])
    best = _restore(checkpoint, steps) or _Best(0, -1.0, 0, network.folded())
    for _ in range(best.ran):
        rng.permutation(rows)
    progress.start(recipe.epochs * len(rows), "samples")
    progress.advance(best.ran * len(rows))
    while best.ran < recipe.epochs and best.ran - best.epoch < recipe.patience:
        order = rng.permutation(rows)
        for start in steps.starts:
            batch = order[start : start + recipe.batch]
            steps.step(inputs(codes[batch], steps.moment()), classes[batch])
            progress.advance(len(batch))
        best.ran += 1
        steps.check(best.ran)
        best.take(_accuracy(network, codes, classes, held, inputs) if len(held) else None, network)
        if checkpoint is not None:
            checkpoint.save(steps.arrays() | best.named(), best.values())
    if len(held):
        progress.note(
            f"base classifier: {100 * best.accuracy:.1f}% of validation samples right one by one, "
            f"epoch {best.epoch} of {best.ran}"
        )
    return best.arrays, {
        "validation_accuracy": best.accuracy if len(held) else None,
        "best_epoch": best.epoch,
        "ran": best.ran,
        "recipe": asdict(recipe),
    }


@dataclass
class _Best:
    """How many epochs ran, and the best of them: accuracy, number and folded weights."""

    ran: int
    accuracy: float
    epoch: int
    arrays: dict[str, np.ndarray]

    def take(self, accuracy: float | None, network: TrainingNetwork) -> None:
        """Keep the weights of the last epoch if it is better, or if there is no accuracy."""
        if accuracy is None or accuracy > self.accuracy:
            self.accuracy = self.accuracy if accuracy is None else accuracy
            self.epoch, self.arrays = self.ran, network.folded()

    def values(self) -> dict[str, Any]:
        return {"ran": self.ran, "accuracy": self.accuracy, "epoch": self.epoch}

    def named(self) -> dict[str, np.ndarray]:
        """Return the weights under names of a checkpoint."""
        return {f"{_BEST}{key}": array for key, array in self.arrays.items()}


def _restore(checkpoint: Checkpoint | None, steps: _Steps) -> _Best | None:
    """Go on from where an earlier run was saved; None where there was none."""
    found = None if checkpoint is None else checkpoint.restore(steps.about())
    if found is None:
        return None
    arrays, values = found
    steps.restore(arrays, values["ran"])
    kept = {
        key.removeprefix(_BEST): array for key, array in arrays.items() if key.startswith(_BEST)
    }
    return _Best(**values, arrays=kept)


class _Steps:
    """Steps of the optimiser, and how far the run is."""

    def __init__(self, network: TrainingNetwork, recipe: Recipe, n_rows: int) -> None:
        self.network, self.recipe = network, recipe
        # A last batch of one sample has no variance to normalise by.
        self.starts = range(0, max(n_rows - 1, 1), recipe.batch)
        self.done = 0
        self.losses: list[Any] = []
        self.optimizer = load_torch().optim.AdamW(
            network.weights.values(), lr=recipe.lr, weight_decay=_WEIGHT_DECAY, fused=True
        )

    def moment(self) -> Moment:
        """Return where the training is."""
        part = self.done / (self.recipe.epochs * len(self.starts))
        return Moment(_TRAINING_STREAM, self.done, part)

    def step(self, x: Any, classes: np.ndarray) -> None:
        """Improve the weights by a batch."""
        part = self.moment().done
        for group in self.optimizer.param_groups:
            rise, fall = min(1.0, part / _WARM_UP), (1 + math.cos(math.pi * part)) / 2
            group["lr"] = self.recipe.lr * rise * fall
        torch = load_torch()
        scores = self.network(x)
        models = scores.numel() // (len(classes) * scores.shape[-1])
        wanted = torch.from_numpy(classes).to(x.device).repeat(models)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, -2), wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.detach())
        self.done += 1

    def about(self) -> dict[str, Any]:
        """Return what a checkpoint must agree in: the recipe and the network."""
        shapes = (
            f"{layer.kind} {'x'.join(map(str, layer.shape))}" for layer in self.network.layers
        )
        precision = self.network.precision
        return {
            **asdict(self.recipe),
            "network": ", ".join(shapes),
            # None for float32: what was saved before there was a choice says nothing of it.
            "precision": None if precision == PRECISIONS[0] else precision,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the weights, what normalises and what the optimiser remembers, as copies."""
        return {key: tensor.detach().cpu().numpy().copy() for key, tensor in self._state().items()}

    def restore(self, arrays: Mapping[str, np.ndarray], epochs: int) -> None:
        """Take over what `arrays` gave after some epochs."""
        torch = load_torch()
        self.done = epochs * len(self.starts)
        for weight in self.network.weights.values():
            moments = {name: torch.zeros_like(weight) for name in _MOMENTS}
            step = torch.tensor(float(self.done), device=weight.device)
            self.optimizer.state[weight] = {"step": step, **moments}
        with torch.no_grad():
            for key, tensor in self._state().items():
                tensor.copy_(torch.from_numpy(arrays[key]))

    def _state(self) -> dict[str, Any]:
        network, moments = self.network, self.optimizer.state
        return {
            **network.weights,
            **network.statistics,
            **{
                f"{key}.{name}": moments[weight][name]
                for key, weight in network.weights.items()
                for name in _MOMENTS
            },
        }

    def check(self, epoch: int) -> None:
        """Raise if a loss of the epoch was not finite."""
        finite = load_torch().stack(self.losses).isfinite().all().item()
        self.losses.clear()
        if not finite:
            raise DivergenceError(
                f"the base classifier diverged in epoch {epoch}; lower lr, now {self.recipe.lr:g}"
            )


def _accuracy(
    network: TrainingNetwork,
    codes: np.ndarray,
    classes: np.ndarray,
    held: np.ndarray,
    inputs: Callable[[np.ndarray, Moment], Any],
) -> float:
    right = []
    network.training = False
    with load_torch().inference_mode():
        for start in range(0, len(held), _BATCH):
            rows = held[start : start + _BATCH]
            scores = network(inputs(codes[rows], Moment(_VALIDATION_STREAM, start, 1.0)))
            right.append(scores.argmax(-1).cpu().numpy() == classes[rows])
    network.training = True
    return float(np.concatenate(right, axis=-1).mean())
