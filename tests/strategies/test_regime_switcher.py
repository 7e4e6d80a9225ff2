"""`regime_switcher` as its callers see it: 64 numbers by hand, 16 regimes, and the policy's memory carried."""

from __future__ import annotations

from math import nan

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.kit.contract import Answer, Bar, Basket, DailyStrategy, Leg, Observation, Portfolio, View
from strategies.kit.daily_features import FUND_WINDOW, regime_table
from strategies.regime_switcher import (
    HOLD,
    REGIMES,
    SPEC,
    SYMBOLS,
    RegimeState,
    RegimeSwitcher,
    basket_of,
    performance,
    vector,
    weights_of,
)
from tests.support.examples import examples
from tests.support.strategies.days import columns_of, days_of, session_of, start_of, view_of

W, DAYS = 252, 300
BARS = days_of(SPEC, DAYS)
DESK = RegimeSwitcher()
WARM = DESK.remember(DESK.start(), BARS[: 3 * W])
GROWTH_TILT = 10


def observed(state: RegimeState, day: int = W, bars: tuple[Bar, ...] = ()) -> Observation:
    _, observation = DESK.observe(state, bars, view_of(SPEC, day))
    assert observation is not None
    return observation


def answer_for(regime: int, hidden: bytes = b"") -> Answer:
    return Answer(tuple(float(place == regime) for place in range(16)), hidden)


def test_it_keeps_the_contract_of_a_daily_strategy() -> None:
    desk: DailyStrategy = RegimeSwitcher()
    assert desk.state_type is type(desk.start())
    assert desk.spec.observation_shape == (64,) == (len(desk.spec.features),)
    assert len(desk.spec.actions) == 16
    assert desk.spec.history_bars == FUND_WINDOW
    assert desk.spec.recurrent_shape == (128,)


def test_every_regime_has_three_weights_from_0_that_leave_no_debt() -> None:
    assert [name for name, weights in REGIMES if weights is None] == ["HOLD"]
    for name, weights in REGIMES:
        assert weights is None or isinstance(weights, tuple), name
        assert not weights or (min(weights) >= 0.0 and sum(weights) <= 1.0 + 1e-12), name
    assert REGIMES[GROWTH_TILT] == ("GROWTH_TILT", (0.3, 0.6, 0.0))  # SPY, QQQ; 10 % cash
    assert len({weights for _, weights in REGIMES}) == 16


def test_the_64_numbers_by_hand() -> None:
    """SPY stands at 100 and closes at 110, QQQ stands at 50, IWM stands at 200 and closes at 100."""
    last = {"SPY": (100.0, 110.0), "QQQ": (50.0, 50.0), "IWM": (200.0, 100.0)}
    state = DESK.start()
    for day in range(W):
        closes = {symbol: pair[day == W - 1] for symbol, pair in last.items()}
        state = DESK.remember(state, tuple(Bar(s, start_of(day), c, c, c, c, 1.0) for s, c in closes.items()))
    for equity in (50_000.0, 100_000.0):
        state, _ = DESK.observe(state, (), view_of(SPEC, W, equity=equity))
    holdings = {"cash": 40_000.0, "equity": 71_000.0, "shares": (100, 0, 200), "prices": (110.0, 50.0, 100.0)}
    state, observation = DESK.observe(state, (), view_of(SPEC, W, **holdings))
    assert observation is not None
    assert observation.array()[:15].tolist() == pytest.approx(
        (
            *(110 / (25_210 / 252) - 1, 0.0, 100 / (50_300 / 252) - 1),
            *(1.0, 0.0, -5.0),
            *(10 * 0.0005**0.5, 0.0, 10 * 0.0125**0.5),  # see test_daily_features
            *(40 / 71, 11 / 71, 0.0, 20 / 71),
            *(0.42, 0.29),  # from 50,000, and from the highest, 100,000
        ),
        rel=1e-6,
    )
    assert observation.array().shape == (64,)
    assert not observation.array()[15:].any()
    assert SPEC.features[:4] == ("price SPY", "price QQQ", "price IWM", "return SPY")
    assert SPEC.features[8:15] == (
        "volatility IWM",
        *(f"weight {a}" for a in ("CASH", *SYMBOLS)),
        "portfolio_return",
        "drawdown",
    )


def test_the_live_path_has_the_bits_of_the_table_on_days_with_some_missing() -> None:
    keep = np.random.default_rng(2).random(len(BARS)) > 0.03
    bars = [bar for bar, flag in zip(BARS, keep, strict=True) if flag]
    table = regime_table(columns_of(bars, SYMBOLS, DAYS)["close"])
    state, rows = DESK.start(), 0
    for day in range(DAYS):
        state = DESK.remember(state, tuple(bar for bar in bars if bar.start_ns == start_of(day)))
        _, observation = DESK.observe(state, (), view_of(SPEC, day + 1))
        assert (b"\0" * 36 if observation is None else observation.data[:36]) == table[day].tobytes()
        rows += observation is not None
    assert 20 < rows < DAYS - W + 1


def test_there_is_no_observation_and_no_equity_kept_until_all_three_have_252_bars() -> None:
    short = DESK.remember(DESK.start(), BARS[1 : 3 * W])
    assert DESK.observe(short, (), view_of(SPEC, W)) == (short, None)
    state, observation = DESK.observe(short, (BARS[3 * W],), view_of(SPEC, W))
    assert observation is not None
    assert (state.series, state.equities) == (short.series, (1000.0,))  # the running bar is not kept


def test_the_running_sessions_bars_count_as_the_newest() -> None:
    running = BARS[3 * W : 3 * W + 3]
    assert observed(WARM, bars=running).data == observed(DESK.remember(WARM, running)).data != observed(WARM).data


def test_return_and_drawdown_look_back_256_decisions() -> None:
    state = WARM
    for number in range(300):
        equity = 100.0 + number if number < 43 else 90.0 + number / 1000
        state, observation = DESK.observe(state, (), view_of(SPEC, W, equity=equity))
    assert observation is not None
    assert len(state.equities) == 257
    assert state.equities[0] == 90.043  # decision 43, after the highest ones
    assert observation.array()[13:15].tolist() == pytest.approx((90.299 / 90.043 - 1, 0.0), rel=1e-5)


def test_performance_of_no_money_is_0() -> None:
    assert performance((0.0, 5.0)) == performance((nan, 5.0)) == (0.0, 0.0)
    assert performance((5.0,)) == (0.0, 0.0)
    assert performance((4.0, 8.0, 6.0)) == (0.5, 0.25)


def test_weights_are_of_the_equity_and_0_without_any() -> None:
    portfolio = Portfolio(cash=25.0, equity=100.0, shares=(1, 2, 0), prices=(15.0, 30.0, 0.0))
    assert weights_of(portfolio) == (0.25, 0.15, 0.6, 0.0)
    assert weights_of(msgspec.structs.replace(portfolio, equity=0.0)) == (0.0,) * 4


def test_a_vector_may_be_of_many_desks_at_once() -> None:
    market, weights = np.arange(18.0).reshape(2, 9), np.arange(8.0).reshape(2, 4)
    vectors = vector(market, weights, np.array([0.1, 0.2]), np.array([0.3, 0.4]))
    for place in range(2):
        one = vector(market[place], weights[place], 0.1 + place / 10, 0.3 + place / 10)
        assert vectors[place].tobytes() == one.tobytes()


RICH = Portfolio(cash=100_000.0, equity=100_000.0, shares=(0, 0, 0), prices=(300.0, 400.0, 150.0))


@pytest.mark.parametrize(
    ("regime", "goals"),
    [
        (1, (0, 0, 0)),
        (2, (333, 0, 0)),
        (5, (111, 83, 222)),  # 33,333.33 each
        (GROWTH_TILT, (100, 150, 0)),
        (11, (200, 25, 133)),
        (14, (83, 37, 66)),
        (15, (33, 12, 33)),
    ],
)
def test_a_regime_wants_whole_shares_for_its_weights_of_the_equity(regime: int, goals: tuple[int, ...]) -> None:
    legs = tuple(Leg(symbol, goal) for symbol, goal in zip(SYMBOLS, goals, strict=True) if goal)
    assert basket_of(regime, RICH) == Basket(legs)


def test_with_fractions_a_regime_holds_its_weights_to_a_step() -> None:
    small = msgspec.structs.replace(RICH, cash=1_000.0, equity=1_000.0, per_share=10_000)
    assert basket_of(5, small) == Basket((Leg("SPY", 1.1111), Leg("QQQ", 0.8333), Leg("IWM", 2.2222)))
    portfolio = msgspec.structs.replace(small, shares=(1.1111, 0.8333, 2.2222))
    assert basket_of(5, portfolio) == Basket()


def test_sells_come_before_buys() -> None:
    portfolio = msgspec.structs.replace(RICH, cash=0.0, shares=(0, 100, 400))
    assert basket_of(2, portfolio) == Basket((Leg("QQQ", 0), Leg("IWM", 0), Leg("SPY", 333)))


def test_a_weight_that_would_change_by_less_than_the_band_stays() -> None:
    portfolio = msgspec.structs.replace(RICH, cash=37_000.0, shares=(110, 0, 200), band=0.05)  # weights 0.33, 0, 0.30
    assert basket_of(5, portfolio) == Basket((Leg("QQQ", 83),))  # the others lack 0.003 and 0.033
    assert basket_of(5, msgspec.structs.replace(portfolio, band=0.0)).legs[0] == Leg("SPY", 111)


def test_hold_and_a_reached_goal_and_no_price_and_no_money_give_no_leg() -> None:
    portfolio = msgspec.structs.replace(RICH, cash=100.0, shares=(333, 0, 0))
    assert basket_of(HOLD, portfolio) == Basket()
    assert basket_of(2, portfolio) == Basket()
    assert basket_of(1, msgspec.structs.replace(portfolio, prices=(0.0, nan, 1.0))) == Basket()
    for equity in (0.0, -5.0, nan):
        assert basket_of(1, msgspec.structs.replace(portfolio, equity=equity)) == Basket()


@given(
    st.integers(0, 15), st.tuples(*[st.integers(0, 900)] * 3), st.tuples(*[st.floats(1, 900)] * 3), st.floats(0, 1e6)
)
def test_a_basket_never_wants_more_than_the_equity(
    regime: int, shares: tuple[int, int, int], prices: tuple[float, float, float], cash: float
) -> None:
    equity = cash + sum(quantity * price for quantity, price in zip(shares, prices, strict=True))
    goals = dict(zip(SYMBOLS, shares, strict=True))
    basket = basket_of(regime, Portfolio(cash, equity, shares, prices))
    goals.update((leg.symbol, leg.goal) for leg in basket.legs)
    worth = sum(goals[symbol] * price for symbol, price in zip(SYMBOLS, prices, strict=True))
    assert min(goals.values()) >= 0
    assert worth <= equity * (1 + 1e-9) or not basket.legs


def test_the_decision_is_the_most_probable_regime_and_the_memory_is_carried() -> None:
    view = view_of(SPEC, W, **{name: getattr(RICH, name) for name in ("cash", "equity", "shares", "prices")})
    state, first = DESK.observe(WARM, (), view)
    assert first is not None
    assert (state.hidden, first.hidden) == (b"", b"")
    memory = np.arange(128, dtype="<f4").tobytes()
    state, rebalance = DESK.decide(state, answer_for(GROWTH_TILT, memory), view)
    assert rebalance.name == "GROWTH_TILT"
    assert rebalance.basket == basket_of(GROWTH_TILT, RICH)
    assert rebalance.choice is not None
    assert rebalance.choice.action == GROWTH_TILT
    state = DESK.remember(state, BARS[3 * W : 3 * W + 3])
    state = DESK.readjust(state, "SPY", DESK.known(state)["SPY"])
    state, second = DESK.observe(state, (), view)
    assert second is not None
    assert second.hidden == state.hidden == memory
    state, rebalance = DESK.decide(state, answer_for(HOLD, b"\1" * 512), view)
    assert (rebalance.name, rebalance.basket, state.hidden) == ("HOLD", Basket(), b"\1" * 512)


def test_without_a_portfolio_there_is_no_decision() -> None:
    session = session_of(W)
    with pytest.raises(ValueError, match="regime_switcher expects one"):
        DESK.decide(WARM, answer_for(2), View(session.open_ns, session))


@settings(max_examples=examples(20))
@given(st.integers(1, 40), st.integers(0, 2), st.floats(0.5, 2.0))
def test_bars_older_than_the_newest_252_change_nothing(older: int, fund: int, by: float) -> None:
    def read(scale: float) -> bytes:
        bars = list(BARS[: 3 * (W + older)])
        for at in range(fund, 3 * older, 3):
            b = bars[at]
            bars[at] = Bar(b.symbol, b.start_ns, b.open * scale, b.high * scale, b.low * scale, b.close * scale, 1.0)
        return observed(DESK.remember(DESK.start(), tuple(bars))).data

    assert read(by) == read(1.0)


def test_a_correction_or_a_readjustment_counts_from_the_next_observation_on() -> None:
    old = BARS[3 * W - 1]
    right = msgspec.structs.replace(old, close=old.low)
    expected = observed(DESK.remember(DESK.start(), (*BARS[: 3 * W - 1], right))).data
    assert observed(DESK.remember(WARM, (right,))).data == expected != observed(WARM).data
    bars = DESK.known(WARM)["IWM"]
    assert observed(DESK.readjust(WARM, "IWM", (*bars[:-1], right))).data == expected


def test_the_state_through_json_gives_the_same_bytes() -> None:
    view = view_of(SPEC, W)
    state, _ = DESK.observe(WARM, (), view)
    state, _ = DESK.decide(state, answer_for(3, b"\2" * 512), view)
    encoded = msgspec.json.encode(state)
    again = msgspec.json.decode(encoded, type=RegimeState)
    assert again == state
    assert msgspec.json.encode(again) == encoded
    before, after = observed(state), observed(again)
    assert (before.data, before.hidden) == (after.data, after.hidden)
