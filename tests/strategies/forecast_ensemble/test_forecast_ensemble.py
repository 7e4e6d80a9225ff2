"""`forecast_ensemble` as its callers see it: a row for each symbol, masks with their reasons, baskets by hand."""

from __future__ import annotations

from math import inf, nan

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.forecast_ensemble import (
    ACCOUNT,
    SEQUENCE,
    SPEC,
    SYMBOLS,
    WIDTH,
    ForecastEnsemble,
    ForecastState,
    basis_of,
    basket_of,
    columns_of,
    feature_table,
)
from strategies.forecast_ensemble.features import COUNT, HISTORY_BARS, NAMES, WINDOW, table
from strategies.kit.contract import Answer, Bar, DailyStrategy, Leg, Observation, Portfolio, Session, View
from strategies.kit.units import DAY_NS, HOUR_NS
from strategies.registry import daily_strategy, strategy
from tests.support.examples import examples
from tests.support.strategies.histories import History, walk, weekdays

THREE = ("AAA", "BBB", "CCC")
DAYS = weekdays("2018-01-02", 460)
WALKS = {symbol: walk(seed, DAYS) for seed, symbol in enumerate(THREE, 1)}
DESK = ForecastEnsemble(THREE)
EMPTY = Portfolio(1000.0, 1000.0, (0, 0, 0), (10.0, 10.0, 10.0))


def bars_of(symbol: str, history: History, first: int, end: int) -> list[Bar]:
    starts = (history.dates.astype("datetime64[ns]").astype(np.int64) + 5 * HOUR_NS).tolist()
    rows = zip(*(column.tolist() for column in history[:5]), strict=True)
    return [Bar(symbol, start, *row) for start, row in list(zip(starts, rows, strict=True))[first:end]]


def days_of(walks: dict[str, History] = WALKS, first: int = 0, end: int = 460) -> tuple[Bar, ...]:
    bars = [bar for symbol, history in walks.items() for bar in bars_of(symbol, history, first, end)]
    return tuple(sorted(bars, key=lambda bar: bar.start_ns))


def view(portfolio: Portfolio = EMPTY) -> View:
    start = int(DAYS[-1].astype("datetime64[ns]").astype(np.int64)) + DAY_NS
    return View(start, Session("2019-10-08", start, start + 7 * HOUR_NS), portfolio=portfolio)


def warm(bars: tuple[Bar, ...], desk: ForecastEnsemble = DESK) -> ForecastState:
    return desk.remember(desk.start(), bars)


def observed(state: ForecastState, portfolio: Portfolio = EMPTY) -> tuple[ForecastState, Observation]:
    after, observation = DESK.observe(state, (), view(portfolio))
    assert observation is not None
    return after, observation


WARM = warm(days_of())


def test_it_keeps_the_contract_of_a_daily_strategy() -> None:
    desk: DailyStrategy = ForecastEnsemble()
    assert desk.state_type is type(desk.start())
    assert desk.spec == SPEC
    assert len(SYMBOLS) == 20 == desk.spec.rows
    assert WIDTH == 60 * 78 + 6 == SPEC.observation_shape[0]
    assert len(SPEC.features) == 84
    assert [head.name for head in SPEC.heads if head.wish] == ["sac", "td3"]
    assert (
        daily_strategy("forecast_ensemble", THREE).spec.symbols
        == THREE
        == strategy("forecast_ensemble", THREE).spec.symbols
    )


def test_a_row_is_60_days_of_features_and_then_the_account() -> None:
    _, observation = observed(WARM, msgspec.structs.replace(EMPTY, shares=(0, 25, 0), cash=750.0))
    rows = observation.array()
    assert observation.shape == (3, WIDTH)
    for place, history in enumerate(WALKS.values()):
        assert rows[place, :SEQUENCE].tobytes() == table(*history)[-WINDOW:].tobytes()
    assert rows[:, SEQUENCE:].tolist() == [
        [0, 0, 0, 0.75, 0, 1],
        [0.25, 0, pytest.approx(0.05), 0.75, 0, 1],
        [0, 0, 0, 0.75, 0, 1],
    ]
    newest = np.frombuffer(observation.newest(DESK.spec), dtype="<f4").reshape(3, 84)
    assert newest[:, :COUNT].tobytes() == rows[:, SEQUENCE - COUNT : SEQUENCE].tobytes()
    assert SPEC.features == (*NAMES, *ACCOUNT)


def test_what_was_paid_how_long_it_is_held_and_how_far_the_equity_fell() -> None:
    """BBB: 10 at 20 USD, then 30 at 24, so 23 on average; 30 of them stay, then none."""
    state = WARM
    steps = (  # shares of BBB found, its price, cash -> unrealised return, age, drawdown
        ((0, 20.0, 1000.0), (0.0, 0, 0.0)),
        ((10, 24.0, 800.0), (24 / 20 - 1, 1, 0.0)),
        ((40, 46.0, 80.0), (46 / 23 - 1, 2, 0.0)),
        ((30, 23.0, 310.0), (0.0, 3, 1 - 1000 / 1920)),
        ((0, 23.0, 1000.0), (0.0, 0, 1 - 1000 / 1920)),
        ((5, 115.0, 885.0), (3.0, 1, 1 - 1460 / 1920)),  # paid 23, a return of 4 is cut off at 3
    )
    for (shares, price, cash), (unrealised, age, drawdown) in steps:
        portfolio = Portfolio(cash, cash + shares * price, (0, shares, 0), (10.0, price, 10.0))
        state, observation = observed(state, portfolio)
        tail = observation.array()[1, SEQUENCE:].tolist()
        weight, share = shares * price / portfolio.equity, cash / portfolio.equity
        assert tail == pytest.approx([weight, unrealised, age / 20, share, drawdown, 1.0], abs=1e-6)
    assert state.peak == 1920.0
    assert basis_of(0, 0, 5.0, 7.0) == 0.0
    _, late = observed(
        msgspec.structs.replace(state, ages=(0, 400, 0)), Portfolio(0.0, 50.0, (0, 5, 0), (0.0, 10.0, 0.0))
    )
    assert late.array()[1, SEQUENCE + 2] == 5.0


def test_the_first_decision_of_a_desk_that_holds_shares_takes_the_prices_of_the_day_as_paid() -> None:
    _, observation = observed(WARM, Portfolio(0.0, 100.0, (10, 0, 0), (10.0, 20.0, 0.0)))
    assert observation.array()[0, SEQUENCE:].tolist() == pytest.approx([1.0, 0.0, 0.05, 0.0, 0.0, 1.0])


def test_an_account_without_money_is_all_zeros() -> None:
    _, observation = observed(WARM, Portfolio(-5.0, -5.0, (0, 0, 0), (10.0, 20.0, 0.0)))
    assert not observation.array()[:, SEQUENCE:-1].any()


def without(walks: dict[str, History], symbol: str, *days: int) -> tuple[Bar, ...]:
    missing = {(symbol, bar.start_ns) for day in days for bar in bars_of(symbol, walks[symbol], day, day + 1)}
    return tuple(bar for bar in days_of(walks) if (bar.symbol, bar.start_ns) not in missing)


def bars_with(symbol: str, first: int, end: int, **columns: float) -> tuple[Bar, ...]:
    """The symbol's prices times, or its volume set, on some days."""
    history = WALKS[symbol].part(0, 460)
    for name, value in columns.items():
        part = getattr(history, name)[first:end]
        part[:] = value if name == "volume" else part * value
    return days_of({**WALKS, symbol: history})


def unadjusted(symbol: str, day: int) -> tuple[Bar, ...]:
    """A split of 1 to 2 on that day, which opens where the one before closed."""
    history = WALKS[symbol].part(0, 460)
    history.open[day] = history.close[day - 1]
    for column in history[:4]:
        column[:day] *= 2.0
    return days_of({**WALKS, symbol: history})


BAD = {
    "short history": (
        tuple(bar for bar in days_of() if bar.symbol != "BBB" or bar.start_ns >= days_of()[3 * 420].start_ns),
        "short history",
    ),
    "few bars": (days_of({**WALKS, "BBB": WALKS["BBB"].part(150, 460)}), "features"),
    "none": (tuple(bar for bar in days_of() if bar.symbol != "BBB"), "not listed"),
    "a hole": (without(WALKS, "BBB", 430), "gap"),
    "NaN": (bars_with("BBB", 430, 431, close=nan), "gap"),
    "no number of shares": (bars_with("BBB", 430, 431, volume=nan), "gap"),
    "a split": (unadjusted("BBB", 440), "jump"),
    "no volume": (bars_with("BBB", 400, 460, volume=0.0), "no volume"),
    "ended": (without(WALKS, "BBB", 458, 459), "ended"),
    "infinite volume": (bars_with("BBB", 0, 100, volume=inf), "features"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_symbol_is_masked_with_its_reason_and_left_as_it_is(case: str) -> None:
    bars, reason = BAD[case]
    portfolio = Portfolio(500.0, 1000.0, (0, 50, 0), (10.0, 10.0, 10.0), weight_max=1.0)
    state, observation = observed(warm(bars), portfolio)
    rows = observation.array()
    assert rows[:, -1].tolist() == [1.0, 0.0, 1.0]
    assert not rows[1, :SEQUENCE].any()
    assert rows[1, SEQUENCE] == 0.5  # what is held is still seen
    assert state.masked == ("", reason, "")
    _, decided = DESK.decide(state, Answer((0.75, 1.0, 0.75)), view(portfolio))
    assert decided.notes == {"BBB": reason}
    assert decided.basket.legs == (Leg("AAA", 25), Leg("CCC", 25))  # the half that BBB leaves, shared


def test_holes_are_forgotten_when_60_sessions_are_whole_again() -> None:
    for day, masked in ((400, True), (399, False)):
        state, _ = observed(warm(without(WALKS, "BBB", day)))
        assert (state.masked[1] == "gap") == masked


def test_a_running_sessions_bars_count_as_the_newest_and_are_not_kept() -> None:
    before = warm(days_of(end=459))
    after, observation = DESK.observe(before, days_of(first=459), view())
    assert observation is not None
    assert observation.data == observed(WARM)[1].data != observed(before)[1].data
    assert after.series == before.series


def test_there_is_no_observation_while_all_are_masked() -> None:
    for bars in ((), days_of(end=30), days_of(end=359)):
        state = warm(bars)
        assert DESK.observe(state, (), view()) == (state, None)
    assert DESK.observe(warm(days_of(end=360)), (), view())[1] is not None


def test_bars_are_kept_replaced_and_readjusted() -> None:
    halved = tuple(
        msgspec.structs.replace(bar, open=bar.open / 2, high=bar.high / 2, low=bar.low / 2, close=bar.close / 2)
        for bar in bars_of("BBB", WALKS["BBB"], 0, 460)
    )
    state = DESK.readjust(WARM, "BBB", halved)
    assert DESK.known(state)["BBB"] == halved
    assert DESK.known(state)["AAA"] == DESK.known(WARM)["AAA"] == tuple(bars_of("AAA", WALKS["AAA"], 0, 460))
    assert np.allclose(observed(state)[1].array(), observed(WARM)[1].array(), rtol=1e-4, atol=1e-3)


RICH = Portfolio(1000.0, 1000.0, (0, 0, 0), (10.0, 20.0, 30.0), band=0.02, weight_max=0.5)
FREE = (True, True, True)


def test_weights_are_the_actions_times_the_most_and_scaled_down_to_1() -> None:
    assert basket_of((0.5, -0.7, 0.25), RICH, FREE, THREE).legs == (Leg("AAA", 25), Leg("CCC", 4))  # 125 / 30
    whole = msgspec.structs.replace(RICH, weight_max=1.0)
    assert basket_of((1.0, 0.5, 0.5), whole, FREE, THREE).legs == (Leg("AAA", 50), Leg("BBB", 12), Leg("CCC", 8))
    assert basket_of((0.2, 0.9, 0.9), whole, FREE, THREE).legs == (Leg("BBB", 22), Leg("CCC", 15), Leg("AAA", 10))


def test_with_fractions_a_small_account_holds_its_weights_to_a_step() -> None:
    small = Portfolio(100.0, 100.0, (0, 0, 0), (10.0, 200.0, 30.0), weight_max=0.5, per_share=10_000)
    legs = basket_of((0.5, 0.5, 0.25), small, FREE, THREE).legs
    assert legs == (Leg("AAA", 2.5), Leg("BBB", 0.125), Leg("CCC", 0.4166))  # 25, 25 and 12.5 USD
    assert basket_of((0.5, 0.5, 0.25), msgspec.structs.replace(small, per_share=1), FREE, THREE).legs == (
        Leg("AAA", 2),
    )


def test_sells_come_first_a_band_keeps_what_is_near_and_0_always_sells_all() -> None:
    portfolio = msgspec.structs.replace(RICH, cash=390.0, shares=(40, 1, 7))  # weights 0.4, 0.02, 0.21
    assert basket_of((0.8, -1.0, 0.9), portfolio, FREE, THREE).legs == (Leg("BBB", 0), Leg("CCC", 15))
    assert basket_of((0.83, 0.03, 0.2), portfolio, FREE, THREE).legs == (Leg("CCC", 3),)  # 0.415, 0.015, 0.1
    assert basket_of((0.9, 0.0, 0.0), portfolio, FREE, THREE).legs == (Leg("BBB", 0), Leg("CCC", 0), Leg("AAA", 45))


def test_masked_symbols_keep_their_room_and_one_that_is_above_1_leaves_none() -> None:
    portfolio = msgspec.structs.replace(RICH, cash=250.0, shares=(0, 0, 25), weight_max=1.0)  # CCC weighs 0.75
    assert basket_of((1.0, 1.0, 1.0), portfolio, (True, True, False), THREE).legs == (Leg("AAA", 12), Leg("BBB", 6))
    debt = msgspec.structs.replace(RICH, cash=-200.0, shares=(1, 0, 40), weight_max=1.0)
    assert basket_of((1.0, 1.0, 1.0), debt, (True, True, False), THREE).legs == (Leg("AAA", 0),)


def test_no_equity_and_no_price_trade_nothing() -> None:
    poor = msgspec.structs.replace(RICH, equity=0.0)
    assert basket_of((1.0, 1.0, 1.0), poor, FREE, THREE).legs == ()
    unpriced = msgspec.structs.replace(RICH, prices=(10.0, 0.0, nan))
    _, decided = DESK.decide(DESK.start(), Answer((1.0, 1.0, 1.0)), view(unpriced))
    assert decided.basket.legs == (Leg("AAA", 50),)
    assert decided.notes == {"BBB": "no price", "CCC": "no price"}
    assert (decided.name, decided.choice) == ("rebalance", None)
    assert DESK.decide(DESK.start(), Answer((0.0, 0.0, 0.0)), view(RICH))[1].name == "hold"


weights = st.floats(-1.0, 1.0)


@given(
    final=st.tuples(weights, weights, weights),
    shares=st.tuples(*[st.integers(0, 200)] * 3),
    prices=st.tuples(*[st.floats(0.01, 1e4)] * 3),
    most=st.floats(0.01, 1.0),
)
@settings(max_examples=examples(200), deadline=None)
def test_any_basket_is_long_only_and_never_wants_more_than_there_is(
    final: tuple[float, ...], shares: tuple[int, ...], prices: tuple[float, ...], most: float
) -> None:
    equity = 500.0 + float(np.dot(shares, prices))
    portfolio = Portfolio(500.0, equity, shares, prices, weight_max=most)
    goals = dict(zip(THREE, shares, strict=True))
    legs = basket_of(final, portfolio, FREE, THREE).legs
    for leg in legs:
        assert leg.goal >= 0
        assert leg.goal * prices[THREE.index(leg.symbol)] <= most * equity * (1 + 1e-9)
        goals[leg.symbol] = leg.goal
    assert float(np.dot(list(goals.values()), prices)) <= equity * (1 + 1e-9)
    sells = [leg.goal < shares[THREE.index(leg.symbol)] for leg in legs]
    assert sells == sorted(sells, reverse=True)


def panel(walks: dict[str, History]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    bars = np.stack([np.stack(history[:5]) for history in walks.values()], axis=2)
    return bars, np.isfinite(bars).all(axis=0)


def test_the_columns_of_training_are_what_the_desk_sees() -> None:
    bars, present = panel(WALKS)
    bars[:, 430, 1] = nan
    present[430, 1] = False
    dates = [str(day) for day in DAYS]
    columns = columns_of(bars, present, HISTORY_BARS, dates)
    assert columns.warm.tolist() == [day >= 359 for day in range(460)]
    for day in (359, 400, 429, 430, 431, 459):
        past = tuple(bar for bar in without(WALKS, "BBB", 430) if bar.start_ns <= days_of()[3 * day].start_ns)
        rows = observed(warm(past))[1].array()
        assert columns.tradable[day].tolist() == rows[:, -1].tolist() == [1.0, float(day < 430), 1.0]
        assert columns.market[day].tobytes() == rows[:, SEQUENCE - COUNT : SEQUENCE].tobytes()
    features = feature_table(*bars[:4], present=present, volume=bars[4], dates=dates)
    assert features.tobytes() == columns.market.astype(np.float64).tobytes()


def test_a_session_on_which_no_symbol_has_a_bar_masks_nothing_in_training_as_on_the_desk() -> None:
    bars, present = panel(WALKS)
    bars[:, 430], present[430] = nan, False
    columns = columns_of(bars, present, HISTORY_BARS, [str(day) for day in DAYS])
    assert columns.warm.tolist() == [day >= 359 for day in range(460)]
    refused = days_of()[3 * 430].start_ns
    for day in (429, 430, 431, 459):
        past = tuple(bar for bar in days_of() if refused != bar.start_ns <= days_of()[3 * day].start_ns)
        rows = observed(warm(past))[1].array()
        assert columns.tradable[day].tolist() == rows[:, -1].tolist() == [1.0, 1.0, 1.0]
        assert columns.market[day].tobytes() == rows[:, SEQUENCE - COUNT : SEQUENCE].tobytes()
    assert columns.market[430].tobytes() == columns.market[429].tobytes()
