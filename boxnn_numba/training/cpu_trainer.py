"""CPU trainer: the boxes in training, and the step that moves them.

A step is two passes, each one call for a thread. Over samples: distances to all boxes and the few
entries (sample, box, coefficient) they give, see `boxnn_numba.training.softmin_stages`. Over the
touched cells, boxes in one part: integer gradient, optimiser, rounding to codes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from boxnn_numba.backends.box_layout import box_table, packed_frame
from boxnn_numba.backends.cpu import CpuBackend
from boxnn_numba.kernels import training
from boxnn_numba.kernels.short_steps import short_steps
from boxnn_numba.training.loader import Feed, Pair, batch_ends
from boxnn_numba.training.optimizer import is_dense, n_moments, step_sizes
from boxnn_numba.training.problem import FIXED_POINT, Problem
from boxnn_numba.training.softmin_stages import (
    Entries,
    Pulls,
    asked,
    block_bounds,
    is_short,
    pulls_of,
    step_work,
)

#: Samples whose margins are found at a time.
_MARGIN_ROWS = 1024
#: Work of moving boxes, in columns of entries and cells, that is worth a second thread.
_WORTH_THREADS = 2**18
#: Steps that are too short for a second thread are taken in one call: at most so many, and of so
#: much work, after which a run can be stopped.
_MOST_STEPS, _WORK_AT_ONCE = 64, 2**26


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
        self.backend, self.problem = backend, problem
        none = np.zeros(masters[0].shape, np.uint8)
        self._frame, self._spans = packed_frame(problem.structure)
        self.table = box_table(none, none, self._frame)
        shape = len(masters[0]), len(self._frame.source)
        self._codes = self.table.lower[: shape[0]], self.table.upper[: shape[0]]
        # What pads is 0..255, and nothing moves it.
        self.masters = np.zeros(shape, np.float32), np.full(shape, 255, np.float32)
        self._moments = [
            (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
            for _ in range(n_moments(problem.options))
        ]
        self._take(self.masters, masters)
        self._steps = 0
        self._room: Pulls | None = None
        self._dense = is_dense(problem.options)
        self._settle()

    def _take(self, pair: Pair, values: Pair) -> None:
        """Write values (M, n) of the features to a pair that is laid out."""
        for target, side in zip(pair, values, strict=True):
            target[:, self._frame.place] = side

    def _settle(self) -> None:
        training.settle(self.masters, self._codes)

    @property
    def _shape(self) -> tuple[int, int]:
        """Planes, and columns of a plane."""
        return self._frame.planes, self._frame.columns

    def bounds(self) -> Pair:
        """Return the deployed bounds, (M, n) uint8; they may change with the next step."""
        return self.table.bounds()

    def offset(self) -> np.ndarray:
        """Return (K,) int64 zeros: the bounds are all there is."""
        return np.zeros(self.problem.n_classes, np.int64)

    def batches(self, feed: Feed, epoch: int, size: int) -> Iterator[Pair]:
        """Return the samples and labels of an epoch as `steps` takes them."""
        return feed.batches(epoch, size, self.steps_at_once(size))

    def steps_at_once(self, size: int) -> int:
        """Return how many steps of `size` samples one call takes.

        It is more than 1 if a step is too short for a second thread; all are taken in one thread.
        """
        work = step_work(size, self.table.n_boxes, self.table.n_features)
        return min(_MOST_STEPS, _WORK_AT_ONCE // work) if is_short(work) else 1

    def margins(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the soft margins of samples (N, n) uint8."""
        if self.steps_at_once(self.problem.options.batch) > 1:
            return self._in_turn(x, labels, batch_ends(len(x), _MARGIN_ROWS), None)[1]
        found = [np.empty(0)]
        for first in range(0, len(x), _MARGIN_ROWS):
            some = slice(first, first + _MARGIN_ROWS)
            samples = self.backend.samples(x[some], self._frame)
            found.append(self.pulls(x[some], samples, labels[some])[2])
        return np.concatenate(found)

    @staticmethod
    def fetch(figures: list[Pair]) -> list[Pair]:
        """Return what steps returned, in the memory of the host."""
        return figures

    def step(self, x: np.ndarray, labels: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Improve the boxes on codes (batch, n) of class indices (batch,) int32.

        Returns objective and margin, (batch,) float64, of every sample before the step.
        """
        samples = self.backend.samples(x, self._frame)
        pulls, values, margins = self.pulls(x, samples, labels)
        self._steps += 1
        self.move(samples, pulls, len(labels), rate)
        return values, margins

    def steps(
        self, x: np.ndarray, labels: np.ndarray, ends: np.ndarray, rates: Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Improve the boxes on one batch after another, as `step` does for each at its rate."""
        if len(ends) == 1 and self.steps_at_once(self.problem.options.batch) == 1:
            return self.step(x, labels, *rates)
        found = self._in_turn(x, labels, ends, rates)
        self._steps += len(rates)
        return found

    def _in_turn(
        self, x: np.ndarray, labels: np.ndarray, ends: np.ndarray, rates: Sequence[float] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Look at one batch after another in one call, and move the boxes if there are rates."""
        problem, options = self.problem, self.problem.options
        shape, codes = self._shape, (self.table.lower, self.table.upper)
        values, margins = np.empty(len(labels)), np.empty(len(labels))
        batches = np.diff(ends, prepend=0).tolist()
        sizes = self._sizes(batches, rates or [0.0] * len(batches))
        most = max(options.batch, *batches, 0)
        room = Pulls.room(block_bounds(most)[0], self.table.n_boxes * len(self._spans), self._room)
        kernel = short_steps(
            options.relaxation, problem.rows is not None, shape[0] > 1, options.optimizer
        )
        samples, done = self.backend.samples(x, self._frame), 0
        while done < len(batches):
            done, most = kernel(
                samples, labels, ends, done, sizes, codes, shape, self._spans,
                options.forward_width, options.leak, *asked(problem),
                (room.starts, room.samples, room.coefficients), values, margins, self.masters,
                *self._two_moments, self._codes, options.crowd * FIXED_POINT, self._dense,
                rates is not None,
            )  # fmt: skip
            if done < len(batches):
                room = room.grown(most)
        self._room = room
        return values, margins

    def _sizes(self, batches: Sequence[int], rates: Sequence[float]) -> np.ndarray:
        """Return scale and settings of steps, of so many samples each."""
        found = [
            step_sizes(self.problem.options, self.table.n_boxes, batch, rate, step)
            for step, (batch, rate) in enumerate(zip(batches, rates, strict=True), self._steps + 1)
        ]
        return np.array([(scale, *settings) for scale, settings in found])

    @property
    def _two_moments(self) -> tuple[Pair, Pair]:
        """The moments; in the place of those that the optimiser does not keep, anything."""
        one, two = (*self._moments, self.masters, self.masters)[:2]
        return one, two

    def pulls(
        self, x: np.ndarray, samples: np.ndarray, labels: np.ndarray
    ) -> tuple[Pulls, np.ndarray, np.ndarray]:
        """Return what a batch says of the boxes, and each sample's objective and soft margin.

        x are the codes as they came, and samples the same laid out.
        """
        found = pulls_of(
            self.backend, self.table, samples, labels, self.problem, self._spans, self._room
        )
        self._room = found[0]
        return found

    def entries(self, x: np.ndarray, labels: np.ndarray) -> tuple[Entries, np.ndarray, np.ndarray]:
        """Return the entries of a batch, and each sample's objective and soft margin."""
        pulls, values, margins = self.pulls(x, self.backend.samples(x, self._frame), labels)
        return pulls.entries(), values, margins

    def gradient(self, x: np.ndarray, pulls: Pulls) -> Pair:
        """Return d objective / d lower and d upper of codes (batch, n), (M, n) float64.

        In fixed point, summed over the batch, per unit of penalty and code: what a step adds up.
        """
        options, place = self.problem.options, self._frame.place
        lower, upper = np.zeros((2, *self.masters[0].shape))
        training.gradient(options.relaxation, self._frame.planes > 1)(
            self.backend.samples(x, self._frame), self._spans, self._shape, pulls.starts,
            pulls.samples, pulls.coefficients, options.forward_width, options.leak, self._codes,
            lower, upper,
        )  # fmt: skip
        return lower[:, place], upper[:, place]

    def move(self, samples: np.ndarray, pulls: Pulls, batch: int, rate: float) -> None:
        """Move boxes along their entries and round them to codes."""
        tasks = [(*share, samples, pulls, batch, rate) for share in self._shares(pulls)]
        self.backend.each(tasks, self._move_cells)

    def _move_cells(
        self, first: int, last: int, samples: np.ndarray, pulls: Pulls, batch: int, rate: float
    ) -> None:
        """Move cells first..last, in one thread."""
        options, planes = self.problem.options, self._frame.planes
        scale, settings = step_sizes(options, self.table.n_boxes, batch, rate, self._steps)
        training.move(options.relaxation, planes > 1, options.optimizer)(
            samples, first, last, self._spans, self._shape, pulls.starts, pulls.samples,
            pulls.coefficients, options.forward_width, options.leak, self.masters,
            *self._two_moments, self._codes, scale, settings, options.crowd * FIXED_POINT,
            self._dense,
        )  # fmt: skip

    def _shares(self, pulls: Pulls) -> list[tuple[int, int]]:
        """Return first and last cells for each thread, of about as much work."""
        cells, threads = pulls.starts.shape[1] - 1, self.backend.threads
        if threads == 1:
            return [(0, cells)]
        columns = int((self._spans[:, 1] - self._spans[:, 0]).max()) * self._frame.planes
        if pulls.most_cost() * columns <= _WORTH_THREADS:
            return [(0, cells)]
        costs = pulls.costs() + (np.arange(cells + 1) if self._dense else 0)
        inner = np.searchsorted(costs, costs[-1] * np.arange(1, threads) // threads)
        bounds = [0, *inner.tolist(), cells]
        return list(itertools.pairwise(bounds))

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
