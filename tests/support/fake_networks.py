"""Base classifiers without torch, for the tests of what trains, stores and certifies with them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from boxnn_numba.baselines import base_classifiers, torch_networks


class _Centroids:
    """Scores a class by how near its mean sample is, on the features in sight."""

    def __init__(self, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
        self.centres, self.settings = arrays["centres"], dict(settings)
        self.part = arrays.get("part")
        self.n_classes, self.n_features = self.centres.shape

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], device: str
    ) -> Any:
        assert device == "cpu"
        return cls(arrays, settings)

    def arrays(self) -> dict[str, np.ndarray]:
        part = {} if self.part is None else {"part": self.part}
        return {"centres": self.centres, **part}

    def multiply_adds(self) -> int:
        return int(self.centres.size)

    def _near(self, x: np.ndarray) -> np.ndarray:
        return -np.abs(x[:, None, :] - self.centres).astype(np.float32)


class FakeMasked(_Centroids):
    def scores(self, x: np.ndarray, kept: np.ndarray) -> np.ndarray:
        return (self._near(x) * kept[:, None, :]).sum(axis=2)


class FakeSubmodels(_Centroids):
    def scores(self, x: np.ndarray) -> np.ndarray:
        assert self.part is not None
        near = self._near(x)
        own = [near[..., self.part == t].sum(axis=2) for t in range(self.part.max() + 1)]
        return np.stack(own, axis=1)


def _centres(x: np.ndarray, y: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    assert options["device"] == "cpu" and x.dtype == np.uint8
    options["progress"].start(len(x), "samples")
    means = [x[y == label].mean(axis=0) for label in range(options["n_classes"])]
    return np.stack(means).astype(np.float32)


def train_masked(x: np.ndarray, y: np.ndarray, **options: Any) -> FakeMasked:
    settings = {name: options[name] for name in ("base", "group_size")}
    settings["validation_accuracy"] = 0.875
    return FakeMasked({"centres": _centres(x, y, options)}, settings)


def train_submodels(x: np.ndarray, y: np.ndarray, part: np.ndarray, **options: Any) -> Any:
    settings = {"base": "mlp", "group_size": options["group_size"]}
    return FakeSubmodels({"centres": _centres(x, y, options), "part": part}, settings)


def install(replace: Any = setattr) -> None:
    """Put them in the place of the torch networks, by `setattr` or what undoes it later."""
    no_gpu = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    replace(torch_networks, "load_torch", lambda: no_gpu)
    for name, fake in (
        ("MaskedNetwork", FakeMasked),
        ("SubmodelNetworks", FakeSubmodels),
        ("train_masked", train_masked),
        ("train_submodels", train_submodels),
    ):
        replace(base_classifiers, name, fake)
