"""Named data sets and IDX files, options, outputs and downloads."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data_files import (
    X,
    Y,
    expected_rows,
    idx_bytes,
    images,
    refused,
    run,
    together,
    write_idx_folder,
)

from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources import catalogue as sources
from boxnn_numba.errors import DataError, OptionError, OutputError
from boxnn_numba.pipelines.ingest import ingest
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.progress import Silent

pytestmark = pytest.mark.usefixtures("no_data_around")


# --- IDX ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("source", ["mnist", "fashion-mnist", "folder"])
def test_idx_folder(source: str, compress: bool) -> None:
    arrays = write_idx_folder(Path("folder"), compress)
    found = run(source, **({} if source == "folder" else {"directory": "folder"}))
    for split in ("train", "test"):
        np.testing.assert_array_equal(found[split][0], arrays[f"{split}/x"].reshape(-1, 12))
        np.testing.assert_array_equal(found[split][1], arrays[f"{split}/y"])
    dataset = open_dataset("out.zarr")
    assert dataset.name == source and dataset.feature_shape == (4, 3) and dataset.is_codes


def test_same_data_same_digest() -> None:
    write_idx_folder(Path("a/mnist"), compress=True)
    write_idx_folder(Path("b/mnist"), compress=False)
    digests = [ingest("mnist", f"{d}.zarr", directory=f"{d}/mnist").digest for d in "ab"]
    assert digests[0] == digests[1]


def test_images_with_channels_first_are_told() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 5), np.uint8)
    (note,) = ingest({"x": x, "y": np.arange(20) % 2}, "first.zarr").notes
    assert "(3, 6, 5)" in note and "3 channels first" in note and "numpy.moveaxis" in note
    assert ingest({"x": np.moveaxis(x, 1, -1), "y": np.arange(20) % 2}, "last.zarr").notes == []


def test_named_data_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources.available("fashion-mnist") is None
    for folder in ("cache/boxnn-numba/fashion-mnist", "system", "own/fashion-mnist"):
        write_idx_folder(Path(folder))
        if folder.startswith("own"):
            monkeypatch.setenv("BOXNN_DATA", "own")
        assert Path(sources.available("fashion-mnist") or "").as_posix().endswith(folder)
        assert len(run("fashion-mnist")["test"][0]) == 12
    assert sources.available("mnist") is None
    assert sources.available("digits") == "built in"


def test_idx_pair_and_train_only_folder() -> None:
    write_idx_folder(Path("folder"))
    x, y = images(30, seed=30)
    for file in Path("folder").glob("t10k*"):
        file.unlink()
    pair = run(
        "folder/train-images-idx3-ubyte.gz", labels=Path("folder/train-labels-idx1-ubyte.gz")
    )
    alone = run("folder")
    assert len(alone["train"][0]) == 24
    for found in (pair, alone):
        np.testing.assert_array_equal(together(found), expected_rows(x.reshape(30, -1), y))


def test_idx_of_other_types_is_big_endian() -> None:
    x = np.array([[1, -2], [300, 4]] * 10, ">i2")
    header = bytes([0, 0, 0x0B, 2]) + (20).to_bytes(4, "big") + (2).to_bytes(4, "big")
    Path("i-images-idx2-ubyte").write_bytes(header + x.tobytes())
    Path("i-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(20) % 2))
    found = run("i-images-idx2-ubyte", labels="i-labels-idx1-ubyte")
    np.testing.assert_array_equal(
        together(found), expected_rows(x.astype(np.float32), np.arange(20) % 2)
    )


IMAGES = "folder/train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty; copy or download it again"),
        (b"\0\0\x08", "is not an IDX file"),
        (b"P5 28 28 255 ...", r"is not an IDX file \(it begins with 50352032\)"),
        (idx_bytes(images(30, 30)[0])[:10], "is truncated in its header"),
        (idx_bytes(images(30, 30)[0])[:-1], "has 375 bytes and its header promises 376"),
        (idx_bytes(images(30, 30)[0]) + b"x", "has 377 bytes and its header promises 376"),
        (gzip.compress(idx_bytes(images(30, 30)[0])[:-1]), "is truncated: .*ends in row 29"),
        (gzip.compress(idx_bytes(images(30, 30)[0]) + b"x"), "goes on after the 30 rows"),
        (gzip.compress(idx_bytes(images(30, 30)[0]))[:200], "cannot read .*end-of-stream"),
        (b"\x1f\x8b" + bytes(50), "cannot read"),
        (idx_bytes(images(29, 30)[0]), "has 29 rows and .*labels-idx1-ubyte has 30 labels"),
        (idx_bytes(images(0, 30)[0]), "has 0 rows and"),
        (idx_bytes(np.arange(30)), "features must be"),
    ],
)
def test_damaged_idx_files(content: bytes, match: str) -> None:
    write_idx_folder(Path("folder"), compress=False)
    Path(IMAGES).write_bytes(content)
    refused(match, "mnist", directory="folder")


def test_flipped_bit_in_gzip_is_found() -> None:
    write_idx_folder(Path("folder"))
    file = Path(IMAGES + ".gz")
    good = file.read_bytes()
    file.write_bytes(good[:150] + bytes([good[150] ^ 1]) + good[151:])
    refused("cannot read|truncated|goes on", "mnist", directory="folder")


def test_incomplete_idx_folders() -> None:
    refused("run `boxnn data fetch mnist` or pass `directory`", "mnist")
    refused("nowhere is not a folder", "mnist", directory="nowhere")
    write_idx_folder(Path("folder"))
    Path("folder/train-labels-idx1-ubyte.gz").unlink()
    refused("has no labels beside it", "mnist", directory="folder")
    Path(IMAGES + ".gz").rename("folder/second-train-images-idx3-ubyte.gz")
    Path(IMAGES + ".gz").write_bytes(b"")
    refused("has several train files", "folder")
    Path("empty").mkdir()
    refused("has no .*images-idx3-ubyte", "empty")
    refused("has no labels; name their file with `labels`", IMAGES + ".gz", OptionError)
    refused("nowhere does not exist", IMAGES + ".gz", labels="nowhere")


def test_no_samples_in_idx() -> None:
    write_idx_folder(Path("folder"))
    Path(IMAGES + ".gz").write_bytes(idx_bytes(np.zeros((0, 4, 3))))
    Path("folder/train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(0)))
    refused(r"is empty, shape \(0, 4, 3\)", "mnist", directory="folder")


def test_test_label_that_training_never_saw() -> None:
    write_idx_folder(Path("folder"))
    Path("folder/t10k-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.full(12, 7)))
    refused("label 7 of the test split of .* never occurs in the training", "folder")


# --- the other named sources ---------------------------------------------------------------


def test_digits() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    codes = np.rint(bunch.data / 16 * 255).astype(np.uint8)
    found = run("digits")
    assert open_dataset("out.zarr").feature_shape == (8, 8)
    np.testing.assert_array_equal(together(found), expected_rows(codes, bunch.target))
    counts = np.bincount(bunch.target)
    np.testing.assert_array_equal(np.bincount(found["test"][1]), counts // 5)


def test_bundled_sample() -> None:
    found = run("mnist-sample")
    assert found["train"][0].shape == (10_000, 784) and found["test"][0].shape == (2_000, 784)
    # The official order begins so, and these are its class counts.
    assert found["train"][1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert found["test"][1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert 100 < found["train"][0][0].sum() / 255 < 120
    licence = sources.BUNDLED_SAMPLE.with_name("LICENSE.md").read_text()
    assert "LeCun" in licence and "CC BY-SA 3.0" in licence


@pytest.mark.parametrize("extra", [0, 1])
def test_sample_builder_is_deterministic(extra: int) -> None:
    script = Path(__file__).parents[2] / "tools" / "build_bundled_sample.py"
    folder = Path("folder")
    folder.mkdir()
    for prefix, n in (("train", 10_000 + extra), ("t10k", 2_000 + extra)):
        x, y = images(n, seed=1)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(x))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(y))
    for out in ("a.npz", "b.npz"):
        subprocess.run([sys.executable, script, folder, "--out", out], check=True)
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()
    x, y = images(10_000 + extra, seed=1)
    with np.load("a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["x"], x[:10_000])
        np.testing.assert_array_equal(archive["y_test"], (np.arange(2_000) % 3))


# --- options, outputs, downloads -------------------------------------------------------------


def test_options_that_do_not_go_together() -> None:
    np.savez("a.npz", x=X, y=Y)
    Path("t.csv").write_text("a,y\n1,0\n")
    Path("notes.txt").write_text("x")
    for source, options, match in (
        ("a.npz", {"label": "y"}, "`label` does not go with a.npz"),
        ("a.npz", {"labels": "y.npy"}, "`labels` does not go with"),
        ("a.npz", {"directory": "."}, "`directory` does not go with"),
        ("digits", {"directory": "."}, "`directory` does not go with digits"),
        ("mnist", {"label": "y"}, "`label` does not go with mnist"),
        ("t.csv", {"labels": "y.npy"}, "`labels` does not go with t.csv"),
        ("a.npz", {"test": "t.csv"}, "`test` does not go with a.npz"),
        ("a.npz", {"test_fraction": 0}, "test_fraction is 0; it must be between 0 and 1"),
        ("a.npz", {"test_fraction": 1.0}, "must be between 0 and 1"),
        ("a.npz", {"seed": -1}, "seed is -1"),
        ("a.npz", {"shape": (0, 4)}, "shape is 0"),
    ):
        refused(match, source, OptionError, **options)
    refused("neither a file nor a known data set", "nothing.csv", label="y")
    refused("is of no known kind; pass IDX, .npz", "notes.txt")


def test_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez("a.npz", x=X, y=Y)
    ingest("a.npz", "refused.zarr")
    refused("already exists; pass `overwrite`", "a.npz", OptionError)
    with pytest.raises(OptionError, match="does not exist; create it"):
        ingest("a.npz", "missing/out.zarr")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("boxnn_numba.data.dataset._SplitWriter.append", full)
    with pytest.raises(OutputError, match="no space left while writing"):
        ingest("a.npz", "other.zarr")
    assert not list(Path().glob("other*"))


class Told(Silent):
    """Progress that remembers what it was told."""

    def start(self, total: int, unit: str) -> None:
        self.units, self.done = (total, unit), 0

    def advance(self, n: int) -> None:
        self.done += n


def test_progress_and_summary() -> None:
    np.savez("a.npz", x=X, y=Y)
    told = Told()
    summary = ingest("a.npz", "out.zarr", name="mine", run=RunOptions(progress=told))
    assert told.units == (60, "rows") and told.done == 60
    assert summary.name == open_dataset("out.zarr").name == "mine"
    assert summary.rows == {"train": 48, "test": 12}
    assert (summary.features, summary.classes) == (4, [0, 1, 2])
    assert summary.seconds >= 0 and summary.path == "out.zarr"


def test_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path, downloader: Any) -> None:
        asked.append((url, known_hash, fname))
        path.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    told = Told()
    folder = sources.fetch("mnist", told)
    assert folder.as_posix().endswith("cache/boxnn-numba/mnist")
    assert told.units == (4, "files") and told.done == len(asked) == 4
    assert asked[0] == (
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-images-idx3-ubyte.gz",
    )
    monkeypatch.setenv("BOXNN_DATA", "own")
    assert sources.fetch("fashion-mnist") == Path("own/fashion-mnist")
    with pytest.raises(OptionError, match="digits is built in"):
        sources.fetch("digits")


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("hash")])
def test_fetch_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import pooch

    def retrieve(*_: Any, path: Path, **__: Any) -> None:
        path.mkdir(parents=True)
        raise error

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(DataError, match=r"could not download .*--from DIR") as caught:
        sources.fetch("mnist")
    assert "\n" not in str(caught.value)
    assert not Path("cache/boxnn-numba/mnist").exists()


def test_fetch_from_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = sources.Mirror("http://127.0.0.1:9/", sources.MIRRORS["mnist"].sha256)
    monkeypatch.setitem(sources.MIRRORS, "mnist", mirror)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError, match=r"could not download .*ConnectionError"):
        sources.fetch("mnist")
