"""Frame, box table and lanes: boxes laid out for the kernels of the CPU, padded and aligned.

    BoxTable, for vectors of codes                    LaneTable, for the lanes of plain loops

      lower, upper (M', columns) uint8                  lower, upper (blocks, n, 64) of any type

              n features        columns                 block 0             block 1
            +------------------+-----+                  boxes 0 .. 63       boxes 64 .. 127
      box 0 |  12   0  255 ... |  0  |                feature 0 [ 12 30 .. ]  [  7 .. 0 0 ]
          1 |  30   5  250 ... |  0  |                        1 [  0  5 .. ]  [  1 .. 0 0 ]
        ... |                  |  0  |                        2 [255 250 . ]  [ 80 .. 0 0 ]
        M-1 |                  |  0  |                      ...
            +------------------+     |                      n-1
         M' |   0   0   0        0   |                boxes that fill up a block are computed and
            +------------------+-----+                ignored

The table's columns are padded to whole vectors and its rows to whole tiles; padding has lower 0 and
upper 255, so it adds nothing to a distance. A `Frame` says where each feature stands. Parts stand
in segments. A segment holds one part, or one part in each quarter of its vectors; the frame takes
the form that needs fewer vectors. Grouped features stand in planes:

      one part a segment        four parts a segment            planes (groups of 3 features)
      | p0 p0 p0 p0 | p0 .. |   | p0 p1 p2 p3 | p0 p1 p2 p3 |   | r0 r1 .. | g0 g1 .. | b0 b1 .. |

A `ClassLayout` is a table whose rows are sorted by class, whose templates have whole tiles of rows,
and whose columns stand, within a segment, in the order in which they tell boxes apart:

      rows      class 0: 4 0 2 2 | class 1: 1 3 | ...   whole tiles; the last box is repeated
      columns   what matters most | probe | the rest    a tile is left at the probe if it is too far
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from boxnn_numba.backends.structure import Structure
from boxnn_numba.kernels import distances, sample_lanes, simd_operations

_CACHE_LINE = 64
#: Part of the penalties between boxes that the columns before the probe make up.
_PROBE_SHARE = 0.94
#: Distance to a class that has no box.
UNREACHABLE = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Frame:
    """Where each feature stands in rows of codes that are laid out for the kernels.

    Attributes
    ----------
    source
        (planes * columns,) int64, the feature of each column; any feature for a column of padding.
    planes
        Number of planes: features of the largest group.
    segments
        (S, 2) int64, first and last columns, within a plane, of each segment.
    quarters
        Whether each quarter of a vector is of its own part.
    slot
        (P,) int64, the segment of each part, or four times that and its quarter.
    place
        (n,) int64, the column of each feature.
    """

    source: np.ndarray
    planes: int
    segments: np.ndarray
    quarters: bool
    slot: np.ndarray
    place: np.ndarray

    @property
    def columns(self) -> int:
        """Columns of a plane."""
        return len(self.source) // self.planes

    @functools.cached_property
    def in_order(self) -> bool:
        """Whether features stand in their own order, with the padding behind them."""
        return bool((self.place == np.arange(len(self.place))).all())

    def padded(self, side: np.ndarray, rows: int, value: int) -> np.ndarray:
        """Return codes (M, n) laid out in aligned rows, padded with one value."""
        out = aligned((rows, len(self.source)), value)
        if self.in_order:
            out[: len(side), : side.shape[1]] = side
        else:
            out[: len(side), self.place] = side
        return out

    def samples(self, x: np.ndarray) -> np.ndarray:
        """Return uint8 codes (N, n) laid out, padded to whole tiles of samples."""
        rows = round_up(len(x), distances.TILE_SAMPLES)
        if self.in_order:
            return self.padded(x, rows, 0)
        out = aligned((rows, len(self.source)), 0)
        distances.spread_columns(x, self.place, out)
        return out


def frame_of(
    part: np.ndarray,
    group: np.ndarray,
    weight: np.ndarray | None = None,
    lanes: int = simd_operations.LANES,
    shared: bool = True,
) -> Frame:
    """Lay out features of parts and groups (n,) in vectors of so many codes.

    Within a part the heaviest group is first, by the weights (n,) of the features, or the one with
    the first feature. Parts may share vectors by quarters if `shared`.
    """
    n_groups, n_parts = int(group.max()) + 1, int(part.max()) + 1
    members = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    within = np.empty(len(group), np.int64)  # number of a feature in its group
    within[members] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    part_of_group = np.empty(n_groups, np.int64)
    part_of_group[group] = part
    heavy = np.zeros(n_groups) if weight is None else np.bincount(group, weight)
    order = np.lexsort((-heavy, part_of_group))
    counts = np.bincount(part_of_group, minlength=n_parts)
    quarters, slot = _segments_of(counts, lanes if shared else 1)
    share = lanes // 4 if quarters else lanes
    segment = slot // 4 if quarters else slot
    vectors = np.zeros(segment.max() + 1, np.int64)
    np.maximum.at(vectors, segment, -(-counts // share))
    firsts = np.cumsum(vectors) - vectors
    rank = np.empty(n_groups, np.int64)  # number of a group in its part
    rank[order] = np.arange(n_groups) - np.repeat(np.cumsum(counts) - counts, counts)
    quarter = slot % 4 if quarters else np.zeros(n_parts, np.int64)
    column = (firsts[segment[part_of_group]] + rank // share) * lanes + (
        quarter[part_of_group] * share + rank % share
    )
    columns, planes = int(vectors.sum()) * lanes, int(sizes.max())
    place = within * columns + column[group]
    source = np.zeros(planes * columns, np.int64)
    source[place] = np.arange(len(group))
    segments = np.stack((firsts, firsts + vectors), axis=1) * lanes
    return Frame(source, planes, segments, quarters, slot, place)


def packed_frame(structure: Structure) -> tuple[Frame, np.ndarray]:
    """Lay out features part by part in whole fours, as training has them.

    Also returns first and last columns of each part within a plane, (P, 2) int64, without padding.
    """
    frame = frame_of(structure.part, structure.group, lanes=4, shared=False)
    first = np.unique(structure.group, return_index=True)[1]
    counts = np.bincount(structure.part[first], minlength=structure.n_parts)
    begins = frame.segments[frame.slot, 0]
    return frame, np.stack((begins, begins + counts), axis=1)


def _segments_of(counts: np.ndarray, lanes: int) -> tuple[bool, np.ndarray]:
    """Return whether parts of so many groups share vectors by quarters, and the slot of each."""
    alone = np.arange(len(counts))
    if len(counts) == 1 or lanes < 4:
        return False, alone
    order = np.argsort(-counts, kind="stable")
    # Besides its own vectors a segment costs about one more: the sums of its lanes.
    shared = (-(-counts[order][::4] // (lanes // 4)) + 1).sum()
    if (-(-counts // lanes) + 1).sum() < shared:
        return False, alone
    slot = np.empty(len(counts), np.int64)
    slot[order] = alone
    return True, slot


@dataclass(frozen=True)
class BoxTable:
    """Boxes laid out for the kernels.

    Attributes
    ----------
    lower, upper
        uint8 (M', columns), padded to whole tiles and vectors; padding never adds to a distance.
    n_boxes
        M without the padding.
    frame
        The features of the columns.
    """

    lower: np.ndarray
    upper: np.ndarray
    n_boxes: int
    frame: Frame

    @property
    def n_features(self) -> int:
        """Number n of features."""
        return len(self.frame.place)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper (M, n) in the order of the features; maybe as views."""
        m, n, place = self.n_boxes, self.n_features, self.frame.place
        if self.frame.in_order:
            return self.lower[:m, :n], self.upper[:m, :n]
        return self.lower[:m, place], self.upper[:m, place]


@dataclass(frozen=True)
class GroupTable:
    """Boxes for `sample_lanes.nearest_kernel`, at one width.

    Attributes
    ----------
    regime
        The regime of the kernel.
    place
        (n,) int64 the column of each feature; None where features stand in their own order.
    rank
        (groups,) int64 where each group of features stands.
    boxes
        Tables (M', whole groups) uint8: lower bounds; upper bounds, or where features are counted
        their distances from the lower ones; and those distances, each with the largest excess
        added.
    shift
        (M', marks) int32, initial values of each box's sums that run from the first mark to
        another.
    rows, templates
        (T + 1,) and (K + 1,) int64, as in `Structure`.
    edges
        (marks,) int64 the group at which each mark is.
    parts
        (P, 3) int64, marks of each part: where it begins, where to look whether boxes can be left,
        and where it ends.
    outer
        Largest lower and smallest upper bounds, (1, whole groups) uint8.
    """

    regime: str
    place: np.ndarray | None
    rank: np.ndarray
    boxes: tuple[np.ndarray, np.ndarray, np.ndarray]
    shift: np.ndarray
    rows: np.ndarray
    templates: np.ndarray
    edges: np.ndarray
    parts: np.ndarray
    outer: tuple[np.ndarray, np.ndarray]


def group_table(
    lower: np.ndarray, upper: np.ndarray, structure: Structure, weight: np.ndarray, width: int
) -> GroupTable:
    """Return uint8 bounds (M, n) in groups of features, the heaviest of a part first."""
    size, (m, n) = sample_lanes.GROUP, lower.shape
    single = structure.n_parts == 1
    if single:
        place, ends = np.arange(n), np.array([-(-n // size)])
        rows, templates = _in_blocks(structure.offsets)
    else:
        frame = frame_of(structure.part, structure.group, weight, lanes=size, shared=False)
        place, ends = frame.place, frame.segments[:, 1] // size
        rows, templates = structure.rows, structure.templates
    heavy = np.bincount(place // size, weight, ends[-1])
    # With one part, groups are sorted as they are gathered. With several, the frame has sorted the
    # features.
    order = np.argsort(-heavy, kind="stable") if single else np.arange(len(heavy))
    columns = len(heavy) * size
    low, high = aligned((m, columns), 0), aligned((m, columns), 255)
    for target, side in ((low, lower), (high, upper)):
        target[:, place] = side
        groups = target.view(f"u{size}")
        groups[:] = groups[:, order]
    regime, span = sample_lanes.regime(width, int(np.diff(ends, prepend=0).max())), high - low
    top = np.minimum(span, 255 - width) + np.uint8(width)
    edges, parts = _marks(ends, heavy[order])
    shift = np.zeros((m, len(edges)), np.int32)
    sums = np.add.reduceat(span, edges[:-1] * size, axis=1, dtype=np.int32)
    shift[:, 1:] = -sums.cumsum(axis=1, dtype=np.int32)
    outer = low.max(axis=0, keepdims=True), high.min(axis=0, keepdims=True)
    boxes = low, span if regime == "counted" else high, top
    return GroupTable(
        regime, None if single else place, np.argsort(order), boxes, shift, rows, templates,
        edges, parts, outer,
    )  # fmt: skip


def _in_blocks(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and templates of plain boxes, which may be templates of any size."""
    size = distances.BLOCK_BOXES
    starts = [np.arange(first, last, size) for first, last in itertools.pairwise(offsets)]
    counts = [len(some) for some in starts]
    return np.concatenate((*starts, offsets[-1:])), np.cumsum([0, *counts])


def _marks(ends: np.ndarray, heavy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return edges and parts of a `GroupTable` whose parts end at these groups."""
    edges, parts = [0], []
    for end in ends.tolist():
        begin, first = edges[-1], len(edges) - 1
        edges += [*range(begin + sample_lanes.MARK, end, sample_lanes.MARK), end]
        share = np.cumsum(np.add.reduceat(heavy[begin:end], np.array(edges[first:-1]) - begin))
        probe = first + int(np.searchsorted(share, _PROBE_SHARE * share[-1])) + 1
        parts.append((first, probe, len(edges) - 1))
    return np.array(edges), np.array(parts)


def aligned(shape: tuple[int, ...], value: int) -> np.ndarray:
    """Return a uint8 array of one value that begins on a cache line, where vectors load fastest.

    A whole vector may be read from any code on, also from the last.
    """
    size = math.prod(shape)
    raw = np.empty(size + 2 * _CACHE_LINE, np.uint8)
    raw.fill(value)
    start = -raw.__array_interface__["data"][0] % _CACHE_LINE
    return raw[start : start + size].reshape(shape)


def box_table(lower: np.ndarray, upper: np.ndarray, frame: Frame | None = None) -> BoxTable:
    """Return uint8 bounds (M, n) padded to whole tiles and vectors; plain features by default."""
    m, n = lower.shape
    if frame is None:
        frame = frame_of(np.zeros(n, np.int64), np.arange(n))
    rows = round_up(m, distances.TILE_BOXES)
    return BoxTable(frame.padded(lower, rows, 0), frame.padded(upper, rows, 255), m, frame)


@dataclass(frozen=True, eq=False)
class ClassLayout:
    """Boxes laid out for class distances, made once per model.

    Attributes
    ----------
    lower, upper
        uint8 (M', n), whole tiles per template, or per class where the nearest row alone decides
        (the last box is repeated).
    structure
        The structure of these rows: their templates, and the parts and groups of the features.
    weight
        (n,) how much each feature tells boxes apart.
    frame
        The features in vectors, the heaviest of each part first.
    kept
        Forms of the boxes that plans have made, to be used again.
    """

    lower: np.ndarray
    upper: np.ndarray
    structure: Structure
    weight: np.ndarray
    frame: Frame
    kept: dict[Any, Any] = field(default_factory=dict)

    @functools.cached_property
    def table(self) -> BoxTable:
        """The table for vectors of whole rows."""
        return box_table(self.lower, self.upper, self.frame)

    @functools.cached_property
    def outer(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest lower and the smallest upper bound of each column, (1, planes * columns)."""
        lower, upper = (side[: len(self.lower)] for side in (self.table.lower, self.table.upper))
        return lower.max(axis=0, keepdims=True), upper.min(axis=0, keepdims=True)

    @functools.cached_property
    def probes(self) -> tuple[int, ...]:
        """Columns of each segment after which to look whether a tile can be left, whole vectors."""
        frame = self.frame
        weights = np.bincount(frame.place % frame.columns, self.weight, frame.columns)
        probes = []
        for first, last in frame.segments.tolist():
            share = np.cumsum(weights[first:last].reshape(-1, simd_operations.LANES).sum(axis=1))
            enough = np.searchsorted(share, _PROBE_SHARE * share[-1]) + 1
            probe = first + int(enough) * simd_operations.LANES
            # Adding up sums at a probe costs more than it can save on one vector of columns.
            probes.append(last if probe + simd_operations.LANES >= last else probe)
        return tuple(probes)

    def groups(self, width: int) -> GroupTable:
        """Return the table for samples in the lanes, at a width."""
        if width not in self.kept:
            self.kept[width] = group_table(
                self.lower, self.upper, self.structure, self.weight, width
            )
        return self.kept[width]

    @functools.cached_property
    def lanes(self) -> tuple[LaneTable, ...]:
        """The tables for the lane kernels, one for each part."""
        return lane_tables(self.table, self.structure)

    def steps(self, codes: np.ndarray) -> np.ndarray:
        """Return (R, 3) columns that can add to the distance of codes, in steps.

        A row is the first and last column of a step, and 1 if the step goes on with the segment of
        the one before. It does if a probe comes before the end of that segment.
        """
        frame, rows = self.frame, []
        for (first, last), probe in zip(frame.segments.tolist(), self.probes, strict=True):
            stop = distances.used_columns(codes, *self.outer, frame.planes, first, last)
            rows.append((first, min(probe, stop), 0))
            if probe < stop:
                rows.append((probe, stop, 1))
        return np.array(rows)


def class_layout(lower: np.ndarray, upper: np.ndarray, structure: Structure) -> ClassLayout:
    """Lay out uint8 bounds (M, n) for `CpuBackend.class_distance`."""
    plain = structure.is_plain
    begins = structure.offsets if plain else structure.rows
    counts = np.diff(begins)
    padded = round_up(counts, distances.TILE_BOXES)
    starts = np.concatenate(([0], np.cumsum(padded)))
    owner = np.repeat(np.arange(len(counts)), padded)
    rows = begins[owner] + np.minimum(np.arange(len(owner)) - starts[owner], counts[owner] - 1)
    weight = _column_weights(lower, upper)
    part = (structure.whole if plain else structure).part
    # Of plain boxes each class is one range of rows, which is laid out as one template.
    templates = np.arange(len(starts)) if plain else structure.templates
    laid = Structure(starts, templates, part, structure.group)
    frame = frame_of(part, structure.group, weight)
    return ClassLayout(lower[rows], upper[rows], laid, weight, frame)


def _column_weights(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return (n,) how much each feature adds to distances of some boxes' centres to other boxes."""
    low, high = (side[:: max(1, len(side) // 256)] for side in (lower, upper))
    weight = np.zeros(lower.shape[1])
    for first, last in zip(low[::4], high[::4], strict=True):
        centre = first + (last - first) // 2
        nearest = np.minimum(np.maximum(centre, low), high)
        apart = np.maximum(centre, nearest) - np.minimum(centre, nearest)
        weight += apart.sum(axis=0, dtype=np.int32)
    return weight


@dataclass(frozen=True)
class LaneTable:
    """Boxes for the lane kernels: lower and upper (blocks, n, LANE_BOXES) of any number type.

    Where features are grouped, (blocks, planes, n, LANE_BOXES). `columns`, (n,) or (planes, n), are
    those of a `Frame` that they stand for; None where there is no frame.
    """

    lower: np.ndarray
    upper: np.ndarray
    columns: np.ndarray | None = None


def lane_table(lower: np.ndarray, upper: np.ndarray, dtype: Any) -> LaneTable:
    """Return bounds (M, n) for the lane kernels, as numbers of a type."""
    blocks = -(-len(lower) // distances.LANE_BOXES)
    sides = []
    for side in (lower, upper):
        padded = np.zeros((blocks * distances.LANE_BOXES, side.shape[1]), dtype)
        padded[: len(side)] = side
        shaped = padded.reshape(blocks, distances.LANE_BOXES, -1).transpose(0, 2, 1)
        sides.append(np.ascontiguousarray(shaped))
    return LaneTable(*sides)


def lane_tables(table: BoxTable, structure: Structure) -> tuple[LaneTable, ...]:
    """Return int32 boxes for the lane kernels, one table for each part."""
    lower, upper = table.bounds()
    tables = []
    for p in range(structure.n_parts):
        inside = np.flatnonzero(structure.part == p)
        group = np.unique(structure.group[inside], return_inverse=True)[1]
        frame = frame_of(np.zeros(len(inside), np.int64), group, lanes=1)
        low, high = (
            frame.padded(side[:, inside], len(side), value)
            for side, value in ((lower, 0), (upper, 255))
        )
        lanes, columns = lane_table(low, high, np.int32), table.frame.place[inside[frame.source]]
        low, high = lanes.lower, lanes.upper
        if frame.planes > 1:
            shape = (len(low), frame.planes, frame.columns, distances.LANE_BOXES)
            low, high = low.reshape(shape), high.reshape(shape)
            columns = columns.reshape(frame.planes, -1)
        tables.append(LaneTable(low, high, columns))
    return tuple(tables)


def round_up(value: Any, multiple: int) -> Any:
    """Return the smallest multiple that is not below the value."""
    return -(-value // multiple) * multiple
