"""Messages: what is raised to Python callers speaks of arguments, not of options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = re.compile(r"Error$|^validation\.")


def test_errors_name_arguments() -> None:
    """Arguments stand in backticks, which the command line shows as its options."""
    found = []
    for room in ("boxnn_numba", "data", "pipelines"):
        for path in sorted((ROOT / room).glob("**/*.py")):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(call, ast.Call) and MESSAGE.search(ast.unparse(call.func)):
                    text = re.sub("`[^`]*`", "", " ".join(map(ast.unparse, call.args)))
                    found += [f"{path}:{call.lineno} {text}"] * bool(re.search("--[a-z{]", text))
    assert not found, "\n".join(found)
