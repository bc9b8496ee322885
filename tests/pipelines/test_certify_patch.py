"""`boxnn certify --certificate patch`: files, resuming, clusters, and what is shown of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cli_runs import Run, failed, here
from support.cluster_tools import Scheduler
from support.report_files import make_data, make_model

from boxnn_numba import Boxes, BoxNN, save_model
from boxnn_numba.certificates import patch_certified
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.data.model_store import load_model
from boxnn_numba.pipelines.certification import certify as pipeline
from boxnn_numba.pipelines.figures import curves as plots
from boxnn_numba.pipelines.figures.published import published_patches

CERTIFY = ("certify", "model.zarr", "data.zarr", "--out")
PATCHES = ("--certificate", "patch", "--patch", "2,1x3,5")


@pytest.fixture
def images(run_boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands in a directory with images, `data.zarr`, and `model.zarr`; in small chunks."""
    data = make_data("data.zarr", name="mnist-sample", n=70)
    make_model("model.zarr", data, seed=0)
    monkeypatch.setitem(pipeline._CHUNK_ROWS, "patch", 30)
    return run_boxnn


def certified(images: Run, out: str, *words: object) -> dict[str, Any]:
    code, text, err = images(*CERTIFY, out, *PATCHES, *words, "--json")
    assert (code, err) == (0, ""), err
    return dict(json.loads(text))


def test_a_file_has_radii_and_what_is_withstood(images: Run) -> None:
    result = certified(images, "c.zarr")
    model, (x, y) = load_model("model.zarr"), open_dataset("data.zarr").read("test")
    file = open_certificate("c.zarr")
    prediction, held = patch_certified(model, x, "2,1x3,5")
    assert file.withstands is not None and file.withstands.dtype == bool
    np.testing.assert_array_equal(file.withstands, held)
    np.testing.assert_array_equal(file.radius, model.certify(x).radius)
    assert file.attributes["patch"] == [[2, 2], [1, 3], [5, 5]]
    shares = 100 * (held & (prediction == y)[:, None]).mean(axis=0)
    assert list(result["patches"]) == ["2x2", "1x3", "5x5"] and 0 < shares[0] < 100
    assert [*result["patches"].values()] == pytest.approx(shares, abs=1e-4)
    images("certify", "model.zarr", "data.zarr", "--out", "m.zarr")
    margin = open_certificate("m.zarr")
    assert margin.withstands is None and margin.patches is None
    np.testing.assert_array_equal(margin.radius, file.radius)


def test_what_is_shown(images: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 30)
    code, text, _ = images(*CERTIFY, "c.zarr", *PATCHES)
    shares = open_certificate("c.zarr").patches
    assert code == 0 and shares is not None
    for size, share in shares.items():
        assert f"\nright and certified against {size} patches {share:.2f}%" in text
    code, text, _ = images("evaluate", "c.zarr")
    assert "\npatch of pixels        2x2    1x3    5x5\ncertified accuracy" in text
    assert json.loads(images("evaluate", "c.zarr", "--json")[1])["patches"] == shares
    assert images("export", "certificates", "c.zarr", "--out", "c.csv")[0] == 0
    with Path("c.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    held = open_certificate("c.zarr").withstands
    assert held is not None and [row["withstands_1x3"] == "True" for row in rows] == [*held[:, 1]]
    assert images("report", "c.zarr", "--out", "r")[0] == 0
    page = Path("r/report.html").read_text(encoding="utf-8")
    for words in ('<th scope="col">1x3</th>', "Chiang et al. 2020", f"{shares['2x2']:.1f}"):
        assert words in page
    with Path("r/patches.csv").open(newline="") as lines:
        table = {row["patch"]: float(row["certified_accuracy"]) for row in csv.DictReader(lines)}
    assert table == shares
    (row,) = (row for row in published_patches("mnist-sample") if row.patch == "5x5")
    assert row.certified_accuracy == 61.85 and row.method.startswith("Interval bounds (Chiang")
    assert published_patches("digits") == []


def test_a_run_that_stopped_goes_on(images: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    certified(images, "whole.zarr")
    calls = 0

    def stops(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        return patch_certified(*given)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "patch_certified", stops)
        code, _, err = images(*CERTIFY, "c.zarr", *PATCHES, "--threads", 1)
        assert code == 130 and "--resume" in err
    other = (*CERTIFY, "c.zarr", "--certificate", "patch", "--patch", 3, "--resume")
    failed(images(*other), 1, "another patch")
    assert certified(images, "c.zarr", "--resume")["n"] == 70
    np.testing.assert_array_equal(
        open_certificate("c.zarr").withstands, open_certificate("whole.zarr").withstands
    )


def test_on_a_cluster(images: Run, external: Scheduler) -> None:
    there = certified(images, "there.zarr", "--scheduler", external.address)
    assert there["cluster"]["tasks"] == 3
    assert there["patches"] == certified(images, "here.zarr")["patches"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--certificate", "patch"), "the certificate patch needs --patch"),
        (("--certificate", "patch", "--patch", "7"), "7 x 7 does not fit into images of 6 x 5"),
        (("--certificate", "patch", "--patch", "2x"), "--patch is '2x'"),
        (("--patch", "2"), "--patch is for the certificate patch"),
        ((*PATCHES, "--device", "cuda"), "on the CPU"),
    ],
)
def test_wrong_options(images: Run, words: tuple[object, ...], message: str) -> None:
    before = here()
    failed(images(*CERTIFY, "c.zarr", *words), 2, message)
    assert here() == before


def test_models_that_are_not_of_images(boxnn: Run) -> None:
    boxes = Boxes([[0] * 12, [60] * 12], [[50] * 12, [255] * 12], [0, 1])
    save_model(BoxNN(boxes, [3, 5]), "flat.zarr")
    words = ("certify", "flat.zarr", "tiny.zarr", "--out", "c.zarr", *PATCHES)
    failed(boxnn(*words), 1, "samples have the shape (12,)", "give the data set that shape")
    assert "c.zarr" not in here()
