"""The code blocks of the README and of docs/, and how a page of them is run."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from boxnn_numba.cli.main import cli, main

ROOT = Path(__file__).resolve().parents[2]
#: <!-- not run: why --> above a block: it is checked only.
_MARK = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\n\s*$")
#: <!-- begins with: a, b --> anywhere in a page: files that it takes for granted.
_BEGINS = re.compile(r"^<!-- begins with: ([^>]+?) -->$", re.M)
_FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.M | re.S)
_SAME = doctest.OutputChecker()


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text, and why it is not run."""

    page: Path
    line: int
    kind: str
    text: str
    title: str | None = None
    reason: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """The README and the pages of docs/ that have blocks."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if blocks(page)]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        indent, kind, title, body = match.groups()
        body = re.sub(f"^{indent}", "", body, flags=re.M)
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page, line, kind, body, title, mark and mark["reason"]))
    return found


def begins_with(page: Path) -> list[str]:
    found = _BEGINS.search(page.read_text(encoding="utf-8"))
    return found[1].split(", ") if found else []


def commands(text: str) -> list[str]:
    """Lines of a shell block without comments, continued lines joined."""
    joined = text.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)# .*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def check_command(line: str) -> None:
    """Check that a `boxnn` line names a command and options that exist, with their values."""
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="boxnn")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command, context = found, click.Context(found, parent=context, info_name=found.name)
    command.make_parser(context).parse_args(words)


@dataclass
class Runner:
    """Runs the blocks of one page in the current folder, one after the other."""

    names: dict[str, Any] = field(default_factory=dict)
    printed: str | None = None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    #: All that a page says wrongly, so that one run tells all.
    differences: list[str] = field(default_factory=list)

    def run(self, block: Block) -> None:
        if block.kind == "text":
            assert self.printed is not None, f"{block.where} follows nothing that was run"
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            if not _SAME.check_output(block.text, self.printed, flags):
                says = f"{block.where} says\n{block.text}\nand it prints\n{self.printed}"
                self.differences.append(says)
            return
        if block.title is not None:
            Path(block.title).write_text(block.text, encoding="utf-8")
        if block.kind in ("sh", "python"):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                self._run_code(block)
            self.printed = out.getvalue()

    def _run_code(self, block: Block) -> None:
        if block.kind == "python":
            # Lines of a traceback are those of the page.
            code = "\n" * block.line + block.text
            exec(compile(code, str(block.page), "exec"), self.names)
            return
        for line in commands(block.text):
            self._run_line(line, block)

    def _run_line(self, line: str, block: Block) -> None:
        plain = not re.search(r"[|&;<>$(]", line)
        if line.startswith("boxnn ") and plain:
            try:
                main(shlex.split(line)[1:])
            except SystemExit as leave:
                assert not leave.code, f"{block.where}: {line}"
            return
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        if line.endswith("&"):
            words = shlex.split(line.removesuffix("&"))
            log = subprocess.DEVNULL
            self.started.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))
            return
        done = subprocess.run(
            ["bash", "-ec", line], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, f"{block.where}: {line}\n{done.stderr}"
        sys.stdout.write(done.stdout)

    def close(self) -> None:
        """End what was started in the background."""
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            process.wait(20)


def check(block: Block) -> None:
    """Check what can be checked of a block without running it."""
    if block.kind == "sh":
        for line in commands(block.text):
            if line.startswith("boxnn "):
                check_command(line.split(" && ")[0])
    elif block.kind == "python":
        compile(block.text, block.where, "exec")
    elif block.kind == "yaml":
        assert list(yaml.safe_load_all(block.text))
    elif block.kind == "toml":
        tomllib.loads(block.text)
    else:
        assert block.kind in ("text", "bibtex", ""), (
            f"{block.where} is {block.kind!r}, which nothing checks"
        )
