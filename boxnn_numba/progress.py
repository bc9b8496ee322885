"""Progress: what a long job tells whoever waits for it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Something that is told how far a job is; `SILENT` where nobody asks."""

    def start(self, total: int, unit: str) -> None:
        """Begin (again) at zero of `total` units."""

    def advance(self, n: int) -> None:
        """Report that `n` more units are done."""

    def note(self, text: str) -> None:
        """Tell a line of text."""


class Silent:
    """Progress that tells nobody."""

    def start(self, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


SILENT = Silent()
