"""Certificates of mixed tables against all that can be written into their cells."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from boxnn_numba import Boxes, BoxNN, Grid
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import exact_radii, exact_radius
from boxnn_numba.columns import Columns
from boxnn_numba.errors import InputError

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


def of_cells() -> tuple[BoxNN, pd.DataFrame]:
    """A model of two numbers and a category of numbers, and what its boxes are points of."""
    frame = pd.DataFrame(
        {"a": [1.0, 9.0, 1.0], "b": [9.0, 1.0, 9.0], "kind": pd.Categorical([10, 20, 20])}
    )
    columns = Columns.of(frame)
    raw = columns.values(frame)
    grid = Grid.fit(raw, columns=columns, y=np.array([0, 1, 1]))
    codes = grid.encode(raw)
    return BoxNN(Boxes(codes, codes, [0, 1, 1], 60), ["x", "y"], grid, columns=columns), frame


def test_an_exact_radius_of_a_row_of_a_frame_is_that_of_all_rows() -> None:
    """Cells are matched by name, and the category 10 is no place among the categories."""
    model, frame = of_cells()
    lower, upper = exact_radii(model, frame)
    raw = model.rows(frame)
    for i, label in enumerate(model.predict(frame)):
        one, turned = frame.iloc[[i]], frame[["kind", "b", "a"]].iloc[[i]]
        row = turned.iloc[0]
        samples = [one, turned, row, row.to_dict(), turned.to_dict("list"), raw[i], raw[i : i + 1]]
        for sample in [*samples, pd.Series(raw[i])]:
            assert exact_radius(model, sample)[:3] == (label, lower[i], upper[i])


def test_an_exact_radius_is_of_one_sample() -> None:
    model, frame = of_cells()
    for rows in (0, 2):
        with pytest.raises(InputError, match=f"x has {rows} rows; pass one sample, or use"):
            exact_radius(model, frame[:rows])
    with pytest.raises(InputError, match="column 'b' is missing"):
        exact_radius(model, frame.iloc[0].rename({"b": "c"}))
    twice = frame[["a", "b", "kind", "a"]].iloc[0]
    with pytest.raises(InputError, match="two columns are named 'a'"):
        exact_radius(model, twice)
    plain = BoxNN(Boxes([[0] * 4, [9] * 4], [[0] * 4, [9] * 4], [0, 1], 1), [0, 1])
    with pytest.raises(InputError, match="the model knows none of its columns"):
        exact_radius(plain, dict.fromkeys("abcd", 1))
    image = BoxNN(plain.boxes, [0, 1], feature_shape=(2, 2))
    assert exact_radius(image, np.zeros((2, 2)))[1:3] == exact_radius(plain, [0] * 4)[1:3]
