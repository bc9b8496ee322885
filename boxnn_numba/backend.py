"""The seam between the mathematics and the machine: one object per device.

A backend prepares samples and boxes (padding, layout) and runs the kernels on
them over the threads it was given. `get_backend` returns it by name.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.errors import BackendError, OptionError
from boxnn_numba.kernels import cpu, simd

if TYPE_CHECKING:
    from boxnn_numba.stepper import CpuStepper
    from boxnn_numba.training import StepInputs

DEVICES = ("cpu", "auto")

#: Samples that a thread takes at a time, and boxes whose distances to them it keeps in its cache
#: (whole tiles both).
_BLOCK_SAMPLES, _BLOCK_BOXES = 64, 1024
_CACHE_LINE = 64
#: Samples whose class distances a thread computes at a time.
_BLOCK_ROWS = 256
#: Part of the penalties between boxes that the columns before the probe make up.
_PROBE_SHARE = 0.94
_LIMIT: contextvars.ContextVar[int | None] = contextvars.ContextVar("boxnn_threads", default=None)
#: Distance to a class that has no box.
UNREACHABLE = np.iinfo(np.int32).max


def get_backend(device: str = "auto", threads: int | None = None) -> CpuBackend:
    """Return the backend for a device.

    Parameters
    ----------
    device
        ``"cpu"``, or ``"auto"`` for the best one present.
    threads
        Threads to use; all cores that this process may use by default (or ``BOXNN_NUM_THREADS``).

    Raises
    ------
    OptionError
        Unknown device or a thread count below 1.
    BackendError
        The device is known but not usable here.
    """
    if device == "cuda":
        raise BackendError("this version has no CUDA backend yet; use --device cpu")
    validation.choice("device", device, DEVICES)
    return _cpu_backend(default_threads() if threads is None else threads)


@functools.cache
def _cpu_backend(threads: int) -> CpuBackend:
    return CpuBackend(threads)


@contextlib.contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Make `threads` the default of this thread's calls inside the body; None changes nothing."""
    token = _LIMIT.set(_LIMIT.get() if threads is None else threads)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def default_threads() -> int:
    """Return the limit in force, ``BOXNN_NUM_THREADS``, or the cores that this process may use."""
    limit = _LIMIT.get()
    if limit is not None:
        return limit
    forced = os.environ.get("BOXNN_NUM_THREADS")
    if forced is not None:
        try:
            return validation.positive("BOXNN_NUM_THREADS", int(forced))
        except ValueError:
            raise OptionError(
                f"BOXNN_NUM_THREADS is {forced!r}; it must be a whole number of at least 1"
            ) from None
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class BoxTable:
    """Boxes laid out for the kernels.

    Attributes
    ----------
    lower, upper
        uint8 (M', n'), padded to whole tiles and vectors; padding never adds to a distance.
    n_boxes, n_features
        M and n without the padding.
    """

    lower: np.ndarray
    upper: np.ndarray
    n_boxes: int
    n_features: int

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (M, n) parts of lower and upper, as views."""
        m, n = self.n_boxes, self.n_features
        return self.lower[:m, :n], self.upper[:m, :n]


def _aligned(shape: tuple[int, ...], value: int) -> np.ndarray:
    """Return a uint8 array of one value that begins on a cache line, as vectors like it."""
    size = int(np.prod(shape))
    raw = np.full(size + _CACHE_LINE, value, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size].reshape(shape)


def _box_table(lower: np.ndarray, upper: np.ndarray) -> BoxTable:
    m, n = lower.shape
    shape = (_round_up(m, cpu.TILE_BOXES), _round_up(n, simd.LANES))
    table = BoxTable(_aligned(shape, 0), _aligned(shape, 255), m, n)
    table.lower[:m, :n] = lower
    table.upper[:m, :n] = upper
    return table


@dataclass(frozen=True)
class ClassLayout:
    """Boxes laid out for class distances, made once per model.

    The columns are in a new order, those that tell boxes apart first, so that most boxes can be
    left after `probe` columns and the columns that never matter come last.

    Attributes
    ----------
    table
        The boxes, whole tiles per class (the last box of a class is repeated).
    labels, starts
        Class of each row of the table; rows ``starts[c]:starts[c + 1]`` are of class c.
    columns
        (n,) original index of each column.
    floor, ceiling
        (1, n') uint8, the largest lower and the smallest upper bound of each column.
    probe
        Columns after which to look whether a tile can be left, whole vectors.
    """

    table: BoxTable
    labels: np.ndarray
    starts: np.ndarray
    columns: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    probe: int

    @functools.cached_property
    def lanes(self) -> LaneTable:
        """The table for the lane kernels."""
        return _lane_table(*self.table.bounds(), np.int32)


def class_layout(lower: np.ndarray, upper: np.ndarray, offsets: np.ndarray) -> ClassLayout:
    """Lay out uint8 bounds (M, n), sorted by class, for `CpuBackend.class_distance`.

    Parameters
    ----------
    lower, upper
        The bounds.
    offsets
        (K + 1,) boxes ``offsets[c]:offsets[c + 1]`` are of class c.
    """
    counts = np.diff(offsets)
    padded = _round_up(counts, cpu.TILE_BOXES)
    starts = np.concatenate(([0], np.cumsum(padded)))
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), padded)
    within = np.arange(len(labels)) - starts[labels]
    rows = offsets[labels] + np.minimum(within, counts[labels] - 1)
    # How much a column adds between boxes: the penalties of some boxes' centres to some others.
    low, high = (side[:: max(1, len(side) // 256)].astype(np.int32) for side in (lower, upper))
    weight = np.zeros(lower.shape[1])
    for centre in ((low + high) // 2)[::4]:
        weight += np.abs(centre - np.clip(centre, low, high)).sum(axis=0)
    columns = np.argsort(-weight, kind="stable")
    share = np.cumsum(weight[columns]) / max(1.0, weight.sum())
    probe = _round_up(int(np.searchsorted(share, _PROBE_SHARE)) + 1, simd.LANES)
    table = _box_table(lower[rows][:, columns], upper[rows][:, columns])
    floor = table.lower[: len(rows)].max(axis=0, keepdims=True)
    ceiling = table.upper[: len(rows)].min(axis=0, keepdims=True)
    return ClassLayout(table, labels, starts, columns, floor, ceiling, probe)


@dataclass(frozen=True)
class LaneTable:
    """Boxes for the lane kernels: lower and upper (blocks, n, LANE_BOXES) of any number type."""

    lower: np.ndarray
    upper: np.ndarray


def _lane_table(lower: np.ndarray, upper: np.ndarray, dtype: Any) -> LaneTable:
    blocks = -(-len(lower) // cpu.LANE_BOXES)
    sides = []
    for side in (lower, upper):
        padded = np.zeros((blocks * cpu.LANE_BOXES, side.shape[1]), dtype)
        padded[: len(side)] = side
        shaped = padded.reshape(blocks, cpu.LANE_BOXES, -1).transpose(0, 2, 1)
        sides.append(np.ascontiguousarray(shaped))
    return LaneTable(*sides)


def _lane_distances(
    samples: np.ndarray, boxes: LaneTable, span: tuple[int, int], width: Any, penalty: str
) -> np.ndarray:
    first, last = span[0] // cpu.LANE_BOXES, -(-span[1] // cpu.LANE_BOXES)
    out = np.empty((len(samples), (last - first) * cpu.LANE_BOXES), samples.dtype)
    kernel = getattr(cpu, f"{penalty}_distances")
    kernel(samples, boxes.lower[first:last], boxes.upper[first:last], width, out)
    return out


def _round_up(value: Any, multiple: int) -> Any:
    return -(-value // multiple) * multiple


class CpuBackend:
    """Kernels on the cores of this machine.

    Parameters
    ----------
    threads
        Number of threads, at least 1. With 1 everything runs in the caller's
        thread, which is what a Dask worker wants.
    """

    name = "cpu"

    def __init__(self, threads: int) -> None:
        self.threads = validation.positive("threads", threads)
        self._pool = ThreadPoolExecutor(threads, "boxnn") if threads > 1 else None

    # --- where things run ---------------------------------------------------------------

    def parallel(self, n: int, grain: int, work: Callable[[int, int], Any]) -> list[Any]:
        """Call ``work(first, last)`` on pieces of range(n), each a multiple of `grain` long.

        Results come in the order of the pieces.
        """
        if self._pool is None or n <= grain:
            return [work(0, n)] if n else []
        size = max(grain, _round_up(-(-n // (4 * self.threads)), grain))
        pieces = [(first, min(n, first + size)) for first in range(0, n, size)]
        return list(self._pool.map(lambda piece: work(*piece), pieces))

    # --- layout -------------------------------------------------------------------------

    def samples(self, x: np.ndarray) -> np.ndarray:
        """Return uint8 codes (N, n) padded to whole tiles of samples and vectors of features."""
        rows, columns = len(x), x.shape[1]
        shape = (_round_up(rows, cpu.TILE_SAMPLES), _round_up(columns, simd.LANES))
        padded = _aligned(shape, 0)
        padded[:rows, :columns] = x
        return padded

    def boxes(self, lower: np.ndarray, upper: np.ndarray) -> BoxTable:
        """Return uint8 bounds (M, n) laid out for the kernels."""
        return _box_table(lower, upper)

    # --- distances ----------------------------------------------------------------------

    def operands(self, table: BoxTable, penalty: str = "graded") -> BoxTable | LaneTable:
        """Return boxes in the form that `distances` reads for a penalty on this processor.

        The vector form is the table itself; the lane form is a copy, which later changes of
        the table do not reach.
        """
        if simd.TARGET == "plain" or penalty != "graded":
            return _lane_table(*table.bounds(), np.int32)
        return table

    def distances(
        self,
        samples: np.ndarray,
        first: int,
        last: int,
        boxes: BoxTable | LaneTable,
        span: tuple[int, int],
        width: int,
        penalty: str = "graded",
    ) -> np.ndarray:
        """Return the int32 distances of samples first..last to boxes span[0]..span[1].

        Runs in the caller's thread. `first` and ``span[0]`` are multiples of 64. The result
        may have more rows and columns than asked for: those belong to the padding.
        """
        rows = _round_up(last - first, cpu.TILE_SAMPLES)
        if isinstance(boxes, LaneTable):
            codes = samples[first : first + rows, : boxes.lower.shape[1]].astype(np.int32)
            return _lane_distances(codes, boxes, span, np.int32(width), penalty)
        stop = min(_round_up(span[1], cpu.TILE_BOXES), len(boxes.lower))
        out = np.empty((rows, stop - span[0]), np.int32)
        kernel = cpu.vector_distances(width)
        kernel(samples, first, first + rows, boxes.lower, boxes.upper, span[0], stop, width, out)
        return out

    def pairwise(
        self, samples: np.ndarray, n: int, table: BoxTable, width: int, out: np.ndarray
    ) -> None:
        """Write the int32 distances of the first n samples to all boxes to `out` (n, M)."""

        boxes = self.operands(table)

        def work(first: int, last: int) -> None:
            for box in range(0, table.n_boxes, _BLOCK_BOXES):
                stop = min(table.n_boxes, box + _BLOCK_BOXES)
                block = self.distances(samples, first, last, boxes, (box, stop), width)
                out[first:last, box:stop] = block[: last - first, : stop - box]

        self.parallel(n, _BLOCK_SAMPLES, work)

    def class_distance(
        self, x: np.ndarray, layout: ClassLayout, width: int, out: np.ndarray
    ) -> None:
        """Write the int32 distances to the nearest box of each class to `out` (N, K).

        x is (N, n) uint8 codes, as they come. No (N, M) matrix is made, and the columns are
        padded block by block, so memory does not grow with N.
        """
        work = self._plain_classes if simd.TARGET == "plain" else self._vector_classes

        self.parallel(
            len(x), _BLOCK_SAMPLES, lambda first, last: work(x, first, last, layout, width, out)
        )

    @staticmethod
    def _vector_classes(
        x: np.ndarray, first: int, last: int, layout: ClassLayout, width: int, out: np.ndarray
    ) -> None:
        kernel = cpu.vector_nearest(width)
        for start in range(first, last, _BLOCK_ROWS):
            stop = min(last, start + _BLOCK_ROWS)
            rows = _round_up(stop - start, cpu.TILE_SAMPLES)
            codes = _aligned((rows, layout.table.lower.shape[1]), 0)
            cpu.gather_columns(x, start, stop, layout.columns, codes)
            columns = cpu.used_columns(codes[: stop - start], layout.floor, layout.ceiling)
            nearest = np.full((out.shape[1], rows), UNREACHABLE, np.int32)
            kernel(
                codes, layout.table.lower, layout.table.upper, layout.starts,
                min(layout.probe, columns), columns, width, nearest,
            )  # fmt: skip
            out[start:stop] = nearest[:, : stop - start].T

    def _plain_classes(
        self, x: np.ndarray, first: int, last: int, layout: ClassLayout, width: int, out: np.ndarray
    ) -> None:
        lanes = layout.lanes
        for start in range(first, last, _BLOCK_SAMPLES):
            stop = min(last, start + _BLOCK_SAMPLES)
            codes = self.samples(x[start:stop][:, layout.columns]).astype(np.int32)
            span = (0, layout.table.n_boxes)
            block = _lane_distances(
                codes[:, : layout.table.n_features], lanes, span, np.int32(width), "graded"
            )
            out[start:stop] = UNREACHABLE
            cpu.nearest_per_class(block, stop - start, layout.labels, out, start)

    def float_distances(
        self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, width: float
    ) -> np.ndarray:
        """Return the (N, M) distances of float32 or float64 samples to boxes of the same type."""
        out = np.empty((len(x), len(lower)), x.dtype)
        boxes = _lane_table(lower, upper, x.dtype)

        def work(first: int, last: int) -> None:
            padding = -(last - first) % cpu.TILE_SAMPLES
            rows = np.pad(x[first:last], ((0, padding), (0, 0)))
            block = _lane_distances(rows, boxes, (0, len(lower)), x.dtype.type(width), "graded")
            out[first:last] = block[: last - first, : len(lower)]

        self.parallel(len(x), _BLOCK_SAMPLES, work)
        return out

    # --- training -----------------------------------------------------------------------

    def stepper(self, masters: tuple[np.ndarray, np.ndarray], inputs: StepInputs) -> CpuStepper:
        """Return the training state of boxes with these master bounds."""
        from boxnn_numba.stepper import CpuStepper

        return CpuStepper(self, masters, inputs)
