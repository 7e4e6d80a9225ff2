"""Fill the orders of one session with the paper broker of a dry run, from the journal alone.

Each order is judged by itself: the paper account always has the cash and the position that the order needs, so a fill
of only one side changes no later order. Recorded quotes, if given, replace the session's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from daemon.core.effects import AnyEffect, SubmitOrder
from daemon.core.events import Event, OrderFilled, OrderRejected, Quote, QuotesReceived, SessionScheduled
from daemon.core.instruments.option_market import parse_occ
from daemon.core.paper.state import PaperPosition, PaperState, SharePaperState
from daemon.core.step import Core
from daemon.engine.recover import DRY_RUN, first_trading, left_of
from daemon.journal.reader import JournalReader
from daemon.journal.rows import decode_event, strategy_of
from daemon.reports.holdings import rows_between
from daemon.reports.record import REPORT_SPAN_NS, WARM_NS, first_id
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.day import DayQuotes
from daemon.tapes.quotes.reader import QuoteFile
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity
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
