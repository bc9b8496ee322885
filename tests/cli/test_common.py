"""What commands share: how they run comes out of their arguments as `RunOptions`."""

from __future__ import annotations

from boxnn_numba.cli.common import running


def test_running_takes_what_says_how_and_leaves_the_rest() -> None:
    options = {"quiet": True, "overwrite": True, "threads": 2, "workers": 3, "limit": 5}
    with running("testing", options) as run:
        assert (run.overwrite, run.threads, run.cluster.workers, run.device) == (True, 2, 3, "auto")
        run.progress.start(1, "rows")
    assert options == {"limit": 5}
