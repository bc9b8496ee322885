"""Console: what commands print, the progress bar, and how a command runs."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from boxnn_numba.progress import SILENT, Progress

if TYPE_CHECKING:
    from boxnn_numba.pipelines.running import RunOptions


def as_flags(text: str) -> str:
    """Return a text about arguments (in backticks, or first) as options of the running command."""
    context = click.get_current_context()
    flags = {item.name: item.opts[0] for item in context.command.params if item.opts[0][0] == "-"}
    if "low" in flags and "high" in flags:
        flags["domain"] = "--low or --high"
    names = "`([a-z_]+)`|^([a-z_]+)(?= is )"
    return re.sub(names, lambda found: flags.get(found[1] or found[2], found[0]), text)


def emit(result: Any, text: str) -> None:
    """Print a result (a dict, or what has `as_dict`) as one JSON object, or as text."""
    content = result if isinstance(result, dict) else result.as_dict()
    click.echo(json.dumps(content) if click.get_current_context().obj["json"] else text)


class _Bar:
    """A bar, and before it what is being done, on a started `rich.progress.Progress`."""

    def __init__(self, description: str, bar: Any) -> None:
        self._description, self._bar = description, bar
        self._task: Any = None

    def start(self, total: int, unit: str) -> None:
        """Begin (again) at zero of `total` units."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"{self._description} ({unit})", total=total)

    def advance(self, n: int) -> None:
        """Report that `n` more units are done."""
        if self._task is not None:
            self._bar.advance(self._task, n)

    def note(self, text: str) -> None:
        """Show a line above the bar."""
        self._bar.console.print(text, highlight=False)


@contextlib.contextmanager
def progress(quiet: bool, description: str) -> Iterator[Progress]:
    """Show a bar on standard error while the body runs, if that is a terminal and not quiet."""
    if quiet or not sys.stderr.isatty():
        yield SILENT
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
        yield _Bar(description, bar)


@contextlib.contextmanager
def running(description: str, options: dict[str, Any]) -> Iterator[RunOptions]:
    """Show a progress bar while the body runs, and give it the command's `RunOptions`.

    Those of its options that say how it runs (``quiet``, ``overwrite``, ``device``, ``workers``,
    ...) are taken out; what is left is the command's own.
    """
    from boxnn_numba.pipelines.cluster.options import ClusterOptions
    from boxnn_numba.pipelines.running import RunOptions

    def taken(kind: type) -> dict[str, Any]:
        names = [item.name for item in fields(kind) if item.name in options]
        return {name: options.pop(name) for name in names}

    cluster = ClusterOptions(**taken(ClusterOptions))
    with progress(options.pop("quiet"), description) as bar:
        yield RunOptions(**taken(RunOptions), cluster=cluster, progress=bar)
