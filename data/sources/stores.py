"""Arrays in other programs' stores, and array objects: Zarr, what xarray opens, Dask, NumPy.

Arrays are sliced block by block, so that none is in memory whole. Zarr is read as it is, but by
xarray where attributes say that values are encoded (scaled, masked), which only xarray undoes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from boxnn_numba import lazy
from boxnn_numba.data.paths import Location, Name, exists, is_url, location, storage_errors
from boxnn_numba.data.sources.arrays import Names, named_pairs, npy_rows
from boxnn_numba.data.sources.blocks import ArrayTable, Rows, reading
from boxnn_numba.data.zarr_format import tree_store
from boxnn_numba.errors import DataError, OptionError

#: What the metadata of a Zarr group or array are called, in either format.
_ZARR = ("zarr.json", ".zarray", ".zgroup")
#: Files of netCDF.
_NETCDF = (".nc", ".nc4", ".cdf", ".netcdf")
#: How files of netCDF 4 begin.
_HDF5 = b"\x89HDF\r\n\x1a\n"
#: Attributes that say that stored values are not those that are meant.
_ENCODED = {"scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned"}
#: Most bytes of a block that is read because the chunks of an array are that large.
_MOST_BYTES = 256 << 20


class SlicedRows:
    """An array that is read where it is sliced: of Zarr, Dask, xarray or NumPy."""

    def __init__(self, place: str, array: Any) -> None:
        if not all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
            raise DataError(f"{place} is a {type(array).__name__}, not an array; pass an array")
        if any(size != size for size in array.shape):
            raise DataError(
                f"{place} has chunks of unknown sizes; call compute_chunk_sizes() on it first"
            )
        self.place = place
        self.shape = tuple(map(int, array.shape))
        self.dtype = np.dtype(array.dtype) if array.dtype.kind != "T" else np.dtype(np.str_)
        self._array = array

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield arrays of up to `rows` rows, in order."""
        step = rows * -(-self._chunk_rows() // rows)  # a chunk is not read many times
        for start in range(0, self.shape[0], step):
            with reading(self.place), storage_errors():
                values = _dense(self._array[start : start + step], self.place)
            for at in range(0, len(values), rows):
                yield np.ascontiguousarray(_plain(values[at : at + rows], self.place))

    def _chunk_rows(self) -> int:
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        most = min(self.shape[0], _MOST_BYTES // row_bytes)
        return max(1, min(lazy.chunk_rows(self._array), most))


def _dense(array: Any, place: str) -> np.ndarray:
    """Return an array in memory, if it is one, and nothing in it is masked."""
    compute = getattr(array, "compute", None)  # NumPy would leave away the mask of Dask's array
    values = np.asanyarray(array if compute is None else compute())
    if not values.ndim:
        kind = type(array).__name__
        raise DataError(f"{place} is a {kind}, not a dense array; pass its `toarray()`")
    if np.ma.is_masked(values):
        raise DataError(f"{place} has masked values; fill them or drop their rows first")
    return np.asarray(values)


def _plain(values: np.ndarray, place: str) -> np.ndarray:
    """Return texts as texts of NumPy."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind == "T":
        return np.array(values.tolist(), np.str_)
    if values.dtype.kind == "O" and not all(isinstance(v, (str, int)) for v in values.flat):
        raise DataError(f"{place} holds Python objects; save numbers or strings (astype(str))")
    return values


# --- where they are --------------------------------------------------------------------------


def is_store(path: Name) -> bool:
    """Whether a path or URL is that of a Zarr array or group, or of a file of netCDF."""
    place = location(path)
    if place.suffix in _NETCDF:
        return True
    with storage_errors():
        return place.is_dir() and any(exists(place / name) for name in _ZARR)


def store_tables(
    path: Name, names: Names, labels: Rows | None, need_labels: bool
) -> tuple[ArrayTable, ArrayTable | None]:
    """Return the training split of a store and the test split, if it has one.

    Parameters
    ----------
    path
        A Zarr array, whose `labels` come from elsewhere, a Zarr group, or a file of netCDF.
    names
        Of the arrays in it; those of `named_pairs` by default.
    labels
        In place of those in the store.
    need_labels
        Whether it is an error that there are none.
    """
    with reading(str(path)), storage_errors():
        found = _opened(location(path))
    return object_tables(found, names, labels, need_labels, str(path))


def object_tables(
    source: Any,
    names: Names,
    labels: Rows | None,
    need_labels: bool,
    place: str = "the data",
) -> tuple[ArrayTable, ArrayTable | None]:
    """Return the splits of an array, or of arrays by name: of Zarr, xarray, Dask or NumPy."""
    arrays = _by_name(source, place)
    if arrays is None:
        if any(names):
            raise OptionError(f"{place} is one array, which needs no name; leave `x` and `y` away")
        if labels is None and need_labels:
            raise OptionError(f"{place} has no labels; name their file with `labels`")
        return ArrayTable(SlicedRows(place, source), labels), None
    wanted = need_labels and labels is None
    pairs = named_pairs(place, list(arrays), names, wanted, "pass `x` and `y`, names of arrays")
    if labels is not None and len(pairs) > 1:
        raise OptionError(f"{place} has a test split; `labels` are for one array, leave it away")

    def rows(name: str) -> Rows:
        return SlicedRows(f"array {name!r} of {place}", arrays[name])

    train, *test = (
        ArrayTable(rows(x), labels if labels is not None or y is None else rows(y))
        for x, y in pairs
    )
    return train, test[0] if test else None


def label_rows(labels: Any) -> Rows:
    """Return labels in an ``.npy`` file, a Zarr array, or an array object."""
    if not isinstance(labels, (str, os.PathLike)):
        return SlicedRows("the labels", labels)
    if is_store(labels):
        with reading(str(labels)), storage_errors():
            found = _opened(location(labels))
        if _by_name(found, str(labels)) is not None:
            raise DataError(f"{labels} holds several arrays; pass the path of the one of labels")
        return SlicedRows(str(labels), found)
    if is_url(labels):
        raise DataError(f"{labels} is no Zarr array; check the URL given to `labels`")
    path = Path(labels)
    if not path.exists():
        raise DataError(f"{labels} does not exist; check the path given to `labels`")
    return npy_rows(path)


def _by_name(source: Any, place: str) -> Mapping[str, Any] | None:
    """Return arrays by name; None of what is one array."""
    if isinstance(source, zarr.Group):
        return _group_arrays(source, place)
    if isinstance(source, Mapping):  # an xarray.Dataset is one of its data, without coordinates
        return dict(getattr(source, "variables", source))
    return None


def _group_arrays(group: zarr.Group, place: str) -> dict[str, zarr.Array]:
    """Return the arrays of a group, and of the groups in it, e.g. ``train/x``."""
    if group.attrs.get("format") == "boxnn-dataset":
        raise DataError(f"{place} is a dataset of boxnn already; use it as it is")
    parts = [("", group), *((f"{name}/", inner) for name, inner in group.groups())]
    return {f"{at}{key}": array for at, part in parts for key, array in part.arrays()}


def _opened(place: Location) -> Any:
    """Open a store: a Zarr array, a Zarr group, or a dataset of xarray."""
    if place.suffix in _NETCDF:
        if not isinstance(place, Path):
            raise DataError(f"{place} is netCDF at a URL; copy it to this machine first")
        try:
            return _xarray().open_dataset(place, cache=False)
        except ValueError as error:  # none of the libraries that xarray has reads it
            with place.open("rb") as file:
                newer = file.read(len(_HDF5)) == _HDF5
            if newer and not any(map(find_spec, ("h5netcdf", "netCDF4"))):
                remedy = "this netCDF file needs h5netcdf; run pip install h5netcdf"
                raise OptionError(remedy) from error
            raise
    store = tree_store(place, read_only=True)
    found = zarr.open(store, mode="r")
    arrays = (
        [found]
        if isinstance(found, zarr.Array)
        else list(_group_arrays(found, str(place)).values())
    )
    if not any(map(_is_encoded, arrays)):
        return found
    if isinstance(found, zarr.Array):
        raise DataError(f"{place} is encoded by xarray; pass the group that it is in, and `x`")
    parts = {"": found, **dict(found.groups())}
    return {
        f"{name}/{key}".lstrip("/"): array
        for name in parts
        for key, array in _xarray()
        .open_zarr(store, group=name or None, consolidated=False, chunks=None)
        .variables.items()
    }


def _is_encoded(array: zarr.Array) -> bool:
    """Whether stored values of an array are not those that are meant."""
    if _ENCODED & {*array.attrs}:
        return True
    # Of format 2 xarray keeps the value that stands for nothing as what chunks are filled with.
    masked = "_ARRAY_DIMENSIONS" in array.attrs and array.fill_value is not None
    return masked and array.dtype.kind in "iu"


def _xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise OptionError("this needs xarray; run pip install xarray") from error
    return xarray
