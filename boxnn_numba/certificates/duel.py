"""The program of one rival against own boxes: which rows it is made of, and their distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from boxnn_numba.certificates.choices import Bounds, Slot, worth_writing
from boxnn_numba.certificates.integer_program import Builder, Distance, Program
from boxnn_numba.certificates.pairwise import Threat

#: Rows by template and part.
Rows = dict[int, list[list[int]]]


@dataclass(frozen=True, eq=False)
class Written:
    """What the choices of a program write.

    Attributes
    ----------
    starts, features, codes
        Choice z writes ``codes[starts[z]:starts[z + 1]]`` into the features at these places.
    """

    starts: np.ndarray
    features: np.ndarray
    codes: np.ndarray

    def apply(self, codes: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Return codes (n,) rewritten by the choices that are taken."""
        changed = codes.copy()
        for z in taken:
            places = slice(self.starts[z], self.starts[z + 1])
            changed[self.features[places]] = self.codes[places]
        return changed


def duel(
    threat: Threat, rival: int, most: int, own: Sequence[Rows], allowed: np.ndarray
) -> tuple[Program, Written] | None:
    """Return the program in which a rival overtakes by less than `most` changes.

    The rival is a template, or of an ensemble a class; own are the rows that are known of each set,
    allowed (n, 256) the codes that may be written. None where a group has too many joint codes.
    """
    sets = threat.sets
    rivals = [_rival_rows(threat, e, rival, most) for e in range(len(sets.tables))]
    slots = _slots(threat, own, rivals)
    codes = []
    for slot in slots:
        found = worth_writing(threat.input, slot, sets.width, allowed)
        if found is None:
            return None
        codes.append(found)
    counts = [len(found) for found in codes]
    slot_of = np.repeat(np.arange(len(slots)), counts)
    written = Written(
        np.cumsum([0, *np.repeat([len(slot.features) for slot in slots], counts)]),
        np.concatenate([np.tile(s.features, c) for s, c in zip(slots, counts, strict=True)]),
        np.concatenate([found.ravel() for found in codes]),
    )
    builder = Builder(slot_of, sets.model.groups[sets.leaders[slot_of]])
    distances = [_Distances(threat, e, builder, written) for e in range(len(sets.tables))]
    rival_sum, ahead = builder.zero(), int(threat.ahead[threat.class_of(rival)])
    for of_set, rows in zip(distances, rivals, strict=True):
        rival_sum = rival_sum.plus(builder.least_rival(of_set.templates(rows, builder.least_rival)))
    owns = [of_set.templates(rows, builder.least_own)
            for of_set, rows in zip(distances, own, strict=True)]  # fmt: skip
    if len(owns) > 1:
        own_sum = builder.zero()
        for of_templates in owns:
            own_sum = own_sum.plus(builder.least_own(of_templates))
        owns = [[own_sum]]
    return builder.program(owns[0], rival_sum, ahead), written


def _rival_rows(threat: Threat, e: int, rival: int, most: int) -> Rows:
    """Return the rows of a rival in a set with which it could win by less than `most` changes."""
    templates, table, distance = [rival], threat.sets.tables[e], threat.distances[e]
    if len(threat.sets.tables) > 1:
        templates = threat.templates(e, rival).tolist()
    slack = threat.unit * (most - 1) - threat.margin(rival) + threat.totals[e][templates[0]]
    found = {}
    for t in templates:
        left = slack - threat.totals[e][t]
        if left < 0:
            break
        of_template = distance[:, table.rows[t] : table.rows[t + 1]]
        farther = of_template - of_template.min(axis=1, keepdims=True)
        found[t] = [(table.rows[t] + np.flatnonzero(part <= left)).tolist() for part in farther]
    return found


def _slots(threat: Threat, own: Sequence[Rows], rivals: Sequence[Rows]) -> list[Slot]:
    """Return what is capped as a whole, and the bounds of the rows that see it."""
    sets = threat.sets
    seen: list[list[list[Bounds]]] = []  # by set and part, of own and of rival rows
    for boxes, *both in zip(sets.model.box_sets, own, rivals, strict=True):
        seen.append([])
        for p in range(len(next(iter(both[0].values())))):
            rows = [sorted({m for parts in side.values() for m in parts[p]}) for side in both]
            seen[-1].append([(boxes.lower[side], boxes.upper[side]) for side in rows])
    return [
        Slot(features, *zip(*(
            [(low[:, features], high[:, features]) for low, high in of_set[part[features[0]]]]
            for of_set, part in zip(seen, sets.parts, strict=True)), strict=True))
        for features in sets.slots
    ]  # fmt: skip


def _joined(found: list[Distance]) -> Distance:
    """Return the least of distances that depend on one slot: one number for each of its choices."""
    after = np.min([one.constant + one.gains for one in found], axis=0)
    now = min(one.constant for one in found)
    return Distance(now, after - now, {})


class _Distances:
    """Distances to the rows and templates of a set, as the program knows them."""

    def __init__(self, threat: Threat, e: int, builder: Builder, written: Written) -> None:
        self._boxes, self._distance = threat.sets.model.box_sets[e], threat.distances[e]
        self._builder, self._written = builder, written
        self._both = written.codes, threat.input[written.features]
        self._part = threat.sets.parts[e][written.features[written.starts[:-1]]]
        table = threat.sets.tables[e]
        self._alone = np.diff(table.groups[table.parts]) == 1
        self._gains: dict[int, np.ndarray] = {}

    def templates(self, rows: Rows, least: Callable[[list[Distance]], Distance]) -> list[Distance]:
        """Return the distances to templates of which some rows are known."""
        found = []
        for parts in rows.values():
            total = self._builder.zero()
            for p, of_part in enumerate(parts):
                known = [self._row(m, p) for m in of_part]
                total = total.plus(_joined(known) if self._alone[p] else least(known))
            found.append(total)
        return found

    def _row(self, m: int, p: int) -> Distance:
        if m not in self._gains:
            after, before = map(self._penalties, (m, m), self._both)
            self._gains[m] = after - before
        gains = np.where(self._part == p, self._gains[m], 0)
        return Distance(int(self._distance[p, m]), gains, {})

    def _penalties(self, m: int, codes: np.ndarray) -> np.ndarray:
        """(Z,) penalties of what each choice writes, or of what was there."""
        features, starts = self._written.features, self._written.starts[:-1]
        low, high = (
            side[m, features].astype(np.int64) for side in (self._boxes.lower, self._boxes.upper)
        )
        excess = np.maximum(np.maximum(low - codes, codes - high), 0)
        total = np.add.reduceat(excess, starts) if len(starts) else excess
        return np.minimum(total, self._boxes.width)
