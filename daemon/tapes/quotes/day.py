"""One session's recorded quotes for a replay: its contracts, then the quotes that close each bar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from daemon.core.events import BarClosed, Contract, ContractsListed, Event, Quote, QuotesReceived, SessionScheduled
from daemon.core.instruments.option_market import parse_occ, session_volatility
from daemon.core.limits import Paper, Trading
from daemon.core.paper.state import RecordedState
from daemon.tapes.quotes.faults import FAULTS, STALE_NS, faults
from daemon.tapes.quotes.reader import Float64Array, Int64Array, QuoteArrays, rows_of
from daemon.tapes.quotes.spot import spots
from strategies.kit.contract import Session

STANDING = frozenset(("lean", "databento"))
"""Sources that omit minutes without a new quote: there the last quote stands, for `STALE_NS` at most."""
GRID = 10_000  # prices are whole multiples of 1 / GRID USD
_NONE: Int64Array = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class QuoteCounts:
    """Counts of the data given to the desk in this run. `quotes` counts requested contracts and minutes by result."""

    sessions: int = 0  # of the tape
    with_quotes: int = 0  # of these sessions
    first_date: str = ""  # of the first and the last session with quotes
    last_date: str = ""
    quotes: Counter[str] = field(default_factory=Counter)  # recorded, standing, missing
    faulty: int = 0  # rows left out, in sessions of the tape


class QuotedSession:
    """The recorded quotes added to the bars of one session; `day` is None if the file has none."""

    def __init__(self, underlying: str, day: DayQuotes | None, listing: ContractsListed | None) -> None:
        self._underlying = underlying
        self._day = day
        self._listing = listing

    def following(self, event: Event, market: RecordedState, counts: QuoteCounts) -> Iterator[Event]:
        """Yield the events after an event of the bars, unless journaled; `market` is the paper broker's state."""
        match event:
            case SessionScheduled() if self._listing is not None and market.listed_for < event.session.date:
                yield self._listing
            case BarClosed() if event.bar.symbol == self._underlying:
                if market.closed_bar_ns < event.bar.start_ns:
                    yield QuotesReceived(
                        event.time_ns, event.bar.start_ns, self._quotes_at(market, event.time_ns, counts)
                    )

    def _quotes_at(self, market: RecordedState, end_ns: int, counts: QuoteCounts) -> tuple[Quote, ...]:
        """Return the quotes at a minute's end of the contracts in use."""
        symbols_used = (
            *market.watched,
            *(holding.symbol for holding in market.holdings if holding.symbol != self._underlying),
            *(order.symbol for order in market.orders),
        )
        quotes: list[Quote] = []
        for symbol in dict.fromkeys(symbols_used):
            quote, kind = self._day.quote(symbol, end_ns) if self._day is not None else (None, "missing")
            counts.quotes[kind] += 1
            if quote is not None:
                quotes.append(quote)
        return tuple(quotes)


class DayQuotes:
    """Usable quotes of one session, by contract."""

    def __init__(self, quotes: QuoteArrays, session: Session, root: str) -> None:
        fault_masks = faults(quotes, session)
        wrong = np.any([fault_masks[name] for name in FAULTS], axis=0)
        rows_kept = np.flatnonzero(~wrong & ~fault_masks["outside"] & ~fault_masks["zero"])
        rows_kept = rows_kept[np.lexsort((quotes.end_ns[rows_kept], quotes.codes[rows_kept]))]
        self.faulty = int(np.count_nonzero(wrong))
        self.date = quotes.date
        self._quotes = quotes
        self._root = root
        self._stands = bool(quotes.sources) and STANDING.issuperset(quotes.sources)
        self._rows = self._by_contract(rows_kept)

    def _by_contract(self, rows: Int64Array) -> dict[str, Int64Array]:
        """Return the rows of each contract; `rows` are in order of contracts, then of time."""
        codes, begins = np.unique(self._quotes.codes[rows], return_index=True)
        names = self._quotes.contracts.symbols
        parts = np.split(rows, begins[1:]) if rows.size else []
        return {names[code]: part for code, part in zip(codes.tolist(), parts, strict=True)}

    @property
    def first_spot(self) -> float | None:
        """Return the underlying at the first usable quote: recorded, else by put-call parity."""
        if not self._rows:
            return None
        rows = np.sort(np.concatenate(list(self._rows.values())))
        prices = spots(self._quotes)[rows]
        prices = prices[np.isfinite(prices)]
        return float(prices[0]) if prices.size else None

    def contracts(self, open_interest: int) -> list[Contract]:
        """Return the contracts with a usable quote by expiry, strike and right; the file lacks their open interest."""
        contracts = [
            Contract(symbol, occ.expiry, occ.right, occ.strike, open_interest)
            for symbol in self._rows
            if (occ := parse_occ(symbol)) is not None and occ.root == self._root
        ]
        return sorted(contracts, key=lambda contract: (contract.expiry, contract.strike, -contract.right))

    def listed(
        self, event: SessionScheduled, spot: float | None, volatility: float | None, trading: Trading
    ) -> ContractsListed:
        """Return the contracts within the rules' days to expiry, with `strikes_each_side` strikes around `spot` in USD.

        `spot` is the last close; if unknown, the underlying at the first quote. `volatility` is the session's.
        """
        rule, each_side = trading.contracts, trading.paper.strikes_each_side
        dates = [event.session.date, *(later.date for later in event.upcoming)][rule.min_days : rule.max_days + 1]
        terms = [contract for contract in self.contracts(trading.paper.open_interest) if contract.expiry in set(dates)]
        strikes = sorted({contract.strike for contract in terms})
        middle = self.first_spot if spot is None else spot
        if middle is not None:
            below = [strike for strike in strikes if strike <= middle][-each_side:]
            above = [strike for strike in strikes if strike > middle][:each_side]
            strikes = [*below, *above]
        strikes_kept = set(strikes)
        contracts = tuple(contract for contract in terms if contract.strike in strikes_kept)
        return ContractsListed(event.time_ns, event.session.date, contracts, volatility)

    def keep(self, symbols: Collection[str]) -> None:
        """Drop all other contracts."""
        codes = [self._quotes.contracts.symbols.index(symbol) for symbol in symbols if symbol in self._rows]
        self._quotes = rows_of(self._quotes, np.flatnonzero(np.isin(self._quotes.codes, codes)))
        self._rows = self._by_contract(np.arange(self._quotes.codes.size))

    def quote(self, symbol: str, end_ns: int) -> tuple[Quote | None, str]:
        """Return the quote at a minute's end, and whether it is `recorded`, `standing` or `missing`."""
        rows, fresh = self.rows_at(symbol, np.array([end_ns]))
        row = int(rows[0])
        if row < 0:
            return None, "missing"
        return self._quote_of(symbol, row, end_ns, fresh=bool(fresh[0])), "recorded" if fresh[0] else "standing"

    def rows_at(self, symbol: str, ends_ns: Int64Array) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
        """Return (n,) the row whose quote applies at each time, -1 for none, and whether it is of the same minute."""
        rows = self._rows.get(symbol, _NONE)
        if not rows.size:
            return np.full(ends_ns.size, -1), np.zeros(ends_ns.size, dtype=np.bool_)
        at = np.searchsorted(self._quotes.end_ns[rows], ends_ns, side="right") - 1
        newest = rows[np.maximum(at, 0)]
        ages_ns = np.where(at < 0, 2 * STALE_NS, ends_ns - self._quotes.end_ns[newest])
        holds = ages_ns <= (STALE_NS if self._stands else 0)
        return np.where(holds, newest, -1), ages_ns == 0

    def sides(self, rows: Int64Array, fresh: npt.NDArray[np.bool_]) -> tuple[Float64Array, ...]:
        """Return bid, ask, lowest and highest mid of rows, (n,) each in USD; for a row of -1 they are meaningless."""
        bid, ask = (np.rint(side[rows] * GRID) for side in (self._quotes.bid, self._quotes.ask))
        low_bid, high_bid, low_ask, high_ask = np.rint(self._quotes.extremes[:, rows] * GRID)
        is_two_sided = fresh & (np.minimum(bid, ask) > 0)
        middle = bid + ask  # twice the mid, so that sums are exact
        with np.errstate(invalid="ignore"):
            low = np.where(is_two_sided & (low_bid > 0) & (low_ask > 0), np.minimum(middle, low_bid + low_ask), middle)
            high = np.where(
                is_two_sided & (high_bid > 0) & (high_ask > 0), np.maximum(middle, high_bid + high_ask), middle
            )
        return bid / GRID, ask / GRID, low / (2 * GRID), high / (2 * GRID)

    def _quote_of(self, symbol: str, row: int, end_ns: int, *, fresh: bool) -> Quote:
        """Return a row as a quote; its range are the mids of the minute's lowest and of its highest bid and ask."""
        bid, ask = _usd(self._quotes.bid[row]), _usd(self._quotes.ask[row])
        middle = (bid + ask) / 2
        low_bid, high_bid, low_ask, high_ask = self._quotes.extremes[:, row].tolist()
        low = high = middle
        if fresh and min(bid, ask) > 0 and low_bid > 0 and low_ask > 0:  # False for NaN
            low = min(middle, (_usd(low_bid) + _usd(low_ask)) / 2)
        if fresh and min(bid, ask) > 0 and high_bid > 0 and high_ask > 0:
            high = max(middle, (_usd(high_bid) + _usd(high_ask)) / 2)
        return Quote(symbol, bid, ask, low, high, end_ns)


def volatility_of(closes: Mapping[str, float], event: SessionScheduled, paper: Paper) -> float | None:
    """Return a session's volatility from earlier closes by date; None if the last or too many are missing."""
    dates = sorted(date for date in closes if date < event.session.date)
    date_before = event.previous[-1].date if event.previous else ""
    if not dates or dates[-1] != date_before:
        return None
    return session_volatility([closes[date] for date in dates], paper)


def later_sessions(event: SessionScheduled, sessions: Sequence[Session], trading: Trading) -> SessionScheduled:
    """Return the event with more later sessions than a live desk knows, if the rules allow later expiries."""
    at, most = sessions.index(event.session), max(trading.contracts.max_days, len(event.upcoming))
    return replace(event, upcoming=tuple(sessions[at + 1 : at + 1 + most]))


def _usd(value: float) -> Decimal:
    """Return a price of the schema, exact to 0.0001 USD."""
    return Decimal(repr(round(float(value), 4)))
