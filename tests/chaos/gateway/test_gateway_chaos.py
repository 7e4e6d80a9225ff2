"""The short form of the gateway's campaign: three desks behind a gateway, one morning, a fixed seed."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.desks.market import calendar
from tests.chaos.gateway.boundaries import BOUNDARIES
from tests.chaos.gateway.campaign import campaign, format_report
from tests.chaos.gateway.plan import DESK, DESKS, GATEWAY, PERSON, drawn, of_broker

SEED = 20261302
SESSIONS = 1
DATES = [session.date for session in calendar()]


def test_what_befalls_a_floor_is_the_same_whenever_seed_and_date_are() -> None:
    for owner in ("gateway", "broker", "person", *DESKS):
        assert drawn(7, DATES[0], owner) == drawn(7, DATES[0], owner)
    assert drawn(7, DATES[0], "gateway") != drawn(8, DATES[0], "gateway")


def test_a_thousand_sessions_deal_every_kind() -> None:
    owners = ("gateway", "broker", "person", *DESKS)
    dealt = {t.kind.name for seed in range(50) for date in DATES for owner in owners for t in drawn(seed, date, owner)}
    whole = {*GATEWAY, *DESK, *PERSON, *(kind.name for kind in of_broker())}
    assert dealt <= whole
    assert whole - dealt == set()
    assert all(f"gateway: killed where {words}" in dealt for words in BOUNDARIES)


def test_whatever_befalls_them_sub_accounts_add_up_and_each_desk_s_book_is_its_own(tmp_path: Path) -> None:
    print(f"gateway's campaign, seed {SEED}, {SESSIONS} sessions")
    outcomes = campaign(SEED, SESSIONS, 1, tmp_path)
    print(format_report(outcomes, SEED))
    assert [outcome.problems for outcome in outcomes] == [()]
    assert sum(outcome.fills for outcome in outcomes) > 20
    assert sum(outcome.gateway_lives for outcome in outcomes) > 1
    assert outcomes[0].looks["equal"] > 20
