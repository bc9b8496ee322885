"""Hook of mkdocs: where the sources of the package lie.

`pipelines/`, `cli/` and `data/` are subpackages of `boxnn_numba` by name only; a temporary copy
shows them to mkdocstrings as they are installed, whether or not they are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).resolve().parent.parent
_COPIES: list[tempfile.TemporaryDirectory[str]] = []


@event_priority(100)  # before mkdocstrings reads it
def on_config(config: Any) -> Any:
    """Point mkdocstrings to a folder with the package as it is installed."""
    folder = tempfile.TemporaryDirectory(prefix="boxnn-docs-")
    _COPIES.append(folder)
    package = Path(folder.name) / "boxnn_numba"
    ignored = ignore_patterns("__pycache__", "bundled", "published")
    copytree(ROOT / "boxnn_numba", package, ignore=ignored)
    for name in ("pipelines", "cli", "data"):
        copytree(ROOT / name, package / name, ignore=ignored)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [folder.name]
    return config


def on_shutdown() -> None:
    """Remove the copies."""
    while _COPIES:
        _COPIES.pop().cleanup()
