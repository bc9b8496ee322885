"""Write docs/commands.md: every command of `boxnn` with every option, from the click objects."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from boxnn_numba.cli.main import cli
from boxnn_numba.cli.options import Command

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
HEAD = """# Commands

Every command and option, written from the program itself by `python tools/command_reference.py`.
`boxnn COMMAND --help` says the same. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""


def commands(
    command: click.Command = cli, parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command]]:
    """Yield (words, command) for every command that is not a group, in the order of the help."""
    context = click.Context(command, parent=parent, info_name=command.name)
    if not isinstance(command, click.Group):
        yield context.command_path.removeprefix("cli "), command
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands(inner, context)


def reference() -> str:
    """Return the page."""
    return "\n".join([HEAD, *(_section(words, command) for words, command in commands())])


def _context(command: click.Command) -> click.Context:
    # A command keeps the help option of its first context, so this has the names of all.
    return click.Context(command, help_option_names=["-h", "--help"])


def _section(words: str, command: click.Command) -> str:
    arguments = [
        (item.metavar or str(item.name).upper()).rstrip(".") + ("..." if item.nargs == -1 else "")
        for item in command.params
        if isinstance(item, click.Argument)
    ]
    lines = [
        f"## boxnn {words}",
        "",
        f"`boxnn {' '.join([words, *arguments])} [OPTIONS]`",
        "",
        _help(command),
        "",
        "| option | default | |",
        "|---|---|---|",
    ]
    assert isinstance(command, Command), words
    for title, options in command.sections(_context(command)).items():
        lines.append(f"| **{title}** | | |")
        lines += [_option(item, item.to_info_dict()) for item in options if item in command.params]
    return "\n".join([*lines, ""])


def _help(command: click.Command) -> str:
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        text = " ".join(paragraph.replace("\b", "").split())
        head, example, rest = text.partition("Example: ")
        parts.append(f"{head}Example: `{rest}`" if example else _escaped(text))
    return "\n\n".join(parts)


def _option(item: click.Option, info: dict[str, Any]) -> str:
    names = ", ".join(f"`{name}`" for name in [*item.opts, *item.secondary_opts])
    if not item.is_flag:
        kind = info["type"]
        choices = "\\|".join(map(str, kind.get("choices", ())))
        names += f" {item.metavar or choices or str(kind['name']).upper()}"
    default = item.default if callable(item.default) else info["default"]
    shown = default not in (None, ()) and not item.is_flag
    text = " ".join((item.help or "").split())
    # Options of training say in their text what the presets take.
    text, _, said = text.partition("[default: ")
    if isinstance(default, tuple | list):
        default = " ".join(default)
    value = f"`{default}`" if shown else _escaped(said.removesuffix("]"))
    return f"| {names} | {'required' if item.required else value} | {_escaped(text.strip())} |"


def _escaped(text: str) -> str:
    """Keep * ^ _ and | of a help text as they are."""
    for sign in "*_|<":
        text = text.replace(sign, "\\" + sign)
    return text


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
