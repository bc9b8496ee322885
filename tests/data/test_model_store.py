"""Model files: they come back as they were written, or not at all."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from boxnn_numba import Boxes, BoxNN, Grid, load_model, save_model
from boxnn_numba.columns import Columns
from boxnn_numba.data import zarr_format
from boxnn_numba.data.model_store import _arrays, model_digest
from boxnn_numba.errors import InputError, ModelFileError, OptionError, OutputError

SUFFIXES = ("", ".zip")
CODES = BoxNN(
    Boxes([[0, 1, 2], [5, 6, 7]], [[9, 9, 255], [9, 9, 9]], [0, 2], 77, n_classes=3),
    [7, -1, 3],
    feature_shape=(1, 3),
    group_size=3,
    training={"seed": 4, "history": [{"margin": None}]},
)
REAL = BoxNN(
    Boxes([[0, 1], [5, 6], [7, 8]], [[9, 9]] * 3, [0, 1, 1], 255, template=[3, 2, 2], part=[1, 0]),
    ["no", "ünï, \n"],
    Grid.fit([[0.0, 7.0], [1.5, 7.0], [np.pi, 7.0]]),
    offset=[0, -7],
)


def assert_same(one: BoxNN, two: BoxNN) -> None:
    assert model_digest(one) == model_digest(two)
    np.testing.assert_array_equal(one.offset, two.offset)
    for a, b in zip(one.box_sets, two.box_sets, strict=True):
        for name in ("lower", "upper", "labels", "width", "n_classes", "template", "part", "group"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("classes", "feature_shape", "group_size", "training"):
        assert getattr(one, name) == getattr(two, name)
    assert (one.grid is None) == (two.grid is None)
    if one.grid is not None and two.grid is not None:
        np.testing.assert_array_equal(one.grid.edges, two.grid.edges)
        np.testing.assert_array_equal(one.grid.counts, two.grid.counts)


def refused(path: Path, words: str) -> None:
    with pytest.raises(ModelFileError, match=words) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.fixture(params=SUFFIXES, ids=["folder", "zip"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"model{request.param}"


FACTORED = Boxes(
    np.arange(24).reshape(4, 6), [[99] * 6] * 4, [0, 1, 1, 1], 20, 3,
    template=[0, 4, 1, 4], part=[0, 1, 1, 0, 2, 2], group=[0, 7, 7, 3, 1, 1],
)  # fmt: skip
JOINED = BoxNN(
    FACTORED, ["a", "b", "c"], others=[Boxes([[1] * 6] * 2, [[4] * 6] * 2, [0, 1], 20, 3,
    group=FACTORED.group)], offset=[3, 0, -2],
)  # fmt: skip


@pytest.mark.parametrize("model", [CODES, REAL, JOINED], ids=["codes", "real", "ensemble"])
def test_round_trip(model: BoxNN, place: Path) -> None:
    save_model(model, place)
    assert place.is_file() == place.name.endswith(".zip")
    assert_same(load_model(place), model)
    assert sorted(place.parent.iterdir()) == [place]


def test_many_boxes(place: Path) -> None:
    """More than one chunk, and chunks of zeros, which Zarr would leave out by default."""
    rng = np.random.default_rng(0)
    upper = rng.integers(0, 256, (2100, 5), dtype=np.uint8)
    model = BoxNN(Boxes(np.zeros_like(upper), upper, np.arange(2100) % 4), list("abcd"))
    save_model(model, place)
    assert_same(load_model(str(place)), model)


def test_what_is_there_stays_unless_it_is_to_be_replaced(place: Path) -> None:
    save_model(CODES, place)
    with pytest.raises(OptionError, match="already exists; pass `overwrite`"):
        save_model(REAL, place)
    assert_same(load_model(place), CODES)
    save_model(REAL, place, overwrite=True)
    assert_same(load_model(place), REAL)
    assert sorted(place.parent.iterdir()) == [place]


def test_a_failed_write_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("boxnn_numba.data.model_store.zarr_format.create_array", full)
    with pytest.raises(OutputError, match="no space left while writing") as caught:
        save_model(CODES, place)
    assert "\n" not in str(caught.value)
    assert list(place.parent.iterdir()) == []
    with pytest.raises(OptionError, match="does not exist; create it"):
        save_model(CODES, place / "in" / "nowhere")


def test_unused_names_can_be_loaded_after_a_move(place: Path) -> None:
    save_model(CODES, place)
    moved = place.rename(place.parent / "renamed")
    assert_same(load_model(moved), CODES)


def files_of(place: Path) -> list[Path]:
    return [place] if place.is_file() else [p for p in sorted(place.rglob("*")) if p.is_file()]


@pytest.mark.parametrize("share", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_any_flipped_bit_is_refused_or_harmless(share: int, place: Path) -> None:
    save_model(REAL, place)
    rng = np.random.default_rng(1)
    outcomes = set()
    for file in files_of(place):
        whole = file.read_bytes()
        bits = rng.choice(8 * len(whole), share * (100 if file == place else 9), replace=False)
        for bit in bits.tolist():
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            outcomes.add(read_or_refuse(place))
        file.write_bytes(whole)
    assert "refused" in outcomes
    assert_same(load_model(place), REAL)


def read_or_refuse(place: Path) -> str:
    try:
        model = load_model(place)
    except ModelFileError as error:
        assert "\n" not in str(error)
        return "refused"
    assert_same(model, REAL)
    return "same"


def test_metadata_that_makes_zarr_stumble(tmp_path: Path) -> None:
    """Found by flipping every bit: chunks of length 0, unknown codecs, another type."""
    save_model(CODES, tmp_path / "model")
    file = tmp_path / "model" / "label" / "zarr.json"
    text = file.read_text()
    for old, new in (
        ('"chunk_shape": [\n        2', '"chunk_shape": [\n        0'),
        ('"zstd"', '"zsxd"'),
        ('"int32"', '"int64"'),
        ('"int32"', '"string"'),
        ('"shape": [\n    2', '"shape": [\n    99999999999999'),
        ('"shape": [\n    2', '"shape": [\n    -2'),
        ('"zarr_format": 3', '"zarr_format": 2'),
        ('"node_type": "array"', '"node_type": "group"'),
        (
            "{",
            "[",
        ),
        ("", "\x00"),
    ):
        assert old in text, old
        file.write_text(text.replace(old, new, 1))
        refused(tmp_path / "model", "is damaged|not a complete model|not a readable model")


def test_every_truncated_or_missing_file_is_refused(place: Path) -> None:
    save_model(REAL, place)
    for file in files_of(place):
        whole = file.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:length])
            assert read_or_refuse(place) == "refused" or file.name == "zarr.json", (file, length)
        file.unlink()
        if file == place:
            refused(place, "does not exist; check the path of the model")
        elif file.parent.name == "grid":
            read_or_refuse(place)
        else:
            refused(place, "is damaged|not a readable model")
        file.write_bytes(whole)
    assert_same(load_model(place), REAL)


def edit(place: Path, change: Callable[[dict[str, Any]], None], digest: bool = True) -> None:
    """Change the attributes of a model in a folder, with a fitting digest."""
    from boxnn_numba.data.zarr_format import with_digest

    metadata = json.loads((place / "zarr.json").read_text())
    change(metadata["attributes"])
    if digest:
        metadata["attributes"].pop("digest")
        metadata["attributes"] = with_digest(metadata["attributes"])
    (place / "zarr.json").write_text(json.dumps(metadata))


def test_newer_version_is_named_before_anything_else(tmp_path: Path) -> None:
    save_model(CODES, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "lower")
    edit(tmp_path / "m", lambda attributes: attributes.update(version=3), digest=False)
    refused(tmp_path / "m", "model format version 3, this boxnn-numba reads up to 2; upgrade")
    edit(tmp_path / "m", lambda attributes: attributes.update(version="1"))
    refused(tmp_path / "m", "format version '1'")
    edit(tmp_path / "m", lambda attributes: attributes.update(version=0))
    refused(tmp_path / "m", "format version 0")


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("width"),
        lambda a: a.update(width=0),
        lambda a: a.update(width=None),
        lambda a: a.pop("digests"),
        lambda a: a["digests"].pop("upper"),
        lambda a: a["digests"].pop("label"),
        lambda a: a["digests"].pop("template"),
        lambda a: a["digests"].pop("part"),
        lambda a: a["digests"].pop("group"),
        lambda a: a["digests"].pop("offset"),
        lambda a: a.update(digests=[]),
        lambda a: a.update(classes=["a"]),
        lambda a: a.update(classes=3),
        lambda a: a.update(feature_shape=[2]),
        lambda a: a.update(feature_shape=4),
        lambda a: a.update(feature_shape=["x"]),
        lambda a: a.update(group_size=0),
        lambda a: a.pop("training"),
    ],
)
def test_incomplete_attributes(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    save_model(CODES, tmp_path / "m")
    edit(tmp_path / "m", change)
    refused(tmp_path / "m", "is not a complete model|is damaged: offset has shape")


def test_digest_guards_the_attributes(tmp_path: Path) -> None:
    save_model(CODES, tmp_path / "m")
    edit(tmp_path / "m", lambda attributes: attributes.update(width=76), digest=False)
    refused(tmp_path / "m", "its attributes do not match their digest; copy it again")


def test_what_is_not_a_model(tmp_path: Path, tiny_dataset: Path) -> None:
    refused(tmp_path / "nothing", "does not exist; check the path of the model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "text.zip").write_text("not a zip file")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme", "hello")
    for name in ("empty", "empty.zip", "text.zip", "other.zip"):
        refused(tmp_path / name, "is not a readable model file; copy it again or train it again")
    refused(tiny_dataset, r"is not a model \(found boxnn-dataset\); pass a model made by boxnn")


def test_no_pickle_anywhere(place: Path) -> None:
    save_model(REAL, place)
    for file in files_of(place):
        assert b"pickle" not in file.read_bytes()


# --- the first version of the format -------------------------------------------------------


def write_version_1(place: Path, sets: list[Boxes], group_size: int = 1) -> str:
    """Write a model as the first version did, without `save_model`; return its digest."""
    folders = [f"{number}/" for number in range(len(sets))] if len(sets) > 1 else [""]
    arrays = {
        f"{at}{name}": value
        for at, boxes in zip(folders, sets, strict=True)
        for name, value in (
            ("lower", boxes.lower), ("upper", boxes.upper), ("label", boxes.labels),
        )
    }  # fmt: skip
    attributes = zarr_format.with_digest(
        {
            "format": "boxnn-model",
            "version": 1,
            "width": sets[0].width,
            "group_size": group_size,
            **({"members": len(sets)} if len(sets) > 1 else {}),
            "classes": ["a", "b", "c"],
            "feature_shape": [2, 3],
            "training": {"seed": 1},
            "digests": {name: zarr_format.array_digest(array) for name, array in arrays.items()},
        }
    )
    group = zarr.create_group(place, attributes=attributes)
    for name, array in arrays.items():
        group.create_array(name, data=array)
    return str(attributes["digest"])


@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("members", [1, 2])
def test_a_file_of_version_1_certifies_as_it_did(
    group_size: int, members: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(members)
    bounds = np.sort(rng.integers(0, 256, (members, 2, 7, 6)), axis=1)
    sets = [Boxes(low, high, [0, 0, 1, 1, 1, 2, 2], 9) for low, high in bounds]
    digest = write_version_1(tmp_path / "old", sets, group_size)
    model, x = load_model(tmp_path / "old"), rng.integers(0, 256, (200, 6))
    distance = np.zeros((200, 3), int)
    for boxes in sets:
        beyond = np.maximum(boxes.lower - x[:, None].astype(int), x[:, None] - boxes.upper)
        every = np.clip(beyond, 0, 9).sum(axis=2)
        distance += np.stack([every[:, boxes.labels == c].min(axis=1) for c in range(3)], axis=1)
    prediction, radius = model.certify(x)
    for row, label, found in zip(distance, prediction, radius, strict=True):
        own = row.argmin()
        assert label == "abc"[own]
        rivals = [
            (row[c] - row[own] - (c < own)) // (2 * 9 * group_size * members) for c in (0, 1, 2)
        ]
        assert found == min(r for c, r in enumerate(rivals) if c != own)
    assert model_digest(model) == digest
    assert int(model.groups.max()) == 6 // group_size - 1
    save_model(model, tmp_path / "new")
    assert_same(load_model(tmp_path / "new"), model)
    assert model_digest(load_model(tmp_path / "new")) == digest


def test_what_version_1_cannot_hold_has_a_digest_of_its_own() -> None:
    def digest(**changes: Any) -> str:
        kind = {"template": [0, 1], "part": [0, 1], "group": [0, 1], **changes}
        offset = kind.pop("offset", None)
        return model_digest(
            BoxNN(Boxes([[0, 1]] * 2, [[9, 9]] * 2, [0, 0], 5, 2, **kind), "ab", offset=offset)
        )

    found = [
        digest(), digest(template=[0, 0]), digest(offset=[0, 1]), digest(part=[0, 0]),
        digest(part=[0, 0], group=[0, 0]), digest(part=[0, 0], template=[0, 0]),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_a_model_of_a_table_keeps_its_columns(tmp_path: Path) -> None:
    table = {"city": ["a", "b", None], "amount": [1.0, 2.0, None]}
    columns = Columns.of(table)
    raw = columns.values(table)
    grid = Grid.fit(raw, columns=columns, y=[1, 0, 1])
    boxes = Boxes([[0, 0], [128, 0]], [[127, 255], [255, 255]], [0, 1], 10)
    model = BoxNN(boxes, ["no", "yes"], grid, columns=columns)
    save_model(model, tmp_path / "model.zarr")
    again = load_model(tmp_path / "model.zarr")
    assert again.columns == columns and model_digest(again) == model_digest(model)
    turned = dict(reversed(table.items()))
    assert again.predict(turned).tolist() == model.predict(raw).tolist()
    with pytest.raises(InputError, match="column 'city' is missing"):
        again.certify({"amount": [1.0]})
    plain = BoxNN(boxes, ["no", "yes"], Grid.fit([[0.0, 1.0], [1.0, 2.0]]))
    assert set(_arrays(plain)) & {"grid/codes", "grid/missing"} == set()
    group = zarr.open_group(tmp_path / "model.zarr")
    attributes: dict[str, Any] = dict(group.attrs)
    attributes["columns"][0]["categories"].append("c")
    group.attrs.put(zarr_format.with_digest({k: v for k, v in attributes.items() if k != "digest"}))
    with pytest.raises(ModelFileError, match="column 'city' has 3 categories and the grid 2"):
        load_model(tmp_path / "model.zarr")
