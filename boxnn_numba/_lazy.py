"""Lazy names: a package's public names, each imported from its module on first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    `homes` has the names that each module gives, ``{"attacks.domain": "Domain domain_of"}``.
    """
    loaded = vars(sys.modules[package])
    home = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        loaded[name] = getattr(import_module(f"boxnn_numba.{home[name]}"), name)
        return loaded[name]

    return get, lambda: sorted({*loaded, *home})
