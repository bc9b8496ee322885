"""The sentence that a report opens with says what the runs' curves say, in the data's units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from boxnn_numba.pipelines.figures.runs import Run
from boxnn_numba.pipelines.report.headline import headline

IMAGES = {"feature_shape": [28, 28], "group_size": 1, "split": "test"}
TABLE = {"feature_shape": [4], "group_size": 1, "split": "test", "columns": [{}] * 4}


def run(
    radius: list[int], known: dict[str, Any], wrong: int = 0, name: str = "a", **more: Any
) -> Run:
    """A run whose first `wrong` rows are predicted wrong; half of the rows are of either class."""
    label = np.arange(len(radius)) % 2
    prediction = np.where(np.arange(len(radius)) < wrong, 1 - label, label)
    return Run(name, prediction, np.array(radius), label, ["no", "yes"], {**known, **more})


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (run([9, 20, 30, 20], IMAGES),
         "100.0% right; half of all test images provably withstand any 20 rewritten pixels."),
        (run([0, 1, 1, 0], IMAGES),
         "100.0% right; half of all test images provably withstand any 1 rewritten pixel."),
        (run([0, 0, 0, 5], TABLE),
         "100.0% right; 25.0% of all test rows provably withstand any 1 rewritten column."),
        (run([0, 0, 0, 0], TABLE | {"split": "train"}),
         "100.0% right; none of the training rows provably withstand any 1 rewritten column."),
        (run([9, 9, 9, 3], TABLE, wrong=3),
         "25.0% right; 25.0% of all test rows provably withstand any 1 rewritten column, and "
         "always saying no is right on 50.0%."),
        (run([4, 4, 4, 4], TABLE),
         "100.0% right; half of all test rows provably withstand any rewriting of all 4 columns."),
        (run([1, 1, 2, 0], TABLE, attackable=[0, 3]),
         "100.0% right; half of all test rows provably withstand any rewriting of 1 of the 2 "
         "columns in reach."),
        (run([2, 2, 2, 0], TABLE, attackable=[0, 3]),
         "100.0% right; half of all test rows provably withstand any rewriting of all 2 columns "
         "in reach."),
        (run([9, 9, 9, 0], TABLE, attackable=[0, 1], costs=[10.0, 10.0, None, None]),
         "100.0% right; half of all test rows provably withstand any rewriting that costs up to "
         "9."),
        (run([20, 20, 20, 0], TABLE, attackable=[0, 1], costs=[10.0, 10.0, None, None]),
         "100.0% right; half of all test rows provably withstand whatever an adversary pays."),
        (run([20, 20, 20, 0], TABLE, attackable=[0, 1, 2], costs=[10.0, 10.0, 0.5, None]),
         "100.0% right; half of all test rows provably withstand any rewriting that costs up to "
         "20."),
        (run([3, 3, 3, 0], IMAGES, alpha=0.05),
         "100.0% right; half of all test images withstand, each with 95% confidence, any 3 "
         "rewritten pixels."),
        (run([3, 3, 3, 0], IMAGES, split_rows=9_000),
         "100.0% right; half of the 4 test images certified provably withstand any 3 rewritten "
         "pixels."),
        (run([3, 3, 3, 0], IMAGES, certificate="as given"),
         "100.0% right; half of all test images withstand any 3 rewritten pixels."),
        (run([3, 3, 3, 0], IMAGES, training={"options": {"class_weight": "balanced"}}),
         "100.0% right, every class counted alike; half of all test images, counted so, provably "
         "withstand any 3 rewritten pixels."),
    ],
)  # fmt: skip
def test_one_run(made: Run, words: str) -> None:
    assert headline([made]) == words


def test_a_rare_class_counts_as_much_as_the_other() -> None:
    label = np.array([0] * 18 + [1] * 2)
    radius = np.where(label == 0, 3, 1)
    prediction = np.where(np.arange(20) == 18, 0, label)
    made = Run("a", prediction, radius, label, ["no", "yes"], TABLE)
    assert headline([made]) == (
        "75.0% right, every class counted alike; half of all test rows, counted so, provably "
        "withstand any 3 rewritten columns."
    )


def test_several_runs_and_patches() -> None:
    far, right = run([0, 8, 8, 8], IMAGES, 1, "far"), run([5, 5, 5, 5], IMAGES, 0, "right")
    assert headline([right, far]) == (
        "Of 2 runs “right” is right most often, 100.0%, and “far” withstands most: 75.0% right; "
        "half of all test images provably withstand any 8 rewritten pixels."
    )
    assert headline([right, run([1, 1, 1, 1], IMAGES, 0, "weak")]).startswith(
        "Best of 2 runs is “right”: 100.0% right; half"
    )
    assert headline([right], "paper").endswith(
        "half of all test images withstand any 5 rewritten pixels."
    )
    blocks = Run("b", *right.outcome, right.classes, IMAGES, patches={"2x2": 90.0, "5x5": 61.0})
    assert headline([blocks]).endswith(
        "any 5 rewritten pixels, and 61.0% any rewritten block of 5 x 5 pixels."
    )
    near = run([0, 0, 0, 0], IMAGES)
    blocks = Run("b", *near.outcome, near.classes, IMAGES, patches={"2x2": 50.0})
    assert headline([blocks]) == (
        "100.0% right; 50.0% of all test images provably withstand any rewritten block of 2 x 2 "
        "pixels."
    )


def test_runs_whose_adversary_reaches_less_are_not_the_best() -> None:
    whole, other = run([1, 1, 1, 1], TABLE, 0, "whole"), run([0, 1, 1, 1], TABLE, 0, "other")
    easy = run([2, 2, 2, 2], TABLE, 0, "easy", attackable=[0, 1])
    words = "Best of 2 of 3 runs, whose adversary can rewrite most, is “whole”: 100.0% right; half"
    assert headline([easy, whole, other]).startswith(words)
    words = "Of 2 runs, “whole” is against who can rewrite most: 100.0% right; half"
    assert headline([easy, whole]).startswith(words)
    assert headline([easy, easy]).startswith("Best of 2 runs is “easy”: 100.0% right; half")


def test_blocks_are_not_counted_by_class_and_no_share_is_rounded_to_all_or_none() -> None:
    label = np.array([0] * 18 + [1] * 2)
    made = Run("a", 0 * label, 3 + label, label, ["no", "yes"], IMAGES, patches={"3x7": 90.0})
    assert ", and 90.0%, images counted alike, any rewritten block of 3 x 7" in headline([made])
    many = run([0] * 9_999 + [1], IMAGES | {"alpha": 1e-7}, wrong=1)
    assert headline([many]) == (
        "over 99.9% right; under 0.1% of all test images withstand, each with 99.99999% "
        "confidence, any 1 rewritten pixel."
    )
