"""The option position of a desk: the strategy's view of it, its stops, and when it must be flat.

Chains and quotes come from the broker; the candidate contracts and held ones stay subscribed.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.broker.exits import exit_at_stop, exit_by_rule, exit_in_time
from daemon.core.draft import Draft
from daemon.core.effects import WatchContracts
from daemon.core.events import Activity, ContractsListed, Quote
from daemon.core.instruments.contracts import candidates, choose_expiry
from daemon.core.risk.guards import revalue
from daemon.core.risk.marks import marked
from strategies.kit.contract import Session, View
from strategies.kit.units import MINUTE_NS


def on_contracts_listed(draft: Draft, event: ContractsListed) -> None:
    session = draft.session.session
    if session is None or event.session_date != session.date:
        return
    draft.chain = choose_expiry(event, session, draft.session.upcoming, draft.trading.contracts)
    watch(draft)


def watch(draft: Draft) -> None:
    """Keep candidates, held and worked contracts subscribed, and the descriptions of all ordered ones."""
    chosen = candidates(draft.chain, draft.session, draft.now_ns, draft.trading.contracts) if draft.chain else ()
    symbols = tuple([contract.symbol for contract in chosen])
    if draft.book.positions or draft.orders or draft.works:
        at_work = [order.symbol for order in draft.orders.values()] + [work.symbol for work in draft.works.values()]
        symbols = tuple(dict.fromkeys((*symbols, *option_symbols(draft), *at_work)))
    if symbols == draft.watched:
        return
    ordered = {order.symbol for order in draft.closed.values()}
    known = {**draft.contracts, **{c.symbol: c for c in chosen}}
    draft.contracts = {s: c for s, c in known.items() if s in symbols or s in ordered}
    draft.quotes = {s: q for s, q in draft.quotes.items() if s in symbols}
    draft.watched = symbols
    draft.effects.append(WatchContracts(symbols))


def view_at(draft: Draft, now_ns: int) -> View:
    """Return the strategy's view at `now_ns`: side, return and age of the one option position."""
    session = draft.session.session
    if session is None:
        raise ValueError("a view needs a session; SessionScheduled precedes every bar")
    position = draft.holding
    if position is None:
        return View(now_ns, session)
    price = marked(draft, position.symbol)
    gain = 0.0 if price is None or not position.cost else float(price * position.quantity / position.cost) - 1.0
    age = max(now_ns - position.opened_ns, 0) / MINUTE_NS
    return View(now_ns, session, position.right, gain, age)


def check_stops(draft: Draft, quotes: tuple[Quote, ...], bar_ns: int) -> None:
    """Leave an option at its stop or its target."""
    for quote in quotes:
        position = draft.book.positions.get(quote.symbol)
        if position is not None and position.right:
            exit_at_stop(draft, position, quote, bar_ns)


def option_symbols(draft: Draft) -> list[str]:
    """Return the options held."""
    return [symbol for symbol, position in draft.book.positions.items() if position.right]


def flatten(draft: Draft, session: Session) -> None:
    """Leave every option position before the close, and shares from an exercise."""
    for symbol, position in tuple(draft.book.positions.items()):
        if not position.right:
            if draft.trading.broker.exercised_shares == "close":
                exit_by_rule(draft, symbol, "shares_from_exercise")
        else:
            exit_in_time(draft, position, session)


def split_exercised(draft: Draft, line: Activity) -> None:
    """Book a split of shares from an exercise: their number changes, their cost stays."""
    known = draft.book.positions.get(line.symbol)
    if known is not None:
        moved = replace(known, quantity=known.quantity + int(line.quantity))
        draft.book = replace(draft.book, positions={**draft.book.positions, line.symbol: moved})
        revalue(draft)
