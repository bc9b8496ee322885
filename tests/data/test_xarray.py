"""What we write, opened by xarray: named dimensions, and the values that our own readers give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.cli_runs import Run

from boxnn_numba import BoxNNClassifier, save_model
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import CertificateFile, open_certificate
from boxnn_numba.data.dataset import open_dataset
from boxnn_numba.pipelines.training.baselines import train_baseline

xarray = pytest.importorskip("xarray")


def opened(path: str, group: str | None = None) -> xarray.Dataset:
    return xarray.open_zarr(path, group=group, consolidated=False)


def test_datasets_open_by_split(run_boxnn: Run) -> None:
    lines = [f"r{i},{i % 7},{'ab'[i % 2]}" for i in range(60)]
    Path("t.csv").write_text("\n".join(["name,size,kind", *lines]))
    words = "data ingest t.csv --label kind --id name --out d.zarr"
    assert run_boxnn(*words.split())[0] == 0
    dataset = open_dataset("d.zarr")
    for split in dataset.splits:
        found, (x, y) = opened("d.zarr", split), dataset.read(split)
        assert found.x.dims == ("sample", "feature") and found.y.dims == ("sample",)
        assert found.id.dims == ("sample", "character")
        np.testing.assert_array_equal(found.x, x)
        np.testing.assert_array_equal(found.y, y)
        assert dict(found.sizes) == {"sample": len(y), "feature": 1, "character": 3}


def test_certificates_and_attacks_open(trained: Run) -> None:
    exact = "certify model.zarr tiny.zarr --out e.zarr --certificate exact --limit 9"
    attack = "attack model.zarr tiny.zarr --out a.zarr --limit 7"
    for words in (exact, attack):
        assert trained(*words.split())[0] == 0
    file, found = open_certificate("e.zarr"), opened("e.zarr")
    assert found.sizes["sample"] == 9 and found.sizes["class"] == 3
    assert found.class_distance.dims == ("sample", "class")
    for name in ("prediction", "radius", "upper", "label", "class_distance"):
        assert found[name].dims[0] == "sample"
        np.testing.assert_array_equal(found[name], file.read(name))
        assert found[name].dtype == file.read(name).dtype
    assert CertificateFile.withstands.dims == ("sample", "size")  # type: ignore[attr-defined]
    attacked, found = open_attack("a.zarr"), opened("a.zarr")
    assert found.x.dims == ("sample", "feature") and found.sizes["sample"] == 7
    for name in ("x", "changed", "prediction", "label", "row"):
        np.testing.assert_array_equal(found[name], attacked.read(name))


def test_every_array_has_names(trained: Run, tmp_path: Path) -> None:
    train_baseline("tiny.zarr", tmp_path / "stumps", method="stumps")
    x = np.random.default_rng(0).normal(size=(90, 4))
    model = BoxNNClassifier(boxes=6, epochs=1).fit(x, np.arange(90) % 3).model_
    save_model(model, tmp_path / "real.zarr")
    several = "train tiny.zarr --out two.zarr --preset graded --boxes 6 --epochs 1 --members 2"
    assert trained(*several.split())[0] == 0
    for name in ("model.zarr", "stumps", "real.zarr", "two.zarr", "tiny.zarr"):
        for folder in (Path(name), *(p for p in Path(name).glob("*/") if p.name != "c")):
            if json.loads((folder / "zarr.json").read_text())["node_type"] == "group":
                opened(name, None if folder == Path(name) else folder.name)
    assert dict(opened("real.zarr", "grid").sizes)["feature"] == 4
    assert opened("model.zarr").lower.dims == ("box", "feature")


def test_files_without_names_are_read(trained: Run) -> None:
    assert trained("certify", "model.zarr", "tiny.zarr", "--out", "c.zarr")[0] == 0
    before = open_certificate("c.zarr").radius
    for store in ("tiny.zarr", "model.zarr", "c.zarr"):
        for metadata in Path(store).rglob("zarr.json"):
            content = json.loads(metadata.read_text())
            if content.pop("dimension_names", None) is not None:
                metadata.write_text(json.dumps(content))
    assert zarr.open_array("c.zarr/radius").metadata.dimension_names is None
    assert trained("certify", "model.zarr", "tiny.zarr", "--out", "d.zarr")[0] == 0
    np.testing.assert_array_equal(open_certificate("d.zarr").radius, before)
    np.testing.assert_array_equal(open_certificate("c.zarr").radius, before)
