"""Stops that rest at the broker below what the desk holds, so that it is protected while the daemon is down.

The desk's own rule acts first; the broker's stop is further away. There is one for each symbol, of all that is held and
that nothing else is about to sell: working stops and working sales are never more than what is held. It never stands in
the way: an exit takes it away and sells when its end is confirmed, a buy of more does the same, and a stop without
shares behind it ends at once, because it would sell short.
"""

from __future__ import annotations

import contextlib
from decimal import ROUND_FLOOR, Decimal

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import CENT
from daemon.core.broker.sending import hangs, is_option, may_send, submission_of
from daemon.core.draft import PROTECTION, Draft
from daemon.core.instruments.quotes import is_wide, price_step
from daemon.core.limits import AUTO, Protection
from daemon.core.orders import CANCELED, REJECTED, SUBMITTED, Order, Work, client_order_id
from daemon.core.records import DecisionRow
from daemon.core.risk.marks import leaps
from daemon.core.state import BROKER_MODES, Position
from strategies.kit.units import DAY_NS, SECOND_NS

PROTECTION_LEG = 2  # of a stop's name; entries have leg 0, exits leg 1
AGAIN_NS = 60 * SECOND_NS  # after one was refused or taken away, and with an exit that does not sell
RENEWED_NS = 60 * DAY_NS  # a broker drops an order after 90 days
KEPT_NS = 120 * SECOND_NS  # one that was rested again beside an exit is not taken away sooner
UNCOVERED_NS = 120 * SECOND_NS  # a position without its stop for so long is an alarm
MOVED = Decimal("0.005")  # of the price: a stop that is further from where it should be is rested anew
REMOVED_MAX = 3  # stops of a symbol that others took away in a session, before the desk halts


def rules_of(draft: Draft) -> Protection | None:
    """Return the rules where the desk rests stops: for what has a stop of its own, or a `disaster_stop`."""
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

    It is `distance` times the desk's own stop below the price paid; of a desk without one `disaster_stop` below the
    last official close that the strategy keeps.
    """
    symbol = position.symbol
    if not draft.desk.decides.rebalances:
        paid, stop_loss = position.cost / position.quantity, draft.trading.sizing.stop_loss
        return _on_grid(symbol, paid * (1 - Decimal(str(rules.distance)) * Decimal(str(stop_loss))))
    with contextlib.suppress(Exception):  # a strategy that cannot say what it keeps has its own halt
        bars = draft.desk.decides.known(draft).get(symbol) if rules.disaster_stop else ()
        if bars:
            return _on_grid(symbol, Decimal(str(bars[-1].close)) * (1 - Decimal(str(rules.disaster_stop))))
    return Decimal(0)


def _on_grid(symbol: str, price: Decimal) -> Decimal:
    step = price_step(symbol, price)
    return ((price / step).quantize(Decimal(1), rounding=ROUND_FLOOR) * step).quantize(CENT)


def protect(draft: Draft) -> None:
    """End stops that cover more than is held, or at an old price; rest one where shares have none."""
    for order in tuple(draft.orders.values()):
        if order.purpose == PROTECTION:
            _tend(draft, order)
    rules = rules_of(draft)
    if rules is None or not draft.book.positions or not may_send(draft):
        return
    for symbol in draft.desk.holds.risked(draft):
        _cover(draft, draft.book.positions[symbol], rules)


def _tend(draft: Draft, order: Order) -> None:
    position, rules = draft.book.positions.get(order.symbol), rules_of(draft)
    held = position.quantity if position is not None else 0
    more = held > order.remaining and not order.filled
    old = draft.now_ns - order.submitted_ns > RENEWED_NS
    if position is None or rules is None or held < order.remaining or more or old or _is_of_other_shares(draft, order):
        draft.cancel(order.client_order_id)
    elif may_send(draft) and _is_due(draft, order):
        wanted = stop_price(draft, position, rules)
        assert not isinstance(order.stop_price, UnsetType)
        if wanted and abs(wanted - order.stop_price) > wanted * MOVED:
            draft.cancel(order.client_order_id)
        elif draft.desk.decides.rebalances:
            draft.put_order(replace(order, valid_until_ns=_close_ns(draft)))


def _is_due(draft: Draft, order: Order) -> bool:
    """Return whether the stop's price is to be checked: always, but once a session where it follows the closes."""
    return not draft.desk.decides.rebalances or order.valid_until_ns < _close_ns(draft)


def _close_ns(draft: Draft) -> int:
    session = draft.session.session
    return draft.now_ns if session is None else session.close_ns


def _is_of_other_shares(draft: Draft, order: Order) -> bool:
    """Return whether a split may have changed what a price of the symbol means, which the ledger has not told yet."""
    return order.symbol in draft.basket.unsettled or order.symbol in draft.basket.leapt


def _cover(draft: Draft, position: Position, rules: Protection) -> None:
    """Rest a stop below the position, unless something of the symbol works, or an exit or a buy is about to."""
    symbol, basket = position.symbol, draft.basket
    works = any(order.symbol == symbol for order in draft.orders.values())
    if works or symbol in basket.unsettled or symbol in basket.leapt:
        return
    last_ns = _left_alone_ns(draft, symbol)
    wanted = [work for work in draft.works.values() if work.symbol == symbol]
    if wanted and draft.now_ns - max(last_ns, *(work.started_ns for work in wanted)) < AGAIN_NS:
        return
    last = _newest(draft, symbol)
    if last is not None and last.status in (REJECTED, CANCELED) and draft.now_ns - last.news_ns < _wait_ns(last):
        return
    seen = _least_price(draft, symbol)
    price = Decimal(0) if seen is None else stop_price(draft, position, rules)
    limit = _on_grid(symbol, price * (1 - Decimal(str(rules.floor)))) if rules.options == "stop_limit" else None
    session = draft.session.session
    assert session is not None
    if seen is not None and seen > price > 0:
        _rest(draft, symbol, position.quantity, price, limit if position.right and limit else None)
    elif draft.now_ns - max(last_ns, draft.broker.started_ns, session.open_ns) >= UNCOVERED_NS:
        why = f"{position.quantity} {symbol}: no stop rests at the broker; its price is unknown, or at {price} USD"
        draft.alarm("unprotected", why, once=True, about=symbol)


def _least_price(draft: Draft, symbol: str) -> Decimal | None:
    """Return the lower of bid and confirmed mark in USD; None where the quote is old, too wide, or leaps."""
    quote, mark, session = draft.fresh(draft.quotes.get(symbol)), draft.marks.get(symbol), draft.session.session
    if quote is None or mark is None or session is None or quote.quoted_ns < session.open_ns:
        return None
    unsure = is_option(symbol) and (is_wide(quote, draft.trading.risk) or leaps(draft, quote))
    return None if unsure else min(quote.bid, mark)


def _wait_ns(last: Order) -> int:
    """Return how long the next stop waits for: not after one that the desk itself took away."""
    return 0 if last.status == CANCELED and last.cancel_asked_ns else AGAIN_NS


def _left_alone_ns(draft: Draft, symbol: str) -> int:
    """Return when the symbol's newest order had its last news, or its position was opened."""
    ended = [order.news_ns for order in draft.closed.values() if order.symbol == symbol]
    return max(ended, default=draft.book.positions[symbol].opened_ns)


def _newest(draft: Draft, symbol: str) -> Order | None:
    stops = [order for order in draft.closed.values() if order.symbol == symbol and order.purpose == PROTECTION]
    return max(stops, key=lambda order: order.submitted_ns, default=None)


def _rest(draft: Draft, symbol: str, quantity: int, price: Decimal, limit: Decimal | None) -> None:
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
    sent = submission_of(draft, order)
    if not draft.leaves(sent):
        return
    draft.decision = number
    draft.put_order(order)
    draft.effects.append(sent)
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
    """Take the stops of the work's symbol away for its order; True while that has to wait for their end.

    One whose cancel stays unanswered keeps an exit back no longer than any order that hangs, and then the broker's own
    call is tried. One that was rested again beside the exit, because that did not sell, stays for a while.
    """
    stops = [order for order in resting(draft, work.symbol) if not order.absent]
    waits = False
    for order in stops:
        beside = order.submitted_ns >= work.started_ns and draft.now_ns - order.submitted_ns < KEPT_NS
        if not beside:
            draft.cancel(order.client_order_id)
        waits = waits or not hangs(draft, order)
    return waits


def on_stop_removed(draft: Draft, order: Order) -> bool:
    """Report that another party took a stop away; False once it did so too often: then nobody knows who trades here."""
    gone = [
        other
        for other in draft.closed.values()
        if (other.symbol, other.purpose, other.status) == (order.symbol, PROTECTION, CANCELED)
        and not other.cancel_asked_ns
    ]
    if len(gone) >= REMOVED_MAX:
        return False
    why = f"{order.client_order_id} ({order.remaining} {order.symbol}) was cancelled, and not by this desk"
    draft.alarm("stop_removed", why)
    return True
