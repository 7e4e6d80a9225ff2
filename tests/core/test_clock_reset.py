"""A desk whose time ran ahead, led back: exits leave again, and nothing waits for a time that is still to come."""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from daemon.core.effects import AskBroker
from daemon.core.events import (
    ClockReset,
    ClockTicked,
    FlattenRequested,
    HaltRequested,
    PauseRequested,
    ResumeRequested,
    SessionEnded,
)
from daemon.core.state import BrokenClaim, ClaimState, Halt, Leap, Pause, Suspicion, Worth
from tests.support.core.account import Account, agreed
from tests.support.core.desk import CALL, EXIT, HOLD, MINUTE, SECOND, TUESDAY, Desk, alarms, of, quote, sent
from tests.support.core.others import HALT, holding

AHEAD = 8 * 60  # minutes


def reset(d: Desk, minute: float) -> ClockReset:
    return ClockReset(d.at(minute), "chrony was wrong", "ann")


def test_after_a_tick_eight_hours_ahead_no_exit_leaves_and_after_the_reset_it_does() -> None:
    d = holding(Account(), HALT)
    d.tick(AHEAD)
    flatten = FlattenRequested(d.at(2), "out", "ann")
    assert of(d.put(flatten), AskBroker) == []
    assert d.state.works
    assert d.state.orders == {}  # journaled, and nothing is sent: the session seems over
    d.quotes(2, quote(CALL), second=1)
    assert d.state.orders == {}
    effects = d.put(reset(d, 2.5))
    assert d.state.now_ns == d.at(2.5)
    assert of(effects, AskBroker)
    order = sent(effects)
    assert (order.symbol, order.side, order.quantity) == (CALL, -1, 9)
    assert "clock_reset" in alarms(effects)


def test_an_exit_that_was_sent_in_the_wrong_time_is_priced_anew_after_the_reset() -> None:
    d = holding(Account(), HALT)
    d.bar(60)
    name = sent(d.answer(EXIT)).client_order_id
    d.accept(name)
    d.put(reset(d, 3))
    order = d.order(name)
    assert max(order.submitted_ns, order.news_ns) == d.at(3)
    d.tick(5)
    assert d.order(name).cancel_asked_ns == d.at(5)  # old two minutes later, not an hour


def test_a_session_that_ended_by_the_wrong_time_goes_on() -> None:
    d = holding(Account(), HALT)
    d.tick(AHEAD)
    d.put(SessionEnded(d.at(AHEAD), d.session.date))
    assert d.state.session.ended
    d.put(reset(d, 3))
    assert (d.state.session.ended, d.state.works) == (False, {})  # what was due by the wrong time alone is no more
    d.quotes(3, quote(CALL))
    assert sent(d.put(FlattenRequested(d.at(3), "out", "ann"))).quantity == 9


def test_a_session_that_is_over_by_the_right_time_stays_over() -> None:
    d = holding(Account(), HALT)
    d.tick(500)
    d.put(SessionEnded(d.at(500), d.session.date))
    d.tick(500 + AHEAD)
    d.put(reset(d, 501))
    assert d.state.session.ended


def test_nothing_the_desk_remembers_lies_in_the_future_after_a_reset() -> None:
    account = Account()
    d = holding(account, HALT)
    d.bar(60)
    d.answer(HOLD)
    state, far = d.state, d.at(AHEAD)
    suspicion = Suspicion(("cash",), far)
    d.state = replace(
        state,
        now_ns=far,
        quotes={CALL: replace(quote(CALL), quoted_ns=far)},
        broker=replace(state.broker, agreed_ns=far, lost_ns=far, suspicion=suspicion),
        risk=replace(
            state.risk,
            halt=Halt("drawdown", "x", far),
            pause=Pause("consecutive_losses", far + 30 * MINUTE),
            last_loss_ns=far,
            order_times=(d.at(1), far),
        ),
        session=replace(state.session, last_bar_ns=far, starts=(d.at(1), far)),
        leaps={CALL: Leap(Decimal(4), far)},
        worths={CALL: Worth(Decimal(2), Decimal(0), 500.0, far, doubted_ns=far)},
        basket=replace(state.basket, leapt={CALL: far}),
    )
    d.put(reset(d, 61))
    now, state = d.at(61), d.state
    assert (state.quotes[CALL].quoted_ns, state.broker.agreed_ns, state.broker.lost_ns) == (now, now, now)
    assert (state.risk.last_loss_ns, state.risk.order_times) == (now, (d.at(1), now))
    assert state.risk.halt == Halt("drawdown", "x", now)
    assert state.risk.pause is not None
    longest = state.trading.risk.consecutive_losses_pause_min * MINUTE
    assert state.risk.pause.until_ns == now + longest
    assert (state.session.last_bar_ns, state.session.starts) == (now, (d.at(1),))
    assert state.broker.suspicion == replace(suspicion, since_ns=now)
    assert (state.leaps[CALL].quoted_ns, state.basket.leapt) == (now, {CALL: now})
    assert state.worths == {CALL: Worth(Decimal(2), Decimal(0), 500.0, now, doubted_ns=now)}
    assert not state.risk.reconciled
    d.state = replace(d.state, risk=replace(d.state.risk, halt=None))
    agreed(d, account, 61, 30)


def test_a_resume_ends_what_began_in_the_wrong_time() -> None:
    d = holding(Account(), HALT)
    d.tick(AHEAD)
    d.put(HaltRequested(d.state.now_ns, "operator", "look", "ann"), PauseRequested(d.state.now_ns, "look", "ann"))
    d.state = replace(d.state, claim=ClaimState(broken={"v1": BrokenClaim("it fell by 9 %", d.state.now_ns, "")}))
    d.put(reset(d, 3), ResumeRequested(d.at(4), "all is well", "ann"))
    risk, claim = d.state.risk, d.state.claim
    assert isinstance(claim, ClaimState)
    assert (risk.halt, risk.pause, claim.broken) == (None, None, {})


def test_a_pause_without_an_end_and_a_desk_without_a_session_are_led_back_too() -> None:
    d = Desk()
    d.put(ClockTicked(TUESDAY.open_ns))
    d.put(PauseRequested(TUESDAY.open_ns, "news", "ann"))
    d.put(ClockReset(d.at(0), "chrony was wrong", "ann"))
    assert (d.state.now_ns, d.state.risk.pause) == (d.at(0), Pause("news (by ann)", 0, d.at(0)))


def test_a_reset_where_the_time_is_not_ahead_changes_nothing() -> None:
    d = holding(Account(), HALT)
    before = d.state
    effects = d.put(ClockReset(before.now_ns + SECOND, "just in case", "ann"))
    assert alarms(effects) == ["command_refused"]  # by which the command line ends with 1
    assert d.state == replace(before, seq=before.seq + 1, now_ns=before.now_ns + SECOND)
    assert d.state.book.cash == Decimal("8200.00")  # 10,000 less nine contracts at 2.00
