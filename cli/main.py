"""The `boxnn` command: finds the command's module, and turns errors into one line."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from boxnn_numba import __version__
from boxnn_numba.errors import BoxNNError

#: command -> module of `boxnn_numba.cli` that defines it, imported when it is used
COMMANDS = {
    "demo": "demo",
    "data": "data",
    "train": "train",
    "certify": "certify",
    "evaluate": "certify",
    "predict": "certify",
    "report": "report",
    "bench": "bench",
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called or shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of a first session."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"boxnn_numba.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="boxnn")
def cli() -> None:
    """Train, certify and inspect classifiers that are provably robust to sparse perturbations."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Parameters
    ----------
    arguments
        Command-line words; those of the process by default.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(args=words, prog_name="boxnn", standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        click.echo(f"Error: {message}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BoxNNError as error:
        if "--debug" in words:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
