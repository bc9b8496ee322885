"""Logs of runs: what is written when, what is read of one that was cut short, what is refused."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from boxnn_numba.data.paths import location
from boxnn_numba.data.run_log import LogFile, RunLog, open_log, read_log
from boxnn_numba.errors import DataError, OptionError, OutputError

ABOUT = {"result": "boxnn-model", "seed": 3, "options": {"boxes": 5}}
LINES = [{"epoch": 1, "objective": 0.1}, {"epoch": 2, "objective": 1 / 3}]


def written(path: Any, lines: list[dict[str, Any]] = LINES, **how: Any) -> RunLog:
    log = RunLog(path, ABOUT, **how)
    for line in lines:
        log.add(line)
    return log


@pytest.mark.parametrize("place", ["log.jsonl", "memory://logs/log.jsonl"])
def test_lines_are_there_at_once_and_read_again(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog(place, ABOUT)
    for number, line in enumerate(LINES, 1):
        log.add(line)
        about, lines = read_log(place)
        assert lines == LINES[:number]
    assert about == {"format": "boxnn-log", "version": 1, "package": about["package"], **ABOUT}
    text = location(place).read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [about, *LINES]
    assert log.lines == LINES


def test_numbers_that_json_has_not_are_null(tmp_path: Path) -> None:
    written(tmp_path / "l", [{"a": float("nan"), "b": float("inf"), "c": 1.5}])
    assert read_log(tmp_path / "l").lines == [{"a": None, "b": None, "c": 1.5}]


def test_nothing_is_written_without_a_path(tmp_path: Path) -> None:
    log = written(None)
    log.replace(LINES)
    assert log.lines == [] and not list(tmp_path.iterdir())


def test_a_last_line_that_ends_early_is_left_out_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "l"
    written(path)
    whole = path.read_bytes()
    second = whole.rindex(b"\n", 0, -1) + 1
    for end in (len(whole) - 1, len(whole) - 5, second + 1, second):
        path.write_bytes(whole[:end])
        assert read_log(path).lines == LINES[:1]
    path.write_bytes(whole[:-5])
    assert RunLog(path, ABOUT, resume=True).lines == LINES[:1]
    written(path, LINES[1:], resume=True)
    assert path.read_bytes() == whole


def test_lines_are_replaced_in_one_step_and_only_where_they_differ(tmp_path: Path) -> None:
    path = tmp_path / "l"
    log = written(path)
    inode = path.stat().st_ino
    log.replace(LINES)
    assert path.stat().st_ino == inode
    log.replace(LINES[1:])
    log.add({"epoch": 3})
    assert read_log(path).lines == [LINES[1], {"epoch": 3}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["l"]


def test_another_log_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "l"
    written(path)
    with pytest.raises(OptionError, match="l is the log of a run already; pass `overwrite`"):
        RunLog(path, ABOUT)
    with pytest.raises(OptionError, match="log of another run: its seed is 3, not 4"):
        RunLog(path, {**ABOUT, "seed": 4}, resume=True)
    assert read_log(path).lines == LINES
    written(path, LINES[:1], overwrite=True)
    assert read_log(path).lines == LINES[:1]


def test_a_log_without_lines_is_no_loss(tmp_path: Path) -> None:
    RunLog(tmp_path / "l", ABOUT)
    assert RunLog(tmp_path / "l", {"result": "other"}).lines == []
    assert read_log(tmp_path / "l").about["result"] == "other"


@pytest.mark.parametrize(
    "content",
    [b"", b"text\n", b'{"format": "boxnn-study"}\n', b"[1]\n", b"\xff\n", b'{"format": "boxnn-log'],
)
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_what_is_no_log_is_not_touched(
    content: bytes, how: dict[str, bool], tmp_path: Path
) -> None:
    path = tmp_path / "l"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="l is in the way, and is not a log of boxnn"):
        RunLog(path, ABOUT, **how)
    with pytest.raises(DataError, match="l is not a log of boxnn"):
        read_log(path)
    assert path.read_bytes() == content


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "l"
    with pytest.raises(DataError, match=r"cannot read .*nothing: No such file"):
        read_log(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot read"):
        read_log(tmp_path)
    path.write_text('{"format": "boxnn-log", "version": 2}\n')
    with pytest.raises(DataError, match="log of version 2; update boxnn-numba"):
        read_log(path)
    path.write_text('{"format": "boxnn-log", "version": 1}\n{"epoch": 1}\nx\n{"epoch": 2}\n')
    with pytest.raises(DataError, match=r"line 3 of .* is damaged"):
        read_log(path)


def test_a_log_is_beside_its_output(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for out, place in (("m", "m"), ("m", "m/l"), ("m", "m.partial/l"), ("m", "x/../m/l")):
        (tmp_path / "m.partial").mkdir(exist_ok=True)
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OptionError, match=r"is in the output .*; name a file beside it"):
            open_log(tmp_path / place, ABOUT, apart_from=tmp_path / out).__enter__()
    with pytest.raises(OptionError, match=r"the folder .*none does not exist"):
        open_log(tmp_path / "none" / "l", ABOUT, apart_from=tmp_path / "m").__enter__()
    with open_log(tmp_path / "m.jsonl", ABOUT, apart_from=tmp_path / "m"):
        pass
    assert isinstance(read_log(tmp_path / "m.jsonl"), LogFile)


@pytest.mark.parametrize("place", ["l", "memory://logs/held"])
def test_no_two_runs_write_one_log(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"apart_from": "m", "overwrite": True}
    with open_log(place, ABOUT, **how) as log:
        log.add(LINES[0])
        with (
            pytest.raises(OutputError, match=r"is writing .* another `log`"),
            open_log(place, ABOUT, **how),
        ):
            pass
        assert read_log(place).lines == LINES[:1]
    with open_log(place, ABOUT, **how), open_log(place, ABOUT, **how, no_lock=True) as log:
        assert log.lines == []
    assert [*tmp_path.iterdir()] == ([tmp_path / "l"] if place == "l" else [])


def test_a_failed_write_is_one_line(tmp_path: Path) -> None:
    log = written(tmp_path / "l")
    (tmp_path / "l").unlink()
    (tmp_path / "l").mkdir()
    with pytest.raises(OutputError, match=r"cannot write `log` .*l: Is a directory; name another"):
        log.add({})
    with pytest.raises(OutputError, match="cannot write `log`"):
        log.replace([])
    assert [entry.name for entry in tmp_path.iterdir()] == ["l"]


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OptionError, match="is no file"):
            RunLog(place, ABOUT, overwrite=True)


def test_a_line_that_is_cut_by_a_full_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(tmp_path / "l")

    class Full(io.FileIO):
        def write(self, line: Any) -> int:
            return super().write(line[:5])

    monkeypatch.setattr(Path, "open", lambda path, *how, **_: Full(path, "ab"))
    with pytest.raises(OutputError, match="No space left"):
        log.add({"epoch": 3})
    monkeypatch.undo()
    assert read_log(tmp_path / "l").lines == LINES
