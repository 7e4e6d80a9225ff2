"""Connection of this program to one desk on this host: signed commands to it, and its journal, which is only read."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path

from daemon.core.session import new_york_text
from daemon.engine.state_dir import locked_by, standing
from daemon.host.own_files import StateDirError
from daemon.host.printable import printable
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError
from daemon.journal.trade import Trade
from daemon.journal.trades import TradeList, Wanted, day_begin, read_trades, realised_usd
from daemon.notify.phone import ALL, TODAY, DeskAway, DeskStopped
from daemon.operator.commands import CLOSE
from daemon.operator.control.client import CommandAnswer, ControlError, ask, leave
from daemon.operator.remote_commands import WAIT_MOST_NS
from daemon.operator.signing import Key, SignedCommand, sign_command
from daemon.operator.status import DeskStatus, holdings_in_words, trading_in_words
from daemon.reports.words import plural
from strategies.kit.units import HOUR_NS, SECOND_NS

LIFETIME_NS = 30 * SECOND_NS
POSITIONS_MOST = 20
NOT_KNOWN = "Whether it was carried out is not known: look at /status."


class LocalDesk:
    """A desk: its name, its state directory, and the key that signs commands for it; `bot` names the asking bot.

    `now_ns` is this host's time, by which the desk judges commands.
    """

    def __init__(
        self,
        name: str,
        state_dir: Path,
        key_name: str,
        key: Key,
        bot: int,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self._state_dir, self._key_name, self._key, self._bot = state_dir, key_name, key, bot
        self._now_ns = now_ns

    def status(self) -> DeskStatus:
        """Ask the desk for its status. Raises DeskAway."""
        answer = self._ask("status", "asked from the phone", secrets.token_bytes(16))
        if answer.status is None:
            raise DeskAway(f"{self.name}: {printable(answer.error, 300)}")
        return answer.status

    def act(self, command: str, reason: str, wish: str, *, at_start: bool) -> str:
        """Have the command carried out, or left for the next start; returns the result in words. Raises DeskAway."""
        nonce = sha256(f"{self._bot}:{wish}:{self.name}".encode()).digest()[:16]
        try:
            answer = self._ask(command, reason, nonce)
        except DeskStopped:
            if at_start:
                return self._leave(command, reason, nonce)
            raise DeskAway(f"{self.name}: its daemon does not run any more. {NOT_KNOWN}") from None
        except DeskAway as problem:
            raise DeskAway(f"{problem} {NOT_KNOWN}") from None
        if not answer.ok:
            raise DeskAway(f"{self.name} refuses /{command}: {printable(answer.error, 600)}")
        if answer.refused:
            return f"{self.name}: this does nothing: {printable(answer.refused, 600)}"
        return f"{self.name}: done (event {answer.seq:,}). {_stands(answer, command)}"

    def _leave(self, command: str, reason: str, nonce: bytes) -> str:
        """Leave the command for the next start. Raises DeskAway."""
        waiting = self._sign(command, reason, nonce, WAIT_MOST_NS)
        try:
            leave(self._state_dir, waiting)
        except ControlError as error:
            raise DeskAway(f"{self.name}: {printable(str(error), 400)}") from None
        hours = WAIT_MOST_NS // HOUR_NS
        return f"{self.name}: left for its next start within {hours} h: {command}. Nothing is done before that."

    def _sign(self, command: str, reason: str, nonce: bytes, lifetime_ns: int) -> SignedCommand:
        return sign_command(self._key, self._key_name, self.name, command, reason, self._now_ns(), lifetime_ns, nonce)

    def _ask(self, command: str, reason: str, nonce: bytes) -> CommandAnswer:
        try:
            return ask(self._state_dir, self._sign(command, reason, nonce, LIFETIME_NS))
        except ControlError as error:
            if self._stopped():
                raise DeskStopped(f"{self.name} gave no answer: its daemon does not run.") from None
            raise DeskAway(f"{self.name} gave no answer: {printable(str(error), 400)}") from None

    def _stopped(self) -> bool:
        """Return whether the desk exists and no daemon runs it."""
        try:
            return standing(self._state_dir).exists() and not locked_by(self._state_dir)
        except (StateDirError, OSError):
            return False

    # --- the journal --------------------------------------------------------------------------------------------------

    def profit(self, span: str) -> str:
        """Return the profit realised in the span and the open positions, in words. Raises DeskAway."""
        now_ns, days, open_trades, realised_usd = self._read(span)
        totals, open_now = days.totals, open_trades.totals
        last_date = new_york_text(now_ns)[:10]
        texts = {ALL: "all of its journal", TODAY: last_date}
        span_text = texts.get(span, f"{_monday(last_date)} to {last_date}")
        lines = [f"{self.name}, {span_text}: {realised_usd:+,.2f} USD realised"]
        if totals.trades:
            lines[0] += f"; {plural(totals.trades, 'trade')} closed, {totals.wins} won"
        if open_now.open:
            worth = "no mark is known" if open_now.open_usd is None else f"{open_now.open_usd:+,.2f} USD now"
            lines.append(f"{open_now.open} open: {worth}")
        else:
            lines.append("Nothing is open.")
        return "\n".join(lines)

    def positions(self) -> str:
        """Return the positions and their current value, in words. Raises DeskAway."""
        now_ns, _, open_trades, _ = self._read(ALL)
        lines = [_position(trade) for trade in open_trades.trades[:POSITIONS_MOST]]
        more = len(open_trades.trades) - POSITIONS_MOST
        lines += [f"{more} more"] * (more > 0)
        lines_text = "\n".join(lines) or "Nothing is held."
        return f"{self.name} at {new_york_text(now_ns)[:16]} New York:\n{lines_text}"

    def _read(self, span: str) -> tuple[int, TradeList, TradeList, float]:
        """Return the newest event's time, the trades closed in the span, the open ones, and the profit realised."""
        journal = self._state_dir / FILE
        try:
            with reading(journal), closing(JournalReader(journal)) as reader:
                newest = reader.last_entry()
                now_ns = newest.time_ns if newest is not None else 0
                today = new_york_text(now_ns)[:10]
                since_ns = 0 if span == ALL else day_begin(today if span == TODAY else _monday(today))
                closed_trades = read_trades(reader, Wanted(start_ns=since_ns, limit=1))
                open_trades = read_trades(reader, Wanted(open_only=True))
                return now_ns, closed_trades, open_trades, realised_usd(reader, since_ns)
        except (JournalError, OSError) as error:
            raise DeskAway(f"{self.name}: its journal cannot be read: {printable(str(error), 300)}") from None


def _stands(answer: CommandAnswer, command: str) -> str:
    """Return the state of the desk after a command, in words."""
    status = answer.status
    if status is None:
        return ""
    trading, may = trading_in_words(status)
    state = "It trades" if may else trading.partition(":")[0].capitalize()
    order_count = answer.effects.count("SubmitOrder")
    sells = command.partition(" ")[0] in (CLOSE, "flatten") and bool(status.positions)
    orders = f", {plural(order_count, 'order')} sent" if order_count else ", the sale follows" if sells else ""
    return f"{state}{orders}; holds {holdings_in_words(status) or 'nothing'}."


def _position(trade: Trade) -> str:
    name = trade.contract or trade.symbol
    if trade.pnl_usd is None:
        return f"{trade.held} {name}: no mark is known"
    share = f" ({trade.pnl_pct:+.2f} %)" if trade.pnl_pct is not None else ""
    return f"{trade.held} {name}: {trade.pnl_usd:+,.2f} USD{share}"


def _monday(day: str) -> str:
    date_given = date.fromisoformat(day)
    return (date_given - timedelta(days=date_given.weekday())).isoformat()
