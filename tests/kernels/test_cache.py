"""The cache of compiled kernels: damage costs time only, and strangers' code is not run."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.errors import TypingError

from boxnn_numba.kernels import claims
from boxnn_numba.kernels.cache import _KernelFiles
from boxnn_numba.kernels.compile import _Cache, kernel

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: Compiles a small kernel whose helper has one, or finds it; prints what it computes, and how often
#: it was found.
CODE = """
import sys
import numpy as np
from boxnn_numba.kernels.compile import kernel, register_jitable

@register_jitable
def item(x, i):
    return x[i]

@register_jitable
def plus(s, x, i):
    return s + item(x, i)

@kernel
def total(x):
    s = 0
    for i in range(len(x)):
        s = plus(s, x, i)
    return s

print(total(np.arange(5)), sum(total.stats.cache_hits.values()))
assert "scipy.linalg" not in sys.modules  # as slow as all else that Numba loads
"""


@pytest.fixture(autouse=True)
def no_claim_is_kept() -> Iterator[None]:
    """What is looked for here is not always saved."""
    with claims.given_up():
        yield


def run(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", CODE], capture_output=True, text=True,
        env={**os.environ, "BOXNN_CACHE_DIR": str(folder)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_kernel_is_found_again_and_compiled_again_where_it_is_damaged(tmp_path: Path) -> None:
    assert run(tmp_path) == "10 0"
    assert run(tmp_path) == "10 1"
    (file,) = files_of(tmp_path)
    assert file.suffix == ".nbc" and file.parent.stat().st_mode & 0o077 == 0
    file.write_bytes(flip(file.read_bytes()))
    assert run(tmp_path) == "10 0"
    assert run(tmp_path) == "10 1"
    assert files_of(tmp_path) == [file]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:-1],
        lambda content: content + b"x",
        flip,
        lambda content: os.urandom(len(content)),
    ],
    ids=["empty", "five bytes", "truncated", "longer", "flipped", "random"],
)
def test_damage_is_as_if_nothing_was_there(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    kept = _KernelFiles(tmp_path / "c", "total")
    kept.save("key", ("code", 1))
    assert kept.load("key") == ("code", 1)
    (file,) = files_of(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert kept.load("key") is None
    kept.save("key", ("code", 2))
    assert kept.load("key") == ("code", 2) and files_of(tmp_path) == [file]


def test_a_file_under_the_name_of_another_is_not_taken(tmp_path: Path) -> None:
    kept = _KernelFiles(tmp_path / "c", "total")
    kept.save("int", "code for int")
    kept.save("float", "code for float")
    one, other = files_of(tmp_path)
    one.write_bytes(other.read_bytes())
    found = [kept.load(key) for key in ("int", "float")]
    assert sorted(map(str, found)) in (["None", "code for float"], ["None", "code for int"])


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    folder.chmod(mode)
    kept = _KernelFiles(folder, "total")
    with pytest.warns(UserWarning, match=r"other users may write to .*BOXNN_CACHE_DIR"):
        kept.save("key", "code")
    assert kept.load("key") is None and files_of(tmp_path) == []


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    kept = _KernelFiles(tmp_path / "file" / "c", "total")
    kept.save("key", "code")
    assert kept.load("key") is None


def test_kernels_of_several_processes_have_no_symbols_in_common() -> None:
    """Numba counts functions from 1 in every process, and helpers of a factory share their name."""
    from numba.core.bytecode import FunctionIdentity

    import boxnn_numba.kernels.compile  # noqa: F401

    assert next(FunctionIdentity._unique_ids) > 2**20  # by chance in one of 2 ** 28 runs


#: Prints the number that the next function has here, and in two processes that were forked.
NUMBERS = """
import os
import boxnn_numba.kernels.compile
from numba.core.bytecode import FunctionIdentity
for _ in range(2):
    child = os.fork()
    if not child:
        break
    os.waitpid(child, 0)
print(next(FunctionIdentity._unique_ids), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="fork of POSIX")
def test_nor_have_those_of_processes_that_were_forked() -> None:
    """They compiled kernels of boxes in parts, and a later process had wrong distances."""
    words = [sys.executable, "-P", "-c", NUMBERS]
    numbers = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert len(set(numbers)) == 3


def test_helpers_are_declared_by_the_package() -> None:
    """What Numba's own decorator marks would be linked without the helpers that it calls."""
    import boxnn_numba.kernels as package

    (folder,) = map(Path, package.__path__)
    numbas = re.compile(r"^from numba.extending import .*register_jitable", re.MULTILINE)
    found = [file.name for file in folder.glob("*.py") if numbas.search(file.read_text("utf-8"))]
    assert found == ["compile.py"]


# --- claims ---------------------------------------------------------------------------------

posix = pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")

#: Compiles as `CODE` does, but says so before, and then waits for a file.
_SLOW = CODE.replace(
    "print(",
    """
import time
from pathlib import Path
from boxnn_numba.kernels import compile as policy

compile_extra = policy._KernelCompiler.compile_extra

def slowly(compiler, func):
    Path(sys.argv[1]).touch()
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    return compile_extra(compiler, func)

policy._KernelCompiler.compile_extra = slowly
print(""",
    1,
)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is compiling a kernel until ``tmp_path / "go"`` is there."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    with subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", _SLOW, str(begun), str(go)],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "BOXNN_CACHE_DIR": str(tmp_path / "cache")},
    ) as process:  # fmt: skip
        until(begun.exists)
        try:
            yield process
        finally:
            process.kill()


@posix
def test_what_another_process_compiles_is_waited_for(
    tmp_path: Path, slow: subprocess.Popen[str]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run, tmp_path / "cache")
        time.sleep(1.5)  # it gets there
        assert not other.done()
        (tmp_path / "go").touch()
        assert other.result() == "10 1"
    assert slow.communicate()[0].strip() == "10 0"
    (file,) = files_of(tmp_path / "cache")
    assert file.suffix == ".nbc"


@posix
@pytest.mark.parametrize("how", ["kill", "send_signal"])
def test_a_claim_ends_with_its_process_or_a_failure(
    tmp_path: Path, slow: subprocess.Popen[str], how: str
) -> None:
    getattr(slow, how)(*([signal.SIGINT] if how == "send_signal" else []))
    slow.communicate()
    assert run(tmp_path / "cache") == "10 0"
    assert run(tmp_path / "cache") == "10 1"
    (file,) = files_of(tmp_path / "cache")
    assert file.suffix == ".nbc"


@posix
def test_nobody_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kernel.claim"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.05)
        claims.claim(path, lambda: False)
        claims.give_up(path)  # which it is not
        assert path.exists()
        # What it stands for is there already, whoever holds the claim.
        monkeypatch.setattr(claims, "PATIENCE_SECONDS", 60)
        claims.claim(path, lambda: True)
    with claims.given_up():
        claims.claim(path, lambda: False)
        assert path in claims._held
    assert not path.exists() and path not in claims._held


@posix
def test_who_has_waited_in_vain_lets_others_compile_as_well(tmp_path: Path) -> None:
    path = tmp_path / "kernel.claim"
    with path.open("w") as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = pool.submit(claims.claim, path, lambda: False)
        time.sleep(0.1)
        assert not waiting.done()
        fcntl.flock(file, fcntl.LOCK_UN)
        waiting.result()
    assert not path.exists() and path not in claims._held


@posix
def test_claims_end_with_the_compilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXNN_CACHE_DIR", str(tmp_path))

    def made(name: str) -> Any:
        @kernel(name=name)
        def total(x):
            return x.unknown

        return total

    failing = made("a_kernel_that_fails")
    for _ in range(2):  # Numba remembers that it fails
        with pytest.raises(TypingError):
            failing(np.arange(3))
        assert not claims._held and not files_of(tmp_path)
    monkeypatch.setattr(_Cache, "save_overload", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made_sum()(np.arange(3))
    assert not claims._held and not files_of(tmp_path)


def made_sum() -> Any:
    @kernel(name="a_kernel_that_is_not_kept")
    def total(x):
        s = 0
        for i in range(len(x)):
            s += x[i]
        return s

    return total


@posix
def test_a_forked_process_has_no_claims(tmp_path: Path) -> None:
    path = tmp_path / "kernel.claim"
    with claims.given_up():
        claims.claim(path, lambda: False)
        child = os.fork()
        if child == 0:
            os._exit(0 if not claims._held and not claims._own() else 1)
        assert os.waitpid(child, 0)[1] == 0 and path in claims._held
        with path.open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@posix
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EIO])
def test_where_files_cannot_be_locked_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(error, "no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    claims.claim(tmp_path / "kernel.claim", lambda: False)
    assert not claims._held and not [*tmp_path.iterdir()]


def test_without_locks_every_process_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "fcntl", None)
    kept = _KernelFiles(tmp_path / "c", "total")
    assert kept.load("key") is None
    kept.save("key", "code")
    assert kept.load("key") == "code" and len(files_of(tmp_path)) == 1
