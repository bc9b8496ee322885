"""Columns: names, kinds, categories and missing values of a table, and its cells as raw values.

A raw value is one float64 for one cell: a number as it is, a category or boolean as its place in
the categories of the column, a date as days since 1970-01-01, NaN where the cell is missing. One
column stays one feature, so one unit of every radius.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from boxnn_numba import lazy
from boxnn_numba.errors import InputError

COLUMN_KINDS = ("number", "category", "boolean", "date")
#: Categories of a column that are told apart; all others are one more, `OTHER`.
MOST_CATEGORIES = 254
#: Texts of a cell that has no value.
MISSING = (
    "", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null", "None",
)  # fmt: skip
OTHER = "other"
BOOLEANS = ("False", "True")

_TRUTH = {"false": 0.0, "true": 1.0}
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?")
_EPOCH = datetime(1970, 1, 1)
_DAY = timedelta(days=1)
#: Texts that are counted exactly; of more, the most frequent are kept.
_MOST_COUNTED = 200_000
#: Whole numbers below are all told apart by a float64, and are written without a point.
_WHOLE = 2.0**53


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name
        Header of the column.
    kind
        One of `COLUMN_KINDS`.
    categories
        The categories of a category or boolean, as texts; at most `MOST_CATEGORIES`.
    missing
        Whether the training data had missing values.

    Raises
    ------
    InputError
        The kind is unknown, or the categories do not fit it.
    """

    name: str
    kind: str = "number"
    categories: tuple[str, ...] = ()
    missing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(map(str, self.categories)))
        count = len(set(self.categories))
        if self.kind not in COLUMN_KINDS:
            raise InputError(
                f"column {self.name!r} has the kind {self.kind!r}; choose one of "
                f"{', '.join(COLUMN_KINDS)}"
            )
        if count < len(self.categories) or count > MOST_CATEGORIES or self.is_listed != (count > 0):
            raise InputError(
                f"column {self.name!r} of kind {self.kind} has {len(self.categories)} categories; "
                f"give a category or boolean 1 to {MOST_CATEGORIES} that differ, others none"
            )

    @property
    def is_listed(self) -> bool:
        """Whether raw values are positions in `categories`."""
        return self.kind in ("category", "boolean")

    def places(self, texts: Sequence[str]) -> list[float]:
        """Return the position of each text in the categories; their number for any other text.

        A text may be a category that is written differently: a frame has 1.0 for 1 if other cells
        are missing, and a file true for True. It counts as that category if only one fits.
        """
        places = {text: float(place) for place, text in enumerate(self.categories)}
        other, alike = float(len(places)), dict[Any, float]()
        if not places.keys() >= set(texts):  # rare, and a number is looked for in each category
            for text, place in places.items():
                value = _value(text)
                alike[value] = other if value in alike else place
            alike[None] = other
        return [
            places[text] if text in places else alike.get(_value(text), other) for text in texts
        ]

    def text(self, value: float) -> str:
        """Show a raw value as a user writes it."""
        if np.isnan(value):
            return "missing"
        if self.is_listed:
            at = int(value)
            return self.categories[at] if 0 <= at < len(self.categories) else OTHER
        if self.kind == "date" and -719_162 <= value < 2_932_896:  # years 1 to 9999
            when = _EPOCH + timedelta(seconds=round(value * _DAY.total_seconds()))
            if (when - _EPOCH) % _DAY == timedelta():
                return when.date().isoformat()
            return when.isoformat(" ", "seconds" if when.second else "minutes")
        return _cell_text(float(value))


class Columns(Sequence[Column]):
    """The columns of a table, in order; immutable.

    Parameters
    ----------
    columns
        At least one column, with different names.

    Raises
    ------
    InputError
        There are no columns, or two have the same name.

    Examples
    --------
    >>> from boxnn_numba.columns import Columns
    >>> table = {"amount": [12.5, None, 80.0], "city": ["Bonn", "Kiel", "Bonn"]}
    >>> columns = Columns.of(table)
    >>> columns[1].kind, columns[1].categories
    ('category', ('Bonn', 'Kiel'))
    >>> columns.values({"city": ["Kiel", "Ulm"], "amount": [3, 4]})
    array([[3., 1.],
           [4., 2.]])
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._places = {column.name: k for k, column in enumerate(self._columns)}
        if not self._columns:
            raise InputError("there are no columns; pass at least one")
        if len(self._places) < len(self._columns):
            raise InputError(f"two columns are named {_repeated(self.names)!r}; rename one")

    @classmethod
    def of(
        cls,
        table: Any,
        categorical: Collection[str] = (),
        numeric: Collection[str] = (),
        missing: Collection[str] = MISSING,
    ) -> Columns:
        """Find the columns of a table in memory, as `Survey` does for one block."""
        survey = Survey(categorical, numeric, missing)
        survey.add(table)
        return survey.columns()

    @classmethod
    def from_list(cls, items: Sequence[Mapping[str, Any]]) -> Columns:
        """Return the columns that `as_list` wrote."""
        try:
            return cls([Column(**item) for item in items])
        except TypeError as error:
            raise InputError(f"columns are not what as_list returns ({error})") from error

    def as_list(self) -> list[dict[str, Any]]:
        """Return name, kind, categories and missing of each column, for attributes of files."""
        return [asdict(column) | {"categories": list(column.categories)} for column in self]

    def __len__(self) -> int:
        return len(self._columns)

    def __dask_tokenize__(self) -> Any:
        return lazy.content("Columns", self.as_list())

    def __getitem__(self, position: Any) -> Any:
        return self._columns[position]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and self._columns == other._columns

    def __hash__(self) -> int:
        return hash(self._columns)

    def __repr__(self) -> str:
        return f"Columns({', '.join(f'{c.name}: {c.kind}' for c in self._columns)})"

    @property
    def names(self) -> list[str]:
        """The names in order."""
        return [column.name for column in self._columns]

    def position(self, name: str) -> int:
        """Return the position of a column.

        Raises
        ------
        InputError
            There is no column of that name.
        """
        if name not in self._places:
            raise InputError(f"there is no column {name!r}; {nearest(name, self.names)}")
        return self._places[name]

    def text(self, position: int, value: float) -> str:
        """Show a raw value of a column as a user writes it."""
        return self._columns[position].text(value)

    def values(self, table: Any, missing: Collection[str] = MISSING) -> np.ndarray:
        """Return the raw values of a table.

        Parameters
        ----------
        table
            A pandas or polars frame, a pyarrow table or a mapping of names to sequences, matched by
            name; or an array (N, n), matched by position, of numbers, which are raw values already,
            or of cells.
        missing
            Texts that mean a missing value, unless a text is a category.

        Returns
        -------
        (N, n) float64

        Raises
        ------
        InputError
            A column is missing, unknown or occurs twice, columns differ in length, or a cell does
            not have the kind of its column.
        """
        if not is_table(table):
            array = np.asarray(table)
            if array.ndim != 2 or array.shape[1] != len(self):
                raise InputError(
                    f"x has shape {array.shape}; the columns are {len(self)}, one feature each"
                )
            if array.dtype.kind in "iufb":
                return array.astype(np.float64)
            given = dict(zip(self.names, array.T, strict=True))
        else:
            given = named_columns(table)
            self._check_names(given)
        cells = [_cells(given[name], name) for name in self.names]
        lengths = [len(one) for one in cells]
        if len(set(lengths)) > 1:
            other = next(k for k, length in enumerate(lengths) if length != lengths[0])
            raise InputError(
                f"column {self.names[0]!r} has {lengths[0]} rows and {self.names[other]!r} "
                f"{lengths[other]}; they must agree"
            )
        out = np.empty((lengths[0], len(self)))
        for k, (column, one) in enumerate(zip(self, cells, strict=True)):
            out[:, k] = _raw(column, one, missing)
        return out

    def _check_names(self, given: Collection[str]) -> None:
        for name in self.names:
            if name not in given:
                raise InputError(f"column {name!r} is missing; {nearest(name, list(given))}")
        for name in given:
            if name not in self._places:
                raise InputError(
                    f"column {name!r} is unknown; drop it, or rename it: "
                    f"{nearest(name, self.names)}"
                )


class Survey:
    """Find the columns of a table, block by block, from all of its rows.

    A column of texts has numbers if all its cells are numbers, booleans if all are true or false,
    and dates if all are ISO dates; otherwise its cells are categories.

    Parameters
    ----------
    categorical
        Names of columns that are categories whatever is in them.
    numeric
        Names of columns that must be numbers.
    missing
        Texts of cells without a value.
    """

    def __init__(
        self,
        categorical: Collection[str] = (),
        numeric: Collection[str] = (),
        missing: Collection[str] = MISSING,
    ) -> None:
        self._categorical, self._numeric = frozenset(categorical), frozenset(numeric)
        both = self._categorical & self._numeric
        if both:
            raise InputError(
                f"column {min(both)!r} is in `categorical` and in `numeric`; leave out one"
            )
        self._missing = frozenset(missing)
        self._found: dict[str, _Found] = {}
        self._rows = 0

    def add(self, block: Any) -> None:
        """Take note of some rows: a mapping of names to arrays of cells, or a frame.

        Raises
        ------
        InputError
            Other columns than before, or cells that nothing can be made of.
        """
        given = named_columns(block)
        if not self._found:
            self._found = {name: _Found(name in self._categorical) for name in given}
        if given.keys() != self._found.keys():
            name = min(given.keys() ^ self._found.keys())
            raise InputError(f"column {name!r} is in some blocks only; all need the same columns")
        cells = {name: _cells(values, name) for name, values in given.items()}
        self._rows += max(map(len, cells.values()))
        for name, values in cells.items():
            self._found[name].add(values, self._missing)

    def columns(self) -> Columns:
        """Return the columns.

        Raises
        ------
        InputError
            There are no rows; a column has no value at all, or is said to be numeric and is not; or
            one that is said to be something is not there.
        """
        if not self._rows:
            raise InputError("the table has no rows; pass at least one")
        for name in sorted(self._categorical | self._numeric):
            if name not in self._found:
                raise InputError(f"there is no column {name!r}; {nearest(name, self._found)}")
        return Columns([self._column(name, found) for name, found in self._found.items()])

    def _column(self, name: str, found: _Found) -> Column:
        found.declared &= name not in self._numeric
        kind = found.kind()
        if kind == "":
            raise InputError(f"column {name!r} has no value in any row; drop it")
        if name in self._numeric and kind != "number":
            raise InputError(
                f"column {name!r} is in `numeric` and holds {found.odd!r}; mend it, or leave it out"
            )
        categories = {"category": found.categories, "boolean": lambda: BOOLEANS}
        return Column(name, kind, categories.get(kind, tuple)(), found.missing)


@dataclass
class _Found:
    """Statistics of a column over the blocks so far."""

    declared: bool
    kinds: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    missing: bool = False
    #: Kinds that all texts so far could be, and a text that is no number.
    could_be: list[str] = field(default_factory=lambda: ["number", "boolean", "date"])
    odd: Any = None

    def add(self, cells: _Cells, missing: Collection[str]) -> None:
        self.declared |= cells.declared
        if self.declared:
            cells = cells.as_texts()
        if cells.texts is None:
            empty = np.isnan(cells.numbers)
            if not empty.all():
                self.kinds.add(cells.kind)
                self.odd = self.odd or (cells.kind if cells.kind != "number" else None)
            self.missing |= bool(empty.any())
            return
        counts = np.bincount(cells.index + 1, minlength=len(cells.texts) + 1)
        here = {
            text: count
            for text, count in zip(cells.texts, counts[1:].tolist(), strict=True)
            if text not in missing
        }
        self.missing |= sum(here.values()) < len(cells)
        self.could_be = [kind for kind in self.could_be if _parsed(kind, list(here))[1] is None]
        if self.odd is None and "number" not in self.could_be:
            self.odd = _parsed("number", list(here))[1]
        self.counts.update(here)
        if len(self.counts) > _MOST_COUNTED:
            self.counts = Counter(dict(self._frequent(_MOST_COUNTED // 2)))

    def kind(self) -> str:
        """Return the kind of the column; nothing where no cell has a value."""
        if not self.counts and not self.kinds:
            return ""
        if self.declared:
            return "category"
        if not self.counts:
            return self.kinds.pop() if len(self.kinds) == 1 else "number"
        fitting = [kind for kind in self.could_be if self.kinds <= {kind}]
        return fitting[0] if fitting else "category"

    def categories(self) -> tuple[str, ...]:
        """Return the most frequent texts, in order."""
        texts = [text for text, _ in self._frequent(MOST_CATEGORIES)]
        numbers, odd = _parsed("number", texts)
        if odd is not None:
            return tuple(sorted(texts))
        return tuple(text for _, text in sorted(zip(numbers.tolist(), texts, strict=True)))

    def _frequent(self, count: int) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:count]


# --- cells ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of a column: numbers, or texts as places among the different ones."""

    #: Of numbers what their type says: number, boolean or date.
    kind: str
    #: (N,) float64, NaN where missing.
    numbers: np.ndarray
    #: The different texts, stripped, and for each cell which of them; -1 where missing.
    texts: list[str] | None = None
    index: np.ndarray = field(default_factory=lambda: np.empty(0, np.intp))
    #: Whether the type says that they are categories.
    declared: bool = False

    def __len__(self) -> int:
        return len(self.numbers if self.texts is None else self.index)

    def as_texts(self) -> _Cells:
        """Return numbers as the texts that a user writes for them."""
        if self.texts is not None:
            return self
        shown = Column("", self.kind) if self.kind != "boolean" else Column("", "boolean", BOOLEANS)
        distinct, index = np.unique(self.numbers, return_inverse=True)
        texts = [shown.text(value) for value in distinct[~np.isnan(distinct)]]
        return _Cells("text", self.numbers, texts, np.where(index < len(texts), index, -1))


def _cells(values: Any, name: str) -> _Cells:
    """Return the cells of a sequence, an array, or a column of pandas, polars or pyarrow."""
    kind = str(getattr(values, "dtype", getattr(values, "type", "")))
    coded = getattr(values, "array", values)
    if kind == "category" and hasattr(coded, "codes"):  # of pandas
        inner = _cells(np.asarray(coded.categories), name).as_texts()
        places = np.append(inner.index, -1)
        index = places[np.asarray(coded.codes, dtype=np.intp)]
        return _Cells("text", np.empty(0), inner.texts, index, True)
    declared = kind.startswith(("dictionary", "Categorical", "Enum"))
    if kind.startswith("dictionary"):
        values = values.cast(values.type.value_type)
    if kind.startswith("datetime64[") and hasattr(values, "to_numpy"):  # of pandas, with a zone
        array = values.to_numpy(dtype="datetime64[ns]")
    else:
        array = values.to_numpy() if hasattr(values, "to_numpy") else _array(values)
    if array.ndim != 1:
        raise InputError(f"column {name!r} has cells of shape {array.shape[1:]}; pass one value")
    if array.dtype.kind in "OUST":
        return replace(_object_cells(array, name), declared=declared)
    days = array.dtype.kind in "mM"
    if days:
        numbers = array.astype(f"{array.dtype.kind}8[us]")
        absent = np.isnat(numbers)
        numbers = np.where(absent, np.nan, numbers.astype(np.int64) / (_DAY / timedelta.resolution))
    elif array.dtype.kind in "iufb":
        numbers = array.astype(np.float64)
        if array.dtype.kind in "iu" and (np.abs(numbers) >= _WHOLE).any():
            return replace(_object_cells(array.astype(object), name), declared=declared)
    else:
        raise InputError(
            f"column {name!r} has dtype {array.dtype}; cells are numbers, texts or dates"
        )
    kinds = {"b": "boolean", "M": "date"}
    return _Cells(kinds.get(array.dtype.kind, "number"), numbers, declared=declared)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    cells = list(values)
    array = np.empty(len(cells), object)
    array[:] = cells
    return array


def _object_cells(array: np.ndarray, name: str) -> _Cells:
    """Return cells of Python's types: numbers or booleans if all are, else texts."""
    cells = array.tolist()
    types = set(map(type, cells))
    if bytes in types:
        cells = [c.decode("utf-8", "replace") if isinstance(c, bytes) else c for c in cells]
        types = types - {bytes} | {str}
    absent = {kind for kind in types if kind.__name__ in ("NoneType", "NAType", "NaTType")}
    present = types - absent
    if present <= {float, int, bool, np.float64, np.float32, np.int64, np.int32, np.bool_}:
        try:
            numbers = np.array([np.nan if type(cell) in absent else cell for cell in cells], float)
        except OverflowError as error:
            raise InputError(
                f"column {name!r} holds a whole number of more than 308 digits; make it a text, or "
                "drop it"
            ) from error
        # Of larger whole numbers, as of a merchant, the texts say more than floats do.
        whole = present <= {int, np.int64, np.int32}
        if not whole or not (np.abs(numbers) >= _WHOLE).any():
            truth = present != set() and present <= {bool, np.bool_}
            return _Cells("boolean" if truth else "number", numbers)
    if present != {str}:
        cells = [cell if type(cell) is str else _cell_text(cell) for cell in cells]
        absent = {type(None)}
    places = {cell: place for place, cell in enumerate(dict.fromkeys(cells))}
    index = np.fromiter(map(places.__getitem__, cells), np.intp, len(cells))
    # Texts that differ in blanks only are one; -1 stands for what is missing.
    texts = {text.strip(): 0 for text in places if type(text) not in absent}
    places_of = {text: place for place, text in enumerate(texts)}
    mapped = [-1 if type(text) in absent else places_of[text.strip()] for text in places]
    return _Cells("text", np.empty(0), list(texts), np.array(mapped, np.intp)[index])


def _cell_text(cell: Any) -> Any:
    """Return the text of a cell as a user writes it; None for a missing value."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(cell, float | np.floating):
        number = float(cell)
        if number != number:
            return None
        if abs(number) < _WHOLE and number == int(number):
            return str(int(number))
        # What data sets store: 0.1 of 32 bits is 0.1, not 0.10000000149011612.
        small = abs(number) < float(np.finfo(np.float32).max)
        short = small and float(np.float32(number)) == number
        return str(np.float32(number)) if short else repr(number)
    return str(cell)


def _parsed(kind: str, texts: list[str]) -> tuple[np.ndarray, str | None]:
    """Return texts as raw numbers of a kind, and the first text that is none."""
    if kind == "number":
        try:
            if any("_" in text for text in texts):  # 1_000 is a number to Python only
                raise ValueError
            return np.array(texts, np.float64), None
        except ValueError:
            pass
    parse = {"number": _number, "boolean": _truth, "date": _days}[kind]
    found = np.empty(len(texts))
    for at, text in enumerate(texts):
        number = parse(text)
        if number is None:
            return found, text
        found[at] = number
    return found, None


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _truth(text: str) -> float | None:
    truth = _TRUTH.get(text.lower())
    number = _number(text) if truth is None else truth
    return number if number in (0.0, 1.0) else None


def _days(text: str) -> float | None:
    if not _ISO_DATE.fullmatch(text):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    # The offset is taken off what lies between: in UTC the date itself may be after year 9999.
    return (when.replace(tzinfo=None) - _EPOCH - (when.utcoffset() or timedelta())) / _DAY


def _value(text: str) -> Any:
    """Return the number or truth that a text is, the same however it is written; else None."""
    if text.lower() in _TRUTH:
        return text.lower()
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and "_" not in text else None


def _raw(column: Column, cells: _Cells, missing: Collection[str]) -> np.ndarray:
    """Return the (N,) float64 raw values of the cells of a column."""
    if column.kind == "category":
        cells = cells.as_texts()
    if cells.texts is None:
        return _raw_numbers(column, cells)
    known = set(column.categories)
    texts = [text for text in cells.texts if text in known or text not in missing]
    if column.kind == "category":
        found = column.places(texts)
    elif column.kind == "boolean":
        other = float(len(column.categories))
        found = [other if value is None else value for value in map(_truth, texts)]
    else:
        numbers, odd = _parsed(column.kind, texts)
        if odd is not None:
            row = int((cells.index == cells.texts.index(odd)).argmax())
            raise InputError(
                f"column {column.name!r} holds {odd!r} at row {row}, which is no {column.kind}; "
                "mend the cell or leave it empty"
            )
        found = numbers.tolist()
    value = dict(zip(texts, found, strict=True))
    table = np.array([*(value.get(text, np.nan) for text in cells.texts), np.nan])
    return np.asarray(table[cells.index])


def _raw_numbers(column: Column, cells: _Cells) -> np.ndarray:
    numbers = cells.numbers
    if column.kind == "boolean":
        known = np.isnan(numbers) | (numbers == 0) | (numbers == 1)
        return np.where(known, numbers, float(len(column.categories)))
    dates = cells.kind == "date", column.kind == "date"
    if dates[0] != dates[1] and not np.isnan(numbers).all():
        row = int((~np.isnan(numbers)).argmax())
        raise InputError(
            f"column {column.name!r} holds a {cells.kind} at row {row}, which is no "
            f"{column.kind}; convert the column"
        )
    return numbers


# --- tables --------------------------------------------------------------------------------


def is_table(value: Any) -> bool:
    """Return whether something has named columns: a frame, a pyarrow table or a mapping."""
    if isinstance(value, Mapping):
        return not hasattr(value, "shape")  # as SciPy's dictionary of keys has
    return any(
        hasattr(value, names) and hasattr(value, rows)
        for names, rows in (("columns", "__getitem__"), ("column_names", "column"))
    )


def headers(table: Any) -> list[Any]:
    """Return the names of the columns of a table as they are; pandas has others than texts."""
    if isinstance(table, Mapping):
        return list(table)
    return list(getattr(table, "column_names", table.columns))


def category_places(columns: Columns | None) -> list[int]:
    """Return the places of columns whose values are listed; there are none without columns."""
    return [k for k, column in enumerate(columns or ()) if column.is_listed]


def named_columns(table: Any) -> dict[str, Any]:
    """Return the columns of a table by their names.

    Raises
    ------
    InputError
        Two columns have one name, or there are none.
    """
    if type(table).__name__ == "LazyFrame":  # of polars, which has the names only
        raise InputError("the table is a LazyFrame of polars; pass its .collect()")
    names = headers(table)
    if isinstance(table, Mapping):
        columns = list(table.values())
        for name, cells in table.items():
            if isinstance(cells, str | bytes) or not hasattr(cells, "__len__"):
                raise InputError(
                    f"column {str(name)!r} is {cells!r}; pass a list of cells, one for each row"
                )
    elif hasattr(table, "column_names"):  # pyarrow
        columns = list(table.columns)
    else:
        at = table.iloc if hasattr(table, "iloc") else None
        columns = [table[name] if at is None else at[:, k] for k, name in enumerate(names)]
    named = dict(zip(map(str, names), columns, strict=True))
    if len(named) < len(names):
        raise InputError(f"two columns are named {_repeated(map(str, names))!r}; rename one")
    if not named:
        raise InputError("the table has no columns; pass at least one")
    return named


def _repeated(names: Any) -> str:
    return Counter(names).most_common(1)[0][0]


def nearest(name: str, names: Collection[str]) -> str:
    """Return which of some names is meant, and what there is, in a few words."""
    close = difflib.get_close_matches(name, list(names), 1)
    listed = ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "")
    return f"did you mean {close[0]!r}?" if close else f"there are: {listed}"
