"""The recording of option quotes by the minute, from the stream that a running desk uses anyway.

It records what the desk streams, and more contracts near the money as far as the stream has room. It never disturbs the
desk, whose contracts come first: a flood of quotes or a refusal halves its share, an error of its own ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from daemon.brokers.alpaca.market.socket import QUOTES, MarketSocket, State, instant_ns
from daemon.brokers.api import EventLogger
from daemon.config.checks import quotes_made_up_by
from daemon.config.load import DeskSettings
from daemon.config.tables import RecordTable
from daemon.core.events import Contract
from daemon.host.time.clock import Clock
from daemon.tapes.quotes.minute_book import MinuteBook, StreamQuote
from daemon.tapes.quotes.recording import MinuteRows, Recording
from strategies.kit.contract import Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

GRACE_NS = 5 * SECOND_NS  # after a minute's end: its last quotes and the underlying's bar come within two seconds
RESERVE = 40  # symbols of the stream kept free for the desk's next contracts
MESSAGES_MOST = 240_000  # messages a minute of contracts that the desk does not need; beyond that fewer are recorded
STAY = 2  # strikes that a recorded contract may be further away than a new one
STOP_S = 2.0  # wait for data on its way to the disk
P = ParamSpec("P")


def _contain(
    method: Callable[Concatenate[OptionRecorder, P], None],
) -> Callable[Concatenate[OptionRecorder, P], None]:
    """Return the method so that an error ends the recording and goes no further."""

    @wraps(method)
    def wrapper(self: OptionRecorder, /, *args: P.args, **fields: P.kwargs) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **fields)
        except Exception as error:
            self.fail(error)

    return wrapper


class OptionRecorder:
    """Records while `run` runs. No method raises or waits; after an error of its own it records nothing more."""

    def __init__(self, rule: RecordTable, recording: Recording, clock: Clock, log: EventLogger) -> None:
        self._rule, self._recording, self._clock, self._log = rule, recording, clock, log
        self._book = MinuteBook(clock.now_ns())
        self._socket: MarketSocket | None = None
        self._last_bar: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        self._session: Session | None = None
        self._next_ns = 0  # end of the minute that is recorded next
        self._contracts: tuple[Contract, ...] = ()
        self._desks: frozenset[str] = frozenset()  # symbols that the desk streams
        self._spare: frozenset[str] = frozenset()  # those that only the recording streams
        self._room = rule.symbols_max - RESERVE
        self._messages = 0  # of spare symbols in this minute
        self._last_report = ""
        self.failed = False

    def fail(self, error: Exception) -> None:
        """End the recording, and leave the stream to the desk."""
        self.failed = True
        self._log("recording_stopped", reason=f"{type(error).__name__}: {error}")
        if self._socket is not None:
            self._socket.spare(QUOTES, ())

    def attach(self, socket: MarketSocket, last_bar: Callable[[], tuple[int, float]]) -> None:
        """Use this stream; `last_bar` returns start and close of the underlying's newest minute."""
        self._socket, self._last_bar = socket, last_bar

    @_contain
    def streamed(self, symbols: frozenset[str]) -> None:
        """Note what the desk streams."""
        self._desks = symbols
        if self._spare & symbols:
            self._stream(self._spare)
        else:
            self._book.keep_only(self._spare | symbols)

    @_contain
    def begin(self, session: Session) -> None:
        """Record this session from now on; without contracts until `listed`."""
        now_ns = self._clock.now_ns()
        self._session, self._contracts = session, ()
        self._next_ns = max(session.open_ns, now_ns // MINUTE_NS * MINUTE_NS) + MINUTE_NS
        self._room = self._rule.symbols_max - RESERVE
        self._book.interrupt()
        self._recording.begin(session.date)
        self._stream(frozenset())

    @_contain
    def listed(self, contracts: tuple[Contract, ...]) -> None:
        """Choose contracts from this listing."""
        self._contracts = contracts
        self._choose()
        if contracts:
            self._log("recording_started", contracts=len(self._spare | self._desks), room=self._room)

    @_contain
    def take(self, symbol: str, message: dict[str, Any]) -> None:
        """Take a quote of the stream."""
        if symbol not in self._desks:
            if symbol not in self._spare:
                return  # buffered from before an unsubscribe
            self._messages += 1
            if self._messages > MESSAGES_MOST:
                self._narrow(f"more than {MESSAGES_MOST} quotes in a minute")
                return
        try:
            sizes = _size(message.get("bs")), _size(message.get("as"))
            quote = StreamQuote(float(message["bp"]), float(message["ap"]), *sizes, instant_ns(message["t"]))
            self._book.add(symbol, quote)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            self._book.counts["unreadable"] += 1

    @_contain
    def on_state(self, state: State) -> None:
        """Note a lost connection: quotes may be missing."""
        if state == "down":
            self._book.interrupt()

    @_contain
    def end(self, session: Session) -> None:
        """Record the session's last minutes and make its file."""
        if self._session is not None and session.date == self._session.date:
            self._close_due(session.close_ns)
            self._session, self._contracts = None, ()
            self._stream(frozenset())
            self._recording.finish(session.date)

    async def run(self) -> None:
        """Record each minute until cancelled."""
        self._recording.start()
        try:
            while True:
                now_ns = self._clock.now_ns()
                await self._clock.sleep_until(now_ns + MINUTE_NS - (now_ns - GRACE_NS) % MINUTE_NS)
                self._each_minute()
        finally:
            await asyncio.to_thread(self._recording.stop, STOP_S)

    @_contain
    def _each_minute(self) -> None:
        self._report()
        self._close_due(self._clock.now_ns() - GRACE_NS)
        self._choose()

    def _close_due(self, until_ns: int) -> None:
        """Hand every minute of the session that ended by then to the thread."""
        session = self._session
        if session is None or until_ns < self._next_ns:
            self._book.close(until_ns // MINUTE_NS * MINUTE_NS)
        while session is not None and self._next_ns <= min(until_ns, session.close_ns):
            start_ns, close = self._last_bar()
            underlying = close if close and start_ns + MINUTE_NS == self._next_ns else None
            rows = self._book.close(self._next_ns)
            self._recording.add(MinuteRows(session.date, self._next_ns, underlying, rows))
            self._next_ns += MINUTE_NS
            self._messages = 0

    def _choose(self) -> None:
        """Stream the contracts near the money, as many as there is room for; fewer after a refusal."""
        if self._recording.problem or self._session is None:
            self._stream(frozenset())
            return
        if self._socket is not None and any((QUOTES, symbol) in self._socket.refused for symbol in self._spare):
            self._narrow("the stream has no room for them")
        spot = self._last_bar()[1]
        nearest = near(self._contracts, spot, self._rule.strikes, self._rule.expiries, self._spare)
        room = max(min(self._room, self._rule.symbols_max - len(self._desks)), 0)
        self._stream(frozenset([symbol for symbol in nearest if symbol not in self._desks][:room]))

    def _narrow(self, reason: str) -> None:
        self._room //= 2
        self._log("recording_narrowed", reason=reason, before=len(self._spare), room=self._room)
        self._messages = 0
        self._stream(frozenset())

    def _stream(self, symbols: frozenset[str]) -> None:
        self._spare = symbols - self._desks
        self._book.keep_only(self._spare | self._desks)
        if self._socket is not None:
            self._socket.spare(QUOTES, self._spare)

    def _report(self) -> None:
        """Log what the thread finished, and why it stopped."""
        while not self._recording.finished.empty():
            finished_file = self._recording.finished.get()
            self._log(
                "recording_finished",
                file=str(finished_file.path),
                rows=finished_file.rows,
                minutes=finished_file.minutes,
                damaged=finished_file.damaged,
            )
        while not self._recording.unfinished.empty():
            self._log("recording_unfinished", reason=self._recording.unfinished.get())
        problem = self._recording.problem
        if problem and problem != self._last_report:
            self._log("recording_stopped", reason=problem)
        self._last_report = problem


def recorder_for(settings: DeskSettings, folder: Path, clock: Clock, log: EventLogger) -> OptionRecorder:
    """Return a recorder into this folder by `[record]`; quotes of a server on this machine are made up."""
    rule = settings.record
    recording = Recording(
        folder,
        source=f"alpaca-{settings.feed.options}",
        synthetic=quotes_made_up_by(settings),
        free_mib=rule.free_mib,
    )
    return OptionRecorder(rule, recording, clock, log)


def near(
    contracts: Iterable[Contract], spot: float, strikes: int, expiries: int, recorded_symbols: frozenset[str]
) -> tuple[str, ...]:
    """Return the contracts of so many strikes on each side of the spot and so many expiries, the nearest first.

    Those of `recorded_symbols` stay while they are at most `STAY` strikes further away.
    """
    by_expiry: dict[str, dict[Decimal, list[str]]] = {}
    for contract in contracts:
        by_expiry.setdefault(contract.expiry, {}).setdefault(contract.strike, []).append(contract.symbol)
    candidates: list[tuple[int, str, str]] = []
    for expiry in sorted(by_expiry)[:expiries]:
        ladder = by_expiry[expiry]
        below = [strike for strike in sorted(ladder, reverse=True) if strike <= spot]
        above = [strike for strike in sorted(ladder) if strike > spot]
        for side in (below, above):
            for rank, strike in enumerate(side[: strikes + STAY]):
                candidates += [
                    (rank, expiry, name) for name in ladder[strike] if rank < strikes or name in recorded_symbols
                ]
    return tuple(name for _, _, name in sorted(candidates))


def _size(value: object) -> int | None:
    """Return a number of contracts, None for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**31
    return int(value) if usable and isinstance(value, int | float) else None
