"""Training and certification on a Dask cluster: the same bits, and one line where it fails."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from support.cli_runs import Run, failed
from support.cluster_tools import (
    CHUNK_ROWS,
    OPTIONS,
    TEST_ROWS,
    TRAIN_WORDS,
    Scheduler,
    Started,
    Work,
    assert_same_certificates,
    assert_same_model,
    make_certificates,
    make_work,
    run_both,
    wait_for_workers,
    worker_processes,
)
from support.interruptions import names

from boxnn_numba.backends.threads import default_threads
from boxnn_numba.data.atomic import staged_output
from boxnn_numba.errors import ClusterError, OutputError
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(tmp_path_factory.mktemp("work"))


# --- the same bits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(ClusterOptions(workers=1), marks=pytest.mark.slow),
        ClusterOptions(workers=2, threads_per_worker=1),
        pytest.param(ClusterOptions(workers=4), marks=pytest.mark.slow),
        ClusterOptions(workers=1, threads_per_worker=2, box_shards=3),
    ],
    ids=["1", "2", "4", "sharded"],
)
def test_local_workers_give_the_same_bits(
    cluster: ClusterOptions, work: Work, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_both(work, tmp_path, cluster)
    assert names(tmp_path) == {"m", "c"}
    assert worker_processes() == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("shards", "choice"),
    [
        (0, {"optimizer": "adam", "lr": 0.01}),
        (0, {"parts": "3", "templates": 1, "group_size": 2}),
        (3, {"parts": "columns", "templates": 2, "optimizer": "adam", "lr": 0.01}),
        (2, {"softmin": "logsumexp", "relaxation": "l1", "beta": 9.0}),
        (40, {"softmin": "hard", "objective": "paper", "beta": 0.0}),
        (2, {"softmin": "mean", "objective": "target", "radius": 1, "width": 60, "batch": 500}),
    ],
    ids=str,
)
def test_every_objective_gives_the_same_bits(
    shards: int, choice: dict[str, object], work: Work, external: Scheduler, tmp_path: Path
) -> None:
    values = {**OPTIONS.as_dict(), "epochs": 2, "boxes": 7, **choice}
    options = TrainingOptions(**values)
    train(work.data, tmp_path / "local", options, run=RunOptions(threads=2))
    cluster = ClusterOptions(scheduler=external.address, box_shards=shards)
    result = train(work.data, tmp_path / "m", options, run=RunOptions(cluster=cluster))
    assert result.cluster is not None and result.cluster.repeats == 0
    assert_same_model(tmp_path / "m", dataclasses.replace(work, model=tmp_path / "local"))


@pytest.mark.parametrize("how", ["--scheduler", "--scheduler-file"])
def test_a_running_scheduler(
    how: str, work: Work, external: Scheduler, run_boxnn: Run, tmp_path: Path
) -> None:
    where = (how, external.address if how == "--scheduler" else external.file)
    code, out, err = run_boxnn(
        "train", work.data, "--preset", "graded", "--out", "m", *TRAIN_WORDS, *where
    )
    assert (code, err) == (0, "") and out.startswith("m: 9 boxes")
    assert_same_model(tmp_path / "m", work)
    code, out, err = run_boxnn("certify", work.model, work.data, "--out", "c", *where)
    assert (code, err) == (0, "") and out.startswith("c: 120 samples")
    assert_same_certificates(tmp_path / "c", work)
    assert names(tmp_path) == {"m", "c"}


def test_a_report_of_the_run(work: Work, external: Scheduler, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    cluster = ClusterOptions(scheduler=external.address, performance_report=str(report))
    if importlib.util.find_spec("bokeh") is None:
        with pytest.raises(ClusterError, match=r"needs the bokeh package .*; `pip install bokeh`"):
            train(work.data, tmp_path / "m", OPTIONS, run=RunOptions(cluster=cluster))
        assert names(tmp_path) == set()
        return
    train(work.data, tmp_path / "m", OPTIONS, run=RunOptions(cluster=cluster))
    assert "<html" in report.read_text().lower()


def test_what_a_run_counts(
    work: Work, external: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boxnn_numba.pipelines.training.cluster_trainer.TASK_SECONDS", 1e9)
    cluster = ClusterOptions(scheduler=external.address)
    result = train(work.data, tmp_path / "m", OPTIONS, run=RunOptions(cluster=cluster))
    counts = result.cluster
    assert counts is not None
    assert counts.steps == 4 * 5 + 1 and counts.tasks == 2 * counts.steps
    assert counts.repeats == 0 and 0 < counts.computing < 2 * counts.waiting + 1
    assert 0 < counts.kernels < counts.waiting + 1
    # A batch of 23 rows of 12 features and labels; of a sample, two figures and its entries.
    assert counts.bytes_sent > counts.steps * 23 * 12 and counts.bytes_received > 4 * 108 * 16
    run = RunOptions(cluster=cluster)
    spent = certify(work.model, work.data, tmp_path / "c", run=run).cluster
    assert spent is not None
    # Codes and labels in; prediction, radius, label and three distances out.
    assert spent.tasks == TEST_ROWS / CHUNK_ROWS
    assert spent.nbytes == TEST_ROWS * (12 + 4 + 3 * 4 + 3 * 4)
    assert min(spent.kernels, spent.transfer, spent.overhead) > 0


def test_only_loopback_is_listened_on(work: Work) -> None:
    threads = default_threads()  # all are one worker's
    with connect(ClusterOptions(workers=1)) as executor:
        processes = [psutil.Process(), *worker_processes()]
        found = [
            item
            for process in processes
            for item in process.net_connections("inet")
            if item.status == psutil.CONN_LISTEN
        ]
        assert len(processes) == 2 and len(found) >= 2
        assert {item.laddr.ip for item in found} == {"127.0.0.1"}
        assert executor.slots == threads


# --- TLS -----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_tls(work: Work, tmp_path: Path, run_boxnn: Run) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    options = make_certificates(folder)
    words = [f"--{name.replace('_', '-')}={path}" for name, path in options.items()]
    with Started(folder) as started:
        scheduler = started.scheduler(*words)
        assert scheduler.address.startswith("tls://")
        started.worker(scheduler.address, "--no-nanny", *words)
        # No wait for the worker: the first command does that.
        cluster = ("--scheduler", scheduler.address)
        certify_words = ("certify", work.model, work.data, "--out")
        assert run_boxnn(*certify_words, "c", *cluster, *words)[::2] == (0, "")
        assert_same_certificates(tmp_path / "c", work)
        train_words = ("train", work.data, "--preset", "graded", "--out", "m", *TRAIN_WORDS)
        by_file = ("--scheduler-file", scheduler.file)
        assert run_boxnn(*train_words, *by_file, *words)[::2] == (0, "")
        assert_same_model(tmp_path / "m", work)
        # A client without certificates, and one that pretends the scheduler were plain.
        failed(
            run_boxnn(*certify_words, "x", *cluster),
            1,
            "cannot connect to tls://",
            "certificates fit",
        )
        plain = scheduler.address.replace("tls", "tcp")
        failed(
            run_boxnn(*certify_words, "x", "--scheduler", plain), 1, f"cannot connect to {plain}"
        )
        failed(
            run_boxnn(*certify_words, "x", "--scheduler", plain, *words),
            2, "is a plain connection but TLS was asked for; pass its tls:// address",
        )  # fmt: skip
    assert names(tmp_path) == {"tls", "c", "m"}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_tls_between_local_workers(work: Work, tmp_path: Path) -> None:
    cluster = ClusterOptions(workers=1, threads_per_worker=1, **make_certificates(tmp_path))
    with connect(cluster) as executor:
        assert executor.address.startswith("tls://")
        certify(work.model, work.data, tmp_path / "c", client=executor.client)
    assert_same_certificates(tmp_path / "c", work)


def test_local_workers_refuse_who_has_no_key_of_the_run() -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(ClusterOptions(workers=1, threads_per_worker=1)) as executor:
        scheduler = urlsplit(executor.address)
        with pytest.raises(OSError) as refused:  # noqa: SIM117  # the answer may come late
            with (
                socket.create_connection((scheduler.hostname, scheduler.port), 10) as plain,
                context.wrap_socket(plain) as stranger,
            ):
                stranger.sendall(b"anything")
                if not stranger.recv(1):
                    raise ConnectionResetError
        assert isinstance(refused.value, (ssl.SSLError, ConnectionError))


def test_tls_is_not_given_up_for_a_plain_scheduler(
    work: Work, external: Scheduler, tmp_path: Path, run_boxnn: Run
) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    words = [
        f"--{name.replace('_', '-')}={path}" for name, path in make_certificates(folder).items()
    ]
    start = ("certify", work.model, work.data, "--out", "c", *words)
    failed(run_boxnn(*start, "--scheduler-file", external.file), 2, "plain connection", "tls://")
    assert names(tmp_path) == {"tls"}


# --- what cannot work is said in one line --------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "workers is 0"),
        (["--workers", "1", "--scheduler", "tcp://127.0.0.1:1"], "pass only one of --workers"),
        (["--threads-per-worker", "2"], "--threads-per-worker needs --workers"),
        (["--workers", "1", "--threads-per-worker", "0"], "--threads-per-worker is 0"),
        (["--box-shards", "2"], "--box-shards needs a cluster"),
        (["--workers", "1", "--box-shards", "-1"], "--box-shards is -1"),
        (["--workers", "1", "--tls-cert", sys.executable], "TLS needs all of"),
        (["--workers", "1", "--tls-cert", "nowhere.pem"], "nowhere.pem"),
        (["--scheduler-file", "nowhere.json"], "nowhere.json"),
        (["--scheduler", "127.0.0.1:1", *[
            word
            for name in ("--tls-cert", "--tls-key", "--tls-ca-file")
            for word in (name, sys.executable)
        ]], "is a plain connection but TLS was asked for"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train", "certify"])
def test_options_that_contradict_each_other(
    command: str, words: list[str], message: str, work: Work, run_boxnn: Run, tmp_path: Path
) -> None:
    start = ("train", work.data) if command == "train" else ("certify", work.model, work.data)
    failed(run_boxnn(*start, "--out", "x", *words), 2, message)
    assert names(tmp_path) == set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boxnn_numba.pipelines.cluster.connection._CONNECT_SECONDS", 1)


@pytest.mark.usefixtures("impatient")
def test_no_scheduler_there(work: Work, tmp_path: Path, run_boxnn: Run) -> None:
    (tmp_path / "bad.json").write_text("{")
    start = ("train", work.data, "--preset", "graded", "--out", "x", *TRAIN_WORDS)
    words = "bad.json is not a scheduler file; pass the one that"
    failed(run_boxnn(*start, "--scheduler-file", "bad.json"), 2, words)
    failed(run_boxnn(*start, "--scheduler", "ftp://127.0.0.1:1"), 1, "cannot connect to ftp://")
    failed(
        run_boxnn(*start, "--scheduler", "tcp://127.0.0.1:1"), 1, "check that the scheduler runs"
    )
    assert names(tmp_path) == {"bad.json"}


@pytest.mark.usefixtures("impatient")
def test_a_scheduler_without_workers(
    work: Work, bare: Scheduler, tmp_path: Path, run_boxnn: Run
) -> None:
    start = ("certify", work.model, work.data, "--out", "x", "--scheduler", bare.address)
    failed(run_boxnn(*start), 1, f"{bare.address} has no workers; start some")
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("preload", "message"),
    [
        ("import boxnn_numba.pipelines.cluster.connection as c\nc.__version__ = '0.0.7'\n",
         r"has boxnn-numba 0\.0\.7, this is .*; install the same version on every worker"),
        ("import pathlib\npathlib.Path.exists = lambda self: 'whole.model' not in str(self)\n",
         r"worker tcp://\S+ cannot read .*whole\.model; put it on storage that every worker sees"),
        ("import boxnn_numba.pipelines.cluster.connection as c\nvars(c).pop('worker_report', 0)\n",
         r"worker \S+ cannot run boxnn-numba .*; install the same version on every worker"),
        ("import sys\nsys.modules['boxnn_numba.pipelines.cluster.connection'] = None\n",
         r"worker \S+ cannot run boxnn-numba .*; install the same version on every worker"),
    ],
    ids=["version", "store", "no function", "no package"],
)  # fmt: skip
def test_workers_that_do_not_fit(
    preload: str,
    message: str,
    work: Work,
    bare: Scheduler,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cluster").mkdir()
    with Started(tmp_path / "cluster") as started:
        started.worker(bare.address, "--no-nanny", preload=preload)
        wait_for_workers(bare, 1)
        capfd.readouterr()
        with pytest.raises(ClusterError, match=message) as error:
            certify(
                work.model, work.data, tmp_path / "c",
                run=RunOptions(cluster=ClusterOptions(scheduler=bare.address)),
            )  # fmt: skip
        assert "\n" not in str(error.value)
        assert capfd.readouterr() == ("", "")
    wait_for_workers(bare, 0)


def test_a_damaged_chunk_is_named(
    work: Work, external: Scheduler, tmp_path: Path, run_boxnn: Run
) -> None:
    shutil.copytree(work.data, tmp_path / "bad.zarr")
    chunk = next((tmp_path / "bad.zarr" / "test" / "x" / "c" / "7").rglob("*0"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"!")
    start = ("certify", work.model, "bad.zarr", "--out", "c", "--scheduler", external.address)
    failed(run_boxnn(*start), 1, "chunk 7", "bad.zarr")
    chunk.unlink()
    failed(run_boxnn(*start, "--resume"), 1, "chunk 7", "bad.zarr")
    shutil.copy(next((work.data / "test" / "x" / "c" / "7").rglob("*0")), chunk)
    assert run_boxnn(*start, "--resume")[::2] == (0, "")
    assert_same_certificates(tmp_path / "c", work)


def test_a_second_client_is_refused(work: Work, external: Scheduler, tmp_path: Path) -> None:
    cluster = ClusterOptions(scheduler=external.address)
    with (
        staged_output(tmp_path / "m", resumable=True),
        pytest.raises(OutputError, match="another process is writing"),
    ):
        train(work.data, tmp_path / "m", OPTIONS, run=RunOptions(cluster=cluster, resume=True))
    with (
        staged_output(tmp_path / "c", resumable=True),
        pytest.raises(OutputError, match="another process is writing"),
    ):
        certify(
            work.model, work.data, tmp_path / "c", run=RunOptions(cluster=cluster, overwrite=True)
        )
