"""Arrays in memory that workers of this machine map: what they read is what was handed out."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxnn_numba.pipelines.cluster.executor import connect
from boxnn_numba.pipelines.cluster.options import ClusterOptions
from boxnn_numba.pipelines.cluster.shared_arrays import (
    SharedArray,
    SharedRoom,
    TooLateError,
    unpacked,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name, of Linux")

#: Reads what it is given in another process, and says what it is.
_READ = """
import pickle, sys
import numpy as np
found = pickle.load(sys.stdin.buffer).read()
assert found.flags.writeable and found.flags.c_contiguous
sys.stdout.write(f"{found.dtype} {found.shape} {int(found.astype(np.int64).sum())}")
"""


def elsewhere(told: SharedArray) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _READ], input=pickle.dumps(told), capture_output=True, check=True
    )
    return done.stdout.decode()


def test_another_process_reads_what_was_handed_out() -> None:
    room, rng = SharedRoom(), np.random.default_rng(0)
    x = rng.integers(0, 256, (100, 784)).astype(np.uint8)
    columns = np.asfortranarray(rng.integers(-5, 9**9, (70, 90)))
    small, text = np.arange(3), "text"
    first, second = room.round([(x[:50], small, columns), (x[50:], text, columns)])
    assert first[1] is small and second[1] is text and first[2] == second[2]
    huge = np.zeros(2**26 + 1, np.uint8)
    assert room.round([(huge,)])[0][0] is huge
    first, second = room.round([(x[:50], small, columns), (x[50:], text, columns)])
    assert len(pickle.dumps(first)) < 1500
    pairs = (first[0], x[:50]), (first[2], columns), (second[0], x[50:]), (second[2], columns)
    for told, array in pairs:
        assert elsewhere(told) == f"{array.dtype} {array.shape} {int(array.astype(int).sum())}"
    for got, given in zip(unpacked(first), (x[:50], small, columns), strict=True):
        np.testing.assert_array_equal(got, given)
    room.close()


def test_who_comes_too_late_reads_nothing() -> None:
    room = SharedRoom()
    ((late,),) = room.round([(np.zeros(9000, np.uint8),)])
    ((told,),) = room.round([(np.ones(9000, np.uint8),)])
    assert told.read().all() and told.path == late.path
    with pytest.raises(TooLateError):
        late.read()
    # More than there is room for: new memory, while what is mapped stays as it was.
    ((large,),) = room.round([(np.full(10**6, 2, np.uint8),)])
    assert (large.read() == 2).all() and told.read().all()
    room.close()
    assert (large.read() == 2).all()  # still mapped
    with pytest.raises(OSError, match="No such file"):
        SharedArray(large.path, "another", 1, 64, "|u1", (5,)).read()


def test_memory_is_gone_with_its_process() -> None:
    room, before = SharedRoom(), memories()
    for size in (10**4, 10**6, 10**7):
        room.round([(np.zeros(size, np.uint8),)])
        # Once to be opened by workers, and once more by the map.
        assert len(memories()) == len(before) + 2
    room.close()
    room.close()
    assert memories() == before


def memories() -> list[str]:
    """The descriptors of this process that are such memory."""
    with_names = Path("/proc/self/fd").iterdir()
    return [one.name for one in with_names if one.is_symlink() and "boxnn" in str(one.readlink())]


class Workers:
    """Stands for a client whose workers say what they read, or that they cannot."""

    def __init__(self, *found: Any) -> None:
        self.found = found

    def run(self, read: Any, on_error: str) -> dict[int, Any]:
        assert on_error == "return"
        if not self.found:
            raise PermissionError("not mine")
        return {index: read() if one is None else one for index, one in enumerate(self.found)}


@pytest.mark.parametrize(
    ("workers", "usable"),
    [
        (Workers(None, None), True),
        (Workers(None, np.zeros(4096, np.uint8)), False),
        (Workers(None, FileNotFoundError("elsewhere")), False),
        (Workers(), False),
    ],
    ids=["all can", "one reads something else", "one finds nothing", "none may"],
)
def test_it_is_used_only_where_all_workers_can_read_it(workers: Any, usable: bool) -> None:
    room = SharedRoom.for_workers(workers)
    assert (room is not None) == usable
    if room is not None:
        room.close()


def test_only_workers_that_are_started_for_a_run_share_memory() -> None:
    with connect(ClusterOptions(workers=1, threads_per_worker=1), 1) as executor:
        assert executor._room is not None
        calls = [(executor.seats[0], (np.arange(10**5),)), (executor.seats[0], (np.ones(3),))]
        assert executor.call_each(np.sum, calls) == [10**5 * (10**5 - 1) // 2, 3]
        with connect(None, client=executor.client) as given:
            assert given._room is None
            assert given.call_each(np.sum, calls) == [10**5 * (10**5 - 1) // 2, 3]
