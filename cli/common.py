"""What all commands share: options, progress bars, output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def common_options(command: Command) -> Command:
    """Add the options that every command takes: --quiet, --json and --debug."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--quiet", "-q", is_flag=True, help="Show no progress."),
    ):
        command = option(command)
    return command


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result as one JSON object or as text."""
    click.echo(json.dumps(result) if as_json else text)


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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        yield Progress(description, bar)
