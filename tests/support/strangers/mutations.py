"""Mutations of valid files, digests and all, and what reading each must give.

Run as a program with a number of examples, and a seed for others than those of the tests; it writes
one line, the most memory in MiB, and on standard error how far it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from benchmarks.growth import resident_peak
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from numcodecs import Zstd
from support.reference import class_distances, distances

from boxnn_numba import Boxes, BoxNN, Grid, load_model, save_model
from boxnn_numba.baselines.model import BaselineModel
from boxnn_numba.baselines.stumps import train_stumps
from boxnn_numba.cli.main import main
from boxnn_numba.columns import Columns
from boxnn_numba.data.attack_store import open_attack
from boxnn_numba.data.certificate_store import open_certificate
from boxnn_numba.data.dataset import open_dataset, write_dataset
from boxnn_numba.data.manifest import file_digest, values_digest
from boxnn_numba.data.model_store import load_baseline, write_model
from boxnn_numba.data.zarr_format import array_digest, with_digest
from boxnn_numba.errors import BoxNNError
from boxnn_numba.pipelines.attack.attack import attack
from boxnn_numba.pipelines.certification.certify import certify

N_FEATURES, N_CLASSES = 6, 3
#: Values that no attribute should have, and some that are nearly right.
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 7, 255, 256, 2**31 - 1, 2**31, 10**18, 2**63, -(2**63), 10**40,
    0.5, -1e300, float("nan"), float("inf"), "", "x", "ftp://127.0.0.1:9/m", "../..", "\x1b[31m\n",
    "a" * 100_000, [], [0], [0, 0], [-1], [1, 2], [10**18], [2**20, 2**20], ["a", "a", "b"], [[]],
    [[1, 2]], list(range(70_000)), {}, {"a": 1}, {"lower": "0" * 64},
)  # fmt: skip
#: A chunk that inflates to a thousand times what it promises.
BOMB = bytes(Zstd(3, checksum=True).encode(bytes(2**27)))
#: A frame that says it inflates to 2 ** 40 bytes.
CLAIM = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**40) + b"\x01\x00\x00"


# --- valid files ------------------------------------------------------------------------------


def write_files(folder: Path) -> dict[str, Path]:
    """Write a file of each kind; return them by name."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, N_FEATURES)).astype(np.uint8)
    y = (x[:, 0] // 86).astype(np.int32)
    files = {name: folder / name for name in ("data", "table", "model", "cert", "paid", "attack")}
    known = {"classes": ["a", "b", "c"], "feature_shape": (2, 3)}
    write_dataset(files["data"], name="d", train=(x, y), test=(x[:20], y[:20]), **known)
    boxes = Boxes(x // 2, np.maximum(x, x // 2 + 40), y, 60, N_CLASSES)
    model = BoxNN(boxes, known["classes"], feature_shape=(2, 3))
    save_model(model, files["model"])
    files["archive"] = folder / "model.zip"
    save_model(
        BoxNN(boxes, known["classes"], feature_shape=(2, 3), others=[boxes]), files["archive"]
    )
    _write_tables(folder, files, rng)
    certify(files["model"], files["data"], files["cert"], certificate="margin")
    certify(files["model"], files["data"], files["paid"], costs=[1.5, 2, 3, 4, 5, 6], limit=9)
    attack(files["model"], files["data"], files["attack"], limit=10)
    stumps = train_stumps(x, y, n_classes=N_CLASSES, rounds=5, clip=0.5)
    settings = {"rounds": 5, "base": stumps.settings}
    files["stumps"] = folder / "stumps"
    base = BaselineModel("stumps", settings, ["a", "b", "c"], (2, 3), stumps.arrays())
    write_model(base, files["stumps"], False)
    return files


def _write_tables(folder: Path, files: dict[str, Path], rng: np.random.Generator) -> None:
    """Write a table with two columns, and a model of it: templates, parts and a grid."""
    table = {"amount": rng.normal(size=30).round(2), "city": np.array(["Bonn", "Kiel", "Ulm"] * 10)}
    columns = Columns.of(table)
    raw = columns.values(table).astype(np.float32)
    y = np.arange(30, dtype=np.int32) % 2
    write_dataset(files["table"], name="t", classes=[0, 1], train=(raw, y), test=(raw[:5], y[:5]))
    grid = Grid.fit(raw.astype(np.float64), columns=columns, y=y)
    low = rng.integers(0, 120, (6, 2))
    boxes = Boxes(
        low, low + 90, [0, 0, 0, 1, 1, 1], 24, 2, template=[0, 0, 1, 2, 2, 3], part=[0, 1]
    )
    files["tabular"] = folder / "tabular"
    save_model(BoxNN(boxes, [0, 1], grid, columns=columns, offset=[0, 5]), files["tabular"])


# --- mutations --------------------------------------------------------------------------------


class Case:
    """A file that is mutated and put back; `draw` is that of hypothesis."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
        self.whole |= {path: path.read_bytes()} if path.is_file() else {}
        self.arrays = {}
        if path.is_dir():
            group: Any = zarr.open_group(path, mode="r")
            said = group.attrs.asdict()
            names = said.get("digests", said.get("arrays"))
            self.arrays = {name: np.asarray(group[name][...]) for name in names}

    def restore(self) -> None:
        """Write it as it was."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        for file, content in self.whole.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def mutate(self, draw: Callable[[Any], Any]) -> None:
        """Change it in one to three ways."""
        ways = [self._bytes] * (1 if self.path.is_dir() else 3)
        ways += [self._json] * 4 + [self._values] * 3 if self.path.is_dir() else [self._archive]
        for _ in range(draw(st.integers(1, 3))):
            draw(st.sampled_from(ways))(draw)

    def _bytes(self, draw: Callable[[Any], Any]) -> None:
        """Damage any file without its digest."""
        file = draw(st.sampled_from(sorted(self.whole)))
        if file.is_dir() or not file.parent.is_dir():  # an array has another shape now
            return
        content = bytearray(file.read_bytes()) if file.exists() else bytearray()
        way = draw(st.sampled_from(("flip", "cut", "empty", "long", "gone", "bomb", "claim")))
        at = draw(st.integers(0, max(0, len(content) - 1)))
        if way == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        changed = {
            "cut": bytes(content[:at]), "empty": b"", "bomb": BOMB, "claim": CLAIM,
        }  # fmt: skip
        if way == "long":
            content += b" " * 17 * 2**20
        file.unlink(missing_ok=True)
        if way != "gone" or self.path.is_file():
            file.write_bytes(changed.get(way, bytes(content)))

    def _json(self, draw: Callable[[Any], Any]) -> None:
        """Replace a value of a metadata file, with a digest of the attributes that fits."""
        file = draw(st.sampled_from([p for p in sorted(self.whole) if p.name == "zarr.json"]))
        with contextlib.suppress(ValueError, AttributeError, OSError):  # damaged by a way before
            document = json.loads(file.read_text())
            self._replace(document, draw)
            self._seal(file, document)

    def _replace(self, document: Any, draw: Callable[[Any], Any]) -> None:
        """Replace, remove or double something at any depth."""
        places = []

        def walk(node: Any) -> None:
            children = node.items() if isinstance(node, dict) else enumerate(node)
            for key, child in children:
                places.append((node, key))
                if isinstance(child, dict | list):
                    walk(child)

        walk(document)
        node, key = draw(st.sampled_from(places))
        value = draw(st.sampled_from((*HOSTILE, "REMOVE", "DOUBLE")))
        if value == "REMOVE":
            del node[key]
        elif value == "DOUBLE" and isinstance(node[key], list):
            node[key] = node[key] * 2
        else:
            node[key] = value

    def _seal(self, file: Path, document: Any) -> None:
        attributes = document.get("attributes")
        if isinstance(attributes, dict) and "digest" in attributes:
            attributes.pop("digest")
            document["attributes"] = with_digest(attributes)
        file.write_text(json.dumps(document))

    def _values(self, draw: Callable[[Any], Any]) -> None:
        """Replace an array by one of other values, type or shape, with digests that fit."""
        with contextlib.suppress(ValueError, TypeError, KeyError, OSError, AttributeError):
            root = json.loads((self.path / "zarr.json").read_text())  # damaged by a way before
            said = root["attributes"]
            name = draw(st.sampled_from(sorted(self.arrays)))
            array = np.ascontiguousarray(self._changed(self.arrays[name], draw))
            chunk = self._write(name, array)
            if "digests" in said:
                said["digests"][name] = array_digest(array)
            else:
                said["arrays"][name] |= {
                    "dtype": array.dtype.str, "shape": list(array.shape), "chunks": chunk,
                    "chunk_digests": [values_digest(array)],
                }  # fmt: skip
                self._seal_split(name)
            self._seal(self.path / "zarr.json", root)

    def _write(self, name: str, array: np.ndarray) -> list[int]:
        """Write an array in one chunk, faster than Zarr; return the shape of the chunk."""
        folder = self.path / name
        document = json.loads(self.whole[folder / "zarr.json"])
        rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]
        chunk = np.zeros((max(rows, len(array)), *array.shape[1:]), array.dtype)
        chunk[: len(array)] = array
        document["shape"], document["data_type"] = list(array.shape), array.dtype.name
        document["chunk_grid"]["configuration"]["chunk_shape"] = list(chunk.shape)
        document["codecs"][0]["configuration"] = {"endian": "little"}
        document.pop("dimension_names")
        fills = {"c": [0, 0], "b": False}
        document["fill_value"] = fills.get(array.dtype.kind, 0)
        (folder / "zarr.json").write_text(json.dumps(document))
        shutil.rmtree(folder / "c", ignore_errors=True)
        file = folder.joinpath("c", *["0"] * array.ndim)
        file.parent.mkdir(parents=True)
        file.write_bytes(Zstd(1, checksum=True).encode(chunk.tobytes()))
        return list(chunk.shape)

    def _changed(self, array: np.ndarray, draw: Callable[[Any], Any]) -> np.ndarray:
        way = draw(st.sampled_from(("one", "one", "one", "all", "type", "rows", "shape")))
        if way == "type":
            kinds = ("uint8", "int32", "int64", "float32", "float64", "bool", "complex64")
            return array.astype(draw(st.sampled_from(kinds)))
        if way == "rows":
            return np.concatenate([array, array[:1]]) if draw(st.booleans()) else array[:-1]
        if way == "shape":
            return array.reshape(-1) if array.ndim > 1 else array[:, None]
        info = np.finfo(array.dtype) if array.dtype.kind == "f" else None
        low, high = (info or np.iinfo(array.dtype)).min, (info or np.iinfo(array.dtype)).max
        options = [low, high, 0, 1, 2, 4, 100, *([] if info is None else [np.nan, np.inf])]
        options += [] if array.dtype.kind == "u" else [-1, -2]
        value = draw(st.sampled_from(options))
        array = array.copy()
        if way == "all":
            array[...] = value
        else:
            array.flat[draw(st.integers(0, array.size - 1))] = value
        return array

    def _seal_split(self, name: str) -> None:
        split, part = name.split("/")
        file = self.path / split / "zarr.json"
        document = json.loads(file.read_text())
        files = document["attributes"]["files"][part]
        files["metadata"] = file_digest(self.path / name / "zarr.json")
        chunks = sorted(p for p in (self.path / name / "c").rglob("*") if p.is_file())
        files["chunks"] = [file_digest(chunk) for chunk in chunks]
        self._seal(file, document)

    def _archive(self, draw: Callable[[Any], Any]) -> None:
        """Write a zip file again, with a member that is changed, doubled or compressed."""
        with contextlib.suppress(Exception):  # damaged by a way before
            with zipfile.ZipFile(self.path) as old:
                members = [(name, old.read(name)) for name in old.namelist()]
            at = draw(st.integers(0, len(members) - 1))
            kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            kind = draw(st.sampled_from(kinds))
            way = draw(st.sampled_from(("double", "zeros", "gone", "json", "bomb")))
            name, content = members[at]
            if way == "json" and name.endswith("zarr.json"):
                document = json.loads(content)
                self._replace(document, draw)
                content = json.dumps(document).encode()
            content = {"zeros": bytes(2**24 + 1), "bomb": BOMB}.get(way, content)
            members[at : at + 1] = [(name, content)] * {"double": 2, "gone": 0}.get(way, 1)
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", kind) as new:
                for each in members:
                    new.writestr(*each)
            self.path.write_bytes(out.getvalue())


# --- what reading them must give ----------------------------------------------------------------


def one_line(*words: object) -> bool:
    """Run a command: true if it is done, false if one line says why not; all else is an error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([*map(str, words)])
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
    said = err.getvalue()
    assert code in (0, 1, 2), said
    assert code == 0 or (said.startswith("Error: ") and said.count("\n") == 1), said
    assert said.isprintable() or said[:-1].isprintable(), said
    return code == 0


def read_api(load: Callable[[Path], Any], path: Path) -> Any:
    """Return what a file holds, or None where one line says what is wrong."""
    try:
        return load(path)
    except BoxNNError as error:
        assert "\n" not in str(error)
        return None


def right_dataset(path: Path) -> None:
    """A dataset that opens has labels and rows as it says, or a chunk that is refused."""
    dataset = read_api(open_dataset, path)
    if dataset is None:
        return
    for split in dataset.splits:
        found = read_api(lambda _, split=split: dataset.read(split), path)
        if found is not None:
            x, y = found
            assert x.shape == (len(y), math.prod(dataset.feature_shape))
            assert not len(y) or -1 <= y.min() <= y.max() < len(dataset.classes)


def right_model(path: Path) -> None:
    """A model that loads has the radii of plain loops over the boxes that it holds."""
    model = read_api(load_model, path)
    if model is None:
        return
    n, groups = model.boxes.n_features, int(model.groups.max()) + 1
    x = np.random.default_rng(1).integers(0, 256, (2, n)).astype(np.float64)
    found = read_api(lambda _: model.certify(x.astype(np.uint8) if model.grid is None else x), path)
    if found is None:
        return
    assert (found.radius >= 0).all() and (found.radius <= groups).all()
    structure = model.boxes.structure
    plain = structure.is_plain and not structure.is_grouped
    plain &= model.group_size == 1 and not model.others
    if plain and model.grid is None and n * len(model.boxes) < 10_000 and len(model.classes) < 100:
        boxes = model.boxes
        units = distances(x.astype(int), boxes.lower, boxes.upper, boxes.width)
        rows = class_distances(units, boxes.labels, boxes.n_classes)
        distance = np.array(rows) + model.offset
        assert (np.asarray(model.classes)[distance.argmin(axis=1)] == found.prediction).all()


def right_certificate(path: Path) -> None:
    """A certificate that opens claims nothing that is impossible."""
    file = read_api(open_certificate, path)
    if file is not None:
        prediction, radius, label = file.outcome()
        assert (radius >= 0).all() and (radius <= file.most).all()
        assert (file.radius <= file.groups).all()
        assert max(prediction.max(), label.max()) < len(file.classes)


def right_attack(path: Path) -> None:
    """An attack that opens has changed no more than there is."""
    file = read_api(open_attack, path)
    if file is not None:
        assert (file.changed >= -1).all() and (file.changed <= file.groups).all()


def readings(files: dict[str, Path]) -> dict[str, list[Callable[[Path], Any]]]:
    """Return for each file what is done with it."""
    out = files["data"].parent / "out"

    def run(*words: object) -> Callable[[Path], Any]:
        return lambda path: one_line(*(path if word == "FILE" else word for word in words))

    def stumps(path: Path) -> None:
        read_api(load_baseline, path)

    verify = run("verify", "FILE")
    whole = run("verify", "FILE", "--model", files["model"], "--data", files["data"])
    against = ("--out", out, "--overwrite", "--quiet")
    return {
        "data": [
            right_dataset, verify, run("data", "info", "FILE"), run("data", "verify", "FILE"),
            run("certify", files["model"], "FILE", "--certificate", "margin", *against),
        ],
        "table": [right_dataset, verify, run("data", "info", "FILE")],
        "model": [
            right_model, verify, run("certify", "FILE", files["data"], *against),
        ],
        "archive": [right_model, verify],
        "tabular": [
            right_model, verify, run("certify", "FILE", files["table"], *against),
        ],
        "stumps": [
            stumps, verify, run("baseline", "stumps", "certify", "FILE", files["data"], *against),
        ],
        "cert": [
            right_certificate, verify, whole, run("evaluate", "FILE"),
            run("evaluate", "FILE", "--convention", "paper"),
            run("evaluate", "FILE", "--attack", files["attack"]),
        ],
        "paid": [right_certificate, verify, whole, run("evaluate", "FILE")],
        "attack": [
            right_attack, verify, whole, run("evaluate", files["cert"], "--attack", "FILE"),
        ],
    }  # fmt: skip


def fuzz(examples: int, chosen: int | None = None) -> None:
    """Try as many mutations, the same ones each time, or others by a seed."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        cases = {name: Case(path) for name, path in files.items()}
        done = readings(files)
        for name, ways in done.items():  # all are valid before
            for way in ways:
                assert way(files[name]) is not False, name

        tried = [0]

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=chosen is None,
            suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
            phases=[Phase.generate],
        )  # fmt: skip
        @given(st.data())
        def example(data: Any) -> None:
            name = data.draw(st.sampled_from(sorted(cases)))
            case = cases[name]
            try:
                case.mutate(data.draw)
                way = data.draw(st.sampled_from(done[name]))
                began = time.process_time()
                way(case.path)
                assert time.process_time() - began < 10
            finally:
                case.restore()
            tried[0] += 1
            if tried[0] % 1000 == 0:
                sys.stderr.write(f"{tried[0]} examples\n")

        example = example if chosen is None else seed(chosen)(example)
        example()
        assert tried[0] >= examples, tried


if __name__ == "__main__":
    fuzz(*map(int, sys.argv[1:]))
    sys.stdout.write(f"{resident_peak() // 2**20}\n")
