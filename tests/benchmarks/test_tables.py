"""`tables.py`: folds, codes and figures are what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import tables


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A number, a category that decides, one that does not, and a rare class."""
    rng = np.random.default_rng(0)
    label = np.array(["no", "yes"])[(np.arange(120) % 3 == 0).astype(int)]
    label[:9] = "rare"
    frame = pd.DataFrame(
        {
            "amount": rng.normal(size=120).round(2),
            "kind": np.where(
                label == "yes", rng.choice(["b", "d"], 120), rng.choice(["a", "c"], 120)
            ),
            "place": rng.choice(["x", "y"], 120),
            "Class": label,
        }
    )
    (tmp_path / "tables").mkdir()
    frame.to_csv(tmp_path / "tables" / "crx.csv.gz", index=False)
    monkeypatch.setenv("BOXNN_DATA", str(tmp_path))
    tables.load.cache_clear()
    yield tmp_path
    tables.load.cache_clear()
    tables._submodels.cache_clear()


def test_folds_are_of_all_rows_but_those_of_rare_classes(folder: Path) -> None:
    found = list(tables.cases("crx"))
    assert len(found) == tables.FOLDS and all(case.n_classes == 2 for case in found)
    rows = np.concatenate([case.x_test.index for case in found])
    assert sorted(rows) == list(range(111))
    assert [case.fold for case in tables.cases("crx", [1, 3])] == [1, 3]
    assert isinstance(found[0].x["kind"].dtype, pd.CategoricalDtype)


def test_a_column_is_one_code_in_the_order_of_shares(folder: Path) -> None:
    case = next(tables.cases("crx"))
    codes = tables.Encoder(case.x, case.y)(case.x)
    assert codes.shape == (len(case.x), 3)
    means = {kind: codes[case.x["kind"] == kind, 1].mean() for kind in "abcd"}
    # Those of one class are neighbours.
    assert {frozenset("ac"), frozenset("bd")} == {
        frozenset(sorted(means, key=lambda kind: means[kind])[half])
        for half in (slice(2), slice(2, 4))
    }
    unseen = case.x.head(1).assign(kind="z")
    assert tables.Encoder(case.x, case.y)(unseen).shape == (1, 3)


def test_balanced_accuracy_counts_classes_alike() -> None:
    counts = tables.count_certified(
        np.array([0, 0, 0, 0]), np.array([9, 0, 0, 0]), np.array([0, 0, 0, 1])
    )
    assert counts[:, 0].tolist() == [3, 1]
    curve = tables.balanced(counts)
    assert curve[0] == 50 and curve[1] == pytest.approx(100 / 6) and curve[10] == 0


def test_what_is_kept_is_not_measured_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out.json"
    calls: list[int] = []

    def constant(case: tables.Case) -> tables.Outcome:
        calls.append(case.fold)
        if case.fold == 2:
            raise ValueError("no")
        n = len(case.y_test)
        return tables.Outcome(np.zeros(n, int), np.full(n, 3), 1.0, 2.0)

    for method in tables.METHODS:
        monkeypatch.setitem(tables.METHODS, method, constant)
    words = ["tables.py", "--tables", "crx", "--folds", "0,2", "--out", str(out)]
    for more, code in (
        ([], 1),
        (["--show"], 0),
        (["--methods", "box", "--again", "--folds", "0"], 0),
    ):
        monkeypatch.setattr(sys, "argv", words + more)
        if code:
            with pytest.raises(SystemExit, match="6 failed, the first: boosting on crx, fold 2"):
                tables.main()
        else:
            tables.main()
    assert calls == [0] * 6 + [2] * 6 + [0]
    assert set(json.loads(out.read_text())["tables"]["crx"]) == set(tables.METHODS)
    shown = capsys.readouterr().out
    assert "| crx (1 of 5 folds) | box | 50.0 | 50.0 | 50.0 | 0.0 | 1.00 | 2.00 |" in shown
    assert "by more than 2 behind on 0: none" in shown
