"""Risk checks other than the gates, for every kind of desk: losses, outcomes, lost data, spendable funds.

A halt is state: it cancels working entries, survives a restart and ends only by a command that states a reason. In a
cash account proceeds count only once they settle, which the book's cash does not know; a margin account may be in a
deficit, which the broker computes later. An unknown figure sets no limit: the book's cash still does.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from msgspec import UnsetType
from msgspec.structs import replace

from daemon.core.book import fall_from, limited_peak, session_loss, worth_at
from daemon.core.draft import LEAVING, PROTECTION, Draft, while_held, wording
from daemon.core.effects import AskBroker, RaiseAlarm
from daemon.core.events import Funds, Quote
from daemon.core.gates import LOSSES, RiskView, reject_rate
from daemon.core.instruments.option_market import root_of
from daemon.core.limits import Sizing
from daemon.core.orders import CANCELING, REJECTED, SUBMITTED, UNKNOWN, Order
from daemon.core.risk.marks import fetch_equity, mark_book, wide_options
from daemon.core.session import new_york_date
from daemon.core.state import BROKER_MODES, ZERO, Pause, Position, State, TradingHalt
from strategies.kit.units import MINUTE_NS, SECOND_NS

TOUCH_USD = 1e-9  # an exact touch counts, despite rounding of a product
_AWAITED = frozenset((UNKNOWN, CANCELING))
ONCE_A_MINUTE_NS = 2 * MINUTE_NS  # data requested once a minute (reports, a daily desk's quotes) is not lost before
UNRECONCILED_NS = 5 * MINUTE_NS  # unreconciled for this long: notify the operator


def revalue(draft: Draft) -> None:
    """Mark the book at the last known prices and check the loss limits, with options at what they would fetch."""
    book = mark_book(draft, draft.book)
    draft.put_book(book)
    limits, equity = draft.trading.risk, fetch_equity(draft, draft.book)
    loss, halt = session_loss(book, equity), draft.risk.halt
    if loss is None or (halt is not None and halt.reason in LEAVING):
        return
    if loss >= limits.daily_loss_max:
        transfers_text = f" and {book.transfers:+} USD of transfers" if book.transfers else ""
        start = f"{book.session_start_equity} USD at the session's start"
        if book.guard_base:
            start, transfers_text = f"{book.guard_base} USD since the limits were reset", ""
        detail = f"lost {loss:.4f} of {start}{transfers_text}, limit {limits.daily_loss_max}"
        draft.halt("daily_loss", detail)
        return
    peak = limited_peak(book)
    if fall_from(peak, equity) >= limits.drawdown_max and halt is None:
        since_text = " since the limits were reset" if book.guard_peak else ""
        draft.halt("drawdown", f"equity {equity} USD, peak {peak} USD{since_text}, limit {limits.drawdown_max}")


def loss_to_reset(draft: Draft | State[Any]) -> str:
    """Return the loss limit that blocks a plain resume, "" for none.

    It is that of a halt, even behind another halt, or a limit that is reached now. A daily loss blocks on its day in
    New York, and until the day of the next session, which begins a new count.
    """
    book, limits = draft.book, draft.trading.risk
    equity = fetch_equity(draft, book)
    if (loss := session_loss(book, equity)) is not None and loss >= limits.daily_loss_max:
        return "daily_loss"
    if fall_from(limited_peak(book), equity) >= limits.drawdown_max:
        return "drawdown"
    today, last_over = new_york_date(draft.now_ns).isoformat(), draft.session.previous
    for halt in draft.risk.halts:
        day = new_york_date(halt.since_ns).isoformat()
        if halt.reason == "drawdown" or (halt.reason == "daily_loss" and (day == today or day > last_over)):
            return halt.reason
    return ""


def end_trade(draft: Draft, position: Position) -> None:
    """Handle the end of a position with `position.pnl` after fees: cooldowns, losses in a row."""
    risk, limits, stats = draft.risk, draft.trading.risk, draft.stats
    lost = position.pnl < 0
    if draft.desk.decides.rebalances:  # a basket closes many at once: these do not count as losses in a row
        draft.stats = replace(stats, trades=stats.trades + 1, wins=stats.wins + (position.pnl > 0))
        return
    losses = risk.consecutive_losses + 1 if lost else 0
    risk = replace(
        risk,
        last_trade_ns=draft.now_ns,
        last_loss_ns=draft.now_ns if lost else risk.last_loss_ns,
        consecutive_losses=losses,
    )
    if losses >= limits.consecutive_losses_max:
        until_ns = draft.now_ns + limits.consecutive_losses_pause_min * MINUTE_NS
        operator = risk.pause is not None and not risk.pause.until_ns  # a pause without end stays
        risk = replace(risk, pause=risk.pause if operator else Pause(LOSSES, until_ns), consecutive_losses=0)
        draft.effects.append(RaiseAlarm(LOSSES, f"{losses} losses in a row"))
    draft.risk = risk
    draft.stats = replace(stats, trades=stats.trades + 1, wins=stats.wins + (position.pnl > 0))


def note_fate(draft: Draft, old_order: Order) -> None:
    """Count an order's outcome once, at its first fill or its end.

    An acceptance is no outcome: the venue may still reject the order. Foreign orders, resting stops and calls to close
    a position do not count. `old_order` is the order before the news.
    """
    order = draft.find_order(old_order.client_order_id)
    assert order is not None
    if _has_fate(old_order) or not _has_fate(order) or order.purpose in ("foreign", PROTECTION) or order.closing:
        return
    note_outcome(draft, rejected=order.status == REJECTED)


def note_outcome(draft: Draft, *, rejected: bool) -> None:
    """Count the outcome of an order; too many rejections halt. Rejections in a halt, of exits only, do not count."""
    limits = draft.trading.risk
    if rejected and draft.risk.halt is not None:
        return
    draft.risk = replace(draft.risk, outcomes=(*draft.risk.outcomes, rejected)[-limits.reject_rate_orders :])
    rate = reject_rate(draft.risk, limits)
    if rate is not None and rate >= limits.reject_rate_max:
        draft.halt("reject_rate", f"{rate:.2f} of the last {limits.reject_rate_orders} orders were rejected")


def _has_fate(order: Order) -> bool:
    return order.filled > 0 or not order.working


def look_up_overdue(draft: Draft) -> None:
    """Look up every order whose news is overdue: unknown, or its cancel unanswered; not those still in our queue.

    An order that the broker reported as unknown is looked up once a minute: the answer hardly changes.
    """
    look_up_ns = draft.trading.broker.look_up_s * SECOND_NS
    for order in tuple(draft.orders.values()):
        if order.status not in _AWAITED or order.in_hand:
            continue
        limit_ns = max(look_up_ns, MINUTE_NS) if order.absent else look_up_ns
        if draft.now_ns - max(order.news_ns, order.looked_up_ns) >= limit_ns:
            draft.look_up(order)


def note_trading(draft: Draft, symbol: str, *, halted: bool, reason: str = "") -> None:
    """Note that an exchange halted a share, or that it trades again; repeated news changes nothing."""
    session = draft.session
    lasting = session.trading_halt(symbol)
    if halted == (lasting is not None):
        return
    halt = TradingHalt(draft.now_ns, reason) if lasting is None else replace(lasting, until_ns=draft.now_ns)
    halts = {} if isinstance(session.trading_halts, UnsetType) else session.trading_halts
    draft.session = replace(session, trading_halts={**halts, symbol: halt})


TAKEN = "another connection has the account's order news, maybe this desk on another host: what is held is kept"


def check_blind(draft: Draft) -> None:
    """Check in a session for lost data: report a desk that stays unreconciled, and apply `on_blind`.

    `on_blind` applies with a position open and bars, quotes or reconciliation lost for too long. A desk that decides
    once a session needs no bars meanwhile, and raises an alarm where other desks sell for want of quotes. A symbol in a
    trading halt is not lost: it can neither be quoted nor sold. Nothing is lost while a recent report has the broker's
    market closed. While another connection has the account's order news nothing is sold: it may be this very desk on
    another host, which trades what it holds.
    """
    session, rules = draft.session.session, draft.trading.broker
    if draft.identity.by_tape or session is None or draft.session.ended:
        return  # a tape is never lost
    if not session.open_ns <= draft.now_ns < session.close_ns:
        return
    since_ns = max(session.open_ns, draft.broker.started_ns, draft.broker.opened_ns or 0)  # a start needs some time
    _report_no_agreement(draft, since_ns)
    if draft.broker.closed and draft.now_ns - draft.broker.asked_ns < _reports_ns(draft):
        return
    positions = [draft.book.positions[symbol] for symbol in draft.desk.holds.risk_symbols(draft)]
    if not positions:
        return
    if wide := wide_options(draft, draft.now_ns - rules.blind_min * MINUTE_NS, since_ns):
        detail = f"quotes of {', '.join(wide)} are too wide for {rules.blind_min} minutes: stops use the model's price"
        draft.alarm("blind", detail, once=True, about="wide")
    trading = positions
    if draft.session.trading_halts:
        trading = [position for position in positions if draft.session.trading_halt(root_of(position.symbol)) is None]
    lost_data, blind_positions = _find_lost_data(draft, trading, since_ns, since_ns)
    if not lost_data:
        return
    at_once = not draft.desk.decides.rebalances
    detail = _lost_text(draft, lost_data, blind_positions or positions)
    taken = draft.broker.taken is True
    if taken:
        detail += f"; {TAKEN}"
    if rules.on_blind == "flatten" and at_once and not taken:
        draft.halt("blind", detail)
    elif rules.on_blind == "hold" or (rules.on_blind == "flatten" and at_once):
        draft.halt("blind_hold", detail)
    else:  # of many holdings now these are unseen, now those: one alarm
        draft.alarm("blind", detail, once=True, about=wording(detail) if at_once else " and ".join(lost_data))


def blindness(draft: Draft) -> str:
    """Return which data on held positions is missing, "" when enough is there; new risk waits for it.

    After an open the first quotes have the same time as in `check_blind`. A start gives them none: positions without
    quotes before it stay so until quotes come.
    """
    session = draft.session.session
    if draft.identity.by_tape or session is None or not session.open_ns <= draft.now_ns < session.close_ns:
        return ""
    positions = [draft.book.positions[symbol] for symbol in draft.desk.holds.risk_symbols(draft)]
    if not positions:
        return ""
    lost_data, blind_positions = _find_lost_data(
        draft, positions, max(session.open_ns, draft.broker.started_ns), session.open_ns
    )
    if lost_data:
        return _lost_text(draft, lost_data, blind_positions or positions)
    wide = wide_options(draft, draft.now_ns - draft.trading.broker.blind_min * MINUTE_NS, session.open_ns)
    return f"quotes of {', '.join(wide)} are too wide" if wide else ""


def _find_lost_data(
    draft: Draft, positions: list[Position], since_ns: int, quoted_since_ns: int
) -> tuple[list[str], list[Position]]:
    """Return the data lost for `blind_min` minutes, and positions without quotes; earlier times do not count."""
    limit_ns, at_once = draft.trading.broker.blind_min * MINUTE_NS, not draft.desk.decides.rebalances
    lost_data = []
    if at_once and positions and draft.now_ns - _bar_due_ns(draft, positions, since_ns) >= limit_ns:
        lost_data.append("bars")
    by_minute_ns = _reports_ns(draft)
    quoted_ns = limit_ns if at_once else by_minute_ns
    late_ns = draft.now_ns - quoted_ns
    blind_positions = [] if quoted_since_ns > late_ns else [one for one in positions if _is_unseen(draft, one, late_ns)]
    if blind_positions and (at_once or _hides_a_limit(draft, positions, blind_positions)):
        lost_data.append("quotes")
    else:
        blind_positions = []
    agreed_ns = max(draft.broker.agreed_ns, draft.broker.sighted_ns)  # positions are known, whatever the cash is
    if draft.broker.account and draft.now_ns - max(agreed_ns, since_ns) >= by_minute_ns:
        lost_data.append("reconciliation")
    return lost_data, blind_positions


def _reports_ns(draft: Draft) -> int:
    """Return the age at which a report no longer counts, so that reconciliation is lost."""
    return max(draft.trading.broker.blind_min * MINUTE_NS, ONCE_A_MINUTE_NS)


def _lost_text(draft: Draft, lost_data: list[str], positions: list[Position]) -> str:
    held_text = while_held([position.symbol for position in positions])
    return f"{' and '.join(lost_data)} lost for {draft.trading.broker.blind_min} minutes {held_text}"


def _bar_due_ns(draft: Draft, positions: list[Position], since_ns: int) -> int:
    """Return when the next bar of what is held was due: the newest bar's end, plus a bar's width less a minute."""
    newest = draft.basket.newest  # where a desk has several symbols
    bar_ns = min(newest.get(position.symbol, 0) for position in positions) if newest else draft.session.last_bar_ns
    interval_ns = draft.spec.bar_interval_s * SECOND_NS
    since_ns = max(since_ns, *(draft.session.reopened_ns(root_of(position.symbol)) for position in positions))
    return max(bar_ns + interval_ns, since_ns) + interval_ns - MINUTE_NS


def _hides_a_limit(draft: Draft, positions: list[Position], blind_positions: list[Position]) -> bool:
    """Return True where positions without quotes are worth so much that their fall could reach a loss limit unseen.

    A single stock of a basket that is halted, or seldom quoted, does not hide one.
    """
    limits, equity = draft.trading.risk, draft.book.equity
    hidden, worth = (sum((_worth_usd(draft, one) for one in some), ZERO) for some in (blind_positions, positions))
    limit = Decimal(str(min(limits.daily_loss_max, limits.drawdown_max))) * equity
    return hidden >= min(limit, worth / 2)


def _worth_usd(draft: Draft, position: Position) -> Decimal:
    """Return the position's worth at its last known price, or what was paid."""
    price = draft.marks.get(position.symbol)
    return position.cost if price is None else abs(worth_at(position, price))


def _is_unseen(draft: Draft, position: Position, since_ns: int) -> bool:
    """Return whether it was not quoted after that time, nor opened (or taken over), nor did a halt of it end.

    Nor did a corporate action drop its quote: the first of the new shares needs some time.
    """
    quote = draft.quotes.get(position.symbol)
    if quote is not None and quote.quoted_ns > since_ns:
        return False  # most of the time
    session, symbol = draft.session, position.symbol
    return max(position.opened_ns, session.reopened_ns(root_of(symbol)), session.requoted_ns(symbol)) <= since_ns


def _report_no_agreement(draft: Draft, from_ns: int) -> None:
    """Report once a session that book and broker differ, and each order whose state stays unknown in any case."""
    late_ns = draft.now_ns - UNRECONCILED_NS
    if from_ns > late_ns:
        return
    open_orders = [order for order in draft.orders.values() if order.status in (SUBMITTED, UNKNOWN)]
    late_orders = [order.client_order_id for order in open_orders if order.submitted_ns <= late_ns]
    if not late_orders and (draft.risk.reconciled or draft.broker.agreed_ns > late_ns):
        return
    suspicion = draft.broker.suspicion
    late_texts = [f"the broker has not answered for {order_id}" for order_id in late_orders]
    words = [*(suspicion.differences if suspicion else ()), *late_texts] or ["no report agreed"]
    text = f"for {UNRECONCILED_NS // MINUTE_NS} minutes or more: {'; '.join(words)}"
    draft.alarm("unreconciled", text, once=True, about=" ".join(late_orders))


def reached_stop(position: Position, quote: Quote, sizing: Sizing) -> str:
    """Return the rule that leaves the position by the quote's range, "" for none.

    When a stop and the target are reached, the stop counts; of two stops the higher one, which the price reached first.
    """
    average = float(position.cost) / float(position.quantity)
    level, trail = average * (1.0 - sizing.stop_loss), trail_of(position, sizing)
    if float(quote.low) <= max(level, trail) + TOUCH_USD:
        return "trailing_stop" if trail > level else "stop_loss"
    if float(quote.high) >= average * (1.0 + sizing.take_profit) - TOUCH_USD:
        return "take_profit"
    return ""


def high_of(position: Position) -> Decimal:
    """Return the highest price in USD since the entry: a mark, or the price paid where none was above it."""
    average = position.cost / position.quantity
    return average if isinstance(position.high, UnsetType) else max(position.high, average)


def trail_of(position: Position, sizing: Sizing) -> float:
    """Return the price in USD at which the trailing stop leaves; 0.0 where there is none."""
    return float(high_of(position)) * (1.0 - sizing.trailing_stop) if sizing.trailing_stop else 0.0


def risk_view(draft: Draft) -> RiskView:
    """Return the gates' view of the draft."""
    return RiskView(
        now_ns=draft.now_ns,
        identity=draft.identity,
        limits=draft.trading.risk,
        execution=draft.trading.execution,
        session=draft.session,
        grid=draft.desk.grid,
        risk=draft.risk,
        model=draft.model,
        book=draft.book,
        orders=orders_for_gates(draft) if draft.orders else draft.orders,
        quotes=draft.quotes,
        basket=draft.trading.basket,
        symbols=draft.spec.symbols,
        marks=draft.marks,
        splits=draft.basket.splits,
        blocked=draft.broker.blocked,
        closed=draft.broker.closed,
        spendable=spendable(draft),
        deficit=deficit(draft.broker.funds),
        overnight=draft.desk.overnight,
        blind=blindness(draft) if draft.book.positions else "",
        cost_rate=cost_rate(draft),
        disputed=draft.broker.owners.disputed,
        foreign_held=draft.broker.foreign_held,
        claim=draft.claim,
    )


def orders_for_gates(draft: Draft) -> dict[str, Order]:
    """Return the orders that gates see: without resting stops, which are cancelled before anything is sent."""
    if not draft.rests():
        return draft.orders
    return {name: order for name, order in draft.orders.items() if order.purpose != PROTECTION}


def cost_rate(draft: Draft) -> Decimal:
    """Return the cost rate added to the price of a buy: the paper broker's rate, 0 at a real broker."""
    return ZERO if draft.identity.mode in BROKER_MODES else draft.trading.paper.share_cost_rate


ASK_AGAIN_NS = 10 * SECOND_NS


def is_cash_account(funds: Funds | None) -> bool:
    """Return True for an account without credit, in which proceeds must settle before they pay."""
    return funds is not None and funds.multiplier is not None and funds.multiplier <= 1


def spendable(draft: Draft) -> Decimal | None:
    """Return USD that new buys may cost: the last report's figure less the buys since; None without a usable figure.

    After a fill since the report a margin account's figure is not usable. A cash account's stays until the next report.
    """
    funds = draft.broker.funds
    if funds is None or draft.identity.mode not in BROKER_MODES:
        return None
    figure = draft.desk.holds.spendable(funds)
    if figure is None or (draft.broker.filled and not is_cash_account(funds)):
        return None
    newer_orders = [order for order in (*draft.orders.values(), *draft.closed.values()) if _is_newer(draft, order)]
    return figure - sum((_buy_cost(draft, order) for order in newer_orders), ZERO)


def _is_newer(draft: Draft, order: Order) -> bool:
    """Return True for a buy of ours that the report cannot include."""
    return order.side > 0 and order.purpose != "foreign" and order.submitted_ns >= draft.broker.asked_ns


def _buy_cost(draft: Draft, order: Order) -> Decimal:
    """Return what the buy cost and may still cost."""
    open_cost = (order.limit_price or ZERO) * order.remaining if order.working else ZERO
    return (order.cost + open_cost) * draft.desk.holds.multiplier


def awaits_proceeds(draft: Draft) -> bool:
    """Return True while a newer report may let the account spend more; request one.

    So after a sale in a cash account, and after a buy that ended unfilled, whose cash the figure still excludes.
    """
    broker = draft.broker
    awaits_sale = broker.filled and is_cash_account(broker.funds)
    if not (awaits_sale or any(_kept_cash(draft, order) for order in draft.closed.values())):
        return False
    if draft.now_ns - broker.asked_ns >= ASK_AGAIN_NS:
        draft.effects.append(AskBroker("how much of what was sold, or kept for a buy, may be spent?"))
    return True


def _kept_cash(draft: Draft, order: Order) -> bool:
    """Return True for a buy that worked when the newest report was requested and ended since with a part unfilled."""
    unfilled = order.side > 0 and order.filled < order.quantity
    return unfilled and order.submitted_ns < draft.broker.asked_ns <= order.news_ns


def deficit(funds: Funds | None) -> Decimal:
    """Return USD by which the equity is below the broker's margin requirement; 0 otherwise."""
    if funds is None or funds.equity is None or funds.maintenance is None:
        return ZERO
    return max(funds.maintenance - funds.equity, ZERO)
