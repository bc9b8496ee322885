"""One training step on the CPU: distances, soft-min, sparse gradient, update.

A step is three passes. Over samples: distances to all boxes and the few entries
(sample, box, coefficient) they give. A counting sort of the entries by box.
Over the touched boxes: integer gradient, optimiser, rounding to codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from boxnn_numba.backends.box_layout import UNREACHABLE, box_table
from boxnn_numba.kernels import training as cpu_training
from boxnn_numba.training.problem import FIXED_POINT

if TYPE_CHECKING:
    from boxnn_numba.backends.box_layout import BoxTable
    from boxnn_numba.backends.cpu import CpuBackend
    from boxnn_numba.training.loader import Feed, Pair
    from boxnn_numba.training.options import TrainingOptions
    from boxnn_numba.training.run import StepInputs

#: Samples whose distances to all boxes a thread keeps at a time; boxes it updates at a time.
_BLOCK_SAMPLES, _BLOCK_BOXES = 64, 32
#: The learning rate of SGD is per this many samples, whatever the batch.
REFERENCE_BATCH = 100
# Entries per sample that there is room for at first.
_ROOM = 64


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

    @classmethod
    def join(cls, parts: Sequence[Entries], offsets: Sequence[int]) -> Entries:
        """Return all entries in order; the samples of each part are counted from its offset."""
        samples = [part.samples + np.int32(o) for part, o in zip(parts, offsets, strict=True)]
        return cls(
            np.concatenate(samples),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.coefficients for part in parts]),
        )

    def first(self, count: int) -> Entries:
        """Return copies of the first `count` entries."""
        return Entries(*(array[:count].copy() for array in self.arrays()))

    def grown(self, count: int, capacity: int) -> Entries:
        """Return room for `capacity` entries that begins with the first `count` of these."""
        room = Entries.empty(capacity)
        for target, source in zip(room.arrays(), self.arrays(), strict=True):
            target[:count] = source[:count]
        return room

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the three arrays as the kernels take them."""
        return self.samples, self.boxes, self.coefficients


class Judgement:
    """What a block of samples is known to be, stage by stage; boxes may come in parts.

    Parameters
    ----------
    labels
        (rows,) int32 class indices.
    inputs
        Options and tables of the run.
    """

    def __init__(self, labels: np.ndarray, inputs: StepInputs) -> None:
        rows = len(labels)
        self.labels, self.inputs = labels, inputs
        self.minima = np.full((rows, len(inputs.offsets) - 1), UNREACHABLE, np.int32)
        self.own, self.sign = np.empty(rows, np.int32), np.empty(rows)
        self.nearest = np.empty((rows, 2), np.int32)
        self.masses = np.zeros((rows, 4), np.int64)
        self.value, self.margin, self.slope = np.empty(rows), np.empty(rows), np.empty(rows)

    def see_minima(self, distance: np.ndarray, offsets: np.ndarray) -> None:
        """Take in the nearest distances to some boxes."""
        cpu_training.class_minima(distance, len(self.labels), offsets, self.minima)

    def choose_sides(self) -> None:
        """Decide on the own side and the rivals, once all minima are in."""
        kind = self.inputs.objective.kind
        cpu_training.choose_sides(self.minima, self.labels, kind, self.own, self.sign, self.nearest)

    def see_masses(self, distance: np.ndarray, offsets: np.ndarray) -> None:
        """Take in the soft-min weights of some boxes."""
        table, cutoff = self.inputs.softmin.table, self.inputs.softmin.cutoff
        cpu_training.soft_masses(
            distance, self.own, offsets, self.nearest, table, cutoff, self.masses
        )

    def judge(self) -> None:
        """Evaluate the objective, once all masses are in."""
        cpu_training.judge_samples(
            self.sign, self.nearest, self.masses, tuple(self.inputs.softmin),
            tuple(self.inputs.objective), self.value, self.margin, self.slope,
        )  # fmt: skip

    def emit(
        self, distance: np.ndarray, offsets: np.ndarray, first: int, room: Entries, count: int
    ) -> int:
        """Append the entries of some boxes to `room` from `count` on; return the new count."""
        after = cpu_training.emit_entries(
            distance, first, self.own, offsets, self.nearest, self.masses, self.slope,
            tuple(self.inputs.softmin), FIXED_POINT, room.arrays(), count,
        )  # fmt: skip
        return int(after)


def forward(
    backend: CpuBackend, table: BoxTable, x: np.ndarray, labels: np.ndarray, inputs: StepInputs
) -> tuple[Entries, np.ndarray, np.ndarray]:
    """Return what a batch says of the boxes; changes nothing.

    Parameters
    ----------
    backend
        Where to compute.
    table
        The boxes.
    x
        Padded uint8 codes of the batch (`CpuBackend.samples`).
    labels
        (batch,) int32 class indices.
    inputs
        Options and tables of the run.

    Returns
    -------
    entries : Entries
        In the order of the samples.
    objective, margin : (batch,) float64
        Of every sample.
    """
    options = inputs.options
    values, margins = np.empty(len(labels)), np.empty(len(labels))
    boxes = backend.operands(table, options.relaxation)

    def work(first: int, last: int) -> Entries:
        room, count = Entries.empty(_ROOM * (last - first)), 0
        for block in range(first, last, _BLOCK_SAMPLES):
            stop = min(last, block + _BLOCK_SAMPLES)
            distance = backend.distances(
                x, block, stop, boxes, (0, table.n_boxes), options.forward_width,
                options.relaxation,
            )  # fmt: skip
            found = Judgement(labels[block:stop], inputs)
            found.see_minima(distance, inputs.offsets)
            found.choose_sides()
            found.see_masses(distance, inputs.offsets)
            found.judge()
            values[block:stop], margins[block:stop] = found.value, found.margin
            after = found.emit(distance, inputs.offsets, block, room, count)
            if after > len(room.boxes):
                room = room.grown(count, 2 * after)
                after = found.emit(distance, inputs.offsets, block, room, count)
            count = after
        return room.first(count)

    parts = backend.parallel(len(labels), _BLOCK_SAMPLES, work)
    return Entries.join(parts, [0] * len(parts)), values, margins


def step_sizes(
    options: TrainingOptions, n_boxes: int, batch: int, rate: float, steps: int
) -> tuple[float, tuple[float, ...]]:
    """Return what a step multiplies by.

    Parameters
    ----------
    options
        Options of the run.
    n_boxes, batch
        Numbers of boxes, and of samples that the gradient is summed over.
    rate, steps
        Learning rate of this step, and its number, from 1.

    Returns
    -------
    scale, settings
        Factor of the integer gradient; (rate, decay, correct1, correct2) as
        `elementwise.adam_update` takes them, or (rate, momentum, decay) for SGD.
    """
    # A batch larger than the boxes are many would move each by many samples at once: average.
    crowd = max(1.0, batch / n_boxes)
    per_batch = batch if options.optimizer == "adam" else REFERENCE_BATCH * crowd
    scale = 255.0 * options.unit / (FIXED_POINT * per_batch)
    decay = options.weight_decay / 255.0
    if options.optimizer == "adam":
        corrections = 1 / (1 - 0.9**steps), 1 / (1 - 0.999**steps)
        return scale, (255.0 * rate, decay, *corrections)
    return scale, (255.0 * rate, options.momentum, decay)


def is_dense(options: TrainingOptions) -> bool:
    """Whether a step moves boxes that no sample of the batch pulls at."""
    return options.optimizer == "adam" or options.momentum > 0 or options.weight_decay > 0


def n_moments(options: TrainingOptions) -> int:
    """Return how many numbers the optimiser keeps for each bound."""
    return 2 if options.optimizer == "adam" else int(options.momentum > 0)


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
        self.table = box_table(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8))
        cpu_training.settle(masters, self._codes())
        self._steps, self._masses = 0, np.zeros(shape[0], np.int64)
        self._dense = is_dense(inputs.options)
        self._moments = [
            (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
            for _ in range(n_moments(inputs.options))
        ]

    def _codes(self) -> Pair:
        return self.table.lower, self.table.upper

    def bounds(self) -> Pair:
        """Return the deployed bounds, (M, n) uint8; they may change with the next step."""
        return self.table.bounds()

    def batches(self, feed: Feed, epoch: int, size: int) -> Iterator[Pair]:
        """Yield the samples and labels of an epoch as `step` takes them."""
        for x, y in feed.batches(epoch, size):
            yield self.backend.samples(x), y

    def margins(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the soft margins of samples (N, n), codes as they come."""
        return self.entries(self.backend.samples(x), labels)[2]

    @staticmethod
    def fetch(figures: list[Pair]) -> list[Pair]:
        """Return what steps returned, in the memory of the host."""
        return figures

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
        # Sums of slopes 0 and 1 are no larger than this; int32 fits a vector twice as often.
        cpu_training.box_masses(starts, order, entries.coefficients, self._masses)
        narrow = int(self._masses.max()) < 2**31 and self.inputs.options.relaxation != "l2"
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
        return forward(self.backend, self.table, x, labels, self.inputs)

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
        options, n = self.inputs.options, self.table.n_features
        lower, upper = np.empty((2, len(boxes), n), np.int32 if narrow else np.int64)
        kernel = getattr(cpu_training, f"{options.relaxation}_gradient")
        kernel(
            x, n, *self._codes(), boxes, 0, len(boxes), starts, order, entries.samples,
            entries.coefficients, options.forward_width, options.leak, lower, upper,
        )  # fmt: skip
        return lower, upper

    def update(self, boxes: np.ndarray, gradients: Pair, batch: int, rate: float) -> None:
        """Move some boxes along their gradients and round them to codes."""
        options = self.inputs.options
        scale, settings = step_sizes(options, self.table.n_boxes, batch, rate, self._steps)
        if options.optimizer == "adam":
            cpu_training.adam_step(
                boxes, 0, len(boxes), *gradients, scale, self.masters, *self._moments,
                self._codes(), settings,
            )  # fmt: skip
        else:
            velocity = self._moments[0] if self._moments else self.masters
            cpu_training.sgd_step(
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
        cpu_training.settle(self.masters, self._codes())
