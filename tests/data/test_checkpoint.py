"""Checkpoints: they come back as they were written, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxnn_numba.data.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxnn_numba.errors import BoxNNError, ModelFileError, OptionError


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path, {"seed": 1}, age=0.0)
    assert first.restore({"lr": 0.5}) is None and first.state == {} and first.is_old
    first.save({"a": np.arange(3)}, {"ran": 2})
    assert first.state == {"ran": 2}
    second = Checkpoint(tmp_path, {"seed": 1})
    found = second.restore({"lr": 0.5})
    assert found is not None and found[1] == second.state == {"ran": 2}
    np.testing.assert_array_equal(found[0]["a"], np.arange(3))
    assert second.seconds > 0 and not second.is_old
    for about in ({"seed": 2}, {"seed": 1, "device": "cuda"}):
        with pytest.raises(OptionError, match=r"has \w+ (1|None), not .*pass `overwrite` to"):
            Checkpoint(tmp_path, about).restore()


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(7)}
    values = {"run": {"epoch": 3, "score": None, "margin": 0.1 + 0.2}, "name": "ü"}
    for _ in range(2):
        save_checkpoint(path, arrays, values)
        found, plain = load_checkpoint(path)
        assert plain == values and set(found) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
        assert list(tmp_path.iterdir()) == [path]


def test_checkpoint_with_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_checkpoint(tmp_path / "c.npz", {"a": np.array([object()])}, {})
    assert not (tmp_path / "c.npz").exists()
    np.savez(tmp_path / "c.npz", values=np.array("{}"), a=np.array([{}], dtype=object))
    with pytest.raises(ModelFileError, match="is damaged; pass `overwrite` to start again"):
        load_checkpoint(tmp_path / "c.npz")


def test_damaged_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    arrays = {"a": np.arange(60.0)}
    save_checkpoint(path, arrays, {"epoch": 1})
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    damaged = [whole[:length] for length in (0, 1, 100, len(whole) - 1)]
    for bit in rng.choice(8 * len(whole), 300, replace=False).tolist():
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    refusals = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            found, values = load_checkpoint(path)
        except BoxNNError as error:
            assert "pass `overwrite` to start again" in str(error) and "\n" not in str(error)
            refusals += 1
        else:
            np.testing.assert_array_equal(found.get("a", arrays["a"]), arrays["a"])
            assert values == {"epoch": 1}
    assert refusals > 100
