"""Trained base classifiers in torch, made of plain arrays and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from boxnn_numba import validation
from boxnn_numba.baselines.encodings import PartColumns, masked_input, submodel_input
from boxnn_numba.baselines.torch_networks import (
    PRECISIONS,
    Layer,
    apply_layers,
    check_arrays,
    load_torch,
    multiply_adds,
    torch_threads,
    usable_device,
)
from boxnn_numba.errors import InputError

#: Samples that a network evaluates at a time: few enough for the caches of a core.
_BATCH = 256


class _Network:
    """Layers and weights, and the settings that say how to feed them."""

    kind = ""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        if settings.get("kind") != self.kind:
            raise InputError(
                f"the base classifier is of kind {settings.get('kind')!r}, not {self.kind!r}; "
                "use it with the defence that it was trained for"
            )
        load_torch()
        self.settings = dict(settings)
        self.n_features: int = settings["n_features"]
        self.n_classes: int = settings["n_classes"]
        self.device = usable_device(device)
        self.threads = threads
        self._precision = validation.choice(
            "precision", settings.get("precision", PRECISIONS[0]), PRECISIONS
        )
        self._layers = tuple(Layer(**layer) for layer in settings["layers"])
        check_arrays(self._layers, arrays)
        self._arrays = dict(arrays)
        self._tensors: dict[str, Any] = {}
        self._prepare(arrays)

    def _prepare(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take what there is besides layers and weights."""

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        device: str = "cpu",
        threads: int | None = None,
    ) -> Self:
        """Return a network from what `arrays` and `settings` gave.

        Parameters
        ----------
        arrays, settings
            Of a trained network.
        device
            ``"cpu"``, ``"cuda"`` or ``"auto"``.
        threads
            Threads for torch on a CPU; all that this process may use by default.

        Raises
        ------
        InputError
            `arrays` do not fit `settings`, or are damaged.
        BackendError
            torch or the device is missing.
        """
        return cls(arrays, settings, device, threads)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all weights, float32 (and a partition's int32 `part`)."""
        return dict(self._arrays)

    def multiply_adds(self) -> int:
        """Return the multiply-adds of one evaluation of one sample, by all submodels."""
        return multiply_adds(self._layers, self.settings["feature_shape"])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._arrays, self.settings, self.device, self.threads)

    def _evaluate(self, pairs: np.ndarray) -> np.ndarray:
        """Return the scores of uint8 pairs, (B, K) or (T, B, K)."""
        torch = load_torch()
        dtype = getattr(torch, self._precision)
        with torch_threads(self.threads), torch.inference_mode():
            if not self._tensors:
                self._tensors = {
                    key: torch.from_numpy(value).to(self.device, dtype)
                    for key, value in self._arrays.items()
                }
            x = as_input(pairs, self._layers, self.settings, self.device).to(dtype)
            found = apply_layers(self._layers, self._tensors, x).float()
            scores: np.ndarray = found.cpu().numpy()
        return scores


class MaskedNetwork(_Network):
    """A network that sees the retained features of a sample; made by `train_masked`.

    Attributes
    ----------
    n_features, n_classes
        Features n of a sample; classes K.
    settings
        Everything but the weights, as plain values (JSON), with how the training went.
    """

    kind = "masked"

    def scores(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return scores (B, K) float32 of codes (B, n), which count where bool `kept` (B, n)."""
        pairs = masked_input(x, kept, self.n_features)
        batches = range(0, len(pairs), _BATCH)
        return np.concatenate([self._evaluate(pairs[start : start + _BATCH]) for start in batches])


class SubmodelNetworks(_Network):
    """T networks, the t-th of which sees the features of part t; made by `train_submodels`.

    Attributes
    ----------
    n_features, n_classes, n_models
        Features n of a sample; classes K; submodels T.
    part
        (n,) int32, the submodel of each feature.
    settings
        Everything but the weights, as plain values (JSON), with how the training went.
    """

    kind = "submodels"

    def _prepare(self, arrays: Mapping[str, np.ndarray]) -> None:
        size = self.settings.get("group_size", 1)
        self.part = validation.partition("part", arrays.get("part", ()), self.n_features, size)
        self.n_models = self._layers[0].models
        self._columns = PartColumns(self.part)
        if self._columns.index.shape != (self.n_models, self._layers[0].inputs // 2):
            raise InputError(
                "array part of the base classifier does not fit its weights; train it again"
            )

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return scores (B, T, K) float32 of codes (B, n)."""
        codes = submodel_input(x, self.n_features)
        found = [
            self._evaluate(self._columns.pairs(codes[start : start + _BATCH])).transpose(1, 0, 2)
            for start in range(0, len(codes), _BATCH)
        ]
        return np.concatenate(found)


def as_input(
    pairs: np.ndarray, layers: Sequence[Layer], settings: Mapping[str, Any], device: str
) -> Any:
    """Return uint8 pairs as the float tensor (0..1) that the first layer takes."""
    x = load_torch().from_numpy(pairs).to(device).float().mul_(1 / 255)
    if layers[0].kind == "conv":
        height, width = settings["feature_shape"][:2]
        x = x.view(len(x), height, width, layers[0].inputs).permute(0, 3, 1, 2)
    return x
