"""Kernels on the cores of this machine, over the threads that a backend was given."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.box_layout import (
    UNREACHABLE,
    BoxTable,
    ClassLayout,
    LaneTable,
    aligned,
    box_table,
    class_layout,
    lane_table,
    round_up,
)
from boxnn_numba.kernels import distances, simd

#: Samples that a thread takes at a time, and boxes whose distances to them it keeps in its cache
#: (whole tiles both).
_BLOCK_SAMPLES, _BLOCK_BOXES = 64, 1024
#: Samples whose class distances a thread computes at a time.
_BLOCK_ROWS = 256


def _lane_distances(
    samples: np.ndarray, boxes: LaneTable, span: tuple[int, int], width: Any, penalty: str
) -> np.ndarray:
    first, last = span[0] // distances.LANE_BOXES, -(-span[1] // distances.LANE_BOXES)
    out = np.empty((len(samples), (last - first) * distances.LANE_BOXES), samples.dtype)
    kernel = getattr(distances, f"{penalty}_distances")
    kernel(samples, boxes.lower[first:last], boxes.upper[first:last], width, out)
    return out


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
        size = max(grain, round_up(-(-n // (4 * self.threads)), grain))
        pieces = [(first, min(n, first + size)) for first in range(0, n, size)]
        return list(self._pool.map(lambda piece: work(*piece), pieces))

    # --- layout -------------------------------------------------------------------------

    def samples(self, x: np.ndarray) -> np.ndarray:
        """Return uint8 codes (N, n) padded to whole tiles of samples and vectors of features."""
        rows, columns = len(x), x.shape[1]
        shape = (round_up(rows, distances.TILE_SAMPLES), round_up(columns, simd.LANES))
        padded = aligned(shape, 0)
        padded[:rows, :columns] = x
        return padded

    def table(self, lower: np.ndarray, upper: np.ndarray, width: int) -> BoxTable:
        """Return uint8 bounds (M, n) laid out for `pairwise`, at any width."""
        return box_table(lower, upper)

    def layout(
        self, lower: np.ndarray, upper: np.ndarray, offsets: np.ndarray, width: int
    ) -> ClassLayout:
        """Return uint8 bounds (M, n), sorted by class, laid out for `class_distance`."""
        return class_layout(lower, upper, offsets)

    # --- distances ----------------------------------------------------------------------

    def operands(self, table: BoxTable, penalty: str = "graded") -> BoxTable | LaneTable:
        """Return boxes in the form that `distances` reads for a penalty on this processor.

        The vector form is the table itself; the lane form is a copy, which later changes of
        the table do not reach.
        """
        if simd.TARGET == "plain" or penalty != "graded":
            return lane_table(*table.bounds(), np.int32)
        return table

    def distances(
        self,
        samples: np.ndarray,
        boxes: BoxTable | LaneTable,
        span: tuple[int, int],
        width: int,
        penalty: str = "graded",
    ) -> np.ndarray:
        """Return the int32 distances of padded samples to boxes span[0]..span[1].

        Runs in the caller's thread. ``span[0]`` is a multiple of 64. The result may have more rows
        and columns than asked for: those belong to the padding.
        """
        if isinstance(boxes, LaneTable):
            codes = samples[:, : boxes.lower.shape[1]].astype(np.int32)
            return _lane_distances(codes, boxes, span, np.int32(width), penalty)
        rows, stop = len(samples), min(round_up(span[1], distances.TILE_BOXES), len(boxes.lower))
        out = np.empty((rows, stop - span[0]), np.int32)
        kernel, _ = distances.vector_kernels(width)
        kernel(samples, 0, rows, boxes.lower, boxes.upper, span[0], stop, width, out)
        return out

    def pairwise(self, x: np.ndarray, table: BoxTable, width: int, out: np.ndarray) -> None:
        """Write the int32 distances of uint8 codes (N, n) to all boxes to `out` (N, M)."""
        boxes = self.operands(table)

        def work(first: int, last: int) -> None:
            samples = self.samples(x[first:last])
            for box in range(0, table.n_boxes, _BLOCK_BOXES):
                stop = min(table.n_boxes, box + _BLOCK_BOXES)
                block = self.distances(samples, boxes, (box, stop), width)
                out[first:last, box:stop] = block[: last - first, : stop - box]

        self.parallel(len(x), _BLOCK_SAMPLES, work)

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
        _, kernel = distances.vector_kernels(width)
        for start in range(first, last, _BLOCK_ROWS):
            stop = min(last, start + _BLOCK_ROWS)
            rows = round_up(stop - start, distances.TILE_SAMPLES)
            codes = aligned((rows, layout.table.lower.shape[1]), 0)
            distances.gather_columns(x, start, stop, layout.columns, codes)
            columns = distances.used_columns(codes[: stop - start], layout.floor, layout.ceiling)
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
            distances.nearest_per_class(block, stop - start, layout.labels, out, start)

    def float_distances(
        self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, width: float
    ) -> np.ndarray:
        """Return the (N, M) distances of float32 or float64 samples to boxes of the same type."""
        out = np.empty((len(x), len(lower)), x.dtype)
        boxes = lane_table(lower, upper, x.dtype)

        def work(first: int, last: int) -> None:
            padding = -(last - first) % distances.TILE_SAMPLES
            rows = np.pad(x[first:last], ((0, padding), (0, 0)))
            block = _lane_distances(rows, boxes, (0, len(lower)), x.dtype.type(width), "graded")
            out[first:last] = block[: last - first, : len(lower)]

        self.parallel(len(x), _BLOCK_SAMPLES, work)
        return out
