"""What the package computes, loop by loop: slow, readable, and without any of the package's code.

Everything takes lists or arrays and works on Python numbers, so that nothing can wrap around,
overflow or be rounded but the floats that the definitions themselves have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = Any
UNREACHABLE = 2**31 - 1


# --- distances -----------------------------------------------------------------------------


def penalty(x: float, lower: float, upper: float, width: float) -> float:
    """min(max(lower - x, x - upper, 0), width)."""
    outside = 0
    if x < lower:
        outside = lower - x
    elif x > upper:
        outside = x - upper
    return outside if outside < width else width


def penalty_l1(x: float, lower: float, upper: float, width: float) -> float:
    """Eq. (26)."""
    return abs(x - lower) + abs(x - upper)


def penalty_l2(x: float, lower: float, upper: float, width: float) -> float:
    """Eq. (27)."""
    return (x - lower) ** 2 + (x - upper) ** 2


PENALTIES = {"graded": penalty, "l1": penalty_l1, "l2": penalty_l2}


def distances(
    x: Rows, lower: Rows, upper: Rows, width: float, kind: str = "graded"
) -> list[list[Any]]:
    """(N, M) distances in units."""
    one = PENALTIES[kind]
    x, lower, upper = (np.asarray(rows).tolist() for rows in (x, lower, upper))
    return [
        [
            sum(one(code, a, b, width) for code, a, b in zip(row, low, high, strict=True))
            for low, high in zip(lower, upper, strict=True)
        ]
        for row in x
    ]


def class_distances(
    distance: Rows, labels: Sequence[int], n_classes: int, empty: int = UNREACHABLE
) -> list[list[int]]:
    """(N, K) distances to the nearest box of each class."""
    result = []
    for row in np.asarray(distance).tolist():
        nearest = [empty] * n_classes
        for value, label in zip(row, labels, strict=True):
            nearest[label] = min(nearest[label], value)
        result.append(nearest)
    return result


def part_distances(
    x: Rows, lower: Rows, upper: Rows, width: int, part: Sequence[int], group: Sequence[int]
) -> list[list[list[int]]]:
    """(N, P, M) distances in units, part by part; the penalty of a group is capped as a whole."""
    result = []
    for row in np.asarray(x).tolist():
        parts: list[list[int]] = [[] for _ in range(max(part) + 1)]
        for low, high in zip(np.asarray(lower).tolist(), np.asarray(upper).tolist(), strict=True):
            excess: dict[tuple[int, int], int] = {}
            for k, code in enumerate(row):
                key = part[k], group[k]
                excess[key] = excess.get(key, 0) + penalty(code, low[k], high[k], 10**6)
            for p in range(len(parts)):
                found = [min(total, width) for (of, _), total in excess.items() if of == p]
                parts[p].append(sum(found))
        result.append(parts)
    return result


def factored_distances(
    parts: Rows,
    labels: Sequence[int],
    template: Sequence[int],
    n_classes: int,
    empty: int = UNREACHABLE,
) -> list[list[int]]:
    """(N, K) class distances: least over rows in a part, sum over parts, least over templates."""
    result = []
    for row in np.asarray(parts).tolist():
        nearest = [empty] * n_classes
        for t in set(template):
            rows = [m for m, of in enumerate(template) if of == t]
            total = sum(min(of_part[m] for m in rows) for of_part in row)
            c = labels[rows[0]]
            nearest[c] = min(nearest[c], total)
        result.append(nearest)
    return result


# --- certificates --------------------------------------------------------------------------


def predict(row: Sequence[int]) -> int:
    """The nearest class, the first of those at the same distance."""
    best = 0
    for c, value in enumerate(row):
        if value < row[best]:
            best = c
    return best


def beats(row: Sequence[int], winner: int, rival: int, units: int) -> bool:
    """Whether `winner` stays ahead when an adversary may move every distance by `units`."""
    ahead, behind = row[winner] + units, row[rival] - units
    return ahead < behind or (ahead == behind and winner < rival)


def certificate(
    row: Sequence[int], width: int, group_size: int = 1, convention: str = "sound", limit: int = 999
) -> tuple[int, int]:
    """Prediction and the largest radius at which no rival can overtake, found by trying all."""
    winner = predict(row)
    rivals = [c for c in range(len(row)) if c != winner]
    radius = 0
    while radius < limit:
        units = (radius + 1) * width * group_size
        if convention == "paper":  # margin / 2 >= r, whoever wins a tie
            holds = all(row[c] - row[winner] >= 2 * units for c in rivals)
        else:
            holds = all(beats(row, winner, c, units) for c in rivals)
        if not holds:
            break
        radius += 1
    return winner, radius


def accuracy_at(prediction: Rows, radius: Rows, y: Rows, at: int) -> float:
    """Fraction that is right and certified at a radius."""
    good = [p == t and r >= at for p, r, t in zip(prediction, radius, y, strict=True)]
    return sum(good) / len(good)


def median_radius(prediction: Rows, radius: Rows, y: Rows) -> int:
    """Largest radius at which certified accuracy is at least one half, -1 if there is none."""
    median = -1
    for at in range(max(radius) + 1):
        if accuracy_at(prediction, radius, y, at) >= 0.5:
            median = at
    return median


def perturbations(
    x: Sequence[int], radius: int, values: Sequence[Sequence[int]], groups: Sequence[Sequence[int]]
) -> Iterator[list[int]]:
    """Every rewriting of at most `radius` groups of features with the given values."""
    for chosen in itertools.combinations(groups, min(radius, len(groups))):
        features = [feature for group in chosen for feature in group]
        for codes in itertools.product(*(values[feature] for feature in features)):
            changed = list(x)
            for feature, code in zip(features, codes, strict=True):
                changed[feature] = code
            yield changed


# --- training ------------------------------------------------------------------------------


@dataclass
class Setting:
    """What the objective of a sample depends on; lengths in codes, distances in features."""

    softmin: str = "boltzmann"
    tau: float = 1.0
    objective: str = "clip"
    beta: float = 50.0
    radius: int = 10
    sharpness: float = 12.0
    keep: float = 0.0
    relaxation: str = "graded"
    width: int = 255
    leak: float = 0.0

    @property
    def unit(self) -> float:
        """Distance of one unit of penalty."""
        return {"graded": 1 / self.width, "l1": 1 / 255, "l2": 1 / 255**2}[self.relaxation]


def softmin(d: Sequence[float], kind: str, tau: float) -> float:
    """Smooth minimum of distances."""
    least = min(d)
    if kind == "hard":
        return least
    if kind == "mean":
        return sum(d) / len(d)
    weights = [math.exp(-tau * (value - least)) for value in d]
    if kind == "logsumexp":
        return least - math.log(sum(weights)) / tau
    return sum(w * value for w, value in zip(weights, d, strict=True)) / sum(weights)


def softmin_slopes(d: Sequence[float], kind: str, tau: float) -> list[float]:
    """Derivative of `softmin` with respect to each distance; ties of "hard" share it."""
    least = min(d)
    if kind == "hard":
        ties = [value == least for value in d]
        return [tie / sum(ties) for tie in ties]
    if kind == "mean":
        return [1 / len(d)] * len(d)
    weights = [math.exp(-tau * (value - least)) for value in d]
    shares = [w / sum(weights) for w in weights]
    if kind == "logsumexp":
        return shares
    mean = softmin(d, kind, tau)
    return [w * (1 - tau * (value - mean)) for w, value in zip(shares, d, strict=True)]


def worth(margin: float, setting: Setting) -> float:
    """Objective of a margin (without the sign of the paper's)."""
    if setting.objective == "target":
        z = (margin - 2 * setting.radius) / setting.sharpness
        kept = setting.keep * min(margin, 2 * setting.radius)
        return 4 * setting.sharpness / (1 + math.exp(-z)) + kept
    return min(margin, setting.beta)


def worth_slope(margin: float, setting: Setting) -> float:
    """Derivative of `worth`."""
    if setting.objective == "target":
        z = (margin - 2 * setting.radius) / setting.sharpness
        kept = setting.keep * (margin < 2 * setting.radius)
        return 4 / ((1 + math.exp(-z)) * (1 + math.exp(z))) + kept
    return 1.0 if margin < setting.beta else 0.0


def own_class(d: Sequence[float], labels: Sequence[int], label: int, kind: str) -> tuple[int, int]:
    """Class whose margin counts, and its sign."""
    if kind != "paper":
        return label, 1
    predicted = labels[predict(d)]  # type: ignore[arg-type]
    return predicted, (1 if predicted == label else -1)


def sample_objective(
    d: Sequence[float], labels: Sequence[int], label: int, setting: Setting
) -> tuple[float, float]:
    """Objective and soft margin of one sample at distances d (in features)."""
    own, sign = own_class(d, labels, label, setting.objective)
    mine = [value for value, of in zip(d, labels, strict=True) if of == own]
    rest = [value for value, of in zip(d, labels, strict=True) if of != own]
    soft = [softmin(part, setting.softmin, setting.tau) for part in (rest, mine)]
    margin = soft[0] - soft[1]
    return sign * worth(margin, setting), margin


def sample_coefficients(
    d: Sequence[float], labels: Sequence[int], label: int, setting: Setting
) -> list[float]:
    """Derivative of a sample's objective with respect to its distance to every box."""
    own, sign = own_class(d, labels, label, setting.objective)
    _, margin = sample_objective(d, labels, label, setting)
    result = [0.0] * len(d)
    for direction, inside in ((-1, True), (1, False)):
        members = [m for m, of in enumerate(labels) if (of == own) == inside]
        slopes = softmin_slopes([d[m] for m in members], setting.softmin, setting.tau)
        for m, slope in zip(members, slopes, strict=True):
            result[m] = sign * direction * worth_slope(margin, setting) * slope
    return result


def scaled_distances(x: Rows, lower: Rows, upper: Rows, setting: Setting) -> list[list[float]]:
    """Distances in features, of any real-valued boxes."""
    units = distances(x, lower, upper, setting.width, setting.relaxation)
    return [[setting.unit * value for value in row] for row in units]


def batch_objective(x: Rows, y: Rows, lower: Rows, upper: Rows, labels: Any, setting: Any) -> float:
    """Sum of the objectives of a batch, as a function of real-valued boxes."""
    rows = scaled_distances(x, lower, upper, setting)
    pairs = zip(rows, y, strict=True)
    return sum(sample_objective(d, labels, int(label), setting)[0] for d, label in pairs)


def penalty_slope(t: float, setting: Setting) -> float:
    """Derivative of a penalty f(t) + f(-t - side) in t = lower - x or x - upper, in units."""
    if setting.relaxation == "l1":
        return float(np.sign(t))
    if setting.relaxation == "l2":
        return 2 * t
    if t <= 0:
        return 0.0
    return 1.0 if t <= setting.width else setting.leak


def batch_gradient(
    x: Rows, y: Rows, lower: Rows, upper: Rows, labels: Any, setting: Setting
) -> tuple[np.ndarray, np.ndarray]:
    """Derivative of `batch_objective` per code of every bound (with the leak beyond the width)."""
    x, lower, upper = (np.asarray(rows, np.float64) for rows in (x, lower, upper))
    gradient = np.zeros(lower.shape), np.zeros(upper.shape)
    rows = scaled_distances(x, lower, upper, setting)
    for row, d, label in zip(x, rows, y, strict=True):
        for m, c in enumerate(sample_coefficients(d, labels, int(label), setting)):
            for k, code in enumerate(row):
                below = penalty_slope(lower[m, k] - code, setting)
                above = penalty_slope(code - upper[m, k], setting)
                gradient[0][m, k] += c * setting.unit * below
                gradient[1][m, k] -= c * setting.unit * above
    return gradient


@dataclass
class Factors:
    """Template of each box, part and group of each feature."""

    template: Sequence[int]
    part: Sequence[int]
    group: Sequence[int]


def _factored_pieces(
    row: Sequence[float], lower: Rows, upper: Rows, factors: Factors, setting: Setting
) -> tuple[list[list[float]], list[float]]:
    """Part distances (M, P) of a sample in features, and its soft distance to every template."""
    parts = max(factors.part) + 1
    apart = [[0.0] * parts for _ in factors.template]
    for m in range(len(apart)):
        for g in set(factors.group):
            inside = [k for k, of in enumerate(factors.group) if of == g]
            excess = sum(penalty(row[k], lower[m][k], upper[m][k], 10**9) for k in inside)
            apart[m][factors.part[inside[0]]] += setting.unit * min(excess, setting.width)
    soft = []
    for t in range(max(factors.template) + 1):
        rows = [m for m, of in enumerate(factors.template) if of == t]
        columns = ([apart[m][p] for m in rows] for p in range(parts))
        soft.append(sum(softmin(column, setting.softmin, setting.tau) for column in columns))
    return apart, soft


def factored_objective(
    row: Sequence[float],
    label: int,
    lower: Rows,
    upper: Rows,
    labels: Sequence[int],
    factors: Factors,
    setting: Setting,
) -> tuple[float, float]:
    """Objective and soft margin of one sample, of boxes that recombine part by part."""
    lower, upper = np.asarray(lower).tolist(), np.asarray(upper).tolist()
    _, soft = _factored_pieces(row, lower, upper, factors, setting)
    return sample_objective(soft, _template_labels(labels, factors), label, setting)


def _template_labels(labels: Sequence[int], factors: Factors) -> list[int]:
    return [labels[factors.template.index(t)] for t in range(max(factors.template) + 1)]


def factored_gradient(
    x: Rows, y: Rows, lower: Rows, upper: Rows, labels: Any, factors: Factors, setting: Setting
) -> tuple[np.ndarray, np.ndarray]:
    """Derivative per code of every bound of the sum of `factored_objective`, by the chain rule."""
    x, lower, upper = (np.asarray(rows, np.float64).tolist() for rows in (x, lower, upper))
    gradient = np.zeros(np.shape(lower)), np.zeros(np.shape(upper))
    of_templates = _template_labels(labels, factors)
    for row, label in zip(x, np.asarray(y).tolist(), strict=True):
        apart, soft = _factored_pieces(row, lower, upper, factors, setting)
        outer = sample_coefficients(soft, of_templates, label, setting)
        for t, p in itertools.product(range(len(outer)), range(max(factors.part) + 1)):
            rows = [m for m, of in enumerate(factors.template) if of == t]
            inner = softmin_slopes([apart[m][p] for m in rows], setting.softmin, setting.tau)
            for m, share in zip(rows, inner, strict=True):
                for k in (k for k, of in enumerate(factors.part) if of == p):
                    inside = [j for j, g in enumerate(factors.group) if g == factors.group[k]]
                    excess = sum(penalty(row[j], lower[m][j], upper[m][j], 10**9) for j in inside)
                    slope = setting.unit * (1.0 if excess <= setting.width else setting.leak)
                    gradient[0][m, k] += outer[t] * share * slope * (row[k] < lower[m][k])
                    gradient[1][m, k] -= outer[t] * share * slope * (row[k] > upper[m][k])
    return gradient


def numerical_gradient(
    function: Callable[[np.ndarray, np.ndarray], float],
    lower: Rows,
    upper: Rows,
    step: float = 1e-4,
    growing: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Finite differences in every bound: central, or towards the larger box.

    At whole codes a graded penalty has its kinks; growing the box stays on the side that the
    straight-through gradient stands for (inside the box no pull, at the width still full pull).
    """
    bounds = [np.asarray(lower, np.float64), np.asarray(upper, np.float64)]
    result = np.zeros(bounds[0].shape), np.zeros(bounds[1].shape)
    for side, outwards in enumerate((-1.0, 1.0)):
        for index in np.ndindex(bounds[side].shape):
            moved = []
            for sign in (outwards, 0.0 if growing else -outwards):
                copy = [bounds[0].copy(), bounds[1].copy()]
                copy[side][index] += sign * step
                moved.append(function(copy[0], copy[1]))
            result[side][index] = (moved[0] - moved[1]) / (
                outwards * step if growing else 2 * outwards * step
            )
    return result


def settled(lower: Rows, upper: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Master bounds kept inside the codes; crossed ones meet half way. float32."""
    low = np.clip(np.asarray(lower, np.float64), 0, 255)
    high = np.clip(np.asarray(upper, np.float64), 0, 255)
    middle = (low + high) / 2
    crossed = low > high
    low, high = np.where(crossed, middle, low), np.where(crossed, middle, high)
    return low.astype(np.float32), high.astype(np.float32)


def rounded(master: np.ndarray) -> np.ndarray:
    """Codes of master bounds: the nearest, halves up."""
    return np.floor(master.astype(np.float64) + 0.5).astype(np.uint8)
