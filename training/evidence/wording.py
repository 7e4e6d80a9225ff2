"""Figures as words of a report: percentages, numbers, counts, lists. Formats numbers; decides nothing.

An unknown value is a dash, zero has no sign, and plurals are correct.
"""

from __future__ import annotations

from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
UNKNOWN = "–"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction with its sign as a percentage; a dash when unknown."""
    return UNKNOWN if value is None else _signless_nothing(f"{value:+.{digits}%}".replace("%", " %"))


def share(value: float | None) -> str:
    """A share between 0 and 1 as a percentage without sign."""
    return UNKNOWN if value is None else f"{value:.1%}".replace("%", " %")


def number(value: float | None, digits: int = 2) -> str:
    """A plain number; a dash when unknown."""
    return UNKNOWN if value is None else _signless_nothing(f"{value:,.{digits}f}")


def counted(count: int, what: str) -> str:
    """`1 fold`, `3 folds`, `1,000 trades`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def sessions_are(count: int) -> str:
    """`1 session is`, `20 sessions are`: the start of a caution."""
    return f"{counted(count, 'session')} {'is' if count == 1 else 'are'}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """The rows of a table as lines of text, all columns flush left or flush `right`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    side = str.rjust if right else str.ljust
    return ["  ".join(map(side, row, widths)).rstrip() for row in rows]


def _signless_nothing(text: str) -> str:
    return text.replace("-", MINUS) if any(digit in text for digit in "123456789") else text.lstrip("+-")
