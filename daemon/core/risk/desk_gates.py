"""Gates on new risk for every desk: state, session, bars, model, pace and losses.

Each is a function (view, intent) -> reason or None that ignores which order it is. `daemon.core.desks.gates` names and
orders them; meaning and cure stand under each name in docs/GATES.md.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

from daemon.core.book import fall_from, limited_peak, session_loss
from daemon.core.gate import OPTION_SHARES, Intent, RiskView
from daemon.core.instruments.option_market import parse_occ
from daemon.core.limits import Risk
from daemon.core.session import LATER, flatten_from_ns, in_window, minutes_to, new_york_minute
from daemon.core.state import Position, RiskState
from strategies.kit.units import MINUTE_NS, SECOND_NS

LOSSES = "consecutive_losses"  # the pause's reason
REPLAY_MODES = frozenset({"replay", "recorded", "dry_run", "paper"})  # no real money: unpromoted models may run


def halted(view: RiskView, _: Intent) -> str | None:
    halt = view.risk.halt
    return f"halted: {halt.reason}: {halt.detail}" if halt else None


def paused(view: RiskView, _: Intent) -> str | None:
    pause = view.risk.pause
    if pause is None or pause.reason == LOSSES or (pause.until_ns and view.now_ns >= pause.until_ns):
        return None
    return f"paused: {pause.reason}"


def stopping(view: RiskView, _: Intent) -> str | None:
    return f"the daemon is being stopped: {view.risk.stopping}" if view.risk.stopping else None


def consecutive_losses(view: RiskView, _: Intent) -> str | None:
    pause = view.risk.pause
    if pause is None or pause.reason != LOSSES or view.now_ns >= pause.until_ns:
        return None
    left = minutes_to(pause.until_ns, view.now_ns)
    return f"paused after {view.limits.consecutive_losses_max} losses in a row, {left:.0f} minutes left"


def not_reconciled(view: RiskView, _: Intent) -> str | None:
    return None if view.risk.reconciled else "book and broker are not reconciled"


def account_blocked(view: RiskView, _: Intent) -> str | None:
    return f"the broker does not let the account trade: {view.blocked}" if view.blocked else None


def market_closed(view: RiskView, _: Intent) -> str | None:
    return "the broker's market is closed, although the calendar has a session" if view.closed else None


def blind(view: RiskView, _: Intent) -> str | None:
    return view.blind or None


def calendar_unknown(view: RiskView, _: Intent) -> str | None:
    return None if view.session.session else "no session known for this moment"


def outside_session(view: RiskView, _: Intent) -> str | None:
    session = view.session.session
    if session is None:
        return "no session known for this moment"
    if view.session.ended or not session.open_ns <= view.now_ns < session.close_ns:
        return f"outside of the session {session.date}"
    return None


def near_open(view: RiskView, _: Intent) -> str | None:
    session, limit = view.session.session, view.limits.no_entry_after_open_min
    if session is None or view.now_ns - session.open_ns < limit * MINUTE_NS:
        return f"less than {limit} minutes after the open"
    return None


def near_close(view: RiskView, intent: Intent) -> str | None:
    session, limit = view.session.session, view.limits.no_entry_before_close_min
    if session is None or minutes_to(session.close_ns, view.now_ns) <= limit:
        return f"{limit} minutes or less to the close"
    if view.overnight:
        return None
    expiry = intent.contract.expiry if intent.contract is not None else LATER
    if view.now_ns >= flatten_from_ns(session, expiry, view.execution, view.bar_interval_ns // SECOND_NS):
        return "positions are already left: no bar closes before the deadline of the flatten"
    return None


def no_trade_window(view: RiskView, _: Intent) -> str | None:
    if not view.limits.no_trade_windows:
        return None
    minute = new_york_minute(view.now_ns)
    for window in view.limits.no_trade_windows:
        if in_window(minute, window):
            return f"within the no-trade window {window} New York time"
    return None


def warm_up(view: RiskView, _: Intent) -> str | None:
    return None if view.session.warm else "the strategy has not enough bars yet"


def stale_bar(view: RiskView, _: Intent) -> str | None:
    if not view.session.starts:
        return "no bar of this session yet"
    age = (view.now_ns - view.session.last_bar_ns - view.bar_interval_ns) // SECOND_NS
    limit = view.limits.stale_bar_s
    return f"newest bar ended {age} s ago, limit {limit} s" if age > limit else None


def gapped_bars(view: RiskView, _: Intent) -> str | None:
    limit = view.limits.gap_min
    starts = view.session.starts
    hole = max((later - earlier for earlier, later in pairwise(starts)), default=0)
    missing = (hole - view.bar_interval_ns) // MINUTE_NS
    return f"{missing} minutes are missing within the window, limit {limit}" if missing > limit else None


def model_not_verified(view: RiskView, _: Intent) -> str | None:
    return None if view.model else "no verified model"


def model_not_promoted(view: RiskView, _: Intent) -> str | None:
    if view.model is None or (not view.model.promoted and view.identity.mode not in REPLAY_MODES):
        return "the model is not promoted, so it may not trade real money"
    return None


def model_other_feed(view: RiskView, _: Intent) -> str | None:
    model = view.model
    if model is None:
        return "no verified model"
    if model.feed != view.identity.feed and view.identity.mode not in REPLAY_MODES:
        return f"the model was trained on feed {model.feed}, this desk uses {view.identity.feed}"
    return None


def cooldown_trade(view: RiskView, _: Intent) -> str | None:
    return _cooldown(view.now_ns, view.risk.last_trade_ns, view.limits.cooldown_trade_s, "trade")


def cooldown_loss(view: RiskView, _: Intent) -> str | None:
    return _cooldown(view.now_ns, view.risk.last_loss_ns, view.limits.cooldown_loss_s, "loss")


def _cooldown(now_ns: int, since_ns: int, limit_s: int, after: str) -> str | None:
    if not since_ns or now_ns - since_ns >= limit_s * SECOND_NS:
        return None
    return f"{(now_ns - since_ns) // SECOND_NS} s after a {after}, cooldown {limit_s} s"


def orders_per_minute(view: RiskView, _: Intent) -> str | None:
    recent = sum(1 for t in view.risk.order_times if view.now_ns - t < MINUTE_NS)
    limit = view.limits.orders_per_minute
    return f"{recent} orders within a minute, limit {limit}" if recent >= limit else None


def orders_per_day(view: RiskView, _: Intent) -> str | None:
    limit = view.limits.orders_per_day
    return f"{view.risk.orders_today} orders today, limit {limit}" if view.risk.orders_today >= limit else None


def daily_loss(view: RiskView, _: Intent) -> str | None:
    loss, limit = session_loss(view.book), view.limits.daily_loss_max
    if loss is None:
        return "equity at the session's start unknown"
    return None if loss < limit else f"lost {loss:.4f} of the session's equity, limit {limit}"


def drawdown(view: RiskView, _: Intent) -> str | None:
    peak, limit = limited_peak(view.book), view.limits.drawdown_max
    if peak <= 0:
        return "equity peak unknown"
    drawdown = fall_from(peak, view.book.equity)
    return None if drawdown < limit else f"drawdown {drawdown:.4f} from the peak, limit {limit}"


def reject_rate_high(view: RiskView, _: Intent) -> str | None:
    rate = reject_rate(view.risk, view.limits)
    limit = view.limits.reject_rate_max
    return f"{rate:.2f} of the last orders were rejected, limit {limit}" if rate is not None and rate >= limit else None


def reject_rate(risk: RiskState, limits: Risk) -> float | None:
    """Return the share of rejected orders among the last `reject_rate_orders`; None before there are as many."""
    recent = risk.outcomes[-limits.reject_rate_orders :]
    return sum(recent) / len(recent) if len(recent) == limits.reject_rate_orders else None


def shares_held(view: RiskView, _: Intent) -> str | None:
    shares = [p.symbol for p in view.book.positions.values() if p.right == 0]
    return f"shares of {shares[0]} from an exercise are held" if shares else None


def intraday_margin(view: RiskView, intent: Intent) -> str | None:
    """Deny when the order adds to a margin deficit, or exceeds what the equity carries.

    The broker computes that afterwards, and an account with repeated deficits may only close positions.
    """
    if view.deficit > 0:
        return f"the broker's margin is {view.deficit} USD above the equity: a deficit"
    equity, limit = view.book.equity, view.limits.intraday_exposure_max
    if equity <= 0:
        return f"equity is {equity} USD"
    exposure = sum((_worth(view, position) for position in view.book.positions.values()), _cost(view, intent))
    return None if float(exposure / equity) <= limit else f"exposure {exposure} USD of equity {equity}, limit {limit}"


def _worth(view: RiskView, position: Position) -> Decimal:
    """Return the value of a position, long or short: shares at their price, options at their mark."""
    price = view.marks.get(position.symbol, abs(position.cost / position.quantity))
    return abs(position.quantity) * position.multiplier * price


def _cost(view: RiskView, intent: Intent) -> Decimal:
    """Return what the order and the working buys may cost."""
    shares = OPTION_SHARES if intent.contract is not None else 1
    cost = (intent.limit_price or Decimal(0)) * intent.quantity * shares
    for order in view.orders.values():
        if order.side > 0:
            size = OPTION_SHARES if parse_occ(order.symbol) is not None else 1
            cost += (order.limit_price or view.marks.get(order.symbol, Decimal(0))) * order.remaining * size
    return cost
