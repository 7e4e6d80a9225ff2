"""The risk gates: small functions (view, intent) -> Denial | None in one ordered tuple, all asked, all reasons kept.

Unknown is denial, a gate that raises is a denial, and orders that only reduce risk skip the gates that limit new risk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

import msgspec

from daemon.core.events import Contract, Quote
from daemon.core.limits import Execution, Risk
from daemon.core.orders import Order
from daemon.core.session import in_window, minutes_to, new_york_minute
from daemon.core.state import Book, Identity, Model, RiskState, SessionState

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
OPTION_SHARES = 100
LOSSES = "consecutive_losses"  # the pause's reason
REPLAY_MODES = frozenset({"replay", "dry_run", "paper"})  # no real money: unpromoted models may run


class Intent(msgspec.Struct, frozen=True, gc=False):
    """An order that the desk would like to send."""

    purpose: str  # entry or exit
    contract: Contract | None
    symbol: str
    side: int
    quantity: int
    limit_price: Decimal | None  # None: a market order
    confidence: float = 1.0
    logits: tuple[float, ...] = ()

    @property
    def notional(self) -> Decimal | None:
        """Premium in USD at the limit; None for a market order."""
        return None if self.limit_price is None else self.limit_price * self.quantity * OPTION_SHARES


class RiskView(msgspec.Struct, frozen=True, gc=False):
    """What the gates may look at: the state as it is when the intent is asked."""

    now_ns: int
    identity: Identity
    limits: Risk
    execution: Execution
    session: SessionState
    bar_interval_ns: int
    risk: RiskState
    model: Model | None
    book: Book
    orders: dict[str, Order]  # working
    quotes: dict[str, Quote]


class Denial(msgspec.Struct, frozen=True, gc=False):
    gate: str
    reason: str


class Applies(Enum):
    """To which intents a gate is put."""

    NEW_RISK = "new_risk"
    EVERY_ORDER = "every_order"


class Gate(NamedTuple):
    name: str
    check: Callable[[RiskView, Intent], str | None]
    applies: Applies = Applies.NEW_RISK


def _halted(view: RiskView, _: Intent) -> str | None:
    halt = view.risk.halt
    return f"halted: {halt.reason}: {halt.detail}" if halt else None


def _paused(view: RiskView, _: Intent) -> str | None:
    pause = view.risk.pause
    if pause is None or pause.reason == LOSSES or (pause.until_ns and view.now_ns >= pause.until_ns):
        return None
    return f"paused: {pause.reason}"


def _not_reconciled(view: RiskView, _: Intent) -> str | None:
    return None if view.risk.reconciled else "book and broker are not reconciled"


def _calendar_unknown(view: RiskView, _: Intent) -> str | None:
    return None if view.session.session else "no session known for this moment"


def _outside_session(view: RiskView, _: Intent) -> str | None:
    session = view.session.session
    if session is None:
        return "no session known for this moment"
    if view.session.ended or not session.open_ns <= view.now_ns < session.close_ns:
        return f"outside of the session {session.date}"
    return None


def _near_open(view: RiskView, _: Intent) -> str | None:
    session, limit = view.session.session, view.limits.no_entry_after_open_min
    if session is None or view.now_ns - session.open_ns < limit * MINUTE_NS:
        return f"less than {limit} minutes after the open"
    return None


def _near_close(view: RiskView, _: Intent) -> str | None:
    session, limit = view.session.session, view.limits.no_entry_before_close_min
    if session is None or minutes_to(session.close_ns, view.now_ns) <= limit:
        return f"{limit} minutes or less to the close"
    return None


def _no_trade_window(view: RiskView, _: Intent) -> str | None:
    if not view.limits.no_trade_windows:
        return None
    minute = new_york_minute(view.now_ns)
    for window in view.limits.no_trade_windows:
        if in_window(minute, window):
            return f"within the no-trade window {window} New York time"
    return None


def _warm_up(view: RiskView, _: Intent) -> str | None:
    return None if view.session.warm else "the strategy has not enough bars yet"


def _stale_bar(view: RiskView, _: Intent) -> str | None:
    if not view.session.starts:
        return "no bar of this session yet"
    age = (view.now_ns - view.session.last_bar_ns - view.bar_interval_ns) // SECOND_NS
    limit = view.limits.stale_bar_s
    return f"newest bar ended {age} s ago, limit {limit} s" if age > limit else None


def _gapped_bars(view: RiskView, _: Intent) -> str | None:
    limit = view.limits.gap_min
    starts = view.session.starts
    hole = max((later - earlier for earlier, later in pairwise(starts)), default=0)
    missing = (hole - view.bar_interval_ns) // MINUTE_NS
    return f"{missing} minutes are missing within the window, limit {limit}" if missing > limit else None


def _model_not_verified(view: RiskView, _: Intent) -> str | None:
    return None if view.model else "no verified model"


def _model_not_promoted(view: RiskView, _: Intent) -> str | None:
    if view.model is None or (not view.model.promoted and view.identity.mode not in REPLAY_MODES):
        return "the model is not promoted, so it may not trade real money"
    return None


def _model_other_feed(view: RiskView, _: Intent) -> str | None:
    model = view.model
    if model is None:
        return "no verified model"
    if model.feed != view.identity.feed and view.identity.mode not in REPLAY_MODES:
        return f"the model was trained on feed {model.feed}, this desk uses {view.identity.feed}"
    return None


def _answer_not_finite(_: RiskView, intent: Intent) -> str | None:
    if math.isfinite(intent.confidence) and all(map(math.isfinite, intent.logits)):
        return None
    return "the policy's answer is not finite"


def _low_confidence(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.confidence_min
    return None if intent.confidence >= limit else f"confidence {intent.confidence:.4f} below {limit}"


def _cooldown_trade(view: RiskView, _: Intent) -> str | None:
    return _cooldown(view.now_ns, view.risk.last_trade_ns, view.limits.cooldown_trade_s, "trade")


def _cooldown_loss(view: RiskView, _: Intent) -> str | None:
    return _cooldown(view.now_ns, view.risk.last_loss_ns, view.limits.cooldown_loss_s, "loss")


def _cooldown(now_ns: int, since_ns: int, limit_s: int, after: str) -> str | None:
    if not since_ns or now_ns - since_ns >= limit_s * SECOND_NS:
        return None
    return f"{(now_ns - since_ns) // SECOND_NS} s after a {after}, cooldown {limit_s} s"


def _orders_per_minute(view: RiskView, _: Intent) -> str | None:
    recent = sum(1 for t in view.risk.order_times if view.now_ns - t < MINUTE_NS)
    limit = view.limits.orders_per_minute
    return f"{recent} orders within a minute, limit {limit}" if recent >= limit else None


def _orders_per_day(view: RiskView, _: Intent) -> str | None:
    limit = view.limits.orders_per_day
    return f"{view.risk.orders_today} orders today, limit {limit}" if view.risk.orders_today >= limit else None


def _order_quantity(view: RiskView, intent: Intent) -> str | None:
    limit = view.limits.order_contracts_max
    if intent.quantity < 1:
        return f"quantity {intent.quantity}: the sizing rule allows less than one contract"
    return f"{intent.quantity} contracts, limit {limit} an order" if intent.quantity > limit else None


def _order_notional(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.order_notional_max_usd
    if notional is None:
        return "notional unknown: an entry needs a limit price"
    return f"notional {notional} USD, limit {limit}" if notional > limit else None


def _max_position(view: RiskView, intent: Intent) -> str | None:
    held = sum(p.quantity for p in view.book.positions.values() if p.right)
    coming = sum(o.remaining for o in view.orders.values() if o.side > 0)
    total, limit = held + coming + intent.quantity, view.limits.position_contracts_max
    return f"position would be {total} contracts, limit {limit}" if total > limit else None


def _gross_exposure(view: RiskView, intent: Intent) -> str | None:
    notional, limit = intent.notional, view.limits.gross_exposure_max_usd
    if notional is None:
        return "exposure unknown: an entry needs a limit price"
    total = notional + _reserved(view)
    for symbol, position in view.book.positions.items():
        quote = view.quotes.get(symbol)
        if quote is None or not _fresh(view, quote):
            return f"exposure unknown: no fresh mark for {symbol}"
        total += (quote.bid + quote.ask) / 2 * abs(position.quantity) * position.multiplier
    return f"exposure would be {total} USD, limit {limit}" if total > limit else None


def _reserved(view: RiskView) -> Decimal:
    """Premium that working buys may still spend."""
    return sum(
        ((o.limit_price or Decimal(0)) * o.remaining * OPTION_SHARES for o in view.orders.values() if o.side > 0),
        Decimal(0),
    )


def _fresh(view: RiskView, quote: Quote) -> bool:
    return view.now_ns - quote.quoted_ns <= view.limits.quote_age_max_s * SECOND_NS


def _buying_power(view: RiskView, intent: Intent) -> str | None:
    notional = intent.notional
    if notional is None:
        return "cost unknown: an entry needs a limit price"
    free = view.book.cash - _reserved(view)
    return f"costs {notional} USD, buying power {free}" if notional > free else None


def _price_collar(view: RiskView, intent: Intent) -> str | None:
    if intent.limit_price is None:
        return "an entry needs a limit price"
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.ask <= 0:
        return f"no quote for {intent.symbol}"
    middle, collar = (quote.bid + quote.ask) / 2, Decimal(str(view.limits.price_collar))
    if abs(intent.limit_price - middle) > middle * collar:
        return f"limit {intent.limit_price} is further than {collar} from the mid {middle}"
    return None


def _wide_spread(view: RiskView, intent: Intent) -> str | None:
    quote = view.quotes.get(intent.symbol)
    if quote is None or quote.bid <= 0 or quote.ask <= 0:
        return f"no two-sided quote for {intent.symbol}"
    spread = float((quote.ask - quote.bid) / ((quote.bid + quote.ask) / 2))
    limit = view.limits.spread_max
    return None if 0 <= spread <= limit else f"spread {spread:.4f} of the mid, limit {limit}"


def _stale_quote(view: RiskView, intent: Intent) -> str | None:
    quote = view.quotes.get(intent.symbol)
    if quote is None:
        return f"no quote for {intent.symbol}"
    age, limit = (view.now_ns - quote.quoted_ns) // SECOND_NS, view.limits.quote_age_max_s
    return f"quote is {age} s old, limit {limit} s" if age > limit else None


def _open_interest(view: RiskView, intent: Intent) -> str | None:
    if intent.contract is None:
        return "contract unknown"
    found, limit = intent.contract.open_interest, view.limits.open_interest_min
    return f"open interest {found}, at least {limit} wanted" if found < limit else None


def _expires_today(view: RiskView, intent: Intent) -> str | None:
    session, limit = view.session.session, view.execution.expiry_day_no_entry_min
    if session is None or intent.contract is None:
        return "contract or session unknown"
    if intent.contract.expiry > session.date or minutes_to(session.close_ns, view.now_ns) > limit:
        return None
    return f"the contract expires today and {limit} minutes or less are left"


def _daily_loss(view: RiskView, _: Intent) -> str | None:
    start = view.book.session_start_equity
    if start <= 0:
        return "equity at the session's start unknown"
    loss = float((start + view.book.transfers - view.book.equity) / start)
    limit = view.limits.daily_loss_max
    return None if loss < limit else f"lost {loss:.4f} of the session's equity, limit {limit}"


def _drawdown(view: RiskView, _: Intent) -> str | None:
    peak, limit = view.book.peak, view.limits.drawdown_max
    if peak <= 0:
        return "equity peak unknown"
    drawdown = float((peak - view.book.equity) / peak)
    return None if drawdown < limit else f"drawdown {drawdown:.4f} from the peak, limit {limit}"


def _reject_rate(view: RiskView, _: Intent) -> str | None:
    rate = reject_rate(view.risk, view.limits)
    limit = view.limits.reject_rate_max
    return f"{rate:.2f} of the last orders were rejected, limit {limit}" if rate is not None and rate >= limit else None


def reject_rate(risk: RiskState, limits: Risk) -> float | None:
    """Share of rejected orders among the last `reject_rate_orders`; None before there are as many."""
    recent = risk.outcomes[-limits.reject_rate_orders :]
    return sum(recent) / len(recent) if len(recent) == limits.reject_rate_orders else None


def _consecutive_losses(view: RiskView, _: Intent) -> str | None:
    pause = view.risk.pause
    if pause is None or pause.reason != LOSSES or view.now_ns >= pause.until_ns:
        return None
    left = minutes_to(pause.until_ns, view.now_ns)
    return f"paused after {view.limits.consecutive_losses_max} losses in a row, {left:.0f} minutes left"


def _duplicate_intent(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        if order.symbol == intent.symbol and order.side == intent.side:
            return f"order {order.client_order_id} already works on this side of {intent.symbol}"
        if intent.purpose == "entry" and order.purpose == "entry":
            return f"entry order {order.client_order_id} is already working"
    return None


def _opposite_order(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        if order.symbol == intent.symbol and order.side == -intent.side:
            return f"order {order.client_order_id} works on the other side of {intent.symbol} (wash trade)"
    return None


def _oversell(view: RiskView, intent: Intent) -> str | None:
    if intent.side > 0:
        return None
    held = view.book.positions.get(intent.symbol)
    selling = sum(o.remaining for o in view.orders.values() if o.symbol == intent.symbol and o.side < 0)
    free = (held.quantity if held else 0) - selling
    return f"sells {intent.quantity} but only {free} are free to sell" if intent.quantity > free else None


def _shares_held(view: RiskView, _: Intent) -> str | None:
    shares = [p.symbol for p in view.book.positions.values() if p.right == 0]
    return f"shares of {shares[0]} from an exercise are held" if shares else None


def _day_trades(view: RiskView, _: Intent) -> str | None:
    limit = view.limits.day_trades_max
    if limit and view.risk.day_trades >= limit:
        return f"{view.risk.day_trades} round trips today, limit {limit}"
    return None


GATES: tuple[Gate, ...] = (
    Gate("halted", _halted),
    Gate("paused", _paused),
    Gate("not_reconciled", _not_reconciled),
    Gate("calendar_unknown", _calendar_unknown),
    Gate("outside_session", _outside_session),
    Gate("near_open", _near_open),
    Gate("near_close", _near_close),
    Gate("no_trade_window", _no_trade_window),
    Gate("warm_up", _warm_up),
    Gate("stale_bar", _stale_bar),
    Gate("gapped_bars", _gapped_bars),
    Gate("model_not_verified", _model_not_verified),
    Gate("model_not_promoted", _model_not_promoted),
    Gate("model_other_feed", _model_other_feed),
    Gate("answer_not_finite", _answer_not_finite),
    Gate("low_confidence", _low_confidence),
    Gate("cooldown_trade", _cooldown_trade),
    Gate("cooldown_loss", _cooldown_loss),
    Gate("orders_per_minute", _orders_per_minute),
    Gate("orders_per_day", _orders_per_day),
    Gate("order_quantity", _order_quantity),
    Gate("order_notional", _order_notional),
    Gate("max_position", _max_position),
    Gate("gross_exposure", _gross_exposure),
    Gate("buying_power", _buying_power),
    Gate("price_collar", _price_collar),
    Gate("wide_spread", _wide_spread),
    Gate("stale_quote", _stale_quote),
    Gate("open_interest", _open_interest),
    Gate("expires_today", _expires_today),
    Gate("daily_loss", _daily_loss),
    Gate("drawdown", _drawdown),
    Gate("consecutive_losses", _consecutive_losses),
    Gate("reject_rate", _reject_rate),
    Gate("shares_held", _shares_held),
    Gate("day_trades", _day_trades),
    Gate("duplicate_intent", _duplicate_intent, Applies.EVERY_ORDER),
    Gate("opposite_order", _opposite_order, Applies.EVERY_ORDER),
    Gate("oversell", _oversell, Applies.EVERY_ORDER),
)


class Verdicts(msgspec.Struct, frozen=True, gc=False):
    """What every gate said, by name: "" passed, a text denied, None was not put to this intent."""

    by_gate: dict[str, str | None]
    denials: tuple[Denial, ...]


def ask_gates(view: RiskView, intent: Intent, gates: tuple[Gate, ...] = GATES) -> Verdicts:
    """Put every gate that applies to the intent; an exit skips those that limit new risk. A raising gate denies."""
    by_gate: dict[str, str | None] = {}
    denials: list[Denial] = []
    for gate in gates:
        if intent.purpose == "exit" and gate.applies is Applies.NEW_RISK:
            by_gate[gate.name] = None
            continue
        try:
            reason = gate.check(view, intent)
        except Exception as error:  # whatever it is, the order is not sent
            reason = f"the gate failed: {type(error).__name__}: {error}"
        by_gate[gate.name] = reason or ""
        if reason:
            denials.append(Denial(gate.name, reason))
    return Verdicts(by_gate, tuple(denials))
