"""Run a replay as a process: progress bar, log, summary, exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.app.replay import run_replay
from daemon.app.replay_start import prepare_replay
from daemon.cli.start.exits import REPLAYED, TROUBLE, exit_code, what_next
from daemon.config.load import DeskSettings
from daemon.core.state import State
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.log import Log
from daemon.operator.summary import Summary, show
from daemon.reports.performance.read import read_performance
from daemon.reports.performance.words import result_words
from daemon.reports.tables import unrealised_rest
from daemon.tapes.span_options import QuoteChoice
from strategies.kit.quantity import to_json


class FinalResult(NamedTuple):
    """The account's result as a text, and the profit of open positions in USD, None without one."""

    words: str = ""
    open_usd: float | None = None


def outcome_of(summary: Summary, state_dir: Path) -> FinalResult:
    """Read the result from the journal; only a terminal shows it. Raises JournalError, sqlite3.Error."""
    if not Console().is_terminal:
        return FinalResult()
    with closing(JournalReader(state_dir / FILE)) as reader:
        figures = read_performance(reader).figures
    if not figures.sessions:
        return FinalResult()
    return FinalResult(
        result_words(figures),
        unrealised_rest(figures.pnl_usd, summary.realized_pnl_usd) if figures.trades.open else None,
    )


def print_summary(summary: Summary, curve: Sequence[Decimal], outcome: FinalResult, state_dir: Path) -> None:
    """Print the table on a terminal, the line of JSON into a file or a pipe."""
    screen = Console()
    if screen.is_terminal:
        show(screen, summary, curve, *outcome)
        screen.print(escape(what_next(REPLAYED, state_dir)), end="", highlight=False, soft_wrap=True)
        return
    try:
        sys.stdout.write(msgspec.json.encode(summary, enc_hook=to_json).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe; the journal has everything
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


TRADES_MOST = 100  # most lines of closed trades and baskets on a terminal; `rltraderctl trades` has all
TRADED = ("trade_closed", "basket_traded")


def run(settings: DeskSettings, tape: Path, speed: float | None, chosen: QuoteChoice | None = None) -> int:
    """Run the tape and print the summary; returns the exit code."""
    screen = Console(stderr=True)
    with _progress(screen) as bar:  # the log starts inside, so that its lines stay above the progress bar
        if screen.is_terminal:
            hidden = frozenset(("replay_remark",)) if Console().is_terminal else frozenset[str]()  # is in the table
            log = Log(_quieter(settings.log.level), settings.log.format, also=first_trades(screen), quiet_events=hidden)
        else:
            log = Log(settings.log.level, settings.log.format)
        results: list[tuple[Summary, list[Decimal], FinalResult]] = []

        def work() -> int:
            replay = prepare_replay(settings, tape, chosen)
            task = bar.add_task(escape(replay.tape.name), total=replay.bars, equity="")

            def draw(state: State[object]) -> None:
                bar.update(
                    task, completed=state.stats.bars + state.stats.bars_rejected, equity=f"{state.book.equity:,.2f} USD"
                )

            summary, curve = uvloop.run(run_replay(replay, log, speed, draw if screen.is_terminal else None))
            bar.refresh()  # a short run ends before the bar's own thread draws it
            bar.remove_task(task)
            if not summary.bars + summary.bars_rejected:
                log("no_bars", tape=summary.tape, cure="pass bars labelled by their start, with the right zone")
            results.append((summary, curve, outcome_of(summary, settings.paths.state_dir)))
            return TROUBLE if summary.stopped_by == "disk_full" else 0

        code = exit_code(log, work)
    for summary, curve, outcome in results:
        print_summary(summary, curve, outcome, settings.paths.state_dir)
    return code


def first_trades(screen: Console) -> Callable[[str], bool]:
    """Return a filter that passes the first closed trades and baskets, to print above the progress bar.

    At the next one it says on the screen that no other follows.
    """
    numbers = count()

    def passes(name: str) -> bool:
        if name not in TRADED:
            return False
        number = next(numbers)
        if number == TRADES_MOST:
            text = f"… the first {TRADES_MOST} trades and baskets are shown here; the journal has all"
            screen.print(text, soft_wrap=True)
        return number < TRADES_MOST

    return passes


def _quieter(level: str) -> str:
    """Return the log level for a terminal with a progress bar: warnings, or debug on request."""
    return level if level == "debug" else max(level, "warning", key=("info", "warning", "error").index)


def _progress(screen: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("bars"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[equity]}"),
    )
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
