"""Files from strangers: whatever is in them, one line or the right result, in little memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from support.cli_runs import Run, failed
from support.strangers.mutations import BOMB, CLAIM, write_files

from boxnn_numba import Boxes, BoxNN, load_model
from boxnn_numba.certificates import pairwise_radius
from boxnn_numba.data import schema, zarr_format
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.errors import CertificateFileError, DataError, InputError, ModelFileError
from boxnn_numba.pipelines.figures.runs import MOST_DRAWN
from boxnn_numba.pipelines.verify import verify

RA = {"method": "RA", "certificate": "a", "alpha": 0.1, "seed": 0}
RA |= dict.fromkeys(("samples", "guess_samples", "retained"), 1)
TESTS = Path(__file__).parents[1]
ARCHIVE = r"is not a readable model file|cannot be read"


@pytest.mark.parametrize("examples", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_files(examples: int) -> None:
    """In a process of its own, whose most memory counts."""
    words = [sys.executable, "-m", "support.strangers.mutations", str(examples)]
    # Outside the root, where the working directory would shadow the package.
    done = subprocess.run(words, cwd=TESTS, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) < 1024, "MiB"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("valid"))


@pytest.fixture
def copy(made: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a file of some kind."""

    def copied(name: str) -> Path:
        target = tmp_path / made[name].name
        return Path((shutil.copytree if made[name].is_dir() else shutil.copy)(made[name], target))

    return copied


def forge(path: Path, values: dict[str, Any] | None = None, **attributes: Any) -> Path:
    """Change attributes and arrays of a file (of one row, of all where it is a scalar)."""
    group: Any = zarr.open_group(path, mode="r+")
    said = {**group.attrs.asdict(), **attributes}
    for name, value in (values or {}).items():
        row, value = value if isinstance(value, tuple) else (slice(None), value)
        group[name][row] = value
        said["digests"][name] = zarr_format.stored_digest(group[name])
    said = {name: value for name, value in said.items() if value is not None and name != "digest"}
    zarr_format.write_attributes(group, said)
    return path


# --- certificates claim what is possible ----------------------------------------------------


def test_no_radius_is_above_the_features() -> None:
    """Boxes of one class: 9,586,979 of 64 before."""
    boxes = Boxes([[0] * 64], [[9] * 64], [0], 112, n_classes=2)
    model = BoxNN(boxes, [0, 1])
    assert model.certify(np.zeros((1, 64), np.uint8)).radius.tolist() == [64]
    assert model.certify(np.zeros((1, 64), np.uint8), convention="paper").radius.tolist() == [64]
    grouped = Boxes([[0] * 6], [[9] * 6], [0], 1, n_classes=2, group=[0, 0, 1, 1, 2, 2])
    assert BoxNN(grouped, [0, 1]).certify(np.zeros((1, 6), np.uint8)).radius.tolist() == [3]
    far = BoxNN(Boxes([[0] * 4, [9] * 4], [[0] * 4, [9] * 4], [0, 1], 9), [0, 1], offset=[0, 9999])
    x = np.zeros((1, 4), np.uint8)
    assert far.certify(x).radius.tolist() == pairwise_radius(far, x).radius.tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "arrays", "attributes", "words"),
    [
        ("cert", {"radius": (3, 7)}, {}, r"radius is 7 in row 3; it must be 0\.\.6"),
        ("cert", {"radius": (3, 7)}, {"certificate": "pairwise"}, "radius is 7 in row 3"),
        ("cert", {"radius": (0, -1)}, {}, "radius is -1 in row 0"),
        ("cert", {"radius": 6}, {}, "class_distance of row 0 does not allow the margin radius"),
        ("cert", {"radius": (4, 3)}, {"attackable": [0, 5]}, "radius is 3 in row 4"),
        ("cert", {"prediction": (0, 3)}, {}, "prediction is 3 in row 0"),
        ("cert", {"prediction": -1}, {}, "class_distance of row 0 is not nearest"),
        ("cert", {"label": (5, 3)}, {}, "label is 3 in row 5"),
        ("cert", {"class_distance": (2, -5)}, {}, "class_distance is out of range in row 2"),
        ("cert", {}, {"certificate": "exact", "time_limit": 1.0}, "Box-NN exact has no upper"),
        ("cert", {}, {"certificate": "patch", "patch": [[2, 2]]}, "has no withstands"),
        ("cert", {}, RA, "RA a has no guess"),
        ("cert", {}, RA | {"alpha": 1.0}, "alpha is 1.0; it must be between 0 and 1"),
        ("cert", {}, {"divisor": 1}, "divisor is 1, not 2"),
        ("cert", {}, {"width": "60"}, "width is '60'; it must be a whole number 1..255"),
        ("cert", {}, {"classes": ["a", "b", "a"]}, "different values"),
        ("cert", {}, {"group_size": 10**18}, "group_size is 1000000000000000000"),
        ("cert", {}, {"split": None}, "split is missing"),
        ("cert", {}, {"limit": 7}, "it has 20 rows and its attributes say 7"),
        ("paid", {"budget": (0, 99.0)}, {}, "budget is 99.0 in row 0"),
        ("paid", {"budget": (0, np.nan)}, {}, "budget is nan in row 0"),
        ("paid", {}, {"costs": [1] * 5}, "there are 5 costs and not 6"),
    ],
)
def test_impossible_certificates(
    copy: Any, kind: str, arrays: Any, attributes: Any, words: str
) -> None:
    with pytest.raises(CertificateFileError, match=words) as caught:
        open_certificate(forge(copy(kind), arrays, **attributes))
    assert "\n" not in str(caught.value)


def test_a_possible_lie_is_found_by_computing_again(
    copy: Any, made: dict[str, Path], run_boxnn: Run
) -> None:
    """A radius one larger, of a certificate that says pairwise, is not impossible."""
    given = ("--model", made["model"], "--data", made["data"])
    honest = copy("cert")
    assert run_boxnn("verify", honest)[0] == 0
    code, text, _ = run_boxnn("verify", honest, *given, "--sample", 5, "--json")
    assert code == 0 and json.loads(text)["recomputed"] == 5
    assert run_boxnn("verify", made["attack"], *given)[0] == 0
    assert run_boxnn("verify", made["paid"], *given)[0] == 0
    file = open_certificate(honest)
    forge(honest, {"radius": np.minimum(file.radius + 1, 6)}, certificate="pairwise")
    open_certificate(honest)
    code, text, err = run_boxnn("verify", honest, *given)
    assert code == 1 and "radius is not what is computed in" in text
    assert err.startswith("Error: ") and err.count("\n") == 1
    other = ("--model", made["archive"], "--data", made["data"])
    failed(run_boxnn("verify", made["cert"], *other), 2, "of another model_digest than")
    failed(run_boxnn("verify", made["model"], *given), 2, "is no certificate nor attack")
    failed(run_boxnn("verify", made["cert"], "--sample", 3), 2, "go together")
    lie = forge(copy("attack"), {"changed": (0, 6)})
    code, text, _ = run_boxnn("verify", lie, *given)
    assert code == 1 and "changed is not what is computed in 1 rows" in text


def test_a_time_limit_that_settles_nothing_proves_nothing(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The true radius of row 2 is 1: a file with a limit of no time said 3, within its bounds."""
    from boxnn_numba.pipelines.certification import certify as module

    path, given = tmp_path / "exact", (made["model"], made["data"])
    module.certify(*given, path, certificate="exact", limit=7, time_limit=5.0)
    true, limits = module.exact_radii, []

    def cut_short(model: Any, x: Any, limit: float, **more: Any) -> Any:
        limits.append(limit)
        low, high = true(model, x, 60.0, **more)
        return (low, high) if limit >= 60 else (0 * low, 0 * high + 6)

    monkeypatch.setattr(module, "exact_radii", cut_short)
    assert verify(path, *given).sound and limits == [5.0, 60.0]
    forge(path, {"radius": (2, 3), "upper": (2, 3)})
    assert "radius..upper is not what is computed" in verify(path, *given).problems[0]
    monkeypatch.setattr(
        module,
        "exact_radii",
        lambda m, x, *_, **__: (np.zeros(len(x), np.int32), np.full(len(x), 6, np.int32)),
    )
    assert verify(path, *given).problems[0].startswith("radius could not be proven again in")


@pytest.mark.parametrize("short", [MemoryError(), OSError(12, "Cannot allocate memory"),
                                   RuntimeError("can't start new thread")])  # fmt: skip
def test_too_little_memory_is_no_damage(
    short: Exception, made: dict[str, Path], run_boxnn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that lower cannot be read, and that the file is damaged."""

    def fails(*_: Any, **__: Any) -> Any:
        raise short

    monkeypatch.setattr(zarr_format, "blocks", fails)
    failed(run_boxnn("verify", made["model"]), 1, "out of memory")
    failed(run_boxnn("verify", made["cert"]), 1, "out of memory")
    monkeypatch.setattr(zarr_format, "_read_store", fails)
    failed(run_boxnn("verify", made["data"]), 1, "out of memory")


@pytest.mark.parametrize("name", ["data", "table", "model", "archive", "stumps"])
def test_verify_tells_what_a_file_is(name: str, made: dict[str, Path], run_boxnn: Run) -> None:
    code, text, _ = run_boxnn("verify", made[name], "--json")
    found = json.loads(text)
    kinds = {"data": "dataset", "table": "dataset", "stumps": "baseline"}
    assert (code, found["sound"], found["kind"]) == (0, True, kinds.get(name, "model"))
    failed(run_boxnn("verify", TESTS), 1, "is not a readable boxnn file")


# --- limits before memory -------------------------------------------------------------------


def test_the_limits_are_in_the_docs() -> None:
    text = (TESTS.parent / "docs" / "formats.md").read_text(encoding="utf-8")
    table = text.split("## Limits")[1].split("\n## ")[0]
    numbers = {int(word.replace(",", "")) for word in re.findall(r"\d[\d,]*", table)}
    sizes = (schema.MOST_CLASSES, schema.MOST_FEATURES, schema.MOST_MEMBERS, schema.MOST_ROWS,
             schema.MOST_CHUNK_ROWS, schema.MOST_METADATA >> 20, schema.MOST_CHUNK >> 20,
             schema.MOST_MODEL >> 30, MOST_DRAWN)  # fmt: skip
    assert numbers >= set(sizes)


@pytest.mark.parametrize("content", [BOMB, CLAIM, b"", b"x" * 10**6])
def test_chunks_that_inflate_to_something_else(copy: Any, content: bytes) -> None:
    model, data = copy("model"), copy("data")
    (model / "lower/c/0/0").write_bytes(content)
    (data / "train/x/c/0/0").write_bytes(content)
    with pytest.raises(ModelFileError, match="lower cannot be read"):
        load_model(model)
    with pytest.raises(DataError, match="train/x chunk 0"):
        open_dataset(data).read("train")


@pytest.mark.parametrize(
    ("array", "change", "words"),
    [
        ("", {"pad": " " * schema.MOST_METADATA}, "is not a readable model"),
        ("label", {"shape": [2**31]}, "label has shape"),
        ("lower", {"shape": [2**20, 6]}, "upper has shape|lower cannot be read"),
        ("lower", {"codecs": [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]},
         "lower is stored in another way"),
        ("offset", {"data_type": "float64"}, "offset has type float64"),
    ],
)  # fmt: skip
def test_metadata_of_strangers(copy: Any, array: str, change: Any, words: str) -> None:
    model = copy("model")
    file = model / array / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelFileError, match=words):
        load_model(model)


def test_archives_of_strangers(copy: Any) -> None:
    archive = copy("archive")
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}

    def refused(kind: int, content: dict[str, bytes], *more: tuple[str, bytes]) -> None:
        with zipfile.ZipFile(archive, "w", kind) as new:
            for name, value in (*content.items(), *more):
                new.writestr(name, value)
        with pytest.raises(ModelFileError, match=ARCHIVE):
            load_model(archive)

    with pytest.warns(UserWarning, match="Duplicate name"):
        refused(zipfile.ZIP_STORED, members, ("0/lower/zarr.json", b"{}"))
    refused(zipfile.ZIP_BZIP2, members)
    refused(zipfile.ZIP_DEFLATED, members | {"zarr.json": b" " * (schema.MOST_METADATA + 1)})
    # A member that inflates to more than it declares is read no further.
    size = len(members["0/lower/c/0/0"])
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for name, value in (members | {"0/lower/c/0/0": bytes(2**24)}).items():
            new.writestr(name, value)
    content = archive.read_bytes().replace(
        (2**24).to_bytes(4, "little"), size.to_bytes(4, "little")
    )
    archive.write_bytes(content)
    with pytest.raises(ModelFileError, match=ARCHIVE):
        load_model(archive)


# --- what is in a dataset or a model --------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["a", "a", "b"]}, "classes is .*different values"),
        ({"feature_shape": [2, 4]}, r"train/x has shape \(60, 6\), not \(N, n\)"),
        ({"feature_shape": [2, -3]}, "feature_shape is"),
        ({"feature_shape": [2.0, 3]}, "feature_shape is"),
        ({"name": 3}, "name is 3; it must be a text"),
        ({"columns": [{"name": "x", "kind": "number"}]}, "there are 1 columns"),
        ({"arrays": {}}, "arrays are"),
        ({"classes": list(range(2**16 + 1))}, "classes is"),
    ],
)
def test_datasets_of_strangers(copy: Any, change: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(forge(copy("data"), **change))


@pytest.mark.parametrize("attribute", ["version", "format"])
def test_what_a_file_says_of_itself_is_told_in_one_line(copy: Any, attribute: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_model(forge(copy("model"), **{attribute: "\x1b[31m\n"}))
    assert str(caught.value).isprintable()


def test_labels_that_are_no_classes(
    copy: Any, made: dict[str, Path], tmp_path: Path, run_boxnn: Run
) -> None:
    """Certify counted -2 as the last class but one."""
    data = copy("data")
    group: Any = zarr.open_group(data, mode="r+")
    said = group.attrs.asdict()
    for label in (-2, 3):
        y = group["test/y"][:]
        y[4] = label
        group["test/y"][:] = y
        digest = zarr_format.hashlib.sha256(y.tobytes()).hexdigest()
        said["arrays"]["test/y"]["chunk_digests"] = [digest]
        forge(data, **{name: value for name, value in said.items() if name != "digest"})
        with pytest.raises(DataError, match=rf"test/y of .* is {label} in row 4; it must be -1..2"):
            open_dataset(data).read_labels("test")
    for command in ("certify", "attack"):
        words = (command, made["model"], data, "--out", tmp_path / "o")
        failed(run_boxnn(*words), 1, "is 3 in row 4; it must be -1..2")
    assert {path.name for path in tmp_path.iterdir()} == {data.name}


@pytest.mark.parametrize(
    ("label", "words"), [(-1, "samples without a label"), (0, "at least two classes")]
)
def test_training_labels_of_strangers(
    made: dict[str, Path], tmp_path: Path, run_boxnn: Run, label: int, words: str
) -> None:
    """It raised a ValueError of NumPy, or said that training diverged."""
    x, y = open_dataset(made["data"]).read("train")
    data, known = tmp_path / "d", {"classes": ["a", "b", "c"], "feature_shape": (2, 3)}
    write_dataset(data, name="d", train=(x, np.full_like(y, label)), test=(x, y), **known)
    failed(run_boxnn("train", data, "--out", tmp_path / "m"), 1, words)
    assert not (tmp_path / "m").exists()


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    model = BoxNN(Boxes([[0], [9]], [[5], [9]], [0, 1]), ["a", "a"])
    from boxnn_numba import save_model

    with pytest.raises(InputError, match="the model cannot be written: classes is"):
        save_model(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
