"""Outputs appear whole or not at all, and nothing of the user's is ever removed for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boxnn_numba.data import zarr_format
from boxnn_numba.data.atomic import output_folder, partial_path, staged_output
from boxnn_numba.data.dataset import write_dataset
from boxnn_numba.errors import OptionError

Run = Callable[..., tuple[int, str, str]]


def mine(path: Path) -> Path:
    """A folder of the user's with a file in it."""
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    return path


def is_whole(path: Path) -> bool:
    return (path / "thesis.txt").read_text() == "years of work"


def small_dataset(path: Path, **options: bool) -> None:
    rows = np.zeros((4, 3), np.uint8), np.array([0, 1, 0, 1], np.int32)
    write_dataset(path, name="d", classes=[0, 1], train=rows, test=rows, **options)


def write_file(path: Path, text: str, **options: bool) -> None:
    with staged_output(path, directory=False, **options) as partial:
        partial.write_text(text)


def test_overwrite_leaves_the_neighbours_of_a_folder(tmp_path: Path) -> None:
    kept = [mine(tmp_path / f"d.zarr{ending}") for ending in (".old", ".bak", ".new", ".tmp")]
    small_dataset(tmp_path / "d.zarr")
    small_dataset(tmp_path / "d.zarr", overwrite=True)
    assert all(map(is_whole, kept))
    assert {path.name for path in tmp_path.iterdir()} == {"d.zarr", *(p.name for p in kept)}


def test_overwrite_leaves_a_group_in_which_a_file_of_the_users_lies(tmp_path: Path) -> None:
    small_dataset(tmp_path / "d.zarr")
    (tmp_path / "d.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(OptionError, match="not something that boxnn wrote, or not all of it"):
        small_dataset(tmp_path / "d.zarr", overwrite=True)
    assert is_whole(tmp_path / "d.zarr")
    (tmp_path / "d.zarr" / "thesis.txt").rename(tmp_path / "thesis.txt")
    small_dataset(tmp_path / "d.zarr", overwrite=True)


def test_overwrite_leaves_the_neighbours_of_a_file(tmp_path: Path) -> None:
    kept = [tmp_path / f"p.csv{ending}" for ending in (".old", ".partial", ".new", ".tmp")]
    for path in kept:
        path.write_text("years of work")
    write_file(tmp_path / "p.csv", "one")
    write_file(tmp_path / "p.csv", "two", overwrite=True)
    assert (tmp_path / "p.csv").read_text() == "two"
    assert {path.read_text() for path in kept} == {"years of work"}
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", *(p.name for p in kept)}


@pytest.mark.parametrize(
    "options",
    [{}, {"overwrite": True}, {"resumable": True}, {"resumable": True, "resume": True}],
    ids=["new", "overwrite", "resumable", "resume"],
)
def test_a_foreign_partial_is_in_the_way(tmp_path: Path, options: dict[str, bool]) -> None:
    foreign = mine(partial_path(tmp_path / "m.zarr"))  # type: ignore[arg-type]
    with (
        pytest.raises(OptionError, match=r"m\.zarr\.partial is in the way, and boxnn did not"),
        staged_output(tmp_path / "m.zarr", **options),
    ):
        raise AssertionError("the body must not run")
    assert is_whole(foreign) and {path.name for path in tmp_path.iterdir()} == {foreign.name}


def test_a_foreign_file_or_link_is_in_the_way(tmp_path: Path) -> None:
    partial = tmp_path / "m.zarr.partial"
    partial.write_text("years of work")
    with pytest.raises(OptionError, match="in the way"), staged_output(tmp_path / "m.zarr"):
        pass
    assert partial.read_text() == "years of work"
    partial.unlink()
    elsewhere = mine(tmp_path / "elsewhere")
    partial.symlink_to(elsewhere)
    with pytest.raises(OptionError, match="in the way"), staged_output(tmp_path / "m.zarr"):
        pass
    assert partial.is_symlink() and is_whole(elsewhere)


def test_our_own_unfinished_folder_is_made_room_for(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged_output(tmp_path / "m", resumable=True) as partial:
        (partial / "something").write_text("half")
        raise ZeroDivisionError
    assert partial_path(tmp_path / "m").is_dir()
    with pytest.raises(OptionError, match="an unfinished run is in"):
        staged_output(tmp_path / "m", resumable=True).__enter__()
    with staged_output(tmp_path / "m", resumable=True, overwrite=True) as partial:
        assert not (partial / "something").exists()
        (partial / "something").write_text("whole")
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["something"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("result", [None, "out"])
def test_a_run_that_was_to_replace_something_does_when_it_is_resumed(
    result: str | None, tmp_path: Path
) -> None:
    def write(text: str, fails: bool = False, **options: bool) -> None:
        with staged_output(
            tmp_path / "m", resumable=True, result=result, owned=lambda folder: True, **options
        ) as partial:
            folder = partial / (result or "")
            folder.mkdir(exist_ok=True)
            (folder / text).touch()
            if fails:
                raise ZeroDivisionError

    write("old")
    for text, options in (("one", {"overwrite": True}), ("two", {"resume": True})):
        with pytest.raises(ZeroDivisionError):
            write(text, True, **options)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["old"]
    with pytest.raises(OptionError, match=r"an unfinished run is in .*; pass `resume` to continue"):
        write("three")
    write("three", resume=True)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"one", "two", "three"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    with pytest.raises(OptionError, match="m already exists; pass `overwrite`"):
        write("four", resume=True)  # nothing is left to go on with


def test_a_run_that_was_to_replace_nothing_does_not_when_it_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged_output(tmp_path / "m", resumable=True) as partial:
        (partial / "something").write_text("half")
        raise ZeroDivisionError
    small_dataset(tmp_path / "m2")
    (tmp_path / "m2").rename(tmp_path / "m")
    with pytest.raises(OptionError, match="m already exists; pass `overwrite`"):
        staged_output(tmp_path / "m", resumable=True, resume=True).__enter__()
    assert (tmp_path / "m" / "train").is_dir()


def test_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    left = tmp_path / f".p.csv.boxnn-new-{'0a' * 16}"
    left.write_text("half")
    like = tmp_path / ".p.csv.boxnn-new-mine"
    like.write_text("mine")
    write_file(tmp_path / "p.csv", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"p.csv", like.name}


def test_a_folder_of_a_run_killed_just_before_it_got_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete, so without the mark of an unfinished one, and no Zarr group that tells whose."""

    def report() -> None:
        with staged_output(tmp_path / "report") as partial:
            (partial / "index.html").write_text("whole")

    with monkeypatch.context() as patch:  # as good as killed: nothing is cleaned up
        patch.setattr("boxnn_numba.data.atomic.remove", lambda path: None)
        patch.setattr("boxnn_numba.data.atomic.publish", lambda source, target: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            report()
    assert len([*tmp_path.iterdir()]) == 1
    report()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


def test_old_outputs_of_killed_runs_are_removed_when_there_is_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_dataset(tmp_path / "d.zarr")
    with monkeypatch.context() as patch:
        patch.setattr("boxnn_numba.data.atomic.remove", lambda path: None)
        small_dataset(tmp_path / "d.zarr", overwrite=True)
    (left,) = tmp_path.glob(".d.zarr.boxnn-old-*")
    like = mine(tmp_path / ".d.zarr.boxnn-old-mine")  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError), staged_output(tmp_path / "d.zarr", overwrite=True):
        raise ZeroDivisionError
    assert left.is_dir()
    small_dataset(tmp_path / "d.zarr", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"d.zarr", like.name}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_at_the_name_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".p.csv.lock").symlink_to(tmp_path / "planted")
    with pytest.raises(OptionError, match=r"\.p\.csv\.lock is in the way"):
        write_file(tmp_path / "p.csv", "text")
    assert not (tmp_path / "planted").exists() and not (tmp_path / "p.csv").exists()


def test_a_foreign_file_at_the_name_of_the_lock_stays(tmp_path: Path) -> None:
    lock = tmp_path / ".p.csv.lock"
    lock.write_text("years of work")
    with pytest.raises(OptionError, match=r"\.p\.csv\.lock is in the way"):
        write_file(tmp_path / "p.csv", "text")
    assert lock.read_text() == "years of work" and not (tmp_path / "p.csv").exists()


def test_an_unfinished_run_of_another_command_stays(trained: Run, tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        staged_output(tmp_path / "new.zarr", resumable=True, result="model.zarr") as partial,
    ):
        (partial / "checkpoint.npz").write_text("hours of training")
        raise ZeroDivisionError
    certify = ["certify", "model.zarr", "tiny.zarr", "--out", "new.zarr"]
    for words in (
        [*certify, "--resume"],
        certify,
        ["data", "ingest", "mnist-sample", "--out", "new.zarr"],
    ):
        code, _, error = trained(*words)
        assert code == 2 and "an unfinished run of another command is in new.zarr.partial" in error
        assert (tmp_path / "new.zarr.partial/checkpoint.npz").read_text() == "hours of training"
    assert trained(*certify, "--overwrite")[0] == 0


def test_a_run_killed_while_its_file_was_made_is_resumed(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    certify = ["certify", "model.zarr", "tiny.zarr", "--out", "c.zarr"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(zarr_format, "write_attributes", kill)
        trained(*certify)
    half = tmp_path / f"c.zarr.partial/radius/zarr.{32 * 'a'}.partial"  # of Zarr, killed in it
    half.touch()
    assert trained(*certify, "--resume")[0] == 0
    assert not any(path.name.startswith(".") for path in (tmp_path / "c.zarr").iterdir())
    assert not list((tmp_path / "c.zarr").rglob("*.partial"))


def test_commands_leave_what_is_not_theirs(trained: Run, tmp_path: Path) -> None:
    np.save("x.npy", np.zeros((3, 12), np.uint8))
    files = [tmp_path / name for name in ("p.csv.partial", "p.csv.old")]
    for path in files:
        path.write_text("years of work")
    folders = [mine(tmp_path / name) for name in ("model.zarr.old", "tiny.zarr.old")]
    for _ in range(2):
        words = "predict model.zarr x.npy --out p.csv --overwrite"
        assert trained(*words.split())[0] == 0
    again = "train tiny.zarr --out model.zarr --boxes 6 --epochs 1 --overwrite -q"
    assert trained(*again.split())[0] == 0
    assert {path.read_text() for path in files} == {"years of work"}
    assert all(map(is_whole, folders))
    folder = mine(tmp_path / "new.zarr.partial")
    code, _, error = trained("data", "ingest", "mnist-sample", "--out", "new.zarr")
    assert (code, error.count("\n")) == (2, 1) and "new.zarr.partial is in the way" in error
    assert "--out" in error and is_whole(folder)


@pytest.mark.parametrize("no_lock", [False, True])
def test_folders_have_names_in_folders_that_exist(
    no_lock: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name, words in (
        ("", "names no new file or folder"),
        (".", "names no new file or folder"),
        ("/", "names no new file or folder"),
        ("no/x", "here/no does not exist"),
    ):
        with (
            pytest.raises(OptionError, match=words),
            output_folder(name, overwrite=True, no_lock=no_lock),
        ):
            pass
    with output_folder(".", resume=True, no_lock=no_lock) as folder:
        assert folder == here
        assert (tmp_path / ".here.lock").exists() != no_lock
