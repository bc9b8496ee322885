"""CPU trainer: the boxes in training, and the step that moves them.

A step is three passes. Over samples: distances to all boxes and the few entries
(sample, box, coefficient) they give, see `boxnn_numba.training.softmin_stages`. A counting sort of
the entries by cell, a box in one part. Over the touched cells: integer gradient, optimiser,
rounding to codes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from boxnn_numba.backends.box_layout import box_table, frame_of
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.kernels import training
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.optimizer import is_dense, n_moments, step_sizes
from boxnn_numba.training.problem import FIXED_POINT, Problem
from boxnn_numba.training.softmin_stages import Entries, forward

#: Cells, which are boxes in one part, that a thread updates at a time.
_BLOCK_CELLS = 32
#: Most codes of all boxes with which a step is two calls in one thread: more is work for several.
_SMALL = 2**15


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

    #: Whether a step of few boxes may be made at once, without `entries`.
    at_once = True

    def __init__(self, backend: CpuBackend, masters: Pair, problem: Problem) -> None:
        self.backend, self.problem = backend, problem
        structure, none = problem.structure, np.zeros(masters[0].shape, np.uint8)
        self.table = box_table(none, none, frame_of(structure.part, structure.group))
        # What moves stands part by part, without gaps: the table itself, or beside it.
        frame = self.table.frame
        apart = not frame.in_order
        self._frame = frame_of(structure.part, structure.group, lanes=1) if apart else frame
        shape = len(masters[0]), len(self._frame.source)
        self._codes = self.table.lower[: shape[0]], self.table.upper[: shape[0]]
        if apart:
            self._codes = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
        # What pads is 0..255, and nothing moves it.
        self.masters = np.zeros(shape, np.float32), np.full(shape, 255, np.float32)
        self._moments = [
            (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
            for _ in range(n_moments(problem.options))
        ]
        self._columns = np.full(shape[1], -1)
        self._columns[self._frame.place] = frame.place
        self._take(self.masters, masters)
        self._steps, self._masses = 0, np.zeros(shape[0] * structure.n_parts, np.int64)
        self._dense = is_dense(problem.options)
        graded = problem.options.relaxation == "graded" and frame.planes == 1
        self._small = (
            self.at_once
            and problem.rows is None
            and graded
            and not apart
            and np.prod(shape) <= _SMALL
        )
        self._room = Entries.empty(1)
        self._settle()

    def _take(self, pair: Pair, values: Pair) -> None:
        """Write values (M, n) of the features to a pair that is laid out."""
        for target, side in zip(pair, values, strict=True):
            target[:, self._frame.place] = side

    def _settle(self) -> None:
        training.settle(self.masters, self._codes)
        self._copy(np.arange(len(self._masses)))

    def _copy(self, cells: np.ndarray) -> None:
        """Bring the table up to date with the codes of some cells."""
        if self._frame is not self.table.frame:
            training.copy_cells(
                cells, *self._spans(), self._codes, self._columns, self.table.lower,
                self.table.upper,
            )  # fmt: skip

    def _spans(self) -> tuple[np.ndarray, tuple[int, int]]:
        """Return columns of each part, and planes and columns of a plane, for the kernels."""
        return self._frame.segments, (self._frame.planes, self._frame.columns)

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
        if self._small:
            return self._small_step(x, labels, rate)
        entries, values, margins = self.entries(x, labels)
        starts = np.empty(len(self._masses) + 1, np.int64)
        order = np.empty(len(entries.boxes), np.int64)
        training.sort_by_box(entries.boxes, len(entries.boxes), starts, order)
        # Sums of slopes 0 and 1 are no larger than this; int32 fits a vector twice as often.
        training.box_masses(starts, order, entries.coefficients, self._masses)
        narrow = int(self._masses.max()) < 2**31 and self.problem.options.relaxation != "l2"
        self._steps += 1
        cells = np.arange(len(self._masses)) if self._dense else np.flatnonzero(np.diff(starts))
        samples = self.backend.samples(x, self._frame)

        def work(first: int, last: int) -> None:
            for block in range(first, last, _BLOCK_CELLS):
                chosen = cells[block : min(last, block + _BLOCK_CELLS)]
                gradients = self.gradient(samples, entries, chosen, starts, order, narrow)
                self.update(chosen, gradients, len(labels), rate)
                self._copy(chosen)

        self.backend.parallel(len(cells), _BLOCK_CELLS, work)
        return values, margins

    def _small_step(self, x: np.ndarray, labels: np.ndarray, rate: float) -> Pair:
        """Step with few plain boxes, for which the calls would take longer than the work."""
        problem, options, frame = self.problem, self.problem.options, self.table.frame
        width, samples = options.forward_width, self.backend.samples(x, frame)
        boxes = self.backend.operands(self.table, problem.structure)
        distance = self.backend.distances(samples, boxes, (0, self.table.n_boxes), width)
        values, margins = np.empty(len(labels)), np.empty(len(labels))
        while True:
            count = training.stages(
                distance, labels, problem.offsets, tuple(problem.softmin),
                tuple(problem.objective), FIXED_POINT, values, margins, self._room.arrays(),
            )  # fmt: skip
            if count <= len(self._room.boxes):
                break
            self._room = Entries.empty(2 * count)
        self._steps += 1
        scale, settings = step_sizes(options, self.table.n_boxes, len(labels), rate, self._steps)
        adam = options.optimizer == "adam"
        first, second = (*self._moments, self.masters, self.masters)[:2]
        none = (0.0,) * (3 if adam else 4)
        training.move(
            samples, count, self._room.arrays(), *self._spans(), width, options.leak, scale, adam,
            settings if adam else none, none if adam else settings, options.crowd * FIXED_POINT,
            self.masters, first, second, self._codes, self._masses, self._dense,
        )  # fmt: skip
        return values, margins

    def entries(self, x: np.ndarray, labels: np.ndarray) -> tuple[Entries, np.ndarray, np.ndarray]:
        """Return the entries of a batch, and each sample's objective and soft margin."""
        return forward(self.backend, self.table, x, labels, self.problem)

    def gradient(
        self,
        samples: np.ndarray,
        entries: Entries,
        cells: np.ndarray,
        starts: np.ndarray,
        order: np.ndarray,
        narrow: bool = False,
    ) -> Pair:
        """Return d objective / d lower and d upper of some cells, (cells, most columns of a part).

        Of samples that are laid out part by part; in fixed point, summed over the batch, per unit
        of penalty and code. They are int64, or with `narrow` int32, which the sums must fit.
        """
        options, (spans, shape) = self.problem.options, self._spans()
        most = shape[0] * int((spans[:, 1] - spans[:, 0]).max())
        lower, upper = np.empty((2, len(cells), most), np.int32 if narrow else np.int64)
        grouped = shape[0] > 1
        kernel = getattr(training, f"{'grouped' if grouped else options.relaxation}_gradient")
        kernel(
            samples, *self._codes, spans, shape, cells, starts, order, entries.samples,
            entries.coefficients, options.forward_width, options.leak, lower, upper,
        )  # fmt: skip
        return lower, upper

    def update(self, cells: np.ndarray, gradients: Pair, batch: int, rate: float) -> None:
        """Move some cells along their gradients and round them to codes."""
        options, (spans, shape) = self.problem.options, self._spans()
        scale, settings = step_sizes(options, self.table.n_boxes, batch, rate, self._steps)
        if options.optimizer == "adam":
            training.adam_step(
                cells, spans, shape, gradients, scale, self.masters, *self._moments, self._codes,
                settings,
            )  # fmt: skip
        else:
            velocity = self._moments[0] if self._moments else self.masters
            training.sgd_step(
                cells, spans, shape, gradients, scale, self.masters, velocity, self._codes,
                settings, self._masses, options.crowd * FIXED_POINT,
            )  # fmt: skip

    # --- state, for checkpoints ---------------------------------------------------------

    def _pairs(self) -> Iterator[tuple[str, Pair]]:
        """Yield what is laid out under the names that all trainers give it."""
        yield "master", self.masters
        for index, moment in enumerate(self._moments):
            yield f"moment{index}", moment

    def state(self) -> dict[str, np.ndarray]:
        """Return masters, moments and the number of steps."""
        place = self._frame.place
        arrays = {
            f"{name}_{side}": pair[index][:, place]
            for name, pair in self._pairs()
            for index, side in enumerate(("lower", "upper"))
        }
        return {**arrays, "steps": np.array(self._steps)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        for name, pair in self._pairs():
            self._take(pair, (arrays[f"{name}_lower"], arrays[f"{name}_upper"]))
        self._steps = int(arrays["steps"])
        self._settle()
