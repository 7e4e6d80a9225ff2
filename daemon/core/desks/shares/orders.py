"""Advance a basket's works: sales first, then buys in order as cash comes in; unfinished ones are given up in time.

Sales may go into the opening auction; all else goes as limit orders in regular hours. Invariant: a buy is sent for free
cash alone, and is cut to fit the cash only once no sale works any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from msgspec.structs import replace

from daemon.core.broker.funds import proceeds_awaited, spendable
from daemon.core.broker.hanging import (
    QUOTE_WAIT_NS,
    hanging_orders,
    held_up,
    in_the_way,
    reprice_ns,
    tend_exits,
    worked_ns,
)
from daemon.core.broker.sellable import sellable, ways_out
from daemon.core.broker.sending import AUCTION_ENDS_NS, may_enter_auction, may_send, submit
from daemon.core.desks.shares.basket import (
    ENTRY,
    EXIT,
    POLICY,
    affordable,
    buy_limit,
    free_cash,
    reserved,
    sell_limit,
    works_of,
)
from daemon.core.desks.view import cost_rate, risk_view
from daemon.core.draft import Draft
from daemon.core.effects import RaiseAlarm
from daemon.core.events import Quote
from daemon.core.gate import Intent, ask_gates
from daemon.core.orders import REJECTED, Order, Work
from daemon.core.risk.marks import leaps
from daemon.core.state import ZERO
from strategies.kit.units import MINUTE_NS, SECOND_NS

SALE_INTERVALS = 2  # re-price intervals: a sale that hangs longer (a halt, a lost cancel) delays no buy


def drive_shares(draft: Draft) -> None:
    """Advance every work. An order whose work was given up (a halt, a pause, an exit) is cancelled."""
    if draft.session.ended:  # day orders lapse by themselves
        _give_up(draft)
        return
    if _basket_is_over(draft):
        _give_up(draft)
    for name, order in draft.orders.items():
        if order.purpose != "foreign" and order.work not in draft.works:
            draft.cancel(name)
    selling = [_drive_sale(draft, work) for work in tuple(draft.works.values()) if work.purpose == EXIT]
    if any(work.purpose == ENTRY for work in draft.works.values()):
        _drive_buys(draft, selling=any(selling))


# --- the end of a basket ------------------------------------------------------------------------------------------


def _basket_is_over(draft: Draft) -> bool:
    session = draft.session.session
    lead_ns = draft.trading.basket.end_before_close_min * MINUTE_NS
    return session is not None and draft.now_ns >= session.close_ns - lead_ns


def _give_up(draft: Draft) -> None:
    """End what remains of the last basket: cancel its orders, report and note what is missing."""
    left = [work for work in draft.works.values() if work.reason == POLICY]
    note_given_up(draft, left)
    for work in left:
        draft.close_work(work)
        order = draft.orders.get(work.order_id)
        if order is not None and not draft.session.ended:
            draft.cancel(order.client_order_id)


def note_given_up(draft: Draft, works: Sequence[Work]) -> None:
    """Note and report what these works did not reach; they do not start again that day."""
    missing: dict[str, int] = {}
    for work in works:
        position = draft.book.positions.get(work.symbol)
        change = work.goal - (position.quantity if position is not None else 0)
        if change * (1 if work.purpose == "entry" else -1) > 0:
            missing[work.symbol] = change
    if missing:
        draft.basket = replace(draft.basket, given_up={**draft.basket.given_up, **missing})
        text = ", ".join(f"{change:+d} {symbol}" for symbol, change in missing.items())
        draft.effects.append(RaiseAlarm("basket_unfinished", f"not traded today: {text}"))


def note_ended(draft: Draft, works: tuple[Work, ...]) -> None:
    """Note works of the policy that were given up, and with them the basket that waits for the gates.

    The latter waits on through a halt or a pause where a resume may trade it.
    """
    if waits_for_resume(draft):
        note_given_up(draft, works)
        return
    note_given_up(draft, [*works, *_waiting_works(draft)])
    draft.basket = replace(draft.basket, waiting=None)


def waits_for_resume(draft: Draft) -> bool:
    """Return True where a basket that a halt or a pause denies waits for its end: a rebalancing desk's.

    Not where what is held leaves, nor where the strategy is not asked any more, nor on a tape, where nobody resumes.
    """
    halted, risk = draft.risk.halt, draft.risk
    leaves = draft.leaves_all() or (halted is not None and halted.reason == "panic")
    ends = leaves or risk.stopping or risk.strategy_off or draft.identity.by_tape
    return draft.desk.decides.rebalances and not ends


def _waiting_works(draft: Draft) -> tuple[Work, ...]:
    """Return the works of the basket that waits for the gates."""
    waiting, positions = draft.basket.waiting, draft.book.positions
    if waiting is None:
        return ()
    held = {symbol: position.quantity for symbol, position in positions.items()}
    return works_of(waiting.row.decision, waiting.legs, held, draft.now_ns)


# --- sales --------------------------------------------------------------------------------------------------------


def _drive_sale(draft: Draft, work: Work) -> bool:
    """Advance one sale; True while it may soon bring cash: an order works, or the next one waits its turn."""
    surplus = draft.held(work.symbol) - work.goal
    order = draft.newest_attempt(work) if work.order_id else None
    well, hanging = tend_exits(draft, work.symbol, -1, surplus)
    soon = any(not _old(draft, working, SALE_INTERVALS) for working in (*well, *hanging))
    if well:
        return soon
    if surplus <= 0:
        if not hanging:
            draft.close_work(work)
        return False
    if _into_auction(draft, work):
        return _sell(draft, work, surplus, None, auction=True)
    if not may_send(draft):
        return False
    if order is not None and order.status == REJECTED and not _old(draft, order):
        return True  # retried one re-price interval later
    return held_up(draft, work.symbol, -1) or _sell_now(draft, work, surplus) or soon


def _old(draft: Draft, order: Order, times: int = 1) -> bool:
    """Return True for an order that worked longer than `times` re-price intervals."""
    return worked_ns(draft, order) >= times * reprice_ns(draft)


def _into_auction(draft: Draft, work: Work) -> bool:
    """Return True for the first attempt of a basket decided before the open, while the auction takes orders."""
    rules = draft.trading.basket
    wanted = rules.auction and rules.decide == "after_close" and work.reason == POLICY and work.attempt < 0
    return wanted and may_enter_auction(draft)


def _sell_now(draft: Draft, work: Work, surplus: int) -> bool:
    """Send a limit order near the bid, then a market order after some attempts; an exit by a rule goes to the market.

    A basket's sale waits for a quote: there is no bid, or the symbol is halted. Where decisions are no rebalancing, the
    sale is an exit, and goes to the market when no quote comes.
    """
    limit: Decimal | None = None
    if work.reason == POLICY:
        quote, mark = _offer(draft, work.symbol)
        if quote is None or quote.bid <= 0 or mark is None:
            late = draft.now_ns - work.started_ns >= QUOTE_WAIT_NS
            return late and not draft.desk.decides.rebalances and _sell(draft, work, surplus, None, auction=False)
        if leaps(draft, quote):
            return True  # the next quote decides whether it is one
        if work.attempt + 1 - work.auction < draft.trading.execution.exit_limit_attempts:
            limit = sell_limit(quote, mark, draft.trading.basket, fine=_fine(draft))
    return _sell(draft, work, surplus, limit, auction=False)


def _sell(draft: Draft, work: Work, surplus: int, limit: Decimal | None, *, auction: bool) -> bool:
    """Send one attempt of a sale; False when nothing is free to be sold, or a gate denies it."""
    leave = sellable(draft, work, -1, surplus, hanging_orders(draft, work.symbol, -1))
    by_call = work.reason != POLICY or (leave.closing and not draft.desk.decides.rebalances)  # never of a rebalancing
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


# --- buys ---------------------------------------------------------------------------------------------------------


def _drive_buys(draft: Draft, *, selling: bool) -> None:
    """Send each buy in order, as soon as free cash covers it whole.

    The first that it does not cover waits for the sales, with those after it, and is cut to whole shares when no sale
    is to come.
    """
    free = free_cash(draft.book.cash, draft.orders, draft.marks, cost_rate(draft))
    granted = spendable(draft)
    if short := granted is not None and granted < free:
        free, selling = max(granted, ZERO), proceeds_awaited(draft) or selling
    for work in tuple(draft.works.values()):
        if work.purpose == ENTRY and _wants(draft, work) and may_send(draft):
            free = _buy(draft, work, free, selling=selling, short=short)


def _buy(draft: Draft, work: Work, free: Decimal, *, selling: bool, short: bool) -> Decimal:
    """Send one buy where allowed; returns the cash left for those after it.

    The broker's limit may be `short` of the cash: what it does not pay for is reported.
    """
    limit, rate = _affordable_limit(draft, work), cost_rate(draft)
    if limit is None:
        return free  # no quote, or a price beyond the collar or the bound: it delays no other
    holding = draft.held(work.symbol)
    missing = work.goal - holding
    if reserved(limit, missing, rate) > free:
        if selling:
            return ZERO  # it waits, and so do all after it
        missing = affordable(free, limit, rate)
        if short:
            note_given_up(draft, [replace(work, goal=work.goal - missing)])
        if not missing:
            draft.close_work(work)
            return free
    intent = Intent(ENTRY, None, work.symbol, +1, missing, limit)
    if _denied(draft, intent, draft.orders):
        return free
    goal = holding + missing
    submit(draft, replace(work, goal=goal), intent, draft.trading.basket.reprice_s)
    draft.wanted = {**draft.wanted, work.symbol: goal}  # what the cash does not cover is given up
    return free - reserved(limit, missing, rate)


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
    """Return True for an entry older than any may be. A rebalancing's buys stand until the end of its session."""
    limit_ns = draft.trading.execution.entry_deadline_s * SECOND_NS
    return not draft.desk.decides.rebalances and draft.now_ns - work.started_ns >= limit_ns


def _affordable_limit(draft: Draft, work: Work) -> Decimal | None:
    """Return the limit of a buy now; None without a fresh ask, or beyond the collar or the work's bound."""
    quote, mark = _offer(draft, work.symbol)
    if quote is None or quote.ask <= 0 or mark is None or leaps(draft, quote):
        return None
    limit = buy_limit(quote, mark, draft.trading.basket, fine=_fine(draft))
    bound = work.limit_bound if work.limit_bound is not None else limit
    return limit if quote.ask <= limit <= bound else None


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
