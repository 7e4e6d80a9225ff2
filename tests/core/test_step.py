"""The step event by event: sessions, bars, quotes, questions and answers, deadlines; and what holds for any sequence.

The properties at the end drive a desk through random events, wanted or not, and look after each one.
"""

from __future__ import annotations

import hashlib
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.desks.registry import desk_of
from daemon.core.draft import Draft
from daemon.core.effects import AskPolicy, SubmitOrder, WatchContracts
from daemon.core.limits import Contracts, Execution, Risk, Sizing, Trading
from daemon.core.records import EquityRow
from daemon.core.state import State, digest, encode_state
from daemon.core.step import Core, Step
from strategies.kit.contract import Bar
from strategies.kit.quantity import whole_of
from tests.support.core.daily_desk import Shelf
from tests.support.core.desk import (
    BUY_CALL,
    BUY_PUT,
    CALL,
    EXIT,
    HALF_DAY,
    HOLD,
    MINUTE,
    MONDAY,
    OPEN,
    PUT,
    SECOND,
    SESSIONS,
    TUESDAY,
    Desk,
    Pointer,
    alarms,
    canceling,
    chain_of,
    desk,
    logits,
    of,
    questions,
    quote,
    sent,
)
from tests.support.examples import examples


def bar_at(minute: int, close: float = 500.0, symbol: str = "SPY") -> Bar:
    return Bar(symbol, OPEN + minute * MINUTE, close, close, close, close, 1000.0)


def close_of(minute: int, close: float = 500.0) -> ev.BarClosed:
    return ev.BarClosed(OPEN + (minute + 1) * MINUTE, bar_at(minute, close))


def closing(minute: int, *quotes: ev.Quote) -> ev.QuotesReceived:
    return ev.QuotesReceived(OPEN + (minute + 1) * MINUTE, OPEN + minute * MINUTE, quotes)


# --- sessions, chains, bars ---------------------------------------------------------------------------------------


def test_every_kind_of_event_has_a_handler_and_a_stranger_is_refused() -> None:
    kinds = set(ev.AnyEvent.__args__)
    for strategy in (Pointer(), Shelf()):
        assert set(Core(strategy).handlers) == kinds
    with pytest.raises(TypeError, match="no handler for Event"):
        desk().put(ev.Event(OPEN))


def test_the_call_and_the_put_next_to_the_money_are_watched_once_the_spot_is_known_and_as_it_moves() -> None:
    d = desk()
    assert d.state.watched == ()
    assert of(d.bar(0), WatchContracts) == [WatchContracts((CALL, PUT))]
    assert of(d.bar(1, 500.4), WatchContracts) == []
    watches = of(d.bar(2, 501.0), WatchContracts)
    assert watches == [WatchContracts(("SPY240702C00501000", "SPY240702P00501000"))]
    assert set(d.state.quotes) <= set(watches[0].symbols)


def test_what_is_held_or_ordered_stays_watched_and_described_when_the_money_moves_away() -> None:
    d = desk()
    order = d.buys()
    assert d.bar(1, 503.0) != []
    assert CALL in d.state.watched
    d.canceled(order)
    for work in d.state.works.values():
        d.canceled(work.order_id)
    d.bar(2, 505.0)
    assert d.state.contracts[CALL].strike == Decimal(500)  # a fill may still come


def test_a_chain_of_another_session_changes_nothing() -> None:
    d = desk()
    chain = d.state.chain
    assert d.put(ev.ContractsListed(OPEN, TUESDAY.date, chain_of(HALF_DAY.date), 0.2)) == []
    assert d.state.chain is chain
    d = Desk()
    assert d.put(ev.ContractsListed(OPEN, MONDAY.date, chain_of(TUESDAY.date), 0.2)) == []
    assert d.state.chain is None


def test_the_same_session_again_only_refreshes_the_calendar() -> None:
    d = desk()
    d.holds()
    before = d.state
    d.put(ev.SessionScheduled(d.at(2), MONDAY, (TUESDAY,)))
    assert d.state.session == replace(before.session, upcoming=(TUESDAY,))
    assert (d.state.risk, d.state.orders, d.state.book) == (before.risk, before.orders, before.book)


def test_a_new_session_starts_its_own_limits() -> None:
    d = desk()
    d.holds()
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    d.fill(sale, 9, "1.90")
    assert d.state.risk.orders_today == 2
    d.put(ev.CashTransferred(d.at(3), Decimal(100)), ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    d.begin(TUESDAY)
    risk, book, session = d.state.risk, d.state.book, d.state.session
    assert (risk.orders_today, risk.order_times, risk.alarms) == (0, (), ())
    assert (book.session_start_equity, book.transfers) == (Decimal(10010), Decimal(0))  # 10000 - 9 x 10 + 100
    assert (session.starts, session.warm, session.ended, d.state.orders) == ((), False, False, {})


def test_the_end_of_another_session_ends_nothing() -> None:
    d = desk()
    d.put(ev.SessionEnded(d.at(1), "2024-06-28"))
    assert not d.state.session.ended
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    assert d.state.session.ended


def test_bars_outside_of_the_session_or_without_one_are_left_out() -> None:
    d = desk()
    assert d.put(close_of(-1), close_of(390)) == []
    assert (d.state.stats.bars, d.state.session.starts) == (0, ())
    d = Desk()
    d.put(close_of(0), closing(0))
    assert d.state.stats.bars == 0


def test_a_bar_is_observed_when_its_quotes_arrive() -> None:
    d = desk()
    assert questions(d.put(close_of(0))) == []
    (ask,) = of(d.put(closing(0)), AskPolicy)
    assert (ask.decision, ask.valid_until_ns) == (1, d.at(1, 30))
    assert list(ask.observation.array().ravel()) == [500.0, 0.0]


def test_a_bar_whose_quotes_never_came_is_observed_when_the_next_bar_closes() -> None:
    d = desk()
    d.put(close_of(0))
    assert questions(d.put(close_of(1))) == [1]
    assert questions(d.put(closing(0))) == []  # too late for the first, and not the second's
    assert questions(d.put(closing(1))) == [2]


def test_a_bar_that_is_pending_at_the_close_is_still_observed() -> None:
    d = desk()
    d.put(close_of(389))
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    assert d.state.strategy.closes == (500.0,)
    assert d.state.ask is None


@pytest.mark.parametrize(("minute", "pending"), [(3, False), (4, False), (3, True), (4, True)])
def test_a_bar_twice_or_out_of_order_changes_nothing_but_its_count(minute: int, pending: bool) -> None:
    d = desk()
    for m in range(4):
        d.bar(m)
    d.put(close_of(4), *([] if pending else [closing(4)]))
    before = d.state
    again = d.put(ev.BarClosed(d.at(5), bar_at(minute, 999.0)))
    assert alarms(again) == ["bar_rejected"]
    assert questions(again) == []
    assert d.state.stats == replace(before.stats, bars_rejected=1)
    assert (d.state.strategy, d.state.session) == (before.strategy, before.session)
    assert d.state.pending_bars == before.pending_bars


def test_a_bar_of_a_minute_to_come_changes_nothing_but_its_count() -> None:
    d = desk()
    d.bar(0)
    before = d.state
    assert alarms(d.put(ev.BarClosed(d.at(1), bar_at(200, 999.0)))) == ["bar_rejected"]
    assert (d.state.session, d.state.pending_bars) == (before.session, before.pending_bars)
    assert d.state.stats == replace(before.stats, bars_rejected=1)


def test_bars_of_several_symbols_that_close_together_are_observed_together() -> None:
    d = desk()
    other = Bar("QQQ", OPEN, 1.0, 1.0, 1.0, 400.0, 1.0)
    d.put(close_of(0), ev.BarClosed(d.at(1), other))
    d.put(closing(0))
    assert d.state.strategy.closes == (500.0, 400.0)
    assert d.state.session.spot == 500.0


def test_a_bar_that_the_intake_refused_is_counted_and_told_once_a_session() -> None:
    d = desk()
    rejection = ev.BarRejected(d.at(1), "SPY", OPEN, "nan", "close=nan")
    assert (alarms(d.put(rejection)), d.put(rejection)) == (["bar_rejected"], [])
    assert d.state.stats.bars_rejected == 2


def test_a_correction_before_the_observation_replaces_the_bar_and_one_after_it_counts_for_rows_to_come() -> None:
    d = desk()
    d.put(close_of(0), ev.BarCorrected(d.at(1), bar_at(0, 501.0)), closing(0))
    assert d.state.strategy.closes == (501.0,)
    rows = len(d.rows)
    d.put(ev.BarCorrected(d.at(1, 5), bar_at(0, 502.0)))
    assert d.state.strategy.closes == (502.0,)
    assert len(d.rows) == rows


def test_a_bar_that_is_known_too_late_is_seen_but_nothing_is_asked() -> None:
    d = desk()
    late = d.at(1) + 91 * SECOND
    assert d.put(ev.BarClosed(late, bar_at(0)), ev.QuotesReceived(late, OPEN, ())) == []
    assert d.state.strategy.closes == (500.0,)


def test_nothing_is_asked_before_the_strategy_is_warm() -> None:
    d = desk(warm_after=3)
    assert [questions(d.bar(m)) for m in range(4)] == [[], [], [1], [2]]
    assert d.state.session.warm


def test_a_hole_in_the_window_denies_until_it_has_left_the_window() -> None:
    d = desk()
    d.bar(0)
    for minute in range(5, 25):
        d.bar(minute)
        d.answer(BUY_CALL if minute in (5, 23, 24) else HOLD)
    outcomes = {row.bar_ns: row.outcome for row in d.decisions()}
    assert [outcomes[d.at(m)] for m in (5, 23, 24)] == ["denied", "denied", "ordered"]  # 20 rows: minutes 5 to 24
    assert d.state.stats.denials == {"gapped_bars": 2}


def test_equity_is_recorded_at_the_first_bar_while_holding_and_at_the_end() -> None:
    d = desk()
    d.bar(0)
    d.bar(1)
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    rows = [row for row in d.rows if isinstance(row, EquityRow)]
    assert [(row.time_ns, row.equity_usd) for row in rows] == [(d.at(1), "10000"), (MONDAY.close_ns, "10000")]


# --- questions and answers ----------------------------------------------------------------------------------------


def test_an_answer_that_comes_too_late_is_recorded_and_not_acted_on() -> None:
    d = desk()
    d.bar(0)
    late = ev.PolicyAnswered(d.at(1, 30) + 1, 1, logits(BUY_CALL), b"", "v1")
    assert alarms(d.put(late)) == ["policy_late"]
    assert [(row.decision, row.outcome) for row in d.decisions()] == [(1, "expired")]
    assert (d.state.ask, d.state.orders, d.state.stats.decisions) == (None, {}, 1)


def test_an_answer_in_the_last_moment_counts() -> None:
    d = desk()
    d.bar(0)
    assert sent(d.put(ev.PolicyAnswered(d.at(1, 30), 1, logits(BUY_CALL), b"", "v1"))).side == 1


@pytest.mark.parametrize(
    "event", [ev.PolicyAnswered(OPEN, 7, logits(BUY_CALL), b"", "v1"), ev.PolicyFailed(OPEN, 7, "x")]
)
def test_an_answer_to_another_question_changes_nothing(event: ev.Event) -> None:
    d = desk()
    d.put(event)
    d.bar(0)
    before = d.state
    assert d.put(event) == []
    assert d.state == replace(before, seq=before.seq + 1)


def test_an_answer_counts_once() -> None:
    d = desk()
    d.bar(0)
    answer = ev.PolicyAnswered(d.at(1), 1, logits(BUY_CALL), b"", "v1")
    assert len(of(d.put(answer, answer), SubmitOrder)) == 1


def test_a_question_whose_answer_never_came_ends_when_its_time_is_over_or_the_next_is_asked() -> None:
    d = desk(Trading(execution=Execution(policy_valid_s=300)))
    d.bar(0)
    d.bar(1)
    d.put(ev.SessionEnded(d.at(2), MONDAY.date))
    assert [(row.decision, row.outcome) for row in d.decisions()] == [(1, "expired"), (2, "expired")]
    assert d.state.stats.decisions == 2


def test_a_failure_of_the_policy_ends_the_question_and_is_told_once() -> None:
    d = desk()
    d.bar(0)
    assert alarms(d.put(ev.PolicyFailed(d.at(1), 1, "NaN in the logits"))) == ["policy_failed"]
    d.bar(1)
    assert alarms(d.put(ev.PolicyFailed(d.at(2), 2, "NaN in the logits"))) == []
    assert [row.outcome for row in d.decisions()] == ["failed", "failed"]
    assert d.state.stats.denials == {"answer_not_finite": 2}


@pytest.mark.parametrize("gap", ["no chain", "no quote", "no bid", "no candidate"])
def test_an_entry_without_a_contract_that_can_be_priced_is_denied(gap: str) -> None:
    d = Desk().fund() if gap == "no chain" else desk()
    if gap == "no chain":
        d.put(ev.SessionScheduled(OPEN, MONDAY, SESSIONS[1:]))
    if gap == "no candidate":
        d.put(ev.ContractsListed(OPEN, MONDAY.date, (), 0.2))
    d.bar(0, quotes=(quote(CALL, "0", "0.02"),) if gap == "no bid" else () if gap == "no quote" else None)
    d.answer(BUY_CALL)
    row = d.decisions()[-1]
    assert (row.outcome, d.state.stats.denials, d.state.orders) == ("denied", {"no_quote": 1}, {})


def test_a_decision_row_holds_all_that_explains_it() -> None:
    d = desk()
    d.bar(0)
    d.answer(BUY_PUT, 0.4)
    row = d.decisions()[-1]
    assert (row.decision, row.kind, row.bar_ns, row.time_ns, row.model) == (1, "policy", OPEN, d.at(1), "v1")
    assert (row.action, row.confidence, row.outcome) == ("BUY_PUT", 0.4, "denied")
    assert row.gates is not None
    assert '"low_confidence":"confidence 0.4000 below 0.5"' in row.gates
    assert row.row == bytes.fromhex("0000fa4300000000")  # 500.0 and 0.0 as float32
    assert d.state.stats.actions == (0, 0, 1, 0, 0, 0)


def test_a_second_entry_while_the_first_works_is_denied() -> None:
    d = desk()
    d.buys()
    d.bar(1)
    d.answer(BUY_PUT)
    assert d.state.stats.denials["duplicate_intent"] == 1


# --- deadlines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session", "expiry", "flat"),
    [(MONDAY, "", 385), (HALF_DAY, "", 205), (MONDAY, MONDAY.date, 330), (HALF_DAY, HALF_DAY.date, 150)],
    ids=["full day", "half day", "expires today", "expires on this half day"],
)
def test_a_position_is_left_before_the_close_and_an_alarm_says_when_it_was_not(
    session: Any, expiry: str, flat: int
) -> None:
    d = Desk(Trading(contracts=Contracts(min_days=0))).fund().begin(session, expiry)
    d.holds(minute=100)
    assert d.tick(flat - 2, -1) == []
    order = sent(d.tick(flat - 2))
    assert (order.side, order.quantity, order.limit_price) == (-1, 9, None)
    assert d.order(order.client_order_id).reason == "flat_before_close"
    assert alarms(d.tick(flat - 1, -1)) == []
    stuck = d.tick(flat - 1)  # a market order that did not fill within a minute
    assert (alarms(stuck), canceling(stuck)) == (["exit_stuck"], [order.client_order_id])
    assert alarms(d.tick(flat)) == []
    late = d.put(ev.ClockTicked(d.at(flat) + 1))
    assert (alarms(late), alarms(d.tick(flat, 30))) == (["not_flat"], [])
    d.fill(order.client_order_id, 9, "1.50")
    assert d.held == {}


@pytest.mark.parametrize(
    "event",
    [
        ev.ClockTicked(0),
        ev.OrderUnknown(0, "e1-pointer-1-0-0"),
        ev.PolicyFailed(0, 99, "x"),
        ev.BarRejected(0, "SPY", 0, "nan", ""),
        ev.CashTransferred(0, Decimal(1)),
        ev.ResumeRequested(0, "why not", "ann"),
        ev.QuotesReceived(0, 0, ()),
    ],
    ids=lambda event: type(event).__name__,
)
def test_any_event_past_the_deadline_leaves_the_position(event: ev.Event) -> None:
    d = desk()
    d.holds()
    assert sent(d.put(replace(event, time_ns=d.at(383)))).side == -1


def test_contracts_that_expire_today_are_not_bought_in_the_last_ninety_minutes() -> None:
    d = Desk(Trading(contracts=Contracts(min_days=0))).fund().begin(MONDAY, MONDAY.date)
    d.bar(298)
    assert sent(d.answer(BUY_CALL)).symbol == "SPY240701C00500000"  # at minute 299, 91 are left
    d = Desk(Trading(contracts=Contracts(min_days=0))).fund().begin(MONDAY, MONDAY.date)
    d.bar(299)
    d.answer(BUY_CALL)
    assert d.state.stats.denials == {"expires_today": 1}


# --- the account, the operator, the model -------------------------------------------------------------------------


def test_a_transfer_is_neither_gain_nor_loss() -> None:
    d = desk()
    d.put(ev.CashTransferred(OPEN, Decimal(5000)))
    book = d.state.book
    assert (book.cash, book.equity, book.peak, book.transfers) == (Decimal(15000),) * 3 + (Decimal(5000),)
    assert (book.realized, book.max_drawdown, d.halted()) == (Decimal(0), 0.0, "")


def test_a_withdrawal_leaves_the_drawdown_where_it_was() -> None:
    d = desk()
    d.state = replace(d.state, book=replace(d.state.book, peak=Decimal(12500)))  # the equity is 20 % below it
    d.put(ev.CashTransferred(OPEN, Decimal(-5000)))
    assert (d.state.book.equity, d.state.book.peak) == (Decimal(5000), Decimal(6250))


def test_a_worthless_expiry_ends_the_trade_and_its_exit() -> None:
    d = desk()
    d.holds()
    d.bar(1, quotes=(quote(CALL, "0", "0.02"),))
    assert len(d.state.works) == 1
    d.put(ev.ContractExpired(d.at(2), CALL, 9, "SPY", 0, Decimal(500)))
    assert (d.held, d.state.works, d.state.book.cash) == ({}, {}, Decimal(8200))
    assert (d.state.stats.trades, d.state.stats.wins) == (1, 0)


def test_shares_from_an_exercise_halt_until_somebody_looked() -> None:
    d = desk()
    d.holds()
    effects = d.put(ev.ContractExpired(d.at(2), CALL, 9, "SPY", 900, Decimal(499)))
    assert (alarms(effects)[0], d.halted(), d.held) == ("shares_from_exercise", "shares_from_exercise", {"SPY": 900})
    d.put(ev.ResumeRequested(d.at(2), "I sell them by hand", "ann"))
    d.bar(2)
    d.answer(BUY_CALL)
    assert "shares_held" in d.state.stats.denials


def test_a_refused_model_trades_no_more_and_a_verified_one_again() -> None:
    d = desk()
    assert alarms(d.put(ev.ModelRefused(OPEN, "its digest differs"))) == ["model_refused"]
    d.bar(0)
    d.answer(BUY_CALL)
    assert "model_not_verified" in d.state.stats.denials
    d.put(ev.ModelVerified(OPEN, "v2", "d", promoted=True, feed="sip"))
    d.bar(1)
    assert sent(d.answer(BUY_CALL)).side == 1


def test_a_start_brings_its_own_rules_and_only_a_replay_stays_reconciled() -> None:
    rules = Trading(sizing=Sizing(max_contracts=1))
    for mode, reconciled in (("replay", True), ("dry_run", False), ("live", False)):
        d = desk()
        d.put(ev.RunStarted(OPEN, mode, "desk-1", "pointer", "e1", "c", "sip", rules))
        assert (d.state.trading, d.state.risk.reconciled) == (rules, reconciled)


def test_trouble_that_the_shell_noticed_is_told_once_a_session_and_changes_nothing_else() -> None:
    d = desk()
    trouble = ev.TroubleNoticed(d.at(1), "clock_skew", "3.1 s")
    before = d.state.book
    assert [alarms(d.put(trouble)), alarms(d.put(trouble))] == [["clock_skew"], []]
    assert (d.state.book, d.halted()) == (before, "")


def test_start_up_events_are_not_counted() -> None:
    d = Desk().fund()
    assert (d.state.seq, d.state.fed) == (0, 0)
    d.begin()
    assert (d.state.seq, d.state.fed) == (2, 1)  # the session is fed, the contracts are the market's


# --- properties ---------------------------------------------------------------------------------------------------

USUAL = (
    "bar", "bar", "quotes", "quotes", "answer", "answer", "tick", "accept", "fill", "fill", "cancel",
)  # fmt: skip
UNUSUAL = (
    "reject", "unknown", "expire", "cancel_rejected", "correct", "old_bar", "fail", "foreign", "transfer", "halt",
    "resume", "resume", "resume", "pause", "flatten", "snapshot", "snapshot", "session", "session", "listed", "listed",
    "ended", "expired",
)  # fmt: skip
KINDS = USUAL * 12 + UNUSUAL + ("snapshot", "resume") * 8
QUICK = Trading(
    sizing=Sizing(max_contracts=6),
    execution=Execution(entry_reprice_s=20, exit_reprice_s=20, entry_deadline_s=60, policy_valid_s=300),
    risk=Risk(
        cooldown_trade_s=0,
        cooldown_loss_s=0,
        orders_per_minute=50,
        consecutive_losses_pause_min=2,
        daily_loss_max=0.5,
        reject_rate_max=0.9,
        stale_bar_s=600,
        gap_min=300,
        quote_age_max_s=600,
    ),
)


def news(state: State[Any], kind: str, a: int, b: int) -> ev.Event:
    """An event of this kind that could happen to this state, likely or not; `a` and `b` below 100 vary it."""
    now, ask, names = state.now_ns, state.ask, [*state.orders, *(state.closed if a > 80 else ())]
    name = names[a % len(names)] if names else "nobody"
    order = state.orders.get(name) or state.closed.get(name)
    session = state.session.session or MONDAY
    match kind:
        case "bar" if state.session.ended and b > 50:
            return news(state, "session", a, b)
        case "bar" if state.chain is None:
            return news(state, "listed", a, b)
        case "bar":
            newest = session.open_ns + ((now - session.open_ns) // MINUTE - 1) * MINUTE
            start = max(state.session.last_bar_ns + MINUTE, session.open_ns, newest)
            return ev.BarClosed(max(now, start + MINUTE), Bar("SPY", start, 500.0, 500.0, 500.0, 499.5 + a / 90, 1.0))
        case "old_bar":
            return ev.BarClosed(now, Bar("SPY", session.open_ns + a * MINUTE, 1.0, 1.0, 1.0, 1.0, 1.0))
        case "quotes":
            closes = state.pending_bars[0].start_ns if state.pending_bars else 0
            bid = Decimal(180 + b // 2) / 100 if b else Decimal(0)
            symbols = (*state.watched, *state.book.positions)
            quotes = tuple(quote(s, str(bid), str(bid + Decimal("0.04")), at_ns=now) for s in symbols)
            return ev.QuotesReceived(now, closes, quotes)
        case "tick":
            return ev.ClockTicked(now + (a - 10) * SECOND * (9 if b > 95 else 1))
        case "answer":
            return ev.PolicyAnswered(
                now, ask.decision if ask else a, logits((1, 1, 2, 2, 3, 4, 5, 0)[b % 8]), b"", "v1"
            )
        case "fail":
            return ev.PolicyFailed(now, ask.decision if ask else a, "x")
        case "fill" | "correct" if order is not None:
            price, correction = Decimal(150 + a) / 100, order.correction + (kind == "correct")
            cumulative = min(1 + b % whole_of(order.quantity) + (b > 50) * 3, order.quantity)
            cost, fees = order.cost + price * (cumulative - order.filled), order.fees + Decimal("0.07")
            return ev.OrderFilled(
                now, name, order.symbol, order.side, price, now, cumulative, cost, fees, 1, correction
            )
        case "accept":
            return ev.OrderAccepted(now, name)
        case "cancel":
            return ev.OrderCanceled(now, name)
        case "reject":
            return ev.OrderRejected(now, name, "no")
        case "unknown":
            return ev.OrderUnknown(now, name)
        case "expire":
            return ev.OrderExpired(now, name)
        case "cancel_rejected":
            return ev.CancelRejected(now, name, "no")
        case "foreign":
            return ev.OrderFilled(now, "by hand", CALL, 1, Decimal(2), now, 1, Decimal(2), Decimal(0), 1)
        case "transfer":
            return ev.CashTransferred(now, Decimal(a - 50) * 7)
        case "halt":
            return ev.HaltRequested(now, "operator", "x", "ann")
        case "resume":
            return ev.ResumeRequested(now, "x" if b > 20 else "", "ann")
        case "pause":
            return ev.PauseRequested(now, "x", "ann")
        case "flatten":
            return ev.FlattenRequested(now, "x", "ann")
        case "snapshot":
            positions = tuple(
                ev.BrokerPosition(s, Decimal(p.quantity), Decimal(1)) for s, p in state.book.positions.items()
            )
            return ev.BrokerSnapshot(now, state.book.cash + (b > 90), positions, tuple(state.orders))
        case "session":
            later = [s for s in SESSIONS if s.date > session.date] or [SESSIONS[-1]]
            at = later[0] if state.session.ended else session
            return ev.SessionScheduled(max(now, at.open_ns), at, tuple(s for s in SESSIONS if s.date > at.date))
        case "listed":
            later = [s for s in SESSIONS if s.date > session.date] or [session]
            return ev.ContractsListed(now, session.date, chain_of(later[0].date), 0.2)
        case "ended" if b > 60 and session is not SESSIONS[-1]:
            return ev.SessionEnded(now, session.date)
        case "expired" if b > 70:
            symbol = min(state.book.positions, default=CALL)
            return ev.ContractExpired(now, symbol, 1, "SPY", 100 * (b > 97) * (1 if a > 50 else -1), Decimal(500))
    return ev.ClockTicked(now)


def at_cost(state: State[Any]) -> Decimal:
    return state.book.cash + sum((p.cost * p.multiplier for p in state.book.positions.values()), Decimal(0))


EVENTS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99)), min_size=5, max_size=60)


def plain(step: Step) -> list[Any]:
    """The effects, observations by their bytes."""
    return [(e.decision, e.observation.data) if isinstance(e, AskPolicy) else e for e in step.effects]


@settings(max_examples=examples(100), deadline=None)
@given(EVENTS)
def test_whatever_happens_the_desk_keeps_its_promises(happenings: list[tuple[str, int, int]]) -> None:
    keeps_its_promises(happenings)


@pytest.mark.parametrize("seed", range(8))
def test_a_long_and_wild_day_breaks_no_promise_either(seed: int) -> None:
    draw = random.Random(seed)
    wild = [(draw.choice(KINDS), draw.randrange(100), draw.randrange(100)) for _ in range(1500)]
    state = keeps_its_promises(wild)
    assert state.stats.orders > 1
    assert state.stats.fills > 1


def keeps_its_promises(happenings: list[tuple[str, int, int]]) -> State[Any]:
    """Step all of it and assert after each event what must always hold; returns the last state."""
    d = desk(QUICK)
    d.holds()
    decode = d.core.decoder().decode
    names: set[str] = set(d.orders())
    transfers = Decimal(0)
    state = d.state
    for kind, a, b in happenings:
        event = news(state, kind, a, b)
        if isinstance(event, ev.CashTransferred):
            transfers += event.amount
        before = encode_state(state)
        step = d.core.step(state, event)
        # the input is untouched, and a state that went through JSON goes on in the same way
        assert encode_state(state) == before
        again = d.core.step(decode(before), event)
        assert plain(again) == plain(step)
        assert again.rows == step.rows
        assert encode_state(again.state) == encode_state(step.state)
        # time, money, quantities
        assert step.state.now_ns >= state.now_ns
        state = step.state
        assert at_cost(state) == Decimal(10000) + transfers + state.book.realized
        assert all(p.quantity > 0 for p in state.book.positions.values() if p.right)
        for order in of(list(step.effects), SubmitOrder):
            assert order.client_order_id not in names
            names.add(order.client_order_id)
            if order.side < 0:
                sales = [o for o in state.orders.values() if (o.symbol, o.side) == (order.symbol, -1)]
                selling = sum(o.remaining for o in sales if not o.closing)  # that call sells what is free alone
                assert selling <= state.book.positions[order.symbol].quantity
            elif order.intent == "buy_to_open":  # what is owed is bought back also while halted
                assert state.risk.halt is None
        if state.risk.halt is not None:
            entries = [o for o in state.orders.values() if o.purpose == "entry"]
            assert all(o.status in ("pending_cancel", "unknown") or o.cancel_asked_ns for o in entries)
    return state


def test_the_digest_is_that_of_the_canonical_json() -> None:
    d = desk()
    d.holds()
    assert digest(d.state) == hashlib.sha256(encode_state(d.state)).hexdigest()


def test_there_is_no_view_without_a_session() -> None:
    with pytest.raises(ValueError, match="SessionScheduled precedes every bar"):
        desk_of(Pointer()).holds.view(Draft(Desk().state, desk_of(Pointer())), OPEN)


def test_a_clock_that_steps_back_never_makes_time_decrease() -> None:
    d = desk()
    d.tick(5)
    d.tick(3)
    assert d.state.now_ns == d.at(5)


def test_a_whole_day_goes_on_equally_when_every_state_went_through_json() -> None:
    days = [desk(), desk()]
    days[1].reload = True
    for d in days:
        order = d.buys()
        d.fill(order, 4, "2.00", fees="0.19")
        d.bar(1)
        again = sent(d.canceled(order)).client_order_id
        d.fill(again, 5, "2.03", fees="0.24")
        for minute in range(2, 8):
            d.bar(minute)
            for leaving in of(d.answer(HOLD if minute < 6 else EXIT), SubmitOrder):
                d.accept(leaving.client_order_id)
                d.fill(leaving.client_order_id, leaving.quantity, "1.99", fees="0.51")
        d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    assert encode_state(days[0].state) == encode_state(days[1].state)
    assert days[0].rows == days[1].rows
    assert canceling(days[0].effects) == canceling(days[1].effects) == ["e1-pointer-1-0-0"]
