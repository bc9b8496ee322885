"""Version of the package, from pyproject.toml, and versions of other packages."""

import functools

__version__ = "0.2.0"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package, of Python, and of those packages that are installed."""
    import platform

    known = {name: _installed(name) for name in packages}
    found = {"boxnn-numba": __version__, "python": platform.python_version()}
    return found | {name: version for name, version in known.items() if version is not None}


@functools.cache
def _installed(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
