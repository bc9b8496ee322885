"""CUDA trainer: boxes, samples and figures stay on the GPU, and no step waits for the host."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from boxnn_numba.backends import cuda_runtime as runtime
from boxnn_numba.backends.box_layout import BoxTable
from boxnn_numba.backends.cuda import CudaBackend
from boxnn_numba.backends.cuda_layout import WordOrder, n_planes, penalty_of
from boxnn_numba.kernels import cuda_distances, cuda_training
from boxnn_numba.kernels.cuda_distances import COLUMNS, LINE, ROWS, TILE_BOXES, TILE_SAMPLES
from boxnn_numba.training.loader import Feed, Pair
from boxnn_numba.training.optimizer import is_dense, n_moments, step_sizes
from boxnn_numba.training.problem import FIXED_POINT, Problem
from boxnn_numba.training.softmin_stages import LEAST, Entries

#: Samples whose figures there is room for at a time, 16 bytes each.
_FIGURES = 2**17


@dataclass(frozen=True)
class DeviceRows:
    """Some samples of a window that is on the GPU: rows ``order[first : first + count]``.

    Attributes
    ----------
    words, labels
        (rows, words) uint32 codes, and int32 class indices.
    order
        int32 row numbers.
    first, count
        Which of the order.
    """

    words: Any
    labels: Any
    order: Any
    first: int
    count: int


class DeviceEntries(NamedTuple):
    """Entries on the GPU: those of each cell, a box in one part, or of each template.

    Attributes
    ----------
    counts
        int32, how many there are of each; 0 between steps.
    samples, coefficients
        (cells, room) int32, samples of the batch, and coefficients in fixed point.
    """

    counts: Any
    samples: Any
    coefficients: Any

    @classmethod
    def empty(cls, cells: int, room: int) -> DeviceEntries:
        """Return room for so many entries of each."""
        sides = (cuda.device_array((cells, room), np.int32) for _ in range(2))
        return cls(runtime.send(np.zeros(cells, np.int32)), *sides)

    def clear(self, stream: Any) -> None:
        """Forget all entries."""
        runtime.launch(
            cuda_distances.fill, self.counts.size, self.counts, np.int32(0), stream=stream
        )


class CudaTrainer:
    """The boxes in training, on the GPU.

    Parameters
    ----------
    backend
        The GPU.
    masters
        Initial (lower, upper), (M, n) float32 in codes.
    problem
        The tables of the run.

    Raises
    ------
    BackendError
        The boxes, or a step, do not fit the GPU's memory.
    """

    def __init__(self, backend: CudaBackend, masters: Pair, problem: Problem) -> None:
        options, structure = problem.options, problem.structure
        self.backend, self.n_boxes, self.n_features = backend, *masters[0].shape
        self._penalty = options.relaxation
        if self._penalty == "graded":
            self._penalty = penalty_of(options.forward_width, structure)
        self._n_parts, self._order = structure.n_parts, WordOrder.of(structure)
        planes = (n_planes(self._penalty), self.n_boxes, len(self._order.kinds))
        self._steps, self._dense = 0, is_dense(options)
        moments = n_moments(options)
        needed = 4 * int(np.prod(planes)) + 4 * (1 + moments) * 2 * masters[0].size
        with runtime.enough_memory(needed, "use fewer `boxes`, or `device` cpu"):
            self._masters = runtime.send(_stacked(masters))
            shape = self._masters.shape
            self._moments = [runtime.send(np.zeros(shape, np.float32)) for _ in range(moments)]
            self._planes = runtime.send(np.zeros(planes, np.uint32))
        order = self._order
        self._columns, self._starts, self._kinds = map(
            runtime.send, (order.columns, order.starts, order.kinds)
        )
        self._optimizer = "momentum" if moments == 1 else options.optimizer
        self._parts: Any = None
        self._distance: Any = None
        self._cells, self._templates = (DeviceEntries.empty(1, 0) for _ in range(2))
        self._nothing = self._cells
        self._figures, self._used = cuda.device_array((2, 0), np.float64), 0
        self._window: tuple[np.ndarray, Any] | None = None
        self.problem = problem
        self._settle()

    @property
    def problem(self) -> Problem:
        """The tables of the run."""
        return self._problem

    @problem.setter
    def problem(self, problem: Problem) -> None:
        self._problem = problem
        soft, worth = problem.softmin, problem.objective
        real = (
            soft.tau_per_unit, soft.unit, soft.one, soft.log_scale, worth.bound, worth.sharpness,
            worth.keep, FIXED_POINT,
        )  # fmt: skip
        self._constants = (
            runtime.send(problem.offsets.astype(np.int64)), runtime.send(soft.table),
            np.int64(soft.cutoff), runtime.send(np.array(real)), np.int32(worth.kind),
        )  # fmt: skip
        if problem.rows is not None:
            soft = problem.rows.softmin
            real_of_rows = np.array((soft.tau_per_unit, soft.unit, soft.one, soft.log_scale))
            self._row_constants = (
                runtime.send(problem.structure.rows.astype(np.int32)), runtime.send(soft.table),
                np.int64(soft.cutoff), runtime.send(real_of_rows),
            )  # fmt: skip

    # --- samples ------------------------------------------------------------------------

    def batches(self, feed: Feed, epoch: int, size: int) -> Iterator[tuple[DeviceRows, np.ndarray]]:
        """Yield the samples of an epoch as `step` takes them, and their labels.

        A window is sent whole with the order of its rows, and only once if it is all there is.
        """
        for x, y, rows in feed.windows(epoch, size):
            if not len(rows):
                continue
            words, labels = self._sent(x), runtime.send(y.astype(np.int32))
            order = runtime.send(rows.astype(np.int32))
            for first in range(0, len(rows), size):
                some = rows[first : first + size]
                yield DeviceRows(words, labels, order, first, len(some)), y[some]

    @staticmethod
    def steps_at_once(size: int) -> int:
        """Return 1: a step waits for nothing of the host."""
        return 1

    def _sent(self, x: np.ndarray) -> Any:
        if self._window is None or self._window[0] is not x:
            self._window = None
            words = self._order.words(x)
            with runtime.enough_memory(words.nbytes, "use `device` cpu"):
                self._window = x, runtime.send(words)
        return self._window[1]

    def _sent_rows(self, x: np.ndarray, labels: np.ndarray) -> DeviceRows:
        """Return samples (N, n) uint8 of the host on the GPU, in their order."""
        order = runtime.send(np.arange(len(x), dtype=np.int32))
        sent = runtime.send(self._order.words(x)), runtime.send(labels.astype(np.int32))
        return DeviceRows(*sent, order, 0, len(x))

    # --- one step -----------------------------------------------------------------------

    def steps(
        self, x: DeviceRows, labels: np.ndarray, ends: np.ndarray, rates: Sequence[float]
    ) -> tuple[Any, Any]:
        """Improve the boxes on the one batch that `batches` yields at a time, see `step`."""
        return self.step(x, labels, *rates)

    def step(self, x: DeviceRows, labels: np.ndarray, rate: float) -> tuple[Any, Any]:
        """Improve the boxes on a batch, which knows its labels.

        Returns objective and margin, (batch,) float64, of every sample before the step, on the GPU;
        see `fetch`.
        """
        options, stream = self.problem.options, runtime.current_stream()
        self._make_room(x.count)
        figures = self._judge(x)
        self._steps += 1
        scale, sizes = step_sizes(options, self.n_boxes, x.count, rate, self._steps)
        settings = (*sizes, 0.0)[:4]
        moments = (*self._moments, self._masters, self._masters)[:2]
        grouped = self._penalty == "grouped"
        kernel = cuda_training.step("grouped" if grouped else options.relaxation, self._optimizer)
        kernel[self._cells.counts.size, LINE, stream](
            x.words, x.order, np.int32(x.first), self._columns, self._starts, self._kinds,
            *self._cells, np.int32(options.forward_width), options.leak, scale, settings,
            self._dense, self._masters, *moments, self._planes, options.crowd * FIXED_POINT,
        )  # fmt: skip
        if grouped:
            self._round(stream)
        return figures

    def entries(self, x: np.ndarray, labels: np.ndarray) -> tuple[Entries, np.ndarray, np.ndarray]:
        """Return the entries of samples (N, n) uint8 of the host, their objectives and margins.

        In the order of the cells; changes nothing.
        """
        self._make_room(len(x))
        figures = self._judge(self._sent_rows(x, labels))
        values, margins = self.fetch([figures])[0]
        counts = self._cells.counts.copy_to_host()
        self._cells.clear(runtime.current_stream())
        most = int(counts.max())
        used = np.arange(most) < counts[:, None]
        samples, coefficients = (side.copy_to_host()[:, :most][used] for side in self._cells[1:])
        cells = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return Entries(samples, cells, coefficients.astype(np.int64)), values, margins

    def deploy(self, lower: np.ndarray, upper: np.ndarray) -> None:
        """Take over boxes (M, n) uint8 as they are."""
        self._masters.copy_to_device(_stacked((lower, upper)))
        self._settle()

    def margins(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the soft margins of samples (N, n) uint8 of the host."""
        self._make_room(min(len(x), self.problem.options.batch))
        every, found, rows = self._sent_rows(x, labels), [], self._parts.shape[0]
        for first in range(0, len(x), rows):
            some = replace(every, first=first, count=min(rows, len(x) - first))
            found.append(self._judge(some, emit=False))
        return np.concatenate([margins for _, margins in self.fetch(found)])

    def _judge(self, x: DeviceRows, emit: bool = True) -> tuple[Any, Any]:
        """Compare samples with all boxes; return their objectives and margins, on the GPU.

        Entries, if wanted, are left for a step.
        """
        stream, rows, place = runtime.current_stream(), self.problem.rows, self._used
        if place + x.count > self._figures.shape[1]:
            self._figures = cuda.device_array((2, max(_FIGURES, x.count)), np.float64)
            place = 0
        self._used = place + x.count
        distance, entries = self._distances(x, stream)
        values, margins = self._figures[0], self._figures[1]
        cuda_training.judge[x.count, LINE, stream](
            distance, x.order, np.int32(x.first), x.labels, *self._constants, values, margins,
            np.int64(place), *(entries if emit else self._nothing),
        )  # fmt: skip
        if rows is not None and emit:
            grid = entries.counts.size * self._n_parts, -(-x.count // LINE)
            cuda_training.spread[grid, LINE, stream](
                self._parts, *self._row_constants, np.int32(LEAST), *entries, *self._cells
            )
            entries.clear(stream)
        return values[place : self._used], margins[place : self._used]

    def _distances(self, x: DeviceRows, stream: Any) -> tuple[Any, DeviceEntries]:
        """Return the distances of samples to all boxes or templates, and the place of entries."""
        first, last, parts = np.int32(x.first), np.int32(x.first + x.count), self._parts[: x.count]
        blocks = -(-x.count // TILE_SAMPLES) * -(-self.n_boxes // TILE_BOXES) * self._n_parts
        cuda_distances.pairwise(self._penalty, True)[blocks, (COLUMNS, ROWS), stream](
            x.words, x.order, first, last, self._planes, self._starts, self._kinds,
            np.int32(2 * self.problem.options.forward_width), parts,
        )  # fmt: skip
        rows = self.problem.rows
        if rows is None:
            return parts.reshape(x.count, self.n_boxes), self._cells
        distance = self._distance[: x.count]
        runtime.launch(
            cuda_training.assemble, distance.size, parts, *self._row_constants,
            np.int32(rows.shift), distance, stream=stream,
        )  # fmt: skip
        return distance, self._templates

    def _make_room(self, count: int) -> None:
        """Allocate what a step on so many samples needs."""
        if self._parts is not None and self._parts.shape[0] >= count:
            return
        self._parts = self._distance = None
        self._cells = self._templates = self._nothing
        factored, cells = self.problem.rows is not None, self.n_boxes * self._n_parts
        templates = len(self.problem.structure.rows) - 1 if factored else 0
        per_sample = 12 * (cells + templates)
        fits = int(min(runtime.free_memory(), 2.0**62)) // per_sample
        with runtime.enough_memory(count * per_sample, f"pass `batch` {fits} or less"):
            self._parts = cuda.device_array((count, self._n_parts, self.n_boxes), np.int32)
            self._cells = DeviceEntries.empty(cells, count)
            if factored:
                self._distance = cuda.device_array((count, templates), np.int32)
                self._templates = DeviceEntries.empty(templates, count)

    # --- what the host asks for -----------------------------------------------------------

    @staticmethod
    def fetch(figures: list[Any]) -> list[Pair]:
        """Return what steps returned, in the memory of the host."""
        if figures:
            runtime.current_stream().synchronize()
        return [(values.copy_to_host(), margins.copy_to_host()) for values, margins in figures]

    def bounds(self) -> Pair:
        """Return copies of the deployed bounds, (M, n) uint8."""
        runtime.current_stream().synchronize()
        low, high = self._order.codes(self._planes.copy_to_host()[:2])
        return low, high

    def offset(self) -> np.ndarray:
        """Return (K,) int64 zeros: the bounds are all there is."""
        return np.zeros(self.problem.n_classes, np.int64)

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        """Yield the arrays (2, M, n) on the GPU under the names that all trainers give them."""
        yield "master", self._masters
        for index, moment in enumerate(self._moments):
            yield f"moment{index}", moment

    def state(self) -> dict[str, np.ndarray]:
        """Return masters, moments and the number of steps."""
        runtime.current_stream().synchronize()
        arrays: dict[str, np.ndarray] = {"steps": np.array(self._steps)}
        for name, pair in self._pairs():
            arrays[f"{name}_lower"], arrays[f"{name}_upper"] = pair.copy_to_host()
        return arrays

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what `state` returned."""
        for name, pair in self._pairs():
            both = arrays[f"{name}_lower"], arrays[f"{name}_upper"]
            pair.copy_to_device(_stacked(both))
        self._steps = int(arrays["steps"])
        self._settle()

    def _settle(self) -> None:
        """Round the masters, which may have been sent just now, to codes."""
        cuda.default_stream().synchronize()
        self._round(runtime.current_stream())

    def _round(self, stream: Any) -> None:
        cuda_training.settle[self.n_boxes, LINE, stream](
            self._masters, self._columns, np.int32(self.problem.options.forward_width),
            self._planes,
        )  # fmt: skip


def _stacked(pair: Pair) -> np.ndarray:
    """Return two arrays (M, n) as one, C-contiguous float32, that can be sent."""
    return np.ascontiguousarray(np.stack(pair), np.float32)


_lock = threading.Lock()
_last: CudaTrainer | None = None


def forward(
    backend: CudaBackend, table: BoxTable, x: np.ndarray, labels: np.ndarray, problem: Problem
) -> tuple[Entries, np.ndarray, np.ndarray]:
    """Return what a batch says of the boxes; as `boxnn_numba.training.softmin_stages.forward`.

    Boxes and samples come from the host; the entries are in the order of the cells. What was
    allocated for a problem is used again.
    """
    global _last
    with _lock:
        bounds = table.bounds()
        if _last is None or _last.n_boxes != table.n_boxes or _last.problem is not problem:
            masters = bounds[0].astype(np.float32), bounds[1].astype(np.float32)
            _last = CudaTrainer(backend, masters, problem)
        else:
            _last.deploy(*bounds)
        return _last.entries(x, labels)
