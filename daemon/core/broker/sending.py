"""Submission of orders: when an order may be sent, and one attempt of a work as an order.

A new attempt's client order id derives from (epoch, strategy, decision, leg, attempt), so no order can go out twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.draft import CANCEL_AGAIN_NS, CANCEL_STUCK_NS, EXIT, PROTECTION, Draft, names_of
from daemon.core.effects import AskBroker, SubmitOrder
from daemon.core.gates import Intent
from daemon.core.instruments.option_market import parse_occ, root_of
from daemon.core.instruments.quotes import price_step
from daemon.core.orders import ENDED, REJECTED, SUBMITTED, UNKNOWN, Order, Work, client_order_id, in_words
from daemon.core.session import new_york_date
from daemon.core.state import BROKER_MODES
from strategies.kit.quantity import FINEST, Part, Quantity, total
from strategies.kit.units import SECOND_NS

CONFIRM_NS = 5 * SECOND_NS  # an exit waits this long for a report, then leaves by the broker's own call
FRESH_NS = 2 * CONFIRM_NS  # a report requested longer ago does not count


class Leave(NamedTuple):
    """Quantity that an exit may order; `closing`: by the broker's own call; `waits`: for a report first.

    `beyond`: limit in USD, just beyond the orders on the other side, that the exit must keep; None without such orders.
    """

    quantity: Quantity
    closing: bool = False
    waits: bool = False
    beyond: Decimal | None = None

    def limit(self, price: Decimal | None, side: int) -> Decimal | None:
        """Return the limit in USD of an order on `side` that would have `price`; None is a market order."""
        if self.closing or self.beyond is None:
            return None if self.closing else price
        if price is None:
            return self.beyond
        return max(price, self.beyond) if side < 0 else min(price, self.beyond)


def sellable(draft: Draft, work: Work, side: int, surplus: Quantity, hanging: Sequence[Order] = ()) -> Leave:
    """Return what the work's exit on `side` may order of `surplus` now; quantity 0 or less when nothing is free.

    That case raises an alarm, and a report that the exit needs is requested. What `hanging` orders hold back counts as
    free as far as the broker's available quantity shows it.
    """
    symbol, broker = work.symbol, draft.broker
    if has_lapsed(draft, symbol):
        return Leave(0)  # expired: the ledger's line ends it, or a report without it
    # sales of others from the desk's position
    foreign_sales = max(-broker.foreign_held.get(symbol, 0), 0) if side < 0 else 0
    stop_quantity = _stop_quantity(draft, symbol, side, surplus)
    working = draft.working(symbol, side) + foreign_sales - stop_quantity
    free = surplus - working
    if not confirmed(draft, symbol):
        return _wait_for_report(draft, work, free)
    available = broker.available.get(symbol) if broker.asked_ns >= max(broker.lost_ns, broker.started_ns) else None
    quantity, foreign_net = free, draft.expected(symbol) - draft.held(symbol)
    if _is_netted(draft, symbol, side):
        available, quantity = None, free - broker.beyond_of(symbol)
    elif available is not None:
        foreign = max(-side * foreign_net, 0) + broker.beyond_of(symbol)  # not the desk's
        held_back = may_be_free(hanging) - min(may_be_free(hanging), stop_quantity)
        coming = on_its_way(draft, symbol, side)
        others = _others_part(draft, symbol, side)
        quantity = max(min(free, available - others), min(free + held_back, available - max(foreign, others) - coming))
    if quantity > 0:
        free_quantity = abs(draft.held(symbol)) - working
        leaves_none = quantity >= (
            free_quantity if available is None else min(free_quantity, available + stop_quantity)
        )
        if (leaves_none or symbol in draft.basket.to_come) and awaits_report(draft, work):
            return _wait_for_report(draft, work, quantity)
        return Leave(quantity, closing=broker.follows_panic and not is_option(symbol))
    if surplus == _alone(draft, symbol) and given_up(draft, hanging):
        return Leave(surplus, closing=True)
    note_held_up(draft, symbol, surplus, hanging)
    return Leave(quantity)


def _lacks(draft: Draft, symbol: str) -> bool:
    """Return whether the broker has fewer than desk and others should have: whose are missing is not known yet."""
    beyond, refused = draft.broker.beyond_of(symbol), max(draft.broker.refused_of(symbol), 0)
    return symbol in draft.broker.doubtful and beyond < max(refused, FINEST)


def _others_part(draft: Draft, symbol: str, side: int) -> Quantity:
    """Return how many of the available shares an exit leaves to others: none, unless the broker lacks some.

    What others' working orders hold back is not available already.
    """
    if not _lacks(draft, symbol):
        return 0
    refused = max(draft.broker.refused_of(symbol), 0) if side < 0 else 0
    orders = [it for it in draft.broker.foreign.values() if (it.symbol, it.side) == (symbol, side)]
    working = total(it.remaining for it in orders if it.status not in ENDED)
    return max(max(-side * (draft.expected(symbol) - draft.held(symbol)), 0) + refused - working, 0)


def _is_netted(draft: Draft, symbol: str, side: int) -> bool:
    """Return True where shares are bought back while others are long in them, as after the exercise of a put.

    The broker has only the difference: its available quantity is no bound, and its own call would sell others' shares.
    """
    return side > 0 and draft.broker.foreign_held.get(symbol, 0) > 0


def _stop_quantity(draft: Draft, symbol: str, side: int, surplus: Quantity) -> Quantity:
    """Return the quantity of stops that may rest below what the exit leaves, which is not to be sold."""
    stops = [o.remaining for o in draft.orders.values() if (o.symbol, o.side, o.purpose) == (symbol, side, PROTECTION)]
    rest: Quantity = abs(draft.held(symbol)) - surplus
    return min(total(stops), max(rest, 0))


def awaits_report(draft: Draft, work: Work) -> bool:
    """Return True while an exit still needs a report from after it was ready, to leave nothing or to follow a split.

    Applies to shares, and to contracts that others hold too, at a real broker.
    """
    broker, symbol = draft.broker, work.symbol
    if draft.identity.mode not in BROKER_MODES or (is_option(symbol) and not broker.foreign_held.get(symbol)):
        return False
    young = draft.now_ns - broker.asked_ns < FRESH_NS and symbol not in broker.moved
    return not (0 < _requested_ns(draft, work) < broker.asked_ns and young)


def _requested_ns(draft: Draft, work: Work) -> int:
    """Return when a report was requested for the work's next attempt; 0: not since the last attempt."""
    last = draft.find_order(work.order_id) if work.order_id else None
    return work.report_ns if last is None or work.report_ns >= last.news_ns else 0


def _wait_for_report(draft: Draft, work: Work, quantity: Quantity) -> Leave:
    """Request a report and wait for it; after `CONFIRM_NS` without one, close `quantity` by the broker's own call."""
    since_ns = _requested_ns(draft, work)
    if not since_ns or (since_ns < draft.broker.asked_ns and confirmed(draft, work.symbol)):
        draft.works = {**draft.works, work.key: replace(work, report_ns=draft.now_ns)}
        if not any(isinstance(effect, AskBroker) and effect.at_once for effect in draft.effects):
            draft.effects.append(AskBroker(f"an exit of {work.symbol} waits for it", at_once=True))
    elif draft.now_ns - since_ns >= CONFIRM_NS and quantity > 0 and not _may_have_closed(draft, work):
        return Leave(quantity, closing=True)
    return Leave(0, waits=True)


def _may_have_closed(draft: Draft, work: Work) -> bool:
    """Return True when another call could close others' shares: the last was unanswered, and calls have no name."""
    last = draft.find_order(work.order_id) if work.order_id else None
    is_unanswered = last is not None and last.closing and not last.known and last.status != REJECTED
    return is_unanswered and bool(draft.broker.foreign_held.get(work.symbol))


def ways_out(draft: Draft, work: Work, side: int, leave: Leave) -> tuple[Leave, ...]:
    """Return the ways in which an exit may leave now, the most wanted first: `leave` alone in general.

    The broker refuses an order that crosses one on the other side (a wash trade). When such an order does not end for
    too long, and the exit's last attempt was refused, the broker's own call and a limit beyond that order take turns.
    """
    if _is_netted(draft, work.symbol, side):
        return (leave._replace(closing=False),)
    last = draft.find_order(work.order_id) if work.order_id else None
    stuck = stuck_against(draft, work.symbol, side)
    if leave.quantity <= 0 or leave.closing or last is None or not stuck:
        return (leave,)
    beyond = _beyond(stuck, side)
    offered = beyond is not None and last.limit_price is not None and (last.limit_price - beyond) * side <= 0
    if last.status != REJECTED and not offered:
        return (leave,)
    close = [leave._replace(closing=True)] if leave.quantity == _alone(draft, work.symbol) else []
    offer = [] if beyond is None else [leave._replace(beyond=beyond)]
    return tuple(offer + close if last.closing else close + offer) or (leave,)


def _beyond(stuck: Sequence[Order], side: int) -> Decimal | None:
    """Return the limit one price step beyond those of all these orders; None where one has none, or it would be 0."""
    limits = [order.limit_price for order in stuck if order.limit_price is not None]
    if len(limits) < len(stuck):
        return None
    nearest = max(limits) if side < 0 else min(limits)
    step = price_step(stuck[0].symbol, nearest)
    steps = (nearest / step).quantize(Decimal(1), rounding=ROUND_FLOOR if side < 0 else ROUND_CEILING) - side
    return steps * step if steps > 0 else None


def _alone(draft: Draft, symbol: str) -> Quantity:
    """Return the quantity that the broker's own call would close if all of it is the desk's; else 0."""
    position = draft.book.positions.get(symbol)
    return 0 if position is None or draft.broker.foreign_held.get(symbol) else abs(position.quantity)


def confirmed(draft: Draft, symbol: str) -> bool:
    """Return True for an option, and for shares whose quantity a report confirms.

    That is: no lost news and no foreign trade since, and no open doubt about the quantity.
    """
    if is_option(symbol):
        return True
    broker = draft.broker
    reported = broker.reported_ns >= broker.started_ns and broker.asked_ns >= broker.lost_ns
    return reported and symbol not in broker.touched and (symbol not in broker.doubtful or symbol in broker.available)


def is_option(symbol: str) -> bool:
    return parse_occ(symbol) is not None


def report_closing(draft: Draft, work: Work, quantity: Quantity) -> None:
    """Report that a position leaves by the broker's own call, and why."""
    symbol, how = work.symbol, "closed by the broker's own call, which sells no more"
    if _is_unconfirmed(draft, work):  # one alarm names all exits that wait for the missing report
        exits = [it for it in draft.works.values() if it.purpose == EXIT]
        waiting = {it.symbol: draft.held(it.symbol) - it.goal for it in exits if _is_unconfirmed(draft, it)}
        waiting[symbol] = quantity
        if waiting.keys() <= draft.told_of("exit_unconfirmed"):
            return  # fewer than before wait now
        texts = names_of([f"{abs(count)} {name}" for name, count in waiting.items()])
        about = " ".join(sorted(waiting))
        draft.alarm("exit_unconfirmed", f"{texts}: no report says what is there; {how}", once=True, about=about)
        return
    if draft.broker.follows_panic:
        return  # reported before
    against = hanging_orders(draft, symbol, 1 if draft.held(symbol) > 0 else -1)
    cause = "an order on the other side does not end" if against else "orders that do not end hold all of it"
    if type(quantity) is Part and not against and not hanging_orders(draft, symbol, -1):
        cause = "the broker takes no order of this fraction"
    draft.alarm("exit_stuck", f"{quantity} {symbol}: {cause}; {how}", once=True, about=f"close {symbol}")


def _is_unconfirmed(draft: Draft, work: Work) -> bool:
    """Return whether the exit requested a report and none shows its quantity yet."""
    return work.report_ns > 0 and (awaits_report(draft, work) or not confirmed(draft, work.symbol))


def has_lapsed(draft: Draft, symbol: str) -> bool:
    """Return whether the last session of a contract is over; after a start its end may not be reported yet."""
    contract, session = parse_occ(symbol), draft.session.session
    if contract is None or session is None:
        return False
    if contract.expiry < max(session.date, new_york_date(draft.now_ns).isoformat()):
        return True
    return contract.expiry == session.date and (draft.session.ended or draft.now_ns >= session.close_ns)


AUCTION_ENDS_NS = 120 * SECOND_NS  # before the open; US auctions close to new orders at 9:28 New York
FIRST_REPORT_NS = 60 * SECOND_NS  # an outage at a start delays exits no longer than this


def may_send(draft: Draft) -> bool:
    """Return True within the regular hours of the running session, unless the keys open another account.

    After a start, wait for a first report of a real broker, up to a limit.
    """
    session = draft.session.session
    return session is not None and _broker_reported(draft) and session.open_ns <= draft.now_ns < session.close_ns


def may_enter_auction(draft: Draft) -> bool:
    """Return True while the opening auction of the next session takes orders; otherwise as `may_send`."""
    session = draft.session.session
    return session is not None and _broker_reported(draft) and draft.now_ns < session.open_ns - AUCTION_ENDS_NS


def _broker_reported(draft: Draft) -> bool:
    broker = draft.broker
    heard = broker.asked_ns > broker.panic_failed_ns
    if draft.session.ended or broker.wrong or (broker.stood_down and not (broker.follows_panic and heard)):
        return False
    unreported = broker.reported_ns < broker.started_ns and draft.identity.mode in BROKER_MODES
    return not unreported or draft.now_ns - broker.started_ns >= FIRST_REPORT_NS


def submit(draft: Draft, work: Work, intent: Intent, valid_s: int) -> None:
    """Submit the work's next attempt; it is not sent again after `valid_s`."""
    attempt = work.attempt + 1
    leg = int(work.key.rpartition(".")[2])
    identity = draft.identity
    name = client_order_id(identity.epoch, identity.strategy, work.decision, leg, attempt)
    if draft.find_order(name) is not None:
        raise ValueError(f"client order id {name} was used before; every attempt has its own")
    order = Order(
        client_order_id=name,
        work=work.key,
        purpose=work.purpose,
        reason=work.reason,
        symbol=intent.symbol,
        side=intent.side,
        quantity=intent.quantity,
        limit_price=intent.limit_price,
        status=SUBMITTED,
        submitted_ns=draft.now_ns,
        valid_until_ns=draft.now_ns + valid_s * SECOND_NS,
        auction=intent.auction,
        closing=intent.closing,
    )
    submission = submission_of(draft, order)
    if not draft.leaves(submission):
        return
    if intent.closing:  # first: the order makes the report outdated
        report_closing(draft, work, intent.quantity)
    draft.put_order(order)
    if intent.contract is not None:
        draft.contracts = {**draft.contracts, intent.symbol: intent.contract}
    on_its_way = replace(work, attempt=attempt, order_id=name, auction=work.auction or intent.auction)
    draft.works = {**draft.works, work.key: on_its_way}
    if isinstance(draft.session.untraded, UnsetType) or intent.symbol not in draft.session.untraded:
        draft.count_order()  # orders that are refused in any case do not use up the limit of orders
    draft.effects.append(submission)


def submission_of(draft: Draft, order: Order) -> SubmitOrder:
    """Return the effect that submits the order, the first time or again."""
    return SubmitOrder(
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=order.side,
        quantity=order.quantity,
        limit_price=order.limit_price,
        intent=draft.desk.holds.intent(order.side, order.purpose),
        valid_until_ns=order.valid_until_ns,
        auction=order.auction,
        closing=order.closing,
        stop_price=order.stop_price,
    )


QUOTE_WAIT_NS = 5 * SECOND_NS  # an exit without a quote waits this long before a market order
HANGS_NS = CANCEL_AGAIN_NS  # an unanswered cancel is repeated after this
GIVEN_UP_NS = 2 * CANCEL_STUCK_NS  # and after this the position is closed by the broker's own call


def worked_ns(draft: Draft, order: Order) -> int:
    """Return how long the order could trade; an auction order trades from the open on, and none in a halt."""
    session, root = draft.session.session, root_of(order.symbol)
    since_ns = max(order.submitted_ns, session.open_ns) if session is not None else order.submitted_ns
    halt = draft.session.trading_halt(root)
    if halt is not None:
        return max(halt.since_ns - since_ns, 0)
    return draft.now_ns - max(since_ns, draft.session.reopened_ns(root))


def tended_ns(draft: Draft, order: Order) -> int:
    """Return how long the order could trade while this daemon ran."""
    return min(worked_ns(draft, order), draft.now_ns - draft.broker.started_ns)


def awaits_trading(draft: Draft, symbol: str) -> bool:
    """Return True in a trading halt of the exchange, and in the first seconds after it without a newer quote.

    Nothing can be sold in a halt, and a market order would take the first price after it.
    """
    root, quote = root_of(symbol), draft.fresh(draft.quotes.get(symbol))
    if draft.session.trading_halt(root) is not None:
        return True
    reopened_ns = draft.session.reopened_ns(root)
    return (quote is None or quote.quoted_ns < reopened_ns) and draft.now_ns - reopened_ns < QUOTE_WAIT_NS


def waited_for_quote(draft: Draft, work: Work) -> bool:
    """Return whether an exit waited long enough for a quote, counted from the open and the daemon's start on."""
    session = draft.session.session
    open_ns = 0 if session is None else session.open_ns
    return draft.now_ns - max(work.started_ns, open_ns, draft.broker.started_ns) >= QUOTE_WAIT_NS


def reprice_ns(draft: Draft) -> int:
    """Return how long an exit order works before it is repriced."""
    return draft.desk.holds.exit_reprice_s(draft.trading) * SECOND_NS


def hangs(draft: Draft, order: Order) -> bool:
    """Return True for a working order that should have ended: an unanswered cancel, or old and not cancellable.

    A market order should fill within one re-price interval. An order that the broker does not have cannot hang. Time
    while no daemon ran does not count: an order of a former process is cancelled and priced again first.
    """
    if not order.working or order.absent:
        return False
    if order.cancel_since_ns and draft.now_ns - order.cancel_since_ns >= HANGS_NS:
        return True
    if order.purpose == PROTECTION:  # it rests
        return False
    at_market = order.limit_price is None and not order.auction
    return tended_ns(draft, order) >= reprice_ns(draft) + (0 if at_market else HANGS_NS)


def tend_exits(draft: Draft, symbol: str, side: int, surplus: Quantity) -> tuple[list[Order], list[Order]]:
    """Cancel the exit orders of `symbol` that are too old or too large; return (others, hanging ones)."""
    own_orders = [o for o in draft.orders.values() if (o.symbol, o.side, o.purpose) == (symbol, side, EXIT)]
    hanging = [order for order in own_orders if hangs(draft, order)]
    well = [order for order in own_orders if order not in hanging]
    too_much = sum(order.remaining for order in well) > surplus
    for order in well:
        has_price = order.limit_price is not None or order.auction
        if too_much or (has_price and worked_ns(draft, order) >= reprice_ns(draft)):
            draft.cancel(order.client_order_id)
    for order in hanging:
        draft.cancel(order.client_order_id)
        _report(draft, order, "neither fills nor ends")
    return well, hanging


def held_up(draft: Draft, symbol: str, side: int) -> bool:
    """Cancel working orders opposite to an exit (a wash trade); True while they hold the exit up, for a limited time.

    When they hang, the desk sells what it holds by its fills all the same: the broker decides.
    """
    against = [o for o in draft.orders.values() if (o.symbol, o.side) == (symbol, -side) and not o.absent]
    for order in against:
        draft.cancel(order.client_order_id)
        if hangs(draft, order):
            _report(draft, order, "works against an exit and does not end")
    return any(not hangs(draft, order) for order in against)


def hanging_orders(draft: Draft, symbol: str, side: int) -> list[Order]:
    """Return the orders of `symbol` on `side` that hang."""
    return [o for o in draft.orders.values() if (o.symbol, o.side) == (symbol, side) and hangs(draft, o)]


def stuck_against(draft: Draft, symbol: str, side: int) -> list[Order]:
    """Return the hanging orders opposite to an exit once one of them hangs for too long, else none."""
    against = hanging_orders(draft, symbol, -side)
    since_ns = min((order.cancel_since_ns or order.submitted_ns for order in against), default=draft.now_ns)
    return against if draft.now_ns - since_ns >= GIVEN_UP_NS else []


def may_be_free(hanging: Sequence[Order]) -> Quantity:
    """Return the quantity of these orders that the broker's report may show as free.

    Orders that the broker did not show yet are left out: they may still be in our own queue and hold nothing back.
    """
    return total(order.remaining for order in hanging if _is_shown(order))


def on_its_way(draft: Draft, symbol: str, side: int) -> Quantity:
    """Return the quantity of working orders that the broker did not show yet: its report counts them as free."""
    own_orders = [order for order in draft.orders.values() if (order.symbol, order.side) == (symbol, side)]
    return total(order.remaining for order in own_orders if not _is_shown(order))


def _is_shown(order: Order) -> bool:
    return order.known and order.status != UNKNOWN


def given_up(draft: Draft, hanging: Sequence[Order]) -> bool:
    """Return True when the cancels of all these orders stay unanswered for too long.

    False with an order among them that the broker did not show: it may still be on its way.
    """
    known_orders = [order for order in hanging if order.known and order.status != UNKNOWN and order.cancel_since_ns]
    since_ns = max((order.cancel_since_ns for order in known_orders), default=draft.now_ns)
    return len(known_orders) == len(hanging) and draft.now_ns - since_ns >= GIVEN_UP_NS


def note_held_up(draft: Draft, symbol: str, surplus: Quantity, hanging: Sequence[Order]) -> None:
    """Raise an alarm that nothing is free to be sold, unless own orders that hang were reported before."""
    if all(order.purpose == "foreign" for order in hanging):
        why = "others' orders hold them, or the broker lists none"
        if _lacks(draft, symbol) and (draft.expected(symbol) != draft.held(symbol) or draft.broker.refused_of(symbol)):
            why = "the broker has fewer than desk and others should have, and whose are missing is not known yet"
        draft.alarm("exit_held_up", f"{symbol}: {surplus} to leave; {why}", once=True, about=symbol)


def in_the_way(draft: Draft) -> dict[str, Order]:
    """Return the orders that may block an exit: known to the broker and not hanging."""
    return {name: o for name, o in draft.orders.items() if not (o.absent or hangs(draft, o))}


def _report(draft: Draft, order: Order, why: str) -> None:
    order_text = in_words(order.side, order.remaining, order.symbol)
    detail = f"{order.client_order_id} ({order_text}, {order.status}) {why}"
    draft.alarm("exit_stuck", detail, once=True, about=f"{order.symbol} {why}")  # once, not for each attempt
