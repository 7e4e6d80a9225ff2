"""Play the tape in simulated time: quotes and trades at each path point, bars a second after their minute.

Only subscribed symbols are priced, once for all sessions; scripted faults spoil bars.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from daemon.alpaca_api.messages import DataMessage
from simulator.data.fields import bar_fields, merge_bars, missing_side, never_trades, quote_fields, trade_fields
from simulator.data.stream import TEST_SYMBOL, FaultyHub
from simulator.faults import Context, Fault
from simulator.prices.market import BAR_DELAY_NS, POINT_NS
from simulator.prices.tape import midnight_ns, new_york_date
from strategies.kit.contract import Bar
from strategies.kit.units import MINUTE_NS, SECOND_NS

QUOTE_FAULTS = (
    "quote_gap",
    "quote_one_sided",
    "quote_crossed",
    "quote_empty",
    "quote_absurd",
    "quote_wide",
    "quote_ahead",
)
_BAR, _TICK = 0, 1  # events of the timeline, in their order at one time


class Timeline:
    """The events of one server's tape, each at its simulated time."""

    def __init__(self, hub: FaultyHub) -> None:
        self.hub = hub
        self.venue = hub.venue
        self._queue: list[tuple[int, int, int, Callable[[], None]]] = []  # time, order, number, callback
        self._numbers = itertools.count()
        self._after_next: list[DataMessage] = []  # bars that are sent after their successors

    async def play(self) -> None:
        """Publish the tape from now to its end, each event at its simulated time."""
        clock = self.venue.clock
        begun_ns = clock.now_ns()
        starts = self._starts(begun_ns - 2 * MINUTE_NS)
        following = next(starts, None)
        while self._queue or following is not None:
            while following is not None and (not self._queue or following <= self._queue[0][0]):
                self._plan(following)
                following = next(starts, None)
            time_ns, _, _, happen = heapq.heappop(self._queue)
            if time_ns > begun_ns:
                await clock.sleep_until(time_ns)
                happen()

    def _starts(self, from_ns: int) -> Iterator[int]:
        """Yield the starts of the minutes of tape and daily prices, each once, from `from_ns` on."""
        market = self.venue.market
        tapes = (starts for symbol, starts in market.starts.items() if symbol not in market.derived)
        starts = sorted(set(itertools.chain(*tapes)))
        merged_starts = heapq.merge(starts[bisect_left(starts, from_ns) :], market.derived_minutes(from_ns))
        return (start for start, _ in itertools.groupby(merged_starts))

    def _plan(self, start_ns: int) -> None:
        for at_ns in range(start_ns, start_ns + MINUTE_NS, POINT_NS):
            self._at(at_ns, _TICK, partial(self._tick, at_ns))
        self._at(start_ns + MINUTE_NS + BAR_DELAY_NS, _BAR, partial(self._close, start_ns))

    def _at(self, time_ns: int, order: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time_ns, order, next(self._numbers), happen))

    def _tick(self, at_ns: int) -> None:
        """Publish quotes and trades of a path point to each session, priced once. Overdue points are left out."""
        self.hub.strike()
        self._halt(at_ns)
        if self.venue.clock.now_ns() >= at_ns + POINT_NS:
            return
        cache: dict[tuple[str, str], DataMessage | None] = {}
        market, open_now = self.venue.market, self.venue.market.session_at(at_ns) is not None
        for session in list(self.hub.sessions):
            if session.stream == "option" and not open_now:
                continue
            messages = []
            for kind, channel in (("q", "quotes"), ("t", "trades")):
                for name in sorted(session.subscribed.get(channel, ())):
                    for symbol in market.bars if name == "*" and session.stream == "stock" else (name,):
                        if (kind, symbol) not in cache:
                            cache[kind, symbol] = self._point_message(kind, symbol, session.stream, at_ns)
                        messages.append(cache[kind, symbol])
            session.deliver(message for message in messages if message is not None)

    def _halt(self, at_ns: int) -> None:
        """Halt a share by the script and resume it later; the statuses channel reports both."""
        for symbol in sorted({str(it.where.get("symbol", "")) for it in self.venue.faults.waiting("trading_halt")}):
            if fault := self.venue.faults.take("trading_halt", {"stream": "stock", "symbol": symbol}):
                self._halt_one(symbol or self.venue.market.symbol, fault, at_ns)

    def _halt_one(self, symbol: str, fault: Fault, at_ns: int) -> None:
        until_ns = at_ns + int(float(fault.get("minutes", 8)) * MINUTE_NS)
        self.venue.market.halt_trading(symbol, at_ns, until_ns)
        fields = {
            "sc": fault.get("code", "H"),
            "sm": "Trading Halt",
            "rc": "LUDP",
            "rm": "Volatility Pause",
            "z": "C",
        }
        self.hub.publish_stocks([DataMessage("s", symbol, at_ns, fields)])
        over = {"sc": "T", "sm": "Trading Resumption", "rc": "", "rm": "", "z": "C"}
        resume = partial(self.hub.publish_stocks, [DataMessage("s", symbol, until_ns, over)])
        self._at(until_ns, _TICK, resume)

    def _point_message(self, kind: str, symbol: str, stream: str, at_ns: int) -> DataMessage | None:
        market = self.venue.market
        listed_symbol = market.symbol if symbol == TEST_SYMBOL else symbol
        if (listed_symbol in market.bars) != (stream == "stock") or not market.trading(listed_symbol, at_ns):
            return None
        fields = (quote_fields if kind == "q" else trade_fields)(market, listed_symbol, at_ns)
        if fields is None or (kind == "t" and stream == "option" and never_trades(listed_symbol)):
            return None
        if kind == "q" and self.venue.faults.waiting(*QUOTE_FAULTS):
            return self._wrong_quote(symbol, at_ns, dict(fields), {"stream": stream, "symbol": symbol})
        return DataMessage(kind, symbol, at_ns, fields)

    def _wrong_quote(self, symbol: str, at_ns: int, fields: dict[str, Any], context: Context) -> DataMessage | None:
        """Return the quote under scripted faults; None for none."""
        faults = self.venue.faults
        if faults.take("quote_gap", context):
            return None
        fields |= missing_side(faults, context)
        if faults.take("quote_crossed", context):
            fields |= {"bp": fields["ap"], "ap": fields["bp"]}
        if faults.take("quote_empty", context):
            fields |= {"bp": 0.0, "ap": 0.0, "bs": 0, "as": 0}
        if fault := faults.take("quote_absurd", context):
            fields |= {"bp": fault.get("bid", 0.01), "ap": fault.get("ask", fields["ap"])}
        if fault := faults.take("quote_wide", context):
            middle = (fields["bp"] + fields["ap"]) / 2
            parts = {"bp": fault.get("bid", 0.3), "ap": fault.get("ask", 0.8)}
            fields |= {side: round(middle * part, 2) for side, part in parts.items()}
        if fault := faults.take("quote_ahead", context):
            at_ns += int(fault.get("ahead_s", 59)) * SECOND_NS
        return DataMessage("q", symbol, at_ns, fields)

    def _close(self, start_ns: int) -> None:
        """Publish a minute's bars, a second after its end, with scripted faults, and the running daily bars."""
        messages: list[DataMessage] = []
        overtaken, self._after_next = self._after_next, []
        daily = any(session.subscribed.get("dailyBars") for session in self.hub.sessions)
        for symbol, starts in self.venue.market.starts.items():
            if not self._is_sent(symbol):
                continue
            index = bisect_left(starts, start_ns)
            if index < len(starts) and starts[index] == start_ns and self.venue.market.has_bar(symbol, start_ns):
                messages += self._bar_messages(self.venue.market.bars[symbol][index])
                messages += self._daily(symbol, start_ns) if daily else []
        self.hub.publish_stocks(messages)
        self.hub.publish_stocks(overtaken)

    def _is_sent(self, symbol: str) -> bool:
        """Return whether the symbol's bars are sent; of daily prices only to subscribers, or for a fault."""
        if symbol not in self.venue.market.derived or self.venue.faults.waiting(*BAR_FAULTS):
            return True
        subscriptions = (
            session.subscribed.get(channel, ()) for session in self.hub.sessions for channel in BAR_CHANNELS
        )
        return any(symbol in names or "*" in names for names in subscriptions)

    def _bar_messages(self, bar: Bar) -> list[DataMessage]:
        message = DataMessage("b", bar.symbol, bar.start_ns, bar_fields(bar))
        faults = self.venue.faults
        if not faults.waiting(*BAR_FAULTS):
            return [message]
        context = {"stream": "stock", "symbol": bar.symbol, "start_ns": bar.start_ns}
        if fault := faults.take("bar_absurd", context):
            message = DataMessage(
                "b", bar.symbol, bar.start_ns, bar_fields(_times(bar, float(fault.get("factor", 40))))
            )
        ended_ns = bar.start_ns + MINUTE_NS + BAR_DELAY_NS
        if fault := faults.take("bar_corrected", context):
            self._correct(bar, float(fault.get("shift", 0.05)))
        if faults.take("bar_gap", context):
            return []
        if faults.take("bar_reordered", context):
            self._after_next.append(message)
            return []
        if fault := faults.take("bar_late", context):
            late_ns = ended_ns + int(float(fault.get("delay_s", 30)) * SECOND_NS)
            self._at(late_ns, _BAR, lambda: self.hub.publish_stocks([message]))
            return []
        if fault := faults.take("bar_ahead", context):
            start_ns = bar.start_ns + int(fault.get("minutes", 30)) * MINUTE_NS
            return [DataMessage("b", bar.symbol, start_ns, {**bar_fields(bar), "l": bar.high + 1}), message]
        fault = faults.take("bar_duplicated", context)
        return [message] * (1 if fault is None else int(fault.get("copies", 2)))

    def _correct(self, bar: Bar, shift: float) -> None:
        """Move the close by `shift` USD for a late trade: `u` 30 s after the bar's end, and history from then."""
        close = round(bar.close + shift, 4)
        high, low = max(bar.high, close), min(bar.low, close)
        new_bar = Bar(bar.symbol, bar.start_ns, bar.open, high, low, close, bar.volume + 100)
        known_ns = bar.start_ns + MINUTE_NS + MINUTE_NS // 2
        self.venue.corrections[bar.symbol, bar.start_ns] = (known_ns, new_bar)
        update = DataMessage("u", bar.symbol, bar.start_ns, bar_fields(new_bar))
        self._at(known_ns, _BAR, lambda: self.hub.publish_stocks([update]))

    def _daily(self, symbol: str, start_ns: int) -> list[DataMessage]:
        session = self.venue.market.session_at(start_ns)
        if session is None:
            return []
        rows = self.venue.market.session_bars(session.date, symbol)
        label_ns = midnight_ns(new_york_date(start_ns))
        bar = merge_bars((bar for bar in rows if bar.start_ns <= start_ns), label_ns)
        return [] if bar is None else [DataMessage("d", symbol, label_ns, bar_fields(bar))]


def _times(bar: Bar, factor: float) -> Bar:
    open_price, high, low, close = (round(price * factor, 4) for price in (bar.open, bar.high, bar.low, bar.close))
    return Bar(bar.symbol, bar.start_ns, open_price, high, low, close, bar.volume)


BAR_CHANNELS = ("bars", "updatedBars", "dailyBars")
BAR_FAULTS = ("bar_corrected", "bar_gap", "bar_reordered", "bar_late", "bar_duplicated", "bar_ahead", "bar_absurd")
