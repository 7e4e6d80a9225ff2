"""The option market's arithmetic against tables, integrals, hand calculation and recorded markets."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median, stdev

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.instruments.option_market import (
    Float64Array,
    Int64Array,
    OccContract,
    bid_ask_cents,
    bid_ask_cents_array,
    delta,
    occ_symbol,
    open_time_left_ns,
    option_terms,
    parse_occ,
    price,
    price_array,
    session_market,
    session_volatility,
    strike_for_delta,
    variance_years,
    years_to_expiry,
)
from daemon.core.limits import Paper
from strategies.kit.contract import Session

MINUTE = 60_000_000_000
PAPER = Paper()
MONDAY = Session("2024-07-01", 0, 390 * MINUTE)
TUESDAY = Session("2024-07-02", 1440 * MINUTE, (1440 + 390) * MINUTE)
HALF_DAY = Session("2024-07-03", 2880 * MINUTE, (2880 + 210) * MINUTE)

spots = st.floats(50, 1000)
strikes = st.floats(50, 1000)
times = st.floats(1e-6, 0.2)
volatilities = st.floats(0.02, 1.5)
rights = st.sampled_from([1, -1])


# --- Black-Scholes ------------------------------------------------------------------------------------------------


def test_the_value_at_the_money_is_that_of_the_normal_table() -> None:
    # d1 = 0.1, d2 = -0.1, N(0.1) = 0.539828: 100 x (2 x 0.539828 - 1)
    assert price(100, 100, 1.0, 0.2, 1) == pytest.approx(7.9656, abs=1e-4)
    assert price(100, 100, 1.0, 0.2, -1) == pytest.approx(7.9656, abs=1e-4)


def test_hulls_example_comes_out_through_its_forward() -> None:
    # Hull, Options, Futures, and Other Derivatives: S = 42, K = 40, r = 10 %, sigma = 20 %, half a year: 4.76 and 0.81
    forward, discount = 42 * math.exp(0.05), math.exp(-0.05)
    assert discount * price(forward, 40, 0.5, 0.2, 1) == pytest.approx(4.76, abs=0.005)
    assert discount * price(forward, 40, 0.5, 0.2, -1) == pytest.approx(0.81, abs=0.005)


def expected_payoff(spot: float, strike: float, years: float, volatility: float, right: int) -> float:
    """The mean payoff under the lognormal law, by Gauss-Legendre quadrature from the kink outwards."""
    deviation = volatility * math.sqrt(years)
    kink = (math.log(strike / spot) + deviation**2 / 2) / deviation
    lower, upper = (max(kink, -14.0), 14.0) if right > 0 else (-14.0, min(kink, 14.0))
    nodes, weights = np.polynomial.legendre.leggauss(120)
    z = (upper - lower) / 2 * nodes + (upper + lower) / 2
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    payoff = right * (spot * np.exp(deviation * z - deviation**2 / 2) - strike)
    return float(np.sum(weights * payoff * density) * (upper - lower) / 2) if upper > lower else 0.0


@given(spot=spots, moneyness=st.floats(0.7, 1.4), years=st.floats(0.001, 0.2), volatility=volatilities, right=rights)
def test_the_value_is_the_mean_payoff(
    spot: float, moneyness: float, years: float, volatility: float, right: int
) -> None:
    strike = spot * moneyness
    expected = expected_payoff(spot, strike, years, volatility, right)
    assert price(spot, strike, years, volatility, right) == pytest.approx(expected, abs=1e-7)


@given(spot=spots, strike=strikes, years=times, volatility=volatilities)
def test_call_less_put_is_always_spot_less_strike(spot: float, strike: float, years: float, volatility: float) -> None:
    parity = price(spot, strike, years, volatility, 1) - price(spot, strike, years, volatility, -1)
    assert parity == pytest.approx(spot - strike, abs=1e-9)


@given(spot=spots, strike=strikes, years=times, volatility=volatilities, factor=st.floats(1.0, 2.0))
def test_value_never_falls_with_time_volatility_or_moneyness(
    spot: float, strike: float, years: float, volatility: float, factor: float
) -> None:
    slack = 1e-9
    for right in (1, -1):
        value = price(spot, strike, years, volatility, right)
        assert value >= max(right * (spot - strike), 0.0) - slack
        assert price(spot, strike, years * factor, volatility, right) >= value - slack
        assert price(spot, strike, years, volatility * factor, right) >= value - slack
        assert right * (price(spot * factor, strike, years, volatility, right) - value) >= -slack


@pytest.mark.parametrize(("years", "volatility"), [(0.0, 0.2), (-1.0, 0.2), (0.1, 0.0)])
def test_without_time_or_volatility_the_value_is_intrinsic(years: float, volatility: float) -> None:
    assert [price(503, 500, years, volatility, right) for right in (1, -1)] == [3.0, 0.0]
    assert price_array(503, 500, years, volatility, [1, -1]).tolist() == [3.0, 0.0]
    assert [delta(503, 500, years, volatility, right) for right in (1, -1)] == [1.0, 0.0]
    assert [delta(497, 500, years, volatility, right) for right in (1, -1)] == [0.0, -1.0]


@given(
    st.lists(
        st.tuples(spots, strikes, st.floats(-0.01, 0.2), st.floats(0, 1.5), rights, st.floats(0, 0.1)),
        min_size=1,
        max_size=30,
    )
)
def test_arrays_and_scalars_always_agree_bit_for_bit(rows: list[tuple[float, float, float, float, int, float]]) -> None:
    columns = [np.array(column) for column in zip(*(row[:5] for row in rows), strict=True)]
    values = price_array(*columns)
    assert values.tobytes() == np.array([price(*row[:5]) for row in rows]).tobytes()
    for paper in (PAPER, Paper(half_spread=rows[0][5])):
        bids, asks = bid_ask_cents_array(values, paper)
        expected = [bid_ask_cents(value, paper) for value in values.tolist()]
        assert list(zip(bids.tolist(), asks.tolist(), strict=True)) == expected


def test_arrays_broadcast_over_strikes_and_sides() -> None:
    table = price_array(500.0, np.arange(490, 511)[:, None], 0.01, 0.2, np.array([1, -1]))
    assert table.shape == (21, 2)
    assert table[10, 0] == price(500.0, 500.0, 0.01, 0.2, 1)


def test_delta_is_the_slope_of_the_value() -> None:
    for right in (1, -1):
        slope = (price(500.01, 505, 0.01, 0.15, right) - price(499.99, 505, 0.01, 0.15, right)) / 0.02
        assert delta(500, 505, 0.01, 0.15, right) == pytest.approx(slope, abs=1e-6)


def test_half_a_delta_is_half_a_variance_above_the_spot() -> None:
    # N(d1) = 0.5 means d1 = 0, so ln(S / K) = -sigma^2 T / 2 = -0.0008
    assert strike_for_delta(500, 0.04, 0.2, 1, 0.5) == pytest.approx(500 * math.exp(0.0008))


@given(spot=spots, years=times, volatility=volatilities, right=rights, target=st.floats(0.02, 0.98))
def test_the_strike_for_a_delta_always_has_that_delta(
    spot: float, years: float, volatility: float, right: int, target: float
) -> None:
    strike = strike_for_delta(spot, years, volatility, right, target)
    assert abs(delta(spot, strike, years, volatility, right)) == pytest.approx(target, abs=1e-9)


@pytest.mark.parametrize(
    ("years", "volatility", "target"), [(0.1, 0.2, 0.0), (0.1, 0.2, 1.0), (0, 0.2, 0.5), (1, 0, 0.5)]
)
def test_a_delta_that_no_strike_has_is_refused(years: float, volatility: float, target: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < target < 1"):
        strike_for_delta(500, years, volatility, 1, target)


# --- spreads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mid", "cents"),
    [
        (1.00, (99, 101)),  # half-spread 0.005: 0.995 down, 1.005 up
        (2.50, (249, 251)),  # 0.4 % of 2.50 is 0.01, exactly
        (2.504, (249, 252)),  # 2.493984 down, 2.514016 up
        (5.00, (498, 502)),  # 4.98 and 5.02, exactly
        (0.015, (1, 2)),  # 0.010 and 0.020, exactly
        (0.003, (0, 1)),  # below nothing there is no bid
        (0.0, (0, 1)),
    ],
)
def test_bids_round_down_and_asks_round_up(mid: float, cents: tuple[int, int]) -> None:
    assert bid_ask_cents(mid, PAPER) == cents


# --- time ---------------------------------------------------------------------------------------------------------


def test_time_is_minutes_and_nights_by_their_shares() -> None:
    assert years_to_expiry(0, MONDAY, ()) == pytest.approx(0.54 / 252)
    assert years_to_expiry(0, MONDAY, (TUESDAY,)) == pytest.approx((0.54 + 0.46 + 0.54) / 252)
    assert years_to_expiry(130 * MINUTE, MONDAY, (TUESDAY,)) == pytest.approx((0.36 + 0.46 + 0.54) / 252)


def test_a_half_day_counts_its_210_minutes() -> None:
    half = 0.54 * 210 / 390
    assert years_to_expiry(0, MONDAY, (TUESDAY, HALF_DAY)) == pytest.approx((0.54 + 0.92 + 0.54 + half) / 252)
    assert years_to_expiry(HALF_DAY.open_ns + 105 * MINUTE, HALF_DAY, ()) == pytest.approx(half / 2 / 252)


def test_before_the_open_the_whole_session_counts_and_after_the_close_nothing() -> None:
    assert open_time_left_ns(-5, MONDAY) == 390 * MINUTE
    assert open_time_left_ns(400 * MINUTE, MONDAY) == 0
    assert years_to_expiry(400 * MINUTE, MONDAY, (TUESDAY,)) == pytest.approx(1.0 / 252)


# --- volatility and the market of a session -----------------------------------------------------------------------


def test_volatility_is_the_deviation_of_twenty_returns_with_the_premium() -> None:
    closes = [500 * math.exp(0.01 * math.sin(i)) for i in range(25)]
    returns = [math.log(after / before) for before, after in pairwise(closes[4:])]
    assert len(returns) == 20
    assert session_volatility(closes, PAPER) == pytest.approx(stdev(returns) * math.sqrt(252) * 1.25)


def test_a_calm_market_has_the_floor_and_a_short_history_has_no_volatility() -> None:
    assert session_volatility([500.0] * 21, PAPER) == 0.08
    assert session_volatility([500.0] * 20, PAPER) is None
    assert session_market(MONDAY, (TUESDAY,), [500.0] * 20, PAPER) is None


def test_a_session_market_lists_dates_by_trading_days_and_whole_dollars() -> None:
    market = session_market(MONDAY, (TUESDAY, HALF_DAY), [500.0] * 20 + [500.5], PAPER)
    assert market is not None
    assert market.listed_expiries(1, 5) == ("2024-07-02", "2024-07-03")
    assert market.listed_expiries(0, 1) == ("2024-07-01", "2024-07-02")
    assert list(market.listed_strikes(2)) == [499, 500, 501, 502, 503]  # 500.5 rounds to 501
    for date, after in (("2024-07-01", ()), ("2024-07-02", (TUESDAY,)), ("2024-07-03", (TUESDAY, HALF_DAY))):
        assert market.years(date, 7 * MINUTE) == years_to_expiry(7 * MINUTE, MONDAY, after)
    assert market.years("2024-07-05", 0) is None
    assert market.cents("SPY240705C00500000", 500.0, 0, PAPER) is None


def test_no_strike_below_one_dollar_is_listed() -> None:
    market = session_market(MONDAY, (), [3.0] * 21, PAPER)
    assert market is not None
    assert list(market.listed_strikes(5)) == [1, 2, 3, 4, 5, 6, 7, 8]


# --- symbols ------------------------------------------------------------------------------------------------------


def test_occ_symbols_are_written_and_read() -> None:
    assert occ_symbol("SPY", "2024-08-16", 1, Decimal(530)) == "SPY240816C00530000"
    assert occ_symbol("SPY", "2024-08-16", -1, Decimal("530.5")) == "SPY240816P00530500"
    assert parse_occ("SPY240816P00530500") == OccContract("SPY", "2024-08-16", -1, Decimal("530.5"))
    assert option_terms("SPY240816P00530500") == (530.5, -1, "2024-08-16")
    assert option_terms("SPY") == (0.0, 0, "")


@pytest.mark.parametrize(
    "symbol",
    [
        "",
        "SPY",
        "XOM2241220P00280000",
        "SPY241332C00500000",
        "SPY240816X00500000",
        "SPY240816C00000000",
        "SPY240816C0050000",
    ],
)
def test_odd_symbols_are_none(symbol: str) -> None:
    assert parse_occ(symbol) is None


@pytest.mark.parametrize(
    ("root", "expiry", "strike"),
    [
        ("spy", "2024-08-16", "530"),
        ("SPY", "2024-13-16", "530"),
        ("SPY", "2024-08-16", "0.0005"),
        ("SPY", "2024-08-16", "0"),
    ],
)
def test_what_a_symbol_cannot_hold_is_refused(root: str, expiry: str, strike: str) -> None:
    with pytest.raises(ValueError, match="occ_symbol: found root"):
        occ_symbol(root, expiry, 1, Decimal(strike))


# --- no free money ------------------------------------------------------------------------------------------------

HOLD_MIN = 30
ESTIMATE_MIN = 60


def straddle_returns(walk: Float64Array, fixed: bool) -> tuple[Float64Array, Float64Array]:
    """(return after spread and fees, recent volatility) of straddles that expire next session, bought every half hour.

    `walk`: log prices (sessions, 391), the close of each minute after the open's. The market's volatility is fixed at
    the open from 20 earlier closes, or a rolling estimate over the last hour: the mistake this test is there to find.
    """
    paper = Paper(volatility_premium=1.0, volatility_floor=1e-6)
    sessions = walk.shape[0] - 21
    rolling = walk[21:] - walk[21:, :1]
    squares = np.cumsum(np.diff(rolling, axis=1, prepend=0.0) ** 2, axis=1)
    entries = np.arange(ESTIMATE_MIN, 391 - HOLD_MIN, HOLD_MIN, dtype=np.int64)
    recent = np.sqrt((squares[:, ESTIMATE_MIN:] - squares[:, :-ESTIMATE_MIN]) / ESTIMATE_MIN * 390 / 0.54 * 252)
    opening = np.array([session_volatility(np.exp(walk[i : i + 21, -1]).tolist(), paper) for i in range(sessions)])

    def quote(minutes: Int64Array) -> tuple[Float64Array, Float64Array]:
        strikes = np.round(np.exp(walk[21:, entries]))
        years = np.array([variance_years((780 - int(minute)) * MINUTE, 1) for minute in minutes])
        volatility = opening[:, None] if fixed else recent[:, minutes - ESTIMATE_MIN]
        bids, asks = np.zeros(strikes.shape), np.zeros(strikes.shape)
        for right in (1, -1):
            bid, ask = bid_ask_cents_array(
                price_array(np.exp(walk[21:, minutes]), strikes, years, volatility, right), paper
            )
            bids, asks = bids + bid, asks + ask
        return bids, asks

    cost = quote(entries)[1]
    proceeds = quote(entries + HOLD_MIN)[0]
    fee_cents = 4 * 5 / 100  # two contracts bought and sold at about 5 cents each, a share
    returns = (proceeds - cost - fee_cents) / cost
    return returns.ravel(), recent[:, entries - ESTIMATE_MIN].ravel()


def quintile_means(walk: Float64Array, fixed: bool) -> list[float]:
    returns, recent = straddle_returns(walk, fixed)
    parts = np.array_split(returns[np.argsort(recent, kind="stable")], 5)
    return [float(part.mean()) for part in parts]


@pytest.fixture(scope="module")
def random_walk() -> Float64Array:
    """Log prices (1521 sessions, open and 390 closes): no drift, 16 % a year, nights and minutes by their shares."""
    rng = np.random.default_rng(20240701)
    daily = 0.16 / math.sqrt(252)
    steps = rng.normal(0.0, daily * math.sqrt(0.54 / 390), (1521, 391))
    steps[:, 0] = rng.normal(0.0, daily * math.sqrt(0.46), 1521)
    return math.log(500.0) + np.cumsum(steps.ravel()).reshape(1521, 391)


def test_on_a_random_walk_no_quintile_of_recent_volatility_earns_anything_after_costs(
    random_walk: Float64Array,
) -> None:
    assert max(quintile_means(random_walk, fixed=True)) < 0.0


def test_a_market_that_re_estimated_its_volatility_within_the_session_would_hand_out_money(
    random_walk: Float64Array,
) -> None:
    means = quintile_means(random_walk, fixed=False)
    assert means[0] > 0.02
    assert means[0] > means[-1] + 0.04


# --- recorded markets ---------------------------------------------------------------------------------------------


def test_the_half_spread_is_that_of_recorded_chains_near_the_money(data_dir: Path) -> None:
    """Medians by snapshot and expiry, 1 to 7 days, strikes within 0.5 % of the underlying: 0.25 to 0.42 %."""
    rows = pq.read_table(data_dir / "spy_option_chain_snapshots_2026Feb.parquet").to_pylist()
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        days = (row["expiration"] - row["approx_quote_time"].date()).days
        if 1 <= days <= 7 and row["bid"] > 0 and abs(row["strike"] / row["underlying"] - 1) <= 0.005:
            half = (row["ask"] - row["bid"]) / (row["ask"] + row["bid"])
            groups.setdefault((row["snapshot_id"], days), []).append(half)
    medians = [median(group) for group in groups.values()]
    assert len(medians) == 8
    assert all(0.0024 < value < 0.0043 for value in medians)
    assert min(medians) < PAPER.half_spread < max(medians)


def test_the_premium_lies_below_the_recorded_median_of_vix_over_realised(data_dir: Path) -> None:
    bars = pq.read_table(data_dir / "etf_daily_2010_2022.parquet").to_pylist()
    spy = [(row["date"], row["close"]) for row in bars if row["symbol"] == "SPY"]
    vix = {row["date"]: row["close"] for row in pq.read_table(data_dir / "vix_daily_2010_2022.parquet").to_pylist()}
    bare = Paper(volatility_premium=1.0, volatility_floor=1e-6)
    ratios = []
    for last in range(20, len(spy)):
        realised = session_volatility([close for _, close in spy[last - 20 : last + 1]], bare)
        assert realised is not None
        ratios.append(vix[spy[last][0]] / 100 / realised)
    assert median(ratios) == pytest.approx(1.34, abs=0.01)
    assert 1.0 < PAPER.volatility_premium < median(ratios)
