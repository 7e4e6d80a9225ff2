"""Back office: the session's close, expiry, exercise, assignment, fees, corporate actions, busts and corrections.

Books change at once; with `late_activities`, as on paper, option rows appear only on the next New York day.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import deque
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal

from daemon.alpaca_api.books import AlpacaPosition, PositionChange
from daemon.alpaca_api.refusals import Refusal, unprocessable
from daemon.alpaca_api.wire import ZERO, multiplier, stamp, text
from daemon.core.instruments.option_market import OccContract, parse_occ
from simulator.faults import Fault
from simulator.prices.corporate_actions import Dividend, Merger, Rename, SpinOff, Split, close_before
from simulator.prices.day_prices import Action
from simulator.prices.market import NEVER_NS
from simulator.prices.tape import grid, midnight_ns, new_york_date
from simulator.trading.account import Account
from simulator.trading.matching import Matching
from simulator.trading.order_rules import mark
from simulator.trading.orders import AlpacaOrder
from strategies.kit.contract import Session
from strategies.kit.quantity import FINEST
from strategies.kit.units import MINUTE_NS

MOVE_SHARES = ("SPLIT", "NC", "MA", "SPIN")  # activity types of corporate actions that move shares
KINDS = ("trade_bust", "trade_correct", "manual_order", "split", "dividend", "assignment", "transfer", "ledger_line")
CENT = Decimal("0.01")
SELL_OUT_NS = 60 * MINUTE_NS  # before the close of the session of expiry
LONGEST_WAIT_S = 3600.0


class BackOffice:
    """Advances the venue in time: matches path points, closes sessions, applies corporate actions and the script."""

    def __init__(self, matching: Matching) -> None:
        self._matching, self._venue = matching, matching.venue
        now_ns, days = matching.seen_ns, self._venue.market.days
        self._session_count = sum(session.close_ns <= now_ns for session in self._venue.market.sessions)
        self._actions = deque(entry for entry in ([] if days is None else days.actions()) if entry[0] > now_ns)
        self._sold_out_ns = 0  # when expiring contracts were last checked

    async def run(self) -> None:
        """Match and settle as simulated time passes, until cancelled; sleeps while nothing is due."""
        loop = asyncio.get_running_loop()
        self._venue.faults.on_add = lambda: _wake(loop, self._matching.changed)
        while True:
            self._matching.changed.clear()
            self.advance(self._venue.clock.now_ns())
            left_s = self._venue.clock.real_s(self._next_wake() - self._venue.clock.now_ns())
            with contextlib.suppress(TimeoutError):  # not wait_for: it may lose a cancellation
                async with asyncio.timeout(min(max(left_s, 0.0), LONGEST_WAIT_S)):
                    await self._matching.changed.wait()

    def advance(self, now_ns: int) -> None:
        """Process everything up to `now_ns`: path points, session closes, corporate actions and the script."""
        while (session := self._closing()) is not None and session.close_ns <= now_ns:
            self._act(session.close_ns)
            self._matching.match_points(session.close_ns - 1)
            for account in self._venue.accounts.values():
                close_session(self._matching, account, session)
            self._session_count += 1
        self._act(now_ns)
        self._matching.match_points(now_ns)
        session_now = self._venue.market.session_at(now_ns)
        if session_now is not None and self._sells_out(session_now, now_ns):
            self._sold_out_ns = now_ns
            for account in self._venue.accounts.values():
                sell_out(self._matching, account, session_now, now_ns)
        for account in self._venue.accounts.values():
            take_faults(self._matching, account, now_ns)
        self._matching.trade_stream.tick()

    def _closing(self) -> Session | None:
        """The next session to close."""
        sessions = self._venue.market.sessions
        return sessions[self._session_count] if self._session_count < len(sessions) else None

    def _act(self, until_ns: int) -> None:
        """Apply corporate actions up to `until_ns`, each after the path points before it."""
        while self._actions and self._actions[0][0] <= until_ns:
            at_ns, action, is_payment = self._actions.popleft()
            self._matching.match_points(at_ns - 1)
            for account in self._venue.accounts.values():
                _happen(self._matching, account, action, at_ns, paid=is_payment)

    def _sells_out(self, session: Session, now_ns: int) -> bool:
        return now_ns >= session.close_ns - SELL_OUT_NS and now_ns >= self._sold_out_ns + MINUTE_NS

    def _next_wake(self) -> int:
        now_ns = self._matching.seen_ns
        times = [self._actions[0][0] if self._actions else NEVER_NS]
        if (session := self._closing()) is not None:
            close_ns = session.close_ns
            times += [moment for moment in (close_ns - SELL_OUT_NS, close_ns) if moment > now_ns]
            if close_ns - SELL_OUT_NS <= now_ns and any(account.positions for account in self._venue.accounts.values()):
                times.append(now_ns + MINUTE_NS)
        if any(account.working for account in self._venue.accounts.values()):
            times.append(self._venue.market.next_change(now_ns))
        for fault in self._venue.faults.waiting(*KINDS, *self._matching.trade_stream.TICKING):
            later = fault.from_ns is not None and fault.from_ns > now_ns
            times.append(fault.from_ns if later and fault.from_ns is not None else now_ns + MINUTE_NS)
        return min(times)


def _wake(loop: asyncio.AbstractEventLoop, change: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(change.set)


def close_session(matching: Matching, account: Account, session: Session) -> None:
    """Close a session: on-close orders trade, day orders expire, contracts of this date settle, fees, last marks."""
    market, at_ns = matching.venue.market, session.close_ns
    for order in list(account.working.values()):
        if order.time_in_force == "cls" and order.status == "new":
            price = matching.price(order, at_ns - 1)
            if price is not None:
                matching.fill(account, order, order.left, price, at_ns)
        if order.open and order.expires_ns and order.expires_ns <= at_ns:
            order.expired_ns = at_ns
            matching.end(account, order, "expired", at_ns)
        elif matching.venue.rules.gtc_ends_days and order.status in ("new", "partially_filled"):
            order.status = "done_for_day"
            matching.emit(account, order, "done_for_day", at_ns)
    for position in list(account.positions.values()):
        contract = parse_occ(position.symbol)
        if contract is not None and contract.expiry <= session.date:
            _expire(matching, account, position, contract, at_ns)
    _book_fees(matching, account, session)
    for symbol, position in account.positions.items():
        account.positions[symbol] = dataclasses.replace(position, lastday_price=mark(position, market, at_ns - 1))
    account.last_equity = Decimal(
        account.shown(lambda position: mark(position, market, at_ns - 1), blocked=False)["equity"]
    )


def sell_out(matching: Matching, account: Account, session: Session, now_ns: int) -> None:
    """Sell expiring long in-the-money contracts that the account could not exercise, as Alpaca's last hour does."""
    market = matching.venue.market
    spot = market.price(now_ns)
    for position in list(account.positions.values()):
        contract = parse_occ(position.symbol)
        if contract is None or spot is None or contract.expiry != session.date or position.qty <= 0:
            continue
        if contract.right * (spot - contract.strike) < CENT or _can_exercise(matching, account, position, contract):
            continue
        against = [account.orders[order_id] for order_id in account.held_for_orders(position.symbol)[1]]
        if any(order.type == "market" for order in against):
            continue  # already being sold
        for order in against:
            order.canceled_ns = now_ns
            matching.end(account, order, "canceled", now_ns)
        with contextlib.suppress(Refusal):
            account.sold_out.add(matching.close(account, position.symbol, None, None).id)


def exercise(matching: Matching, account: Account, symbol: str) -> None:
    """Exercise the whole long position at once. Raises `Refusal` when closed, out of the money, or not held."""
    market, now_ns = matching.venue.market, matching.venue.clock.now_ns()
    contract, spot = parse_occ(symbol), market.price(now_ns)
    position = account.positions.get(symbol)
    if position is None or contract is None or position.qty <= 0:
        raise Refusal(404, 40410000, f"position not found: {symbol}")
    if market.session_at(now_ns) is None:
        raise Refusal(403, 40310000, "exercise requests are only accepted during market hours")
    if spot is None or contract.right * (spot - contract.strike) < CENT:
        raise unprocessable("contract is out of the money")
    if account.available(symbol) != position.qty:
        raise Refusal(403, 40310000, "insufficient qty available for exercise")
    _deliver(matching, account, position, contract, "OPEXC", position.qty, now_ns)


def keep_from_exercise(account: Account, symbol: str, today: str) -> None:
    """Let the position lapse at its expiry. Raises `Refusal` unless it is a long contract that expires `today`."""
    position, contract = account.positions.get(symbol), parse_occ(symbol)
    if position is None or contract is None or position.qty <= 0:
        raise Refusal(404, 40410000, f"position not found: {symbol}")
    if contract.expiry != today:
        raise unprocessable("do-not-exercise is only accepted on the expiration date")
    account.positions[symbol] = dataclasses.replace(position, do_not_exercise=True)


def take_faults(matching: Matching, account: Account, now_ns: int) -> None:
    """Apply the account's scripted faults; each waits until it is applicable."""
    faults, context = matching.venue.faults, {"key": account.key}
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
            amend_fill(matching, account, _last_fill(account), None, now_ns, order_kept=bool(fault.get("order_kept")))
        case "trade_correct":
            shift = Decimal(str(fault.get("shift", "-0.01")))
            amend_fill(matching, account, _last_fill(account), shift, now_ns, order_kept=bool(fault.get("order_kept")))
        case "manual_order":
            fields = {name: value for name, value in fault.parameters.items() if name != "action"}
            with contextlib.suppress(Refusal):
                matching.by_hand(account, str(fault.get("action", "place")), fields)
        case "split":
            _split(account, str(fault.get("symbol", "SPY")), Decimal(str(fault.get("ratio", 2))), now_ns)
        case "dividend":
            _dividend(matching, account, fault, now_ns)
        case "transfer":
            _transfer(account, Decimal(str(fault.get("amount", "-100"))), now_ns)
        case "ledger_line":
            _ledger_line(account, fault, now_ns)
        case "assignment":
            _assign(matching, account, fault, now_ns)


def _expire(matching: Matching, account: Account, position: AlpacaPosition, contract: OccContract, at_ns: int) -> None:
    spot = matching.venue.market.closing_price(contract.expiry)
    gain = ZERO if spot is None else contract.right * (spot - contract.strike)
    lapses = position.do_not_exercise or not _can_exercise(matching, account, position, contract)
    if gain < CENT or (position.qty > 0 and lapses):
        account.trade(PositionChange(position.symbol, -position.qty, ZERO, at_ns))
        _note(matching, account, at_ns, "OPEXP", position.symbol, -position.qty, "Option Expiry")
        return
    kind = "OPEXC" if position.qty > 0 else "OPASN"
    _deliver(matching, account, position, contract, kind, abs(position.qty), at_ns)


def _deliver(
    matching: Matching,
    account: Account,
    position: AlpacaPosition,
    contract: OccContract,
    kind: str,
    quantity: Decimal,
    at_ns: int,
) -> None:
    """Settle contracts into shares and the strike's cash: a long call buys, a long put sells, shorts the reverse."""
    sign = 1 if position.qty > 0 else -1
    shares = quantity * 100 * contract.right * sign
    account.trade(PositionChange(position.symbol, -quantity * sign, ZERO, at_ns))
    account.trade(PositionChange(contract.root, shares, contract.strike, at_ns))
    words = "Option Exercise" if kind == "OPEXC" else "Option Assignment"
    _note(matching, account, at_ns, kind, position.symbol, -quantity * sign, words)
    name, words = account.activities[-1].id.rpartition("::")[2], f"Option Trade, {words}"
    same = name if matching.venue.rules.one_id else ""
    _note(matching, account, at_ns, "OPTRD", contract.root, shares, words, price=contract.strike, name=same)


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
    name: str = "",
) -> None:
    visible_ns = at_ns
    if matching.venue.rules.late_activities:
        visible_ns = midnight_ns((date.fromisoformat(new_york_date(at_ns)) + timedelta(days=1)).isoformat())
    cash = ZERO if price is None else -quantity * price
    more = {"symbol": symbol, "qty": text(quantity)} | ({} if price is None else {"price": text(price)})
    _dated_row(account, kind, cash, at_ns, description, more, visible_ns=visible_ns, name=name)


def _can_exercise(matching: Matching, account: Account, position: AlpacaPosition, contract: OccContract) -> bool:
    if contract.right < 0:
        return account.available(contract.root) >= position.qty * 100
    now_ns, market = matching.venue.clock.now_ns(), matching.venue.market
    figures = account.shown(lambda position: mark(position, market, now_ns), blocked=False)
    return Decimal(figures["buying_power"]) >= contract.strike * position.qty * 100


def _book_fees(matching: Matching, account: Account, session: Session) -> None:
    """Book a session's fees: of contracts in one row, of shares in one row for each kind."""
    rules = matching.venue.rules
    trades = [t for t in account.trades if t.execution_id and session.open_ns <= t.time_ns <= session.close_ns]
    contracts = sum((abs(trade.quantity) for trade in trades if multiplier(trade.symbol) == 100), ZERO)
    if rules.fee_per_contract and contracts:
        fee = rules.fee_per_contract * contracts
        cash_row(account, "FEE", -fee, session.close_ns, f"Fees for {text(contracts)} contracts")
    shares = [(trade.quantity, trade.price) for trade in trades if multiplier(trade.symbol) == 1]
    sold_shares = -sum((quantity for quantity, _ in shares if quantity < 0), ZERO)
    proceeds = -sum((quantity * price for quantity, price in shares if quantity < 0), ZERO)
    moved_shares = sum((abs(quantity) for quantity, _ in shares), ZERO)
    for words, usd in (
        (f"TAF fee for proceed of {text(sold_shares)} shares", sold_shares * rules.taf_per_share),
        (f"REG fee for proceed of ${text(proceeds)}", proceeds * rules.reg_rate),
        (f"CAT fee for {text(moved_shares)} shares", moved_shares * rules.cat_per_share),
    ):
        if usd:
            cash_row(account, "FEE", -usd.quantize(CENT, ROUND_CEILING), session.close_ns, words)


def cash_row(account: Account, kind: str, amount: Decimal, at_ns: int, description: str, **more: str) -> None:
    """Change the cash by `amount` USD and add an activity of this kind."""
    account.cash += amount
    _dated_row(account, kind, amount, at_ns, description, more)


def _dated_row(
    account: Account,
    kind: str,
    amount: Decimal,
    at_ns: int,
    description: str,
    more: Mapping[str, str],
    *,
    visible_ns: int | None = None,
    name: str = "",
) -> None:
    """Add an activity with a date but no time; `amount` is its cash in USD."""
    fields = {"activity_type": kind, "date": new_york_date(at_ns), "net_amount": text(amount)}
    fields |= {"description": description, "status": "executed", **more}
    account.note(at_ns, fields, visible_ns=visible_ns, name=name)


def _transfer(account: Account, amount: Decimal, at_ns: int) -> None:
    cash_row(account, "CSD" if amount > 0 else "CSW", amount, at_ns, "Cash transfer")


def _ledger_line(account: Account, fault: Fault, at_ns: int) -> None:
    """Add a row of any kind; its shares move without an order, as in a corporate action or a transfer."""
    kind, symbol = str(fault.get("activity_type", "FEE")), str(fault.get("symbol", ""))
    quantity, more = Decimal(str(fault.get("quantity", 0))), {}
    if symbol:
        more = {"symbol": symbol, "qty": text(quantity)}
    if quantity:
        account.trade(PositionChange(symbol, quantity, ZERO, at_ns))
    if fault.get("activity_sub_type"):
        more["activity_sub_type"] = str(fault.get("activity_sub_type"))
    cash_row(account, kind, Decimal(str(fault.get("amount", 0))), at_ns, str(fault.get("description", kind)), **more)


def _dividend(matching: Matching, account: Account, fault: Fault, at_ns: int) -> None:
    """Book a dividend; a `reinvested` one buys shares for its amount, to nine decimals, by the broker's order."""
    symbol, amount = str(fault.get("symbol", "SPY")), Decimal(str(fault.get("amount", "1.50")))
    shares = account.quantity(symbol)
    more = {"symbol": symbol, "qty": text(shares), "per_share_amount": text(amount)}
    payment = _payment(matching, shares * amount)
    cash_row(account, "DIV", payment, at_ns, "Dividend", **more)
    quote = matching.venue.market.quote(symbol, at_ns)
    if fault.get("reinvested") and quote is not None and payment > 0:
        quantity = (payment / quote[1]).quantize(FINEST, ROUND_DOWN)
        body = {"symbol": symbol, "qty": text(quantity), "side": "buy", "type": "market", "time_in_force": "day"}
        with contextlib.suppress(Refusal):
            account.by_hand.add(matching.submit(account, body).id)


def _payment(matching: Matching, amount: Decimal) -> Decimal:
    """Return the USD that a row pays: in whole cents unless the broker does not round."""
    return amount if matching.venue.rules.rounding == "none" else round(amount, 2)


def _split(account: Account, symbol: str, ratio: Decimal, at_ns: int) -> None:
    position = account.positions.get(symbol)
    change = ZERO
    if position is not None:
        shares = _times(position.qty, ratio)
        change = shares - position.qty
        account.positions[symbol] = dataclasses.replace(position, qty=shares, average=position.average / ratio)
    _dated_row(account, "SPLIT", ZERO, at_ns, f"{text(ratio)} for 1", {"symbol": symbol, "qty": text(change)})


def _times(shares: Decimal, ratio: Decimal) -> Decimal:
    """Return the shares after a split, to nine decimals."""
    return (shares * ratio).quantize(FINEST).normalize()


def _assign(matching: Matching, account: Account, fault: Fault, at_ns: int) -> None:
    symbol_of_fault = fault.get("symbol")
    for position in list(account.positions.values()):
        contract = parse_occ(position.symbol)
        if contract is not None and position.qty < 0 and symbol_of_fault in {None, position.symbol}:
            quantity = min(Decimal(str(fault.get("quantity", abs(position.qty)))), abs(position.qty))
            _deliver(matching, account, position, contract, "OPASN", quantity, at_ns)
            return


def _last_fill(account: Account) -> PositionChange:
    return next(trade for trade in reversed(account.trades) if trade.execution_id)


def amend_fill(
    matching: Matching,
    account: Account,
    old: PositionChange,
    shift: Decimal | None,
    now_ns: int,
    *,
    order_kept: bool = False,
) -> None:
    """Bust this fill (None), or correct its price by `shift` USD; books, rows and stream show it.

    So does the order, unless `order_kept`: Alpaca does not document whether its orders change.
    """
    order: AlpacaOrder = account.orders[old.order_id]
    quantity = abs(old.quantity)
    new = None if shift is None else dataclasses.replace(old, price=old.price + shift)
    if new is not None:
        new = dataclasses.replace(new, rounding=matching.rounding(account, new, old))
    account.amend(old, new)
    account.remember(now_ns)
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


# A split, a new name and a merger are two rows, one for the shares removed and one for those added (Alpaca's
# documentation of activities; the voluntary and mandatory corporate actions pages). Books change without an order.


def _happen(matching: Matching, account: Account, action: Action, at_ns: int, *, paid: bool) -> None:
    """Apply `action` to this account; `paid` is the payment of a dividend, after its ex-date."""
    days = matching.venue.market.days
    symbol = action.symbol if days is None else days.name_on(action.symbol, new_york_date(at_ns))
    match action:
        case Dividend() if paid:
            _pay(matching, account, action, symbol, at_ns)
        case Dividend():
            account.entitled[action] = account.quantity(symbol)
        case Split():
            _cancel_orders(matching, account, symbol, at_ns)
            _book_split(matching, account, action, symbol, at_ns)
        case Rename():
            _cancel_orders(matching, account, action.symbol, at_ns)
            _rename(account, action, at_ns)
        case Merger():
            _cancel_orders(matching, account, symbol, at_ns)
            new = action.new if days is None else days.name_on(action.new, new_york_date(at_ns))
            _merge(matching, account, dataclasses.replace(action, symbol=symbol, new=new), at_ns)
        case SpinOff():
            position = account.positions.get(symbol)
            if position is not None:
                shares = _times(position.qty, action.ratio)
                _give(matching, account, "SPIN", action.new, shares, ZERO, f"Spin-off from {symbol}", at_ns)
                _pay_fraction(matching, account, action.new, at_ns, in_cash=action.fraction_in_cash)


def _cancel_orders(matching: Matching, account: Account, symbol: str, at_ns: int) -> None:
    for order in list(account.working.values()):
        if order.symbol == symbol:
            order.canceled_ns = at_ns
            matching.end(account, order, "canceled", at_ns)


def _pay(matching: Matching, account: Account, dividend: Dividend, symbol: str, at_ns: int) -> None:
    shares = account.entitled.pop(dividend, ZERO)
    if shares:
        more = {"symbol": symbol, "qty": text(shares), "per_share_amount": text(dividend.amount)}
        cash_row(account, "DIV", _payment(matching, shares * dividend.amount), at_ns, "Cash DIV", **more)


def _book_split(matching: Matching, account: Account, split: Split, symbol: str, at_ns: int) -> None:
    position = account.positions.get(symbol)
    if position is None:
        return
    shares = _times(position.qty, split.ratio)
    account.trade(PositionChange(symbol, shares - position.qty, ZERO, at_ns))
    last = None if position.lastday_price is None else position.lastday_price / split.ratio
    average = position.average / split.ratio
    new_position = dataclasses.replace(position, qty=shares, average=average, lastday_price=last)
    account.positions[symbol] = new_position
    span = f"From QTY:{text(position.qty)}, To QTY:{text(shares)}"
    _row(account, "SPLIT", position, -position.qty, f"REMOVE, {span}", at_ns)
    _row(account, "SPLIT", new_position, shares, f"ADD, {span}", at_ns)
    _pay_fraction(matching, account, symbol, at_ns, in_cash=split.fraction_in_cash)


def _pay_fraction(matching: Matching, account: Account, symbol: str, at_ns: int, *, in_cash: bool) -> None:
    """Remove the fraction of a holding and pay for it, if fractions are paid `in_cash`."""
    position = account.positions.get(symbol)
    fraction = ZERO if position is None else position.qty % 1
    if position is None or not in_cash or not fraction:
        return
    price = _worth_of(position)
    payment = _payment(matching, fraction * price)
    account.trade(PositionChange(symbol, -fraction, price, at_ns, rounding=fraction * price - payment))
    more = {"symbol": symbol, "qty": text(-fraction), "price": text(price)}
    _dated_row(account, "CIL", payment, at_ns, "Cash in lieu of a fraction", more)


def _merge(matching: Matching, account: Account, merger: Merger, at_ns: int) -> None:
    symbol = merger.symbol
    position = account.positions.get(symbol)
    if position is None:
        return
    payment = _payment(matching, position.qty * merger.cash)
    rounding = position.qty * merger.cash - payment
    account.trade(PositionChange(symbol, -position.qty, merger.cash, at_ns, rounding=rounding))
    words = f"Merger of {symbol}"
    _row(account, "MA", position, -position.qty, words, at_ns, amount=ZERO if merger.cash_apart else payment)
    if merger.ratio:
        cost = max(position.average - merger.cash, ZERO) * position.qty
        _give(matching, account, "MA", merger.new, _times(position.qty, merger.ratio), cost, words, at_ns)
        _pay_fraction(matching, account, merger.new, at_ns, in_cash=merger.fraction_in_cash)
    if merger.cash_apart and payment:
        _dated_row(account, "MA", payment, at_ns, words, {"symbol": symbol, "qty": "0"})


def _give(
    matching: Matching,
    account: Account,
    kind: str,
    symbol: str,
    quantity: Decimal,
    cost: Decimal,
    description: str,
    at_ns: int,
) -> None:
    """Add shares from a corporate action, at their last close or their coming open; `cost` is their cost in USD."""
    if not quantity:
        return
    held, days = account.positions.get(symbol), matching.venue.market.days
    account.trade(PositionChange(symbol, quantity, ZERO, at_ns))
    if (position := account.positions.get(symbol)) is None:
        return  # they covered a short position
    basis = cost + (ZERO if held is None else held.average * held.qty)
    last = position.lastday_price
    if last is None and days is not None and (bars := days.bars.get(days.share(symbol))):
        today = new_york_date(at_ns)
        close = close_before(bars, today)
        first = next((bar.open for day, bar in sorted(bars.items()) if day >= today), None)
        price = first if close is None else close
        last = None if price is None else grid(price)
    average = basis / position.qty
    account.positions[symbol] = dataclasses.replace(position, average=average, lastday_price=last)
    _row(account, kind, account.positions[symbol], quantity, description, at_ns)


def _rename(account: Account, rename: Rename, at_ns: int) -> None:
    position = account.positions.get(rename.symbol)
    if position is None:
        return
    account.trade(PositionChange(rename.symbol, -position.qty, position.average, at_ns))
    account.trade(PositionChange(rename.new, position.qty, position.average, at_ns))
    new_position = dataclasses.replace(position, symbol=rename.new)
    account.positions[rename.new] = new_position
    words = f"Name Change from {rename.symbol} to {rename.new}"
    _row(account, "NC", position, -position.qty, words, at_ns)
    _row(account, "NC", new_position, position.qty, words, at_ns)


def _row(
    account: Account,
    kind: str,
    position: AlpacaPosition,
    quantity: Decimal,
    description: str,
    at_ns: int,
    *,
    amount: Decimal = ZERO,
) -> None:
    """Add a row that moves shares; `amount` is its cash in USD."""
    more = {"symbol": position.symbol, "qty": text(quantity), "price": text(grid(float(_worth_of(position))))}
    _dated_row(account, kind, amount, at_ns, description, more)


def _worth_of(position: AlpacaPosition) -> Decimal:
    """Return a share's last close; the average cost if unknown."""
    return position.average if position.lastday_price is None else position.lastday_price
