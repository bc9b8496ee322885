"""`presets.py`: what is counted, and what is measured again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import presets


def test_images_are_counted_by_radius() -> None:
    prediction, radius, label = np.array([[0, 1, 1, 0], [5, 2, 9, 0], [0, 1, 0, 0]])
    found = presets.counted(prediction, radius, label)
    assert found["certified"] == [3, 2, 2, 1, 1, 1] and found["images"] == 4
    assert found["median"] == 2 and found["recall"] == [66.67, 100.0]
    # Radii of single channels, three of them a pixel.
    assert presets.counted(prediction, radius, label, group=3)["certified"] == [3, 1]


def test_attacks_are_counted_beside_certificates() -> None:
    found = presets.attacked(np.array([3, 3, 3, 3]), np.array([4, 3, 9, -1]))
    assert found == {"images": 4, "found": 3, "one_more": 1, "inside": 1}


def test_what_is_kept_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def measure(case: presets.Case, folder: Path, again: bool) -> dict[str, bool]:
        measured.append(case.name)
        return {"again": again}

    monkeypatch.setattr(presets, "measure", measure)
    words = ["--work", str(tmp_path), "--out", str(tmp_path / "out.json")]
    presets.main([*words, "--only", "mnist-graded-1"])
    presets.main([*words, "--only", "mnist-graded"])
    presets.main([*words, "--only", "mnist-graded-1", "--again"])
    graded = [f"mnist-graded-{seed}" for seed in range(3)]
    assert measured == ["mnist-graded-1", "mnist-graded-0", "mnist-graded-2", "mnist-graded-1"]
    kept = json.loads((tmp_path / "out.json").read_text())["cases"]
    assert list(kept) == graded and kept["mnist-graded-1"] == {"again": True}
    with pytest.raises(SystemExit):
        presets.main([*words, "--only", "none"])
    assert "cases are mnist-graded-0" in capsys.readouterr().err


def test_what_another_command_made_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[str]] = []

    def make(words: list[str], **_: object) -> None:
        made.append(words)
        (tmp_path / "m.zarr").mkdir()

    monkeypatch.setattr(presets.subprocess, "run", make)
    for _ in range(2):
        presets.run("boxnn train d.zarr --out m.zarr --epochs 40", tmp_path, again=False)
    assert len(made) == 1
    other = "boxnn train d.zarr --out m.zarr --epochs 60"
    with pytest.raises(SystemExit, match="made by another command"):
        presets.run(other, tmp_path, again=False)
    presets.run(other, tmp_path, again=True)
    presets.run(other, tmp_path, again=False)
    assert len(made) == 2
    (tmp_path / "m.command").unlink()
    with pytest.raises(SystemExit, match="another command"):
        presets.run(other, tmp_path, again=False)
