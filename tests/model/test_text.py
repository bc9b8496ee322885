"""Text that leaves the program: no secrets, no control characters, no formulas."""

from __future__ import annotations

import pytest

from boxnn_numba.errors import DataError, OutputError
from boxnn_numba.text import cell, printable, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ftp://ann:pw@host/a.csv is gone", "ftp://ann:***@host/a.csv is gone"),
        ("ftp://ann:p@w:x@host/a", "ftp://ann:***@host/a"),
        ("zip://a::ftp://:pw@host", "zip://a::ftp://:***@host"),
        ("https://token@host/a", "https://***@host/a"),
        ("https://ann:pw@host/a", "https://ann:***@host/a"),
        ("'https://h/a?X-Amz-Signature=ab12&part=3'", "'https://h/a?X-Amz-Signature=***&part=3'"),
        ("https://h/a?part=3&sig=x%3D; retry", "https://h/a?part=3&sig=*** retry"),
        ("abfs://box@account.host/a", "abfs://box@account.host/a"),
        ("s3://bucket/mail@host.csv", "s3://bucket/mail@host.csv"),
        ("ann:pw@host", "ann:pw@host"),
    ],
)
def test_secrets_of_urls_are_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("kind", [DataError, OutputError])
def test_errors_hide_secrets(kind: type[Exception]) -> None:
    assert str(kind("cannot read ftp://ann:pw@host/a")) == "cannot read ftp://ann:***@host/a"


def test_control_characters_are_shown() -> None:
    text = "a\x1b[2J\x07\u202e\x9b1mé\tz\nb"
    assert printable(text) == "a\\x1b[2J\\x07\\u202e\\x9b1mé\\tz\nb"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("+cmd", "'+cmd"), ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"), ("-2.5", "-2.5"), ("+7", "+7"), ("a=1", "a=1"), ("", ""), (-3, -3),
        (None, None),
    ],
)  # fmt: skip
def test_formulas_become_text(value: object, written: object) -> None:
    assert cell(value) == written
