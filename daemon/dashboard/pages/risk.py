"""The gates as they stand now, and the limits beside what is used of them. The gates are the core's own functions.

A gate that needs only the desk is asked with an order that says nothing; one that needs an order to judge is unknown.
Times are the journal's: what "now" means is the newest event.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from daemon.core.book import session_loss
from daemon.core.desks.options.execution import risk_view
from daemon.core.desks.shares import gates as share_gates
from daemon.core.draft import Draft
from daemon.core.risk import desk_gates
from daemon.core.risk.desk_gates import LOSSES, reject_rate
from daemon.core.risk.risk import OPTION_GATES, SHARE_GATES, Gate, ask_gates
from daemon.core.risk.view import MINUTE_NS, SECOND_NS, Intent, RiskView
from daemon.core.session import in_window, new_york_minute, new_york_text, parse_window
from daemon.core.state import State
from daemon.dashboard.desks import Picture
from daemon.dashboard.views import GateLine, Limit, RiskPage
from strategies.kit.contract import DailySpec, Spec
from strategies.registry import strategy as strategy_named

PASSES, DENIES, UNKNOWN = "passes", "denies", "unknown"
NEEDS_AN_ORDER = "needs an order to judge"
_OF_THE_DESK = (
    share_gates.stale_history,
    share_gates.basket_under_way,
    share_gates.orders_per_minute,
    share_gates.orders_per_day,
)
_ENTRY = Intent("entry", None, "", +1, 1, None)
_BASKET = Intent("basket", None, "", 0, 0, None)


def gates_now(state: State[Any]) -> tuple[GateLine, ...]:
    """Each gate of the desk's kind for a new entry at the newest event, in the order in which they are asked."""
    strategy = strategy_named(state.identity.strategy)
    daily = isinstance(strategy.spec, DailySpec)
    gates = SHARE_GATES if daily else OPTION_GATES
    view = risk_view(Draft(state, strategy))
    if daily and state.session.last_bar_ns:
        view = replace(view, newest_bar=new_york_text(state.session.last_bar_ns)[:10])
    asked = tuple(gate for gate in gates if needs_only_the_desk(gate))
    said = ask_gates(view, _ENTRY, asked).by_gate
    if daily:
        of_basket = ask_gates(view, _BASKET, asked).by_gate
        said = {name: of_basket[name] if verdict is None else verdict for name, verdict in said.items()}
    return tuple(_line(gate.name, said.get(gate.name), view) for gate in gates)


def needs_only_the_desk(gate: Gate) -> bool:
    """True for a gate whose answer is the same for every order."""
    return gate.check.__module__ == desk_gates.__name__ or gate.check in _OF_THE_DESK


def _line(name: str, verdict: str | None, view: RiskView) -> GateLine:
    if verdict is None:
        return GateLine(name, UNKNOWN, NEEDS_AN_ORDER)
    if not verdict:
        return GateLine(name, PASSES, "")
    return GateLine(name, DENIES, verdict, _ends_ns(name, view) / 1e9)


def _ends_ns(name: str, view: RiskView) -> int:
    """When a gate that denies now lets through by itself; 0 where it does not, or nobody knows."""
    risk, limits, session, pause = view.risk, view.limits, view.session.session, view.risk.pause
    match name:
        case "cooldown_trade":
            return risk.last_trade_ns + limits.cooldown_trade_s * SECOND_NS
        case "cooldown_loss":
            return risk.last_loss_ns + limits.cooldown_loss_s * SECOND_NS
        case "paused":
            return pause.until_ns if pause is not None and pause.reason != LOSSES else 0
        case "consecutive_losses":
            return pause.until_ns if pause is not None else 0
        case "near_open":
            return session.open_ns + limits.no_entry_after_open_min * MINUTE_NS if session is not None else 0
        case "outside_session":
            return session.open_ns if session is not None and view.now_ns < session.open_ns else 0
        case "no_trade_window":
            minute = new_york_minute(view.now_ns)
            ends = [parse_window(window)[1] for window in limits.no_trade_windows if in_window(minute, window)]
            return view.now_ns - view.now_ns % MINUTE_NS + (max(ends) - minute) * MINUTE_NS if ends else 0
        case "orders_per_minute":
            recent = sorted(t for t in risk.order_times if view.now_ns - t < MINUTE_NS)
            return recent[0] + MINUTE_NS if recent else 0
    return 0


def limits_now(state: State[Any], spec: Spec) -> tuple[Limit, ...]:
    """The limits that have a figure to compare with, most used first."""
    risk, limits, book = state.risk, state.trading.risk, state.book
    lost = session_loss(book) or 0.0
    drawdown = float((book.peak - book.equity) / book.peak) if book.peak > 0 else 0.0
    a_minute = sum(1 for t in risk.order_times if state.now_ns - t < MINUTE_NS)
    rate = reject_rate(risk, limits)
    lines = [
        _part("loss of the session", max(lost, 0.0), limits.daily_loss_max),
        _part("drawdown from the peak", max(drawdown, 0.0), limits.drawdown_max),
        _part("rejected orders", rate or 0.0, limits.reject_rate_max),
    ]
    if isinstance(spec, DailySpec):
        basket, symbols = state.trading.basket, len(spec.symbols)
        held = sum(abs(p.quantity) * float(state.marks.get(p.symbol, 0)) for p in book.positions.values())
        widest = max(
            (abs(p.quantity) * float(state.marks.get(p.symbol, 0)) for p in book.positions.values()), default=0.0
        )
        equity = float(book.equity)
        lines += [
            _part("all positions of the equity", held / equity if equity > 0 else 0.0, basket.gross_weight_max),
            _part("largest position of the equity", widest / equity if equity > 0 else 0.0, basket.position_weight_max),
            _count("orders of the last minute", a_minute, share_gates.A_MINUTE * symbols),
            _count("orders of the session", risk.orders_today, share_gates.A_DAY * symbols),
        ]
    else:
        contracts = sum(p.quantity for p in book.positions.values() if p.right)
        coming = sum(o.remaining for o in state.orders.values() if o.side > 0)
        lines += [
            _count("contracts held and coming", contracts + coming, limits.position_contracts_max),
            _usd("exposure", _exposure(state), float(limits.gross_exposure_max_usd)),
            _count("orders of the last minute", a_minute, limits.orders_per_minute),
            _count("orders of the session", risk.orders_today, limits.orders_per_day),
            _count("losses in a row", risk.consecutive_losses, limits.consecutive_losses_max),
        ]
    return tuple(sorted(lines, key=lambda line: -line.share))


def _exposure(state: State[Any]) -> float:
    """USD that option positions are worth at the last known mid, and that working buys may still spend."""
    total = 0.0
    for symbol, position in state.book.positions.items():
        quote = state.quotes.get(symbol)
        if quote is not None:
            total += float((quote.bid + quote.ask) / 2) * abs(position.quantity) * position.multiplier
    return total + sum(float(o.limit_price or 0) * o.remaining * 100 for o in state.orders.values() if o.side > 0)


def _part(name: str, value: float, limit: float) -> Limit:
    return Limit(name, f"{value:.2%}", f"{limit:.2%}", value / limit if limit else 0.0)


def _count(name: str, value: int, limit: int) -> Limit:
    return Limit(name, f"{value}", f"{limit}", value / limit if limit else 0.0)


def _usd(name: str, value: float, limit: float) -> Limit:
    return Limit(name, f"{value:,.2f} USD", f"{limit:,.2f} USD", value / limit if limit else 0.0)


def risk_page(picture: Picture) -> RiskPage:
    """`GET /api/risk`. Without a state only what stands in the journal."""
    state, spec, newest = picture.state, picture.spec, picture.newest
    if state is None or spec is None:
        return RiskPage((), (), (), newest.alarms, newest.commands)
    denials = tuple(sorted(state.stats.denials.items(), key=lambda item: (-item[1], item[0])))
    return RiskPage(gates_now(state), limits_now(state, spec), denials, newest.alarms, newest.commands)
