"""Configuration files: TOML whose values are the defaults of a command's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def read_config(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Make the values of a TOML file the defaults of a command.

    Keys are option names with - or _. Values in a table named like the command
    take precedence over those at the top level.
    """
    if value is None:
        return
    import tomllib

    try:
        content = tomllib.loads(Path(value).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value} is not valid TOML: {error}") from None
    known = {item.name: item for item in ctx.command.params}
    flat = {key: item for key, item in content.items() if not isinstance(item, dict)}
    tables = {key: item for key, item in content.items() if isinstance(item, dict)}
    from boxnn_numba.cli.main import cli

    _check_tables(value, tables, cli, ctx)
    table = tables
    for word in ctx.command_path.split()[1:]:  # e.g. [baseline.ra.train]
        table = table.get(word, {})
    flat |= table
    defaults = {}
    for key, item in flat.items():
        name = key.replace("-", "_")
        name = "as_json" if name == "json" else name
        if name not in known:
            options = ", ".join(sorted(known))
            raise click.BadParameter(f"{value} sets unknown option {key!r}; known are {options}")
        item = _listed(item, known[name])
        if not _fits(item, known[name]):
            raise click.BadParameter(
                f"{value} sets {key} to {item!r}, which it cannot be; write what the command line "
                "takes, texts in quotes"
            )
        defaults[name] = item
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _check_tables(
    path: str, tables: dict[str, Any], group: click.Group, ctx: click.Context, above: str = ""
) -> None:
    """Raise unless all that is in the table of a group of commands is a table of one of them."""
    known = ", ".join(group.list_commands(ctx))
    for key, item in tables.items():
        if not isinstance(item, dict):
            raise click.BadParameter(
                f"{path} sets {key} in [{above[:-1]}], which is no command; set it for one of its "
                f"commands: {known}"
            )
        command = group.get_command(ctx, key)
        if command is None:
            raise click.BadParameter(
                f"{path} has a table for unknown command {above + key!r}; known are {known}"
            )
        if isinstance(command, click.Group):
            _check_tables(path, item, command, ctx, f"{above}{key}.")


def _listed(item: Any, option: click.Parameter) -> Any:
    """Return an array of TOML as the command line has it, with commas, where a text may be."""
    if not isinstance(item, list) or not isinstance(option.type, click.types.StringParamType):
        return item
    plain = all(type(each) in (str, int, float) and "," not in str(each) for each in item)
    return ",".join(map(str, item)) if plain else item


def _fits(item: Any, option: click.Parameter) -> bool:
    """Say whether a value of TOML may stand for an option; click reads texts itself."""
    if isinstance(item, str):
        return True
    flag = bool(getattr(option, "is_flag", False))
    if flag or isinstance(item, bool):  # a bool is an int in Python
        return flag and isinstance(item, bool)
    if isinstance(option.type, (click.Path, click.File)):
        return False
    return isinstance(item, int if option.type.name.startswith("integer") else (int, float))
