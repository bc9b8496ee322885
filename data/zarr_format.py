"""What every boxnn Zarr group has in common: format, version, digest, checksums.

A group's attributes name its ``format`` and ``version`` (checked first), and a
``digest`` over all other attributes, so that a flipped bit in the metadata is
found like one in the data. Arrays are compressed with Zstandard frames that
carry a checksum; the default codec of Zarr 3 has none.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, ZipStore

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


def array_digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's dtype, shape and bytes (C order)."""
    array = np.ascontiguousarray(array)
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def stored_digest(array: zarr.Array) -> str:
    """Return the `array_digest` of an array on disk, reading it chunk by chunk."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for start in range(0, array.shape[0], array.chunks[0]):
        block = np.ascontiguousarray(array[start : start + array.chunks[0]])
        digest.update(block.data.cast("B"))
    return digest.hexdigest()


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all attributes but ``digest``, as canonical JSON."""
    rest = {key: value for key, value in attributes.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def with_digest(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as plain JSON values, with their digest."""
    plain = json.loads(json.dumps(attributes))
    return {**plain, "digest": attributes_digest(plain)}


def write_attributes(group: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Replace a group's attributes in one write, adding their digest."""
    group.attrs.put(with_digest(attributes))


def open_group(
    path: str | Path, kind: str, version: int, error: type[BoxNNError], remedy: str
) -> zarr.Group:
    """Open a group for reading after checking its format, version and digest.

    Parameters
    ----------
    path
        A directory or a ``.zip`` file.
    kind
        Expected ``format`` attribute, e.g. ``"boxnn-model"``.
    version
        Newest version that this package reads.
    error
        Type of error to raise.
    remedy
        What the user can do about a damaged file, e.g. "train it again".
    """
    noun = kind.removeprefix("boxnn-")
    if not Path(path).exists():
        raise error(f"{path} does not exist; check the path of the {noun}")
    # Zarr does not tell by the name that a path is a zip file.
    single = Path(path).is_file()
    store = ZipStore(path, mode="r") if single else LocalStore(path, read_only=True)
    try:
        group = zarr.open_group(store, mode="r")
        _check_attributes(group.attrs.asdict(), path, kind, version, error, remedy)
    except READ_FAILURES as cause:
        if store._is_open:
            store.close()
        if isinstance(cause, BoxNNError):
            raise
        raise error(f"{path} is not a readable {noun} file; {remedy}") from cause
    return group


def _check_attributes(
    attributes: Mapping[str, Any],
    path: str | Path,
    kind: str,
    version: int,
    error: type[BoxNNError],
    remedy: str,
) -> None:
    noun = kind.removeprefix("boxnn-")
    if attributes.get("format") != kind:
        found = attributes.get("format", "no boxnn format")
        raise error(f"{path} is not a {noun} (found {found}); pass a {noun} made by boxnn")
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
) -> zarr.Array:
    """Create an array whose chunks are checksummed and always written, even when empty."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        fill_value=fill_value,
        compressors=ZstdCodec(level=3, checksum=True),
        config={"write_empty_chunks": True},
    )
