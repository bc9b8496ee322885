"""`boxnn localize` on real files: its numbers, its text, and what it refuses in one line."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from support.cli_runs import failed
from support.report_files import certify, make_data, make_model

from boxnn_numba import Boxes, BoxNN, class_distance
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.model_store import load_model, save_model
from boxnn_numba.pipelines.localize import localize
from boxnn_numba.theory.volumes import codes_before, grown_log_volumes, uniform_codes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models and certificates of codes, of real features, of groups; and some that do not fit."""
    folder = tmp_path_factory.mktemp("made")
    data = make_data(folder / "data.zarr", "mnist-sample")
    model = make_model(folder / "model.zarr", data, seed=0)
    certify(folder / "cert.zarr", model, data)
    certify(folder / "unlabelled.zarr", model, data, labelled=False)
    make_model(folder / "other.zarr", data, seed=1)
    colour = make_data(folder / "colour-data.zarr", "colour", shape=(3, 3, 3))
    certify(
        folder / "colour-cert.zarr",
        make_model(folder / "colour.zarr", colour, seed=0, group_size=3),
        colour,
    )
    real = make_data(folder / "real-data.zarr", "real", shape=(7,), real=True)
    certify(
        folder / "real-cert.zarr", make_model(folder / "real.zarr", real, seed=0, width=9), real
    )
    return folder


@pytest.fixture
def work(made, run_boxnn, tmp_path):
    """Run commands in a copy of the files."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return run_boxnn


def test_numbers_are_those_of_the_files(work):
    code, out, err = work(
        "localize",
        "cert.zarr",
        "model.zarr",
        "--radius",
        2,
        "--radius",
        0,
        "--share",
        0.5,
        "--json",
    )
    assert (code, err) == (0, "")
    result = json.loads(out)
    file, boxes = open_certificate("cert.zarr"), load_model("model.zarr").boxes
    assert result["n"] == len(file) and result["features"] == 30 and result["width"] == 64
    assert [part["radius"] for part in result["radii"]] == [2, 0]
    for part in result["radii"]:
        eps = part["radius"]
        assert part["exponent"] == eps**2 / 30
        single = grown_log_volumes(boxes, 64 * eps) / math.log(10)
        certified = (file.prediction == file.label) & (file.radius >= eps)
        assert part["certified_risk"] == pytest.approx(1 - certified.mean())
        assert part["certified_risk"] <= part["strong"]["risk"] + 1e-12
        for label, row in enumerate(part["classes"]):
            mine = file.label == label
            own = file.class_distance[mine, label]
            assert (row["class"], row["n"]) == (label, mine.sum())
            assert row["delta"] == pytest.approx(1 - certified[mine].mean())
            assert row["delta"] < row["delta_upper"] <= 1
            assert row["boxes"] == (boxes.labels == label).sum()
            assert row["grown"]["holds"] == pytest.approx((own <= 64 * eps).mean())
            low, high = row["grown"]["log10_volume"]
            assert low == pytest.approx(single[boxes.labels == label].max())
            assert low <= high <= low + math.log10(row["boxes"])
            assert row["grown"]["log10_volume_l0"][1] <= high
            held = row["holding"]
            assert (own <= round(64 * held["growth"])).mean() == pytest.approx(held["holds"])
            assert held["holds"] >= 0.5 > (own < round(64 * held["growth"])).mean()
            claim = row["constant"] * math.exp(-part["exponent"])
            assert row["volume"] == pytest.approx(min(1, claim))
            assert row["trivial"] == (claim >= 1 - row["delta"])
            density = math.log(10) * row["impossibility"]["log10_density"]
            assert density >= -math.log(10) * held["log10_volume"][1] + math.log(0.3)
            up_to = math.isqrt(int(30 * min(30, density + math.log(2))))
            assert row["impossibility"] == {
                "log10_density": pytest.approx(density / math.log(10)),
                "vacuous": True,
                "up_to": up_to,
            }


def test_the_theorem_holds_on_uniform_inputs(work):
    # Theorem 2.2's set is where all of the eps-ball is predicted alike; certificates find a part
    # of it, and that part must be no larger than C exp(-eps^2 / n).
    result = localize("cert.zarr", "model.zarr", [1, 2], samples=2000).as_dict()
    model = load_model("model.zarr")
    x = uniform_codes(np.random.default_rng(9), codes_before(30), 5000)
    prediction, radius = model.certify(x)
    for part in result["radii"]:
        for row in part["classes"]:
            inside = ((prediction == row["class"]) & (radius >= part["radius"])).mean()
            assert inside <= row["volume"]
            region = (prediction == row["class"]).mean()
            assert row["constant"] >= 1 / (1 - region + 0.02)


def test_text_explains_itself(work):
    code, out, err = work("localize", "cert.zarr", "model.zarr")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    median = json.loads(work("evaluate", "cert.zarr", "--json")[1])["median_certified_radius"]
    assert "eps is the median certified radius" in lines[0]
    assert lines[1].startswith("90% of each class lie in a part of the inputs of volume 10^-")
    assert lines[3].startswith(f"eps = {median} ")
    rows = lines[3:8]
    assert [line.split()[0] for line in rows[1:]] == ["class", "0", "1", "2"]
    bars = [[i for i, c in enumerate(line) if c == "|"] for line in rows]
    assert all(places == bars[0] for places in bars)
    assert "delta: part of the class not certified at eps" in out
    # Grown far enough, the boxes hold everything, and "100.0%" stays a column of its own.
    grown = work("localize", "cert.zarr", "model.zarr", "--radius", 20)[1].splitlines()[5:8]
    assert [line.split("|")[2].split()[2] for line in grown] == ["100.0%"] * 3
    assert "graded distance" in out and "95% confidence" in out
    # One table for each radius; the same bits again.
    two = work("localize", "cert.zarr", "model.zarr", "--radius", 1, "--radius", 3)[1]
    assert two.count("Theorem 2.2, eps^2/n") == 2 and "median" not in two
    assert two == work("localize", "cert.zarr", "model.zarr", "--radius", 1, "--radius", 3)[1]


def test_groups_of_features_are_counted_together(work):
    result = localize("colour-cert.zarr", "colour.zarr", [2]).as_dict()
    assert result["features"] == 9 and result["group_size"] == 3
    part = result["radii"][0]
    assert part["exponent"] == 4 / 9
    boxes = load_model("colour.zarr").boxes
    volume = grown_log_volumes(boxes, 2 * 3 * 64) / math.log(10)
    row = part["classes"][0]
    assert row["grown"]["log10_volume"][0] == pytest.approx(volume[boxes.labels == 0].max())
    assert row["grown"]["growth"] == 2
    assert "groups of 3" in work("localize", "colour-cert.zarr", "colour.zarr")[1]
    failed(work("localize", "colour-cert.zarr", "colour.zarr", "--radius", 10), 2, "from 0 to 9")


def test_real_features_are_measured_by_their_levels(work):
    result = localize("real-cert.zarr", "real.zarr", [1], samples=500).as_dict()
    model = load_model("real.zarr")
    volume = grown_log_volumes(model.boxes, 9, model.grid) / math.log(10)
    for row in result["radii"][0]["classes"]:
        mine = model.boxes.labels == row["class"]
        assert row["grown"]["log10_volume"][0] == pytest.approx(volume[mine].max())


def test_width_one_has_nothing_graded_and_a_class_may_have_no_box(run_boxnn, tmp_path):
    boxes = Boxes([[0] * 5, [9] * 5], [[20] * 5, [60] * 5], [0, 1], 1, 3)
    save_model(BoxNN(boxes, ["a", "b", "c"]), "m.zarr")
    x = np.random.default_rng(0).integers(0, 80, (60, 5)).astype(np.uint8)
    split = (x, np.arange(60, dtype=np.int32) % 3)
    write_dataset("d.zarr", name="d", classes=["a", "b", "c"], train=split, test=split)
    assert run_boxnn("certify", "m.zarr", "d.zarr", "--out", "c.zarr")[0] == 0
    assert class_distance(x, boxes)[0, 2] == 2**31 - 1
    code, out, err = run_boxnn("localize", "c.zarr", "m.zarr", "--json")
    assert (code, err) == (0, "")
    part = json.loads(out)["radii"][0]
    assert part["radius"] == 0  # the accuracy is below one half
    empty = part["classes"][2]
    assert empty["boxes"] == 0 and empty["delta"] == 1 and empty["trivial"]
    assert empty["grown"]["log10_volume"] == empty["holding"]["log10_volume"] == [None, None]
    assert empty["holding"]["holds"] == 0 and empty["impossibility"]["log10_density"] == 0
    text = run_boxnn("localize", "c.zarr", "m.zarr", "--radius", 5)[1]
    assert "graded" not in text and "A class has no box" in text and "not shown" in text


def test_problems_are_one_line(work):
    def wrong(*words):
        return work("localize", *words)

    failed(wrong("cert.zarr", "other.zarr"), 2, "cert.zarr is not of other.zarr but of model.zarr")
    failed(wrong("unlabelled.zarr", "model.zarr"), 1, "no sample whose true class is known")
    failed(wrong("cert.zarr", "model.zarr", "--radius", 31), 2, "radius is 31", "from 0 to 30")
    failed(wrong("cert.zarr", "model.zarr", "--radius", -1), 2, "radius is -1")
    failed(wrong("cert.zarr", "model.zarr", "--radius", "x"), 2, "--radius", "valid integer")
    failed(wrong("cert.zarr", "model.zarr", "--share", 1), 2, "share is 1.0")
    failed(wrong("cert.zarr", "model.zarr", "--samples", 0), 2, "samples is 0")
    failed(wrong("cert.zarr", "model.zarr", "--seed", -1), 2, "seed is -1")
    failed(wrong("cert.zarr", "absent.zarr"), 2, "absent.zarr", "does not exist")
    failed(wrong("model.zarr", "model.zarr"), 1, "model.zarr")
    failed(wrong("cert.zarr", "data.zarr"), 1, "data.zarr")


def test_certificates_of_other_methods_are_refused(work, monkeypatch):
    from boxnn_numba.pipelines.localize import localize

    file = open_certificate("cert.zarr")
    file.attributes["method"] = "RA"
    monkeypatch.setitem(localize.__globals__, "open_certificate", lambda path: file)
    failed(work("localize", "cert.zarr", "model.zarr"), 1, "is of RA, which has no boxes")
