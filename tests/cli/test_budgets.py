"""Budgets on screen: never more than is certified, and no two of them alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from support.cli_runs import Run

from boxnn_numba import Boxes, BoxNN, pipelines, save_model
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.pipelines.evaluate import _percents


def test_large_budgets_are_not_rounded(run_boxnn: Run) -> None:
    boxes = Boxes([[0] * 4, [200] * 4], [[90] * 4, [255] * 4], [0, 1], 100)
    save_model(BoxNN(boxes, ["dark", "bright"]), "m.zarr")
    rows = np.array([[20] * 4, [230] * 4] * 3, np.uint8), np.array([0, 1] * 3)
    write_dataset("d.zarr", name="d", classes=["dark", "bright"], train=rows, test=rows)
    Path("c.toml").write_text("".join(f"{k} = 100000{k + 1}.5\n" for k in range(4)))
    words = ("--certificate", "exact", "--costs", "c.toml", "--out", "c.zarr")
    code, out, _ = run_boxnn("certify", "m.zarr", "d.zarr", *words)
    assert code == 0
    least = json.loads(run_boxnn("evaluate", "c.zarr", "--json")[1])["median_certified_radius"]
    assert 1_000_000 < least < 4_000_000
    assert float(re.findall(r"median certified radius ([\d.e+]+)", out)[0]) == least
    radii = ("--radii", "0,0.5,1000001.5,1000002.4")
    found = json.loads(run_boxnn("evaluate", "c.zarr", *radii, "--json")[1])
    assert list(found["certified_accuracy"]) == ["0", "0.5", "1000001.5", "1000002.4"]
    code, text, _ = run_boxnn("evaluate", "c.zarr", *radii)
    lines = [line.split() for line in text.splitlines()]
    assert ["radius", "0", "0.5", "1000001.5", "1000002.4"] in lines
    assert code == 0
    assert float(re.findall(r"median certified radius ([\d.e+]+)", text)[0]) == least
    classes = pipelines.evaluate("c.zarr").per_class
    for row in classes:
        (line,) = (line for line in lines if line[:1] == [row["class"]])
        assert float(line[3]) == row["median_certified_radius"]


def test_usual_budgets_are_written_as_before() -> None:
    radii = [0, 1.0, 0.5, 0.1 + 0.2, 2.25, 1_000_001.5, 1_000_002.4]
    names = ["0", "1", "0.5", "0.3", "2.25", "1000001.5", "1000002.4"]
    assert list(_percents(radii, np.zeros(7))) == names
