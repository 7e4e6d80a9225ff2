"""Quantity that an exit may order now, and by which way. One rule for options and shares.

The broker's figure counts only while it is newer than all news of the symbol. An older one is unknown, which blocks no
exit of what the book holds: fills confirmed that. But selling shares that another party sold already opens a short
position, and that news may be lost. So a sale that leaves no shares waits for a report that was requested once it was
ready to go; where news are known to be missing, every sale of shares waits. If no report comes, they leave by the
broker's own call, which can only close. Contracts wait only where others hold the same ones: the broker refuses to sell
more than is there, but not to sell theirs. That call is also the last way for a position whose orders do not end, its
own or those on the other side; past the latter a price that crosses none of them is another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import NamedTuple

from msgspec.structs import replace

from daemon.core.broker.hanging import (
    given_up,
    hanging_orders,
    may_be_free,
    note_held_up,
    on_its_way,
    stuck_against,
)
from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.instruments.contracts import price_step
from daemon.core.instruments.option_market import parse_occ
from daemon.core.orders import REJECTED, Order, Work
from daemon.core.state import BROKER_MODES
from strategies.kit.units import SECOND_NS

CONFIRM_NS = 5 * SECOND_NS  # an exit without the report that it waits for leaves by the broker's own call after this
FRESH_NS = 2 * CONFIRM_NS  # and a report that was requested longer ago does not count


class Leave(NamedTuple):
    """Quantity that an exit may order; `closing`: by the broker's own call; `waits`: for a report first.

    `beyond` is the nearest limit in USD that crosses no order on the other side, where the exit has to keep to it.
    """

    quantity: int
    closing: bool = False
    waits: bool = False
    beyond: Decimal | None = None

    def limit(self, wanted: Decimal | None, side: int) -> Decimal | None:
        """Return the limit in USD of an order on `side` that would have `wanted`; None is a market order."""
        if self.closing or self.beyond is None:
            return None if self.closing else wanted
        if wanted is None:
            return self.beyond
        return max(wanted, self.beyond) if side < 0 else min(wanted, self.beyond)


def sellable(draft: Draft, work: Work, side: int, surplus: int, hanging: Sequence[Order] = ()) -> Leave:
    """Return what the work's exit on `side` may order of `surplus` now; 0 or less when nothing is free.

    That is reported, and a report that it has to wait for is requested. Where the broker's figure counts, it includes
    what hanging orders (`hanging`) still hold back.
    """
    symbol, broker = work.symbol, draft.broker
    gone = max(-broker.foreign_held.get(symbol, 0), 0) if side < 0 else 0  # others sold it of the desk's position
    working = draft.working(symbol, side) + gone
    free = surplus - working
    if not confirmed(draft, symbol):
        return _unreported(draft, work, free)
    known = broker.available.get(symbol) if broker.asked_ns >= max(broker.lost_ns, broker.started_ns) else None
    quantity = free
    if known is not None:
        foreign = max(-side * broker.foreign_held.get(symbol, 0), 0)  # is not the desk's, even if free
        held_back, coming = may_be_free(hanging), on_its_way(draft, symbol, side)
        quantity = max(min(free, known), min(free + held_back, known - foreign - coming))
    if quantity > 0:
        all_left = abs(draft.held(symbol)) - working
        leaves_none = quantity >= (all_left if known is None else min(all_left, known))
        if leaves_none and awaits_report(draft, work):
            return _unreported(draft, work, quantity)
        return Leave(quantity, closing=broker.follows_panic and not is_option(symbol))
    if surplus == _alone(draft, symbol) and given_up(draft, hanging):
        return Leave(surplus, closing=True)
    note_held_up(draft, symbol, surplus, hanging)
    return Leave(quantity)


def awaits_report(draft: Draft, work: Work) -> bool:
    """Return True while an exit that leaves nothing has no report from after it was ready to go.

    True for shares, and for contracts that others hold too, at a real broker.
    """
    broker, symbol = draft.broker, work.symbol
    if draft.identity.mode not in BROKER_MODES or (is_option(symbol) and not broker.foreign_held.get(symbol)):
        return False
    young = draft.now_ns - broker.asked_ns < FRESH_NS and symbol not in broker.moved
    return not (0 < _requested_ns(draft, work) < broker.asked_ns and young)


def _requested_ns(draft: Draft, work: Work) -> int:
    """Return when the work's next attempt requested its report; 0: not since the last attempt."""
    last = draft.find_order(work.order_id) if work.order_id else None
    return work.report_ns if last is None or work.report_ns >= last.news_ns else 0


def _unreported(draft: Draft, work: Work, quantity: int) -> Leave:
    """Request a report and wait for it; without one in time the broker's own call closes `quantity`."""
    since_ns = _requested_ns(draft, work)
    if not since_ns or (since_ns < draft.broker.asked_ns and confirmed(draft, work.symbol)):
        draft.works = {**draft.works, work.key: replace(work, report_ns=draft.now_ns)}
        if not any(isinstance(effect, AskBroker) and effect.at_once for effect in draft.effects):
            draft.effects.append(AskBroker(f"an exit of {work.symbol} waits for it", at_once=True))
    elif draft.now_ns - since_ns >= CONFIRM_NS and quantity > 0 and not _may_have_closed(draft, work):
        return Leave(quantity, closing=True)
    return Leave(0, waits=True)


def _may_have_closed(draft: Draft, work: Work) -> bool:
    """Return True when another such call could close what others hold: the last one was unanswered, and has no name."""
    last = draft.find_order(work.order_id) if work.order_id else None
    unanswered = last is not None and last.closing and not last.known and last.status != REJECTED
    return unanswered and bool(draft.broker.foreign_held.get(work.symbol))


def ways_out(draft: Draft, work: Work, side: int, leave: Leave) -> tuple[Leave, ...]:
    """Return the ways in which an exit may leave now, the most wanted first: `leave` alone in general.

    The broker refuses an order that crosses one on the other side (a wash trade). When such an order does not end for
    too long, and the exit's last attempt was refused, the broker's own call and a limit beyond that order take turns.
    """
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
    """Return the limit one step beyond those of all these orders; None where one has none, or none is left."""
    limits = [order.limit_price for order in stuck if order.limit_price is not None]
    if len(limits) < len(stuck):
        return None
    nearest = max(limits) if side < 0 else min(limits)
    step = price_step(stuck[0].symbol, nearest)
    steps = (nearest / step).quantize(Decimal(1), rounding=ROUND_FLOOR if side < 0 else ROUND_CEILING) - side
    return steps * step if steps > 0 else None


def _alone(draft: Draft, symbol: str) -> int:
    """Return the quantity that the broker's own call would close when all of it is the desk's own; else 0."""
    position = draft.book.positions.get(symbol)
    return 0 if position is None or draft.broker.foreign_held.get(symbol) else abs(position.quantity)


def confirmed(draft: Draft, symbol: str) -> bool:
    """Return True for an option, and for shares fully covered by a report.

    That is: no news lost since, no foreign trade since, and no open doubt about the quantity.
    """
    if is_option(symbol):
        return True
    broker = draft.broker
    reported = broker.reported_ns >= broker.started_ns and broker.asked_ns >= broker.lost_ns
    return reported and symbol not in broker.touched and (symbol not in broker.doubtful or symbol in broker.available)


def is_option(symbol: str) -> bool:
    return parse_occ(symbol) is not None


def report_closing(draft: Draft, work: Work, quantity: int) -> None:
    """Report that a position leaves by the broker's own call, and why."""
    symbol, how = work.symbol, "closed by the broker's own call, which sells no more"
    if work.report_ns and (awaits_report(draft, work) or not confirmed(draft, symbol)):
        why = f"{quantity} {symbol}: no report says what is there; {how}"
        draft.alarm("exit_unconfirmed", why, once=True, about=symbol)
        return
    if draft.broker.follows_panic:
        return  # said already
    against = hanging_orders(draft, symbol, 1 if draft.held(symbol) > 0 else -1)
    cause = "an order on the other side does not end" if against else "orders that do not end hold all of it"
    draft.alarm("exit_stuck", f"{quantity} {symbol}: {cause}; {how}", once=True, about=f"close {symbol}")
