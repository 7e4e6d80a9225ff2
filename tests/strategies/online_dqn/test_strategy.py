"""`online_dqn` as the desk calls it: rows of a small state vector by hand, what is left alone, and what actions do."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from strategies.kit.contract import Answer, Bar, Leg, Observation, Portfolio, Session, View
from strategies.online_dqn import BUY, HOLD, SELL, OnlineDqn, OnlineState, resolve, with_config
from strategies.online_dqn.state_vector import parse

MIN = 60 * 10**9
DAY = 1440 * MIN
MODEL = parse(
    b"version: 1\nsymbols: [SPY, QQQ]\nwindow: 2\n"
    b"indicators: [{name: ROCP, parameters: {timeperiod: 1}}]\n"
    b"portfolio: [position, cash_share, age]\nscaling: {clip: 5}\nheads: {direction: {bars: 3}, risk: {bars: 4}}\n",
    "m.yaml",
)
DESK = OnlineDqn(MODEL)
W = DESK.spec.history_bars
FLAT = Portfolio(10_000.0, 10_000.0, (0, 0), (100.0, 50.0), weight_max=0.95)


def session(day: int) -> Session:
    return Session(f"2024-07-0{day + 1}", day * DAY, day * DAY + 390 * MIN)


def view(day: int, minute: int, portfolio: Portfolio | None = FLAT) -> View:
    return View(day * DAY + (minute + 1) * MIN, session(day), portfolio=portfolio)


def bar(symbol: str, day: int, minute: int, close: float) -> Bar:
    return Bar(symbol, day * DAY + minute * MIN, close, close, close, close, 10.0)


def warm(symbols: tuple[str, ...] = ("SPY", "QQQ")) -> OnlineState:
    """A state after W bars of the first session, all at 100 USD."""
    state: OnlineState = DESK.start()
    for minute in range(W):
        state, observation = DESK.observe(
            state, tuple(bar(symbol, 0, minute, 100.0) for symbol in symbols), view(0, minute)
        )
        assert observation is None  # these bars are of the session itself, not of before it
    return state


def rows(observation: Observation | None) -> list[list[float]]:
    assert observation is not None
    array = np.frombuffer(observation.data, "<f4").reshape(observation.shape)
    return [[round(float(value), 6) for value in row] for row in array]


def answer(*values: float, draws: tuple[int, ...] = ()) -> Answer:
    return Answer(tuple(map(float, values)), drawn=draws)


def test_the_spec_is_what_the_configuration_says() -> None:
    assert (DESK.spec.symbols, DESK.spec.bar_interval_s, DESK.spec.window) == (("SPY", "QQQ"), 60, 2)
    assert DESK.spec.features == ("ROCP(1)", "position", "cash_share", "age")
    assert DESK.spec.observation_shape == (2 * 1 + 3,)
    assert [head.name for head in DESK.spec.heads] == ["direction", "risk"]
    assert "3 bars later" in DESK.spec.heads[0].meaning
    assert "within 4 bars" in DESK.spec.heads[1].meaning
    again = with_config(MODEL.text, ("IWM",))
    assert (again.spec.symbols, again.spec.features) == (("IWM",), DESK.spec.features)
    assert not OnlineDqn(parse(b"version: 1\nwindow: 2\nindicators: [{name: ROCP}]\n", "m.yaml")).spec.heads


def test_rows_by_hand() -> None:
    """SPY closes at 101 and 99.99 after 100; QQQ at 50 after 100, while two shares are held since 90 minutes."""
    state, first = DESK.observe(warm(), (bar("SPY", 1, 100, 101.0), bar("QQQ", 1, 100, 50.0)), view(1, 100))
    assert rows(first) == [[0.0, 0.01, 0.0, 1.0, 0.0], [0.0, -0.5, 0.0, 1.0, 0.0]]
    portfolio = replace(FLAT, cash=9_900.0, shares=(0, 2), opened_ns=(0, DAY + 12 * MIN))
    bars = (bar("SPY", 1, 101, 99.99), bar("QQQ", 1, 101, 50.0))
    _, second = DESK.observe(state, bars, view(1, 101, portfolio))
    assert rows(second) == [[0.01, -0.01, 0.0, 0.99, 0.0], [-0.5, 0.0, 1.0, 0.99, 1.5]]


def test_bars_of_others_of_other_hours_and_without_a_price_are_no_bars() -> None:
    state = warm()
    no_bars = (
        bar("IWM", 1, 5, 100.0),
        bar("SPY", 1, -1, 100.0),
        bar("SPY", 1, 390, 100.0),
        bar("QQQ", 1, 5, nan),
        bar("QQQ", 1, 5, 0.0),
    )
    after, observation = DESK.observe(state, no_bars, view(1, 5))
    assert (observation, after.series) == (None, state.series)
    assert after.masked == ("no bar of this minute",) * 2


def test_a_symbol_without_a_bar_or_without_history_is_left_alone() -> None:
    state, observation = DESK.observe(warm(), (bar("SPY", 1, 0, 101.0),), view(1, 0))
    assert rows(observation)[1] == [0.0, 0.0, 0.0, 1.0, 0.0]
    _, decided = DESK.decide(state, answer(0, 9, 0, 0, 9, 0), view(1, 0))
    assert decided.basket.legs == (Leg("SPY", 50),)
    assert (decided.name, decided.notes) == ("BUY SPY, HOLD QQQ", {"QQQ": "no bar of this minute"})
    state, observation = DESK.observe(warm(("SPY",)), (bar("SPY", 1, 0, 101.0), bar("QQQ", 1, 0, 50.0)), view(1, 0))
    assert rows(observation)[1] == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert state.masked == ("", "too little history")
    assert [option.legs for option in DESK.options(state, answer(*[0] * 6), view(1, 0))][1] == (None, None, None)


@pytest.mark.parametrize(
    ("portfolio", "expected"),
    [
        (FLAT, ((None, Leg("SPY", 50), None), (None, Leg("QQQ", 100), None))),  # half of 10,000 USD each
        (replace(FLAT, weight_max=0.3), ((None, Leg("SPY", 30), None), (None, Leg("QQQ", 60), None))),
        (replace(FLAT, shares=(3, 0)), ((None, None, Leg("SPY", 0)), (None, Leg("QQQ", 100), None))),
        (replace(FLAT, prices=(96.0, 0.0)), ((None, Leg("SPY", 52), None), (None, None, None))),  # 52.08 shares
        (replace(FLAT, prices=(96.0, 50.0), per_share=100), ((None, Leg("SPY", 52.08), None), None)),
        (replace(FLAT, equity=150.0), ((None, None, None), (None, Leg("QQQ", 1), None))),  # no share for 75 USD
        (replace(FLAT, equity=-5.0), ((None, None, None), (None, None, None))),
    ],
)
def test_what_each_action_would_do(portfolio: Portfolio, expected: tuple[Any, Any]) -> None:
    state, _ = DESK.observe(warm(), (bar("SPY", 1, 0, 100.0), bar("QQQ", 1, 0, 100.0)), view(1, 0))
    options = DESK.options(state, answer(*[0] * 6), view(1, 0, portfolio))
    for option, legs in zip(options, expected, strict=True):
        assert legs is None or option.legs == legs


def test_the_largest_value_counts_of_equals_the_first_unless_the_desk_drew() -> None:
    state, _ = DESK.observe(warm(), (bar("SPY", 1, 0, 100.0), bar("QQQ", 1, 0, 100.0)), view(1, 0))
    portfolio = replace(FLAT, shares=(0, 7))
    options = DESK.options(state, answer(1, 2, 2, 1, 2, 1), view(1, 0, portfolio))
    assert [option.greedy for option in options] == [BUY, HOLD]  # what is held is not bought again
    _, greedy = DESK.decide(state, answer(1, 2, 2, 1, 2, 1), view(1, 0, portfolio))
    _, random_choice = DESK.decide(state, answer(1, 2, 2, 1, 2, 1, draws=(HOLD, SELL)), view(1, 0, portfolio))
    assert (greedy.name, greedy.basket.legs) == ("BUY SPY, HOLD QQQ", (Leg("SPY", 50),))
    assert (random_choice.name, random_choice.basket.legs) == ("HOLD SPY, SELL QQQ", (Leg("QQQ", 0),))


def test_a_symbol_without_a_price_is_left_alone_and_says_so() -> None:
    state, _ = DESK.observe(warm(), (bar("SPY", 1, 0, 100.0), bar("QQQ", 1, 0, 100.0)), view(1, 0))
    _, decided = DESK.decide(state, answer(*[0] * 6), view(1, 0, replace(FLAT, prices=(100.0, 0.0))))
    assert decided.notes == {"QQQ": "no price"}
    _, decided = DESK.decide(DESK.start(), answer(*[0] * 6), view(1, 0))
    assert decided.notes == dict.fromkeys(("SPY", "QQQ"), "no bar of this minute")


def test_a_corrected_and_a_late_bar_take_their_place() -> None:
    state = warm()
    for minute, close in ((0, 101.0), (2, 103.0)):
        state, _ = DESK.observe(state, (bar("SPY", 1, minute, close),), view(1, minute))
    state = DESK.correct(state, bar("SPY", 1, 1, 202.0))  # late: between the two
    _, observation = DESK.observe(state, (bar("SPY", 1, 3, 103.0),), view(1, 3))
    assert rows(observation)[0][:2] == [round(103 / 202 - 1, 6), 0.0]
    state = DESK.correct(state, bar("SPY", 1, 2, 404.0))
    _, observation = DESK.observe(state, (bar("SPY", 1, 3, 404.0),), view(1, 3))
    assert rows(observation)[0][:2] == [1.0, 0.0]
    corrected = DESK.correct(state, bar("SPY", 0, W - 1, 50.0))  # a bar of the history is corrected too
    assert corrected.series[0] != state.series[0]
    for nothing in (bar("IWM", 1, 1, 1.0), bar("SPY", 1, 1, nan), bar("SPY", 0, -5, 1.0)):
        assert DESK.correct(state, nothing) is state


def test_a_split_turns_the_bars_before_it_into_new_shares() -> None:
    state = DESK.split(warm(), "SPY", 4.0, DAY)
    _, observation = DESK.observe(state, (bar("SPY", 1, 0, 26.0), bar("QQQ", 1, 0, 100.0)), view(1, 0))
    assert [row[:2] for row in rows(observation)] == [[0.0, 0.04], [0.0, 0.0]]


def test_a_session_keeps_the_newest_bars_before_it() -> None:
    state = warm()
    for minute in range(3):
        state, _ = DESK.observe(state, (bar("SPY", 1, minute, 101.0),), view(1, minute))
    state, _ = DESK.observe(state, (bar("SPY", 2, 0, 101.0),), view(2, 0))
    assert state.before == (W, W)
    assert state.date == "2024-07-03"
    assert [len(series) // 48 for series in state.series] == [W + 1, W]  # 48 bytes a bar


def test_a_view_without_a_portfolio_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no portfolio, online_dqn expects one"):
        DESK.observe(warm(), (bar("SPY", 1, 0, 100.0),), view(1, 0, None))


def test_one_rule_says_what_an_action_means() -> None:
    positions = [False, False, False, True, True, True]
    assert resolve([HOLD, BUY, SELL] * 2, positions).tolist() == [HOLD, BUY, HOLD, HOLD, HOLD, SELL]
