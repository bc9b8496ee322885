"""Run two processes on one output at a time; one wins or both end well, and the output is whole.

`python tests/benchmarks/faults/pairs.py --pairs 50 --seed 0 --out FILE.json` starts train, certify,
attack, predict, ingest, report, frontier and tune in turn, each twice: the second while the first
runs, alike or with ``--overwrite`` or ``--resume``. Each must end well, or with one line that says
why it did not; one at least must end well. The output must have the bits of an undisturbed run,
and nothing may be left beside it, or lost.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults.commands import (
    Command,
    Whole,
    campaign,
    check_whole,
    foreign_files,
    in_turn,
    one_line,
    start,
)


@dataclass
class Result:
    """What happened: pairs, of these how many in which both ended well, and what was refused."""

    command: str
    pairs: int = 0
    both: int = 0
    refused: int = 0


def one_pair(command: Command, folder: Path, whole: Whole, rng: random.Random) -> Result:
    """Run a pair and check what it has made.

    Raises
    ------
    AssertionError
        Both failed, one otherwise than in a line, or something was left, lost or differs.
    """
    folder.mkdir()
    out = folder / command.out
    foreign = foreign_files(out)
    ways = [(), ("--overwrite",), command.again]
    runs = [start(command, out, *rng.choice(ways))]
    time.sleep(rng.uniform(0, 0.8) * whole.seconds)
    runs.append(start(command, out, *rng.choice(ways)))
    ended = [run.end() for run in runs]
    failed = [one for one in ended if one.code != 0]
    assert len(failed) < 2, (command.name, ended)
    for one in failed:
        one_line(one)
    check_whole(command, out, whole, foreign)
    return Result(command.name, 1, int(not failed), len(failed))


def pairs(count: int, rng: random.Random, folder: Path) -> Iterator[Result]:
    """Yield the results of so many pairs."""
    for command, place, whole in itertools.islice(in_turn(folder), count):
        yield one_pair(command, place, whole, rng)


def main(arguments: list[str] | None = None) -> None:
    """Run, print a line for each pair, and write their sums as JSON."""

    def total(sums: list[Result]) -> dict[str, int]:
        return {"pairs": sum(one.pairs for one in sums)}

    campaign("pairs.py", __doc__, "pairs", 50, pairs, total, arguments)


if __name__ == "__main__":
    main()
