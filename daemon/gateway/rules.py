"""Rules for an order of a sub-account: Alpaca's own, applied to the sub-account's books, and the limits.

Each rule raises the `Refusal` that Alpaca would send. Nothing is changed here. An exit of what a sub-account holds
passes every limit: only a lack of holdings, or what the broker would refuse, blocks it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal

from daemon.alpaca_api.refusals import Refusal, denial, refusal, unprocessable
from daemon.alpaca_api.tickets import Ticket
from daemon.alpaca_api.wire import ZERO, Json, multiplier, text
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.rest.client import GATEWAY
from daemon.brokers.alpaca.trading.report import funds_of
from daemon.config.tables import SYMBOL
from daemon.core.book import CENT
from daemon.core.instruments.option_market import is_contract, parse_occ, root_of
from daemon.core.instruments.quotes import price_step
from daemon.core.risk.guards import deficit
from daemon.gateway.books import LOST, GatewayOrder, Ledgers
from daemon.gateway.config import AccountLimits, SubAccountTable
from daemon.gateway.events import MAIN
from strategies.kit.units import MINUTE_NS

_IN_FILE = "gateway.toml may allow it, from the gateway's next start on"
WIDE_SHARE, WIDE_OPTION = Decimal("0.1"), Decimal("0.5")  # part of the middle; a wider quote is no price


@dataclass(frozen=True, slots=True)
class Permit:
    """An order that may leave: its reserve in USD a share, and other sub-accounts' entries to cancel before.

    `beyond` is the limit in USD that keeps an exit from crossing a person's order. With `by_call` the exit uses the
    broker's own close call, because no such limit exists.
    """

    reserve: Decimal
    against: tuple[str, ...]
    beyond: Decimal | None = None
    by_call: bool = False


@dataclass(frozen=True, slots=True)
class OrderView:
    """The rules' input: the books, prices in USD a share, and the limits."""

    books: Ledgers
    prices: Mapping[str, Decimal]
    limits: AccountLimits
    tables: Mapping[str, SubAccountTable]
    now_ns: int
    away: str = ""  # why the broker cannot be reached, "" when it can
    ended: Collection[str] = ()  # names of purchases that count as gone


def judge(
    view: OrderView, account: str, order: Ticket, *, old_order: GatewayOrder | None = None, by_call: bool = False
) -> Permit:
    """Return what an order may do. `old_order` is the working order that it replaces. Raises `Refusal`.

    `by_call`: the broker's own call closes the position, so a person's order does not block it.
    """
    books = view.books
    holding = books.accounts[account].quantity(order.symbol)
    closes = holding * order.sign < 0
    if books.accounts[account].suspended and not closes:
        raise refusal("not_authorized")
    intent = f"{order.side}_to_{'close' if closes else 'open'}"
    if order.position_intent and order.position_intent != intent:
        raise unprocessable(f"position intent mismatch, inferred: {intent}, specified: {order.position_intent}")
    if order.symbol in closed_symbols(books) and not closes:
        raise _denial(f"{order.symbol} is closed to sub-accounts: {MAIN} is short in it, or sells it short")
    price = _reserve_price(view, order)
    by_call = by_call or (old_order is None and closes and only_call_passes(books, order))
    beyond = None if by_call or old_order is not None or not closes else price_beyond(books, order)
    if beyond is not None:
        order = dataclasses.replace(order, type="limit", limit_price=beyond)
    against = _no_crossing(view, account, order, closes=closes, by_call=by_call, old_order=old_order)
    if order.sign < 0:
        _is_held(view, account, order, old_order)
        return Permit(ZERO, against, beyond, by_call)
    if closes:
        _is_owed(books, account, order, old_order)
        return Permit(ZERO, against, beyond, by_call)
    _may_add(view, account, order, price, old_order)
    return Permit(price, against)


def denied_entries(view: OrderView) -> dict[str, str]:
    """Return the purchases of sub-accounts that work and would be denied now, each with why, newest first.

    Of those that are beyond a limit together, the older ones stay. One that was to give way is not kept either.
    """
    orders, denied = view.books.orders, dict[str, str]()
    for name in sorted(view.books.entries(), key=lambda name: (-orders[name].created_ns, name)):
        try:
            _may_stay(dataclasses.replace(view, ended=denied), orders[name])
        except Refusal as error:
            denied[name] = error.message.removeprefix(GATEWAY)
    return denied


def _may_stay(view: OrderView, order: GatewayOrder) -> None:
    account = order.account
    if order.gives_way:
        raise _denial("it was to give way to an exit or a halt")
    if account not in view.tables:
        raise _denial(f"{account} is not in the file")
    if view.books.accounts[account].suspended:
        raise _denial(f"{account} is fenced")
    _no_halt(view.books)
    _of_its_kind(view.tables[account], order.symbol)
    worth = order.filled_or_open * order.reserve * multiplier(order.symbol)
    _within_limits(view, account, root_of(order.symbol), ZERO, worth)


def may_exercise(view: OrderView, account: str, symbol: str) -> None:
    """Raise the refusal of an exercise beyond a sub-account's means: cash for a call, shares for a put."""
    books, contract = view.books, parse_occ(symbol)
    shares = books.accounts[account].quantity(symbol) * multiplier(symbol)
    if contract is None:
        raise unprocessable(f'asset "{symbol}" is no contract')
    if contract.right > 0:
        if books.accounts[account].suspended:
            raise refusal("not_authorized")
        cost, power = shares * contract.strike, buying_power(books, account)
        if cost > power and symbol not in books.exercises:
            raise refusal("buying_power", buying_power=f"{power:.2f}", cost_basis=text(cost))
    elif shares > (free := books.free(account, contract.root)) and symbol not in books.exercises:
        raise denial(f"insufficient qty available for order (requested: {text(shares)}, available: {text(free)})")


def beyond_means(books: Ledgers, spots: Mapping[str, Decimal], date: str) -> list[tuple[str, str]]:
    """Return (sub-account, symbol) of contracts that end on `date` in the money and that it could not exercise.

    A call takes cash that neither its own orders nor other exercises reserve, a put its own shares. `spots` are the
    underlyings' prices, USD. Contracts without one, and those that the holder lets lapse, are left out.
    """
    positions, account_rest = [], account_power(books)
    for name, account in books.accounts.items():
        power, shares = free_cash(books, name), dict[str, Decimal]()
        for symbol, holding in sorted(account.holdings.items()):
            contract, units = parse_occ(symbol), holding.qty * multiplier(symbol)
            if name == MAIN or contract is None or contract.expiry != date or units <= 0:
                continue
            if symbol in books.lapses or symbol in books.exercises:  # what an exercise takes is kept for it
                continue
            spot = spots.get(contract.root)
            if spot is None or contract.right * (spot - contract.strike) < CENT:
                continue  # not exercised by less than a cent
            free = shares.setdefault(contract.root, books.free(name, contract.root))
            cost = units * contract.strike
            if contract.right > 0 and cost <= min(power, account_rest):
                power, account_rest = power - cost, account_rest - cost
            elif contract.right < 0 and units <= free:
                shares[contract.root] = free - units
            else:
                positions.append((name, symbol))
    return positions


def middle_of_row(row: Json, wide: Decimal) -> Decimal | None:
    """Return the middle of a quote, USD a share; None where it is no price. Raises Malformed.

    None for a quote wider than the part `wide` of its middle, crossed, or one-sided: Alpaca writes the missing side as
    0.
    """
    bid, ask = wire.decimal(row.get("bp"), "bp"), wire.decimal(row.get("ap"), "ap")
    middle = (bid + ask) / 2
    return middle if 0 < bid <= ask and ask - bid <= wide * middle else None


def has_one_name(order: Ticket) -> bool:
    """Return whether an order names a share or a contract by its symbol.

    Alpaca also takes an asset's id, which no rule here would match. An adjusted contract can only be sold.
    """
    left = order.sign < 0 and is_contract(order.symbol)
    return left or order.contract is not None or re.fullmatch(SYMBOL, order.symbol) is not None


def closed_symbols(books: Ledgers) -> frozenset[str]:
    """Return the symbols that `main` is short in or sells short."""
    short = {symbol for symbol, holding in books.main.holdings.items() if holding.qty < 0}
    for order in books.open_orders():
        if order.account == MAIN and order.side == "sell" and order.symbol not in short:
            sale_quantity = books.held_for_orders(MAIN, order.symbol)
            if sale_quantity > books.main.quantity(order.symbol):
                short.add(order.symbol)
    return frozenset(short)


def _denial(words: str) -> Refusal:
    return denial(f"{GATEWAY}{words}")


def _reserve_price(view: OrderView, order: Ticket) -> Decimal:
    """Return the order's limit; without one the price now, or its stop where that is higher.

    For a purchase by a trailing stop, its trail above the price now.
    """
    price = order.limit_price or max(order.stop_price or ZERO, view.prices.get(order.symbol, ZERO))
    if order.type == "trailing_stop" and order.sign > 0:
        price += order.trail_price or price * (order.trail_percent or ZERO) / 100
    return price if price > 0 else CENT


def _units(order: Ticket, price: Decimal) -> Decimal:
    return order.qty if order.qty is not None else (order.notional or ZERO) / price


# --- never against each other -----------------------------------------------------------------------------------------


def _no_crossing(
    view: OrderView, account: str, order: Ticket, *, closes: bool, by_call: bool, old_order: GatewayOrder | None
) -> tuple[str, ...]:
    """Apply Alpaca's wash-trade rule across all sub-accounts; return others' entries that an exit has cancelled."""
    sweeps = []
    for other in view.books.working(order.symbol):
        if other.side == order.side or other is old_order or "trailing_stop" in (other.kind, order.type):
            continue
        reason = _crossing(order, other)
        if not reason:
            continue
        sibling = other.account not in (account, MAIN)
        if sibling and closes and other.opens:
            sweeps.append(other.name)
            continue
        if by_call and other.account == MAIN:
            continue
        if sibling:  # no fault of this sub-account, so its desk counts no rejection
            words = f"{refusal('wash_trade').message}; another sub-account's {other.side} order works"
            raise denial(f"{GATEWAY}{words}", reject_reason=reason)
        extra = {"existing_order_id": other.id} if other.account == account else {}
        raise refusal("wash_trade", **extra, reject_reason=reason)
    return tuple(sweeps)


def price_beyond(books: Ledgers, order: Ticket) -> Decimal | None:
    """Return the limit one step beyond a person's limit orders that an exit would cross; None where it crosses none.

    No rule may cancel a person's order, and none may block an exit. Where the market has moved past that order, the new
    limit fills as the exit would have.
    """
    if order.type not in ("market", "limit"):
        return None
    limits = [
        limit
        for other in books.working(order.symbol)
        if (other.account, other.kind) == (MAIN, "limit") and other.side != order.side and _crossing(order, other)
        if (limit := other.price("limit_price")) is not None
    ]
    if not limits:
        return None
    nearest = max(limits) if order.sign < 0 else min(limits)
    return nearest - order.sign * price_step(order.symbol, nearest)


def past_market(symbol: str, sign: int, price: Decimal, beyond: Decimal | None) -> Decimal:
    """Return a limit that fills at once unless the market left `price` by more than a wide quote; never past `beyond`.

    `sign` is +1 for a purchase; `beyond` is the limit next to a person's order.
    """
    wide, step = WIDE_OPTION if parse_occ(symbol) is not None else WIDE_SHARE, price_step(symbol, price)
    limit = max(price * (1 + sign * wide) // step * step, step)
    return limit if beyond is None else min(limit * sign, beyond * sign) * sign


def only_call_passes(books: Ledgers, order: Ticket) -> bool:
    """Return whether a person's order blocks a market sale and no limit beyond it would fill.

    That holds for a person's market, stop or stop-limit purchase. A sale with a limit, or for an auction, is not the
    same order as a call.
    """
    at_once = order.type == "market" and order.time_in_force == "day" and not order.extended_hours
    if order.sign > 0 or order.qty is None or not at_once:
        return False
    stops = ("market", "stop", "stop_limit")
    return any(
        other.account == MAIN and other.side == "buy" and other.kind in stops for other in books.working(order.symbol)
    )


def _crossing(order: Ticket, other: GatewayOrder) -> str:
    if other.kind in ("market", "stop"):
        return "opposite side market/stop order exists"
    limit, level = order.limit_price, other.price("limit_price")
    if order.type in ("market", "stop") or limit is None or level is None or (limit - level) * order.sign >= 0:
        return "opposite side limit order exists"
    return ""


# --- never short ------------------------------------------------------------------------------------------------------


def _is_held(view: OrderView, account: str, order: Ticket, old_order: GatewayOrder | None) -> None:
    """Raise the refusal of a sale beyond what the sub-account holds and has not offered in other sales."""
    books = view.books
    holding = books.accounts[account].quantity(order.symbol)
    if holding <= 0:
        raise refusal("no_short" if order.contract is None else "uncovered")
    if order.qty is None:
        raise unprocessable("gateway: a sale in USD is not carried, since its quantity is not known: sell a quantity")
    quantity, free = order.qty, books.free(account, order.symbol, old_order)
    if quantity > free:
        keeping = [o.id for o in books.working(order.symbol) if o.account == account and o.side == "sell"]
        raise denial(
            f"insufficient qty available for order (requested: {text(quantity)}, available: {text(free)})",
            available=text(free),
            existing_qty=text(holding),
            held_for_orders=text(holding - free),
            related_orders=keeping,
            symbol=order.symbol,
        )
    if any(o.closing and not o.known and o.open for o in books.working(order.symbol)):
        raise _denial(f"a close call for {order.symbol} has no answer yet: its other sales wait for it")


def _is_owed(books: Ledgers, account: str, order: Ticket, old_order: GatewayOrder | None) -> None:
    """Raise the refusal of a purchase beyond what a short sub-account owes, as after a bust of its purchase."""
    short = -books.accounts[account].quantity(order.symbol)
    if order.qty is None:
        raise unprocessable("gateway: a purchase in USD closes no short holding: buy a quantity")
    other_orders = (o for o in books.working(order.symbol) if o is not old_order)
    purchases = sum((o.leaves_qty for o in other_orders if (o.account, o.side) == (account, "buy")), ZERO)
    purchases += books.unbooked_quantity(order.symbol, "buy", account)
    if order.qty > short - purchases:
        available = text(max(short - purchases, ZERO))
        raise denial(f"insufficient qty available for order (requested: {text(order.qty)}, available: {available})")


# --- new risk ---------------------------------------------------------------------------------------------------------


def _may_add(view: OrderView, account: str, order: Ticket, price: Decimal, old_order: GatewayOrder | None) -> None:
    """Check all limits on a purchase: the sub-account's rules, doubts, its money, the account's limits."""
    table, books = view.tables[account], view.books
    _of_its_kind(table, order.symbol)
    if view.away:
        raise _denial(f"no new risk: {view.away}")
    if books.doubts:
        raise _denial(f"no new risk while sub-accounts and broker differ: {'; '.join(books.doubts)}")
    _no_halt(books)
    if missing_usd := deficit(funds_of(books.broker_account)):
        raise _denial(f"no new risk: the account's margin is {missing_usd:.2f} USD above its equity: a deficit")
    cost, back = _cost(order, price, old_order)
    _can_be_paid(view, account, order, cost, back)
    filled_usd = ZERO if old_order is None else old_order.filled * price * multiplier(order.symbol)
    _within_limits(view, account, root_of(order.symbol), cost - back, cost + filled_usd)
    if limit := view.limits.orders_a_minute:
        lately = sum(1 for _ in books.orders_since(view.now_ns - MINUTE_NS))
        if lately >= limit:
            raise _denial(f"{lately} orders within a minute, account.orders_a_minute is {limit}")


def _no_halt(books: Ledgers) -> None:
    if books.halt is not None:
        raise _denial(f"no new risk: {books.halt[0]}: {books.halt[1]}")


def _cost(order: Ticket, price: Decimal, old_order: GatewayOrder | None) -> tuple[Decimal, Decimal]:
    """Return what a purchase costs, USD, and how much of it the order that it replaces releases."""
    back = ZERO
    if old_order is not None and old_order.open:
        back = old_order.leaves_qty * old_order.reserve * multiplier(order.symbol)
    return _units(order, price) * price * multiplier(order.symbol), back


def only_figure_denies(view: OrderView, account: str, order: Ticket, old_order: GatewayOrder | None) -> bool:
    """Return whether only the account's figure of the last report cannot pay a purchase that the sub-account could."""
    cost, back = _cost(order, _reserve_price(view, order), old_order)
    return order.sign > 0 and account_power(view.books) < cost - back <= free_cash(view.books, account)


def _of_its_kind(table: SubAccountTable, symbol: str) -> None:
    kind = "options" if is_contract(symbol) else "shares"
    if kind not in table.kinds:
        raise _denial(f"sub_account.{table.name}.kinds is {list(table.kinds)}: no {kind}; {_IN_FILE}")
    root = root_of(symbol)
    if table.symbols and root not in table.symbols:
        raise _denial(f"sub_account.{table.name}.symbols is {list(table.symbols)}: no {root}; {_IN_FILE}")


def _can_be_paid(view: OrderView, account: str, order: Ticket, cost: Decimal, back: Decimal) -> None:
    """Raise the refusal of a purchase that costs more than the sub-account's buying power."""
    power = buying_power(view.books, account) + back
    if cost <= power:
        return
    if order.contract is None:
        raise refusal("buying_power", buying_power=f"{power:.2f}", cost_basis=text(cost))
    raise denial(f"insufficient options buying power (required: {text(cost)}, available: {power:.2f})")


def buying_power(books: Ledgers, account: str) -> Decimal:
    """Return USD that a sub-account may still spend: the lesser of its free cash and the account's power."""
    return min(free_cash(books, account), account_power(books))


def free_cash(books: Ledgers, account: str) -> Decimal:
    """Return a sub-account's cash in USD that neither its own purchases nor its short positions keep."""
    short = (h for h in books.accounts[account].holdings.values() if h.qty < 0)
    owed = sum((-h.qty * books.marks.get(h.symbol, h.average) * multiplier(h.symbol) for h in short), ZERO)
    return max(books.accounts[account].cash - books.reserved_usd(account) - owed, ZERO)


def account_power(books: Ledgers) -> Decimal:
    """Return USD that the broker's account has left: the last report's figure less purchases since."""
    figure = funds_of(books.broker_account).non_marginable
    if figure is None:
        figure = books.broker_cash
    orders = (o for o in books.orders_since(books.reported_ns) if o.opens and o.status != LOST)
    cost = sum((o.filled_or_open * o.reserve * multiplier(o.symbol) for o in orders), ZERO)
    return max(figure - cost, ZERO)


def _within_limits(view: OrderView, account: str, root: str, new_usd: Decimal, whole: Decimal) -> None:
    """Check the sub-account's and the account's limits for `new_usd` more, of an order of `whole` USD in all."""
    limits, table = view.limits, view.tables[account]
    if table.order_max and whole > table.order_max:
        raise _denial(f"{whole:.2f} USD in one order, sub_account.{table.name}.order_max is {table.order_max}")
    if table.exposure_max:
        usd = exposure(view, (account,)) + new_usd
        if usd > table.exposure_max:
            raise _denial(f"exposure {usd:.2f} USD, sub_account.{table.name}.exposure_max is {table.exposure_max}")
    names = tuple(name for name in view.books.accounts if name != MAIN)
    if limits.gross_exposure_max:
        gross = exposure(view, names) + new_usd
        if gross > limits.gross_exposure_max:
            raise _denial(f"gross exposure {gross:.2f} USD, account.gross_exposure_max is {limits.gross_exposure_max}")
    if limits.symbol_exposure_max:
        alone = exposure(view, names, root) + new_usd
        if alone > limits.symbol_exposure_max:
            words = f"exposure in {root} {alone:.2f} USD, account.symbol_exposure_max is {limits.symbol_exposure_max}"
            raise _denial(words)


def exposure(view: OrderView, accounts: tuple[str, ...], root: str = "") -> Decimal:
    """Return USD in holdings and open purchases of sub-accounts, for one underlying or all."""
    books, total = view.books, ZERO
    for name in accounts:
        for symbol, holding in books.accounts[name].holdings.items():
            if not root or root_of(symbol) == root:
                total += abs(holding.qty) * view.prices.get(symbol, holding.average) * multiplier(symbol)
    for order in books.purchases(accounts):
        if order.name not in view.ended and (not root or root_of(order.symbol) == root):
            total += order.to_come * order.reserve * multiplier(order.symbol)
    return total


def day_loss(books: Ledgers) -> Decimal:
    """Return USD that all sub-accounts but `main` lost from the last report of an earlier day to the last one."""
    now = sum((books.worth(name, books.marks) for name in books.accounts if name != MAIN), ZERO)
    return books.day[1] - now if books.day[0] else ZERO
