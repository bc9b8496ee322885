"""The version of the package, the one of pyproject.toml, and those of others."""

__version__ = "0.2.0"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package, of Python, and of those packages that are installed."""
    import platform
    from importlib import metadata

    found = {"boxnn-numba": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
