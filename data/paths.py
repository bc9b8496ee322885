"""Locations of stores: a local path, or a URL that fsspec understands.

The only place that tells one from the other. Everything else works with what `location`
returns, whose methods are the same for both. Credentials, endpoints and the like are the
user's: fsspec and the library behind a protocol take them from the environment and from their
own configuration files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from boxnn_numba.errors import BoxNNError, DataError, OptionError, first_line

if TYPE_CHECKING:
    from upath import UPath

#: What `location` returns: a `pathlib.Path` for a local name, else a `upath.UPath`.
Location: TypeAlias = "Path | UPath"
#: How a location may be named.
Name: TypeAlias = "str | os.PathLike[str] | Location"

#: What a user can do about a URL that cannot be reached.
URL_REMEDY = "check the URL, the network and your credentials, and run again"

#: Protocols that only spell a local path.
_LOCAL = ("file", "local")
#: What the libraries behind protocols raise that is not an OSError, by the module that has it.
_FOREIGN_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("gcsfs.retry", "HttpError"),
    ("azure.core.exceptions", "AzureError"),
)


def is_url(name: Name) -> bool:
    """Return whether a name is a URL; a ``file://`` URL is one too."""
    return "://" in str(name)


def location(name: Name) -> Location:
    """Return where a store is: a local path, or a URL such as ``memory://...`` or ``s3://...``.

    A ``file://`` URL is a local path. Nothing is read yet, but a protocol that is unknown, or whose
    library is not installed, is an `OptionError`, and a host that refuses a connection, where the
    library makes one at once, a `DataError`.
    """
    if not is_url(name):
        return Path(os.fspath(name))  # type: ignore[arg-type]
    from upath import UPath

    try:
        # A listing that was kept would not show what other processes have written since.
        path = name if isinstance(name, UPath) else UPath(name, use_listings_cache=False)
        path.fs  # noqa: B018  # imports the library behind the protocol
    except ImportError as error:
        fix = "boxnn-numba[s3]" if str(name).startswith(("s3://", "s3a://")) else None
        remedy = f"pip install '{fix}'" if fix else first_line(error)
        raise OptionError(f"{name} needs a library that is not installed: {remedy}") from error
    except ValueError as error:
        raise OptionError(f"{name} is not a usable URL ({first_line(error)}); check it") from error
    except OSError as error:  # some libraries connect at once
        raise DataError(f"cannot reach {name}: {first_line(error)}; {URL_REMEDY}") from error
    return Path(path.path) if path.protocol in _LOCAL else path


def absolute(name: Name) -> str:
    """Return a name that means the same in every working directory; a URL as it is."""
    return str(location(name).absolute())


def exists(path: Location) -> bool:
    """Return whether there is a file or a directory; some libraries' own answer hides errors."""
    if isinstance(path, Path):
        return path.exists()
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def put(path: Location, content: bytes) -> None:
    """Write a file whole, or not at all, where the storage can: object stores do."""
    if isinstance(path, Path):
        path.write_bytes(content)
    else:
        path.fs.pipe_file(path.path, content)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn whatever the library behind a URL raises into an OSError of one line."""
    try:
        yield
    except BoxNNError:
        raise
    except NotImplementedError as error:
        raise OSError(f"this protocol cannot do that ({first_line(error)})") from error
    except _foreign_errors() as error:
        raise OSError(first_line(error)) from error


@contextlib.contextmanager
def reachable(name: Name, kind: type[BoxNNError]) -> Iterator[None]:
    """Turn a failure to reach a store into one line that says what to do, of type `kind`."""
    try:
        with storage_errors():
            yield
    except OSError as error:
        if isinstance(error, BoxNNError):
            raise
        raise kind(f"cannot read {name}: {first_line(error)}; {_remedy(name)}") from error


def read_problem(name: Name, what: str, error: BaseException, damaged: str) -> str:
    """Say in one line why a part of a store could not be read.

    Where the store was reached it must be `damaged`, which is what to say then.

    Raises
    ------
    MemoryError
        It is not the store that failed: there is no memory, also for a thread, or an inflated
        frame.
    """
    said = str(error)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        raise MemoryError(said) from error
    if isinstance(error, RuntimeError) and ("start new thread" in said or "enough memory" in said):
        raise MemoryError(said) from error
    lost = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    if isinstance(name, Path) or not is_url(name) or not lost:
        return damaged
    return f"cannot read {what}: {first_line(error)}; {_remedy(name)}"


def _foreign_errors() -> tuple[type[BaseException], ...]:
    # Only what is imported can have been raised.
    loaded = ((sys.modules.get(module), name) for module, name in _FOREIGN_ERRORS)
    return tuple(getattr(module, name) for module, name in loaded if module is not None)


def _remedy(name: Name) -> str:
    return URL_REMEDY if is_url(name) else "check its permissions"
