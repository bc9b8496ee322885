"""What the tests of the commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]
TRAIN = (
    "train",
    "tiny.zarr",
    "--preset",
    "graded",
    "--out",
    "model.zarr",
    "--boxes",
    6,
    "--epochs",
    2,
    "--lr",
    0.2,
)


def failed(result: tuple[int, str, str], code: int, *words: str) -> None:
    """Check for a failure that says `words` in one line and prints no result."""
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].startswith("Error: ") and result[2].count("\n") == 1, result[2]
    for word in words:
        assert word in result[2]


def here() -> set[str]:
    return {path.name for path in Path().iterdir()}
