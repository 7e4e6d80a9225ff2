"""The short form of the desks' campaign: five daemons, two sessions and the night between them, a fixed seed."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.desks import market as desks_market
from tests.chaos.desks import plan as desks_plan
from tests.chaos.desks.__main__ import campaign, format_report
from tests.chaos.desks.plan import DAILY, DESKS, IN_STEP, ONLINE, OWN, SCALPER, SHARES, STREAM

SEED = 20261284
SESSIONS = 2
DATES = [session.date for session in desks_market.calendar()]


def test_the_campaign_has_twenty_sessions_a_change_of_clocks_and_a_half_day() -> None:
    sessions = desks_market.calendar()
    assert len(sessions) == 20
    assert len({session.open_ns % (86_400 * 10**9) for session in sessions}) == 2
    assert [s.date for s in sessions if s.close_ns - s.open_ns < 6 * 3600 * 10**9] == ["2024-11-29"]


def test_what_befalls_a_desk_is_the_same_whenever_seed_and_date_are() -> None:
    first = desks_plan.troubles(7, DATES[0], SCALPER)
    assert [trouble.kind.name for trouble, _ in first] == [
        trouble.kind.name for trouble, _ in desks_plan.troubles(7, DATES[0], SCALPER)
    ]
    assert first != desks_plan.troubles(8, DATES[0], SCALPER)
    assert desks_market.happenings(7, DATES) == desks_market.happenings(7, DATES)


def test_thirty_campaigns_deal_every_rounding_and_desks_of_shares_with_and_without_fractions() -> None:
    moneys = {desk: {desks_plan.money(seed, desk).fractions for seed in range(30)} for desk in DESKS}
    assert moneys == {desk: {"off"} if desk == SCALPER else {"off", "auto", "on"} for desk in DESKS}
    rules = [desks_plan.broker_rules(seed) for seed in range(30)]
    assert {one.cash_rounding for one in rules} == {"none", "fill", "order"}
    assert {one.fractions_in_parts for one in rules} == {bool(one.not_fractionable) for one in rules} == {True, False}
    assert {one.taf_per_share > 0 for one in rules} == {True, False}


def test_persons_trade_fractions_in_some_campaigns_and_sell_what_they_bought() -> None:
    parts = set()
    for seed in range(6):
        events = desks_market.happenings(seed, DATES)
        orders = [order for date in DATES for order in desks_market.persons(seed, events, DATES, date)]
        parts.add(any(order.quantity % 1 for order in orders))
        purchases = {order.symbol: order.quantity for order in orders if order.side == "buy"}
        sales = {order.symbol: order.quantity for order in orders if order.side == "sell"}
        assert all(purchases[symbol] == quantity for symbol, quantity in sales.items() if symbol in purchases)
    assert parts == {True, False}


def test_five_campaigns_deal_every_kind_of_a_daily_desk_s_own() -> None:
    dealt = {
        trouble.kind.name.partition(": ")[2]
        for seed in range(5)
        for date in DATES
        for desk in DAILY
        for trouble, _ in desks_plan.troubles(seed, date, desk)
    }
    assert dealt >= OWN.keys()


def test_five_campaigns_deal_every_kind_of_shares_by_the_minute() -> None:
    dealt = {
        trouble.kind.name.partition(": ")[2]
        for seed in range(5)
        for date in DATES
        for trouble, _ in desks_plan.troubles(seed, date, ONLINE)
    }
    assert dealt >= SHARES.keys()


def test_five_campaigns_deal_every_kind_of_the_stream() -> None:
    dealt = {one.name for seed in range(5) for date in DATES for one in desks_plan.stream_troubles(seed, date)}
    assert dealt == {*STREAM, *IN_STEP}


def test_a_trouble_acts_on_its_own_account_wherever_the_server_knows_the_account() -> None:
    for trouble, _ in desks_plan.troubles(7, DATES[0], DESKS[1]):
        for line in desks_plan.bound(trouble, "K").lines:
            assert line.where.get("key") == "K" or line.kind.startswith(desks_plan.NOWHERE)


def test_whatever_befalls_five_desks_each_keeps_its_own_book_and_a_daily_one_its_basket_a_day(
    tmp_path: Path,
) -> None:
    print(f"campaign of desks, seed {SEED}, {SESSIONS} sessions")
    host = campaign(SEED, SESSIONS, tmp_path / "host", shipped=False)
    print(format_report(host))
    assert host.problems == []
    assert len(host.lines) == SESSIONS
    assert sum(station.baskets for station in host.stations) > 0
    assert all(station.account.trades for station in host.stations)
    assert host.stream is None or host.stream.met
