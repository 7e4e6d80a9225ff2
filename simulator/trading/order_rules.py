"""What the broker refuses: each rule is a small function that raises `Refusal` with the documented status and code.

Rules look at the request, the account's books and the market; they change nothing. The first broken rule speaks.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.core.instruments.option_market import OccContract
from simulator.prices.market import Market
from simulator.prices.tape import new_york_date
from simulator.trading.account import Account, AlpacaPosition
from simulator.trading.orders import ZERO, AlpacaOrder, multiplier, text
from simulator.trading.refusals import REFUSALS, Refusal, forbidden, invalid, refusal, unprocessable
from simulator.trading.tickets import Ticket
from strategies.kit.contract import Session
from strategies.kit.units import HOUR_NS, SECOND_NS

EXPIRY_CUTOFF_NS = 30 * 60 * SECOND_NS  # no opening order in a contract that expires today after close - 30 min


def check(made: Ticket, account: Account, market: Market, now_ns: int) -> tuple[str, Decimal]:
    """All rules in turn; returns the position intent in force and the price to reserve (USD a share).

    Raises `Refusal` with the documented status, code and message of the first broken rule.
    """
    _account_may_trade(account)
    _asset_is_known(made, market, now_ns)
    for price in (made.limit_price, made.stop_price):
        check_price_grid(price)
    if made.contract is None:
        _stock_rules(made, market, now_ns)
    else:
        _option_rules(made, made.contract, account, market.session_at(now_ns))
    intent = _intent(made, account)
    if made.contract is not None and intent.endswith("_to_open"):
        _not_too_late(made, made.contract, market, now_ns)
    price = _reserve_price(made, market, now_ns)
    _no_crossing(made, intent, account)
    _quantity_is_available(made, intent, account, market, now_ns)
    _can_be_paid(made, intent, account, market, price, now_ns)
    return intent, price


def check_price_grid(price: Decimal | None) -> None:
    """Two decimals from 1.00 USD on, four below. Raises `Refusal` (422)."""
    if price is None:
        return
    if price <= 0:
        raise invalid("limit price must be > 0")
    step = Decimal("0.01") if price >= 1 else Decimal("0.0001")
    if price % step:
        criteria = "sub-penny increment does not fulfill minimum pricing criteria"
        raise unprocessable(f"invalid limit_price {text(price)}. {criteria}")


def mark(position: AlpacaPosition, market: Market, now_ns: int) -> Decimal:
    """The middle of the quote in USD a share; the average entry price where there is none."""
    quote = market.quote(position.symbol, now_ns)
    return position.average if quote is None else (quote[0] + quote[1]) / 2


def _account_may_trade(account: Account) -> None:
    if account.blocked or account.configuration["suspend_trade"]:
        raise refusal("not_authorized")


def _asset_is_known(made: Ticket, market: Market, now_ns: int) -> None:
    if made.contract is not None:
        today, expiry = new_york_date(now_ns), market.session_of(made.contract.expiry)
        if made.contract.expiry < today or (expiry is not None and now_ns >= expiry.close_ns):
            raise unprocessable(f'contract "{made.symbol}" is expired')
    if not market.is_listed(made.symbol, now_ns):
        raise unprocessable(f'asset "{made.symbol}" not found')
    if not market.tradable(made.symbol, now_ns):
        raise unprocessable(f'asset "{made.symbol}" is not tradable')


def _option_rules(made: Ticket, contract: OccContract, account: Account, session: Session | None) -> None:
    if made.notional is not None:
        raise unprocessable("notional orders are not supported for options trading")
    if made.qty is None or made.qty % 1:
        raise unprocessable("qty must be integer for options trading")
    if made.time_in_force != "day":
        raise unprocessable("order_time_in_force provided not supported for options trading")
    if made.extended_hours:
        raise unprocessable("extended hours is not supported for options trading")
    if made.type == "trailing_stop":
        raise unprocessable("order type provided not supported for options trading")
    if made.type == "market" and session is None:
        raise unprocessable("options market orders are only allowed during market hours")
    if account.trading_level() == 0:
        raise forbidden("account not eligible to trade options")


def _stock_rules(made: Ticket, market: Market, now_ns: int) -> None:
    fraction = made.notional is not None or (made.qty is not None and bool(made.qty % 1))
    if fraction and made.time_in_force != "day":
        raise unprocessable("fractional orders must be DAY orders")
    if fraction and made.type == "trailing_stop":
        raise unprocessable("fractional orders must be market, limit, stop or stop_limit orders")
    if made.qty is not None and made.qty != round(made.qty, 9):
        raise unprocessable("qty must be limited to 9 decimal places")
    if made.extended_hours and (made.type != "limit" or made.time_in_force not in {"day", "gtc"}):
        raise unprocessable("extended hours order must be DAY or GTC limit orders")
    if made.time_in_force in {"ioc", "fok"} and market.session_at(now_ns) is None:
        raise forbidden(f"{made.time_in_force} orders are only accepted during market hours")
    if made.time_in_force in {"opg", "cls"}:
        _auction_window(made, market, now_ns)


def _auction_window(made: Ticket, market: Market, now_ns: int) -> None:
    """opg is taken until two minutes before the open, cls until ten before the close, both again from 19:00 on."""
    session = market.session_of(new_york_date(now_ns))
    if session is None or now_ns >= session.open_ns + int(9.5 * HOUR_NS):
        return
    ends = session.open_ns - 2 * 60 * SECOND_NS if made.time_in_force == "opg" else session.close_ns - HOUR_NS // 6
    if now_ns >= ends:
        raise forbidden(f"{made.time_in_force} orders are not accepted at this time")


def _intent(made: Ticket, account: Account) -> str:
    """The intent that follows from side and position; the one that was sent must agree."""
    closes = account.quantity(made.symbol) * made.sign < 0
    inferred = f"{made.side}_to_{'close' if closes else 'open'}"
    if made.position_intent and made.position_intent != inferred:
        raise unprocessable(f"position intent mismatch, inferred: {inferred}, specified: {made.position_intent}")
    return inferred


def _not_too_late(made: Ticket, contract: OccContract, market: Market, now_ns: int) -> None:
    expiry = market.session_of(contract.expiry)
    if expiry is not None and now_ns >= expiry.close_ns - EXPIRY_CUTOFF_NS:
        raise unprocessable(f'contract "{made.symbol}" expires soon, unable to open new positions')


def _reserve_price(made: Ticket, market: Market, now_ns: int) -> Decimal:
    quote = market.quote(made.symbol, now_ns)
    price = made.limit_price or made.stop_price or (ZERO if quote is None else quote[1])
    return price if price > 0 else Decimal("0.01")


def _no_crossing(made: Ticket, intent: str, account: Account) -> None:
    """The wash-trade matrix, and no short sale while a buy is open."""
    for order in account.working.values():
        if order.symbol != made.symbol or order.side == made.side or "trailing_stop" in {order.type, made.type}:
            continue
        if made.contract is None and intent == "sell_to_open" and order.position_intent == "buy_to_open":
            raise refusal("short_while_buying")
        if made.contract is None and intent == "buy_to_open" and order.position_intent == "sell_to_open":
            raise refusal("buy_while_shorting")
        reason = _crossing(made, order)
        if reason:
            raise Refusal(*REFUSALS["wash_trade"], existing_order_id=order.id, reject_reason=reason)


def _crossing(made: Ticket, order: AlpacaOrder) -> str:
    if order.type in {"market", "stop"}:
        return "opposite side market/stop order exists"
    if made.type in {"market", "stop"}:
        return "opposite side limit order exists"
    assert order.limit_price is not None
    assert made.limit_price is not None
    crosses = (made.limit_price - order.limit_price) * made.sign >= 0
    return "opposite side limit order exists" if crosses else ""


def _quantity_is_available(made: Ticket, intent: str, account: Account, market: Market, now_ns: int) -> None:
    if intent.endswith("_to_open"):
        return
    wanted = made.qty
    if wanted is None:
        assert made.notional is not None
        wanted = made.notional / _reserve_price(made, market, now_ns)
    available = abs(account.available(made.symbol))
    if wanted > available:
        held, related = account.held_for_orders(made.symbol)
        raise forbidden(
            f"insufficient qty available for order (requested: {text(wanted)}, available: {text(available)})",
            available=text(available),
            existing_qty=text(abs(account.quantity(made.symbol))),
            held_for_orders=text(held),
            related_orders=related,
            symbol=made.symbol,
        )


def _can_be_paid(made: Ticket, intent: str, account: Account, market: Market, price: Decimal, now_ns: int) -> None:
    if intent.endswith("_to_close"):
        return
    shown = account.shown(lambda position: mark(position, market, now_ns), blocked=False, now_ns=now_ns)
    units = made.qty if made.qty is not None else (made.notional or ZERO) / price
    cost = units * price * multiplier(made.symbol)
    if made.contract is None:
        if made.side == "sell" and (account.configuration["no_shorting"] or made.notional is not None or units % 1):
            raise refusal("no_short")
        power = Decimal(shown["buying_power"])
        if cost > power:
            raise forbidden("insufficient buying power", buying_power=shown["buying_power"], cost_basis=text(cost))
        return
    power = Decimal(shown["options_buying_power"])
    if made.side == "sell":
        cost = _cover(made, made.contract, account, units)
    elif account.trading_level() < 2:
        raise refusal("level2")
    if cost > power:
        raise forbidden(f"insufficient options buying power (required: {text(cost)}, available: {text(power)})")


def _cover(made: Ticket, contract: OccContract, account: Account, units: Decimal) -> Decimal:
    """The cash that secures a written put; a written call needs its shares instead."""
    if contract.right < 0:
        return contract.strike * units * 100
    shares = max(account.available(contract.root), ZERO)
    if shares == 0:
        raise refusal("uncovered")
    if shares < units * 100:
        needed = f"(required: {text(units * 100)}, available: {text(shares)})"
        raise forbidden(f"insufficient underlying qty available for covered call {needed}")
    return ZERO
