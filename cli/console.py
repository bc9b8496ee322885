"""Console: what commands print, and the progress bar."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import click


def as_flags(text: str) -> str:
    """Return a text about arguments (in backticks) with the options of the running command."""
    context = click.get_current_context()
    flags = {item.name: item.opts[0] for item in context.command.params if item.opts[0][0] == "-"}
    return re.sub("`([a-z_]+)`", lambda match: flags.get(match[1], match[0]), text)


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result as one JSON object or as text."""
    click.echo(as_flags(json.dumps(result) if as_json else text))


class Progress:
    """A bar with time left on standard error; silent where nobody watches.

    Parameters
    ----------
    description
        What is being done, shown before the bar.
    bar
        A started `rich.progress.Progress`, or None to stay silent.
    """

    def __init__(self, description: str, bar: Any = None) -> None:
        self._description = description
        self._bar = bar
        self._task: Any = None

    def start(self, total: int, unit: str) -> None:
        """Begin (again) at zero of `total` units."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"{self._description} ({unit})", total=total)

    def advance(self, n: int) -> None:
        """Report that `n` more units are done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, n)

    def note(self, text: str) -> None:
        """Show a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)


@contextlib.contextmanager
def progress(quiet: bool, description: str) -> Iterator[Progress]:
    """Show a progress bar on standard error while the body runs.

    Parameters
    ----------
    quiet
        Show nothing; also the case when standard error is not a terminal.
    description
        What is being done.
    """
    if quiet or not sys.stderr.isatty():
        yield Progress(description)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
    with RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        yield Progress(description, bar)
