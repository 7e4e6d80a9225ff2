"""The sessions of a file of option quotes, as the dry run and the price table need them: the chain near the money.

Only contracts that the desk could hold are kept: a few strikes of one expiry a session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from daemon.core.events import ContractsListed, SessionScheduled
from daemon.core.instruments.option_market import (
    bid_ask_cents_array,
    expiries_from,
    price_array,
    years_to_expiry,
)
from daemon.core.instruments.quotes import PENNY_ROOTS, choose_expiry, nearest
from daemon.core.limits import Trading
from daemon.core.state import OptionChain
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.quotes.day import DayQuotes, later_sessions, volatility_of
from daemon.tapes.quotes.tape import OptionQuotes
from strategies.kit.units import MINUTE_NS
from training.desks.scalper.history import RIGHTS, History, TradingDay, check_contracts
from training.desks.scalper.recorded.table import Int64Array, SessionQuotes
from training.study.folds import HistoryError


@dataclass(frozen=True, slots=True)
class QuotedDay:
    """One session with recorded quotes. `counts`: contract minutes near the money by the state of their quote."""

    scheduled: SessionScheduled  # includes the later sessions that the rules need
    listed: ContractsListed
    quotes: DayQuotes
    chain: OptionChain
    counts: Counter[str]  # recorded, standing, missing
    near: tuple[tuple[float, ...], Int64Array]  # strikes near the money, and the index of the nearest one at each close


def quoted_days(
    quotes: OptionQuotes, history: History, calendar: SessionCalendar, trading: Trading
) -> dict[str, QuotedDay]:
    """The usable sessions of the history that the file has quotes of, by date.

    Raises:
        HistoryError: no session of the bars has quotes, or the contracts cannot be trained on.
        TapeError: the file is damaged.
    """
    if quotes.root not in PENNY_ROOTS:
        raise HistoryError(
            f"{quotes.file.path}: contracts of {quotes.root}; training knows those that trade in cents "
            f"({', '.join(sorted(PENNY_ROOTS))}): pass quotes of one of them"
        )
    ends = {day.session.date: float(history.close[day.end - 1]) for day in history.days}
    closes = dict(quotes.closes or ends)
    usable = {day.session.date: day for day in history.usable}
    days: dict[str, QuotedDay] = {}
    for session in quotes.file.sessions():
        day = usable.get(session.date)
        if day is None:
            continue
        upcoming, previous = calendar.around(session.date)[1:]
        event = SessionScheduled(day.session.open_ns, day.session, upcoming, previous)
        scheduled = later_sessions(event, calendar.sessions, trading)
        volatility = volatility_of(closes, scheduled, trading.paper)
        quoted_day = _quoted_day(
            DayQuotes(session, day.session, quotes.root), scheduled, volatility, history, day, trading
        )
        if quoted_day is not None:
            days[session.date] = quoted_day
    if not days:
        raise HistoryError(
            f"{quotes.file.path}: no session of the bars that can be traded has quotes within the rules' days; "
            "expected quotes and bars of the same sessions: pass files that overlap"
        )
    return days


def _quoted_day(
    quotes: DayQuotes,
    scheduled: SessionScheduled,
    volatility: float | None,
    history: History,
    day: TradingDay,
    trading: Trading,
) -> QuotedDay | None:
    """The session's chain near the money; None where nothing fits the rules."""
    check_contracts(day, trading)
    listed = quotes.listed(scheduled, day.previous_close, volatility, trading)
    chain = choose_expiry(listed, scheduled.session, scheduled.upcoming, trading.contracts)
    if not chain.strikes:
        return None
    at_close = [nearest(chain.strikes, level) for level in history.close[day.first : day.end].tolist()]
    first, last = min(at_close), max(at_close)
    chosen = slice(first, last + 1)
    quotes.keep([contract.symbol for contract in (*chain.calls[chosen], *chain.puts[chosen])])
    near = (chain.strikes[chosen], np.array(at_close, dtype=np.int64) - first)
    return QuotedDay(scheduled, listed, quotes, chain, Counter(), near)


def session_quotes(quoted_day: QuotedDay, history: History, day: TradingDay, trading: Trading) -> SessionQuotes:
    """The session's quotes near the money, and the modelled prices where a minute has none.

    Raises:
        HistoryError: a price is no whole cent.
    """
    strikes, at_close = quoted_day.near
    ends = history.start_ns[day.first : day.end] + MINUTE_NS
    shape = (2, len(strikes), day.end - day.first)
    usd = np.zeros((4, *shape))
    for right in range(2):
        contracts = (quoted_day.chain.calls, quoted_day.chain.puts)[right]
        first = quoted_day.chain.strikes.index(strikes[0])
        for place in range(len(strikes)):
            symbol = contracts[first + place].symbol
            rows, fresh = quoted_day.quotes.rows_at(symbol, ends)
            usd[:, right, place] = np.where(rows >= 0, quoted_day.quotes.sides(rows, fresh), 0.0)
            near = (at_close == place) & (ends < day.session.close_ns)
            counts = {"recorded": fresh, "standing": (rows >= 0) & ~fresh, "missing": rows < 0}
            quoted_day.counts.update({name: int(np.count_nonzero(mask & near)) for name, mask in counts.items()})
    bid, ask = (np.rint(side * 100).astype(np.int64) for side in usd[:2])
    if np.abs(usd[:2] * 100 - (bid, ask)).max() > 1e-6:
        raise HistoryError(
            f"session {day.session.date}: option quotes with parts of a cent; training counts in cents: pass quotes of "
            "an exchange, not averages"
        )
    return SessionQuotes(strikes, at_close, bid, ask, usd[2], usd[3], _model(quoted_day, history, day, trading))


def _model(quoted_day: QuotedDay, history: History, day: TradingDay, trading: Trading) -> tuple[Int64Array, Int64Array]:
    """Bid and ask of the option market at each close; 0 where the session's volatility is unknown."""
    strikes, bars = quoted_day.near[0], slice(day.first, day.end)
    if quoted_day.listed.volatility is None:
        none = np.zeros((2, len(strikes), day.end - day.first), dtype=np.int64)
        return none, none
    expiries = [expiry.date for expiry in expiries_from(quoted_day.scheduled.session, quoted_day.scheduled.upcoming)]
    later_sessions = quoted_day.scheduled.upcoming[: expiries.index(quoted_day.chain.expiry)]
    years = [
        years_to_expiry(start + MINUTE_NS, day.session, later_sessions) for start in history.start_ns[bars].tolist()
    ]
    rights = np.array(RIGHTS, dtype=np.float64).reshape(2, 1, 1)
    grid = np.array(strikes).reshape(1, -1, 1)
    mids = price_array(history.close[bars], grid, np.array(years), quoted_day.listed.volatility, rights)
    return bid_ask_cents_array(mids, trading.paper)


def coverage(days: Mapping[str, QuotedDay], dates: Sequence[str]) -> dict[str, int]:
    """How many contract minutes near the money the file has for these sessions."""
    total: Counter[str] = Counter()
    for date in dates:
        total.update(days[date].counts)
    return {name: total[name] for name in ("recorded", "standing", "missing")}
