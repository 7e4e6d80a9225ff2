"""Latest quotes of shares over REST: worked symbols every few seconds, held ones each minute, all on request.

Only in regular hours, and on the market-data budget: orders never wait for a quote request. The step judges a quote's
age.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from decimal import Decimal

from daemon.brokers.alpaca.market.daily_history import DayReads
from daemon.brokers.alpaca.rest.errors import RestError
from daemon.brokers.alpaca.rest.rest import Raw
from daemon.brokers.alpaca.wire import Malformed, decimal, time_ns
from daemon.brokers.api import LogEvent
from daemon.core.events import Event, Quote, QuotesReceived
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from strategies.kit.units import MINUTE_NS, SECOND_NS

WORKING_NS = 5 * SECOND_NS
HELD_NS = MINUTE_NS
LEAST_NAP_S = 0.05  # however fast a simulated clock runs
SYMBOLS_MAX = 100  # of one request

Wanted = Callable[[], tuple[frozenset[str], frozenset[str]]]


class ShareQuotes:
    """Puts `QuotesReceived` between bars. `wanted` returns the worked and the held symbols. `counts`: quotes, bad."""

    def __init__(
        self,
        reads: DayReads,
        feed: str,
        clock: Clock,
        calendar: SessionCalendar,
        put: Callable[[Event], None],
        log: LogEvent,
        wanted: Wanted,
    ) -> None:
        self._reads = reads
        self._feed = feed
        self._clock = clock
        self._calendar = calendar
        self._put = put
        self._log = log
        self._wanted = wanted
        self._attended: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._failing = False
        self.counts = {"quotes": 0, "quotes_bad": 0}

    def attend(self, symbols: frozenset[str]) -> None:
        """Poll now if the set of held or worked symbols changed."""
        if symbols != self._attended:
            self._attended = symbols
            self._changed.set()

    async def ask(self, symbols: Iterable[str]) -> None:
        """Request the newest quotes of these symbols and emit them. Raises RestError."""
        asked = tuple(symbols)
        raw: dict[str, Raw] = {}
        for first in range(0, len(asked), SYMBOLS_MAX):
            raw |= await self._reads.latest_quotes(asked[first : first + SYMBOLS_MAX], self._feed)
        quotes = [quote for symbol in asked if (quote := self._read(symbol, raw.get(symbol))) is not None]
        self.counts["quotes"] += len(quotes)
        if quotes:
            self._put(QuotesReceived(self._clock.now_ns(), 0, tuple(quotes)))

    def _read(self, symbol: str, row: Raw | None) -> Quote | None:
        """Return a usable quote; None for a missing, unreadable, one-sided or crossed one."""
        if row is None:
            return None
        try:
            bid, ask = decimal(row.get("bp"), "bp"), decimal(row.get("ap"), "ap")
            quoted_ns = time_ns(row.get("t"), "t")
        except Malformed:
            self.counts["quotes_bad"] += 1
            return None
        if bid < 0 or ask < 0 or bid > ask > 0 or bid == ask == 0:
            self.counts["quotes_bad"] += 1
            return None
        middle = (bid + ask) / 2 if bid and ask else max(bid, ask, Decimal(0))
        return Quote(symbol, bid, ask, middle, middle, quoted_ns)

    async def run(self) -> None:
        """Poll quotes until cancelled."""
        held_due_ns = 0
        while True:
            self._changed.clear()  # later changes are seen after the nap
            now_ns = self._clock.now_ns()
            working, held = self._wanted()
            symbols = working | held if now_ns >= held_due_ns else working
            if symbols and self._calendar.at(now_ns) is not None:
                await self._ask_or_log(sorted(symbols))
                if now_ns >= held_due_ns:
                    held_due_ns = now_ns + HELD_NS
            await self._rest(now_ns, WORKING_NS if working else HELD_NS)

    async def _ask_or_log(self, symbols: list[str]) -> None:
        """Request quotes; log an outage once."""
        try:
            await self.ask(symbols)
        except RestError as error:
            if not self._failing:
                self._log("quotes_unavailable", symbols=symbols, problem=str(error))
            self._failing = True
        else:
            self._failing = False

    async def _rest(self, since_ns: int, every_ns: int) -> None:
        """Wait until the next poll is due, the market opens, or the wanted symbols change."""
        now_ns = self._clock.now_ns()
        due_ns = since_ns + every_ns
        if self._calendar.at(now_ns) is None:
            due_ns = min(self._calendar.next_after(now_ns).open_ns, now_ns + HELD_NS)
        await asyncio.sleep(LEAST_NAP_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._clock.real_s(due_ns - self._clock.now_ns()), 0.0)):
                await self._changed.wait()
