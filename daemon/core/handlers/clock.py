"""Set the desk's time back after a clock that was ahead: times in the future become now.

Otherwise every rule with a deadline waits until the true time has caught up: exits are not repriced, the session counts
as over.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec.structs import replace

from daemon.core.broker.news import clamp_times
from daemon.core.draft import Draft
from daemon.core.effects import AskBroker
from daemon.core.events import ClockReset
from daemon.core.moves import Cause
from daemon.core.orders import Work
from daemon.core.state import Pause
from strategies.kit.units import MINUTE_NS, SECOND_NS

T = TypeVar("T", bound=msgspec.Struct)


def on_clock_reset(draft: Draft, event: ClockReset) -> None:
    """Take `event.time_ns` as now. Orders, works and halts stay; no new risk until the next broker report."""
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
    with draft.because(Cause("clock_reset")):
        draft.book = replace(draft.book, positions=positions)
    draft.ask = None
    _lead_back_risk(draft)
    suspicion = draft.broker.suspicion
    draft.broker = _past(
        replace(draft.broker, suspicion=None if suspicion is None else _past(suspicion, now_ns)), now_ns
    )
    clamp_times(draft)
    _reopen_session(draft)
    draft.effects.append(AskBroker("the desk's time was led back"))


def _past(value: T, now_ns: int) -> T:
    """Return the struct with every time after now set to now."""
    times = {field: min(getattr(value, field), now_ns) for field in value.__struct_fields__ if field.endswith("_ns")}
    return replace(value, **times)


def _by_time_alone(work: Work) -> bool:
    """Return True for an exit requested because of the wrong time and not sent: it is requested again when due."""
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


def _reopen_session(draft: Draft) -> None:
    """Reopen a session that ended by the wrong time; drop bars from the future."""
    state, session = draft.session, draft.session.session
    state = replace(_past(state, draft.now_ns), starts=tuple(start for start in state.starts if start <= draft.now_ns))
    if session is not None and draft.now_ns < session.close_ns:
        state = replace(state, ended=False)
    draft.session = state
