"""Datasets on disk: round trip, and every kind of damage is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from boxnn_numba.data import dataset as store
from boxnn_numba.data.dataset import (
    DatasetWriter,
    chunk_rows,
    open_dataset,
    verify_dataset,
    write_dataset,
)
from boxnn_numba.data.zarr_format import attributes_digest
from boxnn_numba.errors import DataError, InputError, OptionError


@pytest.fixture
def arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    return {
        split: (rng.integers(0, 256, (n, 6), dtype=np.uint8), rng.integers(0, 2, n))
        for split, n in (("train", 25), ("test", 10))
    }


@pytest.fixture
def path(tmp_path: Path, arrays: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of ten rows a chunk: three training chunks, the last one half full."""
    monkeypatch.setattr(store, "CHUNK_BYTES", 60)
    out = tmp_path / "small.zarr"
    write_dataset(out, name="small", classes=["a", "b"], feature_shape=(2, 3), **arrays)
    return out


def test_round_trip(path: Path, arrays: dict) -> None:
    dataset = open_dataset(path)
    assert (dataset.name, dataset.classes, dataset.feature_shape) == ("small", ["a", "b"], (2, 3))
    assert (dataset.n_features, dataset.is_codes, dataset.splits) == (6, True, ("train", "test"))
    assert dataset.n_rows("train") == 25
    assert dataset.chunks("train") == [slice(0, 10), slice(10, 20), slice(20, 25)]
    for split, (x, y) in arrays.items():
        got_x, got_y = dataset.read(split)
        assert got_x.dtype == np.uint8 and got_y.dtype == np.int32
        np.testing.assert_array_equal(got_x, x)
        np.testing.assert_array_equal(got_y, y)
        np.testing.assert_array_equal(dataset.read_labels(split), y)
        for index, rows in enumerate(dataset.chunks(split)):
            np.testing.assert_array_equal(dataset.read_chunk(split, index)[0], x[rows])
    assert verify_dataset(path) == []


def test_float_features_round_trip(tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
    y = np.arange(7) % 2
    dataset = write_dataset(
        tmp_path / "f.zarr", name="f", classes=[0, 1], train=(x, y), test=(x[:2], y[:2])
    )
    assert not dataset.is_codes
    np.testing.assert_array_equal(dataset.read("train")[0], x)


def test_same_rows_in_other_pieces_are_the_same_dataset(
    path: Path, arrays: dict, tmp_path: Path
) -> None:
    folder = tmp_path / "pieces.zarr"
    folder.mkdir()
    writer = DatasetWriter(
        folder,
        name="small",
        source="arrays in memory",
        feature_shape=(2, 3),
        classes=["a", "b"],
        codes=True,
        n_rows={"train": 25, "test": 10},
    )
    for split, (x, y) in arrays.items():
        for start in range(0, len(x), 7):
            writer.append(split, x[start : start + 7], y[start : start + 7])
    assert writer.finish() == open_dataset(path).digest
    assert verify_dataset(folder) == []


def test_digest_depends_on_every_value(path: Path, arrays: dict, tmp_path: Path) -> None:
    x, y = arrays["train"]
    changed = x.copy()
    changed[-1, -1] ^= 1
    other = write_dataset(
        tmp_path / "other.zarr",
        name="small",
        classes=["a", "b"],
        feature_shape=(2, 3),
        train=(changed, y),
        test=arrays["test"],
    )
    dataset = open_dataset(path)
    assert other.digest != dataset.digest
    assert other.split_digests["train"] != dataset.split_digests["train"]
    assert other.split_digests["test"] == dataset.split_digests["test"]


@pytest.mark.parametrize(
    ("n", "dtype", "rows"),
    [(784, np.uint8, 4096), (784, np.float32, 1024), (1, np.uint8, 3211264), (10**8, np.uint8, 1)],
)
def test_chunk_rows(n: int, dtype: type, rows: int) -> None:
    assert chunk_rows(n, np.dtype(dtype)) == rows


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_every_damaged_file_is_found(path: Path) -> None:
    files = _files(path)
    assert len(files) == 3 + 4 + 2 * 3 + 2 * 1
    for file in files:
        good = file.read_bytes()
        places = np.linspace(0, len(good) - 1, 12).astype(int)
        damaged = [good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :] for place in places]
        for bad in (*damaged, good[:-1], good + b"x", b""):
            file.write_bytes(bad)
            assert verify_dataset(path), (file, bad)
        file.unlink()
        assert verify_dataset(path), file
        file.write_bytes(good)
    assert verify_dataset(path) == []


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_of_a_chunk_counts(path: Path, bit: int) -> None:
    file = path / "test" / "x" / "c" / "0" / "0"
    good = file.read_bytes()
    for place in range(24):  # the header, where some bits change no value
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << bit)]) + good[place + 1 :])
        assert verify_dataset(path) == [
            f"test/x chunk 0 of {path} is damaged or missing; "
            "run `boxnn data verify` and ingest again"
        ]


@pytest.mark.parametrize("part", ["x/c/1/0", "y/c/1"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "swap"])
def test_reading_a_damaged_chunk_names_it(path: Path, part: str, damage: str) -> None:
    dataset = open_dataset(path)
    file = path / "train" / part
    good = file.read_bytes()
    if damage == "flip":
        file.write_bytes(good[:-6] + bytes([good[-6] ^ 16]) + good[-5:])
    elif damage == "truncate":
        file.write_bytes(good[: len(good) // 2])
    elif damage == "delete":
        file.unlink()
    else:  # a sound chunk in the wrong place
        file.write_bytes(Path(str(file).replace("c/1", "c/0")).read_bytes())
    with pytest.raises(DataError, match=rf"^train/{part[0]} chunk 1 of .*small.zarr is damaged"):
        dataset.read_chunk("train", 1)
    with pytest.raises(DataError, match="chunk 1"):
        dataset.read("train")
    dataset.read_chunk("train", 0)
    assert len(verify_dataset(path)) == 1


def test_missing_chunk_of_zeros_is_found(tmp_path: Path) -> None:
    x, y = np.zeros((4, 2), np.uint8), np.zeros(4, np.int32)
    out = tmp_path / "zeros.zarr"
    dataset = write_dataset(out, name="zeros", classes=[0, 1], train=(x, y), test=(x, y))
    (out / "test/x/c/0/0").unlink()
    with pytest.raises(DataError, match="test/x chunk 0"):
        dataset.read_chunk("test", 0)
    assert verify_dataset(out)


def test_all_problems_are_told(path: Path) -> None:
    (path / "train/x/c/0/0").unlink()
    (path / "test/y/c/0").write_bytes(b"nonsense")
    (path / "train/zarr.json").write_text("{}")
    problems = verify_dataset(path)
    assert len(problems) == 3
    assert all("\n" not in problem for problem in problems)


def test_array_of_another_shape_is_refused(path: Path) -> None:
    file = path / "train/x/zarr.json"
    metadata = json.loads(file.read_text())
    metadata["shape"] = [24, 6]
    file.write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"train/x/zarr\.json is damaged"):
        open_dataset(path)


def test_newer_version_and_other_formats_are_refused(path: Path) -> None:
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    for key, value, message in (
        ("version", 2, "version 2, this boxnn-numba reads up to 1"),
        ("format", "boxnn-model", "is not a dataset"),
    ):
        changed = {**metadata["attributes"], key: value}
        changed["digest"] = attributes_digest(changed)
        file.write_text(json.dumps({**metadata, "attributes": changed}))
        with pytest.raises(DataError, match=message):
            open_dataset(path)


def test_opening_what_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("nothing", "does not exist"),
        ("file", "is a file"),
        ("folder", "not a readable dataset"),
    ):
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / name)
        assert len(verify_dataset(tmp_path / name)) >= 1


def test_unknown_split(path: Path) -> None:
    with pytest.raises(InputError, match="unknown split 'validation'; choose one of train, test"):
        open_dataset(path).n_rows("validation")


def test_existing_output_is_kept(path: Path, arrays: dict) -> None:
    digest = open_dataset(path).digest
    with pytest.raises(OptionError, match="already exists; pass `overwrite`"):
        write_dataset(path, name="other", classes=[0, 1], **arrays)
    assert open_dataset(path).digest == digest
    replaced = write_dataset(path, name="other", classes=[0, 1], overwrite=True, **arrays)
    assert replaced.name == "other"


@pytest.mark.parametrize("wrong", ["dtype", "width", "length", "rows"])
def test_writer_refuses_what_does_not_fit(tmp_path: Path, arrays: dict, wrong: str) -> None:
    x, y = arrays["test"]
    bad = {
        "dtype": (x.astype(np.float32), y),
        "width": (x[:, :5], y),
        "length": (x, y[:-1]),
        "rows": (x, y),
    }[wrong]
    folder = tmp_path / "bad.zarr"
    folder.mkdir()
    writer = DatasetWriter(
        folder,
        name="bad",
        source="",
        feature_shape=(6,),
        classes=[0, 1],
        codes=True,
        n_rows={"train": 11, "test": 10},
    )
    with pytest.raises(InputError, match="train got"):
        writer.append("train", *bad)
        writer.finish()


def test_failed_write_leaves_nothing(tmp_path: Path, arrays: dict) -> None:
    x, y = arrays["train"]
    with pytest.raises(InputError):
        write_dataset(
            tmp_path / "o.zarr", name="o", classes=[0, 1], train=(x, y), test=(x[:, :2], y)
        )
    assert list(tmp_path.iterdir()) == []


def test_dataset_can_be_moved(path: Path, tmp_path: Path, arrays: dict) -> None:
    moved = tmp_path / "elsewhere.zarr"
    shutil.move(path, moved)
    assert verify_dataset(moved) == []
    np.testing.assert_array_equal(open_dataset(moved).read("train")[0], arrays["train"][0])
