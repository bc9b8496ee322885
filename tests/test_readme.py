"""The README's code: the Python tour runs, and its commands are commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from boxnn_numba.cli.main import cli

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = sorted(
    {
        line.split(" #")[0].strip()
        for kind, block in BLOCKS
        if kind == "sh"
        for line in block.splitlines()
        if line.startswith("boxnn ")
    }
)


def test_the_python_tour_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tour,) = (block for kind, block in BLOCKS if kind == "python")
    exec(compile(tour, str(README), "exec"), {})
    assert "cat" in capsys.readouterr().out
    assert (tmp_path / "model.zarr").is_dir()


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_the_options_that_are_shown(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="boxnn")
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    names = {name for option in command.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= names, line


def test_the_two_commands_stand_alone_on_their_lines() -> None:
    lines = [line.split("#")[0].strip() for line in TEXT.splitlines()]
    assert "pip install . && boxnn demo" in lines
    assert "pip install -e '.[test]' && pytest" in lines
