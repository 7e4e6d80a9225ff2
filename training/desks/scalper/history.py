"""A bars file as arrays: whole sessions with features and volatility, and the price of every option, computed once.

Reads feed events, so the same files feed training, dry run and replay. Prices are integer cents for every session,
right, strike and bar, by the functions that price the paper broker, so both agree to the cent. A session's inputs at
its open come from earlier sessions alone. Nothing is priced while an episode runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from daemon.core.events import BarClosed, Event, SessionScheduled
from daemon.core.instruments.option_market import bid_ask_cents_array, price_array, session_volatility, years_to_expiry
from daemon.core.instruments.quotes import nearest
from daemon.core.limits import Trading
from daemon.core.session import LATER, flatten_from_ns
from strategies.kit.contract import Session, Spec
from strategies.kit.units import MINUTE_NS, SECOND_NS
from strategies.option_scalper import feature_table
from training.study.folds import HistoryError

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TradingDay:
    """One session of the history. `first` and `end` are its rows [first, end) in the history's arrays."""

    session: Session
    upcoming: tuple[Session, ...]
    first: int
    end: int
    flatten: int  # the row at whose close the last exit is sent; a row follows it
    previous_close: float
    volatility: float | None  # annualised, known before the open; None while too few sessions came before
    usable: bool  # warm, with a known volatility, long enough, and with a bar after the flatten


@dataclass(frozen=True, slots=True)
class History:
    """All regular-session bars of one symbol, oldest first; each array has one row for each bar."""

    start_ns: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    features: Float64Array  # (rows, 20)
    minute: Int64Array  # from the session's open to the bar's end
    gap: Int64Array  # longest gap in minutes within the observation that ends at this row
    days: tuple[TradingDay, ...]

    @property
    def usable(self) -> tuple[TradingDay, ...]:
        """The sessions an episode can be played on."""
        return tuple(day for day in self.days if day.usable)


def read_history(events: Iterable[Event], spec: Spec, trading: Trading) -> History:
    """Gather `BarClosed` of the spec's only symbol between `SessionScheduled` events.

    Raises:
        HistoryError: no bar at all, or bars that are further apart than the spec's interval.
    """
    scheduled: list[SessionScheduled] = []
    firsts: list[int] = []
    rows: list[tuple[int, float, float, float, float, float]] = []
    for event in events:
        if isinstance(event, SessionScheduled):
            if firsts and firsts[-1] == len(rows):  # a session without a bar
                scheduled.pop()
                firsts.pop()
            scheduled.append(event)
            firsts.append(len(rows))
        elif isinstance(event, BarClosed) and event.bar.symbol in spec.symbols:
            bar = event.bar
            rows.append((bar.start_ns, bar.open, bar.high, bar.low, bar.close, bar.volume))
    if not rows:
        raise HistoryError(f"the file has no regular-session bar of {', '.join(spec.symbols)}: choose another file")
    if firsts[-1] == len(rows):
        scheduled.pop()
        firsts.pop()
    start_ns = np.array([row[0] for row in rows], dtype=np.int64)
    open_, high, low, close, volume = np.array([row[1:] for row in rows], dtype=np.float64).T
    starts = np.array(firsts, dtype=np.int64)
    counts = np.diff(np.append(starts, len(rows)))
    opens = np.repeat(np.array([event.session.open_ns for event in scheduled], dtype=np.int64), counts)
    minute = (start_ns - opens) // MINUTE_NS + spec.bar_interval_s // 60
    table = feature_table(
        open_,
        high,
        low,
        close,
        volume,
        session_starts=starts,
        session_minutes=np.array([(e.session.close_ns - e.session.open_ns) // MINUTE_NS for e in scheduled]),
        elapsed_minutes=minute,
    )
    days: list[TradingDay] = []
    for index, (event, first, count) in enumerate(zip(scheduled, firsts, counts.tolist(), strict=True)):
        volatility = session_volatility([float(close[day.end - 1]) for day in days], trading.paper)
        flatten = _flatten_row(event.session, start_ns[first : first + count], spec, trading) + first
        days.append(
            TradingDay(
                session=event.session,
                upcoming=event.upcoming,
                first=first,
                end=first + count,
                flatten=flatten,
                previous_close=float(close[first - 1]) if index else float("nan"),
                volatility=volatility,
                usable=bool(table.warm[first])
                and volatility is not None
                and first + spec.window <= flatten < first + count - 1,
            )
        )
    gap = _gaps(start_ns, starts, spec)
    usual = int(np.median(np.diff(start_ns))) // SECOND_NS if len(rows) > 1 else spec.bar_interval_s
    if usual != spec.bar_interval_s:
        raise HistoryError(
            f"wrong bar interval: bars are {usual} s apart, {spec.name} needs {spec.bar_interval_s} s: "
            "give a file with bars of that length"
        )
    return History(start_ns, open_, high, low, close, table.values, minute, gap, tuple(days))


def entry_rows(history: History, days: Sequence[TradingDay], trading: Trading) -> npt.NDArray[np.bool_]:
    """Rows at whose close the clock and the window's bars allow an entry, bool (rows,)."""
    risk = trading.risk
    minute, gap = history.minute, history.gap
    allowed = np.zeros(len(history.close), dtype=np.bool_)
    for day in days:
        rows = slice(day.first, day.end)
        length = (day.session.close_ns - day.session.open_ns) // MINUTE_NS
        late = length - minute[rows] <= risk.no_entry_before_close_min
        early = minute[rows] < risk.no_entry_after_open_min
        allowed[rows] = ~late & ~early & (gap[rows] <= risk.gap_min)
    return allowed


def _flatten_row(session: Session, starts: Int64Array, spec: Spec, trading: Trading) -> int:
    """The first row whose close is at or after the time at which the flatten is sent; the row count if none is."""
    deadline = flatten_from_ns(session, LATER, trading.execution, spec.grid)
    return int(np.searchsorted(starts + spec.bar_interval_s * SECOND_NS, deadline))


def _gaps(start_ns: Int64Array, starts: Int64Array, spec: Spec) -> Int64Array:
    """The longest gap in minutes between neighbouring bars of the window that ends at each row, int64 (rows,)."""
    missing = np.diff(start_ns, prepend=start_ns[0]) // MINUTE_NS - spec.bar_interval_s // 60
    missing[starts] = 0
    padded = np.concatenate([np.zeros(spec.window - 2, dtype=np.int64), missing])
    windows = np.lib.stride_tricks.sliding_window_view(padded, spec.window - 1)
    longest: Int64Array = windows.max(axis=1)
    return longest


SHARES = 100  # shares of the underlying in one contract
RIGHTS = (+1, -1)
MOMENTS = ("open_bid", "open_ask", "close_bid", "close_ask", "lowest", "highest")
MILLION = 10**6  # fractions of the limits are whole millionths, so that sizes are exact
DENIED = 2**62  # a cost above every budget


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Option prices in cells. A contract's cell at history row r is lane + r; the figures of one cell are adjacent.

    Within a bar, a contract's range is from its lowest to its highest mid.
    """

    opens: Tensor  # int64 (cells, 2): bid and ask at the bar's open, cents a share
    closes: Tensor  # int64 (cells, 2): bid, and bid + ask, at the bar's close, cents a share
    mids: Tensor  # float64 (cells, 3): lowest, highest, and at the close, USD a share
    costs: Tensor  # int64 (cells,): cost of a contract at its entry limit in millionths of a cent, or `DENIED`
    lanes: Tensor  # int64 (rows, 2): lanes of the call and the put nearest the money at the row's close

    def to(self, device: torch.device | str) -> Self:
        """The same table on `device`; itself where it is there already."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True)
class DayPrices:
    """One session: int64 arrays (2 rights, strikes, bars) in cents, and the strike nearest the money at each close."""

    strikes: tuple[int, ...]
    open_bid: Int64Array
    open_ask: Int64Array
    close_bid: Int64Array
    close_ask: Int64Array
    lowest: Int64Array
    highest: Int64Array
    nearest: Int64Array  # (bars,) index into strikes


@dataclass(frozen=True, slots=True)
class DayQuoted:
    """One session's contracts near the money with their bid and ask in cents at four moments of each bar.

    Each of `open`, `close`, `lowest`, `highest` is (bid, ask), int64 arrays (2 rights, strikes, bars).
    """

    strikes: tuple[float, ...]
    nearest: Int64Array  # (bars,) index into strikes at each close
    open: tuple[Int64Array, Int64Array]
    close: tuple[Int64Array, Int64Array]
    lowest: tuple[Int64Array, Int64Array]
    highest: tuple[Int64Array, Int64Array]


def price_day(history: History, day: TradingDay, trading: Trading) -> DayPrices:
    """Price every contract that could be entered on this session: the nearest expiry allowed, strikes near the money.

    Raises HistoryError as `quote_day`.
    """
    quotes = quote_day(history, day, trading)
    return DayPrices(
        strikes=tuple(int(strike) for strike in quotes.strikes),
        open_bid=quotes.open[0],
        open_ask=quotes.open[1],
        close_bid=quotes.close[0],
        close_ask=quotes.close[1],
        lowest=quotes.lowest[0] + quotes.lowest[1],
        highest=quotes.highest[0] + quotes.highest[1],
        nearest=quotes.nearest,
    )


def quote_day(history: History, day: TradingDay, trading: Trading) -> DayQuoted:
    """Quote every contract that could be entered on this session, in the option market of the paper broker.

    Calls are lowest at the bar's low, puts at its high. All quotes but the open's use the time of the bar's end.

    Raises:
        HistoryError: the configured contracts have no upcoming session, expire today, or go by delta.
    """
    rule = trading.contracts
    check_contracts(day, trading)
    if day.volatility is None:
        raise HistoryError(f"session {day.session.date} has no volatility yet: skip it")
    rows = slice(day.first, day.end)
    close = history.close[rows]
    centre = int(day.previous_close + 0.5)
    each_side = trading.paper.strikes_each_side
    listed = tuple(float(strike) for strike in range(max(centre - each_side, 1), centre + each_side + 1))
    at_close = np.array([nearest(listed, level) for level in close.tolist()], dtype=np.int64)
    lowest_index = int(at_close.min())
    strikes = listed[lowest_index : int(at_close.max()) + 1]
    later_sessions = day.upcoming[: rule.min_days]
    begin = [years_to_expiry(start, day.session, later_sessions) for start in history.start_ns[rows].tolist()]
    end = [years_to_expiry(start + MINUTE_NS, day.session, later_sessions) for start in history.start_ns[rows].tolist()]
    rights = np.array(RIGHTS, dtype=np.float64).reshape(2, 1, 1)
    grid = np.array(strikes).reshape(1, -1, 1)
    low, high = history.low[rows], history.high[rows]
    quoted = {}
    for moment, spot, years in (
        ("open", history.open[rows], begin),
        ("close", close, end),
        ("lowest", np.where(rights > 0, low, high), end),
        ("highest", np.where(rights > 0, high, low), end),
    ):
        mids = price_array(spot, grid, np.array(years), day.volatility, rights)
        quoted[moment] = bid_ask_cents_array(mids, trading.paper)
    return DayQuoted(strikes, at_close - lowest_index, **quoted)


def check_contracts(day: TradingDay, trading: Trading) -> None:
    """Raise HistoryError where the rules choose contracts that training cannot price."""
    rule = trading.contracts
    if rule.min_days < 1 or rule.strike != "nearest" or len(day.upcoming) < rule.min_days:
        raise HistoryError(
            f"training prices the strike nearest the money, 1 or more sessions to expiry; found strike {rule.strike!r},"
            f" min_days {rule.min_days} and {len(day.upcoming)} sessions after {day.session.date}: use the defaults"
        )


def price_table(history: History, days: tuple[TradingDay, ...], trading: Trading) -> PriceTable:
    """`price_day` for each of `days`, laid out in one row of cells. Rows of other sessions have lane 0."""
    columns: dict[str, list[Int64Array]] = {name: [np.zeros(0, dtype=np.int64)] for name in MOMENTS}
    lanes = np.zeros((len(history.close), 2), dtype=np.int64)
    offset = 0
    for day in days:
        prices = price_day(history, day, trading)
        for name, parts in columns.items():
            parts.append(getattr(prices, name).ravel())
        bars = day.end - day.first
        for right in range(2):
            lane = offset + (right * len(prices.strikes) + prices.nearest) * bars - day.first
            lanes[day.first : day.end, right] = lane
        offset += 2 * len(prices.strikes) * bars
    tensors = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
    return packed(tensors, torch.from_numpy(lanes), trading)


def packed(columns: Mapping[str, Tensor], lanes: Tensor, trading: Trading) -> PriceTable:
    """The table of `columns`: each of `MOMENTS`, int64 (cells,), as in `DayPrices`."""
    bid, ask = columns["close_bid"], columns["close_ask"]
    twice = [columns["lowest"], columns["highest"], bid + ask]
    return PriceTable(
        opens=torch.stack([columns["open_bid"], columns["open_ask"]], dim=1),
        closes=torch.stack([bid, bid + ask], dim=1),
        mids=torch.stack(twice, dim=1).double() / 200.0,
        costs=entry_costs(bid, ask, trading),
        lanes=lanes.contiguous(),
    )


def entry_costs(bid: Tensor, ask: Tensor, trading: Trading) -> Tensor:
    """What one contract costs at its entry limit by the core's rule (`entry_limit`), in millionths of a cent, int64.

    `DENIED` where there is no bid or the spread is wider than the gate lets pass. The number of contracts is a premium
    budget in the same unit divided by this cost, rounded down (`contracts_for`).
    """
    limit = ask * millionths(1 + exact(trading.execution.entry_slack)) // MILLION
    bound = (bid + ask) * millionths(1 + exact(trading.risk.price_collar)) // (2 * MILLION)
    cost = torch.minimum(limit, bound).clamp(min=1) * SHARES * MILLION
    narrow = (ask - bid) * 2 * MILLION <= (bid + ask) * millionths(exact(trading.risk.spread_max))
    return torch.where(narrow & (bid > 0), cost, DENIED)


def exact(value: float) -> Decimal:
    """A configured fraction as it was written."""
    return Decimal(str(value))


def millionths(value: Decimal) -> int:
    """The value in millionths, which must be whole.

    Raises:
        ValueError: the value has more than six decimals.
    """
    result = value * MILLION
    if result != int(result):
        raise ValueError(f"a limit of the desk is {value}; training counts in millionths: write at most six decimals")
    return int(result)
