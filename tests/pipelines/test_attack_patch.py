"""`boxnn attack --patch`: what is found, held against patch certificates, and shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from support.cli_runs import Run, failed, here
from support.factored_models import factored_model, write_samples

from boxnn_numba import save_model
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import patch_certified
from boxnn_numba.data import zarr_format
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.pipelines.figures import curves as plots

ATTACK = ("attack", "m.zarr", "d.zarr", "--out", "a.zarr")


@pytest.fixture
def images(run_boxnn: Run) -> Run:
    """Commands in a directory with colour images `d.zarr`, and a model `m.zarr`."""
    model = factored_model(offset=(0, 0, 0))
    save_model(model, "m.zarr")
    write_samples(Path("d.zarr"), model)
    return run_boxnn


def shares(images: Run) -> dict[str, Any]:
    """What was found by blocks of 2 x 2, and what is right, certified and left."""
    model = factored_model(offset=(0, 0, 0))
    x, y = write_samples(Path("e.zarr"), model)
    found = greedy_attack(model, x, patch=2).changed >= 0
    held = patch_certified(model, x, 2)[1][:, 0]
    right = model.predict(x) == np.asarray(model.classes)[y]
    assert 0 < found.mean() < 1 and held.any()
    return {
        "found": found,
        "certified_accuracy": 100 * (right & held).mean(),
        "robust_accuracy": 100 * (right & ~found).mean(),
        "gap": 100 * (right & ~found).mean() - 100 * (right & held).mean(),
    }


def test_success_by_size(images: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 30)
    code, out, err = images(*ATTACK, "--patch", "2", "--json")
    expected = shares(images)
    assert (code, err) == (0, "")
    file, found = open_attack("a.zarr"), expected.pop("found")
    np.testing.assert_array_equal(file.changed >= 0, found)
    assert file.attributes["options"]["patch"] == "2"
    assert json.loads(out)["patches"] == {"2x2": pytest.approx(expected)}
    code, text, _ = images(*ATTACK[:-1], "b.zarr", "--patch", "2")
    assert code == 0 and f"by one block of 2x2 found on {100 * found.mean():.2f}%" in text
    assert images("certify", "m.zarr", "d.zarr", "--out", "m")[0] == 0
    words = ("--certificate", "patch", "--patch", "1x1,2x3")
    assert images("certify", "m.zarr", "d.zarr", "--out", "c.zarr", *words)[0] == 0
    plain = json.loads(images("evaluate", "m", "--attack", "a.zarr", "--json")[1])
    size = plain["under_attack"]["patches"]["2x2"]
    assert size["certified_accuracy"] is None and size["gap"] is None
    code, text, _ = images("evaluate", "c.zarr", "--attack", "a.zarr")
    left = expected["robust_accuracy"]
    assert code == 0 and f"by one block of 2x2: {left:.1f}% right under attack, " in text
    assert images("report", "c.zarr", "--attack", "a.zarr", "--out", "r")[0] == 0
    assert ", under attack</th>" in Path("r/report.html").read_text(encoding="utf-8")
    with Path("r/patches.csv").open(newline="") as lines:
        rows = {row["patch"]: row for row in csv.DictReader(lines)}
    assert float(rows["2x2"]["robust_accuracy"]) == pytest.approx(left, abs=1e-4)
    assert rows["2x2"]["certified_accuracy"] == rows["2x3"]["robust_accuracy"] == ""


def test_an_attack_on_a_certified_sample_is_an_error(images: Run) -> None:
    """The larger block of the certificate covers that of the attack."""
    assert images(*ATTACK, "--patch", "2")[0] == 0
    words = ("--certificate", "patch", "--patch", "1,2x3")
    assert images("certify", "m.zarr", "d.zarr", "--out", "c.zarr", *words)[0] == 0
    hit = np.flatnonzero(open_attack("a.zarr").changed > 0)
    group: Any = zarr.open_group("c.zarr", mode="r+")
    group["withstands"][hit[0], 1] = True
    attributes = dict(group.attrs.asdict())
    digests = {name: zarr_format.stored_digest(group[name]) for name in attributes["digests"]}
    kept = {key: value for key, value in attributes.items() if key != "digest"}
    zarr_format.write_attributes(group, {**kept, "digests": digests})
    code, _, err = images("evaluate", "c.zarr", "--attack", "a.zarr")
    words = f"row {hit[0]} by one block of 2x2, against which it is certified"
    assert code != 0 and words in err and err.count("\n") == 1
    assert any("counterexample" in name for name in here())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--patch", "2", "--method", "random"), "--patch is for the greedy attack"),
        (("--patch", "2,3"), "pass one size of blocks"),
        (("--patch", "9"), "9 x 9 does not fit"),
    ],
)
def test_wrong_options(images: Run, words: tuple[object, ...], message: str) -> None:
    before = here()
    failed(images(*ATTACK, *words), 2, message)
    assert here() == before
