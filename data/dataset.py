"""Datasets on disk: the schema on Zarr, written and read chunk by chunk, always verified.

A dataset is a Zarr v3 group with the arrays ``train/x``, ``train/y``, ``test/x`` and ``test/y``,
and ``train/id`` and ``test/id`` where rows have names.
The group's attributes hold a manifest with the SHA-256 of every chunk's raw bytes, because Zarr
reads a missing chunk as fill value without a word; a chunk is compared with it on every read.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from boxnn_numba.columns import Columns
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.data.column_match import column_match
from boxnn_numba.data.manifest import (
    ID,
    PARTS,
    REMEDY,
    SPLITS,
    chunk_path,
    chunk_problem,
    file_digest,
    file_problems,
    metadata_problem,
    values_digest,
)
from boxnn_numba.data.paths import (
    Location,
    Name,
    location,
    reachable,
    read_problem,
)
from boxnn_numba.data.schema import (
    COLUMNS,
    DIGEST,
    FEATURE_SHAPE,
    LABELS,
    MOST_CHUNK,
    MOST_ROWS,
    TABLE,
    TEXT,
    ArrayRule,
    Schema,
    listed,
    mapped,
    record,
    whole,
)
from boxnn_numba.data.schema import problem as schema_problem
from boxnn_numba.data.zarr_format import (
    READ_FAILURES,
    StoredFile,
    create_array,
    json_digest,
    open_file,
    tree_store,
    write_attributes,
)
from boxnn_numba.errors import DataError, InputError
from boxnn_numba.text import without_secrets
from boxnn_numba.training.options import are_images, data_kind
from boxnn_numba.training.rows import STEP_BYTES

FORMAT = "boxnn-dataset"
VERSION = 1

#: Size of a chunk of features: training reads whole chunks of codes at a time.
CHUNK_BYTES = STEP_BYTES

#: Type of the labels on disk: indices into the classes.
LABEL_DTYPE = np.dtype(np.int32)


_SIZES = listed(whole(0, MOST_ROWS), 1, 2)
_ARRAY = record({"dtype": TEXT, "shape": _SIZES, "chunks": _SIZES, "chunk_digests": listed(DIGEST)})
#: Arrays of each split, of one number of rows and in chunks of as many.
_RULES = {
    "x": ArrayRule(("N", "n"), ("uint8", "float32")),
    "y": ArrayRule(("N",), ("int32",), -1, "class"),
    ID: ArrayRule(("N", "L"), ("uint8", "int64")),
}


def _fits(said: Mapping[str, Any]) -> str | None:
    """Return how the attributes of a dataset do not fit each other, or None."""
    parts = (*PARTS, ID) if "id" in said else PARTS
    names = {f"{split}/{part}" for split in SPLITS for part in parts}
    if said["arrays"].keys() != names:
        return (
            f"arrays are {', '.join(sorted(said['arrays']))[:60]}, not {', '.join(sorted(names))}"
        )
    if not said["split_digests"].keys() >= set(SPLITS):
        return f"split_digests are not of {' and '.join(SPLITS)}"
    if len(said.get("columns", ())) not in (0, math.prod(said["feature_shape"])):
        return f"there are {len(said['columns'])} columns for samples of another size"
    return None


SCHEMA = Schema(
    FORMAT,
    VERSION,
    DataError,
    REMEDY,
    {
        "name": TEXT,
        "source": TEXT,
        "classes": LABELS,
        "feature_shape": FEATURE_SHAPE,
        "columns?": COLUMNS,
        "table?": TABLE,
        "id?": TEXT,
        "arrays": mapped(_ARRAY),
        "split_digests": mapped(DIGEST),
    },
    _fits,
)


def chunk_rows(n_features: int, dtype: np.dtype) -> int:
    """Return the number of rows of a chunk, which depends only on the arguments."""
    return max(1, CHUNK_BYTES // (n_features * np.dtype(dtype).itemsize))


class Dataset:
    """A read-only view of a dataset on disk; make one with `open_dataset`.

    Attributes
    ----------
    path : pathlib.Path or upath.UPath
        Folder of the dataset.
    name, source : str
        Name of the dataset, and where it came from.
    classes : list of int or list of str
        Labels by class index, sorted.
    feature_shape : tuple of int
        Shape of one sample before it was flattened, e.g. (28, 28).
    columns : Columns or None
        For data from a table: names and kinds of the columns, and their categories.
    table : dict
        Options with which the table was read, if given: ``label``, ``id_column``,
        ``split_column``, ``drop``, ``missing``.
    id_name : str or None
        Name of the column with ids of rows; None without ids.
    digest : str
        SHA-256 that identifies the whole dataset.
    splits : tuple of str
        ``("train", "test")``.
    """

    def __init__(self, file: StoredFile) -> None:
        attributes = file.attributes
        self.path = file.place
        self.name: str = attributes["name"]
        self.source: str = attributes["source"]
        self.classes: list[Any] = attributes["classes"]
        self.feature_shape: tuple[int, ...] = tuple(attributes["feature_shape"])
        self.digest: str = attributes["digest"]
        listed = attributes.get("columns")
        try:
            self.columns = None if listed is None else Columns.from_list(listed)
        except InputError as error:
            raise file.incomplete(error) from error
        self.table: dict[str, Any] = attributes.get("table", {})
        self.id_name: str | None = attributes.get("id")
        self._match: Callable[[np.ndarray], np.ndarray] | None = None
        self.splits: tuple[str, ...] = SPLITS
        self.split_digests: dict[str, str] = attributes["split_digests"]
        self._manifest: dict[str, Any] = attributes["arrays"]
        self._arrays: dict[str, zarr.Array] = {}
        for split in self.splits:
            file.sizes = {"n": self.n_features}  # each split has its own number of rows
            self._arrays |= {
                f"{split}/{part}": _open_array(file, split, part) for part in self.parts
            }

    def matched(self, columns: Columns | None, model: Name) -> Dataset:
        """Return the same data with the columns of a model, in its order and with its categories.

        Where the data or the model have no names of columns, columns are matched by position.

        Parameters
        ----------
        columns
            The columns of the model, or None.
        model
            Path of the model, for messages.

        Returns
        -------
        Dataset
            A view: features are converted when they are read.

        Raises
        ------
        DataError
            A column of the model is missing here or is of another kind, or a column here is unknown
            to the model.
        """
        if columns is None or self.columns is None or columns == self.columns:
            return self
        view = copy.copy(self)
        view.columns = columns
        view._match = column_match(self.columns, columns, str(self.path), str(model))
        return view

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the arrays of each split."""
        return PARTS if self.id_name is None else (*PARTS, ID)

    @property
    def is_codes(self) -> bool:
        """Whether features are uint8 codes (otherwise float32)."""
        return self._arrays["train/x"].dtype == np.uint8

    @property
    def kind(self) -> str:
        """Kind of the samples, which decides the values of presets."""
        return data_kind(self.feature_shape, self.is_codes)

    @property
    def are_images(self) -> bool:
        """Whether samples are images of codes, as presets of training distinguish them."""
        return are_images(self.feature_shape, self.is_codes)

    @property
    def n_features(self) -> int:
        """Number of features of one sample."""
        return math.prod(self.feature_shape)

    def n_rows(self, split: str) -> int:
        """Return the number of samples of a split."""
        return int(self._array(split, "x").shape[0])

    def chunks(self, split: str) -> list[slice]:
        """Return the row range of every chunk of a split, in order."""
        array = self._array(split, "x")
        total, step = array.shape[0], array.chunks[0]
        return [slice(start, min(start + step, total)) for start in range(0, total, step)]

    def read_chunk(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read and verify one chunk.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.
        index
            Which of `chunks`.

        Returns
        -------
        x : ndarray (rows, n_features), uint8 codes or float32
        y : ndarray (rows,), int32
            Index into `classes`.

        Raises
        ------
        DataError
            The chunk is damaged or missing.
        """
        return self._features(split, index), self._read_part(split, "y", index)

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Read and verify all rows of a split.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.

        Returns
        -------
        x, y
            As for `read_chunk`, of all chunks.

        Raises
        ------
        DataError
            A chunk is damaged or missing.
        """
        x = self._read_all(split, "x")
        return (x if self._match is None else self._match(x)), self._read_all(split, "y")

    def read_ids(self, split: str) -> np.ndarray | None:
        """Read and verify the ids of the rows of a split.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.

        Returns
        -------
        (rows,) ndarray of int64 or str, or None
            None if the dataset has no ids.

        Raises
        ------
        DataError
            A chunk is damaged or missing.
        """
        if self.id_name is None:
            return None
        values = self._read_all(split, ID)
        if values.dtype != np.uint8:
            return values[:, 0]
        texts = [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in values]
        return np.array(texts) if texts else np.empty(0, "<U1")

    def read_labels(self, split: str) -> np.ndarray:
        """Read and verify the labels of a split, without its features.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.

        Returns
        -------
        (rows,) ndarray of int32
            Index into `classes`.

        Raises
        ------
        DataError
            A chunk is damaged or missing.
        """
        return self._read_all(split, "y")

    def read_rows(
        self, split: str, rows: Sequence[int] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return some rows of a split as `read_chunk` does, reading only the chunks with them.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.
        rows
            Row numbers, at least one, in any order.
        """
        wanted = np.asarray(rows)
        found: list[tuple[np.ndarray, ...]] = []
        for index, chunk in enumerate(self.chunks(split)):
            inside = np.flatnonzero((wanted >= chunk.start) & (wanted < chunk.stop))
            if len(inside):
                at = wanted[inside] - chunk.start
                x, y = self.read_chunk(split, index)
                found.append((inside, x[at], y[at]))
        places, x, y = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(places)
        return x[order], y[order]

    def _features(self, split: str, index: int) -> np.ndarray:
        x = self._read_part(split, "x", index)
        return x if self._match is None else self._match(x)

    def _read_all(self, split: str, part: str) -> np.ndarray:
        array = self._array(split, part)
        values = np.empty(array.shape, array.dtype)
        for index, rows in enumerate(self.chunks(split)):
            values[rows] = self._read_part(split, part, index)
        return values

    def _array(self, split: str, part: str) -> zarr.Array:
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        return self._arrays[f"{split}/{part}"]

    def _read_part(self, split: str, part: str, index: int) -> np.ndarray:
        key = f"{split}/{part}"
        array = self._array(split, part)
        rows = self.chunks(split)[index]
        problem = chunk_problem(self.path, key, index)
        try:
            values = np.ascontiguousarray(array[rows])
        except READ_FAILURES as error:
            what = f"{key} chunk {index} of {self.path}"
            raise DataError(read_problem(self.path, what, error, problem)) from error
        if values_digest(values) != self._manifest[key]["chunk_digests"][index]:
            raise DataError(problem)
        bounds = {"class": len(self.classes) - 1}
        if wrong := _RULES[part].range_problem(values, bounds, rows.start):
            raise DataError(f"{key} of {self.path} {wrong}; {REMEDY}")
        return values


def open_dataset(path: Name) -> Dataset:
    """Open a dataset for reading.

    Parameters
    ----------
    path
        Folder written by `boxnn data ingest`, or its URL.

    Returns
    -------
    Dataset
        Features and labels are read when they are asked for.

    Raises
    ------
    DataError
        It does not exist, is not a dataset, is damaged, or is of a newer version.
    """
    folder = location(path)
    with reachable(path, DataError):
        is_file = folder.is_file()
    if is_file:
        raise DataError(f"{folder} is a file, not a dataset; ingest it with `boxnn data ingest`")
    return Dataset(open_file(folder, SCHEMA))


def verify_dataset(path: Name) -> list[str]:
    """Read a whole dataset and report what is damaged.

    Finds flipped bits, truncated and missing chunks, and damaged metadata.

    Parameters
    ----------
    path
        Folder of the dataset, or its URL.

    Returns
    -------
    list of str
        One line for each problem; empty if the dataset is sound.
    """
    folder = location(path)
    with reachable(path, DataError):
        problems = list(file_problems(folder)) if folder.is_dir() else []
    try:
        dataset = open_dataset(folder)
    except DataError as error:
        return list(dict.fromkeys([*problems, str(error)]))
    for split in dataset.splits:
        for part in dataset.parts:
            for index in range(len(dataset.chunks(split))):
                try:
                    dataset._read_part(split, part, index)
                except DataError as error:
                    problems.append(str(error))
    return list(dict.fromkeys(problems))


@dataclass(frozen=True)
class IdFormat:
    """How rows are named: by integers, or by texts of at most `text_bytes` in UTF-8.

    `name` is that of the column. On disk they are (N, 1) int64 or (N, `text_bytes`) uint8, filled
    up with zeros.
    """

    name: str
    text_bytes: int = 0

    @property
    def size(self) -> int:
        """Values a row."""
        return self.text_bytes or 1

    @property
    def dtype(self) -> np.dtype:
        """Their type."""
        return np.dtype(np.uint8 if self.text_bytes else np.int64)


def _stored_ids(ids: np.ndarray | None, array: zarr.Array) -> np.ndarray:
    """Return names of rows as they are stored."""
    if ids is None:
        raise InputError("rows have no ids; pass `ids` as declared")
    if array.dtype == np.int64:
        return np.asarray(ids).astype(np.int64)[:, None]
    encoded = [str(text).encode() for text in ids.tolist()]
    packed = b"".join(text.ljust(array.shape[1], b"\0") for text in encoded)
    return np.frombuffer(packed, np.uint8).reshape(len(encoded), array.shape[1])


class _SplitWriter:
    """One split while it is written; collects rows into whole chunks and holds at most one.

    `arrays` has by key what identifies the data, layout and digests of the values; `files` has by
    part the digests of the files.
    """

    def __init__(self, folder: Location, split: str, arrays: Mapping[str, zarr.Array]) -> None:
        self._folder, self._split, self._arrays = folder, split, arrays
        self._buffers = {
            part: np.empty((array.chunks[0], *array.shape[1:]), array.dtype)
            for part, array in arrays.items()
        }
        self._filled = self._written = 0
        self.arrays: dict[str, Any] = {
            f"{split}/{part}": {
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "chunks": list(array.chunks),
                "chunk_digests": [],
            }
            for part, array in arrays.items()
        }
        self.files: dict[str, Any] = {
            part: {"metadata": file_digest(folder / split / part / "zarr.json"), "chunks": []}
            for part in arrays
        }

    def append(self, x: np.ndarray, y: np.ndarray, ids: np.ndarray | None) -> None:
        array = self._arrays["x"]
        given = {"x": x, "y": y}
        if ID in self._arrays:
            given[ID] = _stored_ids(ids, self._arrays[ID])
        if x.dtype != array.dtype or x.shape != (len(y), array.shape[1]):
            raise InputError(
                f"{self._split} got {x.dtype} features of shape {x.shape} for {len(y)} labels; "
                f"they must be {array.dtype}, ({len(y)}, {array.shape[1]})"
            )
        taken = 0
        while taken < len(x):
            count = min(array.chunks[0] - self._filled, len(x) - taken)
            target = slice(self._filled, self._filled + count)
            for part, rows in given.items():
                self._buffers[part][target] = rows[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == array.chunks[0]:
                self._flush()

    def finish(self) -> None:
        """Write what is left and check that every row was given."""
        self._flush()
        expected = self._arrays["y"].shape[0]
        if self._written != expected:
            raise InputError(
                f"{self._split} got {self._written} rows and was declared with {expected}; "
                "write as many rows as n_rows says"
            )

    def _flush(self) -> None:
        if self._filled == 0:
            return
        rows = slice(self._written, self._written + self._filled)
        for part, array in self._arrays.items():
            key, values = f"{self._split}/{part}", self._buffers[part][: self._filled]
            array[rows] = values
            digests = self.arrays[key]["chunk_digests"]
            file = chunk_path(self._folder, key, len(digests))
            digests.append(values_digest(values))
            self.files[part]["chunks"].append(file_digest(file))
        self._written += self._filled
        self._filled = 0


class DatasetWriter:
    """Writes a dataset chunk by chunk; holds at most one chunk per split in memory.

    `folder` is empty, e.g. from `boxnn_numba.data.atomic.staged_output`; features are uint8 codes
    or else float32; `n_rows` are those of each split, `columns` and `table` as in `Dataset`, `ids`
    says how rows are named, and the rest is as for `write_dataset`.
    """

    def __init__(
        self,
        folder: Location,
        *,
        name: str,
        source: str,
        feature_shape: Sequence[int],
        classes: Sequence[int] | Sequence[str],
        codes: bool,
        n_rows: Mapping[str, int],
        columns: Columns | None = None,
        table: Mapping[str, Any] | None = None,
        ids: IdFormat | None = None,
    ) -> None:
        self._folder = folder
        self._attributes = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "source": without_secrets(source),
            "feature_shape": [int(size) for size in feature_shape],
            "classes": [
                label.item() if isinstance(label, np.generic) else label for label in classes
            ],
            **({} if columns is None else {"columns": columns.as_list()}),
            **({"table": dict(table)} if table else {}),
            **({} if ids is None else {"id": ids.name}),
        }
        rules = {name: rule for name, rule in SCHEMA.attributes.items() if name in self._attributes}
        if wrong := schema_problem(rules, self._attributes):
            raise InputError(f"no dataset can hold this: {wrong}")
        self._parts = PARTS if ids is None else (*PARTS, ID)
        n_features = math.prod(feature_shape)
        dtype = np.dtype(np.uint8 if codes else np.float32)
        rows = chunk_rows(n_features, dtype)
        if ids is not None:
            rows = max(1, min(rows, MOST_CHUNK // (ids.size * ids.dtype.itemsize)))
        self._group = zarr.create_group(tree_store(folder))
        self._splits: dict[str, _SplitWriter] = {}
        for split in SPLITS:
            n = n_rows[split]
            layout: dict[str, tuple[np.dtype, dict[str, int]]] = {
                "x": (dtype, {"feature": n_features}),
                "y": (LABEL_DTYPE, {}),
                **({} if ids is None else {ID: (ids.dtype, {"character": ids.size})}),
            }
            arrays = {
                part: create_array(
                    self._group, f"{split}/{part}", (n, *second.values()), stored,
                    (rows, *second.values()), dims=("sample", *second),
                )
                for part, (stored, second) in layout.items()
            }  # fmt: skip
            self._splits[split] = _SplitWriter(folder, split, arrays)

    def append(
        self, split: str, x: np.ndarray, y: np.ndarray, ids: np.ndarray | None = None
    ) -> None:
        """Add rows (rows, n_features) of the stored dtype, class indices (rows,), and names.

        The class index of a row without a label is -1.
        """
        self._splits[split].append(x, y, ids)

    def finish(self) -> str:
        """Write what is left and the manifest; return the dataset's digest."""
        arrays: dict[str, Any] = {}
        for split, writer in self._splits.items():
            writer.finish()
            arrays |= writer.arrays
            group = zarr.open_group(self._group.store, path=split, mode="r+", zarr_format=3)
            write_attributes(group, {"files": writer.files})
        split_digests = {
            split: json_digest({part: arrays[f"{split}/{part}"] for part in self._parts})
            for split in SPLITS
        }
        write_attributes(
            self._group, {**self._attributes, "arrays": arrays, "split_digests": split_digests}
        )
        return str(self._group.attrs["digest"])


def write_dataset(
    path: Name,
    *,
    name: str,
    classes: Sequence[int] | Sequence[str],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    feature_shape: Sequence[int] | None = None,
    source: str = "arrays in memory",
    overwrite: bool = False,
) -> Dataset:
    """Write arrays in memory as a dataset.

    Parameters
    ----------
    path
        Folder to make, or its URL.
    name, source
        Name of the dataset, and where it came from.
    classes
        Labels by class index.
    train, test
        Features (rows, ...) as uint8 codes or float32, and class indices (rows,).
    feature_shape
        Shape of one sample; that of the arrays by default.
    overwrite
        Replace an existing dataset at `path`.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        Shapes, types or labels do not fit.
    OptionError
        `path` exists, without `overwrite`.
    """
    x = train[0]
    with staged_output(path, overwrite=overwrite) as folder:
        writer = DatasetWriter(
            folder,
            name=name,
            source=source,
            feature_shape=feature_shape or x.shape[1:],
            classes=classes,
            codes=x.dtype == np.uint8,
            n_rows={"train": len(x), "test": len(test[0])},
        )
        for split, (features, y) in (("train", train), ("test", test)):
            writer.append(split, features.reshape(len(features), math.prod(features.shape[1:])), y)
        writer.finish()
    return open_dataset(path)


def _open_array(file: StoredFile, split: str, part: str) -> zarr.Array:
    key, manifest = f"{split}/{part}", file.attributes["arrays"]
    array, expected, rows = file.array(key, _RULES[part]), manifest[key], manifest[f"{split}/x"]
    if (
        array.dtype.str != expected["dtype"]
        or list(array.shape) != expected["shape"]
        or list(array.chunks) != expected["chunks"]
        or array.chunks[0] != rows["chunks"][0]
        or len(expected["chunk_digests"]) != -(-array.shape[0] // array.chunks[0])
    ):
        raise DataError(metadata_problem(file.place, key))
    return array
