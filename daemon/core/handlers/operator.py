"""Handlers of commands, starts and stops, and of findings of the process about itself."""

from __future__ import annotations

from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.book import limits_reset
from daemon.core.broker.exits import exit_by_rule
from daemon.core.broker.owners import settle_disputes
from daemon.core.draft import Draft, wording
from daemon.core.effects import AskBroker
from daemon.core.orders import advance
from daemon.core.risk.guards import check_blind, loss_to_reset
from daemon.core.risk.worth import fetch_equity
from daemon.core.state import BROKER_MODES, TAPE_MODES, Model, Pause
from strategies.kit.units import HOUR_NS

ACCEPT = "rltraderctl accept-broker --reason TEXT"
RESET = "rltraderctl resume --reset-limits --reason TEXT"


def on_run_started(draft: Draft, event: ev.RunStarted) -> None:
    draft.trading = event.trading
    draft.risk = replace(draft.risk, stopping="", stop_flat=False)
    draft.broker = replace(draft.broker, expected=event.account_number)
    if event.mode not in TAPE_MODES:  # a real broker may have moved on; the replay's market lives in this journal
        draft.broker = replace(draft.broker, started_ns=draft.now_ns)
        draft.risk = replace(draft.risk, reconciled=False)
    if event.mode in BROKER_MODES:
        for order in tuple(draft.orders.values()):
            if order.in_hand:  # its process is gone: whether the order left is unknown
                draft.put_order(advance(order, "unknown"))


def on_code_changed(draft: Draft, event: ev.CodeChanged) -> None:
    """Take over what other code left: exits go on, new risk waits for a person."""
    draft.decision = max(draft.decision, event.decision)
    if event.damaged:
        draft.halt("journal_damaged", event.detail)
    else:
        draft.halt("code_changed", event.detail)


def on_model_verified(draft: Draft, event: ev.ModelVerified) -> None:
    draft.model = Model(event.version, event.promoted, event.feed)


def on_model_refused(draft: Draft, event: ev.ModelRefused) -> None:
    draft.model = None
    draft.alarm("model_refused", event.reason)


def on_clock_ticked(draft: Draft, _: ev.ClockTicked) -> None:
    """Do nothing: the rules after every handler check the deadlines."""
    check_blind(draft)


def on_halt(draft: Draft, event: ev.HaltRequested) -> None:
    draft.halt(event.reason, f"{event.detail} (by {event.who})")
    if event.strategy:
        draft.risk = replace(draft.risk, strategy_off=True)
        if draft.ask is not None:
            draft.end_unanswered(draft.ask, "expired")


def on_resume(draft: Draft, event: ev.ResumeRequested) -> None:
    """End halt and pause. The limits go on counting the whole day and drawdown, unless the command resets them."""
    if not event.reason.strip():
        draft.alarm("resume_refused", "a resume must state its reason")
        return
    if draft.broker.stood_down and not draft.broker.accept_ns:
        draft.alarm("resume_refused", f"after a panic the broker's word comes first: {ACCEPT}")
        return
    if event.reset_limits:
        draft.book = limits_reset(draft.book, fetch_equity(draft, draft.book))
        draft.risk = replace(draft.risk, consecutive_losses=0)
    elif loss := loss_to_reset(draft):
        draft.alarm("resume_refused", f"the limit {loss} is reached, and a resume does not forget the loss: {RESET}")
        return
    draft.risk = replace(draft.risk, halt=None, pause=None, outcomes=(), strategy_off=False)
    settle_disputes(draft)


def on_pause(draft: Draft, event: ev.PauseRequested) -> None:
    draft.risk = replace(draft.risk, pause=Pause(f"{event.reason} (by {event.who})", 0))
    draft.end_trading()


def on_flatten(draft: Draft, event: ev.FlattenRequested) -> None:
    if draft.broker.stood_down and not draft.broker.follows_panic:
        draft.alarm("command_refused", f"flatten (by {event.who}): nothing is sent after a panic; first: {ACCEPT}")
        return
    draft.halt("flatten", f"{event.reason} (by {event.who})")
    for symbol in draft.desk.holds.risked(draft):
        exit_by_rule(draft, symbol, "operator")


def on_panic(draft: Draft, event: ev.PanicNoticed) -> None:
    """Send nothing more, not even exits, while the panic lives: it flattens the account, and the book is old.

    An earlier acceptance of the broker's report does not hold after the panic.
    """
    draft.halt("panic", event.detail)
    draft.works = {}
    for name, order in draft.orders.items():
        if order.purpose != "foreign":
            draft.cancel(name)
    draft.broker = replace(draft.broker, stood_down=True, accept_ns=0, panic_failed_ns=0)


def on_panic_failed(draft: Draft, event: ev.PanicFailed) -> None:
    """Close what is the desk's own, after a report from now on; not where a person has settled it meanwhile."""
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


def on_candidate_refused(draft: Draft, event: ev.CandidateRefused) -> None:
    draft.alarm("candidate_refused", f"{event.version}: {event.reason}")


def on_command_refused(draft: Draft, event: ev.CommandRefused) -> None:
    draft.alarm("command_refused", f"{event.channel}: {event.reason}")


def on_trouble(draft: Draft, event: ev.TroubleNoticed) -> None:
    """Raise it once an hour for each case: nothing here notices its end, and it may come again."""
    draft.alarm(event.name, event.detail, once=True, about=f"{draft.now_ns // HOUR_NS} {wording(event.detail)}")


def on_bar_rejected(draft: Draft, event: ev.BarRejected) -> None:
    draft.count_rejected(event.reason, event.symbol)


def on_nothing(_: Draft, __: ev.Event) -> None:
    """Do nothing: for events that concern another kind of desk or the shell only."""
