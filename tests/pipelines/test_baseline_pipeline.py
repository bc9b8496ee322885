"""Training and certifying with the published defences: files, resuming, executors, reports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import fake_networks
from support.cli_runs import Run
from support.cluster_tools import workers_run_first
from support.interruptions import Stopper, full_disk, kill, wait_for

from boxnn_numba import certified_accuracy, load_model
from boxnn_numba.baselines import ablation, partition
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.data.model_store import load_baseline, model_digest, write_model
from boxnn_numba.errors import (
    CertificateFileError,
    InputError,
    InterruptedRunError,
    ModelFileError,
    OptionError,
    OutputError,
)
from boxnn_numba.pipelines import chunks
from boxnn_numba.pipelines.certification import baselines as baseline_certify
from boxnn_numba.pipelines.certification.baselines import certify_baseline
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.evaluate import evaluate
from boxnn_numba.pipelines.figures.runs import load_runs
from boxnn_numba.pipelines.localize import localize
from boxnn_numba.pipelines.report.report import report
from boxnn_numba.pipelines.running import RunOptions
from boxnn_numba.pipelines.training.baselines import train_baseline
from boxnn_numba.pipelines.training.train import train
from boxnn_numba.training.options import TrainingOptions

ARRAYS = ("prediction", "radius", "label", "class_distance")
#: Of 12 features RA sees 4 a time; with so few samples chunks are small where they are made so.
SAMPLING: dict[str, Any] = {"samples": 60, "guess_samples": 20}
TESTS = Path(__file__).parents[1]
#: The command with the fakes in place, in chunks of 2 samples that take a while.
SLOW_BOXNN = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from support import fake_networks
fake_networks.install()
from boxnn_numba.cli.main import main
from boxnn_numba.pipelines import chunks
from boxnn_numba.pipelines.certification import baselines as baseline_certify
from boxnn_numba.pipelines.certification.baselines import certify_baseline
write = chunks.write_chunk
def slow(*values, **extra):
    time.sleep(0.02)
    write(*values, **extra)
chunks.write_chunk = slow
baseline_certify._CHUNK_ROWS = 2
main()
"""


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_networks.install(monkeypatch.setattr)


def same(one: CertificateFile, two: CertificateFile, *but: str) -> None:
    for name in (*ARRAYS, *(["guess"] if one.method.startswith("RA") else [])):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    skipped = dict.fromkeys(("seconds", "seconds_per_sample", "digest", *but))
    assert {**one.attributes, **skipped} == {**two.attributes, **skipped}


# --- the files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.zarr", "m.zip"])
def test_model_file(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    x, y = open_dataset(tiny_dataset).read("train")
    place = tmp_path / name
    summary = train_baseline(tiny_dataset, place, method="fpa", parts=5, partition="random", seed=3)
    assert summary.settings == {"parts": 5, "partition": "random"}
    assert place.is_file() == name.endswith(".zip")
    model = load_baseline(place)
    centres = [x[y == label].mean(axis=0) for label in range(3)]
    np.testing.assert_array_equal(model.weights["centres"], np.float32(centres))
    part = partition.make_partition("random", 12, 5, 3)
    np.testing.assert_array_equal(model.weights["part"], part)
    assert model.classes == [3, 5, 8] and model.feature_shape == (12,) and model.grid is None
    assert model.method == "fpa" and model.settings["base"] == {"base": "mlp", "group_size": 1}
    assert model.training["dataset_digest"] == open_dataset(tiny_dataset).digest
    assert model.training["seed"] == 3 and "numpy" in model.training["versions"]
    assert model_digest(load_baseline(place)) == model_digest(model)


def test_any_weights_come_back(tmp_path: Path) -> None:
    weights = {
        "0.weight": np.arange(5000, dtype=np.float32).reshape(2500, 2),
        "scalar": np.array(7),
        "none": np.zeros((0, 3), np.float32),
    }
    settings = {"retained": 1, "base": {"layers": [{"kind": "x"}]}}
    model = BaselineModel("ra", settings, ["a", "ü"], (2, 1), weights)
    for single in (False, True):
        place = tmp_path / f"m{single}"
        write_model(model, place, single)
        found = load_baseline(place)
        assert set(found.weights) == set(weights)
        for name, array in weights.items():
            assert found.weights[name].dtype == array.dtype
            np.testing.assert_array_equal(found.weights[name], array)
        assert (found.settings, found.classes) == (settings, ["a", "ü"])


def test_samples_have_the_axes_of_the_training_data() -> None:
    model = BaselineModel("ra", {"base": {}}, ["a", "b"], (2, 3), {})
    x = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for same in (x, x[..., None], x.reshape(2, 6)):
        assert model.encode(same).tolist() == x.reshape(2, 6).tolist()
    with pytest.raises(InputError, match=r"shape \(3, 2\) and the base classifier has \(2, 3\)"):
        model.encode(x.transpose(0, 2, 1))


def test_files_of_the_wrong_kind_are_refused(ra: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path / "boxes", TrainingOptions(boxes=3, epochs=1))
    with pytest.raises(ModelFileError, match=r"boxes is not a baseline \(found boxnn-model\)"):
        load_baseline(tmp_path / "boxes")
    with pytest.raises(ModelFileError, match=r"ra is not a model \(found boxnn-baseline\)"):
        load_model(ra)


def test_damage_is_found(ra: Path, tmp_path: Path) -> None:
    shutil.copytree(ra, tmp_path / "bad")
    chunk = next(path for path in (tmp_path / "bad" / "weights").rglob("0") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(ModelFileError, match=r"bad is damaged: weights/centres cannot be read"):
        load_baseline(tmp_path / "bad")
    root = ra / "zarr.json"
    root.write_text(root.read_text().replace('"retained":4', '"retained":5').replace(
        '"retained": 4', '"retained": 5'
    ))  # fmt: skip
    with pytest.raises(ModelFileError, match="attributes do not match their digest"):
        load_baseline(ra)


# --- the certificates ----------------------------------------------------------------------


def test_ra_is_what_its_functions_say_image_by_image(
    ra: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_certify, "_CHUNK_ROWS", 3)
    chosen = {**SAMPLING, "alpha": 0.01, "seed": 5, "limit": 17}
    certify_baseline(ra, tiny_dataset, tmp_path / "a", certificate="a", **chosen)
    certify_baseline(ra, tiny_dataset, tmp_path / "b", certificate="b", **chosen)
    a, b = open_certificate(tmp_path / "a"), open_certificate(tmp_path / "b")
    x, y = open_dataset(tiny_dataset).read("test")
    network = fake_networks.FakeMasked(load_baseline(ra).weights, {})
    assert len(a) == 17 and a.row.tolist() == [i * 40 // 17 for i in range(17)]
    for place, row in enumerate([i * 40 // 17 for i in range(17)]):
        guesses, votes = ablation.sample_counts(network, x[[row]], [row], 4, 60, 20, seed=5)
        guess = ablation.guess_class(guesses)
        for file, radius in (
            (a, ablation.ra_radius(votes, guess, 12, 4, 0.01)),
            (b, ablation.rab_radius(votes, 12, 4, 0.01, guess)),
        ):
            assert (file.prediction[place], file.radius[place]) == tuple(v[0] for v in radius)
            assert file.guess[place] == guess[0] and file.label[place] == y[row]
            np.testing.assert_array_equal(file.class_distance[place], 60 - votes[0])
    expected = {
        "method": "RA", "certificate": "a", "retained": 4, "alpha": 0.01, "samples": 60,
        "guess_samples": 20, "seed": 5, "limit": 17, "split": "test", "width": 1, "group_size": 1,
        "multiply_adds": 80 * 36,
        "base": {"base": "mlp", "group_size": 1, "validation_accuracy": 0.875},
    }  # fmt: skip
    assert {name: a.attributes[name] for name in expected} == expected
    assert b.method == "RA^B" and a.attributes["seconds_per_sample"] > 0


@pytest.mark.parametrize("certificate", ["a", "b"])
def test_votes_are_used_again(
    certificate: str, ra: Path, tiny_dataset: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    votes, new = tmp_path / "votes", {"certificate": certificate, "alpha": 0.2}
    certify_baseline(ra, tiny_dataset, tmp_path / "fresh", **SAMPLING, limit=9, seed=2, **new)
    certify_baseline(ra, tiny_dataset, votes, certificate="a", limit=9, seed=2, **SAMPLING)
    monkeypatch.setattr(ablation, "sample_counts", None)
    certify_baseline(ra, tiny_dataset, tmp_path / "again", votes_from=votes, **new)
    again = open_certificate(tmp_path / "again")
    same(again, open_certificate(tmp_path / "fresh"))
    taken = open_certificate(votes).attributes["seconds_per_sample"]
    assert again.attributes["seconds_per_sample"] == taken


def test_fpa_is_what_its_functions_say(
    fpa: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_certify, "_CHUNK_ROWS", 7)
    x, y = open_dataset(tiny_dataset).read("test")
    scores = fake_networks.FakeSubmodels(load_baseline(fpa).weights, {}).scores(x)
    votes = partition.votes_of(scores)
    for letter, method, radii in (
        ("a", "FPA^A", partition.plurality_radius(votes)),
        ("b", "FPA^B", partition.runoff_radius(votes, scores)),
    ):
        summary = certify_baseline(fpa, tiny_dataset, tmp_path / letter, certificate=letter)
        file = open_certificate(tmp_path / letter)
        for name, expected in zip(ARRAYS, (*radii, y, 5 - votes), strict=True):
            np.testing.assert_array_equal(getattr(file, name), expected)
        attributes = file.attributes
        assert (file.method, attributes["parts"], attributes["partition"]) == (method, 5, "random")
        assert attributes["limit"] is None and attributes["multiply_adds"] == 36
        assert summary.method == method and summary.abstained == 0 and not summary.note


@pytest.mark.parametrize("method", ["ra", "fpa", "trees"])
def test_a_color_pixel_is_one_feature(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (rng.integers(0, 120, (60, 2, 3, 3)) + 120 * y[:, None, None, None]).astype(np.uint8)
    data, model, out = tmp_path / "d", tmp_path / "m", tmp_path / "c"
    flat = x.reshape(60, 18)
    write_dataset(data, name="d", classes=[0, 1], feature_shape=(2, 3, 3),
                  train=(flat, y), test=(flat, y))  # fmt: skip
    size: dict[str, Any] = {"retained": 2} if method == "ra" else {"parts": 5}
    if method == "trees":
        size |= {"base": "trees", "trees": 3}
    train_baseline(data, model, method=method.replace("trees", "fpa"), **size)
    certify_baseline(model, data, out, certificate="a", **SAMPLING)
    file, stored = open_certificate(out), load_baseline(model)
    assert (stored.group_size, stored.n_groups, file.groups, file.unit) == (3, 6, 6, "pixels")
    assert evaluate(out, [0, 1]).unit == "pixels" and 1 <= file.radius.max() <= 6
    if method == "ra":
        network = fake_networks.FakeMasked(stored.weights, {})
        guesses, votes = ablation.sample_counts(
            network, flat, range(60), 2, 60, 20, 0, group_size=3
        )
        expected = ablation.ra_radius(votes, ablation.guess_class(guesses), 6, 2)
        np.testing.assert_array_equal(file.radius, expected[1])
    else:
        part = stored.weights["part"].reshape(6, 3)
        assert part.tolist() == [[pixel % 5] * 3 for pixel in range(6)]
    report([out], tmp_path / "r")
    assert "pixels" in (tmp_path / "r" / "report.html").read_text()
    one = {"retained": 7} if method == "ra" else {**size, "parts": 7}
    with pytest.raises(OptionError, match=r" is 7; it must be a whole number from 1 to 6"):
        train_baseline(data, tmp_path / "n", method=method.replace("trees", "fpa"), **one)
    with pytest.raises(OptionError, match="`group_size` 4 does not fit"):
        train_baseline(data, tmp_path / "n", method=method.replace("trees", "fpa"), group_size=4,
                       **size)  # fmt: skip


def test_real_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 2
    x = (rng.normal(0, 1, (90, 6)) + 4 * y[:, None]).astype(np.float32)
    data = tmp_path / "real.zarr"
    write_dataset(data, name="real", classes=["n", "p"], train=(x, y), test=(x[:20], y[:20]))
    train_baseline(data, tmp_path / "m", method="ra", retained=2)
    grid = load_baseline(tmp_path / "m").grid
    assert grid is not None and grid.n_features == 6
    summary = certify_baseline(data=data, model=tmp_path / "m", out=tmp_path / "c",
                               certificate="a", samples=200, guess_samples=20)  # fmt: skip
    assert summary.accuracy > 90


def test_classes_that_the_networks_never_saw_are_wrong_even_where_they_abstain(
    ra: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 12)).astype(np.uint8)
    y = np.arange(12) % 2
    write_dataset(tmp_path / "d", name="d", classes=[5, 9], train=(x, y), test=(x, y))
    summary = certify_baseline(
        ra, tmp_path / "d", tmp_path / "c", certificate="a", samples=2, guess_samples=1
    )
    assert summary.abstained == 100 and summary.accuracy == 0
    assert "even a unanimous vote of 2 samples certifies nothing" in (summary.note or "")
    file = open_certificate(tmp_path / "c")
    assert file.label.tolist() == [1, -1] * 6 and (file.prediction == -1).all()
    assert certified_accuracy(*file.outcome(), [0, 1]).tolist() == [0, 0]
    result = evaluate(tmp_path / "c", [0])
    assert result.abstained == 100 and result.median_certified_radius == -1
    assert load_runs([tmp_path / "c"])[0].summary().accuracy == 0


def test_the_papers_convention_leaves_other_methods_alone(
    fpa: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    certify_baseline(fpa, tiny_dataset, tmp_path / "c", certificate="a")
    sound, paper = (evaluate(tmp_path / "c", range(6), name) for name in ("sound", "paper"))
    assert replace(paper, convention="sound") == sound
    with pytest.raises(OptionError, match="unknown convention 'other'"):
        evaluate(tmp_path / "c", [0], "other")
    with pytest.raises(CertificateFileError, match=r"is of FPA\^A, which has no boxes"):
        localize(tmp_path / "c", fpa)


def test_a_report_of_all_methods(ra: Path, fpa: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    train(tiny_dataset, tmp_path / "boxes", TrainingOptions(boxes=6, epochs=1, lr=0.2))
    certify(tmp_path / "boxes", tiny_dataset, tmp_path / "box")
    for model, stem in ((ra, "one"), (fpa, "two")):
        for letter in "ab":
            certify_baseline(
                model, tiny_dataset, tmp_path / f"{stem}{letter}", certificate=letter,
                limit=20, **SAMPLING,
            )  # fmt: skip
    shutil.copytree(tmp_path / "onea", tmp_path / "copy")
    names = ("box", "onea", "oneb", "twoa", "twob")
    files = [tmp_path / name for name in names]
    result = report(files, tmp_path / "r")
    expected = ["box (pairwise)", "RA_4", "RA_4^B", "FPA_5^A", "FPA_5^B"]
    assert [run["name"] for run in result.runs] == expected and result.notes == []
    page = (tmp_path / "r" / "report.html").read_text()
    assert "RA<sub>4</sub><sup>B</sup>" in page and "FPA<sub>5</sub><sup>A</sup>" in page
    found = [run.name for run in load_runs([*files[:2], tmp_path / "copy"])]
    assert found == ["box (pairwise)", "RA_4 (onea)", "RA_4 (copy)"]


# --- where it runs, and what stops it ------------------------------------------------------


def test_the_same_on_workers(ra: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    chosen = {"certificate": "a", "samples": 8_000, "guess_samples": 50, "limit": 16}
    certify_baseline(ra, tiny_dataset, tmp_path / "here", **chosen)
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); from support import fake_networks as f; "
        "f.install()"
    )
    with workers_run_first(code):
        cluster = ClusterOptions(workers=2, threads_per_worker=1)
        certify_baseline(
            ra, tiny_dataset, tmp_path / "there", run=RunOptions(cluster=cluster), **chosen
        )
    same(open_certificate(tmp_path / "here"), open_certificate(tmp_path / "there"))


def test_a_stopped_run_repeats_nothing(
    ra: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_certify, "_CHUNK_ROWS", 2)
    chosen = {"certificate": "b", **SAMPLING}
    certify_baseline(ra, tiny_dataset, tmp_path / "whole", **chosen)
    with pytest.raises(InterruptedRunError, match=r"interrupted; 7 of 20 chunks are kept in"):
        certify_baseline(
            ra, tiny_dataset, tmp_path / "c", run=RunOptions(progress=Stopper(12)), **chosen
        )
    with pytest.raises(
        CertificateFileError, match="with another multiply_adds, samples; resume it with"
    ):
        other = {**chosen, "samples": 61}
        certify_baseline(ra, tiny_dataset, tmp_path / "c", run=RunOptions(resume=True), **other)
    sampled: list[int] = []
    sample = ablation.sample_counts

    def counted(classifier: Any, x: Any, rows: Any, *options: Any, **more: Any) -> Any:
        sampled.extend(rows.tolist())
        return sample(classifier, x, rows, *options, **more)

    monkeypatch.setattr(ablation, "sample_counts", counted)
    certify_baseline(ra, tiny_dataset, tmp_path / "c", run=RunOptions(resume=True), **chosen)
    assert sampled == list(range(14, 40))
    same(open_certificate(tmp_path / "c"), open_certificate(tmp_path / "whole"))


def test_kill_9(
    ra: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_boxnn: Run
) -> None:
    monkeypatch.setattr(baseline_certify, "_CHUNK_ROWS", 2)
    certify_baseline(ra, tiny_dataset, tmp_path / "whole", certificate="a", **SAMPLING)
    words = ["baseline", "ra", "certify", ra, tiny_dataset, "--out", tmp_path / "c",
             "--samples", 60, "--guess-samples", 20, "--device", "cpu"]  # fmt: skip
    command = [sys.executable, "-P", "-c", SLOW_BOXNN, *map(str, words)]
    process = subprocess.Popen(command)
    finished = tmp_path / "c.partial" / "finished" / "c"
    wait_for(lambda: finished.is_dir() and len(list(finished.iterdir())) > 3, process)
    kill(process)
    assert not (tmp_path / "c").exists()
    code, text, errors = run_boxnn(*words, "--resume", "--json")
    assert code == 0, errors
    assert json.loads(text)["n"] == 40
    same(open_certificate(tmp_path / "c"), open_certificate(tmp_path / "whole"), "model", "dataset")


def test_a_full_disk(
    fpa: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "write_chunk", full_disk)
        with pytest.raises(OutputError, match="no space left while writing chunk 0 of"):
            certify_baseline(fpa, tiny_dataset, tmp_path / "c", certificate="a")
    certify_baseline(
        fpa, tiny_dataset, tmp_path / "c", certificate="a", run=RunOptions(resume=True)
    )
