"""Daily prices as minutes, and what corporate actions make of them.

Expected values by hand, and by the invariant of a path: its minutes put together are the daily bar.
"""

from __future__ import annotations

import itertools
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.data.fields import merge_bars
from simulator.prices.corporate_actions import Dividend, Merger, SpinOff, Split, adjust_bar
from simulator.prices.day_prices import DailyPrices, minutes_of
from simulator.prices.market import NEVER_NS, POINT_NS
from simulator.prices.tape import midnight_ns
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS
from tests.support.examples import examples
from tests.support.simulator.share_days import DATES, OPENS, SESSIONS, VOLUME, at, shares

CENTS = st.integers(100, 100_000)


@settings(max_examples=examples(50))
@given(CENTS, CENTS, CENTS, CENTS, st.integers(390, 10**9), st.sampled_from([390, 210]), st.integers(0, 3))
def test_the_minutes_of_a_session_put_together_are_always_its_daily_bar(
    one: int, two: int, three: int, four: int, volume: int, count: int, seed: int
) -> None:
    low, opening, close, high = sorted((one, two, three, four))
    bar = Bar("AAA", midnight_ns(DATES[0]), opening / 100, high / 100, low / 100, close / 100, float(volume))
    session = Session(DATES[0], OPENS[DATES[0]], OPENS[DATES[0]] + count * MINUTE_NS)
    minutes = minutes_of(bar, session, seed)
    assert len(minutes) == count
    assert merge_bars(minutes, bar.start_ns) == bar
    assert all(minute.low <= minute.open <= minute.high and minute.volume > 0 for minute in minutes)
    assert all(later.open == earlier.close for earlier, later in itertools.pairwise(minutes))


def test_a_penny_share_has_four_decimals_and_a_narrow_spread() -> None:
    bar = Bar("PNY", midnight_ns(DATES[0]), 0.5432, 0.5501, 0.5399, 0.5411, VOLUME)
    days = DailyPrices([bar], SESSIONS)
    minutes = days.minutes("PNY")[:]
    assert merge_bars(minutes, bar.start_ns) == bar
    market = shares()
    assert market.quote("CCC", OPENS[DATES[0]]) == (Decimal("10.00"), Decimal("10.01"))


def test_a_share_trades_at_its_open_at_the_open_and_stands_at_its_close_after_the_close() -> None:
    market = shares()
    assert market.price(OPENS["2024-06-03"], "AAA") == 100
    assert market.price(at("2024-06-03", 20), "AAA") == 102
    assert market.price(OPENS["2024-06-03"] - 1, "AAA") is None
    assert market.closing_price("2024-06-03") == 102
    assert market.opening_print("AAA", OPENS["2024-06-04"]) == 102
    assert market.opening_print("AAA", at("2024-06-04", 9)) is None


def test_a_split_restates_the_standing_price_on_its_morning() -> None:
    market = shares()
    assert market.price(at("2024-06-05", 4) - 1, "AAA") == 104
    assert market.price(at("2024-06-05", 4), "AAA") == 52


def test_a_halted_share_keeps_its_price_and_does_not_trade() -> None:
    market = shares()
    assert market.trading("CCC", OPENS["2024-06-05"])
    assert not market.trading("CCC", OPENS["2024-06-06"])
    assert not market.tradable("CCC", OPENS["2024-06-06"])
    assert market.opening_print("CCC", OPENS["2024-06-06"]) is None
    assert market.price(OPENS["2024-06-06"], "CCC") == 10
    assert market.tradable("CCC", OPENS["2024-06-07"])
    assert not market.tradable("CCC", OPENS["2024-06-10"])


def test_path_points_run_through_sessions_and_end_with_them() -> None:
    market = shares()
    open_ns, close_ns = SESSIONS[0].open_ns, SESSIONS[0].close_ns
    assert market.next_change(0) == open_ns
    assert market.next_change(open_ns) == open_ns + POINT_NS
    assert market.next_change(close_ns - 1) == SESSIONS[1].open_ns
    assert market.next_change(SESSIONS[5].close_ns) == NEVER_NS


def test_what_is_made_up_or_read_is_continuous_once_it_is_adjusted_for_what_was_scripted() -> None:
    plain = DailyPrices.made_up(["AAA", "BBB"], SESSIONS, seed=3)
    scripted = DailyPrices.made_up(
        ["AAA", "BBB"],
        SESSIONS,
        seed=3,
        splits=[Split("AAA", DATES[2], Decimal(4))],
        dividends=[Dividend("AAA", DATES[4], Decimal("1.50"))],
        spin_offs=[SpinOff("AAA", DATES[1], "KID", Decimal("0.5"), part=0.25)],
    )
    assert scripted.bars["BBB"] == plain.bars["BBB"]
    steps = scripted.steps("AAA", "all", DATES[5])
    for day, bar in scripted.bars["AAA"].items():
        assert adjust_bar(bar, day, steps).close == pytest.approx(plain.bars["AAA"][day].close, abs=0.006)
    jump = scripted.bars["AAA"][DATES[1]].close / plain.bars["AAA"][DATES[1]].close
    assert jump == pytest.approx(4 * (1 + 1.5 / plain.bars["AAA"][DATES[3]].close), rel=1e-3)
    first, second = (scripted.bars["AAA"][day] for day in DATES[:2])
    assert first.close / plain.bars["AAA"][DATES[0]].close == pytest.approx(jump / 0.75, rel=1e-3)
    # two old shares have the worth of one new one along: a quarter of theirs, with three quarters left to them
    worth = {day: bar.close / scripted.bars["AAA"][day].close for day, bar in scripted.bars["KID"].items()}
    assert list(worth) == [session.date for session in SESSIONS[1:]]
    assert worth[DATES[1]] == pytest.approx(2 / 3, rel=1e-3)
    assert worth[DATES[2]] == pytest.approx(4 * 2 / 3, rel=1e-3)  # the old one's split is none of the new one's
    assert second.volume == scripted.bars["KID"][DATES[1]].volume


def test_a_made_up_share_closes_where_it_is_told_to() -> None:
    days = DailyPrices.made_up(["SPY"], SESSIONS, last=DATES[3], closes={"SPY": (DATES[3], 545.0)})
    assert days.bars["SPY"][DATES[3]].close == 545.0
    assert list(days.bars["SPY"]) == list(DATES[:4])


def test_an_action_of_a_share_without_bars_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="ZZZ has an action but no bar"):
        DailyPrices.made_up(["AAA"], SESSIONS, delisted={"ZZZ": DATES[0]})
    with pytest.raises(ValueError, match="ZZZ has an action but no bar"):
        DailyPrices.made_up(["AAA"], SESSIONS, mergers=[Merger("AAA", DATES[1], new="ZZZ", ratio=Decimal(1))])


def test_real_daily_bars_are_read_by_symbol_and_date(data_dir: Path) -> None:
    days = DailyPrices.from_parquet(
        data_dir / "etf_daily_2010_2022.parquet", symbols=["SPY", "IWM"], first="2022-12-28", sessions=SESSIONS
    )
    assert sorted(days.bars) == ["IWM", "SPY"]
    assert list(days.bars["SPY"]) == ["2022-12-28", "2022-12-29", "2022-12-30"]
    with pytest.raises(ValueError, match="no bar from 2030-01-01"):
        DailyPrices.from_parquet(data_dir / "etf_daily_2010_2022.parquet", first="2030-01-01")


def test_the_actions_of_a_share_come_in_order_and_a_dividend_twice() -> None:
    days = shares().days
    assert days is not None
    happenings = [(action.symbol, is_payment) for _, action, is_payment in days.actions()]
    assert happenings == [("AAA", False), ("BBB", False), ("OLD", False), ("BBB", True)]
