"""Heads of the journal's chain that were published where its writer cannot reach, compared with the journal as it is.

A head stands in the daemon's log (`chain_head`), in the day's report (`chain`), or as `ROW:HEAD`. Whoever can write the
file can forge a whole journal whose hashes agree; its head at a row that was published before is another one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from daemon.shell.journal import JournalError, JournalReader, base_of, reading

_PATTERNS = (
    re.compile(r'"row":\s*(?P<row>\d+),\s*"head":\s*"(?P<head>[0-9a-f]{64})"'),
    re.compile(r'"head":\s*"(?P<head>[0-9a-f]{64})",\s*"row":\s*(?P<row>\d+)'),
    re.compile(r"\brow=(?P<row>\d+)\b.*?\bhead=(?P<head>[0-9a-f]{64})\b"),
    re.compile(r"\bhead=(?P<head>[0-9a-f]{64})\b.*?\brow=(?P<row>\d+)\b"),
    re.compile(r"\b(?P<row>\d+):(?P<head>[0-9a-f]{64})\b"),
)


class Compared(NamedTuple):
    """How many published heads the journal has, how many lie before this file, and the first that it has not."""

    agree: int
    before: int
    difference: str


def heads_in(text: str) -> list[tuple[int, str]]:
    """(event row, head) of every head in a log, a report or a list, in their order."""
    found = [(match.start(), match) for pattern in _PATTERNS for match in pattern.finditer(text)]
    return [(int(match["row"]), match["head"]) for _, match in sorted(found, key=lambda place: place[0])]


def compare(journal: Path, told: str) -> Compared:
    """Compare the journal with `ROW:HEAD`, or with every head in the file `told`.

    Raises JournalError for a file without a head, or that cannot be read.
    """
    heads = heads_in(told)
    if not heads:
        try:
            heads = heads_in(Path(told).read_text(errors="replace"))
        except OSError as error:
            raise JournalError(f"{told}: no ROW:HEAD, and no file to read: {error.strerror}") from error
    if not heads:
        raise JournalError(f"{told}: no head stands there; expected the log's chain_head, a day's report, or ROW:HEAD")
    reader = JournalReader(journal)
    try:
        with reading(journal):
            return _compared(reader, heads)
    finally:
        reader.close()


def _compared(reader: JournalReader, heads: list[tuple[int, str]]) -> Compared:
    base, last = base_of(reader.meta()), reader.last_entry()
    first, end = base.row if base is not None else 0, last.id if last is not None else 0
    agree = before = 0
    for row, head in heads:
        if row < first:
            before += 1
        elif row > end:
            return Compared(agree, before, f"row {row} was published, and the journal ends at row {end}")
        elif reader.chain_head(row).hex() != head:
            return Compared(agree, before, f"at row {row} the head {head} was published, the journal has another")
        else:
            agree += 1
    return Compared(agree, before, "")
