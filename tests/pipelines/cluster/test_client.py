"""A client of the caller: the same bits on its cluster, and left as it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from support.cluster_tools import (
    OPTIONS,
    KillingProgress,
    Work,
    assert_same_certificates,
    assert_same_model,
    make_work,
)

from boxnn_numba.errors import ClusterError, OptionError
from boxnn_numba.pipelines.attack.attack import attack
from boxnn_numba.pipelines.certification.baselines import certify_baseline
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster import connection, dask_executor
from boxnn_numba.pipelines.cluster.dask_executor import DaskExecutor
from boxnn_numba.pipelines.cluster.options import IN_PROCESS, ClusterOptions
from boxnn_numba.pipelines.model_selection.frontier import frontier
from boxnn_numba.pipelines.reproduce.reproduce import reproduce
from boxnn_numba.pipelines.running import DEFAULT_RUN, RunOptions
from boxnn_numba.pipelines.training.train import train

_LOOPBACK: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
#: Threads of this process are workers, too.
_THREADS: dict[str, Any] = {**_LOOPBACK, "processes": False, "protocol": "inproc://"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module", params=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of two workers that is in scope nowhere."""
    where = _THREADS if request.param == "threads" else {**_LOOPBACK, "host": "127.0.0.1"}
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, **where) as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


@pytest.fixture
def threads() -> Iterator[Client]:
    """A client in scope, whose workers are threads of this process."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **_THREADS) as cluster,
        Client(cluster) as made,
    ):
        yield made


def run_on_cluster(work: Work, out: Path, **where: Any) -> None:
    trained = train(work.data, out / "m", OPTIONS, **where)
    assert trained.cluster is not None and trained.cluster.steps > 0
    assert_same_model(out / "m", work)
    certified = certify(work.model, work.data, out / "c", **where)
    assert certified.cluster is not None and certified.cluster.tasks > 0
    assert_same_certificates(out / "c", work)


# --- the same bits -------------------------------------------------------------------------


def test_a_client_that_is_given(client: Client, work: Work, tmp_path: Path) -> None:
    run_on_cluster(work, tmp_path, client=client)
    assert client.status == "running" and len(client.nthreads()) == 2
    assert client.submit(sum, (1, 2)).result() == 3
    # Workers that join later need nothing of this package.
    plugins = client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.worker_plugins])
    assert not [name for name in plugins if "boxnn" in name]
    handlers = client.run(lambda dask_worker: [*dask_worker.handlers])
    assert not [name for names in handlers.values() for name in names if "boxnn" in name]


def test_a_client_in_the_options(threads: Client, work: Work, tmp_path: Path) -> None:
    """With what a cluster is told besides: boxes are split, and threads share what is sent."""
    run = RunOptions(client=threads, cluster=ClusterOptions(box_shards=3))
    run_on_cluster(work, tmp_path, run=run)


def test_a_client_in_scope(client: Client, work: Work, tmp_path: Path) -> None:
    with client.as_current():
        run_on_cluster(work, tmp_path)
        here = RunOptions(cluster=IN_PROCESS, overwrite=True)
        assert train(work.data, tmp_path / "m", OPTIONS, run=here).cluster is None
    assert certify(work.model, work.data, tmp_path / "here").cluster is None


def test_a_worker_of_the_client_is_killed(client: Client, work: Work, tmp_path: Path) -> None:
    if client.scheduler.address.startswith("inproc"):
        pytest.skip("its workers are this process")
    killer = KillingProgress([150])
    train(work.data, tmp_path / "m", OPTIONS, run=RunOptions(client=client, progress=killer))
    assert killer.killed
    assert_same_model(tmp_path / "m", work)
    client.wait_for_workers(2, timeout=60)


def test_where_the_work_is_done(client: Client, threads: Client) -> None:
    assert RunOptions().using().client is threads
    assert DEFAULT_RUN.using(client).client is client
    with client.as_current():
        assert RunOptions().using().client is client
        elsewhere = RunOptions(cluster=ClusterOptions(workers=1))
        assert elsewhere.using() is elsewhere
        assert RunOptions(cluster=IN_PROCESS).using().local
        # What is settled stays so.
        settled = RunOptions(client=threads).using()
        assert settled.using() is settled
        assert RunOptions(client=threads).using(client).client is client


def test_a_result_that_is_lost_is_waited_for_while_there_are_workers(
    threads: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "_RESTART_SECONDS", 0.01)
    executor, looks = DaskExecutor(threads), []
    monkeypatch.setattr(executor, "wait_for_workers", lambda: looks.append(1))
    assert executor._result(threads.submit(time.sleep, 0.1, pure=False)) is None and looks
    with pytest.raises(TimeoutError, match="its own"):
        executor._result(threads.submit(_timed_out))

    def none_came_back() -> None:
        raise ClusterError("none came back")

    monkeypatch.setattr(executor, "wait_for_workers", none_came_back)
    with pytest.raises(ClusterError, match="none came back"):
        executor._result(threads.submit(time.sleep, 0.5, pure=False))
    executor.close()


def test_a_worker_that_is_lost_while_all_are_told(
    threads: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, asked = threads.register_plugin, []

    def lost_at_first(plugin: Any) -> Any:
        asked.append(1)
        if len(asked) < 3:
            raise OSError("Stream is closed")
        return register(plugin)

    monkeypatch.setattr(threads, "register_plugin", lost_at_first)
    executor = DaskExecutor(threads)
    assert len(asked) == 3 and executor.call_each(len, [(executor.seats[0], ("abc",))]) == [3]
    executor.close()
    monkeypatch.setattr(dask_executor, "_ATTEMPTS", 2)
    asked.clear()
    with pytest.raises(OSError, match="closed"):
        DaskExecutor(threads)


def _timed_out() -> None:
    raise TimeoutError("its own")


def test_a_task_does_not_use_the_cluster_that_runs_it(threads: Client) -> None:
    """It would wait for tasks that wait for its thread."""
    assert not RunOptions().using().local
    assert threads.submit(lambda: RunOptions().using().local).result()


# --- what cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            "tcp://10.0.0.1:8786",
            r"`client` is 'tcp://10.0.0.1:8786', an address; pass `distributed.Client\('tcp://",
        ),
        (2, "`client` is a int; pass a `distributed.Client`"),
        (ClusterOptions(workers=2), "`client` is a ClusterOptions; pass a `distributed.Client`"),
    ],
    ids=["address", "number", "options"],
)
def test_what_is_no_client(wrong: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RunOptions(client=wrong)
    with pytest.raises(OptionError, match=message):
        DEFAULT_RUN.using(wrong)


def test_a_cluster_is_no_client(threads: Client) -> None:
    with pytest.raises(OptionError, match="is a LocalCluster; pass `cluster"):
        RunOptions(client=threads.cluster)


@pytest.mark.parametrize("cluster", [IN_PROCESS, ClusterOptions(workers=2)], ids=["here", "two"])
def test_two_places(cluster: ClusterOptions, threads: Client) -> None:
    with pytest.raises(OptionError, match="`client` and `cluster` name two places"):
        RunOptions(client=threads, cluster=cluster)
    with pytest.raises(OptionError, match="`client` and `cluster` name two places"):
        RunOptions(cluster=cluster).using(threads)


def test_an_asynchronous_client() -> None:
    async def run() -> None:
        async with (
            LocalCluster(n_workers=0, asynchronous=True, **_THREADS) as cluster,
            Client(cluster, asynchronous=True, set_as_default=False) as waiting,
        ):
            with pytest.raises(OptionError, match="`client` is asynchronous"):
                train("data", "out", OPTIONS, client=waiting)
            with waiting.as_current(), pytest.raises(OptionError, match="is asynchronous; pass"):
                certify("model", "data", "out")

    asyncio.run(run())


def test_a_client_without_workers(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 0.1)
    with LocalCluster(n_workers=0, **_THREADS) as cluster, Client(cluster) as empty:
        with pytest.raises(ClusterError, match="has no workers; start some and try again"):
            certify(work.model, work.data, tmp_path / "c", client=empty)
        assert empty.status == "running"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "use",
    [
        lambda **where: train("data", "out", OPTIONS, **where),
        lambda **where: certify("model", "data", "out", **where),
        lambda **where: certify_baseline("model", "data", "out", certificate="a", **where),
        lambda **where: attack("model", "data", "out", **where),
        lambda **where: frontier("data", "out", **where),
        lambda **where: reproduce("figure-4", "out", **where),
    ],
    ids=["train", "certify", "certify_baseline", "attack", "frontier", "reproduce"],
)
def test_a_client_that_is_closed(use: Callable[..., None]) -> None:
    with LocalCluster(n_workers=0, **_THREADS) as cluster:
        gone = Client(cluster, set_as_default=False)
        gone.close()
    with pytest.raises(ClusterError, match="`client` is closed; make a new"):
        use(client=gone)
