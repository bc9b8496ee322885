"""Dask clusters for tests: on loopback, bounded in time, gone when the test is over."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import distributed  # before its configuration is changed, or that is lost
import numpy as np
import psutil
from support.data_files import three_clusters

from boxnn_numba.data import dataset as store
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.model_store import load_model
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions

#: A process of a test that loses its parent ends after this many seconds.
_BOUND = "import signal; signal.alarm(3600); "
BOXNN = [sys.executable, "-P", "-c", f"{_BOUND}from boxnn_numba.cli.main import main; main()"]
CHUNK_ROWS = 4
TEST_ROWS = 120
#: Odd sizes: batches, pieces and shards that do not divide anything.
OPTIONS = TrainingOptions(boxes=9, epochs=4, batch=23, lr=0.1)
#: The same for the command line, whatever the preset.
TRAIN_WORDS = [
    word
    for name, value in OPTIONS.as_dict().items()
    for word in (f"--{name.replace('_', '-')}", str(value))
]

#: What a worker of a test runs first: its tasks take as long as those of a large run.
SLOW_TASKS = """
import time
from boxnn_numba.pipelines import chunks
from boxnn_numba.training import softmin_stages

def slowed(function, seconds):
    def run(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)
    return run

chunks.write_chunk = slowed(chunks.write_chunk, 0.03)
softmin_stages.forward = slowed(softmin_stages.forward, 0.03)
stages = softmin_stages.SoftMinStages
stages.judge = slowed(stages.judge, 0.03)
"""


@dataclass(frozen=True)
class Work:
    """A dataset of many small chunks, and what an uninterrupted local run makes of it.

    Attributes
    ----------
    folder, data, model, certificates
        Where everything is; `model` and `certificates` were made in one process.
    """

    folder: Path
    data: Path
    model: Path
    certificates: Path


def make_work(folder: Path) -> Work:
    """Write a dataset of 3 classes and 12 features; train and certify it in this process."""
    split = three_clusters(30)
    work = Work(folder, folder / "data.zarr", folder / "whole.model", folder / "whole.cert")
    before, store.CHUNK_BYTES = store.CHUNK_BYTES, CHUNK_ROWS * 12
    try:
        store.write_dataset(
            work.data, name="work", classes=[3, 5, 8], train=split(120), test=split(TEST_ROWS)
        )
    finally:
        store.CHUNK_BYTES = before
    train(work.data, work.model, OPTIONS, run=RunOptions(threads=1))
    certify(work.model, work.data, work.certificates, run=RunOptions(threads=1))
    return work


def assert_same_model(path: Path, work: Work) -> None:
    """Check a model against that of the local run: boxes, history and options, bit for bit."""
    one, two = load_model(path), load_model(work.model)
    np.testing.assert_array_equal(one.boxes.lower, two.boxes.lower)
    np.testing.assert_array_equal(one.boxes.upper, two.boxes.upper)
    trainings = [dict(model.training) for model in (one, two)]
    for training in trainings:
        training["history"] = [{**row, "seconds": 0} for row in training["history"]]
        training.pop("preset", None)
    assert trainings[0] == trainings[1]


def assert_same_certificates(path: Path, work: Work) -> None:
    """Check certificates against those of the local run, bit for bit."""
    one, two = open_certificate(path), open_certificate(work.certificates)
    for name in ("prediction", "radius", "label", "class_distance"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.attributes["digests"] == two.attributes["digests"]


def finished_chunks(out: Path) -> set[int]:
    """Return which chunks of an unfinished certificate file are done."""
    folder = out.with_name(out.name + ".partial") / "finished" / "c"
    if not folder.is_dir():
        return set()
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def run_both(work: Work, out: Path, cluster: ClusterOptions) -> None:
    """Train and certify on a cluster and compare with the local run."""
    train(work.data, out / "m", OPTIONS, run=RunOptions(cluster=cluster))
    assert_same_model(out / "m", work)
    certify(work.model, work.data, out / "c", run=RunOptions(cluster=cluster))
    assert_same_certificates(out / "c", work)


@contextlib.contextmanager
def workers_run_first(code: str) -> Iterator[None]:
    """Have the workers that this process starts run some code before anything else."""
    with dask.config.set({"distributed.worker.preload": [code]}):
        yield


def worker_processes(parent: int | None = None) -> list[psutil.Process]:
    """Return the worker processes that a process (this one) started, wherever below it."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def ended(processes: Sequence[psutil.Process], seconds: float = 15) -> bool:
    """Wait until processes are gone; whether they are."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


class KillingProgress:
    """A progress object that kills worker processes with SIGKILL while the run goes on.

    Parameters
    ----------
    after
        Samples done before each kill.
    seed
        Chooses the worker, and how many milliseconds later it dies.
    choose
        Gives the processes of which one is killed; by default the workers that this one started.
    """

    def __init__(
        self,
        after: Sequence[int],
        seed: int = 0,
        choose: Callable[[], list[psutil.Process]] = worker_processes,
    ) -> None:
        self._left = sorted(after)
        self._random = random.Random(seed)
        self._choose = choose
        self.done = 0
        self.killed: list[int] = []

    def start(self, total: int, unit: str) -> None:
        """Forget what was done before."""
        self.done = 0

    def note(self, text: str) -> None:
        """Ignore a line."""

    def advance(self, n: int) -> None:
        """Count samples; kill a worker a little later when it is time."""
        self.done += n
        while self._left and self.done >= self._left[0]:
            self._left.pop(0)
            timer = threading.Timer(self._random.uniform(0, 0.08), self._kill)
            timer.start()

    def _kill(self) -> None:
        workers = self._choose()
        if workers:
            victim = self._random.choice(workers)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                self.killed.append(victim.pid)


def _dask(name: str) -> list[str]:
    return [
        sys.executable, "-c", f"{_BOUND}from distributed.cli.dask_{name} import main; main()",
    ]  # fmt: skip


class Started:
    """Processes of a test, each in a group of its own; all end with the `with` block.

    Parameters
    ----------
    folder
        Where their output goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.processes):
            self.stop(process)

    def start(self, words: Sequence[object], prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a process; its output is appended to files named like its number."""
        number = len(self.processes)
        environment = {
            **os.environ, "BOXNN_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
            # Processes that wait look at themselves a hundred times a second otherwise.
            "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
            "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "1s",
            "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
            "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "2s",
        }  # fmt: skip
        with (
            (self.folder / f"{number}.out").open("wb") as out,
            (self.folder / f"{number}.err").open("wb") as err,
        ):
            process = subprocess.Popen(
                [*prefix, *map(str, words)], stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                cwd=self.folder, env=environment, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def output(self, process: subprocess.Popen[bytes]) -> tuple[str, str]:
        """Return what a process wrote to standard output and error so far."""
        number = self.processes.index(process)
        return tuple((self.folder / f"{number}.{end}").read_text() for end in ("out", "err"))  # type: ignore[return-value]

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process and everything it started."""
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
        for item in [*below, psutil.Process(process.pid)] if process.poll() is None else below:
            with contextlib.suppress(psutil.NoSuchProcess):
                item.send_signal(signal.SIGKILL)
        process.wait(20)

    def scheduler(
        self, *words: object, host: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> Scheduler:
        """Start a scheduler and wait until it listens."""
        file = self.folder / f"scheduler-{len(self.processes)}.json"
        process = self.start(
            [*_dask("scheduler"), "--host", host, "--port", 0,
             "--no-dashboard", "--no-jupyter", "--no-show", "--scheduler-file", file, *words],
            prefix,
        )  # fmt: skip
        wait_until(lambda: file.is_file() and bool(file.read_text()), process)
        return Scheduler(process, file, json.loads(file.read_text())["address"])

    def worker(
        self,
        address: str,
        *words: object,
        preload: str = "",
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a worker of one thread; `preload` is code that it runs first."""
        if preload:
            path = self.folder / f"preload-{len(self.processes)}.py"
            path.write_text(preload)
            words = (*words, "--preload", path)
        return self.start(
            [*_dask("worker"), address, "--host", host,
             "--nthreads", 1, "--no-dashboard", "--local-directory", self.folder,
             "--death-timeout", 60, *words],
            prefix,
        )  # fmt: skip


@dataclass(frozen=True)
class Scheduler:
    """A running scheduler: its process, its file and its address."""

    process: subprocess.Popen[bytes]
    file: Path
    address: str


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: int = 60
) -> None:
    """Wait until something is so, while a process that it depends on runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.01)


def wait_for_workers(scheduler: Scheduler, count: int, security: Any = None) -> None:
    """Wait until a scheduler has so many workers."""
    with distributed.Client(scheduler.address, security=security, set_as_default=False) as client:
        wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == count)


def make_certificates(folder: Path) -> dict[str, str]:
    """Make an authority and a certificate signed by it; return the client's TLS options."""
    ca, key, cert = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
    authority_key, request = folder / "ca-key.pem", folder / "request.pem"
    new_key = ["-newkey", "rsa:2048", "-nodes"]
    for words in (
        ["req", "-x509", *new_key, "-keyout", authority_key, "-out", ca, "-days", 2,
         "-subj", "/CN=test authority"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", authority_key, "-CAcreateserial",
         "-out", cert, "-days", 2],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    return {"tls_ca_file": str(ca), "tls_cert": str(cert), "tls_key": str(key)}
