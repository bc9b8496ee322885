"""`boxnn certify --certificate`: margin, pairwise and exact radii in certificate files."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import Run, failed, here
from support.cluster_tools import Scheduler
from support.interruptions import BOXNN, wait_for

from boxnn_numba import Boxes, BoxNN, load_model, save_model
from boxnn_numba.certificates.exact import exact_radii, exact_radius
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.pipelines.certification import certify as pipeline
from boxnn_numba.pipelines.figures.runs import load_runs

CERTIFY = ("certify", "model.zarr", "tiny.zarr", "--out")


def certified(boxnn: Run, out: str, *words: object) -> dict[str, Any]:
    code, text, err = boxnn(*CERTIFY, out, *words, "--json")
    assert (code, err) == (0, ""), err
    return dict(json.loads(text))


def test_each_kind_is_at_least_the_one_before(trained: Run) -> None:
    results = [
        certified(trained, f"{kind}.zarr", "--certificate", kind)
        for kind in ("margin", "pairwise", "exact")
    ]
    assert [result["kind"] for result in results] == ["margin", "pairwise", "exact"]
    assert results[2]["settled"] == 100 and "settled" not in results[1]
    margin, pairwise, exact = (
        open_certificate(f"{name}.zarr") for name in ("margin", "pairwise", "exact")
    )
    assert [f.certificate for f in (margin, pairwise, exact)] == ["margin", "pairwise", "exact"]
    assert (margin.radius <= pairwise.radius).all() and (pairwise.radius <= exact.radius).all()
    assert (margin.radius < exact.radius).any()
    for file in (pairwise, exact):
        np.testing.assert_array_equal(file.prediction, margin.prediction)
        np.testing.assert_array_equal(file.class_distance, margin.class_distance)
        np.testing.assert_array_equal(file.label, margin.label)
    assert margin.upper is None and pairwise.upper is None
    np.testing.assert_array_equal(exact.upper, exact.radius)
    model, (x, _) = load_model("model.zarr"), open_dataset("tiny.zarr").read("test")
    assert exact.radius.tolist() == [exact_radius(model, row).lower for row in x]
    # In chunks of 16 rows, with files of all kinds told apart by name where they are compared.
    assert [run.name for run in load_runs(["margin.zarr", "pairwise.zarr"])] == [
        "margin", "pairwise",
    ]  # fmt: skip


def test_some_rows(trained: Run) -> None:
    assert certified(trained, "all.zarr", "--certificate", "exact")["n"] == 40
    assert certified(trained, "some.zarr", "--exact", 7)["n"] == 7
    assert (
        certified(trained, "margin.zarr", "--certificate", "margin", "--limit", 7)["kind"]
        == "margin"
    )
    everything, some, margin = (open_certificate(f"{n}.zarr") for n in ("all", "some", "margin"))
    rows = [(k * 40) // 7 for k in range(7)]
    assert some.row.tolist() == margin.row.tolist() == rows
    assert everything.row.tolist() == list(range(40))
    for name in ("prediction", "radius", "upper", "label", "class_distance"):
        np.testing.assert_array_equal(getattr(some, name), getattr(everything, name)[rows])
    np.testing.assert_array_equal(margin.class_distance, some.class_distance)
    (run,) = load_runs(["some.zarr"])
    assert run.name == "some (exact)" and run.row is not None and run.row.tolist() == rows


def test_attacks_are_held_against_the_rows_that_both_have(trained: Run) -> None:
    certified(trained, "c.zarr", "--exact", 8)
    words = ("attack", "model.zarr", "tiny.zarr", "--max-features", 5)
    assert trained(*words, "--out", "all.zarr")[0] == 0
    assert trained(*words, "--out", "some.zarr", "--limit", 20)[0] == 0
    cert = open_certificate("c.zarr")
    for path, n in (("all.zarr", 8), ("some.zarr", 4)):
        code, out, err = trained("evaluate", "c.zarr", "--attack", path, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)["under_attack"]
        attack = open_attack(path)
        common = sorted(set(cert.row.tolist()) & set(attack.row.tolist()))
        assert (found["n"], found["of"]) == (len(common), 8) and len(common) == n
        meets = [
            attack.changed[attack.row == row] == cert.radius[cert.row == row] + 1 for row in common
        ]
        assert found["meets"] == pytest.approx(100 * np.mean(meets))
    assert trained("report", "c.zarr", "--attack", "some.zarr", "--out", "r")[0] == 0


def test_bounds_where_the_time_is_up(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    certified(trained, "exact.zarr", "--certificate", "exact")
    exact = open_certificate("exact.zarr").radius

    def hurried(
        model: Any, x: np.ndarray, time_limit: float, **_: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        assert time_limit == 0.5
        lower, upper = exact_radii(model, x)
        slack = x.sum(axis=1, dtype=np.int32) % 2
        return np.maximum(0, lower - slack), upper + slack

    monkeypatch.setattr(pipeline, "exact_radii", hurried)
    words = ("--certificate", "exact", "--time-limit", 0.5)
    result = certified(trained, "bounds.zarr", *words)
    bounds = open_certificate("bounds.zarr")
    assert bounds.upper is not None and 0 < result["settled"] < 100
    assert result["settled"] == 100 * np.mean(bounds.radius == bounds.upper)
    assert (bounds.radius <= exact).all() and (exact <= bounds.upper).all()
    code, out, _ = trained("evaluate", "bounds.zarr", "--radii", "0,3,9", "--json")
    shown = json.loads(out)
    right = bounds.prediction == bounds.label
    for radius in (0, 3, 9):
        expected = 100 * np.mean(right & (bounds.upper >= radius))
        assert shown["exact"]["upper"][str(radius)] == pytest.approx(expected, abs=1e-4)
    code, out, _ = trained("evaluate", "bounds.zarr")
    assert code == 0 and "(exact certificate" in out and "true value at most" in out
    assert "--time-limit above 0.5 s" in out


def test_a_run_that_stopped_goes_on(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    certified(trained, "whole.zarr", "--certificate", "exact")
    calls = 0

    def stops(
        model: Any, x: np.ndarray, time_limit: float, **_: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        return exact_radii(model, x, time_limit)

    words = ("--certificate", "exact", "--threads", 1)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "exact_radii", stops)
        code, _, err = trained(*CERTIFY, "c.zarr", *words)
        assert code == 130 and "--resume" in err
    failed(trained(*CERTIFY, "c.zarr", "--resume"), 1, "another", "certificate")
    assert certified(trained, "c.zarr", *words, "--resume")["n"] == 40
    whole, again = open_certificate("whole.zarr"), open_certificate("c.zarr")
    np.testing.assert_array_equal(again.radius, whole.radius)
    np.testing.assert_array_equal(again.upper, whole.upper)


def test_on_a_cluster(trained: Run, external: Scheduler) -> None:
    here_ = certified(trained, "here.zarr", "--certificate", "exact")
    words = ("--scheduler", external.address)
    there = certified(trained, "there.zarr", "--certificate", "exact", *words)
    assert there["cluster"]["tasks"] == 3 and there["accuracy"] == here_["accuracy"]
    np.testing.assert_array_equal(
        open_certificate("here.zarr").radius, open_certificate("there.zarr").radius
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--certificate", "tight"), "'margin', 'pairwise', 'exact'"),
        (("--exact", 3, "--limit", 4), "leave those two out"),
        (("--exact", 3, "--certificate", "margin"), "leave those two out"),
        (("--exact", 0), "limit is 0"),
        (("--limit", 41), "limit is 41"),
        (("--certificate", "exact", "--time-limit", 0), "--time-limit is 0"),
        (("--certificate", "exact", "--time-limit", "nan"), "--time-limit is nan"),
        (("--certificate", "pairwise", "--device", "cuda"), "on the CPU"),
    ],
)
def test_wrong_options(trained: Run, words: tuple[object, ...], message: str) -> None:
    before = here()
    failed(trained(*CERTIFY, "c.zarr", *words), 2, message)
    assert here() == before


def test_no_other_convention(trained: Run) -> None:
    certified(trained, "p.zarr", "--certificate", "pairwise")
    words = ("evaluate", "p.zarr", "--convention", "paper")
    failed(trained(*words), 2, "pairwise certificates", "leave out --convention")


def hard_model() -> BoxNN:
    """Two classes of overlapping boxes, whose integer programs no solver settles in minutes."""
    rng, shape = np.random.default_rng(0), (60, 784)
    own_high = np.where(rng.random(shape) < 0.5, 255, rng.integers(0, 250, shape))
    rival_low = np.where(rng.random(shape) < 0.35, rng.integers(1, 256, shape), 0)
    lower = np.concatenate([np.zeros(shape, np.int64), rival_low])
    upper = np.concatenate([own_high, np.full(shape, 255)])
    return BoxNN(Boxes(lower, upper, np.repeat([0, 1], 60), 30), [0, 1])


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_does_not_wait_for_the_solver(tmp_path: Path, threads: int, run_boxnn: Run) -> None:
    save_model(hard_model(), tmp_path / "hard.zarr")
    x = np.zeros((4, 784), np.uint8)
    np.savez(tmp_path / "dark.npz", x=x, y=[0, 1, 0, 1], x_test=x, y_test=[0, 1, 0, 1])
    assert run_boxnn("data", "ingest", "dark.npz", "--codes", "--out", "dark.zarr", "-q")[0] == 0
    words = ("certify", "hard.zarr", "dark.zarr", "--out", "c.zarr", "--exact", "4", "-q")
    more = ("--time-limit", "600", "--threads", str(threads))
    process = subprocess.Popen([*BOXNN, *words, *more], cwd=tmp_path, stderr=subprocess.PIPE)
    wait_for((tmp_path / "c.zarr.partial" / "finished").exists, process)
    time.sleep(3)  # so that the solver is at work
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"0 of 1 chunks are kept" in err and b"--resume" in err and err.count(b"\n") == 1
