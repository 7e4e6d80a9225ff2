"""A market that a run may move: prices leap, option quotes are wide for everybody, companies act on the next morning.

What is done acts from the next minute (or morning) on; what was shown before stays as it was.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any, overload

from msgspec.structs import replace

from simulator.prices.corporate_actions import Dividend, Merger, Rename, SpinOff, Split, close_before, morning_ns
from simulator.prices.day_prices import Action, DayMinutes, MinuteStarts
from simulator.prices.market import Market
from strategies.kit.contract import Bar
from strategies.kit.units import MINUTE_NS

CENT = Decimal("0.01")
OPTION_LENGTH = 10  # letters of a symbol: a share's has fewer


def is_option(symbol: str) -> bool:
    """Whether the symbol is a contract's."""
    return len(symbol) > OPTION_LENGTH


@dataclass(frozen=True, slots=True)
class Leap:
    """From `from_ns` prices of `symbol` go to `factor` of what they would be, within `minutes`; back at `until_ns`."""

    symbol: str
    from_ns: int
    minutes: int
    until_ns: int
    factor: float

    def at(self, ns: int) -> float:
        """The factor at a time."""
        if not self.from_ns < ns < self.until_ns:
            return 1.0
        part = min((ns - self.from_ns) / (self.minutes * MINUTE_NS), 1.0)
        return 1.0 + (self.factor - 1.0) * part


@dataclass(frozen=True, slots=True)
class Width:
    """Between two times an option's bid and ask are these parts of its middle price."""

    from_ns: int
    until_ns: int
    bid: Decimal
    ask: Decimal


class MovedMinutes(DayMinutes):
    """Minutes under the leaps of their market."""

    def __init__(self, minutes: DayMinutes, seed: int, leaps: list[Leap]) -> None:
        super().__init__(minutes.symbol, list(minutes.days), seed)
        self._leaps = leaps

    @overload
    def __getitem__(self, index: int) -> Bar: ...
    @overload
    def __getitem__(self, index: slice) -> list[Bar]: ...
    def __getitem__(self, index: int | slice) -> Bar | list[Bar]:
        item = super().__getitem__(index)
        return item if isinstance(item, list) or not self._leaps else self._moved(item)

    def _moved(self, bar: Bar) -> Bar:
        begin = end = 1.0
        for leap in self._leaps:
            if leap.symbol == bar.symbol:
                begin, end = begin * leap.at(bar.start_ns), end * leap.at(bar.start_ns + MINUTE_NS - 1)
        if begin == end == 1.0:
            return bar
        opening, close = round(bar.open * begin, 2), round(bar.close * end, 2)
        return replace(bar, open=opening, close=close, high=max(opening, close), low=min(opening, close))


class MovedMarket(Market):
    """See the module."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.leaps: list[Leap] = []
        self.widths: list[Width] = []
        for name in list(self.derived):
            self._make(name)

    def _make(self, name: str) -> None:
        assert self.days is not None
        minutes = MovedMinutes(self.days.minutes(name), self.days.seed, self.leaps)
        self.derived[name] = minutes
        self.bars = {**self.bars, name: minutes}
        self.starts = {**self.starts, name: MinuteStarts(minutes)}

    def close_early(self, date: str, minutes: int) -> None:
        """Let this session end so many minutes after its open, which no calendar says."""
        index = self._dates[date]
        session = self.sessions[index]
        self.sessions[index] = replace(session, close_ns=session.open_ns + minutes * MINUTE_NS)

    # --- prices -------------------------------------------------------------------------------------------------------

    def fair(self, symbol: str, now_ns: int) -> tuple[Decimal, Decimal] | None:
        """Bid and ask as if nobody quoted wide."""
        return super().quote(symbol, now_ns)

    def quote(self, symbol: str, now_ns: int) -> tuple[Decimal, Decimal] | None:
        """Bid and ask as everybody sees them."""
        quote = super().quote(symbol, now_ns)
        if quote is None or not self.widths or not is_option(symbol):
            return quote
        for width in self.widths:
            if width.from_ns <= now_ns < width.until_ns:
                middle = (quote[0] + quote[1]) / 2
                bid, ask = ((middle * part).quantize(CENT, rounding=ROUND_FLOOR) for part in (width.bid, width.ask))
                return bid, max(ask, bid + CENT)
        return quote

    def leap(self, symbol: str, factor: float, minutes: int, now_ns: int, lasts_min: int = 0) -> None:
        """Let the price of a share leap from the next minute on, until the session's close or for so many minutes."""
        session = self.session_at(now_ns)
        if session is not None:
            from_ns = now_ns - (now_ns - session.open_ns) % MINUTE_NS + MINUTE_NS
            until_ns = from_ns + lasts_min * MINUTE_NS if lasts_min else session.close_ns
            self.leaps.append(Leap(symbol, from_ns, minutes, min(until_ns, session.close_ns), factor))

    # --- companies ----------------------------------------------------------------------------------------------------

    def befall(self, back_office: Any, action: Action, books_ns: int = 0) -> None:
        """Let this happen on the morning of its date, which has to be still to come.

        The accounts' books change at `books_ns`, with the prices for 0.
        """
        days = self.days
        assert days is not None
        symbol = action.symbol
        match action:
            case Split():
                days.splits = (*days.splits, action)
                ratio = float(action.ratio)
                days.bars[symbol] = {
                    date: bar if date < action.date else _times(bar, 1 / ratio)
                    for date, bar in days.bars[symbol].items()
                }
            case Dividend():
                days.dividends = (*days.dividends, action)
            case Rename():
                days.renames = (*days.renames, action)
                days._known_as[action.new] = action
                days._renames[symbol] = action
                self._make(action.new)
            case Merger():
                days.mergers = (*days.mergers, action)
                days.delisted[symbol] = action.date
                if action.ratio and action.new not in days.bars:
                    close = close_before(days.bars[symbol], action.date)
                    assert close is not None
                    factor = (1 - float(action.cash) / close) / float(action.ratio)
                    days.bars[action.new] = {
                        date: replace(_times(bar, factor), symbol=action.new)
                        for date, bar in days.bars[symbol].items()
                        if date >= action.date
                    }
                    self._make(action.new)
                days.bars[symbol] = {date: bar for date, bar in days.bars[symbol].items() if date < action.date}
            case SpinOff():
                days.spin_offs = (*days.spin_offs, action)
                days.bars[symbol] = {
                    date: bar if date < action.date else _times(bar, 1 - action.part)
                    for date, bar in days.bars[symbol].items()
                }
                days.bars[action.new] = days.spun_off(action)
                self._make(action.new)
        self._make(symbol)
        at_ns = books_ns or morning_ns(action.date)
        insort(back_office._actions, (at_ns, action, False), key=lambda entry: entry[0])
        if isinstance(action, Dividend):
            insort(back_office._actions, (morning_ns(action.paid or action.date), action, True), key=lambda it: it[0])


def _times(bar: Bar, factor: float) -> Bar:
    opening, high, low, close = (round(price * factor, 2) for price in (bar.open, bar.high, bar.low, bar.close))
    return replace(bar, open=opening, high=high, low=low, close=close)
