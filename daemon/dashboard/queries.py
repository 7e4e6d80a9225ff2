"""The values of a request's query, each checked; a refusal names what was found and what is expected."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from daemon.dashboard.pages.price import NotThere
from daemon.journal.rows import JournalError

DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
Query = Mapping[str, str]


class RefusedRequest(Exception):
    """The request is answered by this HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def guarded(answer: Callable[[], Any]) -> Any:
    """Run `answer`; turn the errors of a journal into refusals. Raises RefusedRequest."""
    try:
        return answer()
    except NotThere as error:
        raise RefusedRequest(404, str(error)) from error
    except (JournalError, sqlite3.Error, OSError) as error:
        raise RefusedRequest(503, f"the journal cannot be read at the moment: {type(error).__name__}") from error


def whole(query: Query, name: str, default: int, most: int) -> int:
    """Read a whole number of the query, 0 to `most`. Raises RefusedRequest."""
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 15) or int(text) > most:
        raise RefusedRequest(400, f"{name} is {text[:40]!r}, expected a whole number from 0 to {most}")
    return int(text)


def one_of(query: Query, name: str, choices: Sequence[str], default: str = "") -> str:
    """Read a name of the query, one of `choices`. Raises RefusedRequest."""
    text = query.get(name, "") or default
    if text and text not in choices:
        raise RefusedRequest(400, f"{name} is {text[:40]!r}, expected one of {', '.join(choices)}")
    return text


def date_of(query: Query, name: str) -> str:
    text = query.get(name, "")
    try:
        return text and date.fromisoformat(text if DATE.fullmatch(text) else "").isoformat()
    except ValueError:
        raise RefusedRequest(400, f"{name} is {text[:40]!r}, expected a date as 2024-08-05") from None
