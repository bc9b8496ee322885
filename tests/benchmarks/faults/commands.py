"""Commands of a small project that faults happen to: their inputs, runs, and what comes out.

A run is a child of this process that has everything imported already, so that what faults hit is
the work and not the start of Python.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: A run that takes longer than this has failed.
SECONDS = 120
#: One that may compile kernels has so many.
_COMPILING = 1200
#: What a run records of itself: when it was, and digests of that.
_OF_THE_RUN = frozenset({"seconds", "seconds_per_sample", "digest", "model_digest"})
#: What is beside an output while it is made, and stays; all else must be gone.
_LOCK = ".{}.lock"
#: Files of the user's beside every output, with names like those of ours.
_FOREIGN = ("{}.old", "{}.bak", ".{}.boxnn-old-notes", ".{}.boxnn-new-notes", "{}.partial.txt")
_SETTINGS = ("--boxes", "6", "--epochs", "3", "--lr", "0.2")


@dataclass(frozen=True)
class Command:
    """A command, and how to go on with it.

    Attributes
    ----------
    name
        Its name.
    words
        Its words without ``--out``.
    again
        What is added to go on after a run that did not end.
    out
        Name of the output.
    is_folder
        Whether its output is filled step by step under its final name.
    """

    name: str
    words: tuple[str, ...]
    again: tuple[str, ...]
    out: str
    is_folder: bool = False

    def line(self, out: Path, *more: str) -> list[str]:
        """Return the words of a run."""
        return [*self.words, "--out", str(out), *more]


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative if killed), seconds, and what it printed as errors."""

    code: int
    seconds: float
    errors: str


def load() -> None:
    """Import what the commands use, without starting a thread."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BOXNN_NUM_THREADS"):
        os.environ[name] = "1"
    import matplotlib

    matplotlib.use("Agg")
    import optuna  # noqa: F401

    import boxnn_numba.cli.attack
    import boxnn_numba.cli.certify
    import boxnn_numba.cli.data
    import boxnn_numba.cli.frontier
    import boxnn_numba.cli.report
    import boxnn_numba.cli.train
    import boxnn_numba.cli.tune
    import boxnn_numba.pipelines.attack.attack
    import boxnn_numba.pipelines.certification.certify
    import boxnn_numba.pipelines.ingest
    import boxnn_numba.pipelines.model_selection.frontier
    import boxnn_numba.pipelines.model_selection.tune
    import boxnn_numba.pipelines.predict
    import boxnn_numba.pipelines.report.report
    import boxnn_numba.pipelines.training.train  # noqa: F401


# --- runs ---------------------------------------------------------------------------------------


class Child:
    """A run in a child of this process.

    Parameters
    ----------
    do
        What it does; its exit code is 0, or that of a `SystemExit`.
    log
        File for what it prints as errors.
    """

    def __init__(self, do: Callable[[], object], log: Path) -> None:
        self._log, self._began = log, time.monotonic()
        log.touch()  # it may be killed before it opens it
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                do()
                code = 0
            except SystemExit as leave:
                code = int(leave.code or 0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)

    def kill(self) -> None:
        """Kill it, as the system does when memory is short."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = SECONDS) -> Ended | None:
        """Return how it ended, or None if it still runs after some seconds."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return Ended(code, time.monotonic() - self._began, self._log.read_text())
            if time.monotonic() > deadline:
                return None
            time.sleep(0.002)

    def end(self, seconds: float = SECONDS) -> Ended:
        """Return how it ended; it is killed, and that an error, after some seconds."""
        ended = self.wait(seconds)
        if ended is None:
            self.kill()
            os.waitpid(self.pid, 0)
            raise TimeoutError(f"a run did not end within {seconds} s: {self._log.read_text()}")
        return ended


def boxnn(words: list[str]) -> None:
    """Run the command line."""
    from boxnn_numba.cli.main import main

    main([*words, "--quiet"])


def start(
    command: Command, out: Path, *more: str, before: Callable[[], None] | None = None
) -> Child:
    """Start a command; `before` is called in its process first."""

    def do() -> None:
        if before is not None:
            before()
        boxnn(command.line(out, *more))

    return Child(
        do, out.parent.parent / f"{out.parent.name}-{os.getpid()}-{time.monotonic_ns()}.err"
    )


def limit_files(size: int) -> None:
    """Let this process write no file that is longer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def one_line(ended: Ended, *words: str) -> None:
    """Check for an error in one line that says some words."""
    said = ended.errors
    assert ended.code in (1, 2), ended
    assert said.startswith("Error: ") and said.count("\n") == 1, ended
    assert all(word in said for word in words), ended


# --- inputs and outputs ---------------------------------------------------------------------------


def _write_inputs(folder: Path) -> None:
    """Write data, a table, a model and certificates."""
    import numpy as np
    from support.data_files import three_clusters

    from boxnn_numba.data import dataset

    split = three_clusters(60)
    dataset.CHUNK_BYTES = 10 * 12
    train, test = split(120), split(60)
    dataset.write_dataset(
        folder / "data.zarr", name="work", classes=["a", "b", "c"], train=train, test=test
    )
    names = ",".join(f"c{k}" for k in range(12))
    rows = ["{},{}".format(",".join(map(str, row)), "abc"[label])
            for row, label in zip(*(side.tolist() for side in train), strict=True)]  # fmt: skip
    (folder / "table.csv").write_text("\n".join([f"{names},label", *rows]) + "\n")
    np.save(folder / "rows.npy", np.concatenate([test[0]] * 20))
    model, certificates = str(folder / "model.zarr"), str(folder / "cert.zarr")
    data = str(folder / "data.zarr")
    boxnn(["train", data, "--preset", "graded", "--out", model, *_SETTINGS])
    boxnn(["certify", model, data, "--out", certificates])


def make_commands(folder: Path) -> list[Command]:
    """Write the inputs to a folder; return the commands."""
    ended = Child(lambda: _write_inputs(folder), folder / "inputs.err").end(_COMPILING)
    assert ended.code == 0, ended
    data, model = str(folder / "data.zarr"), str(folder / "model.zarr")
    table = str(folder / "table.csv")
    held, again = ("--validation", "0.3"), ("--resume",)
    return [
        Command("train", ("train", data, "--preset", "graded", *_SETTINGS), again, "m.zarr"),
        Command("certify", ("certify", model, data), again, "c.zarr"),
        Command("attack", ("attack", model, data), again, "a.zarr"),
        Command("predict", ("predict", model, str(folder / "rows.npy")), (), "p.csv"),
        Command("ingest", ("data", "ingest", table, "--label", "label"), (), "d.zarr"),
        Command("report", ("report", str(folder / "cert.zarr")), (), "report"),
        Command(
            "frontier", ("frontier", data, "--targets", "1", *_SETTINGS, *held), again, "f", True
        ),
        Command(
            "tune", ("tune", data, "--trials", "3", *_SETTINGS[:4], *held), again, "s.json", True
        ),
    ]  # fmt: skip


def _timeless(value: Any, folder: str) -> Any:
    """Return JSON values without what a run says of its own time, and where a folder is."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if key not in _OF_THE_RUN}
        return {key: _timeless(one, folder) for key, one in kept.items()}
    if isinstance(value, str):
        return value.replace(folder, "")
    return [_timeless(one, folder) for one in value] if isinstance(value, list) else value


def content(out: Path) -> dict[str, Any]:
    """Return what an output holds, file by file, but for times and for where it is."""
    files = sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else [out]
    found: dict[str, Any] = {}
    for path in files:
        whole = path.read_bytes()
        found[str(path.relative_to(out.parent))] = (
            _timeless(json.loads(whole), str(out.parent)) if path.suffix == ".json" else whole
        )
    return found


@dataclass(frozen=True)
class Whole:
    """A run that nothing happened to: what it made, how long it took, and its file operations."""

    content: dict[str, Any]
    seconds: float
    operations: int


def counting(folder: Path, act: Callable[[int], None]) -> Callable[[], None]:
    """Return what calls `act` in its process with the number of each file operation in a folder."""
    place, done = f"{folder}{os.sep}", [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" or event.startswith(("os.", "shutil.")):
            named = arguments and isinstance(arguments[0], str | os.PathLike)
            if named and os.fspath(arguments[0]).startswith(place):
                done[0] += 1
                act(done[0])

    return lambda: sys.addaudithook(hook)


def undisturbed(command: Command, folder: Path) -> Whole:
    """Run a command in a folder of its own, and return what comes of it."""
    folder.mkdir()
    record = folder.parent / f"{folder.name}.operations"
    record.write_text("0")
    out = folder / command.out

    def act(number: int) -> None:
        record.write_text(str(number))

    ended = start(command, out, before=counting(folder, act)).end(_COMPILING)
    assert ended.code == 0, ended.errors[-2000:]
    return Whole(content(out), ended.seconds, int(record.read_text()))


def foreign_files(out: Path) -> dict[str, bytes]:
    """Write files of the user's beside an output; return them by name."""
    found = {name.format(out.name): f"mine: {name}".encode() for name in _FOREIGN}
    for name, words in found.items():
        (out.parent / name).write_bytes(words)
    return found


def check_whole(command: Command, out: Path, whole: Whole, foreign: dict[str, bytes]) -> None:
    """Check that an output is that of an undisturbed run, and that nothing else was left or lost.

    foreign are files of the user's beside it, by name.
    """
    found = content(out)
    differing = [name for name in {*found, *whole.content}
                 if found.get(name) != whole.content.get(name)]  # fmt: skip
    assert not differing, (command.name, differing)
    left = {path.name for path in out.parent.iterdir()} - {out.name, _LOCK.format(out.name)}
    assert left == set(foreign), (command.name, left)
    for name, words in foreign.items():
        assert (out.parent / name).read_bytes() == words, (command.name, name)


# --- scripts ------------------------------------------------------------------------------------


def in_turn(folder: Path) -> Iterator[tuple[Command, Path, Whole]]:
    """Yield without end a command, a folder to make for it, and what it makes undisturbed."""
    (folder / "inputs").mkdir()
    known: dict[str, Whole] = {}
    for number, command in enumerate(itertools.cycle(make_commands(folder / "inputs"))):
        if command.name not in known:
            known[command.name] = undisturbed(command, folder / f"whole-{command.name}")
        yield command, folder / f"run-{number}", known[command.name]


def campaign(
    script: str,
    doc: str | None,
    what: str,
    count: int,
    results: Callable[[int, random.Random, Path], Iterator[Any]],
    total: Callable[[list[Any]], dict[str, int]],
    arguments: list[str] | None,
) -> None:
    """Run a script of faults: print a line for each result, and write their sums as JSON.

    Parameters
    ----------
    script, doc
        Its file in this folder, and what it says of itself.
    what, count
        Its option for how many faults, and how many there are without it.
    results
        Yields, for a number of faults, results: dataclasses of a `command` and counts.
    total
        Returns what the file says of the sums of all commands.
    arguments
        The script's words; those of this process if None.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument(f"--{what}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    options = vars(parser.parse_args(arguments))
    words = f"python tests/benchmarks/faults/{script} --{what} {options[what]}"
    load()
    sums: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for item in results(options[what], random.Random(options["seed"]), Path(folder)):
            sys.stdout.write(f"{item}\n")
            sys.stdout.flush()
            one = sums.setdefault(item.command, type(item)(item.command))
            for field in fields(item)[1:]:
                setattr(one, field.name, getattr(one, field.name) + getattr(item, field.name))
            _write_result(
                options["out"],
                f"{words} --seed {options['seed']}",
                **total(list(sums.values())),
                differing=0,
                commands=[asdict(one) for one in sums.values()],
            )


def _write_result(out: str | None, command: str, **figures: Any) -> None:
    """Write what a script has counted so far as JSON."""
    from boxnn_numba import __version__

    date = datetime.now(UTC).date().isoformat()
    result = {"command": command, "date": date, "version": __version__, **figures}
    if out is not None:
        Path(out).write_text(json.dumps(result, indent=1) + "\n")
