"""Kernels on the cores of this machine, over the threads that a backend was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from boxnn_numba import validation
from boxnn_numba.backends.box_layout import (
    BoxTable,
    ClassLayout,
    Frame,
    LaneTable,
    box_table,
    class_layout,
    frame_of,
    lane_table,
    lane_tables,
    round_up,
)
from boxnn_numba.backends.class_plans import class_plan, lane_codes, lane_distances
from boxnn_numba.backends.structure import Structure
from boxnn_numba.kernels import distances, simd_operations

#: Samples that a thread takes at a time, and boxes whose distances to them it keeps in its cache
#: (whole tiles both).
_BLOCK_SAMPLES, _BLOCK_BOXES = 64, 1024
#: Rows of class distances that are worth reading all boxes once more.
_ENOUGH_ROWS = 512


class PartSums(NamedTuple):
    """Distances of samples to all boxes in each part, as the kernels leave them.

    Attributes
    ----------
    totals
        (tiles, S, M', 4 or 16) int32: for each of the four samples of a tile, the total of a
        segment or those of its quarters.
    segment, quarter
        (P,) int64, where the totals of each part are.
    """

    totals: np.ndarray
    segment: np.ndarray
    quarter: np.ndarray

    def apart(self, rows: int, boxes: int) -> np.ndarray:
        """Return them as (rows, P, boxes)."""
        tiles, segments, padded, width = self.totals.shape
        shaped = self.totals.reshape(tiles, segments, padded, 4, width // 4)
        every = shaped.transpose(0, 3, 1, 4, 2).reshape(4 * tiles, segments, -1, padded)
        return np.asarray(every[:rows, self.segment, self.quarter, :boxes])


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

    def each(self, tasks: Sequence[Any], work: Callable[..., Any]) -> list[Any]:
        """Call ``work(*task)`` for every task at a time; the first in the caller's thread.

        Results come in the order of the tasks. There are no more tasks than threads.
        """
        waiting = [self._pool.submit(work, *task) for task in tasks[1:]] if self._pool else []
        found = [work(*task) for task in tasks[:1]]
        return found + [future.result() for future in waiting]

    # --- layout -------------------------------------------------------------------------

    def samples(self, x: np.ndarray, frame: Frame) -> np.ndarray:
        """Return uint8 codes (N, n) laid out by a frame, padded to whole tiles of samples."""
        return frame.samples(x)

    def table(
        self, lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int
    ) -> tuple[BoxTable, Structure]:
        """Return uint8 bounds (M, n) laid out for `part_distances`, at any width."""
        return box_table(lower, upper, frame_of(structure.part, structure.group)), structure

    def layout(
        self, lower: np.ndarray, upper: np.ndarray, structure: Structure, width: int
    ) -> ClassLayout:
        """Return uint8 bounds (M, n), sorted by class, laid out for `class_distance`."""
        return class_layout(lower, upper, structure)

    # --- distances ----------------------------------------------------------------------

    def operands(self, table: BoxTable, structure: Structure) -> BoxTable | tuple[LaneTable, ...]:
        """Return boxes in the form that is read on this processor.

        The vector form is the table itself. The lane form is a copy, a table for each part: later
        changes of the table do not reach it.
        """
        if simd_operations.TARGET == "plain":
            return lane_tables(table, structure)
        return table

    def distances(
        self,
        samples: np.ndarray,
        boxes: BoxTable | tuple[LaneTable, ...],
        span: tuple[int, int],
        width: int,
    ) -> np.ndarray:
        """Return the int32 distances of laid out samples to boxes span[0]..span[1] of one part.

        Runs in the caller's thread. ``span[0]`` is a multiple of 64. The result may have more rows
        and columns than asked for: those belong to the padding.
        """
        if isinstance(boxes, tuple):
            codes = lane_codes(samples, boxes[0])
            return lane_distances(codes, boxes[0], span, np.int32(width))
        rows, stop = len(samples), min(round_up(span[1], distances.TILE_BOXES), len(boxes.lower))
        out = np.empty((rows, stop - span[0]), np.int32)
        planes = boxes.frame.planes
        kernel, _ = distances.vector_kernels(width, planes)
        kernel(samples, 0, rows, boxes.lower, boxes.upper, span[0], stop, planes, width, out)
        return out

    def part_sums(
        self, samples: np.ndarray, boxes: BoxTable | tuple[LaneTable, ...], width: int
    ) -> PartSums:
        """Return the distances of laid out samples to all boxes, part by part.

        Runs in the caller's thread.
        """
        tile = distances.TILE_SAMPLES
        if isinstance(boxes, tuple):
            totals = [
                lane_distances(
                    lane_codes(samples, lanes), lanes,
                    (0, len(lanes.lower) * distances.LANE_BOXES),
                    np.int32(width),
                ).reshape(len(samples) // tile, tile, -1)
                for lanes in boxes
            ]  # fmt: skip
            apart = np.ascontiguousarray(np.stack(totals, axis=1).swapaxes(2, 3))
            return PartSums(apart, np.arange(len(boxes)), np.zeros(len(boxes), np.int64))
        frame, tiles = boxes.frame, len(samples) // tile
        each = 4 * tile if frame.quarters else tile
        out = np.empty((tiles * len(frame.segments), len(boxes.lower) * each), np.int32)
        kernel, _ = distances.part_kernels(width, frame.planes, frame.quarters, frame.columns)
        kernel(samples, boxes.lower, boxes.upper, frame.segments, frame.planes, width, out)
        shaped = out.reshape(tiles, len(frame.segments), -1, each)
        shift = 4 if frame.quarters else 1
        return PartSums(shaped, frame.slot // shift, frame.slot % shift)

    def part_distances(
        self, x: np.ndarray, table: tuple[BoxTable, Structure], width: int, out: np.ndarray
    ) -> None:
        """Write the int32 distances of uint8 codes (N, n) to all boxes to `out` (N, P * M).

        Distances in part 0 to all boxes come first, then those in part 1.
        """
        boxes, frame, count = self.operands(*table), table[0].frame, table[0].n_boxes
        apart = out.reshape(len(out), -1, count)
        single = apart.shape[1] == 1

        def work(first: int, last: int) -> None:
            for start in range(first, last, _BLOCK_SAMPLES):
                stop = min(last, start + _BLOCK_SAMPLES)
                samples = self.samples(x[start:stop], frame)
                if not single:
                    sums = self.part_sums(samples, boxes, width)
                    apart[start:stop] = sums.apart(stop - start, count)
                    continue
                for box in range(0, count, _BLOCK_BOXES):
                    end = min(count, box + _BLOCK_BOXES)
                    block = self.distances(samples, boxes, (box, end), width)
                    apart[start:stop, 0, box:end] = block[: stop - start, : end - box]

        self.parallel(len(x), _BLOCK_SAMPLES, work)

    def class_distance(
        self, x: np.ndarray, layout: ClassLayout, width: int, out: np.ndarray
    ) -> None:
        """Write the int32 distances to the nearest box of each class to `out` (N, K).

        x is (N, n) uint8 codes, as they come. No (N, M) matrix is made, and the columns are
        padded block by block, so memory does not grow with N.
        """
        plan = class_plan(layout, width, len(x))

        def work(first: int, last: int) -> None:
            plan.work(x[first:last], layout, width, out[first:last])

        rounds = min(4, max(1, len(x) // (self.threads * _ENOUGH_ROWS)))
        piece = round_up(-(-len(x) // (self.threads * rounds)), _BLOCK_SAMPLES)
        self.parallel(len(x), max(plan.grain, piece), work)

    def float_distances(
        self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray, width: float
    ) -> np.ndarray:
        """Return the (N, M) distances of float32 or float64 samples to boxes of the same type."""
        out = np.empty((len(x), len(lower)), x.dtype)
        boxes = lane_table(lower, upper, x.dtype)

        def work(first: int, last: int) -> None:
            padding = -(last - first) % distances.TILE_SAMPLES
            rows = np.pad(x[first:last], ((0, padding), (0, 0)))
            block = lane_distances(rows, boxes, (0, len(lower)), x.dtype.type(width))
            out[first:last] = block[: last - first, : len(lower)]

        self.parallel(len(x), _BLOCK_SAMPLES, work)
        return out
