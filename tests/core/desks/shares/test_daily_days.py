"""A daily desk's days: which bars it keeps and when, what marks its shares, and that it is asked once a session.

Three symbols AAA, BBB, CCC at 100.00; sums are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.desks.registry import desk_of
from daemon.core.desks.shares.desk import share_view
from daemon.core.draft import Draft
from daemon.core.effects import AskPolicy
from daemon.core.limits import Basket, Trading
from daemon.core.records import EquityRow
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, Shelf, bar, daily_desk, orders, quote
from tests.support.core.desk import FRIDAY, HALF_DAY, MINUTE, MONDAY, TUESDAY, Desk, alarms, desk, of

BEFORE_CLOSE = Trading(basket=Basket(decide="before_close"))


def closes(d: DailyDesk, symbol: str) -> list[float]:
    """The closes that the strategy keeps."""
    return [bar.close for bar in d.state.strategy.bars.get(symbol, ())]


# --- bars ---------------------------------------------------------------------------------------------------------


def test_a_session_s_bars_are_remembered_when_it_ends() -> None:
    d = daily_desk()
    assert closes(d, "AAA") == []
    d.bars(MONDAY, AAA=101.0, BBB=99.0)
    assert (closes(d, "AAA"), closes(d, "BBB")) == ([100.0], [100.0])  # a later session's bar came
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    assert (closes(d, "AAA"), closes(d, "BBB"), closes(d, "CCC")) == ([100.0, 101.0], [100.0, 99.0], [100.0])
    assert (d.state.pending_bars, d.state.stats.bars) == ((), 5)


def test_a_bar_that_comes_twice_too_early_or_of_another_symbol_is_counted_and_each_case_reported_once() -> None:
    d = daily_desk()
    bad = (
        ev.BarClosed(d.state.now_ns, bar("AAA", LAST_FRIDAY, 90.0)),
        ev.BarClosed(d.state.now_ns, bar("AAA", TUESDAY, 90.0)),
        ev.BarClosed(d.state.now_ns, bar("ZZZ", LAST_FRIDAY, 90.0)),
    )
    effects = d.put(*bad, *bad)
    assert (d.state.stats.bars, d.state.stats.bars_rejected, alarms(effects)) == (3, 6, ["bar_rejected"] * 3)
    assert d.state.marks == dict.fromkeys(SYMBOLS, Decimal(100))


@pytest.mark.parametrize("reload", [False, True])
def test_a_bar_comes_twice_only_where_the_state_that_steps_has_it_already(reload: bool) -> None:
    d = daily_desk()
    d.reload = reload
    before, comes = d.state, ev.BarClosed(MONDAY.close_ns, bar("AAA", MONDAY, 101.0))
    d.put(comes)
    after = d.state
    d.state = before
    assert alarms(d.put(comes)) == []
    assert d.state == after
    for state in (after, d.state):
        d.state = state
        assert alarms(d.put(comes)) == ["bar_rejected"]
        assert d.state.pending_bars == after.pending_bars


def test_a_bar_told_the_next_morning_is_known_to_the_decision_and_marks_only_what_is_not_held() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.end(CCC=100.0)
    d.begin(HALF_DAY)
    d.bars(TUESDAY, AAA=50.0, BBB=120.0)
    assert (d.state.marks["AAA"], d.state.marks["BBB"]) == (Decimal(100), Decimal(120))
    d.due()
    assert (closes(d, "AAA"), closes(d, "BBB")) == ([100.0, 100.0, 50.0], [100.0, 100.0, 120.0])


def test_a_bar_older_than_the_newest_is_remembered_in_its_place_and_marks_nothing() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    older = bar("BBB", LAST_FRIDAY, 70.0)
    d.put(ev.BarClosed(d.state.now_ns, older))
    d.end()
    assert (closes(d, "BBB"), d.state.marks["BBB"]) == ([70.0, 100.0], Decimal(100))


def test_a_close_that_is_no_price_marks_nothing() -> None:
    d = daily_desk()
    d.bars(MONDAY, AAA=0.0)
    assert d.state.marks["AAA"] == Decimal(100)


def test_a_correction_replaces_a_bar_that_waits_or_is_remembered_and_no_other() -> None:
    d = daily_desk()
    d.put(ev.BarCorrected(d.state.now_ns, bar("AAA", LAST_FRIDAY, 98.0)))
    d.due()
    assert closes(d, "AAA") == [98.0]
    d.put(ev.BarCorrected(d.state.now_ns, bar("AAA", LAST_FRIDAY, 97.0)))
    d.put(ev.BarCorrected(d.state.now_ns, bar("AAA", MONDAY, 55.0)))
    assert closes(d, "AAA") == [97.0]


def test_an_adjusted_history_replaces_the_bars_and_only_marks_what_is_not_held() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    for symbol in ("AAA", "BBB", "ZZZ"):
        halved = (bar(symbol, LAST_FRIDAY, 50.0), bar(symbol, MONDAY, 51.0))
        d.put(ev.HistoryAdjusted(d.state.now_ns, symbol, halved))
    assert (closes(d, "AAA"), closes(d, "BBB"), closes(d, "ZZZ")) == ([50.0, 51.0], [50.0, 51.0], [])
    assert d.state.marks == {"AAA": Decimal(100), "BBB": Decimal(51), "CCC": Decimal(100)}


def halved(d: DailyDesk, symbol: str, close: float = 50.0) -> None:
    """The history of `symbol` adjusted anew."""
    d.put(ev.HistoryAdjusted(d.state.now_ns, symbol, (bar(symbol, LAST_FRIDAY, close), bar(symbol, MONDAY, close))))


def test_prices_after_a_split_mark_the_shares_only_once_the_ledger_told_it() -> None:
    d = DailyDesk().fund().holds(AAA=90)
    d.begin(TUESDAY)
    halved(d, "AAA")
    halved(d, "AAA")
    d.prints(0, AAA="51", BBB="101")
    d.quotes(1, AAA="52")
    assert (d.state.marks["AAA"], d.state.marks["BBB"], d.state.book.equity) == (
        Decimal(100), Decimal(101), Decimal(10000),
    )  # fmt: skip
    line = ev.Activity("1", "SPLIT", "AAA", Decimal(90), None, Decimal(0), "executed", d.state.now_ns)
    shares = (ev.BrokerPosition("AAA", Decimal(180), Decimal(50)),)
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    d.put(ev.BrokerReported(d.at(2), d.at(2), "A", d.state.book.cash, "", shares, (), (), (), (line,)))
    assert (d.held, d.state.marks["AAA"], d.state.book.equity) == ({"AAA": 180}, Decimal(50), Decimal(10000))
    d.quotes(3, AAA="51")
    assert d.state.book.equity == Decimal(10180)


def test_a_basket_in_shares_whose_split_is_not_booked_is_denied() -> None:
    d = DailyDesk().fund().holds(AAA=90)
    d.begin(TUESDAY)
    d.due()
    halved(d, "AAA")
    d.answer(0, KEEP, KEEP)
    assert (d.decisions()[-1].outcome, d.state.stats.denials) == ("denied", {"basket_legs": 1})
    d.end(AAA=50.0)
    assert d.state.basket.splits == ()


def test_sessions_that_end_before_the_broker_is_heard_end_no_wait_for_its_split() -> None:
    d = DailyDesk().fund().holds(AAA=90)
    d.state = replace(d.state, broker=replace(d.state.broker, started_ns=d.at(400)))  # a start after missed sessions
    halved(d, "AAA")
    d.begin(TUESDAY)
    d.end(AAA=51.0)
    assert (d.state.basket.splits, d.state.marks["AAA"], d.state.risk.halt) == (("AAA",), Decimal(100), None)
    d.state = replace(d.state, broker=replace(d.state.broker, reported_ns=d.at(400)))
    d.begin(HALF_DAY)
    d.end(AAA=51.0)
    assert d.state.basket.splits == ()


def test_a_dividend_a_split_that_is_booked_and_what_cannot_be_compared_hold_no_price_up() -> None:
    d = DailyDesk().fund().holds(AAA=90)
    d.begin(TUESDAY)
    halved(d, "AAA", 99.0)
    d.put(ev.HistoryAdjusted(d.state.now_ns, "AAA", (bar("AAA", TUESDAY, 50.0),)))
    assert d.state.basket.splits == ()
    after_split = DailyDesk().fund().holds(AAA=90)
    after_split.begin(TUESDAY)
    after_split.state = replace(after_split.state, marks={**after_split.state.marks, "AAA": Decimal(51)})
    halved(after_split, "AAA")
    unpriced = DailyDesk().fund().holds(AAA=90)
    unpriced.begin(TUESDAY)
    unpriced.state = replace(unpriced.state, marks={})
    halved(unpriced, "AAA")
    worthless = DailyDesk().fund().holds(AAA=90)
    worthless.begin(TUESDAY)
    halved(worthless, "AAA", 0.0)
    for other in (after_split, unpriced, worthless):
        assert other.state.basket.splits == ()


# --- prices -------------------------------------------------------------------------------------------------------


def test_prints_and_narrow_quotes_mark_the_shares_and_wide_or_one_sided_ones_only_bound_the_price() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.prints(0, AAA="101.5", BBB="0")
    assert (d.state.marks["AAA"], d.state.marks["BBB"], d.state.book.equity) == (
        Decimal("101.5"), Decimal(100), Decimal(10015),
    )  # fmt: skip
    d.quotes(1, AAA="102/102.1")
    assert (d.state.marks["AAA"], d.state.book.equity) == (Decimal("102.05"), Decimal("10020.5"))
    for odd in ("90/110.1", "0/103", "102/0", "103/102", "0/0"):  # 90 to 110.1: half the spread is 5.02 %
        d.quotes(2, AAA=odd)
        assert d.state.marks["AAA"] == Decimal("102.05")
    d.quotes(3, AAA="0/102")  # somebody asks no more than that
    d.quotes(4, AAA="101.9/0")
    assert d.state.marks["AAA"] == Decimal(102)


def test_one_bad_quote_moves_no_equity_and_halts_nothing() -> None:
    d = DailyDesk().fund().holds(AAA=90)
    d.begin(TUESDAY)
    for minute, price in ((1, "101"), (2, "55"), (3, "101"), (4, "160"), (5, "55"), (6, "101")):
        d.quotes(minute, AAA=price)
        assert (d.state.marks["AAA"], d.state.risk.halt) == (Decimal(101), None)


def test_a_leap_counts_when_a_newer_narrow_quote_says_the_same() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.quotes(1, AAA="90")
    d.put(ev.QuotesReceived(d.at(2), 0, (quote("AAA", "90", d.at(1)),)))  # the same quote once more
    d.quotes(3, AAA="80/100")  # says neither yes nor no
    assert d.state.marks["AAA"] == Decimal(100)
    d.quotes(5, AAA="91")
    assert d.state.marks["AAA"] == Decimal(91)
    d.quotes(6, AAA="88")  # no leap from there
    assert d.state.marks["AAA"] == Decimal(88)


def test_equity_is_recorded_at_each_end_and_after_quotes_that_follow_fills() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    rows = [row for row in d.rows if isinstance(row, EquityRow)]
    assert [(row.time_ns - MONDAY.open_ns) // MINUTE for row in rows] == [1, 390]
    assert [row.equity_usd for row in rows] == ["10000", "10000"]


def test_the_end_of_another_session_changes_nothing() -> None:
    d = daily_desk()
    d.put(ev.SessionEnded(d.state.now_ns, TUESDAY.date))
    assert not d.state.session.ended
    fresh = DailyDesk()
    fresh.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    assert not fresh.state.session.ended


# --- the question -------------------------------------------------------------------------------------------------


def test_the_question_shows_cash_equity_shares_and_prices_as_they_are_before_the_open() -> None:
    rules = Trading(basket=Basket(shares_per_unit=7, notional_per_unit_usd=Decimal(500), band=0.02))
    d = DailyDesk(rules).fund().holds(AAA=10, CCC=20)
    d.begin(TUESDAY)
    questions = of(d.due(), AskPolicy)
    assert [ask.observation.array().tolist() for ask in questions] == [[7000, 10000, 10, 0, 20, 100, 100, 100]]
    view = d.strategy.seen[-1]
    assert (view.cash, view.equity, view.shares, view.prices) == (7000.0, 10000.0, (10, 0, 20), (100.0, 100.0, 100.0))
    assert (view.shares_per_unit, view.notional_per_unit, view.band) == (7, 500.0, 0.02)


def test_only_the_first_due_of_a_date_counts_also_after_its_answer_and_after_a_restart() -> None:
    d = daily_desk()
    d.reload = True
    assert len(of(d.due(), AskPolicy)) == 1
    assert (of(again := d.due(), AskPolicy), alarms(again)) == ([], ["rebalance_refused"])
    d.answer(10, KEEP, KEEP)
    assert d.due(-10) == []
    assert d.state.decision == 1


@pytest.mark.parametrize("date", [LAST_FRIDAY.date, TUESDAY.date])
def test_what_is_due_for_another_session_than_the_scheduled_one_is_refused(date: str) -> None:
    d = daily_desk()
    effects = d.put(ev.RebalanceDue(d.at(-15), date))
    assert (of(effects, AskPolicy), alarms(effects), d.state.basket.date) == ([], ["rebalance_refused"], "")


@pytest.mark.parametrize(
    ("before", "reason", "cause", "told"),
    [
        ("", "quarantine", "it raised twice", "it raised twice"),
        ("", "no_model", "policy.onnx is damaged", "policy.onnx is damaged"),
        ("operator", "no_model", "policy.onnx is damaged", "policy.onnx is damaged"),
    ],
)
def test_a_daily_desk_whose_strategy_is_off_says_why_and_trades_nothing(
    before: str, reason: str, cause: str, told: str
) -> None:
    d = daily_desk()
    if before:
        d.put(ev.HaltRequested(d.at(-21), before, "by hand", "ann"))
    d.put(ev.HaltRequested(d.at(-20), reason, cause, "rltraderd", strategy=True))
    effects = d.due()
    assert (of(effects, AskPolicy), alarms(effects)) == ([], ["rebalance_refused"])
    assert told in str(effects)
    assert ("raised" in str(effects)) == ("raised" in cause)
    d.put(ev.ResumeRequested(d.at(-14), "mended", "ann"))
    assert len(of(d.due(-13), AskPolicy)) == 1


def test_a_desk_that_decides_before_the_open_decides_nothing_after_it() -> None:
    d = daily_desk()
    assert alarms(d.due(0)) == ["rebalance_refused"]
    assert alarms(daily_desk(BEFORE_CLOSE).due(0)) == []


def test_running_bars_of_another_day_are_refused() -> None:
    d = daily_desk(BEFORE_CLOSE)
    effects = d.due(380, (bar("AAA", MONDAY, 104.0), bar("BBB", LAST_FRIDAY, 96.0)))
    assert (alarms(effects), d.state.ask, d.state.marks["AAA"]) == (["rebalance_refused"], None, Decimal(100))


def test_nothing_is_due_before_a_session_is_known_or_after_it_ended() -> None:
    fresh = DailyDesk().fund()
    assert alarms(fresh.put(ev.RebalanceDue(MONDAY.open_ns, MONDAY.date))) == ["rebalance_refused"]
    d = daily_desk()
    d.end()
    assert alarms(d.due(391)) == ["rebalance_refused"]


def test_a_strategy_that_is_not_warm_is_asked_nothing_and_the_date_is_used_up() -> None:
    d = DailyDesk(strategy=Shelf(warm_after=2)).fund().begin()
    d.bars(LAST_FRIDAY, AAA=100.0)
    assert (d.due(), d.state.ask, d.state.basket.date) == ([], None, MONDAY.date)
    assert alarms(d.due()) == ["rebalance_refused"]


@pytest.mark.parametrize(("mode", "names"), [("replay", []), ("paper", ["symbols_masked"])])
def test_a_session_without_a_decision_is_an_alarm_but_for_a_tape_s_first_days(mode: str, names: list[str]) -> None:
    d = DailyDesk(mode=mode, strategy=Shelf(warm_after=100)).begin()
    assert alarms(d.due()) == names


def test_a_desk_that_decided_before_and_has_nothing_left_to_decide_on_says_so() -> None:
    d = daily_desk()
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.strategy.warm_after = 100
    d.begin(TUESDAY)
    assert alarms(d.due()) == ["symbols_masked"]


def test_a_running_day_s_bars_are_seen_and_marked_and_not_kept() -> None:
    d = daily_desk(BEFORE_CLOSE)
    d.due(380, (bar("AAA", MONDAY, 104.0), bar("BBB", MONDAY, 96.0)))
    assert d.strategy.seen[-1].prices == (104.0, 96.0, 100.0)
    assert closes(d, "AAA") == [100.0]
    assert d.state.ask is not None
    assert d.state.ask.bar_ns == bar("AAA", MONDAY, 1.0).start_ns


def test_an_answer_that_fails_or_comes_late_trades_nothing_and_is_recorded() -> None:
    d = daily_desk()
    d.due()
    d.put(ev.PolicyFailed(d.state.now_ns, 1, "NaN"))
    late = DailyDesk().fund().holds(AAA=1)
    late.begin(TUESDAY)
    late.due()
    assert alarms(late.tick(-14)) == ["policy_late"]  # 30 s are allowed
    assert [row.outcome for row in (*d.decisions(), late.decisions()[-1])] == ["failed", "expired"]
    for one in (d, late):
        assert one.quotes(0, AAA="100") == []


def test_a_question_that_is_open_at_the_session_s_end_ends_with_it() -> None:
    d = daily_desk()
    d.due()
    ask = d.state.ask
    assert ask is not None
    d.state = replace(d.state, ask=replace(ask, valid_until_ns=MONDAY.close_ns + MINUTE))
    d.end(AAA=100.0)
    assert (d.state.ask, [row.outcome for row in d.decisions()]) == (None, ["expired"])


def test_a_decision_is_recorded_with_its_legs_its_observation_and_what_the_gates_said() -> None:
    d = daily_desk()
    question = of(d.due(), AskPolicy)[0]
    d.answer(10, KEEP, 20)
    row = d.decisions()[0]
    assert (row.action, row.outcome, row.work, row.confidence, row.probabilities) == (
        "rebalance", "ordered", "1.", None, None,
    )  # fmt: skip
    assert (row.target, row.row) == (
        '[{"symbol":"AAA","goal":10},{"symbol":"CCC","goal":20}]', question.observation.data,
    )  # fmt: skip
    assert row.gates is not None
    assert '"turnover":""' in row.gates
    assert (d.state.stats.decisions, d.state.stats.actions) == (1, ())


def test_a_policy_that_chooses_has_its_action_counted_and_its_memory_handed_on() -> None:
    d = DailyDesk(strategy=Shelf(named=True)).fund().begin()
    d.bars(LAST_FRIDAY, AAA=100.0)
    d.due()
    d.answer(KEEP, KEEP, KEEP, hidden=b"\x01\x02")
    d.begin(TUESDAY)
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    rows = d.decisions()
    assert [(row.action, row.confidence, row.probabilities, row.outcome, row.gates) for row in rows] == [
        ("hold", 0.3, "[0.5,0.3,0.2]", "hold", None)
    ] * 2
    assert d.state.stats.actions == (0, 2, 0)


def test_the_hidden_state_of_an_answer_is_the_strategy_s() -> None:
    d = daily_desk()
    d.due()
    d.answer(KEEP, KEEP, KEEP, hidden=b"\x01\x02")
    assert d.state.strategy.hidden == b"\x01\x02"


def test_the_memory_outlives_days_without_an_answer_and_ends_with_the_model_it_is_of() -> None:
    d = daily_desk()
    days = [of(d.due(), AskPolicy)]
    d.answer(KEEP, KEEP, KEEP, hidden=b"\x01\x02")
    d.begin(TUESDAY)
    days.append(of(d.due(), AskPolicy))
    d.put(ev.PolicyFailed(d.state.now_ns, d.state.decision, "no"))
    d.begin(HALF_DAY)
    days.append(of(d.due(), AskPolicy))
    d.put(ev.ModelVerified(d.at(-14), "v2", "e", promoted=True, feed="sip"))
    d.begin(FRIDAY)
    days.append(of(d.due(), AskPolicy))
    d.answer(KEEP, KEEP, KEEP, hidden=b"\x03")
    assert [questions[0].observation.hidden for questions in days] == [b"", b"\x01\x02", b"\x01\x02", b""]
    assert (d.state.strategy.hidden, d.state.basket.memory_of) == (b"\x03", "v2")


def test_what_holds_trades_nothing() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.due()
    for effects in (d.answer(10, KEEP, 0), d.quotes(0, AAA="90", BBB="90"), d.tick(5)):
        assert orders(effects) == []
    assert (d.held, d.decisions()[-1].outcome) == ({"AAA": 10}, "hold")


def test_there_is_no_view_without_a_session() -> None:
    with pytest.raises(ValueError, match="SessionScheduled precedes every decision"):
        share_view(Draft(DailyDesk().state, desk_of(Shelf())), 0)


def test_an_option_desk_passes_a_daily_desk_s_events_over() -> None:
    d: Desk = desk()
    before = d.state
    now = d.at(1)
    d.put(
        ev.PricesPrinted(now, MONDAY.date, True, (ev.Price("SPY", Decimal(1)),)),
        ev.RebalanceDue(now, MONDAY.date),
        ev.HistoryAdjusted(now, "SPY", ()),
    )
    assert replace(d.state, now_ns=before.now_ns, seq=before.seq, fed=before.fed) == before


def test_a_daily_desk_passes_listed_contracts_over() -> None:
    d = daily_desk()
    assert d.put(ev.ContractsListed(d.state.now_ns, MONDAY.date, (), 0.2)) == []
    assert d.state.chain is None
