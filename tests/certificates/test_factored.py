"""margin <= pairwise <= exact == brute force: templates, parts, groups, offsets, ensembles."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certificate_models import factored, fewest_changes
from support.cluster_tools import Scheduler
from support.reference import factored_distances, part_distances

from boxnn_numba import Boxes, BoxNN
from boxnn_numba.adversary import Adversary
from boxnn_numba.attacks import greedy_attack
from boxnn_numba.certificates import choices, combinations, exact, exact_radius, pairwise_radius
from boxnn_numba.certificates.pairwise import BoxSets
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.data.model_store import save_model
from boxnn_numba.errors import InputError
from boxnn_numba.pipelines.certification.certify import certify
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.running import RunOptions

SIZES = [(3, 6), (4, 4), (5, 3), (6, 2)]
SETTINGS = settings(derandomize=True, deadline=None, max_examples=15)


def check(model: BoxNN, x: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Compare all radii of some inputs with brute force; returns margin, pairwise, exact."""
    groups = int(model.groups.max()) + 1
    label, margin = model.certify(x)
    margin = np.minimum(margin, groups)
    same, pairwise = pairwise_radius(model, x, threads=1)
    np.testing.assert_array_equal(same, label)
    fewest = fewest_changes(model, x, every)
    truth = np.array([groups if one < 0 else one - 1 for one in fewest])
    assert (margin <= pairwise).all() and (pairwise <= truth).all()
    for i, row in enumerate(x):
        prediction, lower, upper, adversarial = exact_radius(model, row)
        assert (prediction, lower, upper) == (label[i], truth[i], truth[i])
        assert (adversarial is None) == (fewest[i] < 0)
        if adversarial is not None:
            assert model.predict(adversarial[None])[0] != label[i]
    return np.stack([margin, pairwise, truth])


@pytest.mark.parametrize("sets", [1, 2])
def test_all_radii_against_brute_force(sets: int) -> None:
    found = []
    sizes = itertools.product(SIZES, (1, 60, 255))
    for seed, (size, width) in enumerate(sizes, 100):
        grouped, shift = seed % 2 == 1, seed // 2 % 2 * 40
        model, x, every = factored(seed, *size, width, sets, grouped=grouped, shift=shift)
        found.append(check(model, x[:4], every))
    margin, pairwise, truth = np.concatenate(found, axis=1)
    # Not vacuous: each step is a real one for some.
    assert (margin < pairwise).any() and (pairwise < truth).any() and margin.any()


@SETTINGS
@given(
    st.integers(0, 10**6),
    st.sampled_from(SIZES),
    st.sampled_from([1, 60, 130, 255]),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([0, 40]),
)
def test_random_models(
    seed: int, size: tuple[int, int], width: int, sets: int, grouped: bool, shift: int
) -> None:
    model, x, every = factored(seed, *size, width, sets, grouped=grouped, shift=shift)
    check(model, x[:2], every)


def test_models_are_what_the_oracle_says() -> None:
    """The brute force above is by the model's own distances: those are right."""
    model, x, _ = factored(5, 6, 2, 60, 2)
    total = np.tile(model.offset, (len(x), 1))
    for boxes in model.box_sets:
        parts = part_distances(
            model.encode(x), boxes.lower, boxes.upper, 60, boxes.part.tolist(), boxes.group.tolist()
        )
        total += factored_distances(parts, boxes.labels.tolist(), boxes.template.tolist(), 3)
    np.testing.assert_array_equal(model.class_distance(x), total)


def test_all_codes_of_a_group() -> None:
    """Any codes may be written, not those of a grid only: one group of two features, and one."""
    every = np.array(list(itertools.product(range(0, 256, 15), repeat=3)), np.uint8)
    rng = np.random.default_rng(0)
    for width in (1, 40, 255):
        low = 15 * rng.integers(0, 13, (8, 3))
        boxes = Boxes(
            low, low + 15 * rng.integers(0, 4, low.shape), [0, 0, 0, 0, 1, 1, 1, 1], width,
            template=[0, 0, 1, 1, 2, 2, 2, 2], part=[0, 1, 0], group=[0, 1, 0],
        )  # fmt: skip
        model = BoxNN(boxes, [0, 1], offset=[0, 10])
        x = every[rng.integers(0, len(every), 4)]
        reached, label = model.predict(every), model.predict(x)
        for row, of_row in zip(x, label, strict=True):
            differs = every[reached != of_row] != row
            groups = np.stack([differs[:, [0, 2]].any(axis=1), differs[:, 1]])
            fewest = groups.sum(axis=0).min(initial=3)
            # Of all 256 codes there may be better ones than of those here.
            _, lower, upper, _ = exact_radius(model, row)
            assert pairwise_radius(model, [row]).radius[0] <= lower == upper <= fewest - 1


@pytest.mark.parametrize("most", [1, 2048])
@pytest.mark.parametrize("sets", [1, 2])
def test_programs_find_attacks_by_themselves(
    sets: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an attack to begin with.

    Where joint codes are too many, features of a group are written one by one, and variables stand
    for the capped sums.
    """
    monkeypatch.setattr(choices, "_MOST", most)
    monkeypatch.setattr(exact, "greedy_attack", partial(greedy_attack, max_features=0))
    for seed, width in enumerate((1, 60, 255)):
        model, x, every = factored(seed, *SIZES[seed + 1], width, sets)
        check(model, x[:3], every)


@pytest.mark.parametrize(("near", "tuples"), [(2, 2), (3, 1000)])
def test_where_combinations_of_sets_are_too_many(
    near: int, tuples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an integer program begins with: the rest has its margin, or what each set allows."""
    sizes, finer = itertools.product(SIZES, (1, 60, 255)), 0
    for seed, (size, width) in enumerate(sizes, 900):
        model, x, every = factored(seed, *size, width, 2, grouped=seed % 2 == 0)
        threats = BoxSets(model, Adversary.of(model)).threats(model.encode(x))
        full = np.array([one.least_bound() for one in threats]) - 1
        monkeypatch.setattr(combinations, "_NEAR", near)
        monkeypatch.setattr(combinations, "_TUPLES", tuples)
        some = np.array([one.least_bound() for one in threats]) - 1
        monkeypatch.undo()
        fewest = np.array(fewest_changes(model, x, every))
        truth = np.where(fewest < 0, model.groups.max() + 1, fewest - 1)
        assert (np.minimum(model.certify(x).radius, truth) <= some).all()
        assert (some <= truth).all() and (full <= truth).all()
        finer += (some < full).sum()
    assert finer or near > 2


def test_version_1_groups_are_of_models_without_parts() -> None:
    with pytest.raises(InputError, match="`group_size` is for boxes without"):
        BoxNN(Boxes([[0, 0], [9, 9]], [[1, 1], [9, 9]], [0, 1], part=[0, 1]), "ab", group_size=2)


@pytest.mark.parametrize("kind", ["pairwise", "exact"])
def test_files_of_a_factored_model(tmp_path: Path, kind: str, external: Scheduler) -> None:
    """End to end, and the same on two workers."""
    model, every = factored(3, 6, 2, 60)[::2]
    save_model(model, tmp_path / "m.zarr")
    split = every.astype(np.float32), np.zeros(len(every), np.int32)
    write_dataset(tmp_path / "d.zarr", name="d", classes=["a", "b", "c"], train=split, test=split)
    names = tmp_path / "m.zarr", tmp_path / "d.zarr"
    certify(*names, tmp_path / "c.zarr", certificate=kind, limit=24)
    file, every = open_certificate(tmp_path / "c.zarr"), every[np.arange(24) * len(every) // 24]
    fewest = np.array(fewest_changes(model, every, split[0].astype(float)))
    assert (file.radius <= fewest - 1).all()
    np.testing.assert_array_equal(file.class_distance, model.class_distance(every))
    if kind == "exact":
        np.testing.assert_array_equal(file.radius, fewest - 1)
        return
    run = RunOptions(cluster=ClusterOptions(scheduler=external.address))
    certify(*names, tmp_path / "w.zarr", certificate=kind, limit=24, run=run)
    np.testing.assert_array_equal(open_certificate(tmp_path / "w.zarr").radius, file.radius)
