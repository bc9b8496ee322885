"""Augmentation against SciPy, and that it depends on the seed, the row and the epoch only."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from support.cluster_tools import Scheduler, Work, assert_same_model

from boxnn_numba import fit
from boxnn_numba.data import dataset as store
from boxnn_numba.data.model_store import load_model
from boxnn_numba.errors import OptionError
from boxnn_numba.grid import Grid
from boxnn_numba.kernels.augmentation import CELL, POSITION_BITS
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training import augmentation
from boxnn_numba.training.augmentation import Augmentation
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import TrainingOptions

AFFINE = TrainingOptions(augment=1.0, displacement=0.0, seed=3)
SHAPES = [(28, 28), (9, 14, 3), (8, 2), (2, 17, 1)]


def images(n: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return smooth random images (n, features), in which a position can be told."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(-0.6, 0.6, (n, *shape)).cumsum(axis=1).cumsum(axis=2)
    return (127.5 + 127.5 * np.sin(waves)).astype(np.uint8).reshape(n, -1)


def expected(x: np.ndarray, shape: tuple[int, ...], maps: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return what SciPy makes of images and their maps, as floats."""
    height, width, channels = (*shape, 1)[:3]
    affine, displacement = (each / 2.0**POSITION_BITS for each in maps)
    rows, columns = np.mgrid[:height, :width].astype(float)
    found = np.empty((len(x), height, width, channels))
    for i, image in enumerate(x.reshape(found.shape)):
        place = np.stack([a[0] * rows + a[1] * columns + a[2] for a in affine[i]])
        cells = np.stack([rows, columns]) / CELL
        place += [map_coordinates(side, cells, order=1) for side in displacement[i]]
        for c in range(channels):
            found[i, ..., c] = map_coordinates(
                image[..., c].astype(float), place, order=1, mode="nearest"
            )
    return found.reshape(x.shape)


@pytest.mark.parametrize("options", [AFFINE, replace(AFFINE, displacement=0.9)], ids=["a", "d"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_are_those_of_scipy(shape: tuple[int, ...], options: TrainingOptions) -> None:
    x = images(20, shape)
    augment = Augmentation(shape, options)
    oracle = expected(x, shape, augment.maps(np.arange(7, 27), 2))
    # Positions are cut to 1/256 pixel, across which grey values change by at most one code each
    # way, and the result is rounded.
    np.testing.assert_allclose(augment(x, 7, 2), oracle, atol=2.6)
    assert np.abs(oracle - x).mean() > 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_strength_changes_nothing(shape: tuple[int, ...]) -> None:
    names = ("rotation", "scaling", "shear", "shift", "displacement")
    options = TrainingOptions(augment=1.0, **dict.fromkeys(names, 0.0))
    x = images(5, shape)
    np.testing.assert_array_equal(Augmentation(shape, options)(x, 0, 0), x)


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [("shift", 3.0, (0, 2)), ("shear", 0.3, (1, 0)), ("scaling", 0.2, (0, 0))],
)
def test_strengths(name: str, value: float, place: tuple[int, int]) -> None:
    names = ("rotation", "scaling", "shear", "shift", "displacement")
    values = {**dict.fromkeys(names, 0.0), name: value / 2}
    options = TrainingOptions(augment=2.0, **values)
    affine, displacement = Augmentation((28, 28), options).maps(np.arange(4000), 0)
    found = affine[:, place[0], place[1]] / 2.0**POSITION_BITS - (place[0] == place[1])
    assert abs(found.min() + value) < 0.01 * value and abs(found.max() - value) < 0.01 * value
    assert abs(found.mean()) < 0.05 * value and not displacement.any()


def test_rotation_keeps_lengths_and_the_middle() -> None:
    names = ("scaling", "shear", "shift", "displacement")
    options = TrainingOptions(augment=1.0, rotation=25.0, **dict.fromkeys(names, 0.0))
    affine, _ = Augmentation((20, 31), options).maps(np.arange(2000), 0)
    affine = affine / 2.0**POSITION_BITS
    turn = affine[:, :, :2]
    np.testing.assert_allclose(turn @ turn.transpose(0, 2, 1), [np.eye(2)] * 2000, atol=4e-3)
    angles = np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert 24.5 < angles.max() < 25.1 and -25.1 < angles.min() < -24.5
    np.testing.assert_allclose(affine @ [9.5, 15.0, 1.0], [[9.5, 15.0]] * 2000, atol=1e-3)


def test_only_seed_row_and_epoch_decide() -> None:
    shape, options = (12, 9), TrainingOptions(augment=1.0, seed=5)
    x = images(1300, shape)
    whole = Augmentation(shape, options)(x, 100, 4)
    np.testing.assert_array_equal(Augmentation(shape, options, 3)(x, 100, 4), whole)
    for part in (slice(0, 1), slice(511, 777), slice(1299, 1300), slice(9, 9)):
        found = Augmentation(shape, options)(x[part], 100 + part.start, 4)
        np.testing.assert_array_equal(found, whole[part])
    for other, first, epoch in (
        (options, 100, 5),
        (options, 101, 4),
        (replace(options, seed=6), 100, 4),
    ):
        found = Augmentation(shape, other)(x, first, epoch)
        assert (found != whole).any(axis=1).mean() > 0.99


def test_the_same_bits_everywhere() -> None:
    found = Augmentation((28, 28), TrainingOptions(augment=1.0))(
        np.resize(np.arange(256), (9, 784)).astype(np.uint8), 0, 0
    )
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "b39a471699d121ae"


def test_random_numbers_are_those_of_splitmix() -> None:
    mask = 2**64 - 1

    def mixed(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    golden = 0x9E3779B97F4A7C15
    # The first outputs of SplitMix64 with state 0, as published with it.
    assert [hex(mixed(k * golden & mask)) for k in (1, 2)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
    ]
    rows = np.array([0, 1, 999_999_999_999])
    found = augmentation._uniform([7, 2**40], rows, 5)
    state = mixed((mixed(7 + golden & mask) + 2**40 + golden) & mask)
    for row, numbers in zip(rows.tolist(), found, strict=True):
        start = mixed((state + row * golden) & mask)
        words = [mixed((start + k * golden) & mask) for k in range(1, 6)]
        np.testing.assert_array_equal(numbers, [(word >> 11) / 2**52 - 1 for word in words])


def sorts(n: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, ...) of three kinds, with noise, and which kind each is."""
    y = np.arange(n) % 3
    noise = np.random.default_rng(1).integers(-20, 21, (n, int(np.prod(shape))))
    x = np.clip(images(3, shape)[y] + noise, 0, 255).astype(np.uint8)
    return x.reshape(n, *shape), y


# --- in training ---------------------------------------------------------------------------


def test_a_feed_augments_what_is_trained_on_only() -> None:
    x, y, options = images(60, (6, 5)), np.arange(60) % 4, TrainingOptions(augment=1.0)
    augment = Augmentation((6, 5), options)
    starts = [0, 25, 25, 60]
    feed = Feed(
        y.astype(np.int32), (25, 0, 35), 30, lambda w: x[starts[w] : starts[w + 1]],
        lambda: iter([(x, y)]), 0, augment,
    )  # fmt: skip
    for epoch in range(2):
        found = np.concatenate([codes for codes, _ in feed.batches(epoch, 7)])
        rows = np.concatenate([labels for _, labels in feed.batches(epoch, 7)])
        assert np.bincount(rows).tolist() == [15] * 4
        wanted = augment(x, 0, epoch)
        assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in wanted)
    np.testing.assert_array_equal(feed.take(np.arange(60)), x)
    np.testing.assert_array_equal(next(iter(feed.held_out()))[0], x)


def test_fit_augments_images() -> None:
    x, y = sorts(90, (7, 7))
    choice = {"boxes": 6, "epochs": 2, "batch": 30, "lr": 0.1}
    one, two = (fit(x, y, augment=1.0, **choice) for _ in range(2))
    plain = fit(x, y, augment=0.0, **choice)
    np.testing.assert_array_equal(one.boxes.lower, two.boxes.lower)
    assert (one.boxes.lower != plain.boxes.lower).any() and one.feature_shape == (7, 7)
    assert one.training["options"]["augment"] == 1.0


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.tile([0, 255], (30, 25))[:, :49].astype(np.uint8),
            r"needs images, .* and the samples have shape \(49,\)",
        ),
        (np.zeros((30, 7, 1), np.uint8), "needs images"),
        (np.zeros((30, 3, 7, 7), np.uint8), "put channels last"),
        (np.zeros((30, 7, 7)), "needs images of whole numbers 0..255"),
    ],
)
def test_what_is_no_image_is_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fit(x, np.arange(30) % 2, augment=1.0, boxes=2, epochs=1)


def test_any_seed_will_do() -> None:
    shape, seeds = (6, 6), (2, 2**64 - 1, 2**64 + 2, 2**65 + 2)
    x = images(3, shape)
    seen = {
        Augmentation(shape, TrainingOptions(augment=1.0, seed=seed))(x, 0, 1).tobytes()
        for seed in seeds
    }
    assert len(seen) == len(seeds)


def test_real_features_have_no_pixels() -> None:
    grid = Grid.fit(np.random.default_rng(0).normal(size=(50, 16)))
    assert augmentation.augmentation((4, 4), grid, TrainingOptions(), 1) is None
    with pytest.raises(OptionError, match="store uint8 pixels"):
        augmentation.augmentation((4, 4), grid, AFFINE, 1)


def test_workers_give_the_same_bits(
    external: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CHUNK_BYTES", 20 * 48)
    split = sorts(130, (6, 8))
    store.write_dataset(
        tmp_path / "data", name="images", classes=[0, 1, 2], train=split, test=split
    )
    options = TrainingOptions(boxes=9, epochs=3, batch=23, lr=0.1, augment=1.0, seed=1)
    train(tmp_path / "data", tmp_path / "local", options, run=RunOptions(threads=2))
    assert load_model(tmp_path / "local").training["options"]["augment"] == 1.0
    train(
        tmp_path / "data",
        tmp_path / "far",
        options,
        run=RunOptions(cluster=ClusterOptions(scheduler=external.address)),
    )
    assert_same_model(
        tmp_path / "far", Work(tmp_path, tmp_path / "data", tmp_path / "local", tmp_path)
    )


def test_images_are_mirrored() -> None:
    x = images(300, (5, 7, 3))
    flipped = x.reshape(-1, 5, 7, 3)[:, :, ::-1].reshape(x.shape)
    found = Augmentation((5, 7, 3), TrainingOptions(mirror=0.3))(x, 0, 1)
    mirrored = (found == flipped).all(axis=1)
    assert (mirrored | (found == x).all(axis=1)).all() and 0.2 < mirrored.mean() < 0.4
    again = Augmentation((5, 7, 3), TrainingOptions(mirror=0.3))(x[100:], 100, 1)
    np.testing.assert_array_equal(again, found[100:])
