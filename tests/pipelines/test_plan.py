"""The plan: its formulas against sums made here, a simulated cluster, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.method import Samples
from benchmarks.plan import calibrate, calibrate_data, predictions
from benchmarks.plan.calibrate import save_constants
from benchmarks.plan.simulate import simulate

from boxnn_numba.errors import DataError, OptionError
from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.plan import predict as plan
from boxnn_numba.pipelines.plan import step as plan_step
from boxnn_numba.pipelines.plan.inputs import (
    Constants,
    Hardware,
    Job,
    interpolate,
    load_constants,
)
from boxnn_numba.pipelines.training import cluster_trainer as cluster_training
from boxnn_numba.pipelines.training.cluster_trainer import ClusterTrainer, training_on
from boxnn_numba.training.loader import Feed
from boxnn_numba.training.options import resolve
from boxnn_numba.training.run import Training

#: Round numbers, so that sums can be made in the head.
CONSTANTS = Constants(
    distances={"counted": {100: 4e9}, "capped": {100: 2e9}, "uncapped": {100: 3e9}},
    entry={100: 1e-9},
    update={100: 2e-9},
    pair_seconds=1e-9,
    sort_seconds=1e-8,
    entries={100: 20.0},
    changed={400: 0.05},
    certify_gain=2.0,
    copy_rate=1e10,
    read_rate=1e9,
    compare_seconds=1e-9,
    apply_seconds=1e-8,
    call_seconds=2e-3,
    message_seconds=5e-4,
    call_rate=4e8,
    send_rate=8e8,
    answer_rate=1e9,
    round_trip=0.01,
    task_seconds=1e-3,
    worker_factor=1.5,
    worker_bytes=1e8,
)
JOB = Job(samples=1000, features=100, boxes=400, classes=4, batch=300, validation=0.1)
MEASURED = load_constants()
IMAGENET = Job(samples=1_281_167, features=150_528, boxes=100_000, classes=1000, batch=4096)


# --- formulas ------------------------------------------------------------------------------


def update_of(job: Job, part: float, entries: float = 20.0) -> tuple[float, float]:
    """Codes that a step changes, of all that are moved, and the bytes that say so."""
    touched = job.boxes * (1 - math.exp(-entries * job.rows / job.boxes))
    moved = 2 * touched * job.features
    changed = job.code_bytes * part * math.sqrt(job.rows / 2000)
    # A change in 255 codes, even where there is none.
    far = (1 - changed / moved) ** 255
    codes = changed * (1 + far / (1 - far))
    return codes, 2 * codes + 12 * touched


def test_phases_are_the_sums_of_their_messages() -> None:
    hardware = Hardware(workers=2, threads=2, bandwidth=5e8, latency=1e-3)
    phases = plan_step.step_phases(JOB, hardware, CONSTANTS)
    changed, update = update_of(JOB, 0.05)
    sent = update + 75 * 104 + 2000
    answer = 75 * (20 * (4 + 1 + 2) + 16)
    # Two calls go to a worker in one message, with one copy of what changed.
    sent, answer = sent + 75 * 104 + 2000, 2 * answer
    # The client's processor takes longer than its link.
    queue = 5e-4 + sent / 8e8 + answer / 1e9
    assert queue > sent / 5e8
    expected = {
        "rows gathered": 300 * 100 * 2 / 1e10,
        "boxes compared": 2 * 400 * (1 - math.exp(-15)) * 100 * 1e-9 / 2,
        "sent out": sent / 4e8 + sent / 5e8,
        "boxes laid out": changed * 1e-8 + 75 * 100 / 1e10,
        "distances": 1.5 * 75 * 400 * (100 / 2e9 + 1e-9),
        "results back": answer / 5e8,
        "latency": 2 * 1e-3,
        "Dask": 2e-3 + queue,
        "gradient": (6000 * 100 * 1e-9 + 400 * (1 - math.exp(-15)) * 100 * 2e-9) / 2 + 6000 * 1e-8,
    }
    assert phases == pytest.approx(expected, rel=1e-9)
    result = plan.predict(JOB, hardware, CONSTANTS)
    assert result.step["seconds"] == pytest.approx(sum(expected.values()))
    assert result.step["client_sends"] == pytest.approx(2 * sent)
    assert result.step["bytes"] == pytest.approx(2 * (sent + answer))
    # All codes to two workers, one behind the other on the client's processor.
    first = 2e-3 + 80_000 * (1 / 4e8 + 1 / 5e8) + 5e-4 + 80_000 / 8e8
    assert result.start == pytest.approx({"seconds": first, "bytes": 160_000})
    held_out = 100 * 400 * 100 / (2e9 * 2) / 2
    assert result.epoch["steps"] == 3
    assert result.epoch["seconds"] == pytest.approx(3 * sum(expected.values()) + held_out)
    local = 6e-6 + 300 * 400 * (100 / 2e9 + 1e-9) / 2 + expected["gradient"]
    assert result.speedup == pytest.approx(local / sum(expected.values()))
    assert sum(result.step["shares"].values()) == pytest.approx(1)


def test_parts_mean_more_entries_of_fewer_features() -> None:
    plain, hardware = plan_step.step_phases(JOB, Hardware(), CONSTANTS), Hardware()
    job = replace(JOB, parts=4)
    assert replace(JOB, parts=1) == JOB
    phases = plan_step.step_phases(job, hardware, CONSTANTS)
    entries, cells = 300 * 20 * 4**1.4, 4 * 400
    touched = cells * (1 - math.exp(-entries / cells))
    gradient = 25 * (entries * 1e-9 + touched * 2e-9) + entries * 1e-8
    assert phases["gradient"] == pytest.approx(gradient)
    assert phases["distances"] == pytest.approx(1.5 * 300 * 400 * (100 / 2e9 + 4e-9))
    answer = 300 * (4 + 2 + 2) * (20 * 4**1.4 - 20)
    assert phases["results back"] - plain["results back"] == pytest.approx(answer / 1e9)
    sharded = Hardware(workers=2, box_shards=2)
    more = [plan.memory(each, sharded, CONSTANTS)["worker"] for each in (JOB, job)]
    assert more[1] - more[0] == 3 * 4.0 * 300 * 200
    with pytest.raises(OptionError, match="parts"):
        Job(parts=785)


def test_a_slow_link_makes_calls_wait_for_each_other() -> None:
    fast, slow = Hardware(workers=4, bandwidth=1e12), Hardware(workers=4, bandwidth=1e7)
    few = replace(CONSTANTS, entries={100: 1.0})
    quick, late = (plan_step.step_phases(JOB, cluster, few) for cluster in (fast, slow))
    sent = update_of(JOB, 0.05, 1.0)[1] + 75 * 104 + 2000
    assert quick["Dask"] > late["Dask"] == pytest.approx(2e-3)
    assert late["sent out"] == pytest.approx(sent / 4e8 + 4 * sent / 1e7)


@pytest.mark.parametrize(
    ("rows", "workers", "expected"),
    [(2000, 2, (2, 2)), (2000, 1, (1, 2)), (20_000, 2, (2, 4)), (3, 5, (3, 3))],
)
def test_long_steps_are_cut(rows: int, workers: int, expected: tuple[int, int]) -> None:
    # A row takes 1.5 * 2000 * 51 ns: 2,000 of them 306 ms on one worker.
    job = replace(JOB, boxes=2000 * 2 // 3, batch=rows, samples=100_000)
    hardware = Hardware(workers=workers)
    assert plan_step.calls(job, hardware, CONSTANTS) == expected
    # Only the first call of a slot takes the changes along; each waits for the one before.
    phases = plan_step.step_phases(job, hardware, CONSTANTS)
    waves = expected[1] // expected[0]
    ((update, samples, answer),) = plan_step.call_bytes(job, hardware, CONSTANTS)
    assert samples == rows / expected[1] * 104 + 2000
    cost = 1 / 4e8 + 1 / hardware.bandwidth
    assert phases["sent out"] == pytest.approx((update + waves * samples) * cost)
    assert phases["results back"] == pytest.approx(waves * answer / 1e9)


def test_shards_get_the_batch_and_their_boxes() -> None:
    hardware = Hardware(workers=3, bandwidth=5e8, latency=1e-3, box_shards=5)
    phases = plan_step.step_phases(JOB, hardware, CONSTANTS)
    changed, update = update_of(JOB, 0.05)
    minima, masses = 300 * 4 * 4, 300 * 32
    entries = 300 * 20 * (4 + 2 + 2) / 5
    # Five calls of three workers: that is how much a message has of them in the mean.
    common, own, answers = (
        [300 * 104, minima, masses],
        [update / 5, 0, 0],
        [minima, masses, entries],
    )
    sent = [a + (b + 2000) * 5 / 3 for a, b in zip(common, own, strict=True)]
    back = [size * 5 / 3 for size in answers]
    # Five shards of 80 boxes on three threads: two of them one after the other.
    assert phases["distances"] == pytest.approx(1.5 * 2 * 300 * 80 * (100 / 2e9 + 1e-9))
    laid_out = 2 * (changed / 5 * 1e-8 + 300 * 100 / 1e10)
    assert phases["boxes laid out"] == pytest.approx(laid_out)
    assert phases["sent out"] == pytest.approx(sum(sent) * (1 / 4e8 + 1 / 5e8))
    assert phases["results back"] == pytest.approx(sum(back) / 5e8)
    queue = sum(5e-4 + a / 8e8 + b / 1e9 for a, b in zip(sent, back, strict=True))
    assert phases["Dask"] == pytest.approx(3 * 2e-3 + 2 * queue)
    assert phases["latency"] == pytest.approx(3 * 2 * 1e-3)
    found = plan_step.step_bytes(JOB, hardware, CONSTANTS)
    assert found == pytest.approx((3 * sum(sent), 3 * sum(sent) + 3 * sum(back)))
    # In the beginning every shard gets its boxes.
    assert plan_step.start(JOB, hardware, CONSTANTS)["bytes"] == pytest.approx(80_000)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [(1, [(1, 1)]), (10, [(10, 1)]), (12, [(10, 2), (1, 1)]), (100, [(10, 10), (9, 1)]),
     (1000, [(10, 100), (10, 10), (9, 1)])],
)  # fmt: skip
def test_many_workers_are_told_by_others(hosts: int, expected: list[tuple[int, int]]) -> None:
    assert list(plan_step.branches(hosts)) == expected
    job = Job(samples=100_000, features=100, boxes=400, classes=4, batch=100_000, validation=0)
    few = replace(CONSTANTS, distances={"capped": {100: 1e15}}, pair_seconds=1e-15)
    phases = plan_step.step_phases(job, Hardware(workers=hosts, latency=1e-3), few)
    assert phases["latency"] == pytest.approx(len(expected) * 2e-3)
    ((common, own, _),) = plan_step.call_bytes(job, Hardware(workers=hosts), few)
    cost = 1 / 4e8 + 1 / 1.25e9
    sent = sum(common + each * own for _, each in expected)
    queue = sum((n - 1) * (common + each * own) / 1.25e9 for n, each in expected)
    assert sent * cost <= phases["sent out"] <= sent * cost + queue + 1e-9


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


def test_memory_is_a_copy_of_the_boxes_and_messages_or_a_part_of_them() -> None:
    big = replace(JOB, boxes=40_000, features=1000)
    codes = 2 * 40_000 * 1000
    whole = plan.memory(big, Hardware(workers=4, threads=2), CONSTANTS)
    # One copy for both threads; the message with it for each while it is new.
    assert whole["worker"] == pytest.approx(1e8 + 3 * codes, rel=0.1)
    parts = plan.memory(big, Hardware(workers=4, threads=1, box_shards=4), CONSTANTS)
    assert parts["worker"] == pytest.approx(1e8 + 2 * codes / 4 + 4 * 300 * 10_000, rel=0.02)
    # float32 masters of both sides, codes four times, and the message.
    assert parts["client"] == whole["client"] > 1e8 + 9 * codes


def test_tables_are_interpolated_between_what_was_measured() -> None:
    table = {10: 1.0, 1000: 3.0}
    values = [interpolate(table, n) for n in (1, 10, 100, 1000, 10**6)]
    assert values == pytest.approx([1, 1, 2, 3, 3])
    assert CONSTANTS.distance_rate(1, 5) == 4e9
    assert [CONSTANTS.distance_rate(w, 100) for w in (2, 254, 255)] == [2e9, 2e9, 3e9]


def test_entries_and_changes_follow_the_boxes_and_the_batch() -> None:
    known = replace(CONSTANTS, entries={10: 5.0, 1000: 45.0}, changed={100: 0.3, 10_000: 0.1})
    job = Job(boxes=1000, classes=10)
    assert known.entries_per_sample(job) == pytest.approx(25)
    assert known.entries_per_sample(replace(job, classes=100)) == pytest.approx(5)
    parts = [known.changed_part(boxes, batch) for boxes, batch in
             ((100, 2000), (1000, 2000), (1000, 500), (100, 200_000))]  # fmt: skip
    assert parts == pytest.approx([0.3, 0.2, 0.1, 1.0])


@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_and_calls_are_those_of_real_workers(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (600, 128), dtype=np.uint8)
    y = np.arange(600, dtype=np.int32) % 3
    samples = Samples("noise", (x, y), (x, y), 3)
    monkeypatch.setattr(calibrate_data, "BOXES", (96, 10_000))
    monkeypatch.setattr(calibrate_data, "CHANGE_BATCH", 200)
    # Whether a step is long depends on the machine.
    monkeypatch.setattr(cluster_training, "TASK_SECONDS", 1e9)
    measured = calibrate_data.data_constants(samples)
    assert set(measured["entries"]) == {32} and set(measured["changed"]) == {96}
    # The same batch as here is the one that changes are scaled from.
    changed = {96: measured["changed"][96] * math.sqrt(2000 / 200)}
    known = replace(CONSTANTS, entries=measured["entries"], changed=changed)
    job = Job(samples=600, features=128, boxes=96, classes=3, batch=200, validation=0)
    hardware = Hardware(workers=workers)
    options = resolve("graded", {"boxes": 96, "batch": 200, "epochs": calibrate_data.EPOCHS})
    with connect(ClusterOptions(workers=workers, threads_per_worker=1), 1) as executor:
        backend, make = training_on(executor, "cpu", 1)
        feed = Feed.from_arrays(x, y, (x[:0], y[:0]), 0)
        run = Training(options, feed, 3, backend, make_trainer=make)
        assert isinstance(run.trainer, ClusterTrainer)
        found = run.trainer.statistics
        found.bytes_sent = 0  # all boxes, and the samples that the clip is chosen by
        found.bytes_received = 0
        for _ in range(options.epochs):
            run.run_epoch()
    # Six steps, and before them one that only looks at samples, and for which all boxes are sent.
    # The first step after it has nothing to say of boxes.
    seats, count = plan_step.calls(job, hardware, known)
    assert seats == count == workers and found.tasks == 7 * count
    ((update, others, answer),) = plan_step.call_bytes(job, hardware, known)
    sent = seats * 5 * update + 6 * count * (others - 2000)
    assert found.bytes_sent == pytest.approx(sent, rel=0.05)
    assert found.bytes_received == pytest.approx(6 * count * answer, rel=0.05)


# --- how it behaves ------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [0, 8])
@pytest.mark.parametrize("job", [Job(), IMAGENET])
def test_more_work_and_worse_links_take_longer(job: Job, shards: int) -> None:
    hardware = Hardware(workers=8, box_shards=shards)

    def seconds(job: Job, hardware: Hardware = hardware) -> float:
        return sum(plan_step.step_phases(job, hardware, MEASURED).values())

    for name in ("boxes", "batch"):
        assert seconds(replace(job, **{name: 2 * getattr(job, name)})) > seconds(job)
    assert seconds(job, replace(hardware, latency=1e-3)) > seconds(job)
    assert seconds(job, replace(hardware, bandwidth=1e8)) > seconds(job)
    assert seconds(job, replace(hardware, client_threads=4)) < seconds(job)
    phases = [
        plan_step.step_phases(job, replace(hardware, workers=workers), MEASURED)
        for workers in (1, 2, 4, 8)
    ]
    work = [p["distances"] for p in phases]
    assert work == sorted(work, reverse=True) and work[-1] < work[0] / 6


def test_a_curve_says_where_communication_takes_over() -> None:
    points = plan.curve(IMAGENET, Hardware(workers=5), MEASURED)
    assert [p["workers"] for p in points] == sorted({*plan.CURVE, 5})
    shares = [p["communication"] for p in points]
    first = plan.takeover(points)
    assert first is not None and 1 < first < 100
    assert all((share > 0.5) == (p["workers"] >= first)
               for p, share in zip(points, shares, strict=True))  # fmt: skip
    assert all(p["efficiency"] == p["speedup"] / p["workers"] < 1 for p in points)
    rates = dict.fromkeys(("answer_rate", "call_rate", "send_rate"), 1e15)
    times = dict.fromkeys(("call_seconds", "message_seconds"), 1e-12)
    free = replace(MEASURED, **rates, **times)
    ideal = plan.curve(IMAGENET, Hardware(bandwidth=1e15, latency=0), free)
    assert plan.takeover(ideal) is None


# --- simulation ----------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [False, True], ids=["whole boxes", "shards"])
@pytest.mark.parametrize("job", [Job(), Job(boxes=25_000), IMAGENET], ids=["small", "mid", "big"])
def test_prediction_is_that_of_a_simulated_cluster(job: Job, shards: bool) -> None:
    for workers in (1, 2, 3, 5, 8, 16, 27, 32, 64):
        hardware = Hardware(workers=workers, box_shards=workers * shards)
        predicted = sum(plan_step.step_phases(job, hardware, MEASURED).values())
        found = simulate(job, hardware, MEASURED, steps=5)
        assert found == pytest.approx(predicted, rel=0.15), workers


def test_threads_and_slow_links_are_simulated_too() -> None:
    hardware = Hardware(workers=16, threads=4, bandwidth=1.25e8, latency=2e-3)
    predicted = sum(plan_step.step_phases(Job(), hardware, MEASURED).values())
    assert simulate(Job(), hardware, MEASURED) == pytest.approx(predicted, rel=0.15)


@pytest.mark.slow  # another process on the machine makes it late
@pytest.mark.parametrize("workers", [2, 16, 64])
def test_workers_that_really_wait_take_as_long(workers: int) -> None:
    hardware = Hardware(workers=workers)
    predicted = sum(plan_step.step_phases(Job(), hardware, MEASURED).values())
    # Others on the machine can only make it late.
    found = min(simulate(Job(), hardware, MEASURED, 1, real_seconds=0.1) for _ in range(4))
    assert found == pytest.approx(predicted, rel=0.15)


# --- calibration ---------------------------------------------------------------------------


def test_calibration_measures_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "FEATURES", (64, 784))
    monkeypatch.setattr(calibrate, "_BOXES", 64)
    found = calibrate.calibrate()
    assert set(found.entry) == set(found.distances["counted"]) == {64, 784}
    assert found.round_trip == MEASURED.round_trip
    assert 1e8 < found.distance_rate(112, 784) < 1e13
    assert 1e-12 < found.entry[784] < 1e-7
    assert found.source["command"] == "python tests/benchmarks/plan/calibrate.py --out FILE"


def test_the_docs_have_what_is_predicted() -> None:
    kept = json.loads(predictions.RESULTS.read_text())["predictions"]
    assert kept == predictions.predictions(), "run python tests/benchmarks/plan/predictions.py"


def test_constants_survive_a_file(tmp_path: Path) -> None:
    save_constants(MEASURED, tmp_path / "c.json")
    assert load_constants(tmp_path / "c.json") == MEASURED
    with pytest.raises(OptionError, match="already exists"):
        save_constants(MEASURED, tmp_path / "c.json")
    assert MEASURED.source["machine"]["cpu"] and "plan/calibrate.py" in MEASURED.source["command"]


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
