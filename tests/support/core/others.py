"""Desks and accounts on which others trade too, for the tests of what is foreign.

Nothing is tested here. Money in the comments is computed by hand: 100 shares a contract.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.core.limits import Broker, Sizing, Trading
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.desk import BUY_CALL, CALL, Desk, sent

HALT, ADOPT, IGNORE = Broker(), Broker(foreign_orders="adopt"), Broker(foreign_orders="ignore")
RULES = {"halt": HALT, "adopt": ADOPT, "ignore": IGNORE}


def holding(account: Account, broker: Broker, count: int = 9) -> Desk:
    """A desk that bought calls at 2.00 at this account."""
    sizing = Sizing(max_contracts=count, stop_loss=0.99, take_profit=9.0)
    d = at_broker(account, trading=Trading(broker=broker, sizing=sizing))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, count, "2.00", d.at(1)))
    agreed(d, account, 1, 5)
    return d


def gain(d: Desk) -> Decimal:
    """What the loss limits see: equity against the session's start, transfers left out."""
    book = d.state.book
    return book.equity - book.session_start_equity - book.transfers


def closed_by_hand(d: Desk, account: Account, price: str = "2.40") -> None:
    """Somebody closed all at `price`, and the report's orders do not show how."""
    quantity, _ = account.positions.pop(CALL)
    account.cash += quantity * Decimal(price) * 100
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))
