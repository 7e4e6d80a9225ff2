"""The risk gates: small functions (view, intent) -> Denial | None in one ordered tuple, all asked, all reasons kept.

Unknown is denial, a gate that raises is a denial, and orders that only reduce risk skip the gates that limit new risk.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import msgspec

from daemon.core.desks.options import gates as order_gates
from daemon.core.desks.shares import gates as share_gates
from daemon.core.risk import desk_gates
from daemon.core.risk.view import Intent, RiskView


class Denial(msgspec.Struct, frozen=True, gc=False):
    gate: str
    reason: str


class Applies(Enum):
    """To which intents a gate is put."""

    NEW_RISK = "new_risk"  # entries, and baskets as a whole
    EVERY_ORDER = "every_order"
    ENTRY = "entry"
    BASKET = "basket"


_PUT: dict[str, frozenset[Applies]] = {
    "entry": frozenset((Applies.NEW_RISK, Applies.EVERY_ORDER, Applies.ENTRY)),
    "exit": frozenset((Applies.EVERY_ORDER,)),
    "basket": frozenset((Applies.NEW_RISK, Applies.BASKET)),
}


class Gate(NamedTuple):
    name: str
    check: Callable[[RiskView, Intent], str | None]
    applies: Applies = Applies.NEW_RISK


OPTION_GATES: tuple[Gate, ...] = (
    Gate("halted", desk_gates.halted),
    Gate("paused", desk_gates.paused),
    Gate("stopping", desk_gates.stopping),
    Gate("not_reconciled", desk_gates.not_reconciled),
    Gate("account_blocked", desk_gates.account_blocked),
    Gate("calendar_unknown", desk_gates.calendar_unknown),
    Gate("outside_session", desk_gates.outside_session),
    Gate("market_closed", desk_gates.market_closed),
    Gate("near_open", desk_gates.near_open),
    Gate("near_close", desk_gates.near_close),
    Gate("no_trade_window", desk_gates.no_trade_window),
    Gate("warm_up", desk_gates.warm_up),
    Gate("stale_bar", desk_gates.stale_bar),
    Gate("gapped_bars", desk_gates.gapped_bars),
    Gate("model_not_verified", desk_gates.model_not_verified),
    Gate("model_not_promoted", desk_gates.model_not_promoted),
    Gate("model_other_feed", desk_gates.model_other_feed),
    Gate("answer_not_finite", order_gates.answer_not_finite),
    Gate("low_confidence", order_gates.low_confidence),
    Gate("cooldown_trade", desk_gates.cooldown_trade),
    Gate("cooldown_loss", desk_gates.cooldown_loss),
    Gate("orders_per_minute", desk_gates.orders_per_minute),
    Gate("orders_per_day", desk_gates.orders_per_day),
    Gate("order_quantity", order_gates.order_quantity),
    Gate("order_notional", order_gates.order_notional),
    Gate("max_position", order_gates.max_position),
    Gate("gross_exposure", order_gates.gross_exposure),
    Gate("buying_power", order_gates.buying_power),
    Gate("price_collar", order_gates.price_collar),
    Gate("wide_spread", order_gates.wide_spread),
    Gate("stale_quote", order_gates.stale_quote),
    Gate("spot_unsupported", order_gates.spot_unsupported),
    Gate("open_interest", order_gates.open_interest),
    Gate("expires_today", order_gates.expires_today),
    Gate("daily_loss", desk_gates.daily_loss),
    Gate("drawdown", desk_gates.drawdown),
    Gate("consecutive_losses", desk_gates.consecutive_losses),
    Gate("reject_rate", desk_gates.reject_rate_high),
    Gate("shares_held", desk_gates.shares_held),
    Gate("intraday_margin", desk_gates.intraday_margin),
    Gate("duplicate_intent", order_gates.duplicate_intent, Applies.EVERY_ORDER),
    Gate("opposite_order", order_gates.opposite_order, Applies.EVERY_ORDER),
    Gate("oversell", order_gates.oversell, Applies.EVERY_ORDER),
)
"""Of a desk that trades one option by the minute."""

SHARE_GATES: tuple[Gate, ...] = (
    Gate("halted", desk_gates.halted),
    Gate("paused", desk_gates.paused),
    Gate("stopping", desk_gates.stopping),
    Gate("not_reconciled", desk_gates.not_reconciled),
    Gate("account_blocked", desk_gates.account_blocked),
    Gate("calendar_unknown", desk_gates.calendar_unknown),
    Gate("outside_session", desk_gates.outside_session, Applies.ENTRY),
    Gate("market_closed", desk_gates.market_closed),
    Gate("no_trade_window", desk_gates.no_trade_window, Applies.ENTRY),
    Gate("warm_up", desk_gates.warm_up),
    Gate("stale_history", share_gates.stale_history, Applies.BASKET),
    Gate("model_not_verified", desk_gates.model_not_verified),
    Gate("model_not_promoted", desk_gates.model_not_promoted),
    Gate("model_other_feed", desk_gates.model_other_feed),
    Gate("answer_not_finite", order_gates.answer_not_finite),
    Gate("basket_legs", share_gates.basket_legs, Applies.BASKET),
    Gate("basket_under_way", share_gates.basket_under_way, Applies.BASKET),
    Gate("turnover", share_gates.turnover, Applies.BASKET),
    Gate("orders_per_minute", share_gates.orders_per_minute, Applies.ENTRY),
    Gate("orders_per_day", share_gates.orders_per_day, Applies.ENTRY),
    Gate("order_weight", share_gates.order_weight, Applies.ENTRY),
    Gate("order_notional", share_gates.order_notional, Applies.ENTRY),
    Gate("position_weight", share_gates.position_weight, Applies.ENTRY),
    Gate("gross_weight", share_gates.gross_weight, Applies.ENTRY),
    Gate("buying_power", share_gates.buying_power, Applies.ENTRY),
    Gate("intraday_margin", desk_gates.intraday_margin, Applies.ENTRY),
    Gate("daily_loss", desk_gates.daily_loss),
    Gate("drawdown", desk_gates.drawdown),
    Gate("reject_rate", desk_gates.reject_rate_high),
    Gate("order_quantity", share_gates.order_quantity, Applies.EVERY_ORDER),
    Gate("price_collar", share_gates.price_collar, Applies.EVERY_ORDER),
    Gate("stale_quote", share_gates.stale_quote, Applies.EVERY_ORDER),
    Gate("duplicate_intent", share_gates.duplicate_order, Applies.EVERY_ORDER),
    Gate("opposite_order", order_gates.opposite_order, Applies.EVERY_ORDER),
    Gate("oversell", order_gates.oversell, Applies.EVERY_ORDER),
)
"""Of a daily desk: asked for a basket as a whole, and for each of its orders.

A policy's confidence is no gate here: the largest of 16 probabilities is low by its nature, and actions have none.
"""

PASSING = frozenset(("not_reconciled", "account_blocked", "market_closed", "basket_under_way"))
"""Gates that deny for a cause of minutes that does not touch what the policy saw: a basket they alone deny waits."""

GATES: tuple[Gate, ...] = (*OPTION_GATES, *SHARE_GATES)  # all there are; each kind of desk asks its own


class Verdicts(msgspec.Struct, frozen=True, gc=False):
    """What every gate said, by name: "" passed, a text denied, None was not put to this intent."""

    by_gate: dict[str, str | None]
    denials: tuple[Denial, ...]


def ask_gates(view: RiskView, intent: Intent, gates: tuple[Gate, ...] = OPTION_GATES) -> Verdicts:
    """Put every gate that applies to the intent; an exit skips those that limit new risk. A raising gate denies."""
    put = _PUT[intent.purpose]
    by_gate: dict[str, str | None] = {}
    denials: list[Denial] = []
    for gate in gates:
        if gate.applies not in put:
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
