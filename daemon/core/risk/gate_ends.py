"""When a denying gate ends by itself, in nanoseconds; 0 when it does not, or when unknown."""

from __future__ import annotations

from daemon.core.gate import RiskView
from daemon.core.risk.desk_gates import LOSSES
from daemon.core.session import in_window, new_york_minute, parse_window
from strategies.kit.units import MINUTE_NS, SECOND_NS


def paused_until(view: RiskView) -> int:
    pause = view.risk.pause
    return pause.until_ns if pause is not None and pause.reason != LOSSES else 0


def losses_until(view: RiskView) -> int:
    return view.risk.pause.until_ns if view.risk.pause is not None else 0


def session_opens(view: RiskView) -> int:
    session = view.session.session
    return session.open_ns if session is not None and view.now_ns < session.open_ns else 0


def opening_over(view: RiskView) -> int:
    session = view.session.session
    return session.open_ns + view.limits.no_entry_after_open_min * MINUTE_NS if session is not None else 0


def window_over(view: RiskView) -> int:
    minute = new_york_minute(view.now_ns)
    ends = [parse_window(window)[1] for window in view.limits.no_trade_windows if in_window(minute, window)]
    return view.now_ns - view.now_ns % MINUTE_NS + (max(ends) - minute) * MINUTE_NS if ends else 0


def trade_cooled(view: RiskView) -> int:
    return view.risk.last_trade_ns + view.limits.cooldown_trade_s * SECOND_NS


def loss_cooled(view: RiskView) -> int:
    return view.risk.last_loss_ns + view.limits.cooldown_loss_s * SECOND_NS


def minute_over(view: RiskView) -> int:
    recent = sorted(t for t in view.risk.order_times if view.now_ns - t < MINUTE_NS)
    return recent[0] + MINUTE_NS if recent else 0
