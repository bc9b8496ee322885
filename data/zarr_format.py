"""Zarr groups of boxnn: the common format, version, digest and checksums.

A group's attributes name its ``format`` and ``version`` (checked first), and a
``digest`` over all other attributes, so that a flipped bit in the metadata is
found like one in the data. Arrays are compressed with Zstandard frames that
carry a checksum; the default codec of Zarr 3 has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype, cpu
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from boxnn_numba.data.paths import (
    Location,
    Name,
    exists,
    location,
    reachable,
    read_problem,
    storage_errors,
)
from boxnn_numba.data.schema import (
    MOST_CHUNK,
    MOST_CHUNK_ROWS,
    MOST_METADATA,
    MOST_MODEL,
    ArrayRule,
    Schema,
)
from boxnn_numba.errors import BoxNNError, DataError, OutputError

if TYPE_CHECKING:
    from upath import UPath


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
_BLOCK = 4 << 20


def array_digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's dtype, shape and bytes (C order)."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.reshape(-1).data)
    return digest.hexdigest()


def stored_digest(array: zarr.Array) -> str:
    """Return the `array_digest` of an array on disk, reading it chunk by chunk."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for _, block in blocks(array):
        digest.update(block.reshape(-1).data)
    return digest.hexdigest()


def blocks(array: zarr.Array) -> Iterator[tuple[int, np.ndarray]]:
    """Read an array, some whole chunks at a time: the first row of each block, and the block."""
    if not array.shape:
        yield 0, np.asarray(array[...]).reshape(1)
        return
    # Small chunks are read several at a time: each call costs a millisecond.
    chunk_bytes = array.chunks[0] * array.nbytes // max(1, array.shape[0])
    step = array.chunks[0] * max(1, _BLOCK // max(1, chunk_bytes))
    for start in range(0, array.shape[0], step):
        yield start, np.ascontiguousarray(array[start : start + step])


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
    full = with_digest(attributes)
    if len(json.dumps(full, indent=2)) > MOST_METADATA:
        raise OutputError(f"its metadata would have more than {MOST_METADATA} bytes; write less")
    group.attrs.put(full)


#: The key of a chunk: the name of its array, and its first number.
_CHUNK = re.compile(r"(.*)/c(?:/(\d+)(?:/\d+)*)?")


class _Guard(Store):
    """What a store adds that is read: nothing that a file holds is larger than it may be.

    `promised` are the bytes of an inflated chunk of each array that may be read, by its name. A
    missing chunk, which would read as fill value, is refused; but where `sparse`, as files that
    were written chunk by chunk may be, only if the file has not noted it as finished.
    """

    promised: dict[str, int]
    sparse = False

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = await super().get(key, prototype, byte_range or self._some(key))  # type: ignore[safe-super]
        noted = self._noted(key) if value is None else None
        if noted and await super().get(noted, prototype, None) is not None:  # type: ignore[safe-super]
            return None
        return self._checked(key, value)

    def get_sync(self, key: str, **how: Any) -> Buffer | None:
        """Newer versions of Zarr may read so."""
        self._some(key)
        value: Buffer | None = super().get_sync(key, **how)  # type: ignore[misc]
        noted = self._noted(key) if value is None else None
        if noted and super().get_sync(noted, **how) is not None:  # type: ignore[misc]
            return None
        return self._checked(key, value)

    def _some(self, key: str) -> ByteRequest | None:
        """Return how much of a file is read, None for all; raise where it is known as too large."""
        return None

    def _noted(self, key: str) -> str | None:
        chunk = _CHUNK.fullmatch(key) if self.sparse else None
        return chunk and f"finished/c/{chunk[2]}"

    def _most(self, key: str) -> int:
        """Return the most bytes that a file may have."""
        chunk = _CHUNK.fullmatch(key)
        # As much as a frame can be longer than what does not compress.
        return self.promised[chunk[1]] * 129 // 128 + 1024 if chunk else MOST_METADATA

    def _checked(self, key: str, value: Buffer | None) -> Buffer | None:
        """Return what a file holds; raise where it is missing, too large, or would inflate so."""
        chunk = _CHUNK.fullmatch(key)
        if value is None:
            if chunk:
                raise FileNotFoundError(f"{key} is missing")
            return None
        if len(value) > self._most(key):
            raise ValueError(f"{key} has more than {self._most(key)} bytes")
        if chunk and _inflated(value[:_FRAME_HEADER].to_bytes()) != self.promised[chunk[1]]:
            raise ValueError(f"{key} does not inflate to the bytes of a chunk")
        return value


class _LocalStore(_Guard, LocalStore):  # type: ignore[misc]
    """A folder that is read."""

    def _some(self, key: str) -> None:
        with contextlib.suppress(OSError):
            if (self.root / key).stat().st_size > self._most(key):
                raise ValueError(f"{key} has more than {self._most(key)} bytes")


class _ArchiveStore(_Guard, MemoryStore):  # type: ignore[misc]
    """The members of an archive that were read."""


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


class _ReadUrlStore(_Guard, _UrlStore):
    """A URL that is read: no more of a file than it may have, and one byte."""

    def _some(self, key: str) -> ByteRequest:
        return RangeByteRequest(0, self._most(key) + 1)


#: Most bytes of the header of a Zstandard frame.
_FRAME_HEADER = 18


def _inflated(frame: bytes) -> int:
    """Return how many bytes a Zstandard frame says that it inflates to; -1 where it does not.

    By section 3.1.1.1 of RFC 8878.
    """
    if len(frame) < 6 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return -1
    single = frame[4] >> 5 & 1
    start = 6 - single + (0, 1, 2, 4)[frame[4] & 3]
    size = (single, 2, 4, 8)[frame[4] >> 6]
    known = int.from_bytes(frame[start : start + size], "little") if size else -1
    return known + 256 * (size == 2)


def tree_store(place: Location, *, read_only: bool = False) -> Store:
    """Return the Zarr store of a directory, or of what takes its place at a URL."""
    if isinstance(place, Path):
        return LocalStore(place, read_only=read_only)
    return _at_url(_UrlStore, place, read_only)


def _at_url(kind: type[_UrlStore], place: UPath, read_only: bool) -> Any:
    options = dict(place.storage_options)
    return kind.from_url(str(place), storage_options=options, read_only=read_only)


def _read_store(place: Location) -> Store:
    """Return the store of a file of ours, which a stranger may have made."""
    if isinstance(place, Path):
        return _guarded(_LocalStore(place, read_only=True))
    return _guarded(_at_url(_ReadUrlStore, place, True))


def _guarded(store: _Guard) -> _Guard:
    store.promised = {}
    return store


def _file_store(place: Location) -> Store:
    """Return a store of the members of a zip file, each read against the size that it declares."""
    with place.open("rb") as file:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(one.file_size for one in members) > MOST_MODEL + MOST_METADATA:
                raise ValueError("its members have too many bytes")
            content = {one.filename: _member(archive, one) for one in members}
            if len(content) < len(members):
                raise ValueError("two of its members have one name")
    return _guarded(_ArchiveStore(content, read_only=True))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Buffer:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed in another way")
    with archive.open(member) as file:
        # Not all of it: that would inflate it without end.
        return cpu.Buffer.from_bytes(file.read(member.file_size + 1))


def _check_directory(file: Any) -> None:
    """Raise where the list of members of a zip file is longer than ours are."""
    file.seek(max(0, file.seek(0, 2) - 42))
    locator, end = (last := file.read())[:-22], last[-22:]
    size = int.from_bytes(end[12:16], "little")
    if not end.startswith(b"PK\5\6") or size > MOST_METADATA or locator.startswith(b"PK\6\7"):
        raise ValueError("it is no zip file, or its list of members is too long")


class StoredFile:
    """A file of some format that is read; its attributes are as its schema says.

    Attributes
    ----------
    place, attributes
        Where it is, and its attributes.
    sizes
        Of the dimensions of its arrays, by name; a user adds what the attributes say of them.
    """

    def __init__(self, name: Name, place: Location, schema: Schema, group: zarr.Group) -> None:
        self._name, self._schema, self._group = name, schema, group
        self.place, self.sizes = place, dict[str, int]()
        self.attributes: dict[str, Any] = dict(group.attrs.asdict())

    def array(self, name: str, rule: ArrayRule | None, dtypes: tuple[str, ...] = ()) -> zarr.Array:
        """Return an array that is as its rule says, and whose chunks have a size to be held.

        Without a rule it may have any shape, and one of some types.
        """
        try:
            array = self._group[name]
            if not isinstance(array, zarr.Array):
                raise TypeError(f"{name} is no array")
        except READ_FAILURES as error:
            raise self.unreadable(name, error) from error
        rule = rule or ArrayRule(tuple(f"{name}_{axis}" for axis in range(array.ndim)), dtypes)
        problem = rule.problem(array.shape, array.dtype.name, self.sizes)
        problem = problem or self._chunk_problem(array)
        if problem is not None:
            raise self.damaged(f"{name} {problem}")
        chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
        self._group.store.promised[name] = chunk_bytes  # type: ignore[attr-defined]
        return array

    def _chunk_problem(self, array: zarr.Array) -> str | None:
        metadata: Any = array.metadata
        codecs = [codec.to_dict() for codec in metadata.codecs]
        plain = [codec["name"] for codec in codecs] == ["bytes", "zstd"] and (
            codecs[0].get("configuration", {}).get("endian", "little") == "little"
        )
        if (
            not plain
            or metadata.chunk_key_encoding.to_dict() != _KEYS
            or metadata.storage_transformers
        ):
            return "is stored in another way than boxnn does"
        if array.chunks[1:] != array.shape[1:] and 0 not in array.shape:
            return f"has chunks of {array.chunks}, not of whole rows"
        if max(array.chunks[:1], default=1) > MOST_CHUNK_ROWS:
            return f"has chunks of more than {MOST_CHUNK_ROWS} rows"
        if math.prod(array.chunks) * array.dtype.itemsize > MOST_CHUNK:
            return f"has chunks of more than {MOST_CHUNK} bytes"
        return None

    def blocks(self, name: str, array: zarr.Array) -> Iterator[tuple[int, np.ndarray]]:
        """Read an array as `blocks` does; at the end its digest is that in the attributes."""
        digest = hashlib.sha256(f"{array.dtype.str}{array.shape or (1,)}".encode())
        try:
            for start, block in blocks(array):
                digest.update(block.reshape(-1).data)
                yield start, block
        except READ_FAILURES as error:
            raise self.unreadable(name, error) from error
        if digest.hexdigest() != self.attributes["digests"].get(name):
            raise self.damaged(f"{name} does not match its digest")

    def read(self, name: str, array: zarr.Array) -> np.ndarray:
        """Return a whole array; memory is taken as its chunks are found to be there."""
        values = np.empty(array.shape or (1,), array.dtype)
        for start, block in self.blocks(name, array):
            values[start : start + len(block)] = block
        return values.reshape(array.shape)

    def damaged(self, problem: str) -> BoxNNError:
        """Return the error of a file that is not as it was written."""
        return self._schema.error(f"{self._name} is damaged: {problem}; {self._schema.remedy}")

    def incomplete(self, problem: object) -> BoxNNError:
        """Return the error of a file whose parts do not make up one of its format."""
        schema = self._schema
        return schema.error(
            f"{self._name} is not a complete {schema.noun} ({problem}); {schema.remedy}"
        )

    def unreadable(self, name: str, cause: BaseException) -> BoxNNError:
        """Return the error of an array that cannot be read, or cannot be reached any more."""
        if isinstance(cause, BoxNNError):
            return cause
        text = str(self.damaged(f"{name} cannot be read"))
        return self._schema.error(read_problem(self._name, f"{name} of {self._name}", cause, text))

    def close(self) -> None:
        """Let go of the store."""
        self._group.store.close()


#: How the chunks of an array are named.
_KEYS = {"name": "default", "configuration": {"separator": "/"}}


def open_file(path: Name, schema: Schema) -> StoredFile:
    """Open a file (a directory, a ``.zip`` or a URL of one) and check its attributes.

    Raises
    ------
    BoxNNError
        Of the type of the schema: it is missing, damaged, something else, or of a newer version.
    """
    with _opened(path, schema.noun, schema.error, schema.remedy) as (place, group):
        group.store.sparse = schema.sparse  # type: ignore[attr-defined]
        found = StoredFile(path, place, schema, group)
        _check_attributes(found.attributes, path, schema)
        if problem := schema.problem(found.attributes):
            raise found.incomplete(problem)
    return found


def format_of(path: Name) -> str:
    """Return the attribute ``format`` of a file, in words where it has none.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    with _opened(path, "boxnn", DataError, "copy it again") as (_, group):
        found = group.attrs.asdict().get("format")
    group.store.close()
    return f"{found:.40}" if isinstance(found, str) else "of no boxnn format"


@contextlib.contextmanager
def _opened(
    path: Name, noun: str, error: type[BoxNNError], remedy: str
) -> Iterator[tuple[Location, zarr.Group]]:
    """Open a group; it is closed where the body finds something wrong."""
    place = location(path)
    with reachable(path, error):
        if not exists(place):
            raise error(f"{path} does not exist; check the path of the {noun} file")
        single = place.is_file()
    store: Store | None = None
    try:
        store = _file_store(place) if single else _read_store(place)
        yield place, zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except READ_FAILURES as cause:
        if store is not None and store._is_open:
            store.close()
        if isinstance(cause, BoxNNError):
            raise
        damaged = f"{path} is not a readable {noun} file; {remedy}"
        raise error(read_problem(path, str(path), cause, damaged)) from cause


def _check_attributes(attributes: Mapping[str, Any], path: Name, schema: Schema) -> None:
    noun, error = schema.noun, schema.error
    if attributes.get("format") != schema.format:
        found = ascii(str(attributes.get("format", "no boxnn format")))[1:-1]
        named = f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
        raise error(f"{path} is not {named} (found {found:.40}); pass {named} made by boxnn")
    version = attributes.get("version")
    if type(version) is not int or not 1 <= version <= schema.version:
        raise error(
            f"{path} has {noun} format version {version!a:.40}, this boxnn-numba reads up to "
            f"{schema.version}; upgrade boxnn-numba"
        )
    if attributes.get("digest") != attributes_digest(attributes):
        raise error(f"{path} is damaged: its attributes do not match their digest; {schema.remedy}")


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
