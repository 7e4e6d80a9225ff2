"""Minute bars of a desk's symbols from the stock stream: raw messages in, checked bars out. No merging, no repair.

A message that lacks a field or has a wrong type raises, and the socket counts it; a bar with bad values, or of another
symbol, is a `BarRejected`. Bars outside of regular hours are left out. Quotes are passed on as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from daemon.brokers.alpaca.market.socket import Endpoint, MarketSocket, State
from daemon.brokers.alpaca.wire import time_ns
from daemon.brokers.api import LogEvent
from daemon.core.events import BarRejected
from daemon.host.time.calendar import CalendarError, SessionCalendar
from daemon.tapes.bar_check import fault, values_text
from strategies.kit.contract import Bar, Session
from strategies.kit.units import SECOND_NS

CHANNELS = ("bars", "updatedBars", "statuses")
HALTED = frozenset(("H", "P", "2"))  # tape C and O: halt, volatility pause; tape A and B: halt
RESUMED = frozenset(("T", "3"))


@dataclass(frozen=True, slots=True)
class TradingStatus:
    """A change of a symbol's trading status. `halted` None for other changes than halt and resumption."""

    symbol: str
    code: str
    text: str
    reason: str
    halted: bool | None


def instant_ns(value: object) -> int:
    """Return nanoseconds UTC of a `msgpack.Timestamp` or an RFC 3339 text of up to nine digits. Raises ValueError."""
    if isinstance(value, msgpack.Timestamp):
        return int(value.to_unix_nano())
    return time_ns(value, "t")


def read_bar(message: dict[str, Any], symbol: str, session: Session, interval_s: int, now_ns: int) -> Bar | BarRejected:
    """Parse and check a raw bar (stream or REST; `t o h l c v`) of `symbol` within `session`.

    Raises KeyError, TypeError or ValueError without a start or numbers.
    """
    start_ns = instant_ns(message["t"])
    prices = [_number(message[name]) for name in "ohlcv"]
    found = str(message.get("S", symbol))
    if found != symbol:
        detail = f"{values_text(prices)}; the bar is of {found}, expected {symbol}"
        return BarRejected(now_ns, found, start_ns, "wrong_symbol", detail)
    reason = fault(prices, (start_ns - session.open_ns) % (interval_s * SECOND_NS))
    if reason:
        return BarRejected(now_ns, symbol, start_ns, reason, values_text(prices))
    return Bar(symbol, start_ns, *prices)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan  # rejected as not finite
    try:
        return float(value)
    except OverflowError:
        return math.inf


class StockStream:
    """The socket of the stock stream, with handlers of its messages. `symbols`: at least one."""

    def __init__(
        self,
        endpoint: Endpoint,
        symbols: tuple[str, ...],
        interval_s: int,
        *,
        calendar: SessionCalendar,
        now_ns: Callable[[], int],
        on_bar: Callable[[Bar, Session], None],
        on_rejected: Callable[[BarRejected], None],
        on_status: Callable[[TradingStatus], None],
        on_state: Callable[[State], None],
        log: LogEvent,
    ) -> None:
        self._symbols = symbols
        self._interval_s = interval_s
        self._calendar = calendar
        self._now_ns = now_ns
        self._on_bar = on_bar
        self._on_rejected = on_rejected
        self._on_status = on_status
        self._on_quote: Callable[[dict[str, Any]], None] = _ignore
        self.socket = MarketSocket(endpoint, on_message=self._take, on_state=on_state, log=log)
        for channel in CHANNELS:
            self.socket.subscribe(channel, symbols)

    def quoted_to(self, take: Callable[[dict[str, Any]], None]) -> MarketSocket:
        """Pass quotes on to `take`, as they come; returns the socket, which subscribes them."""
        self._on_quote = take
        return self.socket

    def _take(self, message: dict[str, Any]) -> None:
        match message["T"]:
            case "b" | "u":
                session = self._session_at(instant_ns(message["t"]))
                if session is None:
                    return
                bar = read_bar(message, self._named(message), session, self._interval_s, self._now_ns())
                if isinstance(bar, BarRejected):
                    self._on_rejected(bar)
                else:
                    self._on_bar(bar, session)
            case "q":
                self._on_quote(message)
            case "s":
                self._on_status(read_status(message))
            case _:
                pass  # types that were not requested

    def _named(self, message: dict[str, Any]) -> str:
        """Return the symbol that the bar is expected to be of. Raises KeyError where several are, and it names none."""
        if len(self._symbols) == 1:
            return self._symbols[0]
        symbol = str(message["S"])
        return symbol if symbol in self._symbols else ", ".join(self._symbols)

    def _session_at(self, start_ns: int) -> Session | None:
        try:
            return self._calendar.at(start_ns)
        except CalendarError as error:  # a time out of range is a bad message, not a bad calendar
            raise ValueError(str(error)) from error


def _ignore(_message: dict[str, Any]) -> None:
    """Drop a quote: none were requested."""


def read_status(message: dict[str, Any]) -> TradingStatus:
    """Parse a raw trading status (`sc sm rc rm`). Raises KeyError without symbol or code."""
    code = str(message["sc"])
    halted = True if code in HALTED else False if code in RESUMED else None
    reason = f"{message.get('rc', '')} {message.get('rm', '')}".strip()
    return TradingStatus(str(message["S"]), code, str(message.get("sm", "")), reason, halted)
