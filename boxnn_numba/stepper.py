"""One training step on the CPU: distances, soft-min, sparse gradient, update.

A step is three passes. Over samples: distances to all boxes and the few entries
(sample, box, coefficient) they give. A counting sort of the entries by box.
Over the touched boxes: integer gradient, optimiser, rounding to codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from boxnn_numba.kernels import cpu_training
from boxnn_numba.objective import FIXED_POINT

if TYPE_CHECKING:
    from boxnn_numba.backend import CpuBackend
    from boxnn_numba.feed import Pair
    from boxnn_numba.training import StepInputs

#: Samples whose distances to all boxes a thread keeps at a time; boxes it updates at a time.
_BLOCK_SAMPLES, _BLOCK_BOXES = 64, 32
#: The learning rate of SGD is per this many samples, whatever the batch.
REFERENCE_BATCH = 100


@dataclass
class Entries:
    """The non-zero coefficients d objective / d distance of a batch, in fixed point.

    Attributes
    ----------
    samples, boxes
        int32, which distance.
    coefficients
        int64, times FIXED_POINT.
    """

    samples: np.ndarray
    boxes: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def empty(cls, capacity: int) -> Entries:
        """Return room for `capacity` entries."""
        return cls(
            np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.int64)
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the three arrays as the kernels take them."""
        return self.samples, self.boxes, self.coefficients


class CpuStepper:
    """The boxes in training: float32 masters, their codes, and the optimiser's moments.

    Parameters
    ----------
    backend
        Gives threads and layout.
    masters
        Initial (lower, upper), (M, n) float32 in codes; they are settled (clipped to the codes,
        uncrossed) here.
    inputs
        Options and tables of the run.
    """

    def __init__(self, backend: CpuBackend, masters: Pair, inputs: StepInputs) -> None:
        self.backend, self.inputs, self.masters = backend, inputs, masters
        shape = masters[0].shape
        self.table = backend.boxes(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        cpu_training.settle(masters, self._codes())
        options = inputs.options
        self._steps = 0
        self._dense = (
            options.optimizer == "adam" or options.momentum > 0 or options.weight_decay > 0
        )
        n_moments = 2 if options.optimizer == "adam" else int(options.momentum > 0)
        self._moments = [
            (np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _ in range(n_moments)
        ]
        self._entries_per_sample = 64  # room to begin with; grows with what is found

    def _codes(self) -> Pair:
        return self.table.lower, self.table.upper

    def step(self, x: np.ndarray, labels: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Improve the boxes on a batch.

        Parameters
        ----------
        x
            Padded uint8 codes of the batch (`CpuBackend.samples`).
        labels
            (batch,) int32 class indices.
        rate
            Learning rate of this step.

        Returns
        -------
        objective, margin : (batch,) float64
            Of every sample, before the step.
        """
        entries, values, margins = self.entries(x, labels)
        starts = np.empty(self.table.n_boxes + 1, np.int64)
        order = np.empty(len(entries.boxes), np.int64)
        cpu_training.sort_by_box(entries.boxes, len(entries.boxes), starts, order)
        self._steps += 1
        boxes = np.arange(self.table.n_boxes) if self._dense else np.flatnonzero(np.diff(starts))

        def work(first: int, last: int) -> None:
            for block in range(first, last, _BLOCK_BOXES):
                chosen = boxes[block : min(last, block + _BLOCK_BOXES)]
                gradients = self.gradient(x, entries, chosen, starts, order)
                self.update(chosen, gradients, len(labels), rate)

        self.backend.parallel(len(boxes), _BLOCK_BOXES, work)
        return values, margins

    def entries(self, x: np.ndarray, labels: np.ndarray) -> tuple[Entries, np.ndarray, np.ndarray]:
        """Return the entries of a batch, and each sample's objective and soft margin."""
        options = self.inputs.options
        values, margins = np.empty(len(labels)), np.empty(len(labels))
        boxes = self.backend.operands(self.table, options.relaxation)

        def work(first: int, last: int) -> Entries:
            capacity = self._entries_per_sample * (last - first)
            while True:
                found, count = Entries.empty(capacity), 0
                for block in range(first, last, _BLOCK_SAMPLES):
                    stop = min(last, block + _BLOCK_SAMPLES)
                    distance = self.backend.distances(
                        x, block, stop, boxes, (0, self.table.n_boxes),
                        options.forward_width, options.relaxation,
                    )  # fmt: skip
                    count = cpu_training.softmin_entries(
                        distance, block, stop - block, labels, self.inputs.offsets,
                        tuple(self.inputs.softmin), tuple(self.inputs.objective), FIXED_POINT,
                        found.arrays(), count, values, margins,
                    )  # fmt: skip
                if count <= capacity:
                    return Entries(*(array[:count] for array in found.arrays()))
                capacity = count
                self._entries_per_sample = 1 + count // (last - first)

        parts = self.backend.parallel(len(labels), _BLOCK_SAMPLES, work)
        joined = [
            np.concatenate(arrays) for arrays in zip(*(p.arrays() for p in parts), strict=True)
        ]
        return Entries(*joined), values, margins

    def gradient(
        self,
        x: np.ndarray,
        entries: Entries,
        boxes: np.ndarray,
        starts: np.ndarray,
        order: np.ndarray,
    ) -> Pair:
        """Return d objective / d lower and d upper of some boxes, (len(boxes), n) int64.

        In fixed point, summed over the batch, per unit of penalty and code.
        """
        options, n = self.inputs.options, self.table.n_features
        lower, upper = np.empty((len(boxes), n), np.int64), np.empty((len(boxes), n), np.int64)
        kernel = getattr(cpu_training, f"{options.relaxation}_gradient")
        kernel(
            x, n, *self._codes(), boxes, 0, len(boxes), starts, order, entries.samples,
            entries.coefficients, options.forward_width, options.leak, lower, upper,
        )  # fmt: skip
        return lower, upper

    def update(self, boxes: np.ndarray, gradients: Pair, batch: int, rate: float) -> None:
        """Move some boxes along their gradients and round them to codes."""
        options = self.inputs.options
        per_batch = batch if options.optimizer == "adam" else REFERENCE_BATCH
        scale = 255.0 * options.unit / (FIXED_POINT * per_batch)
        decay = options.weight_decay / 255.0
        if options.optimizer == "adam":
            corrections = 1 / (1 - 0.9**self._steps), 1 / (1 - 0.999**self._steps)
            cpu_training.adam_step(
                boxes, 0, len(boxes), *gradients, scale, self.masters, *self._moments,
                self._codes(), (255.0 * rate, decay, *corrections),
            )  # fmt: skip
        else:
            velocity = self._moments[0] if self._moments else self.masters
            cpu_training.sgd_step(
                boxes, 0, len(boxes), *gradients, scale, self.masters, velocity,
                self._codes(), (255.0 * rate, options.momentum, decay),
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
        cpu_training.settle(self.masters, self._codes())
