"""`daily_rebalancer` as its callers see it: 803 numbers by hand, masking, baskets, and a state that suffices."""

from __future__ import annotations

import struct
from math import nan
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.daily_rebalancer import (
    SPEC,
    STOCKS,
    SYMBOLS,
    DailyRebalancer,
    RebalancerState,
    account_scale,
    basket_of,
    vector,
)
from strategies.kit.contract import Answer, Bar, Basket, DailyStrategy, Leg, Observation, Portfolio, View
from strategies.kit.daily_features import STOCK_WINDOW, rebalancer_table
from tests.support.examples import examples
from tests.support.strategies.days import (
    RAMP_INDICATORS,
    DailyColumns,
    columns_of,
    days_of,
    portfolio_with,
    session_of,
    start_of,
    view_of,
)

W, DAYS = 400, 404
BARS = days_of(SPEC, DAYS)
SEEN = BARS[: W * STOCKS]
DESK = DailyRebalancer()
WARM = DESK.remember(DESK.start(), SEEN)
ANSWER = Answer((0.5,) * STOCKS)


def observed(state: RebalancerState, day: int = W, bars: tuple[Bar, ...] = (), view: View | None = None) -> Observation:
    _, observation = DESK.observe(state, bars, view or view_of(SPEC, day))
    assert observation is not None
    return observation


def flags(observation: Observation) -> list[int]:
    return [int(flag) for flag in observation.array()[753:803]]


def test_it_keeps_the_contract_of_a_daily_strategy() -> None:
    desk: DailyStrategy = DailyRebalancer()
    assert desk.state_type is type(desk.start())
    assert desk.spec.observation_shape == (803,) == (len(desk.spec.features),)
    assert desk.spec.actions == desk.spec.symbols
    assert len(set(desk.spec.symbols)) == 50
    assert desk.spec.history_bars == STOCK_WINDOW


def test_the_stocks_are_those_with_a_full_history_and_the_highest_dollar_volume_of_2019(data_dir: Path) -> None:
    columns = ["symbol", "timestamp", "close", "volume"]
    table = pq.read_table(data_dir / "stocks_daily_2010_2022.parquet", columns=columns)
    names, of = np.unique(np.array(table["symbol"].to_pylist()), return_inverse=True)
    in_2019 = table["timestamp"].to_numpy().astype("datetime64[Y]") == np.datetime64("2019")
    dollars = np.bincount(of, table["close"].to_numpy() * table["volume"].to_numpy() * in_2019)
    bars = np.bincount(of)
    top = np.argsort(np.where(bars == bars.max(), -dollars, 0.0))[:50]
    assert sorted(names[top].tolist()) == list(SYMBOLS)


def test_the_803_numbers_are_in_their_places() -> None:
    """Every stock climbs by 1 USD a day, the stock of place i from 100 + 10 i; the last one traded a day less."""
    bars = [
        Bar(symbol, start_of(day), 0.25 + (c := 100.0 + 10 * place + day), c + 0.5, c - 0.5, c, 1e6)
        for day in range(401)
        for place, symbol in enumerate(SYMBOLS)
        if (symbol, day) != ("XOM", 400)
    ]
    shares = tuple(range(50))
    view = view_of(SPEC, 403, cash=12_345.5, equity=98_765.25, shares=shares, prices=(7.0,) * 50)
    row = observed(DESK.remember(DESK.start(), tuple(bars)), view=view).array().astype(np.float64)
    top = np.array([500 + 10 * place for place in range(49)] + [500 + 490 - 1])
    assert row[:50].tolist() == top.tolist()
    for place in range(50):
        shift = top[place] - 499  # of the prices, against the ramp worked by hand
        expected = [x + shift if 4 <= column <= 9 else x for column, x in enumerate(RAMP_INDICATORS)]
        assert row[50 + 13 * place : 63 + 13 * place].tolist() == pytest.approx(expected, rel=1e-6)
    assert row[700:702].tolist() == [12_345.5, 98_765.25]
    assert row[702:752].tolist() == list(shares)
    assert session_of(403).date == "2021-02-05"
    assert row[752] == 4  # a Friday
    assert row[753:].tolist() == [1] * 49 + [0]
    assert SPEC.features[0] == "close AAPL"
    assert SPEC.features[50:64:13] == ("macd AAPL", "macd ADBE")
    assert SPEC.features[700:703] == ("cash", "portfolio_value", "shares AAPL")
    assert SPEC.features[752:754] == ("weekday", "tradable AAPL")


def test_the_live_path_has_the_bits_of_the_table_on_recorded_days_with_some_missing(stock_days: DailyColumns) -> None:
    days = 425
    present = np.random.default_rng(1).random((days, STOCKS)) > 0.002
    present[:, 5] = np.arange(days) >= 10  # listed late
    present[402:, 9] = False  # delisted
    o, h, low, c = columns = [stock_days.columns[name][:days] for name in ("open", "high", "low", "close")]
    table = rebalancer_table(o, h, low, c, present)
    state = DESK.start()
    warm = []
    for day in range(days):
        bars = tuple(
            Bar(symbol, start_of(day), *[float(column[day, place]) for column in (*columns, np.full_like(c, 1e6))])
            for place, symbol in enumerate(SYMBOLS)
            if present[day, place]
        )
        state = DESK.remember(state, bars)
        after, observation = DESK.observe(state, (), view_of(SPEC, day + 1))
        assert (observation is None) == (after is state)
        if observation is not None:
            warm.append(day)
            assert observation.data[: 4 * 700] == table.market[day].tobytes()
            assert observation.data[4 * 753 :] == table.tradable[day].tobytes()
    assert warm == list(range(W - 1, days))
    assert 0 < table.tradable[warm[0] :].mean() < 1


def test_there_is_no_observation_until_one_symbol_has_400_bars() -> None:
    one_short = DESK.remember(DESK.start(), SEEN[STOCKS:])
    assert DESK.observe(one_short, (), view_of(SPEC, W)) == (one_short, None)
    assert DESK.observe(DESK.start(), (), view_of(SPEC, W)) == (DESK.start(), None)
    first = DESK.remember(one_short, tuple(bar for bar in SEEN[:STOCKS] if bar.symbol == "T"))
    assert flags(observed(first)) == [int(symbol == "T") for symbol in SYMBOLS]


def test_a_symbol_that_never_traded_shows_zeros_and_is_not_tradable() -> None:
    state = DESK.remember(DESK.start(), tuple(bar for bar in SEEN if bar.symbol != "BA"))
    row = observed(state).array()
    assert not row[[6, *range(50 + 13 * 6, 50 + 13 * 7), 753 + 6]].any()
    assert flags(observed(state)) == [int(symbol != "BA") for symbol in SYMBOLS]


def test_the_running_sessions_bars_are_looked_at_and_not_kept() -> None:
    running = BARS[W * STOCKS : (W + 1) * STOCKS]
    after, observation = DESK.observe(WARM, running[:-1], view_of(SPEC, W))
    assert observation is not None
    assert after.series == WARM.series
    expected = observed(DESK.remember(WARM, running))
    assert observation.array()[:49].tolist() == expected.array()[:49].tolist()
    assert flags(observation) == [1] * 49 + [0]  # the last one has not traded in the running session


def test_without_a_portfolio_there_is_an_error() -> None:
    session = session_of(W)
    with pytest.raises(ValueError, match="daily_rebalancer expects one"):
        DESK.observe(WARM, (), View(session.open_ns, session))


def test_a_vector_may_be_of_many_desks_at_once() -> None:
    market, tradable = np.arange(1400.0).reshape(2, 700), np.eye(2, 50)
    vectors = vector(
        market, tradable, cash=[1, 2], value=[3, 4], shares=np.arange(100).reshape(2, 50), weekday=np.array([0, 4])
    )
    for place in range(2):
        one = vector(
            market[place],
            tradable[place],
            cash=place + 1,
            value=place + 3,
            shares=range(50 * place, 50 * place + 50),
            weekday=4 * place,
        )
        assert vectors[place].tobytes() == one.tobytes()
        assert struct.unpack("<803f", one.tobytes())[700:703] == (place + 1, place + 3, 50 * place)


THREE = ("A", "B", "C")


def of_three(shares: tuple[float, ...], **changes: object) -> Portfolio:
    portfolio = Portfolio(cash=1e6, equity=1e6, shares=shares, prices=(10.0, 20.0, 3000.0))
    return msgspec.structs.replace(portfolio, **changes)


def test_a_negative_action_sells_a_part_of_the_holding_and_a_positive_one_buys_units() -> None:
    portfolio = of_three((7, 0, 5))
    assert basket_of((-0.5, 0.5, -1.0), (1, 1, 1), portfolio, THREE) == Basket(
        (Leg("A", 4), Leg("C", 0), Leg("B", 50))  # int(3.5) sold, all sold, 50 bought
    )
    assert basket_of((1.0, -1.0, -0.1), (1, 1, 1), portfolio, THREE) == Basket((Leg("A", 107),))  # nothing to sell
    assert basket_of((2.0, 0.0, -3.0), (1, 1, 1), portfolio, THREE) == Basket((Leg("C", 0), Leg("A", 107)))


def test_a_change_worth_less_than_the_band_stays_but_for_selling_all() -> None:
    rules = {"equity": 10_000.0, "prices": (10.0, 20.0, 30.0), "band": 0.05}  # 500 USD
    assert basket_of((0.49, 0.25, 0.17), (1, 1, 1), of_three((0, 0, 0), **rules), THREE) == Basket(
        (Leg("B", 25), Leg("C", 17))  # 490 is too little, 500 and 510 are not
    )
    portfolio = of_three((49, 100, 16), **rules)
    assert basket_of((-1.0, -0.24, -0.9), (1, 1, 1), portfolio, THREE) == Basket(
        (Leg("A", 0),)
    )  # of B 480 USD, of C 420
    unknown = of_three((9, 9, 9), **{**rules, "prices": (0.0, nan, 30.0)})
    assert basket_of((-0.5, -0.5, -0.5), (1, 1, 1), unknown, THREE) == Basket((Leg("A", 5), Leg("B", 5)))


def test_by_notional_a_unit_is_so_many_dollars() -> None:
    portfolio = of_three((0, 0, 0), notional_per_unit=10_000.0)
    assert basket_of((1.0, 0.999, 0.25), (1, 1, 1), portfolio, THREE) == Basket((Leg("A", 1000), Leg("B", 499)))


def test_by_equity_a_unit_is_a_part_of_it_whatever_the_size() -> None:
    small = of_three((0, 0, 0), equity=50_000.0, equity_per_unit=0.01)  # 500 USD
    assert basket_of((1.0, 0.999, 0.25), (1, 1, 1), small, THREE) == Basket((Leg("A", 50), Leg("B", 24)))
    large = msgspec.structs.replace(small, equity=50_000_000.0)
    assert basket_of((1.0, 0.999, 0.25), (1, 1, 1), large, THREE) == Basket(
        (Leg("A", 50_000), Leg("B", 24_975), Leg("C", 41))
    )
    dollars = msgspec.structs.replace(small, notional_per_unit=10_000.0)  # the more special rule counts
    assert basket_of((1.0, 0.0, 0.0), (1, 1, 1), dollars, THREE) == Basket((Leg("A", 1000),))


def test_by_equity_the_account_is_shown_as_one_of_the_contract_s_capital() -> None:
    arrays = []
    for size in (5_000.0, 1_000_000.0):
        shares = tuple(int(size / 5_000) * n for n in range(STOCKS))
        view = view_of(SPEC, W, shares=shares)
        portfolio = view.portfolio
        assert portfolio is not None
        portfolio = msgspec.structs.replace(portfolio, cash=size / 4, equity=size, equity_per_unit=0.01)
        _, observation = DESK.observe(WARM, (), msgspec.structs.replace(view, portfolio=portfolio))
        assert observation is not None
        arrays.append(observation.array())
    assert arrays[0].tolist() == arrays[1].tolist()
    assert arrays[0][700:703].tolist() == [250_000.0, 1_000_000.0, 0.0]
    assert arrays[0][702:752].tolist() == [200.0 * n for n in range(STOCKS)]


def test_an_account_worth_nothing_is_shown_as_it_is() -> None:
    portfolio = of_three((1, 0, 0), equity=0.0, cash=-10.0, equity_per_unit=0.01)
    assert account_scale(portfolio, 1_000_000) == 1.0
    assert basket_of((1.0, 1.0, 1.0), (1, 1, 1), portfolio, THREE) == Basket()
    assert basket_of((-1.0, 1.0, 1.0), (1, 1, 1), portfolio, THREE) == Basket((Leg("A", 0),))


def test_buys_come_by_the_largest_action_and_ties_by_symbol_after_all_sells() -> None:
    portfolio = of_three((10, 10, 10))
    basket = basket_of((0.2, 0.9, -0.3), (1, 1, 1), portfolio, THREE)
    assert [leg.symbol for leg in basket.legs] == ["C", "B", "A"]
    tied = basket_of((0.5, 0.9, 0.5), (1, 1, 1), portfolio, THREE)
    assert [leg.symbol for leg in tied.legs] == ["B", "A", "C"]


def test_a_symbol_that_is_not_tradable_is_left_alone_and_nothing_is_bought_without_a_price() -> None:
    assert basket_of((-1.0, 1.0, 1.0), (0, 0, 1), of_three((9, 9, 0)), THREE) == Basket((Leg("C", 100),))
    assert basket_of((-1.0, 1.0, 1.0), (1, 1, 1), of_three((9, 9, 0), prices=(0.0, 0.0, nan)), THREE) == Basket(
        (Leg("A", 0),)
    )


def test_a_nan_or_a_wrong_number_of_actions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"action of B is nan, expected a number in \[-1, 1\]"):
        basket_of((0.0, nan, 0.0), (1, 1, 1), of_three((0, 0, 0)), THREE)
    with pytest.raises(ValueError, match="shorter"):
        basket_of((0.0, 1.0), (1, 1, 1), of_three((0, 0, 0)), THREE)


def test_with_fractions_what_is_sold_and_bought_is_cut_to_steps_and_selling_all_leaves_nothing() -> None:
    portfolio = of_three((1.2345, 0, 0.0003), notional_per_unit=100.0, per_share=10_000)
    assert basket_of((-0.3, 0.5, -1.0), (1, 1, 1), portfolio, THREE) == Basket(
        (Leg("A", 0.8642), Leg("C", 0), Leg("B", 2.5))  # 0.37035 sold is 0.3703; 50 USD at 20
    )
    assert basket_of((0.0, 0.0, 0.7), (1, 1, 1), portfolio, THREE) == Basket((Leg("C", 0.0236),))  # 70 / 3000
    crumb = msgspec.structs.replace(
        portfolio, shares=(0.00004, 1.00004, 0)
    )  # finer than a step, as a broker may report
    assert basket_of((-1.0, -1.0, 0.0), (1, 1, 1), crumb, THREE) == Basket((Leg("A", 0), Leg("B", 0)))
    assert basket_of((-0.00001, -0.00001, 0.0), (1, 1, 1), crumb, THREE) == Basket((Leg("A", 0),))


EACH = st.tuples(st.floats(-1, 1), st.booleans(), st.integers(0, 5000), st.floats(0.5, 4000), st.integers(0, 10**9))


@given(st.lists(EACH, min_size=1, max_size=8, unique_by=lambda item: item[0]), st.sampled_from([0.0, 10_000.0]))
def test_permuting_the_stocks_permutes_what_the_actions_do(
    stocks: list[tuple[float, bool, int, float, int]], unit: float
) -> None:
    def basket(order: list[int]) -> Basket:
        actions, tradable, shares, prices, _ = zip(*(stocks[place] for place in order), strict=True)
        portfolio = Portfolio(1e6, 1e6, shares, prices, notional_per_unit=unit)
        return basket_of(actions, tradable, portfolio, [f"S{place}" for place in order])

    permuted = basket(list(range(len(stocks))))
    other = basket(sorted(range(len(stocks)), key=lambda place: stocks[place][4]))
    buys = [leg for leg in permuted.legs if leg.goal > stocks[int(leg.symbol[1:])][2]]
    assert set(other.legs) == set(permuted.legs)
    assert other.legs[len(other.legs) - len(buys) :] == tuple(buys) == permuted.legs[len(permuted.legs) - len(buys) :]


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 500)), min_size=3, max_size=3))
def test_a_basket_never_goes_short_nor_holds_a_leg_that_changes_nothing(stocks: list[tuple[float, int]]) -> None:
    actions, shares = zip(*stocks, strict=True)
    for leg in basket_of(actions, (1, 1, 1), of_three(shares), THREE).legs:
        assert 0 <= leg.goal <= shares[THREE.index(leg.symbol)] + 100
        assert leg.goal != shares[THREE.index(leg.symbol)]


def test_a_decision_leaves_alone_what_the_observation_flagged() -> None:
    state = DESK.remember(WARM, tuple(bar for bar in BARS[W * STOCKS : (W + 1) * STOCKS] if bar.symbol != "KO"))
    view = view_of(SPEC, W + 1)
    state, _ = DESK.observe(state, (), view)
    after, rebalance = DESK.decide(state, ANSWER, view)
    assert after is state
    assert rebalance.name == "rebalance"
    assert rebalance.choice is None
    assert rebalance.basket == Basket(tuple(Leg(symbol, 50) for symbol in SYMBOLS if symbol != "KO"))


def test_actions_of_zero_give_no_leg() -> None:
    view = view_of(SPEC, W, shares=(100,) * STOCKS)
    state, _ = DESK.observe(WARM, (), view)
    for nothing in (0.0, -0.0, 0.009, -0.009):  # less than a share
        _, rebalance = DESK.decide(state, Answer((nothing,) * STOCKS), view)
        assert (rebalance.name, rebalance.basket) == ("hold", Basket())


def test_a_state_without_an_observation_decides_nothing() -> None:
    _, rebalance = DESK.decide(WARM, ANSWER, view_of(SPEC, W))
    assert rebalance.basket == Basket()


@settings(max_examples=examples(10))
@given(st.integers(1, 3), st.integers(0, STOCKS - 1), st.floats(0.5, 2.0))
def test_bars_older_than_the_newest_400_change_nothing(older: int, stock: int, by: float) -> None:
    def read(scale: float) -> bytes:
        bars = list(BARS[: (W + older) * STOCKS])
        for at in range(stock, older * STOCKS, STOCKS):
            b = bars[at]
            bars[at] = Bar(b.symbol, b.start_ns, b.open * scale, b.high * scale, b.low * scale, b.close * scale, 1.0)
        return observed(DESK.remember(DESK.start(), tuple(bars))).data

    assert read(by) == read(1.0)


def test_a_correction_or_a_readjustment_counts_from_the_next_observation_on() -> None:
    view = view_of(SPEC, W)
    right = msgspec.structs.replace(SEEN[-1], close=SEEN[-1].low)
    expected = observed(DESK.remember(DESK.start(), (*SEEN[:-1], right)), view=view).data
    assert observed(DESK.remember(WARM, (right,)), view=view).data == expected
    assert observed(WARM, view=view).data != expected
    bars = DESK.known(WARM)["XOM"]
    assert observed(DESK.readjust(WARM, "XOM", (*bars[:-1], right)), view=view).data == expected
    assert len(bars) == W


def test_the_state_through_json_gives_the_same_bytes() -> None:
    state, _ = DESK.observe(WARM, (), view_of(SPEC, W))
    encoded = msgspec.json.encode(state)
    again = msgspec.json.decode(encoded, type=RebalancerState)
    assert again == state
    assert msgspec.json.encode(again) == encoded
    other = DailyRebalancer()
    assert other.observe(again, (), view_of(SPEC, W))[1] is not None
    assert observed(again).data == observed(state).data
    assert other.known(again) == DESK.known(WARM)


def test_the_columns_of_made_up_days_are_the_tables() -> None:
    prices = columns_of(SEEN, SYMBOLS, W)
    table = rebalancer_table(prices["open"], prices["high"], prices["low"], prices["close"])
    assert observed(WARM).data[: 4 * 700] == table.market[-1].tobytes()
    assert portfolio_with(SPEC).prices == (10.0,) * STOCKS
