"""Submission of orders: when an order may be sent, and one attempt of a work as an order.

A new attempt's client order id derives from (epoch, strategy, decision, leg, attempt), so no order can go out twice.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.broker.sellable import report_closing
from daemon.core.draft import Draft
from daemon.core.effects import SubmitOrder
from daemon.core.gate import Intent
from daemon.core.orders import SUBMITTED, Order, Work, client_order_id
from daemon.core.state import BROKER_MODES
from strategies.kit.units import SECOND_NS

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
    sent = submission_of(draft, order)
    if not draft.leaves(sent):
        return
    draft.put_order(order)
    if intent.closing:
        report_closing(draft, work, intent.quantity)
    if intent.contract is not None:
        draft.contracts = {**draft.contracts, intent.symbol: intent.contract}
    on_its_way = replace(work, attempt=attempt, order_id=name, auction=work.auction or intent.auction)
    draft.works = {**draft.works, work.key: on_its_way}
    draft.count_sent()
    draft.effects.append(sent)


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
    )
