"""Users' NumPy files: what is stored, and what is refused with which words."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data_files import CODES, X, Y, expected_rows, refused, run, together

from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources import blocks as streams
from boxnn_numba.errors import OptionError
from boxnn_numba.pipelines.ingest import ingest
from boxnn_numba.pipelines.running import RunOptions

pytestmark = pytest.mark.usefixtures("no_data_around")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", ">f4", "i2", "u1", "?"])
def test_npz(save: Callable[..., None], order: Any, dtype: str) -> None:
    x = np.asarray(CODES.astype(dtype), order=order)
    save("a.npz", x=x, y=Y, x_test=x[:5], y_test=Y[:5])
    found = run("a.npz")
    assert open_dataset("out.zarr").is_codes == (dtype == "u1")
    np.testing.assert_array_equal(found["train"][0], x.astype(np.float32))
    np.testing.assert_array_equal(found["train"][1], Y)
    np.testing.assert_array_equal(found["test"][0], x[:5].astype(np.float32))


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_pair(order: Any) -> None:
    np.save("X.npy", np.asarray(X, order=order))
    np.save("Y.npy", Y)
    found = run("X.npy", labels="Y.npy")
    np.testing.assert_array_equal(together(found), expected_rows(X.astype(np.float32), Y))


def test_many_blocks_give_the_same_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez("a.npz", x=X, y=Y)
    whole = run("a.npz")
    digest = open_dataset("out.zarr").digest
    monkeypatch.setattr(streams, "BLOCK_BYTES", 7 * 32)
    again = run("a.npz")
    assert open_dataset("out.zarr").digest == digest
    np.testing.assert_array_equal(whole["test"][0], again["test"][0])


def test_images_keep_their_shape() -> None:
    np.savez("a.npz", x=CODES.astype(np.uint8).reshape(30, 2, 2, 2), y=Y[:30])
    run("a.npz")
    assert open_dataset("out.zarr").feature_shape == (2, 2, 2)
    run("a.npz", shape=(4, 2))
    assert open_dataset("out.zarr").feature_shape == (4, 2)
    refused("shape 3,2 holds 6 values and a sample has 8", "a.npz", OptionError, shape=(3, 2))


def test_codes_option() -> None:
    np.savez("a.npz", x=CODES.astype(float), y=Y)
    found = run("a.npz", codes=True)
    assert found["train"][0].dtype == np.uint8
    np.testing.assert_array_equal(together(found), expected_rows(CODES.astype(np.uint8), Y))
    for value in (256, -1, 0.5, np.nan):
        x = CODES.astype(float)
        x[41, 2] = value
        np.savez("a.npz", x=x, y=Y)
        refused(
            f"^{value:g}.* at row 41, feature 2 of array 'x' of a.npz; codes", "a.npz", codes=True
        )


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": X, "y": Y[:-1]}, "has 60 rows and .* has 59 labels"),
        ({"x": X, "labels": Y}, r"has no array 'y' \(found labels, x\)"),
        ({"x": X, "y": Y, "x_test": X}, "has no array 'y_test'"),
        ({"x": X[:0], "y": Y[:0]}, "is empty, shape"),
        ({"x": X[:, :0], "y": Y}, "is empty, shape"),
        ({"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]}, "is empty, shape"),
        ({"x": X[:, 0], "y": Y}, "has shape .60,.; features must be"),
        ({"x": X, "y": X}, "labels must be one-dimensional"),
        ({"x": X + 1j, "y": Y}, "has dtype complex128; features must be numbers"),
        ({"x": X.astype(str), "y": Y}, "features must be numbers"),
        ({"x": X, "y": Y + 0.5}, "labels must be integers or strings"),
        ({"x": X, "y": Y * 0}, r"has one class only \(0\)"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "label 3 of the test split of .* never"),
        ({"x": X, "y": Y, "x_test": X[:, :3], "y_test": Y}, "test samples .3,.; they must agree"),
        ({"x": np.where(X[5, 1] == X, np.nan, X), "y": Y}, "nan at row 5, feature 1 of array 'x'"),
        ({"x": np.where(X[0, 3] == X, np.inf, X), "y": Y}, "inf at row 0, feature 3"),
        ({"x": np.where(X[59, 0] == X, 1e39, X), "y": Y}, "must fit in float32; scale them"),
    ],
)
def test_unusable_arrays(arrays: dict[str, Any], match: str) -> None:
    np.savez("a.npz", **arrays)
    refused(match, "a.npz")


def test_python_objects_are_never_unpickled() -> None:
    np.savez("a.npz", x=X, y=np.array([None] * 60))
    refused("holds Python objects, which are never unpickled", "a.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_damaged_numpy_files(order: Any) -> None:
    np.save("Y.npy", Y)
    np.save("X.npy", np.asarray(X, order=order))
    good = Path("X.npy").read_bytes()
    for content, match in (
        (b"", "is empty; write it again"),
        (b"garbage", "cannot read X.npy"),
        (good[:40], "cannot read X.npy"),
        (good[:-1], "is truncated"),
        (good + b"x", "goes on after|is truncated"),
    ):
        Path("X.npy").write_bytes(content)
        refused(match, "X.npy", labels="Y.npy")
    np.savez("a.npz", x=np.asarray(X, order=order), y=Y)
    archive = Path("a.npz").read_bytes()
    middle = 400
    flipped = archive[:middle] + bytes([archive[middle] ^ 1]) + archive[middle + 1 :]
    for content in (b"", archive[:500], flipped):
        Path("a.npz").write_bytes(content)
        refused("cannot read", "a.npz")


def test_memory_does_not_grow_with_the_rows() -> None:
    peaks = []
    for n in (20_000, 200_000):
        array = np.lib.format.open_memmap("X.npy", "w+", np.float32, (n, 64))
        array[:] = np.arange(64)
        array.flush()
        np.save("Y.npy", np.arange(n) % 2)
        del array
        tracemalloc.start()
        ingest("X.npy", "out.zarr", labels="Y.npy", run=RunOptions(overwrite=True))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 40e6  # of 51 MB of features
    assert peaks[1] < 1.3 * peaks[0]


def test_newer_npy_headers() -> None:
    np.save("Y.npy", Y)
    for version, works in (((2, 0), True), ((3, 0), False)):
        with Path("X.npy").open("wb") as file:
            np.lib.format.write_array(file, CODES.astype(np.uint8), version=version)
        if works:
            assert len(together(run("X.npy", labels="Y.npy"))) == 60
        else:
            refused("has .npy version .3, 0.; save a plain array", "X.npy", labels="Y.npy")


def test_too_many_features_for_int32_distances() -> None:
    np.save("Y.npy", Y)
    header = {"descr": "|u1", "fortran_order": False, "shape": (60, 2**31 // 255 + 1)}
    with Path("X.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    refused("at most 8421504 features are supported", "X.npy", labels="Y.npy")
