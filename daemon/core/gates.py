"""Gates: functions (view, intent) -> reason or None. All are asked, in one order, and all reasons are kept.

A gate sees only these two. Unknown values deny, a gate that raises denies, and orders that only reduce risk skip the
gates that limit new risk. This module has the gates of all desks: on new risk (state, session, bars, model, pace,
losses), and on one order. Their table is in `daemon.core.desks.registry`; meaning and cure are under each name in
docs/GATES.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from itertools import pairwise

import msgspec
from msgspec import UNSET, UnsetType

from daemon.core.book import fall_from, limited_peak, session_loss, worth_at
from daemon.core.events import Contract, Quote
from daemon.core.instruments.option_market import parse_occ, root_of
from daemon.core.limits import Basket, Execution, Risk
from daemon.core.orders import Order
from daemon.core.session import (
    LATER,
    flatten_from_ns,
    in_window,
    minutes_to,
    new_york_minute,
    new_york_text,
    parse_window,
)
from daemon.core.state import ZERO, Book, ClaimState, Identity, Model, Position, RiskState, SessionState
from strategies.kit.contract import Grid, Leg
from strategies.kit.quantity import Quantity
from strategies.kit.units import MINUTE_NS, SECOND_NS

LOSSES = "consecutive_losses"  # reason of a pause
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
    minutes = minutes_to(pause.until_ns, view.now_ns)
    return f"paused after {view.limits.consecutive_losses_max} losses in a row, {minutes:.0f} minutes left"


def not_reconciled(view: RiskView, _: Intent) -> str | None:
    return None if view.risk.reconciled else "book and broker are not reconciled"


def account_blocked(view: RiskView, _: Intent) -> str | None:
    return f"the broker does not let the account trade: {view.blocked}" if view.blocked else None


def market_closed(view: RiskView, _: Intent) -> str | None:
    return "the broker's market is closed, although the calendar has a session" if view.closed else None


def blind(view: RiskView, _: Intent) -> str | None:
    return view.blind or None


def trading_halted(view: RiskView, intent: Intent) -> str | None:
    session = view.session
    if not isinstance(session.untraded, UnsetType) and (refusal := session.trading_refusal(intent.symbol)):
        return f"the broker refused {intent.symbol} in this session: {refusal}"
    if isinstance(session.trading_halts, UnsetType):
        return None
    root = root_of(intent.symbol)
    halt = session.trading_halt(root)
    return f"its exchange halted {root} at {new_york_text(halt.since_ns)[11:]}: {halt.reason}" if halt else None


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
    if view.now_ns >= flatten_from_ns(session, expiry, view.execution, view.grid):
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
    session, newest = view.session.session, view.session.last_bar_ns
    ended_ns = newest + view.grid.length_ns if session is None else view.grid.at(newest, session)[1]
    age = (view.now_ns - ended_ns) // SECOND_NS
    limit = view.limits.stale_bar_s
    return f"newest bar ended {age} s ago, limit {limit} s" if age > limit else None


def gapped_bars(view: RiskView, _: Intent) -> str | None:
    limit = view.limits.gap_min
    starts = view.session.starts
    hole = max((later - earlier for earlier, later in pairwise(starts)), default=0)
    missing = (hole - view.grid.length_ns) // MINUTE_NS
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


def _cooldown(now_ns: int, since_ns: int, limit_s: int, event: str) -> str | None:
    if not since_ns or now_ns - since_ns >= limit_s * SECOND_NS:
        return None
    return f"{(now_ns - since_ns) // SECOND_NS} s after a {event}, cooldown {limit_s} s"


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
    """Return the rate of rejections among the last `reject_rate_orders`; None for fewer orders, or if it is 0."""
    recent = risk.outcomes[-limits.reject_rate_orders :]
    return sum(recent) / len(recent) if len(recent) == limits.reject_rate_orders and any(recent) else None


def claim_broken(view: RiskView, _: Intent) -> str | None:
    model, claim_state = view.model, view.claim
    broken_claim = (
        None if model is None or isinstance(claim_state, UnsetType) else claim_state.broken.get(model.version)
    )
    if model is None or broken_claim is None:
        return None
    return f"{model.version} broke its claim about risk: {broken_claim.detail}; until the desk is resumed"


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
    price = view.marks.get(position.symbol)
    if price is None:
        return abs(position.cost * position.multiplier)
    return abs(worth_at(position, price))


def _cost(view: RiskView, intent: Intent) -> Decimal:
    """Return what the order and the working buys may cost."""
    shares = OPTION_SHARES if intent.contract is not None else 1
    cost = (intent.limit_price or Decimal(0)) * intent.quantity * shares
    for order in view.orders.values():
        if order.side > 0:
            size = OPTION_SHARES if parse_occ(order.symbol) is not None else 1
            cost += (order.limit_price or view.marks.get(order.symbol, Decimal(0))) * order.remaining * size
    return cost


OPTION_SHARES = 100


class Intent(msgspec.Struct, frozen=True, gc=False):
    """An order that the desk wants to send; or a whole basket, before its first order."""

    purpose: str  # entry, exit or basket
    contract: Contract | None
    symbol: str
    side: int
    quantity: Quantity
    limit_price: Decimal | None  # None: a market order
    confidence: float = 1.0
    logits: tuple[float, ...] = ()
    legs: tuple[Leg, ...] = ()  # only of a basket, whose symbol, side and quantity are empty
    auction: bool = False  # into the opening auction
    closing: bool = False  # by the broker's own call

    @property
    def notional(self) -> Decimal | None:
        """An option's premium in USD at the limit; None for a market order."""
        return None if self.limit_price is None else self.limit_price * self.quantity * OPTION_SHARES


class RiskView(msgspec.Struct, frozen=True, gc=False):
    """The state that gates may read, as of the moment they are asked."""

    now_ns: int
    identity: Identity
    limits: Risk
    execution: Execution
    session: SessionState
    grid: Grid  # of the strategy's bars
    risk: RiskState
    model: Model | None
    book: Book
    orders: dict[str, Order]  # working
    quotes: dict[str, Quote]
    basket: Basket = Basket()  # from here on: desks of shares only
    symbols: tuple[str, ...] = ()  # symbols that the desk trades
    marks: dict[str, Decimal] = {}  # USD a share
    newest_bar: str = ""  # date of the newest daily bar, for baskets only
    splits: tuple[str, ...] = ()  # held symbols whose split is not booked yet
    blocked: str = ""  # why the account may not trade, from the broker
    closed: bool = False  # the broker's market is closed in a session of the calendar
    spendable: Decimal | None = None  # USD, by the broker's last report; None when unknown
    deficit: Decimal = ZERO  # margin deficit in USD, by the broker's last report
    overnight: bool = False  # positions are kept overnight
    blind: str = ""  # data missing on held positions, "" for none
    cost_rate: Decimal = ZERO  # part of the traded value that each fill costs
    disputed: tuple[str, ...] = ()  # symbols with a ledger line of unknown owner
    foreign_held: dict[str, Quantity] = {}  # others' quantities, negative when short
    claim: ClaimState | UnsetType = UNSET


class Denial(msgspec.Struct, frozen=True, gc=False):
    gate: str
    reason: str


class Applies(Enum):
    """The intents to which a gate applies."""

    NEW_RISK = "new_risk"  # entries, and baskets as a whole
    EVERY_ORDER = "every_order"
    ENTRY = "entry"
    BASKET = "basket"


_PUT: dict[str, tuple[Applies, ...]] = {
    "entry": (Applies.NEW_RISK, Applies.EVERY_ORDER, Applies.ENTRY),
    "exit": (Applies.EVERY_ORDER,),
    "basket": (Applies.NEW_RISK, Applies.BASKET),
}


class Gate(msgspec.Struct, frozen=True, gc=False):
    """A gate with its facts: where it applies, whether it depends on the order, when it ends by itself."""

    name: str
    check: Callable[[RiskView, Intent], str | None]
    applies: Applies = Applies.NEW_RISK
    decides: str = ""  # asked at desks that decide so (`Spec.decides`), "" at all
    holds: str = ""  # asked at desks that hold this (`Spec.holds`), "" at all
    needs_order: bool = False  # its verdict depends on the order
    ends_ns: Callable[[RiskView], int] | None = None  # when it ends by itself, 0 when unknown


class Verdicts(msgspec.Struct, frozen=True, gc=False):
    """The verdict of every gate, by name: "" passed, a text denied, None not asked for this intent."""

    by_gate: dict[str, str | None]
    denials: tuple[Denial, ...]


def ask_gates(view: RiskView, intent: Intent, gates: tuple[Gate, ...]) -> Verdicts:
    """Ask every gate that applies to the intent; an exit skips those that limit new risk. A raising gate denies."""
    put = _PUT[intent.purpose]
    by_gate: dict[str, str | None] = {}
    denials: list[Denial] = []
    for gate in gates:
        if gate.applies not in put:
            by_gate[gate.name] = None
            continue
        try:
            reason = gate.check(view, intent)
        except Exception as error:  # whatever is raised, the order is not sent
            reason = f"the gate failed: {type(error).__name__}: {error}"
        by_gate[gate.name] = reason or ""
        if reason:
            denials.append(Denial(gate.name, reason))
    return Verdicts(by_gate, tuple(denials))


def answer_not_finite(_: RiskView, intent: Intent) -> str | None:
    if math.isfinite(intent.confidence) and all(map(math.isfinite, intent.logits)):
        return None
    return "the policy's answer is not finite"


def stale_quote(view: RiskView, intent: Intent) -> str | None:
    quote = view.quotes.get(intent.symbol)
    if quote is None:
        return f"no quote for {intent.symbol}"
    age, limit = (view.now_ns - quote.quoted_ns) // SECOND_NS, view.limits.quote_age_max_s
    return f"quote is {age} s old, limit {limit} s" if age > limit else None


def owner_unknown(view: RiskView, intent: Intent) -> str | None:
    contract = parse_occ(intent.symbol)
    symbol = intent.symbol if contract is None else contract.root
    return f"a line of the ledger about {symbol} has no known owner" if symbol in view.disputed else None


def others_short(view: RiskView, intent: Intent) -> str | None:
    """Deny a purchase of what others are short in: the account would hold less than was bought, and sell no more.

    Where the desk itself is short, deny one that would cover and buy more: the broker takes no such order.
    """
    own_position = view.book.positions.get(intent.symbol)
    if own_position is not None and intent.side > 0 and 0 < -own_position.quantity < intent.quantity:
        return (
            f"the desk holds {own_position.quantity} {intent.symbol}; the broker takes no order that covers them and "
            "buys more: buy them back at the broker, then rltraderctl accept-broker"
        )
    short = view.foreign_held.get(intent.symbol, 0) < 0
    return f"others are short in {intent.symbol}: a purchase would close their position" if short else None


def closed_by_hand(view: RiskView, intent: Intent) -> str | None:
    """Deny a purchase of what a person closed in this session; for contracts, any of the same underlying."""
    if isinstance(view.risk.by_hand, UnsetType):
        return None
    contract = parse_occ(intent.symbol)
    symbol = intent.symbol if contract is None else contract.root
    return f"{symbol} was closed by hand in this session" if symbol in view.risk.by_hand else None


def opposite_order(view: RiskView, intent: Intent) -> str | None:
    for order in view.orders.values():
        if order.symbol == intent.symbol and order.side == -intent.side:
            return f"order {order.client_order_id} works on the other side of {intent.symbol} (wash trade)"
    return None


def oversell(view: RiskView, intent: Intent) -> str | None:
    """Deny a sale above what is held and free, and a closing buy above the short quantity."""
    if intent.side > 0 and intent.purpose != "exit":
        return None
    position = view.book.positions.get(intent.symbol)
    working = sum(o.remaining for o in view.orders.values() if o.symbol == intent.symbol and o.side == intent.side)
    free = -intent.side * (position.quantity if position else 0) - working
    if intent.quantity <= free:
        return None
    return f"{'sells' if intent.side < 0 else 'buys back'} {intent.quantity} but only {free} are free"


def pause_end_ns(view: RiskView) -> int:
    pause = view.risk.pause
    return pause.until_ns if pause is not None and pause.reason != LOSSES else 0


def losses_end_ns(view: RiskView) -> int:
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


def trade_cooldown_end_ns(view: RiskView) -> int:
    return view.risk.last_trade_ns + view.limits.cooldown_trade_s * SECOND_NS


def loss_cooldown_end_ns(view: RiskView) -> int:
    return view.risk.last_loss_ns + view.limits.cooldown_loss_s * SECOND_NS


def minute_over(view: RiskView) -> int:
    recent = sorted(t for t in view.risk.order_times if view.now_ns - t < MINUTE_NS)
    return recent[0] + MINUTE_NS if recent else 0
