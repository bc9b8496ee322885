"""`boxnn plan`: its formulas against sums made here, a simulated cluster, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from boxnn_numba.cli.plan import bandwidth, latency
from boxnn_numba.cli.plan import plan as command
from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines import plan, plan_calibrate
from boxnn_numba.pipelines.plan_inputs import (
    Constants,
    Hardware,
    Job,
    interpolate,
    load_constants,
    save_constants,
)
from boxnn_numba.pipelines.plan_report import amount, duration
from boxnn_numba.pipelines.plan_simulate import simulate

#: Round numbers, so that sums can be made in the head.
CONSTANTS = Constants(
    distances={"counted": {100: 4e9}, "capped": {100: 2e9}, "uncapped": {100: 3e9}},
    entry={100: 1e-9},
    update={100: 2e-9},
    pair_seconds=1e-9,
    sort_seconds=1e-8,
    entries_per_sample=20.0,
    certify_gain=2.0,
    copy_rate=1e10,
    read_rate=1e9,
    serialise_rate=1e9,
    round_trip=0.01,
    task_seconds=1e-3,
    worker_factor=1.5,
    worker_bytes=1e8,
)
JOB = Job(samples=1000, features=100, boxes=400, classes=4, batch=300, validation=0.1)
MEASURED = load_constants()
IMAGENET = Job(samples=1_281_167, features=150_528, boxes=100_000, classes=1000, batch=4096)


# --- formulas ------------------------------------------------------------------------------


def test_phases_are_the_sums_of_their_messages() -> None:
    hardware = Hardware(workers=2, threads=2, bandwidth=5e8, latency=1e-3)
    phases = plan.step_phases(JOB, hardware, CONSTANTS)
    table = 8 * (int(31 * math.log(2) * 112) + 2)
    arguments = sum(75 * 100 + 75 * 4 + 2000 + table for _ in range(4))
    expected = {
        "rows gathered": 300 * 100 * 2 / 1e10,
        # Both sides leave the client, to one worker each; then each goes to the other one.
        "boxes out": (2 * 400 * 100 + 400 * 100) / 5e8,
        # To the scheduler, and on, while it spends 1 ms on each of three more tasks.
        "samples out": arguments / 5e8 + max(0, arguments / 5e8 - 0.003),
        "boxes laid out": 2 * 400 * 100 / 1e10,
        "distances": 1.5 * 75 * 400 * (100 / 2e9 + 1e-9),
        "results back": (300 * 20 * 16 + 300 * 16) / 5e8,
        "latency": (16 + 4) * 1e-3,
        "Dask": 0.01 + 3 * 1e-3,
        "gradient": (6000 * 100 * 1e-9 + 400 * (1 - math.exp(-15)) * 100 * 2e-9) / 2 + 6000 * 1e-8,
    }
    assert phases == pytest.approx(expected, rel=1e-9)
    result = plan.predict(JOB, hardware, CONSTANTS)
    assert result["step"]["seconds"] == pytest.approx(sum(expected.values()))
    assert result["step"]["bytes"] == pytest.approx(
        2 * 80_000 + 2 * arguments + 300 * 20 * 16 + 300 * 16
    )
    assert result["step"]["client_sends"] == pytest.approx(80_000 + arguments)
    held_out = 100 * 400 * 100 / (2e9 * 2) / 2
    assert result["epoch"]["steps"] == 3
    assert result["epoch"]["seconds"] == pytest.approx(3 * sum(expected.values()) + held_out)
    local = 6e-6 + 300 * 400 * (100 / 2e9 + 1e-9) / 2 + expected["gradient"]
    assert result["speedup"] == pytest.approx(local / sum(expected.values()))
    assert sum(result["step"]["shares"].values()) == pytest.approx(1)


def test_shards_send_the_boxes_twice_and_the_batch_to_everyone() -> None:
    hardware = Hardware(workers=3, bandwidth=5e8, latency=1e-3, box_shards=5)
    phases = plan.step_phases(JOB, hardware, CONSTANTS)
    table = 8 * (int(31 * math.log(2) * 112) + 2) + 2000
    judged = 300 * (4 * 4 + 84)
    rounds = [5 * (300 * 100 + judged + 2 * table), *[5 * (judged + table)] * 2]
    assert plan.task_arguments(JOB, hardware) == rounds
    assert phases["boxes out"] == pytest.approx(2 * 80_000 / 5e8)
    assert phases["samples out"] == pytest.approx(
        sum(size / 5e8 + max(0, size / 5e8 - 0.004) for size in rounds)
    )
    # Five shards of 80 boxes on three threads: two of them one after the other.
    assert phases["distances"] == pytest.approx(1.5 * 2 * 300 * 80 * (100 / 2e9 + 1e-9))
    assert phases["results back"] == pytest.approx((300 * 20 * 16 + 5 * 300 * (16 + 32)) / 5e8)
    assert phases["Dask"] == pytest.approx(3 * (0.01 + 4 * 1e-3))
    assert phases["latency"] == pytest.approx((16 + 2 * 8) * 1e-3)


def test_certification_is_as_slow_as_its_slowest_part() -> None:
    job = Job(samples=100_000, features=784, boxes=100, classes=10, validation=0)
    hardware = Hardware(workers=2, threads=3, bandwidth=1e8)
    found = plan.certification(job, hardware, CONSTANTS)
    # 4,096 rows a chunk, 25 chunks on 6 threads: 5 turns.
    row = 784 + 4 * 13
    turn = 4096 * (1.5 * 100 * 784 / 4e9 + row / 1e9)
    model = 2 * 156_800 / 1e8 + 156_800 * (1 / 1e9 + 2 / 1e10)
    assert found["chunks"] == 25
    assert found["parts"] == pytest.approx(
        {"model": model, "distances": 5 * turn, "store": 100_000 * row / 1e8, "Dask": 0.025}
    )
    assert found["seconds"] == pytest.approx(model + 100_000 * row / 1e8 + 0.01)
    assert found["bottleneck"] == "store"
    assert found["bytes"] == 2 * 156_800 + 100_000 * row
    fast = plan.certification(job, replace(hardware, store_bandwidth=1e12), CONSTANTS)
    assert fast["bottleneck"] == "distances"


def test_memory_is_a_copy_of_the_boxes_per_thread_or_a_part_of_them() -> None:
    big = replace(JOB, boxes=40_000, features=1000)
    codes = 2 * 40_000 * 1000
    whole = plan.memory(big, Hardware(workers=4, threads=2), CONSTANTS)
    assert whole["worker"] == pytest.approx(1e8 + 3 * codes, rel=0.1)
    parts = plan.memory(big, Hardware(workers=4, threads=1, box_shards=4), CONSTANTS)
    assert parts["worker"] == pytest.approx(1e8 + 2 * codes / 4 + 4 * 300 * 10_000, rel=0.02)
    # float32 masters of both sides, and codes.
    assert whole["client"] > 1e8 + 5 * codes


def test_tables_are_interpolated_between_what_was_measured() -> None:
    table = {10: 1.0, 1000: 3.0}
    values = [interpolate(table, n) for n in (1, 10, 100, 1000, 10**6)]
    assert values == pytest.approx([1, 1, 2, 3, 3])
    assert CONSTANTS.distance_rate(1, 5) == 4e9
    assert [CONSTANTS.distance_rate(w, 100) for w in (2, 254, 255)] == [2e9, 2e9, 3e9]


@pytest.mark.parametrize(("draws", "hosts"), [(4, 1), (6, 3), (36, 9), (100, 54)])
def test_the_busiest_holder_is_that_of_random_draws(draws: int, hosts: int) -> None:
    rng = np.random.default_rng(0)
    counts = [np.bincount(rng.integers(0, hosts, draws)).max() for _ in range(2000)]
    assert plan.busiest(draws, hosts) == pytest.approx(np.mean(counts), rel=0.2)


def test_replication_reaches_every_worker_in_threefold_rounds() -> None:
    rounds = {workers: len(list(plan.replication_loads(workers))) for workers in range(1, 82)}
    assert rounds == {w: math.ceil(round(math.log(w, 3), 9)) for w in rounds}


# --- how it behaves ------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [0, 8])
@pytest.mark.parametrize("job", [Job(), IMAGENET])
def test_more_work_and_worse_links_take_longer(job: Job, shards: int) -> None:
    hardware = Hardware(workers=8, box_shards=shards)

    def seconds(job: Job, hardware: Hardware = hardware) -> float:
        return sum(plan.step_phases(job, hardware, MEASURED).values())

    for name in ("boxes", "batch"):
        assert seconds(replace(job, **{name: 2 * getattr(job, name)})) > seconds(job)
    assert seconds(job, replace(hardware, latency=1e-3)) > seconds(job)
    assert seconds(job, replace(hardware, bandwidth=1e8)) > seconds(job)
    assert seconds(job, replace(hardware, client_threads=4)) < seconds(job)
    phases = [
        plan.step_phases(job, replace(hardware, workers=workers), MEASURED)
        for workers in (1, 2, 4, 8)
    ]
    work = [p["distances"] for p in phases]
    assert work == sorted(work, reverse=True) and work[-1] < work[0] / 6


def test_a_curve_says_where_communication_takes_over() -> None:
    points = plan.curve(IMAGENET, Hardware(workers=5), MEASURED)
    assert [p["workers"] for p in points] == sorted({*plan.CURVE, 5})
    shares = [p["communication"] for p in points]
    first = plan.takeover(points)
    assert first is not None and 1 < first < 64
    assert all((share > 0.5) == (p["workers"] >= first)
               for p, share in zip(points, shares, strict=True))  # fmt: skip
    assert all(p["efficiency"] == p["speedup"] / p["workers"] < 1 for p in points)
    free = replace(MEASURED, serialise_rate=1e15, round_trip=1e-9, task_seconds=1e-12)
    ideal = plan.curve(IMAGENET, Hardware(bandwidth=1e15, latency=0), free)
    assert plan.takeover(ideal) is None


# --- simulation ----------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [False, True], ids=["whole boxes", "shards"])
@pytest.mark.parametrize("job", [Job(), Job(boxes=25_000), IMAGENET], ids=["small", "mid", "big"])
def test_prediction_is_that_of_a_simulated_cluster(job: Job, shards: bool) -> None:
    for workers in (1, 2, 3, 5, 8, 16, 27, 32, 64):
        hardware = Hardware(workers=workers, box_shards=workers * shards)
        predicted = sum(plan.step_phases(job, hardware, MEASURED).values())
        found = simulate(job, hardware, MEASURED, steps=5)
        assert found == pytest.approx(predicted, rel=0.15), workers


def test_threads_and_slow_links_are_simulated_too() -> None:
    hardware = Hardware(workers=16, threads=4, bandwidth=1.25e8, latency=2e-3)
    predicted = sum(plan.step_phases(Job(), hardware, MEASURED).values())
    assert simulate(Job(), hardware, MEASURED) == pytest.approx(predicted, rel=0.15)


@pytest.mark.parametrize("workers", [2, 16, 64])
def test_workers_that_really_wait_take_as_long(workers: int) -> None:
    hardware = Hardware(workers=workers)
    predicted = sum(plan.step_phases(Job(), hardware, MEASURED).values())
    # Others on the machine can only make it late.
    found = min(simulate(Job(), hardware, MEASURED, 1, real_seconds=0.1) for _ in range(4))
    assert found == pytest.approx(predicted, rel=0.15)


# --- calibration ---------------------------------------------------------------------------


def test_calibration_measures_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_calibrate, "FEATURES", (64, 784))
    monkeypatch.setattr(plan_calibrate, "_BOXES", 64)
    found = plan_calibrate.calibrate()
    assert set(found.entry) == set(found.distances["counted"]) == {64, 784}
    assert found.round_trip == MEASURED.round_trip
    assert 1e8 < found.distance_rate(112, 784) < 1e13
    assert 1e-12 < found.entry_seconds(784) < 1e-7
    assert found.source["command"] == "boxnn plan --calibrate"


def test_constants_survive_a_file(tmp_path: Path) -> None:
    save_constants(MEASURED, tmp_path / "c.json")
    assert load_constants(tmp_path / "c.json") == MEASURED
    with pytest.raises(OptionError, match="already exists"):
        save_constants(MEASURED, tmp_path / "c.json")
    assert MEASURED.source["machine"]["cpu"] and "boxnn plan" in MEASURED.source["command"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format="other"), "no constants"),
        (lambda c: c.update(version=9), "version 9"),
        (lambda c: c["constants"].pop("round_trip"), "must set"),
        (lambda c: c["constants"].update(copy_rate=-1), "copy_rate is -1"),
        (lambda c: c["constants"].update(entry={}), "no positive number"),
        (lambda c: c["constants"].update(entry=[1]), "no positive number"),
        (lambda c: c["constants"]["distances"].pop("capped"), "no positive number"),
    ],
)
def test_bad_constants_are_refused(tmp_path: Path, change: object, words: str) -> None:
    content = json.loads(json.dumps(MEASURED.as_dict()))
    change(content)  # type: ignore[operator]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=words) as caught:
        load_constants(path)
    assert "\n" not in str(caught.value)


# --- the command ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1.25e9", 1.25e9), ("10Gbit/s", 1.25e9), ("100 Gbit/s", 1.25e10), ("1GB/s", 1e9),
        ("1GiB/s", 2**30), ("800Mb/s", 1e8), ("10Gbps", 1.25e9), ("5 kB/s", 5e3), ("7", 7),
    ],
)  # fmt: skip
def test_bandwidth_is_read_with_its_unit(text: str, rate: float) -> None:
    assert bandwidth(text) == pytest.approx(rate)


def test_latency_is_read_with_its_unit() -> None:
    found = [latency(t) for t in ("50us", "0.2ms", "1e-3", "1 s")]
    assert found == pytest.approx([5e-5, 2e-4, 1e-3, 1.0])


def test_amounts_are_written_with_three_digits() -> None:
    assert [amount(x) for x in (5, 1234, 5.6e9, 7e15)] == ["5 B", "1.23 KB", "5.6 GB", "7e+03 TB"]
    found = [duration(x) for x in (0.0123, 5, 600, 86_400)]
    assert found == ["12.3 ms", "5 s", "10 min", "24 h"]


def test_the_command_predicts_and_draws(tmp_path: Path) -> None:
    plot = tmp_path / "plan.png"
    words = ["--boxes", "25000", "--workers", "8", "--bandwidth", "10Gbit/s", "--bandwidth",
             "100Gbit/s", "--plot", str(plot)]  # fmt: skip
    done = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    found = json.loads(done.output)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert found["cluster"]["workers"] == 8 and found["cluster"]["bandwidth"] == 1.25e9
    expected = plan.predict(Job(boxes=25_000), Hardware(workers=8), MEASURED)
    assert found["step"]["seconds"] == pytest.approx(expected["step"]["seconds"])
    assert found["curve"][-1]["workers"] == 1000
    text = CliRunner().invoke(command, ["--workers", "7", "--box-shards", "7"]).output
    assert text.startswith("7 workers of 1 threads, links of 10 Gbit/s, boxes in 7 shards\n")
    assert "speed-up" in text and "1,000" in text and "takeover" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--workers 0", "--workers is 0"),
        ("--samples -1", "--samples is -1"),
        ("--boxes 5", "fewer than the 10 classes"),
        ("--width 256", "--width is 256"),
        ("--validation 2", "--validation is 2.0"),
        ("--box-shards -1", "--box-shards is -1"),
        ("--bandwidth fast", "bandwidth 'fast' is no rate"),
        ("--bandwidth 1.2.3", "bandwidth '1.2.3' is no rate"),
        ("--bandwidth 0", "--bandwidth is 0.0"),
        ("--latency 3weeks", "latency '3weeks' is no time"),
        ("--save c.json", "--save needs --calibrate"),
        ("--constants c.json --calibrate", "not both"),
    ],
)
def test_bad_options_are_one_line(words: str, says: str) -> None:
    done = CliRunner().invoke(command, words.split())
    assert isinstance(done.exception, OptionError) and done.output == ""
    assert says in str(done.exception) and "\n" not in str(done.exception)


def test_missing_constants_are_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--constants", str(tmp_path / "none.json")])
    assert isinstance(done.exception, DataError) and "not a readable JSON" in str(done.exception)
