"""Random models of every kind with samples, who attacks them, and their distances in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from support.certificate_models import factored

from boxnn_numba import Boxes, BoxNN, Grid
from boxnn_numba.columns import Columns

#: The ends, what is next to them, and some between.
WIDTHS = (1, 1, 2, 40, 100, 128, 254, 255)
#: Every cell that a column may hold: what training saw, missing, and what it did not see.
CELLS: dict[str, list[Any]] = {
    "amount": [1.0, 2.0, 5.0, 7.5, None, -1e300, 1e300],
    "colour": ["red", "green", "blue", None, "pink"],
    "paid": [True, False, None],
    "day": ["2024-01-01", "2024-02-01", "2024-03-01", ""],
    "age": [18.0, 30.0, 44.0, 71.0, None, -5.0],
    "city": ["Bonn", "Kiel", "Ulm", None, "Rome"],
    "score": [0.0, 0.25, 0.5, 1.0],
    "rich": [True, False],
}


@dataclass(frozen=True, eq=False)
class Case:
    """A model and what attacks it.

    Attributes
    ----------
    model, x
        The classifier, and samples (N, n) of it.
    pool
        (V, n) values that are worth writing into each feature.
    free, cost
        (G,) which groups may be rewritten, and (G,) float64 what that costs, multiples of 0.25.
    who
        The same as options of `certify`.
    every
        All samples that there are, where they are few.
    patches
        Sizes of blocks, of images only.
    """

    model: BoxNN
    x: np.ndarray
    pool: np.ndarray
    free: np.ndarray
    cost: np.ndarray
    who: dict[str, Any] = field(default_factory=dict)
    every: np.ndarray | None = None
    patches: tuple[tuple[int, int], ...] = ()


def _case(model: BoxNN, x: np.ndarray, pool: np.ndarray, **more: Any) -> Case:
    """Return a case in which any group may be rewritten at the same cost."""
    groups = int(model.groups.max()) + 1
    return Case(model, x, pool, np.ones(groups, bool), np.ones(groups), **more)


# --- boxes of codes ---------------------------------------------------------------------------


def _boxes(
    rng: np.random.Generator,
    centres: np.ndarray,
    width: int,
    templates: int,
    rows: int,
    part: np.ndarray,
    group: np.ndarray,
) -> Boxes:
    """Return `templates` a class of `rows` rows each, near the centres (K, n) of the classes."""
    classes, n = centres.shape
    labels = np.repeat(np.arange(classes), templates * rows)
    template = np.repeat(np.arange(classes * templates), rows)
    middle = centres[labels] + rng.integers(-30, 31, (len(labels), n))
    elsewhere = rng.random(middle.shape) < rng.choice([0.05, 0.3])
    middle = np.where(elsewhere, rng.integers(0, 256, middle.shape), middle)
    half = rng.choice([0, 5, 20, 60], middle.shape)
    ends = np.clip(middle - half, 0, 255), np.clip(middle + half, 0, 255)
    return Boxes(*ends, labels, width, classes, template=template, part=part, group=group)


def _samples(rng: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    """Return samples near the centres, some of whose features are anything."""
    x = centres[rng.integers(0, len(centres), count)]
    x = x + rng.integers(-25, 26, x.shape)
    elsewhere = rng.random(x.shape) < rng.random((count, 1)) * 0.4
    x = np.where(elsewhere, rng.integers(0, 256, x.shape), x)
    return np.clip(x, 0, 255).astype(np.uint8)


def _centres(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return a centre for each of 2 to 4 classes, at opposite sides in most features."""
    classes = int(rng.integers(2, 5))
    side = rng.integers(0, 2, (classes, n))
    return np.where(side == 1, rng.integers(180, 246, side.shape), rng.integers(10, 76, side.shape))


def _parts(rng: np.random.Generator, group: np.ndarray, most: int) -> np.ndarray:
    """Return up to `most` parts; a group lies within one."""
    part = rng.integers(0, most, group.max() + 1)
    return np.asarray(np.unique(part, return_inverse=True)[1][group])


def _of_codes(
    rng: np.random.Generator,
    count: int,
    *,
    n: int | None = None,
    parts: int = 1,
    grouped: bool = False,
    sets: int = 1,
    group: np.ndarray | None = None,
    **more: Any,
) -> Case:
    """Return a model of codes with class offsets in half of the cases."""
    n = int(rng.integers(6, 25)) if n is None else n
    width, centres = int(rng.choice(WIDTHS)), _centres(rng, n)
    if group is None:
        group = rng.integers(0, max(2, n // 2), n) if grouped else np.arange(n)
        group = np.unique(group, return_inverse=True)[1]
    found = []
    for _ in range(sets):
        shape = int(rng.integers(1, 4)), int(rng.integers(2, 5))
        if parts == 1:
            shape = int(rng.integers(1, 7)), 1
        found.append(_boxes(rng, centres, width, *shape, _parts(rng, group, parts), group))
    offset = rng.integers(-2 * width, 2 * width + 1, len(centres)) * rng.integers(0, 2)
    model = BoxNN(
        found[0], list(range(len(centres))), others=tuple(found[1:]), offset=offset,
        feature_shape=more.pop("feature_shape", None), group_size=more.pop("group_size", 1),
    )  # fmt: skip
    ends = [side for one in found for side in (one.lower, one.upper)]
    pool = np.concatenate([np.array([[0] * n, [255] * n], np.uint8), *ends])
    return _case(model, _samples(rng, centres, count), pool, **more)


def plain(rng: np.random.Generator, count: int) -> Case:
    """Boxes as in the paper, of any width."""
    return _of_codes(rng, count)


def templates(rng: np.random.Generator, count: int) -> Case:
    """Templates whose rows recombine part by part."""
    return _of_codes(rng, count, parts=int(rng.integers(2, 5)))


def grouped(rng: np.random.Generator, count: int) -> Case:
    """Groups of unequal sizes that are rewritten together, in parts or not."""
    return _of_codes(rng, count, parts=int(rng.integers(1, 4)), grouped=True)


def first_groups(rng: np.random.Generator, count: int) -> Case:
    """Groups of the first version: each code capped for itself."""
    size = int(rng.integers(2, 4))
    return _of_codes(rng, count, n=size * int(rng.integers(3, 8)), group_size=size)


def ensemble(rng: np.random.Generator, count: int) -> Case:
    """Two or three sets of boxes whose distances are added."""
    kind = {"parts": int(rng.integers(1, 4)), "grouped": bool(rng.integers(0, 2))}
    return _of_codes(rng, count, sets=int(rng.integers(2, 4)), **kind)


def additive(rng: np.random.Generator, count: int) -> Case:
    """One template a class and a part a column: the sum of what each column adds."""
    n, width = int(rng.integers(6, 17)), int(rng.choice(WIDTHS))
    centres = _centres(rng, n)
    sets = [
        _boxes(rng, centres, width, 1, int(rng.integers(2, 5)), np.arange(n), np.arange(n))
        for _ in range(rng.integers(1, 4))
    ]
    offset = rng.integers(-width, width + 1, len(centres))
    model = BoxNN(sets[0], list(range(len(centres))), others=tuple(sets[1:]), offset=offset)
    pool = np.concatenate([side for one in sets for side in (one.lower, one.upper)])
    return _case(model, _samples(rng, centres, count), pool)


def image(rng: np.random.Generator, count: int) -> Case:
    """Images of one to three channels, for patches."""
    shape = int(rng.integers(3, 7)), int(rng.integers(3, 7)), int(rng.integers(1, 4))
    n = int(np.prod(shape))
    pixels = np.arange(n) // shape[2]
    sizes = [(1, 1), (2, 2), (1, 3), (3, 2)]
    return _of_codes(
        rng, count, n=n, parts=int(rng.integers(1, 3)), sets=int(rng.integers(1, 3)),
        group=pixels if rng.integers(0, 2) else np.arange(n), feature_shape=shape,
        patches=(sizes[rng.integers(4)],),
    )  # fmt: skip


# --- tables, and all their rows -----------------------------------------------------------------


def table(rng: np.random.Generator, count: int) -> Case:
    """Columns of every kind, with categories, missing values, and cells that training never saw."""
    names = rng.permutation(list(CELLS))[: rng.integers(4, len(CELLS) + 1)].tolist()
    seen = {name: [cell for cell in CELLS[name] if cell not in ("pink", "Rome")] for name in names}
    train = {name: [cells[i] for i in rng.integers(0, len(cells), 60)]
             for name, cells in seen.items()}  # fmt: skip
    columns = Columns.of(train)
    raw, y = columns.values(train), rng.integers(0, 3, 60)
    grid = Grid.fit(raw, columns=columns, y=y)
    typical = raw[rng.permutation(60)[: int(rng.integers(2, 4))]]
    centres = grid.encode(typical).astype(int)
    n, width = len(names), int(rng.choice(WIDTHS))
    parts = _parts(rng, np.arange(n), int(rng.integers(1, 4)))
    sets = [
        _boxes(rng, centres, width, 2, 3 if parts.any() else 1, parts, np.arange(n))
        for _ in range(rng.integers(1, 3))
    ]
    offset = rng.integers(-width, width + 1, len(centres)) * rng.integers(0, 2)
    classes = [f"c{k}" for k in range(len(centres))]
    model = BoxNN(sets[0], classes, grid, columns=columns, others=tuple(sets[1:]), offset=offset)
    longest = max(len(CELLS[name]) for name in names)
    pool = columns.values({name: (CELLS[name] * longest)[:longest] for name in names})
    x = typical[rng.integers(0, len(typical), count)]
    elsewhere = rng.random(x.shape) < rng.random((count, 1)) * 0.6
    x = np.where(elsewhere, pool[rng.integers(0, longest, x.shape), np.arange(n)], x)
    return _case(model, x, pool)


def tiny(rng: np.random.Generator, count: int) -> Case:
    """Models of so few inputs that all can be tried."""
    size = [(3, 6), (4, 4), (5, 3), (6, 2)][rng.integers(4)]
    model, _, every = factored(
        int(rng.integers(10**6)), *size, int(rng.choice(WIDTHS)), int(rng.integers(1, 3)),
        grouped=bool(rng.integers(0, 2)), shift=int(rng.choice([0, 10])),
    )  # fmt: skip
    # Most have a rival next to them: the half with the larger radii is worth more.
    best = np.argsort(-model.certify(every).radius, kind="stable")[: len(every) // 2]
    x = every[best[rng.integers(0, len(best), count)]]
    pool = np.repeat(np.arange(float(size[1]))[:, None], size[0], axis=1)
    return _case(model, x, pool, every=every)


def limited(rng: np.random.Generator, count: int) -> Case:
    """Any of the others, with columns that may not be rewritten, or that cost differently."""
    kinds: tuple[Callable[[np.random.Generator, int], Case], ...] = (
        plain, templates, grouped, ensemble, additive, table, tiny,
    )  # fmt: skip
    made = kinds[rng.integers(len(kinds))](rng, count)
    groups = len(made.free)
    free = rng.random(groups) < rng.choice([0.1, 0.4, 0.75])
    free[rng.integers(groups)] = True
    who: dict[str, Any] = {"attackable": np.flatnonzero(free).tolist()}
    cost = np.ones(groups)
    if rng.integers(0, 2):
        cost = rng.choice([0.25, 0.5, 1, 1.5, 2, 4], groups)
        who["costs"] = cost.tolist()
    return Case(made.model, made.x, made.pool, free, cost, who, made.every)


#: How models of each kind are made, by name.
KINDS: dict[str, Callable[[np.random.Generator, int], Case]] = {
    "plain": plain, "templates": templates, "groups": grouped, "groups, version 1": first_groups,
    "ensemble": ensemble, "additive": additive, "table": table, "limited, costs": limited,
    "all inputs": tiny, "image": image,
}  # fmt: skip


# --- what is predicted, by the definitions --------------------------------------------------------


def _distance(boxes: Boxes, codes: np.ndarray) -> np.ndarray:
    """Return the (N, K) class distances of codes (N, n) to one set of boxes."""
    order = np.lexsort((boxes.group, boxes.part))
    group, part = boxes.group[order], boxes.part[order]
    x = codes[:, None, order].astype(np.int16)
    low, high = (side[:, order].astype(np.int16) for side in (boxes.lower, boxes.upper))
    paid = np.maximum(np.maximum(low - x, x - high), 0)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    if len(first) < len(group):
        paid = np.add.reduceat(paid.astype(np.int32), first, axis=2)
    paid = np.minimum(paid, boxes.width).astype(np.int32)
    start = np.flatnonzero(np.diff(part[first], prepend=-1))
    of_parts = np.add.reduceat(paid, start, axis=2)
    template = np.flatnonzero(np.diff(boxes.template, prepend=-1))
    each = np.minimum.reduceat(of_parts, template, axis=1).sum(axis=2)
    label = np.flatnonzero(np.diff(boxes.labels[template], prepend=-1))
    return np.asarray(np.minimum.reduceat(each, label, axis=1))


def predicted(model: BoxNN, x: np.ndarray) -> np.ndarray:
    """Return the (N,) class indices of samples, by the definitions; ties to the first class."""
    codes, found = model.encode(x), np.empty(len(x), np.int64)
    for first in range(0, len(codes), 1000):
        rows = slice(first, first + 1000)
        total = sum(_distance(boxes, codes[rows]) for boxes in model.box_sets) + model.offset
        found[rows] = total.argmin(axis=1)
    return found


def differing(case: Case, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (N, G) bool, groups in which samples differ; missing values are alike."""
    differs = x != other
    if x.dtype.kind == "f":
        differs &= ~(np.isnan(x) & np.isnan(other))
    changed = np.zeros((len(differs), len(case.free)), bool)
    for k, group in enumerate(case.model.groups.tolist()):
        changed[:, group] |= differs[:, k]
    return changed
