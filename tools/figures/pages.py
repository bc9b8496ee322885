"""Pages with figures: blocks between markers, and single figures in sentences.

A block stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``. A claim is a sentence,
or a piece of one, with ``{}`` where a figure belongs; line breaks do not matter. What looks like a
measured figure and is in neither is named, so that no figure stands without a source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kept import Kept

Value = Callable[[Kept], str]
#: A figure in a sentence.
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
#: What looks measured: per cents, decimals, times, sizes, factors.
_MEASURED = re.compile(
    r"(?<![\w.,/-])\d[\d,]*(?:\.\d+)?"
    r"(?: ?%| (?:per cent|points|s|ms|ns|seconds|minutes|times|KB|MB|GB)\b)"
    r"|(?<![\w.,/-])\d[\d,]*\.\d+(?![\w.]*\w)"
)
#: What is not prose: generated blocks, code, comments, addresses of links.
_APART = re.compile(
    r"<!-- (?P<name>[\w-]+): begin -->.*?<!-- (?P=name): end -->"
    r"|^ *```.*?^ *```|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)",
    re.S | re.M,
)
_MARKER = re.compile(r"<!-- ([\w-]+): begin -->")


@dataclass(frozen=True)
class Claim:
    """Figures in a sentence.

    Attributes
    ----------
    page
        Path from the root of the repository.
    text
        The sentence, with ``{}`` for each figure.
    values
        What the figures are.
    """

    page: str
    text: str
    values: tuple[Value, ...]

    def pattern(self) -> re.Pattern[str]:
        """Return what finds the sentence; each figure is a group."""
        parts = [re.escape(part) for part in self.text.split("{}")]
        joined = f"({_NUMBER})".join(parts)
        return re.compile(r"\s+".join(re.split(r"(?:\\ |\s)+", joined)))


def with_blocks(page: str, text: str, blocks: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return a page with its blocks written anew, and what differed."""
    wrong = []
    for name, body in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        old, closed, after = rest.partition(end)
        if not found or not closed:
            wrong.append(f"{page}: no {begin} ... {end}; put both where the block belongs")
            continue
        new = f"\n{body}\n"
        if old != new:
            wrong.append(f"{page}: block {name} is not what the results say{_first(old, new)}")
        text = f"{before}{begin}{new}{end}{after}"
    return text, wrong


def _first(old: str, new: str) -> str:
    """Name the first line that differs."""
    for ours, theirs in zip(old.splitlines(), new.splitlines(), strict=False):
        if ours != theirs:
            return f": {ours!r} should be {theirs!r}"
    return ": lines are missing or too many"


def with_claims(text: str, claims: Iterable[Claim], kept: Kept) -> tuple[str, list[str]]:
    """Return a page with the figures of its claims written anew, and what differed."""
    wrong = []
    for claim in claims:
        found = list(claim.pattern().finditer(text))
        if len(found) != 1:
            wrong.append(f"{claim.page}: {len(found)} times, not once: {claim.text!r}")
            continue
        values = [value(kept) for value in claim.values]
        if list(found[0].groups()) != values:
            was = " ".join(found[0][0].split())
            wrong.append(f"{claim.page}: {was!r} should say {', '.join(values)}")
        for number in reversed(range(len(values))):
            start, end = found[0].span(number + 1)
            text = text[:start] + values[number] + text[end:]
    return text, wrong


def without_source(
    page: str, text: str, claims: Iterable[Claim], given: Iterable[str]
) -> list[str]:
    """Name figures that no block and no claim has, and that are in none of the `given` sentences.

    Sentences of `given` state no measurement: definitions, examples, values of other authors.
    """
    taken = [match.span() for match in _APART.finditer(text)]
    taken += [match.span() for claim in claims for match in claim.pattern().finditer(text)]
    wrong = []
    for sentence in given:
        found = list(Claim(page, sentence, ()).pattern().finditer(text))
        if not found:
            wrong.append(f"{page}: no longer there, so take it from GIVEN: {sentence!r}")
        taken += [match.span() for match in found]
    for match in _MEASURED.finditer(text):
        if not any(start <= match.start() and match.end() <= end for start, end in taken):
            line = text[: match.start()].count("\n") + 1
            around = " ".join(text[max(0, match.start() - 50) : match.end() + 20].split())
            wrong.append(f"{page}:{line}: no result is named for {match[0]!r} in '{around}'")
    return wrong


def strangers(page: str, text: str, known: Iterable[str]) -> list[str]:
    """Name markers of blocks that nobody writes."""
    unknown = set(_MARKER.findall(text)) - set(known)
    return [f"{page}: nothing writes the block {name}" for name in sorted(unknown)]
