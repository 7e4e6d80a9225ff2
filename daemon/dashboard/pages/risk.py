"""The gates now, and the limits with their use. The gates are the core's own functions.

A gate that needs only the desk is called with an empty order; one that needs a real order is unknown. Times are the
journal's: "now" is the newest event.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from daemon.core.book import fall_from, limited_peak, session_loss
from daemon.core.desks.registry import desk_of
from daemon.core.desks.shares import desk as share_gates
from daemon.core.draft import Draft
from daemon.core.gates import Gate, Intent, RiskView, ask_gates, reject_rate
from daemon.core.risk.guards import risk_view
from daemon.core.session import new_york_text
from daemon.core.state import ZERO, State
from daemon.dashboard.desks import Picture
from daemon.dashboard.newest import raised_of
from daemon.dashboard.views import GateLine, LimitLine, RiskPage
from daemon.operator.status import claim_of
from strategies.kit.contract import Spec
from strategies.kit.units import MINUTE_NS
from strategies.registry import strategy as strategy_named

PASSES, DENIES, UNKNOWN = "passes", "denies", "unknown"
_OF_REAL_MONEY = frozenset({"model_not_promoted", "model_other_feed"})
_WITHOUT = {
    "replay": "not needed in a replay",
    "recorded": "not needed in a replay",
    "dry_run": "not needed in a dry run",
    "paper": "not needed with a paper account",
}
SINCE_RESET = "since the limits were reset"
NEEDS_AN_ORDER = "needs an order to judge"
_ENTRY = Intent("entry", None, "", +1, 1, None)
_BASKET = Intent("basket", None, "", 0, 0, None)


def gates_now(state: State[Any]) -> tuple[GateLine, ...]:
    """Return each gate for a new entry at the newest event, in the order of asking."""
    strategy = strategy_named(state.identity.strategy, state.identity.symbols, state.identity.config)
    desk = desk_of(strategy)
    by_basket = desk.holds.by_basket
    view = risk_view(Draft(state, desk))
    if by_basket and state.session.last_bar_ns:  # after the session the desk's own bar exists, for the next one
        newest, expected = new_york_text(state.session.last_bar_ns)[:10], state.session.previous
        view = replace(view, newest_bar=min(newest, expected) if expected else newest)
    gates = tuple(gate for gate in desk.gates if not gate.needs_order)
    verdicts = ask_gates(view, _ENTRY, gates).by_gate
    if by_basket:
        of_basket = ask_gates(view, _BASKET, gates).by_gate
        verdicts = {name: of_basket[name] if verdict is None else verdict for name, verdict in verdicts.items()}
    return tuple(_line(gate, verdicts.get(gate.name), view) for gate in desk.gates)


def _line(gate: Gate, verdict: str | None, view: RiskView) -> GateLine:
    if verdict is None:
        return GateLine(gate.name, UNKNOWN, NEEDS_AN_ORDER)
    if not verdict:
        return GateLine(gate.name, PASSES, why_unneeded(gate.name, view.identity.mode))
    return GateLine(gate.name, DENIES, verdict, gate.ends_ns(view) / 1e9 if gate.ends_ns is not None else 0.0)


def why_unneeded(gate: str, mode: str) -> str:
    """Return why a passing gate checks nothing in this mode, "" if it does."""
    return _WITHOUT.get(mode, "") if gate in _OF_REAL_MONEY else ""


def limits_now(state: State[Any], spec: Spec) -> tuple[LimitLine, ...]:
    """Return the limits with a comparable figure, most used first."""
    risk, limits, book = state.risk, state.trading.risk, state.book
    loss = session_loss(book) or 0.0
    drawdown = fall_from(limited_peak(book), book.equity)
    rate = reject_rate(risk, limits)
    lines = [
        _part(f"loss {SINCE_RESET if book.guard_base else 'of the session'}", max(loss, 0.0), limits.daily_loss_max),
        _part(f"drawdown {SINCE_RESET if book.guard_peak else 'from the peak'}", drawdown, limits.drawdown_max),
        _part("rejected orders", rate or 0.0, limits.reject_rate_max),
        *_of_the_claim(state),
        *_LINES[spec.holds](state, spec),
    ]
    return tuple(sorted(lines, key=lambda line: -line.share))


def _of_the_claim(state: State[Any]) -> list[LimitLine]:
    """Return the model's risk claim next to the desk's result; empty without a proven claim."""
    claim = claim_of(state)
    if claim is None:
        return []
    count = min(claim.sessions, claim.window_sessions)
    return [
        _part(
            f"volatility, {count} of {claim.window_sessions} sessions, stated from {100 * claim.volatility_low:.2f} %",
            claim.volatility,
            claim.volatility_high,
        ),
        _part("drawdown that the model states", claim.drawdown, claim.drawdown_max),
    ]


def _a_minute(state: State[Any]) -> int:
    """Return the number of orders sent in the last minute."""
    return sum(1 for t in state.risk.order_times if state.now_ns - t < MINUTE_NS)


def _of_shares(state: State[Any], spec: Spec) -> list[LimitLine]:
    basket, book, symbols = state.trading.basket, state.book, len(spec.symbols)
    worth = [float(abs(p.quantity) * state.marks.get(p.symbol, ZERO)) for p in book.positions.values()]
    value_held, widest = sum(worth), max(worth, default=0.0)
    equity = float(book.equity)
    return [
        _part("all positions of the equity", value_held / equity if equity > 0 else 0.0, basket.gross_weight_max),
        _part("largest position of the equity", widest / equity if equity > 0 else 0.0, basket.position_weight_max),
        _count("orders of the last minute", _a_minute(state), share_gates.A_MINUTE * symbols),
        _count("orders of the session", state.risk.orders_today, share_gates.A_DAY * symbols),
    ]


def _of_options(state: State[Any], _: Spec) -> list[LimitLine]:
    risk, limits = state.risk, state.trading.risk
    contracts = sum(p.quantity for p in state.book.positions.values() if p.right)
    coming = sum(o.remaining for o in state.orders.values() if o.side > 0)
    return [
        _count("contracts held and coming", contracts + coming, limits.position_contracts_max),
        _usd("exposure", _exposure(state), float(limits.gross_exposure_max_usd)),
        _count("orders of the last minute", _a_minute(state), limits.orders_per_minute),
        _count("orders of the session", risk.orders_today, limits.orders_per_day),
        _count("losses in a row", risk.consecutive_losses, limits.consecutive_losses_max),
    ]


_LINES = {"option": _of_options, "shares": _of_shares}


def _exposure(state: State[Any]) -> float:
    """Return the USD of option positions at the last mid plus the possible cost of working buys."""
    total = 0.0
    for symbol, position in state.book.positions.items():
        quote = state.quotes.get(symbol)
        if quote is not None:
            total += float((quote.bid + quote.ask) / 2 * abs(position.quantity) * position.multiplier)
    return total + sum(float((o.limit_price or ZERO) * o.remaining) * 100 for o in state.orders.values() if o.side > 0)


def _part(name: str, value: float, limit: float) -> LimitLine:
    return LimitLine(name, f"{100 * value:.2f} %", f"{100 * limit:.2f} %", value / limit if limit else 0.0)


def _count(name: str, value: int, limit: int) -> LimitLine:
    return LimitLine(name, f"{value}", f"{limit}", value / limit if limit else 0.0)


def _usd(name: str, value: float, limit: float) -> LimitLine:
    return LimitLine(name, f"${value:,.2f}", f"${limit:,.2f}", value / limit if limit else 0.0)


def risk_page(picture: Picture) -> RiskPage:
    """`GET /api/risk`. Without a state only the journal's records."""
    state, spec, newest = picture.state, picture.spec, picture.newest
    alarms, earlier = raised_of(newest, state, picture.meta.get("mode", ""))
    if state is None or spec is None:
        return RiskPage((), (), (), newest.alarms, newest.commands, alarms, earlier)
    denials = tuple(sorted(state.stats.denials.items(), key=lambda item: (-item[1], item[0])))
    return RiskPage(gates_now(state), limits_now(state, spec), denials, newest.alarms, newest.commands, alarms, earlier)
