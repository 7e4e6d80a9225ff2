"""From the policy's answer to orders at a desk of shares: a basket, the gates, works, their attempts.

Each decision has one row. A basket denied for passing causes only waits, and the gates are asked again. Invariant: the
cash reserved for an order is at least what its fills cost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from math import fsum

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT, MICRO, worth_at
from daemon.core.broker.exits import request_exit
from daemon.core.broker.protection import could_rest, lift
from daemon.core.broker.sending import (
    AUCTION_ENDS_NS,
    Leave,
    awaits_trading,
    hanging_orders,
    held_up,
    in_the_way,
    may_enter_auction,
    may_send,
    reprice_ns,
    sellable,
    submit,
    tend_exits,
    tended_ns,
    waited_for_quote,
    ways_out,
    worked_ns,
)
from daemon.core.desks.guarded import head_rows
from daemon.core.desks.shares.sizes import (
    is_too_small,
    of_steps,
    sells_in_auction,
    share_out,
    slack,
    step_cost,
    step_of,
    whole_units,
)
from daemon.core.draft import PROTECTION, Draft
from daemon.core.effects import RaiseAlarm
from daemon.core.events import Quote
from daemon.core.gates import Intent, Verdicts, ask_gates
from daemon.core.limits import Basket
from daemon.core.orders import REJECTED, Order, Work
from daemon.core.records import BasketRow, DecisionRow
from daemon.core.risk import splits
from daemon.core.risk.guards import awaits_proceeds, cost_rate, orders_for_gates, risk_view, spendable
from daemon.core.risk.marks import leaps
from daemon.core.session import new_york_text
from daemon.core.state import ZERO, Ask, Goal, Waiting
from strategies.kit.contract import Answer, Leg, Rebalance
from strategies.kit.quantity import Part, Quantity, floor_to, to_json, whole_of
from strategies.kit.units import MINUTE_NS, SECOND_NS

ENTRY, EXIT, POLICY = "entry", "exit", "policy"  # purposes of works, and the reason of a basket's works
FINE = Decimal("0.0001")  # USD: the grid below a dollar, and of a replay

PASSING = frozenset(("not_reconciled", "account_blocked", "market_closed", "blind", "basket_under_way"))
"""Gates whose cause lasts minutes and does not affect what the policy saw: a basket denied by them alone waits."""


LEAVE_SALES = frozenset(("claim_broken",))
"""Gates on additional risk only: the sales of a basket that they deny go on."""
LEAVE_CAP = LEAVE_SALES | {"turnover", "model_not_promoted", "model_other_feed"}
"""Gates that do not block the sales by which the risk overlay returns to its cap: they last as long as a setting."""


def works_of(
    decision: int,
    legs: Iterable[Leg],
    quantities: Mapping[str, Quantity],
    now_ns: int,
    bounds: Mapping[str, Decimal] | None = None,
) -> tuple[Work, ...]:
    """Return one work for each leg that changes a position: sells first, then buys, each in the order of the legs.

    `bounds` are the highest prices of buys in USD, where they have one.
    """
    sells: list[Work] = []
    buys: list[Work] = []
    for index, leg in enumerate(legs):
        change = leg.goal - quantities.get(leg.symbol, 0)
        if change:
            purpose = ENTRY if change > 0 else EXIT
            bound = bounds.get(leg.symbol) if bounds is not None and change > 0 else None
            work = Work(f"{decision}.{index}", decision, purpose, POLICY, leg.symbol, leg.goal, -1, "", now_ns, bound)
            (buys if change > 0 else sells).append(work)
    return (*sells, *buys)


def price_step(price: Decimal, *, fine: bool) -> Decimal:
    """Return the price step: cents, below a dollar 0.0001 USD (SEC rule 612); `fine` for a replay's grid."""
    return FINE if fine or price < 1 else CENT


def buy_limit(quote: Quote, mark: Decimal, rules: Basket, *, fine: bool) -> Decimal:
    """Return the limit of a buy: ask x (1 + slack), rounded up, but never beyond the collar around the mark."""
    limit = quote.ask * (1 + Decimal(str(rules.price_slack)))
    bound = mark * (1 + Decimal(str(rules.price_collar)))
    return min(_round_price(limit, ROUND_CEILING, fine=fine), _round_price(bound, ROUND_FLOOR, fine=fine))


def sell_limit(quote: Quote, mark: Decimal, rules: Basket, *, fine: bool) -> Decimal:
    """Return the limit of a sale: bid x (1 - slack), rounded down, but never beyond the collar around the mark."""
    limit = quote.bid * (1 - Decimal(str(rules.price_slack)))
    collar = mark * Decimal(str(rules.price_collar))
    lowest, highest = mark - collar, mark + collar
    limit = min(_round_price(limit, ROUND_FLOOR, fine=fine), _round_price(highest, ROUND_FLOOR, fine=fine))
    return max(limit, _round_price(lowest, ROUND_CEILING, fine=fine))


def _round_price(price: Decimal, rounding: str, *, fine: bool) -> Decimal:
    return price.quantize(price_step(price, fine=fine), rounding=rounding)


def reserved_cash(limit: Decimal, quantity: Quantity, cost_rate: Decimal) -> Decimal:
    """Return the cash in USD reserved for a buy: its limit and its cost, rounded up."""
    value = limit * quantity
    return value + (value * cost_rate).quantize(MICRO, rounding=ROUND_CEILING)


def affordable(cash: Decimal, limit: Decimal, cost_rate: Decimal, step: Quantity = 1) -> Quantity:
    """Return the shares that `cash` pays for at the limit, cost included: at most cash / (limit x (1 + cost)).

    It is a multiple of `step`, a quantity: 1 for whole shares.
    """
    if cash <= 0:
        return 0
    quantity = floor_to(cash / (limit * (1 + cost_rate)), step)
    return quantity if reserved_cash(limit, quantity, cost_rate) <= cash else quantity - step


def free_cash(cash: Decimal, orders: Mapping[str, Order], marks: Mapping[str, Decimal], cost_rate: Decimal) -> Decimal:
    """Return the cash in USD that working buys leave: each at its limit, one without a limit at the mark."""
    for order in orders.values():
        if order.side > 0:
            price = marks.get(order.symbol, ZERO) if order.limit_price is None else order.limit_price
            cash -= reserved_cash(price, order.remaining, cost_rate)
    return cash


SALE_INTERVALS = 2  # re-price intervals: a sale that hangs longer (a halt, a lost cancel) delays no buy


def drive_shares(draft: Draft) -> None:
    """Advance every work. An order whose work was given up (a halt, a pause, an exit) is cancelled."""
    if draft.session.ended:  # day orders lapse by themselves
        _give_up(draft)
        record_basket_end(draft)
        return
    if _basket_is_over(draft):
        _give_up(draft)
    for name, order in draft.orders.items():
        if order.purpose not in ("foreign", PROTECTION) and order.work not in draft.works:
            draft.cancel(name)
    sales = [work for work in tuple(draft.works.values()) if work.purpose == EXIT]
    selling = [work.key for work in sales if _drive_sale(draft, work)]
    if any(work.purpose == ENTRY for work in draft.works.values()):
        _drive_buys(draft, selling)
    record_basket_end(draft)


# --- the end of a basket ------------------------------------------------------------------------------------------


def _basket_is_over(draft: Draft) -> bool:
    session = draft.session.session
    lead_ns = draft.trading.basket.end_before_close_min * MINUTE_NS
    return session is not None and draft.now_ns >= session.close_ns - lead_ns


def _give_up(draft: Draft) -> None:
    """End what remains of the last basket: cancel its orders, report and note what is missing."""
    open_works = [work for work in draft.works.values() if work.reason == POLICY]
    note_given_up(draft, open_works)
    for work in open_works:
        draft.close_work(work)
        order = draft.orders.get(work.order_id)
        if order is not None and not draft.session.ended:
            draft.cancel(order.client_order_id)


def note_given_up(draft: Draft, works: Sequence[Work]) -> None:
    """Note and report what these works did not reach; they do not start again that day."""
    missing: dict[str, Quantity] = {}
    for work in works:
        position = draft.book.positions.get(work.symbol)
        change = work.goal - (position.quantity if position is not None else 0)
        if change * (1 if work.purpose == "entry" else -1) > 0:
            missing[work.symbol] = change
    if missing:
        draft.basket = replace(draft.basket, given_up={**draft.basket.given_up, **missing})
        text = f"not traded today: {_changes_text(missing)}"
        orders = [order for work in works if (order := draft.orders.get(work.order_id)) is not None]
        if at_work := {order.symbol: order.side * order.remaining for order in orders}:
            text += f"; may still fill: {_changes_text(at_work)}"
        draft.effects.append(RaiseAlarm("basket_unfinished", text))


def _changes_text(changes: Mapping[str, Quantity]) -> str:
    return ", ".join(f"{change:+d} {symbol}" for symbol, change in changes.items())


def record_basket_end(draft: Draft) -> None:
    """Record how far the newest basket came, once nothing more of it is to be traded."""
    goals = draft.basket.goals
    if isinstance(goals, UnsetType) or any(work.reason == POLICY for work in draft.works.values()):
        return
    draft.basket = replace(draft.basket, goals=UNSET)
    equity = draft.book.equity
    if equity <= 0:
        return
    apart = {
        symbol: float(abs(goal - draft.held(symbol)) * draft.marks.get(symbol, ZERO) / equity)
        for symbol, goal in goals.items()
    }
    largest = max(apart, key=apart.__getitem__, default="")
    draft.records.append(
        BasketRow(
            draft.basket.decision,
            draft.now_ns,
            fsum(apart.values()),
            apart.get(largest, 0.0),
            largest if any(apart.values()) else "",
        )
    )


def note_work_ends(draft: Draft, works: tuple[Work, ...]) -> None:
    """Note works of the policy that were given up, and with them the basket that waits for the gates.

    That basket waits on through a halt or a pause where a resume may trade it.
    """
    if waits_for_resume(draft):
        note_given_up(draft, works)
        return
    note_given_up(draft, [*works, *_waiting_works(draft)])
    draft.basket = replace(draft.basket, waiting=None)


def waits_for_resume(draft: Draft) -> bool:
    """Return True where a basket denied by a halt or a pause waits for its end: on a rebalancing desk.

    Not where positions are to be left, nor while the strategy is off, nor on a tape, which no person resumes.
    """
    halt, risk = draft.risk.halt, draft.risk
    leaves = draft.leaves_for() or (halt is not None and halt.reason == "panic")
    ends = leaves or risk.stopping or risk.strategy_off or draft.identity.by_tape
    return draft.desk.decides.rebalances and not ends


def _waiting_works(draft: Draft) -> tuple[Work, ...]:
    """Return the works of the basket that waits for the gates."""
    waiting, positions = draft.basket.waiting, draft.book.positions
    if waiting is None:
        return ()
    quantities = {symbol: position.quantity for symbol, position in positions.items()}
    return works_of(waiting.row.decision, waiting.legs, quantities, draft.now_ns)


# --- sales --------------------------------------------------------------------------------------------------------


def _drive_sale(draft: Draft, work: Work) -> bool:
    """Advance one sale; True while it may soon bring cash: an order works, or the next one waits its turn.

    False for a symbol that the broker does not trade.
    """
    soon = _advance_sale(draft, work)
    return soon and not draft.session.trading_refusal(work.symbol)


def _advance_sale(draft: Draft, work: Work) -> bool:
    surplus = draft.held(work.symbol) - work.goal
    order = draft.newest_attempt(work) if work.order_id else None
    well, hanging = tend_exits(draft, work.symbol, -1, surplus)
    soon = any(_may_fill_soon(draft, working) for working in (*well, *hanging))
    if well:
        return soon
    if surplus <= 0 or (work.goal and (_is_rest(draft, work, surplus) or _is_left(draft, work, surplus))):
        if not hanging:
            draft.close_work(work)
        return False
    if _into_auction(draft, work):
        if lift(draft, work):
            return True
        return _sell(draft, work, surplus, None, auction=True)
    if not may_send(draft):
        return False
    if awaits_trading(draft, work.symbol):
        return True
    if order is not None and order.status == REJECTED and not _old(draft, order):
        return True  # retried one re-price interval later
    return held_up(draft, work.symbol, -1) or lift(draft, work) or _sell_now(draft, work, surplus) or soon


def _is_rest(draft: Draft, work: Work, quantity: Quantity) -> bool:
    """Return whether the rest of the policy's sale is too small for another order."""
    return work.reason == POLICY and work.attempt >= 0 and is_too_small(draft, work.symbol, quantity)


def _is_left(draft: Draft, work: Work, quantity: Quantity) -> bool:
    """Return whether less than one share stays, since the broker takes no order and no call for it; raise an alarm.

    The stop below what is kept covers it; another attempt each minute would only remove that stop.
    """
    symbol, last = work.symbol, draft.find_order(work.order_id) if work.order_id else None
    was_refused = last is not None and last.closing and last.status == REJECTED
    if not was_refused or quantity >= 1 or not draft.basket.is_indivisible(symbol):
        return False
    text = f"{quantity} {symbol} stay with the {work.goal} that are kept: the broker takes no order of so little"
    draft.alarm("exit_stuck", f"{text}; rltraderctl close {symbol} sells all of them")
    return True


def _old(draft: Draft, order: Order) -> bool:
    """Return True for an order that worked longer than a re-price interval."""
    return worked_ns(draft, order) >= reprice_ns(draft)


def _may_fill_soon(draft: Draft, order: Order) -> bool:
    """Return False for an order that hangs: for longer than two re-price intervals in which a daemon tended it."""
    return tended_ns(draft, order) < SALE_INTERVALS * reprice_ns(draft)


def _into_auction(draft: Draft, work: Work) -> bool:
    """Return True for the first attempt of a basket decided before the open, while the auction takes orders."""
    by_auction = sells_in_auction(draft.trading) and work.reason == POLICY and work.attempt < 0
    return by_auction and may_enter_auction(draft) and draft.held(work.symbol) - work.goal >= 1


def _sell_now(draft: Draft, work: Work, surplus: Quantity) -> bool:
    """Send a limit order near the bid, then a market order after some attempts; an exit by a rule goes to the market.

    A rebalancing's sale waits for a quote: without one there is no bid, or the symbol is halted. On other desks the
    sale is an exit and waits for seconds only: then it goes to the market without a quote, or stays within its collar
    where the quote leaps from the mark.
    """
    limit: Decimal | None = None
    if work.reason == POLICY:
        quote, mark = _offer(draft, work.symbol)
        late = not draft.desk.decides.rebalances and waited_for_quote(draft, work)
        if quote is None or quote.bid <= 0 or mark is None:
            return (late and _sell(draft, work, surplus, None, auction=False)) or _may_be_quoted(draft, work)
        if leaps(draft, quote) and not (late and not splits.is_awaited(draft.basket, work.symbol)):
            return True  # the next quote decides whether it is real
        if work.attempt + 1 - work.auction < draft.trading.execution.exit_limit_attempts:
            limit = sell_limit(quote, mark, draft.trading.basket, fine=_fine(draft))
    return _sell(draft, work, surplus, limit, auction=False)


def _may_be_quoted(draft: Draft, work: Work) -> bool:
    """Return True in the first re-price intervals of a sale that waits for a quote; after them it delays no buy.

    They count from the decision, the open, a start, or its last order's end. A tape has its quotes with its prints.
    """
    session, last = draft.session.session, draft.find_order(work.order_id) if work.order_id else None
    if draft.identity.by_tape or session is None:
        return False
    ended_ns = 0 if last is None else last.news_ns
    since_ns = max(work.started_ns, session.open_ns, draft.broker.started_ns, ended_ns)
    return draft.now_ns - since_ns < SALE_INTERVALS * reprice_ns(draft)


def _sell(draft: Draft, work: Work, surplus: Quantity, limit: Decimal | None, *, auction: bool) -> bool:
    """Send one attempt of a sale; False when nothing is free to be sold, or a gate denies it."""
    leave = sellable(draft, work, -1, surplus, hanging_orders(draft, work.symbol, -1))
    if auction:  # which takes whole shares: the rest leaves by a day order after the open
        leave = leave._replace(quantity=whole_of(leave.quantity))
    elif type(leave.quantity) is Part:
        leave = _of_fraction(draft, work, leave)
    rebalances = draft.desk.decides.rebalances and leave.quantity >= 1
    by_call = work.reason != POLICY or (leave.closing and not rebalances)  # rebalancing: below one share
    ways = [way for way in ways_out(draft, work, -1, leave) if by_call or not way.closing]
    if leave.quantity <= 0:
        return leave.waits
    if not ways:  # it waits on for a report
        return draft.now_ns - work.report_ns < SALE_INTERVALS * reprice_ns(draft)
    for way in ways:
        price = way.limit(limit, -1)
        intent = Intent(EXIT, None, work.symbol, -1, way.quantity, price, auction=auction, closing=way.closing)
        if not _denied(draft, intent, in_the_way(draft)):
            submit(draft, work, intent, _auction_valid_s(draft) if auction else draft.trading.basket.reprice_s)
            return True
    return False


def _of_fraction(draft: Draft, work: Work, leave: Leave) -> Leave:
    """Return how a sale with a fraction may leave where the broker takes none of the symbol, or refused the last.

    Whole shares go by an order, the rest by the broker's own call.
    """
    last = draft.find_order(work.order_id) if work.order_id else None
    refused = last is not None and last.status == REJECTED
    if not refused and not draft.basket.is_indivisible(work.symbol):
        return leave
    whole = whole_of(leave.quantity)
    return leave._replace(quantity=whole) if whole else leave._replace(closing=True)


# --- buys ---------------------------------------------------------------------------------------------------------


def _drive_buys(draft: Draft, sales: Collection[str]) -> None:
    """Send each buy in order, as soon as free cash covers it whole.

    `sales` are the works that may soon bring cash. The first buy that free cash does not cover waits for them, and so
    do those after it. Where cash would not cover all buys even with the sales, they share it in proportion once no sale
    is to come.
    """
    wanting = [work for work in tuple(draft.works.values()) if work.purpose == ENTRY and _wants(draft, work)]
    if not wanting or not may_send(draft):
        return
    free, selling = free_cash(draft.book.cash, draft.orders, draft.marks, cost_rate(draft)), bool(sales)
    broker_cash = spendable(draft)
    if short := broker_cash is not None and broker_cash < free:
        free, selling = max(broker_cash, ZERO), awaits_proceeds(draft) or selling
    if (room := _room(draft)) is not None and room < free:
        free, short = room, True
    prices = {work.key: price for work in wanting if (price := _price_to_share(draft, work)) is not None}
    priced_works, rate = [work for work in wanting if work.key in prices], cost_rate(draft)
    cash_need = sum((reserved_cash(prices[work.key], _missing(draft, work), rate) for work in priced_works), ZERO)
    if cash_need > free and selling and cash_need > free + _proceeds(draft, sales):
        return
    if cash_need > free and not selling:
        cut_works = _share_cash(draft, priced_works, prices, free, short=short)
        wanting = [cut_works.get(work.key, work) for work in wanting if work.key in cut_works or work.key not in prices]
    for work in wanting:
        free = _buy(draft, work, free, selling=selling, short=short)


def _room(draft: Draft) -> Decimal | None:
    """Return the USD that the risk overlay's cap leaves to buys while a sale is unfinished or was given up.

    None without such a sale: then the goals themselves are within the cap, whatever the prices did since.
    """
    most, basket = draft.basket.exposure_max, draft.basket
    if isinstance(most, UnsetType):
        return None
    unsold = any(work.purpose == EXIT for work in draft.works.values())
    if not unsold and not any(change < 0 for change in basket.given_up.values()):
        return None
    worth = sum(
        (worth_at(position, draft.marks.get(symbol, ZERO)) for symbol, position in draft.book.positions.items()), ZERO
    )
    return max(free_cash(most - worth, draft.orders, draft.marks, cost_rate(draft)), ZERO)


def _missing(draft: Draft, work: Work) -> Quantity:
    return work.goal - draft.held(work.symbol)


def _price_to_share(draft: Draft, work: Work) -> Decimal | None:
    """Return the price in USD at which a buy gets its part of the cash: its limit, or a mark while a quote is to come.

    None for a buy that gets what the others leave: a tape has its prices together, and quotes of a live desk come one
    by one.
    """
    limit, session = _affordable_limit(draft, work), draft.session.session
    quoted = draft.fresh(draft.quotes.get(work.symbol)) is not None
    if limit is not None or quoted or session is None or draft.identity.by_tape:
        return limit
    began_ns = max(work.started_ns, session.open_ns)
    return draft.marks.get(work.symbol) if draft.now_ns - began_ns < reprice_ns(draft) else None


def _proceeds(draft: Draft, sales: Collection[str]) -> Decimal:
    """Return what these sales may bring in USD, less their cost: at their limits, else at the last known prices."""
    worth = ZERO
    for work in [draft.works[key] for key in sales if key in draft.works]:
        order = draft.newest_attempt(work) if work.order_id else None
        limit = order.limit_price if order is not None and order.working else None
        price = draft.marks.get(work.symbol, ZERO) if limit is None else limit
        worth += (draft.held(work.symbol) - work.goal) * price
    return max(worth, ZERO) * (1 - cost_rate(draft))


def _share_cash(
    draft: Draft, works: Sequence[Work], prices: Mapping[str, Decimal], free: Decimal, *, short: bool
) -> dict[str, Work]:
    """Cut each buy to its part of the cash; return those that are left. `short`: the broker's limit is below the cash.

    The goals of the works are cut with them: what the cash does not cover is given up.
    """
    steps = draft.trading.basket.steps_a_share if draft.buys_fractions else 1
    sorted_works = sorted(works, key=lambda work: draft.spec.symbols.index(work.symbol))
    counts = [int(Decimal(_missing(draft, work)) * steps) for work in sorted_works]
    step_costs = [step_cost(prices[work.key], cost_rate(draft), steps) for work in sorted_works]
    available = whole_units(free, steps) - slack(steps) * len(sorted_works)
    works_to_send: dict[str, Work] = {}
    for work, goal_count, count in zip(
        sorted_works, counts, share_out(counts, step_costs, available, steps), strict=True
    ):
        if count == goal_count:
            works_to_send[work.key] = work
            continue
        quantity = floor_to(of_steps(count, steps), step_of(draft, work.symbol))
        if is_too_small(draft, work.symbol, quantity, prices[work.key]):
            quantity = 0
        if short:
            note_given_up(draft, [replace(work, goal=work.goal - quantity)])
        if not quantity:
            draft.close_work(work)
            continue
        cut = replace(work, goal=draft.held(work.symbol) + quantity)
        draft.works = {**draft.works, work.key: cut}
        draft.wanted = {**draft.wanted, work.symbol: cut.goal}
        works_to_send[work.key] = cut
    return works_to_send


def _buy(draft: Draft, work: Work, free: Decimal, *, selling: bool, short: bool) -> Decimal:
    """Send one buy where allowed; returns the cash left for those after it.

    `short`: the broker's limit is below the cash; what it does not pay for is reported.
    """
    limit, rate = _affordable_limit(draft, work), cost_rate(draft)
    if limit is None:
        return free  # no quote, or a price beyond the collar or the bound: it delays no other
    holding = draft.held(work.symbol)
    missing = floor_to(work.goal - holding, step_of(draft, work.symbol))
    if reserved_cash(limit, missing, rate) > free:
        if selling:
            return ZERO  # it waits, and so do all after it
        missing = affordable(free, limit, rate, step_of(draft, work.symbol))
        if short:
            note_given_up(draft, [replace(work, goal=work.goal - missing)])
    if not missing or _is_rest(draft, work, missing):
        draft.close_work(work)
        return free
    intent = Intent(ENTRY, None, work.symbol, +1, missing, limit)
    if _denied(draft, intent, orders_for_gates(draft)):
        return free
    if lift(draft, work):
        return free - reserved_cash(limit, missing, rate)  # sent when its stop has ended
    goal = holding + missing
    submit(draft, replace(work, goal=goal), intent, draft.trading.basket.reprice_s)
    draft.wanted = {**draft.wanted, work.symbol: goal}  # what the cash does not cover is given up
    return free - reserved_cash(limit, missing, rate)


def _wants(draft: Draft, work: Work) -> bool:
    """Return True when the buy needs another order. Old orders are cancelled, finished works closed."""
    missing = work.goal - draft.held(work.symbol)
    order = draft.newest_attempt(work) if work.order_id else None
    late = _is_over(draft, work)
    if order is not None and order.working:
        if late or order.remaining > missing or _old(draft, order):
            draft.cancel(order.client_order_id)
        return False
    if late or missing <= 0 or (order is not None and order.status == REJECTED):
        draft.close_work(work)
        return False
    return True


def _is_over(draft: Draft, work: Work) -> bool:
    """Return True for an entry past its deadline. A rebalancing's buys stand until the end of its session."""
    limit_ns = draft.trading.execution.entry_deadline_s * SECOND_NS
    return not draft.desk.decides.rebalances and draft.now_ns - work.started_ns >= limit_ns


def _affordable_limit(draft: Draft, work: Work) -> Decimal | None:
    """Return the limit of a buy now; None without a fresh ask, beyond collar or bound, or where no stop could rest."""
    quote, mark = _offer(draft, work.symbol)
    if quote is None or quote.ask <= 0 or mark is None or leaps(draft, quote):
        return None
    limit = buy_limit(quote, mark, draft.trading.basket, fine=_fine(draft))
    bound = work.limit_bound if work.limit_bound is not None else limit
    affordable = quote.ask <= limit <= bound and could_rest(draft, work.symbol, min(quote.bid, mark))
    return limit if affordable else None


# --- both ---------------------------------------------------------------------------------------------------------


def _offer(draft: Draft, symbol: str) -> tuple[Quote | None, Decimal | None]:
    return draft.fresh(draft.quotes.get(symbol)), draft.marks.get(symbol)


def _fine(draft: Draft) -> bool:
    return draft.identity.by_tape


def _auction_valid_s(draft: Draft) -> int:
    """Return the seconds for which an order for the auction may still leave."""
    session = draft.session.session
    assert session is not None
    return (session.open_ns - AUCTION_ENDS_NS - draft.now_ns) // SECOND_NS


def _denied(draft: Draft, intent: Intent, orders: dict[str, Order]) -> bool:
    """Ask the gates for one order; a denial is counted once for each order and gate, and asked again later.

    Waiting for the broker's report is not reported unless it takes long.
    """
    denials = ask_gates(replace(risk_view(draft), orders=orders), intent, draft.desk.gates).denials
    waits = [denial.gate for denial in denials] == ["not_reconciled"]
    if denials and not waits:
        why = "; ".join(f"{denial.gate}: {denial.reason}" for denial in denials)
        about = " ".join((intent.purpose, intent.symbol, *(denial.gate for denial in denials)))
        detail = f"{intent.purpose} {intent.quantity} {intent.symbol}: {why}"
        if draft.alarm("order_denied", detail, once=True, about=about):
            draft.count_denials(denial.gate for denial in denials)
    return bool(denials)


_encode = msgspec.json.encode
BOUND = Decimal(str(splits.SPLIT_RATIO))  # times the decision's price: a dearer share was counted at a wrong price


def rebalance(
    draft: Draft, ask: Ask, decision: Rebalance, answer: Answer, model: str, capped_symbols: Collection[str] = ()
) -> None:
    """Turn the strategy's decision into works; `capped_symbols` are sold by the risk overlay.

    A gate denies a basket as a whole. On a desk without rebalancing its sales are exits: no gate on new risk blocks
    them, and symbols with an exit under way are left out.
    """
    if answer.hidden and draft.model is not None:
        draft.basket = replace(draft.basket, memory_of=draft.model.version)
    legs = tuple(leg for leg in decision.basket.legs if leg.goal != draft.held(leg.symbol))
    if decision.notes:
        _report_notes(draft, decision.notes)
    leaving: tuple[Leg, ...] = ()
    if not draft.desk.decides.rebalances:
        legs = tuple(_sold_out(draft, leg) for leg in legs if draft.exit_of(leg.symbol) is None)
        leaving = _leaving(draft, legs)
    entering = tuple(leg for leg in legs if leg not in leaving)
    verdicts = _ask_for_basket(draft, decision, entering, answer) if entering else None
    denied = verdicts is not None and bool(verdicts.denials)
    new_legs = legs
    if verdicts is not None and denied:
        new_legs = leaving or _sales(draft, legs, verdicts, capped_symbols)
    outcome = "ordered" if new_legs else "denied" if denied else "hold"
    _count(draft, decision)
    choice = decision.choice
    row = DecisionRow(
        decision=ask.decision,
        kind="policy",
        bar_ns=ask.bar_ns,
        time_ns=draft.now_ns,
        action=decision.name,
        resolved=decision.name,
        confidence=choice.confidence if choice is not None else None,
        probabilities=_encode(choice.probabilities).decode() if choice is not None else None,
        logits=_encode(answer.logits).decode(),
        target=_encode(legs, enc_hook=to_json).decode(),
        gates=_encode(verdicts.by_gate).decode() if verdicts is not None else None,
        outcome=outcome,
        model=model,
        row=ask.row,
    )
    if new_legs:
        row = _begin_basket(draft, new_legs, row, _bounds(draft, new_legs))
    elif verdicts is not None and _may_pass(draft, verdicts, capped_symbols):
        until_ns = draft.desk.decides.waits_until_ns(draft, ask)
        sold_symbols = tuple(sorted(capped_symbols))
        goals = tuple([Goal(leg.symbol, leg.goal) for leg in entering])
        waiting = Waiting(goals, row, until_ns, _bounds(draft, entering), _quantities(draft), sold_symbols)
        draft.basket = replace(draft.basket, waiting=waiting)
    elif verdicts is not None and draft.desk.decides.rebalances and not draft.identity.by_tape:
        _miss_basket(draft, ask.bar_ns, _denial_words(verdicts))
    draft.records.append(row)
    draft.records.extend(head_rows(draft, ask.decision, answer, decision))


def _sold_out(draft: Draft, leg: Leg) -> Leg:
    """Return the leg; a negative goal for what is held becomes 0, which sells all of it."""
    return Leg(leg.symbol, 0) if leg.goal < 0 < draft.held(leg.symbol) else leg


def _leaving(draft: Draft, legs: tuple[Leg, ...]) -> tuple[Leg, ...]:
    """Return the sales of what is held, except for a symbol that is named twice, whose goal is not clear."""
    symbols = [leg.symbol for leg in legs]
    return tuple(leg for leg in legs if 0 <= leg.goal < draft.held(leg.symbol) and symbols.count(leg.symbol) == 1)


def _report_notes(draft: Draft, notes: Mapping[str, str]) -> None:
    """Raise an alarm that names the symbols left alone by the strategy, by its reason."""
    by_reason: dict[str, list[str]] = {}
    for symbol, reason in notes.items():
        by_reason.setdefault(reason, []).append(symbol)
    reasons_text = "; ".join(f"{reason}: {', '.join(symbols)}" for reason, symbols in by_reason.items())
    text = f"{len(notes)} of {len(draft.spec.symbols)} left alone: {reasons_text}"
    draft.alarm("symbols_masked", text, once=True, about=reasons_text)


def _begin_basket(draft: Draft, legs: tuple[Leg, ...], row: DecisionRow, bounds: Mapping[str, Decimal]) -> DecisionRow:
    """Start the works of a basket that passed all gates; returns its row.

    A symbol has one exit: one under way takes the basket's lower goal, and nothing of it is bought.
    """
    draft.desk.decides.begin(draft, legs)
    exits = {leg.symbol: work for leg in legs if (work := draft.exit_of(leg.symbol)) is not None}
    new_legs = [leg for leg in legs if leg.symbol not in exits]
    lowers = [
        request_exit(draft, row.decision, leg.symbol, leg.goal, exits[leg.symbol].reason)
        for leg in legs
        if leg.symbol in exits
    ]
    held_now = {leg.symbol: draft.held(leg.symbol) for leg in new_legs}
    works = works_of(row.decision, new_legs, held_now, draft.now_ns, bounds)
    draft.wanted = {**draft.wanted, **{leg.symbol: leg.goal for leg in new_legs}}
    draft.works = {**draft.works, **{work.key: work for work in works}}
    goals = {leg.symbol: leg.goal for leg in legs}
    draft.basket = replace(draft.basket, decision=row.decision, waiting=None, goals=goals)
    return replace(row, outcome="ordered" if works or any(lowers) else "hold", work=f"{row.decision}.")


def _sales(
    draft: Draft, legs: tuple[Leg, ...], verdicts: Verdicts, capped_symbols: Collection[str] = ()
) -> tuple[Leg, ...]:
    """Return the sales of a denied basket that none of its denying gates blocks."""
    denying = {denial.gate for denial in verdicts.denials}
    sales = tuple(leg for leg in legs if leg.goal < draft.held(leg.symbol))
    if denying <= LEAVE_SALES:
        return sales
    return tuple(leg for leg in sales if leg.symbol in capped_symbols) if denying <= LEAVE_CAP else ()


def _bounds(draft: Draft, legs: tuple[Leg, ...]) -> dict[str, Decimal]:
    """Return the highest price of each buy, whose shares were counted at current prices; none on a replay's tape."""
    if draft.identity.by_tape:
        return {}
    marks = {leg.symbol: draft.marks.get(leg.symbol, ZERO) for leg in legs}
    return {symbol: price * BOUND for symbol, price in marks.items()}


def _may_pass(draft: Draft, verdicts: Verdicts, capped_symbols: Collection[str]) -> bool:
    """Return True while what denies a basket, or its sales of `capped_symbols`, may end before its deadline."""
    passing = PASSING | {"halted", "paused"} | LEAVE_SALES if waits_for_resume(draft) else PASSING
    leaving = LEAVE_CAP if capped_symbols else frozenset()
    return all(denial.gate in passing | leaving for denial in verdicts.denials)


def _quantities(draft: Draft) -> dict[str, Quantity]:
    return {symbol: position.quantity for symbol, position in draft.book.positions.items()}


def ask_again(draft: Draft) -> None:
    """Ask the gates again about the waiting basket.

    It ends at its deadline, by a lasting cause, when the desk's holdings differ from those at the decision, or when
    another version answers than the one that decided.
    """
    waiting = draft.basket.waiting
    if waiting is None:
        return
    intent = Intent("basket", None, "", 0, 0, None, legs=waiting.legs)
    newest = _date_of_ns(max(draft.basket.newest.values(), default=0))
    verdicts = ask_gates(replace(risk_view(draft), newest_bar=newest), intent, draft.desk.gates)
    row = replace(waiting.row, gates=_encode(verdicts.by_gate).decode())
    late = draft.now_ns >= waiting.until_ns
    other = _differs(draft, waiting)
    new_legs = _sales(draft, waiting.legs, verdicts, waiting.capped) if verdicts.denials else waiting.legs
    if new_legs and not (late or other):
        draft.records.append(_begin_basket(draft, new_legs, row, waiting.bounds))
    elif late or other or not _may_pass(draft, verdicts, waiting.capped):
        draft.basket = replace(draft.basket, waiting=None)
        draft.records.append(row)
        _miss_basket(draft, row.bar_ns, other or (_denial_words(verdicts) if verdicts.denials else "its time is over"))


def _denial_words(verdicts: Verdicts) -> str:
    return "denied: " + "; ".join(f"{denial.gate}: {denial.reason}" for denial in verdicts.denials)


def _miss_basket(draft: Draft, bar_ns: int, why: str) -> None:
    """Report that a basket is not traded."""
    when = draft.basket.date or new_york_text(bar_ns)[:-3]  # a desk by the bar has a basket for each bar
    draft.alarm("basket_missed", f"no basket for {when}: {why}")


def _differs(draft: Draft, waiting: Waiting) -> str:
    """Return what changed in the desk since the decision of the waiting basket, "" for nothing."""
    model, decided_by = draft.model, waiting.row.model
    if model is not None and decided_by != model.version:
        return f"{decided_by} decided it, and {model.version} answers by now"
    other = waiting.held is not None and waiting.held != _quantities(draft)
    return "the desk holds other quantities than at the decision" if other else ""


def _ask_for_basket(draft: Draft, decision: Rebalance, legs: tuple[Leg, ...], answer: Answer) -> Verdicts:
    """Ask the gates about the whole basket; report symbols without the newest bar."""
    newest = draft.desk.decides.newest(draft)
    last_ns = max(newest.values(), default=0)
    late_symbols = [symbol for symbol in draft.spec.symbols if newest.get(symbol, 0) < last_ns]
    if late_symbols and not decision.notes:  # with notes they are named already
        names = ", ".join(late_symbols)
        text = f"{len(late_symbols)} of {len(draft.spec.symbols)} without a bar of the newest session: {names}"
        draft.alarm("symbols_masked", text, once=True, about=names)
    date = _date_of_ns(last_ns)
    confidence = decision.choice.confidence if decision.choice is not None else 1.0
    intent = Intent("basket", None, "", 0, 0, None, confidence, answer.logits, legs)
    verdicts = ask_gates(replace(risk_view(draft), newest_bar=date), intent, draft.desk.gates)
    if verdicts.denials:
        draft.count_denials(denial.gate for denial in verdicts.denials)
    return verdicts


def _count(draft: Draft, decision: Rebalance) -> None:
    """Count the decision, and its action where the policy chose one."""
    stats, actions = draft.stats, draft.stats.actions
    chosen = decision.actions if decision.choice is None else (decision.choice.action,)
    if chosen:
        counts = list(actions or (0,) * len(draft.spec.actions))
        for action in chosen:
            counts[action] += 1
        actions = tuple(counts)
    draft.stats = replace(stats, decisions=stats.decisions + 1, actions=actions)


def _date_of_ns(start_ns: int) -> str:
    """Return the New York date of a daily bar's start, "" for 0."""
    return new_york_text(start_ns)[:10] if start_ns else ""
