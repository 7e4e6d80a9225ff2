"""Stops that rest at the broker below what the desk holds, so that it is protected while the daemon is down.

The desk's own rule acts first; the broker's stop is further away. Each symbol has one, for all that is held and nothing
else is about to sell: working stops and working sales never exceed what is held. A fraction of a share has a second
one, for the day only, since a broker keeps none overnight. A stop never blocks an order: an exit cancels it and sells
when its end is confirmed, a further buy does the same, and a stop without shares behind it is cancelled at once,
because it would sell short.
"""

from __future__ import annotations

import contextlib
from decimal import ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import NamedTuple

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT
from daemon.core.broker.exits import exit_by_rule
from daemon.core.broker.sending import confirmed, hangs, is_option, may_send, on_its_way, submission_of
from daemon.core.draft import ENTRY, EXIT, PROTECTION, Draft
from daemon.core.effects import CancelOrder, LiftFence, RaiseAlarm
from daemon.core.events import BrokerOrder
from daemon.core.instruments.option_market import is_contract
from daemon.core.instruments.quotes import is_wide, middle_of, price_step
from daemon.core.limits import AUTO, Protection
from daemon.core.orders import (
    ACCEPTED,
    CANCELED,
    ENDED,
    FENCE,
    FILLED,
    REJECTED,
    SUBMITTED,
    Order,
    Work,
    client_order_id,
    guard_stem,
    parse_name,
)
from daemon.core.records import DecisionRow
from daemon.core.risk.guards import high_of
from daemon.core.risk.marks import leaps
from daemon.core.session import new_york_date
from daemon.core.state import BROKER_MODES, Position
from strategies.kit.contract import Bar
from strategies.kit.quantity import Quantity, exact, whole_of
from strategies.kit.units import DAY_NS, SECOND_NS

PROTECTION_LEG = 2  # of a stop's name; entries have leg 0, exits leg 1
AGAIN_NS = 60 * SECOND_NS  # wait after a stop was refused or removed, and while an exit does not sell
REPORT_NS = 15 * SECOND_NS  # wait for a report, before a stop rests without one
RENEWED_NS = 60 * DAY_NS  # a broker drops an order after 90 days
KEPT_NS = 120 * SECOND_NS  # a stop rested again next to an exit stays at least this long
UNCOVERED_NS = 120 * SECOND_NS  # a position without a stop for this long raises an alarm
MOVED = Decimal("0.005")  # part of the price: a stop further from its right price is replaced
RENEWED_MAX = 20  # stops sent in a minute: beyond that none is renewed, which takes two calls, so that exits come first
IN_HAND_MAX = 10  # unanswered stops at a time: an exit would wait behind them in our queue
REFUSED_MAX = 10  # refusals in a row after which the wait stays at ten minutes
RESTED = "it rested a stop of "  # of a guard: begins the alarm that names its stops
REMOVED_MAX = 3  # stops of a symbol that others took away in a session, before the desk halts


def rules_of(draft: Draft) -> Protection | None:
    """Return the protection rules where they apply to this desk and its broker, else None."""
    rules, spec = draft.trading.protection, draft.spec
    if isinstance(rules, UnsetType):
        return None
    if rules.rest_at_broker == AUTO and draft.identity.mode not in BROKER_MODES:
        return None
    return rules if rules.covers(spec) else None


def resting(draft: Draft, symbol: str) -> list[Order]:
    """Return the stops of the symbol that may still fill."""
    return [order for order in draft.orders.values() if order.symbol == symbol and order.purpose == PROTECTION]


def stop_price(draft: Draft, position: Position, rules: Protection) -> Decimal:
    """Return the price in USD at which the broker sells; 0 where it is not known.

    On a desk with an own stop, `distance` times that stop below the price paid, or the same of its trailing stop below
    the highest price since the entry, where that is higher. On a rebalancing desk, `disaster_stop` below the last
    official close that the strategy keeps.
    """
    symbol = position.symbol
    if not draft.desk.decides.rebalances:
        sizing = draft.trading.sizing
        loss_stop = _below_cost(symbol, position.cost, position.quantity, rules.distance, sizing.stop_loss)
        if not sizing.trailing_stop:
            return loss_stop
        return max(loss_stop, _trailing(symbol, high_of(position), rules.distance, sizing.trailing_stop))
    return _below_close(draft, symbol, rules)


def _below_close(draft: Draft, symbol: str, rules: Protection) -> Decimal:
    """Return the price in USD `disaster_stop` below the last official close; 0 where it is not known.

    A close so far above both the close before it and the current price may be one wrong bar, and its stop would sell
    everything: the close before it counts then.
    """
    with contextlib.suppress(Exception):  # a strategy that cannot say what it keeps has its own halt
        bars = _newest_bars(draft, symbol) if rules.disaster_stop else ()
        closes, part = [Decimal(str(bar.close)) for bar in bars[-2:]], 1 - Decimal(str(rules.disaster_stop))
        stops = [_on_grid(symbol, close * part) for close in closes]
        mark = draft.marks.get(symbol)
        alone = len(closes) > 1 and mark is not None and max(closes[0], mark) <= stops[1]
        return stops[0 if alone else -1] if stops else Decimal(0)
    return Decimal(0)


def _newest_bars(draft: Draft, symbol: str) -> tuple[Bar, ...]:
    """Return the two newest daily bars of the symbol, oldest first, including one that came after its session's end.

    The strategy sees that bar only with the next decision, which may be hours away.
    """
    kept_bars = tuple(draft.desk.decides.known(draft).get(symbol, ()))[-2:]
    last_ns = kept_bars[-1].start_ns if kept_bars else 0
    late_bars = [bar for bar in draft.pending_bars if bar.symbol == symbol and bar.start_ns > last_ns]
    return (*kept_bars, *sorted(late_bars, key=lambda bar: bar.start_ns))[-2:]


def could_rest(draft: Draft, symbol: str, price: Decimal) -> bool:
    """Return whether a stop could rest below shares bought at this price; else they would be sold at once."""
    rules = rules_of(draft)
    return rules is None or not draft.desk.decides.rebalances or price > _below_close(draft, symbol, rules)


@lru_cache(maxsize=1024)
def _below_cost(symbol: str, cost: Decimal, quantity: Quantity, distance: float, stop_loss: float) -> Decimal:
    """Return the stop's price by what was paid; cached, since every event needs it."""
    return _on_grid(symbol, cost / quantity * (1 - Decimal(str(distance)) * Decimal(str(stop_loss))))


@lru_cache(maxsize=1024)
def _trailing(symbol: str, high: Decimal, distance: float, trails: float) -> Decimal:
    """Return the stop's price by the highest price since the entry, `distance` times `trails` below it."""
    return _on_grid(symbol, high * (1 - Decimal(str(distance)) * Decimal(str(trails))))


def limit_price(position: Position, stop: Decimal, rules: Protection) -> Decimal | None:
    """Return the lowest price in USD at which an option's stop sells; None for a stop that sells at any price."""
    if not position.right or rules.options != "stop_limit":
        return None
    return _on_grid(position.symbol, stop * (1 - Decimal(str(rules.floor)))) or None


def _on_grid(symbol: str, price: Decimal) -> Decimal:
    step = price_step(symbol, price)
    return ((price / step).quantize(Decimal(1), rounding=ROUND_FLOOR) * step).quantize(CENT)


class _Sales(NamedTuple):
    """What working orders sell of what is held."""

    working: dict[str, Quantity]
    own: dict[str, Quantity]  # exits and stops of the desk; an adopted order covers nothing
    stops: tuple[Order, ...]
    uneven: tuple[Order, ...]  # the stops of symbols of which more or less is sold than is held
    bare: frozenset[str]  # held symbols of which the desk's own orders sell less
    sent_ns: int  # when the oldest stop was
    due_ns: int  # until then each stop's price was looked at


_counted: list[tuple[dict[str, Order], dict[str, Position], _Sales]] = []  # by the newest orders and positions


def _sales_of(orders: dict[str, Order], positions: dict[str, Position]) -> _Sales:
    """Return what these orders sell, cached by the identity of both: most events leave orders and positions as is."""
    if _counted and _counted[0][0] is orders and _counted[0][1] is positions:
        return _counted[0][2]
    working: dict[str, Quantity] = {}
    own: dict[str, Quantity] = {}
    for order in orders.values():
        if order.side < 0:
            working[order.symbol] = working.get(order.symbol, 0) + order.remaining
            if order.purpose in (EXIT, PROTECTION):
                own[order.symbol] = own.get(order.symbol, 0) + order.remaining
    held = {symbol: position.quantity for symbol, position in positions.items()}
    stops = tuple(order for order in orders.values() if order.purpose == PROTECTION)
    sales = _Sales(
        working,
        own,
        stops,
        tuple(order for order in stops if working[order.symbol] != held.get(order.symbol, 0)),
        frozenset(symbol for symbol, quantity in held.items() if quantity > own.get(symbol, 0)),
        min((order.submitted_ns for order in stops), default=0),
        min((order.valid_until_ns for order in stops), default=0),
    )
    _counted[:] = [(orders, positions, sales)]
    return sales


def protect(draft: Draft) -> None:
    """End stops that cover more than is held or rest at an old price; rest one where a position has none."""
    sales = _sales_of(draft.orders, draft.book.positions)
    rules = rules_of(draft)
    sends = rules is not None and may_send(draft)
    for order in sales.uneven if rules is not None and _may_stay(draft, sales) else sales.stops:
        _tend(draft, order, sales.working[order.symbol], rules, sends=sends)
    if rules is None or not sales.bare or not sends:
        return
    for symbol in draft.desk.holds.risk_symbols(draft):
        if symbol in sales.bare:
            position = draft.book.positions[symbol]
            _cover(draft, position, position.quantity - sales.own.get(symbol, 0), rules)


def _may_stay(draft: Draft, sales: _Sales) -> bool:
    """Return whether each stop of just what is held stays, whatever it is: most of the time, of a daily desk.

    Then `_tend` of it does nothing: no split may have changed its shares, the session is open, its price was looked at
    in this session, and none is too old.
    """
    basket = draft.basket
    if not draft.desk.decides.rebalances or basket.splits or basket.to_come or basket.leapt or basket.apart:
        return False
    looked_at = draft.now_ns >= _open_ns(draft) and sales.due_ns >= _close_ns(draft)
    return looked_at and draft.now_ns - sales.sent_ns <= RENEWED_NS


def _tend(draft: Draft, order: Order, working: Quantity, rules: Protection | None, *, sends: bool) -> None:
    """Cancel a stop of too much, of other shares or without rules, and one that a better stop can replace now.

    `working`: quantity that all orders of the symbol sell; `sends`: whether another stop could be sent.
    """
    quantity = draft.held(order.symbol)
    if rules is None or working > quantity or _is_of_other_shares(draft, order) or _sells_at_once(draft, order):
        draft.cancel(order.client_order_id)
        return
    if not sends or order.cancel_asked_ns:
        return
    # usually 0; a sum of fractions is slower
    bare = 0 if working == quantity else quantity - working
    if _could_be_better(draft, order, bare, rules):
        draft.cancel(order.client_order_id)


def _could_be_better(draft: Draft, order: Order, bare: Quantity, rules: Protection) -> bool:
    """Return whether another stop would cover more, at its right price, or longer, and could rest now.

    `bare` is the quantity that no order sells.
    """
    position, follows = draft.book.positions[order.symbol], draft.desk.decides.rebalances
    due = not follows or order.valid_until_ns < _close_ns(draft)  # it follows the closes: once a session
    old = draft.now_ns - order.submitted_ns > RENEWED_NS
    missing = bare >= 1 if _is_whole(order) else 0 < bare < 1
    told = order.symbol in draft.broker.available or draft.identity.mode not in BROKER_MODES
    more = missing and told and not order.filled and _coverable(draft, position) > 0
    if not (due or old or more):
        return False
    if not (old or more or follows) and not _is_moved(order, stop_price(draft, position, rules)):
        return False  # most of the time
    least_price = None if order.symbol in draft.basket.unadjusted else _least_price(draft, order.symbol)
    new_price = Decimal(0) if least_price is None else stop_price(draft, position, rules)
    if least_price is None or not new_price or least_price <= new_price or _sent_lately(draft) >= RENEWED_MAX:
        return False  # none could rest in its place
    has_moved = due and _is_moved(order, new_price) and not _follows_too_soon(draft, order)
    if follows and due and not has_moved:
        draft.put_order(replace(order, valid_until_ns=_close_ns(draft)))
    return has_moved or old or more


def _is_whole(order: Order) -> bool:
    """Return whether the stop is for whole shares; one for a fraction lasts a day."""
    return type(order.quantity) is int


def _sent_lately(draft: Draft) -> int:
    """Return how many stops were sent, or are being taken away, within a minute."""
    since_ns = draft.now_ns - AGAIN_NS
    at_ns = [
        max(order.submitted_ns, order.cancel_since_ns) for order in draft.orders.values() if order.purpose == PROTECTION
    ]
    return sum(time_ns > since_ns for time_ns in at_ns)


def _is_moved(order: Order, new_price: Decimal) -> bool:
    assert not isinstance(order.stop_price, UnsetType)
    return abs(new_price - order.stop_price) > new_price * MOVED


def _follows_too_soon(draft: Draft, order: Order) -> bool:
    """Return whether a trailing stop has rested for less than a minute."""
    return bool(draft.trading.sizing.trailing_stop) and draft.now_ns - order.submitted_ns < AGAIN_NS


def _close_ns(draft: Draft) -> int:
    session = draft.session.session
    return draft.now_ns if session is None else session.close_ns


def _open_ns(draft: Draft) -> int:
    session = draft.session.session
    return 0 if session is None else session.open_ns


def _is_of_other_shares(draft: Draft, order: Order) -> bool:
    """Return whether a split that is not in the ledger yet may have changed what the stop's price means.

    Within a session a price that leaps is no split. A stop sent after the broker's quantity differed was sized by it.
    """
    basket = draft.basket
    if not (basket.splits or basket.to_come or basket.leapt or basket.apart):
        return False  # most of the time
    symbol, suspicion, session = order.symbol, draft.broker.suspicion, draft.session.session
    if _is_split(draft, symbol):
        return True
    if symbol in basket.leapt and not (session and session.open_ns <= basket.leapt[symbol] < session.close_ns):
        return True
    return symbol in basket.apart and (suspicion is None or order.submitted_ns < suspicion.since_ns)


def _is_split(draft: Draft, symbol: str) -> bool:
    return symbol in draft.basket.splits or symbol in draft.basket.to_come


def _sells_at_once(draft: Draft, order: Order) -> bool:
    """Return whether the price before the open is at the stop or below, so that the first trade would trigger it."""
    session = draft.session.session
    if session is None or draft.now_ns >= session.open_ns or is_option(order.symbol):
        return False
    quote = draft.fresh(draft.quotes.get(order.symbol))
    if quote is None:
        return False
    middle = middle_of(quote, draft.desk.holds.guard(draft.trading))
    return middle is not None and not isinstance(order.stop_price, UnsetType) and middle <= order.stop_price


def _coverable(draft: Draft, position: Position) -> Quantity:
    """Return how much of the position a stop may still cover: nothing sells it, or is about to, by book and broker."""
    symbol, broker = position.symbol, draft.broker
    stop_quantity, work = sum(order.remaining for order in resting(draft, symbol)), draft.exit_of(symbol)
    free = position.quantity - draft.working(symbol, -1)
    if work is not None and _is_under_way(draft, work):
        free = min(free, work.goal - stop_quantity)
    if symbol in broker.available:  # nothing of the symbol moved since
        free = min(free, broker.available[symbol] - on_its_way(draft, symbol, -1))
    return free


def _is_under_way(draft: Draft, work: Work) -> bool:
    """Return whether the work may soon have an order; not after long without one, or after two refusals."""
    since_ns = max(_left_alone_ns(draft, work.symbol), work.started_ns, work.report_ns, _open_ns(draft))
    return draft.now_ns - since_ns < AGAIN_NS + REPORT_NS and _is_refused(draft, work) is None


def _is_refused(draft: Draft, work: Work) -> Order | None:
    """Return the work's last order if it and the one before were refused and no stop made way since; else None.

    The first refusal is answered by another order at once.
    """
    last = draft.find_order(work.order_id) if work.attempt > 0 else None
    if last is None or last.status != REJECTED:
        return None
    stops = _ended_stops(draft, work.symbol)
    return None if stops and max(order.news_ns for order in stops) > last.news_ns else last


def _cover(draft: Draft, position: Position, bare: Quantity, rules: Protection) -> None:
    """Rest a stop for `bare`, which nothing else sells; raise an alarm where that stays impossible for long."""
    symbol = position.symbol
    whole = bare >= 1  # first the whole shares, then what is left below one
    rests = any(_is_whole(order) == whole for order in resting(draft, symbol))
    late_ns = draft.now_ns - max(_left_alone_ns(draft, symbol), draft.broker.started_ns, _open_ns(draft))
    if rests and late_ns < UNCOVERED_NS:
        return  # another one waits, and it is early for an alarm
    quantity = _coverable(draft, position)
    why = _hindrance(draft, symbol, late_ns)
    if not whole and draft.basket.is_indivisible(symbol):
        why = "the broker takes no order for a fraction of it"
    if quantity > 0 and not why and not rests:
        least_price, why = _least_price(draft, symbol), _refusal_reason(draft, symbol, whole=whole)
        price = Decimal(0) if least_price is None else stop_price(draft, position, rules)
        if not why and least_price is not None and least_price > price > 0:
            _rest(draft, symbol, whole_of(quantity) or quantity, price, limit_price(position, price, rules))
            return
        if least_price is not None and price and _is_through(draft, symbol, price):
            exit_by_rule(draft, symbol, "stop_loss")
        why = why or _why_no_price(least_price, price)
    if (late_ns if rests else _bare_for_ns(draft, position)) >= UNCOVERED_NS and not _has_fills_to_come(draft):
        reason = "orders of others hold it, or the broker has less"
        why = why or ("the one that rests covers less, and none can rest in its place" if rests else reason)
        shares_text = f"{bare} {symbol}" if whole else f"{bare} of a share of {symbol}"
        draft.alarm("unprotected", f"{shares_text}: no stop rests at the broker; {why}", once=True, about=symbol)


def _why_no_price(least_price: Decimal | None, price: Decimal) -> str:
    if least_price is None:
        return "no fresh quote and confirmed price of this session"
    return f"its price {least_price} is at the stop's {price} or below" if price else "the price of a stop is not known"


def _has_fills_to_come(draft: Draft) -> bool:
    """Return whether a tape still has fills at this time; its quotes, on which a stop can rest, come after them."""
    return (
        draft.identity.by_tape and max((quote.quoted_ns for quote in draft.quotes.values()), default=0) < draft.now_ns
    )


def _is_through(draft: Draft, symbol: str, price: Decimal) -> bool:
    """Return whether a desk without a stop of its own leaves: two prices are at the stop of the newest close, or below.

    They are the last confirmed price and a newer narrow quote.
    """
    if not draft.desk.decides.rebalances:
        return False
    newest_ns = _newest_bars(draft, symbol)[-1].start_ns
    if new_york_date(newest_ns).isoformat() != draft.session.previous:
        return False
    quote, mark = draft.quotes[symbol], draft.marks[symbol]
    middle = middle_of(quote, draft.desk.holds.guard(draft.trading))
    return middle is not None and max(middle, mark) <= price


def _hindrance(draft: Draft, symbol: str, late_ns: int) -> str:
    """Return why no stop of the symbol can be sent now, "" where one can; it had none for `late_ns`."""
    if _is_split(draft, symbol) or symbol in draft.basket.leapt or symbol in draft.basket.unadjusted:
        return "a split may have changed its shares, or its bars are of the old ones"
    if _is_doubted(draft, symbol, late_ns):
        return "no report says what is there"
    if any(order.symbol == symbol and order.side > 0 and not order.absent for order in draft.orders.values()):
        return "a buy works, against which the broker refuses it"
    buys = [work for work in draft.works.values() if (work.symbol, work.purpose) == (symbol, ENTRY)]
    if any(_is_under_way(draft, work) for work in buys):
        return "a buy is under way"
    if sum(order.purpose == PROTECTION and order.in_hand for order in draft.orders.values()) >= IN_HAND_MAX:
        return "the stops of others are on their way"
    return ""


def _refusal_reason(draft: Draft, symbol: str, *, whole: bool) -> str:
    """Return why no further stop is tried yet, "" where one is: the last ones were refused or cancelled.

    Stops of a fraction and of whole shares are judged apart. No news tells whether a person or the broker cancelled it:
    after the third, another is tried seldom, or once a person resumes.
    """
    stops = [order for order in _ended_stops(draft, symbol) if _is_whole(order) == whole]
    if not stops:
        return ""
    last = stops[-1]
    often = _is_removed(last) and len(_removed_orders(draft, symbol)) >= REMOVED_MAX
    is_halted = any(halt.reason == "foreign_order" for halt in draft.risk.halts)
    wait_ns = REFUSED_MAX * AGAIN_NS if often and is_halted else _wait_ns(stops)
    return f"the last one was {last.status}" if draft.now_ns - last.news_ns < wait_ns else ""


def _is_doubted(draft: Draft, symbol: str, late_ns: int) -> bool:
    """Return whether the broker may hold less than the book, so that a stop would sell short.

    Where the desk is alone in the account, the last report counts after a while if it agreed and no one traded since.
    """
    broker = draft.broker
    if draft.identity.mode not in BROKER_MODES or confirmed(draft, symbol):
        return False
    agreed = symbol not in (*broker.doubtful, *broker.touched, *draft.basket.apart)
    alone = draft.trading.broker.foreign_orders == "halt" and not broker.foreign_held.get(symbol)
    return not (agreed and alone and broker.reported_ns >= broker.started_ns and late_ns >= REPORT_NS)


def _least_price(draft: Draft, symbol: str) -> Decimal | None:
    """Return the lower of bid and confirmed mark in USD; None where the quote is old, too wide, or leaps."""
    quote, mark, session = draft.fresh(draft.quotes.get(symbol)), draft.marks.get(symbol), draft.session.session
    if quote is None or mark is None or session is None or quote.quoted_ns < session.open_ns:
        return None
    unsure = is_option(symbol) and (is_wide(quote, draft.trading.risk) or leaps(draft, quote))
    return None if unsure else min(quote.bid, mark)


def _wait_ns(stops: list[Order]) -> int:
    """Return how long the next stop waits: not after one that the desk itself took away, longer after each refusal."""
    last = stops[-1]
    if last.status == FILLED or (last.status == CANCELED and last.cancel_asked_ns):
        return 0
    refusal_count = 0
    for order in reversed(stops):
        if order.status != REJECTED:
            break
        refusal_count += 1
    return min(max(refusal_count, 1), REFUSED_MAX) * AGAIN_NS


def _left_alone_ns(draft: Draft, symbol: str) -> int:
    """Return the time of the last news of the symbol's ended orders, or of its position's opening if that is later."""
    end_times = [order.news_ns for order in draft.closed.values() if order.symbol == symbol]
    return max(draft.book.positions[symbol].opened_ns, *end_times, 0)


def _bare_for_ns(draft: Draft, position: Position) -> int:
    """Return for how long nothing has covered the position; buys and refused orders never covered it."""
    since_ns = max(position.opened_ns, draft.broker.started_ns, _open_ns(draft))
    for order in draft.closed.values():
        was_there = order.known or order.status != REJECTED
        if order.symbol == position.symbol and order.purpose in (EXIT, PROTECTION) and was_there:
            since_ns = max(since_ns, order.news_ns)
    return draft.now_ns - since_ns


def _ended_stops(draft: Draft, symbol: str) -> list[Order]:
    """Return the symbol's stops that ended in this session, the last one sent at the end."""
    stops = [order for order in draft.closed.values() if order.symbol == symbol and order.purpose == PROTECTION]
    return sorted(stops, key=lambda order: order.submitted_ns)


def _rest(draft: Draft, symbol: str, quantity: Quantity, price: Decimal, limit: Decimal | None) -> None:
    """Send the stop, recorded as a decision of its own."""
    number, identity = draft.decision + 1, draft.identity
    order = Order(
        client_order_id=client_order_id(identity.epoch, identity.strategy, number, PROTECTION_LEG, 0),
        work=f"{number}.{PROTECTION_LEG}",
        purpose=PROTECTION,
        reason="resting_stop",
        symbol=symbol,
        side=-1,
        quantity=quantity,
        limit_price=limit,
        status=SUBMITTED,
        submitted_ns=draft.now_ns,
        valid_until_ns=_close_ns(draft),
        stop_price=price,
    )
    submission = submission_of(draft, order)
    if not draft.leaves(submission):
        return
    draft.decision = number
    draft.put_order(order)
    draft.effects.append(submission)
    draft.records.append(
        DecisionRow(
            decision=number,
            kind="rule",
            bar_ns=draft.session.last_bar_ns,
            time_ns=draft.now_ns,
            action="resting_stop",
            resolved="REST",
            work=order.work,
            outcome="ordered",
        )
    )


def lift(draft: Draft, work: Work) -> bool:
    """Cancel the stops that block the order of a work; True while it has to wait for their end.

    Stops of no more than what a trim leaves stay, the largest first. An unanswered cancel delays an exit no longer than
    any hanging order does; then the broker's own call is tried. A buy waits, because it is refused while the stop
    lives. A stop that was rested again because the exit did not sell stays for `KEPT_NS`.
    """
    waits, kept_quantity = False, work.goal if work.purpose == EXIT else 0
    stops = [order for order in resting(draft, work.symbol) if not order.absent]
    for order in sorted(stops, key=lambda order: order.remaining, reverse=True):
        if order.remaining <= kept_quantity:
            kept_quantity -= order.remaining
            continue
        if not (_is_beside(draft, order, work) and draft.now_ns - order.submitted_ns < KEPT_NS):
            draft.cancel(order.client_order_id)
        waits = waits or work.purpose == ENTRY or not hangs(draft, order)
    return waits


def _is_beside(draft: Draft, order: Order, work: Work) -> bool:
    """Return whether the stop was rested again because the work did not sell, rather than for what a trim leaves."""
    refused = _is_refused(draft, work)
    if refused is not None:
        return order.submitted_ns >= refused.news_ns
    end_times = [one.news_ns for one in draft.closed.values() if one.symbol == order.symbol]
    last_ns = max((news_ns for news_ns in end_times if news_ns <= order.submitted_ns), default=0)
    return order.submitted_ns - max(last_ns, work.started_ns, _open_ns(draft)) >= AGAIN_NS


def _removed_orders(draft: Draft, symbol: str, purpose: str = PROTECTION) -> list[Order]:
    """Return the symbol's orders of this purpose that another party took away in this session."""
    ended_orders = [order for order in draft.closed.values() if (order.symbol, order.purpose) == (symbol, purpose)]
    return list(filter(_is_removed, ended_orders))


def _is_removed(order: Order) -> bool:
    return order.status == CANCELED and not order.cancel_asked_ns


def on_removed(draft: Draft, order: Order) -> bool:
    """Raise an alarm where others removed a stop, or the guard an entry; return False where a halt has to follow.

    A halt follows for any other order, and once it happened too often. A cancel bears no name, so the guard is assumed.
    The entry's work ends, and the next decision counts.
    """
    removal_count = len(_removed_orders(draft, order.symbol, order.purpose))
    if order.purpose not in (PROTECTION, ENTRY) or removal_count >= REMOVED_MAX:
        return False
    why = f"{order.client_order_id} ({order.remaining} {order.symbol}) was cancelled, and not by this desk"
    if order.purpose == PROTECTION:
        draft.alarm("stop_removed", why, once=True, about=f"{order.symbol} {removal_count}")
        return True
    if not is_guarded(draft):
        return False
    draft.works = {key: work for key, work in draft.works.items() if key != order.work}
    draft.alarm("guard_acted", f"{why}: by its guard, or by hand", once=True, about=f"{order.symbol} {removal_count}")
    return True


# --- the guard on another host ----------------------------------------------------------------------------------------


def guard_prefix(draft: Draft) -> str:
    """Return how the names of the guard's orders begin; "" where no guard watches the desk."""
    prefix = draft.trading.guard_prefix
    return "" if isinstance(prefix, UnsetType) else prefix


def is_guarded(draft: Draft) -> bool:
    """Return whether a guard watches the desk."""
    return bool(guard_prefix(draft))


def lift_fence(draft: Draft) -> None:
    """Request that the account's fence be lifted, for a person's resume or for the exit of a position."""
    draft.broker = replace(draft.broker, unfenced_ns=draft.now_ns)
    draft.effects.append(LiftFence())


def lift_fence_at_start(draft: Draft) -> None:
    """Repeat at a start a request to lift the fence that no report followed: the desk was stopped, or died."""
    broker, lifted_ns = draft.broker, draft.broker.unfenced_ns
    is_asked = not isinstance(lifted_ns, UnsetType) and lifted_ns >= broker.asked_ns
    if is_asked and FENCE in broker.blocked and is_guarded(draft):
        lift_fence(draft)


def is_of_guard(draft: Draft, report: BrokerOrder) -> bool:
    """Return whether the order bears the guard's prefix and is a stop."""
    named = is_guarded(draft) and report.client_order_id.startswith(f"{guard_prefix(draft)}-")
    return named and report.side < 0 and not isinstance(report.stop_price, UnsetType)


def take_from_guard(draft: Draft, report: BrokerOrder) -> Order | None:
    """Take in a stop that the guard rested while the desk was silent as the desk's own; None for any other order.

    Its fills count as those of a resting stop.
    """
    if not is_of_guard(draft, report) or report.quantity <= 0 or not 0 < draft.broker.began_ns <= report.submitted_ns:
        return None
    symbol = _guarded_symbol(draft, report)
    if draft.contract_of(symbol) is None and symbol not in (*draft.spec.symbols, *draft.book.positions):
        return None
    if report.status in ENDED and not report.filled:
        return None  # it is over, and changed nothing
    order = Order(
        client_order_id=report.client_order_id,
        work="",
        purpose=PROTECTION,
        reason="resting_stop",
        symbol=symbol,
        side=-1,
        quantity=exact(report.quantity),
        limit_price=report.limit_price,
        status=ACCEPTED,
        submitted_ns=report.submitted_ns,
        order_id=report.order_id,
        stop_price=report.stop_price,
    )
    draft.put_order(order)
    _name_stop(draft, order)
    return order


def _name_stop(draft: Draft, stop: Order) -> None:
    """Raise the alarm about a guard's stop: one for all that a report brings, such as those of a night."""
    stop_text = f"{stop.quantity} {stop.symbol} ({stop.client_order_id})"
    for place, effect in enumerate(draft.effects):
        if type(effect) is RaiseAlarm and effect.name == "guard_acted" and effect.detail.startswith(RESTED):
            draft.effects[place] = replace(effect, detail=f"{effect.detail}, {stop_text}")
            return
    draft.alarm("guard_acted", f"{RESTED}{stop_text}")


def _guarded_symbol(draft: Draft, report: BrokerOrder) -> str:
    """Return the symbol of the guard's stop; by the order's name, where the broker lists a company's new symbol."""
    names = {guard_stem(guard_prefix(draft), symbol): symbol for symbol in draft.book.positions}
    of_shares = not is_contract(report.symbol)
    by_name = (symbol for name, symbol in names.items() if of_shares and report.client_order_id.startswith(name))
    return next(by_name, report.symbol)


class Cover(NamedTuple):
    """Quantities of desk and others in a symbol, and the stop that a guard may rest below it: None where unknown."""

    quantity: Quantity
    others: Quantity
    stop: Decimal | None
    limit: Decimal | None


def cover_of(draft: Draft) -> dict[str, Cover]:
    """Return symbol -> what a guard needs of each position, by the desk's own rules of resting stops."""
    rules, covers = rules_of(draft), {}
    symbols = () if rules is None else draft.desk.holds.risk_symbols(draft)
    for symbol, position in draft.book.positions.items():
        price = Decimal(0)
        doubtful = _is_split(draft, symbol) or symbol in draft.basket.leapt or symbol in draft.basket.unadjusted
        if rules is not None and symbol in symbols and not doubtful:
            price = stop_price(draft, position, rules)
        limit = None if rules is None or not price else limit_price(position, price, rules)
        foreign_quantity = draft.broker.foreign_held.get(symbol, 0)
        covers[symbol] = Cover(position.quantity, foreign_quantity, price or None, limit)
    return covers


def is_of_former(draft: Draft, client_order_id: str) -> bool:
    """Return whether the name was made under an earlier, lost journal of this strategy's desk."""
    name = parse_name(client_order_id)
    epoch, _, strategy = name.stem.rpartition("-") if name is not None else ("", "", "")
    return bool(epoch) and (strategy, epoch == draft.identity.epoch) == (draft.identity.strategy, False)


def end_former(draft: Draft, report: BrokerOrder) -> None:
    """Cancel a stop that desk or guard rested under a lost journal, whose shares are in this journal's book.

    Nothing else would ever end it, and it holds back what it covers.
    """
    name = parse_name(report.client_order_id)
    stops = name is not None and (name.leg, name.attempt) == (PROTECTION_LEG, 0)
    is_own = (stops and is_of_former(draft, report.client_order_id)) or is_of_guard(draft, report)
    if is_own and report.side < 0 and report.symbol in draft.book.positions:
        draft.alarm("stop_removed", f"{report.client_order_id}: a stop of an earlier journal of this desk; it ends")
        draft.effects.append(CancelOrder(report.client_order_id))
