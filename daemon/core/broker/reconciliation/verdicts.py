"""The written verdict for each kind of difference: docs/BOOK.md."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.broker.fills import is_ours, transfer, without_gain
from daemon.core.broker.foreign import can_hold
from daemon.core.broker.ledger import settle_without_ledger
from daemon.core.broker.takeover import ADOPTED, take_over
from daemon.core.draft import Draft
from daemon.core.effects import CancelOrder
from daemon.core.events import BrokerReported
from daemon.core.instruments.option_market import parse_occ
from daemon.core.moves import Cause
from daemon.core.risk.guards import revalue
from daemon.core.state import ZERO


def halt_on_shorts(draft: Draft, event: BrokerReported) -> None:
    """Halt at once on a short position that is not in the book: more was sold than was held.

    Shares that a held option may have delivered are judged with the other differences.
    """
    roots = {contract.root for symbol in draft.book.positions if (contract := parse_occ(symbol)) is not None}
    for position in event.positions:
        symbol = position.symbol
        expected = draft.held(symbol) + draft.broker.foreign_held.get(symbol, 0)
        if position.quantity < min(expected, 0) and can_hold(draft, symbol) and symbol not in roots:
            draft.risk = replace(draft.risk, reconciled=False)
            draft.halt("short_position", f"{symbol}: broker {position.quantity}, book {expected}")


def judge(draft: Draft, event: BrokerReported, found: tuple[str, ...]) -> None:
    """Apply the written verdicts in order: settle expiries, treat foreign positions as configured, book small cash as a
    fee.

    A difference that none of them explains stays, and halts.
    """
    for order in event.open_orders:
        if is_ours(draft, order.client_order_id) and order.client_order_id not in draft.orders:
            draft.effects.append(CancelOrder(order.client_order_id))  # nothing here would ever end it
    theirs = {p.symbol: p for p in event.positions}
    if settle_without_ledger(draft, {symbol: int(p.quantity) for symbol, p in theirs.items()}):
        draft.alarm("settled_without_ledger", "; ".join(found))
    book, foreign = draft.book, draft.broker.foreign_held
    symbols = sorted(theirs.keys() | book.positions.keys() | foreign.keys())
    differing = [
        symbol
        for symbol in symbols
        if (theirs[symbol].quantity if symbol in theirs else ZERO) != draft.held(symbol) + foreign.get(symbol, 0)
    ]
    rule = draft.trading.broker.foreign_orders
    if differing and rule != "halt":
        taken = [symbol for symbol in differing if take_over(draft, symbol, theirs.get(symbol), rule)]
        if taken:
            draft.alarm("position_changed", f"{rule}: {'; '.join(found)}")
            draft.book = replace(draft.book, cash=event.cash)
            with draft.because(ADOPTED):
                without_gain(draft, book)
    cash = event.cash - draft.book.cash
    if cash and not (differing and rule == "halt") and abs(cash) <= draft.trading.broker.cash_tolerance_usd:
        draft.alarm("cash_adjusted", f"{cash:+} USD that no line of the broker's ledger explains yet")
        book = draft.book
        with draft.because(Cause("cash_adjusted")):
            draft.book = replace(book, cash=event.cash, realized=book.realized + cash, fees=book.fees - cash)
        revalue(draft)
    elif cash and rule == "adopt" and not differing:
        draft.alarm("position_changed", f"adopt: {'; '.join(found)}")
        transfer(draft, cash)
