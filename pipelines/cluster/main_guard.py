"""Main guard of scripts that start workers: each worker imports the script again."""

from __future__ import annotations

import ast
import multiprocessing
import sys
import traceback
from pathlib import Path

from boxnn_numba.errors import OptionError

_GUARD = 'if __name__ == "__main__":'


def need_main_guard() -> None:
    """Refuse to start workers from a line that every worker would run again.

    Raises
    ------
    OptionError
        It is in the main script, and not under ``if __name__ == "__main__":``.
    SystemExit
        This is such a worker, of a script whose source is not known: it is not wanted.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)
    path, line = getattr(sys.modules["__main__"], "__file__", None), _line_of_script()
    if path is None or line is None or _guarded(Path(path), line) or _forked():
        return
    raise OptionError(
        f"{path} starts `workers` in line {line}, and each of them runs that line again; "
        f"put it under `{_GUARD}`"
    )


def _line_of_script() -> int | None:
    """Return where the main script is, if it is at work in this thread."""
    main = sys.modules["__main__"]
    name = getattr(main.__spec__, "name", "")
    if name == "__main__" or name.endswith(".__main__"):  # workers do not import those
        return None
    lines = [
        line
        for frame, line in traceback.walk_stack(None)
        if frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"
    ]
    return lines[-1] if lines else None


def _guarded(path: Path, line: int) -> bool:
    """Whether a script asks up to a line for the name it runs under, or cannot be read."""
    try:
        script = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(
        isinstance(node, ast.If) and node.lineno <= line and "__name__" in ast.unparse(node.test)
        for node in ast.walk(script)
    )


def _forked() -> bool:
    """Whether Dask is told to make workers without importing anything."""
    import dask.config
    import distributed  # noqa: F401 - declares the setting

    return bool(dask.config.get("distributed.worker.multiprocessing-method") == "fork")
