"""Boosted stumps with clipped columns: the certificate is exact, and training is what it says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from boxnn_numba.baselines import stumps
from boxnn_numba.errors import BoxNNError, InputError


@st.composite
def tiny_models(draw: st.DrawFn) -> tuple[stumps.AdditiveModel, np.ndarray]:
    """Tables of a few levels, many ties among them, and a code of each level."""
    n, n_classes = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    cuts = sorted(draw(st.sets(st.integers(1, 255), min_size=1, max_size=2)))
    level = np.searchsorted(cuts, np.arange(256), side="right")
    values = draw(
        st.lists(
            st.integers(-3, 3),
            min_size=n * (len(cuts) + 1) * n_classes,
            max_size=n * (len(cuts) + 1) * n_classes,
        )
    )
    table = np.reshape(values, (n, len(cuts) + 1, n_classes))[:, level]
    offset = draw(st.lists(st.integers(-3, 3), min_size=n_classes, max_size=n_classes))
    return stumps.AdditiveModel(table, np.array(offset)), np.array([0, *cuts], np.uint8)


@settings(max_examples=60, deadline=None)
@given(tiny_models())
def test_radius_is_the_truth(case: tuple[stumps.AdditiveModel, np.ndarray]) -> None:
    model, codes = case
    x = np.array(list(itertools.product(codes, repeat=model.n_features)), np.uint8)
    scores = [
        [
            sum(model.table[j, v, c] for j, v in enumerate(row)) + model.offset[c]
            for c in range(model.n_classes)
        ]
        for row in x
    ]
    prediction, radius = model.certify(x)
    assert prediction.tolist() == [row.index(max(row)) for row in scores]
    changed = (x[:, None] != x[None]).sum(axis=2)
    other = np.where(prediction[:, None] != prediction, changed, model.n_features + 1)
    assert radius.tolist() == (other.min(axis=1) - 1).tolist()


def table(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three columns that say the class more or less clearly, and one that says nothing."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3
    x = 60 * y[:, None] + rng.normal(60, (15, 30, 40, 0), (n_rows, 4))
    x[:, 3] = rng.integers(0, 256, n_rows)
    return np.clip(x, 0, 255).astype(np.uint8), y


def test_training_says_what_it_chose_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stumps, "ROUNDS", (10, 30))
    monkeypatch.setattr(stumps, "CLIPS", (1.0, 0.1))
    x, y = table(120)
    model = stumps.train_stumps(x, y, n_classes=3)
    known = {"rounds": stumps.ROUNDS, "clip": stumps.CLIPS, "sampled": stumps.SAMPLED}
    assert all(model.settings[name] in values for name, values in known.items())
    again = stumps.train_stumps(x, y, n_classes=3)
    assert np.array_equal(model.table, again.table) and model.settings == again.settings
    prediction, radius = model.certify(table(90, 1)[0])
    assert (prediction == table(90, 1)[1]).mean() > 0.8 and radius.max() >= 1


def test_without_a_clip_the_order_of_scores_is_that_of_boosting() -> None:
    x, y = table(300)
    model = stumps.train_stumps(x, y, n_classes=3, rounds=40, clip=1, sampled=1)
    with threadpool_limits(1):
        boosting = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=2, early_stopping=False, min_samples_leaf=6,
            categorical_features=None, class_weight="balanced", random_state=0,
        ).fit(x, y)  # fmt: skip
        expected = boosting.decision_function(x)
    found = (model.scores(x) - model.offset) / stumps.UNITS
    # Contributions are centred, so what two classes differ by is shifted by a constant.
    for c in (1, 2):
        gap = (expected[:, c] - expected[:, 0]) - (found[:, c] - found[:, 0])
        assert np.ptp(gap) < 1e-3


def test_sampled_columns_share_what_one_column_says() -> None:
    y = np.arange(200) % 2
    x = np.repeat(y[:, None] * 200, 5, axis=1).astype(np.uint8)
    _, alone = stumps.train_stumps(x, y, n_classes=2, rounds=60, clip=1, sampled=1).certify(x)
    _, shared = stumps.train_stumps(x, y, n_classes=2, rounds=60).certify(x)
    assert alone.max() == 0 and (shared == 2).all()


def test_a_clip_bounds_every_contribution() -> None:
    x, y = table(300)
    whole, clipped = (
        stumps.train_stumps(x, y, n_classes=3, rounds=40, clip=c, sampled=1).table
        for c in (1.0, 0.1)
    )
    assert abs(np.abs(clipped).max() - 0.1 * np.abs(whole).max()) < 2
    assert (np.abs(clipped) <= np.abs(whole)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clip": 0}, "clip is 0; it must be a finite number above 0 and at most 1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"sampled": 1.5}, "sampled is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"radii": [-1]}, "radii are"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BoxNNError, match=words):
        stumps.train_stumps(*table(30), n_classes=3, **options)


def test_arrays_that_do_not_fit() -> None:
    whole = {"table": np.zeros((2, 256, 3), np.int32), "offset": np.zeros(3, np.int64)}
    found = stumps.AdditiveModel.from_arrays(whole, {"rounds": 1}).arrays()
    assert {name: array.dtype for name, array in found.items()} == {
        name: array.dtype for name, array in whole.items()
    }
    for name, other in (
        ("offset", np.zeros(2, np.int64)),
        ("table", np.zeros((2, 9, 3), np.int32)),
        ("table", np.zeros((2, 256, 3), np.float32)),
        ("table", np.full((2, 256, 3), 2**31)),
    ):
        with pytest.raises(InputError, match="train them again"):
            stumps.AdditiveModel.from_arrays({**whole, name: other}, {})
    with pytest.raises(InputError, match="array offset of stumps is missing"):
        stumps.AdditiveModel.from_arrays({"table": whole["table"]}, {})
