"""Kill commands at random moments; what they make afterwards must be what it would have been.

`python tests/benchmarks/faults/kills.py --kills 100 --seed 0 --out FILE.json` runs train, certify,
attack, predict, ingest, report, frontier and tune in turn. Half of the kills (SIGKILL) come after a
random time, half just before a random operation on a file. Then the command goes on with
``--resume`` where it has that, or is given again, maybe to be killed again. The output must have
the bits of an undisturbed run, and nothing may be left beside it, or lost.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults.commands import (
    Command,
    Whole,
    campaign,
    check_whole,
    content,
    counting,
    foreign_files,
    in_turn,
    start,
)


@dataclass
class Result:
    """What happened: kills by time and by file operation, and runs that went on to the end."""

    command: str
    by_time: int = 0
    by_operation: int = 0
    ended: int = 0


def _killing(folder: Path, at: int) -> Callable[[], None]:
    """Return what makes a process kill itself just before an operation on a file."""

    def act(number: int) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return counting(folder, act)


def _one_kill(
    command: Command, out: Path, whole: Whole, rng: random.Random, more: tuple[str, ...]
) -> str:
    """Start a command and kill it; return by what, or nothing where it has ended before."""
    if rng.random() < 0.5:
        at = rng.randint(1, whole.operations)
        ended = start(command, out, *more, before=_killing(out.parent, at)).end()
        killed = "by_operation"
    else:
        child = start(command, out, *more)
        early = child.wait(rng.uniform(0, whole.seconds))
        if early is None:
            child.kill()
        ended, killed = early or child.end(), "by_time"
    if ended.code == -signal.SIGKILL:
        return killed
    assert ended.code == 0, (command.name, ended)
    return ""


def chain(command: Command, folder: Path, whole: Whole, rng: random.Random, most: int) -> Result:
    """Kill a command once or more, up to `most`, let it go on, and check what it has made.

    In some runs there is an earlier output, which is whole at every moment.

    Raises
    ------
    AssertionError
        Bits differ, a run failed, or something was left or lost.
    """
    folder.mkdir()
    out = folder / command.out
    foreign, result = foreign_files(out), Result(command.name)
    replaces = not command.is_folder and rng.random() < 0.25
    if replaces:
        assert start(command, out).end().code == 0
    more = again = ("--overwrite",) if replaces else ()
    killed = "never"
    while killed and result.by_time + result.by_operation < most:
        killed = _one_kill(command, out, whole, rng, more)
        if killed:
            setattr(result, killed, getattr(result, killed) + 1)
            more = again or command.again
            if out.exists() and not command.is_folder:
                assert content(out) == whole.content, command.name
                if not replaces:  # killed after it was done
                    break
            if rng.random() < 0.6:
                break
    if killed and (command.is_folder or replaces or not out.exists()):
        ended = start(command, out, *more).end()
        assert ended.code == 0, (command.name, ended)
        result.ended = 1
    check_whole(command, out, whole, foreign)
    return result


def chains(kills: int, rng: random.Random, folder: Path) -> Iterator[Result]:
    """Yield results until there were so many kills, of one command after the other."""
    done = 0
    for command, place, whole in in_turn(folder):
        if done >= kills:
            return
        result = chain(command, place, whole, rng, kills - done)
        done += result.by_time + result.by_operation
        yield result


def main(arguments: list[str] | None = None) -> None:
    """Run, print a line for each chain of kills, and write their sums as JSON."""

    def total(sums: list[Result]) -> dict[str, int]:
        return {"kills": sum(one.by_time + one.by_operation for one in sums)}

    campaign("kills.py", __doc__, "kills", 100, chains, total, arguments)


if __name__ == "__main__":
    main()
