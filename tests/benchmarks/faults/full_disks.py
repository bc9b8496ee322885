"""Run commands on disks that get full; then make room, go on, and compare.

`python tests/benchmarks/faults/full_disks.py --disks 30 --seed 0 --out FILE.json` runs train,
certify, attack, predict, ingest, report, frontier and tune in turn, each on a disk of its own (a
tmpfs, where this user may mount one) that has room for a random part of what it writes, or for as
many files; elsewhere no file may get longer than some bytes. The run must fail in one line that
says so, and leave no unfinished output under its final name, nor damage an earlier one. With more
room it goes on, and must make the bits of an undisturbed run.
"""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults.commands import (
    Command,
    Ended,
    Whole,
    campaign,
    check_whole,
    content,
    foreign_files,
    in_turn,
    limit_files,
    one_line,
    start,
)

#: Bytes of a page, of which a file on a tmpfs takes whole ones.
_PAGE = 4096
_SAYS = "no space left"


@dataclass
class Result:
    """What happened: disks without room for bytes, for files, or for longer files."""

    command: str
    bytes: int = 0
    files: int = 0
    lengths: int = 0
    replacing: int = 0


def _mount(*words: object) -> bool:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """Make a folder a disk of its own; whether that was allowed."""
    folder.mkdir()
    mounted = os.geteuid() == 0 and _mount("-t", "tmpfs", "-o", "size=256m", "none", folder)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _used(folder: Path) -> tuple[int, int]:
    """Return pages and files in use on a disk."""
    found = os.statvfs(folder)
    return found.f_blocks - found.f_bfree, found.f_files - found.f_ffree


def _fill(folder: Path, kind: str, share: float, whole: Whole) -> None:
    """Leave room for a share of what a command writes."""
    pages, files = _used(folder)
    if kind == "bytes":
        needed = sum(-(-len(str(one)) // _PAGE) for one in whole.content.values())
        _mount("-o", f"remount,size={(pages + int(share * needed)) * _PAGE}", folder)
    else:
        _mount("-o", f"remount,nr_inodes={files + int(share * 2 * len(whole.content))}", folder)


def _run(
    command: Command, out: Path, kind: str, share: float, whole: Whole, more: tuple[str, ...]
) -> Ended:
    if kind == "lengths":
        longest = max(len(one) for one in whole.content.values() if isinstance(one, bytes))
        limit = functools.partial(limit_files, int(share * longest))
        return start(command, out, *more, before=limit).end()
    _fill(out.parent, kind, share, whole)
    ended = start(command, out, *more).end()
    _mount("-o", "remount,size=256m,nr_inodes=100000", out.parent)
    return ended


def one_disk(command: Command, folder: Path, whole: Whole, rng: random.Random) -> Result | None:
    """Fail, and go on with more room; None where there was enough of it.

    Raises
    ------
    AssertionError
        The run failed otherwise, lost or left something, or bits differ.
    """
    result = Result(command.name)
    with disk(folder) as mounted:
        out = folder / command.out
        foreign = foreign_files(out)
        replaces = not command.is_folder and rng.random() < 0.3
        more = ("--overwrite",) if replaces else ()
        if replaces:
            assert start(command, out).end().code == 0
            result.replacing = 1
        kind = rng.choice(["bytes", "bytes", "files"]) if mounted else "lengths"
        setattr(result, kind, 1)
        ended = _run(command, out, kind, rng.random(), whole, more)
        if ended.code == 0:
            check_whole(command, out, whole, foreign)
            return None
        one_line(ended, _SAYS)
        if replaces:
            assert content(out) == whole.content, command.name
        assert command.is_folder or replaces or not out.exists(), command.name
        again = start(command, out, *(more or command.again)).end()
        assert again.code == 0, (command.name, again)
        check_whole(command, out, whole, foreign)
    return result


def disks(count: int, rng: random.Random, folder: Path) -> Iterator[Result]:
    """Yield the results of so many full disks."""
    done = 0
    for command, place, whole in in_turn(folder):
        if done >= count:
            return
        found = one_disk(command, place, whole, rng)
        if found is not None:
            done += 1
            yield found


def main(arguments: list[str] | None = None) -> None:
    """Run, print a line for each disk, and write their sums as JSON."""

    def total(sums: list[Result]) -> dict[str, int]:
        return {"full_disks": sum(one.bytes + one.files + one.lengths for one in sums)}

    campaign("full_disks.py", __doc__, "disks", 30, disks, total, arguments)


if __name__ == "__main__":
    main()
