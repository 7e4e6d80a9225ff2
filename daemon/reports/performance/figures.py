"""Performance figures of a span, from its days and its trades: only arithmetic, no journal and no clock.

Returns are daily: (equity at the end − transfers) / equity at the end of the day before − 1. They compound. Sharpe and
Sortino are annual, from 252 days a year and without a risk-free rate, as in `quantstats`. Profits are between equities
in whole cents, so those of days, weeks, months, years and desks add up to their total.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby, pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from daemon.journal.equity import EquityDay
from daemon.journal.trade import Trade
from daemon.journal.trades import LONGEST, Totals
from strategies.kit.units import HOUR_NS

YEAR = 252  # sessions
Series = npt.NDArray[np.float64]


class Drawdown(msgspec.Struct, frozen=True):
    """A fall of the returns' index below its highest value at the ends of days. Lengths are in sessions."""

    start: str  # the first day below
    trough: str
    end: str  # the day on which it was made up, "" while it lasts
    depth: float  # 0.1 is 10 %
    length: int  # from the start to the last day below
    to_trough: int


def compound(returns: Series) -> Series:
    """Return the compounded return up to each day: 0.1 is 10 % above the begin."""
    index: Series = np.cumprod(1.0 + returns, dtype=np.float64)
    return index - 1.0


def sharpe(returns: Series) -> float | None:
    """Return mean / standard deviation, annual; None below two days, or without any movement."""
    spread = float(returns.std(ddof=1)) if returns.size > 1 else 0.0
    return float(returns.mean()) / spread * math.sqrt(YEAR) if spread > 1e-12 else None


def sharpe_error(returns: Series) -> float | None:
    """Return the annual Sharpe ratio's standard error for independent returns.

    Lo, "The statistics of Sharpe ratios", Financial Analysts Journal 58(4), 2002, equation 10.
    """
    ratio = sharpe(returns)
    if ratio is None:
        return None
    return math.sqrt((1.0 + ratio**2 / YEAR / 2.0) / returns.size * YEAR)


def sortino(returns: Series) -> float | None:
    """Return mean / downside deviation from zero over all days, annual; None without a losing day."""
    if returns.size < 2:
        return None
    below = math.sqrt(float(np.square(np.minimum(returns, 0.0)).sum()) / returns.size)
    return float(returns.mean()) / below * math.sqrt(YEAR) if below > 0 else None


def falls(returns: Series) -> Series:
    """Return the drawdown from the highest index so far (at least that of the begin) at each day; 0 is none."""
    index = np.cumprod(1.0 + returns)
    peaks = np.maximum(np.maximum.accumulate(index), 1.0)
    below: Series = 1.0 - np.divide(index, peaks)
    return below


def drawdowns(names: Sequence[str], returns: Series) -> tuple[Drawdown, ...]:
    """Return all drawdowns, the deepest first."""
    below, drops = falls(returns), []
    for under, group in groupby(range(len(names)), key=lambda index: bool(below[index] > 1e-12)):
        places = list(group)
        if not under:
            continue
        trough = max(places, key=lambda index: below[index])
        end = places[-1] + 1
        drops.append(
            Drawdown(
                start=names[places[0]],
                trough=names[trough],
                end=names[end] if end < len(names) else "",
                depth=float(below[trough]),
                length=len(places),
                to_trough=trough - places[0] + 1,
            )
        )
    return tuple(sorted(drops, key=lambda fall: (-fall.depth, fall.start)))


NO_TRADES = Totals()
SESSION_NS = 13 * HOUR_NS // 2
RANGES = ("1D", "1W", "1M", "3M", "YTD", "ALL")


class Period(msgspec.Struct, frozen=True):
    """A day, a week (named after its Monday), a month (YYYY-MM) or a year: profit without transfers, and the return."""

    name: str
    pnl_usd: float
    share: float  # return, 0.01 is 1 %
    sessions: int


class Line(msgspec.Struct, frozen=True):
    """The return since the span began, 0 at its begin, at the end of each day."""

    name: str
    times: tuple[float, ...]  # seconds since 1970 UTC
    shares: tuple[float, ...]  # 0.1 is 10 % above the begin


class Compared(msgspec.Struct, frozen=True):
    """What a line next to the desk's came to."""

    name: str
    share: float
    max_drawdown: float
    sharpe: float | None


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a span. Amounts in USD, shares as fractions; None: cannot be computed."""

    first: str = ""  # dates of New York, "" without a session
    last: str = ""
    sessions: int = 0
    warm_up: int = 0  # sessions before the first trade, left out
    start_usd: float = 0.0
    end_usd: float = 0.0
    transfers_usd: float = 0.0
    pnl_usd: float = 0.0
    share: float = 0.0
    annual: float | None = None  # from three months on
    volatility: float | None = None
    sharpe: float | None = None
    sharpe_error: float | None = None  # standard error (Lo 2002)
    sortino: float | None = None
    max_drawdown: float = 0.0  # at the ends of days
    marked_drawdown: float | None = None  # within days too, never less than `max_drawdown`; None for several desks
    days_won: float | None = None  # share of the days that were not even
    best: Period | None = None
    worst: Period | None = None
    in_market: float | None = None  # share of the sessions' time with a position
    at_work: float | None = None  # mean share of the equity in positions, while there was one
    trades: Totals = NO_TRADES
    days: tuple[Period, ...] = ()
    weeks: tuple[Period, ...] = ()
    months: tuple[Period, ...] = ()
    years: tuple[Period, ...] = ()
    drawdowns: tuple[Drawdown, ...] = ()  # the deepest first
    lines: tuple[Line, ...] = ()  # the desk's, then those it is compared with
    compared: tuple[Compared, ...] = ()


class DaySpan(NamedTuple):
    """Days of a journal, from and up to an index; the day before gives the equity at its begin."""

    days: tuple[EquityDay, ...]
    first: int
    beyond: int
    warm_up: int = 0

    @property
    def chosen(self) -> tuple[EquityDay, ...]:
        return self.days[self.first : self.beyond]

    @property
    def before(self) -> EquityDay | None:
        return self.days[self.first - 1] if self.first else None

    @property
    def times(self) -> tuple[int, int]:
        """The span in nanoseconds: after the last record before it, to its last record, or without an end if newest.

        A desk that went flat records no equity until the session's end: its last trade would be closed and in no sum.
        """
        chosen = self.chosen
        if not chosen:
            return 0, -1
        end_ns = LONGEST if self.beyond == len(self.days) else chosen[-1].last_ns
        return (self.before.last_ns + 1 if self.before else chosen[0].first_ns), end_ns


# --- which days -------------------------------------------------------------------------------------------------------


def span_of(
    days: Sequence[EquityDay], first_date: str = "", last_date: str = "", traded_ns: int | None = None
) -> DaySpan:
    """Return the days from one date to another, "" for no bound.

    Without `first_date` the sessions before the first trade (`traded_ns`) are left out, as nothing could be earned.
    """
    names = [day.date for day in days]
    beyond = bisect_right(names, last_date) if last_date else len(days)
    if first_date:
        return DaySpan(tuple(days), min(bisect_left(names, first_date), beyond), beyond)
    warm = 0
    if traded_ns is not None:
        warm = next((index for index, day in enumerate(days) if day.last_ns >= traded_ns), 0)
        warm = next((index for index in range(warm) if days[index].transfers_usd or _earned(days, index)), warm)
    return DaySpan(tuple(days), min(warm, beyond), beyond, min(warm, beyond))


def _earned(days: Sequence[EquityDay], index: int) -> bool:
    closed_before = days[index - 1].closed_usd if index else days[0].opened_usd
    return days[index].closed_usd != closed_before


def begin_of(name: str, newest: str) -> str:
    """Return the first date of a range that ends with `newest`; "" for all. Raises KeyError for an unknown range."""
    if name == "ALL":
        return ""
    last = date.fromisoformat(newest)
    begins: dict[str, Callable[[], date]] = {
        "1D": lambda: last,
        "1W": lambda: last - timedelta(days=6),
        "1M": lambda: _months_before(last, 1),
        "3M": lambda: _months_before(last, 3),
        "YTD": lambda: date(last.year, 1, 1),
    }
    return begins[name]().isoformat()


def _months_before(day: date, months: int) -> date:
    """Return the day after the same day of an earlier month: a month up to the 31st begins on the 1st, or the 2nd."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    ends = (date(year + (month == 11), (month + 1) % 12 + 1, 1) - timedelta(days=1)).day
    return date(year, month + 1, min(day.day, ends)) + timedelta(days=1)


# --- returns ----------------------------------------------------------------------------------------------------------


def returns_of(span: DaySpan) -> Series:
    """Return the daily returns, (n,)."""
    chosen = span.chosen
    if not chosen:
        return np.zeros(0)
    closes = np.array([day.closed_usd - day.transfers_usd for day in chosen])
    first_equity = span.before.closed_usd if span.before else chosen[0].opened_usd
    starts = np.array([first_equity, *(day.closed_usd for day in chosen[:-1])])
    returns: Series = np.divide(closes, starts, out=np.ones_like(closes), where=starts > 0) - 1.0
    return returns


def marked_drawdown(span: DaySpan) -> float | None:
    """Return the largest drawdown of the return index at all records and, if the span starts with the desk, its marks.

    None if the records of a day are unknown. A day with transfers counts at its end: their time is unknown.
    """
    returns, index, peak, deepest = returns_of(span), 1.0, 1.0, 0.0
    start = span.before.closed_usd if span.before else (span.chosen[0].opened_usd if span.chosen else 0.0)
    for day, share in zip(span.chosen, returns.tolist(), strict=True):
        if day.low_usd is None or day.high_usd is None:
            return None
        if start > 0 and not day.transfers_usd:
            low, high = (index * usd / start for usd in (day.low_usd, day.high_usd))
            deepest = max(deepest, 1.0 - low / peak, day.fall)
            peak = max(peak, high)
        index, start = index * (1.0 + share), day.closed_usd
        peak = max(peak, index)
        deepest = max(deepest, 1.0 - index / peak)
    if span.first == span.warm_up and span.chosen:
        deepest = max(deepest, span.chosen[-1].deepest or 0.0)
    return deepest


# --- periods ----------------------------------------------------------------------------------------------------------


def _gains(span: DaySpan) -> list[float]:
    """Return each day's profit without transfers, between equities in whole cents."""
    chosen = span.chosen
    start = span.before.closed_usd if span.before else chosen[0].opened_usd
    equities = [round(usd, 2) for usd in (start, *(day.closed_usd for day in chosen))]
    return [end - day.transfers_usd - before for day, (before, end) in zip(chosen, pairwise(equities), strict=True)]


def _periods(names: Sequence[str], gains: Sequence[float], returns: Series) -> tuple[Period, ...]:
    """Sum the days of each name; the names are in order."""
    periods = []
    for name, group in groupby(range(len(names)), key=names.__getitem__):
        places = list(group)
        share = float(np.prod(1.0 + returns[places[0] : places[-1] + 1]) - 1.0)
        periods.append(Period(name, round(sum(gains[place] for place in places), 2), share, len(places)))
    return tuple(periods)


def monday(day: str) -> str:
    """Return the Monday of a date's week."""
    when = date.fromisoformat(day)
    return (when - timedelta(days=when.weekday())).isoformat()


# --- trades -----------------------------------------------------------------------------------------------------------


def totals_of(trades: Iterable[Trade], other_usd: float = 0.0) -> Totals:
    """Return the sums over trades, computed as in the journal: closed ones, and those still open."""
    trades = tuple(trades)
    closed_trades = [trade for trade in trades if trade.left_ns is not None]
    gains = [trade.pnl_usd or 0.0 for trade in closed_trades]
    winnings, losses = sum(gain for gain in gains if gain > 0), sum(gain for gain in gains if gain < 0)
    still = [trade for trade in trades if trade.left_ns is None]
    open_profits = [trade.pnl_usd for trade in still if trade.pnl_usd is not None]
    unrealised_usd = [trade.unrealized_usd for trade in still if trade.unrealized_usd is not None]
    number = len(closed_trades)
    return Totals(
        trades=number,
        wins=sum(gain > 0 for gain in gains),
        losses=sum(gain < 0 for gain in gains),
        win_rate=sum(gain > 0 for gain in gains) / number if number else None,
        profit_factor=winnings / -losses if losses else None,
        expectancy_usd=(winnings + losses) / number if number else None,
        held_s=sum(trade.held_s for trade in closed_trades) / number if number else None,
        pnl_usd=round(winnings + losses, 6),
        fees_usd=round(sum(trade.fees_usd for trade in closed_trades), 6),
        open=len(trades) - number,
        open_usd=round(sum(open_profits), 6) if open_profits else None,
        open_realized_usd=round(sum(trade.realized_usd for trade in still), 6),
        open_unrealized_usd=round(sum(unrealised_usd), 6) if unrealised_usd else None,
        open_fees_usd=round(sum(trade.fees_usd for trade in still), 6),
        other_usd=other_usd,
    )


def in_market(span: DaySpan, holding_times: Iterable[tuple[int, int]]) -> float | None:
    """Return the share of the sessions' time within any of these times (nanoseconds, from and to).

    A session lasts from its first record to its last, at most six and a half hours; with only one record, that long.
    """
    sessions = [(_session_start(day), day.last_ns) for day in span.chosen]
    if not sessions:
        return None
    spans: list[list[int]] = []
    for begin, end in sorted(holding_times):
        if spans and begin <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])
    covered_ns, place = 0, 0
    for begin, end in sessions:
        while place < len(spans) and spans[place][1] < begin:
            place += 1
        for start, stop in spans[place:]:
            if start >= end:
                break
            covered_ns += max(0, min(stop, end) - max(start, begin))
    return covered_ns / sum(end - begin for begin, end in sessions)


def _session_start(day: EquityDay) -> int:
    longest = day.last_ns - SESSION_NS
    return max(day.first_ns, longest) if day.first_ns < day.last_ns else longest


# --- all --------------------------------------------------------------------------------------------------------------


def performance(
    span: DaySpan,
    holding_times: Sequence[tuple[int, int]] = (),
    totals: Totals = NO_TRADES,
    at_work: float | None = None,
    lines: Mapping[str, Series] | None = None,
) -> Performance:
    """Return all figures of a span.

    `holding_times` are those of all positions, from and to in nanoseconds, `totals` the sums of the trades that ended
    in the span. `lines` are daily returns of the benchmarks, (sessions,), by name.
    """
    chosen = span.chosen
    if not chosen:
        return Performance(trades=totals)
    names = [day.date for day in chosen]
    returns, gains = returns_of(span), _gains(span)
    days = _periods(names, gains, returns)
    active_days = [day.pnl_usd for day in days if abs(day.pnl_usd) >= 0.005]
    total = compound(returns)
    comparisons = tuple((lines or {}).items())
    spread = float(returns.std(ddof=1)) if returns.size > 1 else None
    begin_ns = span.before.last_ns if span.before else chosen[0].first_ns
    times = (begin_ns / 1e9, *(day.last_ns / 1e9 for day in chosen))
    return Performance(
        first=names[0],
        last=names[-1],
        sessions=len(chosen),
        warm_up=span.warm_up,
        start_usd=span.before.closed_usd if span.before else chosen[0].opened_usd,
        end_usd=chosen[-1].closed_usd,
        transfers_usd=round(sum(day.transfers_usd for day in chosen), 2),
        pnl_usd=round(sum(gains), 2),
        share=float(total[-1]),
        annual=_annual(float(total[-1]), len(chosen)),
        volatility=None if spread is None else spread * math.sqrt(YEAR),
        sharpe=sharpe(returns),
        sharpe_error=sharpe_error(returns),
        sortino=sortino(returns),
        max_drawdown=float(falls(returns).max()),
        marked_drawdown=marked_drawdown(span),
        days_won=sum(gain > 0 for gain in active_days) / len(active_days) if active_days else None,
        best=max(days, key=lambda day: day.share),
        worst=min(days, key=lambda day: day.share),
        in_market=in_market(span, holding_times),
        at_work=at_work,
        trades=totals,
        days=days,
        weeks=_periods([monday(name) for name in names], gains, returns),
        months=_periods([name[:7] for name in names], gains, returns),
        years=_periods([name[:4] for name in names], gains, returns),
        drawdowns=drawdowns(names, returns),
        lines=tuple(
            Line(name, times, (0.0, *compound(line).tolist())) for name, line in (("equity", returns), *comparisons)
        ),
        compared=tuple(
            Compared(name, float(compound(line)[-1]), float(falls(line).max()), sharpe(line))
            for name, line in comparisons
        ),
    )


def _annual(share: float, sessions: int) -> float | None:
    """Return the yearly return; None below three months, which would be meaningless."""
    if sessions * 4 < YEAR or share <= -1.0:
        return None
    return float((1.0 + share) ** (YEAR / sessions) - 1.0)


# --- several desks ----------------------------------------------------------------------------------------------------


def sum_desks(desks: Sequence[Sequence[EquityDay]]) -> tuple[EquityDay, ...]:
    """Return the days of several desks as if they were one account.

    A desk that begins later adds its capital as a transfer; one without a record on a day keeps its last equity.
    Equities are added in whole cents.
    """
    dates = sorted({day.date for days in desks for day in days})
    by_date = [{day.date: day for day in days} for days in desks]
    firsts = [days[0].date if days else "" for days in desks]
    last: list[EquityDay | None] = [None] * len(desks)
    totals: list[EquityDay] = []
    for name in dates:
        today = [days.get(name) for days in by_date]
        indices = [index for index, day in enumerate(today) if day is not None and name == firsts[index]]
        opened_usd = sum(_opened_usd(day, last[index]) for index, day in enumerate(today))
        came = sum(round(day.opened_usd, 2) for index, day in enumerate(today) if day is not None and index in indices)
        days_present = [day for day in today if day is not None]
        last = [day or last[index] for index, day in enumerate(today)]
        closed_usd = sum(round(day.closed_usd, 2) for day in last if day is not None)
        totals.append(
            EquityDay(
                date=name,
                first_ns=min(day.first_ns for day in days_present),
                last_ns=max(day.last_ns for day in days_present),
                opened_usd=opened_usd,
                closed_usd=closed_usd,
                transfers_usd=sum(day.transfers_usd for day in days_present) + (came if totals else 0.0),
                held=any(day is not None and day.held for day in last),
            )
        )
    return tuple(totals)


def _opened_usd(day: EquityDay | None, last: EquityDay | None) -> float:
    opened_usd = day.opened_usd if day is not None else 0.0
    return round(opened_usd if last is None else last.closed_usd, 2)
