"""CPU trainer: the boxes in training, and the step that moves them.

A step is three passes. Over samples: distances to all boxes and the few entries
(sample, box, coefficient) they give, see `boxnn_numba.training.softmin_stages`. A counting sort of
the entries by box. Over the touched boxes: integer gradient, optimiser, rounding to codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from boxnn_numba.backends.box_layout import box_table
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.kernels import training
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.optimizer import is_dense, n_moments, step_sizes
from boxnn_numba.training.problem import FIXED_POINT, Problem
from boxnn_numba.training.softmin_stages import Entries, forward

#: Boxes that a thread updates at a time.
_BLOCK_BOXES = 32


class CpuTrainer:
    """The boxes in training: float32 masters, their codes, and the optimiser's moments.

    Parameters
    ----------
    backend
        Gives threads and layout.
    masters
        Initial (lower, upper), (M, n) float32 in codes; they are settled (clipped to the codes,
        uncrossed) here.
    problem
        The tables of the run.
    """

    def __init__(self, backend: CpuBackend, masters: Pair, problem: Problem) -> None:
        self.backend, self.problem, self.masters = backend, problem, masters
        shape = masters[0].shape
        self.table = box_table(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        training.settle(masters, self._codes())
        self._steps, self._masses = 0, np.zeros(shape[0], np.int64)
        self._dense = is_dense(problem.options)
        self._moments = [
            (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
            for _ in range(n_moments(problem.options))
        ]

    def _codes(self) -> Pair:
        return self.table.lower, self.table.upper

    def bounds(self) -> Pair:
        """Return the deployed bounds, (M, n) uint8; they may change with the next step."""
        return self.table.bounds()

    def batches(self, feed: Feed, epoch: int, size: int) -> Iterator[Pair]:
        """Return the samples and labels of an epoch as `step` takes them."""
        return feed.batches(epoch, size)

    def margins(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the soft margins of samples (N, n) uint8."""
        return self.entries(x, labels)[2]

    @staticmethod
    def fetch(figures: list[Pair]) -> list[Pair]:
        """Return what steps returned, in the memory of the host."""
        return figures

    def step(self, x: np.ndarray, labels: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Improve the boxes on codes (batch, n) of class indices (batch,) int32.

        Returns objective and margin, (batch,) float64, of every sample before the step.
        """
        entries, values, margins = self.entries(x, labels)
        starts = np.empty(self.table.n_boxes + 1, np.int64)
        order = np.empty(len(entries.boxes), np.int64)
        training.sort_by_box(entries.boxes, len(entries.boxes), starts, order)
        # Sums of slopes 0 and 1 are no larger than this; int32 fits a vector twice as often.
        training.box_masses(starts, order, entries.coefficients, self._masses)
        narrow = int(self._masses.max()) < 2**31 and self.problem.options.relaxation != "l2"
        self._steps += 1
        boxes = np.arange(self.table.n_boxes) if self._dense else np.flatnonzero(np.diff(starts))

        def work(first: int, last: int) -> None:
            for block in range(first, last, _BLOCK_BOXES):
                chosen = boxes[block : min(last, block + _BLOCK_BOXES)]
                gradients = self.gradient(x, entries, chosen, starts, order, narrow)
                self.update(chosen, gradients, len(labels), rate)

        self.backend.parallel(len(boxes), _BLOCK_BOXES, work)
        return values, margins

    def entries(self, x: np.ndarray, labels: np.ndarray) -> tuple[Entries, np.ndarray, np.ndarray]:
        """Return the entries of a batch, and each sample's objective and soft margin."""
        return forward(self.backend, self.table, x, labels, self.problem)

    def gradient(
        self,
        x: np.ndarray,
        entries: Entries,
        boxes: np.ndarray,
        starts: np.ndarray,
        order: np.ndarray,
        narrow: bool = False,
    ) -> Pair:
        """Return d objective / d lower and d upper of some boxes, (len(boxes), n) int64.

        In fixed point, summed over the batch, per unit of penalty and code. With `narrow` they are
        int32, which the sums must fit.
        """
        options, n = self.problem.options, self.table.n_features
        lower, upper = np.empty((2, len(boxes), n), np.int32 if narrow else np.int64)
        kernel = getattr(training, f"{options.relaxation}_gradient")
        kernel(
            x, n, *self._codes(), boxes, 0, len(boxes), starts, order, entries.samples,
            entries.coefficients, options.forward_width, options.leak, lower, upper,
        )  # fmt: skip
        return lower, upper

    def update(self, boxes: np.ndarray, gradients: Pair, batch: int, rate: float) -> None:
        """Move some boxes along their gradients and round them to codes."""
        options = self.problem.options
        scale, settings = step_sizes(options, self.table.n_boxes, batch, rate, self._steps)
        if options.optimizer == "adam":
            training.adam_step(
                boxes, 0, len(boxes), *gradients, scale, self.masters, *self._moments,
                self._codes(), settings,
            )  # fmt: skip
        else:
            velocity = self._moments[0] if self._moments else self.masters
            training.sgd_step(
                boxes, 0, len(boxes), *gradients, scale, self.masters, velocity,
                self._codes(), settings, self._masses, options.crowd * FIXED_POINT,
            )  # fmt: skip

    # --- state, for checkpoints ---------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """Return masters, moments and the number of steps."""
        pairs = {"master": self.masters}
        pairs |= {f"moment{index}": pair for index, pair in enumerate(self._moments)}
        arrays = {
            f"{name}_{side}": pair[index]
            for name, pair in pairs.items()
            for index, side in enumerate(("lower", "upper"))
        }
        return {**arrays, "steps": np.array(self._steps)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        for name, target in self.state().items():
            if name != "steps":
                target[:] = arrays[name]
        self._steps = int(arrays["steps"])
        training.settle(self.masters, self._codes())
