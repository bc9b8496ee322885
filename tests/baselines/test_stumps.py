"""Boosted stumps with clipped columns: the certificate is exact, and training is what it says."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from boxnn_numba.baselines import stumps


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
