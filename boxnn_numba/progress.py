"""Progress: reports of a long job, and a bar that shows them."""

from __future__ import annotations

import contextlib
import html
import importlib
import io
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from boxnn_numba.text import printable, without_secrets

#: The least seconds between two looks of a bar.
_REFRESH_SECONDS = 0.1
#: Columns of a bar in a notebook.
_NOTEBOOK_WIDTH = 100


class Progress(Protocol):
    """Protocol: receives reports on the progress of a job; `SILENT` ignores them."""

    def start(self, total: int, unit: str) -> None:
        """Begin (again) at zero of `total` units."""

    def advance(self, n: int) -> None:
        """Report that `n` more units are done."""

    def note(self, text: str) -> None:
        """Show a line of text."""


class Silent:
    """Progress that shows nothing."""

    def start(self, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


SILENT = Silent()


class _WorkClock:
    """A clock in seconds that stands still while kernels are compiled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compiling, self._since, self._lost = 0, 0.0, 0.0

    @property
    def stands(self) -> bool:
        return self._compiling > 0

    def __call__(self) -> float:
        with self._lock:
            return (self._since if self.stands else time.monotonic()) - self._lost

    def stop(self) -> None:
        with self._lock:
            if not self.stands:
                self._since = time.monotonic()
            self._compiling += 1

    def go_on(self) -> None:
        with self._lock:
            self._compiling -= 1
            if not self.stands:
                self._lost += time.monotonic() - self._since


_CLOCK = _WorkClock()
_OPEN: weakref.WeakSet[ConsoleProgress] = weakref.WeakSet()


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Show at every bar that a kernel is compiled; rates leave out the time of the body."""
    _CLOCK.stop()
    try:
        for shown in list(_OPEN):
            shown.refresh()
        yield
    finally:
        _CLOCK.go_on()


class ConsoleProgress:
    """A progress bar with units per second and the time left, on a terminal or in a notebook.

    It is written to standard error, and only if that is a terminal or this is a notebook. In a
    notebook, addresses in notes, such as that of a cluster's dashboard, are links.

    Parameters
    ----------
    description
        Name of the job, shown before the bar.

    Examples
    --------
    A ``with`` block ends the bar; else it ends when nothing refers to it any more.

    >>> with ConsoleProgress("squaring") as progress:
    ...     progress.start(3, "numbers")
    ...     for number in range(3):
    ...         progress.advance(1)
    """

    def __init__(self, description: str = "") -> None:
        self._description = description
        self._task: Any = None
        self._shown = 0.0
        self._screen = _screen()
        if self._screen is not None:
            end = weakref.finalize(self, self._screen.stop)
            end.atexit = isinstance(self._screen, _Terminal)

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar."""
        _OPEN.discard(self)
        if self._screen is not None:
            self._screen.stop()

    def start(self, total: int, unit: str) -> None:
        """Begin (again) at zero of `total` units."""
        if self._screen is None:
            return
        bar = self._screen.bar
        if self._task is not None:
            bar.remove_task(self._task)
        self._task = bar.add_task(f"{self._description} ({unit})".strip(), total=total)
        _OPEN.add(self)
        self._screen.show()

    def advance(self, n: int) -> None:
        """Report that `n` more units are done."""
        if self._screen is None or self._task is None:
            return
        self._screen.bar.advance(self._task, n)
        now = time.monotonic()
        if now - self._shown >= _REFRESH_SECONDS:
            self._shown = now
            self._screen.show()

    def refresh(self) -> None:
        """Show the bar again, at once."""
        if self._screen is not None:
            self._screen.show()

    def note(self, text: str) -> None:
        """Show a line above the bar."""
        if self._screen is not None:
            self._screen.note(printable(without_secrets(text)))


class _Terminal:
    """A `rich.progress.Progress` on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self.bar = _bar(Console(stderr=True))

    def show(self) -> None:
        """Show the bar as it is."""
        self.bar.start()
        self.bar.refresh()

    def note(self, text: str) -> None:
        """Show a line above the bar."""
        self.bar.console.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        """Show the bar a last time, and give the line free."""
        self.bar.stop()


class _Notebook:
    """The same below a cell: Rich itself needs widgets there, which not every notebook has.

    Parameters
    ----------
    display
        The module `IPython.display`.
    """

    def __init__(self, display: Any) -> None:
        from rich.console import Console

        self.bar = _bar(Console(file=io.StringIO(), width=_NOTEBOOK_WIDTH))
        self._page = display.HTML
        self._handle = display.display(self._page(""), display_id=True)
        self._notes = ""

    def show(self) -> None:
        """Show the bar as it is, below the notes."""
        from rich.console import Console

        console = Console(
            file=io.StringIO(), record=True, width=_NOTEBOOK_WIDTH, force_jupyter=False
        )
        console.print(self.bar.get_renderable())
        line = console.export_html(inline_styles=True, code_format="{code}")
        self._handle.update(self._page(f"<pre>{self._notes}{line}</pre>"))

    def note(self, text: str) -> None:
        """Show a line above the bar."""
        link = r'<a href="\g<0>" target="_blank">\g<0></a>'
        self._notes += re.sub(r"https?://[^\s<>&\"']+", link, html.escape(text)) + "\n"
        self.show()

    stop = show


def _screen() -> _Terminal | _Notebook | None:
    """Return where a bar is shown here, if anywhere."""
    shell = sys.modules.get("IPython")  # a notebook has imported it
    if shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None:
        return _Notebook(importlib.import_module("IPython.display"))
    return _Terminal() if sys.stderr is not None and sys.stderr.isatty() else None


def _bar(console: Any) -> Any:
    """Return a `rich.progress.Progress` that is shown when it is told to be."""
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            if _CLOCK.stands:
                return Text("compiling")
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f}/s")

    what = TextColumn("{task.description}", markup=False)
    columns = what, BarColumn(), MofNCompleteColumn(), Rate()
    return RichProgress(*columns, TimeLeft(), console=console, auto_refresh=False, get_time=_CLOCK)
