"""The gap of a session, and over several: real fills against paper fills of the same orders, by reason.

The paper fills are those of a dry run's paper broker, from the journal alone. Each order is judged by itself: the paper
account always has the cash and the position that the order needs, so a fill of only one side changes no later order.
Recorded quotes, if there are any, replace the session's own. A cost is positive where the real fill was worse. Money is
Decimal, times are nanoseconds UTC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from daemon.core.broker.ledger import AMENDED, FEES
from daemon.core.effects import AnyEffect, SubmitOrder
from daemon.core.events import Activity, Event, OrderFilled, OrderRejected, Quote, QuotesReceived, SessionScheduled
from daemon.core.instruments.option_market import parse_occ
from daemon.core.paper.state import PaperPosition, PaperState, SharePaperState
from daemon.core.session import new_york_text
from daemon.core.step import Core
from daemon.engine.recover import DRY_RUN, first_trading, left_of
from daemon.journal.reader import JournalReader
from daemon.journal.rows import decode_event, strategy_of
from daemon.reports.execution_quality import BP, ZERO, OrderQuality
from daemon.reports.gather import read_day
from daemon.reports.holdings import rows_between
from daemon.reports.record import REPORT_SPAN_NS, WARM_NS, first_id, session_of
from daemon.reports.shadow import FEWEST, interval_of_mean
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.day import DayQuotes
from daemon.tapes.quotes.reader import QuoteFile
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity, from_json
from strategies.kit.units import MINUTE_NS


def day_quotes(path: Path, session: Session) -> DayQuotes:
    """Return the session's quotes in a file, or in a folder of files called `DATE.parquet`.

    Raises ValueError: there are none, or the file is unusable.
    """
    file = path / f"{session.date}.parquet" if path.is_dir() else path
    try:
        for quotes in QuoteFile(file).sessions():
            if quotes.date == session.date:
                return DayQuotes(quotes, session, next(iter(quotes.contracts.roots), ""))
    except TapeError as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"{file}: no quote of {session.date}: pass the file of that session")


def with_recorded(
    events: Iterable[tuple[Event, tuple[AnyEffect, ...]]],
    session: Session,
    quotes: DayQuotes,
    working: Callable[[], Iterable[str]],
) -> Iterator[tuple[Event, tuple[AnyEffect, ...]]]:
    """Yield the events, and at each minute's end the recorded quotes of the contracts that are `working` by then.

    Quotes of the journal itself are left out, except those that close a bar, for fills without a quote.
    """

    def quotes_at(end_ns: int) -> tuple[Quote, ...]:
        symbols = [symbol for symbol in dict.fromkeys(working()) if parse_occ(symbol) is not None]
        quotes_of = (quotes.quote(symbol, end_ns)[0] for symbol in symbols)
        return tuple(quote for quote in quotes_of if quote is not None)

    end_ns = session.open_ns + MINUTE_NS
    for event, effects in events:
        while end_ns <= min(event.time_ns, session.close_ns):
            yield QuotesReceived(end_ns, 0, quotes_at(end_ns)), ()
            end_ns += MINUTE_NS
        if isinstance(event, QuotesReceived):
            closing = quotes_at(event.closes_bar_ns + MINUTE_NS) if event.closes_bar_ns else ()
            yield replace(event, quotes=closing), effects
        else:
            yield event, effects


RECORDED = "recorded"  # the mode of a dry run on recorded quotes
PLENTY = Decimal(10) ** 12  # USD, enough for every order


class PaperOrder(msgspec.Struct, frozen=True):
    """Result of an order on paper. `cost` is the sum of price x quantity, `fees` are USD.

    `first_fill_ns` is 0 without a fill.
    """

    filled: Quantity = 0
    cost: Decimal = Decimal(0)
    first_fill_ns: int = 0
    rejected: str = ""
    fees: Decimal = Decimal(0)


def paper_orders(reader: JournalReader, session: Session, quotes: DayQuotes | None = None) -> dict[str, PaperOrder]:
    """Return the session's orders by name, as the paper broker of a dry run on a live feed fills them.

    With `quotes`, as in a dry run on these recorded quotes. Raises JournalError, ValueError for an unknown strategy, or
    for quotes with a strategy that trades no options.
    """
    desk = Core(strategy_of(reader.meta())).desk
    if quotes is not None and not desk.spec.chained:
        raise ValueError(f"{desk.spec.name} trades no options: leave the quotes out")
    mode = DRY_RUN if quotes is None else RECORDED
    market = desk.paper(first_trading(reader), mode)
    if market is None:
        raise ValueError(f"the mode {mode!r} has no paper broker")
    state: Any = market.start()
    orders: dict[str, PaperOrder] = {}
    events = _events(reader, session)
    if quotes is not None:
        events = with_recorded(events, session, quotes, lambda: [order.symbol for order in state.orders])
    for event, effects in events:
        first: list[AnyEffect] = []
        for effect in effects:
            if isinstance(effect, SubmitOrder) and effect.stop_price is not UNSET:
                continue  # no paper broker rests stops
            if isinstance(effect, SubmitOrder):
                if effect.client_order_id in orders:
                    continue  # the same order, sent again
                orders[effect.client_order_id] = PaperOrder()
                state = _endow(state, effect)
            first.append(effect)
        state, news = market.step(state, event, tuple(first))
        _note(orders, news)
    return orders


def _events(reader: JournalReader, session: Session) -> Iterator[tuple[Event, tuple[AnyEffect, ...]]]:
    """Yield the session's events from its first schedule on, with the effects that left the desk."""
    begin, end = first_id(reader, session.open_ns - WARM_NS), first_id(reader, session.close_ns + REPORT_SPAN_NS)
    has_begun = False
    for entry in rows_between(reader, begin, end):
        try:
            event, effects = decode_event(entry.payload), left_of(entry.effects)
        except (msgspec.MsgspecError, UnicodeError):
            continue  # a damaged row: counted by the reader of the day
        if isinstance(event, SessionScheduled):
            if has_begun and event.session.date > session.date:
                return
            has_begun = has_begun or event.session.date == session.date
        if has_begun:
            yield event, effects


def _endow(state: PaperState | SharePaperState, order: SubmitOrder) -> PaperState | SharePaperState:
    """Return the state with cash for the order and, for a sale, with the quantity of it and the working sales."""
    state = replace(state, cash=PLENTY)
    if order.side > 0:
        return state
    working = sum(other.quantity for other in state.orders if other.symbol == order.symbol and other.side < 0)
    position = PaperPosition(order.symbol, order.quantity + working, Decimal(0))
    if isinstance(state, SharePaperState):
        return replace(state, holdings={**state.holdings, order.symbol: position})
    other_holdings = tuple(holding for holding in state.holdings if holding.symbol != order.symbol)
    return replace(state, holdings=(*other_holdings, position))


def _note(orders: dict[str, PaperOrder], news: Sequence[Event]) -> None:
    for event in news:
        if isinstance(event, OrderRejected):
            name = event.client_order_id
            orders[name] = replace(orders[name], rejected=event.reason)
        elif isinstance(event, OrderFilled):
            name = event.client_order_id
            orders[name] = PaperOrder(
                event.cumulative_quantity,
                event.cumulative_cost,
                orders[name].first_fill_ns or event.filled_ns,
                fees=event.cumulative_fees,
            )


class _JournaledReport(msgspec.Struct):
    """The field of a journaled report that is used here."""

    activities: tuple[Activity, ...]


_REPORTED = msgspec.json.Decoder(_JournaledReport, dec_hook=from_json)
REASONS = {
    "same": "both filled alike",
    "price": "both filled as much, at other prices",
    "quantity": "both filled, not as much",
    "live_only": "filled, on paper not: no later quote before its end reached the limit",
    "paper_refused": "filled, on paper refused",
    "paper_only": "on paper filled, not at the broker: canceled, expired or rejected there",
    "neither": "neither filled",
}


class GapLine(msgspec.Struct, frozen=True, kw_only=True):
    """One order at the broker and on paper. Prices USD a share, averages None without a fill."""

    client_order_id: str
    symbol: str
    side: int
    purpose: str  # entry or exit
    quantity: Quantity
    multiplier: int
    reason: str  # of `REASONS`
    live_status: str
    live_filled: Quantity
    live_price: Decimal | None
    live_delay_s: float | None  # from sending to the first fill
    paper_filled: Quantity
    paper_price: Decimal | None
    paper_delay_s: float | None
    paper_refusal: str
    cost_usd: Decimal | None  # of the quantity filled by both
    notional_usd: Decimal  # of the quantity filled by both, at the paper's price
    live_fees: Decimal = ZERO  # USD that came with the fills; a broker's ledger may have further ones
    paper_fees: Decimal = ZERO

    @property
    def cost_bp(self) -> Decimal | None:
        """The cost in basis points of the paper's price."""
        return self.cost_usd / self.notional_usd * BP if self.cost_usd is not None and self.notional_usd else None


class Gap(msgspec.Struct, frozen=True):
    """A session of a desk."""

    date: str
    mode: str
    lines: tuple[GapLine, ...]
    ledger_fees_usd: Decimal = ZERO  # dated on this day by the broker's ledger
    unread: int = 0  # rows of the journal that could not be read

    @property
    def cost_usd(self) -> Decimal:
        return sum((line.cost_usd or ZERO for line in self.lines), ZERO)

    @property
    def live_fees_usd(self) -> Decimal:
        return sum((line.live_fees for line in self.lines), self.ledger_fees_usd)

    @property
    def paper_fees_usd(self) -> Decimal:
        return sum((line.paper_fees for line in self.lines), ZERO)

    @property
    def net_usd(self) -> Decimal:
        """The cost with the fees of the quantity filled by both and those of the ledger."""
        common_lines = [line for line in self.lines if line.cost_usd is not None]
        return (
            self.cost_usd
            + self.ledger_fees_usd
            + sum((line.live_fees - line.paper_fees for line in common_lines), ZERO)
        )

    @property
    def notional_usd(self) -> Decimal:
        return sum((line.notional_usd for line in self.lines), ZERO)


class ReasonLine(msgspec.Struct, frozen=True):
    """All orders of one reason."""

    reason: str
    orders: int
    cost_usd: Decimal
    notional_usd: Decimal


class GapSummary(msgspec.Struct, frozen=True):
    """Several sessions. The interval is of the mean cost of a session with a fill on both sides, at 95 %."""

    sessions: tuple[str, ...]
    orders: int
    alike: float | None  # share of the orders with equal fills on paper and at the broker, or none
    cost_usd: Decimal
    cost_bp: Decimal | None
    mean_usd: float | None
    low_usd: float | None  # None with fewer than FEWEST such sessions
    high_usd: float | None
    reasons: tuple[ReasonLine, ...]
    live_fees_usd: Decimal = ZERO
    paper_fees_usd: Decimal = ZERO
    net_usd: Decimal = ZERO  # the cost with fees, of the quantity filled by both
    unread: int = 0  # rows of their journal that could not be read


def read_gap(journal: Path, date: str | None, quotes: Path | None = None) -> Gap:
    """Return the gap of a session, by default the newest; with `quotes`, to a dry run on that file or folder.

    Raises JournalError, ValueError.
    """
    with session_of(journal, date) as (reader, session):
        day = read_day(reader, session)
        paper = paper_orders(reader, session, None if quotes is None else day_quotes(quotes, session))
        fees = ledger_fees(reader, session)
    lines = [line_of(order, paper.get(order.client_order_id, PaperOrder())) for order in day.quality.orders]
    return Gap(session.date, day.mode, tuple(lines), fees, day.unread)


def ledger_fees(reader: JournalReader, session: Session) -> Decimal:
    """Return the fees in USD that the broker's ledger dates on the session's day, each line once."""
    rows = reader.query(
        "SELECT payload FROM events WHERE kind = 'BrokerReported' AND time_ns BETWEEN ? AND ? ORDER BY id",
        (session.open_ns, session.close_ns + WARM_NS),
    )
    fee_of: dict[str, Decimal] = {}
    for row in rows:
        try:
            activities = _REPORTED.decode(row["payload"]).activities
        except (msgspec.MsgspecError, UnicodeError):
            continue  # a damaged row: later reports repeat the line
        for line in activities:
            counts = line.kind in FEES and line.status not in AMENDED
            if counts and new_york_text(line.time_ns).startswith(session.date):
                fee_of[line.id] = -line.amount
    return sum(fee_of.values(), ZERO)


def line_of(order: OrderQuality, paper: PaperOrder) -> GapLine:
    """Compare an order with its paper order."""
    price = paper.cost / paper.filled if paper.filled else None
    common_filled = min(order.filled, paper.filled)
    cost, notional = None, ZERO
    if common_filled and order.average is not None and price is not None:
        cost = order.side * (order.average - price) * common_filled * order.multiplier + ZERO  # no negative zero
        notional = price * common_filled * order.multiplier
    return GapLine(
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=order.side,
        purpose=order.purpose,
        quantity=order.quantity,
        multiplier=order.multiplier,
        reason=_reason(order, paper),
        live_status=order.status,
        live_filled=order.filled,
        live_price=order.average,
        live_delay_s=_delay(order.first_fill_ns, order.submitted_ns),
        paper_filled=paper.filled,
        paper_price=price,
        paper_delay_s=_delay(paper.first_fill_ns, order.submitted_ns),
        paper_refusal=paper.rejected,
        cost_usd=cost,
        notional_usd=notional,
        live_fees=order.fees,
        paper_fees=paper.fees,
    )


def _reason(order: OrderQuality, paper: PaperOrder) -> str:
    if not order.filled or not paper.filled:
        if order.filled:
            return "paper_refused" if paper.rejected else "live_only"
        return "paper_only" if paper.filled else "neither"
    if order.filled != paper.filled:
        return "quantity"
    return "same" if order.cost == paper.cost else "price"


def _delay(filled_ns: int, sent_ns: int) -> float | None:
    return (filled_ns - sent_ns) / 1e9 if filled_ns else None


def summary_of(gaps: Sequence[Gap]) -> GapSummary:
    """Return the sessions' sums, by reason, and the interval of their mean cost."""
    by_reason: dict[str, list[GapLine]] = defaultdict(list)
    for line in (line for gap in gaps for line in gap.lines):
        by_reason[line.reason].append(line)
    costs = np.array([float(gap.cost_usd) for gap in gaps if gap.notional_usd], dtype=np.float64)
    low, high = None, None
    if costs.size >= FEWEST:
        low, high = interval_of_mean(costs, max(costs.size ** (1.0 / 3.0), 1.0))
    orders = sum(len(lines) for lines in by_reason.values())
    alike = sum(len(by_reason[name]) for name in ("same", "price", "neither"))
    cost = sum((gap.cost_usd for gap in gaps), ZERO)
    notional = sum((gap.notional_usd for gap in gaps), ZERO)
    return GapSummary(
        sessions=tuple(gap.date for gap in gaps),
        orders=orders,
        alike=alike / orders if orders else None,
        cost_usd=cost,
        cost_bp=cost / notional * BP if notional else None,
        mean_usd=float(costs.mean()) if costs.size else None,
        low_usd=low,
        high_usd=high,
        reasons=tuple(_reason_line(name, by_reason[name]) for name in REASONS if by_reason[name]),
        live_fees_usd=sum((gap.live_fees_usd for gap in gaps), ZERO),
        paper_fees_usd=sum((gap.paper_fees_usd for gap in gaps), ZERO),
        net_usd=sum((gap.net_usd for gap in gaps), ZERO),
        unread=sum(gap.unread for gap in gaps),
    )


def _reason_line(name: str, lines: Sequence[GapLine]) -> ReasonLine:
    return ReasonLine(
        name,
        len(lines),
        sum((line.cost_usd or ZERO for line in lines), ZERO),
        sum((line.notional_usd for line in lines), ZERO),
    )
