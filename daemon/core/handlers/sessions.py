"""A session of the calendar begins: reset its limits and drop what only the last one needed."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.book import begin_session
from daemon.core.draft import Draft
from daemon.core.events import SessionScheduled
from strategies.kit.units import DAY_NS

NO_MODEL = "no_model"
UNANSWERED = frozenset((NO_MODEL, "configuration"))  # halts of a start
FOREIGN_DAYS_NS = 4 * DAY_NS  # foreign orders are reported again for two days after a start: remember longer


def on_session_scheduled(draft: Draft, event: SessionScheduled) -> None:
    """Begin a new session with fresh limits. The same session again (after a restart) only refreshes the calendar."""
    known = draft.session.session
    if known is not None and known.date == event.session.date:
        draft.session = replace(draft.session, session=event.session, upcoming=event.upcoming)
        return
    draft.session = replace(
        draft.session,
        session=event.session,
        upcoming=event.upcoming,
        starts=(),
        warm=False,
        ended=False,
        previous=event.previous[-1].date if event.previous else known.date if known is not None else "",
    )
    last = {work.order_id for work in draft.works.values()}
    old_ns = draft.now_ns - FOREIGN_DAYS_NS
    draft.closed = {
        name: order
        for name, order in draft.closed.items()
        if name in last or (order.purpose == "foreign" and order.submitted_ns > old_ns)
    }
    if draft.broker.foreign:
        kept = {n: o for n, o in draft.broker.foreign.items() if o.working or o.submitted_ns > old_ns}
        draft.broker = replace(draft.broker, foreign=kept)
    draft.risk = replace(draft.risk, order_times=(), orders_today=0, alarms=())
    _name_unanswered(draft)
    draft.book = begin_session(draft.book)
    draft.chain = None
    used = {*draft.book.positions, *(order.symbol for order in draft.orders.values())}
    draft.wanted = {symbol: goal for symbol, goal in draft.wanted.items() if symbol in used}


def _name_unanswered(draft: Draft) -> None:
    """Raise an alarm in each session for what is held while the start was halted, whatever had halted before it."""
    halted, risk = draft.risk.halt, draft.risk
    without = draft.model is None and risk.strategy_off
    if halted is None or not draft.book.positions or not (without or halted.reason in UNANSWERED):
        return
    held = ", ".join(f"{p.quantity} {p.symbol}" for p in draft.book.positions.values())
    name = NO_MODEL if without else halted.reason
    text = "no model answers" if without else "the start is halted"
    draft.alarm(name, f"{text} while {held[:200]} is held: {halted.detail}")
