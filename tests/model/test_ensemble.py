"""Ensembles: sums of class distances, their certificates, files, attacks and the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attack_models import clusters, groups_changed
from support.cli_runs import Run, failed, here

from boxnn_numba import Boxes, BoxNN, certified_radius, class_distance, load_model, save_model
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.data import zarr_format
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.errors import InputError, ModelFileError, OptionError
from boxnn_numba.pipelines import ensemble

TRAIN = ("train", "tiny.zarr", "--preset", "graded", "--boxes", 6, "--epochs", 2, "--lr", 0.2)


def small(seed: int, n: int, members: int, levels: np.ndarray, group_size: int = 1) -> BoxNN:
    """An ensemble over n features with random boxes of three classes whose ends are levels."""
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(members):
        ends = np.sort(rng.choice(levels, (2, 6, n)), axis=0)
        sets.append(Boxes(ends[0], ends[1], np.arange(6) % 3, int(rng.integers(1, 256)) or 1))
    width = sets[0].width
    sets = [Boxes(b.lower, b.upper, b.labels, width) for b in sets]
    return BoxNN(sets[0], ["a", "b", "c"], group_size=group_size, others=tuple(sets[1:]))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 2))
def test_no_change_within_the_radius_flips_the_label(seed: int, members: int, group: int) -> None:
    levels = np.array([0, 40, 90, 255])
    model = small(seed, 4, members, levels, group)
    every = np.array(list(itertools.product(levels, repeat=4)), np.uint8)
    rows = np.random.default_rng(seed).choice(len(every), 12, replace=False)
    total = sum(class_distance(every, boxes).astype(int) for boxes in model.box_sets)
    assert isinstance(total, np.ndarray)
    np.testing.assert_array_equal(model.class_distance(every), total)
    label = total.argmin(axis=1)
    prediction, radius = model.certify(every[rows])
    found = greedy_attack(model, every[rows])
    for row, name, r, adversary, changed in zip(
        rows, prediction, radius, found.x_adv, found.changed, strict=True
    ):
        assert name == "abc"[label[row]]
        changes = groups_changed(np.broadcast_to(every[row], every.shape), every, group)
        flips = changes[label != label[row]]
        if len(flips):
            assert r < flips.min()  # by brute force over all inputs with these codes
        if changed >= 0:
            assert r < changed == groups_changed(every[row][None], adversary[None], group)[0]
            assert model.predict(adversary[None])[0] != name


def test_the_radius_by_its_definition() -> None:
    distance = np.array([[10, 100, 57], [5, 5, 9], [7, 6, 90]])
    for members in (1, 3):
        prediction, radius = certified_radius(distance, 2, 1, members=members)
        for row, p, r in zip(distance.tolist(), prediction, radius, strict=True):
            leads = [(d - row[p] - (c < p)) // (4 * members) for c, d in enumerate(row) if c != p]
            assert p == np.argmin(row) and r == min(leads)


def test_attacks_on_an_ensemble_nearly_meet_its_certificate() -> None:
    first, x = clusters(3, 40, 60, half=40)
    others = [clusters(3, 40, 60, half=half)[0].boxes for half in (30, 50)]
    model = BoxNN(first.boxes, first.classes, others=tuple(others))
    prediction, radius = model.certify(x)
    found = greedy_attack(model, x)
    assert (found.changed >= 0).all() and (found.changed > radius).all()
    assert (model.predict(found.x_adv) != prediction).all()
    assert (found.changed == radius + 1).mean() > 0.5
    np.testing.assert_array_equal(found.changed, greedy_attack(model, x, threads=1).changed)


def test_files_keep_all_sets(tmp_path: Path) -> None:
    model = small(1, 5, 3, np.array([0, 9, 200, 255]))
    for name in ("m.zarr", "m.zip"):
        save_model(model, tmp_path / name)
        again = load_model(tmp_path / name)
        assert len(again.box_sets) == 3
        for mine, yours in zip(model.box_sets, again.box_sets, strict=True):
            for side in ("lower", "upper", "labels"):
                np.testing.assert_array_equal(getattr(mine, side), getattr(yours, side))
    # What knows one set of boxes only must not read the first and call it the model.
    assert not (tmp_path / "m.zarr" / "lower").exists()


@pytest.mark.parametrize("count", [2, 0, -1, 4, 10**12, "x", 1.5, None])
def test_a_file_says_how_many_sets_it_has(tmp_path: Path, count: Any) -> None:
    save_model(small(1, 5, 3, np.array([0, 9, 200, 255])), tmp_path / "m.zarr")
    group = zarr.open_group(tmp_path / "m.zarr", mode="r+")
    attributes = group.attrs.asdict()
    attributes.pop("digest")
    zarr_format.write_attributes(group, zarr_format.with_digest({**attributes, "members": count}))
    with pytest.raises(ModelFileError, match="not a complete model"):
        load_model(tmp_path / "m.zarr")


@pytest.fixture
def members(run_boxnn: Run, tiny_dataset: Path) -> Run:
    """Commands in a directory with three models of other seeds and their ensemble."""
    for seed in range(3):
        assert run_boxnn(*TRAIN, "--seed", seed, "--out", f"{seed}.zarr")[0] == 0
    names = ("0.zarr", "1.zarr", "2.zarr")
    code, out, err = run_boxnn("ensemble", *names, "--out", "all.zarr")
    assert (code, out, err) == (0, "all.zarr: 3 members, 18 boxes\n", "")
    return run_boxnn


def test_a_session_with_an_ensemble(members: Run) -> None:
    assert (
        members("certify", "all.zarr", "tiny.zarr", "--out", "c.zarr", "--certificate", "margin")[0]
        == 0
    )
    x, _ = open_dataset("tiny.zarr").read("test")
    cert, parts = open_certificate("c.zarr"), [load_model(f"{k}.zarr") for k in range(3)]
    total = sum(part.class_distance(x) for part in parts)
    np.testing.assert_array_equal(cert.class_distance, total)
    width = parts[0].boxes.width
    assert (cert.width, cert.members) == (width, 3)
    assert cert.attributes["divisor"] == 2 * width * 3
    prediction, radius = certified_radius(cert.class_distance, width, members=3)
    np.testing.assert_array_equal(cert.radius, radius)
    np.testing.assert_array_equal(cert.prediction, prediction)
    words = ("--certificate", "pairwise", "--out", "p.zarr")
    assert members("certify", "all.zarr", "tiny.zarr", *words)[0] == 0
    finer = open_certificate("p.zarr").radius
    assert (finer >= np.minimum(cert.radius, 12)).all()
    words = ("certify", "all.zarr", "tiny.zarr", "--exact", 5, "--out", "e.zarr")
    assert members(*words)[0] == 0
    exact, rows = open_certificate("e.zarr"), np.arange(5) * len(x) // 5
    assert (finer[rows] <= exact.radius).all() and (exact.radius == exact.upper).all()
    failed(members("localize", "c.zarr", "all.zarr"), 1, "ensemble of 3 sets",
           "train with members 1, or pass one of the models that it was made of")  # fmt: skip
    for method in ("greedy", "random"):
        words = (
            "--method",
            method,
            "--max-features",
            8,
            "--queries",
            60,
            "--out",
            f"{method}.zarr",
        )
        assert members("attack", "all.zarr", "tiny.zarr", "--out", f"{method}.zarr", *words)[0] == 0
        attack = open_attack(f"{method}.zarr")
        found = attack.changed >= 0
        assert found.any() and (attack.changed[found] > finer[found]).all()
        changed = load_model("all.zarr").class_distance(attack.x).argmin(axis=1)
        np.testing.assert_array_equal((changed != cert.prediction), found)
    assert members("evaluate", "c.zarr", "--attack", "greedy.zarr")[0] == 0
    code, out, _ = members("evaluate", "c.zarr", "--convention", "paper", "--json")
    assert code == 0 and json.loads(out)["convention"] == "paper"
    code, _, err = members("report", "c.zarr", "--attack", "greedy.zarr", "--out", "report")
    assert (code, err) == (0, "")
    assert members("export", "boxes", "all.zarr", "--out", "b.npz")[0] == 0
    file = np.load("b.npz")
    assert np.bincount(file["member"]).tolist() == [6, 6, 6]


def test_what_makes_no_ensemble(members: Run) -> None:
    assert members(*TRAIN, "--seed", 7, "--width", 9, "--out", "thin.zarr")[0] == 0
    before = here()
    failed(members("ensemble", "0.zarr", "--out", "e.zarr"), 2, "two models or more")
    failed(members("ensemble", "0.zarr", "1.zarr", "0.zarr", "--out", "e.zarr"), 2, "once")
    failed(members("ensemble", "all.zarr", "1.zarr", "--out", "e.zarr"), 2, "1.zarr", "once")
    failed(members("ensemble", "0.zarr", "thin.zarr", "--out", "e.zarr"), 2, "another width")
    failed(members("ensemble", "0.zarr", "1.zarr", "--out", "all.zarr"), 2, "--overwrite")
    assert here() == before


def test_sets_of_one_model_may_be_alike(tmp_path: Path) -> None:
    """As the level sets of additive boxes are, where columns add little."""
    one, other = small(1, 5, 2, np.array([0, 9, 200, 255])).box_sets
    paths = [tmp_path / f"{name}.zarr" for name in "ab"]
    for path, sets in zip(paths, ((one, one), (one, other)), strict=True):
        save_model(BoxNN(sets[0], ["a", "b", "c"], others=sets[1:]), path)
    with pytest.raises(OptionError, match=r"b\.zarr has the boxes of a model before it"):
        ensemble(paths, tmp_path / "e.zarr")
    save_model(BoxNN(other, ["a", "b", "c"]), paths[1], overwrite=True)
    assert ensemble(paths, tmp_path / "e.zarr").members == 3


def test_real_features_need_the_same_bins(run_boxnn: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60, dtype=np.int32) % 2
    split = (rng.normal(y[:, None], 0.5, (60, 4)).astype(np.float32), y)
    write_dataset(tmp_path / "r.zarr", name="r", classes=[0, 1], train=split, test=split)
    words = ("train", "r.zarr", "--preset", "graded", "--boxes", 4, "--epochs", 1)
    for seed in (0, 1):
        assert run_boxnn(*words, "--seed", seed, "--out", f"v{seed}.zarr")[0] == 0
        same = ("--seed", seed, "--validation", 0, "--out", f"n{seed}.zarr")
        assert run_boxnn(*words, *same)[0] == 0
    made = run_boxnn("ensemble", "v0.zarr", "v1.zarr", "--out", "e.zarr")
    failed(made, 2, "bin features differently", "`validation` 0")
    assert run_boxnn("ensemble", "n0.zarr", "n1.zarr", "--out", "e.zarr")[0] == 0
    assert run_boxnn("certify", "e.zarr", "r.zarr", "--out", "c.zarr")[0] == 0
    assert run_boxnn("attack", "e.zarr", "r.zarr", "--out", "a.zarr")[0] == 0


def test_sets_of_an_ensemble_must_agree() -> None:
    boxes = small(1, 5, 2, np.array([0, 9, 200, 255])).boxes
    lone = Boxes(boxes.lower[:2], boxes.upper[:2], [0, 0], boxes.width, 3)
    with pytest.raises(InputError, match="boxes of the same classes"):
        BoxNN(boxes, ["a", "b", "c"], others=(lone,))
    with pytest.raises(InputError, match="must agree"):
        BoxNN(boxes, ["a", "b", "c"], others=(Boxes(boxes.lower, boxes.upper, boxes.labels, 1),))
