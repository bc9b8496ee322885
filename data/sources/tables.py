"""Users' tables: roles of columns, and features as raw values, block by block."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from boxnn_numba.columns import MISSING, Column, Columns, Survey, nearest
from boxnn_numba.data.sources.blocks import (
    MAX_FEATURES,
    UNLABELLED,
    Block,
    Table,
    clean_labels,
    where,
)
from boxnn_numba.data.sources.cells import Cells, Reader
from boxnn_numba.errors import DataError, InputError, OptionError

#: Values of a column with the split.
_SPLITS = {"train": False, "training": False, "test": True, "testing": True}


@dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    Attributes
    ----------
    label, id_column, split_column : str or None
        Columns with the label, the id of a row, and its split, ``train`` or ``test``.
    drop : tuple of str
        Columns to leave out.
    missing : tuple of str
        Texts that mean a missing value, besides the usual ones.
    categorical, numeric : tuple of str
        Columns that are categories or numbers whatever they look like.
    sep : str or None
        Separator of the cells in a text table.
    """

    label: str | None = None
    id_column: str | None = None
    split_column: str | None = None
    drop: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    sep: str | None = None

    def __post_init__(self) -> None:
        for name in ("drop", "missing", "categorical", "numeric"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def missing_texts(self) -> tuple[str, ...]:
        """All texts that mean a missing value."""
        return (*MISSING, *self.missing)

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) != item.default
        }

    def roles(self) -> dict[str, Any]:
        """Return the options that are stored with the data, to read similar files alike."""
        kept = ("label", "id_column", "split_column", "drop", "missing")
        found = {name: value for name, value in self.given().items() if name in kept}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in found.items()}

    def or_else(self, roles: Mapping[str, Any], names: Sequence[str]) -> Self:
        """Return these options, completed from `roles` for the columns, `names`, of a table.

        The column that named the split is dropped, unless it names the split here.
        """
        found: dict[str, Any] = {}
        for role in ("label", "id_column"):
            column = roles.get(role)
            if getattr(self, role) is None and column in names:
                found[role] = column
        dropped = [*roles.get("drop", ()), roles.get("split_column")]
        dropped = [name for name in dropped if name in names and name != self.split_column]
        found["drop"] = tuple(dict.fromkeys([*self.drop, *dropped]))
        found["missing"] = tuple(dict.fromkeys([*self.missing, *roles.get("missing", ())]))
        return replace(self, **found)


#: How tables are read by default.
DEFAULT_TABLE = TableOptions()


class FrameTable(Table):
    """A table; every column without another role is a feature.

    Parameters
    ----------
    reader
        Its cells.
    options
        Which column is what.
    columns
        What the features must be; found out by `scan` where it is None.
    features
        Names that the features must have, in any order; None for what there is.
    need_labels
        Whether each row must have a label, unless it is for testing.

    Raises
    ------
    DataError
        A column that is named is not there or there twice, or no feature is left.
    """

    is_uint8 = False

    def __init__(
        self,
        reader: Reader,
        options: TableOptions,
        columns: Columns | None = None,
        *,
        features: Sequence[str] | None = None,
        need_labels: bool = True,
    ) -> None:
        self.place = reader.place
        self.columns = columns
        self._reader, self._options = reader, options
        self._need_labels = need_labels and options.label is not None
        single = {
            "label": options.label, "id_column": options.id_column,
            "split_column": options.split_column,
        }  # fmt: skip
        self._roles = {role: name for role, name in single.items() if name is not None}
        self._check_roles()
        apart = {*self._roles.values(), *options.drop}
        self.features = [name for name in reader.names if name not in apart]
        if columns is not None:
            features = columns.names
        self._check_features(features)
        self.feature_shape = (len(self.features),)

    @property
    def id_name(self) -> str | None:
        """The column that names the rows."""
        return self._options.id_column

    @property
    def roles(self) -> dict[str, Any]:
        """How the table is read, as in `Dataset.table`."""
        return self._options.roles()

    def scan(self) -> Iterator[Block]:
        """Read labels, ids and splits, and learn the columns."""
        wanted = list(self._roles.values())
        survey, n_rows = None, 0
        if self.columns is None:
            options = self._options
            wanted = [*self.features, *wanted]
            with _naming(self.place):
                survey = Survey(options.categorical, options.numeric, options.missing_texts)
        for cells in self._reader.blocks(wanted or self.features[:1]):
            n_rows += cells.n_rows
            if survey is not None:
                with _naming(self.place, cells):
                    # What is said to be numbers is parsed at once, so that the line is told.
                    for name in self._options.numeric:
                        numbers = Columns([Column(name)])
                        numbers.values({name: cells.columns[name]}, self._options.missing_texts)
                    survey.add({name: cells.columns[name] for name in self.features})
            yield self._block(cells, np.empty((cells.n_rows, 0)))
        if survey is not None and n_rows:
            with _naming(self.place):
                self.columns = survey.columns()

    def blocks(self) -> Iterator[Block]:
        """Read all rows in order; after `scan`, or with columns given."""
        assert self.columns is not None
        for cells in self._reader.blocks([*self.features, *self._roles.values()]):
            given = {name: cells.columns[name] for name in self.features}
            with _naming(self.place, cells):
                x = self.columns.values(given, self._options.missing_texts)
            yield self._block(cells, x)

    def _block(self, cells: Cells, x: np.ndarray) -> Block:
        block = Block(x, np.empty(0), cells.start, cells.lines)
        is_test = ids = None
        if "split_column" in self._roles:
            is_test = self._splits(cells, block)
        if "id_column" in self._roles:
            ids = self._keys(cells, "id_column")
        if "label" not in self._roles:
            labels = np.full(cells.n_rows, UNLABELLED)
        else:
            labels = self._keys(cells, "label")
            bare = np.flatnonzero(
                (labels == UNLABELLED) & (True if is_test is None else ~is_test)
                if labels.dtype.kind == "U" and self._need_labels
                else np.zeros(len(labels), bool)
            )
            if len(bare):
                raise DataError(
                    f"{where(block, bare[0])} of {self.place} has no label; fill it or drop the row"
                )
        return replace(block, labels=labels, ids=ids, is_test=is_test)

    def _keys(self, cells: Cells, role: str) -> np.ndarray:
        """Return labels or ids, integers or texts; the empty text where a cell has none."""
        name = self._roles[role]
        values = cells.columns[name]
        if isinstance(values, tuple):
            found = np.char.strip(np.array(values))
        else:
            found = _plain(values)
            if role == "label":
                found = clean_labels(found, f"column {name!r} of {self.place}")
            elif found.dtype.kind not in "iuU":
                found = found.astype(str)
        if self._options.missing and found.dtype.kind == "U":
            found = np.where(np.isin(found, self._options.missing), UNLABELLED, found)
        return found

    def _splits(self, cells: Cells, block: Block) -> np.ndarray:
        words = self._keys(cells, "split_column").astype(str)
        known = [_SPLITS.get(word.lower()) for word in words.tolist()]
        if None in known:
            row, name = known.index(None), self._roles["split_column"]
            raise DataError(
                f"{str(words[row])!r} at {where(block, row)}, column {name!r} of {self.place} is "
                "no split; write train or test"
            )
        return np.array(known, bool)

    def _check_roles(self) -> None:
        names = self._reader.names
        options = self._options
        lists = {role: getattr(options, role) for role in ("drop", "categorical", "numeric")}
        wanted = [
            *self._roles.items(),
            *((r, name) for r, found in lists.items() for name in found),
        ]
        for role, name in wanted:
            count = names.count(name)
            if count != 1:
                problem = "has no column" if count == 0 else f"has {count} columns named"
                raise DataError(
                    f"{self.place} {problem} {name!r} ({nearest(name, names)}); choose another "
                    f"`{role}`"
                )
        used: dict[str, str] = {}
        for role, name in wanted:
            if role in ("categorical", "numeric") and name not in used:
                continue
            if name in used and used[name] != role:
                raise OptionError(
                    f"column {name!r} is named by `{used[name]}` and by `{role}`; choose one"
                )
            used[name] = role

    def _check_features(self, wanted: Sequence[str] | None) -> None:
        names = self.features
        if not names:
            but = " but " + " and ".join(map(repr, self._roles.values())) if self._roles else ""
            if self._options.drop:
                raise DataError(
                    f"`drop` names all columns of {self.place}{but}; leave at least one feature"
                )
            raise DataError(f"{self.place} has no column{but}; it needs at least one feature")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{self.place} has 2 columns named {twice!r}; rename one")
        if len(names) > MAX_FEATURES:
            raise DataError(f"{self.place} has {len(names)} columns; at most {MAX_FEATURES} are "
                            "supported")  # fmt: skip
        if wanted is None:
            return
        for name in wanted:
            if name not in names:
                raise DataError(
                    f"{self.place} has no column {name!r} ({nearest(name, names)}); add it"
                )
        for name in names:
            if name not in wanted:
                raise DataError(
                    f"column {name!r} of {self.place} is unknown ({nearest(name, list(wanted))}); "
                    "name it in `drop`"
                )


@contextlib.contextmanager
def _naming(place: str, cells: Cells | None = None) -> Iterator[None]:
    """Say of errors in a block which file they are of, and which line."""
    try:
        yield
    except InputError as error:
        text = str(error)
        if cells is not None:
            block = Block(np.empty(0), np.empty(0), cells.start, cells.lines)
            text = re.sub(r"at row (\d+)", lambda at: f"at {where(block, int(at[1]))}", text)
        raise DataError(f"{place}: {text}") from error


def _plain(column: Any) -> np.ndarray:
    """Return a column of pyarrow as integers or texts; the empty text where it has no value."""
    missing = np.asarray(column.is_null())
    values = column.drop_null().to_numpy() if missing.any() else column.to_numpy()
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)  # as pandas makes them of integers with gaps
    if values.dtype.kind == "O":
        values = values.astype(str)
    if values.dtype.kind == "U":
        values = np.char.strip(values)
    if not missing.any():
        return values
    texts = values.astype(str)
    filled = np.full(len(missing), UNLABELLED, dtype=texts.dtype if len(texts) else "<U1")
    filled[~missing] = texts
    return filled
