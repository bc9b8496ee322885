"""What every boxnn Zarr group has in common: format, version, digest, checksums.

A group's attributes name its ``format`` and ``version`` (checked first), and a
``digest`` over all other attributes, so that a flipped bit in the metadata is
found like one in the data. Arrays are compressed with Zstandard frames that
carry a checksum; the default codec of Zarr 3 has none.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype, cpu
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from boxnn_numba.data.paths import (
    Location,
    Name,
    exists,
    location,
    reachable,
    read_problem,
    storage_errors,
)
from boxnn_numba.errors import BoxNNError

#: What Zarr and its codecs raise for damaged, truncated or foreign files.
READ_FAILURES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


#: Bytes that are read at a time, if chunks are smaller.
_BLOCK = 1 << 20


def array_digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's dtype, shape and bytes (C order)."""
    array = np.ascontiguousarray(array)
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def stored_digest(array: zarr.Array) -> str:
    """Return the `array_digest` of an array on disk, reading it chunk by chunk."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    # Small chunks are read several at a time: each call costs a millisecond.
    chunk_bytes = array.chunks[0] * array.nbytes // max(1, array.shape[0])
    step = array.chunks[0] * max(1, _BLOCK // max(1, chunk_bytes))
    for start in range(0, array.shape[0], step):
        block = np.ascontiguousarray(array[start : start + step])
        digest.update(block.data.cast("B"))
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """Return the `json_digest` of all attributes but ``digest``."""
    return json_digest({key: value for key, value in attributes.items() if key != "digest"})


def with_digest(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as plain JSON values, with their digest."""
    plain = json.loads(json.dumps(attributes))
    return {**plain, "digest": attributes_digest(plain)}


def write_attributes(group: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Replace a group's attributes in one write, adding their digest."""
    group.attrs.put(with_digest(attributes))


class _UrlStore(FsspecStore):
    """A store at a URL; what the library behind it raises arrives as an OSError."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        with storage_errors():
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        with storage_errors():
            await super().set(key, value, byte_range)


def tree_store(place: Location, *, read_only: bool = False) -> Store:
    """Return the Zarr store of a directory, or of what takes its place at a URL."""
    if isinstance(place, Path):
        return LocalStore(place, read_only=read_only)
    options = dict(place.storage_options)
    return _UrlStore.from_url(str(place), storage_options=options, read_only=read_only)


def _file_store(place: Location) -> Store:
    """Return a read-only store of a zip file; one at a URL is read whole."""
    # Zarr does not tell by the name that a path is a zip file.
    if isinstance(place, Path):
        return ZipStore(place, mode="r")
    with zipfile.ZipFile(io.BytesIO(place.read_bytes())) as archive:
        members: dict[str, Buffer] = {
            name: cpu.Buffer.from_bytes(archive.read(name)) for name in archive.namelist()
        }
    return MemoryStore(members, read_only=True)


def open_group(
    path: Name, kind: str, version: int, error: type[BoxNNError], remedy: str
) -> zarr.Group:
    """Open a group (a directory, a ``.zip`` file or a URL of one) after checking its attributes.

    `kind` is the expected ``format``, e.g. ``"boxnn-model"``, and `version` the newest that is
    read. An `error` says by `remedy` what can be done about a damaged file, e.g. "train it again".
    """
    noun = kind.removeprefix("boxnn-")
    place = location(path)
    with reachable(path, error):
        if not exists(place):
            raise error(f"{path} does not exist; check the path of the {noun}")
        single = place.is_file()
    store: Store | None = None
    try:
        store = _file_store(place) if single else tree_store(place, read_only=True)
        group = zarr.open_group(store, mode="r", zarr_format=3)
        _check_attributes(group.attrs.asdict(), path, kind, version, error, remedy)
    except READ_FAILURES as cause:
        if store is not None and store._is_open:
            store.close()
        if isinstance(cause, BoxNNError):
            raise
        damaged = f"{path} is not a readable {noun} file; {remedy}"
        raise error(read_problem(path, str(path), cause, damaged)) from cause
    return group


def _check_attributes(
    attributes: Mapping[str, Any],
    path: Name,
    kind: str,
    version: int,
    error: type[BoxNNError],
    remedy: str,
) -> None:
    noun = kind.removeprefix("boxnn-")
    if attributes.get("format") != kind:
        found = attributes.get("format", "no boxnn format")
        named = f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
        raise error(f"{path} is not {named} (found {found}); pass {named} made by boxnn")
    found_version = attributes.get("version")
    if not isinstance(found_version, int) or found_version > version:
        raise error(
            f"{path} has {noun} format version {found_version}, this boxnn-numba reads up to "
            f"{version}; upgrade boxnn-numba"
        )
    if attributes.get("digest") != attributes_digest(attributes):
        raise error(f"{path} is damaged: its attributes do not match their digest; {remedy}")


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    chunks: tuple[int, ...],
    fill_value: Any = 0,
    *,
    dims: Sequence[str],
) -> zarr.Array:
    """Create an array whose chunks are checksummed and always written, even when empty.

    `dims` are the names of its dimensions: other programs, like xarray, take them for the same in
    all arrays of a group.
    """
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        fill_value=fill_value,
        dimension_names=dims,
        compressors=ZstdCodec(level=3, checksum=True),
        config={"write_empty_chunks": True},
    )
