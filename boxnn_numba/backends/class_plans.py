"""Plans for class distances: which kernels compute them, chosen at one place.

A plan is work on rows of codes and the rows of the output that they belong to. All plans give the
same integers; `class_plan` takes the one that is fastest for boxes of this shape at this width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from boxnn_numba.backends import slices
from boxnn_numba.backends.box_layout import UNREACHABLE, ClassLayout, LaneTable, aligned, round_up
from boxnn_numba.kernels import distances, sample_lanes, simd_operations


class Plan(NamedTuple):
    """How class distances are computed.

    Attributes
    ----------
    work
        Called in a thread as ``work(x, layout, width, out)`` with codes (N, n) as they come and
        ``out`` (N, K) int32 to write to.
    grain
        Least number of rows that are worth a thread of their own.
    """

    work: Callable[[np.ndarray, ClassLayout, int, np.ndarray], None]
    grain: int


def class_plan(layout: ClassLayout, width: int, rows: int) -> Plan:
    """Return the plan for class distances of so many rows to boxes that are laid out."""
    if simd_operations.TARGET == "plain":
        return Plan(_boxes_in_lanes, _GRAIN)
    frame, structure = layout.frame, layout.structure
    parts = structure.n_parts > 1
    if frame.planes == 1 and _fill_lanes(rows):
        if width > 1:
            layout.groups(width)  # before threads ask for it
        size = len(layout.weight) * max(1, int(structure.offsets[-1]))
        grain = round_up(max(1, _WORTH // size), _GRAIN)
        return Plan(_bit_slices if width == 1 else _samples_in_lanes, grain)
    return Plan(_templates if parts else _row_tiles, _GRAIN)


def _fill_lanes(rows: int) -> bool:
    """Whether rows leave so few lanes empty that it is faster to have samples in the lanes."""
    return 4 * round_up(rows, sample_lanes.TILE_SAMPLES) <= 5 * rows


#: Features of samples against boxes that are worth a thread of their own, about 0.1 ms.
_WORTH = 10_000_000
#: Rows that a thread takes at a time, and those whose distances it computes at a time: the more,
#: the less often boxes come from memory.
_GRAIN, _BLOCK_ROWS = 64, 512


def _bit_slices(x: np.ndarray, layout: ClassLayout, width: int, out: np.ndarray) -> None:
    """Bits of 64 codes in a word, where that is faster."""
    boxes = layout.kept.setdefault("slices", slices.Slices()).of(x, layout)
    if boxes is None:
        # Where a byte cannot count all features, tiles of rows do it.
        few = len(layout.weight) <= sample_lanes.MOST_COUNTED * sample_lanes.GROUP
        in_lanes = few or layout.structure.n_parts > 1
        (_samples_in_lanes if in_lanes else _row_tiles)(x, layout, width, out)
        return
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        slices.sliced_rows(x[rows], layout, boxes, out[rows])


def _row_tiles(x: np.ndarray, layout: ClassLayout, width: int, out: np.ndarray) -> None:
    """Rows of codes in vectors, where the nearest row of a class alone decides."""
    table, offsets = layout.table, layout.structure.offsets
    planes = table.frame.planes
    kernel = distances.vector_kernels(width, planes)[1]
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = x[start : start + _BLOCK_ROWS]
        codes = table.frame.samples(rows)
        steps = layout.steps(codes[: len(rows)])
        probe, columns = int(steps[0, 1]), int(steps[-1, 1])
        nearest = np.full((out.shape[1], len(codes)), UNREACHABLE, np.int32)
        kernel(codes, table.lower, table.upper, offsets, probe, columns, planes, width, nearest)
        out[start : start + len(rows)] = nearest[:, : len(rows)].T


#: Bytes of gathered codes that stay in the first-level cache, and in the second-level one; and the
#: bytes of boxes above which codes have to do with the second.
_FEW_GATHERED, _GATHERED, _MANY_BOXES = 2**15, 2**18, 2**19
#: Rows whose codes are laid out at a time, whole tiles.
_ENOUGH_CODES = 4096


def _samples_in_lanes(x: np.ndarray, layout: ClassLayout, width: int, out: np.ndarray) -> None:
    """Samples in the lanes, where a box is the same for all of a vector."""
    table = layout.groups(width)
    kernel, samples = sample_lanes.nearest_kernel(table.regime), sample_lanes.TILE_SAMPLES
    groups = len(table.rank)
    size = samples * groups * sample_lanes.GROUP
    many = 3 * table.boxes[0].size > _MANY_BOXES
    tiles = max(1, min((_GATHERED if many else _FEW_GATHERED) // size, -(-len(x) // samples)))
    room = aligned((tiles * groups, samples * sample_lanes.GROUP), 0)
    least = np.empty((out.shape[1], tiles * samples), np.int32)
    marks = np.empty((len(table.parts), 6), np.int64)
    whole = round_up(_ENOUGH_CODES, tiles * samples)
    for start in range(0, len(x), whole):
        rows = x[start : start + whole]
        if table.place is None:
            # So that the kernel is compiled for one kind.
            codes = np.require(rows, requirements=("C", "W"))
        else:
            codes = aligned((len(rows), groups * sample_lanes.GROUP), 0)
            distances.spread_columns(rows, table.place, codes)
        kernel(
            codes, table.rank, table.boxes, table.shift, table.rows, table.templates, table.edges,
            table.parts, table.outer, marks, room, least, out[start : start + len(rows)],
        )  # fmt: skip


def _templates(x: np.ndarray, layout: ClassLayout, width: int, out: np.ndarray) -> None:
    """Rows of codes in vectors, where the rows of a template recombine part by part."""
    table, structure = layout.table, layout.structure
    frame = table.frame
    kernel = distances.part_kernels(width, frame.planes, frame.quarters, frame.columns)[1]
    room = np.empty((int(np.diff(structure.rows).max(initial=0)), 16), np.int32)
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = x[start : start + _BLOCK_ROWS]
        codes = frame.samples(rows)
        steps = layout.steps(codes[: len(rows)])
        nearest = np.full((out.shape[1], len(codes)), UNREACHABLE, np.int32)
        kernel(
            codes, table.lower, table.upper, structure.rows, structure.templates, steps,
            frame.planes, width, room, nearest,
        )  # fmt: skip
        out[start : start + len(rows)] = nearest[:, : len(rows)].T


#: Rows whose distances to all boxes are kept where boxes are in the lanes.
_BLOCK_SAMPLES = 64


def _boxes_in_lanes(x: np.ndarray, layout: ClassLayout, width: int, out: np.ndarray) -> None:
    """Plain loops, which the compiler vectorises for any processor."""
    structure, count = layout.structure, int(layout.structure.rows[-1])
    owners = np.repeat(np.arange(out.shape[1], dtype=np.int32), np.diff(structure.templates))
    known = np.flatnonzero(np.diff(structure.rows))  # templates that have rows
    begins = structure.rows[known]
    out[:] = UNREACHABLE
    for start in range(0, len(x), _BLOCK_SAMPLES):
        rows = x[start : start + _BLOCK_SAMPLES]
        codes = layout.frame.samples(rows)
        total = np.zeros((len(codes), len(known)), np.int32)
        for lanes in layout.lanes:
            block = lane_distances(lane_codes(codes, lanes), lanes, (0, count), np.int32(width))
            total += np.minimum.reduceat(block[:, :count], begins, axis=1)
        distances.nearest_per_class(total, len(rows), owners[known], out, start)


def lane_distances(
    samples: np.ndarray, boxes: LaneTable, span: tuple[int, int], width: Any
) -> np.ndarray:
    """Return distances of samples, in the type of the boxes, to boxes span[0]..span[1]; padded."""
    first, last = span[0] // distances.LANE_BOXES, -(-span[1] // distances.LANE_BOXES)
    out = np.empty((len(samples), (last - first) * distances.LANE_BOXES), samples.dtype)
    grouped = boxes.lower.ndim == 4
    kernel = distances.grouped_distances if grouped else distances.graded_distances
    kernel(samples, boxes.lower[first:last], boxes.upper[first:last], width, out)
    return out


def lane_codes(samples: np.ndarray, boxes: LaneTable) -> np.ndarray:
    """Return laid out codes as the lane kernels read them."""
    return np.asarray(samples[:, boxes.columns].astype(np.int32))
