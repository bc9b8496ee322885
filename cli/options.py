"""Options: those that several commands share, and the sections of a help text."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from boxnn_numba.cli.config import read_config
from boxnn_numba.cli.console import as_flags, emit, running
from boxnn_numba.data.paths import is_url
from boxnn_numba.errors import BoxNNError, OptionError

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]
Value = TypeVar("Value")

#: Sections of a help text that come after those of the command itself.
WHERE, OUTPUT = _LAST = ("Where it runs", "Output")


class Option(click.Option):
    """An option that stands in a section of the help text."""

    def __init__(self, *arguments: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.section = section


class Command(click.Command):
    """A command with its options in sections, whose errors speak of its options.

    Beside its own options it has those that every command takes. Its function returns what to
    print, a result (with `as_dict`, or a dict) and that as text. It is called with `run`, the
    `RunOptions`, if the command says what it is `doing`.
    """

    def __init__(
        self,
        name: str | None,
        *,
        params: Sequence[click.Parameter] = (),
        doing: str | None = None,
        **attributes: Any,
    ) -> None:
        common = [
            Option(["--quiet", "-q"], section=OUTPUT, is_flag=True, help="Show no progress."),
            Option(["--json", "as_json"], section=OUTPUT, is_flag=True, is_eager=True,
                   expose_value=False, callback=_remember_json, help="Print one JSON object."),
            Option(["--debug"], section=OUTPUT, is_flag=True, expose_value=False,
                   help="Show tracebacks."),
        ]  # fmt: skip
        super().__init__(name, params=[*params, *common], **attributes)
        self._doing = doing

    def sections(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """Return the options by section, in the order of the help text."""
        found: dict[str, list[click.Option]] = {}
        for item in self.get_params(ctx):
            if isinstance(item, click.Option):
                section = getattr(item, "section", "Options" if item in self.params else OUTPUT)
                found.setdefault(section, []).append(item)
        titles = sorted(found, key=lambda title: title in _LAST and 1 + _LAST.index(title))
        return {title: found[title] for title in titles}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        for title, items in self.sections(ctx).items():
            with formatter.section(title):
                records = [item.get_help_record(ctx) for item in items]
                formatter.write_dl([record for record in records if record is not None])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and print its result."""
        try:
            if self._doing is None:
                shown = super().invoke(ctx)
            else:
                with running(self._doing.format(**ctx.params), ctx.params) as ctx.params["run"]:
                    shown = super().invoke(ctx)
            if shown is not None:
                emit(*shown)
        except BoxNNError as error:
            error.args = (as_flags(str(error), isinstance(error, OptionError)),)
            raise


#: What a command prints, and that as text.
Output = tuple[Any, str]


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type


class StorePath(click.Path):
    """A dataset, model or certificate file: a local path, or a URL that is checked when opened."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a local path as `click.Path` does; let a URL through."""
        return value if is_url(value) else super().convert(value, param, ctx)


def command(short_help: str, doing: str | None = None) -> Callable[[Any], click.Command]:
    """Make a `Command` of a function."""
    return click.command(cls=Command, short_help=short_help, doing=doing)


# --- options ---------------------------------------------------------------------------


def option(*names: str, section: str = "Options", **attributes: Any) -> Decorator:
    """Add an option to a section of the help text."""
    return click.option(*names, cls=Option, section=section, **attributes)


def all_of(*options: Decorator) -> Decorator:
    """Add options in the order in which they stand."""

    def add(command: Function) -> Function:
        for one in reversed(options):
            command = one(command)
        return command

    return add


def choice(name: str, choices: tuple[str, ...], **attributes: Any) -> Decorator:
    """Add an option that takes one of some words; the first is the default."""
    attributes = {"default": choices[0], **attributes}
    return option(name, type=click.Choice(choices), **attributes)


def out(text: str, kind: click.ParamType | None = None) -> Decorator:
    """Add --out, which must be given."""
    return option("--out", required=True, type=kind or StorePath(), section=OUTPUT, help=text)


table_out = out("The .csv, .tsv, .json or .parquet file; - is the standard output.")


def overwrite(text: str = "Replace the boxnn output at --out.") -> Decorator:
    """Add --overwrite and --no-lock."""
    return all_of(
        option("--overwrite", is_flag=True, section=OUTPUT, help=text),
        option("--no-lock", is_flag=True, section=OUTPUT,
               help="Do not check whether another run writes the same output."),
    )  # fmt: skip


def _remember_json(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """Let errors be told as JSON, too."""
    ctx.ensure_object(dict)["json"] = value
    return value


_FILE = click.Path(exists=True, dir_okay=False)
_where = functools.partial(option, section=WHERE)

split = choice("--split", ("test", "train"), help="Rows of the dataset to take.")
convention = choice(
    "--convention",
    ("sound", "paper"),
    help="How radii are counted; paper only to compare with the paper's tables.",
)
device = choice(
    "--device",
    ("auto", "cpu", "cuda"),
    section=WHERE,
    help="The processor (cpu), an NVIDIA GPU (cuda), or a GPU if there is one (auto).",
)
precision = option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Numbers of RA's networks; bfloat16 is faster where a processor has it. "
    "[default: float32]",
)
chunk = _where(
    "--chunk", type=int, help="Rows on the GPU at a time; by default as many as fit easily."
)
threads = _where("--threads", type=int, help="Threads to use; all cores by default.")
resume = option("--resume", section=OUTPUT, is_flag=True, help="Continue a run that was stopped.")
#: Field of `RunOptions`, of commands that keep a log.
log = option(
    "--log", section=OUTPUT, type=StorePath(dir_okay=False),
    help="File of JSON lines on the progress of the run, for boxnn report --log.",
)  # fmt: skip
#: What long commands take.
run = all_of(
    resume,
    device,
    threads,
    overwrite(),
    option("--config", type=_FILE, is_eager=True, expose_value=False, callback=read_config,
           help="TOML file with values of options; the command line overrides it."),
)  # fmt: skip
#: Fields of `ClusterOptions`.
cluster = all_of(
    _where("--workers", type=int, help="Start this many local worker processes."),
    _where("--threads-per-worker", type=int, help="Threads of each local worker."),
    _where("--scheduler", help="Address of a running Dask scheduler, tcp:// or tls://."),
    _where("--scheduler-file", type=_FILE, help="File of a running scheduler."),
    _where(
        "--tls-ca-file",
        type=_FILE,
        help="Certificate authority; refuses plain connections.",
    ),
    _where("--tls-cert", type=_FILE, help="Certificate of this client and its workers."),
    _where("--tls-key", type=_FILE, help="Key of --tls-cert."),
    _where(
        "--performance-report",
        type=click.Path(),
        help="File for Dask's report, as HTML.",
    ),
    _where("--box-shards", default=0, help="Split the boxes too, into this many parts."),
    _where("--share-gpus", is_flag=True, help="Let workers share a GPU if there are too few."),
)


missing = option(
    "--missing", section="Tables", multiple=True, metavar="TEXT",
    help="Text that means a missing value, besides the usual ones; may be repeated.",
)  # fmt: skip
separator = option(
    "--sep", section="Tables", metavar="SIGN", help="Separator of cells, e.g. ';' or tab."
)

#: How a file of rows for a model is read.
rows_of_a_table = all_of(
    option(
        "--id",
        "id_column",
        section="Tables",
        metavar="COLUMN",
        help="Column with ids of rows; by default as in the training data.",
    ),
    option(
        "--drop",
        section="Tables",
        metavar="COLUMNS",
        help="Columns to leave out, with commas, besides those of the training data.",
    ),
    missing,
    separator,
)


def table_values(given: dict[str, Any]) -> dict[str, Any]:
    """Take out the options for reading a table; lists with commas become tuples."""
    listed = ("drop", "categorical", "numeric")
    names = ("label", "id_column", "split_column", "missing", "sep", *listed)
    found = {name: given.pop(name) for name in names if name in given}
    for name in listed:
        if name in found:
            found[name] = names_of(found[name])
    return found


def names_of(text: str | None) -> tuple[str, ...]:
    """Return the names, separated by commas, of an option.

    A name with a comma stands in double quotes, as in a CSV table.
    """
    if not text:
        return ()
    # Lines of their own, for a name may have several.
    lines = text.splitlines(keepends=True)
    return tuple(name.strip() for name in next(csv.reader(lines, skipinitialspace=True)))


def numbers(flag: str, text: str, example: str) -> list[float]:
    """Return the numbers, separated by commas, of an option; ints where they are written so."""
    return _separated(flag, text, "numbers", example, _number)


def whole_numbers(flag: str, text: str, example: str) -> list[int]:
    """Return the whole numbers, separated by commas, of an option."""
    return _separated(flag, text, "whole numbers", example, int)


def _number(word: str) -> float:
    try:
        return int(word)
    except ValueError:
        value = float(word)
    if not math.isfinite(value):
        raise ValueError(word)
    return value


def _separated(
    flag: str, text: str, kind: str, example: str, read: Callable[[str], Value]
) -> list[Value]:
    try:
        return [read(word) for word in text.split(",")]
    except ValueError:
        raise OptionError(
            f"{flag} is {text!r}; it must be {kind} with commas, e.g. {example}"
        ) from None


attackable = click.option(
    "--attackable",
    metavar="COLUMNS",
    help="The only columns (or groups) that may be rewritten: names or numbers, with commas.",
)


def column_names(text: str | None) -> tuple[str, ...] | None:
    """Return the names of columns, separated by commas; None for None."""
    if text is None:
        return None
    return names_of(text)


def costs(therefore: str) -> Decorator:
    """Add the option for costs of columns; `therefore` ends its help text."""
    return click.option(
        "--costs",
        type=click.Path(exists=True, dir_okay=False),
        help=f"TOML file with the cost of rewriting each column: {therefore}",
    )


def column_costs(path: str | None) -> dict[str, Any] | None:
    """Return the costs of columns in a TOML file; decimals as text, to keep all digits.

    None without a file.
    """
    if path is None:
        return None
    import tomllib

    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"), parse_float=str)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(
            f"{path} is no TOML of costs ({error}); write lines as amount = 2.5"
        ) from None
    for name, value in found.items():
        if isinstance(value, dict | list):
            raise OptionError(
                f"{path} has no number for {name}; write a line for each column, names with dots "
                'in quotes: "a.b" = 2.5'
            )
    return found


def limits(flag: str, text: str) -> int | tuple[tuple[str, str], ...]:
    """Return a code, or pairs of column and raw value, as ``amount=0,age=18``."""
    pairs = tuple(tuple(word.rsplit("=", 1)) for word in text.split(",") if "=" in word)
    if pairs and len(pairs) == text.count(",") + 1:
        names = [name.strip() for name, _ in pairs]
        if twice := [name for k, name in enumerate(names) if name in names[:k]]:
            raise OptionError(f"{flag} has {twice[0]} twice; pass one value for each column")
        return tuple((name, value.strip()) for name, (_, value) in zip(names, pairs, strict=True))
    numbers = whole_numbers(flag, text, "0, or of columns amount=0,age=18")
    if len(numbers) > 1:
        raise OptionError(f"{flag} is {text!r}; pass one code, or of columns amount=0,age=18")
    return numbers[0]
