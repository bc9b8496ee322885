"""Checks at public entries: what they let through and what they say."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from boxnn_numba import box_distance, fit, validation
from boxnn_numba.data.atomic import output_folder, replace, staged_output, write_failure
from boxnn_numba.errors import BoxNNError, InputError, OptionError, OutputError
from boxnn_numba.training.options import OPTIONS, PRESETS, TrainingOptions, resolve


def refused(error: type[BoxNNError], words: str, call: Any, *arguments: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [1, 255, 7.0, np.int8(7), np.float32(7), np.uint64(3)])
def test_whole_numbers(value: Any) -> None:
    found = validation.width(value)
    assert found == value and type(found) is int


@pytest.mark.parametrize(
    "value", [0, 256, -1, 1.5, np.nan, np.inf, "x", "3", None, True, [1, 2], 10**30]
)
def test_what_is_not_a_width(value: Any) -> None:
    refused(OptionError, "width is .*must be a whole number from 1 to 255", validation.width, value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "x", None, -1, [1]])
def test_what_is_not_a_number(value: Any) -> None:
    refused(OptionError, "tau is .* must be a finite number", validation.real, "tau", value, 0.0)


def test_open_ends() -> None:
    assert validation.real("lr", 0.5, 0, open_low=True) == 0.5
    refused(OptionError, "above 0", validation.real, "lr", 0, 0, 9.0, True)
    refused(OptionError, "at most 9", validation.real, "lr", 9.5, 0, 9.0)
    assert validation.fraction("f", 0.2) == 0.2
    for value in (0, 1, -0.1, np.nan, "x", None):
        refused(OptionError, "between 0 and 1, both excluded", validation.fraction, "f", value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, np.float16, np.float64, bool])
def test_codes_of_other_types(dtype: type) -> None:
    values = np.array([[0, 1], [1, 1]]).astype(dtype)
    found = validation.codes("x", values)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "value", [-1, 256, 0.5, np.nan, np.inf, 2**40, -(2**63), 1e300, "a", 1j, None]
)
def test_what_is_not_a_code(value: Any) -> None:
    refused(InputError, "codes must be whole numbers 0..255", validation.codes, "x", [[1, value]])


def test_codes_are_not_copied_without_need() -> None:
    x = np.zeros((3, 4), np.uint8)
    assert validation.codes("x", x) is x
    assert validation.codes("x", np.zeros((3, 2, 2), np.uint8)).shape == (3, 4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(np.float32, np.float32), (np.float64, np.float64), (np.float16, np.float64),
     (">f4", np.float64), (np.int32, np.float64), (bool, np.float64)],
)  # fmt: skip
def test_features_of_other_types(given: Any, expected: type) -> None:
    found = validation.features("x", np.ones((2, 2)).astype(given))
    assert found.dtype == expected and found.dtype.isnative


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("kind", [np.float64, np.uint8])
def test_masked_values_are_refused(kind: Any, lazily: bool) -> None:
    y = np.arange(60) % 2
    x = np.ma.array(np.arange(120).reshape(60, 2).astype(kind) + 2 * y[:, None])
    given = da.from_array(x, chunks=(20, 2)) if lazily else x
    model = fit(given, y, preset="graded", boxes=2, epochs=1)  # masks of nothing are fine
    x = np.ma.array(x, mask=x == 5)
    given = da.from_array(x, chunks=(20, 2)) if lazily else x
    for call in (lambda: fit(given, y, preset="graded", boxes=2, epochs=1),
                 lambda: np.asarray(model.predict(given))):  # fmt: skip
        refused(InputError, "x has masked values; fill them first", call)


def test_labels() -> None:
    for value in (["a", "b"], [1, 2], [True, False], np.array(["a", "b"], dtype=object)):
        np.testing.assert_array_equal(validation.labels("y", value, 2), value)
    assert validation.labels("y", [1.0, 2.0], 2).dtype == np.int64
    for wrong in ([1.5, 2.0], [b"a", b"b"], [1j, 2]):
        refused(InputError, "labels must be integers or strings", validation.labels, "y", wrong, 2)
    for absent in ([np.nan, 1.0], [None, "a"], ["a", pd.NA], np.ma.array([1, 2], mask=[0, 1]),
                   np.array(["a", np.nan], object)):  # fmt: skip
        refused(InputError, "rows without a label", validation.labels, "y", absent, 2)
    refused(InputError, "must be one-dimensional", validation.labels, "y", [[1], [2]], 2)
    refused(InputError, "3 labels for 2 rows", validation.labels, "y", [1, 2, 3], 2)


@pytest.mark.parametrize("values", [[], [-1], [0.5], ["a"], [[1]], [2**80], [1, [2]]])
def test_what_are_not_radii(values: Any) -> None:
    refused(OptionError, "pass one or more whole numbers of at least 0", validation.radii, values)


@pytest.mark.parametrize("values", [[0, 3], [0.0, 3.0], np.array([0, 3], np.float32), (0, 3.0)])
def test_whole_radii_of_any_type(values: Any) -> None:
    found = validation.radii(values)
    assert found.dtype == np.int64 and found.tolist() == [0, 3]


@pytest.mark.parametrize("values", [[], [[1], [1, 2]], [np.nan], [np.inf], [-0.5], [[1.5]], ["a"]])
def test_what_are_not_budgets(values: Any) -> None:
    words = "pass one or more numbers of at least 0"
    refused(OptionError, words, validation.radii, values, True)


def test_one_sample_alone_is_told_how_to_be_passed() -> None:
    for value in (np.zeros((3, 4), np.uint8), np.zeros((3, 4, 2), np.uint8)):
        words = rf"x is one sample, of shape \({', '.join(map(str, value.shape))}\); pass x\[None\]"
        refused(InputError, words, validation.samples, "x", value, value.shape, "the model")
    row = np.zeros((1, 9))  # of one row of pixels: the same either way
    np.testing.assert_array_equal(validation.samples("x", row, (1, 9), "the model"), row)


def test_sample_shape() -> None:
    assert validation.sample_shape([2, 3], 6) == (2, 3)
    refused(OptionError, "holds 8 values", validation.sample_shape, [2, 4], 6)
    refused(OptionError, "shape is 0", validation.sample_shape, [0, 4], 6)


BOX = np.array([[1, 2]], np.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((BOX, BOX, BOX, 0), OptionError, "width is 0"),
        ((BOX, BOX, BOX, 256), OptionError, "width is 256"),
        ((BOX, BOX, BOX, 1.5), OptionError, "width is 1.5"),
        ((BOX, BOX, BOX, "wide"), OptionError, "width is 'wide'"),
        ((BOX, BOX, BOX, np.nan), OptionError, "width is nan"),
        ((BOX, BOX, BOX, None), OptionError, "width is None"),
        ((BOX, 3, 4), InputError, "lower"),
        ((BOX, BOX + 1, BOX), InputError, "every box needs lower <= upper"),
        ((BOX, [[1]], [[2]]), InputError, "they must agree"),
        ((BOX, [[0.5, 1]], [[1, 2]]), InputError, "codes must be whole numbers"),
        ((BOX, BOX[:0], BOX[:0]), InputError, "is empty"),
        (([[np.nan]], [[0.0]], [[1.0]]), InputError, "drop or fill NaN"),
        (([[0.0]], [[np.nan]], [[1.0]]), InputError, "lower <= upper|NaN"),
        (([[0.0]], [[2.0]], [[1.0]]), InputError, "every box needs lower <= upper"),
        (([[0.0]], [[0.0, 1.0]], [[1.0, 2.0]]), InputError, "they must agree"),
        (([[0.0]], [[0.0]], [[1.0]], 0), OptionError, "width is 0"),
        (([[0.0]], [[0.0]], [[1.0]], np.inf), OptionError, "width is inf"),
        (([["a"]], [[0.0]], [[1.0]]), InputError, "must be numbers"),
    ],
)
def test_box_distance_checks_its_arguments(
    arguments: tuple[Any, ...], error: type[BoxNNError], words: str
) -> None:
    refused(error, words, box_distance, *arguments)


# --- options -------------------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "boxes": [0, -1, 2.5, "many", None, True],
    "parts": ["0", "two", "2x", "2x2x2", "-1"],
    "templates": [-1, 1.5],
    "width": [0, 256, 1.5, -1],
    "train_width": [-1, 256],
    "alpha": [-0.1, 1.1, np.nan],
    "initialisation": ["zeros"],
    "epochs": [0, 1.5],
    "batch": [0],
    "optimizer": ["lion", ""],
    "momentum": [1.0, -0.1],
    "weight_decay": [-1.0, np.inf],
    "lr": [0.0, -1.0, np.nan, np.inf, "fast"],
    "crowd": [-1.0, np.nan],
    "schedule": ["step"],
    "softmin": ["softmax"],
    "tau": [0.0, -1.0, np.inf],
    "objective": ["loss"],
    "beta": [-1.0, np.nan],
    "radius": [-1, 1.5],
    "sharpness": [0.0, -1.0],
    "keep": [-0.1, 1.1],
    "warmup": [-0.1, 1.5],
    "relaxation": ["linf"],
    "class_weight": ["heavy", "a=", "a=1,,b=2"],
    "members": [0, 65, 1.5],
    "offsets": ["some"],
    "augment": [-1.0, 2.1, np.nan],
    "rotation": [-1.0, 26.0],
    "scaling": [-0.1, 0.6],
    "shear": [-0.1, 1.1],
    "shift": [-1.0, np.inf],
    "displacement": [-1.0, 101.0],
    "mirror": [-0.1, 1.1],
    "recall": [-0.1, 0.91],
    "leak": [-0.1, 1.1],
    "validation": [-0.1, 0.95, 1.0],
    "validation_rows": [-1, 0.5],
    "group_size": [-1, 1.5],
    "seed": [-1, 0.5],
}


def test_every_option_has_wrong_values_here() -> None:
    assert set(WRONG) == set(TrainingOptions().as_dict())


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=r"must be|choose one of") as caught:
        TrainingOptions(**{name: value})
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_docstring_tells_every_option() -> None:
    text = str(TrainingOptions.__doc__)
    assert text.startswith("Everything that determines a training run")
    for name, option in OPTIONS.items():
        kind = type(option.default).__name__
        assert f"\n{name} : {kind}, {option.limits}; default {option.default}\n    " in text
        assert option.text in " ".join(text.split())


def test_presets() -> None:
    for preset in PRESETS:
        radius = {"radius": 3} if preset == "target" else {}
        assert resolve(preset, {**radius, "boxes": 7, "lr": None}).boxes == 7
    paper = resolve("paper", {})
    assert (paper.width, paper.forward_width, paper.unit) == (1, 255, 1 / 255)
    assert (paper.objective, paper.beta, paper.softmin, paper.lr) == ("paper", 50, "boltzmann", 0.2)
    assert resolve("target", {"radius": 9}).objective == "target"
    with pytest.raises(OptionError, match="preset target needs a radius; pass `radius`"):
        resolve("target", {})
    with pytest.raises(OptionError, match="unknown preset 'best'; choose one of graded, accurate"):
        resolve("best", {})
    with pytest.raises(OptionError, match="unknown option 'lrr'"):
        resolve("graded", {"lrr": 1.0})


# --- outputs that appear whole or not at all -------------------------------------------------


def test_staged_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_output(out) as partial:
        (partial / "a").write_text("1")
        assert not out.exists() and partial == tmp_path / "out.partial"
    assert (out / "a").read_text() == "1"
    with pytest.raises(OptionError, match="already exists; pass `overwrite`"), staged_output(out):
        raise AssertionError
    with staged_output(out, overwrite=True, owned=Path.is_dir) as partial:
        (partial / "a").write_text("2")
        assert (out / "a").read_text() == "1", "the old output stays until the new one is whole"
    assert (out / "a").read_text() == "2"
    assert list(tmp_path.iterdir()) == [out]


def test_overwrite_replaces_only_outputs_of_ours(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("x")
    file.write_text("x")
    for out, options in (
        (folder, {}),
        (file, {}),
        (folder, {"directory": False}),
        (Path("/dev/null"), {"directory": False}),
        (Path("/dev/null"), {}),
        (Path(), {}),
        (Path(".."), {}),
        (folder, {"inputs": [folder / "thesis.txt"], "owned": Path.is_dir}),
        (file, {"inputs": [file], "directory": False}),
    ):
        with pytest.raises(OptionError), staged_output(out, overwrite=True, **options):
            raise AssertionError
    assert (folder / "thesis.txt").read_text() == file.read_text() == "x"
    assert sorted(tmp_path.iterdir()) == [file, folder]
    with pytest.raises(OptionError, match="pass one of them"):
        staged_output(tmp_path / "new", overwrite=True, resume=True).__enter__()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_staged_output_that_fails(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "zarr.json").write_text('{"format": "boxnn-old"}')
    with pytest.raises(error), staged_output(tmp_path / "out", overwrite=True) as partial:
        (partial / "a").write_text("1")
        raise error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["zarr.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_remains_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    for name in ("old", ".boxnn-unfinished"):
        (tmp_path / "out.partial" / name).write_text("")
    (tmp_path / ".out.lock").write_text("")
    with staged_output(tmp_path / "out") as partial:
        assert [path.name for path in partial.iterdir()] == [".boxnn-unfinished"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_replace_keeps_a_whole_version(tmp_path: Path) -> None:
    for name, content in (("new", "2"), ("out", "1"), ("out.old", "0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(content)
    replace(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "2"
    assert (tmp_path / "out.old" / "a").read_text() == "0"  # somebody's
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.old"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left while writing out; free some space or choose another `out`"),
        (errno.EACCES, "cannot write out: permission denied; choose another `out`"),
        (errno.EROFS, "cannot write out: permission denied; choose another `out`"),
        (errno.EIO, "cannot write out: broken"),
    ],
)
def test_failed_writes_in_words(number: int, words: str) -> None:
    error = write_failure(OSError(number, "broken"), Path("out"))
    assert isinstance(error, OutputError) and isinstance(error, OSError)
    assert str(error) == words and error.exit_code == 1


def test_a_folder_of_outputs(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("x")
    for options, words in (
        ({}, "already exists; pass `overwrite`"),
        ({"overwrite": True}, "not something that boxnn wrote"),
    ):
        with pytest.raises(OptionError, match=words), output_folder(folder, **options):
            pass
    with output_folder(folder, resume=True):
        assert (folder / "file").read_text() == "x"
    with output_folder(folder, overwrite=True, owned=Path.is_dir):
        assert list(folder.iterdir()) == []
        with (
            pytest.raises(OutputError, match="another process is writing"),
            output_folder(folder, resume=True),
        ):
            pass
    with (
        pytest.raises(OptionError, match="does not exist; create it or choose another `out`"),
        output_folder(tmp_path / "b" / "c"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
