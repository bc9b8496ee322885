"""Trees as submodels of a partition: scores as scikit-learn's, in arrays that are checked."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier

from boxnn_numba.baselines import trees
from boxnn_numba.baselines.partition import (
    make_partition,
    plurality_radius,
    runoff_radius,
    votes_of,
)
from boxnn_numba.errors import InputError, OptionError


def table(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Six columns of clusters of three classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3
    centres = np.random.default_rng(9).integers(60, 196, (3, 6))
    x = centres[y] + rng.normal(0, 45, (n_rows, 6))
    return np.clip(x, 0, 255).astype(np.uint8), y


def test_scores_are_those_of_the_ensembles() -> None:
    (x, y), part = table(150), make_partition("random", 6, 3, 1)
    model = trees.train_trees(x, y, part, n_classes=3, trees=8, seed=4)
    asked = table(70, 1)[0]
    found = model.scores(asked)
    for t in range(3):
        forest = ExtraTreesClassifier(
            8, min_samples_leaf=2, class_weight="balanced", random_state=4
        ).fit(x[:, part == t], y)
        expected = forest.predict_proba(asked[:, part == t])
        assert np.abs(found[:, t] - expected).max() < 1e-6
    again = trees.TreeSubmodels.from_arrays(model.arrays(), model.settings)
    assert np.array_equal(again.scores(asked), found)


def test_radii_hold_for_every_change() -> None:
    (x, y), part = table(60), np.array([0, 1, 2], np.int32)
    model = trees.train_trees(x[:, :3] // 64 * 64, y, part, n_classes=3, trees=5)
    every = np.array(list(itertools.product(range(0, 256, 64), repeat=3)), np.uint8)
    scores = model.scores(every)
    votes = votes_of(scores)
    changed = (every[:, None] != every[None]).sum(axis=2)
    for prediction, radius in (plurality_radius(votes), runoff_radius(votes, scores)):
        other = np.where(prediction[:, None] != prediction, changed, 99)
        assert (other.min(axis=1) > radius).all() and radius.max() >= 1


def test_parts_are_chosen() -> None:
    x, y = table(120)
    model = trees.train_partition(x, y, n_classes=3, trees=4)
    assert model.settings["parts"] == model.n_models and model.n_models in (3, 5, 6)
    assert trees.train_partition(x, y, n_classes=3, trees=4, parts=2).n_models == 2
    with pytest.raises(OptionError, match="`parts` is missing; pass how many patches"):
        trees.train_partition(x, y, n_classes=3, partition="patch")


def changed(arrays: dict[str, np.ndarray], name: str, at: Any, value: Any) -> dict[str, Any]:
    array = arrays[name].copy()
    array[at] = value
    return {**arrays, name: array}


def test_arrays_that_do_not_fit() -> None:
    (x, y), part = table(40), make_partition("strided", 6, 2)
    model = trees.train_trees(x, y, part, n_classes=3, trees=2)
    good = model.arrays()
    bad = [
        changed(good, "left", 0, 0),
        changed(good, "right", 0, len(good["left"])),
        changed(good, "feature", 0, 1),  # of the other part
        changed(good, "feature", 0, -2),
        changed(good, "feature", 0, 6),
        changed(good, "left", good["feature"] < 0, len(good["share"])),
        changed(good, "part", slice(None), 0),
        changed(good, "first", (0, 0), 1),
        changed(good, "share", (0, 0), 2**22),
        {**good, "share": good["share"].astype(np.float32)},
        {**good, "share": good["share"][:, :2]},
        {name: array for name, array in good.items() if name != "right"},
    ]
    for arrays in bad:
        with pytest.raises(InputError):
            trees.TreeSubmodels(arrays, model.settings)
