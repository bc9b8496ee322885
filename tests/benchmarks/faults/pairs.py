"""Run two processes on one output at a time; one wins or both end well, and the output is whole.

`python tests/benchmarks/faults/pairs.py --pairs 50 --seed 0 --out FILE.json` starts train, certify,
attack, predict, ingest, report, frontier and tune in turn, each twice: the second while the first
runs, alike or with ``--overwrite`` or ``--resume``. Each must end well, or with one line that says
why it did not; one at least must end well. The output must have the bits of an undisturbed run,
and nothing may be left beside it, or lost.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults import commands
from benchmarks.faults.commands import (
    Command,
    Whole,
    check_whole,
    foreign_files,
    one_line,
    start,
    undisturbed,
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


def pairs(count: int, seed: int, folder: Path) -> Iterator[Result]:
    """Yield the results of so many pairs."""
    rng = random.Random(seed)
    (folder / "inputs").mkdir()
    every = commands.make_commands(folder / "inputs")
    known: dict[str, Whole] = {}
    for number in range(count):
        command = every[number % len(every)]
        if command.name not in known:
            known[command.name] = undisturbed(command, folder / f"whole-{command.name}")
        yield one_pair(command, folder / f"pair-{number}", known[command.name], rng)


def main(arguments: list[str] | None = None) -> None:
    """Run, print a line for each pair, and write their sums as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    options = parser.parse_args(arguments)
    commands.load()
    sums: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        for item in pairs(options.pairs, options.seed, Path(folder)):
            sys.stdout.write(f"{item}\n")
            sys.stdout.flush()
            total = sums.setdefault(item.command, Result(item.command))
            for name in ("pairs", "both", "refused"):
                setattr(total, name, getattr(total, name) + getattr(item, name))
            commands.write_result(
                options.out,
                f"python tests/benchmarks/faults/pairs.py --pairs {options.pairs} "
                f"--seed {options.seed}",
                pairs=sum(one.pairs for one in sums.values()), differing=0,
                commands=[asdict(one) for one in sums.values()],
            )  # fmt: skip


if __name__ == "__main__":
    main()
