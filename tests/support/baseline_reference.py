"""Loop-by-loop and brute-force oracles of the published defences, independent of the package."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

Votes = tuple[int, ...]
Scores = Sequence[Sequence[float]]

# --- randomized ablation ---------------------------------------------------------------


def untouched_share(n: int, k: int, r: int) -> Fraction:
    """Share of the k-subsets of n features without the first r, by listing them (n <= 8)."""
    subsets = list(itertools.combinations(range(n), k))
    return Fraction(sum(all(j >= r for j in subset) for subset in subsets), len(subsets))


def binomial_share(n: int, k: int, r: int) -> Fraction:
    """The same share from binomial coefficients."""
    return Fraction(math.comb(n - r, k), math.comb(n, k))


def is_largest(r: int, p: Fraction, q: Fraction, n: int, k: int) -> bool:
    """Is r RA^B's radius? In integers, for n whose fractions take too long."""
    total = math.comb(n, k)
    own = math.ceil(p * total)
    need = 2 * total - own + min(math.floor(q * total), total - own)
    return (r < 0 or 2 * math.comb(n - r, k) > need) and 2 * math.comb(n - r - 1, k) <= need


def ra_radius(p: Fraction, n: int, k: int) -> int:
    """Largest r with p > 1.5 - C(n-r, k) / C(n, k), -1 for none, trying every r."""
    good = [r for r in range(n + 1) if p > Fraction(3, 2) - binomial_share(n, k, r)]
    return max(good, default=-1)


def rab_radius(p: Fraction, q: Fraction, n: int, k: int) -> int:
    """RA^B's radius, -1 for none, trying every r."""
    total = math.comb(n, k)
    up, down = Fraction(math.ceil(p * total), total), Fraction(math.floor(q * total), total)
    down = min(down, 1 - up)
    good = [r for r in range(n + 1) if up - down > 2 * (1 - binomial_share(n, k, r))]
    return max(good, default=-1)


def survives_any_base_classifier(own: int, rival: int, total: int, touched: int) -> bool:
    """Does a class with `own` of `total` ablations keep more than a rival with `rival`?

    Every way in which the `touched` ablations can be divided among the class, the rival and the
    others is tried; the adversary turns all of them into votes for the rival.
    """
    others = total - own - rival
    for lost in range(min(own, touched) + 1):
        for already in range(min(rival, touched - lost) + 1):
            if touched - lost - already <= others and own - lost <= rival - already + touched:
                return False
    return True


def smoothed_counts(
    classify: Callable[[Votes, Votes], int], x: Sequence[int], k: int, n_classes: int
) -> list[int]:
    """Votes of all ablations of x; `classify` gets the retained features and their values."""
    counts = [0] * n_classes
    for kept in itertools.combinations(range(len(x)), k):
        counts[classify(kept, tuple(x[j] for j in kept))] += 1
    return counts


def changed(x: Sequence[int], most: int, values: Sequence[int]) -> Iterator[Votes]:
    """All vectors that differ from x in at most `most` features."""
    for candidate in itertools.product(values, repeat=len(x)):
        if sum(a != b for a, b in zip(candidate, x, strict=True)) <= most:
            yield candidate


def tail(won: int, samples: int, p: float) -> Decimal:
    """P(X >= won) for X binomial, to 50 digits."""
    with localcontext() as context:
        context.prec = 50
        share = Decimal(p)
        term = math.comb(samples, won) * share**won * (1 - share) ** (samples - won)
        total = term
        for i in range(won, samples):
            term = term * (samples - i) / (i + 1) * share / (1 - share)
            total += term
        return total


def floyd_mask(words: Sequence[int], n: int, k: int) -> list[bool]:
    """The mask that Floyd's algorithm draws from 64-bit words, one for each choice."""
    m = min(k, n - k)
    chosen: set[int] = set()
    for below, word in zip(range(n - m + 1, n + 1), words, strict=True):
        pick = (int(word) * below) >> 64
        chosen.add(below - 1 if pick in chosen else pick)
    return [(j in chosen) == (m == k) for j in range(n)]


# --- feature partition -----------------------------------------------------------------


def all_votes(total: int, n_classes: int) -> Iterator[Votes]:
    """All ways in which `total` submodels can vote."""
    if n_classes == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in all_votes(total - first, n_classes - 1):
            yield (first, *rest)


def ranking(votes: Votes) -> list[int]:
    """Classes from the most voted, ties to the smaller."""
    return sorted(range(len(votes)), key=lambda c: (-votes[c], c))


def topk_radius(votes: Votes, label: int, k: int) -> int:
    """Fewest submodels that an adversary must change to drop `label`, minus 1; T if none do."""
    needed = [
        sum(abs(a - b) for a, b in zip(votes, other, strict=True)) // 2
        for other in all_votes(sum(votes), len(votes))
        if label not in ranking(other)[:k]
    ]
    return min(needed, default=sum(votes) + 1) - 1


def votes_of(scores: Scores) -> Votes:
    """Votes of submodels with scores (T, K)."""
    choices = [list(row).index(max(row)) for row in scores]
    return tuple(choices.count(c) for c in range(len(scores[0])))


def round_two(scores: Scores, a: int, b: int) -> int:
    """How many more submodels score a above b than b above a."""
    return sum((row[a] > row[b]) - (row[a] < row[b]) for row in scores)


def finalists(scores: Scores) -> tuple[int, int]:
    """Winner and loser of the run-off."""
    a, b = sorted(ranking(votes_of(scores))[:2])
    return (a, b) if round_two(scores, a, b) >= 0 else (b, a)


@functools.cache
def overtake_two(i: int, j: int) -> int:
    """The papers' recursion: submodels that close gaps i and j to two rivals at once."""
    if min(i, j) < 2:
        return math.ceil(max(i, j) / 2)
    return 1 + min(overtake_two(i - 2, j - 1), overtake_two(i - 1, j - 2))


def runoff_radius(scores: Scores) -> tuple[int, int]:
    """Run-off certificate as written, over all pairs of rivals."""
    votes, (winner, second) = votes_of(scores), finalists(scores)
    rivals = [c for c in range(len(votes)) if c != winner]

    def g1(a: int, b: int) -> int:
        return max(0, votes[a] - votes[b] + (b > a))

    needed = [
        overtake_two(g1(winner, a), g1(winner, b)) for a, b in itertools.combinations(rivals, 2)
    ]
    for c in rivals:
        in_round_2 = max(0, round_two(scores, winner, c) + (c > winner))
        needed.append(max(math.ceil(g1(second, c) / 2), math.ceil(in_round_2 / 2)))
    return winner, min(needed) - 1


_ORDERS = list(itertools.product(range(3), repeat=3))
_PAIRS = [(0, 1), (0, 2), (1, 2)]


def _behaviour(row: Sequence[float]) -> int:
    """What a submodel adds to the 3 votes and the 3 duels (1 + its side), as digits of base 32."""
    duels = [1 + (row[a] > row[b]) - (row[a] < row[b]) for a, b in _PAIRS]
    return sum(digit * 32**i for i, digit in enumerate([*votes_of([row]), *duels]))


def _winner(state: int, n_models: int) -> int:
    digits = [state // 32**i % 32 for i in range(6)]
    a, b = sorted(ranking(tuple(digits[:3]))[:2])
    return a if digits[3 + _PAIRS.index((a, b))] >= n_models else b


def runoff_exact(scores: Scores) -> int:
    """Exact radius of the run-off with 3 classes: every outcome that changes can reach.

    The adversary may give any submodel any order of the classes, ties included.
    """
    orders = {_behaviour(order) for order in _ORDERS}
    reached = {0: 0}
    for row in scores:
        kept, following = _behaviour(row), dict[int, int]()
        for state, cost in reached.items():
            for order in orders:
                price = cost + (order != kept)
                if following.get(state + order, price) >= price:
                    following[state + order] = price
        reached = following
    winner = finalists(scores)[0]
    n_models = len(scores)
    return min(cost for state, cost in reached.items() if _winner(state, n_models) != winner) - 1
