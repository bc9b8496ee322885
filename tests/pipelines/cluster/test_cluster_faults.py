"""Workers, clients and schedulers that die or fail: the same bits, or one line of advice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from benchmarks.faults import cluster_kills
from support.cluster_tools import (
    BOXNN,
    OPTIONS,
    SLOW_TASKS,
    TRAIN_WORDS,
    KillingProgress,
    Scheduler,
    Started,
    Work,
    assert_same_certificates,
    assert_same_model,
    ended,
    finished_chunks,
    make_work,
    wait_for_workers,
    wait_until,
    worker_processes,
    workers_run_first,
)
from support.interruptions import Stopper, names

from boxnn_numba.errors import ClusterError, InterruptedRunError, OutputError
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train

#: Minutes in all; `pytest -m slow` runs them.
pytestmark = pytest.mark.slow

TWO = ClusterOptions(workers=2, threads_per_worker=1)
FULL_DISK = """
import errno
from boxnn_numba.pipelines import chunks

real = getattr(chunks, "real_write_chunk", chunks.write_chunk)
chunks.real_write_chunk = real

def write_chunk(out, index, *values, **extra):
    if index >= 9:
        raise OSError(errno.ENOSPC, "No space left on device")
    real(out, index, *values, **extra)

chunks.write_chunk = write_chunk
"""
#: Dask does not restart a worker that dies before it is known to have started.
KILLS_ITS_WORKER = """
import os, signal, time
from boxnn_numba.pipelines import chunks
from boxnn_numba.training import softmin_stages

real = getattr(chunks, "real_write_chunk", chunks.write_chunk)
chunks.real_write_chunk = real

def write_chunk(out, index, *values, **extra):
    if index == 11:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    real(out, index, *values, **extra)

def forward(*arguments):
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)

chunks.write_chunk = write_chunk
softmin_stages.forward = forward
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(tmp_path_factory.mktemp("work"))


def one_line(error: pytest.ExceptionInfo[BaseException]) -> None:
    assert "\n" not in str(error.value)


def command_words(command: str, work: Work, out: Path) -> list[object]:
    if command == "train":
        return ["train", work.data, "--preset", "graded", "--out", out, *TRAIN_WORDS]
    return ["certify", work.model, work.data, "--out", out]


def underway(out: Path) -> bool:
    """Whether a run has done something that it can resume from."""
    checkpoint = out.with_name(out.name + ".partial") / "checkpoint.npz"
    return checkpoint.exists() or len(finished_chunks(out)) > 5


def assert_same_output(command: str, out: Path, work: Work) -> None:
    (assert_same_model if command == "train" else assert_same_certificates)(out, work)


# --- workers killed ------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_killed_while_training(
    workers: int, shards: int, work: Work, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = ClusterOptions(workers=workers, threads_per_worker=1, box_shards=shards)
    progress = KillingProgress([60, 200, 330], seed=workers)
    with workers_run_first(SLOW_TASKS):
        train(
            work.data, tmp_path / "m", OPTIONS, run=RunOptions(cluster=cluster, progress=progress)
        )
    assert progress.killed
    assert_same_model(tmp_path / "m", work)
    assert names(tmp_path) == {"m"} and ended(worker_processes())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_killed_while_certifying(
    workers: int, work: Work, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster = ClusterOptions(workers=workers, threads_per_worker=1)
    progress = KillingProgress([10, 40, 80], seed=workers)
    with workers_run_first(SLOW_TASKS):
        certify(
            work.model,
            work.data,
            tmp_path / "c",
            run=RunOptions(cluster=cluster, progress=progress),
        )
    assert progress.killed and progress.done == 120  # every sample counted once
    assert_same_certificates(tmp_path / "c", work)
    assert names(tmp_path) == {"c"} and ended(worker_processes())
    assert capfd.readouterr() == ("", "")


def test_a_killed_worker_costs_less_than_ten_seconds(work: Work, tmp_path: Path) -> None:
    seconds = []
    for name, kills in (("calm", []), ("killed", [120])):
        began = time.monotonic()
        with workers_run_first(SLOW_TASKS):
            train(
                work.data,
                tmp_path / name,
                OPTIONS,
                run=RunOptions(cluster=TWO, progress=KillingProgress(kills)),
            )
        seconds.append(time.monotonic() - began)
        assert_same_model(tmp_path / name, work)
    assert seconds[1] < seconds[0] + 10


# --- the client killed ---------------------------------------------------------------------


def start_slow(started: Started, *words: object) -> subprocess.Popen[bytes]:
    """Start `boxnn WORDS` with workers whose tasks are slow."""
    preload = started.folder / "slow.py"
    preload.write_text(SLOW_TASKS)
    return started.start(["env", f"DASK_DISTRIBUTED__WORKER__PRELOAD={preload}", *BOXNN, *words])


@pytest.mark.parametrize("command", ["train", "certify"])
def test_kill_9_of_the_client(command: str, work: Work, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    out = tmp_path / "out"
    words = command_words(command, work, out)
    with Started(tmp_path / "logs") as started:
        process = start_slow(started, *words, "--workers", 2)
        wait_until(lambda: underway(out), process)
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(worker_processes(process.pid)) == 2
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert ended(below), below
        assert not out.exists()
        again = started.start([*BOXNN, *words, "--workers", 2, "--resume"])
        assert again.wait(100) == 0, started.output(again)
        assert started.output(again)[1] == ""
    assert_same_output(command, out, work)
    assert names(tmp_path) - {".out.lock"} == {"logs", "out"}


@pytest.mark.parametrize("command", ["train", "certify"])
def test_ctrl_c(command: str, work: Work, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    out = tmp_path / "out"
    words = command_words(command, work, out)
    with Started(tmp_path / "logs") as started:
        process = start_slow(started, *words, "--workers", 2)
        wait_until(lambda: underway(out), process)
        below = psutil.Process(process.pid).children(recursive=True)
        deadline = time.monotonic() + 30
        while process.poll() is None:  # by somebody who does not wait
            assert time.monotonic() < deadline
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
            time.sleep(0.05)
        assert process.wait(30) == 130, started.output(process)
        out_text, err_text = started.output(process)
        assert out_text == "" and err_text.count("\n") == 1, err_text
        assert err_text.startswith("Error: interrupted; ") and "--resume" in err_text
        assert ended(below), below


def test_a_stopped_run_resumes_on_a_cluster_and_back(work: Work, tmp_path: Path) -> None:
    for cluster, after in ((TWO, 150), (ClusterOptions(), 100), (TWO, 90)):
        with pytest.raises(InterruptedRunError, match="epochs are kept"):
            train(
                work.data,
                tmp_path / "m",
                OPTIONS,
                run=RunOptions(cluster=cluster, resume=True, progress=Stopper(after)),
            )
    train(work.data, tmp_path / "m", OPTIONS, run=RunOptions(cluster=TWO, resume=True))
    assert_same_model(tmp_path / "m", work)


# --- the scheduler killed ------------------------------------------------------------------


def own_cluster(started: Started, workers: int, *words: object, preload: str) -> Scheduler:
    scheduler = started.scheduler()
    for _ in range(workers):
        started.worker(scheduler.address, *words, preload=preload)
    wait_for_workers(scheduler, workers)
    return scheduler


@pytest.mark.parametrize("command", ["train", "certify"])
def test_the_scheduler_killed(command: str, work: Work, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    out = tmp_path / "out"
    words = command_words(command, work, out)
    with Started(tmp_path / "logs") as started:
        scheduler = own_cluster(started, 2, "--no-nanny", preload=SLOW_TASKS)
        process = started.start([*BOXNN, *words, "--scheduler", scheduler.address])
        wait_until(lambda: underway(out), process)
        began = time.monotonic()
        scheduler.process.send_signal(signal.SIGKILL)
        assert process.wait(60) == 1
        assert time.monotonic() - began < 35
        out_text, err_text = started.output(process)
        assert out_text == "" and err_text.count("\n") == 1, err_text
        assert err_text.startswith(f"Error: lost the scheduler at {scheduler.address}")
        assert "continue with --resume" in err_text and not out.exists()
        again = started.start([*BOXNN, *words, "--workers", 1, "--resume"])
        assert again.wait(100) == 0, started.output(again)
    assert_same_output(command, out, work)


# --- workers that fail ---------------------------------------------------------------------


def test_a_full_disk_on_a_worker(work: Work, tmp_path: Path) -> None:
    words = r"no space left while writing chunk \d+ of .*c\.partial; free some space"
    with workers_run_first(FULL_DISK), pytest.raises(OutputError, match=words) as error:
        certify(work.model, work.data, tmp_path / "c", run=RunOptions(cluster=TWO))
    one_line(error)
    assert finished_chunks(tmp_path / "c") <= set(range(9)) and not (tmp_path / "c").exists()
    certify(work.model, work.data, tmp_path / "c", run=RunOptions(cluster=TWO, resume=True))
    assert_same_certificates(tmp_path / "c", work)


def test_a_task_that_kills_its_worker(work: Work, tmp_path: Path) -> None:
    # Its neighbours may have waited at the same workers each time.
    which = r"chunk (\d+ or )*11( or \d+)*"
    words = which + " killed its worker 4 times .out of memory.*; give the workers more memory"
    # On a busy machine Dask may give both workers up before.
    given_up = "|the last worker of .* was lost and none came back in 60 s"
    words += given_up
    with workers_run_first(KILLS_ITS_WORKER):
        with pytest.raises(ClusterError, match=words) as error:
            certify(work.model, work.data, tmp_path / "c", run=RunOptions(cluster=TWO))
        one_line(error)
        kept = finished_chunks(tmp_path / "c")
        assert kept and 11 not in kept
        words = "killed its worker 4 times|were lost 8 times" + given_up
        with pytest.raises(ClusterError, match=words) as error:
            train(work.data, tmp_path / "m", OPTIONS, run=RunOptions(cluster=TWO))
        one_line(error)
    certify(work.model, work.data, tmp_path / "c", run=RunOptions(cluster=TWO, resume=True))
    assert_same_certificates(tmp_path / "c", work)


@pytest.mark.parametrize(("command", "shards"), [("train", 0), ("train", 2), ("certify", 0)])
def test_the_last_worker_does_not_come_back(
    command: str, shards: int, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boxnn_numba.pipelines.cluster.dask_executor._RESTART_SECONDS", 2)
    (tmp_path / "logs").mkdir()
    with Started(tmp_path / "logs") as started:
        scheduler = own_cluster(started, 1, "--no-nanny", preload=SLOW_TASKS)
        worker = psutil.Process(started.processes[-1].pid)
        progress = KillingProgress([30], choose=lambda: [worker])
        cluster = ClusterOptions(scheduler=scheduler.address, box_shards=shards)
        words = "none came back in 2 s; start workers and continue with `resume`"
        with pytest.raises(ClusterError, match=words) as error:
            if command == "train":
                train(
                    work.data,
                    tmp_path / "m",
                    OPTIONS,
                    run=RunOptions(cluster=cluster, progress=progress),
                )
            else:
                certify(
                    work.model,
                    work.data,
                    tmp_path / "m",
                    run=RunOptions(cluster=cluster, progress=progress),
                )
        one_line(error)


# --- kills at random moments ---------------------------------------------------------------


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    results: list[Any] = list(cluster_kills.runs(3, seed=1, folder=tmp_path))
    assert len(results) == 3 and all(item.same_bits for item in results)
