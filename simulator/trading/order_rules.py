"""The broker's rules for orders: each is a small function that raises `Refusal` with documented status and code.

Rules look at the request, the account's books and the market; they change nothing. The first broken rule decides.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal

from daemon.alpaca_api.books import AlpacaPosition
from daemon.alpaca_api.refusals import denial, invalid, refusal, unprocessable
from daemon.alpaca_api.tickets import Ticket
from daemon.alpaca_api.wire import ZERO, multiplier, text
from daemon.core.instruments.option_market import OccContract
from simulator.prices.market import Market
from simulator.prices.tape import new_york_date
from simulator.trading.account import Account
from simulator.trading.orders import AlpacaOrder
from strategies.kit.contract import Session
from strategies.kit.units import HOUR_NS, SECOND_NS

EXPIRY_CUTOFF_NS = 30 * 60 * SECOND_NS  # no opening order in a contract that expires today after close - 30 min


@dataclasses.dataclass(frozen=True, slots=True)
class FractionRules:
    """Refusals of fractions: symbols, and orders worth less than `least_usd`.

    `whole_position` is the quantity of a close call for all of a position; None for any other order.
    """

    refused: frozenset[str] = frozenset()
    least_usd: Decimal = ZERO
    whole_position: Decimal | None = None


ALL_FRACTIONABLE = FractionRules()


def check(
    request: Ticket,
    account: Account,
    market: Market,
    now_ns: int,
    *,
    crosses: bool = False,
    fractions: FractionRules = ALL_FRACTIONABLE,
) -> tuple[str, Decimal]:
    """Check all rules in turn; returns the effective position intent and the price to reserve (USD a share).

    With `crosses` it may meet the account's own orders on the other side. Raises `Refusal` with the documented status,
    code and message of the first broken rule.
    """
    _account_may_trade(account)
    _check_asset(request, market, now_ns)
    for price in (request.limit_price, request.stop_price):
        check_price_grid(price)
    if request.contract is None:
        _stock_rules(request, market, now_ns)
        if request.fractional:
            _fraction_rules(request, account, fractions)
    else:
        _option_rules(request, request.contract, account, market.session_at(now_ns))
    intent = _intent(request, account)
    if request.contract is not None and intent.endswith("_to_open"):
        _not_too_late(request, request.contract, market, now_ns)
    price = _reserve_price(request, market, now_ns)
    if request.contract is None and request.fractional:
        _is_worth_it(request, price, fractions)
    if not crosses:
        _no_crossing(request, intent, account)
    _quantity_is_available(request, intent, account, market, now_ns)
    _can_be_paid(request, intent, account, market, price, now_ns)
    return intent, price


def check_price_grid(price: Decimal | None) -> None:
    """Check the grid: two decimals from 1.00 USD on, four below. Raises `Refusal` (422)."""
    if price is None:
        return
    if price <= 0:
        raise invalid("limit price must be > 0")
    step = Decimal("0.01") if price >= 1 else Decimal("0.0001")
    if price % step:
        criteria = "sub-penny increment does not fulfill minimum pricing criteria"
        raise unprocessable(f"invalid limit_price {text(price)}. {criteria}")


def mark(position: AlpacaPosition, market: Market, now_ns: int) -> Decimal:
    """Return the mid of the quote in USD a share; the average entry price without a quote."""
    quote = market.quote(position.symbol, now_ns)
    return position.average if quote is None else (quote[0] + quote[1]) / 2


def _account_may_trade(account: Account) -> None:
    if account.blocked or account.configuration["suspend_trade"]:
        raise refusal("not_authorized")


def _check_asset(request: Ticket, market: Market, now_ns: int) -> None:
    if request.contract is not None:
        today, expiry = new_york_date(now_ns), market.session_of(request.contract.expiry)
        if request.contract.expiry < today or (expiry is not None and now_ns >= expiry.close_ns):
            raise unprocessable(f'contract "{request.symbol}" is expired')
    if not market.is_listed(request.symbol, now_ns):
        raise unprocessable(f'asset "{request.symbol}" not found')
    if not market.tradable(request.symbol, now_ns):
        raise unprocessable(f'asset "{request.symbol}" is not tradable')


def _option_rules(request: Ticket, contract: OccContract, account: Account, session: Session | None) -> None:
    if request.notional is not None:
        raise unprocessable("notional orders are not supported for options trading")
    if request.qty is None or request.qty % 1:
        raise unprocessable("qty must be integer for options trading")
    if request.time_in_force != "day":
        raise unprocessable("order_time_in_force provided not supported for options trading")
    if request.extended_hours:
        raise unprocessable("extended hours is not supported for options trading")
    if request.type == "trailing_stop":
        raise unprocessable("order type provided not supported for options trading")
    if request.type == "market" and session is None:
        raise unprocessable("options market orders are only allowed during market hours")
    if account.trading_level() == 0:
        raise denial("account not eligible to trade options")


def _stock_rules(request: Ticket, market: Market, now_ns: int) -> None:
    if request.extended_hours and (request.type != "limit" or request.time_in_force not in {"day", "gtc"}):
        raise unprocessable("extended hours order must be DAY or GTC limit orders")
    if request.time_in_force in {"ioc", "fok"} and market.session_at(now_ns) is None:
        raise denial(f"{request.time_in_force} orders are only accepted during market hours")
    if request.time_in_force in {"opg", "cls"}:
        _auction_window(request, market, now_ns)


def _fraction_rules(request: Ticket, account: Account, fractions: FractionRules) -> None:
    """Check the asset's flag and the account's setting; the close call of a whole position passes both."""
    if request.qty is not None and request.qty == fractions.whole_position:
        return
    if request.symbol in fractions.refused:
        raise denial(f'asset "{request.symbol}" is not fractionable')
    if not account.configuration["fractional_trading"]:
        raise denial("account is not authorized to trade fractional shares")


def _is_worth_it(request: Ticket, price: Decimal, fractions: FractionRules) -> None:
    """Check that an order of a fraction, or a close call, is worth the least amount."""
    worth = request.notional if request.qty is None else request.qty * price
    if worth is not None and worth < fractions.least_usd:
        raise denial(f"cost basis must be >= minimal amount of order {text(fractions.least_usd)}")


def _auction_window(request: Ticket, market: Market, now_ns: int) -> None:
    """Accept opg until two minutes before the open, cls until ten before the close, both again from 19:00 on."""
    session = market.session_of(new_york_date(now_ns))
    if session is None or now_ns >= session.open_ns + int(9.5 * HOUR_NS):
        return
    ends = session.open_ns - 2 * 60 * SECOND_NS if request.time_in_force == "opg" else session.close_ns - HOUR_NS // 6
    if now_ns >= ends:
        raise denial(f"{request.time_in_force} orders are not accepted at this time")


def _intent(request: Ticket, account: Account) -> str:
    """Return the intent implied by side and position; an intent in the request must agree."""
    closes = account.quantity(request.symbol) * request.sign < 0
    intent = f"{request.side}_to_{'close' if closes else 'open'}"
    if request.position_intent and request.position_intent != intent:
        raise unprocessable(f"position intent mismatch, inferred: {intent}, specified: {request.position_intent}")
    return intent


def _not_too_late(request: Ticket, contract: OccContract, market: Market, now_ns: int) -> None:
    expiry = market.session_of(contract.expiry)
    if expiry is not None and now_ns >= expiry.close_ns - EXPIRY_CUTOFF_NS:
        raise unprocessable(f'contract "{request.symbol}" expires soon, unable to open new positions')


def _reserve_price(request: Ticket, market: Market, now_ns: int) -> Decimal:
    quote = market.quote(request.symbol, now_ns)
    price = request.limit_price or request.stop_price or (ZERO if quote is None else quote[1])
    return price if price > 0 else Decimal("0.01")


def _no_crossing(request: Ticket, intent: str, account: Account) -> None:
    """Refuse wash trades, and short sales while a buy is open."""
    for order in account.working.values():
        if (
            order.symbol != request.symbol
            or order.side == request.side
            or "trailing_stop" in {order.type, request.type}
        ):
            continue
        if request.contract is None and intent == "sell_to_open" and order.position_intent == "buy_to_open":
            raise refusal("short_while_buying")
        if request.contract is None and intent == "buy_to_open" and order.position_intent == "sell_to_open":
            raise refusal("buy_while_shorting")
        reason = _crossing(request, order)
        if reason:
            raise refusal("wash_trade", existing_order_id=order.id, reject_reason=reason)


def _crossing(request: Ticket, order: AlpacaOrder) -> str:
    if order.type in {"market", "stop"}:
        return "opposite side market/stop order exists"
    if request.type in {"market", "stop"}:
        return "opposite side limit order exists"
    assert order.limit_price is not None
    assert request.limit_price is not None
    crosses = (request.limit_price - order.limit_price) * request.sign >= 0
    return "opposite side limit order exists" if crosses else ""


def _quantity_is_available(request: Ticket, intent: str, account: Account, market: Market, now_ns: int) -> None:
    if intent.endswith("_to_open"):
        return
    quantity = request.qty
    if quantity is None:
        assert request.notional is not None
        quantity = request.notional / _reserve_price(request, market, now_ns)
    available = abs(account.available(request.symbol))
    if quantity > available:
        held_units, order_ids = account.held_for_orders(request.symbol)
        raise denial(
            f"insufficient qty available for order (requested: {text(quantity)}, available: {text(available)})",
            available=text(available),
            existing_qty=text(abs(account.quantity(request.symbol))),
            held_for_orders=text(held_units),
            related_orders=order_ids,
            symbol=request.symbol,
        )


def _can_be_paid(request: Ticket, intent: str, account: Account, market: Market, price: Decimal, now_ns: int) -> None:
    if intent.endswith("_to_close"):
        return
    figures = account.shown(lambda position: mark(position, market, now_ns), blocked=False, now_ns=now_ns)
    units = request.qty if request.qty is not None else (request.notional or ZERO) / price
    cost = units * price * multiplier(request.symbol)
    if request.contract is None:
        if request.side == "sell" and (
            account.configuration["no_shorting"] or request.notional is not None or units % 1
        ):
            raise refusal("no_short")
        power = Decimal(figures["buying_power"])
        if cost > power:
            raise denial("insufficient buying power", buying_power=figures["buying_power"], cost_basis=text(cost))
        return
    power = Decimal(figures["options_buying_power"])
    if request.side == "sell":
        cost = _cover(request, request.contract, account, units)
    elif account.trading_level() < 2:
        raise refusal("level2")
    if cost > power:
        raise denial(f"insufficient options buying power (required: {text(cost)}, available: {text(power)})")


def _cover(request: Ticket, contract: OccContract, account: Account, units: Decimal) -> Decimal:
    """Return the cash that secures a written put; a written call needs its shares instead."""
    if contract.right < 0:
        return contract.strike * units * 100
    shares = max(account.available(contract.root), ZERO)
    if shares == 0:
        raise refusal("uncovered")
    if shares < units * 100:
        need_text = f"(required: {text(units * 100)}, available: {text(shares)})"
        raise denial(f"insufficient underlying qty available for covered call {need_text}")
    return ZERO
