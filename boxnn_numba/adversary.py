"""Adversary: which groups of features may be rewritten, what that costs, and how many were."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from boxnn_numba import validation
from boxnn_numba.classifier import Classifier, group_count
from boxnn_numba.columns import nearest
from boxnn_numba.errors import OptionError

if TYPE_CHECKING:
    from boxnn_numba.columns import Columns

#: Most units that the costs of all groups may add up to; a float64 holds far larger whole numbers.
_MOST_UNITS = 10**9
#: Costs whose sums a float64 holds with all its digits.
_LEAST, _MOST = Fraction(1, 10**100), Fraction(10**100)
#: An exponent so large that a Fraction would take too long to write out its digits.
_FAR = re.compile(r"[\d.]e[+-]?[\d_]{5}", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Adversary:
    """An adversary: which groups of features it may rewrite, and at what cost.

    Costs are read as decimal numbers (0.1 is exactly a tenth) and kept as whole multiples of their
    largest common unit, so that sums of costs are exact.

    Attributes
    ----------
    free
        (G,) bool, groups that may be rewritten.
    cost
        (G,) int64, cost of rewriting each group, in units; 1 for each where no costs are given.
    unit
        Value of one unit of cost; None where no costs are given, and a radius counts groups.
    """

    free: np.ndarray
    cost: np.ndarray
    unit: Fraction | None = None

    @classmethod
    def of(
        cls,
        model: Classifier,
        attackable: Sequence[str | int] | np.ndarray | None = None,
        costs: Mapping[str, float] | Sequence[float] | np.ndarray | None = None,
    ) -> Adversary:
        """Make the adversary of a model from attackable columns and costs.

        Parameters
        ----------
        model
            The model under attack. Its columns give the names that may be used below.
        attackable
            Names of columns, or numbers of groups 0..G-1, or a mask of them, (G,) bool or for
            images (height, width); all by default. A column of a group stands for the group.
        costs
            A positive number for each group (G,), or for each column that may be rewritten by its
            name: a mapping, or a pandas Series with names.

        Raises
        ------
        OptionError
            `attackable` is empty, a name or number is unknown, a cost is missing or not positive,
            or the costs have so many digits that they add up to too many common units.
        """
        free = np.ones(group_count(model), np.bool_)
        if attackable is not None:
            free[:] = False
            free[_numbers(model, attackable)] = True
        if costs is None:
            return cls(free, free.astype(np.int64))
        shares = [Fraction(0)] * len(free)
        for group, share in _shares(model, costs).items():
            shares[group] = share
        missing = [group for group in np.flatnonzero(free).tolist() if not shares[group]]
        if missing:
            raise OptionError(
                f"`costs` has none for {_name(model, missing[0])}; give it one, or name in "
                "`attackable` the columns that may be rewritten"
            )
        paid = [shares[group] for group in np.flatnonzero(free)]
        whole = math.lcm(*(share.denominator for share in paid))
        units = [int(share * whole) for share in paid]
        unit = Fraction(math.gcd(*units), whole)
        if sum(paid) / unit > _MOST_UNITS:
            raise OptionError(
                f"`costs` add up to {float(sum(paid) / unit):.2g} of their largest common unit, "
                f"{float(unit):g}; round them, so that there are at most {_MOST_UNITS:,}"
            )
        cost = np.zeros(len(free), np.int64)
        cost[free] = [int(share / unit) for share in paid]
        return cls(free, cost, unit)

    @classmethod
    def of_file(cls, model: Classifier, said: Mapping[str, Any]) -> Adversary:
        """Return the adversary that the attributes of a file describe, see `attributes`."""
        costs = said.get("costs")
        filled = None if costs is None else [1 if one is None else one for one in costs]
        return cls.of(model, said.get("attackable"), filled)

    @property
    def count(self) -> int:
        """Number |A| of groups that may be rewritten."""
        return int(self.free.sum())

    @property
    def is_anyone(self) -> bool:
        """Whether all groups may be rewritten, and only their number counts."""
        return self.unit is None and bool(self.free.all())

    @cached_property
    def price(self) -> np.ndarray:
        """(A + 2,) int64, the least cost of k groups; the last is one more than the cost of all."""
        paid = np.cumsum(np.sort(self.cost[self.free]))
        return np.concatenate([[0], paid, [paid[-1] + 1]])

    def paid(self, x: np.ndarray, other: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return the cost (N,) in units of changing each sample of `x` (N, n) into that of `other`.

        `groups` (n,) are the groups of the features of a model.
        """
        return np.asarray(differing_groups(x, other, groups) @ self.cost)

    def least(self, count: np.ndarray) -> np.ndarray:
        """Return the least cost, in units, of `count` groups.

        For more groups than may be rewritten it is one unit more than the cost of all.
        """
        return np.asarray(self.price[np.minimum(count, self.count + 1)])

    def radius(self, bound: Any) -> np.ndarray:
        """Return radii (N,) from lower bounds (N,) on the cost of an attack, in units.

        A radius is the most that may be spent below the bound: without costs a number of groups
        (int32), with costs a budget (float64). A budget is rounded to the nearest float64. That is
        far finer than the steps between sums of costs, so comparing with it decides as the exact
        value does.
        """
        spent = np.asarray(bound) - 1
        if self.unit is None:
            return np.asarray(spent.astype(np.int32))
        if self.unit.numerator * _MOST_UNITS >= 2**53 or self.unit.denominator >= 2**53:
            exact = [float(Fraction(int(one)) * self.unit) for one in spent.ravel()]
            return np.array(exact).reshape(spent.shape)
        return np.asarray(spent * self.unit.numerator / self.unit.denominator)  # exact product

    def features(self, groups: np.ndarray) -> np.ndarray:
        """Return (n,) bool, features that may be rewritten; `groups` (n,) are those of a model."""
        return np.asarray(self.free[groups])

    def attributes(self) -> dict[str, Any]:
        """Return its file attributes, attackable groups and costs; empty if neither was given."""
        if self.is_anyone:
            return {}
        said: dict[str, Any] = {}
        if not self.free.all():
            said["attackable"] = np.flatnonzero(self.free).tolist()
        if self.unit is not None:
            said["costs"] = [
                float(int(units) * self.unit) if free else None
                for units, free in zip(self.cost, self.free, strict=True)
            ]
        return said


def unit_name(feature_shape: Sequence[int], groups: int) -> str:
    """Return the unit of radii that count groups: ``"pixels"`` for images, else ``"features"``."""
    shape = tuple(feature_shape)
    pixels = len(shape) in (2, 3) and shape[0] * shape[1] == groups
    return "pixels" if pixels else "features"


def groups_changed(x: np.ndarray, other: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return how many groups of features differ between samples (N, n), row by row.

    groups are (n,) numbers 0..G-1.
    """
    return np.asarray(differing_groups(x, other, groups).sum(axis=1))


def differing_groups(x: np.ndarray, other: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (N, G) bool, groups of features that differ between samples (N, n), row by row."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    return np.asarray(np.logical_or.reduceat((x != other)[:, order], starts, axis=1))


def _columns(model: Classifier) -> Columns | None:
    found: Columns | None = getattr(model, "columns", None)
    return found


def _names(model: Classifier) -> list[str]:
    """Return the names of columns that a model knows."""
    columns = _columns(model)
    return [] if columns is None else columns.names


def _name(model: Classifier, group: int) -> str:
    """Return the name of a group for messages."""
    columns, first = _columns(model), int((model.groups == group).argmax())
    return f"column {group}" if columns is None else f"column {columns.names[first]!r}"


def _numbers(model: Classifier, named: Any) -> list[int]:
    """Return the numbers of the groups that `attackable` names."""
    given = np.asarray(named)
    if given.dtype == np.bool_ and validation.has_names(named, _names(model)):
        given = np.asarray(named.index)[given]
    elif given.dtype == np.bool_ and given.ndim:
        groups, image = group_count(model), tuple(model.feature_shape or ())[:2]
        shapes = [(groups,), *([image] if math.prod(image) == groups else [])]
        if given.shape not in shapes:
            raise OptionError(
                f"`attackable` is a mask of shape {given.shape}; pass one of "
                f"{' or '.join(map(str, dict.fromkeys(shapes)))}"
            )
        given = np.flatnonzero(given)
    if isinstance(named, str) or given.ndim != 1:
        raise OptionError(f"`attackable` is {reprlib.repr(named)}; pass a list of columns")
    if len(given) == 0:
        raise OptionError("`attackable` is empty; name at least one column")
    return [_number(model, one, "attackable") for one in given.tolist()]


def _number(model: Classifier, one: Any, what: str) -> int:
    """Return the number of a group from the name of a column, or from a number (also as text)."""
    columns, groups, text = _columns(model), group_count(model), str(one)
    if columns is not None and text in columns.names:
        return int(model.groups[columns.position(text)])
    whole = text.removeprefix("-").isdecimal() and not isinstance(one, bool | float)
    # Of thousands of digits Python makes no number.
    if whole and len(text) < 20 and 0 <= int(text) < groups:
        return int(text)
    if columns is not None and not whole:
        raise OptionError(
            f"`{what}` has {one!r}, which is no column; {nearest(text, columns.names)}"
        )
    raise OptionError(
        f"`{what}` has {one!r}; pass numbers 0..{groups - 1}"
        + ("" if columns is None else " or names")
        + ("" if columns is not None or whole else ": the model knows no names of columns")
    )


def _shares(model: Classifier, costs: Any) -> dict[int, Fraction]:
    """Return the cost of each group that `costs` names."""
    if validation.has_names(costs, _names(model)):
        named = [(str(name), _number(model, name, "costs"), value) for name, value in costs.items()]
    else:
        values = np.asanyarray(costs)  # a masked cost is none
        groups = group_count(model)
        if values.shape != (groups,):
            raise OptionError(
                f"`costs` has shape {values.shape}; pass {groups} numbers, one for each group, or "
                "a mapping from names to numbers"
            )
        # 0.1 of 32 bits is written as 0.1; as a float of Python it is 0.10000000149011612.
        short = values.dtype.kind == "f" and values.dtype.itemsize < 8
        numbers = map(str, values) if short else values.tolist()
        named = [(_name(model, group), group, one) for group, one in enumerate(numbers)]
    found: dict[int, Fraction] = {}
    for name, group, value in named:
        share = _share(name, value)
        if found.setdefault(group, share) != share:
            raise OptionError(
                f"`costs` of {name} is {value}, and another column that is rewritten with it costs "
                f"{float(found[group]):g}; give them one cost"
            )
    return found


def _share(name: str, value: Any) -> Fraction:
    """Return a cost as a decimal number: 0.1 is exactly a tenth."""
    far = OptionError(f"`costs` of {name} is {value!r}; it must be within 1e-100 and 1e100")
    if _FAR.search(str(value)):
        raise far
    try:
        share = None if isinstance(value, bool) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        share = None
    if share is None or share <= 0:
        raise OptionError(f"`costs` of {name} is {value!r}; it must be a number above 0")
    if not _LEAST <= share <= _MOST:
        raise far
    return share
