"""Explanations: nearest boxes in raw values, the cost of each column, and the smallest change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from boxnn_numba import validation
from boxnn_numba.adversary import Adversary, groups_changed, unit_name
from boxnn_numba.attacks.greedy import greedy_attack
from boxnn_numba.certificates.exact import exact_radius, precise_rows
from boxnn_numba.certificates.pairwise import pairwise_radius
from boxnn_numba.classifier import Classifier, group_count
from boxnn_numba.columns import Column
from boxnn_numba.distances import ensemble_distance
from boxnn_numba.errors import InputError
from boxnn_numba.rivals import assembled, nearest_rows
from boxnn_numba.text import exact, printable

#: Columns in the text of an explanation.
_MOST_LISTED = 12
#: Letters of a cell there.
_LONGEST = 36


class SmallestChanges(NamedTuple):
    """The smallest change found for each sample that gives it another prediction.

    Attributes
    ----------
    x_adv
        (N, n) changed samples, raw values or codes; the sample itself where none was found.
    touched
        (N, n) bool, features that the change rewrites.
    changed
        (N,) int32, how many features (or groups) that is, -1 where none was found.
    prediction
        (N,) labels of `x_adv`.
    proven
        (N,) bool, whether no smaller change exists (of those with -1: none at all).
    radius
        (N,) int32, certified radius: no change of so many features has an effect. With costs
        float64, the certified budget.
    spent
        (N,) like the radius, how many features are rewritten, or with costs what that costs; one
        unit more than all where none was found.
    """

    x_adv: np.ndarray
    touched: np.ndarray
    changed: np.ndarray
    prediction: np.ndarray
    proven: np.ndarray
    radius: np.ndarray
    spent: np.ndarray


def smallest_changes(
    model: Classifier,
    x: ArrayLike,
    time_limit: float = 5.0,
    seed: int = 0,
    *,
    attackable: Any = None,
    costs: Any = None,
) -> SmallestChanges:
    """Return the smallest change of each sample that is found to give another prediction.

    `greedy_attack` finds it; where the pairwise certificate does not prove that none is smaller,
    `exact_radius` settles it if it can. With costs that is the cheapest one; without `exact_radius`
    it is the smallest one found, whatever it costs.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        Samples, as for `BoxNN.encode`.
    time_limit
        Seconds for each sample that needs `exact_radius`; with 0 that is left out.
    seed
        Of the attack.
    attackable
        The only columns (or groups) that may change, by name or number; all by default.
    costs
        A positive number for each column (or group), or a mapping from names to numbers.

    Raises
    ------
    InputError
        As for `BoxNN.encode`, or the model has boxes of one class only.
    OptionError
        `time_limit` is below 0, or `attackable` or `costs` are wrong as for `Adversary.of`.
    """
    validation.real("time_limit", time_limit, 0)
    rows, who = precise_rows(model, x), {"attackable": attackable, "costs": costs}
    codes, adversary = model.encode(rows), Adversary.of(model, attackable, costs)

    def needed(found: np.ndarray) -> np.ndarray:
        """Return the units that it takes to make other samples: beyond all for the same ones."""
        after = model.encode(found)
        paid = adversary.paid(codes, after, model.groups)
        return np.where((codes != after).any(axis=1), paid, adversary.price[-1])

    found = greedy_attack(model, rows, seed=seed, attackable=attackable).x_adv.copy()
    radius = pairwise_radius(model, rows, **who).radius.copy()
    open_ = adversary.radius(needed(found)) > radius
    for i in np.flatnonzero(open_) if time_limit > 0 else ():
        settled = exact_radius(model, rows[i], time_limit, seed, **who)
        radius[i] = settled.lower
        if settled.adversarial is not None:
            found[i] = settled.adversarial
    after, units = model.encode(found), needed(found)
    touched = codes != after
    changed = groups_changed(codes, after, model.groups)
    count = np.where(touched.any(axis=1), changed, -1).astype(np.int32)
    return SmallestChanges(
        found, touched, count, model.predict(found), adversary.radius(units) == radius, radius,
        adversary.radius(units + 1),
    )  # fmt: skip


def column_importances(model: Classifier, x: ArrayLike, seed: int = 0) -> np.ndarray:
    """Return how often each column is part of the smallest change that is found, (n,) in 0..1.

    It is the share of the samples for which a change was found; a change of several columns counts
    for each of them, so the sum is the mean number of columns of a change. A column with 0 is one
    that an adversary of these samples has no need of. Parameters and errors are those of
    `smallest_changes`, whose changes these are without `exact_radius`.
    """
    rows = precise_rows(model, x)
    found = greedy_attack(model, rows, seed=seed)
    touched = model.encode(rows) != model.encode(found.x_adv)
    some = touched.any(axis=1)
    return np.asarray(touched[some].mean(axis=0) if some.any() else np.zeros(rows.shape[1]))


@dataclass(frozen=True)
class ColumnCost:
    """A column of a sample beside its two boxes.

    Attributes
    ----------
    name, value
        Of the column, and what the sample has there, as text.
    own, rival
        What the nearest box of the predicted class admits there, and that of the rival, as text.
    own_cost, rival_cost
        What the column adds to the distances to them, in units. Columns that are rewritten together
        add no more than the width, the first ones first.
    """

    name: str
    value: str
    own: str
    own_cost: int
    rival: str
    rival_cost: int


@dataclass(frozen=True)
class ColumnChange:
    """A column that a change rewrites, its value before and after, and what would do as well."""

    name: str
    before: str
    after: str
    admitted: str


@dataclass(frozen=True)
class Explanation:
    """Why a sample has its prediction, and what would change it; ``str()`` gives a readable text.

    Attributes
    ----------
    prediction, rival
        Predicted label, and the label of the class that limits the certified radius.
    radius
        Certified radius: no rewriting of so many columns changes the prediction. With costs, the
        certified budget.
    own_distance, rival_distance
        Distance to the nearest box of the prediction and of the rival, in units, with the offsets
        of the classes.
    unit
        Most units that one column adds: the width, times the number of sets of an ensemble.
    columns
        All columns, in order. With templates, a box is the nearest combination of rows. For an
        ensemble, boxes are those of the first set, and costs are sums over all sets.
    changes
        What the smallest change found rewrites; empty where none was found.
    count
        How many columns (or groups) that is, -1 where none was found.
    becomes
        The prediction after the change; None without a change.
    proven
        Whether no smaller change exists.
    noun
        Unit of the radius: "columns" for tables, else "features" or "pixels".
    limited
        Whether only some columns are attackable.
    spent
        What the smallest change costs, None without costs or a change.
    """

    prediction: Any
    rival: Any
    radius: float
    own_distance: int
    rival_distance: int
    unit: int
    columns: tuple[ColumnCost, ...]
    changes: tuple[ColumnChange, ...]
    count: int
    becomes: Any
    proven: bool
    noun: str = "columns"
    limited: bool = False
    spent: float | None = None

    def __str__(self) -> str:
        own, rival = self.own_distance / self.unit, self.rival_distance / self.unit
        lines = [
            f"{self.prediction}: {self._certified()}",
            f"distance {own:.2f} {self.noun} to the nearest box of {self.prediction}, {rival:.2f} "
            f"to that of {self.rival}",
            *self._table(),
            *self._change(),
        ]
        return printable("\n".join(lines))

    def _certified(self) -> str:
        if not self.radius:
            return f"not certified, rewriting one {self._noun.removesuffix('s')} may change that"
        if isinstance(self.radius, float):
            return (
                f"no rewriting of {self._noun} that costs up to {exact(self.radius)} changes that"
            )
        return f"no rewriting of {_counted(self.radius, self._noun)} changes that"

    @property
    def _noun(self) -> str:
        return f"attackable {self.noun}" if self.limited else self.noun

    def _table(self) -> list[str]:
        """Return lines on the columns that tell the boxes apart, the most telling first."""
        told = [one for one in self.columns if one.own_cost != one.rival_cost]
        if not told:
            return []
        told.sort(key=lambda one: -abs(one.rival_cost - one.own_cost))
        head = ("", "value", f"box of {self.prediction}", "cost", f"box of {self.rival}", "cost")
        rows = [
            [_short(cell) for cell in row]
            for row in [head]
            + [
                (one.name, one.value, one.own, f"{one.own_cost / self.unit:.2f}",
                 one.rival, f"{one.rival_cost / self.unit:.2f}")
                for one in told[:_MOST_LISTED]
            ]
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        rest = len(self.columns) - len(rows) + 1
        more = "cost the same" if len(told) <= _MOST_LISTED else "tell less"
        return [*lines, f"({rest} more {more})"] if rest else lines

    def _change(self) -> list[str]:
        if self.becomes is None:
            return ["no change has another label" if self.proven else "no change was found"]
        kind, price = "smallest change", ""
        if self.spent is not None:
            # The attack minds numbers of columns, and not what they cost.
            kind = "cheapest change" if self.proven else "a change"
            price = f" for {exact(self.spent)}"
        found = "" if self.proven or price else " found"
        lines = [f"{kind}{found}, of {_counted(self.count, self._noun)}{price}, to {self.becomes}:"]
        return lines + [f"  {one.name}: {one.before} -> {one.admitted}" for one in self.changes]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun if count != 1 else noun.removesuffix('s')}"


def explain(
    model: Classifier,
    x: ArrayLike,
    names: Sequence[str] | None = None,
    time_limit: float = 5.0,
    seed: int = 0,
    *,
    attackable: Any = None,
    costs: Any = None,
) -> list[Explanation]:
    """Explain predictions: nearest boxes in raw values, costs of columns, and smallest changes.

    Parameters
    ----------
    model
        The classifier, with boxes of two classes or more.
    x
        Samples, as for `BoxNN.encode`.
    names
        n names of features, where the model has no columns; "feature 0", ... by default.
    time_limit, seed, attackable, costs
        As for `smallest_changes`.

    Returns
    -------
    list of Explanation
        One for each sample.

    Raises
    ------
    InputError, OptionError
        As for `smallest_changes`, or `names` are not n.

    Examples
    --------
    >>> from boxnn_numba import Boxes, BoxNN
    >>> from boxnn_numba.certificates import explain
    >>> model = BoxNN(Boxes([[0] * 5, [200] * 5], [[50] * 5, [255] * 5], [0, 1], 100), ["a", "b"])
    >>> print(explain(model, [[25, 25, 90, 25, 255]])[0])
    a: no rewriting of 1 feature changes that
    distance 1.40 features to the nearest box of a, 4.00 to that of b
               value  box of a  cost  box of b    cost
    feature 0  25     0 to 50   0.00  200 to 255  1.00
    feature 1  25     0 to 50   0.00  200 to 255  1.00
    feature 3  25     0 to 50   0.00  200 to 255  1.00
    feature 4  255    0 to 50   1.00  200 to 255  0.00
    feature 2  90     0 to 50   0.40  200 to 255  1.00
    smallest change, of 2 features, to b:
      feature 0: 25 -> 200
      feature 1: 25 -> 200
    """
    rows = precise_rows(model, x)
    if len(rows) == 0:
        return []
    told = model_columns(model, names)
    change = smallest_changes(model, rows, time_limit, seed, attackable=attackable, costs=costs)
    codes = model.encode(rows)
    classes, distance = _two_classes(model, codes)
    labels, reach = np.asarray(model.classes), model.boxes.width * len(model.box_sets)
    bounds = []
    adding = np.zeros((2, *codes.shape), np.int64)
    for boxes in model.box_sets:
        nearest, _ = nearest_rows(codes, boxes, classes)
        bounds.append(np.stack([assembled(boxes, one) for one in nearest]))  # (N, C, 2, n)
        beyond = np.maximum(
            bounds[-1][:, :, 0].astype(int) - codes[:, None],
            codes[:, None].astype(int) - bounds[-1][:, :, 1],
        )
        adding += _capped(beyond, boxes.group, boxes.width).swapaxes(0, 1)
    unit = (
        "columns"
        if model.columns is not None
        else unit_name(model.feature_shape or (), group_count(model))
    )
    return [
        Explanation(
            labels[classes[i, 0]].item(), labels[classes[i, 1]].item(), change.radius[i].item(),
            int(distance[i, 0]), int(distance[i, 1]), reach,
            _costs(model, told, rows[i], bounds[0][i], adding[:, i]),
            _changes(model, told, rows[i], change, i), int(change.changed[i]),
            change.prediction[i].item() if change.changed[i] >= 0 else None,
            bool(change.proven[i]), unit, attackable is not None,
            None if costs is None or change.changed[i] < 0 else float(change.spent[i]),
        )
        for i in range(len(rows))
    ]  # fmt: skip


def model_columns(model: Classifier, names: Sequence[str] | None) -> Sequence[Column]:
    """Return the columns of a model; of one without, columns of given names, pixels or numbers."""
    if model.columns is not None:
        return list(model.columns)
    n = model.boxes.n_features
    if names is None:
        names = pixel_names(model) or [f"feature {k}" for k in range(n)]
    names = [str(name) for name in names]
    if len(names) != n:
        raise InputError(f"`names` are {len(names)} and the model has {n} features")
    return [Column(name) for name in names]


def pixel_names(model: Classifier) -> list[str] | None:
    """Return where each feature of images is; None if the model is not of images."""
    shape = tuple(model.feature_shape or ())
    if unit_name(shape, group_count(model)) != "pixels":
        return None
    axes = ("row", "column", "channel")[: 3 if shape[2:] > (1,) else 2]
    return [
        ", ".join(f"{axis} {at}" for axis, at in zip(axes, place, strict=False))
        for place in np.ndindex(shape)
    ]


def _two_classes(model: Classifier, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class and the rival that limits the margin (N, 2), and distances."""
    total = ensemble_distance(codes, model.box_sets, offset=model.offset).astype(np.int64)
    own = total.argmin(axis=1)
    slack = total - (np.arange(total.shape[1]) < own[:, None])
    slack[np.arange(len(codes)), own] = np.iinfo(np.int64).max
    found = np.stack([own, slack.argmin(axis=1)], axis=1)
    return found, np.take_along_axis(total, found, axis=1)


def _capped(beyond: np.ndarray, groups: np.ndarray, width: int) -> np.ndarray:
    """Return what features (..., n) add to a distance that are some codes beyond a box.

    Of a group the features add no more than the width, the first ones first.
    """
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], groups[order])  # of the group of each
    each = np.clip(beyond, 0, width)[..., order]
    until = np.cumsum(each, axis=-1)
    before = (until - each)[..., first]
    found = np.empty_like(each)
    upper, lower = (np.minimum(sums - before, width) for sums in (until, until - each))
    found[..., order] = upper - lower
    return found


def _costs(
    model: Classifier,
    told: Sequence[Column],
    row: np.ndarray,
    bounds: np.ndarray,
    costs: np.ndarray,
) -> tuple[ColumnCost, ...]:
    (own_low, own_high), (rival_low, rival_high) = bounds.tolist()
    return tuple(
        ColumnCost(
            column.name, value_text(model, column, row[k]),
            admitted(model, column, k, own_low[k], own_high[k]), int(costs[0, k]),
            admitted(model, column, k, rival_low[k], rival_high[k]), int(costs[1, k]),
        )
        for k, column in enumerate(told)
    )  # fmt: skip


def _changes(
    model: Classifier, told: Sequence[Column], row: np.ndarray, change: SmallestChanges, i: int
) -> tuple[ColumnChange, ...]:
    after, codes = change.x_adv[i], model.encode(change.x_adv[i : i + 1])[0].tolist()
    return tuple(
        ColumnChange(
            told[k].name, value_text(model, told[k], row[k]), value_text(model, told[k], after[k]),
            admitted(model, told[k], k, codes[k], codes[k]),
        )
        for k in np.flatnonzero(change.touched[i]).tolist()
    )  # fmt: skip


def value_text(model: Classifier, column: Column, value: Any) -> str:
    """Show a raw value or a code as a user writes it, numbers in six digits."""
    plain = model.grid is not None and column.kind == "number"
    return column.text(float(f"{value:.6g}" if plain else value))


def admitted(model: Classifier, column: Column, feature: int, lower: int, upper: int) -> str:
    """Describe the raw values, or codes, of a feature that lie within the bounds of a box."""
    if model.grid is not None:
        return model.grid.admitted(feature, lower, upper, column)
    return str(lower) if lower == upper else f"{lower} to {upper}"
