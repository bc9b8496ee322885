"""The `boxnn` command: finds the command's module, and turns errors into one line."""

from __future__ import annotations

import _thread
import contextlib
import errno
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NoReturn

import click

from boxnn_numba import __version__
from boxnn_numba.errors import BoxNNError, first_line
from boxnn_numba.text import printable

#: command -> module of `boxnn_numba.cli` that defines it, imported when it is used
COMMANDS = {
    "demo": "demo",
    "data": "data",
    "train": "train",
    "ensemble": "ensemble",
    "certify": "certify",
    "evaluate": "certify",
    "predict": "certify",
    "explain": "explain",
    "attack": "attack",
    "verify": "verify",
    "report": "report",
    "export": "export",
    "localize": "localize",
    "baseline": "baseline",
    "frontier": "frontier",
    "tune": "tune",
    "reproduce": "reproduce",
    "plan": "plan",
}
#: What standard output says where nothing more can be written.
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

#: What Python says where the system gives it no further thread.
_NO_THREAD = "can't start new thread"
#: Objects that are made between two looks for garbage; Python's own number is 700.
_OBJECTS_BETWEEN = 50_000


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


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="boxnn")
def cli() -> None:
    """Train, certify and inspect classifiers that are provably robust to sparse perturbations."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, by default that of the process, and exit with its code."""
    words, leaving = sys.argv[1:] if arguments is None else arguments, arguments is None
    asked: dict[str, bool] = {"json": "--json" in words}  # a configuration file may ask, too
    try:
        with _one_interrupt(leaving), _few_collections(leaving):
            cli.main(args=words, prog_name="boxnn", standalone_mode=False, obj=asked)
            sys.stdout.flush()
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), error.exit_code, asked)
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # Click takes it for an answer not given
            _fail("a file ends before it is complete; copy or make it again", 1, asked)
        _fail("Interrupted.", 130, asked, start="")
    except BoxNNError as error:
        if "--debug" in words:
            raise
        # A name in a table may hold line breaks.
        _fail(" ".join(str(error).splitlines()), error.exit_code, asked)
    except OSError as error:  # e.g. standard output is a full disk or a closed pipe
        if "--debug" in words:
            raise
        _abandon_output()
        remedy = "; check where the output goes" if error.errno in _OUTPUT_ERRORS else ""
        with contextlib.suppress(OSError):
            _fail(f"{first_line(error)}{remedy}", 1, asked)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        # Too little memory is often met by what a thread needs.
        if "--debug" in words or not (isinstance(error, MemoryError) or _NO_THREAD in str(error)):
            raise
        _fail("out of memory; close other programs, or take fewer rows or boxes", 1, asked)


def _fail(message: str, code: int, asked: dict[str, bool], start: str = "Error: ") -> NoReturn:
    """Write one line, or one JSON object, on standard error, and exit."""
    as_json = json.dumps({"error": message, "exit_code": code})
    click.echo(as_json if asked["json"] else printable(start + message), err=True)
    sys.exit(code)


@contextlib.contextmanager
def _one_interrupt(leaving: bool) -> Iterator[None]:
    """Let the first Ctrl-C end the run, and ignore more of them while it cleans up.

    Also at the end of the interpreter, which waits for threads, if the process is `leaving`. Python
    drops what is raised in a callback of C, as while Numba compiles: the interrupt then comes anew.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    def again(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)
            return
        signal.signal(signal.SIGINT, stop)
        late.append(threading.Timer(0.05, _interrupt))
        late[-1].daemon = True
        late[-1].start()

    late: list[threading.Timer] = []
    hook, sys.unraisablehook = sys.unraisablehook, again
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        for timer in late:
            timer.cancel()
        sys.unraisablehook = hook
        if not (leaving and signal.getsignal(signal.SIGINT) == signal.SIG_IGN):
            signal.signal(signal.SIGINT, before)


def _interrupt() -> None:
    """Interrupt the main thread, from another one."""
    if hasattr(signal, "pthread_kill"):  # which also ends a wait
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


@contextlib.contextmanager
def _few_collections(leaving: bool) -> Iterator[None]:
    """Look for cycles of garbage seldom, and not at the end of a process that is `leaving`.

    Imports make hundreds of thousands of objects that stay. Looking through them again and again,
    and once more at the end, is a sixth of the time of a short command.
    """
    if leaving:
        gc.set_threshold(_OBJECTS_BETWEEN, *gc.get_threshold()[1:])
    yield
    if leaving:
        gc.freeze()


def _abandon_output() -> None:
    """Keep Python from failing again on what standard output still holds."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
