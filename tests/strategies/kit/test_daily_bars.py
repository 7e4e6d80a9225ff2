"""What a daily strategy keeps of its bars: in the order of time, one a session, the newest W, usable ones alone."""

from __future__ import annotations

import random
from math import inf, nan

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.kit.contract import Bar, Portfolio, ShareSpec, View
from strategies.kit.daily import (
    KeepsMinutes,
    KeptBars,
    Series,
    count,
    known_bars,
    newest_start_ns,
    no_bars,
    portfolio_of,
    prices,
    readjusted,
    remembered,
    weekday_of,
)
from strategies.regime_switcher import SPEC
from tests.support.strategies.days import days_of, portfolio_with, session_of, start_of, view_of

SMALL = msgspec.structs.replace(SPEC, history_bars=4)
BARS = days_of(SPEC, 6)  # 18 bars: SPY, QQQ, IWM of six days
SPY = BARS[::3]


def series_with(*bars: Bar) -> Series:
    return remembered(SMALL, no_bars(SMALL), bars)


def test_the_newest_w_bars_of_each_symbol_stay_oldest_first() -> None:
    series = series_with(*BARS)
    assert known_bars(SMALL, series) == {name: BARS[place::3][2:] for place, name in enumerate(SPEC.symbols)}
    assert [count(rows) for rows in series] == [4, 4, 4]
    assert [newest_start_ns(rows) for rows in series] == [start_of(5)] * 3


def test_symbols_without_a_bar_are_absent() -> None:
    assert known_bars(SMALL, no_bars(SMALL)) == {}
    assert known_bars(SMALL, series_with(SPY[0])) == {"SPY": (SPY[0],)}
    assert newest_start_ns(b"") == -1


def test_a_bar_of_a_known_start_replaces_it_whether_new_or_old() -> None:
    for place in range(3):
        other = msgspec.structs.replace(SPY[place], close=SPY[place].close + 1.0, high=SPY[place].high + 1.0)
        expected = [*SPY[:3]]
        expected[place] = other
        assert known_bars(SMALL, remembered(SMALL, series_with(*SPY[:3]), (other,)))["SPY"] == tuple(expected)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_order_and_the_portions_in_which_bars_come_change_nothing(seed: int, portion: int) -> None:
    shuffled = random.Random(seed).sample(SPY[2:], 4)
    series = no_bars(SMALL)
    for at in range(0, len(shuffled), portion):
        series = remembered(SMALL, series, shuffled[at : at + portion])
    assert series == series_with(*SPY)


def test_bars_of_strangers_and_without_usable_prices_are_left_out() -> None:
    series = series_with(*SPY[:2])
    bad = [msgspec.structs.replace(SPY[2], **{name: x}) for name in ("open", "low", "close") for x in (0.0, -1.0, nan)]
    bad += [msgspec.structs.replace(SPY[2], high=x) for x in (inf, nan, 2e9)]
    for bar in (*bad, msgspec.structs.replace(SPY[2], symbol="AAPL")):
        assert remembered(SMALL, series, (bar,)) == series


def test_a_readjustment_replaces_all_bars_of_its_symbol_alone() -> None:
    halved = tuple(
        msgspec.structs.replace(b, open=b.open / 2, high=b.high / 2, low=b.low / 2, close=b.close / 2) for b in SPY[1:4]
    )
    series = readjusted(SMALL, series_with(*BARS), "SPY", (*halved, BARS[1]))
    assert known_bars(SMALL, series) == {"SPY": halved, "QQQ": BARS[1::3][2:], "IWM": BARS[2::3][2:]}
    assert readjusted(SMALL, series, "AAPL", ()) == series
    assert readjusted(SMALL, series, "SPY", ())[0] == b""


def test_prices_are_open_high_low_and_close_as_they_came() -> None:
    columns = prices(series_with(*SPY[:3])[0])
    assert columns.tolist() == [
        [bar.open for bar in SPY[:3]],
        [bar.high for bar in SPY[:3]],
        [bar.low for bar in SPY[:3]],
        [bar.close for bar in SPY[:3]],
    ]
    assert all(row.flags.c_contiguous for row in columns)


def test_a_view_without_the_specs_portfolio_is_refused() -> None:
    session = session_of(0)
    with pytest.raises(ValueError, match="view of 2019-12-30 has no portfolio, regime_switcher expects one"):
        portfolio_of(SPEC, View(session.open_ns, session))
    short = Portfolio(cash=1.0, equity=1.0, shares=(0, 0, 0), prices=(1.0,))
    with pytest.raises(ValueError, match=r"shares and prices of \(3, 1\) symbols, regime_switcher expects 3 of each"):
        portfolio_of(SPEC, View(session.open_ns, session, portfolio=short))
    assert portfolio_of(SPEC, view_of(SPEC, 0)) == portfolio_with(SPEC)


def test_the_weekday_is_of_the_session_decided_for() -> None:
    assert [weekday_of(view_of(SPEC, day)) for day in range(5)] == [0, 1, 2, 3, 4]


class Minutes(KeepsMinutes[KeptBars]):
    spec = ShareSpec("m", 1, ("AAA", "BBB"), 60, 3, 1, (1,), "float32", ("x",), ("CASH",), 1.0)


def minute(symbol: str, start: int, close: float) -> Bar:
    return Bar(symbol, start, close, close, close, close, 1.0)


def test_bars_of_minutes_are_kept_by_symbol_whatever_holes_they_have() -> None:
    keeper = Minutes()
    state = KeptBars(no_bars(keeper.spec))
    state = keeper.kept(state, (minute("AAA", 0, 10.0), minute("BBB", 0, 20.0)))
    for start in (1, 2, 3):
        state = keeper.kept(state, (minute("AAA", start, 10.0 + start),))  # nobody trades BBB
    closes = {symbol: [bar.close for bar in bars] for symbol, bars in known_bars(keeper.spec, state.series).items()}
    assert closes == {"AAA": [11.0, 12.0, 13.0], "BBB": [20.0]}


def test_a_late_bar_takes_its_place_and_a_correction_that_of_its_own() -> None:
    keeper = Minutes()
    state = KeptBars(no_bars(keeper.spec))
    state = keeper.kept(state, (minute("AAA", 0, 10.0), minute("AAA", 2, 12.0)))
    state = keeper.correct(keeper.correct(state, minute("AAA", 1, 11.0)), minute("AAA", 2, 12.5))
    assert [bar.close for bar in known_bars(keeper.spec, state.series)["AAA"]] == [10.0, 11.0, 12.5]
    assert keeper.correct(keeper.kept(state, (minute("AAA", 3, 1.0),)), minute("AAA", 0, 9.0)).series == (
        keeper.kept(state, (minute("AAA", 3, 1.0),)).series
    )


def test_a_split_changes_the_bars_before_it_of_its_symbol_alone() -> None:
    keeper = Minutes()
    bars = (minute("AAA", 0, 400.0), minute("AAA", 1, 402.0), minute("AAA", 2, 101.0), minute("BBB", 0, 20.0))
    state = keeper.split(keeper.kept(KeptBars(no_bars(keeper.spec)), bars), "AAA", 4.0, 2)
    series = known_bars(keeper.spec, state.series)
    assert [(bar.start_ns, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in series["AAA"]] == [
        (0, 100.0, 100.0, 100.0, 100.0, 4.0),
        (1, 100.5, 100.5, 100.5, 100.5, 4.0),
        (2, 101.0, 101.0, 101.0, 101.0, 1.0),
    ]
    assert series["BBB"] == (minute("BBB", 0, 20.0),)
