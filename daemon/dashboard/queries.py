"""Checked values of a request's query; a refusal names the value and the expected ones."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from daemon.dashboard.pages.price import NotThere
from daemon.journal.rows import JournalError
from daemon.journal.trades import RESULTS, SIDES, SORTS, Wanted, day_begin, day_end
from daemon.library.library import LibraryError

DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
Query = Mapping[str, str]


class RefusedRequest(Exception):
    """The request is refused with this HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def guard_answer(answer: Callable[[], Any]) -> Any:
    """Run `answer`; turn the errors of a journal, and of the library, into refusals. Raises RefusedRequest."""
    try:
        return answer()
    except NotThere as error:
        raise RefusedRequest(404, str(error)) from error
    except LibraryError as error:
        raise RefusedRequest(400, str(error)) from error
    except (JournalError, sqlite3.Error, OSError) as error:
        why = str(error) if isinstance(error, JournalError) else type(error).__name__
        raise RefusedRequest(503, f"the journal cannot be read at the moment: {why}") from error


def whole(query: Query, name: str, default: int, most: int) -> int:
    """Read a whole number of the query, 0 to `most`. Raises RefusedRequest."""
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 15) or int(text) > most:
        raise RefusedRequest(400, f"{name} is {text[:40]!r}, expected a whole number from 0 to {most}")
    return int(text)


def step_in(query: Query, name: str, lengths: Iterable[int]) -> int | None:
    """Read a bucket's length in seconds: 0 for the bars themselves, None if not given. Raises RefusedRequest."""
    if not query.get(name, ""):
        return None
    step_s = whole(query, name, 0, 2**31)
    if step_s and step_s not in lengths:
        raise RefusedRequest(400, f"{name} is {step_s}, expected one of 0, {', '.join(map(str, lengths))}")
    return step_s


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


def end_of(query: Query, name: str) -> int:
    """Read a date of the query; return the end of that day in New York, nanoseconds UTC. Raises RefusedRequest."""
    return day_end(date_of(query, name))


def wanted_trades(query: Query, most: int) -> Wanted:
    """Read the filters of trades, with `most` trades a page at most. Raises RefusedRequest."""
    result = one_of(query, "result", (*RESULTS, "open"))
    return Wanted(
        symbol=query.get("symbol", "")[:40].upper(),
        start_ns=day_begin(date_of(query, "from")),
        end_ns=end_of(query, "to"),
        side=one_of(query, "side", SIDES),
        result="" if result == "open" else result,
        open_only=result == "open",
        sort=one_of(query, "sort", tuple(SORTS), "time"),
        limit=whole(query, "limit", 50, most) or most,
        offset=whole(query, "offset", 0, 2**48),
    )
