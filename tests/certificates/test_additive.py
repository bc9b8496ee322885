"""Certificates of additive boxes: exact for numbers of columns, and sound for costs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.adversary import Adversary
from boxnn_numba.certificates import exact_radius, pairwise_radius
from boxnn_numba.certificates.pairwise import BoxSets
from boxnn_numba.kernels import additive

#: Every row of two columns.
EVERY = np.array([*itertools.product(range(256), repeat=2)], np.uint8)


def additive_model(seed: int, n: int, width: int, sets: int) -> BoxNN:
    """Three classes of one template each, whose rows recombine column by column."""
    rng = np.random.default_rng([seed, n, width, sets])
    found = []
    for _ in range(sets):
        count = rng.integers(1, 4, 3)
        labels = np.repeat(np.arange(3), count)
        ends = np.sort(rng.integers(0, 256, (2, len(labels), n)), axis=0)
        short = np.minimum(ends[1], ends[0] + rng.integers(0, 60, ends[0].shape))
        found.append(Boxes(ends[0], short, labels, width, 3, template=labels, part=np.arange(n)))
    offset = rng.integers(-width, width + 1, 3)
    return BoxNN(found[0], ["a", "b", "c"], others=tuple(found[1:]), offset=offset)


@settings(derandomize=True, deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.sampled_from([1, 7, 60, 255]), st.integers(1, 3))
def test_radii_are_those_of_brute_force(seed: int, width: int, sets: int) -> None:
    model = additive_model(seed, 2, width, sets)
    assert BoxSets(model, Adversary.of(model)).is_additive
    x = np.random.default_rng(seed).integers(0, 256, (6, 2)).astype(np.uint8)
    label, radius = pairwise_radius(model, x)
    np.testing.assert_array_equal(label, model.predict(x))
    flips = model.predict(EVERY)[None] != label[:, None]
    for row, flip, found in zip(x, flips, radius, strict=True):
        changed = (EVERY[flip] != row).sum(axis=1)
        assert found == changed.min(initial=3) - 1


@settings(derandomize=True, deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.sampled_from([1, 40]), st.integers(1, 3), st.booleans())
def test_limits_and_costs(seed: int, width: int, sets: int, priced: bool) -> None:
    model = additive_model(seed, 5, width, sets)
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (4, 5)).astype(np.uint8)
    who: dict[str, Any] = {"attackable": [0, 2, 3]}
    if priced:
        who["costs"] = [1, 1, 2.5, 0.5, 1]
    _, margin = model.certify(x, **who)
    label, radius = pairwise_radius(model, x, **who)
    assert (margin <= radius).all()
    for row, own, found in zip(x, label, radius, strict=True):
        prediction, lower, _, _ = exact_radius(model, row, **who)
        assert prediction == own and found <= lower
        assert priced or found == lower


def test_kernels_without_the_compiler() -> None:
    model = additive_model(3, 4, 9, 2)
    penalty = BoxSets(model, Adversary.of(model)).penalties()
    most = np.empty((2, 3, 3, 4), np.int32)
    for kernel, out in zip((additive.most_gained, additive.most_gained.py_func), most, strict=True):
        kernel(penalty, out)
    np.testing.assert_array_equal(*most)
    lead = penalty[:, None].astype(int) - penalty[None]
    np.testing.assert_array_equal(most[0], lead.max(axis=3))


@pytest.mark.parametrize("broken", ["two templates", "a part of two columns", "groups"])
def test_other_boxes_are_not_additive(broken: str) -> None:
    n, labels = 4, np.array([0, 0, 1, 1])
    template = np.array([0, 1, 2, 2]) if broken == "two templates" else labels
    part = np.array([0, 0, 1, 2]) if broken == "a part of two columns" else np.arange(n)
    low = np.arange(16).reshape(4, 4)
    group = None
    if broken == "groups":
        group, part = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2])
    boxes = Boxes(low, low + 9, labels, 5, 2, template=template, part=part, group=group)
    model = BoxNN(boxes, [0, 1])
    assert not BoxSets(model, Adversary.of(model)).is_additive
