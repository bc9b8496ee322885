"""Colour images: the adversary rewrites whole pixels, groups of three codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.attack_models import groups_changed
from support.cli_runs import Run, failed, here

from boxnn_numba import Boxes, fit, load_model
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.errors import OptionError

SIDE = 6
TRAIN = ("train", "rgb.zarr", "--preset", "graded", "--boxes", 9, "--epochs", 3, "--lr", 0.2)


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy red, green and blue squares (n, 6, 6, 3)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.integers(0, 90, (n, SIDE, SIDE, 3))
    x[np.arange(n), 1:5, 1:5, y] += 140
    return x.astype(np.uint8), np.array(["red", "green", "blue"])[y]


@pytest.fixture
def rgb(run_boxnn: Run) -> Run:
    """Commands in a directory with `rgb.zarr`, ingested from arrays with channels last."""
    (x, y), (x_test, y_test) = images(120, 0), images(30, 1)
    np.savez("rgb.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    code, _, err = run_boxnn("data", "ingest", "rgb.npz", "--out", "rgb.zarr")
    assert code == 0, err
    return run_boxnn


def test_a_session_with_colour_images(rgb: Run) -> None:
    assert rgb(*TRAIN, "--out", "m.zarr")[0] == 0
    assert rgb("certify", "m.zarr", "rgb.zarr", "--out", "c.zarr", "--json")[0] == 0
    assert rgb("certify", "m.zarr", "rgb.zarr", "--out", "e.zarr", "--exact", 10)[0] == 0
    code, out, err = rgb("attack", "m.zarr", "rgb.zarr", "--out", "a.zarr", "--json")
    assert (code, err) == (0, "") and json.loads(out)["found"] > 50
    model, cert, exact, attack = (
        load_model("m.zarr"), open_certificate("c.zarr"), open_certificate("e.zarr"),
        open_attack("a.zarr"),
    )  # fmt: skip
    x, _ = open_dataset("rgb.zarr").read("test")
    assert (model.group_size, model.feature_shape) == (1, (SIDE, SIDE, 3))
    np.testing.assert_array_equal(model.groups, np.arange(SIDE * SIDE * 3) // 3)
    assert cert.unit == attack.unit == "pixels"
    # The radius counts pixels, by the definition: a pixel changes a distance by at most W.
    distance = np.array([[min_distance(model.boxes, row, c) for c in range(3)] for row in x])
    distance += model.offset
    np.testing.assert_array_equal(cert.class_distance, distance)
    for d, p, r in zip(distance, cert.prediction, cert.radius, strict=True):
        leads = [(d[c] - d[p] - (c < p)) // (2 * model.boxes.width) for c in range(3) if c != p]
        assert p == d.argmin() and r == min(leads)
    assert cert.radius.max() >= 1
    pixels = (x != attack.x).reshape(len(x), SIDE * SIDE, 3).any(axis=2).sum(axis=1)
    np.testing.assert_array_equal(np.maximum(attack.changed, 0), pixels)
    np.testing.assert_array_equal(pixels, groups_changed(x, attack.x, 3))
    found = attack.changed >= 0
    assert (attack.changed[found] > cert.radius[found]).all()
    assert (cert.radius[exact.row] <= exact.radius).all()
    inside = found[exact.row]
    assert (exact.radius[inside] < attack.changed[exact.row][inside]).all()
    code, _, err = rgb("report", "c.zarr", "--attack", "a.zarr", "--out", "report")
    assert (code, err) == (0, "")
    assert Path("report/gallery_c.png").stat().st_size > 0


def min_distance(boxes: Boxes, row: np.ndarray, c: int) -> int:
    mine = boxes.labels == c
    below = boxes.lower[mine].astype(int) - row
    above = row.astype(int) - boxes.upper[mine]
    excess = np.maximum(np.maximum(below, above), 0).reshape(-1, SIDE * SIDE, 3).sum(axis=2)
    return int(np.minimum(excess, boxes.width).sum(axis=1).min())


def test_channels_must_come_last(rgb: Run) -> None:
    x, y = images(30, 0)
    first = np.moveaxis(x, 3, 1)
    np.savez("first.npz", x=first, y=y, x_test=first, y_test=y)
    assert rgb("data", "ingest", "first.npz", "--out", "first.zarr")[0] == 0
    before = here()
    words = (
        "train",
        "first.zarr",
        "--preset",
        "graded",
        "--out",
        "m.zarr",
        "--boxes",
        9,
        "--group-size",
        3,
    )
    failed(rgb(*words), 2, "shape (3, 6, 6)", "put the channels of a pixel last")
    failed(rgb(*TRAIN, "--out", "m.zarr", "--group-size", 4), 2, "put the channels of a pixel last")
    assert here() == before
    with pytest.raises(OptionError, match="does not divide the 108 features"):
        fit(x.reshape(30, -1), y, boxes=9, group_size=5)
    flat = fit(x.reshape(30, -1), y, boxes=9, epochs=1, group_size=3)
    np.testing.assert_array_equal(flat.groups, np.arange(108) // 3)
    assert int(fit(x, y, boxes=9, epochs=1, group_size=1).groups.max()) == 107
