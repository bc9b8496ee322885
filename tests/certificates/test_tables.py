"""Certificates of mixed tables against all that can be written into their cells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from boxnn_numba import Boxes, BoxNN, Grid
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import exact_radius
from boxnn_numba.columns import Columns

WORDS = ["red", "green", "blue", None]
#: Every cell that a column may hold: what training saw, missing, and what it did not see.
CELLS = {
    "amount": [1.0, 2.0, 5.0, None, -100.0],
    "colour": [*WORDS, "pink"],
    "paid": [True, False, None],
    "day": ["2024-01-01", "2024-03-01", ""],
}


def mixed_model(seed: int, width: int, plain: bool = True) -> tuple[BoxNN, dict[str, list]]:
    """A table of random cells and a model of random boxes on it."""
    rng = np.random.default_rng(seed)
    table = {name: [cells[i] for i in rng.integers(0, len(cells), 40)]
             for name, cells in CELLS.items()}  # fmt: skip
    table["colour"] = [None if cell == "pink" else cell for cell in table["colour"]]
    columns = Columns.of(table)
    raw, y = columns.values(table), rng.integers(0, 3, 40)
    grid = Grid.fit(raw, columns=columns, y=y)
    codes = grid.encode(raw)
    centre = codes[rng.integers(0, 40, 6)].astype(int)
    half = rng.integers(0, 60, centre.shape)
    kind = {} if plain else {"part": [0, 0, 1, 1], "template": [0, 0, 1, 1, 2, 2]}
    lower, upper = (np.clip(centre + side, 0, 255).astype(np.uint8) for side in (-half, half))
    boxes = Boxes(lower, upper, [0, 0, 1, 1, 2, 2], width, **kind)
    return BoxNN(boxes, ["x", "y", "z"], grid, columns=columns), table


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("width", [1, 40, 255])
@pytest.mark.parametrize("seed", range(2))
def test_radii_count_columns_whatever_is_written_into_them(
    seed: int, width: int, plain: bool
) -> None:
    model, table = mixed_model(seed, width, plain)
    every = dict(zip(CELLS, zip(*itertools.product(*CELLS.values()), strict=True), strict=True))
    raw, answers = model.columns.values(every), model.predict(every)
    sample = {name: cells[:8] for name, cells in table.items()}
    rows = model.columns.values(sample)
    changed = ((rows[:, None] != raw) & ~(np.isnan(rows[:, None]) & np.isnan(raw))).sum(axis=2)
    truth = np.array([
        min(changed[i][answers != label], default=5) - 1
        for i, label in enumerate(model.predict(sample))
    ])  # fmt: skip
    reversed_ = dict(reversed(sample.items()))
    for certificate in ("margin", "pairwise", "exact"):
        prediction, radius = model.certify(reversed_, certificate=certificate)
        assert (prediction == model.predict(sample)).all()
        assert (radius <= truth).all()
        np.testing.assert_array_equal(radius, model.certify(rows, certificate=certificate).radius)
    np.testing.assert_array_equal(radius, truth)  # exact is the truth
    attack = greedy_attack(model, reversed_)
    written = attack.changed >= 0
    assert (attack.prediction[written] != prediction[written]).all()
    assert (attack.changed[written] > truth[written]).all()
    same = (attack.x_adv == rows) | (np.isnan(attack.x_adv) & np.isnan(rows))
    assert ((~same).sum(axis=1)[written] == attack.changed[written]).all()
    one = exact_radius(model, rows[:1])
    if one.adversarial is not None:
        assert model.predict(one.adversarial[None])[0] != one.prediction
