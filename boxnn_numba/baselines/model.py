"""BaselineModel: a trained base classifier of a published defence as plain data, as in its file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.grid import Grid

#: Methods by the name that the command line has for them.
METHODS = {"ra": "randomized ablation", "fpa": "feature partition", "stumps": "boosted stumps"}


@dataclass(frozen=True, eq=False)
class BaselineModel:
    """The base classifiers of a defence, in arrays.

    Parameters
    ----------
    method
        ``"ra"``, ``"fpa"`` or ``"stumps"``.
    settings
        JSON values: ``retained``, or ``parts`` and ``partition``, or ``rounds``, ``clip`` and
        ``sampled``; and ``base``, what the networks, trees or stumps are rebuilt from.
    classes
        The K class labels.
    feature_shape
        Shape of one sample.
    weights
        The arrays of the networks, trees or stumps by name.
    grid
        Codes of real features; None where the data are codes.
    training
        JSON values: how it was trained and on what.
    """

    method: str
    settings: dict[str, Any]
    classes: list[Any]
    feature_shape: tuple[int, ...]
    weights: dict[str, np.ndarray]
    grid: Grid | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        validation.choice("method", self.method, METHODS)
        shape = tuple(self.feature_shape)
        object.__setattr__(self, "feature_shape", validation.sample_shape(shape, math.prod(shape)))

    @property
    def n_features(self) -> int:
        """Number of features of one sample."""
        return math.prod(self.feature_shape)

    @property
    def group_size(self) -> int:
        """Features that follow each other and count as one, such as a pixel's channels."""
        return int(self.settings["base"].get("group_size", 1))

    @property
    def n_groups(self) -> int:
        """Number of features, or groups of them, of one sample: what radii count."""
        return self.n_features // self.group_size

    def encode(self, x: ArrayLike) -> np.ndarray:
        """Return samples (N, n) as uint8 codes.

        Raises
        ------
        InputError
            Wrong number of features, values that are not finite, or not codes.
        """
        flat = validation.samples("x", x, self.feature_shape, "the base classifier")
        return validation.codes("x", flat) if self.grid is None else self.grid.encode(flat)
