"""Encodings of masked samples for base classifiers: the pair (x, 1 - x) of each visible feature.

x is in 0..1, and a feature out of sight is (0, 0), which no value of x gives (Levine and Feizi,
2020). Pairs are kept as uint8 (x, 255 - x) until they are evaluated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.errors import InputError


def masked_pairs(codes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return (B, 2 n) uint8: the pairs of codes (B, n) where bool `kept` (B, n), else (0, 0)."""
    pairs = np.empty((*codes.shape, 2), np.uint8)
    np.multiply(codes, kept, out=pairs[..., 0])
    np.multiply(255 - codes, kept, out=pairs[..., 1])
    return pairs.reshape(*codes.shape[:-1], -1)


class PartColumns:
    """The features of each part of a partition, all parts padded to one length m.

    Attributes
    ----------
    members
        The features of each part, ascending.
    index, real
        (T, m) features with padding, and (T, 1, m) bool, False in the padding.
    """

    def __init__(self, part: np.ndarray) -> None:
        sizes = np.bincount(part)
        self.members = np.split(np.argsort(part, kind="stable"), np.cumsum(sizes)[:-1])
        self.real = np.arange(sizes.max()) < sizes[:, None, None]
        self.index = np.zeros((len(sizes), sizes.max()), np.int64)
        self.index[self.real[:, 0]] = np.concatenate(self.members)

    def pairs(self, codes: np.ndarray) -> np.ndarray:
        """Return (T, B, 2 m) uint8: the pairs of each part's own features, padding (0, 0)."""
        return masked_pairs(codes.T[self.index].transpose(0, 2, 1), self.real)


def masked_input(x: ArrayLike, kept: ArrayLike, n_features: int) -> np.ndarray:
    """Return the pairs of a batch after checking codes `x` and bool `kept`, both (B, n)."""
    codes = submodel_input(x, n_features)
    mask = validation.rectangular("kept", kept)
    if mask.shape != codes.shape or mask.dtype != bool:
        raise InputError(
            f"kept is {mask.dtype} of shape {mask.shape}; it must be bool of shape {codes.shape}"
        )
    return masked_pairs(codes, mask)


def submodel_input(x: ArrayLike, n_features: int) -> np.ndarray:
    """Return codes (B, n) after checking them."""
    codes = validation.codes("x", x)
    validation.same_features("x", codes, n_features, "the base classifier")
    return codes


def training_data(x: ArrayLike, y: ArrayLike, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes (N, n) and class indices (N,) int64 after checking that each class occurs."""
    codes = validation.codes("x", x)
    n_classes = validation.integer("n_classes", n_classes, low=2)
    classes = validation.class_indices("y", y, len(codes), n_classes)
    missing = np.flatnonzero(np.bincount(classes, minlength=n_classes) == 0)
    if len(missing):
        raise InputError(
            f"class {missing[0]} has no training sample; add some, or leave the class out"
        )
    return codes, classes
