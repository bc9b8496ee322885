"""Backend: the protocol that runs kernels on a device. Backends see arrays, not models or boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from boxnn_numba.backends.structure import Structure


class Backend(Protocol):
    """What distances and training ask of a device; `CpuBackend` and `CudaBackend` provide it.

    Attributes
    ----------
    name
        ``"cpu"`` or ``"cuda"``.
    threads
        Threads of the CPU that it may use.
    """

    @property
    def name(self) -> str: ...

    @property
    def threads(self) -> int: ...

    def parallel(self, n: int, grain: int, work: Callable[[int, int], Any]) -> list[Any]:
        """Call ``work(first, last)`` on pieces of range(n), on the threads of the CPU.

        Pieces are multiples of `grain` long; results come in their order.
        """

    def table(self, lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int) -> Any:
        """Return uint8 bounds (M, n) laid out for `part_distances` at a width."""

    def layout(self, lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int) -> Any:
        """Return uint8 bounds (M, n) laid out for `class_distance` at a width."""

    def part_distances(self, x: Any, table: Any, width: int, out: Any) -> None:
        """Write the int32 distances of uint8 codes (N, n) to all boxes to `out` (N, P * M).

        Distances in part 0 to all boxes come first, then those in part 1.
        """

    def class_distance(self, x: Any, layout: Any, width: int, out: Any) -> None:
        """Write the int32 distances of uint8 codes (N, n) to each class to `out` (N, K)."""

    def float_distances(
        self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, width: float
    ) -> np.ndarray:
        """Return the distances (N, M) of float samples (N, n) to bounds (M, n) of their type."""
