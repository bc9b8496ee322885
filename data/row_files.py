"""Files of arrays with a row for each sample, written chunk by chunk: certificates and attacks.

A kind of file is a class below `RowFile`, whose `Column` attributes declare its arrays once: for
the writer, the reader, what is checked when a file is opened, and the page on file formats.

A chunk counts as finished once its entry in the array ``finished`` is written, which happens
after its data. A file is finished once its attributes have ``digests``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import zarr

from boxnn_numba.data import zarr_format
from boxnn_numba.data.atomic import clear
from boxnn_numba.data.paths import Location, Name, location, reachable, read_problem
from boxnn_numba.errors import BoxNNError
from boxnn_numba.rivals import unit_name

#: Second dimensions, as the docs write them, and their names in a file; the first is ``sample``.
_DIMENSIONS = {"K": "class", "n": "feature", "S": "size"}

Value = TypeVar("Value", bound=np.ndarray | None)


def spread_rows(places: np.ndarray, count: int, total: int) -> np.ndarray:
    """Return the numbers in a split of `total` rows of some of `count` that are spread over it."""
    return places * total // count


def group_count_of(attributes: Mapping[str, Any]) -> int:
    """Return how many features, or groups of them, the adversary of a file counts."""
    features = math.prod(attributes["feature_shape"])
    return int(attributes.get("groups", -(-features // attributes["group_size"])))


def most_of(attributes: Mapping[str, Any]) -> float:
    """Return the radius of a file that means never: all that may be rewritten, or its cost."""
    free, costs = attributes.get("attackable"), attributes.get("costs")
    if costs is not None:
        return math.fsum(cost for cost in costs if cost is not None)
    return group_count_of(attributes) if free is None else len(free)


def unit_of(attributes: Mapping[str, Any]) -> str:
    """Return what radii of a file count: pixels, columns of tables, other features, or cost."""
    if "costs" in attributes:
        return "cost"
    if len(attributes.get("columns") or ()) == group_count_of(attributes):
        return "columns"
    return unit_name(attributes["feature_shape"], group_count_of(attributes))


class AnyColumn(functools.cached_property[Value]):
    """An array of a `RowFile`, read when it is asked for the first time.

    `meaning` is what it holds, for the docs; `dtypes` are types that it may have; `second` is the
    name of its second dimension, ``"K"`` classes, ``"n"`` features or ``"S"`` sizes of patches. It
    is made full of `fill`.
    """

    optional = False

    def __init__(
        self,
        meaning: str,
        dtypes: Sequence[str] = ("int32",),
        second: str | None = None,
        fill: int = -1,
    ) -> None:
        super().__init__(self._value)
        self.meaning, self.dtypes, self.second, self.fill = meaning, tuple(dtypes), second, fill

    def __set_name__(self, owner: type[RowFile], name: str) -> None:
        super().__set_name__(owner, name)
        self.name = name

    def _value(self, file: RowFile) -> Any:
        return file.read(self.name) if self.name in file.attributes["digests"] else None

    @property
    def shape(self) -> str:
        """Its dimensions, as the docs write them."""
        return "(N,)" if self.second is None else f"(N, {self.second})"

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of its dimensions in a file."""
        return ("sample",) if self.second is None else ("sample", _DIMENSIONS[self.second])

    def problem(self, array: zarr.Array, sizes: dict[str, int]) -> str | None:
        """Return what is wrong with a stored array, or None; notes sizes that are new."""
        names = ("N",) if self.second is None else ("N", self.second)
        if len(array.shape) != len(names) or any(
            sizes.setdefault(name, found) != found
            for name, found in zip(names, array.shape, strict=True)
        ):
            return f"has shape {array.shape}, not {self.shape}"
        if array.dtype.name not in self.dtypes:
            return f"has type {array.dtype}, not {' or '.join(self.dtypes)}"
        return None


class Column(AnyColumn[np.ndarray]):
    """An array that every file has."""


class OptionalColumn(AnyColumn[np.ndarray | None]):
    """An array that only some files have; None in others."""

    optional = True


def _sizes(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return the second dimensions that the attributes of a file tell."""
    patches = {"S": len(attributes["patch"])} if "patch" in attributes else {}
    return {"K": len(attributes["classes"]), **patches}


class RowFile:
    """A finished file, read and checked; its arrays are the `Column` attributes.

    Attributes
    ----------
    path, attributes
        Where it is and what it is of.
    """

    #: Attributes ``format`` and ``version`` of such files, the newest that is read.
    format: ClassVar[str]
    version: ClassVar[int] = 1
    #: Names of attributes that are known when the file is sealed.
    measured: ClassVar[tuple[str, ...]] = ("seconds",)
    #: What makes such files, and the type of error to raise.
    command: ClassVar[str]
    error: ClassVar[type[BoxNNError]]

    prediction: Column

    def __init__(self, path: Location, attributes: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.path = path
        self.attributes = attributes
        self._arrays: dict[str, zarr.Array] = arrays

    def __len__(self) -> int:
        return int(self._arrays["prediction"].shape[0])

    @property
    def groups(self) -> int:
        """Features, or groups of them, that an adversary counts."""
        return group_count_of(self.attributes)

    @property
    def most(self) -> float:
        """The radius that means never: all that may be rewritten, or what it costs."""
        return most_of(self.attributes)

    @property
    def unit(self) -> str:
        """What radii and changes count, as `unit_of`."""
        return unit_of(self.attributes)

    @classmethod
    def columns(cls, optional: Sequence[str] = ()) -> list[AnyColumn[Any]]:
        """Return the arrays that every file has, and some that only some have."""
        found = [item for item in vars(cls).values() if isinstance(item, AnyColumn)]
        return [item for item in found if not item.optional or item.name in optional]

    @classmethod
    def open(cls, path: Name) -> Self:
        """Read a file and check all of it.

        Raises
        ------
        BoxNNError
            Of type `error`: it is missing, damaged, unfinished, something else, or of a newer
            version.
        """
        remedy = f"run `{cls.command}` again"
        group = zarr_format.open_group(path, cls.format, cls.version, cls.error, remedy)
        attributes: dict[str, Any] = dict(group.attrs.asdict())
        if "digests" not in attributes:
            raise cls.error(f"{path} is unfinished; resume it with `{cls.command} --resume`")
        sizes = _sizes(attributes)
        arrays: dict[str, Any] = {}
        for column in cls.columns(attributes["digests"]):
            name = column.name
            try:
                arrays[name] = group[name]
                digest = zarr_format.stored_digest(arrays[name])
            except zarr_format.READ_FAILURES as cause:
                damaged = f"{path} is damaged: {name} cannot be read; {remedy}"
                raise cls.error(read_problem(path, f"{name} of {path}", cause, damaged)) from cause
            problem = column.problem(arrays[name], sizes)
            if digest != attributes["digests"].get(name):
                problem = "does not match its digest"
            if problem is not None:
                raise cls.error(f"{path} is damaged: {name} {problem}; {remedy}")
        return cls(location(path), attributes, arrays)

    def read(self, name: str) -> np.ndarray:
        """Return an array, read anew."""
        with reachable(self.path, self.error):
            return np.asarray(self._arrays[name][...])


class RowWriter:
    """Writes a `RowFile` chunk by chunk; `write_chunk` does so, again if need be.

    `path` may have chunks of an earlier, interrupted run, which is refused if it was of other
    `attributes`. `n` features and their `dtype` are those of a file with samples; `optional` are
    names of the arrays that chunks come with besides those of every file.
    """

    def __init__(
        self,
        path: Location,
        kind: type[RowFile],
        attributes: Mapping[str, Any],
        n_rows: int,
        chunk_rows: int,
        *,
        optional: Sequence[str] = (),
        n: int = 0,
        dtype: str = "int32",
    ) -> None:
        unmeasured = dict.fromkeys(kind.measured)
        full = {"format": kind.format, "version": kind.version, **attributes, **unmeasured}
        self._path, self._kind, self._attributes = path, kind, full
        self._columns, sizes = kind.columns(optional), {**_sizes(full), "n": n}
        self._group = zarr.open_group(zarr_format.tree_store(path), mode="a", zarr_format=3)
        self._before = self._group.attrs.asdict()
        self._check_same_run()
        # The attributes are written last, so a group without them was killed while it was made.
        if not self._before:
            clear(path)
            self._group = zarr.create_group(zarr_format.tree_store(path))
            for column in self._columns:
                tail = () if column.second is None else (sizes[column.second],)
                stored = dtype if len(column.dtypes) > 1 else column.dtypes[0]
                zarr_format.create_array(
                    self._group, column.name, (n_rows, *tail), np.dtype(stored),
                    (chunk_rows, *tail), column.fill, dims=column.dims,
                )  # fmt: skip
            n_chunks = -(-n_rows // chunk_rows)
            zarr_format.create_array(
                self._group, "finished", (n_chunks,), np.uint8, (1,), dims=("chunk",)
            )
            zarr_format.write_attributes(self._group, full)

    @property
    def run(self) -> str:
        """What tells chunks of this run from those of others, as `write_chunk` takes it."""
        return str(self._group.attrs["digest"])

    def _check_same_run(self) -> None:
        """Raise if an earlier, interrupted run was of something else."""
        wanted = zarr_format.with_digest(self._attributes)
        del wanted["digest"]
        kept = {key: item for key, item in self._before.items() if key not in ("digest", "digests")}
        kept |= dict.fromkeys(self._kind.measured)
        if self._before and kept != wanted:
            either = sorted(kept.keys() | wanted.keys())
            other = ", ".join(key for key in either if kept.get(key) != wanted.get(key))
            raise self._kind.error(
                f"{self._path} holds an unfinished run with another {other}; resume it with its "
                "own options or pass `overwrite` to start again"
            )

    def unfinished(self) -> list[int]:
        """Return the numbers of the chunks that still have to be written."""
        try:
            return np.flatnonzero(self._group["finished"][:] == 0).tolist()  # type: ignore[index]
        except zarr_format.READ_FAILURES as cause:
            raise self._kind.error(
                "the unfinished run is damaged; pass `overwrite` to start again"
            ) from cause

    def finish(self, **measured: float | None) -> None:
        """Seal the file: digests of all arrays, and what was measured (or was by a run before)."""
        found = {name: measured.get(name) or self._before.get(name) for name in self._kind.measured}
        digests = {
            column.name: zarr_format.stored_digest(self._group[column.name])  # type: ignore[arg-type]
            for column in self._columns
        }
        zarr_format.write_attributes(self._group, {**self._attributes, **found, "digests": digests})


def write_chunk(
    path: Name,
    chunk: int,
    chunk_rows: int,
    columns: Mapping[str, np.ndarray],
    run: str | None = None,
) -> None:
    """Write one whole chunk of a file that a `RowWriter` made, then record it as finished.

    Chunks are files of their own, so any number of processes may write different ones, and one
    that is written twice by the same computation stays the same. `run` is that of the writer: where
    another run has begun meanwhile, as after a process that hung or tasks that outlived their
    client, nothing is written.
    """
    group = zarr.open_group(zarr_format.tree_store(location(path)), mode="r+", zarr_format=3)
    if run is not None and group.attrs["digest"] != run:
        raise OSError("another run has taken its place")
    for name, values in columns.items():
        group[name][chunk * chunk_rows : chunk * chunk_rows + len(values)] = values  # type: ignore[index]
    group["finished"][chunk] = 1  # type: ignore[index]
