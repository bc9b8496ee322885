"""`lazy_arrays.py`: its figures are there, and no block differs from NumPy's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import lazy_arrays


def test_few_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    words = f"--rows 2500 --chunk 600 --boxes 50 --rows-of-files 1500 --out {out}"
    found = lazy_arrays.main(words.split())
    written = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert found["differing_blocks"] == 0 and found["ratio"] > 0 and found["peak_mb"] > 0
    assert len(written["rows_per_second"]) == 1


def test_differing_blocks_are_counted() -> None:
    codes, model = lazy_arrays.lazy_codes(70, 30, seed=0), lazy_arrays.model_of(20)
    prediction, radius = (one.compute() for one in model.certify(codes))
    assert lazy_arrays.differing_blocks(model, codes, (prediction, radius)) == 0
    radius[[5, 65]] += 1
    assert lazy_arrays.differing_blocks(model, codes, (prediction, radius)) == 2
