"""Lazy names: a package's public names, each imported from its module on first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package whose names `homes` maps to modules.

    Modules are named without the leading ``boxnn_numba.``: ``{"BoxNN": "model"}``.
    """
    names = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        names[name] = getattr(import_module(f"boxnn_numba.{homes[name]}"), name)
        return names[name]

    return get, lambda: sorted({*names, *homes})
