"""Attacks on a Dask cluster: the same bits as here, also where workers die, and what they find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.cli_runs import Run, failed
from support.cluster_tools import (
    SLOW_TASKS,
    TEST_ROWS,
    KillingProgress,
    Scheduler,
    Work,
    make_work,
    worker_processes,
    workers_run_first,
)
from support.interruptions import Stopper, names

from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.errors import InterruptedRunError, UnsoundError
from boxnn_numba.pipelines.attack import attack as pipeline
from boxnn_numba.pipelines.attack.attack import AttackOptions, attack
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions

TWO = ClusterOptions(workers=2, threads_per_worker=1)
#: What a worker runs first: its attacks are none.
FORGED = """
import numpy as np
from boxnn_numba.attacks.greedy import AttackResult
from boxnn_numba.pipelines.attack import attack as pipeline
def forged(model, x, **options):
    return AttackResult(x, np.zeros(len(x), np.int32), model.predict(x))
pipeline.greedy_attack = forged
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CHUNK_ROWS", 5)


def digests(path: Path) -> dict[str, str]:
    return dict(open_attack(path).attributes["digests"])


@pytest.mark.parametrize("method", ["greedy", "random"])
def test_two_workers_give_the_same_bits(
    method: str, work: Work, external: Scheduler, run_boxnn: Run, tmp_path: Path
) -> None:
    np.save("mask.npy", np.arange(12) % 4 != 0)
    words = ("--method", method, "--queries", 50, "--features", "mask.npy", "--seed", 3)
    start = ("attack", work.model, work.data, *words)
    assert run_boxnn(*start, "--out", "here")[::2] == (0, "")
    own = "--workers", 2, "--threads-per-worker", 1
    where = own if method == "greedy" else ("--scheduler", external.address)
    code, out, err = run_boxnn(*start, "--out", "there", *where)
    assert (code, err) == (0, "") and f"cluster: {TEST_ROWS // 5} tasks, " in out
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    assert names(tmp_path) == {"mask.npy", "here", "there"} and worker_processes() == []


def test_a_stopped_attack_goes_on_where_it_was(
    work: Work, external: Scheduler, tmp_path: Path
) -> None:
    whole = attack(work.model, work.data, tmp_path / "whole")
    with pytest.raises(InterruptedRunError, match=r"of 24 chunks are kept in .*a\.partial"):
        cluster = ClusterOptions(scheduler=external.address)
        run = RunOptions(cluster=cluster, progress=Stopper(40))
        attack(work.model, work.data, tmp_path / "a", run=run)
    # Not on a cluster, then: nothing in the file depends on where it was made.
    left = attack(work.model, work.data, tmp_path / "a", run=RunOptions(resume=True))
    assert left.radii == whole.radii and left.cluster is None
    assert digests(tmp_path / "a") == digests(tmp_path / "whole")


def test_workers_that_are_killed(work: Work, tmp_path: Path) -> None:
    attack(work.model, work.data, tmp_path / "whole")
    progress = KillingProgress([20], seed=1)
    with workers_run_first(SLOW_TASKS):
        run = RunOptions(cluster=TWO, progress=progress)
        found = attack(work.model, work.data, tmp_path / "a", run=run)
    assert progress.killed and progress.done == TEST_ROWS  # every sample counted once
    assert found.cluster is not None and found.cluster.tasks == TEST_ROWS // 5
    assert digests(tmp_path / "a") == digests(tmp_path / "whole")


def test_a_counterexample_is_kept_beside_the_output(work: Work, tmp_path: Path) -> None:
    with (
        workers_run_first(FORGED),
        pytest.raises(UnsoundError, match=r"please report it with .*a\.counterexample-\d+\.npz"),
    ):
        one = RunOptions(cluster=ClusterOptions(workers=1, threads_per_worker=1))
        attack(work.model, work.data, tmp_path / "a", AttackOptions(), run=one)
    kept = next(tmp_path.glob("a.counterexample-*.npz"))
    with np.load(kept) as content:
        np.testing.assert_array_equal(content["x"], content["x_adv"])
    assert not (tmp_path / "a").exists()


def test_what_cannot_work_is_said(work: Work, run_boxnn: Run, tmp_path: Path) -> None:
    start = ("attack", work.model, work.data, "--out", "a")
    failed(run_boxnn(*start, "--workers", 0), 2, "workers is 0")
    failed(run_boxnn(*start, "--workers", 1, "--device", "cuda"), 2, "attacks run on the CPU")
    assert names(tmp_path) == set()
