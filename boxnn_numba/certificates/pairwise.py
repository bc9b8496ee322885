"""Pairwise certificate: radii from each rival box by itself, never below those by margin."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba.adversary import Adversary
from boxnn_numba.backends.devices import get_backend
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.boxes import Boxes
from boxnn_numba.certificates.combinations import Combinations, of_all, of_set
from boxnn_numba.classifier import Certificate, Classifier, need_two_classes
from boxnn_numba.distances import pairwise_distance, part_distance
from boxnn_numba.kernels.additive import add_penalties, additive_bounds, most_gained
from boxnn_numba.kernels.budget import Edges
from boxnn_numba.kernels.pairwise_block import Block, least_bounds
from boxnn_numba.kernels.pairwise_bound import Table, Work, least_gaps, rival_bounds
from boxnn_numba.kernels.sum_bound import COUNTS, add_gains, add_totals, sum_bounds
from boxnn_numba.kernels.tuple_bound import tuple_bounds

#: Most inputs that a thread takes at a time, and most distances of them that it keeps.
_BLOCK_ROWS, _BLOCK_DISTANCES = 256, 1_000_000
#: Fewest that are worth a thread.
_GRAIN = 16
#: Own templates that each bound is taken against, and that an integer program begins with.
OWN = 8
#: Combinations of several sets that are looked at together.
_TOGETHER = 16
#: Most numbers that say what columns of an additive model pay and gain.
_MOST_PAID = 2**24
_NEVER = np.iinfo(np.int64).max // 4


def pairwise_radius(
    model: Classifier,
    x: ArrayLike,
    threads: int | None = None,
    *,
    attackable: Any = None,
    costs: Any = None,
) -> Certificate:
    """Return predictions and pairwise radii, which look at each rival box by itself.

    The margin assumes that every feature gains 2 W. Here feature i gains, for a rival box B against
    a box A of the predicted class, at most ``max_v (p_A(v) - p_B(v)) - (p_A(x_i) - p_B(x_i))``. At
    least as many features must change before B overtakes A as it takes, largest gains first, to
    close ``D_B - D_A``. The same holds for groups. With templates, the k changes are shared among
    the parts in the way that is best for the rival. In an ensemble, a group gains the most that its
    codes gain in all sets together, for any rows of a class.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        Samples, as for `BoxNN.encode`.
    threads
        Threads to use; all cores by default.
    attackable, costs
        Which groups may be rewritten, and their costs, as for `Adversary.of`; with costs radii are
        budgets.

    Returns
    -------
    Certificate
        Unpacks as ``prediction, radius``; radii are integers, at least those by margin, and at most
        the number of features (or groups) that may be rewritten.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, or there are boxes of one class only.
    OptionError
        `threads` is below 1, or `attackable` or `costs` do not fit.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.certificates import pairwise_radius
    >>> model = BoxNN(Boxes([[0] * 5, [60] * 5], [[50] * 5, [255] * 5], [0, 1], 100), [0, 1])
    >>> model.certify([[25] * 5]).radius, pairwise_radius(model, [[25] * 5]).radius
    (array([0], dtype=int32), array([1], dtype=int32))
    """
    adversary = Adversary.of(model, attackable, costs)
    index, bound = pairwise_bounds(model, model.encode(x), adversary, threads)
    return Certificate(np.asarray(model.classes)[index], adversary.radius(bound))


def default_kind(model: Classifier) -> str:
    """Return the default certificate of a model, ``"pairwise"`` or ``"margin"``.

    It is pairwise for tables, whose samples are rows: there it proves much more, and takes a few
    times as long as the prediction (less than ten times, except for the fastest models). It is
    margin for images: there any pixel can gain about as much as the margin assumes, and pairwise
    proves hardly more.
    """
    return "pairwise" if len(model.feature_shape or (1,)) == 1 else "margin"


def pairwise_bounds(
    model: Classifier, codes: np.ndarray, adversary: Adversary, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted class indices (N,), and lower bounds (N,) int64 on the cost of an attack.

    `codes` are (N, n) uint8. Bounds are in units of the adversary's costs; where no rewriting
    changes the prediction, the bound is one more than the cost of all groups.
    """
    need_two_classes(model)
    sets = BoxSets(model, adversary)
    index = np.empty(len(codes), np.int32)
    bound = np.empty(len(codes), np.int64)

    make = _kernels(sets)

    def work(first: int, last: int) -> None:
        block = make()
        step = min(_BLOCK_ROWS, max(1, _BLOCK_DISTANCES // block.size))
        for start in range(first, last, step):
            rows = slice(start, min(last, start + step))
            with limit_threads(1):
                # Kernels are compiled for each kind of array: theirs are writable, row by row.
                block.bounds(np.array(codes[rows], order="C"), index[rows], bound[rows])

    get_backend("cpu", threads).parallel(len(codes), _GRAIN, work)
    return index, bound


class BoxSets:
    """The sets of boxes of a model as the kernels read them: made once for many inputs.

    Attributes
    ----------
    tables, orders, parts
        For each set its table, the features in the order of its columns, and their parts (n,).
    slots, leaders
        Features that are capped as a whole, and (C,) the first of each.
    known
        Classes that have boxes in every set.
    distances
        How many distances one input has.
    """

    def __init__(self, model: Classifier, adversary: Adversary) -> None:
        self.model, self.adversary = model, adversary
        found = [_table(boxes, model.groups, adversary) for boxes in model.box_sets]
        self.tables, self.orders, self.parts = zip(*found, strict=True)
        self.width, group = model.boxes.width, model.boxes.group
        order = np.argsort(group, kind="stable")
        self.slots = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        self.leaders = np.array([features[0] for features in self.slots])
        self.distances = sum(len(t.lower) * (len(t.parts) - 1) for t in self.tables)
        known = [np.isin(np.arange(len(model.classes)), t.labels) for t in self.tables]
        self.known = np.flatnonzero(np.all(known, axis=0))

    @property
    def is_additive(self) -> bool:
        """Whether a class distance is a sum over columns of what their codes pay, each by itself.

        So it is with one template for each class, of one row or with a part for each column; of few
        enough classes.
        """
        model, n, classes = self.model, self.model.boxes.n_features, len(self.model.classes)
        single = model.group_size == 1 and len(self.slots) == n
        return (single and n * classes * (classes + 256) <= _MOST_PAID) and all(
            len(np.unique(table.labels)) == len(table.labels)
            and (len(table.lower) == len(table.labels) or len(table.parts) - 1 == n)
            for table in self.tables
        )

    def penalties(self) -> np.ndarray:
        """Return (K, n, 256) int32, what each code of each column adds to each class distance."""
        out = np.zeros((len(self.model.classes), self.model.boxes.n_features, 256), np.int32)
        for boxes, table in zip(self.model.box_sets, self.tables, strict=True):
            add_penalties(
                boxes.lower, boxes.upper, table.rows, table.labels, np.int32(self.width), out
            )
        return out

    def part_distances(self, codes: np.ndarray) -> list[np.ndarray]:
        """Return for each set (N, P, M) int32, of one part where rows are templates."""
        return [
            pairwise_distance(codes, boxes)[:, None]
            if boxes.structure.is_plain
            else part_distance(codes, boxes)
            for boxes in self.model.box_sets
        ]

    def totals(self, distances: list[np.ndarray]) -> list[np.ndarray]:
        """Return for each set the distances (N, T) int64 to its templates."""
        return [
            np.minimum.reduceat(d, table.rows[:-1], axis=2).sum(axis=1, dtype=np.int64)
            if len(table.labels) < len(table.lower)
            else d[:, 0].astype(np.int64)
            for d, table in zip(distances, self.tables, strict=True)
        ]

    def class_totals(self, totals: list[np.ndarray]) -> np.ndarray:
        """Return (N, K) int64 distances to the classes, offsets included; far where unknown."""
        out = np.full((len(totals[0]), len(self.model.classes)), _NEVER)
        out[:, self.known] = self.model.offset[self.known]
        for total, table in zip(totals, self.tables, strict=True):
            starts = np.searchsorted(table.labels, self.known)
            out[:, self.known] += np.minimum.reduceat(total, starts, axis=1)
        return out

    def threats(self, codes: np.ndarray) -> list[Threat]:
        """Return the threats to each of the inputs (N, n)."""
        distances = self.part_distances(codes)
        totals = self.totals(distances)
        classes = self.class_totals(totals)
        columns = [np.ascontiguousarray(codes[:, order]) for order in self.orders]

        def of_input(sets: list[np.ndarray], i: int) -> list[np.ndarray]:
            return [of_set[i] for of_set in sets]

        return [
            Threat(
                self, codes[i], of_input(columns, i), of_input(distances, i), of_input(totals, i),
                classes[i],
            )
            for i in range(len(codes))
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Threat:
    """One input against the boxes that could overtake its prediction.

    Attributes
    ----------
    sets
        Of the model.
    input
        (n,) its codes.
    codes, distances, totals
        For each set the codes in the order of the table, its distances (P, M) to rows in each
        part, and those (T,) to templates.
    classes
        (K,) distances to the classes.
    """

    sets: BoxSets
    input: np.ndarray
    codes: list[np.ndarray]
    distances: list[np.ndarray]
    totals: list[np.ndarray]
    classes: np.ndarray

    @cached_property
    def own_class(self) -> int:
        """The class that is predicted, ties to the smaller one."""
        return int(self.classes.argmin())

    @property
    def unit(self) -> int:
        """Most that one change brings a rival nearer."""
        return 2 * self.sets.model.reach

    @cached_property
    def ahead(self) -> np.ndarray:
        """(K,) int64, how much nearer boxes of a class must be than those of the predicted one."""
        offset, own = self.sets.model.offset, self.own_class
        return np.asarray(offset - offset[own] + (np.arange(len(offset)) > own), np.int64)

    @cached_property
    def margins(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rivals (R,), templates or of an ensemble classes, and by how much they are behind.

        One that is not behind any more, by 0 or less, has overtaken.
        """
        own, ahead = self.own_class, self.ahead
        if len(self.sets.tables) > 1:
            rivals = self.sets.known[self.sets.known != own]
            return rivals, self.classes[rivals] - self.classes[own] + (rivals > own)
        labels = self.sets.tables[0].labels
        rivals = np.flatnonzero(labels != own)
        nearest = self.classes[own] - self.sets.model.offset[own]
        return rivals, self.totals[0][rivals] + ahead[labels[rivals]] - nearest

    def margin(self, rival: int) -> int:
        """Return by how much a rival is behind."""
        rivals, margin = self.margins
        return int(margin[np.searchsorted(rivals, rival)])

    def class_of(self, rival: int) -> int:
        """Return the class of a rival."""
        return int(rival if len(self.sets.tables) > 1 else self.sets.tables[0].labels[rival])

    def rivals(self, most: int) -> np.ndarray:
        """Return the rivals that could overtake for less than `most`, in order of margin."""
        rivals, margin = self.margins
        near = np.flatnonzero(margin <= self.slack(most))
        return np.asarray(rivals[near[np.argsort(margin[near], kind="stable")]])

    def slack(self, most: int) -> int:
        """Return the most distance that changes for less than `most` can gain."""
        return self.unit * (int(np.searchsorted(self.sets.adversary.price, most)) - 1)

    def least(self, behind: int) -> int:
        """Return the least cost of closing a gap of `behind` units; a gap below 1 counts as 1."""
        return int(self.sets.adversary.least(np.array(max(1, -(-behind // self.unit)))))

    def templates(self, e: int, c: int) -> np.ndarray:
        """Return the templates of a class in a set, the nearest first."""
        first, last = np.searchsorted(self.sets.tables[e].labels, [c, c + 1])
        return np.asarray(first + np.argsort(self.totals[e][first:last], kind="stable"))

    def least_bound(self) -> int:
        """Return a lower bound on the cost of any rival overtaking."""
        most = int(self.sets.adversary.price[-1])
        nearest = self.least(int(self.margins[1].min()))
        # What is known of the nearest ones leaves few others to look at.
        for limit in (nearest + 1, most):
            rivals = self.rivals(min(limit, most))
            most = min(most, int(self.bounds(rivals, most, running=True).min(initial=most)))
        return most

    def bounds(self, rivals: np.ndarray, most: int, running: bool = False) -> np.ndarray:
        """Return (R,) int64, what must be spent before each rival overtakes; `most` caps.

        Rivals are in order of margin. If `running`, only the least bound matters, and others may be
        smaller than they could be.
        """
        out = np.empty(len(rivals), np.int64)
        if len(self.sets.tables) == 1:
            table, own = self.sets.tables[0], self.templates(0, self.own_class)[:OWN]
            rival_bounds(
                self.codes[0], self.distances[0], self.totals[0], own, rivals, self.ahead, table,
                most, running, _scratch(table), out,
            )  # fmt: skip
            return out
        for place, rival in enumerate(rivals):
            out[place] = self._class_bound(int(rival), most)
            if running:
                most = min(most, int(out[place]))
        return out

    def _class_bound(self, rival: int, most: int) -> int:
        """Return a lower bound on the cost for a class to overtake, in an ensemble.

        Combinations of rows in all sets, in order of margin, each by what groups gain in all sets
        together. Where they are too many, the margin of the others, or what each set allows.
        """
        margin = self.margin(rival)
        nearest = self._tuples(rival, 0)
        best = self._tuple_bound(nearest, margin, most)
        slack = self.slack(best) - margin
        if slack < 0:
            return best
        found = self._tuples(rival, slack)
        bound = min(best, self._tuple_bound(found, margin, best))
        beyond = self.least(margin + found.beyond)
        if beyond >= bound:
            return bound
        return max(beyond, min(bound, self._separate_bound(rival, bound)))

    def _tuples(self, c: int, slack: int) -> Combinations:
        """Return combinations of a class in all sets, the nearest first."""
        parts = zip(self.sets.tables, self.distances, self.totals, strict=True)
        return of_all(
            [of_set(*part, self.templates(e, c), slack) for e, part in enumerate(parts)], slack
        )

    def _tuple_bound(self, rivals: Combinations, margin: int, most: int) -> int:
        """Return a lower bound on the cost for any of the combinations to overtake."""
        table, order = self.sets.tables[0]._replace(unit=self.unit), self.sets.orders[0]
        owns, work = self._bounds(self.owns.rows), _scratch(table)
        for first in range(0, len(rivals.extra), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            out = np.empty(len(rivals.extra[some]), np.int64)
            bounds = self._bounds([rows[some] for rows in rivals.rows])
            tuple_bounds(
                self.input[order], owns, bounds, margin + rivals.extra[some], self.owns.extra,
                table, most, work, out,
            )  # fmt: skip
            most = min(most, int(out.min()))
        return most

    @cached_property
    def owns(self) -> Combinations:
        """The nearest own combinations of all sets: one, and those with another in one set."""
        found = []
        for e, (table, distance, total) in enumerate(
            zip(self.sets.tables, self.distances, self.totals, strict=True)
        ):
            near = self.templates(e, self.own_class)[:2]
            rows = [
                table.rows[t] + distance[:, table.rows[t] : table.rows[t + 1]].argmin(axis=1)
                for t in near
            ]
            found.append((total[near] - total[near[0]], np.array(rows)))
        places = np.zeros((1 + len(found), len(found)), np.int64)
        for e, (extra, _) in enumerate(found):
            places[1 + e, e] = len(extra) - 1
        extra = sum(extra[places[:, e]] for e, (extra, _) in enumerate(found))
        rows = [rows[places[:, e]] for e, (_, rows) in enumerate(found)]
        return Combinations(np.asarray(extra), rows, 0)

    def _bounds(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds (C, E, n) of combinations, in the order of a table."""
        order = self.sets.orders[0]
        sides = [
            np.ascontiguousarray(np.stack([
                getattr(boxes, side)[of_set[:, part[order]], order]
                for boxes, of_set, part in zip(
                    self.sets.model.box_sets, rows, self.sets.parts, strict=True)
            ], axis=1))
            for side in ("lower", "upper")
        ]  # fmt: skip
        return sides[0], sides[1]

    def _separate_bound(self, rival: int, most: int) -> int:
        """Return a lower bound on the cost for a class to overtake, each set with its own changes.

        The gap after k changes is at least the sum of the least gaps of all sets, each after its
        own k changes. It is looked at for few k at first.
        """
        unit, own, margin = self.unit, self.own_class, self.margin(rival)
        price = self.sets.adversary.price
        last = int(np.searchsorted(price, most))
        fewest = min(last, max(1, -(-margin // unit)))
        count = fewest
        while count < last:
            count = min(last, 2 * count + 8)
            gaps = np.full(count, self.ahead[rival])
            for e, table in enumerate(self.sets.tables):
                least_gaps(
                    self.codes[e], self.distances[e], self.totals[e], self.templates(e, own)[:OWN],
                    self.templates(e, rival), unit * (count - 1) - margin, table, _scratch(table),
                    gaps,
                )  # fmt: skip
            closed = np.flatnonzero(gaps <= 0)
            if len(closed):
                return min(most, int(price[max(fewest, closed[0])]))
        return most


def _kernels(sets: BoxSets) -> Callable[[], _Additive | _Block | _Sums]:
    """Return a function that gives each thread its kernel."""
    if sets.is_additive:
        additive = _Additive(sets)
        return lambda: additive
    return functools.partial(_Block if len(sets.tables) == 1 else _Sums, sets)


class _Additive:
    """The kernel for sets of one template a class and a part a column; threads may share it."""

    size = 1

    def __init__(self, sets: BoxSets) -> None:
        self._known, self._unit = sets.known, 2 * sets.model.reach
        self._penalty = sets.penalties()
        classes, n = self._penalty.shape[:2]
        self._most = np.empty((classes, classes, n), np.int32)
        most_gained(self._penalty, self._most)
        who, group = sets.adversary, sets.model.groups.astype(np.int64)
        self._who = (
            sets.model.offset, group, who.free.astype(np.int32), who.cost, who.price,
            who.unit is not None,
        )  # fmt: skip

    def bounds(self, codes: np.ndarray, index: np.ndarray, bound: np.ndarray) -> None:
        """Write predictions and bounds of some inputs, as `pairwise_bounds` returns them."""
        classes, n = self._penalty.shape[:2]
        scratch = (
            np.full(classes, _NEVER), np.empty(n, np.int32), np.empty(self._unit + 1, np.int32),
            np.empty(n, np.int64),
        )  # fmt: skip
        additive_bounds(
            codes, self._penalty, self._most, self._known, self._who, scratch, index, bound
        )


class _Block:
    """The kernel for one set of boxes, with scratch arrays of a thread."""

    def __init__(self, sets: BoxSets) -> None:
        self._sets, self._table, self._order = sets, sets.tables[0], sets.orders[0]
        table = self._table
        templates, parts, n = len(table.labels), len(table.parts) - 1, table.lower.shape[1]
        own = min(OWN, int(np.bincount(table.labels).max()))
        # Of one part, distances to rows are what is fastest.
        self._additive = 1 < parts == n
        ungrouped = len(table.groups) - 1 == n
        total, behind = np.empty((2, templates), np.int64)
        low, high = np.empty((2, own if ungrouped else 0, n), np.int32)
        self.size = sets.distances
        self._work, self._offset = _scratch(table), sets.model.offset
        self._block = Block(
            total, behind, np.empty(own, np.int64), np.empty(own, np.bool_),
            np.empty((own, parts), np.int64), low, high,
            np.empty((templates if self._additive else 0, n), np.int32),
            np.empty(templates, np.int64),
        )  # fmt: skip

    def bounds(self, codes: np.ndarray, index: np.ndarray, bound: np.ndarray) -> None:
        """Write predictions and bounds of some inputs, as `pairwise_bounds` returns them."""
        distance = np.empty((1, 1, 1), np.int32)
        if not self._additive:
            distance = self._sets.part_distances(codes)[0]
        if (self._order[1:] < self._order[:-1]).any():
            codes = np.ascontiguousarray(codes[:, self._order])
        least_bounds(
            codes, distance, self._table, self._offset, self._work, self._block, index, bound
        )  # fmt: skip


class _Sums:
    """The kernels for several sets of boxes, with scratch arrays of a thread."""

    def __init__(self, sets: BoxSets) -> None:
        self._sets, groups = sets, sets.model.groups
        self._works = [_scratch(table) for table in sets.tables]
        # The number of each group in the order of a table.
        self._places = [
            groups[order][table.caps[table.groups[:-1]]].astype(np.int64)
            for table, order in zip(sets.tables, sets.orders, strict=True)
        ]
        count, self._unit = int(groups.max()) + 1, 2 * sets.model.reach
        self._most = np.empty((COUNTS + 1, count), np.int32)
        self._scratch = (
            np.empty(COUNTS, np.int64), np.empty(self._unit + 1, np.int32),
            np.empty(count, np.int64),
        )  # fmt: skip
        self._gains = len(sets.model.classes), COUNTS + 1, count
        self.size = sets.distances + math.prod(self._gains)

    def bounds(self, codes: np.ndarray, index: np.ndarray, bound: np.ndarray) -> None:
        """Write predictions and bounds of some inputs, as `pairwise_bounds` returns them."""
        sets, totals = self._sets, []
        classes = np.tile(sets.model.offset, (len(codes), 1))
        distances = sets.part_distances(codes)
        for distance, table in zip(distances, sets.tables, strict=True):
            total = np.empty((len(codes), len(table.labels)), np.int64)
            add_totals(distance, table.rows, table.labels, total, classes)
            totals.append(total)
        index[:] = sets.known[classes[:, sets.known].argmin(axis=1)]
        gains = np.zeros((len(codes), *self._gains), np.int32)
        for table, order, distance, total, place, work in zip(
            sets.tables, sets.orders, distances, totals, self._places, self._works, strict=True
        ):
            some = np.ascontiguousarray(codes[:, order])
            add_gains(some, distance, table, total, index, place, work, self._most, gains)
        who = sets.adversary
        sum_bounds(
            gains, classes, sets.known, index, who.cost, who.price, who.unit is not None,
            self._unit, self._scratch, bound,
        )  # fmt: skip


def _table(
    boxes: Boxes, counted: np.ndarray, adversary: Adversary
) -> tuple[Table, np.ndarray, np.ndarray]:
    """Return boxes as a table, its features, and parts; in plain boxes each row is a template.

    counted (n,) are the groups that are rewritten together.
    """
    structure, width = boxes.structure, boxes.width
    part = np.zeros_like(structure.part) if structure.is_plain else structure.part
    order = np.lexsort((structure.group, counted, part))
    lower, upper = boxes.lower, boxes.upper
    if (order != np.arange(len(order))).any():
        lower, upper = (np.ascontiguousarray(side[:, order]) for side in (lower, upper))
    lower, upper = lower.view(), upper.view()
    lower.flags.writeable = upper.flags.writeable = False  # as a model's mostly are
    caps = _starts(structure.group[order])
    groups = _starts(counted[order][caps[:-1]])
    parts = _starts(part[order][caps[groups[:-1]]])
    rows = np.arange(len(boxes) + 1) if structure.is_plain else structure.rows
    unit = 2 * width * int(np.diff(groups).max())
    rewritten = counted[order][caps[groups[:-1]]]
    table = Table(
        lower, upper, rows, boxes.labels[rows[:-1]], caps, groups, parts, width, unit,
        adversary.free[rewritten].astype(np.int32), adversary.cost[rewritten], adversary.price,
        adversary.unit is not None,
    )  # fmt: skip
    return table, order, part


def _starts(values: np.ndarray) -> np.ndarray:
    """Return where runs of equal values start, and the end."""
    return np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [len(values)]])


def _scratch(table: Table) -> Work:
    groups, parts = len(table.groups) + 1, len(table.parts) - 1
    gains, most = np.empty((2, groups), np.int32)
    curve, total, worst = np.empty((3, groups), np.int64)
    own, rival = np.empty((2, parts), np.int64)
    # Each row of a template has a point for each group of a part, and one more.
    rows = int(np.diff(table.rows).max()) if table.priced else 0
    edges = np.empty((5, max(groups, rows * (groups + parts))), np.int64)
    return Work(gains, most, curve, total, worst,
                np.empty(table.unit + 1, np.int32), rival, own, Edges(*edges))  # fmt: skip
