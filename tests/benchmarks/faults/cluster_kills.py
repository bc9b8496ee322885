"""Kill workers and clients at random moments; nothing may be lost or wrong.

`python tests/benchmarks/faults/cluster_kills.py --runs 20 --seed 0` trains and certifies that often
on local worker processes. In every run, workers or the client die by SIGKILL at random moments; a
client that died is started again with --resume until it ends. The model and the certificates must
be those of an uninterrupted run in one process, bit for bit, and no process may be left over.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.cluster_tools import (
    BOXNN,
    SLOW_TASKS,
    TRAIN_WORDS,
    Started,
    Work,
    assert_same_certificates,
    assert_same_model,
    ended,
    make_work,
    worker_processes,
)

#: A run that takes longer than this has failed.
_SECONDS = 180
#: So often the client is killed at most; then it may finish.
_CLIENT_KILLS = 3
#: So many workers are killed at most each time the client is started.
_WORKER_KILLS = 3


@dataclass
class Result:
    """What happened in one run: kills of each kind, clients started, seconds, and the outcome."""

    command: str
    worker_kills: int = 0
    client_kills: int = 0
    starts: int = 0
    seconds: float = 0.0
    same_bits: bool = False


def _harass(process: subprocess.Popen[bytes], rng: random.Random, result: Result) -> None:
    """Kill workers, and maybe the client, at random moments until the client ends."""
    deadline = time.monotonic() + _SECONDS
    kills_client = result.client_kills < _CLIENT_KILLS and rng.random() < 0.5
    client_dies = time.monotonic() + rng.uniform(1.0, 6.0)
    worker_dies = time.monotonic() + rng.uniform(0.5, 4.0)
    before = result.worker_kills
    while process.poll() is None:
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"the run did not end within {_SECONDS} s")
        if now > worker_dies and result.worker_kills < before + _WORKER_KILLS:
            workers = worker_processes(process.pid)
            if workers:
                rng.choice(workers).kill()
                result.worker_kills += 1
            worker_dies = now + rng.uniform(0.3, 4.0)
        if kills_client and now > client_dies:
            process.kill()
            result.client_kills += 1
        time.sleep(0.01)


def one_run(number: int, rng: random.Random, work: Work, folder: Path) -> Result:
    """Train or certify once under fire, and compare with the run in one process.

    Raises
    ------
    AssertionError
        Bits differ, a client failed, or processes are left over.
    TimeoutError
        The run hangs.
    """
    result = Result("train" if number % 2 == 0 else "certify")
    out = folder / f"run-{number}"
    words: list[object] = ["certify", work.model, work.data, "--out", out]
    if result.command == "train":
        words = ["train", work.data, "--preset", "graded", "--out", out, *TRAIN_WORDS]
        if rng.random() < 0.5:
            words += ["--box-shards", 3]
    words += ["--workers", rng.choice([1, 2]), "--threads-per-worker", 1]
    preload = folder / "slow.py"
    preload.write_text(SLOW_TASKS)
    slow = ["env", f"DASK_DISTRIBUTED__WORKER__PRELOAD={preload}"]
    began = time.monotonic()
    logs = folder / f"logs-{number}"
    logs.mkdir()
    # Of this process itself, e.g. what multiprocessing keeps once it was used.
    known = set(psutil.Process().children(recursive=True))
    with Started(logs) as started:
        while not out.exists():
            result.starts += 1
            process = started.start([*slow, *BOXNN, *words, "--resume"])
            before = result.client_kills
            _harass(process, rng, result)
            left = set(psutil.Process().children(recursive=True)) - known
            assert ended([item for item in left if item.pid != process.pid]), left
            printed = started.output(process)
            assert process.returncode == 0 or result.client_kills > before, printed
            # Python itself complains of a client that was killed, not of one that ended.
            assert process.returncode != 0 or printed[1] == "", printed
    result.seconds = time.monotonic() - began
    if result.command == "train":
        assert_same_model(out, work)
    else:
        assert_same_certificates(out, work)
    assert not out.with_name(out.name + ".partial").exists()
    result.same_bits = True
    return result


def runs(count: int, seed: int, folder: Path) -> Iterator[Result]:
    """Yield the results of `count` runs, alternately of training and of certification."""
    rng = random.Random(seed)
    work = make_work(folder)
    for number in range(count):
        yield one_run(number, rng, work, folder)


def main() -> None:
    """Run and print a line per run; exits with 1 at the first that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, item in enumerate(runs(options.runs, options.seed, Path(folder))):
            sys.stdout.write(
                f"{number:>3} {item.command:<8} {item.worker_kills} workers and "
                f"{item.client_kills} clients killed, {item.starts} starts, "
                f"{item.seconds:.1f} s, same bits\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
