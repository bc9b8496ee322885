"""Workers cut off by the network but alive: a link between network namespaces goes down and up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.cluster_tools import (
    BOXNN,
    SLOW_TASKS,
    TRAIN_WORDS,
    Scheduler,
    Started,
    Work,
    assert_same_certificates,
    assert_same_model,
    finished_chunks,
    make_work,
    wait_until,
)

from boxnn_numba.pipelines.evaluate import evaluate


def may_make_namespaces() -> bool:
    """Whether this process is root, has `ip`, and may use it (containers often may not)."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"boxnn-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not may_make_namespaces(), reason="network namespaces need root and the `ip` command"
    ),
]


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, timeout=20)


@dataclass(frozen=True)
class Network:
    """A host for the scheduler and the client, with a bridge, and two hosts for workers."""

    head: str
    hosts: tuple[str, str]

    def link(self, host: int, state: str) -> None:
        """Take the link of a worker's host ``"up"`` or ``"down"``."""
        ip("-n", self.hosts[host], "link", "set", "eth0", state)

    def on(self, namespace: str) -> list[str]:
        """Return the words that run a command on a host."""
        return ["ip", "netns", "exec", namespace]


@pytest.fixture
def network() -> Iterator[Network]:
    tag = f"bx{os.getpid() % 100000}"
    found = Network(f"{tag}h", (f"{tag}a", f"{tag}b"))
    made = []
    try:
        for name in (found.head, *found.hosts):
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", found.head, "link", "add", "bridge0", "type", "bridge")
        ip("-n", found.head, "addr", "add", "10.77.0.1/24", "dev", "bridge0")
        ip("-n", found.head, "link", "set", "bridge0", "up")
        for number, host in enumerate(found.hosts):
            ip("-n", found.head, "link", "add", f"port{number}", "type", "veth",
               "peer", "name", "eth0", "netns", host)  # fmt: skip
            ip("-n", found.head, "link", "set", f"port{number}", "master", "bridge0", "up")
            ip("-n", host, "addr", "add", f"10.77.0.{number + 2}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
        yield found
    finally:
        for name in made:
            ip("netns", "del", name)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(tmp_path_factory.mktemp("work"))


COUNT_WORKERS = """
import sys
from distributed import Client
with Client(sys.argv[1], timeout=20) as client:
    client.wait_for_workers(2, timeout=60)
"""


def start_cluster(started: Started, network: Network, seconds: int) -> Scheduler:
    """Start a scheduler on the head and a worker on each host; a dead link is one of `seconds`."""
    patience = [
        "env", f"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP={seconds}s",
        f"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT={seconds}s",
    ]  # fmt: skip
    on_head = network.on(network.head)
    scheduler = started.scheduler(host="10.77.0.1", prefix=[*on_head, *patience])
    for number, host in enumerate(network.hosts):
        started.worker(
            scheduler.address, host=f"10.77.0.{number + 2}", preload=SLOW_TASKS,
            prefix=[*network.on(host), *patience],
        )  # fmt: skip
    words = [*on_head, sys.executable, "-c", COUNT_WORKERS, scheduler.address]
    subprocess.run(words, check=True, timeout=90, capture_output=True)
    return scheduler


@pytest.mark.parametrize(
    ("down", "seconds"), [(2.0, 30), (20.0, 12)], ids=["noticed by nobody", "given up and back"]
)
@pytest.mark.parametrize("command", ["train", "certify"])
def test_a_worker_cut_off_but_alive(
    command: str, down: float, seconds: int, network: Network, work: Work, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    out = tmp_path / "out"
    words: list[object] = ["certify", work.model, work.data, "--out", out]
    if command == "train":
        words = ["train", work.data, "--preset", "graded", "--out", out, *TRAIN_WORDS]
    with Started(tmp_path / "logs") as started:
        scheduler = start_cluster(started, network, seconds)
        client = started.start(
            ["env", f"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP={seconds}s",
             f"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT={seconds}s",
             *BOXNN, *words, "--scheduler", scheduler.address],
            network.on(network.head),
        )  # fmt: skip
        checkpoint = tmp_path / "out.partial" / "checkpoint.npz"
        wait_until(lambda: checkpoint.exists() or len(finished_chunks(out)) > 3, client)
        network.link(0, "down")
        back = threading.Timer(down, network.link, (0, "up"))
        back.start()
        began = time.monotonic()
        try:
            assert client.wait(100) == 0, started.output(client)
        finally:
            back.join()
        assert time.monotonic() - began < down + 60
        out_text, err_text = started.output(client)
        assert err_text == "" and out_text.startswith(f"{out}: ")
        scheduler.process.send_signal(signal.SIGTERM)
    assert not out.with_name("out.partial").exists()
    if command == "train":
        assert_same_model(out, work)
        return
    assert_same_certificates(out, work)
    radii = list(range(6))
    assert evaluate(out, radii) == evaluate(work.certificates, radii)
