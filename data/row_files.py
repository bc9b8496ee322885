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

from boxnn_numba.adversary import unit_name
from boxnn_numba.data import zarr_format
from boxnn_numba.data.atomic import clear
from boxnn_numba.data.paths import Location, Name, location, read_problem
from boxnn_numba.data.schema import (
    CLASSES,
    COLUMNS,
    DIGEST,
    FEATURE_SHAPE,
    MOST_CHUNK,
    MOST_CLASSES,
    MOST_FEATURES,
    MOST_MEMBERS,
    MOST_ROWS,
    TEXT,
    TRAINING,
    ArrayRule,
    Rule,
    Schema,
    listed,
    mapped,
    maybe,
    number,
    whole,
)

#: Second dimensions, as the docs write them, and their names in a file; the first is ``sample``.
_DIMENSIONS = {"K": "class", "n": "feature", "S": "size"}

Value = TypeVar("Value", bound=np.ndarray | None)


def spread_rows(places: np.ndarray, count: int, total: int) -> np.ndarray:
    """Return the numbers in a split of `total` rows of some of `count` that are spread over it."""
    return places * total // count


def rows_within(rows: int, row_bytes: int) -> int:
    """Return `rows`, or as many as a chunk may have of so many bytes each."""
    return max(1, min(rows, MOST_CHUNK // row_bytes))


def group_count_of(attributes: Mapping[str, Any]) -> int:
    """Return how many features, or groups of them, the adversary of a file counts."""
    features = math.prod(attributes["feature_shape"])
    return int(attributes.get("groups", -(-features // attributes["group_size"])))


def reach_of(attributes: Mapping[str, Any]) -> int:
    """Return how many features, or groups of them, may be rewritten: no radius is larger."""
    free = attributes.get("attackable")
    return group_count_of(attributes) if free is None else len(free)


def most_of(attributes: Mapping[str, Any]) -> float:
    """Return the largest possible radius: the number, or cost, of all that may be rewritten."""
    costs = attributes.get("costs")
    if costs is not None:
        return math.fsum(cost for cost in costs if cost is not None)
    return reach_of(attributes)


def unit_of(attributes: Mapping[str, Any]) -> str:
    """Return the unit of radii of a file: pixels, columns of tables, other features, or cost."""
    if "costs" in attributes:
        return "cost"
    if len(attributes.get("columns") or ()) == group_count_of(attributes):
        return "columns"
    return unit_name(attributes["feature_shape"], group_count_of(attributes))


class AnyColumn(functools.cached_property[Value]):
    """An array of a `RowFile`, read when it is asked for the first time.

    `meaning` is what it holds, for the docs; `dtypes` are types that it may have; `second` is the
    name of its second dimension, ``"K"`` classes, ``"n"`` features or ``"S"`` sizes of patches. It
    is made full of `fill`. Values are from `low` to what `high` names in the `RowFile.bounds`.
    """

    optional = False

    def __init__(
        self,
        meaning: str,
        dtypes: Sequence[str] = ("int32",),
        second: str | None = None,
        fill: int = -1,
        low: int | None = None,
        high: str | None = None,
    ) -> None:
        super().__init__(self._value)
        self.meaning, self.dtypes, self.second, self.fill = meaning, tuple(dtypes), second, fill
        dims = ("N",) if second is None else ("N", second)
        self.rule = ArrayRule(dims, self.dtypes, low, high)

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


class Column(AnyColumn[np.ndarray]):
    """An array that every file has."""


class OptionalColumn(AnyColumn[np.ndarray | None]):
    """An array that only some files have; None in others."""

    optional = True


_COUNT = whole(1, MOST_FEATURES)
#: Rules of what both kinds of file say of a model and rows.
SHARED: dict[str, Rule] = {
    **dict.fromkeys(("model_digest", "dataset_digest", "split"), TEXT),
    **dict.fromkeys(("model?", "dataset?", "dataset_name?", "id?"), TEXT),
    "classes": CLASSES,
    "feature_shape": FEATURE_SHAPE,
    "width": whole(1, 255),
    "group_size": _COUNT,
    "members?": whole(1, MOST_MEMBERS),
    "groups?": _COUNT,
    "offset?": listed(whole(0, 2**30), 1, MOST_CLASSES),
    **dict.fromkeys(("limit?", "split_rows?"), maybe(whole(1, MOST_ROWS))),
    "columns?": COLUMNS,
    "attackable?": listed(whole(0, MOST_FEATURES), 1, MOST_FEATURES, differ=True),
    "costs?": listed(maybe(number(0)), 1, MOST_FEATURES),
    "training?": TRAINING,
    "seconds?": maybe(number(0)),
    "digests?": mapped(DIGEST),
}


def fits(said: Mapping[str, Any]) -> str | None:
    """Return how the attributes of a file do not fit each other, or None."""
    features, groups = math.prod(said["feature_shape"]), group_count_of(said)
    if max(groups, said["group_size"]) > features:
        return f"there are {features} features, and not as many groups of {said['group_size']}"
    for name, values, size in (
        ("offset", said.get("offset"), len(said["classes"])),
        ("columns", said.get("columns"), features),
        ("costs", said.get("costs"), groups),
    ):
        if values is not None and len(values) != size:
            return f"there are {len(values)} {name} and not {size}"
    if max(said.get("attackable", (0,))) >= groups:
        return f"attackable has numbers above those of the {groups} groups"
    if "costs" in said and not 0 < most_of(said) < math.inf:
        return "nothing of costs may be rewritten"
    if (said.get("limit") or 1) > (said.get("split_rows") or MOST_ROWS):
        return "limit is more than split_rows"
    return None


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

    #: What attributes such files have, and which of them are known when a file is sealed.
    schema: ClassVar[Schema]
    measured: ClassVar[tuple[str, ...]] = ("seconds",)
    #: What makes such files.
    command: ClassVar[str]

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
        """The largest possible radius: the number, or cost, of all that may be rewritten.

        A row with this radius keeps its prediction whatever is rewritten.
        """
        return most_of(self.attributes)

    @property
    def unit(self) -> str:
        """Unit of radii and changes, as `unit_of`."""
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
        stored = zarr_format.open_file(path, cls.schema)
        attributes = stored.attributes
        if "digests" not in attributes:
            raise cls.schema.error(f"{path} is unfinished; resume it with `{cls.command} --resume`")
        stored.sizes |= {**_sizes(attributes), "n": math.prod(attributes["feature_shape"])}
        columns = cls.columns(attributes["digests"])
        file = cls(
            stored.place, attributes, {c.name: stored.array(c.name, c.rule) for c in columns}
        )
        bounds = file.bounds
        for column in columns:
            vector = np.empty(len(file), column.dtypes[0]) if column.second is None else None
            problem = None
            for first, block in stored.blocks(column.name, file._arrays[column.name]):
                problem = problem or column.rule.range_problem(block, bounds, first)
                problem = problem or file.impossible(column.name, block, first)
                if vector is not None:
                    vector[first : first + len(block)] = block
            if problem is not None:  # not before its digest was found to be right
                raise stored.damaged(f"{column.name} {problem}")
            # Vectors are kept: every use of a file needs them.
            file.__dict__.update({} if vector is None else {column.name: vector})
        if problem := file.unfit():
            raise stored.incomplete(problem)
        return file

    @property
    def bounds(self) -> dict[str, float]:
        """The largest values of arrays, by what `AnyColumn.high` calls them."""
        said = self.attributes
        cost = most_of(said) * (1 + 1e-12) if "costs" in said else 0.0
        rows = said.get("split_rows") or max(len(self), 1)
        return {"class": len(said["classes"]) - 1, "never": reach_of(said), "cost": cost,
                "row": rows - 1}  # fmt: skip

    def impossible(self, name: str, block: np.ndarray, first: int) -> str | None:
        """Return an impossible value in the rows of an array from `first` on, or None.

        Columns come in the order in which they are declared; those before are read.
        """
        return None

    def unfit(self) -> str | None:
        """Return how the arrays do not fit the attributes, or None."""
        rows, said = len(self), self.attributes
        wanted = said.get("limit") or rows
        if rows == 0 or wanted != rows or rows > (said.get("split_rows") or rows):
            return f"it has {rows} rows and its attributes say {wanted}"
        return None

    def read(self, name: str) -> np.ndarray:
        """Return an array, read anew."""
        try:
            return np.asarray(self._arrays[name][...])
        except zarr_format.READ_FAILURES as cause:
            raise self.schema.error(
                read_problem(self.path, f"{name} of {self.path}", cause,
                             f"{name} of {self.path} cannot be read any more")
            ) from cause  # fmt: skip


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
        full = {
            "format": kind.schema.format,
            "version": kind.schema.version,
            **attributes,
            **unmeasured,
        }
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
            raise self._kind.schema.error(
                f"{self._path} holds an unfinished run with another {other}; resume it with its "
                "own options or pass `overwrite` to start again"
            )

    def unfinished(self) -> list[int]:
        """Return the numbers of the chunks that still have to be written."""
        try:
            return np.flatnonzero(self._group["finished"][:] == 0).tolist()  # type: ignore[index]
        except zarr_format.READ_FAILURES as cause:
            raise self._kind.schema.error(
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
    # What an array is made with does not stay with it.
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(zarr_format.tree_store(location(path)), mode="r+", zarr_format=3)
        arrays = {name: group[name] for name in (*columns, "finished")}
    if run is not None and group.attrs["digest"] != run:
        raise OSError("another run has taken its place")
    for name, values in columns.items():
        arrays[name][chunk * chunk_rows : chunk * chunk_rows + len(values)] = values  # type: ignore[index]
    arrays["finished"][chunk] = 1  # type: ignore[index]
