"""Feature partition against brute force over all adversaries and the papers' recursions."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import baseline_reference as reference

from boxnn_numba.baselines.partition import (
    make_partition,
    plurality_radius,
    runoff_radius,
    topk_plurality_radius,
    votes_of,
)
from boxnn_numba.errors import InputError, OptionError

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)


def scores_with_ties(n_models: st.SearchStrategy[int], n_classes: int) -> Any:
    """Scores (T, K) with many ties, some submodels repeated so that there are clear winners."""
    row = st.lists(st.integers(0, 3), min_size=n_classes, max_size=n_classes)
    return n_models.flatmap(
        lambda t: st.lists(row, min_size=1, max_size=3).flatmap(
            lambda kinds: st.lists(st.sampled_from(kinds), min_size=t, max_size=t)
        )
    )


def run_off(scores: Any) -> tuple[int, int]:
    array = np.asarray(scores, np.float32)[None]
    prediction, radius = runoff_radius(votes_of(array), array)
    assert prediction.dtype == radius.dtype == np.int32
    return int(prediction[0]), int(radius[0])


# --- partitions ------------------------------------------------------------------------


@SETTINGS
@given(st.sampled_from(["strided", "random"]), st.integers(1, 60), st.integers(1, 60))
def test_every_submodel_has_its_share_of_features(kind: str, n: int, parts: int) -> None:
    parts = min(parts, n)
    part = make_partition(kind, n, parts, seed=3)
    assert part.shape == (n,) and part.dtype == np.int32
    sizes = np.bincount(part, minlength=parts)
    assert len(sizes) == parts and sizes.max() - sizes.min() <= 1 and sizes.min() >= 1
    if kind == "strided":
        assert part.tolist() == [j % parts for j in range(n)]


def test_random_partitions_follow_their_seed() -> None:
    one, same, other = (make_partition("random", 784, 25, seed=s) for s in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


@pytest.mark.parametrize(
    ("shape", "parts", "grid"),
    [
        ((28, 28), 25, (5, 5)),
        ((28, 28), 60, (6, 10)),
        ((28, 28), 13, (1, 13)),
        ((10, 40), 4, (1, 4)),
        ((6, 4, 3), 6, (3, 2)),
        ((9,), 3, (1, 3)),
    ],
)
def test_patches_are_rectangles(shape: tuple[int, ...], parts: int, grid: tuple[int, int]) -> None:
    part = make_partition("patch", int(np.prod(shape)), parts, feature_shape=shape)
    pixels = part.reshape({1: (1, *shape, 1), 2: (*shape, 1)}.get(len(shape), shape))
    assert (pixels == pixels[:, :, :1]).all()
    corners = set()
    for t in range(parts):
        row, column = np.nonzero(pixels[:, :, 0] == t)
        assert len(row) == (np.ptp(row) + 1) * (np.ptp(column) + 1)
        corners.add((int(row.min()), int(column.min())))
    starts = [len({corner[axis] for corner in corners}) for axis in (0, 1)]
    assert sorted(starts) == sorted(grid) and len(corners) == parts


# --- plurality -------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "n_classes"), [(8, 3), (8, 2), (5, 4)])
def test_plurality_is_exact_for_all_votes(most: int, n_classes: int) -> None:
    for total in range(1, most + 1):
        cases = list(reference.all_votes(total, n_classes))
        prediction, radius = plurality_radius(np.array(cases))
        winners = [reference.ranking(votes)[0] for votes in cases]
        assert prediction.tolist() == winners
        assert radius.tolist() == [
            reference.topk_radius(votes, winner, 1)
            for votes, winner in zip(cases, winners, strict=True)
        ]
        assert prediction.dtype == radius.dtype == np.int32


@pytest.mark.parametrize(("most", "n_classes"), [(8, 3), (4, 4), (3, 5)])
def test_top_k_is_exact_for_all_votes_and_labels(most: int, n_classes: int) -> None:
    for total, k in itertools.product(range(1, most + 1), range(1, n_classes)):
        cases = [
            (votes, label)
            for votes in reference.all_votes(total, n_classes)
            for label in range(n_classes)
        ]
        radius = topk_plurality_radius([votes for votes, _ in cases], [c for _, c in cases], k)
        assert radius.dtype == np.int32
        assert radius.tolist() == [reference.topk_radius(*case, k) for case in cases]


@SETTINGS
@given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(any))
def test_top_1_is_plurality_and_top_k_grows_with_k(votes: list[int]) -> None:
    prediction, radius = plurality_radius([votes])
    by_k = [int(topk_plurality_radius([votes], prediction, k)[0]) for k in (1, 2, 3)]
    assert by_k[0] == radius[0] and by_k == sorted(by_k)


# --- run-off ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@SETTINGS
@given(st.data())
def test_runoff_is_that_of_loops(n_classes: int, data: st.DataObject) -> None:
    scores = data.draw(scores_with_ties(st.integers(1, 14), n_classes))
    assert run_off(scores) == reference.runoff_radius(scores)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_runoff_is_that_of_loops_for_submodels_that_disagree(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    for _ in range(600):
        scores = rng.integers(0, 5, (int(rng.integers(1, 13)), n_classes)).astype(np.float32)
        scores[:, rng.integers(n_classes)] += rng.choice([0, 1, 3])
        assert run_off(scores) == reference.runoff_radius(scores.tolist())


def test_closed_form_is_the_recursion() -> None:
    for i, j in itertools.product(range(130), repeat=2):
        assert reference.overtake_two(i, j) == max(-(-max(i, j) // 2), -(-(i + j) // 3))


def test_runoff_never_exceeds_the_exact_radius() -> None:
    rng, gaps, largest = np.random.default_rng(0), Counter[int](), 0
    for _ in range(100):
        n_models = int(rng.integers(1, 9))
        scores = rng.normal(size=(n_models, 3)) + np.array(
            [rng.choice([0, 0.7, 2]), rng.normal(), 0]
        )
        if rng.random() < 0.5:
            scores = np.round(scores)
        radius, exact = run_off(scores)[1], reference.runoff_exact(scores.tolist())
        assert 0 <= radius <= exact
        gaps[exact - radius] += 1
        largest = max(largest, radius)
    # Exact but for rare cases where the adversary needs different submodels in the two rounds.
    assert gaps[0] >= 95 and set(gaps) <= {0, 1} and largest >= 3, (gaps, largest)


def signal_scores(rng: np.random.Generator, n: int, n_models: int) -> tuple[Any, np.ndarray]:
    """Scores of submodels that each see a little of the truth, and the truth."""
    y = rng.integers(0, 10, n)
    scores = rng.normal(size=(n, n_models, 10)) + rng.normal(size=(n, 1, 10)) * 0.5
    scores[np.arange(n), :, y] += rng.normal(1.5, 0.5, n)[:, None]
    return scores.astype(np.float32), y


def test_runoff_certifies_more_than_plurality_on_a_test_set() -> None:
    for n_models in (25, 60):
        scores, y = signal_scores(np.random.default_rng(n_models), 2000, n_models)
        votes = votes_of(scores)
        plurality, run = plurality_radius(votes), runoff_radius(votes, scores)
        for r in range(n_models // 2):
            certified = [((c == y) & (radius >= r)).mean() for c, radius in (plurality, run)]
            assert certified[1] >= certified[0]
        same = plurality[0] == run[0]
        change = (run[1] - plurality[1])[same]
        # Single rows may lose (a rival may gain in round 2); more of them gain.
        assert change.mean() > 0 and (change > 0).mean() > 2 * (change < 0).mean()


@SETTINGS
@given(scores_with_ties(st.integers(2, 14), 4))
def test_runoff_is_below_plurality_only_where_round_2_shrinks_a_lead(
    scores: list[list[int]],
) -> None:
    votes = reference.votes_of(scores)
    winner, radius = run_off(scores)
    prediction, plurality = (int(found[0]) for found in plurality_radius([votes]))
    leads_kept = all(
        reference.round_two(scores, winner, c) >= votes[winner] - votes[c]
        for c in range(4)
        if c != winner
    )
    if prediction == winner and leads_kept:
        assert radius >= plurality


# --- features --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["strided", "strided-columns", "random", "patch"])
@pytest.mark.parametrize(("n", "parts", "size"), [(8, 8, 1), (8, 4, 1), (6, 3, 1), (8, 4, 2)])
def test_no_change_of_features_breaks_a_certificate(
    kind: str, n: int, parts: int, size: int
) -> None:
    """Submodels by look-up; every input within the radius is tried."""
    shape = (2, n // 2) if size == 1 else (2, n // 2 // size, size)
    part = make_partition(kind, n, parts, seed=1, feature_shape=shape, group_size=size)
    inputs = np.array(list(itertools.product((0, 1), repeat=n)))
    largest = [0, 0, 0]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        tables = rng.integers(0, 4, (parts, 2**n, 3)) + np.array([seed % 4, seed % 3, 0])
        seen = np.stack([inputs[:, part == t] @ (1 << np.arange(n))[: (part == t).sum()]
                         for t in range(parts)], axis=1)  # fmt: skip
        scores = np.stack([tables[t, seen[:, t]] for t in range(parts)], axis=1).astype(float)
        votes = votes_of(scores)
        differ = (inputs[:, None] != inputs[None]).reshape(2**n, 2**n, n // size, size)
        distance = differ.any(axis=3).sum(axis=2)
        for which, (prediction, radius) in enumerate(
            (plurality_radius(votes), runoff_radius(votes, scores))
        ):
            within = distance <= radius[:, None]
            assert (prediction[None] == prediction[:, None])[within].all()
            largest[which] = max(largest[which], radius.max())
        for label in range(3):
            radius = topk_plurality_radius(votes, np.full(len(votes), label), 2)
            safe = radius >= 0
            within = (distance <= radius[:, None]) & safe[:, None]
            assert np.broadcast_to(safe[None], within.shape)[within].all()
            largest[2] = max(largest[2], radius.max())
    assert min(largest) >= 1


def test_rows_are_independent_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, _ = signal_scores(np.random.default_rng(0), 50, 13)
    votes = votes_of(scores)
    whole = runoff_radius(votes, scores)
    monkeypatch.setattr("boxnn_numba.baselines.partition._CHUNK_SCORES", 300)
    for found, expected in zip(runoff_radius(votes, scores), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert votes.tolist() == [list(reference.votes_of(rows)) for rows in scores.tolist()]


S = np.zeros((1, 3, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: make_partition("spiral", 8, 2), OptionError, "unknown partition"),
        (lambda: make_partition("strided", 8, 0), OptionError, "parts is 0"),
        (lambda: make_partition("strided", 8, 9), OptionError, "parts is 9"),
        (lambda: make_partition("random", 8, 2, seed=-1), OptionError, "seed is -1"),
        (lambda: make_partition("patch", 8, 2), OptionError, "needs"),
        (lambda: make_partition("patch", 8, 2, feature_shape=(3, 3)), OptionError, "must agree"),
        (lambda: make_partition("patch", 9, 7, feature_shape=(3, 3)), OptionError, "7 patches"),
        (lambda: make_partition("patch", 8, 2, feature_shape=8), OptionError, "shape is 8; pass"),
        (lambda: make_partition("strided", 8, 5, group_size=2), OptionError, "parts is 5"),
        (lambda: make_partition("strided", 8, 2, group_size=3), OptionError, "does not divide"),
        (lambda: votes_of([[[1.0, 2.0], [3.0]]]), InputError, "scores is ragged"),
        (lambda: plurality_radius([[1, 2], [3]]), InputError, "votes is ragged"),
        (lambda: plurality_radius([[0, 0]]), InputError, "votes have 0 in each row; pass 1 to"),
        (lambda: plurality_radius([[2**31 - 1, 1]]), InputError, "votes have 2147483648 in each"),
        (lambda: votes_of(S[0]), InputError, r"must have shape \(any, any, any\)"),
        (lambda: votes_of(S * np.nan), InputError, "hold NaN in row 0"),
        (lambda: votes_of(S.astype(int)), InputError, "floating-point"),
        (lambda: plurality_radius([[2, 1], [2, 2]]), InputError, "row 0 has 3 .* row 1 has 4"),
        (lambda: plurality_radius([[2, -1]]), InputError, "outside 0"),
        (lambda: plurality_radius([[2.0, 1.0]]), InputError, "whole numbers"),
        (lambda: plurality_radius([[3]]), InputError, "one class"),
        (lambda: topk_plurality_radius([[2, 1]], [0], 0), OptionError, "k is 0"),
        (lambda: topk_plurality_radius([[2, 1]], [0], 2), OptionError, "k is 2"),
        (lambda: topk_plurality_radius([[2, 1]], [2], 1), InputError, "label is 2"),
        (lambda: runoff_radius([[1, 2]], S), InputError, "not those of the scores"),
        (lambda: runoff_radius([[3, 0]], S[:, :, :1]), InputError, "shape"),
        (lambda: runoff_radius([[3, 0], [3, 0]], S), InputError, r"\(2, any, 2\)"),
        (lambda: runoff_radius([[3, 0]], S * np.nan), InputError, "NaN"),
    ],
)
def test_bad_arguments(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
