"""Orders that got no answer, and what the desk asks and sends about them, for the tests of look-ups.

Nothing is tested here.
"""

from __future__ import annotations

from typing import Any

from daemon.core import events as ev
from daemon.core.effects import LookUpOrder, SubmitOrder
from daemon.core.records import FillRow
from strategies.kit.quantity import Quantity
from tests.support.core.account import Account
from tests.support.core.desk import BUY_CALL, EXIT, Desk, of, sent


def submitted(d: Desk, account: Account, minute: int = 0) -> str:
    """An entry of 9 at 2.12 that the desk sent and the account took, of which the desk heard nothing."""
    d.bar(minute)
    return account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)


def lost(d: Desk, minute: int = 0) -> str:
    """An entry that never reached the broker: the post was not answered."""
    d.bar(minute)
    name = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderUnknown(d.at(minute + 1, 5), name))
    return name


def look_ups(effects: list[Any]) -> list[str]:
    """The names of the orders looked up."""
    return [effect.client_order_id for effect in of(effects, LookUpOrder)]


def resent(effects: list[Any]) -> list[tuple[str, Quantity]]:
    """(name, quantity) of the orders sent."""
    return [(effect.client_order_id, effect.quantity) for effect in of(effects, SubmitOrder)]


def rows(d: Desk) -> list[tuple[int, Quantity]]:
    """(correction, cumulative) of the fills reported so far."""
    return [(row.correction, row.cumulative) for row in d.rows if isinstance(row, FillRow)]


def leaving(d: Desk, account: Account) -> str:
    """9 calls held, and an exit of all that got no answer."""
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    d.put(ev.OrderUnknown(d.at(2, 5), sale))
    return sale
