"""The option position of a desk: the strategy's view of it, its stops, and when it must be flat.

Chains and quotes come from the broker; the candidate contracts and held ones stay subscribed.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.book import mid
from daemon.core.broker.exits import exit_by_rule
from daemon.core.draft import Draft
from daemon.core.effects import WatchContracts
from daemon.core.events import Activity, ContractsListed, Quote
from daemon.core.instruments.contracts import candidates, choose_expiry
from daemon.core.risk.guards import revalue, stop_reached
from daemon.core.risk.marks import for_stop, guarded, marked
from daemon.core.session import flat_by_ns, flatten_from_ns
from daemon.core.state import Position
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


def check_stop(draft: Draft, position: Position | None, quote: Quote, bar_ns: int) -> None:
    seen = for_stop(draft, quote)
    if position is None or not position.right or seen is None:
        return
    if position.opened_ns > bar_ns > 0 and not guarded(draft):  # opened within this bar: part of its range was before
        seen = replace(seen, low=mid(quote), high=mid(quote))
    sizing = draft.trading.sizing
    reason = stop_reached(position, seen, sizing.stop_loss, sizing.take_profit)
    if reason:
        exit_by_rule(draft, position.symbol, reason)


def option_symbols(draft: Draft) -> list[str]:
    """Return the options held."""
    return [symbol for symbol, position in draft.book.positions.items() if position.right]


def flatten(draft: Draft, session: Session) -> None:
    """Leave every option position before the close; a late one raises an alarm."""
    rules = draft.trading.execution
    for symbol, position in tuple(draft.book.positions.items()):
        if not position.right:
            if draft.trading.broker.exercised_shares == "close":
                exit_by_rule(draft, symbol, "shares_from_exercise")
        elif position.opened_ns < session.open_ns <= draft.now_ns:
            exit_by_rule(draft, symbol, "held_overnight")
        elif draft.now_ns >= flatten_from_ns(session, position.expiry, rules):
            exit_by_rule(draft, symbol, "flat_before_close")
            if draft.now_ns > flat_by_ns(session, position.expiry, rules):
                detail = f"{symbol}: {position.quantity} contracts held past the deadline"
                draft.alarm("not_flat", detail, once=True, about=symbol)


def split_exercised(draft: Draft, line: Activity) -> None:
    """Book a split of shares from an exercise: their number changes, their cost stays."""
    known = draft.book.positions.get(line.symbol)
    if known is not None:
        moved = replace(known, quantity=known.quantity + int(line.quantity))
        draft.book = replace(draft.book, positions={**draft.book.positions, line.symbol: moved})
        revalue(draft)
