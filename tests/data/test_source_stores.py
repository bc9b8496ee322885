"""Arrays in other programs' stores, and array objects: the dataset of the same rows in memory."""

from __future__ import annotations

import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from support.cli_runs import Run, failed
from support.data_files import refused, run
from upath import UPath

from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.sources import stores
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines.ingest import ingest

xarray = pytest.importorskip("xarray")
pytestmark = pytest.mark.usefixtures("no_data_around")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4, 3)).astype(np.float32)
CODES = RNG.integers(0, 256, (60, 12)).astype(np.uint8)
Y = np.arange(60) % 3
TEXTS = np.array(["cat", "dog", "eel"])[Y]


def expected(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """What the same rows give from an ``.npz``."""
    np.savez("expected.npz", x=x, y=y)
    return run("expected.npz")


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for split, arrays in wanted.items():
        for one, two in zip(found[split], arrays, strict=True):
            np.testing.assert_array_equal(one, two)


def dataset(x: np.ndarray = X, y: Any = Y) -> xarray.Dataset:
    dims = ("sample", "row", "column")[: x.ndim]
    return xarray.Dataset({"x": (dims, x), "y": ("sample", y)})


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("chunks", [7, 60])
def test_zarr_array_and_labels(version: Any, chunks: int) -> None:
    zarr.create_array("a.zarr", data=X, chunks=(chunks, 2, 3), zarr_format=version)
    zarr.create_array("y.zarr", data=Y, chunks=(50,), zarr_format=version)
    np.save("y.npy", Y)
    wanted = expected(X, Y)
    for labels in ("y.zarr", "y.npy", Y, zarr.open_array("y.zarr")):
        same(run("a.zarr", labels=labels), wanted)
    assert open_dataset("out.zarr").feature_shape == (4, 3)
    assert open_dataset("out.zarr").name == "a"


@pytest.mark.parametrize("names", [("x", "y"), ("x_train", "y_train"), ("train/x", "train/y")])
def test_zarr_groups(names: tuple[str, str], run_boxnn: Run) -> None:
    group = zarr.create_group("g.zarr")
    wanted = {"train": (CODES, TEXTS), "test": (CODES[:9], TEXTS[:9])}
    tests = ("test/x", "test/y") if "/" in names[0] else ("x_test", "y_test")
    for pair, arrays in zip((names, tests), wanted.values(), strict=True):
        for name, values in zip(pair, arrays, strict=True):
            stored = values.astype("T") if values.dtype.kind == "U" else values
            group.create_array(name, data=stored, chunks=(8, *values.shape[1:]))
    same(run("g.zarr"), wanted)
    assert open_dataset("out.zarr").is_codes
    same(run(zarr.open_group("g.zarr", mode="r")), wanted)
    words = ("--x", tests[0], "--y", tests[1], "--test-fraction", 0.4, "--overwrite")
    assert run_boxnn("data", "ingest", "g.zarr", "--out", "out.zarr", *words)[0] == 0
    assert sum(map(open_dataset("out.zarr").n_rows, ("train", "test"))) == 9


@pytest.mark.parametrize("version", [2, 3])
def test_xarray_on_disk(version: Any) -> None:
    masked = dataset(CODES.astype(np.float32), TEXTS.astype(object))
    masked["x"].encoding = {"scale_factor": 0.5, "dtype": "int16", "_FillValue": -1}
    how = {"zarr_format": version, "consolidated": False}
    masked.to_zarr("s.zarr", **how)
    assert zarr.open_array("s.zarr/x", mode="r").dtype == np.int16
    same(run("s.zarr"), expected(CODES.astype(np.float32), TEXTS))
    dataset().rename(x="picture", y="kind").to_zarr("p.zarr", **how)
    same(run("p.zarr", x="picture", y="kind"), expected(X, Y))
    zeros = dataset(np.zeros((60, 2), np.uint8))  # not what is missing
    zeros.to_zarr("z.zarr", **how)
    same(run("z.zarr"), expected(np.zeros((60, 2), np.uint8), Y))


def test_netcdf(run_boxnn: Run) -> None:
    dataset().to_netcdf("n.nc", engine="scipy")
    same(run("n.nc"), expected(X, Y))
    dataset(X, TEXTS).to_netcdf("t.nc", engine="scipy")
    same(run("t.nc"), expected(X, TEXTS))
    failed(run_boxnn("data", "ingest", "n.nc", "--out", "o", "--x", "z"), 1, "array 'z'", "--x")


def test_objects() -> None:
    wanted = expected(X, Y)
    lazy, frame = da.from_array(X, chunks=(7, 4, 3)), dataset()
    for source in (X, lazy, frame.x, frame.chunk({"sample": 11}).x):
        same(run(source, labels=Y), wanted)
    same(run(lazy, labels=da.from_array(Y, chunks=13)), wanted)
    same(run(frame.x, labels=frame.y), wanted)
    for source in (frame, frame.chunk({"sample": 11}), {"x": X, "y": Y}):
        same(run(source), wanted)
    same(run(frame.rename(y="kind").set_coords("kind"), y="kind"), wanted)
    assert open_dataset("out.zarr").source == "arrays in memory"


def test_urls() -> None:
    folder = UPath("memory://sources", use_listings_cache=False)
    group = zarr.create_group(str(folder / "g.zarr"))
    group.create_array("x", data=CODES)
    group.create_array("y", data=Y)
    same(run("memory://sources/g.zarr"), expected(CODES, Y))
    same(run("memory://sources/g.zarr/x", labels="memory://sources/g.zarr/y"), expected(CODES, Y))
    refused("no Zarr array or group", "memory://sources/nothing")
    folder.fs.rm(folder.path, recursive=True)


def test_what_is_refused(tiny_dataset: Path) -> None:
    zarr.save_array("a.zarr", X)
    zarr.save_array("y.zarr", Y)
    zarr.save_group("g.zarr", x=X, y=Y, x_train=X)
    objects = np.array([[object()] * 60]).T
    unknown = da.from_array(CODES, chunks=7)[da.from_array(Y, chunks=7) > 0]
    refused("a.zarr has no labels; name their file with `labels`", "a.zarr", OptionError)
    refused("leave `x` and `y` away", "a.zarr", OptionError, labels="y.zarr", x="x")
    refused("leave one of x, x_train", "g.zarr")
    refused(r"has no array 'z' \(found x, x_train, y\)", "g.zarr", x="x", y="z")
    refused("several arrays; pass the path of the one", "a.zarr", labels="g.zarr")
    refused("is a dataset of boxnn already", str(tiny_dataset))
    refused("60 rows and .* has 59 labels", "a.zarr", labels=Y[1:])
    refused("chunks of unknown sizes", unknown, labels=Y)
    refused("Python objects|dtype object", X, labels=objects)
    refused("not an array", [[1, 2]], labels=Y)
    refused("netCDF at a URL", "memory://nothing.nc")
    refused("cannot read nothing.nc: .*No such file", "nothing.nc")
    Path("four.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    if not any(map(find_spec, ("h5netcdf", "netCDF4"))):
        refused("needs h5netcdf; run pip install h5netcdf", "four.nc", OptionError)
    refused("`test` does not go with", "a.zarr", OptionError, test="y.zarr")
    (Path("a.zarr") / "c/0/0/0").write_bytes(b"damaged")
    refused("cannot read a.zarr", "a.zarr", labels=Y)


def test_blocks_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_MOST_BYTES", 1 << 20)
    big = zarr.create_array("b.zarr", shape=(40_000, 500), chunks=(500, 500), dtype="f4")
    y = np.arange(40_000) % 2
    for start in range(0, 40_000, 500):
        big[start : start + 500] = np.float32(start)
    tracemalloc.start()
    try:
        ingest("b.zarr", "out.zarr", labels=y)
        assert tracemalloc.get_traced_memory()[1] < 0.5 * big.nbytes
    finally:
        tracemalloc.stop()


def test_arrays_that_are_none_or_have_holes() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    holes = np.ma.masked_array(CODES, mask=CODES > 250)
    cases = [
        (sparse.csr_matrix(CODES), Y, "the data is a csr_matrix, not a dense array"),
        (holes, Y, "the data has masked values"),
        (da.from_array(holes, chunks=(20, 12)), Y, "the data has masked values"),
        (CODES, np.ma.masked_array(Y, mask=Y == 1), "the labels has masked values"),
        (CODES, np.array(3), r"the labels has shape \(\)"),
    ]
    for x, y, words in cases:
        with pytest.raises(DataError, match=words):
            ingest(x, "out.zarr", labels=y)
    same(run(np.ma.masked_array(CODES), labels=Y), expected(CODES, Y))
