"""The back office: the session's close, expiry, exercise, assignment, fees, corporate actions, busts and corrections.

Books move at once; on paper (`late_activities`) the rows of options appear with the next New York day only.
"""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from daemon.core.instruments.option_market import OccContract, parse_occ
from simulator.faults import Fault
from simulator.prices.tape import midnight_ns, new_york_date
from simulator.trading.account import Account, Position, Trade
from simulator.trading.order_rules import mark
from simulator.trading.orders import ZERO, Order, multiplier, stamp, text
from simulator.trading.refusals import Refused, unprocessable
from strategies.kit.contract import Session

if TYPE_CHECKING:
    from simulator.trading.matching import Matching

KINDS = ("trade_bust", "trade_correct", "manual_order", "split", "dividend", "assignment", "transfer", "ledger_line")
CENT = Decimal("0.01")


def close_session(matching: Matching, account: Account, session: Session) -> None:
    """The close: orders on close trade, day orders expire, contracts of this date settle, fees, the last marks."""
    market, at_ns = matching.server.market, session.close_ns
    for order in list(account.working.values()):
        if order.time_in_force == "cls" and order.status == "new":
            price = matching.price(order, at_ns - 1)
            if price is not None:
                matching.fill(account, order, order.left, price, at_ns)
        if order.open and order.expires_ns and order.expires_ns <= at_ns:
            order.expired_ns = at_ns
            matching.end(account, order, "expired", at_ns)
    for position in list(account.positions.values()):
        contract = parse_occ(position.symbol)
        if contract is not None and contract.expiry <= session.date:
            _expire(matching, account, position, contract, at_ns)
    _book_fees(matching, account, session)
    for symbol, position in account.positions.items():
        account.positions[symbol] = dataclasses.replace(position, lastday_price=mark(position, market, at_ns - 1))
    account.last_equity = Decimal(account.shown(lambda held: mark(held, market, at_ns - 1), blocked=False)["equity"])


def sell_out(matching: Matching, account: Account, session: Session, now_ns: int) -> None:
    """In the last hour Alpaca sells expiring long contracts in the money that the account could not exercise."""
    market = matching.server.market
    spot = market.price(now_ns)
    for position in list(account.positions.values()):
        contract = parse_occ(position.symbol)
        if contract is None or spot is None or contract.expiry != session.date or position.qty <= 0:
            continue
        if contract.right * (spot - contract.strike) < CENT or _can_exercise(matching, account, position, contract):
            continue
        against = [account.orders[order_id] for order_id in account.held_for_orders(position.symbol)[1]]
        if any(order.type == "market" for order in against):
            continue  # is being sold
        for order in against:
            order.canceled_ns = now_ns
            matching.end(account, order, "canceled", now_ns)
        with contextlib.suppress(Refused):
            matching.close(account, position.symbol, None, None)


def exercise(matching: Matching, account: Account, symbol: str) -> None:
    """Exercise the whole long position at once. Raises `Refused` when closed, out of the money, or not held."""
    market, now_ns = matching.server.market, matching.server.clock.now_ns()
    contract, spot = parse_occ(symbol), market.price(now_ns)
    position = account.positions.get(symbol)
    if position is None or contract is None or position.qty <= 0:
        raise Refused(404, 40410000, f"position not found: {symbol}")
    if market.session_at(now_ns) is None:
        raise Refused(403, 40310000, "exercise requests are only accepted during market hours")
    if spot is None or contract.right * (spot - contract.strike) < CENT:
        raise unprocessable("contract is out of the money")
    if account.available(symbol) != position.qty:
        raise Refused(403, 40310000, "insufficient qty available for exercise")
    _deliver(matching, account, position, contract, "OPEXC", position.qty, now_ns)


def keep_from_exercise(account: Account, symbol: str, today: str) -> None:
    """Let the position lapse at its expiry. Raises `Refused` unless it is a long contract that expires `today`."""
    position, contract = account.positions.get(symbol), parse_occ(symbol)
    if position is None or contract is None or position.qty <= 0:
        raise Refused(404, 40410000, f"position not found: {symbol}")
    if contract.expiry != today:
        raise unprocessable("do-not-exercise is only accepted on the expiration date")
    account.positions[symbol] = dataclasses.replace(position, do_not_exercise=True)


def take_faults(matching: Matching, account: Account, now_ns: int) -> None:
    """Do what the script has for this account now; each waits until there is something that it can happen to."""
    faults, context = matching.server.faults, {"key": account.key}
    if not faults.waiting(*KINDS):
        return
    fills = [trade for trade in account.trades if trade.execution_id]
    shorts = [p for p in account.positions.values() if p.qty < 0 and multiplier(p.symbol) == 100]
    ready = {"trade_bust": bool(fills), "trade_correct": bool(fills), "assignment": bool(shorts)}
    for kind in KINDS:
        if not ready.get(kind, True):
            continue
        fault = faults.take(kind, context)
        if fault is not None:
            _do(matching, account, fault, now_ns)


def _do(matching: Matching, account: Account, fault: Fault, now_ns: int) -> None:
    match fault.kind:
        case "trade_bust":
            _amend_last_fill(matching, account, None, now_ns, order_kept=bool(fault.get("order_kept")))
        case "trade_correct":
            shift = Decimal(str(fault.get("shift", "-0.01")))
            _amend_last_fill(matching, account, shift, now_ns, order_kept=bool(fault.get("order_kept")))
        case "manual_order":
            fields = {name: value for name, value in fault.parameters.items() if name != "action"}
            with contextlib.suppress(Refused):
                matching.by_hand(account, str(fault.get("action", "place")), fields)
        case "split":
            _split(account, str(fault.get("symbol", "SPY")), Decimal(str(fault.get("ratio", 2))), now_ns)
        case "dividend":
            _dividend(account, str(fault.get("symbol", "SPY")), Decimal(str(fault.get("amount", "1.50"))), now_ns)
        case "transfer":
            _transfer(account, Decimal(str(fault.get("amount", "-100"))), now_ns)
        case "ledger_line":
            _ledger_line(account, fault, now_ns)
        case "assignment":
            _assign(matching, account, fault, now_ns)


def _expire(matching: Matching, account: Account, position: Position, contract: OccContract, at_ns: int) -> None:
    spot = matching.server.market.closing_price(contract.expiry)
    gain = ZERO if spot is None else contract.right * (spot - contract.strike)
    lapses = position.do_not_exercise or not _can_exercise(matching, account, position, contract)
    if gain < CENT or (position.qty > 0 and lapses):
        account.trade(Trade(position.symbol, -position.qty, ZERO, at_ns))
        _note(matching, account, at_ns, "OPEXP", position.symbol, -position.qty, "Option Expiry")
        return
    kind = "OPEXC" if position.qty > 0 else "OPASN"
    _deliver(matching, account, position, contract, kind, abs(position.qty), at_ns)


def _deliver(
    matching: Matching,
    account: Account,
    position: Position,
    contract: OccContract,
    kind: str,
    quantity: Decimal,
    at_ns: int,
) -> None:
    """Contracts go, shares and the strike's cash move: a long call buys, a long put sells, a short one mirrors it."""
    sign = 1 if position.qty > 0 else -1
    shares = quantity * 100 * contract.right * sign
    account.trade(Trade(position.symbol, -quantity * sign, ZERO, at_ns))
    account.trade(Trade(contract.root, shares, contract.strike, at_ns))
    words = "Option Exercise" if kind == "OPEXC" else "Option Assignment"
    _note(matching, account, at_ns, kind, position.symbol, -quantity * sign, words)
    _note(matching, account, at_ns, "OPTRD", contract.root, shares, f"Option Trade, {words}", price=contract.strike)


def _note(
    matching: Matching,
    account: Account,
    at_ns: int,
    kind: str,
    symbol: str,
    quantity: Decimal,
    description: str,
    *,
    price: Decimal | None = None,
) -> None:
    day = new_york_date(at_ns)
    visible_ns = at_ns
    if matching.server.rules.late_activities:
        visible_ns = midnight_ns((date.fromisoformat(day) + timedelta(days=1)).isoformat())
    fields: dict[str, Any] = {
        "activity_type": kind,
        "date": day,
        "net_amount": "0" if price is None else text(-quantity * price),
        "symbol": symbol,
        "qty": text(quantity),
        "description": description,
        "status": "executed",
    }
    if price is not None:
        fields["price"] = text(price)
    account.note(at_ns, fields, visible_ns=visible_ns)


def _can_exercise(matching: Matching, account: Account, position: Position, contract: OccContract) -> bool:
    if contract.right < 0:
        return account.available(contract.root) >= position.qty * 100
    now_ns, market = matching.server.clock.now_ns(), matching.server.market
    shown = account.shown(lambda held: mark(held, market, now_ns), blocked=False)
    return Decimal(shown["buying_power"]) >= contract.strike * position.qty * 100


def _book_fees(matching: Matching, account: Account, session: Session) -> None:
    fee = matching.server.rules.fee_per_contract
    if not fee:
        return
    traded = (t for t in account.trades if t.execution_id and session.open_ns <= t.time_ns <= session.close_ns)
    contracts = sum((abs(trade.quantity) for trade in traded if multiplier(trade.symbol) == 100), ZERO)
    if contracts:
        cash_row(account, "FEE", -fee * contracts, session.close_ns, f"Fees for {text(contracts)} contracts")


def cash_row(account: Account, kind: str, amount: Decimal, at_ns: int, description: str, **more: str) -> None:
    """Move cash by `amount` USD and note it as an activity of this kind."""
    account.cash += amount
    fields = {"activity_type": kind, "date": new_york_date(at_ns), "net_amount": text(amount)}
    account.note(at_ns, {**fields, "description": description, "status": "executed", **more})


def _transfer(account: Account, amount: Decimal, at_ns: int) -> None:
    cash_row(account, "CSD" if amount > 0 else "CSW", amount, at_ns, "Cash transfer")


def _ledger_line(account: Account, fault: Fault, at_ns: int) -> None:
    """A row of any kind; its shares move without an order, as those of a corporate action or a transfer do."""
    kind, symbol = str(fault.get("activity_type", "FEE")), str(fault.get("symbol", ""))
    quantity, more = Decimal(str(fault.get("quantity", 0))), {}
    if symbol:
        more = {"symbol": symbol, "qty": text(quantity)}
    if quantity:
        account.trade(Trade(symbol, quantity, ZERO, at_ns))
    if fault.get("activity_sub_type"):
        more["activity_sub_type"] = str(fault.get("activity_sub_type"))
    cash_row(account, kind, Decimal(str(fault.get("amount", 0))), at_ns, str(fault.get("description", kind)), **more)


def _dividend(account: Account, symbol: str, amount: Decimal, at_ns: int) -> None:
    shares = account.quantity(symbol)
    more = {"symbol": symbol, "qty": text(shares), "per_share_amount": text(amount)}
    cash_row(account, "DIV", shares * amount, at_ns, "Dividend", **more)


def _split(account: Account, symbol: str, ratio: Decimal, at_ns: int) -> None:
    held = account.positions.get(symbol)
    change = ZERO if held is None else held.qty * (ratio - 1)
    if held is not None:
        account.positions[symbol] = dataclasses.replace(held, qty=held.qty * ratio, average=held.average / ratio)
    fields = {"activity_type": "SPLIT", "date": new_york_date(at_ns), "net_amount": "0", "symbol": symbol}
    account.note(at_ns, {**fields, "qty": text(change), "description": f"{text(ratio)} for 1", "status": "executed"})


def _assign(matching: Matching, account: Account, fault: Fault, at_ns: int) -> None:
    wanted = fault.get("symbol")
    for position in list(account.positions.values()):
        contract = parse_occ(position.symbol)
        if contract is not None and position.qty < 0 and wanted in {None, position.symbol}:
            quantity = min(Decimal(str(fault.get("quantity", abs(position.qty)))), abs(position.qty))
            _deliver(matching, account, position, contract, "OPASN", quantity, at_ns)
            return


def _amend_last_fill(
    matching: Matching, account: Account, shift: Decimal | None, now_ns: int, *, order_kept: bool = False
) -> None:
    """Bust the last fill (None), or correct its price by `shift` USD; book, rows and stream show it.

    So does the order, unless `order_kept`: whether Alpaca's orders follow is not documented.
    """
    old = next(trade for trade in reversed(account.trades) if trade.execution_id)
    order: Order = account.orders[old.order_id]
    quantity = abs(old.quantity)
    new = None if shift is None else dataclasses.replace(old, price=old.price + shift)
    account.amend(old, new, now_ns)
    if not order_kept:
        order.cost -= quantity * old.price
        if new is None:
            order.filled_qty -= quantity
        else:
            order.cost += quantity * new.price
    price = old.price if new is None else new.price
    account.note(
        now_ns,
        {
            "activity_type": "FILL",
            "transaction_time": stamp(now_ns),
            "type": "fill",
            "price": text(price),
            "qty": text(quantity),
            "side": order.side,
            "symbol": order.symbol,
            "leaves_qty": text(max(order.left, ZERO)),
            "order_id": order.id,
            "cum_qty": text(order.filled_qty),
            "order_status": order.status,
            "status": "canceled" if new is None else "correct",
        },
        amends=old.execution_id,
    )
    matching.emit(
        account,
        order,
        "trade_bust" if new is None else "trade_correct",
        now_ns,
        execution_id=old.execution_id,
        price=text(price),
        qty=text(quantity),
        position_qty=text(account.quantity(order.symbol)),
    )
