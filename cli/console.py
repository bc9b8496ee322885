"""Console: what commands print, and how a command runs."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from boxnn_numba.progress import SILENT, ConsoleProgress, Progress
from boxnn_numba.text import printable, without_secrets

if TYPE_CHECKING:
    from boxnn_numba.pipelines.running import RunOptions


def as_flags(text: str, first: bool = False) -> str:
    """Return a text about arguments as options of the running command.

    They are in backticks; or `first`, before a value. A file may be called like one of them.
    """
    context = click.get_current_context()
    flags = {item.name: item.opts[0] for item in context.command.params if item.opts[0][0] == "-"}
    if "low" in flags and "high" in flags:
        flags["domain"] = "--low or --high"
    names = "`([a-z_]+)`" + ("|^([a-z_]+)(?= is (?!not ))" if first else "|(?!)()")
    return re.sub(names, lambda found: flags.get(found[1] or found[2], found[0]), text)


def wants_json() -> bool:
    """Say whether the running command prints JSON."""
    return bool(click.get_current_context().obj["json"])


def emit(result: Any, text: str) -> None:
    """Print a result (a dict, or what has `as_dict`) as one JSON object, or as text."""
    content = result if isinstance(result, dict) else result.as_dict()
    click.echo(without_secrets(json.dumps(content) if wants_json() else printable(text)))


def progress(quiet: bool, description: str) -> contextlib.AbstractContextManager[Progress]:
    """Show a bar on standard error while a body runs, if that is a terminal and not quiet."""
    return contextlib.nullcontext(SILENT) if quiet else ConsoleProgress(description)


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
