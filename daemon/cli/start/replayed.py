"""What a replay came to, as a table on a terminal or a line of JSON in a file or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape

from daemon.cli.start.what_next import REPLAYED, what_next
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.summary import Summary, show
from daemon.reports.performance.read import read_performance
from daemon.reports.performance.words import result_words
from daemon.reports.trade_tables import unrealised


class Outcome(NamedTuple):
    """What the account came to, and the profit of what is still held, None for nothing."""

    words: str = ""
    open_usd: float | None = None


def outcome_of(summary: Summary, state_dir: Path) -> Outcome:
    """Read it from the journal, for a terminal alone: a pipe gets the summary. Raises JournalError, sqlite3.Error."""
    if not Console().is_terminal:
        return Outcome()
    with closing(JournalReader(state_dir / FILE)) as reader:
        found = read_performance(reader).figures
    if not found.sessions:
        return Outcome()
    return Outcome(
        result_words(found), unrealised(found.pnl_usd, summary.realized_pnl_usd) if found.trades.open else None
    )


def print_summary(summary: Summary, curve: Sequence[Decimal], outcome: Outcome, state_dir: Path) -> None:
    """Print the table on a terminal, the line of JSON into a file or a pipe."""
    screen = Console()
    if screen.is_terminal:
        show(screen, summary, curve, *outcome)
        screen.print(escape(what_next(REPLAYED, state_dir)), end="", highlight=False, soft_wrap=True)
        return
    try:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader is gone; the journal has it all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
