"""What a status, the page of limits and Prometheus say of a model's claim about risk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon.core.events import PauseRequested
from daemon.dashboard.pages.risk import limits_now
from daemon.notify.phone import in_words
from daemon.operator.fleet import fleet_of
from daemon.operator.status import ClaimStatus, claim_of, in_one_line, rows, status_of
from tests.support.core.claims import day, judge, quoted, verdict, watched
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.desk import FRIDAY, HALF_DAY, TUESDAY, desk


def row(d: DailyDesk) -> str:
    return dict(rows(status_of(d.state, "desk"))).get("risk, stated", "")


def test_a_desk_without_a_claim_says_nothing_of_one() -> None:
    d = DailyDesk().fund().holds(AAA=50)
    assert claim_of(d.state) is None
    assert row(d) == ""
    assert [line for line in limits_now(d.state, d.strategy.spec) if "state" in line.name] == []


def test_both_sides_of_a_claim_stand_beside_each_other() -> None:
    """10,100 / 10,000 and 10,000 / 10,100: deviation 0.01407 a session, 22.3 % a year; 1 % below the highest close."""
    d = watched()
    day(d, TUESDAY, 102.0)
    assert row(d) == ("volatility 0.0% in 1 sessions of 2, stated 8.0% to 12.0%; drawdown 0.0%, at most 4.0%")
    day(d, HALF_DAY, 100.0)
    assert row(d) == ("volatility 22.3% in 2 sessions of 2, stated 8.0% to 12.0%; drawdown 1.0%, at most 4.0%")
    lines = {line.name: (line.value, line.limit) for line in limits_now(d.state, d.strategy.spec)}
    assert lines["volatility, 2 of 2 sessions, stated from 8.00 %"] == ("22.34 %", "12.00 %")
    assert lines["drawdown that the model states"] == ("0.99 %", "4.00 %")


def test_a_broken_claim_is_said_first_with_the_way_out() -> None:
    d = watched()
    d.begin(TUESDAY)
    quoted(d, 1, AAA="91")
    assert verdict(d) == "drawdown"
    judge(d, "former_version", "v0")
    status = claim_of(d.state)
    assert status is not None
    assert (status.verdict, status.former) == ("drawdown", "v0")
    assert status.drawdown == pytest.approx(0.045)
    fleet = fleet_of([("a", status_of(d.state, "a"))], 0.0).desks
    assert (fleet[0].trading, fleet[0].may_trade) == (
        "claim broken: 4.50% of the highest close lost, at most 4.00% stated",
        False,
    )
    assert row(d).startswith("BROKEN: 4.50% of the highest close lost, at most 4.00% stated, no new risk")


def test_a_verdict_stays_until_the_next_one() -> None:
    d = watched()
    for session, close in ((TUESDAY, 102.0), (HALF_DAY, 100.0)):
        day(d, session, close)
    judge(d, "alarm")
    day(d, FRIDAY, 100.0)
    status = claim_of(d.state)
    assert status is not None
    assert (status.verdict, status.sessions, status.broken) == ("above", 3, "")


def test_a_status_line_and_the_phone_say_what_keeps_a_desk_from_new_risk() -> None:
    d = desk()
    assert in_one_line(status_of(d.state, "d")).startswith("reconciled; ")
    assert in_words(status_of(d.state, "d")).startswith("d (replay) trades\n")
    d.put(PauseRequested(d.at(1), "lunch", "ann"))
    paused = status_of(d.state, "d")
    breach = replace(paused, pause="", claim=ClaimStatus("v1", 0.1, 0, 0.1, 1, 0, 1, 0, 0, "above", "too much", ""))
    for status, words in ((paused, f"paused: {paused.pause}"), (breach, "claim broken: too much")):
        assert in_one_line(status).startswith(f"{words}; ")
        assert in_words(status).startswith(f"d (replay) {words}\n")
