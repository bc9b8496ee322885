"""`boxnn attack`: what a user types and reads, and what the file holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from support.attack_models import groups_changed
from support.cli_runs import Run, failed, here

from boxnn_numba import load_model
from boxnn_numba.attacks import AttackResult
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.errors import AttackFileError, InterruptedRunError, UnsoundError
from boxnn_numba.pipelines import chunks
from boxnn_numba.pipelines.attack import attack as pipeline
from boxnn_numba.pipelines.attack.attack import AttackOptions, attack
from boxnn_numba.pipelines.running import RunOptions

ATTACK = ("attack", "model.zarr", "tiny.zarr", "--out", "a.zarr")


def check_file(path: str, data: str = "tiny.zarr") -> np.ndarray:
    """Compare an attack file with its model and data; returns `changed`."""
    model, dataset, file = load_model("model.zarr"), open_dataset(data), open_attack(path)
    x, y = dataset.read_rows("test", file.row)
    before, radius = model.certify(x)
    assert file.x.dtype == x.dtype
    after = np.asarray(model.classes)[file.prediction]
    np.testing.assert_array_equal(after, model.predict(file.x))
    np.testing.assert_array_equal(after != before, file.changed >= 0)
    counted = groups_changed(model.encode(x), model.encode(file.x), model.groups)
    np.testing.assert_array_equal(np.maximum(file.changed, 0), counted)
    assert (file.changed[file.changed >= 0] > radius[file.changed >= 0]).all()
    np.testing.assert_array_equal(file.label, y)
    return file.changed


def test_a_session(trained: Run) -> None:
    code, out, err = trained(*ATTACK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("a.zarr: 40 samples in ") and "attacks found on 100.00%" in lines[0]
    assert "need exactly one change more than is certified" in lines[1]
    changed = check_file("a.zarr")
    code, out, err = trained("attack", *ATTACK[1:4], "b.zarr", "--json", "--limit", 7)
    result = json.loads(out)
    assert (code, err, result["n"]) == (0, "", 7)
    np.testing.assert_array_equal(check_file("b.zarr"), changed[(np.arange(7) * 40) // 7])
    at_zero = result["radii"]["0"]
    assert at_zero["certified_accuracy"] == at_zero["robust_accuracy"] == result["accuracy"]
    assert all(r["certified_accuracy"] <= r["robust_accuracy"] for r in result["radii"].values())
    assert here() == {"tiny.zarr", "model.zarr", "a.zarr", "b.zarr"}


def test_options_limit_the_attack(trained: Run) -> None:
    assert trained(*ATTACK, "--max-features", 3, "--low", 20, "--high", 230)[0] == 0
    changed = check_file("a.zarr")
    file, x = open_attack("a.zarr"), open_dataset("tiny.zarr").read("test")[0]
    assert changed.max() <= 3
    written = file.x[file.x != x]
    assert len(written) and written.min() >= 20 and written.max() <= 230


@pytest.mark.parametrize("method", ["greedy", "random"])
def test_only_some_features_may_change(trained: Run, method: str) -> None:
    mask = np.arange(12) % 3 != 1
    np.save("mask.npy", mask)
    words = (*ATTACK, "--method", method, "--features", "mask.npy", "--max-features", 6)
    code, _, err = trained(*words, "--queries", 100)
    assert (code, err) == (0, "")
    assert (check_file("a.zarr") > 0).any()
    file = open_attack("a.zarr")
    x = open_dataset("tiny.zarr").read("test")[0]
    assert (file.x == x)[:, ~mask].all()
    assert file.attributes["options"]["features"] == "mask.npy"


def test_fewer_features_than_may_change_at_once(trained: Run) -> None:
    np.save("mask.npy", np.arange(12) < 2)
    words = ("--method", "random", "--features", "mask.npy", "--max-features", 6)
    assert trained(*ATTACK, *words, "--queries", 50)[0] == 0
    assert check_file("a.zarr").max() <= 2
    assert trained("certify", "model.zarr", "tiny.zarr", "--out", "c.zarr")[0] == 0
    _, out, _ = trained("evaluate", "c.zarr", "--attack", "a.zarr")
    assert "with at most 6 changes of features in mask.npy" in out


def test_a_mask_that_is_none(trained: Run) -> None:
    np.save("short.npy", np.ones(5, bool))
    np.save("numbers.npy", np.ones(12))
    np.save("none.npy", np.zeros(12, bool))
    Path("text.npy").write_text("1,0,1")
    before = here()
    for name, words in (
        ("short.npy", "pass 12 booleans"),
        ("numbers.npy", "pass 12 booleans"),
        ("text.npy", "save (n,) booleans with np.save"),
    ):
        failed(trained(*ATTACK, "--features", name), 2, words)
    failed(trained(*ATTACK, "--features", "none.npy", "--method", "random"), 2, "False everywhere")
    assert here() == before


@pytest.mark.parametrize("features", [None, 6])
def test_random_attack(trained: Run, features: int | None) -> None:
    words = () if features is None else ("--max-features", features)
    code, _, err = trained(*ATTACK, "--method", "random", "--queries", 100, *words)
    assert (code, err) == (0, "")
    changed = check_file("a.zarr")
    assert changed.max() <= (features or 1)
    assert features is None or (changed > 0).any()


@pytest.mark.parametrize("method", ["greedy", "random"])
def test_raw_features(run_boxnn: Run, method: str) -> None:
    rng = np.random.default_rng(2)
    y = (np.arange(120) % 2).astype(np.int32)
    x = (rng.normal(0, 1, (120, 8)) + 2 * y[:, None]).astype(np.float32)
    x[:, 0] = np.round(x[:, 0])
    split = (x[:80], y[:80]), (x[80:], y[80:])
    write_dataset("real.zarr", name="r", classes=["n", "y"], train=split[0], test=split[1])
    words = (
        "train",
        "real.zarr",
        "--preset",
        "graded",
        "--out",
        "model.zarr",
        "--boxes",
        6,
        "--epochs",
        1,
    )
    assert run_boxnn(*words)[0] == 0
    words = ("attack", "model.zarr", "real.zarr", "--out", "a.zarr", "--max-features", 6)
    code, _, err = run_boxnn(*words, "--method", method, "--queries", 60)
    assert (code, err) == (0, "")
    assert (check_file("a.zarr", "real.zarr") > 0).any()


def test_a_stopped_attack_is_resumed(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CHUNK_ROWS", 9)
    attack("model.zarr", "tiny.zarr", "whole.zarr")
    write, written = chunks.write_chunk, []

    def stopping(path: str, chunk: int, *values: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write(path, chunk, *values)
        written.append(chunk)

    monkeypatch.setattr(chunks, "write_chunk", stopping)
    with pytest.raises(InterruptedRunError, match=r"2 of 5 chunks are kept in .*a\.zarr\.partial"):
        attack("model.zarr", "tiny.zarr", "a.zarr")
    monkeypatch.setattr(chunks, "write_chunk", write)
    failed(trained(*ATTACK), 2, "an unfinished run is in", "--resume")
    failed(trained(*ATTACK, "--resume", "--seed", 1), 1, "another options", "--overwrite")
    attack("model.zarr", "tiny.zarr", "a.zarr", run=RunOptions(resume=True))
    # In place of what is there, if that was to be replaced.
    attack("model.zarr", "tiny.zarr", "b.zarr", AttackOptions(seed=1))
    written.clear()
    monkeypatch.setattr(chunks, "write_chunk", stopping)
    with pytest.raises(InterruptedRunError, match="2 of 5 chunks are kept"):
        attack("model.zarr", "tiny.zarr", "b.zarr", run=RunOptions(overwrite=True))
    monkeypatch.setattr(chunks, "write_chunk", write)
    attack("model.zarr", "tiny.zarr", "b.zarr", run=RunOptions(resume=True))
    one, two, three = map(open_attack, ("whole.zarr", "a.zarr", "b.zarr"))
    for name in ("x", "changed", "prediction", "label", "row"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("beaten", [True, False])
def test_an_attack_that_cannot_be_stops_the_run(
    trained: Run, monkeypatch: pytest.MonkeyPatch, beaten: bool
) -> None:
    """A certificate that is beaten, or an attack that is none: kept for a report."""

    def forged(model: Any, x: np.ndarray, **options: Any) -> AttackResult:
        other = x[np.roll(np.arange(len(x)), 1)] if beaten else x
        flips = model.predict(other) != model.predict(x)
        changed = np.where(flips if beaten else True, 0, -1).astype(np.int32)
        return AttackResult(other, changed, model.predict(other))

    monkeypatch.setattr(pipeline, "greedy_attack", forged)
    with pytest.raises(UnsoundError, match="please report it with") as caught:
        attack("model.zarr", "tiny.zarr", "a.zarr", AttackOptions())
    assert ("within its certified radius" in str(caught.value)) == beaten
    (kept,) = Path().glob("a.zarr.counterexample-*.npz")
    with np.load(kept) as content:
        assert content["x"].shape == content["x_adv"].shape == (12,)
    assert not Path("a.zarr").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--method", "magic"), 2, "'magic' is not one of 'greedy', 'quick', 'random'"),
        (("--limit", 41), 2, "limit is 41"),
        (("--split", "dev"), 2, "'dev' is not one of 'test', 'train'"),
        (("--max-features", -1), 2, "--max-features is -1"),
        (("--max-features", 0), 2, "--max-features is 0; it must be a whole number from 1"),
        (("--max-features", 10**9), 2, "--max-features is 1000000000"),
        (("--method", "quick", "--max-features", 0), 2, "--max-features is 0"),
        (("--method", "random", "--max-features", 13), 2, "--max-features is 13"),
        (("--method", "random", "--queries", 0), 2, "queries is 0"),
        (("--method", "quick", "--rivals", 5), 2, "--rivals is for the greedy attack, and the"),
        (("--method", "random", "--tries", 5), 2, "--tries is for the greedy attack"),
        (("--method", "quick", "--queries", 3), 2, "--queries is for the random attack"),
        (("--low", 9, "--high", 3), 2, "low 9 > high 3"),
        (("--low", "a=1,b=2, a=3"), 2, "--low has a twice; pass one value for each column"),
        (("--rivals", 0), 2, "rivals is 0"),
        (("--seed", -1), 2, "seed is -1"),
        (("--threads", 0), 2, "threads is 0"),
        (("--device", "cuda"), 2, "attacks run on the CPU"),
        (("--workers", "1", "--box-shards", "2"), 2, "--box-shards is not for attacks"),
        (("--workers", "1", "--share-gpus"), 2, "--share-gpus is not for attacks"),
    ],
)
def test_bad_options_leave_nothing_behind(
    trained: Run, words: tuple[object, ...], code: int, said: str
) -> None:
    failed(trained(*ATTACK, *words), code, said)
    assert here() == {"tiny.zarr", "model.zarr"}


def test_files_that_are_not_whole_attacks_are_refused(trained: Run) -> None:
    assert trained(*ATTACK, "--limit", 5)[0] == 0
    with pytest.raises(AttackFileError, match="is not an attack"):
        open_attack("model.zarr")
    with pytest.raises(AttackFileError, match="does not exist"):
        open_attack("nowhere.zarr")
    failed(trained(*ATTACK), 2, "already exists", "--overwrite")
    assert trained(*ATTACK, "--overwrite", "--limit", 5)[0] == 0
    shutil.copytree("a.zarr", "b.zarr")
    zarr.open_group("b.zarr", mode="r+")["changed"][0] = 99  # type: ignore[index]
    with pytest.raises(AttackFileError, match="changed does not match its digest"):
        open_attack("b.zarr")
    group = zarr.open_group("a.zarr", mode="r+")
    from boxnn_numba.data import zarr_format

    rest = {key: item for key, item in group.attrs.asdict().items() if key != "digests"}
    zarr_format.write_attributes(group, rest)
    with pytest.raises(AttackFileError, match="unfinished; resume it with `boxnn attack"):
        open_attack("a.zarr")
