"""The bar of a job: on a terminal, in a notebook, and where nobody looks."""

from __future__ import annotations

import gc
import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from numba.core.caching import NullCache

from boxnn_numba import progress
from boxnn_numba.kernels.compile import kernel
from boxnn_numba.progress import ConsoleProgress

LINK = "http://127.0.0.1:8787/status"


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


class Notebook:
    """What IPython has of a cell's output: `shown` by its kernel, with all updates."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kernel: object) -> None:
        self.shown: list[str] = []
        shell = SimpleNamespace(kernel=kernel)
        display = SimpleNamespace(HTML=str, display=self._display)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def _display(self, page: str, display_id: bool) -> Any:
        self.shown.append(page)
        return SimpleNamespace(update=self.shown.append)


def work(told: progress.Progress) -> None:
    told.note(f"dashboard: {LINK}")
    told.start(3_000, "samples")
    for _ in range(3):
        told.advance(1_000)
    told.note("epoch <1> [best]")


#: What moves and colours on a terminal.
SIGNS = r"\x1b\[[0-9?;]*[A-Za-z]"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second passes with every look at the clock."""
    moments = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: next(moments) / 2)


def test_a_terminal(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ConsoleProgress("training [x]") as told:
        work(told)
    said = re.sub(SIGNS, "", shown.getvalue())
    assert f"dashboard: {LINK}\n" in said and "epoch <1> [best]\n" in said
    assert "training [x] (samples) ━" in said
    assert re.search(r"╸━+ 2000/3000 \d+/s 0:00:0", said)
    assert re.search(r"3000/3000 \d+/s 0:00:00\s*$", said)
    assert shown.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_compiling_is_told_and_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    cell = Notebook(monkeypatch, kernel=object())
    compiled = kernel(lambda x: x + 1, name="compiled_in_the_test_of_progress")
    monkeypatch.setattr(compiled, "_cache", NullCache())
    with ConsoleProgress() as told:
        told.start(40, "rows")
        for _ in range(2):
            now += 1
            told.advance(10)
        before = len(cell.shown)
        assert compiled(1) == 2
        assert len(cell.shown) == before + 1 and "compiling" in cell.shown[-1]
        with progress.compiling(), progress.compiling():
            now += 1000
        now += 1
        told.advance(10)
        assert "10/s 0:00:01" in re.sub("<[^>]*>", "", cell.shown[-1])
    ended = len(cell.shown)
    with progress.compiling():
        assert len(cell.shown) == ended


def test_a_bar_that_nobody_ends(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    work(ConsoleProgress())
    gc.collect()
    assert shown.getvalue().rstrip().endswith("\x1b[?25h")


def test_a_bar_that_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    told = ConsoleProgress()
    for _ in range(2):
        with told:
            work(told)
        assert shown.getvalue().rstrip().endswith("\x1b[?25h")


def test_a_notebook(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Notebook(monkeypatch, kernel=object())
    with ConsoleProgress("training") as told:
        work(told)
    assert f'<a href="{LINK}" target="_blank">{LINK}</a>' in cell.shown[-1]
    assert "epoch &lt;1&gt; [best]\n" in cell.shown[-1]
    said = re.sub("<[^>]*>", "", cell.shown[-1])
    assert re.search(r"training \(samples\) ━+ 3000/3000 \d+/s 0:00:00", said)
    assert any("2000/3000" in page for page in cell.shown)


@pytest.mark.parametrize("kernel", [None, "terminal"])
def test_where_nobody_looks(
    kernel: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cell = Notebook(monkeypatch, kernel=None)
    if kernel is None:
        monkeypatch.delitem(sys.modules, "IPython")
    with ConsoleProgress("training") as told:
        work(told)
    assert cell.shown == [] and capfd.readouterr() == ("", "")


def test_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that advances often does not pay for it."""
    cell = Notebook(monkeypatch, kernel=object())
    with ConsoleProgress() as told:
        told.start(1000, "samples")
        before = len(cell.shown)
        for _ in range(1000):
            told.advance(1)
    assert len(cell.shown) - before < 20
