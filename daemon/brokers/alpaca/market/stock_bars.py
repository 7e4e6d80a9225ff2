"""The bars of a desk's symbols on one stock stream, each symbol merged and repaired by itself.

Bars of the past come in order of time, all symbols of one minute together.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from daemon.brokers.alpaca.market.history import BarHistory
from daemon.brokers.alpaca.market.live_bars import LiveBars, Timing
from daemon.brokers.alpaca.market.socket import Endpoint, State
from daemon.brokers.alpaca.market.stock_stream import StockStream, TradingStatus
from daemon.brokers.api import Known, LogEvent
from daemon.core.events import BarClosed, BarRejected, Event, Quote, QuotesReceived
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS

Minutes = Mapping[str, tuple[Bar, ...]]


class StockBars:
    """All symbols' bars of `width_ns`. See `LiveBars` for the arguments; `stream` carries their quotes too."""

    def __init__(
        self,
        clock: Clock,
        calendar: SessionCalendar,
        symbols: tuple[str, ...],
        put: Callable[[Event], None],
        log: LogEvent,
        *,
        history: BarHistory,
        endpoint: Endpoint,
        timing: Timing,
        rng: random.Random,
        announce: Callable[[Session], object],
        take_quotes: Callable[[str], tuple[Quote, ...]],
        width_ns: int,
    ) -> None:
        self._clock = clock
        self._put = put
        self._width_ns = width_ns
        self.stream = StockStream(
            endpoint,
            symbols,
            MINUTE_NS // SECOND_NS,
            calendar=calendar,
            now_ns=clock.now_ns,
            on_bar=self._on_bar,
            on_rejected=self._on_rejected,
            on_status=self._on_status,
            on_state=self._on_state,
            log=log,
        )
        self._each = {
            symbol: LiveBars(
                clock,
                symbol,
                put,
                log,
                history=history,
                timing=timing,
                rng=rng,
                announce=announce,
                take_quotes=take_quotes,
                reconnect=self.stream.socket.force_reconnect,
                width_ns=width_ns,
            )
            for symbol in symbols
        }
        self._first = self._each[symbols[0]]

    @property
    def spot(self) -> float:
        """The last close known of the first symbol, 0 for none."""
        return self._first.spot

    @property
    def newest(self) -> tuple[int, float]:
        """Return start and close of the first symbol's newest minute (see `LiveBars.newest`)."""
        return self._first.newest

    @property
    def in_session(self) -> bool:
        """Return whether the begun session is running now."""
        return self._first.in_session

    @property
    def counts(self) -> Counter[str]:
        """The counts of all symbols together."""
        return sum((own.counts for own in self._each.values()), Counter())

    @property
    def abandoned(self) -> list[str]:
        """Dates of sessions whose bars did not come in time, each once."""
        return list(dict.fromkeys(date for own in self._each.values() for date in own.abandoned))

    def begin(self, session: Session) -> None:
        """Emit bars of this session from now on."""
        for own in self._each.values():
            own.begin(session)

    async def finish(self, session: Session) -> None:
        """Emit no bar of the session after this; first fetch the last ones where missing."""
        await asyncio.gather(*(own.finish(session) for own in self._each.values()))

    async def fetched(self, session: Session, until_s: float | None = None) -> Minutes:
        """Fetch all minutes of a session up to now, by symbol. See `LiveBars.fetched`."""
        return {symbol: await own.fetched(session, until_s) for symbol, own in self._each.items()}

    def count(self, minutes: Minutes) -> int:
        """Return about how many bars every symbol has of these minutes."""
        return min(map(len, minutes.values())) * MINUTE_NS // self._width_ns

    def put_past(self, minutes: Minutes, known: Known) -> Known:
        """Emit the bars that the state lacks, without quotes, which are unknown; return what it knows then."""
        now_ns, newest = self._clock.now_ns(), {}
        found: list[Bar] = []
        for symbol, own in self._each.items():
            mine = own.know(minutes[symbol], known.last_of(symbol))
            found += mine
            newest[symbol] = max([known.last_of(symbol), *(bar.start_ns for bar in mine)])
        for bar in sorted(found, key=lambda bar: bar.start_ns):
            self._put(BarClosed(now_ns, bar))
            self._put(QuotesReceived(now_ns, bar.start_ns, ()))
        return replace(known, last_bar_ns=max(newest.values()), newest=newest)

    def learn_spot(self, minutes: Minutes) -> None:
        """Take the first symbol's last close from past minutes."""
        rows = minutes[self._first.symbol]
        self._first.spot = rows[-1].close if rows else 0.0

    async def run(self) -> None:
        """Stream, repair and watch for silence until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.stream.socket.run(), name="stock stream")
            for symbol, own in self._each.items():
                tasks.create_task(own.run(), name=f"bars of {symbol}")

    # --- streamed -----------------------------------------------------------------------------------------------------

    def _on_bar(self, bar: Bar, session: Session) -> None:
        self._each[bar.symbol].on_bar(bar, session)

    def _on_rejected(self, rejected: BarRejected) -> None:
        self._each.get(rejected.symbol, self._first).on_rejected(rejected)

    def _on_status(self, status: TradingStatus) -> None:
        self._first.on_status(status)

    def _on_state(self, state: State) -> None:
        for own in self._each.values():
            own.on_state(state)
