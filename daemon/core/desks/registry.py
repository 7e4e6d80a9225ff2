"""Compose the desk of a strategy from its spec, and the table of all gates. The one place that knows all kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from daemon.core import gates
from daemon.core.desks import options as option_gates
from daemon.core.desks.bars import AtEachBar
from daemon.core.desks.options import OneOption
from daemon.core.desks.sessions import OnceASession
from daemon.core.desks.shares import desk as share_gates
from daemon.core.desks.shares.desk import Shares
from daemon.core.draft import Decides, DeskKind, Holds
from daemon.core.gates import Applies, Gate
from strategies.kit.contract import AnyStrategy, DailySpec, Spec

GATES: tuple[Gate, ...] = (
    Gate("halted", gates.halted),
    Gate("paused", gates.paused, ends_ns=gates.pause_end_ns),
    Gate("stopping", gates.stopping),
    Gate("not_reconciled", gates.not_reconciled),
    Gate("account_blocked", gates.account_blocked),
    Gate("calendar_unknown", gates.calendar_unknown),
    Gate("outside_session", gates.outside_session, decides="bar", ends_ns=gates.session_opens),
    Gate(
        "outside_session",
        gates.outside_session,
        Applies.ENTRY,
        decides="session",
        ends_ns=gates.session_opens,
    ),
    Gate("market_closed", gates.market_closed),
    Gate("blind", gates.blind),
    Gate("trading_halted", gates.trading_halted, Applies.ENTRY, decides="bar", needs_order=True),
    Gate("near_open", gates.near_open, decides="bar", ends_ns=gates.opening_over),
    Gate("near_close", gates.near_close, decides="bar"),
    Gate("no_trade_window", gates.no_trade_window, decides="bar", ends_ns=gates.window_over),
    Gate("no_trade_window", gates.no_trade_window, Applies.ENTRY, decides="session", ends_ns=gates.window_over),
    Gate("warm_up", gates.warm_up),
    Gate("stale_bar", gates.stale_bar, decides="bar"),
    Gate("gapped_bars", gates.gapped_bars, decides="bar"),
    Gate("stale_history", share_gates.stale_history, Applies.BASKET, decides="session"),
    Gate("model_not_verified", gates.model_not_verified),
    Gate("model_not_promoted", gates.model_not_promoted),
    Gate("model_other_feed", gates.model_other_feed),
    Gate("answer_not_finite", gates.answer_not_finite, needs_order=True),
    # each bar, and one option position
    Gate("low_confidence", option_gates.low_confidence, holds="option", needs_order=True),
    Gate("cooldown_trade", gates.cooldown_trade, decides="bar", ends_ns=gates.trade_cooldown_end_ns),
    Gate("cooldown_loss", gates.cooldown_loss, decides="bar", ends_ns=gates.loss_cooldown_end_ns),
    Gate("orders_per_minute", gates.orders_per_minute, decides="bar", ends_ns=gates.minute_over),
    Gate("orders_per_day", gates.orders_per_day, decides="bar"),
    Gate("order_quantity", option_gates.order_quantity, holds="option", needs_order=True),
    Gate("order_notional", option_gates.order_notional, holds="option", needs_order=True),
    Gate("max_position", option_gates.max_position, holds="option", needs_order=True),
    Gate("gross_exposure", option_gates.gross_exposure, holds="option", needs_order=True),
    Gate("buying_power", option_gates.buying_power, holds="option", needs_order=True),
    Gate("price_collar", option_gates.price_collar, holds="option", needs_order=True),
    Gate("wide_spread", option_gates.wide_spread, holds="option", needs_order=True),
    Gate("stale_quote", gates.stale_quote, holds="option", needs_order=True),
    Gate("spot_unsupported", option_gates.spot_unsupported, holds="option", needs_order=True),
    Gate("open_interest", option_gates.open_interest, holds="option", needs_order=True),
    Gate("expires_today", option_gates.expires_today, holds="option", needs_order=True),
    # shares: a basket as a whole, then each of its orders
    Gate("basket_legs", share_gates.basket_legs, Applies.BASKET, holds="shares", needs_order=True),
    Gate("basket_under_way", share_gates.basket_under_way, Applies.BASKET, decides="session"),
    Gate(
        "basket_under_way",
        share_gates.leg_under_way,
        Applies.BASKET,
        decides="bar",
        holds="shares",
        needs_order=True,
    ),
    Gate("turnover", share_gates.turnover, Applies.BASKET, holds="shares", needs_order=True),
    Gate(
        "orders_per_minute",
        share_gates.orders_per_minute,
        Applies.ENTRY,
        decides="session",
        ends_ns=gates.minute_over,
    ),
    Gate("orders_per_day", share_gates.orders_per_day, Applies.ENTRY, decides="session"),
    Gate("order_weight", share_gates.order_weight, Applies.ENTRY, holds="shares", needs_order=True),
    Gate("order_notional", share_gates.order_notional, Applies.ENTRY, holds="shares", needs_order=True),
    Gate("position_weight", share_gates.position_weight, Applies.ENTRY, holds="shares", needs_order=True),
    Gate("gross_weight", share_gates.gross_weight, Applies.ENTRY, holds="shares", needs_order=True),
    Gate("buying_power", share_gates.buying_power, Applies.ENTRY, holds="shares", needs_order=True),
    Gate("intraday_margin", gates.intraday_margin, Applies.ENTRY, holds="shares"),
    Gate("owner_unknown", gates.owner_unknown, Applies.ENTRY, holds="shares", needs_order=True),
    Gate("owner_unknown", gates.owner_unknown, holds="option", needs_order=True),
    Gate("others_short", gates.others_short, Applies.ENTRY, needs_order=True),
    Gate("closed_by_hand", gates.closed_by_hand, Applies.ENTRY, holds="shares", needs_order=True),
    Gate("closed_by_hand", gates.closed_by_hand, holds="option", needs_order=True),
    # losses
    Gate("daily_loss", gates.daily_loss),
    Gate("drawdown", gates.drawdown),
    Gate("consecutive_losses", gates.consecutive_losses, decides="bar", ends_ns=gates.losses_end_ns),
    Gate("reject_rate", gates.reject_rate_high),
    Gate("claim_broken", gates.claim_broken),
    Gate("shares_held", gates.shares_held, holds="option"),
    Gate("intraday_margin", gates.intraday_margin, holds="option"),
    # every order, exits too
    Gate("duplicate_intent", option_gates.duplicate_intent, Applies.EVERY_ORDER, holds="option", needs_order=True),
    Gate("order_quantity", share_gates.order_quantity, Applies.EVERY_ORDER, holds="shares", needs_order=True),
    Gate("price_collar", share_gates.price_collar, Applies.EVERY_ORDER, holds="shares", needs_order=True),
    Gate("stale_quote", share_gates.stale_quote, Applies.EVERY_ORDER, holds="shares", needs_order=True),
    Gate("duplicate_intent", share_gates.duplicate_order, Applies.EVERY_ORDER, holds="shares", needs_order=True),
    Gate("opposite_order", gates.opposite_order, Applies.EVERY_ORDER, needs_order=True),
    Gate("oversell", gates.oversell, Applies.EVERY_ORDER, needs_order=True),
)


def gates_of(spec: type[Spec] | Spec) -> tuple[Gate, ...]:
    """Return the gates of a desk that decides and holds as this spec's class declares."""
    return tuple(gate for gate in GATES if gate.decides in ("", spec.decides) and gate.holds in ("", spec.holds))


OPTION_GATES = gates_of(Spec)  # of a desk that trades one option by the bar
SHARE_GATES = gates_of(DailySpec)  # of a desk that trades shares once a session


DECIDES: Mapping[str, Callable[[Any], Decides]] = {"bar": AtEachBar, "session": OnceASession}
HOLDS: Mapping[str, Callable[[Any], Holds]] = {"option": OneOption, "shares": Shares}


def desk_of(strategy: AnyStrategy) -> DeskKind:
    """Return the desk that runs this strategy, by `Spec.decides` and `Spec.holds`."""
    spec = strategy.spec
    return DeskKind(spec, DECIDES[spec.decides](strategy), HOLDS[spec.holds](strategy), gates_of(spec))
