"""Rejections by the paper broker: faults of the order, or a shortfall of the account, in a broker's usual words.

Pure look-ups over `PaperState`. Invariant: an accepted order can be paid for, and no sale exceeds the free holding.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from daemon.core.book import CENT, OPTION_MULTIPLIER
from daemon.core.effects import SubmitOrder
from daemon.core.instruments.option_market import parse_occ
from daemon.core.limits import Paper, Trading
from daemon.core.paper.fees import fees
from daemon.core.paper.state import PaperState, holding_quantity, usd
from daemon.core.state import ZERO
from strategies.kit.quantity import whole_of
from strategies.kit.units import MINUTE_NS

INTENTS = {1: "buy_to_open", -1: "sell_to_close"}


LastAsk = Callable[[str], Decimal | None]  # symbol -> the last known ask in USD a share, None when there is none


def refusal(state: PaperState, order: SubmitOrder, time_ns: int, trading: Trading, underlying: str) -> str:
    """Return why the order is rejected at `time_ns` in the modelled option market, or an empty string."""
    tradable = _is_known(state, order.symbol, trading, underlying)
    return refusal_in_market(
        state, order, time_ns, trading.paper, tradable, lambda symbol: _last_ask(state, symbol, trading)
    )


def refusal_in_market(
    state: PaperState, order: SubmitOrder, time_ns: int, paper: Paper, tradable: bool, last_ask: LastAsk
) -> str:
    """Return why an order is rejected in any market; `tradable`: whether the contract is listed or held.

    `last_ask` gives its price. Empty string: accepted.
    """
    return _fault(state, order, time_ns, tradable) or _shortfall(state, order, paper, last_ask)


def _fault(state: PaperState, order: SubmitOrder, time_ns: int, tradable: bool) -> str:
    """Return the order's own fault, in a broker's usual words, or an empty string."""
    if order.quantity <= 0:
        return f"qty must be > 0 (requested: {order.quantity})"
    if not tradable:
        return f'asset "{order.symbol}" not found'
    if INTENTS[order.side] != order.intent:
        return f"position intent mismatch, inferred: {INTENTS[order.side]}, specified: {order.intent}"
    limit, stop = order.limit_price, order.stop_price
    if isinstance(stop, Decimal) and (stop <= 0 or stop % CENT != 0):
        return f"stop price {stop} must be a positive multiple of {CENT}"
    if limit is not None:
        wrong = limit <= 0 or limit % CENT != 0
        return f"limit price {limit} must be a positive multiple of {CENT}" if wrong else ""
    session = state.session
    if session is None or not session.open_ns <= time_ns < session.close_ns:
        return "options market orders are only allowed during market hours"
    return ""


def _shortfall(state: PaperState, order: SubmitOrder, paper: Paper, last_ask: LastAsk) -> str:
    """Return the account's shortfall for the order, in a broker's usual words, or an empty string."""
    if order.side < 0:
        working = sum(o.quantity - o.filled for o in state.orders if o.symbol == order.symbol and o.side < 0)
        held_quantity = holding_quantity(state, order.symbol)
        if order.quantity <= held_quantity - working:
            return ""
        return (
            f"insufficient qty available for order (requested: {order.quantity}, available: {held_quantity - working})"
        )
    worst = last_ask(order.symbol) if order.limit_price is None else order.limit_price
    if worst is None:
        return "market order without a quote"
    required_cash = worst * OPTION_MULTIPLIER * order.quantity + fees(whole_of(order.quantity), ZERO, 1, paper)
    available = _buying_power(state, paper, last_ask)
    if required_cash <= available:
        return ""
    return f"insufficient options buying power (required: {required_cash}, available: {available})"


def _is_known(state: PaperState, symbol: str, trading: Trading, underlying: str) -> bool:
    contract, market = parse_occ(symbol), state.market
    if contract is None or contract.root != underlying:
        return False
    return holding_quantity(state, symbol) > 0 or (
        market is not None
        and contract.expiry in market.listed_expiries(trading.contracts.min_days, trading.contracts.max_days)
        and contract.strike in market.listed_strikes(trading.paper.strikes_each_side)
    )


def _buying_power(state: PaperState, paper: Paper, last_ask: LastAsk) -> Decimal:
    """Return the cash less the possible cost of the working buys."""
    available = state.cash
    for order in state.orders:
        if order.side > 0:
            worst = (last_ask(order.symbol) if order.limit_price is None else order.limit_price) or ZERO
            available -= worst * OPTION_MULTIPLIER * (order.quantity - order.filled)
            available -= fees(whole_of(order.quantity), ZERO, 1, paper) - order.fees
    return available


def _last_ask(state: PaperState, symbol: str, trading: Trading) -> Decimal | None:
    """Return the ask at the close of the session's last bar, None without one."""
    bar, market = state.last_bar, state.market
    if bar is None or market is None:
        return None
    cents = market.cents(symbol, bar.close, bar.start_ns + MINUTE_NS, trading.paper)
    return None if cents is None else usd(cents[1])
