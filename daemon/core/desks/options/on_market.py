"""What market events do to the draft: sessions, chains, quotes, and what a bar lets the strategy and the policy see.

Bars are observed when their quotes arrive (they come in by `daemon.core.desks.options.on_bars`). Rows once emitted are
never rebuilt.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core.book import begin_session, mid
from daemon.core.desks.options.execution import request_exit
from daemon.core.draft import Draft
from daemon.core.effects import AskPolicy, WatchContracts
from daemon.core.events import (
    ContractsListed,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.instruments.contracts import candidates, choose_expiry
from daemon.core.records import DecisionRow
from daemon.core.risk.guards import revalue, stop_reached
from daemon.core.risk.marks import for_stop, guarded, marked, take_quotes
from daemon.core.risk.view import MINUTE_NS, SECOND_NS
from daemon.core.session import flat_by_ns, flatten_from_ns
from daemon.core.state import Ask, Position
from strategies.kit.contract import View

ROW_BYTES = 4  # a float32
FOREIGN_DAYS_NS = 4 * 24 * 60 * MINUTE_NS  # orders of others are told again for two days after a start: remember longer


def on_session_scheduled(draft: Draft, event: SessionScheduled) -> None:
    """A new session: its limits start afresh. The same session again (after a restart) only refreshes the calendar."""
    known = draft.session.session
    if known is not None and known.date == event.session.date:
        draft.session = replace(draft.session, session=event.session, upcoming=event.upcoming)
        return
    draft.session = replace(
        draft.session,
        session=event.session,
        upcoming=event.upcoming,
        starts=(),
        warm=False,
        ended=False,
        previous=event.previous[-1].date if event.previous else known.date if known is not None else "",
    )
    last = {work.order_id for work in draft.works.values()}
    old_ns = draft.now_ns - FOREIGN_DAYS_NS
    draft.closed = {
        name: order
        for name, order in draft.closed.items()
        if name in last or (order.purpose == "foreign" and order.submitted_ns > old_ns)
    }
    if draft.broker.foreign:
        kept = {n: o for n, o in draft.broker.foreign.items() if o.working or o.submitted_ns > old_ns}
        draft.broker = replace(draft.broker, foreign=kept)
    draft.risk = replace(draft.risk, order_times=(), orders_today=0, alarms=())
    draft.book = begin_session(draft.book)
    draft.chain = None
    used = {*draft.book.positions, *(order.symbol for order in draft.orders.values())}
    draft.wanted = {symbol: goal for symbol, goal in draft.wanted.items() if symbol in used}


def on_contracts_listed(draft: Draft, event: ContractsListed) -> None:
    session = draft.session.session
    if session is None or event.session_date != session.date:
        return
    draft.chain = choose_expiry(event, session, draft.session.upcoming, draft.trading.contracts)
    watch(draft)


def on_quotes(draft: Draft, event: QuotesReceived) -> None:
    """Marks, stops, the loss limits; then the bar that these quotes close is observed."""
    quotes = take_quotes(draft, event.quotes)
    if quotes and draft.book.positions:
        revalue(draft)
        for quote in quotes:
            _check_stop(draft, draft.book.positions.get(quote.symbol), quote, event.closes_bar_ns)
    if event.closes_bar_ns and draft.pending_bars and draft.pending_bars[0].start_ns == event.closes_bar_ns:
        observe(draft)


def _check_stop(draft: Draft, position: Position | None, quote: Quote, bar_ns: int) -> None:
    seen = for_stop(draft, quote)
    if position is None or not position.right or seen is None:
        return
    if position.opened_ns > bar_ns > 0 and not guarded(draft):  # opened within this bar: its range was partly before
        seen = replace(seen, low=mid(quote), high=mid(quote))
    sizing = draft.trading.sizing
    reason = stop_reached(position, seen, sizing.stop_loss, sizing.take_profit)
    if reason:
        exit_by_rule(draft, position.symbol, reason)


def exit_by_rule(draft: Draft, symbol: str, reason: str, goal: int = 0) -> None:
    """Leave the position, down to `goal`, for a reason that is not the policy's; recorded as a decision of its own."""
    number = draft.decision + 1
    if request_exit(draft, number, symbol, goal, reason):
        draft.decision = number
        work = draft.exit_of(symbol)
        draft.records.append(
            DecisionRow(
                decision=number,
                kind="rule",
                bar_ns=draft.session.last_bar_ns,
                time_ns=draft.now_ns,
                action=reason,
                resolved="EXIT",
                work=work.key if work else None,
                outcome="exit",
            )
        )


def observe(draft: Draft, *, ask: bool = True) -> None:
    """Let the strategy see the pending bars; ask the policy when it is warm, in session and the bar young enough.

    Without `ask` the strategy only sees them.
    """
    bars, spec = draft.pending_bars, draft.machine.spec
    draft.pending_bars = ()
    bar_end_ns = bars[0].start_ns + spec.bar_interval_s * SECOND_NS
    draft.strategy, observation = draft.machine.observe(draft.strategy, bars, view_at(draft, bar_end_ns))
    if draft.book.positions or len(draft.session.starts) == 1:
        draft.record_equity()
    warm = observation is not None
    if warm != draft.session.warm:
        draft.session = replace(draft.session, warm=warm)
    late = draft.now_ns - bar_end_ns > draft.trading.risk.stale_bar_s * SECOND_NS
    if observation is None or late or draft.session.ended or not ask:
        return
    if draft.ask is not None:
        draft.end_unanswered(draft.ask, "expired")
    draft.decision += 1
    valid_until = draft.now_ns + draft.trading.execution.policy_valid_s * SECOND_NS
    row = observation.data[-ROW_BYTES * len(spec.features) :]
    draft.ask = Ask(draft.decision, bars[0].start_ns, valid_until, row)
    draft.effects.append(AskPolicy(draft.decision, valid_until, observation))


def view_at(draft: Draft, now_ns: int) -> View:
    """What the strategy may know at `now_ns`: side, return and age of the one option position."""
    session = draft.session.session
    if session is None:
        raise ValueError("a view needs a session; SessionScheduled precedes every bar")
    position = draft.holding
    if position is None:
        return View(now_ns, session)
    price = marked(draft, position.symbol)
    gain = 0.0 if price is None or not position.cost else float(price * position.quantity / position.cost) - 1.0
    age = max(now_ns - position.opened_ns, 0) / MINUTE_NS
    return View(now_ns, session, position.right, gain, age)


def on_session_ended(draft: Draft, event: SessionEnded) -> None:
    """The running session is over; the end of another one changes nothing."""
    if draft.session.session is None or draft.session.session.date != event.date:
        return
    if draft.pending_bars:
        observe(draft)
    if draft.doubted is not None:
        draft.count_rejected("leap", draft.doubted.symbol)
        draft.doubted = None
    draft.session = replace(draft.session, ended=True)
    if draft.ask is not None:
        draft.end_unanswered(draft.ask, "expired")
    draft.record_equity()


def option_symbols(draft: Draft) -> list[str]:
    """The options held."""
    return [symbol for symbol, position in draft.book.positions.items() if position.right]


def risked_symbols(draft: Draft) -> list[str]:
    """What a desk leaves when it leaves all: its options, or a daily desk's shares of its own symbols."""
    if draft.daily is None:
        return option_symbols(draft)
    return [s for s, p in draft.book.positions.items() if p.quantity > 0 and s in draft.machine.spec.symbols]


def flatten_when_due(draft: Draft) -> None:
    """On any event past the deadline: leave every option position before the close; late ones raise an alarm.

    A halt for the daily loss (where configured) or to flatten, and a stop that leaves positions, leave them at once,
    also what still fills after it.
    """
    session = draft.session.session
    if session is None or draft.session.ended:
        return
    rules, halted = draft.trading.execution, draft.risk.halt
    if halted is not None and draft.leaves_all():
        for symbol in risked_symbols(draft):
            exit_by_rule(draft, symbol, halted.reason)
    if draft.risk.stop_flat:
        for symbol in risked_symbols(draft):
            exit_by_rule(draft, symbol, "stop")
    if draft.daily is not None:  # its shares stay overnight
        return
    for symbol, position in tuple(draft.book.positions.items()):
        if not position.right:
            if draft.trading.broker.exercised_shares == "close":
                exit_by_rule(draft, symbol, "shares_from_exercise")
        elif position.opened_ns < session.open_ns <= draft.now_ns:
            exit_by_rule(draft, symbol, "held_overnight")
        elif draft.now_ns >= flatten_from_ns(session, position.expiry, rules):
            exit_by_rule(draft, symbol, "flat_before_close")
            if draft.now_ns > flat_by_ns(session, position.expiry, rules):
                detail = f"{symbol}: {position.quantity} contracts held past the deadline"
                draft.alarm("not_flat", detail, once=True, about=symbol)


def watch(draft: Draft) -> None:
    """Keep the candidate call and put, and what is held or worked on, subscribed; of all ordered, the description."""
    chosen = candidates(draft.chain, draft.session, draft.now_ns, draft.trading.contracts) if draft.chain else ()
    symbols = tuple([contract.symbol for contract in chosen])
    if draft.book.positions or draft.orders or draft.works:
        at_work = [order.symbol for order in draft.orders.values()] + [work.symbol for work in draft.works.values()]
        symbols = tuple(dict.fromkeys((*symbols, *option_symbols(draft), *at_work)))
    if symbols == draft.watched:
        return
    ordered = {order.symbol for order in draft.closed.values()}
    known = {**draft.contracts, **{c.symbol: c for c in chosen}}
    draft.contracts = {s: c for s, c in known.items() if s in symbols or s in ordered}
    draft.quotes = {s: q for s, q in draft.quotes.items() if s in symbols}
    draft.watched = symbols
    draft.effects.append(WatchContracts(symbols))
