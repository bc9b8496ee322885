"""`boxnn data`, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.data_files import write_idx_folder

from boxnn_numba.data.dataset import open_dataset

Run = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("no_data_around")


def failed(result: tuple[int, str, str], code: int, words: str) -> None:
    """Check for a failure that says `words` in one line."""
    assert result[0] == code
    assert result[2].startswith("Error: ") and result[2].count("\n") == 1
    assert words in result[2]


def test_mnist_from_a_folder(run_boxnn: Run) -> None:
    write_idx_folder(Path("files"))
    code, out, err = run_boxnn("data", "ingest", "mnist", "--from", "files", "--out", "mnist.zarr")
    assert (code, err) == (0, "")
    assert out.startswith("mnist.zarr: 30 training and 12 test rows, 12 features, 3 classes in ")
    assert open_dataset("mnist.zarr").name == "mnist"
    assert run_boxnn("data", "verify", "mnist.zarr") == (0, "mnist.zarr is sound\n", "")


def test_table(run_boxnn: Run) -> None:
    rows = "".join(f"{i},{i % 7},{'ab'[i % 2]}\n" for i in range(40))
    Path("table.csv").write_text("p,q,kind\n" + rows)
    words = ("data", "ingest", "table.csv", "--label", "kind", "--out", "t.zarr", "--json")
    code, out, _ = run_boxnn(*words, "--test-fraction", "0.25", "--seed", "3", "--name", "mine")
    result = json.loads(out)
    assert code == 0
    assert result["rows"] == {"train": 30, "test": 10} and result["classes"] == ["a", "b"]
    assert (result["name"], result["path"], result["features"]) == ("mine", "t.zarr", 2)
    failed(run_boxnn(*words[:-1]), 2, "t.zarr already exists; pass --overwrite")
    assert run_boxnn(*words, "--overwrite", "--codes")[0] == 0
    assert open_dataset("t.zarr").is_codes


def test_arrays(run_boxnn: Run) -> None:
    x = np.arange(120.0).reshape(20, 6)
    np.savez("arrays.npz", x=x, y=np.arange(20) % 2)
    words = ("data", "ingest", "arrays.npz", "--out", "t.zarr", "--overwrite", "--quiet")
    assert run_boxnn(*words, "--shape", "2,3")[0] == 0
    assert open_dataset("t.zarr").feature_shape == (2, 3)
    assert run_boxnn(*words, "--shape", "3x2")[0] == 0
    failed(run_boxnn(*words, "--shape", "two"), 2, "shape is 'two'; write it as 28,28")
    failed(run_boxnn(*words, "--shape", "5,5"), 2, "holds 25 values")
    failed(run_boxnn(*words, "--codes", "--seed", "-1"), 2, "seed is -1")
    np.save("X.npy", x)
    np.save("Y.npy", np.arange(20) % 2)
    code, *_ = run_boxnn("data", "ingest", "X.npy", "--labels", "Y.npy", "--out", "n.zarr")
    assert code == 0
    np.testing.assert_array_equal(
        open_dataset("n.zarr").read("train")[0], open_dataset("t.zarr").read("train")[0]
    )


def test_info(run_boxnn: Run, tiny_dataset: Path) -> None:
    code, out, _ = run_boxnn("data", "info", tiny_dataset)
    assert code == 0
    assert "tiny, from arrays in memory" in out and "12 features, uint8 codes; 3 classes" in out
    assert [line.split() for line in out.splitlines()[3:]] == [
        ["3", "40", "14"],
        ["5", "40", "13"],
        ["8", "40", "13"],
        ["all", "120", "40"],
    ]
    result = json.loads(run_boxnn("data", "info", tiny_dataset, "--json")[1])
    assert result["classes"] == [3, 5, 8] and result["digest"] == open_dataset(tiny_dataset).digest
    assert result["splits"]["test"] == {"rows": 40, "rows_per_class": [14, 13, 13]}
    failed(run_boxnn("data", "info", "nothing.zarr"), 1, "nothing.zarr does not exist")


def test_verify_tells_the_problems(run_boxnn: Run, tiny_dataset: Path) -> None:
    result = run_boxnn("data", "verify", tiny_dataset, "--json")
    assert json.loads(result[1]) == {"path": str(tiny_dataset), "sound": True, "problems": []}
    (tiny_dataset / "train/x/c/0/0").unlink()
    result = run_boxnn("data", "verify", tiny_dataset)
    failed(result, 1, "has 1 problem; ingest it again")
    assert result[1].startswith("train/x chunk 0 of") and result[1].count("\n") == 1
    found = json.loads(run_boxnn("data", "verify", tiny_dataset, "--json")[1])
    assert not found["sound"] and len(found["problems"]) == 1
    failed(run_boxnn("data", "verify", "nothing.zarr"), 1, "nothing.zarr")


def test_list(run_boxnn: Run) -> None:
    code, out, _ = run_boxnn("data", "list")
    assert code == 0 and "not here; run `boxnn data fetch mnist`" in out
    listed = json.loads(run_boxnn("data", "list", "--json")[1])["sources"]
    assert [item["name"] for item in listed] == [
        "mnist", "fashion-mnist", "cifar-10", "digits", "mnist-sample"
    ]  # fmt: skip
    write_idx_folder(Path("cache/boxnn-numba/mnist"))
    listed = json.loads(run_boxnn("data", "list", "--json")[1])["sources"]
    assert listed[0]["available"].endswith("mnist")


def test_fetch(run_boxnn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: None)
    code, out, _ = run_boxnn("data", "fetch", "fashion-mnist", "--json")
    assert code == 0 and json.loads(out)["name"] == "fashion-mnist"
    failed(run_boxnn("data", "fetch", "digits"), 2, "boxnn data fetch knows mnist, fashion-mnist")


def test_failures_are_one_line_and_leave_nothing(run_boxnn: Run) -> None:
    failed(run_boxnn("data", "ingest", "mnist", "--out", "m.zarr"), 1, "boxnn data fetch mnist")
    Path("t.csv").write_text("a,y\n1,0\n2,1\n3,0\n4,oops\nx,1\n")
    words = ("data", "ingest", "t.csv", "--label", "y", "--test-fraction", "0.5", "--out", "m.zarr")
    failed(run_boxnn(*words, "--numeric", "a"), 1, "t.csv: column 'a' holds 'x' at line 6")
    failed(run_boxnn("data", "ingest", "none.npz", "--out", "m.zarr"), 1, "none.npz")
    failed(run_boxnn("data", "ingest", "digits", "--out", "no/m.zarr"), 2, "create it or choose")
    code, _, err = run_boxnn("data", "ingest", "digits")
    assert code == 2 and "--out" in err
    assert [path.name for path in Path().iterdir()] == ["t.csv"]


def test_names_of_a_stranger_run_nowhere(run_boxnn: Run) -> None:
    rows = "".join(f"{i},{i % 7},{('=cmd()', 'a' + chr(27) + '[2Jb')[i % 2]}\n" for i in range(60))
    Path("table.csv").write_text(f'"@SUM(A1)","q{chr(27)}[0m",kind\n{rows}')
    shown = [run_boxnn("data", "ingest", "table.csv", "--label", "kind", "--out", "t.zarr")]
    shown.append(run_boxnn("data", "info", "t.zarr"))
    words = ("--preset", "accurate", "--boxes", "6", "--epochs", "1", "--out", "m.zarr")
    shown.append(run_boxnn("train", "t.zarr", *words))
    shown.append(run_boxnn("certify", "m.zarr", "t.zarr", "--out", "c.zarr"))
    shown.append(run_boxnn("report", "c.zarr", "--out", "report"))
    shown.append(run_boxnn("certify", "c.zarr", "t.zarr", "--out", "no.zarr"))
    assert [code for code, _, _ in shown] == [0, 0, 0, 0, 0, 1]
    text = "".join(out + err for _, out, err in shown)
    assert chr(27) not in text
    assert "a\\x1b[2Jb" in text
    # The file has the name as it is, and no cell that a spreadsheet would run.
    assert run_boxnn("predict", "m.zarr", "table.csv", "--out", "p.csv")[0] == 0
    labels = {line.split(",")[0] for line in Path("p.csv").read_text().splitlines()[1:]}
    assert labels <= {"'=cmd()", f"a{chr(27)}[2Jb"}
