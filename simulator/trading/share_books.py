"""What a corporate action does to an account: orders go, shares change, rows follow, as Alpaca writes them.

A split and a new name are two rows, one for what is taken away and one for what is given (Alpaca's documentation of
activities; the voluntary and mandatory corporate actions pages). Books move by trades without an order.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import TYPE_CHECKING

from simulator.prices.corporate_actions import Dividend, Rename, Split
from simulator.prices.tape import grid, new_york_date
from simulator.trading.account import Account, Position, Trade
from simulator.trading.orders import ZERO, Json, text
from simulator.trading.settlement import cash_row

if TYPE_CHECKING:
    from simulator.prices.day_prices import Action
    from simulator.trading.matching import Matching


def happen(matching: Matching, account: Account, action: Action, at_ns: int, *, paid: bool) -> None:
    """Carry `action` out in this account; `paid` is the second of a dividend's two moments."""
    days = matching.server.market.days
    symbol = action.symbol if days is None else days.name_on(action.symbol, new_york_date(at_ns))
    match action:
        case Dividend() if paid:
            _pay(account, action, symbol, at_ns)
        case Dividend():
            account.entitled[action] = account.quantity(symbol)
        case Split():
            _cancel_orders(matching, account, symbol, at_ns)
            _split(account, action, symbol, at_ns)
        case Rename():
            _cancel_orders(matching, account, action.symbol, at_ns)
            _rename(account, action, at_ns)


def _cancel_orders(matching: Matching, account: Account, symbol: str, at_ns: int) -> None:
    for order in list(account.working.values()):
        if order.symbol == symbol:
            order.canceled_ns = at_ns
            matching.end(account, order, "canceled", at_ns)


def _pay(account: Account, dividend: Dividend, symbol: str, at_ns: int) -> None:
    shares = account.entitled.pop(dividend, ZERO)
    if shares:
        more = {"symbol": symbol, "qty": text(shares), "per_share_amount": text(dividend.amount)}
        cash_row(account, "DIV", shares * dividend.amount, at_ns, "Cash DIV", **more)


def _split(account: Account, split: Split, symbol: str, at_ns: int) -> None:
    held = account.positions.get(symbol)
    if held is None:
        return
    shares = held.qty * split.ratio
    account.trade(Trade(symbol, shares - held.qty, ZERO, at_ns))
    last = None if held.lastday_price is None else held.lastday_price / split.ratio
    average = held.average / split.ratio
    after = dataclasses.replace(held, qty=shares, average=average, lastday_price=last)
    account.positions[symbol] = after
    span = f"From QTY:{text(held.qty)}, To QTY:{text(shares)}"
    _row(account, "SPLIT", held, -held.qty, f"REMOVE, {span}", at_ns)
    _row(account, "SPLIT", after, shares, f"ADD, {span}", at_ns)
    fraction = shares % 1
    if split.fraction_in_cash and fraction:
        price = average if last is None else last
        account.trade(Trade(symbol, -fraction, price, at_ns))
        fields: Json = {"activity_type": "CIL", "date": new_york_date(at_ns), "net_amount": text(fraction * price)}
        more = {"symbol": symbol, "qty": text(-fraction), "price": text(price), "status": "executed"}
        account.note(at_ns, {**fields, "description": "Cash in lieu of a fraction", **more})


def _rename(account: Account, rename: Rename, at_ns: int) -> None:
    held = account.positions.get(rename.symbol)
    if held is None:
        return
    account.trade(Trade(rename.symbol, -held.qty, held.average, at_ns))
    account.trade(Trade(rename.new, held.qty, held.average, at_ns))
    after = dataclasses.replace(held, symbol=rename.new)
    account.positions[rename.new] = after
    words = f"Name Change from {rename.symbol} to {rename.new}"
    _row(account, "NC", held, -held.qty, words, at_ns)
    _row(account, "NC", after, held.qty, words, at_ns)


def _row(account: Account, kind: str, held: Position, quantity: Decimal, description: str, at_ns: int) -> None:
    """A row that moves shares and no cash; its price is the last close (the average cost where none is known)."""
    price = held.average if held.lastday_price is None else held.lastday_price
    fields = {"activity_type": kind, "date": new_york_date(at_ns), "net_amount": "0", "symbol": held.symbol}
    shown = {"qty": text(quantity), "price": text(grid(float(price))), "description": description, "status": "executed"}
    account.note(at_ns, {**fields, **shown})
