"""A model's claim about risk against the desk's own closes: what counts, when it is judged, and what follows.

The desk and its figures: `tests.support.core.claims`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from daemon.core.effects import RaiseAlarm, SubmitOrder
from daemon.core.events import (
    CashTransferred,
    ClaimJudged,
    FlattenRequested,
    HaltRequested,
    LadderMoved,
    ModelPromoted,
    PauseRequested,
    ResumeRequested,
    SessionEnded,
)
from daemon.core.risk.claim import fall, volatility
from daemon.core.state import BrokenClaim, ClaimState, encode_state
from tests.support.core.account import Account, line
from tests.support.core.claims import CLAIM, claim_of, day, judge, quoted, verdict, verified, watched
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, orders
from tests.support.core.daily_live import IGNORE, with_shares
from tests.support.core.desk import FRIDAY, HALF_DAY, MONDAY, TUESDAY, alarms, of

# --- what counts ------------------------------------------------------------------------------------------------------


def test_a_desk_without_a_claim_keeps_the_bytes_of_its_state() -> None:
    d = DailyDesk().fund().holds(AAA=50)
    assert b"claim" not in encode_state(d.state)


def test_the_returns_are_those_from_close_to_close() -> None:
    """Equity 10,000 at Monday's close, then 10,100, 10,000 and 10,050."""
    d = watched()
    assert claim_of(d).returns == ()
    for session, close in ((TUESDAY, 102.0), (HALF_DAY, 100.0), (FRIDAY, 101.0)):
        day(d, session, close)
    assert claim_of(d).returns == pytest.approx((10_000 / 10_100 - 1, 0.005), abs=1e-15)
    assert (claim_of(d).sessions, claim_of(d).left_out) == (3, 0)


def test_the_volatility_is_the_deviation_of_a_year_of_252_sessions() -> None:
    returns = (0.01, -0.004, 0.0025, -0.013)
    assert volatility(returns) == pytest.approx(statistics.stdev(returns) * 252**0.5, rel=1e-12)
    assert volatility(()) == volatility((0.01,)) == 0.0


@pytest.mark.parametrize("amount", [2_500, -2_500])
@pytest.mark.parametrize("minute", [-20, 60])
def test_a_transfer_is_no_return(amount: int, minute: int) -> None:
    """50 AAA rise by 2 USD before the transfer, and by 2 USD after it: 100 USD more of what is there each time."""
    d = watched()
    d.begin(TUESDAY)
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    if minute > 0:
        quoted(d, 1, AAA="102")
    d.put(CashTransferred(d.at(max(minute, -14)), Decimal(amount)))
    quoted(d, 90, AAA="104")
    d.end(AAA=104.0, BBB=100.0, CCC=100.0)
    cash_after = 10_000 + amount
    expected = (
        (10_100 / 10_000) * ((cash_after + 200) / (cash_after + 100)) if minute > 0 else (cash_after + 200) / cash_after
    )
    assert claim_of(d).returns == pytest.approx((expected - 1,), abs=1e-6)  # references are whole cents


def test_a_dividend_is_no_return_and_its_money_counts_for_the_drawdown() -> None:
    account = Account()
    d = with_shares(account, AAA=50)
    d.put(verified(d))
    d.put(SessionEnded(TUESDAY.close_ns, TUESDAY.date))  # the first close: 10,000
    d.begin(HALF_DAY)
    account.lines.append(line("DIV", "AAA", amount="25"))
    account.cash += 25
    d.put(account.report(d.at(-20)))
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    quoted(d, 1, AAA="99.5")
    d.end(AAA=99.5, BBB=100.0, CCC=100.0)
    assert d.state.book.equity == 10_000
    assert claim_of(d).returns == pytest.approx((-25 / 10_025,), abs=1e-6)
    assert fall(d.state.claim, d.state.book) == 0.0


def test_what_others_hold_in_the_account_is_not_the_desks() -> None:

    account = Account("30000")
    d = with_shares(account, IGNORE, AAA=50)
    d.put(verified(d))
    d.put(SessionEnded(TUESDAY.close_ns, TUESDAY.date))
    d.begin(HALF_DAY)
    name = account.by_hand("by-hand", "BBB", 1, 100, d.at(-25))
    account.fill(name, 100, "100", d.at(-24))
    d.put(account.report(d.at(-20)))
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    quoted(d, 1, AAA="102", BBB="50")
    d.end(AAA=102.0, BBB=50.0, CCC=100.0)
    base = 30_000 - 10_000  # another party's shares were paid from the account: a transfer
    assert claim_of(d).returns == pytest.approx((100 / base,), abs=2e-6)


def test_a_session_without_a_close_is_left_out_and_its_loss_counts_for_the_drawdown() -> None:
    """The daemon was dead on Tuesday: what was lost in two sessions is no session's return."""
    d = watched()
    day(d, HALF_DAY, 95.0)
    claim = claim_of(d)
    assert (claim.returns, claim.sessions, claim.left_out) == ((), 0, 1)
    assert claim.why_left_out == f"no close was seen between {MONDAY.date} and {HALF_DAY.date}"
    assert fall(claim, d.state.book) == pytest.approx(250 / 10_000)
    day(d, FRIDAY, 96.0)
    assert claim_of(d).returns == pytest.approx((50 / 9_750,))


def test_a_night_without_a_daemon_leaves_the_next_session_in() -> None:
    d = watched()
    d.put(verified(d))  # a start
    day(d, TUESDAY, 102.0)
    assert (len(claim_of(d).returns), claim_of(d).left_out) == (1, 0)


def paused(d: DailyDesk) -> None:
    d.put(PauseRequested(d.state.now_ns, "lunch", "me"))


def halted(d: DailyDesk) -> None:
    d.put(HaltRequested(d.state.now_ns, "operator", "lunch", "me"))


def canary(d: DailyDesk) -> None:
    d.put(LadderMoved(d.state.now_ns, "v1", "shadow", "canary_10", "v0", 0.1, 0, "shadow_passed", ""))


@pytest.mark.parametrize(
    ("before", "why"),
    [(paused, "paused: lunch (by me)"), (halted, "halted: operator"), (canary, "the version trades 10% of the size")],
)
def test_a_session_under_other_rules_is_left_out(before: Callable[[DailyDesk], None], why: str) -> None:
    d = watched()
    before(d)
    day(d, TUESDAY, 102.0)
    assert (claim_of(d).returns, claim_of(d).why_left_out) == ((), why)


def test_a_session_without_a_question_is_left_out() -> None:
    d = watched()
    day(d, TUESDAY, 102.0, asked=False)
    assert (claim_of(d).returns, claim_of(d).why_left_out) == ((), "no question was asked")


def test_another_model_or_another_claim_begins_a_new_window() -> None:
    d = watched()
    day(d, TUESDAY, 102.0)
    d.put(verified(d))
    assert len(claim_of(d).returns) == 1
    d.put(ModelPromoted(d.state.now_ns, "v2", "e", True, "sip", "v1", CLAIM))
    assert (claim_of(d).version, claim_of(d).returns, claim_of(d).sessions) == ("v2", (), 0)
    day(d, HALF_DAY, 101.0)
    day(d, FRIDAY, 102.0)
    assert len(claim_of(d).returns) == 1  # from its own first close on
    d.put(verified(d, msgspec.structs.replace(CLAIM, high=0.2), "v2"))
    assert claim_of(d).returns == ()
    d.put(ModelPromoted(d.state.now_ns, "v3", "f", True, "sip", "v2"))
    assert (claim_of(d).version, claim_of(d).claim) == ("", None)


# --- when it is judged ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high", "expected"), [(0.1, 0.2, "above"), (0.1, 0.3, "kept"), (0.25, 0.3, "below")])
def test_the_volatility_is_judged_by_whole_windows_and_once(low: float, high: float, expected: str) -> None:
    """10,100 / 10,000 and 10,000 / 10,100: deviation 0.01407 a session, 0.2234 a year."""
    d = watched(msgspec.structs.replace(CLAIM, low=low, high=high))
    day(d, TUESDAY, 102.0)
    assert verdict(d) == ""
    day(d, HALF_DAY, 100.0)
    assert verdict(d) == expected
    judge(d, "alarm")
    assert verdict(d) == ""
    day(d, FRIDAY, 102.0)
    assert verdict(d) == ""  # one session of the next window
    assert claim_of(d).verdict == expected


def test_a_drawdown_beyond_the_stated_one_is_judged_at_once() -> None:
    d = watched()
    d.begin(TUESDAY)
    quoted(d, 1, AAA="92")  # exactly 4 % of 10,000
    assert d.state.book.equity == 9_600
    assert verdict(d) == ""
    quoted(d, 2, AAA="91.9")
    assert verdict(d) == "drawdown"


def test_a_drawdown_is_that_of_as_many_closes_as_the_claim_is_about() -> None:
    """10,300, then 10,000 and 9,700: 3 % within two closes each, 5.8 % within three."""
    d = watched(msgspec.structs.replace(CLAIM, low=0.0, high=9.0, drawdown_sessions=2))
    for session, close in ((TUESDAY, 106.0), (HALF_DAY, 100.0)):
        day(d, session, close)
    assert fall(d.state.claim, d.state.book) == pytest.approx(1 - 10_000 / 10_300)
    day(d, FRIDAY, 94.0)
    assert fall(d.state.claim, d.state.book) == pytest.approx(1 - 9_700 / 10_000)
    assert verdict(d) == "kept"


def test_the_equity_at_which_a_version_begins_counts_as_a_close() -> None:
    """It begins at 10,000 in cash, and at Monday's close 5 % of that are lost."""
    d = DailyDesk().fund()
    d.put(verified(d))
    d.begin(MONDAY)
    d.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    d.due()
    d.answer(50, KEEP, KEEP)
    for order in of(d.quotes(0, AAA="100"), SubmitOrder):
        d.fill(order.client_order_id, order.quantity, "100")
    quoted(d, 1, AAA="93")
    assert fall(d.state.claim, d.state.book) == pytest.approx(0.035)
    assert verdict(d) == ""
    quoted(d, 2, AAA="90")
    assert verdict(d) == "drawdown"
    d.end(AAA=90.0, BBB=100.0, CCC=100.0)
    assert fall(d.state.claim, d.state.book) == pytest.approx(0.05)


@pytest.mark.parametrize("amount", [5_000, -5_000])
def test_a_transfer_moves_no_drawdown(amount: int) -> None:
    d = watched()
    d.begin(TUESDAY)
    quoted(d, 1, AAA="94")
    d.put(CashTransferred(d.at(2), Decimal(amount)))
    assert fall(d.state.claim, d.state.book) == pytest.approx(0.03, abs=1e-5)


# --- what follows -----------------------------------------------------------------------------------------------------


def broken_claim(consequence: str = "no_new_risk", former: str = "") -> tuple[DailyDesk, list[Any]]:
    """A desk that lost 4.05 % at Tuesday's open, and what the event about it caused."""
    d = watched()
    d.begin(TUESDAY)
    d.due()
    d.answer(KEEP, KEEP, KEEP)
    quoted(d, 1, AAA="91.9")
    return d, judge(d, consequence, former)


def test_a_broken_claim_is_an_alarm_and_a_state_that_lasts_until_a_resume() -> None:
    d, effects = broken_claim()
    assert alarms(effects) == ["claim_broken"]
    assert of(effects, RaiseAlarm)[0].detail == (
        "v1: 4.05% of the highest close lost, at most 4.00% stated; "
        "it takes no new risk until the desk is resumed; exits go on"
    )
    assert [*claim_of(d).broken] == ["v1"]
    d.put(verified(d))  # a start
    assert [*claim_of(d).broken] == ["v1"]
    assert verdict(d) == ""  # said once
    d.put(ResumeRequested(d.state.now_ns, "looked at", "me"))
    assert claim_of(d) == ClaimState("v1", CLAIM)
    assert fall(d.state.claim, d.state.book) == 0.0  # counted from here


def test_while_a_claim_is_broken_the_sales_of_a_basket_go_on_and_its_buys_do_not() -> None:
    d, _ = broken_claim()
    d.end(AAA=92.0, BBB=100.0, CCC=100.0)
    d.begin(HALF_DAY)
    d.due()
    effects = d.answer(20, 10, KEEP)
    assert orders(effects) == [("AAA", -30, None)]  # into the auction
    d.fill(of(effects, SubmitOrder)[0].client_order_id, 30, "92")
    assert orders(quoted(d, 1, AAA="92", BBB="100")) == []
    row = d.decisions()[-1]
    assert row.outcome == "ordered"
    assert row.gates is not None
    assert msgspec.json.decode(row.gates)["claim_broken"].startswith("v1 broke its claim about risk: 4.05%")
    d.put(ResumeRequested(d.at(2), "looked at", "me"))
    d.end(AAA=92.0, BBB=100.0, CCC=100.0)
    d.begin(FRIDAY)
    d.due()
    d.answer(KEEP, 10, KEEP)
    assert [line[:2] for line in orders(quoted(d, 1, AAA="92", BBB="100"))][-1:] == [("BBB", 10)]


def test_a_broken_claim_ends_the_buys_of_the_basket_that_runs_and_not_its_sales() -> None:
    d = watched()
    d.begin(TUESDAY)
    d.due()
    d.answer(20, 10, KEEP)
    quoted(d, 1, AAA="100", BBB="100")
    assert dict(d.working()) == {"AAA": -30, "BBB": 10}
    quoted(d, 1.5, AAA="91.9")
    effects = judge(d)
    cancelled = [effect.client_order_id for effect in effects if type(effect).__name__ == "CancelOrder"]
    assert [d.order(name).symbol for name in cancelled] == ["BBB"]


def test_an_exit_by_a_rule_leaves_while_a_claim_is_broken() -> None:
    d, _ = broken_claim()
    d.put(FlattenRequested(d.at(5), "enough", "me"))
    sales = of(quoted(d, 6, AAA="91.9"), SubmitOrder) or of(d.effects, SubmitOrder)
    assert (sales[-1].symbol, sales[-1].side, sales[-1].quantity) == ("AAA", -1, 50)


def test_another_version_takes_risk_and_the_broken_one_not_even_when_it_comes_back() -> None:
    d, _ = broken_claim("former_version", "v0")
    assert claim_of(d).broken["v1"].former == "v0"
    d.put(ModelPromoted(d.state.now_ns, "v0", "e", True, "sip", "v1"))
    d.end(AAA=92.0, BBB=100.0, CCC=100.0)
    d.begin(HALF_DAY)
    d.due()
    d.answer(KEEP, 10, KEEP)
    assert [line[:2] for line in orders(quoted(d, 1, AAA="92", BBB="100"))] == [("BBB", 10)]
    d.put(ModelPromoted(d.state.now_ns, "v1", "d", True, "sip", "v0", CLAIM))
    d.end(AAA=92.0, BBB=100.0, CCC=100.0)
    d.begin(FRIDAY)
    d.due()
    d.answer(KEEP, KEEP, 10)
    assert d.decisions()[-1].outcome == "denied"


def test_a_claim_that_only_alarms_is_said_again_once_as_much_is_lost_again() -> None:
    d, effects = broken_claim("alarm")
    assert alarms(effects) == ["claim_broken"]
    assert claim_of(d).broken == {}
    assert verdict(d) == ""
    quoted(d, 2, AAA="84.4")  # 9,220 of 9,595
    assert verdict(d) == ""
    quoted(d, 3, AAA="84.2")
    assert verdict(d) == "drawdown"


def test_a_verdict_about_a_version_that_answers_no_more_changes_nothing() -> None:
    d, _ = broken_claim("alarm")
    d.put(ModelPromoted(d.state.now_ns, "v2", "e", True, "sip", "v1", CLAIM))
    before = claim_of(d)
    assert d.put(ClaimJudged(d.state.now_ns, "v1", "above", "late", 60, 0.2, 0.0, "no_new_risk")) == []
    assert claim_of(d) == before


def test_less_risk_than_stated_is_noted_and_nothing_follows() -> None:
    d = watched(msgspec.structs.replace(CLAIM, low=0.3, high=0.4))
    day(d, TUESDAY, 102.0)
    day(d, HALF_DAY, 100.0)
    assert alarms(judge(d, "")) == []
    assert (claim_of(d).verdict, claim_of(d).broken) == ("below", {})


def test_a_broken_state_survives_its_own_bytes() -> None:
    d, _ = broken_claim("no_new_risk")
    again = d.core.decoder().decode(encode_state(d.state))
    assert again == d.state
    assert isinstance(again.claim, ClaimState)
    assert isinstance(again.claim.broken["v1"], BrokenClaim)
