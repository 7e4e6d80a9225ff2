"""The desk's time led back after a clock that was ahead: what happened in a time that is still to come, happened now.

Without it every rule that waits for a time waits until the true one has caught up: exits are priced no more, the
session counts as over.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec.structs import replace

from daemon.core.broker.heard import lead_back
from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.events import ClockReset
from daemon.core.orders import Work
from daemon.core.state import Pause
from strategies.kit.units import MINUTE_NS, SECOND_NS

T = TypeVar("T", bound=msgspec.Struct)


def on_clock_reset(draft: Draft, event: ClockReset) -> None:
    """Take `event.time_ns` as now. Orders, works and halts stay; no new risk until the broker was heard."""
    ahead_ns = draft.now_ns - event.time_ns
    draft.alarm("clock_reset", f"by {ahead_ns / SECOND_NS:.1f} s: {event.reason} (by {event.who})")
    if not ahead_ns:
        return
    now_ns = draft.now_ns = event.time_ns
    draft.orders = {name: _past(order, now_ns) for name, order in draft.orders.items()}
    draft.closed = {name: _past(order, now_ns) for name, order in draft.closed.items()}
    draft.works = {key: _past(work, now_ns) for key, work in draft.works.items() if not _by_time_alone(work)}
    draft.quotes = {symbol: _past(quote, now_ns) for symbol, quote in draft.quotes.items()}
    positions = {symbol: _past(held, now_ns) for symbol, held in draft.book.positions.items()}
    draft.book = replace(draft.book, positions=positions)
    draft.ask = None
    _lead_back_risk(draft)
    suspicion = draft.broker.suspicion
    draft.broker = _past(
        replace(draft.broker, suspicion=None if suspicion is None else _past(suspicion, now_ns)), now_ns
    )
    lead_back(draft)
    _lead_back_session(draft)
    draft.effects.append(AskBroker("the desk's time was led back"))


def _past(value: T, now_ns: int) -> T:
    """The struct with no time of its own after now."""
    times = {field: min(getattr(value, field), now_ns) for field in value.__struct_fields__ if field.endswith("_ns")}
    return replace(value, **times)


def _by_time_alone(work: Work) -> bool:
    """True for an exit that the wrong time asked for and that was not sent: it is asked for again when it is due."""
    return work.reason == "flat_before_close" and not work.order_id


def _lead_back_risk(draft: Draft) -> None:
    risk, limits, now_ns = draft.risk, draft.trading.risk, draft.now_ns
    pause = risk.pause
    if pause is not None and pause.until_ns:
        longest_ns = now_ns + limits.consecutive_losses_pause_min * MINUTE_NS
        pause = Pause(pause.reason, min(pause.until_ns, longest_ns))
    draft.risk = _past(
        replace(
            risk,
            reconciled=False,
            alarms=(),
            pause=pause,
            halt=None if risk.halt is None else _past(risk.halt, now_ns),
            order_times=tuple(min(time_ns, now_ns) for time_ns in risk.order_times),
        ),
        now_ns,
    )


def _lead_back_session(draft: Draft) -> None:
    """A session that ended by the wrong time goes on; bars of a time to come never were."""
    state, session = draft.session, draft.session.session
    state = replace(_past(state, draft.now_ns), starts=tuple(start for start in state.starts if start <= draft.now_ns))
    if session is not None and draft.now_ns < session.close_ns:
        state = replace(state, ended=False)
    draft.session = state
