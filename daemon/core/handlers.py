"""Handlers of every desk but those of bars, quotes and orders: start, commands, sessions, clock, ladder, shadow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.book import begin_session, limits_reset
from daemon.core.broker.exits import exit_by_rule
from daemon.core.broker.fills import clamp_times, is_ours
from daemon.core.broker.foreign import settle_disputes
from daemon.core.broker.protection import is_guarded, lift_fence, lift_fence_at_start
from daemon.core.broker.sending import has_lapsed
from daemon.core.draft import BY_OPERATOR, CLOSED_BY_HAND, EXIT, Draft, names_of, while_held, wording
from daemon.core.effects import AskBroker
from daemon.core.events import ClockReset, SessionScheduled, ShadowAnswered, ShadowFailed
from daemon.core.instruments.option_market import meant_by, root_of
from daemon.core.moves import Cause
from daemon.core.orders import FENCE, Order, Work, advance
from daemon.core.records import ShadowRow
from daemon.core.risk.claim import forgive, note_model
from daemon.core.risk.guards import check_blind, loss_to_reset, note_trading
from daemon.core.risk.marks import fetch_equity
from daemon.core.session import week_of
from daemon.core.state import (
    BROKER_MODES,
    EVERY_SYMBOL,
    TAPE_MODES,
    BrokerState,
    Halt,
    LadderState,
    Model,
    Pause,
    RiskState,
    ShadowState,
)
from strategies.kit.contract import Answer
from strategies.kit.quantity import Quantity
from strategies.kit.units import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS

ACCEPT = "rltraderctl accept-broker --reason TEXT"
RESET = "rltraderctl resume --reset-limits --reason TEXT"
BY_ACCEPTING = frozenset(("short_position", "reconciliation", "fill_mismatch", "cash_difference"))
"""Halts that end for good only after the book took over the broker's report."""
COMMANDED = frozenset(("operator", "flatten"))
"""Halts commanded by a person."""
SEEN = "to end it too, add --seen {}"
LOOKED_NS = MINUTE_NS  # another person's newer command may be unknown to the one who resumes


def on_run_started(draft: Draft, event: ev.RunStarted) -> None:
    draft.trading = event.trading
    draft.risk = replace(draft.risk, stopping="", stop_flat=False)
    draft.broker = replace(draft.broker, expected=event.account_number)
    if event.mode not in TAPE_MODES:  # a real broker may have moved on; the replay's market lives in this journal
        draft.broker = replace(draft.broker, started_ns=draft.now_ns)
        draft.risk = replace(draft.risk, reconciled=False)
        draft.session = replace(draft.session, trading_halts=UNSET)  # the stream that reported them is gone
    if event.mode in BROKER_MODES:
        for order in tuple(draft.orders.values()):
            if order.in_hand:  # its process is gone: whether the order left is unknown
                draft.put_order(advance(order, "unknown"))
        lift_fence_at_start(draft)


def on_code_changed(draft: Draft, event: ev.CodeChanged) -> None:
    """Take over what other code left: exits go on, new risk waits for a person."""
    draft.decision = max(draft.decision, event.decision)
    if event.damaged:
        draft.halt("journal_damaged", event.detail)
    else:
        draft.halt("code_changed", event.detail)


def on_model_verified(draft: Draft, event: ev.ModelVerified) -> None:
    draft.model = Model(event.version, event.promoted, event.feed)
    note_model(draft, event.version, event.claim)


def on_model_refused(draft: Draft, event: ev.ModelRefused) -> None:
    draft.model = None
    draft.alarm("model_refused", event.reason)


def on_clock_ticked(draft: Draft, _: ev.ClockTicked) -> None:
    """Act on data or a reconciliation that is missing for too long."""
    check_blind(draft)


def on_halt(draft: Draft, event: ev.HaltRequested) -> None:
    draft.halt(event.reason, f"{event.detail} (by {event.who})")
    if event.strategy:
        draft.risk = replace(draft.risk, strategy_off=True)
        if draft.ask is not None:
            draft.end_question(draft.ask, "expired")


def on_resume(draft: Draft, event: ev.ResumeRequested) -> None:
    """End halt and pause. The limits go on counting the whole day and drawdown, unless the command resets them."""
    if not event.reason.strip():
        draft.alarm("resume_refused", "a resume must state its reason")
        return
    if draft.broker.stood_down and not draft.broker.accept_ns:
        draft.alarm("resume_refused", f"after a panic the broker's word comes first: {ACCEPT}")
        return
    if event.scope and (why := _beyond_scope(draft)):
        draft.alarm("resume_refused", f"a key of scope {event.scope} ends no halt {why}")
        return
    if late := _news_since_look(draft, event):
        draft.alarm("resume_refused", late)
        return
    if event.reset_limits:
        draft.put_book(limits_reset(draft.book, fetch_equity(draft, draft.book)))
        draft.risk = replace(draft.risk, consecutive_losses=0)
    elif loss := loss_to_reset(draft):
        draft.alarm("resume_refused", f"the limit {loss} is reached, and a resume does not forget the loss: {RESET}")
        return
    draft.end_halts()
    draft.risk = replace(draft.risk, pause=None, outcomes=(), strategy_off=False)
    draft.case_over(*BY_ACCEPTING)  # halts behind the first one ended with it
    forgive(draft)
    if FENCE in draft.broker.blocked and is_guarded(draft):
        lift_fence(draft)
    settle_disputes(draft)


def _news_since_look(draft: Draft, event: ev.ResumeRequested) -> str:
    """Return why a cause of the halt began after the person looked, "" where none did.

    Without a time of looking, all counts as seen except another person's commands of the last minute.
    """
    risk, seen_ns = draft.risk, event.seen_ns
    if not isinstance(seen_ns, UnsetType):
        late = _new_reasons(draft, seen_ns, risk.halts, risk.pause)
        return f"it was asked for before this {'; '.join(late)}: look again" if late else ""
    since_ns = draft.now_ns - LOOKED_NS
    command_halts = [halt for halt in risk.halts if halt.reason in COMMANDED]
    halts = [h for h in command_halts if _by_another(h.detail, event.who) or (h.others_ns or since_ns) > since_ns]
    is_paused = risk.pause is not None and not risk.pause.until_ns and _by_another(risk.pause.reason, event.who)
    late = _new_reasons(draft, since_ns, halts, risk.pause if is_paused else None, claims=False)
    if not late:
        return ""
    return f"somebody else set this in the last minute: {'; '.join(late)}: look; {SEEN.format(draft.now_ns)}"


def _new_reasons(
    draft: Draft, seen_ns: int, halts: Sequence[Halt], pause: Pause | None, *, claims: bool = True
) -> list[str]:
    """Return which of these began after `seen_ns`, in words."""
    late = [f"halt: {halt.reason}: {halt.detail}" for halt in halts if (halt.again_ns or halt.since_ns) > seen_ns]
    if pause is not None:
        lasts_ns = draft.trading.risk.consecutive_losses_pause_min * MINUTE_NS
        late += [f"pause: {pause.reason}"] * ((pause.since_ns or pause.until_ns - lasts_ns) > seen_ns)
    if claims and not isinstance(draft.claim, UnsetType):
        broken_claims = draft.claim.broken.items()
        late += [f"broken claim: {version}: {it.detail}" for version, it in broken_claims if it.since_ns > seen_ns]
    return late


def _by_another(words: str, sender: str) -> bool:
    """Return whether the command in `words` came from another person, over any channel."""
    person = sender.partition("/")[2] or sender
    return not words.endswith((f"(by {person})", f"/{person})"))


def _beyond_scope(draft: Draft) -> str:
    """Return why a key with a scope may not end the halts, "" where it may; halts behind the first one count too."""
    reasons = {halt.reason for halt in draft.risk.halts}
    if waits_for_broker(draft.broker, draft.risk) or not BY_ACCEPTING.isdisjoint(reasons):
        return f"that waits for the broker's word: on the host, {ACCEPT}, then rltraderctl resume"
    return "after a panic: on the host, rltraderctl resume" if "panic" in reasons else ""


def waits_for_broker(broker: BrokerState, risk: RiskState) -> bool:
    """Return whether the book has to take over the broker's report first, or is about to."""
    accepted_ns = max((it.again_ns or it.since_ns for it in risk.halts if it.reason == "accept_broker"), default=0)
    standing = broker.suspicion is not None and risk.halt is not None
    ends_so = [it for it in risk.halts[:1] if it.reason in BY_ACCEPTING and (it.again_ns or it.since_ns) > accepted_ns]
    return bool(broker.accept_ns or broker.stood_down or standing or ends_so)


def on_pause(draft: Draft, event: ev.PauseRequested) -> None:
    draft.risk = replace(draft.risk, pause=Pause(f"{event.reason} (by {event.who})", 0, draft.now_ns))
    draft.end_trading()


def on_flatten(draft: Draft, event: ev.FlattenRequested) -> None:
    if draft.broker.stood_down and not draft.broker.follows_panic:
        draft.alarm("command_refused", f"flatten (by {event.who}): nothing is sent after a panic; first: {ACCEPT}")
        return
    draft.halt("flatten", f"{event.reason} (by {event.who})")
    for symbol in draft.desk.holds.leavable(draft):
        exit_by_rule(draft, symbol, BY_OPERATOR)


def on_close(draft: Draft, event: ev.CloseRequested) -> None:
    """Sell a part of one position, or all of it; the policy does not buy the symbol in this session."""
    symbols = meant_by(event.symbol, draft.book.positions)
    symbol = symbols[0] if len(symbols) == 1 else event.symbol
    quantity = draft.held(symbol)
    if draft.broker.stood_down and not draft.broker.follows_panic:
        _refuse_close(draft, symbol, event.who, f"nothing is sent after a panic; first: {ACCEPT}")
        return
    if not quantity or (quantity < 0 and draft.desk.holds.by_basket):
        meant = [draft.book.positions[name] for name in symbols] or draft.book.positions.values()
        holdings_text = names_of([f"{p.quantity} {p.symbol}" for p in meant]) or "nothing"
        cure = f"; it buys no shares back: buy them at the broker, then {ACCEPT}" if quantity else ""
        _refuse_close(draft, symbol, event.who, f"this desk holds {holdings_text}{cure}")
        return
    if has_lapsed(draft, symbol):
        _refuse_close(draft, symbol, event.who, "its last session is over: the broker's ledger ends it")
        return
    goal: Quantity = max(abs(quantity) - event.quantity, 0) if event.quantity else 0
    if goal % 1 and event.quantity % 1 and not draft.divides(symbol):
        whole = "contracts are whole" if draft.contract_of(symbol) is not None else f"{symbol} trades whole here"
        why = f"quantity is {event.quantity}, and {whole}: name a whole number, or none for all"
        _refuse_close(draft, symbol, event.who, why)
        return
    session = draft.session.session
    over = session is None or draft.session.ended or draft.now_ns >= session.close_ns
    date = "" if session is None or over else session.date  # overnight, the next session's
    closed_by_symbol = draft.risk.closed_by_hand
    draft.risk = replace(draft.risk, by_hand={**closed_by_symbol, root_of(symbol): date})
    if exit_by_rule(draft, symbol, CLOSED_BY_HAND, goal) or closed_by_symbol.get(root_of(symbol)) != date:
        return
    if (work := draft.exit_of(symbol)) is not None:
        why = f"{abs(quantity) - work.goal} of {quantity} {symbol} leave already: ask again once they are sold"
        _refuse_close(draft, symbol, event.who, why)


def _refuse_close(draft: Draft, symbol: str, sender: str, why: str) -> None:
    draft.alarm("command_refused", f"close {symbol} (by {sender}): {why}")


def _still_by_hand(draft: Draft) -> dict[str, str] | UnsetType:
    """Return what a person closed for the session that begins: overnight, before it was known, or not sold yet.

    A session announced after its end, because no daemon ran, does not count: nothing was bought in it.
    """
    session = draft.session.session
    if session is None:
        return UNSET
    date = session.date if draft.now_ns < session.close_ns else ""
    leaving = {root_of(work.symbol) for work in draft.works.values() if work.purpose == EXIT}
    closed_by_symbol = draft.risk.closed_by_hand
    return {symbol: date for symbol, former in closed_by_symbol.items() if not former or symbol in leaving} or UNSET


def on_panic(draft: Draft, event: ev.PanicNoticed) -> None:
    """Send nothing more, exits included, while a panic runs: it flattens the account, and the book is outdated.

    An earlier acceptance of the broker's report does not hold after the panic.
    """
    draft.halt("panic", event.detail)
    draft.works = {}
    for name, order in draft.orders.items():
        if order.purpose != "foreign":
            draft.cancel(name)
    draft.broker = replace(draft.broker, stood_down=True, accept_ns=0, panic_failed_ns=0)


def on_panic_failed(draft: Draft, event: ev.PanicFailed) -> None:
    """Close what is the desk's own, after a report from now on; not where a person has resolved it meanwhile."""
    if not draft.broker.stood_down or draft.broker.accept_ns:
        return
    draft.broker = replace(draft.broker, panic_failed_ns=draft.now_ns)
    draft.alarm("panic_failed", f"{event.detail}; this desk closes what is its own")
    draft.effects.append(AskBroker("a panic failed", at_once=True))


def on_stop(draft: Draft, event: ev.StopRequested) -> None:
    """Stop: no new risk until the next start; positions are left if requested."""
    draft.risk = replace(draft.risk, stopping=event.reason, stop_flat=event.flatten)
    draft.end_trading(leaving=event.flatten)


def on_model_promoted(draft: Draft, event: ev.ModelPromoted) -> None:
    draft.model = Model(event.version, event.promoted, event.feed)
    note_model(draft, event.version, event.claim)


def on_candidate_refused(draft: Draft, event: ev.CandidateRefused) -> None:
    if event.known is UNSET:
        draft.alarm("candidate_refused", f"{event.version}: {event.reason}")


def on_command_refused(draft: Draft, event: ev.CommandRefused) -> None:
    draft.alarm("command_refused", f"{event.channel}: {event.reason}")


def on_trouble(draft: Draft, event: ev.TroubleNoticed) -> None:
    """Raise the alarm once an hour for each case: its end is not noticed here, and it may come again."""
    draft.alarm(event.name, event.detail, once=True, about=f"{draft.now_ns // HOUR_NS} {wording(event.detail)}")


def on_bar_rejected(draft: Draft, event: ev.BarRejected) -> None:
    draft.count_bad_bar(event.reason, event.symbol)


def on_trading_status(draft: Draft, event: ev.TradingStatusChanged) -> None:
    note_trading(draft, event.symbol, halted=event.halted, reason=event.reason)


def on_nothing(_: Draft, __: ev.Event) -> None:
    """Do nothing: for events that concern another kind of desk or the shell only."""


NO_MODEL = "no_model"
UNANSWERED = frozenset((NO_MODEL, "configuration"))  # halts of a start
REPORTED_AGAIN_NS = 4 * DAY_NS  # reports repeat orders of two days before the last agreement: remember longer


def on_session_scheduled(draft: Draft, event: SessionScheduled) -> None:
    """Begin a new session with fresh limits. The same session again (after a restart) only refreshes the calendar."""
    former = draft.session.session
    if former is not None and former.date == event.session.date:
        draft.session = replace(
            draft.session,
            session=event.session,
            upcoming=event.upcoming,
            previous=event.previous[-1].date if event.previous else draft.session.previous,
            calendar_close_ns=UNSET,
        )
        draft.close_session_at(former.close_ns)
        return
    if former is not None and not draft.session.ended and draft.desk.decides.rebalances:
        draft.end_trading()  # its end was not reported: its basket is not traded in another session
    new_week = former is not None and week_of(former.date) != week_of(event.session.date)
    if refused := draft.basket.refused_fractions:
        # An asset's flag may change by the week, the account's setting any day: one order asks again.
        still = [symbol for symbol in refused if symbol != EVERY_SYMBOL and not new_week]
        draft.basket = replace(draft.basket, indivisible=tuple(still) or UNSET)
    draft.session = replace(
        draft.session,
        session=event.session,
        upcoming=event.upcoming,
        starts=(),
        warm=False,
        ended=False,
        previous=event.previous[-1].date if event.previous else former.date if former is not None else "",
        calendar_close_ns=UNSET,
        trading_halts=UNSET,
        untraded=UNSET,
        requoted=UNSET,
    )
    last = {work.order_id for work in draft.works.values()}
    old_ns = min(draft.now_ns, draft.broker.agreed_ns or draft.now_ns) - REPORTED_AGAIN_NS
    draft.closed = {
        name: order
        for name, order in draft.closed.items()
        if name in last or (_named_otherwise(draft, order) and order.submitted_ns > old_ns)
    }
    if draft.broker.foreign:
        foreign = {n: o for n, o in draft.broker.foreign.items() if o.working or o.submitted_ns > old_ns}
        draft.broker = replace(draft.broker, foreign=foreign)
    draft.risk = replace(draft.risk, order_times=(), orders_today=0, alarms=(), by_hand=_still_by_hand(draft))
    _report_no_answers(draft)
    draft.put_book(begin_session(draft.book))
    draft.chain = None
    symbols_in_use = {*draft.book.positions, *(order.symbol for order in draft.orders.values())}
    draft.wanted = {symbol: goal for symbol, goal in draft.wanted.items() if symbol in symbols_in_use}


def _named_otherwise(draft: Draft, order: Order) -> bool:
    """Return whether a report names an order differently than this desk: only the state knows what is booked.

    Those are orders of others and of the broker's own call, and stops rested by the guard.
    """
    return order.closing or order.purpose == "foreign" or not is_ours(draft, order.client_order_id)


def _report_no_answers(draft: Draft) -> None:
    """Raise an alarm in each session for positions held while the start was halted, whatever halts came before."""
    risk = draft.risk
    without = draft.model is None and (risk.strategy_off or risk.halt is None)
    of_a_start = next((halt for halt in risk.halts if halt.reason in UNANSWERED), None)
    if not draft.book.positions or not (without or of_a_start is not None):
        return
    halt = of_a_start or risk.halt
    held_text = while_held([f"{p.quantity} {p.symbol}" for p in draft.book.positions.values()])
    name = NO_MODEL if without or halt is None else halt.reason
    text = "no model answers" if without else "the start is halted"
    why = "it was resumed without one" if halt is None else halt.detail
    draft.alarm(name, f"{text} {held_text}: {why}")


T = TypeVar("T", bound=msgspec.Struct)


def on_clock_reset(draft: Draft, event: ClockReset) -> None:
    """Take `event.time_ns` as now. Orders, works and halts stay; no new risk until the next broker report."""
    ahead_ns = draft.now_ns - event.time_ns
    if not ahead_ns:
        draft.alarm("command_refused", f"reset-clock (by {event.who}): the desk's time is not ahead of the true time")
        return
    draft.alarm("clock_reset", f"by {ahead_ns / SECOND_NS:.1f} s: {event.reason} (by {event.who})")
    now_ns = draft.now_ns = event.time_ns
    draft.orders = {name: _past(order, now_ns) for name, order in draft.orders.items()}
    draft.closed = {name: _past(order, now_ns) for name, order in draft.closed.items()}
    draft.works = {key: _past(work, now_ns) for key, work in draft.works.items() if not _by_time_alone(work)}
    draft.quotes = {symbol: _past(quote, now_ns) for symbol, quote in draft.quotes.items()}
    draft.leaps = {symbol: _past(leap, now_ns) for symbol, leap in draft.leaps.items()}
    draft.worths = {symbol: _past(worth, now_ns) for symbol, worth in draft.worths.items()}
    leapt = {symbol: min(seen_ns, now_ns) for symbol, seen_ns in draft.basket.leapt.items()}
    draft.basket = replace(draft.basket, leapt=leapt)
    positions = {symbol: _past(position, now_ns) for symbol, position in draft.book.positions.items()}
    with draft.because(Cause("clock_reset")):
        draft.put_book(replace(draft.book, positions=positions))
    draft.ask = None
    _lead_back_risk(draft)
    suspicion = draft.broker.suspicion
    draft.broker = _past(
        replace(draft.broker, suspicion=None if suspicion is None else _past(suspicion, now_ns)), now_ns
    )
    clamp_times(draft)
    _reopen_session(draft)
    draft.effects.append(AskBroker("the desk's time was led back"))


def _past(value: T, now_ns: int) -> T:
    """Return the struct with every time after now set to now."""
    times = {field: getattr(value, field) for field in value.__struct_fields__ if field.endswith("_ns")}
    return replace(value, **{field: min(at_ns, now_ns) for field, at_ns in times.items() if at_ns is not UNSET})


def _by_time_alone(work: Work) -> bool:
    """Return True for an exit requested because of the wrong time and not sent: it is requested again when due."""
    return work.reason == "flat_before_close" and not work.order_id


def _lead_back_risk(draft: Draft) -> None:
    risk, limits, now_ns = draft.risk, draft.trading.risk, draft.now_ns
    pause = risk.pause
    if pause is not None and pause.until_ns:
        longest_ns = now_ns + limits.consecutive_losses_pause_min * MINUTE_NS
        pause = Pause(pause.reason, min(pause.until_ns, longest_ns))
    elif pause is not None:
        pause = _past(pause, now_ns)
    draft.risk = _past(
        replace(
            risk,
            reconciled=False,
            alarms=(),
            pause=pause,
            halt=None if risk.halt is None else _past(risk.halt, now_ns),
            behind=tuple(_past(halt, now_ns) for halt in risk.halts[1:]) or UNSET,
            order_times=tuple(min(time_ns, now_ns) for time_ns in risk.order_times),
        ),
        now_ns,
    )
    if not isinstance(draft.claim, UnsetType):
        broken_claims = {version: _past(it, now_ns) for version, it in draft.claim.broken.items()}
        draft.claim = replace(draft.claim, broken=broken_claims)


def _reopen_session(draft: Draft) -> None:
    """Reopen a session that ended by the wrong time; drop bars from the future."""
    state, session = draft.session, draft.session.session
    state = replace(_past(state, draft.now_ns), starts=tuple(start for start in state.starts if start <= draft.now_ns))
    if session is not None and draft.now_ns < session.close_ns:
        state = replace(state, ended=False)
    draft.session = state


JUDGED_MAX = 200  # versions kept as not to be proposed again


def on_ladder_moved(draft: Draft, event: ev.LadderMoved) -> None:
    """Record the step. A version that leaves the ladder keeps its size until another one answers."""
    former = draft.ladder
    judged_versions = former.judged if isinstance(former, LadderState) else ()
    has_left = event.to_step in ("refused", "rolled_back", "champion")
    if has_left:
        judged_versions = (*(name for name in judged_versions if name != event.version), event.version)[-JUDGED_MAX:]
    draft.ladder = LadderState(
        event.version,
        event.to_step,
        event.champion,
        event.share,
        event.sessions,
        dict(event.figures),
        judged_versions,
        event.manifest,
        event.champion_manifest,
    )
    if event.to_step == event.from_step:
        return
    detail = f"{event.version}: {event.reason}: {event.detail}"
    if event.to_step == "refused":
        draft.alarm("ladder_refused", detail)
    elif event.to_step == "rolled_back":
        draft.alarm("ladder_rolled_back", detail)


_encode = msgspec.json.encode


def on_shadow_answered(draft: Draft, event: ShadowAnswered) -> None:
    """Record what the candidate would have chosen; an answer without a question is ignored.

    A rule's own decision, such as the flatten before the close, may have come after the question. If the strategy
    raises on the answer, it is recorded as failed: the desk goes on.
    """
    if not 0 < event.decision <= draft.decision or draft.session.session is None:
        return
    if event.hidden:
        draft.shadow = ShadowState(event.model, event.hidden)
    try:
        decision = draft.desk.holds.preview_decision(draft, Answer(event.logits, event.hidden, event.heads))
    except FAULTS as error:
        _record_no_answer(draft, event, f"the strategy raised at it: {type(error).__name__}: {error}"[:PROBLEM_MOST])
        return
    choice = decision.choice
    draft.records.append(
        ShadowRow(
            decision=event.decision,
            model=event.model,
            bar_ns=draft.session.last_bar_ns,
            time_ns=draft.now_ns,
            action=decision.action,
            confidence=choice.confidence if choice is not None else None,
            probabilities=_encode(choice.probabilities).decode() if choice is not None else None,
            logits=_encode(event.logits).decode(),
            target=decision.target.decode(),
        )
    )


def on_shadow_failed(draft: Draft, event: ShadowFailed) -> None:
    """Record that there is no answer; the candidate's memory starts afresh."""
    if not 0 < event.decision <= draft.decision:
        return
    draft.shadow = ShadowState()
    _record_no_answer(draft, event, event.reason)


FAULTS: tuple[type[Exception], ...] = (Exception,)  # raised by a strategy on a candidate's answer
PROBLEM_MOST = 500  # characters of a recorded problem


def _record_no_answer(draft: Draft, event: ShadowAnswered | ShadowFailed, problem: str) -> None:
    draft.records.append(
        ShadowRow(
            decision=event.decision,
            model=event.model,
            bar_ns=draft.session.last_bar_ns,
            time_ns=draft.now_ns,
            problem=problem,
        )
    )
