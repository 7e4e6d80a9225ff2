"""The account of a broker's report: whose it is, whether it may trade, whether its market is open."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.broker.funds import deficit
from daemon.core.draft import Draft
from daemon.core.events import BrokerReported
from daemon.core.session import new_york_text
from strategies.kit.units import SECOND_NS

CLOCK_NS = 10 * SECOND_NS  # around open and close the broker's clock and ours may differ
CLOSED = frozenset(
    f"status {word}" for word in ("ACCOUNT_CLOSED", "DISABLED", "INACTIVE", "REJECTED", "SUBMISSION_FAILED")
)
"""The broker's statuses of an account that does not recover by itself."""


def note_account(draft: Draft, event: BrokerReported) -> None:
    """Take over what the report says of the account: may it trade, is its market open, does it carry its positions?"""
    _note_status(draft, event.blocked)
    _note_market(draft, event)
    short = deficit(event.funds)
    draft.broker = replace(draft.broker, funds=event.funds)
    if short:
        draft.alarm("margin_deficit", f"{short} USD more margin is asked for than the equity", once=True)
    else:
        draft.case_over("margin_deficit")


def _note_status(draft: Draft, blocked: str) -> None:
    """Take no new risk while the account may not trade; a closed account halts."""
    former = draft.broker.blocked
    draft.broker = replace(draft.broker, blocked=blocked)
    if CLOSED & set(blocked.split(", ")):
        draft.halt("account_blocked", blocked)
    elif blocked:
        draft.alarm("account_blocked", blocked, once=True, about=blocked)
        draft.cancel_entries()
    elif former:
        draft.case_over("account_blocked")


def _note_market(draft: Draft, event: BrokerReported) -> None:
    """Begin nothing new while the broker's market is closed during a session of our calendar."""
    session, asked_ns = draft.session.session, event.asked_ns
    closed = False
    if session is not None and event.market_open is not None and not draft.session.ended:
        within = session.open_ns + CLOCK_NS <= asked_ns < session.close_ns - CLOCK_NS
        later = asked_ns < session.open_ns and event.next_open_ns > session.open_ns + CLOCK_NS
        closed = (within and not event.market_open) or later
    draft.broker = replace(draft.broker, closed=closed)
    if closed:
        opens = new_york_text(event.next_open_ns) if event.next_open_ns else "unknown"
        draft.alarm("market_closed", f"in a session of the calendar; the broker opens next: {opens}", once=True)
    else:
        draft.case_over("market_closed")


def account_is_right(draft: Draft, event: BrokerReported) -> bool:
    """Check that the account belongs to this journal and is the one configured."""
    broker = draft.broker
    others = [number for number in (broker.account, broker.expected) if number and number != event.account]
    draft.broker = replace(broker, account=broker.account or ("" if others else event.account), wrong=bool(others))
    if others:
        expected = others[0]
        draft.risk = replace(draft.risk, reconciled=False)
        draft.halt("wrong_account", f"the keys open account {event.account}, expected is {expected}")
    return not others
