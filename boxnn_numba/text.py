"""Text that leaves the program: secrets taken out, control characters shown, no formulas."""

from __future__ import annotations

import re
from typing import Any

#: A password in a URL, a user of a web address (who may be a token), and signatures in queries.
_SECRETS = re.compile(
    r"(?<=://)(?P<user>[^/\s:@]*):[^/\s]*@"
    r"|(?<=http://)[^/\s]+@|(?<=https://)[^/\s]+@"
    r"|(?P<name>[?&][^=&\s]*(?:sig|token|key|secret|passw|credential|auth|code)[^=&\s]*=)[^&\s'\"]+",
    re.IGNORECASE,
)
#: What a spreadsheet takes a cell for a formula by.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def without_secrets(text: str) -> str:
    """Return a text with ``***`` for passwords, tokens and signatures in its URLs."""

    def hidden(found: re.Match[str]) -> str:
        if found["name"] is not None:
            return f"{found['name']}***"
        return "***@" if found["user"] is None else f"{found['user']}:***@"

    return _SECRETS.sub(hidden, text) if "://" in text else text


def printable(text: str) -> str:
    r"""Return a text with control characters written out (``\x1b``), all but line breaks.

    A terminal obeys some of them; others change the order in which text is read.
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in text
    )


def exact(value: float) -> str:
    """Return a number as short as can be without rounding it: what is certified is not more."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def cell(value: Any) -> Any:
    """Return a value for a CSV file: a text that a spreadsheet would run gets an apostrophe."""
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
