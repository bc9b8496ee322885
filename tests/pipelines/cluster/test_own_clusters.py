"""Clusters that other packages start: the same bits, and their clients are used as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import own_clusters
from support.cluster_tools import (
    CHUNK_ROWS,
    TEST_ROWS,
    Started,
    assert_same_certificates,
    assert_same_model,
    make_work,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "package"), [("jobqueue", "dask_jobqueue"), ("ssh", "asyncssh")], ids=str
)
def test_the_same_bits(kind: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    work = make_work(tmp_path)
    script = f"import sys; sys.path.insert(0, {str(Path(own_clusters.__file__).parents[1])!r}); "
    script += "from support.own_clusters import main; main(*sys.argv[1:])"
    with Started(tmp_path) as started:
        process = started.start(
            [sys.executable, "-W", "ignore", "-c", script, kind, work.model, work.data, tmp_path]
        )
        process.wait(200)
        said, errors = started.output(process)
    assert (process.returncode, said) == (0, f"tasks: {TEST_ROWS // CHUNK_ROWS}\n"), errors
    assert_same_model(tmp_path / "m", work)
    assert_same_certificates(tmp_path / "c", work)
