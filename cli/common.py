"""What all commands share: options, configuration files, progress bars, output."""

from __future__ import annotations

import contextlib
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from boxnn_numba.data.paths import is_url
from boxnn_numba.errors import OptionError

if TYPE_CHECKING:
    from boxnn_numba.pipelines.running import RunOptions

Command = TypeVar("Command", bound=Callable[..., Any])


class StorePath(click.Path):
    """A dataset, model or certificate file: a local path, or a URL that is checked when opened."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a local path as `click.Path` does; let a URL through."""
        return value if is_url(value) else super().convert(value, param, ctx)


#: Where kernels run.
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda (an NVIDIA GPU) or auto."
)
#: How a GPU takes an array.
chunk_option = click.option(
    "--chunk", type=int, help="Rows that are on the GPU at a time; by default what fits easily."
)


def common_options(command: Command) -> Command:
    """Add the options that every command takes: --quiet, --json and --debug."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--quiet", "-q", is_flag=True, help="Show no progress."),
    ):
        command = option(command)
    return command


def run_options(command: Command) -> Command:
    """Add what long commands take: --device, --threads, --overwrite, --resume and --config."""
    resume = click.option("--resume", is_flag=True, help="Continue a run that was stopped.")
    return restart_options(resume(command))


def restart_options(command: Command) -> Command:
    """Add `run_options` without --resume, for what starts again when it was stopped."""
    for option in (
        click.option(
            "--config",
            type=click.Path(exists=True, dir_okay=False),
            is_eager=True,
            expose_value=False,
            callback=_read_config,
            help="TOML file with values of options; the command line goes first.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace the boxnn output at --out."),
        click.option("--threads", type=int, help="Threads to use; all cores by default."),
        device_option,
    ):
        command = option(command)
    return command


def cluster_options(command: Command) -> Command:
    """Add the options that choose a Dask cluster; they come as one `cluster` mapping."""
    path = click.Path(exists=True, dir_okay=False)
    for option in (
        click.option(
            "--share-gpus", is_flag=True, help="Let workers share a GPU if there are too few."
        ),
        click.option(
            "--box-shards", type=int, default=0, help="Split the boxes too, in this many parts."
        ),
        click.option("--performance-report", type=click.Path(), help="Dask's report, as HTML."),
        click.option("--tls-key", type=path, help="Key of --tls-cert."),
        click.option("--tls-cert", type=path, help="Certificate of this client and its workers."),
        click.option("--tls-ca-file", type=path, help="Authority; refuses plain connections."),
        click.option("--scheduler-file", type=path, help="File of a running scheduler."),
        click.option("--scheduler", help="Address of a running Dask scheduler, tcp:// or tls://."),
        click.option("--threads-per-worker", type=int, help="Threads of each local worker."),
        click.option("--workers", type=int, help="Start this many local worker processes."),
    ):
        command = option(command)
    return command


def chosen_cluster(options: dict[str, Any]) -> Any:
    """Take the values of `cluster_options` out of a command's arguments."""
    from boxnn_numba.pipelines.cluster.options import ClusterOptions

    names = [item.name for item in fields(ClusterOptions)]
    return ClusterOptions(**{name: options.pop(name) for name in names})


@contextlib.contextmanager
def running(description: str, options: dict[str, Any]) -> Iterator[RunOptions]:
    """Show a progress bar while the body runs, and give it the command's `RunOptions`.

    Parameters
    ----------
    description
        What is being done.
    options
        Arguments of the command. Those that say how it runs (``quiet``, ``overwrite``,
        ``device``, ``workers``, ...) are taken out; what is left is the command's own.
    """
    from boxnn_numba.pipelines.cluster.options import ClusterOptions
    from boxnn_numba.pipelines.running import RunOptions

    def taken(kind: type) -> dict[str, Any]:
        names = [item.name for item in fields(kind) if item.name in options]
        return {name: options.pop(name) for name in names}

    cluster = ClusterOptions(**taken(ClusterOptions))
    with progress(options.pop("quiet"), description) as bar:
        yield RunOptions(**taken(RunOptions), cluster=cluster, progress=bar)


def _read_config(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Make the values of a TOML file the defaults of a command.

    Keys are option names with - or _; a table named like the command goes
    before the top level.
    """
    if value is None:
        return
    try:
        content = tomllib.loads(Path(value).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value} is not valid TOML: {error}") from None
    known = {item.name: item for item in ctx.command.params}
    flat = {key: item for key, item in content.items() if not isinstance(item, dict)}
    tables = {key: item for key, item in content.items() if isinstance(item, dict)}
    from boxnn_numba.cli.main import COMMANDS

    for key in tables:
        if key not in COMMANDS:
            raise click.BadParameter(f"{value} has a table for unknown command {key!r}")
    table: Any = tables
    for word in ctx.command_path.split()[1:]:  # e.g. [baseline.ra.train]
        table = table.get(word, {}) if isinstance(table, dict) else {}
    flat |= table if isinstance(table, dict) else {}
    defaults = {}
    for key, item in flat.items():
        name = key.replace("-", "_")
        name = "as_json" if name == "json" else name
        if name not in known:
            options = ", ".join(sorted(known))
            raise click.BadParameter(f"{value} sets unknown option {key!r}; known are {options}")
        integer = known[name].type.name == "integer" and not isinstance(item, str)
        if isinstance(item, (list, dict)) or (integer and not isinstance(item, int)):
            raise click.BadParameter(f"{value} sets {key} to {item!r}, which it cannot be")
        defaults[name] = item
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def whole_numbers(flag: str, text: str, example: str) -> list[int]:
    """Return the numbers of an option that takes several, with commas between them."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise OptionError(
            f"{flag} is {text!r}; it must be whole numbers with commas, e.g. {example}"
        ) from None


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
