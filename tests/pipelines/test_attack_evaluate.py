"""`boxnn evaluate --attack`: certified accuracy, accuracy under attack, and the gap."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from support.cli_runs import Run, failed

from boxnn_numba.data import zarr_format
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.pipelines.attack import comparison
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures.runs import load_runs

RADII = (0, 1, 2, 3, 4, 5)
OTHER_MODEL = (
    "train", "tiny.zarr", "--preset", "graded", "--out", "m.zarr", "--boxes", 6, "--epochs", 1,
    "--seed", 1,
)  # fmt: skip
EVALUATE = ("evaluate", "cert.zarr", "--radii", "0,1,2,3,4,5", "--attack", "a.zarr")


@pytest.fixture
def attacked(trained: Run) -> Run:
    """Commands in a directory with a certificate file and an attack on every third sample."""
    words = ("certify", "model.zarr", "tiny.zarr", "--out", "cert.zarr")
    assert trained(*words, "--certificate", "margin")[0] == 0
    words = ("attack", "model.zarr", "tiny.zarr", "--max-features", 3)
    assert trained(*words, "--out", "a.zarr", "--limit", 13)[0] == 0
    assert trained(*words, "--out", "all.zarr")[0] == 0
    return trained


def rewrite(path: str, **arrays: int) -> None:
    """Set the first entry of arrays of an attack file, as if it had been written so."""
    group: Any = zarr.open_group(path, mode="r+")
    for name, value in arrays.items():
        group[name][0] = value
    attributes = dict(group.attrs.asdict())
    digests = {name: zarr_format.stored_digest(group[name]) for name in attributes["digests"]}
    kept = {key: value for key, value in attributes.items() if key != "digest"}
    zarr_format.write_attributes(group, {**kept, "digests": digests})


@pytest.mark.parametrize(("path", "n"), [("a.zarr", 13), ("all.zarr", 40)])
def test_the_curves_are_those_of_the_attacked_rows(attacked: Run, path: str, n: int) -> None:
    code, out, err = attacked(*EVALUATE[:-1], path, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)["under_attack"]
    assert (result["n"], result["of"], result["max_features"]) == (n, 40, 3)
    file, cert = open_attack(path), open_certificate("cert.zarr")
    robust, certified = [], []
    for radius in RADII:
        stands = held = 0
        for row, changed in zip(file.row.tolist(), file.changed.tolist(), strict=True):
            right = cert.prediction[row] == cert.label[row]
            stands += right and not 0 <= changed <= radius
            held += right and cert.radius[row] >= radius
        robust.append(100 * stands / n)
        certified.append(100 * held / n)
    rows = [result["radii"][str(radius)] for radius in RADII]
    assert [row["robust_accuracy"] for row in rows] == pytest.approx(robust)
    assert [row["certified_accuracy"] for row in rows] == pytest.approx(certified)
    gaps = np.subtract(robust, certified)
    assert [row["gap"] for row in rows] == pytest.approx(gaps) and gaps.min() >= 0 < gaps.max()


def test_a_random_attack_says_how_far_it_looked(attacked: Run) -> None:
    words = ("--out", "r.zarr", "--method", "random", "--queries", 20, "--limit", 5)
    assert attacked("attack", "model.zarr", "tiny.zarr", *words)[0] == 0
    result = json.loads(attacked(*EVALUATE[:-1], "r.zarr", "--json")[1])["under_attack"]
    assert (result["method"], result["max_features"]) == ("random", 1)


def test_the_table_says_which_rows_were_attacked(attacked: Run) -> None:
    code, out, err = attacked(*EVALUATE)
    assert (code, err) == (0, "")
    plain = attacked(*EVALUATE[:-2])[1].splitlines()
    lines = out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("balanced")) + 2
    assert lines[:at] + lines[at + 5 :] == plain
    heads = ["the 13 attacked rows of 40:", "certified, these", "under attack", "gap", "attack:"]
    for line, head in zip(lines[at : at + 5], heads, strict=True):
        assert line.startswith(head)
    assert len({len(line) for line in [lines[at - 1], *lines[at + 1 : at + 4]]}) == 1
    assert "with at most 3 changes" in lines[at + 4]
    whole = attacked(*EVALUATE[:-1], "all.zarr")[1].splitlines()
    assert [line.split("  ")[0] for line in whole[at : at + 2]] == ["under attack", "gap"]


@pytest.mark.parametrize("gone", [False, True])
def test_an_attack_that_beats_a_certificate_is_an_error(attacked: Run, gone: bool) -> None:
    cert, file = open_certificate("cert.zarr"), open_attack("a.zarr")
    x, row = open_dataset("tiny.zarr").read("test")[0], int(file.row[0])
    other = (int(cert.prediction[row]) + 1) % 3
    rewrite("a.zarr", changed=int(cert.radius[row]), prediction=other)
    if gone:
        shutil.move("tiny.zarr", "away")
    said = f"changes the prediction of row {row} with {cert.radius[row]} features"
    failed(attacked(*EVALUATE), 1, said, "a.zarr.counterexample-0.npz")
    with np.load("a.zarr.counterexample-0.npz") as kept:
        assert ("x" in kept) == (not gone) and int(kept["row"]) == row
        np.testing.assert_array_equal(kept["x_adv"], file.x[0])
        assert gone or (kept["x"] == x[row]).all()


def test_a_violation_is_said_where_nothing_can_be_written(
    attacked: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(comparison, "keep_counterexample", full)
    rewrite("a.zarr", changed=0, prediction=(int(open_attack("a.zarr").label[0]) + 1) % 3)
    failed(attacked(*EVALUATE), 1, "please report it with", "a.zarr")


def test_an_attack_that_is_none_is_an_error(attacked: Run) -> None:
    cert = open_certificate("cert.zarr")
    rewrite("a.zarr", changed=12, prediction=int(cert.prediction[0]))
    failed(attacked(*EVALUATE), 1, "the attack on row 0 does not change the prediction")
    assert Path("a.zarr.counterexample-0.npz").is_file()


def test_only_attacks_on_what_was_certified_are_compared(attacked: Run) -> None:
    assert attacked(*OTHER_MODEL)[0] == 0
    words = ("--out", "b.zarr", "--overwrite", "--limit", 3)
    against_b = (*EVALUATE[:-1], "b.zarr")
    assert attacked("attack", "m.zarr", "tiny.zarr", *words)[0] == 0
    failed(attacked(*against_b), 2, "cert.zarr and b.zarr are not of the same model", "by digest")
    assert attacked("attack", "model.zarr", "tiny.zarr", *words, "--split", "train")[0] == 0
    failed(attacked(*against_b), 2, "not of the same split (test and train)")
    failed(attacked(*EVALUATE, "--convention", "paper"), 2, "held against sound radii")
    failed(attacked(*EVALUATE[:-1], "none"), 2, "none")
    failed(attacked(*EVALUATE[:-1], "model.zarr"), 1, "model.zarr is not an attack")
    attributes: dict[str, Any] = dict(zarr.open_group("a.zarr", mode="r+").attrs.asdict())
    kept = {key: value for key, value in attributes.items() if key != "digest"}
    changed = {**kept, "dataset_digest": "0" * 64}
    zarr_format.write_attributes(zarr.open_group("a.zarr", mode="r+"), changed)
    failed(attacked(*EVALUATE), 2, "not of the same data set, by digest", "and 00000000")
    assert not list(Path().glob("*.npz"))


def test_the_report_draws_the_attack(attacked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 30)
    curves = comparison.with_attacks(load_runs(["cert.zarr"]), ["a.zarr"], "sound")
    assert curves[0].robust is not None and len(curves[0].robust) == 4  # it looked no further
    labels = [t.get_text() for t in plots.certified_curves(curves, [], "t").legends[0].get_texts()]
    assert labels[1] == "cert under attack (13 samples)"
    code, _, err = attacked("report", "cert.zarr", "--out", "r", "--attack", "a.zarr")
    assert (code, err) == (0, "")
    with Path("r/attack_curves.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    result = json.loads(attacked(*EVALUATE, "--json")[1])["under_attack"]["radii"]
    assert [(row["run"], row["samples"], row["changes"]) for row in rows] == [
        ("cert", "13", str(changes)) for changes in range(4)
    ]
    for row in rows:
        expected = result[row["changes"]]["robust_accuracy"]
        assert float(row["robust_accuracy"]) == pytest.approx(expected, abs=1e-4)
    page = Path("r/report.html").read_text()
    assert page.count('class="line run run-0 attack"') == 1
    assert (
        "Dashed: what boxnn attack has left (cert, 13 samples). On a part of the samples it" in page
    )
    again = ("report", "cert.zarr", "--out", "r", "--overwrite")
    assert attacked(*again)[0] == 0
    assert not Path("r/attack_curves.csv").exists()


def test_reports_refuse_attacks_on_something_else(attacked: Run) -> None:
    report = ("report", "cert.zarr", "--out", "r", "--attack", "a.zarr")
    failed(attacked(*report, "--attack", "all.zarr"), 2, "all.zarr is a second attack on cert")
    failed(attacked(*report, "--convention", "paper"), 2, "held against sound radii")
    assert attacked(*OTHER_MODEL)[0] == 0
    words = ("attack", "m.zarr", "tiny.zarr", "--out", "b.zarr", "--limit", 3)
    assert attacked(*words)[0] == 0
    failed(attacked(*report[:-1], "b.zarr"), 2, "not of the same model")
    prediction = (int(open_attack("a.zarr").label[0]) + 1) % 3
    rewrite("a.zarr", changed=0, prediction=prediction)
    failed(attacked(*report), 1, "the certificate is wrong, please report it with")
    assert not Path("r").exists() and Path("a.zarr.counterexample-0.npz").exists()


def test_attacks_are_held_against_the_certificate_that_is_named(trained: Run) -> None:
    words = ("attack", "model.zarr", "tiny.zarr", "--overwrite", "--out", "k.zarr", "--json")
    found = {}
    for kind in ("margin", "pairwise"):
        cert = (
            "certify",
            "model.zarr",
            "tiny.zarr",
            "--certificate",
            kind,
            "--out",
            f"{kind}.zarr",
        )
        assert trained(*cert)[0] == 0
        code, out, _ = trained(*words, "--certificate", kind)
        found[kind] = json.loads(out)
        file, cert_file = open_attack("k.zarr"), open_certificate(f"{kind}.zarr")
        assert (code, found[kind]["certificate"]) == (0, kind)
        assert found[kind]["meets"] == 100 * np.mean(file.changed == cert_file.radius + 1)
        prediction, radius, label = cert_file.outcome()
        for word, row in found[kind]["radii"].items():
            right = (prediction == label) & (radius >= int(word))
            assert row["certified_accuracy"] == pytest.approx(100 * right.mean())
    assert found["pairwise"]["meets"] >= found["margin"]["meets"]
    assert json.loads(trained(*words)[1])["certificate"] == "pairwise"  # rows of numbers
