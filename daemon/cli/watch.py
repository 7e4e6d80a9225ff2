"""`rltraderctl status`: one desk as a table, once or live. It reads the journal alone, beside a running daemon too.

A live table steps what was added to the journal since the last look; without a terminal each change is a line of JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from daemon.app import desks
from daemon.app.desks import ROOT
from daemon.cli.explain import NotFound
from daemon.config.limits_shown import by_origin, journaled_origins, limits_of
from daemon.core.limits import Limit, Trading
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.engine.follow import Follower
from daemon.engine.recover import recovered_desk
from daemon.engine.state_dir import locked_by
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.operator.status import differences_of, status_of, unreadable_desk, way_out

EVERY_S = 1.0
EVERY_LEAST_S = 0.1


def add_to(commands: Any) -> None:
    """Add `status` to rltraderctl's command line: `commands` is what `add_subparsers` returned."""
    text = "what the desk is, holds and has earned; without --state-dir all desks"
    made = commands.add_parser("status", help=text, description=text)
    made.add_argument("--state-dir", type=Path, metavar="DIR", help="folder of the journal")
    made.add_argument("--desks", type=Path, default=ROOT, metavar="DIR", help=f"parent of state dirs (default {ROOT})")
    made.add_argument("--json", action="store_true", help="one JSON object a desk")
    made.add_argument("--watch", action="store_true", help="follow one desk until Ctrl-C")
    made.add_argument(
        "--every", type=_seconds, default=EVERY_S, metavar="S", help=f"seconds between two looks (default {EVERY_S:g})"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not EVERY_LEAST_S <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected {EVERY_LEAST_S:g} to 3600 seconds")
    return seconds


def run(options: argparse.Namespace, console: Console) -> int:
    """Show one desk, all desks, or follow one. Raises NotFound, StateDirError, JournalError."""
    path: Path | None = options.state_dir
    if options.watch:
        if path is None:
            raise NotFound("--watch follows one desk: name it with --state-dir")
        return watch(path, console, options.every, as_json=options.json or not console.is_terminal)
    if path is None:
        return desks.show(options.desks, console, as_json=options.json)
    if options.json:
        return desks.show_one(path)
    reader = JournalReader(path / FILE)
    found = recovered_desk(reader)
    state = found.machine.state
    console.print(table(reader.meta(), state, locked_by(path), _limits(path, state)))
    if (took := found.handover) is not None and not locked_by(path):
        reason = "journal_damaged" if took.damaged else "code_changed"
        console.print(f"it did not stop cleanly: its next start is halted ({reason}): {took.detail}")
    return 0


# --- live ---------------------------------------------------------------------------------------------------------


def watch(path: Path, console: Console, every_s: float, *, as_json: bool) -> int:
    """Follow the desk in `path` until Ctrl-C; returns 0. Raises JournalError where there is no journal at first."""
    JournalReader(path / FILE).close()
    follower = Follower(path)
    try:
        if as_json:
            _lines(follower, every_s)
        else:
            _live(follower, console, every_s)
    except KeyboardInterrupt:
        pass
    finally:
        follower.close()
    return 0


def _look(follower: Follower) -> None:
    """Step all that was added."""
    follower.advance()
    while not (follower.caught_up or follower.problem):
        follower.advance()


def _lines(follower: Follower, every_s: float) -> None:
    """One line of JSON for each change: the desk's status, or why it cannot be followed."""
    said, rules = b"", _InForce(follower)
    while True:
        _look(follower)
        told = _status_line(follower, rules.limits())
        if told != said:
            sys.stdout.write(told.decode() + "\n")
            sys.stdout.flush()
            said = told
        time.sleep(every_s)


def _status_line(follower: Follower, limits: Sequence[Limit]) -> bytes:
    state = follower.state
    if state is None or follower.problem:
        return msgspec.json.encode(unreadable_desk(str(follower.path.parent), follower.problem))
    path = follower.path.parent
    status = status_of(state, follower.meta.get("desk", ""))
    return msgspec.json.encode(replace(status, state_dir=str(path), process=locked_by(path), limits=tuple(limits)))


def _live(follower: Follower, console: Console, every_s: float) -> None:
    rules = _InForce(follower)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            _look(follower)
            live.update(live_table(follower, rules.limits()), refresh=True)
            time.sleep(every_s)


class _InForce:
    """The limits in force of a desk that is followed. They are read again when a start journaled others."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._rules: Trading | None = None
        self._limits: tuple[Limit, ...] = ()

    def limits(self) -> tuple[Limit, ...]:
        """Those of the newest start that was read."""
        state = self._follower.state
        if state is not None and not self._follower.problem and state.trading is not self._rules:
            self._limits = _limits(self._follower.path.parent, state)
            self._rules = state.trading
        return self._limits


def _limits(path: Path, state: State[Any]) -> tuple[Limit, ...]:
    """The limits in force, with the sources that the newest start in this folder journaled."""
    with closing(JournalReader(path / FILE)) as reader:
        return limits_of(state.identity.strategy, state.trading, journaled_origins(reader))


def live_table(follower: Follower, limits: Sequence[Limit] = ()) -> Table:
    """What is known of the desk, and why it may be old."""
    state = follower.state
    if state is None:
        shown = Table(show_header=False)
        shown.add_row(Text(follower.problem, "red"))
        return shown
    shown = table(follower.meta, state, locked_by(follower.path.parent), limits)
    if follower.problem:
        shown.add_row("old", Text(follower.problem, "red"))
    return shown


# --- the table ----------------------------------------------------------------------------------------------------


def table(meta: dict[str, str], state: State[Any], holder: str, limits: Sequence[Limit] = ()) -> Table:
    """A desk as its journal says; `holder` is the process that runs on it, "" for none."""
    shown = Table(show_header=False, title=f"{meta.get('desk', '')} · {meta['strategy']}", title_justify="left")
    shown.add_column(style="cyan")
    shown.add_column()
    shown.add_row("daemon", f"runs as process {holder}" if holder else "not running")
    tape = f", tape {meta['tape']}" + (" (synthetic)" if meta.get("synthetic") else "") if meta.get("tape") else ""
    shown.add_row("mode", f"{meta['mode']}, account {meta['account']}{tape}")
    shown.add_row("last event", f"{state.seq:,} at {new_york_text(state.now_ns)}" if state.seq else "none")
    _trading_rows(shown, state)
    _money_rows(shown, state)
    stats = state.stats
    shown.add_row("bars", f"{stats.bars:,} ({stats.bars_rejected:,} rejected)")
    shown.add_row("decisions", f"{stats.decisions:,}")
    shown.add_row("orders, fills", f"{stats.orders:,}, {stats.fills:,} ({stats.partial_fills:,} partial)")
    shown.add_row("trades", f"{stats.trades:,}, {stats.wins:,} won")
    denials = ", ".join(f"{gate} {count:,}" for gate, count in sorted(stats.denials.items(), key=lambda d: -d[1]))
    shown.add_row("denials", denials or "none")
    for origin, text in by_origin(limits):
        shown.add_row("limits", f"from {origin}: {text}")
    return shown


def _trading_rows(shown: Table, state: State[Any]) -> None:
    """Whether it may trade, and with which model."""
    halt, pause, model = state.risk.halt, state.risk.pause, state.model
    shown.add_row(
        "halt",
        Text.assemble((halt.reason, "red"), f": {halt.detail}, since {new_york_text(halt.since_ns)}") if halt else "no",
    )
    if pause is not None and (not pause.until_ns or state.now_ns < pause.until_ns):
        shown.add_row("pause", pause.reason + (f", until {new_york_text(pause.until_ns)}" if pause.until_ns else ""))
    differences, then = differences_of(state), way_out(state)
    shown.add_row("reconciled", "yes" if state.risk.reconciled else f"no: {differences}" if differences else "no")
    if then:
        shown.add_row("way out", then)
    shown.add_row("model", model.version + ("" if model.promoted else " (not promoted)") if model else "none")


def _money_rows(shown: Table, state: State[Any]) -> None:
    """What it has, holds, and has sent."""
    book = state.book
    shown.add_row(
        "equity",
        f"{book.equity:,.2f} USD, cash {book.cash:,.2f}, realised {book.realized:+,.2f}, fees {book.fees:,.2f}",
    )
    for position in sorted(book.positions.values(), key=lambda held: held.symbol):
        average, mark = position.cost / position.quantity, state.marks.get(position.symbol)
        now = "" if mark is None else f", now {mark:.4f}"
        shown.add_row(
            "position",
            f"{position.quantity} {position.symbol} at {average:.4f}{now}, since {new_york_text(position.opened_ns)}",
        )
    if state.basket.date:
        given_up = ", ".join(f"{shares:+,} {symbol}" for symbol, shares in state.basket.given_up.items())
        shown.add_row("last basket", f"due {state.basket.date}, given up: {given_up or 'nothing'}")
    for order in state.orders.values():
        if order.working:
            limit = "market" if order.limit_price is None else order.limit_price
            shown.add_row(
                "order",
                f"{order.client_order_id}: {order.side:+d} x {order.quantity} {order.symbol} at {limit}, "
                f"{order.status}",
            )
