"""A session of the calendar begins: reset its limits and drop what only the last one needed."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.book import begin_session
from daemon.core.draft import Draft
from daemon.core.events import SessionScheduled
from strategies.kit.units import DAY_NS

NO_MODEL = "no_model"
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
    if draft.risk.halt is not None and draft.risk.halt.reason == NO_MODEL and draft.book.positions:
        held = ", ".join(f"{p.quantity} {p.symbol}" for p in draft.book.positions.values())
        draft.alarm(NO_MODEL, f"no model answers while {held[:200]} is held: {draft.risk.halt.detail}")
    draft.book = begin_session(draft.book)
    draft.chain = None
    used = {*draft.book.positions, *(order.symbol for order in draft.orders.values())}
    draft.wanted = {symbol: goal for symbol, goal in draft.wanted.items() if symbol in used}
