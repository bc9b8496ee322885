"""Small torch networks as plain layers and NumPy arrays: linear maps with rectifiers between.

torch is imported when it is first needed.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.threads import default_threads
from boxnn_numba.errors import BackendError, InputError, first_line

DEVICES = ("cpu", "cuda", "auto")
#: Convolutional networks of randomized ablation.
NETWORKS = ("published", "small")
#: Numbers that a network computes with. Weights are trained and stored as float32.
PRECISIONS = ("float32", "bfloat16")


def load_torch() -> Any:
    """Return the module torch.

    Raises
    ------
    BackendError
        torch is not installed, or cannot be loaded.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise BackendError(
            "this base classifier needs torch; pip install 'boxnn-numba[baselines]'"
        ) from None
    except (ImportError, OSError) as error:  # e.g. one of its shared libraries is missing
        raise BackendError(
            f"torch is installed but does not load ({first_line(error)}); install it again"
        ) from error
    return torch


def usable_device(device: str) -> str:
    """Return the device of torch that is called so; ``"auto"`` is the GPU where there is one.

    Raises
    ------
    OptionError
        Unknown device.
    BackendError
        torch is not installed, or sees no GPU.
    """
    validation.choice("device", device, DEVICES)
    if device == "cpu" or load_torch().cuda.is_available():
        return "cpu" if device == "cpu" else "cuda"
    if device == "cuda":
        raise BackendError("torch sees no CUDA device on this machine; use `device` cpu")
    return "cpu"


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch use `threads` threads inside the body; None for this package's default."""
    torch = load_torch()
    before = torch.get_num_threads()
    wanted = default_threads() if threads is None else validation.positive("threads", threads)
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)


# --- layers ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A linear map with a bias; a rectifier follows every layer but the last.

    Attributes
    ----------
    kind
        ``"conv"``, ``"linear"`` (flattens its input) or ``"batched"`` (one linear map per model).
    inputs, outputs
        Channels or neurons.
    size, stride, padding
        Of a convolution.
    models
        Of a batched map.
    """

    kind: str
    inputs: int
    outputs: int
    size: int = 1
    stride: int = 1
    padding: int = 0
    models: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        if self.kind == "conv":
            return (self.outputs, self.inputs, self.size, self.size)
        if self.kind == "linear":
            return (self.outputs, self.inputs)
        return (self.models, self.inputs, self.outputs)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the biases."""
        return (self.models, 1, self.outputs) if self.kind == "batched" else (self.outputs,)

    def along_outputs(self, vector: np.ndarray) -> np.ndarray:
        """Return a value per output in a shape that broadcasts over the weights."""
        if self.kind == "batched":
            return vector.reshape(self.bias_shape)
        return vector.reshape(-1, *[1] * (len(self.shape) - 1))

    def after(self, length: int) -> int:
        """Return the height or width of a convolution's output."""
        return (length + 2 * self.padding - self.size) // self.stride + 1


def cnn_layers(
    network: str, height: int, width: int, channels: int, n_classes: int
) -> tuple[Layer, ...]:
    """Return a network of `NETWORKS` for images of `channels` input channels, at least 4 x 4."""
    layers = (_published if network == "published" else _small)(height, width, channels)
    return (*layers, Layer("linear", layers[-1].outputs, n_classes))


def _published(height: int, width: int, channels: int) -> tuple[Layer, ...]:
    """Return the hidden layers of Levine and Feizi's network for MNIST (2020, supplement)."""
    first = Layer("conv", channels, 64, size=4, stride=2, padding=1)
    second = Layer("conv", 64, 128, size=4, stride=2, padding=1)
    pixels = math.prod(second.after(first.after(length)) for length in (height, width))
    return first, second, Layer("linear", 128 * pixels, 500), Layer("linear", 500, 100)


def _small(height: int, width: int, channels: int) -> tuple[Layer, ...]:
    """Return the hidden layers of a network with a sixth of the published one's multiply-adds.

    The first convolution is large and strided: where few pixels are retained, a small window sees
    none of them, and large products of matrices are what a CPU computes fastest.
    """
    layers = [Layer("conv", channels, 48, size=8, stride=4, padding=2)]
    height, width = layers[0].after(height), layers[0].after(width)
    while max(height, width) > 4 or len(layers) < 2:
        layers.append(Layer("conv", layers[-1].outputs, 128, size=3, stride=2, padding=1))
        height, width = layers[-1].after(height), layers[-1].after(width)
    return (*layers, Layer("linear", 128 * height * width, 256))


def mlp_layers(inputs: int, n_classes: int) -> tuple[Layer, ...]:
    """Return a perceptron with two hidden layers."""
    return (
        Layer("linear", inputs, 512),
        Layer("linear", 512, 256),
        Layer("linear", 256, n_classes),
    )


def submodel_layers(models: int, inputs: int, n_classes: int) -> tuple[Layer, ...]:
    """Return one perceptron with two hidden layers for each of `models` submodels."""
    widths = (inputs, 128, 128, n_classes)
    return tuple(
        Layer("batched", before, after, models=models)
        for before, after in itertools.pairwise(widths)
    )


def multiply_adds(layers: Sequence[Layer], feature_shape: Sequence[int]) -> int:
    """Return the multiply-adds of one sample; convolutions need an image's `feature_shape`."""
    total, (height, width) = 0, (*feature_shape, 1)[:2]
    for layer in layers:
        if layer.kind == "conv":
            height, width = layer.after(height), layer.after(width)
        positions = height * width if layer.kind == "conv" else 1
        total += positions * math.prod(layer.shape)
    return total


def check_arrays(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise unless `arrays` are the finite weights and biases of `layers`."""
    for index, layer in enumerate(layers):
        for name, shape in (("weight", layer.shape), ("bias", layer.bias_shape)):
            key = f"{index}.{name}"
            array = arrays.get(key)
            if array is None or array.shape != shape or array.dtype != np.float32:
                found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
                raise InputError(
                    f"array {key} of the base classifier is {found}; it must be float32 of shape "
                    f"{shape}; train it again"
                )
            if not np.isfinite(array).all():
                raise InputError(
                    f"array {key} of the base classifier has NaN or infinity; train it again"
                )


def apply_layers(
    layers: Sequence[Layer],
    weights: Mapping[str, Any],
    x: Any,
    normalise: Callable[[int, Any], Any] | None = None,
) -> Any:
    """Return the scores of a batch: (B, K), or (T, B, K) from (T, B, inputs) if batched."""
    torch = load_torch()
    for index, layer in enumerate(layers):
        weight, bias = weights[f"{index}.weight"], weights.get(f"{index}.bias")
        if layer.kind == "conv":
            x = torch.nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding)
        elif layer.kind == "linear":
            x = torch.nn.functional.linear(x.flatten(1), weight, bias)
        else:
            x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
        if index + 1 < len(layers):
            x = torch.relu_(x if normalise is None else normalise(index, x))
    return x
