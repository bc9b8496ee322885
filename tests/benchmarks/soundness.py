"""Attack rows of random models of every kind; none may fall inside its certified radius.

`python tests/benchmarks/soundness.py --rows 1000000 --seed 0 --out FILE.json` makes small random
models (`benchmarks.soundness_cases`), certifies random rows of them by every certificate, and
attacks each row: by `greedy_attack` (and for patches by its blocks), by random rewritings and by
rewritings towards rows of other classes that use up the radius, and where a model has few inputs by
all of them. What is predicted after an attack is computed in NumPy by the definitions. A row that
falls inside its radius is an error; so are radii that are not margin <= pairwise <= exact.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.soundness_cases import KINDS, Case, differing, predicted

from boxnn_numba import __version__
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.backends.threads import limit_threads
from boxnn_numba.certificates import patch_certified
from boxnn_numba.certificates.exact import exact_radius

#: Rows of each model, and of these so many for which the exact radius is computed.
_ROWS, _EXACT = 1000, 4
#: Random rewritings of each row for each certificate, half of them towards another class.
_TRIES = 4
#: Rounds of the search that makes greedy attacks smaller, and places that are tried for patches.
_ROUNDS = 2
#: Seconds for an exact radius; where they do not suffice its lower bound is held against attacks.
_SECONDS = 1.0


@dataclass
class Count:
    """What became of the rows of one kind by one certificate.

    Attributes
    ----------
    kind, certificate
        Of model, and of radius.
    rows
        Rows that were attacked.
    certified
        Of these rows with a radius above 0, or a block that is withstood.
    inside
        Rows that fell inside the radius.
    met
        Rows that an attack has beaten by the least change outside it.
    """

    kind: str
    certificate: str
    rows: int = 0
    certified: int = 0
    inside: int = 0
    met: int = 0


class UnsoundError(AssertionError):
    """A row fell inside its radius: which, so that it can be looked at."""


# --- attacks ------------------------------------------------------------------------------------


def rewritten(
    case: Case, budget: np.ndarray, towards: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Return the rows, with groups rewritten that cost up to a budget (N,) together.

    Groups are drawn at random, or where a row that they are rewritten to is given, `towards` (N,)
    numbers of rows, mostly those that differ from it most.
    """
    x, groups = case.x, case.model.groups
    keys = rng.random((len(x), len(case.free)))
    values = case.pool[rng.integers(0, len(case.pool), x.shape), np.arange(x.shape[1])]
    if towards is not None:
        values = x[towards]
        codes = case.model.encode(x).astype(float)
        far = np.zeros_like(keys)
        for k, group in enumerate(groups.tolist()):
            far[:, group] += np.abs(codes[:, k] - codes[towards, k])
        keys -= far / (far.max() + 1) * rng.integers(1, 8)
    order = np.argsort(np.where(case.free, keys, np.inf), axis=1)
    spent = np.cumsum(np.where(case.free, case.cost, np.inf)[order], axis=1)
    chosen = np.zeros(keys.shape, bool)
    np.put_along_axis(chosen, order, spent <= budget[:, None], axis=1)
    return np.where(chosen[:, groups], values, x)


def patched(
    case: Case, size: tuple[int, int], towards: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Return the rows, with a block of pixels rewritten in each, at random or to other rows."""
    height, width = case.model.feature_shape[:2]  # type: ignore[index]
    pixel = np.arange(case.x.shape[1]) // (case.x.shape[1] // (height * width))
    y, x = (rng.integers(0, whole - side + 1, (len(case.x), 1))
            for whole, side in zip((height, width), size, strict=True))  # fmt: skip
    row, column = pixel // width, pixel % width
    inside = (row >= y) & (row < y + size[0]) & (column >= x) & (column < x + size[1])
    values = case.pool[rng.integers(0, len(case.pool), case.x.shape), np.arange(case.x.shape[1])]
    return np.where(inside, values if towards is None else case.x[towards], case.x)


def _others(before: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return for each row the number of one of another class, or of any where there is none."""
    found = rng.integers(0, len(before), (8, len(before)))
    differs = before[found] != before
    return np.asarray(found[differs.argmax(axis=0), np.arange(len(before))])


# --- what is held against them --------------------------------------------------------------------


def _step(case: Case) -> float:
    """Return the largest number of which all costs are multiples."""
    return float(np.gcd.reduce((case.cost[case.free] * 4).astype(int))) / 4


def _least(case: Case, before: np.ndarray) -> np.ndarray:
    """Return (N,) the least cost at which an attack is known: by the greedy one, or of all inputs.

    Infinite where there is none.
    """
    found = greedy_attack(case.model, case.x, attackable=case.who.get("attackable"), tries=_ROUNDS)
    changed = differing(case, case.x, found.x_adv)
    paid = np.where(changed, np.where(case.free, case.cost, np.inf), 0).sum(axis=1)
    least = np.where(predicted(case.model, found.x_adv) != before, paid, np.inf)
    if case.every is not None:
        answers = predicted(case.model, case.every)
        for i, row in enumerate(case.x):
            flips = case.every[answers != before[i]]
            if len(flips):
                changed = differing(case, np.broadcast_to(row, flips.shape), flips)
                paid = np.where(changed, np.where(case.free, case.cost, np.inf), 0).sum(axis=1)
                least[i] = min(least[i], paid.min())
    return least


def _radii(case: Case, before: np.ndarray, where: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each certificate numbers of rows and their radii; an exact one where it closes."""
    found = {}
    for kind in ("margin", "pairwise"):
        label, radius = case.model.certify(case.x, certificate=kind, **case.who)
        index = np.array([list(case.model.classes).index(one) for one in label.tolist()])
        if (index != before).any():
            raise UnsoundError(f"{where}: {kind} predicts otherwise than the definitions")
        found[kind] = np.arange(len(case.x)), radius.astype(float)
    if (found["margin"][1] > found["pairwise"][1]).any():
        raise UnsoundError(f"{where}: a radius of pairwise is below that of the margin")
    rows, exact = [], []
    for i in range(min(_EXACT, len(case.x))):
        one = exact_radius(case.model, case.x[i], time_limit=_SECONDS, **case.who)
        if one.lower < found["pairwise"][1][i]:
            raise UnsoundError(f"{where}: an exact radius is below that of pairwise")
        if one.lower == one.upper:
            rows.append(i)
            exact.append(one.lower)
    found["exact"] = np.array(rows, int), np.array(exact, float)
    return found


def _by_radius(case: Case, rng: np.random.Generator, where: str) -> Iterator[tuple[str, Any]]:
    """Yield for each certificate (rows, certified, inside, met) of its rows."""
    before = predicted(case.model, case.x)
    least, step = _least(case, before), _step(case)
    for kind, (rows, radius) in _radii(case, before, where).items():
        budget = np.full(len(case.x), -1.0)
        budget[rows] = radius
        beaten = least[rows] <= radius
        for number in range(_TRIES):
            towards = _others(before, rng) if number % 2 else None
            attacked = rewritten(case, budget, towards, rng)[rows]
            beaten |= predicted(case.model, attacked) != before[rows]
        if kind == "exact" and case.every is not None and len(rows):
            # All that there is was tried: an exact radius is the truth, not a bound of it.
            never = case.cost[case.free].sum()
            truth = np.where(np.isinf(least[rows]), never, least[rows] - step)
            beaten |= truth != radius
        yield kind, (len(rows), radius > 0, beaten, least[rows] - step == radius)


def _by_patch(case: Case, rng: np.random.Generator, where: str) -> Iterator[tuple[str, Any]]:
    """Yield for each size of a block (rows, certified, inside, beaten) of all rows."""
    before = predicted(case.model, case.x)
    label, held = patch_certified(case.model, case.x, list(case.patches))
    if (label != before).any():
        raise UnsoundError(f"{where}: patch predicts otherwise than the definitions")
    for place, size in enumerate(case.patches):
        found = greedy_attack(case.model, case.x, patch=size, tries=_ROUNDS)
        beaten = predicted(case.model, found.x_adv) != before
        for number in range(_TRIES):
            towards = _others(before, rng) if number % 2 else None
            beaten |= predicted(case.model, patched(case, size, towards, rng)) != before
        withstood = held[:, place]
        yield "patch", (len(case.x), withstood, withstood & beaten, ~withstood & beaten)


def counts(rows: int, seed: int, size: int = _ROWS) -> Iterator[list[Count]]:
    """Yield the counts so far after each model, until so many rows of all kinds were attacked.

    Raises
    ------
    UnsoundError
        A row fell inside its radius; the message says of which seed, model and row.
    """
    known: dict[tuple[str, str], Count] = {}
    for number in range(-(-rows // size)):
        kind = list(KINDS)[number % len(KINDS)]
        rng = np.random.default_rng([seed, number])
        case = KINDS[kind](rng, size)
        ways = _by_patch if case.patches else _by_radius
        where = f"seed {seed}, model {number} ({kind})"
        for certificate, (held, certified, inside, met) in ways(case, rng, where):
            count = known.setdefault((kind, certificate), Count(kind, certificate))
            count.rows += held
            count.certified += int(certified.sum())
            count.inside += int(inside.sum())
            count.met += int(met.sum())
            if inside.any():
                raise UnsoundError(
                    f"{where}, {certificate}: row "
                    f"{int(inside.argmax())} of {int(inside.sum())} inside the radius"
                )
        yield list(known.values())


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Attack, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    found: list[Count] = []
    models = 0
    with limit_threads(1):
        for known in counts(options.rows, options.seed):
            found, models = known, models + 1
            if models % 100 == 0:
                sys.stderr.write(f"{models} models, {time.perf_counter() - began:.0f} s\n")
    result = {
        "command": f"python tests/benchmarks/soundness.py --rows {options.rows} "
        f"--seed {options.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "seconds": round(time.perf_counter() - began),
        "models": models,
        "attacked_rows": models * _ROWS,
        "inside": sum(one.inside for one in found),
        "counts": [asdict(one) for one in found],
    }
    for one in [Count("kind", "certificate", *["rows", "certified", "inside", "met"]), *found]:  # type: ignore[arg-type]
        sys.stdout.write(
            f"{one.kind:<18}{one.certificate:<12}{one.rows:>9}{one.certified:>11}"
            f"{one.inside:>8}{one.met:>9}\n"
        )
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
