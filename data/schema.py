"""Schemas: the attributes and arrays of each file format, declared once.

A format is a `Schema`: a rule for each attribute and a check of how they fit each other. Arrays
have an `ArrayRule`. Everything is held against them before memory is taken for it, so a file of a
stranger ends in one line. The numbers below are the limits of what is read.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxnn_numba.errors import BoxNNError

#: Most bytes of one file of metadata, and of the list of members of an archive.
MOST_METADATA = 16 * 2**20
#: Most bytes of a chunk, inflated, and its most rows.
MOST_CHUNK, MOST_CHUNK_ROWS = 512 * 2**20, 2**22
#: Most bytes of all arrays of a model together.
MOST_MODEL = 2**30
#: Most classes, features, sets of boxes, and rows of a split or a file.
MOST_CLASSES, MOST_FEATURES, MOST_MEMBERS, MOST_ROWS = 2**16, 2**23, 2**10, 2**31 - 1

#: Says what a value must be, or None where it is.
Rule = Callable[[Any], str | None]

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = 3


# --- rules of JSON values --------------------------------------------------------------


def _rule(said: str, fits: Callable[[Any], bool]) -> Rule:
    return lambda value: None if fits(value) else said


def whole(low: int, high: int) -> Rule:
    """Return the rule of whole numbers, both ends included."""
    return _rule(
        f"a whole number {low}..{high}", lambda value: type(value) is int and low <= value <= high
    )


def number(low: float = -math.inf) -> Rule:
    """Return the rule of finite numbers from `low` on."""

    def fits(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and value >= low

    return _rule(f"a number from {low:g} on" if low > -math.inf else "a number", fits)


def one_of(known: Collection[str]) -> Rule:
    """Return the rule of some texts."""
    return _rule(
        f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known
    )


def maybe(rule: Rule) -> Rule:
    """Return the rule of values that may be null."""
    return lambda value: None if value is None else rule(value)


def listed(rule: Rule, least: int = 0, most: int = MOST_ROWS, differ: bool = False) -> Rule:
    """Return the rule of lists, of values that `differ` where it says so."""
    said = f"a list of {least}..{most}" + (" different" if differ else "")

    def check(value: Any) -> str | None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            return f"{said} values"
        if wanted := next(filter(None, map(rule, value)), None):
            return f"{said} values, each {wanted}"
        return f"{said} values" if differ and len(set(value)) < len(value) else None

    return check


def mapped(rule: Rule) -> Rule:
    """Return the rule of objects with values by name."""

    def check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "an object"
        wanted = next(filter(None, map(rule, value.values())), None)
        return wanted and f"an object, each of its values {wanted}"

    return check


def record(rules: Mapping[str, Rule]) -> Rule:
    """Return the rule of objects whose values have rules of their own, as for `Schema`."""

    def check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "an object"
        wrong = problem(rules, value)
        return wrong and f"an object whose {wrong}"

    return check


_HEX = frozenset("0123456789abcdef")
TEXT = _rule("a text", lambda value: isinstance(value, str))
FLAG = _rule("true or false", lambda value: isinstance(value, bool))
OBJECT = _rule("an object", lambda value: isinstance(value, dict))
DIGEST = _rule(
    "a SHA-256 in hexadecimal digits",
    lambda value: isinstance(value, str) and len(value) == 64 and not set(value) - _HEX,
)
_LABEL = _rule(
    "a whole number, a text, true or false",
    lambda value: isinstance(value, str | bool) or (type(value) is int and abs(value) < 10**100),
)
CLASSES = listed(_LABEL, 1, MOST_CLASSES, differ=True)
#: Those of a dataset, of which no row may have a label.
LABELS = listed(_LABEL, 0, MOST_CLASSES, differ=True)
COLUMNS = listed(
    record(
        {"name": TEXT, "kind": TEXT, "categories?": listed(TEXT, differ=True), "missing?": FLAG}
    ),
    1,
    MOST_FEATURES,
)


_NUMBER = _rule("a number", lambda value: type(value) in (int, float))
_WORDS = _rule(
    "a text, or a list of them",
    lambda value: isinstance(value, str) or not listed(TEXT)(value),
)
#: How a table was read, and how a model was trained: what is read of them again.
TABLE = mapped(maybe(_WORDS))
TRAINING = record({
    "history?": maybe(listed(mapped(maybe(_NUMBER)))),
    "members?": maybe(_rule("a number, or a list", lambda value: isinstance(value, int | list))),
    "table?": maybe(TABLE),
    "columns?": maybe(COLUMNS),
    "options?": maybe(OBJECT),
})  # fmt: skip


def FEATURE_SHAPE(value: Any) -> str | None:  # noqa: N802  # a rule like those above
    """Return a problem with the shape of a sample, or None."""
    said = f"the sizes of a sample, of at most {MOST_FEATURES} features"
    if listed(whole(1, MOST_FEATURES), 1, 16)(value):
        return said
    return None if math.prod(value) <= MOST_FEATURES else said


def problem(rules: Mapping[str, Rule], values: Mapping[str, Any]) -> str | None:
    """Return the first value that is missing or not as its rule says; None where all are."""
    for key, rule in rules.items():
        name = key.rstrip("?")
        if name not in values:
            if not key.endswith("?"):
                return f"{name} is missing"
        elif wanted := rule(values[name]):
            return f"{name} is {_SHORT.repr(values[name])}; it must be {wanted}"
    return None


# --- what a format has -----------------------------------------------------------------


@dataclass(frozen=True)
class Schema:
    """The schema of a file format: attributes and arrays.

    Attributes
    ----------
    format, version
        Their attributes of that name; of versions the newest that is read.
    error, remedy
        The type of error to raise, and what can be done about a damaged file.
    attributes
        The rule of each attribute; ``?`` ends the name of one that may be missing. Others are left
        alone.
    check
        Returns how attributes that are all as their rules say do not fit each other, or None.
    sparse
        Whether chunks of nothing but the fill value may be missing, where ``finished`` has theirs.
    """

    format: str
    version: int
    error: type[BoxNNError]
    remedy: str
    attributes: Mapping[str, Rule]
    check: Callable[[Mapping[str, Any]], str | None] = lambda attributes: None
    sparse: bool = False

    @property
    def noun(self) -> str:
        """Name of files of this format."""
        return self.format.removeprefix("boxnn-")

    def problem(self, attributes: Mapping[str, Any]) -> str | None:
        """Return a problem with the attributes of a file, or None."""
        return problem(self.attributes, attributes) or self.check(attributes)


@dataclass(frozen=True)
class ArrayRule:
    """What an array is like.

    Attributes
    ----------
    dims
        Names of its sizes, as the docs write them: arrays of a file with the same name have the
        same size.
    dtypes
        Types that it may have.
    low, high
        Its least value, and the name of its largest in the `bounds` of a file; None where any is
        right.
    """

    dims: tuple[str, ...]
    dtypes: tuple[str, ...]
    low: int | None = None
    high: str | None = None

    def problem(self, shape: tuple[int, ...], dtype: str, sizes: dict[str, int]) -> str | None:
        """Return a problem with a stored array, or None; record new sizes."""
        if len(shape) != len(self.dims) or any(
            not 0 <= found <= MOST_ROWS or sizes.setdefault(name, found) != found
            for name, found in zip(self.dims, shape, strict=False)
        ):
            wanted = f"({', '.join(self.dims)}{',' * (len(self.dims) == 1)})"
            return f"has shape {shape}, not {wanted} with {sizes}"
        if dtype not in self.dtypes:
            return f"has type {dtype}, not {' or '.join(self.dtypes)}"
        return None

    def range_problem(
        self, values: np.ndarray, bounds: Mapping[str, float], first: int = 0
    ) -> str | None:
        """Return which of some values, the rows from `first` on, is out of range, or None."""
        if self.low is None or not values.size:
            return None
        low, high = self.low, math.inf if self.high is None else bounds[self.high]
        # Written so that NaN is out of range.
        if low <= values.min() and values.max() <= high:
            return None
        row = int(np.argwhere(~((values >= low) & (values <= high)))[0][0])
        wanted = f"at least {low}" if self.high is None else f"{low}..{high}"
        found = values[row] if values.ndim == 1 else "out of range"
        return f"is {found} in row {first + row}; it must be {wanted}"
