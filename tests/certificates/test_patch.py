"""Patch certificates hold for every rewriting of every block, and are tight where they must be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference import penalty

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.certificates import patch_certified
from boxnn_numba.errors import InputError, OptionError

#: Boxes of small codes have bounds below this; with widths up to 2 larger ones are all alike.
CODES = 6
VALUES = np.arange(CODES + 2)


def random_boxes(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    centres: np.ndarray,
    counts: tuple[int, ...],
    variants: int,
    parts: int,
    width: int,
    grouped: bool | None,
) -> Boxes:
    """Return boxes of classes near their centres; `counts` are templates of classes.

    The colours of a pixel are one group, if `grouped`; if None the first and the last of every
    other pixel are.
    """
    n, pixels = int(np.prod(shape)), shape[0] * shape[1]
    group = np.arange(n) // (n // pixels if grouped else 1)
    if grouped is None:
        colours = group.reshape(pixels, -1)
        colours[::2, -1] = colours[::2, 0]
        group = np.unique(group, return_inverse=True)[1]
    # Parts side by side, or each all over the image.
    part = np.arange(group.max() + 1) * parts // (group.max() + 1)
    part = (part if rng.random() < 0.6 else rng.permuted(part))[group]
    templates = np.repeat(np.arange(sum(counts)), variants)
    labels = np.repeat(np.repeat(np.arange(len(counts)), counts), variants)
    ends = np.sort(rng.integers(0, centres.max() + 1, (2, len(labels), n)), axis=0)
    ends = np.where(rng.random((len(labels), n)) < 0.8, centres[labels], ends)
    return Boxes(
        *ends, labels, width, len(counts), template=templates, part=part, group=group
    )  # fmt: skip


def distances(model: BoxNN, x: np.ndarray) -> np.ndarray:
    """Return the (N, K) class distances of codes, by the definitions."""
    total = np.zeros((len(x), len(model.classes)), np.int64) + model.offset
    for boxes in model.box_sets:
        codes = x[:, None].astype(int)
        excess = np.maximum(np.maximum(boxes.lower - codes, codes - boxes.upper.astype(int)), 0)
        by_group = np.zeros((*excess.shape[:2], boxes.group.max() + 1), int)
        of_part = np.zeros((*excess.shape[:2], boxes.part.max() + 1), int)
        for k, g in enumerate(boxes.group):
            by_group[..., g] += excess[..., k]
        for g, p in {(g, p) for g, p in zip(boxes.group, boxes.part, strict=True)}:
            of_part[..., p] += np.minimum(by_group[..., g], boxes.width)
        for c in range(len(model.classes)):
            templates = set(boxes.template[boxes.labels == c])
            each = [of_part[:, boxes.template == t].min(axis=1).sum(axis=1) for t in templates]
            total[:, c] += np.min(each, axis=0)
    return total


def truth(model: BoxNN, row: np.ndarray, patch: tuple[int, int]) -> bool:
    """Return whether no rewriting of any block changes a prediction, by trying them all."""
    height, width, channels = (*model.feature_shape, 1)[:3]
    places = np.arange(height * width * channels).reshape(height, width, channels)
    before = distances(model, row[None]).argmin()
    tries = np.array(list(itertools.product(VALUES, repeat=patch[0] * patch[1] * channels)))
    for y, x in np.ndindex(height - patch[0] + 1, width - patch[1] + 1):
        changed = np.repeat(row[None], len(tries), axis=0)
        changed[:, places[y : y + patch[0], x : x + patch[1]].ravel()] = tries
        if (distances(model, changed).argmin(axis=1) != before).any():
            return False
    return True


def bound(model: BoxNN, row: np.ndarray, patch: tuple[int, int]) -> bool:
    """Return whether every class keeps ahead of all rivals by the bound, block by block."""
    height, width, channels = (*model.feature_shape, 1)[:3]
    places = np.arange(height * width * channels).reshape(height, width, channels)
    ahead = distances(model, row[None])[0]
    p, classes = int(ahead.argmin()), range(len(ahead))
    for y, x in np.ndindex(height - patch[0] + 1, width - patch[1] + 1):
        block = set(places[y : y + patch[0], x : x + patch[1]].ravel().tolist())
        for c in set(classes) - {p}:
            left = model.offset[c] - model.offset[p] + (c > p)
            if left + sum(lead(boxes, row, block, p, c) for boxes in model.box_sets) <= 0:
                return False
    return True


def lead(boxes: Boxes, row: np.ndarray, block: set[int], p: int, c: int) -> int:
    """Return how far the templates of c stay behind those of p at least, whatever is in a block."""
    width, ends = boxes.width, [*zip(boxes.lower.tolist(), boxes.upper.tolist(), strict=True)]
    groups = [np.flatnonzero(boxes.group == g).tolist() for g in range(boxes.group.max() + 1)]
    parts = [
        [g for g in groups if boxes.part[g[0]] == part] for part in range(boxes.part.max() + 1)
    ]

    def outside(m: int, k: int, code: int) -> int:
        return int(penalty(code, ends[m][0][k], ends[m][1][k], 999))

    def cost(m: int, group: list[int]) -> int:
        return min(width, sum(outside(m, k, int(row[k])) for k in group))

    def gain(own: int, m: int, group: list[int]) -> int:
        reached = sum(max(outside(own, k, end[k]) for end in ends[m]) for k in group)
        return min(width, reached) - cost(own, group) + cost(m, group)

    def behind(own: int, m: int, part: list[list[int]]) -> int:
        touched = [group for group in part if block & {*group}]
        gap = sum(cost(m, group) - cost(own, group) for group in part)
        return gap - sum(gain(own, m, group) for group in touched)

    rows = [np.flatnonzero(boxes.template == t) for t in range(boxes.template[-1] + 1)]
    nearest = [
        [min(of, key=lambda m: sum(cost(m, g) for g in part)) for part in parts]
        for of in rows
        if boxes.labels[of[0]] == p
    ]
    return min(
        max(
            sum(min(behind(a, m, part) for m in of) for a, part in zip(own, parts, strict=True))
            for own in nearest
        )
        for of in rows
        if boxes.labels[of[0]] == c
    )


def check(model: BoxNN, x: np.ndarray, sizes: list[tuple[int, int]], tight: bool) -> np.ndarray:
    """Hold certificates against the truth; returns them."""
    prediction, certified = patch_certified(model, x, sizes, threads=1)
    np.testing.assert_array_equal(prediction, distances(model, x).argmin(axis=1))
    for row, held in zip(x, certified, strict=True):
        for size, found in zip(sizes, held, strict=True):
            if tight or found:
                assert found == truth(model, row, size), (row, size)
    return certified


CASES = [
    # shape, templates of classes, variants, parts, whether colours are one group, sizes
    ((3, 3), (1, 2, 2), 1, 1, False, [(1, 1), (2, 2), (1, 3)]),
    ((4, 3), (1, 2, 1), 2, 3, False, [(1, 2), (2, 2), (4, 1)]),
    ((3, 2, 2), (1, 2, 2), 2, 2, True, [(1, 1), (2, 1), (1, 2)]),
    ((2, 3, 2), (1, 3), 2, 1, False, [(1, 1), (1, 2)]),
    ((1, 3, 3), (1, 3), 2, 2, None, [(1, 1)]),
]


def models(case: Any, width: int, members: int) -> Iterator[tuple[BoxNN, np.ndarray]]:
    """Yield models of a case, each with some inputs."""
    shape, counts, variants, parts, grouped, _ = case
    rng = np.random.default_rng(width)
    for _ in range(3):
        centres = rng.integers(0, CODES, (len(counts), int(np.prod(shape))))
        boxes, *others = (
            random_boxes(rng, shape, centres, counts, variants, parts, width, grouped)
            for _ in range(members)
        )
        model = BoxNN(
            boxes, range(len(counts)), None, shape, others=tuple(others),
            offset=rng.integers(-2, 3, len(counts)),
        )  # fmt: skip
        x = boxes.lower[rng.integers(0, len(boxes), 3)]
        x[:, rng.integers(0, x.shape[1], 2)] = rng.integers(0, CODES + 2, 2)
        yield model, x


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("width", "members"), [(1, 1), (2, 1), (2, 2)])
def test_certified_means_that_no_block_succeeds(case: Any, width: int, members: int) -> None:
    found = [check(*pair, case[-1], tight=False) for pair in models(case, width, members)]
    held = np.concatenate(found)
    assert held.any() and not held.all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("members", [1, 2])
def test_what_is_certified_is_what_the_bound_says(case: Any, members: int) -> None:
    for model, x in models(case, 2, members):
        expected = [[bound(model, row, size) for size in case[-1]] for row in x]
        assert patch_certified(model, x, case[-1])[1].tolist() == expected


@pytest.mark.parametrize("case", CASES)
def test_against_a_single_own_box_the_certificate_is_the_truth(case: Any) -> None:
    rng, held = np.random.default_rng(1), []
    for model, x in models(case, 2, 1):
        boxes = model.boxes
        # Both variants of the template of class 0 are the same, and inputs are near it.
        ends = np.stack((boxes.lower, boxes.upper))
        ends[:, boxes.template == 0] = ends[:, :1]
        single = BoxNN(
            Boxes(*ends, boxes.labels, 2, template=boxes.template, part=boxes.part,
                  group=boxes.group),
            model.classes, None, model.feature_shape,
        )  # fmt: skip
        near = rng.random(x.shape) < [[0.4], [0.7], [0.9]]
        x = np.where(near, ends[0, 0], x)
        held.append(check(single, x[single.predict(x) == 0], case[-1], tight=True))
    held = np.concatenate(held)
    assert held.any() and not held.all()


def test_a_variant_that_is_far_away_may_gain_most() -> None:
    # Where the own box is wide a variant gains only what it is off: the nearest, in every other
    # pixel of these. The other is off in two more, and gains twice that in a block of two.
    own, near, far = [0, 0] + [9] * 8, [0, 0] + [5, 0] * 4, [5, 5] + [0, 5] * 4
    lower = [[0] * 10, near, far]
    boxes = Boxes(lower, [own, near, far], [0, 1, 1], template=[0, 1, 1])
    for offset, held in ((-2, True), (-3, False)):
        model = BoxNN(boxes, [0, 1], None, (1, 10), offset=[0, offset])
        x = np.zeros((1, 10), np.uint8)
        assert check(model, x, [(1, 2)], tight=True).tolist() == [[held]]
        nearest = Boxes(lower[:2], [own, near], [0, 1])
        single = BoxNN(nearest, [0, 1], None, (1, 10), offset=[0, offset])
        assert check(single, x, [(1, 2)], tight=True).all()


def test_a_class_without_boxes_is_no_rival() -> None:
    boxes = Boxes([[0] * 4, [60] * 4], [[50] * 4, [255] * 4], [0, 2], 50, n_classes=4)
    model = BoxNN(boxes, "abcd", None, (2, 2))
    assert patch_certified(model, [[9] * 4, [58] * 4], 1)[1].tolist() == [[True], [False]]


@given(st.integers(0, 10**6), st.sampled_from([1, 3, 128, 255]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_blocks_that_go_for_a_rival_do_not_get_past_a_certificate(
    seed: int, width: int, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    shape, sizes = (6, 7, 2), [(1, 1), (2, 2), (2, 5), (4, 3), (6, 7)]
    centres = rng.integers(0, 256, (3, 84))
    boxes = random_boxes(rng, shape, centres, (2, 3, 1), 3, 4, width, grouped)
    model = BoxNN(boxes, range(3), None, shape)
    x = boxes.lower[rng.integers(0, len(boxes), 8)]
    x = np.where(rng.random(x.shape) < 0.6, 0, x)
    prediction, certified = patch_certified(model, x, sizes, threads=2)
    assert (prediction == model.predict(x)).all()
    margin = model.certify(x).radius
    for (rows, columns), held in zip(sizes, certified.T, strict=True):
        # The margin counts pixels, or both their colours one by one.
        assert held[margin >= rows * columns * (1 if grouped else 2)].all()
        tries = np.repeat(x.reshape(1, -1, *shape), 10, axis=0)
        for changed in tries:
            y, z = rng.integers(0, 7 - rows), rng.integers(0, 8 - columns)
            block = (slice(None), slice(y, y + rows), slice(z, z + columns))
            # Into the rows of some box, where it is bound to gain.
            changed[block] = boxes.upper[rng.integers(len(boxes))].reshape(1, *shape)[block]
        after = distances(model, tries.reshape(-1, boxes.n_features)).argmin(axis=1)
        assert (after.reshape(10, -1) == prediction)[:, held].all()
    # A block within another succeeds only where that does.
    assert (certified[:, 0] | ~certified[:, 1]).all() and (certified[:, 1] | ~certified[:, 2]).all()
    assert not certified[:, -1].any()


def test_sizes_are_given_in_several_ways() -> None:
    model = BoxNN(Boxes([[0] * 9, [60] * 9], [[50] * 9, [255] * 9], [0, 1], 30), "ab", None, (3, 3))
    for size in (2, (2, 2), "2", "2x2", [2], [(2, 2)], np.int64(2)):
        label, held = patch_certified(model, [[25] * 9], size)
        assert (label.tolist(), held.tolist()) == (["a"], [[True]])
    assert patch_certified(model, [[25] * 9], "3, 1x3,2")[1].tolist() == [[False, True, True]]


def test_a_model_certifies_sides_of_squares() -> None:
    model, x = next(models(CASES[0], 2, 1))
    held = patch_certified(model, x, "1,2,1x3")[1]
    radius = model.certify(x, certificate="patch", patch=[1, 2, (1, 3)])
    np.testing.assert_array_equal(radius.prediction, model.predict(x))
    assert radius.radius.dtype == np.int32 and radius.radius.any()
    np.testing.assert_array_equal(radius.radius >= 2, held[:, 1])
    np.testing.assert_array_equal(radius.radius >= 1, held.any(axis=1))
    with pytest.raises(OptionError, match="the certificate patch needs `patch`"):
        model.certify(x, certificate="patch")
    with pytest.raises(OptionError, match="`patch` is for the certificate patch"):
        model.certify(x, patch=2)


FLAT = BoxNN(Boxes([[0] * 4, [60] * 4], [[50] * 4, [255] * 4], [0, 1]), [0, 1])
IMAGE = BoxNN(FLAT.boxes, [0, 1], None, (2, 2))
WIDE = BoxNN(
    Boxes(FLAT.boxes.lower, FLAT.boxes.upper, [0, 1], group=[0, 0, 1, 2]), [0, 1], None, (2, 2)
)


@pytest.mark.parametrize(
    ("model", "patch", "error", "words"),
    [
        (FLAT, 1, InputError, r"shape \(4,\), and patches are of images"),
        (WIDE, 1, InputError, "groups of features in several pixels"),
        (IMAGE, "1x3", OptionError, "1 x 3 does not fit into images of 2 x 2"),
        (IMAGE, 0, OptionError, "rows x columns as 3x7"),
        (IMAGE, "1x1x1", OptionError, "rows x columns as 3x7"),
        (IMAGE, "two", OptionError, "rows x columns as 3x7"),
        (IMAGE, True, OptionError, "rows x columns as 3x7"),
        (IMAGE, [1, (1, 1)], OptionError, "sizes of blocks that differ"),
        (IMAGE, [], OptionError, "sizes of blocks that differ"),
    ],
)
def test_what_is_refused(model: BoxNN, patch: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        patch_certified(model, [[25] * 4], patch)
