"""Patch certificate: no rewriting of any one block of pixels changes the prediction."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.boxes import Boxes
from boxnn_numba.classifier import Classifier, patch_image
from boxnn_numba.distances import pairwise_distance, part_distance
from boxnn_numba.kernels.patch_bound import patch_gaps

#: Inputs that a thread takes at a time.
_BLOCK_ROWS = 64
#: Own templates that each rival is held against.
_OWN = 8
#: More than any distance, and less than what overflows when added to one.
_FAR = 2**29

_TABLES: weakref.WeakKeyDictionary[Boxes, dict[Any, _Table]] = weakref.WeakKeyDictionary()


def patch_certified(
    model: Classifier, x: ArrayLike, patch: Any, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions, and whether no rewriting of one block of pixels changes them.

    The adversary may write any values into all pixels of one block of the given size, anywhere in
    the image.

    Parameters
    ----------
    model
        A classifier of images: its `feature_shape` is (height, width) or (height, width, channels),
        and a group of features lies within one pixel. It may be an ensemble.
    x
        Samples, as for `BoxNN.encode`.
    patch
        Size of the block: the side of a square, or (rows, columns), or text such as ``"3x7"``.
        Several sizes are a list, or text such as ``"2,5,3x7"``.
    threads
        Threads to use; all cores by default.

    Returns
    -------
    prediction : (N,) ndarray
        Class labels, as in `BoxNN.classes`.
    certified : (N, S) bool ndarray
        Whether the prediction is proved to withstand blocks of each size, in the order of `patch`.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, the model has boxes of one class only, or is not of images.
    OptionError
        A size is invalid or larger than the image, or `threads` is below 1.

    Notes
    -----
    Like `pairwise_radius`, but the gains of a rival are added up over each block, instead of the
    largest gains anywhere. All numbers are integers, and in a tie the adversary wins.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.certificates import patch_certified
    >>> boxes = Boxes([[0] * 9, [60] * 9], [[50] * 9, [255] * 9], [0, 1], width=30)
    >>> model = BoxNN(boxes, [0, 1], feature_shape=(3, 3))
    >>> patch_certified(model, [[25] * 9], "2,3x1,3")
    (array([0]), array([[ True,  True, False]]))
    """
    sizes = validation.patches("patch", patch)
    shape = patch_image(model, sizes)
    codes = model.encode(x)
    tables = [[_table(boxes, shape, size) for boxes in model.box_sets] for size in sizes]
    # A block that is withstood covers those within it, so the largest come first.
    order = sorted(range(len(sizes)), key=lambda s: sizes[s][0] * sizes[s][1], reverse=True)
    covers = [[t for t in order if t != s and _fits(sizes[s], sizes[t])] for s in order]
    index = np.empty(len(codes), np.int64)
    certified = np.zeros((len(codes), len(sizes)), np.bool_)

    def work(first: int, last: int) -> None:
        for start in range(first, last, _BLOCK_ROWS):
            rows = slice(start, min(last, start + _BLOCK_ROWS))
            block = _Block(model, codes[rows])
            index[rows] = block.predicted
            for s, larger in zip(order, covers, strict=True):
                known = np.any(certified[rows][:, larger], axis=1)
                certified[rows, s] = known | block.withstood(tables[s], ~known)

    get_backend("cpu", threads).parallel(len(codes), _BLOCK_ROWS, work)
    return np.asarray(model.classes)[index], certified


def patch_sides(patch: Any, certified: np.ndarray) -> np.ndarray:
    """Return the side (N,) int32 of the largest square that is certified; 0 for none.

    `patch` and `certified` (N, S) are the sizes and the result of `patch_certified`.

    Examples
    --------
    >>> patch_sides("5,2x3", [[True, True], [False, True], [False, False]])
    array([5, 2, 0], dtype=int32)
    """
    sides = [min(size) for size in validation.patches("patch", patch)]
    return np.max(np.where(certified, sides, 0), axis=1).astype(np.int32)


def _fits(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return size[0] <= other[0] and size[1] <= other[1]


class _Table(NamedTuple):
    """Boxes by column, for blocks of one size, as `patch_gaps` reads them.

    Attributes
    ----------
    columns
        (C,) feature of each column, n where there is none.
    bounds
        (M, C) lower and upper bounds.
    structure, geometry
        As for `patch_gaps`.
    places
        Number Q of placements.
    """

    columns: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray]
    structure: tuple[np.ndarray, np.ndarray]
    geometry: tuple[np.ndarray, np.ndarray, tuple[int, int, int, int, np.ndarray]]
    places: int

    def scratch(self) -> tuple[Any, ...]:
        """Return buffers for `patch_gaps`."""
        parts, size = self.geometry[1].shape
        ready = np.zeros(1, np.int64), np.empty((_OWN, parts), np.int64)
        buffers = tuple(np.empty((4, size), np.int32))
        inner = buffers, np.empty((parts, size), np.int32), np.empty(parts, np.int64)
        other, out = np.empty((2, self.places), np.int32)
        return (*ready, np.empty((_OWN, parts, size), np.int32)), inner, other, out


def _table(boxes: Boxes, shape: tuple[int, int, int], patch: tuple[int, int]) -> _Table:
    """Return the table of boxes, made once and kept while they live."""
    known = _TABLES.setdefault(boxes, {})
    if (shape, patch) not in known:
        known[shape, patch] = _make_table(boxes, shape, patch)
    return known[shape, patch]


def _make_table(boxes: Boxes, shape: tuple[int, int, int], patch: tuple[int, int]) -> _Table:
    structure, image = boxes.structure, shape[:2]
    pixel = np.arange(boxes.n_features) // shape[2]
    columns: list[np.ndarray] = []
    parts, counts, start = [], [], 0
    for p in range(structure.n_parts):
        inside = np.flatnonzero(structure.part == p)
        region = _region(np.unravel_index(pixel[inside], image), image, patch)
        planes = _planes(inside, pixel, boxes.group, image)
        window = planes[..., region[0] : region[0] + region[2], region[1] : region[1] + region[3]]
        parts.append((start, *planes.shape[:2], *region))
        counts.append((planes[:, 0] < boxes.n_features).sum(axis=0))
        columns.append(window.ravel())
        start += window.size
    chosen = np.concatenate(columns)
    # The last column stands for none: no code is outside.
    low, high = (
        np.ascontiguousarray(np.pad(side, ((0, 0), (0, 1)), constant_values=fill)[:, chosen])
        for side, fill in ((boxes.lower, 0), (boxes.upper, 255))
    )
    most = [2 * boxes.width * _largest(count, patch) for count in (sum(counts), *counts)]
    places = image[0] - patch[0] + 1, image[1] - patch[1] + 1
    geometry = (
        np.array(parts),
        _rooms(parts, patch),
        (*patch, places[1], most[0], np.array(most[1:])),
    )
    return _Table(
        chosen, (low, high), (structure.rows, structure.templates), geometry, places[0] * places[1]
    )


def _region(
    pixels: tuple[np.ndarray, ...], image: tuple[int, int], patch: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of all blocks that touch some pixels (rows, columns)."""
    first = [max(0, int(at.min()) - side + 1) for at, side in zip(pixels, patch, strict=True)]
    last = [
        min(full, int(at.max()) + side) for at, side, full in zip(pixels, patch, image, strict=True)
    ]
    return first[0], first[1], last[0] - first[0], last[1] - first[1]


def _planes(
    inside: np.ndarray, pixel: np.ndarray, group: np.ndarray, image: tuple[int, int]
) -> np.ndarray:
    """Return (groups of a pixel, features of a group, h, w) features, n where there is none."""
    of_pixel: dict[int, dict[int, list[int]]] = {}
    for k in inside.tolist():
        of_pixel.setdefault(int(pixel[k]), {}).setdefault(int(group[k]), []).append(k)
    groups = max(map(len, of_pixel.values()))
    features = max(len(members) for found in of_pixel.values() for members in found.values())
    planes = np.full((groups, features, image[0] * image[1]), len(pixel))
    for at, found in of_pixel.items():
        for g, members in enumerate(found.values()):
            planes[g, : len(members), at] = members
    return planes.reshape(groups, features, *image)


def _largest(count: np.ndarray, patch: tuple[int, int]) -> int:
    """Return the largest sum of counts (h, w) over a block."""
    return int(sliding_window_view(count, patch).sum(axis=(2, 3)).max())


def _rooms(parts: list[tuple[int, ...]], patch: tuple[int, int]) -> np.ndarray:
    """Return (P, S) int32, 0 at placements and large elsewhere."""
    rooms = np.full((len(parts), max(part[5] * part[6] for part in parts)), _FAR, np.int32)
    for room, (*_, height, width) in zip(rooms, parts, strict=True):
        field = room[: height * width].reshape(height, width)
        field[: height - patch[0] + 1, : width - patch[1] + 1] = 0
    return rooms


class _Member:
    """Distances of some inputs to a set of boxes.

    Attributes
    ----------
    rows, templates
        (N, P, M) int32 and (N, T) int64 distances.
    nearest, classes
        (N, K) the nearest template of each class, and its distance; a large one where there is
        none.
    spans
        (K + 1,) first template of each class.
    """

    def __init__(self, boxes: Boxes, codes: np.ndarray) -> None:
        structure = boxes.structure
        self.spans = structure.templates
        with limit_threads(1):
            self.rows = (
                pairwise_distance(codes, boxes)[:, None]
                if structure.n_parts == 1
                else part_distance(codes, boxes)
            )
        least = np.minimum.reduceat(self.rows, structure.rows[:-1], axis=2)
        self.templates = least.sum(axis=1, dtype=np.int64)
        self.nearest = np.zeros((len(codes), boxes.n_classes), np.int64)
        self.classes = np.full((len(codes), boxes.n_classes), _FAR, np.int64)
        for c, (first, last) in enumerate(itertools.pairwise(self.spans)):
            if last > first:
                self.nearest[:, c] = first + self.templates[:, first:last].argmin(axis=1)
                self.classes[:, c] = self.templates[:, first:last].min(axis=1)

    def own(self, i: int, c: int) -> np.ndarray:
        """Return the nearest templates of a class, the nearest of all first."""
        first, last = self.spans[c], self.spans[c + 1]
        return first + np.argsort(self.templates[i, first:last], kind="stable")[:_OWN]


class _Block:
    """Some inputs of a model, and whether they withstand blocks of pixels.

    Attributes
    ----------
    predicted
        (N,) class indices.
    """

    def __init__(self, model: Classifier, codes: np.ndarray) -> None:
        self._codes = np.pad(codes, ((0, 0), (0, 1)))
        self._width = model.boxes.width
        self._members = [_Member(boxes, codes) for boxes in model.box_sets]
        total = np.sum([member.classes for member in self._members], axis=0) + model.offset
        self.predicted = total.argmin(axis=1)
        # A rival wins where this, less what it gains, is 0 or below; the predicted class is none.
        ahead = np.arange(total.shape[1]) > self.predicted[:, None]
        self._gap = total - total.min(axis=1, keepdims=True) + ahead
        np.put_along_axis(self._gap, self.predicted[:, None], _FAR, axis=1)

    def withstood(self, tables: list[_Table], wanted: np.ndarray) -> np.ndarray:
        """Return (N,) whether inputs that are wanted withstand the blocks of tables of members."""
        found = np.zeros(len(self.predicted), np.bool_)
        scratch = [table.scratch() for table in tables]
        for i in np.flatnonzero(wanted):
            found[i] = self._withstands(int(i), tables, scratch)
        return found

    def _withstands(self, i: int, tables: list[_Table], scratch: list[Any]) -> bool:
        """Hold all templates of rivals that can gain enough against the own ones.

        If every member's V is at its smallest, the least sum of all is `floor`; where a member's is
        larger by more than -floor, the others cannot make up for it: that is its cap.
        """
        most, p, single = tables[0].geometry[2][3], int(self.predicted[i]), len(tables) == 1
        floor = self._gap[i] - len(tables) * most
        rivals = np.flatnonzero(floor <= 0)
        total = np.zeros((len(rivals), tables[0].places), np.int64)
        for member, table, buffers in zip(self._members, tables, scratch, strict=True):
            base = (member.classes[i] - member.classes[i, p])[rivals]
            caps = np.full(len(floor), -2 * _FAR)
            caps[rivals] = base - most + 1 - floor[rivals]
            least = np.repeat(caps.astype(np.int32)[:, None], 0 if single else table.places, axis=1)
            safe = patch_gaps(
                self._codes[i, table.columns], table.bounds, table.structure, table.geometry,
                self._width, member.own(i, p), member.rows[i],
                member.templates[i] - member.classes[i, p], member.nearest[i], caps, single,
                buffers, least,
            )  # fmt: skip
            if safe or single:
                return bool(safe)
            total += least[rivals] - base[:, None]
        return bool((self._gap[i][rivals, None] + total > 0).all())
