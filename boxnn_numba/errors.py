"""Errors: one hierarchy; every message says what was wrong, where, and what to do.

`boxnn_numba.cli.main` turns these into one line on standard error and the exit
code they carry. Python callers can also catch the built-in type that each one
derives from (``ValueError``, ``OSError``, ...).
"""

from __future__ import annotations

from boxnn_numba.text import without_secrets


class BoxNNError(Exception):
    """Base of all errors that this package raises on purpose (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # A URL that is named may hold a password, and messages end up in logs.
        super().__init__(without_secrets(message))


class OptionError(BoxNNError, ValueError):
    """An option, argument or output path is unusable (exit code 2)."""

    exit_code = 2


class InputError(BoxNNError, ValueError):
    """An array has the wrong shape, dtype or values."""


class DataError(BoxNNError, ValueError):
    """A data file or dataset cannot be read, is damaged, or does not fit."""


class ModelFileError(BoxNNError, ValueError):
    """A model file cannot be read, is damaged, or is of a newer version."""


class CertificateFileError(BoxNNError, ValueError):
    """A certificate file cannot be read, is damaged, or is unfinished."""


class AttackFileError(BoxNNError, ValueError):
    """An attack file cannot be read, is damaged, or is unfinished."""


class UnsoundError(BoxNNError, RuntimeError):
    """An attack succeeded within a certified radius, or is not one: a defect of this package."""


class OutputError(BoxNNError, OSError):
    """An output could not be written (permissions, no space, in use)."""


class DivergenceError(BoxNNError, ArithmeticError):
    """Training diverged; the last good checkpoint was kept."""


class BackendError(BoxNNError, RuntimeError):
    """The requested device is not usable on this machine."""


class InterruptedRunError(BoxNNError):
    """The user stopped a run that can be resumed (exit code 130, as for SIGINT)."""

    exit_code = 130


class ClusterError(BoxNNError, RuntimeError):
    """A Dask cluster cannot be reached, does not fit, or was lost."""


def first_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return (strerror or str(error) or type(error).__name__).splitlines()[0]
