"""Image files in folders and archives, CIFAR-10, and Keras's archives."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.data_files import CODES, Y, expected_rows, refused, run, together

from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources import catalogue, cifar
from boxnn_numba.errors import OptionError

pytestmark = pytest.mark.usefixtures("no_data_around")

RNG = np.random.default_rng(3)


def save(path: str, array: np.ndarray, **options: Any) -> np.ndarray:
    """Write an image and return it as one row."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return array.reshape(-1)


def pictures(n: int, *tail: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, 4, 3, *tail), dtype=np.uint8)


def as_source(kind: str) -> str:
    """Return the folder `pics`, or an archive of it."""
    if kind == "folder":
        return "pics"
    shutil.make_archive("pics", "zip", ".", "pics")
    return "pics.zip"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_grey_images_without_splits(kind: str) -> None:
    images, labels = pictures(20), np.array(["cat", "dog"] * 10)
    rows = [
        save(f"pics/{y}/{k}.png", x) for k, (x, y) in enumerate(zip(images, labels, strict=True))
    ]
    Path("pics/notes.txt").write_text("not an image")
    Path("pics/.hidden").mkdir()
    save("pics/.hidden/9.png", images[0])
    found = run(as_source(kind))
    dataset = open_dataset("out.zarr")
    assert (dataset.name, dataset.feature_shape, dataset.classes) == (
        "pics",
        (4, 3),
        ["cat", "dog"],
    )
    assert dataset.is_codes and len(found["test"][0]) == 4
    np.testing.assert_array_equal(together(found), expected_rows(np.array(rows), labels))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_colours_and_splits_within_a_folder_around_them(kind: str) -> None:
    images = pictures(8, 3)
    grey = images[0].mean(axis=2).astype(np.uint8)
    save("pics/all/train/a/0.bmp", grey)
    save("pics/all/train/b/1.png", images[1])
    save("pics/all/test/a/2.PNG", images[2])
    alpha = np.concatenate([images[3], np.full((4, 3, 1), 7, np.uint8)], axis=2)
    save("pics/all/test/b/3.png", alpha)
    found = run(as_source(kind))
    assert open_dataset("out.zarr").feature_shape == (4, 3, 3)
    expected = np.stack([np.repeat(grey[..., None], 3, axis=2), images[1]]).reshape(2, -1)
    np.testing.assert_array_equal(found["train"][0], expected)
    np.testing.assert_array_equal(found["test"][0], images[2:4].reshape(2, -1))
    assert found["test"][1].tolist() == ["a", "b"]


def test_pictures_of_a_turned_camera_are_upright() -> None:
    images, turned = pictures(3), Image.Exif()
    turned[0x0112] = 6  # the orientation: what was stored must be turned by a quarter
    save("pics/train/a/0.png", np.rot90(images[0]), exif=turned)
    save("pics/train/b/1.png", images[1])
    save("pics/test/a/2.png", images[2])
    found = run("pics")
    assert open_dataset("out.zarr").feature_shape == (4, 3)
    rows = together(found)
    np.testing.assert_array_equal(
        rows, expected_rows(images.reshape(3, -1), np.array(["a", "b", "a"]))
    )


def test_unusable_images() -> None:
    image = pictures(1)[0]
    Path("none").mkdir()
    with zipfile.ZipFile("none.zip", "w"):
        pass
    refused("none.zip has no images; lay images out as CLASS/NAME.png", "none.zip")
    Path("bad.zip").write_bytes(b"PK nonsense")
    refused("cannot read bad.zip", "bad.zip")
    for k in range(10):
        save(f"pics/{'ab'[k % 2]}/{k}.png", image)
    for name, array, match in (
        ("b/20.png", image[:3], r"image b/20.png of pics has 3 x 3 pixels and the first one 4 x 3"),
        ("b/20.png", image.astype(np.uint16), "has pixels of mode I;16; save it with 8 bits"),
        ("b/c/20.png", image, "pics has b/c/20.png; lay images out"),
    ):
        save(f"pics/{name}", array)
        refused(match, "pics")
        Path(f"pics/{name}").unlink()
    good = Path("pics/b/1.png").read_bytes()
    for content in (b"", good[:30], b"GIF89a"):
        Path("pics/b/1.png").write_bytes(content)
        refused("cannot read image b/1.png of pics", "pics")
    Path("pics/b/1.png").write_bytes(good)
    refused("`labels` does not go with pics", "pics", OptionError, labels="y.npy")


def records(n: int, seed: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Return a file of CIFAR-10's binary version, its images (n, 32, 32, 3) and labels."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10
    planes = images.transpose(0, 3, 1, 2).reshape(n, -1)
    return np.column_stack([labels.astype(np.uint8), planes]).tobytes(), images, labels


@pytest.mark.parametrize("place", ["archive", "folder", "inner"])
def test_cifar_10(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*cifar.FILES["train"], *cifar.FILES["test"]]
    files = {name: records(20, seed) for seed, name in enumerate(names)}
    folder = Path("own/cifar-10")
    folder.mkdir(parents=True)
    if place == "archive":
        with tarfile.open(folder / cifar.ARCHIVE, "w:gz") as archive:
            for name in reversed(names):
                info = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
                info.size = len(files[name][0])
                archive.addfile(info, io.BytesIO(files[name][0]))
    else:
        inner = folder / cifar.FOLDER if place == "inner" else folder
        inner.mkdir(exist_ok=True)
        for name in names:
            (inner / name).write_bytes(files[name][0])
    found = run("cifar-10", directory=folder)
    dataset = open_dataset("out.zarr")
    assert dataset.feature_shape == (32, 32, 3) and dataset.is_codes
    assert dataset.classes == cifar.CLASSES.tolist()
    for split, parts in (("train", names[:5]), ("test", names[5:])):
        images = np.concatenate([files[name][1] for name in parts])
        labels = np.concatenate([files[name][2] for name in parts])
        np.testing.assert_array_equal(found[split][0], images.reshape(len(images), -1))
        np.testing.assert_array_equal(found[split][1], cifar.CLASSES[labels])
    monkeypatch.setenv("BOXNN_DATA", "own")
    assert catalogue.available("cifar-10") == str(folder)
    digest = dataset.digest
    run("cifar-10")
    assert open_dataset("out.zarr").digest == digest


def test_unusable_cifar_10() -> None:
    refused("run `boxnn data fetch cifar-10` or pass `directory`", "cifar-10")
    Path("c").mkdir()
    Path("c/cifar-10-python.tar.gz").write_bytes(b"")
    refused("the python version is not read, it is a pickle", "cifar-10", directory="c")
    for name in (*cifar.FILES["train"], *cifar.FILES["test"]):
        (Path("c") / name).write_bytes(records(10, 0)[0])
    test = Path("c/test_batch.bin")
    good = test.read_bytes()
    test.write_bytes(good[:-1])
    refused("test_batch.bin ends within an image", "cifar-10", directory="c")
    test.write_bytes(b"\x0b" + good[1:])
    refused("has a label above 9", "cifar-10", directory="c")
    test.unlink()
    archive = Path("c") / cifar.ARCHIVE
    archive.write_bytes(b"no archive")
    refused(f"{archive} is not the archive {cifar.ARCHIVE}", "cifar-10", directory="c")
    # Images in a zip are a source of their own.
    with zipfile.ZipFile("pics.zip", "w") as pictures:
        pictures.writestr("train/cat/1.png", b"")
    refused("ingest it by its path in place of cifar-10", "cifar-10", directory="pics.zip")
    with tarfile.open(archive, "w:gz"):
        pass
    refused(f"{archive} has no cifar-10-batches-bin/data_batch_1.bin", "cifar-10", directory="c")


@pytest.mark.parametrize("tail", [(), (1,)])
def test_archives_of_keras(tail: tuple[int, ...]) -> None:
    x = CODES.astype(np.uint8)
    y = Y.reshape(-1, *tail)
    np.savez("a.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    found = run("a.npz")
    np.testing.assert_array_equal(found["train"][0], x[:40])
    np.testing.assert_array_equal(found["test"][1], Y[40:])
    np.savez("b.npz", x_train=x, y_train=y, x=x)
    refused("leave one of x, x_train", "b.npz")
    np.savez("c.npz", x_train=x, x_test=x)
    refused("has no array 'y_train'", "c.npz")
