"""Duel: the integer program of one rival against own boxes, its rows and their distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from boxnn_numba.certificates.choices import Bounds, Slot, worth_writing
from boxnn_numba.certificates.integer_program import Builder, Distance, Program
from boxnn_numba.certificates.pairwise import Threat

#: Rows by template and part.
Rows = dict[int, list[list[int]]]
Least = Callable[[list[Distance]], Distance]


@dataclass(frozen=True, eq=False)
class Written:
    """The rewritings that the choices of a program stand for.

    Attributes
    ----------
    slots
        (Z,) what each writes to, as in `BoxSets.slots`; several may write to one at once if it is
        among `split`, each to one feature.
    starts, features, codes
        Choice z writes ``codes[starts[z]:starts[z + 1]]`` into the features at these places.
    """

    slots: np.ndarray
    split: list[int]

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
) -> tuple[Program, Written]:
    """Return the program in which a rival overtakes for less than `most`.

    The rival is a template, or of an ensemble a class; own are the rows that are known of each set,
    allowed (n, 256) the codes that may be written.
    """
    sets = threat.sets
    rivals = [_rival_rows(threat, e, rival, most) for e in range(len(sets.tables))]
    slots = _slots(threat, own, rivals)
    entries = [
        (i, *entry)
        for i, slot in enumerate(slots)
        if allowed[slot.features].any()
        for entry in worth_writing(threat.input, slot, sets.width, allowed)
    ]
    slot_of, features, codes = zip(*entries, strict=True)
    counts = [len(found) for found in codes]
    written = Written(
        np.repeat(slot_of, counts),
        np.flatnonzero(np.bincount(slot_of) > 1).tolist(),
        np.cumsum([0, *np.repeat([len(places) for places in features], counts)]),
        np.concatenate([np.tile(f, c) for f, c in zip(features, counts, strict=True)]),
        np.concatenate([found.ravel() for found in codes]),
    )
    groups = sets.model.groups[sets.leaders[written.slots]]
    builder = Builder(np.repeat(np.arange(len(entries)), counts), groups)
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
    program = builder.program(owns[0], rival_sum, ahead)
    priced = sets.adversary.unit is not None
    return replace(program, cost=sets.adversary.cost if priced else None), written


def _rival_rows(threat: Threat, e: int, rival: int, most: int) -> Rows:
    """Return the rows of a rival in a set with which it could win for less than `most`."""
    templates, table, distance = [rival], threat.sets.tables[e], threat.distances[e]
    if len(threat.sets.tables) > 1:
        templates = threat.templates(e, rival).tolist()
    slack = threat.slack(most) - threat.margin(rival) + threat.totals[e][templates[0]]
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
        self._input, self._slots = threat.input, threat.sets.slots
        self._builder, self._written = builder, written
        self._part = threat.sets.parts[e][threat.sets.leaders]
        # Parts of one slot, which is written at once.
        table, split = threat.sets.tables[e], self._part[written.split]
        self._alone = np.diff(table.groups[table.parts]) == 1
        self._alone[split] = False

    def templates(self, rows: Rows, least: Least) -> list[Distance]:
        """Return the distances to templates of which some rows are known."""
        found = []
        for parts in rows.values():
            total = self._builder.zero()
            for p, of_part in enumerate(parts):
                known = [self._row(m, p, least) for m in of_part]
                total = total.plus(_joined(known) if self._alone[p] else least(known))
            found.append(total)
        return found

    def _row(self, m: int, p: int, least: Least) -> Distance:
        """Return the distance to a row in a part.

        Of slots whose features are written one by one, ``min(sum, W)`` is the least of the two.
        """
        written, width = self._written, self._boxes.width
        after, before = (
            self._penalties(m, codes) for codes in (written.codes, self._input[written.features])
        )
        gains = np.where(self._part[written.slots] == p, after - before, 0)
        total = Distance(
            int(self._distance[p, m]), np.where(np.isin(written.slots, written.split), 0, gains), {}
        )
        for slot in written.split:
            if self._part[slot] != p:
                continue
            places = self._slots[slot]
            now = int(self._excess(m, places, self._input[places]).clip(max=width).sum())
            summed = Distance(now, np.where(written.slots == slot, gains, 0), {})
            if self._builder.limits(summed)[1] > width:
                summed = least([summed, self._builder.zero(width)])
            total = total.plus(summed).plus(self._builder.zero(min(now, width)), -1)
        return total

    def _penalties(self, m: int, codes: np.ndarray) -> np.ndarray:
        """(Z,) penalties of what each choice writes, or of what was there."""
        excess, starts = self._excess(m, self._written.features, codes), self._written.starts[:-1]
        total = np.add.reduceat(excess, starts) if len(starts) else excess
        return np.minimum(total, self._boxes.width)

    def _excess(self, m: int, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        low, high = (
            side[m, features].astype(np.int64) for side in (self._boxes.lower, self._boxes.upper)
        )
        return np.maximum(np.maximum(low - codes, codes - high), 0)
